"""Fitting the model to people: data, parameters, likelihood, estimation, comparison, recovery, prediction.

What needs PyTorch is imported when it is first asked for: data can be read and checked without those seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .table.data import ObservedBlock, Participant
from .table.problems import DataError, Problem
from .table.reading import TrialTable, read_trials
from .table.report import DataReport
from .table.schema import schema_table
from .table.writing import write_trials

if TYPE_CHECKING:
    from .agent import TrainedAgent
    from .bayes import fit_bayes
    from .designs import Design
    from .estimation import fit_map
    from .group import fit_empirical_bayes
    from .likelihood import Likelihood
    from .observation import FreeResponse, StepChoices
    from .parameters import FreeParameter, ParameterSpace, parameter_table
    from .predictive import PredictiveCheck, predictive_check
    from .recovery_measures import calibrate, recovery_across, recovery_pairs, recovery_table
    from .results import Fit
    from .simulation import policies_of, simulate_people
    from .variant import Variant, variants

_LATER = {
    "agent": ("TrainedAgent",),
    "bayes": ("fit_bayes",),
    "designs": ("Design",),
    "estimation": ("fit_map",),
    "group": ("fit_empirical_bayes",),
    "likelihood": ("Likelihood",),
    "observation": ("FreeResponse", "StepChoices"),
    "parameters": ("FreeParameter", "ParameterSpace", "parameter_table"),
    "predictive": ("PredictiveCheck", "predictive_check"),
    "recovery_measures": ("calibrate", "recovery_across", "recovery_pairs", "recovery_table"),
    "results": ("Fit",),
    "simulation": ("policies_of", "simulate_people"),
    "variant": ("Variant", "variants"),
}
_ROOM_OF = {name: room for room, names in _LATER.items() for name in names}

__all__ = [
    "DataError",
    "DataReport",
    "Design",
    "Fit",
    "FreeParameter",
    "FreeResponse",
    "Likelihood",
    "ObservedBlock",
    "ParameterSpace",
    "Participant",
    "PredictiveCheck",
    "Problem",
    "StepChoices",
    "TrainedAgent",
    "TrialTable",
    "Variant",
    "calibrate",
    "fit_bayes",
    "fit_empirical_bayes",
    "fit_map",
    "parameter_table",
    "policies_of",
    "predictive_check",
    "read_trials",
    "recovery_across",
    "recovery_pairs",
    "recovery_table",
    "schema_table",
    "simulate_people",
    "variants",
    "write_trials",
]


def __getattr__(name: str) -> object:
    if name in _ROOM_OF:
        return getattr(import_module(f".{_ROOM_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
