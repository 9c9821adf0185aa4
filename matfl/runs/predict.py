"""Dense predictions of a finished (or interrupted) run's task models on image files, as arrays and as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from matfl.data import network_size
from matfl.data.augment import normalise
from matfl.data.pictures import open_picture, regular, rgb
from matfl.models.network import build
from matfl.runs.engine import pick_device
from matfl.runs.run import Run
from matfl.runs.store import RunError, load_checkpoint, stored_round
from matfl.server.server import models_of
from matfl.tasks.task import Pair, pairs

__all__ = ["class_colours", "picture", "predict", "write_predictions"]


def class_colours(n: int) -> np.ndarray:
    """uint8 (n, 3): PASCAL VOC's colours, which spread a class index's bits over the three channels; 0 is black."""
    indices = np.arange(n)
    colours = np.zeros((n, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((indices >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


@torch.no_grad()
def predict(
    run: Run,
    images: Sequence[str | Path],
    *,
    tasks: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Iterator[tuple[Path, Pair, np.ndarray]]:
    """(file, pair, prediction at the image's own size) of every image and chosen pair, pair by pair.

    Predictions: class indices uint8 (h, w) for semseg and human_parts; probabilities float32 (h, w) for sal and edge;
    unit normals float32 (3, h, w); depth in metres float32 (h, w). A pair whose clients keep models of their own is
    predicted by its first client's.

    Raises ValueError for an unknown task or an image that is no whole 8-bit JPEG or PNG file, RunError for a run
    without weights.
    """
    where = pick_device(device)
    known = pairs(run.config.tasks)
    chosen = [pair for pair in known if not tasks or pair.name in tasks]
    for name in tasks or ():
        if name not in {pair.name for pair in known}:
            raise ValueError(f"task {name!r}: this run has {', '.join(pair.name for pair in known)}")
    loaded = [(Path(file), _load(Path(file))) for file in images]
    if not stored_round(run.path, run.config):
        raise RunError(f"{run.path} holds no weights: train it (`matfl run`), records alone cannot predict")
    tensors, _ = load_checkpoint(run.path, run.config)
    states = models_of(run.config, tensors)
    for pair in chosen:
        model = build(run.config, pair).to(where).eval()
        model.load_state_dict(states[pair.name])
        for file, image in loaded:
            height, width = network_size(run.config, pair.domain)
            small = image.resize((width, height), Image.Resampling.BILINEAR)
            batch = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].to(where)
            yield file, pair, _native(model(normalise(batch)), (image.height, image.width), pair)


def _load(file: Path) -> Image.Image:
    remedy = "convert it to an 8-bit JPEG or PNG file"
    return rgb(open_picture(regular(file, "check the path"), remedy=remedy), file, remedy)


def _native(output: torch.Tensor, size: tuple[int, int], pair: Pair) -> np.ndarray:
    """The network's output (1, C, h, w) as what it stands for, at `size`."""
    if pair.task.name in ("semseg", "human_parts"):
        classes = F.interpolate(output, size=size, mode="bilinear", align_corners=False).argmax(1)
        return classes[0].to(torch.uint8).cpu().numpy()
    if pair.task.name == "normals":
        output = F.normalize(output, dim=1)
    elif pair.task.name != "depth":
        output = output.sigmoid()
    output = F.interpolate(output, size=size, mode="bilinear", align_corners=False)
    if pair.task.name == "normals":
        return F.normalize(output, dim=1)[0].cpu().numpy()
    return output[0, 0].cpu().numpy()


def picture(pair: Pair, prediction: np.ndarray) -> Image.Image:
    """A prediction as a picture: colours for classes, normals as RGB, the rest in grey (near depths are dark)."""
    if pair.task.name in ("semseg", "human_parts"):
        return Image.fromarray(class_colours(pair.channels)[prediction])
    if pair.task.name == "normals":
        return Image.fromarray(np.uint8((prediction.transpose(1, 2, 0) + 1) * 127.5))
    if pair.task.name == "depth":
        low, high = float(prediction.min()), float(prediction.max())
        prediction = (prediction - low) / (high - low) if high > low else np.zeros_like(prediction)
    return Image.fromarray(np.uint8(prediction * 255))


def write_predictions(
    run: Run,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Iterator[Path]:
    """Write `<image's stem>-<domain>-<task>.png` for every image and chosen task to `out`, and yield each path.

    Raises ValueError when two images share a stem, as the second's pictures would replace the first's.
    """
    stems = [Path(image).stem for image in images]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ValueError(f"two images are called {stem!r}: predict them into different folders (--out)")
    folder = Path(out)
    for file, pair, prediction in predict(run, images, tasks=tasks, device=device):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{file.stem}-{pair.domain.name}-{pair.task.name}.png"
        picture(pair, prediction).save(path)
        yield path
