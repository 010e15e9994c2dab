"""The command `emgen`: which one of its commands is asked for, how it ends, and with what exit
code.

    emgen [train] trainer=vae model=dense data=digits ...    emgen -m
    trainer=vae,wake_sleep,gan,fgan emgen evaluate run=DIR      emgen sample run=DIR n=64      emgen
    compare RUN ...      emgen export run=DIR

A configuration walks one way: `overrides` reads what was typed, `compose` makes it whole, `checks`
and `trust` look at it, `training` builds, fits and scores, `folder` keeps what came out.
"""

__all__ = ["main"]

import copy
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from emgen.callbacks.checkpoint import Interrupted
from emgen.cli import commands, overrides
from emgen.cli.checks import check_counts
from emgen.cli.compose import CONFIGS, checked, composer
from emgen.cli.folder import RunFolder, is_first_process
from emgen.cli.help import help_text
from emgen.cli.launching import starts_itself_again
from emgen.cli.resuming import continued, resumable
from emgen.cli.training import RUN_DIR, Unscored, train
from emgen.errors import UserError, told
from emgen.runtime import keep_freed_memory, quiet

_failures: list[int] = []
_claimed: dict[str, RunFolder] = {}  # by this command, before Hydra is asked to run it


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 badly asked, 130 and 143 interrupted by Ctrl-C
    and SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.path.append(
        os.getcwd()
    )  # `_target_: mymod.Net` finds a user's module there, but never in place of an installed one
    quiet()
    keep_freed_memory()
    command = arguments.pop(0) if arguments and arguments[0] in overrides.COMMANDS else "train"
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        sys.exit(0)
    try:
        if command == "train":
            _train_command(arguments)
        else:
            _other_command(command, arguments)
    except Exception as error:
        if os.environ.get("EMGEN_DEBUG"):
            raise
        print(f"emgen: {told(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("emgen: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(max(_failures, default=0))


def _train_command(arguments: list[str]) -> None:
    arguments = overrides.expand(arguments)
    overrides.refuse_unasked_sweep(arguments)
    config_dirs = overrides.config_dirs(arguments)

    with composer(config_dirs) as compose:
        question = _asks_hydra(arguments)
        several = bool({"-m", "--multirun"} & set(arguments))
        run = None
        if not question and not several:
            run, named = resumable(
                arguments, lambda: Path(str(checked(arguments, compose).paths.run_dir))
            )
            if run is not None:
                arguments = continued(run, named, arguments, config_dirs, compose)
        cfg = checked(arguments, compose, complete=not question)
        several = (
            several or HydraConfig.get().mode == RunMode.MULTIRUN
        )  # by an experiment's own wish
    if question:
        return _hydra(arguments)
    _check_paths(cfg)
    if several:
        _refuse_to_resume_in_a_sweep(cfg.resume)
        return _hydra(arguments)  # each of its jobs claims a folder of its own

    folder = _folder(run, cfg.paths.run_dir, arguments)
    # Hydra makes what it is given; a folder of this process's own is nobody's
    first = is_first_process() or folder.path.is_dir()
    place = folder.path if first else Path.cwd()
    _claimed[os.path.abspath(place)] = folder  # as Hydra writes it, without `..`
    try:
        _hydra([*arguments, overrides.quoted(f"hydra.run.dir={place}")])
    finally:
        folder.release()


def _asks_hydra(arguments: Sequence[str]) -> bool:
    """Whether a question about the configuration is asked, which is Hydra's to answer."""
    flags = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc")
    return any(argument.partition("=")[0] in flags for argument in arguments)


def _folder(run: Path | None, run_dir: str, arguments: Sequence[str]) -> RunFolder:
    """The folder of the run, claimed: the one that is continued or named, else a new one."""
    if not is_first_process():
        return RunFolder(os.environ.get(RUN_DIR) or run or run_dir)
    named = any(argument.startswith(("paths.run_dir=", "hydra.run.dir=")) for argument in arguments)
    if run is None and not named:
        return RunFolder.new(run_dir)
    folder = RunFolder(run or run_dir)
    folder.claim(resume=run is not None)
    return folder


def _hydra(arguments: list[str]) -> None:
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name="train")(_job)()


