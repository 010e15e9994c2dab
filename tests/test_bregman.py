"""Bregman divergences: laws over the export list, duality, and KL within an exponential family."""

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Dirichlet,
    Exponential,
    Gamma,
    Normal,
    Poisson,
    kl_divergence,
)

from emgen.divergences import (
    Bregman,
    BregmanDual,
    GeneralisedKL,
    ItakuraSaito,
    LogPartition,
    Mahalanobis,
    SquaredEuclidean,
)

PRECISION = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]], dtype=torch.float64)
SHIPPED = [SquaredEuclidean(), Mahalanobis(PRECISION), GeneralisedKL(), ItakuraSaito()]


class Generic(Bregman):
    """Everything from the potential, by automatic differentiation and Newton's method."""

    def __init__(self, other):
        self.potential = other.potential

    def origin(self, like):
        return torch.ones_like(like)


def points(n, seed):
    return (
        torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    )


@pytest.mark.parametrize("divergence", SHIPPED, ids=repr)
def test_laws(divergence):
    x, y, generic = points(6, 0), points(5, 1), Generic(divergence)
    table = divergence.of(x=x[:, None], y=y)
    assert table.shape == (6, 5) and (table > 0).all()
    torch.testing.assert_close(divergence(x, x), torch.zeros(6).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(table, generic.of(x=x[:, None], y=y))
    torch.testing.assert_close(table, divergence.pairwise(x, y))
    torch.testing.assert_close(table, generic.pairwise(x, y))
    torch.testing.assert_close(divergence.link(x), generic.link(x))
    torch.testing.assert_close(divergence.inverse_link(divergence.link(x)), x)
    torch.testing.assert_close(generic.inverse_link(divergence.link(x)), x)
    torch.testing.assert_close(
        divergence.conjugate(divergence.link(x)), generic.conjugate(divergence.link(x))
    )
    middle = (x[:5] + y) / 2  # convex in its first argument
    z = x[5:]
    assert (divergence(middle, z) <= (divergence(x[:5], z) + divergence(y, z)) / 2).all()


@pytest.mark.parametrize("divergence", [*SHIPPED, Generic(ItakuraSaito())], ids=repr)
def test_the_best_representative_is_the_mean(divergence):
    x, weights = (
        points(7, 2),
        torch.rand(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64),
    )
    mean = (weights @ x / weights.sum()).requires_grad_()
    (slope,) = torch.autograd.grad((weights * divergence.of(x=x, y=mean)).sum(), mean)
    assert slope.abs().max() < 1e-12
    moved = mean.detach() * torch.tensor([1.01, 1.0, 0.99], dtype=torch.float64)
    assert (weights * divergence.of(x=x, y=moved)).sum() > (
        weights * divergence.of(x=x, y=mean)
    ).sum()
    information = (weights * divergence.of(x=x, y=mean)).sum()  # Jensen's gap of the potential
    gap = (weights * divergence.potential(x)).sum() - weights.sum() * divergence.potential(mean)
    torch.testing.assert_close(information, gap)


@pytest.mark.parametrize("divergence", SHIPPED, ids=repr)
def test_duality_and_the_three_point_identity(divergence):
    x, y, z = points(4, 4), points(4, 5), points(4, 6)
    dual = BregmanDual(divergence)
    torch.testing.assert_close(
        dual.of(x=divergence.link(y), y=divergence.link(x)), divergence.of(x=x, y=y)
    )
    cross = ((divergence.link(z) - divergence.link(y)) * (x - y)).sum(-1)
    torch.testing.assert_close(divergence(x, z), divergence(x, y) + divergence(y, z) - cross)


def test_named_values():
    x, y = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    assert SquaredEuclidean()(x, y) == 5
    assert Mahalanobis(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))(x, y) == 9
    torch.testing.assert_close(
        GeneralisedKL()(x, y), torch.tensor(3 * 1.0986123 - 2 + 0.5 * 0 - 0.6931472 + 1)
    )
    torch.testing.assert_close(
        ItakuraSaito()(x, y), torch.tensor(3 - 1.0986123 - 1 + 0.5 + 0.6931472 - 1)
    )
    assert GeneralisedKL()(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0])) == 0.5
    centres = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    table = GeneralisedKL().pairwise(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), centres)
    assert table[0, 0] == 0 and table[1, 0] == torch.inf and table.isfinite().sum() == 3


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (Normal(0.3, 1.2), Normal(-1.0, 0.7)),
        (Poisson(3.0), Poisson(1.5)),
        (Exponential(2.0), Exponential(3.0)),
        (Gamma(2.0, 3.0), Gamma(0.7, 1.0)),
        (Beta(2.0, 3.0), Beta(0.7, 1.0)),
        (Bernoulli(0.3), Bernoulli(0.6)),
        (Dirichlet(torch.tensor([2.0, 3.0, 1.0])), Dirichlet(torch.tensor([0.7, 1.0, 2.0]))),
    ],
    ids=lambda d: type(d).__name__,
)
def test_kl_is_the_bregman_divergence_of_the_log_partition(p, q):
    torch.set_default_dtype(torch.float64)
    try:
        p, q = (
            type(d)(
                **{n: getattr(d, n).double() for n in d.arg_constraints if n not in ("logits",)}
            )
            for d in (p, q)
        )
        a = LogPartition(type(p))
        kl = kl_divergence(p, q)
        torch.testing.assert_close(a.of(x=a.natural(q), y=a.natural(p)), kl)  # arguments swapped
        torch.testing.assert_close(
            BregmanDual(a).of(x=a.mean(p), y=a.mean(q)), kl
        )  # of the conjugate, on means
        torch.testing.assert_close(a.inverse_link(a.mean(p)), a.natural(p))
    finally:
        torch.set_default_dtype(torch.float32)


