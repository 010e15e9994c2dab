"""What torch.distributions lacks: a point mass, a joint over layers, relaxed draws, a KL that names
its two sides.
"""

__all__ = [
    "Dirac",
    "Implicit",
    "IndependentBernoulli",
    "Joint",
    "OneHot",
    "UnitNormal",
    "bernoulli",
    "full_precision",
    "kl",
    "relaxed",
    "softplus",
]

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
    constraints,
    kl_divergence,
    register_kl,
)
from torch.nn.functional import gumbel_softmax, logsigmoid


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context without mixed precision, on any device (the meta device knows none)."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ) with all its digits at either end; three times as fast as torch's for float32 on
    an AMD CPU, gradient and all.

    >>> softplus(torch.tensor([-20.0, 0.0, 20.0]))
    tensor([2.0612e-09, 6.9315e-01, 2.0000e+01])
    """
    if (
        x.dtype != torch.float32 or x.device.type != "cpu" or x.numel() < 2**14
    ):  # so few that the detour costs more
        return nn.functional.softplus(x, threshold=50.0)
    return _Softplus.apply(x)


class _Softplus(torch.autograd.Function):
    """max(x, 0) + log(1 + e⁻|ˣ|), the logarithm corrected by what rounding took, since torch's
    log1p takes one number at a time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        small = x.abs().neg_().exp_()
        one = small + 1
        lost = small.sub_(one - 1)  # what rounding took from 1 + e⁻|ˣ|
        return x.clamp(min=0).add_(one.log().addcdiv_(lost, one))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0].sigmoid()


# `apply` binds its arguments through inspect.signature at every call, a tenth of a millisecond; a
# function that carries its signature is not looked into again.
_Softplus.forward.__signature__ = inspect.signature(_Softplus.forward)  # type: ignore[attr-defined]


def kl(*, q: Distribution, p: Distribution, samples: int | None = None) -> Tensor:
    """The Kullback-Leibler divergence KL(q ‖ p) = E_q[log q(z) − log p(z)] in nats, batch-wise.

    Exact where torch knows the pair; otherwise, or when `samples` is given, the Monte Carlo mean
    over `samples` reparameterised draws (64 by default) of the non-negative estimate r − 1 − log r
    with r = p/q (Schulman, 2020, "Approximating KL divergence"), which has the same mean and never
    falls below zero.

    >>> from torch.distributions import Normal
    >>> kl(q=Normal(0., 1.), p=Normal(1., 1.)).item()
    0.5
    """
    if samples is None:
        if isinstance(q, Independent) and isinstance(p, Independent):
            dims = q.reinterpreted_batch_ndims
            if dims == p.reinterpreted_batch_ndims and _by_logits(q.base_dist):
                inner = kl(q=q.base_dist, p=p.base_dist)
                return inner.sum(list(range(-dims, 0))) if dims else inner
        if _by_logits(q) and _by_logits(p):
            return _bernoulli_kl(q.logits, p.logits)  # type: ignore[attr-defined]
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            samples = 64
    if samples < 1:
        raise ValueError(
            f"samples={samples}: KL needs at least one draw; give samples >= 1, or None for the"
            " exact value."
        )
    z = q.rsample((samples,)) if q.has_rsample else q.sample((samples,))
    log_r = p.log_prob(z) - q.log_prob(z)
    return (log_r.expm1() - log_r).mean(0)


def _by_logits(distribution: Distribution) -> bool:
    return isinstance(distribution, Bernoulli) and "logits" in vars(distribution)


def _bernoulli_kl(a: Tensor, b: Tensor) -> Tensor:
    """KL of Bernoullis with logits a and b.

    torch takes it from probabilities, of which the rarer is rounded to 0 beyond a logit of 17 in single precision: an
    infinite KL.
    """
    one = a.sigmoid() * (logsigmoid(a) - logsigmoid(b))
    zero = (-a).sigmoid() * (logsigmoid(-a) - logsigmoid(-b))
    return (one + zero).clamp_min(0)


def bernoulli(p: Tensor) -> Tensor:
    """Draws in {0, 1} with these probabilities (*batch, D), in their dtype.

    Random bits are most of the cost on a CPU: a unit has 16 of its own, and the finer digits of its
    uniform are those of its row. Every probability is met to the last digit; two units of a row,
    independent given these digits, have a covariance of 2⁻³⁴ at most.
    """
    dtype = torch.promote_types(
        p.dtype, torch.float32
    )  # eight bits of bfloat16 would never draw a rare unit
    if p.device.type != "cpu" or p.numel() < 2**15:
        return torch.rand(p.shape, dtype=dtype, device=p.device).lt_(p).to(p.dtype)
    digits = int(2**-15 / torch.finfo(dtype).eps)  # how many finer ones there are
    bits = torch.empty(p.numel() // 4 + 1, dtype=torch.int64, device=p.device).random_(
        -(2**63), None
    )
    coarse = bits.view(torch.int16)[: p.numel()].view(p.shape)
    fine = (
        torch.randint(digits, (*p.shape[:-1], 1), device=p.device)
        .to(dtype)
        .mul_(2**-16 / digits)
        .add_(0.5)
    )
    return torch.add(fine, coarse.to(dtype), alpha=2**-16).lt_(p).to(p.dtype)


