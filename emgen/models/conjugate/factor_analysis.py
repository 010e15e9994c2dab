"""Factor analysis and probabilistic PCA."""

__all__ = ["FactorAnalysis", "GaussianBelief", "factor_analysis"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emgen.families import Family, LinearGaussian, prefixed
from emgen.families.base import observed, pieces, spread, total
from emgen.models.conjugate.base import ConjugateModel, need_families
from emgen.models.conjugate.building import at_least, loadings


class FactorAnalysis(ConjugateModel):
    """z ~ N(0, I_L), x|z ~ N(W z + b, Ψ): Ψ diagonal is factor analysis, Ψ = σ²I probabilistic PCA.

    Missing values (NaN) are left out exactly.

    Args:
        loadings: prior over (W, b) and Ψ, with L + 1 regressors of which the last is the constant
            1.
        start: `random`, or explicit values: `mean` (D, L + 1) and `variance`.

    References:
        Rubin and Thayer (1982), "EM algorithms for ML factor analysis"; Tipping and Bishop (1999),
        "Probabilistic principal component analysis".

    Example:
        >>> FactorAnalysis(LinearGaussian(torch.tensor([[3.0, 1.0]]), torch.tensor([1.0]))).log_prob(torch.tensor([[1.0]]))
        tensor([-2.0702])
    """

    rows = 4096

    loadings: Any

    def __init__(self, loadings: LinearGaussian, start: str | Mapping[str, Any] = "random") -> None:
        need_families("factor_analysis", loadings=loadings)
        super().__init__({"loadings": loadings})
        if isinstance(start, str) and start != "random":
            raise ValueError(
                f"start={start!r} is neither random nor a mapping of values by name (mean,"
                " variance)"
            )
        if not isinstance(start, str):
            self.put(**start)

    @property
    def latent(self) -> int:
        """L, the number of factors."""
        return self.loadings.mean.shape[1] - 1

    def posterior(self, x: Float[Tensor, "rows features"]) -> "GaussianBelief":
        """q(z) = N(P⁻¹h, P⁻¹) with P = I + E[WᵀΨ⁻¹W] and h = E[WᵀΨ⁻¹](x − b)."""
        return _posterior(self.loadings, x)

    def statistics(
        self, x: Float[Tensor, "rows features"], z: "GaussianBelief", weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        u = torch.cat([z.mean, z.mean.new_ones(len(x), 1)], 1)

        def scatter(w: Tensor) -> Tensor:
            total = (
                w.sum(0)[:, None, None] * z.covariance
                if z.covariance.ndim == 2
                else torch.einsum("nd,npq->dpq", w, z.covariance)
            )
            return torch.nn.functional.pad(
                total, (0, 1, 0, 1)
            )  # the constant regressor does not vary

        weights = u.new_ones(len(x)) if weight is None else weight.to(u.dtype)
        return {
            **prefixed("loadings", self.loadings.statistics(x, u, scatter, weights)),
            "n": weights.sum(),
            "entropy": weights @ z.entropy(),
            "prior": weights @ z.log_prior(),
            "evidence": weights @ z.log_evidence,
        }

    def free_energy(self, s: dict[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
        parts, prior = (
            super().free_energy(s, temperature),
            s["prior"] / s["n"],
        )  # E_q log N(z | 0, I) has no parameter
        return parts | {
            "bound": parts["bound"] + prior,
            "elbo": parts["elbo"] + prior,
            "gap": parts["gap"] - prior,
        }

    def doubt(self, s: dict[str, Tensor]) -> float:
        """Round-off of Σ wᵀCov(z)w/ψ, whose terms cancel where factors are much stronger than the
        noise.
        """
        w, second = self.loadings.mean[:, :-1].abs(), s["loadings.uu"][:, :-1, :-1].abs()
        signal = torch.einsum("dp,dpq,dq->d", w, second, w) / self.loadings.variance
        return 64 * torch.finfo(w.dtype).eps * float(signal.sum() / s["n"])

    def start(
        self,
        x: Float[Tensor, "rows features"],
        parameters: Callable[..., Family],
        weight: Tensor | None = None,
    ) -> None:
        """Random loadings at the scale of the data, then one half-step into the belief."""
        observed(x[:1], len(self.loadings.mean))  # refuses rows of another length
        mean, data = spread(x, weight, self.loadings.mean.dtype)
        w = torch.randn_like(self.loadings.mean) * (data / max(1, self.latent)).sqrt()[:, None]
        w[:, -1] = mean
        self.put(mean=w, variance=data if len(self.loadings.variance) > 1 else data.mean())

        def taken(rows: slice) -> dict[str, Tensor]:
            piece = x[rows]
            w = None if weight is None else weight[rows]
            return self.statistics(piece, self.posterior(piece), w)

        width = max(w.shape)
        self.m_step(total(taken(rows) for rows in pieces(len(x), width)), parameters)

    def put(self, **values: Any) -> None:
        """Start from explicit parameters: `mean` (D, L + 1) and `variance`."""
        self.loadings = self.priors["loadings"].given(**values).mode()
        self.started.fill_(True)

    def make_proper(self, x: Float[Tensor, "rows features"], weight: Tensor | None = None) -> None:
        about = torch.zeros_like(self.loadings.mean[0])
        about[-1] = 1
        self.priors["loadings"] = self.priors["loadings"].weak(x, weight, about)

    def log_prob(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows"]:
        """log N(x | b, W Wᵀ + Ψ) over the values seen, at the centre of the belief."""
        return _posterior(self.loadings.mode(), x).log_evidence

    def sample(self, n: int) -> Tensor:
        """n rows drawn from the model, (n, D)."""
        mean = self.loadings.mean
        z = torch.randn(n, self.latent, dtype=mean.dtype, device=mean.device)
        noise = (
            torch.randn(n, len(mean), dtype=mean.dtype, device=mean.device)
            * self.loadings.variance.sqrt()
        )
        return z @ mean[:, :-1].T + mean[:, -1] + noise


@dataclass(frozen=True)
class GaussianBelief:
    """q(z_n) = N(mean_n, covariance), the covariance shared (L, L) or each row's own; a point has
    covariance 0.

    `log_evidence` is the log normaliser of the exact posterior.
    """

    mean: Float[Tensor, "rows latent"]
    covariance: Tensor
    log_evidence: Float[Tensor, "rows"]
    certain: bool = False

    def log_prior(self) -> Float[Tensor, "rows"]:
        """E_q log N(z | 0, I)."""
        trace = self.covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        return -0.5 * (
            self.mean.square().sum(-1) + trace + self.mean.shape[1] * math.log(2 * math.pi)
        )

    def entropy(self) -> Float[Tensor, "rows"]:
        """H(q), 0 at a point."""
        if self.certain:
            return torch.zeros_like(self.log_evidence)
        each = 0.5 * (
            torch.linalg.slogdet(self.covariance)[1]
            + self.mean.shape[1] * (1 + math.log(2 * math.pi))
        )
        return each.expand_as(self.log_evidence)

    def mode(self) -> "GaussianBelief":
        return GaussianBelief(
            self.mean, torch.zeros_like(self.covariance), self.log_evidence, certain=True
        )

    def sample(self) -> "GaussianBelief":
        noise = torch.linalg.cholesky(self.covariance) @ torch.randn_like(self.mean)[..., None]
        return GaussianBelief(
            self.mean + noise.squeeze(-1),
            torch.zeros_like(self.covariance),
            self.log_evidence,
            certain=True,
        )

    def tempered(self, beta: float) -> "GaussianBelief":
        return GaussianBelief(self.mean, self.covariance / beta, self.log_evidence)

    def mean_field(self, sweeps: int) -> "GaussianBelief":
        """The fixed point of the sweeps, known in closed form: the same mean, variances 1/P_ll."""
        variance = 1 / torch.linalg.inv(self.covariance).diagonal(dim1=-2, dim2=-1)
        return GaussianBelief(self.mean, torch.diag_embed(variance), self.log_evidence)

    def structured(self, sweeps: int) -> "GaussianBelief":
        """Itself: rows are independent, so keeping each whole loses nothing."""
        return self


def _posterior(loadings: LinearGaussian, x: Tensor) -> GaussianBelief:
    about = torch.zeros_like(loadings.mean[0])
    about[-1] = 1  # the constant regressor
    signal = (loadings.mean[:, :-1].square().sum(1) / loadings.variance).max(0)
    if not bool(signal.values < torch.finfo(about.dtype).eps ** -0.75):
        d = int(signal.indices)
        raise ValueError(
            f"the noise of feature {d} vanished"
            f" ({loadings.variance.expand(len(loadings.mean))[d]:.3g}): the factors explain it"
            " exactly, where the likelihood has no maximum; use fewer factors, a prior, or"
            " noise=spherical"
        )
    c, h, j = loadings.quadratic(x, about)
    h, j = h[:, :-1], j[..., :-1, :-1]
    root = torch.linalg.cholesky(j + torch.eye(h.shape[1], dtype=h.dtype, device=h.device))
    covariance = torch.cholesky_inverse(root)
    # solved, not multiplied by the inverse, of which strong factors leave few digits
    mean = (
        torch.cholesky_solve(h.T, root).T
        if j.ndim == 2
        else torch.cholesky_solve(h[..., None], root).squeeze(-1)
    )
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return GaussianBelief(mean, covariance, c + 0.5 * ((h * mean).sum(-1) - log_det))


def factor_analysis(
    event_shape: int | Sequence[int],
    latent: int = 2,
    noise: str = "diagonal",
    prior: Mapping[str, Any] | None = None,
    start: str | Mapping[str, Any] = "random",
) -> FactorAnalysis:
    """Factor analysis, or probabilistic PCA with `noise="spherical"`.

    Args:
        event_shape: shape of a datum, or its number of features.
        latent: L, the number of factors.
        noise: `diagonal` or `spherical`.
        prior: buffers of the loadings' conjugate prior by name, `mean precision variance nu`; None
            is flat.
        start: see `FactorAnalysis`.

    >>> factor_analysis(5, latent=2).loadings.mean.shape  # two factors and the offset
    torch.Size([5, 3])
    """
    at_least(1, latent=latent)
    return FactorAnalysis(loadings(event_shape, latent + 1, noise, prior), start)
