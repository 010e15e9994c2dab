"""Numbers and parts of a composed configuration that no run could start with, refused before
anything is built.
"""

__all__ = ["STATEFUL", "check_counts", "check_ranges", "flat"]

import contextlib
import inspect
import math
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch

from emgen.errors import UserError, typed
from emgen.options import locate

# of Lightning's precisions those in which parameters keep their digits and losses need no scale
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "32", "64", "bf16")


UNKNOWN = object()  # what makes a part whose `_target_` cannot be found


def check_ranges(cfg: Any) -> None:
    """Refuse numbers that no part would accept: NaN anywhere, rates that no optimiser takes, no
    epochs, no samples.

    Raises:
        UserError: names the key and the value.
    """
    for part in ("data", "evaluation", "lightning", "model", "trainer"):
        if not cfg.get(part):
            raise UserError(
                f"{part} was left out or set to null, and no run goes without: choose one, or drop"
                " that override."
            )
    for key, value, maker in _leaves(cfg):
        _check_leaf(key, value, maker)
    _check_schedule(cfg.trainer)
    _check_lightning(cfg.lightning)
    epochs = cfg.lightning.get("max_epochs")
    if type(epochs) is not int or epochs < 1:
        raise UserError(
            f"lightning.max_epochs={typed(epochs)}: training takes at least one epoch; give an"
            " integer >= 1."
        )
    precision = cfg.lightning.get("precision")
    if precision is not None and str(precision) not in PRECISIONS:
        raise UserError(
            f"lightning.precision={precision}: expected 32-true, 64-true or bf16-mixed, which"
            " multiplies in 16 bits and keeps parameters and losses in 32."
        )
    if _is_number(time := cfg.lightning.get("max_time")):
        raise UserError(
            f"lightning.max_time={time}: expected days, hours, minutes and seconds such as"
            " 00:01:30:00, or null."
        )
    samples, rows = cfg.evaluation.samples, cfg.evaluation.rows
    if samples is not None and (type(samples) is not int or samples < 1):
        raise UserError(
            f"evaluation.samples={typed(samples)}: the likelihood needs at least one draw; give an"
            " integer >= 1, or null for what half an epoch of training costs."
        )
    if rows is not None and (type(rows) is not int or rows < 1):
        raise UserError(f"evaluation.rows={typed(rows)}: score at least one row, or null for all.")
    draws = cfg.evaluation.get("draws")
    if draws is not None and (type(draws) is not int or draws < 2):
        raise UserError(
            f"evaluation.draws={typed(draws)}: samples are compared two at the least; give an"
            " integer >= 2, or null for no comparison."
        )


def check_counts(cfg: Any) -> None:
    """Refuse numbers of samples, rows and the like that no command accepts; null stands where the
    option's default is.

    Raises:
        UserError: names the key and the value.
    """
    for key, least in {
        "samples": 1,
        "rows": 1,
        "draws": 2,
        "n": 1,
        "temperatures": 1,
        "chains": 1,
        "seed": 0,
    }.items():
        value = cfg.get(key, least)
        if not (type(value) is int and value >= least) and not (
            value is None and key in ("rows", "draws", "temperatures")
        ):
            raise UserError(f"{key}={typed(value)}: give an integer >= {least}.")


