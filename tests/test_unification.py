"""The nine levels as identities: each says why the methods of one level are one thing, exactly and by enumeration.

F(q, θ) = E_q[log p(x, z)] + H(q) = log p(x) − KL(q(z) ‖ p(z|x))
"""

import math

import pytest
import torch
from oracles import LinearGaussian, Tables, gauss_hermite, gradient
from torch.distributions import Normal, kl_divergence

from emgen import divergences
from emgen.estimators.beliefs import Distribution, Point, Tempered
from emgen.models import BoltzmannMachine, GaussianMixture
from emgen.objectives import Adversarial, ContrastiveDivergence, FreeEnergy, Wake

EXACT = dict(rtol=1e-10, atol=1e-11)
DATA = torch.tensor(
    [0.4, 0.1, 0.2, 0.3], dtype=torch.float64
)  # p̂(x) over the four values of Tables


@pytest.fixture
def pair():
    return Tables(seed=3)


def mixture(x, components=3):
    """A mixture away from its optimum, and the data."""
    torch.manual_seed(0)
    model = GaussianMixture(x.shape[1], components=components, start="rows").double()
    model.start(x, Point())
    return model


@pytest.fixture
def x():
    rng = torch.Generator().manual_seed(1)
    return torch.cat(
        [torch.randn(40, 2, generator=rng, dtype=torch.float64) + 3 * i for i in range(3)]
    )


def test_level_1_em_is_expectation_then_maximisation(x):
    """After E, F is log p(x); after M, F is the largest it can be for that belief; so log p(x) never falls."""
    model = mixture(x)
    for _ in range(5):
        q, evidence = model.posterior(x), model.log_prob(x).mean()
        s = model.statistics(x, q)
        torch.testing.assert_close(model.free_energy(s)["elbo"], evidence, **EXACT)
        best = model.free_energy(model.m_step(s, Point()))["elbo"]
        assert evidence < best < model.log_prob(x).mean()
        for parameter in (model.components.mean, model.components.covariance):
            for factor in (
                0.99,
                1.01,
            ):  # with q held, no step away from the M-step's answer raises F
                parameter.mul_(factor)
                assert model.free_energy(model.statistics(x, q))["elbo"] < best
                parameter.div_(factor)


def test_level_2_em_climbs_a_bound_that_touches_the_evidence(pair):
    """F(q, θ) with q the posterior at θ₀: equal to log p(x) at θ₀, of the same slope there, and below it elsewhere."""
    posterior = pair.log_posterior().detach()

    def bound():
        return (DATA * (posterior.exp() * (pair.log_joint() - posterior)).sum(0)).sum()

    def evidence():
        return (DATA * pair.log_prob(torch.arange(4))).sum()

    torch.testing.assert_close(bound(), evidence(), **EXACT)
    torch.testing.assert_close(
        gradient(bound(), pair.theta()), gradient(evidence(), pair.theta()), **EXACT
    )
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        with torch.no_grad():
            for parameter in pair.theta():
                parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        assert bound() < evidence()


def test_level_3_hard_em_is_the_limit_of_tempered_em(x):
    """As β grows the tempered belief becomes the Dirac at the mode; in between it is neither."""
    model = mixture(x)
    soft, hard = model.posterior(x), Point()(model.posterior(x)).probs
    distance = [
        float((Tempered(beta)(soft).probs - hard).abs().sum()) for beta in (1, 2, 8, 64, 4096)
    ]
    assert distance == sorted(distance, reverse=True) and distance[0] > 1 and distance[-1] < 1e-3
    torch.testing.assert_close(Tempered(1.0)(soft).probs, soft.probs, **EXACT)
    assert torch.equal(hard.sum(1), torch.ones(len(x), dtype=torch.float64)) and set(
        hard.unique().tolist()
    ) == {0.0, 1.0}


def test_level_4_any_belief_will_do_and_the_gap_is_its_kl_to_the_posterior(x):
    """Generalised EM: F = log p(x) − KL(q ‖ posterior), for a belief of any kind."""
    model = mixture(x)
    posterior = model.posterior(x)
    for belief in (Distribution(), Tempered(0.5), Tempered(3.0), Point()):
        q = belief(posterior)
        kl = (torch.xlogy(q.probs, q.probs) - q.probs * posterior.probs.log()).sum(1).mean()
        parts = model.free_energy(model.statistics(x, q))
        torch.testing.assert_close(parts["elbo"] + kl, model.log_prob(x).mean(), **EXACT)
        torch.testing.assert_close(parts["gap"], kl, **EXACT)


