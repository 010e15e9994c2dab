"""The worked examples of the textbooks, small enough to check by hand."""

__all__ = ["crossed_lines", "three_coins", "two_coins", "two_groups", "weather"]

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
    """Ten tosses seen, 1101001011: a hidden coin chooses which of two others is tossed and shown
    (10, 1).

    Args:
        batch_size, seed: as in `two_coins`.

    References: Li (2012), "Statistical learning methods", chapter 9.
    """
    return _column([1, 1, 0, 1, 0, 0, 1, 0, 1, 1], batch_size, seed, "three_coins")


def two_groups(batch_size: int | None = None, seed: int = 0) -> Data:
    """Eight points on the line in two groups, −5 … −3.5 and 3.5 … 5 (8, 1): every partition can be
    enumerated.

    Args:
        batch_size, seed: as in `two_coins`.
    """
    return _column([-5, -4.5, -4, -3.5, 3.5, 4, 4.5, 5], batch_size, seed, "two_groups")


def weather(batch_size: int | None = None, seed: int = 0) -> Data:
    """Three days of a friend who walks (0), shops (1) or cleans (2) as the weather is, as one
    sequence (1, 3): walk, shop, clean.

    Args:
        batch_size, seed: as in `two_coins`.

    The data carry the names as `weather().vocabulary`.
    """
    data = Data(torch.tensor([[0, 1, 2]]), batch_size=batch_size, seed=seed, name="weather")
    data.vocabulary = ["walk", "shop", "clean"]
    return data


def crossed_lines(
    size: int = 4, noise: float = 0.7, rows: int = 500, batch_size: int | None = None, seed: int = 0
) -> Data:
    """Pictures (rows, size²) of a horizontal and a vertical line, each in any place, that add,
    under Gaussian noise.

    A mixture needs size² components for them, a factorial mixture two causes of `size` states.

    Args:
        size: pixels along each edge.
        noise: standard deviation of a pixel; a line is 1 high.
        rows: how many pictures.
        batch_size: rows a step; None takes all.
        seed: of the draws and of the order.

    Raises:
        ValueError: no pixel, no picture, or noise that is not positive.
    """
    if size < 1 or rows < 1 or not noise > 0:
        raise ValueError(
            f"size={size}, rows={rows}, noise={noise}: expected 1 or more, 1 or more and a positive"
            " number."
        )
    generator = torch.Generator().manual_seed(seed)
    across, down = torch.eye(size, dtype=torch.float64)[
        torch.randint(size, (2, rows), generator=generator)
    ]
    pixels = (across[:, :, None] + down[:, None, :]).flatten(1)
    pixels = pixels + noise * torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    return Data(
        pixels,
        batch_size=batch_size,
        shuffle=batch_size is not None,
        seed=seed,
        name="crossed_lines",
    )


def _column(values: list[float], batch_size: int | None, seed: int, name: str) -> Data:
    return Data(
        torch.tensor(values, dtype=torch.float64)[:, None],
        batch_size=batch_size,
        seed=seed,
        name=name,
    )
