"""Reweighted wake-sleep: wake-sleep whose draws are weighted towards the posterior (level 6)."""

__all__ = ["RWS"]

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from emgen.objectives.reweighted import ReweightedWake
from emgen.objectives.wake_sleep import Sleep
from emgen.roles import Latent, Recognition
from emgen.trainers.base import OptimizerFactory, Trainer


class RWS(Trainer):
    """Reweighted wake-sleep: wake-θ, wake-φ and sleep-φ in any mixture.

        for x in data:
            z_k ~ q(z|x), w̃_k ∝ p(x, z_k) / q(z_k|x);   z, x̃ ~ p(x, z)
            wake-θ:   θ ← θ + η ∇_θ Σ_k w̃_k log p(x, z_k)
            wake-φ:   φ ← φ + η a ∇_φ Σ_k w̃_k log q(z_k|x)       both KL(p ‖ q), the one on data,
            sleep-φ:      + η b ∇_φ log q(z|x̃)                    the other on dreams: one step for
            their sum

    With K = 1, a = 0 and b = 1 it is wake-sleep, its two half-steps taken at once.

    Args:
        model: p(z) p(x|z) that carries its `recognition` network q(z|x).
        wake: the objective of both wake half-steps, with K and a (`samples` and `phi`).
        sleep: the objective of the sleep half-step.
        sleep_phi: its weight b; 0 for no dreams.
        optimizer: parameters → optimiser, one for each of the two players.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.
        accumulate: batches whose gradients are averaged before a player steps.

    Raises:
        ValueError: a negative weight, or weights that leave the recognition network untrained.

    References: Bornschein and Bengio (2015), "Reweighted wake-sleep".
    """

    requires = (Latent, Recognition)

    def __init__(
        self,
        model: nn.Module,
        wake: ReweightedWake = ReweightedWake(),
        sleep: Sleep = Sleep(),
        sleep_phi: float = 0.5,
        optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True),
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
        accumulate: int = 1,
    ):
        players = {"model": optimizer, "recognition": optimizer}
        super().__init__(
            model, optimizers=players, clip=clip, scheduler=scheduler, accumulate=accumulate
        )
        if not sleep_phi >= 0 or not sleep_phi + wake.phi > 0:
            raise ValueError(
                f"sleep_phi={sleep_phi} and wake.phi={wake.phi}: neither weight may be negative nor"
                " both zero, for nothing would train the recognition network."
            )
        self.wake, self.sleep, self.sleep_phi = wake, sleep, sleep_phi

    def training_step(self, batch: Any, index: int) -> None:
        x = self.observe(batch)
        terms = self.wake(self.model, self.recognition, x)
        if self.sleep_phi:
            terms = terms + self.sleep_phi * self.sleep(self.model, self.recognition, len(x))
        self.descend(("model", "recognition"), terms)
