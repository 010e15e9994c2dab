"""Mixtures: exact evidence, masks and weights, starts, restarts, relocation, Bregman clustering, a user's own family."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from emgen.divergences import GeneralisedKL, ItakuraSaito, SquaredEuclidean
from emgen.estimators.beliefs import Distribution, Draw, Gradient, Point, Tempered
from emgen.estimators.enumeration import log_evidence
from emgen.families import Categorical
from emgen.models import (
    BernoulliMixture,
    BinomialMixture,
    BregmanMixture,
    CategoricalMixture,
    GaussianMixture,
    HiddenMarkovModel,
    Mixture,
    PoissonMixture,
)
from emgen.models.conjugate.mixture import Responsibilities
from emgen.models.conjugate.seeding import partition
from emgen.testing import check_model
from emgen.trainers import EM

sys.path.insert(0, str(Path(__file__).parent / "extension"))
from mylab.exponential import Exponential

F64 = torch.float64
PAIR = torch.tensor([-5, -4.5, -4, -3.5, 3.5, 4, 4.5, 5], dtype=F64)[:, None]
NORMAL_GAMMA = {"mean": 0.0, "kappa": 0.1, "nu": 2.0, "variance": 1.0}  # a0 = 1, b0 = 1
CELLS = list(itertools.product((Distribution(), Point(), Draw()), repeat=2))


def climb(trainer, x, sweeps):
    for _ in range(sweeps):
        trainer.training_step(x, 0)
    return trainer.bounds[-1][1]


rows_in = pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["double", "float"])


def close(a, b, dtype, double=1e-9):
    """Equal but for the round-off of rows in `dtype`: a rate of 1 has η = A = 708, of which single precision keeps 1e-4."""
    tolerance = double if dtype == F64 else 1e-4
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def rows_of(name, dtype):
    """The maker of a mixture and its rows in a precision."""
    make, x = mixtures()[name]
    return make, x.to(dtype) if x.is_floating_point() else x


def mixtures(seed=0):
    """Every mixture with rows of its kind."""
    torch.manual_seed(seed)
    x = torch.cat([torch.randn(30, 2, dtype=F64), torch.randn(30, 2, dtype=F64) * 2 + 4])
    counts = torch.poisson(x.abs() * 2)
    gaussian = {
        c: (lambda c=c: GaussianMixture(2, 3, c, reg_covar=1e-3), x)
        for c in ("full", "tied", "diagonal", "spherical", "isotropic")
    }
    return gaussian | {
        "bernoulli": (lambda: BernoulliMixture(2, 3), (counts > 2).to(F64)),
        "binomial": (lambda: BinomialMixture(2, 3, trials=9), counts.clamp(max=9)),
        "poisson": (lambda: PoissonMixture(2, 3), counts),
        "categorical": (lambda: CategoricalMixture(2, 3, symbols=4), counts.clamp(max=3).long()),
        "exponential": (
            lambda: Mixture(
                Categorical.flat(symbols=3), Exponential(torch.ones(3, 2, dtype=F64), 0.0)
            ),
            x.abs(),
        ),
    }


# --- exact numbers ------------------------------------------------------------------------------


def test_evidence_by_enumeration():
    """Normal-Gamma mixture of eight points: log p(x) for K = 1 and 2, the joint maximum, and what each method reaches."""
    for k, evidence in ((1, -27.9246746396), (2, -20.9403902329)):
        model = GaussianMixture(1, k, "diagonal", weights=1.0, prior=NORMAL_GAMMA)
        exact = log_evidence(model, PAIR, "distribution")
        assert float(exact.log_prob) == pytest.approx(evidence, abs=1e-9)
    assert float(exact.log_max) == pytest.approx(-21.6368665106, abs=1e-9)
    for (i, j), together in {(0, 1): 0.999381, (3, 4): 0.001715, (0, 7): 0.001017}.items():
        assert float(exact.together(i, j)) == pytest.approx(together, abs=1e-6)


def test_variational_bound_is_the_evidence_of_one_component():
    for covariance, prior in (
        ("diagonal", NORMAL_GAMMA),
        ("full", {**NORMAL_GAMMA, "covariance": 1.0}),
    ):
        prior = {k: v for k, v in prior.items() if k != "variance" or covariance == "diagonal"}
        trainer = EM(
            GaussianMixture(1, 1, covariance, weights=1.0, prior=prior), parameters=Distribution()
        )
        assert climb(trainer, PAIR, 2) * 8 == pytest.approx(-27.9246746396, abs=1e-9)


def test_variational_and_hard_bounds_lie_where_they_must():
    model = lambda: GaussianMixture(1, 2, "diagonal", weights=1.0, prior=NORMAL_GAMMA, n_init=20)
    torch.manual_seed(0)
    variational = climb(EM(model(), parameters=Distribution()), PAIR, 60) * 8
    assert -21.6368665107 <= variational <= -20.9403902329
    hard = climb(EM(model(), latents=Point(), parameters=Distribution()), PAIR, 60) * 8
    assert hard == pytest.approx(
        -21.6368665106, abs=1e-9
    )  # the best of twenty starts attains the joint maximum


def test_gibbs_visits_partitions_as_often_as_the_posterior_says():
    """Co-clustering of three pairs over 700 sweeps of 30 chains at once, within 4.5 standard errors over chains."""
    torch.manual_seed(0)
    chains = 30
    model = GaussianMixture(1, 2, "diagonal", weights=1.0, prior=NORMAL_GAMMA, n_init=chains)
    trainer = EM(model, latents=Draw(), parameters=Draw())
    climb(trainer, PAIR, 50)
    together = torch.zeros(chains, 3, dtype=F64)
    for _ in range(700):
        z = model.posterior(PAIR).sample()
        label = z.probs.argmax(-1)
        together += torch.stack([label[i] == label[j] for i, j in ((0, 1), (3, 4), (0, 7))], -1)
        model.m_step(model.statistics(PAIR, z), Draw())
    mean, error = together.mean(0) / 700, together.std(0) / 700 / chains**0.5
    assert (
        (mean - torch.tensor([0.999381, 0.001715, 0.001017], dtype=F64)).abs() < 4.5 * error + 1e-12
    ).all()


# --- laws of every mixture ----------------------------------------------------------------------


@rows_in
@pytest.mark.parametrize("name", mixtures())
def test_posterior_times_evidence_is_the_joint(name, dtype):
    make, x = rows_of(name, dtype)
    model = make()
    climb(EM(model), x, 2)
    model.components.reg_covar = 0.0  # it belongs to the objective, not to the density
    joint = model.weights.mean.log() + model.components.log_prob(x)
    close(model.posterior(x).probs, (joint - model.log_prob(x)[:, None]).exp(), dtype)
    close(model.distribution().log_prob(x), model.log_prob(x), dtype)
    close(log_evidence(model, x[:6]).log_prob, model.log_prob(x[:6]).sum(), dtype)
    torch.manual_seed(0)
    assert model.sample(5).shape == (5, 2)


@rows_in
@pytest.mark.parametrize("name", mixtures())
def test_the_conjugate_role_keeps_its_laws(name, dtype):
    make, x = rows_of(name, dtype)
    check_model(make(), x)


@rows_in
@pytest.mark.parametrize("name", mixtures())
@pytest.mark.parametrize(
    "latents, parameters",
    [
        *CELLS,
        (Tempered(0.4), Point()),
        (Distribution(), Gradient(2, 0.3)),
        (Point(), Gradient(1, 0.9)),
    ],
    ids=lambda b: type(b).__name__,
)
def test_every_cell_of_the_square_runs_and_monotone_ones_never_fall(
    name, latents, parameters, dtype
):
    make, x = rows_of(name, dtype)
    trainer = EM(make(), latents, parameters)
    torch.manual_seed(1)
    climb(trainer, x, 15)  # the trainer stops a monotone cell whose bound falls
    assert np.isfinite(trainer.bounds[-1][1])
    draws = Draw() in (latents, parameters)
    assert trainer.guarantee == (
        "monotone" if not draws else "monotone in expectation" if latents == parameters else "none"
    )


@rows_in
@pytest.mark.parametrize("name", mixtures())
def test_weight_two_is_a_repeated_row(name, dtype):
    from emgen.data.base import Batch

    make, x = rows_of(name, dtype)
    weight = torch.arange(len(x)) % 3
    repeated = x.repeat_interleave(weight, 0)
    one, other = make(), make()
    r = torch.rand(len(x), 3, dtype=F64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for model, rows, w, start in (
        (one, x, weight, r),
        (other, repeated, None, r.repeat_interleave(weight, 0)),
    ):
        if w is None:
            model.start(rows, Point(), r=start)
            climb(EM(model), rows, 4)
        else:
            for prior_name, prior in model.priors.items():
                setattr(model, prior_name, prior.weak(repeated).mode())
            model.m_step(model.statistics(rows, Responsibilities(start.log(), start), w), Point())
            model.started.fill_(True)
            climb(EM(model), Batch(rows, rows, rows, w.to(F64)), 4)
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        if "relocation" not in key:
            close(a, b, dtype)


def test_missing_values_fit_as_the_marginal_says():
    """With one feature always missing in half of the rows, log p(x) sums over what was seen, and EM still never falls."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(40, 3, dtype=F64), torch.randn(40, 3, dtype=F64) + 5])
    x[::2, 1] = torch.nan
    model = GaussianMixture(3, 2, "diagonal")
    climb(EM(model), x, 20)
    seen = model.components.replace(
        mean=model.components.mean[:, [0, 2]],
        variance=model.components.variance[:, [0, 2]],
        kappa=model.components.kappa[:, [0, 2]],
        nu=model.components.nu[:, [0, 2]],
    )
    expected = (seen.log_prob(x[::2][:, [0, 2]]) + model.weights.mean.log()).logsumexp(-1)
    torch.testing.assert_close(model.log_prob(x)[::2], expected)
    assert sorted(model.components.mean[:, 1].round().tolist()) == [0, 5]


