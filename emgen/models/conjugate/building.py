"""What the builders of conjugate models share: ranges of arguments, flat and Dirichlet priors,
loadings.
"""

__all__ = ["at_least", "dirichlet_prior", "loadings", "one_of"]

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

from emgen.families import Categorical, LinearGaussian

NOISES = ("diagonal", "spherical")


def loadings(
    event_shape: int | Sequence[int], regressors: int, noise: str, prior: Mapping[str, Any] | None
) -> LinearGaussian:
    """W of `regressors` effects on the features of a datum, under its conjugate prior; what the
    prior leaves out is flat.
    """
    one_of(NOISES, noise=noise)
    features = event_shape if isinstance(event_shape, int) else prod(event_shape)
    return LinearGaussian.flat(features, regressors, spherical=noise == "spherical").given(
        **(prior or {})
    )


def dirichlet_prior(alpha: float | None, *shape: int) -> Categorical:
    """Dirichlet(α, …, α) along the last dimension, flat for None."""
    if alpha is None:
        return Categorical.flat(*shape[:-1], symbols=shape[-1])
    if not alpha > 0:
        raise ValueError(
            f"the Dirichlet's α must be positive, not {alpha}; null makes the prior flat"
        )
    return Categorical.dirichlet(torch.full(shape, float(alpha), dtype=torch.float64))


def at_least(least: int, **values: int) -> None:
    """Refuse a count below `least`, by its name."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value}: at least {least} is needed")


def one_of(known: Sequence[str], **values: str) -> None:
    """Refuse a word that is none of those known, by the argument's name."""
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}")
