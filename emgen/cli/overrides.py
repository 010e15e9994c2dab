"""What a user typed: flags, overrides, sweeps; what is unknown is answered by what is near it."""

__all__ = [
    "COMMANDS",
    "config_dirs",
    "expand",
    "explain",
    "quoted",
    "refuse_unasked_sweep",
    "single_choices",
]

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from emgen.errors import UserError, nearest
from emgen.options import names

COMMANDS = ("train", "evaluate", "sample", "compare", "export")
PATHS = (
    "data.path",
    "hydra.run.dir",
    "output",
    "paths.data_dir",
    "paths.run_dir",
    "paths.sweep_dir",
    "resume",
    "run",
)
# Hydra's launchers and sweepers that come with the extra `sweep`, by the packages that hold them
PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "optuna": "hydra-optuna-sweeper",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
# Hydra's flags, and whether a value follows
FLAGS = {
    "--multirun": False,
    "-m": False,
    "--run": False,
    "-r": False,
    "--cfg": True,
    "-c": True,
    "--resolve": False,
    "--package": True,
    "-p": True,
    "--info": True,
    "-i": True,
    "--hydra-help": False,
    "--shell-completion": False,
    "-sc": False,
    "--config-dir": True,
    "-cd": True,
    "--config-path": True,
    "-cp": True,
    "--config-name": True,
    "-cn": True,
    "--experimental-rerun": True,
}


def expand(arguments: Sequence[str]) -> list[str]:
    """Flags first, as Hydra wants them, then overrides; `divergence=NAME` is short for the
    trainer's divergence.

    Raises:
        UserError: a word that is neither a flag nor an override.
    """
    flags, overrides, open_flag = [], [], False
    for argument in arguments:
        name = argument.partition("=")[0]
        if argument.startswith("-"):
            if name not in FLAGS:
                raise UserError(
                    f"there is no flag {name}; {nearest(name, ['--help', '--version', *FLAGS])}."
                )
            flags.append(argument)
        elif open_flag and "=" not in argument:
            flags.append(argument)
        elif name and ("=" in argument or argument.startswith("~")):
            overrides.append(quoted(_divergence(argument)))
        else:
            if argument in names():
                raise UserError(
                    f"{argument} is an option group: say {argument}=NAME, one of"
                    f" {', '.join(names()[argument])}."
                )
            raise UserError(
                f"{argument!r} is neither a command nor of the form key=value;"
                f" {nearest(argument, COMMANDS)} (commands: {', '.join(COMMANDS)})."
            )
        open_flag = argument.startswith("-") and "=" not in argument and FLAGS[name]
    return [*flags, *overrides]


def _divergence(argument: str) -> str:
    """`divergence=NAME` and `trainer.divergence=NAME` choose the option of the trainer's
    divergence.
    """
    key, _, value = argument.partition("=")
    named = set(value.split(",")) <= set(names()["divergence"])
    if key == "divergence" or (key == "trainer.divergence" and named):
        return f"divergence@trainer.divergence={value}"
    return argument


def quoted(argument: str) -> str:
    """An override that names a path, in the quotes that Hydra asks for around blanks, brackets and
    letters beyond ASCII.

    With a comma a key that can be swept over may name several, which it does unless there is one of
    that name.

    >>> quoted("run=my runs/ü"), quoted("run=runs/1")
    ("run='my runs/ü'", 'run=runs/1')
    """
    key, _, value = argument.partition("=")
    plain = re.fullmatch(r"[\w./:~+%@-]*|['\"\[].*|.*\$\{.*", value, re.ASCII | re.DOTALL)
    if key not in PATHS or plain or ("," in value and "." in key and not os.path.exists(value)):
        return argument
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


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
    ours = names()
    for folder in found:
        if not Path(folder).is_dir():
            raise UserError(
                f"--config-dir {folder} is not a folder: name the folder that holds your trainer/,"
                " model/ ... options."
            )
        for file in Path(folder).rglob("*.yaml"):
            group = str(file.parent.relative_to(folder))
            if file.stem in ours.get(group, ()):
                print(
                    f"emgen: warning: {file} is not read, for emgen has a {group}={file.stem} of"
                    " its own; rename yours.",
                    file=sys.stderr,
                )
    return found


