"""The Fenchel bound on an f-divergence, as a game between a critic and a model."""

__all__ = ["Adversarial"]

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emgen.divergences import GAN, FDivergence
from emgen.divergences.adjoint import adjoint
from emgen.divergences.base import heavy_tails
from emgen.objectives.base import Terms


@dataclass(frozen=True)
class Adversarial:
    """D_f(p̂ ‖ p) from below, by a critic whose output is the log density ratio v(x) = log
    p̂(x)/p(x).

        bound = E_p̂[f′(eᵛ)] − E_p[f*(f′(eᵛ))]  ≤  D_f(p̂ ‖ p),   tight at the true ratio
        critic: ascends the bound;   model: descends it through x ~ p

    With `divergence=GAN()` the bound is E_p̂[log σ(v)] + E_p[log(1 − σ(v))] + log 4, the original
    game.

    Either side may depend on a player, who descends its price with the critic held still:

        saturating        Q side −E_Q[f*(f′(eᵛ))]     P side +E_P[f′(eᵛ)]
        non-saturating    Q side −E_Q[f′(eᵛ)]         P side +E_P[f*(f′(eᵛ))]     prices swapped

    Args:
        divergence: the f-divergence, or a margin loss, that prices v on data (`activation`) and on
            samples (`conjugate_of_activation`); or any other pair of prices, such as
            `emgen.objectives.Wasserstein`.
        non_saturating: the model ascends E_p[f′(eᵛ)] instead, whose gradient does not vanish while
            it is losing; what it descends then is `descended()`.
        penalty: on the critic's gradient, see `emgen.objectives.penalties`; None plays the bare
            game.
        surrogate: what teaches the critic in place of the divergence: a margin loss that induces
            it, as the hinge does total variation, whose own best critic is a step; or any
            divergence, for they all share one log ratio.
        importance: weigh the samples of a batch by softmax(v), held still. Since the derivative of
            f*(f′(eᵛ)) is eᵛ times that of f′(eᵛ), this turns the non-saturating game into the
            saturating one, divided by the mean ratio of the batch.

    Raises:
        TypeError: if the divergence or the surrogate does not price both sides.
        ValueError: importance weights in the saturating game, which has no use for them.

    References:
        Goodfellow et al. (2014), "Generative adversarial nets"; Nguyen, Wainwright and Jordan
        (2010), "Estimating divergence functionals and the likelihood ratio by convex risk
        minimization"; Nowozin, Cseke and Tomioka (2016), "f-GAN"; Hu, Yang, Salakhutdinov and Xing
        (2018), "On unifying deep generative models", for the importance weights.
    """

    divergence: Any = field(default_factory=GAN)
    non_saturating: bool = True
    penalty: Any = None
    surrogate: Any = None
    importance: bool = False

    def __post_init__(self) -> None:
        for name, given in (("divergence", self.divergence), ("surrogate", self.surrogate)):
            if not _prices(given) and not (name == "surrogate" and given is None):
                raise TypeError(
                    f"{name}={given!r} is no f-divergence; give an instance of a subclass of"
                    " emgen.divergences.FDivergence that defines generator(u), such as KL()."
                )
        if self.importance and not self.non_saturating:
            raise ValueError(
                "importance=true with non_saturating=false: the weights turn the non-saturating"
                " game into the saturating one; leave out one of the two."
            )

    def critic(self, critic: Any, data: Tensor, samples: Tensor, progress: float = 0.0) -> Terms:
        """The critic's side: loss −bound; parts `bound`, and the mean log ratio on data and on
        samples.

        Args:
            critic: (B, *event) → v of shape (B,).
            data, samples: (B, *event); both are held still.
            progress: the share of training that is done, for penalties that are annealed.
        """
        taught = self.divergence if self.surrogate is None else self.surrogate
        v_data, v_samples = critic(data.detach()), critic(samples.detach())
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
        loss = self._sample_side(critic(samples))
        return Terms(loss, {"game": loss})

    def players(self, critic: Any, data: Tensor, samples: Tensor) -> Terms:
        """The sides of all who play against the critic: of `data`, of `samples`, or of both, by
        which of the two carries a gradient; part `game` is the loss.

        Args:
            critic: (B, *event) → v of shape (B,).
            data, samples: (B, *event).
        """
        sides = []
        if samples.requires_grad:
            sides.append(self._sample_side(critic(samples)))
        if data.requires_grad:
            sides.append(self._data_side(critic(data)))
        if not sides:
            raise ValueError(
                "neither data nor samples depend on a player, so this game moves nobody: give"
                " reparameterised draws on one side."
            )
        loss = torch.stack(sides).sum()
        return Terms(loss, {"game": loss})

    def descended(self, side: str = "samples") -> FDivergence | None:
        """The divergence D(P‖Q) whose gradient, at the best critic, a player of `side` (samples or
        data) follows; None where the best critic is no log density ratio, as of a hinge that
        teaches for another divergence.

        >>> print(Adversarial().descended(), "|", Adversarial(non_saturating=False).descended())
        reverse KL - Jensen-Shannon | GAN
        """
        f, taught = self.divergence, self.surrogate or self.divergence
        if not isinstance(f, FDivergence) or not (taught is f or _is_log_ratio(taught)):
            return None
        if not self.non_saturating or (self.importance and side == "samples"):
            return f
        return f.non_saturating() if side == "samples" else adjoint(adjoint(f).non_saturating())

    def says(self, pair: str, side: str = "samples") -> str:
        """What a player of `side` descends, in words, for tables.

        >>> Adversarial().says("data | samples")
        'reverse KL - Jensen-Shannon of data | samples'
        """
        found = self.descended(side)
        if found is None:
            return f"the price of {self.divergence} on {pair}"
        heavy = self.non_saturating and side == "samples" and heavy_tails(found)
        tails = " (infinite where the samples have the heavier tails)" if heavy else ""
        return f"{found} of {pair}{tails}"

    def _sample_side(self, v: Tensor) -> Tensor:
        if not self.non_saturating:
            return -self.divergence.conjugate_of_activation(v).mean()
        price = self.divergence.activation(v)
        return -(v.detach().softmax(0) * price).sum() if self.importance else -price.mean()

    def _data_side(self, v: Tensor) -> Tensor:
        if self.non_saturating:
            return self.divergence.conjugate_of_activation(v).mean()
        return self.divergence.activation(v).mean()


def _prices(given: Any) -> bool:
    """Whether it says what v costs on data and on samples."""
    return not isinstance(given, type) and all(
        callable(getattr(given, name, None)) for name in ("activation", "conjugate_of_activation")
    )


def _is_log_ratio(taught: Any) -> bool:
    """Whether the best critic that it teaches is the log density ratio: f′(eᵛ) is what it pays."""
    v = torch.linspace(-2, 2, 9, dtype=torch.float64)
    return isinstance(taught, FDivergence) and torch.allclose(
        taught.activation(v), taught.derivative(v.exp()), atol=1e-9
    )
