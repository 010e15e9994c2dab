"""log p(x) through decoders against a linear-Gaussian model, whose evidence and posterior are known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    Uniform,
)

from emgen.distributions import Dirac
from emgen.evaluation.inference import DecoderPath, annealed, boltzmann, inference_gaps, sandwich
from emgen.evaluation.scores import scores
from emgen.models import BoltzmannMachine, DeepBoltzmannMachine, helmholtz_machine
from emgen.models.energy.boltzmann_machine import binary_states


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
        return MultivariateNormal(
            x @ self.loadings / 0.25 @ precision.inverse(), precision_matrix=precision
        )

    def best_diagonal(self, x):
        exact = self.posterior(x)
        return Independent(
            Normal(exact.mean, exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()), 1
        )

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


class Bent(nn.Module):
    """A decoder on a grid that quadrature can cover: z in one dimension, of event shape () or (1), and any head."""

    def __init__(self, head, event_shape=(), prior=None):
        super().__init__()
        zero = torch.zeros(event_shape, dtype=torch.float64)
        self.head, self.base = head, prior or Independent(Normal(zero, 1.0), zero.dim())

    def prior(self):
        return self.base

    def likelihood(self, z):
        return self.head((z if not self.base.event_shape else z.squeeze(-1)).unsqueeze(-1))

    def log_evidence(self, x):
        z = torch.linspace(-9, 9, 6001, dtype=torch.float64).view(-1, *self.base.event_shape)
        self.base._validate_args = False  # a grid may reach beyond the support
        terms = self.base.log_prob(z).unsqueeze(1) + self.likelihood(z.unsqueeze(1)).log_prob(x)
        return terms.logsumexp(0) + math.log(18 / 6000)


SLOPES = torch.tensor([2.0, -1.0, 3.0, 0.5], dtype=torch.float64)
HEADS = {
    "binary": lambda z: Independent(Bernoulli(logits=3 * (SLOPES * z).sin()), 1),
    "real": lambda z: Independent(Normal((SLOPES * z).tanh(), 0.5), 1),
    "categories": lambda z: Independent(
        Categorical(logits=(SLOPES * z).sin().unsqueeze(-1) * torch.arange(3.0)), 1
    ),
}


@pytest.mark.parametrize("event_shape", [(), (1,)])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_and_a_single_number_z_meet_quadrature(head, event_shape):
    """Curved decoders with several modes: datum by datum within the stated error, and in the mean from either side."""
    from emgen.estimators.normalising import annealed_importance_sampling

    torch.manual_seed(0)
    model = Bent(HEADS[head], event_shape)
    x = model.likelihood(model.prior().sample((16,))).sample()  # integers, for the categories
    exact, betas = model.log_evidence(x), torch.linspace(0, 1, 31, dtype=torch.float64)
    with torch.no_grad():
        found = annealed_importance_sampling(
            DecoderPath(model, x, leapfrogs=3).tune(betas), betas, 400
        )
    z = (found.value - exact) / found.error
    assert z.abs().max() < 3.5 and abs(z.mean()) < 3 / math.sqrt(16)
    assert annealed(model, x, 60, 64, leapfrogs=3).value == pytest.approx(
        exact.mean().item(), abs=0.05
    )
    below, above = sandwich(model, 16, 60, 64, leapfrogs=3)
    assert abs(above.value - below.value) < 0.3


def test_a_z_of_two_dimensions_is_one_state_and_its_gap_splits_too(x):
    flat = LinearGaussian(shift=0.2)

    class Matrix(LinearGaussian):
        def prior(self):
            return Independent(Normal(self.loadings.new_zeros(2, 1), 1.0), 2)

        def likelihood(self, z):
            return flat.likelihood(z.squeeze(-1))

        def recognition(self, x):
            q = flat.recognition(x).base_dist
            return Independent(Normal(q.loc.unsqueeze(-1), q.scale.unsqueeze(-1)), 2)

    arguments = {"samples": 100, "temperatures": 10, "chains": 4, "steps": 20}
    found, expected = (inference_gaps(model, x, **arguments) for model in (Matrix(), flat))
    assert {k: e.value for k, e in found.items()} == pytest.approx(
        {k: e.value for k, e in expected.items()}, abs=1e-9
    )


def test_trajectories_beyond_the_support_are_rejected_whatever_torch_checks():
    """A prior that ends, and steps so long that they overflow: torch's own checks would raise for both."""
    model = Bent(HEADS["real"], prior=Uniform(torch.zeros((), dtype=torch.float64), 2.0))
    x = HEADS["real"](torch.tensor([[0.1], [1.0], [1.9]], dtype=torch.float64)).sample()
    estimate = annealed(model, x, 60, 200, leapfrogs=3)
    from emgen.estimators.normalising import annealed_importance_sampling

    torch.manual_seed(0)
    wide = Normal(
        torch.ones(3, dtype=torch.float64), 2.0
    )  # half of its draws lie where the prior has no mass
    betas = torch.linspace(0, 1, 31, dtype=torch.float64)
    with torch.no_grad():
        found = annealed_importance_sampling(
            DecoderPath(model, x, base=wide, leapfrogs=3).tune(betas), betas, 1000
        )
    assert Distribution._validate_args  # as it was
    assert estimate.value == pytest.approx(model.log_evidence(x).mean().item(), abs=0.03)
    assert ((found.value - model.log_evidence(x)).abs() < 3.5 * found.error).all()
    narrow = Bent(
        lambda z: Independent(Normal(SLOPES.float() * z, 1e-4), 1),
        prior=Normal(torch.zeros(()), 1.0),
    )
    assert math.isfinite(annealed(narrow, x.float(), 10, 4).value)


