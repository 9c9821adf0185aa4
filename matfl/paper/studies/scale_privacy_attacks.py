"""Many clients, private clients, hostile clients: does grouping survive, and what does it cost?

The parts have modules of their own: `many_clients`, `packed`, `private`, `hostile`, `absent`; all but the first train
short runs (`trials`), and `signals` looks at the real updates of some of their rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.claims import Above, Below, Claim, Part
from matfl.paper.stats import Estimate, estimate, holm_adjusted
from matfl.paper.studies import absent, hostile, many_clients, packed, private
from matfl.paper.studies.base import Plan
from matfl.paper.studies.session import merged
from matfl.paper.studies.signals import frame
from matfl.paper.studies.store import Record

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = [
    "PARTS",
    "absent",
    "away",
    "claims",
    "given",
    "hostile",
    "many_clients",
    "packed",
    "parts",
    "plan",
    "private",
    "signals",
]

PARTS = {"hostile": hostile.plan, "packed": packed.plan, "private": private.plan, "absent": absent.plan}
"""Part -> the plan of its runs."""


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """What all parts need; runs that several of them draw are there once."""
    chosen = [many_clients.plan, *PARTS.values()]
    return merged([part(preset, seeds=seeds, settings=settings) for part in chosen])


def parts(runs: Sequence[Run], preset: str, *, seeds: int = 0, settings: str = "") -> dict[str, list[Run]]:
    """Part -> its runs among `runs`."""
    wanted = {name: set(make(preset, seeds=seeds, settings=settings).configs) for name, make in PARTS.items()}
    return {name: [run for run in runs if run.config in configs] for name, configs in wanted.items()}


def signals(records: Sequence[Record]) -> list[Record]:
    """Those of the records that hold what real updates tell."""
    return [record for record in records if record.path.name.startswith("signals")]


def given(records: Sequence[Record], value: str, *, attackers: int = 4) -> pd.DataFrame:
    """Attack (rows) by defence: a column of the table 'attacks' of `signals`, averaged over draws and seeds."""
    found = frame(signals(records), "attacks")
    found = found[found["attackers"] == attackers]
    table = found.pivot_table(index="attack", columns="defence", values=value, sort=False)
    return table.rename_axis(index=None, columns=None)


def away(records: Sequence[Record]) -> pd.DataFrame:
    """Where weights go when clients are away or late, a row a case, averaged over rounds, draws and seeds."""
    found = frame(signals(records), "absent").drop(columns=["draw", "round", "seed"])
    return found.groupby("case", sort=False).mean()


def claims(runs: dict[str, list[Run]], records: Sequence[Record]) -> list[Claim]:
    """Those of all parts."""
    told = signals(records)
    return [
        *many_clients.claims(records),
        *packed.claims(runs["packed"]),
        *private.claims(runs["private"], told),
        *hostile.claims(runs["hostile"]),
        *_astray_claims(told),
        *absent.claims(runs["absent"], told),
    ]


def _astray_claims(records: Sequence[Record]) -> list[Claim]:
    """What attacks do to a step of real updates."""
    found = frame(records, "attacks")
    by_seed = found.groupby(["attackers", "defence", "attack", "seed"])[["astray_others", "weight"]].mean()

    def away(defence: str, attack: str) -> pd.Series[float]:
        return by_seed.loc[(4, defence, attack), "astray_others"].sort_index()

    def more(*attacks: str) -> dict[str, Estimate]:
        return holm_adjusted({kind: estimate(away("matfl", kind) - away("fedavg", kind)) for kind in attacks})

    words = "distance from the defence's own step by the honest alone, in lengths of it"
    where = f"real updates of the last round that was looked at, {hostile.ATTACKERS} hostile clients, {hostile.LENGTH}"
    one = by_seed.loc[(1, "matfl", "votes"), "weight"]
    share = float(by_seed.loc[(1, "fedavg", "votes"), "weight"].mean())
    return [
        Claim(
            text="Against attacks that look like nobody, MaT-FL leads tasks without an attacker less astray than plain "
            "averaging.",
            parts=tuple(
                Part(statistic=f"{kind}: {words}, MaT-FL minus plain", value=value, rule=Below(0))
                for kind, value in more("flip", "scale", "noise", "replace").items()
            ),
            regime=where,
        ),
        Claim(
            text="Against attacks that look like everybody, MaT-FL leads tasks without an attacker further astray than "
            "plain averaging.",
            parts=tuple(
                Part(statistic=f"{kind}: {words}, MaT-FL minus plain", value=value, rule=Above(0))
                for kind, value in more("copy", "votes").items()
            ),
            regime=where,
        ),
        Claim(
            text="Norm clipping bounds what such attacks do to MaT-FL's step of tasks without an attacker by the "
            "step's own length.",
            parts=tuple(
                Part(
                    statistic=f"{kind}: {words}, MaT-FL with clip_norm=1",
                    value=estimate(away("matfl, clipped", kind).to_numpy()),
                    rule=Below(1),
                    digits=4,
                )
                for kind in ("copy", "votes")
            ),
            regime=where,
        ),
        Claim(
            text="A single client that aims at the votes takes more weight than its share of the clients.",
            parts=(
                Part(
                    statistic=f"weight that an honest client gives it, minus {share:.3f}",
                    value=estimate(one.to_numpy() - share),
                    rule=Above(0),
                    digits=3,
                ),
            ),
            regime="real updates of the last round that was looked at",
        ),
    ]
