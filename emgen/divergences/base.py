"""An f-divergence, whole, from its generator alone."""

from __future__ import annotations

__all__ = ["FDivergence", "curvature_of_pair", "elementwise"]

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.func import grad

from emgen.divergences.numerics.between import Estimate, between

_Function = Callable[[Tensor], Tensor]
_SURE = 18.0  # eᵛ f′(eᵛ) − f(eᵛ) and its two derivatives keep most of their digits up to here
_REACH = 300.0  # |log u| searched by the generic conjugate: e^600 is still a float64, so u² f″(u) of a χ² is finite
_FAR = 100.0  # |log u| from which a generic integrand is continued: second derivatives of powers of u are still finite


class FDivergence:
    """D_f(P‖Q) = ∫ q f(p/q) for a convex f with f(1) = 0, P the data and Q the model.

    A subclass overrides `generator` alone; derivative, conjugate, its domain, activation and
    curvature follow from it by automatic differentiation, in float64 inside, batched, to any order.
    The critic outputs v = log r, the logarithm of a density ratio; the best dual variable is f′(r),
    hence

        activation(v)              = f′(eᵛ)
        conjugate_of_activation(v) = f*(f′(eᵛ)) = eᵛ f′(eᵛ) − f(eᵛ)
        bound                      = E_P[activation(v)] − E_Q[conjugate_of_activation(v)]  ≤
        D_f(P‖Q),

    with equality at v = log p/q. For large v the difference of eᵛ f′(eᵛ) and f(eᵛ) may drown in
    round-off; from v = 18 on it is therefore continued as the power of eᵛ that it is there. The
    shipped divergences override it by closed forms.

    References: Csiszár (1967), Information-type measures of difference of probability
    distributions; Nguyen, Wainwright & Jordan (2010), Estimating divergence functionals by convex
    risk minimization; Nowozin, Cseke & Tomioka (2016), f-GAN.

    >>> class LeCam(FDivergence):
    ...     def generator(self, u):
    ...         return (u - 1) ** 2 / (u + 1)
    >>> LeCam().activation(torch.tensor(0.0)), LeCam().conjugate(torch.tensor(0.0))
    (tensor(0.), tensor(0.))
    """

    def generator(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f(u) for a density ratio u ≥ 0: convex, f(1) = 0."""
        raise NotImplementedError(
            f"{type(self).__name__} must define generator(u), a convex f with f(1) = 0"
        )

    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f′(u)."""
        return elementwise(self.generator, u)

    def activation(self, v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The dual variable t = f′(eᵛ) of a critic that outputs the log density ratio v."""
        return self.derivative(_wide(v).exp()).to(v.dtype)

    def conjugate_of_activation(self, v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f*(f′(eᵛ)) = eᵛ f′(eᵛ) − f(eᵛ), what the bound subtracts on the model's samples."""
        return self._dual_value(_wide(v)).to(v.dtype)

    def conjugate_curvature(self, v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """e²ᵛ f″(eᵛ), the c(v) for which f*″(t) ‖∇ₓt‖² = c(v) ‖∇ₓv‖² at t = activation(v).

        It is the derivative of `conjugate_of_activation`, so it stays finite where f*″ = 1/f″ alone
        would overflow.

        Reference: Roth, Lucchi, Nowozin & Hofmann (2017), Stabilizing training of generative
            adversarial networks
        through regularization.
        """
        return elementwise(self.conjugate_of_activation, v)

    def conjugate(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f*(t) = sup over u ≥ 0 of u t − f(u): −f(0) below f′(0), +∞ above the domain.

        The root of f′(eᵛ) = t is bracketed by bisection; a second-order expansion about it, exact
        in value, carries the first two derivatives u and 1/f″(u).
        """
        goal = _wide(t)
        with torch.no_grad():
            low, high = torch.full_like(goal, -_REACH), torch.full_like(goal, _REACH)
            for _ in range(64):
                middle = (low + high) / 2
                below = self.derivative(middle.exp()) < goal
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            u = ((low + high) / 2).exp()
            start, curvature = self.derivative(u), elementwise(self.derivative, u)
            at_zero, beyond = (
                low < 1 - _REACH,
                self.derivative(torch.full_like(u, _REACH).exp()) < goal,
            )
            value = self._dual_value((low + high) / 2)
            inverse = torch.where(curvature > 0, 1 / curvature, 0.0)  # a kink of f has no curvature
        step = torch.where(at_zero | beyond, 0.0, goal - start)
        return torch.where(beyond, torch.inf, value + step * (u + 0.5 * step * inverse)).to(t.dtype)

    @property
    def domain(self) -> tuple[float, float]:
        """The interval (−∞, f′(∞)) inside which f* is finite."""
        ends = torch.tensor([_REACH / 2, _REACH], dtype=torch.float64)
        near, far = self.derivative(ends.exp()).tolist()
        settled = abs(far - near) <= 1e-9 * (1 + abs(far))
        return (-torch.inf, far if settled else torch.inf)

    def perspective(
        self, log_p: Float[Tensor, "*shape"], log_q: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """q f(p/q) − f′(1) (p − q), the integrand of D_f made non-negative point by point, of
        finite log densities.

        A generator cannot be asked for u beyond e^±100; there this default continues it as the
        power or the logarithm of u that it is, so that a zero density, written as a log density of
        −1e300, costs f(0), f′(∞) or infinity.
        """

        def excess(v: Tensor) -> Tensor:  # over the larger of p and q
            u = v.exp()
            tangent = self.derivative(torch.ones_like(u)) * (u - 1)
            return (self.generator(u) - tangent).clamp_max(1e300) / u.clamp_min(1)

        v = log_p - log_q
        inside = torch.where(
            v > 0,
            _continued(excess, v.clamp_min(0), _FAR),
            _continued(excess, v.clamp_max(0), -_FAR),
        )
        return (torch.where(v > 0, log_p, log_q).exp() * inside).nan_to_num(0.0).clamp_min(0)

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        """D_f(p‖q) where a closed form is known, else None."""
        return None

    def of(self, p: Distribution, q: Distribution, *, samples: int | None = None) -> Estimate:
        """D_f(p‖q) between two torch distributions, non-negative: its value, its error and the
        method.

        In order: closed form; sum over the outcomes 0, 1, 2, … of discrete distributions; adaptive
            quadrature in one
        dimension; Monte Carlo over half as many draws from each of p and q.

        Args:
            p: the data side.
            q: the model side.
            samples: draws of the Monte Carlo estimate; given, they are used even where an exact way
                is known.

        Raises:
            ValueError: if event shapes differ, batches do not broadcast, one is discrete and one
                not, or samples < 4.

        >>> from torch.distributions import Normal
        >>> from emgen.divergences import Pearson
        >>> Pearson().of(p=Normal(0.0, 1.0), q=Normal(0.0, 1.0))
        Estimate(value=tensor(0.), error=tensor(0.), method='closed form')
        """
        return between(self, p, q, samples)

    def _dual_value(self, v: Tensor) -> Tensor:
        """eᵛ f′(eᵛ) − f(eᵛ), continued beyond v = 18."""
        return _continued(
            lambda x: x.exp() * self.derivative(x.exp()) - self.generator(x.exp()), v, _SURE
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _continued(function: _Function, v: Tensor, edge: float) -> Tensor:
    """function(v), from the edge outwards as g + g′ (e^{κ(v−edge)} − 1)/κ with κ = g″/g′: exact for
    powers and logs of eᵛ.
    """
    at = v.new_tensor(edge)
    value, slope = function(at), elementwise(function, at)
    slope = torch.where(
        slope.abs() > 1e-12 * value.abs(), slope, 0.0
    )  # a bounded function has come to rest
    bend = elementwise(lambda x: elementwise(function, x), at)
    power = torch.where(slope == 0, 0.0, bend / slope).nan_to_num(0.0).clamp(-5, 5)
    outside = v > edge if edge > 0 else v < edge
    step, line = torch.where(outside, v - edge, 0.0), power.abs() < 1e-9
    rise = torch.where(line, step, (power * step).expm1() / torch.where(line, 1.0, power))
    return torch.where(outside, value + slope * rise, function(torch.where(outside, at, v)))


def curvature_of_pair(activation: _Function, conjugate: _Function, v: Tensor) -> Tensor:
    """f*″(t) t′(v)² = g″ − g′ t″/t′ for any activation t(v) and g(v) = f*(t(v)); zero where t is
    flat.
    """
    x = _wide(v)
    slope, bend = elementwise(activation, x), elementwise(lambda y: elementwise(activation, y), x)
    rise, curve = elementwise(conjugate, x), elementwise(lambda y: elementwise(conjugate, y), x)
    flat = slope == 0
    return torch.where(flat, 0.0, curve - rise * bend / torch.where(flat, 1.0, slope)).to(v.dtype)


def _wide(x: Tensor) -> Tensor:
    """Float64 where the device has it."""
    return x if x.device.type == "mps" else x.double()


def elementwise(function, x: Tensor) -> Tensor:
    """function′(x) of an elementwise function, itself differentiable."""
    return grad(lambda point: function(point).sum())(x)
