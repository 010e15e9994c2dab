"""Laws of wake-sleep and its relatives: each half-step's expected gradient is that of the quantity it claims to descend.

A tiny machine has few enough states that an expectation over draws is a finite sum: `Scripted` distributions return
chosen states instead of drawing them, so the objectives under test are run once a state, unchanged.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent

from emgen.data import Data, bars
from emgen.models import dense, heads
from emgen.models.deep.helmholtz_machine import HelmholtzMachine, Marginal, helmholtz_machine
from emgen.objectives import VIMCO, Relaxed, ReweightedWake, ScoreFunction, Sleep, Wake
from emgen.trainers import RWS, VAE, WakeSleep

X = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
EMPIRICAL = torch.tensor([0.3, 0.0, 0.1, 0.05, 0.2, 0.25, 0.0, 0.1], dtype=torch.float64)
TOLERANCE = dict(rtol=1e-10, atol=1e-12)


@dataclass
class Scripted:
    """A distribution whose next draw is known: `sample` returns `value`, `log_prob` is the true one."""

    true: object
    value: object

    def sample(self, shape=()):
        return self.value

    def log_prob(self, value):
        return self.true.log_prob(value)


@pytest.fixture(params=[(2,), (2, 1)], ids=["one layer", "two layers"])
def machine(request) -> HelmholtzMachine:
    return tiny(request.param)


def tiny(layers) -> HelmholtzMachine:
    torch.manual_seed(1)
    model = helmholtz_machine((3,), layers=layers).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.8)
    return model


def latents(model) -> tuple[torch.Tensor, ...]:
    """Every joint state of the latents, each layer (states, 1, units)."""
    layers = model.states()
    index = torch.cartesian_prod(*[torch.arange(len(z)) for z in layers]).reshape(-1, len(layers))
    return tuple(z[index[:, i]].unsqueeze(1) for i, z in enumerate(layers))


def log_joint(model) -> torch.Tensor:
    """log p(x, z) over every state and every x, (states, 8)."""
    z = latents(model)
    return model.prior().log_prob(z) + model.likelihood(z).log_prob(X)


def log_q(model) -> torch.Tensor:
    return model.recognition(X).log_prob(latents(model))


def tuples(model, samples):
    """All ways to draw `samples` states: their indices, and the draws themselves, each layer (samples, 1, units)."""
    z = latents(model)
    for chosen in itertools.product(range(len(z[0])), repeat=samples):
        yield list(chosen), tuple(layer[list(chosen)] for layer in z)


def generative(model):
    return [p for p in (*model.top.parameters(), *model.generative.parameters()) if p.numel()]


def gradient(value, parameters):
    return torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(
                value, parameters, materialize_grads=True, allow_unused=True
            )
        ]
    )


def expected_gradient(objective, model, parameters, samples, log_proposal=None, recognition=None):
    """E over x ~ EMPIRICAL and `samples` draws of z (from q, or from `log_proposal`) of the objective's own gradient."""
    proposal = (log_q(model) if log_proposal is None else log_proposal).detach()
    recognition = recognition or model.recognition
    total = 0.0
    for i, x in enumerate(X):
        if EMPIRICAL[i] == 0:
            continue
        for chosen, z in tuples(model, samples):

            def scripted(x, z=z):
                return Scripted(recognition(x), z)

            weight = EMPIRICAL[i] * proposal[chosen, i].sum().exp()
            total = total + weight * gradient(
                objective(model, scripted, x.unsqueeze(0)).loss, parameters
            )
    return total


def evidence_gradient(model):
    return gradient((EMPIRICAL * model.log_prob(X)).sum(), generative(model))


# ---- the two half-steps ------------------------------------------------------------------------


