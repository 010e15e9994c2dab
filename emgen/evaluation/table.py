"""The table of a group on the comparison page: a row a configuration, which unfolds to its seeds."""

__all__ = ["table"]

import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from emgen.evaluation.rows import Row, Setting, Spread
from emgen.evaluation.runs import Run, Score
from emgen.evaluation.words import averaged, counted, method, scored
from emgen.figures.line_chart import PALETTE
from emgen.figures.whisker import whisker

# figures of the rows and of the samples: shown where some run has them
METRICS = {"fid": "FID", "kid": "KID", "mmd": "MMD²", "elbo": "ELBO", "gap": "gap", "ess": "ESS"}
SAMPLES = ("fid", "kid", "mmd")
NUMBERS = {"seconds": "seconds", "examples_per_second": "examples/s", "parameters": "parameters"}
SETTINGS = 8  # that are told of a configuration; more than that is another experiment


def table(found: Sequence[Row], first: int, beside: Path | None) -> str:
    """The table of a group's configurations.

    Args:
        found: the configurations, the best first.
        first: the number of the first, which gives colour and class.
        beside: the folder of the page, from which runs are linked; None links to nothing.
    """
    metrics = [
        name
        for name in METRICS
        if any(run.metric(name) is not None for r in found for run in r.runs)
    ]
    methods = {
        name: {run.method(name) for r in found for run in r.runs} - {""}
        for name in metrics
        if name in SAMPLES
    }
    axis = _Axis(found)
    bodies = []
    for number, row in enumerate(found, first):
        chip = f'<span class="chip" style="--c:var(--c{number % PALETTE})"></span>'
        several = len(row.runs) > 1
        unfold = f"<details><summary>{len(row.runs)} seeds</summary></details>" if several else ""
        about = unfold or _link(row.runs[0], beside)
        head = (
            f'<tr><th scope="row"><label><input type="checkbox" id="show{number}" checked>{chip}'
            f"{escape(_name(row))}</label>{_about(row, about)}</th>"
        )
        lines = [head + _cells(row, metrics, methods, axis, number) + "</tr>"]
        for run, label in zip(row.runs, row.labels) if several else ():
            lines.append(
                f'<tr class="seed"><th scope="row">{escape(label)}'
                f'<div class="about">{_status(run.status)}{_link(run, beside)}</div></th>'
                + _cells(Row(label, (run,), (label,)), metrics, methods, axis, number)
                + "</tr>"
            )
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")

    names = ["run", "log-likelihood, nats", *(METRICS[name] for name in metrics)]
    heads = [f'<th scope="col">{head}</th>' for head in [*names, *NUMBERS.values()]]
    shared = [next(iter(used)) for used in methods.values() if len(used) == 1]
    note = f'<p class="note">{escape("; ".join(shared))}.</p>' if shared else ""
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f"{''.join(bodies)}</table></div>{note}"
    )


class _Axis:
    """The range of the whiskers, over the scores of the method that most configurations share."""

    def __init__(self, found: Sequence[Row]):
        scores = [row.score for row in found]
        used = [method(score) for score in scores if score]
        self.method = max(set(used), key=used.count, default="")
        spans = [
            (value, 0.0 if math.isnan(error) else 2 * error)
            for row in found
            for value, error in _values(row)
            if method(row.score) == self.method
        ]
        self.low = min((value - reach for value, reach in spans), default=0.0)
        self.high = max((value + reach for value, reach in spans), default=1.0)
        self.drawn = len(spans) > 1

    def whisker(self, score: Score | None, value: float, error: float, number: int) -> str:
        if not self.drawn or method(score) != self.method:
            return ""
        return whisker(value, error, self.low, self.high, number)


def _values(row: Row) -> list[tuple[float, float]]:
    """(value, error) of every whisker in a row and below it."""
    spread = row.spread
    mean = [(spread.mean, spread.sd)] if spread and len(row.runs) > 1 else []
    return mean + [(run.score.value, run.score.error) for run in row.runs if run.score]


