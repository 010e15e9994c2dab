"""What a user asked for, checked before anything starts: one sentence that names the value and what to do."""

__all__ = ["UserError", "check_counts", "check_ranges", "check_trust", "check_types", "first", "flat", "naming", "targets_in",
           "told", "typed"]

import contextlib
import inspect
import math
import re
import traceback
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard, Union, get_args, get_origin, get_type_hints

# a configuration that is read back from a file may build what is defined in these and nothing else
TRUSTED = ("emgen.models", "emgen.data", "emgen.divergences", "emgen.families", "torch.nn", "torch.distributions")
# and of these the classes
TRUSTED_CLASSES = ("emgen.callbacks", "emgen.estimators", "emgen.objectives", "emgen.trainers", "torch.optim")

# of Lightning's precisions those in which parameters keep their digits and losses need no scale
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "32", "64", "bf16")


class UserError(ValueError):
    """A request that cannot be served as it stands; its message is one sentence for the user."""


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Say which part of the configuration refused its arguments."""
    try:
        yield
    except Exception as error:
        target = first(r"Error (?:loading|locating target) '([^']+)'", str(error))
        if target:
            root: BaseException = error
            while root.__cause__ is not None:
                root = root.__cause__
            at = traceback.extract_tb(root.__traceback__)[-1]
            if isinstance(root, SyntaxError) or not re.search(r"importlib|[\\/]hydra[\\/]", at.filename):  # found, but broken
                place = "" if isinstance(root, SyntaxError) else f" ({Path(at.filename).name}, line {at.lineno})"
                what = f"{type(root).__name__}: {root}{place}"
                raise UserError(f"{where}: {target} cannot be imported, for its module ends in {what}.") from error
            reason = first(r"(No module named '[^']+')", str(error)) or "the module has no such name"
            raise UserError(f"{where}: {target} cannot be imported ({reason}); it is looked for in the current folder and "
                            "among the installed packages.") from error
        raise UserError(f"{where}: {told(error)}") from error


def told(error: BaseException) -> str:
    """One line for whatever went wrong; where no part foresaw it, with the place in the code."""
    text = " ".join(re.sub(r"\s*full_key: .*", "", str(error), flags=re.DOTALL).split())
    if isinstance(error, (ValueError, OSError, ArithmeticError)) or not error.__traceback__:
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, TypeError) and (last.line or "").startswith("raise "):  # somebody foresaw it
        return text
    kind = "" if isinstance(error, (TypeError, RuntimeError)) else f"{type(error).__name__}: "
    return f"{kind}{text} ({Path(last.filename).name}, line {last.lineno}; EMGEN_DEBUG=1 shows the whole way there)"


def check_types(node: Any, where: str, locate: Callable[[str], Any]) -> None:
    """Refuse an argument that is not taken, or a value that its annotation rules out, everywhere in a `_target_` node.

    Raises:
        UserError: names the key, the value and what it should be.
    """
    hints: dict[str, Any] = {}
    taken: list[str] | None = None
    with contextlib.suppress(Exception):  # an import that fails, or an annotation that is no type, is for others to tell
        target = locate(node["_target_"])
        parameters = inspect.signature(target).parameters.values()
        taken = None if any(p.kind is p.VAR_KEYWORD for p in parameters) else [p.name for p in parameters]
        hints = get_type_hints(target.__init__ if isinstance(target, type) else target)
    for key in node:
        if taken is not None and key not in taken and not key.startswith("_"):
            raise UserError(f"{where}.{key}: {node['_target_']} takes no argument {key!r}; it takes {', '.join(taken)}.")
        if hasattr(node[key], "keys"):
            check_types(node[key], f"{where}.{key}", locate)
        elif key in hints and not _allows(hints[key], node[key]):
            wanted = str(getattr(hints[key], "__name__", hints[key]) if get_origin(hints[key]) is None else hints[key])
            wanted = re.sub(r"\b(typing|collections\.abc|pytorch_lightning|torch)\.(\w+\.)*", "", wanted)
            raise UserError(f"{where}.{key}={typed(node[key])}: expected {wanted.replace('NoneType', 'null').replace('None', 'null')}.")


def check_ranges(cfg: Any) -> None:
    """Refuse numbers that no part would accept: NaN anywhere, rates that no optimiser takes, no epochs, no samples.

    Raises:
        UserError: names the key and the value.
    """
    for part in ("data", "evaluation", "lightning", "model", "trainer"):
        if not cfg.get(part):
            raise UserError(f"{part} was left out or set to null, and no run goes without: choose one, or drop that override.")
    for key, value in flat(cfg):
        if any(isinstance(v, float) and math.isnan(v) for v in (value if isinstance(value, list) else [value])):
            raise UserError(f"{key}={typed(value)} is not a number: give a finite value.")
        *_, owner, last = ["", *key.split(".")]
        if last == "lr" and not (_is_number(value) and 0 < value < math.inf):
            raise UserError(f"{key}={typed(value)}: a learning rate is a positive, finite number; give one such as 0.001.")
        if last == "seed" and not (type(value) is int and 0 <= value < 2**63):
            raise UserError(f"{key}={typed(value)}: a seed is an integer >= 0.")
        if owner.endswith("optimizer"):  # torch's own words for these name no key
            _check_optimizer(key, last, value)
    epochs = cfg.lightning.get("max_epochs")
    if type(epochs) is not int or epochs < 1:
        raise UserError(f"lightning.max_epochs={typed(epochs)}: training takes at least one epoch; give an integer >= 1.")
    precision = cfg.lightning.get("precision")
    if precision is not None and str(precision) not in PRECISIONS:
        raise UserError(f"lightning.precision={precision}: expected 32-true, 64-true or bf16-mixed, which multiplies in 16 bits and "
                        "keeps parameters and losses in 32.")
    if _is_number(time := cfg.lightning.get("max_time")):
        raise UserError(f"lightning.max_time={time}: expected days, hours, minutes and seconds such as 00:01:30:00, or null.")
    samples, rows = cfg.evaluation.samples, cfg.evaluation.rows
    if type(samples) is not int or samples < 1:
        raise UserError(f"evaluation.samples={typed(samples)}: the likelihood needs at least one draw; give an integer >= 1.")
    if rows is not None and (type(rows) is not int or rows < 1):
        raise UserError(f"evaluation.rows={typed(rows)}: score at least one row, or null for all.")


def check_counts(cfg: Any) -> None:
    """Refuse numbers of samples, rows and the like that no command accepts; null stands where the option's default is.

    Raises:
        UserError: names the key and the value.
    """
    for key, least in {"samples": 1, "rows": 1, "draws": 2, "n": 1, "temperatures": 1, "chains": 1, "seed": 0}.items():
        value = cfg.get(key, least)
        if not (type(value) is int and value >= least) and not (value is None and key in ("rows", "draws", "temperatures")):
            raise UserError(f"{key}={typed(value)}: give an integer >= {least}.")


STATEFUL = re.compile(r"trainer\.(rungs|\w*(optimizer|fine_tuning)\._target_)$")  # of whose state the checkpoint is made


def check_trust(node: Any, where: str, trust: Any, locate: Callable[[str], Any], known: Collection[str] = ()) -> None:
    """Refuse a configuration from a file that would build or call what is neither ours nor trusted, at any depth of it.

    Args:
        node: a part of the configuration, resolved.
        where: what the part is called.
        trust: import prefixes that the user trusts.
        locate: dotted name → object; asked for names of the packages in `TRUSTED` alone.
        known: whole names that may be built too, such as those that our own options name.

    Raises:
        UserError: names the target and how to trust it.
    """
    if isinstance(node, (list, tuple)):
        for i, one in enumerate(node):
            check_trust(one, f"{where}[{i}]", trust, locate, known)
    elif isinstance(node, dict):
        target = str(node.get("_target_", ""))
        prefixes = [trust] if isinstance(trust, str) else list(trust)
        if "_target_" in node and target not in known and not _within(target, prefixes) and not _is_ours(target, locate):
            raise UserError(
                f"{where}._target_ is {target}, outside {', '.join(TRUSTED)}: if you trust it, add "
                f"trust=[{target.split('.')[0]}]."
            )
        for key, one in node.items():
            check_trust(one, f"{where}.{key}", trust, locate, known)


def targets_in(text: str) -> set[str]:
    """Every `_target_` that a YAML text names.

    >>> targets_in("optimizer: {_target_: torch.optim.Adam, lr: 0.1}")
    {'torch.optim.Adam'}
    """
    return set(re.findall(r"_target_['\"]?\s*:\s*['\"]?([\w.]+)", text))


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


def first(pattern: str, text: str) -> str | None:
    """The first group of the first match of a pattern, if there is one."""
    match = re.search(pattern, text)
    return match.group(1) if match else None


def typed(value: Any) -> str:
    """A value as the command line takes it: null for None, true and false.

    >>> typed([None, True, 0.5])
    '[null, true, 0.5]'
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(typed, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _check_optimizer(key: str, last: str, value: Any) -> None:
    """Refuse arguments that every torch optimiser refuses, and one that asks for several losses a step."""
    if last == "_target_" and str(value).endswith("LBFGS"):
        raise UserError(f"{key}={value}: it asks for several losses a step, which no trainer gives; use another such as torch.optim.Adam.")
    if last == "betas" and not (isinstance(value, list) and len(value) > 1 and all(_is_number(v) and 0 <= v < 1 for v in value)):
        raise UserError(f"{key}={typed(value)}: the shares of the past that Adam's averages keep lie in [0, 1); give two such as "
                        "[0.9, 0.999].")
    if last in ("eps", "momentum", "weight_decay") and not (_is_number(value) and 0 <= value < math.inf):
        raise UserError(f"{key}={typed(value)}: expected a finite number >= 0.")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _allows(hint: Any, value: Any) -> bool:
    """Whether a plain value of a configuration can be what an annotation says; of annotations beyond it, yes."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_allows(one, value) for one in arguments)
    if hint in (int, float, str, bool, type(None)):
        return isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))
    if origin in (Sequence, list, tuple):
        return isinstance(value, Sequence) and not isinstance(value, str) and (
            origin is tuple or all(_allows(arguments[0], one) for one in value if not hasattr(one, "keys")))
    if origin is Callable or hint is Callable or (isinstance(hint, type) and hint.__module__.startswith("emgen.")):
        return hasattr(value, "keys") or (isinstance(value, Sequence) and not isinstance(value, str))
    return True


def _plain(value: Any) -> Any:
    value = value._value() if hasattr(value, "_value") else value
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _is_ours(target: str, locate: Callable[[str], Any]) -> bool:
    """Whether a name is a public one of the packages that are trusted, and what it names is defined there."""
    packages = TRUSTED if _within(target, TRUSTED) else TRUSTED_CLASSES
    if not _within(target, packages) or any(name.startswith("_") for name in target.split(".")):
        return False
    found = locate(target)
    return _within(str(getattr(found, "__module__", "")), packages) and (packages is TRUSTED or isinstance(found, type))


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)
