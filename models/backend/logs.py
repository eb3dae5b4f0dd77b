"""PsyNeuLink's logs in ``learn()``: what is entered there, from the values of a minibatch.

PsyNeuLink's PyTorch backend logs a mechanism's value once a minibatch, with the axes of the batch, and loses the
entry where the composition is executed in another ``Context`` object than the one it was built in. Here a value is
entered once a step, in the shape that it has in ``run()``, and a matrix once a minibatch; what else may be logged
exists in ``run()`` alone, and a ``LogWarning`` names it.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from psyneulink.core.globals.context import Context
from psyneulink.core.globals.context import time as Time
from psyneulink.core.globals.keywords import OWNER_VALUE
from psyneulink.core.globals.log import CompositionLog, LogCondition, LogEntry
from psyneulink.core.globals.utilities import convert_to_np_array

from ..warn import warn_user

IN_LEARNING = LogCondition.PROCESSING | LogCondition.LEARNING
"""``learn()`` makes an entry where a condition includes one of these, as the default, EXECUTION, does."""
NEVER_MET = LogCondition.TRIAL | LogCondition.RUN
"""PsyNeuLink makes entries for these neither in ``run()`` nor in ``learn()``."""
MARK = "PROCESSING, LEARNING_MODE"
"""What these entries have where PsyNeuLink notes the context: its names of an execution phase and a run mode."""
NAMED = 3
"""Most items that a ``LogWarning`` names."""


class LogWarning(UserWarning):
    """Something is to be logged that ``learn()`` does not log; the message names it."""


@dataclass(frozen=True, eq=False)
class Loggable:
    """A Parameter with what it belongs to."""

    parameter: Any
    owner: Any
    """The mechanism or projection."""
    item: int | None = None
    """Of an OutputPort's value: which item of its mechanism's value it is."""

    def __str__(self) -> str:
        component = self.parameter._owner._owner
        of = "" if component is self.owner else f" of '{component.name}'"
        return f"{self.parameter.name!r}{of} of '{self.owner.name}'"


class Loggables:
    """All that can be logged in a graph as it stands: what ``learn()`` logs, and the rest.

    Args:
        mechanisms: the nodes, those of nested compositions included.
        projections: likewise.
    """

    def __init__(self, mechanisms: list[Any], projections: list[Any]) -> None:
        self.values = [each for node in mechanisms for each in _values(node)]
        self.matrices = [Loggable(p.parameters.matrix, p) for p in projections]
        # A projection shares the conditions of its function's Parameter, which are quicker to look up.
        self._sources = [(each, _source(each.parameter)) for each in (*self.values, *self.matrices)]
        known = {id(parameter) for each, source in self._sources for parameter in (each.parameter, source)}
        self.others = [
            Loggable(parameter, owner)
            for owner in (*mechanisms, *projections)
            for component in _parts(owner)
            for parameter in component.parameters
            if id(parameter) not in known
        ]
        # There are thousands, to be looked through at each call: their dicts hold the conditions that were set.
        self._others_set = [each.parameter.__dict__ for each in self.others]

    def switch_on(self) -> None:
        """Log all that ``learn()`` logs and that has no condition so far."""
        for each in (*self.values, *self.matrices):
            if each.parameter.log_condition is LogCondition.OFF:
                each.parameter.log_condition = LogCondition.EXECUTION

    def wanted(self, name: str) -> LearningLog | None:
        """What is to be logged now, or None; a ``LogWarning`` for what is to be and cannot.

        Args:
            name: of the composition, for the warning.
        """
        asked = [(each, condition) for each, source in self._sources if (condition := source.log_condition)]
        wanted = {each for each, condition in asked if condition & IN_LEARNING}
        found = [i for i, own in enumerate(self._others_set) if own.get("log_condition")]
        refused = [
            self.others[i] for i in found if self._others_set[i]["log_condition"] & (IN_LEARNING | NEVER_MET)
        ]
        refused += [each for each, condition in asked if each not in wanted and condition & NEVER_MET]
        if refused:
            more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
            warn_user(
                LogWarning(
                    f"learn() of '{name}' makes no entries for {', '.join(map(str, refused[:NAMED]))}{more}: it "
                    "logs the values of mechanisms and of their OutputPorts at each step, and the matrices of "
                    "projections for each minibatch, under the conditions EXECUTION, PROCESSING and LEARNING. Log "
                    "these, or log in run()."
                )
            )
        values, matrices = ([each for each in kind if each in wanted] for kind in (self.values, self.matrices))
        return LearningLog(values, matrices) if wanted else None


class LearningLog:
    """What one call to ``learn()`` enters in the logs.

    Args:
        values: those of mechanisms and OutputPorts.
        matrices: those of projections.
    """

    def __init__(self, values: list[Loggable], matrices: list[Loggable]) -> None:
        self.values, self.matrices = values, matrices

    def includes(self, mechanism: Any) -> bool:
        """Whether the value of a mechanism, or of one of its ports, is logged."""
        return any(each.owner is mechanism for each in self.values)

    def enter(self, which: range, trace: Any, wrapper: Any, context: Any) -> None:
        """Enter what happened in a minibatch.

        Args:
            which: its trials, by their number in this call.
            trace: the values of the nodes.
            wrapper: the PyTorch form of the composition, whose matrices are those that were used.
            context: the execution context.
        """
        run = wrapper.composition.scheduler.get_clock(context).time.run
        for each in self.values:
            items = items_of(trace, each.owner)
            items = items if each.item is None else items[each.item : each.item + 1]
            for b, trial in enumerate(which):
                for t in range(items[0].shape[1] if trace.lengths is None else trace.lengths[b]):
                    row = [item[b, t].copy() for item in items]
                    value = convert_to_np_array(row) if each.item is None else row[0]
                    _enter(each.parameter, value, Time(run, trial, 0, t), context)
        for each in self.matrices:
            matrix = wrapper.projections_map[each.owner].matrix.detach().numpy().copy()
            _enter(each.parameter, matrix, Time(run, which.start, 0, 0), context)


def items_of(trace: Any, mechanism: Any) -> list[np.ndarray]:
    """A node's value at all steps of a minibatch, item by item: [(B, T, size), ...]."""
    return [item.detach().numpy() for item in trace.items(mechanism)]


def _values(mechanism: Any) -> Iterator[Loggable]:
    yield Loggable(mechanism.parameters.value, mechanism)
    for port in mechanism.output_ports:
        spec = port._variable_spec
        if isinstance(spec, tuple) and spec[0] == OWNER_VALUE and isinstance(spec[1], int):
            yield Loggable(port.parameters.value, mechanism, spec[1])


def _parts(owner: Any) -> Iterator[Any]:
    """A mechanism or projection and its parts whose Parameters may be logged."""
    ports = [*getattr(owner, "input_ports", ()), *owner.parameter_ports, *getattr(owner, "output_ports", ())]
    for component in (owner, *ports):
        yield component
        yield component.function


def _source(parameter: Any) -> Any:
    return getattr(parameter, "final_source", parameter)


def _enter(parameter: Any, value: np.ndarray, time: Any, context: Context) -> None:
    parameter.log.setdefault(context.execution_id, deque()).append(LogEntry(time, MARK, value))


class ReadableLog(CompositionLog):
    """The log of a composition: PsyNeuLink's own stumbles over projections when it is asked what can be logged."""

    def _get_parameter_from_item_string(self, item_str: str) -> Any:
        try:
            return super()._get_parameter_from_item_string(item_str)
        except KeyError:
            found = [p for p in self.owner.projections if p.name == item_str]
            return found[0].parameters.value if found else None
