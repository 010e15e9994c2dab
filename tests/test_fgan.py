"""f-GAN against the exact optimum, margin losses as critics, and the experiments of level 9."""

import csv
import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Normal

import emgen
from emgen import cli, data, models
from emgen.divergences import (
    GAN,
    KL,
    Alpha,
    FDivergence,
    HingeLoss,
    Jeffreys,
    JensenShannon,
    LogisticLoss,
    Neyman,
    Pearson,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
    f_projection,
)
from emgen.figures import preferred_gaussians as pictures
from emgen.models.deep.networks import ConvolutionalEncoder
from emgen.objectives import Adversarial, GradientPenalty, RothPenalty


def learn(divergence, rows, surrogate=None, epochs=12, seed=0):
    torch.manual_seed(seed)
    model = models.LocationScale((1,), loc=0.5, scale=2.0)
    critic = models.dense_critic((1,), hidden=(16, 16), activation="tanh", squares=True)
    falling = partial(
        torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.02, total_iters=epochs
    )
    emgen.fit(model, rows, "fgan", critic=critic, divergence=divergence, surrogate=surrogate, non_saturating=False,
              penalty=None, optimizer=partial(torch.optim.Adam, lr=0.02, betas=(0.5, 0.99)), scheduler=falling,
              max_epochs=epochs, seed=seed, device="cpu")  # fmt: skip
    return model, critic


class Own(FDivergence):
    def generator(self, u):
        return (u.sqrt() - 1) ** 2


@pytest.mark.parametrize(
    ("divergence", "surrogate"),
    [(KL(), None), (Own(), None), (TotalVariation(sharpness=3.0), HingeLoss())],
    ids=repr,
)
def test_f_gan_finds_the_optimum(divergence, surrogate):
    rows = data.line(
        weights=[0.4, 0.6], means=[-1.0, 1.5], sds=[0.6, 1.0], train=16_384, batch_size=512
    )
    model, _ = learn(divergence, rows, surrogate)
    density = rows.density
    target = torch.distributions.MixtureSameFamily(
        density.mixture_distribution,
        Normal(
            density.component_distribution.mean.squeeze(-1),
            density.component_distribution.stddev.squeeze(-1),
        ),
    )
    best = f_projection(target, divergence)
    learnt = Normal(
        model.loc.detach().squeeze().double(), model.log_scale.detach().exp().squeeze().double()
    )
    assert (
        abs(float(learnt.mean - best.mean)) < 0.04
        and abs(float(learnt.stddev / best.stddev) - 1) < 0.04
    )
    assert float(divergence.of(p=target, q=learnt)) < 1.02 * float(divergence.of(p=target, q=best))


def test_a_logistic_critic_plays_the_jensen_shannon_game():
    torch.manual_seed(0)
    critic = models.dense_critic((2,), hidden=(8,))
    x, samples = torch.randn(2, 64, 2)
    taught = Adversarial(LogisticLoss()).critic(critic, x, samples)
    torch.testing.assert_close(
        taught.loss, Adversarial(JensenShannon()).critic(critic, x, samples).loss
    )
    torch.testing.assert_close(taught.loss, Adversarial(GAN()).critic(critic, x, samples).loss)
    both, hinge, kl = (
        Adversarial(KL(), surrogate=HingeLoss()),
        Adversarial(HingeLoss()),
        Adversarial(KL()),
    )
    torch.testing.assert_close(
        both.critic(critic, x, samples).loss, hinge.critic(critic, x, samples).loss
    )
    torch.testing.assert_close(both.model(critic, samples).loss, kl.model(critic, samples).loss)


@pytest.mark.parametrize("divergence", [KL(), ReverseKL(), JensenShannon(), GAN(), Pearson(), Neyman(), SquaredHellinger(),
                                        Jeffreys(), Alpha(0.3), Own()], ids=repr)  # fmt: skip
