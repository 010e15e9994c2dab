"""Pictures of models whose latents have a structure: what states emit, what topics say, what restricted beliefs lose."""

__all__ = ["Causes", "Emissions", "RestrictedBeliefs", "TopicWords"]

from math import isqrt
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emgen.callbacks.picture import COLOURS, Picture
from emgen.randomness import seeded

BLUE, ORANGE, GREEN = COLOURS[:3]


class Emissions(Picture):
    """What each state of a hidden Markov model of symbols emits, how it moves, and the states behind the first frames.

    Args:
        shown: frames of the first sequence that are drawn.
    """

    name = "emissions"
    size = (12.0, 6.5)

    def __init__(self, shown: int = 60):
        super().__init__()
        if shown < 1:
            raise ValueError(f"shown={shown}: expected one frame or more.")
        self.shown = shown

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {"log_p": module.model.log_prob(x).sum()}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        model, log_p = module.model, self._noted("log_p")
        if model.emission.mean.ndim != 3:
            raise ValueError(
                f"emissions are drawn of symbols, not of {type(model.emission).__name__}: leave this picture out."
            )
        emission = model.emission.mean[:, 0].cpu()  # (K, symbols)
        names = _names(module, emission.shape[1])
        states, lean = range(len(emission)), emission.argmax(0)
        grid = figure.add_gridspec(2, 3, width_ratios=(3, 3, 2))
        top, strip, moves = (
            figure.add_subplot(place) for place in (grid[0, :], grid[1, :2], grid[1, 2])
        )
        order = sorted(range(len(names)), key=lambda s: (int(lean[s]), s))
        at, width = np.arange(len(names)), 0.8 / len(emission)
        for k in states:
            top.bar(
                at + (k - (len(emission) - 1) / 2) * width,
                emission[k, order],
                width,
                color=COLOURS[k % len(COLOURS)],
                label=f"state {k + 1}",
            )
        top.set(
            xlabel="symbol, grouped by the state that is the likelier to emit it",
            ylabel="p(symbol | state)",
            title="what each state emits",
            xlim=(-0.7, len(names) - 0.3),
        )
        top.set_xticks(at, [names[s] for s in order])
        for tick, s in zip(top.get_xticklabels(), order):
            tick.set(color=COLOURS[int(lean[s]) % len(COLOURS)], fontweight="bold")
        top.legend(frameon=False)
        first = x[0].flatten()[: self.shown]
        first = first[~first.isnan()].long().cpu()
        q = model.posterior(x[:1]).marginals[: len(first)].cpu()
        below = torch.zeros(len(first), dtype=q.dtype)
        for k in states:
            strip.bar(
                range(len(first)),
                q[:, k],
                1.0,
                bottom=below,
                color=COLOURS[k % len(COLOURS)],
                edgecolor="white",
                linewidth=0.4,
            )
            below = below + q[:, k]
        strip.set_xticks(
            range(len(first)),
            [names[s] for s in first.tolist()],
            fontsize=10 if len(first) <= 30 else 8,
        )
        strip.set(
            xlabel=f"the first {len(first)} symbols",
            ylabel="p(state | sequence)",
            title="the states behind the data",
            ylim=(0, 1),
            xlim=(-0.5, len(first) - 0.5),
        )
        transition = model.transition.mean.cpu()
        moves.imshow(transition, cmap="Greys", vmin=0, vmax=1.3)
        for i in states:
            for j in states:
                moves.text(
                    j,
                    i,
                    f"{transition[i, j]:.2f}",
                    ha="center",
                    va="center",
                    color="white" if transition[i, j] > 0.6 else "black",
                )
        moves.set_xticks(states, [str(k + 1) for k in states])
        moves.set_yticks(states, [str(k + 1) for k in states])
        moves.set(xlabel="to state", ylabel="from state", title="probabilities of the next state")
        return {"log_likelihood": float(log_p[-1]), "first_log_likelihood": float(log_p[0])}


