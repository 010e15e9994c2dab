"""f-GM: one bound on an f-divergence of two joints, of which VAE and f-GAN are cases (level 9)."""

__all__ = ["FGM"]

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from emgen.divergences import JensenShannon
from emgen.objectives.base import Terms
from emgen.objectives.f_gm import FGM as Bound
from emgen.roles import Latent, Recognition
from emgen.trainers.base import OptimizerFactory, Trainer


class FGM(Trainer):
    """f-divergence generative model: a density estimator d(x) plays the critic of pairs (x, z).

        for x in data:
            ẑ ~ q(z|x);   z, x̃ ~ p(x, z)
            v = log d(x) + log q(z|x) − log p(z) − log p(x|z)
            ψ ← ψ + η ∇ bound;   (θ, φ) ← (θ, φ) − η ∇ bound          at once

    Args:
        model: p(z) p(x|z) of real values that carries its `recognition` network q(z|x).
        critic: x → log d(x), (B, *event) → (B,).
        divergence: the f-divergence.
        optimizer: parameters → optimiser of model and recognition, who move together.
        critic_optimizer: parameters → optimiser of d.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.

    References: Gimenez and Zou (2022), "A unified f-divergence framework generalizing VAE and GAN".
    """

    requires = (Latent, Recognition)

    def __init__(
        self,
        model: nn.Module,
        critic: nn.Module,
        divergence: Any = JensenShannon(),
        optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True),
        critic_optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True),
        clip: float | None = 1.0,
        scheduler: Callable[[Any], Any] | None = None,
    ):
        super().__init__(
            model,
            critic=critic,
            optimizers={"critic": critic_optimizer, ("model", "recognition"): optimizer},
            clip=clip,
            scheduler=scheduler,
        )
        self.objective = Bound(divergence)

    def training_step(self, batch: Any, index: int) -> None:
        bound = self.objective(self.model, self.recognition, self.critic, self.grey(batch))
        self.descend({"critic": (-1.0) * Terms(bound.loss), ("model", "recognition"): bound})

    @property
    def descends(self) -> dict[str, str]:
        f = self.objective.divergence
        return {"model and recognition": f"{f} of (data, codes) | (dreams, prior draws)"}
