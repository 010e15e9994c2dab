"""The divergences made of logarithms, and total variation; closed forms finite in float32 for |v| ≤
40.
"""

from __future__ import annotations

__all__ = ["GAN", "KL", "Jeffreys", "JensenShannon", "ReverseKL", "TotalVariation"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid, softplus

from emgen.divergences.base import FDivergence
from emgen.divergences.numerics.closed_forms import torch_kl
from emgen.divergences.powers import Neyman, kl_perspective

_LOG2 = math.log(2.0)


@dataclass(frozen=True)
class KL(FDivergence):
    """KL(P‖Q) = ∫ p log p/q: f(u) = u log u, f*(t) = eᵗ⁻¹. Minimised over Q it covers every mode of
    P.

    >>> KL().conjugate_of_activation(torch.zeros(1))
    tensor([1.])
    """

    def generator(self, u: Tensor) -> Tensor:
        return torch.xlogy(u, u)

    def derivative(self, u: Tensor) -> Tensor:
        return u.log() + 1

    def conjugate(self, t: Tensor) -> Tensor:
        return (t - 1).exp()

    def activation(self, v: Tensor) -> Tensor:
        return v + 1

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v.exp()

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl_perspective(log_p, log_q)

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        return torch_kl(p, q)

    def non_saturating(self) -> FDivergence:
        return ReverseKL()


@dataclass(frozen=True)
class ReverseKL(FDivergence):
    """KL(Q‖P) = ∫ q log q/p: f(u) = −log u, f*(t) = −1 − log(−t) for t < 0.

    Minimised over Q it seeks one mode.
    """

    def generator(self, u: Tensor) -> Tensor:
        return -u.log()

    def derivative(self, u: Tensor) -> Tensor:
        return -1 / u

    def conjugate(self, t: Tensor) -> Tensor:
        return -1 - (-t).clamp_min(0).log()

    def activation(self, v: Tensor) -> Tensor:
        return -(-v).exp()

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v - 1

    @property
    def domain(self) -> tuple[float, float]:
        return (-math.inf, 0.0)

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl_perspective(log_q, log_p)

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        return torch_kl(q, p)

    def non_saturating(self) -> FDivergence:
        return 0.5 * Neyman()


@dataclass(frozen=True)
class Jeffreys(FDivergence):
    """KL(P‖Q) + KL(Q‖P) = ∫ (p−q) log p/q: f(u) = (u−1) log u; f* has no elementary form and is
    found by Newton's method.
    """

    def generator(self, u: Tensor) -> Tensor:
        return (u - 1) * u.log()

    def derivative(self, u: Tensor) -> Tensor:
        return u.log() + 1 - 1 / u

    def conjugate(self, t: Tensor) -> Tensor:
        """v + eᵛ − 1 at the root of v + 1 − e⁻ᵛ = t; the last two of Newton's steps carry two
        derivatives.
        """

        def newton(v: Tensor) -> Tensor:
            return v - (v - (-v).expm1() - t) / (1 + (-v).exp())

        with torch.no_grad():
            v = torch.where(t > 1, t - 1, -softplus(1 - t).log())
            for _ in range(6):
                v = newton(v)
        return self.conjugate_of_activation(newton(newton(v)))

    def activation(self, v: Tensor) -> Tensor:
        return v - (-v).expm1()

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v + v.expm1()

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_p.exp() - log_q.exp()) * (log_p - log_q)

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        forward, backward = torch_kl(p, q), torch_kl(q, p)
        return None if forward is None or backward is None else forward + backward

    def non_saturating(self) -> FDivergence:
        return ReverseKL() + 0.5 * Neyman()


@dataclass(frozen=True)
class JensenShannon(FDivergence):
    """KL(P‖M) + KL(Q‖M) with M = (P+Q)/2, not halved: f(u) = u log u − (u+1) log((u+1)/2), f*(t) =
    −log(2 − eᵗ).
    """

    def generator(self, u: Tensor) -> Tensor:
        return torch.xlogy(u, u) - (u + 1) * ((u + 1) / 2).log()

    def derivative(self, u: Tensor) -> Tensor:
        return _LOG2 - (1 / u).log1p()

    def conjugate(self, t: Tensor) -> Tensor:
        return -_log1mexp(t - _LOG2) - _LOG2

    def activation(self, v: Tensor) -> Tensor:
        return _LOG2 + logsigmoid(v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return softplus(v) - _LOG2

    @property
    def domain(self) -> tuple[float, float]:
        return (-math.inf, _LOG2)

    def non_saturating(self) -> FDivergence:
        return ReverseKL() - self


@dataclass(frozen=True)
class GAN(FDivergence):
    """Goodfellow's game: f(u) = u log u − (u+1) log(u+1) + log 4, f*(t) = −log(1 − eᵗ) − log 4 for
    t < 0.

    The bound is E_P[log D] + E_Q[log(1 − D)] + log 4 with D = σ(v). The f-GAN paper prints f
    without log 4, so that its value at P = Q is −log 4; here every f has f(1) = 0, and the
    divergence equals Jensen-Shannon's. The dual variables differ, log D here and log 2D there.
    """

    def generator(self, u: Tensor) -> Tensor:
        return 2 * _LOG2 - torch.special.xlog1py(u, 1 / u) - u.log1p()

    def derivative(self, u: Tensor) -> Tensor:
        return -(1 / u).log1p()

    def conjugate(self, t: Tensor) -> Tensor:
        return -_log1mexp(t) - 2 * _LOG2

    def activation(self, v: Tensor) -> Tensor:
        return logsigmoid(v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return softplus(v) - 2 * _LOG2

    @property
    def domain(self) -> tuple[float, float]:
        return (-math.inf, 0.0)

    def non_saturating(self) -> FDivergence:
        return ReverseKL() - JensenShannon()


@dataclass(frozen=True)
class TotalVariation(FDivergence):
    """½ ∫ |p − q|: f(u) = ½|u − 1|, f*(t) = max(t, −½) for t ≤ ½.

    f′ is a step, of no use to a gradient, so the activation is ½ tanh(sv), at s = 1 the f-GAN
    paper's. It takes values in the domain, on which f*(t) = t; the bound is reached in the limit of
    a critic that is sure of its sign.

    Args:
        sharpness: s > 0; about 3 for a critic taught by the hinge loss, which settles at v = ±1.

    Raises:
        ValueError: if the sharpness is not positive.
    """

    sharpness: float = 1.0

    def __post_init__(self) -> None:
        if not self.sharpness > 0:
            raise ValueError(
                f"sharpness={self.sharpness}: tanh(sharpness v) must rise; give a positive number."
            )

    def generator(self, u: Tensor) -> Tensor:
        return (u - 1).abs() / 2

    def derivative(self, u: Tensor) -> Tensor:
        return (u - 1).sign() / 2

    def conjugate(self, t: Tensor) -> Tensor:
        return torch.where(t > 0.5, torch.inf, t.clamp_min(-0.5))

    def activation(self, v: Tensor) -> Tensor:
        return (self.sharpness * v).tanh() / 2

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return (self.sharpness * v).tanh() / 2

    def conjugate_curvature(self, v: Tensor) -> Tensor:
        return torch.zeros_like(v)

    @property
    def domain(self) -> tuple[float, float]:
        return (-math.inf, 0.5)

    def non_saturating(self) -> FDivergence:
        return self


def _log1mexp(t: Tensor) -> Tensor:
    """log(1 − eᵗ) for t ≤ 0, −∞ above."""
    return (-t.expm1()).clamp_min(0).log()
