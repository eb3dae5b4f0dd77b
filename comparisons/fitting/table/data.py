"""People's choices, ready for fitting: participants, their blocks, and the stimuli they saw."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....tasks.trials import MAX_ACTIONS, Trials
from .schema import is_missing

NO_CHOICE = -1
"""Stands in ``choices`` where there is none."""


@dataclass(frozen=True, eq=False)
class ObservedBlock:
    """n trials of T steps of one participant, between two clearings of the memory, and what was chosen.

    Raises:
        ValueError: a shape or a value does not fit; the message says which.
    """

    trials: Trials
    """The stimuli, in the order of presentation."""
    choices: np.ndarray
    """(n, T) int: the action taken, 0 ... A-1; -1 where there is none."""
    rt: np.ndarray = field(default=None)  # type: ignore[assignment]
    """(n, T) float: response times in seconds; NaN where there is none. All NaN by default."""
    number: int = 0
    """The block's number in the table."""
    trial_numbers: np.ndarray = field(default=None)  # type: ignore[assignment]
    """(n,) int, ascending: the trials' numbers in the table; 0 ... n-1 by default."""

    def __post_init__(self) -> None:
        shape = self.trials.targets.shape
        rt = np.full(shape, np.nan) if self.rt is None else np.asarray(self.rt, dtype=float)
        numbers = np.arange(shape[0]) if self.trial_numbers is None else self.trial_numbers
        choices, numbers = _whole("choices", self.choices), _whole("trial_numbers", numbers)
        arrays = {"choices": choices, "rt": rt, "trial_numbers": numbers}
        for name, array in arrays.items():
            expected = shape[:1] if name == "trial_numbers" else shape
            if array.shape != expected:
                raise ValueError(f"ObservedBlock: {name} must have the shape {expected}; got {array.shape}.")
            object.__setattr__(self, name, array)
        wrong = choices[(choices < NO_CHOICE) | (choices >= MAX_ACTIONS)]
        if wrong.size:
            raise ValueError(
                f"ObservedBlock: choices must be actions, from 0, or -1 where there is none; got {wrong[0]}."
            )
        unasked = np.argwhere((choices != NO_CHOICE) & ~self.trials.asks)
        if len(unasked):
            n, t = unasked[0]
            why = "no answer is asked for (a target of -1)" if self.trials.exists[n, t] else "the trial has ended"
            raise ValueError(
                f"ObservedBlock: trial {n} has the choice {choices[n, t]} at step {t}, where {why}. Leave the "
                "choice out (-1), or correct the trials."
            )
        wrong = rt[(rt < 0) | np.isinf(rt)]
        if wrong.size:
            raise ValueError(f"ObservedBlock: rt must be seconds ≥ 0, or NaN where there is none; got {wrong[0]}.")
        if not shape[0]:
            raise ValueError("ObservedBlock: needs at least one trial; got none.")
        if (np.diff(numbers) <= 0).any():
            raise ValueError(f"ObservedBlock: trial_numbers must ascend; got {numbers.tolist()}.")
        object.__setattr__(self, "number", int(_whole("number", self.number)))

    @property
    def observed(self) -> np.ndarray:
        """(n, T) bool: the steps with a choice; the others are seen by the model, and not scored."""
        return self.choices != NO_CHOICE


@dataclass(frozen=True, eq=False)
class Participant:
    """One person.

    Raises:
        ValueError: there is no choice in any block, the blocks' numbers do not ascend, or the id cannot be told
            from a missing one in a table.
    """

    id: str
    blocks: tuple[ObservedBlock, ...]
    """In order; the memory is cleared before each."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        check_id("Participant: id", self.id)
        if not self.n_choices:
            raise ValueError(f"Participant '{self.id}': needs at least one choice; got none. Leave them out.")
        numbers = [block.number for block in self.blocks]
        if sorted(set(numbers)) != numbers:
            raise ValueError(f"Participant '{self.id}': the blocks' numbers must ascend; got {numbers}.")

    @property
    def n_choices(self) -> int:
        """Choices in all blocks: what a likelihood is made of."""
        return int(sum(block.observed.sum() for block in self.blocks))


def check_id(what: str, id: object) -> None:
    """Raise ValueError unless ``id`` comes back from a table as it was."""
    if not isinstance(id, str) or is_missing(id.strip()) or id != id.strip() or not id.isprintable():
        raise ValueError(
            f"{what} must be text without white space around it, and none of the spellings of a missing value; "
            f"got {id!r}."
        )


def _whole(name: str, values: object) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all() or (array != np.floor(array)).any():
        raise ValueError(f"ObservedBlock: {name} must hold whole numbers; got {values!r}.")
    return array.astype(np.int64)
