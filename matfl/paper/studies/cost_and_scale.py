"""What it costs: bytes to reach a quality, the server's step and its memory over N, training throughput."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.bench.record import busy
from matfl.config.run_config import override
from matfl.paper.claims import AtLeast, Below, Claim, Part, Within
from matfl.paper.stats import estimate, exact
from matfl.paper.studies.base import (
    BASELINES,
    MARGIN,
    Plan,
    base_config,
    chosen_methods,
    own_parameters,
    report_seeds,
    setting,
    sizes,
)
from matfl.paper.studies.benches import ServerBench, TrainBench
from matfl.paper.studies.store import Record
from matfl.paper.studies.tables import final, scores
from matfl.runs.workspace import Workspace
from matfl.tasks.meters import delta_m

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = [
    "bytes_by_seed",
    "bytes_to",
    "claims",
    "fast_and_plain",
    "machines",
    "memory",
    "other_machines",
    "plan",
    "precision_gaps",
    "round_costs",
    "server_steps",
    "throughput",
    "traffic",
]


def plan(preset: str, *, seeds: int = 0, methods: str = "", settings: str = "") -> Plan:
    """The methods' runs on the preset's task set, the same as in `02_methods`, and this machine's benches.

    Where the preset leaves the precision to the device, single-task FL in float32 stands beside them.
    """
    size = sizes(preset)
    names = chosen_methods(methods, (*BASELINES, *size.variants))
    names = names if "single_task" in names else ("single_task", *names)
    base = base_config(preset, settings, methods=names)
    configs = tuple(
        setting(base, base.tasks, seed=seed, **{"method": name, **own_parameters(settings, name)})  # type: ignore[arg-type]
        for name in names
        for seed in report_seeds(seeds or size.seeds)
    )
    if base.precision == "auto":
        configs += tuple(override(config, precision="fp32") for config in configs if config.method == "single_task")
    if preset == "smoke":
        server = ServerBench(widths={8: (9, 18)}, naive=9, streamed=(18,))
        train = TrainBench(preset=preset, arguments=("--images", "10", "--seconds", "0.2", "--repeats", "1"))
    else:
        server = ServerBench(widths={16: (9, 18, 36, 72, 144, 288), 64: (18,)}, naive=72, streamed=(18, 72, 288))
        train = TrainBench(preset=preset, arguments=("--seconds", "2", "--repeats", "2"))
    return Plan(configs=configs, jobs=(server, train))


def fast_and_plain(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The methods' runs, and those in float32 that only `precision_gaps` compares (none where all are float32)."""
    automatic = any(run.config.precision == "auto" for run in runs)
    fast = [run for run in runs if not automatic or run.config.precision == "auto"]
    return fast, [run for run in runs if automatic and run.config.precision != "auto"]


def precision_gaps(runs: Sequence[Run], plain: Sequence[Run]) -> pd.DataFrame:
    """delta_m (percent) between finished single-task runs: columns seed, against, precision, comparison, delta_m.

    'same seed' is the precision that the device chose (column precision) against float32; 'other seed' is float32
    against float32 of another seed, which is how far chance alone moves a result.
    """
    import pandas as pd

    goal = {seed: _main_scores(group) for seed, group in final(plain).groupby("seed")} if plain else {}
    rows = []
    for run in runs:
        seed = run.config.seed
        if run.config.method == "single_task" and seed in goal:
            gap = delta_m(_main_scores(final([run])), goal[seed])
            rows.append(
                {
                    "seed": seed,
                    "against": seed,
                    "precision": run.provenance["precision"],
                    "comparison": "same seed",
                    "delta_m": gap,
                }
            )
            rows += [
                {
                    "seed": seed,
                    "against": other,
                    "precision": "float32",
                    "comparison": "other seed",
                    "delta_m": delta_m(goal[seed], goal[other]),
                }
                for other in goal
                if other != seed
            ]
    return pd.DataFrame(rows, columns=["seed", "against", "precision", "comparison", "delta_m"])


def _main_scores(frame: pd.DataFrame) -> dict[str, float]:
    return dict(zip(frame["pair"], frame["value"]))


def traffic(runs: Sequence[Run]) -> pd.DataFrame:
    """Quality over bytes: a row an evaluated round of each run, columns method, seed, round, gigabytes, delta_m.

    Gigabytes count both directions from round 1 on. delta_m is against the *last* round of single-task FL of the same
    seed, so a method that is at 0 has reached what single-task FL reaches in the end.
    """
    import pandas as pd

    frame = scores(runs)
    single = frame[frame["method"] == "single_task"]
    single = single[single["round"] == single["round"].max()]
    goal = {seed: _main_scores(group) for seed, group in single.groupby("seed")}
    sent = {
        (run.config.method, run.config.seed): np.cumsum([row["bytes_up"] + row["bytes_down"] for row in run.rounds])
        for run in runs
    }
    rows = []
    for (method, seed, number), group in frame.groupby(["method", "seed", "round"], sort=False):
        rows.append(
            {
                "method": method,
                "seed": seed,
                "round": number,
                "gigabytes": sent[method, seed][int(number) - 1] / 1e9,  # type: ignore[index, call-overload]
                "delta_m": delta_m(_main_scores(group), goal[seed]),
            }
        )
    return pd.DataFrame(rows)


