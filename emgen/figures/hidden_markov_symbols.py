"""A hidden Markov model of symbols: what each state emits, how it moves, and the states behind the
first frames.
"""

__all__ = ["hidden_markov_symbols"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from emgen.figures.canvas import COLOURS, Drawing, blank


def hidden_markov_symbols(
    model: Any, x: Tensor, log_p: Tensor, shown: int, names: Sequence[str] | None = None
) -> Drawing:
    """Emissions above, the trellis of the first frames and the moves below.

    Args:
        model: a hidden Markov model whose frames are one symbol each.
        x: sequences (B, T), symbols as numbers, NaN at padding.
        log_p: of all sequences together after each epoch, (epochs,).
        shown: frames of the first sequence that are drawn.
        names: of the symbols; default their numbers.

    Raises:
        ValueError: the emissions are no symbols.
    """
    if model.emission.mean.ndim != 3:
        raise ValueError(
            f"emissions are drawn of symbols, not of {type(model.emission).__name__}: "
            "leave this picture out."
        )
    emission = model.emission.mean[:, 0].cpu()  # (K, symbols)
    names = list(map(str, range(emission.shape[1])) if names is None else names)

    figure = blank(12.0, 6.5)
    grid = figure.add_gridspec(2, 3, width_ratios=(3, 3, 2))
    top = figure.add_subplot(grid[0, :])
    strip = figure.add_subplot(grid[1, :2])
    moves = figure.add_subplot(grid[1, 2])
    _emissions(top, emission, names)
    _trellis(strip, model, x[:1], shown, names)
    _moves(moves, model.transition.mean.cpu())

    numbers = {"log_likelihood": float(log_p[-1]), "first_log_likelihood": float(log_p[0])}
    return Drawing(figure, numbers)


def _emissions(axes: Axes, emission: Tensor, names: Sequence[str]) -> None:
    """p(symbol | state), (K, symbols), the symbols grouped by the state that is the likelier to
    emit them.
    """
    states, symbols = emission.shape
    likelier = emission.argmax(0)
    order = sorted(range(symbols), key=lambda s: (int(likelier[s]), s))
    at, width = np.arange(symbols), 0.8 / states
    for k in range(states):
        places = at + (k - (states - 1) / 2) * width
        colour = COLOURS[k % len(COLOURS)]
        axes.bar(places, emission[k, order], width, color=colour, label=f"state {k + 1}")
    axes.set(
        xlabel="symbol, grouped by the state that is the likelier to emit it",
        ylabel="p(symbol | state)",
        title="what each state emits",
        xlim=(-0.7, symbols - 0.3),
    )
    axes.set_xticks(at, [names[s] for s in order])
    for tick, s in zip(axes.get_xticklabels(), order):
        tick.set(color=COLOURS[int(likelier[s]) % len(COLOURS)], fontweight="bold")
    axes.legend(frameon=False)


def _trellis(axes: Axes, model: Any, x: Tensor, shown: int, names: Sequence[str]) -> None:
    """p(state | sequence) at each of the first frames, stacked."""
    first = x[0].flatten()[:shown]
    first = first[~first.isnan()].long().cpu()
    frames = range(len(first))
    q = model.posterior(x).marginals[: len(first)].cpu()  # (T, K)
    below = torch.zeros(len(first), dtype=q.dtype)
    for k in range(q.shape[1]):
        axes.bar(
            frames,
            q[:, k],
            1.0,
            bottom=below,
            color=COLOURS[k % len(COLOURS)],
            edgecolor="white",
            linewidth=0.4,
        )
        below = below + q[:, k]
    size = 10 if len(first) <= 30 else 8
    labels: Any = [names[s] for s in first.tolist()]
    axes.set_xticks(frames, labels, fontsize=size)
    axes.set(
        xlabel=f"the first {len(first)} symbols",
        ylabel="p(state | sequence)",
        title="the states behind the data",
        ylim=(0, 1),
        xlim=(-0.5, len(first) - 0.5),
    )


def _moves(axes: Axes, transition: Tensor) -> None:
    """Probabilities (K, K) of the next state, written into their cells."""
    axes.imshow(transition, cmap="Greys", vmin=0, vmax=1.3)
    states = range(len(transition))
    for i in states:
        for j in states:
            colour = "white" if transition[i, j] > 0.6 else "black"
            value = f"{transition[i, j]:.2f}"
            axes.text(j, i, value, ha="center", va="center", color=colour)
    numbers = [str(k + 1) for k in states]
    axes.set_xticks(states, numbers)
    axes.set_yticks(states, numbers)
    axes.set(xlabel="to state", ylabel="from state", title="probabilities of the next state")
