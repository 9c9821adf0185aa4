"""The paper's tables and figures: studies, plots, and the driver that executes the notebooks (reproduce.py)."""
