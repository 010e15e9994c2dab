"""Laws of every family: the same belief is prior, posterior, point and draw, and its pieces agree with one another."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Beta, Dirichlet, Gamma, Wishart, kl_divergence

from emgen.families import (
    Bernoulli,
    Binomial,
    Categorical,
    Choice,
    DiagonalGaussian,
    Gaussian,
    Poisson,
    StickBreaking,
)

sys.path.insert(0, str(Path(__file__).parent / "extension"))
from mylab.exponential import Exponential

F64 = torch.float64
K, D, N = 4, 3, 40
X = torch.randn(N, D, dtype=F64, generator=torch.Generator().manual_seed(1))


def beliefs(seed=0):
    """A proper belief of every family with rows that it can explain."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(shape, dtype=F64, generator=g)
    randn = lambda *shape: torch.randn(shape, dtype=F64, generator=g)
    eye = torch.eye(D, dtype=F64)
    root = randn(K, D, D) / 2 + eye
    binary, counts = (rand(N, D) < 0.5).to(F64), (rand(N, D) * 8).floor()
    return {
        "bernoulli": (Bernoulli(rand(K, D), 1 + 3 * rand(K, D)), binary),
        "binomial": (Binomial(8 * rand(K, D), 1 + rand(K, D), trials=8), counts),
        "poisson": (Poisson(5 * rand(K, D), 1 + rand(K, D)), counts),
        "categorical": (Categorical.dirichlet(0.2 + rand(K, D, 5)), (rand(N, D) * 5).long()),
        "full": (Gaussian(randn(K, D), root @ root.mT, 0.3 + rand(K), D + rand(K)), X),
        "tied": (Gaussian(randn(K, D), (root @ root.mT)[:1], 0.3 + rand(K), D + rand(1)), X),
        "diagonal": (
            DiagonalGaussian(randn(K, D), 0.5 + rand(K, D), 0.3 + rand(K, D), 1 + rand(K, D)),
            X,
        ),
        "spherical": (
            DiagonalGaussian(randn(K, D), 0.5 + rand(K, 1), 0.3 + rand(K, D), 1 + rand(K, 1)),
            X,
        ),
        "isotropic": (
            DiagonalGaussian(randn(K, D), 0.5 + rand(1, 1), 0.3 + rand(K, D), 1 + rand(1, 1)),
            X,
        ),
        "exponential": (Exponential(0.5 + rand(K, D), 1 + rand(K, D)), X.abs()),
    }


NAMES = list(beliefs())
each = pytest.mark.parametrize("name", NAMES)

# rows and parameters: what tests need, what users type, and what a model halved by .float() has; with relative and absolute errors
F32 = torch.float32
PRECISIONS = {
    "double": (F64, F64, 1e-12, 1e-10),
    "float rows": (F32, F64, 1e-6, 1e-5),
    "float": (F32, F32, 1e-5, 1e-4),
}
precise = pytest.mark.parametrize("precision", PRECISIONS)


def at(precision, name, form="distribution"):
    """Belief, rows and a comparison in a precision."""
    rows, parameters, rtol, atol = PRECISIONS[precision]
    belief, x = beliefs()[name]
    torch.manual_seed(0)
    belief = {"distribution": belief, "point": belief.mode(), "draw": belief.sample()}[form].to(
        parameters
    )

    def same(a, b, message=None):
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=atol, msg=message)

    return belief, x.to(rows) if x.is_floating_point() else x, same


