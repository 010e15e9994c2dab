"""Models known by their samples alone."""

__all__ = ["LocationScale"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal


class LocationScale(nn.Module):
    """x = μ + σ ε with ε ~ N(0, I): the smallest generator, whose density is known to those who
    judge it.

    Draws are stratified, εᵢ = Φ⁻¹((π(i) + uᵢ)/n) with a random order π in each coordinate: every
    one is standard normal and a batch of them covers the line evenly, so that its means are far
    less noisy than those of independent draws.

    Args:
        event_shape: shape of x, given by the data.
        loc, scale: where μ and σ start, in the units of x.

    Raises:
        ValueError: if the scale is not positive.

    >>> x = LocationScale((1,), loc=3.0).rsample(1000)
    >>> x.shape, bool((x.mean() - 3.0).abs() < 0.01)
    (torch.Size([1000, 1]), True)
    """

    def __init__(self, event_shape: Sequence[int], loc: float = 0.0, scale: float = 1.0):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale={scale}: a standard deviation is positive.")
        self.loc = nn.Parameter(torch.full(tuple(event_shape), float(loc)))
        self.log_scale = nn.Parameter(torch.full(tuple(event_shape), float(scale)).log())

    def distribution(self) -> Independent:
        """p(x)."""
        return Independent(Normal(self.loc, self.log_scale.exp()), self.loc.dim())

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (B,)."""
        return self.distribution().log_prob(x)

    def rsample(self, n: int) -> Tensor:
        """`n` differentiable draws (n, *event)."""
        strata = torch.rand(
            n, *self.loc.shape, device=self.loc.device, dtype=self.loc.dtype
        ).argsort(0)
        u = (strata + torch.rand_like(self.loc.expand(n, *self.loc.shape))) / n
        edge = torch.finfo(u.dtype).eps
        return self.loc + self.log_scale.exp() * torch.special.ndtri(u.clamp(edge, 1 - edge))

    def sample(self, n: int) -> Tensor:
        """`n` draws without gradient."""
        with torch.no_grad():
            return self.rsample(n)
