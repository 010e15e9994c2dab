"""The free energy F(q, θ), its importance-weighted tightening, and β-weighting of its KL term."""

__all__ = ["FreeEnergy", "kl_term"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from emgen.objectives.base import Terms


@dataclass(frozen=True)
class FreeEnergy:
    """Negative evidence lower bound of amortised variational EM, by reparameterised draws.

        F(q, θ)  = E_q(z|x)[log p(x|z)] − KL(q(z|x) ‖ p(z))                            ≤ log p(x)
        F_K      = E[log (1/K) Σ_k p(x, z_k) / q(z_k|x)],  z_k ~ q(z|x)                  F ≤ F_K ≤
        log p(x) loss     = −E_q[log p(x|z)] + β KL(q ‖ p)      or      −F_K

    The KL is exact where torch knows the pair, else it is estimated from the same draws.

    Args:
        beta: weight of the KL in the loss; the reported `elbo` always has weight one.
        samples: draws K of z per datum.
        importance_weighted: descend −F_K instead of −F.

    Raises:
        ValueError: samples below 1, a negative beta, β ≠ 1 with importance weights.
        TypeError: q cannot be reparameterised (discrete latents).

    References:
        Kingma and Welling (2014), "Auto-encoding variational Bayes"; Higgins et al. (2017),
        "beta-VAE"; Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders".
    """

    beta: float = 1.0
    samples: int = 1
    importance_weighted: bool = False

    def __post_init__(self) -> None:
        if not self.samples >= 1:
            raise ValueError(
                f"samples={self.samples}: the bound needs at least one draw of z; give an integer"
                " >= 1."
            )
        if not self.beta >= 0 or math.isinf(self.beta):
            raise ValueError(
                f"beta={self.beta}: the weight of the KL must be finite and not negative."
            )
        if self.importance_weighted and self.beta != 1:
            raise ValueError(
                f"beta={self.beta}: an importance-weighted bound has no separate KL to weigh; use"
                " beta=1."
            )

    def __call__(self, model: Any, recognition: Any, x: Tensor) -> Terms:
        """Loss and parts `elbo`, `reconstruction`, `kl` (and `bound` = F_K if importance-weighted),
        each averaged over x.

        Args:
            model: p(z) p(x|z).
            recognition: q(z|x).
            x: data, (B, *event).
        """
        q, prior = recognition(x), model.prior()
        if not q.has_rsample:
            raise TypeError(
                f"the latents of {type(recognition).__name__} cannot be reparameterised, so this"
                " gradient does not exist: use trainer=wake_sleep, rws or vimco for discrete"
                " latents."
            )
        several = self.samples > 1 or self.importance_weighted
        z = q.rsample((self.samples,) if several else ())
        log_likelihood = model.likelihood(z).log_prob(x)
        exact = None if self.importance_weighted else _exact_kl(q, prior)
        kl = q.log_prob(z) - prior.log_prob(z) if exact is None else exact
        reconstruction, kl_mean = log_likelihood.mean(), kl.mean()
        parts = {"elbo": reconstruction - kl_mean, "reconstruction": reconstruction, "kl": kl_mean}
        if not self.importance_weighted:
            return Terms(self.beta * kl_mean - reconstruction, parts)
        bound = (torch.logsumexp(log_likelihood - kl, 0) - math.log(self.samples)).mean()
        return Terms(-bound, {**parts, "bound": bound})


def kl_term(q: Distribution, prior: Distribution, z: Callable[[], Tensor]) -> Tensor:
    """KL(q ‖ p(z)) in closed form where torch knows the pair, else log q(z) − log p(z) at the draws
    that `z` gives.
    """
    exact = _exact_kl(q, prior)
    if exact is not None:
        return exact
    drawn = z()
    return q.log_prob(drawn) - prior.log_prob(drawn)


def _exact_kl(q: Distribution, prior: Distribution) -> Tensor | None:
    try:
        return kl_divergence(q, prior)
    except NotImplementedError:
        return None