def _cells(
    row: Row, metrics: Sequence[str], methods: dict[str, set[str]], axis: _Axis, number: int
) -> str:
    """All that stands to the right of a row's name."""
    score, spread = row.score, row.spread
    has_samples = any(run.metric(name) is not None for run in row.runs for name in SAMPLES)
    if score is None and not has_samples:
        width = 1 + len(metrics) + len(NUMBERS)
        return f'<td class="note" colspan="{width}">{escape(_why(row.runs))}</td>'

    several = len(row.runs) > 1
    if score is None or spread is None:
        shown = '<b>—</b><div class="method">no likelihood</div>'
    elif several:
        seeds = f"sd over {spread.n} seed{'s' * (spread.n > 1)}"
        shown = f"<b>{averaged(spread)}</b>{axis.whisker(score, spread.mean, spread.sd, number)}"
        shown += f'<div class="method">{escape(method(score))}<br>{seeds}</div>'
    else:
        shown = f"<b>{scored(score)}</b>{axis.whisker(score, score.value, score.error, number)}"
        shown += f'<div class="method">{escape(method(score))}</div>'
    cells = [f'<td class="score">{shown}</td>']
    for name in metrics:
        values = row.over(lambda run, name=name: run.metric(name))  # type: ignore[misc]
        used = {run.method(name) for run in row.runs} - {""}
        mixed = len(methods.get(name, ())) > 1
        how = f'<div class="method">{escape("; ".join(sorted(used)))}</div>' if mixed else ""
        cells.append(f"<td>{_figure(name, values)}{how}</td>")
    for key in NUMBERS:
        values = row.over(lambda run, key=key: run.number(key))  # type: ignore[misc]
        cells.append(f"<td>{counted(values.mean if values else None)}</td>")
    return "".join(cells)


def _figure(name: str, values: Spread | None) -> str:
    """A figure, with its spread over seeds below."""
    if values is None:
        return ""
    shown = f"{values.mean:.1f}" if name == "ess" else counted(values.mean)
    spread = "" if math.isnan(values.sd) else f'<div class="spread">± {counted(values.sd)}</div>'
    return shown.replace("-", "−") + spread


def _name(row: Row) -> str:
    """The trainer, where the settings below it tell configurations apart, else the whole label."""
    return row.runs[0].trainer if row.settings else row.label


def _about(row: Row, more: str) -> str:
    """Below a configuration's name: status, model, what differs, and its folder or its seeds."""
    told = [_statuses(row), f"<span>{escape(row.runs[0].model)}</span>"]
    told += [_setting(setting) for setting in row.settings[:SETTINGS]]
    left = len(row.settings) - SETTINGS
    if left > 0:
        rest = ", ".join(f"{one.name}={one.value}" for one in row.settings[SETTINGS:])
        told.append(f'<span title="{escape(rest)}">and {left} more</span>')
    game = row.runs[0].descends
    descends = f'<div class="about">{escape(game)}</div>' if game else ""
    return f'<div class="about">{"".join(told)}{more}</div>{descends}'


def _setting(setting: Setting) -> str:
    name = escape(setting.name.removeprefix("trainer."))
    value = escape(setting.value)
    return f"<code>{name}={f'<mark>{value}</mark>' if setting.unusual else value}</code>"


def _link(run: Run, beside: Path | None) -> str:
    """A relative link to a run's folder, under the folder's name."""
    if beside is None:
        return ""
    way = os.path.relpath(run.path.resolve(), beside.resolve())
    return f'<a href="{escape(quote(way))}/">{escape(run.path.name)}</a>'


def _statuses(row: Row) -> str:
    """The status of a row's runs, with how many have which where they differ."""
    each = [run.status for run in row.runs]
    different = list(dict.fromkeys(each))
    if len(different) == 1:
        return _status(each[0])
    return "".join(_status(status, f"{each.count(status)} ") for status in different)


def _status(status: str, count: str = "") -> str:
    return f'<span class="status {escape(status)}">{count}{escape(status)}</span>'


def _why(runs: Sequence[Run]) -> str:
    """Why there are no figures."""
    told: list[str] = []
    for run in runs:
        told += [run.message] if run.message else [] if run.status == "running" else run.problems
    return "; ".join(dict.fromkeys(told)) or "no log-likelihood yet"
