"""How probable is held-out data: exact, importance-weighted or Parzen, each figure with its method
and standard error.
"""

__all__ = ["Estimate", "elbo", "evaluating", "log_likelihood", "log_weights", "parzen"]

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent
from torch.nn import Module

from emgen.distributions import Dirac, softplus
from emgen.estimators.montecarlo import log_mean_exp
from emgen.estimators.progress import each, progress
from emgen.randomness import seeded

DRAWN = 1024  # draws that are made together on a CPU, however many of them are decoded at once
DRAWN_THERE = 65_536  # the same on an accelerator, which small blocks would leave idle
CACHED = 2**19  # numbers of x|z that a core keeps near while it goes through them


@dataclass(frozen=True)
class Estimate:
    """A measured number with all that is needed to judge it.

    Args:
        value: the mean over the data (log-likelihoods: nats per datum, larger is better).
        error: its standard error over the data, NaN where it is not known: of a single datum, and
            of a value that is infinite or not a number, which no error bounds.
        method: how it was measured, in words.
        ess: mean effective sample size of the importance weights, None where there are none.

    >>> print(Estimate(-90.123, 0.25, "exact"))
    -90.12 ± 0.25 (exact)
    """

    value: float
    error: float
    method: str
    ess: float | None = None

    def __post_init__(self) -> None:
        if self.error < 0:
            raise ValueError(
                f"a standard error is 0 or more, or NaN where it is not known, not {self.error:g}"
                f" ({self.method})."
            )
        if not math.isfinite(self.value):
            object.__setattr__(self, "error", math.nan)

    @classmethod
    def over(cls, values: Tensor, method: str, ess: Tensor | None = None) -> "Estimate":
        """The mean of one value a datum, with its standard error, and the mean of one ESS a datum."""
        values = values.double()
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(
            values.mean().item(), error, method, None if ess is None else ess.double().mean().item()
        )

    @classmethod
    def over_blocks(cls, blocks: Iterable[Tensor], method: str) -> "Estimate":
        """The same of values that come block by block, none of which is kept.

        References: Chan, Golub, LeVeque (1983), "Algorithms for computing the sample variance".
        """
        n, total, squares = 0, 0.0, 0.0
        for values in blocks:
            values = values.double()
            k, own = len(values), values.mean()
            between = (own.item() - total / n) ** 2 * k * n / (n + k) if n else 0.0
            squares += (values - own).square().sum().item() + between
            n, total = n + k, total + values.sum().item()
        error = math.sqrt(squares / (n - 1)) / math.sqrt(n) if n > 1 else math.nan
        return cls(total / n, error, method)

    def widened(self, error: float) -> "Estimate":
        """The same with an error that all data share beside that over the data."""
        return replace(self, error=math.hypot(self.error, error))

    def __str__(self) -> str:
        digits = 2 if not 0 < self.error < 0.05 else 1 - math.floor(math.log10(self.error))
        ess = "" if self.ess is None else f", ESS {self.ess:.1f}"
        error = "?" if math.isnan(self.error) else f"{self.error:.{digits}f}"
        return f"{self.value:.{digits}f} ± {error} ({self.method}{ess})"


def log_likelihood(
    model: Any, x: Tensor, samples: int = 1000, *, chunk: int | None = None, seed: int = 0
) -> Estimate:
    """Mean log p(x): exact where the model has `log_prob`, else the importance-weighted bound with
    K samples.

        log p̂_K(x) = log 1/K Σ_k w_k,   w_k = p(z_k) p(x|z_k) / q(z_k|x),   z_k ~ q(z|x)

    It never exceeds log p(x) in the mean and grows with K; ESS = (Σw)² / Σw² near 1 says that the
    bound is loose.

    Args:
        model: a module with `log_prob(x)`, or with `prior()`, `likelihood(z)` and `recognition(x)`.
        x: data (N, *event) inside the support of the likelihood (binary for a Bernoulli head).
        samples: K.
        chunk: pairs (datum, sample) decoded at once, which changes no more than the rounding; None
            takes what stays in a CPU's cache, or what an accelerator's memory has room for.
        seed: of the draws; the global random state is left as it was.

    Raises:
        ValueError: no data, K < 1, data outside the support, or a density that does not exist
            (Dirac).

    References: Burda, Grosse, Salakhutdinov (2016), "Importance Weighted Autoencoders".
    """
    if hasattr(model, "log_prob"):
        with evaluating(model, seed):
            blocks = each(_blocks(model, x, chunk or DRAWN), "scoring")
            return Estimate.over_blocks(map(model.log_prob, blocks), "exact")
    mean = log_mean_exp(log_weights(model, x, samples, chunk=chunk, seed=seed))
    return Estimate.over(mean.value, f"importance-weighted, K={samples}", mean.ess)


