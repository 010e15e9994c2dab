"""How many draws a score may take, counted beforehand, and what is said with no more of them.

    draws · flops(z → p(x|z)) ≤ ½ · 3 · rows · flops(x → q(z|x), z → p(x|z))

On the right stands half an epoch of training: a gradient costs about two forward passes more. Sizes
are counted, never seconds, so the same request takes the same draws everywhere.
"""

__all__ = ["Phases", "affordable", "in_two_phases"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from emgen.evaluation.likelihood import Estimate, evaluating
from emgen.roles import Latent, Recognition, serves

SHARE = 0.5  # of an epoch
FREE = 2e10  # floating-point operations that nobody waits for: a fraction of a second of one core
LEAST = 32  # data of the second phase, from which an error can be told


@dataclass(frozen=True)
class Phases:
    """Many draws z ~ q(z|x) for some data, few for the others, within a number of draws.

    Args:
        n: data that are scored.
        samples: K, draws for each of `fine` data.
        few: draws for each of the others.
        fine: how many data have all K; n where the budget has room for all.
    """

    n: int
    samples: int
    few: int
    fine: int

    @classmethod
    def within(cls, n: int, samples: int, budget: int | None) -> "Phases":
        """Half of the budget for few draws of every datum, half for K draws of some.

        Each datum has one draw and LEAST of them have K, whatever the budget.

        >>> Phases.within(10_000, 200, 140_000)
        Phases(n=10000, samples=200, few=7, fine=362)
        >>> Phases.within(100, 200, 140_000)
        Phases(n=100, samples=200, few=200, fine=100)
        """
        if budget is None or n * samples <= budget:
            return cls(n, samples, samples, n)
        few = min(samples, max(1, budget // 2 // n))
        fine = max(LEAST, (budget - n * few) // max(1, samples - few))
        return cls(n, samples, few, min(n, fine))

    @property
    def draws(self) -> int:
        """Draws in all."""
        return self.fine * self.samples + (self.n - self.fine) * self.few

    def chosen(self) -> Tensor:
        """Which data have all K draws: evenly spread, for data often lie in an order."""
        return torch.arange(self.fine) * self.n // self.fine

    def __str__(self) -> str:
        if self.fine == self.n:
            return f"K={self.samples}"
        return f"K={self.samples} of {self.fine:,} and K={self.few} of {self.n:,} data"


def affordable(model: Any, x: Tensor, rows: int) -> int | None:
    """Draws of z that cost less than half an epoch of training, or than a fraction of a second;
    None where the model is not scored by draws, or its cost cannot be counted.

    Args:
        model: prior(), likelihood(z) and recognition(x).
        x: data, (N, *event), of which one is asked for.
        rows: that an epoch trains on.
    """
    if not (serves(model, Latent) and serves(model, Recognition)) or len(x) == 0:
        return None
    with evaluating(model, 0):
        with FlopCounterMode(display=False) as encoding:
            q = model.recognition(x[:1])
        z = q.sample(torch.Size((1,)))
        with FlopCounterMode(display=False) as decoding:
            model.likelihood(z)
    encoded, decoded = encoding.get_total_flops(), decoding.get_total_flops()
    if decoded == 0:
        return None
    epoch = 3 * rows * (encoded + decoded)
    return int(max(SHARE * epoch, FREE) // decoded)


def in_two_phases(
    coarse: Tensor, beside: Tensor, fine: Tensor, method: str, ess: Tensor | None = None
) -> Estimate:
    """The mean of what K draws say of all data, from few draws of all and K draws of some.

        mean_N(c) + mean_n(f − c)        error² = var(f)/N + var(f − c) (1/n − 1/N)

    The n data are evenly spread among the N. Whatever c is, the mean is that of f: a poor c widens
    the error and shifts nothing.

    Args:
        coarse: c, what few draws say of each of all data, (N).
        beside: c of the data that have K draws, (n).
        fine: f, what K draws say of those, (n).
        method: how it was measured, in words.
        ess: effective sample sizes of their weights, (n).

    References: Cochran (1977), "Sampling Techniques", chapter 12, double sampling.
    """
    if len(fine) == len(coarse):
        return Estimate.over(fine, method, ess)
    coarse, beside, fine = coarse.double(), beside.double(), fine.double()
    change = fine - beside
    total, some = len(coarse), len(fine)
    error = math.nan
    if some > 1:
        variance = fine.var() / total + change.var() * (1 / some - 1 / total)
        error = variance.sqrt().item()
    value = (coarse.mean() + change.mean()).item()
    return Estimate(value, error, method, None if ess is None else ess.double().mean().item())
