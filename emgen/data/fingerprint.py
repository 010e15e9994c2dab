"""Whether data are those of before, told by a few numbers that fit into a configuration."""

__all__ = ["Fingerprint", "fingerprint"]

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

WHOLE = 2**30  # bytes of a column that are all read; of a longer one a sample
SAMPLED = 256  # blocks of that sample
BLOCK = 2**18  # bytes of a block
GOLDEN = 0.6180339887498949  # its multiples fill the unit interval evenly

# A value drawn by a formula differs between processors by some ulps of float32, whose relative
# size is 2^-24; sixteen of them are allowed for.
ROUNDING = 2.0**-20


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of data to know them again.

    Attributes:
        rows: how many each split has.
        dtype: of the training rows.
        checksum: of shapes, kinds of numbers and bytes.
        sum: s = Σᵢ wᵢ xᵢ over all values, with fixed weights 0 <= wᵢ < 2 that differ from place to
            place.
        magnitude: m = Σᵢ wᵢ |xᵢ|, which rounding is measured by.
    """

    rows: dict[str, int]
    dtype: str
    checksum: str
    sum: float
    magnitude: float

    def matches(self, other: "Fingerprint", exact: bool) -> bool:
        """Whether both are of the same data.

        Values of another kind of number have other bytes; of those the rows are counted alone.

        Args:
            other: the other data's.
            exact: whether bytes decide, as they do for what is read from a file; else the same data
                may have been drawn on another make of processor, and |s − s′| <= 2⁻²⁰ max(m, m′)
                decides.
        """
        if self.rows != other.rows:
            return False
        if self.dtype != other.dtype or self.checksum == other.checksum:
            return True
        allowed = ROUNDING * max(self.magnitude, other.magnitude)
        return not exact and abs(self.sum - other.sum) <= allowed

    def plain(self) -> dict[str, Any]:
        """As a configuration holds it."""
        return asdict(self)

    def __str__(self) -> str:
        counts = ", ".join(f"{n:,} {split}" for split, n in self.rows.items())
        return f"{counts} rows of {self.dtype}, checksum {self.checksum}"


def fingerprint(data: Any) -> Fingerprint:
    """The fingerprint of the rows of every split, with their weights and true lengths.

    Up to 1 GiB a column is read whole; of a longer one, such as a large memory map, 256 blocks of
    256 KiB (or of one row), spread evenly from its first row to its last, so that it takes a
    second at most. Nothing but a block is ever copied.

    Args:
        data: `emgen.data.Data`, or what has `rows`, a mapping from splits to tensors (N, *event).

    >>> from emgen.data import Data
    >>> one, other = (fingerprint(Data(torch.tensor([[0.0], [x]]))) for x in (1.0, 2.0))
    >>> one.rows, one.matches(one, exact=True), one.matches(other, exact=False)
    ({'train': 2}, True, False)
    """
    columns = dict(data.rows)
    for name in ("weight", "length"):
        if getattr(data, name, None) is not None:
            columns[name] = getattr(data, name)

    digest = blake2b(digest_size=8)
    total = magnitude = 0.0
    for name, column in columns.items():
        digest.update(f"{name} {tuple(column.shape)} {column.dtype};".encode())
        weights = torch.empty(0, dtype=torch.float64)
        for number, block in _blocks(column.detach()):
            block = block.cpu().contiguous()
            digest.update(block.view(-1).view(torch.uint8).numpy().data)

            x = block.to(torch.float64, copy=True).flatten()  # never the rows themselves
            x.nan_to_num_(0.0, 0.0, 0.0)
            if len(weights) < len(x):
                weights = torch.arange(len(x), dtype=torch.float64).mul_(GOLDEN).frac_()
            share = 1 + number * GOLDEN % 1
            total += share * float(x @ weights[: len(x)])
            magnitude += share * float(x.abs_() @ weights[: len(x)])

    return Fingerprint(
        rows={split: len(rows) for split, rows in data.rows.items()},
        dtype=str(data.rows["train"].dtype).removeprefix("torch."),
        checksum=digest.hexdigest(),
        sum=total,
        magnitude=magnitude,
    )


def _blocks(column: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The numbered blocks of rows of a column that count."""
    each = column[:1].numel() * column.element_size()  # bytes of a row
    rows = max(1, BLOCK // max(1, each))
    count = -(-len(column) // rows)

    numbers: Any = range(count)
    if each * len(column) > WHOLE and count > SAMPLED:
        numbers = (i * (count - 1) // (SAMPLED - 1) for i in range(SAMPLED))
    for number in numbers:
        yield number, column[number * rows : (number + 1) * rows]
