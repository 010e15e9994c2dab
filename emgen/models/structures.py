"""Chains, topics, factors and factorial models by name, from the shape of the data."""

__all__ = ["factor_analysis", "factorial_hmm", "factorial_mixture", "hidden_markov_model", "topic_model"]

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

from emgen.families import Bernoulli, Categorical, DiagonalGaussian, Family, Gaussian, LinearGaussian, Poisson
from emgen.models.factor import FactorAnalysis
from emgen.models.factorial import FactorialHMM, FactorialMixture
from emgen.models.hmm import HiddenMarkovModel
from emgen.models.topics import TopicModel

EMISSIONS = ("gaussian", "categorical", "poisson", "bernoulli")
COVARIANCES = ("full", "tied", "diagonal", "spherical")
NOISES = ("diagonal", "spherical")


def hidden_markov_model(
    event_shape: int | Sequence[int],
    states: int = 2,
    emission: str = "gaussian",
    covariance: str = "diagonal",
    symbols: int = 2,
    reg_covar: float = 0.0,
    initial: float | None = None,
    transition: float | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "kmeans++",
) -> HiddenMarkovModel:
    """A hidden Markov model of K states.

    Args:
        event_shape: shape of a sequence (T, *frame), or the number of features of a frame.
        states: K.
        emission: `gaussian`, `categorical`, `poisson` or `bernoulli`.
        covariance: of Gaussians, `full`, `tied`, `diagonal` or `spherical`.
        symbols: of categorical emissions, how many there are.
        reg_covar: ε in squared units of the data, added to every Gaussian covariance and to the objective.
        initial, transition: None for flat priors, or α for Dirichlet(α, …, α).
        prior: buffers of the emission's conjugate prior by name; what is left out is flat.
        start: see `HiddenMarkovModel`.

    Raises:
        ValueError: an argument out of its range; the message names it.

    >>> hidden_markov_model(3, states=4, covariance="full").emission.covariance.shape
    torch.Size([4, 3, 3])
    """
    _at_least(1, states=states)
    _one_of(EMISSIONS, emission=emission)
    _one_of(COVARIANCES, covariance=covariance)
    features = event_shape if isinstance(event_shape, int) else prod(event_shape[1:])
    family: Family
    if emission == "categorical":
        family = Categorical.flat(states, features, symbols=symbols)
    elif emission == "poisson":
        family = Poisson.flat(states, features)
    elif emission == "bernoulli":
        family = Bernoulli.flat(states, features)
    elif covariance in ("full", "tied"):
        family = Gaussian.flat(states, features, tied=covariance == "tied", reg_covar=reg_covar)
    else:
        family = DiagonalGaussian.flat(states, features, spherical=covariance == "spherical", reg_covar=reg_covar)
    return HiddenMarkovModel(
        family.given(**(prior or {})), _dirichlet(initial, states), _dirichlet(transition, states, states), start
    )


def topic_model(
    event_shape: int | Sequence[int] = (3,),
    documents: int = 1,
    words: int = 1,
    topics: int = 10,
    alpha: float | None = None,
    beta: float | None = None,
    start: str | Mapping[str, Any] = "random",
) -> TopicModel:
    """A topic model of a corpus.

    Args:
        event_shape: of an entry (document, word, count); not otherwise used.
        documents, words: size of the corpus and of its vocabulary.
        topics: K.
        alpha: Dirichlet prior of a document's proportions; None is flat, for pLSA.
        beta: Dirichlet prior of a topic's words; None is flat, for pLSA.
        start: see `TopicModel`.

    >>> topic_model(documents=5, words=7, topics=2, alpha=0.5, beta=0.5).topics.mean.shape
    torch.Size([2, 7])
    """
    _at_least(1, documents=documents, words=words, topics=topics)
    return TopicModel(_dirichlet(alpha, documents, topics), _dirichlet(beta, topics, words), start)


def factor_analysis(
    event_shape: int | Sequence[int],
    latent: int = 2,
    noise: str = "diagonal",
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "random",
) -> FactorAnalysis:
    """Factor analysis, or probabilistic PCA with `noise="spherical"`.

    Args:
        event_shape: shape of a datum, or its number of features.
        latent: L, the number of factors.
        noise: `diagonal` or `spherical`.
        prior: buffers of the loadings' conjugate prior by name, `mean precision variance nu`; None is flat.
        start: see `FactorAnalysis`.

    >>> factor_analysis(5, latent=2).loadings.mean.shape  # two factors and the offset
    torch.Size([5, 3])
    """
    _at_least(1, latent=latent)
    return FactorAnalysis(_loadings(event_shape, latent + 1, noise, prior), start)


def factorial_mixture(
    event_shape: int | Sequence[int],
    causes: int = 2,
    states: int = 2,
    noise: str = "diagonal",
    weights: float | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "random",
) -> FactorialMixture:
    """A factorial mixture (cooperative vector quantisation) of M causes with K states each.

    Args:
        event_shape: shape of a datum, or its number of features.
        causes: M. states: K.
        noise: `diagonal` or `spherical`.
        weights: None for flat priors, or α for Dirichlet(α, …, α).
        prior: as in `factor_analysis`.
        start: see `FactorialMixture`.
    """
    _at_least(1, causes=causes, states=states)
    return FactorialMixture(_loadings(event_shape, causes * states, noise, prior), _dirichlet(weights, causes, states), start)


def factorial_hmm(
    event_shape: int | Sequence[int],
    causes: int = 2,
    states: int = 2,
    noise: str = "diagonal",
    initial: float | None = None,
    transition: float | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "random",
) -> FactorialHMM:
    """A factorial hidden Markov model of M chains with K states each.

    Args:
        event_shape: shape of a sequence (T, *frame), or the number of features of a frame.
        causes: M. states: K.
        noise: `diagonal` or `spherical`.
        initial, transition: None for flat priors, or α for Dirichlet(α, …, α).
        prior: as in `factor_analysis`.
        start: see `FactorialHMM`.
    """
    _at_least(1, causes=causes, states=states)
    frame = event_shape if isinstance(event_shape, int) else event_shape[1:]
    return FactorialHMM(
        _loadings(frame, causes * states, noise, prior), _dirichlet(initial, causes, states),
        _dirichlet(transition, causes, states, states), start,
    )


def _loadings(event_shape: int | Sequence[int], regressors: int, noise: str, prior: Mapping[str, Any] | None) -> LinearGaussian:
    _one_of(NOISES, noise=noise)
    features = event_shape if isinstance(event_shape, int) else prod(event_shape)
    return LinearGaussian.flat(features, regressors, spherical=noise == "spherical").given(**(prior or {}))


def _dirichlet(alpha: float | None, *shape: int) -> Categorical:
    """Dirichlet(α, …, α) along the last dimension, flat for None."""
    if alpha is None:
        return Categorical.flat(*shape[:-1], symbols=shape[-1])
    if not alpha > 0:
        raise ValueError(f"the Dirichlet's α must be positive, not {alpha}; null makes the prior flat")
    return Categorical.dirichlet(torch.full(shape, float(alpha), dtype=torch.float64))


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value}: at least {least} is needed")


def _one_of(known: Sequence[str], **values: str) -> None:
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}")
