"""Information geometry of finite tables: projections onto margins, linear constraints and
independent factors.
"""

from __future__ import annotations

__all__ = [
    "alternating_projections",
    "factorised_i_projection",
    "factorised_m_projection",
    "iterative_proportional_fitting",
    "linear_projection",
    "pythagorean_residual",
]

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def linear_projection(
    q: Float[Tensor, "*shape"], features: Float[Tensor, "m *shape"], moments: Float[Tensor, " m"]
) -> Float[Tensor, "*shape"]:
    """argmin of KL(p ‖ q) over tables p with E_p[features] = moments: p ∝ q exp⟨λ, features⟩.

    Newton's method on the convex dual log Σ q exp⟨λ, features⟩ − ⟨λ, moments⟩. From a uniform q it
    is the maximum entropy distribution under the constraints.

    Args:
        q: a table of probabilities.
        features: one table a constraint.
        moments: what their expectations shall be.

    Raises:
        ValueError: if no table on the support of q has these moments, if q has negative entries or
            none that is positive, if the shapes do not agree or a number is not finite.

    References: Csiszár (1975), I-divergence geometry of probability distributions and minimization
    problems; Jaynes (1957), Information theory and statistical mechanics.

    >>> die = linear_projection(torch.full((6,), 1 / 6), torch.arange(1.0, 7.0)[None], torch.tensor([4.5]))
    >>> die.round(decimals=3)
    tensor([0.0540, 0.0790, 0.1140, 0.1650, 0.2400, 0.3470])
    """
    if features.shape[1:] != q.shape or moments.shape != features.shape[:1]:
        raise ValueError(f"features of shape {tuple(features.shape)} and moments of shape {tuple(moments.shape)}: a table "
                         f"of shape {tuple(q.shape)} needs (m, {', '.join(map(str, q.shape))}) and (m,).")  # fmt: skip
    _check_table("q", q)
    if not len(features):
        return q / q.sum()
    held, log_q = q.flatten() > 0, q.flatten().double().log()
    t = torch.where(
        held, features.flatten(1).double() - moments.double()[:, None], 0.0
    )  # where q is 0, so is p
    if not t.isfinite().all():
        raise ValueError(
            "features and moments must be finite where q is positive; give finite numbers."
        )
    scale = t.abs().amax(1, keepdim=True)
    t = t / torch.where(scale > 0, scale, 1.0)  # no constraint weighs less for its unit
    weights = torch.zeros_like(t[:, 0])

    def dual(at: Tensor) -> Tensor:
        return (log_q + at @ t).logsumexp(0)

    for _ in range(200):
        p = (log_q + weights @ t).softmax(0)
        slope = t @ p
        centred = t - slope[:, None]
        step = torch.linalg.lstsq((centred * p) @ centred.mT, slope, driver="gelsd").solution
        size, height = 1.0, dual(weights)
        while size > 1e-8 and dual(weights - size * step) > height + 1e-14 * height.abs():
            size /= 2
        weights = weights - size * step
        if slope.abs().max() < 1e-15:
            break
    p = (log_q + weights @ t).softmax(0)
    missed = (t @ p).abs() * scale.squeeze(1)
    if not bool((missed <= 1e-6 * (scale.squeeze(1) + moments.abs())).all()):
        raise ValueError("no table on the support of q has the moments asked for (they are missed by "
                         f"{float(missed.max()):.2g}); give moments strictly inside the range of the features.")  # fmt: skip
    return p.reshape(q.shape).to(q.dtype)


def alternating_projections(
    q: Float[Tensor, "*shape"], constraints: Sequence[tuple[Tensor, Tensor]], sweeps: int = 100
) -> Float[Tensor, "*shape"]:
    """Project q onto each linear constraint in turn, over and over: it converges to the projection
    onto them all.

    Args:
        q: a table of probabilities.
        constraints: pairs (features, moments) as in `linear_projection`.
        sweeps: rounds through the constraints.
    """
    for _ in range(sweeps):
        for features, moments in constraints:
            q = linear_projection(q, features, moments)
    return q


