"""How PsyNeuLink's PyTorch backend executes a recurrent graph: all that touches private parts of PsyNeuLink.

``RecurrentComposition`` is an ``AutodiffComposition`` that is trained on sequences. Its wrapper keeps what
PsyNeuLink provides (the PyTorch form of each function, the matrices as parameters, the optimiser, learning
rates by projection, the synchronisation) and replaces one thing: where the stock wrapper makes one pass through
the graph, this one makes a pass for each step of a sequence, in the order of the scheduler, with feedback
projections that carry the values of the step before. It executes the graph as it stands, node by node.

Before it trains, ``check_same_in_both_modes`` compares the two modes on random input: a graph that the PyTorch
backend would execute otherwise than ``run()`` (because it leaves out noise, a clip, a function of an
OutputPort, control, ...) is refused.

Each work-around has a test in ``tests/test_backend.py`` that fails once PsyNeuLink no longer needs it.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.core.components.mechanisms.modulatory.modulatorymechanism import ModulatoryMechanism_Base
from psyneulink.core.compositions.composition import Composition
from psyneulink.core.globals.context import Context
from psyneulink.core.globals.utilities import convert_to_np_array
from psyneulink.library.compositions.pytorchwrappers import (
    PytorchCompositionWrapper,
    PytorchMechanismWrapper,
)
from torch import Tensor

from .adam import CAN_FUSE, Steps
from .arguments import HONOURED, refusal
from .logs import LearningLog, Loggables, ReadableLog
from .memory import EpisodicMemory
from .optimizers import IN_TORCH, check_optimizer, check_same_optimizer, kind_in_torch, make_optimizer
from .python_mode import graph_of, quick_run

PROBE_TOLERANCE = 1e-9
"""Largest difference between the modes on random input; both compute in float64, in another order of sums."""


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


def nesting() -> Any:
    """The module ``nesting``, which builds upon this one."""
    from . import nesting

    return nesting


# ---- the steps of a sequence -------------------------------------------------------------------------------


class Session:
    """What a call to ``learn()`` needs for each minibatch besides its inputs; subclass it for a task.

    The composition asks for the trials in the order in which it is trained on them; with several epochs, their
    numbers go on from one to the next.
    """

    def begin(self, which: range) -> dict[Any, Tensor]:
        """Values of nodes before the first step of these trials: {mechanism: (B, size)}; others start at 0."""
        return {}

    def loss(self, which: range, values: Mapping[Any, Tensor]) -> Tensor:
        """Loss (one number) of these trials, from each node's values {mechanism: (B, T, size)}."""
        raise NotImplementedError

    def before_update(self, gradients: Mapping[Any, np.ndarray]) -> None:
        """Called before each step of the optimiser with {projection: gradient}, if ``wants_gradients``."""

    def after_update(self) -> None:
        """Called after each step of the optimiser."""

    wants_gradients = False
    width = 1
    """Sequences that each of the inputs stands for: M parallel worlds, whose inputs come about as they are run. As
    each input has one of the results, these are of the first world."""
    max_gradient_norm: float | None = None
    """Gradients of all parameters together are scaled down to this norm, if theirs is larger."""
    unroll_steps: int | None = None
    """Steps of a stretch, from one of which no gradient flows into the one before; None: whole sequences."""


