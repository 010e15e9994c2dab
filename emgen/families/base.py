"""What a conjugate model asks of a family: one class is prior, posterior, point and draw."""

__all__ = [
    "FAR",
    "ROUND",
    "Family",
    "centre_of",
    "complete",
    "masked",
    "observed",
    "overflow",
    "part",
    "per_component",
    "pieces",
    "prefixed",
    "remembered",
    "resolution",
    "round_off",
    "share",
    "spread",
    "total",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import wraps
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from emgen.families.choice import Choice

FAR = 1e-13  # share of a mean's squared move that is left as variance: below it, moments about the old mean are round-off
PIECE = 2**18  # numbers that are looked at together where all rows are gone through
ROUND = 8.0  # eps that a sum over rows is off by, of its largest partial sum: it is added in blocks, then rescaled and mixed


def remembered(method: Callable) -> Callable:
    """Remember what a method of a family computed until one of its buffers, or its regulariser,
    changes.
    """

    @wraps(method)
    def recall(self):
        memory = self.__dict__.setdefault("_memory", {})
        buffers = [b for b in self._buffers.values() if b is not None]
        key = [(b, None if b.is_inference() else b._version) for b in buffers]
        key.append((self.reg_covar, None))
        known = memory.get(method.__name__)
        if known is None or any(
            (a is not b if isinstance(a, Tensor) else a != b) or v != w
            for (a, v), (b, w) in zip(known[0], key, strict=True)
        ):
            memory[method.__name__] = known = key, method(self)
        return known[1]

    return recall


class Family(nn.Module, ABC):
    """A belief about the parameters of K members of a family: what a conjugate model asks of it.

    One class is prior, posterior, point and draw. Its buffers hold a centre and a concentration
    that counts data:

        c = ∞  a point or a draw        0 < c < ∞  a distribution        c = 0  the flat prior

    and a *fixed* parameter is nothing but a prior with c = ∞.
    """

    reg_covar: float = 0.0  # ε, which Gaussian families add to their variances and to the objective

    @abstractmethod
    def expected_log_prob(self, x: Tensor) -> Tensor:
        """E_θ log p(x|θ_k), (N, K), with all constants."""

    @abstractmethod
    def statistics(self, x: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Sufficient statistics of the rows with weights r (N, K): named sums over rows, which add."""

    def chosen(self, x: Tensor, choice: Choice) -> dict[str, Tensor]:
        """The statistics of rows that belong to one member each; a family that gains by the zeros
        says how.
        """
        return self.statistics(x, choice.dense())

    @abstractmethod
    def expected_fit(self, s: dict[str, Tensor]) -> Tensor:
        """Σ_i r_ik E_θ log p(x_i|θ_k), one value a component, linear in the statistics that this
        belief took.
        """

    def doubt(self, s: dict[str, Tensor]) -> Tensor:
        """How far round-off may move `expected_fit`, one value a component; a family whose terms
        cancel says so.
        """
        return next(iter(s.values())).new_zeros(())

    @abstractmethod
    def update(self, s: dict[str, Tensor], about: Any = None) -> Self:
        """The conjugate posterior of this prior, given statistics that the belief `about` took
        (default: this one).

        A component with neither data nor a prior stays where `about` has it.
        """

    @abstractmethod
    def mode(self) -> Self:
        """The most probable parameters, as a point."""

    @abstractmethod
    def sample(self) -> Self:
        """One draw of the parameters, as a point."""

    def ascend(self, posterior: Any, steps: int, lr: float) -> Self:
        """The point reached from this one by natural-gradient steps on log posterior(θ)."""
        raise TypeError(
            f"{type(self).__name__} has no gradient M-step; use parameters=Point(), its closed form"
        )

    @abstractmethod
    def kl(self, prior: Any) -> Tensor:
        """KL(q(θ_k) ‖ p(θ_k)), one value a component; of a point −log p(θ_k); a flat prior counts
        as p = 1.
        """

    @abstractmethod
    def likelihood(self) -> Distribution:
        """p(x|θ_k) at the centre, batch K, event D."""

    @property
    @abstractmethod
    def is_flat(self) -> bool:
        """Whether some parameter has no prior, so that the belief cannot be drawn from."""

    @property
    def holds_one_row(self) -> bool:
        """Whether a component with a single row has a finite optimum."""
        return True

    @abstractmethod
    def weak(self, x: Tensor, weight: Tensor | None = None) -> Self:
        """This prior with its flat parts replaced by a proper one, worth one datum and centred on
        the (weighted) rows.
        """

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|θ_k) at the centre, (N, K)."""
        point = self.mode()
        point.reg_covar = 0.0  # a regulariser belongs to the objective, not to the density
        return point.expected_log_prob(x)

    def given(self, **values: Any) -> Self:
        """The same belief with some buffers given, each broadcast to its shape.

        Raises:
            ValueError: a name that is no buffer of this family, a shape that does not fit, a
                negative count or variance.
        """
        for name, value in values.items():
            if name not in self._buffers:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}; it has"
                    f" {', '.join(self._buffers)}"
                )
            old: Tensor = getattr(self, name)
            value = torch.as_tensor(value, dtype=old.dtype, device=old.device)
            try:
                values[name] = value.broadcast_to(old.shape).clone()
            except RuntimeError:
                raise ValueError(
                    f"{name} of shape {tuple(value.shape)} does not fit {tuple(old.shape)}"
                ) from None
            if name in ("kappa", "nu", "concentration") and not bool((value >= 0).all()):
                raise ValueError(
                    f"{name} counts the data that a belief is worth: 0 (flat) or more, not"
                    f" {value.min():g}"
                )
            if name == "variance" and not bool((value >= 0).all()):
                raise ValueError(
                    f"a variance is 0 or more, in squared units of the data, not {value.min():g}"
                )
        return self.replace(**values)

    def distance(self, x: Tensor, seeds: Tensor) -> Tensor:
        """How far rows (N, D) lie from seeds (R, D), (N, R), for a start: squared Euclidean
        distance.
        """
        return torch.cdist(x, seeds, compute_mode="donot_use_mm_for_euclid_dist").square()

    def rebase(self, s: dict[str, Tensor], about: Any) -> dict[str, Tensor]:
        """The statistics taken by `about` as this belief would have taken them; only centred
        moments change.
        """
        return s

    def replace(self, **buffers: Tensor) -> Self:
        """The same family with other buffers."""
        new = copy(self)
        vars(new)["_buffers"] = {**self._buffers, **buffers}
        vars(new).pop("_memory", None)
        return new


