"""Gradients that wait for further batches before a player steps."""

__all__ = ["Waiting"]

from typing import Any

from torch import Tensor

Who = str | tuple[str, ...]


class Waiting:
    """The mean gradient of k batches, each weighed by its rows: Σ n_b g_b / Σ n_b.

    A player may descend several times in a batch; its j-th descents are averaged with one another.
    With k = 1 a gradient passes through as it is.

    >>> import torch
    >>> waiting = Waiting()
    >>> waiting.next_batch(rows=1, k=2, last=False)
    >>> waiting.add("model", [torch.tensor([0.0])]), waiting.complete
    ([tensor([0.])], False)
    >>> waiting.next_batch(rows=3, k=2, last=False)
    >>> waiting.add("model", [torch.tensor([4.0])]), waiting.complete
    ([tensor([3.])], True)
    """

    def __init__(self) -> None:
        self.complete = True  # outside a loop a step is whole
        self._batches, self._rows, self._batch_rows = 0, 0.0, 1.0
        self._sums: dict[tuple[Who, int], list[Tensor]] = {}
        self._descents: dict[Who, int] = {}

    def next_batch(self, rows: float, k: int, last: bool) -> None:
        """A batch begins; after the k-th, or the last of a sweep, players step."""
        if self.complete:
            self._batches, self._rows, self._sums = 0, 0.0, {}
        self._batches += 1
        self._rows += rows
        self._batch_rows = rows
        self._descents = {}
        self.complete = self._batches >= k or last

    def add(self, who: Who, gradients: list[Tensor]) -> list[Tensor]:
        """The mean of a player's gradients so far."""
        if self.complete and self._batches <= 1:
            return gradients
        turn = self._descents.get(who, 0)
        self._descents[who] = turn + 1
        before = self._sums.get((who, turn))
        total = [self._batch_rows * g for g in gradients]
        if before is not None:
            total = [b.to(t.device) + t for b, t in zip(before, total)]
        self._sums[who, turn] = total
        return [t / self._rows for t in total]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint between two steps needs; nothing is kept at a step."""
        if self.complete:
            return {}
        return {"batches": self._batches, "rows": self._rows, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        self.complete = not state
        if state:
            self._batches, self._rows = state["batches"], state["rows"]
            self._sums = state["sums"]
