"""emgen: deep generative modelling as alternating projection, from EM to f-GANs."""

__all__ = ["FitResult", "__version__", "fit"]

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emgen.fitting import FitResult, fit

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`fit` and `FitResult`, imported when they are first asked for: `emgen --help` needs no torch."""
    if name not in ("FitResult", "fit"):
        raise AttributeError(f"module 'emgen' has no attribute {name!r}")
    from emgen import fitting

    return getattr(fitting, name)
