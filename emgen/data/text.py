"""Real English from what Python ships: its own language reference, as letters and as a corpus of
word counts.
"""

__all__ = [
    "ALPHABET",
    "STOP_WORDS",
    "corpus",
    "entries",
    "letters",
    "prose",
    "vocabulary_of",
    "word_counts",
]

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from emgen.data.base import Data

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
STOP_WORDS = frozenset(
    "a about above after all also although always an and any are as at be because been before being"
    " both but by can cannot could did do does done each either else even every example for from"
    " had has have if in instead into is it its itself just may might more most must no none nor"
    " not note of on one only or other otherwise out over same see section set should since so some"
    " such than that the their them then there therefore these they this those though three to two"
    " under unless until up use used uses using was well were what when where whether which while"
    " who whose will with within without would yet you your above below following first second new"
    " given either e g i s t d p r".split()
)


def prose() -> list[str]:
    """The paragraphs of running English in Python's language reference (`pydoc_data.topics`),
    without code or tables.

    They differ a little from one version of Python to the next.

    Raises:
        ModuleNotFoundError: this Python comes without its documentation, as some reduced ones do.
    """
    try:
        from pydoc_data.topics import topics  # here, for only what reads the text needs it
    except ImportError as error:
        raise ModuleNotFoundError(
            "this Python comes without pydoc_data, whose text letters and corpus are made of: use a"
            " complete Python, or your own text through data=file (symbols as integers,"
            " data.dtype=int64)."
        ) from error
    paragraphs = [p for page in topics.values() for p in re.split(r"\n\s*\n", page)]
    return [" ".join(p.split()) for p in paragraphs if _is_prose(p)]


def letters(
    length: int = 500, sequences: int = 8, batch_size: int | None = None, seed: int = 0
) -> Data:
    """Stretches of English as sequences of symbols, 0 the space and 1 … 26 the letters.

    Args:
        length: letters in a sequence.
        sequences: how many, from the start of the text.
        batch_size: sequences a step; None takes all.
        seed: of the order.

    The data carry the symbols as `letters(...).vocabulary`, the space as ␣.

    References: Cave and Neuwirth (1980), "Hidden Markov models for English".

    >>> rows = letters(length=20, sequences=2).split("train")
    >>> rows.shape, all(ALPHABET[int(s)].islower() or ALPHABET[int(s)] == " " for s in rows.flatten())
    (torch.Size([2, 20]), True)
    """
    text = re.sub(r"[^a-z]+", " ", " ".join(prose()).lower())
    if not 1 <= length * sequences <= len(text):
        raise ValueError(
            f"length={length}, sequences={sequences}: the text has {len(text)} letters, ask for"
            " that many or fewer."
        )
    symbols = torch.tensor([ALPHABET.index(c) for c in text[: length * sequences]])
    rows = symbols.view(sequences, length)
    data = Data(
        rows, batch_size=batch_size, shuffle=batch_size is not None, seed=seed, name="letters"
    )
    data.vocabulary = list(ALPHABET.replace(" ", "␣"))
    return data


def corpus(
    words: int = 1000,
    shortest: int = 20,
    documents: int = 200,
    batch_size: int | None = None,
    seed: int = 0,
) -> Data:
    """The paragraphs of `prose` as a corpus: entries (document, word, count), sorted by document.

    Args:
        words: size of the vocabulary, the most frequent words that are not stop words.
        shortest: paragraphs with fewer words of the vocabulary are left out.
        documents: paragraphs taken, from the start of the text; how many there are depends on the
            version of Python.
        batch_size: entries a step; None takes all.
        seed: of the order.

    Raises:
        ValueError: `words` or `documents` out of range.

    The data carry the vocabulary as `corpus(...).vocabulary`.
    """
    texts = [re.findall(r"[a-z]+", p.lower()) for p in prose()]
    vocabulary = vocabulary_of(texts, words)
    kept = [t for t in texts if sum(w in vocabulary for w in t) >= shortest]
    if words < 1 or not 1 <= documents <= len(kept):
        raise ValueError(
            f"words={words}, documents={documents}: expected one word or more, and 1 to {len(kept)}"
            f" documents; a lower shortest={shortest} keeps more."
        )
    counts = word_counts(kept[:documents], vocabulary)
    data = Data(
        counts,
        batch_size=batch_size,
        shuffle=batch_size is not None,
        seed=seed,
        name="corpus",
        datum="document",
    )
    data.vocabulary = list(vocabulary)
    return data


def vocabulary_of(texts: Sequence[Sequence[str]], words: int) -> dict[str, int]:
    """The index of each of the most frequent words that are not stop words; ties in alphabetical
    order.
    """
    counts = Counter(w for text in texts for w in text if w not in STOP_WORDS and len(w) > 2)
    ranked = sorted(counts, key=lambda w: (-counts[w], w))[:words]
    return {word: i for i, word in enumerate(sorted(ranked))}


def word_counts(texts: Sequence[Sequence[str]], vocabulary: dict[str, int]) -> Tensor:
    """Entries (document, word, count) of tokenised texts.

    >>> word_counts([["to", "be", "or", "to"]], {"be": 0, "to": 1})
    tensor([[0, 0, 1],
            [0, 1, 2]])
    """
    rows = []
    for document, text in enumerate(texts):
        counts = Counter(vocabulary[w] for w in text if w in vocabulary)
        rows += [(document, word, counts[word]) for word in sorted(counts)]
    return torch.tensor(rows)


def entries(counts: Any) -> Tensor:
    """Entries (document, word, count) of a SciPy, torch sparse or dense matrix of counts
    (documents, words).

    >>> entries(torch.tensor([[0, 2], [1, 0]]))
    tensor([[0, 1, 2],
            [1, 0, 1]])
    """
    if hasattr(counts, "tocoo"):
        coo = counts.tocsr().tocoo()
        rows = [torch.as_tensor(part) for part in (coo.row, coo.col, coo.data)]
        return torch.stack([part.to(torch.int64) for part in rows], 1)
    matrix = torch.as_tensor(counts)
    matrix = (matrix if matrix.layout == torch.sparse_coo else matrix.to_sparse_coo()).coalesce()
    return torch.cat([matrix.indices().T, matrix.values().to(torch.int64)[:, None]], 1)


def _is_prose(paragraph: str) -> bool:
    letters = sum(c.isalpha() or c.isspace() for c in paragraph)
    return (
        len(paragraph) > 80
        and not paragraph.startswith((" ", "*", "+", "|"))
        and letters > 0.93 * len(paragraph)
    )
