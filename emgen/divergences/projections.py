"""Projections of a density onto a family: the I-projection takes one peak, the M-projection covers
them all.
"""

from __future__ import annotations

__all__ = ["GaussianFamily", "MixtureFamily", "f_projection", "i_projection", "m_projection"]

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from emgen.divergences.base import FDivergence


def i_projection(target: Distribution, family: Any, start: Tensor | None = None) -> Distribution:
    """argmin over q in the family of KL(q ‖ target), the information projection; it seeks a mode.

    The expectations under q are Gauss-Hermite sums, so the objective is smooth and deterministic;
    it is descended by L-BFGS from each start and the lowest is kept. It has as many local minima as
    the target has separate peaks.

    Args:
        target: a distribution with `log_prob` on vectors or scalars.
        family: a `GaussianFamily` or `MixtureFamily`.
        start: (S, K, D) or (S, D) means to start from; None for the peaks of a mixture, else draws
            of the target.

    Raises:
        TypeError, ValueError: if the target is no distribution or a batch, or has not the whole
            space for its support.

    References: Csiszár (1975), I-divergence geometry of probability distributions and minimization
    problems; Bishop (2006), Pattern recognition and machine learning, section 10.1.2.

    >>> from torch.distributions import MultivariateNormal
    >>> target = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    >>> i_projection(target, GaussianFamily(factorised=True)).variance  # 1 / precision, too compact
    tensor([0.3600, 0.3600], dtype=torch.float64)
    """
    points, weights = _points(_one(target, family))
    parts = _gaussian_parts(
        target
    )  # in float64, for the noise of a lower precision ends a line search early
    far = points.new_tensor([-1000.5, 1000.5]).expand(*target.event_shape, 2).movedim(-1, 0)
    if parts is None and not target.support.check(far).all():  # type: ignore[attr-defined]
        raise ValueError(f"{target} is 0 on some of the line or space, so KL(q ‖ target) is infinite for every Gaussian q; "
                         "use m_projection.")  # fmt: skip
    if start is None:
        start = _peaks(target, points)
        choices = list(product(range(len(start)), repeat=family.components))[:64]
        start = torch.stack(
            [start[list(c)] for c in choices if len(set(c)) == len(c) or len(start) < len(c)]
        )
    start = start.reshape(len(start), family.components, -1).to(points)
    covariance = _moments(points, weights)[1] / 4
    fine = target if parts is None else MixtureFamily().build(parts[0].log(), *parts[1:])
    found = [_descend(fine, family, means, covariance) for means in start]
    best = min(found, key=lambda pair: pair[0])[1]
    return _as_events_of(target, best)


