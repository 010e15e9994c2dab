"""What the pictures of the levels share: noting a run epoch by epoch, and drawing it at the end."""

__all__ = ["Picture", "log_image"]

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from emgen.data.base import Data
from emgen.figures.canvas import Drawing, saved


class Picture(lightning.Callback, ABC):
    """Notes something of the model at an explicit start and after every epoch; at the end draws it
    to `figures/<name>.png`.

    Nothing here draws random numbers, and the notes go into checkpoints, so a run is the same with
    and without its picture, and a resumed run draws the same one.
    """

    name: str

    def __init__(self) -> None:
        self.notes: list[dict[str, Tensor]] = []

    @abstractmethod
    def draw(self, module: Any, x: Tensor) -> Drawing:
        """The picture of the notes, and the figures to be reported."""

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        """What is remembered of the trainer's model now; nothing where the picture is one of the
        end alone.
        """
        return {}

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
        drawing = self.draw(pl_module, _rows(trainer, pl_module))
        path = Path(trainer.default_root_dir) / "figures" / f"{self.name}.png"
        pixels = saved(drawing.figure, path)
        log_image(trainer, self.name, pixels, pl_module.examples)

        told = drawing.numbers
        tagged = {f"{self.name}/{key}": value for key, value in told.items()}
        pl_module.row = {**pl_module.row, **tagged}
        if told:
            print(", ".join(f"{key} {value:.8g}" for key, value in told.items()))

    @torch.no_grad()
    def _note(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        noted = self.note(pl_module, _rows(trainer, pl_module))
        self.notes.append({key: value.detach().clone() for key, value in noted.items()})

    def _noted(self, key: str) -> Tensor:
        """One note of every epoch that has it, (T, …)."""
        return torch.stack([note[key] for note in self.notes if key in note]).cpu()


def log_image(trainer: lightning.Trainer, name: str, pixels: np.ndarray, examples: int) -> None:
    """Pixels (height, width, 3) to every TensorBoard of a run, by examples seen."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, examples, dataformats="HWC")


def _rows(trainer: lightning.Trainer, module: Any) -> Tensor:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, Data):
        raise TypeError(
            "pictures of a level need data in memory, an emgen.data.Data: "
            "set callbacks of that name to null."
        )
    return data.first("train")[:].to(module.device)
