"""How good samples are when nobody can say their likelihood: modes, kernel and feature distances,
transport.
"""

__all__ = [
    "Features",
    "Modes",
    "fid",
    "generated_scores",
    "kid",
    "mmd",
    "modes",
    "sample_scores",
    "wasserstein",
]

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily
from torch.nn import functional

from emgen.data.base import Data
from emgen.estimators.progress import each
from emgen.evaluation.likelihood import Estimate, evaluating
from emgen.randomness import seeded

MOST = 2**16  # rows that samples are compared with
DISTORTIONS = 8
FEATURES = 32  # a Gaussian fitted to fewer images than it has dimensions is no distribution


@dataclass(frozen=True)
class Modes:
    """What samples make of a mixture's modes.

    Args:
        covered: modes with at least one high-quality sample.
        total: modes that the mixture has.
        high_quality: share of samples within `sds` standard deviations of a mode.
        reverse_kl: KL(samples ‖ truth) over the modes, each sample counted for its nearest, in
            nats.
    """

    covered: int
    total: int
    high_quality: float
    reverse_kl: float


def generated_scores(
    model: Any, data: Data, split: str, draws: int | None, seed: int = 0
) -> dict[str, Estimate]:
    """The `sample_scores` of what a model draws, against the rows of a split.

    Nothing where the model cannot be drawn from, where its draws are not of the data's shape, where
    rows are no points of their own (the entries of a corpus, padded sequences), or where there are
    fewer than two.

    Args:
        model: draws images as their means E[x|z], anything else as it comes.
        data: where the rows are.
        split: train, validation or test.
        draws: how many; None scores nothing.
        seed: of the draws, the features and the subsets.
    """
    from emgen.figures.samples import samples_of

    reference = data.split(split, MOST)
    datum = getattr(model, "datum", None) or data.datum
    if not draws or datum != "row" or len(reference) < 2:
        return {}
    with evaluating(model, seed):
        drawn = samples_of(model, draws)
    if drawn is None or drawn.shape[1:] != reference.shape[1:]:
        return {}
    drawn = drawn.to(reference.device)
    if not bool(drawn.isfinite().all() and reference.isfinite().all()):  # padded sequences
        return {}
    return sample_scores(drawn, reference, data.split("train", MOST), data.density, seed)


