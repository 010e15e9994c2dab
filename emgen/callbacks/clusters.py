"""Pictures of a mixture's clusters: points in the colours of their components, and who is drawn
together with whom.
"""

__all__ = ["Clusters", "CoClustering"]

from functools import partial
from typing import Any

import torch
from torch import Tensor

from emgen.callbacks.picture import Picture
from emgen.figures.canvas import Drawing
from emgen.figures.co_clustering import co_clustering
from emgen.figures.mixture_ellipses import bound_history, mixture_ellipses, weight_history


class Clusters(Picture):
    """Two-dimensional data in the colours of their components, ellipses of two standard deviations,
    and their history.

    A component without rows, one that the belief has pruned, is not drawn; rows that are undecided
    are ringed.

    Args:
        beside: what is drawn by epoch beside them: the `bound`, or the `weights` of the components.
        axes: names of the two features.
    """

    name = "clusters"

    def __init__(self, beside: str = "bound", axes: tuple[str, str] | list[str] = ("x₁", "x₂")):
        super().__init__()
        if beside not in ("bound", "weights"):
            raise ValueError(f"beside={beside!r}: expected 'bound' or 'weights'.")
        if len(axes) != 2:
            raise ValueError(f"axes={list(axes)}: expected the names of two features.")
        self.beside, self.axes = beside, list(axes)

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        bounds = {
            half_step: torch.tensor(value, dtype=torch.float64)
            for half_step, value in module.bounds
        }
        model = module.model
        return {"mean": model.components.mean, "weights": model.weights.mean, **bounds}

    def draw(self, module: Any, x: Tensor) -> Drawing:
        if self.beside == "weights":
            history = partial(weight_history, weights=self._noted("weights"))
        else:
            history = partial(bound_history, e=self._noted("E-step"), m=self._noted("M-step"))
        model = module.model
        belief = module.latents(model.posterior(x))
        return mixture_ellipses(model, x, belief.probs, self._noted("mean"), history, self.axes)


class CoClustering(Picture):
    """What a Gibbs sampler says of a mixture: the means it draws, and p(z_i = z_j | x) of every
    pair of rows.

    Each draw of θ counts with Σ_k r_ik r_jk, its expectation of [z_i = z_j], which relabelling does
    not change. Where there are few enough partitions, the exact matrix stands beside it.

    Args:
        burn_in: sweeps left out of the average.
        shown: sweeps whose means are drawn, the last ones.
    """

    name = "co_clustering"

    def __init__(self, burn_in: int = 100, shown: int = 500):
        super().__init__()
        if burn_in < 0 or shown < 1:
            raise ValueError(
                f"burn_in={burn_in}, shown={shown}: expected 0 or more, and 1 or more."
            )
        self.burn_in, self.shown = burn_in, shown
        self.sweeps = 0
        self.together: Tensor | None = None  # Σ over sweeps of p(z_i = z_j | x, θ)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sweeps": self.sweeps, "together": self.together}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.sweeps, self.together = state_dict["sweeps"], state_dict["together"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.max_epochs <= self.burn_in:
            raise ValueError(self._nothing_left(trainer.max_epochs))

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        self.sweeps += 1
        if self.sweeps > self.burn_in:
            r = module.model.posterior(x).probs
            pairs = r @ r.T
            self.together = pairs if self.together is None else self.together.to(pairs) + pairs
        del self.notes[: max(0, len(self.notes) + 1 - self.shown)]
        return {"mean": module.model.components.mean[:, 0]}

    def draw(self, module: Any, x: Tensor) -> Drawing:
        if self.together is None:
            raise ValueError(self._nothing_left(self.sweeps))
        together = self.together / (self.sweeps - self.burn_in)
        return co_clustering(module.model, x, together, self._noted("mean"), self.sweeps)

    def _nothing_left(self, sweeps: int) -> str:
        return (
            f"burn_in={self.burn_in} leaves none of {sweeps} sweeps: lower it or raise "
            "lightning.max_epochs."
        )
