"""A ``RecurrentComposition`` as a node of another composition: how PsyNeuLink's PyTorch backend executes it there.

PsyNeuLink dissolves a nested composition into its nodes, and would execute them one by one, without the values of
the step before. Here it stays whole: to the outer composition it is one node (``NestedNode``), which takes what
the outer's nodes project to its INPUT nodes, executes it step by step, and hands on the values of those of its
nodes that project out of it. Its projections keep PsyNeuLink's wrappers: they are parameters of the outer's
optimiser.

Two kinds of outer composition can train it:

- ``RecurrentComposition``: ``learn(inputs, loss)`` on sequences, with any loss of the values of all nodes, its
  own and the nested ones'. Each sequence begins anew.
- PsyNeuLink's ``AutodiffComposition``, with targets. Given as trials (``full_sequence_mode=False``), each is a
  step that goes on from the trial before, as in ``run()``; a minibatch of trials is one update, to which each step
  contributes its loss. Given as sequences (``full_sequence_mode=True``), each begins anew, and PsyNeuLink's loss
  is that of its last step.

A nested composition has its state (matrices, memory, values) in the execution context of the outermost one.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.library.compositions.pytorchwrappers import PytorchMechanismWrapper
from torch import Tensor

from .access import (
    NotTrainable,
    default_of,
    exits,
    get_matrix,
    recurrent_projections,
    set_matrix,
)
from .access import (
    set_value as give_value,
)
from .same_modes import TOO_DEEP, check_nested, check_not_recurrent, check_trainable, graph_signature
from .steps import Trace, mark_identity

# ---- the nested composition as one node ----------------------------------------------------------------------


class NestedNode:
    """A nested composition as one node of the outer's PyTorch form: what PsyNeuLink asks of a node's wrapper.

    Args:
        wrapper: the PyTorch form of the nested composition.
    """

    exclude_from_gradient_calc = False
    mechanism = None
    _is_input = _is_bias = _is_output = False

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper
        self.composition: Any = wrapper.composition
        self.name = wrapper.name
        self.trace: Any = None
        """What happened in the last minibatch."""
        self._own = set(wrapper.projections_map.values())
        self._inputs = self.composition.get_nodes_by_role(pnl.NodeRole.INPUT)
        self._carried = {p.sender.owner for p in recurrent_projections(self.composition)}
        self._matrices: dict[Any, np.ndarray] = {}  # PsyNeuLink's, as this call to learn() found them
        self._gave_back = True  # whether PsyNeuLink has what was learned since
        self._signature: Any = None
        self.is_first = True
        """Whether no minibatch of this call to the outer's ``learn()`` has been executed yet."""
        for mechanism in wrapper.nodes_map.values():
            mechanism.nested_node = self
        for projection in wrapper.projections_map.values():
            projection._copy_torch_params_to_pnl_proj = partial(self._give_back, projection)

    def entering(self) -> Iterator[tuple[Any, Any]]:
        """INPUT nodes, each with the wrappers of the outer's projections to it."""
        for node in self._inputs:
            yield node, [p for p in self.wrapper.nodes_map[node].afferents if p not in self._own]

    def leaving(self) -> list[Any]:
        """Nodes whose values are used outside."""
        return [node for node, _ in exits(self.composition)]

    def gather(
        self, value_of: Callable[[Any], Tensor], external: Mapping[Any, Tensor], shape: tuple[int, int]
    ) -> dict[Any, Tensor]:
        """Inputs of the nested composition, {INPUT mechanism: (B, T, size)}; as in ``run()``, else defaults.

        Args:
            value_of: wrapper of an outer projection → its sender's value, (B, T, size).
            external: what the outer was given for nested INPUT nodes, {mechanism: (B, T, size)}.
            shape: B and T.
        """
        inputs = {}
        for node, projections in self.entering():
            parts = [projection.function(value_of(projection), projection.matrix) for projection in projections]
            if node in external:
                parts.append(external[node])
            if not parts:
                parts.append(torch.from_numpy(default_of(node.input_port)).expand(*shape, -1))
            inputs[node] = sum(parts[1:], start=parts[0])
        return inputs

    def begin(self, context: Any) -> None:
        """Before all minibatches of a call to the outer's ``learn()``."""
        self._execute = self.composition.paths.nested(self.wrapper, context)

    def begin_node_by_node(self) -> None:
        """The same, for an execution of the graph as it stands in any case."""
        self._execute = self.wrapper.execute_sequences

    def run(self, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor] | None) -> Trace:
        """Execute: inputs {mechanism: (B, T, size)}; values before the first step {mechanism: (B, size)}, zeros
        for the rest, or None to go on from the last call. → a ``Trace``."""
        self.trace = self._execute(inputs, self._state() if before is None else before)
        return self.trace

    def _state(self) -> dict[Any, Tensor]:
        """What the next step goes on from: {mechanism: (B, size)}."""
        return {node: self.trace.items(node)[0][:, -1] for node in self._carried}

    # ---- as PsyNeuLink's AutodiffComposition calls it

    def collect_afferents(self, batch_size: int, port: Any = None, inputs: Any = None) -> dict[Any, Tensor]:
        """What the outer's nodes, and its inputs, give to the INPUT nodes: {mechanism: (B, T, size)}."""
        given = {getattr(key, "owner", key): value for key, value in inputs.items()}
        external = {node: given[node].flatten(2) for node in self._inputs if node in given}
        return self.gather(_value_in_stock_wrapper, external, next(iter(inputs.values())).shape[:2])

    def execute_input_ports(self, variable: Any) -> Any:
        """Nothing: the ports of the INPUT nodes are executed with them."""
        return variable

    def execute(
        self,
        variable: Mapping[Any, Tensor],
        optimization_num: int | None = None,
        synch_with_pnl_options: Any = None,
        sequence_lengths: Any = None,
        context: Any = None,
    ) -> None:
        """Execute on what ``collect_afferents`` gave, and leave values where the outer's projections take them."""
        outer = self.wrapper.outer_creator
        if outer.outer_creator is not None:
            raise NotTrainable(TOO_DEEP.format(self.composition.name, outer.composition.name))
        if self.is_first:
            self._begin_learning(outer, context)
        if optimization_num:
            raise NotTrainable("optimizations_per_minibatch must be 1: a sequence would be stored repeatedly.")
        if sequence_lengths:
            raise NotTrainable(
                f"'{self.composition.name}' takes sequences of one length; those given to "
                f"'{outer.composition.name}' have "
                f"{sorted({int(n) for each in _lengths(sequence_lengths) for n in each})}. Give them in calls to "
                "learn() of their own, by length."
            )
        if outer._full_sequence_mode:
            trace = self.run(variable, None if outer._current_seq_index else {})
            self._leave(trace, lambda value: value)
        else:
            steps = next(iter(variable.values())).shape[1]
            if steps != 1:
                raise NotTrainable(
                    f"'{outer.composition.name}' was given sequences of {steps} steps. Make it with "
                    "full_sequence_mode=True, or give its inputs as a dict, of which each trial is a step."
                )
            as_sequence = {node: value.transpose(0, 1) for node, value in variable.items()}
            trace = self.run(as_sequence, self._last_trial(context))
            self._leave(trace, lambda value: value.transpose(0, 1))
            for node, value in self._state().items():
                node.output_port.parameters.value._set(value[0].detach().numpy().copy(), context)

    def _leave(self, trace: Trace, form: Callable[[Tensor], Tensor]) -> None:
        for node in self.leaving():
            items = trace.items(node)
            self.wrapper.nodes_map[node].output = torch.stack([form(i) for i in items], dim=2)

    def _last_trial(self, context: Any) -> dict[Any, Tensor]:
        """What the next step of ``run()`` goes on from: {mechanism: (1, size)}."""
        values = {node: node.output_port.parameters.value._get(context) for node in self._carried}
        return {node: torch.tensor(np.ravel(value), dtype=torch.float64)[None] for node, value in values.items()}

    def _begin_learning(self, outer: Any, context: Any) -> None:
        """For an outer that is not a ``RecurrentComposition``, which sees to this in its own ``learn()``."""
        self.is_first = False
        signature = graph_signature(self.composition, context)
        if self._signature is None:
            check_nested(outer.composition, self.composition)
            check_not_recurrent(outer.composition, self.composition)
            check_trainable(self.composition)
            self._signature = signature
        elif signature != self._signature:
            raise NotTrainable(
                f"The graph of '{self.composition.name}' has changed since '{outer.composition.name}' learned, of "
                "which PsyNeuLink keeps the PyTorch form. Make the outer composition anew, or make it a "
                "RecurrentComposition, which follows such changes."
            )
        self._take_matrices(context)
        self.begin(context)

    def _take_matrices(self, context: Any) -> None:
        """Take the matrices from PsyNeuLink. Where it was not given back what was learned, because the last call
        was interrupted or was told not to, only those that were set since."""
        with torch.no_grad():
            for projection, wrapper in self.wrapper.projections_map.items():
                matrix, found = get_matrix(projection, context), self._matrices.get(projection)
                if self._gave_back or not np.array_equal(matrix, found):
                    wrapper.matrix.copy_(torch.from_numpy(matrix))
                self._matrices[projection] = matrix
                mark_identity(wrapper)
        self._gave_back = False

    def _give_back(self, wrapper: Any, context: Any) -> None:
        """Give PsyNeuLink a matrix as it is now; the stock method loses dimensions of size 1."""
        set_matrix(wrapper.projection, wrapper.matrix.detach().numpy().copy(), context)
        self._gave_back = True

    def last_value(self, node: Any) -> list[np.ndarray]:
        """A node's value at the last step of the last sequence, item by item, (size,)."""
        return [item[-1, -1].detach().numpy().copy() for item in self.trace.items(node)]


