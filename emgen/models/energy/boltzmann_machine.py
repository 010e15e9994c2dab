"""Boltzmann machines: undirected models p(v, h) ∝ exp(−E(v, h)), drawn a block of layers at a time."""

__all__ = ["BoltzmannMachine"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import linear

from emgen.distributions import bernoulli, softplus
from emgen.models.energy.units import Binary, Units


class BoltzmannMachine(nn.Module):
    """The restricted Boltzmann machine (harmonium): a visible layer and a binary hidden one, no
    links within a layer.

        E(v, h) = −log base(v) − bᵀs(v) − cᵀh − s(v)ᵀ W h            s(v) = v for binary units
        −log p(v) = F(v) + log Z,   F(v) = −log base(v) − bᵀs(v) − Σ_j softplus(c_j + (s(v)ᵀW)_j)

    It is its own path of `emgen.estimators.normalising`: at temperature 1/β its weights and biases
    are scaled by β, and the visible bias slides from the base's b₀ to b. The base (β = 0) has
    independent units.

    A centred machine keeps its parameters about a centre (μ, ½): b = b′ − ½ W 1, c = c′ − Wᵀμ. The
    model is the same, but the gradient in W no longer follows the biases, and learning is several
    times as fast.

    Args:
        event_shape: shape of v.
        hidden: number of hidden units.
        units: kind of the visible units.
        centred: whether the parameters are those about the centre; `centre_at` puts μ at the mean
            of the data.
        sweeps: Gibbs sweeps of `sample`, on a rising ladder of temperatures from the base.

    Raises:
        ValueError: no hidden units, or no sweeps; units that do not fit the event.

    References:
        Smolensky (1986), "Information processing in dynamical systems: foundations of harmony
        theory"; Welling, Rosen-Zvi and Hinton (2004), "Exponential family harmoniums"; Montavon and
        Müller (2012), "Deep Boltzmann machines and the centering trick".

    >>> machine = BoltzmannMachine((4,), hidden=3)
    >>> machine.gibbs(torch.zeros(5, 4)).shape
    torch.Size([5, 4])
    >>> bool(torch.isclose(machine.log_partition("hidden"), machine.log_partition("visible")))
    True
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: int = 500,
        units: Units = Binary(),
        centred: bool = True,
        sweeps: int = 1000,
    ):
        super().__init__()
        if hidden < 1 or sweeps < 1:
            raise ValueError(
                f"hidden={hidden}, sweeps={sweeps}: a Boltzmann machine has at least one hidden"
                " unit and sweep."
            )
        self.event_shape, self.units, self.centred, self.sweeps = (
            torch.Size(event_shape),
            units,
            centred,
            sweeps,
        )
        size = self.event_shape.numel()
        self.weight = nn.Parameter(0.01 * torch.randn(size, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(size))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.centre: Tensor
        self.register_buffer(
            "centre", units.given(torch.zeros(size), self.event_shape).mean.flatten()
        )

    # ---- the model ------------------------------------------------------------------------------

    def energy(self, v: Tensor, beta: Tensor | None = None) -> Tensor:
        """The free energy F_β(v) of visible states (*batch, *event): −log p(v) up to log Z at β = 1
        (None).
        """
        flat = self._flat(v)
        s = self.units.statistic(flat)
        bias, above = tempered(self.biases()[0], beta, self.base), tempered(self._above(s), beta)
        return -self.units.log_base(flat) - (s * bias).sum(-1) - softplus(above).sum(-1)

    def move(self, v: Tensor, beta: Tensor | None = None) -> Tensor:
        """One Gibbs sweep h ~ p_β(h|v), v ~ p_β(v|h): reversible with respect to p_β(v)."""
        h = bernoulli(tempered(self._above(self.units.statistic(self._flat(v))), beta).sigmoid())
        return self.units.sample(tempered(self._below(h), beta, self.base)).unflatten(
            -1, self.event_shape
        )

    def gibbs(self, v: Tensor) -> Tensor:
        """One Gibbs sweep of the machine itself, β = 1."""
        return self.move(v)

    @torch.no_grad()
    def statistics(self, v: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Σ_i w_i ∂(−energy(v_i))/∂θ for each parameter θ, by name: its gradient in three products
        and no graph.
        """
        s = self.units.statistic(self._flat(v))
        h, total = self._above(s).sigmoid_(), weight @ s
        if not self.centred:
            h.mul_(weight.unsqueeze(-1))
            return {"weight": s.T @ h, "visible_bias": total, "hidden_bias": h.sum(0)}
        mean, half = (
            self.units.statistic(self.centre),
            weight.sum() / 2,
        )  # the biases of the energy depend on the weights
        h = h.sub_(0.5).mul_(weight.unsqueeze(-1))
        product = (s - mean).T @ h - half * mean.unsqueeze(-1)
        return {"weight": product, "visible_bias": total, "hidden_bias": h.sum(0) + half}

    def hidden_mean(self, v: Tensor) -> Tensor:
        """E[h|v], of shape (*batch, hidden)."""
        return self._above(self.units.statistic(self._flat(v))).sigmoid()

    def likelihood(self, h: Tensor) -> Distribution:
        """p(v|h) of hidden states (*batch, hidden)."""
        return self.units.given(self._below(h), self.event_shape)

    def sample(self, n: int) -> Tensor:
        """`n` states (n, *event), near p(v) as far as the chains mix."""
        return anneal(self, n)

    @torch.no_grad()
    def means(self, n: int) -> Tensor:
        """E[v|h] at the end of `n` such chains, (n, *event): what pictures show."""
        return self.likelihood(bernoulli(self.hidden_mean(self.sample(n)))).mean

    def filters(self) -> Tensor:
        """What each hidden unit adds to v by itself, (hidden, *event), as the mean of visible units
        without bias.
        """
        return self.units.mean(self.weight.T).unflatten(-1, self.event_shape)

    # ---- the normalising constant ---------------------------------------------------------------

    def log_partition(self, side: str | None = None) -> Tensor:
        """Exact log Z: enumerate the states of one side, sum the other out in closed form.

        Args:
            side: `hidden`, or `visible` where those units are binary; None for the one with fewer
                units.

        Raises:
            ValueError: more than 2²⁰ states, or the visible side of units that are not binary.
        """
        b, c = self.biases()
        if side is None:
            side = "visible" if isinstance(self.units, Binary) and len(b) < len(c) else "hidden"
        if side == "hidden":
            return summed(self.log_marginal, binary_states(len(c), c))
        if side != "visible" or not isinstance(self.units, Binary):
            raise ValueError(
                f"side={side!r}: enumerate 'hidden', or 'visible' where the visible units are"
                " binary."
            )
        return summed(
            lambda v: -self.energy(v.unflatten(-1, self.event_shape)), binary_states(len(b), b)
        )

    def log_marginal(self, h: Tensor) -> Tensor:
        """log Σ_v exp(−E(v, h)) of hidden states (*batch, hidden): log p(h) up to log Z."""
        b, c = self.biases()
        return h @ c + self.units.log_partition(h @ self.weight.T + b)

    def log_z0(self) -> Tensor:
        """log Z of the base, β = 0: visible units of natural parameter b₀, hidden units that are
        fair coins.
        """
        return self.units.log_partition(self.base()) + len(self.hidden_bias) * math.log(2)

    def start(self, chains: int) -> Tensor:
        """Exact draws (chains, *event) of the base."""
        return self.units.sample(self.base().expand(chains, -1)).unflatten(-1, self.event_shape)

    # ---- its parameters -------------------------------------------------------------------------

    def biases(self) -> tuple[Tensor, Tensor]:
        """The biases b and c of the energy, wherever the centre is."""
        if not self.centred:
            return self.visible_bias, self.hidden_bias
        return (
            self.visible_bias - self.weight.sum(1) / 2,
            self.hidden_bias - self.units.statistic(self.centre) @ self.weight,
        )

    def base(self) -> Tensor:
        """b₀, the natural parameter of independent visible units whose mean is the centre."""
        return self.units.natural(self.centre)

    @torch.no_grad()
    def assign(self, weight: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> None:
        """Set W, b and c of the energy, wherever the centre is."""
        self.weight.copy_(weight)
        b, c = self.biases()
        self.visible_bias += visible_bias - b
        self.hidden_bias += hidden_bias - c

    @torch.no_grad()
    def centre_at(self, mean: Tensor, rate: float = 1.0) -> None:
        """Move the base, and μ of a centred machine, towards a mean (*event) of the data; p(v)
        stays what it was.
        """
        step = rate * (mean.flatten().to(self.centre) - self.centre)
        if self.centred:
            self.hidden_bias += self.units.statistic(step) @ self.weight
        self.centre += step

    def _flat(self, v: Tensor) -> Tensor:
        return v.flatten(v.dim() - len(self.event_shape))

    def _above(self, s: Tensor) -> Tensor:
        """Natural parameters of h given s(v)."""
        return (
            s - self.units.statistic(self.centre) if self.centred else s
        ) @ self.weight + self.hidden_bias

    def _below(self, h: Tensor) -> Tensor:
        """Natural parameters of v given h."""
        return linear(h - 0.5 if self.centred else h, self.weight) + self.visible_bias


def binary_states(bits: int, like: Tensor) -> Tensor:
    """All 2ⁿ binary vectors (2ⁿ, n), in the dtype and on the device of `like`.

    Raises:
        ValueError: more than 20 bits; annealed importance sampling estimates what cannot be
            enumerated.
    """
    if bits > 20:
        raise ValueError(
            f"2^{bits} states are too many to enumerate (at most 2^20); estimate log Z by "
            "emgen.estimators.normalising.annealed_importance_sampling."
        )
    numbers = torch.arange(2**bits, device=like.device)
    return (numbers[:, None] >> torch.arange(bits, device=like.device) & 1).to(like.dtype)


def summed(log_f: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """log Σ f over states, in blocks: beside 784 units all 2²⁰ of them at once took 16 GB."""
    return torch.stack([log_f(block).logsumexp(0) for block in states.split(2**13)]).logsumexp(0)


@torch.no_grad()
def anneal(machine: Any, n: int) -> Tensor:
    """States of a machine after its `sweeps` Gibbs sweeps at β rising from 0 to 1: better mixed
    than as many at β = 1.
    """
    state = machine.start(n)
    for beta in torch.linspace(0, 1, machine.sweeps + 1, device=state.device)[1:]:
        state = machine.move(state, beta)
    return state


def tempered(
    natural: Tensor, beta: Tensor | None, base: Callable[[], Tensor] | None = None
) -> Tensor:
    """A natural parameter at inverse temperature β, on its way from the base's (0 without one)."""
    if beta is None:
        return natural
    start = base() if base is not None else torch.zeros_like(natural)
    return start + beta.to(natural).unsqueeze(-1) * (natural - start)
