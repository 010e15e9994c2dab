"""Grey images in [0, 1]: scikit-learn's 8×8 digits, which ship with it, and MNIST and Fashion-MNIST
from a folder.
"""

__all__ = ["digits", "fashion_mnist", "mnist"]

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from emgen.data.base import Data


def digits(
    validation: int = 200,
    test: int = 297,
    batch_size: int | None = 100,
    binarise: str = "dynamic",
    drop_last: bool = False,
    seed: int = 0,
) -> Data:
    """1,797 handwritten digits (1, 8, 8), 17 grey levels: needs no download.

    Args:
        validation, test: how many images are set aside; the rest is the training set.
        batch_size: images a step; None takes all.
        binarise: none, fixed or dynamic, as in `Data`.
        drop_last: leave out a final batch that is not full.
        seed: of the split, the order and the binarisation.

    References: Alpaydin, Kaynak (1998), "Optical recognition of handwritten digits", UCI
    repository.

    >>> data = digits()
    >>> {split: len(data.split(split)) for split in ("train", "validation", "test")}, tuple(data.event_shape)
    ({'train': 1300, 'validation': 200, 'test': 297}, (1, 8, 8))
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    train, rest = _held_out(len(images), validation + test, seed)
    rows = {"train": train, "validation": rest[:validation], "test": rest[validation:]}
    data = Data(
        images[train],
        images[rows["validation"]] if validation else None,
        images[rows["test"]] if test else None,
        batch_size=batch_size,
        binarise=binarise,
        drop_last=drop_last,
        seed=seed,
        name="digits",
    )
    data.labels = {split: bunch.target[chosen].tolist() for split, chosen in rows.items()}
    return data


def mnist(
    root: str,
    download: bool = False,
    validation: int = 5_000,
    batch_size: int | None = 128,
    binarise: str = "dynamic",
    drop_last: bool = False,
    seed: int = 0,
) -> Data:
    """70,000 handwritten digits (1, 28, 28), with the published 10,000 as the test set.

    Args:
        root: folder that holds `MNIST/raw` as torchvision lays it out; the `MNIST` or `raw` folder
            itself will do.
        download: fetch the files into `root` if they are missing.
        validation: how many of the 60,000 training images are set aside.
        batch_size, binarise, drop_last, seed: as in `digits`.

    Raises:
        FileNotFoundError: the files are missing, or could not be fetched.

    References: LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document
    recognition".
    """
    return _idx("MNIST", root, download, validation, batch_size, binarise, drop_last, seed, "mnist")


def fashion_mnist(
    root: str,
    download: bool = False,
    validation: int = 5_000,
    batch_size: int | None = 128,
    binarise: str = "dynamic",
    drop_last: bool = False,
    seed: int = 0,
) -> Data:
    """70,000 pictures of clothes (1, 28, 28), laid out like MNIST; arguments and errors as in
    `mnist`.

    References: Xiao, Rasul, Vollgraf (2017), "Fashion-MNIST: a novel image dataset for
    benchmarking".
    """
    return _idx(
        "FashionMNIST",
        root,
        download,
        validation,
        batch_size,
        binarise,
        drop_last,
        seed,
        "fashion_mnist",
    )


def _idx(
    kind: str,
    root: str,
    download: bool,
    validation: int,
    batch_size: int | None,
    binarise: str,
    drop_last: bool,
    seed: int,
    name: str,
) -> Data:
    place = Path(root).expanduser().resolve()
    if place.name == "raw":
        place = place.parent
    if place.name == kind:
        place = place.parent
    images, labels = _read(kind, place, True, download)
    test, test_labels = _read(kind, place, False, download)
    train, rest = _held_out(len(images), validation, seed)
    data = Data(
        images[train],
        images[rest] if validation else None,
        test,
        batch_size=batch_size,
        binarise=binarise,
        drop_last=drop_last,
        seed=seed,
        name=name,
    )
    data.labels = {
        "train": [labels[row] for row in train.tolist()],
        "validation": [labels[row] for row in rest.tolist()],
        "test": test_labels,
    }
    return data


def _read(kind: str, root: Path, train: bool, download: bool) -> tuple[Tensor, list[str]]:
    """The images of one part, (N, 1, 28, 28), and what each of them shows."""
    from torchvision import datasets

    source: Any = getattr(datasets, kind)
    try:
        found = source(str(root), train=train, download=download)
    except (RuntimeError, URLError, OSError) as error:
        folder = root / kind / "raw"
        if download:
            raise FileNotFoundError(
                f"{kind} could not be downloaded into {folder} ({error}): check the network, or put"
                " the four idx files there by hand."
            ) from error
        raise FileNotFoundError(
            f"{kind} is not in {folder}: name the folder above {kind}/raw by paths.data_dir=DIR, or"
            " fetch the files by data.download=true."
        ) from error
    images = found.data.unsqueeze(1).float().div_(255)
    return images, [found.classes[number].partition(" - ")[0] for number in found.targets.tolist()]


def _held_out(n: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The numbers of all but `count` of n images in their order, and `count` chosen by the seed."""
    if not 0 <= count < n:
        raise ValueError(
            f"{count} images cannot be set aside of {n}: lower data.validation or data.test."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[count:].sort().values, order[:count]
