"""PsyNeuLink's PyTorch form of a ``RecurrentComposition``: a pass through the graph for each step of a sequence.

It keeps what PsyNeuLink provides (the PyTorch form of each function, the matrices as parameters, the optimiser,
learning rates by projection, the synchronisation) and replaces one thing: where the stock wrapper makes one pass
through the graph, this one makes a pass for each step of a sequence, in the order of the scheduler, with feedback
projections that carry the values of the step before. It executes the graph as it stands, node by node.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from psyneulink.library.compositions.pytorchwrappers import PytorchCompositionWrapper, PytorchMechanismWrapper
from torch import Tensor

from ..optimizers import check_same_optimizer, kind_in_torch
from .access import NotTrainable, get_matrix, self_projections, set_matrix, set_value
from .around import execute_around, has_state
from .nesting import NestedMechanismWrapper, NestedNode
from .steps import Node, NodeTrace, Rounds, Trace, mark_identity, plan_node


class RecurrentWrapper(PytorchCompositionWrapper):
    """The PyTorch form of a ``RecurrentComposition``: a pass through the graph for each step of a sequence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("outer_creator") is not None:  # it takes the place of the composition's own
            kwargs["composition"].keep_state(kwargs["context"])
        super().__init__(*args, **kwargs)
        self.plan = [
            [self._as_executed(wrapper) for wrapper in sorted(set_, key=lambda w: w.name)]
            for set_ in self.execution_sets
        ]
        self.nested = [node for set_ in self.plan for node in set_ if isinstance(node, NestedNode)]
        self.has_state = has_state(self.composition)
        self.optimizer_type = getattr(self.composition, "optimizer_type", None)
        self.all_output_values = None
        self.trace: Any = None
        """What happened in the last minibatch."""
        self.has_given = False
        """Whether PsyNeuLink has the matrices as they are after the last update."""
        self.loggables: Any = None
        """All that can be logged, once it has been sought."""
        self._output_sources = self._plan_outputs()
        cim = self.composition.output_CIM
        self._in_results = np.array([not cim._sender_is_probe(port) for port in cim.output_ports])
        """Which values of the output ports ``results`` holds: as of ``run()``, not of PROBE nodes."""
        if self.is_nested:
            self.as_node = NestedNode(self)
            self.execution_sets = [{self.as_node}]

    def _pytorch_mechanism_wrapper_type(self, mechanism: Any) -> Any:
        stock = super()._pytorch_mechanism_wrapper_type(mechanism)
        return NestedMechanismWrapper if self.is_nested and stock is PytorchMechanismWrapper else stock

    def _get_composition_projections(self, composition: Any) -> list[Any]:
        return super()._get_composition_projections(composition) + self_projections(composition)

    def _as_executed(self, wrapper: Any) -> Node | NestedNode:
        return wrapper if isinstance(wrapper, NestedNode) else plan_node(self.composition, wrapper)

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
            for execution_set in self.plan:
                # All of a set see the values from before the set, as in Python mode.
                new = {}
                for node in execution_set:
                    external = inputs.get(node.wrapper.mechanism)
                    step = None if external is None else external[:, t : t + 1]
                    new[node.wrapper] = node.execute(values, step)
                values = {**values, **new}
            yield values

    def execute_sequences(
        self, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor], unroll: int | None = None
    ) -> Trace:
        """Execute B sequences node by node; arguments as of ``steps``."""
        if not self.nested:
            return NodeTrace(self, list(self.steps(inputs, before, unroll)))
        if unroll is not None:
            raise NotTrainable(f"'{self.composition.name}' holds other compositions: unroll_steps must be None.")
        return execute_around(self, inputs, before)

    def probe(self, inputs: Mapping[Any, Tensor]) -> list[dict[Any, Tensor]]:
        """Values of all nodes, {mechanism: (size,)}, at each step of one sequence, node by node in any case."""
        if not self.nested:
            steps = self.steps(inputs, {})
            return [{w.mechanism: torch.cat([i[0, 0] for i in items]) for w, items in s.items()} for s in steps]
        for nested in self.nested:
            nested.begin_node_by_node()
        trace = execute_around(self, inputs, {})
        items = {node: trace.items(node) for node in self.nodes_map}
        return [
            {node: torch.cat([value[0, t] for value in values]) for node, values in items.items()}
            for t in range(next(iter(inputs.values())).shape[1])
        ]

    def forward(self, inputs: Mapping[Any, Tensor], *args: Any, context: Any = None, **kwargs: Any) -> Any:
        """Execute the sequences of a minibatch; what the loss needs is kept for ``compute_loss``."""
        if args or kwargs.get("optimization_num"):
            raise NotTrainable("optimizations_per_minibatch must be 1: a sequence would be stored repeatedly.")
        call = self.composition.call
        which, by_node = call.next_sequences(inputs)
        lengths = call.session.lengths(which)
        if lengths is not None:
            by_node = {node: values[:, : lengths.max()] for node, values in by_node.items()}
        rounds = call.session.rounds(which)
        if len(rounds) == 1:
            trace = call.path.execute(which, by_node, call.session.begin(which))
        else:
            trace = Rounds(self, [self._execute_round(each, which, by_node, lengths) for each in rounds])
        trace.lengths = lengths
        # Straight into the dict: torch.nn.Module takes its time to set an attribute.
        self.__dict__.update(sequences=which, _batch_size=len(which), trace=trace)
        if call.log is not None:
            call.log.enter(which, trace, self, context)
        outputs = self._outputs(call.session.width)
        if call.reports:
            self.copy_node_variables_and_values_to_psyneulink({}, context)
        return outputs

    def _execute_round(
        self, some: range, which: range, by_node: Mapping[Any, Tensor], lengths: np.ndarray | None
    ) -> Trace:
        """Execute some of the sequences of a minibatch."""
        rows = slice(some.start - which.start, some.stop - which.start)
        own, call = {node: values[rows] for node, values in by_node.items()}, self.composition.call
        trace = call.path.execute(some, own, call.session.begin(some))
        trace.lengths = None if lengths is None else lengths[rows]
        return trace

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

    def _outputs(self, width: int) -> np.ndarray:
        """Values of the output ports at the last step, for ``results``: (B, ports, ...); of so many sequences that
        stand for one of the inputs, those of the first."""
        items = [self.trace.output(mechanism, item).detach() for mechanism, item in self._output_sources]
        if width > 1:
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
        """As the stock method, without the transpositions."""
        self.give_weights(context)

    def give_weights(self, context: Any) -> None:
        """Give PsyNeuLink all matrices, copies of its own."""
        for wrapper in self.projections_map.values():
            set_matrix(wrapper.projection, wrapper.matrix.detach().numpy().copy(), context)
        self.__dict__["has_given"] = True

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

    def gradients_not_finite(self) -> list[str]:
        """Names of the projections whose gradients are not finite, or whose squares are not, which optimisers
        keep."""
        return [p.name for p, gradient in self.gradients().items() if not np.isfinite(np.vdot(gradient, gradient))]
