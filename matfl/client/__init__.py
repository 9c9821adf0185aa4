"""A client's side of a round.

training.py   local training and evaluation of one model
objective.py  the loss that its steps follow: of one task, or of several
local.py      what a method's part on a client is built of
"""
