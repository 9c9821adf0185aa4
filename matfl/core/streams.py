"""Random streams: every draw comes from a generator that is derived from names such as (seed, round, client)."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive", "stream"]


def derive(*keys: int | str) -> int:
    """A seed below 2**63 that depends on all `keys` and on their order, and on nothing else."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(*keys: int | str) -> torch.Generator:
    """A fresh CPU generator seeded with `derive(*keys)`; `stream(0, "train", 3, 7)` is the same in every process."""
    return torch.Generator().manual_seed(derive(*keys))
