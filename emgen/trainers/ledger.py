"""The ledger: what each half-step reported, kept as tensors on the device until somebody reads it."""

__all__ = ["Ledger"]

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from emgen.trainers.processes import count, summed_together


class Ledger:
    """Running means over an epoch of every named quantity; nothing is synchronised before `means`
    is asked for.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def record(self, parts: Mapping[str, Tensor], count: int = 1) -> None:
        """Add the sum of `count` observations of each named scalar."""
        for name, value in parts.items():
            seen = self.sums.get(name)
            self.sums[name] = value if seen is None else seen + value
            self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        """The mean of each quantity since the ledger was last cleared, over all processes, each of
        which must ask; infinite where one of its values was.

        Raises:
            FloatingPointError: a mean is not a number; names the quantity.
        """
        means = {
            name: float(total) / (self.counts[name] * count())
            for name, total in summed_together(self.sums).items()
        }
        for name, mean in means.items():
            if math.isnan(mean):
                raise FloatingPointError(
                    f"the mean of {name} over {self.counts[name]} steps is not a number, for one of"
                    " its values was none, or two were infinite with opposite signs: lower the"
                    " learning rate, set trainer.clip, or check the data."
                )
        return means

    def clear(self) -> None:
        self.sums, self.counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
