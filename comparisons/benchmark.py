"""Timing: cases that are measured in turn, and their ratios to the reference.

What is timed stands in ``benchmark_cases``, how the numbers are kept and shown in ``benchmark_results``; here is
how they come about. Every case is measured once in each round, and directly before it the case that it is
compared to, so that a machine that grows slower or faster meanwhile does so for both: a ratio is the median of
the ratios of such neighbours.
"""

from __future__ import annotations

import gc
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .benchmark_results import Benchmark, Curve, Result, describe_machine

MOST_TIMES = 40
"""How often the least work is done at most, where the time of a call that does none drowns it."""


class Timing(NamedTuple):
    """One measurement."""

    seconds: float
    units: float
    """How many of the things that are counted (trials, steps, ...) were done in that time."""


Run = Callable[[], Timing]


@dataclass(frozen=True)
class Case:
    """One thing to be timed."""

    name: str
    group: str
    """The section of the table."""
    unit: str
    """What is counted: the time is that of one ``trial``, ``step``, ..."""
    setup: Callable[[], Run]
    """Makes all that is needed, untimed; what it returns makes one measurement a call."""
    against: str | None = None
    """Name of the case, earlier in the table, that the ratio is to; None: its own reference."""
    curve: Curve | None = None
    most: int | None = None
    """Measurements at most, where one takes seconds."""
    warm_up: bool = True
    """Whether the first measurement is thrown away; not if ``setup`` has done the like."""


# ---- measuring ---------------------------------------------------------------------------------------


