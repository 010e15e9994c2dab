"""Whether rows can come from a model at all, asked before any time is spent on them."""

__all__ = ["check_support"]

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Multinomial, OneHotCategorical, constraints

from emgen.evaluation.likelihood import evaluating
from emgen.families.base import pieces
from emgen.families.exponential import ExponentialFamily
from emgen.models.energy import units
from emgen.roles import Conjugate, Latent, serves


def check_support(
    model: Any,
    x: Tensor,
    name: str = "the data",
    scored: bool = False,
    beside_means: bool = False,
) -> None:
    """Refuse values that the model gives no probability, and those that are not finite.

    NaN is a missing value to a conjugate model. A value in [0, 1] stands for the expectation of a
    binary one, as long as nobody asks for its likelihood; so do fractions of a count. Every group
    of multinomial units has their total. A model that is neither conjugate nor latent nor of such
    units is asked for nothing more.

    Args:
        model: any model.
        x: what its likelihood will see, (N, *event).
        name: what the message calls the rows.
        scored: whether the likelihood will be reported of them.
        beside_means: whether a critic will tell them from means of p(x|z), which fill the convex
            closure of its support: all of [0, 1] for a Bernoulli, all of [0, ∞) for a Poisson.
            Nothing may be missing then.

    Raises:
        ValueError: names the first value outside, its row, what is expected and what to do.

    >>> from emgen.models import BernoulliMixture
    >>> check_support(BernoulliMixture(2), torch.tensor([[0.0, 1.0], [2.5, 1.0]]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: row 1 of the data holds 2.5, but Bernoulli takes values from 0 to 1 alone: rescale...
    """
    conjugate = serves(model, Conjugate) and not beside_means
    support, kind, shape, total = _support(model, scored)
    support = _closure(support) if beside_means else support
    real = support in (None, constraints.boolean, constraints.unit_interval)
    if shape is not None and (shape != x.shape[1:] or (real and not x.is_floating_point())):
        raise ValueError(
            f"the rows of {name} are {x.dtype} of shape {tuple(x.shape[1:])}, but the model is"
            f" built for floats of shape {tuple(shape)}: give it another event_shape, or reshape"
            " the rows and convert them by x.float()."
        )
    for rows in pieces(len(x), x[:1].numel()):
        block, start = x[rows], rows.start
        if block.is_floating_point():
            missing = ", or mark what is missing by NaN" if conjugate else ""
            bad = block.isinf() if conjugate else ~block.isfinite()
            _refuse(
                bad,
                block,
                start,
                name,
                f"a model needs finite values: leave such rows out{missing}",
            )
        if support is not None:
            bad = ~support.check(block)
            _refuse(
                bad & ~block.isnan() if conjugate and bad.shape == block.shape else bad,
                block,
                start,
                name,
                f"{kind} takes {_words(support)}: {_advice(support)}",
            )
        if total is not None:
            _refuse(
                (block < 0) | ((block != block.round()) & scored),
                block,
                start,
                name,
                "multinomial units take counts, whole numbers "
                "from 0 on: give one-hot vectors, or counts of one total",
            )
            sums = block.sum(-1)
            _refuse(
                (sums - total).abs() > 1e-3,
                sums,
                start,
                name,
                f"multinomial units have {total} as the total of a group: set their "
                "count to the total that every group has, or give one-hot vectors",
            )


def _support(model: Any, scored: bool) -> tuple[Any, str, torch.Size | None, int | None]:
    """The constraint on single values (None where they are real), the name of the distribution that
    makes it, the shape of an event of a model of networks or units, and the counts in a group of
    multinomial units."""
    shape = None
    family = getattr(model, "components", getattr(model, "emission", None))
    if serves(model, Conjugate):
        if not isinstance(family, ExponentialFamily):
            return None, "", None, None
        p = family.likelihood()
    elif serves(model, Latent):
        with evaluating(model, 0):
            p = model.likelihood(model.prior().sample((1,)))
        shape = p.event_shape
    else:
        visible, value = (
            getattr(model, "units", None),
            constraints.boolean if scored else constraints.unit_interval,
        )
        return (
            value if isinstance(visible, units.Binary) else None,
            "a binary unit",
            getattr(model, "event_shape", None),
            visible.count if isinstance(visible, units.Multinomial) else None,
        )
    p = p.base_dist if isinstance(p, Independent) else p
    support: Any = p.support
    if support is constraints.boolean and not scored:
        support = constraints.unit_interval
    if isinstance(getattr(support, "upper_bound", None), Tensor):  # one bound for all components
        support = constraints.integer_interval(0, int(support.upper_bound.max()))
    counts = isinstance(p, (Multinomial, OneHotCategorical)) and shape is not None
    total = getattr(p, "total_count", 1) if counts else None
    return (
        (None if support is constraints.real or support.event_dim else support),
        type(p).__name__,
        shape,
        total,
    )


def _closure(support: Any) -> Any:
    """The convex closure of a constraint on single values: where the means of its distributions
    lie.
    """
    if support is constraints.boolean:
        return constraints.unit_interval
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None or support is constraints.unit_interval:
        return support
    return constraints.greater_than_eq(low) if high is None else constraints.interval(low, high)


def _refuse(bad: Tensor, x: Tensor, start: int, name: str, reason: str) -> None:
    if bool(bad.any()):
        at = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"row {start + at[0]} of {name} holds {x[at].item():g}, but {reason}.")


def _words(support: Any) -> str:
    if support is constraints.boolean:
        return "0 and 1 alone"
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None:
        return str(support)
    whole = "whole numbers" if support.is_discrete else "values"
    return f"{whole} from {low:g}{' on' if high is None else f' to {high:g}'} alone"


def _advice(support: Any) -> str:
    if support is constraints.boolean:
        return (
            "binarise them (data.binarise=dynamic or fixed; in Python Data(x, binarise='dynamic')),"
            " or use one for real values"
        )
    if support is constraints.unit_interval:
        return "rescale or binarise them, or use a model of real values, such as a Gaussian one"
    return "check how the data are coded, or use another family"
