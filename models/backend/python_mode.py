"""PsyNeuLink's Python mode without the dearest of the work that has no effect.

In Python mode, each execution of a mechanism updates its ports and their projections as if every one of them were
modulated, validated and given ``runtime_params``. ``quick_run(composition)`` is for the time of a ``run()``; while
it lasts, there are three shortcuts, and ``graph_of(composition)`` gives a fourth:

* ``update_input_port``: what projections bring is computed by their functions and the port's, without the rest.
* ``update_parameter_ports``: a Parameter of a mechanism is passed on to its function if it has changed.
* ``initialize_once``: a composition gives Parameters their values in an execution context once, not at each trial.
* PsyNeuLink analyses a graph if it has changed, not at each ``run()``.

All else is PsyNeuLink's own. A shortcut is taken port by port, execution by execution: what is modulated, given
``runtime_params``, executed from the command line, of another type or with another function than the default one
is updated by PsyNeuLink.

Guaranteed, to the last bit as without shortcuts: results; all Parameters of mechanisms, of their input and output
ports, of projections and of the functions of all these, with histories and numbers of executions; the values of
ParameterPorts; what is logged of all these. Not guaranteed, where a Parameter is passed on that has not changed:
history and number of executions of its ParameterPort, which is not executed, and of that port's function; nor is a
listener, such as a viewer, told of it. Nor is the ``current_execution_time`` of ports and projections, which is no
Parameter.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import psyneulink as pnl
from psyneulink.core.components.mechanisms.mechanism import Mechanism_Base
from psyneulink.core.compositions.composition import Composition
from psyneulink.core.globals.context import Context, ContextFlags
from psyneulink.core.globals.log import LogCondition

NO_CONTEXT = Context(execution_id=None)
TIME_SCALES = ("consideration_set_execution", "pass_", "environment_state_update", "environment_sequence", "life")


@contextmanager
def quick_run(composition: Any) -> Iterator[None]:
    """Let a composition's nodes take the shortcuts of this module for the time being."""
    methods = [(composition, "_initialize_from_context", partial(initialize_once, set(), composition))]
    for mechanism in _mechanisms(composition):
        if type(mechanism)._update_parameter_ports is Mechanism_Base._update_parameter_ports:
            methods.append((mechanism, "_update_parameter_ports", partial(update_parameter_ports, mechanism)))
        ports = [port for port in mechanism.input_ports if type(port) is pnl.InputPort]
        methods += [(port, "_update", partial(update_input_port, port)) for port in ports]
    # A run within a run (a controller's simulation, a call-back) finds them there, and leaves them there.
    methods = [(owner, name, method) for owner, name, method in methods if name not in vars(owner)]
    for owner, name, method in methods:
        vars(owner)[name] = method
    try:
        yield
    finally:
        for owner, name, _ in methods:
            del vars(owner)[name]


def _mechanisms(composition: Any) -> Iterator[Any]:
    """All mechanisms, those of nested compositions included."""
    for node in composition._all_nodes:
        if isinstance(node, Composition):
            yield from _mechanisms(node)
        else:
            yield node


def graph_of(composition: Any) -> list[Any] | None:
    """All that PsyNeuLink's analysis of a graph depends on, or None if the graph must be analysed anew.

    PsyNeuLink analyses the graph at each ``run()``, which takes as long as several steps.
    """
    if composition.needs_update_graph or any(isinstance(node, Composition) for node in composition.nodes):
        return None
    graph: list[Any] = [composition.scheduler, composition.controller]
    graph += [*composition.required_node_roles, *composition.excluded_node_roles]
    for mechanism in composition._all_nodes:
        graph.append(mechanism)
        for port in mechanism.input_ports:
            graph += [port, port.internal_only, port.default_input, port.shadow_inputs]
            graph.append(np.shape(port.defaults.variable))
            for projection in port.path_afferents:
                active = port.afferents_info[projection].is_active_in_composition(composition)
                graph += [projection, projection.sender, active, getattr(projection, "feedback", None)]
        for port in mechanism.output_ports:
            graph += [port, port.require_projection_in_composition, np.shape(port.defaults.value), *port.efferents]
        for port in (*mechanism.input_ports, *mechanism._parameter_ports, *mechanism.output_ports):
            graph += port.mod_afferents
    return graph


