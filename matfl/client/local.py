"""What a method's part on a client is built of: train, compare losses, keep something for the next round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from matfl.client import training
from matfl.client.training import Correction, TrainResult
from matfl.config.run_config import RunConfig
from matfl.core.streams import stream
from matfl.models.network import Model
from matfl.tasks.joint import Targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matfl.data import Client, Split

__all__ = ["Local"]

State = Mapping[str, Tensor]


@dataclass(kw_only=True)
class Local:
    """A client in one round: its model, its images, what the server sent, and what it keeps.

    >>> import matfl, torch
    >>> from dataclasses import dataclass
    >>> @matfl.register
    ... @dataclass(frozen=True, kw_only=True)
    ... class Pulled(matfl.Method):
    ...     name, title, description = "pulled", "Pulled", "plain averaging; clients count their rounds"
    ...     def client(self, local):
    ...         local.train(correct=local.pull(0.1))
    ...         local.memory["rounds"] = local.memory.get("rounds", torch.zeros(1)) + 1
    ...         return {"rounds": local.memory["rounds"]}
    ...     def reply_shapes(self, before, client):
    ...         return {"rounds": (1,)}
    ...     def mix(self, round):
    ...         return matfl.Mixing(weights_NN=round.rows(torch.ones(round.n, round.n)))
    >>> matfl.run("smoke", method="pulled").rounds[0]["excluded"]
    {}
    """

    config: RunConfig
    client: Client
    """Its number, pair and images."""
    split: Split | None
    """The training split that its images are in; None where a model is looked at without images."""
    round: int
    """1-based."""
    model: Model
    """At first in the state that the server dispatched; what it holds at the end goes to the server."""
    state: State
    """The model that the server dispatched, by the names of `Model`."""
    message: State = field(default_factory=dict)
    """What the method's `message` added to it."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What this client keeps between rounds, by names without '/'; stored with every round. Replace tensors, do not
    change them in place."""
    moments: State = field(default_factory=dict)
    """Adam's, by '<number of the call of `train`>.<parameter>.<moment>': kept where `config.client_moments` says so."""
    results: list[TrainResult] = field(default_factory=list)
    """Of every `train` so far."""
    _images: tuple[int, ...] = ()
    _held_out: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._images = self.client.images

    @property
    def device(self) -> torch.device:
        """The model's."""
        return next(self.model.parameters()).device

    def train(
        self,
        *,
        epochs: int | None = None,
        correct: Correction | None = None,
        only: Literal["backbone", "head"] | None = None,
        start: State | None = None,
    ) -> TrainResult:
        """Train the model on the client's images, from the state that it holds or from `start`.

        Args:
            epochs: passes over the images; default `config.local_epochs`.
            correct: called with the parameters by name after each backward pass; may change their `.grad` in place.
            only: freeze the rest, its batch-norm statistics included.
            start: a state by the names of `Model`, loaded first.

        The optimiser is made anew in each call, or goes on from the same call of the client's last round
        (`config.client_moments`); a round's calls shuffle and augment differently. Raises FloatingPointError when the
        loss is not finite after an epoch.
        """
        if start is not None:
            self.model.load_state_dict(dict(start), strict=True)
        images, targets = self._tensors(self._images)
        config = self.config if epochs is None else replace(self.config, local_epochs=epochs)
        call, kept = f"{len(self.results)}.", self.config.client_moments == "kept"
        before = {name.removeprefix(call): value for name, value in self.moments.items() if name.startswith(call)}
        result = training.train(
            self.model,
            images,
            targets,
            self.client.pair,
            config,
            round=self.round,
            client=self.client.index,
            correct=correct,
            only=only,
            phase=len(self.results),
            aspects_N=training.aspects(self._there, self._images),
            moments=before if kept else None,
        )
        self.moments = {**self.moments, **{f"{call}{name}": value for name, value in result.moments.items()}}
        self.results.append(result)
        return result

    def pull(self, strength: float, *, towards: State | None = None) -> Correction:
        """For `train`'s `correct`: the gradient of strength/2 ||w - w_0||^2.

        w_0 is `towards`, by the names of `Model` (parameters without one are left alone), or the dispatched model.
        """
        origin = {name: tensor.detach().clone() for name, tensor in (towards or self.state).items()}

        def correct(parameters: Mapping[str, Tensor]) -> None:
            training.add_pull(parameters, origin, strength)

        return correct

    def shift(self, offsets: State) -> Correction:
        """For `train`'s `correct`: adds `offsets`, by the names of `Model`, to the gradients; absent ones are 0."""

        def correct(parameters: Mapping[str, Tensor]) -> None:
            for name, parameter in parameters.items():
                if parameter.grad is not None and name in offsets:
                    parameter.grad.add_(offsets[name].to(parameter.grad))

        return correct

    def snapshot(self, part: Literal["", "backbone", "head"] = "") -> dict[str, Tensor]:
        """A copy of what the model holds now, or of a part of it, by the names of `Model`."""
        return {
            name: tensor.detach().clone()
            for name, tensor in self.model.state_dict().items()
            if not part or name.startswith(f"{part}.")
        }

    def hold_out(self, share: float) -> None:
        """Keep this share of the client's images out of `train`, for `loss(held_out=True)`; the same ones every round.

        Raises ValueError when fewer than one image would be held out or fewer than two are left.
        """
        n = len(self.client.images)
        count = round(share * n)
        if not 1 <= count <= n - 2:
            raise ValueError(
                f"client {self.client.index} ({self.client.pair}): a share of {share} of its {n} images cannot be "
                f"held out; at least one must be, and two must be left: choose {1 / n:.2g}..{max(n - 2, 0) / n:.2g}"
            )
        order = torch.randperm(n, generator=stream(self.config.seed, "held out", self.client.index)).tolist()
        held = {self.client.images[i] for i in order[:count]}
        self._held_out = tuple(sorted(held))
        self._images = tuple(i for i in self.client.images if i not in held)

    @torch.no_grad()
    def loss(self, state: State | None = None, *, held_out: bool = False) -> float:
        """Mean loss of a model on the client's images, without learning or augmentation: the same each time.

        `state` (default: what the model holds) may be a part, 'backbone.*' say: the rest is as the model holds it, and
        it holds the same afterwards. `held_out` measures on the images that `hold_out` set aside.
        """
        images, targets = self._tensors(self._measured(held_out))
        with self._holding(state):
            return training.mean_loss(self.model, images, targets, self.client.pair, self.config)

    def gradient(self, *, held_out: bool = False) -> dict[str, Tensor]:
        """The gradient of `loss` in the backbone's parameters, at what the model holds, by the names of `Model`.

        Of the loss times the task's loss weight, as training follows it; nothing is learned.
        """
        images, targets = self._tensors(self._measured(held_out))
        return training.mean_gradient(self.model, images, targets, self.client.pair, self.config)

    def _measured(self, held_out: bool) -> tuple[int, ...]:
        if held_out and not self._held_out:
            raise ValueError("no images are held out: call local.hold_out(share) first")
        return self._held_out if held_out else self._images

    @contextmanager
    def _holding(self, state: State | None) -> Iterator[None]:
        if state is None:
            yield
            return
        before = self.snapshot()
        self.model.load_state_dict({**before, **state}, strict=True)
        try:
            yield
        finally:
            self.model.load_state_dict(before)

    def _tensors(self, images: Sequence[int]) -> tuple[Tensor, Targets]:
        if images not in self._cache:
            self._cache[tuple(images)] = self._there.tensors_of(self.client.pair, images, self.device)
        return self._cache[tuple(images)]

    @property
    def _there(self) -> Split:
        if self.split is None:
            raise ValueError(f"client {self.client.index}: its images are not here, only its model and memory")
        return self.split

    @cached_property
    def _cache(self) -> dict[Sequence[int], tuple[Tensor, Targets]]:
        return {}
