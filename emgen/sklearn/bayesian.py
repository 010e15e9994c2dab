"""scikit-learn's variational Gaussian mixture over the EM trainer."""

__all__ = ["BayesianGaussianMixture"]

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emgen.estimators.beliefs import Distribution
from emgen.families import Categorical, StickBreaking
from emgen.models.conjugate.mixture import Mixture
from emgen.sklearn.mixture import _Mixture, flat_prior
from emgen.trainers.em import EM


class BayesianGaussianMixture(_Mixture):
    """A mixture of Gaussians by variational Bayes, as `sklearn.mixture.BayesianGaussianMixture`,
    starts and iterates too.

    The lower bound carries all constants and is in nats for the whole data set. For covariance_type
    diag and spherical scikit-learn takes E log|Λ| from a Wishart matrix that the model does not
    have; so does this class, for its iterates' sake, and there its bound is scikit-learn's too,
    which may fall; `emgen.models.GaussianMixture` has the exact one. A tied covariance is worth all
    rows here, the rows of one component there, which shifts scores by a constant.

    Args:
        n_components: K, the truncation of the Dirichlet process.
        covariance_type, tol, reg_covar, max_iter, n_init, init_params: as in `GaussianMixture`.
        weight_concentration_prior_type: dirichlet_process or dirichlet_distribution.
        weight_concentration_prior: γ of the process, or α of each weight; 1/K by default.
        mean_precision_prior: κ, 1 by default.
        mean_prior: m, the data's mean by default.
        degrees_of_freedom_prior: ν > n_features − 1, n_features by default.
        covariance_prior: the prior's scatter, the data's covariance by default.
        random_state, warm_start, verbose, verbose_interval: as in `GaussianMixture`.

    >>> X = [[1, 2], [1, 4], [1, 0], [4, 2], [12, 4], [10, 7]]
    >>> BayesianGaussianMixture(n_components=2, random_state=42).fit(X).means_.shape
    (2, 2)
    """

    _belief = Distribution()

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
    ):
        self.n_components, self.covariance_type, self.tol, self.reg_covar = (
            n_components,
            covariance_type,
            tol,
            reg_covar,
        )
        self.max_iter, self.n_init, self.init_params = max_iter, n_init, init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior, self.mean_precision_prior = (
            weight_concentration_prior,
            mean_precision_prior,
        )
        self.mean_prior, self.degrees_of_freedom_prior = mean_prior, degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state, self.warm_start, self.verbose, self.verbose_interval = (
            random_state,
            warm_start,
            verbose,
            verbose_interval,
        )

    def _model(self, x: Tensor) -> Mixture:
        """The priors of scikit-learn in ours: what is shared by K components or D features counts K
        or D times.
        """
        k, d = self.n_components, x.shape[1]
        covariance = x.T.cov().reshape(d, d)
        scatter = {
            "full": covariance,
            "tied": covariance,
            "diag": covariance.diagonal(),
            "spherical": covariance.diagonal().mean(),
        }
        given = [
            self.mean_prior,
            self.mean_precision_prior,
            self.degrees_of_freedom_prior,
            self.covariance_prior,
        ]
        default = [x.mean(0), 1.0, float(d), scatter[self.covariance_type]]
        mean, kappa, nu, scatter = (
            torch.as_tensor(b if a is None else a, dtype=x.dtype)
            for a, b in zip(given, default, strict=True)
        )
        if kappa <= 0 or nu <= d - 1:
            raise ValueError(
                f"mean_precision_prior={kappa:g} must be positive and"
                f" degrees_of_freedom_prior={nu:g} more than {d - 1}"
            )
        self.mean_prior_, self.mean_precision_prior_ = mean.numpy(), float(kappa)
        self.degrees_of_freedom_prior_, self.covariance_prior_ = float(nu), scatter.numpy()
        times = {"tied": k, "spherical": d}.get(self.covariance_type, 1)
        prior = flat_prior(self, d).given(
            mean=mean,
            kappa=kappa,
            nu=times * nu,
            **{
                "covariance" if self.covariance_type in ("full", "tied") else "variance": (
                    scatter / nu
                )
            },
        )
        alpha = (
            1 / k if self.weight_concentration_prior is None else self.weight_concentration_prior
        )
        if not alpha > 0:
            raise ValueError(f"weight_concentration_prior={alpha} must be positive")
        self.weight_concentration_prior_ = alpha
        if self.weight_concentration_prior_type == "dirichlet_process":
            return Mixture(StickBreaking.process(k, alpha), prior)
        if self.weight_concentration_prior_type == "dirichlet_distribution":
            return Mixture(Categorical.dirichlet(torch.full((k,), alpha, dtype=x.dtype)), prior)
        raise ValueError(
            f"weight_concentration_prior_type={self.weight_concentration_prior_type!r} is neither"
            " dirichlet_process nor dirichlet_distribution"
        )

    def _read(self, dtype: np.dtype) -> None:
        super()._read(dtype)
        alpha, nu, kappa = self._concentrations(self.model_)
        self.weight_concentration_ = tuple(alpha.T.numpy()) if alpha.ndim > 1 else alpha.numpy()
        self.degrees_of_freedom_ = float(nu[0]) if self.covariance_type == "tied" else nu.numpy()
        self.mean_precision_ = kappa.numpy()

    def _concentrations(self, model: Mixture) -> tuple[Tensor, Tensor, Tensor]:
        """Of the weights (K,) or their sticks (K, 2), of the covariances and of the means (K,), as
        scikit-learn counts them.
        """
        belief, components = model.weights, model.components
        dirichlet = belief.sticks if isinstance(belief, StickBreaking) else belief
        nu, kappa = (v[:, 0] if v.ndim > 1 else v for v in (components.nu, components.kappa))
        each = {
            "full": 1,
            "tied": self.n_components,
            "diag": 1,
            "spherical": components.mean.shape[1],
        }[self.covariance_type]
        return dirichlet.mean * dirichlet.concentration[..., None], nu / each, kappa

    def _bound(self, trainer: EM, n: int) -> float:
        if not getattr(trainer.model.components, "wishart", False):
            return trainer.bounds[-1][1] * n
        alpha, nu, kappa = self._concentrations(trainer.model)
        (k, d), variance = trainer.model.components.mean.shape, trainer.model.components.variance
        log_det = variance.expand(k, d).log().sum(1) + d * nu.log()
        wishart = torch.special.multigammaln(nu / 2, d) + nu / 2 * (d * math.log(2) - log_det)
        wishart = wishart - d * (d - 1) / 4 * math.log(math.pi)  # which scikit-learn leaves out
        weights = alpha.lgamma().sum() - alpha.sum(-1).lgamma().sum()
        return float(
            trainer.ledger.means()["entropy"] * n
            + wishart.sum()
            + weights
            - d / 2 * kappa.log().sum()
        )
