"""Laws of a divergence: of its generator, its conjugate, its dual pair and its values."""

from __future__ import annotations

__all__ = ["check_divergence"]

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal

from emgen.divergences import FDivergence
from emgen.divergences.base import curvature_of_pair


def check_divergence(divergence: FDivergence, *, log_ratio: bool = True, seed: int = 0) -> None:
    """Check the laws of an f-divergence: of its generator, its conjugate, its dual pair and its
    values.

    A divergence may be a sound one and yet break a law, for what no critic in float32 can train: |u
    − 1|^1.5, whose gradient is infinite at v = 0, and u³, whose values overflow before |v| = 40.

    Args:
        divergence: any f-divergence, shipped or one's own.
        log_ratio: whether its activation is f′(eᵛ); False for a margin loss, a printed activation,
            or one that smooths a step, whose best critic is not the log density ratio.
        seed: of the random tables and channels.

    Raises:
        AssertionError: naming the divergence and the law.

    >>> from emgen.divergences import KL
    >>> check_divergence(KL())
    """

    def law(name: str, holds: Tensor | bool) -> None:
        assert bool(torch.as_tensor(holds).all()), f"{divergence!r} breaks the law: {name}"

    generator = torch.Generator().manual_seed(seed)
    _generator_laws(divergence, law, generator)
    _conjugate_laws(divergence, law, generator)
    _dual_pair_laws(divergence, law, generator, log_ratio)
    _value_laws(divergence, law, generator, log_ratio)


Law = Callable[[str, "Tensor | bool"], None]


def _generator_laws(d: FDivergence, law: Law, rng: torch.Generator) -> None:
    u, w = (4 * torch.randn(2, 200, generator=rng, dtype=torch.float64)).exp()
    mix = torch.rand(200, generator=rng, dtype=torch.float64)
    chord = mix * d.generator(u) + (1 - mix) * d.generator(w)
    law("f(1) = 0", d.generator(torch.ones(1, dtype=torch.float64)).abs() < 1e-12)
    law(
        "f(u) is finite for e^-12 < u < e^12",
        d.generator(torch.linspace(-12, 12, 25, dtype=torch.float64).exp()).isfinite(),
    )
    law("f is convex", d.generator(mix * u + (1 - mix) * w) <= chord + 1e-9 * (1 + chord.abs()))
    law("f is not affine", (chord - d.generator(mix * u + (1 - mix) * w)).max() > 1e-3)
    law(
        "derivative is the gradient of the generator",
        _close(d.derivative(u), _slope(d.generator, u)),
    )


def _conjugate_laws(d: FDivergence, law: Law, rng: torch.Generator) -> None:
    v = 6 * torch.rand(60, generator=rng, dtype=torch.float64) - 3
    u, grid = v.exp(), torch.linspace(-12, 12, 4001, dtype=torch.float64).exp()
    low, high = d.domain
    t = d.derivative(u)
    inside = torch.where(t >= high, high - 1e-3, t)
    conjugate = d.conjugate(inside)
    law("f* is finite inside its domain", conjugate.isfinite())
    top = min(high - 1e-3, float(d.derivative(u.new_tensor([1.0]))) + 20)
    law("f* is finite up to the end of its domain", d.conjugate(u.new_tensor([top])).isfinite())
    law("the domain of f* has no lower end", low == -torch.inf)
    law(
        "f* is +inf above its domain",
        high == torch.inf or d.conjugate(u.new_tensor([high + 0.1])) == torch.inf,
    )
    least = u.new_tensor([-30.0]).exp()
    lowest = d.derivative(least) - 1  # beneath f'(0), where that is finite
    law(
        "f*(t) = -f(0) for t below f'(0)",
        lowest < -1e5 or _close(d.conjugate(lowest), -d.generator(least), 1e-6),
    )
    law("Fenchel-Young: f(u) + f*(t) >= u t",
        d.generator(u)[:, None] + conjugate >= u[:, None] * inside - 1e-9 * (1 + u[:, None]))  # fmt: skip
    law("Fenchel-Young: equality at t = f'(u)", _close(d.generator(u) + d.conjugate(t), u * t))
    grid = torch.cat(
        [grid, u]
    )  # with the maximisers themselves, for a grid is coarse where f bends sharply
    searched = (grid[:, None] * inside - d.generator(grid)[:, None]).amax(0)
    law("f*(t) = sup of u t - f(u)", _close(conjugate, searched, 2e-5))
    maximiser = _slope(d.conjugate, inside)
    law("f*'(t) is the u that attains the supremum",
        _close(maximiser * inside - d.generator(maximiser), conjugate, 1e-6))  # fmt: skip
    law("biconjugate: f(u) = sup of u t - f*(t)",
        _close((u[:, None] * inside - conjugate).amax(1), d.generator(u), 1e-2))  # fmt: skip


