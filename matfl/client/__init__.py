"""A client's side of a round.

training.py  local training and evaluation of one model
local.py     what a method's part on a client is built of
"""
