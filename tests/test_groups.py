"""Groups that a Lightning and Hydra user expects: loggers, callbacks that add up, debugging runs,
schedules.
"""

import contextlib
import csv
import json
import math
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emgen import models, schedules
from emgen.callbacks import EMA, Metrics
from emgen.cli import composer, main
from emgen.cli.checks import check_ranges
from emgen.cli.commands import load_run
from emgen.data import Data, file
from emgen.errors import UserError
from emgen.trainers import GAN, VAE, WakeSleep

SMALL = [
    "data=file",
    "data.path=rows.npy",
    "data.batch_size=20",
    "data.binarise=dynamic",
    "model.hidden=[5]",
    "model.latent=2",
    "lightning.max_epochs=2",
    "lightning.accelerator=cpu",
    "callbacks.metrics.samples=2",
    "callbacks.figures=null",
    "callbacks.progress=null",
    "evaluation.samples=2",
    "paths.run_dir=run",
]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own with some grey images in it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("rows.npy", rng.random((60, 1, 4, 4)).astype("float32"))
    return tmp_path


def emgen(*arguments):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code


def table(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- loggers -----------------------------------------------------------------------------------


def test_several_loggers_get_the_same_rows_the_test_scores_and_the_configuration():
    assert emgen(*SMALL, "logger=[tensorboard,csv]") == 0
    rows = table("run/csv/metrics.csv")
    epochs = [row for row in rows if row["train/loss"]]
    kept = EventAccumulator("run").Reload()
    for tag in ("train/loss", "val/log_likelihood"):
        seen = [(event.step, event.value) for event in kept.Scalars(tag)]
        assert seen == [(int(row["step"]), pytest.approx(float(row[tag]))) for row in epochs]
    scores = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert float(rows[-1]["test/log_likelihood"]) == scores["test/log_likelihood"]
    assert kept.Scalars("test/log_likelihood")[-1].value == pytest.approx(
        scores["test/log_likelihood"]
    )
    assert "lr: 0.001" in Path("run/csv/hparams.yaml").read_text()


def test_a_resumed_run_keeps_the_rows_it_has():
    assert emgen(*SMALL, "logger=csv") == 0
    before = table("run/csv/metrics.csv")
    assert emgen("resume=run", "lightning.max_epochs=3") == 0
    after = table("run/csv/metrics.csv")
    assert after[: len(before)] == before
    assert [row["step"] for row in after if row["train/loss"]] == ["48", "96", "144"]


@pytest.mark.parametrize("chosen", ["logger=none", "~logger", "logger=[]"])
def test_a_run_without_a_logger(place, chosen):
    assert emgen(*SMALL, chosen) == 0
    assert len(table("run/metrics.csv")) == 2 and not list(place.glob("run/events*"))


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_not_installed_says_how_to_get_it(
    place, capsys, monkeypatch, package
):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert emgen(*SMALL, f"logger={package}") == 2
    said = capsys.readouterr().err
    assert said == f"emgen: logger={package} needs {package}: pip install 'emgen[loggers]'.\n"
    assert not (place / "run").exists()


def test_each_run_of_a_sweep_logs_into_its_own_folder(place):
    sweep = [a for a in SMALL if not a.startswith("paths")]
    assert emgen("-m", *sweep, "logger=[csv]", "seed=1,2", "paths.sweep_dir=runs") == 0
    folders = sorted(file.parent for file in place.rglob("summary.json"))
    assert sorted(place.rglob("csv")) == [folder / "csv" for folder in folders]
    assert len(folders) == 2


def test_weights_and_biases_is_kept_offline_in_the_run_folder(place):
    pytest.importorskip("wandb")
    assert emgen(*SMALL, "logger=wandb") == 0
    (kept,) = place.glob("run/wandb/offline-run-*/*.wandb")
    content = kept.read_bytes()
    assert all(
        word in content for word in (b"train/elbo", b"val/log_likelihood", b"test/log_likelihood")
    )


def test_mlflow_is_kept_in_the_run_folder(place):
    tracking = pytest.importorskip("mlflow.tracking")
    assert emgen(*SMALL, "logger=mlflow") == 0
    client = tracking.MlflowClient("sqlite:///run/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'emgen'")
    (run,) = client.search_runs([experiment.experiment_id])
    scores = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert run.data.metrics["test/log_likelihood"] == scores["test/log_likelihood"]
    assert {"train/elbo", "val/log_likelihood"} <= set(run.data.metrics)
    assert run.data.params["trainer/optimizer/lr"] == "0.001"
    assert sorted(p.name for p in place.iterdir()) == ["rows.npy", "run"]


# ---- callbacks that add up ---------------------------------------------------------------------


def composed(*arguments):
    with composer() as compose:
        return compose("train", list(arguments))


def state(path="run/checkpoints/last.ckpt"):
    return torch.load(path, weights_only=True)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


ADDED = ["early_stopping", "ema", "lr_monitor", "rich_progress", "top_k"]


@pytest.mark.parametrize("chosen", [*ADDED, f"[{','.join(ADDED)}]", "[default,ema]"])
def test_a_callback_comes_on_top_of_those_of_every_run(chosen):
    named = set(chosen.strip("[]").split(",")) - {"default"}
    kept = set(composed(f"callbacks={chosen}").callbacks)
    assert kept == {"metrics", "figures", "projector", "progress", "checkpoint"} | named


def test_all_of_them_run_together_and_a_resume_knows_them():
    added = f"callbacks=[{','.join(ADDED)}]"
    assert emgen(*SMALL, added, "callbacks.early_stopping.patience=5", "logger=csv") == 0
    assert len(list(Path("run/checkpoints").glob("top-*.ckpt"))) == 2
    assert any(row["lr-Adam"] == "0.001" for row in table("run/csv/metrics.csv"))
    assert emgen("resume=run", "lightning.max_epochs=4") == 0
    assert len(list(Path("run/checkpoints").glob("top-*.ckpt"))) == 3
    assert len(table("run/metrics.csv")) == 4


def test_a_run_stops_early_where_its_tag_no_longer_improves():
    never = ["callbacks.early_stopping.min_delta=1e9", "callbacks.early_stopping.patience=1"]
    base = [*SMALL, "callbacks=early_stopping", "lightning.max_epochs=9", *never]
    assert emgen(*base) == 0
    assert [row["epoch"] for row in table("run/metrics.csv")] == ["1", "2"]
    assert json.loads(Path("run/summary.json").read_text())["epochs"] == 2
    assert "test/log_likelihood" in json.loads(Path("run/summary.json").read_text())["metrics"]


def test_patience_counts_the_epochs_that_score_the_validation_rows():
    never = ["callbacks.early_stopping.min_delta=1e9", "callbacks.early_stopping.patience=1"]
    base = [*SMALL, "callbacks=[early_stopping,top_k]", "lightning.max_epochs=20", *never]
    assert emgen(*base, "callbacks.metrics.every_n_epochs=3") == 0
    assert len(table("run/metrics.csv")) == 6
    kept = sorted(p.name[:8] for p in Path("run/checkpoints").glob("top-*.ckpt"))
    assert kept == ["top-0002", "top-0005"]


@pytest.mark.parametrize("callback", ["early_stopping", "top_k"])
def test_a_tag_that_is_not_recorded_is_told(capsys, callback):
    assert emgen(*SMALL, f"callbacks={callback}", f"callbacks.{callback}.monitor=val/likelihood")
    assert "monitor=val/likelihood is not recorded: choose one of" in capsys.readouterr().err
    bad = [f"callbacks={callback}", f"callbacks.{callback}.monitor=train/loss"]
    assert emgen(*SMALL, *bad, "paths.run_dir=other") == 2
    assert "a loss is better when it is smaller" in capsys.readouterr().err


def test_the_best_epochs_are_kept_through_a_resume_and_a_move(place):
    base = [*SMALL, "callbacks=top_k", "callbacks.top_k.save_top_k=2", "trainer.optimizer.lr=.05"]
    assert emgen(*base, "lightning.max_epochs=6") == 0
    whole = sorted(p.name for p in place.glob("run/checkpoints/top-*"))
    values = [float(row["val/log_likelihood"]) for row in table("run/metrics.csv")]
    best = sorted(np.argsort(values)[-2:])
    assert [int(name[4:8]) for name in whole] == list(best)

    assert emgen(*base, "lightning.max_epochs=3", "paths.run_dir=first") == 0
    (place / "first").rename(place / "moved")
    assert emgen("resume=moved", "lightning.max_epochs=6") == 0
    assert sorted(p.name for p in place.glob("moved/checkpoints/top-*")) == whole


# ---- the average of the weights ----------------------------------------------------------------


def test_without_decay_the_average_is_no_average():
    assert emgen(*SMALL) == 0
    assert emgen(*SMALL, "callbacks=ema", "callbacks.ema.decay=0", "paths.run_dir=ema") == 0
    plain, averaged = state(), state("ema/checkpoints/last.ckpt")
    assert equal(plain["state_dict"], averaged["state_dict"])
    columns = {"seconds"}
    for a, b in zip(table("run/metrics.csv"), table("ema/metrics.csv"), strict=True):
        assert {k: v for k, v in a.items() if k not in columns} == {
            k: v for k, v in b.items() if k not in columns
        }


@pytest.mark.parametrize("trainer", ["vae", "wake_sleep", "gan"])
def test_the_average_is_that_of_the_weights_after_each_step(trainer):
    """The optimiser's own weights, watched step by step, averaged by hand."""
    ema, watch = EMA(decay=0.6), Watching()
    module = fit(trainer, [watch, ema])
    average = watch.seen[0]
    for t, weights in enumerate(watch.seen[1:], start=1):
        beta = min(0.6, (1 + t) / (10 + t))
        average = {name: beta * average[name] + (1 - beta) * w for name, w in weights.items()}
    assert len(watch.seen) == 1 + 12
    for name, p in module.model.named_parameters():
        torch.testing.assert_close(p.detach(), average[name], rtol=1e-12, atol=1e-12)
    plain = fit(trainer, [])
    assert all(
        torch.equal(w, watch.seen[-1][name]) for name, w in plain.model.named_parameters()
    )  # training itself goes on as if nobody averaged


def test_an_averaged_run_resumes_bit_for_bit_and_is_what_is_scored_and_exported():
    base = [*SMALL, "callbacks=ema", "trainer=gan", "critic.hidden=[4]"]
    assert emgen(*base, "lightning.max_epochs=4") == 0
    assert emgen(*base, "paths.run_dir=half") == 0
    assert emgen("resume=half", "lightning.max_epochs=4") == 0
    whole, resumed = state(), state("half/checkpoints/last.ckpt")
    assert equal(whole["state_dict"], resumed["state_dict"])
    assert equal(whole["ema"]["trained"], resumed["ema"]["trained"])
    assert whole["ema"]["steps"] == resumed["ema"]["steps"] == 12
    name = "model.decoder.network.layers.0.weight"
    assert not torch.equal(whole["state_dict"][name], whole["ema"]["trained"][name[6:]])

    assert emgen("export", "run=run", "checkpoint=last") == 0
    assert torch.equal(
        load_file("run/export/model.safetensors")[name[6:]], whole["state_dict"][name]
    )
    assert emgen("evaluate", "run=run", "checkpoint=last", "samples=2", "draws=null") == 0
    scores = json.loads(Path("run/evaluation.json").read_text())["metrics"]
    summary = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert scores["test/log_likelihood"]["value"] == summary["test/log_likelihood"]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [("callbacks=ema", "nothing to average"), ("scheduler=cosine", "EM takes no gradient steps")],
)
def test_a_closed_form_has_no_weights_to_average_and_no_rates(place, capsys, chosen, said):
    em = ["trainer=em", "model=bernoulli_mixture", "data=digits", "paths.run_dir=run"]
    assert emgen(*em, chosen) == 2
    assert said in capsys.readouterr().err
    assert not (place / "run").exists()


