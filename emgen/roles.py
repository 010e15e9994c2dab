"""The roles a model can play: structural protocols, so a user's module needs no base class of ours.

Shapes throughout the package: samples first, batch second, event last — `z` of shape (S, B,
*latent), `x` of shape (B, *event). Layered latents are tuples of such tensors.
"""

__all__ = [
    "Conjugate",
    "Critic",
    "Energy",
    "Generator",
    "Latent",
    "Recognition",
    "Stacked",
    "Statistics",
    "missing_roles",
    "serves",
]

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor
from torch.distributions import Distribution

Statistics = dict[str, Tensor]
"""Sufficient statistics: named tensors that add, so batches, weights and processes are one
mechanism.
"""


class Latent(Protocol):
    """A latent variable model p(z) p(x|z)."""

    def prior(self) -> Distribution: ...

    def likelihood(self, z: Any) -> Distribution: ...


class Recognition(Protocol):
    """A model that carries its inference network q(z|x) as the attribute `recognition`."""

    recognition: Any


class Generator(Protocol):
    """All that an adversarial game asks of the model side: `n` differentiable draws x ~ p."""

    def rsample(self, n: int) -> Tensor: ...


class Conjugate(Protocol):
    """A model whose E- and M-step have closed forms."""

    def posterior(self, x: Any) -> Any: ...

    def statistics(self, x: Any, z: Any) -> Statistics: ...

    def m_step(self, statistics: Statistics, belief: Any) -> Any: ...


class Energy(Protocol):
    """An unnormalised model p(x) ∝ exp(−energy(x)) with a Markov kernel that leaves it invariant."""

    def energy(self, x: Any) -> Tensor: ...

    def gibbs(self, state: Any) -> Any: ...


class Stacked(Protocol):
    """A net that is learnt layer by layer: `machines` (energy models, lowest first), and what
    passes between them.
    """

    machines: Any

    def below(self, level: int, x: Tensor) -> Tensor: ...

    def stack(self, level: int) -> None: ...

    def tie(self, level: int) -> None: ...

    def dream(self, top: Tensor) -> tuple[Any, Tensor]: ...

    def set_constant(self, found: Any) -> None: ...


class Critic(Protocol):
    """A network whose output is the log density ratio v = log p_data(x) / p_model(x)."""

    def __call__(self, x: Tensor) -> Tensor: ...


_MEMBERS: dict[type, tuple[str, ...]] = {
    Latent: ("prior", "likelihood"),
    Recognition: ("recognition",),
    Generator: ("rsample",),
    Conjugate: ("posterior", "statistics", "m_step"),
    Energy: ("energy", "gibbs"),
    Stacked: ("machines", "below", "stack", "tie", "dream", "set_constant"),
    Critic: ("__call__",),
}


def serves(model: object, role: type) -> bool:
    """Whether `model` has every member of `role` (None counts as absent: a model may be built
    without an encoder).
    """
    return all(getattr(model, member, None) is not None for member in _MEMBERS[role])


def missing_roles(model: object, roles: Iterable[type]) -> list[str]:
    """The members that `model` lacks, in words: `["Recognition (recognition)"]`; empty if it serves
    them all.
    """
    return [
        f"{role.__name__}"
        f" ({', '.join(m for m in _MEMBERS[role] if getattr(model, m, None) is None)})"
        for role in roles
        if not serves(model, role)
    ]
