"""Exponential families: one class is prior, posterior, point and draw of a parameter."""

from emgen.families.base import Family, part, prefixed
from emgen.families.choice import Choice
from emgen.families.diagonal import DiagonalGaussian
from emgen.families.discrete import Bernoulli, Binomial, Categorical, Poisson, StickBreaking
from emgen.families.exponential import ExponentialFamily
from emgen.families.gaussian import Gaussian
from emgen.families.linear import LinearGaussian

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Choice",
    "DiagonalGaussian",
    "ExponentialFamily",
    "Family",
    "Gaussian",
    "LinearGaussian",
    "Poisson",
    "StickBreaking",
    "part",
    "prefixed",
]
