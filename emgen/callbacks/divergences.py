"""Pictures of level 9: what each divergence prefers, and a model trained with one divergence judged
by all.
"""

__all__ = ["CrossTable", "Preferences", "Projections"]

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from torch import Tensor

from emgen.callbacks.picture import Picture
from emgen.evaluation.runs import strict_json
from emgen.figures.canvas import Drawing
from emgen.figures.cross_table import cross_table
from emgen.figures.preferred_gaussians import preferred_gaussians, snake
from emgen.figures.projections import projections

Table = Mapping[str, Mapping[str, float]]


class Preferences(Picture):
    """On the line: the data's density, the Gaussian that each divergence likes best, the one
    learnt, and the critic.

    For data whose `density` is known and a model with a `distribution()`, such as `line` and
    `location_scale`; the figures reported are the true divergences D_f(data ‖ model) under every f.
    """

    name = "divergences"

    def draw(self, module: Any, x: Tensor) -> Drawing:
        return preferred_gaussians(
            module.trainer.datamodule.density,
            module.model.distribution(),
            module.critic,
            module.adversarial.divergence,
            x,
        )


class CrossTable(lightning.Callback):
    """Train with one divergence, test with all: a table over the runs of a sweep, after
    `Preferences` has judged each.

    Every run adds its row to `cross_table.csv` and `cross_table.png` in the folder of the sweep. A
    cell is the true divergence of the learnt model, its colour the excess over the best of the
    column.
    """

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        tested = {
            tag.removeprefix("divergences/"): value
            for tag, value in pl_module.row.items()
            if tag.startswith("divergences/")
        }
        if not tested:
            raise ValueError(
                "cross_table has nothing to tabulate: put callbacks.preferences before it."
            )
        trained = snake(type(pl_module.adversarial.divergence).__name__)
        own = Path(trainer.default_root_dir)
        record = strict_json({"trained": trained, "tested": tested})
        (own / "divergences.json").write_text(record, encoding="utf-8")

        sweep = own.parent
        table = _table_of(sweep)
        with (sweep / "cross_table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["trained with \\ tested with", *tested])
            writer.writerows([name, *values.values()] for name, values in table.items())
        cross_table(table).savefig(sweep / "cross_table.png", dpi=110)
        _print(table, tested)


class Projections(Picture):
    """In the plane: the data's density, its M-projection onto the Gaussians, and its I-projection
    from each peak.

    The M-projection matches moments and covers every peak; it is what EM with one component finds.
    An I-projection takes one peak; which one, its start decides.
    """

    name = "projections"

    def draw(self, module: Any, x: Tensor) -> Drawing:
        target = module.trainer.datamodule.density
        return projections(target, module.model.distribution(), x)


def _table_of(sweep: Path) -> Table:
    """The rows that the runs of a sweep have left, the oldest first."""
    records = sweep.glob("*/divergences.json")
    paths = sorted(records, key=lambda path: path.stat().st_mtime)
    found = [json.loads(path.read_text()) for path in paths]
    return {one["trained"]: one["tested"] for one in found}


def _print(table: Table, columns: Mapping[str, float]) -> None:
    lines = [f"{'trained with':>18}" + "".join(f"{name:>18}" for name in columns)]
    for name, values in table.items():
        cells = "".join(f"{value:18.4f}" for value in values.values())
        lines.append(f"{name:>18}{cells}")
    print("\n".join(lines))
