"""How far inference falls short: log p(x) by annealing through a decoder, and the gap to the ELBO
in its two parts.
"""

__all__ = ["DecoderPath", "annealed", "boltzmann", "inference_gaps", "sandwich"]

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from emgen.distributions import Dirac
from emgen.estimators.chains import hamiltonian
from emgen.estimators.montecarlo import LogMean, log_mean_exp
from emgen.estimators.normalising import (
    annealed_importance_sampling,
    log_partition,
    reverse_annealed_importance_sampling,
)
from emgen.estimators.progress import each
from emgen.evaluation.likelihood import Estimate, evaluating, log_weights

_DRAWS = 10  # of z, at a time, for the ELBO of q*


class DecoderPath:
    """The path f_β(z) = p(z) p(x|z)^β for a batch of x: its base is the prior, its target's
    constant is p(x).

        f_β(z) = r(z)^{1−β} [p(z) p(x|z)]^β     from another base r, for instance q(z|x)

    It moves by Hamiltonian Monte Carlo, with step sizes that `tune` has found for each x and
    temperature.

    Args:
        model: p(z) p(x|z) with one continuous z (any trainer's: VAE, wake-sleep, GAN).
        x: data (B, *event).
        base: r, a distribution of batch shape () or (B); None takes the prior.
        leapfrogs: leapfrog steps a move.

    Raises:
        TypeError: layered or discrete latents, which have no gradient to follow.
        ValueError: p(x|z) is a point mass, so x has no likelihood, x lies outside its support, or
            the prior is a batch.
    """

    def __init__(
        self, model: Any, x: Tensor, base: Distribution | None = None, leapfrogs: int = 10
    ):
        self.model, self.x, self.leapfrogs = model, x, leapfrogs
        self.prior: Distribution = model.prior()
        self.base = self.prior if base is None else base
        if self.prior.batch_shape:
            raise ValueError(
                f"a prior of batch shape {tuple(self.prior.batch_shape)}: expected (), one"
                " distribution over the whole of z; wrap it in torch.distributions.Independent."
            )
        z = self.base.sample()
        if not isinstance(z, Tensor) or self.prior.support.is_discrete:  # type: ignore[union-attr]
            raise TypeError(
                f"annealing moves z along gradients, but the latents of {type(model).__name__} are"
                " layered or discrete; use importance weights"
                " (evaluation.likelihood.log_likelihood)."
            )
        decoded: Any = model.likelihood(z)
        if isinstance(decoded, Dirac):
            raise ValueError(
                "p(x|z) is a point mass, so x has no likelihood; score samples by"
                " evaluation.likelihood.parzen()."
            )
        if not bool(decoded.support.check(x).all()):
            raise ValueError(
                f"x holds values outside the support of p(x|z), {decoded.support}: binarise the"
                " data or choose another head."
            )
        self.betas, self.steps = z.new_zeros(1), z.new_full((1, len(x)), 0.1)

    def log_z0(self) -> Tensor:
        return self.steps.new_zeros(len(self.x))

    def start(self, chains: int) -> Tensor:
        return self.base.sample((chains,) if self.base.batch_shape else (chains, len(self.x)))

    def energy(self, z: Tensor, beta: Tensor) -> Tensor:
        checked = Distribution._validate_args  # type: ignore[attr-defined]
        Distribution.set_default_validate_args(
            False
        )  # beyond the support the density is zero, not an error
        try:
            target = self.model.likelihood(z).log_prob(self.x)
            if self.base is self.prior:
                return -self.prior.log_prob(z) - _times(beta, target)
            base = self.base.log_prob(z)
            return -base - _times(beta, self.prior.log_prob(z) + target - base)
        finally:
            Distribution.set_default_validate_args(checked)

    def move(self, z: Tensor, beta: Tensor) -> Tensor:
        step = self.steps[(torch.searchsorted(self.betas, beta, right=True) - 1).clamp(min=0)]
        jitter = 0.8 + 0.4 * torch.rand_like(
            step.expand(len(z), -1)
        )  # against trajectories that close on themselves
        return self._step(z, beta, jitter * step)[0]

    def _step(self, z: Tensor, beta: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        events = len(self.prior.event_shape)
        return hamiltonian(lambda z: self.energy(z, beta), z, step, self.leapfrogs, events)

    @torch.no_grad()
    def tune(self, betas: Tensor, chains: int = 8, acceptance: float = 0.65) -> "DecoderPath":
        """Find step sizes along a ladder by a pilot run, and keep them fixed from then on, so that
        AIS stays unbiased.

        Each x has its step size raised by a tenth where its chains accept more than asked for,
        lowered where less; a short ladder is climbed slowly, for a hundred such changes in all.
        """
        z, step, kept = self.start(chains), self.steps[0], []
        for beta in each(betas[1:], "tuning"):
            for _ in range(max(1, 100 // (len(betas) - 1))):
                z, probability = self._step(z, beta, step.expand(chains, -1))
                step = torch.where(probability.mean(0) > acceptance, step * 1.1, step / 1.1)
            kept.append(step)
        self.betas, self.steps = betas[1:].clone(), torch.stack(kept)
        return self


def annealed(
    model: Any,
    x: Tensor,
    temperatures: int = 500,
    chains: int = 16,
    *,
    leapfrogs: int = 10,
    block: int = 128,
    seed: int = 0,
) -> Estimate:
    """Mean log p(x) by annealed importance sampling through the decoder: a stochastic lower bound
    that needs no encoder.

    The ladder is a sigmoid's, dense at both ends. The ESS is that of the chains' weights, averaged
    over the data.

    Args:
        model: p(z) p(x|z), one continuous z.
        x: data (N, *event).
        temperatures: steps of the ladder.
        chains: for each x.
        leapfrogs: leapfrog steps a move.
        block: data annealed at once.
        seed: of the draws; the global random state is left as it was.

    References: Wu, Burda, Salakhutdinov and Grosse (2017), "On the quantitative analysis of
    decoder-based generative models".
    """
    with evaluating(model, seed):
        found = _annealed(model, x, temperatures, chains, leapfrogs, block)
    return Estimate.over(
        found.value, f"AIS, {temperatures} temperatures, {chains} chains", found.ess
    )


def sandwich(
    model: Any,
    n: int = 64,
    temperatures: int = 500,
    chains: int = 16,
    *,
    leapfrogs: int = 10,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """Bidirectional Monte Carlo on n simulated data, log p(x) from below and from above.

    A datum simulated with its z comes with one exact posterior draw, from which AIS runs backwards:
    that chain overestimates log p(x) in the mean as forward chains underestimate it. How far apart
    they are is how far `annealed` can be trusted.

    References: Grosse, Ghahramani and Adams (2015), "Sandwiching the marginal likelihood using
    bidirectional Monte Carlo".
    """
    with evaluating(model, seed):
        z = model.prior().sample((n,))
        x = model.likelihood(z).sample()
        betas = _ladder(temperatures, x)
        path = DecoderPath(model, x, leapfrogs=leapfrogs).tune(betas)
        below = annealed_importance_sampling(path, betas, chains)
        above = reverse_annealed_importance_sampling(path, z.unsqueeze(0), betas)
    return (
        Estimate.over(below.value, f"AIS, {temperatures} temperatures, {chains} chains", below.ess),
        Estimate.over(above.value, f"reverse AIS, {temperatures} temperatures, 1 chain"),
    )


def inference_gaps(
    model: Any,
    x: Tensor,
    *,
    samples: int = 1000,
    temperatures: int = 500,
    chains: int = 16,
    steps: int = 500,
    block: int = 128,
    seed: int = 0,
) -> dict[str, Estimate]:
    """log p(x) − ELBO split into what the family of q cannot express and what the encoder does not
    find.

        gap = approximation + amortisation
        approximation = log p(x) − ELBO(q*)      q* the best member of q's family for each x, found
        by gradient amortisation  = ELBO(q*) − ELBO(q)       q the encoder's

    log p(x) is the larger of two lower bounds in the mean: the annealed one where it is above the
    importance-weighted one by two standard errors, for noise must not choose (of a single datum,
    the errors that the weights state). All differences and their errors are taken datum by datum.

    Args:
        model: p(z) p(x|z) with a recognition model whose q(z|x) is an independent normal.
        x: data (N, *event).
        samples: K of the importance weights, and draws for each ELBO.
        temperatures, chains: of AIS.
        steps: of Adam on q*.
        block: data whose q* is sought, and that are annealed, at once.
        seed: of all draws.

    Returns:
        `log_likelihood`, `annealed`, `importance_weighted`, `elbo_optimal`, `elbo`, `gap`,
        `approximation`, `amortisation`, and the `ess` of the weights that gave `log_likelihood`.

    Raises:
        TypeError: q(z|x) is not an independent normal.

    References: Cremer, Li and Duvenaud (2018), "Inference suboptimality in variational
    autoencoders".
    """
    log_w = log_weights(model, x, samples, seed=seed)
    bound, weighted, best = log_w.mean(0), log_mean_exp(log_w), []
    with evaluating(model, seed):
        for rows in each(x.split(block), "seeking q*"):
            q = _optimal(model, rows, steps)
            best.append(
                torch.stack(
                    [_bounds(model, rows, q).mean(0) for _ in range(-(-samples // _DRAWS))]
                ).mean(0)
            )
        ais = _annealed(model, x, temperatures, chains, 10, block)
    optimal = torch.cat(best)
    annealed = Estimate.over(
        ais.value, f"AIS, {temperatures} temperatures, {chains} chains", ais.ess
    )
    iw = Estimate.over(weighted.value, f"importance-weighted, K={samples}", weighted.ess)
    rise = Estimate.over(ais.value - weighted.value, "")
    noise = rise.error if len(x) > 1 else math.hypot(float(ais.error), float(weighted.error))
    largest, weights = (annealed, ais) if rise.value > 2 * noise else (iw, weighted)
    log_p = weights.value
    return {
        "log_likelihood": largest,
        "annealed": annealed,
        "importance_weighted": iw,
        "elbo_optimal": Estimate.over(optimal, f"ELBO of q*, {steps} steps, K={samples}"),
        "elbo": Estimate.over(bound, f"ELBO, K={samples}"),
        "gap": Estimate.over(log_p - bound, f"{largest.method}, less the ELBO"),
        "approximation": Estimate.over(log_p - optimal, f"{largest.method}, less the ELBO of q*"),
        "amortisation": Estimate.over(optimal - bound, "ELBO of q*, less the ELBO"),
        "ess": Estimate.over(
            weights.ess, f"effective sample size, least {weights.ess.min():.1f}: {largest.method}"
        ),
    }


def boltzmann(
    machine: Any, x: Tensor, temperatures: int = 1000, chains: int = 100, *, seed: int = 0
) -> Estimate:
    """Mean log p(x) of a Boltzmann machine, −energy(x) − log Z; of a deep one its mean-field lower
    bound.

    log Z is exact where it can be enumerated, else by AIS, which errs towards too small a Z and so
    flatters the machine: the error adds that of log Z to that of the data, and the ESS is that of
    the chains.
    """
    with evaluating(machine, seed):
        log_z = log_partition(machine, temperatures, chains)
        blocks = x.split(1024)
        energy = torch.cat([machine.energy(rows) for rows in each(blocks, "scoring")])
    exact = float(log_z.error) == 0
    method = (
        "exact" if exact else f"AIS, {temperatures} temperatures, {chains} chains, log Z {log_z}"
    )
    ess = None if exact else log_z.ess
    return Estimate.over(-energy - log_z.value, method, ess).widened(float(log_z.error))


def _ladder(temperatures: int, like: Tensor) -> Tensor:
    """β from 0 to 1 along a logistic curve, where a likelihood's pull is felt."""
    if temperatures < 1:
        raise ValueError(
            f"temperatures={temperatures}: the ladder of annealing has at least one step; 500 are a"
            " good start."
        )
    t = torch.linspace(-4, 4, temperatures + 1, device=like.device, dtype=torch.float64).sigmoid()
    return (t - t[0]) / (t[-1] - t[0])


def _times(beta: Tensor, log_f: Tensor) -> Tensor:
    """β log f, where 0 · (−∞) = 0: at the base the target does not count."""
    return torch.where(beta > 0, beta * log_f, 0.0)


def _annealed(
    model: Any, x: Tensor, temperatures: int, chains: int, leapfrogs: int, block: int
) -> LogMean:
    """log p̂(x) by AIS, its error and its effective sample size, one of each a datum."""
    if len(x) == 0:
        raise ValueError("there is no data to anneal: expected at least one datum.")
    betas, found = _ladder(temperatures, x), []
    for rows in each(x.split(block), "annealing the data"):
        found.append(
            annealed_importance_sampling(
                DecoderPath(model, rows, leapfrogs=leapfrogs).tune(betas), betas, chains
            )
        )
    return LogMean(
        *(torch.cat([getattr(f, name) for f in found]) for name in ("value", "error", "ess"))
    )


def _bounds(model: Any, x: Tensor, q: Distribution) -> Tensor:
    """log p(x, z) − log q(z) of a few reparameterised draws, (draws, B)."""
    z = q.rsample((_DRAWS,))
    return model.prior().log_prob(z) + model.likelihood(z).log_prob(x) - q.log_prob(z)


def _optimal(model: Any, x: Tensor, steps: int) -> Distribution:
    """The independent normal for each x that ascends the ELBO from the encoder's."""
    q = model.recognition(x)
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise TypeError(
            f"q(z|x) is {type(q).__name__}: the optimal member is sought among independent normals"
            " alone."
        )
    events = q.reinterpreted_batch_ndims
    with torch.enable_grad():
        loc, log_scale = q.mean.detach().requires_grad_(), q.stddev.detach().log().requires_grad_()
        optimizer = torch.optim.Adam([loc, log_scale], lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in each(range(steps), "ascending the ELBO"):
            bounds = _bounds(model, x, Independent(Normal(loc, log_scale.exp()), events))
            loc.grad, log_scale.grad = torch.autograd.grad(-bounds.mean(0).sum(), [loc, log_scale])
            optimizer.step()
            schedule.step()
    return Independent(Normal(loc.detach(), log_scale.detach().exp()), events)
