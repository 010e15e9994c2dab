"""What a user asked for, checked before anything starts: one sentence that names the value and what to do."""

__all__ = ["UserError", "check_ranges", "config_dirs", "expand", "explain", "help_text", "naming", "resumable", "single_choices"]

import contextlib
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A request that cannot be served as it stands; its message is one sentence for the user."""


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Say which part of the configuration refused its arguments."""
    try:
        yield
    except (ValueError, TypeError, ImportError, AttributeError, FileNotFoundError) as error:
        target = _first(r"Error (?:loading|locating target) '([^']+)'", str(error))
        if target:
            reason = _first(r"(No module named '[^']+')", str(error)) or "the module has no such name"
            raise UserError(f"{where}: {target} cannot be imported ({reason}); it is looked for in the current folder and "
                            "among the installed packages.") from error
        text = " ".join(re.sub(r"\s*full_key: .*", "", str(error), flags=re.DOTALL).split())
        raise UserError(f"{where}: {text}") from error


def check_ranges(cfg: Any) -> None:
    """Refuse numbers that no part would accept: NaN anywhere, no epochs, no samples.

    Raises:
        UserError: names the key and the value.
    """
    for key, value in flat(cfg):
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{key}={value} is not a number: give a finite value.")
        if key.split(".")[-1] == "lr" and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise UserError(f"{key}={value}: a learning rate is a positive, finite number; give one such as 0.001.")
    epochs = cfg.lightning.get("max_epochs")
    if not isinstance(epochs, int) or epochs < 1:
        raise UserError(f"lightning.max_epochs={epochs}: training takes at least one epoch; give an integer >= 1.")
    samples, rows = cfg.evaluation.samples, cfg.evaluation.rows
    if not isinstance(samples, int) or samples < 1:
        raise UserError(f"evaluation.samples={samples}: the likelihood needs at least one draw; give an integer >= 1.")
    if rows is not None and (not isinstance(rows, int) or rows < 1):
        raise UserError(f"evaluation.rows={rows}: score at least one row, or null for all.")


def expand(arguments: Sequence[str]) -> list[str]:
    """`divergence=NAME` is short for the trainer's divergence; a word that is neither a flag nor an override is refused."""
    for before, argument in zip(["", *arguments], arguments):
        if not argument.startswith("-") and "=" not in argument and not before.startswith("-"):
            raise UserError(f"{argument!r} is neither a command (train, evaluate, sample, compare, export) nor of the form key=value.")
    return [re.sub(r"^divergence=", "divergence@trainer.divergence=", argument) for argument in arguments]


def config_dirs(arguments: Sequence[str]) -> list[str]:
    """The user's own configuration folders, given by --config-dir; warns of files that ours shadow.

    Raises:
        UserError: a folder does not exist.
    """
    found = []
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            found.append(value or (arguments[i + 1] if i + 1 < len(arguments) else ""))
    ours = options()
    for folder in found:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder} is not a folder: name the folder that holds your trainer/, model/ ... options.")
        for file in Path(folder).rglob("*.yaml"):
            group = str(file.parent.relative_to(folder))
            if file.stem in ours.get(group, ()):
                print(f"emgen: warning: {file} is not read, for emgen has a {group}={file.stem} of its own; rename yours.",
                      file=sys.stderr)
    return found


def explain(error: Exception, known: Iterable[str]) -> str:
    """One sentence for a composition error: what is unknown and the nearest names that are not.

    Args:
        error: what Hydra raised; its `missing_cfg_file` and `options`, or its text, say what was wrong.
        known: every key of the configuration.
    """
    text = str(error)
    missing = getattr(error, "missing_cfg_file", None) or _first(r"Could not find '([^']+)'", text)
    if missing:
        group, _, name = str(missing).rpartition("/")
        names = options().get(group) or getattr(error, "options", None) or []
        return f"there is no {group or 'option'}={name}; {_nearest(name, names)} (all: {', '.join(names)})."
    key = _first(r"Could not override '([^']+)'", text) or _first(r"Key '([^']+)' is not in struct", text)
    if key:
        key = "divergence" if key.startswith("divergence@") else key
        if key == "divergence":
            return "divergence=... belongs to trainer=fgan, which this command does not ask for; add trainer=fgan."
        keys = [*known, *options()]
        return f"unknown key {key}; {_nearest(key, keys)}. `emgen --cfg job` prints every key, and +{key}=... adds a new one."
    return " ".join(text.split())