def iterative_proportional_fitting(
    q: Float[Tensor, "*shape"], margins: Sequence[Tensor], sweeps: int = 100
) -> Float[Tensor, "*shape"]:
    """Scale each dimension of a table to its margin in turn: alternating projections in closed
    form.

    Args:
        q: a table of probabilities.
        margins: one a dimension, in order.
        sweeps: rounds through the dimensions; where no table on the support of q has the margins,
            they end at the last.

    Raises:
        ValueError: if a margin has the wrong length, negative entries or a total of its own, or
            mass where q has none.

    Reference: Deming & Stephan (1940), On a least squares adjustment of a sampled frequency table.

    >>> p = iterative_proportional_fitting(torch.ones(2, 2) / 4, [torch.tensor([.2, .8]), torch.tensor([.5, .5])])
    >>> p
    tensor([[0.1000, 0.1000],
            [0.4000, 0.4000]])
    """
    _check_table("q", q)
    if [tuple(margin.shape) for margin in margins] != [(size,) for size in q.shape]:
        raise ValueError(f"margins of shapes {[tuple(margin.shape) for margin in margins]}: a table of shape "
                         f"{tuple(q.shape)} needs one vector a dimension, as long as it.")  # fmt: skip
    for dim, margin in enumerate(margins):
        _check_table(f"margins[{dim}]", margin)
        if abs(float(margin.sum() / margins[0].sum()) - 1) > 1e-5:
            raise ValueError(f"margins[{dim}] sums to {float(margin.sum()):.6g} and margins[0] to "
                             f"{float(margins[0].sum()):.6g}; give margins of one table.")  # fmt: skip
        if bool(((q.sum([d for d in range(q.dim()) if d != dim]) == 0) & (margin > 0)).any()):
            raise ValueError(f"margins[{dim}] is positive where the table has only zeros; scaling cannot fill them, so "
                             "give a table that is positive there.")  # fmt: skip
    for _ in range(sweeps):
        for dim, margin in enumerate(margins):
            shape = [-1 if d == dim else 1 for d in range(q.dim())]
            current = q.sum([d for d in range(q.dim()) if d != dim])
            q = q * torch.where(current > 0, margin / current, 0.0).reshape(shape)
    return q


def factorised_m_projection(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """argmin of KL(p ‖ q) over products q of one factor a dimension: the product of the margins of
    p.
    """
    return _outer([p.sum([d for d in range(p.dim()) if d != dim]) for dim in range(p.dim())])


def factorised_i_projection(
    p: Float[Tensor, "*shape"], start: Float[Tensor, "*shape"] | None = None, sweeps: int = 1000
) -> Float[Tensor, "*shape"]:
    """A minimiser of KL(q ‖ p) over products q, by mean field: log q_d = E of log p over the other
    factors + const.

    Each update is exact, so KL(q ‖ p) never rises; where p has separate peaks the start decides
    which one is taken.

    Args:
        p: a table of probabilities; the product has none where p is 0.
        start: a table whose margins are the first factors; None for p itself.
        sweeps: most rounds through the dimensions.

    Raises:
        ValueError: if p or the start is no table, their shapes differ, or no product is found that
            avoids the zeros of p.
    """
    start = p if start is None else start
    _check_table("p", p)
    _check_table("start", start)
    if start.shape != p.shape:
        raise ValueError(
            f"start of shape {tuple(start.shape)}: it must be a table like p, of shape"
            f" {tuple(p.shape)}."
        )
    log_p, start = (
        p.log().clamp_min(-1e30),
        start / start.sum(),
    )  # the least mass there is goes where p is 0
    dims = range(p.dim())
    factors = [start.sum([d for d in dims if d != dim]) for dim in dims]
    for _ in range(sweeps):
        before = factors.copy()
        for dim in dims:
            others = [d for d in dims if d != dim]
            signature = f"{','.join([_LETTERS[: p.dim()], *(_LETTERS[d] for d in others)])}->{_LETTERS[dim]}"
            factors[dim] = torch.einsum(signature, log_p, *[factors[d] for d in others]).softmax(0)
        if all(torch.equal(a, b) for a, b in zip(before, factors, strict=True)):
            break
    found = _outer(factors)
    if bool(((p == 0) & (found > 0)).any()):
        raise ValueError("the product found has mass where p is 0, so its KL is infinite; give a start whose margins hold "
                         "mass on one block of positive entries of p.")  # fmt: skip
    return found


def pythagorean_residual(
    p: Float[Tensor, "*shape"], projection: Float[Tensor, "*shape"], q: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """KL(p ‖ q) − KL(p ‖ projection) − KL(projection ‖ q), which is zero

    when `projection` is the I-projection of q onto a linear family that holds p, and when it is the
    M-projection of p onto an exponential family that holds q.
    """
    return _kl(p, q) - _kl(p, projection) - _kl(projection, q)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum()


def _check_table(name: str, table: Tensor) -> None:
    """A sentence for what is no table of masses: a negative or infinite entry, or nothing at all."""
    if not bool(table.isfinite().all() & (table >= 0).all() & (table.sum() > 0)):
        raise ValueError(f"{name} must be a table of finite masses >= 0, not all of them 0, and holds "
                         f"{str(table.tolist())[:80]}; give probabilities or counts.")  # fmt: skip


def _outer(factors: Sequence[Tensor]) -> Tensor:
    letters = _LETTERS[: len(factors)]
    return torch.einsum(f"{','.join(letters)}->{letters}", *factors)
