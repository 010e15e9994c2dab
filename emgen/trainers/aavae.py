"""The adversary-activated VAE: a VAE that learns from its own dreams too (level 8)."""

__all__ = ["AAVAE"]

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from emgen.objectives.adversarial import Adversarial
from emgen.objectives.adversary_activated import AdversaryActivated
from emgen.roles import Latent, Recognition
from emgen.trainers.base import OptimizerFactory, Trainer


class AAVAE(Trainer):
    """Adversary-activated VAE: the discriminator of a GAN weighs the rows of a VAE, data and dreams.

        for x in data:
            x̃ ~ p                                                    as many as data, held still
            ψ ← ψ + η ∇ bound(x, x̃)                                  the critic, as in a GAN
            (θ, φ) ← (θ, φ) + η ∇ [D(x) F(x) + D(x̃) F(x̃)]            D = σ(v), held still

    For small data, of which dreams are the more; rows are seen as observed, and dreams are draws.

    Args:
        model: p(z) p(x|z) that carries its `recognition` network q(z|x).
        critic: a network whose output is the log density ratio v(x), (B, *event) → (B,).
        adversarial: the critic's bound and its penalty.
        activated: the objective of model and recognition.
        optimizer: parameters → optimiser of the two, who move together.
        critic_optimizer: parameters → optimiser of the critic.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.

    References: Hu, Yang, Salakhutdinov and Xing (2018), "On unifying deep generative models".
    """

    requires = (Latent, Recognition)

    def __init__(
        self,
        model: nn.Module,
        critic: nn.Module,
        adversarial: Adversarial = Adversarial(),
        activated: AdversaryActivated = AdversaryActivated(),
        optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True),
        critic_optimizer: OptimizerFactory = partial(Adam, lr=2e-4, fused=True),
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
    ):
        super().__init__(
            model,
            critic=critic,
            optimizers={"critic": critic_optimizer, ("model", "recognition"): optimizer},
            clip=clip,
            scheduler=scheduler,
        )
        self.adversarial, self.activated = adversarial, activated

    def training_step(self, batch: Any, index: int) -> None:
        x = self.observe(batch)
        dreams = self.model.sample(len(x))
        self.descend("critic", self.adversarial.critic(self.critic, x, dreams, self.progress))
        self.descend(
            ("model", "recognition"),
            self.activated(self.model, self.recognition, self.critic, x, dreams),
        )
