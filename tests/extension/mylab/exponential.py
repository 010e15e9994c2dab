"""A family of one's own: waiting times x ≥ 0 with density λ e^{−λx}, in every cell of the belief square."""

__all__ = ["Exponential"]

import torch
from torch.distributions import Exponential as Waiting
from torch.distributions import Gamma, Independent

from emgen.families import ExponentialFamily


class Exponential(ExponentialFamily):
    """K rows of D waiting times; t(x) = x, η = −λ = −1/m, A = −log λ, belief λ ~ Gamma(c + 1, c m)."""

    def sufficient(self, x):
        return x

    def log_base(self, x):
        return torch.where(x >= 0, 0.0, -torch.inf)

    def natural(self, mean):
        return -1 / mean

    def log_partition(self, natural):
        return -(-natural).log()

    def log_normaliser(self, total, concentration):
        return (concentration + 1).lgamma() - (concentration + 1) * total.log()

    def draw(self, total, concentration):
        return 1 / Gamma(concentration + 1, total).sample()

    def likelihood(self):
        return Independent(Waiting(1 / self.mean), 1)
