"""Gaussians with full or tied covariance and their Normal-Wishart beliefs."""

__all__ = ["Gaussian"]

import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from emgen.families.base import (
    FAR,
    ROUND,
    Family,
    centre_of,
    complete,
    pieces,
    remembered,
    resolution,
    share,
    spread,
)
from emgen.families.quadratic import (
    ACCURACY,
    ROWS,
    definite,
    expand,
    moments,
    not_positive,
    outer,
    packed,
    trace,
    unpacked,
)


class Gaussian(Family):
    """K Gaussians N(x|μ_k, Λ_g⁻¹), belief μ_k|Λ ~ N(m_k, (κ_k Λ)⁻¹), Λ_g ~ Wishart with E[Λ_g] =
    C_g⁻¹ and ν_g degrees.

    Full covariance is G = K, tied covariance G = 1; K/G components share each Λ_g. κ and ν count
    data: ∞ makes a point, 0 a flat prior. Modes are taken with respect to the measure that affine
    maps leave invariant, so the mode is (m, C⁻¹) and under a flat prior it is the
    maximum-likelihood estimate. With `reg_covar` = ε the log density of a row carries −(ε/2) tr Λ:
    S_k + εI is then the exact M-step and the bound stays monotone.

    Args:
        mean: m, (K, D).
        covariance: C, (G, D, D).
        kappa: (K,) data that the belief about the means is worth.
        nu: (G,) data that the belief about the covariance is worth; a proper one has ν > D − 1.
        reg_covar: ε, in squared units of x.

    Raises:
        ValueError: if a covariance is not positive definite; the message names the component and
            its mass.

    References:
        Bishop (2006), Pattern recognition and machine learning, section 10.2.
    """

    mean: Tensor
    covariance: Tensor
    kappa: Tensor
    nu: Tensor

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        kappa: Tensor | float = torch.inf,
        nu: Tensor | float = torch.inf,
        reg_covar: float = 0.0,
    ):
        super().__init__()
        if len(mean) % len(covariance):
            raise ValueError(
                f"{len(covariance)} covariances cannot be shared evenly by {len(mean)} components"
            )
        if not reg_covar >= 0:
            raise ValueError(
                f"reg_covar={reg_covar} must be 0 or more, in squared units of the data"
            )
        self.register_buffer("mean", mean)
        self.register_buffer("covariance", covariance)
        self.register_buffer(
            "kappa",
            torch.as_tensor(kappa, dtype=mean.dtype, device=mean.device).expand(len(mean)).clone(),
        )
        self.register_buffer(
            "nu",
            torch.as_tensor(nu, dtype=mean.dtype, device=mean.device)
            .expand(len(covariance))
            .clone(),
        )
        self.reg_covar = reg_covar

    @classmethod
    def flat(
        cls,
        components: int,
        features: int,
        *,
        tied: bool = False,
        reg_covar: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> "Gaussian":
        """The flat prior over K means and K (tied: one) covariances."""
        covariance = torch.eye(features, dtype=dtype).repeat(1 if tied else components, 1, 1)
        return cls(torch.zeros(components, features, dtype=dtype), covariance, 0.0, 0.0, reg_covar)

    # --- data under the belief -------------------------------------------------------------------

    def expected_log_prob(self, x: Tensor) -> Tensor:
        """E log N(x|μ_k, Λ⁻¹) = log N(x|m_k, C) + ½(E log|Λ| + log|C|) − D/2κ_k − (ε/2) tr C⁻¹, (N,
        K).
        """
        x = complete(x, self.mean.shape[1])
        out = x.new_empty(len(self.mean), len(x))
        if (
            self._expands(x.dtype) and not x.requires_grad
        ):  # its products are written over one another
            coefficients = self._quadratics()[1].to(x.dtype)
            for block, features in self._features(x):
                torch.mm(coefficients, features, out=out[:, block])
            return out.T
        (whiten, shift, constant), centre = self._whitening(), centre_of(self.mean)
        for block in (slice(start, start + ROWS) for start in range(0, len(x), ROWS)):
            y = torch.addmm(
                shift[:, None], whiten, (x[block].to(shift.dtype) - centre).T
            )  # all components in one product
            out[:, block] = y.view(len(self.mean), -1, y.shape[1]).square_().sum(1)
        return out.mul_(-0.5).add_(constant[:, None].to(x.dtype)).T

    def statistics(self, x: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Moments about the current means, (x − m_k): count, sum and scatter."""
        x = complete(x, self.mean.shape[1])
        exact = self._expands(x.dtype)
        if exact:
            sums = self.mean.new_zeros(
                len(self.mean), 1 + x.shape[1] + x.shape[1] * (x.shape[1] + 1) // 2
            )
            for block, features in self._features(x, reuse=True):
                sums += r[block].to(x.dtype).T @ features.T  # much faster than its transpose
            count, total, scatter = unpacked(sums, x.shape[1])
            shift = self.mean - self._quadratics()[0]
            cross = outer(shift, total)
            raw = scatter.diagonal(dim1=1, dim2=2)
            lost = raw * torch.finfo(x.dtype).eps > ACCURACY.get(x.dtype, 1e-3) * (
                raw - total * share(total, count[:, None])
            )
            exact = not (
                lost & (count > 0)[:, None]
            ).any()  # else more cancels than the current covariances foretold
            scatter = scatter - cross - cross.mT + count[:, None, None] * outer(shift, shift)
            total = total - count[:, None] * shift
        if not exact:
            count = r.sum(0, dtype=self.mean.dtype)
            total, scatter = moments(x, r, self.mean)
        return {"count": count, "sum": total, "scatter": scatter}

    def expected_fit(self, s: dict[str, Tensor]) -> Tensor:
        log_det, inverse = self._shared(self.expected_log_det()), self._shared(self.precision())
        fit = (
            self.mean.shape[1] * (math.log(2 * math.pi) + 1 / self.kappa)
            - log_det
            + self.reg_covar * trace(inverse)
        )
        return -0.5 * (s["count"] * fit + (inverse * s["scatter"]).sum((1, 2)))

    def doubt(self, s: dict[str, Tensor]) -> Tensor:
        return (
            64
            * torch.finfo(self.mean.dtype).eps
            * (self._shared(self.precision()).abs() * s["scatter"].abs()).sum((1, 2))
        )

    # --- the belief itself -----------------------------------------------------------------------

    def update(self, s: dict[str, Tensor], about: "Gaussian | None" = None) -> Self:
        about, count = self if about is None else about, s["count"]
        held = self._pooled(count)
        kappa, nu = self.kappa + count, self.nu + held
        offset = share(s["sum"], count[:, None])
        data, scatter = about.mean + offset, s["scatter"] - outer(offset, s["sum"])
        prior = torch.where(self.kappa[:, None] > 0, self.mean, about.mean)
        moved = share(count, kappa)
        between = torch.where(
            self.kappa.isinf(), count, torch.where(self.kappa > 0, self.kappa * moved, 0.0)
        )
        scatter.diagonal(dim1=1, dim2=2).add_(self.reg_covar * count[:, None])
        own = share(self._pooled(scatter), held[:, None, None])
        away = share(
            self._pooled(offset * s["sum"]), held[:, None]
        )  # squared moves of the means, which cancelled
        far = torch.where(FAR * away > own.diagonal(dim1=1, dim2=2), FAR * away, 0.0)
        pulls = share(
            self._pooled(between[:, None, None] * outer(data - prior, data - prior)),
            held[:, None, None],
        )
        observed = own + pulls + torch.diag_embed(far)
        expected = torch.where(self.nu[:, None, None] > 0, self.covariance, about.covariance)
        part = share(held, nu)
        covariance = torch.lerp(expected, observed, part[:, None, None].expand_as(expected))
        mean = torch.lerp(prior, data, moved[:, None].expand_as(prior))
        covariance = self._settled(covariance, part[:, None] * away, mean, held)
        return self.replace(mean=mean, covariance=covariance, kappa=kappa, nu=nu)

    def _settled(self, covariance: Tensor, cancelled: Tensor, mean: Tensor, held: Tensor) -> Tensor:
        """The covariance if it is positive definite beyond round-off, of which `cancelled` (G, D)
        is what moved means left.

        Where that alone hides it, the next moments, about the new means, will know better: until
            then it is widened by twice
        what is unknown. Nothing helps where rows fill no volume.
        """
        least = (
            self._pooled_most(resolution(mean))
            if not (self.reg_covar or (self.nu > 0).all())
            else torch.zeros_like(cancelled)
        )
        covariance_less = covariance - torch.diag_embed(least)
        reach = covariance.diagonal(dim1=1, dim2=2) + cancelled
        good = definite(covariance_less, reach)
        if not good.all():
            unknown = 2 * covariance.shape[1] * ROUND * torch.finfo(mean.dtype).eps * cancelled
            wider = torch.diag_embed(torch.where(good[:, None], 0.0, unknown))
            covariance, good = covariance + wider, definite(covariance_less + wider, reach)
        if not good.all():
            raise not_positive(covariance, g := int((~good).nonzero()[0]), float(held[g]))
        return covariance

    def rebase(self, s: dict[str, Tensor], about: Any) -> dict[str, Tensor]:
        shift = about.mean - self.mean
        cross = outer(shift, s["sum"])
        scatter = s["scatter"] + cross + cross.mT + s["count"][:, None, None] * outer(shift, shift)
        return {
            "count": s["count"],
            "sum": s["sum"] + s["count"][:, None] * shift,
            "scatter": scatter,
        }

    def mode(self) -> Self:
        return self.replace(
            kappa=torch.full_like(self.kappa, torch.inf), nu=torch.full_like(self.nu, torch.inf)
        )

    def sample(self) -> Self:
        features = self.mean.shape[1]
        if (self.kappa == 0).any() or (self.nu <= features - 1).any():
            raise ValueError(
                "cannot draw Gaussian parameters from an improper belief: it needs kappa > 0 and"
                f" nu > {features - 1}"
            )
        root = self.factor()
        nu = torch.where(self.nu.isinf(), features, self.nu)
        # Bartlett: Λ = L⁻ᵀ A Aᵀ L⁻¹ / ν, so Σ = ν MᵀM with M = A⁻¹ Lᵀ
        degrees = nu[:, None] - torch.arange(features, dtype=nu.dtype, device=nu.device)
        bartlett = torch.randn_like(root).tril(-1) + torch.diag_embed(
            (2 * torch._standard_gamma(degrees / 2)).sqrt()
        )
        drawn = (
            torch.linalg.solve_triangular(bartlett, root.mT, upper=False) * nu.sqrt()[:, None, None]
        )
        drawn = torch.where(self.nu.isinf()[:, None, None], root.mT, drawn)
        noise = torch.randn_like(self.mean) / self.kappa.sqrt()[:, None]
        mean = self.mean + torch.einsum("kd,kde->ke", noise, self._shared(drawn))
        return self.replace(mean=mean, covariance=drawn.mT @ drawn).mode()

    def ascend(self, posterior: "Gaussian", steps: int, lr: float) -> Self:
        mean, covariance = self.mean, self.covariance
        tie = torch.where(
            posterior.kappa > 0, posterior.kappa / posterior._shared(posterior.nu), 0.0
        ).nan_to_num(0.0)
        for _ in range(
            steps
        ):  # in turn: each block's conditional optimum is a share of the way off
            mean = torch.lerp(mean, posterior.mean, lr)
            away = outer(away := mean - posterior.mean, away)
            covariance = torch.lerp(
                covariance, posterior.covariance + self._pooled(tie[:, None, None] * away), lr
            )
        return self.replace(mean=mean, covariance=covariance).mode()

    def kl(self, prior: "Gaussian") -> Tensor:
        """KL(q‖p) of Normal-Wisharts; shared covariances count in equal shares for their
        components.
        """
        covariances = prior._wishart_cross(self) - self._wishart_cross(self)
        return (
            prior._normal_cross(self)
            - self._normal_cross(self)
            + self._shared(covariances) * len(covariances) / len(self.mean)
        )

    def likelihood(self) -> Distribution:
        return MultivariateNormal(self.mean, scale_tril=self._shared(self.factor()))

    def given(self, **values: Any) -> Self:
        """The same belief with some buffers given; a covariance may be a scalar, (D,) or a matrix."""
        if "covariance" in values:
            covariance = torch.as_tensor(
                values["covariance"], dtype=self.mean.dtype, device=self.mean.device
            )
            if covariance.ndim < 2:
                values["covariance"] = torch.diag_embed(
                    covariance.broadcast_to(self.mean.shape[1:])
                )
        return super().given(**values)

    @property
    def is_flat(self) -> bool:
        return bool((self.kappa == 0).any() or (self.nu == 0).any())

    @property
    def holds_one_row(self) -> bool:
        return (
            bool((self.nu > 0).all()) or self.reg_covar > 0 or len(self.covariance) < len(self.mean)
        )

    def weak(self, x: Tensor, weight: Tensor | None = None) -> Self:
        """Where flat, κ = 1 at the data's mean and ν = D at their covariance; at their variances
        where round-off spoils that.
        """
        features, dtype = self.mean.shape[1], self.mean.dtype
        slices = list(pieces(len(x), features))
        for rows in slices:
            complete(x[rows], features)  # refuses what is missing
        mean = spread(x, weight, dtype)[0]

        scatter, furthest = mean.new_zeros(features, features), torch.zeros_like(mean)
        mass = mean.new_zeros(())
        for rows in slices:
            y = x[rows].reshape(-1, features).to(dtype) - mean
            w = y.new_ones(len(y)) if weight is None else weight[rows].to(dtype)
            scatter += (y * w[:, None]).T @ y
            mass += w.sum()
            furthest.copy_(torch.maximum(furthest, (y.square() * (w > 0)[:, None]).amax(0)))
        covariance = scatter / mass
        covariance.diagonal().add_(self.reg_covar)
        # a component of one row x adds (x − mean)(x − mean)ᵀ to it, up to N times as large as all
        # rows together
        reach = covariance.diagonal() + furthest
        if not definite(covariance[None], reach[None]).all():
            covariance = covariance.diagonal().diag()
        return self.replace(
            mean=torch.where(self.kappa[:, None] == 0, mean, self.mean),
            covariance=torch.where(self.nu[:, None, None] == 0, covariance, self.covariance),
            kappa=torch.where(self.kappa == 0, 1.0, self.kappa),
            nu=torch.where(self.nu == 0, features, self.nu),
        )

    # --- determinants and traces -----------------------------------------------------------------

    @remembered
    def factor(self) -> Tensor:
        """L with C = LLᵀ, (G, D, D)."""
        root, info = torch.linalg.cholesky_ex(self.covariance)
        if (info > 0).any():
            raise not_positive(self.covariance, int((info > 0).nonzero()[0]))
        return root

    @remembered
    def precision(self) -> Tensor:
        """E[Λ] = C⁻¹, (G, D, D)."""
        return torch.cholesky_inverse(self.factor())

    @remembered
    def expected_log_det(self) -> Tensor:
        """E log|Λ| = Σ_i ψ((ν+1−i)/2) − D log(ν/2) − log|C|, (G,)."""
        features = self.mean.shape[1]
        nu = torch.where(self.nu.isinf(), 2.0 * features, self.nu)[:, None]
        spread = ((nu - torch.arange(features, dtype=nu.dtype, device=nu.device)) / 2).digamma() - (
            nu / 2
        ).log()
        return torch.where(self.nu.isinf(), 0.0, spread.sum(1)) - 2 * self.factor().diagonal(
            dim1=1, dim2=2
        ).log().sum(1)

    @remembered
    def _whitening(self) -> tuple[Tensor, Tensor, Tensor]:
        """Whitening matrices L⁻¹ stacked to (K·D, D), the whitened centre less the means (K·D), and
        what does not depend on x (K).
        """
        features = self.mean.shape[1]
        eye = torch.eye(features, dtype=self.mean.dtype, device=self.mean.device)
        whiten = self._shared(torch.linalg.solve_triangular(self.factor(), eye, upper=False))
        shift = torch.einsum("kde,ke->kd", whiten, centre_of(self.mean) - self.mean)
        penalty = self.reg_covar * whiten.square().sum((1, 2))
        constant = (
            self._shared(self.expected_log_det())
            - features * (math.log(2 * math.pi) + 1 / self.kappa)
            - penalty
        )
        return whiten.flatten(0, 1), shift.flatten(), 0.5 * constant

    @remembered
    def _quadratics(self) -> tuple[Tensor, Tensor, float]:
        """A common centre (D), the scores as quadratics about it (K, F), and how much expanding
        them cancels.
        """
        centre = centre_of(self.mean)
        shift, precision = self.mean - centre, self._shared(self.precision())
        linear = torch.einsum("kde,ke->kd", precision, shift)
        constant = self._whitening()[2] - 0.5 * (linear * shift).sum(1)
        reach = shift.abs() + 3 * self._shared(self.covariance.diagonal(dim1=1, dim2=2).sqrt())
        cancelled = torch.einsum("kd,kde,ke->k", reach, precision.abs(), reach).max()
        return centre, packed(constant, linear, -0.5 * precision), float(cancelled)

    def _expands(self, dtype: torch.dtype) -> bool:
        """Whether products about a common centre are exact enough."""
        return self.mean.shape[1] <= 64 and self._quadratics()[2] * torch.finfo(
            dtype
        ).eps < ACCURACY.get(dtype, 1e-3)

    def _features(self, x: Tensor, reuse: bool = False) -> Iterator[tuple[slice, Tensor]]:
        """The rows expanded block by block; those of a short E-step are kept for the statistics
        that follow it.
        """
        memory = vars(self).setdefault("_memory", {})
        rows, known = memory.pop("features", (None, []))
        if (
            reuse
            and rows is not None
            and (rows.data_ptr(), rows.shape, rows.stride()) == (x.data_ptr(), x.shape, x.stride())
        ):
            yield from known
            return
        centre, kept = self._quadratics()[0].to(x.dtype), []
        if len(x) <= 4 * ROWS:
            memory["features"] = x, kept
        for start in range(0, len(x), ROWS):
            block = slice(start, start + ROWS)
            kept.append((block, expand(x[block], centre)))
            yield kept[-1] if len(x) <= 4 * ROWS else kept.pop()

    def _normal_cross(self, belief: "Gaussian") -> Tensor:
        """−E log N(μ|m, (κΛ)⁻¹) with respect to |Λ|^½ dμ under `belief`, (K,)."""
        proper = (self.kappa > 0) & self.kappa.isfinite()
        kappa = torch.where(proper, self.kappa, 1.0)
        shift = belief.mean - self.mean
        quadratic = torch.einsum("kd,kde,ke->k", shift, belief._shared(belief.precision()), shift)
        features = self.mean.shape[1]
        value = 0.5 * (
            features * ((2 * math.pi / kappa).log() + kappa / belief.kappa) + kappa * quadratic
        )
        return torch.where(proper, value, 0.0)

    def _wishart_cross(self, belief: "Gaussian") -> Tensor:
        """−E log Wishart(Λ|C, ν) with respect to |Λ|^{−(D+1)/2} dΛ under `belief`, (G,); improper
        constants left out.
        """
        features = self.mean.shape[1]
        held, proper = (
            (self.nu > 0) & self.nu.isfinite(),
            (self.nu > features - 1) & self.nu.isfinite(),
        )
        nu = torch.where(held, self.nu, 1.0)
        mismatch = (self.covariance * belief.precision()).sum((1, 2))
        value = 0.5 * nu * (mismatch - belief.expected_log_det())
        safe = torch.where(proper, self.nu, features)
        log_det = (
            2 * self.factor().diagonal(dim1=1, dim2=2).log().sum(1) + features * (safe / 2).log()
        )
        constant = torch.special.multigammaln(safe / 2, features) - 0.5 * safe * log_det
        return torch.where(held, value, 0.0) + torch.where(proper, constant, 0.0)

    def _shared(self, per_group: Tensor) -> Tensor:
        """One value a component from one value a covariance."""
        return per_group.repeat_interleave(len(self.mean) // len(self.covariance), 0)

    def _pooled(self, per_component: Tensor) -> Tensor:
        """One value a covariance, the sum over the components that share it."""
        return per_component.view(len(self.covariance), -1, *per_component.shape[1:]).sum(1)

    def _pooled_most(self, per_component: Tensor) -> Tensor:
        """One value a covariance, the largest of the components that share it."""
        return per_component.view(len(self.covariance), -1, *per_component.shape[1:]).amax(1)
