"""scikit-learn's k-means: the hard EM of spheres of one size."""

__all__ = ["KMeans"]

import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.cluster import kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from emgen.models.conjugate.mixture import largest

ROWS = 4096  # rows a block, which stay in cache


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-means as `sklearn.cluster.KMeans`: hard EM of a Gaussian mixture with equal weights and one
    fixed variance.

    Args:
        n_clusters: K.
        init: k-means++, random, (K, D) centres, or a function of (X, K, random_state).
        n_init: starts; `auto` is 1 for k-means++ and given centres, else 10.
        max_iter: iterations at the most.
        tol: stop when the centres' squared shift is below this share of the mean variance of the
            features.
        verbose: print the inertia of every start.
        random_state: seed of all draws.
        copy_x: X is never written to, whichever is asked.
        algorithm: lloyd or elkan, which are two ways to the same iterates.

    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> sorted(KMeans(n_clusters=2, random_state=0, n_init="auto").fit(X).cluster_centers_.tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
    ):
        self.n_clusters, self.init, self.n_init, self.max_iter, self.tol = (
            n_clusters,
            init,
            n_init,
            max_iter,
            tol,
        )
        self.verbose, self.random_state, self.copy_x, self.algorithm = (
            verbose,
            random_state,
            copy_x,
            algorithm,
        )

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "KMeans":
        """Fit to X (n_samples, n_features), each row counted `sample_weight` times; y is ignored."""
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        self._check(len(X))
        weight = (
            None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=X.dtype)
        )
        rng, x, best = check_random_state(self.random_state), torch.as_tensor(X), None
        mean = x.mean(0)
        x, mean = x - mean, mean.numpy()
        for _ in range(self._starts()):
            centres = self._seeds(x.numpy(), weight, rng, mean)
            labels, inertia, centres, n_iter = self._lloyd(x, weight, centres)
            if self.verbose:
                print(f"inertia {inertia:.6g} after {n_iter} iterations")
            if best is None or (inertia < best[1] and not _refines(labels, best[0])):
                best = labels, inertia, centres + mean, n_iter
        self.labels_, self.inertia_, self.cluster_centers_, self.n_iter_ = best
        found = np.count_nonzero(np.bincount(self.labels_))
        if found < self.n_clusters:
            warnings.warn(
                f"only {found} of {self.n_clusters} clusters hold a row: there may be duplicate"
                " rows",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The nearest centre of each row, (n_samples,)."""
        return self.transform(X).argmin(1).astype(np.int32)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, and give the cluster of each row."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def transform(self, X: Any) -> np.ndarray:
        """Distances (n_samples, n_clusters) to the centres."""
        check_is_fitted(self)
        return euclidean_distances(
            validate_data(self, X, dtype=[np.float64, np.float32], reset=False),
            self.cluster_centers_,
        )

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia of X, larger is better."""
        square = self.transform(X).min(1) ** 2
        return -float(
            square @ (np.ones(len(square)) if sample_weight is None else np.asarray(sample_weight))
        )

    @property
    def _n_features_out(self) -> int:
        return self.n_clusters

    def _lloyd(
        self, x: Tensor, weight: np.ndarray | None, seeds: np.ndarray
    ) -> tuple[np.ndarray, float, np.ndarray, int]:
        """Lloyd's iterations, which are those of hard EM, from given centres; labels, inertia,
        centres and iterations.
        """
        w = torch.ones(len(x), dtype=x.dtype) if weight is None else torch.as_tensor(weight)
        points = torch.cat(
            [x, torch.ones_like(x[:, :1])], 1
        )  # (x, 1): a score is one product, and a weight the sum of a feature
        mass = points if weight is None else points * w[:, None]
        variance = (
            float(x.flatten().dot(x.flatten())) / x.numel()
        )  # of the features on average; rows are centred
        centres, labels = torch.as_tensor(seeds), torch.full((len(x),), -1)
        n_iter, shift = 0, math.inf
        while n_iter < self.max_iter and shift > self.tol * variance:
            n_iter, before, labels_before = n_iter + 1, centres, labels
            labels, sums = _assigned(points, mass, before)
            centres = _centres(points, mass, before, labels, sums)
            shift = float((centres - before).square().sum())
            if torch.equal(labels, labels_before):
                break
        if shift > 0:  # the last centres have not met their rows yet
            labels = _assigned(points, mass, centres)[0]
        inertia = sum(
            float(
                torch.linalg.vector_norm(rows - centres.index_select(0, label), dim=1).square()
                @ each
            )
            for rows, label, each in zip(x.split(ROWS), labels.split(ROWS), w.split(ROWS))
        )
        return labels.to(torch.int32).numpy(), inertia, centres.numpy(), n_iter

    def _seeds(
        self, X: np.ndarray, weight: np.ndarray | None, rng: np.random.RandomState, mean: np.ndarray
    ) -> np.ndarray:
        """scikit-learn's starting centres, from the same random numbers."""
        if callable(self.init):
            return np.asarray(self.init(X, self.n_clusters, random_state=rng))
        if not isinstance(self.init, str):
            return np.asarray(self.init, dtype=X.dtype) - mean
        weight = np.ones(len(X), dtype=X.dtype) if weight is None else weight
        if self.init == "k-means++":
            return kmeans_plusplus(X, self.n_clusters, sample_weight=weight, random_state=rng)[0]
        return X[rng.choice(len(X), size=self.n_clusters, replace=False, p=weight / weight.sum())]

    def _starts(self) -> int:
        if not (isinstance(self.init, str) or callable(self.init)):
            return 1
        return self.n_init if self.n_init != "auto" else 1 if self.init == "k-means++" else 10

    def _check(self, rows: int) -> None:
        if rows < self.n_clusters:
            raise ValueError(f"n_samples={rows} should be >= n_clusters={self.n_clusters}")
        if self.n_clusters < 1 or self.max_iter < 1:
            raise ValueError(
                f"n_clusters={self.n_clusters} and max_iter={self.max_iter} must be 1 or more"
            )
        if self.n_init != "auto" and self.n_init < 1:
            raise ValueError(f"n_init={self.n_init!r} must be auto, or 1 or more")
        if not self.tol >= 0:
            raise ValueError(f"tol={self.tol} must be 0 or more")
        if isinstance(self.init, str) and self.init not in ("k-means++", "random"):
            raise ValueError(
                f"init={self.init!r} is neither k-means++ nor random, nor an array of centres, nor"
                " a function"
            )
        if self.algorithm not in ("lloyd", "elkan"):
            raise ValueError(f"algorithm={self.algorithm!r} is neither lloyd nor elkan")


def _assigned(points: Tensor, mass: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each row of (x, 1), which has the largest xᵀc − |c|²/2, and the sums of
    the rows of each, weighted.
    """
    scorers, labels = torch.cat([centres, -centres.square().sum(1, keepdim=True) / 2], 1), []
    sums = torch.zeros_like(scorers, dtype=torch.float64)
    for rows, weighted in zip(points.split(ROWS), mass.split(ROWS)):
        label, hot = largest((scorers @ rows.T).T)
        sums += hot.T @ weighted
        labels.append(label)
    return torch.cat(labels), sums


def _centres(points: Tensor, mass: Tensor, before: Tensor, labels: Tensor, sums: Tensor) -> Tensor:
    """The means; a cluster without rows takes the worst-fitting row from its own, and if there is
    none, stands at the largest.
    """
    empty = (sums[:, -1] == 0).nonzero()[:, 0]
    if len(empty):
        away = (points[:, :-1] - before[labels]).square().sum(1).masked_fill(mass[:, -1] == 0, -1.0)
        for k, row in zip(empty.tolist(), away.topk(min(len(empty), len(away))).indices.tolist()):
            sums[labels[row]] -= mass[row]
            sums[k] += mass[row]
    means, held = (
        sums[:, :-1] / sums[:, -1:],
        sums[:, -1:] > 1e-12 * sums[:, -1].sum(),
    )  # what a lone row leaves is rounding
    return torch.where(held, means, means[sums[:, -1].argmax()]).to(before.dtype)


def _refines(labels: np.ndarray, other: np.ndarray) -> bool:
    """Whether each cluster lies within one of the other's: then scikit-learn keeps the centres that
    came first.
    """
    return len(np.unique(np.stack([labels, other]), axis=1).T) == len(np.unique(labels))
