"""Laws of Markov kernels."""

__all__ = ["geweke"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def geweke(
    draw: Callable[[int], Any],
    kernel: Callable[[Any], Any],
    statistics: Callable[[Any], Tensor],
    *,
    chains: int = 10_000,
    steps: int = 3,
    limit: float = 4.5,
    seed: int = 0,
) -> Tensor:
    """Check that a Markov kernel leaves a joint distribution invariant, from exact draws of that
    joint.

    For a sampler of parameters and latents the joint is p(θ, z, x): `draw` simulates it from the
    prior down, `kernel` makes one sweep of the sampler and then draws x afresh given θ and z. For a
    Boltzmann machine the joint is p(v), enumerated. Every chain starts at equilibrium and must stay
    there, so no burn-in and no autocorrelation enter:

        z_k = mean_i [f_k(x_i after) − f_k(x_i before)] / standard error,   near N(0, 1) if the
        kernel is right

    Args:
        draw: n → a state of n independent exact draws.
        kernel: one step of all n chains at once (a state may be a list where a sampler knows one
            chain alone).
        statistics: state → (n, k), functions whose means are compared; squares and products catch
            more than means.
        chains: n.
        steps: how often the kernel is applied between the two sides.
        limit: the largest |z| that passes; 4.5 is exceeded by chance once in 150,000 statistics.
        seed: of all random numbers; the global random state is left as it was.

    Returns:
        The z-scores (k,).

    Raises:
        AssertionError: naming the statistics that moved, and by how many standard errors (nan: they
            became no numbers).
        ValueError: fewer than two chains, no step, or statistics that are not of shape (n, k).

    References: Geweke (2004), "Getting it right: joint distribution tests of posterior simulators".

    >>> flip = lambda x: x * (1 - 2 * (torch.rand_like(x) < 0.5).float())
    >>> z = geweke(lambda n: torch.randn(n, 1), flip, lambda x: torch.cat([x, x**2], 1))
    """
    if chains < 2 or steps < 1:
        raise ValueError(
            f"chains={chains}, steps={steps}: expected at least two chains, whose spread is the"
            " error, and one step."
        )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        state = draw(chains)
        before = (
            statistics(state).double().clone()
        )  # they may be a view of a state that the kernel changes in place
        if before.dim() != 2 or len(before) != chains:
            raise ValueError(
                f"statistics of shape {tuple(before.shape)}: expected ({chains}, k), one row a"
                " chain."
            )
        for _ in range(steps):
            state = kernel(state)
        moved = statistics(state).double() - before
    error = moved.std(0) / chains**0.5
    z = torch.where((moved == 0).all(0), 0.0, moved.mean(0) / error)
    wrong = {k: round(float(value), 1) for k, value in enumerate(z) if not abs(value) <= limit}
    assert not wrong, (
        f"the kernel moves the means of statistics {wrong} (in standard errors): it does not leave"
        " the joint invariant"
    )
    return z