class Watching(lightning.Callback):
    """The weights before training and after each step."""

    def on_train_start(self, trainer, pl_module):
        keep = lambda: {n: p.detach().clone() for n, p in pl_module.model.named_parameters()}
        self.seen = [keep()]
        pl_module.after_step.append(lambda: self.seen.append(keep()))


def fit(trainer, callbacks, epochs=4, scheduler=None):
    """A fit of three batches an epoch in double precision."""
    torch.manual_seed(0)
    x = (torch.rand(60, 1, 4, 4) < 0.5).double()
    model = models.dense((1, 4, 4), hidden=(5,), latent=2).double()
    made = {
        "vae": lambda: VAE(model, scheduler=scheduler),
        "wake_sleep": lambda: WakeSleep(model, scheduler=scheduler),
        "gan": lambda: GAN(model, models.dense_critic((1, 4, 4), hidden=(5,)).double()),
    }
    module = made[trainer]()
    run = lightning.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    run.fit(module, datamodule=Data(x, batch_size=20))
    return module


# ---- learning rates ----------------------------------------------------------------------------


class Rates(lightning.Callback):
    """The rate of the first optimiser at each step."""

    def on_train_start(self, trainer, pl_module):
        self.seen, optimizer = [], trainer.optimizers[0]
        optimizer.register_step_pre_hook(lambda o, *_: self.seen.append(o.param_groups[0]["lr"]))


