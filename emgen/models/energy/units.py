"""Kinds of visible unit of a Boltzmann machine: exponential families p(v|h) ∝ base(v) exp(ηᵀ s(v))
with η = b + W h.
"""

__all__ = ["Binary", "Gaussian", "Multinomial", "Units"]

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, Independent

from emgen.distributions import bernoulli, softplus


class Units(Protocol):
    """What a machine asks of its visible layer: flat arguments (*batch, D), answers of shape
    (*batch, D) or (*batch).

    `natural` is the inverse of `mean`; `given` is the layer as a distribution over events.
    """

    def statistic(self, v: Tensor) -> Tensor: ...

    def log_base(self, v: Tensor) -> Tensor: ...

    def log_partition(self, eta: Tensor) -> Tensor: ...

    def mean(self, eta: Tensor) -> Tensor: ...

    def natural(self, mean: Tensor) -> Tensor: ...

    def sample(self, eta: Tensor) -> Tensor: ...

    def given(self, eta: Tensor, event_shape: Sequence[int]) -> Distribution: ...


class Binary:
    """Units in {0, 1}: log-partition softplus(η)."""

    def statistic(self, v: Tensor) -> Tensor:
        return v

    def log_base(self, v: Tensor) -> Tensor:
        return v.new_zeros(v.shape[:-1])

    def log_partition(self, eta: Tensor) -> Tensor:
        return softplus(eta).sum(-1)

    def mean(self, eta: Tensor) -> Tensor:
        return eta.sigmoid()

    def natural(self, mean: Tensor) -> Tensor:
        return mean.clamp(1e-4, 1 - 1e-4).logit()

    def sample(self, eta: Tensor) -> Tensor:
        return bernoulli(eta.sigmoid())

    def given(self, eta: Tensor, event_shape: Sequence[int]) -> Distribution:
        units = distributions.Bernoulli(logits=eta.unflatten(-1, event_shape), validate_args=False)
        return Independent(units, len(event_shape))


class Gaussian:
    """Real units with a fixed standard deviation, p(v|h) = N(v; σ η, σ²): statistic v/σ,
    log-partition η²/2.

    Args:
        scale: σ, in units of the data.

    Raises:
        ValueError: the scale is not positive.
    """

    def __init__(self, scale: float = 1.0):
        if not scale > 0:
            raise ValueError(
                f"scale={scale}: the standard deviation of Gaussian units must be positive;"
                " standardise the data and use 1."
            )
        self.scale = scale

    def statistic(self, v: Tensor) -> Tensor:
        return v / self.scale

    def log_base(self, v: Tensor) -> Tensor:
        constant = v.shape[-1] * math.log(self.scale * math.sqrt(2 * math.pi))
        return -(v / self.scale).square().sum(-1) / 2 - constant

    def log_partition(self, eta: Tensor) -> Tensor:
        return eta.square().sum(-1) / 2

    def mean(self, eta: Tensor) -> Tensor:
        return self.scale * eta

    def natural(self, mean: Tensor) -> Tensor:
        return mean / self.scale

    def sample(self, eta: Tensor) -> Tensor:
        return self.scale * (eta + torch.randn_like(eta))

    def given(self, eta: Tensor, event_shape: Sequence[int]) -> Distribution:
        mean = self.scale * eta.unflatten(-1, event_shape)
        return Independent(
            distributions.Normal(mean, self.scale, validate_args=False), len(event_shape)
        )


class Multinomial:
    """Counts over `states` outcomes, `count` of them in each group: one-hot vectors at 1, short
    documents above.

    The last dimension of an event is the outcomes; log-partition n log Σ exp η per group.

    Args:
        states: number of outcomes.
        count: total of each group.

    Raises:
        ValueError: fewer than two outcomes or no counts; from `given`, events whose last dimension
            is not the outcomes.

    References: Salakhutdinov and Hinton (2009), "Replicated softmax: an undirected topic model".
    """

    def __init__(self, states: int, count: int = 1):
        if states < 2 or count < 1:
            raise ValueError(
                f"states={states}, count={count}: multinomial units need two outcomes and one count"
                " at least."
            )
        self.states, self.count = states, count

    def statistic(self, v: Tensor) -> Tensor:
        return v

    def log_base(self, v: Tensor) -> Tensor:
        groups = self._groups(v)
        return (math.lgamma(self.count + 1) - (groups + 1).lgamma().sum(-1)).sum(-1)

    def log_partition(self, eta: Tensor) -> Tensor:
        return self.count * self._groups(eta).logsumexp(-1).sum(-1)

    def mean(self, eta: Tensor) -> Tensor:
        return self.count * self._groups(eta).softmax(-1).flatten(-2)

    def natural(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=1e-4).log()

    def sample(self, eta: Tensor) -> Tensor:
        groups = torch.distributions.Multinomial(
            self.count, logits=self._groups(eta), validate_args=False
        )
        return groups.sample().flatten(-2)

    def given(self, eta: Tensor, event_shape: Sequence[int]) -> Distribution:
        if tuple(event_shape)[-1:] != (self.states,):
            raise ValueError(
                f"multinomial units of states={self.states} in events of shape"
                f" {tuple(event_shape)}: the last dimension must be the outcomes; give states its"
                " size, or reshape the data."
            )
        logits = eta.unflatten(-1, event_shape)
        groups = distributions.Multinomial(self.count, logits=logits, validate_args=False)
        return Independent(groups, len(event_shape) - 1)

    def _groups(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (-1, self.states))
