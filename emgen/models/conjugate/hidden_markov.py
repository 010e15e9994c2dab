"""Hidden Markov model: a Markov chain of states, each with a member of any exponential family as
its emission.
"""

__all__ = ["HiddenMarkovModel", "hidden_markov_model"]

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emgen.families import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Family,
    Gaussian,
    Poisson,
    prefixed,
)
from emgen.models.conjugate.base import ConjugateModel, need_families
from emgen.models.conjugate.building import at_least, dirichlet_prior, one_of
from emgen.models.conjugate.chain_posteriors import ChainPosterior, Factorised
from emgen.models.conjugate.packed_sequences import Frames, frames
from emgen.models.conjugate.scaled_messages import buffer
from emgen.models.conjugate.seeding import START_NAMES, partition

BLOCK = 8192  # frames taken at a time, which stay in cache
Sequences = Float[Tensor, "sequences time *event"] | tuple[Tensor, Tensor] | Frames


class HiddenMarkovModel(ConjugateModel):
    """p(x, z) = π(z_1) Π_t A(z_{t−1}, z_t) Π_t p(x_t|z_t), over ragged sequences.

    A row of data is a sequence x (T, *event). Frames whose values are all NaN are missing; at the
    end of a row they are padding and the sequence is that much shorter; else give the pair (x,
    lengths). Probabilities that start at 0 stay 0.

    Args:
        emission: prior over the K members of a family, for frames of shape event.
        initial: prior over the (K,) state probabilities at the first frame; default flat.
        transition: prior over the (K, K) probabilities of the next state; default flat.
        start: `kmeans++`, `rows`, `random` (a partition of the frames), or explicit values by name:
            `initial`, `transition` and the buffers of the emission.

    References:
        Rabiner (1989), "A tutorial on hidden Markov models"; MacKay (1997), "Ensemble learning for
        hidden Markov models"; Scott (2002), "Bayesian methods for hidden Markov models".

    Example:
        >>> activity = Categorical(torch.tensor([[[.1, .4, .5]], [[.6, .3, .1]]]))  # rainy, sunny: walk, shop, clean
        >>> moves = Categorical(torch.tensor([[.7, .3], [.4, .6]]))
        >>> weather = HiddenMarkovModel(activity, Categorical(torch.tensor([.6, .4])), moves)
        >>> weather.log_prob(torch.tensor([[0, 1, 2]])).exp()
        tensor([0.0336])
    """

    initial: Any
    transition: Any
    emission: Any

    def __init__(
        self,
        emission: Any,
        initial: Categorical | None = None,
        transition: Categorical | None = None,
        start: str | Mapping[str, Any] = "kmeans++",
    ) -> None:
        need_families("hidden_markov_model", emission=emission)
        states, dtype = len(emission.mean), emission.mean.dtype
        initial = Categorical.flat(symbols=states, dtype=dtype) if initial is None else initial
        transition = (
            Categorical.flat(states, symbols=states, dtype=dtype)
            if transition is None
            else transition
        )
        if initial.mean.shape != (states,) or transition.mean.shape != (states, states):
            raise ValueError(
                f"{states} emissions need initial ({states},) and transition ({states}, {states}), "
                f"not {tuple(initial.mean.shape)} and {tuple(transition.mean.shape)}"
            )
        super().__init__({"initial": initial, "transition": transition, "emission": emission})
        if isinstance(start, str) and start not in START_NAMES:
            raise ValueError(
                f"start={start!r} is not one of {', '.join(START_NAMES)}, nor a mapping of values"
                " by name"
            )
        self.how = start if isinstance(start, str) else "explicit"
        if not isinstance(start, str):
            self.put(**start)

    def posterior(self, x: Sequences) -> ChainPosterior:
        """q(z) ∝ exp E_q(θ) log p(x, z|θ), by forward-backward."""
        return self._posterior(x, self.theta())

    def _posterior(self, x: Sequences, theta: dict[str, Any]) -> ChainPosterior:
        packing, rows, seen = frames(x)
        log_b = _scores(theta["emission"], rows if seen is None else rows[seen])
        if seen is not None:
            log_b = log_b.new_zeros(len(rows), log_b.shape[1]).index_put((seen,), log_b)
        initial, transition = (
            theta[name].expected_natural.to(log_b.dtype) for name in ("initial", "transition")
        )
        return ChainPosterior(initial, transition, log_b, packing)

    def statistics(self, x: Sequences, z: Any, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Expected counts of first states, moves and emissions; `weight` counts sequences."""
        _, rows, seen = frames(x)
        marginals, weights = z.marginals, None
        if weight is not None:
            weights = weight.to(marginals.dtype)[z.packing.sequence]
            marginals = marginals * weights[:, None]
        wide = self.initial.mean.dtype
        first = marginals[: z.packing.sizes[0]].sum(0, dtype=wide)
        moves = z.transitions(weights).to(wide)
        emitted = (rows, marginals) if seen is None else (rows[seen], marginals[seen])
        pieces = [
            self.emission.statistics(*piece)
            for piece in zip(*(v.split(BLOCK) for v in emitted), strict=True)
        ]
        evidence = z.log_evidence if weight is None else z.log_evidence * weight
        return {
            **prefixed("initial", {"count": first.sum(-1), "sum": first}),
            **prefixed("transition", {"count": moves.sum(-1), "sum": moves}),
            **prefixed(
                "emission",
                {name: torch.stack([s[name] for s in pieces]).sum(0) for name in pieces[0]},
            ),
            "n": (
                evidence.new_tensor(float(len(evidence)))
                if weight is None
                else weight.sum().to(evidence)
            ),
            "entropy": z.entropy(weights),
            "evidence": evidence.sum(),
        }

    def start(
        self, x: Sequences, parameters: Callable[..., Family], weight: Tensor | None = None
    ) -> None:
        """θ from a partition of the frames; moves start half-way between its own and indifferent
        ones.
        """
        packing, rows, seen = frames(x)
        known = rows if seen is None else rows[seen]
        each = (
            None
            if weight is None
            else weight[packing.sequence if seen is None else packing.sequence[seen]]
        )
        kinds, kind = torch.unique(known, dim=0, return_inverse=True)
        if self.how == "random" and len(kinds) >= len(
            self.initial.mean
        ):  # equal frames start alike, or all averages out
            r = partition(kinds, len(self.initial.mean), how=self.how).squeeze(1)[kind]
        else:
            r = partition(known, len(self.initial.mean), how=self.how, weight=each).squeeze(1)
        if seen is not None:
            r = r.new_full((len(rows), r.shape[1]), 1 / r.shape[1]).index_put((seen,), r)
        self.emission = self.priors["emission"].weak(known, each).mode()
        s = self.statistics(x, Factorised(packing, r, r.new_zeros(len(packing.lengths))), weight)
        for name in ("initial", "transition"):
            counts = s[f"{name}.sum"]
            counts = torch.where(
                self.priors[name].mean > 0,
                counts + counts.sum(-1, keepdim=True).clamp(min=1) / len(r.T),
                0.0,
            )
            s |= prefixed(name, {"count": counts.sum(-1), "sum": counts})
        self.m_step(s, parameters)
        self.started.fill_(True)

    def put(self, *, initial: Any = None, transition: Any = None, **emission: Any) -> None:
        """Start from explicit parameters: `initial` (K,), `transition` (K, K) and any buffers of
        the emission.
        """
        for name, mean in (("initial", initial), ("transition", transition)):
            if mean is not None:
                setattr(self, name, self.priors[name].given(mean=mean).mode())
        self.emission = self.priors["emission"].given(**emission).mode()
        self.started.fill_(True)

    def make_proper(self, x: Sequences, weight: Tensor | None = None) -> None:
        packing, rows, seen = frames(x)
        each = (
            None
            if weight is None
            else weight[packing.sequence if seen is None else packing.sequence[seen]]
        )
        super().make_proper(rows if seen is None else rows[seen], each)

    def log_prob(self, x: Sequences) -> Float[Tensor, "sequences"]:
        """log p(x) of each sequence, summed over all paths, at the centre of the belief."""
        return self._posterior(
            x, {name: belief.mode() for name, belief in self.theta().items()}
        ).log_evidence

    def viterbi(self, x: Sequences) -> Int[Tensor, "sequences time"]:
        """The most probable path of each sequence, −1 at padding."""
        mode = self.posterior(x).mode()
        return mode.packing.unpack(mode.path, fill=-1)

    def sample(self, n: int, length: int = 100) -> Float[Tensor, "n length *event"]:
        """n sequences drawn from the model."""
        return self.sample_with_states(n, length)[0]

    def sample_with_states(
        self, n: int, length: int = 100
    ) -> tuple[Tensor, Int[Tensor, "n length"]]:
        """n sequences drawn from the model, and the paths that they came from."""
        state = self.initial.mean.expand(n, -1).multinomial(1)
        states = [state]
        for _ in range(length - 1):
            state = self.transition.mean[state.squeeze(1)].multinomial(1)
            states.append(state)
        z = torch.cat(states, 1)
        x = self.emission.likelihood().sample(
            (n, length)
        )  # (n, length, K, *event): all states', of which one is kept
        index = z[(...,) + (None,) * (x.ndim - 2)].expand(n, length, 1, *x.shape[3:])
        return x.gather(2, index).squeeze(2), z


def _scores(emission: Any, rows: Tensor) -> Float[Tensor, "rows states"]:
    """E log p(x_t|z_t), with the states first in memory."""
    first = emission.expected_log_prob(rows[:BLOCK])
    if len(rows) <= BLOCK or first.requires_grad:
        return emission.expected_log_prob(rows)
    log_b = buffer(first.shape[1], len(rows), like=first)
    log_b[:, :BLOCK] = first.T
    for start in range(BLOCK, len(rows), BLOCK):
        log_b[:, start : start + BLOCK] = emission.expected_log_prob(rows[start : start + BLOCK]).T
    return log_b.T


# the emissions that have a name; any `Family` can be given to the class itself
EMISSIONS = ("gaussian", "categorical", "poisson", "bernoulli")
COVARIANCES = ("full", "tied", "diagonal", "spherical")


def hidden_markov_model(
    event_shape: int | Sequence[int],
    states: int = 2,
    emission: str = "gaussian",
    covariance: str = "diagonal",
    symbols: int = 2,
    reg_covar: float = 0.0,
    initial: float | None = None,
    transition: float | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "kmeans++",
) -> HiddenMarkovModel:
    """A hidden Markov model of K states.

    Args:
        event_shape: shape of a sequence (T, *frame), or the number of features of a frame.
        states: K.
        emission: `gaussian`, `categorical`, `poisson` or `bernoulli`.
        covariance: of Gaussians, `full`, `tied`, `diagonal` or `spherical`.
        symbols: of categorical emissions, how many there are.
        reg_covar: ε in squared units of the data, added to every Gaussian covariance and to the
            objective.
        initial, transition: None for flat priors, or α for Dirichlet(α, …, α).
        prior: buffers of the emission's conjugate prior by name; what is left out is flat.
        start: see `HiddenMarkovModel`.

    Raises:
        ValueError: an argument out of its range; the message names it.

    >>> hidden_markov_model(3, states=4, covariance="full").emission.covariance.shape
    torch.Size([4, 3, 3])
    """
    at_least(1, states=states)
    one_of(EMISSIONS, emission=emission)
    one_of(COVARIANCES, covariance=covariance)
    features = event_shape if isinstance(event_shape, int) else prod(event_shape[1:])
    family: Family
    if emission == "categorical":
        family = Categorical.flat(states, features, symbols=symbols)
    elif emission == "poisson":
        family = Poisson.flat(states, features)
    elif emission == "bernoulli":
        family = Bernoulli.flat(states, features)
    elif covariance in ("full", "tied"):
        family = Gaussian.flat(states, features, tied=covariance == "tied", reg_covar=reg_covar)
    else:
        family = DiagonalGaussian.flat(
            states, features, spherical=covariance == "spherical", reg_covar=reg_covar
        )
    return HiddenMarkovModel(
        family.given(**(prior or {})),
        dirichlet_prior(initial, states),
        dirichlet_prior(transition, states, states),
        start,
    )
