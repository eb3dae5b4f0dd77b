"""PsyNeuLink's Python mode without the work that has no effect.

In Python mode, each execution of a mechanism updates its ports and their projections as if every one of them were
modulated, validated and logged: of the thousands of Parameters that a step of the episodic LSTM sets, most are
set to what they are. ``quick_run(composition)`` is for the time of a ``run()``; while it lasts, plain ports and
projections are updated by the methods of this module, which do what PsyNeuLink's do with less. All else stays
PsyNeuLink's own: ``run()``, the scheduler, the execution of mechanisms and their functions, control, reports,
call-backs. The values are the same to the last bit, as are the Parameters that executions leave behind (values,
variables, their histories, execution counts) and what is logged.

A shortcut is taken port by port, execution by execution, where it is known to change nothing. A port or projection
that is modulated or logged, that has another function than the default one or is of another type, or that is
given ``runtime_params``, is updated by PsyNeuLink; so is a ParameterPort whose Parameter has changed.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psyneulink as pnl
from psyneulink.core.components.functions.stateful.integratorfunctions import AccumulatorIntegrator
from psyneulink.core.components.mechanisms.mechanism import Mechanism_Base
from psyneulink.core.components.ports.parameterport import ParameterPort
from psyneulink.core.compositions.composition import Composition
from psyneulink.core.globals.context import Context, ContextFlags, _get_time
from psyneulink.core.globals.keywords import DEFAULT_VARIABLE, DOT_PRODUCT, OWNER_VALUE, PRODUCT, SUM
from psyneulink.core.globals.log import LogCondition
from psyneulink.core.globals.utilities import convert_to_np_array

OFF = LogCondition.OFF
NO_CONTEXT = Context(execution_id=None)
_debugger = getattr(pnl, "_debugger", None)  # from 0.21 on


@contextmanager
def quick_run(composition: Any) -> Iterator[None]:
    """Let a composition's nodes take the shortcuts of this module for the time being."""
    methods: list[tuple[Any, str, Callable]] = [(composition, "_initialize_from_context", Once(composition))]
    for mechanism in _mechanisms(composition):
        quick = QuickMechanism(mechanism)
        methods += [(mechanism, name, getattr(quick, name)) for name in quick.methods()]
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


class Once:
    """``_initialize_from_context`` of a composition, which AutodiffComposition calls at each of its trials.

    It gives each Parameter that has no value in the context that of the base context: after the first time, each
    has one.
    """

    def __init__(self, composition: Any) -> None:
        self.composition = composition
        self.done: set[Any] = set()

    def __call__(
        self,
        context: Context,
        base_context: Context = NO_CONTEXT,
        override: bool = True,
        visited: Any = None,
    ) -> None:
        """Do as PsyNeuLink's method, the first time in each context."""
        if override or context.execution_id not in self.done:
            stock = type(self.composition)._initialize_from_context
            stock(self.composition, context, base_context, override, visited=visited)
            self.done.add(context.execution_id)


