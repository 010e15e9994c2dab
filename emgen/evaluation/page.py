"""The comparison page: one HTML file with its pictures and curves inside; it loads nothing and runs
no script.
"""

__all__ = ["page"]

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from emgen.evaluation.rows import Row, rows
from emgen.evaluation.runs import AXES, IMAGES, Group, Run
from emgen.evaluation.table import table
from emgen.figures.line_chart import PALETTE, Series, line_chart

NOTES = {
    "val/log_likelihood": "mean log p(x) on held-out rows, nats",
    "val/elbo": "evidence lower bound on held-out rows, nats",
    "val/gap": "log p(x) − ELBO = KL(q ‖ posterior), nats",
    "val/ess": "effective sample size of the importance weights",
    "train/elbo": "evidence lower bound on training rows, nats",
    "train/loss": "each trainer's own objective: do not compare",
}
FIRST = ("val/log_likelihood", "val/elbo", "val/gap", "train/elbo")


def page(found: Sequence[Group], beside: Path | None = None) -> str:
    """The whole page for groups of comparable runs.

    Args:
        found: the groups.
        beside: the folder that the page will lie in, from which it links to those of the runs; None
            links to nothing.
    """
    count = sum(len(group.runs) for group in found)
    folded = [rows(group) for group in found]
    firsts = [sum(map(len, folded[:place])) for place in range(len(folded))]
    hiding = "".join(
        f"body:has(#show{n}:not(:checked)) .run{n}{{display:none}}"
        for n in range(sum(map(len, folded)))
    )
    return Template(
        files("emgen.evaluation").joinpath("page.html").read_text(encoding="utf-8")
    ).substitute(
        title=f"{count} run{'s' * (count != 1)} compared",
        hiding=hiding,
        body="\n".join(
            _section(group, rows_of_it, first, beside)
            for group, rows_of_it, first in zip(found, folded, firsts)
        ),
    )


def _section(group: Group, found: Sequence[Row], first: int, beside: Path | None) -> str:
    """A group's table, curves and pictures; its configurations are numbered from `first`."""
    named = [
        (run, label, number)
        for number, row in enumerate(found, first)
        for run, label in zip(row.runs, row.labels)
    ]
    parts = [f"<section><h2>{escape(group.title)}</h2>", table(found, first, beside)]
    parts += [_curves(named), *(_pictures(kind, named) for kind in IMAGES)]
    return "\n".join(part for part in parts if part) + "</section>"


def _curves(named: Sequence[tuple[Run, str, int]]) -> str:
    tags = {tag for run, _, _ in named for tag in run.curves}
    ordered = sorted(
        tags,
        key=lambda tag: (
            FIRST.index(tag) if tag in FIRST else len(FIRST),
            not tag.startswith("val/"),
            tag,
        ),
    )
    main, details = [], []
    for tag in ordered:
        charts = [
            line_chart(
                [
                    Series(label, n, [(p[axis], p[2]) for p in run.curves.get(tag, [])])
                    for run, label, n in named
                ],
                AXES[axis] + " seen" * (axis == 0),
                tag,
            )
            for axis in range(len(AXES))
        ]
        drawn = "".join(
            f'<div class="by-{axis}">{chart or "no times recorded"}</div>'
            for axis, chart in zip(AXES, charts)
        )
        note = f'<span class="note">{escape(NOTES.get(tag, ""))}</span>'
        card = (
            "<figure"
            f' class="card"><figcaption><code>{escape(tag)}</code>{note}</figcaption>{drawn}</figure>'
        )
        (main if tag in FIRST or tag.startswith("val/") else details).append(card)
    parts = ["<h3>Curves</h3>"] if tags else []
    if main:
        parts.append(f'<div class="charts">{"".join(main)}</div>')
    if details:
        parts.append(
            f"<details{'' if main else ' open'}><summary>{len(details)} curves of single"
            " objectives</summary>"
            f'<div class="charts">{"".join(details)}</div></details>'
        )
    return "".join(parts)


def _pictures(kind: str, named: Sequence[tuple[Run, str, int]]) -> str:
    if not any(kind in run.images for run, _, _ in named):
        return ""
    cards, without = [], []
    for run, label, number in named:
        if kind not in run.images:
            without.append(label)
            continue
        data = base64.b64encode(run.images[kind].read_bytes()).decode()
        chip = f'<span class="chip" style="--c:var(--c{number % PALETTE})"></span>'
        cards.append(
            f'<figure class="card run{number}"><img alt="{kind} of {escape(label)}"'
            f' src="data:image/png;base64,{data}">'
            f"<figcaption>{chip}{escape(label)}</figcaption></figure>"
        )
    note = f'<p class="note">No picture yet of {escape(", ".join(without))}.</p>' if without else ""
    return f'<h3>{kind.capitalize()}</h3><div class="pictures">{"".join(cards)}</div>{note}'
