"""The terms by which q(x,z) and p(x,z) are matched: likelihoods, and games seen through a view."""

__all__ = ["GAMES", "LIKELIHOODS", "View", "likelihood_term"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from emgen.objectives.base import Terms
from emgen.objectives.draws import Draws, beside
from emgen.objectives.free_energy import kl_term
from emgen.objectives.wake_sleep import Sleep


@dataclass(frozen=True)
class View:
    """A pair of distributions, P | Q, that one critic tells apart.

    Attributes:
        critic: its name; games may share one.
        sees: what the critic is shown, of x and z.
        data, samples: the draws of P and of Q.
        data_side, sample_side: which players these depend on.
        pair: P | Q, in words.
    """

    critic: str
    sees: tuple[str, ...]
    data: Callable[[Draws], Tensor]
    samples: Callable[[Draws], Tensor]
    data_side: tuple[str, ...]
    sample_side: tuple[str, ...]
    pair: str


BOTH = ("model", "recognition")

REBUILT = View(
    critic="x",
    sees=("x",),
    data=lambda d: d.x,
    samples=lambda d: d.rebuilt,
    data_side=(),
    sample_side=BOTH,
    pair="data | reconstructions",
)

GAMES: dict[str, View] = {
    # GAN
    "x": View(
        critic="x",
        sees=("x",),
        data=lambda d: d.x,
        samples=lambda d: d.dream,
        data_side=(),
        sample_side=("model",),
        pair="data | dreams",
    ),
    # VAE-GAN, alpha-GAN, the mode regulariser
    "rebuilt": REBUILT,
    # adversarial autoencoder: the prior plays what is real
    "z": View(
        critic="z",
        sees=("z",),
        data=lambda d: d.z,
        samples=lambda d: d.code,
        data_side=("model",),
        sample_side=("recognition",),
        pair="prior draws | codes",
    ),
    # ALI, BiGAN
    "xz": View(
        critic="xz",
        sees=("x", "z"),
        data=lambda d: beside(d.x, d.code),
        samples=lambda d: beside(d.dream, d.z),
        data_side=("recognition",),
        sample_side=("model",),
        pair="(data, codes) | (dreams, prior draws)",
    ),
    # adversarial variational Bayes: q(z|x) against p(z), for each x
    "posterior": View(
        critic="posterior",
        sees=("x", "z"),
        data=lambda d: beside(d.x, d.code),
        samples=lambda d: beside(d.x, d.z),
        data_side=("recognition",),
        sample_side=("model",),
        pair="(data, codes) | (data, prior draws)",
    ),
    # MDGAN's two steps
    "manifold": replace(REBUILT, critic="manifold"),
    "diffusion": View(
        critic="diffusion",
        sees=("x",),
        data=lambda d: d.rebuilt.detach(),
        samples=lambda d: d.dream,
        data_side=(),
        sample_side=("model",),
        pair="reconstructions | dreams",
    ),
}


@dataclass(frozen=True)
class Likelihood:
    """A term without a critic of its own.

    Attributes:
        of: its value over the draws of a step.
        reaches: the players in it; a learnt prior is in what names the prior too.
        prior: whether it names the prior.
        words: what it is, for tables.
    """

    of: Callable[[Draws, Any], Terms]
    reaches: tuple[str, ...]
    prior: bool
    words: str


def _reconstruction(draws: Draws, critics: Any) -> Terms:
    value = draws.p.log_prob(draws.x).mean()
    return Terms(-value, {"reconstruction": value})


def _kl(draws: Draws, critics: Any) -> Terms:
    value = kl_term(draws.q, draws.prior, lambda: draws.code).mean()
    return Terms(value, {"kl": value})


def _prior(draws: Draws, critics: Any) -> Terms:
    value = draws.prior.log_prob(draws.code).mean()
    return Terms(-value, {"log_prior": value})


def _square(draws: Draws, critics: Any) -> Terms:
    value = (draws.rebuilt - draws.x).flatten(1).square().sum(1).mean()
    return Terms(value, {"square": value})


def _features(draws: Draws, critics: Any) -> Terms:
    network = critics["x"].network
    apart = network(draws.rebuilt) - network(draws.x)
    value = apart.square().sum(-1).mean() / 2
    return Terms(value, {"features": value})


def _sleep(draws: Draws, critics: Any) -> Terms:
    return Sleep()(draws.model, draws.recognition, len(draws.x))


LIKELIHOODS: dict[str, Likelihood] = {
    "likelihood": Likelihood(_reconstruction, BOTH, False, "-E_q log p(x|z)"),
    "kl": Likelihood(_kl, ("recognition",), True, "KL(q(z|x) to p(z))"),
    "prior": Likelihood(_prior, ("recognition",), True, "-E_q log p(z)"),
    "sleep": Likelihood(_sleep, ("recognition",), False, "-E_p log q(z|x)"),
    "square": Likelihood(_square, BOTH, False, "squared error of x"),
    "features": Likelihood(_features, BOTH, False, "squared error in the critic's features"),
}


def likelihood_term(name: str, draws: Draws, critics: Any) -> Terms:
    """A term of `LIKELIHOODS` over the draws of a step: its loss, and a part of its own name.

        likelihood −E_q log p(x|ẑ)      kl KL(q(z|x) ‖ p(z))      prior −E_q log p(ẑ)
        sleep −E_p log q(z|x̃)           square E ‖x̂ − x‖²         features E ½ ‖D_l(x̂) − D_l(x)‖²

    with D_l the last hidden layer of the critic of x.
    """
    return LIKELIHOODS[name].of(draws, critics)