@pytest.mark.parametrize("trainer", ["vae", "wake_sleep"])
@pytest.mark.parametrize(
    ("scheduler", "shares"),
    [
        (partial(schedules.warmup, length=2), [0.5] * 3 + [1.0] * 9),
        (
            partial(schedules.warmup, length=5, interval="step"),
            [0.2, 0.4, 0.6, 0.8] + [1.0] * 8,
        ),
        (
            partial(schedules.linear, epochs=4, final=0.2),
            [s for s in (1, 0.8, 0.6, 0.4) for _ in "abc"],
        ),
        (
            partial(schedules.cosine, epochs=4),
            [(1 + math.cos(math.pi * t / 4)) / 2 for t in range(4) for _ in "abc"],
        ),
        (
            partial(schedules.cosine, epochs=4, warmup=2, final=0.5),
            [s for s in (0.5, 1.0, 1.0, 0.75) for _ in "abc"],
        ),
    ],
)
def test_rates_follow_their_schedule(trainer, scheduler, shares):
    rates = Rates()
    fit(trainer, [rates], scheduler=scheduler)
    assert rates.seen == pytest.approx([1e-3 * share for share in shares], rel=1e-12)


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val/log_likelihood", "max"), ("train/loss", "min")]
)
def test_a_plateau_is_looked_for_when_its_tag_is_recorded(monitor, mode):
    never = partial(
        schedules.plateau, monitor=monitor, mode=mode, patience=0, factor=0.5, threshold=1e9
    )
    rates, every = Rates(), 2 if monitor.startswith("val") else 1
    fit("vae", [rates, Metrics(every, samples=2)], epochs=6, scheduler=never)
    falls = [0, 0, 0, 0, 1, 1] if every == 2 else [0, 0, 1, 2, 3, 4]
    assert rates.seen[::3] == pytest.approx([1e-3 * 0.5**fall for fall in falls], rel=1e-12)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "warmup", "plateau"])
