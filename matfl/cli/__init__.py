"""The command `matfl` (main.py) and what it prints (report.py)."""
