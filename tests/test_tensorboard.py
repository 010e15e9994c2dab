"""What TensorBoard itself reads of a sweep: one column for whatever differs, the same scores for all, curves over examples seen, a layout, a cloud of latents."""

import math
import signal
import sys

import numpy as np
import pytest
import torch
import yaml
from google.protobuf import text_format
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import backend_context, metadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from emgen.callbacks import Projector
from emgen.cli import entry
from emgen.cli.commands import load_run
from emgen.cli.hyperparameters import distinguishing
from emgen.data import digits
from emgen.options import option

ROWS, TRAIN = 200, 120  # of the images, of which two fifths are held out
SMALL = [
    "model.hidden=[6]",
    "model.latent=2",
    "critic.hidden=[6]",
    "data=file",
    "data.batch_size=40",
    "data.validation=0.2",
    "data.test=0.2",
    "data.binarise=dynamic",
    "evaluation.samples=3",
    "evaluation.draws=50",
    "callbacks.metrics.samples=2",
    "callbacks.figures=null",
    "callbacks.progress=null",
    "lightning.accelerator=cpu",
    "lightning.max_epochs=2",
]
SCORES = {f"test/{name}" for name in ("log_likelihood", "elbo", "gap", "ess", "fid", "kid", "mmd")}
SCORES |= {f"total/{name}" for name in ("seconds", "examples_per_second", "epochs", "parameters")}


def emgen(*arguments):
    with pytest.raises(SystemExit) as exit:
        entry.main(arguments)
    assert not exit.value.code


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A sweep over a learning rate, of which one value is the default, and one run of another trainer."""
    place = tmp_path_factory.mktemp("tensorboard")
    rows = np.random.default_rng(0).random((ROWS, 1, 4, 4)).astype("float32")
    np.save(place / "rows.npy", rows)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", ["emgen"])
        patch.setattr(entry, "_failures", [])
        small = [*SMALL, f"data.path={place / 'rows.npy'}"]
        emgen("-m", "trainer.optimizer.lr=0.001,0.01", *small, "paths.sweep_dir=runs")
        emgen("trainer=fgan", "trainer.penalty.weight=3", *small, "paths.run_dir=runs/a")
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    return place / "runs"


def events(run):
    return EventAccumulator(str(run), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def runs(root):
    """The sweep's two runs by their learning rate."""
    found = sorted(path.parent for path in root.glob("vae-*/*/config.yaml"))
    rates = [yaml.safe_load((run / "config.yaml").read_text()) for run in found]
    return {config["trainer"]["optimizer"]["lr"]: run for config, run in zip(rates, found)}


def settings(run):
    content = events(run).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    return {
        name: value.number_value if value.HasField("number_value") else value.string_value
        for name, value in values.items()
    }


def test_every_job_of_a_sweep_shows_what_was_swept(root):
    found = runs(root)
    assert set(found) == {0.001, 0.01}
    for rate, run in found.items():
        table = settings(run)
        assert table["trainer.optimizer.lr"] == rate
        assert (table["trainer"], table["model"], table["data"]) == ("vae", "dense", "file")
        assert table["model.hidden"] == "[6]" and table["seed"] == 0
        assert not [name for name in table if name.startswith(("critic", "paths", "logger"))]
    table = settings(root / "a")
    assert table["trainer.penalty.weight"] == 3 and table["trainer.divergence"] == "kl"
    assert table["critic.hidden"] == "[6]" and "trainer.optimizer.lr" not in table