class AllInputs:
    """Stands for all INPUT nodes in what PsyNeuLink is given: their values, one beside the other, (T, total).

    PsyNeuLink converts, copies and looks up the inputs of each trial node by node, which takes longer than a
    trial does; under one key it does so once.
    """

    name = "all inputs"

    def __init__(self, inputs: Mapping[Any, Tensor]) -> None:
        """Take the inputs {mechanism: (n, T, size)}."""
        edges = np.cumsum([0, *(values.shape[-1] for values in inputs.values())])
        self.columns = {node: slice(*edge) for node, edge in zip(inputs, itertools.pairwise(edges), strict=True)}
        self.trials = [{self: trial} for trial in torch.cat(list(inputs.values()), dim=-1)]

    def __deepcopy__(self, memo: dict) -> AllInputs:
        """Itself: PsyNeuLink copies the dict of each trial's inputs, its keys included."""
        return self

    def parse_input_array(self, values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What PsyNeuLink asks of a node: the inputs in its form, which they have."""
        return values

    def by_node(self, minibatch: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """The inputs of a minibatch as PsyNeuLink hands them over → {mechanism: (B, T, size)}."""
        values = minibatch[self].flatten(2)  # of the axes of 1 in between there are one or two, by version
        return {node: values[..., columns] for node, columns in self.columns.items()}


@dataclass
class Port:
    """Where an input port gets its value from."""

    function: Any
    sources: list[tuple[Any, PytorchMechanismWrapper, int]]  # projection wrapper, sender, item of its value
    external: bool
    constant: Tensor


@dataclass
class Node:
    """A node as it is executed at each step."""

    wrapper: PytorchMechanismWrapper
    ports: list[Port]
    is_product: bool
    """Whether the function is a plain product of its ports, for which ``torch.prod`` is a slow way."""

    def execute(self, values: Mapping[Any, list[Tensor]], external: Tensor | None) -> list[Tensor]:
        """The node's value, item by item, each (B, 1, size)."""
        variable = [self._port_value(port, values, external) for port in self.ports]
        wrapper = self.wrapper
        function = wrapper.function.function
        if hasattr(function, "on_fields"):
            return function.on_fields(variable)
        if len(variable) > 1 and len({v.shape[-1] for v in variable}) > 1:
            return [function(v) for v in variable]
        if self.is_product:
            return [math.prod(variable[1:], start=variable[0])]
        result = wrapper.execute_function(wrapper.function, _stacked(variable))
        return list(result.unbind(2))

    @staticmethod
    def _port_value(port: Port, values: Mapping[Any, list[Tensor]], external: Tensor | None) -> Tensor:
        parts = [
            values[sender][item] if proj.is_identity else proj.function(values[sender][item], proj.matrix)
            for proj, sender, item in port.sources
        ]
        if port.external:
            parts.append(external)
        if not parts:
            batch, steps = next(iter(values.values()))[0].shape[:2]
            parts.append(port.constant.expand(batch, steps, -1))
        return port.function(_stacked(parts))


def _is_product(function: Any) -> bool:
    return (
        type(function) is pnl.LinearCombination
        and function.operation == pnl.PRODUCT
        and function.parameters.weights.get() is None
    )


def _stacked(parts: list[Tensor]) -> Tensor:
    """Values (B, 1, size) one beside the other: (B, 1, parts, size)."""
    return parts[0].unsqueeze(2) if len(parts) == 1 else torch.stack(parts, dim=2)


class Trace:
    """What happened in a minibatch: the value of each node at all steps. Subclasses say where it is from.

    Args:
        wrapper: PsyNeuLink's PyTorch form of the composition.
    """

    def __init__(self, wrapper: RecurrentWrapper) -> None:
        self.wrapper = wrapper

    def items(self, node: Any) -> list[Tensor]:
        """A node's value at all steps, item by item: [(B, T, size), ...]."""
        raise NotImplementedError

    @property
    def trajectory(self) -> Mapping[Any, Tensor]:
        """{mechanism: (B, T, size)}: the first item of each value."""
        return _Trajectory(self)

    def last_values(self) -> dict[Any, list[Tensor]]:
        """{node's wrapper: its value at the last step, item by item, each (B, 1, size)}."""
        return {w: [item[:, -1:] for item in self.items(node)] for node, w in self.wrapper.nodes_map.items()}

    def output(self, mechanism: Any, item: int) -> Tensor:
        """An item of a node's value at the last step: (B, size)."""
        return self.items(mechanism)[item][:, -1]


class _Trajectory(Mapping):
    """Values by mechanism, joined where they are asked for."""

    def __init__(self, trace: Trace) -> None:
        self._trace, self._found = trace, {}

    def __getitem__(self, mechanism: Any) -> Tensor:
        if mechanism not in self._found:
            self._found[mechanism] = self._trace.items(mechanism)[0]
        return self._found[mechanism]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._trace.wrapper.nodes_map)

    def __len__(self) -> int:
        return len(self._trace.wrapper.nodes_map)


class NodeTrace(Trace):
    """The values of all nodes, as the general path computes them step by step."""

    def __init__(self, wrapper: RecurrentWrapper, steps: list[dict[Any, list[Tensor]]] | None = None) -> None:
        super().__init__(wrapper)
        self.steps: list[dict[Any, list[Tensor]]] = steps or []

    def items(self, node: Any) -> list[Tensor]:
        """A node's value at all steps, item by item: [(B, T, size), ...]."""
        wrapper = self.wrapper.nodes_map[node]
        return [torch.cat(items, dim=1) for items in zip(*(values[wrapper] for values in self.steps), strict=True)]

    def last_values(self) -> dict[Any, list[Tensor]]:
        """{node's wrapper: its value at the last step}."""
        return self.steps[-1] if self.steps else {}


