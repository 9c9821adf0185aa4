"""Data of one's own: domains whose pictures and labels come from arrays in memory or from a folder of files.

>>> import matfl, numpy
>>> from matfl.tasks.kinds import Quantity
>>> height = matfl.TASKS.register(Quantity(name="height", title="Height", unit="m"))
>>> def some(n):
...     return {"images": numpy.zeros((n, 3, 32, 32), numpy.uint8), "height": numpy.ones((n, 32, 32), numpy.float32)}
>>> fields = matfl.DOMAINS.register(matfl.from_arrays("fields", train=some(8), val=some(2)))
>>> dict(fields.channels)
{'height': 1}

Its tasks are then `fields/height`, in configs, runs and on the command line (from a plug-in). What is trained on is
named by a fingerprint of all contents, which a run's provenance holds: a run is not gone on with on other data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from matfl.data.cache import DataError
from matfl.data.decoded import Picture, load_decoded, sound
from matfl.data.pictures import open_picture, picture_size, regular, rgb
from matfl.data.real import evenly
from matfl.data.split import Split
from matfl.tasks.task import TASKS, Domain, Task

__all__ = ["ArraySource", "FolderSource", "OwnReader", "from_arrays", "from_folder"]

SPLITS = ("train", "val")
RESAMPLING = 2
"""Raised whenever the arrays that follow from the same files change."""


@dataclass(frozen=True, slots=True)
class OwnReader:
    """Reader 'own': of domains that bring their data along (`Domain.source`)."""

    name: str = "own"

    def version(self, domain: Domain) -> dict[str, Any]:
        """The fingerprint of the domain's data."""
        return {f"domain {domain.name}": _source(domain).fingerprint}

    def load(
        self,
        domain: Domain,
        split_name: str,
        *,
        count: int,
        size: tuple[int, int],
        seed: int = 0,
        data_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        progress: bool = False,
    ) -> Split:
        """See `Reader.load`; `count` images at equal distances, or all for 0. Nothing is read from `data_dir`."""
        source = _source(domain)
        return load_decoded(
            domain,
            split_name,
            evenly(source.ids[split_name], count, split_name, f"{split_name} of domain {domain.name!r}"),
            partial(source.open, split_name),
            size=size,
            key={"own": source.fingerprint, "resampling": RESAMPLING},
            cache_dir=cache_dir,
            progress=progress,
            processes=source.processes,
            complete=True,
        )


def _source(domain: Domain) -> ArraySource | FolderSource:
    if not isinstance(domain.source, ArraySource | FolderSource):
        raise DataError(
            f"domain {domain.name!r} has no data: make it with matfl.data.from_arrays or matfl.data.from_folder"
        )
    return domain.source


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Data in this process's memory. A pickle of it, and so another process, holds the fingerprint without the arrays:
    there they come from the cache, where the first process that asks for a split has put it."""

    fingerprint: str
    ids: Mapping[str, tuple[str, ...]] = field(compare=False, repr=False)
    """Split name -> ids of its images."""
    arrays: Mapping[str, Mapping[str, np.ndarray]] = field(compare=False, repr=False)
    """Split name -> 'images' and tasks -> array; empty in another process."""

    @property
    def processes(self) -> int:
        """Arrays do not travel."""
        return 1

    def __reduce__(self) -> tuple[Any, ...]:
        return ArraySource, (self.fingerprint, self.ids, {})

    def open(self, split_name: str, name: str) -> Picture:
        """One image. Raises DataError in a process that has not the arrays."""
        if split_name not in self.arrays:
            raise DataError(
                f"the arrays with fingerprint {self.fingerprint} are neither in this process nor in its cache: share "
                "the cache (MATFL_CACHE) with the process that made them, or make the domain in a plug-in"
            )
        return ArrayPicture(self.arrays[split_name], self.ids[split_name].index(name))


@dataclass(frozen=True, slots=True)
class ArrayPicture:
    """Image i of a split's arrays."""

    arrays: Mapping[str, np.ndarray]
    i: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.arrays["images"].shape[-2:]
        return height, width

    def image(self) -> np.ndarray:
        """uint8 (h, w, 3)."""
        return np.ascontiguousarray(self.arrays["images"][self.i].transpose(1, 2, 0))

    def label(self, task: str) -> np.ndarray:
        """uint8, or float32."""
        return np.array(self.arrays[task][self.i])


