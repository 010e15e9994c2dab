"""Data that lives on the device as one tensor and is batched by slicing a permutation: no worker, no collate."""

__all__ = ["Batch", "Block", "Data", "seed_of"]

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from emgen.data.rows import rows_of

BINARISATIONS = ("none", "fixed", "dynamic")


@dataclass
class Batch:
    """Rows of a data set.

    Attributes:
        x: what the likelihood sees, (B, *event): binarised if the data says so.
        grey: the stored values, (B, *event); the same tensor as `x` where nothing is binarised.
        index: row numbers in the data set, (B,).
        weight: how often each row counts, (B,), or None for once each.
        length: the true length of each padded sequence, (B,), or None.
        number: the place of the batch within its epoch.
        total: rows of the batch over all processes together; 0 if that is not known.
        last: whether the sweep over the data ends with this batch.
    """

    x: Tensor
    grey: Tensor
    index: Tensor
    weight: Tensor | None = None
    length: Tensor | None = None
    number: int = 0
    total: int = 0
    last: bool = True

    def __len__(self) -> int:
        return len(self.x)

    def split(self, rows: int) -> Iterator["Batch"]:
        """Pieces of at most `rows` rows, as views; the last piece says so."""
        for start in range(0, len(self), rows):
            piece = slice(start, start + rows)
            weight, length = (
                None if column is None else column[piece] for column in (self.weight, self.length)
            )
            yield Batch(
                self.x[piece],
                self.grey[piece],
                self.index[piece],
                weight,
                length,
                self.number,
                self.total,
                last=start + rows >= len(self),
            )


@dataclass
class Block:
    """Several batches handed over at once, so that a training loop's own cost is shared; each is gathered when its turn
    comes, while it is small enough to stay in cache."""

    loader: "_Loader"
    order: Tensor
    first: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.first, self.first + self.size):
            yield self.loader.load(self.order, number)


