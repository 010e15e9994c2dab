"""Bregman clustering: mixtures of the exponential families that Bregman divergences stand for."""

__all__ = ["BregmanFamily", "BregmanMixture"]

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from emgen.divergences.bregman import Bregman, SquaredEuclidean
from emgen.families import Family
from emgen.families.base import complete, pieces, share, spread
from emgen.models.conjugate.mixture import Mixture
from emgen.models.conjugate.mixtures_by_family import feature_count, weights_prior


class BregmanFamily(Family):
    """p(x|μ_k) = b_φ(x) exp(−D_φ(x, μ_k)), one exponential family for every divergence; b_φ(x),
    which no step asks for, is left out.

    Whatever φ is, the mean of the rows is their best centre, so the M-step is k-means'. The prior
    exp(−c D_φ(m, μ)) is worth c data; its normaliser is not known in general, hence θ is a point
    here.

    Args:
        mean: (K, D) centres.
        concentration: (K,) data that the prior is worth, ∞ at a point.
        divergence: D_φ.

    References:
        Banerjee, Merugu, Dhillon and Ghosh (2005), Clustering with Bregman divergences.
    """

    mean: Tensor
    concentration: Tensor

    def __init__(self, mean: Tensor, concentration: Tensor, divergence: Bregman):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("concentration", concentration)
        self.of = divergence

    def expected_log_prob(self, x: Tensor) -> Tensor:
        return -self.divergence(x)

    def divergence(self, x: Tensor) -> Tensor:
        """D_φ(x, μ_k), (N, K)."""
        x = complete(x, self.mean.shape[1])
        return self.of.pairwise(x, self.mean.to(x.dtype))

    def distance(self, x: Tensor, seeds: Tensor) -> Tensor:
        return self.of.pairwise(x, seeds)

    def statistics(self, x: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Sums over rows: count Σr, sum Σ r x, potential Σ r φ(x)."""
        x, r = complete(x, self.mean.shape[1]).to(self.mean.dtype), r.to(self.mean.dtype)
        return {"count": r.sum(0), "sum": r.T @ x, "potential": r.T @ self.of.potential(x)}

    def expected_fit(self, s: dict[str, Tensor]) -> Tensor:
        away = s["sum"] - s["count"][:, None] * self.mean
        at_mean = s["count"] * self.of.potential(self.mean) + (self.of.link(self.mean) * away).sum(
            1
        )
        return torch.where(s["count"] > 0, at_mean - s["potential"], 0.0)

    def update(self, s: dict[str, Tensor], about: "BregmanFamily | None" = None) -> Self:
        count, total = s["count"], self.concentration + s["count"]
        prior = (
            self.mean
            if about is None
            else torch.where(self.concentration[:, None] > 0, self.mean, about.mean)
        )
        data, moved = share(s["sum"], count[:, None]), share(count, total)[:, None]
        return self.replace(
            mean=torch.where(moved > 0, torch.lerp(prior, data, moved.expand_as(data)), prior),
            concentration=total,
        )

    def mode(self) -> Self:
        return self.replace(concentration=torch.full_like(self.concentration, torch.inf))

    def ascend(self, posterior: "BregmanFamily", steps: int, lr: float) -> Self:
        return self.replace(
            mean=torch.lerp(self.mean, posterior.mean, 1 - (1 - lr) ** steps)
        ).mode()

    def kl(self, prior: "BregmanFamily") -> Tensor:
        held = (prior.concentration > 0) & prior.concentration.isfinite()
        cost = torch.where(held, prior.concentration, 0.0) * self.of.of(prior.mean, self.mean)
        return torch.where(held, cost, 0.0)

    @property
    def is_flat(self) -> bool:
        return bool((self.concentration == 0).any())

    def weak(self, x: Tensor, weight: Tensor | None = None) -> Self:
        flat = self.concentration == 0
        for rows in pieces(len(x), self.mean.shape[1]):
            complete(x[rows], self.mean.shape[1])  # refuses what is missing
        mean, _ = spread(x, weight, self.mean.dtype)
        return self.replace(
            mean=torch.where(flat[:, None], mean, self.mean),
            concentration=torch.where(flat, 1.0, self.concentration),
        )

    def sample(self) -> NoReturn:
        raise TypeError(
            "a Bregman family's prior has no known normaliser: use parameters=Point(), or the"
            " family by name"
        )

    def likelihood(self) -> NoReturn:
        raise TypeError(
            "b_φ(x) is not known, so nothing can be drawn: use the mixture of the family by name"
        )


def BregmanMixture(
    event_shape: int | Sequence[int],
    components: int = 2,
    divergence: Bregman = SquaredEuclidean(),
    weights: str | float | Sequence[float] | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "kmeans++",
    n_init: int = 1,
) -> Mixture:
    """Bregman clustering, hard under `hard_em` and soft under `em`; k-means++ picks seeds by the
    divergence.

    Args:
        event_shape: shape of a datum, or its number of features.
        components: K.
        divergence: D_φ; the rows must lie in the domain of φ.
        weights, prior, start, n_init: as in `GaussianMixture`, prior `mean concentration`;
            weights=equal is plain clustering.

    >>> from emgen.divergences import GeneralisedKL
    >>> BregmanMixture(3, components=4, divergence=GeneralisedKL()).components.mean.shape
    torch.Size([4, 3])
    """
    shape = components, feature_count(event_shape, components)
    flat = BregmanFamily(
        torch.ones(shape, dtype=torch.float64),
        torch.zeros(components, dtype=torch.float64),
        divergence,
    )
    return Mixture(weights_prior(weights, components), flat.given(**(prior or {})), start, n_init)
