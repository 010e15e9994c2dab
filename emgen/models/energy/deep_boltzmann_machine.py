"""The deep Boltzmann machine: several binary layers, all undirected, with mean field in the data
phase.
"""

__all__ = ["DeepBoltzmannMachine"]

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from emgen.distributions import bernoulli, softplus
from emgen.models.energy.boltzmann_machine import anneal, binary_states, summed, tempered
from emgen.models.energy.units import Binary, Units

Layers = dict[int, Tensor]


class DeepBoltzmannMachine(nn.Module):
    """Layers v, h¹, …, h^L, each linked with its neighbours alone.

        E(v, h) = −log base(v) − bᵀs(v) − Σ_l c_lᵀh^l − s(v)ᵀ W¹ h¹ − Σ_l h^lᵀ W^{l+1} h^{l+1}

    Given the even layers (v, h², …) the odd ones are independent, and the other way round. A
    *state* is the even layers side by side, a tensor (*batch, D + H₂ + …): its energy sums the odd
    layers out in closed form. *Data* (*batch,
    *event) are v alone: their energy is the mean-field free energy E_q[E] − H(q), at least −log
    p(v) − log Z.

    Like `BoltzmannMachine` it is its own path of tempered machines, and keeps its parameters about
    the centre (μ, ½, ½, …) if centred, which makes training all layers jointly work without greedy
    pre-training.

    Args:
        event_shape: shape of v.
        hidden: sizes of h¹, …, h^L.
        units: kind of the visible units.
        centred: whether the parameters are those about the centre.
        mean_field_sweeps: mean-field sweeps in the data phase.
        sweeps: Gibbs sweeps of `sample`, on a rising ladder of temperatures from the base.

    Raises:
        ValueError: no hidden layer, an empty one, or no sweeps of either kind; units that do not
            fit the event.

    References:
        Salakhutdinov and Hinton (2009), "Deep Boltzmann machines"; Montavon and Müller (2012),
        "Deep Boltzmann machines and the centering trick".

    >>> machine = DeepBoltzmannMachine((4,), hidden=(3, 2))
    >>> machine.gibbs(torch.zeros(5, 4)).shape                               # v and h² side by side
    torch.Size([5, 6])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int] = (500, 500),
        units: Units = Binary(),
        centred: bool = True,
        mean_field_sweeps: int = 10,
        sweeps: int = 1000,
    ):
        super().__init__()
        if not hidden or min(*hidden, mean_field_sweeps, sweeps) < 1:
            raise ValueError(
                f"hidden={list(hidden)}, mean_field_sweeps={mean_field_sweeps}, sweeps={sweeps}:"
                " there is at least one layer, one unit in each, one sweep of either kind."
            )
        self.event_shape, self.units, self.centred = torch.Size(event_shape), units, centred
        self.mean_field_sweeps, self.sweeps = mean_field_sweeps, sweeps
        sizes = [self.event_shape.numel(), *hidden]
        self.weights = nn.ParameterList(
            0.01 * torch.randn(below, above) for below, above in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(size) for size in sizes)
        self.centre: Tensor
        self.register_buffer(
            "centre", units.given(torch.zeros(sizes[0]), self.event_shape).mean.flatten()
        )

    # ---- the model ------------------------------------------------------------------------------

    def energy(self, state: Tensor, beta: Tensor | None = None) -> Tensor:
        """−log p up to log Z, exact for states; for data, its upper bound by the mean field at β =
        1.

        With one hidden layer data are states: no even layer is hidden, so the bound is exact at
            every β.
        """
        if not self._is_data(state):
            return -self._log_marginal(self._even(state), beta)
        means = self.mean_field(state)[1::2]
        even = {
            0: state.flatten(state.dim() - len(self.event_shape)),
            **{2 * i + 2: m for i, m in enumerate(means)},
        }
        return -self._log_marginal(even, beta) - sum(_entropy(m) for m in means)

    def move(self, state: Tensor, beta: Tensor | None = None) -> Tensor:
        """One Gibbs sweep, odd layers given the even ones and back: reversible with respect to
        p_β(state).
        """
        odd = {
            k: bernoulli(tempered(self._input(k, self._even(state)), beta).sigmoid())
            for k in self._levels(1)
        }
        v = self.units.sample(tempered(self._input(0, odd), beta, self.base))
        return torch.cat(
            [
                v,
                *(
                    bernoulli(tempered(self._input(k, odd), beta).sigmoid())
                    for k in self._levels(0)[1:]
                ),
            ],
            -1,
        )

    def gibbs(self, state: Tensor) -> Tensor:
        """One Gibbs sweep at β = 1; from data it first draws the hidden even layers from the mean
        field.
        """
        if self._is_data(state):
            hidden = [bernoulli(m) for m in self.mean_field(state)[1::2]]
            state = torch.cat([state.flatten(state.dim() - len(self.event_shape)), *hidden], -1)
        return self.move(state)

    @torch.no_grad()
    def mean_field(self, v: Tensor) -> list[Tensor]:
        """Means of h¹, …, h^L in the factorised q(h|v) that ascends the bound, layer by layer from
        fair coins.
        """
        batch = v.shape[: v.dim() - len(self.event_shape)]
        layers = {k: c.new_full((*batch, len(c)), 0.5) for k, c in enumerate(self.biases)}
        layers[0] = v.flatten(len(batch))
        for _ in range(self.mean_field_sweeps):
            for k in range(1, len(layers)):
                layers[k] = self._input(k, layers).sigmoid()
        return [layers[k] for k in range(1, len(layers))]

    def hidden_mean(self, v: Tensor) -> Tensor:
        """Mean-field E[h¹|v], (*batch, H₁), differentiable given the layer above."""
        layers = {
            0: v.flatten(v.dim() - len(self.event_shape)),
            **{k + 1: m for k, m in enumerate(self.mean_field(v))},
        }
        return self._input(1, layers).sigmoid()

    def sample(self, n: int) -> Tensor:
        """`n` visible states (n, *event), near p(v) as far as the chains mix."""
        return anneal(self, n)[:, : self.event_shape.numel()].unflatten(-1, self.event_shape)

    @torch.no_grad()
    def means(self, n: int) -> Tensor:
        """E[v|h¹] at the end of `n` such chains, (n, *event): what pictures show."""
        h = bernoulli(self._input(1, self._even(anneal(self, n))).sigmoid())
        return self.units.mean(self._input(0, {1: h})).unflatten(-1, self.event_shape)

    def filters(self) -> Tensor:
        """What each unit of h¹ adds to v by itself, (H₁, *event), as the mean of visible units
        without bias.
        """
        return self.units.mean(self.weights[0].T).unflatten(-1, self.event_shape)

    # ---- the normalising constant ---------------------------------------------------------------

    def log_partition(self, side: str | None = None) -> Tensor:
        """Exact log Z: enumerate the odd or the even layers, sum the others out in closed form.

        Args:
            side: `odd`, or `even` where the visible units are binary; None for the one with fewer
                units.

        Raises:
            ValueError: more than 2²⁰ states, or the even side where the visible units are not
                binary.
        """
        sizes = {
            name: [len(self.biases[k]) for k in self._levels(parity)]
            for parity, name in enumerate(("even", "odd"))
        }
        binary = isinstance(self.units, Binary)
        if side is None:
            side = "even" if binary and sum(sizes["even"]) < sum(sizes["odd"]) else "odd"
        if side not in sizes or (side == "even" and not binary):
            raise ValueError(
                f"side={side!r}: enumerate 'odd', or 'even' where the visible units are binary."
            )
        levels = self._levels(int(side == "odd"))
        states = binary_states(sum(sizes[side]), self.biases[0])
        return summed(
            lambda block: self._log_marginal(dict(zip(levels, block.split(sizes[side], -1)))),
            states,
        )

    def log_z0(self) -> Tensor:
        """log Z of the base, β = 0: independent visible units, hidden units that are fair coins."""
        return self.units.log_partition(self.base()) + math.log(2) * sum(
            len(c) for c in self.biases[1:]
        )

    def start(self, chains: int) -> Tensor:
        """Exact draws of the base's states."""
        coins = [
            bernoulli(self.centre.new_full((chains, len(self.biases[k])), 0.5))
            for k in self._levels(0)[1:]
        ]
        return torch.cat([self.units.sample(self.base().expand(chains, -1)), *coins], -1)

    # ---- its parameters -------------------------------------------------------------------------

    def base(self) -> Tensor:
        """b₀, the natural parameter of independent visible units whose mean is the centre."""
        return self.units.natural(self.centre)

    @torch.no_grad()
    def centre_at(self, mean: Tensor, rate: float = 1.0) -> None:
        """Move the base, and μ of a centred machine, towards a mean (*event) of the data; p stays
        what it was.
        """
        step = rate * (mean.flatten().to(self.centre) - self.centre)
        if self.centred:
            self.biases[1] += self.units.statistic(step) @ self.weights[0]
        self.centre += step

    def _levels(self, parity: int) -> list[int]:
        return list(range(parity, len(self.biases), 2))

    def _is_data(self, state: Tensor) -> bool:
        return state.shape[-len(self.event_shape) :] == self.event_shape

    def _even(self, state: Tensor) -> Layers:
        levels = self._levels(0)
        return dict(zip(levels, state.split([len(self.biases[k]) for k in levels], -1)))

    def _input(self, level: int, layers: Layers) -> Tensor:
        """Natural parameters of a layer given its neighbours."""
        total = self.biases[level]
        if level > 0:
            total = total + self._about_centre(level - 1, layers) @ self.weights[level - 1]
        if level + 1 < len(self.biases):
            total = total + self._about_centre(level + 1, layers) @ self.weights[level].T
        return total

    def _about_centre(self, level: int, layers: Layers) -> Tensor:
        s = self.units.statistic(layers[level]) if level == 0 else layers[level]
        if not self.centred:
            return s
        return s - (self.units.statistic(self.centre) if level == 0 else 0.5)

    def _log_marginal(self, given: Layers, beta: Tensor | None = None) -> Tensor:
        """−energy of the layers of one parity, those of the other parity summed out."""
        silent = {k: torch.zeros_like(c) for k, c in enumerate(self.biases)}
        total = self.units.log_base(given[0]) if 0 in given else self.centre.new_zeros(())
        for k in silent:
            base = self.base if k == 0 else None
            if k in given:
                s = self.units.statistic(given[k]) if k == 0 else given[k]
                total = total + (s * tempered(self._input(k, silent), beta, base)).sum(-1)
            else:
                natural = tempered(self._input(k, given), beta, base)
                total = total + (
                    self.units.log_partition(natural) if k == 0 else softplus(natural).sum(-1)
                )
        return total


def _entropy(p: Tensor) -> Tensor:
    """Entropy of independent Bernoulli units with these means, in nats."""
    return (torch.special.entr(p) + torch.special.entr(1 - p)).sum(-1)