def m_projection(target: Distribution, family: Any) -> Distribution:
    """argmin over q in the family of KL(target ‖ q), the moment projection; it matches moments and
    covers all modes.

    For an exponential family the moments of the projection are those of the target, here exact for
    Gaussians and their mixtures and otherwise those of 50,000 draws. For a mixture it is maximum
    likelihood on the target, by EM.

    Args:
        target: a distribution with `log_prob` on vectors or scalars.
        family: a `GaussianFamily` or `MixtureFamily`.

    >>> from torch.distributions import MultivariateNormal
    >>> target = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    >>> m_projection(target, GaussianFamily(factorised=True)).variance
    tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    points, weights = _points(_one(target, family))
    return _as_events_of(target, family.fit(points, weights, _peaks(target, points)))


def f_projection(target: Distribution, divergence: FDivergence) -> Normal:
    """argmin over Gaussians q on the line of D_f(target ‖ q), for any f, by quadrature and L-BFGS
    from several starts.

    It starts from the whole of the target and from each of its peaks, for a divergence that seeks a
    mode has as many local minima as there are peaks, and one as strict as Neyman's is infinite but
    near them.

    Args:
        target: a distribution of scalars.
        divergence: the f-divergence; KL gives the M-projection, reverse KL the I-projection.

    Raises:
        ValueError: if the divergence is infinite at every start.

    >>> from emgen.divergences import SquaredHellinger
    >>> f_projection(Normal(1.0, 2.0), SquaredHellinger()).mean.round(decimals=5)
    tensor(1., dtype=torch.float64)
    """
    points, weights = _points(target)
    mean, covariance = _moments(points, weights)
    best, lowest = None, float("inf")
    sd, parts = covariance.sqrt().squeeze(), _gaussian_parts(target)
    starts = [
        (mean.squeeze() + shift * sd, scale * sd)
        for shift, scale in ((0.0, 1.0), (-0.7, 0.5), (0.7, 0.5), (0.0, 1.3))
    ]
    starts += (
        [] if parts is None else list(zip(parts[1].squeeze(-1), parts[2].flatten(), strict=True))
    )
    heights = [float(divergence.of(p=target, q=Normal(middle, width))) for middle, width in starts]
    for _, (middle, width) in sorted(zip(heights, starts, strict=True), key=lambda pair: pair[0])[
        :4
    ]:
        theta = torch.stack([middle, width.log()]).requires_grad_()

        def value(theta: Tensor = theta) -> Tensor:
            theta.grad = torch.zeros_like(theta)
            if theta.isfinite().all():
                with torch.enable_grad():
                    loss = divergence.of(p=target, q=Normal(theta[0], theta[1].exp())).value
                if loss.isfinite():
                    (theta.grad,) = torch.autograd.grad(loss, theta)
                    return loss.detach()
            return torch.full_like(mean[0], 1e10)  # a wall for the line search

        if value() == 1e10:
            continue
        torch.optim.LBFGS([theta], max_iter=60, tolerance_grad=1e-8, tolerance_change=1e-12,
                          line_search_fn="strong_wolfe").step(value)  # fmt: skip
        if value() < lowest:
            lowest, best = float(value()), Normal(theta[0].detach(), theta[1].detach().exp())
    if best is None:
        raise ValueError(
            f"{divergence!r} from the target is infinite for every Gaussian tried; use one that is"
            " bounded."
        )
    return best


@dataclass(frozen=True)
class GaussianFamily:
    """All Gaussians, or those whose coordinates are independent.

    Args:
        factorised: whether the covariance is diagonal.
    """

    factorised: bool = False
    components = 1

    def build(self, logits: Tensor, means: Tensor, factors: Tensor) -> Distribution:
        """The member with the given mean (1, D) and Cholesky factor (1, D, D)."""
        return MultivariateNormal(means[0], scale_tril=factors[0])

    def fit(self, points: Tensor, weights: Tensor, seeds: Tensor) -> Distribution:
        """The member of maximum likelihood on weighted points."""
        mean, covariance = _moments(points, weights)
        return MultivariateNormal(
            mean, torch.diag(covariance.diagonal()) if self.factorised else covariance
        )


@dataclass(frozen=True)
class MixtureFamily:
    """Mixtures of a given number of Gaussians.

    Args:
        components: how many, ≥ 1.
        factorised: whether the components' covariances are diagonal.

    Raises:
        ValueError: if components < 1.
    """

    components: int = 2
    factorised: bool = False

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(
                f"components={self.components}: a mixture needs at least one; give an integer >= 1."
            )

    def build(self, logits: Tensor, means: Tensor, factors: Tensor) -> MixtureSameFamily:
        """The member with the given weights (K,), means (K, D) and Cholesky factors (K, D, D)."""
        return MixtureSameFamily(
            Categorical(logits=logits), MultivariateNormal(means, scale_tril=factors)
        )

    def fit(self, points: Tensor, weights: Tensor, seeds: Tensor) -> Distribution:
        """Maximum likelihood on weighted points by EM, from the seeds, nearest first."""
        _, covariance = _moments(points, weights)
        spread = torch.linspace(0, len(seeds) - 1, self.components, device=points.device).long()
        nearest = torch.cdist(points, seeds[spread]).argmin(1)
        r = (
            torch.nn.functional.one_hot(nearest, self.components).to(points) * 0.98
            + 0.02 / self.components
        )
        level, mass, means, factors = -torch.inf, weights, points, points
        for _ in range(5000):
            mass = weights @ r
            each = [_moments(points, weights * r[:, k] / mass[k]) for k in range(self.components)]
            covariances = torch.stack(
                [torch.diag(c.diagonal()) if self.factorised else c for _, c in each]
            )
            covariances = covariances + 1e-12 * covariance.diagonal().mean() * torch.eye(
                points.shape[1]
            ).to(points)
            means, factors = torch.stack([m for m, _ in each]), torch.linalg.cholesky(covariances)
            joint = (
                MultivariateNormal(means, scale_tril=factors).log_prob(points[:, None]) + mass.log()
            )
            r, reached = joint.softmax(1), float(weights @ joint.logsumexp(1))
            if reached - level < 1e-13 * (1 + abs(reached)):
                break
            level = reached
        return self.build(mass.log(), means, factors)


def _descend(
    target: Distribution, family: Any, means: Tensor, covariance: Tensor
) -> tuple[float, Distribution]:
    """L-BFGS on KL(q ‖ target) over logits, means and Cholesky factors: the value reached and q."""
    dims, components = means.shape[1], family.components
    nodes, node_weights = _hermite(dims, means)
    factor = torch.linalg.cholesky(torch.diag(covariance.diagonal())).expand(components, dims, dims)
    below = torch.tril(torch.ones_like(factor[0]), -1)
    scales = factor.diagonal(dim1=-2, dim2=-1).log()
    free = [torch.zeros_like(means[:, 0]), means, scales, torch.zeros_like(factor)]
    free = [
        value.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        for value in free
    ]

    def pieces() -> tuple[Tensor, Tensor, Tensor]:
        lower = 0.0 if family.factorised else free[3] * below
        return free[0], free[1], torch.diag_embed(free[2].exp()) + lower

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            logits, means, factors = pieces()
            q = family.build(logits, means, factors)
            x = means + (factors @ nodes[:, None, :, None]).squeeze(-1)  # (nodes, K, D)
            gap = q.log_prob(x) - _log_prob(target, x)
            loss = (free[0].softmax(0) * (node_weights @ gap)).sum()
            loss.backward()
        return loss

    optimizer = torch.optim.LBFGS(free, max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-12,
                                  history_size=20, line_search_fn="strong_wolfe")  # fmt: skip
    optimizer.step(closure)
    value = float(closure().detach())
    free[:] = [parameter.detach() for parameter in free]
    return value if value == value else float("inf"), family.build(*pieces())


def _one(target: Any, family: Any) -> Distribution:
    """The target, once it and the family are known to be what a projection can take."""
    if (
        not isinstance(target, Distribution)
        or isinstance(family, type)
        or not hasattr(family, "build")
    ):
        raise TypeError(
            f"a projection of {target!r} onto {family!r} needs a torch distribution and a"
            " GaussianFamily() or MixtureFamily()."
        )
    if target.batch_shape:
        raise ValueError(
            f"{target} is a batch of shape {tuple(target.batch_shape)}; project its members one by"
            " one."
        )
    return target


def _points(target: Distribution) -> tuple[Tensor, Tensor]:
    """Weighted points (N, D), (N,) that stand for the target: Gauss-Hermite nodes of Gaussians, or
    draws.
    """
    parts = _gaussian_parts(target)
    if parts is None:
        x = target.sample((50_000,)).double().reshape(50_000, -1)
        return x, torch.full_like(x[:, 0], 1 / len(x))
    probs, means, factors = parts
    nodes, node_weights = _hermite(means.shape[1], means)
    x = means[:, None] + (factors[:, None] @ nodes[..., None]).squeeze(-1)
    return x.flatten(0, 1), (probs[:, None] * node_weights).flatten()


def _gaussian_parts(target: Distribution) -> tuple[Tensor, Tensor, Tensor] | None:
    """Weights (K,), means (K, D) and Cholesky factors (K, D, D) of a Gaussian or a mixture of them,
    else None.
    """
    mixture = isinstance(target, MixtureSameFamily)
    part = target.component_distribution if mixture else target.expand((1,))
    probs = target.mixture_distribution.probs if mixture else torch.ones(1)
    inner = part.base_dist if isinstance(part, Independent) else part
    if isinstance(inner, MultivariateNormal):
        factors = inner.scale_tril
    elif isinstance(inner, Normal):
        factors = torch.diag_embed(inner.scale.reshape(len(probs), -1))
    else:
        return None
    return probs.double(), inner.mean.reshape(len(probs), -1).double(), factors.double()


def _peaks(target: Distribution, points: Tensor) -> Tensor:
    """(S, D) places where a search may start: the means of a mixture's components, or some of the
    points.
    """
    parts = _gaussian_parts(target)
    return points[:: max(1, len(points) // 8)][:8] if parts is None else parts[1]


def _moments(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of weighted points."""
    mean = weights @ points
    centred = points - mean
    return mean, (centred * weights[:, None]).mT @ centred


