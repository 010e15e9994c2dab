"""Ragged sequences as one padded tensor or as several, and sequences drawn from a hidden Markov
chain that is known.
"""

__all__ = ["bucketed", "hidden_chain", "padded"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emgen.data.base import Data
from emgen.data.stream import Stream


def padded(sequences: Sequence[Any], dtype: torch.dtype = torch.float64) -> Tensor:
    """One tensor (B, T, *event) of sequences (T_b, *event) of any lengths, filled up with NaN,
    which models leave out. Beside one that is much longer, short sequences take its memory each:
    `bucketed` takes what their frames take.

    Raises:
        ValueError: no sequences, an empty one, or frames of different shapes.

    >>> padded([[1, 2, 3], [4]])
    tensor([[1., 2., 3.],
            [4., nan, nan]], dtype=torch.float64)
    """
    tensors = [torch.as_tensor(np.asarray(sequence)).to(dtype) for sequence in sequences]
    if not tensors or min(len(s) for s in tensors) == 0:
        raise ValueError(
            "give at least one sequence, each of at least one frame; drop the empty ones."
        )
    if len({s.shape[1:] for s in tensors}) > 1:
        raise ValueError(
            f"frames have shapes {sorted({tuple(s.shape[1:]) for s in tensors})}: give all the"
            " same."
        )
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=torch.nan)


def bucketed(sequences: Sequence[Any], dtype: torch.dtype = torch.float64) -> Stream:
    """A sweep over sequences (T_b, *event) of any lengths in batches of similar length, none of
    them filled up to twice its own.

    The batch with the most frames comes first, for a model starts from the first.

    Raises:
        ValueError: as `padded`.

    >>> data = bucketed([[1, 2, 3, 4, 5], [6], [7, 8, 9, 10]])
    >>> [tuple(batch.x.shape) for batch in data.train_dataloader()]
    [(1, 5), (1, 4), (1, 1)]
    """
    buckets: dict[int, list[Any]] = {}
    for sequence in sequences:
        buckets.setdefault((max(len(sequence), 1) - 1).bit_length(), []).append(sequence)
    most_first = sorted(buckets.values(), key=lambda bucket: -sum(map(len, bucket)))
    batches = [padded(bucket, dtype) for bucket in most_first] or [padded([], dtype)]
    return Stream(batches, name="sequences")


def hidden_chain(
    states: int = 3,
    stay: float = 0.9,
    features: int = 2,
    spread: float = 4.0,
    sequences: int = 50,
    length: int = 200,
    shortest: int = 20,
    batch_size: int | None = None,
    seed: int = 0,
) -> Data:
    """Sequences from a hidden Markov model with unit Gaussians whose means stand on a circle (a
    line in one dimension).

    Args:
        states: number of hidden states.
        stay: probability of staying in a state; all other moves are equally likely.
        features: dimensions of a frame.
        spread: radius of the circle of means.
        sequences: how many, of lengths uniform between `shortest` and `length`.
        batch_size: sequences a step; None takes all.
        seed: of the draws and of the order.
    """
    if states < 2 or not 0 <= stay <= 1:
        raise ValueError(
            f"states={states}, stay={stay}: expected at least 2 states and a probability."
        )
    generator = torch.Generator().manual_seed(seed)
    angle = torch.arange(states, dtype=torch.float64) * (2 * torch.pi / states)
    means = torch.zeros(states, features, dtype=torch.float64)
    means[:, 0] = spread * angle.cos()
    if features > 1:
        means[:, 1] = spread * angle.sin()
    moves = torch.full((states, states), (1 - stay) / (states - 1)).fill_diagonal_(stay).double()
    drawn = []
    for frames in torch.randint(shortest, length + 1, (sequences,), generator=generator).tolist():
        path = [int(torch.randint(states, (), generator=generator))]
        for _ in range(frames - 1):
            path.append(int(moves[path[-1]].multinomial(1, generator=generator)))
        drawn.append(
            means[path] + torch.randn(frames, features, generator=generator, dtype=torch.float64)
        )
    return Data(
        padded(drawn),
        batch_size=batch_size,
        shuffle=batch_size is not None,
        seed=seed,
        name="hidden_chain",
    )
