"""What every trainer shares: players, two verbs (`descend`, `assign`), the ledger, and all of
Lightning's subtleties.
"""

__all__ = ["Trainer"]

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from emgen.data.base import Batch, Block, seed_of
from emgen.families.base import round_off
from emgen.objectives.base import Terms
from emgen.randomness import seeded
from emgen.roles import Statistics, missing_roles, serves
from emgen.trainers.accumulation import Waiting
from emgen.trainers.ledger import Ledger
from emgen.trainers.loops import Evaluated
from emgen.trainers.processes import count as _processes
from emgen.trainers.processes import summed_together, take_over

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Trainer(Evaluated):
    """A schedule of half-steps over players; a subclass writes `training_step` as the pseudo-code
    of its algorithm.

    The players are `model` (p_θ: everything but its encoder), `recognition` (q_φ, the model's
    attribute of that name) and `critic` (T_ψ). A step is written for one batch; where the loader
    hands a block of several, it is run on each in turn, so that the loop's own cost vanishes on
    small networks. Every step draws from a random state fixed by (seed, epoch, batch), which makes
    a resumed run the same run bit for bit; whatever is drawn between steps, by a loader that
    shuffles or a callback, goes on from the caller's own state as if no step had been.

    Args:
        model: an `nn.Module` that serves the roles in `requires`.
        optimizers: for each player that descends or is assigned, parameters → optimiser; players
            that always move together may share one under the tuple of their names.
        critic: the third player of an adversarial game.
        clip: largest gradient norm of a player's step; None leaves gradients alone.
        scheduler: optimiser → learning-rate schedule, stepped once an epoch, or Lightning's
            dictionary of one, which says its `interval` (epoch or step) and the tag that a
            ReduceLROnPlateau is to `monitor`; None for a constant rate.
        accumulate: batches whose gradients are averaged, each by its rows, before a player steps;
            the last of a sweep step with as many as there are. Where one loss is descended this is
            the step of one batch of all their rows; players that move in turn each see the
            others as they were before the first of these batches.

    Raises:
        TypeError: the model lacks a role; the message names the trainers that would fit it.
    """

    requires: ClassVar[tuple[type, ...]] = ()
    guarantee: str = "none"
    tol: float | None = None
    model: Any
    critic: Any

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "training_step" in cls.__dict__:
            cls.training_step = _over_block(cls.__dict__["training_step"])  # type: ignore[method-assign]

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizers: Mapping[Any, OptimizerFactory],
        critic: nn.Module | None = None,
        clip: float | None = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        accumulate: int = 1,
    ):
        super().__init__()
        _check_roles(type(self), model)
        if clip is not None and not clip > 0:
            raise ValueError(
                f"clip={clip}: the largest gradient norm must be positive, or null for no clipping."
            )
        if isinstance(accumulate, bool) or accumulate != int(accumulate) or accumulate < 1:
            raise ValueError(
                f"accumulate={accumulate}: the number of batches a step is made of is an integer"
                " >= 1."
            )
        self.automatic_optimization = False
        self.model, self.critic = model, critic
        self.clip, self.scheduler, self.accumulate = clip, scheduler, int(accumulate)
        self._waiting = Waiting()
        self.seed = self.iteration = self.examples = self.number = 0
        self.ledger = Ledger()
        self._factories = {
            name: factory
            for name, factory in optimizers.items()
            if name != "recognition" or self.has_recognition
        }
        self._optimizers: dict[str | tuple[str, ...], Any] = {}
        self._owned: dict[str | tuple[str, ...], list[nn.Parameter]] = {}
        self._statistics: dict[str, Statistics] = {}
        self._descents: list[tuple[int, str, Terms]] = []
        self._shares: list[float] = []  # what each descent weighs in means over processes
        self.after_step: list[Callable[[], Any]] = []  # called when an optimiser has moved
        self._moves = 0  # steps of optimisers that `after_step` knows of
        self._monitors: list[str] = []  # of each schedule
        self.recorded_at: dict[str, int] = {}  # the epoch of each tag's last record
        self.sweep_ends, self.share, self.converged = True, 1.0, False
        self.bounds: list[tuple[str, float]] = []
        self.row: dict[str, float] = {}
        self.milestones: tuple[
            int, ...
        ] = ()  # epochs at whose end the validation rows are scored, however seldom else
        self.history: list[dict[str, float]] = []
        self._bound_before: float | None = None

    @property
    def has_recognition(self) -> bool:
        return isinstance(getattr(self.model, "recognition", None), nn.Module)

    @property
    def recognition(self) -> Any:
        """q_φ(z|x), the encoder that the model carries (None where it has none)."""
        return getattr(self.model, "recognition", None)

    @property
    def descends(self) -> dict[str, str]:
        """What each player of a game descends at the best critic, in words; others say nothing."""
        return {}

    def parameters_of(self, player: str | tuple[str, ...]) -> list[nn.Parameter]:
        """The trainable parameters of `model`, `recognition` or `critic`, or of several; none
        belongs to two players.
        """
        if player not in self._owned:
            names = (player,) if isinstance(player, str) else player
            self._owned[player] = [p for name in names for p in self._find_parameters(name)]
        return self._owned[player]

    def _find_parameters(self, player: str) -> list[nn.Parameter]:
        encoder = list(self.recognition.parameters()) if self.has_recognition else []
        if player == "model":
            theirs = {id(p) for p in encoder}
            owned = [p for p in self.model.parameters() if id(p) not in theirs]
        else:
            owned = encoder if player == "recognition" else list(getattr(self, player).parameters())
        return [p for p in owned if p.requires_grad]

    def descend(
        self, players: str | tuple[str, ...] | Mapping[Any, Terms], terms: Terms | None = None
    ) -> None:
        """One gradient step of `terms.loss` for these players alone; the others are held still.

        `descend({"critic": a, "model": b})` is simultaneous play: both gradients are taken before
        either player moves. The gradient is averaged over processes, and over the batches of
        `accumulate`, clipped, laid out as its parameter, and recorded.
        """
        plays: dict[Any, Any] = dict(players) if isinstance(players, Mapping) else {players: terms}
        moves = []
        for names, play in plays.items():
            parameters = self.parameters_of(names)
            gradients = torch.autograd.grad(
                play.loss,
                parameters,
                retain_graph=len(plays) > 1,
                allow_unused=True,
                materialize_grads=True,
            )
            moves.append((names, parameters, self._waiting.add(names, self._averaged(gradients))))
            who = names if isinstance(names, str) else " and ".join(names)
            taken = Terms(play.loss.detach(), play.parts)
            self._descents.append((self.iteration, who, taken))
            self._shares.append(self.share * _processes())
        for names, parameters, gradients in moves if self._waiting.complete else ():
            gradients = self._clipped(gradients)
            for p, g in zip(parameters, gradients):
                p.grad = (
                    g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
                )  # fused steps take it for granted
            for name in (names,) if names in self._factories else names:
                self.optimizer(name).step()
        torch.clear_autocast_cache()  # under mixed precision it holds casts of the parameters as they were

    def assign(self, player: str, statistics: Statistics, now: bool | None = None) -> None:
        """Add sufficient statistics; when the sweep ends (or `now`), sum them over processes and do
        the M-step.

        The player's optimiser is an `emgen.optim.ClosedForm`: its `step` receives a closure that
        returns the statistics.
        """
        so_far = self._statistics.pop(player, None)
        total = (
            statistics
            if so_far is None
            else {name: so_far[name] + value for name, value in statistics.items()}
        )
        if self.sweep_ends if now is None else now:
            total = summed_together(total)
            with self.together():
                self.optimizer(player).step(lambda: total)
        else:
            self._statistics[player] = total

    def record(
        self,
        parts: Mapping[str, Tensor],
        half_step: str = "",
        doubt: Callable[[], float] = float,
        precision: torch.dtype | None = None,
    ) -> None:
        """Write named scalars into the ledger, where a callback finds their means over the epoch.

        A named `half_step` with a `bound` is checked against the bound before it: a trainer whose
            guarantee is
        `monotone` stops when the bound falls by more than the `round_off` of rows in `precision`
        (default: the bound's own), of which `doubt` says what the model expects beyond the usual.
        """
        self.ledger.record(parts)
        if half_step and "bound" in parts:
            bound = float(parts["bound"])
            if not math.isfinite(bound):
                raise FloatingPointError(
                    f"the {half_step} of {type(self).__name__} left a bound of {bound:g} at epoch"
                    f" {self.current_epoch}: the model gives some row no finite density; check the"
                    " data for values beyond its range, or give a prior."
                )
            fall = self.bounds[-1][1] - bound if self.bounds else -torch.inf
            self.bounds = [*self.bounds[-1:], (half_step, bound)]
            usual = float(round_off(parts["bound"], precision))
            if self.guarantee == "monotone" and fall > usual and fall > usual + doubt():
                raise ArithmeticError(
                    f"the {half_step} of {type(self).__name__} lowered its bound by {fall:.3g} to"
                    f" {bound:.6g} at epoch {self.current_epoch}, which exact half-steps cannot do:"
                    " check the model's statistics and m_step."
                )

    def together(self, purpose: str = "together") -> AbstractContextManager[None]:
        """Draws inside are the same on every process, as of a θ that all of them keep; of one
        process they go on where they were.
        """
        if _processes() == 1:
            return nullcontext()
        seed = seed_of(self.seed, self.current_epoch, self.number, purpose)
        return seeded(seed, self.device)

    def shared(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes, each weighing as much as it has rows of the
        batch.
        """
        if _processes() > 1:
            value = value * self.share
            torch.distributed.all_reduce(value)
        return value

    def observe(self, batch: Any) -> Tensor:
        """x as a likelihood sees it (binarised if the data says so); a foreign loader's tensor or
        (tensor, ...) as it is.
        """
        if isinstance(batch, Batch):
            return batch.x[:]
        return batch[0] if isinstance(batch, (tuple, list)) else batch

    def grey(self, batch: Any) -> Tensor:
        """x as stored, before any binarisation: a critic would tell binary data from decoder means
        at once.
        """
        return batch.grey[:] if isinstance(batch, Batch) else self.observe(batch)

    @property
    def progress(self) -> float:
        """The share of training that is done, in [0, 1], by whole epochs; 0 outside a run."""
        epochs = self._trainer.max_epochs if self._trainer is not None else None
        return self.current_epoch / epochs if epochs and epochs > 0 else 0.0

    def optimizer(self, player: str | tuple[str, ...]) -> Any:
        """The optimiser of a player: Lightning's wrapper of it inside a run, the plain one outside."""
        if not self._optimizers:
            steppers = (
                self.configure_optimizers()[0] if self._trainer is None else self.optimizers()
            )
            steppers = steppers if isinstance(steppers, list) else [steppers]
            self._optimizers = dict(zip(self._factories, steppers, strict=True))
        return self._optimizers[player]

    def configure_optimizers(self) -> tuple[list[Any], list[Any]]:
        optimizers = [
            factory(self.parameters_of(player)) for player, factory in self._factories.items()
        ]
        schedules = (
            [self.scheduler(optimizer) for optimizer in optimizers] if self.scheduler else []
        )
        schedules = [s if isinstance(s, dict) else {"scheduler": s} for s in schedules]
        self._monitors = [s.get("monitor", "train/loss") for s in schedules]
        ours = ("monitor", "strict")  # which Lightning leaves to those who step themselves
        return optimizers, [{k: v for k, v in s.items() if k not in ours} for s in schedules]

    def on_fit_start(self) -> None:
        self._optimizers = {}  # Lightning has wrapped them anew

    def setup(self, stage: str) -> None:
        self._owned = {}
        self.after_step, self._moves = [], 0
        if self._trainer is not None:
            take_over(self._trainer.strategy)

    def on_train_start(self) -> None:
        """What is asked for now holds after a resume too: a checkpoint brings its old learning rate
        along.
        """
        for optimizer in self.trainer.optimizers if self.scheduler is None else []:
            for group in optimizer.param_groups:
                group.update(
                    (key, value) for key, value in optimizer.defaults.items() if key in group
                )
        self._moves = self.trainer.global_step
        configs: Any = self.trainer.lr_scheduler_configs
        for config in configs:
            if config.interval == "step":
                self.after_step.append(config.scheduler.step)

    def on_train_epoch_end(self) -> None:
        means = self.ledger.means()
        self.history.append(means)
        self._log_at_examples({f"train/{name}": value for name, value in means.items()})
        self._step_schedules()
        bound = self.history[-1].get("bound")
        if bound is not None and self.tol is not None:
            self.converged = (
                self._bound_before is not None and abs(bound - self._bound_before) < self.tol
            )
            self._bound_before = bound
            self.trainer.should_stop = self.trainer.should_stop or self.converged
        self.ledger.clear()

    def _step_schedules(self) -> None:
        """At the end of an epoch; a plateau is looked for when its tag was recorded in it."""
        configs = self.trainer.lr_scheduler_configs
        for config, monitor in zip(configs, self._monitors, strict=True):
            if not isinstance(config.scheduler, ReduceLROnPlateau):
                if config.interval == "epoch":
                    config.scheduler.step()
            elif self.recorded_at.get(monitor) == self.current_epoch:
                config.scheduler.step(float(self.trainer.callback_metrics[monitor]))
            elif monitor not in self.recorded_at and not monitor.startswith("val/"):
                known = ", ".join(tag for tag in self.recorded_at if "/" in tag)
                raise ValueError(f"monitor={monitor} is not recorded: choose one of {known}.")

    def _after_step(self) -> None:
        if self.trainer.global_step > self._moves:
            self._moves = self.trainer.global_step
            for call in self.after_step:
                call()

    def log(self, name: str, *arguments: Any, **options: Any) -> None:
        """Lightning's, which keeps the epoch too: `callback_metrics` hold old values as well."""
        self.recorded_at[name] = self.current_epoch
        super().log(name, *arguments, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["emgen"] = {
            "iteration": self.iteration,
            "examples": self.examples,
            "seed": self.seed,
            "ledger": self.ledger.state_dict(),
            "statistics": self._pooled(),
            "bounds": self.bounds,
            "bound_before": self._bound_before,
            "waiting": self._waiting.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["emgen"]
        self.iteration, self.examples, self._statistics = (
            state["iteration"],
            state["examples"],
            state["statistics"],
        )
        self.bounds, self._bound_before = state["bounds"], state["bound_before"]
        self.ledger.load_state_dict(state["ledger"])
        self._waiting.load_state_dict(state.get("waiting"))
        if self.global_rank > 0:  # of a sweep that was cut, the first process keeps all so far
            for player in self._factories:
                self._statistics.pop(player, None)

    def _pooled(self) -> dict[Any, Statistics]:
        """The statistics so far, those of a sweep that goes on summed over processes, for one
        process writes them down.
        """
        return {
            name: summed_together(one) if name in self._factories else one
            for name, one in self._statistics.items()
        }

    def _averaged(self, gradients: Iterable[Tensor]) -> list[Tensor]:
        """Gradients averaged over processes through one flat buffer."""
        gradients = list(gradients)
        if _processes() > 1:
            parts = self.shared(torch.cat([g.flatten() for g in gradients])).split(
                [g.numel() for g in gradients]
            )
            gradients = [part.view_as(g) for part, g in zip(parts, gradients)]
        return gradients

    def _clipped(self, gradients: list[Tensor]) -> list[Tensor]:
        """Shrunk to the largest norm allowed, all by one factor."""
        if self.clip is not None:
            norm = torch.linalg.vector_norm(
                torch.stack([torch.linalg.vector_norm(g) for g in gradients])
            )
            shrink = (self.clip / (norm + 1e-12)).clamp(max=1.0)
            gradients = [g * shrink for g in gradients]
        return gradients

    def _seed(self, index: int) -> int:
        """Of all draws of one step, so that the step does not depend on what came before it."""
        return seed_of(self.seed, self.current_epoch, index, f"rank {self.global_rank}")

    def _loader_ends(self) -> bool:
        """Whether a batch of somebody's own loader is the last of its sweep, which Lightning's loop
        knows; a step outside a loop is a sweep of its own.
        """
        return self._trainer is None or self._trainer.is_last_batch

    def _close_block(self) -> None:
        """Record what the block descended and refuse to go on from a loss that is not finite (one
        look a block).
        """
        descents, self._descents = self._descents, []
        shares, self._shares = self._shares, []
        if not descents:
            return
        losses = torch.stack([terms.loss for _, _, terms in descents])
        if not bool(losses.isfinite().all()):
            step, players, terms = next(d for d in descents if not bool(d[2].loss.isfinite()))
            bad = [
                f"{name} = {float(value)}"
                for name, value in terms.parts.items()
                if not bool(value.isfinite())
            ]
            raise FloatingPointError(
                f"the loss of {players} became {float(terms.loss)} at step {step} of epoch"
                f" {self.current_epoch}{' (' + ', '.join(bad) + ')' if bad else ''}: lower the"
                " learning rate, set trainer.clip, or check the data."
            )
        if _processes() > 1:  # a mean over rows weighs as many rows as it is of
            losses = losses * losses.new_tensor(shares)
        self.ledger.record({"loss": losses.sum()}, count=len({step for step, _, _ in descents}))
        for (_, _, terms), weight in zip(descents, shares):
            self.record(terms.parts if weight == 1 else _scaled(terms.parts, weight))


def _over_block(step: Callable[[Any, Any, int], None]) -> Callable[[Any, Any, int], None]:
    """Run a step that is written for one batch over every batch of a block, each from its own
    random state.
    """

    @wraps(step)
    def training_step(self: Trainer, batch: Any, index: int) -> None:
        for one in batch if isinstance(batch, Block) else [batch]:
            number = self.number = one.number if isinstance(one, Batch) else index
            self.sweep_ends = one.last if isinstance(one, Batch) else self._loader_ends()
            rows = len(one) if isinstance(one, Batch) else len(self.observe(one))
            total = getattr(one, "total", 0) or rows * _processes()
            self.share = rows / total
            self._waiting.next_batch(total, self.accumulate, self.sweep_ends)
            with seeded(self._seed(number), self.device):
                step(self, one, number)
            self.iteration += 1
            self.examples += total
            if self.after_step:
                self._after_step()
        self._close_block()

    return training_step


def _scaled(parts: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    return {name: value * weight for name, value in parts.items()}


def _check_roles(trainer: type[Trainer], model: nn.Module) -> None:
    missing = missing_roles(model, trainer.requires)
    if not missing:
        return
    fits = sorted(
        {
            t.__name__
            for t in _all_trainers(Trainer)
            if t.requires and all(serves(model, role) for role in t.requires)
        }
    )
    advice = (
        f"trainers that fit it: {', '.join(fits)}" if fits else "no trainer of this package fits it"
    )
    raise TypeError(
        f"{trainer.__name__} needs a model that serves {' and '.join(missing)}, which"
        f" {type(model).__name__} lacks; {advice}."
    )


def _all_trainers(root: type[Trainer]) -> list[type[Trainer]]:
    return [t for child in root.__subclasses__() for t in (child, *_all_trainers(child))]