def test_a_schedule_is_chosen_by_name_and_resumes_bit_for_bit(name):
    base = [*SMALL, f"scheduler={name}"]
    if name in ("cosine", "linear"):
        base.append("trainer.scheduler.epochs=4")
    assert emgen(*base, "lightning.max_epochs=4") == 0
    assert emgen(*base, "paths.run_dir=half") == 0
    assert emgen("resume=half", "lightning.max_epochs=4") == 0
    assert equal(state()["state_dict"], state("half/checkpoints/last.ckpt")["state_dict"])


def test_what_is_chosen_replaces_the_schedule_of_an_experiment():
    assert composed("experiment=mnist_vae").trainer.scheduler.epochs == 60
    assert composed("experiment=mnist_vae", "scheduler=constant").trainer.scheduler is None
    assert composed("experiment=level9_fgan", "scheduler=plateau").trainer.scheduler.patience == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scheduler=warmup", "trainer.scheduler.length=0"], "a warm-up takes at least one epoch"),
        (["scheduler=warmup", "trainer.scheduler.interval=batch"], "every epoch or every step"),
        (
            ["scheduler=cosine", "trainer.scheduler.warmup=9"],
            "at least one epoch after the warm-up",
        ),
        (["scheduler=linear", "trainer.scheduler.final=2"], "lies in [0, 1]"),
        (["scheduler=plateau", "trainer.scheduler.monitor=train/loss"], "give mode=min"),
        (["scheduler=cosin"], "nearest: cosine"),
        (["callbacks=[ema,top]"], "there is no callbacks=top"),
        (["callbacks=ema", "callbacks.ema.decay=1"], "decay=1: the share of the past"),
    ],
)
def test_what_no_schedule_or_callback_takes_is_refused(place, capsys, arguments, said):
    assert emgen(*SMALL, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (place / "run").exists()


# ---- debugging ---------------------------------------------------------------------------------


def test_a_fast_run_tries_everything_once_and_looks_unfinished(place, capsys):
    assert emgen(*SMALL, "debug=fast") == 0
    assert json.loads(Path("run/status.json").read_text())["status"] == "debug"
    assert not (place / "run/summary.json").exists() and not (place / "run/checkpoints").exists()
    assert "log-likelihood" not in capsys.readouterr().out
    assert emgen("evaluate", "run=run") == 2


def test_an_overfitting_run_sees_the_same_rows_every_epoch():
    assert emgen(*SMALL, "debug=overfit", "lightning.max_epochs=3", "data.batch_size=12") == 0
    assert [row["examples"] for row in table("run/metrics.csv")] == ["24", "48", "72"]
    seen = []
    for epoch in range(3):
        trainer = lightning.Trainer(
            max_epochs=3, overfit_batches=2, logger=False, accelerator="cpu"
        )
        data = Data(torch.arange(60.0)[:, None], batch_size=12)
        data.trainer = SimpleNamespace(
            **{k: getattr(trainer, k) for k in LOADER}, lightning_module=torch.nn.Linear(1, 1)
        )
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        seen.append(torch.stack([next(iter(block)).x for block in loader]))
    assert all(torch.equal(seen[0], x) for x in seen)


LOADER = (
    "callbacks",
    "global_rank",
    "limit_train_batches",
    "max_steps",
    "overfit_batches",
    "profiler",
    "val_check_interval",
    "world_size",
)


def test_a_limited_run_is_short():
    assert emgen(*SMALL, "debug=limit", "lightning.limit_train_batches=1") == 0
    assert [float(row["examples"]) for row in table("run/metrics.csv")] == [20.0, 40.0]


def test_a_profiled_run_leaves_its_report_in_the_run_folder():
    assert emgen(*SMALL, "debug=profile") == 0
    assert "run_training_epoch" in Path("run/profile/fit-simple.txt").read_text()


# ---- what a key is -----------------------------------------------------------------------------

OWN = """
import pytorch_lightning as L
class Mine(L.Callback):
    def __init__(self, lr=None, seed=None, tol=0, k=0, n=0, betas=None, fill=0.0): self.lr = lr
"""


@pytest.mark.parametrize(
    "given",
    ["lr=null", "lr=-1", "seed=null", "seed=-1", "tol=-1", "k=0", "n=null", "betas=2", "fill=nan"],
)
def test_a_callback_of_the_users_own_means_what_it_likes(place, given):
    (place / "mine_own.py").write_text(OWN)
    own = ["+callbacks.optimizer._target_=mine_own.Mine", f"+callbacks.optimizer.{given}"]
    check_ranges(composed(*SMALL, *own))


def test_a_callback_may_be_called_what_it_likes():
    monitor = "+callbacks.lr._target_=pytorch_lightning.callbacks.LearningRateMonitor"
    assert emgen(*SMALL, monitor, "logger=csv") == 0
    assert "lr-Adam" in table("run/csv/metrics.csv")[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["trainer.optimizer.lr=0"], "trainer.optimizer.lr=0: a learning rate"),
        (["trainer=up_down", "trainer.fine_tuning.lr=-1"], "fine_tuning.lr=-1: a learning rate"),
        (["trainer=em", "trainer.lr=0"], "trainer.lr=0: a learning rate"),
        (["+trainer.optimizer.betas=[1,1]"], "trainer.optimizer.betas=[1, 1]: the shares"),
        (["data.seed=-1"], "data.seed=-1: a seed"),
        (
            ["callbacks.figures={_target_: emgen.callbacks.Figures, seed: -1}"],
            "figures.seed=-1: a seed",
        ),
        (["trainer.optimizer.lr=nan"], "is not a number"),
    ],
)
def test_a_number_of_ours_is_checked_wherever_it_stands(given, said):
    with pytest.raises(UserError) as refused:
        check_ranges(composed(*SMALL, *given))
    assert said in str(refused.value)


