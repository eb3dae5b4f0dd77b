"""Models: the PsyNeuLink composition, its plain-PyTorch reference, and what the two share.

What needs PsyNeuLink is imported when it is first asked for: the reference works without those seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .checkpoint import CheckpointError, load_model, save_model
from .config import ModelConfig
from .losses import LossSettings, NotFinite, TrialTensors
from .person import Person
from .records import EpisodeRecord, TrialRecord
from .reference import ReferenceEpisodicLSTM
from .training import train, train_episodes
from .weights import GATE_ORDER, initial_weights, weight_shapes

if TYPE_CHECKING:
    from .backend import NotTrainable, RecurrentComposition
    from .backend.logs import LogWarning
    from .cohort import Cohort
    from .composition import EpisodicLSTMComposition
    from .encoding import EncodingMechanism
    from .memory import EpisodicMemory, KernelMemory
    from .paths import GeneralPathWarning

_IN_PSYNEULINK = {
    "NotTrainable": "backend",
    "RecurrentComposition": "backend",
    "Cohort": "cohort",
    "EpisodicLSTMComposition": "composition",
    "GeneralPathWarning": "paths",
    "LogWarning": "backend.logs",
    "EncodingMechanism": "encoding",
    "EpisodicMemory": "memory",
    "KernelMemory": "memory",
}

__all__ = [
    "GATE_ORDER",
    "CheckpointError",
    "Cohort",
    "EncodingMechanism",
    "EpisodeRecord",
    "EpisodicLSTMComposition",
    "EpisodicMemory",
    "GeneralPathWarning",
    "KernelMemory",
    "LogWarning",
    "LossSettings",
    "ModelConfig",
    "NotFinite",
    "NotTrainable",
    "Person",
    "RecurrentComposition",
    "ReferenceEpisodicLSTM",
    "TrialRecord",
    "TrialTensors",
    "initial_weights",
    "load_model",
    "save_model",
    "train",
    "train_episodes",
    "weight_shapes",
]


def __getattr__(name: str) -> object:
    if name in _IN_PSYNEULINK:
        return getattr(import_module(f".{_IN_PSYNEULINK[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
