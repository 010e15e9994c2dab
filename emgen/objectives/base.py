"""What every objective returns: a loss to descend and the named quantities a person reads."""

__all__ = ["Terms"]

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """A loss to be minimised and its named parts, all scalar means in nats per datum.

    Terms add and scale, so a hybrid reads as its equation: `free_energy(...) + 0.1 *
    adversarial(...)`. Scaling weighs the loss alone; a part keeps its meaning (an `elbo` stays a
    bound in nats per datum whatever its weight).

    >>> import torch
    >>> (Terms(torch.tensor(2.), {"a": torch.tensor(5.)}) + 0.5 * Terms(torch.tensor(4.))).loss
    tensor(4.)
    """

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "parts", {name: value.detach() for name, value in self.parts.items()}
        )

    def __add__(self, other: "Terms") -> "Terms":
        both = self.parts.keys() & other.parts.keys()
        if both:
            raise ValueError(
                f"two objectives both report {sorted(both)}: rename a part before adding, each name"
                " has one value."
            )
        return Terms(self.loss + other.loss, {**self.parts, **other.parts})

    def __mul__(self, weight: float | Tensor) -> "Terms":
        return Terms(self.loss * weight, self.parts)

    __rmul__ = __mul__

    def renamed(self, **names: str) -> "Terms":
        """The same terms with some parts called otherwise: `terms.renamed(bound="bound_critic")`."""
        return Terms(
            self.loss, {names.get(name, name): value for name, value in self.parts.items()}
        )
