"""The memory and what stores in it, as PsyNeuLink's PyTorch backend calls them."""

from __future__ import annotations

from typing import Any

import psyneulink as pnl
import torch
from psyneulink.core.components.functions.function import FunctionError
from torch import Tensor


class FieldwiseCall:
    """A function of several fields for PsyNeuLink's PyTorch backend, which may hand them over one by one.

    The backend calls a mechanism's function once with (batch, step, field, size) if all its ports have one size;
    if not, once for each port with (batch, step, size), in order, and takes what each call returns as that
    port's output. ``on_fields`` takes all at once, as a list.
    """

    def __init__(self, n_fields: int) -> None:
        self.n_fields = n_fields
        self._waiting: list[Tensor] = []

    def on_fields(self, fields: list[Tensor]) -> list[Tensor]:
        """Compute on the fields, each (batch, step, size)."""
        raise NotImplementedError

    def on_part(self, fields: list[Tensor]) -> Tensor:
        """What a call returns that came with field number len(fields) - 1, before all are there."""
        raise NotImplementedError

    def __call__(self, variable: Tensor) -> Tensor:
        """The function as PsyNeuLink calls it: on all fields at once, or on the next one."""
        if variable.ndim == 4:
            return torch.stack(self.on_fields(list(variable.unbind(2))), dim=2)
        self._waiting.append(variable)
        if len(self._waiting) < self.n_fields:
            return self.on_part(self._waiting)
        fields, self._waiting = self._waiting, []
        return self.on_fields(fields)[-1]


class PytorchMemory(FieldwiseCall):
    """``EpisodicMemory`` in PyTorch mode: the steps of a trial one after the other; each trial of a batch in an
    environment, and so with entries, of its own."""

    def __init__(self, memory: Any, execution_id: Any) -> None:
        super().__init__(len(memory.defaults.variable))
        self.memory, self.execution_id = memory, execution_id

    def on_fields(self, fields: list[Tensor]) -> list[Tensor]:
        """Retrieve and store for each trial and step: fields (batch, step, size) → the same."""
        batch, steps = fields[0].shape[:2]
        context = pnl.Context(execution_id=self.execution_id)
        rows = [
            self.memory.step([f[b, s] for f in fields], context, self.memory.first_environment + b)
            for b in range(batch)
            for s in range(steps)
        ]
        return [torch.stack(parts).view(batch, steps, -1) for parts in zip(*rows, strict=True)]

    def on_part(self, fields: list[Tensor]) -> Tensor:
        """What is retrieved for the fields so far, which must be those that count."""
        context = pnl.Context(execution_id=self.execution_id)
        weights = self.memory.field_weights(context)
        here, later = len(fields) - 1, weights[len(fields) :]
        batch, steps = fields[0].shape[:2]
        if any(later) or batch * steps > 1:
            raise FunctionError(
                f"{self.memory.label}: in this composition its fields have unequal sizes and reach it one by "
                "one. This works for one step of one trial at a time, with the fields that count in the "
                "distance before the others; otherwise give all fields the same size, or use "
                "eplstm.models.RecurrentComposition."
            )
        return self.memory.match([f[0, 0] for f in fields] + [None] * len(later), context)[here].view(1, 1, -1)


class PytorchStore(FieldwiseCall):
    """``StoreEntry`` in PyTorch mode; what is stored is detached, unless the memory ``follows``."""

    def __init__(self, function: Any, execution_id: Any) -> None:
        super().__init__(len(function.defaults.variable))
        self.store, self.execution_id = function, execution_id

    def on_fields(self, fields: list[Tensor]) -> list[Tensor]:
        """Store for each trial, in its environment, and step: fields (batch, step, size) → the switch."""
        *entry, switch = fields
        context, memory = pnl.Context(execution_id=self.execution_id), self.store.memory
        for b, s in torch.nonzero(switch[..., 0] > 0.5).tolist():
            memory.store_entry([f[b, s] for f in entry], context, memory.first_environment + b)
        return [switch]

    def on_part(self, fields: list[Tensor]) -> Tensor:
        """Nothing is stored before the switch is there."""
        return fields[-1]
