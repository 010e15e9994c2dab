"""Ratios of normalising constants along a path of unnormalised densities from a known base to a
target.

One ladder 0 = β_0 < … < β_T = 1 and one protocol serve Boltzmann machines, where Z is the partition
function, and decoders, where the target p(z) p(x|z) has the evidence p(x) for its constant. All
estimators run any number of chains
at once and answer with `LogMean`: the value in nats, its standard error by the delta rule, its
effective sample size.
"""

__all__ = [
    "Path",
    "annealed_importance_sampling",
    "bridge",
    "bridge_sampling",
    "importance_sampling",
    "log_partition",
    "path_sampling",
    "reverse_annealed_importance_sampling",
]

import math
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from emgen.distributions import full_precision
from emgen.estimators.montecarlo import LogMean, log_mean_exp
from emgen.estimators.progress import each


@runtime_checkable
class Path(Protocol):
    """Unnormalised densities f_β = exp(−energy(·, β)), from a base of known constant (β = 0) to the
    target (β = 1).

    A state belongs to the path (a tensor or a tuple of them, one row a chain); estimators only pass
    it on. `beta`
    broadcasts against the chains: its shape is (), (chains, *batch) or (T, 1, …, 1).
    """

    def log_z0(self) -> Tensor:
        """log Z of the base, of shape (*batch)."""
        ...

    def start(self, chains: int, /) -> Any:
        """Exact draws from the base."""
        ...

    def energy(self, state: Any, beta: Tensor, /) -> Tensor:
        """−log f_β(state), of the shape of `beta` broadcast against (chains, *batch)."""
        ...

    def move(self, state: Any, beta: Tensor, /) -> Any:
        """One step of a kernel that is reversible with respect to f_β."""
        ...


@torch.no_grad()
def importance_sampling(path: Path, chains: int) -> LogMean:
    """log Z = log Z_0 + log E_0[f_1(x) / f_0(x)], from draws of the base alone.

    The mean of Ẑ is unbiased; its variance is infinite for all purposes unless the base covers the
    target.
    """
    state = path.start(chains)
    zero = path.log_z0().new_zeros(())
    return log_mean_exp(_rise(path, state, zero, zero + 1)).plus(path.log_z0())


@torch.no_grad()
def annealed_importance_sampling(path: Path, betas: Float[Tensor, "T"], chains: int) -> LogMean:
    """Annealed importance sampling (AIS): log Z by chains that start at the base and are moved up
    the ladder.

        x_0 ~ f_0 / Z_0
        for t = 0 … T−1:   log w += log f_{β_{t+1}}(x_t) − log f_{β_t}(x_t)     at x_t, before it
        moves
                           x_{t+1} ~ kernel of f_{β_{t+1}} from x_t
        Ẑ = Z_0 · mean w

    E[Ẑ] = Z for any ladder, so log Ẑ underestimates log Z in the mean: a stochastic lower bound.

    Args:
        path: base, target and kernels.
        betas: the ladder, rising from 0 to 1.
        chains: independent chains, run at once.

    Raises:
        ValueError: the ladder does not rise from 0 to 1, there are no chains, or their weights are
            all zero or not numbers.

    References:
        Neal (2001), "Annealed importance sampling"; Salakhutdinov and Murray (2008), "On the
        quantitative analysis of deep belief networks".
    """
    betas = _checked(betas, chains)
    state, log_w = path.start(chains), betas.new_zeros(())
    for low, high in each(list(pairwise(betas)), "annealing"):
        log_w = log_w + _rise(path, state, low, high)
        if high < 1:
            state = path.move(state, high)
    return log_mean_exp(log_w).plus(path.log_z0())


@torch.no_grad()
def reverse_annealed_importance_sampling(
    path: Path, state: Any, betas: Float[Tensor, "T"]
) -> LogMean:
    """AIS down the ladder from exact draws of the target: the other half of the stochastic
    sandwich.

        x_{T−1} ~ f_1 / Z
        for t = T−1 … 0:   log w −= log f_{β_{t+1}}(x_t) − log f_{β_t}(x_t)
                           x_{t−1} ~ kernel of f_{β_t} from x_t
        1/Ẑ = mean w / Z_0

    E[1/Ẑ] = 1/Z, so log Ẑ overestimates log Z in the mean: a stochastic upper bound, as far as the
    draws are exact.

    Args:
        path: base, target and reversible kernels.
        state: one exact draw of the target a chain; a simulated (z, x) gives one for a decoder,
            enumeration for a small machine. Draws from a long chain make the bound as good as the
            chain.
        betas: the ladder, rising from 0 to 1, the same as the forward run's.

    References: Grosse, Ghahramani and Adams (2015), "Sandwiching the marginal likelihood using
    bidirectional Monte Carlo".
    """
    betas = _checked(betas, 1)
    log_w = betas.new_zeros(())
    for high, low in each(list(pairwise(betas.flip(0))), "annealing backwards"):
        log_w = log_w - _rise(path, state, low, high)
        if low > 0:
            state = path.move(state, low)
    return log_mean_exp(log_w).reciprocal().plus(path.log_z0())


