"""Exponential families with their conjugate beliefs, derived from t(x), log h, η, A and the prior's
normaliser.
"""

__all__ = ["ExponentialFamily"]

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from emgen.families.base import (
    Family,
    masked,
    observed,
    per_component,
    pieces,
    remembered,
    share,
    total,
)

CANCELLED = 1e-3  # nats that the precision of the rows may cost a score; beyond it the parameters' precision is used


class ExponentialFamily(Family):
    """A family p(x|η_k) = h(x) exp(⟨η_k, t(x)⟩ − A(η_k)) with its conjugate belief p(η|m, c) ∝
    exp(c⟨η, m⟩ − c A(η)).

    The *mean* is m = E[∇A(η)], the *concentration* c the number of data that the belief is worth.
    Features are independent and NaN marks a missing value. A family of one's own writes the seven
    abstract methods; all else follows from them.
    Densities of beliefs are taken in natural coordinates, so the mode is m itself: it always
    exists, and under a flat prior it is the maximum-likelihood estimate.

    Args:
        mean: mean parameters, (K, D) for a scalar statistic, (K, D, T) for a vector one
            (`statistic_dim = 1`).
        concentration: broadcast to (K, D), the number of data the belief is worth; ∞ makes it a
            point.

    Raises:
        ValueError: if a concentration is negative.

    References:
        Diaconis and Ylvisaker (1979), Conjugate priors for exponential families.
    """

    statistic_dim = 0  # dimensions of t(x) for one feature: 0 a scalar, 1 a vector

    mean: Tensor
    concentration: Tensor

    def __init__(self, mean: Tensor, concentration: Tensor | float = torch.inf):
        super().__init__()
        batch = mean.shape[: mean.ndim - self.statistic_dim]
        concentration = (
            torch.as_tensor(concentration, dtype=mean.dtype, device=mean.device)
            .broadcast_to(batch)
            .clone()
        )
        if (concentration < 0).any():
            raise ValueError(
                f"a concentration counts data and must be 0 or more, not {concentration.min():g}"
            )
        self.register_buffer("mean", mean)
        self.register_buffer("concentration", concentration)

    # --- what a family of one's own writes -------------------------------------------------------

    @abstractmethod
    def sufficient(self, x: Tensor) -> Tensor:
        """t(x), (N, D) or (N, D, T)."""

    @abstractmethod
    def log_base(self, x: Tensor) -> Tensor:
        """log h(x), (N, D)."""

    @abstractmethod
    def natural(self, mean: Tensor) -> Tensor:
        """η(m), the inverse of ∇A, shaped as the mean."""

    @abstractmethod
    def log_partition(self, natural: Tensor) -> Tensor:
        """A(η), one value a feature."""

    @abstractmethod
    def log_normaliser(self, total: Tensor, concentration: Tensor) -> Tensor:
        """log ∫ exp(⟨η, total⟩ − c A(η)) dη, the conjugate prior's normaliser, one value a feature."""

    @abstractmethod
    def draw(self, total: Tensor, concentration: Tensor) -> Tensor:
        """Mean parameters drawn from that prior."""

    # --- data under the belief -------------------------------------------------------------------

    def expected_log_prob(self, x: Tensor) -> Tensor:
        """E_θ log p(x|θ_k), (N, K): one product of matrices; missing features are left out."""
        x, seen = observed(x, self.mean.shape[1])
        dtype = (
            x.dtype
            if x.is_floating_point() and self._cancels() * torch.finfo(x.dtype).eps < CANCELLED
            else self.mean.dtype
        )
        natural, partition = (e.to(dtype) for e in self.expected())
        t, base = self.sufficient(x).to(dtype), self.log_base(x).to(dtype)
        if seen is None:
            log_partition = partition.sum(-1)
        else:
            t, base = masked(t, seen), masked(base, seen)
            log_partition = seen.to(dtype) @ partition.T
        return t.flatten(1) @ natural.flatten(1).T - log_partition + base.sum(1, keepdim=True)

    def statistics(self, x: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Sums over rows with weights r (N, K): count Σr, sum Σ r t(x), base Σ r log h(x); they
        add.
        """
        x, seen = observed(x, self.mean.shape[1])
        r = r.to(self.mean.dtype)
        t, base = self.sufficient(x).to(r.dtype), self.log_base(x).to(r.dtype)
        if seen is None:
            count = r.sum(0)[:, None].expand(self.concentration.shape)
        else:
            t, base = masked(t, seen), masked(base, seen)
            count = r.T @ seen.to(r.dtype)
        return {
            "count": count,
            "sum": (r.T @ t.flatten(1)).view(self.mean.shape),
            "base": r.T @ base.sum(1),
        }

    def expected_fit(self, s: dict[str, Tensor]) -> Tensor:
        """Σ_i r_ik E_θ log p(x_i|θ_k), one value a component, linear in the statistics."""
        natural, partition = self.expected()
        fit = self._inner(s["sum"], natural) - torch.where(
            s["count"] > 0, s["count"] * partition, 0.0
        )
        return per_component(fit) + s.get("base", 0.0)

    def divergence(self, x: Tensor) -> Tensor:
        """D(t(x), m_k), (N, K): the Bregman divergence of the family, sup_η log p(x|η) − log
        p(x|m_k) ≥ 0.
        """
        x, seen = observed(x, self.mean.shape[1])
        t = self.sufficient(x).to(self.mean.dtype)
        natural = self.natural(t)
        best = self._inner(t, natural) - self.log_partition(natural) + self.log_base(x)
        best = best if seen is None else masked(best, seen)
        x = x.to(t.dtype) if seen is None else x.to(t.dtype).masked_fill(~seen, torch.nan)
        return (best.sum(1, keepdim=True) - self.mode().expected_log_prob(x)).clamp(min=0)

    # --- the belief itself -----------------------------------------------------------------------

    @remembered
    def expected(self) -> tuple[Tensor, Tensor]:
        """(E η, E A) = (∂, −∂) log Z(total, c) where the belief is a distribution, η and A
        themselves at a point.
        """
        natural = self.natural(self.mean)
        partition, proper = self.log_partition(natural), self._proper
        if not proper.any():
            return natural, partition
        with torch.enable_grad():
            c = torch.where(proper, self.concentration, 1.0).detach().requires_grad_()
            total = (self._wide(c) * self.mean).detach().requires_grad_()
            d_total, d_count = torch.autograd.grad(self.log_normaliser(total, c).sum(), (total, c))
        return torch.where(self._wide(proper), d_total, natural), torch.where(
            proper, -d_count, partition
        )

    def update(self, s: dict[str, Tensor], about: "ExponentialFamily | None" = None) -> Self:
        """The conjugate posterior: the mean moves by the data's share of the total count."""
        count, total = s["count"], self.concentration + s["count"]
        data = share(s["sum"], self._wide(count))
        prior = (
            self.mean
            if about is None
            else torch.where(self._wide(self.concentration > 0), self.mean, about.mean)
        )
        moved = self._wide(share(count, total)).expand_as(data)
        return self.replace(mean=torch.lerp(prior, data, moved), concentration=total)

    def mode(self) -> Self:
        """The point m: the mode in natural coordinates, maximum likelihood when the prior was flat."""
        return self.replace(concentration=torch.full_like(self.concentration, torch.inf))

    def sample(self) -> Self:
        """One draw of the parameters, as a point.

        Raises:
            ValueError: if the belief is flat.
        """
        if self.is_flat:
            raise ValueError(
                "cannot draw parameters from a flat belief: give the model a prior, or use a point"
            )
        c = torch.where(self._proper, self.concentration, 1.0)
        drawn = self.draw(self._wide(c) * self.mean, c)
        return self.replace(mean=torch.where(self._wide(self._proper), drawn, self.mean)).mode()

    def ascend(self, posterior: "ExponentialFamily", steps: int, lr: float) -> Self:
        return self.replace(
            mean=torch.lerp(self.mean, posterior.mean, 1 - (1 - lr) ** steps)
        ).mode()

    def kl(self, prior: "ExponentialFamily") -> Tensor:
        """KL(q(θ_k) ‖ p(θ_k)), one value a component; of a point −log p(θ_k); a flat prior counts
        as p = 1.
        """
        return per_component(prior.cross_entropy(self) - self.entropy())

    def cross_entropy(self, belief: "ExponentialFamily") -> Tensor:
        """−E_belief log p(θ) under this prior, 0 where it is flat or fixed."""
        c = torch.where(self._proper, self.concentration, 1.0)
        natural, partition = belief.expected()
        exponent = self._inner(self._wide(c) * self.mean, natural) - c * partition
        return torch.where(
            self._proper, self.log_normaliser(self._wide(c) * self.mean, c) - exponent, 0.0
        )

    def entropy(self) -> Tensor:
        """H(q(θ)), 0 where the belief is a point or flat."""
        return self.cross_entropy(self)

    @property
    def is_flat(self) -> bool:
        return bool((self.concentration == 0).any())

    def weak(self, x: Tensor, weight: Tensor | None = None) -> Self:
        """Where flat, a proper prior worth one datum, at the mean of the data.

        Where that is no prior, as the data are all 0 or all of the largest value, it is the mean of
        the data and of one datum at the flat prior's own mean.
        """

        def counted(rows: slice) -> dict[str, Tensor]:
            piece = x[rows]
            ones = torch.ones(len(piece), len(self.mean), dtype=self.mean.dtype, device=x.device)
            return self.statistics(piece, ones if weight is None else ones * weight[rows, None])

        flat = self.concentration == 0
        width = max(len(self.mean), self.mean[0].numel())
        s = total(counted(rows) for rows in pieces(len(x), width))
        own = self.update(s, self)
        one = torch.ones_like(self.concentration)
        proper = self.log_normaliser(own.mean, one).isfinite()
        inside = torch.lerp(
            own.mean, self.mean, self._wide(1 / (1 + s["count"])).expand_as(self.mean)
        )
        mean = torch.where(self._wide(proper), own.mean, inside)
        return self.replace(
            mean=torch.where(self._wide(flat), mean, self.mean),
            concentration=torch.where(flat, 1.0, self.concentration),
        )

    @remembered
    def _cancels(self) -> float:
        """Nats that ⟨η, t⟩ and A(η) may have in common: near a bound, as of a pixel that is always
        on, A = η is large.
        """
        partition = self.expected()[1]
        return float(partition.abs().sum(-1).max()) if partition.numel() else 0.0

    @property
    def _proper(self) -> Tensor:
        return (self.concentration > 0) & self.concentration.isfinite()

    def _wide(self, per_feature: Tensor) -> Tensor:
        return per_feature[(...,) + (None,) * self.statistic_dim]

    def _inner(self, a: Tensor, b: Tensor) -> Tensor:
        product = torch.where(a == 0, 0.0, a * b)  # 0 · (−∞) = 0: what never happened costs nothing
        return product.sum(-1) if self.statistic_dim else product
