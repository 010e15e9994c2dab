"""One run, one way: build its parts, fit them under Lightning, score the test rows, write down what
came out.
"""

__all__ = ["Unscored", "build_parts", "train"]

import inspect
import math
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger

from emgen.callbacks.checkpoint import Interrupted
from emgen.cli.checks import check_ranges
from emgen.cli.folder import RunFolder
from emgen.errors import UserError
from emgen.estimators.progress import shown
from emgen.evaluation.budget import Phases, affordable
from emgen.evaluation.scores import scored, scores
from emgen.evaluation.support import check_support
from emgen.options import build, locate, naming
from emgen.runtime import check_device

SAMPLES = 200  # K where nobody asked for another, of as many data as the budget allows
# every trainer's hyper-parameter table in TensorBoard has these columns
SCORES = ("test/log_likelihood", "test/elbo", "test/gap", "test/ess")


class Unscored(BaseException):
    """A signal stopped the scoring of a run, which is trained and finished all the same; `signum`
    says which.

    No error, so nothing that catches errors takes it for one.
    """

    def __init__(self, signum: int, folder: RunFolder):
        super().__init__(
            f"training is finished, and {signal.Signals(signum).name} stopped its scoring; score it"
            f" with: {folder.scoring}"
        )
        self.signum = signum


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
        Unscored: a signal came while the test rows were scored; all but the score is written.
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

    summary = _summary(trainer, module, data, config, names)
    try:
        summary |= _scores(trainer, module, data, config, summary["metrics"])
    except (Interrupted, KeyboardInterrupt) as stop:
        unscored = Unscored(getattr(stop, "signum", signal.SIGINT), folder)
        _close(trainer, folder, {**summary, "unscored": str(unscored)}, names, str(unscored))
        raise unscored from None
    _close(trainer, folder, summary, names)
    return summary["metrics"]


def _close(
    trainer: lightning.Trainer,
    folder: RunFolder,
    summary: dict[str, Any],
    names: dict[str, str],
    message: str = "",
) -> None:
    """Write down what came out of a run that is trained, and that it is finished."""
    folder.write_summary(summary)
    _write_hyperparameters(trainer, summary, names)
    folder.write_status("finished", message)


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


def _summary(
    trainer: lightning.Trainer,
    module: Any,
    data: Any,
    config: dict[str, Any],
    names: dict[str, str],
) -> dict[str, Any]:
    """What `summary.json` says of a run that is trained: the last epoch's means, no score yet."""
    seconds = float(module.row.get("seconds", 0.0))
    return {
        **names,
        "seed": config["seed"],
        "epochs": trainer.current_epoch,
        "seconds": seconds,
        "examples_per_second": module.examples / seconds if seconds else None,
        "parameters": sum(p.numel() for p in module.parameters()),
        "binarise": getattr(data, "binarise", "none"),
        "rows": 0,
        "draws": None,
        "metrics": {tag: value for tag, value in module.row.items() if "/" in tag},
        "methods": {},
        "torch": torch.__version__,
    }


def _scores(
    trainer: lightning.Trainer,
    module: Any,
    data: Any,
    config: dict[str, Any],
    metrics: dict[str, float],
) -> dict[str, Any]:
    """What the scores of the test rows add to it: on how many rows, with how many draws in all."""
    model, asked = module.model, config["evaluation"]
    test = scored(model, data, "test", asked["rows"])
    model.to(test.x.device)
    budget = None if asked["samples"] else affordable(model, test.x, data.count("train"))
    samples = asked["samples"] or SAMPLES

    bar = bool((config.get("callbacks") or {}).get("progress")) and trainer.is_global_zero
    with shown(bar):
        found = scores(model, test.x, samples, config["seed"], budget=budget)
    drawn = "ess" in found or "gap" in found
    metrics = dict(metrics)
    for name, estimate in found.items():
        metrics[f"test/{name}"] = estimate.value
        metrics[f"test/{name}_error"] = estimate.error
    return {
        "rows": test.n,
        "draws": Phases.within(len(test.x), samples, budget).draws if drawn else None,
        "metrics": metrics,
        "methods": {f"test/{name}": estimate.method for name, estimate in found.items()},
    }


def _write_hyperparameters(
    trainer: lightning.Trainer, summary: dict[str, Any], names: dict[str, str]
) -> None:
    """TensorBoard's table of runs: what they were, beside their scores."""
    table = {**names, **{key: summary[key] for key in ("seed", "epochs", "parameters")}}
    metrics = {tag: summary["metrics"].get(tag, math.nan) for tag in SCORES}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(table, metrics)
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