STATEFUL = re.compile(
    r"trainer\.(rungs|\w*(optimizer|fine_tuning)\._target_)$"
)  # of whose state the checkpoint is made


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested configuration with its dotted key; interpolations as they are written."""
    for key in node:
        value = node._get_node(key) if hasattr(node, "_get_node") else node[key]
        name = f"{prefix}{key}"
        if hasattr(value, "keys"):
            yield name, None
            yield from flat(value, f"{name}.")
        else:
            yield name, _plain(value)


def _check_lightning(settings: Any) -> None:
    """Refuse what Lightning does for one loss alone, and name what does it here."""
    if settings.get("gradient_clip_val") is not None:
        raise UserError(
            f"lightning.gradient_clip_val={typed(settings.gradient_clip_val)}: several players step"
            f" here, each with a loss of its own; use trainer.clip={typed(settings.gradient_clip_val)}."
        )
    if settings.get("accumulate_grad_batches") not in (None, 1):
        raise UserError(
            f"lightning.accumulate_grad_batches={typed(settings.accumulate_grad_batches)}: several"
            " players step here, each with a loss of its own; use"
            f" trainer.accumulate={typed(settings.accumulate_grad_batches)}."
        )


def _leaves(node: Any, maker: Any = None, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value with its dotted key and what it is an argument of: the class or function that the
    nearest `_target_` names, None for a setting of the run, UNKNOWN where it cannot be found.
    """
    for key in node:
        value = node._get_node(key) if hasattr(node, "_get_node") else node[key]
        if hasattr(value, "keys"):
            yield from _leaves(value, _maker(value) or maker, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value), maker


def _maker(node: Any) -> Any:
    if "_target_" not in node:
        return None
    target = node._get_node("_target_")._value() if hasattr(node, "_get_node") else node["_target_"]
    with contextlib.suppress(Exception):  # what cannot be found is for others to tell
        return locate(target)
    return UNKNOWN


def _check_leaf(key: str, value: Any, maker: Any) -> None:
    """Refuse a number that its part would not take, if the part is ours or torch's: what a number
    means is said by whose argument it is, for a user's own callback may call anything `lr`.
    """
    name = key.rpartition(".")[2]
    package = "emgen" if maker is None else str(getattr(maker, "__module__", "")).split(".")[0]
    values = value if isinstance(value, list) else [value]
    if package in ("emgen", "torch") and any(
        isinstance(v, float) and math.isnan(v) for v in values
    ):
        raise UserError(f"{key}={typed(value)} is not a number: give a finite value.")
    optimizer = isinstance(maker, type) and issubclass(maker, torch.optim.Optimizer)
    if (optimizer or package == "emgen") and name == "lr":
        if not (_is_number(value) and 0 < value < math.inf):
            raise UserError(
                f"{key}={typed(value)}: a learning rate is a positive, finite number; give one such"
                " as 0.001."
            )
    if package == "emgen" and name == "seed" and not (type(value) is int and 0 <= value < 2**63):
        raise UserError(f"{key}={typed(value)}: a seed is an integer >= 0.")
    if optimizer:  # torch's own words for these name no key
        _check_optimizer(key, name, value)


def _check_schedule(trainer: Any) -> None:
    """Refuse a schedule of learning rates for a trainer that has none."""
    maker = _maker(trainer)
    if "scheduler" not in trainer or maker in (None, UNKNOWN):
        return
    taken = inspect.signature(maker).parameters
    if "scheduler" not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        raise UserError(
            f"scheduler=...: {maker.__name__} takes no gradient steps whose rate could be scheduled;"
            " leave scheduler out, or choose a trainer by gradients such as vae."
        )


def _check_optimizer(key: str, last: str, value: Any) -> None:
    """Refuse arguments that every torch optimiser refuses, and one that asks for several losses a
    step.
    """
    if last == "_target_" and str(value).endswith("LBFGS"):
        raise UserError(
            f"{key}={value}: it asks for several losses a step, which no trainer gives; use another"
            " such as torch.optim.Adam."
        )
    if last == "betas" and not (
        isinstance(value, list)
        and len(value) > 1
        and all(_is_number(v) and 0 <= v < 1 for v in value)
    ):
        raise UserError(
            f"{key}={typed(value)}: the shares of the past that Adam's averages keep lie in [0, 1);"
            " give two such as [0.9, 0.999]."
        )
    if last in ("eps", "momentum", "weight_decay") and not (
        _is_number(value) and 0 <= value < math.inf
    ):
        raise UserError(f"{key}={typed(value)}: expected a finite number >= 0.")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    value = value._value() if hasattr(value, "_value") else value
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
