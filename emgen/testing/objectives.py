"""Laws of an objective: what it returns, and what it leaves alone."""

__all__ = ["check_objective"]

from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emgen.objectives import Terms


def check_objective(objective: Callable[..., Terms], *players: Any, seed: int = 0) -> None:
    """Check that `objective(*players)` is a formula: frozen, repeatable, differentiable, without
    side effects.

    Args:
        objective: an objective, or one side of it (`Adversarial().critic`).
        players: what it is called with: modules, data, numbers.
        seed: of every draw; the global random state is left as it was.

    Raises:
        AssertionError: naming the objective and the law.

    >>> from emgen.models import dense
    >>> from emgen.objectives import FreeEnergy
    >>> model = dense((4,), latent=2, hidden=(8,))
    >>> check_objective(FreeEnergy(), model, model.recognition, torch.ones(3, 4))
    """
    owner = getattr(objective, "__self__", objective)

    def law(text: str, holds: Any) -> None:
        assert holds, f"{owner!r} breaks the law: {text}"

    law(
        "hyper-parameters are frozen",
        is_dataclass(owner) and type(owner).__dataclass_params__.frozen,  # type: ignore[attr-defined]
    )
    modules = [p for p in players if isinstance(p, nn.Module)]
    before = [value.clone() for module in modules for value in module.state_dict().values()]
    with torch.random.fork_rng():
        terms, again = (_run(objective, players, seed) for _ in range(2))
    law("it returns Terms", isinstance(terms, Terms))
    law("the loss is a finite scalar", terms.loss.shape == () and bool(terms.loss.isfinite()))
    law(
        "parts are scalars without a gradient",
        all(v.shape == () and not v.requires_grad for v in terms.parts.values()),
    )
    law("the same random state gives the same value", torch.equal(terms.loss, again.loss))
    law("it does not write into its players",
        all(torch.equal(a, b) for a, b in zip(before, [v for m in modules for v in m.state_dict().values()])))  # fmt: skip
    law("it leaves .grad alone", all(p.grad is None for m in modules for p in m.parameters()))
    reached = torch.autograd.grad(terms.loss, _differentiable(players), allow_unused=True)
    law(
        "the loss has a gradient for one of its players",
        any(g is not None and bool(g.any()) for g in reached),
    )
    law("gradients are finite", all(g is None or bool(g.isfinite().all()) for g in reached))


def _run(objective: Callable[..., Terms], players: tuple[Any, ...], seed: int) -> Terms:
    torch.manual_seed(seed)
    return objective(*players)


def _differentiable(players: tuple[Any, ...]) -> list[Tensor]:
    found = [p for player in players if isinstance(player, nn.Module) for p in player.parameters()]
    return [p for p in found if p.requires_grad] + [
        p for p in players if isinstance(p, Tensor) and p.requires_grad
    ]