def from_arrays(
    name: str,
    *,
    train: Mapping[str, Any],
    val: Mapping[str, Any],
    channels: Mapping[str, int] | None = None,
    title: str = "",
    **options: Any,
) -> Domain:
    """A domain of arrays in memory; `DOMAINS.register` makes its tasks known.

    Args:
        train: 'images', uint8 (N, 3, H, W), and one array of labels for each task, by its name: (N, H, W), or
            (N, 3, H, W) for directions, of what `Task` says.
        val: likewise, of the same tasks.
        channels: output channels of tasks; for a class map the number of classes, which must be given. Their order is
            that of the tasks, else of `train`.
        options: further fields of `Domain`, such as augmentation, indoor, derived, class_names.

    Without `size` among the options, images enter the network at their own size where both sides are multiples of 8 of
    at least 32; else configs must set `size`. Raises ValueError naming the array, the index, the value and the remedy.

    >>> import matfl, numpy
    >>> draw = numpy.random.default_rng(0)
    >>> def some(n):
    ...     images = draw.integers(0, 256, (n, 3, 32, 32), numpy.uint8)
    ...     return {"images": images, "semseg": images[:, 0] // 128}
    >>> dots = matfl.from_arrays("dots", train=some(8), val=some(2), channels={"semseg": 2})
    >>> matfl.DOMAINS.register(dots).channels["semseg"]
    2
    >>> matfl.run("smoke", tasks="dots", k=2, images_train=0, images_val=0).finished
    True
    """
    known = {split_name: dict(given) for split_name, given in zip(SPLITS, (train, val))}
    tasks = [task for task in (*(channels or {}), *train) if task != "images"]
    outputs = {task: _channels(name, TASKS.find(task), (channels or {}).get(task)) for task in dict.fromkeys(tasks)}
    arrays = {
        split_name: _checked_arrays(f"domain {name!r}, {split_name}", given, outputs)
        for split_name, given in known.items()
    }
    digest = hashlib.sha256()
    for split_name, held in arrays.items():
        for key in ("images", *sorted(outputs)):
            digest.update(f"{split_name}/{key} {held[key].dtype} {held[key].shape}\n".encode())
            digest.update(np.ascontiguousarray(held[key]).data)
    height, width = arrays["train"]["images"].shape[-2:]
    fits = min(height, width) >= 32 and height % 8 == width % 8 == 0
    ids = {s: tuple(f"{name}-{s}-{i:06d}" for i in range(len(held["images"]))) for s, held in arrays.items()}
    options = {"size": (height, width) if fits else None, **options}
    source = ArraySource(digest.hexdigest()[:16], ids, arrays)
    return Domain(name=name, title=title or name, channels=outputs, reader="own", source=source, **options)


def _channels(domain: str, task: Task, given: int | None) -> int:
    """Output channels of a task: as given, else by its kind."""
    if given is not None:
        return given
    if task.output_channels is None:
        raise ValueError(
            f"domain {domain!r}: how many classes has {task.name!r}? Give channels={{{task.name!r}: ...}}, the "
            "background included"
        )
    return task.output_channels


