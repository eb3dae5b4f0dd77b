"""Counts what of a table is used, and what is not and why, and notes what else one should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .cells import Values
from .checks import Rows
from .data import Participant
from .report import Count, DataReport

CHOICE_MISSING = "choice missing"
LEFT_OUT = "participant left out"
NO_CHOICE = "no choice: seen by the model, not scored"
NO_ROW = "no row: seen by the model, not scored"
RT_MISSING = "response time missing"
NOT_CHOSEN = "response time without a choice"
MINUTE = 60.0
"""Response times above it are noted; they are used like all others."""


def make_report(
    rows: Rows, participants: Sequence[Participant], dropped: Mapping[str, int], stimuli: str
) -> DataReport:
    """Count what was used.

    Args:
        rows: those of the participants that are used.
        participants: what was made of them.
        dropped: how many rows each participant had who was left out.
        stimuli: where the stimuli are from.
    """
    counts = [Count(one, "rows", False, LEFT_OUT, count) for one, count in dropped.items()]
    trials = Counter(key[0] for key in set(rows.keys))
    for participant in participants:
        counts += _counts(rows, participant, trials[participant.id])
    return DataReport(
        source=rows.table.name,
        stimuli=stimuli,
        used=tuple(participant.id for participant in participants),
        left_out=tuple(dropped),
        counts=tuple(count for count in counts if count.count),
        notes=tuple(_notes(rows)),
    )


def _counts(rows: Rows, participant: Participant, n_with_row: int) -> list[Count]:
    mine, chosen = rows.of[participant.id], participant.n_choices
    trials = sum(len(block.trials) for block in participant.blocks)
    scored = int(sum(block.observed.any(1).sum() for block in participant.blocks))
    steps = sum(block.choices.size for block in participant.blocks)
    counts = [
        ("rows", "", chosen),
        ("rows", CHOICE_MISSING, len(mine) - chosen),
        ("trials", "", scored),
        ("trials", NO_CHOICE, n_with_row - scored),
        ("trials", NO_ROW, trials - n_with_row),
        ("steps", "", chosen),
        ("steps", NO_CHOICE, len(mine) - chosen),
        ("steps", NO_ROW, steps - len(mine)),
    ]
    if "rt" in rows.values:
        timed, choosing = rows.values["rt"].given[mine], rows.values["choice"].given[mine]
        counts += [
            ("response times", "", int((timed & choosing).sum())),
            ("response times", RT_MISSING, int((~timed & choosing).sum())),
            ("response times", NOT_CHOSEN, int((timed & ~choosing).sum())),
        ]
    return [Count(participant.id, unit, not reason, reason, count) for unit, reason, count in counts]


def _notes(rows: Rows) -> list[str]:
    notes, table = [], rows.table
    if table.blank:
        notes.append(f"Blank lines skipped: {table.blank}.")
    extra = [f"'{name}'" for name in table.columns if name not in rows.values]
    if extra:
        notes.append(f"Columns that are not used, kept in extra: {', '.join(extra)}.")
    if not all(isinstance(cell, str) for cell in table.columns["participant"]):
        notes.append("Participants are numbers in the table and were read as text: 007 would have become 7.")
    return notes + (_notes_on_times(rows.values["rt"]) if "rt" in rows.values else [])


def _notes_on_times(rt: Values) -> list[str]:
    times = rt.array[rt.given]
    zero, long = int((times == 0).sum()), int((times > MINUTE).sum())
    notes = []
    if zero:
        notes.append(f"Response times of 0 s: {zero}; they are used.")
    if long:
        notes.append(f"Response times above a minute: {long}, up to {times.max():g} s; they are used.")
    if times.size and np.median(times) > MINUTE:
        notes.append(f"The median response time is {np.median(times):g}: is it in milliseconds? rt is in seconds.")
    return notes
