"""Objectives: frozen formulas over players, in nats per datum."""

from emgen.objectives.adversarial import Adversarial
from emgen.objectives.adversary_activated import AdversaryActivated
from emgen.objectives.base import Terms
from emgen.objectives.contrastive import ContrastiveDivergence, ModelPhase
from emgen.objectives.f_gm import FGM
from emgen.objectives.free_energy import FreeEnergy
from emgen.objectives.penalties import GradientPenalty, RothPenalty
from emgen.objectives.relaxed import Relaxed
from emgen.objectives.reweighted import ReweightedWake
from emgen.objectives.score_function import VIMCO, ScoreFunction
from emgen.objectives.wake_sleep import Sleep, Wake
from emgen.objectives.wasserstein import Wasserstein

__all__ = [
    "FGM",
    "VIMCO",
    "Adversarial",
    "AdversaryActivated",
    "ContrastiveDivergence",
    "FreeEnergy",
    "GradientPenalty",
    "ModelPhase",
    "Relaxed",
    "ReweightedWake",
    "RothPenalty",
    "ScoreFunction",
    "Sleep",
    "Terms",
    "Wake",
    "Wasserstein",
]
