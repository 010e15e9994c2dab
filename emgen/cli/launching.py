"""Several processes of one run: which strategy they follow, and what a launcher such as torchrun or
Slurm has started.
"""

__all__ = ["agreed", "distributed", "starts_itself_again"]

import os
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.plugins.environments import LightningEnvironment

from emgen.errors import UserError, typed
from emgen.trainers.processes import Processes

# Lightning's names, by how they begin, and how each starts further processes
START_METHODS = {
    "ddp_spawn": "spawn",
    "ddp_fork": "fork",
    "ddp_notebook": "fork",
    "ddp": "popen",
}


def distributed(settings: dict[str, Any]) -> dict[str, Any]:
    """Lightning's settings with a strategy for several processes, where several are asked for by
    `strategy=ddp`, `ddp_spawn` or `ddp_fork`, by `devices`, or by a launcher that has started them.

    Raises:
        UserError: the strategy cuts a model in pieces, or a launcher has started another number of
            processes than are asked for.
    """
    strategy = settings.get("strategy") or "auto"
    if not isinstance(strategy, str):
        return settings
    if strategy.startswith(("fsdp", "deepspeed")):
        raise UserError(
            f"lightning.strategy={strategy}: it cuts a model in pieces, which no trainer here asks"
            f" for; use ddp, or one of {', '.join(START_METHODS)}."
        )
    started = _started()
    if strategy not in ("auto", *START_METHODS) and not strategy.startswith("ddp"):
        return settings
    if started is not None:
        settings = {**settings, **_as_started(settings, *started)}
    elif strategy == "auto" and _asked(settings) == 1:
        return settings
    name = next((name for name in START_METHODS if strategy.startswith(name)), "ddp")
    method: Any = "popen" if started is not None else START_METHODS[name]
    return {**settings, "strategy": Processes(start_method=method)}


def starts_itself_again(settings: Any) -> bool:
    """Whether a run of these settings starts its command once more for each further process."""
    if _started() is not None:
        return False
    strategy = settings.get("strategy") or "auto"
    if strategy == "auto":
        return _asked(settings) > 1
    name = next((name for name in START_METHODS if str(strategy).startswith(name)), "")
    return START_METHODS.get(name) == "popen"


def agreed(trainer: lightning.Trainer, value: Any) -> Any:
    """What the first process holds for `value`, on all that a launcher has started; elsewhere the
    value as it is, for further processes are told the first one's arguments.
    """
    strategy = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)
    outside = environment is not None and not isinstance(environment, LightningEnvironment)
    if not isinstance(strategy, Processes) or not outside or trainer.world_size == 1:
        return value
    strategy.setup_distributed()
    return strategy.broadcast(value)


def _asked(settings: dict[str, Any]) -> int:
    """How many processes `devices` and `num_nodes` ask for."""
    devices, accelerator = settings.get("devices", 1), settings.get("accelerator", "auto")
    nodes = settings.get("num_nodes") or 1
    if str(devices) in ("auto", "-1"):
        gpus = accelerator in ("auto", "gpu", "cuda")
        return nodes * max(1, torch.cuda.device_count() if gpus else 1)
    return nodes * (int(devices) if isinstance(devices, (int, str)) else len(devices))


def _started() -> tuple[int, int] | None:
    """How many processes a launcher has started on a machine, and on how many machines; None where
    there is one process, or none has been started by others.
    """
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        return (here, world // here) if world > 1 else None
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    if tasks > 1:
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or 1)
        return tasks // nodes, nodes
    return None


def _as_started(settings: dict[str, Any], here: int, nodes: int) -> dict[str, int]:
    """`devices` and `num_nodes` as the launcher has them, which need not be said twice."""
    devices = settings.get("devices", 1)
    silent = str(devices) in ("1", "auto", "-1") and (settings.get("num_nodes") or 1) == 1
    if not silent and _asked(settings) != here * nodes:
        raise UserError(
            f"lightning.devices={typed(devices)} with lightning.num_nodes="
            f"{settings.get('num_nodes') or 1} asks for {_asked(settings)} processes, but"
            f" {here * nodes} have been started: set lightning.devices={here} and"
            f" lightning.num_nodes={nodes}, or leave both out."
        )
    return {"devices": here, "num_nodes": nodes}