def sample_scores(
    samples: Tensor,
    reference: Tensor,
    train: Tensor,
    density: Distribution | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """What can be said of samples of this shape: always `mmd`; of more images than there are
    features `fid` and `kid`; of a known mixture its modes.

    Args:
        samples: what the model generates, (N, *event).
        reference: held-out rows as stored, (M, *event).
        train: the rows on which the features of images are learnt.
        density: the true distribution, where it is known.
        seed: of the features and the subsets.
    """
    found = {"mmd": mmd(samples, reference)}
    if samples.dim() == 4 and min(len(samples), len(reference)) > FEATURES:
        features = Features(train, seed=seed)
        value = fid(samples, reference, features)
        found["fid"] = Estimate(
            value, math.nan, f"FID, our features, {len(samples)} and {len(reference)} images"
        )
        found["kid"] = kid(samples, reference, features, seed=seed)
    if isinstance(density, MixtureSameFamily):
        m = modes(samples, density)
        how = f"of {m.total} modes, {len(samples)} samples, 3 standard deviations"
        error = math.sqrt(m.high_quality * (1 - m.high_quality) / len(samples))
        found["modes"] = Estimate(m.covered, math.nan, how)
        found["high_quality"] = Estimate(m.high_quality, error, f"share near one {how}")
        found["mode_kl"] = Estimate(
            m.reverse_kl, math.nan, f"KL(samples ‖ truth) over the modes, {len(samples)} samples"
        )
    return found


def modes(samples: Tensor, density: MixtureSameFamily, sds: float = 3.0) -> Modes:
    """Modes covered, share of high-quality samples and reverse KL over modes, by PacGAN's protocol.

    Args:
        samples: (N, D); the protocol draws 2,500.
        density: a mixture of diagonal Gaussians, such as `data.density` of `ring` and `grid`.
        sds: how many standard deviations from a mode a sample may lie.

    References: Srivastava et al. (2017), "VEEGAN"; Lin, Khetan, Fanti, Oh (2018), "PacGAN".

    >>> from emgen.data.toy import ring_density
    >>> modes(torch.tensor([[1.0, 0.0], [0.0, 1.02], [0.0, 0.0]]), ring_density()).covered
    2
    """
    if len(samples) == 0:
        raise ValueError("there are no samples: expected at least one.")
    component, weights = (
        density.component_distribution,
        density.mixture_distribution.probs.to(samples),
    )
    centres, spread = component.mean.to(samples), component.stddev.to(samples)
    distances = ((samples[:, None] - centres) / spread).square().sum(-1).sqrt()
    nearest_distance, nearest = distances.min(1)
    good = nearest_distance <= sds
    counts = torch.bincount(nearest, minlength=len(centres)).double() / len(samples)
    reverse_kl = (
        torch.special.xlogy(counts, counts) - torch.special.xlogy(counts, weights.double())
    ).sum()
    return Modes(
        len(nearest[good].unique()),
        len(centres),
        good.double().mean().item(),
        max(0.0, reverse_kl.item()),
    )


def mmd(
    x: Tensor, y: Tensor, scales: Sequence[float] = (0.5, 1.0, 2.0), *, at_most: int = 2_500
) -> Estimate:
    """Squared maximum mean discrepancy with Gaussian kernels, unbiased, with its standard error.

        MMD² = 1/n(n−1) Σ_{i≠j} k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(x_j, y_i)

    Pairing x_i with y_i makes it a U-statistic, exactly zero for the same sample; it may fall below
    zero.

    Args:
        x, y: two samples, (N, *event); the longer is cut to the shorter, and both to `at_most`.
        scales: bandwidths in units of the median distance; their kernels are averaged.
        at_most: rows used; memory is quadratic in them.

    References: Gretton et al. (2012), "A kernel two-sample test".

    >>> x = torch.arange(12.).reshape(6, 2)
    >>> mmd(x, x).value
    0.0
    """
    n = min(len(x), len(y), at_most)
    if n < 2:
        raise ValueError(f"MMD of {len(x)} and {len(y)} samples: expected at least two of each.")
    x, y = x[:n].flatten(1).double(), y[:n].flatten(1).double()
    across = torch.cdist(x, y).square()
    median = across.median().clamp(min=torch.finfo(torch.float64).tiny)

    def kernel(squares: Tensor) -> Tensor:
        return torch.stack([(squares / (-2 * scale**2 * median)).exp() for scale in scales]).mean(0)

    h = kernel(torch.cdist(x, x).square()) + kernel(torch.cdist(y, y).square()) - 2 * kernel(across)
    h = (h + h.T) / 2
    rows = (h.sum(1) - h.diagonal()) / (n - 1)
    return Estimate(
        rows.mean().item(),
        2 * rows.std().item() / math.sqrt(n),
        f"MMD², Gaussian kernels, {n} samples",
    )


def wasserstein(x: Tensor, y: Tensor, *, order: int = 1, at_most: int = 2_000) -> float:
    """Wasserstein distance of two samples, (min over couplings of E‖x − y‖^order)^{1/order}, by
    exact transport.

    Args:
        x, y: two samples, (N, *event); each is cut to `at_most` rows, for the cost grows with their
            cube.
        order: 1 or 2.

    Raises:
        ImportError: POT is not installed.
    """
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "the Wasserstein distance needs POT: pip install 'emgen[transport]'."
        ) from error
    if order not in (1, 2):
        raise ValueError(f"order={order}: expected 1 or 2.")
    a, b = x[:at_most].flatten(1).double(), y[:at_most].flatten(1).double()
    cost = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** order
    least: Any = ot.emd2([], [], cost.cpu().numpy(), numItermax=1_000_000)
    return float(least) ** (1 / order)


