"""Mixtures by name: one family each."""

__all__ = [
    "BernoulliMixture",
    "BinomialMixture",
    "CategoricalMixture",
    "GaussianMixture",
    "PoissonMixture",
    "feature_count",
    "weights_prior",
]

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

from emgen.families import (
    Bernoulli,
    Binomial,
    Categorical,
    DiagonalGaussian,
    Family,
    Gaussian,
    Poisson,
    StickBreaking,
)
from emgen.models.conjugate.mixture import Mixture

COVARIANCES = ("full", "tied", "diagonal", "spherical", "isotropic")


def GaussianMixture(
    event_shape: int | Sequence[int],
    components: int = 2,
    covariance: str = "full",
    reg_covar: float = 0.0,
    weights: str | float | Sequence[float] | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "kmeans++",
    n_init: int = 1,
) -> Mixture:
    """A mixture of K Gaussians.

    Args:
        event_shape: shape of a datum, or its number of features.
        components: K.
        covariance: `full`, `tied` (one matrix for all), `diagonal`, `spherical`, or `isotropic`
            (one variance for all).
        reg_covar: ε in squared units of the data, added to every covariance and to the objective.
        weights: None learns them under a flat prior; `equal` or K numbers fixes them; one number α
            gives the prior Dirichlet(α, …, α), and `process:γ` a stick-breaking one.
        prior: buffers of the components' conjugate prior by name, `mean kappa covariance|variance
            nu`; what is left out is flat, and ν = ∞ fixes the (co)variance. None: flat, so that a
            point is the maximum-likelihood estimate.
        start: see `Mixture`.
        n_init: restarts run side by side.

    Raises:
        ValueError: an argument out of its range; the message names it.

    >>> GaussianMixture(2, components=3, covariance="tied").components.covariance.shape
    torch.Size([1, 2, 2])
    """
    features = feature_count(event_shape, components)
    if covariance == "diag":
        covariance = "diagonal"
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance={covariance!r} is not one of {', '.join(COVARIANCES)}")
    if covariance in ("full", "tied"):
        family: Family = Gaussian.flat(
            components, features, tied=covariance == "tied", reg_covar=reg_covar
        )
    else:
        family = DiagonalGaussian.flat(
            components,
            features,
            spherical=covariance in ("spherical", "isotropic"),
            tied=covariance == "isotropic",
            reg_covar=reg_covar,
        )
    return Mixture(weights_prior(weights, components), family.given(**(prior or {})), start, n_init)


def BernoulliMixture(
    event_shape: int | Sequence[int],
    components: int = 2,
    weights: str | float | Sequence[float] | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "kmeans++",
    n_init: int = 1,
) -> Mixture:
    """A mixture of K rows of independent binary features; arguments as in `GaussianMixture`, prior
    `mean concentration`.
    """
    family = Bernoulli.flat(components, feature_count(event_shape, components))
    return Mixture(weights_prior(weights, components), family.given(**(prior or {})), start, n_init)


def BinomialMixture(
    event_shape: int | Sequence[int],
    components: int = 2,
    trials: int = 10,
    weights: str | float | Sequence[float] | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "kmeans++",
    n_init: int = 1,
) -> Mixture:
    """A mixture of K rows of counts out of `trials`, as in the two coins; the mean is trials ×
    probability.
    """
    family = Binomial.flat(components, feature_count(event_shape, components), trials)
    return Mixture(weights_prior(weights, components), family.given(**(prior or {})), start, n_init)


def PoissonMixture(
    event_shape: int | Sequence[int],
    components: int = 2,
    weights: str | float | Sequence[float] | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "kmeans++",
    n_init: int = 1,
) -> Mixture:
    """A mixture of K rows of Poisson counts; prior `mean concentration`: λ ~ Gamma(concentration ·
    mean, concentration).
    """
    family = Poisson.flat(components, feature_count(event_shape, components))
    return Mixture(weights_prior(weights, components), family.given(**(prior or {})), start, n_init)


def CategoricalMixture(
    event_shape: int | Sequence[int],
    components: int = 2,
    symbols: int = 2,
    weights: str | float | Sequence[float] | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "random",
    n_init: int = 1,
) -> Mixture:
    """A mixture of K rows of symbols 0 … V−1 (latent class analysis); prior `mean concentration` of
    the Dirichlets.
    """
    family = Categorical.flat(components, feature_count(event_shape, components), symbols=symbols)
    return Mixture(weights_prior(weights, components), family.given(**(prior or {})), start, n_init)


def feature_count(event_shape: int | Sequence[int], components: int) -> int:
    """D, the number of features of a datum."""
    if not isinstance(components, int) or components < 1:
        raise ValueError(
            f"components={components}: a mixture needs one component or more, a whole number"
        )
    return event_shape if isinstance(event_shape, int) else prod(event_shape)


def weights_prior(weights: str | float | Sequence[float] | None, components: int) -> Family:
    """The prior over mixing weights in its short forms."""
    flat = Categorical.flat(symbols=components)
    if weights is None:
        return flat
    if weights == "equal":
        return flat.mode()
    if isinstance(weights, str):
        kind, _, value = weights.partition(":")
        if kind != "process":
            raise ValueError(
                f"weights={weights!r}: give null, equal, process:γ, one number α, or {components}"
                " numbers"
            )
        try:
            gamma = float(value or 1.0)
        except ValueError:
            gamma = -1.0
        if not 0 < gamma < float("inf"):
            raise ValueError(
                f"weights={weights!r}: the γ of a Dirichlet process is a positive number, as in"
                " process:1"
            )
        return StickBreaking.process(components, gamma)
    if isinstance(weights, (int, float)):
        if not weights > 0:
            raise ValueError(f"weights={weights}: the Dirichlet's α must be positive")
        return flat.replace(concentration=torch.tensor(weights * components, dtype=flat.mean.dtype))
    fixed = flat.given(mean=weights)
    if (fixed.mean < 0).any() or not torch.allclose(fixed.mean.sum(), fixed.mean.new_tensor(1.0)):
        raise ValueError(f"weights={list(weights)} must be non-negative and sum to 1")
    return fixed.mode()
