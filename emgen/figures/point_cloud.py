"""Two-dimensional samples over the data, or reconstructions joined to what was seen."""

__all__ = ["POINTS", "point_cloud"]

from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from emgen.figures.canvas import COLOURS

POINTS = 2_000  # of the data that are drawn


def point_cloud(x: Tensor, data: Tensor | None, seen: Tensor | None = None) -> np.ndarray:
    """RGB pixels (height, width, 3) of points.

    Args:
        x: samples or reconstructions (N, 2).
        data: rows whose range sets the axes, and which are drawn unless `seen` is given; None takes
            the range of `x`.
        seen: points (N, 2) that were reconstructed as x.
    """
    figure = Figure(figsize=(4.8, 4.8), dpi=100, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()

    grey = data if seen is None else seen
    if seen is not None:
        joined = torch.stack([seen, x], 2).permute(1, 2, 0)  # (2, 2, N)
        axes.plot(*joined, color="0.8", linewidth=0.5, zorder=1)
    if grey is not None:
        rows = grey[:POINTS].detach().float().cpu()
        axes.scatter(*rows.T, s=22, color="0.78", linewidths=0, label="data")
    what = "samples" if seen is None else "reconstructions"
    axes.scatter(*x.T, s=4, color=COLOURS[0], alpha=0.6, linewidths=0, label=what)

    whole = x if data is None else data
    low = whole.min(0).values.float().cpu()
    high = whole.max(0).values.float().cpu()
    margin = 0.15 * (high - low).clamp(min=1e-6)
    low, high = low - margin, high + margin
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False, markerscale=2, fontsize=11)

    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
