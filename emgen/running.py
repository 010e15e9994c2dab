"""One run: fit under Lightning, score on the test rows, and leave everything in the run folder."""

__all__ = ["RunFolder", "check_device", "finish", "fit_run", "keep_freed_memory"]

import contextlib
import ctypes
import errno
import os
import platform
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
import yaml
from pytorch_lightning.loggers import TensorBoardLogger

from emgen.asking import status_of
from emgen.callbacks.checkpoint import AtomicCheckpointIO, damage
from emgen.checking import UserError, told, typed
from emgen.evaluation.runs import strict_json
from emgen.evaluation.scores import scored, scores

# every trainer's hyper-parameter table in TensorBoard has these columns
SCORES = ("test/log_likelihood", "test/elbo", "test/gap", "test/ess")


class RunFolder:
    """The folder of a run: `config.yaml`, `checkpoints/`, `metrics.csv`, `summary.json`, `status.json`, `figures/`."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoint_io = AtomicCheckpointIO()

    @property
    def used(self) -> bool:
        """Whether a run has been here."""
        return (self.path / "checkpoints").exists() or (self.path / "summary.json").exists()

    @property
    def command(self) -> str:
        """What goes on with the run."""
        return f"emgen {shlex.quote(f'resume={self.path}')}"

    def failed(self, error: Exception) -> str:
        """Record what ended the run, which a refused request leaves no trace of; returns it in one sentence."""
        message = told(error)
        if isinstance(error, UserError):
            self.discard()
            return message
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            on = f"go on with: {self.command}" if (self.path / "checkpoints" / "last.ckpt").exists() else "start it again elsewhere"
            message = f"{self.path} cannot be written ({error.strerror}): make room, and {on}"
        with contextlib.suppress(OSError):
            self.write_status("failed", message)
        return message

    def refuse_if_busy(self) -> None:
        """
        Raises:
            UserError: another process is training here.
        """
        if status_of(self.path) == "running" and os.environ.get("LOCAL_RANK", "0") == "0":  # further ranks join their first
            raise UserError(f"{self.path} is being trained by another process: wait for it or stop it, or choose another "
                            "paths.run_dir.")

    def refuse_if_used(self) -> None:
        """
        Raises:
            UserError: the folder holds a run that would be overwritten.
        """
        if self.used:
            raise UserError(f"{self.path} already holds a run: add resume=auto to continue it, or choose another paths.run_dir.")

    def checkpoint(self, name: str) -> Path | None:
        """`checkpoints/<name>.ckpt`, or the one before it where that is damaged (which is told); None if the run wrote none.

        Raises:
            UserError: both are damaged.
        """
        path = self.path / "checkpoints" / f"{name}.ckpt"
        if not path.exists():
            return None
        reason = damage(path)
        if not reason:
            return path
        previous = path.with_name(f"{path.name}.previous")
        if not previous.exists() or damage(previous):
            raise UserError(f"the checkpoint {path} is damaged ({reason}) and there is no whole one before it: train the run again.")
        print(f"emgen: warning: the checkpoint {path} is damaged ({reason}); going on from the one before it, {previous.name}.",
              file=sys.stderr)
        return previous

    def refuse_if_beyond(self, epochs: int) -> None:
        """
        Raises:
            UserError: `last.ckpt` was written after so many epochs.
        """
        path = self.path / "checkpoints" / "last.ckpt"
        if not damage(path) and self.checkpoint_io.load_checkpoint(path).get("epoch", 0) >= epochs:
            raise UserError(f"lightning.max_epochs={epochs}: {self.path} has gone beyond that; ask for more, or leave it out.")

    def write_config(self, config: dict[str, Any]) -> None:
        """The resolved configuration and a status of `running`."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        self.write_status("running")

    def write_status(self, status: str, message: str = "") -> None:
        """running, finished, failed or interrupted, with a sentence for the last two."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"status": status, "message": message, "pid": os.getpid(), "host": platform.node(),
                   "time": time.strftime("%Y-%m-%d %H:%M:%S")}
        _write(self.path / "status.json", strict_json(content))

    def discard(self) -> None:
        """Remove what a refused request left, so that no table lists a run that never was."""
        if not self.used:
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()

    def write_summary(self, summary: dict[str, Any]) -> None:
        _write(self.path / "summary.json", strict_json(summary))


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees: taken anew from the kernel, its page faults cost reweighted wake-sleep a fifth of a step."""
    allocator = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if allocator is not None:
        allocator(-3, 2**25)  # M_MMAP_THRESHOLD: blocks up to 32 MiB come from the heap
        allocator(-1, 2**30)  # M_TRIM_THRESHOLD: whose top stays up to 1 GiB


