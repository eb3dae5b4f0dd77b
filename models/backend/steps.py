"""The general path: the nodes of a graph, as PsyNeuLink's PyTorch backend executes them, step by step.

A *trace* is what happened in a minibatch: the value of each node at all steps. Here it is kept step by step; other
traces (``nesting``, and that of an agent's fast path) have it from elsewhere.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.library.compositions.pytorchwrappers import PytorchMechanismWrapper
from torch import Tensor


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

    lengths: np.ndarray | None = None
    """Steps of each sequence, (B,) int; None: all."""

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper

    @property
    def rounds(self) -> Sequence[Trace]:
        """What was executed one after the other, of which this is made."""
        return [self]

    def items(self, node: Any) -> list[Tensor]:
        """A node's value at all steps, item by item: [(B, T, size), ...]."""
        raise NotImplementedError

    @property
    def trajectory(self) -> Mapping[Any, Tensor]:
        """{mechanism: (B, T, size)}: the first item of each value."""
        return _Trajectory(self)

    def last_values(self) -> dict[Any, list[Tensor]]:
        """{node's wrapper: its value at the last step, item by item, each (B, 1, size)}."""
        nodes = self.wrapper.nodes_map.items()
        return {w: [self._last(item)[:, None] for item in self.items(node)] for node, w in nodes}

    def output(self, mechanism: Any, item: int) -> Tensor:
        """An item of a node's value at the last step: (B, size)."""
        return self._last(self.items(mechanism)[item])

    def _last(self, values: Tensor) -> Tensor:
        """(B, T, size) → (B, size): those of each sequence's last step."""
        if self.lengths is None:
            return values[:, -1]
        return values[torch.arange(len(values)), torch.from_numpy(self.lengths) - 1]


class Rounds(Trace):
    """What happened in several rounds of sequences one after the other, as one: their rows in this order."""

    def __init__(self, wrapper: Any, rounds: Sequence[Trace]) -> None:
        super().__init__(wrapper)
        self._rounds = rounds

    @property
    def rounds(self) -> Sequence[Trace]:
        """As they were executed."""
        return self._rounds

    def items(self, node: Any) -> list[Tensor]:
        """A node's value at all steps, item by item: [(B, T, size), ...]."""
        return [torch.cat(parts) for parts in zip(*(r.items(node) for r in self._rounds), strict=True)]

    def last_values(self) -> dict[Any, list[Tensor]]:
        """{node's wrapper: its value at the last step}, of the last round."""
        return self._rounds[-1].last_values()


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

    def __init__(self, wrapper: Any, steps: list[dict[Any, list[Tensor]]] | None = None) -> None:
        super().__init__(wrapper)
        self.steps: list[dict[Any, list[Tensor]]] = steps or []

    def items(self, node: Any) -> list[Tensor]:
        """A node's value at all steps, item by item: [(B, T, size), ...]."""
        wrapper = self.wrapper.nodes_map[node]
        return [torch.cat(items, dim=1) for items in zip(*(values[wrapper] for values in self.steps), strict=True)]

    def last_values(self) -> dict[Any, list[Tensor]]:
        """{node's wrapper: its value at the last step}."""
        if self.lengths is not None:
            return super().last_values()
        return self.steps[-1] if self.steps else {}


def plan_node(composition: Any, wrapper: Any) -> Node:
    """A node as it is executed at each step, from PsyNeuLink's wrapper of it."""
    external = composition.get_nodes_by_role(pnl.NodeRole.INPUT)
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


def mark_identity(wrapper: Any) -> None:
    """Note of a projection's wrapper whether it is a fixed one-to-one projection, as many are, which needs no
    product of matrices."""
    function, matrix = wrapper.projection.function, wrapper.matrix.detach().numpy()
    plain = type(function) is pnl.MatrixTransform and not function.normalize and not wrapper.matrix.requires_grad
    square = matrix.shape[0] == matrix.shape[1]
    wrapper.is_identity = bool(plain and square and np.array_equal(matrix, np.eye(len(matrix))))
