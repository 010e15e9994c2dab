"""Trained with one divergence, tested with all: a table in colours."""

__all__ = ["cross_table"]

from collections.abc import Mapping

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def cross_table(table: Mapping[str, Mapping[str, float]]) -> Figure:
    """D(data ‖ model) in every cell, its colour the excess over the best of the column.

    Args:
        table: by the divergence that was trained with, the values by the one that was tested with.
    """
    trained = list(table)
    tested = list(next(iter(table.values())))
    values = torch.tensor([list(row.values()) for row in table.values()])
    excess = values / values.min(0).values - 1
    shade = excess.clamp(1e-4, 1).log10()

    size = (1.1 * len(tested) + 2, 0.55 * len(trained) + 2)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shade, cmap="Blues", aspect="auto", vmin=-4, vmax=0)
    axes.set_xticks(range(len(tested)), tested, rotation=30, ha="right")
    axes.set_yticks(range(len(trained)), trained)
    axes.set(
        xlabel="tested with",
        ylabel="trained with",
        title="D(data ‖ model) and its excess over the column's best",
    )
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = "white" if shade[i, j] > -1 else "black"
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", color=colour)
    bar = figure.colorbar(image, ticks=[-4, -3, -2, -1, 0])
    bar.ax.set_yticklabels(["0", ".1%", "1%", "10%", "100%"])
    return figure
