"""Lightning's own tools with every trainer: what is recorded reaches its callbacks and loggers, and a batch is a batch."""

import csv
import math
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from emgen import models
from emgen.callbacks import Metrics
from emgen.data import Data
from emgen.estimators.beliefs import Distribution, Point
from emgen.trainers import EM, GAN, VAE, WakeSleep

ROWS = (torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def pair():
    torch.manual_seed(0)
    return models.dense((1, 4, 4), hidden=(5,), latent=2)


def made(name):
    if name == "em":
        return EM(models.BernoulliMixture(16, components=2), tol=None)
    if name == "gan":
        return GAN(pair(), models.dense_critic((1, 4, 4), hidden=(5,)))
    return {"vae": VAE, "wake_sleep": WakeSleep}[name](pair())


def rows_of(name):
    return ROWS.flatten(1) if name == "em" else ROWS


TRAINERS = ("vae", "wake_sleep", "gan", "em")


@pytest.mark.parametrize("name", TRAINERS)
def test_what_is_recorded_reaches_callback_metrics_and_every_logger(tmp_path, name):
    loggers = [CSVLogger(tmp_path, name="a", version=""), CSVLogger(tmp_path, name="b", version="")]
    loggers.append(TensorBoardLogger(tmp_path, name="tb", version=""))
    data = Data(rows_of(name), batch_size=10)
    module = made(name)
    trainer = lightning.Trainer(
        max_epochs=2,
        logger=loggers,
        callbacks=[Metrics(samples=2)],
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        **QUIET,
    )
    trainer.fit(module, datamodule=data)
    for key, value in module.history[-1].items():
        assert float(trainer.callback_metrics[f"train/{key}"]) == pytest.approx(value, rel=1e-6)
    assert "val/log_likelihood" in trainer.callback_metrics
    for logger in ("a", "b"):
        with open(tmp_path / logger / "metrics.csv", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        assert [int(float(row["step"])) for row in table] == [60, 120]  # examples seen
        kept = float(table[-1]["val/log_likelihood"])
        assert kept == pytest.approx(
            float(trainer.callback_metrics["val/log_likelihood"]), rel=1e-5
        )


@pytest.mark.parametrize("name", TRAINERS)
def test_no_callback_of_ours_is_needed_to_monitor(tmp_path, name):
    """Early stopping, the best checkpoints and learning rates, on somebody's own loader."""
    tag = "train/elbo" if name != "gan" else "train/loss"
    stop = EarlyStopping(tag, patience=1, min_delta=1e9)  # nothing is ever that much better
    keep = ModelCheckpoint(tmp_path, monitor=tag, mode="max", save_top_k=1)
    loader = DataLoader(TensorDataset(rows_of(name), torch.zeros(60)), batch_size=10)
    module = made(name)
    logger = CSVLogger(tmp_path)
    callbacks = [stop, keep, LearningRateMonitor()]
    trainer = lightning.Trainer(max_epochs=9, callbacks=callbacks, logger=logger, **QUIET)
    trainer.fit(module, loader)
    assert len(module.history) == 2 and stop.stopped_epoch == 1
    assert Path(keep.best_model_path).exists() and keep.best_model_score is not None


LIMITS = {
    "fast_dev_run": ({"fast_dev_run": True}, 1),
    "limit": ({"limit_train_batches": 3, "max_epochs": 1}, 3),
    "share": ({"limit_train_batches": 0.5, "max_epochs": 1}, 3),
    "overfit": ({"overfit_batches": 2, "max_epochs": 1}, 2),
}


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize(("limits", "batches"), LIMITS.values(), ids=LIMITS)
def test_what_is_limited_is_batches(name, limits, batches, tmp_path):
    module = made(name)
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, **QUIET, **limits)
    trainer.fit(module, datamodule=Data(rows_of(name), batch_size=10))
    assert (module.iteration, module.examples) == (batches, 10 * batches)


@pytest.mark.parametrize(("name", "steps"), [("vae", 5), ("wake_sleep", 4), ("gan", 6)])
def test_max_steps_counts_steps_of_optimisers(name, steps):
    module = made(name)
    trainer = lightning.Trainer(max_steps=steps, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(module, datamodule=Data(ROWS, batch_size=10))
    players = {"vae": 1, "wake_sleep": 2, "gan": 3}[name]
    assert module.iteration == math.ceil(steps / players)


class Counting(lightning.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((batch_idx, pl_module.iteration))


def test_a_hook_on_batches_sees_every_batch_and_the_run_is_the_same():
    runs = []
    for callbacks in ([], [Counting()]):
        module = made("vae")
        trainer = lightning.Trainer(
            max_epochs=2, callbacks=callbacks, logger=False, enable_checkpointing=False, **QUIET
        )
        trainer.fit(module, datamodule=Data(ROWS, batch_size=10))
        runs.append(module.state_dict())
    assert callbacks[0].seen == [(i % 6, i + 1) for i in range(12)]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


@pytest.mark.parametrize("parameters", [Point(), Distribution()])
def test_a_sweep_is_an_epoch_of_whatever_loader_there_is(parameters):
    """From one start, EM on batches of a plain loader is EM on all rows at once."""
    x = torch.randn(250, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:100] += 4
    ends = []
    for loader in (DataLoader(TensorDataset(x), batch_size=60), DataLoader(TensorDataset(x), 250)):
        torch.manual_seed(0)
        model = models.GaussianMixture(2, components=2)
        trainer = EM(model, parameters=parameters, tol=None)
        model.make_proper(x) if parameters == Distribution() else None
        model.start(x, parameters)
        fit = lightning.Trainer(max_epochs=5, logger=False, enable_checkpointing=False, **QUIET)
        fit.fit(trainer, loader)
        assert len(trainer.history) == 5
        ends.append(model.components.mean)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)


def test_a_plateau_lowers_the_rate():
    module = VAE(pair(), scheduler=lambda o: ReduceLROnPlateau(o, patience=0, threshold=1e9))
    trainer = lightning.Trainer(max_epochs=4, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(module, datamodule=Data(ROWS, batch_size=10))
    assert trainer.optimizers[0].param_groups[0]["lr"] < 1e-3