class Features(nn.Module):
    """A small convolutional network that learnt on the data at hand what an intact image looks
    like.

    FID and KID usually ask a network trained on photographs, whose weights must be downloaded and
    which has never seen an 8×8 digit. This one is trained in seconds to tell which of eight
    distortions an image has suffered (none, three flips, noise, blur, a shift, a mixture with
    another image); its features are the layer before the answer. It is the same for the same data
    and seed, and figures compare only within one data set.

    Args:
        images: training images, (N, C, H, W), in [0, 1].
        size: number of features.
        steps: of training, with batches of 128.
        seed: of its start and its training; the global random state is left as it was.
    """

    def __init__(self, images: Tensor, size: int = FEATURES, steps: int = 300, seed: int = 0):
        super().__init__()
        if images.dim() != 4:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: expected (N, channels, height, width)."
            )
        self.num_features = size  # torchmetrics asks for it by this name
        device = images.device
        with seeded(seed, device), torch.enable_grad():
            self.network = nn.Sequential(
                nn.Conv2d(images.shape[1], 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.LazyLinear(size),
            ).to(device)
            self.network(images[:1])  # the lazy layer learns its size
            answer = nn.Sequential(nn.ReLU(), nn.Linear(size, DISTORTIONS)).to(device)
            optimizer = torch.optim.Adam(
                [*self.network.parameters(), *answer.parameters()], lr=2e-3
            )
            kinds = torch.arange(128, device=device) % DISTORTIONS
            for _ in each(range(steps), "learning features"):
                x = images[torch.randint(len(images), (128,)).to(device)]
                loss = functional.cross_entropy(answer(self.network(_distorted(x))), kinds)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.requires_grad_(False)
        seen = self.network(images[:10_000])
        self.register_buffer("mean", seen.mean(0))
        self.register_buffer("spread", seen.std(0).clamp(min=1e-6))

    def forward(self, images: Tensor) -> Tensor:
        return (self.network(images) - self.mean) / self.spread


def fid(samples: Tensor, data: Tensor, features: nn.Module, *, chunk: int = 1_000) -> float:
    """Fréchet distance between Gaussians fitted to the features of samples and data (biased upwards
    in few samples).

        ‖μ − μ̃‖² + tr(Σ + Σ̃ − 2 (Σ Σ̃)^½)

    Args:
        samples, data: images, (N, C, H, W), in [0, 1]; more of each than there are features.
        features: images → (N, D), such as `Features`.

    References: Heusel et al. (2017), "GANs trained by a two time-scale update rule converge to a
    local Nash equilibrium".
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=features).to(samples.device)
    for real, images in ((True, data), (False, samples)):
        for block in each(images.split(chunk), "features"):
            metric.update(block, real=real)
    return float(metric.compute())


def kid(
    samples: Tensor, data: Tensor, features: nn.Module, *, subset: int = 250, seed: int = 0
) -> Estimate:
    """Kernel distance between features: MMD² with the cubic kernel (⟨a, b⟩/D + 1)³, mean over 100
    subsets.

    Unbiased at any number of samples. Its error is the spread over the subsets.

    Args:
        samples, data, features: as in `fid`.
        subset: size of a subset, cut to the smaller sample.
        seed: of the subsets; the global random state is left as it was.

    References: Bińkowski, Sutherland, Arbel, Gretton (2018), "Demystifying MMD GANs".
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset, len(samples), len(data))
    with warnings.catch_warnings(), seeded(seed, samples.device):
        warnings.simplefilter("ignore", UserWarning)  # it keeps all features, which are few
        metric = KernelInceptionDistance(feature=features, subset_size=size).to(samples.device)
        metric.update(data, real=True)
        metric.update(samples, real=False)
        mean, spread = metric.compute()
    return Estimate(float(mean), float(spread), f"KID, {metric.subsets} subsets of {size}")


def _distorted(x: Tensor) -> Tensor:
    """Row i of a batch with the distortion number i mod 8."""
    height, width = x.shape[-2:]
    changed = x.clone()
    for kind, change in enumerate(
        [
            lambda y: y.flip(-1),
            lambda y: y.flip(-2),
            lambda y: y.flip(-1, -2),
            lambda y: y + 0.2 * torch.randn_like(y),
            lambda y: functional.avg_pool2d(y, 3, stride=1, padding=1),
            lambda y: y.roll((height // 3, width // 3), (-2, -1)),
            lambda y: (y + y.roll(1, 0)) / 2,
        ],
        start=1,
    ):
        changed[kind::DISTORTIONS] = change(x[kind::DISTORTIONS])
    return changed
