"""How a device rounds, as a name: where it differs a run does not repeat to the byte.

Which kernels a processor gets decides the order of sums. After hundreds of steps that moves scores by percents, so a
comparison belongs on one machine (`matfl.paper.studies.origins`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from matfl.core.files import digest

__all__ = ["rounding"]


def rounding(device: torch.device | str, dtype: torch.dtype = torch.float32) -> str:
    """12 hexadecimal digits over the gradients of one small fixed training step on `device`, weights in `dtype`.

    Convolution, matrix product, softmax and their gradients: what training consists of. One thread on a CPU and
    deterministic kernels on a GPU are the caller's affair (`matfl.runs.engine.repeatable`).

    >>> rounding("cpu") == rounding("cpu")
    True
    """
    draw = np.random.default_rng(0)
    images, kernel, matrix = (
        torch.from_numpy(draw.standard_normal(shape, dtype=np.float32)).to(device, dtype).requires_grad_()
        for shape in ((8, 16, 32, 32), (32, 16, 3, 3), (32, 40))
    )
    features = functional.conv2d(images, kernel, padding=1).relu()
    scores = features.permute(0, 2, 3, 1).reshape(-1, 32) @ matrix
    loss = functional.log_softmax(scores.float(), dim=1).square().mean()
    gradients = torch.autograd.grad(loss, (images, kernel, matrix))
    return digest(b"".join(each.detach().float().cpu().numpy().tobytes() for each in (loss, *gradients)))[:12]
