"""Normalising constants against enumeration; chains against what is known of them."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from emgen.callbacks import NormalisingConstants
from emgen.estimators.chains import effective_sample_size, hamiltonian, r_hat, swap
from emgen.estimators.montecarlo import log_mean_exp
from emgen.estimators.normalising import (
    annealed_importance_sampling,
    bridge,
    bridge_sampling,
    importance_sampling,
    log_partition,
    path_sampling,
    reverse_annealed_importance_sampling,
)
from emgen.figures import normalising_constants as figure
from emgen.models import BoltzmannMachine, DeepBoltzmannMachine
from emgen.models.energy.boltzmann_machine import binary_states
from emgen.testing import geweke

LOG_Z = {(6, 4): 9.134774886543793, (16, 10): 23.2581277690571}


def sine_machine(visible, hidden, scale=1.0, **kwargs):
    machine = BoltzmannMachine((visible,), hidden, centred=False, **kwargs).double()
    i, j = torch.arange(1.0, visible + 1).double(), torch.arange(1.0, hidden + 1).double()
    with torch.no_grad():
        machine.weight.copy_(scale * torch.sin(i[:, None] * j))
        machine.visible_bias.copy_(torch.cos(i))
        machine.hidden_bias.copy_(torch.sin(j / 2))
    return machine


def exact_draws(machine, n):
    v = binary_states(machine.event_shape.numel(), machine.visible_bias)
    p = (-machine.energy(v)).detach().softmax(0)
    return v[torch.multinomial(p, n, replacement=True)]


def within(estimate, exact, errors=3.0):
    assert abs(float(estimate.value) - exact) < errors * float(estimate.error), (
        f"{estimate}, exact {exact:.4f}"
    )
    assert float(estimate.error) > 0


def ladder(temperatures):
    return torch.linspace(0, 1, temperatures, dtype=torch.float64)


@pytest.mark.parametrize("size", LOG_Z)
@pytest.mark.parametrize("side", ["hidden", "visible"])
def test_enumeration_of_either_side_gives_the_published_constant(size, side):
    assert sine_machine(*size).log_partition(side).item() == pytest.approx(LOG_Z[size], abs=1e-12)


@pytest.mark.parametrize("size", LOG_Z)
@pytest.mark.parametrize(("temperatures", "chains", "sweeps"), [(3, 20_000, 20), (1000, 500, 1)])
def test_all_estimators_meet_the_exact_constant(size, temperatures, chains, sweeps):
    torch.manual_seed(1)
    machine, betas, exact = sine_machine(*size), ladder(temperatures), LOG_Z[size]
    within(annealed_importance_sampling(machine, betas, chains), exact)
    within(
        reverse_annealed_importance_sampling(machine, exact_draws(machine, chains), betas), exact
    )
    within(bridge_sampling(machine, betas, chains, sweeps), exact)
    if temperatures > 3:  # path sampling has a rule of integration to pay for
        within(path_sampling(machine, ladder(21), chains, 20), exact)


def test_annealing_before_moving_is_told_from_annealing_after():
    """Weights taken after the move are off by .31 nats on three temperatures, which no error bar here covers."""
    torch.manual_seed(0)
    machine, betas = sine_machine(6, 4), ladder(3)
    state, log_w = machine.start(20_000), 0.0
    for low, high in pairwise(betas):
        state = machine.move(state, high)
        log_w = log_w + machine.energy(state, low) - machine.energy(state, high)
    wrong = log_mean_exp(log_w).plus(machine.log_z0())
    assert wrong.value - LOG_Z[6, 4] > 10 * wrong.error
    within(annealed_importance_sampling(machine, betas, 20_000), LOG_Z[6, 4])


def test_the_mean_of_z_is_unbiased_and_the_mean_of_its_logarithm_is_not():
    """2,000 runs of five chains each: E[Z_hat] = Z, E[1/Z_hat] = 1/Z of the reverse, E[log Z_hat] < log Z < reverse."""
    torch.manual_seed(0)
    machine, betas, runs = sine_machine(6, 4, scale=2.0), ladder(3), 2_000
    exact = machine.log_partition().item()
    up = torch.stack([annealed_importance_sampling(machine, betas, 5).value for _ in range(runs)])
    draws = exact_draws(machine, 5 * runs).view(runs, 5, -1)
    down = torch.stack(
        [reverse_annealed_importance_sampling(machine, state, betas).value for state in draws]
    )
    for ratio in ((up - exact).exp(), (exact - down).exp()):
        assert abs(ratio.mean() - 1) < 3 * ratio.std() / math.sqrt(runs)
    assert up.mean() - exact < -5 * up.std() / math.sqrt(runs)
    assert down.mean() - exact > 5 * down.std() / math.sqrt(runs)


@pytest.mark.parametrize(
    "estimator", ["ais", "reverse", "bridge", "path", "importance", "two sides"]
)
def test_stated_errors_are_the_errors_made(estimator):
    """Over 200 runs, (estimate − exact) / stated error has a mean square near 1 (± .3 is three of its own errors)."""
    torch.manual_seed(0)
    machine, betas, n = sine_machine(6, 4), ladder(6), 500
    rise = lambda v: (
        machine.energy(v, torch.zeros(())) - machine.energy(v, torch.ones(()))
    ).detach()
    run = {
        "ais": lambda: annealed_importance_sampling(machine, betas, n),
        "reverse": lambda: reverse_annealed_importance_sampling(
            machine, exact_draws(machine, n), betas
        ),
        "bridge": lambda: bridge_sampling(machine, betas, n, 3),
        "path": lambda: path_sampling(machine, ladder(11), n, 3),
        "importance": lambda: importance_sampling(machine, n),
        "two sides": lambda: bridge(rise(machine.start(n)), rise(exact_draws(machine, 5 * n))).plus(
            machine.log_z0()
        ),
    }[estimator]
    estimates = [run() for _ in range(200)]
    z = torch.stack([(e.value - LOG_Z[6, 4]) / e.error for e in estimates])
    assert 0.7 < z.square().mean() < 1.3


def test_errors_and_effective_sizes_are_one_statement():
    """error² = (n / ESS − 1) / (n − 1) of every estimator, so an ESS is in the coin of importance weights throughout."""
    torch.manual_seed(0)
    machine, betas = sine_machine(6, 4), ladder(4)
    rise = lambda v: (
        machine.energy(v, torch.zeros(())) - machine.energy(v, torch.ones(()))
    ).detach()
    for n, estimate in (
        (300, annealed_importance_sampling(machine, betas, 300)),
        (300, bridge_sampling(machine, betas, 300, 3)),
        (300, path_sampling(machine, betas, 300, 3)),
        (500, bridge(rise(machine.start(300)), rise(exact_draws(machine, 200)))),
    ):
        assert float((n / estimate.ess - 1) / (n - 1)) == pytest.approx(
            float(estimate.error) ** 2, rel=1e-9
        )


def test_path_sampling_forgives_a_coarse_ladder_by_its_end_correction():
    """Four temperatures: the rule errs by .0002 nats; without its correction, or with the variance alone for g′, by .02."""
    torch.manual_seed(0)
    machine = sine_machine(6, 4, scale=2.0)
    estimate = path_sampling(machine, ladder(4), 100_000, 10)
    assert float(estimate.error) < 0.003
    within(estimate, machine.log_partition().item())


def test_the_optimal_bridge_needs_no_ladder_and_ignores_which_side_is_larger():
    torch.manual_seed(2)
    machine = sine_machine(6, 4)
    rise = lambda v: (
        machine.energy(v, torch.zeros(())) - machine.energy(v, torch.ones(()))
    ).detach()
    for n, m in ((4000, 1000), (1000, 4000)):
        estimate = bridge(rise(machine.start(n)), rise(exact_draws(machine, m))).plus(
            machine.log_z0()
        )
        within(estimate, LOG_Z[6, 4])


def test_a_bridge_between_supports_that_differ_is_exact_and_one_between_strangers_is_refused():
    """Boxes: f_0 = 1 on [0, 2] and f_1 = 3 on [1, 3], so r = 3 whatever is seen of either outside the overlap."""
    torch.manual_seed(0)
    for n, m in ((2000, 2000), (500, 3000)):
        base, target = (
            2 * torch.rand(n, dtype=torch.float64),
            1 + 2 * torch.rand(m, dtype=torch.float64),
        )
        estimate = bridge(
            torch.where(base > 1, math.log(3), -torch.inf),
            torch.where(target < 2, math.log(3), torch.inf),
        )
        within(estimate, math.log(3))
        classic = math.sqrt(
            1 / n + 1 / m
        )  # of log(share in the overlap), of which each side has one half
        assert float(estimate.error) == pytest.approx(classic, rel=0.1)
    everywhere, nowhere = torch.zeros(5, 2), torch.zeros(5, 2)
    nowhere[:, 1] = -torch.inf
    for at_base, at_target in ((nowhere, everywhere), (everywhere, -nowhere)):
        with pytest.raises(ValueError, match="densities that overlap"):
            bridge(at_base, at_target)
    for at_base in (torch.full((3,), torch.nan), torch.zeros(0)):
        with pytest.raises(ValueError, match="whose log-ratios are numbers"):
            bridge(at_base, torch.zeros(3))


@pytest.mark.parametrize("gap", [4.0, 6.0, 60.0])
def test_a_bridge_over_a_gulf_says_that_it_knows_nothing(gap):
    """Two unit Gaussians, r = 1: as their overlap fades the stated error must grow with the error made, or beyond it."""
    torch.manual_seed(0)
    at_base = gap * torch.randn(100, 300, dtype=torch.float64) - gap**2 / 2
    at_target = gap * torch.randn(100, 300, dtype=torch.float64) + gap**2 / 2
    estimate = bridge(at_base, at_target)
    z = estimate.value / estimate.error
    assert (z.abs() > 3).double().mean() < 0.02 and z.square().mean() < 1.3
    assert (estimate.error > 1).all() == (gap > 5)


@pytest.mark.parametrize(("temperatures", "calm"), [(2, 1.0), (60, 0.2)])
def test_chains_say_so_too_and_a_fine_ladder_pays_nothing_for_it(temperatures, calm):
    """N(8β, 1) with perfect moves: over two temperatures nothing overlaps, over sixty all that do."""
    torch.manual_seed(0)

    class Shift:
        def log_z0(self):
            return torch.zeros(300, dtype=torch.float64)

        def start(self, chains):
            return torch.randn(chains, 300, dtype=torch.float64)

        def energy(self, x, beta):
            return (x - 8 * beta).square() / 2

        def move(self, x, beta):
            return 8 * beta + torch.randn_like(x)

    estimate = bridge_sampling(Shift(), ladder(temperatures), 100, 1)
    z = estimate.value / estimate.error
    assert (z.abs() > 3).double().mean() < 0.02 and z.square().mean() < 1.3
    assert (estimate.error > calm).all() == (temperatures == 2)


def test_chains_that_leave_the_support_weigh_nothing_from_then_on():
    """A box [−1, 1] annealed from N(0, 4): whoever starts outside is dead at once and for good, log Z = log 2 all the same."""
    torch.manual_seed(0)

    class Box:
        def log_z0(self):
            return torch.tensor(math.log(2 * math.sqrt(2 * math.pi)), dtype=torch.float64)

        def start(self, chains):
            return 2 * torch.randn(chains, dtype=torch.float64)

        def energy(self, x, beta):
            return torch.where((x.abs() > 1) & (beta > 0), torch.inf, (1 - beta) * x.square() / 8)

        def move(self, x, beta):
            y = x + torch.randn_like(x)
            return torch.where(
                torch.rand_like(x).log() < self.energy(x, beta) - self.energy(y, beta), y, x
            )

    for temperatures in (2, 3, 30):
        estimate = annealed_importance_sampling(Box(), ladder(temperatures), 5000)
        within(estimate, math.log(2))
        assert estimate.ess < 2000


def test_a_deep_machine_of_one_hidden_layer_is_annealed_like_the_shallow_one_that_it_is():
    torch.manual_seed(0)
    deep, shallow = (
        DeepBoltzmannMachine((2, 3), (4,)).double(),
        BoltzmannMachine((2, 3), 4).double(),
    )
    with torch.no_grad():
        for theirs, ours in zip(
            (shallow.weight, shallow.visible_bias, shallow.hidden_bias),
            (*deep.weights, *deep.biases),
        ):
            theirs.copy_(ours.normal_())
    betas, states = ladder(5), binary_states(6, shallow.weight)
    expected = shallow.energy(states.view(-1, 2, 3), betas[:, None])
    assert torch.allclose(deep.energy(states, betas[:, None]), expected, atol=1e-12)
    assert torch.allclose(deep.energy(states.view(-1, 2, 3)), expected[-1], atol=1e-12)
    for event_shape in ((6,), (1, 6)):
        machine = DeepBoltzmannMachine(event_shape, (4,)).double()
        machine.load_state_dict(deep.state_dict())
        within(
            annealed_importance_sampling(machine, ladder(20), 2000), shallow.log_partition().item()
        )


def test_a_batch_of_paths_is_estimated_at_once():
    """A Gaussian path with a batch dimension: target exp(−(x−μ)²/2s²), so log Z = log s√2π for every element."""
    torch.manual_seed(0)
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    class Gaussians:
        def log_z0(self):
            return torch.full((3,), math.log(2 * math.pi) / 2, dtype=torch.float64)

        def start(self, chains):
            return torch.randn(chains, 3, dtype=torch.float64)

        def energy(self, x, beta):
            return ((1 - beta) + beta / scale**2) * x.square() / 2

        def move(self, x, beta):
            return hamiltonian(lambda z: self.energy(z.squeeze(-1), beta), x[..., None], 0.5, 3)[
                0
            ].squeeze(-1)

    exact = scale.log() + math.log(2 * math.pi) / 2
    path, betas = Gaussians(), ladder(21)
    target = scale * torch.randn(4000, 3, dtype=torch.float64)
    for estimate in (
        annealed_importance_sampling(path, betas, 4000),
        reverse_annealed_importance_sampling(path, target, betas),
        bridge_sampling(path, betas, 4000, 5),
        path_sampling(path, betas, 4000, 5),
    ):
        assert estimate.value.shape == (3,)
        assert ((estimate.value - exact).abs() < 3 * estimate.error + 1e-12).all()


def test_deep_machines_and_every_kind_of_visible_unit_have_constants_too():
    from emgen.models.energy.units import Gaussian, Multinomial

    torch.manual_seed(0)
    machines = [
        DeepBoltzmannMachine((2, 2), (3, 4, 2)),
        BoltzmannMachine((4,), 5, units=Gaussian(0.5)),
        BoltzmannMachine((2, 3), 4, units=Multinomial(3, count=2)),
    ]
    for machine in machines:
        machine.double()
        with torch.no_grad():
            for parameter in machine.parameters():
                parameter.normal_(std=0.7)
        machine.centre_at(
            machine.units.mean(torch.randn_like(machine.centre)).view(machine.event_shape)
        )
        exact = machine.log_partition().item()
        within(annealed_importance_sampling(machine, ladder(50), 2000), exact)
        within(bridge_sampling(machine, ladder(6), 2000, 10), exact)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [10, 21])  # enumerated, annealed
def test_a_constant_asked_for_in_mixed_precision_has_full_precision(hidden):
    torch.manual_seed(0)
    machine = BoltzmannMachine((21,), hidden)
    machine.weight.normal_()
    found = []
    for mixed in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found.append(log_partition(machine, 20, 100).value)
    assert torch.equal(*found)


def test_the_ladder_and_the_weights_are_checked():
    machine = sine_machine(6, 4)
    for betas in (
        torch.tensor([0.0, 0.5]),
        torch.tensor([0.0, 0.6, 0.5, 1.0]),
        torch.ones(1),
        torch.tensor([0.0, 0.5, 0.5, 1.0]),
        torch.tensor([0.0, torch.nan, 1.0]),
    ):
        with pytest.raises(ValueError, match="rise from 0 to 1"):
            annealed_importance_sampling(machine, betas, 10)
    with pytest.raises(ValueError, match="chains=0"):
        annealed_importance_sampling(machine, ladder(3), 0)
    with pytest.raises(ValueError, match="sweeps=0"):
        bridge_sampling(machine, ladder(3), 10, 0)
    with pytest.raises(ValueError, match="weights are zero"):
        log_mean_exp(torch.full((3,), -torch.inf))
    for wrong in (torch.inf, torch.nan):
        with pytest.raises(ValueError, match="infinite or not a number"):
            log_mean_exp(torch.tensor([0.0, wrong]))


@pytest.mark.parametrize("estimate", [annealed_importance_sampling, bridge_sampling, path_sampling])
def test_no_estimator_passes_on_what_is_not_a_number(estimate):
    machine = sine_machine(6, 4)
    machine.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="number"):
        estimate(machine, ladder(3), 10)


@pytest.mark.parametrize("estimate", [annealed_importance_sampling, bridge_sampling, path_sampling])
def test_a_single_chain_has_a_value_and_no_error(estimate):
    found = estimate(sine_machine(6, 4), ladder(3), 1)
    assert found.value.isfinite() and found.error.isnan()


def test_effective_sample_size_of_weights():
    log_w = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])
    assert log_mean_exp(log_w).ess == 2
    assert log_mean_exp(torch.zeros(50)).error == 0
    assert "too few" in str(log_mean_exp(log_w)) and "too few" not in str(
        log_mean_exp(torch.zeros(50))
    )
    assert log_mean_exp(torch.zeros(1)).error.isnan()  # one weight says nothing of its error
    w = torch.rand(1000, dtype=torch.float64) + 0.1
    classic = w.std() / math.sqrt(1000) / w.mean()
    assert log_mean_exp(w.log()).error.item() == pytest.approx(classic.item(), rel=1e-12)


def test_chains_of_known_autocorrelation_are_judged_right():
    """AR(1) with coefficient a: ESS = n (1 − a) / (1 + a); chains at different levels have R-hat far above 1."""
    torch.manual_seed(0)
    n, chains, a = 4000, 8, 0.8
    x = torch.zeros(n, chains, 2, dtype=torch.float64)
    x[0] = torch.randn(chains, 2, dtype=torch.float64)
    for t in range(1, n):
        x[t] = a * x[t - 1] + math.sqrt(1 - a * a) * torch.randn(chains, 2, dtype=torch.float64)
    assert effective_sample_size(x) == pytest.approx(n * chains * (1 - a) / (1 + a), rel=0.1)
    assert (r_hat(x) < 1.01).all()
    apart = x + torch.arange(chains)[:, None]
    assert (r_hat(apart) > 1.5).all() and (effective_sample_size(apart) < 20).all()


def test_effective_sample_size_is_geyers_sum_by_hand():
    """Against loops: autocovariances of half-chains term by term, pairs kept while positive and never rising."""
    torch.manual_seed(1)
    draws = torch.randn(41, 3, dtype=torch.float64).cumsum(0) * 0.3 + torch.randn(
        41, 3, dtype=torch.float64
    )
    halves = [list(map(float, part)) for chain in draws.T for part in (chain[:20], chain[-20:])]
    n, m = 20, len(halves)
    means = [sum(h) / n for h in halves]
    centre = sum(means) / m
    within = sum(sum((v - a) ** 2 for v in h) / (n - 1) for h, a in zip(halves, means)) / m
    total = (n - 1) / n * within + sum((a - centre) ** 2 for a in means) / (m - 1)
    covariance = [
        sum(sum((h[t] - a) * (h[t + k] - a) for t in range(n - k)) for h, a in zip(halves, means))
        / (m * (n - 1))
        for k in range(n)
    ]
    rho = [1 - (within - c) / total for c in covariance]
    worth, least = -1.0, math.inf
    for k in range(0, n - 1, 2):
        if (pair := rho[k] + rho[k + 1]) <= 0:
            break
        least = min(least, pair)
        worth += 2 * least
    assert float(effective_sample_size(draws)) == pytest.approx(n * m / worth, rel=1e-9)
    assert float(r_hat(draws)) == pytest.approx(math.sqrt(total / within), rel=1e-9)


def test_constants_are_not_called_mixed_and_chains_need_draws():
    constant = torch.full((101, 4), 0.1, dtype=torch.float64)
    assert r_hat(constant).isnan() and effective_sample_size(constant).isnan()
    assert (
        r_hat(constant + torch.arange(4)) == torch.inf
        and effective_sample_size(constant + torch.arange(4)) <= 8
    )
    for shape in ((3, 4), (100, 0)):
        for judge in (r_hat, effective_sample_size):
            with pytest.raises(ValueError, match="at least four draws a chain"):
                judge(torch.zeros(shape))


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9, -0.5])
def test_effective_size_is_the_variance_of_the_mean(a):
    """AR(1), 300 runs of 4 chains: the mean of all draws has the variance 1 / ESS, whatever the ESS (at most all draws)."""
    torch.manual_seed(0)
    x = [torch.randn(4, 300, dtype=torch.float64)]
    for _ in range(1000):
        x.append(a * x[-1] + math.sqrt(1 - a * a) * torch.randn(4, 300, dtype=torch.float64))
    draws = torch.stack(x)
    z = draws.mean((0, 1)) * effective_sample_size(draws).sqrt()
    expected = 1.0 if a >= 0 else (1 + a) / (1 - a)  # alternating chains do better than is claimed
    assert abs(z.square().mean() / expected - 1) < 4 * math.sqrt(2 / 300)


def test_chains_that_drift_together_have_not_mixed_and_draws_that_alternate_are_worth_no_more_than_all():
    torch.manual_seed(0)
    noise = torch.randn(400, 4, dtype=torch.float64)
    assert r_hat(noise + torch.linspace(-3, 3, 400)[:, None]) > 1.5  # no chain differs from another
    alternating = noise.abs() * torch.tensor([1.0, -1.0]).repeat(200)[:, None]
    assert effective_sample_size(alternating) == 1600


def test_hamiltonian_steps_leave_a_correlated_gaussian_invariant_and_a_biased_one_is_caught():
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    factor, precision = torch.linalg.cholesky(covariance), covariance.inverse()
    energy = lambda z: (z @ precision * z).sum(-1) / 2
    draw = lambda n: torch.randn(n, 2, dtype=torch.float64) @ factor.T
    statistics = lambda z: torch.cat([z, z**2, z[:, :1] * z[:, 1:]], 1)
    geweke(draw, lambda z: hamiltonian(energy, z, 0.6, 3)[0], statistics)
    unadjusted = lambda z: z - 0.3 * z @ precision + math.sqrt(0.6) * torch.randn_like(z)
    with pytest.raises(AssertionError, match="does not leave the joint invariant"):
        geweke(draw, unadjusted, statistics)


@pytest.mark.parametrize("rows", [1, 10_000])
def test_a_kernel_that_leaves_the_numbers_or_works_in_place_is_caught(rows):
    def broken(z):
        z[:rows] = torch.nan
        return z

    with pytest.raises(AssertionError, match="0: nan"):
        geweke(lambda n: torch.randn(n, 1), broken, lambda z: z)
    with pytest.raises(
        AssertionError, match="does not leave"
    ):  # float64 statistics that are the state itself
        geweke(
            lambda n: torch.randn(n, 1, dtype=torch.float64),
            lambda z: z.add_(1e-3 * torch.rand_like(z)),
            lambda z: z,
        )


def test_the_kernel_test_rejects_a_right_kernel_at_the_rate_that_its_limit_says():
    """A Gaussian autoregression over 400 seeds: z has variance 1 and passes 1.96 once in twenty (± 3 of their errors)."""
    kernel = lambda z: 0.6 * z + 0.8 * torch.randn_like(z)
    z = torch.stack(
        [
            geweke(
                lambda n: torch.randn(n, 1),
                kernel,
                lambda z: torch.cat([z, z.square(), z.sin()], 1),
                chains=500,
                seed=seed,
            )
            for seed in range(400)
        ]
    )
    assert (z.square().mean(0) - 1).abs().max() < 3 * math.sqrt(2 / 400)
    assert abs((z.abs() > 1.96).double().mean() - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 400)


def test_the_kernel_test_says_what_it_cannot_judge():
    draw, kernel = lambda n: torch.randn(n, 1), torch.randn_like
    for arguments, reason in (({"chains": 1}, "chains=1"), ({"steps": 0}, "steps=0")):
        with pytest.raises(ValueError, match=reason):
            geweke(draw, kernel, lambda z: z, **arguments)
    with pytest.raises(ValueError, match="one row a chain"):
        geweke(draw, kernel, lambda z: z.sum(1))


def test_states_that_are_single_numbers_are_chains_of_their_own():
    moves = []
    for events in (0, 1):
        torch.manual_seed(0)
        z = torch.randn(4, 50, dtype=torch.float64)
        energy = lambda z: z.square().reshape(4, 50) / 2
        state = z.unsqueeze(-1) if events else z
        moves.append(
            [part.reshape(4, 50) for part in hamiltonian(energy, state, 1.5, 3, event_dims=events)]
        )
    assert all(torch.equal(a, b) for a, b in zip(*moves))
    assert len(moves[0][1].unique()) > 50


def test_a_proposal_without_an_energy_is_never_accepted():
    torch.manual_seed(0)
    z = torch.full((100, 1), 0.9)
    moved, probability = hamiltonian(
        lambda z: torch.where(z < 1, 0.0 * z, torch.nan).sum(-1), z, 1.0, 1
    )
    outside = probability == 0
    assert (
        0 < outside.sum() < 100
        and torch.equal(moved[outside], z[outside])
        and bool((moved < 1).all())
    )


@pytest.mark.parametrize("biased", [False, True])
def test_exchange_of_replicas_leaves_every_temperature_invariant(biased):
    machine, betas = sine_machine(6, 4, scale=2.0), ladder(4)
    v = binary_states(6, machine.visible_bias)
    p = (-machine.energy(v, betas[:, None])).detach().softmax(-1)

    def draw(n):
        return v[torch.stack([torch.multinomial(row, n, replacement=True) for row in p])]

    def kernel(replicas):
        replicas = swap(machine, replicas, betas, odd=False)
        if biased:  # a trade without its acceptance test
            return replicas[[0, 2, 1, 3]]
        return machine.move(swap(machine, replicas, betas, odd=True), betas[:, None])

    def statistics(replicas):
        first = replicas.transpose(0, 1).flatten(1)
        return torch.cat([first, machine.energy(replicas, betas[:, None]).T], 1)

    if biased:
        with pytest.raises(AssertionError, match="does not leave"):
            geweke(draw, kernel, statistics)
    else:
        geweke(draw, kernel, statistics)


@torch.no_grad()
def test_the_picture_of_the_constants_draws_exactly_and_refuses_at_the_start_what_it_cannot():
    machine, picture = sine_machine(4, 14), NormalisingConstants()
    v = binary_states(4, machine.visible_bias)
    p = (-machine.energy(v)).softmax(0)
    torch.manual_seed(0)
    drawn = figure.exact_draws(machine, 20_000)
    share = (drawn.unsqueeze(1) == v).all(-1).double().mean(0)
    assert ((share - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt()).all()
    picture.on_train_start(None, SimpleNamespace(model=machine))
    with pytest.raises(ValueError, match=r"hidden=21: .* at most 20"):
        picture.on_train_start(None, SimpleNamespace(model=BoltzmannMachine((4,), 21)))
    with pytest.raises(TypeError, match="not of DeepBoltzmannMachine"):
        picture.on_train_start(None, SimpleNamespace(model=DeepBoltzmannMachine((4,), (3, 2))))