def _job(cfg: DictConfig) -> float | None:
    """One run under Hydra: whatever ends it is written to status.json and becomes an exit code."""
    settings = HydraConfig.get()
    several = settings.mode == RunMode.MULTIRUN
    path = Path(settings.runtime.output_dir)
    folder = _claimed.get(os.path.abspath(path)) or RunFolder(path)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if several:
            _refuse_further_processes(cfg.lightning)
            folder = _folder_of_job(cfg, settings, folder)
        record = {
            "config.yaml": cfg,
            "hydra.yaml": {"hydra": _placed(settings, folder.path)},
            "overrides.yaml": settings.overrides.task,
        }
        metrics = train(cfg, folder, dict(settings.runtime.choices), record)
        if is_first_process():
            print(f"{_score(metrics)}everything is in {folder.path}")
        return metrics.get(cfg.optimized_metric)
    except Unscored as stop:
        print(f"emgen: {stop}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except (Interrupted, KeyboardInterrupt) as stop:
        signum = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        if folder.used:
            message = f"{str(stop) or 'stopped by Ctrl-C'}; continue with: {folder.command}"
        else:
            message = (
                f"stopped by {signal.Signals(signum).name} before anything was saved; start it"
                " again"
            )
        folder.write_status("interrupted", message)
        if is_first_process():
            print(f"emgen: {message}", file=sys.stderr)
        sys.exit(128 + signum)
    except Exception as error:
        code = 2 if isinstance(error, UserError) else 1
        message = folder.failed(error)
        if not getattr(error, "told_elsewhere", False):
            print(f"emgen: {message}", file=sys.stderr)
        if os.environ.get("EMGEN_DEBUG"):
            raise
        if not several:
            sys.exit(code)
        _failures.append(code)
        return None
    finally:
        folder.release()


def _folder_of_job(cfg: DictConfig, settings: Any, folder: RunFolder) -> RunFolder:
    """A new folder for a job of a sweep, which no other job anywhere has; the one that Hydra made,
    if `hydra.sweep.subdir` asked for that.
    """
    if folder.path.absolute() != Path(settings.sweep.dir).absolute():
        return folder
    return RunFolder.new(f"{cfg.paths.run_dir}-{settings.job.num}")


def _placed(settings: Any, path: Path) -> Any:
    """What Hydra keeps of a run, with the folder that it went to."""
    told = copy.deepcopy(settings)
    with read_write(told.runtime):
        told.runtime.output_dir = str(path.absolute())
    return told


def _refuse_to_resume_in_a_sweep(asked: Any) -> None:
    if asked not in (None, False, "", "auto"):
        raise UserError(
            f"resume={asked}: the runs of a sweep start in folders of their own; leave out -m and"
            " resume one run by a command."
        )


def _refuse_further_processes(settings: Any) -> None:
    if starts_itself_again(settings):
        raise UserError(
            "strategy=ddp starts further processes of this command and cannot run under -m: give"
            " each run its own command, or use lightning.strategy=ddp_spawn."
        )


def _score(metrics: dict[str, float]) -> str:
    """The test score with its error, or nothing where the model has none."""
    names = {
        "test/log_likelihood": "log-likelihood",
        "test/elbo": "lower bound on the log-likelihood",
    }
    for tag, what in names.items():  # a deep Boltzmann machine has the bound alone
        if tag in metrics:
            error = metrics.get(f"{tag}_error", math.nan)
            shown = "?" if math.isnan(error) else f"{error:.2f}"
            return f"test {what} {metrics[tag]:.2f} ± {shown} nats; "
    return ""


def _terminated(signum: int, frame: Any) -> None:
    raise Interrupted(signum, Path("checkpoints/last.ckpt"))


def _other_command(command: str, arguments: list[str]) -> None:
    flags = [argument for argument in arguments if argument.startswith("-")]
    if flags:
        raise UserError(
            f"emgen {command} takes no flag {flags[0]}, only key=value; `emgen --help` shows how it"
            " is asked."
        )
    paths = [a for a in arguments if "=" not in a or (command == "compare" and os.path.exists(a))]
    if command != "compare" and paths:
        raise UserError(
            f"{paths[0]!r} is not of the form key=value; the run folder is named by run={paths[0]}."
        )
    with composer() as compose:
        cfg = checked([overrides.quoted(a) for a in arguments if a not in paths], compose, command)
    for key in cfg:
        if OmegaConf.is_missing(cfg, key) or (key == "run" and cfg[key] is None):
            raise UserError(
                f"emgen {command} needs {key}=...: name a run folder, as printed at the end of"
                " training."
            )
    if paths:
        cfg.runs = paths
    check_counts(cfg)
    getattr(commands, command)(cfg)


def _check_paths(cfg: DictConfig) -> None:
    if not (cfg.paths.run_dir and cfg.paths.sweep_dir):
        raise UserError(
            "paths.run_dir and paths.sweep_dir are empty: name a folder, or leave them to their"
            " defaults."
        )
