"""How figures are written, on the page and in the terminal."""

__all__ = ["averaged", "counted", "method", "scored"]

import math

from emgen.evaluation.rows import Spread
from emgen.evaluation.runs import Score


def scored(score: Score | None) -> str:
    """−90.12 ± 0.25, with ± ? where a single row tells no error; a dash where there is no score."""
    if score is None:
        return "—"
    return _with_error(score.value, score.error)


def averaged(spread: Spread | None) -> str:
    """−90.12 ± 0.25, mean and standard deviation over seeds; ± ? of a single one."""
    return "—" if spread is None else _with_error(spread.mean, spread.sd)


def method(score: Score | None) -> str:
    """How the score was measured, and on which rows where these are not the test set."""
    if score is None:
        return ""
    split, name = score.tag.split("/")
    where = "" if split == "test" else f" ({split} rows)"
    bound = " (lower bound)" if name == "elbo" and "ELBO" not in score.method else ""
    return f"{score.method}{bound}{where}"


def counted(value: float | None) -> str:
    """1234567 → 1,234,567; small numbers keep three digits; None is empty.

    >>> counted(1234567.0), counted(0.12345), counted(-2.5), counted(None)
    ('1,234,567', '0.123', '−2.5', '')
    """
    if value is None:
        return ""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def _with_error(value: float, error: float) -> str:
    digits = 2 if not 0 < error < 0.05 else min(6, 1 - math.floor(math.log10(error)))
    shown = "?" if math.isnan(error) else f"{error:.{digits}f}"
    return f"{value:.{digits}f} ± {shown}".replace("-", "−")