def explain(error: Exception, known: Sequence[str]) -> str:
    """One sentence for a composition error: what is unknown and the nearest names that are not.

    Args:
        error: what Hydra raised; its `missing_cfg_file` and `options`, or its text, say what was
            wrong.
        known: every key of the configuration, and the option groups.
    """
    text = str(error)
    if "override_grammar" in text:
        reason = " ".join(text.partition("See https")[0].replace("^", "").split()).removeprefix(
            "LexerNoViableAltException: "
        )
        return (
            f"an override cannot be read ({reason}): put a value with such characters in quotes of"
            " its own, as in \"key='a value'\"."
        )
    missing = getattr(error, "missing_cfg_file", None) or _first(r"Could not find '([^']+)'", text)
    if missing:
        group, _, name = str(missing).rpartition("/")
        if group in ("hydra/launcher", "hydra/sweeper") and name in PLUGINS:
            return f"{group}={name} needs {PLUGINS[name]}: pip install 'emgen[sweep]'."
        there = names().get(group) or getattr(error, "options", None) or []
        if name in ("", "?", "help"):
            return (
                f"{group}=NAME takes one of {', '.join(there)}; `emgen {group}=NAME --cfg job"
                f" --package {group}` prints its keys."
            )
        return (
            f"there is no {group or 'option'}={name}; {nearest(name, there)} (all:"
            f" {', '.join(there)})."
        )
    if text.startswith("Config group override must be"):
        return (
            "an option group takes the name of one of its options (`emgen --help` lists them);"
            " ~logger or ~callbacks leaves that group out, and several are a list such as"
            " logger=[tensorboard,csv]."
        )
    key = _first(r"Could not override '([^']+)'", text) or _first(
        r"Key '([^']+)' is not in struct", text
    )
    if key:
        key = "divergence" if key.startswith("divergence@") else key
        if key == "divergence":
            return (
                "divergence=... belongs to trainer=fgan, which this command does not ask for; add"
                " trainer=fgan."
            )
        if key == "penalty":
            return (
                "penalty=... is chosen where the trainer keeps it: penalty@trainer.penalty=... or"
                " penalty@trainer.adversarial.penalty=..."
            )
        more = (
            f" `emgen --cfg job` prints every key, and +{key}=... adds a new one."
            if "trainer" in known
            else ""
        )
        return f"unknown key {key}; {nearest(key, known)}.{more}"
    return " ".join(text.split())


def single_choices(arguments: Sequence[str]) -> list[list[str]]:
    """The plain requests a sweep stands for: each value of each comma-separated override once, the
    others at their first.

    Ranges and intervals (`range(…)`, `tag(…)`) are left to the sweeper.
    """
    plain, swept = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-") or not (equals or argument.startswith("~")):
            continue
        if re.match(r"(tag|interval|range|choice|glob|shuffle|sort)\(", value):
            continue
        parts = _split(value)
        if len(parts) > 1:
            swept[key] = parts
        else:
            plain.append(argument)
    firsts = {key: parts[0] for key, parts in swept.items()}
    requests = [
        [*plain, *(f"{k}={v}" for k, v in {**firsts, key: part}.items())]
        for key, parts in swept.items()
        for part in parts
    ]
    return requests or [plain]


def refuse_unasked_sweep(arguments: Sequence[str]) -> None:
    """
    Raises:
        UserError: an override has several values, but neither a flag nor an experiment says that
            this is a sweep.
    """
    if {"-m", "--multirun"} & set(arguments) or any(
        a.startswith(("experiment=", "hydra.mode=", "-")) for a in arguments
    ):
        return
    for argument in arguments:
        key, _, value = argument.partition("=")
        if len(_split(value)) > 1:
            raise UserError(
                f"{argument} names several values: add -m to run each of them, or write one (a list"
                f" as {key}=[...])."
            )


def _split(value: str) -> list[str]:
    """The comma-separated parts of an override's value, outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for c in value:
        if quote or c in "'\"":
            quote = "" if c == quote and not parts[-1].endswith("\\") else quote or c
        elif c in "[{(":
            depth += 1
        elif c in "]})":
            depth -= 1
        if c == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def _first(pattern: str, text: str) -> str | None:
    """The first group of the first match of a pattern, if there is one."""
    match = re.search(pattern, text)
    return match.group(1) if match else None
