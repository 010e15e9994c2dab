"""Estimators with scikit-learn's names, arguments and attributes over the same trainers."""

from emgen.sklearn.bayesian import BayesianGaussianMixture
from emgen.sklearn.boltzmann import BernoulliRBM
from emgen.sklearn.cluster import KMeans
from emgen.sklearn.hmm import CategoricalHMM, GaussianHMM
from emgen.sklearn.mixture import GaussianMixture
from emgen.sklearn.topics import LatentDirichletAllocation

__all__ = [
    "BayesianGaussianMixture",
    "BernoulliRBM",
    "CategoricalHMM",
    "GaussianHMM",
    "GaussianMixture",
    "KMeans",
    "LatentDirichletAllocation",
]