@torch.no_grad()
def bridge(at_base: Float[Tensor, "n *batch"], at_target: Float[Tensor, "m *batch"]) -> LogMean:
    """The optimal bridge between two densities: log Z_1 / Z_0 from independent draws of both.

        r = Z_1 / Z_0   solves   Σ_{x ~ 0} σ(l(x) − log r + log m/n) = Σ_{x ~ 1} σ(log r − l(x) −
        log m/n)

    The error is the spread of these terms by the delta rule, and where the densities hardly overlap
    Bennett's 1 / Σσ − 1/n − 1/m: the same in the mean, but it knows of the overlap that no draw has
    met.

    Args:
        at_base, at_target: l(x) = log f_1(x) − log f_0(x) at n draws of the base and at m draws of
            the target; −∞ where the target has no mass, +∞ where the base has none.

    Raises:
        ValueError: no draw of one side lies where the other has mass, or some l(x) is not a number.

    References: Meng and Wong (1996), "Simulating ratios of normalizing constants via a simple
        identity: a theoretical exploration"; Bennett (1976), "Efficient estimation of free energy
            differences from Monte Carlo data".
    """
    log_r, up, down, unseen = _bridged(at_base.double(), at_target.double())
    variance = _variance(up) / len(up) + _variance(down) / len(down) + unseen
    n = len(up) + len(down)
    return LogMean(log_r, variance.sqrt(), n / (1 + (n - 1) * variance))


@torch.no_grad()
def bridge_sampling(
    path: Path, betas: Float[Tensor, "T"], chains: int, sweeps: int = 20
) -> LogMean:
    """A bridge between each two neighbours of the ladder, log Z = log Z_0 + Σ_t log Z_{β_{t+1}} /
    Z_{β_t}.

    Every chain climbs the ladder and contributes to all bridges; the error is taken over whole
    chains, which are independent, so it knows how the bridges are correlated. The draws at a
    temperature are as good as the `sweeps` moves that separate them from the temperature below; AIS
    has no such bias, bridges have the smaller variance.

    Args:
        path, betas, chains: as in `annealed_importance_sampling`.
        sweeps: moves at each temperature before its draws are used.

    Raises:
        ValueError: as in `annealed_importance_sampling` and `bridge`, or no sweeps.
    """
    betas = _checked(betas, chains, sweeps)
    state, log_z, influence, unseen = (
        path.start(chains),
        path.log_z0().double(),
        betas.new_zeros(()),
        betas.new_zeros(()),
    )
    for low, high in each(list(pairwise(betas)), "bridging"):
        below = _rise(path, state, low, high)
        for _ in range(sweeps):
            state = path.move(state, high)
        log_r, up, down, more = _bridged(below, _rise(path, state, low, high))
        log_z, influence, unseen = log_z + log_r, influence + up - down, unseen + more
    return _over_chains(log_z, influence, unseen)


@torch.no_grad()
def path_sampling(path: Path, betas: Float[Tensor, "T"], chains: int, sweeps: int = 20) -> LogMean:
    """Path sampling (thermodynamic integration): log Z = log Z_0 + ∫₀¹ E_β[∂ log f_β / ∂β] dβ.

    The integral is taken by the trapezoid rule with its end correction −h²/12 [g′(β_{t+1}) −
    g′(β_t)], where g′(β) = Var_β(∂ log f_β) + E_β[∂² log f_β]. The error counts the draws; that of
    the rule falls with the fourth power of the spacing, so a coarse ladder, which AIS forgives, is
    for this estimator a bias.

    Args:
        path, betas, chains, sweeps: as in `bridge_sampling`; `energy` must be differentiable in
            `beta`.

    Raises:
        ValueError: the ladder does not rise from 0 to 1, no chains or sweeps, or an energy that is
            not finite.

    References: Gelman and Meng (1998), "Simulating normalizing constants: from importance sampling
        to bridge sampling to path sampling"; Friel, Hurn and Wyse (2014), "Improving power
        posterior estimation of statistical evidence".
    """
    betas = _checked(betas, chains, sweeps)
    state, slopes, bends = path.start(chains), [], []
    for beta in each(betas, "annealing"):
        if beta > 0:
            for _ in range(sweeps):
                state = path.move(state, beta)
        slope, bend = _derivatives(path, state, beta)
        slopes.append(slope)
        bends.append((slope - slope.mean(0)).square() * chains / max(chains - 1, 1) + bend)
    integral = torch.zeros_like(slopes[0])
    for h, (a, b), (c, d) in zip(betas.diff(), pairwise(slopes), pairwise(bends)):
        integral += h / 2 * (a + b) - h * h / 12 * (d - c)
    return _over_chains(path.log_z0().double() + integral.mean(0), integral)


