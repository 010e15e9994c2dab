"""What sums and quadrature ask of a distribution: its support, where its mass lies, and log
densities outside the support too.
"""

from __future__ import annotations

__all__ = [
    "continuous_bernoulli_kl",
    "interval",
    "is_discrete",
    "log_density",
    "log_mass",
    "marks_of",
    "support_of",
]

import math
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Distribution,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    VonMises,
    constraints,
)
from torch.distributions.transforms import ComposeTransform
from torch.nn.functional import logsigmoid

_SPREAD = (
    0.0,
    1.0,
    3.0,
    8.0,
    40.0,
    200.0,
    1e3,
    1e4,
)  # standard deviations about a mean where panels of quadrature begin


def log_density(distribution: Distribution, x: Tensor) -> Tensor:
    """log density in float64, −1e300 (a zero that still subtracts) outside the support."""
    if isinstance(distribution, MixtureSameFamily):  # each component has a support of its own
        parts = distribution.component_distribution
        each = log_density(parts, x.unsqueeze(x.dim() - len(distribution.event_shape)))
        return (
            (each + distribution.mixture_distribution.logits.double().log_softmax(-1))
            .logsumexp(-1)
            .clamp_min(-1e300)
        )
    if isinstance(distribution, Independent) and isinstance(
        distribution.base_dist, ContinuousBernoulli
    ):
        dims = distribution.reinterpreted_batch_ndims
        each = log_density(distribution.base_dist, x)
        return each.sum(list(range(-dims, 0))).clamp_min(-1e300) if dims else each
    if isinstance(distribution, ContinuousBernoulli):
        logits, x = _logits(distribution), x.double()
        inside = (x >= 0) & (x <= 1)
        return torch.where(inside, x * logits + _log_normaliser(logits), -1e300)
    support = support_of(distribution)
    if support is None:
        return distribution.log_prob(x).double()
    inside = support.check(x)
    if bool(inside.all()):
        return distribution.log_prob(x).double().clamp_min(-1e300)
    event = inside.reshape(inside.shape + (1,) * (x.dim() - inside.dim()))
    legal = torch.where(event, x, _centre(distribution))
    return torch.where(inside, distribution.log_prob(legal).double(), -1e300).clamp_min(-1e300)


def log_mass(distribution: Distribution, letters: Tensor) -> Tensor:
    """log probabilities of 0, 1, 2, … from what was given, logits or probabilities.

    From one torch makes the other in the given precision: the rarer side of a logit of 40 is 0 to
    it, and a probability of 0 is 1e-7, which would hide an ∞.
    """
    if isinstance(distribution, Categorical):
        given, logits = _given(distribution)
        mass = (given if logits else _log(given)).movedim(-1, 0)
    elif isinstance(distribution, (Bernoulli, Binomial)):
        given, logits = _given(distribution)
        both = (logsigmoid(-given), logsigmoid(given)) if logits else (_log(1 - given), _log(given))
        if isinstance(distribution, Binomial):
            return _binomial(distribution.total_count.double(), letters, *both)
        mass = torch.stack(both)
    else:
        return log_density(distribution, letters)
    mass = mass.reshape(len(mass), *[1] * (letters.dim() - mass.dim()), *mass.shape[1:])
    beyond = mass.new_full((len(letters) - len(mass), *mass.shape[1:]), -1e300)
    return torch.cat([mass, beyond]).clamp_min(-1e300)


def continuous_bernoulli_kl(p: ContinuousBernoulli, q: ContinuousBernoulli) -> Tensor:
    """KL(p‖q) = (a − b) E_p[x] + L(a) − L(b) of p(x) = exp(a x + L(a)) on [0, 1], from the logits a
    and b.

    torch clamps the probabilities that it makes from logits, which is wrong from |a| = 15 on in
    float32 and 36 in float64.
    """
    a, b = _logits(p), _logits(q)
    return (a - b) * _mean(a) + _log_normaliser(a) - _log_normaliser(b)


def _logits(distribution: ContinuousBernoulli) -> Tensor:
    given, logits = _given(distribution)
    return given if logits else given.log() - torch.log1p(-given)


def _log_normaliser(a: Tensor) -> Tensor:
    """L(a) = log a/(eᵃ − 1) = log |a| − log(1 − e^−|a|) − max(a, 0); −a/2 − a²/24 about zero."""
    near = a.abs() < 1e-3
    far = torch.where(near, 1.0, a)
    size = far.abs()
    return torch.where(
        near, -a / 2 - a.square() / 24, size.log() - (-torch.expm1(-size)).log() - far.clamp_min(0)
    )


