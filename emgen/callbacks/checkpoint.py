"""Checkpoints that survive a crash, and interruptions that lose nothing."""

__all__ = ["AtomicCheckpointIO", "Checkpoint", "Interrupted", "damage"]

import math
import os
import pickle
import signal
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint as LightningCheckpoint
from torch import distributed

from emgen.trainers.processes import count


class Interrupted(BaseException):
    """A signal stopped the run, whatever it was at; `signum` says which.

    No error, so nothing that catches errors takes it for one.
    """

    def __init__(self, signum: int, path: Path):
        super().__init__(
            f"stopped by {signal.Signals(signum).name}; everything up to here is in {path}"
        )
        self.signum, self.path = signum, path


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, flushes to the disk and renames, keeping the checkpoint before as
    `*.previous`.

    A reader therefore sees the old file or the new one, never half of one. Loading verifies the
    archive's own CRC-32 sums and unpickles nothing but tensors and plain containers
    (`weights_only=True`).

    Raises:
        OSError: the folder cannot be written.
        ValueError: a checkpoint that is loaded is damaged.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                previous = target.with_name(f"{target.name}.previous")
                previous.unlink(missing_ok=True)
                os.link(target, previous)
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        reason = damage(path)
        if reason:
            raise ValueError(
                f"the checkpoint {path} is damaged ({reason}): the one before it is"
                f" {path}.previous; copy that over it to go on from there."
            )
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"the checkpoint {path} holds more than tensors and plain containers, which"
                " weights_only=True does not load: it was not written by this program."
            ) from error

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def damage(path: str | Path) -> str:
    """What is wrong with a checkpoint by the archive's own sums, in words; empty if it is whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # each byte of an archive that lies has an exception of its own
        return str(error) or type(error).__name__
    return f"{broken} does not add up" if broken else ""


class Checkpoint(LightningCheckpoint):
    """Keeps `checkpoints/last.ckpt` and `checkpoints/best.ckpt`; on SIGTERM or Ctrl-C saves and
    raises `Interrupted`.

    A second signal is not held back.

    Args:
        every_n_epochs: how often `last.ckpt` is written; the end of training always writes it.
        monitor: the tag, larger is better, whose record makes `best.ckpt`; a run without that tag
            keeps no best.
    """

    def __init__(self, every_n_epochs: int = 1, monitor: str = "val/log_likelihood"):
        if every_n_epochs < 1:
            raise ValueError(
                f"every_n_epochs={every_n_epochs}: checkpoints are written every 1, 2, ... epochs."
            )
        self.every_n_epochs, self.monitor = every_n_epochs, monitor
        self.best = -math.inf
        self._signum: int | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._handlers = {
            s: signal.signal(s, self._remember) for s in (signal.SIGTERM, signal.SIGINT)
        }

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        # at the end of an epoch the hooks that close it come first, then the signal is heard
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self._heard(trainer) and not last:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        value = pl_module.row.get(self.monitor)
        # the first process decides for all, who save together
        if trainer.strategy.broadcast(value is not None and value > self.best):
            self.best = value
            trainer.save_checkpoint(_path(trainer, "best"))
        if self._heard(trainer):
            self._stop(trainer)
        done = trainer.current_epoch + 1
        if done % self.every_n_epochs == 0 or done == trainer.max_epochs or trainer.should_stop:
            trainer.save_checkpoint(_path(trainer, "last"))

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}

    def _remember(self, signum: int, frame: Any) -> None:
        self._signum = signum
        for caught, handler in self._handlers.items():
            signal.signal(caught, handler)

    def _heard(self, trainer: lightning.Trainer) -> bool:
        """Whether a signal has come, to any of the processes, who stop together."""
        if count() > 1:
            signum = torch.tensor(self._signum or 0, device=trainer.strategy.root_device)
            distributed.all_reduce(signum, distributed.ReduceOp.MAX)
            self._signum = int(signum) or None
        return self._signum is not None

    def _stop(self, trainer: lightning.Trainer) -> None:
        path = _path(trainer, "last")
        trainer.save_checkpoint(path)
        raise Interrupted(self._signum or signal.SIGTERM, path)


def _path(trainer: lightning.Trainer, name: str) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"
