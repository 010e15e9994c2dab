"""Documents fold in to known topics: their proportions ascend together, block by block."""

__all__ = ["LOOK", "Documents"]

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding

LOOK = 4  # sweeps over a block between two looks at what may leave it


class Documents(NamedTuple):
    """A block of documents with a table of their words' topics in two orders, as a product is quick
    only along the rows.

    Args:
        table: exp E log φ of each word, (B, L, K).
        across: the same, (B, K, L).
        count: of each word, (B, 1, L), 0 at padding.
        alpha: Dirichlet parameters of the prior over proportions, (B, K).
        point: proportions are points, so weights are the counts themselves.
    """

    table: Tensor
    across: Tensor
    count: Tensor
    alpha: Tensor
    point: bool

    def counts(self, weights: Tensor) -> Float[Tensor, "documents topics"]:
        """Expected counts of topics, where a word is topic k's ∝ weights_k φ_kw."""
        normaliser = (weights[:, None] @ self.across).clamp_(
            min=1e8 * torch.finfo(weights.dtype).tiny
        )  # all may underflow
        return ((self.count / normaliser) @ self.table).squeeze(1).mul_(weights)

    def ascend(
        self, weights: Tensor, before: Tensor, sweeps: int, tol: float
    ) -> Float[Tensor, "documents topics"]:
        """Weights exp E log θ, but for a constant of the document, after at most so many sweeps.

        A document whose counts moved by less than `tol` in sum keeps the weights that gave them.
        Such documents leave the block
        now and then, and so do topics without words: those of so small counts that round-off hides
            them, in the Dirichlet's
        parameters and in every word's responsibilities. The block goes on without them once that
        halves it.

        Args:
            weights: where to start, (B, K).
            before: counts to measure the first move from, (B, K).
        """
        rarest = torch.where(self.count > 0, self.count, torch.inf).amin(2)
        for sweep in range(1, sweeps + 1):
            counts = self.counts(weights)
            still = (counts - before).abs_().sum(1, keepdim=True) < tol
            weights = torch.where(
                still, weights, counts if self.point else (self.alpha + counts).digamma_().exp_()
            )
            before = counts
            if sweep % LOOK == 0:
                row = (~still[:, 0]).nonzero()
                if len(row) == 0:
                    break
                wordless = counts <= torch.finfo(counts.dtype).eps * self.alpha.minimum(rarest)
                left = int((~wordless)[row[:, 0]].sum(1).amax())
                if 2 * len(row) * left <= counts.numel():
                    topic = counts[row[:, 0]].topk(left).indices
                    across = embedding(
                        row * counts.shape[1] + topic, self.across.flatten(0, 1)
                    )  # across[row, topic], but quick
                    part = Documents(
                        across.mT.contiguous(),
                        across,
                        self.count[row[:, 0]],
                        self.alpha[row, topic],
                        self.point,
                    )
                    weights[row, topic] = part.ascend(
                        weights[row, topic], counts[row, topic], sweeps - sweep, tol
                    )
                    break
        return weights
