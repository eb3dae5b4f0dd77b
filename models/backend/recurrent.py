"""``RecurrentComposition``: an ``AutodiffComposition`` that is trained on sequences, its feedback projections
included.

Each work-around of PsyNeuLink here and in the other files of this room has a test in ``tests/test_backend.py``
that fails once PsyNeuLink no longer needs it.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.core.globals.keywords import SHARED_COMPONENT_TYPES
from torch import Tensor

from .access import (
    NotTrainable,
    as_context,
    mechanisms,
    nested_compositions,
    set_matrix,
    setting_contexts,
    start_from,
)
from .arguments import HONOURED, refusal
from .call import Call
from .logs import LearningLog, Loggables, ReadableLog
from .nestable import supply_defaults
from .paths import Paths
from .pictures import ShowRecurrent
from .python_mode import graph_of, quick_run
from .pytorch_form import WithPytorchForm
from .session import FunctionSession, Session
from .wrapper import RecurrentWrapper

CANNOT_BE_COPIED = (
    "'{0}' cannot be {1}: PsyNeuLink's compositions know each other and the session they are made in. Make "
    "another with the same config and give it set_weights(agent.weights()), or save it with "
    "eplstm.models.save_model(agent, folder) and make another from it with load_model(folder)."
)


class RecurrentComposition(WithPytorchForm):
    """An ``AutodiffComposition`` that is trained on sequences, its feedback projections included.

    ``run()`` is PsyNeuLink's own, one of its trials a step. ``learn()`` trains through PsyNeuLink's in PyTorch
    mode: one minibatch of sequences a step of the optimiser.
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
        self.call: Call | None = None
        """The call to ``learn()`` that is going on."""
        self.paths = Paths()
        """By which path it is executed in PyTorch mode."""
        super().__init__(*args, **kwargs)
        self.log = ReadableLog(owner=self)

    def assign_ShowGraph(self, show_graph_attributes: Any) -> None:
        """What draws it: as the stock method's, with feedback dashed."""
        self._show_graph = ShowRecurrent(self, **(show_graph_attributes or {}))

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method; nested, INPUT nodes to which nothing projects have their defaults."""
        if self.call is None:
            supply_defaults(self)
        elif self.call.reports:
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
            self.initialize_context(context)
        for composition in [self, *nested_compositions(self)]:
            start_from(composition, values or {}, context)

    # ---- copies

    def __deepcopy__(self, memo: dict) -> Any:
        """Itself where PsyNeuLink copies a Parameter that holds it; else it cannot be copied."""
        if isinstance(self, memo.get(SHARED_COMPONENT_TYPES) or ()):
            return self
        raise TypeError(CANNOT_BE_COPIED.format(self.name, "copied"))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """It cannot be pickled."""
        raise TypeError(CANNOT_BE_COPIED.format(self.name, "pickled or copied"))

    def load(self, path: Any = None, *args: Any, context: Any = None, **kwargs: Any) -> None:
        """PsyNeuLink's ``load``, which takes a ``Path`` alone, and gives matrices to the context used last
        alone."""
        super().load(Path(path) if isinstance(path, str) else path, *args, context=context, **kwargs)
        matrices = torch.load(self.last_loaded_weights, weights_only=kwargs.get("weights_only", False))
        for projection in self.projections:
            if projection.name in matrices:
                for execution_id in setting_contexts(self, context):
                    set_matrix(projection, np.array(matrices[projection.name], dtype=float), execution_id)

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

    def _get_execution_mode(self, execution_mode: Any) -> Any:
        if execution_mode not in (None, pnl.ExecutionMode.PyTorch):
            raise NotTrainable(
                f"learn() of '{self.name}' works in PyTorch mode only; got {execution_mode}. Leave out "
                "execution_mode, or give ExecutionMode.PyTorch."
            )
        return pnl.ExecutionMode.PyTorch

    def _analyze_graph(self, *args: Any, **kwargs: Any) -> None:
        """As the stock method, which takes some 0.1 s; within ``learn()`` only once."""
        if self.call is None:
            super()._analyze_graph(*args, **kwargs)

    @property
    def _optimization_projections(self) -> set[Any]:
        """As the stock property, a search through all projections; within ``learn()`` made only once."""
        if self.call is None:
            return super()._optimization_projections
        if self.call.searched is None:
            self.call.searched = super()._optimization_projections
        return self.call.searched

    def _get_autodiff_inputs_values(self, input_dict: Mapping[Any, Tensor]) -> Mapping[Any, Tensor]:
        """The inputs as they are; the stock method searches the graph for the INPUT nodes in each trial."""
        return input_dict

    def compute_loss(self, targets: Any, pytorch_rep: RecurrentWrapper, context: Any) -> Tensor:
        """The session's loss of the minibatch."""
        return self.call.path.loss()

    def autodiff_backward(self, minibatch_loss: Tensor, context: Any) -> None:
        """One update, if it is finite."""
        call = self.call
        call.path.backward(minibatch_loss)
        finite = bool(minibatch_loss.isfinite().all())
        wrong = call.path.not_finite() if finite else []
        if not finite or wrong:
            raise call.session.not_finite(call.wrapper.sequences, wrong)
        call.update()

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
            NotFinite: an update would not be finite. It is not made: matrices, optimiser, memories, ``results``
                and the session are as the update before has left them, also after any other exception, or Ctrl-C.
            TypeError: an unknown argument.
            ValueError: a number is out of its range, or inputs do not fit each other.
        """
        lengths = {len(values) for values in inputs.values()}
        if len(lengths) != 1:
            raise ValueError(f"learn(): all inputs must have the same number of sequences; got {sorted(lengths)}.")
        (n,) = lengths
        self._check_arguments(kwargs, n)
        kwargs["epochs"] = kwargs.get("epochs") or 1
        kwargs = {argument: value for argument, value in kwargs.items() if argument in HONOURED}
        session = loss if isinstance(loss, Session) else FunctionSession(loss, n)
        self._get_execution_mode(kwargs.pop("execution_mode", None))
        tensors = {node: torch.as_tensor(np.asarray(v, dtype=float)) for node, v in inputs.items()}
        for node, values in tensors.items():
            if not values.isfinite().all():
                raise ValueError(f"learn(): the inputs of '{node.name}' must be finite.")
        context = as_context(self, context)
        self.check_optimizer(context)
        signature = self.prepare(context)
        log = self._wanted_log(self.pytorch_form(context), switch_on=bool(kwargs.pop("log", False)))
        reports = kwargs.get("report_output") not in (None, pnl.ReportOutput.OFF)
        supply_defaults(self)
        self.call = Call(self, session, tensors, log, reports, context)
        try:
            self.call.path = self.paths.to_learn(self.call, signature, context)
            for nested in self.call.wrapper.nested:
                nested.begin(context)
            with warnings.catch_warnings():
                # PsyNeuLink's own, of matters that are settled here
                warnings.filterwarnings("ignore", module=r"psyneulink\.|eplstm\.models\.backend")
                return super().learn(
                    inputs=self.call.inputs.trials,
                    skip_initialization=True,  # of Parameters in this context: done above
                    randomize_minibatches=False,
                    execution_mode=pnl.ExecutionMode.PyTorch,
                    context=context.execution_id,
                    **kwargs,
                )
        finally:
            self.call.end()
            self.call = None

    def _check_arguments(self, given: Mapping[str, Any], n: int) -> None:
        """Refuse arguments of ``learn()`` that cannot be honoured."""
        reason = refusal(self.name, given, n)
        if reason is None and self.parameters.optimizations_per_minibatch.get() not in (None, 1):
            reason = "optimizations_per_minibatch must be 1: a sequence would be stored repeatedly."
        if reason is not None:
            raise NotTrainable(reason)

    def _show_inputs(self, inputs: Mapping[Any, Tensor], context: Any) -> None:
        """Let reports show the inputs of the last step of a minibatch."""
        for node, values in self.call.inputs.by_node(inputs).items():
            interface, _ = self.input_CIM_ports[node.input_port]
            interface.parameters.value._set(values[-1, -1].numpy().copy(), context, skip_log=True)

    def _wanted_log(self, wrapper: RecurrentWrapper, switch_on: bool) -> LearningLog | None:
        """What is to be logged in this call."""
        if wrapper.loggables is None:
            wrapper.loggables = Loggables(mechanisms(self), list(wrapper.projections_map))
        if switch_on:
            wrapper.loggables.switch_on()
        return wrapper.loggables.wanted(self.name)