def test_roth_penalty_is_what_noise_does_to_the_bound(divergence):
    """d/dγ of E_p[T] − E_q[f*(T)] with noise of variance γ on both sides and T held at its best is −Ω/2, by quadrature."""
    x, cell = torch.linspace(-14, 14, 20_001, dtype=torch.float64)[:, None], 28 / 20_000

    def densities(noise):
        means, variances = torch.tensor([[0.3, 0.0], [0.8 + noise, 1 + noise]], dtype=torch.float64)
        return [Normal(mean, variance.sqrt()) for mean, variance in zip(means, variances)]

    def critic(rows):
        p, q = densities(0.0)
        return (p.log_prob(rows) - q.log_prob(rows)).squeeze(-1)

    def bound(noise):
        p, q = (density.log_prob(x).exp().squeeze(-1) for density in densities(noise))
        return float(
            (
                p * divergence.activation(critic(x))
                - q * divergence.conjugate_of_activation(critic(x))
            ).sum()
            * cell
        )

    q = densities(0.0)[1].log_prob(x).exp().squeeze(-1)
    weighted = SimpleNamespace(
        conjugate_curvature=lambda v: len(x) * cell * q * divergence.conjugate_curvature(v)
    )
    omega = float(
        RothPenalty()(critic, x, x, weighted, 0.0).parts["penalty"]
    )  # a mean over the grid becomes an integral
    coarse, fine = ((bound(step) - bound(-step)) / (2 * step) for step in (2e-3, 1e-3))
    assert (4 * fine - coarse) / 3 == pytest.approx(-omega / 2, rel=1e-8)


@pytest.mark.parametrize(("where", "expected"), [("data", 2.5), ("samples", 17.0), ("both", 19.5)])
def test_gradient_penalty_is_the_mean_squared_slope_and_teaches_the_critic(where, expected):
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    critic = lambda x: scale * x.square().sum(1) / 2
    data, samples = (
        torch.tensor([[1.0, 2.0], [0.0, 0.0]]).double(),
        torch.tensor([[3.0, 0.0], [0.0, 5.0]]).double(),
    )
    terms = GradientPenalty(weight=0.5, where=where)(critic, data, samples, KL(), 0.7)
    assert terms.parts["penalty"].item() == pytest.approx(
        expected
    ) and terms.loss.item() == pytest.approx(expected / 4)
    (slope,) = torch.autograd.grad(terms.loss, scale)
    assert float(slope) == pytest.approx(expected / 2)  # of scale² · expected / 4
    with pytest.raises(ValueError, match="where='middle'"):
        GradientPenalty(where="middle")
    with pytest.raises(ValueError, match="not negative"):
        GradientPenalty(weight=-1.0)


@pytest.mark.parametrize(
    "wrong",
    [{"divergence": "kl"}, {"divergence": KL}, {"surrogate": object()}],
    ids=lambda w: next(iter(w)),
)
def test_what_is_no_divergence_teaches_no_critic(wrong):
    with pytest.raises(TypeError, match="is no f-divergence"):
        Adversarial(**wrong)


@pytest.mark.parametrize("trainer", ["gan", "fgan"])
def test_the_annealing_follows_the_epochs(trainer):
    """The penalty's share of the loss is γ₀ α^{t/T} Ω / 2 in epoch t of T, whichever trainer plays."""
    torch.manual_seed(0)
    seen, penalty = [], RothPenalty(weight=2.0, annealing=1e-4)

    def noted(critic, data, samples, divergence, progress):
        terms = penalty(critic, data, samples, divergence, progress)
        seen.append((terms.loss / terms.parts["penalty"]).item())
        return terms

    model, critic = models.LocationScale((2,)), models.dense_critic((2,), hidden=(4,))
    game = {"penalty": noted} if trainer == "fgan" else {"adversarial": Adversarial(penalty=noted)}
    emgen.fit(
        model, torch.randn(64, 2) + 1, trainer, critic=critic, max_epochs=4, device="cpu", **game
    )
    assert seen == pytest.approx([1.0, 0.1, 0.01, 0.001])


