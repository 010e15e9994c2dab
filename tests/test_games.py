"""What a game between a critic and its players descends, exactly: on tables, for every f."""

import pytest
import torch

from emgen import divergences
from emgen.divergences import (
    GAN,
    KL,
    Alpha,
    FDivergence,
    JensenShannon,
    LossOfDivergence,
    MarginLoss,
    PaperActivation,
    ReverseKL,
    TotalVariation,
)
from emgen.divergences.adjoint import Adjoint, adjoint
from emgen.divergences.base import NonSaturating, heavy_tails
from emgen.testing import check_divergence

ABSTRACT = (FDivergence, MarginLoss, PaperActivation, LossOfDivergence)
EXPORTED = [getattr(divergences, name) for name in divergences.__all__]
NAMED = [
    d()
    for d in EXPORTED
    if isinstance(d, type) and issubclass(d, FDivergence) and d not in ABSTRACT
]
SMOOTH = [d for d in NAMED if not isinstance(d, MarginLoss | TotalVariation)]
SMOOTH += [Alpha(-1.0), Alpha(0.0), Alpha(1.0), Alpha(2.0), PaperActivation(KL())]
LOG_RATIO = [d for d in SMOOTH if not isinstance(d, PaperActivation)]


class LeCam(FDivergence):
    def generator(self, u):
        return (u - 1) ** 2 / (u + 1)


def second(function, u):
    u = u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(u).sum(), u, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), u)
    return bend


@pytest.fixture
def tables():
    """A data table, and the logits of a model over the same seven outcomes."""
    rng = torch.Generator().manual_seed(0)
    p, logits = torch.randn(2, 7, generator=rng, dtype=torch.float64)
    return p.softmax(0), logits


def gradient(value_of, logits):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(value_of(logits.softmax(0)), logits)[0]


def value(divergence, p, q):
    return (q * divergence.generator(p / q)).sum()


# ---- what the non-saturating game descends ---------------------------------------------------------


@pytest.mark.parametrize("f", [*SMOOTH, LeCam()], ids=repr)
def test_its_curvature_is_that_of_f_over_u(f):
    u = torch.logspace(-1.5, 1.5, 31, dtype=torch.float64)
    torch.testing.assert_close(
        second(f.non_saturating().generator, u), second(f.generator, u) / u, rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("f", [*NAMED, *SMOOTH, LeCam()], ids=repr)
def test_the_non_saturating_game_at_the_best_critic_has_its_gradient(f, tables):
    """−E_q[f′(p/q)] with the critic held still, against D_h: total variation and the hinge too."""
    p, logits = tables
    price = f.derivative(p / logits.softmax(0))
    game = gradient(lambda q: -(q * price).sum(), logits)
    descent = gradient(lambda q: value(f.non_saturating(), p, q), logits)
    torch.testing.assert_close(game, descent, rtol=1e-9, atol=1e-11)
    assert descent.abs().max() > 1e-2


@pytest.mark.parametrize("f", LOG_RATIO, ids=repr)
def test_a_custom_f_has_by_quadrature_what_the_named_have_in_closed_form(f, tables):
    p, logits = tables
    named, found = f.non_saturating(), NonSaturating(f)
    q = logits.softmax(0)
    torch.testing.assert_close(value(found, p, q), value(named, p, q), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "h",
    [
        ReverseKL() - JensenShannon(),
        NonSaturating(LeCam()),
        NonSaturating(JensenShannon()),
        Adjoint(KL()),
    ],
    ids=str,
)
def test_it_is_a_divergence_with_all_its_laws(h):
    check_divergence(h)


def test_what_it_is_called():
    said = {str(f): str(f.non_saturating()) for f in NAMED}
    assert said["KL"] == "reverse KL"
    assert said["GAN"] == said["Jensen-Shannon"] == "reverse KL - Jensen-Shannon"
    assert said["Pearson"] == "2 KL"
    assert said["reverse KL"] == "0.5 Neyman"
    assert said["hinge loss"] == "2 total variation"
    assert Alpha(0.25).non_saturating() == Alpha(-0.75)
    assert heavy_tails(ReverseKL().non_saturating()) and not heavy_tails(GAN().non_saturating())


# ---- the data side ---------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [*LOG_RATIO, LeCam()], ids=repr)
def test_the_adjoint_exchanges_the_sides(f, tables):
    p, logits = tables
    q = logits.softmax(0)
    torch.testing.assert_close(value(adjoint(f), p, q), value(f, q, p), rtol=1e-12, atol=1e-13)
    v = torch.linspace(-3, 3, 13, dtype=torch.float64)
    prices = Adjoint(f).derivative((-v).exp())
    torch.testing.assert_close(prices, -f.conjugate_of_activation(v), rtol=1e-9, atol=1e-12)