class Dirac(Distribution):
    """A point mass δ(x − point); its whole shape but the last `event_dims` dimensions is batch.

    It is what hard EM believes of a latent and what a GAN's decoder says of an image. `log_prob` is
    0 at the point and −∞ elsewhere (with respect to counting measure), the entropy is 0.

    >>> Dirac(torch.tensor([1., 2.]), event_dims=1).log_prob(torch.tensor([[1., 2.], [0., 2.]]))
    tensor([0., -inf])
    """

    arg_constraints: Any = {"point": constraints.real}
    support: Any = constraints.real
    has_rsample = True

    def __init__(self, point: Tensor, event_dims: int = 0, validate_args: bool | None = None):
        self.point = point
        split = point.dim() - event_dims
        super().__init__(point.shape[:split], point.shape[split:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.point

    @property
    def mode(self) -> Tensor:
        return self.point

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.point)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        return self.point.expand(torch.Size(sample_shape) + self.point.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        equal = (
            (value == self.point).flatten(value.dim() - len(self.event_shape)).all(-1)
            if self.event_shape
            else (value == self.point)
        )
        return torch.where(equal, 0.0, -torch.inf).to(self.point.dtype)

    def entropy(self) -> Tensor:
        return self.point.new_zeros(self.batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Dirac":
        return Dirac(
            self.point.expand(torch.Size(batch_shape) + self.event_shape), len(self.event_shape)
        )


class Implicit(Distribution):
    """A distribution that is known by its draws alone, z = g(ε): every draw is a new one, and there
    is no density.

    Args:
        draw: (*sample_shape) → draws (*sample_shape, *batch, *event) that carry a gradient.
        batch_shape, event_shape: of one draw.

    >>> q = Implicit(lambda shape: torch.randn(*shape, 3, 2), (3,), (2,))
    >>> q.rsample((5,)).shape, bool((q.rsample() != q.rsample()).all())
    (torch.Size([5, 3, 2]), True)
    """

    arg_constraints: Any = {}
    support: Any = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        draw: Callable[[torch.Size], Tensor],
        batch_shape: Sequence[int],
        event_shape: Sequence[int],
    ):
        self.draw = draw
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        return self.draw(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """
        Raises:
            TypeError: always, for there is no density.
        """
        raise TypeError(
            "this q(z|x) is implicit, known by its draws alone, and has no density: train it by a"
            " game that sees z (trainer=avb, ali, aae) and score it by annealing (emgen evaluate"
            " temperatures=500)."
        )


class IndependentBernoulli(Independent):
    """Binary events of several dimensions; log p(x) = x·ℓ − Σ softplus(ℓ), one product and one pass
    over the logits.

    Grey values x in [0, 1] are scored by the same formula, which is the expectation over their
    binarisation.

    >>> IndependentBernoulli(torch.zeros(3), 1).log_prob(torch.tensor([1., 0., 1.])).exp()
    tensor(0.1250)
    """

    def __init__(self, logits: Tensor, event_dims: int):
        super().__init__(
            Bernoulli(logits=logits, validate_args=False), event_dims, validate_args=False
        )

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return bernoulli(
                self.base_dist.probs.expand(self._extended_shape(torch.Size(sample_shape)))
            )

    def log_prob(self, value: Tensor) -> Tensor:
        logits, events = self.base_dist.logits, self.reinterpreted_batch_ndims
        if events != 1:
            logits, value = logits.flatten(-events), value.flatten(-events)
        crossed = value.dim() > 1 and logits.dim() > 1 and value.shape[-2] == 1 != logits.shape[-2]
        if crossed:  # every event against every row of logits is a product of matrices: vecdot would write all the pairs out
            return torch.einsum("...d,...d->...", value.to(logits), logits) - softplus(logits).sum(
                -1
            )
        return torch.linalg.vecdot(value.to(logits), logits) - softplus(logits).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "IndependentBernoulli":
        return IndependentBernoulli(
            self.base_dist.logits.expand(torch.Size(batch_shape) + self.event_shape),
            len(self.event_shape),
        )


class Joint(Distribution):
    """A Markov chain of layers seen as one distribution over the tuple of them.

        p(z₁, …, z_L) = p(z_L) Π p(z_l | z_{l+1})     (top-down: `first` is the top layer,
        `top_down=True`) q(z₁, …, z_L) = q(z₁) Π q(z_{l+1} | z_l)      (bottom-up: `first` is the
        lowest layer)

    Either way a value is the tuple (z₁, …, z_L) from the lowest layer up, so that a prior and a
    recognition model speak of the same thing and a trainer never sees the difference.

    Args:
        first: the distribution of the layer that is drawn first.
        conditionals: one callable a further layer, previous layer → Distribution.
        top_down: whether the chain runs from the top layer to the lowest.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        first: Distribution,
        conditionals: Sequence[Callable[[Tensor], Distribution]],
        top_down: bool = False,
    ):
        self.first, self.conditionals, self.top_down = first, tuple(conditionals), top_down
        super().__init__(first.batch_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether every layer can be reparameterised, judged on one draw of the chain without
        gradients.
        """
        with torch.no_grad():
            return all(d.has_rsample for d in self.given(self.sample()))

    def given(self, value: Sequence[Tensor]) -> list[Distribution]:
        """The distribution of each layer given the layer before it in the chain, in drawing order."""
        layers = self._drawing_order(value)
        return [self.first, *(c(previous) for c, previous in zip(self.conditionals, layers[:-1]))]

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return self.draw(lambda d, shape: d.sample(shape), sample_shape)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> tuple[Tensor, ...]:
        return self.draw(lambda d, shape: d.rsample(shape), sample_shape)

    def draw(
        self,
        how: Callable[[Distribution, torch.Size], Tensor],
        sample_shape: torch.Size | Sequence[int] = (),
    ) -> tuple[Tensor, ...]:
        """The layers drawn one after the other, each by `how(its distribution, shape)`."""
        layers = [how(self.first, torch.Size(sample_shape))]
        for conditional in self.conditionals:
            layers.append(how(conditional(layers[-1]), torch.Size()))
        return self._drawing_order(layers)

    def log_prob(self, value: Sequence[Tensor]) -> Tensor:
        return sum(d.log_prob(z) for d, z in zip(self.given(value), self._drawing_order(value)))  # type: ignore[return-value]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Joint":
        return Joint(self.first.expand(batch_shape), self.conditionals, self.top_down)

    def _drawing_order(self, layers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The order of drawing ↔ the order from the lowest layer up (its own inverse)."""
        return tuple(reversed(layers)) if self.top_down else tuple(layers)


class OneHot(OneHotCategorical):
    """A categorical draw as a one-hot vector whose log-probability is linear in it, so a relaxed
    draw has gradients.

    log p(z) = Σ_c z_c log π_c
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).sum(-1)


class UnitNormal(Normal):
    """N(0, 1), told apart because KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − 1) − log σ takes half the
    work of the general pair.
    """

    arg_constraints = Normal.arg_constraints

    def expand(self, batch_shape: Any, _instance: Any = None) -> "UnitNormal":
        return UnitNormal(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False
        )


@register_kl(Normal, UnitNormal)
def _kl_normal_unit(q: Normal, p: UnitNormal) -> Tensor:
    return 0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()


def relaxed(
    distribution: Distribution,
    sample_shape: Sequence[int] = (),
    *,
    temperature: float = 1.0,
    hard: bool = True,
) -> Any:
    """Draws that carry a gradient to the distribution's parameters even where the event is
    discrete.

        soft: z̃ = softmax((ℓ + Gumbel noise) / τ),  for a binary unit σ((ℓ + logistic noise) / τ)
        hard: z = onehot(z̃) + z̃ − [z̃],  where [·] has no gradient

    A hard draw is an exact draw whose gradient is that of the soft one (straight-through, biased);
    a soft draw has the exact gradient of a relaxed model. What torch can reparameterise is drawn by
    `rsample`; a `Joint` layer by layer.

    Raises:
        TypeError: a discrete distribution without a relaxation.

    References: Maddison, Mnih and Teh (2017), "The concrete distribution"; Jang, Gu and Poole
    (2017), "Categorical reparameterization with Gumbel-softmax"; Bengio, Léonard and Courville
    (2013), "Estimating or propagating gradients through stochastic neurons".
    """

    def draw(d: Distribution, shape: torch.Size) -> Tensor:
        if d.has_rsample:
            return d.rsample(shape)
        if isinstance(d, Independent):
            return draw(d.base_dist, shape)
        if isinstance(d, OneHotCategorical):
            return gumbel_softmax(d.logits.expand(d._extended_shape(shape)), temperature, hard)
        if not isinstance(d, Bernoulli):
            raise TypeError(
                f"{type(d).__name__} has no relaxation: use trainer=vimco, rws or wake_sleep, which"
                " only draw."
            )
        uniform = torch.rand(
            d._extended_shape(shape), dtype=d.logits.dtype, device=d.logits.device
        ).clamp_min(1e-12)
        soft = torch.sigmoid((d.logits + uniform.log() - torch.log1p(-uniform)) / temperature)
        return (soft > 0.5).to(soft) + soft - soft.detach() if hard else soft

    if isinstance(distribution, Joint):
        return distribution.draw(draw, sample_shape)
    return draw(distribution, torch.Size(sample_shape))
