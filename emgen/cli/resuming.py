"""A run that is to be continued: where it is, what it was asked for, and whether what is asked now
can go on from there.
"""

__all__ = ["continued", "resumable"]

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from emgen.cli.checks import STATEFUL, flat
from emgen.cli.compose import Compose, checked, shipped_targets
from emgen.cli.folder import RunFolder, is_first_process, status_of
from emgen.cli.overrides import quoted
from emgen.cli.trust import KNOWN, OUTWARD, check_trust
from emgen.errors import UserError, typed
from emgen.options import targets_in

# Of a run's data these may change, for they choose neither rows nor their values.
ROWS_STAY = {
    "data.batch_size",
    "data.shuffle",
    "data.drop_last",
    "data.download",
    "data.root",
    "data.dtype",
}

# The parts of a configuration that say what a run computes; the rest says where it is kept.
PARTS = ("model", "critic", "trainer", "data", "lightning", "callbacks", "evaluation", "seed")


@dataclass(frozen=True)
class Record:
    """What a run folder says the run was asked for.

    Attributes:
        overrides: of the command line that started it, without those that name a folder or trust a
            module.
        config: its `config.yaml`, resolved; what counts where the two differ.
    """

    overrides: list[str]
    config: dict[str, Any]


def resumable(arguments: Sequence[str], run_dir: Callable[[], Path]) -> tuple[Path | None, bool]:
    """The run that is to be continued, and whether it was named.

    `resume=DIR` (or its `checkpoints/last.ckpt`) is that run, which goes on as it was asked for;
    `resume=auto` is `paths.run_dir` if it holds a run, else the newest unfinished run beside it,
    asked for anew.

    Args:
        arguments: of the command line.
        run_dir: where a new run would go.

    Raises:
        UserError: DIR holds no checkpoint.
    """
    asked = next((a.partition("=")[2] for a in arguments if a.startswith("resume=")), "null")
    if asked[:1] in ("'", '"'):
        asked = asked[1:-1].replace("\\'", "'")
    if asked in ("null", "", "false"):
        return None, False
    if asked == "auto" and not is_first_process():  # the first one finds it, and tells the others
        return None, False
    if asked == "auto":
        return (
            _newest_unfinished(run_dir(), any(a.startswith("paths.run_dir=") for a in arguments)),
            False,
        )
    run = Path(asked)
    if run.name == "last.ckpt" and run.parent.name == "checkpoints":
        run = run.parent.parent
    if not (run / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"resume={asked}: there is no checkpoints/last.ckpt in that folder; name a run folder,"
            " or use resume=auto."
        )
    return run, True


def continued(
    run: Path, named: bool, arguments: list[str], config_dirs: Sequence[str], compose: Compose
) -> list[str]:
    """The overrides that go on with a run, which have been held against its record and against what
    may be built.

    Args:
        run: the run folder.
        named: whether its recorded overrides come first, and those of this command line after them.
        arguments: of this command line.
        config_dirs: the user's own option folders.
        compose: (config name, overrides) → configuration.

    Raises:
        UserError: the run cannot go on in this way; nothing has been changed.
    """
    record = read_record(run)
    asked = [a for a in arguments if not a.startswith(("paths.run_dir=", "hydra.run.dir="))]
    if named:
        _refuse_another_folder(run, set(arguments) - set(asked))
    before = record.overrides if named else []
    place = quoted(f"paths.run_dir={run}")
    cfg = checked([*before, *asked, place], compose, complete=False)
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    known = (shipped_targets() - OUTWARD) | KNOWN | _named_now(arguments, config_dirs)
    for part, node in now.items():
        check_trust(node, f"{run}: {part}", now["trust"] or (), known)
    unasked: Any = (
        OmegaConf.to_container(checked([*before, place], compose, complete=False), resolve=True)
        if named
        else None
    )
    changes = check_same(run, record.config or now, now, unasked)
    RunFolder(run).refuse_if_beyond(cfg.lightning.max_epochs)
    if is_first_process():
        also = f"{' with ' * bool(changes)}{', '.join(changes)}"
        print(f"emgen: continuing {run}{also}", file=sys.stderr)
    return [*before, *asked, place]


