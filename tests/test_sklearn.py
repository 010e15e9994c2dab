"""scikit-learn's estimators, iterate for iterate from the same random state."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import cluster, mixture, neural_network
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from emgen.models import BoltzmannMachine
from emgen.sklearn import BayesianGaussianMixture, BernoulliRBM, GaussianMixture, KMeans

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
TYPES = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module")
def X():
    rng = np.random.RandomState(0)
    return np.vstack(
        [rng.randn(50, 3) @ (rng.randn(3, 3) + np.eye(3)) + rng.randn(3) * 3 for _ in range(4)]
    )


def same(ours, theirs, names, tolerance=1e-8):
    for name in names:
        a, b = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(
    "start, reg",
    [
        ("kmeans", 0),
        ("kmeans", 0.3),
        ("random", 1e-6),
        ("k-means++", 1e-6),
        ("random_from_data", 0.1),
    ],
)
def test_gaussian_mixture_iterates(X, covariance_type, start, reg):
    """From single rows scikit-learn itself needs a regulariser; its weights do not add up to 1 there, so its first bound is none."""
    for sweeps in (1, 2, 3, 5, 9, 20):
        arguments = {
            "n_components": 4,
            "covariance_type": covariance_type,
            "reg_covar": reg,
            "max_iter": sweeps,
            "tol": 0,
            "init_params": start,
            "random_state": 3,
        }
        ours, theirs = (
            GaussianMixture(**arguments).fit(X),
            mixture.GaussianMixture(**arguments).fit(X),
        )
        same(ours, theirs, ("weights_", "means_", "covariances_", "n_iter_"))
        same(ours, theirs, ("precisions_", "precisions_cholesky_"), 1e-6)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7, atol=1e-9)
    assert ours.bic(X) == pytest.approx(theirs.bic(X)) and ours.aic(X) == pytest.approx(
        theirs.aic(X)
    )
    np.testing.assert_allclose(ours.lower_bounds_[1:], theirs.lower_bounds_[1:], rtol=1e-8)
    for a, b in zip(ours.sample(30), theirs.sample(30), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("weights", ["dirichlet_process", "dirichlet_distribution"])
def test_bayesian_mixture_iterates(X, covariance_type, weights):
    for sweeps, reg in zip((1, 2, 3, 5, 9, 20), (0, 0.1) * 3, strict=True):
        arguments = {
            "n_components": 5,
            "covariance_type": covariance_type,
            "reg_covar": reg,
            "max_iter": sweeps,
            "tol": 0,
            "weight_concentration_prior_type": weights,
            "random_state": 3,
            "mean_precision_prior": 0.3,
            "degrees_of_freedom_prior": 4.5,
        }
        ours, theirs = (
            BayesianGaussianMixture(**arguments).fit(X),
            mixture.BayesianGaussianMixture(**arguments).fit(X),
        )
        same(
            ours,
            theirs,
            (
                "weights_",
                "means_",
                "covariances_",
                "mean_precision_",
                "degrees_of_freedom_",
                "weight_concentration_",
                "covariance_prior_",
                "mean_prior_",
                "weight_concentration_prior_",
            ),
        )
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7, atol=1e-9)
    gap = (
        np.array(ours.lower_bounds_) - np.array(theirs.lower_bounds_).ravel()
    )  # our bound has all its constants
    np.testing.assert_allclose(
        gap, gap[-1] if covariance_type in ("full", "tied") else 0, rtol=0, atol=1e-8
    )
    if (
        covariance_type != "tied"
    ):  # whose belief scikit-learn counts as worth the rows of one component, we as worth all
        np.testing.assert_allclose(
            ours.score_samples(X), theirs.score_samples(X), rtol=1e-8, atol=1e-8
        )
    arguments = {
        "n_components": 3,
        "covariance_type": covariance_type,
        "random_state": 0,
        "weight_concentration_prior_type": weights,
    }
    same(
        BayesianGaussianMixture(**arguments).fit(X),
        mixture.BayesianGaussianMixture(**arguments).fit(X),
        ("means_", "n_iter_", "converged_"),
    )


def test_given_starts_and_restarts(X):
    start = {
        "weights_init": np.full(3, 1 / 3),
        "means_init": X[[0, 60, 120]],
        "precisions_init": np.stack([np.eye(3)] * 3),
    }
    for sweeps in (
        1,
        4,
    ):  # with all three given no start is looked for: from single rows none would exist
        arguments = {
            "n_components": 3,
            "max_iter": sweeps,
            "tol": 0,
            "reg_covar": 0,
            "init_params": "k-means++",
            **start,
        }
        same(
            GaussianMixture(**arguments).fit(X),
            mixture.GaussianMixture(**arguments).fit(X),
            ("weights_", "means_", "covariances_"),
        )
    arguments = {"n_components": 4, "n_init": 3, "random_state": 0, "init_params": "random"}
    same(
        GaussianMixture(**arguments).fit(X),
        mixture.GaussianMixture(**arguments).fit(X),
        ("means_", "n_iter_", "converged_"),
    )
    arguments = {"n_clusters": 4, "n_init": 5, "max_iter": 2, "random_state": 1, "init": "random"}
    same(
        KMeans(**arguments).fit(X),
        cluster.KMeans(**arguments).fit(X),
        ("cluster_centers_", "labels_", "inertia_"),
    )
    warm = GaussianMixture(n_components=4, max_iter=3, tol=0, warm_start=True, random_state=0)
    whole = GaussianMixture(n_components=4, max_iter=6, tol=0, random_state=0).fit(X)
    np.testing.assert_allclose(warm.fit(X).fit(X).means_, whole.means_, rtol=1e-10)


@pytest.mark.parametrize("init", ["k-means++", "random", "given"])
@pytest.mark.parametrize("weighted", [False, True])
def test_k_means_iterates(X, init, weighted):
    weight = np.random.RandomState(1).rand(len(X)) * 3 if weighted else None
    for sweeps in (1, 2, 3, 6, 300):
        arguments = {
            "n_clusters": 6,
            "init": X[:6] if init == "given" else init,
            "max_iter": sweeps,
            "random_state": 5,
            "n_init": 1,
        }
        ours = KMeans(**arguments).fit(X, sample_weight=weight)
        theirs = cluster.KMeans(**arguments).fit(X, sample_weight=weight)
        same(ours, theirs, ("cluster_centers_", "labels_", "inertia_", "n_iter_"))
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), atol=1e-8)
    assert (
        ours.score(X) == pytest.approx(theirs.score(X))
        and (ours.predict(X) == theirs.predict(X)).all()
    )


def test_k_means_with_far_clusters_and_restarts():
    rng = np.random.RandomState(0)
    X = rng.randn(300, 4) + 1e4 * rng.randn(5, 4)[rng.randint(5, size=300)]
    ours, theirs = (K(5, n_init=5, random_state=2).fit(X) for K in (KMeans, cluster.KMeans))
    assert ours.inertia_ == pytest.approx(theirs.inertia_)


@pytest.mark.parametrize(
    "estimator",
    [GaussianMixture(), BayesianGaussianMixture(), KMeans(n_clusters=3)],
    ids=lambda e: type(e).__name__,
)
def test_scikit_learns_own_checks(estimator):
    """scikit-learn marks the weight check of its own KMeans as expected to fail: seeds are drawn from rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failed = {
            r["check_name"]
            for r in check_estimator(estimator, on_fail=None)
            if r["status"] == "failed"
        }
    assert failed <= (
        {"check_sample_weight_equivalence_on_dense_data"}
        if isinstance(estimator, KMeans)
        else set()
    )