def elbo(
    model: Any, x: Tensor, samples: int = 1, *, chunk: int | None = None, seed: int = 0
) -> Estimate:
    """The evidence lower bound E_q[log p(x, z) − log q(z|x)], by the mean of K log-weights a datum.

    Arguments and errors as in `log_likelihood`.
    """
    return Estimate.over(
        log_weights(model, x, samples, chunk=chunk, seed=seed).mean(0), f"ELBO, K={samples}"
    )


def log_weights(
    model: Any, x: Tensor, samples: int, *, chunk: int | None = None, seed: int = 0
) -> Tensor:
    """log w = log p(z) + log p(x|z) − log q(z|x) of K draws z ~ q(z|x) a datum, shape (K, N), as in
    `log_likelihood`; each draw is decoded once.
    """
    if samples < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"samples={samples}, chunk={chunk}: both must be at least 1.")
    together = DRAWN if x.device.type == "cpu" else DRAWN_THERE
    chunk = _chunk(x) if chunk is None else chunk
    blocks = []
    with evaluating(model, seed), progress("scoring", samples * len(x)) as advance:
        prior = model.prior()
        for block in _Pieces(_data(x), max(1, together // samples)):
            q = model.recognition(block)
            if isinstance(q, Dirac):
                raise ValueError(
                    "q(z|x) is a point mass, so importance weights do not exist; score samples by"
                    " parzen()."
                )
            log_w = []
            for done in range(0, samples, together):
                k = min(together, samples - done)
                log_w.append(_log_w(model, prior, q, block, k, chunk))
                advance(k * len(block))
            blocks.append(torch.cat(log_w))
    return torch.cat(blocks, dim=1)


def parzen(
    samples: Tensor,
    x: Tensor,
    validation: Tensor,
    bandwidths: Sequence[float] | None = None,
    *,
    chunk: int = 256,
) -> Estimate:
    """Mean log-density of x under Gaussian kernels on a model's samples, the bandwidth chosen on
    validation data.

        log p̂(x) = log 1/n Σ_i N(x; s_i, h² I)

    The score of Goodfellow et al. (2014) and of the f-GAN paper. It asks only for samples, so it
    fits models without a density, but in many dimensions it ranks models badly (Theis et al.,
    2016): do not mix it with other methods.

    Args:
        samples: what the model generates, (n, *event).
        x: test data, (N, *event).
        validation: data on which the bandwidth h is chosen, (M, *event).
        bandwidths: candidates for h, in units of x; by default ten from 0.1 to 1, evenly in the
            logarithm.
        chunk: data scored at once; memory holds chunk × n distances.
    """
    candidates = (
        sorted(bandwidths) if bandwidths is not None else torch.logspace(-1, 0, 10).tolist()
    )
    if not candidates or candidates[0] <= 0:
        raise ValueError(f"bandwidths={candidates}: expected at least one number, all positive.")
    s = _data(samples).flatten(1)
    scores = _parzen(s, _data(validation).flatten(1), candidates, chunk).mean(1)
    h = candidates[int(scores.argmax())]
    method = f"Parzen, {len(s)} samples, bandwidth {h:.3g} chosen on {len(validation)} data"
    return Estimate.over(_parzen(s, _data(x).flatten(1), [h], chunk)[0], method)


@contextmanager
def evaluating(model: Module, seed: int) -> Iterator[None]:
    """No gradients, evaluation mode, random numbers from `seed`; training mode and random state
    come back afterwards.
    """
    training = model.training
    devices = {p.device for p in model.parameters()}
    model.eval()
    try:
        with seeded(seed, *devices), torch.no_grad():
            yield
    finally:
        model.train(training)


def _log_w(
    model: Any, prior: Distribution, q: Distribution, x: Tensor, k: int, chunk: int
) -> Tensor:
    z: Any = q.sample(torch.Size((k,)))
    return prior.log_prob(z) + _decoded(model, z, x, k, chunk) - q.log_prob(z)


def _decoded(model: Any, z: Any, x: Tensor, k: int, chunk: int) -> Tensor:
    """log p(x|z) of k draws a datum, (k, B), of which `chunk` pairs are decoded at once."""
    if k * len(x) <= chunk:
        return _log_prob(model.likelihood(z), x)
    rows = min(len(x), chunk)
    columns = []
    for start in range(0, len(x), rows):
        column = slice(start, start + rows)
        draws = [slice(s, s + chunk // rows) for s in range(0, k, chunk // rows)]
        columns.append(
            torch.cat(
                [_log_prob(model.likelihood(_part(z, some, column)), x[column]) for some in draws]
            )
        )
    return torch.cat(columns, dim=1)


def _part(z: Any, draws: slice, rows: slice) -> Any:
    """Some draws of some data, of one layer of latents or of several."""
    return z[draws, rows] if isinstance(z, Tensor) else tuple(one[draws, rows] for one in z)


def _chunk(x: Tensor) -> int:
    """Pairs that are decoded at once: on a CPU as many as its caches hold, else what an eighth of
    the memory has room for, with features sixty-four times as wide as x on the way to it.
    """
    size = max(1, x[0].numel()) if len(x) else 1
    if x.device.type != "cuda":
        cores = torch.get_num_threads() if x.device.type == "cpu" else 1
        return min(DRAWN, max(16, cores * CACHED // size))
    memory = torch.cuda.get_device_properties(x.device).total_memory
    return min(DRAWN_THERE, max(1024, memory // 8 // (64 * size * x.element_size())))


def _log_prob(p: Distribution, x: Tensor) -> Tensor:
    """log p(x|z) of shape (S, B), for Bernoulli pixels as x·ℓ − Σ softplus(ℓ): one product and one
    pass over the logits.
    """
    if isinstance(p, Dirac):
        raise ValueError(
            "p(x|z) is a point mass, so x has no likelihood; score samples by parzen()."
        )
    pixels = p.base_dist if isinstance(p, Independent) else p
    support: Any = pixels.support
    if not support.check(x).all():
        raise ValueError(
            f"x holds values outside the support of p(x|z), {support} of {type(pixels).__name__}:"
            " binarise the data (data.binarise=fixed or dynamic) or choose another head, such as"
            " model=dense_gaussian for real values."
        )
    if type(pixels) is not Bernoulli:
        return p.log_prob(x)
    logits = pixels.logits.flatten(2)
    return torch.einsum("sbd,bd->sb", logits, x.flatten(1)) - softplus(logits).sum(-1)


def _parzen(s: Tensor, x: Tensor, bandwidths: Sequence[float], chunk: int) -> Tensor:
    """log p̂(x) for every bandwidth, (H, N)."""
    n, d = s.shape
    rows = []
    for block in x.split(chunk):
        squares = torch.cdist(
            block,
            s,
            compute_mode=(
                "donot_use_mm_for_euclid_dist" if d < 8 else "use_mm_for_euclid_dist_if_necessary"
            ),
        ).square()
        rows.append(
            torch.stack(
                [
                    (squares / (-2 * h * h)).logsumexp(1)
                    - math.log(n)
                    - d * math.log(h * math.sqrt(2 * math.pi))
                    for h in bandwidths
                ]
            )
        )
    return torch.cat(rows, dim=1)


def _blocks(model: Any, x: Tensor, size: int) -> Sequence[Tensor]:
    """x in blocks that cut no datum: whole where one may have several rows."""
    if getattr(model, "datum", "row") != "row":
        return [_data(x)[:]]
    return _Pieces(_data(x), size)


class _Pieces(Sequence[Tensor]):
    """x piece by piece, each read when its turn comes where x stays in a file."""

    def __init__(self, x: Tensor, size: int):
        self.x, self.size = x, size

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def __getitem__(self, i: Any) -> Tensor:
        if i >= len(self):
            raise IndexError(i)
        return self.x[i * self.size : (i + 1) * self.size]


def _data(x: Tensor) -> Tensor:
    if len(x) == 0:
        raise ValueError("there is no data to evaluate: expected at least one datum.")
    return x
