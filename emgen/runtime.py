"""The process that a run lives in: its devices, its allocator, and what libraries say about
themselves.
"""

__all__ = ["check_device", "keep_freed_memory", "quiet"]

import ctypes
import logging
import os
import sys
import warnings
from typing import Any

import torch

from emgen.errors import UserError, typed


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees: taken anew from the kernel, its page faults cost reweighted
    wake-sleep a fifth of a step.
    """
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
        raise UserError(
            f"{key}={name}: torch finds no such device here; use cpu, or auto for the best"
            " there is."
        )
    if devices == "auto" or name not in ("auto", "cpu", "cuda", "gpu"):
        return
    gpu = name != "cpu" and there["cuda"]
    most = (
        torch.cuda.device_count()
        if gpu
        else 1
        if name != "cpu" and there["mps"]
        else os.cpu_count() or 1
    )
    every = gpu and str(devices) == "-1"
    numbered = (
        gpu
        and isinstance(devices, list)
        and bool(devices)
        and all(type(d) is int and 0 <= d < most for d in devices)
    )
    if not (every or numbered or (str(devices).isdecimal() and 1 <= int(str(devices)) <= most)):
        raise UserError(
            f"lightning.devices={typed(devices)}: expected an integer from 1 to {most}, the number"
            f" of {'GPUs' if gpu else 'processors'}"
            f" here{', their numbers as a list such as [0]' if gpu else ''}, or auto."
        )


def quiet() -> None:
    """Keep what libraries say about themselves out of a user's terminal; warnings of consequence
    stay.
    """
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    warnings.filterwarnings(
        "ignore",
        module="pytorch_lightning|lightning_fabric|hydra|torch.utils.tensorboard|tensorboard",
    )