def _mean(a: Tensor) -> Tensor:
    """E[x] = 1/(1 − e^−a) − 1/a; ½ + a/12 − a³/720 about zero."""
    near = a.abs() < 1e-2
    far = torch.where(near, 1.0, a)
    size = far.abs()
    above = -1 / torch.expm1(-size) - 1 / size  # of |a|; of −|a| it is one less this
    return torch.where(near, 0.5 + a / 12 - a**3 / 720, torch.where(far > 0, above, 1 - above))


def _given(distribution: Any) -> tuple[Tensor, bool]:
    """What a distribution of outcomes was made from, in float64, and whether they are logits."""
    return distribution._param.double(), distribution._param is vars(distribution).get("logits")


def _log(probability: Tensor) -> Tensor:
    """log p, −1e300 of zero, which passes no gradient."""
    some = probability > 0
    return torch.where(some, torch.where(some, probability, 1.0).log(), -1e300)


def _binomial(n: Tensor, k: Tensor, log_no: Tensor, log_yes: Tensor) -> Tensor:
    """log C(n, k) + k log p + (n − k) log(1 − p), −1e300 beyond n."""
    held = k.clamp_max(n)  # 0 times the logarithm of zero is 0
    mass = (
        (n + 1).lgamma()
        - (held + 1).lgamma()
        - (n - held + 1).lgamma()
        + held * log_yes
        + (n - held) * log_no
    )
    return torch.where(k > n, -1e300, mass).clamp_min(-1e300)


def support_of(distribution: Distribution) -> Any:
    """The declared support; None of a distribution that declares none, such as a joint over a tuple
    of layers.
    """
    if isinstance(
        distribution, VonMises
    ):  # declared to be the line, on which its density comes again and again
        return constraints.interval(-math.pi, math.pi)
    try:
        return distribution.support
    except NotImplementedError:
        return None


def is_discrete(distribution: Distribution) -> bool | None:
    """Whether the support is discrete; None when the distribution does not say."""
    try:
        return getattr(support_of(distribution), "is_discrete", None)
    except NotImplementedError:
        return None


def interval(distribution: Distribution) -> tuple[float, float]:
    """The ends of a one-dimensional support; the line when it declares none."""
    support = support_of(distribution)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    low, high = (getattr(support, name, default) for name, default in
                 (("lower_bound", -math.inf), ("upper_bound", math.inf)))  # fmt: skip
    return float(torch.as_tensor(low).min()), float(torch.as_tensor(high).max())


def _centre(distribution: Distribution) -> Tensor:
    """A point of the support: the mean, or where the base's is taken by the transforms of what has
    none in closed form, or a draw.
    """
    if _lacks_mean(distribution):
        return _transformed(distribution, _centre(distribution.base_dist))
    try:
        mean = distribution.mean.nan_to_num()
    except NotImplementedError:
        return distribution.sample()
    return mean.round() if is_discrete(distribution) else mean


def _lacks_mean(distribution: Distribution) -> TypeGuard[TransformedDistribution]:
    return (
        isinstance(distribution, TransformedDistribution)
        and type(distribution).mean is Distribution.mean
    )


def _transformed(distribution: TransformedDistribution, x: Tensor) -> Any:
    return ComposeTransform(distribution.transforms)(x)


def marks_of(distribution: Distribution, spread: tuple[float, ...] = _SPREAD) -> Tensor:
    """Where the mass lies: means ± some standard deviations, of every component of a mixture."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if _lacks_mean(distribution):
        marks = _transformed(
            distribution, marks_of(distribution.base_dist, _SPREAD[:4])
        )  # exp would carry others too far
        return marks[marks.isfinite()]
    part = getattr(distribution, "component_distribution", distribution)
    if isinstance(part, ContinuousBernoulli):  # an exponential that is cut off at the other end
        logits = _logits(part)
        mean, sd = _mean(logits), 1 / (logits.abs() + 3)
    else:
        mean, sd = part.mean, part.variance.sqrt()
    if not (mean.isfinite().all() and sd.isfinite().all()):  # Cauchy and the like
        mean, sd = (
            getattr(part, name, torch.full_like(mean, default))
            for name, default in (("loc", 0.0), ("scale", 1.0))
        )
    away = torch.tensor(spread, dtype=mean.dtype, device=mean.device)
    return (mean[..., None] + sd[..., None] * torch.cat([-away, away])).flatten()
