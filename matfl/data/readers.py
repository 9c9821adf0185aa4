"""Readers: who makes a domain's splits, by the name that `Domain.reader` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from matfl.config.run_config import RunConfig
from matfl.core.registry import Registry
from matfl.data.split import Split, network_size
from matfl.tasks.task import DOMAINS, Domain

__all__ = ["READERS", "Reader", "load_split"]


class Reader(Protocol):
    """Makes the splits of every domain that names it."""

    @property
    def name(self) -> str:
        """What `Domain.reader` says."""

    def load(
        self,
        domain: Domain,
        split_name: str,
        *,
        count: int,
        size: tuple[int, int],
        seed: int,
        data_dir: str | Path | None,
        cache_dir: str | Path | None,
        progress: bool,
    ) -> Split:
        """The 'train' or 'val' split at network size (height, width), from the cache or made and kept there.

        `count` images, or all for 0; `seed` is `config.data_seed`, for readers that draw. Raises DataError for whatever
        is missing or damaged, naming the file and the remedy.
        """

    def version(self, domain: Domain) -> dict[str, Any]:
        """What beside the config decides the arrays, as JSON; a stored run of another version is not gone on with."""


READERS: Registry[Reader] = Registry("reader", builtin="matfl.data.standard")
"""Readers by name; a plug-in adds its own with `READERS.register`."""


def load_split(
    config: RunConfig,
    domain: Domain | str,
    split_name: str,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> Split:
    """The 'train' or 'val' split of a domain at the network size of `config`, made on first use and cached.

    Rendered domains hold `config.images_train` or `images_val` pictures of `config.data_seed`. Real ones are decoded
    from PASCAL_MT, PASCALContext, NYUD_MT or NYUDv2 in `data_dir` (default: $MATFL_DATA); a limit on their images
    takes that many at equal distances in the split file. The cache ($MATFL_CACHE, else ~/.cache/matfl) is keyed by
    all that decides the arrays; it may be shared by processes and killed at any time.

    Raises DataError for whatever is missing or damaged, naming the file and the remedy.
    """
    domain = DOMAINS.find(domain) if isinstance(domain, str) else domain
    if split_name not in ("train", "val"):
        raise ValueError(f"split {split_name!r}: choose 'train' or 'val'")
    return READERS.find(domain.reader).load(
        domain,
        split_name,
        count=config.images_train if split_name == "train" else config.images_val,
        size=network_size(config, domain),
        seed=config.data_seed,
        data_dir=data_dir,
        cache_dir=cache_dir,
        progress=progress,
    )
