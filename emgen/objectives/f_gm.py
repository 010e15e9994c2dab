"""The f-divergence of two joints with a structured critic: VAE and f-GAN are its special cases."""

__all__ = ["FGM"]

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from emgen.divergences import FDivergence, JensenShannon
from emgen.objectives.base import Terms


@dataclass(frozen=True)
class FGM:
    """D_f(p̂(x) q(z|x) ‖ p(x,z)) from below, by a critic that knows all of the log ratio but p̂.

        v(x,z) = log d(x) + log q(z|x) − log p(z) − log p(x|z)
        bound  = E_{p̂ q}[f′(eᵛ)] − E_p[f*(f′(eᵛ))]  ≤  D_f(p̂ q ‖ p),   tight at d = p̂

    d ascends the bound, model and recognition descend it. Under KL the second term is ∫d, no
    function of the players, so they follow the gradient of −ELBO whatever d is: the VAE. Where q is
    the exact posterior v = log d(x)/p(x), and the bound is that of an f-GAN.

    Args:
        divergence: the f-divergence. KL's and Pearson's prices are powers of eᵛ, and v is tens of
            nats on images: keep to bounded ones there, such as Jensen-Shannon.

    Raises:
        TypeError: the divergence is none, or p(x|z) or q(z|x) has no density that can be
            reparameterised.

    References: Gimenez and Zou (2022), "A unified f-divergence framework generalizing VAE and GAN".
    """

    divergence: Any = field(default_factory=JensenShannon)

    def __post_init__(self) -> None:
        if not isinstance(self.divergence, FDivergence):
            raise TypeError(
                f"divergence={self.divergence!r} is no f-divergence; give an instance of a subclass"
                " of emgen.divergences.FDivergence, such as JensenShannon()."
            )

    def __call__(self, model: Any, recognition: Any, critic: Any, x: Tensor) -> Terms:
        """The players' side: loss `bound`, of which the critic ascends the negative.

        Args:
            model: p(z) p(x|z), with p(x|z) of real values.
            recognition: x → q(z|x).
            critic: x → log d(x), (B, *event) → (B,).
            x: data (B, *event).
        """
        q, prior = recognition(x), model.prior()
        z = _reparameterised(q, "q(z|x)")
        dreamt_from = prior.rsample((len(x),))
        dream = _reparameterised(model.likelihood(dreamt_from), "p(x|z)")

        on_data = self.log_ratio(critic, model, q, x, z)
        on_dreams = self.log_ratio(critic, model, recognition(dream), dream, dreamt_from)
        bound = self.bound(on_data, on_dreams)
        parts = {
            "bound": bound,
            "log_ratio_data": on_data.mean(),
            "log_ratio_model": on_dreams.mean(),
        }
        return Terms(bound, parts)

    def log_ratio(self, critic: Any, model: Any, q: Distribution, x: Tensor, z: Any) -> Tensor:
        """v(x, z), of q = q(z|x)."""
        log_joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)
        return critic(x) + q.log_prob(z) - log_joint

    def bound(self, on_data: Tensor, on_dreams: Tensor) -> Tensor:
        """The bound, of v on draws of p̂(x) q(z|x) and of p(x,z)."""
        f = self.divergence
        return f.activation(on_data).mean() - f.conjugate_of_activation(on_dreams).mean()


def _reparameterised(p: Distribution, name: str) -> Tensor:
    if not p.has_rsample:
        raise TypeError(
            f"{name} is {type(p).__name__}, whose draws carry no gradient: f-GM needs densities of"
            " real values on both sides, such as model=dense_gaussian."
        )
    return p.rsample()
