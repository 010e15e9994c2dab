"""Laws of the trainer base and of every trainer on the export list."""

import functools
import math
import multiprocessing

import pytest
import torch
from oracles import LinearGaussian
from parts import EVENT, MAKE, blobs, critic, images, pair
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR

from emgen import trainers
from emgen.data import Data
from emgen.data.base import _Loader
from emgen.distributions import Dirac
from emgen.estimators.beliefs import Draw
from emgen.models import BoltzmannMachine, GaussianMixture
from emgen.objectives import FreeEnergy, Terms
from emgen.testing import check_model, check_objective, check_trainer
from emgen.trainers import EM, GAN, VAE, WakeSleep
from emgen.trainers.base import Trainer
from emgen.trainers.ledger import Ledger


def test_every_trainer_of_the_package_is_tested_here():
    shipped = {name for name in trainers.__all__ if name != "Trainer"}
    assert shipped <= {name.split()[0] for name in MAKE}, (
        f"add {sorted(shipped - {n.split()[0] for n in MAKE})} to MAKE"
    )


@pytest.mark.parametrize("name", MAKE)
def test_every_trainer_keeps_the_laws(name):
    check_trainer(*MAKE[name]())


@pytest.mark.parametrize("name", MAKE)
def test_every_model_of_a_trainer_keeps_the_contract_of_its_roles(name):
    trainer, x = MAKE[name]()
    check_model(trainer.model, x)


def test_objectives_keep_the_laws():
    from emgen.objectives import (
        VIMCO,
        Adversarial,
        ContrastiveDivergence,
        Relaxed,
        ReweightedWake,
        ScoreFunction,
        Sleep,
        Wake,
    )

    model, judge, x = pair(), critic(), images()
    machine = BoltzmannMachine(EVENT, hidden=3)
    for objective in (
        FreeEnergy(),
        FreeEnergy(beta=4.0),
        Wake(),
        Wake(3),
        ReweightedWake(),
        VIMCO(),
        Relaxed(),
        ScoreFunction(),
    ):
        check_objective(objective, model, model.recognition, x)
    check_objective(Sleep(), model, model.recognition, 5)
    check_objective(Adversarial().critic, judge, x, images(9))
    check_objective(Adversarial().model, judge, images().requires_grad_())
    check_objective(ContrastiveDivergence(), machine, x, images().flip(0))


# ---- descend -----------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """Three numbers: a and b are the model's, c its recognition network's."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor([2.0, -1.0]))
        self.recognition = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.recognition.weight, 0.5)

    def loss(self):
        c = self.recognition.weight.sum()
        return self.a**2 * c + (self.b**2).sum() * self.a + c**3


def quadratic(optimizer, clip=None):
    class Plain(Trainer):
        def training_step(self, batch, index):
            self.descend(*batch)

    torch.manual_seed(0)
    players = {"model": optimizer, "recognition": optimizer, "critic": optimizer}
    return Plain(Quadratic(), critic=nn.Linear(1, 1), optimizers=players, clip=clip)


STEEP = [functools.partial(SGD, lr=0.1, momentum=0.9), functools.partial(Adam, lr=0.1)]


@pytest.mark.parametrize("optimizer", STEEP, ids=["SGD", "Adam"])
def test_descend_is_the_plain_gradient_step_bit_for_bit_for_the_named_player_alone(optimizer):
    trainer, plain = quadratic(optimizer), Quadratic()
    steps = optimizer([plain.a, plain.b])
    for _ in range(5):
        trainer.descend("model", Terms(trainer.model.loss()))
        steps.zero_grad()
        plain.loss().backward()
        steps.step()
    assert torch.equal(trainer.model.a, plain.a) and torch.equal(trainer.model.b, plain.b)
    assert trainer.recognition.weight.item() == 0.5
    assert torch.equal(trainer.critic.weight, quadratic(optimizer).critic.weight)


def test_several_players_may_share_a_step():
    trainer, plain = quadratic(functools.partial(SGD, lr=0.1)), Quadratic()
    trainer.descend(("model", "recognition"), Terms(trainer.model.loss()))
    plain.loss().backward()
    SGD(plain.parameters(), lr=0.1).step()
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), plain.parameters()))


