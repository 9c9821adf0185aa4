"""What everything else stands on and what knows nothing of federated learning.

streams.py   random streams derived from names
registry.py  named things that plug-ins can add to
records.py   the rows that runs are recorded in
"""
