"""The figures that every trainer is judged by, under the same names, whatever it was trained with."""

__all__ = ["Scored", "scored", "scores"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from emgen.data.base import Data
from emgen.distributions import Dirac, Implicit
from emgen.estimators.montecarlo import log_mean_exp
from emgen.estimators.progress import each
from emgen.evaluation.budget import Phases, in_two_phases
from emgen.evaluation.inference import annealed, boltzmann, inference_gaps
from emgen.evaluation.likelihood import Estimate, evaluating, log_likelihood, log_weights
from emgen.roles import Latent, Recognition, serves


@dataclass(frozen=True)
class Scored:
    """The data that a model is scored on.

    Attributes:
        x: their rows as a likelihood sees them.
        n: how many data they are.
        datum: what one is, a `row` or a `document`.
    """

    x: Tensor
    n: int
    datum: str


def scored(model: Any, data: Data, split: str, most: int | None = None) -> Scored:
    """The first data of a split, counted in what the model gives one log p(x) of.

    Args:
        model: a topic model takes entries of a corpus as documents, whatever the data take them
            for.
        data: where they come from.
        split: train, validation or test.
        most: how many data at the most; None takes all.
    """
    datum = getattr(model, "datum", None) or data.datum
    count = data.count(split, datum)
    n = count if most is None else min(most, count)
    return Scored(data.first(split, n, datum), n, datum)


def scores(
    model: Any,
    x: Tensor,
    samples: int,
    seed: int = 0,
    temperatures: int | None = None,
    chains: int = 100,
    budget: int | None = None,
) -> dict[str, Estimate]:
    """`log_likelihood`, and for a latent model with an encoder `elbo`, `gap` and `ess`, from the
    same draws.

    The gap is log p̂_K(x) − ELBO, an estimate of KL(q(z|x) ‖ p(z|x)) that grows towards it with K.
    An implicit model (no likelihood) has no scores here and gets an empty dictionary; one whose
    encoder alone is implicit is scored by annealing, where `temperatures` ask for it.

    Args:
        model: the model; the likelihood is exact where it has `log_prob`.
        x: data, (N, *event).
        samples: K, draws of z per datum.
        seed: of the draws.
        temperatures: of annealed importance sampling. Through a decoder it adds `annealed` and,
            where q(z|x) is an independent normal, the two parts of the gap, `approximation` and
            `amortisation`; None leaves these out, and gives a Boltzmann machine 1,000.
        chains: of annealed importance sampling.
        budget: draws of z in all, from which on only some data have K of them and the others few
            (`budget.Phases`): the mean stays that of K draws of all, its error grows. None takes K
            of all.
    """
    encoded = serves(model, Latent) and serves(model, Recognition)
    if hasattr(model, "log_prob") and not encoded:
        return {"log_likelihood": log_likelihood(model, x, samples, seed=seed)}
    x = x[:]  # draws are taken of what is in memory
    if hasattr(
        model, "log_partition"
    ):  # a Boltzmann machine; where its energy is a bound, so is the score
        return {
            "elbo" if hasattr(model, "mean_field") else "log_likelihood": boltzmann(
                model, x, temperatures or 1000, chains, seed=seed
            )
        }
    if not serves(model, Latent) or isinstance(_likelihood(model, seed), Dirac):
        return {}
    if temperatures and encoded and _has_best_normal(model, x, seed):
        return inference_gaps(
            model, x, samples=samples, temperatures=temperatures, chains=chains, seed=seed
        )
    encoded = encoded and not _is_implicit(model, x, seed)  # no density, so no weights
    ais = annealed(model, x, temperatures, chains, seed=seed) if temperatures else None
    if not encoded:
        ess = f"effective sample size of {chains} chains"
        return (
            {"log_likelihood": ais, "ess": Estimate(ais.ess or math.nan, math.nan, ess)}
            if ais
            else {}
        )
    phases = Phases.within(len(x), samples, budget)
    if hasattr(model, "log_prob"):
        return _against_exact(model, x, max(1, phases.draws // len(x)), seed)
    found = _weighted(model, x, phases, seed)
    return {**found, **({"annealed": ais} if ais else {})}


def _against_exact(model: Any, x: Tensor, samples: int, seed: int) -> dict[str, Estimate]:
    """Of a model with few enough states to sum over: the gap is exact but for the draws of the ELBO."""
    bound = log_weights(model, x, samples, seed=seed).double().mean(0)
    with evaluating(model, seed):
        blocks = x.split(1024)
        log_p = torch.cat([model.log_prob(block) for block in each(blocks, "scoring")])
    return {
        "log_likelihood": Estimate.over(log_p, "exact"),
        "elbo": Estimate.over(bound, f"ELBO, K={samples}"),
        "gap": Estimate.over(log_p - bound, f"exact, less the ELBO, K={samples}"),
    }


def _weighted(model: Any, x: Tensor, phases: Phases, seed: int) -> dict[str, Estimate]:
    """By importance weights, with K draws of all data or of some."""
    chosen = phases.chosen().to(x.device)
    log_w = log_weights(model, x[chosen], phases.samples, seed=seed).double()
    fine = log_mean_exp(log_w)
    few = log_w[: phases.few]
    beside = log_mean_exp(few).value, few.mean(0)
    coarse = beside
    if phases.fine < phases.n:
        others = torch.ones(len(x), dtype=torch.bool, device=x.device)
        others[chosen] = False
        rest = log_weights(model, x[others], phases.few, seed=seed + 1).double()
        coarse = (
            torch.cat([beside[0], log_mean_exp(rest).value]),
            torch.cat([beside[1], rest.mean(0)]),
        )
    weighted = f"importance-weighted, {phases}"
    shared = float(getattr(model, "log_z_error", 0.0))  # of the constant of a deep belief net's top
    bound = log_w.mean(0)
    return {
        "log_likelihood": in_two_phases(
            coarse[0], beside[0], fine.value, weighted, fine.ess
        ).widened(shared),
        "elbo": in_two_phases(coarse[1], beside[1], bound, f"ELBO, {phases}").widened(shared),
        "gap": in_two_phases(
            coarse[0] - coarse[1],
            beside[0] - beside[1],
            fine.value - bound,
            f"{weighted}, less the ELBO",
        ),
        "ess": Estimate.over(fine.ess, f"effective sample size of {_all_draws(phases)}"),
    }


def _all_draws(phases: Phases) -> str:
    alone = "" if phases.fine == phases.n else f", {phases.fine:,} data"
    return f"K={phases.samples}{alone}"


def _has_best_normal(model: Any, x: Tensor, seed: int) -> bool:
    """Whether q(z|x) is an independent normal, among which `inference_gaps` seeks the best."""
    with evaluating(model, seed):
        q = model.recognition(x[:1])
    return isinstance(q, Independent) and isinstance(q.base_dist, Normal)


def _is_implicit(model: Any, x: Tensor, seed: int) -> bool:
    """Whether q(z|x) is known by its draws alone."""
    with evaluating(model, seed):
        return isinstance(model.recognition(x[:1]), Implicit)


def _likelihood(model: Any, seed: int) -> Any:
    with evaluating(model, seed):
        return model.likelihood(model.prior().sample((1,)))
