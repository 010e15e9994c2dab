"""Laws of f-divergences over the export list, and their values against independent ones."""

import math

import numpy as np
import pytest
import torch
from scipy.special import i0, i1
from scipy.stats import binom
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    HalfCauchy,
    Independent,
    Laplace,
    LKJCholesky,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    StudentT,
    TransformedDistribution,
    Uniform,
    VonMises,
    constraints,
    kl_divergence,
)
from torch.distributions.transforms import ExpTransform, SigmoidTransform

import emgen.divergences as divergences
from emgen.divergences import (
    GAN,
    KL,
    Alpha,
    ExponentialLoss,
    FDivergence,
    HingeLoss,
    Jeffreys,
    JensenShannon,
    LeastSquaresLoss,
    LogisticLoss,
    LossOfDivergence,
    MarginLoss,
    Neyman,
    PaperActivation,
    Pearson,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
    TriangularDiscrimination,
    fenchel_bound,
    tight_bound,
)
from emgen.divergences.numerics.quadrature import integrate
from emgen.testing import check_divergence

ABSTRACT = (FDivergence, MarginLoss, PaperActivation, LossOfDivergence)
EXPORTED = [getattr(divergences, name) for name in divergences.__all__]
NAMED = [
    d()
    for d in EXPORTED
    if isinstance(d, type) and issubclass(d, FDivergence) and d not in ABSTRACT
]
EXACT = [d for d in NAMED if not isinstance(d, MarginLoss | TotalVariation)]
EXACT += [Alpha(0.0), Alpha(1.0), Alpha(-0.5), Alpha(1.5), Alpha(2.0)]
PRINTED = [PaperActivation(d) for d in EXACT if not isinstance(d, TriangularDiscrimination)]
SURROGATES = [HingeLoss(), ExponentialLoss(), LogisticLoss(), LeastSquaresLoss()]


class LeCam(FDivergence):
    def generator(self, u):
        return (u - 1) ** 2 / (u + 1)


class Kinked(FDivergence):
    def generator(self, u):
        return (u - 1).abs() + (u - 1) ** 2