def _dual_pair_laws(d: FDivergence, law: Law, rng: torch.Generator, log_ratio: bool) -> None:
    v = 8 * torch.rand(200, generator=rng, dtype=torch.float64) - 4
    t, g = d.activation(v), d.conjugate_of_activation(v)
    _, high = d.domain
    law("activations lie in the domain of f*", t <= high + 1e-12)
    law("what is paid on samples is at least f*(t)", g >= d.conjugate(t) - 1e-9 * (1 + g.abs()))
    law(
        "the curvature is that of f* along the activation",
        _close(
            d.conjugate_curvature(v),
            curvature_of_pair(d.activation, d.conjugate_of_activation, v).clamp_min(0),
            1e-6,
        ),
    )
    law("the curvature is not negative", d.conjugate_curvature(v) >= 0)
    if log_ratio:
        generic = _FromGenerator(d)
        law("activation(v) = f'(exp v)", _close(t, generic.activation(v), 1e-6))
        law(
            "conjugate_of_activation(v) = f*(f'(exp v))",
            _close(g, generic.conjugate_of_activation(v), 1e-6),
        )
        law("conjugate_of_activation agrees with conjugate", _close(g, d.conjugate(t), 1e-6))
    for function in (d.activation, d.conjugate_of_activation):
        few = v[:20]
        steps = (function(few + 1e-6) - function(few - 1e-6)) / 2e-6
        law("gradients are right", _close(_slope(function, few), steps, 1e-5))
        wide = torch.linspace(-40, 40, 41, dtype=torch.float32)
        value = function(wide)
        law("float32 is kept", value.dtype == torch.float32)
        law("finite in float32 for |v| <= 40", value.isfinite())
        law(
            "finite gradient in float32 for |v| <= 40, also at v = 0, so f'' is finite at 1",
            _slope(function, wide).isfinite(),
        )


def _value_laws(d: FDivergence, law: Law, rng: torch.Generator, log_ratio: bool) -> None:
    loc, scale = torch.tensor([[0.3, -0.4], [1.0, 1.3]], dtype=torch.float64)
    p, q = Normal(loc[0], scale[0]), Normal(loc[1], scale[1])
    for a, b in ((p, q), (q, p)):
        closed = d.exact(a, b)
        law("exact(p, q) is the integral",
            closed is None or _close(closed, _FromGenerator(d).of(p=a, q=b).value, 1e-6))  # fmt: skip
    for _ in range(3):
        p, q = torch.rand(2, 6, generator=rng, dtype=torch.float64).pow(2).add(0.01)
        p, q = p / p.sum(), q / q.sum()
        value = d.perspective(p.log(), q.log()).sum()
        law("D(p, q) = sum of q f(p/q)", _close(value, (q * d.generator(p / q)).sum()))
        law("D(p, q) > 0", value > 0)
        law("no point adds a negative amount to D", d.perspective(p.log(), q.log()) >= -1e-12)
        law("D(p, p) = 0", d.perspective(p.log(), p.log()).abs() < 1e-12)
        channel = torch.rand(6, 4, generator=rng, dtype=torch.float64)
        channel = channel / channel.sum(1, keepdim=True)
        law("no channel increases D (data processing)",
            d.perspective((p @ channel).log(), (q @ channel).log()).sum() <= value + 1e-12)  # fmt: skip
        t = d.derivative(p / q)
        law("the bound is tight at t = f'(p/q)", _close((p * t - q * d.conjugate(t)).sum(), value))
        v = torch.linspace(-7, 7, 40001, dtype=torch.float64).sinh()[:, None]
        gain = (p * d.activation(v) - q * d.conjugate_of_activation(v)).nan_to_num(
            -torch.inf, -torch.inf
        )
        law("no critic exceeds D", gain.sum(1) <= value + 1e-9)
        law("the best critic attains D", _close(gain.amax(0).sum(), value, 1e-4))
        if log_ratio:
            best = p * d.activation((p / q).log()) - q * d.conjugate_of_activation((p / q).log())
            law("the best critic is the log density ratio", _close(best.sum(), value))


class _FromGenerator(FDivergence):
    """Everything by automatic differentiation, from another divergence's generator alone."""

    def __init__(self, divergence: FDivergence):
        self.generator = divergence.generator  # type: ignore[method-assign]


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    value = function(x).sum()
    return (
        torch.autograd.grad(value, x)[0] if value.requires_grad else torch.zeros_like(x)
    )  # piecewise constant


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> Tensor:
    return ((a - b).abs() <= tolerance * (1 + b.abs())) & b.isfinite() | (a == b)
