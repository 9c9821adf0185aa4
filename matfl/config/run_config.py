"""`RunConfig`: everything that decides a run's numbers, and the presets.

Whatever only says where or how fast (device, folders, threads) is not here, so that a run is found again by its config.
"""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from matfl import __version__
from matfl.config.identity import DEFAULTS, SCHEMA, identity
from matfl.config.parameters import Parameters, chosen, of_method, with_parameters
from matfl.config.values import check_range, check_type, coerce
from matfl.core.files import json_hash
from matfl.tasks.task import pairs

__all__ = [
    "PRESETS",
    "RANGES",
    "RunConfig",
    "from_dict",
    "full",
    "load_toml",
    "override",
    "paper_9",
    "paper_pascal5",
    "photos",
    "photos_imagenet",
    "preset",
    "quick",
    "scenes",
    "smoke",
]


RANGES: Mapping[str, tuple[float, float]] = types.MappingProxyType(
    {
        "clients_per_task": (1, 1000),
        "rounds": (1, 1_000_000),
        "local_epochs": (1, 1_000_000),
        "batch_size": (1, 65_536),
        "lr": (0, 100),
        "lr_decay": (0, 1),
        "weight_decay": (0, 1000),
        "participation": (0, 1),
        "server_lr": (0, 1000),
        "server_beta1": (0, 0.9999),
        "server_beta2": (0, 0.999999),
        "server_tau": (1e-12, 1e6),
        "norm_bound": (0, 1e12),
        "clip_norm": (0, 1e12),
        "sketch": (0, 1_048_576),
        "attackers": (0, 1_000_000),
        "attack_strength": (0, 1e6),
        "codec_share": (0, 1),
        "dp_clip": (0, 1e12),
        "dp_noise": (0, 1e6),
        "late": (0, 1),
        "width": (1, 4096),
        "head_channels": (1, 8192),
        "size": (0, 8192),
        "images_train": (0, 100_000_000),
        "images_val": (0, 100_000_000),
        "images_per_client": (0, 100_000_000),
        "evaluate_every": (1, 1_000_000),
        "seed": (0, 2**63 - 1),
        "data_seed": (0, 2**63 - 1),
    }
)
"""Lowest and highest value of each number. What is beyond would only fail later: memory, a loss that is not finite."""
_ABOVE = ("lr", "lr_decay", "participation", "server_lr", "codec_share")
"""Those that must be above their lowest."""

