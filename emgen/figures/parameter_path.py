"""The path of EM over the contours of log p(x|θ), for a mixture of two coins."""

__all__ = ["parameter_path"]

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from emgen.figures.canvas import COLOURS, Drawing, blank

BLUE, ORANGE = COLOURS[:2]
BELOW_THE_TOP = (16, 8, 4, 2, 1, 0.5, 0.25, 0.1, 0.02)  # nats, of the contours


def parameter_path(
    model: Any, x: Tensor, p: Tensor, log_p: Tensor, weights: Tensor, names: Sequence[str]
) -> Drawing:
    """Where the two coins were after each step, and how probable they made all rows.

    Args:
        model: the mixture of two coins.
        x: data (N, 1).
        p: the coins' probabilities of heads after each step, (T, 2).
        log_p: log p(x|θ) of all rows together, (T,).
        weights: of the coins, the last, (2,).
        names: of the two coins' parameters.
    """
    figure = blank()
    plane, climb = figure.subplots(1, 2)

    _contours(plane, model, x, p.dtype)
    plane.plot(p[:, 0], p[:, 1], ".-", color="black", linewidth=1.5)
    _mark(plane, p[0], "start", marker="o", size=8)
    _mark(plane, p[-1], f"after {len(p) - 1} steps", marker="*", size=14)
    plane.legend(loc="lower left")
    plane.set(
        xlabel=names[0],
        ylabel=names[1],
        aspect="equal",
        title="log p(x|θ), dark is high, and the path of EM",
    )

    climb.plot(range(len(log_p)), log_p, "o-", color=BLUE, markersize=4)
    steps: Any = climb.xaxis.get_major_locator()
    steps.set_params(integer=True)
    climb.set(
        xlabel="EM step",
        ylabel="log p(x|θ) of all rows, nats",
        title="the log-likelihood never falls",
    )

    numbers = {
        names[0]: float(p[-1, 0]),
        names[1]: float(p[-1, 1]),
        "weight": float(weights[0]),
        "log_likelihood": float(log_p[-1]),
    }
    return Drawing(figure, numbers)


def _contours(axes: Axes, model: Any, x: Tensor, dtype: torch.dtype) -> None:
    ticks = torch.linspace(0.02, 0.98, 33, dtype=dtype)
    height = _log_p_on(ticks, model, x)
    top = float(height.max())
    levels = top - np.array(BELOW_THE_TOP)
    shades = axes.contourf(ticks, ticks, height, levels=levels, cmap="Blues", extend="both")
    shades.set_clim(levels[0], top + (top - levels[0]))  # light enough to write on
    axes.contour(
        ticks,
        ticks,
        height,
        levels=levels,
        colors="white",
        linewidths=0.6,
        linestyles="solid",
    )


def _log_p_on(ticks: Tensor, model: Any, x: Tensor) -> Tensor:
    """log p(x|θ) of all rows for every pair of probabilities, (second coin, first coin)."""
    components = model.components
    trials = getattr(components, "trials", 1)
    moved = deepcopy(model)
    height = torch.empty(len(ticks), len(ticks))
    for i, b in enumerate(ticks):
        for j, a in enumerate(ticks):
            moved.components = components.given(mean=[[a * trials], [b * trials]])
            height[i, j] = moved.log_prob(x).sum()
    return height


def _mark(axes: Axes, at: Tensor, when: str, marker: str, size: int) -> None:
    axes.plot(
        *at,
        marker,
        color=ORANGE,
        markeredgecolor="black",
        markersize=size,
        label=f"{when}: {at[0]:.3f}, {at[1]:.3f}",
    )
