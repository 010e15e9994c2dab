"""The M-step as an optimiser: statistics in, closed form out."""

__all__ = ["ClosedForm"]

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Statistics = dict[str, Tensor]


class ClosedForm(torch.optim.Optimizer):
    """θ ← argmax F from sufficient statistics; with a step size it is online EM, s ← (1 − ρ_t) s +
    ρ_t ŝ, ρ_t = lr · t^−decay.

    Being an optimiser, it is stepped, checkpointed and counted by Lightning as every other one. The
    statistics kept between steps are those that `m_step` returns, so that moments taken about an
    old mean are about the new one.

    Args:
        parameters: the player's parameters; may be empty, as conjugate models keep θ in buffers.
        m_step: statistics → the same statistics as the new θ would have taken them.
        lr: first step size, in (0, 1]; 1 without decay is the ordinary M-step, which keeps nothing.
        decay: how fast the step size falls, in [0, 1]; Σρ_t = ∞ and Σρ_t² < ∞ ask for (½, 1].

    Raises:
        ValueError: if lr or decay lies outside its range.

    References:
        Cappé and Moulines (2009), On-line expectation-maximization algorithm for latent data
        models.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        m_step: Callable[[Statistics], Statistics],
        lr: float = 1.0,
        decay: float = 0.0,
    ):
        if not 0 < lr <= 1:
            raise ValueError(
                f"lr={lr}: the step size of an M-step lies in (0, 1]; 1 forgets the past"
            )
        if not 0 <= decay <= 1:
            raise ValueError(
                f"decay={decay}: step sizes fall as t^−decay with decay in [0, 1]; online EM"
                " converges above 0.5"
            )
        held = list(parameters) or [
            nn.Parameter(torch.empty(0))
        ]  # an optimiser must hold something
        super().__init__(held, {"lr": lr, "decay": decay})
        self.m_step = m_step

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the statistics in the precision they had, which torch would cast to that of the
        parameters.
        """
        super().load_state_dict(state_dict)
        for memory, saved in zip(self.state.values(), state_dict["state"].values()):
            memory.update(saved)

    @torch.no_grad()
    def step(self, closure: Callable[[], Statistics]) -> None:  # type: ignore[override]
        """One M-step from the statistics that `closure` returns."""
        group = self.param_groups[0]
        memory = self.state[group["params"][0]]
        t = memory["step"] = memory.get("step", 0) + 1
        rho = group["lr"] * t ** -group["decay"]
        fresh = closure()
        kept = memory.get("statistics")
        s = (
            fresh
            if kept is None or rho == 1
            else {key: torch.lerp(kept[key], fresh[key], rho) for key in fresh}
        )
        s = self.m_step(s)
        if group["lr"] < 1 or group["decay"] > 0:
            memory["statistics"] = s
