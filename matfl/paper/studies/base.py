"""What the studies share: their sizes per preset, the seeds and settings they vary, the regime they are judged in.

Report seeds are 0, 1, ...; development seeds, on which everything is chosen, are 100, 101, .... `seed` also varies the
pictures (`setting`), so no choice is ever made on a picture that a reported number is measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matfl.config.run_config import RunConfig, override, preset
from matfl.core.settings import parse_settings
from matfl.paper.studies.store import Job
from matfl.server.methods import METHODS
from matfl.tasks.task import pairs

__all__ = [
    "BASELINES",
    "DEVELOPMENT",
    "MARGIN",
    "OURS",
    "SIZES",
    "VARIANTS",
    "Plan",
    "Sizes",
    "base_config",
    "chosen_methods",
    "chosen_numbers",
    "chosen_sets",
    "development_seeds",
    "five_tasks",
    "own_parameters",
    "regime",
    "report_seeds",
    "seeds_of",
    "setting",
    "sizes",
]

MARGIN = 1.0
"""Points of delta_m within which methods, layers and precisions count as the same (notebooks 02, 06, 07)."""

BASELINES = ("single_task", "fedavg", "fedprox", "matfl")
"""The four rows of the paper's Tables 1 and 2."""

VARIANTS = ("local", "matfl_uniform", "similarity_only", "clustered", "soft_grouping")
"""Table 1's further rows: other ways of mixing, and no mixing at all."""

OURS = ("matfl_layers", "matfl_self", "matfl_task", "matfl_gain")
"""Methods of this package beyond the paper."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much of each study a preset computes. Everything else about a run is in its `RunConfig`."""

    main_seeds: int = 5
    """Seeds of `BASELINES` in Table 1; differences are paired by seed."""
    seeds: int = 3
    """Seeds of every other federated comparison."""
    variants: tuple[str, ...] = VARIANTS
    """Further methods of Table 1, on every task set."""
    rivals: tuple[str, ...] = ()
    """Further methods of Table 1, on the tasks of its first domain alone."""
    ks: tuple[int, ...] = (2, 4, 6, 8, 12, 16, 18)
    """K of Figure 4."""
    clients: tuple[int, ...] = (1, 2, 4)
    """Clients per task of Table 2."""
    layers: tuple[int, ...] = (1, 4, 8, 16)
    """Numbers of voting layers beside Figure 6."""
    subsets: int = 10
    """Models per (domain, task) pair in Figure 2."""
    variant_subsets: int = 3
    """The same for the other starts."""
    share: float = 0.1
    """Part of the domain's training images that each of these models sees."""
    update_epochs: int = 10
    """Their epochs."""
    protocol_rounds: int = 0
    """Rounds of the paper's protocol (10 local epochs each) beside Table 1; 0 leaves out it and the other readings. A
    tenth of the preset's rounds of one epoch gives every client as many steps."""
    few_images: int = 0
    """Images a client in the runs of `09_why` with few of them; 0 leaves them out."""
    never_averaged: bool = True
    """Whether local training, whose clients never start from an average, stands beside `09_why`'s cosines."""
    development: int = 2
    """Development seeds on which each method's server step is chosen."""
    trial_seeds: int = 3
    """Seeds of the many short runs of `10_scale_privacy_attacks`."""
    signal_seeds: int = 3
    """Seeds whose real updates are looked at there."""
    trial_rounds: int = 12
    """Their rounds."""
    trial_images: int = 40
    """Their images a client."""
    studies: tuple[str, ...] = ()
    """Notebooks that `matfl reproduce` draws unless told otherwise; empty means all."""