def test_both_parts_of_the_gap_meet_quadrature_where_the_posterior_is_no_normal():
    """A curved decoder and an encoder that hardly looks: ELBO(q) and its maximum over normals, integrated on a grid."""
    torch.manual_seed(1)
    model, z = Bent(HEADS["binary"], (1,)), torch.linspace(-9, 9, 1501, dtype=torch.float64)
    x = model.likelihood(model.prior().sample((12,))).sample()
    model.recognition = lambda x: Independent(Normal(0.3 * x[:, :1], 0.6), 1)
    joint = model.prior().log_prob(z[:, None])[:, None] + model.likelihood(
        z.view(-1, 1, 1)
    ).log_prob(x)

    def elbo(loc, log_scale):
        log_q = Normal(loc, log_scale.exp()).log_prob(z[:, None])
        return torch.trapezoid(log_q.exp() * (joint - log_q), z, dim=0)

    start = [0.3 * x[:, 0], torch.full((12,), math.log(0.6), dtype=torch.float64)]
    best = [part.clone().requires_grad_() for part in start]
    optimizer = torch.optim.Adam(best, lr=0.02)
    for _ in range(500):
        optimizer.zero_grad()
        (-elbo(*best).sum()).backward()
        optimizer.step()
    optimum = elbo(*best).detach()
    gaps = inference_gaps(model, x, samples=2000, temperatures=20, chains=8, steps=300)
    assert gaps["approximation"].value == pytest.approx(
        (model.log_evidence(x) - optimum).mean().item(), abs=0.02
    )
    assert gaps["amortisation"].value == pytest.approx(
        (optimum - elbo(*start)).mean().item(), abs=0.03
    )
    assert 0 < gaps["approximation"].value < gaps["amortisation"].value


def test_one_datum_is_judged_by_the_errors_that_its_weights_state(x):
    model = LinearGaussian(shift=2.0)
    gaps = inference_gaps(model, x[:1], samples=50, temperatures=50, chains=16, steps=1)
    assert (
        gaps["log_likelihood"] == gaps["annealed"]
        and gaps["annealed"].value > gaps["importance_weighted"].value + 0.5
    )
    model = LinearGaussian()
    gaps = inference_gaps(model, x[:1], samples=4000, temperatures=5, chains=4, steps=1)
    assert gaps["log_likelihood"] == gaps["importance_weighted"]


def test_no_temperatures_and_no_data_are_refused(x):
    with pytest.raises(ValueError, match="temperatures=0"):
        annealed(LinearGaussian(), x, temperatures=0)
    with pytest.raises(ValueError, match="no data"):
        annealed(LinearGaussian(), x[:0])


@pytest.mark.parametrize("temperatures", [3, 101])
@pytest.mark.parametrize("narrow", [1, 5])
def test_tuned_steps_are_accepted_about_as_often_as_asked_for(x, temperatures, narrow):
    from emgen.estimators.chains import hamiltonian

    torch.manual_seed(0)
    model, betas = LinearGaussian(), torch.linspace(0, 1, temperatures, dtype=torch.float64)
    model.loadings.data *= narrow
    path = DecoderPath(model, x, leapfrogs=4).tune(betas)
    z = model.posterior(x).sample((100,))
    _, probability = hamiltonian(
        lambda z: path.energy(z, betas[-1]), z, path.steps[-1].expand(100, 12), path.leapfrogs
    )
    assert 0.4 < probability.mean() < 0.9


