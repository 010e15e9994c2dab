"""Pictures that make the point of a level: the path of EM, its lower bounds, its half-steps, its
hard limit.
"""

__all__ = ["HalfSteps", "LowerBounds", "ParameterPath", "Tempering"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from emgen.callbacks.picture import Picture
from emgen.figures.canvas import Drawing
from emgen.figures.half_steps import half_steps
from emgen.figures.lower_bounds import lower_bounds
from emgen.figures.parameter_path import parameter_path
from emgen.figures.tempering import tempering


class ParameterPath(Picture):
    """The path of a mixture of two coins over the contours of log p(x|θ), and the log-likelihood
    beside it.

    Args:
        names: of the two components' parameters.
    """

    name = "parameter_path"

    def __init__(self, names: Sequence[str] = ("θ_A", "θ_B")):
        super().__init__()
        if len(names) != 2:
            raise ValueError(
                f"names={list(names)}: the path is drawn in a plane, so give two names."
            )
        self.names = list(names)

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        model = module.model
        trials = getattr(model.components, "trials", 1)
        return {
            "p": model.components.mean[:, 0] / trials,
            "weights": model.weights.mean,
            "log_p": model.log_prob(x).sum(),
        }

    def draw(self, module: Any, x: Tensor) -> Drawing:
        weights = self._noted("weights")[-1]
        return parameter_path(
            module.model, x, self._noted("p"), self._noted("log_p"), weights, self.names
        )


class LowerBounds(Picture):
    """log p(x|θ) of a mixture whose only free parameter is one component's mean, and the bounds
    that EM builds on it.

        log p(x|θ) ≥ F(q_t, θ) = E_{q_t} log p(x, z|θ) + H(q_t),     equal at θ_t, where q_t is the
        posterior

    Args:
        low, high: the slice of θ that is drawn.
        component: whose mean is θ.
        bounds: how many are drawn, from the first.
    """

    name = "lower_bounds"

    def __init__(self, low: float, high: float, component: int = 1, bounds: int = 5):
        super().__init__()
        if not low < high or bounds < 1:
            raise ValueError(
                f"low={low}, high={high}, bounds={bounds}: expected low < high and one bound or"
                " more."
            )
        self.low, self.high = low, high
        self.component, self.bounds = component, bounds

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {"theta": module.model.components.mean[self.component, 0]}

    def draw(self, module: Any, x: Tensor) -> Drawing:
        return lower_bounds(
            module.model,
            x,
            self._noted("theta"),
            self.low,
            self.high,
            self.component,
            self.bounds,
        )


class HalfSteps(Picture):
    """F after every half-step, log p(x|θ) above it, and between them the gap KL(q ‖ posterior)."""

    name = "half_steps"

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        log_p = module.model.posterior(x).log_normaliser.mean()
        if not module.bounds:  # the start: no half-step yet
            return {"log_p": log_p}
        (_, e), (_, m) = module.bounds
        return {
            "log_p": log_p,
            "e": torch.tensor(e, dtype=torch.float64),
            "m": torch.tensor(m, dtype=torch.float64),
        }

    def draw(self, module: Any, x: Tensor) -> Drawing:
        e, m = self._noted("e").double(), self._noted("m").double()
        log_p = self._noted("log_p").double()
        after_m_steps = log_p[-len(m) :]
        return half_steps(e, m, after_m_steps)


class Tempering(Picture):
    """Responsibilities harden as σ² → 0: a tempered belief q ∝ posteriorᵝ at variance σ² is the
    posterior at σ²/β.

    Training ends at the model's own variance; from there each next one is reached by tempered EM
    from the one before.

    Args:
        variances: σ² in squared units of the data, from soft to hard.
        sweeps: of tempered EM at each.
        axes: names of the two features.
    """

    name = "tempering"

    def __init__(
        self,
        variances: Sequence[float] = (100.0, 36.0, 10.0, 1.0),
        sweeps: int = 200,
        axes: Sequence[str] = ("x₁", "x₂"),
    ):
        super().__init__()
        if len(axes) != 2:
            raise ValueError(f"axes={list(axes)}: expected the names of two features.")
        if not variances or min(variances) <= 0 or sweeps < 1:
            raise ValueError(
                f"variances={list(variances)}, sweeps={sweeps}: "
                "expected positive variances and one sweep or more."
            )
        self.variances, self.sweeps, self.axes = list(variances), sweeps, list(axes)

    def draw(self, module: Any, x: Tensor) -> Drawing:
        return tempering(module.model, x, self.variances, self.sweeps, self.axes)
