"""Reading and setting PsyNeuLink's state, and looking at its graphs: nodes, matrices, values, execution
contexts."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import psyneulink as pnl
from psyneulink.core.compositions.composition import Composition
from psyneulink.core.globals.context import Context
from psyneulink.core.globals.utilities import convert_to_np_array

from ..memory import KernelMemory


class NotTrainable(ValueError):
    """The graph cannot be trained as it stands; the message says what and why."""


def accept_subclasses_in_context() -> None:
    """Let ``Context.composition`` hold any Composition.

    PsyNeuLink (0.17 to 0.21) accepts only instances of six classes, by the class's name, so that no subclass of
    AutodiffComposition can learn. This widens the check to what its comments intend: ``isinstance``.
    """
    stock = Context.composition
    if getattr(stock.fset, "accepts_subclasses", False):
        return

    def set_composition(context: Context, composition: Any) -> None:
        if isinstance(composition, Composition):
            context._composition = composition
        else:
            stock.fset(context, composition)

    set_composition.accepts_subclasses = True  # type: ignore[attr-defined]
    Context.composition = property(stock.fget, set_composition, stock.fdel, stock.__doc__)


accept_subclasses_in_context()


# ---- execution contexts


def as_context(composition: Composition, context: Any) -> Context:
    """A fresh Context with the execution_id that is meant; None is the composition's own."""
    execution_id = getattr(context, "execution_id", context)
    if execution_id is None:
        execution_id = composition.default_execution_id
    return Context(execution_id=execution_id)


def setting_contexts(composition: Composition, context: Any) -> set[Any]:
    """The execution_ids that a setting is for: of the composition's own, None, too, as later ones begin there."""
    execution_id, own = as_context(composition, context).execution_id, composition.default_execution_id
    return {execution_id, None} if execution_id == own else {execution_id}


def outer_of(composition: Composition) -> Any:
    """The composition in which one is nested, or None."""
    outer = list(getattr(composition, "compositions", ()))
    return outer[0] if len(outer) == 1 else None


def outermost(composition: Composition) -> Composition:
    """The composition that holds all others around one."""
    outer = outer_of(composition)
    return composition if outer is None else outermost(outer)


# ---- nodes and projections


def nested_compositions(composition: Composition) -> list[Any]:
    """The compositions nested in one."""
    return [node for node in composition.nodes if isinstance(node, Composition)]


def mechanisms(composition: Composition) -> list[Any]:
    """The nodes of a composition, and of those nested in it."""
    own = [node for node in composition.nodes if not isinstance(node, Composition)]
    return own + [node for nested in nested_compositions(composition) for node in mechanisms(nested)]


def input_mechanisms(composition: Composition) -> list[Any]:
    """The nodes that take inputs from outside; of nested compositions that do, their INPUT nodes."""
    nodes = composition.get_nodes_by_role(pnl.NodeRole.INPUT)
    return [
        each for node in nodes for each in (input_mechanisms(node) if isinstance(node, Composition) else [node])
    ]


def memories(composition: Composition) -> list[KernelMemory]:
    """The episodic memories with a kernel of a composition, and of those nested in it."""
    return [node.function for node in mechanisms(composition) if isinstance(node.function, KernelMemory)]


def recurrent_projections(composition: Composition) -> list[Any]:
    """Projections that carry values of the step before."""
    return [*composition.feedback_projections, *self_projections(composition)]


def self_projections(composition: Composition) -> list[Any]:
    """Projections of nodes to themselves, which PsyNeuLink leaves out of a composition's inner ones."""
    return [
        projection
        for node in composition.nodes
        if not isinstance(node, Composition)
        for port in node.input_ports
        for projection in port.path_afferents
        if projection.sender.owner is node
    ]


def modulation(mechanism: Any, context: Context) -> tuple:
    """What modulates a mechanism's Parameters, such as an outer composition's control, and to which values."""
    ports = [port for port in mechanism.parameter_ports if port.mod_afferents]
    values = [np.asarray(port.parameters.value._get(context, fallback_value=None)) for port in ports]
    return tuple((id(port), value.tobytes()) for port, value in zip(ports, values, strict=True))


