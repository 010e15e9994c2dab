"""What is asked of a run after training: score it, draw from it, export it, compare it with others."""

__all__ = ["compare", "evaluate", "export", "load_run", "sample"]

import math
import shutil
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
from emgen.cli.trust import check_trust
from emgen.errors import UserError
from emgen.evaluation.runs import read_run, strict_json
from emgen.evaluation.samples import generated_scores
from emgen.evaluation.scores import scored, scores
from emgen.options import build, naming


def load_run(
    run: str | Path, checkpoint: str = "best", trust: Any = ()
) -> tuple[Any, Any, dict[str, Any]]:
    """The trained model, the data and the configuration of a run.

    Args:
        run: the run folder.
        checkpoint: best or last; where there is no best, last.
        trust: import prefixes of your own modules that the run's configuration may build.

    Raises:
        UserError: no run there, no checkpoint, or a configuration that asks for an untrusted
            import.
    """
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
    data = build(config["data"], "data")
    model = build(config["model"], "model", event_shape=tuple(data.event_shape))
    state = AtomicCheckpointIO().load_checkpoint(path)["state_dict"]
    try:
        model.load_state_dict(
            {
                name.removeprefix("model."): v
                for name, v in state.items()
                if name.startswith("model.")
            }
        )
    except RuntimeError as error:
        raise UserError(
            f"{path} holds another model than config.yaml beside it describes"
            f" ({str(error).splitlines()[1].strip()}): was that file, or the data it names, changed"
            " since training?"
        ) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval().to(device), data.to(device), config


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
    with naming("evaluate"):
        found = scores(model, chosen.x, cfg.samples, cfg.seed, cfg.temperatures, cfg.chains)
    few = (
        "; samples are not compared with fewer than two rows"
        if cfg.draws and len(data.split(cfg.split)) < 2
        else ""
    )
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

    model, data, _ = load_run(cfg.run, cfg.checkpoint, cfg.trust)
    torch.manual_seed(cfg.seed)
    with torch.no_grad():
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
    picture = draw(draws, data.split("train").cpu(), target / "samples.png")
    if picture:
        print(picture)


def export(cfg: Any) -> None:
    """Write the model's weights as safetensors, with the configuration that builds it beside them."""
    from safetensors.torch import save_model

    model, _, _ = load_run(cfg.run, cfg.checkpoint, cfg.trust)
    target = Path(cfg.output or Path(cfg.run) / "export")
    target.mkdir(parents=True, exist_ok=True)
    save_model(model, str(target / "model.safetensors"))
    shutil.copy(Path(cfg.run) / "config.yaml", target / "config.yaml")
    print(target / "model.safetensors")


def compare(cfg: Any) -> None:
    """Print the table of many runs and write one page of their curves and pictures."""
    from emgen.evaluation.compare import compare as compare_runs

    print(compare_runs([cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs), cfg.output))
