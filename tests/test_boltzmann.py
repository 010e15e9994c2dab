"""Boltzmann machines: enumeration is the oracle of energies, kernels, gradients and tempering."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.distributions import Independent, Normal
from torch.optim import SGD

from emgen.data import Data
from emgen.estimators.chains import walk
from emgen.models import BoltzmannMachine, DeepBoltzmannMachine
from emgen.models.energy.boltzmann_machine import binary_states
from emgen.models.energy.units import Binary, Gaussian, Multinomial
from emgen.objectives import ContrastiveDivergence
from emgen.testing import geweke
from emgen.trainers import CD


def random_machine(visible=4, hidden=3, seed=0, scale=1.0, **kwargs):
    torch.manual_seed(seed)
    machine = BoltzmannMachine((visible,), hidden, **kwargs).double()
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.normal_(std=scale)
    return machine


def states(n):
    return binary_states(n, torch.zeros((), dtype=torch.float64))


def probabilities(machine, v):
    return (-machine.energy(v)).detach().softmax(0)


def transition_matrix(machine):
    """T[v, v'] = Σ_h p(h|v) p(v'|h), of one Gibbs sweep."""
    v, h = states(len(machine.visible_bias)), states(len(machine.hidden_bias))
    up = (
        torch.distributions.Bernoulli(machine.hidden_mean(v)).log_prob(h.unsqueeze(1)).sum(-1).exp()
    )  # (h, v)
    down = machine.likelihood(h).log_prob(v.unsqueeze(1)).exp()  # (v', h)
    return (down @ up).T.detach()


# ---- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [False, True])
def test_the_free_energy_sums_the_hidden_units_out(centred):
    machine = random_machine(centred=centred)
    machine.centre_at(torch.rand(4))
    v, h = states(4), states(3)
    b, c = machine.biases()
    joint = v @ b + (h @ c).unsqueeze(1) + h @ machine.weight.T @ v.T
    torch.testing.assert_close(-machine.energy(v), joint.logsumexp(0))


def test_moving_the_centre_moves_nothing_else():
    machine, v = random_machine(), states(4)
    before, matrix = machine.energy(v) + machine.log_partition(), transition_matrix(machine)
    machine.centre_at(torch.rand(4))
    torch.testing.assert_close(machine.energy(v) + machine.log_partition(), before)
    torch.testing.assert_close(transition_matrix(machine), matrix)


def test_parameters_of_the_energy_can_be_set_wherever_the_centre_is():
    source, target = random_machine(seed=0, centred=False), random_machine(seed=1)
    target.centre_at(torch.rand(4))
    target.assign(source.weight, *source.biases())
    torch.testing.assert_close(target.energy(states(4)), source.energy(states(4)))


def test_one_sweep_leaves_p_invariant_and_is_reversible():
    machine = random_machine()
    matrix, p = transition_matrix(machine), probabilities(machine, states(4))
    torch.testing.assert_close(p @ matrix, p)
    torch.testing.assert_close(p[:, None] * matrix, (p[:, None] * matrix).T)


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_the_sampler_passes_geweke_and_a_biased_one_does_not(bias):
    machine = random_machine(scale=2.0)
    v, p = states(4), probabilities(machine, states(4))

    def kernel(state):
        with torch.no_grad():
            machine.hidden_bias += bias
            state = machine.gibbs(state)
            machine.hidden_bias -= bias
        return state

    def check():
        geweke(
            lambda n: v[torch.multinomial(p, n, replacement=True)],
            kernel,
            lambda s: torch.cat([s, s[:, :-1] * s[:, 1:]], 1),
            chains=20_000,
        )

    if bias:
        with pytest.raises(AssertionError, match="does not leave the joint invariant"):
            check()
    else:
        check()


def test_gaussian_units_are_a_mixture_of_gaussians():
    """p(v) = Σ_h p(h) N(v; σ(b + W h), σ²), with exact log Z: compare densities, and the units' own conditional."""
    machine = random_machine(units=Gaussian(0.5), scale=0.6)
    v, h = torch.randn(7, 4, dtype=torch.float64), states(3)
    b, c = machine.biases()
    log_p_h = h @ c + (h @ machine.weight.T + b).square().sum(-1) / 2
    given = Independent(Normal(0.5 * (h @ machine.weight.T + b), 0.5), 1)
    mixture = (log_p_h.log_softmax(0) + given.log_prob(v.unsqueeze(1))).logsumexp(-1)
    torch.testing.assert_close(-machine.energy(v) - machine.log_partition(), mixture)
    torch.testing.assert_close(
        machine.likelihood(h).log_prob(v.unsqueeze(1)), given.log_prob(v.unsqueeze(1))
    )


