"""Data sets: in memory, on the device, batched by slicing a permutation."""

__all__ = [
    "Batch",
    "Data",
    "Stream",
    "bars",
    "digits",
    "fashion_mnist",
    "file",
    "grid",
    "line",
    "mnist",
    "old_faithful",
    "ring",
]

from emgen.data.base import Batch, Data
from emgen.data.file import file
from emgen.data.images import digits, fashion_mnist, mnist
from emgen.data.stream import Stream
from emgen.data.toy import bars, grid, line, old_faithful, ring
