"""Lightning's loggers where a run needs a little more of them: one event file, made for runs to be
compared in it, and rows that a resume keeps.
"""

__all__ = ["CSV", "LAYOUT", "TensorBoard"]

import csv
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

# one chart a quantity, in which all runs lie over one another
LAYOUT = {
    "trainers compared": {
        "log-likelihood of held-out rows, nats": ["Multiline", ["val/log_likelihood"]],
        "evidence lower bound of held-out rows, nats": ["Multiline", ["val/elbo"]],
        "evidence lower bound of training rows, nats": ["Multiline", ["train/elbo"]],
        "KL(q || posterior) of held-out rows, nats": ["Multiline", ["val/gap"]],
        "each trainer's own objective": ["Multiline", ["train/loss"]],
    }
}


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, kept open after training so that the test scores and hyper-parameters
    join the same file.

    The tab Custom Scalars lays the trainers' curves over one another.

    Args:
        save_dir: the run folder, in which the event file lies.
    """

    def __init__(self, save_dir: str):
        super().__init__(save_dir, name="", version="", default_hp_metric=False)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the event file, whose layout is written as it is opened."""
        opened = self._experiment is not None
        writer = super().experiment
        if not opened:
            writer.add_custom_scalars(LAYOUT)
        return writer

    @rank_zero_only
    def log_hyperparams(
        self, params: Any, metrics: Mapping[str, float] | None = None, step: int | None = None
    ) -> None:
        """Put a run into the table of the tab HParams.

        Only the run's own settings are written, no list of columns: TensorBoard takes such a list
        from whichever run it meets first, and would hide all that the others have beyond it.
        Without one its columns are the settings and scalars of all runs together.

        Args:
            params: settings by their names.
            metrics: scores by their tags; those that are not finite are left out.
            step: examples seen.
        """
        params = dict(params or {})
        self.hparams.update(params)
        if not metrics:  # Lightning's call before training, of a module's own arguments
            return
        finite = {tag: value for tag, value in metrics.items() if math.isfinite(value)}
        self.log_metrics(finite, step)
        writer = self.experiment._get_file_writer()
        _, start, end = hparams(params, {})
        writer.add_summary(start)
        writer.add_summary(end)
        Path(self.log_dir, self.NAME_HPARAMS_FILE).unlink(missing_ok=True)  # of training's end
        self.save()

    def finalize(self, status: str) -> None:
        self.experiment.flush()
        self.save()


class CSV(CSVLogger):
    """Lightning's logger, which goes on with the rows that are there when a run is resumed.

    Args:
        save_dir: the run folder.
        name, version: of the folders below it.
        prefix: of every tag.
        flush_logs_every_n_steps: rows are written when the number of examples seen is one less
            than a multiple of this; 1 writes each at once.
    """

    def __init__(
        self,
        save_dir: str,
        name: str = "csv",
        version: str = "",
        prefix: str = "",
        flush_logs_every_n_steps: int = 1,
    ):
        super().__init__(save_dir, name, version, prefix, flush_logs_every_n_steps)

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            before = _rows(Path(self.log_dir) / "metrics.csv")
            with warnings.catch_warnings():  # that the rows are about to be deleted
                warnings.simplefilter("ignore")
                writer: Any = super().experiment
            writer.metrics = before
        return super().experiment


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