@pytest.mark.parametrize("shape", [(50, 5), (50, 3, 5), (50, 1)])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_the_mode_is_the_first_of_the_largest_scores(shape, dtype):
    """In either layout, with ties, rows that nothing explains, and NaN."""
    scores = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for case in ("plain", "ties", "none", "nan"):
        if case == "ties":
            scores[7], scores[9, ..., -1:] = 1.0, scores[9, ..., :1]
        if case == "none":
            scores[11] = -torch.inf
        if case == "nan":
            scores[13, ..., 0] = torch.nan
        for layout in (scores, scores.movedim(-1, 0).contiguous().movedim(0, -1)):
            z = Responsibilities(layout).mode()
            assert torch.equal(z.labels, scores.argmax(-1))
            assert (
                torch.equal(z.probs.argmax(-1), z.labels)
                and z.probs.sum() == z.labels.numel()
                and not z.entropy.any()
            )


# --- starts, restarts, empty components ---------------------------------------------------------


@pytest.mark.parametrize("how", ["kmeans++", "rows", "random"])
def test_starts_are_partitions(how):
    x = torch.randn(50, 2, dtype=F64)
    r = partition(x, 4, 3, how)
    assert r.shape == (50, 3, 4)
    torch.testing.assert_close(r.sum(-1), torch.ones(50, 3, dtype=F64))
    assert (r.sum(0) > 0).all()
    with pytest.raises(ValueError, match="5 components cannot start from 3 rows"):
        partition(x[:3], 5, 1, how)


