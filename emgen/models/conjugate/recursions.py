"""Recursions along hidden Markov chains: forward-backward, Viterbi, and forward-filter
backward-sample.

All sequences advance together, their rows packed time first, so that a step is a handful of
kernels.
"""

__all__ = ["Messages", "factorised", "forward_backward", "sample_paths", "viterbi"]

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emgen.models.conjugate.packed_sequences import Packing
from emgen.models.conjugate.scaled_messages import messages, peak


@dataclass(frozen=True)
class Messages:
    """Forward messages α, backward messages ω_t(j) = b_t(j) β_t(j) / c_t and log normalisers, as
    rows.

    γ_t = α_t ∘ β_t and Σ_t ξ_t = A ∘ Σ_t α_{t−1}ᵀ ω_t: one product of matrices, so that ξ is never
    stored per step. `logarithmic` messages hold log α and log ω.
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

    def transitions(
        self, weight: Float[Tensor, "rows"] | None = None
    ) -> Float[Tensor, "states states"]:
        """Expected numbers of moves Σ_t w_t ξ_t, w_t being the weight of the arrival at t."""
        alpha, omega = self.packing.before(self.alpha), self.packing.after(self.omega)
        weight = None if weight is None else self.packing.after(weight)[:, None]
        if not self.logarithmic:
            return self.log_transition.exp() * (
                alpha.T @ (omega if weight is None else omega * weight)
            )
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
    """The posterior over paths, p(z) ∝ π(z_1) b_1(z_1) Π_t A(z_{t−1}, z_t) b_t(z_t), of all
    sequences at once.

    π, A and b need not be normalised (variational Bayes passes exp E log). Recursions are scaled;
    they fall back to logarithms where underflow could have lost mass that matters.

    Args:
        log_initial: log π. log_transition: log A, −inf for structural zeros. log_likelihood: log b,
            packed rows.
        packing: the sequences the rows belong to.

    References:
        Baum, Petrie, Soules & Weiss (1970), "A maximization technique occurring in the statistical
        analysis of probabilistic functions of Markov chains"; Rabiner (1989), "A tutorial on hidden
        Markov models".
    """
    potentials = log_initial, log_transition, log_likelihood
    scaled = (
        _differentiable
        if torch.is_grad_enabled() and any(p.requires_grad for p in potentials)
        else messages
    )
    alpha, beta, omega, scale, shift = scaled(
        log_initial.exp(), log_transition.exp(), log_likelihood, packing
    )
    if not _lossless(log_transition.exp(), scale, beta):
        return _log_forward_backward(*potentials, packing)
    marginals = alpha * beta if beta.requires_grad else beta.mul_(alpha)
    return Messages(
        packing,
        log_transition,
        alpha,
        omega,
        marginals,
        packing.total(scale.log() + shift),
        logarithmic=False,
    )


def viterbi(
    log_initial: Float[Tensor, "states"],
    log_transition: Float[Tensor, "states states"],
    log_likelihood: Float[Tensor, "rows states"],
    packing: Packing,
) -> tuple[Int[Tensor, "rows"], Float[Tensor, "sequences"]]:
    """The most probable path of each sequence, and the log of its joint probability max_z log p(x,
    z).

    References:
        Viterbi (1967), "Error bounds for convolutional codes and an asymptotically optimum decoding
        algorithm".
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
    """One path of each sequence from its posterior: z_T ~ α_T, then z_t ~ α_t(·) A(·, z_{t+1})
    backwards.

    References:
        Chib (1996), "Calculating posterior distributions and modal estimates in Markov mixture
        models".
    """
    log_alpha = messages.log_alpha().contiguous()
    noise = (
        -torch.empty_like(log_alpha).exponential_().log()
    )  # Gumbel: the largest of logits + noise is a draw
    logits = (log_alpha + noise).split(messages.packing.sizes)
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
    """Mean field over time: q_t ∝ exp(log b_t + q_{t−1} log A + log A q_{t+1}), odd and even frames
    in turn.

    References:
        Ghahramani and Jordan (1997), "Factorial hidden Markov models".
    """
    log_a = log_transition.clamp(min=-1e30)  # 0 · (−∞) = 0
    first = log_likelihood.new_zeros(log_likelihood.shape).index_add(
        0,
        torch.arange(packing.sizes[0], device=log_initial.device),
        log_initial.expand(packing.sizes[0], -1),
    )
    for _ in range(sweeps):
        for parity in (0, 1):
            field = (
                log_likelihood
                + first
                + packing.from_before(marginals @ log_a)
                + packing.from_after(marginals @ log_a.T)
            )
            marginals = torch.where(
                (packing.time % 2 == parity)[:, None], field.softmax(-1), marginals
            )
    return marginals


def _differentiable(
    initial: Tensor, transition: Tensor, log_b: Tensor, packing: Packing
) -> tuple[Tensor, ...]:
    """The same messages, of which nothing is overwritten, so that gradients pass."""
    shift = peak(log_b.detach(), -1)
    b, arrival = (log_b - shift).exp().split(packing.sizes), transition.T.contiguous()
    alphas, scales = [], []
    for t, b_t in enumerate(b):
        alpha = (alphas[-1][: len(b_t)] @ transition if t else initial) * b_t
        scales.append(alpha.sum(-1, keepdim=True))
        alphas.append(alpha / scales[-1])
    beta = torch.ones_like(b[-1])
    betas, omegas = [beta], [b[-1] / scales[-1]]
    for b_t, scale_t in zip(reversed(b[:-1]), reversed(scales[:-1]), strict=True):
        beta = omegas[-1] @ arrival
        beta = torch.cat([beta, torch.ones_like(b_t[len(beta) :])])  # the sequences that end here
        betas.append(beta)
        omegas.append(b_t * beta / scale_t)
    messages = (torch.cat(m) for m in (alphas, betas[::-1], omegas[::-1]))
    return *messages, torch.cat(scales).squeeze(-1), shift.squeeze(-1)


def _lossless(transition: Tensor, scale: Tensor, beta: Tensor) -> bool:
    """Whether underflow of α, each time at most `tiny` beside a sum of 1, cannot have changed the
    result.

    What is lost at (t, j) weighs `tiny` β_t(j). Where every transition exceeds δ, scales do too and
    β ratios are below 1/δ, hence the loss is below tiny/δ²; with structural zeros the computed β
    shows it.
    """
    info = torch.finfo(scale.dtype)
    if not bool((scale.amin() > 0) & (scale.amax() < torch.inf)):
        return False
    return bool(transition.amin() > info.tiny ** (1 / 3)) or bool(
        beta.amax() < info.eps / info.tiny
    )


def _log_forward_backward(
    log_initial: Tensor, log_transition: Tensor, log_b: Tensor, packing: Packing
) -> Messages:
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
    marginals = (
        (alpha + torch.cat(betas[::-1])).exp().nan_to_num(0.0)
    )  # 0 where the data are impossible
    omega = torch.cat(omegas[::-1]).nan_to_num(-torch.inf, posinf=-torch.inf)
    return Messages(
        packing, log_transition, alpha, omega, marginals, packing.total(scale.squeeze(-1)), True
    )