def _checked_arrays(where: str, given: Mapping[str, Any], channels: Mapping[str, int]) -> dict[str, np.ndarray]:
    """A split's arrays in the types that they are kept in."""
    if missing := [key for key in ("images", *channels) if key not in given]:
        raise ValueError(f"{where}: {missing[0]!r} is missing: give 'images' and an array for each task in both splits")
    if surplus := [key for key in given if key != "images" and key not in channels]:
        raise ValueError(f"{where}: {surplus[0]!r} is in one split alone: give the same tasks in both")
    images = np.asarray(given["images"])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or not images.size:
        raise ValueError(
            f"{where}['images'] is {images.dtype} {images.shape}: expected uint8 (N, 3, H, W), red, green and blue "
            "from 0 to 255; for channels last use images.transpose(0, 3, 1, 2)"
        )
    held = {"images": images}
    for key, outputs in channels.items():
        task, label = TASKS[key], np.asarray(given[key])
        vector = (task.target_channels,) if task.target_channels else ()
        expected = (len(images), *vector, *images.shape[2:])
        if label.shape != expected:
            raise ValueError(f"{where}[{key!r}] has shape {label.shape}: expected {expected}, one label for each image")
        held[key] = _kept(f"{where}[{key!r}]", label, task)
        for i, one in enumerate(held[key]):
            if problem := task.problem(one, outputs):
                raise ValueError(f"{where}[{key!r}][{i}]: {problem}")
        if problem := task.implausible(held[key]):
            raise ValueError(f"{where}[{key!r}]: {problem}")
    return held


def _kept(where: str, label: np.ndarray, task: Task) -> np.ndarray:
    """A label in the type in which labels at native size are kept: uint8 or float32. Nothing is rounded or wrapped."""
    if task.target_dtype.is_floating_point:
        if label.dtype.kind not in "fiu":
            raise ValueError(f"{where} is {label.dtype}: expected numbers; convert it with .astype('float32')")
        return label.astype(np.float32)
    if label.dtype.kind not in "iub":
        raise ValueError(f"{where} is {label.dtype}: expected whole numbers; convert it with .astype('uint8')")
    if label.dtype != np.uint8:
        outside = np.argwhere((label < 0) | (label > 255))
        if label.dtype.kind != "b" and len(outside):
            at = tuple(int(i) for i in outside[0])
            raise ValueError(f"{where}[{', '.join(map(str, at))}] is {label[at]}: expected 0 to 255, where 255 is none")
    return label.astype(np.uint8)


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Data in a folder of files: `train/images/ID.png` (or .jpg), `train/TASK/ID.png` (or .npy), and `val` likewise."""

    fingerprint: str
    ids: Mapping[str, tuple[str, ...]] = field(compare=False, repr=False)
    root: Path = field(compare=False)
    channels: Mapping[str, int] = field(compare=False, repr=False)

    @property
    def processes(self) -> int | None:
        """As many as pay."""
        return None

    def open(self, split_name: str, name: str) -> Picture:
        """One image and its labels."""
        return FilePicture(self.root / split_name, name, self.channels)


@dataclass(frozen=True, slots=True)
class FilePicture:
    """Image `name` in a split's folder."""

    folder: Path
    name: str
    channels: Mapping[str, int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) by the image file's header."""
        return picture_size(_file(self.folder / "images", self.name), remedy=_REMEDY)

    def image(self) -> np.ndarray:
        """uint8 (h, w, 3)."""
        path = _file(self.folder / "images", self.name)
        return np.asarray(rgb(open_picture(path, remedy=_REMEDY), path, _REMEDY))

    def label(self, task: str) -> np.ndarray:
        """uint8 or float32, as the task says. Raises DataError naming the file."""
        path, kind = _file(self.folder / task, self.name), TASKS[task]
        if path.suffix == ".npy":
            try:
                values = np.load(path, allow_pickle=False)
            except Exception as error:  # damaged headers fail in many ways
                raise DataError(f"{path} cannot be read as a NumPy array ({error}); {_REMEDY}") from None
        else:
            if kind.target_dtype.is_floating_point:
                raise DataError(f"{path}: numbers are kept as .npy, since a picture would round them; {_REMEDY}")
            picture = open_picture(path, formats=("PNG",), remedy=_REMEDY)
            if picture.mode not in ("L", "P", "1"):
                raise DataError(f"{path} is of mode {picture.mode}: expected one 8-bit channel or palette; {_REMEDY}")
            values = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
            if picture.mode == "1":
                values = (values > 0).astype(np.uint8)
        vector = (kind.target_channels,) if kind.target_channels else ()
        if values.shape != (*vector, *self.size):
            raise DataError(
                f"{path} has shape {values.shape}: expected {(*vector, *self.size)}, as its image; {_REMEDY}"
            )
        try:
            kept = _kept(str(path), values, kind)
        except ValueError as error:
            raise DataError(str(error)) from None
        return sound(kept, kind, self.channels[task], str(path), _REMEDY)


