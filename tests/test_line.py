"""The line from VAE to GAN: rows of one table are the algorithms they are named after, bit for bit."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from oracles import Tables
from parts import EVENT, critic, critics, images, pair
from torch import nn
from torch.distributions import Categorical, kl_divergence
from torch.optim import Adam

from emgen.distributions import Implicit
from emgen.divergences import (
    KL,
    Alpha,
    Jeffreys,
    JensenShannon,
    Pearson,
    ReverseKL,
    SquaredHellinger,
)
from emgen.models import convolutional_critic, dense, dense_critic, heads, helmholtz_machine
from emgen.models.deep.priors import GaussianMixturePrior
from emgen.objectives import FGM, Adversarial, AdversaryActivated, FreeEnergy, GradientPenalty
from emgen.objectives.draws import Draws, beside
from emgen.objectives.matching import GAMES, LIKELIHOODS
from emgen.options import build, option
from emgen.testing import check_trainer
from emgen.trainers import FGAN, GAN, VAE, Line, WakeSleep
from emgen.trainers.line import LINE

ROWS = ["line", "aae", "avb", "ali", "vae_gan", "alpha_gan", "mode_regularised", "mdgan"]
VAE_ROW = {"model": {"likelihood": 1, "kl": 1}, "recognition": {"likelihood": 1, "kl": 1}}
WAKE_SLEEP_ROW = {"model": {"likelihood": 1, "prior": 1}, "recognition": {"sleep": 1}}
GAN_ROW = {"critic": {"x": 1}, "model": {"x": 1}, "recognition": {"sleep": 1}}
SLOW = partial(Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)
PLAIN = partial(Adam, lr=1e-3, fused=True)
RATES = dict(optimizer=SLOW, critic_optimizer=None, recognition_optimizer=PLAIN)


def rows(name, model=None, **arguments):
    return build(
        {**option("trainer", name), **arguments}, "trainer", model=model or pair(), critic=critics
    )


def after(trainer, steps=3):
    """The model's parameters, and the critic's, after a few steps."""
    trainer = deepcopy(trainer)
    for step in range(steps):
        trainer.training_step(images(), step)
    judges = trainer.critic or {}
    judges = judges if isinstance(judges, (nn.ModuleDict, dict)) else {"x": judges}
    values = dict(trainer.model.state_dict())
    for name, judge in judges.items():
        values |= {f"{name}.{key}": value for key, value in judge.state_dict().items()}
    return values


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- rows are algorithms ---------------------------------------------------------------------------


def test_the_row_of_the_vae_is_the_vae():
    line = Line(pair(), plays=VAE_ROW, optimizer=PLAIN)
    assert same(after(line), after(VAE(pair())))
    assert line.shares_pass and not line.sees_grey and line.critic is None


def test_the_row_of_the_vae_is_the_vae_where_the_prior_is_learnt():
    def mixed():
        torch.manual_seed(0)
        prior = partial(GaussianMixturePrior, components=2)
        return dense(EVENT, latent=2, hidden=(8,), prior=prior)

    assert same(after(Line(mixed(), plays=VAE_ROW, optimizer=PLAIN)), after(VAE(mixed())))


@pytest.mark.parametrize("make", [pair, lambda: helmholtz_machine(EVENT, layers=(3, 2))])
def test_the_row_of_wake_sleep_is_wake_sleep(make):
    torch.manual_seed(0)
    model = make()
    line = Line(
        deepcopy(model), plays=WAKE_SLEEP_ROW, turns=[["model"], ["recognition"]], optimizer=PLAIN
    )
    assert same(after(line), after(WakeSleep(deepcopy(model))))


def test_the_row_of_the_gan_is_the_gan():
    turns = [["critic"], ["model"], ["recognition"]]
    line = Line(pair(), critics, GAN_ROW, turns, critic_steps=2, **RATES)
    assert same(after(line), after(GAN(pair(), critic(), critic_steps=2)))


def test_the_row_of_the_f_gan_is_the_f_gan():
    line = Line(
        pair(),
        critics,
        GAN_ROW,
        [["critic", "model"], ["recognition"]],
        divergence=KL(),
        penalty=GradientPenalty(weight=1.0),
        **RATES,
    )
    assert same(after(line), after(FGAN(pair(), critic())))


# ---- the table -------------------------------------------------------------------------------------


def test_a_game_of_weight_zero_is_no_game():
    none = {**LINE, "model": {"likelihood": 1.0, "x": 0}}
    line = Line(pair(), critics, none, optimizer=PLAIN)
    assert line.critic is None and same(after(line), after(VAE(pair())))


def test_the_balance_runs_from_the_game_alone_to_the_vae():
    vae = Line(pair(), critics, balance=float("inf"), optimizer=PLAIN)
    assert same(after(vae), after(VAE(pair())))
    assert Line(pair(), critics, balance=0).plays["model"] == {"x": 1.0}
    between = Line(pair(), critics, balance=0.05)
    assert same(after(between), after(Line(pair(), critics)))
    assert not same(after(between), after(Line(pair(), critics, balance=0.1)))


@pytest.mark.parametrize("name", ROWS)
def test_every_row_keeps_the_laws_of_a_trainer(name):
    head = heads.Implicit if name == "avb" else heads.Gaussian
    torch.manual_seed(0)
    trainer = rows(name, dense(EVENT, latent=2, hidden=(8,), posterior=head))
    check_trainer(trainer, images())


@pytest.mark.parametrize("name", ROWS)
def test_every_game_row_is_played_under_any_divergence_and_says_which(name):
    line = rows(name, divergence={"_target_": "emgen.divergences.Jeffreys"}, penalty=None)
    assert all(game.divergence == Jeffreys() for game in line.games.values())
    said = " ".join(line.descends.values())
    assert ("0.5 Neyman" in said) == line.games["x"].non_saturating
    assert not same(after(line), after(rows(name, penalty=None)))


@pytest.mark.parametrize("name", ["aae", "avb", "ali", "mode_regularised", "mdgan"])
def test_one_backward_pass_gives_what_two_give(name):
    line = rows(name)
    assert line.shares_pass
    apart = deepcopy(line)
    apart.shares_pass = False
    for key, value in after(line).items():
        torch.testing.assert_close(after(apart)[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["line", "vae_gan", "alpha_gan"])
def test_two_weights_of_one_term_take_two_backward_passes(name):
    assert not rows(name).shares_pass


def test_each_draw_of_a_step_is_made_once():
    model, made = pair(), []
    draws = Draws(model, lambda x: made.append(1) or model.recognition(x), images())
    for view in GAMES.values():
        view.data(draws), view.samples(draws)
    assert made == [1] and torch.equal(beside(draws.x, draws.code)[:, 16:], draws.code)
    assert draws.p.log_prob(draws.x).shape == (12,)


def test_draws_carry_gradients_to_those_who_move_alone():
    model = pair()
    still = Draws(model, model.recognition, images(), movers=("critic",))
    assert not any(d.requires_grad for d in (still.code, still.rebuilt, still.dream))
    theirs = Draws(model, model.recognition, images(), movers=("model",))
    assert theirs.dream.requires_grad and theirs.rebuilt.requires_grad
    assert not theirs.code.requires_grad


def test_what_the_table_cannot_say_is_refused_by_name():
    def refused(match, error=ValueError, **arguments):
        with pytest.raises(error, match=match):
            Line(**{"model": pair(), "critic": critics, **arguments})

    refused("there is no 'elbow'; there are likelihood, kl", plays={"model": {"elbow": 1}})
    refused("there is no 'decoder'", plays={"decoder": {"x": 1}})
    refused("finite and not negative", plays={"model": {"likelihood": -1}})
    refused("nobody teaches the critic of \\['z'\\]", plays={"recognition": {"z": 1}})
    refused("nothing of the recognition", plays={"critic": {"x": 1}, "recognition": {"x": 1}})
    refused("leave out the recognition", turns=[["critic"], ["model"]])
    refused("turns: there is no 'encoder'", turns=[["encoder"]])
    refused("balance=-1", balance=-1)
    refused("critic_steps=0", critic_steps=0)
    refused("need critic=", TypeError, critic=None)
    refused("games: there is no 'w'", games={"w": Adversarial()})
    with pytest.raises(TypeError, match="cannot be reparameterised"):
        Line(helmholtz_machine(EVENT, layers=(3,)), plays=VAE_ROW).training_step(images(), 0)


def test_every_term_is_in_the_documentation():
    assert all(f"| {name} " in Line.__doc__ or f"{name}" in Line.__doc__ for name in GAMES)
    assert all(f"| {name} " in Line.__doc__ for name in LIKELIHOODS)


# ---- encoders and critics --------------------------------------------------------------------------


def test_an_implicit_encoder_draws_anew_each_time():
    torch.manual_seed(0)
    q = heads.Implicit(4, (2,), noise=3, hidden=8)(torch.randn(5, 4))
    z = q.rsample((7,))
    assert isinstance(q, Implicit) and z.shape == (7, 5, 2) and z.requires_grad
    assert len(z[:, 0].unique(dim=0)) == 7 and not q.sample().requires_grad
    with pytest.raises(TypeError, match="known by its draws alone"):
        q.log_prob(z)


def test_a_critic_of_pairs_sees_both():
    torch.manual_seed(0)
    x, z = torch.rand(3, 1, 8, 8), torch.randn(3, 2)
    for make in (dense_critic, partial(convolutional_critic, channels=(4, 4))):
        judge = make(((1, 8, 8), (2,)))
        v = judge(beside(x, z))
        assert v.shape == (3,)
        assert not torch.equal(v, judge(beside(x.flip(0), z)))
        assert not torch.equal(v, judge(beside(x, z.flip(0))))
    assert convolutional_critic(((2,),))(z).shape == (3,)


def test_avb_at_the_exact_ratio_pays_the_kl_and_its_gradient():
    """E v = KL(q ‖ p), and the gradient through the draws is that of the KL, within three of its
    standard errors."""
    torch.manual_seed(0)
    model = dense((4,), latent=2, hidden=(8,)).double()
    phi = list(model.recognition.parameters())
    x = torch.rand(1, 4, dtype=torch.float64).round()

    def exact(pairs):
        """log q(z|x) − log p(z) with q held still: ψ is another player."""
        q = deepcopy(model.recognition).requires_grad_(False)(pairs[:, :4])
        return q.log_prob(pairs[:, 4:]) - model.prior().log_prob(pairs[:, 4:])

    game = Adversarial(KL(), non_saturating=False, surrogate=JensenShannon())
    truth = kl_divergence(model.recognition(x), model.prior()).mean()
    wanted = torch.autograd.grad(truth, phi)
    values, slopes = [], []
    for _ in range(40):
        draws = Draws(model, model.recognition, x.repeat(500, 1))
        view = GAMES["posterior"]
        loss = game.players(exact, view.data(draws), view.samples(draws).detach()).loss
        values.append(loss.detach() - 1)
        slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, phi)]))
    values, slopes = torch.stack(values), torch.stack(slopes)
    assert (values.mean() - truth).abs() < 3 * values.std() / 40**0.5
    error = slopes.mean(0) - torch.cat([g.flatten() for g in wanted])
    scale = slopes.std(0) / 40**0.5
    assert (error.square().sum() / scale.square().sum()).sqrt() < 1.5


# ---- files of their own ------------------------------------------------------------------------------


def certain(sign):
    """A critic that is sure: D = 1 where sign is +1, D = 0 where it is −1."""
    return lambda x: torch.full((len(x),), 200.0 * sign)


def test_the_aavae_with_a_perfect_discriminator_is_the_vae():
    model, x = pair(), images()
    parameters = list(model.parameters())
    dreams = torch.zeros(5, *EVENT)

    def judge(rows):
        return certain(1 if len(rows) == len(x) else -1)(rows)

    torch.manual_seed(0)
    activated = AdversaryActivated()(model, model.recognition, judge, x, dreams)
    torch.manual_seed(0)
    vae = FreeEnergy()(model, model.recognition, x)
    ours, theirs = (torch.autograd.grad(t.loss, parameters) for t in (activated, vae))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert activated.parts["elbo"] == pytest.approx(vae.parts["elbo"].item(), rel=1e-6)

    torch.manual_seed(0)
    fooled = AdversaryActivated()(model, model.recognition, certain(1), x, dreams)
    assert abs(fooled.loss - vae.loss) > 1  # dreams that are taken for data count too


@pytest.fixture
def joint():
    """All states of a table model and the log ratio v of f-GM at each, by the objective itself."""
    model = Tables()
    z, x = (
        grid.flatten() for grid in torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    )
    p_hat = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
    log_q = model.recognition(x).log_prob(z) + p_hat.log()[x]
    log_p = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)

    def bound(f, log_d, q=None):
        q = model.recognition(x) if q is None else q
        v = FGM(f).log_ratio(lambda rows: log_d[rows], model, q, x, z)
        weights = (q.log_prob(z) + p_hat.log()[x]).exp()
        return (weights * f.activation(v)).sum() - (
            log_p.exp() * f.conjugate_of_activation(v)
        ).sum()

    return model, x, z, p_hat, log_q, log_p, bound


DIVERGENCES = [KL(), ReverseKL(), JensenShannon(), Pearson(), SquaredHellinger(), Alpha(1.5)]


@pytest.mark.parametrize("f", DIVERGENCES, ids=repr)
def test_f_gm_is_tight_at_the_data_and_above_the_marginals(f, joint):
    model, x, _, p_hat, log_q, log_p, bound = joint
    of_joints = (log_p.exp() * f.generator((log_q - log_p).exp())).sum()
    torch.testing.assert_close(bound(f, p_hat.log()), of_joints)
    for _ in range(3):
        other = torch.rand(4, generator=torch.Generator().manual_seed(1)).double().log_softmax(0)
        assert bound(f, other) < of_joints
    marginal = model.log_prob(torch.arange(4)).exp()
    of_marginals = (marginal * f.generator(p_hat / marginal)).sum()
    assert of_joints > of_marginals + 1e-6

    posterior = Categorical(logits=model.log_posterior().T[x])
    torch.testing.assert_close(bound(f, p_hat.log(), posterior), of_marginals)


@pytest.mark.parametrize("f", DIVERGENCES, ids=repr)
def test_f_gm_with_the_exact_posterior_is_the_f_gan(f, joint):
    model, x, _, p_hat, _log_q, _log_p, bound = joint
    log_d = torch.randn(4, generator=torch.Generator().manual_seed(2)).double()
    posterior = Categorical(logits=model.log_posterior().T[x])
    log_px = model.log_prob(torch.arange(4))
    v = log_d - log_px
    f_gan = (p_hat * f.activation(v)).sum() - (log_px.exp() * f.conjugate_of_activation(v)).sum()
    torch.testing.assert_close(bound(f, log_d, posterior), f_gan)


def test_f_gm_under_kl_is_the_vae_whatever_the_density(joint):
    model, _x, _, _p_hat, log_q, log_p, bound = joint
    parameters = [*model.theta(), *model.phi()]
    log_d = torch.randn(4, generator=torch.Generator().manual_seed(2)).double()
    ours = torch.autograd.grad(bound(KL(), log_d), parameters, retain_graph=True)
    elbo = (log_q.exp() * (log_p - log_q)).sum()
    for a, b in zip(ours, torch.autograd.grad(-elbo, parameters)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_f_gm_refuses_what_has_no_density():
    with pytest.raises(TypeError, match=r"p\(x\|z\) is IndependentBernoulli"):
        FGM()(pair(), pair().recognition, critic(), images())
    with pytest.raises(TypeError, match="is no f-divergence"):
        FGM(divergence="kl")