def test_a_game_that_runs_away_says_so():
    torch.manual_seed(0)
    model = models.dense((2,), latent=2, hidden=(4,), likelihood=models.heads.Dirac)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        emgen.fit(model, torch.randn(512, 2), "fgan", critic=models.dense_critic((2,), hidden=(4,)), divergence=Pearson(),
                  optimizer=partial(torch.optim.Adam, lr=1e30), max_epochs=1, device="cpu")  # fmt: skip


@pytest.mark.parametrize("critic", [
    models.dense_critic((2,), hidden=(8, 8), spectral_norm=True),
    models.dense_critic((2,), hidden=(8, 8), spectral_norm=True, squares=True),
    models.convolutional_critic((1, 8, 8), channels=(4, 4), spectral_norm=True),
])  # fmt: skip
def test_spectral_norm_reaches_every_layer_of_a_critic(critic):
    torch.manual_seed(0)
    for _ in range(200):  # every pass in training mode is one power iteration
        critic(
            torch.randn(4, 1, 8, 8)
            if isinstance(critic.network, ConvolutionalEncoder)
            else torch.randn(4, 2)
        )
    layers = [
        layer
        for layer in critic.eval().modules()
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))
    ]
    assert len(layers) == 3
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(
            1.0, abs=1e-4
        )


def test_the_paper_target_is_stratified():
    rows = data.line(train=4096)
    x = rows.split("train").double()
    assert x.shape == (4096, 1) and rows.split("test").shape == (10_000, 1)
    assert float(x.mean()) == pytest.approx(1.01, abs=2e-3)
    assert float(x.var()) == pytest.approx(0.33 * (1 + 0.255**2) + 0.67 * 6 - 1.01**2, abs=2e-2)
    assert (x < 0).double().mean() == pytest.approx(
        0.33 + 0.67 * 0.5 * (1 + math.erf(-1)), abs=1e-3
    )
    with pytest.raises(ValueError, match="expected as many of each"):
        data.line(weights=[1.0])
    with pytest.raises(ValueError, match="standard deviations positive"):
        data.line(sds=[1.0, 0.0])


def test_location_scale_draws_are_stratified_and_differentiable():
    model = models.LocationScale((2,), loc=1.0, scale=2.0)
    x = model.rsample(512)
    assert x.shape == (512, 2)
    torch.testing.assert_close(x.mean(0), torch.ones(2), atol=5e-3, rtol=0)
    torch.testing.assert_close(x.std(0), 2 * torch.ones(2), atol=3e-2, rtol=0)
    assert (
        abs(float(torch.corrcoef(x.detach().T)[0, 1])) < 0.2
    )  # strata are shuffled in each coordinate
    (slope,) = torch.autograd.grad(x.sum(), model.loc)
    assert (slope == 512).all()
    torch.testing.assert_close(model.log_prob(x), Normal(1.0, 2.0).log_prob(x).sum(1))
    with pytest.raises(ValueError, match="scale=0"):
        models.LocationScale((1,), scale=0.0)


def test_cross_table_of_two_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "JUDGES", ("KL", "ReverseKL"))  # to be quick
    with cli.composer() as compose:
        for number, divergence in enumerate(("kl", "jensen_shannon")):
            cfg = compose("train", ["experiment=level9_crosstable", f"divergence@trainer.divergence={divergence}",
                                    "data.train=512", "data.batch_size=256", "lightning.max_epochs=1",
                                    "callbacks.figures=null", f"paths.run_dir={tmp_path}/{number}"])  # fmt: skip
            assert {"preferences", "cross_table"} <= set(cfg.callbacks)
            cli.train(cfg, tmp_path / str(number))
    rows = list(csv.reader((tmp_path / "cross_table.csv").open()))
    assert [row[0] for row in rows[1:]] == ["kl", "jensen_shannon"] and len(rows[0]) == 3
    assert (tmp_path / "cross_table.png").stat().st_size > 5000
    assert (tmp_path / "0" / "figures" / "divergences.png").exists()
    summary = json.loads((tmp_path / "1" / "summary.json").read_text())["metrics"]
    assert (
        summary["divergences/kl"] == pytest.approx(float(rows[2][1]))
        and summary["divergences/kl"] > 0.28
    )
