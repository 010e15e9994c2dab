"""The value of an f-divergence between two given distributions, by the best way there is."""

from __future__ import annotations

__all__ = ["Divergence", "Estimate", "between"]

import contextlib
import math
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, TransformedDistribution

from emgen.divergences.numerics.closed_forms import MOST, alike, finite, letters, outcomes
from emgen.divergences.numerics.densities import (
    interval,
    is_discrete,
    log_density,
    log_mass,
    marks_of,
)
from emgen.divergences.numerics.precision import dtype_of, in_double
from emgen.divergences.numerics.quadrature import integrate

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


@runtime_checkable
class Divergence(Protocol):
    """What is asked of an f-divergence here."""

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        """D_f(p‖q) where a closed form is known, else None."""
        ...

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """q f(p/q) − f′(1) (p − q), the integrand of D_f, point by point."""
        ...


def between(
    divergence: Divergence, p: Distribution, q: Distribution, samples: int | None
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
    p, q = alike(p, q), alike(q, p)
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
    divergence: Divergence,
    p: Distribution,
    q: Distribution,
    drawn: tuple[Distribution, Distribution],
    samples: int | None,
) -> Estimate:
    """The value by the best way there is, of distributions in double precision; `drawn` are the
    given ones.
    """
    if samples is not None:
        return _monte_carlo(divergence, alike(*drawn), alike(*drawn[::-1]), samples)
    closed = divergence.exact(p, q)
    if closed is not None and bool(
        (closed > -LOST).all()
    ):  # one that is negative beyond round-off has lost its digits
        return Estimate(closed.clamp_min(0), torch.zeros_like(closed), "closed form")
    counted = outcomes(p, q)
    if counted is not None:
        return _count(divergence, p, q, *counted)
    if p.has_enumerate_support and q.has_enumerate_support:
        return _enumerate(divergence, p, q)
    if p.event_shape.numel() == 1 and not is_discrete(p):
        with contextlib.suppress(NotImplementedError):  # what states no mean is drawn from
            return _quadrature(divergence, p, q)
    return _monte_carlo(divergence, alike(*drawn), alike(*drawn[::-1]), 20_000)


def _need_same(n: int, m: int) -> None:
    if n != m:
        raise ValueError(f"p has {n} outcomes and q {m}: give both the same alphabet.")


def _enumerate(divergence: Divergence, p: Distribution, q: Distribution) -> Estimate:
    """The sum over an alphabet of the distributions' own."""
    alphabet, others = p.enumerate_support(expand=False), q.enumerate_support(expand=False)
    _need_same(len(alphabet), len(others))
    value = finite(
        divergence.perspective(
            *torch.broadcast_tensors(log_density(p, alphabet), log_density(q, alphabet))
        ).sum(0)
    )
    return Estimate(value, torch.zeros_like(value), "enumeration")


def _count(
    divergence: Divergence, p: Distribution, q: Distribution, n: int, more: bool
) -> Estimate:
    """The sum over n outcomes, or over twice as many until the second half adds nothing: +∞ if it
    goes on adding.
    """
    while True:
        counted = letters(p, q, n)
        terms = divergence.perspective(
            *torch.broadcast_tensors(log_mass(p, counted), log_mass(q, counted))
        )
        value, rest = terms.sum(0), terms[n // 2 if more else n :].sum(0).abs()
        if bool((rest <= 1e-14 * value).all()) or n > MOST:
            break
        n *= 2
    value = finite(torch.where(rest > 1e-3 * value, torch.inf, value))
    return Estimate(value, torch.where(value.isfinite(), rest.detach(), 0.0), "enumeration")


def _quadrature(divergence: Divergence, p: Distribution, q: Distribution) -> Estimate:
    def integrand(x: Tensor) -> Tensor:
        points = x.reshape(-1, *([1] * max(len(p.batch_shape), len(q.batch_shape))), *p.event_shape)
        return divergence.perspective(_density(p, points), _density(q, points))

    ends, marks = sorted({*interval(p), *interval(q)}), torch.cat([marks_of(p), marks_of(q)])
    pieces = [
        integrate(integrand, marks, piece) for piece in pairwise(ends)
    ]  # densities may be singular where supports end
    value, error = (torch.stack(part).sum(0) for part in zip(*pieces, strict=True))
    value = finite(value)
    return Estimate(value, torch.where(value.isfinite(), error, 0.0), "quadrature")


def _monte_carlo(
    divergence: Divergence, p: Distribution, q: Distribution, samples: int
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
    return Estimate(finite(mean), variance.sqrt().nan_to_num(torch.inf, torch.inf), "Monte Carlo")


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