def test_named_duals_of_families():
    rates, others = torch.tensor([0.5, 2.0]).double(), torch.tensor([1.5, 1.0]).double()
    poisson = kl_divergence(Poisson(rates), Poisson(others))
    torch.testing.assert_close(GeneralisedKL().of(x=rates[:, None], y=others[:, None]), poisson)
    waiting = kl_divergence(Exponential(1 / rates), Exponential(1 / others))
    torch.testing.assert_close(ItakuraSaito().of(x=rates[:, None], y=others[:, None]), waiting)
    normal = kl_divergence(Normal(rates, 0.7), Normal(others, 0.7))
    torch.testing.assert_close(
        SquaredEuclidean().of(x=rates[:, None], y=others[:, None]) / (2 * 0.49), normal
    )
    batch = LogPartition(Normal).natural(Normal(torch.zeros(4, 3), torch.ones(4, 3)))
    assert batch.shape == (4, 3, 2)


def test_outside_their_domain_they_are_infinite():
    x, y = (
        torch.tensor([[0.0, 1.0], [1.0, 1.0], [-1.0, 1.0]]).double(),
        torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, -1.0]]).double(),
    )
    inf, log2 = torch.inf, 0.6931471805599453
    wanted = {GeneralisedKL(): [[0, 2, inf], [inf, 1 - log2, inf], [inf] * 3],
              ItakuraSaito(): [[inf] * 3, [inf, log2 - 0.5, inf], [inf] * 3]}  # fmt: skip
    for divergence, table in wanted.items():
        expected = torch.tensor(table, dtype=torch.float64)
        for found in (
            divergence(x[:, None], y),
            divergence.of(x=x[:, None], y=y),
            divergence.pairwise(x, y),
        ):
            torch.testing.assert_close(found, expected)
    edge = torch.tensor(
        [0.0, 1.0], dtype=torch.float64, requires_grad=True
    )  # boundary points have finite slopes in y
    (slope,) = torch.autograd.grad(GeneralisedKL()(edge.detach(), edge + 1).sum(), edge)
    torch.testing.assert_close(slope, torch.tensor([1.0, 0.5], dtype=torch.float64))


def test_duals_of_ones_own_potential_are_differentiable_in_any_precision():
    class Softplus(Bregman):
        def potential(self, x):
            return torch.nn.functional.softplus(x).sum(-1)

    for dtype, digits in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x = torch.linspace(-2, 2, 6, dtype=dtype).reshape(2, 3)
        torch.testing.assert_close(
            Softplus().inverse_link(Softplus().link(x)), x, rtol=digits, atol=digits
        )
    theta, other = (points(4, seed)[:, :2] / 1.2 for seed in (8, 9))
    theta.requires_grad_()
    entropy = lambda t: (torch.xlogy(t, t) + torch.xlogy(1 - t, 1 - t)).sum(-1)
    divergence = (
        entropy(other) - entropy(theta) - (theta.logit() * (other - theta)).sum(-1)
    )  # of the conjugate
    dual = BregmanDual(Softplus()).of(x=other, y=theta)
    torch.testing.assert_close(dual, divergence)
    slopes = [torch.autograd.grad(value.sum(), theta)[0] for value in (dual, divergence)]
    torch.testing.assert_close(*slopes)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="symmetric and positive definite"):
        Mahalanobis(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(TypeError, match="exponential family known to torch"):
        LogPartition(torch.distributions.StudentT)
    with pytest.raises(ValueError, match="symmetric and positive definite"):
        Mahalanobis(torch.ones(2, 3))
    for family in (
        Normal(0.0, 1.0),
        torch.distributions.Wishart,
        torch.distributions.ContinuousBernoulli,
    ):
        with pytest.raises(TypeError, match="exponential family known to torch"):
            LogPartition(family)
    with pytest.raises(TypeError, match="is no Normal"):
        LogPartition(Normal).natural(Poisson(2.0))
    with pytest.raises(NotImplementedError, match="must define potential"):
        Bregman().potential(torch.ones(2))
    with pytest.raises(ValueError, match="range of the link"):
        Generic(ItakuraSaito()).inverse_link(torch.tensor([[1.0, -1.0, -1.0]], dtype=torch.float64))

    class Cubic(Bregman):
        def potential(self, x):
            return x.abs().pow(3).sum(-1)

    with pytest.raises(ValueError, match="at which φ is curved"):  # from 0 it cannot start
        Cubic().inverse_link(torch.ones(1, 2, dtype=torch.float64))
