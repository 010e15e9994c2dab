"""Where a run was made and on which data, so that its folder can be moved, used without the data,
and told that they are others now.

    made:
      folder: /home/me/study            # relative paths of the data are seen from there
      run: /home/me/study/runs/first    # where the run folder was
      event_shape: [1, 8, 8]            # all that a model is built from
      fingerprint: {rows: {train: 160, ...}, dtype: float32, checksum: ..., ...}
"""

__all__ = ["Made", "data_of", "find_data", "read_made", "record"]

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emgen.data.fingerprint import Fingerprint, fingerprint
from emgen.errors import UserError
from emgen.options import build

# what the last word of an argument says that names a file or a folder: data.path, data.root, ...
PATHS = ("dir", "directory", "file", "filename", "folder", "path", "root")


@dataclass(frozen=True)
class Made:
    """What a run's `config.yaml` says of its making.

    Attributes:
        folder: the current folder then.
        run: the run folder then.
        event_shape: of the data.
        fingerprint: of the data.
    """

    folder: Path
    run: Path
    event_shape: tuple[int, ...]
    fingerprint: Fingerprint


def record(data: Any, folder: Path, run: Path) -> dict[str, Any]:
    """The block `made` of a configuration.

    Args:
        data: the data that the run is trained on.
        folder: what their relative paths are seen from.
        run: the run folder.
    """
    return {
        "folder": os.path.abspath(folder),
        "run": os.path.abspath(run),
        "event_shape": [int(size) for size in data.event_shape],
        "fingerprint": fingerprint(data).plain(),
    }


def read_made(run: Path) -> Made | None:
    """What the `config.yaml` of a run says of its making; None of a run from before it was
    recorded.

    Raises:
        UserError: what it says cannot be read.
    """
    path = run / "config.yaml"
    try:
        node = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("made")
        if node is None:
            return None
        return Made(
            Path(node["folder"]),
            Path(node["run"]),
            tuple(int(size) for size in node["event_shape"]),
            Fingerprint(**node["fingerprint"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (AttributeError, KeyError, TypeError, ValueError, OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged (made: {reason}): train the run again.") from error


def data_of(node: dict[str, Any], run: Path, made: Made | None) -> tuple[Any, Path]:
    """The data of a run, which are checked to be those that it was made of; see `find_data`.

    Raises:
        UserError: the data cannot be built, or are others.
    """
    data, folder = find_data(node, run, made)
    if made is not None:
        now = fingerprint(data)
        if not now.matches(made.fingerprint, exact=any(_paths(node))):
            raise UserError(
                f"the data are not those that {run} was trained on: they are {now}, and were"
                f" {made.fingerprint}; put those back, or train another run on these."
            )
    return data, folder


def find_data(node: dict[str, Any], run: Path, made: Made | None) -> tuple[Any, Path]:
    """The data that a configuration names, and the folder that their relative paths are seen from.

    That is the first which holds them of: the folder where the run was made, the current folder,
    and the folder that lies to the run as the first one did before both were moved.

    Args:
        node: the `data` part of the configuration, resolved.
        run: the run folder.
        made: what the run was made of; None for a new run, whose data are found from here, and for
            one from before it was recorded.

    Raises:
        UserError: the data cannot be built.
    """
    here = Path.cwd()
    named = [(key, path) for key, path in _paths(node) if _is_relative(path)]
    if made is None:
        return build(node, "data"), here

    moved = Path(os.path.abspath(run), os.path.relpath(made.folder, made.run)).resolve()
    places = [made.folder, here, moved]
    folder = next((p for p in places if all((p / path).exists() for _, path in named)), None)
    try:
        data = build(node if folder in (None, here) else _seen_from(folder, node), "data")
    except UserError as error:
        if folder is not None:
            raise
        key, path = named[0]
        raise UserError(
            f"data.{key}={path}, which {run} was trained on, is neither in {made.folder}, where the"
            " run was made, nor in the current folder: put it back, or go where it lies."
        ) from error
    return data, folder or here


def _paths(node: Any) -> Iterator[tuple[str, str]]:
    """The keys and values of the arguments that name a file or a folder."""
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str) and _names_a_path(key):
                yield key, value
            else:
                yield from ((f"{key}.{below}", path) for below, path in _paths(value))


def _seen_from(folder: Path, node: Any) -> Any:
    """The same part of a configuration, its relative paths made absolute."""
    if not isinstance(node, dict):
        return node
    return {
        key: str(folder / value)
        if isinstance(value, str) and _names_a_path(key) and _is_relative(value)
        else _seen_from(folder, value)
        for key, value in node.items()
    }


def _names_a_path(key: Any) -> bool:
    return str(key).rpartition("_")[2] in PATHS


def _is_relative(path: str) -> bool:
    return not os.path.isabs(path) and not path.startswith("~") and "://" not in path
