"""One run: fit under Lightning, score on the test rows, and leave everything in the run folder."""

__all__ = ["check_device", "finish", "fit_run", "keep_freed_memory"]

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from emgen.checking import UserError, typed
from emgen.evaluation.scores import scores
from emgen.folder import RunFolder

# every trainer's hyper-parameter table in TensorBoard has these columns
SCORES = ("test/log_likelihood", "test/elbo", "test/gap", "test/ess")


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
    x = data.observed("test")[:rows]
    module.model.to(x.device)
    metrics: dict[str, float] = {tag: value for tag, value in module.row.items() if "/" in tag}
    methods: dict[str, str] = {}
    for name, estimate in scores(module.model, x, samples, seed).items():
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
        "rows": len(x),
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

