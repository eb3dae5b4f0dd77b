"""The settings of an agent as Parameters of its composition: ``agent.parameters.sharpness.set(5.0)``.

The settings of the memory are kept by the function of ``episodic_memory``, where ``run()`` and ``learn()`` read
them; a Parameter here reads and sets them there, by the names that they have in ``ModelConfig``, and keeps
``agent.config`` in step. Sizes and key are read only: the weights depend on them.

What is particular to a person (``person.py``) is held by the Parameter ``person``, and what stands in the graph
follows it; those of its parts read and replace it.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import psyneulink as pnl

from .backend import get_parameter, is_stateful, set_parameter
from .person import PARAMETERS, Person

OF_MEMORY = {
    "memory_capacity": "max_entries",
    "kernel": "kernel",
    "retrieval": "retrieval",
    "sharpness": "sharpness",
    "ties": "equidistant_entries_select",
    "repeated_key": "duplicate_entries_allowed",
}
"""Name in ``ModelConfig`` → the Parameter of the memory's function."""


def memory_setting(name: str, aliases: list[str] | None = None) -> pnl.Parameter:
    """A Parameter that stands for a setting of the memory. To set it raises ValueError where it does not fit."""

    def get(owning_component: Any, context: Any) -> Any:
        return _get(owning_component, name, context) if _is_made(owning_component) else None

    def put(value: Any, owning_component: Any, context: Any) -> Any:
        return _put(owning_component, name, value, context) if _is_made(owning_component) else value

    return _parameter(get, setter=put, aliases=aliases)


def fixed_setting(name: str) -> pnl.Parameter:
    """A Parameter that shows a setting of the config. To set it raises ValueError."""

    def get(owning_component: Any) -> Any:
        return getattr(owning_component.config, name) if _is_made(owning_component) else None

    def put(value: Any, owning_component: Any) -> Any:
        if _is_made(owning_component):
            raise ValueError(
                f"'{owning_component.name}': {name} cannot be set to {_plain(value)!r}, since its weights depend "
                f"on it. Make another composition, with ModelConfig({name}=...)."
            )
        return value

    return _parameter(get, setter=put)


def person_parameter() -> pnl.Parameter:
    """The Parameter that shows who a composition stands for: ValueError for a person who does not fit."""

    def get(owning_component: Any, context: Any) -> Any:
        if not _is_made(owning_component):
            return Person()
        return owning_component.person_in_graph.of(_execution_id(owning_component, context))

    def put(value: Any, owning_component: Any, context: Any) -> Any:
        if _is_made(owning_component):
            owning_component.put_person(value, _execution_id(owning_component, context))
        return value

    return _parameter(get, setter=put)


def setting_of_person(name: str) -> pnl.Parameter:
    """A Parameter that stands for one of the person's. To set it raises ValueError where it does not fit."""

    def get(owning_component: Any, context: Any) -> Any:
        if not _is_made(owning_component):
            return None
        return getattr(owning_component.person_in_graph.of(_execution_id(owning_component, context)), name)

    def put(value: Any, owning_component: Any, context: Any) -> Any:
        if _is_made(owning_component):
            _replace_in_person(owning_component, name, _plain(value), _execution_id(owning_component, context))
        return value

    return _parameter(get, setter=put)


def _replace_in_person(model: Any, name: str, value: Any, execution_id: Any) -> None:
    model.put_person(replace(model.person_in_graph.of(execution_id), **{name: value}), execution_id)


def _parameter(getter: Callable[..., Any], **kwargs: Any) -> pnl.Parameter:
    return pnl.Parameter(None, stateful=False, loggable=False, getter=getter, **kwargs)


def _is_made(component: Any) -> bool:
    """Whether it is a composition with its nodes: PsyNeuLink also asks its class, and in its constructor."""
    return hasattr(component, "as_made")


def _get(model: Any, name: str, context: Any) -> Any:
    if not model.parts.has_memory:
        return getattr(model.config, name)
    value = _plain(get_parameter(model.episodic_memory, OF_MEMORY[name], _execution_id(model, context)))
    return "append" if value is True and name == "repeated_key" else value


def _put(model: Any, name: str, value: Any, context: Any) -> Any:
    value = _plain(value)
    if not model.parts.has_memory or (name == "memory_capacity" and value == 0):
        raise ValueError(
            f"'{model.name}': {name} cannot be set to {value!r}: a composition is made with a memory or without. "
            "Make another one, with the memory_capacity that it is to have (0: none)."
        )
    config = replace(model.config, **{name: value})  # refuses what does not fit
    value = getattr(config, name)
    execution_id, own = _execution_id(model, context), model.default_execution_id
    if name == "sharpness" and model.person_in_graph.of(execution_id).sharpness is not None:
        _replace_in_person(model, name, value, execution_id)  # the agent keeps its own
        return value
    for person in model.person_in_graph.persons.values():
        person.check(config)
    memory, stateful = model.episodic_memory, is_stateful(model.episodic_memory, OF_MEMORY[name])
    # None, too, as its values are those of contexts that are yet to come.
    for each in {execution_id, None} if execution_id == own else {execution_id}:
        set_parameter(memory, OF_MEMORY[name], True if value == "append" else value, each)
    if execution_id == own or not stateful:
        model.config = model.parts.config = config
    return value


def _plain(value: Any) -> Any:
    """PsyNeuLink makes arrays of numbers."""
    return value.squeeze().item() if isinstance(value, np.ndarray) and value.size == 1 else value


def _execution_id(model: Any, context: Any) -> Any:
    """Of a call that names no context, the composition's own."""
    execution_id = getattr(context, "execution_id", None)
    return model.default_execution_id if execution_id is None else execution_id


def parameters_of_agent() -> dict[str, pnl.Parameter]:
    """The settings of ``ModelConfig`` and those of ``Person``, by their names there; new ones at each call.

    Where an agent's person averages with a ``sharpness`` of their own, it is theirs that the Parameter shows and
    sets.
    """
    fixed = ("input_size", "hidden_size", "n_actions", "key", "reinstatement")
    of_person = {name: setting_of_person(name) for name in PARAMETERS}
    of_memory = {name: memory_setting(name) for name in OF_MEMORY if name != "memory_capacity"}
    others = {
        "memory_capacity": memory_setting("memory_capacity", aliases=["capacity"]),
        "person": person_parameter(),
    }
    return of_person | of_memory | {name: fixed_setting(name) for name in fixed} | others
