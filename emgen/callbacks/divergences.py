"""Pictures of level 9: what each divergence prefers, and a model trained with one divergence judged by all."""

__all__ = ["CrossTable", "Preferences", "Projections"]

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from emgen import divergences
from emgen.callbacks.picture import COLOURS, Picture
from emgen.divergences import FDivergence, GaussianFamily, f_projection, i_projection, m_projection
from emgen.evaluation.runs import strict_json

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


class Preferences(Picture):
    """On the line: the data's density, the Gaussian that each divergence likes best, the one learnt, and the critic.

    For data whose `density` is known and a model with a `distribution()`, such as `line` and `location_scale`; the
    figures reported are the true divergences D_f(data ‖ model) under every f.
    """

    name = "divergences"

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        target, learnt = (
            _on_the_line(module.trainer.datamodule.density),
            _on_the_line(module.model.distribution()),
        )
        grid = torch.linspace(float(x.min()), float(x.max()), 400, dtype=torch.float64)
        densities, critic = figure.subplots(1, 2)
        densities.fill_between(grid, target.log_prob(grid).exp(), color="0.85", label="data")
        values = {}
        for name, colour in zip(JUDGES, COLOURS):
            judge: FDivergence = getattr(divergences, name)()
            best = f_projection(target, judge)
            densities.plot(grid, best.log_prob(grid).exp(), color=colour, linewidth=1, label=name)
            values[_snake(name)] = float(judge.of(p=target, q=learnt))
        p_x = learnt.log_prob(grid)
        densities.plot(grid, p_x.exp(), "--", color="black", label="learnt")
        densities.set(title="the Gaussian each divergence prefers", xlabel="x", ylabel="density")
        densities.legend(fontsize=8, frameon=False)
        critic.plot(
            grid, target.log_prob(grid) - p_x, color="0.6", linewidth=3, label="log p̂(x)/p(x)"
        )
        critic.plot(
            grid,
            module.critic(grid[:, None].to(x)).cpu(),
            color=COLOURS[0],
            label="v(x), the critic",
        )
        critic.set(
            title=f"the critic under {module.adversarial.divergence!r}", xlabel="x", ylabel="nats"
        )
        critic.legend(frameon=False)
        return values


class CrossTable(lightning.Callback):
    """Train with one divergence, test with all: a table over the runs of a sweep, after `Preferences` has judged each.

    Every run adds its row to `cross_table.csv` and `cross_table.png` in the folder of the sweep. A cell is the true
    divergence of the learnt model, its colour the excess over the best of the column.
    """

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        own, folder = Path(trainer.default_root_dir), Path(trainer.default_root_dir).parent
        row = {
            key.removeprefix("divergences/"): value
            for key, value in pl_module.row.items()
            if key.startswith("divergences/")
        }
        if not row:
            raise ValueError(
                "cross_table has nothing to tabulate: put callbacks.preferences before it."
            )
        record = {"trained": _snake(type(pl_module.adversarial.divergence).__name__), "tested": row}
        (own / "divergences.json").write_text(strict_json(record), encoding="utf-8")
        paths = sorted(folder.glob("*/divergences.json"), key=lambda path: path.stat().st_mtime)
        found = [json.loads(path.read_text()) for path in paths]
        table = {one["trained"]: one["tested"] for one in found}
        with (folder / "cross_table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["trained with \\ tested with", *row])
            writer.writerows([name, *tested.values()] for name, tested in table.items())
        _heat_map(table, folder / "cross_table.png")
        print(
            "\n".join(
                [f"{'trained with':>18}" + "".join(f"{name:>18}" for name in row)]
                + [
                    f"{name:>18}" + "".join(f"{v:18.4f}" for v in tested.values())
                    for name, tested in table.items()
                ]
            )
        )


class Projections(Picture):
    """In the plane: the data's density, its M-projection onto the Gaussians, and its I-projection from each peak.

    The M-projection matches moments and covers every peak; it is what EM with one component finds. An I-projection
    takes one peak; which one, its start decides.
    """

    name = "projections"
    size = (5.5, 5.0)

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        target = module.trainer.datamodule.density
        axes = figure.subplots()
        low, high = float(x.min()), float(x.max())
        ticks = torch.linspace(low, high, 120)
        plane = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
        axes.contourf(
            ticks,
            ticks,
            target.log_prob(plane.reshape(-1, 2)).exp().view(120, 120),
            levels=12,
            cmap="Greys",
        )
        cover = m_projection(target, GaussianFamily())
        peaks = [
            i_projection(target, GaussianFamily(), start=peak[None])
            for peak in target.component_distribution.mean
        ]
        for q, colour, label in [
            (cover, COLOURS[1], "M-projection, KL(p‖q): covers"),
            *((q, COLOURS[0], "I-projection, KL(q‖p): takes a peak") for q in peaks),
        ]:
            height = q.log_prob(plane.reshape(-1, 2).double()).view(120, 120)
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
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), frameon=False, loc="upper center")
        axes.set(aspect="equal", title="two projections of one density")
        learnt = module.model.distribution().component_distribution
        one = MultivariateNormal(learnt.mean[0].double(), learnt.covariance_matrix[0].double())
        return {
            "kl_to_em": float(divergences.KL().of(p=cover, q=one))
        }  # the rows are a sample, hence not quite zero


def _on_the_line(density: Distribution) -> Distribution:
    """A density of events (1,) as one of scalars, in float64."""
    if isinstance(density, MixtureSameFamily):
        part = density.component_distribution
        weights = Categorical(density.mixture_distribution.probs.double().cpu())
        return MixtureSameFamily(
            weights,
            Normal(part.mean.squeeze(-1).double().cpu(), part.stddev.squeeze(-1).double().cpu()),
        )
    return Normal(
        density.mean.squeeze(-1).double().cpu(), density.stddev.squeeze(-1).double().cpu()
    )


def _heat_map(table: Mapping[str, Mapping[str, float]], path: Path) -> None:
    trained, tested = list(table), list(next(iter(table.values())))
    values = torch.tensor([list(row.values()) for row in table.values()])
    excess = (values / values.min(0).values - 1).clamp(1e-4, 1).log10()
    figure = Figure(figsize=(1.1 * len(tested) + 2, 0.55 * len(trained) + 2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(excess, cmap="Blues", aspect="auto", vmin=-4, vmax=0)
    axes.set_xticks(range(len(tested)), tested, rotation=30, ha="right")
    axes.set_yticks(range(len(trained)), trained)
    axes.set(
        xlabel="tested with",
        ylabel="trained with",
        title="D(data ‖ model) and its excess over the column's best",
    )
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(
                j,
                i,
                f"{value:.3f}",
                ha="center",
                va="center",
                color="white" if excess[i, j] > -1 else "black",
            )
    bar = figure.colorbar(image, ticks=[-4, -3, -2, -1, 0])
    bar.ax.set_yticklabels(["0", ".1%", "1%", "10%", "100%"])
    figure.savefig(path, dpi=110)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