def test_sleep_descends_the_reversed_kl_over_phi(machine):
    phi, log_p, z = (
        list(machine.recognition.parameters()),
        log_joint(machine).detach(),
        latents(machine),
    )
    posterior = log_p - log_p.logsumexp(0)
    kl = (log_p.exp() * (posterior - log_q(machine))).sum()  # E_p(x) KL(p(z|x) ‖ q(z|x))
    dreamt = 0.0
    for i, state in itertools.product(range(len(X)), range(len(z[0]))):
        dream = SimpleNamespace(
            prior=lambda state=state: Scripted(None, tuple(layer[state] for layer in z)),
            likelihood=lambda z, i=i: Scripted(None, X[i : i + 1]),
        )
        dreamt = dreamt + log_p[state, i].exp() * gradient(
            Sleep()(dream, machine.recognition, 1).loss, phi
        )
    torch.testing.assert_close(dreamt, gradient(kl, phi), **TOLERANCE)


def test_wake_descends_the_kl_over_theta(machine):
    joint_q = log_q(machine).detach() + EMPIRICAL.log()
    seen = EMPIRICAL > 0
    kl = (joint_q.exp() * (joint_q - log_joint(machine)))[:, seen].sum()
    expected = expected_gradient(Wake(), machine, generative(machine), samples=1)
    torch.testing.assert_close(expected, gradient(kl, generative(machine)), **TOLERANCE)


def test_wake_at_the_exact_posterior_is_the_em_gradient(machine):
    posterior = log_joint(machine) - machine.log_prob(X)
    expected = expected_gradient(
        Wake(), machine, generative(machine), samples=1, log_proposal=posterior
    )
    torch.testing.assert_close(-expected, evidence_gradient(machine), **TOLERANCE)
    elsewhere = expected_gradient(Wake(), machine, generative(machine), samples=1)
    assert (
        float((-elsewhere - evidence_gradient(machine)).norm()) > 0.01
    )  # it is the posterior that makes it so


@torch.no_grad()
def test_the_recorded_parts_are_the_two_projections_up_to_an_entropy(machine):
    """E[wake] = KL(p̂ q ‖ p) + H(p̂ q), E[sleep] = KL(p ‖ p(x) q) + H_p(z|x): what is logged is what is projected."""
    torch.manual_seed(0)
    n = 200_000
    x = X[torch.multinomial(EMPIRICAL, n, replacement=True)]
    wake, sleep = (
        Wake()(machine, machine.recognition, x).parts,
        Sleep()(machine, machine.recognition, n).parts,
    )
    joint_q, log_p = log_q(machine) + EMPIRICAL.log(), log_joint(machine)
    expected_wake = -(joint_q.exp() * log_p).sum()
    expected_sleep = -(log_p.exp() * log_q(machine)).sum()
    for value, mean, second, weight in (
        (wake["wake"], expected_wake, log_p.square(), joint_q.exp()),
        (sleep["sleep"], expected_sleep, log_q(machine).square(), log_p.exp()),
    ):
        error = float(((weight * second).sum() - mean**2).sqrt()) / n**0.5
        assert abs(float(value - mean)) < 4 * error


# ---- reweighted wake-sleep ---------------------------------------------------------------------


def test_one_sample_reweighted_is_wake(machine):
    for parameters in (generative(machine), list(machine.recognition.parameters())):
        reweighted = expected_gradient(ReweightedWake(1, phi=0), machine, parameters, samples=1)
        torch.testing.assert_close(
            reweighted, expected_gradient(Wake(), machine, parameters, samples=1), **TOLERANCE
        )


def test_reweighted_gradient_is_the_evidence_gradient_at_the_posterior_whatever_k():
    machine = tiny((2,))
    posterior = log_joint(machine).detach() - machine.log_prob(X).detach()
    z = latents(machine)

    class Posterior:
        """q(z|x) = p(z|x), by table."""

        def __init__(self, x):
            self.column = int((X == x).all(-1).nonzero())

        def log_prob(self, value):
            rows = (
                (value[0].unsqueeze(-3) == z[0].squeeze(1).unsqueeze(1)).all(-1).double().argmax(-2)
            )
            return posterior[rows, self.column]

    for samples in (1, 2, 3):
        objective = ReweightedWake(samples, phi=0)
        expected = expected_gradient(
            objective, machine, generative(machine), samples, posterior, Posterior
        )
        torch.testing.assert_close(-expected, evidence_gradient(machine), **TOLERANCE)