@pytest.mark.parametrize("estimator", [GaussianMixture, BayesianGaussianMixture])
def test_single_precision_and_warm_starts(X, estimator):
    peer = getattr(mixture, estimator.__name__)
    ours, theirs = (
        e(n_components=4, tol=0, max_iter=4, random_state=0).fit(X.astype(np.float32))
        for e in (estimator, peer)
    )
    same(ours, theirs, ("means_", "covariances_", "n_iter_"), 1e-4)
    assert ours.means_.dtype == ours.predict_proba(X.astype(np.float32)).dtype == np.float32
    ours, theirs = (
        e(n_components=4, max_iter=3, warm_start=True, random_state=0).fit(X).fit(X).fit(X)
        for e in (estimator, peer)
    )
    same(ours, theirs, ("means_", "covariances_", "n_iter_", "converged_"))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("estimator", [GaussianMixture, BayesianGaussianMixture])
def test_a_warm_start_takes_todays_data_and_arguments(X, covariance_type, estimator):
    """Only parameters go on: priors are those of the rows of this fit, and its arguments count."""
    peer, how = (
        getattr(mixture, estimator.__name__),
        {"covariance_type": covariance_type, "random_state": 0},
    )
    ours, theirs = (
        e(n_components=3, max_iter=2, tol=0, warm_start=True, **how).fit(X[:120])
        for e in (estimator, peer)
    )
    for rows, changed in ((160, {}), (200, {"reg_covar": 0.5}), (150, {"max_iter": 5})):
        ours.set_params(**changed).fit(X[:rows])
        theirs.set_params(**changed).fit(X[:rows])
        same(ours, theirs, ("weights_", "means_", "covariances_", "n_iter_"))
    with pytest.raises(ValueError, match=r"warm_start=True goes on from .* leave n_components"):
        ours.set_params(n_components=2).fit(X)


