"""Clients with several tasks: `outdoor/semseg+sal` is one kind of client, with one backbone and a head for each task.

A `Joint` is the task of such a client's pair. It holds its parts, which are pairs of their own: they have the losses,
answers and meters; what is joined is the client, its model and its images.

>>> from matfl.tasks.task import pair
>>> chosen = pair("outdoor/semseg+sal")
>>> [part.name for part in chosen.parts]
['outdoor/semseg', 'outdoor/sal']
>>> chosen.channels
14
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from matfl.tasks.definitions import Pair, Task

__all__ = ["Joint", "Packed", "Targets", "head_prefixes", "join", "told_apart"]


@dataclass(frozen=True, slots=True)
class Packed:
    """The targets of a client of several tasks: one tensor a task, over the same images."""

    parts: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, chosen: Tensor | slice) -> Packed:
        """Some of the images."""
        return Packed(tuple(part[chosen] for part in self.parts))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Packed:
        """All of them on a device."""
        return Packed(tuple(part.to(device, non_blocking=non_blocking) for part in self.parts))

    def split(self, images: int) -> tuple[Packed, ...]:
        """Batches of so many images, the last one of what is left."""
        return tuple(map(Packed, zip(*(part.split(images) for part in self.parts), strict=True)))


Targets = Tensor | Packed
"""Of one task, or of a client of several."""


@dataclass(frozen=True, kw_only=True)
class Joint(Task):
    """Several tasks of one domain as the task of one client. Its parts answer for themselves."""

    target_dtype: ClassVar[torch.dtype] = torch.float32

    parts: tuple[Pair, ...]
    main_metric: str = ""
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        """A joint task is not registered, and its name holds a '+'."""

    def loss(self, output: Any, target: Any) -> Tensor:
        """The sum of the parts' losses, each weighing the same (`matfl.client.objective` weighs them)."""
        chosen = zip(self.parts, self.slices(output), target.parts, strict=True)
        return torch.stack([part.task.loss(own, its) for part, own, its in chosen]).sum()

    def slices(self, output: Tensor) -> tuple[Tensor, ...]:
        """Each part's channels of the output (B, C, H, W)."""
        return output.split([part.channels for part in self.parts], 1)

    @property
    def output_channels(self) -> int | None:
        """Of all parts together."""
        return sum(part.channels for part in self.parts)

    @property
    def selective(self) -> bool:
        """Whether some images do not count for one of the parts."""
        return any(part.task.selective for part in self.parts)

    @property
    def counting(self) -> str:
        """What an image does that counts for every part."""
        return " and ".join(part.task.counting for part in self.parts if part.task.counting)

    def counts(self, target: Any) -> Tensor:
        """Which images count for every part."""
        each = [part.task.counts(its) for part, its in zip(self.parts, target.parts, strict=True)]
        return torch.stack(each).all(0)

    def _ask_the_parts(self) -> NoReturn:
        raise TypeError(f"{self.name!r} joins several tasks: ask its parts ({', '.join(p.name for p in self.parts)})")

    def answer(self, output: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Each part's own."""
        self._ask_the_parts()

    def meter(self, pair: Pair, *, edge_protocol: str = "fedhca2") -> NoReturn:
        """Each part's own."""
        self._ask_the_parts()

    def draw(self, values: np.ndarray, channels: int) -> np.ndarray:
        """Each part's own."""
        self._ask_the_parts()

    def constant(self, labels: np.ndarray, channels: int) -> Tensor:
        """Each part's own."""
        self._ask_the_parts()

    def problem(self, label: np.ndarray, channels: int) -> str | None:
        """Each part's own."""
        self._ask_the_parts()


def join(parts: Sequence[Pair]) -> Pair:
    """The pair of a client that has all of the parts.

    Raises ValueError for parts of two domains, or a part that is named twice.
    """
    name, domain = " + ".join(part.name for part in parts), parts[0].domain
    if foreign := [part for part in parts if part.domain != domain]:
        raise ValueError(
            f"{name!r} joins tasks of two domains, {domain.name!r} and {foreign[0].domain.name!r}: a client has "
            "pictures of one; join tasks of the same domain with '+', and list other clients after a ','"
        )
    if twice := [part.name for part in parts if parts.count(part) > 1]:
        raise ValueError(f"{name!r} names {twice[0]!r} twice: a client has one head for each of its tasks")
    joint = Joint(
        name="+".join(part.task.name for part in parts),
        title=" + ".join(part.task.title for part in parts),
        color=parts[0].task.color,
        loss_weight=sum(part.task.loss_weight for part in parts) / len(parts),
        parts=tuple(parts),
    )
    return Pair(domain, joint)


def told_apart(kinds: Sequence[Pair]) -> tuple[Pair, ...]:
    """The kinds of client of one run, their parts named after them (`Pair.within`) where other kinds have them too."""
    of_all = [part.plain for kind in kinds for part in kind.parts]

    def named(kind: Pair) -> Pair:
        if not isinstance(kind.task, Joint) or all(of_all.count(part.plain) == 1 for part in kind.parts):
            return kind
        parts = [replace(part, within=kind.task.name) if of_all.count(part.plain) > 1 else part for part in kind.parts]
        return join(parts)

    return tuple(map(named, kinds))


def head_prefixes(name: str) -> tuple[str, ...]:
    """How the tensors of each part's head begin in a head of the pair called `name`; ('',) where there is one task.

    >>> head_prefixes("outdoor/semseg+sal")
    ('semseg.', 'sal.')
    """
    tasks = name.rpartition("/")[2].split("+")
    return ("",) if len(tasks) == 1 else tuple(f"{task}." for task in tasks)
