"""Points in the colours of a mixture's components, ellipses of two standard deviations, and how
they came about.
"""

__all__ = ["bound_history", "mixture_ellipses", "weight_history"]

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from torch import Tensor

from emgen.figures.canvas import COLOURS, Drawing, blank, scatter


def mixture_ellipses(
    model: Any,
    x: Tensor,
    r: Tensor,
    means: Tensor,
    history: Callable[[Axes], None],
    features: Sequence[str],
) -> Drawing:
    """The points, the components that hold any of them, the paths of their means, and a history
    beside them.

    Args:
        model: a mixture of Gaussians.
        x: data (N, 2).
        r: responsibilities (N, K).
        means: of the components after each epoch, (T, K, 2).
        history: draws what stands beside, such as `bound_history` or `weight_history`.
        features: names of the two features.

    Raises:
        ValueError: the data are not two-dimensional.
    """
    if x[0].numel() != 2:
        raise ValueError(
            f"clusters are drawn of two-dimensional points, not of shape {tuple(x.shape[1:])}."
        )
    figure = blank()
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    scatter(left, x, r)

    sizes = r.sum(0).cpu()
    covariances = _covariances(model, x.shape[1]).cpu()
    learnt = bool(model.priors["components"].nu.isfinite().any())  # not held fixed
    kept = [k for k, size in enumerate(sizes.tolist()) if size > 0.5]
    for k in kept:
        if learnt:
            left.add_patch(_ellipse(means[-1, k], covariances[k], COLOURS[k % len(COLOURS)]))
        left.plot(*means[:, k].T, "-", color="black", linewidth=0.8, alpha=0.6)
        left.plot(*means[-1, k], "+", color="black", markersize=10, markeredgewidth=2)

    inertia = _inertia(model.components.mean, x, r)
    told = ", ellipses of two sd" if learnt else f", Σ‖x − μ‖² = {inertia:,.2f}"
    used = f", {len(kept)} in use" if len(kept) < len(sizes) else ""
    left.set(
        xlabel=features[0],
        ylabel=features[1],
        title=f"{len(sizes)} components{used}{told}; lines: paths of the means",
    )
    history(right)

    numbers = {"log_likelihood": float(model.log_prob(x).sum()), "inertia": inertia}
    numbers |= {f"size_{k}": float(size) for k, size in enumerate(sizes)}
    return Drawing(figure, numbers)


def weight_history(axes: Axes, weights: Tensor) -> None:
    """The expected weights of the components after each epoch, (T, K)."""
    epochs = range(1, len(weights) + 1)
    for k in range(weights.shape[1]):
        axes.plot(epochs, weights[:, k], color=COLOURS[k % len(COLOURS)], linewidth=2)
    axes.set(xlabel="epoch", ylabel="E[π_k]", title="weights of the components", ylim=(0, None))


def bound_history(axes: Axes, e: Tensor, m: Tensor) -> None:
    """The bound after each E-step and each M-step, (T,), in nats per datum."""
    blue, orange = COLOURS[:2]
    after_e, after_m = np.arange(len(e)) + 0.5, np.arange(len(m)) + 1.0
    axes.plot(after_e, e, "o", color=blue, markersize=4, label="after the E-step")
    axes.plot(after_m, m, "^", color=orange, markersize=4, label="after the M-step")
    bottom = float(m[0] - 0.1 * (m[-1] - m[0]).abs() - 1e-3)  # the first E-step may lie far below
    axes.set(
        xlabel="epoch",
        ylabel="bound, nats per datum",
        title="the bound never falls",
        ylim=(bottom, None),
    )
    axes.legend(frameon=False, loc="lower right")


def _ellipse(mean: Tensor, covariance: Tensor, colour: str) -> Ellipse:
    """Two standard deviations about the mean."""
    variances, directions = torch.linalg.eigh(covariance)
    width, height = (4 * variances.sqrt()).tolist()
    angle = torch.rad2deg(torch.atan2(directions[1, 0], directions[0, 0]))
    centre = tuple(mean.tolist())
    return Ellipse(
        centre, width, height, angle=float(angle), fill=False, edgecolor=colour, linewidth=2
    )


def _covariances(model: Any, features: int) -> Tensor:
    """(K, D, D) of any family of Gaussians."""
    parts = model.components
    components = len(parts.mean)
    if hasattr(parts, "covariance"):
        return parts.covariance.expand(components, features, features)
    return torch.diag_embed(parts.variance.expand(components, features))


def _inertia(means: Tensor, x: Tensor, r: Tensor) -> float:
    """Σ_ik r_ik ‖x_i − μ_k‖²."""
    squares = torch.cdist(x.to(means), means).square()
    return float((r * squares).sum())
