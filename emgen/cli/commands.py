"""What is asked of a run after training: score it, draw from it, export it, compare it with others."""

__all__ = ["compare", "evaluate", "export", "load_model", "load_run", "sample"]

import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from emgen.callbacks.checkpoint import AtomicCheckpointIO
from emgen.cli.folder import RunFolder, write_atomically
from emgen.cli.provenance import Made, data_of, find_data, read_made
from emgen.cli.trust import check_trust
from emgen.errors import UserError
from emgen.estimators.progress import shown
from emgen.evaluation.runs import read_run, strict_json
from emgen.evaluation.samples import MOST, generated_scores
from emgen.evaluation.scores import scored, scores
from emgen.options import build, naming


def load_run(
    run: str | Path, checkpoint: str = "best", trust: Any = ()
) -> tuple[Any, Any, dict[str, Any]]:
    """The trained model, the data and the configuration of a run.

    Args:
        run: the run folder, wherever it lies by now.
        checkpoint: best or last; where there is no best, last.
        trust: import prefixes of your own modules that the run's configuration may build.

    Raises:
        UserError: no run there, no checkpoint, a configuration that asks for an untrusted import,
            or data that are not there or others than the run was trained on.
    """
    path, config = _read_run(run, checkpoint, trust)
    data, _ = data_of(config["data"], Path(run), read_made(Path(run)))
    model = _trained(path, config, data.event_shape)
    return model, data.to(_device()), config


def load_model(
    run: str | Path, checkpoint: str = "best", trust: Any = ()
) -> tuple[Any, dict[str, Any]]:
    """The trained model and the configuration of a run, whose data are not asked for.

    Args:
        run, checkpoint, trust: as for `load_run`.

    Raises:
        UserError: as `load_run`; a run from before the shape of its data was recorded needs them.
    """
    made = read_made(Path(run))
    if made is None:
        model, _, config = load_run(run, checkpoint, trust)
        return model, config
    path, config = _read_run(run, checkpoint, trust)
    return _trained(path, config, made.event_shape), config


