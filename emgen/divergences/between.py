"""The value of an f-divergence between two given distributions, by the best way there is."""

from __future__ import annotations

__all__ = ["Estimate", "between", "log_affinity", "torch_kl"]

import contextlib
import math
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    ContinuousBernoulli,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
    constraints,
    kl_divergence,
)

from emgen.divergences.densities import (
    continuous_bernoulli_kl,
    interval,
    is_discrete,
    log_density,
    log_mass,
    marks_of,
    support_of,
)
from emgen.divergences.precision import dtype_of, in_double
from emgen.divergences.quadrature import integrate

if TYPE_CHECKING:
    from emgen.divergences.base import FDivergence

_MOST = 2**20  # outcomes that are summed over
LOST = 1e-6  # nats below zero that round-off of a closed form in float64 may reach


class Estimate(NamedTuple):
    """A value in nats, its numerical or standard error, and how it was found.

    >>> float(Estimate(torch.tensor(0.5), torch.tensor(0.0), "closed form"))
    0.5
    """

    value: Tensor
    error: Tensor
    method: str

    def __float__(self) -> float:
        return float(self.value.detach())


def between(
    divergence: FDivergence, p: Distribution, q: Distribution, samples: int | None
) -> Estimate:
    """D_f(p‖q): see `FDivergence.of`."""
    for name, one in (("p", p), ("q", q)):
        if not isinstance(one, Distribution):
            raise TypeError(
                f"{name} is a {type(one).__name__}: give a torch.distributions.Distribution, such"
                " as Normal(0.0, 1.0)."
            )
    if p.event_shape != q.event_shape:
        raise ValueError(f"p has events of shape {tuple(p.event_shape)} and q of {tuple(q.event_shape)}: a divergence "
                         "compares distributions over one space; give both the same event shape.")  # fmt: skip
    try:
        torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    except RuntimeError:
        raise ValueError(f"p is a batch of {tuple(p.batch_shape)} distributions and q of {tuple(q.batch_shape)}, which do "
                         "not broadcast; give batches of one shape, or one of them a single distribution.") from None  # fmt: skip
    if {is_discrete(p), is_discrete(q)} == {True, False}:
        raise ValueError(f"of {type(p).__name__} and {type(q).__name__} one is discrete and one continuous, so they share "
                         "no density; give two of a kind.")  # fmt: skip
    drawn = p, q  # draws and their densities in the precision that was given
    dtype = dtype_of(p, q)
    p, q = in_double(p), in_double(q)
    p, q = _alike(p, q), _alike(q, p)
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        _need_same(p.probs.shape[-1], q.probs.shape[-1])
    if (
        isinstance(p, TransformedDistribution)
        and isinstance(q, TransformedDistribution)
        and p.transforms == q.transforms
    ):
        if all(transform.bijective for transform in p.transforms):  # which change no divergence
            return between(divergence, drawn[0].base_dist, drawn[1].base_dist, samples)  # type: ignore[attr-defined]
    found = _found(divergence, p, q, drawn, samples)
    if found.method == "closed form" and not is_discrete(
        p
    ):  # sums over outcomes stay in double precision
        found = Estimate(found.value.to(dtype), found.error.to(dtype), found.method)
    if bool(found.value.isnan().any()):
        raise ValueError(
            f"{divergence!r} of {type(p).__name__} and {type(q).__name__} came out as no number"
            f" ({found.method}): their log densities lose all digits somewhere; rescale them, or"
            " give samples=20000 to draw instead."
        )
    return found


def _found(
    divergence: FDivergence,
    p: Distribution,
    q: Distribution,
    drawn: tuple[Distribution, Distribution],
    samples: int | None,
) -> Estimate:
    """The value by the best way there is, of distributions in double precision; `drawn` are the
    given ones.
    """
    if samples is not None:
        return _monte_carlo(divergence, _alike(*drawn), _alike(*drawn[::-1]), samples)
    closed = divergence.exact(p, q)
    if closed is not None and bool(
        (closed > -LOST).all()
    ):  # one that is negative beyond round-off has lost its digits
        return Estimate(closed.clamp_min(0), torch.zeros_like(closed), "closed form")
    outcomes = _outcomes(p, q)
    if outcomes is not None:
        return _count(divergence, p, q, *outcomes)
    if p.has_enumerate_support and q.has_enumerate_support:
        return _enumerate(divergence, p, q)
    if p.event_shape.numel() == 1 and not is_discrete(p):
        with contextlib.suppress(NotImplementedError):  # what states no mean is drawn from
            return _quadrature(divergence, p, q)
    return _monte_carlo(divergence, _alike(*drawn), _alike(*drawn[::-1]), 20_000)