_VOTERS = {"resnet18": 16, "resnet34": 32, "resnet50": 16}
"""Number of 3x3 convolutions in the paper's backbones."""
_STARTS = "'imagenet', 'random', 'scenes' or a .safetensors file"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One federated run. Defaults are the paper's (section 4.1); presets change them.

    >>> import matfl
    >>> matfl.RunConfig().rounds, matfl.RunConfig(k=4).k
    (100, 4)
    >>> matfl.RunConfig(k=0)
    Traceback (most recent call last):
    ValueError: k=0: must be at least 1
    """

    preset: str = field(default="paper_9", compare=False)
    """Name of the preset that this config started from: a label, part of the run's name but not of its identity."""
    method: str = "matfl"
    """A name in `METHODS`; `matfl methods` lists them."""
    parameters: Parameters = ()
    """The method's own parameters that differ from its defaults, sorted by name: set as in `fedprox.mu=0.1`."""
    tasks: str = "paper9"
    """A task set (`matfl.tasks.task.TASK_SETS`) or a comma-separated list of `domain/task` pairs. Clients with several
    tasks of a domain are listed as `domain/task+task`."""
    clients_per_task: int = 2
    """N/C (section 4.1)."""
    k: int = 8
    """K of the TopK in votes and friends, the client itself included (section 3.4)."""
    voting_layers: int = 8
    """How many of the backbone's last 3x3 convolutions (or layers, see `matfl.models`) vote (section 5.2)."""
    rounds: int = 100
    """Communication rounds (section 4.1)."""
    local_epochs: int = 10
    """Passes over a client's images each round (section 4.1)."""
    batch_size: int = 10
    """Images a step (section 4.1)."""
    lr: float = 1e-4
    """Learning rate of the first round (section 4.1)."""
    lr_decay: float = 0.99
    """Factor on the learning rate after each round (section 4.1)."""
    weight_decay: float = 1e-4
    """L2 term of Adam."""
    participation: float = 1.0
    """Share of the clients that train in a round, at least one."""
    server_lr: float = 1.0
    """The server's step on the mixed update of the backbone (FedOpt's eta); 1 is the paper's aggregation.
    With 'adam' and 'yogi' it is about how far a parameter moves a round: begin with 0.01."""
    server_optimizer: Literal["none", "avgm", "adam", "yogi"] = "none"
    """What becomes of the mixed update: FedAvgM, FedAdam or FedYogi (`matfl.server.optimizers`), for any method."""
    server_beta1: float = 0.9
    """Share of the server's momentum that stays from round to round."""
    server_beta2: float = 0.99
    """Likewise of its mean square ('adam' and 'yogi')."""
    server_tau: float = 1e-3
    """Added to the root of the mean square ('adam' and 'yogi')."""
    norm_bound: float = 100.0
    """Clients that moved farther than so many times the round's median are left out of it; 0: nobody is."""
    clip_norm: float = 0.0
    """Updates are shortened to so many times the round's median norm; 0: never."""
    sketch: int = 0
    """Numbers a voting layer from which similarity is estimated (`matfl.server.sketches`); 0: from whole updates."""
    attack: Literal["none", "flip", "scale", "noise", "replace", "copy", "votes", "lie"] = "none"
    """What simulated hostile clients send in the place of their updates (`matfl.server.attacks`)."""
    attackers: int = 0
    """Hostile clients, drawn from the seed, of as many different tasks as there are."""
    attack_strength: float = 1.0
    """Length of what they send, in lengths of their own update."""
    codec: str = "none"
    """How updates are packed on their way to the server: 'none', 'bf16', 'int8' or 'topk' (`matfl.server.codecs`)."""
    codec_share: float = 0.01
    """Share of an update's numbers that 'topk' sends."""
    dp_clip: float = 0.0
    """Norm to which a client shortens all that it changed before it leaves (`matfl.server.privacy`); 0: it does not."""
    dp_noise: float = 0.0
    """Standard deviation of the Gaussian noise that it then adds to every number, in units of `dp_clip`."""
    late: float = 0.0
    """Share of a round's clients that train on the model they were sent the last time instead of on today's."""
    mixes: Literal["updates", "weights"] = "updates"
    """What the server mixes: clients' updates, added to a task's own model (the paper's equations), or the weights of
    the backbones that they trained (its authors' code). Methods that say themselves what models start from do as they
    say; those that give no averages are refused in the first round."""
    client_moments: Literal["anew", "kept"] = "anew"
    """Whether a client's Adam starts anew every round, or goes on with the moments of the client's last one, which
    take three times its model, in memory and in what is stored of a round."""
    start: str = "imagenet"
    """Backbone at round 0: 'imagenet', 'random', 'scenes' (pre-trained on rendered objects) or a .safetensors file."""
    head_start: Literal["shared", "per_type", "per_task", "independent"] = "shared"
    """How heads start: equal wherever shapes agree; equal per task type; per task; or each client its own draw."""
    heads: Literal["task", "local"] = "task"
    """'task' averages a task's heads every round; 'local' leaves each client its own."""
    loss_weights: Literal["field", "none"] = "none"
    """'field' multiplies each loss by its task's customary weight; 'none' is the authors' code."""
    balance: Literal["sum", "pcgrad", "cagrad"] = "sum"
    """How clients with several tasks join them: 'sum' adds the weighted losses; PCGrad or CAGrad join the gradients on
    the backbone."""
    backbone: str = "resnet18"
    """'resnet18', 'resnet34', 'resnet50', 'timm:NAME' or a plug-in's."""
    output_stride: int = 8
    """Side of an image over that of its features: 8 (section 4.1), 16 or 32; the next larger where it cannot be."""
    width: int = 64
    """Channels of a ResNet's first stage; 64 is the standard network. Other backbones have widths of their own."""
    head_channels: int = 256
    """Channels of the DeepLab head."""
    aspp_rates: tuple[int, ...] = (12, 24, 36)
    """Dilation rates of the DeepLab head."""
    size: int = 0
    """Network input: side of the square in pixels, or 0 for the domains' own (paper: 512x512 and 480x640)."""
    images_train: int = 0
    """Training images a domain that are shared out to the clients; 0 means all (real data only)."""
    images_val: int = 0
    """Validation images a domain; 0 means all (real data only)."""
    images_per_client: int = 0
    """Keep at most this many images of each client's share; 0 keeps all."""
    evaluate_every: int = 10
    """Evaluate after every so many rounds, and always after the last."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training; 'auto' is bf16 where the device computes it natively and the network is wide enough."""
    edge_protocol: Literal["mtl", "astmt", "fedhca2"] = "fedhca2"
    """How ODS-F is measured (`matfl.tasks.edges`)."""
    seed: int = 0
    """Partition, heads, batches and augmentation."""
    data_seed: int = 0
    """The rendered benchmark's own seed; the same images for every `seed`."""

    def __post_init__(self) -> None:
        hints = _HINTS if type(self) is RunConfig else typing.get_type_hints(type(self))
        for item in fields(self):
            value, hint = getattr(self, item.name), hints[item.name]
            if item.name == "parameters":
                continue
            check_type(item.name, value, hint)
            if hint is float:
                object.__setattr__(self, item.name, value + 0.0)  # 1 and 1.0, 0.0 and -0.0 are one run, not two
        for name in ("preset", "method"):
            if not re.fullmatch(r"[A-Za-z0-9]\w{0,63}", getattr(self, name)):
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: use up to 64 letters, digits and _; it names the run's folder"
                )
        for name, (low, high) in RANGES.items():
            check_range(name, getattr(self, name), low, high, above=name in _ABOVE)
        if not self.aspp_rates:
            raise ValueError("aspp_rates=(): give at least one positive rate")
        for rate in self.aspp_rates:
            check_range("aspp_rates", rate, 1, 1024)
        if self.size and (self.size < 32 or self.size % 8):
            raise ValueError(f"size={self.size}: choose a multiple of 8 from 32 to 8192, or 0 for the domain's own")
        if 0 < self.norm_bound < 2:
            raise ValueError(f"norm_bound={self.norm_bound}: choose at least 2, or 0 to leave nobody out")
        self._check_together()
        if not isinstance(self.parameters, tuple) or any(
            not isinstance(item, tuple) or len(item) != 2 for item in self.parameters
        ):
            raise TypeError(f"parameters={self.parameters!r}: expected a tuple of (name, value) pairs")
        object.__setattr__(self, "parameters", of_method(self.method, self.parameters))

    def _check_together(self) -> None:
        """What one parameter allows another."""
        chosen, n = pairs(self.tasks), self.num_clients
        if not 1 <= self.k <= n:
            raise ValueError(
                f"k={self.k}: choose 1..{n}, the number of clients ({len(chosen)} tasks x "
                f"clients_per_task={self.clients_per_task})"
            )
        self._check_backbone()
        self._check_clients()
        if self.balance != "sum" and all(len(p.parts) == 1 for p in chosen):
            raise ValueError(
                f"balance={self.balance!r} joins the gradients of a client's tasks, but in tasks={self.tasks!r} every "
                "client has one: leave it out, or join tasks of a domain with '+' ('outdoor/semseg+sal')"
            )
        for p in chosen:
            if not (self.size or p.domain.size or p.domain.rendered):
                raise ValueError(f"size=0: domain {p.domain.name!r} has no network size of its own; set size")
        if any(p.domain.rendered for p in chosen) and not (self.size and self.images_train and self.images_val):
            raise ValueError(
                "the rendered domains need size, images_train and images_val (presets smoke, quick and "
                "full set them); 0 is for real data"
            )

    def _check_clients(self) -> None:
        """What hostile, private and packing clients need of each other."""
        n = self.num_clients
        if (self.attack == "none") != (self.attackers == 0):
            raise ValueError(
                f"attack={self.attack!r} with attackers={self.attackers}: set both, or neither for honest clients"
            )
        if self.attackers >= n:
            raise ValueError(f"attackers={self.attackers}: choose 0..{n - 1}, so that one of the {n} clients is honest")
        if self.dp_noise and not self.dp_clip:
            raise ValueError(
                f"dp_noise={self.dp_noise:g} with dp_clip=0: noise hides nothing that has no bound; set dp_clip too"
            )
        if not re.fullmatch(r"[A-Za-z0-9]\w{0,63}", self.codec):
            raise ValueError(f"codec={self.codec!r}: choose 'none', 'bf16', 'int8', 'topk' or a plug-in's")

    def _check_backbone(self) -> None:
        """What the config alone can tell; the rest is `matfl.models.backbone.check_backbone`'s, when a run begins."""
        if not re.fullmatch(r"\w+(:[\w.-]+)?", self.backbone):
            raise ValueError(
                f"backbone={self.backbone!r}: choose {', '.join(map(repr, _VOTERS))}, 'timm:NAME' or a plug-in's"
            )
        if self.output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride={self.output_stride}: choose 8, 16 or 32")
        if self.backbone != "resnet18" and self.start == "scenes":
            raise ValueError(
                f"start='scenes' is made for resnet18; with backbone={self.backbone!r} choose 'imagenet', "
                "'random' or a file"
            )
        if not re.fullmatch(r"\w+|.*\.safetensors", self.start):
            raise ValueError(f"start={self.start!r}: choose {_STARTS}")
        if self.backbone not in _VOTERS:
            check_range("voting_layers", self.voting_layers, 1, 10_000)
            return
        available = _VOTERS[self.backbone]
        if not 1 <= self.voting_layers <= available:
            raise ValueError(
                f"voting_layers={self.voting_layers}: {self.backbone} has {available} 3x3 convolutions; "
                f"choose 1..{available}"
            )
        if self.start == "imagenet" and self.width != 64:
            raise ValueError(f"start='imagenet' needs width=64, not {self.width}: choose start='scenes' or 'random'")
        if self.start not in ("imagenet", "random", "scenes") and not self.start.endswith(".safetensors"):
            raise ValueError(f"start={self.start!r}: choose {_STARTS}")

    @property
    def num_clients(self) -> int:
        """N, all clients of all tasks."""
        return len(pairs(self.tasks)) * self.clients_per_task

    @property
    def network(self) -> str:
        """The backbone in words: 'resnet18 of width 16', or 'timm:NAME' alone, whose widths are its own."""
        return self.backbone if ":" in self.backbone else f"{self.backbone} of width {self.width}"

    def params(self, method: Any) -> Any:
        """`method` (`METHODS[config.method]`) with this run's parameters in the place of its defaults."""
        return with_parameters(method, self.parameters)

    def to_json(self) -> dict[str, Any]:
        """Every parameter in JSON's types, as `from_dict` reads it back; the method's own as a table."""
        return {
            name: dict(value) if name == "parameters" else list(value) if isinstance(value, tuple) else value
            for name, value in ((item.name, getattr(self, item.name)) for item in fields(self))
        }

    def changes(self, base: RunConfig) -> dict[str, Any]:
        """What `override` makes of `base` to get this config: the parameters that differ, by name."""
        here, there = self.to_json(), base.to_json()
        own = {f"{self.method}.{name}": value for name, value in here.pop("parameters").items()}
        return {name: value for name, value in here.items() if value != there[name]} | own

    @property
    def identity(self) -> dict[str, object]:
        """What the hash stands for: the schema, and what differs from its defaults (`matfl.config.identity`)."""
        values = self.to_json()
        del values["preset"]
        return identity(values, later={item.name: item.default for item in fields(self)})

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that stand for all that decides the run's numbers."""
        return json_hash(self.identity)

    @property
    def name(self) -> str:
        """`<preset>-<method>-<hash>`: the run's folder."""
        return f"{self.preset}-{self.method}-{self.hash}"


