"""Where the parameters of a person (``person.py``) stand in the graph of an ``EpisodicLSTMComposition``.

    inverse_temperature β     the gain of the actor's SoftMax
    gate_bias b_r             the bias of the reinstatement gate's Logistic
    sharpness, forgetting     Parameters of the episodic memory's function
    context_weight w          the fixed matrices from the input to the keys of the memory and of ``encoding``
    lapse ε                   node ``choice p`` after the actor: slope 1 − ε, intercept ε / A
    perseveration κ           INPUT node ``last choice`` (one-hot; zeros: none), which projects κ/β to the actor
    encoding_probability      not in the graph: the trials of the episodes that are lost do not retrieve

The two nodes are added when a person first needs them. Who the composition stands for in an execution context is
held by its Parameter ``person``.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import psyneulink as pnl
from psyneulink.core.globals.context import Context

from .backend import get_matrix, set_matrix
from .person import Person
from .records import NO_CHOICE, choose, last_choices

if TYPE_CHECKING:
    from .composition import EpisodicLSTMComposition

Setting = tuple[Any, str]
"""A mechanism, and the name of one of its function's Parameters."""


class PersonInGraph:
    """Puts a person into the graph of a composition.

    Args:
        model: the composition, its graph complete.
    """

    def __init__(self, model: EpisodicLSTMComposition) -> None:
        self.model = model
        self.choice: Any = None
        """The node ``choice p``, once a person has needed it."""
        self.last_choice: Any = None
        """The node ``last choice``, likewise."""
        self._from_last_choice: Any = None

    def of(self, context: Any) -> Person:
        """Who the composition stands for in an execution context; one not used so far: who it will."""
        values = self.model.parameters.person.values
        execution_id = getattr(context, "execution_id", context)
        return values[execution_id if values.get(execution_id) is not None else None]

    def put(self, person: Person, execution_id: Any) -> None:
        """Stand for a person in an execution context, of the composition's own in those yet to come, too.

        Raises:
            TypeError: not a ``Person``.
            ValueError: a parameter has no place in this model, or a node cannot be added.
        """
        model = self.model
        if not isinstance(person, Person):
            raise TypeError(f"'{model.name}': person must be a Person; got {type(person).__name__}.")
        person.check(model.config)
        self._add_nodes(person)
        contexts = {execution_id, None} if execution_id == model.default_execution_id else {execution_id}
        for each, before in {each: self.of(each) for each in contexts}.items():
            self._change(before, person, each)
            model.parameters.person.values[each] = person

    # ---- the two nodes

    def _add_nodes(self, person: Person) -> None:
        """Add the nodes that this person needs and that are not there; nobody else's choices change by it."""
        model, size = self.model, self.model.config.n_actions
        needs_choice = person.lapse != 0 and self.choice is None
        needs_last_choice = person.perseveration != 0 and self.last_choice is None
        if not needs_choice and not needs_last_choice:
            return
        if model.is_nested:
            raise ValueError(
                f"'{model.name}' is nested in another composition, where no nodes can be added to it, as lapse "
                "and perseveration need. Set a person that has them before it is nested."
            )
        with model._standard.enlarged():
            if needs_choice:
                self.choice = pnl.ProcessingMechanism(
                    name="choice p", default_variable=[np.zeros(size)], function=pnl.Linear()
                )
                model.add_node(self.choice, required_roles=[pnl.NodeRole.OUTPUT])
                model._fix(model.actor, self.choice, np.eye(size))
            if needs_last_choice:
                self.last_choice = pnl.ProcessingMechanism(name="last choice", default_variable=[np.zeros(size)])
                model.add_node(self.last_choice)
                self._from_last_choice = model._fix(self.last_choice, model.actor, np.zeros((size, size)))
        # In contexts that are in use; or they would take over what the next person has in that of no context.
        for execution_id in model.parameters.person.values:
            other = self.of(execution_id)
            settings = {place: value for place, value in self.settings(other).items() if place[0] is self.choice}
            matrices = {p: m for p, m in self.matrices(other).items() if p is self._from_last_choice}
            self._set(settings, matrices, execution_id)

    def check_last_choice(self, context: Any) -> None:
        """Raise ValueError if the composition is nested where perseveration would have nothing to go by."""
        if self.of(context).perseveration == 0:
            return
        outside = self.model.input_CIM_ports[self.last_choice.input_port][0]
        if not outside.path_afferents:
            raise ValueError(
                f"'{self.model.name}' stands for a person with perseveration, but in the composition in which it "
                f"is nested nothing projects to its '{self.last_choice.name}': project the last choice to it "
                "(one-hot), or set perseveration to 0."
            )

    # ---- the places

    def settings(self, person: Person) -> dict[Setting, float | None]:
        """What stands where, of the Parameters of functions; None: as in the config."""
        model = self.model
        found: dict[Setting, float | None] = {(model.actor, "gain"): person.inverse_temperature}
        if model._has_memory:
            if model.config.has_reinstatement_gate:
                found[model.gates["reinstatement"], "bias"] = person.gate_bias
            found[model.episodic_memory, "sharpness"] = person.sharpness
            found[model.episodic_memory, "forgetting"] = person.forgetting
        if self.choice is not None:
            found[self.choice, "slope"] = 1 - person.lapse
            found[self.choice, "intercept"] = person.lapse / model.config.n_actions
        return found

    def matrices(self, person: Person) -> dict[Any, np.ndarray]:
        """What stands where, of the matrices of projections."""
        config = self.model.config
        key = np.eye(config.input_size)[:, config.key_columns] * person.key_scale(config)
        found = {projection: key for projection in self.model._to_keys}
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
            value = getattr(self.model.config, name) if value is None else value
            getattr(mechanism.function.parameters, name)._set(value, Context(execution_id=execution_id))
            if execution_id in mechanism.parameters.value.values:  # else run() has not been there
                mechanism._update_parameter_ports(context=Context(execution_id=execution_id))
        for projection, matrix in matrices.items():
            set_matrix(projection, matrix, execution_id)

    def difference(self, context: Any) -> str | None:
        """A place that is not as the person has it, in words; those of the memory are not looked at."""
        person = self.of(context)
        for (mechanism, name), value in self.settings(person).items():
            parameter = getattr(mechanism.function.parameters, name)
            if mechanism is not getattr(self.model, "episodic_memory", None) and not np.array_equal(
                np.squeeze(parameter._get(context, fallback_value=None)), value
            ):
                return f"{mechanism.name!r} changed"
        for projection, matrix in self.matrices(person).items():
            if not np.array_equal(get_matrix(projection, context), matrix):
                return f"the fixed matrix of '{projection.name}' changed"
        return None

    def inputs(self, choices: np.ndarray) -> dict[Any, np.ndarray]:
        """Inputs of ``last choice``, if it is there: choices (...), -1: none → {node: (..., A)}."""
        return (
            {} if self.last_choice is None else {self.last_choice: _one_hot(choices, self.model.config.n_actions)}
        )