def test_restarts_side_by_side_are_restarts_one_by_one():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(20, 2, dtype=F64) + c for c in (0, 5, 9)])
    r = partition(x, 3, 4, "rows")
    for covariance in ("full", "tied", "diagonal", "isotropic"):
        together = GaussianMixture(2, 3, covariance, reg_covar=1e-6, n_init=4)
        together.start(x, Point(), r=r)
        climb(EM(together), x, 8)
        alone = []
        for i in range(4):
            model = GaussianMixture(2, 3, covariance, reg_covar=1e-6)
            model.start(x, Point(), r=r[:, i])
            alone.append((climb(EM(model), x, 8), model))
        bound, best = max(alone, key=lambda run: run[0])
        torch.testing.assert_close(together.log_prob(x), best.log_prob(x), rtol=1e-8, atol=1e-8)
        together.select()
        torch.testing.assert_close(
            together.components.mean, best.components.mean, rtol=1e-8, atol=1e-8
        )
        assert together.n_init == 1 and together.weights.mean.shape == (3,)
        assert climb(EM(together), x, 1) >= bound - 1e-9


def test_an_empty_cluster_moves_to_the_worst_row_as_in_scikit_learn():
    rng = np.random.RandomState(0)
    X = rng.randn(60, 2)
    X[:5] += 20
    init = np.array([[0, 0], [100.0, 100], [200, 200], [1, 1]])
    model = GaussianMixture(
        2,
        4,
        "spherical",
        weights="equal",
        prior={"variance": 1.0, "nu": torch.inf},
        start={"mean": init},
    )
    trainer, x = EM(model, Point()), torch.tensor(X)
    for sweeps in range(1, 6):
        trainer.training_step(x, 0)
        with pytest.warns() if sweeps == 1 else __import__("contextlib").nullcontext():
            theirs = KMeans(4, init=init, n_init=1, max_iter=sweeps, algorithm="lloyd", tol=0).fit(
                X
            )
        np.testing.assert_allclose(
            model.components.mean.numpy(), theirs.cluster_centers_, atol=1e-10
        )
    assert (model.posterior(x).mode().probs.sum(0) > 0).all()