@pytest.mark.parametrize("count", [1, 3])
def test_multinomial_units_sum_to_one_over_all_counts(count):
    machine = BoltzmannMachine((2, 3), 2, units=Multinomial(3, count)).double()
    with torch.no_grad():
        machine.weight.normal_()
    group = [
        torch.tensor(c, dtype=torch.float64)
        for c in torch.cartesian_prod(*[torch.arange(count + 1)] * 3).tolist()
        if sum(c) == count
    ]
    v = torch.stack([torch.stack([a, b]) for a in group for b in group])
    assert (-machine.energy(v) - machine.log_partition()).logsumexp(0).item() == pytest.approx(
        0, abs=1e-12
    )
    assert torch.equal(
        machine.gibbs(v).sum(-1), torch.full((len(v), 2), float(count), dtype=torch.float64)
    )


@pytest.mark.parametrize("units", [Gaussian(2.0), Multinomial(3, 2)])
def test_samplers_of_other_units_pass_geweke(units):
    machine = BoltzmannMachine((2, 3), 3, units=units).double()
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.normal_(std=0.7)
    h = states(3)
    b, c = machine.biases()
    p = (h @ c + units.log_partition(h @ machine.weight.T + b)).detach().softmax(0)
    geweke(
        lambda n: machine.likelihood(h[torch.multinomial(p, n, replacement=True)]).sample(),
        machine.gibbs,
        lambda v: torch.cat([v.flatten(1), v.flatten(1) ** 2], 1),
    )


def test_the_base_has_the_mean_it_was_given():
    for machine in (BoltzmannMachine((4,), 3), DeepBoltzmannMachine((4,), (3, 2))):
        mean = torch.tensor([0.1, 0.4, 0.5, 0.9])
        machine.centre_at(mean)
        torch.manual_seed(0)
        draws = machine.start(40_000)[:, :4]
        assert (draws.mean(0) - mean).abs().max() < 4 * 0.5 / 200


