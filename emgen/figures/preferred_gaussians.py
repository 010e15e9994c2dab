"""On the line: the data's density, the Gaussian that each divergence likes best, the one learnt,
and the critic.
"""

__all__ = ["JUDGES", "preferred_gaussians", "snake"]

import re
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from emgen import divergences
from emgen.divergences import FDivergence, f_projection
from emgen.figures.canvas import COLOURS, Drawing, blank

JUDGES = (
    "KL",
    "ReverseKL",
    "JensenShannon",
    "Jeffreys",
    "Pearson",
    "Neyman",
    "SquaredHellinger",
    "TotalVariation",
)


def preferred_gaussians(
    density: Distribution, learnt: Distribution, critic: Any, divergence: FDivergence, x: Tensor
) -> Drawing:
    """The densities left and the critic right; the numbers are the true D_f(data ‖ learnt) under
    every f.

    Args:
        density: of the data, events (1,).
        learnt: the model's, events (1,).
        critic: v(x), the log density ratio that was learnt.
        divergence: which the critic was learnt under.
        x: data (N, 1), whose range is drawn.
    """
    target, model = _on_the_line(density), _on_the_line(learnt)
    grid = torch.linspace(float(x.min()), float(x.max()), 400, dtype=torch.float64)
    log_target, log_model = target.log_prob(grid), model.log_prob(grid)

    figure = blank()
    left, right = figure.subplots(1, 2)
    left.fill_between(grid, log_target.exp(), color="0.85", label="data")
    numbers = {}
    for name, colour in zip(JUDGES, COLOURS):
        judge: FDivergence = getattr(divergences, name)()
        best = f_projection(target, judge)
        left.plot(grid, best.log_prob(grid).exp(), color=colour, linewidth=1, label=name)
        numbers[snake(name)] = float(judge.of(p=target, q=model))
    left.plot(grid, log_model.exp(), "--", color="black", label="learnt")
    left.set(title="the Gaussian each divergence prefers", xlabel="x", ylabel="density")
    left.legend(fontsize=8, frameon=False)

    ratio = log_target - log_model
    right.plot(grid, ratio, color="0.6", linewidth=3, label="log p̂(x)/p(x)")
    v = critic(grid[:, None].to(x)).cpu()
    right.plot(grid, v, color=COLOURS[0], label="v(x), the critic")
    right.set(title=f"the critic under {divergence!r}", xlabel="x", ylabel="nats")
    right.legend(frameon=False)
    return Drawing(figure, numbers)


def snake(name: str) -> str:
    """A class's name as a tag: ReverseKL → reverse_kl."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _on_the_line(density: Distribution) -> Distribution:
    """A density of events (1,) as one of scalars, in float64."""
    if not isinstance(density, MixtureSameFamily):
        return _normal(density)
    probs = density.mixture_distribution.probs.double().cpu()
    return MixtureSameFamily(Categorical(probs), _normal(density.component_distribution))


def _normal(density: Distribution) -> Normal:
    mean, sd = (values.squeeze(-1).double().cpu() for values in (density.mean, density.stddev))
    return Normal(mean, sd)
