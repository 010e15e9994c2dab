"""log p(x|θ) along one parameter of a mixture, and the lower bounds that EM builds on it."""

__all__ = ["lower_bounds"]

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from emgen.figures.canvas import COLOURS, Drawing, blank


def lower_bounds(
    model: Any, x: Tensor, path: Tensor, low: float, high: float, component: int, bounds: int
) -> Drawing:
    """Each bound F(q_t, θ) = E_{q_t} log p(x, z|θ) + H(q_t) touches log p(x|θ) at θ_t and is
    climbed to its top.

    Args:
        model: a mixture of which only one component's mean, θ, is free.
        x: data (N, 1).
        path: θ after each step, (T,).
        low, high: the slice of θ that is drawn.
        component: whose mean is θ.
        bounds: how many are drawn, from the first.
    """
    figure = blank(8.0, 5.0)
    axes = figure.subplots()

    slice_ = torch.linspace(low, high, 201, dtype=path.dtype)
    posteriors = [_posterior(model, component, theta, x) for theta in slice_]
    joint = torch.stack([q.scores for q in posteriors])  # log p(x, z|θ) over the slice
    log_p = torch.stack([q.log_normaliser.mean() for q in posteriors]).cpu()
    axes.plot(slice_, log_p, color="black", linewidth=2.5, label="log p(x|θ)", zorder=3)

    slack = 0.0
    for t, theta in enumerate(path[:bounds]):
        colour = COLOURS[t % len(COLOURS)]
        q = _posterior(model, component, theta, x)
        bound = ((q.probs * joint).sum(-1) + q.entropy).mean(-1).cpu()
        label = f"F(q{_below(t)}, θ), touches at θ{_below(t)} = {theta:.3f}"
        axes.plot(slice_, bound, color=colour, linewidth=1.5, label=label)

        touch = q.log_normaliser.mean()
        axes.plot(theta, touch.cpu(), "o", color=colour, markersize=7, zorder=4)

        best = int(bound.argmax())
        rise = [float(bound[best]), float(log_p[best])]
        axes.plot([slice_[best]] * 2, rise, ":", color=colour)
        axes.plot(slice_[best], bound[best], "^", color=colour, markersize=6, zorder=4)

        at_touch = ((q.probs * q.scores).sum(-1) + q.entropy).mean()
        slack = max(slack, float(at_touch - touch))

    bottom, top = float(log_p.min()), float(log_p.max())
    room = float(log_p.max() - log_p.min())
    axes.set(
        ylim=(bottom - 0.6 * room, top + 0.1 * room),
        xlim=(low, high),
        xlabel="θ, the mean of the one component that is free",
        ylabel="nats per datum",
        title=(
            "Each E-step builds a bound that touches log p(x|θ) (●); the M-step goes to its top (▲)"
        ),
    )
    axes.legend(frameon=False, fontsize=9)
    return Drawing(figure, {"theta": float(path[-1]), "slack_at_touch": slack})


def _posterior(model: Any, component: int, theta: Tensor, x: Tensor) -> Any:
    """q(z|x) where the free mean is at θ."""
    moved = deepcopy(model)
    mean = moved.components.mean.clone()
    mean[component, 0] = theta
    moved.components = moved.components.replace(mean=mean)
    return moved.posterior(x)


def _below(t: int) -> str:
    return "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(t))
