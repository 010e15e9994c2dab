"""Contrastive divergence: the model phase of the likelihood gradient by a Markov chain (level 7)."""

__all__ = ["CD"]

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from emgen.estimators.chains import swap, walk
from emgen.objectives.contrastive import ContrastiveDivergence
from emgen.roles import Energy
from emgen.trainers.base import OptimizerFactory, Trainer
from emgen.trainers.processes import count, gathered, share_out


class CD(Trainer):
    """Contrastive divergence, persistent or not, tempered or not; it is Monte Carlo generalised EM
    for energy models.

        for x in data:
            x̃ ← x  (CD)   or   x̃ stays where the last step left it  (persistent)
            k times:  x̃ ~ kernel(x̃);   with a ladder, on every rung, neighbours trading places
            θ ← θ − η ∇ [energy(x) − energy(x̃)]

    The chain is a buffer: it is in the checkpoint, and a resumed run walks on where it stood.

    Args:
        model: energy(x) and gibbs(state), for instance a Boltzmann machine; a ladder asks also for
            `move` and `start`.
        contrastive: the objective, with weight decay and sparsity.
        steps: k, sweeps of the chain for each step of the parameters.
        persistent: whether the chain outlives the batch.
        rungs: temperatures of parallel tempering, β evenly spaced in [0, 1]; 1 is no tempering.
            Needs `persistent`.
        optimizer: parameters → optimiser; SGD's momentum is Hinton's.
        clip: largest gradient norm; None for no clipping.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch; None for a constant
            rate.
        accumulate: batches whose gradients are averaged before a player steps.

    Raises:
        ValueError: steps or rungs below 1, or a ladder for chains that are not persistent.

    References:
        Hinton (2002), "Training products of experts by minimizing contrastive divergence"; Tieleman
        (2008), "Training restricted Boltzmann machines using approximations to the likelihood
        gradient"; Desjardins et al. (2010), "Tempered Markov chain Monte Carlo for training of
        restricted Boltzmann machines".
    """

    requires = (Energy,)

    def __init__(
        self,
        model: nn.Module,
        contrastive: ContrastiveDivergence = ContrastiveDivergence(),
        steps: int = 1,
        persistent: bool = False,
        rungs: int = 1,
        optimizer: OptimizerFactory = partial(SGD, lr=0.1, momentum=0.0),
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
        accumulate: int = 1,
    ):
        if steps < 1 or rungs < 1:
            raise ValueError(
                f"steps={steps}, rungs={rungs}: the chain takes at least one step, on at least one"
                " temperature."
            )
        if rungs > 1 and not persistent:
            raise ValueError(
                f"rungs={rungs}: parallel tempering runs a chain that outlives the batch; set"
                " persistent=true."
            )
        super().__init__(
            model,
            optimizers={"model": optimizer},
            clip=clip,
            scheduler=scheduler,
            accumulate=accumulate,
        )
        self.contrastive, self.steps, self.persistent, self.rungs = (
            contrastive,
            steps,
            persistent,
            rungs,
        )
        self.chain: Tensor | None
        self.register_buffer("chain", None)
        # each process walks its own chains, which are not to be made those of the first
        self._ddp_params_and_buffers_to_ignore = ["chain"]

    def training_step(self, batch: Any, index: int) -> None:
        x = self.observe(batch)
        if self.current_epoch == 0 and hasattr(
            self.model, "centre_at"
        ):  # the first epoch finds the mean of the data
            self.model.centre_at(self.shared(x.mean(0)), rate=1 / (index + 1))
        self.descend(
            "model",
            self.contrastive(
                self.model, x, self._tempered(len(x)) if self.rungs > 1 else self._dream(x)
            ),
        )

    def _dream(self, x: Tensor) -> Tensor:
        # a chain that was loaded from a persistent run's checkpoint is not where a chain from the
        # data begins
        state = walk(
            self.model.gibbs,
            self.chain if self.persistent and self.chain is not None else x,
            self.steps,
        )
        if self.persistent:
            self.chain = state
        return state

    @torch.no_grad()
    def _tempered(self, chains: int) -> Tensor:
        """The chains at β = 1 after k sweeps on every rung, each followed by both exchanges of
        neighbours.
        """
        state = self.chain
        if state is None:
            state = self.model.start(self.rungs * chains).unflatten(0, (self.rungs, chains))
        betas = torch.linspace(0, 1, self.rungs, device=state.device, dtype=state.dtype)
        for _ in range(self.steps):
            state = self.model.move(state, betas[:, None])
            for odd in (False, True):
                state = swap(self.model, state, betas, odd)
        self.chain = state
        return state[-1]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.chain is not None:  # of all processes, for a run may go on with other numbers
            checkpoint["state_dict"]["chain"] = gathered(self.chain, self._along)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        if "chain" in state:
            state["chain"] = share_out(state["chain"], self.global_rank, count(), self._along)
        self.chain = state.get("chain")

    @property
    def _along(self) -> int:
        """Along which dimension of their state the chains lie: a ladder has a row of them a rung."""
        return int(self.rungs > 1)
