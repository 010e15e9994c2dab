"""The prices of the Wasserstein game."""

__all__ = ["Wasserstein"]

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wasserstein:
    """W₁(p̂, p) = sup E_p̂[v(x)] − E_p[v(x)] over critics v of slope at most 1: both prices are v.

    It is no f-divergence, and v no log ratio: what bounds the slope is the critic (spectral norm)
    or its penalty (`GradientPenalty(where="between", target=1)`).

    References: Arjovsky, Chintala and Bottou (2017), "Wasserstein generative adversarial networks".

    >>> Wasserstein().activation(torch.tensor(2.0))
    tensor(2.)
    """

    def activation(self, v: Tensor) -> Tensor:
        return v

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v

    def conjugate_curvature(self, v: Tensor) -> Tensor:
        """Straight, so that `RothPenalty` has nothing to penalise."""
        return torch.zeros_like(v)

    def __str__(self) -> str:
        return "Wasserstein-1"
