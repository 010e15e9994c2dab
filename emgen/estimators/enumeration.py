"""Exact evidence of tiny models by summing over every configuration of their latents: the oracle of
the tests and of users.
"""

__all__ = ["Enumeration", "enumerate_latents", "log_evidence"]

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

MOST = 2**20


@dataclass(frozen=True)
class Enumeration:
    """log p(x, z) of every configuration z of the latents.

    Attributes:
        configurations: (C, n), one state for each of n latent variables.
        log_joint: (C,), in nats.
    """

    configurations: Int[Tensor, "configurations variables"]
    log_joint: Float[Tensor, "configurations"]

    @property
    def log_prob(self) -> Tensor:
        """log p(x) = log Σ_z p(x, z)."""
        return self.log_joint.logsumexp(0)

    @property
    def log_max(self) -> Tensor:
        """max_z log p(x, z)."""
        return self.log_joint.max()

    @property
    def best(self) -> Int[Tensor, "variables"]:
        """The most probable configuration."""
        return self.configurations[self.log_joint.argmax()]

    @property
    def probs(self) -> Float[Tensor, "configurations"]:
        """p(z | x)."""
        return self.log_joint.softmax(0)

    def marginals(self, states: int) -> Float[Tensor, "variables states"]:
        """p(z_i = k | x)."""
        return torch.einsum(
            "c,cik->ik",
            self.probs,
            torch.nn.functional.one_hot(self.configurations, states).to(self.probs),
        )

    def together(self, i: int, j: int) -> Tensor:
        """p(z_i = z_j | x), which relabelling does not change."""
        return self.probs[self.configurations[:, i] == self.configurations[:, j]].sum()


def enumerate_latents(
    log_joint: Callable[[Int[Tensor, "configurations variables"]], Float[Tensor, "configurations"]],
    states: Sequence[int],
    block: int = 2**14,
) -> Enumeration:
    """Evaluate log p(x, z) at every z.

    Args:
        log_joint: configurations (C, n) → log p(x, z) of each.
        states: number of states of each latent variable.
        block: configurations given to `log_joint` at a time.

    Raises:
        ValueError: more than 2²⁰ configurations.

    >>> enumerate_latents(lambda z: z.sum(1).double().log(), [2, 2]).log_prob.exp()  # 0 + 1 + 1 + 2
    tensor(4., dtype=torch.float64)
    """
    total = 1
    for k in states:
        total *= k
    if total > MOST:
        raise ValueError(
            f"{total} configurations are too many to enumerate; at most {MOST}: use fewer rows or"
            " states"
        )
    every = torch.tensor(list(itertools.product(*map(range, states)))).view(total, len(states))
    return Enumeration(every, torch.cat([log_joint(z) for z in every.split(block)]))


def log_evidence(model: Any, x: Any, parameters: str = "point") -> Enumeration:
    """Enumerate the latents of a mixture, hidden Markov model, topic model or factorial model.

    With `parameters="point"` the centre of θ is known, log p(x, z|θ); with
    `parameters="distribution"` θ is integrated out under the model's conjugate priors, log p(x, z)
    = Σ_parts log ∫ p(s|θ) dp(θ). A topic model's latents are the topics of its words, in the order
    of the sorted entries; a hidden Markov model's the states of all frames, packed time first; a
    factorial model's the states of all causes row by row.

    Args:
        model: any conjugate model with discrete latents.
        x: tiny data, as the model takes them.
        parameters: `point` or `distribution`.

    Raises:
        ValueError: more than 2²⁰ configurations, or parameters of another name.
        TypeError: latents that are not discrete.

    >>> from emgen.models import GaussianMixture
    >>> x = torch.tensor([[-5], [-4.5], [-4], [-3.5], [3.5], [4], [4.5], [5]]).double()
    >>> prior = {"mean": 0.0, "kappa": 0.1, "variance": 1.0, "nu": 2.0}
    >>> mixture = GaussianMixture(1, components=2, covariance="diagonal", weights=1.0, prior=prior)
    >>> every = log_evidence(mixture, x, "distribution")  # 2⁸ partitions, θ integrated out of each
    >>> print(f"log p(x) = {every.log_prob:.6f}, p(z₁ = z₂ | x) = {every.together(0, 1):.6f}")
    log p(x) = -20.940390, p(z₁ = z₂ | x) = 0.999381
    """
    if parameters not in ("point", "distribution"):
        raise ValueError(
            f"parameters={parameters!r}: give 'point' (θ at its centre) or 'distribution' (θ"
            " integrated out)"
        )
    posterior = model.posterior(x)
    if not hasattr(posterior, "configurations"):
        raise TypeError(
            f"the latents of {type(model).__name__} are not discrete: nothing can be enumerated,"
            " use its log_prob(x)"
        )
    return enumerate_latents(
        lambda every: torch.stack(
            [_log_joint(model, model.statistics(x, posterior.at(z)), parameters) for z in every]
        ),
        posterior.configurations,
    )


def _log_joint(model: Any, s: dict[str, Tensor], parameters: str) -> Tensor:
    """log p(x, z|θ) or log p(x, z), from the statistics of one z: both are the free energy at a
    certain z.
    """
    total = s["n"].new_zeros(())
    for name, belief in model.theta().items():
        own = {
            key.removeprefix(f"{name}."): value
            for key, value in s.items()
            if key.startswith(f"{name}.")
        }
        if parameters == "point":
            point = belief.mode()
            total = total + point.expected_fit(point.rebase(own, belief)).sum()
        else:
            after = model.priors[name].update(own, belief)
            total = (
                total
                + (
                    after.expected_fit(after.rebase(own, belief)) - after.kl(model.priors[name])
                ).sum()
            )
    return total
