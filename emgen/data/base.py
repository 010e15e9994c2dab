"""Data that lives on the device as one tensor and is batched by slicing a permutation: no worker,
no collate.
"""

__all__ = ["Batch", "Block", "Data", "seed_of"]

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.profilers import PassThroughProfiler
from torch import Tensor

from emgen.data.documents import Documents, are_entries
from emgen.data.mapped import Mapped
from emgen.data.rows import rows_of

BINARISATIONS = ("none", "fixed", "dynamic")
DATA = ("row", "document")  # what a datum is
MANY = 2**22  # numbers beyond which rows are converted, or read, piece by piece, never as a whole


class _Places:
    """Row numbers of a batch; those of rows in their order are a `range` until somebody asks."""

    def __get__(self, batch: Any, owner: type) -> Any:
        if batch is None:
            return None  # the field's default
        places = vars(batch)["index"]
        if isinstance(places, range):
            return torch.arange(places.start, places.stop, places.step, device=batch.x.device)
        return places

    def __set__(self, batch: Any, places: Tensor | range | None) -> None:
        vars(batch)["index"] = range(len(batch.x)) if places is None else places


@dataclass
class Batch:
    """Rows of a data set; its length is the number of its data, which is that of its rows but in a
    corpus.

    Attributes:
        x: what the likelihood sees, (B, *event): binarised if the data says so.
        grey: the stored values, (B, *event); the same tensor as `x` where nothing is binarised.
        index: row numbers in the data set, (B,); default those of all its rows, in order.
        weight: how often each row counts, (B,), or None for once each.
        length: the true length of each padded sequence, (B,), or None.
        number: the place of the batch within its epoch.
        total: data of the batch over all processes together; 0 if that is not known.
        last: whether the sweep over the data ends with this batch.
        documents: how many documents the rows are entries of; None where every row is a datum.
    """

    x: Tensor
    grey: Tensor
    index: Any = _Places()
    weight: Tensor | None = None
    length: Tensor | None = None
    number: int = 0
    total: int = 0
    last: bool = True
    documents: int | None = None

    def __len__(self) -> int:
        return len(self.x) if self.documents is None else self.documents

    def split(self, rows: int | None) -> Iterator["Batch"]:
        """Pieces of at most `rows` rows, as views, or the whole; the last piece says so."""
        if rows is None:
            yield replace(self, x=self.x[:], last=True)
            return
        for start in range(0, len(self.x), rows):
            piece = slice(start, start + rows)
            yield Batch(
                self.x[piece],
                self.grey[piece],
                vars(self)["index"][piece],
                None if self.weight is None else self.weight[piece],
                None if self.length is None else self.length[piece],
                self.number,
                self.total,
                last=start + rows >= len(self.x),
            )


class Block:
    """Several batches handed over at once, so that a training loop's own cost is shared; each is
    gathered when its turn comes, while it is small enough to stay in cache."""

    # no dataclass: Lightning would look into its fields, and take a range for a list of tensors
    def __init__(self, loader: "_Loader", order: Tensor | range, first: int, size: int):
        self.loader, self.order, self.first, self.size = loader, order, first, size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.first, self.first + self.size):
            yield self.loader.load(self.order, number)


