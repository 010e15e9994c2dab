"""A line chart as inline SVG: no script, no font, no colour of their own but the page's variables."""

__all__ = ["PALETTE", "Series", "compact", "line_chart"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

PALETTE = 8
WIDTH, HEIGHT = 400, 225
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 36
POINTS = 400  # of a curve; more cannot be told apart at this width
ALTOGETHER = 4_000  # of a chart, which would else grow with the runs


@dataclass(frozen=True)
class Series:
    """One curve: its name, its number (colour and class) and its points (x, y)."""

    label: str
    number: int
    points: Sequence[tuple[float, float]]


def line_chart(series: Sequence[Series], x_label: str, title: str) -> str:
    """Curves over a shared axis; a run far outside the others is cut at the edge and its last value
    written there.

    >>> "polyline" in line_chart([Series("vae", 0, [(0, 1.0), (1, 2.0)])], "examples", "val/elbo")
    True
    """
    curves = [
        (s, [p for p in s.points if math.isfinite(p[0]) and math.isfinite(p[1])]) for s in series
    ]
    curves = [(s, points) for s, points in curves if points]
    most = min(POINTS, max(50, ALTOGETHER // max(1, len(curves))))
    curves = [(s, _thinned(points, most)) for s, points in curves]
    if not curves:
        return ""
    x_ticks = _ticks(min(p[0][0] for _, p in curves), max(p[-1][0] for _, p in curves), 5)
    y_ticks = _ticks(*_limits([[y for _, y in points] for _, points in curves]), 5)
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + right * inner_width, TOP + (1 - min(1.03, max(-0.03, up))) * inner_height

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over'
        f' {escape(x_label)}">'
    ]
    for tick in y_ticks:
        y = place(x_ticks[0], tick)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}"'
            f' text-anchor="end">{compact(tick)}</text>'
        )
    for tick in x_ticks:
        x = place(tick, y_ticks[0])[0]
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}"'
            f' text-anchor="middle">{compact(tick)}</text>'
        )
    middle = LEFT + inner_width / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 3}"'
        f' text-anchor="middle">{escape(x_label)}</text>'
    )
    for s, points in curves:
        xy = [place(x, y) for x, y in points]
        style = f"--c:var(--c{s.number % PALETTE})"
        dashes = (
            f' stroke-dasharray="{2 + 3 * (s.number // PALETTE)} 3"' if s.number >= PALETTE else ""
        )
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in xy)
        last = points[-1][1]
        tip = (
            f"<title>{escape(s.label)}: {last:.5g} at {compact(points[-1][0])}"
            f" {escape(x_label)}</title>"
        )
        parts.append(f'<g class="series run{s.number}" style="{style}">{tip}')
        parts.append(
            f'<polyline class="touch" points="{path}"/><polyline points="{path}"{dashes}/>'
        )
        if y_ticks[0] <= last <= y_ticks[-1]:
            parts.append(f'<circle cx="{xy[-1][0]:.1f}" cy="{xy[-1][1]:.1f}" r="3"/>')
        else:
            low = last < y_ticks[0]
            y = HEIGHT - BOTTOM - 5 if low else TOP + 10
            parts.append(
                f'<text class="off" x="{WIDTH - RIGHT - 4}" y="{y}" text-anchor="end">'
                f"{'↓' if low else '↑'} {escape(s.label)} {compact(last)}</text>"
            )
        parts.append("</g>")
    return "".join(parts) + "</svg>"


def compact(value: float) -> str:
    """A short number: 12000 → 12k, 2500000 → 2.5M.

    >>> [compact(v) for v in (-90.0, 12000, 0.25, 2500000)]
    ['−90', '12k', '0.25', '2.5M']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def _limits(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The range of the curves after their first tenth, without a run that lies far from most of the
    others.
    """
    settled = [list(v[len(v) // 10 :]) for v in values]
    ends = sorted((min(v), max(v)) for v in settled)
    middles = sorted((low + high) / 2 for low, high in ends)
    median = middles[len(middles) // 2]
    typical = sorted(max(abs(low - median), abs(high - median)) for low, high in ends)[
        (len(ends) - 1) // 2
    ]
    kept = [
        (low, high)
        for low, high in ends
        if max(abs(low - median), abs(high - median)) <= 8 * typical
    ]
    if 2 * len(kept) <= len(ends):  # far from whom? only a majority says what is usual
        kept = ends
    return min(low for low, _ in kept), max(high for _, high in kept)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that enclose [low, high], about `count` of them."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most so many of the points, and the last one."""
    points = sorted(points)
    stride = -(-len(points) // most)
    return [*points[:-1:stride], points[-1]]
