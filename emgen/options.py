"""The options in `configs/` as Python objects: what a name stands for, and what a `_target_` node
builds.

An option is a YAML file that names a class and its arguments; the command line composes many of
them with Hydra, Python asks for one by its name.

    trainer: {_target_: emgen.trainers.EM, latents: {_target_: emgen.estimators.beliefs.Draw}, tol:
    1.0e-6}
"""

__all__ = ["build", "check_types", "locate", "names", "naming", "option", "targets_in"]

import contextlib
import functools
import importlib
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from emgen.errors import UserError, nearest, told, typed

CONFIGS = "emgen.configs"

# What a configuration never calls: Python's own modules (os, subprocess, shutil, ...) but for those
# that only make values.
STANDARD_LIBRARY = sys.stdlib_module_names - {
    "collections",
    "datetime",
    "functools",
    "math",
    "pathlib",
}


# ---- what a name stands for --------------------------------------------------------------------


def names() -> dict[str, list[str]]:
    """Our option groups and the names in each."""
    root = files(CONFIGS)
    groups = {g.name: g for g in root.iterdir() if g.is_dir() and not g.name.startswith("_")}
    return {
        name: sorted(file.name[:-5] for file in group.iterdir() if file.name.endswith(".yaml"))
        for name, group in sorted(groups.items())
    }


def option(group: str, name: str) -> dict[str, Any]:
    """The content of `configs/<group>/<name>.yaml` over those that its defaults list names.

    Raises:
        UserError: there is no such option; says which there are.
    """
    known = names().get(group, [])
    if name not in known:
        raise UserError(
            f"there is no {group}={name}; {nearest(name, known)} (all: {', '.join(known)})."
        )
    own = yaml.load((files(CONFIGS) / group / f"{name}.yaml").read_text(encoding="utf-8"), _Numbers)
    content: dict[str, Any] = {}
    for entry in own.pop("defaults", ["_self_"]):
        if entry == "_self_":
            content = _merged(content, own)
        elif isinstance(entry, str):  # another option of the same group
            content = _merged(content, option(group, entry))
        else:  # `/group@place: name`
            ((where, other),) = entry.items()
            other_group, _, place = where.lstrip("/").partition("@")
            part = option(other_group, other)
            for key in reversed(place.split(".")):
                part = {key: part}
            content = _merged(content, part)
    return content


def targets_in(text: str) -> set[str]:
    """Every `_target_` that a YAML text names.

    >>> targets_in("optimizer: {_target_: torch.optim.Adam, lr: 0.1}")
    {'torch.optim.Adam'}
    """
    return set(re.findall(r"_target_['\"]?\s*:\s*['\"]?([\w.]+)", text))