class RecurrentWrapper(PytorchCompositionWrapper):
    """The PyTorch form of a ``RecurrentComposition``: a pass through the graph for each step of a sequence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("outer_creator") is not None:  # it takes the place of the composition's own
            kwargs["composition"]._keep_optimizer_state(kwargs["context"])
        super().__init__(*args, **kwargs)
        self._plan = [
            [self._plan_node(wrapper) for wrapper in sorted(set_, key=lambda w: w.name)]
            for set_ in self.execution_sets
        ]
        self.nested = [node for set_ in self._plan for node in set_ if isinstance(node, nesting().NestedNode)]
        self.has_state = nesting().has_state(self.composition)
        self.optimizer_type = getattr(self.composition, "optimizer_type", None)
        self.all_output_values = None
        self.trace: Any = None
        self._output_sources = self._plan_outputs()
        cim = self.composition.output_CIM
        self._in_results = np.array([not cim._sender_is_probe(port) for port in cim.output_ports])
        """Which values of the output ports ``results`` holds: as of ``run()``, not of PROBE nodes."""
        if self.is_nested:
            self.as_node = nesting().NestedNode(self)
            self.execution_sets = [{self.as_node}]

    def _pytorch_mechanism_wrapper_type(self, mechanism: Any) -> Any:
        stock = super()._pytorch_mechanism_wrapper_type(mechanism)
        return nesting().NestedMechanismWrapper if self.is_nested and stock is PytorchMechanismWrapper else stock

    def _get_composition_projections(self, composition: Any) -> list[Any]:
        return super()._get_composition_projections(composition) + _self_projections(composition)

    def _plan_node(self, wrapper: Any) -> Any:
        if isinstance(wrapper, nesting().NestedNode):
            return wrapper
        external = self.composition.get_nodes_by_role(pnl.NodeRole.INPUT)
        ports = []
        for port, function in zip(wrapper.mechanism.input_ports, wrapper.input_ports, strict=True):
            sources = [
                (proj, proj.sender_wrapper, proj._value_idx)
                for proj in wrapper.afferents
                if proj._pnl_proj in port.path_afferents
            ]
            constant = torch.as_tensor(np.atleast_1d(port.defaults.variable).reshape(-1), dtype=torch.float64)
            is_external = wrapper.mechanism in external and not port.default_input and not port.internal_only
            ports.append(Port(function.function, sources, is_external, constant))
        return Node(wrapper, ports, _is_product(wrapper.mechanism.function))

    def steps(
        self, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor], unroll: int | None = None
    ) -> Iterator[dict[Any, list[Tensor]]]:
        """Values of all nodes at each step, by wrapper.

        Args:
            inputs: {mechanism: (B, T, size)}.
            before: {mechanism: (B, size)}: values before the first step; zeros for the rest.
            unroll: steps of a stretch, from one of which no gradient flows into the one before; None: all steps.
        """
        batch, length = next(iter(inputs.values())).shape[:2]
        values = {
            wrapper: [
                torch.zeros(batch, 1, np.size(item), dtype=torch.float64)
                for item in wrapper.mechanism.defaults.value
            ]
            for wrapper in self.node_wrappers
        }
        for mechanism, value in before.items():
            values[self.nodes_map[mechanism]] = [value[:, None]]
        for t in range(length):
            if unroll and t and t % unroll == 0:
                values = {wrapper: [item.detach() for item in items] for wrapper, items in values.items()}
            for execution_set in self._plan:
                # All of a set see the values from before the set, as in Python mode.
                new = {}
                for node in execution_set:
                    external = inputs.get(node.wrapper.mechanism)
                    step = None if external is None else external[:, t : t + 1]
                    new[node.wrapper] = node.execute(values, step)
                values = {**values, **new}
            yield values

    def forward(self, inputs: Mapping[Any, Tensor], *args: Any, context: Any = None, **kwargs: Any) -> Any:
        """Execute the sequences of a minibatch; what the loss needs is kept for ``compute_loss``."""
        if args or kwargs.get("optimization_num"):
            raise NotTrainable("optimizations_per_minibatch must be 1: a sequence would be stored repeatedly.")
        composition = self.composition
        by_node = composition._all_inputs.by_node(inputs)
        width = composition._session.width
        if width > 1:
            by_node = {node: values.repeat(width, 1, 1) for node, values in by_node.items()}
        which = composition._next_trials(len(next(iter(by_node.values()))))
        before = composition._session.begin(which)
        course = composition._execute_sequences(self, which, by_node, before)
        # Straight into the dict: torch.nn.Module takes its time to set an attribute.
        self.__dict__.update(trials=which, _batch_size=len(which), trace=course)
        if composition.learning_log is not None:
            composition.learning_log.enter(which, course, self, context)
        outputs = self._outputs()
        if composition._reports:
            self.copy_node_variables_and_values_to_psyneulink({}, context)
        return outputs

    def _leave_values(self) -> None:
        """Keep the last step's values where PsyNeuLink looks for them."""
        if self.trace is None:
            return
        for wrapper, items in self.trace.last_values().items():
            sizes = {item.shape[-1] for item in items}
            if len(sizes) == 1:
                wrapper.output = torch.stack(items, dim=2)
            else:
                wrapper.output = [[[item[b, 0] for item in items]] for b in range(len(items[0]))]

    def _plan_outputs(self) -> list[tuple[Any, int]]:
        """Where the values of the output ports come from: (mechanism, item of its value)."""
        cim = self.composition.output_CIM
        sources = [cim._get_source_info_from_output_CIM(port)[:2] for port in cim.input_ports]
        return [(mechanism, mechanism.output_ports.index(port)) for port, mechanism in sources]

    def _outputs(self) -> np.ndarray:
        """Values of the output ports at the last step, for ``results``: (B, ports, ...)."""
        items = [self.trace.output(mechanism, item).detach() for mechanism, item in self._output_sources]
        if self.composition._session is not None and self.composition._session.width > 1:
            items = [item[:1] for item in items]
        if len({item.shape[-1] for item in items}) == 1:
            values = torch.stack(items, dim=1).numpy()
        else:  # arrays in an array: PsyNeuLink copies results repeatedly, and lists number by number
            values = np.empty((len(items[0]), len(items)), dtype=object)
            for port, item in enumerate(items):
                for b, row in enumerate(item.numpy()):
                    values[b, port] = row.copy()
        self.__dict__["all_output_values"] = values
        return values if self._in_results.all() else values[:, self._in_results]

    def copy_node_variables_and_values_to_psyneulink(self, options: dict, context: Any = None) -> None:
        """Give each mechanism and its output ports the values of the last step, in the shapes of Python mode."""
        self._leave_values()
        for mechanism, wrapper in self.nodes_map.items():
            output = wrapper.output
            if output is None:
                continue
            items = output[-1, 0] if isinstance(output, Tensor) else output[-1][0]
            set_value(mechanism, [item.detach().numpy().copy() for item in items], context)
        if self.all_output_values is not None:
            self.composition.output_CIM.execute(self.all_output_values[-1], context=context)

    def _copy_weights_to_psyneulink(self, context: Any = None) -> None:
        """As the stock method, without the transpositions: PsyNeuLink gets matrices of its own."""
        for wrapper in self.projections_map.values():
            set_matrix(wrapper.projection, wrapper.matrix.detach().numpy().copy(), context)

    def _torch_params_to_projections(self, param_groups: list) -> dict:
        """As the stock method, which searches all parameters by name for each parameter of each projection."""
        if self.is_nested:  # asked at the beginning of the outer's learn()
            self.as_node.is_first = True
        return {wrapper.matrix: projection for projection, wrapper in self.projections_map.items()}

    def load_weights(self, context: Any) -> None:
        """Take all matrices from PsyNeuLink: ``run()`` or the user may have changed them."""
        with torch.no_grad():
            for wrapper in self.projections_map.values():
                matrix = get_matrix(wrapper.projection, context)
                wrapper.matrix.copy_(torch.from_numpy(matrix))
                mark_identity(wrapper)

    def torch_state(self) -> dict[Any, dict[str, Tensor]]:
        """The optimiser's state by projection."""
        if self.optimizer is None:
            return {}
        return {
            wrapper.projection: self.optimizer.state[wrapper.matrix]
            for wrapper in self.projections_map.values()
            if self.optimizer.state.get(wrapper.matrix)
        }

    def set_torch_state(self, states: Mapping[Any, dict[str, Tensor]]) -> None:
        """Take the optimiser's state for those projections that are here and have the same form."""
        for wrapper in self.projections_map.values():
            state = states.get(wrapper.projection)
            if not state:
                continue
            check_same_optimizer(kind_in_torch(state), self.composition.optimizer_type)
            if all(v.shape == wrapper.matrix.shape for part, v in state.items() if part != "step"):
                self.optimizer.state[wrapper.matrix] = state

    def gradients(self) -> dict[Any, np.ndarray]:
        """Gradient of each learnable projection's matrix."""
        return {
            wrapper.projection: wrapper.matrix.grad.numpy().copy()
            for wrapper in self.projections_map.values()
            if wrapper.matrix.grad is not None
        }


