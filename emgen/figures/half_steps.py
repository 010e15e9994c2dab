"""F after every half-step of EM, log p(x|θ) above it, and between them the gap KL(q ‖ posterior)."""

__all__ = ["half_steps"]

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from emgen.figures.canvas import COLOURS, Drawing, blank

BLUE, ORANGE = COLOURS[:2]
SHOWN = 8  # sweeps


def half_steps(e: Tensor, m: Tensor, log_p: Tensor) -> Drawing:
    """The climb of F in half-steps, and how both gaps go to nothing.

    Args:
        e, m: F after each E-step and each M-step, (T,), in nats per datum.
        log_p: log p(x|θ) after each M-step, (T,).
    """
    figure = blank()
    climb, gap = figure.subplots(1, 2, width_ratios=(3, 2))
    _climb(climb, e, m, log_p)

    left = (log_p - m).clamp(min=1e-16)
    to_gain = (log_p[-1] - log_p).clamp(min=1e-16)
    gap.semilogy(range(1, len(left) + 1), left, color=ORANGE, label="gap left by the M-step")
    gap.semilogy(range(1, len(m) + 1), to_gain, color="black", label="log p still to be gained")
    gap.set(
        xlabel="sweep",
        ylabel="nats per datum",
        title="both gaps go to nothing",
        ylim=(1e-9, None),
    )
    gap.legend(frameon=False, fontsize=9)

    rises = torch.cat([m - e, e[1:] - m[:-1]])
    numbers = {
        "elbo": float(m[-1]),
        "log_p": float(log_p[-1]),
        "lowest_rise": float(rises.min()),
    }
    return Drawing(figure, numbers)


def _climb(axes: Axes, e: Tensor, m: Tensor, log_p: Tensor) -> None:
    shown = min(len(m), SHOWN)
    steps = np.arange(shown)
    at = np.stack([steps + 0.5, steps + 1.0], 1).ravel()
    bound = np.stack([e[:shown], m[:shown]], 1).ravel()
    evidence = np.stack([e[:shown], log_p[:shown]], 1).ravel()

    axes.fill_between(
        at,
        bound,
        evidence,
        color=ORANGE,
        alpha=0.35,
        linewidth=0,
        label="gap = KL(q ‖ posterior)",
    )
    axes.plot(at, evidence, color="black", linewidth=1.5, label="log p(x|θ)")
    axes.plot(at, bound, color=BLUE, linewidth=1.5, label="F(q, θ)")
    after_e, after_m = "after the E-step: the gap is closed", "after the M-step: both have risen"
    axes.plot(steps + 0.5, e[:shown], "o", color=BLUE, markersize=5, label=after_e)
    axes.plot(steps + 1.0, m[:shown], "^", color=BLUE, markersize=5, label=after_m)

    bottom = float(m[0]) - 0.1 * float(log_p[-1] - m[0])  # the first E-step may lie far below
    axes.set(
        xlabel="sweep",
        ylabel="nats per datum",
        title="F climbs in half-steps towards log p(x)",
        ylim=(bottom, None),
    )
    axes.legend(frameon=False, fontsize=9, loc="lower right")