def pieces(rows: int, width: int) -> Iterator[slice]:
    """Slices of so many rows that a table of them, `width` numbers wide, stays small: rows may be
    a file that is larger than memory.

    >>> list(pieces(3, PIECE // 2))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    step = max(1, PIECE // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def total(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The statistics of pieces added up."""
    parts = iter(parts)
    # added in place: a small tensor anew for each piece would lie in the heap between the pieces,
    # whose memory glibc could then not use again
    added = {name: value.clone() for name, value in next(parts).items()}
    for one in parts:
        for name, value in one.items():
            added[name] += value
    return added


def observed(x: Tensor, features: int) -> tuple[Tensor, Tensor | None]:
    """Rows with features flattened, missing ones (NaN) at zero, and the mask of what was seen, None
    if all was.
    """
    x = x.reshape(len(x), -1)
    if x.shape[1] != features:
        raise ValueError(
            f"rows have {x.shape[1]} features and the model {features}: give"
            f" event_shape={x.shape[1]}"
        )
    if not x.is_floating_point() or math.isfinite(
        x.detach().sum()
    ):  # one pass finds that nothing is missing
        return x, None
    seen = ~x.isnan()
    return (x, None) if seen.all() else (x.masked_fill(~seen, 0.0), seen)


def complete(x: Tensor, features: int) -> Tensor:
    """Rows with features flattened, none of them missing."""
    x, seen = observed(x, features)
    if seen is not None:
        raise ValueError(
            f"{int((~seen).sum())} values are NaN: full covariances need complete rows; use"
            " covariance='diagonal' or 'spherical', which leave missing values out exactly"
        )
    return x if x.is_floating_point() else x.double()


