"""One run, one way: build its parts, fit them under Lightning, score the test rows, write down what
came out.
"""

__all__ = ["RUN_DIR", "Unscored", "build_parts", "build_trainer", "train"]

import copy
import inspect
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from emgen.callbacks import EMA, Checkpoint, Progress
from emgen.callbacks.checkpoint import Interrupted
from emgen.cli.checks import check_ranges
from emgen.cli.folder import RunFolder
from emgen.cli.hyperparameters import distinguishing
from emgen.cli.launching import agreed, distributed
from emgen.cli.loggers import build_loggers, log_configuration, log_scores
from emgen.cli.provenance import data_of, read_made, record
from emgen.errors import UserError
from emgen.estimators.progress import shown
from emgen.evaluation.budget import Phases, affordable
from emgen.evaluation.samples import generated_scores
from emgen.evaluation.scores import scored, scores
from emgen.evaluation.support import check_support
from emgen.options import build, locate, naming
from emgen.runtime import check_device

# the environment's word for the run folder, by which further processes of a run find it
RUN_DIR = "EMGEN_RUN_DIR"

SAMPLES = 200  # K where nobody asked for another, of as many data as the budget allows
# what every trainer is compared by in TensorBoard, as far as its model and the data allow it
SCORES = ("log_likelihood", "elbo", "gap", "ess", "fid", "kid", "mmd")
TOTALS = ("seconds", "examples_per_second", "epochs", "parameters")

# keys of Lightning's Trainer which ask for its own validation loop
_NO_VALIDATION = ("limit_val_batches", "num_sanity_val_steps")
_VALIDATION = (*_NO_VALIDATION, "check_val_every_n_epoch", "val_check_interval")


class Unscored(BaseException):
    """A signal stopped the scoring of a run, which is trained and finished all the same."""

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
    cfg = _placed(cfg, folder)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    names = _names(config, choices)
    folder.claim(resume=bool(cfg.resume))
    checkpoint = folder.checkpoint("last") if cfg.resume else None

    made = None if checkpoint is None else read_made(folder.path)
    data, home = data_of(config["data"], folder.path, made)
    module = build_trainer(config, data)
    with naming("data"):
        for split in data.rows:
            check_support(module.model, data.observed(split), f"the {split} data", scored=True)
    trainer: Any = _lightning(config, folder)
    for callback in trainer.callbacks:
        if isinstance(callback, EMA):
            with naming("callbacks"):
                callback.check(module)

    critic = config.get("critic") if _critic(config["trainer"]) else None
    typed = list((hydra or {}).get("overrides.yaml", ()))
    settings = distinguishing({**config, "critic": critic}, choices, typed)
    settings = {**names, **settings, "seed": config["seed"]}
    made = record(data, home, folder.path)
    told = {**hydra, "config.yaml": cfg} if hydra else None
    folder.begin({**config, "choices": names, "made": made}, told)
    os.environ[RUN_DIR] = str(folder.path)
    log_configuration(trainer.loggers, config)
    path = agreed(trainer, None if checkpoint is None else str(checkpoint))
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    if not trainer.is_global_zero:
        return {}

    if trainer.fast_dev_run:
        folder.write_status("debug", "lightning.fast_dev_run: it fits together; nothing is scored")
        return {}

    summary = _summary(trainer, module, data, config, names)
    try:
        summary |= _scores(trainer, module, data, config, summary["metrics"])
    except (Interrupted, KeyboardInterrupt) as stop:
        unscored = Unscored(getattr(stop, "signum", signal.SIGINT), folder)
        _close(trainer, folder, {**summary, "unscored": str(unscored)}, settings, str(unscored))
        raise unscored from None
    _close(trainer, folder, summary, settings)
    return summary["metrics"]


def _close(
    trainer: Any,
    folder: RunFolder,
    summary: dict[str, Any],
    settings: dict[str, Any],
    message: str = "",
) -> None:
    """Write down what came out of a run that is trained, and that it is finished."""
    folder.write_summary(summary)
    _write_hyperparameters(trainer, summary, settings)
    log_scores(trainer.loggers, summary["metrics"], trainer.lightning_module.examples)
    folder.write_status("finished", message)


def _placed(cfg: DictConfig, folder: RunFolder) -> DictConfig:
    """The configuration with `paths.run_dir` where the run is, however the folder was named."""
    placed = copy.deepcopy(cfg)
    OmegaConf.update(placed, "paths.run_dir", str(folder.path), force_add=True)
    return placed


