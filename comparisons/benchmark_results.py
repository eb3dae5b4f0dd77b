"""The numbers of a benchmark: kept in JSON with what they were measured on, and shown as table and figure."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from . import plots
from .report import DPI, plain, versions
from .work.files import write_whole

FORMAT = "eplstm-benchmark"
RESULTS_FILE, TABLE_FILE, FIGURE_FILE = "benchmark.json", "benchmark.md", "benchmark.png"
HEADER = ("what", "per", "ms, median (quartiles)", "÷ reference, median (quartiles)")
RATIOS = (
    "Ratios are to the reference in the same section and of the same size (those with 1); in sections without "
    "one, to one trial of the reference's training. Above 1 is slower."
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Numpy reads these when it is imported: ``torch.set_num_threads`` does not reach its products."""


@dataclass(frozen=True)
class Curve:
    """Where a case lies in the figure: on the line of one implementation, against one size."""

    axis: str
    """What grows, such as ``steps in a trial``; a panel each."""
    size: int
    line: str
    """Whose line, such as ``reference``."""


@dataclass
class Result:
    """What is known of a case."""

    name: str
    group: str
    unit: str
    against: str | None = None
    curve: Curve | None = None
    units: float = 0.0
    """How many of them one measurement took."""
    seconds: list[float] = field(default_factory=list)
    """Of one unit, a number a measurement."""
    ratios: list[float] = field(default_factory=list)
    """To the case compared to, measured directly before."""
    failure: str | None = None
    """What was raised, and where; nothing is measured after that."""

    @property
    def median(self) -> float:
        """Seconds of one unit."""
        return float(np.median(self.seconds))

    @property
    def ratio(self) -> float | None:
        """Median ratio to the case compared to; 1 for a case that is its own reference."""
        if self.against is None:
            return 1.0
        return float(np.median(self.ratios)) if self.ratios else None

    def summary(self) -> dict[str, Any]:
        """Everything for JSON: the measurements and what follows from them."""
        return {**plain(self), **_spread("seconds", self.seconds), **_spread("ratio", self.ratios)}


def _spread(name: str, numbers: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and extremes, by names for JSON; None without numbers."""
    low, first, median, third, high = np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1)) if numbers else [None] * 5
    values = {"median": median, "quartiles": [first, third], "extremes": [low, high]}
    return {f"{name}_{key}": plain(value) for key, value in values.items()}


@dataclass
class Benchmark:
    """A benchmark's results, and what they were measured on."""

    results: list[Result]
    machine: dict[str, Any]
    """As ``describe_machine`` gives it."""
    settings: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def failures(self) -> list[Result]:
        """The cases that raised something."""
        return [result for result in self.results if result.failure is not None]

    def warnings(self) -> list[str]:
        """What a reader of the numbers should know."""
        machine, told = self.machine, []
        load, cores, threads = machine.get("load_at_start"), machine.get("cores"), machine.get("threads")
        if load is not None and cores and threads and load + threads > cores:
            told.append(
                f"The machine was busy: a load of {load:.1f} at the start, with {cores} cores. Times may be too "
                "long; ratios suffer less. Measure again when nothing else runs."
            )
        for result in self.results:
            bad = sum(seconds <= 0 for seconds in result.seconds)
            if bad:
                told.append(
                    f"{result.name}: {bad} of {len(result.seconds)} differences of two calls were not above 0; "
                    "its time is lost in the noise. Take more --trials or more --repetitions."
                )
        if self.interrupted:
            told.append("Interrupted: what had been measured until then is shown.")
        return told

    def write(self, folder: Path) -> list[Path]:
        """Write ``benchmark.json``, ``benchmark.md`` and ``benchmark.png`` (if there is a curve); the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RESULTS_FILE, json.dumps(self.numbers(), indent=1, allow_nan=False) + "\n")
        write_whole(folder / TABLE_FILE, markdown(self))
        written = [folder / RESULTS_FILE, folder / TABLE_FILE]
        if any(result.curve and result.seconds for result in self.results):
            draw(self).savefig(folder / FIGURE_FILE, dpi=DPI)
            written.append(folder / FIGURE_FILE)
        return written

    def numbers(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "format": FORMAT,
            "version": 1,
            "machine": plain(self.machine),
            "settings": plain(self.settings),
            "interrupted": self.interrupted,
            "warnings": self.warnings(),
            "results": [result.summary() for result in self.results],
        }

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Benchmark:
        """Read ``benchmark.json``, or the one in a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not the result of a benchmark.
        """
        path = Path(path)
        path = path / RESULTS_FILE if path.is_dir() else path
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise KeyError("format")
            results = [_result_from(row) for row in found["results"]]
            return cls(results, found["machine"], found["settings"], found["interrupted"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the result of a benchmark ({error!r}).") from None


def _result_from(row: dict[str, Any]) -> Result:
    result = Result(**{f.name: row[f.name] for f in fields(Result)})
    result.curve = Curve(**row["curve"]) if row["curve"] else None
    return result


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """Raise FileExistsError if a benchmark cannot be written there; to be asked before minutes of measuring."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose a folder for the results.")
    for name in (RESULTS_FILE, TABLE_FILE, FIGURE_FILE):
        if (folder / name).exists() and not overwrite:
            raise FileExistsError(f"{folder / name} exists: choose another folder, or replace it (--overwrite).")


