"""Deep belief nets: greedy layers, then contrastive wake-sleep over the whole net (level 6)."""

__all__ = ["UpDown"]

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD

from emgen.estimators.chains import walk
from emgen.estimators.normalising import log_partition
from emgen.objectives.contrastive import ContrastiveDivergence, ModelPhase
from emgen.objectives.wake_sleep import Sleep, Wake
from emgen.roles import Latent, Recognition, Stacked
from emgen.trainers.base import OptimizerFactory, Trainer


class UpDown(Trainer):
    """Stack Boltzmann machines, then fine-tune them all by the up-down algorithm.

        greedy, some epochs a layer, from the lowest up:
            h ~ q(h^l|x);   contrastive divergence of machine l + 1 on h;   tie q(h^{l+1}|h^l) to it
        then, for x in data:
            up:     z ~ q(z|x);   θ ← θ + η ∇ [log p(x|z) + log p(z)], with Z of the top by k sweeps
                of a chain from z
            down:   z, x̃ from the chain's end;   φ ← φ + η ∇ log q(z|x̃)

    Each epoch ends by finding the top's log Z (exactly if it is small, else by annealed importance
    sampling), so every epoch has its variational bound `elbo`, the last one before fine-tuning too.

    Args:
        model: a `DeepBeliefNet`.
        greedy: epochs for each layer; 0 fine-tunes the net as it is.
        steps: k, sweeps of each chain.
        contrastive, wake, sleep: objectives.
        optimizer: parameters → optimiser, one for each machine in greedy learning.
        fine_tuning: parameters → optimiser, one for the net and one for its recognition net.
        temperatures: of the annealed importance sampling.
        clip, scheduler: largest gradient norm, and optimiser → learning-rate schedule; None for
            neither.
        accumulate: batches whose gradients are averaged before a player steps.

    References: Hinton, Osindero and Teh (2006), "A fast learning algorithm for deep belief nets".
    """

    requires = (Latent, Recognition, Stacked)

    def __init__(
        self,
        model: nn.Module,
        greedy: int = 10,
        steps: int = 1,
        contrastive: ContrastiveDivergence = ContrastiveDivergence(),
        wake: Wake = Wake(),
        sleep: Sleep = Sleep(),
        optimizer: OptimizerFactory = partial(SGD, lr=0.1),
        fine_tuning: OptimizerFactory = partial(SGD, lr=0.01),
        temperatures: int = 1000,
        clip: float | None = None,
        scheduler: Callable[[Any], Any] | None = None,
        accumulate: int = 1,
    ):
        if min(steps, temperatures, greedy + 1) < 1:
            raise ValueError(
                f"greedy={greedy}, steps={steps}, temperatures={temperatures}: at least 0, 1 and 1."
            )
        layers = {
            f"layer_{level}": optimizer for level, _ in enumerate(getattr(model, "machines", ()))
        }
        players = {**layers, "model": fine_tuning, "recognition": fine_tuning}
        super().__init__(
            model, optimizers=players, clip=clip, scheduler=scheduler, accumulate=accumulate
        )
        self.levels, self.greedy, self.milestones = len(layers), greedy, (greedy * len(layers),)
        self.steps, self.temperatures, self.contrastive, self.wake, self.sleep = (
            steps,
            temperatures,
            contrastive,
            wake,
            sleep,
        )

    def _find_parameters(self, player: str) -> list[nn.Parameter]:
        if player.startswith("layer_"):
            return list(self.model.machines[int(player[6:])].parameters())
        return super()._find_parameters(player)

    def training_step(self, batch: Any, index: int) -> None:
        x = self.observe(batch)
        level, epoch = divmod(self.current_epoch, self.greedy) if self.greedy else (self.levels, 0)
        if level < self.levels:
            self._learn_layer(level, x, epoch == 0, index)
        else:
            self._fine_tune(x)
        if self.sweep_ends:
            self._find_constant()

    def _learn_layer(self, level: int, x: Tensor, first: bool, index: int) -> None:
        machine, h = self.model.machines[level], self.model.below(level, x)
        if first and index == 0 and level > 0:
            self.model.stack(level)
        if first:
            machine.centre_at(self.shared(h.mean(0)), rate=1 / (index + 1))
        self.descend(
            f"layer_{level}", self.contrastive(machine, h, walk(machine.gibbs, h, self.steps))
        )
        if level < self.levels - 1:
            self.model.tie(level)

    def _fine_tune(self, x: Tensor) -> None:
        if self.model.log_z.isnan():  # no greedy epoch has found it
            self._find_constant()
        end = walk(self.model.top.gibbs, self.model.below(self.levels - 1, x), self.steps)
        self.descend(
            "model", self.wake(self.model, self.recognition, x) + ModelPhase()(self.model.top, end)
        )
        self.descend("recognition", self.sleep(self.model, self.recognition, self.model.dream(end)))

    def _find_constant(self) -> None:
        with self.together():
            self.model.set_constant(log_partition(self.model.top, self.temperatures))