def test_reweighted_gradient_tends_to_the_evidence_gradient_as_k_grows():
    machine = tiny((2,))
    target = evidence_gradient(machine)
    theta = generative(machine)
    bias = [
        float((-expected_gradient(ReweightedWake(k, phi=0), machine, theta, k) - target).norm())
        for k in (1, 2, 3)
    ]
    assert bias[0] > bias[1] > bias[2]
    torch.manual_seed(0)
    objective = ReweightedWake(20_000, phi=0)
    estimate = sum(
        EMPIRICAL[i] * gradient(objective(machine, machine.recognition, X[i : i + 1]).loss, theta)
        for i in range(8)
    )
    assert float((-estimate - target).norm()) < 0.02 * float(target.norm())


def test_wake_phi_descends_the_inclusive_kl_on_data_in_the_limit():
    machine = tiny((2,))
    phi = list(machine.recognition.parameters())
    posterior = (log_joint(machine) - machine.log_prob(X)).detach()
    target = gradient(-(EMPIRICAL * posterior.exp() * log_q(machine)).sum(), phi)
    bias = [
        float((expected_gradient(ReweightedWake(k, phi=1.0), machine, phi, k) - target).norm())
        for k in (1, 2, 3)
    ]
    assert bias[0] > bias[1] > bias[2]


# ---- the free energy itself --------------------------------------------------------------------


def free_energy(model, samples) -> torch.Tensor:
    """F_K by enumeration of every K-tuple of draws (K = 1: F)."""
    q, log_w = log_q(model), log_joint(model) - log_q(model)
    value = 0.0
    for chosen, _ in tuples(model, samples):
        bound = log_w[chosen].logsumexp(0) - math.log(samples)
        value = value + (q[chosen].sum(0).exp() * bound)
    return (EMPIRICAL * value).sum()


@pytest.mark.parametrize("samples", [2, 3])
def test_vimco_is_unbiased_for_the_bound_of_many_samples(samples):
    machine = tiny((2,))
    parameters = [*generative(machine), *machine.recognition.parameters()]
    expected = expected_gradient(VIMCO(samples), machine, parameters, samples)
    torch.testing.assert_close(
        -expected, gradient(free_energy(machine, samples), parameters), **TOLERANCE
    )


def test_vimco_is_unbiased_for_two_layers():
    machine = tiny((2, 1))
    parameters = [*generative(machine), *machine.recognition.parameters()]
    expected = expected_gradient(VIMCO(2), machine, parameters, 2)
    torch.testing.assert_close(
        -expected, gradient(free_energy(machine, 2), parameters), **TOLERANCE
    )


@pytest.mark.parametrize("samples", [2, 3])
def test_the_score_function_is_unbiased_for_the_free_energy(samples):
    machine = tiny((2,))
    parameters = [*generative(machine), *machine.recognition.parameters()]
    expected = expected_gradient(ScoreFunction(samples), machine, parameters, samples)
    torch.testing.assert_close(
        -expected, gradient(free_energy(machine, 1), parameters), **TOLERANCE
    )


@pytest.mark.parametrize(
    "objective", [Wake(), ReweightedWake(2), ScoreFunction(3), VIMCO(3), ReweightedWake(3, phi=0)]
)
def test_recorded_bounds_are_the_free_energy_and_that_of_k_draws(objective):
    """In expectation over all draws: elbo = F, bound = F_K, ess = the share of K that the weights are worth."""
    machine, k = tiny((2,)), objective.samples
    one, many = (free_energy(machine, n).item() for n in (1, k))
    q, log_w, mean = log_q(machine).detach(), (log_joint(machine) - log_q(machine)).detach(), {}
    worth = 0.0
    for i, (x, weight) in enumerate(zip(X, EMPIRICAL)):
        for chosen, z in tuples(machine, k):
            share = weight * q[chosen, i].sum().exp()
            scripted = lambda x, z=z: Scripted(machine.recognition(x), z)
            for name, value in objective(machine, scripted, x.unsqueeze(0)).parts.items():
                mean[name] = mean.get(name, 0.0) + float(share * value)
            w = log_w[chosen, i].exp()
            worth += float(share * w.sum() ** 2 / w.square().sum() / k)
    assert mean["elbo"] == pytest.approx(one, abs=1e-12)
    assert mean.get("bound", many) == pytest.approx(many, abs=1e-12)
    assert mean.get("ess", worth) == pytest.approx(worth, abs=1e-12)


