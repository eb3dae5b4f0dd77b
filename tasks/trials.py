"""A block of trials: the one form in which a task without action-dependence hands its stimuli to a model.

A *trial* is a sequence of T steps; a *block* is the trials between two clearings of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

MAX_ACTIONS = 10_000
"""Targets from here on are taken for a mistake."""


@dataclass(frozen=True, eq=False)
class Trials:
    """n trials of T steps each.

    ``inputs``, ``targets`` and ``encode`` suffice to make one; everything else describes the trials. The
    arrays are checked and converted once, here, and must not be changed afterwards.

    Raises:
        ValueError: a shape, a value or a length does not fit; the message says which.
    """

    inputs: np.ndarray
    """(n, T, D) float: what the agent sees at each step, x_t."""
    targets: np.ndarray
    """(n, T) int: the action that is rewarded at each step."""
    encode: np.ndarray
    """(n, T) bool: the steps at which the agent stores (key, cell state)."""
    retrieve: np.ndarray = field(default=None)  # type: ignore[assignment]
    """(n, T) bool: the steps at which the memory is read; where it is False, m_t is zero. All by default."""
    context: np.ndarray | None = None
    """(n,) int: which context a trial shows."""
    encounter: np.ndarray | None = None
    """(n,) int: how often the context has been seen, this trial included (1, 2, ...)."""
    noise_off: int | None = None
    """First step with evidence about the target, if the task has one."""

    def __post_init__(self) -> None:
        inputs = np.asarray(self.inputs, dtype=float)
        if inputs.ndim != 3:
            raise ValueError(f"Trials: inputs must have the shape (n, T, D); got {inputs.shape}.")
        if 0 in inputs.shape[1:]:
            raise ValueError(f"Trials: inputs need at least one step and one column; got {inputs.shape}.")
        if not np.isfinite(inputs).all():
            n, t, d = np.argwhere(~np.isfinite(inputs))[0]
            raise ValueError(
                f"Trials: inputs must be finite; inputs[{n}, {t}, {d}] is {inputs[n, t, d]}. "
                "Replace or drop missing values before making Trials."
            )
        shape = inputs.shape[:2]
        targets = np.asarray(self.targets)
        wrong = targets[~np.isin(targets, np.arange(MAX_ACTIONS))]
        if wrong.size:
            raise ValueError(
                f"Trials: targets must be whole numbers from 0 (the rewarded actions); got {wrong.flat[0]}."
            )
        retrieve = np.ones(shape, bool) if self.retrieve is None else self.retrieve
        arrays = {
            "inputs": inputs,
            "targets": targets.astype(np.int64),
            "encode": _as_switch("encode", self.encode),
            "retrieve": _as_switch("retrieve", retrieve),
        }
        for name, array in arrays.items():
            if array.shape[:2] != shape or (name != "inputs" and array.ndim != 2):
                raise ValueError(
                    f"Trials: {name} must have the shape (n, T) = {shape} of the inputs; got {array.shape}."
                )
            object.__setattr__(self, name, array)
        for name in ("context", "encounter"):
            labels = getattr(self, name)
            if labels is None:
                continue
            labels = np.asarray(labels)
            if labels.shape != shape[:1]:
                raise ValueError(f"Trials: {name} must have the shape (n,) = {shape[:1]}; got {labels.shape}.")
            object.__setattr__(self, name, labels)
        if self.noise_off is not None and not isinstance(self.noise_off, (int, np.integer)):
            raise ValueError(f"Trials: noise_off must be a whole number or None; got {self.noise_off!r}.")

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, which: Any) -> Trials:
        """The trials chosen by a slice, a mask or a list of indices, in that order."""
        if isinstance(which, (int, np.integer)):
            one = f"[{int(which)}:{int(which) + 1}]"
            raise TypeError(f"Trials: use a slice such as {one} to get Trials of one trial.")
        if isinstance(which, tuple):
            raise TypeError("Trials: one index chooses trials; to cut steps, make new Trials.")
        return replace(
            self,
            **{
                f.name: getattr(self, f.name)[which]
                for f in fields(self)
                if isinstance(getattr(self, f.name), np.ndarray)
            },
        )

    @property
    def length(self) -> int:
        """Steps in a trial, T."""
        return self.inputs.shape[1]

    @property
    def input_size(self) -> int:
        """Input columns, D."""
        return self.inputs.shape[2]

    def lesioned(self, *, retrieve: bool = True, encode: bool = True) -> Trials:
        """The same trials with retrieval or encoding switched off at every step."""
        return replace(self, retrieve=self.retrieve & retrieve, encode=self.encode & encode)


def _as_switch(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype != bool:
        wrong = array[~np.isin(array, (0, 1))]
        if wrong.size:
            raise ValueError(f"Trials: {name} must hold booleans (or 0 and 1); got {wrong.flat[0]}.")
        array = array.astype(bool)
    return array


def concatenate(blocks: list[Trials]) -> Trials:
    """One ``Trials`` with the trials of all blocks, in order (descriptions only where every block has them)."""
    if not blocks:
        raise ValueError("concatenate: needs at least one block of trials; got none.")

    def join(name: str):
        parts = [getattr(block, name) for block in blocks]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    names = ("inputs", "targets", "encode", "retrieve", "context", "encounter")
    noise_off = {block.noise_off for block in blocks}
    return Trials(
        **{name: join(name) for name in names},  # type: ignore[arg-type]
        noise_off=noise_off.pop() if len(noise_off) == 1 else None,
    )
