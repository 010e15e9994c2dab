"""Critics: networks whose output is a log density ratio."""

__all__ = ["Beside", "Critic", "WithSquares", "convolutional_critic", "dense_critic"]

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
        pack: rows that it is shown at once, laid side by side in their first dimension; it gives
            one value for them, and sees in it how varied they are. Rows that are left over are not
            shown. (Lin, Khetan, Fanti and Oh, 2018, "PacGAN".)

    Raises:
        ValueError: pack below 1, or fewer rows than one pack.

    >>> Critic(MLP((2,), hidden=(8,)))(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(self, network: Any, spectral_norm: bool = False, pack: int = 1):
        super().__init__()
        if pack < 1:
            raise ValueError(f"pack={pack}: a critic is shown at least one row at once.")
        linear = nn.Linear(network.features, 1)
        self.network, self.log_ratio = (
            network,
            parametrizations.spectral_norm(linear) if spectral_norm else linear,
        )
        self.pack = pack

    def forward(self, x: Tensor) -> Tensor:
        shown = x if self.pack == 1 else packed(x, self.pack)
        return self.log_ratio(self.network(shown)).squeeze(-1)


def packed(x: Tensor, pack: int) -> Tensor:
    """Rows (B, C, ...) as packs (B / pack, pack C, ...) of those that stand side by side.

    >>> packed(torch.arange(10.0).view(5, 2), 2)
    tensor([[0., 1., 2., 3.],
            [4., 5., 6., 7.]])
    """
    packs = len(x) // pack
    if packs == 0:
        raise ValueError(
            f"{len(x)} rows are fewer than one pack of {pack}: give larger batches"
            " (data.batch_size, data.drop_last=true) or a smaller pack."
        )
    return x[: packs * pack].reshape(packs, pack * x.shape[1], *x.shape[2:])


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


class Beside(nn.Module):
    """Several things seen at once, an image and its code: each through a network of its own, then
    all through a layer that they share.

    Args:
        networks: one for each part of the event, each with its `event_shape` and its number of
            `features`.
        hidden: width of the shared layer.
        activation, spectral_norm: as in `emgen.models.deep.networks.MLP`.
    """

    def __init__(
        self,
        networks: Sequence[Any],
        hidden: int = 200,
        activation: str = "leaky_relu",
        spectral_norm: bool = False,
    ):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.sizes = [network.event_shape.numel() for network in networks]
        width = sum(network.features for network in networks)
        self.shared = MLP((width,), (hidden,), activation, spectral_norm)
        self.features = self.shared.features

    def forward(self, x: Tensor) -> Tensor:
        """Flat events (*batch, Σ D_i) → (*batch, features)."""
        networks: Any = self.networks
        parts = zip(networks, x.split(self.sizes, -1))
        seen = [
            network(part.reshape(*part.shape[:-1], *network.event_shape)) for network, part in parts
        ]
        return self.shared(torch.cat(seen, -1))


def dense_critic(
    event_shape: Sequence[Any],
    hidden: Sequence[int] = (200, 200),
    activation: str = "leaky_relu",
    spectral_norm: bool = False,
    squares: bool = False,
    pack: int = 1,
) -> Critic:
    """A fully connected critic; arguments as in `emgen.models.deep.networks.MLP`, and whether it is
    shown x² beside x, and how many rows at once.

    Of several things, an `event_shape` of shapes such as ((1, 28, 28), (50,)), it sees all numbers
    in one flat event (see `emgen.objectives.draws.beside`).
    """
    parts = parts_of(event_shape)
    if parts is not None:
        event_shape = (sum(torch.Size(part).numel() for part in parts),)
    shape = packed_shape(event_shape, pack)
    if not squares:
        return Critic(MLP(shape, hidden, activation, spectral_norm), spectral_norm, pack)
    network = MLP((2 * shape.numel(),), hidden, activation, spectral_norm)
    return Critic(WithSquares(network, len(shape)), spectral_norm, pack)


def convolutional_critic(
    event_shape: Sequence[Any],
    channels: Sequence[int] = (32, 64),
    activation: str = "leaky_relu",
    spectral_norm: bool = False,
    pack: int = 1,
) -> Critic:
    """A convolutional critic; arguments as in `emgen.models.deep.networks.ConvolutionalEncoder`.

    Of several things, an `event_shape` of shapes such as ((1, 28, 28), (50,)), it convolves the
    images and sees the vectors through a fully connected layer of 200.
    """
    parts = parts_of(event_shape)
    if parts is None:
        shape = packed_shape(event_shape, pack)
        encoder = ConvolutionalEncoder(shape, channels, activation, spectral_norm)
        return Critic(encoder, spectral_norm, pack)
    if pack > 1 and len(parts) > 1:
        raise ValueError(
            f"pack={pack}: a convolutional critic packs images or codes, not pairs of them; use"
            " critic=dense."
        )
    if len(parts) == 1:
        return dense_critic(parts[0], (200, 200), activation, spectral_norm, pack=pack)

    networks = [
        MLP(part, (200,), activation, spectral_norm)
        if len(part) == 1
        else ConvolutionalEncoder(part, channels, activation, spectral_norm)
        for part in parts
    ]
    beside = Beside(networks, activation=activation, spectral_norm=spectral_norm)
    return Critic(beside, spectral_norm)


def packed_shape(event_shape: Sequence[int], pack: int) -> torch.Size:
    """The shape of so many events side by side in their first dimension."""
    if pack < 1:
        raise ValueError(f"pack={pack}: a critic is shown at least one row at once.")
    first, *rest = event_shape
    return torch.Size((pack * first, *rest))


def parts_of(event_shape: Sequence[Any]) -> list[tuple[int, ...]] | None:
    """The shapes of several things seen at once, ((1, 8, 8), (10,)); None for the shape of one."""
    shapes = list(event_shape)
    if not shapes or isinstance(shapes[0], int):
        return None
    return [tuple(part) for part in shapes]