def check_device(key: str, name: Any, devices: Any = 1) -> None:
    """
    Args:
        key: what the user calls the device.
        name: its kind, as Lightning's `accelerator`.
        devices: how many, or which of them, as Lightning's `devices`.

    Raises:
        UserError: torch finds no device of that name here, or not so many.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, any(there.values()) if name == "gpu" else True):
        raise UserError(f"{key}={name}: torch finds no such device here; use cpu, or auto for the best there is.")
    if devices == "auto" or name not in ("auto", "cpu", "cuda", "gpu"):
        return
    gpu = name != "cpu" and there["cuda"]
    most = torch.cuda.device_count() if gpu else 1 if name != "cpu" and there["mps"] else os.cpu_count() or 1
    every = gpu and str(devices) == "-1"
    numbered = gpu and isinstance(devices, list) and bool(devices) and all(type(d) is int and 0 <= d < most for d in devices)
    if not (every or numbered or (str(devices).isdecimal() and 1 <= int(str(devices)) <= most)):
        raise UserError(f"lightning.devices={typed(devices)}: expected an integer from 1 to {most}, the number of "
                        f"{'GPUs' if gpu else 'processors'} here{', their numbers as a list such as [0]' if gpu else ''}, or auto.")


def fit_run(trainer: lightning.Trainer, module: Any, data: Any, checkpoint: Path | None = None) -> None:
    """Fit, from a checkpoint if one is given; progress that was saved in it is not run again."""
    trainer.fit(module, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True)


def finish(folder: RunFolder, trainer: lightning.Trainer, module: Any, data: Any, names: dict[str, str], seed: int,
           samples: int, rows: int | None) -> dict[str, float]:
    """Score the test rows, write `summary.json`, the hyper-parameter table and `status.json`; returns the metrics."""
    test = scored(module.model, data, "test", rows)
    module.model.to(test.x.device)
    metrics: dict[str, float] = {tag: value for tag, value in module.row.items() if "/" in tag}
    methods: dict[str, str] = {}
    for name, estimate in scores(module.model, test.x, samples, seed).items():
        metrics[f"test/{name}"], methods[f"test/{name}"] = estimate.value, estimate.method
        metrics[f"test/{name}_error"] = estimate.error
    seconds = float(module.row.get("seconds", 0.0))
    summary = {
        **names,
        "seed": seed,
        "epochs": trainer.current_epoch,
        "seconds": seconds,
        "examples_per_second": module.examples / seconds if seconds else None,
        "parameters": sum(p.numel() for p in module.parameters()),
        "binarise": getattr(data, "binarise", "none"),
        "rows": test.n,
        "metrics": metrics,
        "methods": methods,
        "torch": torch.__version__,
    }
    folder.write_summary(summary)
    for logger in trainer.loggers:
        table = {**names, "seed": seed, "epochs": trainer.current_epoch, "parameters": summary["parameters"]}
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(table, {tag: metrics.get(tag, float("nan")) for tag in SCORES})
            logger.finalize("success")
            logger.experiment.close()
    folder.write_status("finished")
    return metrics


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)
