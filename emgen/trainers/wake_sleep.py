"""Wake-sleep: the two KL divergences between q(x, z) and p(x, z), descended in turn (level 6)."""

__all__ = ["WakeSleep"]

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from emgen.objectives.wake_sleep import Sleep, Wake
from emgen.roles import Latent, Recognition
from emgen.trainers.base import OptimizerFactory, Trainer


class WakeSleep(Trainer):
    """The wake-sleep algorithm, for continuous or discrete latents of any depth.

        for x in data:
            wake:   z ~ q(z|x);         θ ← θ + η ∇_θ log p(x, z)      M-projection, KL(q ‖ p) over
                θ
            sleep:  z, x̃ ~ p(x, z);     φ ← φ + η ∇_φ log q(z|x̃)       in place of the E-step,
                KL(p ‖ q) over φ

    Args:
        model: p(z) p(x|z) that carries its `recognition` network q(z|x).
        wake, sleep: the two objectives.
        optimizer: parameters → optimiser, one for each of the two players.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.
        accumulate: batches whose gradients are averaged before a player steps.

    References: Hinton, Dayan, Frey and Neal (1995), "The wake-sleep algorithm for unsupervised
    neural networks".
    """

    requires = (Latent, Recognition)

    def __init__(
        self,
        model: nn.Module,
        wake: Wake = Wake(),
        sleep: Sleep = Sleep(),
        optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True),
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
        accumulate: int = 1,
    ):
        super().__init__(
            model,
            optimizers={"model": optimizer, "recognition": optimizer},
            clip=clip,
            scheduler=scheduler,
            accumulate=accumulate,
        )
        self.wake, self.sleep = wake, sleep

    def training_step(self, batch: Any, index: int) -> None:
        x = self.observe(batch)
        self.descend("model", self.wake(self.model, self.recognition, x))
        self.descend("recognition", self.sleep(self.model, self.recognition, len(x)))