class TopicWords(Picture):
    """The most probable words of each topic, the topics in the order of the words that they explain.

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
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in module.bounds}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        model, bound = module.model, self._noted("M-step")
        share = model.posterior(x).by_document().sum(0)
        share = (share / share.sum()).cpu()
        words = model.topics.mean.cpu()
        names = _names(module, words.shape[1])
        rows = -(-len(words) // self.columns)
        figure.set_size_inches(3.1 * self.columns, 1.0 + 2.6 * rows)
        figure.suptitle(
            f"{len(words)} topics: their most probable words; F = {float(bound[-1]):.3f} nats per word, "
            f"after the first sweep {float(bound[0]):.3f}"
        )
        panels = figure.subplots(rows, self.columns, squeeze=False, sharex=True).flatten()
        for place, k in enumerate(share.argsort(descending=True).tolist()):
            axes, best = panels[place], words[k].topk(min(self.top, words.shape[1]))
            axes.barh(
                [names[w] for w in best.indices.tolist()],
                best.values,
                color=COLOURS[place % len(COLOURS)],
            )
            axes.invert_yaxis()
            axes.set_title(f"{share[k]:.0%} of all words", fontsize=10)
        for axes in panels[len(words) - self.columns : len(words)]:
            axes.set_xlabel("p(word | topic)")
            axes.tick_params(labelbottom=True)
        for axes in panels[len(words) :]:
            axes.set_axis_off()
        return {"first_bound": float(bound[0]), "bound": float(bound[-1])}


class RestrictedBeliefs(Picture):
    """Three beliefs about the causes of a factorial model at the θ of each epoch: whole, chain by chain, all on their own.

        F(factorised) ≤ F(structured) ≤ F(exact) = log p(x|θ),     each short of it by its own KL(q ‖ posterior)

    Args:
        sweeps: of coordinate ascent for the two that are not exact.
        shown: frames of the first sequence that are drawn.
    """

    name = "restricted_beliefs"
    size = (12.0, 5.0)

    def __init__(self, sweeps: int = 20, shown: int = 60):
        super().__init__()
        if sweeps < 1 or shown < 1:
            raise ValueError(f"sweeps={sweeps}, shown={shown}: expected one or more of each.")
        self.sweeps, self.shown = sweeps, shown

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        model = module.model
        p = model.posterior(x)
        found = {}
        for name, belief in self._beliefs(p).items():
            s = model.statistics(x, belief)
            found[name] = model.free_energy(s)["elbo"] * s["n"] / len(p.h)
        return {**found, "log_p": p.log_evidence.sum() / len(p.h)}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        grid = figure.add_gridspec(2, 2, width_ratios=(2, 3))
        left, data, states = (
            figure.add_subplot(grid[:, 0]),
            figure.add_subplot(grid[0, 1]),
            figure.add_subplot(grid[1, 1]),
        )
        log_p = self._noted("log_p")
        epochs = range(1, len(log_p) + 1)
        looks = {
            "exact": ("black", "-", 4.0),
            "structured": (GREEN, "-", 2.0),
            "factorised": (ORANGE, "--", 2.0),
        }
        says = {
            "exact": "exact belief: F = log p(x|θ)",
            "structured": "structured: F, each chain kept whole",
            "factorised": "mean field: F, every state on its own",
        }
        for name, (colour, line, width) in looks.items():
            left.plot(
                epochs, self._noted(name), line, color=colour, linewidth=width, label=says[name]
            )
        for upper, lower, colour in (
            ("exact", "structured", GREEN),
            ("structured", "factorised", ORANGE),
        ):
            left.fill_between(
                epochs,
                self._noted(lower),
                self._noted(upper),
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        left.set(
            xlabel="epoch",
            ylabel="nats per frame",
            title="what a restricted belief loses: KL(q ‖ posterior)",
        )
        left.legend(frameon=False, loc="lower right")
        p = module.model.posterior(x[:1])
        shown = min(self.shown, len(p.h))
        data.plot(range(1, shown + 1), x[0, :shown].flatten(1).cpu(), ".", color="black")
        data.set(
            xlabel="frame",
            ylabel="x",
            title=f"the first {shown} frames of a sequence: several hidden causes, one sum",
        )
        for name, belief in self._beliefs(p).items():
            colour, line, width = looks[name]
            states.plot(
                range(1, shown + 1),
                belief.marginals[:shown, 0, -1].cpu(),
                line,
                color=colour,
                linewidth=width,
            )
        states.set(
            xlabel="frame",
            ylabel="q(cause 1 is on)",
            ylim=(-0.05, 1.05),
            title="the belief about one cause; colours as on the left",
        )
        found = {name: float(self._noted(name)[-1]) for name in looks}
        steps = [
            self._noted(b) - self._noted(a)
            for a, b in (("factorised", "structured"), ("structured", "exact"))
        ]
        return {
            **found,
            "log_p": float(log_p[-1]),
            "smallest_step": float(torch.stack(steps).min()),
        }

    def _beliefs(self, p: Any) -> dict[str, Any]:
        return {
            "exact": p.exact,
            "structured": p.structured(self.sweeps),
            "factorised": p.mean_field(self.sweeps),
        }


class Causes(Picture):
    """The causes that a factorial mixture has learnt, and its marginals by Gibbs sampling beside the exact ones.

    The chain draws each cause given the others, from a random start; nothing of it reaches the run.

    Args:
        sweeps: of the chain, at the trained θ.
        rows: of the data, from the first, whose causes are drawn.
        seed: of the chain.
    """

    name = "causes"
    size = (14.0, 4.2)

    def __init__(self, sweeps: int = 1000, rows: int = 50, seed: int = 0):
        super().__init__()
        if sweeps < 10 or rows < 1:
            raise ValueError(
                f"sweeps={sweeps}, rows={rows}: expected ten or more, and one or more."
            )
        self.sweeps, self.rows, self.seed = sweeps, rows, seed

    def note(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        return {"log_p": module.model.log_prob(x).mean()}

    def draw(self, figure: Figure, module: Any, x: Tensor) -> dict[str, float]:
        model = module.model
        p = model.posterior(x[: self.rows])
        exact, drawn = (
            p.exact.marginals.cpu(),
            self._chain(p).cpu(),
        )  # (rows, M, K), (sweeps, rows, M, K)
        error = (drawn - exact).abs().mean((1, 2, 3)).numpy()
        pictures, scatter, fall = figure.subplots(1, 3, width_ratios=(p.states + 1, 4, 4))
        mosaic = _mosaic(model.loadings.mean.cpu(), p.chains, p.states)
        figure.set_layout_engine(
            "constrained", wspace=0.06
        )  # so that the second picture's label stands clear of the first
        size = float(np.nanmax(np.abs(mosaic)))
        pictures.imshow(mosaic, cmap="PuOr", vmin=-size, vmax=size)
        tall, wide = (mosaic.shape[0] + 1) / p.chains, (mosaic.shape[1] + 1) / p.states
        pictures.set_xticks(
            [(k + 0.5) * wide - 1 for k in range(p.states)],
            [f"state {k + 1}" for k in range(p.states)],
        )
        pictures.set_yticks(
            [(m + 0.5) * tall - 1 for m in range(p.chains)],
            [f"cause {m + 1}" for m in range(p.chains)],
        )
        pictures.tick_params(length=0)
        pictures.set_title(f"what each state adds to x:\npurple more, orange less, ±{size:.2g}")
        for sweeps, colour, mark in ((10, ORANGE, "."), (self.sweeps, BLUE, "o")):
            scatter.plot(
                exact.flatten(),
                drawn[sweeps - 1].flatten(),
                mark,
                color=colour,
                markersize=4,
                label=f"{sweeps} sweeps",
            )
        scatter.plot([0, 1], [0, 1], color="black", linewidth=1)
        scatter.set(
            xlabel="p(z_m = k | x), exact by enumeration",
            ylabel="share of Gibbs draws with z_m = k",
            aspect="equal",
            title=f"causes of {len(exact)} rows",
        )
        scatter.legend(frameon=False)
        every = np.arange(1, self.sweeps + 1)
        fall.loglog(every, error, color=BLUE, label="Gibbs against exact")
        fall.loglog(
            every,
            np.median(error * np.sqrt(every)) / np.sqrt(every),
            "--",
            color="black",
            label="∝ 1/√sweeps",
        )
        fall.set(
            xlabel="sweeps averaged",
            ylabel="mean |error| of p(z_m = k | x)",
            title="the error falls as Monte Carlo's does",
        )
        fall.legend(frameon=False)
        log_p = self._noted("log_p")
        return {
            "log_p": float(log_p[-1]),
            "error_10": float(error[9]),
            "error": float(error[-1]),
            "largest_error": float((drawn[-1] - exact).abs().max()),
        }

    def _chain(self, p: Any) -> Tensor:
        """Running means of the states that Gibbs sampling draws, (sweeps, rows, M, K)."""
        with seeded(self.seed, p.h.device):
            state, total, means = p.at(torch.randint(p.states, (len(p.h) * p.chains,), device=p.h.device)), 0.0, []
            for sweep in range(1, self.sweeps + 1):
                state = p.gibbs(state)
                total = total + state.marginals
                means.append(total / sweep)
        return torch.stack(means)


def _names(module: Any, number: int) -> list[str]:
    """What the data call their symbols, else their numbers."""
    return list(getattr(module.trainer.datamodule, "vocabulary", map(str, range(number))))


def _mosaic(loadings: Tensor, chains: int, states: int) -> np.ndarray:
    """Loadings (D, M·K) about their cause's mean as M rows of K pictures, square if D is, with lines of NaN between."""
    w = loadings.view(-1, chains, states)
    w = (w - w.mean(2, keepdim=True)).permute(1, 2, 0)
    side = isqrt(w.shape[2])
    w = w.reshape(chains, states, *((side, side) if side * side == w.shape[2] else (1, -1)))
    w = torch.nn.functional.pad(w, (0, 1, 0, 1), value=torch.nan)
    return w.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[:-1, :-1].numpy()
