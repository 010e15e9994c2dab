"""Pictures: the same noise every time, the run undisturbed, any model that can be drawn."""

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.distributions import Categorical, Independent

from emgen.callbacks import Figures
from emgen.data import Data
from emgen.figures.samples import _seen_of, draw, picture, samples_of
from emgen.models.deep.latent_variable import dense
from emgen.trainers import VAE


def fit(data, folder, callbacks, epochs=3, logger=False):
    torch.manual_seed(0)
    module = VAE(dense(tuple(data.event_shape), latent=2, hidden=(8,)))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        default_root_dir=str(folder),
        logger=logger,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)
    return module


def test_a_run_is_the_same_bit_for_bit_with_and_without_pictures(tiny_digits, tmp_path):
    drawn = fit(tiny_digits, tmp_path, [Figures(every_n_epochs=1)])
    plain = fit(tiny_digits, tmp_path, [])
    assert all(
        torch.equal(a, b) for a, b in zip(drawn.state_dict().values(), plain.state_dict().values())
    )
    assert drawn.training and drawn.model.training


@pytest.mark.parametrize(("every", "steps"), [(2, [60, 120, 180]), (3, [60, 180]), (9, [60, 180])])
def test_grids_are_written_and_logged_by_examples_seen(tiny_digits, tmp_path, every, steps):
    """The first epoch, every n-th and the last, once each."""
    logger = lightning.loggers.TensorBoardLogger(tmp_path, name="", version="")
    fit(tiny_digits, tmp_path, [Figures(every_n_epochs=every)], epochs=3, logger=logger)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    for name in ("samples", "reconstructions"):
        assert imread(tmp_path / "figures" / f"{name}.png").ndim == 3
        assert [image.step for image in events.Images(name)] == steps


def test_fixed_noise_draws_the_same_picture_twice(tiny_digits, tmp_path):
    """Whatever the global random state is, which stays as it was."""
    figures = Figures(n=4)
    module = fit(tiny_digits, tmp_path, [figures], epochs=1)
    drawn = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        figures._draw(module.trainer, module, seed)
        assert torch.equal(before, torch.get_rng_state())
        drawn.append(imread(tmp_path / "figures" / "samples.png"))
    assert np.array_equal(*drawn)


def test_reconstructions_stand_below_what_was_seen():
    seen, below = torch.ones(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    pixels = picture(below, torch.tensor([0.0, 1.0]), seen)
    height = (pixels.shape[0] - 6) // 2
    assert (pixels[3 : 3 + height, 3:59] == 255).all() and (
        pixels[3 + height : 3 + 2 * height, 3:59] == 0
    ).all()


def test_black_and_white_are_the_range_of_the_data():
    x = torch.tensor([-1.0, 0.0, 3.0]).view(3, 1, 1, 1).expand(-1, 3, 8, 8)
    pixels = picture(x, torch.tensor([-1.0, 3.0]))
    assert [pixels[10, column, 0] for column in (10, 69, 128)] == [0, 63, 255]


def test_filters_run_from_black_to_white_however_small_the_weights(tmp_path):
    from emgen.models import BoltzmannMachine
    from emgen.trainers import CD

    machine = BoltzmannMachine((1, 4, 4), 2)
    with torch.no_grad():
        machine.weight.copy_(torch.linspace(-0.01, 0.02, 32).view(16, 2))
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=[Figures()],
        default_root_dir=str(tmp_path),
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        CD(machine, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0)),
        datamodule=Data(torch.rand(20, 1, 4, 4).round()),
    )
    pixels = imread(tmp_path / "figures" / "filters.png")
    assert pixels.min() == 0 and pixels.max() == 1


def test_points_are_scattered_and_other_shapes_skipped(tmp_path):
    points = torch.randn(40, 2)
    assert draw(points, points, tmp_path / "points.png") == tmp_path / "points.png"
    assert imread(tmp_path / "points.png").shape[:2] == (480, 480)
    assert picture(points + 0.1, points, points).shape == (480, 480, 3)
    assert draw(torch.randn(4, 7), torch.randn(9, 7), tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_shapes_beyond_pictures_are_named_once(tmp_path, caplog):
    data = Data((torch.rand(20, 7) < 0.5).float(), batch_size=10)
    with caplog.at_level("INFO", logger="emgen.callbacks.figures"):
        fit(data, tmp_path, [Figures(every_n_epochs=1)])
    said = [
        record.getMessage() for record in caplog.records if record.name == "emgen.callbacks.figures"
    ]
    assert len(said) == 2 and all("data of shape (7,)" in text for text in said)
    assert not (tmp_path / "figures").exists()


def test_a_likelihood_without_a_mean_is_drawn_by_its_samples():
    p = Independent(Categorical(logits=torch.zeros(2, 1, 4, 4, 3)), 3)
    assert not p.mean.isfinite().all() and _seen_of(p).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("options", [{"every_n_epochs": 0}, {"n": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        Figures(**options)


def test_a_model_that_only_samples_is_drawn():
    class Sampler(nn.Module):
        def sample(self, n):
            return torch.zeros(n, 2)

    assert samples_of(Sampler(), 5).shape == (5, 2)
    assert samples_of(nn.Identity(), 5) is None
