"""Beliefs about the paths of hidden Markov chains: exact, factorised over time, or certain."""

__all__ = ["ChainPosterior", "Factorised", "Paths"]

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emgen.models.conjugate.packed_sequences import Packing
from emgen.models.conjugate.recursions import factorised, forward_backward, sample_paths, viterbi


class ChainPosterior:
    """The distribution over paths q(z) ∝ π(z_1) b_1(z_1) Π_t A(z_{t−1}, z_t) b_t(z_t).

    Args:
        log_initial, log_transition, log_likelihood: log π, log A and log b (packed rows); need not
            be normalised.
        packing: the sequences that the rows belong to.
        log_evidence: log normaliser of the exact posterior where this is another distribution;
            default its own.
    """

    def __init__(
        self,
        log_initial: Tensor,
        log_transition: Tensor,
        log_likelihood: Tensor,
        packing: Packing,
        log_evidence=None,
    ) -> None:
        self.potentials = log_initial, log_transition, log_likelihood
        self.packing = packing
        self._moves: tuple[Tensor | None, Tensor] | None = None
        self.messages = forward_backward(*self.potentials, packing)
        self.log_evidence = self.messages.log_normaliser if log_evidence is None else log_evidence

    @property
    def marginals(self) -> Float[Tensor, "rows states"]:
        """q(z_t), packed rows."""
        return self.messages.marginals

    def transitions(self, weight: Tensor | None = None) -> Float[Tensor, "states states"]:
        """Expected numbers of moves, each arrival counted by its row's weight."""
        if (
            self._moves is None or self._moves[0] is not weight
        ):  # statistics and entropy both ask for them
            self._moves = weight, self.messages.transitions(weight)
        return self._moves[1]

    def entropy(self, weight: Tensor | None = None) -> Tensor:
        """H(q) = log normaliser − E_q[log potentials], summed over sequences."""
        log_initial, log_transition, log_b = self.potentials
        marginals = self.marginals if weight is None else self.marginals * weight[:, None]
        first = self.packing.sizes[0]
        log_z = self.messages.log_normaliser
        total = log_z.sum() if weight is None else _first_of_each(self.packing, weight) @ log_z
        energy = _inner(marginals[:first].sum(0), log_initial) + _inner(
            self.transitions(weight), log_transition
        )
        return total - energy - _inner(marginals.T, log_b.T)  # states first, as they lie in memory

    @property
    def configurations(self) -> list[int]:
        """How many states each frame's latent has, for enumeration."""
        return [self.marginals.shape[1]] * len(self.marginals)

    def mode(self) -> "Paths":
        """The most probable path (Viterbi)."""
        return self.at(self.viterbi()[0])

    def viterbi(self) -> tuple[Int[Tensor, "rows"], Float[Tensor, "sequences"]]:
        """The most probable path and the log of its joint probability."""
        return viterbi(*self.potentials, self.packing)

    def sample(self) -> "Paths":
        """One path drawn from the posterior (forward filtering, backward sampling)."""
        return self.at(sample_paths(self.messages))

    def at(self, path: Int[Tensor, "rows"]) -> "Paths":
        """Certainty about one path."""
        return Paths(self.packing, path, self.marginals.shape[-1], self.log_evidence)

    def mean_field(self, sweeps: int) -> "Factorised":
        """The best q(z) = Π_t q(z_t) that `sweeps` of coordinate ascent find from the posterior's
        own marginals.
        """
        return Factorised(
            self.packing,
            factorised(*self.potentials, self.packing, self.marginals, sweeps),
            self.log_evidence,
        )

    def structured(self, sweeps: int) -> "ChainPosterior":
        """Itself: a single chain kept whole is the posterior."""
        return self

    def tempered(self, beta: float) -> "ChainPosterior":
        """q^β, normalised: its potentials to the power β."""
        log_initial, log_transition, log_b = (potential * beta for potential in self.potentials)
        return ChainPosterior(log_initial, log_transition, log_b, self.packing, self.log_evidence)


@dataclass(frozen=True)
class Paths:
    """Certainty about one path a sequence: a Dirac at `path`, packed rows."""

    packing: Packing
    path: Int[Tensor, "rows"]
    states: int
    log_evidence: Float[Tensor, "sequences"]

    @property
    def marginals(self) -> Float[Tensor, "rows states"]:
        return torch.nn.functional.one_hot(self.path, self.states).to(self.log_evidence.dtype)

    def transitions(self, weight: Tensor | None = None) -> Float[Tensor, "states states"]:
        pairs = self.packing.before(self.path) * self.states + self.packing.after(self.path)
        counts = (
            torch.ones_like(pairs, dtype=self.log_evidence.dtype)
            if weight is None
            else self.packing.after(weight)
        )
        total = counts.new_zeros(self.states**2).index_add(0, pairs, counts)
        return total.view(self.states, self.states)

    def entropy(self, weight: Tensor | None = None) -> Tensor:
        return self.log_evidence.new_zeros(())


@dataclass(frozen=True)
class Factorised:
    """q(z) = Π_t q(z_t): every frame on its own, packed rows."""

    packing: Packing
    marginals: Float[Tensor, "rows states"]
    log_evidence: Float[Tensor, "sequences"]

    def transitions(self, weight: Tensor | None = None) -> Float[Tensor, "states states"]:
        after = self.packing.after(
            self.marginals if weight is None else self.marginals * weight[:, None]
        )
        return self.packing.before(self.marginals).T @ after

    def entropy(self, weight: Tensor | None = None) -> Tensor:
        each = -torch.xlogy(self.marginals, self.marginals).sum(-1)
        return each.sum() if weight is None else each @ weight


def _first_of_each(packing: Packing, weight: Tensor) -> Tensor:
    """The weight of each sequence, from the weights of rows."""
    first = weight[: packing.sizes[0]]
    return torch.empty_like(first).index_copy(0, packing.order, first)


def _inner(expectation: Tensor, log_potential: Tensor) -> Tensor:
    """Σ p log f with 0 · (−∞) = 0."""
    p, log_f = expectation.flatten(), log_potential.flatten()
    total = p @ log_f
    return total if total.isfinite() else p @ log_f.clamp(min=torch.finfo(log_f.dtype).min)
