"""Factorial mixture and factorial hidden Markov model: several hidden causes at once, whose effects
add.
"""

__all__ = ["FactorialHMM", "FactorialMixture", "factorial_hmm", "factorial_mixture"]

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emgen.families import Categorical, Family, LinearGaussian, prefixed
from emgen.models.conjugate.base import ConjugateModel, need_families
from emgen.models.conjugate.building import at_least, dirichlet_prior, loadings
from emgen.models.conjugate.factorial_posteriors import (
    FEW_STATES,
    FactorialBelief,
    FactorialPosterior,
    JointBelief,
)
from emgen.models.conjugate.packed_sequences import Packing, frames


class _Factorial(ConjugateModel):
    """x|z ~ N(Σ_m W_m[z_m], Ψ) with M causes of K states, whatever ties the causes of successive
    rows.
    """

    loadings: Any

    def __init__(self, priors: dict[str, Family], start: str | Mapping[str, Any]) -> None:
        need_families("factorial_hmm" if "transition" in priors else "factorial_mixture", **priors)
        super().__init__(priors)
        if isinstance(start, str) and start != "random":
            raise ValueError(f"start={start!r} is neither random nor a mapping of values by name")
        chains, states = self._shape
        if self.loadings.mean.shape[1] != chains * states:
            raise ValueError(
                f"{chains} causes of {states} states need {chains * states} loadings, not"
                f" {self.loadings.mean.shape[1]}"
            )
        if not isinstance(start, str):
            self.put(**start)

    @property
    @abstractmethod
    def _shape(self) -> tuple[int, int]:
        """(M, K)."""

    @abstractmethod
    def _rows(self, x: Any) -> tuple[Packing, Tensor]:
        """The rows of the data, packed."""

    @abstractmethod
    def _dynamics(self, theta: dict[str, Family]) -> tuple[Tensor, Tensor]:
        """E log of first-state probabilities (M, K) and of moves (M, K, K)."""

    def posterior(self, x: Any) -> FactorialPosterior:
        """q(z) ∝ exp E_q(θ) log p(x, z|θ), held as potentials until a belief asks for more."""
        return self._posterior(x, self.theta())

    def _posterior(self, x: Any, theta: dict[str, Any]) -> FactorialPosterior:
        packing, rows = self._rows(x)
        c, h, j = theta["loadings"].quadratic(rows, self._typical)
        return FactorialPosterior(*self._dynamics(theta), c, h, j, self._typical, packing)

    def statistics(
        self,
        x: Any,
        z: FactorialPosterior | FactorialBelief | JointBelief,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        packing, rows = self._rows(x)
        z = z.exact if isinstance(z, FactorialPosterior) else z
        each = torch.ones_like(z.log_evidence) if weight is None else weight.to(z.log_evidence)
        by_row = each[packing.sequence]
        first = (z.marginals[: packing.sizes[0]] * by_row[: packing.sizes[0], None, None]).sum(0)
        return {
            **self._dynamic_statistics(first, z, by_row),
            **prefixed(
                "loadings",
                self.loadings.statistics(rows, z.marginals.flatten(1), z.scatter, by_row),
            ),
            "n": each.sum(),
            "entropy": z.entropy(by_row),
            "evidence": each @ z.log_evidence,
        }

    @abstractmethod
    def _dynamic_statistics(self, first: Tensor, z: Any, weight: Tensor) -> dict[str, Tensor]: ...

    def start(
        self, x: Any, parameters: Callable[..., Family], weight: Tensor | None = None
    ) -> None:
        """Causes that share the data's mean evenly, each state off it at random; then one half-step
        into the belief.
        """
        packing, rows = self._rows(x)
        weak = self.priors["loadings"].replace(
            nu=torch.zeros_like(self.loadings.nu),
            precision=torch.zeros_like(self.loadings.precision),
        )
        weak = weak.weak(rows, None if weight is None else weight[packing.sequence], self._typical)
        noise = torch.randn_like(weak.mean) * weak.variance.expand(len(weak.mean)).sqrt()[:, None]
        self.loadings = weak.given(mean=weak.mean + noise / self._shape[0] ** 0.5).mode()
        for name, prior in self.priors.items():
            if name != "loadings":
                noisy = prior.mean * (0.5 + torch.rand_like(prior.mean))
                setattr(self, name, prior.replace(mean=noisy / noisy.sum(-1, keepdim=True)).mode())
        self.m_step(self.statistics(x, self.posterior(x).mean_field(10), weight), parameters)
        self.started.fill_(True)

    def put(self, **values: Any) -> None:
        """Start from explicit points: probabilities by the names of their parts, and buffers of the
        loadings.
        """
        own = {name: values.pop(name) for name in self.priors if name in values}
        for name, mean in own.items():
            setattr(self, name, self.priors[name].given(mean=mean).mode())
        self.loadings = self.priors["loadings"].given(**values).mode()
        self.started.fill_(True)

    def make_proper(self, x: Any, weight: Tensor | None = None) -> None:
        packing, rows = self._rows(x)
        weight = None if weight is None else weight[packing.sequence]
        for name, prior in self.priors.items():
            if prior.is_flat:
                self.priors[name] = prior.weak(
                    rows, weight, *([self._typical] if name == "loadings" else [])
                )

    def free_energy(self, s: dict[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
        parts = super().free_energy(s, temperature)
        if self._shape[1] ** self._shape[0] > FEW_STATES:
            del parts["gap"]  # the evidence is out of reach
        return parts

    def log_prob(self, x: Any) -> Float[Tensor, "sequences"]:
        """log p(x) by summing over all joint states, at the centre of the belief."""
        return self._posterior(
            x, {name: belief.mode() for name, belief in self.theta().items()}
        ).exact.log_evidence

    @property
    def _typical(self) -> Tensor:
        """The regressors' mean under indifference, about which quadratics are taken."""
        return torch.full_like(self.loadings.mean[0], 1 / self._shape[1])

    def _emit(self, z: Tensor) -> Tensor:
        """x given states (..., M)."""
        mean = self.loadings.mean
        u = torch.nn.functional.one_hot(z, self._shape[1]).flatten(-2).to(mean.dtype)
        return (
            u @ mean.T
            + torch.randn(*z.shape[:-1], len(mean), dtype=mean.dtype, device=mean.device)
            * self.loadings.variance.sqrt()
        )


class FactorialMixture(_Factorial):
    """M independent causes of K states, z_m ~ π_m, x|z ~ N(Σ_m W_m[z_m], Ψ): cooperative vector
    quantisation.

    Args:
        loadings: prior over W (features, M·K) and the noise. weights: prior over π, (M, K).
        start: `random`, or explicit values: `weights` and the buffers of the loadings.

    References:
        Ghahramani (1995), "Factorial learning and the EM algorithm".
    """

    rows = 4096

    weights: Any

    def __init__(
        self,
        loadings: LinearGaussian,
        weights: Categorical,
        start: str | Mapping[str, Any] = "random",
    ) -> None:
        super().__init__({"weights": weights, "loadings": loadings}, start)

    @property
    def _shape(self) -> tuple[int, int]:
        return tuple(self.weights.mean.shape)  # type: ignore[return-value]

    def _rows(self, x: Tensor) -> tuple[Packing, Tensor]:
        return Packing([1] * len(x), x.device), x

    def _dynamics(self, theta: dict[str, Any]) -> tuple[Tensor, Tensor]:
        log_weights = theta["weights"].expected_natural
        return log_weights, log_weights[:, None].expand(
            -1, log_weights.shape[1], -1
        )  # never used: rows are alone

    def _dynamic_statistics(self, first: Tensor, z: Any, weight: Tensor) -> dict[str, Tensor]:
        return prefixed("weights", {"count": first.sum(-1), "sum": first})

    def sample(self, n: int) -> Tensor:
        """n rows drawn from the model, (n, D)."""
        return self._emit(self.weights.mean.multinomial(n, replacement=True).T)


class FactorialHMM(_Factorial):
    """M independent Markov chains of K states, x_t|z_t ~ N(Σ_m W_m[z_tm], Ψ).

    Sequences as in `HiddenMarkovModel`: NaN where missing, padding at the end, or the pair (x,
    lengths).

    Args:
        loadings: prior over W (features, M·K) and the noise. initial: prior (M, K). transition:
            prior (M, K, K).
        start: `random`, or explicit values: `initial`, `transition` and the buffers of the
            loadings.

    References:
        Ghahramani and Jordan (1997), "Factorial hidden Markov models".
    """

    initial: Any
    transition: Any

    def __init__(
        self,
        loadings: LinearGaussian,
        initial: Categorical,
        transition: Categorical,
        start: str | Mapping[str, Any] = "random",
    ) -> None:
        super().__init__(
            {"initial": initial, "transition": transition, "loadings": loadings}, start
        )

    @property
    def _shape(self) -> tuple[int, int]:
        return tuple(self.initial.mean.shape)  # type: ignore[return-value]

    def _rows(self, x: Any) -> tuple[Packing, Tensor]:
        return frames(x)[:2]

    def _dynamics(self, theta: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return theta["initial"].expected_natural, theta["transition"].expected_natural

    def _dynamic_statistics(self, first: Tensor, z: Any, weight: Tensor) -> dict[str, Tensor]:
        moves = z.transitions(weight)
        return {
            **prefixed("initial", {"count": first.sum(-1), "sum": first}),
            **prefixed("transition", {"count": moves.sum(-1), "sum": moves}),
        }

    def sample(self, n: int, length: int = 100) -> Tensor:
        """n sequences drawn from the model, (n, length, D)."""
        moves, chain = (
            self.transition.mean,
            torch.arange(self._shape[0], device=self.initial.mean.device),
        )
        states = [self.initial.mean.multinomial(n, replacement=True).T]  # (n, M)
        for _ in range(length - 1):
            states.append(moves[chain, states[-1]].flatten(0, 1).multinomial(1).view(n, -1))
        return self._emit(torch.stack(states, 1))


def factorial_hmm(
    event_shape: int | Sequence[int],
    causes: int = 2,
    states: int = 2,
    noise: str = "diagonal",
    initial: float | None = None,
    transition: float | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "random",
) -> FactorialHMM:
    """A factorial hidden Markov model of M chains with K states each.

    Args:
        event_shape: shape of a sequence (T, *frame), or the number of features of a frame.
        causes: M. states: K.
        noise: `diagonal` or `spherical`.
        initial, transition: None for flat priors, or α for Dirichlet(α, …, α).
        prior: as in `factor_analysis`.
        start: see `FactorialHMM`.
    """
    at_least(1, causes=causes, states=states)
    frame = event_shape if isinstance(event_shape, int) else event_shape[1:]
    return FactorialHMM(
        loadings(frame, causes * states, noise, prior),
        dirichlet_prior(initial, causes, states),
        dirichlet_prior(transition, causes, states, states),
        start,
    )


def factorial_mixture(
    event_shape: int | Sequence[int],
    causes: int = 2,
    states: int = 2,
    noise: str = "diagonal",
    weights: float | None = None,
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "random",
) -> FactorialMixture:
    """A factorial mixture (cooperative vector quantisation) of M causes with K states each.

    Args:
        event_shape: shape of a datum, or its number of features.
        causes: M. states: K.
        noise: `diagonal` or `spherical`.
        weights: None for flat priors, or α for Dirichlet(α, …, α).
        prior: as in `factor_analysis`.
        start: see `FactorialMixture`.
    """
    at_least(1, causes=causes, states=states)
    return FactorialMixture(
        loadings(event_shape, causes * states, noise, prior),
        dirichlet_prior(weights, causes, states),
        start,
    )