class QuickMechanism:
    """Quick forms of a mechanism's methods, under the names of those that they stand in for."""

    def __init__(self, mechanism: Any) -> None:
        self.mechanism = mechanism
        self.ports: dict[Any, Any] = {}  # the quick form of each port, or None if it has none
        self.count = Count(mechanism)

    def methods(self) -> list[str]:
        """Names of the methods, of those that the mechanism's class takes from PsyNeuLink's as they are."""
        stock = {name: getattr(Mechanism_Base, name, None) for name in vars(QuickMechanism) if name != "__init__"}
        return [name for name, method in stock.items() if method and getattr(type(self.mechanism), name) is method]

    def _quick(self, port: Any, form: Any) -> Any:
        if port not in self.ports:
            self.ports[port] = form(port) if form.fits(port) else None
        return self.ports[port]

    def _update_input_ports(self, runtime_input_port_params: Any = None, context: Any = None) -> np.ndarray:
        mechanism = self.mechanism
        if runtime_input_port_params or not _is_plain(context):
            return Mechanism_Base._update_input_ports(mechanism, runtime_input_port_params, context)
        time = _get_time(mechanism, context)
        for port in mechanism.input_ports:
            quick = self._quick(port, QuickInputPort)
            if quick is None or not quick.update(context, time):
                port._update(params=runtime_input_port_params, context=context)
        return self._input_values(context)

    def _get_variable_from_input(self, input: Any, context: Any = None) -> np.ndarray:
        mechanism = self.mechanism
        ports = [self._quick(port, QuickInputPort) for port in mechanism.input_ports]
        if not _is_plain(context) or len(input) != len(ports):
            return Mechanism_Base._get_variable_from_input(mechanism, input, context)
        if not all(port and port.takes(item, context) for port, item in zip(ports, input, strict=True)):
            return Mechanism_Base._get_variable_from_input(mechanism, input, context)
        time = _get_time(mechanism, context)
        for port, item in zip(ports, input, strict=True):
            port.take(item, context, time)
        return self._input_values(context)

    def _input_values(self, context: Any) -> np.ndarray:
        ports = self.mechanism.input_ports
        return convert_to_np_array([port.parameters.value.values[context.execution_id] for port in ports])

    def _update_parameter_ports(self, runtime_parameter_port_params: Any = None, context: Any = None) -> None:
        mechanism = self.mechanism
        if runtime_parameter_port_params or not _is_plain(context):
            Mechanism_Base._update_parameter_ports(mechanism, runtime_parameter_port_params, context)
            return
        for port in mechanism._parameter_ports:
            quick = self._quick(port, QuickParameterPort)
            if quick is None or not quick.update(context):
                port._update(params=runtime_parameter_port_params, context=context)

    def _update_output_ports(self, runtime_output_port_params: Any = None, context: Any = None) -> None:
        mechanism = self.mechanism
        if runtime_output_port_params or not _is_plain(context):
            Mechanism_Base._update_output_ports(mechanism, runtime_output_port_params, context)
            return
        for port in mechanism.output_ports:
            quick = self._quick(port, QuickOutputPort)
            if quick is None or not quick.update(context):
                port._update(params=runtime_output_port_params, context=context)

    def get_output_values(self, context: Any = None) -> list[np.ndarray]:
        """Copies of the values of the output ports."""
        mechanism = self.mechanism
        if not isinstance(context, Context):
            return Mechanism_Base.get_output_values(mechanism, context)
        values = [port.parameters.value.values.get(context.execution_id) for port in mechanism.output_ports]
        if not all(type(value) is np.ndarray and value.ndim for value in values):
            return Mechanism_Base.get_output_values(mechanism, context)
        return [value.copy() for value in values]

    def _increment_execution_count(self, count: int = 1) -> Any:
        self.count.add_to_total(count)
        return self.mechanism.execution_count

    def _increment_num_executions(self, context: Any, time_scales: Any, count: int = 1) -> Any:
        if count != 1 or len(time_scales) < 5:
            return Mechanism_Base._increment_num_executions(self.mechanism, context, time_scales, count)
        return self.count.add_by_time_scale(context.execution_id)


def _is_plain(context: Any) -> bool:
    """In a composition's trial, neither being set up nor learning; no other application is told of Parameters."""
    return (
        context.execution_phase == ContextFlags.PROCESSING
        and context.source is not ContextFlags.COMMAND_LINE  # of which PsyNeuLink logs all
        and context.rpc_pipeline is None
        and (_debugger is None or _debugger.get_listener() is None)
    )