class Data(LightningDataModule):
    """Train, validation and test rows in memory (or memory-mapped), shuffled and binarised by (seed, epoch) alone.

    Args:
        train: (N, *event) values; NumPy arrays and memory maps are taken as they are, without a copy.
        validation, test: further rows of the same event shape; where absent, `train` stands in when they are asked for.
        batch_size: rows a step, over all processes together; None takes the whole data set as one batch.
        binarise: `"none"`; `"dynamic"` draws x ~ Bernoulli(grey) afresh each epoch; `"fixed"` draws it once, by `seed`.
            Validation and test rows are drawn once in both cases, so that every model is scored on the same set.
        shuffle: whether each epoch visits the rows in a new order.
        weight: (N,) non-negative weights of the training rows.
        length: (N,) true lengths where the rows are padded sequences.
        seed: orders, draws and splits follow from it.
        drop_last: leave out a final batch that is not full.
        block: how many batches are handed to the trainer at once; 0 picks it from their size.
        density: the true distribution of the rows, where it is known (toy data).
        name: what logs and tables call the data.

    Raises:
        ValueError: rows missing or no real numbers, event shapes differ, binarised values outside [0, 1], negative weights,
            lengths beyond the padding, a batch size below 1.
    """

    vocabulary: list[str]  # names of the symbols, where a data set has them

    def __init__(
        self,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        batch_size: int | None = 128,
        binarise: str = "none",
        shuffle: bool = True,
        weight: Any = None,
        length: Any = None,
        seed: int = 0,
        drop_last: bool = False,
        block: int = 0,
        density: Any = None,
        name: str = "tensor",
    ):
        super().__init__()
        if batch_size is not None and batch_size < 1:
            raise ValueError(
                f"batch_size={batch_size}: a batch has at least one row; give an integer >= 1, or null for all rows."
            )
        if binarise not in BINARISATIONS:
            raise ValueError(f"binarise={binarise!r} is not one of {', '.join(BINARISATIONS)}.")
        self.rows = {"train": rows_of(train, "the train data")}
        for split, values in (("validation", validation), ("test", test)):
            if values is not None:
                self.rows[split] = rows_of(values, f"the {split} data")
                if self.rows[split].shape[1:] != self.rows["train"].shape[1:]:
                    raise ValueError(
                        f"{split} rows have shape {tuple(self.rows[split].shape[1:])} but train rows have "
                        f"{tuple(self.rows['train'].shape[1:])}: give both the same event shape."
                    )
        if binarise != "none":
            for split, values in self.rows.items():
                low, high = values.min().item(), values.max().item()
                if not (low >= 0 and high <= 1):
                    raise ValueError(
                        f"binarise={binarise} needs values in [0, 1], but {split} rows reach from {low:g} to "
                        f"{high:g}: rescale them (data=file does by data.scale), or use binarise=none."
                    )
        self.weight, self.length = (
            _column(weight, self.rows["train"], "weight"),
            _column(length, self.rows["train"], "length"),
        )
        if self.weight is not None and not (
            bool((self.weight >= 0).all()) and float(self.weight.sum()) > 0
        ):
            raise ValueError(
                "weight must be non-negative and not all zero; drop the rows that should not count."
            )
        if self.length is not None:
            _check_length(self.length, self.rows["train"])
        self.batch_size = batch_size or len(self.rows["train"])
        self.binarise, self.shuffle, self.seed, self.drop_last = binarise, shuffle, seed, drop_last
        self.block, self.density, self.name = block, density, name
        self._observed: dict[str, Tensor] = {}
        if drop_last and len(self.rows["train"]) < self.batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} with drop_last leaves no batch of {len(self.rows['train'])} rows: "
                "choose a smaller batch, or drop_last=false."
            )

    @property
    def event_shape(self) -> torch.Size:
        return self.rows["train"].shape[1:]

    def split(self, name: str) -> Tensor:
        """The rows of a split as stored (grey); `train` where the split does not exist."""
        return self.rows.get(name, self.rows["train"])

    def observed(self, name: str) -> Tensor:
        """The rows of a split as a likelihood sees them: binarised once and for all, by the seed, where asked for."""
        name = name if name in self.rows else "train"
        if self.binarise == "none":
            return self.rows[name]
        if name not in self._observed:
            generator = torch.Generator().manual_seed(seed_of(self.seed, 0, 0, name))
            grey = self.rows[name]
            draw = torch.rand(grey.shape, generator=generator, dtype=grey.dtype) < grey.cpu()
            self._observed[name] = draw.to(grey)
        return self._observed[name]

    def to(self, device: torch.device | str) -> "Data":
        """Move every column to `device`, where it stays."""
        self.rows = {name: rows.to(device) for name, rows in self.rows.items()}
        self._observed = {name: rows.to(device) for name, rows in self._observed.items()}
        self.weight = None if self.weight is None else self.weight.to(device)
        self.length = None if self.length is None else self.length.to(device)
        return self

    def refuse_shuffled(self, who: str) -> None:
        """
        Raises:
            ValueError: batches hold other rows each epoch, and `who` remembers them.
        """
        if self.shuffle and self.batch_size < len(self.rows["train"]):
            raise ValueError(
                f"{who} remembers batches, which must stay the same: set data.shuffle=false, or, where the data have "
                "no such option, data.batch_size=null"
            )

    def setup(self, stage: str) -> None:
        if self.trainer is not None:
            self.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> "_Loader":
        trainer = self.trainer
        if trainer is not None:
            self._match(trainer.lightning_module)
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return _Loader(self, rank, world)

    def _match(self, module: torch.nn.Module) -> None:
        """Give real-valued rows the precision of the networks they go into."""
        dtype = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), None)
        for rows in (self.rows, self._observed) if dtype is not None else ():
            rows.update(
                {
                    name: values.to(dtype)
                    for name, values in rows.items()
                    if values.dtype.is_floating_point
                }
            )

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch  # the rows are there already


