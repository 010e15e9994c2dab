"""Divergences that are known in closed form between the distributions that torch has."""

from __future__ import annotations

__all__ = ["MOST", "alike", "finite", "letters", "log_affinity", "outcomes", "torch_kl"]

import math

import torch
from torch import Tensor
from torch.distributions import (
    ContinuousBernoulli,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    constraints,
    kl_divergence,
)

from emgen.divergences.numerics.densities import continuous_bernoulli_kl, log_mass, support_of

MOST = 2**20  # outcomes that are summed over


def torch_kl(p: Distribution, q: Distribution) -> Tensor | None:
    """KL(p‖q) where torch knows it, else None; over finitely many outcomes Σ p (log p − log q), as
    torch rounds rare ones to zero.
    """
    if isinstance(p, Independent) and isinstance(q, Independent):
        return _summed(p, q, torch_kl(p.base_dist, q.base_dist))
    p, q = alike(p, q), alike(q, p)
    found = outcomes(p, q)
    if found is not None and not found[1]:
        a, b = (log_mass(one, letters(p, q, found[0])) for one in (p, q))
        return finite((a.exp() * (a - b)).sum(0))
    if isinstance(p, ContinuousBernoulli) or isinstance(
        q, ContinuousBernoulli
    ):  # torch's are of clamped probabilities
        if isinstance(p, ContinuousBernoulli) and isinstance(q, ContinuousBernoulli):
            return continuous_bernoulli_kl(p, q)
        return None
    try:
        value = kl_divergence(p, q)
    except NotImplementedError:
        return None
    return None if value.isnan().any() else value  # as of a Poisson of rate zero


def log_affinity(p: Distribution, q: Distribution, alpha: float) -> Tensor | None:
    """log ∫ pᵅ q¹⁻ᵅ between Gaussians (+∞ where it diverges), else None.

    With precisions Λ and d = μ_p − μ_q, Λ_α = α Λ_p + (1−α) Λ_q is the precision of the normalised
    pᵅ q¹⁻ᵅ and

        log ∫ pᵅ q¹⁻ᵅ = ½ (α log|Λ_p| + (1−α) log|Λ_q| − log|Λ_α| − α (1−α) dᵀ Λ_p Λ_α⁻¹ Λ_q d).
    """
    if isinstance(p, Independent) and isinstance(q, Independent):
        return _summed(p, q, log_affinity(p.base_dist, q.base_dist, alpha))
    if isinstance(p, Normal) and isinstance(q, Normal):
        d = p.mean - q.mean
        a, b = p.scale.pow(-2), q.scale.pow(-2)
        mixed = alpha * a + (1 - alpha) * b
        exists, mixed = mixed > 0, torch.where(mixed > 0, mixed, 1.0)
        quadratic = a * b / mixed * d.square()
        logs = alpha * a.log() + (1 - alpha) * b.log() - mixed.log()
    elif isinstance(p, MultivariateNormal) and isinstance(q, MultivariateNormal):
        d = p.mean - q.mean
        a, b = p.precision_matrix, q.precision_matrix
        factor, info = torch.linalg.cholesky_ex(alpha * a + (1 - alpha) * b)
        exists = info == 0
        factor = torch.where(
            exists[..., None, None], factor, torch.eye(d.shape[-1], dtype=d.dtype, device=d.device)
        )
        left, right = (m @ d[..., None] for m in (a, b))
        quadratic = (left * torch.cholesky_solve(right, factor)).sum((-2, -1))
        logs = (
            alpha * a.logdet()
            + (1 - alpha) * b.logdet()
            - 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        )
    else:
        return None
    return torch.where(exists, (logs - alpha * (1 - alpha) * quadratic) / 2, torch.inf)


def outcomes(p: Distribution, q: Distribution) -> tuple[int, bool] | None:
    """How many of the outcomes 0, 1, 2, … to begin with, and whether there are more; None where
    there are others, or too many.
    """
    n, more = 1, False
    for one in (p, q):
        support = support_of(one)
        last = torch.as_tensor(
            1 if support is constraints.boolean else getattr(support, "upper_bound", math.inf)
        ).max()
        if (
            one.event_shape
            or not getattr(support, "is_discrete", False)
            or getattr(support, "lower_bound", 0) != 0
        ):
            return None
        if last == math.inf:  # Poisson, geometric, ...
            more, last = True, 64 + (one.mean + 40 * one.variance.sqrt()).max()
        n = max(n, int(last) + 1)
    return (n, more) if n <= MOST else None


def letters(p: Distribution, q: Distribution, n: int) -> Tensor:
    """0, …, n − 1 along the first dimension, before those of the batch."""
    return torch.arange(n, dtype=torch.float64, device=p.mean.device).reshape(
        -1, *[1] * max(len(p.batch_shape), len(q.batch_shape))
    )


def _summed(p: Independent, q: Independent, inner: Tensor | None) -> Tensor | None:
    """What adds over independent parts, of their batch `inner`."""
    dims = p.reinterpreted_batch_ndims
    same = dims == q.reinterpreted_batch_ndims
    return (
        None if inner is None or not same else inner.sum(list(range(-dims, 0))) if dims else inner
    )


def alike(p: Distribution, q: Distribution) -> Distribution:
    """A Gaussian p over vectors written as a full one when q is a Gaussian written in another way;
    of two one-hot letters the letter.
    """
    if isinstance(p, OneHotCategorical) and isinstance(q, OneHotCategorical):
        return p._categorical

    def gaussian(d: Distribution) -> bool:
        diagonal = (
            isinstance(d, Independent)
            and isinstance(d.base_dist, Normal)
            and d.reinterpreted_batch_ndims == 1
        )
        return diagonal or isinstance(d, (MultivariateNormal, LowRankMultivariateNormal))

    low_rank = isinstance(p, LowRankMultivariateNormal)
    if not (gaussian(p) and gaussian(q)) or (type(p) is type(q) and not low_rank):
        return p
    covariance = p.covariance_matrix if low_rank else torch.diag_embed(p.variance)  # type: ignore[attr-defined]
    return MultivariateNormal(p.mean, covariance)


def finite(value: Tensor) -> Tensor:
    """+∞ for what a zero of one side has made as good as infinite."""
    return torch.where(value > 1e100, torch.inf, value)