def responsibilities(seed=2):
    r = torch.rand(N, K, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return r / r.sum(1, keepdim=True)


@each
@precise
@pytest.mark.parametrize("form", ["distribution", "point", "draw"])
def test_the_fit_is_linear_in_the_statistics(name, form, precision):
    theta, x, same = at(precision, name, form)
    r = responsibilities().to(PRECISIONS[precision][0])
    s = theta.statistics(x, r)
    same(theta.expected_fit(s), (r * theta.expected_log_prob(x)).sum(0))
    halves = [theta.statistics(x[i::2], r[i::2]) for i in (0, 1)]  # statistics add
    for key, value in s.items():
        same(halves[0][key] + halves[1][key], value, key)


@each
@precise
def test_statistics_move_to_another_belief(name, precision):
    belief, x, same = at(precision, name)
    r = responsibilities().to(PRECISIONS[precision][0])
    other = belief.update(belief.statistics(x, r), belief)
    moved, taken = other.rebase(belief.statistics(x, r), belief), other.statistics(x, r)
    for key in taken:
        same(moved[key], taken[key], key)


@each
@precise
def test_a_point_gives_the_density(name, precision):
    point, x, same = at(precision, name, "point")
    same(point.expected_log_prob(x), point.likelihood().log_prob(x[:, None]))
    same(point.log_prob(x), point.expected_log_prob(x))


def test_pixels_that_are_always_on_leave_single_precision_its_digits():
    """Of each, η = A = 708 nats cancel: 784 of them are 5e5 nats, of which single precision keeps 0.06."""
    rate = torch.full((K, 784), 1.0, dtype=F64)
    rate[:, ::4] = torch.rand(K, 196, dtype=F64, generator=torch.Generator().manual_seed(0))
    x = torch.bernoulli(rate.repeat(5, 1), generator=torch.Generator().manual_seed(1))
    exact, found = (Bernoulli(rate).log_prob(rows) for rows in (x, x.float()))
    possible = exact > -1e4  # elsewhere probability 0
    torch.testing.assert_close(found.double()[possible], exact[possible], rtol=0, atol=1e-3)


@each
@precise
def test_the_posterior_of_a_family_is_that_of_double_precision(name, precision):
    """Of rows that single precision holds exactly; covariances are positive definite there too."""
    belief, x, same = at(precision, name)
    exact, rows, r = (
        belief.double(),
        x.double() if x.is_floating_point() else x,
        responsibilities().to(PRECISIONS[precision][0]),
    )
    belief = at(precision, name)[0]
    q, expected = (
        belief.update(belief.statistics(x, r)),
        exact.update(exact.statistics(rows, r.double())),
    )
    for key, value in expected.state_dict().items():
        same(q.state_dict()[key], value, key)
    same(q.kl(belief), expected.kl(exact))


@pytest.mark.parametrize("name", ["full", "tied", "diagonal", "spherical", "isotropic"])
@pytest.mark.filterwarnings("error")
def test_the_score_is_the_gradient_of_the_density(name):
    belief, x = beliefs()[name]
    point, r = belief.mode(), responsibilities()
    scores = []
    for density in (
        point.expected_log_prob,
        lambda rows: point.likelihood().log_prob(rows[:, None]),
    ):
        rows = x.clone().requires_grad_()
        scores.append(torch.autograd.grad((r * density(rows)).sum(), rows)[0])
    torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-9)


@each
def test_expectations_are_those_of_draws(name):
    """E_θ log p(x|θ) against 300 draws, four and a half standard errors; KL against E_q[log q − log p] in the same draws."""
    belief, x = beliefs()[name]
    prior = belief
    q = belief.update(belief.statistics(x, responsibilities()), belief)
    torch.manual_seed(3)
    draws = [q.sample() for _ in range(300)]
    log_p = torch.stack([d.expected_log_prob(x[:5]) for d in draws])
    error = log_p.std(0) / len(draws) ** 0.5
    assert ((log_p.mean(0) - q.expected_log_prob(x[:5])).abs() < 4.5 * error).all()
    ratio = torch.stack([(d.kl(prior) - d.kl(q)).sum() for d in draws])  # −log p(θ) + log q(θ)
    assert abs(ratio.mean() - q.kl(prior).sum()) < 4.5 * ratio.std() / len(draws) ** 0.5
    assert (q.kl(q).abs() < 1e-9).all() and q.kl(prior).sum() > 0


@each
def test_bayes_rule_holds_at_every_parameter(name):
    """log p(θ|x) − log p(θ) − log p(x|θ) is the same constant at all θ: minus the evidence, K = 1 VB is exact."""
    belief, x = beliefs()[name]
    r = torch.ones(N, K, dtype=F64)
    q = belief.update(belief.statistics(x, r), belief)
    torch.manual_seed(4)
    constants = torch.stack(
        [
            (d.kl(belief) - d.kl(q)).sum() - d.expected_log_prob(x).sum()
            for d in (q.sample() for _ in range(5))
        ]
    )
    evidence = q.expected_fit(q.rebase(belief.statistics(x, r), belief)).sum() - q.kl(belief).sum()
    torch.testing.assert_close(-constants, evidence.expand(5), rtol=1e-10, atol=1e-8)


