"""A corpus as a sparse matrix of counts, and its products with dense ones."""

__all__ = ["Entries", "are_entries"]

import warnings
from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor


def are_entries(x: Tensor) -> bool:
    """Whether x has the form of entries (document, word, count): integers (E, 3)."""
    return (
        x.layout == torch.strided and not x.is_floating_point() and x.ndim == 2 and x.shape[1] == 3
    )


class Entries:
    """Counts of words in documents, sorted by document and word, and by word, as compressed rows.

    Args:
        x: integer entries (E, 3) of document, word and count; or the counts (documents, words),
            floating or sparse.
        documents, words: the shape of the matrix of counts.

    Raises:
        ValueError: entries outside the matrix, negative counts, or another shape.
    """

    def __init__(self, x: Tensor, documents: int, words: int) -> None:
        self.source, self.version = x, x._version
        document, word, count = _triples(x, documents, words)
        place, count = document * words + word, count.double()
        if not bool(
            (place[1:] > place[:-1]).all()
        ):  # sort, and merge entries of one word in one document
            place, own = place.unique(return_inverse=True)
            count = count.new_zeros(len(place)).index_add(0, own, count)
        self.document, self.word, self.count = place // words, place % words, count
        self.by_word = self.word.argsort(stable=True)
        self.shape = documents, words

    def is_of(self, x: Tensor, documents: int) -> bool:
        """Whether x is the tensor this was made from, or another view of its very memory,
        unchanged.
        """
        same = x is self.source or (
            x.layout == self.source.layout == torch.strided
            and x.shape == self.source.shape
            and x.data_ptr() == self.source.data_ptr()
            and x.stride() == self.source.stride()
        )
        return same and documents == self.shape[0] and x._version == self.version

    @cached_property
    def _pattern(self) -> tuple[Tensor, Tensor]:
        return _starts(self.document, self.shape[0]), _starts(
            self.word[self.by_word], self.shape[1]
        )

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Documents of like length in blocks of about `size` entries: rows (B,), words (B, L) and
        counts (B, L), 0 at padding.
        """
        starts = self._pattern[0]
        lengths = starts[1:] - starts[:-1]
        order = lengths.argsort()
        longest = lengths[order].tolist()
        stop = len(longest)
        while stop:  # from the longest down
            width = max(1, longest[stop - 1])
            rows = order[max(0, stop - max(1, size // width)) : stop]
            stop -= len(rows)
            place = torch.arange(width, device=rows.device)
            real = place < lengths[rows, None]
            entry = torch.where(real, starts[rows, None] + place, 0)
            yield rows, self.word[entry], torch.where(real, self.count[entry], 0.0)

    def products(self, a: Tensor, b: Tensor) -> Float[Tensor, "entries"]:
        """(a b) at the entries alone."""
        zero = _compressed(self._pattern[0], self.word, a.new_zeros(len(self.word)), self.shape)
        return torch.sparse.sampled_addmm(zero, a, b.T.contiguous().T, beta=0.0).values()

    def times(self, values: Tensor, b: Tensor) -> Float[Tensor, "documents topics"]:
        """R b for the sparse matrix R with these values at the entries."""
        return _compressed(self._pattern[0], self.word, values, self.shape) @ b.contiguous()

    def transposed_times(self, values: Tensor, a: Tensor) -> Float[Tensor, "words topics"]:
        """Rᵀ a."""
        return (
            _compressed(
                self._pattern[1],
                self.document[self.by_word],
                values[self.by_word],
                (self.shape[1], self.shape[0]),
            )
            @ a
        )


def _compressed(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "sparse CSR is in beta": true, and of no use to a reader
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def _starts(sorted_rows: Tensor, rows: int) -> Tensor:
    return torch.searchsorted(sorted_rows, torch.arange(rows + 1, device=sorted_rows.device))


def _triples(x: Tensor, documents: int, words: int) -> tuple[Tensor, Tensor, Tensor]:
    if are_entries(x):
        document, word, count = (column.contiguous() for column in x.unbind(1))
        if len(x) and not (
            0 <= int(document.min()) and int(document.max()) < documents and int(word.max()) < words
        ):
            raise ValueError(
                f"entries (document, word, count) lie within {documents} documents and {words}"
                f" words, not up to document {int(document.max())} and word {int(word.max())}"
            )
    elif x.shape == (documents, words):
        sparse = (x if x.layout == torch.sparse_coo else x.to_sparse_coo()).coalesce()
        (document, word), count = sparse.indices(), sparse.values()
    else:
        raise ValueError(
            f"the corpus is integer entries (E, 3) or counts ({documents}, {words}), not {x.dtype}"
            f" of shape {tuple(x.shape)}"
        )
    if not bool((count >= 0).all()):
        raise ValueError("counts of words must be 0 or more")
    return document, word, count
