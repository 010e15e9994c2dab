"""Adaptive quadrature of a batch of functions of one real variable, differentiable in their
parameters.
"""

from __future__ import annotations

__all__ = ["integrate"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

_ORDER, _DEPTH, _PANELS = 16, 40, 2**14
# where w ends: e^-36 scales from a bound x rounds to it, unless the bound is 0; e^100 from the
# centre even x^6 is a number
_BOUND, _ZERO, _FAR = -36.0, -300.0, 100.0


def integrate(
    function: Callable[[Tensor], Tensor],
    marks: Tensor,
    support: tuple[float, float] = (-math.inf, math.inf),
    tolerance: float = 1e-11,
) -> tuple[Tensor, Tensor]:
    """∫ function(x) dx over the support, and an estimate of its error.

    x is sinh, exp or logistic in the variable of integration, so heavy tails and singular ends are
    both met. Panels are halved until the Gauss-Legendre rule on a panel agrees with the sum over
    its halves; they are found without gradients and the final sum is differentiable. An integral of
    a non-negative function that has not converged at the cut-off is +∞.

    Args:
        function: maps nodes (N,) to values (N, *batch), float64.
        marks: (M,) points near which the mass lies: modes, and modes ± a few standard deviations.
        support: the interval; either end may be infinite.
        tolerance: accepted error of a panel, relative to the largest total seen, or absolute below
            one.

    Raises:
        ValueError: the function keeps changing on too many panels, as a density that comes again
            and again does.

    >>> value, error = integrate(lambda x: (-x.square() / 2).exp(), torch.tensor([-1.0, 0.0, 1.0]))
    >>> round(float(value**2 / 2), 10) == round(math.pi, 10)
    True
    """
    marks = marks.detach().double().flatten().unique()
    forward, inverse, (first, last) = _change_of_variable(marks, *support)
    nodes, weights = _legendre(marks)

    def panels_sum(edges: Tensor) -> Tensor:
        half = (edges[:, 1] - edges[:, 0]) / 2
        w = (edges.mean(1, keepdim=True) + half[:, None] * nodes).flatten()
        x, log_slope = forward(w)
        values = function(x)
        values = values * log_slope.exp().reshape(-1, *([1] * (values.dim() - 1)))
        values = values.unflatten(0, (len(edges), _ORDER))
        scale = (half[:, None] * weights).reshape(len(edges), _ORDER, *([1] * (values.dim() - 2)))
        return (values * scale).sum(1)

    with torch.no_grad():
        regular = torch.arange(_ZERO, _FAR + 1, 4.0, dtype=marks.dtype, device=marks.device)
        knots = torch.cat([regular, inverse(marks)])
        knots = knots[knots.isfinite()].clamp(first, last).unique()
        pending = torch.stack([knots[:-1], knots[1:]], 1)
        accepted, error, total = [], 0.0, None
        coarse = panels_sum(pending)
        for depth in range(_DEPTH):
            middle = pending.mean(1)
            left, right = (
                torch.stack([pending[:, 0], middle], 1),
                torch.stack([middle, pending[:, 1]], 1),
            )
            # both halves at once, for a call costs more than its nodes
            fine = panels_sum(torch.cat([left, right]))
            fine = torch.stack(fine.split(len(left)), 1)
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
                raise ValueError(
                    f"after {depth + 1} halvings {len(pending)} panels of the quadrature are still"
                    " not settled: one of the densities has no integral on its declared support,"
                    " or far too many peaks."
                )
        panels = torch.cat(accepted)
    sums = panels_sum(panels)
    value = sums.sum(0)
    with torch.no_grad():
        diverges, missing = torch.zeros_like(value, dtype=torch.bool), torch.zeros_like(value)
        for away in (
            panels - first,
            last - panels,
        ):  # what the two outermost stretches of either end hold
            outer, inner = (
                _over(sums, (away.amin(1) >= near) & (away.amax(1) <= near + 4)).abs()
                for near in (0, 4)
            )
            diverges |= (outer > 1e-3 * value.abs()) & (
                outer > 0.95 * inner
            )  # no integrable tail leaves so much so far out
            missing += torch.where(
                outer < inner, outer.square() / (inner - outer), 0.0
            )  # the rest of a geometric series
    infinite = diverges | sums.isinf().any(0)
    return torch.where(infinite, torch.inf, value), torch.where(infinite, 0.0, error + missing)


def _over(sums: Tensor, chosen: Tensor) -> Tensor:
    """The total over the chosen panels."""
    return torch.where(chosen.reshape(-1, *([1] * (sums.dim() - 1))), sums, 0.0).sum(0)


def _change_of_variable(marks: Tensor, low: float, high: float):
    """w ↦ (x, log dx/dw), x ↦ w, and the ends of w, for the line, a half line or an interval."""
    centre, scale = marks.median(), (marks.max() - marks.min()).clamp_min(1e-300)
    if math.isfinite(low) and math.isfinite(high):
        width = high - low
        log_sigmoid = torch.nn.functional.logsigmoid
        return (lambda w: (low + width * w.sigmoid(), math.log(width) + log_sigmoid(w) + log_sigmoid(-w)),
                lambda x: ((x - low) / width).logit(), (_ZERO if low == 0 else _BOUND, -_BOUND))  # fmt: skip
    if math.isfinite(low) or math.isfinite(high):
        origin, sign = (low, 1.0) if math.isfinite(low) else (high, -1.0)
        return (lambda w: (origin + sign * scale * w.exp(), scale.log() + w),
                lambda x: ((x - origin) * sign / scale).log(), (_ZERO if origin == 0 else _BOUND, _FAR))  # fmt: skip
    return (lambda w: (centre + scale * w.sinh(), scale.log() + w.cosh().log()),
            lambda x: ((x - centre) / scale).asinh(), (-_FAR, _FAR))  # fmt: skip


def _legendre(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on [−1, 1], from the eigenvectors of its Jacobi
    matrix.
    """
    k = torch.arange(1, _ORDER, dtype=like.dtype, device=like.device)
    off = k / (4 * k.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0].square()
