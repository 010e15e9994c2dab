"""Empty components of a hard partition, moved to the rows that fit worst."""

__all__ = ["Relocation"]

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import one_hot

from emgen.families import Family, prefixed


class Relocation(nn.Module):
    """The K worst-fitting rows of a sweep, kept so that components left empty can start again at
    them.

    Taking a row from its component and giving it one of its own is a partial E-step: the statistics
    change by that row, so the M-step that follows needs no second look at the data, and the next
    E-step labels every row anew. As soon as no component can end the sweep empty there is nothing
    left to note.

    Args:
        components: K.
        features: D.
        restarts: R partitions side by side.
        dtype: of the parameters.
    """

    score: Tensor
    x: Tensor
    label: Tensor
    weight: Tensor
    held: Tensor
    needed = True

    def __init__(self, components: int, features: int, restarts: int, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("score", torch.full((components, restarts), torch.inf, dtype=dtype))
        self.register_buffer("x", torch.zeros(components, restarts, features, dtype=dtype))
        self.register_buffer("label", torch.zeros(components, restarts, dtype=torch.long))
        self.register_buffer("weight", torch.zeros(components, restarts, dtype=dtype))
        self.register_buffer(
            "held", torch.zeros(restarts * components, dtype=dtype), persistent=False
        )  # so far in the sweep

    def note(
        self, x: Tensor, scores: Tensor, labels: Tensor, counts: Tensor, weight: Tensor | None
    ) -> None:
        """Remember the worst rows of a piece: x (N, *event), scores (N, [R,] K), labels (N, [R]),
        counts ([R,] K), weights (N,).
        """
        if self.needed:
            self.held = self.held + counts.flatten()
            self.needed = not bool((self.held > 0).all())
        if not self.needed:
            return
        components, restarts = self.score.shape
        label = labels.view(len(x), restarts)
        score = (
            scores.view(len(x), restarts, -1)
            .gather(-1, label[..., None])[..., 0]
            .to(self.score.dtype)
        )
        score = score if weight is None else score.masked_fill((weight == 0)[:, None], torch.inf)
        worst = score.topk(min(components, len(x)), 0, largest=False).indices
        mass = (
            torch.ones_like(worst, dtype=self.weight.dtype)
            if weight is None
            else weight[worst].to(self.weight.dtype)
        )
        rows = x.reshape(len(x), -1)[worst].to(self.x.dtype)
        score = torch.cat([self.score, score.gather(0, worst)])
        self.score, keep = score.topk(components, 0, largest=False)
        across = torch.arange(restarts, device=x.device)
        self.x = torch.cat([self.x, rows])[keep, across]
        self.label = torch.cat([self.label, label.gather(0, worst)])[keep, across]
        self.weight = torch.cat([self.weight, mass])[keep, across]

    def moved(self, s: dict[str, Tensor], components: Family) -> dict[str, Tensor] | None:
        """The statistics after each empty component has taken one of the worst rows; None if none
        is empty.
        """
        counts = s["weights.sum"].view(self.score.shape[1], -1)
        restart, empty = (counts == 0).nonzero(as_tuple=True)
        order = (counts == 0).cumsum(1)[
            restart, empty
        ] - 1  # the worst row goes to the first empty component
        if not len(empty):
            return None
        self._pool()
        if not self.score[order, restart].isfinite().all():
            return None
        k = counts.shape[1]
        change = one_hot(restart * k + empty, counts.numel()) - one_hot(
            restart * k + self.label[order, restart], counts.numel()
        )
        r = change * self.weight[order, restart][:, None]
        left = counts + r.sum(0).view_as(counts)
        if (
            left <= 1e-9 * counts.sum(1, keepdim=True)
        ).any():  # a row that is alone in its component stays there
            return None
        shifted = {
            "weights.sum": r.sum(0).view_as(s["weights.sum"]),
            **prefixed("components", components.statistics(self.x[order, restart], r)),
        }
        return {
            name: value + shifted[name] if name in shifted else value for name, value in s.items()
        }

    def _pool(self) -> None:
        """Keep the worst of the rows that all processes have kept."""
        if not distributed.is_available() or not distributed.is_initialized():
            return
        kept = [self.score, self.x, self.label, self.weight]
        world = distributed.get_world_size()
        parts = [[torch.empty_like(mine) for _ in range(world)] for mine in kept]
        for mine, theirs in zip(kept, parts):
            distributed.all_gather(theirs, mine.contiguous())
        score, x, label, weight = (torch.cat(part) for part in parts)
        components, restarts = self.score.shape
        self.score, keep = score.topk(components, 0, largest=False)
        across = torch.arange(restarts, device=x.device)
        self.x, self.label = x[keep, across], label[keep, across]
        self.weight = weight[keep, across]

    def forget(self) -> None:
        """A new sweep begins."""
        self.needed = True
        self.score, self.held = torch.full_like(self.score, torch.inf), torch.zeros_like(self.held)
