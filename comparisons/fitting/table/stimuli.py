"""The stimuli of all trials, from the table's own columns or from the arrays beside it, checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cells import LARGEST
from .problems import Problems
from .schema import ARRAYS, LABELS, OF_ARRAY, OPTIONAL_ARRAYS, is_missing, stimulus_number

Key = tuple[str, int, int]
"""Participant, block and trial."""
TEXTS = ("participant", "context")
"""Arrays of ids; all others are numbers, ..."""
NONE = -1
"""... where this stands for no encounter, and for no evidence."""


@dataclass(frozen=True, eq=False)
class Stimuli:
    """The stimuli of n trials of T steps with D columns."""

    keys: list[Key]
    """n of them, each once."""
    inputs: np.ndarray
    """(n, T, D) float"""
    targets: np.ndarray
    """(n, T) int"""
    encode: np.ndarray
    """(n, T) bool"""
    retrieve: np.ndarray
    """(n, T) bool"""
    labels: dict[str, list[Any]]
    """What the stimuli themselves say of each trial, by name (see ``LABELS``): n values, None for none."""
    places: list[str]
    """Where each trial is, in words: for errors."""


def from_columns(
    columns: Mapping[str, np.ndarray], keys: Sequence[Key], place: Callable[[int], str], problems: Problems
) -> Stimuli | None:
    """The stimuli of the table itself, which must have a row for each step of each trial; None: it has problems.

    Args:
        columns: the values, (N,) each, of ``step``, ``target``, ``encode``, ``x0``, ...; ``retrieve`` if there.
        keys: to which trial each of the N rows belongs; the rows of a trial ascend in step.
        place: where row i is, in words.
        problems: where trials of another length, or with steps missing, are noted.
    """
    of: dict[Key, list[int]] = {}
    for i, key in enumerate(keys):
        of.setdefault(key, []).append(i)
    # The length of most trials, so that one row with a wrong step does not put all others in the wrong.
    lengths, counts = np.unique([len(rows) for rows in of.values()], return_counts=True)
    length = int(lengths[counts.argmax()])
    for rows in of.values():
        _check_steps(columns["step"][rows].tolist(), length, place(rows[0]), problems)
    if problems.count:
        return None
    order = np.array([i for rows in of.values() for i in rows])
    shape = len(of), length
    x = sum(stimulus_number(name) is not None for name in columns)
    arranged = {name: columns[name][order].reshape(shape) for name in columns}
    return Stimuli(
        keys=list(of),
        inputs=np.stack([arranged[f"x{d}"] for d in range(x)], axis=-1),
        targets=arranged["target"],
        encode=arranged["encode"],
        retrieve=arranged.get("retrieve", np.ones(shape, bool)),
        labels={},
        places=[place(rows[0]) for rows in of.values()],
    )


def _check_steps(steps: list[int], length: int, place: str, problems: Problems) -> None:
    if steps == list(range(length)):
        return
    shown = ", ".join(map(str, steps[:12])) + (", ..." if len(steps) > 12 else "")
    remedy = "Stimuli in columns need all steps of all trials; leave choice empty where none was asked for."
    if steps == list(range(1, length + 1)):
        remedy = "Count steps from 0."
    expected = f"a row for each of the steps 0 to {length - 1}, as most trials have {length}"
    problems.add(place, "'step'", f"a trial with the steps {shown}", expected, remedy)


def from_arrays(
    name: str, arrays: Mapping[str, np.ndarray], actions: int, left_out: Collection[str], problems: Problems
) -> Stimuli | None:
    """The stimuli from arrays (see ``ARRAYS``) of a file of this name; None if there is a problem.

    Targets must be smaller than ``actions``; trials of participants who are left out are not checked.
    """
    before = problems.count
    _check_names_and_shapes(name, arrays, problems)
    if problems.count > before:
        return None
    ids = [str(one).strip() for one in arrays["participant"].tolist()]
    used = np.array([one not in left_out for one in ids], bool)
    places = [f"entry {i} of {name}" for i in np.flatnonzero(used)]
    part = {key: array[used] for key, array in arrays.items() if key in ARRAYS}
    texts = {key: [str(one).strip() for one in part.pop(key).tolist()] for key in TEXTS if key in part}
    values = {key: _values(array, key, places, problems, actions) for key, array in part.items()}
    if problems.count > before:
        return None
    keys = [*zip(texts["participant"], values["block"].tolist(), values["trial"].tolist(), strict=True)]
    _check_unique(keys, places, problems)
    labels = {key: [None if v == NONE else v for v in values[key].tolist()] for key in LABELS if key in values}
    if "context" in texts:
        labels["context"] = [None if is_missing(text) else text for text in texts["context"]]
    retrieve = values.get("retrieve", np.ones(values["encode"].shape, bool))
    return Stimuli(keys, values["inputs"], values["targets"], values["encode"], retrieve, labels, places)


def _check_names_and_shapes(name: str, arrays: Mapping[str, np.ndarray], problems: Problems) -> None:
    for needed in ARRAYS:
        if needed not in arrays and needed not in OPTIONAL_ARRAYS:
            found = f"only {', '.join(arrays) or 'nothing'}"
            problems.add(name, needed, found, ARRAYS[needed], "Add the array.")
    inputs = arrays.get("inputs")
    if inputs is None:
        return
    if inputs.ndim != 3 or 0 in inputs.shape:
        remedy = "Give n ≥ 1 trials of T ≥ 1 steps with D ≥ 1 columns."
        problems.add(name, "inputs", f"the shape {inputs.shape}", "(n, T, D)", remedy)
        return
    for key in ARRAYS:
        array = arrays.get(key)
        if array is None:
            continue
        shape = inputs.shape if key == "inputs" else inputs.shape[: 1 if ARRAYS[key].startswith("(n,)") else 2]
        if array.shape != shape:
            text = f"{shape}, as inputs are {inputs.shape}"
            problems.add(name, key, f"the shape {array.shape}", text, "Give every array an entry for each trial.")
        if key not in TEXTS and array.dtype.kind not in "biuf":
            found = f"the type {array.dtype}"
            problems.add(name, key, found, ARRAYS[key], "Save numbers as numbers, not as text.")


def _values(array: np.ndarray, name: str, places: list[str], problems: Problems, actions: int) -> np.ndarray:
    """The array with the type of its column; what does not fit is noted, the first of each entry."""
    column, below = OF_ARRAY[name], actions if name == "targets" else None
    numbers = array.astype(float)
    wrong = ~np.isfinite(numbers)
    if column.kind == "switch":
        wrong = ~np.isin(array, (0, 1))
    elif column.kind == "whole":
        wrong = ~(np.abs(numbers) < LARGEST) | (numbers != np.floor(numbers))
        wrong |= (numbers < (-np.inf if column.least is None else column.least)) & ~(
            column.may_be_missing & (numbers == NONE)
        )
        wrong |= numbers >= (np.inf if below is None else below)
    for i in np.flatnonzero(wrong.any(axis=tuple(range(1, wrong.ndim)))):
        where = tuple(np.argwhere(np.atleast_1d(wrong[i]))[0].tolist())
        found = repr(np.atleast_1d(array[i])[where].item())
        at = f"[{', '.join(map(str, where))}]" if wrong.ndim > 1 else ""
        remedy = column.remedy or "Correct it."
        problems.add(places[i], f"{name}{at}", found, column.expected(below), remedy)
    return np.where(wrong, 0, array).astype({"number": float, "whole": np.int64, "switch": bool}[column.kind])


def _check_unique(keys: list[Key], places: list[str], problems: Problems) -> None:
    first: dict[Key, int] = {}
    for i, key in enumerate(keys):
        if first.setdefault(key, i) != i:
            found = f"{in_words(key)} again, after {places[first[key]]}"
            problems.add(places[i], "participant, block, trial", found, "each trial once", "Remove one of them.")


def in_words(key: Key) -> str:
    """Which trial a key means."""
    return f"participant '{key[0]}', block {key[1]}, trial {key[2]}"