def _hermite(dims: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes (N, D) and weights (N,) for expectations under N(0, I): a Gauss-Hermite grid, Sobol
    points beyond 3-D.
    """
    if dims > 3:
        uniform = torch.quasirandom.SobolEngine(dims, scramble=True, seed=0).draw(
            4096, dtype=torch.float64
        )
        half = Normal(0.0, 1.0).icdf(uniform.clamp(1e-12, 1 - 1e-12))
        nodes = torch.cat([half, -half]).to(like)
        return nodes, torch.full_like(nodes[:, 0], 1 / len(nodes))
    x, w = (
        torch.as_tensor(a).to(like)
        for a in numpy.polynomial.hermite_e.hermegauss((160, 32, 12)[dims - 1])
    )
    return torch.cartesian_prod(*[x] * dims).reshape(-1, dims), torch.cartesian_prod(*[w / w.sum()] * dims).reshape(
        -1, dims).prod(1)  # fmt: skip


def _log_prob(target: Distribution, x: Tensor) -> Tensor:
    return target.log_prob(x if target.event_shape else x.squeeze(-1))


def _as_events_of(target: Distribution, q: Distribution) -> Distribution:
    """q over scalars when the target is over scalars."""
    if target.event_shape:
        return q
    if isinstance(q, MultivariateNormal):
        return Normal(q.mean.squeeze(-1), q.stddev.squeeze(-1))
    assert isinstance(q, MixtureSameFamily)
    part = q.component_distribution
    return MixtureSameFamily(
        q.mixture_distribution, Normal(part.mean.squeeze(-1), part.stddev.squeeze(-1))
    )
