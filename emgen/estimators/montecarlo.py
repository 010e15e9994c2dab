"""Monte Carlo means of weights kept as logarithms, with their errors."""

__all__ = ["LogMean", "log_mean_exp"]

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LogMean:
    """The logarithm of a mean of positive weights, log 1/n Σ w_i, with what is needed to judge it.

    Args:
        value: log of the mean, in nats, of any shape.
        error: standard error of `value` by the delta rule, sd(w) / (√n mean(w)); it is honest while
            `ess` is large, and with less than about ten a lower bound, for the weights that matter
            may not have been drawn.
        ess: effective sample size (Σw)² / Σw², from 1 (one weight holds all the mass) to n (all
            alike).

    >>> print(LogMean(torch.tensor(23.2581), torch.tensor(0.0123), torch.tensor(812.)))
    23.258 ± 0.012 (ESS 812)
    """

    value: Tensor
    error: Tensor
    ess: Tensor

    def __str__(self) -> str:
        if self.value.dim():
            return (
                f"LogMean of shape {tuple(self.value.shape)}, mean {self.value.mean():.4f}, least"
                f" ESS {self.ess.min():.1f}"
            )
        digits = (
            3 if not 0 < self.error < 1 else max(1 - math.floor(math.log10(float(self.error))), 2)
        )
        error = f"{self.error:.{digits}f}" if not self.error > 1e4 else f"{self.error:.0e}"
        few = ", too few to trust the error" if self.ess < 10 else ""
        return f"{self.value:.{digits}f} ± {error} (ESS {self.ess:.0f}{few})"

    def plus(self, constant: Tensor | float) -> "LogMean":
        """The same estimate with its weights multiplied by exp(constant)."""
        return LogMean(self.value + constant, self.error, self.ess)

    def reciprocal(self) -> "LogMean":
        """The logarithm of one over the mean."""
        return LogMean(-self.value, self.error, self.ess)


def log_mean_exp(log_w: Float[Tensor, "n *batch"]) -> LogMean:
    """log 1/n Σ exp(log_w_i) over the first dimension, with its error and effective sample size.

    The delta rule gives Var(log w̄) ≈ Var(w) / (n w̄²) = (n / ESS − 1) / (n − 1).

    Raises:
        ValueError: no weights, all of them zero (log_w = −∞), or one that is infinite or not a
            number.

    >>> log_mean_exp(torch.tensor([0., math.log(3.)])).value.exp()
    tensor(2.)
    """
    n = len(log_w)
    if n == 0:
        raise ValueError(
            "log_mean_exp of no weights: expected a tensor of at least one along its first"
            " dimension."
        )
    total = log_w.logsumexp(0)
    if bool((total == -torch.inf).any()):
        raise ValueError(
            "all weights are zero (log_w = -inf): the draws never meet the target; choose a base"
            " with the target's support."
        )
    if not bool(total.isfinite().all()):
        raise ValueError(
            "a weight is infinite or not a number: the densities must be finite, and the base's"
            " positive, where draws fall; look for parameters that are not numbers."
        )
    ess = (2 * total - (2 * log_w).logsumexp(0)).exp()
    error = (
        ((n / ess - 1).clamp(min=0) / (n - 1)).sqrt() if n > 1 else torch.full_like(ess, torch.nan)
    )
    return LogMean(total - math.log(n), error, ess)