def _lengths(sequence_lengths: Any) -> list[Any]:
    return list(sequence_lengths.values()) if isinstance(sequence_lengths, Mapping) else [sequence_lengths]


class NestedMechanismWrapper(PytorchMechanismWrapper):
    """A node of a nested composition, which is executed by its ``NestedNode``."""

    nested_node: NestedNode

    def set_pnl_variable_and_values(self, set_variable: bool = False, set_value: bool = True, context: Any = None):
        """Give the mechanism and its output ports the values of the last step, in the shapes of Python mode."""
        if set_value and self.nested_node.trace is not None:
            give_value(self.mechanism, self.nested_node.last_value(self.mechanism), context)

    def log_value(self) -> None:
        """Log the values of the minibatch, as the stock method."""
        if self.mechanism.parameters.value.log_condition != pnl.LogCondition.OFF:
            self.output = torch.stack(self.nested_node.trace.items(self.mechanism), dim=2)
            super().log_value()


def _value_in_stock_wrapper(projection: Any) -> Tensor:
    """The value (B, T, size) that a projection of a stock AutodiffComposition takes from its sender."""
    output, item = projection.sender_wrapper.output, projection._value_idx
    if isinstance(output, Tensor):
        return output[:, :, item]
    return torch.stack([torch.stack([step[item] for step in row]) for row in output])
