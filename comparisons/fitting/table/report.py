"""What was read of a table: what of it is used, what is not and why, and what else one should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .cells import Values
from .checks import Rows
from .data import Participant

UNITS = ("rows", "trials", "steps", "response times")
CHOICE_MISSING = "choice missing"
LEFT_OUT = "participant left out"
NO_CHOICE = "no choice: seen by the model, not scored"
NO_ROW = "no row: seen by the model, not scored"
RT_MISSING = "response time missing"
NOT_CHOSEN = "response time without a choice"
MINUTE = 60.0
"""Response times above it are noted; they are used like all others."""


@dataclass(frozen=True, eq=False)
class DataReport:
    """What became of a table."""

    source: str
    """The name of its file."""
    stimuli: str
    """Where the stimuli are from."""
    used: tuple[str, ...]
    """Participants, in the order of the table."""
    left_out: tuple[str, ...]
    """Participants left out by ``exclude``."""
    table: pd.DataFrame
    """A row for each participant, unit (of ``UNITS``) and reason, where there are any: columns participant, unit,
    used, reason (why not; empty if used), count."""
    notes: tuple[str, ...]
    """What else one should know, a sentence each."""

    def total(self, unit: str, reason: str | None = None) -> int:
        """Over participants, how many rows, trials, ... there are; with a reason, not used for it ("": used)."""
        of_unit = self.table["unit"] == unit
        return int(
            self.table.loc[
                of_unit if reason is None else of_unit & (self.table["reason"] == reason), "count"
            ].sum()
        )

    def __str__(self) -> str:
        people = len(self.used) + len(self.left_out)
        lines = [f"{self.source}, stimuli from {self.stimuli}: {len(self.used)} of {people} participants used"]
        if self.left_out:
            lines.append(f"  left out on demand: {', '.join(map(repr, self.left_out))}")
        for unit in UNITS:
            total = self.total(unit)
            lines += [f"  {unit}: {self.total(unit, '')} of {total} used"] if total else []
            unused = self.table[(self.table["unit"] == unit) & ~self.table["used"].astype(bool)]
            for reason, own in unused.groupby("reason", sort=False):
                most = own.loc[own["count"].idxmax()]
                who = f"{len(own)} participant{'s' * (len(own) > 1)}"
                most = f"most: '{most['participant']}' with {most['count']}"
                lines.append(f"    {own['count'].sum()} not: {reason} ({who}, {most})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def make_report(
    rows: Rows, participants: Sequence[Participant], dropped: Mapping[str, int], stimuli: str
) -> DataReport:
    """Count what was used of the rows, of which the participants were made; ``dropped``: how many rows each had
    who was left out; ``stimuli``: where these are from."""
    counts = [(one, "rows", LEFT_OUT, count) for one, count in dropped.items()]
    trials = Counter(key[0] for key in set(rows.keys))
    for participant in participants:
        counts += _counts(rows, participant, trials[participant.id])
    table = pd.DataFrame(counts, columns=["participant", "unit", "reason", "count"])
    table.insert(2, "used", table["reason"] == "")
    return DataReport(
        source=rows.table.name,
        stimuli=stimuli,
        used=tuple(participant.id for participant in participants),
        left_out=tuple(dropped),
        table=table.loc[table["count"] > 0, :].reset_index(drop=True),
        notes=tuple(_notes(rows)),
    )


def _counts(rows: Rows, participant: Participant, n_with_row: int) -> list[tuple[str, str, str, int]]:
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
        each = (("", timed & choosing), (RT_MISSING, ~timed & choosing), (NOT_CHOSEN, timed & ~choosing))
        counts += [("response times", reason, int(which.sum())) for reason, which in each]
    return [(participant.id, *count) for count in counts]


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