def test_play_in_turn_sees_the_others_new_move_and_play_at_once_does_not():
    """min over a, max over c of a·c from (1, ½), step 0.1: in turn c answers a′, at once it answers a."""
    sgd = functools.partial(SGD, lr=0.1)

    def game(trainer):
        return trainer.model.a * trainer.recognition.weight.sum()

    turn = quadratic(sgd)
    turn.descend("model", Terms(game(turn)))
    turn.descend("recognition", Terms(-game(turn)))
    at_once = quadratic(sgd)
    at_once.descend({"model": Terms(game(at_once)), "recognition": Terms(-game(at_once))})
    a = 1.0 - 0.1 * 0.5
    assert math.isclose(turn.model.a.item(), a, rel_tol=1e-6) and math.isclose(
        at_once.model.a.item(), a, rel_tol=1e-6
    )
    assert math.isclose(turn.recognition.weight.item(), 0.5 + 0.1 * a, rel_tol=1e-6)
    assert math.isclose(at_once.recognition.weight.item(), 0.5 + 0.1 * 1.0, rel_tol=1e-6)


def test_clip_shrinks_the_players_gradient_as_a_whole_to_the_norm_and_no_further():
    sgd = functools.partial(SGD, lr=1.0)
    for clip, shrunk in ((0.5, True), (1e6, False)):
        trainer, plain = quadratic(sgd, clip=clip), Quadratic()
        before = torch.cat([p.detach().flatten() for p in trainer.parameters_of("model")])
        trainer.descend("model", Terms(trainer.model.loss()))
        step = before - torch.cat([p.detach().flatten() for p in trainer.parameters_of("model")])
        gradient = torch.cat(
            [g.flatten() for g in torch.autograd.grad(plain.loss(), [plain.a, plain.b])]
        )
        torch.testing.assert_close(step, gradient * (clip / gradient.norm() if shrunk else 1.0))
    with pytest.raises(ValueError, match="clip=0"):
        quadratic(sgd, clip=0)


def test_parameters_that_a_loss_does_not_meet_stay_and_frozen_ones_are_nobodys():
    trainer = quadratic(functools.partial(SGD, lr=0.1))
    trainer.model.b.requires_grad_(False)
    trainer.descend("model", Terms(trainer.model.a * 3))
    assert torch.equal(trainer.model.b, torch.tensor([2.0, -1.0])) and trainer.model.a.item() != 1
    assert len(trainer.parameters_of("model")) == 1


def test_no_parameter_belongs_to_two_players_and_none_of_a_pair_to_nobody():
    trainer = GAN(pair(), critic())
    owned = [
        id(p)
        for player in ("model", "recognition", "critic")
        for p in trainer.parameters_of(player)
    ]
    assert len(owned) == len(set(owned)) == len(list(trainer.parameters()))


# ---- the schedule ------------------------------------------------------------------------------


def run(trainer, data, epochs=2, **options):
    import pytorch_lightning as lightning

    runner = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    runner.fit(trainer, datamodule=data)
    return trainer


def test_the_ledger_is_the_mean_over_the_epoch_and_the_scheduler_steps_once_an_epoch():
    seen = []

    class Recording(Trainer):
        def training_step(self, batch, index):
            value = self.observe(batch).mean() * self.model.a
            seen.append(float(value))
            self.descend("model", Terms(value, {"part": value * 10}))

        def on_train_epoch_end(self):
            means = self.ledger.means()
            assert math.isclose(means["loss"], sum(seen) / len(seen), rel_tol=1e-5)
            assert math.isclose(means["part"], 10 * sum(seen) / len(seen), rel_tol=1e-5)
            seen.clear()
            super().on_train_epoch_end()
            assert self.ledger.means() == {}

    sgd = functools.partial(SGD, lr=0.1)
    trainer = Recording(
        Quadratic(),
        optimizers={"model": sgd},
        scheduler=functools.partial(ExponentialLR, gamma=0.5),
    )
    trainer.model.recognition = None
    run(trainer, Data(torch.arange(10.0)[:, None], batch_size=3), epochs=3)
    assert trainer.optimizer("model").param_groups[0]["lr"] == 0.1 / 8
    assert (trainer.iteration, trainer.examples) == (12, 30)


