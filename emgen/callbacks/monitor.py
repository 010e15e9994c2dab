"""Callbacks of Lightning that watch a recorded tag, which here may be recorded less often than once
an epoch.
"""

__all__ = ["EarlyStopping", "TopK"]

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping
from pytorch_lightning.callbacks import ModelCheckpoint

from emgen.schedules import check_mode


class EarlyStopping(LightningEarlyStopping):
    """Stops training when a tag has not improved for `patience` of the epochs that recorded it.

    Args:
        monitor: the tag, such as val/log_likelihood or train/loss.
        mode: max where larger is better, min where smaller is.
        patience: how many times in a row the tag may be no better than its record.
        min_delta: by how much a value has to be better to count.
        check_finite: also stop at a value that is not finite.
        stopping_threshold: stop at once when the tag is as good as this.
        divergence_threshold: stop at once when the tag is as bad as this.

    Raises:
        ValueError: neither min nor max, or a loss that is to be as large as possible; during
            training: other tags of its kind are recorded, and this one is not.
    """

    def __init__(
        self,
        monitor: str = "val/log_likelihood",
        mode: str = "max",
        patience: int = 10,
        min_delta: float = 0.0,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ):
        check_mode(monitor, mode)
        super().__init__(
            monitor,
            min_delta=min_delta,
            patience=patience,
            mode=mode,
            check_finite=check_finite,
            stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})  # as it is asked for now

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        _refuse_unknown(pl_module, self.monitor)
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        _warn_of_missing(pl_module, self.monitor)

    def _should_skip_check(self, trainer: lightning.Trainer) -> bool:
        return super()._should_skip_check(trainer) or not _is_new(
            trainer.lightning_module, self.monitor
        )


class TopK(ModelCheckpoint):
    """Keeps the checkpoints of the best epochs by a tag, as `checkpoints/top-EPOCH_VALUE.ckpt` in
    the run folder, beside the run's own.

    A checkpoint remembers them by their names, so that a run which has been moved goes on with
    those that it finds.

    Args:
        monitor: the tag, such as val/log_likelihood or train/loss.
        mode: max where larger is better, min where smaller is.
        save_top_k: how many are kept.

    Raises:
        ValueError: neither min nor max, or a loss that is to be as large as possible; during
            training: other tags of its kind are recorded, and this one is not.
    """

    def __init__(self, monitor: str = "val/log_likelihood", mode: str = "max", save_top_k: int = 3):
        check_mode(monitor, mode)
        super().__init__(
            filename=f"top-{{epoch:04d}}_{{{monitor}:.4f}}",
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,
        )

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        self.dirpath = str((Path(trainer.default_root_dir) / "checkpoints").absolute())
        super().setup(trainer, pl_module, stage)

    def state_dict(self) -> dict[str, Any]:
        kept = {Path(path).name: float(value) for path, value in self.best_k_models.items()}
        return {"kept": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))
        kept = {folder / Path(name).name: value for name, value in state_dict["kept"].items()}
        best = {str(path): torch.tensor(value) for path, value in kept.items() if path.exists()}
        if not best:
            return
        larger, smaller = (max, min) if self.mode == "max" else (min, max)
        value_of: Callable[[str], Any] = best.__getitem__
        self.best_k_models = best
        self.best_model_path = larger(best, key=value_of)
        self.best_model_score = best[self.best_model_path]
        self.kth_best_model_path = smaller(best, key=value_of)
        self.kth_value = best[self.kth_best_model_path]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        _refuse_unknown(pl_module, str(self.monitor))
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        _warn_of_missing(pl_module, str(self.monitor))
        super().on_train_end(trainer, pl_module)

    def _should_skip_saving_checkpoint(self, trainer: lightning.Trainer) -> bool:
        return super()._should_skip_saving_checkpoint(trainer) or not _is_new(
            trainer.lightning_module, str(self.monitor)
        )


def _is_new(pl_module: Any, monitor: str) -> bool:
    """Whether a tag was recorded in this epoch; `callback_metrics` keeps those of earlier ones."""
    return pl_module.recorded_at.get(monitor) == pl_module.current_epoch


def _refuse_unknown(pl_module: Any, monitor: str) -> None:
    """
    Raises:
        ValueError: the tag is not among those that are recorded, and the validation rows, which may
            be scored seldom, have been.
    """
    recorded = [tag for tag in pl_module.recorded_at if "/" in tag]
    validated = any(tag.startswith("val/") for tag in recorded)
    if monitor not in recorded and (validated or not monitor.startswith("val/")):
        raise ValueError(
            f"monitor={monitor} is not recorded: choose one of {', '.join(sorted(recorded))}."
        )


def _warn_of_missing(pl_module: Any, monitor: str) -> None:
    if monitor not in pl_module.recorded_at:
        print(
            f"emgen: warning: nothing was monitored, for {monitor} was never recorded.",
            file=sys.stderr,
        )
