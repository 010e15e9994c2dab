"""Discrete exponential families: Bernoulli, binomial, Poisson, categorical, and stick-breaking
weights.
"""

__all__ = ["Bernoulli", "Binomial", "Categorical", "Poisson", "StickBreaking"]

from typing import Self

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, Independent

from emgen.families.base import Family, masked, observed, remembered
from emgen.families.exponential import ExponentialFamily


class Bernoulli(ExponentialFamily):
    """K rows of D independent binary features, p(x|p) = pˣ(1−p)¹⁻ˣ, with belief p ~ Beta(c m, c (1
    − m)).

    >>> Bernoulli(torch.tensor([[0.25]])).expected_log_prob(torch.tensor([[1.0]])).exp()
    tensor([[0.2500]])
    """

    @classmethod
    def flat(
        cls, components: int, features: int, dtype: torch.dtype = torch.float64
    ) -> "Bernoulli":
        """The flat prior over K × D success rates."""
        return cls(torch.full((components, features), 0.5, dtype=dtype), 0.0)

    def sufficient(self, x: Tensor) -> Tensor:
        return x

    def log_base(self, x: Tensor) -> Tensor:
        return _within(torch.zeros_like(x, dtype=self.mean.dtype), x, 1)

    def natural(self, mean: Tensor) -> Tensor:
        return safe_log(mean) - safe_log(1 - mean)

    def log_partition(self, natural: Tensor) -> Tensor:
        return torch.nn.functional.softplus(natural, threshold=50.0)

    def log_normaliser(self, total: Tensor, concentration: Tensor) -> Tensor:
        return total.lgamma() + (concentration - total).lgamma() - concentration.lgamma()

    def draw(self, total: Tensor, concentration: Tensor) -> Tensor:
        return distributions.Beta(total, concentration - total).sample()

    def likelihood(self) -> Distribution:
        return Independent(distributions.Bernoulli(probs=self.mean), 1)


class Binomial(ExponentialFamily):
    """K rows of D independent counts out of n trials, p(x|p) = C(n, x) pˣ(1−p)ⁿ⁻ˣ, p ~ Beta(c m, c
    (n − m)), m = np.

    Args:
        mean: (K, D) mean counts n p.
        concentration: (K, D), in data of n trials each.
        trials: n.

    >>> Binomial(torch.tensor([[6.0]]), trials=10).expected_log_prob(torch.tensor([[6.0]])).exp()
    tensor([[0.2508]])
    """

    def __init__(self, mean: Tensor, concentration: Tensor | float = torch.inf, trials: int = 1):
        super().__init__(mean, concentration)
        if trials < 1:
            raise ValueError(f"trials={trials}: a binomial count needs one trial or more")
        self.trials = trials

    @classmethod
    def flat(
        cls, components: int, features: int, trials: int = 1, dtype: torch.dtype = torch.float64
    ) -> "Binomial":
        """The flat prior over K × D mean counts."""
        return cls(torch.full((components, features), trials / 2, dtype=dtype), 0.0, trials)

    def sufficient(self, x: Tensor) -> Tensor:
        return x

    def log_base(self, x: Tensor) -> Tensor:
        x = x.to(self.mean.dtype)
        ways = (
            torch.lgamma(x.new_tensor(self.trials + 1.0))
            - (x + 1).lgamma()
            - (self.trials - x + 1).lgamma()
        )
        return _within(ways, x, self.trials)

    def natural(self, mean: Tensor) -> Tensor:
        return safe_log(mean) - safe_log(self.trials - mean)

    def log_partition(self, natural: Tensor) -> Tensor:
        return self.trials * torch.nn.functional.softplus(natural, threshold=50.0)

    def log_normaliser(self, total: Tensor, concentration: Tensor) -> Tensor:
        trials = self.trials * concentration
        return total.lgamma() + (trials - total).lgamma() - trials.lgamma()

    def draw(self, total: Tensor, concentration: Tensor) -> Tensor:
        return self.trials * distributions.Beta(total, self.trials * concentration - total).sample()

    def likelihood(self) -> Distribution:
        return Independent(distributions.Binomial(self.trials, probs=self.mean / self.trials), 1)


