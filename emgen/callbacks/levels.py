"""Pictures that make the point of a level: the path of EM, its lower bounds, its half-steps, its hard limit."""

__all__ = ["HalfSteps", "LowerBounds", "ParameterPath", "Tempering"]

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emgen.callbacks.picture import COLOURS, Picture, scatter
from emgen.estimators.beliefs import Point, Tempered

BLUE, ORANGE = COLOURS[:2]


class ParameterPath(Picture):
    """The path of a mixture of two coins over the contours of log p(x|θ), and the log-likelihood beside it.

    Args:
        names: of the two components' parameters.
    """

    name = "parameter_path"

    def __init__(self, names: Sequence[str] = ("θ_A", "θ_B")):
        super().__init__()
        if len(names) != 2:
            raise ValueError(
                f"names={list(names)}: the path is drawn in a plane, so give two names."
            )
        self.names = list(names)

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        model = module.model
        return {
            "p": model.components.mean[:, 0] / getattr(model.components, "trials", 1),
            "weights": model.weights.mean,
            "log_p": model.log_prob(x).sum(),
        }

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        p, log_p = self._noted("p"), self._noted("log_p")
        plane, climb = figure.subplots(1, 2)
        ticks = torch.linspace(0.02, 0.98, 33, dtype=p.dtype)
        model, trials = deepcopy(module.model), getattr(module.model.components, "trials", 1)
        height = torch.empty(len(ticks), len(ticks))
        for i, b in enumerate(ticks):
            for j, a in enumerate(ticks):
                model.components = module.model.components.given(mean=[[a * trials], [b * trials]])
                height[i, j] = model.log_prob(x).sum()
        top = float(height.max())
        levels = top - np.array([16, 8, 4, 2, 1, 0.5, 0.25, 0.1, 0.02])
        shades = plane.contourf(ticks, ticks, height, levels=levels, cmap="Blues", extend="both")
        shades.set_clim(levels[0], top + (top - levels[0]))  # light enough to write on
        plane.contour(
            ticks, ticks, height, levels=levels, colors="white", linewidths=0.6, linestyles="solid"
        )
        plane.plot(p[:, 0], p[:, 1], ".-", color="black", linewidth=1.5)
        for t, mark, when in ((0, "o", "start"), (len(p) - 1, "*", f"after {len(p) - 1} steps")):
            plane.plot(
                *p[t],
                mark,
                color=ORANGE,
                markeredgecolor="black",
                markersize=8 if t == 0 else 14,
                label=f"{when}: {p[t, 0]:.3f}, {p[t, 1]:.3f}",
            )
        plane.legend(loc="lower left")
        plane.set(
            xlabel=self.names[0],
            ylabel=self.names[1],
            aspect="equal",
            title="log p(x|θ), dark is high, and the path of EM",
        )
        climb.plot(range(len(log_p)), log_p, "o-", color=BLUE, markersize=4)
        climb.xaxis.get_major_locator().set_params(integer=True)
        climb.set(
            xlabel="EM step",
            ylabel="log p(x|θ) of all rows, nats",
            title="the log-likelihood never falls",
        )
        w = self._noted("weights")[-1]
        return {
            self.names[0]: float(p[-1, 0]),
            self.names[1]: float(p[-1, 1]),
            "weight": float(w[0]),
            "log_likelihood": float(log_p[-1]),
        }


