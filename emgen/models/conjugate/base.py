"""Conjugate models: latent structure × exponential families, with the three verbs on both sides."""

__all__ = ["ConjugateModel", "need_families"]

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from emgen.families import Family, part, prefixed


def need_families(builder: str, **parts: Any) -> None:
    """Refuse numbers where families with their priors are needed, naming the function that takes
    numbers.
    """
    for name, value in parts.items():
        if not isinstance(value, Family):
            raise TypeError(
                f"{name} must be a family with its prior, not {value!r}:"
                f" emgen.models.{builder}(...) builds the model from the shape of the data"
            )


class ConjugateModel(nn.Module, ABC):
    """A model whose parameters θ are named families, each with its conjugate prior.

        E   z = latents(model.posterior(x))            q(z|x) ∝ exp E_q(θ) log p(x, z|θ), then keep
        / mode / sample
            s = model.statistics(x, z)                 linear in E[z]
        M   model.m_step(s, parameters)                θ ← parameters(prior.update(s)): keep / mode
        / sample

    The free energy is linear in the statistics, so both half-steps are scored from them without
    another look at the data. A model writes `posterior`, `statistics` and `start`. Statistics have
    flat keys, `part.name`, and three scalars: `n` (total weight), `entropy` (Σ H(z)) and `evidence`
    (Σ of the posterior's log normaliser).

    Args:
        priors: for each part of θ its conjugate prior; flat ones make a point the
            maximum-likelihood estimate.
    """

    rows: int | None = (
        None  # rows an E-step takes at a time to stay in cache; None takes a batch whole
    )
    datum: str = "row"  # what `log_prob` has one value of, as `emgen.data.Data` names it

    priors: Any  # of each part of θ by name
    started: Tensor

    def __init__(self, priors: dict[str, Family]):
        super().__init__()
        self.priors = nn.ModuleDict(priors)
        for name, prior in priors.items():
            self.add_module(name, deepcopy(prior))
        self.register_buffer("started", torch.tensor(False))

    @abstractmethod
    def posterior(self, x: Any) -> Any:
        """q(z|x) ∝ exp E_q(θ) log p(x, z|θ), an object that answers `mode`, `sample` and
        `tempered`.
        """

    @abstractmethod
    def statistics(self, x: Any, z: Any, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Expected sufficient statistics under the belief z, with rows weighted."""

    @abstractmethod
    def start(
        self, x: Any, parameters: Callable[..., Family], weight: Tensor | None = None
    ) -> None:
        """Put θ at a start that lies inside the belief about the parameters; weights (N,) are given
        only where rows have them.
        """

    def m_step(self, s: dict[str, Tensor], parameters: Callable[..., Family]) -> dict[str, Tensor]:
        """θ ← parameters(prior.update(s)) for every part; returns the statistics as the new θ would
        have taken them.
        """
        before = self.theta()
        for name, prior in self.priors.items():
            setattr(self, name, parameters(prior.update(part(s, name), before[name]), before[name]))
        return self.rebase(s, before)

    def theta(self) -> dict[str, Family]:
        """The current belief about every part of θ."""
        return {name: getattr(self, name) for name in self.priors}

    def rebase(self, s: dict[str, Tensor], before: dict[str, Family]) -> dict[str, Tensor]:
        """Statistics taken under the belief `before` as the current θ would have taken them."""
        moved = [
            prefixed(name, belief.rebase(part(s, name), before[name]))
            for name, belief in self.theta().items()
        ]
        return {**s, **{key: value for one in moved for key, value in one.items()}}

    def free_energy(self, s: dict[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
        """F = E_q log p(x, z|θ) + H(z) − KL(q(θ) ‖ p(θ)) and its terms, in nats per datum.

        `elbo` is F, `bound` weighs the entropy by the temperature of a tempered belief, and `gap`
        is KL(q(z) ‖ posterior), which holds for statistics that the current θ took.

        Raises:
            ValueError: no data, or data that the model gives no probability.
        """
        if not bool((s["n"] > 0).all()) or not bool(s["evidence"].isfinite().any()):
            raise ValueError(
                "nothing can be learnt: no row counts, or one has probability 0 under every part of"
                " the model; check that the data are finite and of the family's kind, and that the"
                " start allows them, or give a prior"
            )
        fit = sum(
            self._total(belief.expected_fit(part(s, name))) for name, belief in self.theta().items()
        )
        kl = sum(self._total(belief.kl(self.priors[name])) for name, belief in self.theta().items())
        n = s["n"]
        return {
            "bound": (fit + temperature * s["entropy"] - kl) / n,
            "elbo": (fit + s["entropy"] - kl) / n,
            "kl_parameters": kl / n,
            "entropy": s["entropy"] / n,
            "gap": (s["evidence"] - fit - s["entropy"]) / n,
        }

    def doubt(self, s: dict[str, Tensor]) -> float:
        """How far round-off may move F, in nats per datum: nothing to speak of but where
        covariances are all but singular.
        """
        return float(
            sum(belief.doubt(part(s, name)).sum() for name, belief in self.theta().items()) / s["n"]
        )

    def make_proper(self, x: Any, weight: Tensor | None = None) -> None:
        """Give every flat prior a weak proper one, centred on the data: a distribution or a draw of
        θ needs it.
        """
        for name, prior in self.priors.items():
            if prior.is_flat:
                self.priors[name] = prior.weak(x, weight)

    def mass(self, x: Any, weight: Tensor | None = None) -> float:
        """What the `n` of the statistics of x will be."""
        x = x[0] if isinstance(x, tuple) else x
        return float(len(x) if weight is None else weight.sum())

    def _total(self, per_component: Tensor) -> Tensor:
        return per_component.sum()
