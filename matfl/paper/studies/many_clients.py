"""Many clients: what the server's step takes for up to 10 000 of them, and how well grouping from sketches does.

Made-up updates with a planted task structure are streamed: each client's is made when it is needed and never kept, so
memory is that of the server's step alone.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from matfl.core.processes import child_of_this
from matfl.paper.claims import AtLeast, Below, Claim, Part, Within
from matfl.paper.stats import estimate, exact
from matfl.paper.studies.base import Plan, report_seeds, sizes
from matfl.paper.studies.signals import Signals, frame
from matfl.paper.studies.store import Arrays, Record
from matfl.paper.studies.trials import trial
from matfl.server.grouping import cosine, friends, similarity_weights, votes
from matfl.server.hierarchy import factors
from matfl.server.layout import Layout
from matfl.server.many import Crowd, Groups, Sums, exact_groups, nearest_groups, shares
from matfl.server.sketches import Sketcher

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LENGTH", "SECONDS", "Crowds", "Planted", "claims", "cost", "fidelity", "measure", "plan", "slopes"]

CLIENTS = (18, 100, 300, 1000, 3000, 10_000)
EXACT_BYTES = 1 << 30
"""Updates that exact grouping may hold."""
LENGTH = 64
TASKS, K = 9, 8
_NOISE = 2.0
"""Length of a client's own part of its update in lengths of its task's: partners' cosines are 0.2, as in a run's first
rounds."""


@dataclass(frozen=True)
class Planted:
    """Clients whose updates are a direction of their task plus their own noise, made when they are asked for."""

    layout: Layout
    tasks: int
    seed: int = 0

    def task(self, client: int) -> int:
        """By turns."""
        return client % self.tasks

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        directions = torch.randn(self.tasks, self.layout.P, generator=draw)
        pool = torch.randn(4 * self.layout.P, generator=draw)
        object.__setattr__(self, "_parts", (directions, pool))

    def update(self, client: int) -> Tensor:
        """(P,) of a client; its noise is a stretch of one long row, which starts elsewhere for each."""
        directions, pool = self._parts  # type: ignore[attr-defined]
        first = int(np.random.default_rng([self.seed, client]).integers(0, 3 * self.layout.P))
        return torch.add(directions[self.task(client)], pool[first : first + self.layout.P], alpha=_NOISE)


def layout_of(parameters: int) -> Layout:
    """So many parameters, of which seven eighths are eight voting layers, as in ResNet18."""
    each = parameters * 7 // 64
    shapes = {f"layer{i}": torch.zeros(each) for i in range(8)} | {"rest": torch.zeros(parameters - 8 * each)}
    return Layout.of(shapes, parameters=list(shapes), voting=list(shapes)[:8])


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) / 1e3 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(clients: int, parameters: int, ways: Sequence[str]) -> dict[str, Any]:
    """Processor seconds of the parts of a step, bytes held, and how well tasks were found; in a process of its own.

    Ways: 'exact' (whole updates held and compared), 'sketches' (block by block), 'nearest' (a graph of neighbours).
    """
    from joblib.externals.loky import ProcessPoolExecutor  # the standard one cannot start from within a loky worker

    with ProcessPoolExecutor(1, **child_of_this()) as pool:
        return pool.submit(_measure, clients, parameters, tuple(ways)).result()


def _measure(clients: int, parameters: int, ways: tuple[str, ...]) -> dict[str, Any]:
    torch.set_num_threads(1)
    layout = layout_of(parameters)
    made = Planted(layout, TASKS)
    tasks, owners = [made.task(client) for client in range(clients)], list(range(TASKS))
    row: dict[str, Any] = {"clients": clients, "parameters": parameters}
    warm = Crowd(layout, Sketcher(length=LENGTH))
    warm.add(0, made.update(0))  # hashes are made once
    before = _peak_mb()
    crowd, spent = Crowd(layout, Sketcher(length=LENGTH)), 0.0
    for client in range(clients):
        update_P = made.update(client)
        began = time.process_time()
        crowd.add(client, update_P)
        spent += time.process_time() - began
    row["sketch_s"] = spent
    sketches_LNd = crowd.sketches()
    found: dict[str, Groups] = {}
    for way, group in (("sketches", exact_groups), ("nearest", nearest_groups)):
        if way in ways:
            began = time.process_time()
            found[way] = group(sketches_LNd, min(K, clients))
            row[f"{way}_s"] = time.process_time() - began
    groups = next(iter(found.values()))
    weights_CN = shares(groups, tasks, owners)
    sums, spent = Sums(weights_CN), 0.0
    for client in range(clients):
        update_P = made.update(client)
        began = time.process_time()
        sums.add(client, update_P)
        spent += time.process_time() - began
    step_CP = sums.total()
    row |= {"mix_s": spent, "additions": factors(weights_CN).additions / clients}
    row |= {f"right_{way}": _right(groups_of, tasks) for way, groups_of in found.items()}
    if len(found) == 2:
        row["recall"] = _overlap(found["sketches"], found["nearest"])
    row["peak_mb"] = _peak_mb() - before
    began = time.process_time()
    dense_CN = torch.from_numpy(weights_CN.toarray()).float()
    some = torch.stack([made.update(client) for client in range(min(64, clients))])
    began = time.process_time()
    _ = dense_CN[:, : len(some)] @ some
    row["dense_mix_s"] = (time.process_time() - began) * clients / len(some)
    if "exact" in ways:
        row |= _exact(made, tasks, clients, groups, step_CP)
    return row


def _exact(made: Planted, tasks: list[int], clients: int, sketched: Groups, step_CP: Tensor) -> dict[str, Any]:
    """The step that holds all updates and compares them whole."""
    rows_NP = torch.stack([made.update(client) for client in range(clients)])
    began = time.process_time()
    grams = []
    for name in made.layout.voting:
        slot = made.layout.parameters[name]
        block_NK = rows_NP[:, slot.start : slot.stop]
        grams.append((block_NK @ block_NK.T).double())
    similar_LNN = cosine(torch.stack(grams))
    k = min(K, clients)
    chosen_NN = friends(votes(similar_LNN, k), k, similarity=similar_LNN)
    weights_NN = similarity_weights(similar_LNN, chosen_NN)
    spent = time.process_time() - began
    friends_NK = chosen_NN.nonzero()[:, 1].view(clients, k)
    exactly = Groups(friends_NK, weights_NN.gather(1, friends_NK).float())
    return {"exact_s": spent, "right_exact": _right(exactly, tasks), "friends_kept": _overlap(exactly, sketched)}


def _right(groups: Groups, tasks: Sequence[int]) -> float:
    """Clients of its own task among a client's friends, over as many as there could be."""
    task_N = torch.tensor(tasks)
    n, k = groups.friends_NK.shape
    own_NK = groups.friends_NK == torch.arange(n)[:, None]
    same_NK = (task_N[groups.friends_NK] == task_N[:, None]) & ~own_NK
    possible_N = (task_N.bincount()[task_N] - 1).clamp(max=k - 1)
    return float(same_NK.sum() / possible_N.sum().clamp(min=1))