_HINTS: Mapping[str, Any] = types.MappingProxyType(typing.get_type_hints(RunConfig))


def override(config: RunConfig, **changes: object) -> RunConfig:
    """`config` with some parameters changed; values may be text (`k="4"`).

    A method's own parameters are named after it: `override(smoke(), method="fedprox", **{"fedprox.mu": 0.1})`, or
    `fedprox={"mu": 0.1}`. Another method starts from its defaults. Unknown names, and parameters of a method that is
    not the chosen one, are a ValueError.

    >>> import matfl
    >>> config = matfl.override(matfl.preset("quick"), method="fedprox", k="4", **{"fedprox.mu": 0.1})
    >>> config.method, config.k, config.parameters
    ('fedprox', 4, (('mu', 0.1),))
    """
    own = {name: value for name, value in changes.items() if "." in name or _is_table(name, value)}
    unknown = sorted(set(changes) - set(own) - set(_HINTS))
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r}: the parameters are {', '.join(_HINTS)}, and METHOD.NAME")
    values = {name: coerce(name, changes[name], _HINTS[name]) for name in changes if name not in own}
    method = values.get("method", config.method)
    if "parameters" in values or own or method != config.method:
        given = values.get("parameters", config.parameters if method == config.method else ())
        kept = dict(given)  # type: ignore[call-overload]
        values["parameters"] = tuple({**kept, **chosen(own, str(method))}.items())
    return replace(config, **values)  # type: ignore[arg-type]


