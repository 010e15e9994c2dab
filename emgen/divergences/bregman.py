"""Bregman divergences, each from its potential alone, and their tie to KL within an exponential
family.
"""

from __future__ import annotations

__all__ = [
    "Bregman",
    "BregmanDual",
    "GeneralisedKL",
    "ItakuraSaito",
    "LogPartition",
    "Mahalanobis",
    "SquaredEuclidean",
]

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Beta,
    ContinuousBernoulli,
    Dirichlet,
    Distribution,
    ExponentialFamily,
    Wishart,
)
from torch.func import grad, hessian, vmap


class Bregman:
    """D_φ(x, y) = φ(x) − φ(y) − ⟨∇φ(y), x − y⟩ ≥ 0 for a strictly convex potential φ on the last
    dimension.

    A subclass overrides `potential(x)` alone. Whatever φ is, the point that minimises a weighted
    mean of D_φ(xᵢ, y) over y is the weighted mean of the xᵢ; this is why one M-step serves every
    Bregman clustering.

    References: Bregman (1967), The relaxation method of finding the common point of convex sets;
    Banerjee, Merugu, Dhillon & Ghosh (2005), Clustering with Bregman divergences.

    >>> class Quartic(Bregman):
    ...     def potential(self, x):
    ...         return x.pow(4).sum(-1)
    >>> Quartic().of(x=torch.tensor([1.0]), y=torch.tensor([0.0]))
    tensor(1.)
    """

    def potential(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """φ(x), strictly convex, differentiable; (…, D) → (…)."""
        raise NotImplementedError(
            f"{type(self).__name__} must define potential(x), convex, from (..., D) to (...)"
        )

    def link(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """∇φ(x), from points to dual points."""
        return grad(lambda point: self.potential(point).sum())(x)

    def of(self, x: Float[Tensor, "*batch d"], y: Float[Tensor, "*other d"]) -> Tensor:
        """D_φ(x, y) of points whose leading dimensions broadcast; (…, D), (…, D) → (…)."""
        slope = (self.link(y) * (x - y)).sum(-1)
        return (self.potential(x) - self.potential(y) - slope).clamp_min(0)

    def __call__(self, x: Float[Tensor, "*batch d"], y: Float[Tensor, "*other d"]) -> Tensor:
        return self.of(x, y)

    def pairwise(self, x: Float[Tensor, "n d"], y: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
        """D_φ(xᵢ, yₖ) for all pairs by one product of matrices, with no (n, k, d) tensor."""
        slope = self.link(y)
        shift = (slope * y).sum(-1) - self.potential(y)
        return (self.potential(x)[:, None] + shift - x @ slope.T).clamp_min(0)

    def origin(self, like: Tensor) -> Tensor:
        """A point inside the domain of φ, shaped as `like`, where the search for a dual begins."""
        return torch.zeros_like(like)

    def inverse_link(self, theta: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """∇φ*(θ), the point x with ∇φ(x) = θ, by damped Newton steps on φ(x) − ⟨θ, x⟩;
        differentiable once.

        Raises:
            ValueError: if no such point is reached, because θ is outside the range of ∇φ.
        """
        goal = theta.detach().reshape(-1, theta.shape[-1])
        x, eps = self.origin(goal), torch.finfo(goal.dtype).eps

        def height(point: Tensor) -> Tensor:
            return (self.potential(point) - (goal * point).sum(-1)).nan_to_num(torch.inf, torch.inf)

        for _ in range(200):
            slope, curvature = self.link(x) - goal, vmap(hessian(self.potential))(x)
            step = torch.linalg.solve_ex(
                curvature, slope
            ).result  # not finite where φ is flat, which ends below
            size = torch.ones_like(x[:, :1])
            for _ in range(60):
                worse = height(x - size * step) > height(x) + 4000 * eps * height(x).abs()
                size = torch.where(worse[:, None], size / 2, size)
            x = x - size * step
            if bool((step.abs() <= 500 * eps * (1 + x.abs())).all()):
                break
        if not torch.allclose(self.link(x), goal, rtol=eps**0.4, atol=eps**0.6):
            raise ValueError(f"{self!r}: no point has the dual coordinates asked for; give θ in the range of the link, and "
                             "an origin(like) at which φ is curved if 0 is none.")  # fmt: skip
        moved = theta.reshape(goal.shape) - goal  # zero, and it carries dx/dθ
        return (x + torch.linalg.solve(vmap(hessian(self.potential))(x), moved)).reshape(
            theta.shape
        )

    def conjugate(self, theta: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """φ*(θ) = sup over x of ⟨θ, x⟩ − φ(x)."""
        x = self.inverse_link(theta)
        return (theta * x).sum(-1) - self.potential(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@dataclass(frozen=True)
class BregmanDual(Bregman):
    """The divergence of the conjugate potential: D_φ*(∇φ(y), ∇φ(x)) = D_φ(x, y).

    >>> dual = BregmanDual(GeneralisedKL())
    >>> dual.of(x=torch.tensor([2.0]).log(), y=torch.tensor([1.0]).log()).round(decimals=4)
    tensor(0.3069)
    """

    primal: Bregman

    def potential(self, x: Tensor) -> Tensor:
        return self.primal.conjugate(x)

    def link(self, x: Tensor) -> Tensor:
        return self.primal.inverse_link(x)

    def inverse_link(self, theta: Tensor) -> Tensor:
        return self.primal.link(theta)


@dataclass(frozen=True)
class SquaredEuclidean(Bregman):
    """‖x − y‖², φ(x) = ‖x‖²: the Gaussian of fixed variance, and k-means."""

    def potential(self, x: Tensor) -> Tensor:
        return x.square().sum(-1)

    def link(self, x: Tensor) -> Tensor:
        return 2 * x

    def inverse_link(self, theta: Tensor) -> Tensor:
        return theta / 2

    def of(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().sum(-1)


@dataclass(frozen=True, eq=False)
class Mahalanobis(Bregman):
    """(x − y)ᵀ Λ (x − y), φ(x) = xᵀ Λ x: the Gaussian of fixed covariance.

    Args:
        precision: Λ, (D, D), symmetric positive definite.

    Raises:
        ValueError: if the precision is not symmetric positive definite.

    >>> Mahalanobis(2 * torch.eye(2)).of(x=torch.ones(2), y=torch.zeros(2))
    tensor(4.)
    """

    precision: Tensor

    def __post_init__(self) -> None:
        square = self.precision.dim() == 2 and self.precision.shape[0] == self.precision.shape[1]
        if (
            not square
            or not torch.allclose(self.precision, self.precision.mT)
            or torch.linalg.cholesky_ex(self.precision).info.any()
        ):
            raise ValueError(f"precision={self.precision.tolist()} must be symmetric and positive definite; give the "
                             "inverse of a covariance matrix.")  # fmt: skip

    def potential(self, x: Tensor) -> Tensor:
        return (x @ self.precision * x).sum(-1)

    def link(self, x: Tensor) -> Tensor:
        return 2 * x @ self.precision

    def inverse_link(self, theta: Tensor) -> Tensor:
        return torch.linalg.solve(self.precision, theta, left=False) / 2

    def of(self, x: Tensor, y: Tensor) -> Tensor:
        return self.potential(x - y)


@dataclass(frozen=True)
class GeneralisedKL(Bregman):
    """Σ x log x/y − x + y, φ(x) = Σ x log x − x on x ≥ 0, ∞ below: Poisson counts, and KL on the
    simplex.
    """

    def potential(self, x: Tensor) -> Tensor:
        return (torch.xlogy(x, x) - x).sum(-1)

    def link(self, x: Tensor) -> Tensor:
        return x.log()

    def inverse_link(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def of(self, x: Tensor, y: Tensor) -> Tensor:
        held = x > 0
        logs = torch.where(
            held, torch.where(held, x, 1.0).log() - torch.where(held, y, 1.0).log(), 0.0
        )
        return torch.where((x < 0) | (y < 0), torch.inf, x * logs - x + y).sum(-1).clamp_min(0)

    def pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        """As for every Bregman divergence; a centre with a zero is infinitely far from rows that
        are positive there.
        """
        slope = y.log().clamp_min(-torch.finfo(y.dtype).max / 2)
        impossible = (x > 0).to(y.dtype) @ (y == 0).to(y.dtype).T > 0
        finite = (
            self.potential(x)[:, None] + y.sum(-1) - x @ slope.masked_fill(y == 0, 0.0).T
        ).clamp_min(0)
        outside = (x < 0).any(1)[:, None] | (y < 0).any(1)
        return finite.masked_fill(impossible | outside, torch.inf)


@dataclass(frozen=True)
class ItakuraSaito(Bregman):
    """Σ x/y − log x/y − 1, φ(x) = −Σ log x on x > 0, ∞ elsewhere: exponential waiting times, and
    power spectra.
    """

    def potential(self, x: Tensor) -> Tensor:
        return -x.log().sum(-1)

    def link(self, x: Tensor) -> Tensor:
        return -1 / x

    def inverse_link(self, theta: Tensor) -> Tensor:
        return -1 / theta

    def of(self, x: Tensor, y: Tensor) -> Tensor:
        inside = (x > 0) & (y > 0)
        ratio = torch.where(inside, x, 1.0) / torch.where(inside, y, 1.0)
        return torch.where(inside, ratio - 1 - ratio.log(), torch.inf).sum(-1).clamp_min(0)

    def pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        """As for every Bregman divergence; infinite for what is not positive."""
        held, centres = (x > 0).all(1), (y > 0).all(1)
        finite = super().pairwise(
            torch.where(held[:, None], x, 1.0), torch.where(centres[:, None], y, 1.0)
        )
        return finite.masked_fill(~(held[:, None] & centres), torch.inf)


@dataclass(frozen=True)
class LogPartition(Bregman):
    """The Bregman divergence of a family's log partition function A(η): KL with its arguments
    swapped,

        KL(p₁ ‖ p₂) = D_A(η₂, η₁) = D_A*(μ₁, μ₂),      μ = ∇A(η) the mean parameters.

    Args:
        family: a class of torch distributions that is an exponential family: Normal, Poisson,
            Gamma, Dirichlet, …

    Raises:
        TypeError: if torch does not know the family's natural parameters.

    Reference: Wainwright & Jordan (2008), Graphical models, exponential families, and variational
    inference.

    >>> from torch.distributions import Poisson, kl_divergence
    >>> p, q = Poisson(3.0), Poisson(2.0)
    >>> a = LogPartition(Poisson)
    >>> torch.allclose(a.of(x=a.natural(q), y=a.natural(p)), kl_divergence(p, q))
    True
    """

    family: Any  # a class

    def __post_init__(self) -> None:
        known = isinstance(self.family, type) and issubclass(self.family, ExponentialFamily)
        if not known or self.family in (
            ContinuousBernoulli,
            Wishart,
        ):  # torch leaves their log partition to instances, or out
            raise TypeError(f"{self.family!r} is not an exponential family known to torch; give a class such as "
                            "torch.distributions.Normal, or a Bregman with your own potential.")  # fmt: skip

    def natural(self, p: Distribution) -> Tensor:
        """η of a member of the family, its parameters on the last dimension, (*batch, D)."""
        if not isinstance(p, self.family):
            raise TypeError(f"{p} is no {self.family.__name__}; give a member of the family.")
        parameters = p._natural_params  # type: ignore[attr-defined]
        if parameters[0].dim() > len(p.batch_shape):
            return parameters[0]
        return torch.stack(torch.broadcast_tensors(*parameters), -1)

    def mean(self, p: Distribution) -> Tensor:
        """μ = ∇A(η), the expected sufficient statistics."""
        return self.link(self.natural(p))

    def potential(self, x: Tensor) -> Tensor:
        log_normaliser: Any = (
            self.family._log_normalizer
        )  # in torch's families a function of its arguments alone
        return log_normaliser(
            self.family, *((x,) if issubclass(self.family, Dirichlet) else x.unbind(-1))
        )

    def origin(self, like: Tensor) -> Tensor:
        """Natural parameters inside the domain: concentrations are positive, minus a rate or a
        precision negative.
        """
        return torch.full_like(like, 1.0 if issubclass(self.family, (Dirichlet, Beta)) else -0.5)
