"""scikit-learn's latent Dirichlet allocation by variational Bayes, over the topic model."""

__all__ = ["LatentDirichletAllocation"]

import math
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data
from torch import Tensor

from emgen.families import Categorical
from emgen.models.conjugate.topic_model import TopicModel


class LatentDirichletAllocation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Topics of a corpus by variational Bayes, as
    `sklearn.decomposition.LatentDirichletAllocation`.

    Documents are updated together in blocks, from scikit-learn's own starts.

    Args:
        n_components: number of topics.
        doc_topic_prior, topic_word_prior: α and η of the Dirichlets, 1/n_components by default.
        learning_method: batch, or online (stochastic variational inference, Hoffman et al. 2010).
        learning_decay, learning_offset: step size (offset + t)^−decay of the online method.
        max_iter: passes over the corpus.
        batch_size: documents a step of the online method.
        evaluate_every: how many iterations apart perplexity is looked at; 0 or less never stops
            early.
        total_samples: size of the corpus for `partial_fit`.
        perp_tol: fall of the perplexity below which iterations stop.
        mean_change_tol: mean change of proportions, in words, below which a document's updates
            stop.
        max_doc_update_iter: updates of a document at the most, each iteration.
        n_jobs: kept for compatibility; torch uses its own threads.
        verbose: print the perplexity where it is evaluated.
        random_state: seed of the start.

    References: Blei, Ng and Jordan (2003); Hoffman, Blei and Bach (2010), "Online learning for
    latent Dirichlet allocation".

    >>> X = np.kron(np.eye(2), np.full((5, 4), 3)).astype(int)  # two groups of documents with words of their own
    >>> topics = LatentDirichletAllocation(2, random_state=0).fit_transform(X).argmax(1)
    >>> len(set(topics[:5])), len(set(topics[5:])), bool(topics[0] != topics[9])
    (1, 1, True)
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float | None = None,
        topic_word_prior: float | None = None,
        learning_method: str = "batch",
        learning_decay: float = 0.7,
        learning_offset: float = 10.0,
        max_iter: int = 10,
        batch_size: int = 128,
        evaluate_every: int = -1,
        total_samples: float = 1e6,
        perp_tol: float = 1e-1,
        mean_change_tol: float = 1e-3,
        max_doc_update_iter: int = 100,
        n_jobs: int | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ):
        self.n_components, self.doc_topic_prior, self.topic_word_prior = (
            n_components,
            doc_topic_prior,
            topic_word_prior,
        )
        self.learning_method, self.learning_decay, self.learning_offset = (
            learning_method,
            learning_decay,
            learning_offset,
        )
        self.max_iter, self.batch_size, self.evaluate_every = max_iter, batch_size, evaluate_every
        self.total_samples, self.perp_tol, self.mean_change_tol = (
            total_samples,
            perp_tol,
            mean_change_tol,
        )
        self.max_doc_update_iter, self.n_jobs, self.verbose, self.random_state = (
            max_doc_update_iter,
            n_jobs,
            verbose,
            random_state,
        )

    def fit(self, X: Any, y: Any = None) -> "LatentDirichletAllocation":
        """Fit to counts X (n_samples, n_features), dense or sparse; y is ignored."""
        if self.learning_method not in ("batch", "online"):
            raise ValueError(
                f"learning_method={self.learning_method!r} is neither batch nor online"
            )
        X = self._counts(X, reset=True)
        self._start(X.shape[1])
        model, x, before = self._model(X), _sparse(X), math.inf
        for i in range(1, self.max_iter + 1):
            if self.learning_method == "online":
                for rows in gen_batches(X.shape[0], self.batch_size):
                    self._online(X[rows], X.shape[0])
                model.topics = self._topics()
            else:
                model.proportions = self._anywhere(X.shape[0])
                model.proportions = self._proportions(model, x)
                self.components_ = self.topic_word_prior_ + model.posterior(x).by_word().numpy()
                model.topics = self._topics()
                self.n_batch_iter_ += 1
            if self.evaluate_every > 0 and i % self.evaluate_every == 0:
                self.bound_ = self._perplexity(*self._folded_in(X))
                if self.verbose:
                    print(
                        f"iteration: {i} of max_iter: {self.max_iter}, perplexity:"
                        f" {self.bound_:.4f}"
                    )
                if abs(before - self.bound_) < self.perp_tol:
                    break
                before = self.bound_
            self.n_iter_ += 1  # the pass that stops is not counted
        self.bound_ = self._perplexity(*self._folded_in(X))
        return self

    def partial_fit(self, X: Any, y: Any = None) -> "LatentDirichletAllocation":
        """One online step for each batch of rows of X, out of a corpus of `total_samples`
        documents.
        """
        first = not hasattr(self, "components_")
        X = self._counts(X, reset=first)
        if first:
            self._start(X.shape[1])
        for rows in gen_batches(X.shape[0], self.batch_size):
            self._online(X[rows], self.total_samples)
        return self

    def transform(self, X: Any, *, normalize: bool = True) -> np.ndarray:
        """Expected proportions of topics (n_samples, n_components), or the Dirichlets' parameters
        unless `normalize`.
        """
        check_is_fitted(self)
        X = self._counts(X, reset=False)
        belief = self._proportions(self._model(X), _sparse(X))
        return (belief.mean if normalize else belief.mean * belief.concentration[:, None]).numpy()

    def fit_transform(self, X: Any, y: Any = None, *, normalize: bool = True) -> np.ndarray:
        """Fit, and give the proportions of topics of the same documents."""
        return self.fit(X).transform(X, normalize=normalize)

    def score(self, X: Any, y: Any = None) -> float:
        """The variational lower bound of log p(X), in nats for all documents together."""
        return self._bound(*self._folded_in(X))[0]

    def perplexity(self, X: Any, sub_sampling: bool = False) -> float:
        """exp(−bound / words); with `sub_sampling` the documents' part counts as that of
        `total_samples` documents.
        """
        model, x = self._folded_in(X)
        return self._perplexity(model, x, self.total_samples / x.shape[0] if sub_sampling else 1.0)

    def _folded_in(self, X: Any) -> tuple[TopicModel, Tensor]:
        check_is_fitted(self)
        model, x = self._model(X := self._counts(X, reset=False)), _sparse(X)
        model.proportions = self._proportions(model, x)
        return model, x

    def _counts(self, X: Any, reset: bool) -> Any:
        X = validate_data(self, X, reset=reset, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_non_negative(X, "LatentDirichletAllocation")
        return sparse.csr_matrix(X)

    def _start(self, words: int) -> None:
        if self.n_components < 1 or self.max_iter < 0:
            raise ValueError(
                f"n_components={self.n_components} must be 1 or more and max_iter={self.max_iter} 0"
                " or more"
            )
        self.doc_topic_prior_ = (
            1 / self.n_components if self.doc_topic_prior is None else self.doc_topic_prior
        )
        self.topic_word_prior_ = (
            1 / self.n_components if self.topic_word_prior is None else self.topic_word_prior
        )
        self.random_state_ = check_random_state(self.random_state)
        self.components_ = self.random_state_.gamma(100.0, 0.01, (self.n_components, words))
        self.n_batch_iter_, self.n_iter_ = 1, 0

    def _online(self, X: Any, total: float) -> None:
        rate = (self.learning_offset + self.n_batch_iter_) ** -self.learning_decay
        model, x = self._model(X), _sparse(X)
        model.proportions = self._anywhere(X.shape[0])
        model.proportions = self._proportions(model, x)
        fresh = self.topic_word_prior_ + total / X.shape[0] * model.posterior(x).by_word().numpy()
        self.components_ = (1 - rate) * self.components_ + rate * fresh
        self.n_batch_iter_ += 1

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    @property
    def exp_dirichlet_component_(self) -> np.ndarray:
        """exp E[log φ], (n_components, n_features)."""
        return self._topics().expected_natural.exp().numpy()

    def _topics(self) -> Categorical:
        return Categorical.dirichlet(torch.as_tensor(self.components_))

    def _model(self, X: Any) -> TopicModel:
        """The topics as they are, with documents of equal proportions."""
        alpha = torch.full(
            (X.shape[0], self.n_components), float(self.doc_topic_prior_), dtype=torch.float64
        )
        eta = torch.full(self.components_.shape, float(self.topic_word_prior_), dtype=torch.float64)
        model = TopicModel(Categorical.dirichlet(alpha), Categorical.dirichlet(eta))
        model.topics, model.proportions = (
            self._topics(),
            Categorical.dirichlet(torch.ones_like(alpha)),
        )  # scikit-learn's start
        return model

    def _anywhere(self, documents: int) -> Categorical:
        """Proportions to start from, scikit-learn's: from equal ones no topic could be preferred."""
        return Categorical.dirichlet(
            torch.as_tensor(self.random_state_.gamma(100.0, 0.01, (documents, self.n_components)))
        )

    def _proportions(self, model: TopicModel, x: Tensor) -> Categorical:
        """Beliefs about the documents' proportions, from where the model has them."""
        return model.fold_in(
            x,
            model.priors["proportions"],
            model.proportions,
            self.max_doc_update_iter,
            self.mean_change_tol,
        )

    def _bound(self, model: TopicModel, x: Tensor) -> tuple[float, float]:
        """The bound of all documents, and the part of it that belongs to the topics."""
        topics = -float(model.topics.kl(model.priors["topics"]).sum())
        documents = (
            model.posterior(x).log_evidence.sum()
            - model.proportions.kl(model.priors["proportions"]).sum()
        )
        return float(documents) + topics, topics

    def _perplexity(self, model: TopicModel, x: Tensor, ratio: float = 1.0) -> float:
        bound, topics = self._bound(model, x)
        return math.exp(-(ratio * (bound - topics) + topics) / (ratio * float(x.values().sum())))


def _sparse(X: Any) -> Tensor:
    """A SciPy matrix as a torch one."""
    X = X.tocoo()
    place = torch.as_tensor(np.stack([X.row, X.col]).astype(np.int64))
    return torch.sparse_coo_tensor(
        place, torch.as_tensor(X.data), X.shape, is_coalesced=True, check_invariants=False
    )
