"""Small data sets whose true distribution is known, and the Old Faithful eruptions."""

__all__ = [
    "Bars",
    "bars",
    "grid",
    "grid_density",
    "line",
    "line_density",
    "old_faithful",
    "ring",
    "ring_density",
]

import csv
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    constraints,
)

from emgen.data.base import Data
from emgen.randomness import seeded


def ring(
    modes: int = 8,
    radius: float = 1.0,
    sd: float = 0.01,
    train: int = 100_000,
    validation: int = 10_000,
    test: int = 10_000,
    batch_size: int | None = 100,
    seed: int = 0,
) -> Data:
    """Gaussians on a circle, by default the eight of the mode-collapse protocol.

    Args:
        modes: how many, with equal weights.
        radius, sd: of the circle, and of each Gaussian in each dimension.
        train, validation, test: rows drawn for each split.
        batch_size: rows a step; None takes all.
        seed: of the draws and of the order.

    References: Lin, Khetan, Fanti, Oh (2018), "PacGAN: The power of two samples in generative
    adversarial networks".

    >>> data = ring(train=1000)
    >>> tuple(data.split("train").shape), data.density.log_prob(torch.tensor([1.0, 0.0])).exp().item()  # 1 / (8·2π·.01²)
    ((1000, 2), 198.9...)
    """
    return _drawn(
        ring_density(modes, radius, sd), train, validation, test, batch_size, seed, "ring"
    )


def grid(
    side: int = 5,
    spacing: float = 2.0,
    sd: float = 0.05,
    train: int = 100_000,
    validation: int = 10_000,
    test: int = 10_000,
    batch_size: int | None = 100,
    seed: int = 0,
) -> Data:
    """Gaussians on a square grid about the origin, by default the 25 of the mode-collapse protocol.

    Args:
        side: modes along each edge, with equal weights.
        spacing, sd: between neighbours, and of each Gaussian in each dimension.
        train, validation, test, batch_size, seed, references: as in `ring`.
    """
    return _drawn(
        grid_density(side, spacing, sd), train, validation, test, batch_size, seed, "grid"
    )


def line(
    weights: Sequence[float] = (0.33, 0.67),
    means: Sequence[float] = (-1.0, 2.0),
    sds: Sequence[float] = (0.255, 2**0.5),
    train: int = 65_536,
    validation: int = 10_000,
    test: int = 10_000,
    batch_size: int | None = 2048,
    seed: int = 0,
) -> Data:
    """A mixture of Gaussians on the line, by default the target of the f-GAN paper's
    one-dimensional table.

    The training rows are stratified: N equal shares of probability with one draw in each, so that
    what is learnt from them differs from the optimum by the training and not by the luck of the
    draw.

    Args:
        weights, means, sds: of the components; weights are normalised.
        train, validation, test, batch_size, seed: as in `ring`.

    References: Nowozin, Cseke, Tomioka (2016), "f-GAN".

    >>> rows = line(train=1000).split("train")
    >>> tuple(rows.shape), abs(rows.mean().item() - (0.67 * 2 - 0.33)) < 0.01
    ((1000, 1), True)
    """
    density: Any = line_density(weights, means, sds)
    data = _drawn(density, train, validation, test, batch_size, seed, "line")
    part, probs = density.component_distribution.base_dist, density.mixture_distribution.probs
    with seeded(seed):
        u = (torch.arange(train) + torch.rand(train)) / train
    edges = torch.cat([torch.zeros(1), probs.cumsum(0)])
    which = torch.bucketize(u, edges[1:-1])
    inside = ((u - edges[which]) / probs[which]).clamp(1e-7, 1 - 1e-7)
    data.rows["train"] = (
        part.mean[which] + part.stddev[which] * torch.special.ndtri(inside)[:, None]
    )
    return data


def bars(
    size: int = 4,
    vertical: float = 2 / 3,
    active: float = 0.2,
    train: int = 50_000,
    validation: int = 5_000,
    test: int = 5_000,
    batch_size: int | None = 100,
    seed: int = 0,
) -> Data:
    """Binary images (1, size, size) of bars that are all vertical or all horizontal; `density`
    knows every probability.

    Args:
        size: pixels along an edge, at most 10.
        vertical: probability that the bars of an image stand.
        active: probability of each single bar.
        train, validation, test, batch_size, seed: as in `ring`.

    References: Hinton, Dayan, Frey, Neal (1995), "The wake-sleep algorithm for unsupervised neural
    networks".

    >>> len(bars(train=10).density.enumerate_support())
    30
    """
    return _drawn(Bars(size, vertical, active), train, validation, test, batch_size, seed, "bars")


