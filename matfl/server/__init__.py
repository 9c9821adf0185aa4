"""The server's side of a round: compare updates, let layers vote, mix (paper, section 3.4, Algorithm 1).

grouping.py      similarity (equation 5), votes, friends, similarity weights (equation 6)
methods/         every method as mixing weights: base.py says what a method is, paper.py has the paper's
mixing.py        the one step that applies any of them
optimizers.py    the server's step: FedAvgM, FedAdam, FedYogi, for any method
models.py        the server's models
server.py        a run's fixed part: who trains, what is sent; collection.py: a round's replies; state.py: what passes
hierarchy.py     mixing as sums of sums; many.py: grouping and mixing of very many clients, nothing of size N x N
screening.py     which replies can be mixed; attacks.py: simulated hostile clients, to try methods against
updates.py       the replies as rows of one matrix; layout.py: the order of its columns
sketches.py      updates as short sketches; codecs.py: as fewer bytes; privacy.py: with noise, and what that is worth
spool.py         replies that go to files; files.py: the same matrix from files
kernels.py       products of that matrix; compiled.py: their loops on processors
"""