@each
def test_the_mode_is_the_best_point(name):
    """No draw near the mode has a higher posterior density, and gradient steps climb to it without falling."""
    belief, x = beliefs()[name]
    q = belief.update(belief.statistics(x, responsibilities()), belief)
    best = -q.mode().kl(q).sum()
    torch.manual_seed(5)
    assert all(-q.sample().kl(q).sum() < best for _ in range(50))
    theta, before = belief.mode(), -torch.inf
    for _ in range(60):
        theta = theta.ascend(q, 1, 0.3)
        height = float(-theta.kl(q).sum())
        assert height >= before - 1e-10 * abs(height)
        before = height
    assert before == pytest.approx(float(best), rel=1e-6)


@each
def test_zero_weight_and_no_prior_leave_a_component_where_it_was(name):
    belief, x = beliefs()[name]
    theta = belief.mode()
    s = theta.statistics(x, torch.zeros(N, K, dtype=F64))
    for key, concentration in (("concentration", 0.0), ("kappa", 0.0), ("nu", 0.0)):
        if key in belief._buffers:
            belief = belief.replace(**{key: torch.full_like(belief._buffers[key], concentration)})
    stayed = belief.update(s, theta).mode()
    torch.testing.assert_close(stayed.mean, theta.mean)
    assert belief.is_flat and not belief.weak(x).is_flat
    with pytest.raises(ValueError, match="cannot draw"):
        belief.sample()


@pytest.mark.parametrize(
    "flat, value",
    [
        (Bernoulli.flat(2, 2), 0),
        (Bernoulli.flat(2, 2), 1),
        (Binomial.flat(2, 2, 4), 0),
        (Binomial.flat(2, 2, 4), 4),
        (Poisson.flat(2, 2), 0),
        (Exponential(torch.ones(2, 2, dtype=F64), 0.0), 0),
    ],
)
def test_weak_priors_are_proper_whatever_the_data(flat, value):
    """A column that is all 0, or all of the largest value, still leaves a distribution to draw from, inside the domain."""
    x = torch.tensor([[value, value], [value, 1]], dtype=F64)
    weak = flat.weak(x, torch.tensor([3.0, 1.0], dtype=F64))
    assert torch.isfinite(weak.kl(flat)).all() and torch.isfinite(weak.sample().mean).all()
    torch.testing.assert_close(
        weak.mean[:, 0], (4 * value + flat.mean[:, 0]) / 5
    )  # four data, and one of the prior
    torch.testing.assert_close(weak.kl(weak), torch.zeros(2, dtype=F64))


@pytest.mark.parametrize("family", [Gaussian, DiagonalGaussian])
def test_a_constant_column_has_no_variance(family):
    """However a mean of 60 equal values is rounded: what is left of it would pass for a prior."""
    x = torch.full((60, 2), 123.456, dtype=F64)
    weight = torch.arange(60, dtype=F64)
    for w in (None, weight):
        weak = family.flat(2, 2).weak(x, w)
        assert (weak.mean == 123.456).all()
        assert not (weak.covariance if family is Gaussian else weak.variance).any()


def in_every_order(x, count=20):
    """The same rows in other orders: what is added up is the same but for round-off."""
    g = torch.Generator().manual_seed(0)
    return (x[torch.randperm(len(x), generator=g)] for _ in range(count))


def one_component(family, x, **shape):
    """The maximum-likelihood member for all rows, as the first M-step of a mixture finds it."""
    flat = family.flat(1, x.shape[1], **shape)
    about = flat.weak(x).mode()
    return flat.update(about.statistics(x, torch.ones(len(x), 1, dtype=F64)), about)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123.456, 1e5 + 0.1, -7e-9])
