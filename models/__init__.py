"""Models: the PsyNeuLink composition, its plain-PyTorch reference, and what the two share."""

from .backend import NotTrainable, RecurrentComposition
from .composition import EpisodicLSTMComposition
from .config import ModelConfig
from .losses import LossSettings, TrialTensors
from .memory import EncodingMechanism, EpisodicMemory
from .records import TrialRecord
from .reference import ReferenceEpisodicLSTM
from .training import train
from .weights import GATE_ORDER, initial_weights, weight_shapes

__all__ = [
    "GATE_ORDER",
    "EncodingMechanism",
    "EpisodicLSTMComposition",
    "EpisodicMemory",
    "LossSettings",
    "ModelConfig",
    "NotTrainable",
    "RecurrentComposition",
    "ReferenceEpisodicLSTM",
    "TrialRecord",
    "TrialTensors",
    "initial_weights",
    "train",
    "weight_shapes",
]
