"""What a user hands over as data, as one tensor of real numbers."""

__all__ = ["rows_of"]

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emgen.data.mapped import Mapped


def rows_of(values: Any, name: str = "the data") -> Tensor:
    """Rows (N, *event) of a tensor, an array, a data frame or nested lists of numbers; arrays are
    not copied if torch can read them.

    Raises:
        ValueError: no numbers, rows of different lengths, complex numbers, or no rows; the message
            says what was given.

    >>> rows_of([[0, 1], [1, 1]])
    tensor([[0, 1],
            [1, 1]])
    """
    if isinstance(values, (str, bytes)) or hasattr(values, "__fspath__"):
        raise ValueError(
            f"{name} are {str(values)!r}, a path: read the file first, with numpy.load for"
            " instance, or give it to the command line as data=file data.path=..."
        )
    if hasattr(values, "tocoo") or getattr(values, "layout", torch.strided) != torch.strided:
        raise ValueError(
            f"{name} are a sparse matrix {tuple(values.shape)}: make it dense, or for a topic model"
            " make entries of it by emgen.data.text.entries."
        )
    if isinstance(values, Mapped):
        return values  # type: ignore[return-value]  # indexed as one
    x = values.detach() if isinstance(values, Tensor) else _from_array(values, name)
    if x.is_complex():
        raise ValueError(
            f"{name} are complex ({x.dtype}): give real numbers, such as the real and imaginary"
            " parts side by side."
        )
    if x.dtype == torch.float16 and x.device.type == "cpu":
        x = x.float()  # in which next to nothing can be computed there
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(
            f"{name} are empty (shape {tuple(x.shape)}): give at least one row, shape (N, *event)."
        )
    return x


def _from_array(values: Any, name: str) -> Tensor:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} have rows of different lengths: give them all the same, or fill sequences up"
            " by emgen.data.sequences.padded."
        ) from error
    if array.dtype.kind not in "buifc":
        what = f"an array of {array.dtype}" if array.ndim else f"of type {type(values).__name__}"
        raise ValueError(
            f"{name} are {what}: give a tensor, an array or nested lists of real numbers, (N,"
            " *event)."
        )
    readable = array.dtype.isnative and min(array.strides, default=0) >= 0
    if not readable:
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():  # of arrays that may not be written to: nobody writes into data
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.as_tensor(array)