def test_level_5_the_vaes_objective_is_the_same_free_energy():
    """ELBO + KL(q ‖ posterior) = log p(x), with q a network: the VAE is amortised variational EM."""
    model = LinearGaussian(latent=2)
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nodes, weights = gauss_hermite(12)
    q = model.recognition(x)
    grid = torch.cartesian_prod(nodes, nodes)[:, None]
    z, mass = q.mean + q.stddev * grid, torch.cartesian_prod(weights, weights).prod(1)
    elbo = (mass[:, None] * model.likelihood(z).log_prob(x)).sum(0) - kl_divergence(
        q, model.prior()
    )
    posterior = model.posterior_of(x)
    gap = (mass[:, None] * (q.log_prob(z) - posterior.log_prob(z))).sum(0)
    torch.testing.assert_close(elbo + gap, model.evidence().log_prob(x), **EXACT)
    torch.manual_seed(0)
    drawn = FreeEnergy()(model, model.recognition, x.repeat(20_000, 1)).parts["elbo"]
    error = (model.likelihood(z).log_prob(x).var(0).mean() / (6 * 20_000)).sqrt()
    assert (drawn - elbo.mean()).abs() < 4 * error


def test_level_6_wake_at_the_exact_posterior_is_the_em_gradient_and_sleep_turns_the_kl_round(pair):
    """Wake: ∇θ KL(p̂ q ‖ p), which at q = posterior is −∇θ E_p̂ log p(x); sleep: at its optimum q is that posterior."""
    with torch.no_grad():
        pair.recognition.table.copy_(pair.log_posterior().T)
    evidence = (DATA * pair.log_prob(torch.arange(4))).sum()
    rows, wake = torch.arange(4).repeat_interleave((DATA * 10).long()), []
    for datum in rows:
        for z, share in zip(pair.states, pair.log_posterior()[:, datum].exp().detach()):
            drawn = type(
                "Told",
                (),
                {
                    "sample": lambda self, shape, z=z: z.view(1, 1),
                    "log_prob": lambda self, z: z * 0.0,
                },
            )()
            wake.append(share * Wake()(pair, lambda x, d=drawn: d, datum[None]).loss / len(rows))
    torch.testing.assert_close(
        gradient(sum(wake), pair.theta()), -gradient(evidence, pair.theta()), **EXACT
    )
    p = pair.log_joint().exp()
    assert gradient(-(p.detach() * pair.log_q()).sum(), pair.phi()).abs().max() < 1e-14


def test_level_7_a_draw_in_place_of_the_expectation_has_the_same_mean(x):
    """Statistics are linear in the belief, so those of a Gibbs draw are unbiased for those of EM."""
    model = mixture(x)
    for row in x[::20]:
        one, q = row[None], model.posterior(row[None])
        expected = model.statistics(one, q)
        drawn = []
        for k, share in enumerate(q.probs[0]):
            told = type(q)(q.scores, torch.nn.functional.one_hot(torch.tensor([k]), 3).double())
            drawn.append(
                {name: share * value for name, value in model.statistics(one, told).items()}
            )
        for name in expected:
            if name != "entropy":
                torch.testing.assert_close(sum(s[name] for s in drawn), expected[name], **EXACT)


def test_level_7_contrastive_divergence_at_equilibrium_is_maximum_likelihood():
    """The chain's stationary distribution in place of its k-th step: the gradient of −log p(x), by enumeration."""
    torch.manual_seed(0)
    model = BoltzmannMachine((3,), hidden=2, centred=False).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    x = states[[1, 1, 6, 3]]
    negative = -model.energy(states)
    evidence = (-model.energy(x) - negative.logsumexp(0)).mean()
    share = negative.softmax(0).detach()
    players = [p for p in model.parameters() if p.requires_grad]
    phases = [
        p * gradient(ContrastiveDivergence()(model, x, state[None]).loss, players)
        for p, state in zip(share, states)
    ]
    torch.testing.assert_close(sum(phases), -gradient(evidence, players), **EXACT)


def test_level_8_vae_sleep_and_gan_are_the_two_kls_of_one_pair(pair):
    """VAE: KL(p̂ q ‖ p). Sleep and a reverse-KL critic together: KL(p ‖ p̂ q), by the chain rule. So wake-sleep is both."""
    joint_q, joint_p = DATA.log() + pair.log_q(), pair.log_joint()
    log_px = pair.log_prob(torch.arange(4))

    forward = (joint_q.exp() * (joint_q - joint_p)).sum()
    elbo = (DATA * (pair.log_q().exp() * (joint_p - pair.log_q())).sum(0)).sum()
    torch.testing.assert_close(forward, (DATA * DATA.log()).sum() - elbo, **EXACT)

    backward = (joint_p.exp() * (joint_p - joint_q)).sum()
    sleep = -(joint_p.exp() * pair.log_q()).sum()
    entropy = -(joint_p.exp() * pair.log_posterior()).sum()
    f, v = divergences.ReverseKL(), (DATA.log() - log_px).detach()
    adversarial = (DATA * f.activation(v)).sum() - (
        log_px.exp() * f.conjugate_of_activation(v)
    ).sum()
    torch.testing.assert_close(backward, adversarial + sleep - entropy, **EXACT)


