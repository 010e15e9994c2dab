"""The draws of one step: what the two joints q(x,z) and p(x,z) are seen through."""

__all__ = ["Draws", "beside", "differentiable"]

from collections.abc import Collection
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution


class Draws:
    """Draws of q(x,z) = p̂(x) q(z|x) and of p(x,z) = p(z) p(x|z), and of what lies between.

        q(z|x)    code ẑ ~ q(z|x)     rebuilt x̂ ~ p(x|ẑ)     z ~ p(z)     dream x̃ ~ p(x|z)

    Each is drawn when it is first asked for and shared from then on. It carries a gradient to those
    players who are about to move, and to nobody else.

    Args:
        model: p(z) p(x|z).
        recognition: x → q(z|x).
        x: data (B, *event).
        movers: who is about to move, of `model`, `recognition` and `critic`.
    """

    def __init__(
        self,
        model: Any,
        recognition: Any,
        x: Tensor,
        movers: Collection[str] = ("model", "recognition"),
    ):
        self.model, self.recognition, self.x, self.movers = model, recognition, x, movers

    @cached_property
    def q(self) -> Distribution:
        """q(z|x)."""
        with self._graph("recognition"):
            return self.recognition(self.x)

    @cached_property
    def code(self) -> Any:
        """ẑ ~ q(z|x), (B, latent); of layered latents a tuple.

        Raises:
            TypeError: q is about to move and its draws carry no gradient.
        """
        if "recognition" not in self.movers:
            return self.q.sample()
        if not self.q.has_rsample:
            raise TypeError(
                f"the latents of {type(self.recognition).__name__} cannot be reparameterised, so no"
                " gradient reaches q(z|x) through its draws: train it by sleep (trainer=wake_sleep),"
                " or use trainer=rws or vimco for discrete latents."
            )
        return self.q.rsample()

    @cached_property
    def p(self) -> Distribution:
        """p(x|ẑ)."""
        with self._graph("model", "recognition"):
            return self.model.likelihood(self.code)

    @cached_property
    def rebuilt(self) -> Tensor:
        """x̂ ~ p(x|ẑ), (B, *event)."""
        with self._graph("model", "recognition"):
            return differentiable(self.p)

    @cached_property
    def prior(self) -> Distribution:
        """p(z)."""
        with self._graph("model"):
            return self.model.prior()

    @cached_property
    def z(self) -> Any:
        """z ~ p(z), (B, latent)."""
        with self._graph("model"):
            shape = (len(self.x),)
            return self.prior.rsample(shape) if self.prior.has_rsample else self.prior.sample(shape)

    @cached_property
    def dream(self) -> Tensor:
        """x̃ ~ p(x|z), (B, *event)."""
        z = self.z
        with self._graph("model"):
            return differentiable(self.model.likelihood(z))

    def _graph(self, *players: str) -> torch.set_grad_enabled:
        """Gradients are kept for these players, if one of them is about to move."""
        moves = any(player in self.movers for player in players)
        return torch.set_grad_enabled(torch.is_grad_enabled() and moves)


def differentiable(p: Distribution) -> Tensor:
    """A draw that carries a gradient; the mean where p cannot be reparameterised, as of pixels."""
    return p.rsample() if p.has_rsample else p.mean


def beside(x: Tensor, z: Tensor) -> Tensor:
    """(x, z) as one event, flat, for a critic of pairs: (B, *event) and (B, latent) → (B, D + L)."""
    return torch.cat([x.flatten(1), z.flatten(1)], 1)
