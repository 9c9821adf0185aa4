"""What everything else stands on and what knows nothing of federated learning.

streams.py   random streams derived from names
"""
