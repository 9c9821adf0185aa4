"""Measurements of this machine: `python -m matfl.bench train|server|data|flower|edges [options]`.

Each compares what matfl does with a straightforward way of doing the same in the same run, and prints the ratios: they
say more than seconds, which depend on the machine and on whatever else it does.
"""

from matfl.bench.record import Speed, machine, race, save

__all__ = ["BENCHES", "Speed", "machine", "race", "save"]

BENCHES = {
    "train": "images a second of local training, against the loops one would write first",
    "server": "similarity, votes and mixing of all clients' updates, against loops over pairs of clients",
    "data": "rendering, augmentation and reading the cache, against one image at a time",
    "flower": "bytes on the wire, processor time and memory of a federation's server, against the numbers sent",
    "edges": "ODS-F of one image at every threshold, against matching each threshold anew",
}
"""Module of this package -> what it measures. Each has `main(argv) -> exit code` and `--json FILE`."""
