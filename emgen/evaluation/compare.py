"""Many runs side by side: a table for the terminal and one self-contained page of curves and
pictures.

Runs are compared only where that means something: those with another data set, another split of it
or another binarisation stand in a table of their own, and every likelihood carries its method and
standard error. Runs that differ in their seed alone are one row.
"""

__all__ = ["compare", "tables"]

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emgen.evaluation.page import page
from emgen.evaluation.rows import Row, rows
from emgen.evaluation.runs import Group, Run, find_runs, groups, read_run
from emgen.evaluation.words import averaged, counted, method, scored

SAMPLES = {"fid": "FID", "mmd": "MMD²"}  # the first that there is: a terminal is narrow
NUMBERS = {
    "ess": "ESS",
    "seconds": "seconds",
    "examples_per_second": "examples/s",
    "parameters": "size",
}


def compare(
    paths: Sequence[str | Path], output: str | Path = "compare.html", console: Console | None = None
) -> Path:
    """Print a table of the runs and write the page; returns where the page is.

    Args:
        paths: run folders, or folders that hold runs at any depth.
        output: the HTML file, written whole with its pictures inside.
        console: where the tables go; by default the terminal.

    Raises:
        FileNotFoundError: a path does not exist, or no run is found under any.
    """
    found = groups([read_run(path) for path in find_runs(paths)])
    console = console or Console()
    for table in tables(found):
        console.print(table)
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(found, beside=target.parent), encoding="utf-8")
    return target


def tables(found: Iterable[Group]) -> list[Table]:
    """One rich table a group: configuration, log-likelihood ± error (over several seeds: ± standard
    deviation), FID or MMD² of its samples, ESS, seconds, examples a second, size; methods below.
    """
    return [_table(group) for group in found]


def _table(group: Group) -> Table:
    folded = rows(group)
    scores = [row.score for row in folded]
    methods = list(dict.fromkeys(method(score) for score in scores if score is not None))
    told = [f"[{i}] {text}" for i, text in enumerate(methods, 1)]
    told += ["of several seeds: mean ± sd"] if any(len(row.runs) > 1 for row in folded) else []
    games = [f"{row.label}: {row.runs[0].descends}" for row in folded if row.runs[0].descends]
    table = Table(
        title=group.title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption=_plain("\n".join(line for line in ("; ".join(told), *games) if line)) or None,
        padding=(0, 1, 0, 0),  # eighty columns hold the whole
    )
    sampled = next((name for name in SAMPLES if any(_has(row, name) for row in folded)), None)
    table.add_column("run", min_width=10, overflow="fold")
    table.add_column("log-likelihood, nats", justify="right", no_wrap=True)
    for column in ([SAMPLES[sampled]] if sampled else []) + [*NUMBERS.values()]:
        table.add_column(column, justify="right", no_wrap=True)
    for row, score in zip(folded, scores):
        mark = "" if score is None else f" [{methods.index(method(score)) + 1}]"
        several = len(row.runs) > 1
        shown = averaged(row.spread) if several else scored(score)
        table.add_row(
            _plain(row.label) + (f" ({len(row.runs)} seeds)" if several else "") + _ended(row),
            _plain(f"{shown}{mark}"),
            *([counted(_mean(row, lambda run: run.metric(sampled)))] if sampled else []),
            *(_number(row, name) for name in NUMBERS),
        )
    return table


def _ended(row: Row) -> str:
    """How its runs ended that did not finish, in colour."""
    styles = {"failed": "red", "running": "yellow", "interrupted": "yellow"}
    ends = dict.fromkeys(run.status for run in row.runs if run.status != "finished")
    return "".join(f" [{styles.get(status, 'green')}]{_plain(status)}[/]" for status in ends)


def _number(row: Row, name: str) -> str:
    if name == "ess":
        ess = _mean(row, lambda run: run.metric("ess"))
        loose = " (loose)" if row.score is not None and row.score.loose else ""
        return "" if ess is None else f"{ess:.1f}{loose}"
    return counted(_mean(row, lambda run: run.number(name)))


def _mean(row: Row, quantity: Callable[[Run], float | None]) -> float | None:
    spread = row.over(quantity)
    return None if spread is None else spread.mean


def _has(row: Row, name: str) -> bool:
    return any(run.metric(name) is not None for run in row.runs)


def _plain(text: str) -> str:
    """Text that rich prints as it is."""
    return text.replace("[", "\\[")
