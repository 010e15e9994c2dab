"""log p(x) through decoders against a linear-Gaussian model, whose evidence and posterior are known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from emgen.distributions import Dirac
from emgen.evaluation.inference import DecoderPath, annealed, boltzmann, inference_gaps, sandwich
from emgen.evaluation.scores import scores
from emgen.models import BoltzmannMachine, DeepBoltzmannMachine, helmholtz_machine
from emgen.models.boltzmann import binary_states


class LinearGaussian(nn.Module):
    """x = A z + ε with a deliberately poor encoder: posterior precision has correlations that a diagonal q has not."""

    def __init__(self, shift=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.loadings = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
        self.shift = shift

    def prior(self):
        return Independent(Normal(self.loadings.new_zeros(2), 1.0), 1)

    def likelihood(self, z):
        return Independent(Normal(z @ self.loadings.T, 0.5), 1)

    def posterior(self, x):
        precision = torch.eye(2).double() + self.loadings.T @ self.loadings / 0.25
        return MultivariateNormal(x @ self.loadings / 0.25 @ precision.inverse(), precision_matrix=precision)

    def best_diagonal(self, x):
        exact = self.posterior(x)
        return Independent(Normal(exact.mean, exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()), 1)

    def recognition(self, x):
        best = self.best_diagonal(x)
        return Independent(Normal(best.mean + self.shift, best.stddev), 1)

    def evidence(self, x):
        covariance = self.loadings @ self.loadings.T + 0.25 * torch.eye(3).double()
        return MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x)


@pytest.fixture
def x():
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_annealing_meets_the_evidence_and_its_reverse_does_too(x):
    model = LinearGaussian()
    estimate = annealed(model, x, temperatures=150, chains=64, leapfrogs=4)
    assert estimate.value == pytest.approx(model.evidence(x).mean().item(), abs=0.03)
    assert estimate.ess > 40 and "AIS" in estimate.method
    below, above = sandwich(model, n=100, temperatures=150, chains=16, leapfrogs=5)
    torch.manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        simulated = model.likelihood(model.prior().sample((100,))).sample()
    exact = model.evidence(simulated).mean().item()
    assert below.value - 0.05 < exact < above.value + 0.05
    assert above.value - below.value < 0.4


def test_a_base_of_ones_own_reaches_the_same_constant(x):
    from emgen.estimators.normalising import annealed_importance_sampling

    torch.manual_seed(0)
    model, betas = LinearGaussian(shift=0.3), torch.linspace(0, 1, 21, dtype=torch.float64)
    path = DecoderPath(model, x, base=model.recognition(x)).tune(betas)
    estimate = annealed_importance_sampling(path, betas, 200)
    assert ((estimate.value - model.evidence(x)).abs() < 4 * estimate.error + 1e-3).all()


def test_tuned_steps_are_accepted_about_as_often_as_asked_for(x):
    from emgen.estimators.chains import hamiltonian

    torch.manual_seed(0)
    model, betas = LinearGaussian(), torch.linspace(0, 1, 101, dtype=torch.float64)
    path = DecoderPath(model, x, leapfrogs=4).tune(betas)
    z = model.posterior(x).sample((100,))
    _, probability = hamiltonian(lambda z: path.energy(z, betas[-1]), z, path.steps[-1].expand(100, 12), path.leapfrogs)
    assert 0.4 < probability.mean() < 0.9


def test_the_gap_splits_into_approximation_and_amortisation(x):
    """Both known in closed form: KL(q* ‖ posterior) of the best diagonal q, and what a shift of its mean costs."""
    model = LinearGaussian(shift=0.2)
    exact, best = model.posterior(x), model.best_diagonal(x)
    approximation = torch.distributions.kl_divergence(MultivariateNormal(best.mean, torch.diag_embed(best.variance)), exact)
    shift = torch.full((2,), 0.2).double()
    amortisation = shift @ exact.precision_matrix[0] @ shift / 2
    gaps = inference_gaps(model, x, samples=4000, temperatures=10, chains=8, steps=200)
    assert gaps["approximation"].value == pytest.approx(approximation.mean().item(), abs=0.03)
    assert gaps["amortisation"].value == pytest.approx(amortisation.item(), abs=0.03)
    assert gaps["log_likelihood"].value == pytest.approx(model.evidence(x).mean().item(), abs=0.03)
    total = gaps["log_likelihood"].value - gaps["elbo"].value
    assert gaps["gap"].value == pytest.approx(total, abs=1e-9)
    assert gaps["approximation"].value + gaps["amortisation"].value == pytest.approx(total, abs=1e-9)
    assert gaps["approximation"].error < 0.1 * gaps["elbo"].error  # datum by datum, what the data differ in cancels
    assert gaps["log_likelihood"] == gaps["importance_weighted"]  # ten temperatures are noise that must not choose


def test_a_poor_encoder_is_scored_by_annealing_and_its_best_is_found_block_by_block(x):
    model = LinearGaussian(shift=2.0)
    best, exact = model.best_diagonal(x), model.posterior(x)
    approximation = torch.distributions.kl_divergence(MultivariateNormal(best.mean, torch.diag_embed(best.variance)), exact)
    gaps = inference_gaps(model, x, samples=500, temperatures=200, chains=32, steps=400, block=5)
    assert gaps["log_likelihood"] == gaps["annealed"] and gaps["annealed"].value > gaps["importance_weighted"].value + 0.5
    assert gaps["log_likelihood"].value == pytest.approx(model.evidence(x).mean().item(), abs=0.08)
    assert gaps["elbo_optimal"].value == pytest.approx((model.evidence(x) - approximation).mean().item(), abs=0.03)


def test_evaluation_anneals_through_any_decoder_with_or_without_an_encoder(x):
    """What `emgen evaluate run=DIR temperatures=...` prints: a GAN's decoder has a likelihood but no encoder."""
    model = LinearGaussian(shift=0.2)
    split = scores(model, x, 100, temperatures=50, chains=8)
    assert split.keys() > {"annealed", "approximation", "amortisation", "gap", "elbo", "log_likelihood"}
    model.recognition = None
    assert scores(model, x, 100) == {}
    annealing = scores(model, x, 100, temperatures=100, chains=32)["log_likelihood"]
    assert annealing == annealed(model, x, 100, 32) and "AIS, 100 temperatures, 32 chains" in annealing.method
    machine, rows = BoltzmannMachine((21,), 21), torch.ones(3, 21)
    assert "AIS, 30 temperatures, 7 chains" in scores(machine, rows, 1, temperatures=30, chains=7)["log_likelihood"].method