def test_tensorboards_table_has_a_column_for_all_that_any_run_has(root):
    """Its backend takes a run's own list of columns for that of all; ours write none."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(root))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(root))
    backend = backend_context.Context(TBContext(data_provider=provider))
    request = RequestContext()
    known = backend.hparams_metadata(request, "")
    experiment = backend.experiment_from_metadata(request, "", True, known, [])
    columns = {info.name: info.differs for info in experiment.hparam_infos}
    assert columns["trainer"] and columns["trainer.optimizer.lr"]
    assert {"trainer.penalty.weight", "model.hidden", "lightning.max_epochs"} <= set(columns)
    assert {info.name.tag for info in experiment.metric_infos} >= SCORES


def test_scores_are_the_same_for_all_and_stand_at_the_examples_seen(root):
    for run in (*runs(root).values(), root / "a"):
        read = events(run)
        shared = ("train/loss", "val/log_likelihood", "val/elbo", "val/gap")
        tags = set(read.Tags()["scalars"])
        assert SCORES <= tags
        for tag in SCORES:
            (point,) = read.Scalars(tag)
            assert point.step == 2 * TRAIN and math.isfinite(point.value)
        for tag in (*shared, "train/elbo") if "train/elbo" in tags else shared:
            assert [point.step for point in read.Scalars(tag)] == [TRAIN, 2 * TRAIN]


def test_the_layout_overlays_the_curves_that_trainers_share(root):
    (tensor,) = events(root / "a").Tensors("custom_scalars__config__")
    layout = Layout.FromString(tensor.tensor_proto.string_val[0])
    tags = [tag for chart in layout.category[0].chart for tag in chart.multiline.tag]
    assert {"train/elbo", "train/loss", "val/log_likelihood"} <= set(tags)
    known = [set(events(run).Tags()["scalars"]) for run in (*runs(root).values(), root / "a")]
    assert all(set(tags) - {"train/elbo"} <= tags_of_run for tags_of_run in known)
    assert "train/elbo" in known[0]  # the game of the last has no bound on the training rows


def test_the_projector_holds_the_encoders_means_of_the_validation_rows(root):
    run = root / "a"
    config = ProjectorConfig()
    text_format.Parse((run / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    held = np.loadtxt(run / embedding.tensor_path)
    model, data, _ = load_run(run, "last")
    x = data.observed("validation")
    with torch.no_grad():
        means = model.recognition(x).mean
    assert np.allclose(held[:, :2], means.cpu().numpy(), atol=1e-5)
    assert held.shape == (ROWS // 5, 3) and not held[:, 2].any()  # it draws in three dimensions
    assert (run / embedding.sprite.image_path).exists()
    assert list(embedding.sprite.single_image_dim) == [4, 4]


def test_labels_are_those_of_the_rows():
    """Each split's label belongs to its image, whatever the seed has put where."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    known = {image.tobytes(): label for image, label in zip(bunch.images, bunch.target)}
    for data in (digits(seed=3, validation=50), digits(validation=0, test=10)):
        for split in data.rows:
            images = (data.split(split)[:, 0] * 16).double().numpy()
            assert data.labels[split] == [known[image.tobytes()] for image in images]


def test_a_cloud_of_a_few_points_is_refused():
    with pytest.raises(ValueError, match="rows=3: a cloud of points needs 20 or more"):
        Projector(rows=3)


# ---- what distinguishes a run ------------------------------------------------------------------


def config(trainer="vae", **other):
    parts = {"trainer": option("trainer", trainer), "model": option("model", "dense")}
    return {**parts, "seed": 0, "paths": {"run_dir": "runs/x"}, **other}


def test_an_option_as_it_is_has_nothing_to_tell():
    assert distinguishing(config(), {"trainer": "vae", "model": "dense"}) == {}


def test_whatever_is_not_the_default_is_told_and_what_was_asked_for_always():
    changed = config(lightning=option("lightning", "default"), evaluation={"samples": 200})
    changed["trainer"]["free_energy"]["beta"] = 4.0
    changed["model"]["hidden"] = [6, 6]
    changed["lightning"]["max_time"] = None
    choices = {"trainer": "vae", "model": "dense", "lightning": "default"}
    asked = [
        "trainer.optimizer.lr=0.001",
        "++lightning.max_time=null",
        "evaluation.samples=200",
        "paths.run_dir=runs/x",
        "trainer=vae",
    ]
    assert distinguishing(changed, choices, asked) == {
        "trainer.free_energy.beta": 4.0,
        "trainer.optimizer.lr": 0.001,
        "model.hidden": "[6, 6]",
        "lightning.max_time": "null",
        "evaluation.samples": 200,
    }


def test_what_fills_a_place_of_a_part_is_told_by_its_name_and_by_what_differs_from_it():
    choices = {"trainer": "fgan", "model": "dense", "divergence@trainer.divergence": "alpha"}
    changed = config("fgan")
    changed["trainer"]["divergence"] = option("divergence", "alpha")
    assert distinguishing(changed, choices) == {"trainer.divergence": "alpha"}
    (key,) = [key for key in changed["trainer"]["divergence"] if key != "_target_"]
    changed["trainer"]["divergence"][key] = 0.25
    assert distinguishing(changed, choices)[f"trainer.divergence.{key}"] == 0.25


def test_of_an_option_of_ones_own_everything_is_told():
    own = {"_target_": "mymod.net", "width": 7}
    told = distinguishing(config(model=own), {"trainer": "vae", "model": "own"})
    assert told == {"model._target_": "mymod.net", "model.width": 7}
