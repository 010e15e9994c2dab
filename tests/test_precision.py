"""Divergences in single precision, the one that torch's own distributions are made in by default."""

import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    Chi2,
    ContinuousBernoulli,
    Exponential,
    FisherSnedecor,
    Gamma,
    Gumbel,
    HalfCauchy,
    HalfNormal,
    Independent,
    InverseGamma,
    Kumaraswamy,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    Normal,
    StudentT,
    Uniform,
    Weibull,
)

from emgen.distributions import kl
from emgen.divergences import KL, JensenShannon, ReverseKL, SquaredHellinger
from emgen.divergences.numerics.precision import dtype_of, in_double

DIVERGENCES = (KL(), SquaredHellinger(), JensenShannon())


def mixture(t):
    return MixtureSameFamily(Categorical(t([0.5, 0.5])), Gamma(t([2.0, 5.0]), t([1.0, 1.0])))


# each makes a distribution from tensors of one precision
MAKERS = {
    "half-line": [
        lambda t: Gamma(t(2.0), t(1.0)),
        lambda t: Gamma(t(0.5), t(1.0)),
        lambda t: Chi2(t(4.0)),
        lambda t: InverseGamma(t(2.0), t(1.0)),
        lambda t: LogNormal(t(0.0), t(1.0)),
        lambda t: Weibull(t(2.0), t(1.5)),
        lambda t: Exponential(t(0.8)),
        lambda t: HalfNormal(t(1.0)),
        lambda t: HalfCauchy(t(1.0)),
        lambda t: FisherSnedecor(t(4.0), t(6.0)),
        mixture,
    ],
    "line": [
        lambda t: Normal(t(0.0), t(1.0)),
        lambda t: Cauchy(t(0.5), t(2.0)),
        lambda t: Laplace(t(0.0), t(1.0)),
        lambda t: StudentT(t(3.0), t(0.0), t(1.0)),
        lambda t: Gumbel(t(0.0), t(1.0)),
    ],
    "interval": [
        lambda t: Beta(t(2.0), t(3.0)),
        lambda t: Beta(t(0.5), t(0.5)),
        lambda t: Uniform(t(0.0), t(1.0)),
        lambda t: Kumaraswamy(t(2.0), t(3.0)),
        lambda t: ContinuousBernoulli(logits=t(3.0)),
        lambda t: ContinuousBernoulli(logits=t(-40.0)),
    ],
}
PAIRS = [
    (p, q)
    for makers in MAKERS.values()
    for p, q in zip(makers, [*makers[1:], makers[0]], strict=True)
]


def single(value):
    return torch.tensor(value, dtype=torch.float32)


def double(value):
    return single(value).double()  # the very same numbers


@pytest.mark.parametrize(("p", "q"), PAIRS, ids=lambda make: type(make(single)).__name__)
def test_a_divergence_in_single_precision_is_that_in_double(p, q):
    for divergence in DIVERGENCES:
        expected = divergence.of(p=p(double), q=q(double))
        found = divergence.of(p=p(single), q=q(single))
        assert not math.isnan(float(found)) and found.method == expected.method
        assert float(found) == pytest.approx(float(expected), rel=1e-5, abs=1e-6), (
            divergence,
            found,
            expected,
        )


# by SciPy's quadrature of SciPy's densities
RIGHT = [
    (Gamma(2.0, 2.0), Weibull(1.0, 2.0), 0.193147),
    (LogNormal(0.0, 1.0), Gamma(2.0, 2.0), 0.49221),
    (Chi2(4.0), LogNormal(0.0, 1.0), 0.709626),
    (FisherSnedecor(4.0, 6.0), Gamma(2.0, 1.0), 0.25731),
    (Gamma(0.5, 1.0), LogNormal(0.0, 1.0), 3.25991),
    (HalfCauchy(1.0), Exponential(1.0), math.inf),
    (HalfCauchy(1.0), HalfNormal(1.0), math.inf),
    (mixture(single), Gamma(3.0, 1.0), 0.119048),
    (LogNormal(-69.0, 1.0), Gamma(2.0, 1e30), 0.207629),
    (Gamma(2.0, 1.0), LogNormal(0.0, 1.0), 0.176347534),
    (Weibull(2.0, 1.5), Gamma(2.0, 1.0), 0.017066555),
]


@pytest.mark.parametrize(("p", "q", "right"), RIGHT, ids=lambda one: type(one).__name__)
def test_known_values_of_kl(p, q, right):
    assert float(KL().of(p=p, q=q)) == pytest.approx(right, rel=5e-6)


