"""What differs in PsyNeuLink's PyTorch form from person to person: functions of mechanisms, and fixed matrices."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from psyneulink.library.compositions.pytorchwrappers import PytorchFunctionWrapper

from .access import get_matrix
from .steps import mark_identity


@dataclass(eq=False)
class Form:
    """Parts of a PyTorch form that can take the place of others.

    PsyNeuLink gives its PyTorch functions the values that Parameters have when they are made.
    """

    functions: dict[Any, Any]
    """By the wrapper of a mechanism."""
    matrices: dict[Any, torch.nn.Parameter]
    """By the wrapper of a projection."""

    @classmethod
    def as_it_is(cls, wrapper: Any, mechanisms: Iterable[Any], projections: Iterable[Any]) -> Form:
        """The parts for some mechanisms and fixed projections as a composition's PyTorch form has them."""
        nodes = [wrapper.nodes_map[mechanism] for mechanism in mechanisms]
        edges = [wrapper.projections_map[projection] for projection in projections]
        return cls({node: node.function for node in nodes}, {edge: edge.matrix for edge in edges})

    def made_anew(self, context: Any) -> Form:
        """The same parts as the Parameters in an execution context would have them now."""
        functions = {}
        for node in self.functions:
            node.mechanism._update_parameter_ports(context=context)  # they take Parameters from there
            functions[node] = PytorchFunctionWrapper(node.mechanism.function, "cpu", context)
        matrices = {
            edge: torch.nn.Parameter(torch.tensor(get_matrix(edge.projection, context)), requires_grad=False)
            for edge in self.matrices
        }
        return Form(functions, matrices)

    def put(self) -> None:
        """Let the composition's PyTorch form have these parts."""
        for node, function in self.functions.items():
            node.function = function
        for edge, matrix in self.matrices.items():
            edge.matrix = matrix
            mark_identity(edge)
