"""Deep belief nets: the tied start against enumeration, and what greedy learning and fine-tuning do to the bound."""

from functools import partial

import pytest
import torch
from torch.optim import SGD

from emgen.evaluation.likelihood import elbo
from emgen.models import DeepBeliefNet
from emgen.models.boltzmann import binary_states
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
    assert log_prob(net, binary_states(5, net.log_z)).logsumexp(0).item() == pytest.approx(0, abs=1e-12)


def test_a_machine_stacked_upside_down_leaves_the_density_as_it_was():
    """The tied start: with W² = W¹ᵀ the net is the lower machine itself."""
    net, v = small_net(), binary_states(5, torch.zeros((), dtype=torch.float64))
    lower = net.machines[0]
    assert not torch.allclose(log_prob(net, v), -lower.energy(v) - lower.log_partition())
    net.stack(1)
    torch.testing.assert_close(log_prob(net, v), -lower.energy(v) - lower.log_partition(), rtol=1e-12, atol=1e-12)


def test_the_tied_recognition_net_is_the_posterior_so_the_bound_is_tight_at_the_start():
    net, v = small_net(), binary_states(5, torch.zeros((), dtype=torch.float64))
    net.stack(1)
    net.tie(0)
    z, evidence = (binary_states(4, v),), log_prob(net, v)
    posterior = net.prior().log_prob(z) + net.likelihood(z).log_prob(v.unsqueeze(1)) - evidence.unsqueeze(1)
    torch.testing.assert_close(net.recognition(v.unsqueeze(1)).log_prob(z), posterior)
    assert elbo(net, v).value == pytest.approx(evidence.mean().item(), abs=1e-9)


def test_a_larger_top_is_not_stacked_but_keeps_its_own_weights():
    net = small_net((4, 7))
    before = net.top.weight.clone()
    net.stack(1)
    assert torch.equal(before, net.top.weight)


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
    got = torch.autograd.grad((wake + ModelPhase()(net.top, chain)).loss, parameters, allow_unused=True)
    for a, b in zip(got, expected):
        assert (a is None) == (b is None)
        if a is not None:  # 100,000 draws of quantities within [0, 1]: standard error below 0.5 / √100,000 each
            assert (a - b).abs().max() < 4 * 2**0.5 * 0.5 / 100_000**0.5


def test_sleep_takes_dreams_that_are_given():
    net = small_net()
    z, x = net.dream(torch.ones(3, 4, dtype=torch.float64))
    terms = Sleep()(net, net.recognition, (z, x))
    assert terms.loss.item() == pytest.approx(-net.recognition(x).log_prob(z).mean().item())


def test_greedy_learning_then_fine_tuning_raise_the_bound():
    """Exact log p of the net on patterns that one layer cannot hold: greedy, then up-down, both in the right direction."""
    torch.manual_seed(0)
    rows = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 1, 1, 1], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0]], dtype=torch.float64)
    x = rows[torch.randint(4, (200,))]
    net = DeepBeliefNet((5,), (6, 5)).double()
    trainer = UpDown(net, greedy=1, steps=5, optimizer=partial(SGD, lr=0.5), fine_tuning=partial(SGD, lr=0.1))
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


def test_what_a_belief_net_and_its_trainer_refuse():
    with pytest.raises(ValueError, match="two hidden layers"):
        DeepBeliefNet((5,), (4,))
    with pytest.raises(ValueError, match="greedy=-1"):
        UpDown(small_net(), greedy=-1)
    with pytest.raises(TypeError, match="Stacked"):
        UpDown(small_net().top)
