"""``read_trials``: a table of choices, checked in whole before anything is made of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ....tasks.trials import MAX_ACTIONS, Trials
from .cells import read_column
from .checks import Rows, check_choices, check_input_size, check_match, check_order, trial_labels
from .data import NO_CHOICE, ObservedBlock, Participant
from .files import RawTable, read_arrays, read_table
from .problems import Problems
from .report import DataReport, make_report
from .schema import COLUMNS, KEY, LABELS, STIMULUS, STIMULUS_COLUMNS, Column, plain_contexts, stimulus_number
from .stimuli import Key, Stimuli, from_arrays, from_columns

if TYPE_CHECKING:
    from ....models.config import ModelConfig

StimulusSource = str | os.PathLike[str] | Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class TrialTable:
    """A table of choices that has been read and checked."""

    participants: tuple[Participant, ...]
    """In the order in which the table names them."""
    report: DataReport
    """What was used, and what was not and why."""
    extra: pd.DataFrame
    """Columns that are not in the schema, as the file has them, beside participant, block, trial, step."""

    def __len__(self) -> int:
        return len(self.participants)

    def __iter__(self) -> Iterator[Participant]:
        return iter(self.participants)

    def __getitem__(self, id: str) -> Participant:
        """The participant with this id. KeyError if there is none."""
        for participant in self.participants:
            if participant.id == id:
                return participant
        raise KeyError(f"There is no participant {id!r}; there are {', '.join(map(repr, self.ids))}.")

    @property
    def ids(self) -> tuple[str, ...]:
        """The participants' ids."""
        return tuple(participant.id for participant in self.participants)


def read_trials(
    source: str | os.PathLike[str] | pd.DataFrame,
    stimuli: StimulusSource | None = None,
    config: ModelConfig | None = None,
    *,
    exclude: Iterable[str] = (),
) -> TrialTable:
    """Read and check a table of choices (``schema.COLUMNS``) and its stimuli.

    Args:
        source: a .csv or .parquet file, or a DataFrame.
        stimuli: an .npz file, or its arrays (``schema.ARRAYS``). Without it, the table has the stimuli in the
            columns x0, x1, ...; if it has not, the .npz file of the same name beside it is taken.
        config: sizes that the table must fit: input columns, and actions.
        exclude: participants to leave out; their rows are counted, and not checked.

    Returns:
        Participants with their blocks, and the report of what was used. Trials and steps without a choice are
        kept, since the memory depends on them, but they are not scored.

    Raises:
        DataError: something does not fit; the message names row, column, what was found and what was expected,
            of up to ``problems.SHOWN`` problems at once.
        FileNotFoundError: there is no such file.
        ImportError: Parquet, and pyarrow is not installed.
        TypeError: ``exclude`` is a single text.
    """
    if isinstance(exclude, str):
        raise TypeError(f"exclude must be a list of ids; got {exclude!r}. Write exclude=[{exclude!r}].")
    table = read_table(source)
    problems = Problems(table.name)
    stimuli = _find_stimuli(table, source, stimuli, problems)
    columns = _columns(table, config, problems)
    table, dropped = _leave_out(table, columns[0], tuple(exclude), problems)
    actions = MAX_ACTIONS if config is None else config.n_actions
    below = {"choice": actions, "target": actions}
    rows = Rows(table, {c.name: read_column(table, c, problems, below.get(c.name)) for c in columns})
    check_order(rows, problems)
    check_choices(rows, problems)
    if stimuli is None:
        problems.stop_if_any()  # trials cannot be put together from cells or rows that are wrong
        values = {name: values.array for name, values in rows.values.items()}
        origin, seen = "its columns", from_columns(values, rows.keys, table.row, problems)
    else:
        origin, arrays = read_arrays(stimuli)
        seen = from_arrays(origin, arrays, actions, dropped, problems)
        if seen is not None:
            check_match(rows, seen, origin, problems)
            check_input_size(origin, "inputs", seen.inputs.shape[2], config, problems)
    problems.stop_if_any()
    assert seen is not None  # else there was a problem
    labels = trial_labels(rows, seen, problems)
    problems.stop_if_any()
    participants = _participants(rows, seen, labels)
    return TrialTable(participants, make_report(rows, participants, dropped, origin), _extra(rows))


# ---- before cells are read ---------------------------------------------------------------------------


def _find_stimuli(
    table: RawTable,
    source: str | os.PathLike[str] | pd.DataFrame,
    stimuli: StimulusSource | None,
    problems: Problems,
) -> StimulusSource | None:
    """Where the stimuli are: None for the table's own columns (or if there are none, which is noted)."""
    in_columns = any(stimulus_number(name) is not None for name in table.columns)
    if stimuli is not None and in_columns:
        remedy = "Remove (or rename) the columns x0, x1, ..., or call read_trials without stimuli."
        problems.add("header", "stimuli", "columns x0, x1, ... and stimuli beside", "one of the two", remedy)
    if stimuli is not None or in_columns:
        return stimuli
    beside = None if isinstance(source, pd.DataFrame) else Path(source).with_suffix(".npz")
    if beside is not None and beside.is_file():
        return beside
    where = "" if beside is None else f", or a file {beside.name} beside the table"
    remedy = "Add the columns, or call read_trials with stimuli=..., an .npz file."
    problems.add("header", "stimuli", "none", f"columns x0, x1, ...{where}", remedy)
    return None


