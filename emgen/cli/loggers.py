"""The loggers of a run: built from their configurations, told what ran and how it scored."""

__all__ = ["build_loggers", "log_configuration", "log_scores"]

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger

from emgen.errors import UserError
from emgen.options import build

# the packages of the extra `loggers`, by the class that asks for each
EXTRAS = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}


def build_loggers(node: Any, folder: str) -> list[Logger]:
    """The loggers that a configuration names.

    Args:
        node: `{name: {_target_: ...}, ...}`, or one `{_target_: ...}` alone; nothing for none.
        folder: of the run, for those that are given no `save_dir`.

    Raises:
        UserError: a logger's package is not installed, or it refuses its arguments.
    """
    nodes = {"": node} if node and "_target_" in node else node or {}
    return [
        _logger(one, f"logger.{name}".rstrip("."), folder) for name, one in nodes.items() if one
    ]


def log_configuration(loggers: Iterable[Logger], config: dict[str, Any]) -> None:
    """Tell every logger what runs; TensorBoard is told at the end, beside the scores."""
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(config)


def log_scores(loggers: Iterable[Logger], metrics: Mapping[str, float], examples: int) -> None:
    """Tell every logger the test scores, at the number of examples seen, and close it; TensorBoard
    has them from its table of runs.
    """
    scores = {tag: value for tag, value in metrics.items() if tag.startswith("test/")}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            continue
        logger.log_metrics(scores, step=examples)
        logger.finalize("success")
    _close_wandb()


def _logger(node: dict[str, Any], where: str, folder: str) -> Logger:
    package = EXTRAS.get(str(node.get("_target_")).rpartition(".")[2])
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"logger={package} needs {package}: pip install 'emgen[loggers]'.")
    if package == "wandb":
        os.environ.setdefault(
            "WANDB_ERROR_REPORTING", "false"
        )  # offline means that nothing is sent
        _close_wandb()
    place = {} if node.get("save_dir") else {"save_dir": folder}
    return build(node, where, **place)


def _close_wandb() -> None:
    """End the run that Weights & Biases keeps for the whole process, which the next run of a sweep
    would join.
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
