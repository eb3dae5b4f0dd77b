"""Trials and worlds as what the nodes of an agent's graph are given, and the record of what came of it."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tasks.trials import Trials
from .backend import memories
from .choices import NO_CHOICE, last_choices
from .graph import AgentGraph
from .person_in_graph import PersonInGraph
from .plans import Plan
from .records import build_record
from .source import Interaction
from .weights import GATE_ORDER


def as_trials(graph: AgentGraph, inputs: Any, targets: Any) -> Trials:
    """``Trials`` from the inputs and targets of ``learn()`` in PsyNeuLink's forms.

    Raises:
        ValueError: they are in none of the forms, or something is missing or not known.
    """
    if isinstance(inputs, (list, tuple)):
        inputs = {node: np.stack([np.asarray(trial[node]) for trial in inputs]) for node in inputs[0]}
    if not isinstance(inputs, Mapping) or graph.input_node not in inputs:
        raise ValueError(
            "learn(): inputs must be Trials, or a dict (or a list of dicts, one a trial) with an entry for "
            f"'{graph.input_node.name}' (composition.input_node)."
        )
    known = {graph.input_node} | ({graph.retrieve_node, graph.encode_node} if graph.has_memory else set())
    unknown = [getattr(node, "name", node) for node in inputs if node not in known]
    if unknown:
        raise ValueError(
            f"learn(): {unknown} are not inputs of the model; known are {sorted(n.name for n in known)}. "
            "Give the rewarded actions as targets."
        )
    x = np.asarray(inputs[graph.input_node], dtype=float)
    if isinstance(targets, Mapping):
        targets = targets.get(graph.actor)
    if targets is None:
        raise ValueError("learn(): give the rewarded actions as targets, (n, T), or use Trials.")

    def switch(node: str, default: bool) -> np.ndarray:
        values = inputs.get(getattr(graph, node)) if graph.has_memory else None
        return np.full(x.shape[:2], default) if values is None else np.asarray(values).reshape(x.shape[:2])

    return Trials(
        inputs=x,
        targets=np.asarray(targets).reshape(x.shape[:2]),
        encode=switch("encode_node", False),
        retrieve=switch("retrieve_node", True),
    )


# ---- what the INPUT nodes are given


def inputs_of_trials(
    person: PersonInGraph, trials: Trials, actions: np.ndarray | None = None
) -> dict[Any, np.ndarray]:
    """Inputs of all steps, {node: (n, T, size)}; of the choices made last, those that are forced."""
    made = np.full(trials.targets.shape, NO_CHOICE) if actions is None else last_choices(actions)
    return _inputs(person.graph, trials.inputs, trials.retrieve, trials.encode) | person.inputs(made)


def inputs_of_step(person: PersonInGraph, interaction: Interaction) -> dict[Any, np.ndarray]:
    """Inputs of the present step of M worlds, {node: (M, size)}."""
    shown = _inputs(person.graph, interaction.inputs, interaction.retrieve, interaction.encode)
    return shown | person.inputs(interaction.last_choice[0])


def inputs_of_episodes(graph: AgentGraph, interaction: Interaction, rows: slice) -> dict[Any, np.ndarray]:
    """What episodes have shown, {node: (B, T, size)}, without the choices made last."""
    seen, here = interaction, (0, rows)
    return _inputs(graph, seen.inputs_seen[here], seen.retrieved[here], seen.encoded[here])


def _inputs(graph: AgentGraph, x: np.ndarray, retrieve: np.ndarray, encode: np.ndarray) -> dict[Any, np.ndarray]:
    inputs = {graph.input_node: x}
    if graph.has_memory:
        inputs[graph.retrieve_node] = retrieve[..., None].astype(float)
        inputs[graph.encode_node] = encode[..., None].astype(float)
    return inputs


def first_states(graph: AgentGraph, plan: Plan, rows: slice) -> dict[Any, Tensor]:
    """h0 and c0 of some of a plan's trials, (B, H)."""
    return {graph.hidden: torch.from_numpy(plan.h0[rows]), graph.cell: torch.from_numpy(plan.c0[rows])}


@contextmanager
def lesioned(graph: AgentGraph, trials: Trials) -> Iterator[None]:
    """Trials that retrieve at no step are a lesion of all memories in the graph, not of the agent's alone."""
    functions = [] if trials.retrieve.any() else memories(graph.composition)
    before = [function.reads for function in functions]
    try:
        for function in functions:
            function.reads = False
        yield
    finally:
        for function, reads in zip(functions, before, strict=True):
            function.reads = reads


# ---- what came of it


def values_of_nodes(graph: AgentGraph, value_of: Any, policy: Any = None) -> dict[str, Any]:
    """What a record holds, from each node's value (B, T, size).

    Args:
        graph: of the agent.
        value_of: node → its value, an array or a tensor.
        policy: the node whose value is p_t; by default the actor.
    """
    stack = torch.stack if isinstance(value_of(graph.hidden), Tensor) else np.stack
    value, hidden = value_of(graph.critic), value_of(graph.hidden)
    none = hidden * 0.0
    gates = [value_of(graph.gates[name]) if name in graph.gates else none for name in GATE_ORDER[:4]]
    return {
        "policy": value_of(graph.actor if policy is None else policy),
        "value": value[..., 0],
        "hidden": hidden,
        "cell": value_of(graph.cell),
        "memory": value_of(graph.memory_node) if graph.has_memory else none,
        "gates": stack(gates, -2),
    }


def record_of_run(graph: AgentGraph, plan: Plan, parts: Sequence[dict[str, np.ndarray]]) -> Any:
    """The record of what happened without learning.

    Args:
        graph: of the agent.
        plan: what was to happen; choices that it does not force are drawn here, if they were not before.
        parts: what did, in order, as of ``build_record``, without actions and rewards.
    """
    start = 0
    for part in parts:
        rows = slice(start, start + len(part["value"]))
        start = rows.stop
        outcome = plan.outcome(rows, part["policy"])
        part["action"], part["reward"] = outcome.action, outcome.reward
    return build_record(graph.config, plan, parts)
