"""Where a mixture starts: seeds among the rows, and the hard partition around them."""

__all__ = ["START_NAMES", "partition", "partitioned"]

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from emgen.families.base import overflow, pieces

Distance = Callable[[Tensor, Tensor], Tensor]

MANY = 2**18, 2**26  # rows, or numbers in them, beyond which seeds are sought among some rows
FEW = 2**22  # numbers in these

START_NAMES = ("kmeans++", "rows", "random")


def partition(
    x: Tensor,
    components: int,
    restarts: int = 1,
    how: str = "kmeans++",
    distance: Distance | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Starting responsibilities (N, R, K) for R restarts at once; arguments, errors and source as
    in `partitioned`.
    """
    return torch.cat([r for _, r in partitioned(x, components, restarts, how, distance, weight)], 0)


def partitioned(
    x: Tensor,
    components: int,
    restarts: int = 1,
    how: str = "kmeans++",
    distance: Distance | None = None,
    weight: Tensor | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Starting responsibilities for R restarts at once, piece by piece of the rows: which rows, and
    theirs (B, R, K).

    `kmeans++` picks seeds with probability ∝ squared distance to the nearest seed so far, `rows`
    picks distinct rows, and both give each row to its nearest seed; `random` draws each row's
    responsibilities from a flat Dirichlet. Of more than 2^18 rows the seeds are sought among as
    many that are drawn at random, for which any number of rows is memory enough.

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
    count = len(x) if weight is None else int((weight > 0).sum())
    if components > count:
        raise ValueError(
            f"{components} components cannot start from {count} rows: give at least one row a"
            " component"
        )
    distance = _squared if distance is None else distance
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    width = max(x[:1].numel(), restarts * components)
    if how == "random":
        for rows in pieces(len(x), width):
            ones = torch.ones(len(x[rows]), restarts, components, dtype=dtype, device=x.device)
            yield rows, torch._sample_dirichlet(ones)
        return

    mean = _means(x, dtype)

    def filled(rows: slice | Tensor) -> Tensor:
        """Rows (B, D), what is missing in them at its feature's mean."""
        piece = x[rows].reshape(-1, len(mean)).to(dtype)
        return torch.where(piece.isnan(), mean, piece)

    some, odds = _candidates(x, components, weight)
    candidates = filled(some)
    odds = None if odds is None else odds.to(dtype)
    if how == "rows":
        seeds = _distinct(candidates, components, restarts, odds)
    else:
        seeds = _kmeans_plus_plus(candidates, components, restarts, distance, odds)

    for rows in pieces(len(x), width):
        away = distance(filled(rows), seeds.flatten(0, 1)).unflatten(1, seeds.shape[:2])
        yield rows, torch.nn.functional.one_hot(away.argmin(-1), components).to(dtype)


def _means(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The mean of what was seen of each feature, (D,)."""
    width = x[:1].numel()
    total = torch.zeros(width, dtype=dtype, device=x.device)
    count = torch.zeros(width, dtype=torch.long, device=x.device)
    for rows in pieces(len(x), width):
        piece = x[rows].reshape(-1, width).to(dtype)
        infinite = piece.isinf().any(1)
        if bool(infinite.any()):
            raise ValueError(
                f"row {rows.start + int(infinite.nonzero()[0])} holds an infinite value, which no"
                " start can use: leave it out, or make it NaN (missing)"
            )
        total += piece.nansum(0)
        count += (~piece.isnan()).sum(0)
    if not bool((count > 0).all()):
        raise ValueError(
            f"feature {int(count.argmin())} has no value in any row, so nothing can start from it:"
            " leave it out"
        )
    return total / count


def _candidates(
    x: Tensor, components: int, weight: Tensor | None
) -> tuple[slice | Tensor, Tensor | None]:
    """The rows among which seeds are sought, and their weights: all, or where these are many, some
    that are drawn, in their order.
    """
    width = x[:1].numel()
    if len(x) <= MANY[0] and len(x) * width <= MANY[1]:
        return slice(None), weight
    size = max(64 * components, min(MANY[0], FEW // width))
    places = None if weight is None else (weight > 0).nonzero().squeeze(1)
    n = len(x) if places is None else len(places)
    drawn = torch.randint(n, (size,), device=x.device).unique() if size < n else torch.arange(n)
    some = drawn if places is None else places[drawn]
    return some, None if weight is None else weight[some]


def _distinct(x: Tensor, components: int, restarts: int, weight: Tensor | None) -> Tensor:
    """K distinct rows for each restart, (R, K, D)."""
    chance = torch.rand(restarts, len(x), dtype=x.dtype, device=x.device)
    chance = chance if weight is None else chance.masked_fill(weight == 0, -1.0)
    return x[chance.topk(components).indices]


def _kmeans_plus_plus(
    x: Tensor, components: int, restarts: int, distance: Distance, weight: Tensor | None
) -> Tensor:
    """Seeds (R, K, D) drawn by D² sampling, the best of 2 + log K candidates each time."""
    n, tries = len(x), 2 + int(math.log(components))
    first = (
        torch.randint(n, (restarts,), device=x.device)
        if weight is None
        else torch.multinomial(weight, restarts, replacement=True)
    )
    seeds = [first]
    nearest = distance(x, x[first])  # (N, R)
    across = torch.arange(restarts, device=x.device)
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
        seeds.append(candidates[across, best])
        nearest = closer[:, across, best]
    return x[torch.stack(seeds, 1)]


def _squared(x: Tensor, seeds: Tensor) -> Tensor:
    """Squared distances (N, R) from every row to each seed (R, D)."""
    return torch.cdist(x, seeds, compute_mode="donot_use_mm_for_euclid_dist").square()
