"""A progress bar over the whole run, and plain lines where there is no terminal."""

__all__ = ["Progress"]

from typing import Any

import pytorch_lightning as lightning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress(lightning.Callback):
    """Shows epochs, time left, examples a second and the latest bound; costs one refresh a block of
    batches.

    Args:
        lines: without a terminal, how many lines a run prints.

    Raises:
        ValueError: fewer than one line.
    """

    def __init__(self, lines: int = 10):
        if lines < 1:
            raise ValueError(
                f"lines={lines}: a run prints at least one line; give an integer >= 1, or"
                " callbacks.progress=null for none."
            )
        self.lines = lines
        self.console = Console(stderr=True)
        self._bar: Bar | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is spawned: a terminal is its own."""
        return {"lines": self.lines}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("epochs"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._bar = Bar(*columns, console=self.console, refresh_per_second=5)
            epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
            self._bar.add_task(type(pl_module).__name__, total=epochs, state="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            part = (batch_idx + 1) / max(1, trainer.num_training_batches)
            self._bar.update(self._bar.task_ids[0], completed=trainer.current_epoch + part)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        state = _state(pl_module.row)
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=trainer.current_epoch + 1, state=state
            )
        elif trainer.is_global_zero and trainer.max_epochs:
            done, every = trainer.current_epoch + 1, max(1, trainer.max_epochs // self.lines)
            if done % every == 0 or done == trainer.max_epochs:
                self.console.print(
                    f"{type(pl_module).__name__} epoch {done}/{trainer.max_epochs}  {state}",
                    highlight=False,
                    soft_wrap=True,
                )

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _state(row: dict[str, float]) -> str:
    tags = ("val/log_likelihood", "train/elbo", "val/elbo", "train/bound", "train/loss")
    shown = [f"{tag} {row[tag]:.4g}" for tag in tags if tag in row][:2]
    speed = row["examples"] / row["seconds"] if row.get("seconds") else 0.0
    return ", ".join([*shown, f"{speed:,.0f} examples/s"])
