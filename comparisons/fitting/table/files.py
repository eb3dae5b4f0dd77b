"""Tables and stimuli as they lie on disk: cells by row and column, not yet understood."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd

from .problems import Problems

CSV, PARQUET = (".csv",), (".parquet", ".pq")


@dataclass(frozen=True, eq=False)
class RawTable:
    """Cells as a file has them: text from CSV, any value from Parquet or a DataFrame."""

    name: str
    """Of the file."""
    unit: str
    """What a row is called: ``line`` of a CSV file (from 1, the header's), else ``row`` (from 0)."""
    numbers: np.ndarray
    """(n,) int: line or row number of each row."""
    columns: dict[str, np.ndarray]
    """By name, (n,) object: text or another value; None, NaN or a spelling of it where there is none."""
    blank: int = 0
    """Lines with nothing on them, left out."""

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, i: int) -> str:
        """Where row i is, in words."""
        return f"{self.unit} {self.numbers[i]}"

    def keep(self, which: np.ndarray) -> RawTable:
        """The rows chosen by a mask (n,)."""
        columns = {name: cells[which] for name, cells in self.columns.items()}
        return RawTable(self.name, self.unit, self.numbers[which], columns, self.blank)


def read_table(source: str | os.PathLike[str] | pd.DataFrame) -> RawTable:
    """The cells of a .csv or .parquet file, or of a DataFrame.

    Raises:
        DataError: the file cannot be read as what its name says.
        FileNotFoundError: there is no such file.
        ImportError: Parquet, and pyarrow is not installed.
    """
    if isinstance(source, pd.DataFrame):
        return _from_frame(source, "the DataFrame")
    path = Path(source)
    check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Give the path of a .csv or .parquet table.")
    return _read_csv(path) if path.suffix.lower() in CSV else _read_parquet(path)


def check_suffix(path: Path) -> None:
    """Check that a table of this name can be read and written.

    Raises:
        DataError: the name ends in something else.
        ImportError: Parquet, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in CSV + PARQUET:
        remedy = "Name it .csv or .parquet, and let it be that."
        Problems(path.name).stop("file", "all", f"the ending '{path.suffix}'", ".csv or .parquet", remedy)
    if suffix in PARQUET and find_spec("pyarrow") is None:
        raise ImportError(
            f"{path.name}: Parquet needs pyarrow, which is not installed: pip install 'eplstm[parquet]', or use "
            "a .csv file."
        )


def read_arrays(source: str | os.PathLike[str] | Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """A name for errors, and the arrays of an .npz file, or those given themselves.

    Raises:
        DataError: the file is damaged, is no .npz file, or holds Python objects.
        FileNotFoundError: there is no such file.
    """
    if isinstance(source, Mapping):
        return "the stimuli", {name: np.asarray(array) for name, array in source.items()}
    path, arrays = Path(source), {}
    problems = Problems(path.name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Give the path of the stimuli's .npz file.")
    try:
        # Opened here: numpy leaves the file open if it is damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array")
            for name in archive.files:
                try:
                    arrays[name] = archive[name]
                except ValueError:  # what numpy raises rather than unpickle
                    text = "Save text as numpy.asarray(ids, dtype=str), numbers as numbers."
                    problems.add("file", name, "an array of Python objects", "text or numbers", text)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        remedy = "Write it again with numpy.savez_compressed, or with write_trials."
        problems.stop("file", "all", f"what numpy cannot read ({error})", "an .npz file", remedy)
    problems.stop_if_any()
    return path.name, arrays


def _read_csv(path: Path) -> RawTable:
    # The csv module, not pandas: it tells the line of each row, and neither guesses types nor fills short rows.
    problems, lines, numbers, last, blank = Problems(path.name), [], [], 0, 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        # strict: otherwise a quote that is never closed swallows the rest of the file without a word.
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                # A row begins on the line after the one on which the last row ended: cells may span lines.
                begins, last = last + 1, reader.line_num
                if any(cell.strip() for cell in cells):
                    lines.append(cells)
                    numbers.append(begins)
                else:
                    blank += 1
        except UnicodeDecodeError:
            remedy = "Save the file as CSV in UTF-8."
            problems.stop("file", "all", "text that is not UTF-8", "text in UTF-8", remedy)
        except csv.Error as error:
            remedy = 'Close every quote; within quotes, write " as "".'
            problems.stop(f"line {last + 1}", "all", f"what is not CSV ({error})", "cells between commas", remedy)
    if not lines:
        problems.stop("file", "all", "nothing", "a header and rows", "Export the table again.")
    header = [name.strip() for name in lines[0]]
    _check_header(header, problems)
    for cells, number in zip(lines[1:], numbers[1:], strict=True):
        if len(cells) != len(header):
            expected = f"{len(header)}, as many as the header has"
            remedy = "Put cells that contain commas in quotes, and write decimals with a point."
            problems.add(f"line {number}", "all", f"{len(cells)} cells", expected, remedy)
    problems.stop_if_any()
    rows = lines[1:]
    columns = {name: np.array([row[k] for row in rows], dtype=object) for k, name in enumerate(header)}
    return RawTable(path.name, "line", np.array(numbers[1:], dtype=int), columns, blank)


def _check_header(header: list[str], problems: Problems) -> None:
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        mark = "semicolons" if ";" in header[0] else "tabs"
        problems.stop(
            "header", "all", f"columns between {mark}", "columns between commas", "Export as CSV with commas."
        )
    for name in dict.fromkeys(compress(header, [header.count(name) > 1 for name in header])):
        found = f"{header.count(name)} columns of this name"
        problems.add("header", f"'{name}'", found, "one", "Rename or remove all but one.")


def _read_parquet(path: Path) -> RawTable:
    problems = Problems(path.name)
    try:
        # As it lies in the file: nullable types keep whole numbers whole where some are missing.
        frame = pd.read_parquet(path, engine="pyarrow", dtype_backend="numpy_nullable")
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        remedy = "Write it again with pandas' to_parquet, or with write_trials."
        problems.stop("file", "all", f"what cannot be read as Parquet ({error})", "a Parquet file", remedy)
    return _from_frame(frame, path.name)


def _from_frame(frame: pd.DataFrame, name: str) -> RawTable:
    header = [str(column).strip() for column in frame.columns]
    problems = Problems(name)
    _check_header(header, problems)
    problems.stop_if_any()
    columns = {column: _cells(frame.iloc[:, k]) for k, column in enumerate(header)}
    return RawTable(name, "row", np.arange(len(frame)), columns)


def _cells(series: pd.Series) -> np.ndarray:
    cells = series.astype(object).to_numpy(copy=True)
    cells[series.isna().to_numpy()] = None
    return cells