def _overlap(first: Groups, second: Groups) -> float:
    """Share of the first's friends that are the second's."""
    pairs = (first.friends_NK[:, :, None] == second.friends_NK[:, None, :]).any(2)
    return float(pairs.double().mean())


@dataclass(frozen=True, kw_only=True)
class Crowds:
    """The server's step over made-up clients, one unit for each number of them."""

    clients: tuple[int, ...]
    parameters: int = 100_000
    kind = "crowds"
    alone = False
    """Processor time is what is measured, which other work hardly moves."""

    def spec(self) -> dict[str, Any]:
        """Everything that decides what is measured."""
        return {"clients": list(self.clients), "parameters": self.parameters, "length": LENGTH, "k": K, "tasks": TASKS}

    def units(self) -> tuple[str, ...]:
        """By number of clients."""
        return tuple(f"{n:06d}" for n in self.clients)

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """`measure` of so many clients; exact grouping where their updates fit into `EXACT_BYTES`."""
        clients = int(unit)
        fits = 4 * clients * self.parameters <= EXACT_BYTES
        ways = [*(["exact"] if fits else []), "sketches", "nearest"]
        return measure(clients, self.parameters, ways), {}

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """All rows."""
        return {"rows": [values for values, _ in parts]}, {}


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """What the updates of some rounds of each seed's run tell, and the step over made-up clients."""
    size = sizes(preset)
    signals = []
    for seed in report_seeds(seeds or size.signal_seeds):
        config = trial(preset, settings, seed=seed, method="matfl")
        chosen = sorted({1, max(1, config.rounds - 1), config.rounds})
        signals.append(Signals(config=config, rounds=tuple(chosen)))
    few = CLIENTS[: 3 if size.trial_rounds <= 2 else len(CLIENTS)]
    return Plan(jobs=(*signals, Crowds(clients=few)))


def cost(records: Sequence[Record]) -> pd.DataFrame:
    """The `crowds` record as a table, a row a number of clients."""
    import pandas as pd

    (record,) = (record for record in records if record.path.name.startswith("crowds"))
    return pd.DataFrame(record.values["rows"])


SECONDS = {
    "exact_s": "exact: compare whole updates",
    "sketch_s": "sketch all updates",
    "sketches_s": "compare sketches, block by block",
    "nearest_s": "nearest neighbours of sketches",
    "mix_s": "mix, each update once",
    "dense_mix_s": "mix, C times",
}
"""Columns of `cost` in words."""


