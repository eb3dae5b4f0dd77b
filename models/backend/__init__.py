"""All that touches private or undocumented parts of PsyNeuLink, one file a job.

Each work-around has a test in ``tests/test_backend.py`` that fails once PsyNeuLink no longer needs it.
"""

from .access import (
    NotTrainable,
    accept_subclasses_in_context,
    as_context,
    get_matrix,
    get_parameter,
    inner_projections,
    is_stateful,
    memories,
    set_matrix,
    set_parameter,
    setting_contexts,
    start_from,
    value_of,
)
from .call import AllInputs, Call
from .paths import LearningPath, Paths
from .recurrent import RecurrentComposition
from .same_modes import graph_signature
from .session import Session
from .steps import NodeTrace, Trace
from .wrapper import RecurrentWrapper

__all__ = [
    "AllInputs",
    "Call",
    "LearningPath",
    "NodeTrace",
    "NotTrainable",
    "Paths",
    "RecurrentComposition",
    "RecurrentWrapper",
    "Session",
    "Trace",
    "accept_subclasses_in_context",
    "as_context",
    "get_matrix",
    "get_parameter",
    "graph_signature",
    "inner_projections",
    "is_stateful",
    "memories",
    "set_matrix",
    "set_parameter",
    "setting_contexts",
    "start_from",
    "value_of",
]
