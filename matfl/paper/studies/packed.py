"""Fewer bytes: what packing updates does to grouping and to quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matfl.config.run_config import RunConfig
from matfl.paper.claims import Claim, Within
from matfl.paper.stats import estimate
from matfl.paper.studies import diagnostics
from matfl.paper.studies.base import Plan, regime
from matfl.paper.studies.grouping_frequency import client_pairs
from matfl.paper.studies.trials import gain, trial, trial_seeds

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = ["PACKINGS", "claims", "packing", "plan", "table"]

PACKINGS: Mapping[str, Mapping[str, Any]] = {
    "float32": {},
    "bf16": {"codec": "bf16"},
    "int8": {"codec": "int8"},
    "top 10 %": {"codec": "topk", "codec_share": 0.1},
    "top 1 %": {"codec": "topk", "codec_share": 0.01},
}
"""How MaT-FL's updates travel, by the name in tables; int8 and top-k with error feedback."""


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """MaT-FL with each packing."""
    return Plan(
        configs=tuple(
            trial(preset, settings, seed=seed, method="matfl", **changes)
            for seed in trial_seeds(preset, seeds)
            for changes in PACKINGS.values()
        )
    )


def packing(config: RunConfig) -> str:
    """The run's name in `PACKINGS`."""
    for name, changes in PACKINGS.items():
        if config.codec == changes.get("codec", "none") and config.codec_share == changes.get("codec_share", 0.01):
            return name
    return f"{config.codec} {config.codec_share:g}"


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run of `plan`: packing, seed, megabytes (up, a client and round), delta_m (%) against float32, partners
    (share of partners among friends), change (mean L1 change of a client's weights against float32 in round 1, where
    both start from the same models)."""
    import pandas as pd

    plain = {run.config.seed: run for run in runs if run.config.codec == "none"}
    rows = []
    for run in runs:
        stored, reference = run.diagnostics, plain[run.config.seed]
        weights_NN, its_NN = (other.diagnostics["weights"][0].astype(float) for other in (run, reference))
        same_NN = diagnostics.same_task(client_pairs(run))
        sent = sum(row["bytes_up"] for row in run.rounds) / (len(run.rounds) * run.config.num_clients)
        rows.append(
            {
                "packing": packing(run.config),
                "seed": run.config.seed,
                "megabytes": sent / 1e6,
                "delta_m": gain(run, reference),
                "partners": float(diagnostics.correctness(stored["friends"], same_NN, stored["participants"]).mean()),
                "change": float(abs(weights_NN - its_NN).sum(1).mean()),
            }
        )
    return pd.DataFrame(rows)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """What the bytes cost."""
    found = table(runs)
    sizes = found.groupby("packing")["megabytes"].mean()

    def change(name: str, column: str) -> Any:
        return estimate(found[found["packing"] == name].sort_values("seed")[column])

    where = regime(runs[0].config)
    return [
        Claim.of(
            "A quarter of the bytes (int8) changes a client's weights in round 1 by less than .05.",
            statistic="mean change (L1) of a client's weights in round 1",
            value=change("int8", "change"),
            rule=Within(0.05),
            digits=3,
            note=f"{sizes['float32']:.2f} MB a client and round in float32, {sizes['int8']:.2f} in int8; the most "
            "that two rows can differ by is 2.",
            regime=where,
        ),
        Claim.of(
            "A hundredth of the numbers (top 1 %) changes a client's weights in round 1 by less than .05.",
            statistic="mean change (L1) of a client's weights in round 1",
            value=change("top 1 %", "change"),
            rule=Within(0.05),
            digits=3,
            regime=where,
        ),
        Claim.of(
            "int8 with error feedback changes quality by less than 2 %.",
            statistic="delta_m against float32, in percent",
            value=change("int8", "delta_m"),
            rule=Within(2.0),
            digits=1,
            regime=where,
        ),
    ]