def overflow() -> ValueError:
    """The refusal of numbers whose squares are none."""
    return ValueError(
        "a variance is not finite: squares of the largest values, or of distances of rows, exceed"
        " the range of numbers; rescale the data, or leave the outliers out"
    )


def spread(x: Tensor, weight: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Means and variances (D,) of the features of weighted rows, over what was seen, in `dtype`."""

    width = x[:1].numel()

    def summed(value: Callable[[Tensor], Tensor]) -> Tensor:
        """Σ_i w_i f(x_i), piece by piece, over what was seen."""
        sums = torch.zeros(width, dtype=dtype, device=x.device)
        for rows in pieces(len(x), width):
            piece = x[rows].reshape(-1, width).to(dtype)
            seen = ~piece.isnan()
            share = seen if weight is None else seen * weight[rows, None]
            sums += (value(piece).masked_fill(~seen, 0.0) * share.to(dtype)).sum(0)
        return sums

    count = summed(torch.ones_like)
    if not bool((count > 0).all()):
        raise ValueError(
            f"feature {int(count.argmin())} has no value in any row that counts: leave it out, or"
            " give every part a prior"
        )
    mean = torch.zeros_like(count)
    for _ in range(
        2
    ):  # the second time takes away round-off, of which a constant column would get a variance
        mean = mean + summed(lambda piece: piece - mean) / count  # noqa: B023
    variance = summed(lambda piece: (piece - mean).square()) / count
    return mean, torch.where(variance > resolution(mean), variance, 0.0)


def round_off(bound: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """How far the round-off of its terms may move a free energy per datum, of rows in `dtype`
    (default: the bound's own).

    Its terms are means over rows of quadratic forms and logarithms, larger than F itself where they
    cancel, and the sums of them are off by up to N eps. A quarter of the digits is left for both:
    64 eps^¾ is 1e-10 in double precision, 4e-4 in single.
    """
    return 64 * torch.finfo(dtype or bound.dtype).eps ** 0.75 * bound.abs().clamp(min=1.0)


def resolution(mean: Tensor) -> Tensor:
    """The variance that identical rows at `mean` may seem to have.

    A mean of equal numbers is off by some units in the last place, which `spread` and moments about
    it square. A variance
    that is no larger says nothing: with other instructions it would be 0.
    """
    return (ROUND * torch.finfo(mean.dtype).eps * mean).square()


def centre_of(mean: Tensor) -> Tensor:
    """A point amid the means (K, D) that single precision holds exactly, so that x − centre rounds
    nothing.
    """
    return mean.mean(0).float().to(mean.dtype)


def masked(values: Tensor, seen: Tensor) -> Tensor:
    """Values of missing features at zero."""
    return torch.where(seen[(...,) + (None,) * (values.ndim - seen.ndim)], values, 0.0)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where there is no mass; of c = ∞ every finite part is 0, so what is fixed
    stays.
    """
    tiny = torch.finfo(whole.dtype).tiny
    return torch.where(whole > tiny, part / whole.clamp(min=tiny), 0.0)


def per_component(values: Tensor) -> Tensor:
    """Sum over everything but the components."""
    return values.flatten(1).sum(1) if values.ndim > 1 else values


def prefixed(name: str, s: dict[str, Tensor]) -> dict[str, Tensor]:
    """Statistics of one part under flat keys, `name.key`."""
    return {f"{name}.{key}": value for key, value in s.items()}


def part(s: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The statistics of one part again."""
    return {key[len(name) + 1 :]: value for key, value in s.items() if key.startswith(f"{name}.")}
