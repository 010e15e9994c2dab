"""Feature networks: everything between an event and a head."""

__all__ = ["MLP", "ConvolutionalDecoder", "ConvolutionalEncoder", "activation_named"]

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}


class MLP(nn.Module):
    """A fully connected network over flattened events, (*batch, *event) → (*batch, features).

    Args:
        event_shape: shape of one input.
        hidden: widths of the hidden layers; the last is the number of features. Empty passes the
            flat event on.
        activation: relu, tanh, leaky_relu, silu, softplus or gelu.
        spectral_norm: divide each weight by its largest singular value (Miyato et al., 2018,
            "Spectral normalization for generative adversarial networks").
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        spectral_norm: bool = False,
    ):
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        widths = [torch.Size(event_shape).numel(), *check_widths(hidden)]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            linear = nn.Linear(inputs, outputs)
            layers += [
                nn.utils.parametrizations.spectral_norm(linear) if spectral_norm else linear,
                activation_named(activation),
            ]
        self.layers, self.features = nn.Sequential(*layers), widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape)
        return self.layers(x.flatten(-len(self.event_shape)) if len(self.event_shape) > 1 else x)


class ConvolutionalEncoder(nn.Module):
    """Strided 4×4 convolutions, each halving the image, (*batch, C, H, W) → (*batch, features).

    Args:
        event_shape: (C, H, W); H and W are zero-padded up to a multiple of 2^len(channels).
        channels: output channels of each convolution.
        activation: relu, tanh, leaky_relu, silu, softplus or gelu.
        spectral_norm: divide each weight by its largest singular value (Miyato et al., 2018).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        activation: str = "leaky_relu",
        spectral_norm: bool = False,
    ):
        super().__init__()
        shape, padded = image_shape(event_shape, len(tuple(channels)))
        widths = [shape[0], *check_widths(channels)]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            convolution = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
            layers += [
                (
                    nn.utils.parametrizations.spectral_norm(convolution)
                    if spectral_norm
                    else convolution
                ),
                activation_named(activation),
            ]
        scale = 2 ** len(tuple(channels))
        self.event_shape, self.pad = (
            torch.Size(shape),
            (0, padded[1] - shape[2], 0, padded[0] - shape[1]),
        )
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.features = widths[-1] * (padded[0] // scale) * (padded[1] // scale)

    def forward(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape)
        batch = x.shape[:-3]
        return self.layers(nn.functional.pad(x.reshape(-1, *x.shape[-3:]), self.pad)).unflatten(
            0, batch
        )


class ConvolutionalDecoder(nn.Module):
    """Strided 4×4 transposed convolutions, each doubling the image, (*batch, latent) → (*batch,
    features).

    The features are the flat image of the last convolution, to which a head adds its own map.

    Args:
        latent: size of z.
        event_shape: (C, H, W) of the image that the head emits.
        channels: input channels of each transposed convolution.
        activation: relu, tanh, leaky_relu, silu, softplus or gelu.
    """

    def __init__(
        self,
        latent: int,
        event_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        activation: str = "relu",
    ):
        super().__init__()
        shape, padded = image_shape(event_shape, len(tuple(channels)))
        scale = 2 ** len(tuple(channels))
        self.shape, self.base = (
            shape,
            (check_widths(channels)[0], padded[0] // scale, padded[1] // scale),
        )
        self.lift = nn.Linear(latent, torch.Size(self.base).numel())
        widths = [*channels, shape[0]]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                activation_named(activation),
                Doubling(inputs, outputs),
            ]
        self.layers, self.features = nn.Sequential(*layers), torch.Size(shape).numel()

    def forward(self, z: Tensor) -> Tensor:
        base = self.lift(z).reshape(-1, *self.base)
        if _scores_on_cpu(base):  # a quarter of a convolution's time, which backwards takes again
            base = base.contiguous(memory_format=torch.channels_last)
        image = self.layers(base)[..., : self.shape[1], : self.shape[2]]
        return image.reshape(*z.shape[:-1], self.features)


class Doubling(nn.ConvTranspose2d):
    """The 4×4 transposed convolution that doubles an image, (N, C, H, W) → (N, C', 2H, 2W).

    To few channels a CPU takes it three times as fast as one product and a sum of shifted images,

        y = Σ_k shift_k(W_kᵀ x),   k = 1 … 16

    which backwards costs what it saved; so it does where no gradient is asked for.

    Args:
        inputs, outputs: numbers of channels.
    """

    FEW = 4

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.out_channels > self.FEW or not _scores_on_cpu(input):
            return super().forward(input, output_size)
        size = [2 * side for side in input.shape[2:]]
        columns = input.permute(0, 2, 3, 1).flatten(1, 2) @ self.weight.flatten(1)
        image = nn.functional.fold(columns.mT, tuple(size), self.kernel_size, padding=1, stride=2)
        return image if self.bias is None else image + self.bias.view(-1, 1, 1)


def _scores_on_cpu(x: Tensor) -> bool:
    """Whether a forward pass is all that is asked for, in the processor's own precision."""
    exact = x.dtype in (torch.float32, torch.float64)
    return exact and x.device.type == "cpu" and not torch.is_grad_enabled()


def activation_named(name: str) -> nn.Module:
    """The module of an activation's name."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation={name!r} is not one of {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]()


def check_event(x: Tensor, event_shape: torch.Size) -> None:
    """Refuse what a network of real weights cannot read.

    Raises:
        ValueError: x is not (*batch, *event_shape), or of integers.
    """
    if x.shape[x.dim() - len(event_shape) :] != event_shape:
        raise ValueError(
            f"a network for events of shape {tuple(event_shape)} was given {tuple(x.shape)}: build"
            " it with the event_shape of the data, or reshape the data."
        )
    if not x.is_floating_point():
        raise ValueError(
            f"a network was given {x.dtype}: give it floats, such as x.float(), or x / 255 for"
            " bytes (data.dtype=float32)."
        )


def check_widths(widths: Sequence[int]) -> list[int]:
    """The widths of layers as a list, all positive."""
    if any(width < 1 for width in widths):
        raise ValueError(f"layer widths {list(widths)} must all be positive integers.")
    return list(widths)


def image_shape(
    event_shape: Sequence[int], halvings: int
) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """(C, H, W) and the height and width rounded up to a multiple of 2^halvings."""
    if len(tuple(event_shape)) == 2:
        height, width = event_shape
        raise ValueError(
            "a convolutional network needs images of shape (channels, height, width), and"
            f" {tuple(event_shape)} lacks the axis of channels: store rows as (N, 1, {height},"
            f" {width}), such as x[:, None], or use model=dense for other data."
        )
    if len(tuple(event_shape)) != 3:
        raise ValueError(
            "a convolutional network needs images of shape (channels, height, width), not"
            f" {tuple(event_shape)}: use model=dense for other data."
        )
    channels, height, width = event_shape
    multiple = 2**halvings
    return (channels, height, width), (
        -(-height // multiple) * multiple,
        -(-width // multiple) * multiple,
    )
