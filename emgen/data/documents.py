"""Which entries of a corpus belong to which document."""

__all__ = ["Documents", "are_entries"]

import torch
from torch import Tensor


def are_entries(rows: Tensor) -> bool:
    """Whether rows have the form of entries (document, word, count): integers (E, 3)."""
    return rows.ndim == 2 and rows.shape[1] == 3 and not rows.is_floating_point()


class Documents:
    """The documents of a corpus in the order of their numbers; one without an entry is not among
    them.

    Args:
        entries: (document, word, count), integers (E, 3) in any order.

    >>> corpus = torch.tensor([[4, 0, 1], [2, 0, 1], [4, 1, 3]])
    >>> documents = Documents(corpus)
    >>> len(documents), documents.rows_of(torch.tensor([1])).tolist()
    (2, [0, 2])
    """

    def __init__(self, entries: Tensor):
        self.source = entries
        document = entries[:, 0]
        self._order = document.argsort(stable=True)
        _, self._lengths = document.unique(return_counts=True)
        self._starts = self._lengths.cumsum(0) - self._lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def rows_of(self, index: Tensor) -> Tensor:
        """The row numbers of all entries of the documents at the places `index`, document after
        document.
        """
        lengths = self._lengths[index]
        begins = lengths.cumsum(0) - lengths  # among the rows that are returned
        within = torch.arange(int(lengths.sum()), device=index.device)
        within = within - begins.repeat_interleave(lengths)
        return self._order[self._starts[index].repeat_interleave(lengths) + within]
