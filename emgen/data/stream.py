"""Data larger than memory: any iterable of batches, gone through once a sweep."""

__all__ = ["Stream"]

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pytorch_lightning import LightningDataModule

from emgen.data.base import Batch
from emgen.data.rows import rows_of


class Stream(LightningDataModule):
    """A sweep is one pass over `batches`: chunks of a file, a `DataLoader` with workers, a function
    that opens a reader.

    The batch after the next is looked at before a batch is handed on, so that the last of a sweep
    is known to be the last and an M-step comes exactly once a sweep, however many batches there
    are. What a resumed run sees is as reproducible as the iterable; an epoch that was cut begins
    again from its first batch.

    Args:
        batches: something that can be gone through again and again, or a function that returns a
            fresh iterator; each batch a tensor or array (B, *event), or a tuple that begins with
            one.
        name: what logs and tables call the data.

    Raises:
        ValueError: no batch at all, as from a generator that is already exhausted in its second
            sweep; a batch that is no rows.

    >>> stream = Stream([torch.zeros(2, 3), torch.ones(1, 3)])
    >>> [(len(batch), batch.last) for batch in stream.train_dataloader()]
    [(2, False), (1, True)]
    """

    def __init__(self, batches: Iterable[Any] | Callable[[], Iterator[Any]], name: str = "stream"):
        super().__init__()
        self.batches, self.name = batches, name

    def train_dataloader(self) -> "_Lookahead":
        if self.trainer is None:
            return _Lookahead(self.batches)
        return _Lookahead(self.batches, self.trainer.global_rank, self.trainer.world_size)


class _Lookahead:
    """Yields batches one behind the source, each knowing whether it is the last; of several
    processes each goes through the whole source and takes its share of every batch.
    """

    def __init__(
        self, batches: Iterable[Any] | Callable[[], Iterator[Any]], rank: int = 0, world: int = 1
    ):
        self.batches, self.rank, self.world = batches, rank, world

    def __iter__(self) -> Iterator[Batch]:
        source = iter(self.batches() if callable(self.batches) else self.batches)
        waiting, number = next(source, None), 0
        if waiting is None:
            raise ValueError(
                "the stream gave no batch: give a list, a DataLoader or a function that returns a"
                " fresh iterator, for a generator is exhausted after its first sweep."
            )
        for following in source:
            yield self._batch(waiting, number, last=False)
            waiting, number = following, number + 1
        yield self._batch(waiting, number, last=True)

    def _batch(self, values: Any, number: int, last: bool) -> Batch:
        values = values[0] if isinstance(values, (tuple, list)) else values
        whole = rows_of(values, f"the rows of batch {number}")
        if len(whole) < self.world:
            raise ValueError(
                f"batch {number} of the stream has {len(whole)} rows, fewer than the {self.world}"
                " processes: give larger batches."
            )
        x = whole[self.rank :: self.world]
        index = torch.arange(self.rank, len(whole), self.world)
        return Batch(x, x, index, number=number, total=len(whole), last=last)