def read_record(run: Path) -> Record:
    """The record in a run folder, which may be a stranger's: read, never executed.

    Raises:
        UserError: it cannot be read, or its overrides would reach beyond the run, into Hydra's own
            configuration.
    """
    lines = _load(run / ".hydra" / "overrides.yaml", list)
    config = _load(run / "config.yaml", dict)
    kept = []
    for line in lines:
        try:
            (override,) = OverridesParser.create().parse_overrides([line])
        except (HydraException, TypeError, ValueError) as error:
            raise UserError(
                f"{run}/.hydra/overrides.yaml holds {line!r}, which is no override: train the run"
                " again."
            ) from error
        places = {str(override.key_or_group), str(override.package or "")}
        roots = {place.lstrip("_").replace("/", ".").split(".")[0] for place in places}
        if "hydra" in roots:
            raise UserError(
                f"{run}/.hydra/overrides.yaml holds {line!r}, and a run's own record never reaches"
                " into Hydra: this folder was not written by emgen alone; if you want that"
                " override, type it, with resume=auto and paths.run_dir."
            )
        if not roots & {"resume", "trust"} and "paths.run_dir" not in places:
            kept.append(line)
    return Record(kept, config)


def check_same(run: Path, was: dict[str, Any], now: Any, before: Any = None) -> list[str]:
    """What differs between a run and what is asked of it now, as `key=now (was before)`.

    Args:
        run: the run folder.
        was: its `config.yaml`.
        now: the configuration that is asked for.
        before: the configuration that the run's recorded overrides give by themselves, if they are
            gone on from.

    Raises:
        UserError: the checkpoint belongs to other networks, optimisers or ladders; the rows would
            be others than those that were trained on; or the run's record does not give its
            configuration.
    """
    old, new = _leaves(was), _leaves(now)
    recorded = new if before is None else _leaves(before)
    changes = []
    for key in [*old, *(key for key in new if key not in old)]:
        if old.get(key) == new.get(key):
            continue
        part = key.partition(".")[0]
        state = part in ("model", "critic") or (
            key == f"{part}._target_" and part in ("trainer", "data")
        )
        rows = part == "data" and key not in ROWS_STAY
        if state or STATEFUL.match(key):
            raise UserError(
                f"{key}={typed(new.get(key))}: {run} was trained with {typed(old.get(key))}; leave"
                " that as it was, or start another run."
            )
        if rows:
            raise UserError(
                f"{key}={typed(new.get(key))}: {run} was trained with {typed(old.get(key))}, and"
                " other rows would be scored that were trained on; leave that as it was, or start"
                " another run."
            )
        if (
            before is not None and key in old and recorded.get(key) == new.get(key)
        ):  # nobody asked for it
            raise UserError(
                f"{run}/.hydra/overrides.yaml gives {key}={typed(new.get(key))} where config.yaml"
                f" beside it says {typed(old.get(key))}: the record is damaged, or emgen's defaults"
                f" have changed since; give {key}=... to say which is meant."
            )
        changes.append(f"{key}={typed(new.get(key))} (was {typed(old.get(key))})")
    return changes


def _refuse_another_folder(run: Path, places: Iterable[str]) -> None:
    for place in places:
        value = place.partition("=")[2].strip("'\"")
        if os.path.abspath(value) != os.path.abspath(run):
            raise UserError(
                f"{place}: a run goes on in its own folder, {run}; leave that out, or copy the"
                " folder and resume the copy."
            )


def _named_now(arguments: Sequence[str], config_dirs: Sequence[str]) -> set[str]:
    """The imports that this command line itself names: by `..._target_=`, or in a file of its
    `--config-dir`.
    """
    named = {
        a.partition("=")[2].strip("'\"")
        for a in arguments
        if a.partition("=")[0].endswith("_target_")
    }
    for folder in config_dirs:
        for file in Path(folder).rglob("*.yaml"):
            named |= targets_in(file.read_text(encoding="utf-8"))
    return named


def _newest_unfinished(run_dir: Path, named: bool) -> Path | None:
    beside = sorted(run_dir.parent.glob("*/"), key=lambda path: path.stat().st_mtime, reverse=True)
    for run in [run_dir] if named else beside:
        resting = named or status_of(run) not in ("finished", "running")
        if resting and (run / "checkpoints" / "last.ckpt").exists():
            return run
    return None


def _load(path: Path, kind: type) -> Any:
    """A YAML file of the run, of the kind that it should be; empty where there is none."""
    if not path.exists():
        return kind()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({' '.join(str(error).split())}): train the run again."
        ) from error
    if not isinstance(content, kind) or (
        kind is list and not all(isinstance(line, str) for line in content)
    ):
        what = "a list of overrides" if kind is list else "a configuration"
        raise UserError(f"{path} is damaged (it holds no {what}): train the run again.")
    return content


def _leaves(config: Any) -> dict[str, Any]:
    """Every value of the parts that say what a run computes, by its dotted key."""
    found: dict[str, Any] = {}
    for part in PARTS:
        node = config.get(part)
        if hasattr(node, "keys"):
            found |= {key: value for key, value in flat(node, f"{part}.") if value is not None}
        elif node is not None:
            found[part] = node
    return found
