"""Many runs side by side: a table for the terminal and one self-contained page of curves and
pictures.

Runs are compared only where that means something: those with another data set, another split of it
or another binarisation stand in a table of their own, and every likelihood carries its method and
standard error.
"""

__all__ = ["compare", "tables"]

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emgen.evaluation.page import counted, effective, method, page, scored
from emgen.evaluation.runs import Group, find_runs, groups, read_run


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
    target.write_text(page(found), encoding="utf-8")
    return target


def tables(found: Iterable[Group]) -> list[Table]:
    """One rich table a group: run, status, log-likelihood ± error, ESS, seconds, examples a second,
    size; methods, and what the games descend, below.
    """
    result = []
    for group in found:
        scores = [run.score for run in group.runs]
        methods = list(dict.fromkeys(method(score) for score in scores if score is not None))
        table = Table(
            title=group.title,
            title_justify="left",
            title_style="bold",
            caption_justify="left",
            caption=_below(group, methods) or None,
        )
        table.add_column("run", min_width=10, overflow="fold")
        for column in ("log-likelihood, nats", "ESS", "seconds", "examples/s", "size"):
            table.add_column(column, justify="right", no_wrap=True)
        for label, run, score in zip(group.labels, group.runs, scores):
            style = {"failed": "red", "running": "yellow", "interrupted": "yellow"}.get(
                run.status, "green"
            )
            ended = "" if run.status == "finished" else f" [{style}]{run.status}[/]"
            mark = "" if score is None else f" [{methods.index(method(score)) + 1}]"
            table.add_row(
                f"{label}{ended}",
                f"{scored(score)}{mark}".replace("[", "\\["),
                effective(score),
                *(
                    counted(run.number(key))
                    for key in ("seconds", "examples_per_second", "parameters")
                ),
            )
        result.append(table)
    return result


def _below(group: Group, methods: Sequence[str]) -> str:
    """What stands under a table: how the scores were measured, and what each game descends."""
    measured = "; ".join(f"[{i}] {text}" for i, text in enumerate(methods, 1))
    games = [
        f"{label}: {run.descends}" for label, run in zip(group.labels, group.runs) if run.descends
    ]
    return "\n".join(line for line in (measured, *games) if line).replace("[", "\\[")
