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
    """How far the critic's gradient is from a target length, on data, on samples, or between them.

        loss = (weight_t/2) · E[(‖∇_x v(x)‖ − target)²],      weight_t = weight · annealing^progress

    WGAN-GP is `where="between"`, `target=1` and twice its λ, `weight=20`.

    Args:
        weight: strength, not negative.
        where: `data` (R₁), `samples` (R₂), `both`, whose two means are added, or `between`, on
            x + u (x̃ − x) with u uniform in [0, 1] for each pair.
        target: the length that costs nothing; 0 centres the penalty at zero.
        annealing: what is left of the weight at the end of training, in (0, 1]; 1 keeps it
            constant.

    References: Mescheder, Geiger and Nowozin (2018), "Which training methods for GANs do actually
    converge?"; Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville (2017), "Improved training of
    Wasserstein GANs", for the target and the points between.
    """

    weight: float = 0.1
    where: str = "both"
    target: float = 0.0
    annealing: float = 1.0

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        _check_annealing(self.annealing)
        if self.where not in ("data", "samples", "both", "between"):
            raise ValueError(
                f"where={self.where!r}: the gradient is penalised on data, samples, both or between"
                " them."
            )
        if not self.target >= 0:
            raise ValueError(f"target={self.target}: the length of a gradient is not negative.")

    def __call__(
        self, critic: Any, data: Tensor, samples: Tensor, divergence: Any, progress: float
    ) -> Terms:
        """Part `penalty`, the mean square before it is weighed; `data`, `samples` are (B, *event),
        `progress` in [0, 1] is the share of training that is done.
        """
        places = self._places(data.detach(), samples.detach())
        squares = [self._apart(_squared_gradient(critic, x)[1]).mean() for x in places]
        square = torch.stack(squares).sum()
        weight = self.weight * self.annealing**progress
        return Terms(weight / 2 * square, {"penalty": square})

    def _places(self, data: Tensor, samples: Tensor) -> Any:
        if self.where != "between":
            return {"data": [data], "samples": [samples], "both": [data, samples]}[self.where]
        share = torch.rand(
            len(data), *(1,) * (data.dim() - 1), dtype=data.dtype, device=data.device
        )
        return [data + share * (samples - data)]

    def _apart(self, square: Tensor) -> Tensor:
        """(‖∇v‖ − target)² from ‖∇v‖², whose root has no slope at zero."""
        if self.target == 0:
            return square
        tiny = torch.finfo(square.dtype).tiny
        return (square.clamp_min(tiny).sqrt() - self.target).square()


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
        _check_annealing(self.annealing)

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
) -> tuple[Float[Tensor, " v"], Float[Tensor, " v"]]:
    """v and ‖∇v‖² over all that v was shown, differentiable in the critic's parameters.

    A critic that is shown `pack` rows at once gives one value for them.
    """
    x = x.detach().requires_grad_()
    v = critic(x)
    (gradient,) = torch.autograd.grad(v.sum(), x, create_graph=True)
    square = gradient.flatten(1).square().sum(1)
    pack = getattr(critic, "pack", 1)
    return v, square if pack == 1 else square[: len(v) * pack].view(-1, pack).sum(1)


def _check_annealing(annealing: float) -> None:
    if not 0 < annealing <= 1:
        raise ValueError(
            f"annealing={annealing}: the factor left at the end lies in (0, 1]; 1 keeps the weight"
            " constant."
        )


def _check_weight(weight: float) -> None:
    if not weight >= 0:
        raise ValueError(
            f"weight={weight}: a penalty's weight is not negative; penalty=null turns it off."
        )
