"""Laws of the objectives: bounds bound, gradients are those of the quantity named, terms are an algebra; by enumeration."""

import dataclasses
import itertools
import math

import pytest
import torch
from oracles import LinearGaussian, Scripted, Tables, expected, gauss_hermite, gradient
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from emgen import divergences, objectives
from emgen.distributions import bernoulli, softplus
from emgen.objectives import (
    VIMCO,
    Adversarial,
    FreeEnergy,
    Relaxed,
    ReweightedWake,
    Sleep,
    Terms,
    Wake,
)

EXACT = dict(rtol=1e-11, atol=1e-12)
F_DIVERGENCES = [
    divergences.KL(),
    divergences.ReverseKL(),
    divergences.JensenShannon(),
    divergences.GAN(),
    divergences.Pearson(),
    divergences.Neyman(),
    divergences.SquaredHellinger(),
    divergences.Jeffreys(),
    divergences.Alpha(0.5),
    divergences.Alpha(-2.0),
]


@pytest.fixture
def model():
    return Tables()


@pytest.fixture
def x():
    return torch.tensor([0, 1, 2, 3, 1, 1])


def one(model, state, x):
    """The recognition model that draws `state` for the single datum x."""
    return lambda data: Scripted(model.recognition(data), state.view(-1, 1))


# ---- Terms -------------------------------------------------------------------------------------


def test_terms_add_and_scale_the_loss_and_leave_parts_their_meaning():
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(5.0)
    terms = 3 * Terms(a * a, {"elbo": a * 1}) + Terms(b, {"kl": b}) * 0.5
    assert terms.loss == 3 * 4 + 2.5 and torch.autograd.grad(terms.loss, a)[0] == 12
    assert terms.parts == {"elbo": 2.0, "kl": 5.0} and not terms.parts["elbo"].requires_grad


