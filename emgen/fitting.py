"""Fit any model with any trainer in one call."""

__all__ = ["FitResult", "fit"]

from dataclasses import dataclass, field
from typing import Any

import torch

from emgen.roles import Conjugate, serves


@dataclass
class FitResult:
    """What a fit leaves: the trained model, one dictionary of mean quantities an epoch, and whether it converged.

    Attributes:
        model: the model that was given, trained in place.
        history: for each epoch the named means of its ledger (`loss`, `elbo`, ...), in nats per datum.
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
        data: rows (N, *event) as a tensor, array or memory map; an `emgen.data.Data`; or an iterable of batches, such as a
            `DataLoader`, for data larger than memory. Rows are one batch for a closed-form trainer and batches of 128
            for one that descends.
        trainer: the name of an option of `configs/trainer`: em, vbem, vae, wake_sleep, ...
        max_epochs: sweeps over the data at the most.
        seed: of the order of the rows and of every draw.
        device: auto, cpu, cuda, cuda:1, mps.
        trainer_arguments: arguments of the trainer's constructor, in place of the option's: `free_energy=...`, `critic=...`.

    Raises:
        UserError: an unknown trainer or argument, with the nearest that exist.
        TypeError: the model lacks a role that the trainer needs; names the trainers that fit.

    >>> from emgen.models import GaussianMixture
    >>> x = torch.cat([torch.randn(50, 1) - 4, torch.randn(50, 1) + 4])
    >>> result = fit(GaussianMixture(1, components=2), x, "em", max_epochs=50)
    >>> len(result.history) <= 50
    True
    """
    import pytorch_lightning as lightning  # here, so that importing the package costs no training framework

    from emgen.cli import quiet, trainer_named
    from emgen.data import Data, Stream

    if max_epochs < 1:
        raise ValueError(f"max_epochs={max_epochs}: training takes at least one epoch.")
    quiet()
    torch.manual_seed(seed)
    module = trainer_named(trainer, model, trainer_arguments)
    module.seed = seed
    if not isinstance(data, (Data, Stream)) and not hasattr(data, "shape"):
        data = Stream(data)
    elif not isinstance(data, (Data, Stream)):
        whole = serves(model, Conjugate)
        data = Data(data, batch_size=None if whole else min(128, len(data)), shuffle=not whole, seed=seed)
    kind, _, number = device.partition(":")
    runner = lightning.Trainer(
        max_epochs=max_epochs, accelerator=kind, devices=[int(number)] if number else 1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0, use_distributed_sampler=False,
    )
    runner.fit(module, datamodule=data)
    return FitResult(model, module.history, module.converged)
