"""The Helmholtz machine: layers of latents, a generative net down and a recognition net up."""

__all__ = ["HelmholtzMachine", "Marginal", "Recognition", "helmholtz_machine"]

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from emgen.distributions import IndependentBernoulli, Joint, full_precision, relaxed
from emgen.models import heads
from emgen.models.deep.latent_variable import Conditional, Head
from emgen.models.deep.networks import MLP

_LARGEST_ENUMERATION = 2**16
_MOST_PAIRS = 2**24  # of states of two neighbouring layers
_BLOCK = 2**20  # pairs of a state and a datum, or of two states, scored at a time


class HelmholtzMachine(nn.Module):
    """A deep directed model and the recognition net that inverts it; a layer may be binary,
    Gaussian or categorical.

        p(x, z) = p(x|z₁) p(z₁|z₂) … p(z_L)          q(z|x) = q(z₁|x) q(z₂|z₁) … q(z_L|z_{L−1})

    Every conditional is a module whose forward pass returns a distribution, so any network may
    stand between two layers; with linear ones and binary units this is a sigmoid belief net. The
    latents are one `Joint` over (z₁, …, z_L).

    Args:
        top: () → p(z_L).
        generative: from the lowest up, z₁ → p(x|z₁), z₂ → p(z₁|z₂), …: as many as there are layers
            of latents.
        recognition: from the lowest up, x → q(z₁|x), z₁ → q(z₂|z₁), …: as many again; None for no
            recognition net.

    Raises:
        ValueError: the two nets differ in depth, or have none.

    References: Dayan, Hinton, Neal and Zemel (1995), "The Helmholtz machine".

    >>> machine = helmholtz_machine((16,), layers=(8, 1))
    >>> [tuple(z.shape) for z in machine.recognition(torch.zeros(5, 16)).sample()], tuple(machine.sample(3).shape)
    ([(5, 8), (5, 1)], (3, 16))
    """

    def __init__(
        self,
        top: nn.Module,
        generative: Sequence[nn.Module],
        recognition: Sequence[nn.Module] | None = None,
    ):
        super().__init__()
        if not generative:
            raise ValueError(
                "a Helmholtz machine needs at least one layer of latents: generative is empty."
            )
        if recognition is not None and len(recognition) != len(generative):
            raise ValueError(
                f"{len(generative)} generative layers but {len(recognition)} recognition layers:"
                " give one of each for every layer of latents."
            )
        self.top, self.generative = top, nn.ModuleList(generative)
        self.recognition = None if recognition is None else Recognition(recognition)

    def prior(self) -> Joint:
        """p(z₁, …, z_L), with a batch shape of ()."""
        return Joint(self.top(), list(self.generative)[:0:-1], top_down=True)

    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        """p(x|z₁) for latents (z₁, …, z_L)."""
        return self.generative[0](z[0])

    def sample(self, n: int) -> Tensor:
        """`n` dreams x ~ p(x), without gradient."""
        with torch.no_grad():
            return self.likelihood(self.prior().sample((n,))).sample()

    def rsample(self, n: int) -> Tensor:
        """`n` differentiable samples (n, *event): straight through discrete latents, the mean of a
        discrete p(x|z).
        """
        likelihood = self.likelihood(relaxed(self.prior(), (n,)))
        return likelihood.rsample() if likelihood.has_rsample else likelihood.mean

    def filters(self) -> Tensor:
        """What each unit of the lowest layer adds to x by itself, (units, *event): σ(ℓ(e_j) − ℓ(0))
        for pixels of logits ℓ.

        A pixel that the unit leaves alone is grey (½); where x is not binary it is the difference
        of the two means.
        """
        layer = self.prior().sample()[0]
        single = torch.eye(layer.numel(), dtype=layer.dtype, device=layer.device).reshape(
            -1, *layer.shape
        )
        on: Any = self.likelihood((single,))
        off: Any = self.likelihood((torch.zeros_like(single),))
        if isinstance(on, IndependentBernoulli):
            return (on.base_dist.logits - off.base_dist.logits).sigmoid()
        return on.mean - off.mean

    @property
    def log_prob(self) -> Callable[[Tensor], Tensor]:
        """x → log p(x) by summing over all latents; absent (AttributeError) where a layer has no or
        too many states.

        log p(z_l) = log Σ_{z_{l+1}} p(z_l|z_{l+1}) p(z_{l+1}), from the top down, is exact and
        costs a product of two neighbouring layers instead of one of all layers.
        """
        try:
            self.states()
        except ValueError as error:
            raise AttributeError(f"no exact log_prob: {error}") from error
        return self._enumerated_log_prob

    def __getattr__(self, name: str) -> Any:
        if (
            name == "log_prob"
        ):  # the property refused; nn.Module would say that there is none, and not why
            return HelmholtzMachine.log_prob.fget(self)  # type: ignore[attr-defined]
        return super().__getattr__(name)

    def states(self) -> list[Tensor]:
        """Every state of each layer of latents from the lowest up, (states, *layer).

        Raises:
            ValueError: a layer is continuous or has more than 65,536 states, two neighbours more
                than 2²⁴ pairs of them.
        """
        states = [_support(self.top())]
        for conditional in list(self.generative)[:0:-1]:
            states.append(_support(conditional(states[-1][:1])))
            if len(states[-1]) * len(states[-2]) > _MOST_PAIRS:
                raise ValueError(
                    f"neighbouring layers of {len(states[-1])} and {len(states[-2])} states have"
                    f" more than {_MOST_PAIRS} pairs of them."
                )
        return states[::-1]

    def _enumerated_log_prob(self, x: Tensor) -> Tensor:
        states = self.states()
        with full_precision(x.device):
            log_p = self.top().log_prob(states[-1])
            for z, above, conditional in reversed(list(zip([x, *states], states, self.generative))):
                log_p = _mixture(conditional(above), log_p, z)
            return log_p


