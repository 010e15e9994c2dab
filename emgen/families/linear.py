"""Linear-Gaussian regression with its Normal-Gamma belief: the emission of factor analysers and
factorial models.
"""

__all__ = ["LinearGaussian"]

import math
from collections.abc import Callable
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from emgen.families.base import ROUND, Family, remembered, spread


class LinearGaussian(Family):
    """x_d | u ~ N(w_d · u, 1/τ_d), belief w_d|τ ~ N(m_d, (τ_d Λ_d)⁻¹), τ_g ~ Gamma(ν_g/2, ν_g
    C_g/2).

    The regressors u (P,) are latent or known; a belief about them enters by its first two moments.
    `variance` of length D is a noise of each feature's own (factor analysis), of length 1 one noise
    for all (probabilistic PCA). As in the
    Gaussian families Λ and ν count data: ∞ makes a point, 0 a flat prior, and modes are maximum
    likelihood under it.

    Args:
        mean: m, (D, P).
        variance: C, (D,) or (1,).
        precision: Λ, (D, P, P), positive definite, or all 0, or ∞.
        nu: (D,) or (1,), data that the belief about the noise is worth.

    References:
        Ghahramani and Beal (2000), "Variational inference for Bayesian mixtures of factor
        analysers".
    """

    mean: Tensor
    variance: Tensor
    precision: Tensor
    nu: Tensor

    def __init__(
        self,
        mean: Tensor,
        variance: Tensor,
        precision: Tensor | float = torch.inf,
        nu: Tensor | float = torch.inf,
    ) -> None:
        super().__init__()
        features, regressors = mean.shape
        if variance.shape not in ((features,), (1,)):
            raise ValueError(
                f"variance of {features} features has shape ({features},) or (1,), not"
                f" {tuple(variance.shape)}"
            )
        precision = torch.as_tensor(precision, dtype=mean.dtype, device=mean.device)
        if precision.ndim == 0 and precision.isfinite():
            precision = precision * torch.eye(regressors, dtype=mean.dtype, device=mean.device)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.register_buffer(
            "precision", precision.expand(features, regressors, regressors).clone()
        )
        self.register_buffer(
            "nu",
            torch.as_tensor(nu, dtype=mean.dtype, device=mean.device)
            .expand(variance.shape)
            .clone(),
        )

    @classmethod
    def flat(
        cls,
        features: int,
        regressors: int,
        *,
        spherical: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> "LinearGaussian":
        """The flat prior over D × P weights and D variances (spherical: one)."""
        return cls(
            torch.zeros(features, regressors, dtype=dtype),
            torch.ones(1 if spherical else features, dtype=dtype),
            0.0,
            0.0,
        )

    # --- data under the belief -------------------------------------------------------------------

    @remembered
    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """E τ (D,), E log τ (D,), Cov-like Λ⁻¹ (D, P, P) and E[τ w wᵀ] (D, P, P)."""
        tau = self._each(1 / self.variance)
        half = torch.where(self.nu.isinf(), 1.0, self.nu) / 2
        log_tau = self._each(
            torch.where(self.nu.isinf(), 0.0, half.digamma() - half.log()) - self.variance.log()
        )
        spread = self._spread()
        return (
            tau,
            log_tau,
            spread,
            tau[:, None, None] * self.mean[:, :, None] * self.mean[:, None, :] + spread,
        )

    def quadratic(
        self, x: Float[Tensor, "rows features"], about: Float[Tensor, "regressors"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """E_θ log p(x|u) = c + h·δ − ½ δᵀJδ in δ = u − about: c (N,), h (N, P), J (P, P) or (N, P,
        P) where values miss.
        """
        if x.shape[1] != len(self.mean):
            raise ValueError(
                f"rows have {x.shape[1]} features and the model {len(self.mean)}: give"
                f" event_shape={x.shape[1]}"
            )
        if not bool((self.variance > 0).all()):
            raise ValueError(
                f"the noise of feature {int(self.variance.argmin())} is 0, as of constant data:"
                " leave the feature out, add rows, or give a prior"
            )
        tau, log_tau, spread, second = self.moments()
        x = x if x.is_floating_point() else x.to(self.mean.dtype)
        seen = ~x.isnan()
        residual = x - self.mean.to(x.dtype) @ about.to(
            x.dtype
        )  # small numbers: offsets of the data cancel here
        whole = bool(seen.all())
        residual = residual if whole else residual.masked_fill(~seen, 0.0)
        dtype = self.mean.dtype
        residual = residual.to(dtype)
        drift = spread @ about  # (D, P)
        each = 0.5 * (log_tau - math.log(2 * math.pi) - drift @ about)
        c = -0.5 * residual.square() @ tau + (each.sum() if whole else seen.to(dtype) @ each)
        h = residual @ (tau[:, None] * self.mean) - (
            drift.sum(0) if whole else seen.to(dtype) @ drift
        )
        j = second.sum(0) if whole else torch.einsum("nd,dpq->npq", seen.to(dtype), second)
        return c, h, j

    def expected_log_prob(self, x: Tensor) -> Tensor:
        raise TypeError("a regression scores x given its regressors: ask `quadratic(x, about)`")

    def statistics(
        self,
        x: Float[Tensor, "rows features"],
        u: Float[Tensor, "rows regressors"],
        scatter: Callable[[Tensor], Tensor],
        weight: Float[Tensor, "rows"] | None = None,
    ) -> dict[str, Tensor]:
        """Moments of residuals about the current weights, (x − m u): count, ru, rr, and the
        regressors' own uu.

        Args:
            x: data, NaN where missing.
            u: E[u] of each row.
            scatter: weights (N, D or 1) → Σ_n w_n Cov(u_n), (D or 1, P, P).
            weight: of each row.
        """
        seen = (~x.isnan()).to(self.mean.dtype)
        u = u.to(self.mean.dtype)
        residual = torch.where(seen > 0, x.to(self.mean.dtype) - u @ self.mean.T, 0.0)
        w = seen if weight is None else seen * weight[:, None].to(seen.dtype)
        whole = bool((seen > 0).all())
        shared = w[:, :1] if whole else w
        covariance = scatter(shared)  # Σ w Cov(u), (D or 1, P, P)
        uu = (
            torch.einsum("nd,np,nq->dpq", shared, u, u) if not whole else ((shared * u).T @ u)[None]
        )
        uu = (uu + covariance).expand(len(self.mean), -1, -1)
        moved = (covariance @ self.mean[:, :, None]).squeeze(-1)  # Σ w Cov(u) m
        weighted = w * residual
        return {
            "count": w.sum(0),
            "ru": weighted.T @ u - moved,
            "rr": (weighted * residual).sum(0) + (moved * self.mean).sum(1),
            "uu": uu,
        }

    def expected_fit(self, s: dict[str, Tensor]) -> Tensor:
        tau, log_tau, spread, _ = self.moments()
        return -0.5 * (
            s["count"] * (math.log(2 * math.pi) - log_tau)
            + tau * s["rr"]
            + (spread * s["uu"]).sum((1, 2))
        )

    # --- the belief itself -----------------------------------------------------------------------

    def update(self, s: dict[str, Tensor], about: "LinearGaussian | None" = None) -> Self:
        about = self if about is None else about
        fixed = self.precision.isinf().any(-1).any(-1)
        prior = torch.where(fixed[:, None, None], 0.0, self.precision)
        precision = prior + s["uu"]
        pull = s["ru"] + (prior @ (self.mean - about.mean)[:, :, None]).squeeze(-1)
        rounding = (
            ROUND * precision.shape[-1] * torch.finfo(precision.dtype).eps
        )  # of an eigenvalue, as a share of the largest
        shift = (
            torch.linalg.pinv(precision, rtol=rounding, hermitian=True) @ pull[:, :, None]
        ).squeeze(-1)  # least norm if singular
        mean = torch.where(fixed[:, None], self.mean, about.mean + shift)
        moved = self.replace(mean=mean)
        from_prior = mean - self.mean
        square = moved.rebase(s, about)["rr"] + torch.einsum(
            "dp,dpq,dq->d", from_prior, prior, from_prior
        )
        count, square = (self._pooled(v) for v in (s["count"], square))
        nu = self.nu + count
        own = torch.where(self.nu > 0, self.variance, about.variance)
        share = torch.where(count > 0, count / nu, 0.0)
        variance = torch.lerp(own, square / count.clamp(min=torch.finfo(count.dtype).tiny), share)
        # `square` is what moments of residuals about the old weights leave: each of P terms is off
        # by some eps of them
        lost = variance <= rounding * share * self._pooled(s["rr"]) / count.clamp(min=1)
        if bool(lost.any()):
            raise ValueError(
                f"the noise of feature {int(lost.nonzero()[0])} vanished: its regressors explain it"
                " exactly; use fewer, a prior, or one noise for all features"
            )
        return moved.replace(
            variance=variance,
            nu=nu,
            precision=torch.where(fixed[:, None, None], torch.inf, precision),
        )

    def rebase(self, s: dict[str, Tensor], about: "LinearGaussian") -> dict[str, Tensor]:
        shift = about.mean - self.mean
        moved = (s["uu"] @ shift[:, :, None]).squeeze(-1)
        return {
            "count": s["count"],
            "ru": s["ru"] + moved,
            "rr": s["rr"] + (shift * (2 * s["ru"] + moved)).sum(1),
            "uu": s["uu"],
        }

    def mode(self) -> Self:
        return self.replace(
            precision=torch.full_like(self.precision, torch.inf),
            nu=torch.full_like(self.nu, torch.inf),
        )

    def sample(self) -> Self:
        if self.is_flat:
            raise ValueError(
                "cannot draw parameters from a flat belief: give the model a prior, or use a point"
            )
        nu = torch.where(self.nu.isinf(), 2.0, self.nu)
        drawn = nu * self.variance / (2 * torch._standard_gamma(nu / 2))
        variance = torch.where(self.nu.isinf(), self.variance, drawn)
        root = torch.linalg.cholesky_ex(self._spread())[0]
        root = torch.where(self.precision.isinf().any(-1).any(-1)[:, None, None], 0.0, root)
        noise = (root @ torch.randn_like(self.mean)[:, :, None]).squeeze(-1)
        return self.replace(
            mean=self.mean + self._each(variance).sqrt()[:, None] * noise, variance=variance
        ).mode()

    def ascend(self, posterior: "LinearGaussian", steps: int, lr: float) -> Self:
        mean, variance = self.mean, self.variance
        tie = torch.where(posterior.precision.isinf(), 0.0, posterior.precision)
        for _ in range(
            steps
        ):  # in turn: each block's conditional optimum is a share of the way off
            mean = torch.lerp(mean, posterior.mean, lr)
            away = torch.einsum("dp,dpq,dq->d", mean - posterior.mean, tie, mean - posterior.mean)
            best = posterior.variance + self._pooled(away) / posterior.nu
            variance = torch.lerp(variance, best, lr)
        return self.replace(mean=mean, variance=variance).mode()

    def kl(self, prior: "LinearGaussian") -> Tensor:
        """KL(q‖p), one value a feature; a shared noise counts in equal shares."""
        return prior._cross(self) - self._cross(self)

    def likelihood(self) -> Distribution:
        """p(x|u = each regressor alone), batch P, event D."""
        return Independent(Normal(self.mean.T, self._each(self.variance).sqrt()), 1)

    @property
    def is_flat(self) -> bool:
        return bool((self.nu == 0).any() or (self.precision.diagonal(dim1=1, dim2=2) == 0).any())

    def weak(self, x: Tensor, weight: Tensor | None = None, about: Tensor | None = None) -> Self:
        """Where flat, weights worth one datum, ν = 1 at the data's variance; m · about is the
        data's mean (default m = 0).
        """
        centre, variance = spread(x, weight, self.mean.dtype)
        variance = variance if len(self.variance) > 1 else variance.mean(0, keepdim=True)
        eye = torch.eye(self.mean.shape[1], dtype=self.mean.dtype, device=self.mean.device)
        flat = (self.precision.diagonal(dim1=1, dim2=2) == 0).any(-1)
        about = torch.zeros_like(self.mean[0]) if about is None else about / about.square().sum()
        return self.replace(
            mean=torch.where(flat[:, None], centre[:, None] * about, self.mean),
            precision=torch.where(flat[:, None, None], eye, self.precision),
            variance=torch.where(self.nu == 0, variance, self.variance),
            nu=torch.where(self.nu == 0, 1.0, self.nu),
        )

    def _cross(self, belief: "LinearGaussian") -> Tensor:
        """−E log p(w, τ) under `belief`, in the measure τ^{P/2} dw dτ/τ; 0 where flat or fixed."""
        tau, log_tau, spread, _ = belief.moments()
        diagonal = self.precision.diagonal(dim1=1, dim2=2)
        held = ((diagonal > 0) & diagonal.isfinite()).all(-1)
        eye = torch.eye(self.mean.shape[1], dtype=self.mean.dtype, device=self.mean.device)
        precision = torch.where(held[:, None, None], self.precision, eye)
        shift = belief.mean - self.mean
        quadratic = torch.einsum("dp,dpq,dq->d", shift, precision, shift) * tau + (
            precision * spread
        ).sum((1, 2))
        log_det = torch.linalg.slogdet(precision)[1]
        weights = 0.5 * (self.mean.shape[1] * math.log(2 * math.pi) - log_det + quadratic)
        proper = (self.nu > 0) & self.nu.isfinite()
        half = torch.where(proper, self.nu, 1.0) / 2
        constant = self._shares(
            torch.where(proper, half.lgamma() - half * (half * self.variance).log(), 0.0)
        )
        half, rate = (
            self._shares(v)
            for v in (
                torch.where(proper, half, 0.0),
                torch.where(proper, half * self.variance, 0.0),
            )
        )
        return torch.where(held, weights, 0.0) + constant - half * log_tau + rate * tau

    def _spread(self) -> Tensor:
        """Λ⁻¹, 0 at a point."""
        fixed = self.precision.isinf().any(-1).any(-1)[:, None, None]
        eye = torch.eye(self.mean.shape[1], dtype=self.mean.dtype, device=self.mean.device)
        return torch.where(fixed, 0.0, torch.linalg.inv(torch.where(fixed, eye, self.precision)))

    def _each(self, per_noise: Tensor) -> Tensor:
        """One value a feature from one value a noise."""
        return per_noise.expand(len(self.mean))

    def _shares(self, per_noise: Tensor) -> Tensor:
        """One value a feature, of equal shares of a shared noise."""
        return self._each(per_noise) * len(self.variance) / len(self.mean)

    def _pooled(self, per_feature: Tensor) -> Tensor:
        return (
            per_feature
            if len(self.variance) == len(self.mean)
            else per_feature.sum(0, keepdim=True)
        )
