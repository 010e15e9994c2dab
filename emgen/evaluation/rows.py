"""Rows of a comparison: runs that differ in their seed alone are one, with a mean and a spread."""

__all__ = ["Row", "Setting", "Spread", "rows"]

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from emgen.evaluation.runs import Group, Run, Score, labels, settings


@dataclass(frozen=True)
class Spread:
    """The mean of a quantity over n runs, and the standard deviation over them (NaN of one)."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Setting:
    """A setting in which a configuration differs from another; `unusual` where most of them have
    another value.
    """

    name: str
    value: str
    unusual: bool


@dataclass(frozen=True)
class Row:
    """One configuration and its runs, one a seed, the best first.

    Attributes:
        label: how the configuration differs from others of its trainer.
        runs, labels: its runs, and what each is called.
        settings: all in which it differs from another configuration of the group.
    """

    label: str
    runs: tuple[Run, ...]
    labels: tuple[str, ...]
    settings: tuple[Setting, ...] = field(default=())

    @property
    def score(self) -> Score | None:
        """The score of the best run, for its tag and method, which are those of all its runs."""
        return next((run.score for run in self.runs if run.score), None)

    @property
    def spread(self) -> Spread | None:
        """Of the log-likelihood."""
        return self.over(lambda run: run.score.value if run.score else None)

    def over(self, quantity: Callable[[Run], float | None]) -> Spread | None:
        """The mean and the spread of a quantity over the runs that have it."""
        values = [value for value in map(quantity, self.runs) if value is not None]
        if not values:
            return None
        sd = statistics.stdev(values) if len(values) > 1 else math.nan
        return Spread(statistics.fmean(values), sd, len(values))


def rows(group: Group) -> list[Row]:
    """The configurations of a group, the best mean first."""
    folded: list[list[tuple[Run, str]]] = []
    for run, label in zip(group.runs, group.labels):
        home = next((row for row in folded if _belongs(run, [other for other, _ in row])), None)
        if home is None:
            folded.append([(run, label)])
        else:
            home.append((run, label))

    first = [row[0][0] for row in folded]
    found = [
        Row(label, tuple(run for run, _ in row), tuple(name for _, name in row), differing)
        for row, label, differing in zip(folded, labels(first, seeds=False), _differing(first))
    ]
    return sorted(found, key=lambda row: -row.spread.mean if row.spread else math.inf)


def _belongs(run: Run, row: Sequence[Run]) -> bool:
    """Whether a run is the configuration of a row with a seed that the row has not yet, and was
    scored in the same way.
    """
    seed, known = run.config.get("seed"), [other.config.get("seed") for other in row]
    if seed is None or seed in known or _named(run) != _named(row[0]):
        return False
    if settings(run) != settings(row[0]):
        return False
    scored = [other.score for other in row if other.score]
    if run.score is None or not scored:
        return True
    return (run.score.tag, run.score.method) == (scored[0].tag, scored[0].method)


def _named(run: Run) -> tuple[str, str, str]:
    return run.trainer, run.model, run.data


def _differing(runs: Sequence[Run]) -> list[tuple[Setting, ...]]:
    """Of each run the settings in which it differs from another: from any that has the setting, and
    from those of its own trainer that lack it.
    """
    flat = [settings(run) for run in runs]
    found = []
    for run, own in zip(runs, flat):
        twins = [other for twin, other in zip(runs, flat) if twin.trainer == run.trainer]
        differing = []
        for name, value in own.items():
            if name.endswith("_target_") and name.count(".") == 1:
                continue  # the trainer, the model and the critic are told by their names
            others = [other[name] for other in flat if name in other]
            lacking = any(name not in twin for twin in twins)
            if lacking or len(set(others)) > 1:
                usual = Counter(others)[value] * 2 > len(runs)
                differing.append(Setting(name, value, not usual))
        found.append(tuple(differing))
    return found
