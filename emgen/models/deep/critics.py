"""Critics: networks whose output is a log density ratio."""

__all__ = ["Critic", "WithSquares", "convolutional_critic", "dense_critic"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from emgen.models.deep.networks import MLP, ConvolutionalEncoder


class Critic(nn.Module):
    """v(x) = log p̂(x)/p(x), estimated by a network; the divergence turns v into its dual variable
    f′(eᵛ).

    Args:
        network: (*batch, *event) → (*batch, features), with the number of `features` as an
            attribute.
        spectral_norm: divide the last layer's weight too by its largest singular value, for a
            critic that is all Lipschitz.

    >>> Critic(MLP((2,), hidden=(8,)))(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(self, network: Any, spectral_norm: bool = False):
        super().__init__()
        linear = nn.Linear(network.features, 1)
        self.network, self.log_ratio = (
            network,
            parametrizations.spectral_norm(linear) if spectral_norm else linear,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.log_ratio(self.network(x)).squeeze(-1)


class WithSquares(nn.Module):
    """A network that is shown x and x², of which the log ratio of two Gaussians is linear.

    Args:
        network: takes vectors of twice the size of x, with the number of `features` as an
            attribute.
        event_dims: dimensions of x that are one event.
    """

    def __init__(self, network: Any, event_dims: int):
        super().__init__()
        self.network, self.event_dims, self.features = network, event_dims, network.features

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(-self.event_dims)
        return self.network(torch.cat([flat, flat.square()], -1))


def dense_critic(
    event_shape: Sequence[int],
    hidden: Sequence[int] = (200, 200),
    activation: str = "leaky_relu",
    spectral_norm: bool = False,
    squares: bool = False,
) -> Critic:
    """A fully connected critic; arguments as in `emgen.models.deep.networks.MLP`, and whether it is
    shown x² beside x.
    """
    if not squares:
        return Critic(MLP(event_shape, hidden, activation, spectral_norm), spectral_norm)
    network = MLP((2 * torch.Size(event_shape).numel(),), hidden, activation, spectral_norm)
    return Critic(WithSquares(network, len(tuple(event_shape))), spectral_norm)


def convolutional_critic(
    event_shape: Sequence[int],
    channels: Sequence[int] = (32, 64),
    activation: str = "leaky_relu",
    spectral_norm: bool = False,
) -> Critic:
    """A convolutional critic; arguments as in `emgen.models.deep.networks.ConvolutionalEncoder`."""
    return Critic(
        ConvolutionalEncoder(event_shape, channels, activation, spectral_norm), spectral_norm
    )
