"""A belief that is certain about every row, kept as labels rather than as a table of ones and
zeros.
"""

__all__ = ["Choice"]

from functools import cached_property

import torch
from torch import Tensor


class Choice:
    """Responsibilities r (N, M) with a single one in each of R groups of K = M/R members: which
    member each row chose.

    Args:
        labels: the chosen of K members, (N, [R]).
        members: M, of all groups.
        dtype: of counts and of what is summed.
        weight: how often each row counts, (N,), or None for once each.
    """

    def __init__(
        self, labels: Tensor, members: int, dtype: torch.dtype, weight: Tensor | None = None
    ):
        labels = labels.view(len(labels), -1)
        groups = labels.shape[1]
        self.labels = (
            labels + torch.arange(0, members, members // groups, device=labels.device)
            if groups > 1
            else labels
        )
        self.members, self.dtype, self.weight = (
            members,
            dtype,
            None if weight is None else weight.to(dtype),
        )

    def of(self, values: Tensor) -> Tensor:
        """What each row meets at its choices, (N, R, F), from one row of values a member (M, F)."""
        return values.index_select(0, self.labels.flatten()).view(*self.labels.shape, -1)

    def sums(self, values: Tensor) -> Tensor:
        """Σ_i r_ik v_i, (M, F), from values (N, R, F)."""
        values = values if self.weight is None else values * self.weight[:, None, None]
        return values.new_zeros(self.members, values.shape[-1]).index_add_(
            0, self.labels.flatten(), values.flatten(0, 1)
        )

    @cached_property
    def counts(self) -> Tensor:
        """Σ_i r_ik, (M,)."""
        return self.sums(
            torch.ones(*self.labels.shape, 1, dtype=self.dtype, device=self.labels.device)
        )[:, 0]

    def dense(self) -> Tensor:
        """r itself with rows weighted, (N, M)."""
        r = torch.zeros(len(self.labels), self.members, dtype=self.dtype, device=self.labels.device)
        r.scatter_(1, self.labels, 1.0)
        return r if self.weight is None else r * self.weight[:, None]
