"""What a game between a critic and its players descends, exactly: on tables, for every f."""

from functools import partial

import pytest
import torch
from parts import critic, images, pair
from torch.distributions import Normal
from torch.optim import SGD

from emgen import divergences
from emgen.divergences import (
    GAN,
    KL,
    Alpha,
    FDivergence,
    HingeLoss,
    JensenShannon,
    LossOfDivergence,
    MarginLoss,
    PaperActivation,
    ReverseKL,
    TotalVariation,
)
from emgen.divergences.adjoint import Adjoint, adjoint
from emgen.divergences.base import NonSaturating, heavy_tails
from emgen.models import convolutional_critic, dense_critic
from emgen.objectives import Adversarial, GradientPenalty, RothPenalty, Wasserstein
from emgen.testing import check_divergence
from emgen.trainers import FGAN
from emgen.trainers import GAN as PlainGAN

ABSTRACT = (FDivergence, MarginLoss, PaperActivation, LossOfDivergence)
EXPORTED = [getattr(divergences, name) for name in divergences.__all__]
NAMED = [
    d()
    for d in EXPORTED
    if isinstance(d, type) and issubclass(d, FDivergence) and d not in ABSTRACT
]
SMOOTH = [d for d in NAMED if not isinstance(d, MarginLoss | TotalVariation)]
SMOOTH += [Alpha(-1.0), Alpha(0.0), Alpha(1.0), Alpha(2.0), PaperActivation(KL())]
LOG_RATIO = [d for d in SMOOTH if not isinstance(d, PaperActivation)]


class LeCam(FDivergence):
    def generator(self, u):
        return (u - 1) ** 2 / (u + 1)


def second(function, u):
    u = u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(u).sum(), u, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), u)
    return bend


@pytest.fixture
def tables():
    """A data table, and the logits of a model over the same seven outcomes."""
    rng = torch.Generator().manual_seed(0)
    p, logits = torch.randn(2, 7, generator=rng, dtype=torch.float64)
    return p.softmax(0), logits


def gradient(value_of, logits):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(value_of(logits.softmax(0)), logits)[0]


def value(divergence, p, q):
    return (q * divergence.generator(p / q)).sum()


# ---- what the non-saturating game descends ---------------------------------------------------------


