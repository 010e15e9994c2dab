"""Markov chains: kernels that any density can use, and how far their draws are to be trusted."""

__all__ = ["effective_sample_size", "hamiltonian", "r_hat", "swap", "walk"]

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emgen.estimators.normalising import Path


def r_hat(draws: Float[Tensor, "draws chains *what"]) -> Float[Tensor, "*what"]:
    """Split R̂ = √(total variance / variance within half-chains): above about 1.01 the chains have
    not mixed.

    Of a constant it is NaN, and ∞ of chains stuck apart. It compares means: chains that differ in
    their scale alone pass.

    Raises:
        ValueError: fewer than four draws a chain, or no chains.

    References: Gelman and Rubin (1992), "Inference from iterative simulation using multiple
        sequences"; Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization,
        folding, and localization: an improved R̂".

    >>> torch.manual_seed(0); chains = torch.randn(500, 4); chains[:, 0] += 3
    <torch._C.Generator object at ...>
    >>> bool(r_hat(chains) > 1.5)
    True
    """
    within, total = _variances(_split(draws))
    return (total / within).sqrt()


def effective_sample_size(draws: Float[Tensor, "draws chains *what"]) -> Float[Tensor, "*what"]:
    """How many independent draws the chains are worth: S M / (1 + 2 Σ_t ρ_t), summed while pairs
    stay positive.

    Autocorrelations are averaged over half-chains and lowered by the variance between them, so
    chains that disagree are worth few; the sum is Geyer's initial monotone sequence. At most S M (S
    even: halves of an odd one lose its middle draw), NaN of a constant.

    Raises:
        ValueError: fewer than four draws a chain, or no chains.

    References: Geyer (1992), "Practical Markov chain Monte Carlo"; Vehtari et al. (2021), as for
    `r_hat`.
    """
    halves = _split(draws)
    n, chains = halves.shape[:2]
    within, total = _variances(halves)
    centred = halves - halves.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0)
    covariance = torch.fft.irfft(spectrum * spectrum.conj(), n=2 * n, dim=0)[:n].mean(1) / n
    rho = 1 - (within - covariance * n / (n - 1)) / total
    pairs = rho[: n // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    pairs = pairs.clamp(min=0).cummin(0).values
    return n * chains / (2 * pairs.sum(0) - 1).clamp(min=1.0)


def swap(path: Path, replicas: Tensor, betas: Float[Tensor, "R"], odd: bool) -> Tensor:
    """Parallel tempering's exchange: neighbours (0,1), (2,3), … or, if `odd`, (1,2), (3,4), … trade
    states.

        accept with min(1, exp[E_r(x_r) + E_{r+1}(x_{r+1}) − E_r(x_{r+1}) − E_{r+1}(x_r)])

    It leaves the product of all tempered densities invariant.

    Args:
        path: energies at each temperature.
        replicas: states (R, chains, *event), one row of chains a temperature.
        betas: the ladder, (R,).
        odd: which pairs.

    References: Swendsen and Wang (1986), "Replica Monte Carlo simulation of spin glasses";
        Desjardins, Courville, Bengio, Vincent and Delalleau (2010), "Tempered Markov chain Monte
        Carlo for training of RBMs".
    """
    first = int(odd)
    low = torch.arange(first, len(betas) - 1, 2, device=replicas.device)
    high = low + 1
    a, b, cold, hot = (
        replicas[low],
        replicas[high],
        betas[high].unsqueeze(1),
        betas[low].unsqueeze(1),
    )
    gain = path.energy(a, hot) + path.energy(b, cold) - path.energy(b, hot) - path.energy(a, cold)
    accept = (torch.rand_like(gain).log() < gain).view(*gain.shape, *[1] * (replicas.dim() - 2))
    exchanged = replicas.clone()
    exchanged[low], exchanged[high] = torch.where(accept, b, a), torch.where(accept, a, b)
    return exchanged


def hamiltonian(
    energy: Callable[[Any], Tensor],
    z: Tensor,
    step_size: Tensor | float,
    leapfrogs: int = 10,
    event_dims: int = 1,
) -> tuple[Tensor, Tensor]:
    """One step of Hamiltonian Monte Carlo with momenta drawn afresh: reversible with respect to
    exp(−energy(z)).

        r ~ N(0, I);   L times:  r ← r − ε/2 ∇E(z),  z ← z + ε r,  r ← r − ε/2 ∇E(z)
        accept with min(1, exp[E(z) + ‖r‖²/2 − E(z′) − ‖r′‖²/2])

    Args:
        energy: z (*batch, *event) → (*batch).
        z: current states; every one is a chain of its own.
        step_size: ε, a number or (*batch).
        leapfrogs: L.
        event_dims: trailing dimensions of z that make one state; 0 where each number is one.

    Returns:
        The next states and the acceptance probabilities (*batch).

    References: Neal (2011), "MCMC using Hamiltonian dynamics".
    """
    step = (
        step_size.view(*step_size.shape, *[1] * event_dims)
        if isinstance(step_size, Tensor)
        else step_size
    )
    r = torch.randn_like(z)
    value, gradient = _with_gradient(energy, z)
    before = value + _kinetic(r, value)
    proposal = z
    for _ in range(leapfrogs):
        r = r - step / 2 * gradient
        proposal = proposal + step * r
        value, gradient = _with_gradient(energy, proposal)
        r = r - step / 2 * gradient
    after = value + _kinetic(r, value)
    probability = (before - after).exp().clamp(max=1.0).nan_to_num(0.0)
    accept = torch.rand_like(probability) < probability
    return torch.where(accept.view(*accept.shape, *[1] * event_dims), proposal, z), probability


@torch.no_grad()
def walk(kernel: Callable[[Any], Any], state: Any, steps: int) -> Any:
    """The state after so many steps of a kernel, without gradients."""
    for _ in range(steps):
        state = kernel(state)
    return state


def _kinetic(r: Tensor, value: Tensor) -> Tensor:
    """‖r‖²/2 of each chain, of the shape of its energy."""
    return r.square().reshape(*value.shape, -1).sum(-1) / 2


def _with_gradient(energy: Callable[[Any], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = energy(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient


def _split(draws: Tensor) -> Tensor:
    """Each chain cut into its two halves: (S, M, …) → (S/2, 2M, …), in float64."""
    if draws.dim() < 2 or len(draws) < 4 or draws.shape[1] == 0:
        raise ValueError(
            f"draws of shape {tuple(draws.shape)}: expected (draws, chains, …) with at least four"
            " draws a chain."
        )
    half = len(draws) // 2
    return torch.cat([draws[:half], draws[-half:]], dim=1).double()


def _variances(chains: Tensor) -> tuple[Tensor, Tensor]:
    """W within chains, and (n−1)/n W + B/n, which the disagreement of the chains makes larger."""
    n = len(chains)
    within = chains.var(0).mean(0)
    return within, (n - 1) / n * within + chains.mean(0).var(0)