class QuickInputPort:
    """An input port whose function is a plain sum or product of what plain projections bring, or a constant."""

    @staticmethod
    def fits(port: Any) -> bool:
        """Whether it is one, by the types of what it consists of."""
        return type(port) is pnl.InputPort and type(port.function) is pnl.LinearCombination

    def __init__(self, port: Any) -> None:
        self.port, self.executed = port, Executed(port)
        self.afferents = list(port.path_afferents)
        self.projections = [QuickProjection(p) for p in self.afferents if QuickProjection.fits(p)]
        self.default_input, self.shape = port.parameters.default_input, np.shape(port.defaults.variable)
        parameters = port.function.parameters
        self.operation, self.scale, self.offset = parameters.operation, parameters.scale, parameters.offset
        self.weights, self.exponents = parameters.weights, parameters.exponents

    def update(self, context: Any, time: Any) -> bool:
        """Do as ``Port._update``; False if the port is not plain: nothing is done then."""
        port, execution_id = self.port, context.execution_id
        if (
            port.mod_afferents
            or port.path_afferents != self.afferents
            or len(self.projections) < len(self.afferents)
            or not self.executed.is_plain(execution_id)
        ):
            return False
        default_input = self.default_input.values[None]
        if default_input is not None:
            return default_input == DEFAULT_VARIABLE and not self.afferents and self._take_default(execution_id)
        composition = context.composition
        # What no projection of this composition reaches is ignored by PsyNeuLink, in a way of its own.
        active = [
            projection
            for projection in self.projections
            if port.afferents_info[projection.projection].is_active_in_composition(composition)
        ]
        if not active or not self._is_plain_combination(execution_id):
            return False
        self._combine(np.array([projection.execute(context, time) for projection in active]), context, time)
        return True

    def _combine(self, variable: np.ndarray, context: Any, time: Any) -> None:
        operation = np.add if self.operation.values[context.execution_id] == SUM else np.multiply
        # Adding the offset of 0, as PsyNeuLink does, turns -0 into 0.
        self.executed.keep(variable, operation.reduce(variable, axis=0) + 0.0, context, time)

    def takes(self, item: Any, context: Any) -> bool:
        """Whether ``take`` does what PsyNeuLink does with an input from outside."""
        return (
            type(item) is np.ndarray
            and item.dtype == float
            and len(self.shape) == 2
            and self.shape[0] == 1
            and item.shape in (self.shape, self.shape[1:])
            and self.default_input.values[None] is None
            and self.executed.is_plain(context.execution_id)
            and self._is_plain_combination(context.execution_id)
        )

    def take(self, item: np.ndarray, context: Any, time: Any) -> None:
        """Take an input from outside in place of what projections bring."""
        variable = item.reshape(self.shape)
        _put(self.executed.variable, variable, context.execution_id)  # PsyNeuLink sets it twice
        self._combine(variable, context, time)

    def _take_default(self, execution_id: Any) -> bool:
        default = np.array(self.port.defaults.variable)
        _put(self.executed.value, default.reshape(np.shape(self.port.defaults.value)), execution_id)
        return True

    def _is_plain_combination(self, execution_id: Any) -> bool:
        return (
            self.operation.values[execution_id] in (SUM, PRODUCT)
            and self.weights.values[execution_id] is None
            and self.exponents.values[execution_id] is None
            and self.scale.values[execution_id] == 1
            and self.offset.values[execution_id] == 0
        )


