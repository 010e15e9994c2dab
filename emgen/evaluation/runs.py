"""What a run folder holds, read so that a missing or damaged piece is named and never raises."""

__all__ = [
    "Group",
    "Run",
    "Score",
    "find_runs",
    "groups",
    "labels",
    "read_run",
    "settings",
    "strict_json",
]

import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SCORES = ("test/log_likelihood", "val/log_likelihood", "test/elbo", "val/elbo")
AXES = ("examples", "seconds")
IMAGES = ("samples", "reconstructions")
# of a configuration, what makes no other one of it: its seed, its names, where it is kept, how it goes on
ASIDE = (
    "seed",
    "choices",
    "hydra",
    "logger",
    "made",
    "optimized_metric",
    "paths",
    "resume",
    "trust",
)
# what a data option may change without changing which rows are scored
IRRELEVANT = {"_target_", "batch_size", "shuffle", "drop_last", "block", "root", "download", "name"}


@dataclass(frozen=True)
class Score:
    """The figure a run is judged by: mean log-likelihood in nats per datum, its error, its method."""

    tag: str
    value: float
    error: float
    method: str
    ess: float | None

    @property
    def loose(self) -> bool:
        """Whether the bound says little: fewer than 2 % of its draws counted."""
        draws = re.search(r"K=(\d+)", self.method)
        return draws is not None and self.ess is not None and self.ess < 0.02 * int(draws[1])


@dataclass(frozen=True)
class Run:
    """What could be read of a run folder; a part that is missing or broken is empty and named in
    `problems`.

    `curves` maps a tag to its points (examples, seconds, value), in order.
    """

    path: Path
    status: str
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    images: dict[str, Path] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    message: str = ""

    @property
    def trainer(self) -> str:
        return str(self.summary.get("trainer", self.path.parent.name or "?"))

    @property
    def model(self) -> str:
        return str(self.summary.get("model", "?"))

    @property
    def data(self) -> str:
        return str(self.summary.get("data", "unknown data"))

    @property
    def binarisation(self) -> str:
        return str(_node(self.config, "data").get("binarise", "none"))

    @property
    def descends(self) -> str:
        """What each player of a game descends, in one line; empty where none was recorded."""
        said = _node(self.summary, "descends")
        return "; ".join(f"{player} descends {what}" for player, what in said.items())

    @property
    def score(self) -> Score | None:
        metrics, methods = _node(self.summary, "metrics"), _node(self.summary, "methods")
        tag = next((tag for tag in SCORES if _number(metrics.get(tag)) is not None), None)
        if tag is None:
            return None
        error = _number(metrics.get(f"{tag}_error"))
        ess = _number(metrics.get(f"{tag.split('/')[0]}/ess"))
        return Score(
            tag,
            float(metrics[tag]),
            math.nan if error is None else error,
            str(methods.get(tag, "?")),
            ess,
        )

    def metric(self, name: str) -> float | None:
        """A finite figure of the rows that the score is of, else of the test rows; None where
        there is none.
        """
        metrics = _node(self.summary, "metrics")
        split = self.score.tag.split("/")[0] if self.score else "test"
        return next(
            (
                value
                for tag in (f"{split}/{name}", f"test/{name}")
                if (value := _number(metrics.get(tag))) is not None
            ),
            None,
        )

    def method(self, name: str) -> str:
        """How a figure of the test rows was measured."""
        return str(_node(self.summary, "methods").get(f"test/{name}", ""))

    def number(self, key: str) -> float | None:
        """A finite number of the summary, None where it is missing."""
        return _number(self.summary.get(key))


@dataclass(frozen=True)
class Group:
    """Runs scored on the same rows, with a label each that says how it differs from the others."""

    title: str
    runs: tuple[Run, ...]
    labels: tuple[str, ...]


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """The run folders at or below the given ones, each once, in the order of their names within a
    path.
    """
    runs: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path} is not a folder: give run folders, or a folder that holds some, such as"
                " runs."
            )
        below = {
            file.parent for name in ("status.json", "summary.json") for file in path.rglob(name)
        }
        runs.update(dict.fromkeys(sorted(below)))
    if not runs:
        raise FileNotFoundError(
            f"no run in {', '.join(map(str, paths))}: a run folder holds status.json or"
            " summary.json."
        )
    return list(runs)


