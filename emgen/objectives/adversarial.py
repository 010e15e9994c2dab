"""The Fenchel bound on an f-divergence, as a game between a critic and a model."""

__all__ = ["Adversarial"]

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from emgen.divergences import GAN, FDivergence
from emgen.objectives.base import Terms


@dataclass(frozen=True)
class Adversarial:
    """D_f(p̂ ‖ p) from below, by a critic whose output is the log density ratio v(x) = log
    p̂(x)/p(x).

        bound = E_p̂[f′(eᵛ)] − E_p[f*(f′(eᵛ))]  ≤  D_f(p̂ ‖ p),   tight at the true ratio
        critic: ascends the bound;   model: descends it through x ~ p

    With `divergence=GAN()` the bound is E_p̂[log σ(v)] + E_p[log(1 − σ(v))] + log 4, the original
    game.

    Args:
        divergence: the f-divergence, or a margin loss, that prices v on data (`activation`) and on
            samples (`conjugate_of_activation`).
        surrogate: what teaches the critic in place of the divergence: a margin loss that induces
            it, as the hinge does total variation, whose own best critic is a step; or any
            divergence, for they all share one log ratio.
        penalty: on the critic's gradient, see `emgen.objectives.penalties`; None plays the bare
            game.
        non_saturating: the model ascends E_p[f′(eᵛ)] instead, whose gradient does not vanish while
            it is losing.

    Raises:
        TypeError: if the divergence or the surrogate is no `FDivergence`.

    References:
        Goodfellow et al. (2014), "Generative adversarial nets"; Nguyen, Wainwright and Jordan
        (2010), "Estimating divergence functionals and the likelihood ratio by convex risk
        minimization"; Nowozin, Cseke and Tomioka (2016), "f-GAN".
    """

    divergence: Any = field(default_factory=GAN)
    non_saturating: bool = True
    penalty: Any = None
    surrogate: Any = None

    def __post_init__(self) -> None:
        for name, given in (("divergence", self.divergence), ("surrogate", self.surrogate)):
            if not isinstance(given, FDivergence) and not (name == "surrogate" and given is None):
                raise TypeError(f"{name}={given!r} is no f-divergence; give an instance of a subclass of "
                                "emgen.divergences.FDivergence that defines generator(u), such as KL().")  # fmt: skip

    def critic(self, critic: Any, data: Tensor, samples: Tensor, progress: float = 0.0) -> Terms:
        """The critic's side: loss −bound; parts `bound`, and the mean log ratio on data and on
        samples.

        Args:
            critic: (B, *event) → v of shape (B,).
            data, samples: (B, *event); samples are held still.
            progress: the share of training that is done, for penalties that are annealed.
        """
        taught = self.divergence if self.surrogate is None else self.surrogate
        v_data, v_samples = critic(data), critic(samples.detach())
        bound = taught.activation(v_data).mean() - taught.conjugate_of_activation(v_samples).mean()
        terms = Terms(
            -bound,
            {"bound": bound, "log_ratio_data": v_data.mean(), "log_ratio_model": v_samples.mean()},
        )
        return (
            terms
            if self.penalty is None
            else terms + self.penalty(critic, data, samples, taught, progress)
        )

    def model(self, critic: Any, samples: Tensor) -> Terms:
        """The model's side, over reparameterised `samples` (B, *event): part `game` is its loss."""
        v = critic(samples)
        if self.non_saturating:
            loss = -self.divergence.activation(v).mean()
        else:
            loss = -self.divergence.conjugate_of_activation(v).mean()
        return Terms(loss, {"game": loss})