def slopes(table: pd.DataFrame, *, to: int = 1_000_000) -> pd.DataFrame:
    """Growth of each part with the number of clients, and what it would take for `to` of them on paper.

    A row a part: slope (of the logarithms, over the upper half of the sizes), seconds at the most clients measured,
    seconds at `to`. Bytes likewise: of sketches and of whole updates they follow from their form.
    """
    import pandas as pd

    rows = []
    for column, name in SECONDS.items():
        known = table[["clients", column]].dropna() if column in table else table[["clients"]].iloc[:0]
        known = known[known["clients"] >= 100] if (known["clients"] >= 100).sum() >= 2 else known
        if len(known) < 2:
            continue
        last = known.iloc[-3:]
        slope = float(np.polyfit(np.log(last["clients"]), np.log(last[column].clip(lower=1e-4)), 1)[0])
        most = known.iloc[-1]
        rows.append(
            {
                "part": name,
                "slope": slope,
                "measured up to": int(most["clients"]),
                "seconds there": float(most[column]),
                "seconds at a million": float(most[column] * (to / most["clients"]) ** slope),
            }
        )
    return pd.DataFrame(rows).set_index("part")


def fidelity(records: Sequence[Record]) -> pd.DataFrame:
    """Sketches beside whole updates by length, a row a (length, seed), averaged over rounds and hashes."""
    found = frame([r for r in records if r.path.name.startswith("signals")], "sketches")
    return found.groupby(["length", "seed"]).mean().drop(columns=["round", "hash"]).reset_index()


def _by_round(records: Sequence[Record]) -> str:
    """Shares of partners among friends, from sketches of `LENGTH` and from whole updates."""
    found = frame([r for r in records if r.path.name.startswith("signals")], "sketches")
    means = found[found["length"] == LENGTH].groupby("round")[["partners", "partners_exact"]].mean()
    return ", ".join(
        f"{own:.2f} and {whole:.2f} in {number}"
        for number, own, whole in zip(means.index, means["partners"], means["partners_exact"])
    )


def claims(records: Sequence[Record]) -> list[Claim]:
    """What sketches keep and what the step takes."""
    found, table = fidelity(records), cost(records)
    at = found[found["length"] == LENGTH].sort_values("seed")
    longest = found[found["length"] == found["length"].max()].sort_values("seed")
    most = table.iloc[-1]
    grown = slopes(table)
    return [
        Claim.of(
            "The error of cosines from sketches is the theory's.",
            statistic="measured error over sqrt((1 + cos²) / d), minus 1, mean over lengths",
            value=estimate(found.assign(x=found["error"] / found["theory"] - 1).groupby("seed")["x"].mean()),
            rule=Within(0.1),
        ),
        Claim.of(
            f"{LENGTH} numbers a layer find a client's partners nearly as well as whole updates do (within .1).",
            statistic="share of partners among friends, from sketches minus from whole updates",
            value=estimate(at["partners"] - at["partners_exact"]),
            rule=Within(0.1),
            note=f"From {int(longest['length'].iloc[0])} numbers {longest['partners'].mean():.2f}, from whole updates "
            f"{at['partners_exact'].mean():.2f}. By round: {_by_round(records)}.",
        ),
        Claim.of(
            f"The step of {int(most['clients'])} clients takes less than 1 GB above the interpreter.",
            statistic="peak memory in GB",
            value=exact(float(most["peak_mb"]) / 1e3),
            rule=Below(1.0),
            note=f"Their updates are {4 * most['clients'] * most['parameters'] / 1e9:.1f} GB.",
        ),
        Claim.of(
            "Each update is added about once, not once for each model.",
            statistic=f"additions of an update with {int(most['clients'])} clients, C = {TASKS}",
            value=exact(float(most["additions"])),
            rule=Below(2.0),
        ),
        Claim(
            text="Comparing sketches grows with the square of the clients; nearest neighbours grow more slowly.",
            parts=(
                Part(
                    statistic="slope of the block-by-block comparison",
                    value=exact(float(grown.loc[SECONDS["sketches_s"], "slope"])),
                    rule=AtLeast(1.7),
                ),
                Part(
                    statistic="slope of the nearest neighbours",
                    value=exact(float(grown.loc[SECONDS["nearest_s"], "slope"])),
                    rule=Below(1.7),
                ),
            ),
            note=f"Nearest neighbours find {most['recall']:.0%} of the friends that comparing all sketches finds; "
            f"{most['right_nearest']:.1%} of theirs have the client's task, and {most['right_sketches']:.1%} of those "
            "that comparing all finds.",
        ),
    ]
