"""What was read of a table, what of it is used, and what is not and why."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

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