class _Loader:
    """Yields blocks of batches in the order of (seed, epoch), from a position that a checkpoint keeps.

    Lightning never exhausts a sized loader, so nothing may stand after the last `yield`; it calls `sampler.set_epoch`
    before each epoch, which is why the loader names itself its sampler.
    """

    def __init__(self, data: Data, rank: int, world: int):
        self.data, self.rank, self.world = data, rank, world
        self.sampler, self.epoch, self.position = self, 0, 0
        n, size = len(data.rows["train"]), data.batch_size
        self.batches = n // size if data.drop_last else -(-n // size)
        if (
            world > 1
            and min(size, size if data.drop_last else n - (self.batches - 1) * size) < world
        ):
            raise ValueError(
                f"batch_size={size} over {n} rows leaves a batch with fewer rows than the {world} processes: "
                "choose another batch_size, or drop_last=true."
            )
        self.block = min(data.block or max(1, min(64, 2048 // size)), self.batches)

    def __len__(self) -> int:
        return -(-self.batches // self.block)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"] % len(self)

    def __iter__(self) -> Iterator[Block]:
        first, order = self.position % len(self), None
        for position in range(first, len(self)):
            if order is None:  # only now is the epoch known
                order = self._order()
            self.position = position + 1
            start = position * self.block
            yield Block(self, order, start, min(self.block, self.batches - start))

    def load(self, order: Tensor, number: int) -> Batch:
        """Batch `number` of the epoch; of several processes each takes its share of the rows, so the batch is what it was."""
        data, size = self.data, self.data.batch_size
        start, stop = number * size, min((number + 1) * size, len(order))
        index = order[start:stop][self.rank :: self.world]
        rows: Any = (
            index if data.shuffle or self.world > 1 else slice(start, stop)
        )  # a slice is a view: no copy
        grey = data.rows["train"][rows]
        x = grey
        if data.binarise == "fixed":
            x = data.observed("train")[rows]
        elif data.binarise == "dynamic":
            seed = seed_of(data.seed, self.epoch, number * self.world + self.rank, "binarise")
            generator = torch.Generator(grey.device).manual_seed(seed)
            x = torch.rand(
                grey.shape, generator=generator, dtype=grey.dtype, device=grey.device
            ).lt_(grey)
        weight = None if data.weight is None else data.weight[rows]
        length = None if data.length is None else data.length[rows]
        return Batch(
            x, grey, index, weight, length, number, stop - start, last=number == self.batches - 1
        )

    def _order(self) -> Tensor:
        data, device = self.data, self.data.rows["train"].device
        n = len(data.rows["train"])
        if not data.shuffle:
            return torch.arange(n, device=device)
        generator = torch.Generator().manual_seed(seed_of(data.seed, self.epoch, 0, "order"))
        return torch.randperm(n, generator=generator).to(device)


def seed_of(seed: int, epoch: int, position: int, purpose: str = "") -> int:
    """A 32-bit seed for one place in a run: well mixed, because torch's CPU generator keeps the low 32 bits alone."""
    return zlib.crc32(struct.pack("qqq", seed, epoch, position) + purpose.encode())


def _column(values: Any, rows: Tensor, name: str) -> Tensor | None:
    if values is None:
        return None
    column = torch.as_tensor(values)
    if column.shape != rows.shape[:1]:
        raise ValueError(
            f"{name} has shape {tuple(column.shape)} but there are {len(rows)} training rows: give one value a row."
        )
    return column


def _check_length(length: Tensor, rows: Tensor) -> None:
    longest = rows.shape[1] if rows.dim() > 1 else 1
    wrong = (length < 1) | (length > longest) | (length != length.round())
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"length of row {row} is {length[row]:g}: expected a whole number from 1 to {longest}, what the row is padded to."
        )
