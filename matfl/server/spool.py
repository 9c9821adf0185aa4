"""Replies that do not fit into memory: each is written to a file as it comes, and read back by columns."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from matfl.server.files import NARROW
from matfl.server.layout import Layout
from matfl.server.updates import ClientUpdate, Updates, save_update

__all__ = ["FileRows", "Spool"]


@dataclass(frozen=True, kw_only=True)
class Spool:
    """Where a round's replies are put when they need more than some memory."""

    folder: Path
    """Emptied before each round and removed after it."""
    memory: int
    """Bytes of updates that may be held; more go to files. Mixing then reads through a buffer of about that size."""

    def needed(self, layout: Layout, clients: int) -> bool:
        """Whether so many clients' updates take more than `memory`.

        Raises ValueError where not even one piece of their columns fits into it.
        """
        if 4 * clients * layout.P <= self.memory:
            return False
        least = 4 * clients * min(NARROW, layout.P)
        if least > self.memory:
            raise ValueError(
                f"memory={self.memory / 1e6:g} MB: reading {clients} clients' updates piece by piece takes "
                f"{least / 1e6:.3g} MB; give at least memory={-(-least // 10**6)}, or 0 to hold all of them"
            )
        return True


class FileRows:
    """As `matfl.server.updates.Rows`, with a file for each reply instead of a row of a matrix in memory."""

    def __init__(self, layout: Layout, spool: Spool, device: torch.device) -> None:
        self.layout, self.spool, self.device = layout, spool, device
        self.files: dict[int, Path] = {}
        self.close()
        spool.folder.mkdir(parents=True)

    def add(self, reply: ClientUpdate) -> None:
        """Write a reply to its file. Raises ValueError naming the client and the tensor when a shape is wrong."""
        file = self.spool.folder / f"client-{reply.client}.safetensors"
        try:
            save_update(file, self.layout, reply)
        except ValueError as error:
            raise ValueError(f"client {reply.client}: {error}") from None
        self.files[reply.client] = file

    def updates(self) -> Updates:
        """What has come so far, in the files."""
        return Updates.stream(self.layout, self.files, memory=self.spool.memory, device=self.device)

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.spool.folder, ignore_errors=True)
