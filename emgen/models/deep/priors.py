"""Priors over a latent vector: modules whose forward pass returns p(z)."""

__all__ = ["GaussianMixturePrior", "ReparameterisedMixture", "StandardNormal"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from emgen.distributions import UnitNormal


class StandardNormal(nn.Module):
    """p(z) = N(0, I).

    Args:
        latent: size of z.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: int):
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent), persistent=False)
        self.register_buffer("scale", torch.ones(latent), persistent=False)

    def forward(self) -> Distribution:
        return Independent(UnitNormal(self.loc, self.scale, validate_args=False), 1)


class GaussianMixturePrior(nn.Module):
    """A learnt prior p(z) = Σ_k π_k N(z; μ_k, diag σ_k²).

    Args:
        latent: size of z.
        components: K.
        spread: standard deviation of the means at the start.

    References: Dilokthanakul et al. (2016), "Deep unsupervised clustering with Gaussian mixture
    variational autoencoders".
    """

    def __init__(self, latent: int, components: int = 10, spread: float = 1.0):
        super().__init__()
        if components < 1:
            raise ValueError(f"components={components}: a mixture has at least one component.")
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(spread * torch.randn(components, latent))
        self.log_scales = nn.Parameter(torch.zeros(components, latent))

    def forward(self) -> Distribution:
        components = Independent(Normal(self.means, self.log_scales.exp(), validate_args=False), 1)
        return ReparameterisedMixture(
            Categorical(logits=self.logits, validate_args=False), components, validate_args=False
        )


class ReparameterisedMixture(MixtureSameFamily):
    """A mixture with `rsample`: the component is drawn, the point within it is reparameterised.

    The gradient reaches the drawn component's mean and scale, not the weights: an adversarial
    trainer leaves those be.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape)
        component = self.mixture_distribution.sample(shape)
        draws = self.component_distribution.rsample(shape)
        index = component.reshape(*component.shape, *(1,) * (1 + len(self.event_shape)))
        where = len(shape) + len(self.batch_shape)
        return draws.gather(where, index.expand(*component.shape, 1, *self.event_shape)).squeeze(
            where
        )