class Data(LightningDataModule):
    """Train, validation and test rows in memory (or memory-mapped), shuffled and binarised by
    (seed, epoch) alone.

    Args:
        train: (N, *event) values; NumPy arrays and memory maps are taken as they are, without a
            copy; a `Mapped` stays in its file.
        validation, test: further rows of the same event shape; where absent, `train` stands in when
            they are asked for.
        batch_size: data a step, over all processes together; None takes the whole data set as one
            batch.
        binarise: `"none"`; `"dynamic"` draws x ~ Bernoulli(grey) afresh each epoch; `"fixed"` draws
            it once, by `seed`. Validation and test rows are drawn once in both cases, so that every
            model is scored on the same set.
        shuffle: whether each epoch visits the data in a new order.
        weight: (N,) non-negative weights of the training rows.
        length: (N,) true lengths where the training rows are padded sequences.
        seed: orders, draws and splits follow from it.
        drop_last: leave out a final batch that is not full.
        block: how many batches are handed to the trainer at once; 0 picks it from their size.
        density: the true distribution of the rows, where it is known (toy data).
        name: what logs and tables call the data.
        datum: what is counted as one of the data: a `row`; or a `document`, of a corpus whose rows
            are integer entries (document, word, count), which batches, scores and `examples` never
            cut.

    Raises:
        ValueError: rows missing or no real numbers, event shapes differ, binarised values outside
            [0, 1], negative weights, lengths beyond the padding, a batch size below 1, documents of
            rows that are no entries.
    """

    vocabulary: list[str]  # names of the symbols, where a data set has them
    labels: dict[str, list[Any]]  # of the rows by split, where there are some; for the eye alone

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
        datum: str = "row",
    ):
        super().__init__()
        if batch_size is not None and batch_size < 1:
            raise ValueError(
                f"batch_size={batch_size}: a batch has at least one row; give an integer >= 1, "
                "or null for all rows."
            )
        if binarise not in BINARISATIONS:
            raise ValueError(f"binarise={binarise!r} is not one of {', '.join(BINARISATIONS)}.")
        if datum not in DATA:
            raise ValueError(f"datum={datum!r} is not one of {', '.join(DATA)}.")

        self.rows: dict[str, Any] = _same_events(train, validation, test)
        self.datum = datum
        if datum == "document":
            _check_entries(self.rows, weight)
        if binarise != "none":
            _check_unit_interval(self.rows, binarise)

        self.weight = _column(weight, self.rows["train"], "weight")
        if self.weight is not None:
            _check_weight(self.weight)
        self.length = _column(length, self.rows["train"], "length")
        if self.length is not None:
            _check_length(self.length, self.rows["train"])

        self.binarise, self.shuffle = binarise, shuffle
        self.seed, self.drop_last, self.block = seed, drop_last, block
        self.density, self.name = density, name
        self._dtype: torch.dtype | None = None  # of the networks that rows go into
        self._observed: dict[str, Any] = {}
        self._documents: dict[str, Documents] = {}

        n = self.count("train")
        self.batch_size = batch_size or n
        if drop_last and n < self.batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} with drop_last leaves no batch of {n} {self.datum}s:"
                " choose a smaller batch, or drop_last=false."
            )

    @property
    def event_shape(self) -> torch.Size:
        return self.rows["train"].shape[1:]

    def split(self, name: str, n: int | None = None) -> Tensor:
        """The rows of a split as stored (grey), or the first n; `train` where it does not exist."""
        rows = self.rows.get(name, self.rows["train"])
        return rows if n is None else rows[:n]

    def observed(self, name: str) -> Tensor:
        """The rows of a split as a likelihood sees them: binarised once and for all, by the seed,
        where asked for.
        """
        name = self._existing(name)
        if self.binarise == "none":
            return self.rows[name]
        if name not in self._observed:
            generator = torch.Generator().manual_seed(seed_of(self.seed, 0, 0, name))
            grey = self.rows[name]

            def drawn(rows: slice) -> Tensor:
                piece = grey[rows].cpu()
                return torch.rand(piece.shape, generator=generator, dtype=piece.dtype) < piece

            if isinstance(grey, Mapped):  # a byte a value
                draws = torch.empty(grey.shape, dtype=torch.uint8)
                for rows in _pieces(grey):
                    draws[rows] = drawn(rows)
                self._observed[name] = Mapped(draws, dtype=grey.dtype, device=grey.device)
            else:
                self._observed[name] = drawn(slice(None)).to(grey)
        return self._observed[name]

    def count(self, name: str, datum: str | None = None) -> int:
        """How many data a split holds.

        Args:
            name: of the split; `train` where it does not exist.
            datum: what a model takes for one, where that is not known of the data; default the
                data's own.
        """
        documents = self._documents_of(name, datum)
        return len(self.split(name)) if documents is None else len(documents)

    def first(self, name: str, n: int | None = None, datum: str | None = None) -> Tensor:
        """All rows of the first n data of a split, as a likelihood sees them, with NaN for padding;
        documents by number.

        Args:
            name: of the split; `train` where it does not exist.
            n: how many data; None gives all, which stay in their file if they are in one.
            datum: as in `count`.

        >>> data = Data(torch.tensor([[0, 5, 1], [0, 6, 1], [1, 5, 2]]), datum="document")
        >>> data.count("train"), data.first("train", 1).tolist()
        (2, [[0, 5, 1], [0, 6, 1]])
        """
        rows = self._without_padding(name)
        if n is None or n >= self.count(name, datum):
            return self._typed(rows)
        documents = self._documents_of(name, datum)
        if documents is None:
            return self._typed(rows[:n])
        return rows[documents.rows_of(torch.arange(n, device=rows.device))]

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
        if self.shuffle and self.batch_size < self.count("train"):
            raise ValueError(
                f"{who} remembers batches, which must stay the same: set data.shuffle=false, or, "
                "where the data have no such option, data.batch_size=null"
            )

    def setup(self, stage: str) -> None:
        if self.trainer is not None:
            self.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> "_Loader":
        trainer: Any = self.trainer
        if trainer is None:
            return _Loader(self, rank=0, world=1)
        self._match(trainer.lightning_module)
        loader = _Loader(self, trainer.global_rank, trainer.world_size)
        if _counts_batches(trainer):
            loader.block = 1
        loader.repeats = bool(trainer.overfit_batches)
        return loader

    def val_dataloader(self) -> "_Rows":
        """The validation rows in batches, as a likelihood sees them; none where there are none."""
        return self._judged("validation")

    def test_dataloader(self) -> "_Rows":
        """The test rows in batches.

        Raises:
            ValueError: the data have no test rows.
        """
        if "test" not in self.rows:
            raise ValueError(
                "these data have no test rows: give Data(..., test=rows), or call"
                " trainer.test(module, DataLoader(rows))."
            )
        return self._judged("test")

    def predict_dataloader(self) -> "_Rows":
        """The test rows, or the training rows in their order where there are none."""
        return self._judged("test" if "test" in self.rows else "train")

    def _judged(self, split: str) -> "_Rows":
        trainer = self.trainer
        if trainer is None:
            return _Rows(self, split, rank=0, world=1)
        self._match(trainer.lightning_module)
        return _Rows(self, split, trainer.global_rank, trainer.world_size)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch  # the rows are there already

    def _existing(self, name: str) -> str:
        return name if name in self.rows else "train"

    def _documents_of(self, name: str, datum: str | None = None) -> Documents | None:
        """The documents of a split, or None where each of its rows is a datum."""
        name = self._existing(name)
        entries = self.rows[name]
        if (datum or self.datum) != "document" or not are_entries(entries):
            return None
        known = self._documents.get(name)
        if known is None or known.source is not entries:
            known = self._documents[name] = Documents(entries)
        return known

    def _without_padding(self, name: str) -> Tensor:
        """The observed rows, with NaN beyond the true lengths, which go with the training rows."""
        rows = self.observed(name)
        if self.length is None or self._existing(name) != "train" or rows.dim() == 1:
            return rows
        frames = torch.arange(rows.shape[1], device=rows.device)
        padding = frames >= self.length.to(rows.device)[:, None]  # (N, T)
        if not bool(padding.any()):
            return rows
        numbers = rows if rows.is_floating_point() else rows.double()
        padding = padding.view(*padding.shape, *[1] * (rows.dim() - 2))
        return numbers.masked_fill(padding, torch.nan)

    def _match(self, module: torch.nn.Module) -> None:
        """Give real-valued rows the precision of the networks they go into: at once, or where they
        are many, batch by batch.
        """
        floating = (p.dtype for p in module.parameters() if p.dtype.is_floating_point)
        dtype = next(floating, None)
        if dtype is None:
            return
        self._dtype = dtype
        for columns in (self.rows, self._observed):
            for name, values in columns.items():
                if values.numel() <= MANY:
                    columns[name] = self._typed(values)

    def _typed(self, x: Any) -> Any:
        return x if self._dtype is None or not x.is_floating_point() else x.to(self._dtype)


