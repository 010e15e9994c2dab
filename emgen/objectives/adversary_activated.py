"""The adversary-activated ELBO: data and dreams, each counted by how real the critic takes it for."""

__all__ = ["AdversaryActivated"]

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from emgen.objectives.base import Terms
from emgen.objectives.free_energy import kl_term


@dataclass(frozen=True)
class AdversaryActivated:
    """Descend −E_{p̂(x)} D(x) F(x) − E_{p(x̃)} D(x̃) F(x̃), with D = σ(v) and the dreams held still.

    The VAE is the case of a perfect discriminator, D = 1 on data and 0 on dreams. One that errs
    takes dreams for data, which are more rows to learn from, and data for dreams.

    References: Hu, Yang, Salakhutdinov and Xing (2018), "On unifying deep generative models",
    equation 17.
    """

    def __call__(
        self,
        model: Any,
        recognition: Any,
        critic: Any,
        x: Float[Tensor, "batch *event"],
        dreams: Float[Tensor, "dreams *event"],
    ) -> Terms:
        """Parts `elbo` of the data, and the mean D of data and of dreams.

        Args:
            model: p(z) p(x|z).
            recognition: x → q(z|x).
            critic: (B, *event) → v of shape (B,).
            x, dreams: data, and draws of the model.
        """
        of_data = _bounds(model, recognition, x)
        of_dreams = _bounds(model, recognition, dreams)
        real, taken = critic(x).detach().sigmoid(), critic(dreams).detach().sigmoid()
        loss = -(real * of_data).mean() - (taken * of_dreams).mean()
        parts = {
            "elbo": of_data.mean(),
            "weight_data": real.mean(),
            "weight_dreams": taken.mean(),
        }
        return Terms(loss, parts)


def _bounds(model: Any, recognition: Any, x: Tensor) -> Tensor:
    """F(x) = E_q log p(x|z) − KL(q ‖ p(z)) of each row, from one draw of z."""
    q, prior = recognition(x), model.prior()
    z = q.rsample()
    return model.likelihood(z).log_prob(x) - kl_term(q, prior, lambda: z)
