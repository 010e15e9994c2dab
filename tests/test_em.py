"""The EM trainer: exact iterates, guarantees on hard data, batches in any order, online and incremental EM, resume, Gibbs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import emgen
from emgen.data.base import Data
from emgen.estimators.beliefs import Belief, Distribution, Draw, Gradient, Point, Tempered
from emgen.families import Categorical, DiagonalGaussian
from emgen.models import BernoulliMixture, BinomialMixture, GaussianMixture, Mixture
from emgen.models.conjugate.mixture import Responsibilities
from emgen.optim import ClosedForm
from emgen.testing import check_trainer, geweke
from emgen.trainers import EM

F64 = torch.float64


@pytest.fixture(scope="module")
def faithful():
    rows = np.loadtxt(
        Path(emgen.__file__).parent / "data" / "faithful.csv", delimiter=",", skiprows=1
    )
    return torch.as_tensor(rows[:, -2:])


def climb(trainer, x, sweeps):
    for _ in range(sweeps):
        trainer.training_step(x, 0)
    return trainer.bounds[-1][1]


# --- exact iterates -----------------------------------------------------------------------------


def test_two_coins():
    x = torch.tensor([5.0, 9, 8, 4, 7], dtype=F64)[:, None]
    model = BinomialMixture(1, 2, trials=10, weights="equal", start={"mean": [[6.0], [5.0]]})
    ways = sum(
        math.log(math.comb(10, int(v))) for v in x
    )  # the published likelihood leaves them out
    trainer = EM(model)
    assert float(model.log_prob(x).sum()) - ways == pytest.approx(-33.09386252, abs=1e-8)
    published = {
        1: (0.71301224, 0.58133931),
        2: (0.74529204, 0.56925575),
        10: (0.79674415, 0.51965866),
    }
    for step in range(1, 301):
        trainer.training_step(x, 0)
        if step in published:
            assert (model.components.mean.flatten() / 10).tolist() == pytest.approx(
                published[step], abs=5e-9
            )
    assert (model.components.mean.flatten() / 10).tolist() == pytest.approx(
        (0.79678907, 0.51958312), abs=5e-9
    )
    assert float(model.log_prob(x).sum()) - ways == pytest.approx(-31.57020024, abs=1e-8)


@pytest.mark.parametrize(
    "start, end",
    [
        ((0.5, 0.5, 0.5), (0.5, 0.6, 0.6)),
        ((0.4, 0.6, 0.7), (0.40641711, 0.53684211, 0.64324324)),
        ((0.46, 0.55, 0.67), (0.46186284, 0.534595, 0.65613464)),
    ],
)
def test_three_coins(start, end):
    """One step, and for ever: every end lies on the ridge πp + (1 − π)q = .6 with the same likelihood."""
    x = torch.tensor([1.0, 1, 0, 1, 0, 0, 1, 0, 1, 1], dtype=F64)[:, None]
    pi, p, q = start
    model = BernoulliMixture(1, 2, start={"weights": [pi, 1 - pi], "mean": [[p], [q]]})
    for _ in range(3):
        EM(model).training_step(x, 0)
        found = float(model.weights.mean[0]), *model.components.mean.flatten().tolist()
        assert found == pytest.approx(end, abs=5e-9)
        assert found[0] * found[1] + (1 - found[0]) * found[2] == pytest.approx(0.6)
        assert float(model.log_prob(x).sum()) == pytest.approx(-6.730116670093, abs=1e-10)


def test_old_faithful(faithful):
    for covariance, expected in (("full", -1130.263960), ("tied", -1140.186759)):
        model = emgen.fit(
            GaussianMixture(2, 2, covariance), faithful, max_epochs=500, tol=1e-12
        ).model
        found = float(model.log_prob(faithful).sum())
        assert found == pytest.approx(expected, abs=1e-6)
        if covariance == "full":
            order = model.weights.mean.argsort()
            assert model.weights.mean[order].tolist() == pytest.approx(
                [0.355873, 0.644127], abs=5e-7
            )
            means = torch.tensor([[2.036388, 54.478516], [4.289662, 79.968115]], dtype=F64)
            torch.testing.assert_close(model.components.mean[order], means, rtol=0, atol=5e-7)
            assert 2 * found - 11 * math.log(272) == pytest.approx(-2322.192, abs=5e-4)


def test_k_means_on_old_faithful(faithful):
    spheres = {"weights": "equal", "prior": {"variance": 1.0, "nu": math.inf}}
    for k, inertia, sizes in ((2, 8901.768721, [100, 172]), (3, 5188.540468, [86, 92, 94])):
        model = GaussianMixture(2, k, "spherical", n_init=10, **spheres)
        torch.manual_seed(0)
        climb(EM(model, Point()), faithful, 40)
        model.select()
        r = model.posterior(faithful).mode().probs
        assert float((faithful - r @ model.components.mean).square().sum()) == pytest.approx(
            inertia, abs=1e-6
        )
        assert sorted(r.sum(0).int().tolist()) == sizes


def test_the_dirac_limit_of_a_gaussian_mixture(faithful):
    """As σ² → 0 the responsibilities harden and −2σ² Σ log Σ exp(−‖x − μ‖²/2σ²) tends to k-means' inertia."""
    start = {"mean": [[2.0, 54.0], [4.0, 80.0]]}
    for variance, entropy in ((100.0, 76.2333), (36.0, 11.9911), (10.0, 1.485182), (1.0, 4.777e-5)):
        model = GaussianMixture(
            2,
            2,
            "spherical",
            weights="equal",
            prior={"variance": variance, "nu": math.inf},
            start=start,
        )
        climb(EM(model), faithful, 200)
        q = model.posterior(faithful)
        assert float(q.entropy.sum()) == pytest.approx(entropy, rel=2e-4)
    distance = torch.cdist(faithful, model.components.mean).square()
    soft = -2 * (-distance / 2).logsumexp(1).sum()
    assert float(soft) == pytest.approx(8901.768721, abs=1e-3)