class _Loader:
    """Yields blocks of batches in the order of (seed, epoch), from a position that a checkpoint
    keeps.

    Lightning never exhausts a sized loader, so nothing may stand after the last `yield`; it calls
    `sampler.set_epoch` before each epoch, which is why the loader names itself its sampler.
    """

    def __init__(self, data: Data, rank: int, world: int):
        self.data, self.rank, self.world = data, rank, world
        self.sampler, self.epoch, self.position = self, 0, 0
        self.repeats = False  # whether every epoch is the first again, to be learnt by heart
        n, size = data.count("train"), data.batch_size
        self.batches = n // size if data.drop_last else -(-n // size)
        last = size if data.drop_last else n - (self.batches - 1) * size
        if world > 1 and min(size, last) < world:
            raise ValueError(
                f"batch_size={size} over {n} {data.datum}s leaves a batch with fewer {data.datum}s "
                f"than the {world} processes: choose another batch_size, or drop_last=true."
            )
        several = max(1, min(64, 2048 // size))
        self.block = min(data.block or several, self.batches)

    def __len__(self) -> int:
        return -(-self.batches // self.block)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = 0 if self.repeats else epoch

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

    def load(self, order: Tensor | range, number: int) -> Batch:
        """Batch `number` of the epoch; of several processes each takes its share of the data, so
        the batch is what it was.
        """
        data, size = self.data, self.data.batch_size
        start, stop = number * size, min((number + 1) * size, len(order))
        places = self._share(order[start:stop])  # of the data
        index, rows = self._rows_at(places, stop - start == len(order))
        grey: Any = data.rows["train"]
        # a batch that is a whole file stays there: who sweeps takes pieces of it
        many = isinstance(grey, Mapped) and len(index) * data.event_shape.numel() > MANY
        grey = data._typed(grey.some(rows) if many and data.binarise == "none" else grey[rows])
        return Batch(
            self._binarised(grey, rows, number, stop - start),
            grey,
            index,
            weight=None if data.weight is None else data.weight[rows],
            length=None if data.length is None else data.length[rows],
            number=number,
            total=stop - start,
            last=number == self.batches - 1,
            documents=None if data.datum == "row" else len(places),
        )

    def _share(self, places: Any) -> Any:
        """What this process takes of a batch: every n-th of shuffled data; of data in their order a
        stretch, so that it reads no more of a file than that.
        """
        if isinstance(places, range):
            n = len(places)
            return places[n * self.rank // self.world : n * (self.rank + 1) // self.world]
        return places[self.rank :: self.world].long()

    def _rows_at(self, places: Any, whole: bool) -> tuple[Any, Any]:
        """The row numbers of the data at these places, and what takes them out: if it can, a slice,
        which copies nothing.
        """
        data = self.data
        documents = None if data.datum == "row" else data._documents_of("train")
        in_order = isinstance(places, range)
        if documents is None:
            return places, slice(places.start, places.stop) if in_order else places
        if self.world == 1 and whole:
            return range(len(data.rows["train"])), slice(None)
        device = data.rows["train"].device
        places = torch.arange(places.start, places.stop, device=device) if in_order else places
        rows = documents.rows_of(places)
        return rows, rows

    def _binarised(self, grey: Tensor, rows: Any, number: int, total: int) -> Tensor:
        """The rows of this process, binarised as one process would do it with those of all."""
        data = self.data
        if data.binarise == "none":
            return grey
        if data.binarise == "fixed":
            return data.observed("train")[rows]
        seed = seed_of(data.seed, self.epoch, number, "binarise")
        generator = torch.Generator(grey.device).manual_seed(seed)
        shape = (total, *grey.shape[1:])
        noise = torch.rand(shape, generator=generator, dtype=grey.dtype, device=grey.device)
        return noise[self.rank :: self.world].lt_(grey)

    def _order(self) -> Tensor | range:
        data, device = self.data, self.data.rows["train"].device
        n = data.count("train")
        if not data.shuffle:
            return range(n)
        generator = torch.Generator().manual_seed(seed_of(data.seed, self.epoch, 0, "order"))
        small = torch.int32 if n < 2**31 else torch.int64  # the order is the same
        return torch.randperm(n, generator=generator, dtype=small).to(device)


class _Rows:
    """The rows of a split in batches of data, in order; a corpus is one batch of its documents'
    entries.
    """

    def __init__(self, data: Data, split: str, rank: int, world: int):
        self.data, self.split, self.rank, self.world = data, split, rank, world
        if split not in data.rows:
            self.size = self.batches = 0
            return
        whole = data._documents_of(split) is not None
        n = data.count(split)
        self.size = n if whole else min(data.batch_size, n)
        self.batches = -(-n // self.size)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        if not self.batches:
            return
        rows = self.data.first(self.split)
        if self.batches == 1 and self.size != len(rows):  # the entries of documents
            yield rows
            return
        for start in range(0, len(rows), self.size):  # which may stay in a file
            mine = rows[start : start + self.size][self.rank :: self.world]
            if len(mine):
                yield mine


def _counts_batches(trainer: Any) -> bool:
    """Whether somebody counts, limits, times or hooks batches, so that a batch has to be one."""
    limit = trainer.limit_train_batches  # one batch is 1, and all of them 1.0
    limited = type(limit) is int or limit not in (None, 1.0) or trainer.overfit_batches
    stopped = trainer.max_steps not in (None, -1)
    between = trainer.val_check_interval not in (None, 1.0)
    profiled = not isinstance(trainer.profiler, PassThroughProfiler)
    return bool(limited or stopped or between or profiled) or any(
        _hooks_batches(callback) for callback in trainer.callbacks
    )


def _hooks_batches(callback: Callback) -> bool:
    """Whether a callback that is not ours acts on batches; progress bars count them."""
    if type(callback).__module__.startswith("emgen."):
        return False
    hooks = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_before_zero_grad",
        "on_before_optimizer_step",
    )
    return any(getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks)


def seed_of(seed: int, epoch: int, position: int, purpose: str = "") -> int:
    """A 32-bit seed for one place in a run: well mixed, because torch's CPU generator keeps the low
    32 bits alone.
    """
    return zlib.crc32(struct.pack("qqq", seed, epoch, position) + purpose.encode())


def _same_events(train: Any, validation: Any, test: Any) -> dict[str, Tensor]:
    """The rows of every split that is given, all of one event shape."""
    rows = {"train": rows_of(train, "the train data")}
    event = rows["train"].shape[1:]
    for split, values in (("validation", validation), ("test", test)):
        if values is None:
            continue
        rows[split] = rows_of(values, f"the {split} data")
        if rows[split].shape[1:] != event:
            raise ValueError(
                f"{split} rows have shape {tuple(rows[split].shape[1:])} but train rows have "
                f"{tuple(event)}: give both the same event shape."
            )
    return rows


def _pieces(rows: Any) -> Iterator[slice]:
    """Slices of rows that hold no more than `MANY` numbers."""
    step = max(1, MANY // max(1, rows.shape[1:].numel()))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def _check_entries(rows: dict[str, Tensor], weight: Any) -> None:
    for split, values in rows.items():
        if not are_entries(values):
            raise ValueError(
                "datum=document: the rows of a corpus are integer entries (document, word, count), "
                f"but {split} rows are {values.dtype} of shape {tuple(values.shape)}: make entries "
                "of counts by emgen.data.text.entries, or leave datum=row."
            )
    if weight is not None:
        raise ValueError("documents have no weights: multiply the counts of their words instead.")


def _check_unit_interval(rows: dict[str, Tensor], binarise: str) -> None:
    for split, values in rows.items():
        ranges = [values[rows].aminmax() for rows in _pieces(values)]
        low = min(float(one.min) for one in ranges)
        high = max(float(one.max) for one in ranges)
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"binarise={binarise} needs values in [0, 1], but {split} rows reach from {low:g} "
                f"to {high:g}: rescale them (data=file does by data.scale), or use binarise=none."
            )


def _column(values: Any, rows: Tensor, name: str) -> Tensor | None:
    if values is None:
        return None
    column = torch.as_tensor(values)
    if column.shape != rows.shape[:1]:
        raise ValueError(
            f"{name} has shape {tuple(column.shape)} but there are {len(rows)} training rows: "
            "give one value a row."
        )
    return column


def _check_weight(weight: Tensor) -> None:
    if not bool((weight >= 0).all()) or not float(weight.sum()) > 0:
        raise ValueError(
            "weight must be non-negative and not all zero; drop the rows that should not count."
        )


def _check_length(length: Tensor, rows: Tensor) -> None:
    longest = rows.shape[1] if rows.dim() > 1 else 1
    wrong = (length < 1) | (length > longest) | (length != length.round())
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"length of row {row} is {length[row]:g}: expected a whole number from 1 to {longest}, "
            "what the row is padded to."
        )