@pytest.mark.parametrize("units", [Binary(), Gaussian(0.5), Multinomial(3, 1), Multinomial(3, 4)])
def test_units_are_exponential_families(units):
    """E[s(v)] = ∇A(η), which is s(E[v]); `natural` undoes `mean`, `given` is the layer that `sample` draws from."""
    torch.manual_seed(0)
    eta = torch.randn(6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(units.log_partition(eta), eta)
    torch.testing.assert_close(units.statistic(units.mean(eta)), slope)
    torch.testing.assert_close(units.mean(units.natural(units.mean(eta))), units.mean(eta))
    given = units.given(eta.detach(), (2, 3))
    torch.testing.assert_close(given.mean.flatten(), units.mean(eta.detach()))
    draws = units.sample(eta.detach().expand(40_000, -1))
    for moment, exact in (
        (draws, given.mean.flatten()),
        (draws.square(), (given.variance + given.mean.square()).flatten()),
    ):
        assert ((moment.mean(0) - exact).abs() < 4 * moment.std(0) / 200).all()


@torch.no_grad()
@pytest.mark.parametrize("deep", [False, True])
def test_annealed_draws_and_their_means_are_those_of_p(deep):
    """Against enumeration: E[v] and E[v vᵀ] of `sample`, E[v] of `means`, which averages out what v adds given h."""
    machine = deep_machine((3, 2), sweeps=60) if deep else random_machine(sweeps=60)
    even = states(6 if deep else 4)
    p, n = probabilities(machine, even), 20_000
    products = lambda v: (v.unsqueeze(-1) * v.unsqueeze(-2)).flatten(1)
    torch.manual_seed(0)
    drawn, means = machine.sample(n), machine.means(n)
    v = even[:, :4]
    assert ((products(drawn).mean(0) - p @ products(v)).abs() < 4 * 0.5 / n**0.5).all()
    assert ((means.mean(0) - p @ v).abs() < 4 * 0.5 / n**0.5).all()
    assert (means.var(0) < 0.9 * drawn.var(0)).all()


def test_filters_are_what_a_unit_alone_makes_of_visible_units_without_bias():
    machine = random_machine(centred=False)
    with torch.no_grad():
        machine.visible_bias.zero_()
    torch.testing.assert_close(machine.filters(), machine.likelihood(torch.eye(3).double()).mean)


@torch.no_grad()
@pytest.mark.parametrize("deep", [False, True])
def test_the_centre_is_a_running_mean_that_leaves_p_alone(deep):
    machine = deep_machine() if deep else random_machine()
    even, rows = states(8 if deep else 4), torch.rand(5, 4, dtype=torch.float64)
    before = machine.energy(even) + machine.log_partition()
    for index, row in enumerate(rows):
        machine.centre_at(row, rate=1 / (index + 1))
    torch.testing.assert_close(machine.centre, rows.mean(0))
    torch.testing.assert_close(machine.energy(even) + machine.log_partition(), before)


# ---- deep machines -----------------------------------------------------------------------------


def deep_machine(hidden=(3, 4), seed=0, **kwargs):
    torch.manual_seed(seed)
    machine = DeepBoltzmannMachine((4,), hidden, **kwargs).double()
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.normal_(std=0.8)
    return machine


@pytest.mark.parametrize("hidden", [(3,), (3, 4), (3, 2, 4), (2, 3, 2, 2)])
def test_both_sides_of_a_deep_machine_have_the_same_constant(hidden):
    machine = deep_machine(hidden)
    machine.centre_at(torch.rand(4))
    assert machine.log_partition("odd").item() == pytest.approx(
        machine.log_partition("even").item(), abs=1e-12
    )


@torch.no_grad()
@pytest.mark.parametrize(
    "build", [BoltzmannMachine, lambda event, size: DeepBoltzmannMachine(event, (size, 3))]
)
def test_the_constant_is_summed_over_the_side_with_fewer_units(build):
    """The other has 2³⁰ states or more; without weights Z is 2 to the number of units."""
    for visible, hidden in ((4, 30), (30, 4)):
        machine, units = (
            build((visible,), hidden).double(),
            visible + hidden + (3 if build is not BoltzmannMachine else 0),
        )
        for parameter in machine.parameters():
            parameter.zero_()
        assert machine.log_partition().item() == pytest.approx(units * math.log(2), abs=1e-12)


@torch.no_grad()
def test_a_sum_over_many_states_in_blocks_is_that_over_the_few_of_the_other_side():
    machine = random_machine(visible=3, hidden=15)
    assert machine.log_partition("hidden").item() == pytest.approx(
        machine.log_partition("visible").item(), abs=1e-10
    )


def test_a_deep_machine_of_one_layer_is_a_restricted_one():
    deep, flat = deep_machine((3,)), random_machine()
    b, c = (
        deep._input(level, {0: torch.zeros(4).double(), 1: torch.zeros(3).double()})
        for level in (0, 1)
    )
    flat.assign(deep.weights[0], b, c)
    torch.testing.assert_close(deep.energy(states(4)), flat.energy(states(4)))
    assert deep.log_partition().item() == pytest.approx(flat.log_partition().item(), abs=1e-12)
    for machine in (deep, flat):
        machine.centre_at(torch.tensor([0.1, 0.4, 0.7, 0.9]))
    betas = torch.linspace(0, 1, 5, dtype=torch.float64).unsqueeze(
        1
    )  # its states look like data, yet they are tempered
    torch.testing.assert_close(deep.energy(states(4), betas), flat.energy(states(4), betas))


def test_mean_field_energy_bounds_the_free_energy_from_above_and_sweeps_tighten_it():
    v, bounds = states(4), []
    for sweeps in (1, 2, 5, 50):
        machine = deep_machine(mean_field_sweeps=sweeps)
        everything = torch.cat([states(4).repeat(16, 1), states(4).repeat_interleave(16, 0)], 1)
        exact = -(-machine.energy(everything)).view(16, 16).logsumexp(0)
        bounds.append((machine.energy(v) - exact).detach())
    assert (torch.stack(bounds) > 0).all()
    assert all((later <= earlier + 1e-12).all() for earlier, later in pairwise(bounds))


def test_gradient_of_the_mean_field_energy_ignores_how_the_means_were_found():
    """At convergence the bound is stationary in the means, so its partial gradient is its total one."""
    machine, v = deep_machine(mean_field_sweeps=500), states(4)[5:6]
    parameter = machine.weights[1]
    (gradient,) = torch.autograd.grad(machine.energy(v).sum(), parameter)
    step = torch.zeros_like(parameter)
    step[1, 2] = 1e-5
    with torch.no_grad():
        parameter += step
        above = machine.energy(v)
        parameter -= 2 * step
        below = machine.energy(v)
    assert gradient[1, 2].item() == pytest.approx(((above - below) / 2e-5).item(), rel=1e-6)


def test_the_deep_sampler_passes_geweke():
    machine = deep_machine((3, 2))
    even = states(6)
    p = (-machine.energy(even)).detach().softmax(0)
    geweke(
        lambda n: even[torch.multinomial(p, n, replacement=True)],
        machine.gibbs,
        lambda s: torch.cat([s, s[:, :-1] * s[:, 1:]], 1),
    )
    assert machine.gibbs(states(4)).shape == (16, 6)  # from data, the hidden layers are drawn first


@torch.no_grad()
def test_mean_field_climbs_from_fair_coins_and_its_means_are_what_data_begin_their_chains_with():
    machine, v = deep_machine((3, 2), centred=False, mean_field_sweeps=1), states(4)
    first = (machine.biases[1] + v @ machine.weights[0] + machine.weights[1].sum(1) / 2).sigmoid()
    second = (machine.biases[2] + first @ machine.weights[1]).sigmoid()
    for found, expected in zip(machine.mean_field(v), (first, second)):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        machine.hidden_mean(v),
        (machine.biases[1] + v @ machine.weights[0] + second @ machine.weights[1].T).sigmoid(),
    )
    machine.move = lambda state: state  # what is handed to the first sweep
    torch.manual_seed(0)
    begun = machine.gibbs(v.repeat_interleave(10_000, 0)).view(16, 10_000, 6)
    assert torch.equal(begun[:, 0, :4], v) and torch.equal(begun, begun.round())
    assert ((begun[..., 4:].mean(1) - second).abs() < 4 * 0.5 / 100).all()