class LowerBounds(Picture):
    """log p(x|θ) of a mixture whose only free parameter is one component's mean, and the bounds that EM builds on it.

        log p(x|θ) ≥ F(q_t, θ) = E_{q_t} log p(x, z|θ) + H(q_t),     equal at θ_t, where q_t is the posterior

    Args:
        low, high: the slice of θ that is drawn.
        component: whose mean is θ.
        bounds: how many are drawn, from the first.
    """

    name = "lower_bounds"
    size = (8.0, 5.0)

    def __init__(self, low: float, high: float, component: int = 1, bounds: int = 5):
        super().__init__()
        if not low < high or bounds < 1:
            raise ValueError(
                f"low={low}, high={high}, bounds={bounds}: expected low < high and one bound or more."
            )
        self.low, self.high, self.component, self.bounds = low, high, component, bounds

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {"theta": module.model.components.mean[self.component, 0]}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        path = self._noted("theta")
        slice_ = torch.linspace(self.low, self.high, 201, dtype=path.dtype)
        axes = figure.subplots()
        posteriors = [self._posterior(module.model, theta, x) for theta in slice_]
        scores = torch.stack(
            [each.scores for each in posteriors]
        )  # log p(x, z|θ), all over the slice
        log_p = torch.stack([each.log_normaliser.mean() for each in posteriors]).cpu()
        axes.plot(slice_, log_p, color="black", linewidth=2.5, label="log p(x|θ)", zorder=3)
        touching = 0.0
        for t, theta in enumerate(path[: self.bounds]):
            q = self._posterior(module.model, theta, x)
            bound = ((q.probs * scores).sum(-1) + q.entropy).mean(-1).cpu()
            colour = COLOURS[t % len(COLOURS)]
            axes.plot(
                slice_,
                bound,
                color=colour,
                linewidth=1.5,
                label=f"F(q{_below(t)}, θ), touches at θ{_below(t)} = {theta:.3f}",
            )
            touch = q.log_normaliser.mean()
            axes.plot(theta, touch.cpu(), "o", color=colour, markersize=7, zorder=4)
            best = int(bound.argmax())
            axes.plot(
                [slice_[best]] * 2, [float(bound[best]), float(log_p[best])], ":", color=colour
            )
            axes.plot(slice_[best], bound[best], "^", color=colour, markersize=6, zorder=4)
            touching = max(
                touching, float(((q.probs * q.scores).sum(-1) + q.entropy).mean() - touch)
            )
        room = float(log_p.max() - log_p.min())
        axes.set(
            ylim=(float(log_p.min()) - 0.6 * room, float(log_p.max()) + 0.1 * room),
            xlim=(self.low, self.high),
            xlabel="θ, the mean of the one component that is free",
            ylabel="nats per datum",
            title="Each E-step builds a bound that touches log p(x|θ) (●); the M-step goes to its top (▲)",
        )
        axes.legend(frameon=False, fontsize=9)
        return {"theta": float(path[-1]), "slack_at_touch": touching}

    def _posterior(self, model: Any, theta: Tensor, x: Tensor) -> Any:
        model = deepcopy(model)
        mean = model.components.mean.clone()
        mean[self.component, 0] = theta
        model.components = model.components.replace(mean=mean)
        return model.posterior(x)


