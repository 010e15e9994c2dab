"""Scaled messages along hidden Markov chains, in buffers that are overwritten: no gradient passes
through them.

Buffers are (states, rows), for which products of matrices are twice as fast as for rows first.
"""

__all__ = ["buffer", "messages", "peak"]

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from emgen.models.conjugate.packed_sequences import Packing

APART = 64  # lengths at the most that are passed through one by one


@np.errstate(all="ignore")  # what is lost shows in the scales
def messages(
    initial: Tensor, transition: Tensor, log_b: Tensor, packing: Packing
) -> tuple[Tensor, ...]:
    """α, β and ω = b β / c as rows (N, K), the scales c (N,) and what was taken off log b (N,)."""
    log_b = log_b.T
    shift = peak(log_b, 0)
    alpha, beta, omega = buffer(3 * len(log_b), log_b.shape[1], like=log_b).split(len(log_b))
    scale = torch.empty_like(shift)
    each = alpha, beta, omega, scale

    def scores(out: Tensor) -> None:
        torch.sub(log_b, shift, out=out).exp_()

    groups = apart(transition, packing)
    if len(groups) == 1:
        _pass(initial, transition, *each, packing, scores)
        groups = []
    for first, last in groups:
        part, rows = packing.among(first, last)
        memory = buffer(3 * len(alpha) + 1, len(rows), like=log_b)
        a, b, o, c = memory.split([len(alpha)] * 3 + [1])

        def own_scores(out: Tensor, rows: Tensor = rows) -> None:
            torch.index_select(log_b, 1, rows, out=out).sub_(shift[:, rows]).exp_()

        _pass(initial, transition, a, b, o, c, part, own_scores)
        for whole, values in zip(each, (a, b, o, c), strict=True):
            whole.index_copy_(1, rows, values)
    return alpha.T, beta.T, omega.T, scale.squeeze(0), shift.squeeze(0)


def apart(transition: Tensor, packing: Packing) -> list[tuple[int, int]]:
    """The sequences that are passed through together, as ranges of ranks by length: all, or the
    longest of one length each for themselves, in pieces, and the others.

    All together take as many steps as the longest has frames, however few sequences that long there
    are; what is cut into pieces takes the steps of a piece. The fewest steps win.
    """
    steps = len(packing.sizes)
    if packing.full or steps < 48:
        return [(0, len(packing.lengths))]
    fewest, best, taken, ranges, first = 0.75 * steps, 0, 0, [], 0
    while first < len(packing.lengths) and len(ranges) < APART:
        time = packing.lengths[int(packing.order[first])]
        last = packing.sizes[time - 1]  # all of this length and of longer ones
        cut = _cut(transition, time, last - first)
        if cut is None or taken > fewest:
            break
        taken += sum(cut) + time % cut[0]
        ranges.append((first, last))
        first = last
        left = packing.lengths[int(packing.order[first])] if first < len(packing.lengths) else 0
        if taken + left < fewest:
            fewest, best = taken + left, len(ranges)
    ranges = ranges[:best]
    done = ranges[-1][1] if ranges else 0
    return [*ranges, (done, len(packing.lengths))] if done < len(packing.lengths) else ranges


def _pass(
    initial: Tensor,
    transition: Tensor,
    alpha: Tensor,
    beta: Tensor,
    omega: Tensor,
    scale: Tensor,
    packing: Packing,
    scores: Callable[[Tensor], None],
) -> None:
    """Forward and backward through all sequences of a packing; `scores` writes b, which lies in ω
    until the backward pass.
    """
    each = alpha, beta, omega, scale
    scores(omega)
    cut = pieces(transition, packing)
    if cut is not None and _side_by_side(initial, transition, *each, packing.sizes[0], *cut):
        return
    if cut is not None:  # what was tried has overwritten it
        scores(omega)
    _in_turn(initial, transition, *each, packing.sizes)


def pieces(transition: Tensor, packing: Packing) -> tuple[int, int] | None:
    """How long the pieces of sequences may be that advance side by side, and in how many steps a
    chain forgets its state.

    Without data it forgets at the rate |λ₂/λ₁| of A's eigenvalues, with data faster as a rule. None
    where that takes too long, or where there are so many sequences that single steps are work
    enough.
    """
    return _cut(transition, len(packing.sizes), packing.sizes[0]) if packing.full else None