def torch_kl(p: Distribution, q: Distribution) -> Tensor | None:
    """KL(p‖q) where torch knows it, else None; over finitely many outcomes Σ p (log p − log q), as
    torch rounds rare ones to zero.
    """
    if isinstance(p, Independent) and isinstance(q, Independent):
        return _summed(p, q, torch_kl(p.base_dist, q.base_dist))
    p, q = _alike(p, q), _alike(q, p)
    outcomes = _outcomes(p, q)
    if outcomes is not None and not outcomes[1]:
        a, b = (log_mass(one, _letters(p, q, outcomes[0])) for one in (p, q))
        return _finite((a.exp() * (a - b)).sum(0))
    if isinstance(p, ContinuousBernoulli) or isinstance(
        q, ContinuousBernoulli
    ):  # torch's are of clamped probabilities
        both = isinstance(p, ContinuousBernoulli) and isinstance(q, ContinuousBernoulli)
        return continuous_bernoulli_kl(p, q) if both else None
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


def _outcomes(p: Distribution, q: Distribution) -> tuple[int, bool] | None:
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
    return (n, more) if n <= _MOST else None


def _letters(p: Distribution, q: Distribution, n: int) -> Tensor:
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


def _need_same(n: int, m: int) -> None:
    if n != m:
        raise ValueError(f"p has {n} outcomes and q {m}: give both the same alphabet.")


def _enumerate(divergence: FDivergence, p: Distribution, q: Distribution) -> Estimate:
    """The sum over an alphabet of the distributions' own."""
    letters, others = p.enumerate_support(expand=False), q.enumerate_support(expand=False)
    _need_same(len(letters), len(others))
    value = _finite(
        divergence.perspective(
            *torch.broadcast_tensors(log_density(p, letters), log_density(q, letters))
        ).sum(0)
    )
    return Estimate(value, torch.zeros_like(value), "enumeration")


def _count(
    divergence: FDivergence, p: Distribution, q: Distribution, n: int, more: bool
) -> Estimate:
    """The sum over n outcomes, or over twice as many until the second half adds nothing: +∞ if it
    goes on adding.
    """
    while True:
        letters = _letters(p, q, n)
        terms = divergence.perspective(
            *torch.broadcast_tensors(log_mass(p, letters), log_mass(q, letters))
        )
        value, rest = terms.sum(0), terms[n // 2 if more else n :].sum(0).abs()
        if bool((rest <= 1e-14 * value).all()) or n > _MOST:
            break
        n *= 2
    value = _finite(torch.where(rest > 1e-3 * value, torch.inf, value))
    return Estimate(value, torch.where(value.isfinite(), rest.detach(), 0.0), "enumeration")


def _quadrature(divergence: FDivergence, p: Distribution, q: Distribution) -> Estimate:
    def integrand(x: Tensor) -> Tensor:
        points = x.reshape(-1, *([1] * max(len(p.batch_shape), len(q.batch_shape))), *p.event_shape)
        return divergence.perspective(_density(p, points), _density(q, points))

    ends, marks = sorted({*interval(p), *interval(q)}), torch.cat([marks_of(p), marks_of(q)])
    pieces = [
        integrate(integrand, marks, piece) for piece in pairwise(ends)
    ]  # densities may be singular where supports end
    value, error = (torch.stack(part).sum(0) for part in zip(*pieces, strict=True))
    value = _finite(value)
    return Estimate(value, torch.where(value.isfinite(), error, 0.0), "quadrature")


def _monte_carlo(
    divergence: FDivergence, p: Distribution, q: Distribution, samples: int
) -> Estimate:
    """Stratified draws from m = (p+q)/2: E_m of the perspective of p/m and q/m, each term
    non-negative and tame.
    """
    if not isinstance(samples, Integral) or samples < 4:
        raise ValueError(
            f"samples={samples}: the Monte Carlo estimate needs two draws from each side; give an"
            " integer, 4 or more."
        )
    mean, variance = torch.zeros(()), torch.zeros(())
    for side in (p, q):
        x = side.sample((samples // 2,))
        log_p, log_q = _density(p, x), _density(q, x)
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        terms = divergence.perspective(
            (log_p - log_m).clamp_min(-1e300), (log_q - log_m).clamp_min(-1e300)
        )
        mean, variance = (
            mean.to(terms) + terms.mean(0) / 2,
            variance.to(terms) + terms.var(0) / len(terms) / 4,
        )
    return Estimate(_finite(mean), variance.sqrt().nan_to_num(torch.inf, torch.inf), "Monte Carlo")


def _density(distribution: Distribution, x: Tensor) -> Tensor:
    """log densities, none of which may be no number: as a zero it would be a wrong value with a
    small error.
    """
    found = log_density(distribution, x)
    if bool(found.isnan().any()):
        raise ValueError(
            f"log_prob of {type(distribution).__name__} is no number at some points of its support:"
            " mend it, or give it parameters in its range."
        )
    return found


def _finite(value: Tensor) -> Tensor:
    """+∞ for what a zero of one side has made as good as infinite."""
    return torch.where(value > 1e100, torch.inf, value)


def _alike(p: Distribution, q: Distribution) -> Distribution:
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
