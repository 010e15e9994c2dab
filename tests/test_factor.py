"""Factor analysis and probabilistic PCA: closed forms, missing values, the belief square, and the regression family."""

import itertools

import pytest
import torch
from torch.distributions import MultivariateNormal

import emgen
from emgen.estimators.beliefs import Distribution, Draw, Gradient, MeanField, Point
from emgen.families import LinearGaussian
from emgen.models import FactorAnalysis, factor_analysis
from emgen.testing import check_model
from emgen.trainers import EM

F64 = torch.float64


def rows(n=60, features=5, latent=2, offset=0.0, seed=0):
    torch.manual_seed(seed)
    w = torch.randn(latent, features, dtype=F64) * 2
    return (
        torch.randn(n, latent, dtype=F64) @ w
        + torch.randn(n, features, dtype=F64) * 0.5
        + offset
        + torch.arange(features)
    )


def gentle(n=300):
    """Two factors in six features with much noise, where EM converges fast."""
    torch.manual_seed(0)
    w = torch.tensor([[1, 1, 1, 0.5, 0, 0], [0, 0, 0.5, 1, 1, 1]], dtype=F64)
    return torch.randn(n, 2, dtype=F64) @ w + 0.8 * torch.randn(n, 6, dtype=F64)


def holes(x, share=0.15, seed=1):
    torch.manual_seed(seed)
    return x.masked_fill(torch.rand_like(x) < share, torch.nan)


def iterate(model, x, latents=Distribution(), parameters=Point(), sweeps=10, weight=None):
    if not isinstance(parameters, Point):
        model.make_proper(x)
    if not model.started:
        model.start(x, parameters)
    bounds = []
    for _ in range(sweeps):
        s = model.statistics(x, latents(model.posterior(x)), weight)
        bounds.append(model.free_energy(s)["elbo"].item())
        bounds.append(model.free_energy(model.m_step(s, parameters))["elbo"].item())
    return bounds


def assert_monotone(bounds, tolerance=1e-9):
    for before, after in itertools.pairwise(bounds):
        assert after >= before - tolerance * max(1, abs(before)), f"{before} fell to {after}"


def marginal(model):
    w = model.loadings.mean
    noise = model.loadings.variance.expand(len(w)).diag()
    return w[:, -1], w[:, :-1] @ w[:, :-1].T + noise


@pytest.mark.parametrize("noise", ["diagonal", "spherical"])
def test_log_prob_is_the_gaussians_and_missing_values_are_integrated_out(noise):
    x = rows()
    model = factor_analysis(5, 2, noise)
    iterate(model, x, sweeps=3)
    mean, covariance = marginal(model)
    torch.testing.assert_close(
        model.log_prob(x), MultivariateNormal(mean, covariance).log_prob(x), rtol=1e-11, atol=1e-11
    )
    seen = torch.tensor([0, 2, 3])
    part = x.clone()
    part[:, [1, 4]] = torch.nan
    exact = MultivariateNormal(mean[seen], covariance[seen][:, seen]).log_prob(x[:, seen])
    torch.testing.assert_close(model.log_prob(part), exact, rtol=1e-11, atol=1e-11)
    drawn = model.sample(40_000)
    z = (drawn.mean(0) - mean) / (covariance.diagonal() / 40_000).sqrt()
    assert z.abs().max() < 4.5
    torch.testing.assert_close(torch.cov(drawn.T), covariance, rtol=0.05, atol=0.1)


def test_the_fixed_point_of_probabilistic_pca_is_the_eigensolution():
    """σ² is the mean of the discarded eigenvalues, WWᵀ = U(Λ − σ²)Uᵀ (Tipping and Bishop)."""
    x = gentle()
    model = factor_analysis(6, 2, "spherical")
    iterate(model, x, sweeps=200)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise, vectors = values[:4].mean(), vectors[:, 4:]
    torch.testing.assert_close(model.loadings.variance, noise[None], rtol=1e-10, atol=0)
    mean, covariance = marginal(model)
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-10, atol=1e-12)
    expected = vectors * (values[4:] - noise) @ vectors.T + noise * torch.eye(6, dtype=F64)
    torch.testing.assert_close(covariance, expected, rtol=1e-8, atol=1e-10)


def test_factor_analysis_reaches_the_likelihood_of_scikit_learn():
    from sklearn.decomposition import FactorAnalysis as Theirs

    x = gentle()
    model = factor_analysis(6, 2)
    iterate(model, x, sweeps=200)
    theirs = Theirs(2, tol=1e-10, svd_method="lapack").fit(x.numpy())
    assert abs(model.log_prob(x).mean().item() - theirs.score(x.numpy())) < 1e-6


