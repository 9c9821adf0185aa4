"""Every way to aggregate, one registry.

base.py             what a method is, what it sees of a round, the registry
baselines.py        no sharing, plain averaging, FedProx (paper, section 3.2)
paper.py            MaT-FL and its two steps alone (section 3.4)
variants.py         beyond the paper: MaT-FL by stages, own weight, tasks or measured gain
sketched.py         MaT-FL by sketches that clients make, and may noise, themselves
authors.py          the two groupings that the authors published as code
grouped_updates.py  clusters and soft groups of updates
affinity.py         TAG and MAS: groups of tasks by look-ahead
ifca.py             IFCA: backbones that clients choose
conflict.py         PCGrad and CAGrad
fedhca2.py          FedHCA2
steps.py            FedNova and GradNorm: how far clients went
scaffold.py         SCAFFOLD
attention.py        FedAMP in its two forms
fomo.py             FedFomo
personal.py         Ditto, FedPer, FedRep
robust.py           median, trimmed mean, Krum: against hostile clients
"""

from importlib import import_module

from matfl.server.methods.base import METHODS, Dispatch, Method, Result, Round, method, method_of, register
from matfl.server.mixing import Mixing

__all__ = ["METHODS", "Dispatch", "Method", "Mixing", "Result", "Round", "method", "method_of", "register"]

_IN_ORDER_OF_TABLES = (
    "baselines",
    "paper",
    "variants",
    "sketched",
    "authors",
    "grouped_updates",
    "affinity",
    "ifca",
    "conflict",
    "fedhca2",
    "steps",
    "scaffold",
    "attention",
    "fomo",
    "personal",
    "robust",
)
with METHODS.filling():
    for _module in _IN_ORDER_OF_TABLES:
        import_module(f"{__name__}.{_module}")
