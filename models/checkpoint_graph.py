"""What a checkpoint holds of a composition whose graph has been changed: what cannot be had from its constructor.

The change itself is the user's own code, which makes it again before the checkpoint is loaded. It is saved what
runs and training have changed in it: the matrices of added projections, and the entries of added memories, by the
names of their components, without the "-1", "-2", ... that PsyNeuLink adds where a session has several.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from .backend import as_context, get_matrix, get_parameter, memories, set_matrix
from .backend.access import nested_compositions
from .backend.pictures import plain_label
from .composition import EpisodicLSTMComposition
from .config import ModelConfig
from .parameters import OF_MEMORY


def settings_and_change(model: EpisodicLSTMComposition) -> tuple[ModelConfig, str | None]:
    """The config, with the settings of the memory as they stand in the graph; and what has been changed otherwise
    since the graph was made, in words, or None."""
    context = as_context(model, None)
    change = model.as_made.difference(context)
    if change is not None or not model.parts.has_memory:
        return model.config, change
    found = {name: _setting(model, place) for name, place in OF_MEMORY.items()}
    if found["repeated_key"] is True:
        found["repeated_key"] = "append"
    person = {"sharpness": model.person.sharpness, "forgetting": model.person.forgetting}
    if person["sharpness"] is None:
        del person["sharpness"]
    else:
        del found["sharpness"]
    for name, value in person.items():
        if _setting(model, name) != value:
            return model.config, f"{name} of the memory is {_setting(model, name)!r}, and {value!r} of the person"
    try:
        return replace(model.config, **found), None
    except ValueError as error:
        return model.config, f"a setting of the memory that no config can hold: {error}"


def _setting(model: EpisodicLSTMComposition, name: str) -> Any:
    value = get_parameter(model.episodic_memory, name, as_context(model, None))
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def state_of_graph(model: EpisodicLSTMComposition) -> dict[str, np.ndarray]:
    """The matrices of added projections, and the entries of added memories in all environments.

    Raises:
        ValueError: another composition is nested in the agent, whose state is not known here.
    """
    if nested := nested_compositions(model):
        raise ValueError(
            f"save_model: '{nested[0].name}' is nested in '{model.name}', and its state would be lost. Save it by "
            "itself, and the agent without it."
        )
    context = as_context(model, None)
    state = {f"matrix.{name}": get_matrix(p, context) for name, p in _added_projections(model).items()}
    for name, function in _added_memories(model).items():
        for environment in range(function.environments(context)):
            for k, entries in enumerate(function.entries(context, environment)):
                state[f"memory.{name}.{environment}.{k}"] = entries
    return state


def check_state_of_graph(model: EpisodicLSTMComposition, state: dict[str, np.ndarray]) -> None:
    """Raise ValueError if the graph has not been changed in the way of the one whose state this is."""
    context = as_context(model, None)
    here = {f"matrix.{name}": get_matrix(p, context).shape for name, p in _added_projections(model).items()}
    here |= {
        f"memory.{name}": tuple(entries.shape[1] for entries in function.entries(context))
        for name, function in _added_memories(model).items()
    }
    saved = {name: array.shape for name, array in state.items() if name.startswith("matrix.")}
    for name, fields in _entries_in(state).items():
        saved[f"memory.{name[0]}"] = tuple(entries.shape[1] for entries in fields)
    if here != saved:
        raise ValueError(
            f"load_model: what was added to the graph that was saved is {saved or 'nothing'}; what was added to "
            f"that of '{model.name}' is {here or 'nothing'}. Change it in the same way first."
        )


def put_state_of_graph(model: EpisodicLSTMComposition, state: dict[str, np.ndarray]) -> None:
    """Take what ``state_of_graph`` gives and ``check_state_of_graph`` lets pass; the memories are empty."""
    context = as_context(model, None)
    for name, projection in _added_projections(model).items():
        for execution_id in (context.execution_id, None):  # None, too, as later contexts begin from it
            set_matrix(projection, state[f"matrix.{name}"].copy(), execution_id)
    added = _added_memories(model)
    for (name, environment), fields in _entries_in(state).items():
        added[name].set_entries(fields, context, environment)


def _entries_in(state: dict[str, np.ndarray]) -> dict[tuple[str, int], list[np.ndarray]]:
    """The fields of each added memory and environment."""
    found: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    for name, entries in state.items():
        if name.startswith("memory."):
            label, environment, field = name.removeprefix("memory.").rsplit(".", 2)
            found.setdefault((label, int(environment)), {})[int(field)] = entries
    return {place: [fields[k] for k in range(len(fields))] for place, fields in found.items()}


def _added_projections(model: EpisodicLSTMComposition) -> dict[str, Any]:
    return _by_label(model.as_made.added_projections())


def _added_memories(model: EpisodicLSTMComposition) -> dict[str, Any]:
    own = model.episodic_memory if model.parts.has_memory else None
    added = _by_label(function.owner for function in memories(model) if function.owner is not own)
    return {name: mechanism.function for name, mechanism in added.items()}


def _by_label(components: Iterable[Any]) -> dict[str, Any]:
    """By their plain names; the second of a name with " (2)", and so on."""
    found: dict[str, Any] = {}
    for component in components:
        label = plain_label(component.name)
        taken = sum(name == label or name.startswith(f"{label} (") for name in found)
        found[f"{label} ({taken + 1})" if taken else label] = component
    return found
