"""What the pictures of the levels share: noting a run epoch by epoch, drawing it at the end, colours of components."""

__all__ = ["COLOURS", "Picture", "scatter"]

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from emgen.data.base import Data

COLOURS = ("#2a6fdb", "#e8833a", "#2f9e63", "#c8433f", "#8a63c7", "#8c6d52", "#d670b1", "#4d4d4d")


class Picture(lightning.Callback, ABC):
    """Notes something of the model at an explicit start and after every epoch; at the end draws it to `figures/<name>.png`.

    Nothing here draws random numbers, and the notes go into checkpoints, so a run is the same with and without its
    picture, and a resumed run draws the same one.
    """

    name: str
    size: tuple[float, float] = (10.0, 4.2)

    def __init__(self) -> None:
        self.notes: list[dict[str, Tensor]] = []

    @abstractmethod
    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        """What is remembered of the trainer's model now."""

    @abstractmethod
    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        """Draw the notes; returns the figures to be reported, by name."""

    def state_dict(self) -> dict[str, Any]:
        return {"notes": self.notes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.notes = state_dict["notes"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not self.notes and bool(getattr(pl_module.model, "started", False)):
            self._note(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._note(trainer, pl_module)

    @torch.no_grad()
    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        figure = Figure(figsize=self.size, dpi=110, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        found = self.draw(figure, pl_module, _rows(trainer, pl_module))
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        path = Path(trainer.default_root_dir) / "figures" / f"{self.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    self.name, pixels, pl_module.examples, dataformats="HWC"
                )
        pl_module.row = {
            **pl_module.row,
            **{f"{self.name}/{key}": value for key, value in found.items()},
        }
        if found:
            print(", ".join(f"{key} {value:.8g}" for key, value in found.items()))

    @torch.no_grad()
    def _note(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        noted = self.note(pl_module, _rows(trainer, pl_module))
        self.notes.append({key: value.detach().clone() for key, value in noted.items()})

    def _noted(self, key: str) -> Tensor:
        """One note of every epoch that has it, (T, …)."""
        return torch.stack([note[key] for note in self.notes if key in note]).cpu()


def scatter(axes: Axes, x: Tensor, r: Tensor) -> None:
    """Points (N, 2) in the colours of their components, mixed as their responsibilities r (N, K) are; the undecided are ringed."""
    palette = np.array([to_rgb(COLOURS[k % len(COLOURS)]) for k in range(r.shape[1])])
    undecided = (-torch.xlogy(r, r).sum(1) / np.log(max(2, r.shape[1]))).cpu().numpy()
    axes.scatter(
        *x.T.cpu().numpy(),
        s=18,
        c=(r.cpu().numpy() @ palette).clip(0, 1),
        edgecolors="black",
        linewidths=2 * undecided,
    )


def _rows(trainer: lightning.Trainer, module: Any) -> Tensor:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, Data):
        raise TypeError(
            "pictures of a level need data in memory, an emgen.data.Data: set callbacks of that name to null."
        )
    return data.observed("train").to(module.device)