def build_parts(config: Any) -> tuple[Any, Any]:
    """The data and the trainer (which holds the model and the critic) of a composed configuration.

    Args:
        config: resolved; plain mappings or OmegaConf's.

    Raises:
        UserError: a part refuses its arguments; the sentence names the part.
    """
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    data = build(config["data"], "data")
    return data, build_trainer(config, data)


def build_trainer(config: dict[str, Any], data: Any) -> Any:
    """The trainer of a configuration, with the model and the critic that it trains.

    Who meets whom is here: a model builder that takes `event_shape` is given the data's, a trainer
    that takes `critic` is given one.

    Raises:
        UserError: a part refuses its arguments; the sentence names the part.
    """
    event_shape = tuple(data.event_shape)

    torch.manual_seed(config["seed"])  # this process is the run's own
    players = {"model": build(config["model"], "model", event_shape=event_shape)}
    critic = _critic(config["trainer"])
    if critic is not None and (config.get("critic") or critic.default is inspect.Parameter.empty):
        players["critic"] = _built_critic(config.get("critic"), event_shape, critic)

    module = build(config["trainer"], "trainer", **players)
    module.seed = config["seed"]
    with naming("trainer"):
        module.configure_optimizers()  # so that a bad rate is refused before anything starts
        if (
            getattr(module, "every", None) == "memo"
        ):  # as it will ask itself, when a run folder is there already
            data.refuse_shuffled("every=memo")
    return module


def _critic(node: dict[str, Any]) -> inspect.Parameter | None:
    """The trainer's argument `critic`, if it has one."""
    with naming("trainer"):
        return inspect.signature(locate(node.get("_target_"))).parameters.get("critic")


def _built_critic(node: Any, event_shape: tuple[int, ...], wanted: inspect.Parameter) -> Any:
    """A critic of x; or what makes one, for a trainer that plays several games and can do without
    one.
    """
    if not node:
        raise UserError(
            "critic was left out or set to null, and this trainer plays against one: drop that"
            " override."
        )
    if wanted.default is inspect.Parameter.empty:
        return build(node, "critic", event_shape=event_shape)
    return build({**node, "_partial_": True}, "critic")


def _lightning(config: dict[str, Any], folder: RunFolder) -> lightning.Trainer:
    """Lightning's Trainer with the run's callbacks and logger, which writes into the run's folder."""
    device = config["lightning"]
    check_device("lightning.accelerator", device.get("accelerator"), device.get("devices", "auto"))
    device = distributed(device)
    callbacks = [
        build(node, f"callbacks.{name}")
        for name, node in (config.get("callbacks") or {}).items()
        if node
    ]
    bar = any(isinstance(one, ProgressBar) for one in callbacks)  # Lightning's, in place of ours
    callbacks = [one for one in callbacks if not (bar and isinstance(one, Progress))]
    callbacks.sort(key=_turn)
    loggers = build_loggers(config.get("logger"), str(folder.path))
    # the rows are scored by the callback `metrics`, unless somebody asks for Lightning's own loop
    loop = {} if any(key in device for key in _VALIDATION) else dict.fromkeys(_NO_VALIDATION, 0)
    return build(
        device,
        "lightning",
        default_root_dir=str(folder.path),
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[folder.checkpoint_io],
        enable_progress_bar=bar,
        enable_model_summary=False,
        **loop,
        use_distributed_sampler=False,
    )


def _turn(callback: lightning.Callback) -> int:
    """Of callbacks at one hook: averages are there before anybody scores, and what the others know
    is in the checkpoint.
    """
    return 0 if isinstance(callback, EMA) else 2 if isinstance(callback, Checkpoint) else 1


def _summary(
    trainer: Any,
    module: Any,
    data: Any,
    config: dict[str, Any],
    names: dict[str, str],
) -> dict[str, Any]:
    """What `summary.json` says of a run that is trained: the last epoch's means, no score yet."""
    seconds = float(module.row.get("seconds", 0.0))
    descends = {"descends": module.descends} if module.descends else {}
    return {
        **names,
        **descends,
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
    trainer: Any,
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
        found |= generated_scores(model, data, "test", asked.get("draws"), config["seed"])
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


def _write_hyperparameters(trainer: Any, summary: dict[str, Any], settings: dict[str, Any]) -> None:
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