def _is_table(name: str, value: object) -> bool:
    return name not in _HINTS and isinstance(value, Mapping)


def from_dict(values: Mapping[str, object], *, written_by: str = "another version") -> RunConfig:
    """The config that `RunConfig.to_json` wrote down; a parameter that came later reads as its default.

    Raises ValueError naming the version of matfl that wrote it when it holds a parameter that this version lacks.
    """
    stored = {name: value for name, value in values.items() if name != "schema"}
    unknown = sorted(set(stored) - set(_HINTS))
    if unknown or values.get("schema", SCHEMA) != SCHEMA:
        what = f"parameter {unknown[0]!r}" if unknown else f"schema {values['schema']!r}"
        raise ValueError(
            f"{what} is unknown to this version of matfl ({__version__}): it was written by {written_by}; "
            "use that one, or train the run again"
        )
    frozen = {name: value for name, value in DEFAULTS.items() if name in _HINTS}
    return override(RunConfig(), **{**frozen, **stored})


def load_toml(path: str | Path) -> RunConfig:
    """The config of a TOML file: a `preset` (default quick) and the fields that differ. Errors name the file.

    >>> import matfl
    >>> from pathlib import Path
    >>> Path("mine.toml").write_text('preset = "quick"\\nmethod = "fedprox"\\nfedprox.mu = 0.1')
    52
    >>> matfl.load_toml("mine.toml").parameters
    (('mu', 0.1),)
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file: `matfl config quick > {path}` writes one to change")
    try:
        values = tomllib.loads(Path(path).read_bytes().decode())
        return override(preset(values.pop("preset", "quick")), **values)
    except TypeError as error:
        raise TypeError(f"{path}: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply; a parameter's value is a number, a text or a list") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def quick() -> RunConfig:
    """A look at every study on a laptop's CPU: the embedded nine-task benchmark, 120 steps a client."""
    return RunConfig(
        preset="quick",
        tasks="scenes9",
        start="scenes",
        loss_weights="field",
        width=16,
        head_channels=64,
        aspp_rates=(2, 4, 6),
        size=64,
        images_train=1000,
        images_val=100,
        images_per_client=100,
        local_epochs=1,
        rounds=12,
        lr=1e-3,
        evaluate_every=3,
    )


