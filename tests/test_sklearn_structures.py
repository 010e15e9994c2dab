"""hmmlearn's HMMs and scikit-learn's LDA over our models: same starts, arguments, iterates and attributes."""

import numpy as np
import pytest

from emgen.sklearn import CategoricalHMM, GaussianHMM, LatentDirichletAllocation

LENGTHS = [50, 40, 30]


def frames(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(120, 2)) + 3 * rng.integers(0, 3, (120, 1))


def corpus(seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(
        rng.dirichlet(np.ones(4) * 0.3, 60) @ rng.dirichlet(np.ones(30) * 0.1, 4) * 60
    )


@pytest.fixture(scope="module")
def hmm():
    return pytest.importorskip("hmmlearn.hmm", reason="hmmlearn is in the bench extra")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["diag", "spherical", "full", "tied"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"covars_prior": 0.0},
        {
            "means_prior": 1.0,
            "means_weight": 2.0,
            "covars_prior": 0.5,
            "covars_weight": 5,
            "startprob_prior": 2.0,
            "transmat_prior": 1.5,
        },
        {"params": "tm", "n_iter": 4},
        {"init_params": "mc", "transmat_prior": 1.5, "covars_prior": 0.0},
    ],
    ids=["flat", "priors", "fixed covariances", "a zero of one's own under a prior"],
)
def test_gaussian_hmm_equals_hmmlearn(hmm, kind, arguments):
    x = frames()
    ours, theirs = (
        cls(3, kind, random_state=0, **arguments) for cls in (GaussianHMM, hmm.GaussianHMM)
    )
    for model in (ours, theirs) if "init_params" in arguments else ():
        model.startprob_, model.transmat_ = (
            np.full(3, 1 / 3),
            np.array([[0.5, 0.5, 0.0], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]]),
        )
    ours, theirs = ours.fit(x, LENGTHS), theirs.fit(x, LENGTHS)
    for name in ("startprob_", "transmat_", "means_"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-8, err_msg=name
        )
    covars = theirs._covars_[:, 0] if kind == "spherical" else theirs._covars_
    np.testing.assert_allclose(ours._covars_, covars, rtol=0, atol=1e-8)
    assert ours.covars_.shape == (3, 2, 2) and ours.monitor_.iter == theirs.monitor_.iter
    np.testing.assert_allclose(ours.monitor_.history[-1], theirs.monitor_.history[-1], atol=1e-7)
    np.testing.assert_allclose(
        ours.get_stationary_distribution(), theirs.get_stationary_distribution(), atol=1e-8
    )
    for score in ("score", "bic", "aic"):
        np.testing.assert_allclose(
            getattr(ours, score)(x, LENGTHS), getattr(theirs, score)(x, LENGTHS), atol=1e-7
        )
    np.testing.assert_allclose(
        ours.predict_proba(x, LENGTHS), theirs.predict_proba(x, LENGTHS), atol=1e-8
    )
    for algorithm in ("viterbi", "map"):
        (score, path), (other, same) = (
            m.decode(x, LENGTHS, algorithm=algorithm) for m in (ours, theirs)
        )
        np.testing.assert_array_equal(path, same)
        np.testing.assert_allclose(score, other, atol=1e-7)


def test_the_default_prior_of_hmmlearn_is_met_nearly(hmm):
    """hmmlearn adds covars_prior to scatters whose weight is 0, which no prior does; ours has the weight 1e-8."""
    x = frames()
    ours, theirs = (
        GaussianHMM(3, random_state=0).fit(x, LENGTHS),
        hmm.GaussianHMM(3, random_state=0).fit(x, LENGTHS),
    )
    np.testing.assert_allclose(ours.means_, theirs.means_, atol=1e-7)
    np.testing.assert_allclose(ours._covars_, theirs._covars_, atol=1e-7)


@pytest.mark.parametrize(
    "arguments", [{}, {"emissionprob_prior": 1.5, "n_features": 7}], ids=["flat", "prior"]
)
def test_categorical_hmm_equals_hmmlearn(hmm, arguments):
    x = np.random.default_rng(0).integers(0, 5, (120, 1))
    ours = CategoricalHMM(3, random_state=0, **arguments).fit(x, LENGTHS)
    theirs = hmm.CategoricalHMM(3, random_state=0, **arguments).fit(x, LENGTHS)
    for name in ("startprob_", "transmat_", "emissionprob_"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-9, err_msg=name
        )
    np.testing.assert_allclose(ours.bic(x, LENGTHS), theirs.bic(x, LENGTHS))
    drawn, states = ours.sample(20, random_state=0)
    assert drawn.shape == (20, 1) and states.shape == (20,) and drawn.max() < 7


