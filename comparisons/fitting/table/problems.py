"""What is wrong with a table: all of it gathered first, then one error that says where and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

SHOWN = 20
"""Problems that an error tells one by one."""
SHOWN_ALIKE = 5
"""Of these, of one kind: a column that is wrong throughout must not hide what else is wrong."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a table or its stimuli."""

    row: str
    """Where: ``line 7`` of a CSV file (from 1, the header's), ``row 5`` of Parquet or ``entry 5`` of the stimuli
    (from 0), ``header``, ``file``, or the name of the stimuli's file."""
    column: str
    """The column, or the array of the stimuli."""
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.row}, {self.column}: found {self.found}, expected {self.expected}. {self.remedy}"


class DataError(ValueError):
    """A table, or its stimuli, cannot be used. Its message tells up to ``SHOWN`` problems."""

    def __init__(self, name: str, problems: Iterable[Problem], count: int | None = None) -> None:
        self.problems = tuple(problems)
        """Those that the message tells."""
        self.count = len(self.problems) if count is None else count
        """How many there are in all."""
        self.name = name
        noun = "problem" if self.count == 1 else "problems"
        lines = [f"{name} cannot be used: {self.count} {noun}.", *(f"  {problem}" for problem in self.problems)]
        if self.count > len(self.problems):
            lines.append(f"  ... and {self.count - len(self.problems)} more.")
        super().__init__("\n".join(lines))

    def __reduce__(self):
        """So that the error survives the way back from another process."""
        return type(self), (self.name, self.problems, self.count)


class Problems:
    """Gathers the problems of one table."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self._told: list[Problem] = []
        self._alike: Counter[tuple[str, str]] = Counter()

    def add(self, row: str, column: str, found: str, expected: str, remedy: str) -> None:
        """Note a problem; of many that are alike, and of very many, only the first are kept."""
        self.count += 1
        alike = column, remedy
        self._alike[alike] += 1
        if self._alike[alike] <= SHOWN_ALIKE and len(self._told) < SHOWN:
            self._told.append(Problem(row, column, found, expected, remedy))

    def stop_if_any(self) -> None:
        """Raise a ``DataError`` if there is a problem so far."""
        if self.count:
            raise DataError(self.name, self._told, self.count)

    def stop(self, row: str, column: str, found: str, expected: str, remedy: str) -> NoReturn:
        """Note a problem that leaves nothing further to check, and raise."""
        self.add(row, column, found, expected, remedy)
        raise DataError(self.name, self._told, self.count)
