"""Which entries an agent's memory retrieves while PsyNeuLink executes it, node by node, for a record."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from .graph import AgentGraph
from .match import NOTHING
from .records import RETRIEVED
from .search import KernelSearch

UNKNOWN = np.array([-1.0, -1.0, np.nan])
"""It cannot be told what was retrieved: in place of an entry, its trial and its weight."""


class Retrievals:
    """The retrievals of one record, which begins.

    Args:
        graph: of the agent, as made or changed since.
        context: the execution context whose entries are read and stored.
    """

    def __init__(self, graph: AgentGraph, context: Any) -> None:
        self._graph = graph
        self._switch = graph.retrieve_node if graph.has_memory else graph.critic
        function = graph.episodic_memory.function if graph.has_memory else None
        self._function = function if isinstance(function, KernelSearch) else None
        self._bank = None if self._function is None else self._function.bank(context)
        self._record = 0 if self._bank is None else self._bank.new_record()

    @contextmanager
    def of(self, trial: int) -> Iterator[None]:
        """It is this trial, a row of the record, that is run meanwhile, and side by side with it those that
        follow: what it retrieves is noted, and what it stores is its."""
        if self._function is None or self._bank is None:
            yield
            return
        before, self._function.noted = self._function.noted, {}
        try:
            with self._bank.recording(self._record, trial):
                yield
        finally:
            self._function.noted = before

    def go_on(self, trial: int) -> None:
        """Meanwhile another one begins."""
        if self._bank is not None:
            self._bank.trial = trial

    def of_step(self, value_of: Callable[[Any], np.ndarray]) -> dict[str, Any]:
        """What was retrieved since this was asked last, while a step was run, given each node's value (size,)."""
        found = self._noted().pop(0, [UNKNOWN])
        return self._of_switch(found[-1], np.array(value_of(self._switch)[0]))

    def of_trials(self, values: Mapping[Any, Tensor]) -> dict[str, np.ndarray]:
        """What was retrieved on trials that were run side by side, by the names of a record, (B, T) each, given
        each node's value (B, T, size)."""
        switch = values[self._switch].detach().numpy()[..., 0]
        noted, (rows, length) = self._noted(), switch.shape
        found = [noted.get(row, []) for row in range(rows)]
        known = [own if len(own) == length else [UNKNOWN] * length for own in found]
        noted.clear()
        return self._of_switch(np.array(known).transpose(2, 0, 1), switch)

    def _noted(self) -> dict[int, list[np.ndarray]]:
        return {} if self._function is None or self._function.noted is None else self._function.noted

    def _of_switch(self, found: np.ndarray, switch: np.ndarray) -> dict[str, Any]:
        """What was found, (3, ...), where it was wanted, by the names of a record."""
        reads = (switch != 0) & self._graph.has_memory
        nothing = NOTHING.reshape(3, *[1] * switch.ndim)
        return dict(zip(RETRIEVED, np.where(reads, found, nothing), strict=True))
