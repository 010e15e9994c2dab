"""The user's own arrays, from a `.npy` or `.npz` file."""

__all__ = ["file"]

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emgen.data.base import Data
from emgen.data.mapped import Mapped
from emgen.data.rows import rows_of

READ = 2**24  # bytes up to which a .npy file is read; a larger one is mapped, and read by batches

SPLITS = ("train", "validation", "test")

# what the files of Keras' data sets call them, and the labels beside
KERAS = {"x_train": "train", "x_val": "validation", "x_test": "test"}
KERAS_LABELS = ("y_train", "y_val", "y_test")


def file(
    path: str,
    validation: float = 0.1,
    test: float = 0.1,
    scale: float = 1.0,
    dtype: str = "float32",
    missing: bool = False,
    batch_size: int | None = 128,
    binarise: str = "none",
    shuffle: bool = True,
    drop_last: bool = False,
    seed: int = 0,
) -> Data:
    """Rows of a NumPy file: one array (N, *event), or an `.npz` with `train` and, if you like,
    `validation` and `test`.

    Images are best stored as (N, channels, height, width). A single array (in an `.npz` by any
    name) is split by the seed; splits that the file brings itself stay as they are. An array (N,)
    becomes (N, 1). In a file laid out as Keras does, `x_train` and `x_test` are the splits, labels
    `y_train` and `y_test` are left aside, and bytes (N, height, width) or (N, height, width, 3) are
    images, which get their axis of channels in front. A large `.npy` file is mapped into memory:
    its rows stay there, and no more than batches of them are read and converted.

    Args:
        path: the `.npy` or `.npz` file.
        validation, test: shares of a single array that are set aside, in [0, 1).
        scale: what values are divided by, such as 255 for images of bytes.
        dtype: `float32`, `float64` or `int64`, to which the values are converted.
        missing: whether NaN stands for a value that was not observed, or for the time after the end
            of a sequence; diagonal and spherical mixtures, factorial models and hidden Markov models
            leave such values out exactly.
        batch_size, binarise, shuffle, drop_last, seed: as in `emgen.data.Data`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a NumPy file, unknown arrays in it, no rows, values that are not finite real
            numbers.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.random.rand(100, 3))
    ...     data = file(f"{folder}/x.npy")
    >>> {split: tuple(data.split(split).shape) for split in SPLITS}
    {'train': (80, 3), 'validation': (10, 3), 'test': (10, 3)}
    """
    if dtype not in ("float32", "float64", "int64"):
        raise ValueError(f"data.dtype={dtype!r}: expected float32, float64 or int64.")
    if not 0 < scale < float("inf") or (scale != 1 and dtype == "int64"):
        raise ValueError(
            f"data.scale={scale}: expected a positive, finite number, such as 255 for images of"
            " bytes; 1 with int64."
        )
    if missing and dtype == "int64":
        raise ValueError(
            "data.missing=true, data.dtype=int64: a missing value is NaN, which no integer is; give"
            " data.dtype=float32."
        )
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(
            f"data.validation={validation}, data.test={test}: expected shares >= 0 with a sum"
            " below 1."
        )
    arrays = _read(Path(path).expanduser())
    rows: dict[str, Any] = {
        name: _checked(array, f"{path}, array {name}", dtype, scale, missing)
        for name, array in arrays.items()
    }
    if "x" in rows:
        rows = _shares(rows["x"], validation, test, seed)
    return Data(
        rows["train"],
        rows.get("validation"),
        rows.get("test"),
        batch_size=batch_size,
        binarise=binarise,
        shuffle=shuffle,
        drop_last=drop_last,
        seed=seed,
        name=Path(path).stem,
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(
            f"data.path={path}: there is no such file; give a .npy or .npz file."
        )
    other = (
        f"data.path={path} is neither a .npy nor an .npz file: read it first and write its numbers"
        " by np.save, such as np.save('rows.npy', np.loadtxt('rows.csv', delimiter=',',"
        " skiprows=1))."
    )
    with path.open("rb") as opened:
        if opened.read(2) not in (np.lib.format.MAGIC_PREFIX[:2], b"PK", b""):
            raise ValueError(other)
    try:
        large = path.stat().st_size > READ
        content = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
        if isinstance(content, np.memmap) and not content.dtype.isnative:  # nothing torch can read
            content = np.asarray(content, dtype=content.dtype.newbyteorder("="))
        arrays = (
            {"x": content}
            if isinstance(content, np.ndarray)
            else {name: content[name] for name in content.files}
        )
    except Exception as error:  # of a broken archive each byte has an exception of its own
        raise ValueError(
            f"data.path={path} is not a NumPy file of plain numbers ({error}): write it by np.save"
            " or np.savez."
        ) from error
    if not all(
        isinstance(array, np.ndarray) for array in arrays.values()
    ):  # another kind of archive, such as torch's
        raise ValueError(other)
    if "x_train" in arrays and set(arrays) <= {*KERAS, *KERAS_LABELS}:
        return {KERAS[name]: _images(arrays[name]) for name in KERAS if name in arrays}
    if len(arrays) == 1 and not set(arrays) & set(SPLITS):  # by whatever name
        return {"x": next(iter(arrays.values()))}
    if not ("train" in arrays and set(arrays) <= set(SPLITS)):
        raise ValueError(
            f"data.path={path} holds the arrays {', '.join(sorted(arrays)) or 'none'}: expected one"
            " alone, or train with validation and test if you have them."
        )
    return arrays


def _images(array: np.ndarray) -> np.ndarray:
    """Bytes as images with their channels first, which Keras has last or leaves out; other arrays as
    they are.
    """
    if array.dtype == np.uint8 and array.ndim == 3:
        return array[:, None]
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in (1, 3):
        return np.moveaxis(array, -1, 1)
    return array


def _checked(array: np.ndarray, where: str, dtype: str, scale: float, missing: bool) -> Any:
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            f"{where} has shape {array.shape}, so it holds no rows: expected (N, *event) with N"
            " >= 1."
        )
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{where} has dtype {array.dtype}: expected real numbers (bool, integers or floats)."
        )
    bad = np.fromiter(_bad_rows(array, dtype, missing), dtype=np.int64)
    if len(bad):
        raise ValueError(
            f"{where} has values that are no finite {dtype} numbers in {len(bad)} of its"
            f" {len(array)} rows, first in row {bad[0]}: clean them, drop the rows or"
            " choose another data.dtype; where NaN is a value that was not observed, give"
            " data.missing=true."
        )
    column = array[:, None] if array.ndim == 1 else array
    if isinstance(array, np.memmap):
        return Mapped(rows_of(column, where), dtype=getattr(torch, dtype), scale=scale)
    values = torch.from_numpy(column.astype(dtype))
    return values if scale == 1 else values / scale


def _bad_rows(array: np.ndarray, dtype: str, missing: bool) -> Iterator[int]:
    """The numbers of the rows that hold anything else than finite numbers of this type."""
    step = max(1, 2**20 // array[0].size)
    for start in range(0, len(array), step):
        stored = array[start : start + step]
        stored = stored.reshape(len(stored), -1)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is found here
            values = stored.astype(dtype)
        good = np.isfinite(values) | (missing & np.isnan(values))
        bad = ~good if dtype != "int64" else values != stored
        yield from (start + np.flatnonzero(bad.any(axis=1))).tolist()


def _shares(x: Any, validation: float, test: float, seed: int) -> dict[str, Any]:
    """The splits of rows; of rows that stay in their file, by their numbers."""
    sizes = {"validation": round(len(x) * validation), "test": round(len(x) * test)}
    if not any(sizes.values()):
        return {"train": x}
    small = torch.int32 if len(x) < 2**31 else torch.int64
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), dtype=small)
    taken = x.some if isinstance(x, Mapped) else x.__getitem__
    rows = {}
    for name, size in sizes.items():
        if size:
            rows[name] = taken(order[:size].clone())
        order = order[size:]
    order = order.clone()
    order.numpy().sort()  # in place
    return {"train": taken(order), **rows}