def continuous_bernoulli_kl(a, b):
    """By the closed form in Python's floats."""

    def log_normaliser(t):
        return math.log(abs(t)) - math.log(-math.expm1(-abs(t))) - max(t, 0)

    size = abs(a)
    above = -1 / math.expm1(-size) - 1 / size
    mean = above if a > 0 else 1 - above
    return (a - b) * mean + log_normaliser(a) - log_normaliser(b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (-15, 15),
        (-20, 20),
        (-40, 20),
        (30, 35),
        (100, -100),
        (-500, 20),
        (0.5, -0.5),
        (3, 3.5),
        (1e3, 1),
    ],
)
def test_continuous_bernoullis_are_taken_by_their_logits(a, b, dtype):
    p, q = (ContinuousBernoulli(logits=torch.tensor(float(v), dtype=dtype)) for v in (a, b))
    right = continuous_bernoulli_kl(float(a), float(b))
    assert float(KL().of(p=p, q=q)) == pytest.approx(
        right, rel=1e-6 if dtype == torch.float32 else 1e-11
    )
    assert float(ReverseKL().of(p=q, q=p)) == pytest.approx(right, rel=1e-6)
    generic = type("Generic", (KL,), {"exact": lambda self, p, q: None})().of(
        p=p, q=q
    )  # by quadrature of the density
    assert float(generic) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("a", [-1e-2, -1e-3, -1e-5, 0.0, 1e-6, 1e-3, 2e-3, 1e-2, 2e-2])
def test_continuous_bernoullis_near_the_uniform_lose_no_digits(a):
    p = ContinuousBernoulli(logits=torch.tensor(a, dtype=torch.float64))
    uniform = Uniform(
        torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    )
    assert float(KL().of(p=p, q=uniform)) == pytest.approx(
        a * a / 24, rel=1e-3, abs=1e-15
    )  # half the variance times a²


def test_gradients_reach_the_parameters_that_were_given():
    """The KL projection of a Gamma(2, 1) onto log-normals has the Gamma's mean and deviation of log x: ψ(2), √ψ′(2)."""
    mean, log_sd = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([mean, log_sd], 0.05)
    for _ in range(120):
        optimiser.zero_grad()
        loss = KL().of(p=Gamma(2.0, 1.0), q=LogNormal(mean, log_sd.exp())).value
        loss.backward()
        optimiser.step()
    two = torch.tensor(2.0)
    assert float(mean.detach()) == pytest.approx(float(torch.digamma(two)), abs=2e-3)
    assert float(log_sd.detach().exp()) == pytest.approx(
        float(torch.polygamma(1, two).sqrt()), abs=2e-3
    )


def test_the_double_is_the_same_distribution():
    for makers in MAKERS.values():
        for make in makers:
            given = make(single)
            made = in_double(given)
            assert (
                type(made) is type(given)
                and dtype_of(made) == torch.float64
                and dtype_of(given) == torch.float32
            )
    x = torch.tensor([0.1, 0.7, 2.0])
    assert torch.allclose(
        in_double(Gamma(2.0, 3.0)).log_prob(x.double()).float(), Gamma(2.0, 3.0).log_prob(x)
    )


def test_a_value_that_is_no_number_is_refused():
    class Broken(Normal):
        def log_prob(self, value):
            return super().log_prob(value) * math.nan

    with pytest.raises(ValueError, match="log_prob of Broken is no number"):
        JensenShannon().of(p=Broken(0.0, 1.0), q=Cauchy(0.0, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("a", "b"), [(0.5, -1.0), (20.0, -20.0), (-60.0, 3.0), (3.0, 60.0), (0.0, 100.0)]
)
def test_kl_of_bernoullis_is_finite_whatever_their_logits(a, b, dtype):
    """Σ_x q (log q − log p) of the log probabilities that the logits say, in Python's floats."""

    def log_sigmoid(t):
        return -math.log1p(math.exp(-t)) if t > -30 else t

    right = sum(
        math.exp(log_sigmoid(sign * a)) * (log_sigmoid(sign * a) - log_sigmoid(sign * b))
        for sign in (1, -1)
    )
    q, p = (Bernoulli(logits=torch.full((3,), v, dtype=dtype)) for v in (a, b))
    assert kl(q=q, p=p).tolist() == pytest.approx(
        [right] * 3, rel=1e-5 if dtype == torch.float32 else 1e-12
    )
    many = kl(q=Independent(q, 1), p=Independent(p, 1))
    assert float(many) == pytest.approx(3 * right, rel=1e-5 if dtype == torch.float32 else 1e-12)
