"""Factorial mixtures and factorial hidden Markov models: exact, factorised, structured and drawn beliefs."""

import itertools

import pytest
import torch

import emgen
from emgen.estimators.beliefs import Distribution, Draw, MeanField, Point, Structured, Tempered
from emgen.estimators.enumeration import enumerate_latents, log_evidence
from emgen.families import Categorical, LinearGaussian
from emgen.models import FactorialHMM, FactorialMixture, factorial_hmm, factorial_mixture
from emgen.models.conjugate.factorial_posteriors import FactorialBelief
from emgen.testing import check_model, geweke

F64 = torch.float64


def probabilities(*shape):
    return torch.rand(*shape, dtype=F64).add(0.2).softmax(-1)


def mixture(causes=2, states=3, features=3, seed=0):
    torch.manual_seed(seed)
    loadings = LinearGaussian(
        torch.randn(features, causes * states, dtype=F64), torch.rand(features, dtype=F64) + 0.5
    )
    return FactorialMixture(loadings, Categorical(probabilities(causes, states)))


def chains(causes=2, states=2, features=3, seed=0):
    torch.manual_seed(seed)
    loadings = LinearGaussian(
        torch.randn(features, causes * states, dtype=F64), torch.rand(features, dtype=F64) + 0.5
    )
    moves = Categorical(torch.rand(causes, states, states, dtype=F64).mul(3).softmax(-1))
    return FactorialHMM(loadings, Categorical(probabilities(causes, states)), moves)


def iterate(model, x, latents=Distribution(), parameters=Point(), sweeps=6, weight=None):
    if not isinstance(parameters, Point):
        model.make_proper(x)
    if not model.started:
        model.start(x, parameters)
    bounds = []
    for _ in range(sweeps):
        s = model.statistics(x, latents(model.posterior(x)), weight)
        bounds.append(model.free_energy(s)["elbo"].item())
        bounds.append(model.free_energy(model.m_step(s, parameters))["elbo"].item())
    return bounds


def holes(x):
    return x.masked_fill(
        torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.15, torch.nan
    )


def bound(model, x, latents):
    return model.free_energy(model.statistics(x, latents(model.posterior(x))))["elbo"].item()


# --- exactness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
def test_the_evidence_of_a_factorial_mixture_is_its_sum(missing):
    """log p(x) = log Σ_z π(z) N(x | Σ_m W_m[z_m], Ψ), written out."""
    model = mixture()
    x = model.sample(7)
    x = holes(x) if missing else x
    w = model.loadings.mean.view(3, 2, 3)
    total = []
    for z in itertools.product(range(3), repeat=2):
        mean = w[:, 0, z[0]] + w[:, 1, z[1]]
        each = torch.distributions.Normal(
            mean, model.loadings.variance.sqrt(), validate_args=False
        ).log_prob(x.nan_to_num(0.0))
        total.append(
            torch.where(x.isnan(), 0.0, each).sum(1)
            + sum(model.weights.mean[m, k].log() for m, k in enumerate(z))
        )
    torch.testing.assert_close(
        model.log_prob(x), torch.stack(total).logsumexp(0), rtol=1e-12, atol=1e-12
    )


def test_the_evidence_of_factorial_chains_is_their_sum():
    model = chains()
    x = holes(model.sample(1, length=4))
    w, start, moves = (
        model.loadings.mean.view(3, 2, 2),
        model.initial.mean.log(),
        model.transition.mean.log(),
    )

    def log_joint(z):  # (C, 4·2)
        z = z.view(-1, 4, 2)
        mean = sum(w[:, m].T[z[..., m]] for m in range(2))
        each = torch.distributions.Normal(mean, model.loadings.variance.sqrt()).log_prob(
            x[0].nan_to_num(0.0)
        )
        fit = torch.where(x[0].isnan(), 0.0, each).sum((1, 2))
        return fit + sum(
            start[m, z[:, 0, m]] + moves[m, z[:, :-1, m], z[:, 1:, m]].sum(1) for m in range(2)
        )

    exact = enumerate_latents(log_joint, [2] * 8)
    torch.testing.assert_close(model.log_prob(x)[0], exact.log_prob, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        log_evidence(model, x).log_prob, exact.log_prob, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        model.posterior(x).exact.marginals.flatten(0, 1), exact.marginals(2), rtol=1e-11, atol=1e-11
    )
    best = torch.stack([chain.path for chain in model.posterior(x).mode().chains], 1)
    assert best.flatten().equal(exact.best)