# --- guarantees ---------------------------------------------------------------------------------


def hard_data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, dtype=F64, generator=g)
    return {
        "duplicates": x[:6].repeat(10, 1),
        "constant column": torch.stack([x[:, 0], torch.full((60,), 3.0, dtype=F64)], 1),
        "far outliers": torch.cat([x, torch.tensor([[1e6, 0.0], [0.0, -1e6]], dtype=F64)]),
        "far from zero": x + 1e5,
        "sorted": torch.cat([x, x + 6]).sort(0).values,
        "few rows": x[:3],
    }


@pytest.mark.parametrize("name", hard_data())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_monotone_on_hard_data(name, dtype):
    """Every half-step of every monotone cell, for every kind of covariance, with the regulariser in the bound."""
    x = hard_data()[name].to(dtype)
    for covariance in ("full", "tied", "diagonal", "spherical", "isotropic"):
        for latents, parameters in (
            (Distribution(), Point()),
            (Point(), Point()),
            (Distribution(), Distribution()),
            (Point(), Distribution()),
            (Tempered(0.5), Point()),
            (Distribution(), Gradient(1, 0.5)),
        ):
            torch.manual_seed(0)
            trainer = EM(GaussianMixture(2, 3, covariance, reg_covar=0.1), latents, parameters)
            assert trainer.guarantee == "monotone"
            assert math.isfinite(climb(trainer, x, 8)), (name, covariance, latents, parameters)


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["double", "float"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parameters", [Point(), Distribution()])
@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_an_outlier_beyond_all_digits_is_no_obstacle(covariance, parameters, seed, dtype):
    """At 1e9 the covariance of all rows is singular but for round-off; that of the clusters is not, in whatever order."""
    x = torch.randn(60, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x[:30] - 3, x[30:] + 3, torch.full((1, 3), 1e9, dtype=F64)]).to(dtype)
    x = x[torch.randperm(61, generator=torch.Generator().manual_seed(seed))] if seed else x
    torch.manual_seed(0)
    model = GaussianMixture(3, 3, covariance, reg_covar=0.1)
    climb(EM(model, parameters=parameters), x, 8)
    assert float(model.components.mean.max()) > 4e8  # under a prior, half-way to all rows' mean
    assert model.log_prob(x).isfinite().all()


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["double", "float"])
@pytest.mark.parametrize("far", [1e5, 1e6, 1e7])
@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_round_off_of_all_but_singular_covariances_is_no_fall(covariance, far, dtype):
    """One cluster with an outlier has a covariance of condition far²: F is known to eps · far² and no better."""
    x = torch.randn(60, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    x[30:] += 4
    x = torch.cat([x, torch.full((1, 3), far, dtype=F64)]).to(dtype)
    for components in (1, 2):
        for parameters in (Point(), Distribution(), Gradient(2, 0.5)):
            torch.manual_seed(1)
            climb(
                EM(
                    GaussianMixture(3, components, covariance, reg_covar=0.01),
                    parameters=parameters,
                ),
                x,
                8,
            )


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical", "isotropic"])
def test_squares_beyond_all_numbers_are_refused_in_one_sentence(covariance):
    x = torch.cat(
        [
            torch.randn(20, 2, dtype=F64, generator=torch.Generator().manual_seed(0)),
            torch.full((1, 2), 1e200, dtype=F64),
        ]
    )
    for start in ("kmeans++", "random"):
        for parameters in (Point(), Distribution()):
            with pytest.raises(ValueError, match=r"a variance is not finite.*rescale the data"):
                EM(
                    GaussianMixture(2, 2, covariance, start=start), parameters=parameters
                ).training_step(x, 0)


def test_one_row():
    x = torch.tensor([[1.0, 2.0]], dtype=F64)
    for parameters in (Point(), Distribution()):
        model = GaussianMixture(2, 1, reg_covar=0.5)
        climb(EM(model, parameters=parameters), x, 3)
        torch.testing.assert_close(model.components.mean, x)


def test_the_regulariser_is_part_of_the_objective(faithful):
    """S + εI is the exact M-step of the bound with −(ε/2) tr Λ, so no other covariance does better."""
    model = GaussianMixture(2, 2, reg_covar=2.0)
    climb(EM(model), faithful, 30)
    s = model.statistics(faithful, model.posterior(faithful))
    model.m_step(s, Point())
    best = None
    for scale in (1.0, 0.999, 1.001):
        components = model.components
        model.components = components.replace(covariance=components.covariance * scale)
        bound = float(
            model.free_energy(s := model.statistics(faithful, model.posterior(faithful)))["elbo"]
        )
        best = bound if best is None else best
        assert bound <= best
        model.components = components


def test_a_falling_bound_names_the_half_step(faithful):
    class Halved(Belief):
        """A wrong latent belief that claims to be monotone: half the rows are forgotten, but only after a while."""

        calls = 0

        def __call__(self, posterior, current=None):
            self.calls += 1
            return (
                posterior
                if self.calls < 4
                else type(posterior)(posterior.scores, posterior.probs.flip(-1))
            )

    trainer = EM(GaussianMixture(2, 2), Halved())
    with pytest.raises(ArithmeticError, match="E-step of EM lowered its bound"):
        climb(trainer, faithful, 6)


def test_the_gap_is_the_divergence_from_the_posterior(faithful):
    """log p(x) = F + gap at the E-step: for a tempered belief the gap is KL(q ‖ posterior), in nats per datum."""
    model = GaussianMixture(2, 2)
    climb(EM(model), faithful, 3)
    posterior = model.posterior(faithful)
    for belief in (Distribution(), Tempered(0.3), Point()):
        z = belief(posterior)
        parts = model.free_energy(model.statistics(faithful, z))
        log_prob = float(model.log_prob(faithful).mean())
        divergence = (
            (torch.xlogy(z.probs, z.probs) - z.probs * posterior.probs.log()).sum(-1).mean()
        )
        assert float(parts["elbo"] + parts["gap"]) == pytest.approx(log_prob, abs=1e-11)
        assert float(parts["gap"]) == pytest.approx(float(divergence), abs=1e-11)


# --- batches, streams, time ---------------------------------------------------------------------


def state(model):
    return {k: v for k, v in model.state_dict().items() if "relocation" not in k}


@pytest.mark.parametrize("trainer", ["em", "hard_em", "vbem", "me"])
def test_one_batch_is_many_in_any_order(faithful, trainer):
    start = {"mean": [[2.0, 55.0], [4.5, 80.0]], "covariance": [[0.5, 0.0], [0.0, 30.0]]}
    order = faithful[:, 1].argsort()
    runs = [
        emgen.fit(GaussianMixture(2, 2, start=start), data, trainer, max_epochs=6, tol=None)
        for data in (
            faithful,
            Data(faithful[order], batch_size=272, shuffle=False),
            Data(faithful, batch_size=7),
            Data(faithful[order], batch_size=50, shuffle=False),
            Data(faithful, batch_size=33, block=2),
        )
    ]
    for run in runs[1:]:
        for (name, a), b in zip(
            state(runs[0].model).items(), state(run.model).values(), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=f"{trainer}: {name}")
        assert run.history[-1]["bound"] == pytest.approx(runs[0].history[-1]["bound"], abs=1e-10)


def test_a_memory_map_is_fitted_from_disk(faithful, tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, faithful.numpy())
    start = {"mean": [[2.0, 55.0], [4.5, 80.0]], "covariance": [[0.5, 0.0], [0.0, 30.0]]}
    mapped = Data(np.load(path, mmap_mode="r"), batch_size=64, shuffle=False)
    a = emgen.fit(GaussianMixture(2, 2, start=start), mapped, max_epochs=5, tol=None).model
    b = emgen.fit(GaussianMixture(2, 2, start=start), faithful, max_epochs=5, tol=None).model
    torch.testing.assert_close(
        a.components.covariance, b.components.covariance, rtol=1e-10, atol=1e-10
    )


def test_online_em_reaches_the_likelihood_of_batch_em(faithful):
    online = emgen.fit(
        GaussianMixture(2, 2), Data(faithful, batch_size=34), "online_em", max_epochs=150
    ).model
    assert float(online.log_prob(faithful).mean()) == pytest.approx(-4.15538221, abs=0.01)


def test_a_step_of_online_em_is_the_average_of_statistics(faithful):
    """s ← (1 − ρ) s + ρ ŝ, then the M-step: taken about whatever means the two batches were seen from."""
    model = GaussianMixture(
        2, 2, start={"mean": [[2.0, 55.0], [4.5, 80.0]], "covariance": [[0.5, 0.0], [0.0, 30.0]]}
    )
    trainer = EM(model, every="batch", lr=0.4)
    first, second = faithful[:100], faithful[100:200]
    trainer.training_step(first, 0)
    r = [None, model.posterior(second).probs]
    fresh = GaussianMixture(
        2, 2, start={"mean": [[2.0, 55.0], [4.5, 80.0]], "covariance": [[0.5, 0.0], [0.0, 30.0]]}
    )
    r[0] = fresh.posterior(first).probs
    trainer.training_step(second, 0)
    weights = torch.cat([0.6 * r[0], 0.4 * r[1]])
    rows = torch.cat([first, second])
    mean = weights.T @ rows / weights.sum(0)[:, None]
    torch.testing.assert_close(model.components.mean, mean, rtol=1e-11, atol=1e-11)
    covariance = (
        torch.einsum("nk,nd,ne->kde", weights, rows, rows) / weights.sum(0)[:, None, None]
        - mean[:, :, None] * mean[:, None]
    )
    torch.testing.assert_close(model.components.covariance, covariance, rtol=1e-8, atol=1e-8)


def test_incremental_em_climbs_after_each_batch_and_ends_where_em_does(faithful):
    trainer = EM(GaussianMixture(2, 2), every="memo")
    assert trainer.guarantee == "monotone"
    result = emgen.fit(
        trainer.model,
        Data(faithful, batch_size=34, shuffle=False),
        "incremental_em",
        max_epochs=60,
        tol=1e-11,
    )
    assert float(result.model.log_prob(faithful).mean()) == pytest.approx(-4.15538221, abs=1e-7)
    with pytest.raises(ValueError, match=r"set data.shuffle=false"):
        emgen.fit(
            GaussianMixture(2, 2), Data(faithful, batch_size=34), "incremental_em", max_epochs=1
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda m: EM(m),
        lambda m: EM(m, every="batch", decay=0.6),
        lambda m: EM(m, every="memo"),
        lambda m: EM(m, parameters=Distribution()),
        lambda m: EM(m, Draw(), Draw()),
    ],
)
def test_trainers_keep_their_laws(make):
    torch.manual_seed(0)
    check_trainer(
        make(GaussianMixture(2, 2, reg_covar=1e-3)),
        torch.cat([torch.randn(15, 2), torch.randn(15, 2) + 4]),
    )


