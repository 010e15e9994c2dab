"""Lightning's own tools with every trainer: what is recorded reaches its callbacks and loggers, and a batch is a batch."""

import csv
import math
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import emgen
from emgen import models
from emgen.callbacks import Metrics
from emgen.data import Data
from emgen.data.mapped import Mapped
from emgen.estimators.beliefs import Distribution, Point
from emgen.evaluation.codes import codes
from emgen.evaluation.scores import scores
from emgen.families import Gaussian
from emgen.objectives.base import Terms
from emgen.trainers import EM, GAN, VAE, Trainer, WakeSleep

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


def loader(rows, size=10, labels=False):
    columns = (rows, torch.arange(len(rows))) if labels else (rows,)
    return DataLoader(TensorDataset(*columns), batch_size=size)


def quiet_trainer(**arguments):
    arguments = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | arguments
    return lightning.Trainer(**QUIET, **arguments)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("name", TRAINERS)
def test_fit_validate_test_and_predict_take_any_loader(name, labels):
    rows, module = rows_of(name), made(name)
    trainer = quiet_trainer()
    trainer.fit(module, loader(rows, labels=labels), loader(rows[:25], labels=labels))
    assert "val/log_likelihood" in trainer.callback_metrics
    after = trainer.callback_metrics["val/log_likelihood"]

    [found] = trainer.validate(module, loader(rows[:25], 7), verbose=False)
    assert found["val/log_likelihood"] == pytest.approx(float(after), rel=1e-6)  # whatever the cut
    right = scores(module.model, rows[:25], 10, module.seed)
    assert found["val/log_likelihood"] == pytest.approx(right["log_likelihood"].value, rel=1e-6)

    [found] = trainer.test(module, loader(rows[:25]), verbose=False)
    right = scores(module.model, rows[:25], 200, module.seed)
    for key, estimate in right.items():
        assert found[f"test/{key}"] == pytest.approx(estimate.value, rel=1e-5)
        if math.isfinite(estimate.error):
            assert found[f"test/{key}_error"] == pytest.approx(estimate.error, rel=1e-5)

    found = torch.cat(trainer.predict(module, loader(rows, labels=labels)))
    q = module(rows)
    expected = q.probs if name == "em" else q.mean
    assert torch.allclose(found, expected.detach(), atol=1e-4)


@pytest.mark.parametrize("name", ["vae", "em"])
def test_our_data_bring_their_own_loaders_of_every_split(name):
    rows, module = rows_of(name), made(name)
    data = Data(rows, rows[:25], rows[25:], batch_size=10)
    trainer = quiet_trainer(num_sanity_val_steps=2)
    trainer.fit(module, datamodule=data)
    right = scores(module.model, rows[:25], 10, module.seed)["log_likelihood"].value
    assert float(trainer.callback_metrics["val/log_likelihood"]) == pytest.approx(right, rel=1e-6)
    [found] = trainer.test(module, datamodule=data, verbose=False)
    right = scores(module.model, rows[25:], 200, module.seed)["log_likelihood"].value
    assert found["test/log_likelihood"] == pytest.approx(right, rel=1e-6)
    assert sum(len(z) for z in trainer.predict(module, datamodule=data)) == 35
    with pytest.raises(ValueError, match="no test rows"):
        trainer.test(module, datamodule=Data(rows, batch_size=10), verbose=False)


def test_rows_that_stay_in_a_file_are_validated_and_tested():
    rows, module = rows_of("em"), made("em")
    held, trainer = Mapped(rows[:25]), quiet_trainer()
    trainer.fit(module, datamodule=Data(rows, held, held, batch_size=10))
    [found] = trainer.test(module, datamodule=Data(rows, held, held, batch_size=10), verbose=False)
    right = scores(module.model, rows[:25], 200, module.seed)["log_likelihood"].value
    assert float(trainer.callback_metrics["test/log_likelihood"]) == pytest.approx(right, rel=1e-6)
    assert found["test/log_likelihood"] == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("name", TRAINERS)
def test_validation_leaves_training_as_it_is(name):
    """Neither the rate of validation nor the check before the first epoch moves a weight."""
    runs = []
    for extra in ({}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 0.5}):
        module = made(name)
        validation = None if not extra else loader(rows_of(name)[:20])
        quiet_trainer(**extra).fit(module, loader(rows_of(name)), validation)
        runs.append(module.state_dict())
    for other in runs[1:]:
        assert all(torch.equal(other[key], value) for key, value in runs[0].items())


def test_a_model_that_infers_nothing_says_so():
    module = GAN(models.LocationScale((4,)), models.dense_critic((4,), hidden=(5,)))
    with pytest.raises(TypeError, match="recognition"):
        module(torch.zeros(2, 4))


def test_codes_of_chains_topics_and_layers():
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    x[1, 3:] = torch.nan
    chain = models.HiddenMarkovModel(Gaussian.flat(2, 2))
    emgen.fit(chain, x, "em", max_epochs=2)
    found = codes(chain, x)
    assert found.shape == (3, 5, 2) and bool(found[1, 3:].isnan().all())
    assert torch.allclose(found[0].sum(-1), torch.ones(5))

    net = models.helmholtz_machine((1, 4, 4), layers=(3, 2))
    below, above = codes(net, ROWS[:4])
    assert below.shape == (4, 3) and above.shape == (4, 2)
    assert torch.allclose(below, net.recognition(ROWS[:4]).first.mean)


class Squares(torch.nn.Module):
    """A decoder whose loss has no draws, so that a step is a function of the rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = torch.nn.Linear(4, 4, dtype=torch.float64)


class Regression(Trainer):
    """Least squares, by descent: a trainer of one deterministic loss."""

    def __init__(self, accumulate=1, clip=None):
        sgd = partial(torch.optim.Adam, lr=0.1)
        super().__init__(Squares(), optimizers={"model": sgd}, accumulate=accumulate, clip=clip)

    def training_step(self, batch, index):
        x = self.observe(batch)
        loss = (self.model.network(x) - x).square().sum(-1).mean()
        self.descend("model", Terms(loss, {"square": loss.detach()}))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_accumulated_batches_are_one_batch_of_all_their_rows(clip):
    x = torch.randn(26, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole, parts = Regression(clip=clip), Regression(accumulate=4, clip=clip)
    quiet_trainer(max_epochs=3).fit(whole, loader(x, 8))
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(parts, loader(x, 2))
    assert trainer.global_step == 3 * 4  # 26 rows are three batches of eight and one of two
    for a, b in zip(whole.parameters(), parts.parameters()):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["vae", "gan", "wake_sleep"])
def test_a_run_cut_between_accumulated_batches_is_the_same_run(tmp_path, name):
    def build():
        torch.manual_seed(0)
        if name == "gan":
            critic = models.dense_critic((1, 4, 4), hidden=(5,))
            return GAN(pair(), critic, accumulate=4)
        return {"vae": VAE, "wake_sleep": WakeSleep}[name](pair(), accumulate=4)

    class Cut(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if index == 1:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")

    whole, resumed = build(), build()
    quiet_trainer(max_epochs=1, callbacks=[Cut()]).fit(whole, datamodule=Data(ROWS, batch_size=10))
    quiet_trainer(max_epochs=1, callbacks=[Cut()]).fit(
        resumed,
        datamodule=Data(ROWS, batch_size=10),
        ckpt_path=tmp_path / "cut.ckpt",
        weights_only=True,
    )
    for a, b in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_number_of_batches_is_a_number_of_batches(k):
    with pytest.raises(ValueError, match="accumulate"):
        VAE(pair(), accumulate=k)
