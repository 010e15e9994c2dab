"""Trainers: one schedule of half-steps a file."""

from emgen.trainers.aavae import AAVAE
from emgen.trainers.base import Trainer
from emgen.trainers.cd import CD
from emgen.trainers.em import EM
from emgen.trainers.f_gm import FGM
from emgen.trainers.fgan import FGAN
from emgen.trainers.gan import GAN
from emgen.trainers.line import Line
from emgen.trainers.rws import RWS
from emgen.trainers.up_down import UpDown
from emgen.trainers.vae import VAE
from emgen.trainers.wake_sleep import WakeSleep

__all__ = [
    "AAVAE",
    "CD",
    "EM",
    "FGAN",
    "FGM",
    "GAN",
    "Line",
    "RWS",
    "VAE",
    "Trainer",
    "UpDown",
    "WakeSleep",
]