@pytest.mark.parametrize("model", [mixture(), chains()], ids=["mixture", "chains"])
def test_exact_statistics_are_averages_over_the_posterior(model):
    x = holes(model.sample(2) if isinstance(model, FactorialMixture) else model.sample(1, length=3))
    q = model.posterior(x)
    exact = log_evidence(model, x)
    mean = model.statistics(x, q)
    for name in (n for n in mean if "." in n):
        each = torch.stack([model.statistics(x, q.at(z))[name] for z in exact.configurations])
        torch.testing.assert_close(
            mean[name], torch.einsum("c,c...->...", exact.probs, each), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("model", [mixture(3, 2), chains(3, 2)], ids=["mixture", "chains"])
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
def test_factorised_below_structured_below_exact(model, missing):
    x = model.sample(40) if isinstance(model, FactorialMixture) else model.sample(5, length=9)
    x = holes(x) if missing else x
    evidence = model.log_prob(x).mean().item()
    exact, once, often, structured = (
        bound(model, x, latents)
        for latents in (Distribution(), MeanField(1), MeanField(30), Structured(30))
    )
    assert abs(exact - evidence) < 1e-10
    assert once <= often + 1e-12 and often <= structured + 1e-12 and structured <= exact + 1e-12
    assert bound(model, x, Point()) <= exact
    if isinstance(model, FactorialHMM):
        assert often < structured - 1e-3 < exact - 2e-3
    sweeps = [bound(model, x, Structured(n)) for n in (1, 2, 4, 8)]
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(sweeps))


@pytest.mark.parametrize(
    "latents", [MeanField(60), Structured(60)], ids=["factorised", "structured"]
)
def test_each_factor_is_optimal_given_the_others(latents):
    """At a fixed point no change of one factor raises the bound: ∂F/∂q along any other distribution vanishes or is negative."""
    model = chains(2, 2)
    x = model.sample(2, length=4)
    q = latents(model.posterior(x))
    best = bound(model, x, lambda _: q)
    other = q.chains[0].tempered(0.9) if isinstance(latents, Structured) else None
    if other is None:
        from emgen.models.conjugate.chain_posteriors import Factorised

        for share in (0.99, 0.9):
            moved = share * q.marginals[:, 0] + (1 - share) * torch.rand_like(
                q.marginals[:, 0]
            ).softmax(-1)
            changed = FactorialBelief(
                [Factorised(q.chains[0].packing, moved, q.log_evidence), q.chains[1]]
            )
            assert bound(model, x, lambda _, changed=changed: changed) < best
    else:
        assert bound(model, x, lambda _: FactorialBelief([other, q.chains[1]])) < best


def test_one_cause_is_a_plain_model():
    """M = 1: the factorial HMM is a hidden Markov model with one noise for all states, the mean field of a mixture is exact."""
    from emgen.families import DiagonalGaussian
    from emgen.models import HiddenMarkovModel

    one = chains(causes=1, states=3)
    x = holes(one.sample(4, length=6))
    gaussians = DiagonalGaussian(
        one.loadings.mean.T.contiguous(), one.loadings.variance[None].expand(3, 3).clone()
    )
    plain = HiddenMarkovModel(
        gaussians, Categorical(one.initial.mean[0]), Categorical(one.transition.mean[0])
    )
    torch.testing.assert_close(one.log_prob(x), plain.log_prob(x), rtol=1e-12, atol=1e-12)
    alone = mixture(causes=1)
    rows = alone.sample(9)
    assert abs(bound(alone, rows, MeanField(1)) - alone.log_prob(rows).mean().item()) < 1e-12


# --- the belief square --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixture", "chains"])
@pytest.mark.parametrize(
    "latents",
    [Distribution(), Point(), Draw(), MeanField(3), Structured(3), Tempered(0.8)],
    ids=lambda b: type(b).__name__,
)
@pytest.mark.parametrize(
    "parameters", [Point(), Distribution(), Draw()], ids=lambda b: type(b).__name__
)
def test_every_cell_runs_and_monotone_cells_never_fall(kind, latents, parameters):
    x = holes(mixture(2, 2).sample(25) if kind == "mixture" else chains().sample(3, length=8))
    torch.manual_seed(1)
    model = (factorial_mixture if kind == "mixture" else factorial_hmm)(3, 2, 2)
    bounds = iterate(model, x, latents, parameters, sweeps=4)
    assert torch.tensor(bounds).isfinite().all()
    if isinstance(latents, (Distribution, Point)) and not isinstance(parameters, Draw):
        for before, after in itertools.pairwise(bounds):
            assert after >= before - 1e-9 * max(1, abs(before))


@pytest.mark.parametrize("trainer", ["em", "hard_em", "vbem", "me", "stochastic_em", "gibbs"])
def test_every_trainer_fits_factorial_models(trainer):
    for model, x in (
        (factorial_mixture(3, 2, 2), mixture(2, 2).sample(20)),
        (factorial_hmm((8, 3), 2, 2), chains().sample(3, length=8)),
    ):
        result = emgen.fit(model, x, trainer, max_epochs=2, device="cpu")
        assert all(torch.tensor(list(epoch.values())).isfinite().all() for epoch in result.history)


