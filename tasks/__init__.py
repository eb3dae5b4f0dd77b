"""Tasks: what an agent sees and what is rewarded; nothing here knows of the models."""

from .barcode_bandit import BarcodeBandit
from .contextual_choice import ContextualChoice
from .trials import Trials

__all__ = ["BarcodeBandit", "ContextualChoice", "Trials"]
