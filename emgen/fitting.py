"""Fit any model with any trainer in one call."""

__all__ = ["FitResult", "fit"]

import inspect
from dataclasses import dataclass, field
from numbers import Integral, Number
from pathlib import Path
from typing import Any

from torch import nn

from emgen.errors import UserError
from emgen.options import build, locate, option
from emgen.randomness import seeded
from emgen.roles import Conjugate, serves

DEVICES = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")


@dataclass
class FitResult:
    """What a fit leaves: the trained model, one dictionary of mean quantities an epoch, and whether
    it converged.

    Attributes:
        model: the model that was given, trained in place.
        history: for each epoch the named means of its ledger (`loss`, `elbo`, ...), in nats per
            datum.
        converged: whether the trainer's own tolerance ended the fit before `max_epochs`.
    """

    model: Any
    history: list[dict[str, float]] = field(default_factory=list)
    converged: bool = False


def fit(
    model: Any,
    data: Any,
    trainer: str = "em",
    *,
    max_epochs: int = 100,
    seed: int = 0,
    device: str = "auto",
    **trainer_arguments: Any,
) -> FitResult:
    """Train `model` on `data` by the named trainer.

    Args:
        model: a module that serves the trainer's roles.
        data: rows (N, *event) as a tensor, array, memory map or nested lists of numbers; an
            `emgen.data.Data`; or an iterable of batches, such as a `DataLoader`, for data larger
            than memory. Rows are one batch for a closed-form trainer and batches of 128 for one
            that descends.
        trainer: the name of an option of `configs/trainer`: em, vbem, vae, wake_sleep, ...
        max_epochs: sweeps over the data at the most.
        seed: of the order of the rows and of every draw, also of a `DataLoader` that shuffles by
            torch's numbers; the caller's own random numbers are left as they were.
        device: auto, cpu, cuda, cuda:1, mps.
        trainer_arguments: arguments of the trainer's constructor, in place of the option's:
            `free_energy=...`, `critic=...`.

    Raises:
        ValueError: rows that the model cannot have made, such as 0.5 under a Poisson; names the
            first of them.
        UserError: an unknown trainer or argument, with the nearest that exist.
        TypeError: the model lacks a role that the trainer needs; names the trainers that fit.

    >>> import torch
    >>> from emgen.models import GaussianMixture
    >>> x = torch.cat([torch.randn(50, 1) - 4, torch.randn(50, 1) + 4])
    >>> result = fit(GaussianMixture(1, components=2), x, "em", max_epochs=50)
    >>> len(result.history) <= 50
    True
    """
    from emgen.runtime import check_device

    kind, number = _checked(model, max_epochs, seed, str(device))
    check_device("device", kind)
    with seeded(int(seed)):
        return _trained(
            model, data, trainer, trainer_arguments, int(max_epochs), int(seed), kind, number
        )


def _trained(
    model: nn.Module,
    data: Any,
    trainer: str,
    trainer_arguments: dict[str, Any],
    max_epochs: int,
    seed: int,
    kind: str,
    number: str,
) -> FitResult:
    """What `fit` returns, of arguments that have been checked."""
    import pytorch_lightning as lightning  # here, so that importing the package costs no training framework

    from emgen.data import Data, Stream
    from emgen.evaluation.support import check_support
    from emgen.runtime import quiet

    quiet()
    module = _trainer(trainer, model, trainer_arguments)
    module.seed = seed
    if _is_rows(data):
        whole = serves(model, Conjugate)
        data = Data(data, batch_size=None if whole else 128, shuffle=not whole, seed=seed)
    elif not isinstance(data, (Data, Stream)):
        data = Stream(data)
    if isinstance(data, Data):
        judged = (
            module.critic is not None
        )  # a critic is shown the decoder's means beside the rows as they are stored
        rows = data.split("train") if judged else data.observed("train")
        check_support(model, rows, "the train data", beside_means=judged)
    runner = lightning.Trainer(
        max_epochs=max_epochs,
        accelerator=kind,
        devices=[int(number)] if number else 1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    runner.fit(module, datamodule=data)
    return FitResult(model, module.history, module.converged)


def _trainer(name: str, model: Any, arguments: dict[str, Any]) -> Any:
    """The trainer of an option of `configs/trainer`, over a model; `arguments` stand in for the
    option's.
    """
    node = option("trainer", name)
    parameters = inspect.signature(locate(node["_target_"])).parameters
    accepted = list(parameters)
    unknown = [argument for argument in arguments if argument not in accepted]
    if unknown:
        raise UserError(
            f"trainer {name!r} takes no argument {unknown[0]!r}; it takes {', '.join(accepted)}."
        )
    plays = "critic" in accepted and parameters["critic"].default is inspect.Parameter.empty
    if plays and arguments.get("critic") is None:
        raise UserError(
            f"trainer {name!r} needs critic=..., a network whose output is a log density ratio,"
            " such as emgen.models.dense_critic(event_shape)."
        )
    plain = {
        key: value for key, value in arguments.items() if isinstance(value, (bool, int, float, str))
    }
    return build({**node, **plain}, "trainer", **{"model": model, **arguments})


def _is_rows(data: Any) -> bool:
    """Whether `data` are rows: what has a shape, lists of numbers, or what `rows_of` refuses (a
    path, a dictionary, nothing).
    """
    one = data
    while isinstance(one, (list, tuple)) and one:
        one = one[0]
    return (
        hasattr(data, "shape")
        or data is None
        or isinstance(one, (Number, str, bytes, Path, list, tuple, dict))
    )


def _checked(model: Any, max_epochs: Any, seed: Any, device: str) -> tuple[str, str]:
    """The kind of the device and its number, if the plain arguments are what they should be."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is {type(model).__name__}: give a torch module that is built, such as"
            " emgen.models.GaussianMixture(2)."
        )
    if not isinstance(max_epochs, Integral) or int(max_epochs) < 1:
        raise ValueError(
            f"max_epochs={max_epochs!r}: training takes at least one epoch; give an integer >= 1."
        )
    if not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise ValueError(f"seed={seed!r}: a seed is an integer >= 0.")
    kind, colon, number = device.partition(":")
    if kind not in DEVICES or (colon and not number.isdecimal()):
        raise ValueError(
            f"device={device!r} is none of {', '.join(DEVICES)}, or one with a number such as"
            " cuda:1."
        )
    return kind, number