class HalfSteps(Picture):
    """F after every half-step, log p(x|θ) above it, and between them the gap KL(q ‖ posterior)."""

    name = "half_steps"

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        log_p = module.model.posterior(x).log_normaliser.mean()
        if not module.bounds:  # the start: no half-step yet
            return {"log_p": log_p}
        (_, e), (_, m) = module.bounds
        return {
            "log_p": log_p,
            "e": torch.tensor(e, dtype=torch.float64),
            "m": torch.tensor(m, dtype=torch.float64),
        }

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        log_p, e, m = (
            self._noted("log_p").double(),
            self._noted("e").double(),
            self._noted("m").double(),
        )
        log_p = log_p[-len(m) :]  # after each M-step
        shown = min(len(m), 8)
        steps = np.arange(shown)
        climb, gap = figure.subplots(1, 2, width_ratios=(3, 2))
        bound = np.stack([e[:shown], m[:shown]], 1).ravel()
        evidence = np.stack([e[:shown], log_p[:shown]], 1).ravel()
        at = np.stack([steps + 0.5, steps + 1.0], 1).ravel()
        climb.fill_between(
            at,
            bound,
            evidence,
            color=ORANGE,
            alpha=0.35,
            linewidth=0,
            label="gap = KL(q ‖ posterior)",
        )
        climb.plot(at, evidence, color="black", linewidth=1.5, label="log p(x|θ)")
        climb.plot(at, bound, color=BLUE, linewidth=1.5, label="F(q, θ)")
        climb.plot(
            steps + 0.5,
            e[:shown],
            "o",
            color=BLUE,
            markersize=5,
            label="after the E-step: the gap is closed",
        )
        climb.plot(
            steps + 1.0,
            m[:shown],
            "^",
            color=BLUE,
            markersize=5,
            label="after the M-step: both have risen",
        )
        climb.set(
            xlabel="sweep",
            ylabel="nats per datum",
            title="F climbs in half-steps towards log p(x)",
            ylim=(float(m[0]) - 0.1 * float(log_p[-1] - m[0]), None),
        )  # the first E-step may lie far below
        climb.legend(frameon=False, fontsize=9, loc="lower right")
        kl = (log_p - m).clamp(min=1e-16)
        gap.semilogy(range(1, len(kl) + 1), kl, color=ORANGE, label="gap left by the M-step")
        gap.semilogy(
            range(1, len(m) + 1),
            (log_p[-1] - log_p).clamp(min=1e-16),
            color="black",
            label="log p still to be gained",
        )
        gap.set(
            xlabel="sweep",
            ylabel="nats per datum",
            title="both gaps go to nothing",
            ylim=(1e-9, None),
        )
        gap.legend(frameon=False, fontsize=9)
        return {
            "elbo": float(m[-1]),
            "log_p": float(log_p[-1]),
            "lowest_rise": float(torch.cat([m - e, e[1:] - m[:-1]]).min()),
        }


class Tempering(Picture):
    """Responsibilities harden as σ² → 0: a tempered belief q ∝ posteriorᵝ at variance σ² is the posterior at σ²/β.

    Training ends at the model's own variance; from there each next one is reached by tempered EM from the one before.

    Args:
        variances: σ² in squared units of the data, from soft to hard.
        sweeps: of tempered EM at each.
        axes: names of the two features.
    """

    name = "tempering"
    size = (14.0, 3.9)

    def __init__(
        self,
        variances: Sequence[float] = (100.0, 36.0, 10.0, 1.0),
        sweeps: int = 200,
        axes: Sequence[str] = ("x₁", "x₂"),
    ):
        super().__init__()
        if len(axes) != 2:
            raise ValueError(f"axes={list(axes)}: expected the names of two features.")
        if not variances or min(variances) <= 0 or sweeps < 1:
            raise ValueError(
                f"variances={list(variances)}, sweeps={sweeps}: expected positive variances and one sweep or more."
            )
        self.variances, self.sweeps, self.axes = list(variances), sweeps, list(axes)

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        model, found = deepcopy(module.model), {}
        panels = figure.subplots(1, len(self.variances) + 1)
        for axes, variance in zip(panels, self.variances):
            soft = Tempered(float(model.components.variance.flatten()[0]) / variance)
            for _ in range(self.sweeps):
                model.m_step(model.statistics(x, soft(model.posterior(x))), Point())
            q = soft(model.posterior(x))
            found[f"entropy_{variance:g}"] = float(q.entropy.sum())
            scatter(axes, x, q.probs)
            axes.plot(*model.components.mean.T.cpu(), "k+", markersize=12, markeredgewidth=2)
            axes.set_title(
                f"σ² = {variance:g}:  ΣH = {found[f'entropy_{variance:g}']:.4g} nats", fontsize=10
            )
            axes.set_xlabel(self.axes[0])
        panels[0].set_ylabel(self.axes[1])
        panels[-1].loglog(self.variances, list(found.values()), "o-", color="black")
        panels[-1].invert_xaxis()
        panels[-1].set(xlabel="σ²", ylabel="ΣH, nats, all rows")
        figure.suptitle(
            "responsibilities harden as σ² → 0 and EM becomes k-means (colour: whose row; black ring: undecided)"
        )
        panels[-1].set_title("entropy of the responsibilities", fontsize=10)
        return found


def _below(t: int) -> str:
    return "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(t))