def test_many_states_are_refused_exactly_and_served_approximately():
    model = factorial_mixture(3, causes=8, states=4)
    x = torch.randn(10, 3, dtype=F64)
    with pytest.raises(ValueError, match="4\\^8 joint states are too many"):
        iterate(model, x, sweeps=1)
    assert "gap" not in model.free_energy(model.statistics(x, model.posterior(x).structured(2)))


def test_causes_are_found_again():
    """Two binary causes with separate effects: the four sums of the truth are the four sums that were learnt."""
    w = torch.tensor([[0.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]], dtype=F64)
    truth = FactorialMixture(
        LinearGaussian(w, torch.full((2,), 0.1, dtype=F64)),
        Categorical(torch.full((2, 2), 0.5, dtype=F64)),
    )
    torch.manual_seed(0)
    x = truth.sample(400)
    best = max((fitted(x, seed) for seed in range(4)), key=lambda m: m.log_prob(x).sum().item())
    a, b = best.loadings.mean.view(2, 2, 2).unbind(1)
    sums = (a[:, :, None] + b[:, None, :]).flatten(1).T
    expected = torch.tensor([[0, 0], [0, 3], [4, 0], [4, 3.0]], dtype=F64)
    assert torch.cdist(expected, sums).amin(1).max() < 0.15


def fitted(x, seed):
    model = factorial_mixture(2, 2, 2)
    emgen.fit(model, x, seed=seed, max_epochs=40, device="cpu")
    return model


# --- Gibbs --------------------------------------------------------------------------------------


def test_drawn_and_gibbs_states_follow_the_posterior():
    """Frequencies of the 16 joint paths of one short sequence, repeated, before and after sweeps of chain-wise Gibbs."""
    model = chains()
    n = 8000
    x = model.sample(1, length=2)
    q = model.posterior(x.expand(n, -1, -1).contiguous())
    p = log_evidence(model, x).probs
    torch.manual_seed(0)
    state = q.sample()
    for drawn in (state, q.gibbs(state), q.gibbs(state, sweeps=3)):
        z = drawn.marginals.argmax(-1).view(2, n, 2).transpose(0, 1).flatten(1)
        frequency = torch.bincount((z * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16) / n
        assert ((frequency - p) / (p * (1 - p) / n).sqrt())[p > 1e-3].abs().max() < 4.5


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "biased"])
def test_gibbs_passes_geweke_and_a_biased_sampler_fails(wrong):
    prior = {"mean": 0.0, "precision": torch.eye(4), "variance": 1.0, "nu": 6.0}
    model = factorial_mixture(1, 2, 2, weights=1.0, prior=prior)

    def fresh(theta):
        for name, belief in theta.items():
            setattr(model, name, belief)
        return theta, model.sample(4)

    def draw(n):
        return [
            fresh({name: prior.sample() for name, prior in model.priors.items()}) for _ in range(n)
        ]

    def kernel(state):
        moved = []
        for theta, x in state:
            for name, belief in theta.items():
                setattr(model, name, belief)
            s = model.statistics(x, Draw()(model.posterior(x)))
            if wrong:  # counts a row too many: a variance that is too small
                s["loadings.count"] = s["loadings.count"] + 1
            model.m_step(s, Draw())
            moved.append(fresh(model.theta()))
        return moved

    def statistics(state):
        return torch.stack(
            [
                torch.cat(
                    [
                        theta["weights"].mean[:, 0] ** 2,
                        theta["loadings"].variance.log(),
                        (theta["loadings"].mean ** 2).flatten().tanh(),
                        x.abs().mean().tanh()[None],
                    ]
                )
                for theta, x in state
            ]
        )

    if wrong:
        with pytest.raises(AssertionError, match="does not leave the joint invariant"):
            geweke(draw, kernel, statistics, chains=500)
    else:
        geweke(draw, kernel, statistics, chains=500)


def test_weights_and_contract():
    model, x = mixture(2, 2), mixture(2, 2).sample(6)
    weight = torch.tensor([0.0, 1.0, 2.0, 1.0, 3.0, 1.0])
    repeated = x.repeat_interleave(weight.long(), 0)
    one, other = (
        model.statistics(x, model.posterior(x), weight),
        model.statistics(repeated, model.posterior(repeated)),
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-11, atol=1e-11)
    check_model(factorial_mixture(3, 2, 2), mixture(2, 2).sample(8))
    check_model(factorial_hmm(3, 2, 2), chains().sample(4, length=5))
    with pytest.raises(ValueError, match="need 6 loadings, not 5"):
        FactorialMixture(LinearGaussian.flat(2, 5), Categorical.flat(2, symbols=3))
