"""One run, one way: build its parts, fit them under Lightning, score the test rows, write down what
came out.
"""

__all__ = ["build_parts", "train"]

import inspect
import math
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger

from emgen.cli.checks import check_ranges
from emgen.cli.folder import RunFolder
from emgen.cli.hyperparameters import distinguishing
from emgen.errors import UserError
from emgen.evaluation.samples import generated_scores
from emgen.evaluation.scores import scored, scores
from emgen.evaluation.support import check_support
from emgen.options import build, locate, naming
from emgen.runtime import check_device

# what every trainer is compared by in TensorBoard, as far as its model and the data allow it
SCORES = ("log_likelihood", "elbo", "gap", "ess", "fid", "kid", "mmd")
TOTALS = ("seconds", "examples_per_second", "epochs", "parameters")


def train(
    cfg: DictConfig,
    run_dir: str | Path | RunFolder,
    choices: dict[str, str] | None = None,
    hydra: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Build, fit, score and record one run; returns its metrics.

    Nothing is written before all of it has been built, so that a request which a part refuses
    leaves no trace.

    Args:
        cfg: a composed `train.yaml`.
        run_dir: the run folder; a checkpoint in it is continued if `cfg.resume` is set.
        choices: names of the trainer, model and data options, for tables.
        hydra: what Hydra keeps of the run, by the names of the files under `.hydra/`.

    Raises:
        UserError: the folder is another run's, or a part refuses its arguments.
    """
    if isinstance(run_dir, RunFolder):  # whoever made it gives it back
        return _run(cfg, run_dir, choices or {}, hydra)
    folder = RunFolder(run_dir)
    try:
        return _run(cfg, folder, choices or {}, hydra)
    finally:
        folder.release()


def _run(
    cfg: DictConfig, folder: RunFolder, choices: dict[str, str], hydra: dict[str, Any] | None
) -> dict[str, float]:
    """The one way of a run, in a folder that is this process's own from the claim on."""
    check_ranges(cfg)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    names = _names(config, choices)
    folder.claim(resume=bool(cfg.resume))
    checkpoint = folder.checkpoint("last") if cfg.resume else None

    data, module = build_parts(config)
    with naming("data"):
        for split in data.rows:
            check_support(module.model, data.observed(split), f"the {split} data", scored=True)
    trainer = _lightning(config, folder)

    folder.begin({**config, "choices": names}, hydra)
    path = None if checkpoint is None else str(checkpoint)
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)

    summary = _scored(trainer, module, data, config, names)
    folder.write_summary(summary)
    critic = config.get("critic") if _takes_critic(config["trainer"]) else None
    asked = list((hydra or {}).get("overrides.yaml", ()))
    settings = distinguishing({**config, "critic": critic}, choices, asked)
    _write_hyperparameters(trainer, summary, {**names, **settings, "seed": config["seed"]})
    folder.write_status("finished")
    return summary["metrics"]


def build_parts(config: Any) -> tuple[Any, Any]:
    """The data and the trainer (which holds the model and the critic) of a composed configuration.

    Who meets whom is here: a model builder that takes `event_shape` is given the data's, a trainer
    that takes `critic` is given one.

    Args:
        config: resolved; plain mappings or OmegaConf's.

    Raises:
        UserError: a part refuses its arguments; the sentence names the part.
    """
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    data = build(config["data"], "data")
    event_shape = tuple(data.event_shape)

    torch.manual_seed(config["seed"])  # this process is the run's own
    players = {"model": build(config["model"], "model", event_shape=event_shape)}
    if _takes_critic(config["trainer"]):
        if not config.get("critic"):
            raise UserError(
                "critic was left out or set to null, and this trainer plays against one: drop that"
                " override."
            )
        players["critic"] = build(config["critic"], "critic", event_shape=event_shape)

    module = build(config["trainer"], "trainer", **players)
    module.seed = config["seed"]
    with naming("trainer"):
        module.configure_optimizers()  # so that a bad rate is refused before anything starts
        if (
            getattr(module, "every", None) == "memo"
        ):  # as it will ask itself, when a run folder is there already
            data.refuse_shuffled("every=memo")
    return data, module


def _takes_critic(node: dict[str, Any]) -> bool:
    with naming("trainer"):
        return "critic" in inspect.signature(locate(node.get("_target_"))).parameters


def _lightning(config: dict[str, Any], folder: RunFolder) -> lightning.Trainer:
    """Lightning's Trainer with the run's callbacks and logger, which writes into the run's folder."""
    device = config["lightning"]
    check_device("lightning.accelerator", device.get("accelerator"), device.get("devices", "auto"))
    callbacks = [
        build(node, f"callbacks.{name}")
        for name, node in (config.get("callbacks") or {}).items()
        if node
    ]
    logger = None
    if config.get("logger"):
        place = {} if config["logger"].get("save_dir") else {"save_dir": str(folder.path)}
        logger = build(config["logger"], "logger", **place)
    return build(
        device,
        "lightning",
        default_root_dir=str(folder.path),
        callbacks=callbacks,
        logger=logger or False,
        plugins=[folder.checkpoint_io],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _scored(
    trainer: lightning.Trainer,
    module: Any,
    data: Any,
    config: dict[str, Any],
    names: dict[str, str],
) -> dict[str, Any]:
    """What `summary.json` says: the last epoch's means, and the scores of the test rows."""
    test = scored(module.model, data, "test", config["evaluation"]["rows"])
    module.model.to(test.x.device)
    evaluation, seed = config["evaluation"], config["seed"]
    found = scores(module.model, test.x, evaluation["samples"], seed)
    found |= generated_scores(module.model, data, "test", evaluation.get("draws"), seed)

    metrics: dict[str, float] = {tag: value for tag, value in module.row.items() if "/" in tag}
    for name, estimate in found.items():
        metrics[f"test/{name}"] = estimate.value
        metrics[f"test/{name}_error"] = estimate.error
    seconds = float(module.row.get("seconds", 0.0))
    return {
        **names,
        "seed": config["seed"],
        "epochs": trainer.current_epoch,
        "seconds": seconds,
        "examples_per_second": module.examples / seconds if seconds else None,
        "parameters": sum(p.numel() for p in module.parameters()),
        "binarise": getattr(data, "binarise", "none"),
        "rows": test.n,
        "metrics": metrics,
        "methods": {f"test/{name}": estimate.method for name, estimate in found.items()},
        "torch": torch.__version__,
    }


def _write_hyperparameters(
    trainer: lightning.Trainer, summary: dict[str, Any], settings: dict[str, Any]
) -> None:
    """TensorBoard's table of runs: what distinguishes them, beside their scores."""
    tags = {f"test/{name}": summary["metrics"].get(f"test/{name}") for name in SCORES}
    tags |= {f"total/{key}": summary[key] for key in TOTALS}
    metrics = {tag: value for tag, value in tags.items() if value is not None}
    metrics = {tag: value for tag, value in metrics.items() if math.isfinite(value)}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, metrics, trainer.lightning_module.examples)
            logger.finalize("success")
            logger.experiment.close()


def _names(config: dict[str, Any], choices: dict[str, str]) -> dict[str, str]:
    """The names of the options of trainer, model and data, or of their classes where none was
    chosen.
    """
    parts = ("trainer", "model", "data")
    return {
        part: choices.get(part) or config[part]["_target_"].rpartition(".")[2] for part in parts
    }
