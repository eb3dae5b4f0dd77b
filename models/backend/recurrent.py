"""``RecurrentComposition``: an ``AutodiffComposition`` that is trained on sequences, its feedback projections included.

Each work-around of PsyNeuLink here and in the other files of this room has a test in ``tests/test_backend.py`` that
fails once PsyNeuLink no longer needs it.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.core.globals.context import Context
from torch import Tensor

from ..optimizers import Steps
from .access import (
    NotTrainable,
    as_context,
    mechanisms,
    memories,
    nested_compositions,
    outermost,
    start_from,
)
from .arguments import HONOURED, refusal
from .logs import LearningLog, Loggables, ReadableLog
from .nesting import cross, execute_around, outputs_of_outer, supply_defaults, take_over_state
from .optimizer import WithOptimizer
from .python_mode import graph_of, quick_run
from .same_modes import check_same_in_both_modes, check_trainable, graph_signature
from .session import FunctionSession, Session
from .steps import NodeTrace, Trace
from .wrapper import AllInputs, RecurrentWrapper

CANNOT_BE_COPIED = (
    "'{0}' cannot be {1}: PsyNeuLink's compositions know each other and the session they are made in. Make another with "
    "the same config and give it set_weights(agent.weights()), or save it with eplstm.models.save_model(agent, folder) "
    "and make another from it with load_model(folder)."
)


class RecurrentComposition(WithOptimizer, pnl.AutodiffComposition):
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
        self._banks: list[Any] = []
        self._updating = False
        self._steps: Steps | None = None
        self._all_inputs: AllInputs | None = None
        self._reports = False
        self.learning_log: LearningLog | None = None
        self._loggables: Loggables | None = None
        self._cursor = 0
        self._signatures: dict[Any, Any] = {}
        self._took_over: set[Any] = set()
        self._searched: set[Any] | None = None
        super().__init__(*args, **kwargs)
        self.log = ReadableLog(owner=self)

    # ---- where it is nested in another composition

    @property
    def default_execution_id(self) -> Any:
        """Execution context of calls that name none: the outermost composition's, where this one is nested."""
        outer = outermost(self)
        return self._own_execution_id if outer is self else outer.default_execution_id

    @default_execution_id.setter
    def default_execution_id(self, value: Any) -> None:
        self._own_execution_id = value

    def _initialize_from_context(self, context: Context, *args: Any, **kwargs: Any) -> None:
        """As the stock method; what it had in its own context goes on in the outer's when it is nested."""
        shared = self.default_execution_id
        if context.execution_id == shared != self._own_execution_id and shared not in self._took_over:
            self._took_over.add(shared)
            take_over_state(self, self._own_execution_id, context)
            self.move_state(self._own_execution_id, context)
        super()._initialize_from_context(context, *args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method; nested, INPUT nodes to which nothing projects have their defaults."""
        if self._session is None:
            supply_defaults(self)
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

    # ---- copies

    def __deepcopy__(self, memo: dict) -> Any:
        """Itself, where PsyNeuLink copies what holds it; a copy of its own cannot be made."""
        if memo:
            return self
        raise TypeError(CANNOT_BE_COPIED.format(self.name, "copied"))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """It cannot be pickled."""
        raise TypeError(CANNOT_BE_COPIED.format(self.name, "pickled or copied"))

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
            cross(self, dependencies, queue, new)

    def _identify_output_nodes(self, context: Any) -> Any:
        """Nodes that need targets, where this composition is nested in another."""
        return outputs_of_outer(self)

    def _get_execution_mode(self, execution_mode: Any) -> Any:
        if execution_mode not in (None, pnl.ExecutionMode.PyTorch):
            raise NotTrainable(
                f"learn() of '{self.name}' works in PyTorch mode only; got {execution_mode}. Leave out "
                "execution_mode, or give ExecutionMode.PyTorch."
            )
        return pnl.ExecutionMode.PyTorch

    def _build_pytorch_representation(self, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        built = super()._build_pytorch_representation(*args, context=context, **kwargs)
        wrapper = self.pytorch_form(context)
        wrapper.load_weights(context)
        self.adopt_state(wrapper, context)
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
        return execute_around(wrapper, inputs, before)

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
        wrapper = self.pytorch_form(context)
        self._backward(wrapper, minibatch_loss)
        finite = bool(minibatch_loss.isfinite().all())
        wrong = self._gradients_not_finite(wrapper) if finite else []
        if not finite or wrong:
            raise self._session.not_finite(wrapper.trials, wrong)
        if self._session.max_gradient_norm is not None:
            learned = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(learned, self._session.max_gradient_norm)
        if self._session.wants_gradients:
            self._session.before_update(wrapper.gradients())
        self._steps.step()
        self._updating = False
        self._session.after_update()

    def _gradients_not_finite(self, wrapper: RecurrentWrapper) -> list[str]:
        """Names of the projections whose gradients are not finite."""
        return [projection.name for projection, g in wrapper.gradients().items() if not np.isfinite(g).all()]

    def _backward(self, wrapper: RecurrentWrapper, loss: Tensor) -> None:
        """Give the parameters their gradients."""
        for group in wrapper.optimizer.param_groups:  # its zero_grad() notes it for a profiler, which takes longer
            for parameter in group["params"]:
                parameter.grad = None
        if loss.requires_grad:
            loss.backward()

    def next_trials(self, batch: int) -> range:
        """The trials of the next minibatch; from here on until its update, what is stored can be undone."""
        for bank in self._banks:
            bank.begin_update()
        self._updating = True
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
        session = loss if isinstance(loss, Session) else FunctionSession(loss, n)
        self._get_execution_mode(kwargs.pop("execution_mode", None))
        tensors = {node: torch.as_tensor(np.asarray(v, dtype=float)) for node, v in inputs.items()}
        for node, values in tensors.items():
            if not values.isfinite().all():
                raise ValueError(f"learn(): the inputs of '{node.name}' must be finite.")
        context = as_context(self, context)
        self.check_optimizer(context)
        self._prepare(context)
        wrapper = self.parameters.pytorch_representation._get(context)
        self._take_log(wrapper, switch_on=bool(kwargs.pop("log", False)))
        self._choose_path(context)
        supply_defaults(self)
        self._session, self._cursor, self._all_inputs = session, 0, AllInputs(tensors)
        self._steps = Steps(wrapper.optimizer)
        self._banks = [function.bank(context) for function in memories(self)]
        self._begin(wrapper, tensors if epochs == 1 else _repeated(tensors, epochs), context)
        self._reports = kwargs.get("report_output") not in (None, pnl.ReportOutput.OFF)
        results = self.parameters.results
        earlier = results._get(context, fallback_value=[])
        results._set([], context)  # PsyNeuLink copies those of all calls in every call
        try:
            with warnings.catch_warnings():
                # PsyNeuLink's own, of matters that are settled here
                warnings.filterwarnings("ignore", module=r"psyneulink\.|eplstm\.models\.backend")
                return super().learn(
                    inputs=self._all_inputs.trials,
                    skip_initialization=True,  # of Parameters in this context: done above
                    randomize_minibatches=False,
                    execution_mode=pnl.ExecutionMode.PyTorch,
                    context=context.execution_id,
                    **kwargs,
                )
        finally:
            # Also after an interruption: PsyNeuLink gets what has been learned so far, and no memory has more.
            for bank in self._banks:
                bank.end_update(undo=self._updating)
            self.parameters.pytorch_representation.get(context)._copy_weights_to_psyneulink(context)
            results._set(_joined_results(earlier, results._get(context)), context)
            self._session = self._all_inputs = self.learning_log = self._searched = None
            self._reports = self._updating = False
            self._banks = []

    def _is_as_prepared(self, context: Context) -> bool:
        return self._signatures.get(context.execution_id) == graph_signature(self, context)

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
        wrapper = self.pytorch_form(context)
        if wrapper is not None and wrapper.is_nested:  # the outer composition's
            self.parameters.pytorch_representation._set(None, context)
            self._signatures.pop(context.execution_id, None)
        if self.pytorch_form(context) is not None and self._is_as_prepared(context):
            return
        self._loggables = None
        self._analyze_graph()
        self._initialize_from_context(context, Context(execution_id=None), override=False)
        self.drop_pytorch_form(context)
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
