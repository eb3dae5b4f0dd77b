"""Timing: cases that are measured by turns, their ratios, and the table, numbers and figure of what came out.

Every case is measured once in each round, and directly before it what it is compared to: another case, or the
same case with the code of another revision. A machine that grows slower or faster meanwhile does so for both: a
ratio is the median of the ratios of such neighbours. Processes of their own measure (``benchmark_processes``).
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator

from ..tasks.files import write_whole
from .axes import COLORS, MARKERS, dress
from .benchmark_timing import Case
from .page import DPI, versions, write_json
from .progress import Tell

FILES = ("benchmark.json", "benchmark.md", "benchmark.png")
HEADER = ("what", "per", "ms, median (quartiles)", "ratio, median (quartiles)", "to")

Ask = Callable[[str], float]
"""Seconds of one unit of the case of this name; ``CaseFailed`` if it cannot be measured."""


class CaseFailed(Exception):
    """A case raised something; the text is its error in a line."""


@dataclass
class Result:
    """What is known of a case."""

    case: Case
    baseline: str = ""
    """What it is compared to."""
    seconds: list[float] = field(default_factory=list)
    """Of one unit, a number a measurement."""
    ratios: list[float] = field(default_factory=list)
    """To the baseline, measured directly before."""
    failure: str | None = None
    """What the case or its baseline raised, and where; nothing is measured after that."""

    def cells(self) -> tuple[str, ...]:
        """The row of the table, by ``HEADER``."""
        times = "failed" if self.failure else median_and_quartiles([1e3 * seconds for seconds in self.seconds])
        return self.case.name, self.case.unit, times, median_and_quartiles(self.ratios), self.baseline

    def numbers(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        own = {name: getattr(self.case, name) for name in ("name", "group", "about", "unit", "curve")}
        return own | {name: value for name, value in vars(self).items() if name != "case"}


@dataclass
class Benchmark:
    """Results, and what they were measured on."""

    results: list[Result]
    machine: dict[str, Any]
    """As ``describe_machine`` gives it."""
    interrupted: bool = False

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        load, cores, notes = self.machine["load_at_start"], self.machine["cores"], []
        if load is not None and load + self.machine["threads"] > cores:
            notes.append(
                f"The machine was busy: a load of {load:.1f} at the start, with {cores} cores. Times may be too "
                "long; ratios suffer less. Measure again when nothing else runs."
            )
        for result in self.results:
            bad = sum(seconds <= 0 for seconds in result.seconds)
            if bad:
                notes.append(
                    f"{result.case.name}: {bad} of {len(result.seconds)} differences of two calls were not above "
                    "0; its time is lost in the noise. Take more --trials or more --repetitions."
                )
            if result.failure is not None:
                notes.append(f"{result.case.name} failed: {result.failure}")
        return notes + ["Interrupted: what had been measured until then is shown."] * self.interrupted

    def table(self) -> str:
        """The table, in Markdown; under what is compared to another revision, the ratio of each pair."""
        rows, group = [HEADER, ("---", "---", "---:", "---:", "---")], None
        for result in self.results:
            if result.case.group != group:
                group = result.case.group
                rows.append((f"**{group}**", "", "", "", ""))
            rows.append(result.cells())
            if result.baseline != (result.case.baseline or ""):
                rows.append(("", "", "", " ".join(f"{ratio:.2f}" for ratio in result.ratios), ""))
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)

    def write(self, folder: Path, settings: dict[str, Any]) -> list[Path]:
        """Write numbers (with the settings), table, and the figure (if there is a curve); the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / name for name in FILES]
        numbers = {"machine": self.machine, "settings": settings, "notes": self.notes}
        write_json(written[0], numbers | {"results": [result.numbers() for result in self.results]})
        write_whole(written[1], "\n\n".join([self.table(), measured_on(self.machine), *self.notes]) + "\n")
        if not any(result.case.curve and result.seconds for result in self.results):
            return written[:2]
        draw(self.results).savefig(written[2], dpi=DPI)
        return written


