"""One row of metrics an epoch, under one vocabulary of tags, to metrics.csv and to TensorBoard."""

__all__ = ["Metrics"]

import csv
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from emgen.data.base import Data
from emgen.evaluation.scores import scored, scores


class Metrics(lightning.Callback):
    """Writes `train/...` from the ledger and `val/...` from the validation rows; the x-axis is
    examples seen.

    Args:
        every_n_epochs: how often the validation rows are scored; they always are at the last epoch
            and a trainer's milestones.
        samples: draws of z per datum in the importance-weighted validation likelihood.
        rows: how many validation data are scored, from the first (documents of a corpus); null
            scores all.
    """

    def __init__(self, every_n_epochs: int = 1, samples: int = 10, rows: int | None = 1000):
        if every_n_epochs < 1 or samples < 1 or (rows is not None and rows < 1):
            raise ValueError(
                f"every_n_epochs={every_n_epochs}, samples={samples}, rows={rows}: each must be at"
                " least 1."
            )
        self.every_n_epochs, self.samples, self.rows = every_n_epochs, samples, rows
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._clock = 0.0
        self._columns: list[str] = []  # of the file as it stands

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds + (time.perf_counter() - self._clock if self._clock else 0.0),
            "history": self.history,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.history = state_dict["seconds"], state_dict["history"]

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        pl_module.row = self.history[-1] if self.history else {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._clock, self._columns = time.perf_counter(), []

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._clock = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # neither scoring, drawing nor saving is training
        self.seconds += time.perf_counter() - self._clock
        self._clock = 0.0

        epoch = trainer.current_epoch + 1
        row: dict[str, float] = {
            "epoch": epoch,
            "examples": pl_module.examples,
            "seconds": self.seconds,
        }
        row |= {f"train/{name}": value for name, value in pl_module.ledger.means().items()}
        due = epoch % self.every_n_epochs == 0 or epoch in (
            trainer.max_epochs,
            *pl_module.milestones,
        )
        if due and not _has_validation_loop(trainer):
            validated = self._validated(pl_module)
            pl_module.log_dict(validated)  # to every logger, and to callbacks that monitor one
            row |= validated
        if pl_module.validated[0] == trainer.current_epoch:  # Lightning's own loop has scored them
            row |= pl_module.validated[1]

        pl_module.row = row
        self.history.append(row)
        if trainer.is_global_zero:
            self._write(trainer, row)

    def _validated(self, pl_module: Any) -> dict[str, float]:
        """The scores of the first validation data; none where the data are not in memory."""
        data = pl_module.trainer.datamodule
        if not isinstance(data, Data):
            return {}
        x = scored(pl_module.model, data, "validation", self.rows).x
        found = scores(pl_module.model, x, self.samples)
        return {f"val/{name}": estimate.value for name, estimate in found.items()}

    def _write(self, trainer: lightning.Trainer, row: dict[str, float]) -> None:
        path = Path(trainer.default_root_dir) / "metrics.csv"
        if self._columns and set(row) <= set(
            self._columns
        ):  # a long run would pay for all its rows at each
            with open(path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._columns = write_csv(path, self.history)


def _has_validation_loop(trainer: lightning.Trainer) -> bool:
    """Whether Lightning scores validation rows itself, by `validation_step`."""
    return bool(trainer.enable_validation and sum(trainer.num_val_batches))


def write_csv(path: Path, history: list[dict[str, float]]) -> list[str]:
    """The whole history as a table, with a column for every tag that occurs; written beside and
    renamed. Returns the columns.
    """
    columns = list(dict.fromkeys(tag for row in history for tag in row))
    beside = path.with_suffix(".csv.part")
    with open(beside, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(history)
    beside.replace(path)
    return columns
