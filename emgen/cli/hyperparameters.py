"""What tells a run from others: the settings that are not their option's default, and those that
were asked for.
"""

__all__ = ["distinguishing"]

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emgen.evaluation.runs import ASIDE
from emgen.options import names, option

PARTS = ("trainer", "model", "critic", "data", "lightning")


def distinguishing(
    config: Mapping[str, Any], choices: Mapping[str, Any], asked: Sequence[str] = ()
) -> dict[str, str | float]:
    """The settings of a run by their dotted names, those of the trainer and the model first.

    A leaf of trainer, model, critic, data and lightning is told where it is not its option's
    default; what was chosen for a place within a part is told by its name; and what was asked for
    is told even where it is the default, so that a sweep shows the swept key in all its jobs. A
    list is one value, as it would be typed.

    Args:
        config: resolved.
        choices: names of options by group, or by `group@place` where they fill a place of a part.
        asked: overrides, as they were typed.
    """
    told: dict[str, Any] = {}
    wanted = [override.lstrip("+~").partition("=")[0] for override in asked]
    for part in PARTS:
        leaves = dict(_leaves(config.get(part), part))
        usual = dict(_leaves(_defaults(config, part, choices), part))
        told |= {
            place: chosen
            for _, place, chosen in _places(part, choices)
            if any(leaf.startswith(f"{place}.") for leaf in leaves)
        }
        told |= {
            leaf: value
            for leaf, value in leaves.items()
            if leaf in wanted or leaf not in usual or usual[leaf] != value
        }
    others = [part for part in config if part not in (*PARTS, *ASIDE)]
    for part in others:
        leaves = dict(_leaves(config[part], part))
        told |= {
            leaf: value for leaf, value in leaves.items() if leaf in wanted and value is not None
        }
    return {name: _shown(value) for name, value in told.items()}


def _defaults(config: Mapping[str, Any], part: str, choices: Mapping[str, Any]) -> Any:
    """What the chosen option of a part is by itself, with the options chosen for places in it; of
    an option of the user's own nothing is known.
    """
    name = choices.get(part)
    if name not in names().get(part, []):
        return {}
    content = option(part, name)
    for group, place, chosen in _places(part, choices):
        *way, last = place.split(".")[1:]
        node = content
        for key in way:
            node = node.setdefault(key, {})
        if chosen in names().get(group, []):
            own = option(group, chosen)
            kept = node.get(last) or {}
            same = kept.get("_target_") == own.get("_target_")
            node[last] = {**own, **kept} if same else own
    with contextlib.suppress(OmegaConfBaseException):  # a reference that cannot be followed
        whole = OmegaConf.create({**config, part: content})
        return OmegaConf.to_container(whole, resolve=True)[part]  # type: ignore[index,call-overload]
    return content


def _places(part: str, choices: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(group, place, option) of what was chosen for places within a part."""
    found = []
    for key, chosen in choices.items():
        group, _, place = key.partition("@")
        if place.startswith(f"{part}.") and isinstance(chosen, str):
            found.append((group.lstrip("/"), place, chosen))
    return found


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every setting below a node; a list of plain values is one."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from _leaves(child, f"{name}.{key}")
    elif isinstance(node, list) and any(isinstance(one, (Mapping, list)) for one in node):
        for number, child in enumerate(node):
            yield from _leaves(child, f"{name}.{number}")
    elif node is not None or "." in name:  # a part that was left out has no settings
        yield name, node


def _shown(value: Any) -> str | float:
    """A number as it is, anything else as it would be typed.

    >>> [_shown(value) for value in (0.5, True, None, [6, 6], "fixed")]
    [0.5, 'true', 'null', '[6, 6]', 'fixed']
    """
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return value if isinstance(value, (int, float, str)) else str(list(value))
