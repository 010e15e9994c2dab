"""The line from VAE to GAN: one schedule over a table of terms, who descends what (level 8)."""

__all__ = ["Line"]

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from emgen.divergences import GAN
from emgen.objectives.adversarial import Adversarial
from emgen.objectives.base import Terms
from emgen.objectives.draws import Draws
from emgen.objectives.matching import BOTH, GAMES, LIKELIHOODS, likelihood_term
from emgen.objectives.penalties import GradientPenalty
from emgen.roles import Latent, Recognition
from emgen.trainers.base import OptimizerFactory, Trainer

Plays = Mapping[str, Mapping[str, float]]

LINE: Plays = {
    "critic": {"x": 1.0},
    "model": {"likelihood": 0.05, "x": 1.0},
    "recognition": {"likelihood": 1.0, "kl": 1.0},
}
TURNS = (("critic",), ("model", "recognition"))


class Line(Trainer):
    """q(x,z) = p̂(x) q(z|x) and p(x,z) are matched through a table: player → term → weight.

        for x in data, for each turn:
            ẑ ~ q(z|x),  x̂ ~ p(x|ẑ);   z ~ p(z),  x̃ ~ p(x|z)         each drawn once, as asked for
            ψ ← ψ + η ∇ Σ_t critic[t] bound_t                        those of the turn move at once
            θ ← θ − η ∇ Σ_t model[t] L_t
            φ ← φ − η ∇ Σ_t recognition[t] L_t

    | term       | loss                          | game        | P \\| Q                          |
    |---|---|---|---|
    | likelihood | −E_q log p(x\\|ẑ)             | x           | x \\| x̃                          |
    | kl         | KL(q(z\\|x) ‖ p(z))           | rebuilt     | x \\| x̂                          |
    | prior      | −E_q log p(ẑ)                 | z           | z \\| ẑ                          |
    | sleep      | −E_p log q(z\\|x̃)             | xz          | (x, ẑ) \\| (x̃, z)                |
    | square     | E ‖x̂ − x‖²                    | posterior   | (x, ẑ) \\| (x, z)                |
    | features   | E ½ ‖D_l(x̂) − D_l(x)‖²        | manifold, diffusion | x \\| x̂ and x̂ \\| x̃      |

    The VAE, wake-sleep, the GAN, AAE, ALI, AVB, VAE-GAN, α-GAN and mode-regularised GANs are rows
    of it, options of `configs/trainer`; what the table cannot say is a trainer of its own. A game
    of x sees rows as stored (grey) and decoder means, all other terms see rows as observed.

    Args:
        model: p(z) p(x|z) that carries its `recognition` network q(z|x).
        critic: shape → network of log ratios, called once for each critic that is played, with the
            shape of x, or with ((latent,),) and (shape of x, (latent,)) for those that see z; or
            an `nn.ModuleDict` of them by name. None where no game is played.
        plays: the table; a term of weight 0 is no term, and a critic that nobody plays is none.
        turns: who moves when; the players of a turn move at once.
        balance: weight of `likelihood` in the model's descent, whatever the table says: 0 leaves
            the games alone, inf the likelihood alone; None leaves the table as it is.
        divergence, non_saturating, surrogate, penalty: of every game, see
            `emgen.objectives.Adversarial`.
        games: the `Adversarial` of a game that is not like the others, by its name.
        critic_steps: of the critic, in a turn of its own.
        optimizer: parameters → optimiser, one for each player.
        critic_optimizer, recognition_optimizer: the same of these players; None for `optimizer`.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.

    Raises:
        ValueError: an unknown player or term, a weight that is negative or not finite, a game whose
            critic nobody teaches, a player who never has a turn; names it.
        TypeError: games are played and there is no critic.

    References:
        Hu, Yang, Salakhutdinov and Xing (2018), "On unifying deep generative models"; the rows name
        theirs.
    """

    requires = (Latent, Recognition)

    def __init__(
        self,
        model: nn.Module,
        critic: Any = None,
        plays: Plays = LINE,
        turns: Sequence[Sequence[str]] = TURNS,
        balance: float | None = None,
        divergence: Any = GAN(),
        non_saturating: bool = True,
        surrogate: Any = None,
        penalty: Any = GradientPenalty(),
        games: Mapping[str, Any] = MappingProxyType({}),
        critic_steps: int = 1,
        optimizer: OptimizerFactory = partial(Adam, lr=5e-4, betas=(0.5, 0.999), fused=True),
        critic_optimizer: OptimizerFactory | None = partial(
            Adam, lr=1e-3, betas=(0.5, 0.999), fused=True
        ),
        recognition_optimizer: OptimizerFactory | None = None,
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
    ):
        if critic_steps < 1:
            raise ValueError(
                f"critic_steps={critic_steps}: the critic takes at least one step a turn; give an"
                " integer >= 1."
            )
        plays = played(balanced(plays, balance))
        optimizers = {
            "critic": critic_optimizer or optimizer,
            "model": optimizer,
            "recognition": recognition_optimizer or optimizer,
        }
        super().__init__(
            model,
            critic=critics(critic, plays["critic"], model),
            optimizers={player: optimizers[player] for player in optimizers if plays[player]},
            clip=clip,
            scheduler=scheduler,
        )
        usual = Adversarial(divergence, non_saturating, penalty, surrogate)
        _refuse_unknown(games, GAMES, "games")
        self.games = {name: games.get(name, usual) for name in GAMES}
        self.plays, self.turns = plays, turns_of(turns, plays)
        self.critic_steps = critic_steps
        seen = {*plays["critic"], *plays["model"], *plays["recognition"]} & set(GAMES)
        self.sees_grey = bool(seen - {"z", "posterior"})
        self.shares_pass = self._one_loss_serves_both()

    def training_step(self, batch: Any, index: int) -> None:
        x = self.grey(batch) if self.sees_grey else self.observe(batch)
        for players in self.turns:
            for _ in range(self.critic_steps if players == ("critic",) else 1):
                draws = Draws(self.model, self.recognition, x, players)
                self.descend(self._losses(players, draws))

    def _losses(self, players: tuple[str, ...], draws: Draws) -> dict[Any, Terms]:
        """What each player of a turn descends; model and recognition share one backward pass where
        they can.
        """
        losses: dict[Any, Terms] = {}
        if "critic" in players:
            bounds = {name: self._bound(name, draws) for name in self.plays["critic"]}
            losses["critic"] = weighted(bounds, self.plays["critic"])

        movers = [player for player in players if player != "critic"]
        asked = {name: weight for player in movers for name, weight in self.plays[player].items()}
        terms = {name: self._term(name, draws) for name in asked}
        if len(movers) == 2 and self.shares_pass:
            losses[BOTH] = weighted(terms, asked)
        else:
            losses |= {player: weighted(terms, self.plays[player]) for player in movers}
        return losses

    def _bound(self, name: str, draws: Draws) -> Terms:
        """The critic's side of a game."""
        view = GAMES[name]
        game, critic = self.games[name], self.critic[view.critic]
        bound = game.critic(critic, view.data(draws), view.samples(draws), self.progress)
        return self._called(bound, name)

    def _term(self, name: str, draws: Draws) -> Terms:
        """A likelihood term, or the players' side of a game."""
        if name in LIKELIHOODS:
            return likelihood_term(name, draws, self.critic)
        view = GAMES[name]
        critic = self.critic[view.critic]
        game = self.games[name].players(critic, view.data(draws), view.samples(draws))
        return self._called(game, name)

    def _called(self, terms: Terms, name: str) -> Terms:
        """Parts bear the name of their game where there are several."""
        games = {name for terms in self.plays.values() for name in terms if name in GAMES}
        if len(games) == 1:
            return terms
        return terms.renamed(**{part: f"{part}_{name}" for part in terms.parts})

    def _one_loss_serves_both(self) -> bool:
        """Whether each term has, in the table of every player that it depends on, the same weight:
        then one backward pass serves model and recognition.
        """
        model, recognition = self.plays["model"], self.plays["recognition"]
        learnt = has_learnt_prior(self.model)
        return all(
            self.plays[player].get(name) == weight
            for name, weight in {**model, **recognition}.items()
            for player in reached(name, learnt)
        )

    @property
    def descends(self) -> dict[str, str]:
        return {
            player: " + ".join(self._said(name, weight, player) for name, weight in terms.items())
            for player, terms in self.plays.items()
            if terms and player != "critic"
        }

    def _said(self, name: str, weight: float, player: str) -> str:
        if name in LIKELIHOODS:
            what = LIKELIHOODS[name].words
        else:
            view = GAMES[name]
            side = "data" if player in view.data_side else "samples"
            what = self.games[name].says(view.pair, side)
        return what if weight == 1 else f"{weight:g} [{what}]"


