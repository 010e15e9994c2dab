"""scikit-learn's Gaussian mixture over the EM trainer."""

__all__ = ["GaussianMixture"]

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from emgen.estimators.beliefs import Point
from emgen.families import Categorical, DiagonalGaussian, Gaussian
from emgen.models.conjugate.mixture import Mixture, Responsibilities
from emgen.trainers.em import EM

TYPES = ("full", "tied", "diag", "spherical")
STARTS = ("kmeans", "k-means++", "random", "random_from_data")


class _Mixture(DensityMixin, BaseEstimator, ABC):
    """What the two share: the loop over starts and iterations, predictions, and the attributes read
    from the model.
    """

    @abstractmethod
    def _model(self, x: Tensor) -> Mixture:
        """The mixture with its priors."""

    @abstractmethod
    def _bound(self, trainer: EM, n: int) -> float:
        """The lower bound in scikit-learn's units."""

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit to X (n_samples, n_features); y is ignored."""
        self.fit_predict(X)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and give the most probable component of each row."""
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        self._check(len(X))
        x, rng = torch.as_tensor(np.ascontiguousarray(X)), check_random_state(self.random_state)
        going_on = self.warm_start and hasattr(self, "model_")
        runs = []
        for _ in range(1 if going_on else self.n_init):
            model = self._continued(x) if going_on else self._started(x, X, rng)
            runs.append(
                (model, *self._climb(model, x, self.lower_bound_ if going_on else -math.inf))
            )
        self.model_, self.lower_bounds_, self.converged_ = max(
            runs, key=lambda run: run[1][-1] if run[1] else -math.inf
        )
        self.n_iter_ = len(self.lower_bounds_)
        self.lower_bound_ = self.lower_bounds_[-1] if self.lower_bounds_ else -math.inf
        if self.max_iter and not self.converged_:
            warnings.warn(
                f"the lower bound still moved by more than tol={self.tol} after {self.max_iter}"
                " iterations: raise max_iter or tol, or look at the data",
                ConvergenceWarning,
                stacklevel=2,
            )
        self._read(X.dtype)
        return self.predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row, (n_samples,)."""
        return self._posterior(X, lambda z: z.mode().labels)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Responsibilities (n_samples, n_components)."""
        return self._posterior(X, lambda z: z.probs)

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-likelihood of each row in nats; under Bayes the expected one of the variational
        posterior.
        """
        return self._posterior(X, lambda z: z.log_normaliser)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood per row in nats, larger is better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Rows drawn from the mixture, component by component, and their components."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples}: draw at least one row")
        rng = check_random_state(self.random_state)
        counts, rows, matrix = (
            rng.multinomial(n_samples, self.weights_),
            [],
            self.covariance_type in ("full", "tied"),
        )
        for mean, spread, n in zip(
            self.means_,
            (
                [self.covariances_] * len(counts)
                if self.covariance_type == "tied"
                else self.covariances_
            ),
            counts,
            strict=True,
        ):
            rows.append(
                rng.multivariate_normal(mean, spread, int(n))
                if matrix
                else mean + rng.standard_normal((n, len(mean))) * np.sqrt(spread)
            )
        return np.vstack(rows), np.repeat(np.arange(len(counts)), counts)

    def _posterior(self, X: Any, of: Callable[[Responsibilities], Tensor]) -> np.ndarray:
        """What is asked of the posterior of each row, by blocks that stay in cache."""
        check_is_fitted(self)
        x = torch.as_tensor(
            np.ascontiguousarray(
                validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
            )
        )
        return torch.cat(
            [of(self.model_.posterior(block)) for block in x.split(self.model_.rows)]
        ).numpy()

    def _started(self, x: Tensor, X: np.ndarray, rng: np.random.RandomState) -> Mixture:
        """A model at scikit-learn's start: its own seeds and labels from the same random numbers,
        then an M-step.
        """
        r = np.zeros((len(X), self.n_components))
        columns = np.arange(self.n_components)
        if self.init_params == "kmeans":
            r[
                np.arange(len(X)),
                KMeans(self.n_components, n_init=1, random_state=rng).fit(X).labels_,
            ] = 1
        elif self.init_params == "k-means++":
            r[kmeans_plusplus(X, self.n_components, random_state=rng)[1], columns] = 1
        elif self.init_params == "random_from_data":
            r[rng.choice(len(X), size=self.n_components, replace=False), columns] = 1
        else:
            r = rng.uniform(size=r.shape)
            r /= r.sum(1, keepdims=True)
        model = self._model(x.double())
        model.start(x, self._belief, r=torch.as_tensor(r))
        if (
            self.covariance_type == "tied" and not r.any(1).all()
        ):  # scikit-learn counts the squares of rows in no component too
            rest, nu = x.double()[~torch.as_tensor(r).any(1)], model.components.nu
            mass = torch.where(nu.isinf(), r.sum(), nu)[:, None, None]
            model.components = model.components.replace(
                covariance=model.components.covariance + rest.T @ rest / mass
            )
        return model

    def _continued(self, x: Tensor) -> Mixture:
        """The last fit's parameters under the priors of today's data and arguments."""
        model, last = self._model(x.double()), self.model_
        shapes = [
            {name: tuple(v.shape) for name, v in m.components.state_dict().items()}
            for m in (model, last)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"warm_start=True goes on from components of shape {shapes[1]}, which are not"
                f" {shapes[0]} as asked for now: leave n_components, covariance_type and the"
                " features as they were, or set warm_start=False"
            )
        model.weights, model.components = last.weights, last.components
        model.started.fill_(True)
        return model

    def _climb(self, model: Mixture, x: Tensor, before: float) -> tuple[list[float], bool]:
        """The lower bound of each iteration until it moves by less than tol, and whether it did.

        The M-step adds reg_covar, from the prior; scikit-learn's E-step does not know of it, which
        is what monotone EM would ask.
        """
        trainer, bounds, change = EM(model, parameters=self._belief, tol=None), [], math.inf
        if self.reg_covar or getattr(model.components, "wishart", False):
            trainer.guarantee = "none"
        for i in range(self.max_iter):
            model.components.reg_covar = 0.0
            trainer.ledger.clear()
            trainer.training_step(x, 0)
            bounds.append(self._bound(trainer, len(x)))
            if self.verbose and (i + 1) % self.verbose_interval == 0:
                print(f"iteration {i + 1}: lower bound {bounds[-1]:.6f}")
            change, before = abs(bounds[-1] - before), bounds[-1]
            if change < self.tol:
                break
        model.components.reg_covar = 0.0  # no part of the density
        return bounds, change < self.tol

    def _check(self, rows: int) -> None:
        for name, low in (
            ("n_components", 1),
            ("max_iter", 0),
            ("n_init", 1),
            ("tol", 0),
            ("reg_covar", 0),
        ):
            if not getattr(self, name) >= low:
                raise ValueError(f"{name}={getattr(self, name)} must be {low} or more")
        for name, options in (("covariance_type", TYPES), ("init_params", STARTS)):
            if getattr(self, name) not in options:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(options)}"
                )
        if rows < self.n_components:
            raise ValueError(
                f"n_components={self.n_components} needs at least as many samples, but there are"
                f" {rows}"
            )

    def _read(self, dtype: np.dtype) -> None:
        """The attributes of scikit-learn from the model's buffers, in the dtype of X."""
        components = self.model_.components
        if isinstance(components, Gaussian):
            precision = components.precision()
            eye = torch.eye(precision.shape[-1], dtype=precision.dtype)
            root = torch.linalg.solve_triangular(components.factor(), eye, upper=False).mT
            values = components.covariance, precision, root
            values = tuple(v[0] for v in values) if self.covariance_type == "tied" else values
        else:
            variance = (
                components.variance.squeeze(1)
                if self.covariance_type == "spherical"
                else components.variance
            )
            values = variance, 1 / variance, variance.rsqrt()
        (
            self.weights_,
            self.means_,
            self.covariances_,
            self.precisions_,
            self.precisions_cholesky_,
        ) = (v.numpy().astype(dtype) for v in (self.model_.weights.mean, components.mean, *values))


