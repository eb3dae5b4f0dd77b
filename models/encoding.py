"""Storing an entry whose value exists only after the retrieval that it depends on, by a mechanism of its own."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.core.components.functions.function import Function_Base, FunctionError
from psyneulink.core.globals.parameters import Parameter, check_user_specified
from torch import Tensor

from .fieldwise import FieldwiseCall
from .memory import EpisodicMemory


class StoreEntry(Function_Base):
    """Store an entry in an ``EpisodicMemory`` if a switch says so.

    Its variable is the entry's fields followed by the switch (1,): above .5, the entry is stored. Its value is
    the switch.

    Args:
        memory: the ``EpisodicMemory`` to store in.
        default_variable: the form of the variable, such as ``[[0] * K, [0] * H, [0]]``.
    """

    componentName = "StoreEntry"
    componentType = "StorageFunction"

    class Parameters(Function_Base.Parameters):
        """variable: the fields and the switch."""

        variable = Parameter([[0], [0], [0]], pnl_internal=True, constructor_argument="default_variable")

    @check_user_specified
    def __init__(
        self,
        memory: EpisodicMemory | None = None,
        default_variable: Any = None,
        params: Any = None,
        owner: Any = None,
        prefs: Any = None,
    ) -> None:
        self.memory = memory
        super().__init__(default_variable=default_variable, params=params, owner=owner, prefs=prefs)

    def _function(self, variable: Any = None, context: Any = None, params: Any = None) -> np.ndarray:
        *entry, switch = variable
        if not self.is_initializing and float(np.squeeze(switch)) > 0.5:
            self.memory.store_entry(entry, context)
        return np.atleast_2d(np.asarray(switch, dtype=float))

    def _gen_pytorch_fct(self, device: Any, context: Any = None) -> PytorchStore:
        return PytorchStore(self, getattr(context, "execution_id", context))


class PytorchStore(FieldwiseCall):
    """``StoreEntry`` in PyTorch mode; what is stored is detached, unless the memory ``follows``."""

    def __init__(self, function: StoreEntry, execution_id: Any) -> None:
        super().__init__(len(function.defaults.variable))
        self.store, self.execution_id = function, execution_id

    def on_fields(self, fields: list[Tensor]) -> list[Tensor]:
        """Store for each trial, in its environment, and step: fields (batch, step, size) → the switch."""
        *entry, switch = fields
        context, memory = pnl.Context(execution_id=self.execution_id), self.store.memory
        for b, s in torch.nonzero(switch[..., 0] > 0.5).tolist():
            memory.store_tensors([f[b, s] for f in entry], context, memory.first_environment + b)
        return [switch]

    def on_part(self, fields: list[Tensor]) -> Tensor:
        """Nothing is stored before the switch is there."""
        return fields[-1]


class EncodingMechanism(pnl.ProcessingMechanism):
    """Stores an entry in the memory of an ``EpisodicMemoryMechanism`` at the steps that its switch says.

    For entries that exist only after a retrieval (such as a cell state that depends on it): let the memory
    retrieve without storing (``storage_prob=0``), and project key, value and switch to this mechanism.

    Args:
        memory: an ``EpisodicMemoryMechanism`` whose function is an ``EpisodicMemory``.
        port_names: names of the input ports: the fields of an entry, and the switch.
        name: the mechanism's.

    Raises:
        FunctionError: the memory's function is not an ``EpisodicMemory``.
    """

    @check_user_specified
    def __init__(
        self,
        memory: pnl.EpisodicMemoryMechanism | None = None,
        port_names: Sequence[str] = ("key", "value", "encode"),
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        function = getattr(memory, "function", None)
        if not isinstance(function, EpisodicMemory):
            raise FunctionError(
                "EncodingMechanism: memory must be an EpisodicMemoryMechanism whose function is an "
                f"EpisodicMemory; got {memory!r}."
            )
        variable = [np.zeros(np.size(part)) for part in function.defaults.variable] + [np.zeros(1)]
        ports = [pnl.InputPort(name=port, variable=part) for port, part in zip(port_names, variable, strict=True)]
        super().__init__(
            input_ports=ports,
            function=StoreEntry(memory=function, default_variable=variable),
            name=name,
            **kwargs,
        )
        # It needs no receiver: what it does is to store.
        self.output_port.parameters.require_projection_in_composition._set(False, pnl.Context(), override=True)