def weighted(terms: Mapping[str, Terms], weights: Mapping[str, float]) -> Terms:
    """Σ_t w_t L_t, with the evidence lower bound where both of its terms are there."""
    first, *others = (weight * terms[name] for name, weight in weights.items())
    total = sum(others, start=first)
    if {"reconstruction", "kl"} <= total.parts.keys():
        bound = total.parts["reconstruction"] - total.parts["kl"]
        total = Terms(total.loss, {**total.parts, "elbo": bound})
    return total


def balanced(plays: Plays, balance: float | None) -> Plays:
    """The table with the model's likelihood weighed against its games."""
    if balance is None:
        return plays
    if not balance >= 0:
        raise ValueError(
            f"balance={balance}: the weight of the likelihood against the games runs from 0 (a GAN)"
            " to inf (a VAE)."
        )
    model = dict(plays.get("model", {}))
    if math.isinf(balance):
        model = {name: weight for name, weight in model.items() if name not in GAMES}
    return {**plays, "model": {**model, "likelihood": 1.0 if math.isinf(balance) else balance}}


def played(plays: Plays) -> dict[str, dict[str, float]]:
    """The table checked, without what has no weight and without critics that nobody plays."""
    _refuse_unknown(plays, ("critic", *BOTH), "plays")
    table: dict[str, dict[str, float]] = {}
    for player in ("critic", *BOTH):
        terms = plays.get(player) or {}
        _refuse_unknown(terms, GAMES if player == "critic" else (*LIKELIHOODS, *GAMES), player)
        for name, weight in terms.items():
            if not 0 <= weight < math.inf:
                raise ValueError(
                    f"plays.{player}.{name}={weight}: a weight is finite and not negative; 0 leaves"
                    " the term out."
                )
        table[player] = {name: float(weight) for name, weight in terms.items() if weight > 0}

    asked = {*table["model"], *table["recognition"]}
    needed = {GAMES[name].critic for name in asked & set(GAMES)}
    needed |= {"x"} if "features" in asked else set()
    taught = {GAMES[name].critic for name in table["critic"]}
    if needed - taught:
        raise ValueError(
            f"nobody teaches the critic of {sorted(needed - taught)}, which is played: give"
            f" plays.critic one of its games, such as {sorted(needed - taught)[0]}: 1."
        )
    for player in BOTH:
        for name in table[player]:
            if player not in reached(name, learnt=True):
                raise ValueError(
                    f"plays.{player}.{name}: nothing of the {player} is in this term; leave it out."
                )
    table["critic"] = {
        name: weight for name, weight in table["critic"].items() if GAMES[name].critic in needed
    }
    return table


