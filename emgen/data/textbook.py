"""The worked examples of the textbooks, small enough to check by hand."""

__all__ = ["three_coins", "two_coins", "two_groups"]

import torch

from emgen.data.base import Data


def two_coins(batch_size: int | None = None, seed: int = 0) -> Data:
    """Heads in five sets of ten tosses, each set with one of two coins (5, 1).

    Args:
        batch_size: rows a step; None takes all.
        seed: of the order.

    References: Do, Batzoglou (2008), "What is the expectation maximization algorithm?"

    >>> two_coins().split("train").flatten().tolist()
    [5.0, 9.0, 8.0, 4.0, 7.0]
    """
    return _column([5, 9, 8, 4, 7], batch_size, seed, "two_coins")


def three_coins(batch_size: int | None = None, seed: int = 0) -> Data:
    """Ten tosses seen, 1101001011: a hidden coin chooses which of two others is tossed and shown (10, 1).

    Args:
        batch_size, seed: as in `two_coins`.

    References: Li (2012), "Statistical learning methods", chapter 9.
    """
    return _column([1, 1, 0, 1, 0, 0, 1, 0, 1, 1], batch_size, seed, "three_coins")


def two_groups(batch_size: int | None = None, seed: int = 0) -> Data:
    """Eight points on the line in two groups, −5 … −3.5 and 3.5 … 5 (8, 1): every partition can be enumerated.

    Args:
        batch_size, seed: as in `two_coins`.
    """
    return _column([-5, -4.5, -4, -3.5, 3.5, 4, 4.5, 5], batch_size, seed, "two_groups")


def _column(values: list[float], batch_size: int | None, seed: int, name: str) -> Data:
    return Data(torch.tensor(values, dtype=torch.float64)[:, None], batch_size=batch_size, seed=seed, name=name)