@pytest.mark.parametrize("noise", ["diagonal", "spherical"])
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
@pytest.mark.parametrize(
    "latents", [Distribution(), MeanField(), Draw(), Point()], ids=lambda b: type(b).__name__
)
@pytest.mark.parametrize(
    "parameters", [Point(), Distribution(), Draw()], ids=lambda b: type(b).__name__
)
def test_every_cell_runs_and_monotone_cells_never_fall(noise, missing, latents, parameters):
    if noise == "diagonal" and isinstance(latents, Point) and isinstance(parameters, Point):
        pytest.skip(
            "log p(x, z) has no maximum: a factor equal to one feature lets its noise vanish"
        )
    x = holes(rows(30)) if missing else rows(30)
    bounds = iterate(factor_analysis(5, 2, noise), x, latents, parameters, sweeps=6)
    assert torch.tensor(bounds).isfinite().all()
    if not isinstance(latents, Draw) and not isinstance(
        parameters, Draw
    ):  # the mean field is solved exactly here
        assert_monotone(bounds)


@pytest.mark.parametrize("trainer", ["em", "hard_em", "vbem", "me", "stochastic_em", "gibbs"])
def test_every_trainer_fits_factors(trainer):
    result = emgen.fit(
        factor_analysis(5, 2, "spherical"), holes(rows(30)), trainer, max_epochs=3, device="cpu"
    )
    assert all(torch.tensor(list(epoch.values())).isfinite().all() for epoch in result.history)


def test_the_bound_rises_far_from_the_origin_and_in_float32():
    x = rows(offset=1e6)
    assert_monotone(iterate(factor_analysis(5, 2), x, sweeps=30))
    assert_monotone(iterate(factor_analysis(5, 2), x.float(), sweeps=10), 1e-5)