# ---- learning ----------------------------------------------------------------------------------


def test_the_gradient_of_contrastive_divergence_tends_to_that_of_the_likelihood():
    """By the exact transition matrix: data p̂ against p̂ Tᵏ; the error falls as the second eigenvalue to the k."""
    machine, v = random_machine(scale=2.0), states(4)
    p_hat = torch.rand(16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    p_hat = p_hat / p_hat.sum()
    parameters = list(machine.parameters())
    log_likelihood = p_hat @ (-machine.energy(v)) - machine.log_partition()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-log_likelihood, parameters)])
    matrix, errors = transition_matrix(machine), []
    for k in (1, 5, 25, 100):
        chain = p_hat @ torch.linalg.matrix_power(matrix, k)
        loss = p_hat @ machine.energy(v) - chain @ machine.energy(v)
        errors.append(
            (torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]) - exact)
            .norm()
            .item()
        )
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[0] > 1e-2 and errors[3] < 1e-3 * errors[0]
    eigenvalue = torch.linalg.eigvals(matrix).abs().sort().values[-2].item()
    assert errors[2] / errors[1] == pytest.approx(eigenvalue**20, rel=0.5)


def test_the_objective_draws_that_gradient():
    """50,000 rows with one sweep from each: every coordinate within four standard errors of the exact CD-1 gradient."""
    machine, v, n = random_machine(), states(4), 50_000
    p_hat = torch.full((16,), 1 / 16, dtype=torch.float64)
    x = v.repeat(n // 16, 1)
    loss = p_hat @ machine.energy(v) - p_hat @ transition_matrix(machine) @ machine.energy(v)
    expected = torch.autograd.grad(loss, list(machine.parameters()))
    terms = ContrastiveDivergence()(machine, x, machine.gibbs(x))
    for a, b in zip(torch.autograd.grad(terms.loss, list(machine.parameters())), expected):
        assert (a - b).abs().max() < 4 * 0.5 / n**0.5


@pytest.mark.parametrize("units", [Binary(), Gaussian(0.5)])
@pytest.mark.parametrize("centred", [False, True])
def test_statistics_are_the_gradient_of_the_energy(centred, units):
    machine = random_machine(centred=centred, units=units)
    machine.centre_at(torch.rand(4))
    v, weight = states(4)[3:9], torch.randn(6, dtype=torch.float64)
    expected = torch.autograd.grad(-(weight * machine.energy(v)).sum(), list(machine.parameters()))
    for got, want in zip(machine.statistics(v, weight).values(), expected, strict=True):
        torch.testing.assert_close(got, want)
    x, chain = v[:2], v[2:]
    exact = torch.autograd.grad(
        ContrastiveDivergence()(machine, x, chain).loss, list(machine.parameters())
    )
    default = torch.autograd.grad(
        machine.energy(x).mean() - machine.energy(chain).mean(), list(machine.parameters())
    )
    for got, want in zip(exact, default):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind, error", [(BoltzmannMachine, 2**-8), (DeepBoltzmannMachine, 0.0)])
def test_mixed_precision_rounds_the_contrast_less_than_chance_does(kind, error):
    """Given the chain, the gradient is the one of full precision to the 8 bits of a factor: the terms are rounded, not their sum."""
    torch.manual_seed(0)
    x = (torch.rand(200, 30) < 0.3).float()
    machine = kind((30,), 20 if kind is BoltzmannMachine else (20, 10))
    chain = walk(machine.gibbs, x, 1)
    plain = ContrastiveDivergence()(machine, x, chain).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ContrastiveDivergence()(machine, x, chain).loss
    parameters = list(machine.parameters())
    for a, b in zip(torch.autograd.grad(mixed, parameters), torch.autograd.grad(plain, parameters)):
        assert (a - b).norm() <= error * b.norm()


@pytest.mark.parametrize("kind", [BoltzmannMachine, DeepBoltzmannMachine])
def test_a_step_under_lightnings_mixed_precision_is_near_one_in_full(kind):
    import pytorch_lightning as lightning

    torch.manual_seed(0)
    rows = (torch.rand(4000, 30) < torch.linspace(0.02, 0.9, 30)).float()
    moved = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(1)
        machine = kind((30,), 20 if kind is BoltzmannMachine else (20, 10))
        before = torch.cat([p.detach().flatten().clone() for p in machine.parameters()])
        trainer = lightning.Trainer(
            max_epochs=1,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(CD(machine, optimizer=partial(SGD, lr=1.0)), Data(rows, batch_size=4000))
        moved[precision] = torch.cat([p.detach().flatten() for p in machine.parameters()]) - before
    full, mixed = moved.values()
    assert mixed.dtype == torch.float32 and full.norm() > 0
    assert (mixed - full).norm() < 0.02 * full.norm()


@torch.no_grad()
@pytest.mark.parametrize("kind", [BoltzmannMachine, DeepBoltzmannMachine])
def test_rare_units_are_drawn_as_often_under_mixed_precision(kind):
    """σ(−7) = .00091; uniforms of 8 bits would draw such units three times too often."""
    torch.manual_seed(0)
    machine = kind((50,), 50 if kind is BoltzmannMachine else (50, 50))
    for parameter in machine.parameters():
        parameter.fill_(0.0 if parameter.dim() > 1 else -7.0)
    n, p = 20_000, torch.tensor(-7.0).sigmoid()
    with torch.autocast("cpu", torch.bfloat16):
        state = machine.gibbs(torch.zeros(n, 50))
    assert state.dtype == torch.float32
    assert (state.mean() - p).abs() < 4 * (p / (n * state.shape[1])).sqrt()


def test_decay_and_sparsity_are_part_of_the_loss():
    machine, x = random_machine(), states(4)
    plain = ContrastiveDivergence()(machine, x, x).loss
    decayed = ContrastiveDivergence(weight_decay=0.2)(machine, x, x).loss
    assert (decayed - plain).item() == pytest.approx(0.1 * machine.weight.square().sum().item())
    sparse = ContrastiveDivergence(sparsity=0.5, activity=0.3)(machine, x, x).loss
    away = (machine.hidden_mean(x).mean(0) - 0.3).square().sum()
    assert (sparse - plain).item() == pytest.approx(0.25 * away.item())


def log_likelihood(machine, x):
    return (-machine.energy(x).mean() - machine.log_partition()).item()


@pytest.mark.parametrize("kwargs", [
    {"steps": 5}, {"persistent": True}, {"persistent": True, "rungs": 4},
    {"steps": 5, "contrastive": ContrastiveDivergence(weight_decay=1e-4, sparsity=0.01)},
])  # fmt: skip
@pytest.mark.parametrize("deep", [False, True])
def test_learning_raises_the_exact_likelihood_near_the_entropy_of_the_data(kwargs, deep):
    if deep and "contrastive" in kwargs:
        return
    torch.manual_seed(0)
    patterns = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]], dtype=torch.float64)
    x = patterns.repeat(34, 1)
    machine = (DeepBoltzmannMachine((4,), (4, 2)) if deep else BoltzmannMachine((4,), 6)).double()
    trainer = CD(machine, optimizer=partial(SGD, lr=0.3, momentum=0.5), **kwargs)
    for index in range(300):
        trainer.training_step(x, index)
    if deep:  # exact p(v) by enumeration of h² beside v
        hidden = states(2)
        energies = machine.energy(
            torch.cat([patterns.repeat(4, 1), hidden.repeat_interleave(3, 0)], 1)
        )
        score = ((-energies).view(4, 3).logsumexp(0).mean() - machine.log_partition()).item()
    else:
        score = log_likelihood(machine, patterns)
    assert (
        -1.6 < score < -torch.log(torch.tensor(3.0))
    )  # uniform over 16 is −2.77, the entropy −1.10


