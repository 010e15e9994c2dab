"""The two half-steps of wake-sleep: each descends one of the two KL divergences between q(x,z) and
p(x,z).
"""

__all__ = ["Sleep", "Wake"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emgen.objectives.base import Terms


@dataclass(frozen=True)
class Wake:
    """The M-projection: fit p to what the recognition model makes of the data, KL(p̂(x) q(z|x) ‖
    p(x, z)) over θ.

        loss = −E_p̂(x) E_q(z|x) [log p(x, z)]

    Args:
        samples: draws of z per datum.

    References: Hinton, Dayan, Frey and Neal (1995), "The wake-sleep algorithm for unsupervised
    neural networks".
    """

    samples: int = 1

    def __post_init__(self) -> None:
        if not self.samples >= 1:
            raise ValueError(
                f"samples={self.samples}: waking needs at least one draw of z; give an integer"
                " >= 1."
            )

    def __call__(self, model: Any, recognition: Any, x: Tensor) -> Terms:
        """Parts `wake` (the loss) and `elbo` = E_q[log p(x, z) − log q(z|x)]; x has shape (B,
        *event).
        """
        with torch.no_grad():
            q = recognition(x)
            z = q.sample((self.samples,))
            log_q = q.log_prob(z)
        log_joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)
        loss = -log_joint.mean()
        return Terms(loss, {"wake": loss, "elbo": (log_joint - log_q).mean()})


@dataclass(frozen=True)
class Sleep:
    """The reversed E-step: fit q to the model's dreams, KL(p(x, z) ‖ p(x) q(z|x)) over φ.

        loss = −E_p(x, z) [log q(z|x)]

    It stands in for the E-step with the KL turned round; its gradient needs no reparameterisation
    and no weights.

    References: Hinton, Dayan, Frey and Neal (1995), "The wake-sleep algorithm for unsupervised
    neural networks".
    """

    def __call__(self, model: Any, recognition: Any, dreams: int | tuple[Any, Tensor]) -> Terms:
        """Part `sleep` (the loss), over so many joint draws of the model, or over dreams (z, x)
        that are given.
        """
        if isinstance(dreams, int):
            with torch.no_grad():
                z = model.prior().sample((dreams,))
                x = model.likelihood(z).sample()
        else:
            z, x = dreams
        loss = -recognition(x).log_prob(z).mean()
        return Terms(loss, {"sleep": loss})