def test_a_step_sees_the_batches_of_the_data_whatever_the_block():
    """Rows, order, place in the epoch and the end of the sweep are the same for blocks of 1, 2 and all batches."""

    def visits(block):
        seen = []

        class Seeing(Trainer):
            def training_step(self, batch, index):
                seen.append((index, batch.index.tolist(), self.sweep_ends, float(torch.rand(()))))

        run(
            Seeing(Quadratic(), optimizers={}),
            Data(torch.arange(10.0)[:, None], batch_size=3, block=block),
            epochs=2,
        )
        return seen

    one = visits(1)
    assert one == visits(2) == visits(4) and [v[0] for v in one] == [0, 1, 2, 3] * 2
    assert [v[2] for v in one] == [False, False, False, True] * 2
    for epoch in (one[:4], one[4:]):
        assert sorted(i for v in epoch for i in v[1]) == list(range(10))
    assert [v[1] for v in one[:4]] != [v[1] for v in one[4:]] and len({v[3] for v in one}) == 8


def test_a_loss_that_is_not_finite_stops_with_its_player_its_term_and_its_step():
    trainer = VAE(pair())
    x = images()
    broken = Data(torch.cat([x[:8], x[8:] * math.nan]), batch_size=4, shuffle=False)
    with pytest.raises(
        FloatingPointError,
        match=r"model and recognition became nan at step 2 of epoch 0 \(elbo = nan, recon",
    ):
        for index, block in enumerate(broken.train_dataloader()):
            trainer.training_step(block, index)


def test_a_bound_that_falls_under_a_monotone_guarantee_names_the_half_step():
    trainer = EM(GaussianMixture(2))
    trainer.record({"bound": torch.tensor(-1.0)}, half_step="E-step")
    trainer.record({"bound": torch.tensor(-0.5)}, half_step="M-step")
    with pytest.raises(ArithmeticError, match=r"E-step of EM lowered its bound by 0\.1 to -0\.6"):
        trainer.record({"bound": torch.tensor(-0.6)}, half_step="E-step")
    gibbs = EM(GaussianMixture(2), latents=Draw(), parameters=Draw())
    for bound in (-1.0, -2.0):
        gibbs.record({"bound": torch.tensor(bound)}, half_step="E-step")


def test_a_model_without_a_role_is_told_which_trainers_fit():
    with pytest.raises(
        TypeError, match=r"EM needs a model that serves Conjugate .*trainers that fit it: .*VAE"
    ):
        EM(pair())
    with pytest.raises(
        TypeError, match=r"VAE needs .*Recognition \(recognition\).*trainers that fit it: .*GAN"
    ):
        model = pair()
        model.recognition = None
        VAE(model)
    with pytest.raises(TypeError, match="no trainer of this package fits it"):
        WakeSleep(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"fit it: .*CD"):
        VAE(BoltzmannMachine(EVENT, hidden=3))


def test_a_pair_without_an_encoder_is_trained_by_the_adversaries_alone():
    model = pair()
    model.recognition = None
    check_trainer(GAN(model, critic()), images())


def test_closed_form_steps_of_all_sizes_are_online_em():
    """ρ = 1 forgets; ρ < 1 averages; a step is counted so that Lightning can."""
    from emgen.optim import ClosedForm

    taken = []
    for lr, decay, expected in (
        (1.0, 0.0, [1.0, 3.0, 5.0]),
        (0.5, 0.0, [1.0, 2.0, 3.5]),
        (1.0, 1.0, [1.0, 2.0, 3.0]),
    ):
        taken.clear()
        optimizer = ClosedForm(
            [], m_step=lambda s: (taken.append(float(s["n"])), s)[1], lr=lr, decay=decay
        )
        for value in (1.0, 3.0, 5.0):
            optimizer.step(lambda v=value: {"n": torch.tensor(v)})
        assert taken == pytest.approx(expected)
    for lr, decay in ((0.0, 0.0), (1.5, 0.0), (1.0, -1.0), (float("nan"), 0.0)):
        with pytest.raises(ValueError, match="step size"):
            ClosedForm([], m_step=lambda s: s, lr=lr, decay=decay)


# ---- several processes -------------------------------------------------------------------------