@pytest.mark.parametrize(
    "family, shape",
    [
        (Gaussian, {}),
        (Gaussian, {"tied": True}),
        (DiagonalGaussian, {}),
        (DiagonalGaussian, {"tied": True}),
    ],
)
def test_identical_values_are_refused_whatever_their_mean_rounds_to(family, shape, value):
    x = torch.stack([X[:, 0].repeat(3), torch.full((3 * N,), value, dtype=F64)], 1)
    for rows in in_every_order(x):
        for n in (3, 7, 60, 119):
            with pytest.raises(ValueError, match="identical"):
                one_component(family, rows[:n], **shape)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_rows_that_fill_no_volume_are_refused_whatever_their_order(scale):
    """One feature is a mixture of the others, of which only round-off says that it is none."""
    x = torch.cat([X, X @ torch.tensor([[0.3], [-1.7], [0.9]], dtype=F64)], 1) * scale + 10 * scale
    for rows in in_every_order(x):
        with pytest.raises(ValueError, match="not positive definite"):
            one_component(Gaussian, rows)
        assert torch.equal(weak_shape(rows), torch.eye(4, dtype=torch.bool))


def test_thin_but_real_covariances_are_kept_whatever_the_order():
    """A feature that differs from a mixture of the others by 1e-5 has a variance of its own that ten digits show."""
    x = torch.cat([X, X.sum(1, keepdim=True) + 1e-5 * X[:, :1].flip(0)], 1)
    expected = torch.linalg.eigvalsh(x.T.cov(correction=0))[0]
    for rows in in_every_order(x):
        found = torch.linalg.eigvalsh(one_component(Gaussian, rows).covariance[0])[0]
        assert float(found) == pytest.approx(float(expected), rel=1e-3)
        assert weak_shape(rows).all()


def weak_shape(x):
    """Where the weak prior's covariance is not 0."""
    return Gaussian.flat(1, x.shape[1]).weak(x).covariance[0] != 0


def test_a_weak_prior_is_diagonal_beside_an_outlier_whatever_the_order():
    """At 1e9 the rows' covariance is singular but for round-off."""
    x = torch.cat([X - 3, X + 3, torch.full((1, D), 1e9, dtype=F64)])
    for rows in in_every_order(x):
        assert torch.equal(weak_shape(rows), torch.eye(D, dtype=torch.bool))


@each
def test_a_fixed_prior_is_not_moved_by_data(name):
    belief, x = beliefs()[name]
    fixed = belief.mode()
    posterior = fixed.update(fixed.statistics(x, responsibilities()), fixed)
    for key, value in fixed._buffers.items():
        torch.testing.assert_close(posterior._buffers[key], value, rtol=0, atol=0)
    assert (fixed.kl(fixed) == 0).all()


@pytest.mark.parametrize(
    "name",
    [
        "bernoulli",
        "binomial",
        "poisson",
        "categorical",
        "diagonal",
        "spherical",
        "isotropic",
        "exponential",
    ],
)
def test_missing_values_are_left_out(name):
    """A NaN changes nothing but its own feature: the sum over features of one-feature fits."""
    belief, x = beliefs()[name]
    if not x.is_floating_point():
        x = x.to(F64)
    x = x.clone()
    x[::3, 0], x[1::4, 2] = torch.nan, torch.nan
    r = responsibilities()
    torch.testing.assert_close(
        belief.expected_fit(belief.statistics(x, r)), (r * belief.expected_log_prob(x)).sum(0)
    )
    for d in range(D):
        rows = ~x[:, d].isnan()
        alone = torch.full_like(x, torch.nan)
        alone[:, d] = x[:, d]
        seen = torch.zeros(N, K, dtype=F64)
        seen[rows] = belief.expected_log_prob(alone[rows])
        assert (belief.expected_log_prob(alone)[~rows] == 0).all() and seen.isfinite().all()
        x_without = x.clone()
        x_without[:, d] = torch.nan
        torch.testing.assert_close(
            belief.expected_log_prob(x) - belief.expected_log_prob(x_without), seen
        )


def test_full_covariances_refuse_missing_values():
    belief, x = beliefs()["full"]
    x = x.clone()
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="1 values are NaN: full covariances need complete rows"):
        belief.expected_log_prob(x)


@each
def test_divergence_is_the_best_fit_minus_the_fit(name):
    belief, x = beliefs()[name]
    if not hasattr(belief, "divergence"):
        pytest.skip("a Gaussian's is its Mahalanobis distance")
    divergence = belief.divergence(x)
    assert (divergence >= 0).all()
    scores = belief.mode().expected_log_prob(x)
    torch.testing.assert_close(
        divergence[:, 0] - divergence[:, 1], scores[:, 1] - scores[:, 0], rtol=1e-8, atol=1e-8
    )


