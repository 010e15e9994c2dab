"""Who draws random numbers: a fit by its own seed, the caller by the caller's; neither disturbs the other."""

import random
import warnings

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from parts import EVENT, MAKE, blobs, critic, images, pair
from torch.utils.data import DataLoader, TensorDataset

import emgen
from emgen import sklearn as estimators
from emgen.data import Data
from emgen.models import BoltzmannMachine, GaussianMixture, dense, helmholtz_machine
from emgen.trainers import VAE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def everything():
    """The state of every generator that a caller may be using."""
    python, numpy = random.getstate(), np.random.get_state()
    return torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2:], python


def scattered(seed):
    """Put all global generators at a place of the caller's own."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def weights(model):
    return [value.clone() for value in model.state_dict().values()]


def equal(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


# --- emgen.fit ----------------------------------------------------------------------------------

MIXTURE = (
    "em",
    "vbem",
    "hard_em",
    "me",
    "gem",
    "tempered_em",
    "stochastic_em",
    "gibbs",
    "online_em",
)
NETWORKS = ("vae", "beta_vae", "iwae", "wake_sleep", "gan", "fgan")
LAYERS = ("rws", "vimco", "score_function", "relaxed")
MACHINES = ("cd", "pcd", "parallel_tempering")


def built(name):
    """A model that the named trainer fits, always the same, and rows for it."""
    if name in MIXTURE:
        return GaussianMixture(2, start="random"), Data(blobs(), batch_size=20)
    if name in NETWORKS:
        return pair(), images()
    torch.manual_seed(0)
    model = (
        helmholtz_machine(EVENT, layers=(3, 2))
        if name in LAYERS
        else BoltzmannMachine(EVENT, hidden=3)
    )
    return model, images()


@pytest.mark.parametrize("name", MIXTURE + NETWORKS + LAYERS + MACHINES)
def test_a_fit_draws_by_its_own_seed_alone(name):
    found = {}
    for seed, caller in ((3, 10), (3, 11), (4, 10)):
        model, data = built(name)
        extra = {"critic": critic()} if name in ("gan", "fgan") else {}
        scattered(caller)
        before = everything()
        emgen.fit(model, data, name, max_epochs=2, seed=seed, device="cpu", **extra)
        assert everything() == before
        found[seed, caller] = weights(model)
    assert equal(found[3, 10], found[3, 11])
    assert not equal(found[3, 10], found[4, 10])


@pytest.mark.parametrize("wrong", ["rows", "trainer", "step"])
def test_a_fit_that_fails_leaves_the_random_numbers_too(wrong):
    scattered(5)
    model = pair() if wrong == "step" else GaussianMixture(2)
    before = everything()
    with pytest.raises((ValueError, ArithmeticError)):
        if wrong == "rows":
            emgen.fit(model, torch.full((9, 2), torch.inf), device="cpu")
        elif wrong == "trainer":
            emgen.fit(model, blobs(), "no_such_trainer", device="cpu")
        else:
            next(model.parameters()).data.fill_(torch.nan)
            emgen.fit(model, images(), "vae", max_epochs=1, device="cpu")
    assert everything() == before


def test_bootstrap_draws_differ_and_are_what_they_would_be_without_the_fits():
    x = blobs()
    torch.manual_seed(123)
    alone = [torch.randint(0, 60, (60,)) for _ in range(4)]
    torch.manual_seed(123)
    for expected in alone:
        rows = torch.randint(0, 60, (60,))
        assert torch.equal(rows, expected)
        emgen.fit(GaussianMixture(2, components=2), x[rows], "em", max_epochs=3, device="cpu")


def test_restarts_start_at_different_weights():
    torch.manual_seed(1)
    starts = []
    for _ in range(3):
        model = dense((1, 8, 8), latent=2, hidden=(4,))
        starts.append(float(next(model.parameters()).flatten()[0]))
        emgen.fit(model, torch.ones(20, 1, 8, 8), "vae", max_epochs=1, device="cpu")
    assert len(set(starts)) == 3


def test_a_mixture_inside_a_training_step_leaves_dropout_alone():
    dropout, x = torch.nn.Dropout(0.5), blobs().numpy()
    torch.manual_seed(2)
    alone = [dropout(torch.ones(64)) for _ in range(4)]
    torch.manual_seed(2)
    for step, expected in enumerate(alone):
        assert torch.equal(dropout(torch.ones(64)), expected)
        estimators.GaussianMixture(2, random_state=step).fit(x)
        estimators.BayesianGaussianMixture(n_components=2, max_iter=5, random_state=step).fit(x)


def test_a_fit_inside_a_fit_changes_nothing_of_it():
    class Nested(torch.nn.Module):
        """A network whose likelihood fits a mixture on the way."""

        def __init__(self):
            super().__init__()
            self.of, self.fits = pair(), True
            self.recognition = self.of.recognition

        def prior(self):
            return self.of.prior()

        def likelihood(self, z):
            if self.fits:
                emgen.fit(GaussianMixture(2), blobs(), max_epochs=1, seed=9, device="cpu")
            return self.of.likelihood(z)

    found = []
    for fits in (True, False):
        model = Nested()
        model.fits = fits
        emgen.fit(model, images(), "vae", max_epochs=2, device="cpu")
        found.append(weights(model))
    assert equal(*found)


# --- loaders that shuffle -----------------------------------------------------------------------


def loader(order, size=4, workers=0):
    """Batches of numbered rows from a shuffling loader, each noted as it is drawn."""
    rows = torch.arange(24.0)

    def collate(batch):
        numbers = torch.stack([one for (one,) in batch])
        order.extend(numbers.int().tolist())
        return images(24)[numbers.long()]

    return DataLoader(
        TensorDataset(rows), batch_size=size, shuffle=True, collate_fn=collate, num_workers=workers
    )


def test_a_loader_shuffles_anew_each_epoch_and_by_the_seed():
    orders = {}
    for seed, caller in ((0, 1), (0, 2), (1, 1)):
        order = []
        scattered(caller)
        emgen.fit(pair(caller), loader(order), "vae", max_epochs=3, seed=seed, device="cpu")
        epochs = [tuple(order[at : at + 24]) for at in range(0, 72, 24)]
        assert all(sorted(epoch) == list(range(24)) for epoch in epochs) and len(set(epochs)) == 3
        orders[seed, caller] = epochs
    assert orders[0, 1] == orders[0, 2] and orders[0, 1] != orders[1, 1]


def test_a_loader_under_a_bare_trainer_shuffles_by_the_callers_numbers():
    """One draw an epoch is the loader's; what the steps draw in between is none of its business."""
    orders = []
    for module in (VAE(pair()), Idle()):
        order = []
        scattered(7)
        runner(3).fit(module, loader(order))
        orders.append(order)
    assert (
        orders[0] == orders[1] and len({tuple(orders[0][at : at + 24]) for at in (0, 24, 48)}) == 3
    )


