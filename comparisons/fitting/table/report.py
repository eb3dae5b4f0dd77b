"""What was read of a table, what of it is used, and what is not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .cells import Values

if TYPE_CHECKING:
    from .checks import Rows
    from .data import Participant

CHOICE_MISSING = "choice missing"
LEFT_OUT = "participant left out"
NO_CHOICE = "no choice: seen by the model, not scored"
NO_ROW = "no row: seen by the model, not scored"
RT_MISSING = "response time missing"
NOT_CHOSEN = "response time without a choice"
MINUTE = 60.0
"""Response times above it are noted; they are used like all others."""
UNITS = ("rows", "trials", "steps", "response times")


@dataclass(frozen=True)
class Count:
    """How many rows, trials, steps or response times of a participant were used, or not, and why."""

    participant: str
    unit: str
    """One of ``UNITS``."""
    used: bool
    reason: str
    """Why not; empty if used."""
    count: int


@dataclass(frozen=True)
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
    counts: tuple[Count, ...]
    """All counts that are not zero."""
    notes: tuple[str, ...]
    """What else one should know, a sentence each."""

    @property
    def table(self) -> pd.DataFrame:
        """A row for each participant, unit and reason: columns participant, unit, used, reason, count."""
        names = ("participant", "unit", "used", "reason", "count")
        return pd.DataFrame(
            {name: [getattr(count, name) for count in self.counts] for name in names}, columns=list(names)
        )

    def total(self, unit: str, reason: str | None = None) -> int:
        """Over participants, how many rows, trials, ... there are; with a reason, not used for it ("": used)."""
        return sum(c.count for c in self.counts if c.unit == unit and reason in (None, c.reason))

    def __str__(self) -> str:
        people = len(self.used) + len(self.left_out)
        lines = [f"{self.source}, stimuli from {self.stimuli}: {len(self.used)} of {people} participants used"]
        if self.left_out:
            lines.append(f"  left out on demand: {', '.join(map(repr, self.left_out))}")
        for unit in UNITS:
            lines += self._lines(unit)
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _lines(self, unit: str) -> list[str]:
        total = self.total(unit)
        if not total:
            return []
        lines = [f"  {unit}: {self.total(unit, '')} of {total} used"]
        reasons = dict.fromkeys(c.reason for c in self.counts if c.unit == unit and not c.used)
        for reason in reasons:
            parts = sorted(
                (c for c in self.counts if c.unit == unit and c.reason == reason), key=lambda c: -c.count
            )
            most = f"most: '{parts[0].participant}' with {parts[0].count}"
            people = "participant" if len(parts) == 1 else "participants"
            lines.append(f"    {self.total(unit, reason)} not: {reason} ({len(parts)} {people}, {most})")
        return lines


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
