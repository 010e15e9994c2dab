"""Codes: what a model says about the latents of a datum, as numbers for another program."""

__all__ = ["codes", "inference"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emgen.distributions import Joint
from emgen.models.conjugate.factorial_posteriors import FactorialPosterior
from emgen.roles import Conjugate, Recognition, serves


def inference(model: Any) -> Callable[[Any], Any]:
    """x → q(z|x): the encoder that a model carries, or its posterior in closed form.

    Raises:
        TypeError: it has neither.
    """
    if serves(model, Recognition):
        return model.recognition
    if serves(model, Conjugate) or hasattr(model, "posterior"):
        return model.posterior
    raise TypeError(
        f"{type(model).__name__} has neither an encoder (`recognition`) nor a posterior in closed"
        " form, so nothing infers z from x: give the model a recognition network."
    )


@torch.no_grad()
def codes(model: Any, x: Any) -> Any:
    """E[z|x] of each datum, under what the model infers by.

    | model                         | codes                                            |
    |-------------------------------|--------------------------------------------------|
    | with an encoder               | mean of q(z\\|x), a tuple of them for layers      |
    | with an encoder into classes  | probabilities of the classes                     |
    | mixture                       | responsibilities, (N, K)                         |
    | hidden Markov model           | states' probabilities, (N, T, K), NaN for padding |
    | factor analysis               | mean of the factors, (N, L)                      |
    | topic model                   | shares of the topics, (documents, K)             |
    | Boltzmann machine             | means of the hidden units, (N, J)                |

    Args:
        model: trained.
        x: data, (N, *event).

    Raises:
        TypeError: nothing of the model infers z from x.
    """
    if hasattr(model, "hidden_mean") and not serves(model, Recognition):
        return model.hidden_mean(x)
    return _mean(inference(model)(x))


def _mean(q: Any) -> Any:
    """The first moment of a belief, whichever of its forms it has."""
    if isinstance(q, Joint):  # each layer's mean given the means that it was drawn from
        return q.draw(lambda layer, _: _mean(layer))
    if isinstance(q, FactorialPosterior):
        return _mean(q.exact)
    if hasattr(q, "by_document"):
        counts: Tensor = q.by_document()
        return counts / counts.sum(-1, keepdim=True)
    if hasattr(q, "marginals"):
        return q.packing.unpack(q.marginals, torch.nan) if hasattr(q, "packing") else q.marginals
    if hasattr(q, "probs"):
        return q.probs
    try:
        return q.mean
    except (NotImplementedError, AttributeError) as error:
        raise TypeError(
            f"{type(q).__name__} states no mean, so there is no one code for x: draw from"
            " trainer(x).sample() instead."
        ) from error
