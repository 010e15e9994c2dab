"""In the plane: a density, its M-projection onto the Gaussians, and its I-projection from each
peak.
"""

__all__ = ["projections"]

from typing import Any

import torch
from torch import Tensor
from torch.distributions import MixtureSameFamily, MultivariateNormal

from emgen.divergences import KL, GaussianFamily, i_projection, m_projection
from emgen.figures.canvas import COLOURS, Drawing, blank

TICKS = 120


def projections(target: MixtureSameFamily, learnt: MixtureSameFamily, x: Tensor) -> Drawing:
    """The M-projection covers every peak; an I-projection takes the one that it starts from.

    Args:
        target: the density of the data in the plane.
        learnt: a mixture of one component, as EM finds it.
        x: data (N, 2), whose range is drawn.
    """
    figure = blank(5.5, 5.0)
    axes = figure.subplots()
    ticks = torch.linspace(float(x.min()), float(x.max()), TICKS)
    plane = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
    density = target.log_prob(plane).exp().view(TICKS, TICKS)
    axes.contourf(ticks, ticks, density, levels=12, cmap="Greys")

    peaks: Any = target.component_distribution.mean
    cover = m_projection(target, GaussianFamily())
    drawn = [(cover, COLOURS[1], "M-projection, KL(p‖q): covers")]
    for peak in peaks:
        taken = i_projection(target, GaussianFamily(), start=peak[None])
        drawn.append((taken, COLOURS[0], "I-projection, KL(q‖p): takes a peak"))
    for q, colour, label in drawn:
        height = q.log_prob(plane.double()).view(TICKS, TICKS)
        edge = float(height.max()) - 2.0  # two standard deviations out
        axes.contour(
            ticks,
            ticks,
            height,
            levels=[edge],
            colors=[colour],
            linewidths=2,
            linestyles="solid",
        )
        axes.plot([], [], color=colour, label=label)

    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), frameon=False, loc="upper center")
    axes.set(aspect="equal", title="two projections of one density")

    part: Any = learnt.component_distribution
    one = MultivariateNormal(part.mean[0].double(), part.covariance_matrix[0].double())
    # the rows are a sample, hence not quite zero
    return Drawing(figure, {"kl_to_em": float(KL().of(p=cover, q=one))})