class Idle(lightning.LightningModule):
    """A module that draws nothing."""

    automatic_optimization = False

    def training_step(self, batch, index): ...

    def configure_optimizers(self): ...


def runner(epochs):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", MAKE)
def test_a_bare_trainer_draws_by_its_own_seed_alone(name):
    found = []
    for caller in (10, 11):
        trainer, x = MAKE[name]()
        torch.manual_seed(0)
        for p in trainer.parameters():
            torch.nn.init.normal_(p, std=0.1)
        scattered(caller)
        before = everything()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner(2).fit(trainer, datamodule=Data(x, batch_size=5, shuffle=False))
        assert everything() == before
        found.append(weights(trainer.model))
    assert equal(*found)


def test_dropout_inside_a_step_follows_the_seed():
    found = []
    for caller in (1, 2):
        model = pair()
        body = next(m for m in model.recognition.modules() if isinstance(m, torch.nn.Sequential))
        body.insert(1, torch.nn.Dropout(0.5))
        scattered(caller)
        emgen.fit(model, images(), "vae", max_epochs=2, device="cpu")
        found.append(weights(model))
    assert equal(*found)


# --- estimators ---------------------------------------------------------------------------------


X = np.random.RandomState(0).randn(60, 3)
BITS = (X > 0).astype(float)
ESTIMATORS = {
    "GaussianMixture": lambda seed: estimators.GaussianMixture(4, init_params="random", max_iter=2, random_state=seed).fit(X).means_,
    "BayesianGaussianMixture": lambda seed: estimators.BayesianGaussianMixture(
        n_components=4, init_params="random", max_iter=2, random_state=seed).fit(X).means_,
    "KMeans": lambda seed: estimators.KMeans(8, init="random", n_init=1, max_iter=1, random_state=seed).fit(X).cluster_centers_,
    "GaussianHMM": lambda seed: estimators.GaussianHMM(3, n_iter=1, random_state=seed).fit(X).transmat_,
    "CategoricalHMM": lambda seed: estimators.CategoricalHMM(3, n_iter=1, random_state=seed).fit(BITS[:, :1].astype(int)).transmat_,
    "LatentDirichletAllocation": lambda seed: estimators.LatentDirichletAllocation(
        2, max_iter=1, random_state=seed).fit(BITS).components_,
    "BernoulliRBM": lambda seed: estimators.BernoulliRBM(3, n_iter=1, random_state=seed).fit(BITS).components_,
}  # fmt: skip


def test_every_estimator_is_here():
    assert set(ESTIMATORS) == set(estimators.__all__)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_draws_by_its_random_state_alone(name):
    found = []
    for caller in (10, 11):
        scattered(caller)
        before = everything()
        found.append(ESTIMATORS[name](3))
        assert everything() == before
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_a_random_state_an_estimator_draws_from_numpys(name):
    scattered(10)
    torch_before, python_before = torch.get_rng_state(), random.getstate()
    first, second = ESTIMATORS[name](None), ESTIMATORS[name](None)
    assert not np.array_equal(first, second)
    assert torch.equal(torch_before, torch.get_rng_state()) and python_before == random.getstate()
    scattered(10)
    np.testing.assert_array_equal(first, ESTIMATORS[name](None))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_generator_that_is_given_is_advanced(name):
    scattered(10)
    before, rng = everything(), np.random.RandomState(4)
    first, second = ESTIMATORS[name](rng), ESTIMATORS[name](rng)
    assert not np.array_equal(first, second) and everything() == before
    np.testing.assert_array_equal(first, ESTIMATORS[name](np.random.RandomState(4)))


def test_gibbs_sweeps_of_an_integer_seed_are_a_chain():
    """Weights of about zero make every unit a fair coin: 2000 sweeps have mean ½ with a standard error of .011."""
    rows = np.tile([[0.0, 1.0] * 6, [1.0, 0.0] * 6], (50, 1))
    machine = estimators.BernoulliRBM(4, n_iter=1, learning_rate=1e-6, random_state=0).fit(rows)
    v, total, states = np.ones((1, 12)), 0, set()
    for _ in range(2000):
        v = machine.gibbs(v)
        total = total + v
        states.add(v.tobytes())
    assert np.abs(total / 2000 - 0.5).max() < 5 * 0.0112 and len(states) > 1000