def test_the_chain_persists_and_tempering_keeps_one_row_of_chains_a_rung():
    x = states(4)
    trainer = CD(random_machine(), persistent=True)
    trainer.training_step(x, 0)
    first = trainer.chain.clone()
    trainer.training_step(x, 1)
    assert first.shape == x.shape and not torch.equal(first, trainer.chain)
    assert "chain" in trainer.state_dict()
    tempered = CD(random_machine(), persistent=True, rungs=5)
    tempered.training_step(x, 0)
    assert tempered.chain.shape == (5, 16, 4)
    plain = CD(random_machine())
    plain.training_step(x, 0)
    assert plain.chain is None


class Ladder(torch.nn.Module):
    """States that say where they come from: a kernel that counts, equal energies so that every exchange is accepted."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def energy(self, x, beta=None):
        return 0 * x.sum(-1) * self.weight

    def log_z0(self):
        return torch.zeros(())

    def start(self, n):
        return torch.arange(float(n)).unsqueeze(-1)

    def move(self, x, beta):
        return x + 100

    def gibbs(self, x):
        return x + 1


def test_each_sweep_of_tempering_is_followed_by_both_exchanges():
    trainer = CD(Ladder(), persistent=True, rungs=4)
    trainer.training_step(torch.zeros(1, 1), 0)
    assert trainer.chain.flatten().tolist() == [101, 103, 100, 102]  # (0,1) (2,3), then (1,2)
    twice = CD(Ladder(), persistent=True, rungs=4, steps=2)
    twice.training_step(torch.zeros(1, 1), 0)
    assert twice.chain.flatten().tolist() == [203, 202, 201, 200]


@pytest.mark.parametrize(("persistent", "seen"), [(False, [3, 3]), (True, [3, 6])])
def test_the_chain_takes_k_sweeps_from_the_data_or_from_where_it_stood(persistent, seen):
    trainer, ends = CD(Ladder(), steps=3, persistent=persistent), []
    trainer.contrastive = lambda model, x, chain: (
        ends.append(float(chain)) or ContrastiveDivergence()(model, x, chain)
    )
    for index in range(2):
        trainer.training_step(torch.zeros(1, 1), index)
    assert ends == seen


def test_a_chain_from_a_persistent_checkpoint_is_not_where_one_from_the_data_begins():
    trainer, ends = CD(Ladder(), steps=3), []
    trainer.chain = torch.full((1, 1), 50.0)
    trainer.contrastive = lambda model, x, chain: (
        ends.append(float(chain)) or ContrastiveDivergence()(model, x, chain)
    )
    trainer.training_step(torch.zeros(1, 1), 0)
    assert ends == [3]


def test_the_first_epoch_finds_the_mean_of_the_data_and_later_ones_leave_it(monkeypatch):
    torch.manual_seed(0)
    trainer, batches = CD(BoltzmannMachine((4,), 3)), torch.rand(3, 10, 4)
    for index, x in enumerate(batches):
        trainer.training_step(x, index)
    torch.testing.assert_close(trainer.model.centre, batches.mean((0, 1)))
    monkeypatch.setattr(CD, "current_epoch", 1)
    trainer.training_step(torch.ones(10, 4), 0)
    torch.testing.assert_close(trainer.model.centre, batches.mean((0, 1)))


@pytest.mark.parametrize("rungs", [1, 3])
def test_a_resumed_chain_walks_on_bit_for_bit(tmp_path, rungs):
    import pytorch_lightning as lightning

    data = Data(torch.rand(40, 6).round(), batch_size=10)

    def run(epochs, checkpoint=None):
        torch.manual_seed(0)
        module = CD(BoltzmannMachine((6,), 4), persistent=True, rungs=rungs)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        return trainer, module

    _, straight = run(4)
    trainer, _ = run(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = run(4, str(tmp_path / "half.ckpt"))
    assert straight.state_dict().keys() == resumed.state_dict().keys()
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_users_own_energy_model_is_trained_too():
    """A module with energy(x) and gibbs(x) is all that is asked: a Gaussian with unknown mean, by exact draws."""

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = torch.nn.Parameter(torch.zeros(2))

        def energy(self, x):
            return (x - self.mean).square().sum(-1) / 2

        def gibbs(self, x):
            return self.mean + torch.randn_like(x)

    torch.manual_seed(0)
    model, x = Mean(), torch.randn(500, 2) + torch.tensor([1.0, -2.0])
    trainer = CD(model)
    for index in range(200):
        trainer.training_step(x, index)
    assert (model.mean - x.mean(0)).abs().max() < 0.05


def test_what_machines_and_their_trainer_refuse():
    for make, message in (
        (lambda: BoltzmannMachine((4,), 0), "hidden=0"),
        (lambda: DeepBoltzmannMachine((4,), ()), "at least one layer"),
        (lambda: BoltzmannMachine((30,), 30).log_partition(), "too many to enumerate"),
        (lambda: random_machine(units=Gaussian()).log_partition("visible"), "enumerate 'hidden'"),
        (lambda: Gaussian(0.0), "scale=0.0"),
        (lambda: Multinomial(1), "two outcomes"),
        (lambda: BoltzmannMachine((6,), 2, units=Multinomial(3)), "must be the outcomes"),
        (lambda: BoltzmannMachine((3, 4), 2, units=Multinomial(3)), "must be the outcomes"),
        (lambda: DeepBoltzmannMachine((4,), (2, 2), units=Multinomial(3)), "must be the outcomes"),
        (lambda: CD(random_machine(), steps=0), "steps=0"),
        (lambda: CD(random_machine(), rungs=3), "persistent=true"),
        (lambda: ContrastiveDivergence(weight_decay=-1.0), "cannot be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="Energy"):
        CD(torch.nn.Linear(2, 2))
