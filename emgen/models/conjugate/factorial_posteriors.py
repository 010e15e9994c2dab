"""Beliefs about several hidden causes at once: exact over joint states, structured, factorised, or
certain.
"""

__all__ = ["FactorialBelief", "FactorialPosterior", "JointBelief"]

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emgen.models.conjugate.chain_posteriors import ChainPosterior, Factorised, Paths
from emgen.models.conjugate.packed_sequences import Packing
from emgen.models.conjugate.recursions import factorised

MOST_STATES = 1024  # joint states beyond which nothing is enumerated
FEW_STATES = 64  # joint states up to which approximations are scored against the evidence


class FactorialPosterior:
    """q(z) ∝ Π_m π_m(z_m1) Π_t A_m(z_mt−1, z_mt) · Π_t exp(c_t + h_t·δ_t − ½ δ_tᵀJδ_t), δ = u −
    about.

    The regressors u are the causes' states, one-hot side by side. Beliefs ask this for the exact
    joint distribution or for one of its approximations.

    Args:
        log_initial: (M, K). log_transition: (M, K, K).
        c: (rows,). h: (rows, P). j: (P, P), or one a row. about: (P,).
        packing: the sequences that the rows belong to.

    References:
        Ghahramani and Jordan (1997), "Factorial hidden Markov models".
    """

    def __init__(
        self,
        log_initial: Tensor,
        log_transition: Tensor,
        c: Tensor,
        h: Tensor,
        j: Tensor,
        about: Tensor,
        packing: Packing,
    ) -> None:
        self.log_initial, self.log_transition, self.packing = log_initial, log_transition, packing
        pulled = j @ about
        self.c = c - h @ about - 0.5 * pulled @ about
        self.h, self.j = h + pulled, j
        self.chains, self.states = log_initial.shape

    @cached_property
    def exact(self) -> "JointBelief":
        """The posterior itself, over the Kᴹ joint states.

        Raises:
            ValueError: more than 1,024 joint states.
        """
        if self.states**self.chains > MOST_STATES:
            raise ValueError(
                f"{self.states}^{self.chains} joint states are too many to enumerate (at most"
                f" {MOST_STATES}): use the belief MeanField() or Structured() about the latents"
            )
        index = torch.cartesian_prod(
            *[torch.arange(self.states, device=self.h.device)] * self.chains
        ).view(-1, self.chains)
        u = torch.nn.functional.one_hot(index, self.states).flatten(1).to(self.h.dtype)
        square = torch.einsum("cp,...pq,cq->...c", u, self.j, u)
        chain = torch.arange(self.chains, device=self.h.device)
        moves = self.log_transition[chain, index[:, None, :], index[None, :, :]].sum(-1)
        scores = self.c[:, None] + self.h @ u.T - 0.5 * square
        return JointBelief(
            ChainPosterior(self.log_initial[chain, index].sum(-1), moves, scores, self.packing),
            u,
            index,
        )

    @property
    def configurations(self) -> list[int]:
        """How many states each cause has in each row, row by row, for enumeration."""
        return [self.states] * (len(self.h) * self.chains)

    def at(self, states: Int[Tensor, "variables"]) -> "FactorialBelief":
        """Certainty about the states of all causes, row by row."""
        paths = states.view(-1, self.chains).unbind(1)
        return FactorialBelief(
            [Paths(self.packing, path, self.states, self.log_evidence) for path in paths]
        )

    def mode(self) -> "FactorialBelief":
        """The most probable joint path."""
        return self.exact.at(self.exact.chain.mode().path)

    def sample(self) -> "FactorialBelief":
        """A joint path drawn from the posterior: blocked Gibbs."""
        return self.exact.at(self.exact.chain.sample().path)

    def tempered(self, beta: float) -> "JointBelief":
        return JointBelief(self.exact.chain.tempered(beta), self.exact.u, self.exact.index)

    def mean_field(self, sweeps: int) -> "FactorialBelief":
        """Π_m Π_t q(z_mt), by coordinate ascent from indifference."""
        q = self.h.new_full((len(self.h), self.chains, self.states), 1 / self.states)
        for _ in range(sweeps):
            for m in range(self.chains):
                given = self.given_others(q, m)
                q = _replaced(q, m, factorised(*given, self.packing, q[:, m], sweeps=1))
        return FactorialBelief(
            [Factorised(self.packing, q[:, m], self.log_evidence) for m in range(self.chains)]
        )

    def structured(self, sweeps: int) -> "FactorialBelief":
        """Π_m q(z_m1, …, z_mT), by coordinate ascent from the mean field, which it can only
        improve.
        """
        return self._in_turn(self.mean_field(sweeps).marginals, lambda chain: chain, sweeps)

    def gibbs(self, state: "FactorialBelief", sweeps: int = 1) -> "FactorialBelief":
        """Each chain drawn in turn, whole, given the others: leaves the posterior invariant,
        whatever the number of states.
        """
        return self._in_turn(state.marginals, ChainPosterior.sample, sweeps)

    def given_others(
        self, q: Float[Tensor, "rows chains states"], m: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log π, log A and log b of chain m when the other chains are believed to be q."""
        own = slice(m * self.states, (m + 1) * self.states)
        others = _replaced(q, m, torch.zeros_like(q[:, m])).flatten(1)
        block = self.j[..., own, :]
        pull = others @ block.T if block.ndim == 2 else (block @ others[:, :, None]).squeeze(-1)
        square = block[..., own].diagonal(dim1=-2, dim2=-1)
        return self.log_initial[m], self.log_transition[m], self.h[:, own] - 0.5 * square - pull

    @cached_property
    def log_evidence(self) -> Float[Tensor, "sequences"]:
        """log p(x) where the joint states are few, else 0."""
        if self.states**self.chains <= FEW_STATES:
            return self.exact.log_evidence
        return self.h.new_zeros(len(self.packing.lengths))

    def _in_turn(
        self, q: Tensor, keep: Callable[[ChainPosterior], ChainPosterior | Paths], sweeps: int
    ) -> "FactorialBelief":
        chains = []
        for _ in range(sweeps):
            chains = []
            for m in range(self.chains):
                chains.append(
                    keep(ChainPosterior(*self.given_others(q, m), self.packing, self.log_evidence))
                )
                q = _replaced(q, m, chains[m].marginals)
        return FactorialBelief(chains)


class JointBelief:
    """A distribution over joint states: a chain of Kᴹ states, seen through the causes' own."""

    def __init__(self, chain: ChainPosterior, u: Tensor, index: Tensor) -> None:
        self.chain, self.u, self.index = chain, u, index
        self.log_evidence = chain.log_evidence

    @property
    def marginals(self) -> Float[Tensor, "rows chains states"]:
        return (self.chain.marginals @ self.u).view(
            len(self.chain.marginals), self.index.shape[1], -1
        )

    def transitions(self, weight: Tensor) -> Float[Tensor, "chains states states"]:
        """Expected numbers of moves of each cause."""
        u = self.u.view(len(self.u), self.index.shape[1], -1)
        return torch.einsum("amk,ab,bml->mkl", u, self.chain.transitions(weight), u)

    def scatter(
        self, weight: Float[Tensor, "rows kinds"]
    ) -> Float[Tensor, "kinds regressors regressors"]:
        """Σ_n w_n Cov(u_n)."""
        mean = self.marginals.flatten(1)
        second = torch.einsum("dc,cp,cq->dpq", weight.T @ self.chain.marginals, self.u, self.u)
        return second - torch.einsum("nd,np,nq->dpq", weight, mean, mean)

    def entropy(self, weight: Tensor) -> Tensor:
        return self.chain.entropy(weight)

    def at(self, path: Tensor) -> "FactorialBelief":
        """Certainty about one joint path."""
        states = self.u.shape[1] // self.index.shape[1]
        chains: list[Any] = [
            Paths(self.chain.packing, path, states, self.log_evidence)
            for path in self.index[path].unbind(1)
        ]
        return FactorialBelief(chains)


class FactorialBelief:
    """Causes believed independent of one another: each a chain kept whole, factorised over time, or
    a certain path.
    """

    def __init__(self, chains: list[ChainPosterior | Factorised | Paths]) -> None:
        self.chains = chains
        self.log_evidence = chains[0].log_evidence

    @cached_property
    def marginals(self) -> Float[Tensor, "rows chains states"]:
        return torch.stack([chain.marginals for chain in self.chains], 1)

    def transitions(self, weight: Tensor) -> Float[Tensor, "chains states states"]:
        """Expected numbers of moves of each cause."""
        return torch.stack([chain.transitions(weight) for chain in self.chains])

    def scatter(
        self, weight: Float[Tensor, "rows kinds"]
    ) -> Float[Tensor, "kinds regressors regressors"]:
        """Σ_n w_n Cov(u_n), which ties no two causes."""
        q = self.marginals
        _, chains, states = q.shape
        square = torch.einsum("nd,nmk,nml->dmkl", weight, q, q)
        own = torch.diag_embed(torch.einsum("nd,nmk->dmk", weight, q)) - square
        total = own.new_zeros(weight.shape[1], chains, states, chains, states)
        for m in range(chains):
            total[:, m, :, m] = own[:, m]
        return total.flatten(3, 4).flatten(1, 2)

    def entropy(self, weight: Tensor) -> Tensor:
        return torch.stack([chain.entropy(weight) for chain in self.chains]).sum()


def _replaced(q: Tensor, m: int, own: Tensor) -> Tensor:
    """q with chain m's marginals replaced."""
    return torch.cat([q[:, :m], own[:, None], q[:, m + 1 :]], 1)