def test_the_gap_splits_into_approximation_and_amortisation(x):
    """Both known in closed form: KL(q* ‖ posterior) of the best diagonal q, and what a shift of its mean costs."""
    model = LinearGaussian(shift=0.2)
    exact, best = model.posterior(x), model.best_diagonal(x)
    approximation = torch.distributions.kl_divergence(
        MultivariateNormal(best.mean, torch.diag_embed(best.variance)), exact
    )
    shift = torch.full((2,), 0.2).double()
    amortisation = shift @ exact.precision_matrix[0] @ shift / 2
    gaps = inference_gaps(model, x, samples=4000, temperatures=10, chains=8, steps=200)
    assert gaps["approximation"].value == pytest.approx(approximation.mean().item(), abs=0.03)
    assert gaps["amortisation"].value == pytest.approx(amortisation.item(), abs=0.03)
    assert gaps["log_likelihood"].value == pytest.approx(model.evidence(x).mean().item(), abs=0.03)
    total = gaps["log_likelihood"].value - gaps["elbo"].value
    assert gaps["gap"].value == pytest.approx(total, abs=1e-9)
    assert gaps["approximation"].value + gaps["amortisation"].value == pytest.approx(
        total, abs=1e-9
    )
    assert (
        gaps["approximation"].error < 0.1 * gaps["elbo"].error
    )  # datum by datum, what the data differ in cancels
    assert gaps["ess"].value == gaps["importance_weighted"].ess
    assert (
        gaps["log_likelihood"] == gaps["importance_weighted"]
    )  # ten temperatures are noise that must not choose


def test_a_poor_encoder_is_scored_by_annealing_and_its_best_is_found_block_by_block(x):
    model = LinearGaussian(shift=2.0)
    best, exact = model.best_diagonal(x), model.posterior(x)
    approximation = torch.distributions.kl_divergence(
        MultivariateNormal(best.mean, torch.diag_embed(best.variance)), exact
    )
    gaps = inference_gaps(model, x, samples=500, temperatures=200, chains=32, steps=400, block=5)
    assert (
        gaps["log_likelihood"] == gaps["annealed"]
        and gaps["annealed"].value > gaps["importance_weighted"].value + 0.5
    )
    assert gaps["ess"].value == gaps["annealed"].ess and "least" in gaps["ess"].method
    assert gaps["log_likelihood"].value == pytest.approx(model.evidence(x).mean().item(), abs=0.08)
    assert gaps["elbo_optimal"].value == pytest.approx(
        (model.evidence(x) - approximation).mean().item(), abs=0.03
    )


def test_evaluation_anneals_through_any_decoder_with_or_without_an_encoder(x):
    """What `emgen evaluate run=DIR temperatures=...` prints: a GAN's decoder has a likelihood but no encoder."""
    model = LinearGaussian(shift=0.2)
    split = scores(model, x, 100, temperatures=50, chains=8)
    assert split.keys() > {
        "annealed",
        "approximation",
        "amortisation",
        "gap",
        "elbo",
        "log_likelihood",
    }
    model.recognition = None
    assert scores(model, x, 100) == {}
    found = scores(model, x, 100, temperatures=100, chains=32)
    annealing = found["log_likelihood"]
    assert found["ess"].value == annealing.ess  # or it stays that of the training
    assert (
        annealing == annealed(model, x, 100, 32)
        and "AIS, 100 temperatures, 32 chains" in annealing.method
    )
    machine, rows = BoltzmannMachine((21,), 21), torch.ones(3, 21)
    assert (
        "AIS, 30 temperatures, 7 chains"
        in scores(machine, rows, 1, temperatures=30, chains=7)["log_likelihood"].method
    )


def test_scores_ask_a_model_in_evaluation_mode_alone_and_leave_the_random_state(x):
    """A model between two steps of training: batch normalisation must not see the odd draw that asks what its head is."""
    model, modes = LinearGaussian(shift=0.2).train(), []
    decode, encode = model.likelihood, model.recognition
    model.likelihood = lambda z: (modes.append(model.training), decode(z))[1]
    model.recognition = lambda x: (modes.append(model.training), encode(x))[1]
    before = torch.get_rng_state()
    for temperatures in (None, 3):
        scores(model, x, 5, temperatures=temperatures, chains=2)
    assert modes and not any(modes) and model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_an_encoder_without_a_best_member_to_seek_is_annealed_all_the_same(x):
    model = LinearGaussian()
    model.recognition = model.posterior  # exact, and no independent normal
    found = scores(model, x, 20, temperatures=50, chains=8)
    assert found.keys() == {"log_likelihood", "elbo", "gap", "ess", "annealed"}
    assert found["annealed"] == annealed(model, x, 50, 8)
    with pytest.raises(TypeError, match="layered or discrete"):
        scores(helmholtz_machine((3,), layers=(2, 2)), (x > 0).float(), 20, temperatures=5)


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
    model.prior = lambda: Normal(torch.zeros(2).double(), 1.0)
    with pytest.raises(ValueError, match="wrap it in"):
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
    assert exact.value == pytest.approx(
        (-small.energy(v) - small.log_partition()).mean().item(), abs=1e-5
    )
    estimated = boltzmann(large, padded, temperatures=200, chains=400)
    assert "AIS" in estimated.method
    assert abs(estimated.value + 17 * math.log(2) - exact.value) < 3 * float(estimated.error)
    assert scores(small, v, 10)["log_likelihood"].value == pytest.approx(exact.value)
    assert scores(DeepBoltzmannMachine((4,), (3, 2)), v, 10).keys() == {"elbo"}
    assert math.isfinite(scores(DeepBoltzmannMachine((4,), (3, 2)), v, 10)["elbo"].value)
