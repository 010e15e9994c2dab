"""The time-major order of ragged sequences, in which all of them advance together.

Rows are *packed*: time first, and at each time only the sequences that still run, the longest
first, so that no step works on padding and a step is a handful of kernels whatever the number of
sequences.
"""

__all__ = ["Frames", "Packing", "frames"]

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Packing:
    """The time-major order of the rows of ragged sequences: row (t, s) is time t of the s-th
    longest sequence.

    Args:
        lengths: number of frames of each sequence, each ≥ 1.
        device: where the index tensors live.

    Example:
        >>> packing = Packing([1, 3])
        >>> x = torch.tensor([[1, 0, 0], [2, 3, 4]])
        >>> packing.pack(x)
        tensor([2, 1, 3, 4])
        >>> packing.unpack(packing.pack(x), fill=-1)
        tensor([[ 1, -1, -1],
                [ 2,  3,  4]])
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str | None = None) -> None:
        if not len(lengths) or min(lengths) < 1:
            raise ValueError(
                f"each sequence needs at least one frame, not lengths {list(lengths)[:10]}"
            )
        self.lengths = list(lengths)
        order = sorted(range(len(self.lengths)), key=lambda s: -self.lengths[s])  # stable
        longest = torch.tensor([self.lengths[s] for s in order], device=device)
        self.order = torch.tensor(order, device=device)
        ended = torch.bincount(longest)[:-1].cumsum(0)  # before each time
        self._sizes = len(self.lengths) - ended  # how many still run
        self.sizes: list[int] = self._sizes.tolist()
        self.full = self.sizes[-1] == len(self.lengths)  # no padding: indices are strides

    @cached_property
    def time(self) -> Tensor:
        """The time of each row."""
        times = torch.arange(len(self.sizes), device=self.order.device)
        return times.repeat_interleave(self._sizes)

    @cached_property
    def rank(self) -> Tensor:
        """The place of each row's sequence among the longest."""
        rows = torch.arange(len(self.time), device=self.time.device)
        return rows - self._first[self.time]

    @cached_property
    def sequence(self) -> Tensor:
        """The sequence of each row."""
        return self.order[self.rank]

    @cached_property
    def _first(self) -> Tensor:
        """The first row of each time."""
        return self._sizes.cumsum(0) - self._sizes

    @cached_property
    def _previous(self) -> Tensor:
        """Of each row that is not the first of its sequence, the row one step earlier."""
        first, time = self.sizes[0], self.time
        return torch.arange(first, len(time), device=time.device) - self._sizes[time[first:] - 1]

    @cached_property
    def _place(self) -> Tensor:
        """The place of each row in sequences that follow one another."""
        lengths = torch.tensor(self.lengths, device=self.order.device)
        return (lengths.cumsum(0) - lengths)[self.sequence] + self.time

    def pack(self, x: Tensor) -> Tensor:
        """Rows (N, …) of padded sequences (B, T, …)."""
        if self.full:  # equal lengths keep their order
            return x[:, : len(self.sizes)].transpose(0, 1).flatten(0, 1)
        return x[self.sequence, self.time]

    def unpack(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """Padded sequences (B, T, …) of rows (N, …)."""
        x = rows.new_full((len(self.lengths), len(self.sizes), *rows.shape[1:]), fill)
        x[self.sequence, self.time] = rows
        return x

    def interleave(self, x: Tensor) -> Tensor:
        """Rows (N, …) of sequences that follow one another, (N, …)."""
        return x[self._place]

    def concatenate(self, rows: Tensor) -> Tensor:
        """Rows (N, …) as sequences that follow one another, (N, …).

        >>> packing = Packing([1, 3])
        >>> packing.concatenate(packing.interleave(torch.tensor([1, 2, 3, 4])))
        tensor([1, 2, 3, 4])
        """
        return torch.empty_like(rows).index_copy(0, self._place, rows)

    def among(self, first: int, last: int) -> tuple["Packing", Tensor]:
        """The packing of the sequences from the first-th to before the last-th longest, and their
        rows.
        """
        ranked = [self.lengths[s] for s in self.order[first:last].tolist()]
        times = torch.arange(ranked[0], device=self.order.device)
        sizes = self._sizes[: ranked[0]].clamp(max=last) - first
        time = times.repeat_interleave(sizes)
        within = torch.arange(len(time), device=time.device) - (sizes.cumsum(0) - sizes)[time]
        return Packing(ranked, self.order.device), self._first[time] + first + within

    def before(self, rows: Tensor) -> Tensor:
        """For each row that is not the first of its sequence, the row one step earlier."""
        return rows[: len(rows) - self.sizes[0]] if self.full else rows[self._previous]

    def after(self, rows: Tensor) -> Tensor:
        """The rows that are not the first of their sequence, in the order of `before`."""
        return rows[self.sizes[0] :]

    def from_before(self, rows: Tensor) -> Tensor:
        """Each row's value of the row one step earlier, 0 at the first of a sequence."""
        return torch.cat([torch.zeros_like(rows[: self.sizes[0]]), self.before(rows)])

    def from_after(self, rows: Tensor) -> Tensor:
        """Each row's value of the row one step later, 0 at the last of a sequence."""
        return torch.zeros_like(rows).index_copy(0, self._previous, self.after(rows))

    def total(self, rows: Tensor) -> Tensor:
        """Sum of row values (N,) over each sequence (B,)."""
        return rows.new_zeros(len(self.lengths)).index_add(0, self.sequence, rows)


class Frames(NamedTuple):
    """Sequences packed once, for as many E-steps as one likes: rows (N, *event), and which hold any
    value (None: all).
    """

    packing: Packing
    rows: Tensor
    seen: Tensor | None


def frames(x: "Tensor | tuple[Tensor, Tensor] | Frames") -> Frames:
    """The frames of sequences (B, T, *event), with NaN where values are missing, or of the pair
    (sequences, lengths).

    Raises:
        ValueError: sequences of fewer than two dimensions.
    """
    if isinstance(x, Frames):
        return x
    x, length = x if isinstance(x, tuple) else (x, None)
    if x.ndim < 2:
        raise ValueError(
            f"sequences have shape (sequences, time, *event), not {tuple(x.shape)}: add a first"
            " dimension"
        )
    if length is None and (
        not x.is_floating_point() or bool(x.sum().isfinite())
    ):  # one pass finds that nothing is missing
        packing = Packing([x.shape[1]] * len(x), x.device)
        return Frames(packing, packing.pack(x), None)
    some = ~x.flatten(2).isnan().all(-1) if x.ndim > 2 else ~x.isnan()
    if length is None:
        length = (some * torch.arange(1, x.shape[1] + 1, device=x.device)).amax(1)
    packing = Packing(length.tolist(), x.device)
    seen = packing.pack(some)
    return Frames(packing, packing.pack(x), None if seen.all() else seen)
