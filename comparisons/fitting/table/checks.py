"""What must hold between the rows of a table, and between the table and its stimuli."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .cells import Values
from .files import RawTable
from .problems import Problems
from .schema import BY_NAME, KEY, LABELS
from .stimuli import Key, Stimuli, in_words

if TYPE_CHECKING:
    from ....models.config import ModelConfig


@dataclass(frozen=True, eq=False)
class Rows:
    """The n rows of a table, as cells and as values."""

    table: RawTable
    values: dict[str, Values]
    """By column; see ``schema.COLUMNS``."""

    @cached_property
    def keys(self) -> list[Key]:
        """To which trial each row belongs."""
        return list(zip(*(self.values[name].array.tolist() for name in KEY[:3]), strict=True))

    @cached_property
    def whole(self) -> list[int]:
        """The rows of which it is known whose they are, and of which step."""
        return np.flatnonzero(np.all([self.values[name].given for name in KEY], axis=0)).tolist()

    @cached_property
    def of(self) -> dict[str, np.ndarray]:
        """The (whole) rows of each participant, in the order of the table."""
        rows: dict[str, list[int]] = {}
        for i in self.whole:
            rows.setdefault(self.keys[i][0], []).append(i)
        return {one: np.array(mine) for one, mine in rows.items()}


def check_order(rows: Rows, problems: Problems) -> None:
    """Note rows that are there twice, and rows that do not follow their participant's row before."""
    steps = rows.values["step"].array.tolist()
    before: dict[str, tuple[int, int, int]] = {}
    first: dict[tuple[Any, ...], int] = {}
    for i in rows.whole:
        one, *trial = rows.keys[i]
        place = (trial[0], trial[1], steps[i])
        if (original := first.setdefault((one, *place), i)) != i:
            found = f"{_place(place)} of '{one}' again, after {rows.table.row(original)}"
            problems.add(
                rows.table.row(i), ", ".join(KEY), found, "each once", "Remove one of them, or correct it."
            )
            continue
        if one in before and place < before[one]:
            found = f"{_place(place)} of '{one}' after {_place(before[one])}"
            remedy = "Sort the rows by block, trial and step; these numbers say the order in time."
            problems.add(rows.table.row(i), ", ".join(KEY[1:]), found, "ascending numbers", remedy)
        before[one] = place


def check_choices(rows: Rows, problems: Problems) -> None:
    """Note participants without any choice, unless their choices are noted as wrong already."""
    choice = rows.values["choice"]
    for one, mine in rows.of.items():
        if not (choice.given | choice.wrong)[mine].any():
            found = f"no choice of '{one}' (rows: {len(mine)})"
            remedy = "Leave out those without a choice: read_trials(..., exclude=[...])."
            problems.add(rows.table.row(int(mine[0])), "'choice'", found, "at least one choice of each", remedy)


def check_match(rows: Rows, seen: Stimuli, origin: str, problems: Problems) -> None:
    """Note where a table and the stimuli beside it (named ``origin``) do not belong together."""
    for key, place in zip(seen.keys, seen.places, strict=True):
        if key[0] not in rows.of:
            remedy = "Remove the trial, or correct the id; ids are text, leading zeros count."
            problems.add(place, "participant", repr(key[0]), f"a participant of {rows.table.name}", remedy)
    known, length = set(seen.keys), seen.targets.shape[1]
    steps = rows.values["step"].array.tolist()
    told: set[Key] = set()
    for i in rows.whole:
        key = rows.keys[i]
        if key not in known and key not in told:
            told.add(key)
            remedy = "Add the trial to the stimuli, or remove its rows."
            found = f"{in_words(key)}, which has no stimuli"
            problems.add(rows.table.row(i), ", ".join(KEY[:3]), found, f"a trial of {origin}", remedy)
        elif key in known and steps[i] >= length:
            expected = f"a step from 0 to {length - 1}, as the stimuli have {length} steps"
            problems.add(rows.table.row(i), "'step'", str(steps[i]), expected, "Count steps from 0.")


def check_input_size(row: str, column: str, size: int, config: ModelConfig | None, problems: Problems) -> None:
    """Note stimuli with another number of columns than the model takes."""
    if config is not None and size != config.input_size:
        expected = f"{config.input_size}, the model's input_size"
        remedy = f"Take a model with input_size={size}, or the stimuli that it was trained on."
        problems.add(row, column, f"{size} input columns", expected, remedy)


def trial_labels(rows: Rows, seen: Stimuli, problems: Problems) -> dict[str, dict[Key, Any]]:
    """By name, what table and stimuli say of each trial (None: nothing), noting where they disagree.

    Ids of contexts are text here; all rows must be good.
    """
    labels: dict[str, dict[Key, Any]] = {}
    for name in LABELS:
        beside = dict(zip(seen.keys, seen.labels.get(name, [None] * len(seen.keys)), strict=True))
        labels[name] = beside | _of_table(rows, name, beside, problems)
        _check_blocks(name, labels[name], seen, problems)
    return labels


def _place(place: tuple[int, int, int]) -> str:
    return f"block {place[0]}, trial {place[1]}, step {place[2]}"


def _of_table(rows: Rows, name: str, beside: Mapping[Key, Any], problems: Problems) -> dict[Key, Any]:
    """What the table says of each trial, where it says something."""
    if name not in rows.values:
        return {}
    said: dict[Key, Any] = {}
    first: dict[Key, int] = {}
    column = rows.values[name]
    for i, (key, value) in enumerate(zip(rows.keys, column.array.tolist(), strict=True)):
        value = value if column.given[i] else None
        if key in said:
            if value != said[key]:
                expected = f"{_shown(said[key])}, as in {rows.table.row(first[key])} of the same trial"
                remedy = f"Give {name} the same value in all rows of a trial."
                problems.add(rows.table.row(i), f"'{name}'", _shown(value), expected, remedy)
            continue
        said[key], first[key] = value, i
        if None not in (value, beside[key]) and value != beside[key]:
            expected = f"{_shown(beside[key])}, as the stimuli say"
            problems.add(
                rows.table.row(i), f"'{name}'", _shown(value), expected, "Correct the table or the stimuli."
            )
    return {key: value for key, value in said.items() if value is not None}


def _check_blocks(name: str, labels: Mapping[Key, Any], seen: Stimuli, problems: Problems) -> None:
    """Note trials without a label in blocks that have it, and blocks in which evidence begins at two steps."""
    of_block: dict[tuple[str, int], Any] = {}
    for key, label in labels.items():
        if label is not None:
            of_block.setdefault(key[:2], label)
    for key, place in zip(seen.keys, seen.places, strict=True):
        one = of_block.get(key[:2])
        if labels[key] is None and one is not None:
            expected = BY_NAME[name].expected().removesuffix(", or nothing")
            remedy = f"Give {name} to all trials of a block, or to none."
            problems.add(place, f"'{name}'", f"nothing for {in_words(key)}", expected, remedy)
        elif name == "noise_off" and labels[key] != one:
            remedy = "The first step with evidence is the same in a whole block; split the block."
            problems.add(place, "'noise_off'", str(labels[key]), f"{one}, as before in the block", remedy)


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