def _one_hot(choices: np.ndarray, n_actions: int) -> np.ndarray:
    return (choices[..., None] == np.arange(n_actions)).astype(float)


def choice_probabilities(
    person: Person, logits: np.ndarray, actions: np.ndarray | None, luck: np.ndarray
) -> np.ndarray:
    """p_t of a block, as the actor and the two nodes give it: (n, T, A).

    Args:
        person: who chooses.
        logits: W_π h_t + b_π, (n, T, A).
        actions: (n, T) forced choices, -1 where none was made; None: they are drawn.
        luck: (n, T) in [0, 1), from which they are drawn.
    """
    drive, n_actions = person.inverse_temperature * logits, logits.shape[-1]
    if actions is not None or person.perseveration == 0:
        last = np.full(luck.shape, NO_CHOICE) if actions is None else last_choices(actions)
        return _of_drive(person, drive + person.perseveration * _one_hot(last, n_actions))
    policy, choice = np.empty((luck.size, n_actions)), np.array(NO_CHOICE)
    for step, one in enumerate(drive.reshape(-1, n_actions)):
        policy[step] = _of_drive(person, one + person.perseveration * _one_hot(choice, n_actions))
        choice = choose(policy[step], luck.flat[step])
    return policy.reshape(logits.shape)


def _of_drive(person: Person, drive: np.ndarray) -> np.ndarray:
    policy = np.exp(drive - drive.max(-1, keepdims=True))
    policy /= policy.sum(-1, keepdims=True)
    return (1 - person.lapse) * policy + person.lapse / drive.shape[-1]