@pytest.mark.parametrize("f", [*SMOOTH, LeCam()], ids=repr)
def test_its_curvature_is_that_of_f_over_u(f):
    u = torch.logspace(-1.5, 1.5, 31, dtype=torch.float64)
    torch.testing.assert_close(
        second(f.non_saturating().generator, u), second(f.generator, u) / u, rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("f", [*NAMED, *SMOOTH, LeCam()], ids=repr)
def test_the_non_saturating_game_at_the_best_critic_has_its_gradient(f, tables):
    """−E_q[f′(p/q)] with the critic held still, against D_h: total variation and the hinge too."""
    p, logits = tables
    price = f.derivative(p / logits.softmax(0))
    game = gradient(lambda q: -(q * price).sum(), logits)
    descent = gradient(lambda q: value(f.non_saturating(), p, q), logits)
    torch.testing.assert_close(game, descent, rtol=1e-9, atol=1e-11)
    assert descent.abs().max() > 1e-2


@pytest.mark.parametrize("f", LOG_RATIO, ids=repr)
def test_a_custom_f_has_by_quadrature_what_the_named_have_in_closed_form(f, tables):
    p, logits = tables
    named, found = f.non_saturating(), NonSaturating(f)
    q = logits.softmax(0)
    torch.testing.assert_close(value(found, p, q), value(named, p, q), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "h",
    [
        ReverseKL() - JensenShannon(),
        Adjoint(KL()),
    ],
    ids=str,
)
def test_it_is_a_divergence_with_all_its_laws(h):
    check_divergence(h)


def test_what_it_is_called():
    said = {str(f): str(f.non_saturating()) for f in NAMED}
    assert said["KL"] == "reverse KL"
    assert said["GAN"] == said["Jensen-Shannon"] == "reverse KL - Jensen-Shannon"
    assert said["Pearson"] == "2 KL"
    assert said["reverse KL"] == "0.5 Neyman"
    assert said["hinge loss"] == "2 total variation"
    assert Alpha(0.25).non_saturating() == Alpha(-0.75)
    assert heavy_tails(ReverseKL().non_saturating()) and not heavy_tails(GAN().non_saturating())


# ---- the data side ---------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [*LOG_RATIO, LeCam()], ids=repr)
def test_the_adjoint_exchanges_the_sides(f, tables):
    p, logits = tables
    q = logits.softmax(0)
    torch.testing.assert_close(value(adjoint(f), p, q), value(f, q, p), rtol=1e-12, atol=1e-13)
    v = torch.linspace(-3, 3, 13, dtype=torch.float64)
    prices = Adjoint(f).derivative((-v).exp())
    torch.testing.assert_close(prices, -f.conjugate_of_activation(v), rtol=1e-9, atol=1e-12)


# ---- Hu, Yang, Salakhutdinov and Xing (2018) -------------------------------------------------------


def kl(p, q):
    return (p * (p.log() - q.log())).sum()


def halved_js(p, q):
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


@pytest.fixture
def lemma(tables):
    """Both sides of lemma 1 for a discriminator that is no best one, with a weight of the JS term."""
    p, logits = tables
    d = torch.rand(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.9 + 0.05
    mixed = (logits.softmax(0) + p) / 2
    given_dream = d * mixed / (d * mixed).sum()  # q^r(x|y = 0), frozen at theta_0
    given_data = (1 - d) * mixed / ((1 - d) * mixed).sum()

    def left(at):
        return gradient(lambda q: -(q * d.log()).sum() / 2, at)

    def right(at, js=1.0):
        return gradient(
            lambda q: (kl(q, given_dream) + kl(p, given_data)) / 2 - js * halved_js(q, p), at
        )

    return left, right, logits


def test_lemma_1_holds_for_any_discriminator(lemma):
    left, right, logits = lemma
    torch.testing.assert_close(left(logits), right(logits), rtol=0, atol=1e-15)


def test_lemma_1_needs_its_js_term_whole_and_its_point(lemma):
    left, right, logits = lemma
    for js in (0.0, 2.0):
        assert (left(logits) - right(logits, js)).abs().max() > 0.01
    elsewhere = logits + 0.3 * torch.arange(7).sin()
    assert (left(elsewhere) - right(elsewhere)).abs().max() > 1e-3


def test_a_discriminator_that_knows_nothing_teaches_nothing(tables):
    _, logits = tables
    v = torch.zeros(7, dtype=torch.float64)  # D = 1/2
    assert gradient(lambda q: -(q * GAN().activation(v)).sum(), logits).abs().max() < 1e-16


def test_equation_8_by_quadrature_through_the_game():
    """The gradient of the non-saturating game at the best critic is that of KL(p‖data) − 2 JSD."""
    x = torch.linspace(-25, 25, 50001, dtype=torch.float64)
    dx = x[1] - x[0]
    data = Normal(torch.tensor(1.3, dtype=torch.float64), 0.7).log_prob(x)
    theta = torch.tensor([0.2, 0.1], dtype=torch.float64, requires_grad=True)
    model = Normal(theta[0], theta[1].exp()).log_prob(x)
    v = (data - model).detach()

    middle = torch.logaddexp(data, model) - torch.tensor(2.0).double().log()
    js = (data.exp() * (data - middle) + model.exp() * (model - middle)).sum() * dx
    reverse = (model.exp() * (model - data)).sum() * dx
    # E over draws of p by quadrature: each point of the grid is a sample, weighed by its density
    game = (model.exp() * len(x) * dx * -GAN().activation(v)).mean()
    one, other = (torch.autograd.grad(f, theta, retain_graph=True)[0] for f in (game, reverse - js))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    found = Adversarial().descended()
    total = (model.exp() * found.generator((data - model).exp())).sum() * dx
    torch.testing.assert_close(torch.autograd.grad(total, theta)[0], one, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("f", LOG_RATIO, ids=repr)
def test_importance_weights_make_the_saturating_game_over_the_mean_ratio(f):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(9, 1, generator=rng, dtype=torch.float64, requires_grad=True)

    def critic(x):
        return 1.5 * x.squeeze(-1).sin() + 0.2

    weighed, plain = (
        torch.autograd.grad(game.model(critic, x).loss, x)[0]
        for game in (Adversarial(f, importance=True), Adversarial(f, non_saturating=False))
    )
    ratio = critic(x).exp().mean().detach()
    torch.testing.assert_close(weighed, plain / ratio, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("f", LOG_RATIO, ids=repr)
@pytest.mark.parametrize("side", ["samples", "data"])
@pytest.mark.parametrize("saturating", [False, True])
def test_what_the_game_says_is_what_each_side_descends(f, side, saturating, tables):
    """A player of either side, by the price that `players` charges it, on tables at the best critic."""
    p, logits = tables
    game = Adversarial(f, non_saturating=not saturating)
    q0 = logits.softmax(0)
    v = (p / q0).log() if side == "samples" else (q0 / p).log()
    charge = game._sample_side if side == "samples" else game._data_side
    price = torch.stack([charge(one[None]) for one in v])
    found = game.descended(side)
    divergence = (
        (lambda q: value(found, p, q)) if side == "samples" else (lambda q: value(found, q, p))
    )
    torch.testing.assert_close(
        gradient(lambda q: (q * price).sum(), logits),
        gradient(divergence, logits),
        rtol=1e-8,
        atol=1e-10,
    )


def test_no_name_is_given_to_what_a_margin_critic_makes_of_another_divergence():
    assert Adversarial(KL(), surrogate=HingeLoss()).descended() is None
    assert "KL" in Adversarial(KL(), surrogate=HingeLoss()).says("data | samples")
    assert str(Adversarial(HingeLoss()).descended()) == "2 total variation"
    assert Adversarial(KL(), surrogate=JensenShannon()).descended() == ReverseKL()
    assert "heavier tails" in Adversarial(ReverseKL()).says("data | samples")
    assert "heavier tails" not in Adversarial(KL()).says("data | samples")


def test_a_game_that_moves_nobody_and_weights_without_use_are_refused():
    with pytest.raises(ValueError, match="moves nobody"):
        Adversarial().players(lambda x: x.sum(-1), torch.zeros(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="leave out one"):
        Adversarial(non_saturating=False, importance=True)


# ---- practice --------------------------------------------------------------------------------------


def linear(slope):
    slope = torch.as_tensor(slope, dtype=torch.float64)
    return lambda x: x @ slope


def test_a_penalty_measures_how_far_a_slope_is_from_its_target():
    data, samples = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0)).double()
    critic = linear([2.0, 0.0, 0.0])  # whose gradient is 2 long, wherever it is taken
    for where, places in (("data", 1), ("samples", 1), ("both", 2), ("between", 1)):
        terms = GradientPenalty(3.0, where, target=0.5)(critic, data, samples, None, 0.0)
        torch.testing.assert_close(terms.parts["penalty"].item(), places * (2 - 0.5) ** 2)
        torch.testing.assert_close(terms.loss.item(), 1.5 * places * (2 - 0.5) ** 2)
    annealed = GradientPenalty(3.0, "data", annealing=0.01)(critic, data, samples, None, 0.5)
    torch.testing.assert_close(annealed.loss.item(), 1.5 * 0.1 * 4)


def test_points_between_lie_between():
    seen = []

    def watched(x):
        seen.append(x.detach())
        return x.square().sum(-1)

    torch.manual_seed(0)
    data, samples = torch.zeros(50, 2), torch.ones(50, 2)
    GradientPenalty(where="between", target=1.0)(watched, data, samples, None, 0.0)
    assert (seen[0][:, 0] == seen[0][:, 1]).all() and 0 < seen[0].min() < seen[0].max() < 1
    assert len(seen[0][:, 0].unique()) == 50
    with pytest.raises(ValueError, match="target=-1"):
        GradientPenalty(target=-1.0)
    with pytest.raises(ValueError, match="annealing=0"):
        GradientPenalty(annealing=0.0)


def test_the_wasserstein_game_pays_v_on_both_sides():
    data, samples = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).double()
    game, critic = Adversarial(Wasserstein()), linear([1.0, -2.0, 0.5])
    bound = critic(data).mean() - critic(samples).mean()
    torch.testing.assert_close(game.critic(critic, data, samples).parts["bound"], bound)
    torch.testing.assert_close(game.model(critic, samples).loss, -critic(samples).mean())
    assert game.says("data | samples") == "the price of Wasserstein-1 on data | samples"


def test_a_pack_of_one_is_the_plain_critic_bit_for_bit():
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for make in (dense_critic, convolutional_critic):
        critics = []
        for arguments in ({}, {"pack": 1}):
            torch.manual_seed(0)
            critics.append(make((1, 4, 4), **arguments))
        assert torch.equal(*(critic(x) for critic in critics))
        assert make((1, 4, 4), pack=3)(x).shape == (2,)
        assert make((1, 4, 4), pack=4)(x).shape == (1,)  # two rows are left over
    with pytest.raises(ValueError, match="fewer than one pack of 7"):
        dense_critic((1, 4, 4), pack=7)(x)
    with pytest.raises(ValueError, match="pack=0"):
        convolutional_critic((1, 4, 4), pack=0)


@pytest.mark.parametrize("penalty", [GradientPenalty(1.0), RothPenalty(1.0)], ids=repr)
def test_a_critic_that_averages_its_pack_is_the_plain_one(penalty):
    """v = w · mean of m rows: the bound of a Wasserstein game is that of v = w · x, and of the penalty
    on all that a value was shown, ‖∇v‖² = ‖w‖²/m."""
    data, samples = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0)).double()
    packs = dense_critic((3,), hidden=(), pack=4).double()
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        packs.log_ratio.weight.copy_(w.repeat(4) / 4)
        packs.log_ratio.bias.zero_()
    bounds = [Adversarial(Wasserstein()).critic(c, data, samples).loss for c in (packs, linear(w))]
    torch.testing.assert_close(*bounds)
    v = packs(samples)
    assert v.shape == (3,)
    found = penalty(packs, data, samples, JensenShannon(), 0.0).parts["penalty"]
    square = w.square().sum() / 4
    roth = isinstance(penalty, RothPenalty)
    expected = JensenShannon().conjugate_curvature(v).mean() * square if roth else 2 * square
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [PlainGAN, FGAN])
def test_the_critic_may_have_a_rate_of_its_own(make):
    def moved(**arguments):
        trainer = make(pair(), critic(), **arguments)
        before = [p.detach().clone() for p in trainer.critic.parameters()]
        trainer.training_step(images(), 0)
        return max(
            float((p - old).detach().abs().max())
            for p, old in zip(trainer.critic.parameters(), before)
        )

    assert moved(critic_optimizer=partial(SGD, lr=0.0)) == 0
    assert moved() > 1e-4
