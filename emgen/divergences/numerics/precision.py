"""Distributions in double precision: the same parameters, so that log densities and closed forms
keep their digits.

torch's Gamma, Chi2, InverseGamma, HalfCauchy, ... convert x to the precision of their parameters.
In single precision the nodes of a quadrature, which reach from e^−300 to e^100, become 0 or ∞
there, and 0 · ∞ follows.
"""

from __future__ import annotations

__all__ = ["dtype_of", "in_double"]

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform
from torch.distributions.utils import lazy_property


def in_double(distribution: Distribution) -> Distribution:
    """The distribution with float64 parameters, through which gradients reach the given ones.

    Classes of a user's own are left as they are: what they do with another precision is theirs to
    know. Nothing is changed on a device without float64.
    """
    return _doubled(distribution, {})


def dtype_of(*distributions: Distribution) -> torch.dtype:
    """The precision that the parameters of all of them promote to; torch's default where there are
    none.
    """
    found = [dtype for one in distributions for dtype in _dtypes(one)]
    if not found:
        return torch.get_default_dtype()
    dtype = found[0]
    for other in found[1:]:
        dtype = torch.promote_types(dtype, other)
    return dtype


def _doubled(value: Any, seen: dict[int, Any]) -> Any:
    """A tensor, distribution, transform, or a sequence of them, in float64; one that stands in two
    places stays one.
    """
    if id(value) in seen:
        return seen[id(value)][1]
    if isinstance(value, Tensor):
        narrow = value.is_floating_point() and value.device.type != "mps"
        made = value.double() if narrow else value
    elif isinstance(value, (Distribution, Transform)) and type(value).__module__.startswith(
        ("torch.", "emgen.")
    ):
        made = copy.copy(value)
        seen[id(value)] = (value, made)  # a transform and its inverse hold each other
        for name, part in vars(value).items():
            if not _is_derived(value, name):
                made.__dict__[name] = _doubled(part, seen)
            else:
                del made.__dict__[name]
    elif isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        made = type(value)(_doubled(one, seen) for one in value)
    else:
        made = value
    seen[id(value)] = (value, made)  # holding the value keeps its id from being given to another
    return made


def _is_derived(distribution: Any, name: str) -> bool:
    """Whether an attribute was computed, in the given precision, from the one that the distribution
    was made of.
    """
    given = vars(distribution).get("_param")
    lazy = isinstance(getattr(type(distribution), name, None), lazy_property)
    return given is not None and lazy and vars(distribution)[name] is not given


def _dtypes(value: Any) -> list[torch.dtype]:
    if isinstance(value, Tensor):
        return [value.dtype] if value.is_floating_point() else []
    if isinstance(value, Distribution):
        return [dtype for part in vars(value).values() for dtype in _dtypes(part)]
    return []
