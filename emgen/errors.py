"""What is told to a user: one sentence that names the value, what was expected and what to do."""

__all__ = ["UserError", "nearest", "told", "typed"]

import difflib
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A request that cannot be served as it stands; its message is one sentence for the user."""


def told(error: BaseException) -> str:
    """One line for whatever went wrong; where no part foresaw it, with the place in the code."""
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, OSError, ArithmeticError)) or not error.__traceback__:
        return text
    if hasattr(
        error, "told_elsewhere"
    ):  # it speaks of another process, where the place is not here
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, TypeError) and (last.line or "").startswith(
        "raise "
    ):  # somebody foresaw it
        return text
    kind = "" if isinstance(error, (TypeError, RuntimeError)) else f"{type(error).__name__}: "
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return f"{kind}{text} ({place}; EMGEN_DEBUG=1 shows the whole way there)"


def typed(value: Any) -> str:
    """A value as the command line takes it: null for None, true and false.

    >>> typed([None, True, 0.5])
    '[null, true, 0.5]'
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(typed, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def nearest(name: str, names: Iterable[str]) -> str:
    """The three names that are most like one that does not exist, in words.

    >>> nearest("vea", ["vae", "gan"])
    'nearest: vae'
    """
    names = list(dict.fromkeys(names))
    # a key is as near as its last word, then as the whole of it
    likeness = {
        n: (_alike(n.rpartition(".")[2], name.rpartition(".")[2]), _alike(n, name)) for n in names
    }
    close = [n for n in names if max(likeness[n]) >= 0.6]
    close = sorted(close, key=lambda n: sum(likeness[n]), reverse=True)[:3]
    return f"nearest: {', '.join(close)}" if close else "nothing is near it"


def _alike(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()
