"""The picture of level 7's ratios of normalising constants."""

__all__ = ["NormalisingConstants"]

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from emgen.callbacks.picture import Picture
from emgen.evaluation.likelihood import evaluating
from emgen.figures.canvas import Drawing
from emgen.figures.normalising_constants import normalising_constants
from emgen.models.energy.boltzmann_machine import BoltzmannMachine


class NormalisingConstants(Picture):
    """Left, log Z of a trained machine by AIS, its reverse and bridges against enumeration; right,
    its Gibbs chains.

    Args:
        temperatures: lengths of the ladders.
        chains: of each estimator.
        sweeps: of the four Gibbs chains whose R̂ and effective sample size are reported.
        seed: of all draws; the global random state is left as it was.

    Raises:
        TypeError, ValueError: before training, of a model that is no Boltzmann machine of at most
            20 hidden units, which is what can be enumerated and drawn from exactly.
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
        self.temperatures = tuple(temperatures)
        self.chains, self.sweeps, self.seed = chains, sweeps, seed

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The start is not drawn; what could not be drawn at the end is refused here."""
        machine = pl_module.model
        if not isinstance(machine, BoltzmannMachine):
            raise TypeError(
                "the picture of normalising constants is one of a BoltzmannMachine, not of "
                f"{type(machine).__name__}: leave the callback out (callbacks.normalising=null)."
            )
        hidden = len(machine.hidden_bias)
        if hidden > 20:
            raise ValueError(
                f"hidden={hidden}: the picture of normalising constants enumerates the hidden "
                "units, at most 20; have fewer, or leave the callback out "
                "(callbacks.normalising=null)."
            )

    def draw(self, module: Any, x: Tensor) -> Drawing:
        machine = module.model
        with evaluating(machine, self.seed):
            return normalising_constants(machine, self.temperatures, self.chains, self.sweeps)
