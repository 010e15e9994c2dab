"""The free energy of discrete latents through relaxed draws: low variance, for a bias or for
another model.
"""

__all__ = ["Relaxed"]

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from emgen.distributions import relaxed
from emgen.objectives.base import Terms


@dataclass(frozen=True)
class Relaxed:
    """Descend −F through draws that are relaxed, so that the ELBO of discrete latents is
    differentiated like a VAE's.

        F = E[log p(x, z) − log q(z|x)],   z a Gumbel-softmax or binary concrete draw of q(z|x)

    Hard draws are exact, so `elbo` is a true bound, but their gradient is that of the soft ones
    (straight-through, biased). Soft draws have their own exact gradient, of a value that is no
    bound on log p(x).

    Args:
        temperature: of the relaxation; smaller is less biased and noisier.
        hard: draw exactly, with the soft gradient.
        samples: draws of z per datum.

    Raises:
        ValueError: a temperature that is not positive, samples below 1.

    References: Maddison, Mnih and Teh (2017), "The concrete distribution"; Jang, Gu and Poole
    (2017), "Categorical reparameterization with Gumbel-softmax".
    """

    temperature: float = 0.5
    hard: bool = True
    samples: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature}: a relaxation needs a positive, finite"
                " temperature."
            )
        if not self.samples >= 1:
            raise ValueError(
                f"samples={self.samples}: the bound needs at least one draw of z; give an integer"
                " >= 1."
            )

    def __call__(self, model: Any, recognition: Any, x: Float[Tensor, "batch *event"]) -> Terms:
        """Part `elbo` of hard draws, `relaxed_elbo` of soft ones."""
        q = recognition(x)
        z = relaxed(q, (self.samples,), temperature=self.temperature, hard=self.hard)
        elbo = (model.prior().log_prob(z) + model.likelihood(z).log_prob(x) - q.log_prob(z)).mean()
        return Terms(-elbo, {"elbo" if self.hard else "relaxed_elbo": elbo})
