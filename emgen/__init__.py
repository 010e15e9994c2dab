"""emgen: deep generative modelling as alternating projection, from EM to f-GANs."""

from emgen.fitting import FitResult, fit

__all__ = ["FitResult", "__version__", "fit"]

__version__ = "0.1.0"