class GaussianMixture(_Mixture):
    """A mixture of Gaussians by EM, as `sklearn.mixture.GaussianMixture`: same arguments,
    attributes, starts and iterates.

    Args:
        n_components: K.
        covariance_type: full, tied, diag or spherical.
        tol: stop when the mean log-likelihood moves by less.
        reg_covar: added to the diagonal of every covariance.
        max_iter: EM iterations at the most.
        n_init: starts; the best result is kept.
        init_params: kmeans, k-means++, random or random_from_data.
        weights_init, means_init, precisions_init: a start of one's own.
        random_state: seed of all draws.
        warm_start: continue from the last fit.
        verbose, verbose_interval: print the bound every so many iterations.

    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> sorted(GaussianMixture(n_components=2, random_state=0).fit(X).means_.round(1).tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    """

    _belief = Point()

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
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
        self.weights_init, self.means_init, self.precisions_init = (
            weights_init,
            means_init,
            precisions_init,
        )
        self.random_state, self.warm_start, self.verbose, self.verbose_interval = (
            random_state,
            warm_start,
            verbose,
            verbose_interval,
        )

    def bic(self, X: Any) -> float:
        """Bayesian information criterion of the data, lower is better."""
        return -2 * self.score(X) * len(X) + self._n_parameters() * math.log(len(X))

    def aic(self, X: Any) -> float:
        """Akaike information criterion of the data, lower is better."""
        return -2 * self.score(X) * len(X) + 2 * self._n_parameters()

    def _n_parameters(self) -> int:
        k, d = self.means_.shape
        scale = {
            "full": k * d * (d + 1) // 2,
            "tied": d * (d + 1) // 2,
            "diag": k * d,
            "spherical": k,
        }
        return scale[self.covariance_type] + k * d + k - 1

    def _model(self, x: Tensor) -> Mixture:
        return Mixture(Categorical.flat(symbols=self.n_components), flat_prior(self, x.shape[1]))

    def _started(self, x: Tensor, X: np.ndarray, rng: np.random.RandomState) -> Mixture:
        given = {"weights": self.weights_init, "mean": self.means_init}
        if self.precisions_init is not None:
            precision = torch.as_tensor(self.precisions_init, dtype=torch.float64)
            if self.covariance_type in ("full", "tied"):
                given["covariance"] = torch.linalg.inv(precision)
            else:
                given["variance"] = 1 / precision.reshape(self.n_components, -1)
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) == 3:  # nothing is left to find
            model = self._model(x.double())
            model.put(**given)
            return model
        model = super()._started(x, X, rng)
        if "weights" in given:
            model.weights = model.weights.given(mean=given.pop("weights"))
        model.components = model.components.given(**given)
        return model

    def _bound(self, trainer: EM, n: int) -> float:
        return trainer.bounds[-2][1]  # of the E-step: the mean log-likelihood


def flat_prior(estimator: Any, features: int) -> Gaussian | DiagonalGaussian:
    """The flat prior over the components."""
    kind, k = estimator.covariance_type, estimator.n_components
    if kind in ("full", "tied"):
        return Gaussian.flat(k, features, tied=kind == "tied", reg_covar=estimator.reg_covar)
    flat = DiagonalGaussian.flat(
        k, features, spherical=kind == "spherical", reg_covar=estimator.reg_covar
    )
    flat.wishart = estimator._belief.needs_prior
    return flat