class QuickProjection:
    """A MappingProjection that multiplies by its matrix, which nothing modulates or trains."""

    @staticmethod
    def fits(projection: Any) -> bool:
        """Whether it is one, by the types of what it consists of."""
        ports = projection._parameter_ports
        return (
            type(projection) is pnl.MappingProjection
            and type(projection.function) is pnl.MatrixTransform
            and [port.name for port in ports] == ["matrix"]
            and type(ports[0].function) is AccumulatorIntegrator
        )

    def __init__(self, projection: Any) -> None:
        self.projection, self.executed = projection, Executed(projection)
        (self.port,) = projection._parameter_ports
        function, integrator = projection.function.parameters, self.port.function.parameters
        self.function_of_port, self.integrator = self.port.parameters.function, self.port.function
        self.rate, self.noise, self.increment = integrator.rate, integrator.noise, integrator.increment
        # PsyNeuLink takes the matrix from the first, by way of the second, to the third.
        self.stages = integrator.previous_value, self.port.parameters.value, function.matrix
        self.logged = [*self.stages, projection.parameters.matrix, self.port.parameters.variable, integrator.value]
        self.operation, self.normalize = function.operation, function.normalize

    def execute(self, context: Any, time: Any) -> np.ndarray:
        """Do as ``Projection.execute``."""
        execution_id = context.execution_id
        variable = self.projection.sender.parameters.value.values[execution_id]
        matrix = self._matrix(execution_id)
        if matrix is None or variable.ndim != 1 or variable.dtype != float:
            return self.projection.execute(variable=variable, context=context, runtime_params={})
        # In the form in which np.tensordot has it, and so with the same rounding.
        value = np.dot(variable[None], matrix)[0]
        self.executed.keep(variable, value, context, time)
        self.port.most_recent_context = self.integrator.most_recent_context = context
        return value

    def _is_unlogged(self) -> bool:
        return all(parameter.log_condition is OFF for parameter in self.logged)

    def _matrix(self, execution_id: Any) -> np.ndarray | None:
        """The matrix, or None if updating it would change something."""
        if (
            self.port.mod_afferents
            or not self.executed.is_plain(execution_id)
            or not self._is_unlogged()
            or self.function_of_port.values[None] is not self.integrator
            or self.rate.values[execution_id] != 1
            or self.noise.values[execution_id] != 0
            or self.increment.values[execution_id] != 0
            or self.operation.values[None] != DOT_PRODUCT
            or self.normalize.values[execution_id]
        ):
            return None
        first, second, third = (stage.values[execution_id] for stage in self.stages)
        if first.ndim != 2 or first.dtype != float:
            return None
        return second if np.array_equal(first, second) and np.array_equal(second, third) else None


class QuickParameterPort:
    """A ParameterPort that passes on its Parameter's value as it is."""

    @staticmethod
    def fits(port: Any) -> bool:
        """Whether it is one, by the types of what it consists of."""
        return type(port) is ParameterPort and type(port.function) is pnl.Linear

    def __init__(self, port: Any) -> None:
        self.port, self.passing = port, Passing(port)

    def update(self, context: Any) -> bool:
        """True if there is nothing to do."""
        port, execution_id, source = self.port, context.execution_id, self.port.source
        if port.mod_afferents or source.getter is not None or not self.passing.is_plain(execution_id):
            return False
        value = source.values.get(execution_id if source.stateful else None)
        if not np.array_equal(np.atleast_1d(value), self.passing.value.values[execution_id]):
            return False
        self.passing.mark(context)
        return True


class QuickOutputPort:
    """An OutputPort that passes on an item of its mechanism's value as it is."""

    @staticmethod
    def fits(port: Any) -> bool:
        """Whether it is one, by the types of what it consists of."""
        spec = port._variable_spec
        return (
            type(port) is pnl.OutputPort
            and type(port.function) in (pnl.Linear, pnl.Identity)
            and isinstance(spec, tuple)
            and len(spec) == 2
            and spec[0] == OWNER_VALUE
            and (isinstance(spec[1], int) or callable(spec[1]))
        )

    def __init__(self, port: Any) -> None:
        self.port = port
        # PsyNeuLink does not execute a Linear function that changes nothing, but it does Identity.
        self.kept = Passing(port) if type(port.function) is pnl.Linear else Executed(port)
        self.spec, self.owner_value = port._variable_spec, port.owner.parameters.value

    def update(self, context: Any) -> bool:
        """Do as ``Port._update``; False if the port is not plain: nothing is done then."""
        port, kept, execution_id = self.port, self.kept, context.execution_id
        if port.mod_afferents or port._variable_spec is not self.spec or not kept.is_plain(execution_id):
            return False
        index = self.spec[1] if isinstance(self.spec[1], int) else self.spec[1]()
        value = self.owner_value.values[execution_id][index]
        if not isinstance(value, np.ndarray) or value.ndim == 0 or value.dtype != float:
            return False
        _put(kept.variable, value, execution_id)  # PsyNeuLink sets it twice
        kept.keep(value, value, context, None if isinstance(kept, Passing) else _get_time(port, context))
        return True


# ---- what executions leave behind ----------------------------------------------------------------------------