def read_run(path: str | Path) -> Run:
    """Read a run folder; whatever is missing or damaged ends up in `problems`, never in an
    exception.
    """
    path = Path(path)
    problems: list[str] = []
    status = _read(path / "status.json", json.loads, problems)
    summary = _read(path / "summary.json", json.loads, problems)
    config = _read(path / "config.yaml", _yaml, problems)
    if (path / "evaluation.json").exists():  # a later, usually finer, score of the best checkpoint
        evaluation = _read(path / "evaluation.json", json.loads, problems)
        if evaluation.get("epochs", summary.get("epochs")) == summary.get(
            "epochs"
        ):  # else the run has gone on since
            summary = _rescored(summary, evaluation)
    curves: dict[str, list[tuple[float, float, float]]] = {}
    try:
        with open(path / "metrics.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                x, y = (_number(row.get(axis)) for axis in AXES)
                for tag, text in row.items():
                    value = _number(text) if tag and "/" in tag else None
                    if value is not None and x is not None:
                        curves.setdefault(tag, []).append((x, math.nan if y is None else y, value))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        problems.append(f"metrics.csv: {_reason(error)}")
    images = {name: path / "figures" / f"{name}.png" for name in IMAGES}
    return Run(
        path=path,
        status=str(status.get("status", "finished" if summary else "unknown")),
        message=str(status.get("message", "")),
        summary={**_names(config, path), **summary},
        config=config,
        curves=curves,
        images={name: file for name, file in images.items() if file.is_file()},
        problems=tuple(problems),
    )


def strict_json(content: Any) -> str:
    """JSON that every reader takes: a number that is not finite, which JSON does not know, becomes
    null.

    >>> strict_json({"value": math.nan, "error": [1.5, math.inf]}).split()
    ['{', '"value":', 'null,', '"error":', '[', '1.5,', 'null', ']', '}']
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(content), indent=2, allow_nan=False)


def groups(runs: Iterable[Run]) -> list[Group]:
    """Sort runs into comparable groups, the largest first, and the best score first within each."""
    sets: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        options = {k: v for k, v in _node(run.config, "data").items() if k not in IRRELEVANT}
        sets.setdefault(
            (run.data, run.binarisation, json.dumps(options, sort_keys=True, default=str)), []
        ).append(run)
    titles = [_title(data, binarisation) for data, binarisation, _ in sets]
    result = []
    for (_, _, options), title, members in zip(sets, titles, sets.values()):
        members.sort(key=lambda run: -run.score.value if run.score else math.inf)
        full = f"{title}, {options}" if titles.count(title) > 1 else title
        result.append(Group(full, tuple(members), tuple(labels(members))))
    return sorted(result, key=lambda group: -len(group.runs))


def _rescored(summary: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """The summary with the figures that `emgen evaluate` wrote in place of its own."""
    metrics, methods = dict(_node(summary, "metrics")), dict(_node(summary, "methods"))
    for tag, found in _node(evaluation, "metrics").items():
        metrics[tag], metrics[f"{tag}_error"] = found.get("value"), found.get("error")
        methods[tag] = found.get("method")
    return {**summary, "metrics": metrics, "methods": methods}


def settings(run: Run) -> dict[str, str]:
    """All of a run's configuration but its seed and what says where it is kept or how it goes on,
    by dotted names.
    """
    place = str(_node(run.config, "paths").get("run_dir") or run.path)
    return {
        name: value
        for name, value in _flat(run.config).items()
        if name.split(".")[0] not in ASIDE and place not in value
    }


def labels(runs: Sequence[Run], seeds: bool = True) -> list[str]:
    """The trainer, and for runs of the same trainer the options in which they differ, three at the
    most.

    Args:
        runs: of one group.
        seeds: whether the seed is one of these options.
    """
    flat = [{**_flat(run.config), "model": run.model} for run in runs]
    found = []
    for run, options in zip(runs, flat):
        twins = [other for twin, other in zip(runs, flat) if twin.trainer == run.trainer]
        keys = sorted(
            {
                key
                for twin in twins
                for key in {*twin, *options}
                if twin.get(key) != options.get(key)
            }
        )
        keys = [
            key
            for key in keys
            if (seeds and key == "seed") or key.split(".")[0] not in (*ASIDE, "callbacks")
        ]
        differ = ", ".join(f"{key.removeprefix('trainer.')}={options.get(key)}" for key in keys[:3])
        found.append(f"{run.trainer} {differ}".strip())
    again = {label for label in found if found.count(label) > 1}
    return [
        f"{label} ({run.path.name})" if label in again else label for label, run in zip(found, runs)
    ]


def _title(data: str, binarisation: str) -> str:
    return data if binarisation == "none" else f"{data}, {binarisation} binarisation"


def _names(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Names for a run without a summary: its configuration's choices, else what the folder is
    called.
    """
    parts = path.parent.name.split("-")
    guess: dict[str, Any] = (
        dict(zip(("trainer", "model", "data"), parts))
        if len(parts) == 3
        else {"trainer": path.name}
    )
    return {**guess, **_node(config, "choices")}


def _flat(node: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(node, dict):
        words = {None: "null", True: "true", False: "false"}
        return {prefix: words[node] if node is None or isinstance(node, bool) else str(node)}
    return {
        k: v
        for key, child in node.items()
        for k, v in _flat(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _node(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _read(path: Path, parse: Any, problems: list[str]) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{path.name}: {_reason(error)}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path.name}: not a mapping")
        return {}
    return content


def _yaml(text: str) -> Any:
    """What a YAML text says; the parser in C, where there is one, is ten times as fast."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _reason(error: Exception) -> str:
    return (
        "missing"
        if isinstance(error, FileNotFoundError)
        else f"unreadable ({str(error).splitlines()[0]})"
    )


def _number(value: Any) -> float | None:
    """A finite number from JSON or CSV, else None (a NaN in a table says nothing and breaks an
    axis).
    """
    if isinstance(value, bool) or value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