def test_two_parts_of_one_name_are_refused_and_renaming_mends_it():
    part = Terms(torch.tensor(1.0), {"bound": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="bound"):
        part + part
    assert set((part + part.renamed(bound="bound_critic")).parts) == {"bound", "bound_critic"}


# ---- the free energy ---------------------------------------------------------------------------


def test_the_elbo_is_the_evidence_less_the_kl_to_the_posterior(model):
    for datum in range(4):
        x, q = torch.tensor([datum]), model.log_q()[:, datum].exp()
        gap = (q * (model.log_q() - model.log_posterior())[:, datum]).sum()
        for objective in (FreeEnergy(), Wake()):
            elbo = expected(
                lambda z, f=objective, x=x: f(model, one(model, z, x), x).parts["elbo"],
                model.states,
                q,
            )
            torch.testing.assert_close(elbo, model.log_prob(x)[0] - gap, **EXACT)
            assert elbo < model.log_prob(x)[0]


def test_importance_weighted_bounds_rise_towards_the_evidence(model):
    x = torch.tensor([2])
    q = model.log_q()[:, 2].exp()
    bounds = []
    for k in (1, 2, 3):
        objective = FreeEnergy(samples=k, importance_weighted=True)
        bounds.append(
            expected(
                lambda z, f=objective: -f(model, one(model, z, x), x).loss, model.states, q, draws=k
            )
        )
    elbo = expected(
        lambda z: FreeEnergy()(model, one(model, z, x), x).parts["elbo"], model.states, q
    )
    torch.testing.assert_close(bounds[0], elbo, **EXACT)
    assert (
        all(low < high - 1e-4 for low, high in itertools.pairwise(bounds))
        and bounds[-1] < model.log_prob(x)[0]
    )


def test_at_the_exact_posterior_every_draw_gives_the_evidence(model, x):
    with torch.no_grad():
        model.recognition.table.copy_(model.log_posterior().T)
    drawn = torch.tensor([[0, 2, 1, 1, 0, 2], [2, 2, 0, 1, 1, 0]])
    terms = FreeEnergy(samples=2, importance_weighted=True)(
        model, lambda data: Scripted(model.recognition(data), drawn), x
    )
    torch.testing.assert_close(terms.parts["bound"], model.log_prob(x).mean(), **EXACT)
    torch.testing.assert_close(terms.parts["elbo"], model.log_prob(x).mean(), **EXACT)


@pytest.mark.parametrize("exact_kl", [True, False], ids=["exact KL", "KL from the draws"])
def test_reparameterised_gradients_are_those_of_the_closed_form(exact_kl):
    """Gauss-Hermite nodes stand for the noise, so that the mean over them is the expectation."""
    model = LinearGaussian()
    x = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.1, -0.4]], dtype=torch.float64)
    nodes, weights = gauss_hermite()
    players = list(model.parameters())
    q = model.recognition(x)
    closed = (_reconstruction(model, q, x) - kl_divergence(q, model.prior())).mean()

    def at(noise):
        def recognition(data):
            q = model.recognition(data)
            drawn = q.mean + q.stddev * noise
            return _Reparameterised(q, drawn[None]) if exact_kl else Scripted(q, drawn[None])

        return FreeEnergy()(model, recognition, x)

    value = sum(w * at(e).parts["elbo"] for e, w in zip(nodes, weights))
    slope = sum(w * gradient(-at(e).loss, players) for e, w in zip(nodes, weights))
    torch.testing.assert_close(value, closed.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(slope, gradient(closed, players), rtol=1e-9, atol=1e-9)


class _Reparameterised(Independent):
    """q with a told draw that torch still knows the KL of."""

    def __init__(self, q, draw):
        super().__init__(q.base_dist, 1)
        self.draw = draw

    def rsample(self, shape=()):
        return self.draw


def _reconstruction(model, q, x):
    """E_q log p(x|z) of the linear-Gaussian model."""
    variance = model.log_sigma.mul(2).exp()
    spread = (q.variance[:, None, :] * model.A**2).sum((1, 2)) / variance / 2
    return model.likelihood(q.mean).log_prob(x) - spread


def test_beta_weighs_the_kl_in_the_loss_and_never_in_the_bound():
    model = LinearGaussian()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for beta in (0.0, 1.0, 4.0):
        torch.manual_seed(0)
        found.append(FreeEnergy(beta=beta)(model, model.recognition, x))
    parts = found[0].parts
    for beta, terms in zip((0.0, 1.0, 4.0), found):
        assert terms.parts == parts
        torch.testing.assert_close(
            terms.loss.detach(), beta * parts["kl"] - parts["reconstruction"], **EXACT
        )
    torch.testing.assert_close(parts["elbo"], parts["reconstruction"] - parts["kl"], **EXACT)


def test_discrete_latents_have_no_reparameterised_gradient_and_the_error_says_what_has(model, x):
    with pytest.raises(TypeError, match="wake_sleep"):
        FreeEnergy()(model, model.recognition, x)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FreeEnergy(samples=0), "samples=0"),
        (lambda: FreeEnergy(beta=-0.5), "beta=-0.5"),
        (lambda: FreeEnergy(beta=float("nan")), "beta=nan"),
        (lambda: FreeEnergy(beta=float("inf")), "beta=inf"),
        (lambda: FreeEnergy(beta=2.0, importance_weighted=True), "beta=2.0"),
        (lambda: Wake(samples=0), "samples=0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()


# ---- the two halves of wake-sleep --------------------------------------------------------------


def test_wake_descends_the_kl_from_q_to_p_over_theta_alone(model):
    """KL(p̂ q ‖ p) over θ; several draws have the same mean."""
    x, q = torch.tensor([1]), model.log_q()[:, 1].exp().detach()
    closed = -(q * model.log_joint()[:, 1]).sum()
    for draws in (1, 2):
        loss = expected(
            lambda z, k=draws: Wake(samples=k)(model, one(model, z, x), x).loss,
            model.states,
            q,
            draws=draws,
        )
        torch.testing.assert_close(
            gradient(loss, model.theta()), gradient(closed, model.theta()), **EXACT
        )
        assert not gradient(loss, model.phi()).any()


def test_sleep_descends_the_kl_from_p_to_q_over_phi_alone(model):
    """KL(p(x, z) ‖ p(x) q(z|x)) over φ, summed over every dream."""
    p = model.log_joint().exp().detach()
    loss = torch.zeros((), dtype=torch.float64)
    for z, x in itertools.product(range(3), range(4)):
        dreaming = _Dreaming(model, torch.tensor([z]), torch.tensor([x]))
        terms = Sleep()(dreaming, model.recognition, 1)
        loss = loss + p[z, x] * terms.loss
    kl = (p * (model.log_joint() - model.log_joint().logsumexp(0) - model.log_q())).sum()
    torch.testing.assert_close(gradient(loss, model.phi()), gradient(kl, model.phi()), **EXACT)
    assert not gradient(loss, model.theta()).any()


@dataclasses.dataclass
class _Dreaming:
    """The model that dreams of one given pair."""

    model: Tables
    z: torch.Tensor
    x: torch.Tensor

    def prior(self):
        return Scripted(self.model.prior(), self.z)

    def likelihood(self, z):
        return Scripted(self.model.likelihood(z), self.x)


def test_sleep_draws_the_dreams_asked_for():
    seen = []

    class Counting(torch.nn.Module):
        def forward(self, x):
            seen.append(x.shape)
            return Categorical(logits=torch.zeros(len(x), 3))

    Sleep()(Tables(), Counting(), 7)
    assert seen == [torch.Size([7])]


# ---- the adversarial bound ---------------------------------------------------------------------


COUNTS_P, COUNTS_Q = torch.tensor([1, 3, 4, 2]), torch.tensor([4, 2, 1, 3])


def rows(counts):
    """A sample in which value i occurs counts[i] times: its mean is the expectation."""
    return torch.arange(len(counts)).repeat_interleave(counts)


@pytest.mark.parametrize("divergence", F_DIVERGENCES, ids=repr)
def test_the_adversarial_bound_bounds_and_is_tight_at_the_true_log_ratio(divergence):
    p, q = COUNTS_P.double() / 10, COUNTS_Q.double() / 10
    exact = (q * divergence.generator(p / q)).sum()
    rng = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-3, 0.3, 2.0):
        v = (p / q).log() + scale * torch.randn(4, generator=rng, dtype=torch.float64)
        terms = Adversarial(divergence).critic(lambda x, v=v: v[x], rows(COUNTS_P), rows(COUNTS_Q))
        assert terms.loss == -terms.parts["bound"]
        if scale:
            assert terms.parts["bound"] < exact
        else:
            torch.testing.assert_close(terms.parts["bound"], exact, **EXACT)
            torch.testing.assert_close(terms.parts["log_ratio_data"], (p * v).sum(), **EXACT)
            torch.testing.assert_close(terms.parts["log_ratio_model"], (q * v).sum(), **EXACT)


