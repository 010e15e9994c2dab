"""Contrastive divergence: lower the energy of the data, raise it where a short Markov chain has
wandered.
"""

__all__ = ["ContrastiveDivergence", "ModelPhase"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emgen.distributions import full_precision
from emgen.objectives.base import Terms


@dataclass(frozen=True)
class ContrastiveDivergence:
    """The two phases of an energy model, the model's own replaced by the state of a chain.

        loss = E_p̂[energy(x)] − E_chain[energy(x̃)] + λ/2 ‖W‖² + κ/2 Σ_j (E[h_j] − ρ)²

    At x̃ ~ p its gradient is that of −log p(x) exactly; at x̃ = k sweeps from the data it is that
    of contrastive divergence, KL(p̂ ‖ p) − KL(T^k p̂ ‖ p) without the term that follows the chain.
    The value is a difference of energies, not a likelihood.

    Args:
        weight_decay: λ, on parameters with two or more dimensions (weights, never biases).
        sparsity: κ, the weight of holding each hidden unit's mean activity near a target.
        activity: ρ, that target.

    Raises:
        ValueError: a negative weight, or an activity outside (0, 1).

    References:
        Hinton (2002), "Training products of experts by minimizing contrastive divergence"; Tieleman
        (2008), "Training restricted Boltzmann machines using approximations to the likelihood
        gradient"; Lee, Ekanadham and Ng (2008), "Sparse deep belief net model for visual area V2".
    """

    weight_decay: float = 0.0
    sparsity: float = 0.0
    activity: float = 0.1

    def __post_init__(self) -> None:
        if not (self.weight_decay >= 0 and self.sparsity >= 0 and 0 < self.activity < 1):
            raise ValueError(
                f"weight_decay={self.weight_decay}, sparsity={self.sparsity},"
                f" activity={self.activity}: weights cannot be negative and the activity lies"
                " between 0 and 1."
            )

    def __call__(self, model: Any, x: Tensor, chain: Any) -> Terms:
        """Part `contrast`, the difference of the two mean energies (the hidden units' entropy
        aside, given `statistics`).

        Args:
            model: serves `Energy`; `statistics(v, weight)` spares it the automatic differentiation,
                `hidden_mean(x)` serves sparsity.
            x: data (B, *event).
            chain: states of the Markov chain, as `model.gibbs` returns them.
        """
        if hasattr(model, "statistics"):
            loss = _exact(model, x, chain)
        else:
            with full_precision(x.device):  # a small difference of large sums needs all its digits
                loss = model.energy(x).mean() - model.energy(chain).mean()
        parts = {"contrast": loss}
        if self.weight_decay:
            loss = loss + self.weight_decay / 2 * sum(
                w.square().sum() for w in model.parameters() if w.dim() > 1
            )
        if self.sparsity:
            loss = (
                loss
                + self.sparsity / 2 * (model.hidden_mean(x).mean(0) - self.activity).square().sum()
            )
        return Terms(loss, parts)


@dataclass(frozen=True)
class ModelPhase:
    """The model's half of ∇ log Z, by a chain: loss = −E_chain[energy(x̃)], whose gradient is that
    of log Z at x̃ ~ p.

    Added to an objective that treats Z as a constant, it makes the gradient whole: a deep belief
    net's wake half-step plus this, on its top machine, is contrastive wake-sleep.

    References: Hinton, Osindero and Teh (2006), "A fast learning algorithm for deep belief nets".
    """

    def __call__(self, model: Any, chain: Any) -> Terms:
        """Part `energy_model`, the mean energy of the chain's states."""
        dream = model.energy(chain).mean()
        return Terms(-dream, {"energy_model": dream})


def _exact(model: Any, x: Tensor, chain: Tensor) -> Tensor:
    """The contrast of an exponential family, −⟨θ, E_x[s] − E_chain[s]⟩: linear in θ, so its
    gradient needs no graph.
    """
    sign = torch.cat(
        [x.new_full((len(x),), 1 / len(x)), x.new_full((len(chain),), -1 / len(chain))]
    )
    statistics = model.statistics(torch.cat([x, chain]), sign)
    parameters = dict(model.named_parameters())
    products = [
        torch.dot(parameters[name].flatten(), value.to(parameters[name]).flatten())
        for name, value in statistics.items()
    ]
    return -torch.stack(products).sum()