def single_choices(arguments: Sequence[str]) -> list[list[str]]:
    """The plain requests a sweep stands for: each value of each comma-separated override once, the others at their first.

    Ranges and intervals (`range(…)`, `tag(…)`) are left to the sweeper.
    """
    plain, swept = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-") or not equals:
            continue
        if re.match(r"(tag|interval|range|choice|glob|shuffle|sort)\(", value):
            continue
        parts = _split(value)
        if len(parts) > 1:
            swept[key] = parts
        else:
            plain.append(argument)
    firsts = {key: parts[0] for key, parts in swept.items()}
    requests = [[*plain, *(f"{k}={v}" for k, v in {**firsts, key: part}.items())] for key, parts in swept.items() for part in parts]
    return requests or [plain]


def resumable(arguments: Sequence[str], run_dir: Path) -> tuple[Path | None, list[str]]:
    """Where a run is to be continued, and the overrides it was started with.

    `resume=DIR` is that run; `resume=auto` is `paths.run_dir` if it holds a run, else the newest unfinished run beside it.

    Raises:
        UserError: DIR holds no checkpoint.
    """
    asked = next((a.partition("=")[2] for a in arguments if a.startswith("resume=")), "null")
    if asked in ("null", "", "false"):
        return None, []
    if asked == "auto":
        named = any(a.startswith("paths.run_dir=") for a in arguments)
        found = [run_dir] if named else sorted(run_dir.parent.glob("*/"), key=lambda p: p.stat().st_mtime, reverse=True)
        unfinished = [p for p in found if (p / "checkpoints" / "last.ckpt").exists() and (named or _status(p) != "finished")]
        return (unfinished[0], []) if unfinished else (None, [])
    run = Path(asked)
    if not (run / "checkpoints" / "last.ckpt").exists():
        raise UserError(f"resume={asked}: there is no checkpoints/last.ckpt in that folder; name a run folder, or use resume=auto.")
    record = run / ".hydra" / "overrides.yaml"
    before = [line[2:].strip().strip("'\"") for line in record.read_text().splitlines() if line.startswith("- ")] if record.exists() else []
    return run, [o for o in before if not o.startswith(("resume=", "paths.run_dir="))]


def options() -> dict[str, list[str]]:
    """Our option groups and the names in each."""
    root = files("emgen.configs")
    groups = {group.name: group for group in root.iterdir() if group.is_dir() and not group.name.startswith("_")}
    return {name: sorted(f.name[:-5] for f in group.iterdir() if f.name.endswith(".yaml")) for name, group in sorted(groups.items())}


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested configuration with its dotted key."""
    for key in node:
        value = node._get_node(key) if hasattr(node, "_get_node") else node[key]
        name = f"{prefix}{key}"
        if hasattr(value, "keys"):
            yield name, None
            yield from flat(value, f"{name}.")
        else:
            yield name, getattr(value, "_value", lambda v=value: v)()


def help_text(program: str = "emgen") -> str:
    """What `emgen --help` prints."""
    groups = "\n".join(f"  {name:<16}{', '.join(names)}" for name, names in options().items() if names)
    return f"""\
emgen: deep generative modelling as alternating projection

  {program} [train] KEY=VALUE ...          train; --cfg job prints the configuration, -m sweeps over a,b,c
  {program} evaluate run=DIR               score a run: log-likelihood in nats, its error, its method
  {program} sample run=DIR n=64            draw from a run's model
  {program} compare RUN RUN ...            a table, and one HTML page of curves and pictures
  {program} export run=DIR                 weights as safetensors, with the configuration beside them

Options (GROUP=NAME chooses one, GROUP.KEY=VALUE sets a key of it):

{groups}

  seed=0  resume=auto|DIR  paths.run_dir=DIR  lightning.max_epochs=20  evaluation.samples=200
"""


def _split(value: str) -> list[str]:
    """The comma-separated parts of an override's value, outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for c in value:
        if quote or c in "'\"":
            quote = "" if c == quote else quote or c
        elif c in "[{(":
            depth += 1
        elif c in "]})":
            depth -= 1
        if c == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    # a key is as near as its last word, then as the whole of it
    likeness = {n: (_alike(n.rpartition(".")[2], name.rpartition(".")[2]), _alike(n, name)) for n in names}
    close = sorted((n for n in names if max(likeness[n]) >= 0.6), key=lambda n: sum(likeness[n]), reverse=True)[:3]
    return f"nearest: {', '.join(close)}" if close else "nothing is near it"


def _alike(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None


def _status(run: Path) -> str:
    """What a run says of itself; one that says `running` but whose process is gone was cut off."""
    try:
        status = json.loads((run / "status.json").read_text())
        if status["status"] == "running":
            os.kill(status["pid"], 0)
            return "finished"  # somebody is at it
        return str(status["status"])
    except ProcessLookupError:
        return "interrupted"
    except (OSError, ValueError, KeyError):
        return "unknown"
