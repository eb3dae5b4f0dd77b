"""Models: the PsyNeuLink composition, its plain-PyTorch reference, and what the two share."""

from .config import ModelConfig
from .losses import LossSettings, TrialTensors
from .records import TrialRecord
from .reference import ReferenceEpisodicLSTM
from .training import train
from .weights import GATE_ORDER, initial_weights, weight_shapes

__all__ = [
    "GATE_ORDER",
    "LossSettings",
    "ModelConfig",
    "ReferenceEpisodicLSTM",
    "TrialRecord",
    "TrialTensors",
    "initial_weights",
    "train",
    "weight_shapes",
]