SIZES: dict[str, Sizes] = {
    "smoke": Sizes(
        main_seeds=1,
        seeds=1,
        variants=("matfl_uniform",),
        ks=(2, 8, 18),
        clients=(1, 2),
        layers=(1, 8),
        subsets=3,
        variant_subsets=2,
        update_epochs=2,
        protocol_rounds=1,
        few_images=10,
        development=1,
        trial_seeds=1,
        signal_seeds=1,
        trial_rounds=2,
        trial_images=10,
    ),
    "quick": Sizes(
        main_seeds=1,
        seeds=1,
        variants=("local", "matfl_uniform"),
        ks=(2, 4, 8, 12, 18),
        clients=(1, 2),
        layers=(2, 8),
        subsets=5,
        variant_subsets=2,
        never_averaged=False,
        development=1,
        trial_seeds=2,
        trial_rounds=5,
    ),
    "scenes": Sizes(
        variants=("local",),
        rivals=(
            "matfl_uniform",
            "similarity_only",
            "clustered",
            "soft_grouping",
            "authors_clustered",
            "authors_soft",
            "ifca",
            "pcgrad",
            "cagrad",
            "fedhca2",
            "scaffold",
            "fedamp",
            "ditto",
            "fedrep",
        ),
        ks=(2, 4, 8, 12, 18),
        layers=(2, 8, 16),
        protocol_rounds=6,
        few_images=20,
    ),
    "photos": Sizes(
        main_seeds=3,
        variants=("local",),
        rivals=("fedhca2", "pcgrad"),
        ks=(2, 4, 8, 12, 16),
        clients=(1, 2),
        layers=(2, 8, 16),
        studies=(
            "00_benchmark",
            "01_update_tsne",
            "02_methods",
            "03_clients_per_task",
            "04_k_sweep",
            "05_grouping_frequency",
            "06_layer_voting",
            "11_our_best",
        ),
    ),
    "photos_imagenet": Sizes(
        main_seeds=3,
        variants=(),
        ks=(2, 4, 8, 12, 16),
        clients=(1, 2),
        studies=("02_methods", "05_grouping_frequency"),
    ),
    "full": Sizes(ks=(2, 4, 6, 8, 10, 12, 14, 16, 18), layers=(1, 2, 4, 8, 16), variant_subsets=10),
    "paper_pascal5": Sizes(main_seeds=3, ks=(2, 4, 6, 8, 10), clients=(1, 2), layers=(1, 2, 4, 8, 16)),
    "paper_9": Sizes(main_seeds=3, ks=(2, 4, 6, 8, 10, 12, 14, 16, 18), clients=(1, 2), layers=(1, 2, 4, 8, 16)),
}
"""Sizes of the studies by preset."""


def sizes(name: str) -> Sizes:
    """The preset's study sizes."""
    preset(name)  # an unknown name is refused with the list of known ones
    return SIZES[name]


def base_config(name: str, settings: str = "", *, methods: Sequence[str] = ()) -> RunConfig:
    """The preset's config with `settings` such as "rounds=5; lr=3e-4" applied (any field of `RunConfig`).

    `methods` are those of a comparison: their own parameters ("fedprox.mu=0.1") are for their runs alone, which take
    them from `own_parameters`. Raises ValueError for a parameter of another method.
    """
    given = parse_settings(settings, where="settings")
    kept = {}
    for key, value in given.items():
        owner, dot, _ = key.partition(".")
        if dot and owner in methods:
            override(preset(name), method=owner, **{key: value})  # its name, type and range
        elif dot and methods and owner in METHODS:
            raise ValueError(
                f"settings: {key} is a parameter of method {owner!r}, and the methods compared are "
                f"{', '.join(methods)}: add it to methods, or leave the parameter out"
            )
        else:
            kept[key] = value
    return override(preset(name), **kept)


def own_parameters(settings: str, method: str) -> dict[str, str]:
    """The part of `settings` that is for runs of one method alone: its own parameters.

    >>> own_parameters("rounds=5; fedprox.mu=0.1", "fedprox")
    {'fedprox.mu': '0.1'}
    """
    given = parse_settings(settings, where="settings")
    return {key: value for key, value in given.items() if key.startswith(f"{method}.")}


def chosen_methods(methods: str, default: Sequence[str]) -> tuple[str, ...]:
    """Method names of a comma-separated list, `default` where it is empty and every registered one for 'all'."""
    if not methods.strip():
        return tuple(default)
    names = tuple(METHODS) if methods.strip() == "all" else tuple(name.strip() for name in methods.split(","))
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}: choose from {', '.join(METHODS)}, or 'all'")
    return tuple(sorted(set(names), key=list(METHODS).index))


def chosen_numbers(text: str, default: Sequence[int], *, name: str) -> tuple[int, ...]:
    """Integers of a comma-separated list in ascending order, `default` where it is empty."""
    if not text.strip():
        return tuple(default)
    try:
        numbers = sorted({int(item) for item in text.split(",")})
    except ValueError:
        raise ValueError(f"{name}={text!r}: expected integers with commas between them, such as '2,4,8'") from None
    if numbers[0] < 1:
        raise ValueError(f"{name}={text!r}: choose numbers of at least 1")
    return tuple(numbers)


