"""The picture of level 7's ratios of normalising constants: estimators meeting an exact log Z, and chains that mix or do not."""

__all__ = ["NormalisingConstants"]

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emgen.callbacks.picture import COLOURS, Picture
from emgen.estimators.chains import effective_sample_size, r_hat
from emgen.estimators.normalising import (
    annealed_importance_sampling,
    bridge_sampling,
    reverse_annealed_importance_sampling,
)
from emgen.evaluation.likelihood import evaluating
from emgen.models.energy.boltzmann_machine import BoltzmannMachine, binary_states


class NormalisingConstants(Picture):
    """Left, log Z of a trained machine by AIS, its reverse and bridges against enumeration; right, its Gibbs chains.

    Args:
        temperatures: lengths of the ladders.
        chains: of each estimator.
        sweeps: of the four Gibbs chains whose R̂ and effective sample size are reported.
        seed: of all draws; the global random state is left as it was.

    Raises:
        TypeError, ValueError: before training, of a model that is no Boltzmann machine of at most 20 hidden units, which is
            what can be enumerated and drawn from exactly.
    """

    name = "normalising"

    def __init__(
        self,
        temperatures: Sequence[int] = (3, 10, 30, 100, 300, 1000),
        chains: int = 200,
        sweeps: int = 500,
        seed: int = 0,
    ):
        super().__init__()
        self.temperatures, self.chains, self.sweeps, self.seed = (
            tuple(temperatures),
            chains,
            sweeps,
            seed,
        )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The start is not drawn; what could not be drawn at the end is refused here."""
        machine = pl_module.model
        if not isinstance(machine, BoltzmannMachine):
            raise TypeError(
                f"the picture of normalising constants is one of a BoltzmannMachine, not of {type(machine).__name__}: leave "
                "the callback out (callbacks.normalising=null)."
            )
        if len(machine.hidden_bias) > 20:
            raise ValueError(
                f"hidden={len(machine.hidden_bias)}: the picture of normalising constants enumerates the hidden units, at "
                "most 20; have fewer, or leave the callback out (callbacks.normalising=null)."
            )

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        machine: BoltzmannMachine = module.model
        left, right = figure.subplots(1, 2)
        with evaluating(machine, self.seed):
            exact = float(machine.log_partition())
            found = self._estimates(machine)
            energies = self._chains(machine)
        for (name, estimates), colour, shift in zip(found.items(), COLOURS, (0.93, 1.0, 1.07)):
            places = [t * shift for t in self.temperatures]
            values, errors = (
                [float(getattr(e, what)) for e in estimates] for what in ("value", "error")
            )
            left.errorbar(
                places,
                values,
                [3 * e for e in errors],
                fmt="o",
                markersize=4,
                capsize=3,
                color=colour,
                label=name,
            )
        left.axhline(exact, color="black", linewidth=1, label=f"exact, {exact:.3f}")
        left.set(
            xscale="log",
            xlabel="temperatures",
            ylabel="log Z, nats",
            title="three standard errors reach the exact value",
        )
        left.legend(frameon=False)
        mixing, worth = float(r_hat(energies)), float(effective_sample_size(energies))
        right.plot(energies.cpu(), linewidth=0.8)
        right.set(
            xlabel="Gibbs sweep",
            ylabel="energy of the state, nats",
            title=f"four chains: R̂ {mixing:.3f}, worth {worth:.0f} of {energies.numel()} draws",
        )
        last = {
            name.replace(" ", "_"): float(estimates[-1].value) for name, estimates in found.items()
        }
        return {
            "log_z": exact,
            **last,
            "error": float(found["AIS"][-1].error),
            "r_hat": mixing,
            "chain_ess": worth,
        }

    def _estimates(self, machine: BoltzmannMachine) -> dict[str, list[Any]]:
        ladders = [torch.linspace(0, 1, t, device=machine.weight.device) for t in self.temperatures]
        return {
            "AIS": [annealed_importance_sampling(machine, betas, self.chains) for betas in ladders],
            "reverse AIS": [
                reverse_annealed_importance_sampling(machine, self._exact_draws(machine), b)
                for b in ladders
            ],
            "bridges": [
                bridge_sampling(machine, betas, self.chains, sweeps=max(1, 100 // len(betas)))
                for betas in ladders
            ],
        }

    def _exact_draws(self, machine: BoltzmannMachine) -> Tensor:
        h = binary_states(len(machine.hidden_bias), machine.hidden_bias)
        log_p = torch.cat(
            [machine.log_marginal(block) for block in h.split(2**13)]
        )  # all at once would fill the memory
        return machine.likelihood(
            h[torch.multinomial(log_p.softmax(0), self.chains, replacement=True)]
        ).sample()

    def _chains(self, machine: BoltzmannMachine) -> Tensor:
        """Energies (sweeps, 4) of chains from the base, their first fifth discarded."""
        state, energies = machine.start(4), []
        for _ in range(self.sweeps * 5 // 4):
            state = machine.gibbs(state)
            energies.append(machine.energy(state))
        return torch.stack(energies[-self.sweeps :])
