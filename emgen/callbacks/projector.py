"""The latent space of a model as a cloud of points, in TensorBoard's projector."""

__all__ = ["Projector"]

import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn import functional

from emgen.data.base import Data
from emgen.evaluation.codes import codes
from emgen.evaluation.likelihood import evaluating
from emgen.roles import Recognition, serves

LEAST = 20  # rows; a handful of points is no cloud, and UMAP looks at 15 neighbours
AXES = 3  # of the projector, which draws nothing of fewer: missing ones are zero
SPRITE = 8192  # pixels, the widest picture that the projector takes


class Projector(lightning.Callback):
    """Shows where the encoder puts the validation rows, the means of q(z|x), once training ends.

    Images stand beside their points, and points have the colours of their labels, where the data
    have either. Nothing is written without a TensorBoard, an encoder whose distribution has a mean
    and 20 rows.

    Args:
        rows: how many are shown at the most, from the first.
    """

    def __init__(self, rows: int = 1000):
        if rows < LEAST:
            raise ValueError(f"rows={rows}: a cloud of points needs {LEAST} or more.")
        self.rows = rows

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        data = getattr(trainer, "datamodule", None)
        loggers = [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]
        if not loggers or not trainer.is_global_zero or not isinstance(data, Data):
            return
        z = self._means(pl_module.model, data, pl_module.device)
        if z is None:
            return
        for logger in loggers:
            _write(logger.experiment, z, _pictures(data, len(z)), _labels(data, len(z)))

    def _means(self, model: Any, data: Data, device: torch.device) -> Tensor | None:
        """E[z|x], (N, L or 3), of the first validation rows; None where that is no cloud of points."""
        if not serves(model, Recognition) or data.datum != "row":
            return None
        x = data.first("validation", self.rows).to(device)
        if len(x) < LEAST:
            return None
        with evaluating(model, seed=0):
            try:
                z = codes(model, x)
            except TypeError:  # known by its draws alone
                return None
        if not isinstance(z, Tensor) or len(z) != len(x):
            return None
        z = z.flatten(1)
        if not bool(z.isfinite().all()):
            return None
        return functional.pad(z, (0, max(0, AXES - z.shape[1])))


def _write(writer: Any, z: Tensor, pictures: Tensor | None, labels: list[str] | None) -> None:
    """The files of the projector, in place of those that an earlier part of the run left."""
    shutil.rmtree(Path(writer.get_logdir()) / "00000" / "latents", ignore_errors=True)
    writer.add_embedding(z.cpu(), metadata=labels, label_img=pictures, tag="latents")


def _pictures(data: Data, n: int) -> Tensor | None:
    """Square images of the first validation rows, (n, C, S, S), where they are such."""
    shape = data.event_shape
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        return None
    columns = int(n**0.5) + 1
    if columns * shape[2] > SPRITE:
        return None
    return data.split("validation")[:n].float().cpu()


def _labels(data: Data, n: int) -> list[str] | None:
    """Labels of the first validation rows, if the data have any."""
    split = "validation" if "validation" in data.rows else "train"
    labels = getattr(data, "labels", {}).get(split)
    return None if labels is None else [str(label) for label in labels[:n]]