def chosen_sets(base: RunConfig, tasks: str) -> tuple[str, ...]:
    """Task sets of a semicolon-separated list; where it is empty, the preset's set after its first domain alone."""
    if tasks.strip():
        return tuple(dict.fromkeys(item.strip() for item in tasks.split(";") if item.strip()))
    return tuple(dict.fromkeys((five_tasks(base), base.tasks)))


def five_tasks(base: RunConfig) -> str:
    """The set of the five tasks of the preset's first domain (PASCAL-Context or its stand-in)."""
    return {"scenes9": "outdoor5", "paper9": "pascal5"}.get(base.tasks, base.tasks)


def seeds_of(method: str, size: Sizes, given: int = 0) -> range:
    """Report seeds of a method in Table 1: `given` of them, else the preset's number for it."""
    return report_seeds(given or (size.main_seeds if method in BASELINES else size.seeds))


def setting(
    base: RunConfig,
    tasks: str,
    *,
    clients_per_task: int | None = None,
    k: int = 0,
    seed: int | None = None,
    **changes: object,
) -> RunConfig:
    """`base` on another task set, number of clients and seed, with a K that fits.

    `k` = 0 takes the preset's K, half of it for up to five rendered tasks (4 of 10 clients; 8 of 10 would choose
    nearly everybody), and never more than there are clients. A given `k` is used as it is. With more or fewer clients
    per task than `base` has, each keeps fewer or more images, so that all together see as many (Table 2). Where
    pictures are rendered, `seed` also moves `data_seed`: every seed has pictures of its own.
    """
    chosen = pairs(tasks)
    per_task = base.clients_per_task if clients_per_task is None else clients_per_task
    rendered = [pair.domain.rendered for pair in chosen]
    if not k:
        small = len(chosen) <= 5 and all(rendered)
        k = min(max(1, base.k // 2) if small else base.k, len(chosen) * per_task)
    defaults: dict[str, object] = {"images_per_client": base.images_per_client * base.clients_per_task // per_task}
    if seed is not None:
        defaults["seed"] = seed
        if any(rendered):
            defaults["data_seed"] = base.data_seed + seed
    return override(base, **{**defaults, **changes, "tasks": tasks, "clients_per_task": per_task, "k": k})


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a notebook needs computed before it can draw."""

    configs: tuple[RunConfig, ...] = ()
    """Federated runs."""
    votes: tuple[RunConfig, ...] = ()
    """Those of them whose votes and similarities are drawn."""
    norms: tuple[RunConfig, ...] = ()
    """Those of them whose lengths and cosines of whole updates are drawn."""
    jobs: tuple[Job, ...] = ()
    """Other stored results."""


DEVELOPMENT = 100
"""The first development seed. Report seeds count from 0 and never reach it."""


def report_seeds(count: int) -> range:
    """The seeds of reported results: 0, 1, ...; ValueError where they would reach the development seeds."""
    if not 1 <= count <= DEVELOPMENT:
        raise ValueError(f"seeds={count}: choose 1..{DEVELOPMENT}; seeds from {DEVELOPMENT} on are for development")
    return range(count)


def development_seeds(count: int) -> range:
    """The seeds on which settings are chosen: 100, 101, ...; nothing measured on them is reported as a result."""
    return range(DEVELOPMENT, DEVELOPMENT + count)


def regime(config: RunConfig, *, central: bool = False) -> str:
    """The conditions of a run in words, for claims that the paper makes under its own; `central` is no federation."""
    domains = " and ".join(dict.fromkeys(pair.domain.title for pair in pairs(config.tasks)))
    size = f"{config.size}x{config.size}" if config.size else "full size"
    start = {"imagenet": "ImageNet's weights", "scenes": "weights from rendered objects"}.get(
        config.start, config.start
    )
    length = f"{config.rounds} rounds of {config.local_epochs} local epoch{'s' if config.local_epochs > 1 else ''}"
    if central:
        epochs = config.rounds * config.local_epochs
        length = f"{epochs} epoch{'s' if epochs > 1 else ''}"
    return f"on {domains} at {size}, {config.network} from {start}, {length}, learning rate {config.lr:g}"