def measure(
    cases: Sequence[Case],
    repetitions: int,
    ask: Ask,
    *,
    other: tuple[str, Ask] | None = None,
    threads: int = 1,
    tell: Tell | None = None,
) -> Benchmark:
    """Measure all cases, round after round; Ctrl-C ends it with what there is.

    Args:
        cases: with what they are compared to.
        repetitions: rounds. Before its first, each is measured once in vain, which sets it up.
        ask: measures.
        other: a revision and what measures with its code: each case is compared to itself there.
        threads: with which ``ask`` measures.
        tell: called before each measurement, with the number of those done, of all, and the name of the case.

    Raises:
        ValueError: repetitions or threads are out of range.
    """
    for name, value in (("repetitions", repetitions), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number ≥ 1; got {value!r}.")
    machine, interrupted, ready = describe_machine(threads), False, set()
    results = [Result(case, other[0] if other else case.baseline or "") for case in cases]
    rounds = range(repetitions)
    planned = [result for n in rounds for result in results if n < (result.case.most or repetitions)]
    try:
        for done, result in enumerate(planned):
            case = result.case
            if tell is not None:
                tell(done, len(planned), what=case.name)
            if result.failure is not None:
                continue
            baseline = [(other[1], case.name)] if other else [(ask, case.baseline)] if case.baseline else []
            pair = [*baseline, (ask, case.name)]
            try:
                for one in pair:  # what is compared is to be neighbours: nothing is set up in between
                    if one not in ready:
                        one[0](one[1])
                        ready.add(one)
                *before, seconds = [by(name) for by, name in pair]
            except CaseFailed as error:
                result.failure = str(error)
            else:
                result.seconds.append(seconds)
                result.ratios += [seconds / number for number in before]
    except KeyboardInterrupt:
        interrupted = True
    return Benchmark([one for one in results if one.seconds or one.failure], machine, interrupted)


def describe_machine(threads: int) -> dict[str, Any]:
    """Versions, processor, cores, threads, load and date."""
    processor, listed = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if listed.exists():
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = (names or [processor])[0]
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor,
        "cores": joblib.cpu_count(),
        "threads": threads,
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def measured_on(machine: dict[str, Any]) -> str:
    """A machine in a line."""
    load = "unknown" if machine["load_at_start"] is None else f"{machine['load_at_start']:.1f}"
    found = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads used, load {load} at the "
        f"start; {machine['system']}; {found}; {machine['date']}"
    )


def median_and_quartiles(numbers: Sequence[float]) -> str:
    """As text; an empty one without numbers."""
    if not numbers:
        return ""
    first, median, third = np.quantile(numbers, (0.25, 0.5, 0.75))
    return f"{digits(median)} ({digits(first)} … {digits(third)})"


def digits(number: float) -> str:
    """Three digits that count, without an exponent where there are few zeros."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:#.3g}".rstrip(".")


def draw(results: Sequence[Result]) -> Canvas:
    """The growth curves, a panel for each size that grows; median and quartiles in ms."""
    curves: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = {}
    for result in results:
        if result.case.curve and result.seconds and np.median(result.seconds) > 0:
            axis, size, line = result.case.curve
            point = (size, *np.quantile(result.seconds, (0.5, 0.25, 0.75)) * 1e3)
            curves.setdefault((axis, result.case.unit), {}).setdefault(line, []).append(point)
    names = list(dict.fromkeys(name for lines in curves.values() for name in lines))
    columns = min(max(len(curves), 1), 3)
    height = max(math.ceil(len(curves) / columns), 1)
    canvas = Canvas(figsize=(4.2 * columns, 3.4 * height), layout="constrained")
    handles = {}
    for place, ((axis, unit), lines) in enumerate(curves.items()):
        ax = canvas.add_subplot(height, columns, place + 1)
        for name, points in lines.items():
            look: dict[str, Any] = {"color": COLORS[names.index(name) % len(COLORS)]}
            sizes, median, low, high = np.array(sorted(points)).T
            # Where a time is a difference that noise has turned, a logarithmic axis has no place for its quartile.
            ax.fill_between(sizes, np.where(low > 0, low, median), high, **look, alpha=0.18, linewidth=0)
            look |= {"marker": MARKERS[names.index(name) % len(MARKERS)]}
            (handles[name],) = ax.loglog(sizes, median, **look, markersize=4.5, linewidth=1.6)
        ax.grid(color="#DDDDDD", linewidth=0.6)
        ticks = sorted({size for points in lines.values() for size, *_ in points})
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda number, _: f"{number:g}")
        ax.minorticks_off()
        dress(ax, "", axis, f"ms per {unit}")
    if handles:
        below: Any = "outside lower center"
        canvas.legend(handles.values(), handles, loc=below, ncols=min(len(handles), 4), frameon=False)
    return canvas
