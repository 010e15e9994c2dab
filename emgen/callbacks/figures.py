"""Pictures of what a model draws and of how it sees the data, from the same noise every time."""

__all__ = ["Figures"]

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
from matplotlib.image import imsave

from emgen.callbacks.picture import log_image
from emgen.data.base import Data
from emgen.evaluation.likelihood import evaluating
from emgen.figures.point_cloud import POINTS
from emgen.figures.samples import picture, reconstructions_of, samples_of
from emgen.roles import Latent, Recognition, serves

RANGE = 2**16  # training rows whose range sets a picture's axes

log = logging.getLogger(__name__)


class Figures(lightning.Callback):
    """Writes `samples`, `reconstructions` and `filters` to the run's `figures` folder and, where
    there is one, to TensorBoard.

    Images become a grid of means E[x|z] (reconstructions stand below what was seen),
    two-dimensional points a scatter against the data; other shapes are skipped. Filters run from
    black to white over their own range, for weights are small beside data, and of either sign. The
    noise is fixed and the random state restored, so that pictures compare over epochs and a run is
    the same with and without them.

    Args:
        every_n_epochs: how often; the first and the last epoch are always drawn.
        n: images in a grid.
        seed: of the noise.
    """

    def __init__(self, every_n_epochs: int = 10, n: int = 64, seed: int = 0):
        if every_n_epochs < 1 or n < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs}, n={n}: each must be at least 1.")
        self.every_n_epochs, self.n, self.seed = every_n_epochs, n, seed
        self._drawn = -1

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or epoch == 1:
            self._draw(trainer, pl_module, epoch)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._draw(trainer, pl_module, trainer.current_epoch)

    def _draw(self, trainer: lightning.Trainer, pl_module: Any, epoch: int) -> None:
        data = getattr(trainer, "datamodule", None)
        if epoch == self._drawn or not trainer.is_global_zero or not isinstance(data, Data):
            return
        first, self._drawn = self._drawn < 0, epoch
        folder = Path(trainer.default_root_dir) / "figures"
        with evaluating(pl_module.model, self.seed):
            found = self._pictures(pl_module.model, data)
        for name, pixels in found.items():
            if pixels is not None:
                folder.mkdir(parents=True, exist_ok=True)
                imsave(folder / f"{name}.png", pixels)
                log_image(trainer, name, pixels, pl_module.examples)
            elif first:
                log.info(
                    "no picture of %s: data of shape %s are neither images (1 or 3, H, W) nor"
                    " points (2,).",
                    name,
                    tuple(data.event_shape),
                )

    def _pictures(self, model: Any, data: Data) -> dict[str, np.ndarray | None]:
        """Pixels by name; None of what has no picture."""
        images = len(data.event_shape) == 3
        train = data.split("train", RANGE)
        found: dict[str, np.ndarray | None] = {}

        drawn = samples_of(model, self.n if images else POINTS)
        found["samples"] = None if drawn is None else picture(drawn, train)

        if images and hasattr(model, "filters"):
            filters = model.filters()[: self.n]
            found["filters"] = picture(filters, filters)

        if serves(model, Latent) and serves(model, Recognition):
            pairs = max(1, self.n // 2)  # each takes two places of the grid
            seen = data.first("validation", pairs if images else POINTS)[:]
            found["reconstructions"] = picture(reconstructions_of(model, seen), train, seen)
        return found
