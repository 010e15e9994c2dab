"""The adversarial game in turn: some steps of the critic, one of the model, one of sleep (level 8)."""

__all__ = ["GAN"]

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from emgen.objectives.adversarial import Adversarial
from emgen.objectives.penalties import GradientPenalty
from emgen.objectives.wake_sleep import Sleep
from emgen.roles import Generator
from emgen.trainers.base import OptimizerFactory, Trainer


class GAN(Trainer):
    """Generative adversarial network; its encoder, where the model has one, is trained by sleep.

        for x in data:
            k times:  x̃ ~ p;   ψ ← ψ + η ∇_ψ bound(x, x̃)           the critic closes on the
                divergence
            x̃ ~ p;             θ ← θ − η ∇_θ game(x̃)               the model plays against it
            z, x̃ ~ p(x, z);    φ ← φ + η ∇_φ log q(z|x̃)            sleep: dreams teach the encoder

    Data are seen as stored (grey) and samples are decoder means, for a critic would tell binary
    data from means at once.

    Args:
        model: anything with `rsample(n)`.
        critic: a network whose output is the log density ratio v(x), (B, *event) → (B,).
        adversarial: the bound and the two sides of the game; without its penalty this is the
            original GAN.
        sleep: the objective of the recognition network.
        critic_steps: k, the critic's steps for each of the model's.
        optimizer: parameters → optimiser of model and critic.
        critic_optimizer: the critic's own, for two time-scales (Heusel et al., 2017, "GANs trained
            by a two time-scale update rule"); None for the same as the model's.
        recognition_optimizer: parameters → optimiser of the recognition network.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.
        accumulate: batches whose gradients are averaged before a player steps.

    References: Goodfellow et al. (2014), "Generative adversarial nets".
    """

    requires = (Generator,)

    def __init__(
        self,
        model: nn.Module,
        critic: nn.Module,
        adversarial: Adversarial = Adversarial(penalty=GradientPenalty()),
        sleep: Sleep = Sleep(),
        critic_steps: int = 1,
        optimizer: OptimizerFactory = partial(Adam, lr=1e-3, betas=(0.5, 0.999), fused=True),
        critic_optimizer: OptimizerFactory | None = None,
        recognition_optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True),
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
        accumulate: int = 1,
    ):
        if critic_steps < 1:
            raise ValueError(
                f"critic_steps={critic_steps}: the critic takes at least one step a turn; give an"
                " integer >= 1."
            )
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
        self.adversarial, self.sleep, self.critic_steps = adversarial, sleep, critic_steps

    def training_step(self, batch: Any, index: int) -> None:
        x = self.grey(batch)
        for _ in range(self.critic_steps):
            self.descend(
                "critic",
                self.adversarial.critic(self.critic, x, self.model.rsample(len(x)), self.progress),
            )
        self.descend("model", self.adversarial.model(self.critic, self.model.rsample(len(x))))
        if self.has_recognition:
            self.descend("recognition", self.sleep(self.model, self.recognition, len(x)))

    @property
    def descends(self) -> dict[str, str]:
        return {"model": self.adversarial.says("data | samples")}
