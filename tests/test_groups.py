"""Groups that a Lightning and Hydra user expects: loggers, callbacks that add up, debugging runs,
schedules.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emgen.cli import main

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
