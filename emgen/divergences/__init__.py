"""Divergences as objects: f-divergences, the losses that induce them, Bregman divergences,
projections.
"""

from emgen.divergences.activations import PaperActivation
from emgen.divergences.base import FDivergence
from emgen.divergences.bounds import fenchel_bound, tight_bound
from emgen.divergences.bregman import (
    Bregman,
    BregmanDual,
    GeneralisedKL,
    ItakuraSaito,
    LogPartition,
    Mahalanobis,
    SquaredEuclidean,
)
from emgen.divergences.f import GAN, KL, Jeffreys, JensenShannon, ReverseKL, TotalVariation
from emgen.divergences.numerics.between import Estimate
from emgen.divergences.powers import Alpha, Neyman, Pearson, SquaredHellinger
from emgen.divergences.projections import (
    GaussianFamily,
    MixtureFamily,
    f_projection,
    i_projection,
    m_projection,
)
from emgen.divergences.surrogate import (
    ExponentialLoss,
    HingeLoss,
    LeastSquaresLoss,
    LogisticLoss,
    LossOfDivergence,
    MarginLoss,
    TriangularDiscrimination,
)
from emgen.divergences.tables import (
    alternating_projections,
    factorised_i_projection,
    factorised_m_projection,
    iterative_proportional_fitting,
    linear_projection,
    pythagorean_residual,
)

__all__ = [
    "Alpha",
    "Bregman",
    "BregmanDual",
    "Estimate",
    "ExponentialLoss",
    "FDivergence",
    "GAN",
    "GaussianFamily",
    "GeneralisedKL",
    "HingeLoss",
    "ItakuraSaito",
    "Jeffreys",
    "JensenShannon",
    "KL",
    "LeastSquaresLoss",
    "LogPartition",
    "LogisticLoss",
    "LossOfDivergence",
    "Mahalanobis",
    "MarginLoss",
    "MixtureFamily",
    "Neyman",
    "PaperActivation",
    "Pearson",
    "ReverseKL",
    "SquaredEuclidean",
    "SquaredHellinger",
    "TotalVariation",
    "TriangularDiscrimination",
    "alternating_projections",
    "f_projection",
    "factorised_i_projection",
    "factorised_m_projection",
    "fenchel_bound",
    "i_projection",
    "iterative_proportional_fitting",
    "linear_projection",
    "m_projection",
    "pythagorean_residual",
    "tight_bound",
]
