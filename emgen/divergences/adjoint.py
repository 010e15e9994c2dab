"""The adjoint of an f-divergence: the same divergence with its two sides exchanged."""

from __future__ import annotations

__all__ = ["Adjoint", "adjoint"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from emgen.divergences.base import Combination, FDivergence
from emgen.divergences.f import GAN, KL, Jeffreys, JensenShannon, ReverseKL, TotalVariation
from emgen.divergences.powers import Alpha, Neyman, Pearson, SquaredHellinger


def adjoint(divergence: FDivergence) -> FDivergence:
    """D_{f°} with f°(u) = u f(1/u), so that D_{f°}(P‖Q) = D_f(Q‖P); by name where it has one.

    In a game the data side pays by it: f°′(e⁻ᵛ) = −f*(f′(eᵛ)).

    >>> adjoint(KL()), adjoint(Alpha(0.25))
    (ReverseKL(), Alpha(alpha=0.75))
    """
    named = _NAMED.get(type(divergence))
    return Adjoint(divergence) if named is None else named(divergence)


@dataclass(frozen=True)
class Adjoint(FDivergence):
    """f°(u) = u f(1/u) of any f.

    Args:
        divergence: D_f.
    """

    divergence: FDivergence

    def generator(self, u: Tensor) -> Tensor:
        return u * self.divergence.generator(1 / u)

    def derivative(self, u: Tensor) -> Tensor:
        return self.activation(u.log())

    def activation(self, v: Tensor) -> Tensor:
        return -self.divergence.conjugate_of_activation(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return -self.divergence.activation(-v)

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self.divergence.perspective(log_q, log_p)

    def __str__(self) -> str:
        return f"{self.divergence} with its sides exchanged"


_NAMED: dict[type, Callable[[Any], FDivergence]] = {
    KL: lambda f: ReverseKL(),
    ReverseKL: lambda f: KL(),
    JensenShannon: lambda f: f,
    GAN: lambda f: JensenShannon(),
    Jeffreys: lambda f: f,
    Pearson: lambda f: Neyman(),
    Neyman: lambda f: Pearson(),
    SquaredHellinger: lambda f: f,
    Alpha: lambda f: Alpha(1 - f.alpha),
    TotalVariation: lambda f: f,
    Combination: lambda f: Combination(tuple((c, adjoint(d)) for c, d in f.terms)),
}
