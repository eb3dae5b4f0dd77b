"""The format of the trial table and of the stimuli beside it: said here once, and in the README from here.

The table has one row a decision. The stimuli are either columns of the table (``x0``, ``x1``, ...), which then
has a row for each step of each trial, or arrays of an .npz file, one entry a trial; steps without a row are then
steps at which no choice was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["id", "whole", "number", "seconds", "switch"]
Need = Literal["always", "with x0", "never"]

MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "."})
"""How tables spell that there is no value, in lower case."""


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    kind: Kind
    meaning: str
    needed: Need = "always"
    """``with x0``: if the stimuli are columns."""
    may_be_missing: bool = False
    """Whether cells may be empty (or one of ``MISSING``)."""
    least: int | None = None
    """The smallest value."""
    remedy: str = ""
    """What to do if a cell holds something else; '': nothing particular."""

    def expected(self, below: int | None = None) -> str:
        """What a cell must hold, in words; ``below``: numbers must be smaller than this."""
        least = "" if self.least is None else f" ≥ {self.least}"
        if below is not None:
            least = f" from {self.least} to {below - 1}"
        what = {
            "id": "an id",
            "whole": f"a whole number{least}",
            "number": "a finite number",
            "seconds": f"a finite number{least}",
            "switch": "0 or 1",
        }[self.kind]
        return what + (", or nothing" if self.may_be_missing else "")


ID = "Give every row its participant's id; NA and the like mean that there is none."
ACTIONS = "Number the actions from 0, as many as the model has."
CHOICE = f"{ACTIONS[:-1]}; leave missing choices empty, or write NA."
TIME = "Give seconds; leave missing times empty, or write NA."
COLUMNS: tuple[Column, ...] = (
    Column("participant", "id", "who; always text, so that 007 stays 007", remedy=ID),
    Column("block", "whole", "trials between two clearings of the memory; a participant's blocks ascend"),
    Column("trial", "whole", "ascends within a block, in the order of presentation"),
    Column("step", "whole", "step of the trial, from 0; ascends within a trial", least=0),
    Column("choice", "whole", "the action taken, from 0; no value where none was", "always", True, 0, CHOICE),
    Column("rt", "seconds", "response time in seconds", "never", True, 0, TIME),
    Column("context", "id", "which context the trial shows; the same in all its rows", "never", True),
    Column("encounter", "whole", "how often the context has been seen, this trial included", "never", True, 1),
    Column("noise_off", "whole", "first step with evidence; the same in a whole block", "never", True, 0),
    Column("target", "whole", "the action that is rewarded", "with x0", least=0, remedy=ACTIONS),
    Column("encode", "switch", "whether the agent stores at this step", "with x0"),
    Column("retrieve", "switch", "whether it reads its memory; 1 if there is no such column", "never"),
)
"""The columns by name; those of the stimuli, ``x0``, ``x1``, ..., are described by ``STIMULUS``."""

STIMULUS = Column("x0, x1, ...", "number", "what the agent sees at this step, x_t, a column each", "never")

BY_NAME = {column.name: column for column in COLUMNS}
KEY = ("participant", "block", "trial", "step")
"""What identifies a row."""
LABELS = ("context", "encounter", "noise_off")
"""What describes a whole trial."""
STIMULUS_COLUMNS = ("target", "encode", "retrieve")
"""What stands beside ``x0``, ``x1``, ...; of no use without them."""

ARRAYS: dict[str, str] = {
    "participant": "(n,) text: whose trial it is",
    "block": "(n,) int",
    "trial": "(n,) int",
    "inputs": "(n, T, D) float: what the agent sees at each step, x_t",
    "targets": "(n, T) int: the action that is rewarded at each step",
    "encode": "(n, T) bool: the steps at which the agent stores",
    "retrieve": "(n, T) bool, optional: the steps at which it reads its memory; all by default",
    "context": "(n,) text or int, optional: which context the trial shows; '' for none",
    "encounter": "(n,) int, optional: how often the context has been seen; -1 for none",
    "noise_off": "(n,) int, optional: first step with evidence; -1 for none",
}
"""The arrays of the stimulus file, an entry for each of n trials; ids as in the table."""

OF_ARRAY = {"inputs": STIMULUS, "targets": BY_NAME["target"]} | {n: BY_NAME[n] for n in ARRAYS if n in BY_NAME}
"""The column that holds the same."""

OPTIONAL_ARRAYS = ("retrieve", *LABELS)


def is_missing(text: str) -> bool:
    """Whether a cell's text, without the white space around it, is one of the spellings of no value."""
    return text.lower() in MISSING


def stimulus_number(name: str) -> int | None:
    """The d of a column ``x<d>``; None for other columns."""
    found = re.fullmatch(r"x(0|[1-9]\d*)", name)
    return int(found.group(1)) if found else None


def plain_contexts(ids: Sequence[str]) -> bool:
    """Whether context ids are all whole numbers, and nothing is lost (such as leading zeros) if read as int."""
    return all(re.fullmatch(r"0|-?[1-9]\d{0,14}", one) for one in ids)


def schema_table() -> str:
    """The schema as a table in Markdown."""
    lines = ["| column | a cell holds | needed | meaning |", "|---|---|---|---|"]
    needed = {"always": "yes", "with x0": "if there is `x0`", "never": "no"}
    for column in (*COLUMNS, STIMULUS):
        names = ", ".join(f"`{name}`" if name != "..." else name for name in column.name.split(", "))
        lines.append(f"| {names} | {column.expected()} | {needed[column.needed]} | {column.meaning} |")
    return "\n".join(lines)