def test_beliefs_are_the_textbooks():
    a, b = torch.tensor(2.3, dtype=F64), torch.tensor(0.7, dtype=F64)
    two = (
        Bernoulli((a / (a + b)).view(1, 1), a + b),
        Bernoulli(torch.full((1, 1), 0.5, dtype=F64), 2.0),
    )
    torch.testing.assert_close(
        two[0].kl(two[1])[0],
        kl_divergence(Beta(a, b), Beta(torch.ones_like(a), torch.ones_like(a))),
    )
    two = Poisson((a / b).view(1, 1), b), Poisson(torch.full((1, 1), 2.0, dtype=F64), 1.5)
    torch.testing.assert_close(
        two[0].kl(two[1])[0], kl_divergence(Gamma(a, b), Gamma(torch.tensor(3.0, dtype=F64), 1.5))
    )
    alpha, uniform = torch.tensor([0.3, 2.0, 1.1], dtype=F64), torch.ones(3, dtype=F64)
    two = Categorical.dirichlet(alpha), Categorical.dirichlet(uniform)
    torch.testing.assert_close(
        two[0].kl(two[1]), kl_divergence(Dirichlet(alpha), Dirichlet(uniform))
    )
    q, p = (
        Gaussian(torch.zeros(1, 2, dtype=F64), torch.tensor(c, dtype=F64)[None], torch.inf, nu)
        for c, nu in (([[2.0, 0.3], [0.3, 1.0]], 5.0), ([[1.0, 0.0], [0.0, 1.0]], 3.0))
    )
    wishart = [
        Wishart(torch.tensor(f.nu.item(), dtype=F64), precision_matrix=f.nu * f.covariance[0])
        for f in (q, p)
    ]
    torch.testing.assert_close(q.kl(p)[0], kl_divergence(*wishart))


def test_exponential_priors_are_gamma():
    """The user's family against torch: λ ~ Gamma(c + 1, c m)."""
    c, m = torch.tensor(2.0, dtype=F64), torch.tensor(1.5, dtype=F64)
    q, p = (Exponential(mean.view(1, 1), count) for mean, count in ((m, c), (2 * m, c / 2)))
    expected = kl_divergence(Gamma(c + 1, c * m), Gamma(c / 2 + 1, c * m))
    torch.testing.assert_close(q.kl(p)[0], expected)


def test_stick_breaking_weights():
    belief = StickBreaking.process(4, 1.5)
    counts = torch.tensor([5.0, 0.0, 2.0, 1.0], dtype=F64)
    q = belief.update({"count": counts.sum(), "sum": counts})
    beyond = torch.tensor([3.0, 3.0, 1.0, 0.0], dtype=F64)
    torch.testing.assert_close(
        q.sticks.mean * q.sticks.concentration[:, None], torch.stack([1 + counts, 1.5 + beyond], -1)
    )
    torch.manual_seed(0)
    draws = torch.stack([q.sample().expected_natural for _ in range(4000)])
    assert ((draws.mean(0) - q.expected_natural).abs() < 4.5 * draws.std(0) / 4000**0.5).all()
    sticks = [Beta(1 + n, 1.5 + b) for n, b in zip(counts, beyond, strict=True)]
    expected = sum(kl_divergence(stick, Beta(torch.ones((), dtype=F64), 1.5)) for stick in sticks)
    torch.testing.assert_close(q.kl(belief), expected)
    assert float(q.mean.sum()) == pytest.approx(1.0)


def test_structural_zeros_stay():
    rows = Categorical(torch.tensor([[0.5, 0.5, 0.0]], dtype=F64), 3.0)
    q = rows.update(
        {"count": torch.tensor([4.0], dtype=F64), "sum": torch.tensor([[3.0, 1.0, 0.0]], dtype=F64)}
    )
    assert q.mean[0, 2] == 0 and q.expected_natural[0, 2] == -torch.inf
    assert q.kl(rows).isfinite().all() and q.sample().mean[0, 2] == 0


