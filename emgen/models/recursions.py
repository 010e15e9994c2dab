"""Recursions along hidden Markov chains: forward-backward, Viterbi, and forward-filter backward-sample.

All sequences advance together. Rows are *packed*: time first, and at each time only the sequences that still run, the
longest first, so that no step works on padding and a step is a handful of kernels whatever the number of sequences.
"""

__all__ = ["Messages", "Packing", "factorised", "forward_backward", "frames", "sample_paths", "viterbi"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Packing:
    """The time-major order of the rows of ragged sequences: row (t, s) is time t of the s-th longest sequence.

    Args:
        lengths: number of frames of each sequence, each ≥ 1.
        device: where the index tensors live.

    Example:
        >>> packing = Packing([1, 3])
        >>> x = torch.tensor([[1, 0, 0], [2, 3, 4]])
        >>> packing.pack(x)
        tensor([2, 1, 3, 4])
        >>> packing.unpack(packing.pack(x), fill=-1)
        tensor([[ 1, -1, -1],
                [ 2,  3,  4]])
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str | None = None) -> None:
        if not len(lengths) or min(lengths) < 1:
            raise ValueError(f"each sequence needs at least one frame, not lengths {list(lengths)[:10]}")
        self.lengths = list(lengths)
        order = sorted(range(len(self.lengths)), key=lambda s: -self.lengths[s])  # stable
        longest = torch.tensor([self.lengths[s] for s in order], device=device)
        self.order = torch.tensor(order, device=device)
        running = torch.arange(self.lengths[order[0]], device=device)[:, None] < longest  # (T, B)
        self.sizes: list[int] = running.sum(1).tolist()
        self.time, slot = running.nonzero(as_tuple=True)
        self.sequence = self.order[slot]
        self.full = self.sizes[-1] == len(self.lengths)  # no padding: indices are strides
        self._previous = torch.arange(self.sizes[0], len(slot), device=device) - torch.tensor(
            self.sizes, device=device)[self.time[self.sizes[0] :] - 1]

    def pack(self, x: Tensor) -> Tensor:
        """Rows (N, …) of padded sequences (B, T, …)."""
        if self.full:  # equal lengths keep their order
            return x[:, : len(self.sizes)].transpose(0, 1).flatten(0, 1)
        return x[self.sequence, self.time]

    def unpack(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """Padded sequences (B, T, …) of rows (N, …)."""
        x = rows.new_full((len(self.lengths), len(self.sizes), *rows.shape[1:]), fill)
        x[self.sequence, self.time] = rows
        return x

    def before(self, rows: Tensor) -> Tensor:
        """For each row that is not the first of its sequence, the row one step earlier."""
        return rows[: len(rows) - self.sizes[0]] if self.full else rows[self._previous]

    def after(self, rows: Tensor) -> Tensor:
        """The rows that are not the first of their sequence, in the order of `before`."""
        return rows[self.sizes[0] :]

    def from_before(self, rows: Tensor) -> Tensor:
        """Each row's value of the row one step earlier, 0 at the first of a sequence."""
        return torch.cat([torch.zeros_like(rows[: self.sizes[0]]), self.before(rows)])

    def from_after(self, rows: Tensor) -> Tensor:
        """Each row's value of the row one step later, 0 at the last of a sequence."""
        return torch.zeros_like(rows).index_copy(0, self._previous, self.after(rows))

    def total(self, rows: Tensor) -> Tensor:
        """Sum of row values (N,) over each sequence (B,)."""
        return rows.new_zeros(len(self.lengths)).index_add(0, self.sequence, rows)


@dataclass(frozen=True)
class Messages:
    """Forward messages α, backward messages ω_t(j) = b_t(j) β_t(j) / c_t and log normalisers, as rows.

    γ_t = α_t ∘ β_t and Σ_t ξ_t = A ∘ Σ_t α_{t−1}ᵀ ω_t: one product of matrices, so that ξ is never stored per step.
    `logarithmic` messages hold log α and log ω.
    """

    packing: Packing
    log_transition: Tensor
    alpha: Tensor
    omega: Tensor
    marginals: Float[Tensor, "rows states"]
    log_normaliser: Float[Tensor, "sequences"]
    logarithmic: bool

    def log_alpha(self) -> Float[Tensor, "rows states"]:
        """log p(z_t | x_1..t)."""
        return self.alpha if self.logarithmic else self.alpha.log()

    def transitions(self, weight: Float[Tensor, "rows"] | None = None) -> Float[Tensor, "states states"]:
        """Expected numbers of moves Σ_t w_t ξ_t, w_t being the weight of the arrival at t."""
        alpha, omega = self.packing.before(self.alpha), self.packing.after(self.omega)
        weight = None if weight is None else self.packing.after(weight)[:, None]
        if not self.logarithmic:
            return self.log_transition.exp() * (alpha.T @ (omega if weight is None else omega * weight))
        total = torch.zeros_like(self.log_transition)
        block = max(1, 2**20 // total.numel())
        for start in range(0, len(alpha), block):
            rows = slice(start, start + block)
            pairs = (alpha[rows, :, None] + self.log_transition + omega[rows, None, :]).exp()
            total = total + (pairs if weight is None else pairs * weight[rows, :, None]).sum(0)
        return total


def forward_backward(
    log_initial: Float[Tensor, "states"],
    log_transition: Float[Tensor, "states states"],
    log_likelihood: Float[Tensor, "rows states"],
    packing: Packing,
) -> Messages:
    """The posterior over paths, p(z) ∝ π(z_1) b_1(z_1) Π_t A(z_{t−1}, z_t) b_t(z_t), of all sequences at once.

    π, A and b need not be normalised (variational Bayes passes exp E log). Recursions are scaled; they fall back to
    logarithms where underflow could have lost mass that matters.

    Args:
        log_initial: log π. log_transition: log A, −inf for structural zeros. log_likelihood: log b, packed rows.
        packing: the sequences the rows belong to.

    References:
        Baum, Petrie, Soules & Weiss (1970), "A maximization technique occurring in the statistical analysis of
        probabilistic functions of Markov chains"; Rabiner (1989), "A tutorial on hidden Markov models".
    """
    shift = log_likelihood.detach().amax(-1, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, torch.zeros_like(shift))
    b = (log_likelihood - shift).exp().split(packing.sizes)
    initial, transition = log_initial.exp(), log_transition.exp()
    alphas, scales = [], []
    for t, b_t in enumerate(b):
        alpha = (alphas[-1][: len(b_t)] @ transition if t else initial) * b_t
        scale = alpha.sum(-1, keepdim=True)
        alphas.append(alpha / scale)
        scales.append(scale)
    scale = torch.cat(scales)
    b_scaled = (torch.cat(b) / scale).split(packing.sizes)
    betas, omegas = _backward(b_scaled, transition.T.contiguous())
    alpha, beta, omega = torch.cat(alphas), torch.cat(betas), torch.cat(omegas)
    if _lossless(transition, scale, beta):
        log_normaliser = packing.total((scale.log() + shift).squeeze(-1))
        return Messages(packing, log_transition, alpha, omega, alpha * beta, log_normaliser, logarithmic=False)
    return _log_forward_backward(log_initial, log_transition, log_likelihood, packing)


def viterbi(
    log_initial: Float[Tensor, "states"],
    log_transition: Float[Tensor, "states states"],
    log_likelihood: Float[Tensor, "rows states"],
    packing: Packing,
) -> tuple[Int[Tensor, "rows"], Float[Tensor, "sequences"]]:
    """The most probable path of each sequence, and the log of its joint probability max_z log p(x, z).

    References:
        Viterbi (1967), "Error bounds for convolutional codes and an asymptotically optimum decoding algorithm".
    """
    b = log_likelihood.split(packing.sizes)
    score, choices, ends = log_initial + b[0], [], []
    for b_t in b[1:]:
        ends.append(score[len(b_t) :])
        best, choice = (score[: len(b_t), :, None] + log_transition).max(1)
        score = best + b_t
        choices.append(choice)
    ends.append(score)
    joint, path = ends[-1].max(-1)
    joints, paths = [joint], [path]
    for choice, end in zip(reversed(choices), reversed(ends[:-1]), strict=True):
        path = choice.gather(-1, path[:, None]).squeeze(-1)
        joint, last = end.max(-1)  # the sequences that end here
        path = torch.cat([path, last])
        joints.append(joint)
        paths.append(path)
    log_joint = torch.empty_like(torch.cat(joints))
    log_joint[packing.order] = torch.cat(joints)
    return torch.cat(paths[::-1]), log_joint


def sample_paths(messages: Messages) -> Int[Tensor, "rows"]:
    """One path of each sequence from its posterior: z_T ~ α_T, then z_t ~ α_t(·) A(·, z_{t+1}) backwards.

    References:
        Chib (1996), "Calculating posterior distributions and modal estimates in Markov mixture models".
    """
    noise = -torch.empty_like(messages.alpha).exponential_().log()  # Gumbel: the largest of logits + noise is a draw
    logits = (messages.log_alpha() + noise).split(messages.packing.sizes)
    arrival = messages.log_transition.T.contiguous()
    path = logits[-1].argmax(-1)
    paths = [path]
    for logit in reversed(logits[:-1]):
        going = len(path)
        path = torch.cat([(logit[:going] + arrival[path]).argmax(-1), logit[going:].argmax(-1)])
        paths.append(path)
    return torch.cat(paths[::-1])


def factorised(
    log_initial: Float[Tensor, "states"],
    log_transition: Float[Tensor, "states states"],
    log_likelihood: Float[Tensor, "rows states"],
    packing: Packing,
    marginals: Float[Tensor, "rows states"],
    sweeps: int,
) -> Float[Tensor, "rows states"]:
    """Mean field over time: q_t ∝ exp(log b_t + q_{t−1} log A + log A q_{t+1}), odd and even frames in turn.

    References:
        Ghahramani and Jordan (1997), "Factorial hidden Markov models".
    """
    log_a = log_transition.clamp(min=-1e30)  # 0 · (−∞) = 0
    first = log_likelihood.new_zeros(log_likelihood.shape).index_add(
        0, torch.arange(packing.sizes[0], device=log_initial.device), log_initial.expand(packing.sizes[0], -1))
    for _ in range(sweeps):
        for parity in (0, 1):
            field = log_likelihood + first + packing.from_before(marginals @ log_a) + packing.from_after(marginals @ log_a.T)
            marginals = torch.where((packing.time % 2 == parity)[:, None], field.softmax(-1), marginals)
    return marginals


def frames(x: Tensor | tuple[Tensor, Tensor]) -> tuple[Packing, Tensor, Tensor | None]:
    """The packing, its rows of frames, and which of them hold any value (None: all)."""
    x, length = x if isinstance(x, tuple) else (x, None)
    if x.ndim < 2:
        raise ValueError(f"sequences have shape (sequences, time, *event), not {tuple(x.shape)}: add a first dimension")
    missing = x.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)
    some = ~missing.flatten(2).all(-1) if x.ndim > 2 else ~missing
    if length is None and not missing.any():
        packing = Packing([x.shape[1]] * len(x), x.device)
        return packing, packing.pack(x), None
    if length is None:
        length = (some * torch.arange(1, x.shape[1] + 1, device=x.device)).amax(1)
    packing = Packing(length.tolist(), x.device)
    seen = packing.pack(some)
    return packing, packing.pack(x), None if seen.all() else seen


def _backward(b: Sequence[Tensor], arrival: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    beta = torch.ones_like(b[-1])
    betas, omegas = [beta], [b[-1]]
    for b_t in reversed(b[:-1]):
        beta = omegas[-1] @ arrival
        if len(beta) < len(b_t):  # the sequences that end here
            beta = torch.cat([beta, torch.ones_like(b_t[len(beta) :])])
        betas.append(beta)
        omegas.append(b_t * beta)
    return betas[::-1], omegas[::-1]


def _lossless(transition: Tensor, scale: Tensor, beta: Tensor) -> bool:
    """Whether underflow of α, each time at most `tiny` beside a sum of 1, cannot have changed the result.

    What is lost at (t, j) weighs `tiny` β_t(j). Where every transition exceeds δ, scales do too and β ratios are below
    1/δ, hence the loss is below tiny/δ²; with structural zeros the computed β shows it.
    """
    info = torch.finfo(scale.dtype)
    reach = transition.amin() > info.tiny ** (1 / 3)
    small = torch.isfinite(beta).all() & (beta.amax() < info.eps / info.tiny)
    return bool((scale.amin() > 0) & (reach | small) & torch.isfinite(scale).all())


def _log_forward_backward(log_initial: Tensor, log_transition: Tensor, log_b: Tensor, packing: Packing) -> Messages:
    b, arrival = log_b.split(packing.sizes), log_transition.T.contiguous()
    alphas, scales = [], []
    for t, b_t in enumerate(b):
        prior = (alphas[-1][: len(b_t), None] + arrival).logsumexp(-1) if t else log_initial
        alpha = prior + b_t
        scale = alpha.logsumexp(-1, keepdim=True)
        alphas.append(alpha - torch.where(scale.isfinite(), scale, torch.zeros_like(scale)))
        scales.append(scale)
    beta = torch.zeros_like(b[-1])
    betas, omegas = [beta], [b[-1] - scales[-1]]
    for b_t, scale in zip(reversed(b[:-1]), reversed(scales[:-1]), strict=True):
        beta = (log_transition + omegas[-1][:, None, :]).logsumexp(-1)
        beta = torch.cat([beta, torch.zeros_like(b_t[len(beta) :])])
        betas.append(beta)
        omegas.append(b_t + beta - scale)
    alpha, scale = torch.cat(alphas), torch.cat(scales)
    marginals = (alpha + torch.cat(betas[::-1])).exp().nan_to_num(0.0)  # 0 where the data are impossible
    omega = torch.cat(omegas[::-1]).nan_to_num(-torch.inf, posinf=-torch.inf)
    return Messages(packing, log_transition, alpha, omega, marginals, packing.total(scale.squeeze(-1)), True)
