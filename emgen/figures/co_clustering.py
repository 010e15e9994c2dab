"""What a Gibbs sampler says of a mixture: the means it draws, and which rows it puts together."""

__all__ = ["co_clustering"]

from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from emgen.estimators.enumeration import log_evidence
from emgen.figures.canvas import COLOURS, Drawing, blank

MOST = 2**12  # partitions that are enumerated for comparison
WRITTEN = 12  # rows up to which each probability is written into its cell


def co_clustering(model: Any, x: Tensor, together: Tensor, means: Tensor, sweeps: int) -> Drawing:
    """The last draws of the means, and p(z_i = z_j | x); the exact matrix beside it where
    partitions are few enough.

    Args:
        model: a mixture.
        x: data (N, *event); rows are drawn in the order of their first value.
        together: p(z_i = z_j | x) of every pair of rows, (N, N), as sampled.
        means: the first feature of the components' means in the last sweeps, (T, K).
        sweeps: how many there were in all.
    """
    first = x.reshape(len(x), -1)[:, 0]
    order = first.argsort()
    drawn = together[order][:, order].fill_diagonal_(1).cpu()
    matrices = {"Gibbs sampling": drawn}
    exact = None
    components = model.weights.mean.shape[-1]
    if components ** len(x) <= MOST:
        exact = _by_enumeration(model, x[order])
        matrices["exact, by enumeration"] = exact

    figure = blank(13.0, 4.0)
    trace, *panels = figure.subplots(1, 1 + len(matrices))
    _trace(trace, means, sweeps, first)
    image: Any = None
    for axes, (title, matrix) in zip(panels, matrices.items()):
        image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=f"p(z_i = z_j | x), {title}", xlabel="row j", ylabel="row i")
        if len(matrix) <= WRITTEN:
            _write_values(axes, matrix)
    figure.colorbar(image, ax=panels, shrink=0.8)

    numbers = {"pair_first_second": float(drawn[0, 1]), "pair_first_last": float(drawn[0, -1])}
    if exact is not None:
        numbers["largest_error"] = float((drawn - exact).abs().max())
    return Drawing(figure, numbers)


def _by_enumeration(model: Any, x: Tensor) -> Tensor:
    every = log_evidence(model, x, "distribution")
    rows = range(len(x))
    return torch.stack([torch.stack([every.together(i, j) for j in rows]) for i in rows]).cpu()


def _trace(axes: Axes, means: Tensor, sweeps: int, first: Tensor) -> None:
    last = range(sweeps - len(means) + 1, sweeps + 1)
    for k in range(means.shape[1]):
        axes.plot(last, means[:, k], ".", color=COLOURS[k], markersize=3, label=f"μ_{k + 1}")
    values = first.unique().cpu()
    for value in values[:: max(1, len(first) // 50)]:
        axes.axhline(float(value), xmax=0.02, color="black", linewidth=1)
    axes.set(
        xlabel="sweep",
        ylabel="drawn mean (ticks: the data)",
        title=f"the last {len(means)} draws of the means",
    )
    axes.legend(frameon=False, markerscale=4, loc="center right")


def _write_values(axes: Axes, matrix: Tensor) -> None:
    rows = range(len(matrix))
    for i in rows:
        for j in rows:
            colour = "white" if matrix[i, j] > 0.5 else "black"
            value = f"{matrix[i, j]:.3f}"
            axes.text(j, i, value, ha="center", va="center", fontsize=7, color=colour)
    numbers = range(1, len(matrix) + 1)
    axes.set(xticks=rows, xticklabels=numbers, yticks=rows, yticklabels=numbers)