# ---- matrices ----------------------------------------------------------------------------------------------


def get_matrix(projection: Any, context: Any = None) -> np.ndarray:
    """A copy of a projection's matrix in a context, (sender, receiver); that of no context where it has none."""
    parameter = projection.parameters.matrix
    execution_id = getattr(context, "execution_id", context)
    known = execution_id in parameter.values
    # A Context that does not come from the command line: PsyNeuLink would log what is read from there.
    return np.array(parameter._get(Context(execution_id=execution_id if known else None)), dtype=float)


def mark_identity(wrapper: Any) -> None:
    """Note of a projection's wrapper whether it is a fixed one-to-one projection, as many are, which needs no
    product of matrices."""
    function, matrix = wrapper.projection.function, wrapper.matrix.detach().numpy()
    plain = type(function) is pnl.MatrixTransform and not function.normalize and not wrapper.matrix.requires_grad
    square = matrix.shape[0] == matrix.shape[1]
    wrapper.is_identity = bool(plain and square and np.array_equal(matrix, np.eye(len(matrix))))


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


# ---- the composition ---------------------------------------------------------------------------------------


class RecurrentComposition(pnl.AutodiffComposition):
    """An ``AutodiffComposition`` that is trained on sequences, its feedback projections included.

    ``run()`` is PsyNeuLink's own, one of its trials a step. ``learn_sequences()`` trains through PsyNeuLink's
    ``learn()`` in PyTorch mode: one minibatch of sequences a step of the optimiser.
    """

    pytorch_composition_wrapper_type = RecurrentWrapper
    shortcuts = True
    """Whether ``run()`` leaves out work that has no effect (see ``python_mode``); False for PsyNeuLink's alone."""
    _analysed: list[Any] | None = None  # the graph as PsyNeuLink's last run() has analysed it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "loss_spec" in kwargs or "targets" in kwargs:
            raise ValueError(
                "A RecurrentComposition takes its loss in learn(), not as loss_spec or targets of the constructor."
            )
        self._session: Session | None = None
        self._steps: Steps | None = None
        self._all_inputs: AllInputs | None = None
        self._reports = False
        self.learning_log: LearningLog | None = None
        self._loggables: Loggables | None = None
        self._cursor = 0
        self._signatures: dict[Any, Any] = {}
        self._state_to_adopt: dict[Any, dict[str, Tensor]] = {}
        self._took_over: set[Any] = set()
        self._searched: set[Any] | None = None
        super().__init__(*args, **kwargs)
        self.log = ReadableLog(owner=self)

    # ---- where it is nested in another composition

    @property
    def default_execution_id(self) -> Any:
        """Execution context of calls that name none: the outermost composition's, where this one is nested."""
        outermost = nesting().outermost(self)
        return self._own_execution_id if outermost is self else outermost.default_execution_id

    @default_execution_id.setter
    def default_execution_id(self, value: Any) -> None:
        self._own_execution_id = value

    def _initialize_from_context(self, context: Context, *args: Any, **kwargs: Any) -> None:
        """As the stock method; what it had in its own context goes on in the outer's when it is nested."""
        shared = self.default_execution_id
        if context.execution_id == shared != self._own_execution_id and shared not in self._took_over:
            self._took_over.add(shared)
            nesting().take_over_state(self, self._own_execution_id, context)
        super()._initialize_from_context(context, *args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method; nested, INPUT nodes to which nothing projects have their defaults."""
        if self._session is None:
            nesting().supply_defaults(self)
        if self._reports and self._session is not None:
            self._show_inputs(kwargs["inputs"], kwargs["context"])
        return super().execute(*args, **kwargs)

    def start_sequence(self, values: Mapping[Any, np.ndarray] | None = None, context: Any = None) -> None:
        """Set what feedback projections carry at the next step, here and in nested compositions.

        Between the steps of ``run()``, as ``call_before_trial``; or, where this is nested in an
        ``AutodiffComposition`` that learns from trials, as its ``call_before_minibatch``.

        Args:
            values: {mechanism: (size,)}; zeros for the rest.
            context: the execution context, by default the (outermost) composition's own.
        """
        context = as_context(self, context)
        if context.execution_id not in self.parameters.num_executions.values:
            self._initialize_from_context(context, Context(execution_id=None), override=False)
        for composition in [self, *nested_compositions(self)]:
            start_from(composition, values or {}, context)

    # ---- running

    def run(
        self, inputs: Any = None, *args: Any, execution_mode: Any = pnl.ExecutionMode.Python, **kwargs: Any
    ) -> Any:
        """PsyNeuLink's ``run``; in Python mode with the shortcuts of ``python_mode``, unless they are off.

        Run by itself though nested in another composition, it takes inputs by node, too.
        """
        if isinstance(inputs, Mapping) and self.is_nested:
            inputs = {getattr(node, "input_port", node): value for node, value in inputs.items()}
        if not self.shortcuts or execution_mode is not pnl.ExecutionMode.Python:
            return super().run(inputs, *args, execution_mode=execution_mode, **kwargs)
        if self._analysed is not None and self._analysed == graph_of(self):
            kwargs.setdefault("skip_analyze_graph", True)
        with quick_run(self):
            result = super().run(inputs, *args, execution_mode=execution_mode, **kwargs)
        self._analysed = graph_of(self)
        return result

    # ---- what PsyNeuLink's learn() calls

    def infer_backpropagation_learning_pathways(self, *args: Any, **kwargs: Any) -> list:
        """None: the loss is computed from the nodes' values, so that no target nodes are added to the graph."""
        return []

    def _add_dependency(
        self, afferent: Any, sender: Any, projection: Any, receiver: Any, dependencies: dict, queue: Any, comp: Any
    ) -> None:
        """Part of PsyNeuLink's search for what is trained, where this composition is nested in another."""
        new: dict = {}
        super()._add_dependency(afferent, sender, projection, receiver, new, queue, comp)
        dependencies.update(new)
        if new and comp is self:
            nesting().cross(self, dependencies, queue, new)

    def _identify_output_nodes(self, context: Any) -> Any:
        """Nodes that need targets, where this composition is nested in another."""
        return nesting().outputs_of_outer(self)

    def _get_execution_mode(self, execution_mode: Any) -> Any:
        if execution_mode not in (None, pnl.ExecutionMode.PyTorch):
            raise NotTrainable(
                f"learn() of '{self.name}' works in PyTorch mode only; got {execution_mode}. Leave out "
                "execution_mode, or give ExecutionMode.PyTorch."
            )
        return pnl.ExecutionMode.PyTorch

    def _instantiate_optimizer(self, context: Any) -> Any:
        """As the stock method, which knows no RMSprop; Adam works on all parameters in one call where PyTorch can
        (from 2.4 on)."""
        if self.optimizer_type == "rmsprop":
            return self._instantiate_rmsprop(context)
        optimizer = super()._instantiate_optimizer(context)
        if isinstance(optimizer, torch.optim.Adam) and CAN_FUSE:
            for group in [optimizer.defaults, *optimizer.param_groups]:
                group["fused"] = True
        return optimizer

    def _instantiate_rmsprop(self, context: Any) -> Any:
        """PyTorch's, with the groups that the stock method makes: learning rates are those of projections."""
        self.optimizer_type = "sgd"
        try:
            stock = super()._instantiate_optimizer(context)
        finally:
            self.optimizer_type = "rmsprop"
        if stock is None:  # there is nothing to train
            return None
        kept = ("params", "lr", "weight_decay")
        return make_optimizer("rmsprop", [{name: group[name] for name in kept} for group in stock.param_groups])

    def _check_optimizer(self, context: Context) -> None:
        """See that the PyTorch form, if it is there, has the optimiser that ``optimizer_type`` names.

        Raises:
            ValueError: it has been trained with another.
        """
        wrapper = self.parameters.pytorch_representation._get(context, fallback_value=None)
        states = self._state_to_adopt | (wrapper.torch_state() if wrapper is not None else {})
        for state in states.values():
            check_same_optimizer(kind_in_torch(state), self.optimizer_type)
        if wrapper is not None and wrapper.optimizer_type != self.optimizer_type:
            self.parameters.pytorch_representation._set(None, context)
            self._signatures.pop(context.execution_id, None)

    def _build_pytorch_representation(self, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        built = super()._build_pytorch_representation(*args, context=context, **kwargs)
        wrapper = self.parameters.pytorch_representation._get(context)
        wrapper.load_weights(context)
        if self._state_to_adopt:
            wrapper.set_torch_state(self._state_to_adopt)
            self._state_to_adopt = {}
        return built

    def _analyze_graph(self, *args: Any, **kwargs: Any) -> None:
        """As the stock method, which takes some 0.1 s; within ``learn()`` only once."""
        if self._session is None:
            super()._analyze_graph(*args, **kwargs)

    @property
    def _optimization_projections(self) -> set[Any]:
        """As the stock property, a search through all projections; within ``learn()`` made only once."""
        if self._session is None:
            return super()._optimization_projections
        if self._searched is None:
            self._searched = super()._optimization_projections
        return self._searched

    def _get_autodiff_inputs_values(self, input_dict: Mapping[Any, Tensor]) -> Mapping[Any, Tensor]:
        """The inputs as they are; the stock method searches the graph for the INPUT nodes in each trial."""
        return input_dict

    def _choose_path(self, context: Context) -> None:
        """Before ``_begin``; subclasses may have several ways to execute the graph."""

    def _begin(self, wrapper: RecurrentWrapper, inputs: Mapping[Any, Tensor], context: Context) -> None:
        """Before all sequences of a call, {mechanism: (n, T, size)}; subclasses may prepare for them, too."""
        for nested in wrapper.nested:
            nested.begin(context)

    def _execute_sequences(
        self, wrapper: RecurrentWrapper, which: range, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor]
    ) -> Trace:
        """Execute these of the sequences: inputs {mechanism: (B, T, size)}, values before the first step →
        a ``Trace``."""
        if not wrapper.nested:
            return NodeTrace(wrapper, list(wrapper.steps(inputs, before, self._unroll_steps)))
        if self._unroll_steps is not None:
            raise NotTrainable(f"'{self.name}' holds other compositions: unroll_steps must be None.")
        return nesting().execute_around(wrapper, inputs, before)

    @property
    def _unroll_steps(self) -> int | None:
        """Of the session; None where nothing is learned."""
        return None if self._session is None else self._session.unroll_steps

    def _nested_executor(self, wrapper: RecurrentWrapper, context: Context) -> Any:
        """How it is executed where it is nested: a function of (inputs, before) as in ``_execute_sequences``,
        whose course has ``items``, and passes gradients on to the inputs."""
        return lambda inputs, before: NodeTrace(wrapper, list(wrapper.steps(inputs, before)))

    def compute_loss(self, targets: Any, pytorch_rep: RecurrentWrapper, context: Any) -> Tensor:
        """The session's loss of the minibatch."""
        return self._session.loss(pytorch_rep.trials, pytorch_rep.trace.trajectory).reshape(1)

    def autodiff_backward(self, minibatch_loss: Tensor, context: Any) -> None:
        """One step of the optimiser; gradients are shown to the session beforehand."""
        wrapper = self.parameters.pytorch_representation._get(context)
        self._backward(wrapper, minibatch_loss)
        if self._session.max_gradient_norm is not None:
            learned = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(learned, self._session.max_gradient_norm)
        if self._session.wants_gradients:
            self._session.before_update(wrapper.gradients())
        self._steps.step()
        self._session.after_update()

    def _backward(self, wrapper: RecurrentWrapper, loss: Tensor) -> None:
        """Give the parameters their gradients."""
        for group in wrapper.optimizer.param_groups:  # its zero_grad() notes it for a profiler, which takes longer
            for parameter in group["params"]:
                parameter.grad = None
        if loss.requires_grad:
            loss.backward()

    def _next_trials(self, batch: int) -> range:
        which = range(self._cursor, self._cursor + batch)
        self._cursor += batch
        return which

    # ---- training

    def learn(self, inputs: Mapping[Any, Any], loss: Any, *, context: Any = None, **kwargs: Any) -> Any:
        """Train on n sequences of T steps, in their order.

        Args:
            inputs: {INPUT mechanism: (n, T, size)}.
            loss: function (which, values) → tensor of one number, with the trials of the minibatch as a range,
                and each node's values {mechanism: (B, T, size)}; or a ``Session``.
            context: the execution context, by default the composition's own.
            kwargs: further arguments of ``AutodiffComposition.learn``: ``learning_rate``, ``epochs``,
                ``minibatch_size``, ``call_after_minibatch``, ``report_output``, ... The module ``arguments`` has
                a table of all; those that cannot be honoured are refused.

        Logs: where a log condition asks for it, values of mechanisms and their OutputPorts are entered once a
        step, and matrices of projections once a minibatch, as they were when it was executed. An entry's time is
        (run, number of the sequence in this call, 0, step). What else is to be logged, a ``LogWarning`` names.

        Returns:
            What ``AutodiffComposition.learn`` returns: the output of the last minibatch. ``results`` has all;
            while it runs, those of this call alone, afterwards those of earlier calls before them.

        Raises:
            NotTrainable: the PyTorch backend would not execute the graph as ``run()`` does, or would not do what
                an argument says.
            TypeError: an unknown argument.
            ValueError: a number is out of its range, or inputs do not fit each other.
        """
        lengths = {len(values) for values in inputs.values()}
        if len(lengths) != 1:
            raise ValueError(f"learn(): all inputs must have the same number of sequences; got {sorted(lengths)}.")
        (n,) = lengths
        self._check_arguments(kwargs, n)
        epochs = kwargs["epochs"] = kwargs.get("epochs") or 1
        kwargs = {argument: value for argument, value in kwargs.items() if argument in HONOURED}
        session = loss if isinstance(loss, Session) else _FunctionSession(loss, n)
        self._get_execution_mode(kwargs.pop("execution_mode", None))
        tensors = {node: torch.as_tensor(np.asarray(v, dtype=float)) for node, v in inputs.items()}
        for node, values in tensors.items():
            if not values.isfinite().all():
                raise ValueError(f"learn(): the inputs of '{node.name}' must be finite.")
        context = as_context(self, context)
        self._check_optimizer(context)
        self._prepare(context)
        wrapper = self.parameters.pytorch_representation._get(context)
        self._take_log(wrapper, switch_on=bool(kwargs.pop("log", False)))
        self._choose_path(context)
        nesting().supply_defaults(self)
        self._session, self._cursor, self._all_inputs = session, 0, AllInputs(tensors)
        self._steps = Steps(wrapper.optimizer)
        self._begin(wrapper, tensors if epochs == 1 else _repeated(tensors, epochs), context)
        self._reports = kwargs.get("report_output") not in (None, pnl.ReportOutput.OFF)
        results = self.parameters.results
        earlier = results._get(context, fallback_value=[])
        results._set([], context)  # PsyNeuLink copies those of all calls in every call
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PsyNeuLink's, of matters that are settled here
                return super().learn(
                    inputs=self._all_inputs.trials,
                    skip_initialization=True,  # of Parameters in this context: done above
                    randomize_minibatches=False,
                    execution_mode=pnl.ExecutionMode.PyTorch,
                    context=context.execution_id,
                    **kwargs,
                )
        finally:
            # Also after an interruption: PsyNeuLink gets what has been learned so far.
            self.parameters.pytorch_representation.get(context)._copy_weights_to_psyneulink(context)
            results._set(_joined_results(earlier, results._get(context)), context)
            self._session = self._all_inputs = self.learning_log = self._searched = None
            self._reports = False

    def _check_arguments(self, given: Mapping[str, Any], n: int) -> None:
        """Refuse arguments of ``learn()`` that cannot be honoured."""
        reason = refusal(self.name, given, n)
        if reason is None and self.parameters.optimizations_per_minibatch.get() not in (None, 1):
            reason = "optimizations_per_minibatch must be 1: a sequence would be stored repeatedly."
        if reason is not None:
            raise NotTrainable(reason)

    def _show_inputs(self, inputs: Mapping[Any, Tensor], context: Any) -> None:
        """Let reports show the inputs of the last step of a minibatch."""
        for node, values in self._all_inputs.by_node(inputs).items():
            interface, _ = self.input_CIM_ports[node.input_port]
            interface.parameters.value._set(values[-1, -1].numpy().copy(), context, skip_log=True)

    def _take_log(self, wrapper: RecurrentWrapper, switch_on: bool) -> None:
        """See what is to be logged in this call."""
        if self._loggables is None:
            self._loggables = Loggables(mechanisms(self), list(wrapper.projections_map))
        if switch_on:
            self._loggables.switch_on()
        self.learning_log = self._loggables.wanted(self.name)

    def _prepare(self, context: Context) -> None:
        """See that the PyTorch form is there and is that of the graph as it stands now."""
        self._initialize_from_context(context, Context(execution_id=None), override=False)
        wrapper = self.parameters.pytorch_representation._get(context, fallback_value=None)
        if wrapper is not None and wrapper.is_nested:  # the outer composition's
            self.parameters.pytorch_representation._set(None, context)
            self._signatures.pop(context.execution_id, None)
        if self._signatures.get(context.execution_id) == graph_signature(self, context):
            return
        self._loggables = None
        self._analyze_graph()
        self._initialize_from_context(context, Context(execution_id=None), override=False)
        self._keep_optimizer_state(context)
        self.parameters.pytorch_representation._set(None, context)
        self._signatures.pop(context.execution_id, None)
        check_trainable(self)
        for node in mechanisms(
            self
        ):  # functions take their modulable Parameters from ports that only run() updates
            node._update_parameter_ports(context=context)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._build_pytorch_representation(context=context)
            except Exception as error:
                raise NotTrainable(
                    f"PsyNeuLink cannot make the PyTorch form of '{self.name}' as its graph stands now: {error}"
                ) from error
            try:
                check_same_in_both_modes(self, context)
            except NotTrainable:
                raise
            except Exception as error:
                raise NotTrainable(
                    f"The PyTorch form of '{self.name}' cannot be executed as its graph stands now: {error}"
                ) from error
        # Taken now: PsyNeuLink changes "learnable" of some projections when it dissolves nested compositions.
        self._signatures[context.execution_id] = graph_signature(self, context)

    def pytorch_form(self, context: Any) -> Any:
        """PsyNeuLink's PyTorch form in an execution context; None if there is none."""
        return self.parameters.pytorch_representation._get(context, fallback_value=None)

    def torch_states(self, context: Context) -> dict[Any, dict[str, Tensor]]:
        """The optimiser's state in an execution context, by projection."""
        wrapper = self.pytorch_form(context)
        return dict(self._state_to_adopt) | (wrapper.torch_state() if wrapper is not None else {})

    def put_torch_states(self, states: dict, kind: str | None, context: Context) -> None:
        """Take an optimiser's state, by projection, and which optimiser's it is; None: begin anew, with any."""
        wrapper = self.pytorch_form(context)
        if wrapper is not None:
            wrapper.optimizer.state.clear()
        self._state_to_adopt = {}
        if kind is not None and self.optimizer_type in IN_TORCH:
            self.optimizer_type = kind
            self._check_optimizer(context)  # of another kind, the PyTorch form is made anew
        self._state_to_adopt = states
        wrapper = self.pytorch_form(context)
        if wrapper is not None:
            wrapper.set_torch_state(states)

    def _choose_optimizer(self, optimizer: Any, context: Any) -> None:
        if optimizer is None:
            return
        check_optimizer(optimizer)
        if self.optimizer_type not in IN_TORCH:
            raise ValueError(
                f"'{self.name}' was made with optimizer_type={self.optimizer_type!r}, and cannot be trained with "
                f"optimizer={optimizer!r}: call learn() without optimizer, or make it with optimizer_type='adam'."
            )
        before, self.optimizer_type = self.optimizer_type, optimizer
        try:
            self._check_optimizer(context)
        except ValueError:
            self.optimizer_type = before
            raise

    def _keep_optimizer_state(self, context: Context) -> None:
        """Let the next PyTorch form go on from the optimiser's state of the present one."""
        wrapper = self.parameters.pytorch_representation._get(context, fallback_value=None)
        if wrapper is not None:
            self._state_to_adopt = wrapper.torch_state() | self._state_to_adopt


class _FunctionSession(Session):
    """A session whose loss is a function of (which, values)."""

    def __init__(self, function: Any, n: int) -> None:
        self.function, self.n = function, n

    def loss(self, which: range, values: Mapping[Any, Tensor]) -> Tensor:
        first = which.start % self.n  # in every epoch the same sequences
        return self.function(range(first, first + len(which)), values)


def _repeated(inputs: Mapping[Any, Tensor], epochs: int) -> dict[Any, Tensor]:
    """{mechanism: (n, T, size)} → (epochs · n, T, size)."""
    return {node: values.repeat(epochs, 1, 1) for node, values in inputs.items()}


def _joined_results(earlier: Any, new: Any) -> Any:
    """``results`` of earlier calls and of this one; row by row where the output ports have become others."""
    if not len(earlier) or not len(new):
        return earlier if len(earlier) else new
    if np.shape(earlier)[1:] == np.shape(new)[1:]:
        return np.concatenate([earlier, new])
    joined = np.empty(len(earlier) + len(new), dtype=object)
    joined[:] = [*earlier, *new]
    return joined


def as_context(composition: Composition, context: Any) -> Context:
    """A fresh Context with the execution_id that is meant; None is the composition's own."""
    execution_id = getattr(context, "execution_id", context)
    if execution_id is None:
        execution_id = composition.default_execution_id
    return Context(execution_id=execution_id)


# ---- is it the same graph, and the same in both modes? -----------------------------------------------------

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
                _settings(node, context),
                _settings(node.function, context),
                tuple(_settings(port.function, context) for port in ports),
            )
        )
    projections = [
        (id(p), id(p.sender), id(p.receiver), getattr(p, "learnable", None), _settings(p.function, context))
        for p in [*composition._inner_projections, *_self_projections(composition)]
    ]
    conditions = [(id(owner), id(condition)) for owner, condition in _conditions(composition)]
    roles = [
        (id(node), role) for node, role in [*composition.required_node_roles, *composition.excluded_node_roles]
    ]
    return tuple(nodes), tuple(projections), tuple(conditions), tuple(roles)


