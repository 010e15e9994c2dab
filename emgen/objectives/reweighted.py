"""The wake half-steps of reweighted wake-sleep: K draws of the recognition model, weighted towards
the posterior.
"""

__all__ = ["ReweightedWake"]

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from emgen.objectives.base import Terms


@dataclass(frozen=True)
class ReweightedWake:
    """Wake-θ and wake-φ from the same draws z_k ~ q(z|x), each counted by its share of the
    importance weights.

        w_k = p(x, z_k) / q(z_k|x),      w̃_k = w_k / Σ_j w_j
        loss = −E_p̂(x) Σ_k w̃_k log p(x, z_k)                 wake-θ: KL(p̂(x) p(z|x) ‖ p(x, z))
        over θ, as in EM
               −E_p̂(x) Σ_k w̃_k log q(z_k|x) · phi            wake-φ: KL(p(z|x) ‖ q(z|x)) over φ,
               on data

    θ is found in the first term alone and φ in the second, so one descent serves both. As K grows,
    Σ w̃_k δ(z_k) tends to the posterior and the gradient over θ to ∇ log p(x); K = 1 is the wake
    half-step of wake-sleep.

    Args:
        samples: draws K of z per datum.
        phi: weight of wake-φ; 0 leaves the recognition model to the sleep half-step.

    Raises:
        ValueError: samples below 1, a negative phi.

    References: Bornschein and Bengio (2015), "Reweighted wake-sleep".
    """

    samples: int = 5
    phi: float = 0.5

    def __post_init__(self) -> None:
        if not self.samples >= 1:
            raise ValueError(
                f"samples={self.samples}: waking needs at least one draw of z; give an integer"
                " >= 1."
            )
        if not 0 <= self.phi < math.inf:
            raise ValueError(
                f"phi={self.phi}: the weight of wake-φ must be finite and not negative."
            )

    def __call__(self, model: Any, recognition: Any, x: Float[Tensor, "batch *event"]) -> Terms:
        """Parts `wake`, `wake_phi`, `bound` = E log 1/K Σ_k w_k, `elbo` and `ess` (effective share
        of the K draws).
        """
        q = recognition(x)
        z = q.sample((self.samples,))
        log_joint, log_q = (
            model.prior().log_prob(z) + model.likelihood(z).log_prob(x),
            q.log_prob(z),
        )
        log_w = (log_joint - log_q).detach()
        share = log_w.softmax(0)
        wake, wake_phi = -(share * log_joint).sum(0).mean(), -(share * log_q).sum(0).mean()
        bound = (log_w.logsumexp(0) - math.log(self.samples)).mean()
        ess = (1 / share.square().sum(0)).mean() / self.samples
        parts = {
            "wake": wake,
            "wake_phi": wake_phi,
            "bound": bound,
            "elbo": log_w.mean(),
            "ess": ess,
        }
        return Terms(wake + self.phi * wake_phi if self.phi else wake, parts)