def _cut(transition: Tensor, steps: int, sequences: int) -> tuple[int, int] | None:
    states = len(transition)
    if states > 64 or steps < 48 or not bool(transition.isfinite().all()):
        return None
    size = torch.linalg.eigvals(transition).abs().sort(descending=True).values.tolist()
    rate = size[1] / max(size[0], 1e-300) if states > 1 else 0.0
    if rate > 1 - 20 / steps:
        return None
    forget = 4 + math.ceil(math.log(torch.finfo(transition.dtype).eps) / math.log(max(rate, 1e-9)))
    least = (
        steps * sequences * states**2 // 2**16
    )  # all steps' work in units of what it costs to call one
    length = max(forget, math.isqrt(forget * least), 16)
    if 3 * length > steps:
        return None
    return min(range(length, min(2 * length, steps // 3) + 1), key=lambda n: n + steps % n), forget


def _in_turn(
    initial: Tensor,
    transition: Tensor,
    alpha: Tensor,
    beta: Tensor,
    omega: Tensor,
    scale: Tensor,
    sizes: list[int],
) -> None:
    """One step after another; each of α, β, ω is (states, rows) and ω holds b."""
    arrival = transition.T.contiguous()
    now = initial[:, None].expand(-1, sizes[0])
    for t, (alpha_t, b_t, scale_t) in enumerate(
        zip(*(v.split(sizes, 1) for v in (alpha, omega, scale)), strict=True)
    ):
        if t:
            _product(
                arrival, now if now.shape[1] == b_t.shape[1] else now[:, : b_t.shape[1]], alpha_t
            ).mul_(b_t)
        else:
            torch.mul(now, b_t, out=alpha_t)
        now = alpha_t.div_(torch.sum(alpha_t, 0, keepdim=True, out=scale_t))
    omega.div_(scale)
    later = omega[:, :0]
    for beta_t, omega_t in zip(*(reversed(v.split(sizes, 1)) for v in (beta, omega)), strict=True):
        going = later.shape[1]
        if going < beta_t.shape[1]:
            beta_t[:, going:] = 1  # the sequences that end here
        if going:
            _product(transition, later, beta_t if going == beta_t.shape[1] else beta_t[:, :going])
        later = omega_t.mul_(beta_t)


def _side_by_side(
    initial: Tensor,
    transition: Tensor,
    alpha: Tensor,
    beta: Tensor,
    omega: Tensor,
    scale: Tensor,
    sequences: int,
    length: int,
    forget: int,
) -> bool:
    """The same for pieces of sequences of equal length at once.

    The first piece is longer by what is left over. The others start `forget` steps early, from
    anything. Products with b keep distances in Hilbert's projective metric and products with A ≥ 0
    never lengthen them, so if messages agree to rounding where pieces meet, entry by entry, they do
    everywhere. Returns whether they agree.

    References:
        Birkhoff (1957), "Extensions of Jentzsch's theorem".
    """
    alpha, beta, omega, scale = (v.view(len(v), -1, sequences) for v in (alpha, beta, omega, scale))
    states, time, _ = alpha.shape
    arrival, left = transition.T.contiguous(), time % length
    second = left + length  # where the second piece starts

    def forward(prediction: Tensor, times: slice) -> Tensor:
        now = prediction.view(states, -1, sequences).mul_(omega[:, times])
        total = torch.sum(now, 0, keepdim=True, out=scale[:, times])
        torch.div(
            now, total, out=alpha[:, times]
        )  # again below: copying to places apart takes torch five times as long
        return _product(arrival, now.div_(total).flatten(1), torch.empty_like(now).flatten(1))

    def backward(now: Tensor, times: slice) -> Tensor:
        beta[:, times] = now = now.view(states, -1, sequences)
        going = now * omega[:, times]
        omega[:, times].mul_(now)
        return _product(transition, going.flatten(1), torch.empty_like(now).flatten(1))

    others = arrival.sum(1, keepdim=True).repeat(1, (time // length - 1) * sequences)
    for t in range(second - forget, second):
        others = forward(
            others, slice(t, time - length, length)
        )  # what this writes is written again
    now = initial[:, None].repeat(1, sequences)
    for t in range(left):
        now = forward(now, slice(t, t + 1))
    begin = torch.cat([now, others], 1)
    now = begin.clone()
    for t in range(left, second):
        now = forward(now, slice(t, None, length))
    if not _agree(now[:, :-sequences], begin[:, sequences:]):
        return False
    omega.div_(scale)
    others = torch.ones_like(others)  # with the right scales, Σ α β = 1 from here on
    for t in reversed(range(second, second + forget)):
        others = _product(
            transition,
            (others.view(states, -1, sequences) * omega[:, t::length]).flatten(1),
            torch.empty_like(others),
        )
    now = torch.cat([others, others.new_ones(states, sequences)], 1)
    for t in reversed(range(left, second)):
        now = backward(now, slice(t, None, length))
    if not _agree(now[:, sequences:], others):
        return False
    now = now[:, :sequences]
    for t in reversed(range(left)):
        now = backward(now.contiguous(), slice(t, t + 1))
    return True


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a b into `out`. On the CPU by NumPy, which keeps small products on one thread: torch's would
    wait for all at each step.
    """
    if a.device.type != "cpu":
        return torch.mm(a, b, out=out)
    np.matmul(a.numpy(), b.numpy(), out=out.numpy())
    return out


def _agree(a: Tensor, b: Tensor) -> bool:
    """Whether columns point the same way, entry by entry and up to rounding."""
    a, b = a / a.sum(0), b / b.sum(0)
    return bool(((a - b).abs() <= 64 * torch.finfo(a.dtype).eps * b).all())


def peak(log_b: Tensor, states: int) -> Tensor:
    """The largest log b over the dimension of the states, 0 where all are −∞."""
    largest = log_b.amax(states, keepdim=True)
    return torch.where(largest.isfinite(), largest, torch.zeros_like(largest))


def buffer(states: int, rows: int, like: Tensor) -> Tensor:
    """Memory (states, rows) to be written to.

    NumPy asks the system for large pages, of which a new buffer costs less.
    """
    if like.device.type != "cpu":
        return like.new_empty(states, rows)
    return torch.from_numpy(
        np.empty((states, rows), np.float32 if like.dtype == torch.float32 else np.float64)
    )