# ---- what a file of one's own brings -----------------------------------------------------------

QUICK = [
    "lightning.max_epochs=3",
    "lightning.accelerator=cpu",
    "callbacks.figures=null",
    "callbacks.progress=null",
    "paths.run_dir=run",
    "data=file",
    "data.shuffle=false",
]


def test_missing_values_are_left_out_exactly_from_the_command_line(capsys):
    x = np.random.default_rng(0).normal(size=(50, 2))
    x[::5, 1] = np.nan
    np.save("nan.npy", x)
    mixture = [*QUICK, "trainer=em", "model=gaussian_mixture", "data.path=nan.npy"]
    assert emgen(*mixture, "model.covariance=diagonal") == 2
    assert "where NaN is a value that was not observed, give data.missing=true" in (
        capsys.readouterr().err
    )
    assert emgen(*mixture, "model.covariance=diagonal", "data.missing=true") == 0
    model, data, _ = load_run("run")
    seen = data.split("test")
    row = seen[seen.isnan().any(1)][0].double()
    step = 1e-3
    every = torch.arange(-20.0, 20.0, step, dtype=torch.float64)
    whole = torch.stack([row[0].expand_as(every), every], 1)
    integral = model.double().log_prob(whole).logsumexp(0) + math.log(step)
    torch.testing.assert_close(model.log_prob(row[None])[0], integral, rtol=0, atol=1e-9)

    assert emgen(*mixture, "data.missing=true", "paths.run_dir=full") != 0
    assert "full covariances need complete rows" in capsys.readouterr().err
    dense = [
        *QUICK,
        "trainer=vae",
        "model=dense_gaussian",
        "data.path=nan.npy",
        "data.missing=true",
    ]
    assert emgen(*dense, "paths.run_dir=dense") == 2
    assert "a model needs finite values" in capsys.readouterr().err


