"""From cells to values: each column of a table read as its kind says, and every cell that does not fit noted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .files import RawTable
from .problems import Problems
from .schema import Column, Kind, is_missing

LARGEST = 2**53
"""Whole numbers from here on are not exact as floats, and stand for a mistake."""


@dataclass(frozen=True, eq=False)
class Values:
    """A column of n cells as values."""

    array: np.ndarray
    """(n,) str objects (ids), int64 (whole numbers), float (numbers, seconds) or bool (switches)."""
    given: np.ndarray
    """(n,) bool: cells with a value that fits; elsewhere the array holds a filler."""
    wrong: np.ndarray
    """(n,) bool: cells that have been noted as a problem."""


def read_column(table: RawTable, column: Column, problems: Problems, below: int | None = None) -> Values:
    """The values of a column; cells that hold something else, or numbers not ``below`` this, are noted."""
    cells = table.columns[column.name]
    read, filler, dtype = _READERS[column.kind]
    array = np.full(len(cells), filler, dtype)
    given, wrong = np.zeros((2, len(cells)), bool)
    for i, cell in enumerate(cells):
        text = cell.strip() if isinstance(cell, str) else cell
        if text is None or _is_nan(text) or (isinstance(text, str) and is_missing(text)):
            wrong[i] = not column.may_be_missing
        elif (value := read(text)) is None or not _in_range(value, column, below):
            wrong[i] = True
        else:
            array[i], given[i] = value, True
    for i in np.flatnonzero(wrong).tolist():
        found = "nothing" if cells[i] in (None, "") or _is_nan(cells[i]) else repr(cells[i])
        remedy = column.remedy or "Correct the cell" + (", or empty it." if column.may_be_missing else ".")
        problems.add(table.row(i), f"'{column.name}'", found, column.expected(below), remedy)
    return Values(array, given, wrong)


def _in_range(value: Any, column: Column, below: int | None) -> bool:
    if isinstance(value, str):
        return True
    return (column.least is None or value >= column.least) and (below is None or value < below)


def _is_nan(cell: Any) -> bool:
    return isinstance(cell, (float, np.floating)) and math.isnan(cell)


def _id(cell: Any) -> str | None:
    # Numbers come from Parquet: pandas makes 7 into 7.0 where a value of the column is missing.
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        cell = int(cell)
    text = str(cell)
    return text if text.isprintable() else None


def _number(cell: Any) -> float | None:
    if isinstance(cell, (bool, np.bool_)) or (isinstance(cell, str) and "_" in cell):  # Python reads 1_0 as 10
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _whole(cell: Any) -> int | None:
    value = _number(cell)
    return int(value) if value is not None and value.is_integer() and abs(value) < LARGEST else None


def _switch(cell: Any) -> bool | None:
    if isinstance(cell, (bool, np.bool_)):
        return bool(cell)
    if isinstance(cell, str) and cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    value = _number(cell)
    return bool(value) if value in (0.0, 1.0) else None


_READERS: dict[Kind, tuple[Callable[[Any], Any], Any, Any]] = {
    "id": (_id, "", object),
    "whole": (_whole, -1, np.int64),
    "number": (_number, math.nan, float),
    "seconds": (_number, math.nan, float),
    "switch": (_switch, False, bool),
}
"""By kind: from a cell to its value (None: it does not fit), what stands where there is none, and the dtype."""