_REMEDY = "mend the file, or take it and its image away"
_ENDINGS = {"images": (".jpg", ".jpeg", ".png"), "label": (".png", ".npy")}


def _file(folder: Path, name: str) -> Path:
    """Where `name` lies in a folder. Raises DataError for no file, and for two."""
    endings = _ENDINGS.get(folder.name, _ENDINGS["label"])
    found = [path for ending in endings if (path := folder / f"{name}{ending}").exists()]
    if len(found) != 1:
        what = f"{found[0]} and {found[1].name} are both there" if found else f"{folder / name}.* is missing"
        raise DataError(f"{what}: expected one file of {', '.join(endings)} for each image; {_REMEDY}")
    return regular(found[0], _REMEDY)


def from_folder(
    name: str, folder: str | Path, *, channels: Mapping[str, int], title: str = "", **options: Any
) -> Domain:
    """A domain of files; `DOMAINS.register` makes its tasks known.

    `folder` holds `train` and `val`, each with `images/ID.jpg` (or .png) and, for every task of `channels`,
    `TASK/ID.png` (8 bits, class indices or 0 and 1) or `TASK/ID.npy` (what `Task` says). `channels` and `options` are
    as for `from_arrays`. Images keep their sizes: they enter the network at `size` (an option, or the config's), and
    are measured at their own. All files are read once for the fingerprint.

    Raises DataError naming the file and the remedy; labels are checked when they are decoded.

    >>> import matfl, numpy
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> def write(name, shape):
    ...     Path("birds", name).parent.mkdir(parents=True, exist_ok=True)
    ...     Image.fromarray(numpy.ones(shape, numpy.uint8)).save(Path("birds", name))
    >>> for split, name in (("train", "a"), ("val", "b")):
    ...     write(f"{split}/images/{name}.png", (48, 64, 3))
    ...     write(f"{split}/semseg/{name}.png", (48, 64))
    >>> birds = matfl.from_folder("birds", "birds", channels={"semseg": 2}, size=(32, 32))
    >>> matfl.DOMAINS.register(birds).size
    (32, 32)
    """
    root = Path(folder).expanduser().absolute()
    outputs = {task: _channels(name, TASKS.find(task), count) for task, count in channels.items()}
    ids: dict[str, tuple[str, ...]] = {}
    digest = hashlib.sha256()
    for split_name in SPLITS:
        images = root / split_name / "images"
        if not images.is_dir():
            raise DataError(f"{images} is no folder: expected {split_name}/images/ID.jpg or .png in {root}")
        names = sorted({path.stem for path in images.iterdir() if path.suffix in _ENDINGS["images"]})
        if not names:
            raise DataError(f"{images} holds no picture: expected ID.jpg or ID.png")
        ids[split_name] = tuple(names)
        for one in names:
            for kind in ("images", *sorted(outputs)):
                path = _file(root / split_name / kind, one)
                with open(path, "rb") as file:
                    digest.update(f"{path.relative_to(root)} ".encode() + hashlib.file_digest(file, "sha256").digest())
    if both := sorted(set(ids["train"]) & set(ids["val"])):
        raise DataError(f"{root}: {both[0]} ({len(both)} in all) is in train and in val: take it out of one")
    source = FolderSource(digest.hexdigest()[:16], ids, root, outputs)
    return Domain(name=name, title=title or name, channels=outputs, reader="own", source=source, **options)