def double(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def mixture(weights, means, sds):
    return MixtureSameFamily(Categorical(*double(weights)), Normal(*double(means, sds)))


FGAN_TARGET = mixture([0.33, 0.67], [-1.0, 2.0], [0.255, 2**0.5])


# ---- laws --------------------------------------------------------------------------------------


def test_the_export_list_is_the_public_one():
    public = {"KL", "ReverseKL", "JensenShannon", "GAN", "Pearson", "Neyman", "SquaredHellinger", "Jeffreys",
              "TotalVariation", "Alpha"}  # fmt: skip
    assert public <= {type(d).__name__ for d in NAMED}


@pytest.mark.parametrize("divergence", [*EXACT, LeCam()], ids=repr)
def test_laws(divergence):
    check_divergence(divergence)


@pytest.mark.parametrize(
    "divergence", [TotalVariation(), Kinked(), *SURROGATES, *PRINTED], ids=repr
)
def test_laws_of_a_critic_that_is_no_log_ratio(divergence):
    check_divergence(divergence, log_ratio=False)


@pytest.mark.parametrize("divergence", EXACT, ids=repr)
def test_closed_forms_equal_the_generic_ones(divergence):
    class Generic(FDivergence):
        def generator(self, u):
            return divergence.generator(u)

    v = torch.linspace(-40, 40, 161, dtype=torch.float64)
    for name in ("activation", "conjugate_of_activation", "conjugate_curvature"):
        ours, generic = getattr(divergence, name)(v), getattr(Generic(), name)(v)
        torch.testing.assert_close(ours, generic, rtol=1e-6, atol=2e-6)
    t = divergence.activation(torch.linspace(-8, 8, 41, dtype=torch.float64)).requires_grad_()
    u, w = (
        torch.autograd.grad(d.conjugate(t).sum(), t, create_graph=True)[0]
        for d in (divergence, Generic())
    )
    torch.testing.assert_close(u, w, rtol=1e-6, atol=1e-9)
    if u.requires_grad:
        second = [torch.autograd.grad(g.sum(), t, retain_graph=True)[0] for g in (u, w)]
        torch.testing.assert_close(*second, rtol=1e-5, atol=1e-9)


def test_a_law_that_fails_is_named():
    class Flipped(FDivergence):
        def generator(self, u):
            return u * u.log() if u.sum() > 0 else u

        def conjugate_of_activation(self, v):
            return -v.exp()

    with pytest.raises(AssertionError, match=r"Flipped\(\) breaks the law: what is paid"):
        check_divergence(Flipped())

    class Concave(FDivergence):
        def generator(self, u):
            return u.log()

    with pytest.raises(AssertionError, match="f is convex"):
        check_divergence(Concave())


def test_laws_name_what_is_wrong_with_a_conjugate_and_with_a_sharp_bend():
    class Unclipped(Pearson):
        def conjugate(self, t):
            return t.square() / 4 + t  # the parabola goes up again below f′(0) = −2

    with pytest.raises(AssertionError, match=r"f\*\(t\) = -f\(0\) for t below"):
        check_divergence(Unclipped())

    class Sharp(FDivergence):
        def generator(self, u):
            return (u - 1).abs() ** 1.5

    t = torch.tensor(
        [-1.6, -1.5, -1.2, -0.5, -1e-3, 0.0, 1e-9, 0.3, 3.0, 30.0], dtype=torch.float64
    )
    torch.testing.assert_close(
        Sharp().conjugate(t), torch.where(t < -1.5, -1.0, t + 4 / 27 * t.abs() ** 3)
    )
    with pytest.raises(AssertionError, match="f'' is finite at 1"):
        check_divergence(Sharp())


def test_conjugates_of_the_paper():
    t = torch.linspace(-1.5, -0.1, 30, dtype=torch.float64)
    torch.testing.assert_close(KL().conjugate(t), (t - 1).exp())
    torch.testing.assert_close(ReverseKL().conjugate(t), -1 - (-t).log())
    torch.testing.assert_close(Pearson().conjugate(t), t**2 / 4 + t)
    torch.testing.assert_close(Neyman().conjugate(t), 2 - 2 * (1 - t).sqrt())
    torch.testing.assert_close(SquaredHellinger().conjugate(t), t / (1 - t))
    torch.testing.assert_close(JensenShannon().conjugate(t), -(2 - t.exp()).log())
    torch.testing.assert_close(GAN().conjugate(t), -(1 - t.exp()).log() - math.log(4))
    torch.testing.assert_close(Alpha(0.5).conjugate(t), 2 * ((1 - t / 2) ** -1 - 1))
    from scipy.special import lambertw

    w = torch.from_numpy(lambertw((1 - t).exp().numpy()).real)
    torch.testing.assert_close(Jeffreys().conjugate(t), w + 1 / w + t - 2)


def test_domains():
    tops = {KL: math.inf, ReverseKL: 0, JensenShannon: math.log(2), GAN: 0, Pearson: math.inf, Neyman: 1,
            SquaredHellinger: 1, Jeffreys: math.inf, TotalVariation: 0.5}  # fmt: skip
    for kind, top in tops.items():
        assert kind().domain[1] == pytest.approx(top, abs=1e-12)
        assert FDivergence.domain.fget(kind())[1] == pytest.approx(top, abs=1e-9)
    assert Alpha(0.5).domain[1] == 2 and Alpha(1.5).domain[1] == math.inf


def test_generators_of_the_paper():
    u = torch.tensor([0.2, 0.7, 1.9, 5.0], dtype=torch.float64)
    torch.testing.assert_close(
        JensenShannon().generator(u), -(u + 1) * ((1 + u) / 2).log() + u * u.log()
    )
    torch.testing.assert_close(
        GAN().generator(u) - math.log(4), u * u.log() - (u + 1) * (u + 1).log()
    )
    torch.testing.assert_close(
        Jeffreys().generator(u), KL().generator(u) + ReverseKL().generator(u)
    )
    torch.testing.assert_close(SquaredHellinger().generator(u), (u.sqrt() - 1) ** 2)
    torch.testing.assert_close(TotalVariation().generator(u), (u - 1).abs() / 2)
    torch.testing.assert_close(Alpha(3.0).generator(u), (u**3 - 1 - 3 * (u - 1)) / 6)
    torch.testing.assert_close(Alpha(1.0).generator(u), KL().generator(u) - u + 1)
    torch.testing.assert_close(Alpha(0.0).generator(u), ReverseKL().generator(u) + u - 1)
    torch.testing.assert_close(
        Alpha(1 + 1e-9).generator(u), Alpha(1.0).generator(u), rtol=1e-7, atol=0
    )
    torch.testing.assert_close(Alpha(-1.0).generator(u), Neyman().generator(u) / 2)
    for d in NAMED:
        assert hash(d) == hash(type(d)()) and d == type(d)() and type(d).__name__ in repr(d)


def test_printed_activations():
    v = torch.linspace(-3, 3, 13, dtype=torch.float64)
    printed = {KL(): v, ReverseKL(): -(-v).exp(), Pearson(): v, Neyman(): 1 - (-v).exp(), Jeffreys(): v,
               SquaredHellinger(): 1 - (-v).exp(), JensenShannon(): math.log(2) - (1 + (-v).exp()).log(),
               GAN(): -(1 + (-v).exp()).log(), TotalVariation(): v.tanh() / 2, Alpha(1.5): v,
               Alpha(0.5): 2 - (1 + (-v).exp()).log()}  # fmt: skip
    for divergence, expected in printed.items():
        printed_one = PaperActivation(divergence)
        torch.testing.assert_close(printed_one.activation(v), expected)
        torch.testing.assert_close(
            printed_one.conjugate_of_activation(v), divergence.conjugate(expected)
        )
    with pytest.raises(TypeError, match="has no activation in the f-GAN paper"):
        PaperActivation(TriangularDiscrimination())


def test_roth_weight_is_the_curvature_of_the_conjugate():
    v = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for divergence in [KL(), Jeffreys(), JensenShannon(), LeCam(), Alpha(1.5)]:
        t = divergence.activation(v).requires_grad_()
        (first,) = torch.autograd.grad(divergence.conjugate(t).sum(), t, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), t)
        w = v.clone().requires_grad_()
        (slope,) = torch.autograd.grad(divergence.activation(w).sum(), w)
        torch.testing.assert_close(
            divergence.conjugate_curvature(v), second * slope**2, rtol=1e-6, atol=1e-9
        )
    torch.testing.assert_close(
        JensenShannon().conjugate_curvature(v), v.sigmoid()
    )  # Roth et al.: D under Q


