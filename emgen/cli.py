"""The command line: compose a configuration, build its parts, run them. The only file that imports Hydra.

    emgen [train] trainer=vae model=dense data=digits ...    emgen -m trainer=vae,wake_sleep,gan,fgan
    emgen evaluate run=DIR      emgen sample run=DIR n=64      emgen compare RUN ...      emgen export run=DIR
"""

__all__ = ["build", "instantiate", "locate", "main", "train", "trainer_named"]

import contextlib
import inspect
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emgen import asking, checking
from emgen.callbacks.checkpoint import Interrupted
from emgen.checking import UserError
from emgen.evaluation.support import check_support
from emgen.folder import RunFolder
from emgen.resuming import check_same, read_record, resumable, trusted_now
from emgen.running import check_device, finish, fit_run, keep_freed_memory

CONFIGS = "emgen.configs"
locate = hydra.utils.get_object  # what a dotted name names
# What a resumed run may build beyond our own options: Lightning's callbacks that neither write nor execute what they are told.
KNOWN_CALLBACKS = frozenset(
    f"pytorch_lightning.callbacks.{name}"
    for name in (
        "DeviceStatsMonitor",
        "EarlyStopping",
        "LearningRateMonitor",
        "RichProgressBar",
        "StochasticWeightAveraging",
        "TQDMProgressBar",
        "Timer",
    )
)
_failures: list[int] = []
_claimed: dict[Path, RunFolder] = {}  # by this command, before Hydra is asked to run it


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 badly asked, 130 and 143 interrupted by Ctrl-C and SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.path.append(os.getcwd())  # `_target_: mymod.Net` finds a user's module there, but never in place of an installed one
    quiet()
    keep_freed_memory()
    command = arguments.pop(0) if arguments and arguments[0] in asking.COMMANDS else "train"
    if {"-h", "--help"} & set(arguments):
        print(asking.help_text())
        sys.exit(0)
    try:
        if command == "train":
            _train_command(arguments)
        else:
            _other_command(command, arguments)
    except Exception as error:
        if os.environ.get("EMGEN_DEBUG"):
            raise
        print(f"emgen: {checking.told(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("emgen: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(max(_failures, default=0))


def build(cfg: DictConfig) -> tuple[Any, Any]:
    """The data and the trainer (which holds the model and the critic) of a composed configuration.

    Who meets whom is here: a model builder that takes `event_shape` is given the data's, a trainer that takes `critic`
    is given one.

    Raises:
        UserError: a part refuses its arguments; the sentence names the part.
    """
    data = instantiate(cfg.data, "data")
    torch.manual_seed(cfg.seed)
    model = instantiate(cfg.model, "model", event_shape=tuple(data.event_shape))
    with checking.naming("trainer"):
        target = locate(cfg.trainer._target_)
    players = {"model": model}
    if "critic" in inspect.signature(target).parameters:
        if not cfg.get("critic"):
            raise UserError("critic was left out or set to null, and this trainer plays against one: drop that override.")
        players["critic"] = instantiate(cfg.critic, "critic", event_shape=tuple(data.event_shape))
    trainer = instantiate(cfg.trainer, "trainer", **players)
    trainer.seed = cfg.seed
    with checking.naming("trainer"):
        trainer.configure_optimizers()  # so that a bad rate is refused before anything starts
        if getattr(trainer, "every", None) == "memo":  # as it will ask itself, when a run folder is there already
            data.refuse_shuffled("every=memo")
    return data, trainer


def instantiate(node: Any, where: str, **given: Any) -> Any:
    """Build a `_target_` node, handing over those of the given objects that its constructor takes."""
    checking.check_types(node, where, locate)
    with checking.naming(where):
        try:
            make = hydra.utils.instantiate(node, _partial_=True, _convert_="all")
            accepted = inspect.signature(make.func).parameters
            return make(**{name: value for name, value in given.items() if name in accepted})
        except InstantiationException as error:
            said = error.__cause__ or error
            raise said from said.__cause__


def train(
    cfg: DictConfig,
    run_dir: str | Path | RunFolder,
    choices: dict[str, str] | None = None,
    hydra: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Build, fit, score and record one run; returns its metrics.

    Nothing is written before all of it has been built, so that a request which a part refuses leaves no trace.

    Args:
        cfg: a composed `train.yaml`.
        run_dir: the run folder; a checkpoint in it is continued if `cfg.resume` is set.
        choices: names of the trainer, model and data options, for tables.
        hydra: what Hydra keeps of the run, by the names of the files under `.hydra/`.

    Raises:
        UserError: the folder is another run's, or a part refuses its arguments.
    """
    folder = run_dir if isinstance(run_dir, RunFolder) else RunFolder(run_dir)
    names = {name: (choices or {}).get(name) or cfg[name]._target_.rpartition(".")[2] for name in ("trainer", "model", "data")}
    folder.claim(resume=bool(cfg.resume))
    checkpoint = folder.checkpoint("last") if cfg.resume else None
    checking.check_ranges(cfg)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    check_device("lightning.accelerator", cfg.lightning.get("accelerator"), resolved["lightning"].get("devices", "auto"))
    data, module = build(cfg)
    with checking.naming("data"):
        for split in data.rows:
            check_support(module.model, data.observed(split), f"the {split} data", scored=True)
    callbacks = [instantiate(node, f"callbacks.{name}") for name, node in (cfg.get("callbacks") or {}).items() if node]
    logger = instantiate(cfg.logger, "logger", save_dir=str(folder.path)) if cfg.get("logger") else None
    lightning = instantiate(
        cfg.lightning, "lightning", default_root_dir=str(folder.path), callbacks=callbacks, logger=logger or False,
        plugins=[folder.checkpoint_io], enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        num_sanity_val_steps=0, use_distributed_sampler=False,
    )
    folder.begin({**resolved, "choices": names}, hydra)
    fit_run(lightning, module, data, checkpoint)
    return finish(folder, lightning, module, data, names, cfg.seed, cfg.evaluation.samples, cfg.evaluation.rows)


def trainer_named(name: str, model: Any, arguments: dict[str, Any]) -> Any:
    """The trainer of an option of `configs/trainer`, over a model; `arguments` stand in for the option's.

    Raises:
        UserError: no such option, or an argument that its constructor does not take.
    """
    with _composer([]) as compose:
        node = _checked([f"trainer={name}"], compose).trainer
    accepted = list(inspect.signature(locate(node._target_)).parameters)
    unknown = [argument for argument in arguments if argument not in accepted]
    if unknown:
        raise UserError(f"trainer {name!r} takes no argument {unknown[0]!r}; it takes {', '.join(accepted)}.")
    node.update({key: value for key, value in arguments.items() if isinstance(value, (bool, int, float, str))})  # to be checked
    if "critic" in accepted and arguments.get("critic") is None:
        raise UserError(f"trainer {name!r} needs critic=..., a network whose output is a log density ratio, such as "
                        "emgen.models.dense_critic(event_shape).")
    return instantiate(node, "trainer", model=model, **arguments)


def quiet() -> None:
    """Keep what libraries say about themselves out of a user's terminal; warnings of consequence stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|hydra|torch.utils.tensorboard|tensorboard")


def _train_command(arguments: list[str]) -> None:
    arguments = asking.expand(arguments)
    asking.refuse_unasked_sweep(arguments)
    if any(a.partition("=")[0] in ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc") for a in arguments):
        with _composer(asking.config_dirs(arguments)) as compose:
            _checked(arguments, compose, complete=False)
        return _hydra(arguments)  # questions about the configuration are Hydra's to answer
    if {"-m", "--multirun"} & set(arguments):
        with _composer(asking.config_dirs(arguments)) as compose:
            cfg = _checked(arguments, compose)
            _check_paths(cfg)
        return _hydra(arguments)  # each of its jobs claims a folder of its own
    config_dirs = asking.config_dirs(arguments)
    with _composer(config_dirs) as compose:
        run, named = resumable(arguments, lambda: Path(str(_checked(arguments, compose).paths.run_dir)))
        if run is not None:
            arguments = _continued(run, named, arguments, config_dirs, compose)
        cfg = _checked(arguments, compose)
        _check_paths(cfg)
        several = HydraConfig.get().mode == RunMode.MULTIRUN
    if several:  # by an experiment's own wish
        return _hydra(arguments)
    named = run is not None or any(a.startswith(("paths.run_dir=", "hydra.run.dir=")) for a in arguments)
    folder = RunFolder(run or cfg.paths.run_dir) if named else RunFolder.new(cfg.paths.run_dir)
    folder.claim(resume=run is not None)
    _claimed[folder.path.absolute()] = folder
    try:
        _hydra([*arguments, asking.quoted(f"hydra.run.dir={folder.path}")])
    finally:
        folder.release()


def _continued(run: Path, named: bool, arguments: list[str], config_dirs: Sequence[str], compose: Any) -> list[str]:
    """The overrides that go on with a run, which have been held against its record and against what may be built.

    Args:
        run: the run folder.
        named: whether its recorded overrides come first, and those of this command line after them.
        arguments: of this command line.
        config_dirs: the user's own option folders.
        compose: (config name, overrides) → configuration.

    Raises:
        UserError: the run cannot go on in this way; nothing has been changed.
    """
    record = read_record(run)
    asked = [a for a in arguments if not a.startswith("paths.run_dir=")]
    before = record.overrides if named else []
    place = asking.quoted(f"paths.run_dir={run}")
    cfg = _checked([*before, *asked, place], compose, complete=False)
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    known = _shipped_targets() | KNOWN_CALLBACKS | trusted_now(arguments, config_dirs)
    for part, node in now.items():
        checking.check_trust(node, f"{run}: {part}", now["trust"] or (), locate, known)
    unasked: Any = OmegaConf.to_container(_checked([*before, place], compose, complete=False), resolve=True) if named else None
    changes = check_same(run, record.config or now, now, unasked)
    RunFolder(run).refuse_if_beyond(cfg.lightning.max_epochs)
    print(f"emgen: continuing {run}{' with ' * bool(changes)}{', '.join(changes)}", file=sys.stderr)
    return [*before, *asked, place]


def _check_paths(cfg: DictConfig) -> None:
    if not (cfg.paths.run_dir and cfg.paths.sweep_dir):
        raise UserError("paths.run_dir and paths.sweep_dir are empty: name a folder, or leave them to their defaults.")


def _shipped_targets() -> set[str]:
    """Every `_target_` of the options that come with the package."""
    return {target for file in files(CONFIGS).rglob("*.yaml") for target in checking.targets_in(file.read_text(encoding="utf-8"))}


def _hydra(arguments: list[str]) -> None:
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name="train")(_job)()


def _job(cfg: DictConfig) -> float | None:
    """One run under Hydra: whatever ends it is written to status.json and becomes an exit code."""
    settings = HydraConfig.get()
    several = settings.mode == RunMode.MULTIRUN
    path = Path(settings.runtime.output_dir)
    folder = _claimed.get(path.absolute()) or RunFolder(path)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if several and str(cfg.lightning.strategy).startswith("ddp") and "spawn" not in cfg.lightning.strategy:
            raise UserError("strategy=ddp starts further processes of this command and cannot run under -m: give each run its "
                            "own command, or use lightning.strategy=ddp_spawn.")
        record = {"config.yaml": cfg, "hydra.yaml": {"hydra": settings}, "overrides.yaml": settings.overrides.task}
        metrics = train(cfg, folder, dict(settings.runtime.choices), record)
        tag = "test/log_likelihood" if "test/log_likelihood" in metrics else "test/elbo"  # the one that a deep Boltzmann machine has
        score, error = metrics.get(tag), metrics.get(f"{tag}_error", float("nan"))
        what = "log-likelihood" if tag == "test/log_likelihood" else "lower bound on the log-likelihood"
        shown = "" if score is None else f"test {what} {score:.2f}{f' ± {error:.2f}' if error == error else ' ± ?'} nats; "
        print(f"{shown}everything is in {folder.path}")
        return metrics.get(cfg.optimized_metric)
    except (Interrupted, KeyboardInterrupt) as stop:
        signum = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        if folder.used:
            message = f"{str(stop) or 'stopped by Ctrl-C'}; continue with: {folder.command}"
        else:
            message = f"stopped by {signal.Signals(signum).name} before anything was saved; start it again"
        folder.write_status("interrupted", message)
        print(f"emgen: {message}", file=sys.stderr)
        sys.exit(128 + signum)
    except Exception as error:
        code = 2 if isinstance(error, UserError) else 1
        print(f"emgen: {folder.failed(error)}", file=sys.stderr)
        if os.environ.get("EMGEN_DEBUG"):
            raise
        if not several:
            sys.exit(code)
        _failures.append(code)
        return None
    finally:
        folder.release()


def _terminated(signum: int, frame: Any) -> None:
    raise Interrupted(signum, Path("checkpoints/last.ckpt"))


def _other_command(command: str, arguments: list[str]) -> None:
    from emgen import commands

    flags = [a for a in arguments if a.startswith("-")]
    if flags:
        raise UserError(f"emgen {command} takes no flag {flags[0]}, only key=value; `emgen --help` shows how it is asked.")
    paths = [a for a in arguments if "=" not in a or (command == "compare" and os.path.exists(a))]
    overrides = [asking.quoted(a) for a in arguments if a not in paths]
    if command != "compare" and paths:
        raise UserError(f"{paths[0]!r} is not of the form key=value; the run folder is named by run={paths[0]}.")
    with _composer([]) as compose:
        cfg = _checked(overrides, compose, command)
    missing = [key for key in cfg if OmegaConf.is_missing(cfg, key) or (key == "run" and cfg[key] is None)]
    if missing:
        raise UserError(f"emgen {command} needs {missing[0]}=...: name a run folder, as printed at the end of training.")
    if paths:
        cfg.runs = paths
    checking.check_counts(cfg)
    getattr(commands, command)(cfg)


def _checked(arguments: Sequence[str], compose: Any, name: str = "train", complete: bool = True) -> DictConfig:
    """The configuration that is asked for (of a sweep: its first), every choice of it tried and, if it is to be run, its numbers."""
    cfg = None
    for request in asking.single_choices(arguments):
        try:
            composed = compose(name, request)
        except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
            known = [key for key, _ in checking.flat(compose(name, []))]
            raise UserError(asking.explain(error, [*known, *asking.options()] if name == "train" else known)) from None
        if name == "train" and complete:
            for missing in sorted(OmegaConf.missing_keys(composed)):
                raise UserError(f"{missing} has no value: give it as {missing}=...")
            checking.check_ranges(composed)
        cfg = composed if cfg is None else cfg
    assert cfg is not None  # there is always one request at least
    return cfg


@contextlib.contextmanager
def _composer(config_dirs: Sequence[str]) -> Any:
    """A function (config name, overrides) → configuration over our options and the user's folders."""
    GlobalHydra.instance().clear()
    search = [f"hydra.searchpath=[{','.join('file://' + os.path.abspath(d) for d in config_dirs)}]"] if config_dirs else []

    def compose(name: str, overrides: Sequence[str]) -> DictConfig:
        cfg = hydra.compose(name, [*overrides, *search], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)  # which the names of folders ask for the options that were chosen
        if "paths" in cfg:
            OmegaConf.resolve(cfg.paths)
            if cfg.paths.run_dir:
                cfg.paths.run_dir = str(OmegaConf.select(cfg, "hydra.run.dir"))  # the same, unless Hydra's own key was given
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        return cfg

    try:
        with hydra.initialize_config_module(CONFIGS, version_base="1.3"):
            yield compose
    finally:
        GlobalHydra.instance().clear()


if __name__ == "__main__":
    main()
