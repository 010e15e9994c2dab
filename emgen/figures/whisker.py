"""A value with its error on an axis, as inline SVG of the size of a word."""

__all__ = ["whisker"]

import math

from emgen.figures.line_chart import PALETTE


def whisker(value: float, error: float, low: float, high: float, number: int) -> str:
    """A dot at `value` with a line over ± two standard errors, on an axis from `low` to `high`."""
    width, height, margin = 120, 14, 6
    scale = (width - 2 * margin) / ((high - low) or 1.0)
    at = margin + (value - low) * scale
    reach = 0.0 if math.isnan(error) else 2 * error * scale
    return (
        f'<svg class="whisker" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' aria-hidden="true" style="--c:var(--c{number % PALETTE})"><line class="grid" x1="0"'
        f' x2="{width}" y1="7" y2="7"/><line x1="{max(0, at - reach):.1f}"'
        f' x2="{min(width, at + reach):.1f}" y1="7" y2="7"/><circle cx="{at:.1f}" cy="7"'
        ' r="4"/></svg>'
    )
