"""f-GAN: any f-divergence through its Fenchel dual, both players moving at once (level 9)."""

__all__ = ["FGAN"]

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from emgen.divergences import KL
from emgen.objectives.adversarial import Adversarial
from emgen.objectives.penalties import GradientPenalty
from emgen.objectives.wake_sleep import Sleep
from emgen.roles import Generator
from emgen.trainers.base import OptimizerFactory, Trainer


class FGAN(Trainer):
    """Variational divergence minimisation by the single-step method: both gradients are taken at
    the same point.

        for x in data:
            x̃ ~ p
            ψ ← ψ + η ∇_ψ bound(x, x̃);   θ ← θ − η ∇_θ game(x̃)     at once: descent-ascent towards
            the saddle point z, x̃ ~ p(x, z);               φ ← φ + η ∇_φ log q(z|x̃)  sleep: dreams
            teach the encoder

    Args:
        model: anything with `rsample(n)`.
        critic: a network whose output is the log density ratio v(x), (B, *event) → (B,).
        divergence: the f-divergence to descend.
        non_saturating: whether the model ascends E_p[f′(eᵛ)] (the paper's section 3.2) or descends
            the bound itself.
        penalty: on the critic's gradient; None plays the bare game.
        surrogate: a margin loss or another divergence that teaches the critic; None for the
            divergence itself. The χ² divergences need one far from the data, where their critic's
            loss, a power of the ratio, runs away.
        sleep: the objective of the recognition network.
        optimizer: parameters → optimiser of model and critic.
        critic_optimizer: the critic's own, for two time-scales (Heusel et al., 2017, "GANs trained
            by a two time-scale update rule"); None for the same as the model's.
        recognition_optimizer: parameters → optimiser of the recognition network.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.
        accumulate: batches whose gradients are averaged before a player steps.

    References: Nowozin, Cseke and Tomioka (2016), "f-GAN: training generative neural samplers using
    variational divergence minimization".
    """

    requires = (Generator,)

    def __init__(
        self,
        model: nn.Module,
        critic: nn.Module,
        divergence: Any = KL(),
        non_saturating: bool = True,
        penalty: Any = GradientPenalty(weight=1.0),
        surrogate: Any = None,
        sleep: Sleep = Sleep(),
        optimizer: OptimizerFactory = partial(Adam, lr=1e-3, betas=(0.5, 0.999), fused=True),
        critic_optimizer: OptimizerFactory | None = None,
        recognition_optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True),
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
        accumulate: int = 1,
    ):
        super().__init__(
            model,
            critic=critic,
            optimizers={
                "critic": critic_optimizer or optimizer,
                "model": optimizer,
                "recognition": recognition_optimizer,
            },
            clip=clip,
            scheduler=scheduler,
            accumulate=accumulate,
        )
        self.adversarial, self.sleep = (
            Adversarial(divergence, non_saturating, penalty, surrogate),
            sleep,
        )

    def training_step(self, batch: Any, index: int) -> None:
        x = self.grey(batch)
        samples = self.model.rsample(len(x))
        self.descend(
            {
                "critic": self.adversarial.critic(self.critic, x, samples, self.progress),
                "model": self.adversarial.model(self.critic, samples),
            }
        )
        if self.has_recognition:
            self.descend("recognition", self.sleep(self.model, self.recognition, len(x)))

    @property
    def descends(self) -> dict[str, str]:
        return {"model": self.adversarial.says("data | samples")}