@pytest.mark.parametrize("far", [1e4, 1e5, 1e6])
@pytest.mark.parametrize("noise", ["diagonal", "spherical"])
def test_the_bound_rises_beside_a_far_outlier(noise, far):
    """A factor for the outlier alone is far²/ψ strong: what the inverse of its precision lost showed as falls of 0.1 nats."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, dtype=F64, generator=rng) @ torch.randn(2, 4, dtype=F64, generator=rng)
    x = torch.cat(
        [x + 0.3 * torch.randn(50, 4, dtype=F64, generator=rng), torch.full((1, 4), far, dtype=F64)]
    )
    for parameters in (Point(), Distribution(), Gradient(2, 0.5)):
        torch.manual_seed(0)
        trainer = EM(factor_analysis(4, 2, noise), parameters=parameters)
        for _ in range(40):
            trainer.training_step(x, 0)


def test_a_vanishing_noise_is_refused_by_name():
    x = rows()
    x[:, 3] = x[:, 1]  # two features that one factor explains exactly
    with pytest.raises(ValueError, match="the noise of feature"):
        iterate(factor_analysis(5, 3), x, Point(), sweeps=100)


def test_weights_count_rows():
    x, weight = holes(rows(20)), torch.arange(20) % 3
    model = factor_analysis(5, 2)
    model.start(x, Point())
    repeated = x.repeat_interleave(weight, 0)
    one, other = (
        model.statistics(x, model.posterior(x), weight),
        model.statistics(repeated, model.posterior(repeated)),
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-11, atol=1e-11)


def test_the_model_keeps_its_contract():
    check_model(factor_analysis(5, 2), rows(8))


# --- the family ---------------------------------------------------------------------------------


def regression(spherical, n=12):
    torch.manual_seed(0)
    u = torch.randn(n, 2, dtype=F64)
    x = u @ torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]], dtype=F64) + 0.3 * torch.randn(
        n, 3, dtype=F64
    )
    prior = LinearGaussian(
        torch.full((3, 2), 0.2, dtype=F64),
        torch.tensor([0.5] if spherical else [0.5, 1.0, 2.0], dtype=F64),
        torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=F64),
        3.0,
    )
    return u, x, prior


def none(weight):
    return torch.zeros(weight.shape[1], 2, 2, dtype=F64)  # regressors that are known do not vary


@pytest.mark.parametrize("spherical", [False, True])
def test_the_free_energy_at_the_conjugate_posterior_is_the_evidence(spherical):
    """log p(x | u) of a Normal-Gamma regression is a product of multivariate Student densities, one for each noise."""
    u, x, prior = regression(spherical)
    s = prior.statistics(x, u, none)
    after = prior.update(s, prior)
    free_energy = (after.expected_fit(after.rebase(s, prior)) - after.kl(prior)).sum()
    scale = torch.eye(12, dtype=F64) + u @ torch.linalg.inv(prior.precision[0]) @ u.T

    def student(residual, nu, variance, copies):  # x of `copies` features that share a noise
        dimension = 12 * copies
        square = sum(r @ torch.linalg.solve(scale, r) for r in residual)
        return (
            torch.lgamma((nu + dimension) / 2)
            - torch.lgamma(nu / 2)
            - dimension / 2 * torch.log(torch.pi * nu * variance)
            - copies / 2 * torch.linalg.slogdet(scale)[1]
            - (nu + dimension) / 2 * torch.log1p(square / (nu * variance))
        )

    residual, nu = (x - u @ prior.mean.T).T, torch.tensor(3.0, dtype=F64)
    if spherical:
        exact = student(residual, nu, 0.5, 3)
    else:
        exact = sum(student(r[None], nu, v, 1) for r, v in zip(residual, [0.5, 1.0, 2.0]))
    torch.testing.assert_close(free_energy, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_statistics_carry_the_expected_fit(spherical, missing):
    u, x, prior = regression(spherical)
    x = holes(x, 0.3) if missing else x
    for belief in (
        prior,
        prior.mode(),
        prior.sample(),
        prior.update(prior.statistics(x, u, none), prior),
    ):
        c, h, j = belief.quadratic(x, torch.zeros(2, dtype=F64))
        score = (
            c + (h * u).sum(1) - 0.5 * torch.einsum("np,...pq,nq->n", u, j, u)
            if not missing
            else c + (h * u).sum(1) - 0.5 * torch.einsum("np,npq,nq->n", u, j, u)
        )
        torch.testing.assert_close(
            belief.expected_fit(belief.statistics(x, u, none)).sum(),
            score.sum(),
            rtol=1e-11,
            atol=1e-11,
        )
        rebased = belief.rebase(prior.statistics(x, u, none), prior)
        for name, value in belief.statistics(x, u, none).items():
            torch.testing.assert_close(rebased[name], value, rtol=1e-10, atol=1e-10)


def test_beliefs_about_regressors_enter_by_two_moments():
    """Statistics of a belief = the mean of statistics of its draws, here of a fair coin between two values."""
    u, x, prior = regression(False)
    other = u + torch.randn_like(u)
    mean, half = (u + other) / 2, (u - other) / 2

    def scatter(weight):
        return torch.einsum("nd,np,nq->dpq", weight, half, half)

    belief = prior.statistics(x, mean, scatter)
    for name, value in prior.statistics(x, u, none).items():
        torch.testing.assert_close(
            belief[name],
            (value + prior.statistics(x, other, none)[name]) / 2,
            rtol=1e-11,
            atol=1e-11,
        )


def test_draws_have_the_moments_of_the_belief():
    _, _, prior = regression(False)
    torch.manual_seed(0)
    wide = LinearGaussian(
        prior.mean.repeat(20_000, 1),
        prior.variance.repeat(20_000),
        prior.precision.repeat(20_000, 1, 1),
        9.0,
    )
    draw = wide.sample()
    tau = (1 / draw.variance).view(-1, 3)
    expected = 1 / prior.variance
    error = (expected**2 * 2 / 9 / 20_000).sqrt()
    assert ((tau.mean(0) - expected) / error).abs().max() < 4.5
    moved = (draw.mean - wide.mean).view(-1, 3, 2) * tau.sqrt()[
        ..., None
    ]  # whitened of the noise: covariance Λ⁻¹
    covariance = torch.einsum("nda,ndb->dab", moved, moved) / 20_000
    torch.testing.assert_close(covariance, torch.linalg.inv(prior.precision), atol=0.06, rtol=0)


def test_a_flat_belief_cannot_be_drawn():
    with pytest.raises(ValueError, match="flat"):
        LinearGaussian.flat(2, 2).sample()
    with pytest.raises(ValueError, match="has shape"):
        LinearGaussian(torch.zeros(3, 2), torch.ones(2))
    with pytest.raises(ValueError, match="neither random"):
        FactorAnalysis(LinearGaussian.flat(2, 2), start="pca")