class PointEncoder(nn.Module):
    """q(z|x) = δ(z − Wx): a step does not depend on which process drew what."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return Dirac(self.encoder(x).mean, 1)


def by_gradient():
    model = LinearGaussian()
    model.recognition = PointEncoder(model.recognition)
    return VAE(model, optimizer=functools.partial(Adam, lr=0.05), clip=0.7)


def by_statistics():
    means = [[0.0, 0.5, 0.0], [1.0, 1.0, 1.0]]
    start = {"weights": [0.3, 0.7], "mean": means, "covariance": torch.eye(3)}
    return EM(GaussianMixture(3, start=start).double(), tol=None)


def two_epochs(trainer, rows, rank=0, world=1):
    for epoch in range(2):
        loader = _Loader(Data(rows, batch_size=9, seed=3), rank, world)
        loader.set_epoch(epoch)
        for index, block in enumerate(loader):
            trainer.training_step(block, index)
    return trainer


def share(rank, world, folder, rows):
    """What each process does: both trainers over its share of the rows."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    found = {}
    for make in (by_gradient, by_statistics):
        trainer = two_epochs(make(), rows, rank, world)
        found[make.__name__] = {**trainer.state_dict(), "examples": torch.tensor(trainer.examples)}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    """Batches of 9, 9 and 5 rows are shared as 5 + 4 and 3 + 2, so the mean over processes must count rows."""
    rows = torch.randn(23, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    multiprocessing.set_forkserver_preload(["test_trainers"])  # imported once for both
    torch.multiprocessing.start_processes(
        share, (2, str(tmp_path), rows), nprocs=2, start_method="forkserver"
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for make in (by_gradient, by_statistics):
        one, name = two_epochs(make(), rows), make.__name__
        assert first[name].pop("examples") == one.examples == 46
        for key, value in one.state_dict().items():
            assert torch.equal(first[name][key], second[name][key]), (
                f"{name}: {key} differs between the processes"
            )
            torch.testing.assert_close(first[name][key], value, rtol=1e-9, atol=1e-10)


def test_a_batch_smaller_than_the_number_of_processes_is_refused():
    with pytest.raises(
        ValueError,
        match="batch_size=9 over 19 rows leaves a batch with fewer rows than the 2 processes",
    ):
        _Loader(Data(torch.zeros(19, 3), batch_size=9), 0, 2)
    assert len(_Loader(Data(torch.zeros(19, 3), batch_size=9, drop_last=True, block=1), 0, 2)) == 2


# ---- numbers that are none ---------------------------------------------------------------------


@pytest.mark.parametrize("values", [(1.0, math.nan), (math.inf, -math.inf)])
def test_a_mean_that_is_no_number_names_its_quantity(values):
    ledger = Ledger()
    for value in values:
        ledger.record({"elbo": torch.tensor(1.0), "kl": torch.tensor(value)})
    with pytest.raises(FloatingPointError, match=r"the mean of kl over 2 steps is not a number"):
        ledger.means()


def test_an_infinite_mean_is_recorded_as_what_it_is():
    ledger = Ledger()
    ledger.record({"elbo": torch.tensor(-math.inf)})
    ledger.record({"elbo": torch.tensor(3.0)})
    assert ledger.means() == {"elbo": -math.inf}


def test_a_part_that_is_no_number_stops_a_fit_though_its_loss_is_finite():
    class Silent(Trainer):
        def training_step(self, batch, index):
            loss = next(self.model.parameters()).square().sum()
            self.descend("model", Terms(loss, {"accuracy": torch.tensor(0.0) / 0}))

    silent = Silent(nn.Linear(1, 1), optimizers={"model": functools.partial(SGD, lr=0.1)})
    silent.training_step(torch.zeros(3, 1), 0)
    with pytest.raises(FloatingPointError, match="the mean of accuracy"):
        silent.ledger.means()


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_bound_that_is_no_number_stops_em_and_names_the_half_step(value):
    trainer = EM(GaussianMixture(2))
    trainer.record({"bound": torch.tensor(-0.5)}, "E-step")
    with pytest.raises(
        FloatingPointError, match=r"the M-step of EM left a bound of -?(nan|inf) at epoch 0"
    ):
        trainer.record({"bound": torch.tensor(value)}, "M-step")


def test_the_best_of_several_starts_is_none_that_is_no_number():
    model = GaussianMixture(2, 2, n_init=3)
    EM(model).training_step(blobs().double(), 0)
    model.weights.mean[1] = math.nan
    s = model.statistics(blobs().double(), model.posterior(blobs().double()))
    assert math.isfinite(model.free_energy(s)["bound"]) and int(model.best) != 1
