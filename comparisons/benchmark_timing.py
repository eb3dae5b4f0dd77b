"""How a case of the benchmark is measured: what a case is, and the kinds of measurement."""

from __future__ import annotations

import gc
import math
import time
import timeit
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[], float]
"""One measurement: seconds of one unit."""
MOST_TIMES = 40
"""How often the least work is done at most, where the time of a call that does none drowns it."""


@dataclass(frozen=True)
class Case:
    """One thing to be timed."""

    name: str
    group: str
    """The section of the table."""
    unit: str
    """What is counted: the time is that of one ``trial``, ``step``, ..."""
    prepare: Callable[[], Run] = field(repr=False)
    """Makes all that is needed, untimed; what it returns makes one measurement a call."""
    baseline: str | None = None
    """Name of the case, earlier in the table, that the ratio is to."""
    curve: tuple[str, int, str] | None = None
    """Where it lies in the figure: what grows (a panel each), its size, and whose line it is."""
    most: int | None = None
    """Measurements at most, where one takes seconds."""

    @property
    def about(self) -> str:
        """What is timed, in a line."""
        text = getattr(self.prepare, "func", self.prepare).__doc__ or ""
        return text.strip().partition("\n")[0]


def prepared(case: Case) -> Run:
    """What measures a case, once it is set up.

    What was made is kept from the search for garbage (a composition is some 100,000 objects): a measurement would
    take the longer, the more other cases there are.
    """
    run = case.prepare()
    gc.collect()
    gc.freeze()
    return run


def told(error: BaseException) -> str:
    """An error in a line, with the place where it was raised."""
    places = traceback.extract_tb(error.__traceback__)
    where = f" ({places[-1].filename}, line {places[-1].lineno}, in {places[-1].name})" if places else ""
    return f"{type(error).__name__}: {error}{where}"


def clocked(call: Callable[..., object], *arguments: Any) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def whole(call: Callable[[Any], object], work: Any, units: float) -> Run:
    """The time of a call on some work of so many units."""
    return lambda: clocked(call, work) / units


def marginal(
    call: Callable[[Any], object],
    work: Callable[[int], Any],
    least: int,
    units: float = 1,
    most: int | None = None,
) -> Run:
    """What one more piece of work costs in a call: the difference of two calls, over the pieces between.

    What a call costs however much it does goes out; what it does for each piece outside of the piece itself
    (preparing inputs, joining records) stays in. The longer call is made three times as long as that of one piece,
    not to drown in its noise; how long is settled once.

    Args:
        call: what is timed.
        work: gives so many pieces of work.
        least: pieces between the two calls, at least.
        units: of what is counted, in one piece.
        most: pieces between the two calls, at most; by default ``MOST_TIMES`` the least.
    """
    one, some = work(1), work(1 + least)
    call(one)
    # Of two calls the shorter: what delays a call makes the number too small, and does so for all rounds.
    short, long = (min(clocked(call, pieces) for _ in range(2)) for pieces in (one, some))
    piece = max(long - short, 1e-6) / least
    number = min(max(least, math.ceil(2 * short / piece)), most or MOST_TIMES * least)
    many = work(1 + number)

    def run() -> float:
        call(one)  # what other cases did with the model in between may make the next call dearer
        short = clocked(call, one)
        return (clocked(call, many) - short) / (number * units)

    return run


def fixed(call: Callable[[Any], object], work: Callable[[int], Any]) -> Run:
    """What a call costs before any work: that on one piece, without the piece, which a call on ten tells."""
    one, ten = work(1), work(10)

    def run() -> float:
        call(one)  # as in ``marginal``
        short = clocked(call, one)
        return short - (clocked(call, ten) - short) / 9

    return run


def repeated(call: Callable[[], object]) -> Run:
    """The time of a short call, made as often as fills .2 seconds; how often is settled once."""
    timer = timeit.Timer(call)
    calls, _ = timer.autorange()
    return lambda: timer.timeit(calls) / calls
