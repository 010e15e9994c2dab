"""Laws of a trainer: whom each half-step moves, and that a run is the same run however it is cut."""

__all__ = ["check_trainer"]

import io
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from emgen.data.base import Data
from emgen.trainers.base import Trainer

Law = Callable[[str, Any], None]


def check_trainer(trainer: Trainer, x: Any) -> None:
    """Check a trainer's schedule on a few rows of data, outside Lightning's loop; three batches
    make a sweep.

    Args:
        trainer: a trainer that has not stepped yet; it is left as it was.
        x: rows (N, *event), N ≥ 6, or a `Data` whose batches make more than one block of one.

    Raises:
        AssertionError: naming the trainer and the law.

    >>> from emgen.models import dense
    >>> from emgen.trainers import VAE
    >>> check_trainer(VAE(dense((4,), latent=2, hidden=(8,))), torch.ones(9, 4))
    """
    name = type(trainer).__name__

    def law(text: str, holds: Any) -> None:
        assert holds, f"{name} breaks the law: {text}"

    data = x if isinstance(x, Data) else Data(x, batch_size=-(-len(x) // 3), shuffle=False)
    with torch.random.fork_rng():
        single, block = _blocks(data, 1), _blocks(data, 0)
        _players_laws(_fresh(trainer), single, law)
        one, other, whole = _fresh(trainer), _fresh(trainer), _fresh(trainer)
        _steps(one, single)
        _steps(other, single)
        _steps(whole, block)
        law("the same seed gives the same run, bit for bit", _same(one, other))
        law("a block of batches is its batches one at a time, bit for bit", _same(one, whole))
        law(
            "it counts its steps and its examples",
            (one.iteration, one.examples) == (len(single), len(data.rows["train"])),
        )
        means = one.ledger.means()
        law("its ledger holds a loss or a bound", "loss" in means or "bound" in means)
        law(
            "what its ledger holds is finite", all(math.isfinite(value) for value in means.values())
        )
        resumed, kept = _fresh(trainer), _fresh(trainer)
        _steps(kept, single[:1])
        _restore(resumed, _saved(kept))
        _steps(resumed, single[1:])
        law(
            "all it remembers is in its checkpoint: cut after one batch, it goes on bit for bit",
            _same(one, resumed),
        )


def _players_laws(trainer: Trainer, blocks: list[Any], law: Law) -> None:
    """Every player moves, and in a descent nobody else does."""
    descend, start = trainer.descend, _values(trainer)
    names = [
        n for names in trainer._factories for n in ([names] if isinstance(names, str) else names)
    ]
    owned = {n: {id(p) for p in trainer.parameters_of(n)} for n in names}

    def watched(players: Any, terms: Any = None) -> None:
        asked = list(players) if isinstance(players, dict) else [players]
        moving = {n for names in asked for n in ([names] if isinstance(names, str) else names)}
        may = set().union(
            *(owned[n] if n in owned else {id(p) for p in trainer.parameters_of(n)} for n in moving)
        )
        before = [(p, p.detach().clone()) for p in trainer.parameters()]
        descend(players, terms)
        still = all(torch.equal(p.detach(), old) for p, old in before if id(p) not in may)
        law(f"the descent of {' and '.join(sorted(moving))} moves nobody else", still)

    trainer.descend = watched  # type: ignore[method-assign]
    _steps(trainer, blocks)
    moved = {
        name
        for name, value in _values(trainer).items()
        if name not in start or not torch.equal(value, start[name])
    }
    for player, ids in owned.items():
        mine = {name for name, p in trainer.named_parameters() if id(p) in ids}
        law(f"{player} moves in a sweep", moved & mine if mine else moved)


def _fresh(trainer: Trainer) -> Trainer:
    return deepcopy(trainer)


def _blocks(data: Data, block: int) -> list[Any]:
    data = deepcopy(data)
    data.block = block
    return list(data.train_dataloader())


def _steps(trainer: Trainer, blocks: list[Any]) -> None:
    for index, block in enumerate(blocks):
        trainer.training_step(block, index)


def _values(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.state_dict().items()}


def _same(a: Trainer, b: Trainer) -> bool:
    return _equal(a.state_dict(), b.state_dict()) and _equal(_optimisers(a), _optimisers(b))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def _optimisers(trainer: Trainer) -> list[Any]:
    names = list(trainer._factories)
    return [trainer.optimizer(name).state_dict() for name in names]


def _saved(trainer: Trainer) -> io.BytesIO:
    checkpoint: dict[str, Any] = {
        "state_dict": trainer.state_dict(),
        "optimizer_states": _optimisers(trainer),
    }
    trainer.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return file


def _restore(trainer: Trainer, file: io.BytesIO) -> None:
    """As Lightning does: the hook, the tensors, the optimisers; nothing but tensors and plain
    containers is unpickled.
    """
    checkpoint = torch.load(file, weights_only=True)
    trainer.on_load_checkpoint(checkpoint)
    trainer.load_state_dict(checkpoint["state_dict"])
    for name, state in zip(list(trainer._factories), checkpoint["optimizer_states"]):
        trainer.optimizer(name).load_state_dict(state)
