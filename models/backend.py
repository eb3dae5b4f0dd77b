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
from contextlib import contextmanager
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

from .memory import EntryRing, EpisodicMemory

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


# ---- the steps of a sequence -------------------------------------------------------------------------------


class Session:
    """What a call to ``learn()`` needs for each minibatch besides its inputs; subclass it for a task.

    The composition asks for the trials in the order in which it is trained on them.
    """

    def begin(self, which: range) -> dict[Any, Tensor]:
        """Values of nodes before the first step of these trials: {mechanism: (B, size)}; others start at 0."""
        return {}

    def loss(self, which: range, values: Mapping[Any, Tensor]) -> Tensor:
        """Loss (one number) of these trials, from each node's values {mechanism: (B, T, size)}."""
        raise NotImplementedError

    def before_update(self, gradients: Mapping[Any, np.ndarray]) -> None:
        """Called before each step of the optimiser with {projection: gradient}, if ``wants_gradients``."""

    wants_gradients = False


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
            parts.append(external[:, :, 0])
        if not parts:
            batch = next(iter(values.values()))[0].shape[0]
            parts.append(port.constant.expand(batch, 1, -1))
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


class RecurrentWrapper(PytorchCompositionWrapper):
    """The PyTorch form of a ``RecurrentComposition``: a pass through the graph for each step of a sequence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plan = [
            [self._plan_node(wrapper) for wrapper in sorted(set_, key=lambda w: w.name)]
            for set_ in self.execution_sets
        ]
        self.all_output_values = None

    def _get_composition_projections(self, composition: Any) -> list[Any]:
        return super()._get_composition_projections(composition) + _self_projections(composition)

    def _plan_node(self, wrapper: PytorchMechanismWrapper) -> Node:
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
        self, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor]
    ) -> Iterator[dict[Any, list[Tensor]]]:
        """Values of all nodes at each step, by wrapper.

        Args:
            inputs: {mechanism: (B, T, 1, 1, size)}.
            before: {mechanism: (B, size)}: values before the first step; zeros for the rest.
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
            for execution_set in self._plan:
                # All of a set see the values from before the set, as in Python mode.
                new = {}
                for node in execution_set:
                    external = inputs.get(node.wrapper.mechanism)
                    step = None if external is None else external[:, t : t + 1, 0]
                    new[node.wrapper] = node.execute(values, step)
                values = {**values, **new}
            yield values

    def forward(self, inputs: Mapping[Any, Tensor], *args: Any, context: Any = None, **kwargs: Any) -> Any:
        """Execute the sequences of a minibatch; what the loss needs is kept for ``compute_loss``."""
        if args or kwargs.get("optimization_num"):
            raise NotTrainable("optimizations_per_minibatch must be 1: a sequence would be stored repeatedly.")
        composition = self.composition
        batch = len(next(iter(inputs.values())))
        which = composition._next_trials(batch)
        course = list(self.steps(inputs, composition._session.begin(which)))
        self._batch_size = batch
        self.trajectory = {
            wrapper.mechanism: torch.cat([values[wrapper][0] for values in course], dim=1)
            for wrapper in self.node_wrappers
        }
        self._trials = which
        self._leave_values(course[-1] if course else {})
        self._log(context)
        return self._outputs()

    def _leave_values(self, values: Mapping[Any, list[Tensor]]) -> None:
        """Keep the last step's values where PsyNeuLink looks for them."""
        for wrapper, items in values.items():
            sizes = {item.shape[-1] for item in items}
            if len(sizes) == 1:
                wrapper.output = torch.stack(items, dim=2)
            else:
                wrapper.output = [[[item[b, 0] for item in items]] for b in range(len(items[0]))]

    def _log(self, context: Any) -> None:
        source = context.source
        context.source = pnl.ContextFlags.COMMAND_LINE  # logs are updated whatever the time step
        self.log_values()
        self.log_weights()
        context.source = source

    def _outputs(self) -> np.ndarray:
        """Values of the output ports at the last step, for ``results``: (B, ports, ...)."""
        cim = self.composition.output_CIM
        outputs = []
        for port in cim.input_ports:
            source, mechanism, _ = cim._get_source_info_from_output_CIM(port)
            item = mechanism.output_ports.index(source)
            output = self.nodes_map[mechanism].output
            rows = output[:, 0, item] if isinstance(output, Tensor) else [b[0][item] for b in output]
            outputs.append([row.detach().numpy().tolist() for row in rows])
        self.all_output_values = convert_to_np_array(outputs).swapaxes(0, 1)
        return self.all_output_values

    def copy_node_variables_and_values_to_psyneulink(self, options: dict, context: Any = None) -> None:
        """Give each mechanism and its output ports the values of the last step, in the shapes of Python mode."""
        for mechanism, wrapper in self.nodes_map.items():
            output = wrapper.output
            if output is None:
                continue
            items = output[-1, 0] if isinstance(output, Tensor) else output[-1][0]
            value = convert_to_np_array([item.detach().numpy().copy() for item in items])
            mechanism.parameters.value._set(value, context)
            mechanism._update_output_ports(context=context)
        if self.all_output_values is not None:
            self.composition.output_CIM.execute(self.all_output_values[-1], context=context)

    def _copy_weights_to_psyneulink(self, context: Any = None) -> None:
        """As the stock method, without the transpositions: PsyNeuLink gets matrices of its own."""
        for wrapper in self.projections_map.values():
            set_matrix(wrapper.projection, wrapper.matrix.detach().numpy().copy(), context)

    def load_weights(self, context: Any) -> None:
        """Take all matrices from PsyNeuLink: ``run()`` or the user may have changed them."""
        with torch.no_grad():
            for wrapper in self.projections_map.values():
                matrix = get_matrix(wrapper.projection, context)
                wrapper.matrix.copy_(torch.from_numpy(matrix))
                # Fixed one-to-one projections, of which there are many, need no product of matrices.
                wrapper.is_identity = not wrapper.matrix.requires_grad and _is_identity(wrapper, matrix)

    def adam_state(self) -> dict[Any, dict[str, Tensor]]:
        """The optimiser's state by projection."""
        if self.optimizer is None:
            return {}
        return {
            wrapper.projection: self.optimizer.state[wrapper.matrix]
            for wrapper in self.projections_map.values()
            if self.optimizer.state.get(wrapper.matrix)
        }

    def set_adam_state(self, states: Mapping[Any, dict[str, Tensor]]) -> None:
        """Take the optimiser's state for those projections that are here and have the same form."""
        for wrapper in self.projections_map.values():
            state = states.get(wrapper.projection)
            if state and state["exp_avg"].shape == wrapper.matrix.shape:
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
    return np.array(parameter.get(execution_id if known else None), dtype=float)


