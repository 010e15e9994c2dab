"""Estimators of log Z meet its exact value, and chains that mix or do not."""

__all__ = ["chain_energies", "constants_of", "exact_draws", "normalising_constants"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from emgen.estimators.chains import effective_sample_size, r_hat
from emgen.estimators.normalising import (
    annealed_importance_sampling,
    bridge_sampling,
    reverse_annealed_importance_sampling,
)
from emgen.figures.canvas import COLOURS, Drawing, blank
from emgen.models.energy.boltzmann_machine import BoltzmannMachine, binary_states

CHAINS = 4
SHIFTS = (0.93, 1.0, 1.07)  # so that three error bars stand side by side


def normalising_constants(
    machine: BoltzmannMachine, temperatures: Sequence[int], chains: int, sweeps: int
) -> Drawing:
    """Left, log Z by AIS, its reverse and bridges against enumeration; right, four Gibbs chains.

    Args:
        machine: of few enough hidden units to enumerate.
        temperatures: lengths of the ladders.
        chains: of each estimator.
        sweeps: of the Gibbs chains.
    """
    exact = float(machine.log_partition())
    found = constants_of(machine, temperatures, chains)
    energies = chain_energies(machine, sweeps)
    mixing, worth = float(r_hat(energies)), float(effective_sample_size(energies))

    figure = blank()
    left, right = figure.subplots(1, 2)
    _estimates_against(exact, left, found, temperatures)
    right.plot(energies.cpu(), linewidth=0.8)
    right.set(
        xlabel="Gibbs sweep",
        ylabel="energy of the state, nats",
        title=f"four chains: R̂ {mixing:.3f}, worth {worth:.0f} of {energies.numel()} draws",
    )

    numbers = {"log_z": exact}
    for name, estimates in found.items():
        numbers[name.replace(" ", "_")] = float(estimates[-1].value)
    numbers["error"] = float(found["AIS"][-1].error)
    numbers["r_hat"] = mixing
    numbers["chain_ess"] = worth
    return Drawing(figure, numbers)


def constants_of(
    machine: BoltzmannMachine, temperatures: Sequence[int], chains: int
) -> dict[str, list[Any]]:
    """log Z by each method along each ladder."""
    device = machine.weight.device
    ladders = [torch.linspace(0, 1, t, device=device) for t in temperatures]
    forwards = [annealed_importance_sampling(machine, betas, chains) for betas in ladders]
    backwards = []
    for betas in ladders:
        draws = exact_draws(machine, chains)
        backwards.append(reverse_annealed_importance_sampling(machine, draws, betas))
    bridges = []
    for betas in ladders:
        steps = max(1, 100 // len(betas))
        bridges.append(bridge_sampling(machine, betas, chains, sweeps=steps))
    return {"AIS": forwards, "reverse AIS": backwards, "bridges": bridges}


def exact_draws(machine: BoltzmannMachine, n: int) -> Tensor:
    """n draws of v, (n, *event), by enumeration of h."""
    h = binary_states(len(machine.hidden_bias), machine.hidden_bias)
    blocks = h.split(2**13)  # all at once would fill the memory
    log_p = torch.cat([machine.log_marginal(block) for block in blocks])
    chosen = torch.multinomial(log_p.softmax(0), n, replacement=True)
    return machine.likelihood(h[chosen]).sample()


def chain_energies(machine: BoltzmannMachine, sweeps: int) -> Tensor:
    """Energies (sweeps, 4) of chains from the base, their first fifth discarded."""
    state = machine.start(CHAINS)
    energies = []
    for _ in range(sweeps * 5 // 4):
        state = machine.gibbs(state)
        energies.append(machine.energy(state))
    return torch.stack(energies[-sweeps:])


def _estimates_against(
    exact: float, axes: Axes, found: Mapping[str, list[Any]], temperatures: Sequence[int]
) -> None:
    for (name, estimates), colour, shift in zip(found.items(), COLOURS, SHIFTS):
        places = [t * shift for t in temperatures]
        values = [float(estimate.value) for estimate in estimates]
        reach = [3 * float(estimate.error) for estimate in estimates]
        axes.errorbar(
            places, values, reach, fmt="o", markersize=4, capsize=3, color=colour, label=name
        )
    axes.axhline(exact, color="black", linewidth=1, label=f"exact, {exact:.3f}")
    axes.set(
        xscale="log",
        xlabel="temperatures",
        ylabel="log Z, nats",
        title="three standard errors reach the exact value",
    )
    axes.legend(frameon=False)
