"""Laws of the Helmholtz machine: its two nets are normalised, its evidence sums over every state of its latents."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent

from emgen.distributions import Joint, OneHot, relaxed
from emgen.models import heads
from emgen.models.deep.helmholtz_machine import HelmholtzMachine, Marginal, helmholtz_machine

ARCHITECTURES = {
    "one layer": dict(layers=(3,)),
    "16-8-1 in small": dict(layers=(3, 1)),
    "three layers": dict(layers=(3, 2, 2)),
    "categorical": dict(layers=((2, 3),), latent=heads.OneHot),
    "categorical under binary": dict(layers=((1, 4), 2), latent=(heads.OneHot, heads.Bernoulli)),
    "deterministic layers between": dict(layers=(3, 2), hidden=(5,)),
}
BITS = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4).reshape(
    16, 1, 2, 2
)


def machine(seed: int = 0, **architecture) -> HelmholtzMachine:
    torch.manual_seed(seed)
    built = helmholtz_machine((1, 2, 2), **architecture).double()
    for (
        parameter
    ) in built.parameters():  # away from the start, where every unit is near a fair coin
        nn.init.normal_(parameter, std=1.5)
    return built


def all_latents(model: HelmholtzMachine) -> tuple[torch.Tensor, ...]:
    """Every joint state (z₁, …, z_L): the product of the layers' states, each tensor (states, *layer)."""
    layers = model.states()
    index = torch.cartesian_prod(*[torch.arange(len(z)) for z in layers]).reshape(-1, len(layers))
    return tuple(z[index[:, i]] for i, z in enumerate(layers))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_evidence_is_the_sum_over_all_joint_states(name):
    model = machine(**ARCHITECTURES[name])
    z = all_latents(model)
    log_likelihood = model.likelihood(tuple(layer.unsqueeze(1) for layer in z)).log_prob(BITS)
    log_joint = model.prior().log_prob(z).unsqueeze(1) + log_likelihood
    torch.testing.assert_close(model.log_prob(BITS), log_joint.logsumexp(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        model.log_prob(BITS).exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_nets_are_normalised_over_the_same_states(name):
    model = machine(**ARCHITECTURES[name])
    z = all_latents(model)
    q = model.recognition(BITS)
    log_q = q.log_prob(tuple(layer.unsqueeze(1) for layer in z))
    assert log_q.shape == (len(z[0]), 16)
    torch.testing.assert_close(log_q.exp().sum(0), torch.ones(16).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        model.prior().log_prob(z).exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_elbo_bounds_the_evidence_by_the_kl_to_the_posterior(name):
    model = machine(**ARCHITECTURES[name])
    z = tuple(layer.unsqueeze(1) for layer in all_latents(model))
    log_q, evidence = model.recognition(BITS).log_prob(z), model.log_prob(BITS)
    log_joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(BITS)
    elbo = (log_q.exp() * (log_joint - log_q)).sum(0)
    gap = (log_q.exp() * (log_q - (log_joint - evidence))).sum(0)
    assert bool((gap > 0).all())
    torch.testing.assert_close(elbo + gap, evidence, rtol=0, atol=1e-11)


def test_evidence_is_absent_where_it_cannot_be_summed():
    assert not hasattr(machine(layers=(200,)), "log_prob")
    assert not hasattr(machine(layers=(3, 2), latent=(heads.Bernoulli, heads.Gaussian)), "log_prob")
    for layers, reason in (
        ((17,), "17 units of 2 values each have more than 65536 states"),
        ((16, 9), "65536 and 512 states have more than 16777216 pairs"),
    ):
        with pytest.raises(ValueError, match=reason):
            machine(layers=layers).states()
    with pytest.raises(
        AttributeError, match="no exact log_prob: the states of Normal latents cannot be enumerated"
    ):
        machine(layers=(3,), latent=heads.Gaussian).log_prob(BITS)
    with pytest.raises(AttributeError, match="has no attribute 'filter'"):
        _ = machine(layers=(3,)).filter


@torch.no_grad()
@pytest.mark.parametrize("likelihood", [heads.Bernoulli, heads.Gaussian])
def test_evidence_is_summed_in_blocks_that_fit_the_memory(likelihood, monkeypatch):
    model, scored = machine(layers=(5, 3), likelihood=likelihood), []
    whole = model.log_prob(BITS)
    monkeypatch.setattr("emgen.models.deep.helmholtz_machine._BLOCK", 100)
    rule = likelihood.forward

    def watched(head, features):
        d = rule(head, features)
        count, log_prob = len(features), d.log_prob
        d.log_prob = lambda x: scored.append(len(x) * count) or log_prob(x)
        return d

    monkeypatch.setattr(likelihood, "forward", watched)
    torch.testing.assert_close(model.log_prob(BITS), whole, rtol=0, atol=1e-12)
    assert (
        max(scored) <= 100 and len(scored) >= 6
    )  # 16 data, three of them against 32 states at a time


@torch.no_grad()
def test_events_against_rows_of_logits_are_scored_as_pair_by_pair():
    d, x = heads.Bernoulli(3, (1, 2, 2)).double()(torch.randn(6, 3, dtype=torch.float64)), BITS[5:]
    by_pairs = torch.stack(
        [
            torch.stack(
                [
                    Independent(Bernoulli(logits=logits), 3).log_prob(one)
                    for logits in d.base_dist.logits
                ]
            )
            for one in x
        ]
    )
    torch.testing.assert_close(d.log_prob(x.unsqueeze(1)), by_pairs, rtol=0, atol=1e-12)


def test_layers_of_every_kind_have_the_shapes_they_were_given():
    model = helmholtz_machine(
        (3, 2),
        layers=((5, 4), 7, (2, 2)),
        likelihood=partial(heads.Gaussian, scale=0.1),
        latent=(heads.OneHot, heads.Gaussian, heads.Bernoulli),
    )
    z = model.recognition(torch.zeros(6, 3, 2)).sample((9,))
    assert [tuple(layer.shape) for layer in z] == [(9, 6, 5, 4), (9, 6, 7), (9, 6, 2, 2)]
    assert (
        model.prior().log_prob(z).shape
        == model.likelihood(z).log_prob(torch.zeros(6, 3, 2)).shape
        == (9, 6)
    )
    assert model.sample(4).shape == model.rsample(4).shape == (4, 3, 2)


def test_any_network_of_the_users_may_stand_between_two_layers():
    class Conv(nn.Module):
        """An image to 2×2 binary latents by a convolution, in a class that knows nothing of ours."""

        def __init__(self):
            super().__init__()
            self.filter = nn.Conv2d(1, 1, 3)

        def forward(self, x):
            logits = self.filter(x.reshape(-1, 1, 4, 4)).reshape(*x.shape[:-3], 2, 2)
            return Independent(Bernoulli(logits=logits), 2)

    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = nn.ConvTranspose2d(1, 1, 3)

        def forward(self, z):
            return Independent(
                Bernoulli(
                    logits=self.filter(z.reshape(-1, 1, 2, 2)).reshape(*z.shape[:-2], 1, 4, 4)
                ),
                3,
            )

    model = HelmholtzMachine(Marginal(heads.Bernoulli, (2, 2)), [Up()], [Conv()])
    x = model.sample(5)
    assert x.shape == (5, 1, 4, 4) and model.recognition(x).sample((3,))[0].shape == (3, 5, 2, 2)
    assert bool((model.log_prob(x) < 0).all())


@pytest.mark.parametrize(
    "layers, latent, reason",
    [
        ((), heads.Bernoulli, "at least one layer"),
        ((3, 0), heads.Bernoulli, "positive size"),
        ((3, 2), (heads.Bernoulli,), "1 heads for 2 layers"),
    ],
)
def test_bad_layers_are_refused(layers, latent, reason):
    with pytest.raises(ValueError, match=reason):
        helmholtz_machine((4,), layers=layers, latent=latent)


def test_nets_of_different_depth_are_refused():
    layer = partial(heads.Bernoulli, 2, (2,))
    with pytest.raises(ValueError, match="2 generative layers but 1 recognition"):
        HelmholtzMachine(Marginal(heads.Bernoulli, (2,)), [layer(), layer()], [layer()])


def test_differentiable_samples_of_a_gaussian_likelihood_are_draws_of_it():
    model = machine(layers=(3,), likelihood=partial(heads.Gaussian, scale=0.5))
    torch.manual_seed(0)
    a, b = model.rsample(50_000).detach(), model.sample(50_000)
    for moment in (lambda x: x, torch.square):
        error = (moment(a).var(0) + moment(b).var(0)).div(50_000).sqrt()
        assert ((moment(a).mean(0) - moment(b).mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize("scale", [None, 0.5])
def test_filters_are_what_a_unit_adds_whatever_the_biases(scale):
    likelihood = heads.Bernoulli if scale is None else partial(heads.Gaussian, scale=scale)
    model = machine(
        layers=((2, 3), 4), latent=(heads.OneHot, heads.Bernoulli), likelihood=likelihood
    )
    head = model.generative[0].head
    weight = (head.logits if scale is None else head.mean).weight.T.view(6, 1, 2, 2)
    torch.testing.assert_close(model.filters(), weight.sigmoid() if scale is None else weight)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adversary_reaches_every_generative_parameter(name):
    model = machine(**ARCHITECTURES[name])
    generative = [p for p in (*model.top.parameters(), *model.generative.parameters()) if p.numel()]
    gradients = torch.autograd.grad(model.rsample(64).square().mean(), generative)
    assert all(bool((g != 0).any()) for g in gradients)


HEADS = [
    heads.Bernoulli,
    heads.Gaussian,
    partial(heads.Gaussian, scale=0.3),
    partial(heads.Categorical, classes=3),
    heads.OneHot,
    heads.Dirac,
]


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_every_head_answers_in_full_precision_under_mixed_precision(head):
    """Its products are rounded to 8 bits and no more: draws, densities and what they sum to are not."""
    torch.manual_seed(0)
    built, features = head(5, (8,)), torch.randn(1000, 5)
    with torch.autocast("cpu", torch.bfloat16):
        d = built(features)
        draw = d.sample()
        log_p = d.log_prob(draw)
    full = built(features)
    assert log_p.dtype == torch.float32 and draw.dtype in (torch.float32, torch.int64)
    if head is not heads.Dirac:
        torch.testing.assert_close(log_p, full.log_prob(draw), rtol=0.01, atol=0.2)
        assert abs(float(log_p.mean() - full.log_prob(draw).mean())) < 0.01


@torch.no_grad()
def test_rare_units_are_dreamt_as_often_under_mixed_precision():
    """σ(−7) = .00091; uniforms of 8 bits would draw such units three times too often."""
    torch.manual_seed(0)
    model = helmholtz_machine((50,), layers=(50,))
    for layer in (model.top, model.generative[0]):
        nn.init.constant_(layer.head.logits.bias, -7.0)
        nn.init.zeros_(layer.head.logits.weight)
    n, p = 20_000, torch.tensor(-7.0).sigmoid()
    with torch.autocast("cpu", torch.bfloat16):
        z = model.prior().sample((n,))
        x = model.likelihood(z).sample()
    for units in (z[0], x):
        assert (units.mean() - p).abs() < 4 * (p / units.numel()).sqrt()


@pytest.mark.parametrize("logit, temperature", [(-2.0, 0.3), (0.4, 1.0), (3.0, 2.0)])
def test_relaxed_bernoulli_draws_are_exact_and_their_gradient_is_that_of_the_soft_mean(
    logit, temperature, monkeypatch
):
    n = 200_000
    grid = (
        torch.arange(n, dtype=torch.float64) + 0.5
    ) / n  # every quantile of the noise once: means become integrals
    monkeypatch.setattr(torch, "rand", lambda *shape, **kind: grid)

    def mean(logit, hard):
        return relaxed(Bernoulli(logits=logit), (n,), temperature=temperature, hard=hard).mean()

    logits = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    hard, soft = mean(logits, True), mean(logits, False)
    assert hard.item() == pytest.approx(torch.sigmoid(logits).item(), abs=1 / n)
    step = 1e-5
    slope = (mean(logits.detach() + step, False) - mean(logits.detach() - step, False)).item() / (
        2 * step
    )
    for draw in (hard, soft):
        assert torch.autograd.grad(draw, logits)[0].item() == pytest.approx(slope, rel=1e-6)


def test_relaxed_one_hot_draws_have_the_categorical_frequencies():
    torch.manual_seed(0)
    logits, n = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64), 200_000
    z = relaxed(OneHot(logits=logits), (n,), temperature=0.7)
    probs = logits.softmax(0)
    error = (probs * (1 - probs) / n).sqrt()
    assert bool(((z.mean(0) - probs).abs() < 4 * error).all())
    assert bool(((z == 0) | (z - 1).abs().lt(1e-12)).all())


def test_relaxed_refuses_what_it_cannot_relax():
    with pytest.raises(TypeError, match="Poisson has no relaxation"):
        relaxed(torch.distributions.Poisson(torch.ones(2)), (3,))


def test_one_hot_log_prob_is_the_categorical_one_and_linear_between():
    logits = torch.randn(3, 4, dtype=torch.float64)
    d = OneHot(logits=logits)
    corners = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(d.log_prob(corners[1].expand(3, 4)), logits.log_softmax(-1)[:, 1])
    halfway = (corners[0] + corners[2]) / 2
    torch.testing.assert_close(
        d.log_prob(halfway), (d.log_prob(corners[0]) + d.log_prob(corners[2])) / 2
    )


def test_joint_layers_come_in_the_same_order_from_both_sides():
    model = machine(layers=(3, 2, 1))
    up, down = model.recognition(BITS), model.prior()
    assert isinstance(up, Joint) and isinstance(down, Joint)
    assert [z.shape[-1] for z in up.sample()] == [z.shape[-1] for z in down.sample()] == [3, 2, 1]