def _conditions(composition: Composition) -> list[tuple[Any, Any]]:
    """Scheduling conditions that a user has set: (node, condition), and (time scale, condition) for the end."""
    scheduler = composition.scheduler
    default = scheduler.default_termination_conds
    ends = [
        (scale, condition)
        for scale, condition in scheduler._user_specified_termination_conds.items()
        if type(condition) is not type(default.get(scale)) or condition.args
    ]
    return [*scheduler._user_specified_conds.conditions.items(), *ends]


def _self_projections(composition: Composition) -> list[Any]:
    """Projections of nodes to themselves, which PsyNeuLink leaves out of a composition's inner ones."""
    return [
        projection
        for node in composition.nodes
        if not isinstance(node, Composition)
        for port in node.input_ports
        for projection in port.path_afferents
        if projection.sender.owner is node
    ]


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


def memories(composition: Composition) -> list[EpisodicMemory]:
    """The episodic memories of a composition, and of those nested in it."""
    return [node.function for node in mechanisms(composition) if isinstance(node.function, EpisodicMemory)]


def recurrent_projections(composition: Composition) -> list[Any]:
    """Projections that carry values of the step before."""
    return [*composition.feedback_projections, *_self_projections(composition)]


def _settings(component: Any, context: Context) -> tuple:
    values: list[Any] = [type(component), id(component)]
    for parameter in component.parameters:
        if parameter.name in NOT_SETTINGS or parameter.read_only:
            continue
        value = parameter._get(context, fallback_value=None)
        if isinstance(value, np.ndarray) and value.dtype != object:
            values.append((parameter.name, value.shape, value.tobytes()))
        elif isinstance(value, (int, float, str, bool, type(None))):
            values.append((parameter.name, value))
    return tuple(values)