def _put(parameter: Any, value: np.ndarray, execution_id: Any) -> None:
    """Set a Parameter that has a value as ``Parameter._set`` does: in place, the value before into its history."""
    before = parameter.values[execution_id]
    history = parameter.history.get(execution_id)
    if history is None:
        parameter.history[execution_id] = deque([before.copy()], maxlen=parameter.history_max_length)
    else:
        history.appendleft(before.copy())
    if before.shape == value.shape and before.dtype == value.dtype:
        np.copyto(before, value)
    else:
        parameter.values[execution_id] = value.copy()


class Plain:
    """A port or projection with its function: whether PsyNeuLink would do more than compute and keep values."""

    def __init__(self, component: Any) -> None:
        self.component, self.function = component, component.function
        self.variable, self.value = component.parameters.variable, component.parameters.value
        self.function_variable = self.function.parameters.variable
        self.function_value = self.function.parameters.value
        self.kept = [self.variable, self.value, self.function_variable, self.function_value]
        self.current_function = component.parameters.function

    def is_plain(self, execution_id: Any) -> bool:
        """The function is the one known, nothing is logged, and all that is kept has a value to be replaced."""
        if (
            self.current_function.values[None] is not self.function
            or self.component._runtime_params_reset.get(execution_id)
            or self.function._runtime_params_reset.get(execution_id)
        ):
            return False
        for parameter in self.kept:
            if parameter.log_condition is not OFF or type(parameter.values.get(execution_id)) is not np.ndarray:
                return False
        return True

    def mark(self, context: Any) -> None:
        """Let dot notation show the values of this context."""
        self.component.most_recent_context = self.function.most_recent_context = context


class Passing(Plain):
    """A port that passes on what it gets: PsyNeuLink then does not execute its function."""

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        parameters = self.function.parameters
        self.identity = [
            (parameters.slope, 1),
            (parameters.intercept, 0),
            (parameters.scale, 1),
            (parameters.offset, 0),
        ]
        self.kept = [self.variable, self.value]

    def is_plain(self, execution_id: Any) -> bool:
        """Besides, the function changes nothing."""
        if not super().is_plain(execution_id):
            return False
        return all(parameter.values[execution_id] == value for parameter, value in self.identity)

    def keep(self, variable: np.ndarray, value: np.ndarray, context: Any, time: Any) -> None:
        """Keep what is passed on."""
        _put(self.variable, variable, context.execution_id)
        _put(self.value, value, context.execution_id)
        self.mark(context)


class Executed(Plain):
    """A port or projection that is executed with its function."""

    def __init__(self, component: Any) -> None:
        super().__init__(component)
        self.count = Count(component)

    def keep(self, variable: np.ndarray, value: np.ndarray, context: Any, time: Any) -> None:
        """Keep what an execution computed from what."""
        execution_id = context.execution_id
        _put(self.variable, variable, execution_id)
        _put(self.function_variable, variable, execution_id)
        _put(self.function_value, value, execution_id)
        _put(self.function_value, value, execution_id)  # the function and its owner set it
        _put(self.value, value, execution_id)
        self.count.add_to_total(1)
        self.count.add_by_time_scale(execution_id)
        self.component._current_execution_time = time
        self.mark(context)


class Count:
    """A component's numbers of executions."""

    def __init__(self, component: Any) -> None:
        self.total, self.by_time_scale = component.parameters.execution_count, component.parameters.num_executions

    def add_to_total(self, count: int) -> None:
        """That many more, in any context."""
        _put(self.total, self.total.values[None] + count, None)

    def add_by_time_scale(self, execution_id: Any) -> Any:
        """One more, at all time scales."""
        number = self.by_time_scale.values[execution_id]
        number.consideration_set_execution += 1
        number.pass_ += 1
        number.environment_state_update += 1
        number.environment_sequence += 1
        number.life += 1
        values, history = self.by_time_scale.values, self.by_time_scale.history
        # PsyNeuLink lets the context None share the object.
        history.setdefault(None, deque(maxlen=self.by_time_scale.history_max_length)).appendleft(values[None])
        values[None] = number
        return number