def test_closed_form_refuses_bad_step_sizes():
    for arguments, sentence in (
        ({"lr": 0.0}, r"lr=0.0: the step size of an M-step lies in \(0, 1\]"),
        ({"decay": 2.0}, "decay=2.0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ClosedForm([], lambda s: s, **arguments)
    with pytest.raises(ValueError, match="every='epoch'"):
        EM(GaussianMixture(1), every="epoch")
    with pytest.raises(ValueError, match="beta must be positive, not 0"):
        Tempered(0.0)
    with pytest.raises(ValueError, match=r"each of size in \(0, 1\]"):
        Gradient(1, 1.5)


# --- Gibbs --------------------------------------------------------------------------------------


def gibbs_kernel(chains, biased=False):
    """One sweep of the sampler of a Normal-Gamma mixture, then fresh data, for many chains at once as restarts of one model.

    A state is (θ, z, x): chain r owns three rows of x and is shown them alone. The components overlap, so that the largest
    responsibility, which the biased sampler takes for a draw, differs from one.
    """
    prior = DiagonalGaussian(torch.zeros(2, 1, dtype=F64), torch.ones(2, 1, dtype=F64), 25.0, 6.0)
    model = Mixture(
        Categorical.dirichlet(torch.tensor([2.0, 2.0], dtype=F64)), prior, n_init=chains
    )
    owner = torch.arange(chains).repeat_interleave(3)
    own = torch.nn.functional.one_hot(owner, chains).to(F64)[..., None]

    def emit(theta, z):
        member = 2 * owner + z
        return theta["components"].mean[member] + theta["components"].variance[
            member
        ].sqrt() * torch.randn(len(z), 1, dtype=F64)

    def exact(n):
        theta = {name: prior.sample() for name, prior in model.priors.items()}
        z = torch.multinomial(theta["weights"].mean, 3, replacement=True).flatten()
        return theta, z, emit(theta, z)

    def sweep(state):
        theta, _, x = state
        model.weights, model.components = theta["weights"], theta["components"]
        q = model.posterior(x)
        drawn = (q.mode() if biased else q.sample()).probs * own
        model.m_step(model.statistics(x, Responsibilities(q.scores, drawn)), Draw())
        z = drawn[torch.arange(len(x)), owner].argmax(-1)
        return model.theta(), z, emit(model.theta(), z)

    def statistics(state):
        theta, z, x = state
        (a, b), weight = theta["components"].mean.view(chains, 2).T, theta["weights"].mean[:, 0]
        first, x = (z == 0).to(F64).view(chains, 3).mean(1), x.view(chains, 3)
        return torch.stack(
            [
                a,
                a**2,
                a * b,
                theta["components"].variance.log().view(chains, 2).sum(1),
                weight,
                weight**2,
                first * weight,
                first**2,
                x.mean(1),
                x.mean(1) ** 2,
                x.var(1).log(),
            ],
            1,
        )

    return exact, sweep, statistics


def test_gibbs_passes_a_geweke_test_and_a_biased_sampler_fails_it():
    geweke(*gibbs_kernel(1000), chains=1000, steps=3)
    with pytest.raises(AssertionError, match="does not leave the joint invariant"):
        geweke(*gibbs_kernel(1000, biased=True), chains=1000, steps=3)
