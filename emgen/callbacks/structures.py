"""Pictures of models whose latents have a structure: what states emit, what topics say, what
restricted beliefs lose.
"""

__all__ = ["Causes", "Emissions", "RestrictedBeliefs", "TopicWords"]

from typing import Any

import torch
from torch import Tensor

from emgen.callbacks.picture import Picture
from emgen.figures.canvas import Drawing
from emgen.figures.factorial_causes import factorial_causes
from emgen.figures.hidden_markov_symbols import hidden_markov_symbols
from emgen.figures.restricted_beliefs import beliefs_of, restricted_beliefs
from emgen.figures.topic_words import topic_words


class Emissions(Picture):
    """What each state of a hidden Markov model of symbols emits, how it moves, and the states
    behind the first frames.

    Args:
        shown: frames of the first sequence that are drawn.
    """

    name = "emissions"

    def __init__(self, shown: int = 60):
        super().__init__()
        if shown < 1:
            raise ValueError(f"shown={shown}: expected one frame or more.")
        self.shown = shown

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {"log_p": module.model.log_prob(x).sum()}

    def draw(self, module: Any, x: Tensor) -> Drawing:
        log_p = self._noted("log_p")
        return hidden_markov_symbols(module.model, x, log_p, self.shown, _names(module))


class TopicWords(Picture):
    """The most probable words of each topic, the topics in the order of the words that they
    explain.

    Args:
        top: words drawn of each topic.
        columns: panels in a row.
    """

    name = "topic_words"

    def __init__(self, top: int = 10, columns: int = 4):
        super().__init__()
        if top < 1 or columns < 1:
            raise ValueError(f"top={top}, columns={columns}: expected one or more of each.")
        self.top, self.columns = top, columns

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {
            half_step: torch.tensor(value, dtype=torch.float64)
            for half_step, value in module.bounds
        }

    def draw(self, module: Any, x: Tensor) -> Drawing:
        bound = self._noted("M-step")
        return topic_words(module.model, x, bound, self.top, self.columns, _names(module))


class RestrictedBeliefs(Picture):
    """Three beliefs about the causes of a factorial model at the θ of each epoch: whole, chain by
    chain, all on their own.

        F(factorised) ≤ F(structured) ≤ F(exact) = log p(x|θ),     each short of it by its own KL(q
        ‖ posterior)

    Args:
        sweeps: of coordinate ascent for the two that are not exact.
        shown: frames of the first sequence that are drawn.
    """

    name = "restricted_beliefs"

    def __init__(self, sweeps: int = 20, shown: int = 60):
        super().__init__()
        if sweeps < 1 or shown < 1:
            raise ValueError(f"sweeps={sweeps}, shown={shown}: expected one or more of each.")
        self.sweeps, self.shown = sweeps, shown

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        model = module.model
        posterior = model.posterior(x)
        frames = len(posterior.h)
        found = {}
        for name, belief in beliefs_of(posterior, self.sweeps).items():
            s = model.statistics(x, belief)
            found[name] = model.free_energy(s)["elbo"] * s["n"] / frames
        found["log_p"] = posterior.log_evidence.sum() / frames
        return found

    def draw(self, module: Any, x: Tensor) -> Drawing:
        names = ("exact", "structured", "factorised")
        bounds = {name: self._noted(name) for name in names}
        log_p = self._noted("log_p")
        return restricted_beliefs(module.model, x, bounds, log_p, self.sweeps, self.shown)


class Causes(Picture):
    """The causes that a factorial mixture has learnt, and its marginals by Gibbs sampling beside
    the exact ones.

    The chain draws each cause given the others, from a random start; nothing of it reaches the run.

    Args:
        sweeps: of the chain, at the trained θ.
        rows: of the data, from the first, whose causes are drawn.
        seed: of the chain.
    """

    name = "causes"

    def __init__(self, sweeps: int = 1000, rows: int = 50, seed: int = 0):
        super().__init__()
        if sweeps < 10 or rows < 1:
            raise ValueError(
                f"sweeps={sweeps}, rows={rows}: expected ten or more, and one or more."
            )
        self.sweeps, self.rows, self.seed = sweeps, rows, seed

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {"log_p": module.model.log_prob(x).mean()}

    def draw(self, module: Any, x: Tensor) -> Drawing:
        log_p = self._noted("log_p")
        return factorial_causes(module.model, x[: self.rows], log_p, self.sweeps, self.seed)


def _names(module: Any) -> list[str] | None:
    """What the data call their symbols, if they do."""
    return getattr(module.trainer.datamodule, "vocabulary", None)
