"""Every way to aggregate, one registry.

base.py       what a method is, what it sees of a round, the registry
baselines.py  no sharing, plain averaging, FedProx (paper, section 3.2)
paper.py      MaT-FL and its two steps alone (section 3.4)
authors.py    clustered and soft grouping
"""

from importlib import import_module

from matfl.server.methods.base import METHODS, Dispatch, Method, Result, Round, method, method_of, register
from matfl.server.mixing import Mixing

__all__ = ["METHODS", "Dispatch", "Method", "Mixing", "Result", "Round", "method", "method_of", "register"]

with METHODS.filling():
    for _module in ("baselines", "paper", "authors"):  # the order of tables
        import_module(f"{__name__}.{_module}")