# ---- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("divergence", "value", "mean", "sd"),
    [
        (KL(), 0.2831, 1.0100, 1.8308),
        (ReverseKL(), 0.2480, 1.5782, 1.6319),
        (JensenShannon(), 0.1280, 1.3070, 1.7542),
        (GAN(), 0.1280, 1.3070, 1.7542),
        (Jeffreys(), 0.5705, 1.3218, 1.7034),
        (Pearson(), 0.6457, 0.5737, 1.9274),
        (Neyman(), 0.4052, 1.8248, 1.5186),
        (SquaredHellinger(), 0.1347, 1.3129, 1.7327),
        (TotalVariation(), 0.2396, 1.3386, 1.8787),
    ],
    ids=repr,
)
def test_table_of_the_f_gan_paper(divergence, value, mean, sd):
    theta = torch.tensor([mean, math.log(sd)], dtype=torch.float64, requires_grad=True)
    estimate = divergence.of(p=FGAN_TARGET, q=Normal(theta[0], theta[1].exp()))
    assert estimate.method == "quadrature" and float(estimate.error) < 1e-9
    assert float(estimate) == pytest.approx(value, abs=3e-4)
    (slope,) = torch.autograd.grad(estimate.value, theta)
    assert slope.abs().max() < 2e-3  # a minimum, and the quadrature is differentiable
    drawn = divergence.of(p=FGAN_TARGET, q=Normal(*double(mean, sd)), samples=20_000)
    assert abs(float(drawn) - float(estimate)) < 5 * float(drawn.error) < 0.1 * value


def test_closed_forms_between_gaussians_equal_quadrature():
    p, q = Normal(*double(0.3, 1.0)), Normal(*double(-0.4, 1.3))
    for divergence in [KL(), ReverseKL(), Jeffreys(), Pearson(), Neyman(), SquaredHellinger(), Alpha(0.3), Alpha(1.0),
                       Alpha(0.0), Alpha(-0.7)]:  # fmt: skip
        closed = divergence.of(p=p, q=q)
        assert closed.method == "closed form"
        numeric = divergence.of(
            p=MixtureSameFamily(Categorical(torch.ones(1)), p.expand((1,))), q=q
        )
        assert numeric.method == "quadrature"
        assert float(closed) == pytest.approx(float(numeric), rel=1e-9)
    for divergence, analytic in [
        (JensenShannon(), None),
        (TotalVariation(), math.erf(0.5 / (2 * math.sqrt(2)))),
    ]:
        value = float(divergence.of(p=Normal(*double(0.0, 1.0)), q=Normal(*double(0.5, 1.0))))
        assert analytic is None or value == pytest.approx(analytic, rel=1e-8)


def test_batched_and_multivariate_closed_forms():
    torch.manual_seed(0)
    p = Independent(Normal(torch.randn(4, 3).double(), torch.rand(4, 3).double() + 0.8), 1)
    q = Independent(Normal(torch.randn(4, 3).double(), torch.rand(4, 3).double() + 0.8), 1)
    full_p, full_q = (MultivariateNormal(d.mean, torch.diag_embed(d.variance)) for d in (p, q))
    for divergence in [SquaredHellinger(), Alpha(0.4), KL(), Jeffreys()]:
        torch.testing.assert_close(
            divergence.of(p=p, q=q).value, divergence.of(p=full_p, q=full_q).value
        )
        assert divergence.of(p=p, q=q).value.shape == (4,)
    rows = [
        JensenShannon().of(p=Normal(p.mean[i, 0], 1.0), q=Normal(q.mean[i, 0], 1.5)).value
        for i in range(4)
    ]
    whole = JensenShannon().of(p=Normal(p.mean[:, 0], 1.0), q=Normal(q.mean[:, 0], 1.5)).value
    torch.testing.assert_close(whole, torch.stack(rows))
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.8]], dtype=torch.float64)
    zero, one, identity = torch.zeros(2).double(), torch.ones(2).double(), torch.eye(2).double()
    a, b = MultivariateNormal(zero, covariance), MultivariateNormal(one, identity)
    drawn = SquaredHellinger().of(p=a, q=b, samples=100_000)
    assert abs(float(drawn) - float(SquaredHellinger().of(p=a, q=b))) < 4 * float(drawn.error)
    assert drawn.method == "Monte Carlo"


def test_infinite_divergences_are_infinite():
    wide, narrow = Normal(*double(0.0, 3.0)), Normal(*double(0.0, 1.0))
    blurred = mixture([0.5, 0.5], [0.0, 0.1], [3.0, 3.0])
    assert (
        float(Pearson().of(p=wide, q=narrow))
        == math.inf
        == float(Pearson().of(p=blurred, q=narrow))
    )
    assert float(Neyman().of(p=narrow, q=wide)) == math.inf
    cauchy = Cauchy(*double(0.0, 1.0))
    assert float(Jeffreys().of(p=cauchy, q=narrow)) == math.inf
    assert math.isfinite(float(JensenShannon().of(p=cauchy, q=narrow)))
    letters, fewer = Categorical(*double([0.2, 0.3, 0.5])), Categorical(*double([0.5, 0.5, 0.0]))
    assert float(Pearson().of(p=letters, q=fewer)) == math.inf
    assert float(LeCam().of(p=letters, q=fewer)) == pytest.approx(0.09 / 0.7 + 0.04 / 0.8 + 0.5)
    assert float(KL().of(p=Uniform(*double(0.0, 2.0)), q=Uniform(*double(0.5, 1.0)))) == math.inf


