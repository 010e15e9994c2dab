"""The causes that a factorial mixture has learnt, and its marginals by Gibbs sampling beside the
exact ones.
"""

__all__ = ["factorial_causes"]

from math import isqrt
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from emgen.figures.canvas import COLOURS, Drawing, blank
from emgen.randomness import seeded

BLUE, ORANGE = COLOURS[:2]


def factorial_causes(model: Any, x: Tensor, log_p: Tensor, sweeps: int, seed: int) -> Drawing:
    """What each state of each cause adds to x, and how the error of Gibbs sampling falls.

    Args:
        model: a factorial mixture.
        x: the rows (N, *event) whose causes are drawn.
        log_p: the mean over all data after each epoch, (epochs,).
        sweeps: of the chain.
        seed: of the chain; the global random state is left as it was.
    """
    p = model.posterior(x)
    exact = p.exact.marginals.cpu()  # (N, M, K)
    drawn = _chain(p, sweeps, seed).cpu()  # (sweeps, N, M, K)
    error = (drawn - exact).abs().mean((1, 2, 3)).numpy()

    figure = blank(14.0, 4.2)
    pictures, agreement, fall = figure.subplots(1, 3, width_ratios=(p.states + 1, 4, 4))
    # so that the second picture's label stands clear of the first
    figure.set_layout_engine("constrained", wspace=0.06)
    _pictures(pictures, model.loadings.mean.cpu(), p.chains, p.states)
    _agreement(agreement, exact, drawn)
    _fall(fall, error)

    numbers = {
        "log_p": float(log_p[-1]),
        "error_10": float(error[9]),
        "error": float(error[-1]),
        "largest_error": float((drawn[-1] - exact).abs().max()),
    }
    return Drawing(figure, numbers)


def _pictures(axes: Axes, loadings: Tensor, causes: int, states: int) -> None:
    mosaic = _mosaic(loadings, causes, states)
    size = float(np.nanmax(np.abs(mosaic)))
    axes.imshow(mosaic, cmap="PuOr", vmin=-size, vmax=size)
    tall, wide = (mosaic.shape[0] + 1) / causes, (mosaic.shape[1] + 1) / states
    across = [(k + 0.5) * wide - 1 for k in range(states)]
    down = [(m + 0.5) * tall - 1 for m in range(causes)]
    axes.set_xticks(across, [f"state {k + 1}" for k in range(states)])
    axes.set_yticks(down, [f"cause {m + 1}" for m in range(causes)])
    axes.tick_params(length=0)
    axes.set_title(f"what each state adds to x:\npurple more, orange less, ±{size:.2g}")


def _agreement(axes: Axes, exact: Tensor, drawn: Tensor) -> None:
    for sweeps, colour, mark in ((10, ORANGE, "."), (len(drawn), BLUE, "o")):
        share = drawn[sweeps - 1].flatten()
        label = f"{sweeps} sweeps"
        axes.plot(exact.flatten(), share, mark, color=colour, markersize=4, label=label)
    axes.plot([0, 1], [0, 1], color="black", linewidth=1)
    axes.set(
        xlabel="p(z_m = k | x), exact by enumeration",
        ylabel="share of Gibbs draws with z_m = k",
        aspect="equal",
        title=f"causes of {len(exact)} rows",
    )
    axes.legend(frameon=False)


def _fall(axes: Axes, error: np.ndarray) -> None:
    sweeps = np.arange(1, len(error) + 1)
    law = np.median(error * np.sqrt(sweeps)) / np.sqrt(sweeps)
    axes.loglog(sweeps, error, color=BLUE, label="Gibbs against exact")
    axes.loglog(sweeps, law, "--", color="black", label="∝ 1/√sweeps")
    axes.set(
        xlabel="sweeps averaged",
        ylabel="mean |error| of p(z_m = k | x)",
        title="the error falls as Monte Carlo's does",
    )
    axes.legend(frameon=False)


def _chain(p: Any, sweeps: int, seed: int) -> Tensor:
    """Running means of the states that Gibbs sampling draws from a random start, (sweeps, N, M, K)."""
    device = p.h.device
    with seeded(seed, device):
        start = torch.randint(p.states, (len(p.h) * p.chains,), device=device)
        state, total, means = p.at(start), 0.0, []
        for sweep in range(1, sweeps + 1):
            state = p.gibbs(state)
            total = total + state.marginals
            means.append(total / sweep)
    return torch.stack(means)


def _mosaic(loadings: Tensor, causes: int, states: int) -> np.ndarray:
    """Loadings (D, M·K) about their cause's mean as M rows of K pictures, square if D is, with
    lines of NaN between.
    """
    w = loadings.view(-1, causes, states)
    w = (w - w.mean(2, keepdim=True)).permute(1, 2, 0)  # (M, K, D)
    side = isqrt(w.shape[2])
    shape = (side, side) if side * side == w.shape[2] else (1, -1)
    w = w.reshape(causes, states, *shape)
    w = torch.nn.functional.pad(w, (0, 1, 0, 1), value=torch.nan)
    mosaic = w.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    return mosaic[:-1, :-1].numpy()
