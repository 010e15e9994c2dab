"""Variational lower bounds on an f-divergence from a critic's scores: Fenchel's, and its tightest
shift.
"""

from __future__ import annotations

__all__ = ["fenchel_bound", "tight_bound"]

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from emgen.divergences.base import FDivergence, elementwise


def fenchel_bound(
    divergence: FDivergence, *, data: Float[Tensor, " n"], model: Float[Tensor, " m"]
) -> Float[Tensor, ""]:
    """E_P[t] − E_Q[f*(t)] ≤ D_f(P‖Q) with t = activation(v), from scores v on samples of data and
    model.

    >>> from emgen.divergences import KL
    >>> fenchel_bound(KL(), data=torch.zeros(3), model=torch.zeros(2))
    tensor(0.)
    """
    return divergence.activation(data).mean() - divergence.conjugate_of_activation(model).mean()


def tight_bound(
    divergence: FDivergence, *, data: Float[Tensor, " n"], model: Float[Tensor, " m"]
) -> Float[Tensor, ""]:
    """sup over c of E_P[t + c] − E_Q[f*(t + c)] ≤ D_f(P‖Q): never below Fenchel's bound, and blind
    to shifts of t.

    The best c makes E_Q[f*′(t + c)] = 1: the density ratio that the critic implies is normalised
    under the model. For KL it is the Donsker-Varadhan representation E_P[t] − log E_Q[eᵗ]. The
    gradient is taken at the best c, where it is the gradient of the supremum (Danskin). On a batch
    it is biased upwards, as Donsker-Varadhan is.

    Args:
        divergence: the f-divergence.
        data: scores of data, (n,).
        model: scores of the model's samples, (m,).

    References: Donsker & Varadhan (1983), Asymptotic evaluation of certain Markov process
    expectations for large time IV; Ruderman, Reid, García-García & Petterson (2012), Tighter
    variational representations of f-divergences via restriction to probability measures; Agrawal &
    Horel (2021), Optimal bounds between f-divergences and integral probability metrics.

    >>> from emgen.divergences import KL
    >>> tight_bound(KL(), data=torch.ones(3), model=torch.ones(2)).abs() < 1e-6
    tensor(True)
    """
    t_data, t_model = divergence.activation(data).double(), divergence.activation(model).double()
    with torch.no_grad():
        at_one = divergence.derivative(torch.ones_like(t_model[:1])).squeeze(0)
        low, high = (
            at_one - t_model.max(),
            at_one - t_model.min(),
        )  # every ratio ≤ 1 at the one, ≥ 1 at the other
        c = (low + high) / 2
        for _ in range(100):
            mass = _ratio(divergence, t_model + c).mean()
            if bool(((mass - 1).abs() < 1e-14) | (high - low < 1e-15 * (1 + c.abs()))):
                break
            low, high = (low, c) if mass > 1 else (c, high)
            slope = elementwise(lambda t: _ratio(divergence, t), t_model + c).mean()
            newton = (
                c - mass.log() * mass / slope
            )  # the log of the mass is near a line, as KL's is one
            c = newton if bool((low < newton) & (newton < high)) else (low + high) / 2
        c = torch.where(_ratio(divergence, t_model + c).mean().isfinite(), c, low)
    value = (t_data + c).mean() - divergence.conjugate(t_model + c).mean()
    return value.to(data.dtype)


def _ratio(divergence: FDivergence, t: Tensor) -> Tensor:
    """f*′(t), the density ratio that a dual variable implies; +∞ above the domain."""

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        value = divergence.conjugate(x)
        return value.sum(), value

    slope, value = grad(both, has_aux=True)(t)
    return torch.where(value.isfinite(), slope, torch.inf)