def test_quadrature_meets_supports_and_tails():
    cases = [
        (Uniform(*double(0.0, 1.0)), Uniform(*double(0.5, 2.0)), TotalVariation(), 2 / 3),
        (Gamma(*double(3.0, 1.0)), Exponential(*double(1.0)), Pearson(), 5.0),
        (
            Laplace(*double(0.0, 1.0)),
            Laplace(*double(1.0, 1.0)),
            TotalVariation(),
            1 - math.exp(-0.5),
        ),
        (
            Exponential(*double(1.0)),
            Exponential(*double(2.0)),
            SquaredHellinger(),
            2 - 2 * math.sqrt(8) / 3,
        ),
    ]
    for p, q, divergence, value in cases:
        assert float(divergence.of(p=p, q=q)) == pytest.approx(value, rel=1e-7)
    student = StudentT(*double(3.0))
    value = float(KL().of(p=student, q=Normal(*double(0.0, 1.0))))
    expected = (
        -float(student.entropy()) + 0.5 * math.log(2 * math.pi) + 3 / 2
    )  # variance 3 under the Student
    assert value == pytest.approx(expected, rel=1e-6)
    p, q = Beta(*double(0.5, 0.6)), Beta(*double(2.0, 0.7))

    class Plain(FDivergence):
        def generator(self, u):
            return torch.xlogy(u, u)

    assert float(Plain().of(p=p, q=q)) == pytest.approx(float(kl_divergence(p, q)), rel=1e-4)


def test_an_alphabet_of_ones_own_is_summed_over():
    class Sign(Distribution):
        arg_constraints, support, has_enumerate_support = {}, constraints.real, True

        def __init__(self, up):
            super().__init__(validate_args=False)
            self.up = up

        @property
        def mean(self):
            return 2 * self.up - 1

        def enumerate_support(self, expand=True):
            return torch.tensor([-1.0, 1.0], dtype=torch.float64)

        def log_prob(self, value):
            return torch.where(value > 0, self.up, 1 - self.up).log()

    found = KL().of(p=Sign(double(0.3)[0]), q=Sign(double(0.6)[0]))
    assert found.method == "enumeration"
    assert float(found) == pytest.approx(
        0.3 * math.log(0.3 / 0.6) + 0.7 * math.log(0.7 / 0.4), rel=1e-12
    )


def test_a_margin_loss_without_a_named_divergence_has_its_conjugate():
    class Unnamed(LogisticLoss):
        def induces(self):
            return self, 1.0

    t = torch.linspace(
        -4.0, 0.68, 30, dtype=torch.float64, requires_grad=True
    )  # up to log 2, where the domain ends
    found, wanted = Unnamed().conjugate(t), JensenShannon().conjugate(t)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    slopes = [
        torch.autograd.grad(value.sum(), t, create_graph=True)[0] for value in (found, wanted)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-9)
    bends = [torch.autograd.grad(slope.sum(), t)[0] for slope in slopes]
    torch.testing.assert_close(*bends, rtol=1e-5, atol=1e-7)


def test_what_is_no_distribution_is_refused_by_name():
    with pytest.raises(
        TypeError, match=r"(?s)q.*str|q.*normal"
    ):  # ours, or the type checker's that tests run under
        KL().of(p=Normal(0.0, 1.0), q="normal")


def test_quadrature_reaches_into_singular_ends_and_states_what_it_cannot():
    class Plain(FDivergence):
        def generator(self, u):
            return torch.xlogy(u, u)

    def gamma(shape):
        return Gamma(*double(shape, 1.0))

    for p, q in [
        (gamma(2.0), gamma(0.3)),
        (gamma(0.3), gamma(2.0)),
        (Exponential(*double(1.3)), gamma(0.3)),
    ]:
        assert float(Plain().of(p=p, q=q)) == pytest.approx(
            float(kl_divergence(p, q)), rel=1e-12
        )  # once taken for infinite
    p, q = gamma(0.3), Normal(*double(0.3, 1.1))  # singular inside the other's support
    assert float(Plain().of(p=p, q=q)) == pytest.approx(float(kl_divergence(p, q)), rel=1e-12)
    for p, q in [
        (Beta(*double(0.5, 0.5)), Beta(*double(2.0, 2.0))),
        (Beta(*double(0.1, 0.1)), Beta(*double(0.5, 0.7))),
    ]:
        estimate = Plain().of(p=p, q=q)  # next to 1 numbers are too coarse for what lies there
        assert 0 < abs(float(estimate) - float(kl_divergence(p, q))) < float(estimate.error)
    assert float(Pearson().of(p=Normal(*double(0.3, 1.1)), q=HalfCauchy(*double(1.0)))) == math.inf
    assert float(KL().of(p=Cauchy(*double(0.0, 1.0)), q=Normal(*double(0.0, 1.0)))) == math.inf


