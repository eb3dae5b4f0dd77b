"""Fitting the model to people: their data, and what was used of them."""

from .data import ObservedBlock, Participant, TrialTable
from .problems import DataError, Problem
from .reading import read_trials
from .report import DataReport
from .schema import schema_table
from .writing import write_trials

__all__ = [
    "DataError",
    "DataReport",
    "ObservedBlock",
    "Participant",
    "Problem",
    "TrialTable",
    "read_trials",
    "schema_table",
    "write_trials",
]