class Recognition(nn.Module):
    """q(z₁, …, z_L|x) as a chain from the data up, x → Joint.

    Args:
        layers: x → q(z₁|x), z₁ → q(z₂|z₁), …
    """

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Joint:
        return Joint(self.layers[0](x), list(self.layers)[1:])


class Marginal(nn.Module):
    """A learnt distribution that depends on nothing: a head without features, whose biases are all
    its parameters.

    Args:
        head: (features, event shape) → head.
        event_shape: shape of the event.
    """

    features: Tensor

    def __init__(self, head: Head, event_shape: Sequence[int]):
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.head = head(0, event_shape)
        self.register_buffer("features", torch.empty(0), persistent=False)

    def forward(self) -> Distribution:
        return self.head(self.features)


def helmholtz_machine(
    event_shape: Sequence[int],
    layers: Sequence[int | Sequence[int]] = (200,),
    hidden: Sequence[int] = (),
    activation: str = "tanh",
    likelihood: Head = heads.Bernoulli,
    latent: Head | Sequence[Head] = heads.Bernoulli,
) -> HelmholtzMachine:
    """A Helmholtz machine of fully connected layers; by default a sigmoid belief net.

    Args:
        event_shape: shape of x, given by the data.
        layers: size, or shape, of each layer of latents from the lowest up.
        hidden: widths of the deterministic layers between two stochastic ones; none in a sigmoid
            belief net.
        activation: of those layers: relu, tanh, leaky_relu, silu, softplus or gelu.
        likelihood: (features, event shape) → head of p(x|z₁).
        latent: the same for the latents: one head for all layers, or one for each.

    >>> machine = helmholtz_machine((1, 8, 8), layers=((5, 10), 4), latent=(heads.OneHot, heads.Gaussian))
    >>> [tuple(z.shape) for z in machine.prior().sample((2,))]
    [(2, 5, 10), (2, 4)]
    """
    shapes = [
        tuple(event_shape),
        *((size,) if isinstance(size, int) else tuple(size) for size in layers),
    ]
    if len(shapes) < 2 or any(size < 1 for shape in shapes for size in shape):
        raise ValueError(
            f"layers={list(layers)}: give the positive size of at least one layer of latents."
        )
    latents = list(latent) if isinstance(latent, Sequence) else [latent] * (len(shapes) - 1)
    if len(latents) != len(shapes) - 1:
        raise ValueError(
            f"{len(latents)} heads for {len(shapes) - 1} layers of latents: give one for all, or"
            " one a layer."
        )
    all_heads = [likelihood, *latents]

    def conditional(source: int, target: int) -> Conditional:
        network = MLP(shapes[source], hidden, activation)
        return Conditional(network, all_heads[target](network.features, shapes[target]))

    steps = range(len(shapes) - 1)
    return HelmholtzMachine(
        Marginal(latents[-1], shapes[-1]),
        [conditional(lower + 1, lower) for lower in steps],
        [conditional(lower, lower + 1) for lower in steps],
    )


def _mixture(components: Distribution, log_weights: Tensor, x: Tensor) -> Tensor:
    """log Σ_s w_s p(x|s) for each x, in blocks: all of x against all of s at once filled the
    memory.
    """
    blocks = x.split(max(1, _BLOCK // len(log_weights)))
    return torch.cat(
        [(components.log_prob(block.unsqueeze(1)) + log_weights).logsumexp(-1) for block in blocks]
    )


def _support(distribution: Distribution) -> Tensor:
    """Every value of a factorised discrete distribution, (values, *event)."""
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if not base.has_enumerate_support:
        raise ValueError(
            f"the states of {type(base).__name__} latents cannot be enumerated; estimate log p(x)"
            " by emgen.evaluation.log_likelihood."
        )
    units = distribution.event_shape[
        : len(distribution.event_shape) - len(base.event_shape)
    ].numel()
    values = base.enumerate_support(expand=False).reshape(-1, *base.event_shape)
    if units * math.log(len(values)) > math.log(_LARGEST_ENUMERATION):
        raise ValueError(
            f"{units} units of {len(values)} values each have more than {_LARGEST_ENUMERATION}"
            " states."
        )
    index = torch.cartesian_prod(
        *[torch.arange(len(values), device=values.device)] * units
    ).reshape(-1, units)
    return values[index].reshape(-1, *distribution.event_shape)
