"""A ``RecurrentComposition`` with others nested in it, as its own ``learn()`` executes them."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from psyneulink.core.components.functions.stateful.statefulfunction import StatefulFunction
from psyneulink.core.compositions.composition import Composition
from torch import Tensor

from ..encoding import StoreEntry
from .access import recurrent_projections
from .nesting import NestedNode
from .steps import Trace


class OuterTrace(Trace):
    """The values of all nodes at all steps of a minibatch, the nested ones included.

    Args:
        wrapper: the PyTorch form of the outer composition.
        parts: for each stretch of steps the values of the outer's own nodes, {wrapper: [(B, steps, size), ...]},
            and what happened in the nested ones, {NestedNode: trace}.
    """

    def __init__(self, wrapper: Any, parts: list[tuple[dict, dict]]) -> None:
        super().__init__(wrapper)
        self.parts = parts
        self._owners = {mechanism: nested for nested in wrapper.nested for mechanism in nested.wrapper.nodes_map}

    def items(self, node: Any) -> list[Tensor]:
        """A node's value at all steps, item by item: [(B, T, size), ...]."""
        nested, wrapper = self._owners.get(node), self.wrapper.nodes_map[node]
        parts = [own[wrapper] if nested is None else traces[nested].items(node) for own, traces in self.parts]
        return parts[0] if len(parts) == 1 else [torch.cat(items, dim=1) for items in zip(*parts, strict=True)]


def execute_around(wrapper: Any, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor]) -> OuterTrace:
    """Execute a ``RecurrentComposition`` with others nested in it.

    All steps at once where no node of its own needs a value of the step before; else one after the other.

    Args:
        wrapper: its PyTorch form.
        inputs: {mechanism, its own or a nested one: (B, T, size)}.
        before: {mechanism, likewise: (B, size)}: values before the first step; zeros for the rest.
    """
    batch, length = next(iter(inputs.values())).shape[:2]
    steps = 1 if wrapper.has_state else length
    inside = {node for nested in wrapper.nested for node in nested.wrapper.nodes_map}
    values = {
        each: [torch.zeros(batch, steps, np.size(item), dtype=torch.float64) for item in node.defaults.value]
        for node, each in wrapper.nodes_map.items()
        if node not in inside
    }
    values |= {
        wrapper.nodes_map[n]: [v[:, None].expand(-1, steps, -1)] for n, v in before.items() if n not in inside
    }
    parts = []
    for start in range(0, length, steps):
        now = {node: value[:, start : start + steps] for node, value in inputs.items()}
        traces = {}
        for execution_set in wrapper.plan:
            new: dict[Any, list[Tensor]] = {}
            for node in execution_set:
                if not isinstance(node, NestedNode):
                    new[node.wrapper] = node.execute(values, now.get(node.wrapper.mechanism))
                    continue
                value_of = partial(_value_of, values)
                entering = node.gather(value_of, now, (batch, steps))
                own = node.wrapper.nodes_map
                first = {n: v for n, v in before.items() if n in own} if start == 0 else None
                traces[node] = node.run(entering, first)
                new |= {own[n]: traces[node].items(n) for n in node.leaving()}
            values = values | new
        parts.append(({w: v for w, v in values.items() if w.mechanism not in inside}, traces))
    return OuterTrace(wrapper, parts)


def has_state(composition: Composition) -> bool:
    """Whether a node of a composition, apart from those nested in it, depends on earlier steps."""
    nodes = [node for node in composition.nodes if not isinstance(node, Composition)]
    return bool(recurrent_projections(composition)) or any(
        isinstance(node.function, (StatefulFunction, StoreEntry)) for node in nodes
    )


def _value_of(values: Mapping[Any, list[Tensor]], projection: Any) -> Tensor:
    """What a projection's wrapper takes from its sender: (B, steps, size)."""
    return values[projection.sender_wrapper][projection._value_idx]