class Poisson(ExponentialFamily):
    """K rows of D independent counts, p(x|λ) = e^{−λ} λˣ / x!, with belief λ ~ Gamma(shape c m,
    rate c).

    >>> Poisson(torch.tensor([[2.0]])).expected_log_prob(torch.tensor([[0.0]]))
    tensor([[-2.]])
    """

    @classmethod
    def flat(cls, components: int, features: int, dtype: torch.dtype = torch.float64) -> "Poisson":
        """The flat prior over K × D rates."""
        return cls(torch.ones((components, features), dtype=dtype), 0.0)

    def sufficient(self, x: Tensor) -> Tensor:
        return x

    def log_base(self, x: Tensor) -> Tensor:
        return _within(-(x.to(self.mean.dtype) + 1).lgamma(), x)

    def natural(self, mean: Tensor) -> Tensor:
        return safe_log(mean)

    def log_partition(self, natural: Tensor) -> Tensor:
        return natural.exp()

    def log_normaliser(self, total: Tensor, concentration: Tensor) -> Tensor:
        return total.lgamma() - total * concentration.log()

    def draw(self, total: Tensor, concentration: Tensor) -> Tensor:
        return distributions.Gamma(total, concentration).sample()

    def likelihood(self) -> Distribution:
        return Independent(distributions.Poisson(self.mean), 1)