def bytes_to(frame: pd.DataFrame, levels: Sequence[float] = (-10, -5, -2, -1)) -> pd.DataFrame:
    """Gigabytes sent until the seeds' mean delta_m first reaches each level (`traffic` frame), NaN where never.

    Between two evaluated rounds the mean is taken to grow evenly.
    """
    import pandas as pd

    rows = {}
    for method, group in frame.groupby("method", sort=False):
        means = group.groupby("round")[["gigabytes", "delta_m"]].mean()
        sent, quality = means["gigabytes"].to_numpy(), means["delta_m"].to_numpy()
        rows[method] = {f"{level:+g} %": _first_reached(sent, quality, level) for level in levels}
        rows[method]["last delta_m"] = quality[-1]
    return pd.DataFrame(rows).T.rename_axis("method")


def bytes_by_seed(frame: pd.DataFrame, levels: Sequence[float] = (-10, -5, -2, -1)) -> pd.DataFrame:
    """As `bytes_to`, for every seed by itself: columns level, method, seed, gigabytes. Methods that send nothing are
    left out."""
    import pandas as pd

    rows = []
    for (method, seed), group in frame.groupby(["method", "seed"], sort=False):
        ordered = group.sort_values("round")
        sent, quality = ordered["gigabytes"].to_numpy(), ordered["delta_m"].to_numpy()
        if sent[-1] > 0:
            rows += [
                {"level": level, "method": method, "seed": seed, "gigabytes": _first_reached(sent, quality, level)}
                for level in levels
            ]
    return pd.DataFrame(rows, columns=["level", "method", "seed", "gigabytes"])


def _first_reached(sent: np.ndarray, quality: np.ndarray, level: float) -> float:
    above = np.flatnonzero(quality >= level)
    if len(above) == 0:
        return float("nan")
    i = int(above[0])
    if i == 0:
        return float(sent[0])
    return float(np.interp(level, quality[i - 1 : i + 1], sent[i - 1 : i + 1]))


def round_costs(runs: Sequence[Run]) -> pd.DataFrame:
    """Means over rounds and seeds: megabytes each way per client, seconds of training and of all else per round.

    All else is the server's step and what the engine does around it, evaluation left out.
    """
    import pandas as pd

    rows = []
    for run in runs:
        n = run.config.num_clients
        rows.append(
            {
                "method": run.config.method,
                "MB up a client": np.mean([row["bytes_up"] for row in run.rounds]) / n / 1e6,
                "MB down a client": np.mean([row["bytes_down"] for row in run.rounds]) / n / 1e6,
                "training s": np.mean([row["seconds"]["train"] for row in run.rounds]),
                "all else s": np.mean([row["seconds"]["mix"] for row in run.rounds]),
            }
        )
    return pd.DataFrame(rows).groupby("method", sort=False).mean()


def machines(server: Record, train: Record) -> list[str]:
    """Where the benches ran: processor or GPU, cores, version, and how busy the machine was besides."""
    return [_where("server", server.values["rows"][0]), _where("training", train.values)]


def _where(title: str, record: dict[str, Any]) -> str:
    facts = record["machine"]
    named = facts if isinstance(facts, str) else f"{facts['device']}, {facts['processor']}, {facts['cores']} cores"
    facts = record if isinstance(facts, str) else facts
    load = facts.get("load")
    text = f"{title}: {named}, torch {facts['torch']}" + (f", load {load:.1f} at the time" if load is not None else "")
    if _was_busy(record):
        text += ": BUSY, so these times are no measurement of the machine"
    return text + ("" if record.get("floor_holds", True) else "; the floor was beaten and does not hold")


def server_steps(server: Record) -> pd.DataFrame:
    """Seconds of the step: columns width, parameters, clients, way (naive, ours, floor), seconds."""
    import pandas as pd

    rows = []
    for row in server.values["rows"]:
        if row["way"] != "step":
            continue
        for way, name in (("naive", "naive_s"), ("ours", "step_s"), ("floor", "floor_s")):
            if name in row:
                rows.append(
                    {
                        "width": row["width"],
                        "parameters": row["parameters"],
                        "clients": row["clients"],
                        "way": way,
                        "seconds": row[name],
                    }
                )
    return pd.DataFrame(rows)


