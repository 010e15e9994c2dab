"""A bar with the time left over long work that is not training, where somebody asked to see one."""

__all__ = ["each", "progress", "shown"]

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

Item = TypeVar("Item")

_bar: Bar | None = None  # a terminal has room for one


@contextmanager
def shown(asked: bool = True) -> Iterator[None]:
    """Long work inside shows how far it is, on stderr; nothing is written where that is no terminal.

    Without it the work is silent, so that a library call never writes into somebody's notebook, and
    a bar of somebody's own, such as that of training, stays alone.

    Args:
        asked: whether a bar is wanted at all.
    """
    global _bar
    console = Console(stderr=True)
    if not asked or _bar is not None or not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True, refresh_per_second=5) as _bar:
        try:
            yield
        finally:
            _bar = None


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """What is called with the work that has just been done, out of a total.

    Args:
        what: what is being done, such as `scoring`.
        total: how much there is to do.

    >>> with progress("scoring", 10) as advance:
    ...     advance(10)
    """
    bar = _bar
    if bar is None:
        yield lambda done: None
        return
    task = bar.add_task(what, total=total)
    try:
        yield lambda done: bar.advance(task, done)
    finally:
        bar.remove_task(task)


def each(items: Collection[Item], what: str) -> Iterator[Item]:
    """The items one after another, each counted as done when the next is asked for.

    >>> list(each("abc", "spelling"))
    ['a', 'b', 'c']
    """
    with progress(what, len(items)) as advance:
        for item in items:
            yield item
            advance(1)
