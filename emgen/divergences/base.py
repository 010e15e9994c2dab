"""An f-divergence, whole, from its generator alone."""

from __future__ import annotations

__all__ = [
    "Combination",
    "FDivergence",
    "NonSaturating",
    "continued",
    "curvature_of_pair",
    "elementwise",
    "heavy_tails",
]

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.func import grad

from emgen.divergences.numerics.between import Estimate, between

_Function = Callable[[Tensor], Tensor]
_SURE = 18.0  # eᵛ f′(eᵛ) − f(eᵛ) and its two derivatives keep most of their digits up to here
_REACH = 300.0  # |log u| searched by the generic conjugate: e^600 is still a float64, so u² f″(u) of a χ² is finite
_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(24))
_PIECES = 16  # of the range of log u, each with its own nodes
_CANCELS = 14.0  # |log u| up to which the two terms of h′ keep most of their digits
_WORDS = {
    "Reverse KL": "reverse KL",
    "Jensen Shannon": "Jensen-Shannon",
    "Squared Hellinger": "squared Hellinger",
    "Total Variation": "total variation",
    "Triangular Discrimination": "triangular discrimination",
    "Hinge Loss": "hinge loss",
    "Exponential Loss": "exponential loss",
    "Logistic Loss": "logistic loss",
    "Least Squares Loss": "least-squares loss",
    "Paper Activation": "paper activation",
}
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
            continued(excess, v.clamp_min(0), _FAR),
            continued(excess, v.clamp_max(0), -_FAR),
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

    def non_saturating(self) -> FDivergence:
        """D_h with h″(u) = f″(u)/u: what a model descends that ascends E_Q[f′(eᵛ)] in place of
        descending the bound, at the best critic.

        There the gradient of −E_Q[f′(p/q)], the critic held still, is the one of ∫ q h(p/q), for

            ∂(q h(p/q))/∂q = h(u) − u h′(u) = f′(1) − f′(u),      so that h″(u) = f″(u)/u,

        which is convex again. The named divergences answer in closed form (KL with the reverse KL,
        GAN with reverse KL − Jensen-Shannon); of any other f it is found by quadrature. Where h
        grows like a power of 1/u as u → 0, as Neyman's does that the reverse KL answers with, D_h
        is infinite for a model of heavier tails than the data, and the game may run away.

        References: Hu, Yang, Salakhutdinov and Xing (2018), "On unifying deep generative models",
        and Shannon et al. (2020), "Non-saturating GAN training as divergence minimization", for the
        GAN.
        """
        return NonSaturating(self)

    def __add__(self, other: FDivergence) -> FDivergence:
        return _combined((1.0, self), (1.0, other))

    def __sub__(self, other: FDivergence) -> FDivergence:
        return _combined((1.0, self), (-1.0, other))

    def __mul__(self, weight: float) -> FDivergence:
        return _combined((float(weight), self))

    __rmul__ = __mul__

    def _dual_value(self, v: Tensor) -> Tensor:
        """eᵛ f′(eᵛ) − f(eᵛ), continued beyond v = 18."""
        return continued(
            lambda x: x.exp() * self.derivative(x.exp()) - self.generator(x.exp()), v, _SURE
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __str__(self) -> str:
        """Its name in words, as a table prints it: reverse KL, Alpha(0.5)."""
        name, _, arguments = repr(self).partition("(")
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
        plain = _WORDS.get(words, words)
        values = re.sub(r"\w+=", "", arguments)
        return plain if values == ")" or words == "Total Variation" else f"{plain}({values}"


def _combined(*terms: tuple[float, FDivergence]) -> FDivergence:
    """Σ c_i D_i, flat where a D_i is itself a sum."""
    flat: list[tuple[float, FDivergence]] = []
    for weight, divergence in terms:
        parts = divergence.terms if isinstance(divergence, Combination) else ((1.0, divergence),)
        flat += [(weight * c, d) for c, d in parts]
    return Combination(tuple(flat))


@dataclass(frozen=True)
class Combination(FDivergence):
    """Σ_i c_i D_{f_i}(P‖Q), itself an f-divergence with f = Σ_i c_i f_i wherever that is convex.

    Divergences add, subtract and scale into one: `ReverseKL() - JensenShannon()`.

    Args:
        terms: pairs of a weight c_i, of either sign, and a divergence.

    Raises:
        ValueError: no term, or a weight that is not finite.

    >>> from emgen.divergences import KL, ReverseKL
    >>> ReverseKL() - 0.5 * KL()
    ReverseKL() - 0.5 * KL()
    """

    terms: tuple[tuple[float, FDivergence], ...]

    def __post_init__(self) -> None:
        if not self.terms or not all(math.isfinite(weight) for weight, _ in self.terms):
            raise ValueError(
                f"terms={self.terms!r}: give at least one pair of a finite weight and a divergence."
            )

    def generator(self, u: Tensor) -> Tensor:
        return self._sum("generator", u)

    def derivative(self, u: Tensor) -> Tensor:
        return self._sum("derivative", u)

    def activation(self, v: Tensor) -> Tensor:
        return self._sum("activation", v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return self._sum("conjugate_of_activation", v)

    def conjugate_curvature(self, v: Tensor) -> Tensor:
        return self._sum("conjugate_curvature", v).clamp_min(0)

    def perspective(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self._sum("perspective", log_p, log_q).clamp_min(0)

    def exact(self, p: Distribution, q: Distribution) -> Tensor | None:
        values = [divergence.exact(p, q) for _, divergence in self.terms]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return torch.stack([c * value for (c, _), value in zip(self.terms, known)]).sum(0)

    def non_saturating(self) -> FDivergence:
        return Combination(tuple((weight, d.non_saturating()) for weight, d in self.terms))

    def _sum(self, method: str, *arguments: Tensor) -> Tensor:
        total = torch.zeros_like(arguments[0])
        for weight, divergence in self.terms:
            total = total + weight * getattr(divergence, method)(*arguments)
        return total

    def __repr__(self) -> str:
        return self._written(repr, " * ")

    def __str__(self) -> str:
        return self._written(str, " ")

    def _written(self, name, times: str) -> str:
        text = ""
        for weight, divergence in self.terms:
            sign = " - " if weight < 0 else " + "
            size = "" if abs(weight) == 1 else f"{abs(weight):g}{times}"
            text += sign + size + name(divergence)
        return text.removeprefix(" + ").lstrip()


@dataclass(frozen=True)
class NonSaturating(FDivergence):
    """D_h with h″(u) = f″(u)/u of any f, by quadrature: h(u) = u ∫₁ᵘ (f′(s) − f′(1))/s² ds.

    Args:
        divergence: D_f, whose derivative is known.

    >>> from emgen.divergences import KL, ReverseKL
    >>> h = NonSaturating(KL())
    >>> h.generator(torch.tensor(2.0)) - (ReverseKL().generator(torch.tensor(2.0)) + 1) < 1e-6
    tensor(True)
    """

    divergence: FDivergence

    def generator(self, u: Tensor) -> Tensor:
        ratio = u.double().clamp_min(torch.finfo(torch.float64).tiny)
        return (ratio * self._integral(ratio.log())).to(u.dtype)

    def derivative(self, u: Tensor) -> Tensor:
        return self.activation(u.double().log()).to(u.dtype)

    def activation(self, v: Tensor) -> Tensor:
        """h′(eᵛ); far below zero, where its two terms cancel, continued as the power that it is."""

        def slope(w: Tensor) -> Tensor:
            return self._integral(w) + self._rise(w.exp()) * (-w).exp()

        return continued(slope, v.double(), -_CANCELS).to(v.dtype)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        """u h′(u) − h(u) = f′(u) − f′(1): what the game's sample side pays."""
        return self._rise(v.double().exp()).to(v.dtype)

    def _rise(self, u: Tensor) -> Tensor:
        return self.divergence.derivative(u) - self.divergence.derivative(torch.ones_like(u))

    def _integral(self, v: Tensor) -> Tensor:
        """∫₀ᵛ (f′(eʷ) − f′(1)) e⁻ʷ dw by Gauss and Legendre's rule on equal pieces."""
        nodes, weights = _NODES.to(v.device), _WEIGHTS.to(v.device)
        starts = torch.arange(_PIECES, device=v.device, dtype=v.dtype)
        share = ((starts[:, None] + (nodes + 1) / 2) / _PIECES).flatten()
        w = v[..., None] * share
        values = self._rise(w.exp()) * (-w).exp()
        return v * (values * weights.repeat(_PIECES)).sum(-1) / (2 * _PIECES)

    def __str__(self) -> str:
        return f"the divergence with h'' = f''/u of {self.divergence}"


def heavy_tails(divergence: FDivergence) -> bool:
    """Whether D_f is infinite for some model whose tails are heavier than the data's: f(u) grows
    like a power of 1/u as u → 0, as Neyman's does, and not like its logarithm.

    >>> from emgen.divergences import KL, Neyman, ReverseKL
    >>> heavy_tails(Neyman()), heavy_tails(ReverseKL()), heavy_tails(KL())
    (True, False, False)
    """
    u = torch.tensor([-40.0, -80.0], dtype=torch.float64).exp()
    near, far = divergence.generator(u).tolist()
    return far > 3 * abs(near)


def continued(function: _Function, v: Tensor, edge: float) -> Tensor:
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
