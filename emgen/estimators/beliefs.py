"""Beliefs: what is kept of a posterior, over latents and over parameters alike."""

__all__ = [
    "Belief",
    "Distribution",
    "Draw",
    "Gradient",
    "MeanField",
    "Point",
    "Structured",
    "Tempered",
]

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


class Belief(ABC):
    """What every belief says of itself; a user's own needs these three attributes and the call."""

    monotone = True  # keeping it never lowers the free energy
    needs_prior = False  # about parameters: it asks for a proper prior
    temperature: float = 1.0  # about latents: the weight of the entropy in what it climbs

    @abstractmethod
    def __call__(self, posterior: Any, current: Any = None) -> Any:
        """What is kept of the posterior; `current` is the belief held so far."""


@dataclass(frozen=True)
class Distribution(Belief):
    """All of it."""

    needs_prior = True

    def __call__(self, posterior: Any, current: Any = None) -> Any:
        return posterior


@dataclass(frozen=True)
class Point(Belief):
    """Its mode: a Dirac."""

    def __call__(self, posterior: Any, current: Any = None) -> Any:
        return posterior.mode()


@dataclass(frozen=True)
class Draw(Belief):
    """One sample: Monte Carlo with a single draw."""

    monotone, needs_prior = False, True

    def __call__(self, posterior: Any, current: Any = None) -> Any:
        return posterior.sample()


@dataclass(frozen=True)
class Tempered(Belief):
    """q ∝ posteriorᵝ over latents: EM at β = 1, hard EM as β → ∞, annealed EM between 0 and 1.

    Args:
        beta: inverse temperature, > 0.

    References:
        Ueda and Nakano (1998), Deterministic annealing EM algorithm.
    """

    beta: float = 1.0

    def __post_init__(self):
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, not {self.beta:g}; use Point() for β = ∞")

    @property
    def temperature(self) -> float:  # type: ignore[override]
        return 1 / self.beta

    def __call__(self, posterior: Any, current: Any = None) -> Any:
        return posterior.tempered(self.beta)


@dataclass(frozen=True)
class MeanField(Belief):
    """The best fully factorised q, by coordinate ascent.

    Args:
        sweeps: how many passes over the factors.
    """

    sweeps: int = 10

    monotone = False

    def __call__(self, posterior: Any, current: Any = None) -> Any:
        return posterior.mean_field(self.sweeps)


@dataclass(frozen=True)
class Structured(Belief):
    """The best q that keeps each chain whole and factorises over chains.

    Args:
        sweeps: how many passes over the chains.
    """

    sweeps: int = 10

    monotone = False

    def __call__(self, posterior: Any, current: Any = None) -> Any:
        return posterior.structured(self.sweeps)


@dataclass(frozen=True)
class Gradient(Belief):
    """A partial M-step: natural-gradient steps from the current point towards the mode (generalised
    EM).

    In mean parameters the natural gradient is the difference between the mode and the point, so
    each step goes a share `lr` of the way, and no step lowers F.

    Args:
        steps: how many.
        lr: size of each, in (0, 1].

    References:
        Amari (1998), Natural gradient works efficiently in learning.
    """

    steps: int = 1
    lr: float = 0.5

    def __post_init__(self):
        if self.steps < 1 or not 0 < self.lr <= 1:
            raise ValueError(
                f"steps={self.steps}, lr={self.lr}: take one step or more, each of size in (0, 1]"
            )

    def __call__(self, posterior: Any, current: Any = None) -> Any:
        return current.ascend(posterior, self.steps, self.lr)
