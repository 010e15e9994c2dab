"""Deep belief nets: the tied start against enumeration, and what greedy learning and fine-tuning do to the bound."""

import math
from functools import partial

import pytest
import torch
from torch.optim import SGD

from emgen.estimators.normalising import log_partition
from emgen.evaluation.likelihood import elbo
from emgen.evaluation.scores import scores
from emgen.models import DeepBeliefNet
from emgen.models.energy.boltzmann_machine import binary_states
from emgen.models.energy.units import Gaussian
from emgen.objectives import ModelPhase, Sleep, Wake
from emgen.trainers import UpDown


def small_net(hidden=(4, 5), seed=0):
    torch.manual_seed(seed)
    net = DeepBeliefNet((5,), hidden).double()
    with torch.no_grad():
        for machine in net.machines:
            for parameter in machine.parameters():
                parameter.normal_()
    return net


def log_prob(net, v):
    """log p(v) by enumeration of the layers below the top."""
    net.log_z.copy_(net.top.log_partition().detach())
    sizes = [machine.weight.shape[1] for machine in net.machines[:-1]]
    z = tuple(binary_states(sum(sizes), v).split(sizes, -1))
    return (net.prior().log_prob(z) + net.likelihood(z).log_prob(v.unsqueeze(1))).logsumexp(-1)


@pytest.mark.parametrize("hidden", [(4, 5), (4, 5, 4)])
def test_a_net_is_normalised(hidden):
    net = small_net(hidden)
    assert log_prob(net, binary_states(5, net.log_z)).logsumexp(0).item() == pytest.approx(
        0, abs=1e-12
    )


def test_a_machine_stacked_upside_down_leaves_the_density_as_it_was():
    """The tied start: with W² = W¹ᵀ the net is the lower machine itself."""
    net, v = small_net(), binary_states(5, torch.zeros((), dtype=torch.float64))
    lower = net.machines[0]
    assert not torch.allclose(log_prob(net, v), -lower.energy(v) - lower.log_partition())
    net.stack(1)
    torch.testing.assert_close(
        log_prob(net, v), -lower.energy(v) - lower.log_partition(), rtol=1e-12, atol=1e-12
    )


def test_the_tied_recognition_net_is_the_posterior_so_the_bound_is_tight_at_the_start():
    net, v = small_net(), binary_states(5, torch.zeros((), dtype=torch.float64))
    net.stack(1)
    net.tie(0)
    z, evidence = (binary_states(4, v),), log_prob(net, v)
    posterior = (
        net.prior().log_prob(z) + net.likelihood(z).log_prob(v.unsqueeze(1)) - evidence.unsqueeze(1)
    )
    torch.testing.assert_close(net.recognition(v.unsqueeze(1)).log_prob(z), posterior)
    assert elbo(net, v).value == pytest.approx(evidence.mean().item(), abs=1e-9)


def test_a_larger_top_is_not_stacked_but_keeps_its_own_weights():
    net = small_net((4, 7))
    before = net.top.weight.clone()
    net.stack(1)
    assert torch.equal(before, net.top.weight)


def test_a_layer_of_gaussian_units_is_tied_to_its_posterior_and_never_turned_upside_down():
    torch.manual_seed(0)
    net = DeepBeliefNet((4,), (4, 4), units=Gaussian(0.5)).double()
    lower, top = net.machines[0], net.top.weight.detach().clone()
    with torch.no_grad():
        for parameter in lower.parameters():
            parameter.normal_()
    net.tie(0)
    v = torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(net.recognition.layers[0](v).mean, lower.hidden_mean(v))
    net.stack(1)
    assert torch.equal(net.top.weight, top)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [(4, 5), (3, 4, 2)])
def test_fantasies_have_the_density_of_the_net_and_its_prior_that_of_its_layers(hidden):
    net, n = small_net(hidden), 20_000
    for machine in net.machines:
        machine.sweeps = 60
    torch.manual_seed(0)
    v = binary_states(5, net.log_z)
    pairs = lambda x: (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1)
    exact = log_prob(net, v).exp() @ pairs(v)
    assert ((pairs(net.sample(n)).mean(0) - exact).abs() < 4 * 0.5 / n**0.5).all()
    z = net.prior().sample((n,))
    assert [layer.shape[-1] for layer in z] == list(hidden[:-1])
    top = binary_states(hidden[-2], v)
    exact = (-net.top.energy(top)).softmax(0) @ pairs(top)
    assert ((pairs(z[-1]).mean(0) - exact).abs() < 4 * 0.5 / n**0.5).all()


def test_a_machine_learns_from_draws_of_the_layers_below():
    net = small_net((4, 5, 4))
    v = binary_states(5, net.log_z)
    assert torch.equal(net.below(0, v), v)
    for level, size in ((1, 4), (2, 5)):
        h = net.below(level, v)
        assert h.shape == (32, size) and torch.equal(h, h.round())