@torch.no_grad()
def log_partition(machine: Any, temperatures: int = 1000, chains: int = 100) -> LogMean:
    """log Z of a Boltzmann machine: exact (error 0) where it can enumerate its states, else by AIS.

    Args:
        machine: a path whose target has also an exact `log_partition()`, which refuses where it
            cannot be had.
        temperatures: steps of the ladder, evenly spaced.
        chains: of AIS.
    """
    device = machine.log_z0().device
    with full_precision(device):  # a trainer may call it in the middle of a step of mixed precision
        try:
            exact = machine.log_partition()
        except ValueError:
            return annealed_importance_sampling(
                machine, torch.linspace(0, 1, temperatures + 1, device=device), chains
            )
    return LogMean(exact, torch.zeros_like(exact), torch.full_like(exact, chains))


def _rise(path: Path, state: Any, low: Tensor, high: Tensor) -> Tensor:
    """log f_high − log f_low at the state, in float64; both from one call, which shares what they
    have in common.
    """
    ends = torch.stack([low, high])
    energies = path.energy(state, ends.view(2, *[1] * (1 + path.log_z0().dim())))
    nowhere = (energies == torch.inf).all(0)  # a chain of weight zero keeps it
    return (energies[0] - energies[1]).masked_fill(nowhere, 0.0).double()


def _bridged(at_base: Tensor, at_target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log r by bisection (the equation is monotone in it), each draw's relative share in the two
    sides, and the variance that these shares do not show where few draws overlap."""
    n, m = len(at_base), len(at_target)
    if n == 0 or m == 0 or at_base.isnan().any() or at_target.isnan().any():
        raise ValueError(
            f"a bridge from {n} draws to {m}: expected at least one on each side, whose log-ratios"
            " are numbers."
        )
    if not bool(((at_base > -torch.inf).any(0) & (at_target < torch.inf).any(0)).all()):
        raise ValueError(
            "no draw of one density lies where the other has mass: a bridge needs densities that"
            " overlap; put temperatures between them."
        )
    offset = math.log(m / n)
    everything = torch.cat([at_base, at_target]) + offset
    low = everything.masked_fill(everything == -torch.inf, torch.inf).amin(0) - 40
    high = everything.masked_fill(everything == torch.inf, -torch.inf).amax(0) + 40
    for _ in range(60):
        middle = (low + high) / 2
        rising = (at_base + offset - middle).sigmoid().sum(0) > (
            middle - at_target - offset
        ).sigmoid().sum(0)
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    up, down = logsigmoid(at_base + offset - low), logsigmoid(low - at_target - offset)
    overlap = up.logsumexp(0).exp()  # draws' worth of it; nm/(n+m) for equal densities
    up, down = n * up.softmax(0), m * down.softmax(0)
    unseen = 1 / overlap - 1 / n - 1 / m - _variance(up) / n - _variance(down) / m
    return low, up, down, torch.where(overlap < 0.5 / (1 / n + 1 / m), unseen.clamp(min=0), 0.0)


def _derivatives(path: Path, state: Any, beta: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of log f_β in β, chain by chain."""
    with torch.enable_grad():
        each = beta.expand(path.energy(state, beta).shape).clone().requires_grad_()
        (slope,) = torch.autograd.grad(-path.energy(state, each).sum(), each, create_graph=True)
        if not slope.requires_grad:  # a geometric path: log f_β is linear in β
            return slope.double(), torch.zeros_like(slope).double()
        (bend,) = torch.autograd.grad(slope.sum(), each, allow_unused=True, materialize_grads=True)
    return slope.detach().double(), bend.double()


def _variance(draws: Tensor) -> Tensor:
    """Over the first dimension; a single draw says nothing of it."""
    return draws.var(0) if len(draws) > 1 else torch.full_like(draws[0], torch.nan)


def _over_chains(log_z: Tensor, influence: Tensor, unseen: Tensor | float = 0.0) -> LogMean:
    if not bool(log_z.isfinite().all()):
        raise ValueError(
            f"log Z is {log_z.tolist()}: the energy is infinite or not a number at a state that a"
            " chain has reached; look for parameters that are not numbers."
        )
    chains = len(influence)
    variance = _variance(influence) / chains + unseen
    return LogMean(log_z, variance.sqrt(), chains / (1 + (chains - 1) * variance))


def _checked(betas: Tensor, chains: int, sweeps: int = 1) -> Tensor:
    if (
        betas.dim() != 1
        or len(betas) < 2
        or betas[0] != 0
        or betas[-1] != 1
        or not bool((betas.diff() > 0).all())
    ):
        raise ValueError(
            f"betas={str(betas.tolist())[:80]}: the ladder must rise from 0 to 1; torch.linspace(0,"
            " 1, 1001) does."
        )
    if chains < 1 or sweeps < 1:
        raise ValueError(f"chains={chains}, sweeps={sweeps}: both must be at least 1.")
    return betas