def test_outcomes_without_end_are_summed_and_batches_of_alphabets_broadcast():
    torch.manual_seed(0)
    geometric = Pearson().of(p=Geometric(*double(0.3)), q=Geometric(*double(0.5)))
    assert geometric.method == "enumeration"
    assert float(geometric) == pytest.approx(0.09 / 0.5 / (1 - 0.98) - 1, rel=1e-10)
    assert (
        float(Pearson().of(p=NegativeBinomial(*double(3.0, 0.4)), q=Poisson(*double(3.0))))
        == math.inf
    )  # sampled: .8
    rates = Poisson(torch.tensor([1.0, 5.0, 20_000.0], dtype=torch.float64))
    expected = 2 - 2 * (-0.5 * (rates.rate.sqrt() - math.sqrt(3.0)).square()).exp()
    torch.testing.assert_close(
        SquaredHellinger().of(p=rates, q=Poisson(*double(3.0))).value,
        expected,
        rtol=1e-10,
        atol=0.0,
    )
    p, q = (
        torch.rand(4, 4, dtype=torch.float64).softmax(-1),
        torch.rand(4, dtype=torch.float64).softmax(-1),
    )
    for kind in (Categorical, OneHotCategorical):
        value = TotalVariation().of(p=kind(p), q=kind(q)).value
        torch.testing.assert_close(value, (p - q).abs().sum(-1) / 2)
    p, q = (
        Binomial(torch.tensor([3.0, 5.0], dtype=torch.float64), *double(0.3)),
        Binomial(4, *double(0.4)),
    )
    log_p, log_q = binom.logpmf(range(6), 3, 0.3), binom.logpmf(range(6), 4, 0.4)
    found = TotalVariation().of(p=p, q=q).value
    assert float(found[0]) == pytest.approx(abs(np.exp(log_p) - np.exp(log_q)).sum() / 2, rel=1e-10)
    with pytest.raises(ValueError, match="3 outcomes and q 4"):
        KL().of(p=Categorical(torch.ones(3)), q=Categorical(torch.ones(4)))


def test_rare_outcomes_are_as_rare_as_their_logits_say():
    """Two-outcome formulas in log-odds: 1/(1 + e^40) is not zero, a probability of zero is no e^-16, whatever the wrapping."""
    a, b = torch.tensor(0.5, dtype=torch.float64), torch.tensor(40.0, dtype=torch.float64)
    kl = a.sigmoid() * (torch.nn.functional.logsigmoid(a) - torch.nn.functional.logsigmoid(b)) + (
        -a
    ).sigmoid() * (torch.nn.functional.logsigmoid(-a) - torch.nn.functional.logsigmoid(-b))
    neyman = (
        b.exp() * (1 + (-b).exp()) * (-a).sigmoid().square()
    )  # q²/p of the rarer outcome is all of it
    both = torch.tensor([[0.0, 0.5], [0.0, 40.0]], dtype=torch.float64)
    for dtype, digits in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        p, q = Bernoulli(logits=a.to(dtype)), Bernoulli(logits=b.to(dtype))
        letter = [
            kind(logits=one.to(dtype)) for kind in (Categorical, OneHotCategorical) for one in both
        ]
        three = [Binomial(3, logits=one.logits) for one in (p, q)]
        for left, right, n in ((p, q, 1), (*letter[:2], 1), (*letter[2:], 1), (*three, 3)):
            assert float(KL().of(p=left, q=right)) == pytest.approx(n * float(kl), rel=digits)
            assert float(ReverseKL().of(p=right, q=left)) == pytest.approx(
                n * float(kl), rel=digits
            )
            if n == 1:
                assert float(Neyman().of(p=right, q=left)) == pytest.approx(
                    float(neyman), rel=1e-4 if digits > 1e-12 else 1e-12
                )
        many = [Independent(Bernoulli(logits=one.to(dtype).expand(2, 3)), 1) for one in (a, b)]
        torch.testing.assert_close(KL().of(*many).value, (3 * kl).expand(2), rtol=digits, atol=0.0)
    for n in (1, 3):
        p, q = (Binomial(n, torch.tensor(one, dtype=torch.float64)) for one in (0.5, 0.0))
        assert float(KL().of(p=p, q=q)) == float(Pearson().of(p=p, q=q)) == math.inf
        assert float(KL().of(p=q, q=p)) == pytest.approx(n * math.log(2), rel=1e-14)
    assert float(KL().of(p=Poisson(torch.zeros(())), q=Poisson(torch.ones(())))) == pytest.approx(
        1.0, rel=1e-12
    )
    probs = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64, requires_grad=True)
    KL().of(
        p=Categorical(probs), q=Categorical(torch.full((3,), 1 / 3, dtype=torch.float64))
    ).value.backward()
    assert bool(probs.grad.isfinite().all())


@pytest.mark.parametrize("alpha", [1e-12, -1e-12, 1e-7, 1 - 1e-12, 1 + 1e-9])
def test_orders_next_to_the_limits_keep_their_digits(alpha):
    torch.manual_seed(0)
    limit = ReverseKL() if alpha < 0.5 else KL()
    log_p, log_q = torch.randn(2, 50, dtype=torch.float64).unbind()
    log_p[:2], log_q[:2] = torch.tensor([-1e300, 0.0]), torch.tensor([-2.0, 0.0])
    found, wanted = Alpha(alpha).perspective(log_p, log_q), limit.perspective(log_p, log_q)
    finite = wanted < 1e100
    torch.testing.assert_close(found[finite], wanted[finite], rtol=1e-5, atol=1e-9)
    p, q = Normal(*double(0.3, 1.0)), mixture([0.4, 0.6], [-1.0, 2.0], [0.5, 1.0])
    assert float(Alpha(alpha).of(p=p, q=q)) == pytest.approx(float(limit.of(p=p, q=q)), rel=1e-5)