def test_ragged_sequences_come_as_rows_padded_with_nan():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 12, 2))
    lengths = rng.integers(2, 13, size=20)
    for row, length in zip(x, lengths):
        row[length:] = np.nan
    np.savez("ragged.npz", train=x, test=x[:5])
    hmm = [*QUICK, "trainer=em", "model=hidden_markov_model", "data.path=ragged.npz"]
    assert (
        emgen(*hmm, "data.missing=true", "data.dtype=float64", "lightning.precision=64-true") == 0
    )
    model, data, _ = load_run("run")
    scores = json.loads(Path("run/summary.json").read_text())["metrics"]
    each = [model.log_prob(data.split("test")[i : i + 1, : lengths[i]]) for i in range(5)]
    assert scores["test/log_likelihood"] == pytest.approx(float(torch.cat(each).mean()), abs=1e-9)


def test_a_file_in_the_layout_of_keras_is_images():
    rng = np.random.default_rng(0)
    grey = {name: rng.integers(0, 255, (n, 8, 8), dtype=np.uint8) for name, n in SIZES.items()}
    labels = {name.replace("x", "y"): rng.integers(0, 9, n) for name, n in SIZES.items()}
    np.savez("mnist.npz", **grey, **labels)
    small = ["trainer=vae", "model=convolutional", "model.channels=[4,4]"]
    keras = [
        *QUICK,
        *small,
        "data.path=mnist.npz",
        "data.scale=255",
        "evaluation.samples=2",
        "data.binarise=dynamic",
    ]
    assert emgen(*keras) == 0
    _, data, _ = load_run("run")
    expected = torch.from_numpy(grey["x_test"])[:, None] / 255
    torch.testing.assert_close(data.split("test").cpu(), expected)

    colour = file_images(rng.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8))
    assert colour.event_shape == (3, 8, 8)


def file_images(x):
    np.savez("colour.npz", x_train=x, x_test=x)
    return file("colour.npz")


SIZES = {"x_train": 30, "x_test": 10}


def test_images_without_a_channel_axis_are_told_what_they_lack(capsys):
    np.save("flat.npy", np.random.default_rng(0).random((30, 8, 8)).astype("float32"))
    assert emgen(*QUICK, "trainer=vae", "model=convolutional", "data.path=flat.npy") == 2
    assert "lacks the axis of channels: store rows as (N, 1, 8, 8)" in capsys.readouterr().err


def test_integers_miss_nothing(capsys):
    np.save("nan.npy", np.zeros((5, 2)))
    assert emgen(*QUICK, "data.path=nan.npy", "data.missing=true", "data.dtype=int64") == 2
    assert "a missing value is NaN, which no integer is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "package"),
    [
        ("hparams_search=optuna", "hydra-optuna-sweeper"),
        ("hydra/launcher=joblib", "hydra-joblib-launcher"),
        ("hydra/launcher=submitit_slurm", "hydra-submitit-launcher"),
    ],
)
def test_a_sweep_whose_package_is_not_installed_says_how_to_get_it(capsys, asked, package):
    with contextlib.suppress(PackageNotFoundError):
        pytest.skip(f"{package} {version(package)} is installed")
    assert emgen("-m", *SMALL[:-1], asked) == 2
    assert f"needs {package}: pip install 'emgen[sweep]'" in capsys.readouterr().err