def test_the_up_step_is_the_gradient_of_the_bound_when_the_chain_is_at_equilibrium():
    """E over z ~ q of wake, plus the model phase over all states of the top weighted exactly, = −∇ bound."""
    net, v = small_net(), torch.tensor([[1.0, 0, 1, 1, 0]], dtype=torch.float64)
    z = (binary_states(4, v),)
    parameters = [p for machine in net.machines for p in machine.parameters()]
    q = net.recognition(v).log_prob(z).detach().exp()
    exact = net.top.log_partition()
    bound = (q * (-net.top.energy(z[0]) + net.likelihood(z).log_prob(v) - q.log())).sum() - exact
    expected = torch.autograd.grad(-bound, parameters, allow_unused=True)

    net.log_z.copy_(exact.detach())
    torch.manual_seed(0)
    wake = Wake(samples=100_000)(net, net.recognition, v)
    h = binary_states(4, v)
    p = (-net.top.energy(h)).detach().softmax(0)
    chain = h[torch.multinomial(p, 100_000, replacement=True)]
    got = torch.autograd.grad(
        (wake + ModelPhase()(net.top, chain)).loss, parameters, allow_unused=True
    )
    for a, b in zip(got, expected):
        assert (a is None) == (b is None)
        if (
            a is not None
        ):  # 100,000 draws of quantities within [0, 1]: standard error below 0.5 / √100,000 each
            assert (a - b).abs().max() < 4 * 2**0.5 * 0.5 / 100_000**0.5


def test_sleep_takes_dreams_that_are_given():
    net = small_net()
    z, x = net.dream(torch.ones(3, 4, dtype=torch.float64))
    terms = Sleep()(net, net.recognition, (z, x))
    assert terms.loss.item() == pytest.approx(-net.recognition(x).log_prob(z).mean().item())


def test_greedy_learning_then_fine_tuning_raise_the_bound():
    """Exact log p of the net on patterns that one layer cannot hold: greedy, then up-down, both in the right direction."""
    torch.manual_seed(0)
    rows = torch.tensor(
        [[1, 1, 0, 0, 1], [0, 0, 1, 1, 1], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0]], dtype=torch.float64
    )
    x = rows[torch.randint(4, (200,))]
    net = DeepBeliefNet((5,), (6, 5)).double()
    trainer = UpDown(
        net, greedy=1, steps=5, optimizer=partial(SGD, lr=0.5), fine_tuning=partial(SGD, lr=0.1)
    )
    history = [log_prob(net, rows).mean().item()]
    trainer.sweep_ends = False
    for level in (0, 1):
        for step in range(300):
            trainer._learn_layer(level, x, first=step < 10, index=step)
        history.append(log_prob(net, rows).mean().item())
    for _ in range(300):
        trainer._fine_tune(x)
    history.append(log_prob(net, rows).mean().item())
    assert history[0] < history[2] < history[3] <= -torch.log(torch.tensor(4.0))


def test_the_schedule_stacks_and_centres_each_machine_once_and_finds_log_z_each_epoch(monkeypatch):
    """greedy = 2 over two machines: epochs 0, 1 | 2, 3 | up-down from 4 on; three batches an epoch."""
    net, x, events = DeepBeliefNet((5,), (4, 5)), torch.rand(3, 10, 5).round(), []
    trainer = UpDown(net, greedy=2)
    for owner, name in ((net, "stack"), (net, "tie"), (trainer, "_fine_tune")):
        made = getattr(owner, name)
        note = lambda *a, name=name, made=made: events.append((epoch, index, name)) or made(*a)
        owner.__dict__[name] = note
    for level, machine in enumerate(net.machines):
        made = machine.centre_at
        machine.__dict__["centre_at"] = lambda *a, level=level, made=made, **k: (
            events.append((epoch, index, f"centre {level}")) or made(*a, **k)
        )
    for epoch in range(5):
        monkeypatch.setattr(UpDown, "current_epoch", epoch)
        for index in range(3):
            trainer.__dict__["sweep_ends"] = index == 2
            type(trainer).training_step.__wrapped__(trainer, x[index], index)
        assert float(net.log_z) == pytest.approx(float(net.top.log_partition().detach()), abs=1e-5)
    happened = lambda name: [(e, i) for e, i, n in events if n == name]
    steps = lambda *epochs: [(e, i) for e in epochs for i in range(3)]
    assert happened("stack") == [(2, 0)]
    assert happened("centre 0") == steps(0) and happened("centre 1") == steps(2)
    assert happened("tie") == steps(0, 1)
    assert happened("_fine_tune") == steps(4)


def test_what_a_belief_net_and_its_trainer_refuse():
    with pytest.raises(ValueError, match="two hidden layers"):
        DeepBeliefNet((5,), (4,))
    with pytest.raises(ValueError, match="greedy=-1"):
        UpDown(small_net(), greedy=-1)
    with pytest.raises(TypeError, match="Stacked"):
        UpDown(small_net().top)


def test_scores_share_the_error_of_an_annealed_constant_and_an_exact_one_has_none():
    torch.manual_seed(0)
    x = torch.rand(8, 6).round()
    small, net = DeepBeliefNet((6,), (5, 4)), DeepBeliefNet((6,), (21, 22))
    small.set_constant(log_partition(small.top))
    net.set_constant(log_partition(net.top, temperatures=20))
    shared = float(net.log_z_error)
    assert small.log_z_error == 0 and shared > 0
    with_it = scores(net, x, 5)
    net.log_z_error.zero_()
    for name, estimate in scores(net, x, 5).items():
        assert with_it[name].value == estimate.value
        assert with_it[name].error == pytest.approx(
            math.hypot(estimate.error, shared if name in ("log_likelihood", "elbo") else 0.0)
        )
