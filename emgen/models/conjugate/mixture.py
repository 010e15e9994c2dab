"""Mixtures of any exponential family."""

__all__ = ["Mixture", "Responsibilities", "largest"]

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, MixtureSameFamily

from emgen.families import Choice, Family, prefixed
from emgen.families.base import pieces, round_off, total
from emgen.models.conjugate.base import ConjugateModel
from emgen.models.conjugate.empty_components import Relocation
from emgen.models.conjugate.seeding import START_NAMES, partitioned


class Mixture(ConjugateModel):
    """p(x) = Σ_k π_k p(x|θ_k) for any family of components.

    Restarts are a tensor dimension: R of them are R·K components whose responsibilities are
    normalised in groups of K. Densities and draws are the best one's; `select()`, called when the
    fit is done, keeps it alone.

    Args:
        weights: prior over π; with concentration ∞ the weights are fixed.
        components: prior over the K components' parameters.
        start: `kmeans++`, `rows`, `random`, or explicit values by name: `weights` and the buffers
            of the components.
        n_init: R, how many starts are run side by side.

    Raises:
        ValueError: an unknown start, or n_init < 1.
    """

    rows = 8192

    weights: Any
    components: Any
    best: Tensor

    def __init__(
        self,
        weights: Family,
        components: Family,
        start: str | Mapping[str, Any] = "kmeans++",
        n_init: int = 1,
    ):
        if isinstance(start, str) and start not in START_NAMES:
            raise ValueError(
                f"start={start!r} is not one of {', '.join(START_NAMES)}, nor a mapping of values"
                " by name"
            )
        if n_init < 1:
            raise ValueError(f"n_init={n_init}: at least one start is needed")
        if n_init > 1:
            weights = _each(weights, lambda v: v.expand(n_init, *v.shape).clone())
            components = _each(components, lambda v: v.repeat(n_init, *[1] * (v.ndim - 1)))
        super().__init__({"weights": weights, "components": components})
        self.n_init = n_init
        self.how = start if isinstance(start, str) else "explicit"
        self.register_buffer("best", torch.tensor(0))
        self.relocation = (
            self._relocation() if components.is_flat and components.holds_one_row else None
        )
        if not isinstance(start, str):
            self.put(**start)

    # --- the three verbs -------------------------------------------------------------------------

    def posterior(self, x: Tensor) -> "Responsibilities":
        return Responsibilities(self._scores(x))

    def statistics(
        self, x: Tensor, z: "Responsibilities", weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        dtype, shape = self.weights.mean.dtype, self.weights.mean.shape
        weight = None if weight is None else weight.to(z.scores.dtype)
        if z.labels is None:
            sums, entropy = self._sums(x, z.probs, weight), _weighted(z.entropy, weight, dtype)
        else:
            choice = Choice(z.labels, shape.numel(), dtype, weight)
            counts = choice.counts.view(shape)
            sums, entropy = (
                _named(counts, self.components.chosen(x, choice)),
                counts.new_zeros(shape[:-1]),
            )
            if z.is_mode and self.relocation is not None:
                self.relocation.note(x, z.scores, z.labels, counts, weight)
        n = entropy.new_full((), len(x)) if weight is None else weight.sum(dtype=dtype)
        return {
            **sums,
            "n": n,
            "entropy": entropy,
            "evidence": _weighted(z.log_normaliser, weight, dtype),
        }

    def start(
        self,
        x: Tensor,
        parameters: Callable[..., Family],
        weight: Tensor | None = None,
        r: Tensor | None = None,
    ) -> None:
        """Put θ inside the belief about it, from a partition of the rows or from responsibilities r
        (N, [R,] K).
        """
        for (
            name,
            prior,
        ) in (
            self.priors.items()
        ):  # moments are taken about the data's mean while there is no better
            setattr(self, name, (prior.weak(x, weight) if prior.is_flat else prior).mode())
        shape = self.weights.mean.shape
        if r is None:
            distance = self.components.distance
            parts = partitioned(x, shape[-1], self.n_init, self.how, distance, weight)
        else:
            width = max(x[:1].numel(), shape.numel())
            parts = ((rows, r[rows]) for rows in pieces(len(x), width))

        def taken(rows: slice, r: Tensor) -> dict[str, Tensor]:
            piece, r = x[rows], r.view(-1, *shape)
            w = None if weight is None else weight[rows]
            held = r.flatten(1).amax(1) > 0  # a start may be a few rows alone
            if not bool(held.all()):
                piece, r, w = piece[held], r[held], None if w is None else w[held]
            return self._sums(piece, r, w)

        self.m_step(total(taken(*part) for part in parts), parameters)
        self.started.fill_(True)

    def m_step(self, s: dict[str, Tensor], parameters: Callable[..., Family]) -> dict[str, Tensor]:
        moved = None if self.relocation is None else self.relocation.moved(s, self.components)
        before, bound = self.theta(), None if moved is None else super().free_energy(s)["elbo"]
        done = super().m_step(s if moved is None else moved, parameters)
        # not worth it: leave them empty. Of duplicates a move changes nothing, which round-off must
        # not decide
        if (
            bound is not None
            and (
                super().free_energy(done)["elbo"] < bound - round_off(bound) - self.doubt(done)
            ).any()
        ):
            for name, belief in before.items():
                setattr(self, name, belief)
            done = super().m_step(s, parameters)
        if self.relocation is not None:
            self.relocation.forget()
        return done

    def free_energy(self, s: dict[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
        """F of the best restart and its terms, in nats per datum."""
        parts = super().free_energy(s, temperature)
        if self.n_init == 1:
            return parts
        self.best.copy_(
            parts["bound"].nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax()
        )  # NaN would be the largest
        return {name: value[self.best] for name, value in parts.items()}

    def select(self) -> None:
        """Keep the best restart alone."""
        weights, components = self._best()
        self.weights, self.components = weights, components
        self.priors["weights"] = (
            _each(self.priors["weights"], lambda v: v[0])
            if self.n_init > 1
            else self.priors["weights"]
        )
        self.priors["components"] = _each(
            self.priors["components"], lambda v: v[: len(v) // self.n_init]
        )
        self.n_init = 1
        self.best.fill_(0)
        self.relocation = None if self.relocation is None else self._relocation()

    def put(self, weights: Any = None, **values: Any) -> None:
        """Start from explicit points: `weights` (K,) and buffers of the components such as `mean`,
        broadcast to shape.
        """
        if weights is not None:
            self.weights = self.priors["weights"].given(mean=weights).mode()
        self.components = self.priors["components"].given(**values).mode()
        self.started.fill_(True)

    # --- the density -----------------------------------------------------------------------------

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) at the centre of the belief, (N,)."""
        weights, components = self._best()
        return (components.log_prob(x) + weights.mean.log()).logsumexp(-1)

    def prior(self) -> CategoricalDistribution:
        """p(z), the weights."""
        return CategoricalDistribution(probs=self._best()[0].mean)

    def distribution(self) -> Distribution:
        """p(x) as a torch distribution."""
        return MixtureSameFamily(self.prior(), self._best()[1].likelihood())

    def sample(self, n: int) -> Tensor:
        """n rows drawn from the model, (n, D)."""
        return self.distribution().sample((n,))

    def _relocation(self) -> Relocation:
        return Relocation(
            self.weights.mean.shape[-1],
            self.components.mean.shape[1],
            self.n_init,
            self.components.mean.dtype,
        )

    def _best(self) -> tuple[Any, Any]:
        if self.n_init == 1:
            return self.weights, self.components

        def keep(v: Tensor) -> Tensor:
            return v.view(self.n_init, -1, *v.shape[1:])[self.best]

        return _each(self.weights, lambda v: v[self.best]), _each(self.components, keep)

    def _scores(self, x: Tensor) -> Tensor:
        """E_q(θ) log p(x, z=k|θ), (N, [R,] K)."""
        scores = self.components.expected_log_prob(x)
        log_weights = self.weights.expected_natural.clamp(min=torch.finfo(scores.dtype).min / 4).to(
            scores.dtype
        )
        return scores.view(len(x), *log_weights.shape).add_(log_weights)

    def _sums(self, x: Tensor, r: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
        """The statistics of both parts of θ under responsibilities r (N, [R,] K) of weighted rows."""
        r = r if weight is None else r * weight.to(r.dtype).view(-1, *[1] * (r.ndim - 1))
        return _named(
            r.sum(0, dtype=self.weights.mean.dtype), self.components.statistics(x, r.flatten(1))
        )

    def _total(self, per_component: Tensor) -> Tensor:
        return (
            per_component.reshape(self.n_init, -1).sum(1)
            if self.n_init > 1
            else per_component.sum()
        )


class Responsibilities:
    """A belief about which component each row came from: exp(score_k) normalised, other
    probabilities, or a choice.

    What it says is computed when it is asked for: a choice is its labels and needs neither
    exponentials nor a table.

    Args:
        scores: E log p(x, z=k|θ), (N, [R,] K).
        probs: q, where it is not the full posterior.
        labels: the component of each row, (N, [R]), where it is certain.
        is_mode: whether these are the most probable ones.
    """

    def __init__(
        self,
        scores: Tensor,
        probs: Tensor | None = None,
        labels: Tensor | None = None,
        is_mode: bool = False,
    ):
        self.scores, self.labels, self.is_mode = scores, labels, is_mode
        self.exact = probs is None and labels is None
        if probs is not None:
            self.probs = probs

    @cached_property
    def _odds(self) -> tuple[Tensor, Tensor, Tensor]:
        """The largest score, exp(score − largest) and its sum."""
        top = self.scores.amax(-1, keepdim=True)
        # what would be denormal is 0: it changes no sum and would slow every product down
        below = 0.9 * math.log(torch.finfo(self.scores.dtype).tiny)
        odds = torch.threshold_(self.scores - top, below, -torch.inf).exp_()
        return top, odds, odds.sum(-1, keepdim=True)

    @cached_property
    def log_normaliser(self) -> Tensor:
        """log Σ_k exp(score_k), (N, [R])."""
        top, _, mass = self._odds
        return (top + mass.log()).squeeze(-1)

    @cached_property
    def probs(self) -> Tensor:
        """q, (N, [R,] K)."""
        if self.labels is not None:
            return torch.zeros_like(self.scores).scatter_(-1, self.labels[..., None], 1.0)
        _, odds, mass = self._odds
        return odds.div_(mass)

    @property
    def entropy(self) -> Tensor:
        """H(q), (N, [R])."""
        if self.labels is not None:
            return self.scores.new_zeros(self.labels.shape)
        if self.exact:
            return self.log_normaliser - (self.probs * self.scores).sum(-1)
        return -torch.xlogy(self.probs, self.probs).sum(-1)

    def mode(self) -> "Responsibilities":
        return Responsibilities(self.scores, labels=largest(self.scores)[0], is_mode=True)

    def sample(self) -> "Responsibilities":
        return self.at(torch.multinomial(self.probs.flatten(0, -2), 1).view(self.probs.shape[:-1]))

    @property
    def configurations(self) -> list[int]:
        """How many components each row may come from, for enumeration."""
        return [self.scores.shape[-1]] * len(self.scores)

    def at(self, labels: Tensor) -> "Responsibilities":
        """Certainty about the component of every row."""
        return Responsibilities(self.scores, labels=labels)

    def tempered(self, beta: float) -> "Responsibilities":
        return Responsibilities(self.scores, (beta * self.scores).softmax(-1))

    def mean_field(self, sweeps: int) -> "Responsibilities":
        """Itself: rows are independent, so a belief that factorises over them loses nothing."""
        return self

    structured = mean_field


def largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The place of the largest score of each row, (N, [R]), and the choice as ones and zeros like
    the scores.

    Two passes and a product, for argmax takes longer.
    """
    k = scores.shape[-1]
    hot = torch.eq(scores, scores.amax(-1, keepdim=True), out=torch.empty_like(scores))
    # place i counts K + i: of one hit i is left, of a tie or of none (NaN) nothing between 0 and K
    places = torch.arange(k, 2 * k, dtype=scores.dtype, device=scores.device)
    labels = (places @ hot.movedim(-1, 0).flatten(1)).view(scores.shape[:-1]).sub_(k)
    low, high = labels.aminmax()
    if low >= 0 and high < k:
        return labels.long(), hot
    labels = scores.argmax(-1)  # of equal ones the first
    return labels, hot.zero_().scatter_(-1, labels[..., None], 1.0)


def _each(family: Family, change: Callable[[Tensor], Tensor]) -> Family:
    """The family with every buffer changed, those of its parts too."""
    family = deepcopy(family)
    for module in family.modules():
        module._buffers = {
            name: change(value) for name, value in module._buffers.items() if value is not None
        }
    return family


def _named(counts: Tensor, components: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        **prefixed("weights", {"count": counts.sum(-1), "sum": counts}),
        **prefixed("components", components),
    }


def _weighted(values: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Σ_i w_i v_i, added up in the precision of the parameters."""
    return (values if weight is None else values * weight.view(-1, *[1] * (values.ndim - 1))).sum(
        0, dtype=dtype
    )