def test_hard_relaxed_draws_give_the_free_energy_and_its_exact_gradient_over_theta(machine):
    torch.manual_seed(0)
    terms = Relaxed(samples=20_000)(machine, machine.recognition, X[EMPIRICAL > 0][:1])
    column = int((EMPIRICAL > 0).nonzero()[0])
    q, log_w = log_q(machine)[:, column], (log_joint(machine) - log_q(machine))[:, column]
    value = (q.exp() * log_w).sum()
    error = float((q.exp() * (log_w - value).square()).sum().sqrt()) / 20_000**0.5
    assert abs(float(terms.parts["elbo"] - value)) < 4 * error
    slope = gradient(value, generative(machine))
    assert float((gradient(-terms.loss, generative(machine)) - slope).norm()) < 0.03 * float(
        slope.norm()
    )


def test_soft_relaxed_draws_have_the_gradient_of_their_own_value(machine):
    objective, x, phi = (
        Relaxed(hard=False, temperature=0.7),
        X[:4],
        list(machine.recognition.parameters()),
    )

    def loss():
        torch.manual_seed(3)
        return objective(machine, machine.recognition, x).loss

    slope = gradient(loss(), phi)
    for i, parameter in enumerate(phi):
        start = sum(p.numel() for p in phi[:i])
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-6
            up = loss()
            parameter.view(-1)[0] -= 2e-6
            numeric = (up - loss()) / 2e-6
            parameter.view(-1)[0] += 1e-6
        assert float(slope[start]) == pytest.approx(float(numeric), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    "objective, arguments, reason",
    [
        (ReweightedWake, dict(samples=0), "at least one draw"),
        (ReweightedWake, dict(phi=-1.0), "not negative"),
        (ScoreFunction, dict(samples=1), "another draw"),
        (VIMCO, dict(samples=1), "another draw"),
        (Relaxed, dict(temperature=0.0), "positive, finite temperature"),
        (Relaxed, dict(samples=0), "at least one draw"),
    ],
)
def test_bad_hyper_parameters_are_refused(objective, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        objective(**arguments)


# ---- the schedules -----------------------------------------------------------------------------


def descend(trainer, data: Data, epochs: int) -> float:
    """Run a trainer by hand, without Lightning's loop; the exact log-likelihood gained per datum."""
    model, truth = trainer.model, data.density
    patterns, probs = truth.enumerate_support(), truth.probs

    def score():
        with torch.no_grad():
            return float((probs * model.log_prob(patterns)).sum())

    before, loader = score(), data.train_dataloader()
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for number, batch in enumerate(loader):
            trainer.training_step(batch, number)
    return score() - before


SCHEDULES = {
    "wake_sleep": lambda model, adam: WakeSleep(model, optimizer=adam),
    "rws": lambda model, adam: RWS(model, optimizer=adam),
    "rws without dreams": lambda model, adam: RWS(
        model, ReweightedWake(5, phi=1.0), sleep_phi=0.0, optimizer=adam
    ),
    "vimco": lambda model, adam: VAE(model, VIMCO(5), optimizer=adam),
    "score function": lambda model, adam: VAE(model, ScoreFunction(5), optimizer=adam),
    "straight through": lambda model, adam: VAE(model, Relaxed(), optimizer=adam),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("layers", [(6,), (6, 2)], ids=["one layer", "two layers"])
def test_every_schedule_learns_bars(name, layers):
    torch.manual_seed(0)
    data = bars(size=3, train=1000, validation=10, test=10, batch_size=50)
    model = helmholtz_machine(data.event_shape, layers=layers)
    trainer = SCHEDULES[name](model, lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    assert descend(trainer, data, epochs=5) > 1.0


@pytest.mark.parametrize("name", [*SCHEDULES, "vae"])
def test_mixed_precision_records_the_bound_of_full_precision(name):
    """The first step's bound, of the same draws but for products of 8 bits, is within .02 nats of the one in full."""
    import pytorch_lightning as lightning

    data, bounds = bars(size=3, train=4000, validation=1, test=1, batch_size=4000), []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        model = (
            dense(data.event_shape, latent=2, hidden=(5,))
            if name == "vae"
            else helmholtz_machine(data.event_shape, (6, 2))
        )
        adam = partial(torch.optim.Adam, lr=0.02)
        module = VAE(model, optimizer=adam) if name == "vae" else SCHEDULES[name](model, adam)
        trainer = lightning.Trainer(
            max_epochs=1,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
        bounds.append(module.history[0]["elbo"])
    assert bounds[0] == pytest.approx(bounds[1], abs=0.02) and bounds[0] < -3


def test_each_half_step_moves_its_own_player_alone():
    torch.manual_seed(0)
    data = bars(size=3, train=50, validation=1, test=1, batch_size=50)
    model = helmholtz_machine(data.event_shape, layers=(4, 2))
    still = SimpleNamespace(step=lambda: None)
    for moving, held in (("model", "recognition"), ("recognition", "model")):
        trainer = WakeSleep(model)
        trainer.optimizer("model")
        trainer._optimizers[held] = still
        before = {
            player: [p.clone() for p in trainer.parameters_of(player)]
            for player in ("model", "recognition")
        }
        trainer.training_step(next(iter(data.train_dataloader())), 0)
        changed = {
            player: any(
                bool((p != b).any()) for p, b in zip(trainer.parameters_of(player), before[player])
            )
            for player in before
        }
        assert changed == {moving: True, held: False}


def test_fused_steps_are_plain_ones_whatever_the_layout_of_a_gradient():
    """torch's fused optimisers read a gradient in the order of memory: transposed or expanded, it moved the wrong weights."""

    class Transposed(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight = nn.Parameter(
                torch.linspace(-1, 1, inputs * outputs).view(outputs, inputs)
            )

        def forward(self, x):
            return Independent(Bernoulli(logits=x @ self.weight.T), 1)

    moved = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = HelmholtzMachine(
            Marginal(heads.Bernoulli, (2,)), [Transposed(2, 3)], [Transposed(3, 2)]
        )
        trainer = WakeSleep(model, optimizer=partial(torch.optim.Adam, lr=0.1, fused=fused))
        for index in range(3):
            trainer.training_step(X.float(), index)
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*moved)


def test_rws_refuses_weights_that_train_no_recognition_network():
    with pytest.raises(ValueError, match="nothing would train the recognition network"):
        RWS(tiny((2,)), ReweightedWake(phi=0.0), sleep_phi=0.0)


def test_rws_moves_by_its_three_half_steps_each_with_its_own_weight():
    """With plain gradient steps from one start and one seed, φ moves by a·wake-φ + b·sleep-φ, θ by wake-θ whatever a and b."""

    def moved(a, b):
        model = tiny((2, 1))
        players = [generative(model), list(model.recognition.parameters())]
        before = [[p.detach().clone() for p in player] for player in players]
        RWS(
            model, ReweightedWake(3, phi=a), sleep_phi=b, optimizer=partial(torch.optim.SGD, lr=1.0)
        ).training_step(X, 0)
        return [
            torch.cat([(p.detach() - was).flatten() for p, was in zip(*pair)])
            for pair in zip(players, before)
        ]

    (theta, wake_phi), (same, sleep_phi), (again, both) = (
        moved(1.0, 0.0),
        moved(0.0, 1.0),
        moved(0.3, 0.7),
    )
    torch.testing.assert_close(both, 0.3 * wake_phi + 0.7 * sleep_phi)
    torch.testing.assert_close((same, again), (theta, theta))
    assert (
        wake_phi.norm() > 0.01
        and sleep_phi.norm() > 0.01
        and not torch.allclose(wake_phi, sleep_phi)
    )


def test_rws_needs_a_recognition_network():
    model = tiny((2,))
    model.recognition = None
    with pytest.raises(TypeError, match="recognition"):
        RWS(model)
