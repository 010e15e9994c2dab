"""Adaptive quadrature of a batch of functions of one real variable, differentiable in their parameters."""

from __future__ import annotations

__all__ = ["integrate"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

_ORDER, _DEPTH, _PANELS = 16, 40, 2**14
_EDGE = 34.0  # e^34 scales from the centre, or e^-34 of them from a bound, is where a line is cut off


def integrate(
    function: Callable[[Tensor], Tensor],
    marks: Tensor,
    support: tuple[float, float] = (-math.inf, math.inf),
    tolerance: float = 1e-11,
) -> tuple[Tensor, Tensor]:
    """∫ function(x) dx over the support, and an estimate of its error.

    x is sinh, exp or logistic in the variable of integration, so heavy tails and singular ends are both met. Panels
    are halved until the Gauss-Legendre rule on a panel agrees with the sum over its halves; they are found without
    gradients and the final sum is differentiable. An integral of a non-negative function that has not converged at
    the cut-off is +∞.

    Args:
        function: maps nodes (N,) to values (N, *batch), float64.
        marks: (M,) points near which the mass lies: modes, and modes ± a few standard deviations.
        support: the interval; either end may be infinite.
        tolerance: accepted error of a panel, relative to the largest total seen, or absolute below one.

    Raises:
        ValueError: the function keeps changing on too many panels, as a density that comes again and again does.

    >>> value, error = integrate(lambda x: (-x.square() / 2).exp(), torch.tensor([-1.0, 0.0, 1.0]))
    >>> round(float(value**2 / 2), 10) == round(math.pi, 10)
    True
    """
    marks = marks.detach().double().flatten().unique()
    forward, inverse = _change_of_variable(marks, *support)
    nodes, weights = _legendre(marks)

    def panels_sum(edges: Tensor) -> Tensor:
        half = (edges[:, 1] - edges[:, 0]) / 2
        w = (edges.mean(1, keepdim=True) + half[:, None] * nodes).flatten()
        x, log_slope = forward(w)
        values = function(x) * log_slope.exp().reshape(-1, *([1] * (function(x[:1]).dim() - 1)))
        values = values.unflatten(0, (len(edges), _ORDER))
        scale = (half[:, None] * weights).reshape(len(edges), _ORDER, *([1] * (values.dim() - 2)))
        return (values * scale).sum(1)

    with torch.no_grad():
        regular = torch.linspace(-_EDGE, _EDGE, 17, dtype=marks.dtype, device=marks.device)
        inside = inverse(marks).clamp(-_EDGE, _EDGE)
        knots = torch.cat([regular, inside[inside.isfinite()]]).unique()
        pending = torch.stack([knots[:-1], knots[1:]], 1)
        accepted, error, total = [], 0.0, None
        coarse = panels_sum(pending)
        for depth in range(_DEPTH):
            middle = pending.mean(1)
            left, right = torch.stack([pending[:, 0], middle], 1), torch.stack([middle, pending[:, 1]], 1)
            fine = torch.stack([panels_sum(left), panels_sum(right)], 1)
            difference = (fine.sum(1) - coarse).abs()
            total = fine.sum((0, 1)) if total is None else torch.maximum(total, fine.sum((0, 1)))
            settled = ~(difference > tolerance * (1 + total)).reshape(len(pending), -1).any(1)
            if depth == _DEPTH - 1:
                settled[:] = True
            accepted += [left[settled], right[settled]]
            error = error + difference[settled].nan_to_num(0.0).sum(0)
            pending = torch.cat([left[~settled], right[~settled]])
            coarse = torch.cat([fine[~settled, 0], fine[~settled, 1]])
            if not len(pending):
                break
            if len(pending) > _PANELS:
                raise ValueError(f"after {depth + 1} halvings {len(pending)} panels of the quadrature are still not settled: one of "
                                 "the densities has no integral on its declared support, or far too many peaks.")
        panels = torch.cat(accepted)
    sums = panels_sum(panels)
    value = sums.sum(0)
    with torch.no_grad():
        tail = (sums * (panels.abs().amax(1) > _EDGE - 4).reshape(-1, *([1] * (sums.dim() - 1)))).sum(0)
        diverges = tail.abs() > 1e-3 * value.abs()  # no integrable tail leaves so much so far out
    return torch.where(diverges, torch.inf, value), torch.where(diverges, 0.0, error)


def _change_of_variable(marks: Tensor, low: float, high: float):
    """w ↦ (x, log dx/dw) and x ↦ w for the line, a half line or an interval."""
    centre, scale = marks.median(), (marks.max() - marks.min()).clamp_min(1e-300)
    if math.isfinite(low) and math.isfinite(high):
        width = high - low
        log_sigmoid = torch.nn.functional.logsigmoid
        return (lambda w: (low + width * w.sigmoid(), math.log(width) + log_sigmoid(w) + log_sigmoid(-w)),
                lambda x: ((x - low) / width).logit())  # fmt: skip
    if math.isfinite(low) or math.isfinite(high):
        origin, sign = (low, 1.0) if math.isfinite(low) else (high, -1.0)
        return (lambda w: (origin + sign * scale * w.exp(), scale.log() + w),
                lambda x: ((x - origin) * sign / scale).log())  # fmt: skip
    return (lambda w: (centre + scale * w.sinh(), scale.log() + w.cosh().log()),
            lambda x: ((x - centre) / scale).asinh())  # fmt: skip


def _legendre(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on [−1, 1], from the eigenvectors of its Jacobi matrix."""
    k = torch.arange(1, _ORDER, dtype=like.dtype, device=like.device)
    off = k / (4 * k.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0].square()
