"""I- and M-projections of densities, and the geometry of finite tables."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from emgen.divergences import (
    KL,
    GaussianFamily,
    MixtureFamily,
    Neyman,
    ReverseKL,
    TotalVariation,
    alternating_projections,
    f_projection,
    factorised_i_projection,
    factorised_m_projection,
    i_projection,
    iterative_proportional_fitting,
    linear_projection,
    m_projection,
    pythagorean_residual,
)

TWO_PEAKS = MixtureSameFamily(
    Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)),
    Normal(
        torch.tensor([-2.0, 2.0], dtype=torch.float64),
        torch.tensor([0.5, 0.8], dtype=torch.float64),
    ),
)
CORRELATED = MultivariateNormal(
    torch.tensor([1.0, -1.0], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=torch.float64),
)


def tables(*shape, seed=0):
    p, q = (
        torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        + 0.05
    )
    return p / p.sum(), q / q.sum()


def margins_of(p):
    rows = torch.eye(p.shape[0]).double()[:, :, None].expand(-1, -1, p.shape[1])
    columns = torch.eye(p.shape[1]).double()[:, None, :].expand(-1, p.shape[0], -1)
    return (rows, p.sum(1)), (columns, p.sum(0))


# ---- densities ---------------------------------------------------------------------------------


def test_the_i_projection_takes_one_peak_and_the_m_projection_covers_both():
    one, both = i_projection(TWO_PEAKS, GaussianFamily()), m_projection(TWO_PEAKS, GaussianFamily())
    assert abs(float(one.mean) - 2) < 0.02 and abs(float(one.stddev) - 0.8) < 0.02
    assert float(both.mean) == pytest.approx(0.8, abs=1e-12)
    assert float(both.variance) == pytest.approx(
        0.3 * (4 + 0.25) + 0.7 * (4 + 0.64) - 0.64, abs=1e-12
    )
    for q, ours in (
        (one, "i"),
        (both, "m"),
    ):  # each is a stationary minimum of its own KL, by quadrature
        theta = torch.tensor(
            [float(q.mean), math.log(float(q.stddev))], dtype=torch.float64, requires_grad=True
        )
        near = Normal(theta[0], theta[1].exp())
        value = (
            KL().of(p=near, q=TWO_PEAKS) if ours == "i" else KL().of(p=TWO_PEAKS, q=near)
        ).value
        (slope,) = torch.autograd.grad(value, theta)
        assert slope.abs().max() < 1e-5
    left = i_projection(TWO_PEAKS, GaussianFamily(), start=torch.tensor([[-2.0]]))
    assert abs(float(left.mean) + 2) < 0.02
    assert float(KL().of(p=one, q=TWO_PEAKS)) < float(KL().of(p=left, q=TWO_PEAKS))
    assert (
        0 < -math.log(0.7) - float(KL().of(p=one, q=TWO_PEAKS)) < 5e-3
    )  # the other peak adds a little under this one


@pytest.mark.parametrize(
    ("divergence", "mean", "sd"),
    [
        (KL(), 1.0100, 1.83067),
        (ReverseKL(), 1.57805, 1.63119),
        (Neyman(), 1.82476, 1.51858),
        (TotalVariation(), 1.3382, 1.87886),
    ],
    ids=repr,
)
def test_the_best_gaussian_under_any_divergence(divergence, mean, sd):
    weights, means, sds = torch.tensor(
        [[0.33, 0.67], [-1.0, 2.0], [0.255, 2**0.5]], dtype=torch.float64
    )
    best = f_projection(MixtureSameFamily(Categorical(weights), Normal(means, sds)), divergence)
    assert float(best.mean) == pytest.approx(mean, abs=1e-4) and float(
        best.stddev
    ) == pytest.approx(sd, abs=1e-4)


def test_factorised_gaussians_have_the_textbook_variances():
    precision = torch.linalg.inv(CORRELATED.covariance_matrix)
    compact = i_projection(CORRELATED, GaussianFamily(factorised=True))
    torch.testing.assert_close(compact.variance, 1 / precision.diagonal(), rtol=1e-6, atol=0)
    torch.testing.assert_close(compact.mean, CORRELATED.mean, rtol=1e-6, atol=1e-6)
    broad = m_projection(CORRELATED, GaussianFamily(factorised=True))
    torch.testing.assert_close(broad.variance, CORRELATED.variance)
    whole = i_projection(CORRELATED, GaussianFamily())
    torch.testing.assert_close(
        whole.covariance_matrix, CORRELATED.covariance_matrix, rtol=1e-6, atol=1e-6
    )


def test_mixtures_in_the_family_are_found_again():
    for project in (i_projection, m_projection):
        found = project(TWO_PEAKS, MixtureFamily(2))
        order = found.component_distribution.mean.argsort()
        torch.testing.assert_close(found.component_distribution.mean[order], torch.tensor([-2.0, 2.0]).double(),
                                   rtol=1e-4, atol=0)  # fmt: skip
        torch.testing.assert_close(found.mixture_distribution.probs[order], torch.tensor([0.3, 0.7]).double(),
                                   rtol=1e-4, atol=0)  # fmt: skip
    torch.manual_seed(0)
    laplace = torch.distributions.Laplace(torch.tensor(1.0).double(), torch.tensor(1.0).double())
    drawn = m_projection(
        laplace, GaussianFamily()
    )  # by moments of draws: sd of the mean is √2/√50,000 = .006
    assert abs(float(drawn.mean) - 1) < 0.03 and abs(float(drawn.variance) - 2) < 0.1
    with pytest.raises(ValueError, match="components=0"):
        MixtureFamily(0)


def test_targets_that_have_no_projection_are_refused():
    for target in (torch.distributions.Gamma(3.0, 1.0), torch.distributions.Poisson(3.0)):
        with pytest.raises(ValueError, match="infinite for every Gaussian"):
            i_projection(target, GaussianFamily())
    with pytest.raises(ValueError, match=r"batch of shape \(3,\)"):
        m_projection(Normal(torch.zeros(3), 1.0), GaussianFamily())
    with pytest.raises(TypeError, match=r"GaussianFamily\(\)"):
        m_projection(CORRELATED, GaussianFamily)
    heavy = torch.distributions.StudentT(*torch.tensor([5.0, 1.0, 2.0], dtype=torch.float64))
    assert abs(float(i_projection(heavy, GaussianFamily()).mean) - 1) < 1e-5


# ---- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_pythagoras(seed):
    p, q = tables(3, 4, seed=seed)
    onto_margins = iterative_proportional_fitting(q, [p.sum(1), p.sum(0)], sweeps=500)
    assert (
        abs(pythagorean_residual(p, onto_margins, q)) < 1e-12
    )  # p lies in the linear family of its own margins
    product = factorised_m_projection(p)
    assert abs(pythagorean_residual(p, product, factorised_m_projection(q))) < 1e-12
    assert abs(pythagorean_residual(p, q, product)) > 1e-3
    features = torch.rand(
        2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    moments = (features * p).sum((1, 2))
    projected = linear_projection(q, features, moments)
    torch.testing.assert_close((features * projected).sum((1, 2)), moments, rtol=0, atol=1e-13)
    assert abs(pythagorean_residual(p, projected, q)) < 1e-12


def test_alternating_projections_are_iterative_proportional_fitting():
    p, q = tables(3, 5)
    constraints = margins_of(p)
    for sweeps in (1, 2, 7):
        ours = alternating_projections(q, constraints, sweeps)
        fitted = iterative_proportional_fitting(q, [p.sum(1), p.sum(0)], sweeps)
        torch.testing.assert_close(ours, fitted, rtol=1e-12, atol=1e-14)
    both = linear_projection(q, *(torch.cat(pair) for pair in zip(*constraints, strict=True)))
    torch.testing.assert_close(
        both, iterative_proportional_fitting(q, [p.sum(1), p.sum(0)], 500), rtol=1e-10, atol=0
    )
    odds = (q[0, 0] * q[1, 1]) / (q[0, 1] * q[1, 0])  # what scaling can never change
    torch.testing.assert_close((both[0, 0] * both[1, 1]) / (both[0, 1] * both[1, 0]), odds)


def test_maximum_entropy():
    uniform = torch.full((6,), 1 / 6, dtype=torch.float64)
    faces = torch.arange(1.0, 7.0, dtype=torch.float64)[None]
    die = linear_projection(uniform, faces, torch.tensor([4.5]).double())
    ratios = die[1:] / die[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(5))  # geometric
    torch.testing.assert_close(die, torch.tensor([0.05435, 0.07877, 0.11416, 0.16545, 0.23977, 0.34749]).double(),
                               rtol=0, atol=1e-5)  # fmt: skip
    tilted = die * torch.tensor([1.0, 0.9, 1.1, 1.0, 1.0, 1.0]).double()
    same_mean = linear_projection(tilted / tilted.sum(), faces, torch.tensor([4.5]).double())
    entropy = lambda p: -(p * p.log()).sum()
    assert entropy(same_mean) < entropy(die)
    with pytest.raises(ValueError, match="no table on the support"):
        linear_projection(uniform, faces, torch.tensor([7.0]).double())


def test_mean_field_never_rises_and_depends_on_its_start():
    p = torch.tensor([[0.48, 0.02], [0.02, 0.48]], dtype=torch.float64)
    kl = lambda q: float((q * (q / p).log()).sum())
    start = torch.tensor([[0.6, 0.2], [0.1, 0.1]], dtype=torch.float64)
    values = [kl(factorised_m_projection(start))]
    values += [kl(factorised_i_projection(p, start, sweeps)) for sweeps in (1, 2, 3, 5, 10, 100)]
    assert all(after <= before + 1e-15 for before, after in pairwise(values))
    one, other = factorised_i_projection(p, start), factorised_i_projection(p, start.flip(0, 1))
    torch.testing.assert_close(one, other.flip(0, 1))
    assert one[0, 0] > 0.8 and values[-1] < kl(
        factorised_m_projection(p)
    )  # one peak; the M-projection has both
    product = factorised_m_projection(tables(2, 3, 4)[0])
    torch.testing.assert_close(factorised_i_projection(product), product)


def test_constraints_of_any_unit_zeros_and_repeats():
    (p, q) = tables(3, 4, 2, seed=7)
    q[0, 1, 0] = p[0, 1, 0] = 0.0  # a structural zero
    p, q = p / p.sum(), q / q.sum()
    margins = [p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))]
    features = torch.stack(
        [
            torch.zeros_like(p).index_fill(d, torch.tensor(i), 1)
            for d in range(3)
            for i in range(p.shape[d])
        ]
    )
    moments = (features * p).flatten(1).sum(1)
    fitted = iterative_proportional_fitting(q, margins, 500)
    torch.testing.assert_close(
        linear_projection(q, features, moments), fitted, rtol=1e-11, atol=0
    )  # two are redundant
    units = 10.0 ** torch.linspace(-8, 8, 9, dtype=torch.float64)
    scaled = linear_projection(q, features * units[:, None, None, None], moments * units)
    torch.testing.assert_close(scaled, fitted, rtol=1e-11, atol=0)
    assert abs(pythagorean_residual(p, scaled, q)) < 1e-12
    assert torch.equal(linear_projection(q, features[:0], moments[:0]), q / q.sum())
    unseen = features.clone()
    unseen[:, 0, 1, 0] = torch.inf  # what a feature is where q is 0 is of no matter
    torch.testing.assert_close(linear_projection(q, unseen, moments), fitted, rtol=1e-11, atol=0)


def test_mean_field_keeps_off_zeros():
    block = torch.tensor([[0.5, 0.2, 0.0], [0.1, 0.2, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        factorised_i_projection(block)[:, :2], factorised_i_projection(block[:, :2])
    )
    peaks = torch.tensor([[0.6, 0.0], [0.0, 0.4]], dtype=torch.float64)
    corner = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(factorised_i_projection(peaks, corner), corner)
    with pytest.raises(ValueError, match="mass where p is 0"):
        factorised_i_projection(torch.eye(2) / 2)
    line = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    torch.testing.assert_close(factorised_i_projection(line), line)
    torch.testing.assert_close(factorised_i_projection(2 * line), line)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda q, e: linear_projection(q, torch.ones(1, 3), torch.ones(1)),
            r"needs \(m, 2, 2\)|features",
        ),
        (lambda q, e: linear_projection(q, e[None], torch.ones(2)), "moments"),
        (lambda q, e: linear_projection(q - 0.5, e[None], torch.ones(1)), "q must be a table"),
        (lambda q, e: linear_projection(0 * q, e[None], torch.ones(1)), "q must be a table"),
        (lambda q, e: linear_projection(q, e[None], torch.full((1,), math.nan)), "must be finite"),
        (
            lambda q, e: linear_projection(q, torch.stack([e, e]), torch.tensor([0.2, 0.3])),
            "no table on the support",
        ),
        (lambda q, e: iterative_proportional_fitting(q, [q[0]]), "one vector a dimension"),
        (
            lambda q, e: iterative_proportional_fitting(q, [q[0], q[0, :1]]),
            "one vector a dimension",
        ),
        (
            lambda q, e: iterative_proportional_fitting(q, [q[0], 2 * q[0]]),
            "sums to 1 and margins\\[0\\] to 0.5",
        ),
        (
            lambda q, e: iterative_proportional_fitting(q, [torch.tensor([1.5, -0.5]), q.sum(0)]),
            "margins\\[0\\] must be a table",
        ),
        (lambda q, e: iterative_proportional_fitting(e, [q.sum(0), q.sum(0)]), "cannot fill"),
        (lambda q, e: factorised_i_projection(q, q.flatten()), "table like p|start"),
    ],
)
def test_what_is_no_table_or_no_constraint_is_refused(call, match):
    with pytest.raises(Exception, match=match):
        call(torch.full((2, 2), 0.25), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