def memory(server: Record) -> pd.DataFrame:
    """Gigabytes over clients: measured peak of the streamed step; all updates at once (4 N P bytes, computed)."""
    import pandas as pd

    rows = []
    for row in server.values["rows"]:
        if row["way"] == "stream":
            held = 4 * row["clients"] * row["parameters"] / 1e9
            rows += [
                {"clients": row["clients"], "way": "held", "gigabytes": held},
                {"clients": row["clients"], "way": "streamed", "gigabytes": row["peak_mb"] / 1e3},
            ]
    return pd.DataFrame(rows)


def throughput(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Training images a second of each loop: columns machine, preset, way, images_per_second, times, doubtful.

    `times` is matfl over this loop; `doubtful` says why a number is no measurement of the machine, '' where it is one.
    """
    import pandas as pd

    rows = []
    for record in records:
        where = record["machine"]
        named = where if isinstance(where, str) else where["processor"] if where["device"] == "cpu" else where["device"]
        speeds = {loop: found["images_per_second"] for loop, found in record["loops"].items()}
        rows += [
            {
                "machine": named,
                "preset": record["preset"],
                "way": loop,
                "images_per_second": speed,
                "times": speeds["matfl"] / speed,
                "doubtful": _doubt(record, loop, speeds),
            }
            for loop, speed in speeds.items()
        ]
    return pd.DataFrame(rows)


def _doubt(record: dict[str, Any], loop: str, speeds: dict[str, float]) -> str:
    """Why a loop's speed says little: a floor that another loop beats bounds nothing; other work took the time."""
    if loop == "floor" and speeds[loop] < max(speeds.values()):
        return "beaten: bounds nothing"
    return "machine busy" if _was_busy(record) else ""


def _was_busy(record: dict[str, Any]) -> bool:
    facts = record["machine"]
    facts = record if isinstance(facts, str) else facts
    return bool(facts.get("busy", "cores" in facts and facts["device"] == "cpu" and busy(facts)))


def other_machines(folder: Path | None = None) -> list[dict[str, Any]]:
    """Records of `python -m matfl.bench train --json` from other machines, in `figures/bench` of the checkout."""
    found = sorted((folder or Workspace().figures("bench")).glob("*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    return [record for record in records if record.get("bench") == "train"]


def claims(costs: pd.DataFrame, steps: pd.DataFrame, gaps: pd.DataFrame) -> list[Claim]:
    """What a round takes beside training, what a batched step saves, and whether fast arithmetic costs quality.

    The frames are those of `round_costs`, `server_steps` and `precision_gaps`.
    """
    result = []
    if "matfl" in costs.index:
        shares = costs["all else s"] / (costs["all else s"] + costs["training s"])
        small = Part(
            statistic="its share of training and all else together in the recorded runs, evaluation left out",
            value=exact(float(shares["matfl"])),
            rule=Below(0.05),
            digits=3,
        )
        others = shares.drop("matfl")
        result.append(
            Claim(
                text="All that MaT-FL's rounds take beside training every client on one core, the server's step among "
                "it, is less than a twentieth.",
                parts=(small,),
                note=f"That of other methods is {others.min():.3f} to {others.max():.3f}: most of it is not the "
                "server's step, which the next claim times alone."
                if len(others)
                else "",
            )
        )
    wide = steps.pivot_table(index=["width", "clients"], columns="way", values="seconds")
    if "naive" in wide:
        ratio, floor = (wide["naive"] / wide["ours"]).dropna(), wide["ours"] / wide["floor"]
        listed = ", ".join(f"{value:.0f} (width {width}, N = {n})" for (width, n), value in ratio.items())
        smallest = Part(
            statistic="seconds of the loop over seconds of ours, smallest over all sizes measured",
            value=exact(float(ratio.min())),
            rule=AtLeast(15),
            digits=1,
        )
        result.append(
            Claim(
                text="One batched step is at least 15 times faster than a loop over pairs of clients.",
                parts=(smallest,),
                note=f"All sizes: {listed}. Ours takes {floor.min():.1f} to {floor.max():.1f} times what moving the "
                "bytes takes.",
            )
        )
    if len(gaps):
        by_kind = dict(list(gaps.groupby("comparison")))
        same, other = by_kind["same seed"], by_kind.get("other seed")
        noise = float(other["delta_m"].abs().mean()) if other is not None else float("nan")
        chosen = ", ".join(same["precision"].unique())
        equal = Part(
            statistic=f"delta_m of single-task FL in {chosen} against float32 of the same seed, %",
            value=estimate(same["delta_m"]),
            rule=Within(MARGIN),
            digits=1,
        )
        result.append(
            Claim(
                text="In the arithmetic that the device chooses single-task FL ends as good as in float32.",
                parts=(equal,),
                note=""
                if math.isnan(noise)
                else f"Two seeds of float32, whose pictures differ too, are {noise:.1f} % apart on average.",
            )
        )
    return result
