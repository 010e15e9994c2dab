"""Where a mixture starts: seeds among the rows, and the hard partition around them."""

__all__ = ["START_NAMES", "partition"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

from emgen.families.base import overflow

Distance = Callable[[Tensor, Tensor], Tensor]

START_NAMES = ("kmeans++", "rows", "random")


def partition(
    x: Tensor,
    components: int,
    restarts: int = 1,
    how: str = "kmeans++",
    distance: Distance | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Starting responsibilities (N, R, K) for R restarts at once.

    `kmeans++` picks seeds with probability ∝ squared distance to the nearest seed so far, `rows`
    picks distinct rows, and both give each row to its nearest seed; `random` draws each row's
    responsibilities from a flat Dirichlet.

    Args:
        x: (N, *event); missing values count as the mean of their feature.
        components: K ≤ N.
        restarts: R.
        how: one of `kmeans++`, `rows`, `random`.
        distance: rows (N, D), seeds (R, D) → (N, R); squared Euclidean by default.
        weight: how often each row counts, (N,); a row that does not is no seed.

    Raises:
        ValueError: fewer rows than components, or values that are infinite or whose squares are.

    References:
        Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding.
    """
    n = len(x)
    count = n if weight is None else int((weight > 0).sum())
    if components > count:
        raise ValueError(
            f"{components} components cannot start from {count} rows: give at least one row a"
            " component"
        )
    distance = _squared if distance is None else distance
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    if how == "random":
        return torch._sample_dirichlet(
            torch.ones(n, restarts, components, dtype=dtype, device=x.device)
        )
    x = x.reshape(n, -1).to(dtype)
    x = torch.where(x.isnan(), x.nanmean(0), x)
    if not bool(x.isfinite().all()):
        raise ValueError(
            f"row {int((~x.isfinite()).any(1).nonzero()[0])} holds an infinite value, which no"
            " start can use: leave it out, or make it NaN (missing)"
        )
    if how == "rows":
        chance = torch.rand(restarts, n, dtype=dtype, device=x.device)
        seeds = (
            (chance if weight is None else chance.masked_fill(weight == 0, -1.0))
            .topk(components)
            .indices
        )
        distances = torch.stack([distance(x, x[seeds[:, k]]) for k in range(components)], -1)
    else:
        distances = _kmeans_plus_plus(
            x, components, restarts, distance, None if weight is None else weight.to(dtype)
        )
    return torch.nn.functional.one_hot(distances.argmin(-1), components).to(dtype)


def _kmeans_plus_plus(
    x: Tensor, components: int, restarts: int, distance: Distance, weight: Tensor | None
) -> Tensor:
    """Distances (N, R, K) to seeds drawn by D² sampling, the best of 2 + log K candidates each
    time.
    """
    n, tries = len(x), 2 + int(math.log(components))
    first = (
        torch.randint(n, (restarts,), device=x.device)
        if weight is None
        else torch.multinomial(weight, restarts, replacement=True)
    )
    columns = [distance(x, x[first])]
    nearest = columns[0]  # (N, R)
    for _ in range(components - 1):
        odds = nearest if weight is None else nearest * weight[:, None]
        odds = torch.where(odds.sum(0) > 0, odds, 1.0 if weight is None else weight[:, None]).T
        if not bool(odds.isfinite().all()):
            raise overflow()
        candidates = torch.multinomial(odds, tries, replacement=True)  # (R, tries)
        distances = distance(x, x[candidates.flatten()]).view(n, restarts, tries)
        closer = torch.minimum(distances, nearest[..., None])
        potential = closer.sum(0) if weight is None else torch.einsum("n,nrt->rt", weight, closer)
        best = potential.argmin(-1)
        columns.append(distances[:, torch.arange(restarts, device=x.device), best])
        nearest = torch.minimum(nearest, columns[-1])
    return torch.stack(columns, -1)


def _squared(x: Tensor, seeds: Tensor) -> Tensor:
    """Squared distances (N, R) from every row to each seed (R, D)."""
    return torch.cdist(x, seeds, compute_mode="donot_use_mm_for_euclid_dist").square()
