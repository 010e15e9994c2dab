"""What the pictures share: an empty figure, its colours, points in the colours of their components,
and saving.
"""

__all__ = ["COLOURS", "Drawing", "blank", "saved", "scatter"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = (
    "#2a6fdb",  # blue
    "#e8833a",  # orange
    "#2f9e63",  # green
    "#c8433f",
    "#8a63c7",
    "#8c6d52",
    "#d670b1",
    "#4d4d4d",
)


@dataclass(frozen=True)
class Drawing:
    """A figure, and what it shows in numbers, by name."""

    figure: Figure
    numbers: dict[str, float] = field(default_factory=dict)


def blank(width: float = 10.0, height: float = 4.2) -> Figure:
    """An empty figure of so many inches that needs no display."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def saved(figure: Figure, path: Path) -> np.ndarray:
    """Write a figure, its axes open at the top and the right, to `path`; returns its pixels
    (height, width, 3).
    """
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    canvas: Any = figure.canvas
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def scatter(axes: Axes, x: Tensor, r: Tensor) -> None:
    """Points (N, 2) in the colours of their components, mixed as their responsibilities r (N, K)
    are; the undecided are ringed.
    """
    components = r.shape[1]
    palette = np.array([to_rgb(COLOURS[k % len(COLOURS)]) for k in range(components)])
    colours = (r.cpu().numpy() @ palette).clip(0, 1)

    entropy = -torch.xlogy(r, r).sum(1)
    undecided = (entropy / np.log(max(2, components))).cpu().numpy()  # from 0 to 1

    axes.scatter(
        *x.T.cpu().numpy(),
        s=18,
        c=colours,
        edgecolors="black",
        linewidths=2 * undecided,
    )