# ---- what it was measured on -------------------------------------------------------------------------


def describe_machine(threads: int) -> dict[str, Any]:
    """Versions, processor, cores, threads, load and date."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": _cores(),
        "threads": threads,
        "thread_variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "load_at_start": _load(),
    }


def processor() -> str:
    """The processor's model, as the system names it."""
    system = platform.system()
    name = ""
    try:
        if system == "Linux":
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
            name = names[0] if names else ""
        elif system == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return name or platform.processor() or platform.machine()


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> float | None:
    """Load average of the last minute, where the system has one."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


# ---- showing -----------------------------------------------------------------------------------------


def rows(benchmark: Benchmark) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The table: (group, cells), with cells by ``HEADER``."""
    for result in benchmark.results:
        times = [1e3 * seconds for seconds in result.seconds]
        ratio = "1" if result.against is None else _median_and_quartiles(result.ratios)
        cells = (_median_and_quartiles(times), ratio) if times else ("failed", "")
        yield result.group, (result.name, result.unit, *cells)


def _median_and_quartiles(numbers: Sequence[float]) -> str:
    if not numbers:
        return "–"
    first, median, third = np.quantile(numbers, (0.25, 0.5, 0.75))
    return f"{digits(median)} ({digits(first)} … {digits(third)})"


def digits(number: float) -> str:
    """Three digits that count, without an exponent where there are few zeros."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:#.3g}".rstrip(".")


def measured_on(machine: dict[str, Any]) -> str:
    """A machine in a line."""
    load = machine.get("load_at_start")
    found = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items())
    return (
        f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('threads')} threads used, load "
        f"{'unknown' if load is None else f'{load:.1f}'} at the start; {machine.get('system')}; {found}; "
        f"{machine.get('date')}"
    )


def markdown(benchmark: Benchmark) -> str:
    """The table in Markdown, with what it was measured on."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|---:|---:|"]
    group = None
    for name, cells in rows(benchmark):
        if name != group:
            group = name
            lines.append(f"| **{name}** |" + " |" * (len(HEADER) - 1))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    notes = [measured_on(benchmark.machine), *benchmark.warnings()]
    notes += [f"{result.name} failed: {result.failure}" for result in benchmark.failures]
    return "\n".join([*lines, "", RATIOS, "", *(f"{note}\n" for note in notes)])


def draw(benchmark: Benchmark) -> Canvas:
    """The growth curves, a panel for each size that grows."""
    curves: dict[str, dict[str, list[Result]]] = {}
    for result in benchmark.results:
        if result.curve and result.seconds and result.median > 0:
            curves.setdefault(result.curve.axis, {}).setdefault(result.curve.line, []).append(result)
    columns = min(len(curves), 3)
    height = math.ceil(len(curves) / max(columns, 1))
    canvas = Canvas(figsize=(4.2 * max(columns, 1), 3.4 * max(height, 1)), layout="constrained")
    if not curves:
        return canvas
    panels = np.ravel(canvas.subplots(height, columns, squeeze=False))
    everywhere = list(dict.fromkeys(name for lines in curves.values() for name in lines))
    for ax, (axis, lines) in zip(panels, curves.items(), strict=False):
        unit = next(iter(lines.values()))[0].unit
        points = {name: _points(lines[name]) for name in everywhere if name in lines}
        plots.plot_growth(points, axis, f"ms per {unit}", names=everywhere, legend=False, ax=ax)
    for ax in panels[len(curves) :]:
        ax.remove()
    named = {
        label: handle
        for ax in panels[: len(curves)]
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    canvas.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=min(len(named), 4), frameon=False
    )
    return canvas


def _points(line: list[Result]) -> np.ndarray:
    """(n, 4): size, and median, first and third quartile in ms."""
    spread = [np.quantile(result.seconds, (0.5, 0.25, 0.75)) * 1e3 for result in line]
    sizes = [result.curve.size for result in line if result.curve]
    points = np.column_stack([sizes, spread])
    return points[np.argsort(points[:, 0], kind="stable")]
