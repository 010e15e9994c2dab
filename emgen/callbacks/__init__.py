"""Callbacks: what happens around training - metrics, checkpoints, pictures, progress."""

from emgen.callbacks.checkpoint import AtomicCheckpointIO, Checkpoint, Interrupted
from emgen.callbacks.clusters import Clusters, CoClustering
from emgen.callbacks.constants import NormalisingConstants
from emgen.callbacks.divergences import CrossTable, Preferences, Projections
from emgen.callbacks.ema import EMA
from emgen.callbacks.figures import Figures
from emgen.callbacks.levels import HalfSteps, LowerBounds, ParameterPath, Tempering
from emgen.callbacks.metrics import Metrics
from emgen.callbacks.monitor import EarlyStopping, TopK
from emgen.callbacks.picture import Picture
from emgen.callbacks.progress import Progress
from emgen.callbacks.projector import Projector
from emgen.callbacks.structures import Causes, Emissions, RestrictedBeliefs, TopicWords

__all__ = [
    "EMA",
    "AtomicCheckpointIO",
    "Causes",
    "Checkpoint",
    "Clusters",
    "CoClustering",
    "CrossTable",
    "EarlyStopping",
    "Emissions",
    "Figures",
    "HalfSteps",
    "Interrupted",
    "LowerBounds",
    "Metrics",
    "NormalisingConstants",
    "ParameterPath",
    "Picture",
    "Preferences",
    "Progress",
    "Projections",
    "Projector",
    "RestrictedBeliefs",
    "Tempering",
    "TopK",
    "TopicWords",
]
