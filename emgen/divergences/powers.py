"""The divergences made of a power of the density ratio: χ² both ways, Hellinger, and the family
they belong to.
"""

from __future__ import annotations

__all__ = ["Alpha", "Neyman", "Pearson", "SquaredHellinger", "kl_perspective", "power"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from emgen.divergences.base import FDivergence
from emgen.divergences.numerics.closed_forms import log_affinity, torch_kl


@dataclass(frozen=True)
class Pearson(FDivergence):
    """χ²(P‖Q) = ∫ (p−q)²/q: f(u) = (u−1)², f*(t) = t²/4 + t for t ≥ −2 and −1 below."""

    def generator(self, u: Tensor) -> Tensor:
        return (u - 1).square()

    def derivative(self, u: Tensor) -> Tensor:
        return 2 * (u - 1)

    def conjugate(self, t: Tensor) -> Tensor:
        return (t / 2 + 1).clamp_min(0).square() - 1

    def activation(self, v: Tensor) -> Tensor:
        return 2 * power(v, 1.0)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return 2 * power(v, 2.0)

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        v = log_p - log_q
        return (
            torch.where(v > 0, log_p - log_q / 2, log_q / 2).exp() * (-v.abs()).expm1()
        ).square()

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        affinity = log_affinity(p, q, 2.0)
        return None if affinity is None else affinity.expm1()

    def non_saturating(self) -> FDivergence:
        return 2.0 * Alpha(1.0)


@dataclass(frozen=True)
class Neyman(FDivergence):
    """χ²(Q‖P) = ∫ (p−q)²/p: f(u) = (u−1)²/u, f*(t) = 2 − 2√(1−t) for t ≤ 1."""

    def generator(self, u: Tensor) -> Tensor:
        return (u - 1).square() / u

    def derivative(self, u: Tensor) -> Tensor:
        return 1 - u.pow(-2)

    def conjugate(self, t: Tensor) -> Tensor:
        return torch.where(t > 1, torch.inf, 2 - 2 * (1 - t).clamp_min(0).sqrt())

    def activation(self, v: Tensor) -> Tensor:
        return 2 * power(v, -2.0)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return 2 * power(v, -1.0)

    @property
    def domain(self) -> tuple[float, float]:
        return (-math.inf, 1.0)

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return Pearson().perspective(log_q, log_p)

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        return Pearson().exact(q, p)

    def non_saturating(self) -> FDivergence:
        return 2.0 * Alpha(-2.0)


@dataclass(frozen=True)
class SquaredHellinger(FDivergence):
    """∫ (√p − √q)²: f(u) = (√u − 1)², f*(t) = t/(1−t) for t < 1."""

    def generator(self, u: Tensor) -> Tensor:
        return (u.sqrt() - 1).square()

    def derivative(self, u: Tensor) -> Tensor:
        return 1 - u.rsqrt()

    def conjugate(self, t: Tensor) -> Tensor:
        return torch.where(t < 1, t / (1 - t), torch.inf)

    def activation(self, v: Tensor) -> Tensor:
        return power(v, -0.5) / 2

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return power(v, 0.5) / 2

    @property
    def domain(self) -> tuple[float, float]:
        return (-math.inf, 1.0)

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return ((log_p / 2).exp() - (log_q / 2).exp()).square()

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        affinity = log_affinity(p, q, 0.5)
        return None if affinity is None else -2 * affinity.expm1()

    def non_saturating(self) -> FDivergence:
        return 0.5 * Alpha(-0.5)


@dataclass(frozen=True)
class Alpha(FDivergence):
    """(∫ pᵅ q¹⁻ᵅ − 1) / (α(α−1)): f(u) = (uᵅ − 1 − α(u−1)) / (α(α−1)).

    KL(P‖Q) at α = 1, KL(Q‖P) at α = 0, half of Pearson's and Neyman's χ² at 2 and −1, twice the
    squared Hellinger distance at ½ (Amari's family in the parametrisation of Cichocki & Amari,
    2010, Families of alpha-, beta- and gamma-divergences).

    Args:
        alpha: the order, any real number; beyond −1.2 < α < 2.2 float32 overflows before |v| = 40.

    Raises:
        ValueError: if alpha is not finite.

    >>> Alpha(2.0).generator(torch.tensor(3.0)), Pearson().generator(torch.tensor(3.0))
    (tensor(2.), tensor(4.))
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha={self.alpha}: the order must be a finite number, such as 0.5.")

    def generator(self, u: Tensor) -> Tensor:
        at_zero = 1 / self.alpha if self.alpha > 0 else math.inf
        v = u.clamp_min(torch.finfo(u.dtype).tiny).log()
        inside = u * power(v, self.alpha - 1) - power(v, self.alpha)
        return torch.where(u > 0, inside, at_zero)

    def derivative(self, u: Tensor) -> Tensor:
        return power(u.log(), self.alpha - 1)

    def conjugate(self, t: Tensor) -> Tensor:
        slope = self.alpha - 1
        v = (slope * t).clamp_min(-1).log1p() / slope if slope else t
        return torch.where(t > self.domain[1], torch.inf, power(v, self.alpha))

    def activation(self, v: Tensor) -> Tensor:
        return power(v, self.alpha - 1)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return power(v, self.alpha)

    @property
    def domain(self) -> tuple[float, float]:
        return (-math.inf, 1 / (1 - self.alpha) if self.alpha < 1 else math.inf)

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        if self.alpha in (0.0, 1.0):
            return kl_perspective(*((log_p, log_q) if self.alpha else (log_q, log_p)))
        a, b, v = self.alpha, 1 - self.alpha, log_p - log_q
        mixed, near = (
            (a * log_p + b * log_q).exp(),
            (torch.minimum((a * v).abs(), (b * v).abs()) < 0.5),
        )

        def part(
            density: Tensor, exponent: float
        ) -> Tensor:  # (mixed − density) / exponent, which cancels where they are near
            small = (exponent * v).abs() < 0.5
            return torch.where(
                small,
                density * power(torch.where(small, v, 0.0), exponent),
                (mixed - density) / exponent,
            )

        p, q = (
            log_p.exp(),
            log_q.exp(),
        )  # far off, where `mixed` may be infinite, the parts would take ∞ from ∞
        return torch.where(
            near, part(p, -b) - part(q, a), (a * p + b * q - mixed) / (a * b)
        ).clamp_min(0)

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        if self.alpha in (0.0, 1.0):
            return torch_kl(p, q) if self.alpha else torch_kl(q, p)
        affinity = log_affinity(p, q, self.alpha)
        return None if affinity is None else affinity.expm1() / (self.alpha * (self.alpha - 1))

    def non_saturating(self) -> FDivergence:
        return Alpha(self.alpha - 1)

    def __str__(self) -> str:
        return {0.0: "reverse KL", 1.0: "KL"}.get(self.alpha, f"Alpha({self.alpha:g})")


def power(v: Tensor, exponent: float) -> Tensor:
    """(e^{exponent·v} − 1)/exponent and its limit v at zero; its gradient keeps all digits, which
    that of expm1 loses.
    """
    if not exponent:
        return v.clone()
    x = exponent * v
    small = x.abs() < 0.5
    return torch.where(small, torch.where(small, x, 0.0).expm1(), x.exp() - 1) / exponent


def kl_perspective(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p log(p/q) − p + q, the integrand of KL(P‖Q), not negative."""
    return (log_p.exp() * (log_p - log_q - 1) + log_q.exp()).clamp_min(0)