def _read_run(run: str | Path, checkpoint: str, trust: Any) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that is asked for, and the configuration, which asks for nothing untrusted."""
    folder = RunFolder(Path(run))
    if checkpoint not in ("best", "last"):
        raise UserError(f"checkpoint={checkpoint} is neither best nor last.")
    if not (folder.path / "config.yaml").exists():
        raise UserError(
            f"run={run} is not a run folder (it has no config.yaml): name one such as"
            " runs/vae-dense-digits/<time>."
        )
    path = folder.checkpoint(checkpoint) or folder.checkpoint("last")
    if path is None:
        raise UserError(
            f"run={run} has no checkpoint yet: wait for its first epoch, or train it again."
        )
    try:
        cfg: Any = OmegaConf.load(folder.path / "config.yaml")
    except (yaml.YAMLError, OSError) as error:
        raise UserError(
            f"{folder.path / 'config.yaml'} is damaged ({error}): train the run again."
        ) from error
    if not cfg.get("data") or not cfg.get("model"):
        raise UserError(
            f"{folder.path / 'config.yaml'} names no data or no model: train the run again."
        )
    for part in ("data", "model"):
        check_trust(OmegaConf.to_container(cfg[part], resolve=True), f"{run}: {part}", trust)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return path, config


def _trained(path: Path, config: dict[str, Any], event_shape: Sequence[int]) -> Any:
    """The model of a configuration with the parameters of a checkpoint, on the device there is."""
    model = build(config["model"], "model", event_shape=tuple(event_shape))
    state = AtomicCheckpointIO().load_checkpoint(path)["state_dict"]
    own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise UserError(
            f"{path} holds another model than config.yaml beside it describes"
            f" ({str(error).splitlines()[1].strip()}): was that file, or the data it names, changed"
            " since training?"
        ) from error
    return model.eval().to(_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def evaluate(cfg: Any) -> None:
    """Print the scores of a run and of its samples, and write them to `evaluation.json` in its
    folder.
    """
    model, data, config = load_run(cfg.run, cfg.checkpoint, cfg.trust)
    if cfg.split not in data.rows:
        raise UserError(
            f"split={cfg.split} does not exist in these data; choose one of {', '.join(data.rows)}."
        )
    chosen = scored(model, data, cfg.split, cfg.rows)
    with naming("evaluate"), shown():
        found = scores(model, chosen.x, cfg.samples, cfg.seed, cfg.temperatures, cfg.chains)
    few = (
        "; samples are not compared with fewer than two rows"
        if cfg.draws and len(data.split(cfg.split)) < 2
        else ""
    )
    with shown():
        found |= generated_scores(model, data, cfg.split, cfg.draws, cfg.seed)
    if not found:
        raise UserError(
            f"the model of {cfg.run} has no likelihood to score; look at its samples instead: emgen"
            f" sample run={cfg.run}."
        )
    table = Table(
        "quantity",
        "value",
        "error",
        "method",
        title=f"{cfg.run}, {chosen.n:,} {cfg.split} {chosen.datum}s",
        caption=f"likelihoods in nats per datum{few}",
    )
    record = {}
    for name, estimate in found.items():
        error = None if math.isnan(estimate.error) else estimate.error
        table.add_row(
            name, f"{estimate.value:.4f}", "" if error is None else f"{error:.4f}", estimate.method
        )
        record[f"{cfg.split}/{name}"] = {
            "value": estimate.value,
            "error": error,
            "method": estimate.method,
        }
    Console().print(table)
    content = {
        "rows": chosen.n,
        "epochs": (
            read_run(cfg.run).summary.get("epochs")
        ),  # of a run that goes on it is out of date
        "binarise": config["data"].get("binarise", "none"),
        "seed": cfg.seed,
        "metrics": record,
    }
    write_atomically(Path(cfg.run) / "evaluation.json", strict_json(content))


def sample(cfg: Any) -> None:
    """Write `n` draws of a run's model as samples.npy, and as a picture where they are images or
    points.
    """
    from emgen.figures.samples import draw, samples_of

    path, config = _read_run(cfg.run, cfg.checkpoint, cfg.trust)
    made = read_made(Path(cfg.run))
    data = _for_a_picture(config["data"], Path(cfg.run), made)
    shape = made.event_shape if made and data is None else data.event_shape
    model = _trained(path, config, shape)
    torch.manual_seed(cfg.seed)
    with torch.no_grad(), shown():
        drawn = samples_of(model, cfg.n)
    if drawn is None:
        raise UserError(
            f"{type(model).__name__} of {cfg.run} has neither prior and likelihood, nor rsample,"
            " nor sample to draw from."
        )
    draws = drawn.cpu()
    target = Path(cfg.output or Path(cfg.run) / "samples")
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "samples.npy", draws.numpy())
    print(target / "samples.npy")
    rows = None if data is None else data.split("train", MOST).cpu()
    picture = draw(draws, rows, target / "samples.png")
    if picture:
        print(picture)


def _for_a_picture(node: dict[str, Any], run: Path, made: Made | None) -> Any:
    """The data of a run if they are there, for they are drawn beside the samples; None if not.

    Raises:
        UserError: they are not there, and nothing else tells the shape of a row.
    """
    try:
        return find_data(node, run, made)[0]
    except UserError as error:
        if made is None:
            raise
        print(f"emgen: the picture shows the draws alone, for {error}", file=sys.stderr)
        return None


def export(cfg: Any) -> None:
    """Write the model's weights as safetensors, with the configuration that builds it beside them."""
    from safetensors.torch import save_model

    model, _ = load_model(cfg.run, cfg.checkpoint, cfg.trust)
    target = Path(cfg.output or Path(cfg.run) / "export")
    target.mkdir(parents=True, exist_ok=True)
    save_model(model, str(target / "model.safetensors"))
    shutil.copy(Path(cfg.run) / "config.yaml", target / "config.yaml")
    print(target / "model.safetensors")


def compare(cfg: Any) -> None:
    """Print the table of many runs and write one page of their curves and pictures."""
    from emgen.evaluation.compare import compare as compare_runs

    print(compare_runs([cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs), cfg.output))
