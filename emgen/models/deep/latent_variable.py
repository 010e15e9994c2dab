"""The deep latent variable model: a prior, a decoder and an encoder, each a module that returns a
distribution.
"""

__all__ = ["Conditional", "DeepLatentModel", "convolutional", "dense"]

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from emgen.models import heads
from emgen.models.deep import priors
from emgen.models.deep.networks import MLP, ConvolutionalDecoder, ConvolutionalEncoder

Head = Callable[[int, Sequence[int]], nn.Module]


class Conditional(nn.Module):
    """A conditional distribution: a feature network and the head that turns its features into a
    distribution.

    >>> q = Conditional(MLP((4,), hidden=(8,)), heads.Gaussian(8, (2,)))
    >>> q(torch.zeros(3, 4)).batch_shape, q(torch.zeros(3, 4)).event_shape
    (torch.Size([3]), torch.Size([2]))
    """

    def __init__(self, network: nn.Module, head: nn.Module):
        super().__init__()
        self.network, self.head = network, head

    def forward(self, x: Tensor) -> Distribution:
        return self.head(self.network(x))


class DeepLatentModel(nn.Module):
    """p(x, z) = p(z) p(x|z) with the recognition network q(z|x) beside it.

    Any trainer takes it: `prior()` and `likelihood(z)` serve likelihood methods, `rsample(n)`
    serves adversarial ones, and `recognition` is the encoder that either kind trains.

    Args:
        prior: () → p(z).
        decoder: z → p(x|z).
        recognition: x → q(z|x), or None for a model without an encoder.
    """

    def __init__(self, prior: nn.Module, decoder: nn.Module, recognition: nn.Module | None = None):
        super().__init__()
        self._prior, self.decoder, self.recognition = prior, decoder, recognition

    def prior(self) -> Distribution:
        """p(z), with a batch shape of ()."""
        return self._prior()

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z) for z of shape (*batch, latent)."""
        return self.decoder(z)

    def rsample(self, n: int) -> Tensor:
        """`n` differentiable samples (n, *event): reparameterised where p(x|z) can be, else the
        mean of p(x|z).
        """
        likelihood = self.likelihood(self.prior().rsample((n,)))
        return likelihood.rsample() if likelihood.has_rsample else likelihood.mean

    def sample(self, n: int) -> Tensor:
        """`n` draws x ~ p(x), without gradient."""
        with torch.no_grad():
            return self.likelihood(self.prior().sample((n,))).sample()


def dense(
    event_shape: Sequence[int],
    latent: int = 50,
    hidden: Sequence[int] = (200, 200),
    activation: str = "tanh",
    prior: Callable[[int], nn.Module] = priors.StandardNormal,
    likelihood: Head = heads.Bernoulli,
    posterior: Head = heads.Gaussian,
) -> DeepLatentModel:
    """The fully connected pair: D-hidden-latent encoder, latent-hidden-D decoder.

    Args:
        event_shape: shape of x, given by the data.
        latent: size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: relu, tanh, leaky_relu, silu, softplus or gelu.
        prior: latent size → module that returns p(z).
        likelihood, posterior: (features, event shape) → head of p(x|z) and of q(z|x).
    """
    check_latent(latent)
    decoder = MLP((latent,), tuple(reversed(tuple(hidden))), activation)
    encoder = MLP(event_shape, hidden, activation)
    return DeepLatentModel(
        prior(latent),
        Conditional(decoder, likelihood(decoder.features, event_shape)),
        Conditional(encoder, posterior(encoder.features, (latent,))),
    )


def convolutional(
    event_shape: Sequence[int],
    latent: int = 50,
    channels: Sequence[int] = (32, 64),
    activation: str = "relu",
    prior: Callable[[int], nn.Module] = priors.StandardNormal,
    likelihood: Head = heads.Bernoulli,
    posterior: Head = heads.Gaussian,
) -> DeepLatentModel:
    """The convolutional pair for images: strided convolutions down, transposed convolutions up.

    Args:
        event_shape: (channels, height, width), given by the data.
        latent: size of z.
        channels: of the encoder's convolutions; the decoder has them in reverse.
        activation: relu, tanh, leaky_relu, silu, softplus or gelu.
        prior: latent size → module that returns p(z).
        likelihood, posterior: (features, event shape) → head of p(x|z) and of q(z|x).
    """
    check_latent(latent)
    decoder = ConvolutionalDecoder(
        latent, event_shape, tuple(reversed(tuple(channels))), activation
    )
    encoder = ConvolutionalEncoder(event_shape, channels, activation)
    return DeepLatentModel(
        prior(latent),
        Conditional(decoder, likelihood(decoder.features, event_shape)),
        Conditional(encoder, posterior(encoder.features, (latent,))),
    )


def check_latent(latent: int) -> None:
    """Refuse a latent size below one."""
    if latent < 1:
        raise ValueError(f"latent={latent}: z has at least one dimension; give an integer >= 1.")
