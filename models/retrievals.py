"""Which entries an agent's memory retrieves while PsyNeuLink executes it, node by node, for a record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .graph import AgentGraph
from .match import NOTHING, Retrieved
from .records import RETRIEVED
from .search import KernelSearch

UNKNOWN = Retrieved(-1, -1, np.nan)
"""It cannot be told."""


class Retrievals:
    """The retrievals of one record, which begins.

    Args:
        graph: of the agent, as made or changed since.
        context: the execution context whose entries are read and stored.
    """

    def __init__(self, graph: AgentGraph, context: Any) -> None:
        self._graph = graph
        function = graph.episodic_memory.function if graph.has_memory else None
        self._function = function if isinstance(function, KernelSearch) else None
        self._bank = None if self._function is None else self._function.bank(context)
        if self._bank is not None:
            self._bank.begin_record()

    def at(self, trial: int) -> None:
        """It is this trial, a row of the record, that stores from now on; side by side with it run those that
        follow."""
        if self._bank is not None:
            self._bank.trial = trial

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what the memory retrieves meanwhile."""
        if self._function is None:
            yield
            return
        self._function.noted = {}
        try:
            yield
        finally:
            self._function.noted = None

    def of_step(self, switch: float) -> dict[str, Any]:
        """What was retrieved since this was asked last, while a step was run; ``switch``: of the step."""
        found = self._noted().pop(0, [])
        return dict(zip(RETRIEVED, self._of_switch(found[-1] if found else UNKNOWN, switch), strict=True))

    def of_trials(self, switch: np.ndarray) -> dict[str, np.ndarray]:
        """What was retrieved on trials that were run side by side, by the names of a record, (B, T) each.

        Args:
            switch: (B, T), by what the retrieved value was multiplied.
        """
        noted, trials = self._noted(), []
        for row, of_row in enumerate(switch):
            found = noted.get(row, [])
            found = found if len(found) == len(of_row) else [UNKNOWN] * len(of_row)
            trials.append([self._of_switch(*step) for step in zip(found, of_row, strict=True)])
        noted.clear()
        return {name: np.array([[step[i] for step in t] for t in trials]) for i, name in enumerate(RETRIEVED)}

    def _noted(self) -> dict[int, list[Retrieved]]:
        return {} if self._function is None or self._function.noted is None else self._function.noted

    def _of_switch(self, found: Retrieved, switch: float) -> Retrieved:
        return found if self._graph.has_memory and switch else NOTHING
