"""A function of several fields, as PsyNeuLink's PyTorch backend calls it."""

from __future__ import annotations

import torch
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