def inner_projections(composition: Composition) -> list[Any]:
    """Projections between a composition's nodes and its interfaces; PsyNeuLink leaves out those of nodes to
    themselves."""
    return composition._inner_projections


def set_conditions(composition: Composition) -> list[tuple[Any, Any]]:
    """Scheduling conditions that a user has set: (node, condition), and (time scale, condition) for the end."""
    scheduler = composition.scheduler
    default = scheduler.default_termination_conds
    ends = [
        (scale, condition)
        for scale, condition in scheduler._user_specified_termination_conds.items()
        if type(condition) is not type(default.get(scale)) or condition.args
    ]
    return [*scheduler._user_specified_conds.conditions.items(), *ends]


def exits(composition: Composition) -> Iterator[tuple[Any, list[Any]]]:
    """Nodes whose values leave a nested composition, each with its projections in the outer one."""
    for port, (_, outside) in composition.output_CIM_ports.items():
        if outside.efferents:
            yield port.owner, outside.efferents


def default_of(port: Any) -> np.ndarray:
    """What an InputPort takes where nothing projects to it: (size,). PsyNeuLink has a row for each projection."""
    return np.array(np.atleast_2d(port.defaults.variable)[0], dtype=float)


# ---- matrices and values


def get_matrix(projection: Any, context: Any = None) -> np.ndarray:
    """A copy of a projection's matrix in a context, (sender, receiver); that of no context where it has none."""
    parameter = projection.parameters.matrix
    execution_id = getattr(context, "execution_id", context)
    known = execution_id in parameter.values
    # A Context that does not come from the command line: PsyNeuLink would log what is read from there.
    return np.array(parameter._get(Context(execution_id=execution_id if known else None)), dtype=float)


def set_matrix(projection: Any, matrix: np.ndarray, context: Any = None) -> None:
    """Set a projection's matrix in a context, without the loss of dimensions of size 1 that PsyNeuLink has.

    Nothing is logged: PsyNeuLink would, even where no log condition asks for it, at each call to ``learn()``.
    """
    context = context if isinstance(context, Context) else Context(execution_id=context)
    projection.parameters.matrix._set(matrix, context, skip_log=True)
    projection.parameter_ports["matrix"].parameters.value._set(matrix, context, skip_log=True)


def set_value(mechanism: Any, items: list[np.ndarray], context: Any) -> None:
    """Give a mechanism and its output ports a value, item by item, in the shapes of Python mode."""
    mechanism.parameters.value._set(convert_to_np_array(items), context, skip_log=True)
    mechanism._update_output_ports(context=context)


def value_of(mechanism: Any, context: Any) -> np.ndarray:
    """A copy of the first item of a mechanism's value in a context: (size,)."""
    return mechanism.parameters.value._get(context)[0].copy()


def get_parameter(mechanism: Any, name: str, execution_id: Any) -> Any:
    """A Parameter of a mechanism's function in an execution context; that of no context where it has none."""
    parameter = getattr(mechanism.function.parameters, name)
    if not parameter.stateful or execution_id not in parameter.values:
        execution_id = None
    return parameter._get(Context(execution_id=execution_id))


def set_parameter(mechanism: Any, name: str, value: Any, execution_id: Any) -> None:
    """Set a Parameter of a mechanism's function in an execution context."""
    getattr(mechanism.function.parameters, name)._set(value, Context(execution_id=execution_id))
    if execution_id in mechanism.parameters.value.values:  # else run() has not been there
        mechanism._update_parameter_ports(context=Context(execution_id=execution_id))


def is_stateful(mechanism: Any, name: str) -> bool:
    """Whether a Parameter of a mechanism's function has a value for each execution context."""
    return getattr(mechanism.function.parameters, name).stateful


def start_from(composition: Composition, values: Mapping[Any, np.ndarray], context: Context) -> None:
    """Set what feedback projections carry at the next step of ``run()``: {mechanism: (size,)}, zeros else."""
    for sender in composition.get_nodes_by_role(pnl.NodeRole.FEEDBACK_SENDER):
        default = np.zeros_like(np.asarray(sender.defaults.value, dtype=float))
        sender.initialize(np.asarray(values.get(sender, default)).reshape(default.shape), context)
