"""Gaussians with independent features, their own variances or one for all, and their Normal-Gamma
beliefs.
"""

__all__ = ["DiagonalGaussian"]

import math
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, Normal

from emgen.families.base import (
    FAR,
    Family,
    centre_of,
    masked,
    observed,
    overflow,
    per_component,
    remembered,
    resolution,
    share,
    spread,
)
from emgen.families.choice import Choice

ROWS = 512  # rows a block where differences are taken explicitly


class DiagonalGaussian(Family):
    """K Gaussians Π_d N(x_d|μ_kd, 1/λ), belief μ|λ ~ N(m, 1/(κ λ)), λ ~ Gamma(shape ν/2, rate ν
    v/2), so E[λ] = 1/v.

    The variances are (G, F): K × D diagonal, K × 1 spherical, 1 × 1 one for all; who shares a
    variance pools scatter. Modes,
    flat and fixed priors and `reg_covar` are as in `Gaussian`: a fixed σ² is a prior with ν = ∞.
    Missing values (NaN) are left out exactly.

    Args:
        mean: m, (K, D).
        variance: v, (G, F).
        kappa: (K, D) data that the belief about each mean is worth.
        nu: (G, F) observed values that the belief about each variance is worth.
        reg_covar: ε, in squared units of x.
        wishart: take E log λ as if the D variances were the diagonal of one Wishart matrix with ν
            (spherical: ν/D) degrees, as scikit-learn does. It is no expectation under this belief,
            so the bound is no longer one.

    >>> DiagonalGaussian(torch.zeros(1, 1), torch.ones(1, 1)).expected_log_prob(torch.zeros(1, 1))
    tensor([[-0.9189]])
    """

    mean: Tensor
    variance: Tensor
    kappa: Tensor
    nu: Tensor

    def __init__(
        self,
        mean: Tensor,
        variance: Tensor,
        kappa: Tensor | float = torch.inf,
        nu: Tensor | float = torch.inf,
        reg_covar: float = 0.0,
        wishart: bool = False,
    ):
        super().__init__()
        if len(mean) % len(variance) or variance.shape[1] not in (1, mean.shape[1]):
            raise ValueError(
                f"variances of shape {tuple(variance.shape)} cannot be shared by means of shape"
                f" {tuple(mean.shape)}"
            )
        if not reg_covar >= 0:
            raise ValueError(
                f"reg_covar={reg_covar} must be 0 or more, in squared units of the data"
            )
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.register_buffer(
            "kappa",
            torch.as_tensor(kappa, dtype=mean.dtype, device=mean.device).expand_as(mean).clone(),
        )
        self.register_buffer(
            "nu",
            torch.as_tensor(nu, dtype=mean.dtype, device=mean.device).expand_as(variance).clone(),
        )
        self.reg_covar, self.wishart = reg_covar, wishart

    @classmethod
    def flat(
        cls,
        components: int,
        features: int,
        *,
        spherical: bool = False,
        tied: bool = False,
        reg_covar: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> "DiagonalGaussian":
        """The flat prior over K × D means and their variances."""
        variance = torch.ones(1 if tied else components, 1 if spherical else features, dtype=dtype)
        return cls(torch.zeros(components, features, dtype=dtype), variance, 0.0, 0.0, reg_covar)

    # --- data under the belief -------------------------------------------------------------------

    def expected_log_prob(self, x: Tensor) -> Tensor:
        """E log N(x|μ, 1/λ) = −½ Σ_d [log 2π − E log λ + 1/κ + ((x − m)² + ε)/v] over what was
        seen, (N, K).
        """
        x, seen = observed(x, self.mean.shape[1])
        x = x if x.is_floating_point() else x.to(self.mean.dtype)
        if not self._safe(x.dtype):
            return self._differences(x, seen)
        centre, linear, square, constant, _ = (c.to(x.dtype) for c in self._quadratics())
        natural = torch.cat(
            [linear, square, constant.sum(1, keepdim=True) if seen is None else constant], 1
        )
        return (
            natural @ self._sufficient(x, seen, centre).T
        ).T  # (K, N) in memory: what runs over K then runs along rows

    def statistics(self, x: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Moments about the current means: count (K, D), Σ r (x − m_k) (K, D), and scatter (K, F),
        pooled over the features of a sphere.
        """
        x, seen = observed(x, self.mean.shape[1])
        dtype = self.mean.dtype
        centre, features = self._quadratics()[0], self.mean.shape[1]
        t, r = self._sufficient(x.to(dtype), seen, centre), r.to(dtype)
        shift = self.mean - centre
        safe = self._safe(dtype)
        total, square, count = (r.T @ t).tensor_split(
            (features, features + self.variance.shape[1]), 1
        )
        count = count.expand_as(self.mean)
        if safe:
            own = square - self._across(total * share(total, count) - self.reg_covar * count)
            most = count if self.variance.shape[1] > 1 else count.amax(1, keepdim=True)
            lost = (square * torch.finfo(dtype).eps > 1e-10 * own) & (
                most > (0 if self.reg_covar else 1)
            )
            safe = not bool(lost.any())  # else more cancels than the current variances foretold
        if safe:
            scatter = square - self._across(2 * shift * total - count * shift.square())
            total = total - count * shift
        else:
            total, scatter = (
                torch.zeros_like(self.mean),
                self.mean.new_zeros(len(self.mean), self.variance.shape[1]),
            )
            for start in range(0, len(x), ROWS):
                rows = slice(start, start + ROWS)
                z = t[rows, None, :features] - shift
                z = z if seen is None else masked(z.transpose(1, 2), seen[rows]).transpose(1, 2)
                total += torch.einsum("nk,nkd->kd", r[rows], z)
                scatter += torch.einsum("nk,nkf->kf", r[rows], self._squares(z))
        return {"count": count, "sum": total, "scatter": scatter}

    def chosen(self, x: Tensor, choice: Choice) -> dict[str, Tensor]:
        """The same of one choice a row: differences from the chosen mean itself, which are exact
        and few.
        """
        x, seen = observed(x, self.mean.shape[1])
        away = choice.of(self.mean).sub_(x.to(choice.dtype)[:, None])  # m − x, in the place of m
        if seen is None:
            count = choice.counts[:, None].expand_as(self.mean)
        else:
            away = torch.where(seen[:, None], away, 0.0)
            count = choice.sums(seen[:, None].expand_as(away).to(choice.dtype))
        return {
            "count": count,
            "sum": -choice.sums(away),
            "scatter": choice.sums(self._squares(away)),
        }

    def expected_fit(self, s: dict[str, Tensor]) -> Tensor:
        fit = s["count"] * (
            math.log(2 * math.pi) + 1 / self.kappa - self._shared(self._expected_log())
        )
        scatter = s["scatter"] + self.reg_covar * self._across(s["count"])
        return -0.5 * (per_component(fit) + per_component(scatter / self._shared(self.variance)))

    # --- the belief itself -----------------------------------------------------------------------

    def update(self, s: dict[str, Tensor], about: "DiagonalGaussian | None" = None) -> Self:
        about, count = self if about is None else about, s["count"]
        held = self._pooled(count)
        kappa, nu = self.kappa + count, self.nu + held
        offset = share(s["sum"], count)
        data = about.mean + offset
        prior = torch.where(self.kappa > 0, self.mean, about.mean)
        moved = share(count, kappa)
        between = torch.where(
            self.kappa.isinf(), count, torch.where(self.kappa > 0, self.kappa * moved, 0.0)
        )
        scatter = (s["scatter"] - self._across(offset * s["sum"])).clamp(min=0)
        scatter = scatter + self._across(between * (data - prior).square() + self.reg_covar * count)
        expected = torch.where(self.nu > 0, self.variance, about.variance)
        far = FAR * share(self._pooled(offset * s["sum"]), held)
        variance = torch.lerp(
            expected, torch.maximum(share(self._pooled(scatter), held), far), share(held, nu)
        )
        mean = torch.lerp(prior, data, moved)
        least = 0.0 if self.reg_covar or (self.nu > 0).all() else self._least(mean)
        if not (variance > least).all():
            raise _collapsed(variance, held, ~(variance > least))
        return self.replace(mean=mean, variance=variance, kappa=kappa, nu=nu)

    def _least(self, mean: Tensor) -> Tensor:
        """The largest variance that identical rows at these means may seem to have, (G, F)."""
        most = self._across(resolution(mean)).view(len(self.variance), -1, self.variance.shape[1])
        return most.amax(1)

    def rebase(self, s: dict[str, Tensor], about: "DiagonalGaussian") -> dict[str, Tensor]:
        shift = about.mean - self.mean
        scatter = s["scatter"] + self._across(2 * shift * s["sum"] + s["count"] * shift.square())
        return {"count": s["count"], "sum": s["sum"] + s["count"] * shift, "scatter": scatter}

    def mode(self) -> Self:
        return self.replace(
            kappa=torch.full_like(self.kappa, torch.inf), nu=torch.full_like(self.nu, torch.inf)
        )

    def sample(self) -> Self:
        if (self.kappa == 0).any() or (self.nu == 0).any():
            raise ValueError(
                "cannot draw Gaussian parameters from a flat belief: give the model a prior with"
                " kappa > 0 and nu > 0"
            )
        half = torch.where(self.nu.isinf(), 1.0, self.nu / 2)
        variance = torch.where(
            self.nu.isinf(), self.variance, self.variance / Gamma(half, half).sample()
        )
        noise = torch.randn_like(self.mean) * (self._shared(variance) / self.kappa).sqrt()
        return self.replace(mean=self.mean + noise, variance=variance).mode()

    def ascend(self, posterior: "DiagonalGaussian", steps: int, lr: float) -> Self:
        mean, variance = self.mean, self.variance
        tie = torch.where(
            posterior.kappa > 0, posterior.kappa / posterior._shared(posterior.nu), 0.0
        ).nan_to_num(0.0)
        for _ in range(
            steps
        ):  # in turn: each block's conditional optimum is a share of the way off
            mean = torch.lerp(mean, posterior.mean, lr)
            variance = torch.lerp(
                variance,
                posterior.variance + self._pooled(tie * (mean - posterior.mean).square()),
                lr,
            )
        return self.replace(mean=mean, variance=variance).mode()

    def kl(self, prior: "DiagonalGaussian") -> Tensor:
        """KL(q‖p) of Normal-Gammas; shared variances count in equal shares for their components."""
        variances = per_component(prior._gamma_cross(self) - self._gamma_cross(self))
        part = len(variances) / len(self.mean)
        variances = variances.repeat_interleave(len(self.mean) // len(variances)) * part
        return per_component(prior._normal_cross(self) - self._normal_cross(self)) + variances

    def likelihood(self) -> Distribution:
        return Independent(
            Normal(self.mean, self._shared(self.variance).sqrt().expand_as(self.mean)), 1
        )

    @property
    def is_flat(self) -> bool:
        return bool((self.kappa == 0).any() or (self.nu == 0).any())

    @property
    def holds_one_row(self) -> bool:
        return (
            bool((self.nu > 0).all()) or self.reg_covar > 0 or len(self.variance) < len(self.mean)
        )

    def weak(self, x: Tensor, weight: Tensor | None = None) -> Self:
        """Where flat, κ = 1 at the data's mean and ν = 1 at their variance."""
        mean, variance = spread(x, weight, self.mean.dtype)
        variance = variance + self.reg_covar
        variance = variance if self.variance.shape[1] > 1 else variance.mean(0, keepdim=True)
        return self.replace(
            mean=torch.where(self.kappa == 0, mean, self.mean),
            variance=torch.where(self.nu == 0, variance, self.variance),
            kappa=torch.where(self.kappa == 0, 1.0, self.kappa),
            nu=torch.where(self.nu == 0, 1.0, self.nu),
        )

    # --- plumbing --------------------------------------------------------------------------------

    @remembered
    def _expected_log(self) -> Tensor:
        """E log λ = ψ(ν/2) − log(ν/2) − log v, (G, F)."""
        features = self.mean.shape[1]
        half = torch.where(self.nu.isinf(), features, self.nu / 2)
        digamma = half.digamma()
        if self.wishart:
            degrees = self.nu / (1 if self.variance.shape[1] == features else features)
            steps = torch.arange(features, dtype=degrees.dtype, device=degrees.device)
            digamma = ((degrees[..., None] - steps) / 2).digamma().mean(-1) + (
                half / degrees * 2
            ).log()
        return torch.where(self.nu.isinf(), 0.0, digamma - half.log()) - self.variance.log()

    @remembered
    def _quadratics(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A common centre (D), and the scores as quadratics about it: linear (K, D), square (K, F),
        and what is constant (K, D), about the centre and about the means."""
        weight, centre = self._shared(1 / self.variance), centre_of(self.mean)
        shift = self.mean - centre
        constant = -0.5 * (
            math.log(2 * math.pi)
            + 1 / self.kappa
            - self._shared(self._expected_log())
            + self.reg_covar * weight
        )
        return (
            centre,
            weight * shift,
            -0.5 * weight,
            constant - 0.5 * weight * shift.square(),
            constant,
        )

    def _sufficient(self, x: Tensor, seen: Tensor | None, centre: Tensor) -> Tensor:
        """What scores are linear in, about the common centre: y, its squares, and 1 (or what was
        seen of y), side by side.
        """
        y = x - centre
        if seen is None:
            return torch.cat([y, self._squares(y), y.new_ones(len(y), 1)], 1)
        y = masked(y, seen)
        return torch.cat([y, self._squares(y), seen.to(y.dtype)], 1)

    def _safe(self, dtype: torch.dtype) -> bool:
        """Whether squares about the common centre keep 8 digits (4 in single precision) of those
        about the means.
        """
        return self._spread() * torch.finfo(dtype).eps ** 0.5 < 1

    @remembered
    def _spread(self) -> float:
        centre, linear = self._quadratics()[:2]
        return float((linear * (self.mean - centre)).max())

    def _differences(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """The scores by blocks of rows from x − m_k itself, where means lie too far apart for
        expanded squares.
        """
        out = x.new_empty(len(x), len(self.mean))
        centre, _, square, _, constant = self._quadratics()
        shift = self.mean - centre
        for start in range(0, len(x), ROWS):
            rows = slice(start, start + ROWS)
            y = x[rows].to(shift.dtype) - centre
            terms = (y[:, None] - shift).square_() * square + constant
            out[rows] = (terms if seen is None else terms * seen[rows, None]).sum(-1)
        return out

    def _normal_cross(self, belief: "DiagonalGaussian") -> Tensor:
        """−E log N(μ|m, 1/(κλ)) with respect to λ^½ dμ under `belief`, (K, D)."""
        proper = (self.kappa > 0) & self.kappa.isfinite()
        kappa = torch.where(proper, self.kappa, 1.0)
        quadratic = (belief.mean - self.mean).square() / belief._shared(belief.variance)
        value = 0.5 * ((2 * math.pi / kappa).log() + kappa / belief.kappa + kappa * quadratic)
        return torch.where(proper, value, 0.0)

    def _gamma_cross(self, belief: "DiagonalGaussian") -> Tensor:
        """−E log Gamma(λ|ν/2, νv/2) with respect to dλ/λ under `belief`, (G, F)."""
        proper = (self.nu > 0) & self.nu.isfinite()
        half = torch.where(proper, self.nu / 2, 1.0)
        value = half * (self.variance / belief.variance - belief._expected_log())
        value = value + half.lgamma() - half * (half * self.variance).log()
        return torch.where(proper, value, 0.0)

    def _across(self, values: Tensor) -> Tensor:
        """Values of features (…, D) as the variances hold them, (…, F): a sphere's are summed."""
        return values if self.variance.shape[1] > 1 else values.sum(-1, keepdim=True)

    def _squares(self, values: Tensor) -> Tensor:
        """Squared values (…, D) as the variances hold them, (…, F)."""
        return (
            values.square()
            if self.variance.shape[1] > 1
            else torch.linalg.vector_norm(values, dim=-1, keepdim=True).square()
        )

    def _shared(self, per_group: Tensor) -> Tensor:
        """One row a component from one row a group of variances."""
        return per_group.repeat_interleave(len(self.mean) // len(self.variance), 0)

    def _pooled(self, per_mean: Tensor) -> Tensor:
        """Sums over the components and features that share a variance, (G, F)."""
        pooled = per_mean.reshape(len(self.variance), -1, per_mean.shape[1]).sum(1)
        return (
            pooled
            if self.variance.shape[1] > 1 or per_mean.shape[1] == 1
            else pooled.sum(1, keepdim=True)
        )


def _collapsed(variance: Tensor, held: Tensor, lost: Tensor) -> ValueError:
    if not bool(variance.isfinite().all()):
        return overflow()
    g, f = lost.nonzero()[0].tolist()
    which = "the shared variance" if len(variance) == 1 else f"component {g}"
    return ValueError(
        f"{which} has variance {variance[g, f]:.3g} in feature {f} over a mass of {held[g, f]:.3g}:"
        " its rows are identical there; try reg_covar=1e-6 or more, fewer components, or a prior"
    )
