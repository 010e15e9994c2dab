"""Amortised variational EM: the free energy, both players together (level 5)."""

__all__ = ["VAE"]

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from emgen.objectives.free_energy import FreeEnergy
from emgen.roles import Latent, Recognition
from emgen.trainers.base import OptimizerFactory, Trainer


class VAE(Trainer):
    """Variational autoencoder: ascend F(q_φ, θ) in θ and φ at once, by reparameterised draws.

        for x in data:
            z = g_φ(x, ε)                                     reparameterised draw of q(z|x)
            (θ, φ) ← (θ, φ) + η ∇ [log p(x|z) − KL(q(z|x) ‖ p(z))]

    The importance-weighted autoencoder (`trainer=iwae`) and the β-VAE are the same schedule over
    another `FreeEnergy`.

    Args:
        model: p(z) p(x|z) that carries its `recognition` network q(z|x).
        free_energy: the objective.
        optimizer: parameters → optimiser of the two players, who move together.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.
        accumulate: batches whose gradients are averaged before a player steps.

    References:
        Kingma and Welling (2014), "Auto-encoding variational Bayes"; Rezende, Mohamed and Wierstra
        (2014), "Stochastic backpropagation and approximate inference in deep generative models".
    """

    requires = (Latent, Recognition)

    def __init__(
        self,
        model: nn.Module,
        free_energy: FreeEnergy = FreeEnergy(),
        optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True),
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
        accumulate: int = 1,
    ):
        super().__init__(
            model,
            optimizers={("model", "recognition"): optimizer},
            clip=clip,
            scheduler=scheduler,
            accumulate=accumulate,
        )
        self.free_energy = free_energy

    def training_step(self, batch: Any, index: int) -> None:
        x = self.observe(batch)
        self.descend(("model", "recognition"), self.free_energy(self.model, self.recognition, x))
