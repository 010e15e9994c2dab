"""The most probable words of each topic, the topics in the order of the words that they explain."""

__all__ = ["topic_words"]

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from emgen.figures.canvas import COLOURS, Drawing, blank


def topic_words(
    model: Any,
    x: Tensor,
    bound: Tensor,
    top: int,
    columns: int,
    names: Sequence[str] | None = None,
) -> Drawing:
    """One panel of bars a topic.

    Args:
        model: a topic model.
        x: the corpus.
        bound: F after each sweep, (T,), in nats per word.
        top: words drawn of each topic.
        columns: panels in a row.
        names: of the words; default their numbers.
    """
    explained = model.posterior(x).by_document().sum(0)
    share = (explained / explained.sum()).cpu()  # (K,)
    words = model.topics.mean.cpu()  # (K, words)
    topics, vocabulary = words.shape
    names = list(map(str, range(vocabulary)) if names is None else names)

    rows = -(-topics // columns)
    figure = blank(3.1 * columns, 1.0 + 2.6 * rows)
    figure.suptitle(
        f"{topics} topics: their most probable words; F = {float(bound[-1]):.3f} nats per word, "
        f"after the first sweep {float(bound[0]):.3f}"
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for place, k in enumerate(share.argsort(descending=True).tolist()):
        axes = panels[place]
        best = words[k].topk(min(top, vocabulary))
        likeliest = [names[w] for w in best.indices.tolist()]
        axes.barh(likeliest, best.values, color=COLOURS[place % len(COLOURS)])
        axes.invert_yaxis()
        axes.set_title(f"{share[k]:.0%} of all words", fontsize=10)

    lowest = panels[topics - columns : topics]
    for axes in lowest:
        axes.set_xlabel("p(word | topic)")
        axes.tick_params(labelbottom=True)
    for axes in panels[topics:]:
        axes.set_axis_off()
    return Drawing(figure, {"first_bound": float(bound[0]), "bound": float(bound[-1])})