class _Numbers(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 and Hydra do."""


_Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The values of `above` over those of `below`, mapping by mapping."""
    content = dict(below)
    for key, value in above.items():
        old = content.get(key)
        content[key] = (
            _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return content


# ---- what a node builds ------------------------------------------------------------------------


def build(node: Any, where: str, **given: Any) -> Any:
    """Build a `_target_` node and all that it holds.

    `_partial_: true` leaves the call to whoever gets the part, `_args_` are positional arguments.

    Args:
        node: plain mappings, lists and values.
        where: what the part is called in messages.
        given: objects, handed over where the constructor has an argument of that name.

    Raises:
        UserError: an argument is not taken or is of the wrong kind, the target cannot be imported,
            or it refuses its arguments; the sentence names the part.
    """
    check_types(node, where)
    with naming(where):
        target = locate(node.get("_target_"))
        accepted = inspect.signature(target).parameters
        return _made({**node, **{name: value for name, value in given.items() if name in accepted}})


def locate(name: Any) -> Any:
    """What a dotted name names.

    Raises:
        UserError: it is no name, cannot be imported, or names a module.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)+", name):
        raise UserError(
            f"_target_={typed(name)}: name a class or a function by its module, such as"
            " torch.nn.Linear."
        )
    words = name.split(".")
    if words[0] in STANDARD_LIBRARY:
        raise UserError(
            f"_target_={name} calls Python's own {words[0]}, and no part of a run is made by that."
        )
    found: Any = None
    for count in range(1, len(words) + 1):
        if count > 1 and hasattr(found, words[count - 1]):
            found = getattr(found, words[count - 1])
            continue
        try:
            found = importlib.import_module(".".join(words[:count]))
        except Exception as error:
            raise UserError(_import_failure(name, words[:count], error)) from error
    if not callable(found):
        raise UserError(
            f"_target_={name} is a {type(found).__name__}: name a class or a function to call."
        )
    return found


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Say which part of the configuration refused its arguments."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{where}: {told(error)}") from error


def check_types(node: Any, where: str) -> None:
    """Refuse an argument that is not taken, or a value that its annotation rules out, everywhere in
    a `_target_` node.

    Raises:
        UserError: names the key, the value and what it should be.
    """
    if not hasattr(node, "keys"):
        raise UserError(
            f"{where}={typed(node)}: expected a part with a _target_, the class or function that"
            " makes it."
        )
    hints: dict[str, Any] = {}
    taken: list[str] | None = None
    with contextlib.suppress(
        Exception
    ):  # an import that fails, or an annotation that is no type, is for others to tell
        target = locate(node["_target_"])
        parameters = inspect.signature(target).parameters.values()
        taken = (
            None
            if any(p.kind is p.VAR_KEYWORD for p in parameters)
            else [p.name for p in parameters]
        )
        hints = get_type_hints(target.__init__ if isinstance(target, type) else target)
    for key in node:
        if taken is not None and key not in taken and not key.startswith("_"):
            raise UserError(
                f"{where}.{key}: {node['_target_']} takes no argument {key!r}; it takes"
                f" {', '.join(taken)}."
            )
        if hasattr(node[key], "keys"):
            check_types(node[key], f"{where}.{key}")
        elif key in hints and not _allows(hints[key], node[key]):
            raise UserError(f"{where}.{key}={typed(node[key])}: expected {_told_type(hints[key])}.")


def _made(node: Any) -> Any:
    """What a plain node stands for."""
    if isinstance(node, list):
        return [_made(one) for one in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _made(value) for key, value in node.items()}
    target = locate(node["_target_"])
    make = _made if node.get("_recursive_", True) else (lambda one: one)
    positional = [make(one) for one in node.get("_args_", [])]
    named = {key: make(value) for key, value in node.items() if key not in _WORDS}
    return (
        functools.partial(target, *positional, **named)
        if node.get("_partial_")
        else target(*positional, **named)
    )


_WORDS = (
    "_target_",
    "_partial_",
    "_args_",
    "_recursive_",
    "_convert_",
)  # of a node that are no arguments


def _import_failure(name: str, words: Sequence[str], error: Exception) -> str:
    """Why a target cannot be imported: it is not there, or there and broken."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    broken = isinstance(error, SyntaxError) or "importlib" not in place.filename
    if broken:
        line = (
            ""
            if isinstance(error, SyntaxError)
            else f" ({Path(place.filename).name}, line {place.lineno})"
        )
        return (
            f"{name} cannot be imported, for its module ends in {type(error).__name__}:"
            f" {error}{line}."
        )
    reason = (
        f"No module named '{'.'.join(words)}'"
        if isinstance(error, ModuleNotFoundError)
        else told(error)
    )
    return (
        f"{name} cannot be imported ({reason}); it is looked for among the installed packages and"
        " in the current folder."
    )


def _told_type(hint: Any) -> str:
    """An annotation as the command line would say it."""
    text = str(getattr(hint, "__name__", hint) if get_origin(hint) is None else hint)
    text = re.sub(r"\b(typing|collections\.abc|pytorch_lightning|torch)\.(\w+\.)*", "", text)
    return text.replace("NoneType", "null").replace("None", "null")


def _allows(hint: Any, value: Any) -> bool:
    """Whether a plain value of a configuration can be what an annotation says; of annotations
    beyond it, yes.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_allows(one, value) for one in arguments)
    if hint in (int, float, str, bool, type(None)):
        number = (int, float) if hint is float else hint
        return isinstance(value, number) and (hint is bool or not isinstance(value, bool))
    if origin in (Sequence, list, tuple):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        return origin is tuple or all(
            _allows(arguments[0], one) for one in value if not hasattr(one, "keys")
        )
    if (
        origin is Callable
        or hint is Callable
        or (isinstance(hint, type) and hint.__module__.startswith("emgen."))
    ):
        return hasattr(value, "keys") or (
            isinstance(value, Sequence) and not isinstance(value, str)
        )
    return True