def test_samples_and_errors(X):
    model = GaussianMixture(3, random_state=0).fit(X)
    rows, labels = model.sample(4000)
    assert rows.shape == (4000, 3) and (np.diff(labels) >= 0).all()
    np.testing.assert_allclose(np.bincount(labels) / 4000, model.weights_, atol=0.04)
    np.testing.assert_allclose(
        rows[labels == 0].mean(0),
        model.means_[0],
        atol=5 * np.sqrt(model.covariances_[0].max() / 1000),
    )
    with pytest.raises(NotFittedError):
        GaussianMixture().predict(X)
    for arguments, sentence in (
        ({"n_components": 0}, "n_components=0 must be 1 or more"),
        ({"covariance_type": "fulll"}, "is not one of full"),
        ({"init_params": "kmean"}, "is not one of kmeans"),
        ({"n_components": 500}, "at least as many samples"),
    ):
        with pytest.raises(ValueError, match=sentence):
            GaussianMixture(**arguments).fit(X)
    with pytest.warns(ConvergenceWarning, match="still moved by more than tol"):
        GaussianMixture(4, max_iter=1, random_state=0).fit(X)


def test_a_step_of_the_boltzmann_machine_is_its_contrastive_gradient():
    """Biases of ±60 leave nothing to chance in the chain's visible state, so the step is known in advance."""
    X = (np.random.RandomState(1).rand(6, 5) < 0.5).astype(np.float64)
    ours = BernoulliRBM(3, learning_rate=0.3, batch_size=4, random_state=0).partial_fit(X)
    state = torch.tensor([1.0, 0, 0, 1, 1])
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    ours.machine_.assign(weight, 60 * (2 * state - 1), torch.tensor([0.1, -0.4, 0.2]))
    before = {name: p.detach().clone() for name, p in ours.machine_.named_parameters()}
    dream, data = state.expand(4, 5), torch.tensor(X, dtype=torch.float32)
    step = ours.machine_.statistics(
        torch.cat([data, dream]), torch.tensor([1 / 6] * 6 + [-1 / 4] * 4)
    )
    ours.partial_fit(X)
    for name, p in ours.machine_.named_parameters():
        torch.testing.assert_close(
            p.detach(), before[name] + 0.3 * step[name], rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_boltzmann_machine_learns_as_well_as_scikit_learns(precision):
    X = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]] * 30, dtype=np.float64)

    def likelihood(model):
        machine = BoltzmannMachine((4,), 6, centred=False)
        machine.assign(
            *(
                torch.tensor(values, dtype=torch.float32)
                for values in (
                    model.components_.T,
                    model.intercept_visible_,
                    model.intercept_hidden_,
                )
            )
        )
        return float(
            (
                -machine.energy(torch.tensor(X[:3], dtype=torch.float32)).mean()
                - machine.log_partition()
            ).detach()
        )

    arguments = {"n_components": 6, "learning_rate": 0.1, "batch_size": 10, "n_iter": 100}
    ours = [
        likelihood(BernoulliRBM(**arguments, precision=precision, random_state=seed).fit(X))
        for seed in range(12)
    ]
    theirs = [
        likelihood(neural_network.BernoulliRBM(**arguments, random_state=seed).fit(X))
        for seed in range(12)
    ]
    assert np.mean(ours) == pytest.approx(
        np.mean(theirs), abs=3.5 * np.sqrt((np.var(ours) + np.var(theirs)) / 12)
    )


def test_the_boltzmann_machine_answers_as_scikit_learns_with_its_parameters():
    X = (np.random.RandomState(0).rand(40, 7) < 0.4).astype(np.float64)
    ours = BernoulliRBM(4, random_state=0, n_iter=3).fit(X)
    theirs = neural_network.BernoulliRBM(4, random_state=0, n_iter=3).fit(X)
    assert ours.h_samples_.shape == theirs.h_samples_.shape and set(np.unique(ours.h_samples_)) <= {
        0.0,
        1.0,
    }
    theirs.components_, theirs.intercept_hidden_, theirs.intercept_visible_ = (
        ours.components_,
        ours.intercept_hidden_,
        ours.intercept_visible_,
    )
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-5)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-5)


def test_a_boltzmann_machine_that_diverges_says_so():
    with pytest.raises(FloatingPointError, match="learning_rate=1e\\+39"):
        BernoulliRBM(4, learning_rate=1e39, random_state=0).fit(np.eye(5))