def test_data_outside_the_support_of_a_decoder_are_refused(x):
    model = LinearGaussian()
    model.likelihood = lambda z: Independent(Bernoulli(logits=z @ model.loadings.T), 1)
    with pytest.raises(ValueError, match="outside the support"):
        annealed(model, x)


def test_latents_without_gradients_and_points_without_likelihoods_are_refused(x):
    with pytest.raises(TypeError, match="layered or discrete"):
        annealed(helmholtz_machine((3,), layers=(2, 2)), x.float())
    model = LinearGaussian()
    model.likelihood = lambda z: Dirac(z @ model.loadings.T, event_dims=1)
    with pytest.raises(ValueError, match="point mass"):
        annealed(model, x)
    model.recognition = lambda x: Independent(Bernoulli(logits=x[:, :2]), 1)
    with pytest.raises((TypeError, ValueError)):
        inference_gaps(model, x)


def test_boltzmann_machines_are_scored_exactly_or_by_annealing():
    torch.manual_seed(0)
    small, large = BoltzmannMachine((4,), 3), BoltzmannMachine((21,), 21)
    with torch.no_grad():
        small.weight.normal_()
        large.weight.zero_()
        large.weight[:4, :3] = small.weight
        large.hidden_bias[:3] = small.hidden_bias
    v = binary_states(4, small.weight)
    padded = torch.cat([v, torch.zeros(len(v), 17)], 1)  # fair coins, 17 log 2 nats
    exact = boltzmann(small, v)
    assert exact.method == "exact" and exact.ess is None
    assert exact.value == pytest.approx((-small.energy(v) - small.log_partition()).mean().item(), abs=1e-5)
    estimated = boltzmann(large, padded, temperatures=200, chains=400)
    assert "AIS" in estimated.method
    assert abs(estimated.value + 17 * math.log(2) - exact.value) < 3 * float(estimated.error)
    assert scores(small, v, 10)["log_likelihood"].value == pytest.approx(exact.value)
    assert scores(DeepBoltzmannMachine((4,), (3, 2)), v, 10).keys() == {"elbo"}
    assert math.isfinite(scores(DeepBoltzmannMachine((4,), (3, 2)), v, 10)["elbo"].value)
