"""The free energy of discrete latents by score-function gradients: unbiased, with baselines from
the other draws.
"""

__all__ = ["VIMCO", "ScoreFunction"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emgen.objectives.base import Terms


@dataclass(frozen=True)
class ScoreFunction:
    """Descend −F with the score-function gradient over φ, each draw's baseline being the mean of
    the others.

        F        = E_q[log w],   w = p(x, z) / q(z|x)
        ∇_φ F    = E 1/K Σ_k (log w_k − 1/(K−1) Σ_{j≠k} log w_j) ∇_φ log q(z_k|x)          unbiased

    Args:
        samples: draws K of z per datum, at least 2.

    Raises:
        ValueError: samples below 2, for a baseline needs another draw.

    References: Mnih and Gregor (2014), "Neural variational inference and learning in belief
    networks"; Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for
    free!".
    """

    samples: int = 5

    def __post_init__(self) -> None:
        _check_samples(self.samples)

    def __call__(self, model: Any, recognition: Any, x: Float[Tensor, "batch *event"]) -> Terms:
        """Parts `elbo` = F and `bound` = F_K over the K draws."""
        log_joint, log_q = _draws(model, recognition, x, self.samples)
        log_w = (log_joint - log_q).detach()
        signal = (log_w - log_w.mean(0)) / (self.samples - 1)  # K/(K−1) (log w_k − mean), over K
        return Terms(-log_joint.mean() - (signal * log_q).sum(0).mean(), _parts(log_w))


@dataclass(frozen=True)
class VIMCO:
    """Descend −F_K, the bound of K draws, with a score-function gradient whose baseline leaves one
    draw out.

        F_K      = E[L],   L = log 1/K Σ_k w_k                                  F ≤ F_K ≤ log p(x)
        ∇ F_K    = E Σ_k [ w̃_k ∇ log w_k + (L − L₋ₖ) ∇_φ log q(z_k|x) ]         unbiased

    where L₋ₖ is L with w_k replaced by the geometric mean of the other weights.

    Args:
        samples: draws K of z per datum, at least 2.

    Raises:
        ValueError: samples below 2, for a baseline needs another draw.

    References: Mnih and Rezende (2016), "Variational inference for Monte Carlo objectives".
    """

    samples: int = 5

    def __post_init__(self) -> None:
        _check_samples(self.samples)

    def __call__(self, model: Any, recognition: Any, x: Float[Tensor, "batch *event"]) -> Terms:
        """Parts `bound` = F_K and `elbo` = F."""
        log_joint, log_q = _draws(model, recognition, x, self.samples)
        log_w = log_joint - log_q
        bound = log_w.logsumexp(0) - math.log(self.samples)
        signal = (bound - _leave_one_out(log_w)).detach()
        return Terms(-(bound + (signal * log_q).sum(0)).mean(), _parts(log_w.detach()))


def _draws(model: Any, recognition: Any, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """log p(x, z_k) and log q(z_k|x) of draws without gradient, each (samples, batch)."""
    q = recognition(x)
    z = q.sample((samples,))
    return model.prior().log_prob(z) + model.likelihood(z).log_prob(x), q.log_prob(z)


def _leave_one_out(log_w: Tensor) -> Tensor:
    """L₋ₖ = log 1/K (Σ_{j≠k} w_j + Π_{j≠k} w_j^{1/(K−1)}) for each k, (samples, batch)."""
    k = len(log_w)
    others = (log_w.sum(0) - log_w) / (k - 1)
    diagonal = torch.eye(k, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    return torch.where(diagonal, others.unsqueeze(0), log_w.unsqueeze(1)).logsumexp(0) - math.log(k)


def _parts(log_w: Tensor) -> dict[str, Tensor]:
    return {"elbo": log_w.mean(), "bound": (log_w.logsumexp(0) - math.log(len(log_w))).mean()}


def _check_samples(samples: int) -> None:
    if not samples >= 2:
        raise ValueError(
            f"samples={samples}: a leave-one-out baseline needs another draw; give an integer >= 2."
        )
