"""Where the parameters of a person (``person.py``) stand in the graph of an agent, and who it stands for.

    inverse_temperature β     the gain of the actor's SoftMax
    gate_bias b_r             the bias of the reinstatement gate's Logistic
    sharpness, forgetting     Parameters of the episodic memory's function
    context_weight w          the fixed matrices from the input to the keys of the memory and of ``encoding``
    lapse ε                   node ``choice p`` after the actor: slope 1 − ε, intercept ε / A
    perseveration κ           INPUT node ``last choice`` (one-hot; zeros: none), which projects κ/β to the actor
    encoding_probability      not in the graph: the trials of the episodes that are lost do not retrieve

The two nodes are added when a person first needs them.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import psyneulink as pnl

from .backend import get_matrix, get_parameter, set_matrix, set_parameter
from .choices import one_hot
from .graph import AgentGraph
from .person import PARAMETERS, Drive, Person

Setting = tuple[Any, str]
"""A mechanism, and the name of one of its function's Parameters."""


class PersonInGraph:
    """Puts a person into the graph of an agent, for each execution context.

    Args:
        graph: of the agent, complete.
    """

    def __init__(self, graph: AgentGraph) -> None:
        self.graph = graph
        self.persons: dict[Any, Person] = {None: Person()}
        """By execution_id; that of None is who a context stands for that was not used so far."""
        self.choice: Any = None
        """The node ``choice p``, once a person has needed it."""
        self.last_choice: Any = None
        """The node ``last choice``, likewise."""
        self._from_last_choice: Any = None

    def of(self, context: Any) -> Person:
        """Who the agent stands for in an execution context (a ``Context``, or its execution_id)."""
        return self.persons.get(getattr(context, "execution_id", context), self.persons[None])

    def begin(self, execution_id: Any, base: Any) -> None:
        """An execution context begins, from another one: who it stands for is its own from now on."""
        self.persons.setdefault(execution_id, self.of(base))

    def end(self, execution_id: Any) -> None:
        """An execution context ends."""
        self.persons.pop(execution_id, None)

    def put(self, person: Person, contexts: set[Any], enlarged: AbstractContextManager[None]) -> None:
        """Stand for a person in these execution contexts.

        Args:
            person: who.
            contexts: their execution_ids; with None, in those yet to come, too.
            enlarged: within which nodes are added.

        Raises:
            TypeError: not a ``Person``.
            ValueError: a parameter has no place in this model, or a node cannot be added.
        """
        name = self.graph.composition.name
        if not isinstance(person, Person):
            raise TypeError(f"'{name}': person must be a Person; got {type(person).__name__}.")
        person.check(self.graph.config)
        self.make_room([person], enlarged)
        for each, before in {each: self.of(each) for each in contexts}.items():
            self._change(before, person, each)
            self.persons[each] = person

    @contextmanager
    def standing(self, person: Person, context: Any) -> Iterator[None]:
        """For the time being stand for another person in an execution context; their nodes are there."""
        execution_id = context.execution_id
        own = self.of(execution_id)
        self._change(own, person, execution_id)
        try:
            yield
        finally:
            self._change(person, own, execution_id)

    # ---- the two nodes

    def make_room(self, people: Sequence[Person], enlarged: AbstractContextManager[None]) -> None:
        """Add the nodes that these people need and that are not there; nobody else's choices change by it.

        Args:
            people: who.
            enlarged: within which nodes are added.

        Raises:
            ValueError: a node cannot be added.
        """
        graph, size = self.graph, self.graph.config.n_actions
        needs_choice = self.choice is None and any(person.lapse != 0 for person in people)
        needs_last_choice = self.last_choice is None and any(person.perseveration != 0 for person in people)
        if not needs_choice and not needs_last_choice:
            return
        if graph.composition.is_nested:
            raise ValueError(
                f"'{graph.composition.name}' is nested in another composition, where no nodes can be added to it, "
                "as lapse and perseveration need. Set a person that has them before it is nested."
            )
        with enlarged:
            if needs_choice:
                self.choice = pnl.ProcessingMechanism(
                    name="choice p", default_variable=[np.zeros(size)], function=pnl.Linear()
                )
                graph.composition.add_node(self.choice, required_roles=[pnl.NodeRole.OUTPUT])
                graph.fix(graph.actor, self.choice, np.eye(size))
            if needs_last_choice:
                self.last_choice = pnl.ProcessingMechanism(name="last choice", default_variable=[np.zeros(size)])
                graph.composition.add_node(self.last_choice)
                self._from_last_choice = graph.fix(self.last_choice, graph.actor, np.zeros((size, size)))
        # In contexts that are in use; or they would take over what the next person has in that of no context.
        for execution_id, other in self.persons.items():
            settings = {place: value for place, value in self.settings(other).items() if place[0] is self.choice}
            matrices = {p: m for p, m in self.matrices(other).items() if p is self._from_last_choice}
            self._set(settings, matrices, execution_id)

    def check_last_choice(self, context: Any) -> None:
        """Raise ValueError if the agent is nested where perseveration would have nothing to go by."""
        if self.of(context).perseveration == 0:
            return
        composition = self.graph.composition
        outside = composition.input_CIM_ports[self.last_choice.input_port][0]
        if not outside.path_afferents:
            raise ValueError(
                f"'{composition.name}' stands for a person with perseveration, but in the composition in which it "
                f"is nested nothing projects to its '{self.last_choice.name}': project the last choice to it "
                "(one-hot), or set perseveration to 0."
            )

    # ---- the places

    def settings(self, person: Person) -> dict[Setting, float | None]:
        """What stands where, of the Parameters of functions; None: as in the config."""
        graph = self.graph
        found: dict[Setting, float | None] = {(graph.actor, "gain"): person.inverse_temperature}
        for name, parameter in PARAMETERS.items():  # a gate's bias, of those gates that are there
            if isinstance(parameter.place, Drive) and parameter.place.gate in graph.gates:
                found[graph.gates[parameter.place.gate], "bias"] = getattr(person, name)
        if graph.has_memory:
            found[graph.episodic_memory, "sharpness"] = person.sharpness
            found[graph.episodic_memory, "forgetting"] = person.forgetting
        if self.choice is not None:
            found[self.choice, "slope"] = 1 - person.lapse
            found[self.choice, "intercept"] = person.lapse / graph.config.n_actions
        return found

    def matrices(self, person: Person) -> dict[Any, np.ndarray]:
        """What stands where, of the matrices of projections."""
        config = self.graph.config
        key = np.eye(config.input_size)[:, config.key_columns] * person.key_scale(config)
        found = {projection: key for projection in self.graph.to_keys}
        if self._from_last_choice is not None:
            scale = person.perseveration / person.inverse_temperature
            found[self._from_last_choice] = scale * np.eye(config.n_actions)
        return found

    def _change(self, old: Person, new: Person, execution_id: Any) -> None:
        """Change what differs between two persons: what was set by hand elsewhere stays."""
        settings, matrices = self.settings(old), self.matrices(old)
        self._set(
            {place: value for place, value in self.settings(new).items() if value != settings[place]},
            {p: m for p, m in self.matrices(new).items() if not np.array_equal(m, matrices[p])},
            execution_id,
        )

    def _set(
        self, settings: dict[Setting, float | None], matrices: dict[Any, np.ndarray], execution_id: Any
    ) -> None:
        for (mechanism, name), value in settings.items():
            value = getattr(self.graph.config, name) if value is None else value
            set_parameter(mechanism, name, value, execution_id)
        for projection, matrix in matrices.items():
            set_matrix(projection, matrix, execution_id)

    def difference(self, context: Any) -> str | None:
        """A place that is not as the person has it, in words; those of the memory are not looked at."""
        person = self.of(context)
        for (mechanism, name), value in self.settings(person).items():
            if mechanism is not getattr(self.graph, "episodic_memory", None) and not np.array_equal(
                np.squeeze(get_parameter(mechanism, name, context.execution_id)), value
            ):
                return f"{mechanism.name!r} changed"
        for projection, matrix in self.matrices(person).items():
            if not np.array_equal(get_matrix(projection, context), matrix):
                return f"the fixed matrix of '{projection.name}' changed"
        return None

    @property
    def policy_node(self) -> Any:
        """The node whose value is p_t."""
        return self.graph.actor if self.choice is None else self.choice

    def inputs(self, choices: np.ndarray) -> dict[Any, np.ndarray]:
        """Inputs of ``last choice``, if it is there: choices (...), -1: none → {node: (..., A)}."""
        if self.last_choice is None:
            return {}
        return {self.last_choice: one_hot(choices, self.graph.config.n_actions)}