def smoke() -> RunConfig:
    """Seconds a run: shows that everything works, not who is better."""
    return replace(
        quick(),
        preset="smoke",
        width=8,
        head_channels=32,
        images_train=200,
        images_val=40,
        images_per_client=20,
        local_epochs=2,
        rounds=4,
        evaluate_every=4,
        precision="fp32",
    )


def scenes() -> RunConfig:
    """The embedded benchmark long enough for its tasks to learn and to help each other: 600 steps a client."""
    return replace(quick(), preset="scenes", rounds=60, lr_decay=0.98, evaluate_every=10)


def photos() -> RunConfig:
    """Real photographs that anyone can have (`matfl data fetch nyuv2`, `people`), at a laptop's size.

    A client has about 100 of them, so that a round is 10 steps. At 128x128 pixels and 60 rounds single-task FL is well
    above constant answers in six of eight tasks (a development seed); at 64x64 it was in three. Scores at native size
    take as long as a dozen rounds of training: they are taken twice.
    """
    return replace(
        quick(),
        preset="photos",
        tasks="photos8",
        size=128,
        images_train=0,
        images_val=200,
        images_per_client=0,
        rounds=60,
        lr_decay=0.98,
        evaluate_every=30,
    )


def photos_imagenet() -> RunConfig:
    """`photos` with EfficientNet-Lite0 from ImageNet's weights: a start as good as the paper's, for fewer rounds.

    After 200 steps a client single-task FL is above constant answers in six of eight tasks (a development seed);
    edges, which an output stride of 16 makes coarse, are not.
    """
    return replace(
        photos(),
        preset="photos_imagenet",
        backbone="timm:efficientnet_lite0",
        start="imagenet",
        width=64,
        output_stride=16,
        rounds=20,
        lr_decay=0.95,
        evaluate_every=10,
    )


def full() -> RunConfig:
    """Embedded benchmark at a size for one GPU."""
    return replace(
        quick(),
        preset="full",
        width=64,
        head_channels=256,
        aspp_rates=(4, 8, 12),
        size=128,
        images_train=5000,
        images_val=500,
        images_per_client=250,
        local_epochs=2,
        rounds=30,
        lr=3e-4,
        evaluate_every=5,
    )


def paper_9() -> RunConfig:
    """Pascal-Context & NYUD combined, 9 tasks (section 4.1)."""
    return RunConfig()


def paper_pascal5() -> RunConfig:
    """Pascal-Context, 5 tasks (section 4.1)."""
    return RunConfig(preset="paper_pascal5", tasks="pascal5")


PRESETS = {
    maker.__name__: maker for maker in (smoke, quick, scenes, photos, photos_imagenet, full, paper_pascal5, paper_9)
}
"""The presets: a function to a `RunConfig` by name.

>>> import matfl
>>> list(matfl.PRESETS)[:3]
['smoke', 'quick', 'scenes']
"""


def preset(name: str) -> RunConfig:
    """The preset's config; a ValueError lists the known ones.

    >>> import matfl
    >>> matfl.preset("paper_9").method
    'matfl'
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[name]()
