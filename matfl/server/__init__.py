"""The server's side of a round: compare updates, let layers vote, mix (paper, section 3.4, Algorithm 1).

grouping.py      similarity (equation 5), votes, friends, similarity weights (equation 6)
aggregation.py   the methods as mixing weights, and the one step that applies any of them
server.py        a round: who trains, what is sent, what becomes of the replies
updates.py       the replies as rows of one matrix; files.py: the same from files; kernels.py: its products
"""