def test_with_the_gans_divergence_it_is_the_published_game():
    """E log D(x) + E log(1 − D(x̃)) for the critic, −E log D(x̃) for the model, D = σ(v); log 4 makes it zero at p = q."""
    v = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, samples = rows(COUNTS_P), rows(COUNTS_Q)
    d = v.sigmoid()
    bound = Adversarial().critic(lambda x: v[x], x, samples).parts["bound"]
    torch.testing.assert_close(
        bound, d[x].log().mean() + (1 - d[samples]).log().mean() + math.log(4), **EXACT
    )
    torch.testing.assert_close(
        Adversarial().model(lambda x: v[x], samples).loss, -d[samples].log().mean(), **EXACT
    )
    saturating = Adversarial(non_saturating=False).model(lambda x: v[x], samples).loss
    torch.testing.assert_close(saturating, (1 - d[samples]).log().mean() + math.log(4), **EXACT)


@pytest.mark.parametrize("non_saturating", [True, False])
@pytest.mark.parametrize("divergence", F_DIVERGENCES, ids=repr)
def test_each_side_of_the_game_reaches_its_own_player(divergence, non_saturating):
    """The critic's loss stops at the samples; the model's raises the log ratio of its samples, whatever the divergence."""
    samples = torch.randn(
        6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    game, data = (
        Adversarial(divergence, non_saturating),
        torch.linspace(-1, 2, 6, dtype=torch.float64),
    )
    assert not gradient(game.critic(lambda x: weight * x, data, samples).loss, [samples]).any()
    assert (gradient(game.model(lambda x: weight * x, samples).loss, [samples]) < 0).all()


# ---- all of them -------------------------------------------------------------------------------


def test_objectives_are_frozen_and_their_defaults_are_shared_safely():
    for name in objectives.__all__:
        objective = getattr(objectives, name)
        assert dataclasses.is_dataclass(objective) and objective.__dataclass_params__.frozen, (
            f"{name} is not frozen"
        )
        hash(objective()) if name != "Terms" else None


@pytest.mark.parametrize(
    "objective",
    [
        FreeEnergy(),
        FreeEnergy(samples=3, importance_weighted=True),
        Wake(),
        Wake(samples=3),
        ReweightedWake(),
        VIMCO(),
        Relaxed(),
        objectives.ScoreFunction(),
    ],
    ids=repr,
)
def test_weights_of_rows_are_even_and_constants_are_kept(objective):
    """Every bound is a mean over rows in nats with all its constants: twice the rows, the same mean; and below log p."""
    model = LinearGaussian()
    x = model.evidence().sample((4,))
    copies = x.repeat(2000, 1)
    torch.manual_seed(0)
    terms = objective(model, model.recognition, copies)
    bound = terms.parts["elbo"]
    assert bound.shape == terms.loss.shape == () and bound < model.evidence().log_prob(x).mean()
    with torch.no_grad():
        q = model.recognition(x)
        closed = (_reconstruction(model, q, x) - kl_divergence(q, model.prior())).mean()
        z = q.sample((4000,))
        one = model.prior().log_prob(z) + model.likelihood(z).log_prob(x) - q.log_prob(z)
        error = (
            one.std(0).mean() / (2000 * 4) ** 0.5
        )  # of a mean over as many rows, were each drawn once
    assert (bound - closed).abs() < 5 * error


def test_no_objective_moves_or_marks_its_players():
    model, x = LinearGaussian(), torch.zeros(4, 3, dtype=torch.float64)
    before = [p.clone() for p in model.parameters()]
    for objective in (FreeEnergy(), Wake(), ReweightedWake()):
        objective(model, model.recognition, x)
    Sleep()(model, model.recognition, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert all(p.grad is None for p in model.parameters())


def test_normal_is_what_the_oracle_says():
    """The oracle itself: posterior × evidence = joint."""
    model = LinearGaussian(latent=2)
    z, x = torch.randn(2, 5, 2, dtype=torch.float64)[0], torch.randn(5, 3, dtype=torch.float64)
    joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)
    torch.testing.assert_close(
        joint, model.posterior_of(x).log_prob(z) + model.evidence().log_prob(x), **EXACT
    )
    assert Normal(0.0, 1.0).has_rsample


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_keeps_its_digits_and_slopes(dtype):
    ends = torch.tensor([-torch.inf, torch.inf, 0.0], dtype=dtype)
    x = torch.cat(
        [torch.linspace(-80, 80, 4001, dtype=dtype), torch.logspace(-9, 1, 101, dtype=dtype), ends]
    )
    exact = torch.where(x > 0, x.double(), 0.0) + x.double().abs().neg().exp().log1p()
    torch.testing.assert_close(
        softplus(x).double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=0.0
    )
    x = x[:-3].requires_grad_()
    (slope,) = torch.autograd.grad(softplus(x).sum(), x, create_graph=True)
    torch.testing.assert_close(slope, x.sigmoid())
    (bend,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(
        bend, x.sigmoid() * (-x).sigmoid(), atol=torch.finfo(dtype).eps, rtol=1e-5
    )
    torch.testing.assert_close(
        torch.vmap(torch.func.grad(softplus))(x.detach()), x.detach().sigmoid()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 2.0**-18, 2.0**-16 + 2.0**-19, 0.3, 0.5, 1 - 2.0**-7, 1.0])
def test_binary_units_are_drawn_with_their_probability_to_the_last_digit(p, dtype):
    """16 bits alone would draw 2⁻¹⁸ never, or four times too often."""
    torch.manual_seed(1)
    rows = torch.full((2**13, 2**9), p, dtype=dtype)
    draws, exact = bernoulli(rows), rows[0, 0].double().item()
    assert draws.dtype == dtype and set(draws.unique().tolist()) <= {0.0, 1.0}
    error = draws.double().sum().item() - exact * draws.numel()
    assert abs(error) <= 4 * math.sqrt(draws.numel() * exact * (1 - exact))


def test_binary_units_are_independent_of_those_beside_above_and_in_the_same_word():
    torch.manual_seed(0)
    draws = bernoulli(torch.full((2**12, 2**8), 0.3)) - 0.3
    for shifts in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1)):
        covariance = (draws * draws.roll(shifts, (0, 1))).mean().item()
        assert abs(covariance) < 4 * 0.3 * 0.7 / draws.numel() ** 0.5
    assert bernoulli(torch.full((0, 5), 0.5)).shape == (0, 5)
    assert bernoulli(torch.tensor(1.0)) == 1