def test_level_8_the_gans_best_critic_is_the_log_ratio(pair):
    """Of all tables v the true log ratio is stationary and highest; there the game is worth twice the JS, less nothing."""
    p = pair.log_prob(torch.arange(4)).exp().detach()
    truth = (DATA.log() - p.log()).requires_grad_()
    f = divergences.GAN()

    def game(v):
        return (DATA * f.activation(v)).sum() - (p * f.conjugate_of_activation(v)).sum()

    assert gradient(game(truth), [truth]).abs().max() < 1e-14
    middle = (DATA + p) / 2
    js = ((DATA * (DATA / middle).log()).sum() + (p * (p / middle).log()).sum()) / 2
    torch.testing.assert_close(game(truth).detach(), 2 * js, **EXACT)
    v = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(30):  # Newton from indifference finds it
        slope = torch.autograd.grad(game(v), v)[0]
        bend = torch.autograd.functional.hessian(game, v)
        v = (v - torch.linalg.solve(bend, slope)).detach().requires_grad_()
    torch.testing.assert_close(v, truth, rtol=1e-9, atol=1e-9)


F_DIVERGENCES = [
    divergences.KL(),
    divergences.ReverseKL(),
    divergences.JensenShannon(),
    divergences.GAN(),
    divergences.Pearson(),
    divergences.Neyman(),
    divergences.SquaredHellinger(),
    divergences.Jeffreys(),
]


@pytest.mark.parametrize("f", F_DIVERGENCES, ids=repr)
def test_level_9_at_the_best_critic_the_models_gradient_is_that_of_the_divergence(pair, f):
    """∇θ of the bound with v held at log p̂/p is ∇θ D_f(p̂ ‖ p): the critic need not be differentiated."""
    log_p = pair.log_prob(torch.arange(4))
    v = (DATA.log() - log_p).detach()
    bound = (DATA * f.activation(v)).sum() - (log_p.exp() * f.conjugate_of_activation(v)).sum()
    exact = (log_p.exp() * f.generator(DATA / log_p.exp())).sum()
    torch.testing.assert_close(bound, exact, **EXACT)
    torch.testing.assert_close(
        gradient(bound, pair.theta()), gradient(exact, pair.theta()), **EXACT
    )


@pytest.mark.parametrize("non_saturating", [False, True])
def test_level_9_kl_f_gan_is_maximum_likelihood_and_its_other_loss_is_the_reverse_kl(
    non_saturating,
):
    """Through reparameterised samples of N(μ, σ²): the bound's own gradient is ∇KL(p̂ ‖ p), the non-saturating one ∇KL(p ‖ p̂)."""
    data = Normal(torch.tensor(0.4, dtype=torch.float64), 0.8)
    theta = torch.tensor([-0.3, 0.1], dtype=torch.float64, requires_grad=True)
    nodes, weights = gauss_hermite(60)
    model, held = (
        Normal(theta[0], theta[1].exp()),
        Normal(theta[0].detach(), theta[1].exp().detach()),
    )

    def critic(x):
        return data.log_prob(x) - held.log_prob(x)

    game = Adversarial(divergences.KL(), non_saturating)
    samples = theta[0] + theta[1].exp() * nodes
    slope = sum(
        w * gradient(game.model(critic, sample[None]).loss, [theta])
        for w, sample in zip(weights, samples)
    )
    target = kl_divergence(model, data) if non_saturating else kl_divergence(data, model)
    torch.testing.assert_close(slope, gradient(target, [theta]), rtol=1e-8, atol=1e-8)


def test_level_9_the_elbo_is_a_kl_bound_and_gaussians_meet_it(pair):
    """One KL: the evidence gap of level 5, the projection of level 6 and the divergence of level 9 are the same number."""
    q, posterior = pair.log_q().exp()[:, 0], pair.log_posterior().exp()[:, 0]
    by_divergence = (posterior * divergences.KL().generator(q / posterior)).sum()
    elbo = (q * (pair.log_joint()[:, 0] - q.log())).sum()
    torch.testing.assert_close(by_divergence, pair.log_prob(torch.tensor(0)) - elbo, **EXACT)
    assert math.isclose(float(divergences.KL().generator(torch.ones(()))), 0.0, abs_tol=1e-12)
