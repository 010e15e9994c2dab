"""The command line: what was typed, composed, checked, built, fitted, scored and written, in this
order.

    overrides → compose → checks, trust, resuming → training → folder          commands: what is
    asked of a run afterwards

Nothing here is imported by the rest of the package, and of the package only `compose`, `resuming`
and `entry` know Hydra.
"""

__all__ = ["build_parts", "composer", "main", "train"]

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emgen.cli.compose import composer
    from emgen.cli.entry import main
    from emgen.cli.training import build_parts, train


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first asked for: `emgen --help` needs no torch."""
    homes = {"build_parts": "training", "composer": "compose", "main": "entry", "train": "training"}
    if name not in homes:
        raise AttributeError(f"module 'emgen.cli' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"emgen.cli.{homes[name]}"), name)
