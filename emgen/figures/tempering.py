"""Responsibilities harden as the variance of a mixture falls, until EM is k-means."""

__all__ = ["tempering"]

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor

from emgen.estimators.beliefs import Point, Tempered
from emgen.figures.canvas import Drawing, blank, scatter


def tempering(
    model: Any, x: Tensor, variances: Sequence[float], sweeps: int, features: Sequence[str]
) -> Drawing:
    """The points at each variance, reached by tempered EM from the one before, and the entropy of
    all rows.

    Args:
        model: a mixture of Gaussians of one variance, which is left as it is.
        x: data (N, 2).
        variances: σ² in squared units of the data, from soft to hard.
        sweeps: of tempered EM at each.
        features: names of the two features.
    """
    model = deepcopy(model)
    figure = blank(14.0, 3.9)
    *panels, summary = figure.subplots(1, len(variances) + 1)

    entropies = {}
    for axes, variance in zip(panels, variances):
        q = _belief_at(variance, model, x, sweeps)
        total = float(q.entropy.sum())
        entropies[f"entropy_{variance:g}"] = total
        scatter(axes, x, q.probs)
        means = model.components.mean.T.cpu()
        axes.plot(*means, "k+", markersize=12, markeredgewidth=2)
        axes.set_title(f"σ² = {variance:g}:  ΣH = {total:.4g} nats", fontsize=10)
        axes.set_xlabel(features[0])
    panels[0].set_ylabel(features[1])

    summary.loglog(variances, list(entropies.values()), "o-", color="black")
    summary.invert_xaxis()
    summary.set(xlabel="σ²", ylabel="ΣH, nats, all rows")
    figure.suptitle(
        "responsibilities harden as σ² → 0 and EM becomes k-means "
        "(colour: whose row; black ring: undecided)"
    )
    summary.set_title("entropy of the responsibilities", fontsize=10)
    return Drawing(figure, entropies)


def _belief_at(variance: float, model: Any, x: Tensor, sweeps: int) -> Any:
    """The posterior at σ²: q ∝ posteriorᵝ with β = the model's own variance over σ².

    The model's means move.
    """
    own = float(model.components.variance.flatten()[0])
    soft = Tempered(own / variance)
    for _ in range(sweeps):
        model.m_step(model.statistics(x, soft(model.posterior(x))), Point())
    return soft(model.posterior(x))
