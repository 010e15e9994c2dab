"""Topic model: pLSA and latent Dirichlet allocation are cells of one table."""

__all__ = ["TokenBelief", "TopicModel", "topic_model"]

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding, one_hot

from emgen.families import Categorical, Family, prefixed
from emgen.models.conjugate.base import ConjugateModel, need_families
from emgen.models.conjugate.building import at_least, dirichlet_prior
from emgen.models.conjugate.folding_in import Documents
from emgen.models.conjugate.sparse_counts import Entries, are_entries

BLOCK = 2**13  # entries at a time where each needs its own K responsibilities
CELLS = 2**19  # entries times topics that a block of documents may have, to stay in cache


class TopicModel(ConjugateModel):
    """Each word of document d draws a topic z ~ θ_d and then itself from that topic's words, w ~
    φ_z.

    The data are a corpus of `documents` documents as counts: entries (document, word, count),
    integers (E, 3), which can be cut into batches at will; or the matrix (documents, words),
    floating or sparse, whole. F is in nats per word, `log_prob` in nats per document.
    Parameters as points are probabilistic latent semantic analysis; as a distribution, variational
    LDA; as a draw, Gibbs sampled LDA. No (documents, words, topics) array is ever formed.

    Args:
        proportions: prior over θ, (documents, K): flat for pLSA, Dirichlet(α) for LDA.
        topics: prior over φ, (K, words).
        start: `random`, or explicit values `proportions` and `topics`, a point's probabilities.

    References:
        Hofmann (1999), "Probabilistic latent semantic indexing"; Blei, Ng and Jordan (2003),
        "Latent Dirichlet allocation"; Griffiths and Steyvers (2004), "Finding scientific topics".
    """

    datum = "document"

    proportions: Any
    topics: Any

    def __init__(
        self,
        proportions: Categorical,
        topics: Categorical,
        start: str | Mapping[str, Any] = "random",
    ) -> None:
        need_families("topic_model", proportions=proportions, topics=topics)
        if (
            proportions.mean.ndim != 2
            or topics.mean.ndim != 2
            or proportions.mean.shape[1] != len(topics.mean)
        ):
            raise ValueError(
                "proportions (documents, K) and topics (K, words) must agree in K, not"
                f" {tuple(proportions.mean.shape)} and {tuple(topics.mean.shape)}"
            )
        if isinstance(start, str) and start != "random":
            raise ValueError(
                f"start={start!r} is neither random nor a mapping of values by name (proportions,"
                " topics)"
            )
        super().__init__({"proportions": proportions, "topics": topics})
        self._layout: Entries | None = None
        if not isinstance(start, str):
            self.put(**start)

    def posterior(self, x: Tensor) -> "TokenBelief":
        """q(z) of every word, ∝ exp(E log θ_dk + E log φ_kw)."""
        return TokenBelief(
            self.proportions.expected_natural, self.topics.expected_natural, self._entries(x)
        )

    def statistics(
        self, x: Tensor, z: "TokenBelief | TokenTopics", weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Expected counts of topics in documents and of words in topics; `weight` multiplies the
        count of an entry.
        """
        if weight is not None:
            raise ValueError(
                "entries are weighted by their counts: multiply the counts instead of giving"
                " weights"
            )
        documents, words = z.counts()
        return {
            **prefixed("proportions", {"count": documents.sum(-1), "sum": documents}),
            **prefixed("topics", {"count": words.sum(-1), "sum": words}),
            "n": z.layout.count.sum(),
            "entropy": z.entropy(documents, words),
            "evidence": z.log_evidence.sum(),
        }

    def start(
        self, x: Tensor, parameters: Callable[..., Family], weight: Tensor | None = None
    ) -> None:
        """Topics and proportions from random responsibilities of every word in every topic."""
        self.proportions, self.topics = (
            prior.replace(mean=_noisy(prior.mean)).mode()
            for prior in (self.priors["proportions"], self.priors["topics"])
        )
        self.m_step(self.statistics(x, self.posterior(x), weight), parameters)
        self.started.fill_(True)

    def put(self, proportions: Any = None, topics: Any = None) -> None:
        """Start from explicit points: `proportions` (documents, K) and `topics` (K, words)."""
        for name, mean in (("proportions", proportions), ("topics", topics)):
            if mean is not None:
                setattr(self, name, self.priors[name].given(mean=mean).mode())
        self.started.fill_(True)

    def log_prob(self, x: Tensor) -> Float[Tensor, "documents"]:
        """Σ_words log Σ_k θ_dk φ_kw of each document of x by number, at the centre of the belief.

        Of entries these are the documents that have one; of a matrix all.
        """
        belief = TokenBelief(self.proportions.mean.log(), self.topics.mean.log(), self._entries(x))
        document, log_evidence = belief.layout.document, belief.log_evidence
        every = log_evidence.new_zeros(len(self.proportions.mean)).index_add(
            0, document, log_evidence
        )
        return every[x[:, 0].unique()] if are_entries(x) else every

    def mass(self, x: Tensor, weight: Tensor | None = None) -> float:
        """The words of x."""
        return float(self._entries(x).count.sum())

    def fold_in(
        self,
        x: Tensor,
        prior: Categorical,
        start: Categorical | None = None,
        sweeps: int = 100,
        tol: float = 0.0,
    ) -> Categorical:
        """q(θ) of any documents under the topics as they are, by coordinate ascent; maximum
        likelihood if the prior is flat.

        Args:
            x: entries or counts of the documents.
            prior: over their proportions, (documents, K), proper for all or flat for all.
            start: where to start; default equal proportions.
            sweeps: passes at the most.
            tol: stop where a document's counts of topics move by less, on the mean over topics.
        """
        layout, alpha = self._entries(x, len(prior.mean)), prior.mean * prior.concentration[:, None]
        words = self.topics.expected_natural - _finite(self.topics.expected_natural.amax(0))
        words, result, point = words.exp().T.to(alpha).contiguous(), alpha.clone(), prior.is_flat
        begin = prior.mean if start is None else start.expected_natural.exp().to(alpha)
        before = (
            torch.full_like(alpha, torch.inf)
            if start is None
            else (start.mean * start.concentration[:, None]).to(alpha) - alpha
        )
        for rows, word, count in layout.blocks(CELLS // words.shape[1]):
            table = embedding(word, words)  # words[word], but quick
            block = Documents(
                table, table.mT.contiguous(), count.to(alpha)[:, None], alpha[rows], point
            )
            weights = block.ascend(begin[rows], before[rows], sweeps - 1, tol * words.shape[1])
            result[rows] += block.counts(weights)  # the last sweep is over all topics again
        return (
            Categorical(result / result.sum(1, keepdim=True))
            if point
            else Categorical.dirichlet(result)
        )

    def sample(self, n: int) -> Int[Tensor, "entries 3"]:
        """n words of every document, as entries (document, word, count) of one word each."""
        documents = len(self.proportions.mean)
        z = self.proportions.mean.multinomial(n, replacement=True).flatten()
        word = self.topics.mean[z].multinomial(1).squeeze(1)
        document = torch.arange(documents, device=z.device).repeat_interleave(n)
        return torch.stack([document, word, torch.ones_like(word)], 1)

    def _entries(self, x: Tensor, documents: int | None = None) -> Entries:
        documents = len(self.proportions.mean) if documents is None else documents
        if self._layout is None or not self._layout.is_of(x, documents):
            self._layout = Entries(x, documents, self.topics.mean.shape[1])
        return self._layout


class TokenBelief:
    """q(z = k) of each entry (d, w), ∝ exp(a_dk + b_kw), held by its two factors and the normaliser
    of each entry.

    Args:
        a: (documents, K). b: (K, words).
        layout: the entries.
        log_evidence: the normaliser of the full posterior where this is another distribution;
            default its own.
    """

    def __init__(
        self, a: Tensor, b: Tensor, layout: Entries, log_evidence: Tensor | None = None
    ) -> None:
        self.layout = layout
        self.scores = a, b
        self.shift = (
            _finite(a.amax(1, keepdim=True)),
            _finite(b.amax(0, keepdim=True)),
        )  # each factor at most 1
        self.factors = (a - self.shift[0]).exp(), (b - self.shift[1]).exp()
        self.log_evidence = self.log_normaliser if log_evidence is None else log_evidence

    @cached_property
    def normaliser(self) -> Float[Tensor, "entries"]:
        """Σ_k of the product of the factors at each entry."""
        return self.layout.products(*self.factors)

    @cached_property
    def _by_word(self) -> Float[Tensor, "words topics"]:
        return self.factors[1].T.contiguous()

    @cached_property
    def log_normaliser(self) -> Float[Tensor, "entries"]:
        """Count times log Σ_k exp(a + b), in nats."""
        shift = self.shift[0][self.layout.document, 0] + self.shift[1][0, self.layout.word]
        return self.layout.count * (self.normaliser.log() + shift)

    def by_document(self) -> Float[Tensor, "documents topics"]:
        """Expected counts of topics in each document."""
        return self.factors[0] * self.layout.times(
            self.layout.count / self.normaliser, self.factors[1].T
        )

    def by_word(self) -> Float[Tensor, "topics words"]:
        """Expected counts of each word in each topic."""
        return (
            self.factors[1]
            * self.layout.transposed_times(self.layout.count / self.normaliser, self.factors[0]).T
        )

    def counts(self) -> tuple[Float[Tensor, "documents topics"], Float[Tensor, "topics words"]]:
        """Both expected counts."""
        return self.by_document(), self.by_word()

    def entropy(self, documents: Tensor, words: Tensor) -> Tensor:
        """H(q) = Σ log normaliser − E_q[scores]."""
        (a, b), tiny = self.scores, torch.finfo(documents.dtype).min
        return (
            self.log_normaliser.sum()
            - (documents * a.clamp(min=tiny)).sum()
            - (words * b.clamp(min=tiny)).sum()
        )

    def mode(self) -> "TokenTopics":
        """All words of an entry to its most probable topic."""
        return self._choose(lambda r, n: one_hot(r.argmax(1), r.shape[1]) * n[:, None])

    def sample(self) -> "TokenTopics":
        """Each word to a topic drawn from its responsibilities."""
        return self._choose(_multinomial)

    @property
    def configurations(self) -> list[int]:
        """How many topics each word may come from, in the order of the sorted entries, for
        enumeration.
        """
        return [self.scores[0].shape[1]] * int(self.layout.count.sum())

    def at(self, topics: Int[Tensor, "words"]) -> "TokenTopics":
        """Certainty about the topic of every word, in the order of the sorted entries."""
        entry = torch.arange(len(self.layout.count), device=topics.device).repeat_interleave(
            self.layout.count.long()
        )
        n = self.factors[0].new_zeros(len(self.layout.count), self.scores[0].shape[1])
        n.index_put_((entry, topics), n.new_ones(()), accumulate=True)
        return self._choose(lambda r, _: n)  # tiny: one block

    def tempered(self, beta: float) -> "TokenBelief":
        a, b = self.scores
        return TokenBelief(beta * a, beta * b, self.layout, self.log_evidence)

    def mean_field(self, sweeps: int) -> "TokenBelief":
        """Itself: words are independent, so a belief that factorises over them loses nothing."""
        return self

    structured = mean_field

    def _choose(self, assign: Callable[[Tensor, Tensor], Tensor]) -> "TokenTopics":
        """Numbers of words by topic from `assign`(responsibilities, counts), in blocks of entries."""
        (documents, topics), words = self.factors[0].shape, self.factors[1].shape[1]
        by_document = self.factors[0].new_zeros(documents, topics)
        by_word = self.factors[0].new_zeros(words, topics)
        for start in range(0, len(self.layout.count), BLOCK):
            entries = slice(start, start + BLOCK)
            n = assign(self.responsibilities(entries), self.layout.count[entries]).to(by_document)
            by_document.index_add_(0, self.layout.document[entries], n)
            by_word.index_add_(0, self.layout.word[entries], n)
        return TokenTopics(self.layout, self.log_evidence, by_document, by_word.T)

    def responsibilities(self, entries: slice) -> Float[Tensor, "entries topics"]:
        """q(z) of some entries."""
        r = embedding(self.layout.document[entries], self.factors[0]) * embedding(
            self.layout.word[entries], self._by_word
        )
        return r / r.sum(1, keepdim=True)


class TokenTopics:
    """Certainty about the topic of every word, held as the counts (documents, K) and (K, words)."""

    def __init__(
        self, layout: Entries, log_evidence: Tensor, documents: Tensor, words: Tensor
    ) -> None:
        self.layout, self.log_evidence = layout, log_evidence
        self._counts = documents, words

    def counts(self) -> tuple[Tensor, Tensor]:
        return self._counts

    def entropy(self, documents: Tensor, words: Tensor) -> Tensor:
        return documents.new_zeros(())


def _finite(shift: Tensor) -> Tensor:
    return torch.where(shift.isfinite(), shift, 0.0)  # −∞ is a word that no topic has


def _noisy(mean: Tensor) -> Tensor:
    """Probabilities near to `mean`, all different; zeros stay."""
    noisy = mean * (0.5 + torch.rand_like(mean))
    return noisy / noisy.sum(-1, keepdim=True)


def _multinomial(r: Tensor, count: Tensor) -> Tensor:
    """Numbers of words in each topic: one word by inversion of its cumulative probabilities, more
    by `_binomials`.
    """
    single, drawn = count == 1, torch.zeros_like(r)
    cumulative = r[single].cumsum(1)
    drawn[single] = one_hot(_invert(cumulative), r.shape[1]).to(r)
    drawn[~single] = _binomials(r[~single], count[~single])
    return drawn


def _invert(cumulative: Tensor) -> Tensor:
    """The place where a uniform draw falls among cumulative masses, (E, K)."""
    u = cumulative[:, -1:] * torch.rand_like(cumulative[:, -1:])
    return (
        torch.searchsorted(cumulative, u, right=True).clamp_(max=cumulative.shape[1] - 1).squeeze(1)
    )


def _binomials(r: Tensor, count: Tensor) -> Tensor:
    """Numbers of words in each topic, by a binomial for each topic of those left."""
    left, counts = count, []
    rest = r.flip(1).cumsum(1).flip(1)
    for k in range(r.shape[1]):
        odds = torch.where(rest[:, k] > 0, r[:, k] / rest[:, k], 1.0).clamp(max=1.0)
        drawn = torch.binomial(left, odds)
        counts.append(drawn)
        left = left - drawn
    return torch.stack(counts, 1)


def topic_model(
    event_shape: int | Sequence[int] = (3,),
    documents: int = 1,
    words: int = 1,
    topics: int = 10,
    alpha: float | None = None,
    beta: float | None = None,
    start: str | Mapping[str, Any] = "random",
) -> TopicModel:
    """A topic model of a corpus.

    Args:
        event_shape: of an entry (document, word, count); not otherwise used.
        documents, words: size of the corpus and of its vocabulary.
        topics: K.
        alpha: Dirichlet prior of a document's proportions; None is flat, for pLSA.
        beta: Dirichlet prior of a topic's words; None is flat, for pLSA.
        start: see `TopicModel`.

    >>> topic_model(documents=5, words=7, topics=2, alpha=0.5, beta=0.5).topics.mean.shape
    torch.Size([2, 7])
    """
    at_least(1, documents=documents, words=words, topics=topics)
    return TopicModel(
        dirichlet_prior(alpha, documents, topics), dirichlet_prior(beta, topics, words), start
    )
