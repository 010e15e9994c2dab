"""An exponential moving average of the weights, which is what is scored, drawn from and exported."""

__all__ = ["EMA"]

from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(lightning.Callback):
    """Averages the model's weights over steps; outside the steps the model holds the average.

        θ̄_0 = θ_0,    θ̄_t = β_t θ̄_{t-1} + (1 − β_t) θ_t,    β_t = min(decay, (1 + t) / (10 + t))

    The optimisers go on from θ, as if nobody averaged. Validation, figures, scores and the
    checkpoint's `state_dict`, from which samples and exports are made, have θ̄; the checkpoint keeps
    θ beside it, so that a resumed run is the same run bit for bit. Buffers, such as running means,
    are those of the last step, and a critic is not averaged.

    Args:
        decay: β, in [0, 1); 0 is no average at all.
        warmup: whether β_t rises to it, so that a short run forgets where it started; else it is
            `decay` from the first step.

    Raises:
        ValueError: decay outside [0, 1); at the start of training: a model that no gradient trains,
            or that keeps the normalising constant of its weights.

    References:
        Polyak and Juditsky (1992), Acceleration of stochastic approximation by averaging.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay={decay}: the share of the past in the average lies in [0, 1); 0 is no"
                " average."
            )
        self.decay, self.warmup = decay, warmup
        self.steps = 0
        self._aside: dict[str, Tensor] = {}  # the weights that the model does not hold now
        self._averaged = False  # whether those that it holds are the average

    def check(self, pl_module: Any) -> None:
        """
        Raises:
            ValueError: the model has no weights whose average would be a model.
        """
        if not _weights(pl_module.model):
            raise ValueError(
                f"no weights of {type(pl_module.model).__name__} are moved by gradients, so there is"
                " nothing to average: leave callbacks=ema out."
            )
        if hasattr(pl_module.model, "set_constant"):
            raise ValueError(
                f"{type(pl_module.model).__name__} keeps the normalising constant of its weights,"
                " which is not that of their average: leave callbacks=ema out."
            )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.check(pl_module)
        weights = _weights(pl_module.model)
        if not self._aside:
            self._aside = {name: p.detach().clone() for name, p in weights.items()}
        self._aside = {name: value.to(weights[name].device) for name, value in self._aside.items()}
        self._hold(pl_module, average=False)
        pl_module.after_step.append(lambda: self._update(pl_module))

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._hold(pl_module, average=False)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._hold(pl_module, average=True)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self._aside:
            self._hold(pl_module, average=True)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self._aside and trainer.training:
            self._hold(pl_module, average=False)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if not self._aside:
            return
        held = {name: p.detach() for name, p in _weights(pl_module.model).items()}
        average, trained = (held, self._aside) if self._averaged else (self._aside, held)
        checkpoint["state_dict"] |= {f"model.{name}": value for name, value in average.items()}
        checkpoint["ema"] = {"steps": self.steps, "trained": dict(trained)}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if "ema" in checkpoint:  # a run that begins to average here does so from its weights
            self.steps, self._aside = checkpoint["ema"]["steps"], checkpoint["ema"]["trained"]
            self._averaged = True  # as the checkpoint's own state_dict is

    def _update(self, pl_module: Any) -> None:
        self.steps += 1
        rising = (1 + self.steps) / (10 + self.steps) if self.warmup else 1.0
        weights: Any = list(_weights(pl_module.model).values())
        get_ema_multi_avg_fn(min(self.decay, rising))(list(self._aside.values()), weights, None)

    @torch.no_grad()
    def _hold(self, pl_module: Any, average: bool) -> None:
        """Put the average into the model, or the weights that are trained."""
        if self._averaged == average:
            return
        for name, p in _weights(pl_module.model).items():
            p.data, self._aside[name] = self._aside[name], p.data
        self._averaged = average


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
