"""Learning rates that change while a run trains, as Lightning takes them: a schedule, or a dictionary
that says when it steps and by what.
"""

__all__ = ["check_mode", "cosine", "linear", "plateau", "warmup"]

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


def cosine(optimizer: Optimizer, epochs: int, warmup: int = 0, final: float = 0.0) -> LambdaLR:
    """Half a cosine from the optimiser's rate η to `final` η over a run, after a linear warm-up.

        η_t / η = final + (1 − final) (1 + cos(π (t − warmup) / (epochs − warmup))) / 2

    Args:
        optimizer: whose rates are changed.
        epochs: after which the rate is `final` of what it was; it stays there.
        warmup: epochs in which it rises to η first, from η / warmup.
        final: the share of η that is left, in [0, 1].

    Raises:
        ValueError: no epochs left after the warm-up, or a share outside [0, 1].

    References:
        Loshchilov and Hutter (2017), SGDR: stochastic gradient descent with warm restarts.
    """
    _check_share(final)
    _check_lengths(epochs, warmup)

    def share(t: int) -> float:
        if t < warmup:
            return (t + 1) / warmup
        done = min(1.0, (t - warmup) / (epochs - warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, share)


def linear(optimizer: Optimizer, epochs: int, final: float = 0.01) -> LambdaLR:
    """A straight line from the optimiser's rate η to `final` η over a run.

    Args:
        optimizer: whose rates are changed.
        epochs: after which the rate is `final` of what it was; it stays there.
        final: the share of η that is left, in [0, 1].

    Raises:
        ValueError: no epochs, or a share outside [0, 1].
    """
    _check_share(final)
    _check_lengths(epochs, 0)
    return LambdaLR(optimizer, lambda t: 1 + (final - 1) * min(1.0, t / epochs))


def warmup(optimizer: Optimizer, length: int = 5, interval: str = "epoch") -> dict[str, Any]:
    """A linear rise to the optimiser's rate η, which then stays: η_t = η min(1, (t + 1) / length).

    Args:
        optimizer: whose rates are changed.
        length: of the rise, in epochs or steps.
        interval: epoch or step, which is each batch after which an optimiser moved.

    Raises:
        ValueError: no length, or neither epoch nor step.
    """
    if interval not in ("epoch", "step"):
        raise ValueError(f"interval={interval}: a rate changes every epoch or every step.")
    if length < 1:
        raise ValueError(f"length={length}: a warm-up takes at least one {interval}.")
    rise = LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / length))
    return {"scheduler": rise, "interval": interval}


def plateau(
    optimizer: Optimizer,
    monitor: str = "val/log_likelihood",
    mode: str = "max",
    factor: float = 0.5,
    patience: int = 5,
    threshold: float = 1e-4,
    cooldown: int = 0,
    min_lr: float = 0.0,
) -> dict[str, Any]:
    """The rate is multiplied by `factor` when a recorded tag has not improved for a while.

    Epochs that do not record the tag do not count.

    Args:
        optimizer: whose rates are changed.
        monitor: the tag, such as val/log_likelihood or train/loss.
        mode: max where larger is better, min where smaller is.
        factor: of the rate, in (0, 1).
        patience: how many times in a row the tag may be no better before the rate falls.
        threshold: by how much a value has to be better to count, in the tag's own units.
        cooldown: how many times after a fall do not count.
        min_lr: the rate falls no further.

    Raises:
        ValueError: neither min nor max, or a loss that is to be as large as possible.
    """
    check_mode(monitor, mode)
    schedule = ReduceLROnPlateau(
        optimizer,
        mode=mode,  # type: ignore[arg-type]
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode="abs",  # a share of a record below nought would be the wrong way round
        cooldown=cooldown,
        min_lr=min_lr,
    )
    return {"scheduler": schedule, "monitor": monitor}


def check_mode(monitor: str, mode: str) -> None:
    """
    Raises:
        ValueError: neither min nor max, or a loss that is to be as large as possible.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"mode={mode}: give min or max, which is better of two values.")
    if mode == "max" and monitor.endswith("loss"):
        raise ValueError(
            f"monitor={monitor}, mode=max: a loss is better when it is smaller; give mode=min."
        )


def _check_share(final: float) -> None:
    if not 0 <= final <= 1:
        raise ValueError(f"final={final}: the share of the rate that is left lies in [0, 1].")


def _check_lengths(epochs: int, warmup: int) -> None:
    if not 0 <= warmup < epochs:
        raise ValueError(
            f"epochs={epochs}, warmup={warmup}: the rate falls over at least one epoch after the"
            " warm-up."
        )
