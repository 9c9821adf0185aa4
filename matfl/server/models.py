"""The server's models: one backbone and head a task, or one a client where the method keeps clients apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from matfl.server.layout import Layout

__all__ = ["Models"]


@dataclass(frozen=True, kw_only=True)
class Models:
    """The server's models: row c is the backbone of `owners[c]`, a task or (scope "client") a client's number."""

    layout: Layout
    owners: tuple[Hashable, ...]
    theta_CP: Tensor
    """Parameters, float32 or float64."""
    buffers_CB: Tensor
    """Floating-point buffers (batch-norm statistics)."""
    heads: dict[Hashable, dict[str, Tensor]] = field(default_factory=dict)
    """Head of each task, or of each client where clients keep their own."""

    def __post_init__(self) -> None:
        c = len(self.owners)
        expected = {"theta_CP": (c, self.layout.P), "buffers_CB": (c, self.layout.B)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, but {c} models of this backbone need {shape}"
                )
        if len(set(self.owners)) != c:
            raise ValueError(f"owners={self.owners}: give each owner once")

    @classmethod
    def start(
        cls,
        layout: Layout,
        backbone: Mapping[str, Tensor],
        owners: Sequence[Hashable],
        heads: Mapping[Hashable, Mapping[str, Tensor]],
    ) -> Models:
        """All owners with the same backbone, in float32 on its device, and the given heads (copied)."""
        row_P, row_B = layout.flatten(backbone), layout.flatten_buffers(backbone)
        theta_CP = layout.empty(len(owners), device=row_P.device)
        return cls(
            layout=layout,
            owners=tuple(owners),
            theta_CP=theta_CP.copy_(row_P),
            buffers_CB=row_B.float().repeat(len(owners), 1),
            heads={owner: {name: t.clone() for name, t in head.items()} for owner, head in heads.items()},
        )

    def copy(self) -> Models:
        """The same models in tensors of their own."""
        theta_CP = self.layout.empty(len(self.owners), dtype=self.theta_CP.dtype, device=self.theta_CP.device)
        return replace(
            self, theta_CP=theta_CP.copy_(self.theta_CP), buffers_CB=self.buffers_CB.clone(), heads=dict(self.heads)
        )

    def row(self, owner: Hashable) -> int:
        """The row of an owner's backbone. Raises ValueError naming the owners when it has none."""
        if owner not in self.owners:
            raise ValueError(
                f"no model belongs to {owner!r}: the models' owners are {', '.join(map(str, self.owners))}"
            )
        return self.owners.index(owner)

    def backbone(self, owner: Hashable) -> dict[str, Tensor]:
        """Parameters and floating-point buffers of an owner's backbone by name: views."""
        row = self.row(owner)
        return self.layout.unflatten(self.theta_CP[row], self.buffers_CB[row])
