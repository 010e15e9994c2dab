"""hmmlearn's Gaussian and categorical hidden Markov models, with its names, arguments, starts and
iterates.
"""

__all__ = ["CategoricalHMM", "GaussianHMM"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from emgen.estimators.beliefs import Point
from emgen.families import Categorical, DiagonalGaussian, Family, Gaussian
from emgen.models.conjugate.hidden_markov import HiddenMarkovModel
from emgen.models.conjugate.packed_sequences import Frames, Packing
from emgen.randomness import seeded

NEARLY_FLAT = (
    1e-8  # data a prior is worth that has a scatter but, in hmmlearn's arithmetic, no weight
)


class _HMM(BaseEstimator, ABC):
    """What the two share: concatenated sequences, the loop of iterations, decoding and scores."""

    model_: HiddenMarkovModel

    @abstractmethod
    def _emission(self, X: np.ndarray) -> tuple[Family, Family]:
        """The emission's prior and where it starts."""

    @abstractmethod
    def _read(self) -> None:
        """The emission's attributes from the model."""

    @abstractmethod
    def _size(self) -> int:
        """How many free parameters the emissions have."""

    @abstractmethod
    def _check_X(self, X: Any) -> np.ndarray: ...

    def fit(self, X: Any, lengths: Sequence[int] | None = None) -> Any:
        """Fit to sequences concatenated in X (n_samples, n_features), cut by their lengths."""
        if self.n_components < 1 or self.n_iter < 1:
            raise ValueError(
                f"n_components={self.n_components}, n_iter={self.n_iter}: both must be 1 or more"
            )
        X, rng = self._check_X(X), check_random_state(self.random_state)
        initial, transition = (
            self._chain("startprob_", "s", (), rng),
            self._chain("transmat_", "t", (self.n_components,), rng),
        )
        emission, start = self._emission(X)
        model = HiddenMarkovModel(emission, initial[0], transition[0])
        model.initial, model.transition, model.emission = initial[1], transition[1], start
        model.started.fill_(True)
        batch, history = _packed(X, lengths), []
        with torch.inference_mode():
            for _ in range(self.n_iter):
                s = model.statistics(batch, model.posterior(batch))
                history.append(float(s["evidence"]))
                model.m_step(s, Point())
                if self.verbose:
                    print(f"{len(history):>10} {history[-1]:>16.8f}")
                if len(history) > 1 and history[-1] - history[-2] < self.tol:
                    break
        self.model_ = model
        converged = len(history) == self.n_iter or history[-1] - history[-2] < self.tol
        self.monitor_ = SimpleNamespace(history=history, iter=len(history), converged=converged)
        self.startprob_, self.transmat_ = model.initial.mean.numpy(), model.transition.mean.numpy()
        self._read()
        return self

    def score(self, X: Any, lengths: Sequence[int] | None = None) -> float:
        """Log-likelihood of all sequences together, in nats."""
        return float(self._posterior(X, lengths).log_evidence.sum())

    def score_samples(
        self, X: Any, lengths: Sequence[int] | None = None
    ) -> tuple[float, np.ndarray]:
        """The log-likelihood, and the posterior probabilities of the states (n_samples,
        n_components).
        """
        posterior = self._posterior(X, lengths)
        return float(posterior.log_evidence.sum()), _concatenated(posterior, posterior.marginals)

    def predict_proba(self, X: Any, lengths: Sequence[int] | None = None) -> np.ndarray:
        """Posterior probabilities of the states (n_samples, n_components)."""
        return self.score_samples(X, lengths)[1]

    def decode(
        self, X: Any, lengths: Sequence[int] | None = None, algorithm: str | None = None
    ) -> tuple[float, np.ndarray]:
        """The most probable path and its log joint probability (`viterbi`), or each frame's best
        state (`map`).
        """
        algorithm, posterior = algorithm or self.algorithm, self._posterior(X, lengths)
        if algorithm == "viterbi":
            path, log_joint = posterior.viterbi()
            return float(log_joint.sum()), _concatenated(posterior, path)
        if algorithm == "map":
            best = posterior.marginals.max(-1)
            return float(best.values.sum()), _concatenated(posterior, best.indices)
        raise ValueError(f"algorithm={algorithm!r} is neither viterbi nor map")

    def predict(self, X: Any, lengths: Sequence[int] | None = None) -> np.ndarray:
        """The states of the most probable path (n_samples,)."""
        return self.decode(X, lengths)[1]

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """One sequence X (n_samples, n_features) drawn from the model, and its states."""
        check_is_fitted(self, "model_")
        rng = check_random_state(self.random_state if random_state is None else random_state)
        with seeded(rng.randint(2**31)):
            x, z = self.model_.sample_with_states(1, n_samples)
        return x[0].numpy(), z[0].numpy()

    def get_stationary_distribution(self) -> np.ndarray:
        """The probabilities of the states in the long run (n_components,)."""
        check_is_fitted(self, "transmat_")
        values, vectors = np.linalg.eig(self.transmat_.T)
        return (one := vectors[:, values.argmax()].real) / one.sum()

    def bic(self, X: Any, lengths: Sequence[int] | None = None) -> float:
        """Bayesian information criterion, lower is better."""
        return -2 * self.score(X, lengths) + (self._size() + self.n_components**2 - 1) * np.log(
            len(X)
        )

    def aic(self, X: Any, lengths: Sequence[int] | None = None) -> float:
        """Akaike information criterion, lower is better."""
        return -2 * self.score(X, lengths) + 2 * (self._size() + self.n_components**2 - 1)

    def _posterior(self, X: Any, lengths: Sequence[int] | None) -> Any:
        check_is_fitted(self, "model_")
        with torch.inference_mode():
            return self.model_.posterior(_packed(self._check_X(X), lengths))

    def _chain(
        self, name: str, code: str, rows: tuple[int, ...], rng: np.random.RandomState
    ) -> tuple[Categorical, Categorical]:
        """Prior and start of the initial or transition probabilities: drawn, or those that were set
        before.
        """
        if code in self.init_params:
            setattr(
                self,
                name,
                rng.dirichlet(np.full(self.n_components, 1 / self.n_components), size=rows or None),
            )
        start = Categorical(torch.tensor(np.asarray(_given(self, name), dtype=float)))
        prior = np.where(
            start.mean > 0, self.startprob_prior if code == "s" else self.transmat_prior, 1.0
        )  # zeros stay
        return (_dirichlet(prior, start) if code in self.params else start), start


class GaussianHMM(_HMM):
    """A hidden Markov model with Gaussian emissions by EM, as `hmmlearn.hmm.GaussianHMM`.

    Args:
        n_components: number of states.
        covariance_type: spherical, diag, full or tied.
        min_covar: added to the diagonal of the starting covariance.
        startprob_prior, transmat_prior: Dirichlet priors; 1 is flat.
        means_prior, means_weight, covars_prior, covars_weight: Normal and inverse gamma (or
            Wishart) priors.
        algorithm: of `predict`, viterbi or map.
        random_state: seed of the start.
        n_iter, tol: iterations at the most, and the gain in log-likelihood below which they stop.
        verbose: print the log-likelihood of each iteration.
        params, init_params: what is learnt and what is initialised: s(tart), t(ransition), m(eans),
            c(ovariances).
        implementation: kept for compatibility; recursions are scaled and fall back to logarithms by
            themselves.

    >>> X = np.concatenate([np.zeros((20, 1)), 5 + np.zeros((20, 1))]) + np.random.RandomState(0).randn(40, 1)
    >>> GaussianHMM(2, random_state=0).fit(X).predict(X)[[0, 39]].tolist() in ([0, 1], [1, 0])
    True
    """

    def __init__(
        self,
        n_components: int = 1,
        covariance_type: str = "diag",
        min_covar: float = 1e-3,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        means_prior: Any = 0,
        means_weight: Any = 0,
        covars_prior: Any = 1e-2,
        covars_weight: Any = 1,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 10,
        tol: float = 1e-2,
        verbose: bool = False,
        params: str = "stmc",
        init_params: str = "stmc",
        implementation: str = "log",
    ):
        self.n_components, self.covariance_type, self.min_covar = (
            n_components,
            covariance_type,
            min_covar,
        )
        self.startprob_prior, self.transmat_prior = startprob_prior, transmat_prior
        self.means_prior, self.means_weight = means_prior, means_weight
        self.covars_prior, self.covars_weight = covars_prior, covars_weight
        self.algorithm, self.random_state, self.n_iter, self.tol, self.verbose = (
            algorithm,
            random_state,
            n_iter,
            tol,
            verbose,
        )
        self.params, self.init_params, self.implementation = params, init_params, implementation

    def _check_X(self, X: Any) -> np.ndarray:
        return check_array(X, dtype=[np.float64, np.float32])

    def _emission(self, X: np.ndarray) -> tuple[Family, Family]:
        k, d, kind = self.n_components, X.shape[1], self.covariance_type
        if kind not in ("spherical", "diag", "full", "tied"):
            raise ValueError(f"covariance_type={kind!r} is not one of spherical, diag, full, tied")
        if "m" in self.init_params:
            self.means_ = (
                KMeans(k, random_state=self.random_state, n_init=10).fit(X).cluster_centers_
            )
        if "c" in self.init_params:
            scatter = np.atleast_2d(np.cov(X.T)) + self.min_covar * np.eye(d)
            self.covars_ = {
                "spherical": np.full(k, scatter.mean()),
                "diag": np.tile(scatter.diagonal(), (k, 1)),
                "full": np.tile(scatter, (k, 1, 1)),
                "tied": scatter,
            }[kind]
        matrix = kind in ("full", "tied")
        weight = float(max(self.covars_weight - (d if matrix else 1), 0))
        weight = NEARLY_FLAT if weight == 0 and np.any(self.covars_prior) else weight
        centre = np.asarray(self.covars_prior, dtype=float) / (weight or 1)
        centre = (
            (np.broadcast_to(centre, (d, d)) if matrix else centre)
            if weight
            else np.eye(d)
            if matrix
            else 1.0
        )
        spread = np.asarray(_given(self, "_covars_"))
        mean, kappa = (
            np.broadcast_to(self.means_prior, (k, d)),
            np.broadcast_to(self.means_weight, (k, 1)),
        )
        if "m" not in self.params:
            mean, kappa = _given(self, "means_"), np.full((k, 1), np.inf)
        if "c" not in self.params:
            centre, weight = spread, np.inf
        if matrix:
            flat: Family = Gaussian.flat(k, d, tied=kind == "tied")
            start = flat.given(
                mean=_given(self, "means_"), covariance=spread.reshape(-1, d, d)
            ).mode()
            return flat.given(mean=mean, kappa=kappa[:, 0], covariance=centre, nu=weight), start
        flat, values = (
            DiagonalGaussian.flat(k, d, spherical=kind == "spherical"),
            d if kind == "spherical" else 1,
        )
        start = flat.given(mean=_given(self, "means_"), variance=spread.reshape(k, -1)).mode()
        centre = centre.reshape(k, -1) if np.ndim(centre) and np.size(centre) == k else centre
        return (
            flat.given(mean=mean, kappa=kappa, variance=centre, nu=weight * values),
            start,
        )  # ν counts single values

    @property
    def covars_(self) -> np.ndarray:
        """Covariances as matrices (n_components, n_features, n_features), whatever their type; set
        in the type's own shape.
        """
        covars, d = np.asarray(self._covars_), self.means_.shape[1]
        if self.covariance_type == "full":
            return covars
        if self.covariance_type == "tied":
            return np.tile(covars, (self.n_components, 1, 1))
        return covars.reshape(self.n_components, -1, 1) * np.eye(d)

    @covars_.setter
    def covars_(self, covars: Any) -> None:
        self._covars_ = np.array(covars, dtype=float)

    def _read(self) -> None:
        emission, self.n_features = self.model_.emission, self.model_.emission.mean.shape[1]
        self.means_ = emission.mean.numpy()
        if isinstance(emission, Gaussian):
            self._covars_ = emission.covariance[
                0 if self.covariance_type == "tied" else slice(None)
            ].numpy()
        else:
            self._covars_ = (
                emission.variance.squeeze(1)
                if self.covariance_type == "spherical"
                else emission.variance
            ).numpy()

    def _size(self) -> int:
        (k, d), one = self.means_.shape, self.n_features * (self.n_features + 1) // 2
        return (
            k * d
            + {"spherical": k, "diag": k * d, "full": k * one, "tied": one}[self.covariance_type]
        )


class CategoricalHMM(_HMM):
    """A hidden Markov model of symbols by EM, as `hmmlearn.hmm.CategoricalHMM`.

    Args:
        n_components, startprob_prior, transmat_prior, algorithm, random_state, n_iter, tol,
            verbose: as in `GaussianHMM`.
        emissionprob_prior: Dirichlet prior of each state's symbols; 1 is flat.
        n_features: number of symbols; default the largest of the data plus one.
        params, init_params: s(tart), t(ransition), e(mission).
        implementation: as in `GaussianHMM`.
    """

    def __init__(
        self,
        n_components: int = 1,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        *,
        emissionprob_prior: Any = 1.0,
        n_features: int | None = None,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 10,
        tol: float = 1e-2,
        verbose: bool = False,
        params: str = "ste",
        init_params: str = "ste",
        implementation: str = "log",
    ):
        self.n_components, self.startprob_prior, self.transmat_prior = (
            n_components,
            startprob_prior,
            transmat_prior,
        )
        self.emissionprob_prior, self.n_features, self.algorithm = (
            emissionprob_prior,
            n_features,
            algorithm,
        )
        self.random_state, self.n_iter, self.tol, self.verbose = random_state, n_iter, tol, verbose
        self.params, self.init_params, self.implementation = params, init_params, implementation

    def _check_X(self, X: Any) -> np.ndarray:
        X = check_array(X, dtype=np.int64)
        if X.shape[1] != 1 or X.min() < 0:
            raise ValueError(
                f"symbols are one column of integers from 0, not of shape {X.shape} from {X.min()}"
            )
        return X

    def _emission(self, X: np.ndarray) -> tuple[Family, Family]:
        symbols = self.n_features if self.n_features is not None else int(X.max()) + 1
        if X.max() >= symbols:
            raise ValueError(f"symbol {X.max()} does not fit n_features={symbols}")
        if "e" in self.init_params:
            drawn = check_random_state(self.random_state).rand(self.n_components, symbols)
            self.emissionprob_ = drawn / drawn.sum(1, keepdims=True)
        start = Categorical(
            torch.tensor(np.asarray(_given(self, "emissionprob_"), dtype=float))[:, None]
        )
        return (_dirichlet(self.emissionprob_prior, start) if "e" in self.params else start), start

    def _read(self) -> None:
        self.emissionprob_ = self.model_.emission.mean[:, 0].numpy()

    def _size(self) -> int:
        return self.emissionprob_.size - self.n_components


def _given(estimator: _HMM, name: str) -> Any:
    if name not in vars(estimator):
        raise ValueError(
            f"init_params={estimator.init_params!r} leaves {name.strip('_')}_ to you: set it"
            " before fit"
        )
    return vars(estimator)[name]


def _dirichlet(prior: Any, start: Categorical) -> Categorical:
    """Dirichlet(α) whose mode in probabilities, (α − 1 + n) normalised, is ours in natural
    coordinates with α − 1 data.
    """
    extra = torch.tensor(
        np.broadcast_to(np.asarray(prior, dtype=float) - 1, start.mean.shape).copy()
    )
    if bool((extra < 0).any()):
        raise ValueError(
            "Dirichlet priors below 1 have no mode inside the simplex: give 1 (flat) or more"
        )
    total = extra.sum(-1, keepdim=True)
    return start.replace(
        mean=torch.where(total > 0, extra / total, start.mean), concentration=total.squeeze(-1)
    )


def _packed(X: np.ndarray, lengths: Sequence[int] | None) -> Frames:
    """The frames of the concatenated sequences, packed once for all iterations."""
    lengths = [len(X)] if lengths is None else [int(n) for n in lengths]
    if sum(lengths) != len(X) or min(lengths) < 1:
        raise ValueError(
            f"lengths of at least 1 must add up to the {len(X)} samples, not to {sum(lengths)}"
        )
    packing = Packing(lengths)
    return Frames(packing, packing.interleave(torch.as_tensor(np.ascontiguousarray(X))), None)


def _concatenated(posterior: Any, rows: Tensor) -> np.ndarray:
    return posterior.packing.concatenate(rows).numpy()