# --- Bregman clustering and a user's own family -------------------------------------------------


def test_bregman_mixture_of_the_generalised_kl_is_the_poisson_mixture():
    torch.manual_seed(0)
    x = torch.poisson(torch.tensor([[3.0, 10.0], [12.0, 2.0]], dtype=F64).repeat(40, 1)) + 1
    for latents in (Distribution(), Point()):
        one, other = (
            BregmanMixture(2, 2, GeneralisedKL(), start={"mean": x[:2]}),
            PoissonMixture(2, 2, start={"mean": x[:2]}),
        )
        for trainer in (EM(one, latents), EM(other, latents)):
            climb(trainer, x, 6)
        torch.testing.assert_close(
            one.components.mean, other.components.mean, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize(
    "divergence", [SquaredEuclidean(), GeneralisedKL(), ItakuraSaito()], ids=str
)
def test_bregman_clustering_never_falls_and_equals_lloyd_under_the_squared_loss(divergence):
    torch.manual_seed(0)
    x = torch.cat([torch.rand(30, 2, dtype=F64) + 0.1, torch.rand(30, 2, dtype=F64) + 2])
    for latents in (Distribution(), Point(), Tempered(3.0)):
        model = BregmanMixture(2, 3, divergence, weights="equal", n_init=3)
        climb(EM(model, latents), x, 15)
    model = BregmanMixture(2, 3, divergence, weights="equal", start={"mean": x[[0, 5, 40]]})
    spheres = GaussianMixture(
        2,
        3,
        "spherical",
        weights="equal",
        prior={"variance": 0.5, "nu": torch.inf},
        start={"mean": x[[0, 5, 40]]},
    )
    for trainer in (EM(model, Point()), EM(spheres, Point())):
        climb(trainer, x, 4)
    if isinstance(divergence, SquaredEuclidean):
        torch.testing.assert_close(
            model.components.mean, spheres.components.mean, rtol=0, atol=1e-12
        )
    with pytest.raises(TypeError, match="no known normaliser"):
        climb(EM(BregmanMixture(2, 2, divergence), parameters=Draw()), x, 1)


def test_a_familys_divergence_makes_hard_em_bregman_clustering():
    """−log p(x|θ_k) and D(x, m_k) differ by what no component changes, so hard EM with equal weights clusters by D."""
    _, x = mixtures()["exponential"]
    model = Mixture(
        Categorical.flat(symbols=3).mode(), Exponential(torch.ones(3, 2, dtype=F64), 0.0)
    )
    climb(EM(model, Point()), x, 10)
    nearest = model.components.divergence(x).argmin(-1)
    assert torch.equal(nearest, model.posterior(x).mode().probs.argmax(-1))
    centres = torch.stack([x[nearest == k].mean(0) for k in range(3)])
    torch.testing.assert_close(model.components.mean, centres)
    itakura = BregmanMixture(2, 3, ItakuraSaito(), weights="equal", start={"mean": centres})
    assert torch.equal(
        itakura.posterior(x).scores.argmax(-1), nearest
    )  # exponential waiting times are Itakura-Saito


def test_a_users_family_has_a_hidden_markov_model():
    torch.manual_seed(0)
    x = (
        torch.distributions.Exponential(
            torch.tensor([0.2, 5.0], dtype=F64)[(torch.arange(60) // 15) % 2]
        )
        .sample()
        .view(1, 60, 1)
    )
    for latents, parameters in CELLS:
        model = HiddenMarkovModel(Exponential(torch.ones(2, 1, dtype=F64), 0.0))
        climb(EM(model, latents, parameters), x, 8)
    assert Path(sys.modules["mylab.exponential"].__file__).read_text().count("\n") < 40


# --- shared and fixed parameters, errors --------------------------------------------------------


def test_fixed_parameters_stay_and_the_rest_is_learnt():
    x = torch.cat([torch.randn(30, 1, dtype=F64), torch.randn(30, 1, dtype=F64) + 6])
    model = GaussianMixture(
        1, 2, "spherical", weights=[0.3, 0.7], prior={"variance": 2.0, "nu": torch.inf}
    )
    climb(EM(model), x, 10)
    assert model.weights.mean.tolist() == [0.3, 0.7] and (model.components.variance == 2.0).all()
    model = GaussianMixture(1, 2, "diagonal", prior={"mean": [[0.0], [6.0]], "kappa": torch.inf})
    climb(EM(model), x, 10)
    assert (
        model.components.mean.flatten().tolist() == [0.0, 6.0]
        and model.components.variance.std() > 0
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"weights": "process:abc"}, "γ of a Dirichlet process is a positive number"),
        ({"weights": "process:-1"}, "γ of a Dirichlet process"),
        ({"weights": float("nan")}, "α must be positive"),
        ({"components": 2.5}, "components=2.5: .* a whole number"),
        ({"prior": {"kappa": -1.0}}, "kappa counts the data .* not -1"),
        ({"prior": {"nu": float("nan")}}, "nu counts the data .* not nan"),
        ({"prior": {"variance": -2.0}}, "a variance is 0 or more, .* not -2"),
        ({"start": {"variance": -1.0}}, "a variance is .* not -1"),
    ],
)
def test_priors_and_starts_out_of_their_range_are_refused_before_any_data(arguments, said):
    with pytest.raises(ValueError, match=said):
        GaussianMixture(2, **{"covariance": "diagonal", **arguments})
    with pytest.raises(ValueError, match="concentration counts the data"):
        PoissonMixture(2, prior={"concentration": -1.0})


def test_bad_arguments_are_refused_in_one_sentence():
    for arguments, sentence in (
        ({"components": 0}, "components=0: a mixture needs one component or more"),
        ({"covariance": "fulll"}, "covariance='fulll' is not one of full, tied"),
        ({"weights": [0.5, 0.6]}, "must be non-negative and sum to 1"),
        ({"weights": "eqal"}, "give null, equal, process:γ"),
        ({"start": "kmean"}, "start='kmean' is not one of kmeans"),
        ({"n_init": 0}, "n_init=0: at least one start"),
        ({"reg_covar": -1.0}, "reg_covar=-1.0 must be 0 or more"),
        ({"prior": {"varance": 1.0}}, "has no parameter 'varance'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            GaussianMixture(2, **arguments)
    flat = torch.cat([torch.randn(20, 2, dtype=F64), torch.zeros(20, 2, dtype=F64) + 9])
    with pytest.raises(
        ValueError,
        match=r"covariance of component . is not positive definite .*mass 20.*try reg_covar",
    ):
        climb(EM(GaussianMixture(2, 2)), flat, 3)