def check_trainable(composition: Composition) -> None:
    """Refuse what the PyTorch form is known to leave out, in words that say what to do instead."""
    for node in composition.nodes:
        if isinstance(node, RecurrentComposition):
            nesting().check_nested(composition, node)
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
    conditions = _conditions(composition)
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


def check_same_in_both_modes(composition: RecurrentComposition, context: Context, steps: int = 2) -> None:
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
    in_python, in_torch = [], []
    composition._initialize_from_context(probe, context, override=True)
    with _filled_memories(composition, probe):

        def begin() -> None:
            if not in_python:
                composition.start_sequence(context=probe)

        def keep() -> None:
            in_python.append({n: _flat(n.parameters.value._get(probe)) for n in mechanisms(composition)})

        composition.run(
            inputs=nesting().inputs_for_run(composition, inputs),
            context=probe.execution_id,
            call_before_trial=begin,
            call_after_trial=keep,
        )
    with _filled_memories(composition, context), torch.no_grad():
        wrapper = composition.parameters.pytorch_representation._get(context)
        sequence = {n: torch.from_numpy(v)[None] for n, v in inputs.items()}
        if wrapper.nested:
            in_torch.extend(nesting().probe(wrapper, sequence))
        for values in [] if wrapper.nested else wrapper.steps(sequence, {}):
            in_torch.append({w.mechanism: torch.cat([i[0, 0] for i in items]) for w, items in values.items()})
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