def test_quadrature_runs_once_around_a_circle_and_gives_up_on_what_has_no_integral():
    kappa, other, apart = 1.5, 0.7, 2.0
    mean_length = float(i1(kappa) / i0(kappa))
    expected = (kappa - other * math.cos(apart)) * mean_length + math.log(i0(other) / i0(kappa))
    p, q = VonMises(*double(3.0, kappa)), VonMises(*double(3.0 + apart, other))
    assert float(KL().of(p=p, q=q)) == pytest.approx(
        expected, rel=1e-7
    )  # torch's own Bessel function is good to that
    with pytest.raises(ValueError, match="no integral"):
        integrate(lambda x: x.sin().square(), torch.tensor([-1.0, 1.0], dtype=torch.float64))


def test_parts_with_supports_of_their_own_and_distributions_without_a_mean():
    def uniforms(low, high):
        return MixtureSameFamily(
            Categorical(torch.full((2,), 0.5, dtype=torch.float64)), Uniform(*double(low, high))
        )

    p, q = (
        uniforms([0.0, 2.0], [1.0, 3.0]),
        uniforms([0.0, 1.0], [1.0, 3.0]),
    )  # 1/2 on (0,1), (2,3) and 1/2, 1/4, 1/4
    assert float(KL().of(p=p, q=q)) == pytest.approx(math.log(2) / 2, rel=1e-9)
    assert float(TotalVariation().of(p=p, q=q)) == pytest.approx(1 / 4, rel=1e-9)
    normal, other = Normal(*double(0.3, 0.8)), Gamma(*double(2.0, 1.0))
    bent, named = TransformedDistribution(normal, [ExpTransform()]), LogNormal(*double(0.3, 0.8))
    for divergence in (KL(), SquaredHellinger(), JensenShannon()):
        expected = float(divergence.of(p=named, q=other))
        assert expected > 0.01
        assert float(divergence.of(p=bent, q=other)) == pytest.approx(expected, rel=1e-8)
    squeezed = TransformedDistribution(normal, [SigmoidTransform()])
    flat = TransformedDistribution(Uniform(*double(0.0, 1.0)), [SigmoidTransform().inv])
    assert float(KL().of(p=squeezed, q=Uniform(*double(0.0, 1.0)))) == pytest.approx(
        float(KL().of(p=normal, q=flat)), rel=1e-7
    )


def test_relaxed_and_other_distributions_without_a_mean_are_drawn_from():
    """A concrete variable is a logistic one beneath; the angle of a 2 × 2 correlation is a Beta."""
    torch.manual_seed(0)
    heat, p, q = (torch.tensor(one, dtype=torch.float64) for one in (0.1, 0.3, 0.6))
    v = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    one, other = (
        torch.nn.functional.logsigmoid(v - at) + torch.nn.functional.logsigmoid(at - v)
        for at in (p.logit(), q.logit())
    )
    kl = float(torch.trapezoid(one.exp() * (one - other), v))
    eta = [torch.tensor(one, dtype=torch.float64) for one in (1.0, 3.0)]
    for pair, true in (
        ([RelaxedBernoulli(heat, probs=one) for one in (p, q)], kl),
        ([RelaxedOneHotCategorical(heat, probs=torch.stack([one, 1 - one])) for one in (p, q)], kl),
        (
            [LKJCholesky(2, one) for one in eta],
            float(kl_divergence(*(Beta(one, one) for one in eta))),
        ),
    ):
        found = KL().of(*pair)
        assert (
            found.method == "Monte Carlo"
            and 0 < float(found.error) < 0.02
            and abs(float(found) - true) < 3 * float(found.error)
        )


def test_symmetric_relations():
    p, q = Normal(*double(0.0, 1.0)), mixture([0.4, 0.6], [-1.0, 2.0], [0.5, 1.0])
    assert float(ReverseKL().of(p=p, q=q)) == pytest.approx(float(KL().of(p=q, q=p)), rel=1e-10)
    assert float(Neyman().of(p=q, q=p)) == pytest.approx(float(Pearson().of(p=p, q=q)), rel=1e-10)
    both = float(KL().of(p=p, q=q)) + float(ReverseKL().of(p=p, q=q))
    assert float(Jeffreys().of(p=p, q=q)) == pytest.approx(both, rel=1e-10)
    assert float(Alpha(0.3).of(p=p, q=q)) == pytest.approx(
        float(Alpha(0.7).of(p=q, q=p)), rel=1e-10
    )
    for divergence in [JensenShannon(), GAN(), SquaredHellinger(), TotalVariation(), Jeffreys()]:
        assert float(divergence.of(p=p, q=q)) == pytest.approx(
            float(divergence.of(p=q, q=p)), rel=1e-8
        )
    assert float(GAN().of(p=p, q=q)) == pytest.approx(float(JensenShannon().of(p=p, q=q)), rel=1e-9)
    assert float(JensenShannon().of(p=p, q=q)) < 2 * math.log(2)
    m = MixtureSameFamily(
        Categorical(*double([0.5, 0.2, 0.3])), Normal(*double([0.0, -1.0, 2.0], [1.0, 0.5, 1.0]))
    )
    halves = float(KL().of(p=p, q=m)) + float(KL().of(p=q, q=m))
    assert float(JensenShannon().of(p=p, q=q)) == pytest.approx(halves, rel=1e-9)


