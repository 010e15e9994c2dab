"""Margin losses and the f-divergences they induce: a critic trained as a classifier measures a
divergence.
"""

from __future__ import annotations

__all__ = [
    "ExponentialLoss",
    "HingeLoss",
    "LeastSquaresLoss",
    "LogisticLoss",
    "LossOfDivergence",
    "MarginLoss",
    "TriangularDiscrimination",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from emgen.divergences.base import FDivergence, curvature_of_pair, elementwise
from emgen.divergences.f import JensenShannon, TotalVariation
from emgen.divergences.powers import SquaredHellinger

_REACH = 345.0  # margins up to sinh 345 = 10^149 are searched: the square of one is still finite


class MarginLoss(FDivergence):
    """A convex loss φ(m) of the margin m = ±v, seen as the f-divergence that its best risk
    measures.

        f(u)                       = φ(0) (u + 1) − inf over m of [φ(m) u + φ(−m)],          f(1) =
        0 activation(v)              = φ(0) − φ(v)         on data
        conjugate_of_activation(v) = φ(−v) − φ(0)        on the model's samples
        bound                      = 2 φ(0) − E_P[φ(v)] − E_Q[φ(−v)]  ≤  D_f(P‖Q)

    so it serves wherever an f-divergence does: what the critic's risk gains over knowing nothing is
    a lower bound on D_f, and the best critic attains it. A subclass overrides `loss` alone; the
    divergence is then found numerically, differentiable twice, and `induces` names it in closed
    form where it has a name.

    Reference: Nguyen, Wainwright & Jordan (2009), On surrogate loss functions and f-divergences.

    >>> float(HingeLoss().generator(torch.tensor(3.0)))
    2.0
    """

    def loss(self, margin: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """φ(m), convex, decreasing at zero."""
        raise NotImplementedError(
            f"{type(self).__name__} must define loss(margin), convex and decreasing at zero"
        )

    def induces(self) -> tuple[FDivergence, float]:
        """A divergence D and a factor c in closed form with D_f = c D; by default D_f itself."""
        return self, 1.0

    def perspective(
        self, log_p: Float[Tensor, "*shape"], log_q: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        named, factor = self.induces()
        whole = super() if named is self else named
        return factor * whole.perspective(log_p, log_q)

    def generator(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        ratio, zero = u.double(), self.loss(torch.zeros_like(u, dtype=torch.float64))
        margin = self._best_margin(ratio)
        return (zero * (ratio + 1) - ratio * self.loss(margin) - self.loss(-margin)).to(u.dtype)

    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.activation(self._best_margin(u.double())).to(u.dtype)

    def activation(self, v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.loss(torch.zeros_like(v)) - self.loss(v)

    def conjugate_of_activation(self, v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.loss(-v) - self.loss(torch.zeros_like(v))

    def conjugate_curvature(self, v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return curvature_of_pair(self.activation, self.conjugate_of_activation, v).clamp_min(
            0
        )  # < 0 where φ rises

    def conjugate(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f*(t) = inf of φ(−m) − φ(0) over the margins m with φ(0) − φ(m) ≥ t, twice
        differentiable.
        """
        named, factor = self.induces()
        if named is not self:  # f = c g, so f*(t) = c g*(t/c)
            return factor * named.conjugate(t / factor)
        goal = t.double()
        with torch.no_grad():
            best = _bisect(
                lambda m: _known(elementwise(self.loss, m), m) >= 0, goal
            )  # where φ is least, or as far as it goes
            m = _bisect(lambda m: (self.activation(m) >= goal) | (m > best), goal).clamp(
                -best, best
            )
            start, value = self.activation(m), self.conjugate_of_activation(m)
            slope = elementwise(self.activation, m)
            u = elementwise(self.conjugate_of_activation, m) / slope
            bend = (
                curvature_of_pair(self.activation, self.conjugate_of_activation, m) / slope.square()
            )
            flat, beyond = (m <= -best) | (slope == 0), self.activation(best) < goal
        step = torch.where(flat | beyond, 0.0, goal - start)
        expanded = value + step * (
            torch.where(flat, 0.0, u) + 0.5 * step * torch.where(flat, 0.0, bend)
        )
        return torch.where(beyond, torch.inf, expanded).to(t.dtype)

    def non_saturating(self) -> FDivergence:
        named, factor = self.induces()
        return super().non_saturating() if named is self else factor * named.non_saturating()

    def _best_margin(self, u: Tensor) -> Tensor:
        """argmin of φ(m) u + φ(−m), by bisection of its slope; a Newton step about it carries
        dm/du.
        """

        def slope(m: Tensor, ratio: Tensor) -> Tensor:
            return elementwise(lambda x: ratio * self.loss(x) + self.loss(-x), m)

        fixed = u.detach()
        with torch.no_grad():
            m = _bisect(lambda m: _known(slope(m, fixed), m) > 0, fixed)
            curvature = elementwise(lambda x: slope(x, fixed), m)
            inverse = torch.where(curvature > 0, 1 / curvature, 0.0).nan_to_num(posinf=0.0)
        return m - inverse * (slope(m, u) - slope(m, fixed))


def _bisect(above: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The margin at which a monotone condition begins to hold, elementwise.

    The search is over arsinh m: a loss with a slow tail, as √(1+m²) − m has, is best at margins
    that are powers of u.
    """
    low, high = (
        torch.full_like(like, -_REACH),
        torch.full_like(like, _REACH + 1),
    )  # never asks at 0, where losses kink
    for _ in range(64):
        middle = (low + high) / 2
        holds = above(middle.sinh())
        low, high = torch.where(holds, low, middle), torch.where(holds, middle, high)
    return high.sinh()


def _known(slope: Tensor, margin: Tensor) -> Tensor:
    """The slope of a convex function of the margin; where it took ∞ from ∞, that of its far side."""
    return torch.where(slope.isnan(), margin, slope)


@dataclass(frozen=True)
class HingeLoss(MarginLoss):
    """φ(m) = max(0, 1 − m) ↔ twice the total variation: the hinge GAN is the total-variation f-GAN."""

    def loss(self, margin: Tensor) -> Tensor:
        return (1 - margin).clamp_min(0)

    def induces(self) -> tuple[FDivergence, float]:
        return TotalVariation(), 2.0


@dataclass(frozen=True)
class ExponentialLoss(MarginLoss):
    """φ(m) = e⁻ᵐ ↔ the squared Hellinger distance; its best margin is half the log density ratio."""

    def loss(self, margin: Tensor) -> Tensor:
        return (-margin).exp()

    def induces(self) -> tuple[FDivergence, float]:
        return SquaredHellinger(), 1.0


@dataclass(frozen=True)
class LogisticLoss(MarginLoss):
    """φ(m) = log(1 + e⁻ᵐ) ↔ the Jensen-Shannon divergence; its best margin is the log density
    ratio.
    """

    def loss(self, margin: Tensor) -> Tensor:
        return softplus(-margin)

    def induces(self) -> tuple[FDivergence, float]:
        return JensenShannon(), 1.0


@dataclass(frozen=True)
class LeastSquaresLoss(MarginLoss):
    """φ(m) = (1 − m)² ↔ the triangular discrimination; its best margin is (p − q)/(p + q)."""

    def loss(self, margin: Tensor) -> Tensor:
        return (1 - margin).square()

    def induces(self) -> tuple[FDivergence, float]:
        return TriangularDiscrimination(), 1.0


@dataclass(frozen=True)
class LossOfDivergence(MarginLoss):
    """The margin losses that induce a given symmetric divergence, one for every convex increasing h
    with h(0) = 0:

        φ(m) = f(0) + h(−m)  for m < 0,      φ(m) = f(0) + f*(−h(m))  for m ≥ 0.

    A margin loss treats the two sides alike, so only f(u) = u f(1/u) are induced by one. For the
    Hellinger distance h(x) = eˣ − 1 is the exponential loss, for total variation h(x) = x is the
    hinge.

    Args:
        divergence: a symmetric f-divergence.
        link: h, applied to margins ≥ 0 elementwise.

    Of f is taken the version f(u) − c (u − 1) for which f(u) = u f(1/u); its divergence is the
    same.

    Raises:
        TypeError: if the divergence is no FDivergence or the link no function of a tensor.
        ValueError: if the divergence is not symmetric or has f(0) = ∞, or if the link is not 0 at 0
            and rising.

    Reference: Nguyen, Wainwright & Jordan (2009), On surrogate loss functions and f-divergences,
    theorem 2.

    >>> LossOfDivergence(SquaredHellinger(), torch.expm1).loss(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([2.7183, 1.0000, 0.3679])
    """

    divergence: FDivergence
    link: Callable[[Tensor], Tensor] = torch.clone

    def __post_init__(self) -> None:
        if not isinstance(self.divergence, FDivergence) or not callable(self.link):
            raise TypeError(f"LossOfDivergence({self.divergence!r}, {self.link!r}): it needs an f-divergence, such as "
                            "SquaredHellinger(), and a function of a tensor, such as torch.expm1.")  # fmt: skip
        u = torch.tensor([0.25, 0.5, 3.0, 9.0], dtype=torch.float64)
        there, back = (
            (self.divergence.generator(u) - self._tilt * (u - 1)),
            u * self.divergence.generator(1 / u),
        )
        if not torch.allclose(there, back - self._tilt * (1 - u), atol=1e-9):
            raise ValueError(f"{self.divergence!r} is not symmetric: f(u) = u f(1/u) fails, so no margin loss induces "
                             "it; use Jensen-Shannon, squared Hellinger or another symmetric one.")  # fmt: skip
        if not self.divergence.generator(u.new_zeros(1)).isfinite():
            raise ValueError(f"{self.divergence!r} has f(0) = infinity, so every loss that induces it is infinite at "
                             "zero; use one that is bounded, such as Jensen-Shannon.")  # fmt: skip
        at_zero, *rising = self.link(
            torch.tensor([0.0, 0.25, 0.5, 1.0, 2.0], dtype=torch.float64)
        ).tolist()
        if (
            abs(at_zero) > 1e-12
            or [at_zero, *rising] != sorted([at_zero, *rising])
            or rising[-1] <= 0
        ):
            raise ValueError(f"link={self.link!r} must be 0 at 0 and rise from there, and is {[at_zero, *rising]} at "
                             "0, .25, .5, 1 and 2; give one such as torch.clone or torch.expm1.")  # fmt: skip

    @cached_property
    def _tilt(self) -> float:
        """c such that f(u) − c (u − 1) is symmetric, from f(u) − u f(1/u) = 2 c (u − 1) at u = 2."""
        u = torch.tensor(2.0, dtype=torch.float64)
        return float(self.divergence.generator(u) - u * self.divergence.generator(1 / u)) / 2

    def loss(self, margin: Tensor) -> Tensor:
        step = self.link(torch.where(margin < 0, -margin, margin))  # |m|, with slope 1 at zero
        top = self.divergence.generator(torch.zeros_like(margin)) + self._tilt
        return top + torch.where(margin < 0, step, self.conjugate(-step))

    def conjugate(self, t: Tensor) -> Tensor:
        return self.divergence.conjugate(t + self._tilt) - self._tilt

    def induces(self) -> tuple[FDivergence, float]:
        return self.divergence, 1.0


@dataclass(frozen=True)
class TriangularDiscrimination(FDivergence):
    """∫ (p−q)²/(p+q): f(u) = (u−1)²/(u+1), f*(t) = (2 − √(1−t))² − 1 for −3 ≤ t ≤ 1.

    Reference: Topsøe (2000), Some inequalities for information divergence and related measures of
    discrimination.
    """

    def generator(self, u: Tensor) -> Tensor:
        return (u - 1).square() / (u + 1)

    def derivative(self, u: Tensor) -> Tensor:
        return 1 - 4 / (u + 1).square()

    def conjugate(self, t: Tensor) -> Tensor:
        root = (1 - t).clamp_min(0).sqrt().clamp_max(2)
        return torch.where(t > 1, math.inf, (2 - root).square() - 1)

    def activation(self, v: Tensor) -> Tensor:
        return 1 - 4 * (2 * logsigmoid(-v)).exp()

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return 4 * (2 * logsigmoid(v)).exp() - 1

    @property
    def domain(self) -> tuple[float, float]:
        return (-math.inf, 1.0)