def initialize_once(
    done: set[Any],
    composition: Any,
    context: Context,
    base_context: Context = NO_CONTEXT,
    override: bool = True,
    visited: Any = None,
) -> None:
    """``_initialize_from_context`` of a composition, which AutodiffComposition calls at each of its trials.

    It gives each Parameter that has no value in the context that of the base context: after the first time, each
    has one, unless a call-back adds nodes or projections.
    """
    if override or composition.needs_update_graph or context.execution_id not in done:
        type(composition)._initialize_from_context(composition, context, base_context, override, visited=visited)
        done.add(context.execution_id)


def update_parameter_ports(mechanism: Any, params: Any = None, context: Any = None) -> None:
    """``_update_parameter_ports`` of a mechanism; nothing if no Parameter has changed."""
    ports = mechanism._parameter_ports
    if params or not all(_has_passed_on(port, context) and port.function._is_identity(context) for port in ports):
        Mechanism_Base._update_parameter_ports(mechanism, params, context)


def update_input_port(port: Any, params: Any = None, context: Any = None) -> None:
    """``_update`` of an input port: what is left are the functions of projections and port, and what is kept."""
    info, composition = port.afferents_info, context.composition
    active = [p for p in port.path_afferents if info[p].is_active_in_composition(composition)]
    if (
        params
        or not active
        or port.mod_afferents
        or port.default_input is not None
        or type(port.function) is not pnl.LinearCombination
        or not all(_is_plain(projection, context) for projection in active)
    ):
        type(port)._update(port, params, context)
        return
    values = [_execute(p, p.sender.parameters.value._get(context), context) for p in active]
    _execute(port, np.array(values), context)


def _is_plain(projection: Any, context: Any) -> bool:
    """Whether a projection multiplies what is sent by a matrix that nothing changes at this moment."""
    if type(projection) is not pnl.MappingProjection or type(projection.function) is not pnl.MatrixTransform:
        return False
    sent = projection.sender.parameters.value._get(context)
    if type(sent) is not np.ndarray or sent.dtype != float:
        return False
    (port,) = projection._parameter_ports
    # The matrix goes through an integrator, which adds what learning adds to the value before.
    function, id_ = port.function.parameters, context.execution_id
    return (
        type(port.function) is pnl.AccumulatorIntegrator
        and np.all(function.rate.values.get(id_) == 1)
        and np.all(function.noise.values.get(id_) == 0)
        and np.all(function.increment.values.get(id_) == 0)
        and np.array_equal(function.previous_value.values.get(id_), port.parameters.value.values.get(id_))
        and _has_passed_on(port, context)
    )


def _has_passed_on(port: Any, context: Any) -> bool:
    """Whether a ParameterPort has its Parameter's value already, and nobody takes note that it gets it again."""
    source, parameters = port.source, port.parameters
    if (
        port.mod_afferents
        or context.source is ContextFlags.COMMAND_LINE  # of which PsyNeuLink logs all
        or any(p.log_condition is not LogCondition.OFF for p in (source, parameters.variable, parameters.value))
        or not np.array_equal(
            np.atleast_1d(source._get(context)), parameters.value.values.get(context.execution_id)
        )
    ):
        return False
    port.most_recent_context = port.function.most_recent_context = context  # for dot notation
    return True


def _execute(component: Any, variable: np.ndarray, context: Any) -> np.ndarray:
    """As ``Component.execute``, of a port or projection: its function's value, which it keeps, and logs."""
    function, parameters = component.function, component.parameters
    parameters.variable._set(variable, context)
    variable = component._parse_function_variable(variable)
    function.parameters.variable._set(variable, context)
    value = function._function(variable, context=context)
    function.parameters.value._set(value, context)
    function.parameters.value._set(value, context)  # the function and its owner set it
    parameters.value._set(value, context)
    total, number = parameters.execution_count, parameters.num_executions._get(context)
    total._set(np.asarray(total.values[None] + 1), NO_CONTEXT)
    for scale in TIME_SCALES:
        setattr(number, scale, getattr(number, scale) + 1)
    parameters.num_executions._set(number, NO_CONTEXT)
    component.most_recent_context = function.most_recent_context = context
    return value
