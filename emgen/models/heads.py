"""Heads: the last layer of an encoder or decoder, features in, a `torch.distributions.Distribution`
out.
"""

__all__ = ["Bernoulli", "Categorical", "Dirac", "Gaussian", "Implicit", "OneHot"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributions, nn

from emgen.distributions import Dirac as PointMass
from emgen.distributions import Implicit as ImplicitDistribution
from emgen.distributions import IndependentBernoulli, softplus
from emgen.distributions import OneHot as OneHotDistribution


class Bernoulli(nn.Module):
    """Binary events, p(x|h) = Π_d Bernoulli(x_d; σ(ℓ_d)), ℓ = W h + b.

    Args:
        features: size of h.
        event_shape: shape of x.
    """

    def __init__(self, features: int, event_shape: Sequence[int]):
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.logits = nn.Linear(features, self.event_shape.numel())

    def forward(self, features: Tensor) -> distributions.Distribution:
        return IndependentBernoulli(
            shaped(self.logits(features), self.event_shape), len(self.event_shape)
        )


class Gaussian(nn.Module):
    """Real events with their own variances, p(x|h) = N(x; μ(h), diag σ²(h)).

    Args:
        features: size of h.
        event_shape: shape of x.
        scale: a fixed σ; None learns σ(h) = softplus(·) + min_scale.
        min_scale: the smallest learnt σ, which keeps a density from running off to infinity on a
            single point.
    """

    def __init__(
        self,
        features: int,
        event_shape: Sequence[int],
        scale: float | None = None,
        min_scale: float = 1e-3,
    ):
        super().__init__()
        if scale is not None and not scale > 0:
            raise ValueError(
                f"scale={scale}: a standard deviation is positive; give one, or null to learn it."
            )
        if not min_scale >= 0:
            raise ValueError(
                f"min_scale={min_scale}: the smallest standard deviation cannot be negative."
            )
        self.event_shape = torch.Size(event_shape)
        self.scale: Any = scale
        self.min_scale = min_scale
        self.mean = nn.Linear(features, self.event_shape.numel())
        self.raw_scale = nn.Linear(features, self.event_shape.numel()) if scale is None else None
        if self.raw_scale is not None:  # start at σ = 1
            nn.init.constant_(self.raw_scale.bias, math.log(math.expm1(1.0)))

    def forward(self, features: Tensor) -> distributions.Distribution:
        mean = shaped(self.mean(features), self.event_shape)
        if self.raw_scale is None:
            scale = torch.full_like(mean, self.scale)
        else:
            scale = softplus(shaped(self.raw_scale(features), self.event_shape)) + self.min_scale
        return distributions.Independent(
            distributions.Normal(mean, scale, validate_args=False), len(self.event_shape)
        )


class Categorical(nn.Module):
    """Integer events with `classes` values each, p(x|h) = Π_d Categorical(x_d; softmax(ℓ_d)).

    Args:
        features: size of h.
        event_shape: shape of x, whose entries are the integers 0 … classes − 1.
        classes: values an entry can take.
    """

    def __init__(self, features: int, event_shape: Sequence[int], classes: int = 256):
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes={classes}: a categorical entry takes at least two values.")
        self.event_shape, self.classes = torch.Size(event_shape), classes
        self.logits = nn.Linear(features, self.event_shape.numel() * classes)

    def forward(self, features: Tensor) -> distributions.Distribution:
        logits = shaped(self.logits(features), torch.Size((*self.event_shape, self.classes)))
        return distributions.Independent(
            distributions.Categorical(logits=logits, validate_args=False), len(self.event_shape)
        )


class Dirac(nn.Module):
    """A point and nothing around it, p(x|h) = δ(x − g(h)): an implicit model, for adversarial
    trainers alone.

    Args:
        features: size of h.
        event_shape: shape of x.
        squash: whether the point is passed through a sigmoid, for values in [0, 1].
    """

    def __init__(self, features: int, event_shape: Sequence[int], squash: bool = False):
        super().__init__()
        self.event_shape, self.squash = torch.Size(event_shape), squash
        self.point = nn.Linear(features, self.event_shape.numel())

    def forward(self, features: Tensor) -> distributions.Distribution:
        point = shaped(self.point(features), self.event_shape)
        return PointMass(
            point.sigmoid() if self.squash else point, len(self.event_shape), validate_args=False
        )


class Implicit(nn.Module):
    """Draws of any shape without a density, z = g(h, ε) with ε ~ N(0, I), fresh for every draw: an
    encoder for games that see z (AVB, ALI, AAE).

    Args:
        features: size of h.
        event_shape: shape of z, a vector.
        noise: size of ε.
        hidden: width of the layer that mixes h and ε.

    References: Mescheder, Nowozin and Geiger (2017), "Adversarial variational Bayes".
    """

    def __init__(
        self, features: int, event_shape: Sequence[int], noise: int = 16, hidden: int = 200
    ):
        super().__init__()
        if min(noise, hidden) < 1:
            raise ValueError(
                f"noise={noise}, hidden={hidden}: draws without a density take at least one number"
                " of noise and one hidden unit."
            )
        self.event_shape, self.noise = torch.Size(event_shape), noise
        self.mix = nn.Sequential(
            nn.Linear(features + noise, hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.event_shape.numel()),
        )

    def forward(self, features: Tensor) -> distributions.Distribution:
        def draw(shape: torch.Size) -> Tensor:
            h = features.expand(*shape, *features.shape)
            noise = torch.randn(
                *h.shape[:-1], self.noise, dtype=features.dtype, device=features.device
            )
            return shaped(self.mix(torch.cat([h, noise], -1)), self.event_shape)

        return ImplicitDistribution(draw, features.shape[:-1], self.event_shape)


class OneHot(nn.Module):
    """Categorical units as one-hot vectors, p(z|h) = Π_d OneHot(z_d; softmax(ℓ_d)): discrete
    latents a network can read.

    Args:
        features: size of h.
        event_shape: shape of z, whose last dimension is the one-hot vector.
    """

    def __init__(self, features: int, event_shape: Sequence[int]):
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.logits = nn.Linear(features, self.event_shape.numel())

    def forward(self, features: Tensor) -> distributions.Distribution:
        logits = shaped(self.logits(features), self.event_shape)
        return distributions.Independent(
            OneHotDistribution(logits=logits, validate_args=False), len(self.event_shape) - 1
        )


def shaped(flat: Tensor, shape: torch.Size) -> Tensor:
    """The last dimension of `flat` as an event of this shape (a vector is one already), in full
    precision.

    Under mixed precision the layer before gives 8 bits: uniforms of so few drew a rare unit three
    times too often, and a log-likelihood of hundreds of nats was rounded to whole ones.
    """
    flat = flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat
    return flat if len(shape) == 1 else flat.view(flat.shape[:-1] + shape)
