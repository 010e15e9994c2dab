"""Models small enough that every expectation is a finite sum, and a distribution whose next draw is told beforehand.

A law about an expected value is then an equality: the objective under test is run once for each state, unchanged, and its
values are summed with the states' probabilities.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from beartype import BeartypeConf, beartype
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MultivariateNormal, Normal

checked = beartype(
    conf=BeartypeConf(is_pep484_tower=True)
)  # the run-time check of annotations, where 1 is also a float


class Scripted(Distribution):
    """A distribution that returns `draw` where another would draw; its density is that of `true`."""

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(self, true: Distribution, draw: Any):
        super().__init__(true.batch_shape, true.event_shape, validate_args=False)
        self.true, self.draw = true, draw

    def sample(self, shape: Sequence[int] = ()) -> Any:
        return self.draw

    rsample = sample

    def log_prob(self, value: Any) -> Tensor:
        return self.true.log_prob(value)


class Tables(nn.Module):
    """p(z) p(x|z) and q(z|x) as unconstrained tables, z in 0 … Z−1 and x in 0 … X−1; everything is exact."""

    def __init__(self, z: int = 3, x: int = 4, seed: int = 0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.log_prior = nn.Parameter(torch.randn(z, generator=rng, dtype=torch.float64))
        self.log_table = nn.Parameter(torch.randn(z, x, generator=rng, dtype=torch.float64))
        self.recognition = Rows(torch.randn(x, z, generator=rng, dtype=torch.float64))
        self.states = torch.arange(z)

    def prior(self) -> Distribution:
        return Categorical(logits=self.log_prior)

    def likelihood(self, z: Tensor) -> Distribution:
        return Categorical(logits=self.log_table[z])

    def log_joint(self) -> Tensor:
        """log p(x, z), (Z, X)."""
        return self.log_prior.log_softmax(0)[:, None] + self.log_table.log_softmax(1)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_joint().logsumexp(0)[x]

    def log_posterior(self) -> Tensor:
        """log p(z|x), (Z, X)."""
        return self.log_joint().log_softmax(0)

    def log_q(self) -> Tensor:
        """log q(z|x), (Z, X)."""
        return self.recognition.table.log_softmax(1).T

    def theta(self) -> list[Tensor]:
        return [self.log_prior, self.log_table]

    def phi(self) -> list[Tensor]:
        return [self.recognition.table]


class Rows(nn.Module):
    """q(z|x) from a table with a row for each x."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Distribution:
        return Categorical(logits=self.table[x])


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x = A z + b + σ ε: the one deep latent model whose evidence and posterior have closed forms."""

    def __init__(self, latent: int = 1, features: int = 3, seed: int = 0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.A = nn.Parameter(torch.randn(features, latent, generator=rng, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(features, generator=rng, dtype=torch.float64))
        self.log_sigma = nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))
        self.recognition = LinearEncoder(latent, features, rng)

    def prior(self) -> Distribution:
        zero = self.b.new_zeros(self.A.shape[1])
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def likelihood(self, z: Tensor) -> Distribution:
        mean = z @ self.A.T + self.b
        return Independent(Normal(mean, self.log_sigma.exp().expand_as(mean)), 1)

    def evidence(self) -> Distribution:
        """p(x) = N(b, A Aᵀ + σ² I)."""
        noise = self.log_sigma.mul(2).exp() * torch.eye(len(self.b), dtype=torch.float64)
        return MultivariateNormal(self.b, self.A @ self.A.T + noise)

    def posterior_of(self, x: Tensor) -> Distribution:
        """p(z|x), with covariance (I + AᵀA/σ²)⁻¹."""
        noise = self.log_sigma.mul(2).exp()
        precision = torch.eye(self.A.shape[1], dtype=torch.float64) + self.A.T @ self.A / noise
        mean = torch.linalg.solve(precision, self.A.T @ (x - self.b).T / noise).T
        return MultivariateNormal(mean, precision_matrix=precision)

    def rsample(self, n: int) -> Tensor:
        return self.likelihood(self.prior().rsample((n,))).rsample()


class LinearEncoder(nn.Module):
    def __init__(self, latent: int, features: int, rng: torch.Generator):
        super().__init__()
        self.W = nn.Parameter(torch.randn(latent, features, generator=rng, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.randn(latent, generator=rng, dtype=torch.float64) / 4)

    def forward(self, x: Tensor) -> Distribution:
        mean = x @ self.W.T
        return Independent(Normal(mean, self.log_scale.exp().expand_as(mean)), 1)


def expected(
    run: Callable[[Tensor], Tensor], states: Tensor, probabilities: Tensor, draws: int = 1
) -> Tensor:
    """Σ over all ways to draw `draws` states: Π probability · run(indices)."""
    total = torch.zeros((), dtype=torch.float64)
    for chosen in itertools.product(range(len(states)), repeat=draws):
        total = total + probabilities[list(chosen)].prod() * run(states[list(chosen)])
    return total


def gauss_hermite(nodes: int = 16) -> tuple[Tensor, Tensor]:
    """Nodes and weights with E f(ε) = Σ w f(ε) for a standard normal ε, exact for polynomials below degree 2·nodes."""
    import numpy as np

    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.as_tensor(points), torch.as_tensor(weights / weights.sum())


def gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient as one flat vector; zero where a parameter is not met."""
    parts = torch.autograd.grad(value, list(parameters), allow_unused=True, retain_graph=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(parameters, parts)
        ]
    )