def _is_identity(wrapper: Any, matrix: np.ndarray) -> bool:
    plain = type(wrapper.projection.function) is pnl.MatrixTransform and not wrapper.projection.function.normalize
    return plain and matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)))


def set_matrix(projection: Any, matrix: np.ndarray, context: Any = None) -> None:
    """Set a projection's matrix in a context, without the loss of dimensions of size 1 that PsyNeuLink has."""
    context = context if isinstance(context, Context) else Context(execution_id=context)
    projection.parameters.matrix._set(matrix, context)
    projection.parameter_ports["matrix"].parameters.value._set(matrix, context)


# ---- the composition ---------------------------------------------------------------------------------------


class RecurrentComposition(pnl.AutodiffComposition):
    """An ``AutodiffComposition`` that is trained on sequences, its feedback projections included.

    ``run()`` is PsyNeuLink's own, one of its trials a step. ``learn_sequences()`` trains through PsyNeuLink's
    ``learn()`` in PyTorch mode: one minibatch of sequences a step of the optimiser.
    """

    pytorch_composition_wrapper_type = RecurrentWrapper

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "loss_spec" in kwargs or "targets" in kwargs:
            raise ValueError(
                "A RecurrentComposition takes its loss in learn(), not as loss_spec or targets of the constructor."
            )
        self._session: Session | None = None
        self._cursor = 0
        self._signatures: dict[Any, Any] = {}
        self._adam_to_adopt: dict[Any, dict[str, Tensor]] = {}
        super().__init__(*args, **kwargs)

    # ---- what PsyNeuLink's learn() calls

    def infer_backpropagation_learning_pathways(self, *args: Any, **kwargs: Any) -> list:
        """None: the loss is computed from the nodes' values, so that no target nodes are added to the graph."""
        return []

    def _get_execution_mode(self, execution_mode: Any) -> Any:
        if execution_mode not in (None, pnl.ExecutionMode.PyTorch):
            raise NotTrainable(
                f"learn() of '{self.name}' works in PyTorch mode only; got {execution_mode}. Leave out "
                "execution_mode, or give ExecutionMode.PyTorch."
            )
        return pnl.ExecutionMode.PyTorch

    def _build_pytorch_representation(self, *args: Any, context: Any = None, **kwargs: Any) -> None:
        super()._build_pytorch_representation(*args, context=context, **kwargs)
        wrapper = self.parameters.pytorch_representation._get(context)
        wrapper.load_weights(context)
        if self._adam_to_adopt:
            wrapper.set_adam_state(self._adam_to_adopt)
            self._adam_to_adopt = {}

    def compute_loss(self, targets: Any, pytorch_rep: RecurrentWrapper, context: Any) -> Tensor:
        """The session's loss of the minibatch."""
        return self._session.loss(pytorch_rep._trials, pytorch_rep.trajectory).reshape(1)

    def autodiff_backward(self, minibatch_loss: Tensor, context: Any) -> None:
        """One step of the optimiser; gradients are shown to the session beforehand."""
        wrapper = self.parameters.pytorch_representation._get(context)
        wrapper.optimizer.zero_grad()
        if minibatch_loss.requires_grad:
            minibatch_loss.backward()
        if self._session.wants_gradients:
            self._session.before_update(wrapper.gradients())
        wrapper.optimizer.step()

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
            kwargs: further arguments of ``AutodiffComposition.learn``: learning_rate, minibatch_size,
                call_after_minibatch, ... ``epochs``, ``num_trials``, ``patience``, ``min_delta``,
                ``targets``, ``termination_processing`` and ``randomize_minibatches`` are refused: repeat, permute
                or leave out sequences in ``inputs`` instead.

        Returns:
            What ``AutodiffComposition.learn`` returns: the output of the last minibatch.

        Raises:
            NotTrainable: the PyTorch backend would not execute the graph as ``run()`` does.
        """
        for name, allowed in (
            ("epochs", (None, 1)),
            ("randomize_minibatches", (None, False)),
            ("num_trials", (None, len(next(iter(inputs.values()), ())))),
            ("patience", (None,)),
            ("min_delta", (None, 0)),
            ("targets", (None,)),
            ("termination_processing", (None,)),
        ):
            if kwargs.pop(name, None) not in allowed:
                raise NotTrainable(
                    f"learn() of '{self.name}' takes the sequences in their order, once, and its loss as a "
                    f"function: {name} is not supported. Repeat, permute or leave out sequences in inputs instead."
                )
        if kwargs.get("optimizations_per_minibatch", self.parameters.optimizations_per_minibatch.get()) not in (
            None,
            1,
        ):
            raise NotTrainable("optimizations_per_minibatch must be 1: a sequence would be stored repeatedly.")
        session = loss if isinstance(loss, Session) else _FunctionSession(loss)
        self._get_execution_mode(kwargs.pop("execution_mode", None))
        tensors = {node: torch.as_tensor(np.asarray(v, dtype=float)) for node, v in inputs.items()}
        for node, values in tensors.items():
            if not values.isfinite().all():
                raise ValueError(f"learn(): the inputs of '{node.name}' must be finite.")
        lengths = {len(values) for values in tensors.values()}
        if len(lengths) != 1:
            raise ValueError(f"learn(): all inputs must have the same number of sequences; got {sorted(lengths)}.")
        trials = [{node: values[n] for node, values in tensors.items()} for n in range(lengths.pop())]

        context = as_context(self, context)
        self._prepare(context)
        self._session, self._cursor = session, 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PsyNeuLink's, of matters that are settled here
                return super().learn(
                    inputs=trials,
                    randomize_minibatches=False,
                    execution_mode=pnl.ExecutionMode.PyTorch,
                    context=context.execution_id,
                    **kwargs,
                )
        finally:
            # Also after an interruption: PsyNeuLink gets what has been learned so far.
            self.parameters.pytorch_representation.get(context)._copy_weights_to_psyneulink(context)
            self._session = None

    def _prepare(self, context: Context) -> None:
        """See that the PyTorch form is there and is that of the graph as it stands now."""
        self._analyze_graph()
        self._initialize_from_context(context, Context(execution_id=None), override=False)
        signature = graph_signature(self, context)
        if self._signatures.get(context.execution_id) == signature:
            return
        wrapper = self.parameters.pytorch_representation._get(context, fallback_value=None)
        if wrapper is not None:
            self._adam_to_adopt = wrapper.adam_state() | self._adam_to_adopt
            self.parameters.pytorch_representation._set(None, context)
        self._signatures.pop(context.execution_id, None)
        check_trainable(self)
        for node in self.nodes:  # functions take their modulable Parameters from ports that only run() updates
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
        self._signatures[context.execution_id] = signature


class _FunctionSession(Session):
    """A session whose loss is a function of (which, values)."""

    def __init__(self, function: Any) -> None:
        self.loss = function  # type: ignore[method-assign]


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
            nodes.append((id(node),))
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
    return tuple(nodes), tuple(projections), tuple(conditions)


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
        if isinstance(node, Composition):
            raise NotTrainable(
                f"'{composition.name}' holds the composition '{node.name}', which its learn() cannot execute "
                "step by step. Add that composition's nodes themselves, or train it on its own."
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
        memories = [node for node in execution_set if isinstance(node.function, EpisodicMemory)]
        retrieving = {id(node.function): node for node in memories}
        for node in execution_set:
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
        for node in composition.get_nodes_by_role(pnl.NodeRole.INPUT)
    }
    in_python, in_torch = [], []
    composition._initialize_from_context(probe, context, override=True)
    with _filled_memories(composition, probe):

        def begin() -> None:
            if not in_python:
                start_from(composition, {}, probe)

        def keep() -> None:
            in_python.append({n: _flat(n.parameters.value._get(probe)) for n in composition.nodes})

        composition.run(
            inputs=inputs,
            context=probe.execution_id,
            call_before_trial=begin,
            call_after_trial=keep,
        )
    with _filled_memories(composition, context), torch.no_grad():
        wrapper = composition.parameters.pytorch_representation._get(context)
        sequence = {n: torch.from_numpy(v)[None, :, None, None] for n, v in inputs.items()}
        for values in wrapper.steps(sequence, {}):
            in_torch.append({w.mechanism: torch.cat([i[0, 0] for i in items]) for w, items in values.items()})
    composition._delete_contexts(probe)
    composition._propagate_most_recent_context(context)
    _compare_modes(composition, in_python, in_torch)


def _compare_modes(composition: Composition, in_python: list[dict], in_torch: list[dict]) -> None:
    for step, (python, pytorch) in enumerate(zip(in_python, in_torch, strict=True)):
        for node in (n for set_ in composition.scheduler.consideration_queue for n in set_):
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


def _flat(value: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(item, dtype=float)) for item in value])


@contextmanager
def _filled_memories(composition: Composition, context: Context) -> Iterator[None]:
    """Three random entries in each memory, in place of what it holds in this context, for the time being."""
    rng = np.random.default_rng(1)
    functions = [n.function for n in composition.nodes if isinstance(n.function, EpisodicMemory)]
    kept = [function.ring(context) for function in functions]
    for function, ring in zip(functions, kept, strict=True):
        filled = EntryRing([f.shape[1] for f in ring.fields], ring.limit)
        for _ in range(3):
            filled.append([rng.standard_normal(f.shape[1]) for f in ring.fields])
        function._rings[context.execution_id] = filled
    try:
        yield
    finally:
        for function, ring in zip(functions, kept, strict=True):
            function._rings[context.execution_id] = ring


def start_from(composition: Composition, values: Mapping[Any, np.ndarray], context: Context) -> None:
    """Set what feedback projections carry at the next step of ``run()``: {mechanism: (size,)}, zeros else."""
    for sender in composition.get_nodes_by_role(pnl.NodeRole.FEEDBACK_SENDER):
        default = np.zeros_like(np.asarray(sender.defaults.value, dtype=float))
        sender.initialize(np.asarray(values.get(sender, default)).reshape(default.shape), context)
