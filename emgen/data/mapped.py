"""Rows that stay in a file: what is asked for is read, converted and handed over as a tensor."""

__all__ = ["Mapped"]

from typing import Any

import torch
from torch import Tensor


class Mapped:
    """Rows (N, *event) of a memory-mapped file, or some of them: a tensor's shape, none of its
    memory.

    An index gives a tensor of the rows asked for, `rows[:]` one of all.

    Args:
        stored: the file's rows, of any type.
        places: numbers of the rows that these are, (N,); None for all in their order.
        dtype: what values are converted to; default as they are stored.
        scale: what they are then divided by.
        device: where a tensor is put.

    >>> rows = Mapped(torch.tensor([[0], [51], [255]], dtype=torch.uint8), dtype=torch.float32, scale=255)
    >>> rows.shape, rows[1:].tolist()
    (torch.Size([3, 1]), [[0.20000000298023224], [1.0]])
    """

    def __init__(
        self,
        stored: Tensor,
        places: Tensor | None = None,
        dtype: torch.dtype | None = None,
        scale: float = 1.0,
        device: torch.device | str = "cpu",
    ):
        self.stored, self.places, self.scale = stored, places, scale
        self.dtype = stored.dtype if dtype is None else dtype
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.stored) if self.places is None else len(self.places)

    def __getitem__(self, rows: Any) -> Tensor:
        found = self.stored[self._numbers(rows)].to(self.device, self.dtype)
        return found if self.scale == 1 else found / self.scale

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.stored.shape[1:]))

    @property
    def ndim(self) -> int:
        return self.stored.ndim

    def dim(self) -> int:
        return self.stored.ndim

    def numel(self) -> int:
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        return self.dtype.is_complex

    def some(self, rows: Any) -> "Mapped":
        """These rows alone, which stay in the file."""
        stored, places = self.stored, self.places
        if places is not None:
            places = places[rows]
        elif isinstance(rows, slice):
            stored = stored[rows]
        else:
            places = rows
        return Mapped(stored, places, self.dtype, self.scale, self.device)

    def to(self, *target: Any) -> "Mapped":
        """The same rows in another type, or on another device."""
        dtype, device = self.dtype, self.device
        for one in target:
            if isinstance(one, torch.dtype):
                dtype = one
            else:
                device = torch.device(one)
        return Mapped(self.stored, self.places, dtype, self.scale, device)

    def _numbers(self, rows: Any) -> Any:
        """The rows of the file that are meant."""
        rows = rows.cpu() if isinstance(rows, Tensor) else rows
        return rows if self.places is None else self.places[rows].long()
