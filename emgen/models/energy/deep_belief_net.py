"""The deep belief net: a Boltzmann machine on top of directed layers, with a recognition net up."""

__all__ = ["DeepBeliefNet"]

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from emgen.distributions import Joint
from emgen.models import heads
from emgen.models.deep.helmholtz_machine import Recognition
from emgen.models.deep.latent_variable import Conditional
from emgen.models.deep.networks import MLP
from emgen.models.energy.boltzmann_machine import BoltzmannMachine
from emgen.models.energy.units import Binary, Units


class DeepBeliefNet(nn.Module):
    """p(v, h¹, …, h^L) = p(v|h¹) p(h¹|h²) … p(h^{L−1}, h^L), whose last factor is a Boltzmann
    machine.

    The latents are z = (h¹, …, h^{L−1}): h^L is summed out of the machine on top in closed form, so
    that its free energy is the prior of h^{L−1}. Every layer is held as the Boltzmann machine that
    learns it greedily; below the top its p(v|h) alone is used, and the recognition net, tied to it
    at first, becomes a net of its own in fine-tuning.

    Args:
        event_shape: shape of v.
        hidden: sizes of h¹, …, h^L.
        units: kind of the visible units.
        centred: whether the machines keep their parameters about the centre.
        sweeps: Gibbs sweeps of `sample` at the top, on a rising ladder of temperatures.

    Raises:
        ValueError: fewer than two hidden layers (one is a `BoltzmannMachine`).

    References: Hinton, Osindero and Teh (2006), "A fast learning algorithm for deep belief nets".

    >>> net = DeepBeliefNet((6,), hidden=(4, 3))
    >>> [tuple(h.shape) for h in net.recognition(torch.zeros(5, 6)).sample()], tuple(net.sample(2).shape)
    ([(5, 4)], (2, 6))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int] = (500, 500),
        units: Units = Binary(),
        centred: bool = True,
        sweeps: int = 1000,
    ):
        super().__init__()
        if len(hidden) < 2:
            raise ValueError(
                f"hidden={list(hidden)}: a deep belief net has two hidden layers or more; with one"
                " it is a BoltzmannMachine."
            )
        self.event_shape = torch.Size(event_shape)
        shapes = [self.event_shape, *((size,) for size in hidden)]
        kinds = [units, *[Binary()] * (len(hidden) - 1)]
        self.machines: Any = nn.ModuleList(
            BoltzmannMachine(shape, size, kind, centred, sweeps)
            for shape, size, kind in zip(shapes, hidden, kinds)
        )
        self.recognition = Recognition(
            [_up(below, above) for below, above in pairwise(shapes[:-1])]
        )
        self.log_z: Tensor
        self.log_z_error: Tensor
        self.register_buffer("log_z", torch.tensor(torch.nan))
        self.register_buffer("log_z_error", torch.tensor(0.0))
        for level in range(len(hidden) - 1):
            self.tie(level)

    @property
    def top(self) -> BoltzmannMachine:
        """The machine of h^{L−1} and h^L."""
        return self.machines[-1]

    def prior(self) -> Joint:
        """p(h¹, …, h^{L−1}); its `log_prob` needs the top machine's constant to have been set."""
        return Joint(
            _Top(self.top, self.log_z),
            [m.likelihood for m in self.machines[-2:0:-1]],
            top_down=True,
        )

    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        """p(v|h¹)."""
        return self.machines[0].likelihood(z[0])

    @torch.no_grad()
    def dream(self, top: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """A fantasy (z, v), drawn from states of h^{L−1} down."""
        layers = [top]
        for machine in self.machines[-2:0:-1]:
            layers.append(machine.likelihood(layers[-1]).sample())
        z = tuple(reversed(layers))
        return z, self.likelihood(z).sample()

    def sample(self, n: int) -> Tensor:
        """`n` fantasies (n, *event), from draws of the top down."""
        return self.dream(self.top.sample(n))[1]

    def filters(self) -> Tensor:
        """What each unit of h¹ adds to v by itself, (H₁, *event)."""
        return self.machines[0].filters()

    def set_constant(self, found: Any) -> None:
        """Set `log_z` of the top machine, and `log_z_error`, which all scores share, from an
        estimate of it.
        """
        self.log_z.copy_(found.value)
        self.log_z_error.copy_(found.error)

    # ---- greedy learning ------------------------------------------------------------------------

    @torch.no_grad()
    def below(self, level: int, x: Tensor) -> Tensor:
        """What the machine at a level learns from: x itself, or one draw of the recognition net up
        to there.
        """
        layers: Any = self.recognition.layers
        for layer in layers[:level]:
            x = layer(x).sample()
        return x

    @torch.no_grad()
    def tie(self, level: int) -> None:
        """Set the recognition net's layer to its machine's p(h|v)."""
        layers: Any = self.recognition.layers
        machine, linear = self.machines[level], layers[level].head.logits
        linear.weight.copy_(machine.units.statistic(machine.weight.T))
        linear.bias.copy_(machine.biases()[1])

    def stack(self, level: int) -> None:
        """Start a machine as the one below turned upside down, where their sizes allow it.

        Then p(h) under the new machine is what it was under the one below: p(v) does not change,
        and whatever the new machine learns raises the variational bound.
        """
        under, over = self.machines[level - 1], self.machines[level]
        if isinstance(under.units, Binary) and over.weight.shape == under.weight.T.shape:
            b, c = under.biases()
            over.assign(under.weight.T, c, b)


class _Top(Distribution):
    """p(h) ∝ exp(−energy(h)) of a Boltzmann machine, normalised by a constant that was estimated
    elsewhere.
    """

    arg_constraints: Any = {}
    support: Any = constraints.independent(constraints.boolean, 1)

    def __init__(self, machine: BoltzmannMachine, log_z: Tensor):
        super().__init__(event_shape=machine.event_shape, validate_args=False)
        self.machine, self.log_z = machine, log_z

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.machine.energy(value) - self.log_z

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape)
        return self.machine.sample(shape.numel()).view(*shape, *self.event_shape)


def _up(below: Sequence[int], above: Sequence[int]) -> Conditional:
    network = MLP(below, ())
    return Conditional(network, heads.Bernoulli(network.features, above))