def test_parameters_set_beforehand_are_kept_and_bad_ones_named():
    x = frames()
    model = GaussianHMM(2, init_params="mc", params="mc", n_iter=3)
    model.startprob_, model.transmat_ = [1.0, 0.0], [[0.5, 0.5], [0.0, 1.0]]
    model.fit(x)
    np.testing.assert_array_equal(model.transmat_, [[0.5, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match="leaves startprob_ to you"):
        GaussianHMM(2, init_params="tmc").fit(x)
    with pytest.raises(ValueError, match="add up to the 120 samples, not to 100"):
        GaussianHMM(2).fit(x, [100])
    with pytest.raises(ValueError, match="covariance_type='banana'"):
        GaussianHMM(2, "banana").fit(x)
    with pytest.raises(ValueError, match="column of integers"):
        CategoricalHMM(2).fit(np.array([[-1], [2]]))


@pytest.mark.parametrize("method", ["batch", "online"])
def test_lda_equals_scikit_learn(method):
    from sklearn.decomposition import LatentDirichletAllocation as Theirs

    x = corpus()
    arguments = {
        "random_state": 0,
        "max_iter": 4,
        "learning_method": method,
        "batch_size": 16,
        "mean_change_tol": 1e-10,
        "max_doc_update_iter": 2000,
    }
    ours, theirs = LatentDirichletAllocation(4, **arguments).fit(x), Theirs(4, **arguments).fit(x)
    np.testing.assert_allclose(ours.components_, theirs.components_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        ours.exp_dirichlet_component_, theirs.exp_dirichlet_component_, rtol=1e-5, atol=1e-8
    )
    np.testing.assert_allclose(ours.transform(x[:7]), theirs.transform(x[:7]), atol=1e-7)
    np.testing.assert_allclose(ours.score(x), theirs.score(x), rtol=1e-8)
    np.testing.assert_allclose(
        ours.perplexity(x, sub_sampling=True), theirs.perplexity(x, sub_sampling=True), rtol=1e-7
    )
    assert ours.n_batch_iter_ == theirs.n_batch_iter_ and ours.n_iter_ == theirs.n_iter_


def test_lda_stops_each_document_where_scikit_learn_does(monkeypatch):
    """At the default tolerance iterates are equal once scikit-learn is given a digamma that is good to more than 3e-9."""
    from scipy.special import psi
    from sklearn.decomposition import _lda

    def weights(counts, prior, out):
        counts += prior
        out[:] = np.exp(psi(counts) - psi(counts.sum()))

    monkeypatch.setattr(
        _lda, "_dirichlet_expectation_2d", lambda a: psi(a) - psi(a.sum(1, keepdims=True))
    )
    monkeypatch.setattr(_lda, "cy_dirichlet_expectation_1d", {"double": weights})
    x = corpus()
    ours, theirs = (
        cls(4, random_state=0, max_iter=5).fit(x)
        for cls in (LatentDirichletAllocation, _lda.LatentDirichletAllocation)
    )
    np.testing.assert_allclose(ours.components_, theirs.components_, rtol=1e-9)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), rtol=1e-9)
    np.testing.assert_allclose(
        [ours.bound_, ours.score(x)], [theirs.bound_, theirs.score(x)], rtol=1e-11
    )


def test_lda_stops_on_perplexity_and_takes_sparse_and_partial_fits():
    from scipy import sparse
    from sklearn.decomposition import LatentDirichletAllocation as Theirs

    x = corpus()
    ours, theirs = (
        cls(4, random_state=0, max_iter=40, evaluate_every=1, perp_tol=0.05).fit(x)
        for cls in (LatentDirichletAllocation, Theirs)
    )
    assert (
        ours.n_iter_ == theirs.n_iter_ < 40
    )  # the falls, .045 and .079 around it, are far from .05
    np.testing.assert_allclose(ours.bound_, theirs.bound_, rtol=1e-7)
    again = LatentDirichletAllocation(4, random_state=0, max_iter=2).fit(sparse.csr_matrix(x))
    np.testing.assert_allclose(
        again.components_,
        LatentDirichletAllocation(4, random_state=0, max_iter=2).fit(x).components_,
    )
    arguments = {
        "random_state": 0,
        "total_samples": 60,
        "batch_size": 20,
        "mean_change_tol": 1e-10,
        "max_doc_update_iter": 2000,
    }
    ours, theirs = (
        LatentDirichletAllocation(4, **arguments).partial_fit(x),
        Theirs(4, **arguments).partial_fit(x),
    )
    np.testing.assert_allclose(ours.components_, theirs.components_, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="neither batch nor online"):
        LatentDirichletAllocation(learning_method="slow").fit(x)
