"""Is a graph still the same, and does PsyNeuLink's PyTorch mode execute it as ``run()`` does?

Before a graph is trained, the two modes are compared on random input: one that the PyTorch backend would execute
otherwise than ``run()`` (because it leaves out noise, a clip, a function of an OutputPort, control, ...) is
refused.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.core.components.mechanisms.modulatory.modulatorymechanism import ModulatoryMechanism_Base
from psyneulink.core.compositions.composition import Composition
from psyneulink.core.globals.context import Context
from psyneulink.core.globals.parameters import ParameterNoValueError

from ..encoding import StoreEntry
from ..memory import EpisodicMemory
from .access import (
    NotTrainable,
    default_of,
    inner_projections,
    input_mechanisms,
    mechanisms,
    memories,
    modulation,
    nested_compositions,
    self_projections,
    set_conditions,
)

PROBE_TOLERANCE = 1e-9
"""Largest difference between the modes on random input; both compute in float64, in another order of sums."""
NOT_SETTINGS = frozenset({"variable", "value", "matrix", "previous_value", "random_state", "seed", "history"})
"""Parameters that are state rather than settings, or that are loaded anew for each call."""


_probes = itertools.count()


def graph_signature(composition: Composition, context: Context) -> tuple:
    """All that decides what the PyTorch form of a graph computes, apart from the matrices; compared by ==."""
    nodes = []
    for node in composition.nodes:
        if isinstance(node, Composition):
            nodes.append((id(node), graph_signature(node, context)))
            continue
        ports = [*node.input_ports, *node.output_ports]
        nodes.append(
            (
                id(node),
                (*_settings(node, context), ("modulation", modulation(node, context))),
                _settings(node.function, context),
                tuple(_settings(port.function, context) for port in ports),
            )
        )
    projections = [
        (id(p), id(p.sender), id(p.receiver), getattr(p, "learnable", None), _settings(p.function, context))
        for p in [*inner_projections(composition), *self_projections(composition)]
    ]
    conditions = [(id(owner), id(condition)) for owner, condition in set_conditions(composition)]
    roles = [
        (id(node), role) for node, role in [*composition.required_node_roles, *composition.excluded_node_roles]
    ]
    return tuple(nodes), tuple(projections), tuple(conditions), tuple(roles)


def _settings(component: Any, context: Context) -> tuple:
    values: list[Any] = [type(component), id(component)]
    for parameter in component.parameters:
        if parameter.name in NOT_SETTINGS or parameter.read_only:
            continue
        try:
            value = parameter._get(context)
        except ParameterNoValueError:  # a context that is not yet in use begins from that of none
            value = parameter._get(Context(execution_id=None), fallback_value=None)
        if isinstance(value, np.ndarray) and value.dtype != object:
            values.append((parameter.name, value.shape, value.tobytes()))
        elif isinstance(value, (int, float, str, bool, type(None))):
            values.append((parameter.name, value))
    return tuple(values)


def check_trainable(composition: Composition) -> None:
    """Refuse what the PyTorch form is known to leave out, in words that say what to do instead."""
    for node in composition.nodes:
        if is_recurrent(node):
            check_nested(composition, node)
            check_trainable(node)
            continue
        if isinstance(node, Composition):
            raise NotTrainable(
                f"'{composition.name}' holds the composition '{node.name}', which its learn() cannot execute "
                "step by step. Make that a RecurrentComposition, or add its nodes themselves."
            )
        if isinstance(node, ModulatoryMechanism_Base):
            raise NotTrainable(
                f"'{node.name}' modulates other nodes of '{composition.name}'. PsyNeuLink's PyTorch mode leaves "
                "modulation out, so that something else would be trained than run. Remove it before learn(), "
                "or set the modulated Parameters to fixed values."
            )
        if getattr(node, "clip", None) is not None:  # random input need not reach its bounds
            raise NotTrainable(
                f"'{node.name}' clips its value, which PsyNeuLink's PyTorch mode leaves out. Set its clip to None "
                "for learn()."
            )
    for execution_set in composition.scheduler.consideration_queue:
        nodes = [node for node in execution_set if not isinstance(node, Composition)]
        retrieving = {id(node.function): node for node in nodes if isinstance(node.function, EpisodicMemory)}
        for node in nodes:
            memory = retrieving.get(id(getattr(node.function, "memory", None)))
            if memory is not None:
                raise NotTrainable(
                    f"'{node.name}' stores in '{memory.name}' at the stage of a step at which that "
                    "retrieves: which comes first is left open. Let something that it receives depend on the "
                    "memory's value."
                )
    conditions = set_conditions(composition)
    if conditions:
        owners = [f"'{getattr(owner, 'name', owner)}'" for owner, _ in conditions]
        raise NotTrainable(
            f"'{composition.name}' has scheduling conditions on {', '.join(owners)}; learn() executes each node "
            "once a step. Make the composition without them (PsyNeuLink brings back conditions that are removed)."
        )
    if composition.controller is not None and composition.enable_controller:
        raise NotTrainable(
            f"'{composition.name}' has the controller '{composition.controller.name}', which PsyNeuLink's "
            "PyTorch mode leaves out. Set enable_controller to False for learn()."
        )


def check_same_in_both_modes(composition: Any, context: Context, steps: int = 2) -> None:
    """Run a few steps of random input in both modes; refuse the graph where a node's values differ.

    It works in an execution context of its own: values and memories of the others stay as they are.
    """
    rng = np.random.default_rng(0)
    # A new name each time: what PsyNeuLink keeps for a context does not all go when the context is deleted.
    probe = Context(execution_id=f"probe {next(_probes)} of {context.execution_id}")
    inputs = {
        node: rng.standard_normal((steps, np.size(node.defaults.variable)))
        for node in input_mechanisms(composition)
    }
    in_python: list[dict] = []
    composition._initialize_from_context(probe, context, override=True)
    with _filled_memories(composition, probe):

        def begin() -> None:
            if not in_python:
                composition.start_sequence(context=probe)

        def keep() -> None:
            in_python.append({n: _flat(n.parameters.value._get(probe)) for n in mechanisms(composition)})

        composition.run(
            inputs=inputs_for_run(composition, inputs),
            context=probe.execution_id,
            call_before_trial=begin,
            call_after_trial=keep,
        )
    with _filled_memories(composition, context), torch.no_grad():
        wrapper = composition.parameters.pytorch_representation._get(context)
        sequence = {n: torch.from_numpy(v)[None] for n, v in inputs.items()}
        in_torch = wrapper.probe(sequence)
    composition._delete_contexts(probe)
    composition._propagate_most_recent_context(context)
    _compare_modes(composition, in_python, in_torch)


def _compare_modes(composition: Composition, in_python: list[dict], in_torch: list[dict]) -> None:
    for step, (python, pytorch) in enumerate(zip(in_python, in_torch, strict=True)):
        for node in _in_order(composition):
            if node not in pytorch or node not in python:
                raise NotTrainable(
                    f"'{node.name}' is executed by run() but not by PsyNeuLink's PyTorch mode; "
                    f"'{composition.name}' cannot be trained with it. Remove it before learn()."
                )
            a, b = python[node], _flat(pytorch[node])
            difference = np.max(np.abs(a - b), initial=0.0) if a.shape == b.shape else np.inf
            if not difference <= PROBE_TOLERANCE:
                raise NotTrainable(
                    f"'{node.name}' gives other values in PsyNeuLink's PyTorch mode than in run() (largest "
                    f"difference {difference:.2g} at step {step} of random input), so that something else would "
                    "be trained than run. PyTorch mode leaves out noise, clips, functions of OutputPorts, "
                    "scheduling conditions and some Parameters of functions: take these away, or express them "
                    "as nodes of their own."
                )


def _in_order(composition: Composition) -> Iterator[Any]:
    """The nodes in the order of their execution, those of nested compositions included."""
    for node in (node for set_ in composition.scheduler.consideration_queue for node in set_):
        yield from _in_order(node) if isinstance(node, Composition) else [node]


def _flat(value: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(item, dtype=float)) for item in value])


@contextmanager
def _filled_memories(composition: Composition, context: Context) -> Iterator[None]:
    """Three random entries in each memory, in place of what it holds in this context, for the time being."""
    rng = np.random.default_rng(1)
    with ExitStack() as stack:
        for function in memories(composition):
            entries = [rng.standard_normal((3, np.size(part))) for part in function.defaults.variable]
            stack.enter_context(function.other_entries(entries, context))
        yield


# ---- what cannot be nested


def is_recurrent(composition: Any) -> bool:
    """Whether it is a ``RecurrentComposition``, which can be executed step by step inside another."""
    return hasattr(type(composition), "start_sequence")


TOO_DEEP = (
    "'{0}' is nested in '{1}', which is itself nested in another composition. "  # kept in two, for its length
    "Nest it directly in the outermost one."
)


def check_nested(outer: Composition, nested: Composition) -> None:
    """Refuse what would be trained otherwise than it seems, in words that say what to do instead."""
    deeper = nested_compositions(nested)
    if deeper:
        raise NotTrainable(TOO_DEEP.format(deeper[0].name, nested.name))
    if len(nested.compositions) > 1:
        names = sorted(f"'{each.name}'" for each in nested.compositions)
        raise NotTrainable(
            f"'{nested.name}' is nested in {len(names)} compositions, {', '.join(names)}, which would train the "
            "same weights from states of their own. Make one for each."
        )
    for node in nested.get_nodes_by_role(pnl.NodeRole.INPUT):
        if not _is_switch_of_storage(node):
            continue
        cim_port = nested.input_CIM_ports[node.input_port][0]
        learned = [p for p in cim_port.path_afferents if p.learnable]
        if learned:
            raise NotTrainable(
                f"'{learned[0].sender.owner.name}' projects to '{node.name}' of '{nested.name}' with a projection "
                "that is to be learned, but storing is all or nothing and passes no gradient on. Make it with "
                "learnable=False, from a node that says when to store. (A pathway [..., composition, ...] "
                "projects to all INPUT nodes of a composition: name the node, as in "
                "MappingProjection(sender=before, receiver=composition.input_node).)"
            )


def _is_switch_of_storage(node: Any) -> bool:
    receivers = [p.receiver for p in node.efferents]
    return bool(receivers) and all(
        isinstance(port.owner.function, StoreEntry) and port is port.owner.input_ports[-1] for port in receivers
    )


def check_not_recurrent(outer: Composition, nested: Composition) -> None:
    """Refuse feedback in an ``AutodiffComposition`` around one that is executed step by step."""
    feedback = outer.feedback_projections
    if feedback:
        raise NotTrainable(
            f"'{outer.name}' has the feedback projection '{feedback[0].name}'. An AutodiffComposition executes a "
            f"minibatch of steps at once, and '{nested.name}' with it. Make the outer composition a "
            "RecurrentComposition."
        )


def inputs_for_run(composition: Composition, inputs: Mapping[Any, np.ndarray]) -> dict[Any, Any]:
    """Inputs {mechanism: (T, size)} in the form of PsyNeuLink's ``run()``, which takes those of a nested
    composition together: {composition: [[value of each INPUT node], ... for each step]}."""
    given = {node: values for node, values in inputs.items() if node in composition.nodes}
    for nested in composition.get_nodes_by_role(pnl.NodeRole.INPUT):
        if isinstance(nested, Composition):
            nodes = [port.owner for port in nested.input_CIM_ports]
            length = len(next(iter(inputs.values())))
            values = [
                inputs[node] if node in inputs else np.tile(default_of(node.input_port), (length, 1))
                for node in nodes
            ]
            given[nested] = [list(step) for step in zip(*values, strict=True)]
    return given
