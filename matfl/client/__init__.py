"""A client's side of a round: local training and evaluation (training.py)."""
