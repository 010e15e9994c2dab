"""Lightning's loggers where a run needs a little more of them: one event file, and rows that a
resume keeps.
"""

__all__ = ["CSV", "TensorBoard"]

import csv
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, kept open after training so that the test scores and hyper-parameters
    join the same file.

    Args:
        save_dir: the run folder, in which the event file lies.
    """

    def __init__(self, save_dir: str):
        super().__init__(save_dir, name="", version="", default_hp_metric=False)

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
