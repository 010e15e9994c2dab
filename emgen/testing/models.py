"""Laws of a model: the contract of every role it serves."""

__all__ = ["check_model"]

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from emgen.estimators.beliefs import Draw, Point
from emgen.roles import Conjugate, Energy, Generator, Latent, Recognition, serves

Law = Callable[[str, "Tensor | bool"], None]


def check_model(model: Any, x: Any, *, seed: int = 0) -> None:
    """Check the roles that a model serves, on a few rows of data.

    Args:
        model: an `nn.Module`; it is left as it was.
        x: data, (N, *event) with N ≥ 4, or the tuple of columns that a conjugate model takes.
        seed: of every draw; the global random state is left as it was.

    Raises:
        AssertionError: naming the model and the law.

    >>> from emgen.models import dense
    >>> check_model(dense((1, 8, 8), latent=2, hidden=(8,)), torch.rand(4, 1, 8, 8).round())
    """
    name, model = type(model).__name__, deepcopy(model)

    def law(text: str, holds: Tensor | bool) -> None:
        assert bool(torch.as_tensor(holds).all()), f"{name} breaks the law: {text}"

    roles = {
        Latent: _latent_laws,
        Generator: _generator_laws,
        Conjugate: _conjugate_laws,
        Energy: _energy_laws,
    }
    served = [role for role in roles if serves(model, role)]
    law(f"it serves one of the roles {', '.join(role.__name__ for role in roles)}", bool(served))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for role in served:
            roles[role](model, x, law)
    law(
        "state_dict holds all that can be loaded again",
        not any(model.load_state_dict(deepcopy(model.state_dict()))),
    )


def _latent_laws(model: Any, x: Tensor, law: Law) -> None:
    n, prior = len(x), model.prior()
    z = prior.sample((3, n))
    law("log p(z) has one value for each draw of z", prior.log_prob(z).shape == (3, n))
    likelihood = model.likelihood(z)
    law(
        "p(x|z) speaks of events of the data's shape",
        likelihood.sample().shape == (3, n, *x.shape[1:]),
    )
    log_p = likelihood.log_prob(x)
    law("log p(x|z) has one value for each draw of z and each row", log_p.shape == (3, n))
    law("log p(x|z) is a number", ~log_p.isnan())
    if serves(model, Recognition):
        q = model.recognition(x)
        z = q.sample((3,))
        log_q = q.log_prob(z)
        law("log q(z|x) has one value for each draw and each row", log_q.shape == (3, n))
        law("q(z|x) and p(z) speak of the same z", prior.log_prob(z).shape == (3, n))
        law("p(x|z) takes what q(z|x) draws", model.likelihood(z).log_prob(x).shape == (3, n))
        alone = model.recognition(x[1:2]).log_prob(_row(z, 1))
        law(
            "q(z|x) of a row does not depend on the other rows",
            torch.isclose(alone[:, 0], log_q[:, 1], rtol=1e-4, atol=1e-4),
        )


def _generator_laws(model: Any, x: Tensor, law: Law) -> None:
    samples = model.rsample(5)
    law("rsample(n) has shape (n, *event)", samples.shape == (5, *x.shape[1:]))
    players = [p for p in model.parameters() if p.requires_grad]
    law(
        "rsample reaches a parameter",
        samples.requires_grad
        and any(
            g is not None and bool(g.any())
            for g in torch.autograd.grad(samples.sum(), players, allow_unused=True)
        ),
    )


def _conjugate_laws(model: Any, x: Any, law: Law) -> None:
    if not bool(model.started):
        model.start(x, Point())
    n = len(x[0] if isinstance(x, tuple) else x)
    whole, halves = (
        _statistics(model, x),
        [_statistics(model, _rows(x, part)) for part in (slice(0, n // 2), slice(n // 2, n))],
    )
    law(
        "statistics add over rows",
        _agree(whole, {name: halves[0][name] + halves[1][name] for name in whole}),
    )
    twice = _statistics(model, _rows(x, torch.arange(n).repeat(2)))
    law(
        "a repeated row counts twice",
        _agree(twice, {name: 2 * value for name, value in whole.items()}),
    )
    parts = model.free_energy(whole)
    law(
        "at the posterior there is no gap",
        torch.isclose(parts["gap"], torch.zeros_like(parts["gap"]), atol=1e-5),
    )
    risen = model.free_energy(model.m_step(whole, Point()))
    law(
        "the M-step does not lower F",
        risen["elbo"] >= parts["elbo"] - 1e-5 * (1 + parts["elbo"].abs()),
    )
    drawn = Draw()(model.posterior(x))
    law(
        "statistics take a draw of z as they take q(z|x)",
        set(model.statistics(x, drawn)) == set(whole),
    )


def _energy_laws(model: Any, x: Tensor, law: Law) -> None:
    law(
        "energy has one finite value for each row",
        model.energy(x).shape == (len(x),) and bool(model.energy(x).isfinite().all()),
    )
    moved = model.gibbs(x)
    law("gibbs keeps the shape of its state", moved.shape == x.shape)
    law(
        "gibbs moves a chain of many rows",
        bool((model.gibbs(x.repeat(50, *[1] * (x.dim() - 1))) != x[0]).any()),
    )


def _statistics(model: Any, x: Any) -> dict[str, Tensor]:
    return model.statistics(x, model.posterior(x))


def _rows(x: Any, rows: Any) -> Any:
    return tuple(column[rows] for column in x) if isinstance(x, tuple) else x[rows]


def _row(z: Any, i: int) -> Any:
    return tuple(layer[:, i : i + 1] for layer in z) if isinstance(z, tuple) else z[:, i : i + 1]


def _agree(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(
        torch.allclose(a[name].double(), b[name].double(), rtol=1e-4, atol=1e-4) for name in a
    )
