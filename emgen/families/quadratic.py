"""Quadratic forms over rows, two ways: expanded products (fast) and explicit differences (safe)."""

__all__ = [
    "ACCURACY",
    "ROWS",
    "definite",
    "expand",
    "moments",
    "not_positive",
    "outer",
    "packed",
    "trace",
    "unpacked",
]

import torch
from torch import Tensor

from emgen.families.base import ROUND, overflow

ACCURACY = {
    torch.float64: 1e-10,
    torch.float32: 1e-3,
}  # nats that expanding a quadratic form may cost
ROWS = 2048  # rows a block, so that what is computed from a block stays in cache


def expand(x: Tensor, centre: Tensor) -> Tensor:
    """The features (1, y_i, y_i y_j for i ≤ j) of y = x − centre for each row of x (B, D), as (1 +
    D + D(D+1)/2, B).
    """
    rows, features = x.shape
    out = x.new_empty(1 + features + features * (features + 1) // 2, rows)
    one, y, *products = out.split([1, features, *range(features, 0, -1)])
    one.fill_(1)
    torch.sub(x.T, centre[:, None], out=y)
    for i, product in enumerate(products):
        torch.mul(y[i], y[i:], out=product)
    return out


def packed(constant: Tensor, linear: Tensor, symmetric: Tensor) -> Tensor:
    """Coefficients (K, F) of the quadratics constant + ⟨linear, y⟩ + yᵀ symmetric y on `expand`'s
    features.
    """
    i, j = torch.triu_indices(*symmetric.shape[1:], device=symmetric.device)
    return torch.cat(
        [
            constant[:, None],
            linear,
            symmetric[:, i, j] * torch.where(i == j, 1.0, 2.0).to(symmetric),
        ],
        1,
    )


def unpacked(sums: Tensor, features: int) -> tuple[Tensor, Tensor, Tensor]:
    """Σ1 (K), Σy (K, D) and Σyyᵀ (K, D, D) from sums (K, F) of `expand`'s features."""
    i, j = torch.triu_indices(features, features, device=sums.device)
    place = torch.empty(features, features, dtype=torch.long, device=sums.device)
    place[i, j] = place[j, i] = torch.arange(features + 1, sums.shape[1], device=sums.device)
    square = sums.index_select(1, place.flatten()).view(len(sums), features, features)
    return sums[:, 0], sums[:, 1 : features + 1], square


def moments(x: Tensor, r: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Σ r (x − m_k) (K, D) and Σ r (x − m_k)(x − m_k)ᵀ (K, D, D) by explicit differences, in the
    precision of the means.
    """
    total, scatter = torch.zeros_like(mean), mean.new_zeros(*mean.shape, mean.shape[1])
    rows = max(1, ROWS // len(mean))
    for start in range(0, len(x), rows):
        y = x[start : start + rows].to(mean.dtype).T - mean[:, :, None]  # (K, D, rows)
        weighted = y * r[start : start + rows].to(mean.dtype).T[:, None]
        total += weighted.sum(-1)
        scatter += weighted @ y.mT
    return total, scatter


def outer(a: Tensor, b: Tensor) -> Tensor:
    """a_k b_kᵀ, (K, D, D)."""
    return a[:, :, None] * b[:, None, :]


def trace(matrices: Tensor) -> Tensor:
    """The trace of each of (K, D, D)."""
    return matrices.diagonal(dim1=1, dim2=2).sum(1)


def definite(covariance: Tensor, reach: Tensor) -> Tensor:
    """Whether covariances (G, D, D) are positive definite whatever their round-off, (G,).

    Entry (i, j) was added up from terms as large as √(a_i a_j), a = `reach` (G, D), so it is known
    to ε √(a_i a_j) with ε = ROUND · eps. Such an error E has |xᵀEx| ≤ ε (Σ √a_i |x_i|)² ≤ D ε Σ a_i
    x_i²: what is left of the covariance after D ε diag(a) is taken from it decides, and every
    processor decides alike unless it is that near to its own edge, where both answers are right.
    """
    margin = covariance.shape[-1] * ROUND * torch.finfo(covariance.dtype).eps * reach
    return torch.linalg.cholesky_ex(covariance - torch.diag_embed(margin)).info == 0


def not_positive(covariance: Tensor, g: int, mass: float | None = None) -> ValueError:
    """The refusal of one of the covariances (G, D, D), with the mass of rows that it was to be of."""
    if not bool(covariance.isfinite().all()):
        return overflow()
    which = "the shared covariance" if len(covariance) == 1 else f"the covariance of component {g}"
    held = "" if mass is None else f"mass {mass:.4g}, "
    return ValueError(
        f"{which} is not positive definite ({held}smallest eigenvalue"
        f" {torch.linalg.eigvalsh(covariance[g])[0]:.3g}): too few or identical rows fell to it;"
        " try reg_covar=1e-6 or more, fewer components, a prior, or covariance='diagonal'"
    )
