"""What a node's client keeps between rounds (`Local.memory`), on the node's own disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.data.cache import cache_folder
from matfl.server.files import FileTensors, save_tensors

__all__ = ["Place", "run_name"]


def run_name(config: RunConfig, provenance: Mapping[str, Any]) -> str:
    """What names a run to its clients: the same when it is resumed, another one when it is begun anew."""
    begun = hashlib.sha256(str(provenance.get("started")).encode()).hexdigest()[:12]
    return f"{config.hash}-{begun}"


@dataclass(frozen=True)
class Place:
    """A client's files of one run: one for each of its last two rounds."""

    folder: Path
    client: int

    @classmethod
    def of(cls, cache_dir: str | None, run: str, client: int) -> Place:
        """In the node's cache folder."""
        if not run.replace("-", "").isalnum():
            raise ValueError(f"run {run!r}: expected letters and digits")
        return cls(cache_folder(cache_dir) / "memory" / run, client)

    def _file(self, round: int) -> Path:
        return self.folder / f"client-{self.client}-round-{round}.safetensors"

    def load(self, round: int, device: torch.device) -> dict[str, Tensor]:
        """What it kept after `round`; nothing after round 0. Raises ValueError when that is lost or damaged."""
        if round == 0:
            return {}
        try:
            return {name: tensor.to(device) for name, tensor in FileTensors.of(self._file(round)).items()}
        except OSError:
            raise ValueError(
                f"client {self.client} lost what it kept after round {round} (memory in its cache folder): give the "
                "node the cache folder that it had, or begin the federation anew"
            ) from None

    def save(self, round: int, memory: Mapping[str, Tensor], *, keep: int) -> None:
        """Store what it keeps after `round`; of earlier rounds only `keep` stays, from which the server may go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(self._file(round), {name: tensor.cpu() for name, tensor in memory.items()})
        for file in self.folder.glob(f"client-{self.client}-round-*.safetensors"):
            if file not in (self._file(round), self._file(keep)):
                file.unlink(missing_ok=True)
