"""What a model draws and how it sees the data: images as a grid, points as a cloud."""

__all__ = ["draw", "picture", "reconstructions_of", "samples_of"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.image import imsave
from torch import Tensor

from emgen.estimators.progress import each
from emgen.figures.image_grid import image_grid
from emgen.figures.point_cloud import point_cloud
from emgen.roles import Latent, serves

TOGETHER = 4096  # draws that are decoded at once


def draw(x: Tensor, data: Tensor | None, path: Path) -> Path | None:
    """Write the picture of samples `x` beside their data to `path`; None if their shape cannot be
    drawn.
    """
    pixels = picture(x, data)
    if pixels is None:
        return None
    imsave(path, pixels)
    return path


def picture(x: Tensor, data: Tensor | None, seen: Tensor | None = None) -> np.ndarray | None:
    """RGB pixels (height, width, 3) of samples, or of reconstructions with what was seen; None for
    shapes beyond both.

    Args:
        x: samples or reconstructions, (N, 1 or 3, H, W) or (N, 2).
        data: the training rows, whose range sets black and white or the axes; None takes that of
            `x`.
        seen: the rows that were reconstructed, in the order of `x`.

    >>> picture(torch.rand(16, 1, 8, 8), torch.rand(9, 1, 8, 8)).shape, picture(torch.rand(16, 5), torch.rand(9, 5))
    ((121, 475, 3), None)
    """
    x = x.detach().float().cpu()
    seen = None if seen is None else seen.detach().float().cpu()
    if x.dim() == 4 and x.shape[1] in (1, 3):
        return image_grid(x, x if data is None else data, seen)
    if x.dim() == 2 and x.shape[1] == 2:
        return point_cloud(x, data, seen)
    return None


def samples_of(model: Any, n: int) -> Tensor | None:
    """`n` draws of a model as one wants to see them: images as means E[x|z]; None from a model that
    cannot be drawn from.
    """
    if serves(model, Latent):
        sizes = [min(TOGETHER, n - done) for done in range(0, n, TOGETHER)]
        return torch.cat([_drawn(model, size) for size in each(sizes, "drawing")])
    for name in ("means", "rsample", "sample"):
        if hasattr(model, name):
            draws = getattr(model, name)(n)
            return draws if isinstance(draws, Tensor) else None
    return None


def _drawn(model: Any, n: int) -> Tensor:
    z = model.prior().sample(torch.Size((n,)))
    return _seen_of(model.likelihood(z))


def reconstructions_of(model: Any, x: Tensor) -> Tensor:
    """x as it comes back from one draw of its latents z ~ q(z|x)."""
    z = model.recognition(x).sample()
    return _seen_of(model.likelihood(z))


def _seen_of(p: Any) -> Tensor:
    """The mean of images; a draw of anything else, whose spread is what one wants to see."""
    if len(p.event_shape) != 3:
        return p.sample()
    mean = p.mean
    return mean if bool(mean.isfinite().all()) else p.sample()
