"""Several processes: what they tell each other, and a strategy of Lightning's that leaves the
reduction to our verbs.
"""

__all__ = ["Processes", "count", "gathered", "share_out", "summed", "summed_together", "take_over"]

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor, distributed, nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

FAILED, REASON = "emgen/failed", "emgen/reason"  # keys of the store that all processes share


class Processes(DDPStrategy):
    """One model on several processes, whose verbs `descend` and `assign` reduce by themselves.

    Lightning's own strategy wraps the module, for hooks that reduce what `backward` leaves: the
    wrapper refuses a module without gradients, and no player of ours calls `backward`. All that is
    needed of it is that every process begins with the parameters and buffers of the first.

    Of processes that fail, the first to do so leaves its reason with the others, which would know
    no more than that a connection was closed.

    Args:
        the arguments of Lightning's `DDPStrategy`; `start_method` is `popen`, `spawn` or `fork`.
    """

    def configure_ddp(self) -> None:
        # what is recorded here is a mean over processes already
        warnings.filterwarnings("ignore", "It is recommended to use `self.log")
        _sync_module_states(self.model)  # type: ignore[arg-type]

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        _sync_module_states(model)
        return model

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        method: Any = self._start_method
        if method != "popen":
            self._launcher = _Spawned(self, start_method=method)

    def on_exception(self, exception: BaseException) -> None:
        """Say why the run ended to the processes that do not know, or learn it from the one that
        does.

        One that tells what happened to another process carries `told_elsewhere`: whether it need
        not be told once more.
        """
        if self.world_size == 1 or not isinstance(exception, Exception):
            return
        if _is_lost_connection(exception):
            exception.args = (_reason() or _SILENT,)
            exception.told_elsewhere = self.global_rank > 0  # type: ignore[attr-defined]
        else:
            first = _leave(f"process {self.global_rank}: {exception}")
            if not first and self.global_rank > 0:
                exception.told_elsewhere = True  # type: ignore[attr-defined]


class _Spawned(_MultiProcessingLauncher):
    """Starts processes that say as little as this one, and bring home what a run leaves beside its
    weights.
    """

    def launch(self, function: Any, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.levels = {name: logging.getLogger(name).level for name in _LOUD}
        self.filters = list(warnings.filters)
        try:
            return super().launch(function, *args, trainer=trainer, **kwargs)
        except (ProcessRaisedException, ProcessExitedException) as error:
            # a traceback of the child, whose end says what
            last = str(error).strip().rpartition("\n")[2]
            raise ChildProcessError(last) from error

    def _wrapping_function(self, *args: Any, **kwargs: Any) -> None:
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
        warnings.filters[:] = self.filters  # type: ignore[index]
        super()._wrapping_function(*args, **kwargs)

    def get_extra_results(self, trainer: Any) -> dict[str, Any]:
        module = trainer.lightning_module
        kept = {name: getattr(module, name) for name in _BROUGHT_HOME if hasattr(module, name)}
        return {**super().get_extra_results(trainer), "kept": kept, "epoch": trainer.current_epoch}

    def update_main_process_results(self, trainer: Any, extra: dict[str, Any]) -> None:
        super().update_main_process_results(trainer, extra)
        for name, value in extra["kept"].items():
            setattr(trainer.lightning_module, name, value)
        trainer.fit_loop.epoch_progress.current.processed = extra["epoch"]
        trainer.fit_loop.epoch_progress.current.completed = extra["epoch"]


_BROUGHT_HOME = ("row", "history", "examples", "iteration", "converged", "bounds")

_LOUD = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")

_SILENT = (
    "another process of this run ended without a word: was it killed, or out of memory? Its exit"
    " code says more."
)


def take_over(strategy: Any) -> None:
    """Make Lightning's own `ddp` ours: its state is the same, and a user's `strategy="ddp"` means
    what it says.
    """
    if type(strategy) is DDPStrategy:
        strategy.__class__ = Processes


# ---- what processes tell each other -------------------------------------------------------------


def count() -> int:
    """How many processes there are."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over processes; a single process's own as it is."""
    if count() == 1:
        return value
    total = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def summed_together(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors summed over processes, in one exchange for each kind of number."""
    if count() == 1:
        return dict(values)
    kinds: dict[Any, list[str]] = {}
    for name, value in values.items():
        kinds.setdefault((value.dtype, value.device), []).append(name)
    totals: dict[str, Tensor] = {}
    for names in kinds.values():
        flat = summed(torch.cat([values[name].reshape(-1) for name in names]))
        parts = flat.split([values[name].numel() for name in names])
        totals |= {name: part.view(values[name].shape) for name, part in zip(names, parts)}
    return {name: totals[name] for name in values}


def gathered(rows: Tensor | None, dim: int = 0) -> Tensor | None:
    """The rows of all processes, in the order in which a loader has dealt them out: row i of
    process r is row i · processes + r.

    Args:
        rows: of this process; their number may differ by one between processes.
        dim: along which they lie.
    """
    if rows is None or count() == 1:
        return rows
    parts: list[Any] = [None] * count()
    distributed.all_gather_object(parts, rows.detach().cpu())
    size = list(rows.shape)
    size[dim] = sum(part.shape[dim] for part in parts)
    whole = parts[0].new_empty(size)
    for rank, part in enumerate(parts):
        places = torch.arange(part.shape[dim]) * count() + rank
        whole.index_copy_(dim, places, part)
    return whole.to(rows.device)


def share_out(rows: Tensor, rank: int, world: int, dim: int = 0) -> Tensor:
    """The rows of one process, of those that `gathered` has put together."""
    return rows.index_select(dim, torch.arange(rank, rows.shape[dim], world, device=rows.device))


# ---- how a run of several processes ends ----------------------------------------------------------


def _is_lost_connection(error: BaseException) -> bool:
    """Whether an exception says no more than that another process has gone."""
    if isinstance(error, distributed.DistError):
        return True
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return type(error) is RuntimeError and any(word in str(error) for word in words)


def _leave(reason: str) -> bool:
    """Leave why this process failed with the others; whether it is the first to say so."""
    if count() == 1:  # they have not met
        return True
    try:
        store = distributed.distributed_c10d._get_default_store()
        first = store.add(FAILED, 1) == 1
        if first:
            store.set(REASON, reason)
    except (RuntimeError, ValueError):  # the process that kept the store has gone, and has spoken
        return False
    return first


def _reason() -> str:
    """Why another process failed, if it has said so."""
    if count() == 1:
        return ""
    try:
        store = distributed.distributed_c10d._get_default_store()
        return store.get(REASON).decode() if store.check([REASON]) else ""
    except (RuntimeError, ValueError):
        return ""
