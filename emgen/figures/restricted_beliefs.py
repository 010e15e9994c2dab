"""What beliefs about several hidden causes lose if they are restricted: chain by chain, or all on
their own.
"""

__all__ = ["beliefs_of", "restricted_beliefs"]

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from emgen.figures.canvas import COLOURS, Drawing, blank

_, ORANGE, GREEN = COLOURS[:3]
LOOKS = {  # colour, line, width
    "exact": ("black", "-", 4.0),
    "structured": (GREEN, "-", 2.0),
    "factorised": (ORANGE, "--", 2.0),
}
SAYS = {
    "exact": "exact belief: F = log p(x|θ)",
    "structured": "structured: F, each chain kept whole",
    "factorised": "mean field: F, every state on its own",
}


def beliefs_of(posterior: Any, sweeps: int) -> dict[str, Any]:
    """The exact belief and the two that are restricted, by so many sweeps of coordinate ascent."""
    return {
        "exact": posterior.exact,
        "structured": posterior.structured(sweeps),
        "factorised": posterior.mean_field(sweeps),
    }


def restricted_beliefs(
    model: Any, x: Tensor, bounds: Mapping[str, Tensor], log_p: Tensor, sweeps: int, shown: int
) -> Drawing:
    """F(factorised) ≤ F(structured) ≤ F(exact) = log p(x|θ), each short of it by its own KL(q ‖
    posterior).

    Args:
        model: a factorial hidden Markov model.
        x: sequences (B, T, *frame).
        bounds: F of each belief of `beliefs_of` after each epoch, (epochs,), in nats per frame.
        log_p: log p(x|θ) after each epoch, (epochs,), in nats per frame.
        sweeps: of coordinate ascent for the beliefs that are drawn.
        shown: frames of the first sequence that are drawn.
    """
    figure = blank(12.0, 5.0)
    grid = figure.add_gridspec(2, 2, width_ratios=(2, 3))
    left = figure.add_subplot(grid[:, 0])
    frames = figure.add_subplot(grid[0, 1])
    states = figure.add_subplot(grid[1, 1])
    _losses(left, bounds)

    posterior = model.posterior(x[:1])
    shown = min(shown, len(posterior.h))
    at = range(1, shown + 1)
    frames.plot(at, x[0, :shown].flatten(1).cpu(), ".", color="black")
    frames.set(
        xlabel="frame",
        ylabel="x",
        title=f"the first {shown} frames of a sequence: several hidden causes, one sum",
    )
    for name, belief in beliefs_of(posterior, sweeps).items():
        colour, line, width = LOOKS[name]
        on = belief.marginals[:shown, 0, -1].cpu()
        states.plot(at, on, line, color=colour, linewidth=width)
    states.set(
        xlabel="frame",
        ylabel="q(cause 1 is on)",
        ylim=(-0.05, 1.05),
        title="the belief about one cause; colours as on the left",
    )

    numbers = {name: float(bounds[name][-1]) for name in LOOKS}
    numbers["log_p"] = float(log_p[-1])
    steps = [
        bounds["structured"] - bounds["factorised"],
        bounds["exact"] - bounds["structured"],
    ]
    numbers["smallest_step"] = float(torch.stack(steps).min())
    return Drawing(figure, numbers)


def _losses(axes: Axes, bounds: Mapping[str, Tensor]) -> None:
    epochs = range(1, len(bounds["exact"]) + 1)
    for name, (colour, line, width) in LOOKS.items():
        axes.plot(epochs, bounds[name], line, color=colour, linewidth=width, label=SAYS[name])
    for upper, lower, colour in (
        ("exact", "structured", GREEN),
        ("structured", "factorised", ORANGE),
    ):
        axes.fill_between(
            epochs, bounds[lower], bounds[upper], color=colour, alpha=0.15, linewidth=0
        )
    axes.set(
        xlabel="epoch",
        ylabel="nats per frame",
        title="what a restricted belief loses: KL(q ‖ posterior)",
    )
    axes.legend(frameon=False, loc="lower right")
