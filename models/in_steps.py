"""PsyNeuLink's own execution, step by step: where choices matter for what comes next, or rows are of several
people."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .backend import NodeTrace, RecurrentWrapper, Trace, memories
from .backend.forms import Form
from .backend.steps import Rounds
from .person import Person
from .person_in_graph import PersonInGraph


class Turns:
    """Lets people stand in the graph in turn, each with the memories of the environment of the same number.

    Args:
        person_in_graph: of the agent, which has the nodes that they need.
        wrapper: PsyNeuLink's PyTorch form of it.
        people: one for each environment.
        context: the execution context, in which the trained agent stands otherwise.
    """

    def __init__(
        self, person_in_graph: PersonInGraph, wrapper: RecurrentWrapper, people: Sequence[Person], context: Any
    ) -> None:
        self.people = people
        self._in_graph, self._context = person_in_graph, context
        self._memories = memories(person_in_graph.graph.composition)
        agent = Person()
        mechanisms = {mechanism for mechanism, _ in person_in_graph.settings(agent)}
        mechanisms.discard(getattr(person_in_graph.graph, "episodic_memory", None))  # looks Parameters up itself
        self._own = Form.as_it_is(wrapper, mechanisms, person_in_graph.matrices(agent))
        self._forms: dict[Person, Form] = {}
        for person in set(people):
            with person_in_graph.standing(person, context):
                self._forms[person] = self._own.made_anew(context)

    @contextmanager
    def of(self, environment: int) -> Iterator[None]:
        """It is the turn of the person of an environment."""
        person = self.people[environment]
        try:
            with self._in_graph.standing(person, self._context):
                self._forms[person].put()
                for function in self._memories:
                    function.first_environment = environment
                yield
        finally:
            self._own.put()
            for function in self._memories:
                function.first_environment = 0


def execute_in_steps(
    wrapper: RecurrentWrapper,
    inputs: Mapping[Any, Tensor],
    before: Mapping[Any, Tensor],
    policy: Any,
    show: Callable[[], Mapping[Any, np.ndarray]],
    act: Callable[[np.ndarray], object],
    *,
    turns: Turns | None = None,
    unroll: int | None = None,
) -> Trace:
    """Execute B rows in step with each other, node by node.

    Args:
        wrapper: PsyNeuLink's PyTorch form.
        inputs: {mechanism: (B, T, size)}, in which what is shown is put.
        before: {mechanism: (B, size)}, values before the first step.
        policy: the node whose value is p_t.
        show: what is shown at the step about to be taken, {mechanism: (B, size)}, of those that wait for it.
        act: takes p_t (B, A) of the step just taken.
        turns: people, one for each row; None: who stands in the graph.
        unroll: as of ``RecurrentWrapper.steps``.
    """
    rows, length = next(iter(inputs.values())).shape[:2]
    parts = [slice(0, rows)] if turns is None else [slice(e, e + 1) for e in range(rows)]
    traces = [NodeTrace(wrapper) for _ in parts]
    courses = [
        wrapper.steps({n: v[part] for n, v in inputs.items()}, {n: v[part] for n, v in before.items()}, unroll)
        for part in parts
    ]
    for t in range(length):
        for node, values in show().items():
            inputs[node][:, t] = torch.from_numpy(values)  # the step about to be taken reads it there
        for e, (trace, course) in enumerate(zip(traces, courses, strict=True)):
            if turns is None:
                trace.steps.append(next(course))
            else:
                with turns.of(e):
                    trace.steps.append(next(course))
        found = [trace.steps[-1][wrapper.nodes_map[policy]][0][:, 0].detach() for trace in traces]
        act(torch.cat(found).numpy())
    return traces[0] if turns is None else Rounds(wrapper, traces)