def measure(
    cases: Sequence[Case],
    repetitions: int,
    *,
    threads: int = 1,
    settings: dict[str, Any] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Benchmark:
    """Measure all cases, round after round; Ctrl-C ends it with what there is.

    Args:
        cases: the table; a case stands after the one it is compared to.
        repetitions: rounds.
        threads: of PyTorch, for the time being.
        settings: to be kept with the results.
        tell: called with the name of each case before it is measured.

    Raises:
        ValueError: two cases of one name, a reference that does not come first, or numbers out of range.
    """
    _check(cases, repetitions, threads)
    machine = describe_machine(threads)
    runner = _Runner(cases, threads)
    interrupted = False
    with _others_garbage_apart():
        try:
            for repetition in range(repetitions):
                for case in cases:
                    if case.most is None or repetition < case.most:
                        if tell is not None:
                            tell(case.name)
                        runner.measure(case)
        except KeyboardInterrupt:
            interrupted = True
    known = [result for result in runner.results.values() if result.seconds or result.failure]
    return Benchmark(known, machine, settings or {}, interrupted)


def _check(cases: Sequence[Case], repetitions: int, threads: int) -> None:
    for name, value in (("repetitions", repetitions), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number ≥ 1; got {value!r}.")
    earlier: set[str] = set()
    for case in cases:
        if case.name in earlier:
            raise ValueError(f"Two cases are called {case.name!r}; each needs a name of its own.")
        if case.against is not None and case.against not in earlier:
            raise ValueError(f"{case.name!r} is compared to {case.against!r}, which must stand before it.")
        earlier.add(case.name)


class _Runner:
    """Sets cases up when they are first needed, and measures them."""

    def __init__(self, cases: Iterable[Case], threads: int) -> None:
        self.threads = threads
        self.cases = {case.name: case for case in cases}
        self.results = {c.name: Result(c.name, c.group, c.unit, c.against, c.curve) for c in self.cases.values()}
        self.runs: dict[str, Run] = {}

    def measure(self, case: Case) -> None:
        """One measurement of a case, and directly before it one of what it is compared to."""
        self._prepare(case)  # what is compared is to be neighbours: no set-up in between
        reference = None if case.against is None else self._time(self.cases[case.against])
        seconds = self._time(case)
        if seconds is not None and reference:
            self.results[case.name].ratios.append(seconds / reference)

    def _prepare(self, case: Case) -> None:
        if case.name in self.runs or self.results[case.name].failure is not None:
            return
        with self._failing(case):
            run = case.setup()
            if case.warm_up:
                run()
            self.runs[case.name] = run
        gc.collect()
        gc.freeze()

    def _time(self, case: Case) -> float | None:
        """Seconds of one unit, kept in the case's result; None if it has failed."""
        self._prepare(case)
        result = self.results[case.name]
        if result.failure is not None:
            return None
        with self._failing(case):
            seconds, units = self.runs[case.name]()
            result.units = units
            result.seconds.append(seconds / units)
            return result.seconds[-1]
        return None

    @contextmanager
    def _failing(self, case: Case) -> Iterator[None]:
        """Note what is raised inside as the case's failure: the others are measured all the same."""
        try:
            with torch_settings(self.threads):
                yield
        except (Exception, SystemExit) as error:  # a user's module may do anything
            self.results[case.name].failure = _told(error)
            self.runs.pop(case.name, None)


def _told(error: BaseException) -> str:
    """An error in a line, with the place where it was raised."""
    places = traceback.extract_tb(error.__traceback__)
    where = f" ({places[-1].filename}, line {places[-1].lineno}, in {places[-1].name})" if places else ""
    return f"{type(error).__name__}: {error}{where}"


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """PyTorch with so many threads, for the time being; a default type that is set inside goes too."""
    before, kind = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_default_dtype(kind)


@contextmanager
def _others_garbage_apart() -> Iterator[None]:
    """What is frozen within is thawed at the end.

    A composition is some 100,000 objects. Were those of all cases searched for garbage during a measurement,
    it would depend on which other cases are in the table.
    """
    try:
        yield
    finally:
        gc.unfreeze()


# ---- measurements of one kind or another -------------------------------------------------------------


def clocked(call: Callable[..., object], *arguments: Any) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def whole(call: Callable[[Any], object], work: Any, units: float) -> Run:
    """The time of a call on some work of so many units."""
    return lambda: Timing(clocked(call, work), units)


def marginal(call: Callable[[Any], object], work: Callable[[int], Any], least: int, units: float = 1) -> Run:
    """What one more piece of work costs in a call: the difference of two calls, over the pieces between.

    What a call costs however much it does goes out; what it does for each piece outside of the piece itself
    (preparing inputs, joining records), which time stamps between trials would miss, stays in. The longer call
    is made three times as long as that of one piece, not to drown in its noise; how long is settled once.

    Args:
        call: what is timed.
        work: gives so many pieces of work.
        least: pieces between the two calls, at least; at most ``MOST_TIMES`` as many.
        units: of what is counted, in one piece.
    """
    one, some = work(1), work(1 + least)
    call(one)
    # Of two calls the shorter: what delays a call makes the number too small, and does so for all rounds.
    short, long = (min(clocked(call, pieces) for _ in range(2)) for pieces in (one, some))
    piece = max(long - short, 1e-6) / least
    number = min(max(least, math.ceil(2 * short / piece)), MOST_TIMES * least)
    many = work(1 + number)

    def run() -> Timing:
        call(one)  # what other cases did with the model in between may make the next call dearer
        short = clocked(call, one)
        return Timing(clocked(call, many) - short, number * units)

    return run


def fixed(call: Callable[[Any], object], work: Callable[[int], Any]) -> Run:
    """What a call costs before any work: that on one piece, without the piece, which a call on ten tells."""
    one, ten = work(1), work(10)

    def run() -> Timing:
        call(one)  # as in ``marginal``
        short = clocked(call, one)
        return Timing(short - (clocked(call, ten) - short) / 9, 1)

    return run


def repeated(call: Callable[[int], object], least: float = 0.03) -> Run:
    """The time of a short call, which is repeated with 0, 1, 2, ... until ``least`` seconds are full.

    How often is settled once.
    """
    calls = 1
    while _loop(call, calls) < least:
        calls *= 2
    return lambda: Timing(_loop(call, calls), calls)


def _loop(call: Callable[[int], object], calls: int) -> float:
    start = time.perf_counter()
    for index in range(calls):
        call(index)
    return time.perf_counter() - start
