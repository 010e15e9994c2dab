"""Expectation-maximisation in all nine cells of the belief square."""

__all__ = ["EM"]

from functools import partial
from typing import Any

import torch
from torch import nn

from emgen.data.base import Batch, Data
from emgen.estimators.beliefs import Distribution, Draw, Point
from emgen.optim import ClosedForm
from emgen.roles import Conjugate, Statistics
from emgen.trainers.base import Trainer
from emgen.trainers.processes import gathered


class EM(Trainer):
    """Alternating projection: the belief about the latents given θ, then the belief about θ given
    the latents.

        E   z = latents(model.posterior(x));   s = model.statistics(x, z)
        M   model.θ = parameters(prior.update(s))

    | latents ＼ parameters | Point         | Distribution             | Draw                                |
    |-----------------------|---------------|--------------------------|-------------------------------------|
    | Distribution          | EM            | VBEM                     | Rao-Blackwellised data augmentation |
    | Point                 | hard EM       | maximisation-expectation | a draw around hard labels           |
    | Draw                  | stochastic EM | Monte Carlo VB           | Gibbs sampling                      |

    Args:
        model: serves `Conjugate`.
        latents, parameters: what is kept of each posterior; `Gradient` is a partial M-step
            (generalised EM).
        every: when the M-step comes: once a `sweep`; after each `batch`, averaged over time by `lr`
            and `decay` (online EM, from row 20 on); or after each from a `memo` of all batches'
            statistics (incremental EM, after a first sweep).
        lr, decay: step size of the M-step, ρ_t = lr · t^−decay; 1 and 0 are the ordinary M-step.
        tol: stop when the bound per datum moves by less than this in an epoch; None never stops.

    References: Dempster, Laird, Rubin (1977), Maximum likelihood from incomplete data; Neal, Hinton
    (1998), A view of EM.
    """

    requires = (Conjugate,)

    def __init__(
        self,
        model: nn.Module,
        latents: Any = Distribution(),
        parameters: Any = Point(),
        every: str = "sweep",
        lr: float = 1.0,
        decay: float = 0.0,
        tol: float | None = 1e-6,
    ):
        if every not in ("sweep", "batch", "memo"):
            raise ValueError(
                f"every={every!r}: the M-step comes once a 'sweep', after each 'batch', or from a"
                " 'memo'"
            )
        super().__init__(
            model,
            optimizers={"model": partial(ClosedForm, m_step=self.maximise, lr=lr, decay=decay)},
        )
        self.latents, self.belief, self.every, self.tol, self.mass = (
            latents,
            parameters,
            every,
            tol,
            0.0,
        )
        exact = (
            latents.monotone and parameters.monotone and every != "batch" and (lr, decay) == (1, 0)
        )
        self.guarantee = (
            "monotone"
            if exact
            else "monotone in expectation"
            if latents == parameters == Draw()
            else "none"
        )

    def training_step(self, batch: Any, index: int) -> None:
        batch = batch if isinstance(batch, Batch) else Batch(x := self.observe(batch), x, x)
        self.number, self.seen = index, self.examples + round(len(batch) / self.share)
        self.precision = torch.float32 if batch.x.dtype == torch.float32 else torch.float64
        if not self.mass:
            with self.together("rank 0"):  # as one process would draw it
                self.start(batch)
        for piece in batch.split(self.model.rows):  # rows that stay in cache
            x = piece.x if piece.length is None else (piece.x, piece.length)
            s = self.model.statistics(x, self.latents(self.model.posterior(x)), piece.weight)
            self.assign("model", s, now=piece.last and (self.sweep_ends or self.every != "sweep"))

    def maximise(self, s: Statistics) -> Statistics:
        """The M-step, with F recorded on both sides of it; returns the statistics as the new θ
        would have taken them.
        """
        memo, name = self._statistics, f"batch {self.number}"
        early = self.every == "batch" and (
            self.seen < 20 or not s["n"]
        )  # too little was seen to move by
        if self.every == "memo":
            self.bounds, early = (
                (self.bounds, False) if name in memo else ([], not self.sweep_ends)
            )  # more data: another bound
            memo[name] = s
            s = {
                key: sum((one[key] for one in memo.values()), torch.zeros_like(s[key])) for key in s
            }
        if early:
            return s
        share = s["n"] / self.mass if self.every == "batch" else 1.0  # a batch stands for all rows
        s = {name: value / share for name, value in s.items()}
        self.score(s, "E-step")
        before, s = self.model.theta(), self.model.m_step(s, self.belief)
        memo.update({number: self.model.rebase(one, before) for number, one in memo.items()})
        self.score(s, "M-step")
        return {name: value * share for name, value in s.items()}

    def score(self, s: Statistics, half: str) -> None:
        """Record F and its terms on one side of the M-step."""
        parts = self.model.free_energy(s, self.latents.temperature)
        parts.pop(
            "gap" if half == "M-step" or self.every != "sweep" else "", None
        )  # θ itself must have taken them all
        self.record(
            parts, half if self.comparable else "", partial(self.model.doubt, s), self.precision
        )
        self.comparable = True

    def start(self, batch: Batch) -> None:
        """Proper priors where the belief asks for them, and a start inside the belief, from all
        rows if they are at hand.
        """
        data = getattr(self._trainer, "datamodule", None)
        if self.every == "memo" and isinstance(data, Data):
            data.refuse_shuffled("every=memo")
        of: Any
        x: Any
        of, x = (data, data.observed("train")) if isinstance(data, Data) else (batch, batch.x)
        weight, length = of.weight, of.length
        if of is batch:  # the others have the rest of it
            x, weight, length = gathered(x), gathered(weight), gathered(length)
        x = x if self.model.rows else x[:]  # who takes no pieces takes all
        self.mass = self.model.mass(x, weight)
        x = x if length is None else (x, length)
        weight = {} if weight is None else {"weight": weight}
        if self.belief.needs_prior:
            self.model.make_proper(x, **weight)
        self.comparable = bool(self.bounds) or not (
            self.model.started and self.belief.needs_prior
        )  # a given point is no distribution
        if not self.model.started:
            self.model.start(x, self.belief, **weight)
