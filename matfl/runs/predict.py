"""Dense predictions of a finished (or interrupted) run's task models on image files, as arrays and as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from matfl.client.training import answers
from matfl.core.files import replace_file
from matfl.data import network_size
from matfl.data.decoded import resize_image
from matfl.data.pictures import open_picture, regular, rgb
from matfl.models.network import Model, build
from matfl.runs.engine import pick_device
from matfl.runs.store import RunError, load_checkpoint, stored_round
from matfl.server.server import models_of
from matfl.tasks.task import Pair, parts_of

if TYPE_CHECKING:
    from matfl.runs.run import Run

__all__ = ["predict", "task_models", "write_predictions"]


def predict(
    run: Run,
    images: Sequence[str | Path],
    *,
    tasks: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Iterator[tuple[Path, Pair, np.ndarray]]:
    """(file, pair, prediction at the image's own size) of every image and chosen pair, pair by pair.

    Predictions are answers as the metrics measure them (`Task.answer`): class indices uint8 (h, w) for class maps;
    probabilities float32 (h, w) for binary maps and edges; unit vectors float32 (3, h, w) for directions; numbers
    float32 (h, w) for quantities, depth in metres. A pair whose clients keep models of their own is predicted by its
    first client's.

    Raises ValueError for an unknown task or an image that is no whole 8-bit JPEG or PNG file, RunError for a run
    without weights.
    """
    where = pick_device(device)
    known = parts_of(run.config.tasks)
    chosen = [pair for pair in known if not tasks or pair.name in tasks]
    for name in tasks or ():
        if name not in {pair.name for pair in known}:
            raise ValueError(f"task {name!r}: this run has {', '.join(pair.name for pair in known)}")
    loaded = [(Path(file), _load(Path(file))) for file in images]
    for pair in chosen:
        model = run.models[pair.name].to(where)
        for file, image in loaded:
            small = resize_image(np.asarray(image), network_size(run.config, pair.domain))
            batch = torch.from_numpy(small.copy())[None]
            (answer,) = answers(model, batch, pair, run.config, size=(image.height, image.width))
            yield file, pair, answer[0].cpu().numpy()
        model.cpu()


def task_models(run: Run) -> dict[str, Model]:
    """The run's model of each pair by name, on the CPU, in evaluation mode. RunError for a run without weights.

    Clients with several tasks have one model for each, which share their backbone's weights.
    """
    if not stored_round(run.path, run.config):
        raise RunError(
            f"{run.path} holds no weights: train it (`matfl run`, or a workspace with records=()), records alone "
            "cannot predict"
        )
    tensors, _ = load_checkpoint(run.path, run.config)
    states, models = models_of(run.config, tensors), {}
    for pair in parts_of(run.config.tasks):
        models[pair.name] = build(run.config, pair).eval()
        models[pair.name].load_state_dict(states[pair.name])
    return models


def _load(file: Path) -> Image.Image:
    remedy = "convert it to an 8-bit JPEG or PNG file"
    return rgb(open_picture(regular(file, "check the path"), remedy=remedy), file, remedy)


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
        path = folder / f"{file.stem}-{pair.domain.name}-{pair.label}.png"
        replace_file(path, partial(Image.fromarray(pair.task.draw(prediction, pair.channels)).save, format="PNG"))
        yield path
