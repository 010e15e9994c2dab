"""Each trainer of the package over a model and data of the smallest size that serve it."""

import torch

from emgen import models
from emgen.estimators.beliefs import Distribution, Draw
from emgen.models import BoltzmannMachine, GaussianMixture, dense, dense_critic, helmholtz_machine
from emgen.objectives import FreeEnergy
from emgen.trainers import AAVAE, CD, EM, FGAN, FGM, GAN, RWS, VAE, Line, UpDown, WakeSleep

EVENT = (1, 4, 4)


def pair(seed=0):
    torch.manual_seed(seed)
    return dense(EVENT, latent=2, hidden=(8,))


def gaussian_pair():
    torch.manual_seed(0)
    return dense(EVENT, latent=2, hidden=(8,), likelihood=models.heads.Gaussian)


def critic():
    torch.manual_seed(1)
    return dense_critic(EVENT, hidden=(8,))


def blobs(rows=60):
    rng = torch.Generator().manual_seed(0)
    return torch.cat(
        [
            torch.randn(rows // 2, 2, generator=rng) * 0.5,
            torch.randn(rows - rows // 2, 2, generator=rng) + 4,
        ]
    )


def images(rows=12):
    return (torch.arange(rows * 16) ** 2 % 13 < 6).float().view(rows, *EVENT)


PAIRS = {"critic": {"xz": 1}, "model": {"xz": 1}, "recognition": {"xz": 1}}


def critics(shape):
    torch.manual_seed(1)
    return dense_critic(shape, hidden=(8,))


def belief_net():
    torch.manual_seed(0)
    return models.DeepBeliefNet(EVENT, hidden=(3, 2))


# one or more ways to build each trainer of the package, with data that suit it
MAKE = {
    "VAE": lambda: (VAE(pair()), images()),
    "VAE importance-weighted": lambda: (
        VAE(pair(), FreeEnergy(samples=3, importance_weighted=True), clip=0.5),
        images(),
    ),
    "WakeSleep": lambda: (WakeSleep(pair()), images()),
    "WakeSleep on discrete layers": lambda: (
        WakeSleep(helmholtz_machine(EVENT, layers=(3, 2))),
        images(),
    ),
    "RWS": lambda: (RWS(helmholtz_machine(EVENT, layers=(3, 2))), images()),
    "GAN": lambda: (GAN(pair(), critic(), critic_steps=2), images()),
    "FGAN": lambda: (FGAN(pair(), critic()), images()),
    "AAVAE": lambda: (AAVAE(pair(), critic()), images()),
    "FGM": lambda: (FGM(gaussian_pair(), critic()), images()),
    "Line": lambda: (Line(pair(), critics, penalty=None), images()),
    "Line of pairs": lambda: (
        Line(pair(), critics, PAIRS, [["critic", "model", "recognition"]], penalty=None),
        images(),
    ),
    "CD": lambda: (CD(BoltzmannMachine(EVENT, hidden=3)), images()),
    "CD persistent": lambda: (CD(BoltzmannMachine(EVENT, hidden=3), persistent=True), images()),
    "CD tempered": lambda: (
        CD(BoltzmannMachine(EVENT, hidden=3), persistent=True, rungs=3),
        images(),
    ),
    "UpDown": lambda: (UpDown(belief_net(), greedy=0), images()),
    "EM": lambda: (EM(GaussianMixture(2)), blobs()),
    "EM variational": lambda: (EM(GaussianMixture(2), parameters=Distribution()), blobs()),
    "EM Gibbs": lambda: (EM(GaussianMixture(2), latents=Draw(), parameters=Draw()), blobs()),
    "EM online": lambda: (EM(GaussianMixture(2), every="batch", decay=0.7), blobs()),
}
