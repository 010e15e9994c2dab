"""Pictures of a mixture's clusters: points in the colours of their components, and who is drawn together with whom."""

__all__ = ["Clusters", "CoClustering"]

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor

from emgen.callbacks.picture import COLOURS, Picture, scatter
from emgen.estimators.enumeration import log_evidence

MOST = 2**12  # partitions that are enumerated for comparison


class Clusters(Picture):
    """Two-dimensional data in the colours of their components, ellipses of two standard deviations, and their history.

    A component without rows, one that the belief has pruned, is not drawn; rows that are undecided are ringed.

    Args:
        beside: what is drawn by epoch beside them: the `bound`, or the `weights` of the components.
        axes: names of the two features.
    """

    name = "clusters"

    def __init__(self, beside: str = "bound", axes: tuple[str, str] | list[str] = ("x₁", "x₂")):
        super().__init__()
        if beside not in ("bound", "weights"):
            raise ValueError(f"beside={beside!r}: expected 'bound' or 'weights'.")
        if len(axes) != 2:
            raise ValueError(f"axes={list(axes)}: expected the names of two features.")
        self.beside, self.axes = beside, list(axes)

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        bounds = {name: torch.tensor(value, dtype=torch.float64) for name, value in module.bounds}
        return {
            "mean": module.model.components.mean,
            "weights": module.model.weights.mean,
            **bounds,
        }

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        model = module.model
        if x[0].numel() != 2:
            raise ValueError(
                f"clusters are drawn of two-dimensional points, not of shape {tuple(x.shape[1:])}."
            )
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        z = module.latents(model.posterior(x))
        scatter(left, x, z.probs)
        means, sizes = self._noted("mean"), z.probs.sum(0).cpu()
        covariances = _covariances(model, x.shape[1]).cpu()
        learnt = bool(model.priors["components"].nu.isfinite().any())
        kept = [k for k, size in enumerate(sizes.tolist()) if size > 0.5]
        for k in kept:
            colour = COLOURS[k % len(COLOURS)]
            values, vectors = torch.linalg.eigh(covariances[k])
            width, height = (4 * values.sqrt()).tolist()
            angle = float(torch.rad2deg(torch.atan2(vectors[1, 0], vectors[0, 0])))
            if learnt:
                left.add_patch(
                    Ellipse(
                        tuple(means[-1, k].tolist()),
                        width,
                        height,
                        angle=angle,
                        fill=False,
                        edgecolor=colour,
                        linewidth=2,
                    )
                )
            left.plot(*means[:, k].T, "-", color="black", linewidth=0.8, alpha=0.6)
            left.plot(*means[-1, k], "+", color="black", markersize=10, markeredgewidth=2)
        found = {
            "log_likelihood": float(model.log_prob(x).sum()),
            "inertia": _inertia(model.components.mean, x, z.probs),
        }
        told = ", ellipses of two sd" if learnt else f", Σ‖x − μ‖² = {found['inertia']:,.2f}"
        used = f", {len(kept)} in use" if len(kept) < len(sizes) else ""
        left.set(
            xlabel=self.axes[0],
            ylabel=self.axes[1],
            title=f"{len(sizes)} components{used}{told}; lines: paths of the means",
        )
        self._history(right, len(sizes))
        return found | {f"size_{k}": float(size) for k, size in enumerate(sizes)}

    def _history(self, axes: Any, components: int) -> None:
        if self.beside == "weights":
            weights = self._noted("weights")
            for k in range(components):
                axes.plot(
                    range(1, len(weights) + 1),
                    weights[:, k],
                    color=COLOURS[k % len(COLOURS)],
                    linewidth=2,
                )
            axes.set(
                xlabel="epoch", ylabel="E[π_k]", title="weights of the components", ylim=(0, None)
            )
            return
        e, m = self._noted("E-step"), self._noted("M-step")
        axes.plot(
            np.arange(len(e)) + 0.5,
            e,
            "o",
            color=COLOURS[0],
            markersize=4,
            label="after the E-step",
        )
        axes.plot(
            np.arange(len(m)) + 1.0,
            m,
            "^",
            color=COLOURS[1],
            markersize=4,
            label="after the M-step",
        )
        axes.set(
            xlabel="epoch",
            ylabel="bound, nats per datum",
            title="the bound never falls",
            ylim=(float(m[0] - 0.1 * (m[-1] - m[0]).abs() - 1e-3), None),
        )  # the first E-step may lie far below
        axes.legend(frameon=False, loc="lower right")