def _columns(table: RawTable, config: ModelConfig | None, problems: Problems) -> list[Column]:
    """The columns that are to be read, the participant's first; stops if one is lacking."""
    numbers = sorted(n for name in table.columns if (n := stimulus_number(name)) is not None)
    in_columns = bool(numbers)
    found = [c for c in COLUMNS if c.name in table.columns and (in_columns or c.name not in STIMULUS_COLUMNS)]
    for column in COLUMNS:
        needed = column.needed == "always" or (column.needed == "with x0" and in_columns)
        if needed and column.name not in table.columns:
            have = ", ".join(f"'{name}'" for name in table.columns if stimulus_number(name) is None)
            alike = [name for name in table.columns if name.lower().strip("_ ") == column.name]
            remedy = f"Rename '{alike[0]}'." if alike else f"Add the column: {column.meaning}."
            problems.add("header", f"'{column.name}'", f"only {have}", f"a column '{column.name}'", remedy)
    if numbers != list(range(len(numbers))):
        lacking = next(d for d in range(len(numbers)) if d not in numbers)
        text = f"columns up to x{numbers[-1]} without x{lacking}"
        problems.add("header", f"'x{lacking}'", text, "x0, x1, ... without a gap", "Number the columns from x0.")
    elif numbers:
        check_input_size("header", f"'x0' ... 'x{numbers[-1]}'", len(numbers), config, problems)
    if not len(table):
        problems.add("file", "all", "no rows", "a row for each choice", "Export the table again.")
    problems.stop_if_any()
    return [*found, *(Column(f"x{d}", STIMULUS.kind, STIMULUS.meaning) for d in numbers)]


def _leave_out(
    table: RawTable, participant: Column, exclude: tuple[str, ...], problems: Problems
) -> tuple[RawTable, dict[str, int]]:
    """The table without the rows of some participants, and how many rows each of these had."""
    if not exclude:
        return table, {}
    ids = read_column(table, participant, Problems(table.name)).array
    dropped = {one: int((ids == one).sum()) for one in exclude}
    for one, count in dropped.items():
        if not count:
            some = ", ".join(repr(other) for other in list(dict.fromkeys(ids))[:10])
            remedy = "Correct exclude: ids are text, as in the table."
            problems.add(
                "exclude", "'participant'", repr(one), f"a participant of the table, such as {some}", remedy
            )
    kept = table.keep(~np.isin(ids, list(dropped)))
    if not len(kept):
        problems.add(
            "exclude", "'participant'", "all participants left out", "at least one left", "Leave out fewer."
        )
    problems.stop_if_any()
    return kept, dropped


# ---- what is made of them ----------------------------------------------------------------------------


def _participants(rows: Rows, seen: Stimuli, labels: Mapping[str, dict[Key, Any]]) -> tuple[Participant, ...]:
    entry = {key: i for i, key in enumerate(seen.keys)}
    choices = np.full(seen.targets.shape, NO_CHOICE)
    rt = np.full(seen.targets.shape, np.nan)
    where = np.array([entry[key] for key in rows.keys]), rows.values["step"].array
    choices[where] = rows.values["choice"].array
    if "rt" in rows.values:
        rt[where] = rows.values["rt"].array
    as_context = int if plain_contexts([id for id in labels["context"].values() if id is not None]) else str

    def block(keys: list[Key]) -> ObservedBlock:
        which = [entry[key] for key in keys]
        context, encounter, noise_off = ([labels[name][key] for key in keys] for name in LABELS)
        trials = Trials(
            inputs=seen.inputs[which],
            targets=seen.targets[which],
            encode=seen.encode[which],
            retrieve=seen.retrieve[which],
            context=None if context[0] is None else np.array([as_context(id) for id in context]),
            encounter=None if encounter[0] is None else np.array(encounter),
            noise_off=noise_off[0],
        )
        return ObservedBlock(trials, choices[which], rt[which], keys[0][1], np.array([key[2] for key in keys]))

    blocks: dict[str, dict[int, list[Key]]] = {one: {} for one in rows.of}
    for key in sorted(seen.keys):
        blocks[key[0]].setdefault(key[1], []).append(key)
    return tuple(Participant(one, tuple(block(keys) for keys in of.values())) for one, of in blocks.items())


def _extra(rows: Rows) -> pd.DataFrame:
    columns = {name: rows.values[name].array for name in KEY}
    columns |= {name: cells for name, cells in rows.table.columns.items() if name not in rows.values}
    return pd.DataFrame(columns)