def reached(name: str, learnt: bool) -> set[str]:
    """The players that a term depends on, given whether the prior is learnt."""
    if name in LIKELIHOODS:
        term = LIKELIHOODS[name]
        return {*term.reaches, *(("model",) if term.prior and learnt else ())}
    view = GAMES[name]
    players = {*view.data_side, *view.sample_side}
    return players if learnt or name not in ("z", "posterior") else players - {"model"}


def has_learnt_prior(model: Any) -> bool:
    """Whether p(z) depends on the model's parameters."""
    with torch.random.fork_rng():
        prior = model.prior()
        return bool(prior.log_prob(prior.sample((1,))).requires_grad)


def turns_of(turns: Sequence[Sequence[str]], plays: Plays) -> tuple[tuple[str, ...], ...]:
    """The turns of those who have something to descend."""
    named = [player for players in turns for player in players]
    _refuse_unknown(dict.fromkeys(named), ("critic", *BOTH), "turns")
    idle = [player for player in plays if plays[player] and player not in named]
    if idle:
        raise ValueError(
            f"turns={[list(players) for players in turns]} leave out the {idle[0]}, who has terms to"
            " descend: give everyone a turn."
        )
    moving = (tuple(player for player in players if plays[player]) for players in turns)
    return tuple(players for players in moving if players)


def critics(given: Any, taught: Mapping[str, float], model: Any) -> nn.ModuleDict | None:
    """One network for each critic that is taught, by its name."""
    views = {GAMES[name].critic: GAMES[name].sees for name in taught}
    if not views:
        return None
    if given is None:
        raise TypeError(
            f"the games {', '.join(taught)} need critic=..., what makes a network of log ratios"
            " from the shape of what it sees, such as emgen.models.dense_critic."
        )
    if isinstance(given, nn.ModuleDict):
        _refuse_missing(views, given)
        return given
    if isinstance(given, nn.Module):
        if len(views) > 1:
            raise TypeError(
                f"one critic is given and {', '.join(views)} are played: give what makes them, such"
                " as emgen.models.dense_critic, or an nn.ModuleDict of these names."
            )
        return nn.ModuleDict({next(iter(views)): given})
    with torch.no_grad(), torch.random.fork_rng():
        z = model.prior().sample((1,))
        shapes = {"x": tuple(model.likelihood(z).event_shape)}
    if any("z" in sees for sees in views.values()):
        if not isinstance(z, Tensor):
            raise TypeError(
                f"the latents of {type(model).__name__} are layered, and a critic of codes takes one"
                " vector: play games of x alone, or use a model of one layer."
            )
        shapes["z"] = tuple(z.shape[1:])
    made = {}
    for name, sees in views.items():
        parts = tuple(shapes[part] for part in sees)
        made[name] = given(shapes["x"] if sees == ("x",) else parts)
    return nn.ModuleDict(made)


def _refuse_missing(views: Mapping[str, Any], given: nn.ModuleDict) -> None:
    missing = [name for name in views if name not in given]
    if missing:
        raise TypeError(
            f"the critics given are {', '.join(given)}, and {', '.join(missing)} is played: add a"
            " network of that name."
        )


def _refuse_unknown(names: Any, known: Any, where: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: there is no {name!r}; there are {', '.join(known)}.")