@each
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_choice_is_its_table_of_ones(name, groups, weighted):
    """Statistics of labels are those of one-hot responsibilities, with weights and in each of several groups of members."""
    belief, x = beliefs()[name]
    labels = torch.randint(K // groups, (N, groups), generator=torch.Generator().manual_seed(3))
    weight = torch.arange(N, dtype=F64) % 3 if weighted else None
    table = (
        torch.nn.functional.one_hot(labels, K // groups).flatten(1)
        * (torch.ones(N) if weight is None else weight)[:, None]
    )
    choice = Choice(labels, K, F64, weight)
    assert torch.equal(choice.dense(), table.to(F64)) and torch.equal(
        choice.counts, table.sum(0).to(F64)
    )
    for key, value in belief.chosen(x, choice).items():
        torch.testing.assert_close(
            value, belief.statistics(x, table.to(F64))[key], rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("name", ["diagonal", "spherical", "isotropic"])
@pytest.mark.parametrize("far", [0.0, 1e9])
def test_a_choice_leaves_out_what_is_missing(name, far):
    belief, x = beliefs()[name]
    belief = belief.replace(mean=belief.mean + far * torch.arange(K, dtype=F64)[:, None])
    labels = torch.arange(N) % K
    x = (x + far * labels[:, None]).masked_fill(
        torch.rand(N, D, generator=torch.Generator().manual_seed(4)) < 0.3, torch.nan
    )
    choice, y = Choice(labels, K, F64), x - belief.mean[labels]
    s, table = belief.chosen(x, choice), belief.statistics(x, choice.dense())
    scatter = choice.dense().T @ y.nan_to_num().square()
    torch.testing.assert_close(s["sum"], choice.dense().T @ y.nan_to_num(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        s["scatter"],
        scatter if name == "diagonal" else scatter.sum(1, keepdim=True),
        rtol=1e-12,
        atol=0,
    )
    for key in (
        s if not far else ()
    ):  # the table's differences pass by the common centre and lose what it is away
        torch.testing.assert_close(s[key], table[key], rtol=1e-9, atol=1e-9)


def test_expanded_products_equal_explicit_differences():
    """The fast and the safe way, near and far from the common centre: where products would cancel, differences are taken."""
    torch.manual_seed(0)
    for spread, fast in ((3.0, True), (1e6, False)):
        mean = torch.randn(K, D, dtype=F64) * spread
        belief = Gaussian(mean, torch.eye(D, dtype=F64).repeat(K, 1, 1))
        assert belief._expands(F64) is fast
        x = mean[torch.arange(N) % K] + torch.randn(N, D, dtype=F64)
        torch.testing.assert_close(
            belief.expected_log_prob(x),
            belief.likelihood().log_prob(x[:, None]),
            rtol=1e-9,
            atol=1e-7,
        )
        point = DiagonalGaussian(mean, torch.ones(K, D, dtype=F64))
        torch.testing.assert_close(
            point.expected_log_prob(x),
            point.likelihood().log_prob(x[:, None]),
            rtol=1e-9,
            atol=1e-7,
        )
        r = torch.nn.functional.one_hot(torch.arange(N) % K, K).to(F64)
        for theta in (belief, point):
            s = theta.statistics(x, r)
            y = x - mean[torch.arange(N) % K]
            torch.testing.assert_close(s["sum"], r.T @ y, rtol=1e-9, atol=1e-8)


def test_bad_values_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="must be 0 or more, not -1"):
        Poisson(torch.ones(1, 1), -1.0)
    with pytest.raises(
        ValueError, match="has no parameter 'men'; it has mean, covariance, kappa, nu"
    ):
        Gaussian.flat(2, 2).given(men=0.0)
    with pytest.raises(ValueError, match=r"mean of shape \(3,\) does not fit \(2, 2\)"):
        Gaussian.flat(2, 2).given(mean=[0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="cannot be shared evenly"):
        Gaussian(torch.zeros(3, 2), torch.eye(2).repeat(2, 1, 1))
    with pytest.raises(ValueError, match=r"component 0 is not positive definite .*try reg_covar"):
        Gaussian(torch.zeros(2, 2), torch.zeros(2, 2, 2)).factor()
    assert math.isinf(float(Bernoulli(torch.ones(1, 1) / 2).concentration))