def start_from(composition: Composition, values: Mapping[Any, np.ndarray], context: Context) -> None:
    """Set what feedback projections carry at the next step of ``run()``: {mechanism: (size,)}, zeros else."""
    for sender in composition.get_nodes_by_role(pnl.NodeRole.FEEDBACK_SENDER):
        default = np.zeros_like(np.asarray(sender.defaults.value, dtype=float))
        sender.initialize(np.asarray(values.get(sender, default)).reshape(default.shape), context)


def get_parameter(mechanism: Any, name: str, execution_id: Any) -> Any:
    parameter = getattr(mechanism.function.parameters, name)
    if not parameter.stateful or execution_id not in parameter.values:
        execution_id = None
    return parameter._get(Context(execution_id=execution_id))


def is_stateful(mechanism: Any, name: str) -> bool:
    return getattr(mechanism.function.parameters, name).stateful


def set_parameter(mechanism: Any, name: str, value: Any, execution_id: Any) -> None:
    """Set a Parameter of a mechanism's function in an execution context."""
    getattr(mechanism.function.parameters, name)._set(value, Context(execution_id=execution_id))
    if execution_id in mechanism.parameters.value.values:  # else run() has not been there
        mechanism._update_parameter_ports(context=Context(execution_id=execution_id))


def inner_projections(composition: Any) -> list[Any]:
    return composition._inner_projections


def value_in_context(node: Any, context: Any) -> np.ndarray:
    return node.parameters.value._get(context)[0].copy()


def warn_user(warning: Warning) -> None:
    warnings.warn(warning, stacklevel=5)
