"""The comparison page: one HTML file with its pictures and curves inside; it loads nothing and runs
no script.
"""

__all__ = ["counted", "effective", "method", "page", "scored"]

import base64
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from emgen.evaluation.runs import AXES, IMAGES, Group, Run, Score
from emgen.figures.line_chart import PALETTE, Series, line_chart
from emgen.figures.whisker import whisker

NOTES = {
    "val/log_likelihood": "mean log p(x) on held-out rows, nats",
    "val/elbo": "evidence lower bound on held-out rows, nats",
    "val/gap": "log p(x) − ELBO = KL(q ‖ posterior), nats",
    "val/ess": "effective sample size of the importance weights",
    "train/elbo": "evidence lower bound on training rows, nats",
    "train/loss": "each trainer's own objective: do not compare",
}
FIRST = ("val/log_likelihood", "val/elbo", "val/gap", "train/elbo")


def page(found: Sequence[Group]) -> str:
    """The whole page for groups of comparable runs."""
    count = sum(len(group.runs) for group in found)
    numbers = {id(run): i for i, run in enumerate(run for group in found for run in group.runs)}
    hiding = "".join(
        f"body:has(#show{n}:not(:checked)) .run{n}{{display:none}}" for n in numbers.values()
    )
    return Template(
        files("emgen.evaluation").joinpath("page.html").read_text(encoding="utf-8")
    ).substitute(
        title=f"{count} run{'s' * (count != 1)} compared",
        hiding=hiding,
        body="\n".join(_section(group, numbers) for group in found),
    )


def scored(score: Score | None) -> str:
    """−90.12 ± 0.25, with ± ? where a single row tells no error; a dash where there is no score."""
    if score is None:
        return "—"
    digits = 2 if not 0 < score.error < 0.05 else min(6, 1 - math.floor(math.log10(score.error)))
    error = " ± ?" if math.isnan(score.error) else f" ± {score.error:.{digits}f}"
    return f"{score.value:.{digits}f}{error}".replace("-", "−")


def method(score: Score | None) -> str:
    """How the score was measured, and on which rows where these are not the test set."""
    if score is None:
        return ""
    split, name = score.tag.split("/")
    where = "" if split == "test" else f" ({split} rows)"
    bound = " (lower bound)" if name == "elbo" and "ELBO" not in score.method else ""
    return f"{score.method}{bound}{where}"


def effective(score: Score | None) -> str:
    """The effective sample size, marked where it is below 2 % of the draws."""
    if score is None or score.ess is None:
        return ""
    return f"{score.ess:.1f}{' (loose)' if score.loose else ''}"


def counted(value: float | None) -> str:
    """1234567 → 1,234,567; small numbers keep three digits; None is empty."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _section(group: Group, numbers: dict[int, int]) -> str:
    named = [(run, label, numbers[id(run)]) for run, label in zip(group.runs, group.labels)]
    parts = [f"<section><h2>{escape(group.title)}</h2>", _table(named), _curves(named)]
    parts += [_pictures(kind, named) for kind in IMAGES]
    return "\n".join(part for part in parts if part) + "</section>"


def _table(named: Sequence[tuple[Run, str, int]]) -> str:
    scores = [run.score for run, _, _ in named]
    shared = max(
        {method(s) for s in scores if s}, key=[method(s) for s in scores].count, default=""
    )
    spans = [
        (s.value, 0.0 if math.isnan(s.error) else 2 * s.error)
        for s in scores
        if s and method(s) == shared
    ]
    low, high = (
        (min(v - e for v, e in spans), max(v + e for v, e in spans)) if spans else (0.0, 1.0)
    )
    rows = []
    for (run, label, number), score in zip(named, scores):
        head = (
            f'<tr><th scope="row"><label><input type="checkbox" id="show{number}" checked><span'
            ' class="chip"'
            f' style="--c:var(--c{number % PALETTE})"></span>{escape(label)}</label>{_descends(run)}</th><td>{escape(run.model)}</td><td><span'
            f' class="status {escape(run.status)}">{escape(run.status)}</span></td>'
        )
        if score is None:
            why = (
                [run.message]
                if run.message
                else []
                if run.status == "running"
                else list(run.problems)
            )
            rows.append(
                f'{head}<td class="note"'
                f' colspan="6">{escape("; ".join(why) or "no log-likelihood yet")}</td></tr>'
            )
            continue
        drawn = (
            whisker(score.value, score.error, low, high, number)
            if method(score) == shared and len(spans) > 1
            else ""
        )
        rows.append(
            f'{head}<td class="score"><b>{scored(score)}</b>{drawn}</td><td'
            f' class="method">{escape(method(score))}</td>'
            f"<td>{effective(score)}</td>"
            + "".join(
                f"<td>{counted(run.number(key))}</td>"
                for key in ("seconds", "examples_per_second", "parameters")
            )
            + "</tr>"
        )
    heads = (
        "run",
        "model",
        "status",
        "log-likelihood, nats",
        "method",
        "ESS",
        "seconds",
        "examples/s",
        "parameters",
    )
    return (
        '<div class="scroll"><table><thead><tr>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + "</tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table></div>"
    )


def _descends(run: Run) -> str:
    return f'<br><span class="note">{escape(run.descends)}</span>' if run.descends else ""


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