class CoClustering(Picture):
    """What a Gibbs sampler says of a mixture: the means it draws, and p(z_i = z_j | x) of every pair of rows.

    Each draw of θ counts with Σ_k r_ik r_jk, its expectation of [z_i = z_j], which relabelling does not change. Where
    there are few enough partitions, the exact matrix stands beside it.

    Args:
        burn_in: sweeps left out of the average.
        shown: sweeps whose means are drawn, the last ones.
    """

    name = "co_clustering"
    size = (13.0, 4.0)

    def __init__(self, burn_in: int = 100, shown: int = 500):
        super().__init__()
        if burn_in < 0 or shown < 1:
            raise ValueError(
                f"burn_in={burn_in}, shown={shown}: expected 0 or more, and 1 or more."
            )
        self.burn_in, self.shown, self.sweeps = burn_in, shown, 0
        self.together: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sweeps": self.sweeps, "together": self.together}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.sweeps, self.together = state_dict["sweeps"], state_dict["together"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.max_epochs <= self.burn_in:
            raise ValueError(
                f"burn_in={self.burn_in} leaves none of {trainer.max_epochs} sweeps: lower it or raise "
                "lightning.max_epochs."
            )

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        self.sweeps += 1
        if self.sweeps > self.burn_in:
            r = module.model.posterior(x).probs
            pairs = r @ r.T
            self.together = pairs if self.together is None else self.together.to(pairs) + pairs
        del self.notes[: max(0, len(self.notes) + 1 - self.shown)]
        return {"mean": module.model.components.mean[:, 0]}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        if self.together is None:
            raise ValueError(
                f"burn_in={self.burn_in} leaves none of {self.sweeps} sweeps: lower it or raise "
                "lightning.max_epochs."
            )
        order = x.reshape(len(x), -1)[:, 0].argsort()
        drawn = (
            (self.together / (self.sweeps - self.burn_in))[order][:, order].fill_diagonal_(1).cpu()
        )
        model, k = module.model, module.model.weights.mean.shape[-1]
        exact = None
        if k ** len(x) <= MOST:
            every = log_evidence(model, x[order], "distribution")
            exact = torch.stack(
                [torch.stack([every.together(i, j) for j in range(len(x))]) for i in range(len(x))]
            ).cpu()
        trace, *panels = figure.subplots(1, 2 if exact is None else 3)
        means = self._noted("mean")
        for c in range(k):
            trace.plot(
                range(self.sweeps - len(means) + 1, self.sweeps + 1),
                means[:, c],
                ".",
                color=COLOURS[c],
                markersize=3,
                label=f"μ_{c + 1}",
            )
        for value in x.reshape(len(x), -1)[:, 0].unique().cpu()[:: max(1, len(x) // 50)]:
            trace.axhline(float(value), xmax=0.02, color="black", linewidth=1)
        trace.set(
            xlabel="sweep",
            ylabel="drawn mean (ticks: the data)",
            title=f"the last {len(means)} draws of the means",
        )
        trace.legend(frameon=False, markerscale=4, loc="center right")
        shown = (
            [(drawn, "Gibbs sampling")]
            if exact is None
            else [(drawn, "Gibbs sampling"), (exact, "exact, by enumeration")]
        )
        for axes, (matrix, title) in zip(panels, shown):
            image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
            axes.set(title=f"p(z_i = z_j | x), {title}", xlabel="row j", ylabel="row i")
            if len(matrix) <= 12:
                for i in range(len(matrix)):
                    for j in range(len(matrix)):
                        axes.text(
                            j,
                            i,
                            f"{matrix[i, j]:.3f}",
                            ha="center",
                            va="center",
                            fontsize=7,
                            color="white" if matrix[i, j] > 0.5 else "black",
                        )
                axes.set(
                    xticks=range(len(matrix)),
                    xticklabels=range(1, len(matrix) + 1),
                    yticks=range(len(matrix)),
                    yticklabels=range(1, len(matrix) + 1),
                )
        figure.colorbar(image, ax=panels, shrink=0.8)
        found = {"pair_first_second": float(drawn[0, 1]), "pair_first_last": float(drawn[0, -1])}
        return (
            found
            if exact is None
            else found | {"largest_error": float((drawn - exact).abs().max())}
        )


def _covariances(model: Any, features: int) -> Tensor:
    """(K, D, D) of any family of Gaussians."""
    parts = model.components
    if hasattr(parts, "covariance"):
        return parts.covariance.expand(len(parts.mean), features, features)
    return torch.diag_embed(parts.variance.expand(len(parts.mean), features))


def _inertia(means: Tensor, x: Tensor, r: Tensor) -> float:
    """Σ_ik r_ik ‖x_i − μ_k‖²."""
    return float((r * torch.cdist(x.to(means), means).square()).sum())
