"""scikit-learn's restricted Boltzmann machine over our machine."""

__all__ = ["BernoulliRBM"]

import time
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import logsigmoid

from emgen.distributions import bernoulli
from emgen.models.energy.boltzmann_machine import BoltzmannMachine
from emgen.randomness import seeded


class BernoulliRBM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Bernoulli restricted Boltzmann machine by persistent contrastive divergence, as
    `sklearn.neural_network.BernoulliRBM`.

    It computes in float32, its products in bfloat16 if asked, and answers in the dtype of X.

    Args:
        n_components: number of binary hidden units.
        learning_rate: step size of the gradient per datum.
        batch_size: rows a step.
        n_iter: sweeps over the data.
        verbose: print the contrastive loss of every sweep if positive.
        random_state: seed or generator of all draws.
        precision: of the products of training, `32-true` or `bf16-mixed`, which a CPU with bfloat16
            instructions does several times as fast; sums, draws and parameters stay in float32, and
            the rounding is far below the noise of the draws.

    Raises:
        ValueError: another precision.

    Attributes:
        components_: weights (n_components, n_features).
        intercept_hidden_, intercept_visible_: biases.
        h_samples_: hidden states of the persistent chains, (batch_size, n_components).
        machine_: the `BoltzmannMachine`, for everything that scikit-learn's has not, such as log Z
            by AIS.

    References: Tieleman (2008), "Training restricted Boltzmann machines using approximations to the
    likelihood gradient".

    >>> X = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    >>> BernoulliRBM(n_components=2, random_state=0).fit(X).transform(X).shape
    (4, 2)
    """

    def __init__(
        self,
        n_components: int = 256,
        *,
        learning_rate: float = 0.1,
        batch_size: int = 10,
        n_iter: int = 10,
        verbose: int = 0,
        random_state: Any = None,
        precision: str = "32-true",
    ):
        self.n_components, self.learning_rate, self.batch_size = (
            n_components,
            learning_rate,
            batch_size,
        )
        self.n_iter, self.verbose, self.random_state, self.precision = (
            n_iter,
            verbose,
            random_state,
            precision,
        )

    def fit(self, X: Any, y: Any = None) -> "BernoulliRBM":
        """Fit the machine to X (n_samples, n_features), values in [0, 1]; y is ignored."""
        rows = self._start(X)
        for sweep in range(self.n_iter):
            start = time.perf_counter()
            self._sweep(rows, self.batch_size)
            if self.verbose:
                seconds, score = time.perf_counter() - start, self._pseudo_likelihood(rows).mean()
                print(
                    f"[BernoulliRBM] Iteration {sweep + 1}, pseudo-likelihood = {score:.2f}, time ="
                    f" {seconds:.2f}s"
                )
        return self

    def partial_fit(self, X: Any, y: Any = None) -> "BernoulliRBM":
        """One step of the machine on the rows of X; y is ignored."""
        rows = self._rows(X) if hasattr(self, "machine_") else self._start(X)
        self._sweep(rows, len(rows))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """P(h = 1 | v), (n_samples, n_components)."""
        check_is_fitted(self)
        with torch.no_grad():
            return self._answer(self.machine_.hidden_mean(self._rows(X)))

    def gibbs(self, v: Any) -> np.ndarray:
        """One Gibbs sweep from the rows of v; boolean.

        Each call goes on in the random numbers that the fit began.
        """
        check_is_fitted(self)
        with seeded(_seed(self._random)), torch.no_grad():
            return self.machine_.gibbs(self._rows(v)).bool().numpy()

    def score_samples(self, X: Any) -> np.ndarray:
        """Pseudo-likelihood of each row from one bit of it, drawn at random: n_features · log P(v_i
        | the others).
        """
        check_is_fitted(self)
        return self._answer(self._pseudo_likelihood(self._rows(X)))

    @property
    def components_(self) -> np.ndarray:
        return self._answer(self.machine_.weight.T)

    @property
    def intercept_visible_(self) -> np.ndarray:
        return self._answer(self.machine_.visible_bias)

    @property
    def intercept_hidden_(self) -> np.ndarray:
        return self._answer(self.machine_.hidden_bias)

    @property
    def h_samples_(self) -> np.ndarray:
        return self._answer(self._chain)

    @property
    def _n_features_out(self) -> int:
        return self.n_components

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @torch.no_grad()
    def _sweep(self, rows: Tensor, batch_size: int) -> None:
        """Persistent contrastive divergence by its definition: what `emgen.trainers.CD` does for
        any energy and optimiser.
        """
        W, b, c = self.machine_.weight, self.machine_.visible_bias, self.machine_.hidden_bias
        mixed = torch.autocast(
            "cpu", torch.bfloat16, enabled=self.precision == "bf16-mixed", cache_enabled=False
        )
        with seeded(_seed(self._random)), mixed:
            for data in rows.split(batch_size):
                dream = bernoulli(torch.addmm(b, self._chain, W.T).float().sigmoid_())
                h_data, h_dream = (torch.addmm(c, v, W).float().sigmoid_() for v in (data, dream))
                self._chain = bernoulli(h_dream)
                for v, h, step in (
                    (data, h_data, self.learning_rate / len(data)),
                    (dream, h_dream, -self.learning_rate / len(dream)),
                ):
                    W.addmm_(v.T, h, alpha=step)
                    b.add_(v.sum(0), alpha=step)
                    c.add_(h.sum(0), alpha=step)
        if not all(bool(p.isfinite().all()) for p in (W, b, c)):
            raise FloatingPointError(
                f"learning_rate={self.learning_rate}: the parameters became infinite; give a"
                " smaller one."
            )

    def _start(self, X: Any) -> Tensor:
        """A fresh machine and chain for rows like these."""
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"precision={self.precision!r} is neither 32-true nor bf16-mixed")
        rows = self._rows(X, reset=True)
        self._random = check_random_state(self.random_state)
        with seeded(_seed(self._random)):
            self.machine_ = BoltzmannMachine(rows.shape[1:], self.n_components, centred=False)
        self.machine_.centre_at(rows.mean(0))
        self._chain = torch.zeros(min(self.batch_size, len(rows)), self.n_components)
        return rows

    def _rows(self, X: Any, reset: bool = False) -> Tensor:
        rows: Any = validate_data(
            self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=reset
        )
        if reset:
            self._dtype = rows.dtype
        rows = rows.toarray() if issparse(rows) else rows
        return torch.as_tensor(rows if rows.flags.writeable else rows.copy()).float()

    def _pseudo_likelihood(self, v: Tensor) -> Tensor:
        rows = torch.arange(len(v))
        bits = torch.from_numpy(
            check_random_state(self.random_state).randint(0, v.shape[1], len(v))
        )
        flipped = v.clone()
        flipped[rows, bits] = 1 - flipped[rows, bits]
        with torch.no_grad():
            return v.shape[1] * logsigmoid(self.machine_.energy(flipped) - self.machine_.energy(v))

    def _answer(self, values: Tensor) -> np.ndarray:
        return values.detach().numpy().astype(self._dtype)


def _seed(random: np.random.RandomState) -> int:
    return int(random.randint(2**31 - 1))
