"""Fitting the model to people: data, parameters, likelihood, estimation, comparison, recovery, prediction."""

from .bayes import fit_bayes
from .data import ObservedBlock, Participant, TrialTable
from .designs import Design
from .estimation import fit_map
from .group import fit_empirical_bayes
from .likelihood import Likelihood, TrainedAgent
from .observation import FreeResponse, StepChoices
from .parameters import FreeParameter, ParameterSpace, parameter_table
from .predictive import PredictiveCheck, predictive_check
from .problems import DataError, Problem
from .reading import read_trials
from .recovery_measures import calibrate, recovery_across, recovery_pairs, recovery_table
from .report import DataReport
from .results import Fit
from .schema import schema_table
from .simulation import policies_of, simulate_people
from .variants import Variant, variants
from .writing import write_trials

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
