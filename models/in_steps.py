"""PsyNeuLink's own execution, step by step: where choices matter for what comes next, or rows are of several
people."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .backend import NodeTrace, NotTrainable, RecurrentWrapper, Trace, memories
from .backend.forms import Form
from .backend.steps import Rounds
from .choices import Choices
from .person import Person
from .person_in_graph import PersonInGraph
from .source import Interaction
from .trials_in_graph import inputs_of_step


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


class InSteps:
    """Executes rows side by side, node by node and in step with each other.

    Args:
        person: in the graph of the agent.
        wrapper: PsyNeuLink's PyTorch form of it.
        turns: people, one for each row; None: who stands in the graph.
        unroll: as of ``RecurrentWrapper.steps``.
    """

    def __init__(
        self,
        person: PersonInGraph,
        wrapper: RecurrentWrapper,
        turns: Turns | None = None,
        unroll: int | None = None,
    ) -> None:
        self.person, self.wrapper, self.turns, self.unroll = person, wrapper, turns, unroll

    def trials(self, choices: Choices, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor]) -> Trace:
        """Trials that are given and have begun: the choice just made is a part of the next input.

        Args:
            choices: what has been chosen so far.
            inputs: {mechanism: (B, T, size)}, in which what is shown is put.
            before: {mechanism: (B, size)}, values before the first step.
        """
        return self._execute(inputs, before, lambda: self.person.inputs(choices.last_choice), choices.act)

    def episode(
        self, interaction: Interaction, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor]
    ) -> Trace:
        """An episode that has begun, of B worlds; ``inputs`` and ``before`` as of ``trials``.

        Raises:
            NotTrainable: other compositions are nested in the agent.
        """
        if self.wrapper.nested:
            raise NotTrainable(
                f"'{self.wrapper.composition.name}' holds other compositions: it cannot be trained with the "
                "environment in the loop."
            )
        return self._execute(inputs, before, lambda: inputs_of_step(self.person, interaction), interaction.act)

    def _execute(
        self,
        inputs: Mapping[Any, Tensor],
        before: Mapping[Any, Tensor],
        show: Callable[[], Mapping[Any, np.ndarray]],
        act: Callable[[np.ndarray], object],
    ) -> Trace:
        """``show`` gives what is shown at the step about to be taken, {mechanism: (B, size)}; ``act`` takes p_t
        (B, A) of the step just taken."""
        wrapper, turns = self.wrapper, self.turns
        policy = wrapper.nodes_map[self.person.policy_node]
        rows, length = next(iter(inputs.values())).shape[:2]
        parts = [slice(0, rows)] if turns is None else [slice(e, e + 1) for e in range(rows)]
        traces = [NodeTrace(wrapper) for _ in parts]
        courses = [
            wrapper.steps(
                {n: v[part] for n, v in inputs.items()}, {n: v[part] for n, v in before.items()}, self.unroll
            )
            for part in parts
        ]
        for t in range(length):
            for node, values in show().items():
                inputs[node][:, t] = torch.from_numpy(values)  # the step about to be taken reads it there
            for e, (trace, course) in enumerate(zip(traces, courses, strict=True)):
                with nullcontext() if turns is None else turns.of(e):
                    trace.steps.append(next(course))
            act(torch.cat([trace.steps[-1][policy][0][:, 0].detach() for trace in traces]).numpy())
        return traces[0] if turns is None else Rounds(wrapper, traces)
