"""A block of trials: the one form in which a task without action-dependence hands its stimuli to a model.

A *trial* is a sequence of T steps; a *block* is the trials between two clearings of the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

MAX_ACTIONS = 10_000
"""Targets from here on are taken for a mistake."""
NO_ANSWER = -1
"""In place of a target: no answer is asked for at this step. In place of an action: no choice was made."""


@dataclass(frozen=True, eq=False)
class Trials:
    """n trials of at most T steps each.

    ``inputs``, ``targets`` and ``encode`` suffice to make one; everything else describes the trials. The
    arrays are checked and converted once, here, and must not be changed afterwards.

    **Steps without an answer** (a target of -1) are seen, and may store and retrieve. No choice is made there: the
    action is -1, also where forced actions say otherwise, and earns nothing. They are no part of the actor's loss,
    its entropy bonus included, or of cross-entropy; they are part of the critic's, as returns go back through
    them: v_t goes on predicting R_t.

    **Steps beyond the end** of a trial that is shorter than T are filling, and what is given for them is not
    looked at: here they are filled with zeros, and neither ask for an answer nor store nor retrieve. Nothing
    depends on them.

    Raises:
        ValueError: a shape, a value or a length does not fit; the message says which.
    """

    inputs: np.ndarray
    """(n, T, D) float: what the agent sees at each step, x_t."""
    targets: np.ndarray
    """(n, T) int: the right action at each step; -1 where no answer is asked for. (Where ``rewards`` say what
    actions pay and none is right, any, such as the best: only with -1 is there no choice.)"""
    encode: np.ndarray
    """(n, T) bool: the steps at which the agent stores (key, cell state)."""
    retrieve: np.ndarray = field(default=None)  # type: ignore[assignment]
    """(n, T) bool: the steps at which the memory is read; where it is False, m_t is zero. All by default."""
    rewards: np.ndarray | None = None
    """(n, T, A) float: what each action pays at each step; None: 1 for the target, else 0."""
    lengths: np.ndarray | None = None
    """(n,) int: steps that each trial has, 1 ... T; None: T."""
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
        shape = inputs.shape[:2]
        if self.retrieve is None:
            object.__setattr__(self, "retrieve", np.ones(shape, bool))
        if self.lengths is not None:
            object.__setattr__(self, "lengths", _as_lengths(self.lengths, *shape))
        for name, (further, filling, checked) in _OF_STEPS.items():
            if (values := getattr(self, name)) is None and name == "rewards":
                continue
            array = np.asarray(values)
            if array.shape[:2] != shape or array.ndim != 2 + len(further):
                form = f"({', '.join(('n', 'T', *further))}), with (n, T)" if further else "(n, T)"
                raise ValueError(
                    f"Trials: {name} must have the shape {form} = {shape} of the inputs; got {array.shape}."
                )
            if self.lengths is not None:
                array = np.where(self.exists[..., None] if further else self.exists, array, filling)
            object.__setattr__(self, name, checked(name, array))
        if self.rewards is not None and self.targets.max(initial=NO_ANSWER) >= self.rewards.shape[2]:
            raise ValueError(
                f"Trials: there is a target {self.targets.max()}, and rewards say what {self.rewards.shape[2]} "
                "actions pay, from 0. Give rewards for more actions, or correct the targets."
            )
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
        """Steps in the longest trial that there could be, T."""
        return self.inputs.shape[1]

    @property
    def input_size(self) -> int:
        """Input columns, D."""
        return self.inputs.shape[2]

    # ---- which steps count

    @cached_property
    def exists(self) -> np.ndarray:
        """(n, T) bool: the steps that are not beyond the end of their trial."""
        n, steps = np.shape(self.inputs)[:2]
        return np.ones((n, steps), bool) if self.lengths is None else np.arange(steps) < self.lengths[:, None]

    @cached_property
    def asks(self) -> np.ndarray:
        """(n, T) bool: the steps at which an answer is asked for."""
        return self.targets != NO_ANSWER

    def longest(self, rows: slice = slice(None)) -> int:
        """Steps of the longest of these trials; none of them has more to be run."""
        return self.length if self.lengths is None else int(self.lengths[rows].max(initial=1))

    # ---- what choices are worth

    def payoffs(self, n_actions: int) -> np.ndarray:
        """What each action pays, (n, T, A): ``rewards``, or 1 for the target, else 0."""
        if self.rewards is not None:
            return self.rewards
        return (self.targets[..., None] == np.arange(n_actions)).astype(float)

    def right(self, action: np.ndarray) -> np.ndarray:
        """Whether actions (n, T) are right: 1 or 0; NaN where no answer is asked for."""
        return np.where(self.asks, action == self.targets, np.nan)

    def lesioned(self, *, retrieve: bool = True, encode: bool = True) -> Trials:
        """The same trials with retrieval or encoding switched off at every step."""
        return replace(self, retrieve=self.retrieve & retrieve, encode=self.encode & encode)


def earned(action: np.ndarray, targets: np.ndarray, rewards: np.ndarray | None = None) -> np.ndarray:
    """What actions earn, -1 for no choice: (..., T); 0 where no choice was made.

    Args:
        action, targets: (..., T).
        rewards: (..., T, A), as of ``Trials``.
    """
    if rewards is None:
        return ((action == targets) & (action >= 0)).astype(float)
    paid = np.take_along_axis(rewards, np.maximum(action, 0)[..., None], -1)[..., 0]
    return np.where(action >= 0, paid, 0.0)


def _as_lengths(values: Any, n: int, steps: int) -> np.ndarray:
    lengths = np.asarray(values)
    if lengths.shape != (n,):
        raise ValueError(f"Trials: lengths must have the shape (n,) = {(n,)}; got {lengths.shape}.")
    wrong = np.flatnonzero(~np.isin(lengths, np.arange(1, steps + 1)))
    if wrong.size:
        raise ValueError(
            f"Trials: lengths must be whole numbers from 1 to T = {steps}; that of trial {wrong[0]} is "
            f"{lengths[wrong[0]]}. Leave out trials without a step, or give inputs for more."
        )
    return lengths.astype(np.int64)


def _as_finite(name: str, values: np.ndarray) -> np.ndarray:
    array = values.astype(float, copy=False)
    if not np.isfinite(array).all():
        place = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise ValueError(
            f"Trials: {name} must be finite; {name}{list(place)} is {array[place]}. Replace or drop missing "
            "values before making Trials."
        )
    return array.copy() if min(array.strides, default=0) < 0 else array  # PyTorch takes none backwards


def _as_targets(name: str, values: np.ndarray) -> np.ndarray:
    wrong = values[~np.isin(values, np.arange(NO_ANSWER, MAX_ACTIONS))]
    if wrong.size:
        raise ValueError(
            f"Trials: {name} must be whole numbers from 0 (the right actions), or -1 where no answer is asked "
            f"for; got {wrong.flat[0]}."
        )
    return values.astype(np.int64)


def _as_switch(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype != bool:
        wrong = values[~np.isin(values, (0, 1))]
        if wrong.size:
            raise ValueError(f"Trials: {name} must hold booleans (or 0 and 1); got {wrong.flat[0]}.")
    return values.astype(bool, copy=False)


_OF_STEPS: dict[str, tuple[tuple[str, ...], int, Callable[[str, np.ndarray], np.ndarray]]] = {
    "inputs": (("D",), 0, _as_finite),
    "targets": ((), NO_ANSWER, _as_targets),
    "encode": ((), 0, _as_switch),
    "retrieve": ((), 0, _as_switch),
    "rewards": (("A",), 0, _as_finite),
}
"""What is given for each step: its further axes, the filling beyond the end, and its check."""


def concatenate(blocks: list[Trials]) -> Trials:
    """One ``Trials`` with the trials of all blocks, in order (descriptions only where every block has them).

    Raises:
        ValueError: no block, or they differ in T, D or the number of actions that their rewards are of.
    """
    if not blocks:
        raise ValueError("concatenate: needs at least one block of trials; got none.")
    sizes = {block.inputs.shape[1:] for block in blocks}
    if len(sizes) > 1:
        raise ValueError(
            "concatenate: the blocks must have equally many steps and input columns; got (T, D) = "
            f"{sorted(sizes)}. Fill shorter trials up, and give lengths."
        )

    def join(name: str):
        parts = [getattr(block, name) for block in blocks]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    rewards = lengths = None
    if any(block.lengths is not None for block in blocks):
        lengths = np.concatenate([block.exists.sum(1) for block in blocks])
    pay = {block.rewards.shape[2] for block in blocks if block.rewards is not None}
    if len(pay) > 1:
        raise ValueError(f"concatenate: rewards must be of equally many actions; got {sorted(pay)}.")
    if pay:
        rewards = np.concatenate([block.payoffs(*pay) for block in blocks])
    names = ("inputs", "targets", "encode", "retrieve", "context", "encounter")
    noise_off = {block.noise_off for block in blocks}
    return Trials(
        **{name: join(name) for name in names},  # type: ignore[arg-type]
        rewards=rewards,
        lengths=lengths,
        noise_off=noise_off.pop() if len(noise_off) == 1 else None,
    )