class Categorical(ExponentialFamily):
    """Rows of probabilities over V symbols with belief Dirichlet(c m); also mixture weights and
    transition matrices.

    Args:
        mean: (..., V) probabilities: (K, D, V) for D features of symbols 0 … V−1, (K,) for the
            weights of a mixture, (K, K) for transitions. A probability of 0 stays 0 where the prior
            has it so.
        concentration: (...), Σ of the Dirichlet's parameters.

    >>> Categorical(torch.tensor([0.5, 0.5]), 2.0).expected()[0]  # ψ(1) − ψ(2)
    tensor([-1.0000, -1.0000])
    """

    statistic_dim = 1

    @classmethod
    def flat(cls, *batch: int, symbols: int, dtype: torch.dtype = torch.float64) -> "Categorical":
        """The flat prior over rows of probabilities."""
        return cls(torch.full((*batch, symbols), 1 / symbols, dtype=dtype), 0.0)

    @classmethod
    def dirichlet(cls, alpha: Tensor) -> "Categorical":
        """The belief Dirichlet(α), α of shape (..., V)."""
        total = alpha.sum(-1)
        return cls(alpha / total[..., None], total)

    @property
    def expected_natural(self) -> Tensor:
        """E log π, (..., V); −∞ where a probability is exactly 0."""
        return self.expected()[0]

    @remembered
    def expected(self) -> tuple[Tensor, Tensor]:
        """(E log π, 0): digamma differences, the logarithms themselves at a point."""
        c = torch.where(self._proper, self.concentration, 1.0)[..., None]
        belief = torch.where(self.mean > 0, (c * self.mean).digamma() - c.digamma(), -torch.inf)
        return torch.where(self._proper[..., None], belief, self.mean.log()), torch.zeros_like(
            self.concentration
        )

    def expected_log_prob(self, x: Tensor) -> Tensor:
        """E_θ log p(x|θ_k), (N, K): rows looked up, not multiplied."""
        x, seen = observed(x, self.mean.shape[1])
        table, x = self.expected_natural, self._symbols(x)  # (K, D, V)
        features = torch.arange(x.shape[1], device=x.device)
        if x.shape[1] == 1:
            picked = table[:, 0].T[x[:, 0]][:, None]
        else:
            picked = table.permute(1, 2, 0)[features, x]  # (N, D, K)
        return (picked if seen is None else masked(picked, seen)).sum(1)

    def sufficient(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(self._symbols(x), self.mean.shape[-1])

    def log_base(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=self.mean.dtype)

    def natural(self, mean: Tensor) -> Tensor:
        return mean.to(self.mean.dtype).log()

    def log_partition(self, natural: Tensor) -> Tensor:
        return torch.zeros_like(natural[..., 0])

    def log_normaliser(self, total: Tensor, concentration: Tensor) -> Tensor:
        return torch.where(total > 0, total.lgamma(), 0.0).sum(-1) - concentration.lgamma()

    def draw(self, total: Tensor, concentration: Tensor) -> Tensor:
        gamma = torch.where(
            total > 0, torch._standard_gamma(total.clamp(min=torch.finfo(total.dtype).tiny)), 0.0
        )
        return gamma / gamma.sum(-1, keepdim=True)

    def weak(self, x: Tensor, weight: Tensor | None = None) -> Self:
        """Where flat, the uniform prior worth one datum, Dirichlet(1/V, …, 1/V)."""
        return self.replace(
            concentration=torch.where(self.concentration == 0, 1.0, self.concentration)
        )

    def likelihood(self) -> Distribution:
        return Independent(
            distributions.Categorical(probs=self.mean),
            self.mean.ndim - 2 if self.mean.ndim > 2 else 0,
        )

    def _symbols(self, x: Tensor) -> Tensor:
        symbols, most = x.long(), self.mean.shape[-1] - 1
        if len(x) and (
            not 0 <= int(symbols.min()) <= int(symbols.max()) <= most
            or (x.is_floating_point() and bool((x != symbols).any()))
        ):
            raise ValueError(
                f"symbols are whole numbers from 0 to {most}, not from {x.min():g} to {x.max():g}:"
                " encode them so, or give the model more symbols"
            )
        return symbols


class StickBreaking(Family):
    """Weights of a truncated Dirichlet process, π_k = v_k Π_{j<k} (1 − v_j): a drop-in for
    `Categorical` weights.

    Args:
        sticks: K rows of (v_k, 1 − v_k) with their Beta beliefs; `StickBreaking.process` makes the
            prior.

    References:
        Blei and Jordan (2006), Variational inference for Dirichlet process mixtures.
    """

    def __init__(self, sticks: Categorical):
        super().__init__()
        self.sticks = sticks

    @classmethod
    def process(
        cls, components: int, concentration: float, dtype: torch.dtype = torch.float64
    ) -> "StickBreaking":
        """The prior v_k ~ Beta(1, γ)."""
        return cls(
            Categorical.dirichlet(
                torch.tensor([1.0, concentration], dtype=dtype).expand(components, 2)
            )
        )

    @property
    def mean(self) -> Tensor:
        """The weights at the mean sticks, (K,), normalised over the truncation."""
        log_v = self.sticks.mean.log()
        return _break(log_v).softmax(-1)

    @property
    def expected_natural(self) -> Tensor:
        """E log π_k = E log v_k + Σ_{j<k} E log (1 − v_j), (K,)."""
        return _break(self.sticks.expected_natural)

    def expected_fit(self, s: dict[str, Tensor]) -> Tensor:
        return torch.where(s["sum"] > 0, s["sum"] * self.expected_natural, 0.0).sum(-1)

    def update(self, s: dict[str, Tensor], about: "StickBreaking | None" = None) -> Self:
        beyond = s["sum"].sum(-1, keepdim=True) - s["sum"].cumsum(-1)
        broken = {"count": s["sum"] + beyond, "sum": torch.stack([s["sum"], beyond], -1)}
        return self._over(self.sticks.update(broken, None if about is None else about.sticks))

    def mode(self) -> Self:
        return self._over(self.sticks.mode())

    def sample(self) -> Self:
        return self._over(self.sticks.sample())

    def ascend(self, posterior: "StickBreaking", steps: int, lr: float) -> Self:
        return self._over(self.sticks.ascend(posterior.sticks, steps, lr))

    def _over(self, sticks: Categorical) -> Self:
        """The same family over other sticks."""
        return type(self)(sticks)

    def kl(self, prior: "StickBreaking") -> Tensor:
        return (prior.sticks.cross_entropy(self.sticks) - self.sticks.entropy()).sum(-1)

    @property
    def is_flat(self) -> bool:
        return self.sticks.is_flat

    def weak(self, x: Tensor, weight: Tensor | None = None) -> Self:
        return self._over(self.sticks.weak(x))

    def likelihood(self) -> Distribution:
        return distributions.Categorical(probs=self.mean)

    def expected_log_prob(self, x: Tensor) -> Tensor:
        return self.expected_natural[x.long()]

    def statistics(self, x: Tensor, r: Tensor) -> dict[str, Tensor]:
        return {"count": r.sum(), "sum": torch.zeros_like(self.mean).index_add(0, x.long(), r)}


def _break(log_v: Tensor) -> Tensor:
    """log v_k + Σ_{j<k} log (1 − v_j)."""
    beyond = log_v[..., 1].cumsum(-1)
    return log_v[..., 0] + torch.cat([torch.zeros_like(beyond[..., :1]), beyond[..., :-1]], -1)


def _within(log_base: Tensor, x: Tensor, most: float = torch.inf) -> Tensor:
    """log h(x), −∞ outside of 0 ≤ x ≤ most."""
    return torch.where((x >= 0) & (x <= most), log_base, -torch.inf)


def safe_log(p: Tensor) -> Tensor:
    """log p with log 0 at the smallest normal number's, so that 0 · log 0 is 0 in a matrix product."""
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()
