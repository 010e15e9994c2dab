"""Pictures of what a model draws and of how it sees the data, from the same noise every time."""

__all__ = ["Figures", "draw", "picture", "samples_of"]

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from emgen.data.base import Data
from emgen.evaluation.likelihood import evaluating
from emgen.roles import Latent, Recognition, serves

COLUMNS = 8
POINTS = 2_000  # of two-dimensional data; images are fewer
TILE, GAP = 56, 3  # pixels that a small image is enlarged to, and between images
log = logging.getLogger(__name__)


class Figures(lightning.Callback):
    """Writes `samples`, `reconstructions` and `filters` to the run's `figures` folder and, where there is one, to TensorBoard.

    Images become a grid of means E[x|z] (reconstructions stand below what was seen), two-dimensional points a scatter
    against the data; other shapes are skipped. Filters run from black to white over their own range, for weights are
    small beside data, and of either sign. The noise is fixed and the random state restored, so that pictures
    compare over epochs and a run is the same with and without them.

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
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0 or trainer.current_epoch == 0:
            self._draw(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._draw(trainer, pl_module, trainer.current_epoch)

    def _draw(self, trainer: lightning.Trainer, pl_module: Any, epoch: int) -> None:
        data = getattr(trainer, "datamodule", None)
        if epoch == self._drawn or not trainer.is_global_zero or not isinstance(data, Data):
            return
        first, self._drawn = self._drawn < 0, epoch
        images = len(data.event_shape) == 3
        seen = data.observed("validation")[: self.n // 2 or 1 if images else POINTS]
        found: dict[str, np.ndarray | None] = {}
        with evaluating(pl_module.model, self.seed):
            drawn = samples_of(pl_module.model, self.n if images else POINTS)
            found["samples"] = None if drawn is None else picture(drawn, data.split("train"))
            if images and hasattr(pl_module.model, "filters"):
                filters = pl_module.model.filters()[: self.n]
                found["filters"] = picture(filters, filters)
            if serves(pl_module.model, Latent) and serves(pl_module.model, Recognition):
                found["reconstructions"] = picture(
                    _reconstructed(pl_module.model, seen), data.split("train"), seen
                )
        folder = Path(trainer.default_root_dir) / "figures"
        for name, pixels in found.items():
            if pixels is None:
                if first:
                    log.info(
                        "no picture of %s: data of shape %s are neither images (1 or 3, H, W) nor points (2,).",
                        name,
                        tuple(data.event_shape),
                    )
                continue
            folder.mkdir(parents=True, exist_ok=True)
            imsave(folder / f"{name}.png", pixels)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(name, pixels, pl_module.examples, dataformats="HWC")


def draw(x: Tensor, data: Tensor, path: Path) -> Path | None:
    """Write the picture of samples `x` beside their data to `path`; None if their shape cannot be drawn."""
    pixels = picture(x, data)
    if pixels is None:
        return None
    imsave(path, pixels)
    return path


def picture(x: Tensor, data: Tensor, seen: Tensor | None = None) -> np.ndarray | None:
    """RGB pixels (height, width, 3) of samples, or of reconstructions with what was seen; None for shapes beyond both.

    Args:
        x: samples or reconstructions, (N, 1 or 3, H, W) or (N, 2).
        data: the training rows, whose range sets black and white or the axes.
        seen: the rows that were reconstructed, in the order of `x`.

    >>> picture(torch.rand(16, 1, 8, 8), torch.rand(9, 1, 8, 8)).shape, picture(torch.rand(16, 5), torch.rand(9, 5))
    ((121, 475, 3), None)
    """
    x, seen = x.detach().float().cpu(), None if seen is None else seen.detach().float().cpu()
    if x.dim() == 4 and x.shape[1] in (1, 3):
        return _grid(x, data, seen)
    return _scatter(x, data, seen) if x.dim() == 2 and x.shape[1] == 2 else None


def samples_of(model: Any, n: int) -> Tensor | None:
    """`n` draws of a model as one wants to see them: images as means E[x|z]; None from a model that cannot be drawn from."""
    if serves(model, Latent):
        return _mean(model.likelihood(model.prior().sample(torch.Size((n,)))))
    draw = next(
        (getattr(model, name) for name in ("means", "rsample", "sample") if hasattr(model, name)),
        None,
    )
    draws = draw(n) if draw is not None else None
    return draws if isinstance(draws, Tensor) else None


def _reconstructed(model: Any, x: Tensor) -> Tensor:
    return _mean(model.likelihood(model.recognition(x).sample()))


def _mean(p: Any) -> Tensor:
    """The mean of images, a draw of anything else, whose spread is what one wants to see."""
    mean = p.mean if len(p.event_shape) == 3 else None
    return p.sample() if mean is None or not bool(mean.isfinite().all()) else mean


def _grid(x: Tensor, data: Tensor, seen: Tensor | None) -> np.ndarray:
    low, high = float(data.min()), float(data.max())
    enlarge = max(1, round(TILE / max(x.shape[-2:])))
    tiles = (((x - low) / ((high - low) or 1.0)).clamp(0, 1) * 255).byte()
    if seen is not None:
        above = (((seen - low) / ((high - low) or 1.0)).clamp(0, 1) * 255).byte()
        tiles = torch.cat([above, tiles], dim=2)
    tiles = tiles.repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3).expand(-1, 3, -1, -1)
    height, width = tiles.shape[-2] + GAP, tiles.shape[-1] + GAP
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    canvas = torch.full((rows * height + GAP, columns * width + GAP, 3), 128, dtype=torch.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * height + GAP, i % columns * width + GAP
        canvas[top : top + height - GAP, left : left + width - GAP] = tile.permute(1, 2, 0)
    return canvas.numpy()


def _scatter(x: Tensor, data: Tensor, seen: Tensor | None) -> np.ndarray:
    figure = Figure(figsize=(4.8, 4.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = (data if seen is None else seen)[:POINTS].detach().float().cpu()
    if seen is not None:
        axes.plot(*torch.stack([seen, x], 2).permute(1, 2, 0), color="0.8", linewidth=0.5, zorder=1)
    axes.scatter(*rows.T, s=22, color="0.78", linewidths=0, label="data")
    axes.scatter(
        *x.T,
        s=4,
        color="#2a6fdb",
        alpha=0.6,
        linewidths=0,
        label="samples" if seen is None else "reconstructions",
    )
    low, high = data.min(0).values.float().cpu(), data.max(0).values.float().cpu()
    margin = 0.15 * (high - low).clamp(min=1e-6)
    axes.set(
        xlim=((low - margin)[0], (high + margin)[0]), ylim=((low - margin)[1], (high + margin)[1])
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False, markerscale=2, fontsize=11)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
