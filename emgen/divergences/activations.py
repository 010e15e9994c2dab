"""The output activations printed in the f-GAN paper, for a critic that outputs a raw score."""

from __future__ import annotations

__all__ = ["PaperActivation"]

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid, softplus

from emgen.divergences.base import FDivergence, curvature_of_pair
from emgen.divergences.f import GAN, KL, Jeffreys, JensenShannon, ReverseKL, TotalVariation
from emgen.divergences.powers import Alpha, Neyman, Pearson, SquaredHellinger, power

_PRINTED = (
    KL,
    ReverseKL,
    Jeffreys,
    JensenShannon,
    GAN,
    TotalVariation,
    Pearson,
    Neyman,
    SquaredHellinger,
    Alpha,
)


@dataclass(frozen=True)
class PaperActivation(FDivergence):
    """The same divergence, its dual variable t = g_f(v) as in Table 6 of the f-GAN paper instead of
    f′(eᵛ).

        KL, Jeffreys, Pearson, α > 1     v                    Neyman, squared Hellinger   1 − e⁻ᵛ
        reverse KL                       −e⁻ᵛ                 GAN                         −log(1 +
        e⁻ᵛ) Jensen-Shannon                   log 2 − log(1+e⁻ᵛ)   total variation             ½
        tanh v α < 1                            1/(1−α) − log(1+e⁻ᵛ)

    The bound holds all the same, but the critic's output is then no log density ratio. Table 2 of
    the printed version
    is followed where it differs from the preprint in the sign of v, so that all are increasing: a
    high score is data.

    Args:
        divergence: one of the divergences of the table.

    Raises:
        TypeError: if the paper prints no activation for the divergence.

    Reference: Nowozin, Cseke & Tomioka (2016), f-GAN: training generative neural samplers using
    variational divergence minimization.

    >>> import torch
    >>> PaperActivation(ReverseKL()).activation(torch.zeros(1))
    tensor([-1.])
    """

    divergence: FDivergence

    def __post_init__(self) -> None:
        if not isinstance(self.divergence, _PRINTED):
            names = ", ".join(c.__name__ for c in _PRINTED)
            raise TypeError(f"{self.divergence!r} has no activation in the f-GAN paper; use the divergence itself, "
                            f"whose activation is f'(exp v), or one of {names}.")  # fmt: skip

    def activation(self, v: Tensor) -> Tensor:
        match self.divergence:
            case KL() | Jeffreys() | Pearson():
                return v.clone()
            case Neyman() | SquaredHellinger():
                return power(v, -1.0)
            case Alpha(alpha):
                return v.clone() if alpha >= 1 else 1 / (1 - alpha) + logsigmoid(v)
        return self.divergence.activation(v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        match self.divergence:
            case KL() | Jeffreys() | Pearson():
                return self.divergence.conjugate(v)
            case Neyman():
                return power(v, -0.5)
            case SquaredHellinger():
                return power(v, 1.0)
            case Alpha(alpha):  # log r at which f′(r) is the printed activation
                if alpha >= 1:
                    return self.divergence.conjugate(v)
                return self.divergence.conjugate_of_activation(
                    ((1 - alpha) * softplus(-v)).log() / (alpha - 1)
                )
        return self.divergence.conjugate_of_activation(v)

    def conjugate_curvature(self, v: Tensor) -> Tensor:
        if isinstance(self.divergence, (KL, Jeffreys, Pearson, Neyman, SquaredHellinger, Alpha)):
            return curvature_of_pair(self.activation, self.conjugate_of_activation, v)
        return self.divergence.conjugate_curvature(v)

    def generator(self, u: Tensor) -> Tensor:
        return self.divergence.generator(u)

    def derivative(self, u: Tensor) -> Tensor:
        return self.divergence.derivative(u)

    def conjugate(self, t: Tensor) -> Tensor:
        return self.divergence.conjugate(t)

    @property
    def domain(self) -> tuple[float, float]:
        return self.divergence.domain

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self.divergence.perspective(log_p, log_q)

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        return self.divergence.exact(p, q)

    def non_saturating(self) -> FDivergence:
        return self.divergence.non_saturating()