def old_faithful(batch_size: int | None = None, seed: int = 0, dtype: str = "float32") -> Data:
    """272 eruptions of the Old Faithful geyser: duration and waiting time until the next, in
    minutes.

    Args:
        batch_size: rows a step; None takes all.
        seed: of the order.
        dtype: `float32`, or `float64` for figures exact to many digits.

    References: Azzalini, Bowman (1990), "A look at some data on the Old Faithful geyser"; R's data
    set `faithful`.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype={dtype!r}: expected float32 or float64.")
    text = files("emgen.data").joinpath("faithful.csv").read_text().splitlines()
    rows = [[float(value) for value in row] for row in csv.reader(text[1:])]
    return Data(
        torch.tensor(rows, dtype=getattr(torch, dtype)),
        batch_size=batch_size,
        seed=seed,
        name="old_faithful",
    )


def ring_density(modes: int = 8, radius: float = 1.0, sd: float = 0.01) -> MixtureSameFamily:
    """1/M Σ_m N(x; radius·(cos 2πm/M, sin 2πm/M), sd² I)."""
    if modes < 1:
        raise ValueError(f"modes={modes}: expected at least 1.")
    angles = torch.arange(modes) * (2 * math.pi / modes)
    return _mixture(radius * torch.stack([angles.cos(), angles.sin()], dim=1), sd)


def grid_density(side: int = 5, spacing: float = 2.0, sd: float = 0.05) -> MixtureSameFamily:
    """1/side² Σ N(x; μ, sd² I) with the means μ on a square grid about the origin."""
    if side < 1:
        raise ValueError(f"side={side}: expected at least 1.")
    ticks = spacing * (torch.arange(side) - (side - 1) / 2)
    return _mixture(torch.cartesian_prod(ticks, ticks), sd)


def line_density(
    weights: Sequence[float], means: Sequence[float], sds: Sequence[float]
) -> MixtureSameFamily:
    """Σ_k w_k N(x; μ_k, σ_k²) over events of shape (1,)."""
    if not len(weights) == len(means) == len(sds) > 0:
        raise ValueError(
            f"{len(weights)} weights, {len(means)} means and {len(sds)} sds: expected as many of"
            " each."
        )
    if min(weights) < 0 or not sum(weights) > 0 or not min(sds) > 0:
        raise ValueError(
            f"weights={list(weights)}, sds={list(sds)}: weights are not negative, standard"
            " deviations positive."
        )
    components = Independent(
        Normal(torch.tensor(means)[:, None].float(), torch.tensor(sds)[:, None].float()), 1
    )
    return MixtureSameFamily(Categorical(torch.tensor(weights).float()), components)


class Bars(Distribution):
    """The distribution of `bars`: p(x) = v Π bᵢ(x's columns) + (1 − v) Π bᵢ(x's rows) over its 2·2ⁿ
    − 2 patterns.

    `enumerate_support()` lists the patterns (P, 1, n, n) and `probs` their probabilities (P,).
    """

    def __init__(self, size: int = 4, vertical: float = 2 / 3, active: float = 0.2):
        if not 2 <= size <= 10:
            raise ValueError(
                f"size={size}: expected 2 to 10, because the 2ⁿ⁺¹ − 2 patterns are listed."
            )
        if not (0 <= vertical <= 1 and 0 <= active <= 1):
            raise ValueError(f"vertical={vertical}, active={active}: probabilities lie in [0, 1].")
        switches = torch.cartesian_prod(
            *[torch.tensor([0.0, 1.0])] * size
        )  # (2ⁿ, n), all off first, all on last
        p = (switches.double() * active + (1 - switches.double()) * (1 - active)).prod(1)
        standing = switches[:, None, :].expand(-1, size, size)
        lying = switches[1:-1, :, None].expand(
            -1, size, size
        )  # the empty and the full image are the same either way
        probs = torch.cat([p * vertical, p[1:-1] * (1 - vertical)])
        probs[[0, len(p) - 1]] = p[[0, -1]]
        self.patterns, self.probs = torch.cat([standing, lying])[:, None], probs
        super().__init__(event_shape=self.patterns.shape[1:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.boolean, 3)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self.patterns

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.patterns[Categorical(self.probs).sample(torch.Size(sample_shape))]

    def log_prob(self, value: Tensor) -> Tensor:
        patterns, probs = self.patterns.to(value), self.probs.to(value)
        equal = (value[..., None, :, :, :] == patterns).flatten(-3).all(-1)
        return (equal * probs).sum(-1).log()

    def entropy(self) -> Tensor:
        return Categorical(self.probs).entropy()


def _mixture(means: Tensor, sd: float) -> MixtureSameFamily:
    if not sd > 0:
        raise ValueError(f"sd={sd}: expected a positive standard deviation.")
    components = Independent(Normal(means, torch.full_like(means, sd)), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(means))), components)


def _drawn(
    density: Distribution,
    train: int,
    validation: int,
    test: int,
    batch_size: int | None,
    seed: int,
    name: str,
) -> Data:
    if min(train, validation, test) < 1:
        raise ValueError(
            f"train={train}, validation={validation}, test={test}: expected at least one row of"
            " each to draw."
        )
    with seeded(seed):
        rows = [density.sample(torch.Size((size,))) for size in (train, validation, test)]
    return Data(*rows, batch_size=batch_size, seed=seed, density=density, name=name)
