"""Images side by side in a grid, and below what was seen of each if that is given."""

__all__ = ["image_grid"]

import numpy as np
import torch
from torch import Tensor

COLUMNS = 8
TILE = 56  # pixels that a small image is enlarged to
GAP = 3  # pixels between images
GREY = 128


def image_grid(x: Tensor, data: Tensor, seen: Tensor | None = None) -> np.ndarray:
    """RGB pixels (height, width, 3) of images, black and white the least and the largest value of
    the data.

    Args:
        x: images (N, 1 or 3, H, W).
        data: rows whose range is that of the picture.
        seen: images (N, 1 or 3, H, W) that stand above those of x.
    """
    low, high = float(data.min()), float(data.max())
    tiles = _bytes(x, low, high)
    if seen is not None:
        tiles = torch.cat([_bytes(seen, low, high), tiles], dim=2)

    enlarge = max(1, round(TILE / max(x.shape[-2:])))
    tiles = tiles.repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)
    tiles = tiles.expand(-1, 3, -1, -1)

    height, width = tiles.shape[-2], tiles.shape[-1]
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3)
    canvas = torch.full(shape, GREY, dtype=torch.uint8)
    for i, tile in enumerate(tiles):
        top = i // columns * (height + GAP) + GAP
        left = i % columns * (width + GAP) + GAP
        canvas[top : top + height, left : left + width] = tile.permute(1, 2, 0)
    return canvas.numpy()


def _bytes(x: Tensor, low: float, high: float) -> Tensor:
    share = (x - low) / ((high - low) or 1.0)
    return (share.clamp(0, 1) * 255).byte()
