"""A federated run of two tasks that takes about a second, for the tests."""

from pathlib import Path

from matfl.config.run_config import RunConfig, override, smoke

TINY = override(
    smoke(),
    preset="tiny",
    tasks="outdoor/semseg,indoor/depth",
    size=32,
    images_train=16,
    images_val=4,
    start="random",
    images_per_client=4,
    batch_size=2,
    local_epochs=1,
    rounds=3,
    evaluate_every=2,
    head_channels=8,
    aspp_rates=(1,),
    k=2,
)
"""Two clients a task, four images each, 3 rounds; evaluated after the second and the last."""

SAME = ("metrics.csv", "diagnostics.npz", "checkpoint.safetensors", "config.json", "state.json")
"""The files of a run that are equal byte for byte however it was interrupted."""


def tiny(**changes: object) -> RunConfig:
    """`TINY` with some fields changed."""
    return override(TINY, **changes)


def contents(path: Path) -> dict[str, bytes]:
    """What must be equal in two runs of one config."""
    return {name: (path / name).read_bytes() for name in SAME}


def settings_text(config: RunConfig, base: RunConfig) -> str:
    """`base` becomes `config` by these settings: 'rounds=3; aspp_rates=1,2'."""
    return "; ".join(
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in config.changes(base).items()
    )