def test_of_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="one space"):
        KL().of(p=Normal(0.0, 1.0), q=MultivariateNormal(torch.zeros(2), torch.eye(2)))
    for samples, said in (
        (2, "samples=2: .* give an integer"),
        (100.0, "100.0"),
        ("many", "many"),
    ):  # of the last two the checker's
        with pytest.raises((ValueError, TypeError), match=said):
            KL().of(p=Normal(0.0, 1.0), q=Normal(0.0, 1.0), samples=samples)
    with pytest.raises(ValueError, match="same alphabet"):
        JensenShannon().of(p=Categorical(torch.ones(2)), q=Categorical(torch.ones(3)))
    with pytest.raises(ValueError, match="alpha="):
        Alpha(math.inf)
    with pytest.raises(NotImplementedError, match="must define generator"):
        FDivergence().generator(torch.ones(1))


# ---- variational bounds ------------------------------------------------------------------------


def test_donsker_varadhan_is_the_tight_bound_of_kl():
    torch.manual_seed(0)
    data, model = torch.randn(500).double() + 0.7, torch.randn(400).double()
    donsker_varadhan = data.mean() - model.exp().mean().log()
    torch.testing.assert_close(tight_bound(KL(), data=data, model=model), donsker_varadhan)
    assert fenchel_bound(KL(), data=data, model=model) < donsker_varadhan
    x, y = data.clone().requires_grad_(), data.clone().requires_grad_()
    ours = torch.autograd.grad(tight_bound(KL(), data=x, model=model), x)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(y.mean() - model.exp().mean().log(), y)[0])


