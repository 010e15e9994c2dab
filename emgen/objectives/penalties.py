"""Penalties on the critic's gradient, which keep an adversarial game from running away."""

__all__ = ["GradientPenalty", "RothPenalty"]

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emgen.objectives.base import Terms


@dataclass(frozen=True)
class GradientPenalty:
    """The zero-centred penalty on data, on samples, or on both.

        loss = (weight/2) · E[‖∇_x v(x)‖²]

    Args:
        weight: strength, not negative.
        where: `data` (R₁), `samples` (R₂) or `both`, whose two means are added.

    References: Mescheder, Geiger and Nowozin (2018), "Which training methods for GANs do actually
    converge?"
    """

    weight: float = 0.1
    where: str = "both"

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if self.where not in ("data", "samples", "both"):
            raise ValueError(
                f"where={self.where!r}: the gradient is penalised on data, samples or both."
            )

    def __call__(
        self, critic: Any, data: Tensor, samples: Tensor, divergence: Any, progress: float
    ) -> Terms:
        """Part `penalty`, the mean squared gradient norm before it is weighed; `data`, `samples`
        are (B, *event).
        """
        places = {"data": [data], "samples": [samples], "both": [data, samples]}[self.where]
        square = torch.stack([_squared_gradient(critic, x)[1].mean() for x in places]).sum()
        return Terms(self.weight / 2 * square, {"penalty": square})


@dataclass(frozen=True)
class RothPenalty:
    """The penalty that convolving both sides with noise of variance `weight` amounts to, for any f.

        Ω_f = E_p[f*″(T) ‖∇_x T‖²] = E_p[c(v) ‖∇_x v‖²],   T = f′(eᵛ), c(v) = e²ᵛ f″(eᵛ);   loss =
        (γ_t/2) Ω_f γ_t = weight · annealing^progress

    An f whose dual is straight has no curvature to be penalised, Ω_f = 0: total variation and the
    hinge need `GradientPenalty`.

    Args:
        weight: γ₀, the variance of the noise.
        annealing: what is left of γ₀ at the end of training, in (0, 1]; 1 keeps it constant.

    References: Roth, Lucchi, Nowozin and Hofmann (2017), "Stabilizing training of generative
    adversarial networks through regularization".
    """

    weight: float = 0.1
    annealing: float = 1.0

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if not 0 < self.annealing <= 1:
            raise ValueError(
                f"annealing={self.annealing}: the factor left at the end lies in (0, 1]; 1 keeps"
                " the weight constant."
            )

    def __call__(
        self, critic: Any, data: Tensor, samples: Tensor, divergence: Any, progress: float
    ) -> Terms:
        """Part `penalty`, Ω_f before it is weighed; `progress` in [0, 1] is the share of training
        that is done.
        """
        v, square = _squared_gradient(critic, samples)
        omega = (divergence.conjugate_curvature(v) * square).mean()
        return Terms(self.weight * self.annealing**progress / 2 * omega, {"penalty": omega})


def _squared_gradient(
    critic: Any, x: Float[Tensor, "b *event"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """v(x) and ‖∇_x v(x)‖², differentiable in the critic's parameters."""
    x = x.detach().requires_grad_()
    v = critic(x)
    (gradient,) = torch.autograd.grad(v.sum(), x, create_graph=True)
    return v, gradient.flatten(1).square().sum(1)


def _check_weight(weight: float) -> None:
    if not weight >= 0:
        raise ValueError(
            f"weight={weight}: a penalty's weight is not negative; penalty=null turns it off."
        )