@pytest.mark.parametrize("divergence", [*EXACT, TotalVariation(), LeCam()], ids=repr)
def test_tight_bound_lies_between_fenchel_and_the_divergence(divergence):
    torch.manual_seed(1)
    p, q = torch.rand(2, 8).double().softmax(1)
    model = torch.arange(8).repeat(20)
    q = torch.full_like(q, 1 / 8)  # expectations under the model are then plain means
    value = divergence.perspective(p.log(), q.log()).sum()
    best = (p / q).log()
    rows = torch.multinomial(p, 400, replacement=True, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(rows, minlength=8).double() / 400
    exact = divergence.perspective(counts.log(), q.log()).sum()
    for critic in (best, best + 0.5, 0.5 * best, torch.zeros(8).double()):
        loose = fenchel_bound(divergence, data=critic[rows], model=critic[model])
        tight = tight_bound(divergence, data=critic[rows], model=critic[model])
        assert loose <= tight + 1e-12 and tight <= exact + 1e-9
    if not isinstance(divergence, TotalVariation):
        at_best = (counts / q).log()
        torch.testing.assert_close(
            fenchel_bound(divergence, data=at_best[rows], model=at_best[model]), exact
        )
    assert value > 0


@pytest.mark.parametrize("divergence", [*EXACT, TotalVariation(), LeCam()], ids=repr)
def test_tight_bound_is_found_for_a_critic_that_is_far_off(divergence):
    torch.manual_seed(0)
    data, model = 2 * torch.randn(2000).double(), 2 * torch.randn(2000).double() - 1
    tight, loose = (
        tight_bound(divergence, data=data, model=model),
        fenchel_bound(divergence, data=data, model=model),
    )
    assert bool(tight.isfinite()) and tight >= loose - 1e-12 * loose.abs()


# ---- surrogate losses --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", SURROGATES, ids=repr)
def test_margin_losses_induce_their_divergences(loss):
    named, factor = loss.induces()
    u = torch.linspace(-4, 4, 33, dtype=torch.float64).exp()
    torch.testing.assert_close(
        loss.generator(u), factor * named.generator(u), rtol=1e-9, atol=1e-12
    )
    expected = {HingeLoss: (u - 1).abs(), ExponentialLoss: (u.sqrt() - 1) ** 2, LeastSquaresLoss: (u - 1) ** 2 / (u + 1),
                LogisticLoss: u * u.log() - (u + 1) * ((u + 1) / 2).log()}  # fmt: skip
    torch.testing.assert_close(loss.generator(u), expected[type(loss)], rtol=1e-9, atol=1e-12)
    p, q = torch.rand(2, 5, generator=torch.Generator().manual_seed(0)).double().softmax(1)
    best = (loss.activation(torch.zeros(1)) * 0).squeeze() + loss._best_margin(p / q)
    risk = (p * loss.loss(best) + q * loss.loss(-best)).sum()
    reached = factor * named.perspective(p.log(), q.log()).sum()
    torch.testing.assert_close(2 * loss.loss(torch.zeros(()).double()) - risk, reached)


def test_best_margins():
    u = torch.tensor([0.1, 0.5, 2.0, 9.0], dtype=torch.float64)
    torch.testing.assert_close(ExponentialLoss()._best_margin(u), u.log() / 2)
    torch.testing.assert_close(LogisticLoss()._best_margin(u), u.log())
    torch.testing.assert_close(LeastSquaresLoss()._best_margin(u), (u - 1) / (u + 1))
    torch.testing.assert_close(HingeLoss()._best_margin(u), (u - 1).sign())


def test_the_hinge_critic_is_the_total_variation_critic():
    v = torch.linspace(
        -1, 1, 21, dtype=torch.float64
    )  # where the hinge is not flat, its bound is 2 TV's
    torch.testing.assert_close(HingeLoss().activation(v), v)
    torch.testing.assert_close(
        HingeLoss().conjugate_of_activation(v), 2 * TotalVariation().conjugate(v / 2)
    )
    w = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(1 - HingeLoss().activation(w), (1 - w).relu())
    torch.testing.assert_close(1 + HingeLoss().conjugate_of_activation(w), (1 + w).relu())


def test_every_symmetric_divergence_has_a_family_of_losses():
    u = torch.linspace(-3, 3, 13, dtype=torch.float64).exp()
    m = torch.linspace(-3, 3, 25, dtype=torch.float64)
    for divergence in [SquaredHellinger(), JensenShannon(), TriangularDiscrimination(), Jeffreys()]:
        for link in (torch.clone, torch.expm1, lambda x: x + x**2):
            if divergence == Jeffreys():
                continue  # f(0) = ∞: its losses are not bounded below
            loss = LossOfDivergence(divergence, link)
            torch.testing.assert_close(
                loss.generator(u), divergence.generator(u), rtol=1e-8, atol=1e-10
            )
    exponential = LossOfDivergence(SquaredHellinger(), torch.expm1)
    torch.testing.assert_close(exponential.loss(m), (-m).exp())
    logistic = LossOfDivergence(
        JensenShannon(), lambda x: torch.nn.functional.softplus(x) - math.log(2)
    )
    torch.testing.assert_close(
        logistic.loss(m), torch.nn.functional.softplus(-m), rtol=1e-7, atol=1e-9
    )
    hinge = LossOfDivergence(TotalVariation(), lambda x: x / 2)
    torch.testing.assert_close(hinge.loss(m), (1 - m).relu() / 2)
    tilted = LossOfDivergence(
        GAN()
    )  # f(u) = u f(1/u) up to a multiple of u − 1, which no divergence sees
    torch.testing.assert_close(
        tilted.generator(u), JensenShannon().generator(u), rtol=1e-8, atol=1e-10
    )
    t = torch.linspace(-3, 0.6, 13, dtype=torch.float64)
    torch.testing.assert_close(tilted.conjugate(t), JensenShannon().conjugate(t))


@pytest.mark.parametrize(
    ("divergence", "link", "match"),
    [(KL(), torch.clone, "not symmetric"), (Jeffreys(), torch.clone, "infinity"), (SquaredHellinger(), torch.exp, "0 at 0"),
     (SquaredHellinger(), torch.neg, "0 at 0"), (SquaredHellinger(), "exp", "function|Callable"),
     ("kl", torch.clone, "f-divergence|FDivergence")],
)  # fmt: skip
def test_a_family_of_losses_refuses_what_has_none(divergence, link, match):
    with pytest.raises(Exception, match=match):  # ours, or the type checker's that tests run under
        LossOfDivergence(divergence, link)


def test_a_loss_with_a_slow_tail_has_margins_without_bound():
    class Slow(MarginLoss):
        """√(1+m²) − m ↔ the squared Hellinger distance: its best margin is sinh of half the log density ratio."""

        def loss(self, margin):
            root = (1 + margin.square()).sqrt()
            return torch.where(
                margin > 0, 1 / (root + margin.clamp_min(0)), root - margin.clamp_max(0)
            )

    v = torch.linspace(-60, 60, 13, dtype=torch.float64)
    torch.testing.assert_close(
        Slow().generator(v.exp()), SquaredHellinger().generator(v.exp()), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(
        Slow().derivative(v.exp()), SquaredHellinger().derivative(v.exp()), rtol=1e-9, atol=1e-12
    )
    (p, q) = double([0.0, 0.2, 0.5, 0.3], [0.1, 0.9, 1e-80, 0.0])
    value = Slow().perspective(p.log().clamp_min(-1e300), q.log().clamp_min(-1e300)).sum()
    torch.testing.assert_close(value, (p.sqrt() - q.sqrt()).square().sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "divergence", [JensenShannon(), KL(), Jeffreys(), TotalVariation(), LeCam()], ids=repr
)
def test_roth_penalty_is_noise_on_both_sides_for_any_f(divergence):
    from emgen.objectives.penalties import RothPenalty

    slope, x = 0.7, torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    critic = lambda rows: slope * rows.squeeze(-1) + 0.2
    omega = RothPenalty(weight=2.0, annealing=0.25)(critic, x, x, divergence, 0.5)
    v = critic(x)
    t = divergence.derivative(v.exp()).requires_grad_()
    (first,) = torch.autograd.grad(divergence.conjugate(t).sum(), t, create_graph=True)
    second = torch.autograd.grad(first.sum(), t)[0] if first.requires_grad else torch.zeros_like(t)
    w = v.clone().requires_grad_()
    (steep,) = torch.autograd.grad(divergence.derivative(w.exp()).sum(), w)
    expected = (second * (steep * slope).square()).mean()
    torch.testing.assert_close(omega.parts["penalty"], expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(
        omega.loss, 0.5 * expected, rtol=1e-6, atol=1e-12
    )  # γ = 2 · √.25, halved
