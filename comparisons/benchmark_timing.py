"""What a case of the benchmark is, of which size, and how it is measured."""

from __future__ import annotations

import math
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

Run = Callable[[], float]
"""One measurement: seconds of one unit."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the cases; those of the agent are those of dnd-lstm. Of several sizes, none: not measured.

    Raises:
        ValueError: one is out of range.
    """

    trials: int = 40
    """Trials in a measurement of training; of longer trials proportionally fewer."""
    obs_dim: int = 32
    """Columns of the observation, and again of the context: half of the inputs."""
    trial_length: int = 10
    """Steps in a trial."""
    hidden_size: int = 32
    """Hidden units."""
    entries: int = 100
    """Entries that the memory holds; it is full."""
    people: int = 24
    """People, of 120 trials each, whose choices are fitted."""
    bandit: tuple[int, int] = (64, 64)
    """Worlds of the barcode bandit, and hidden units of the agent in them."""
    two_step: tuple[int, int] = (32, 32)
    """The same of the two-step task."""
    two_step_trials: int = 100
    """Trials in an episode of the two-step task, of two steps each."""
    grow_steps: tuple[int, ...] = (5, 10, 20, 40, 80)
    """Steps in a trial, for the growth of training time."""
    grow_hidden: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Hidden units, for the same."""
    grow_entries: tuple[int, ...] = (10, 100, 1000, 10_000)
    """Entries in memory, for the same."""
    environments: tuple[int, ...] = (1, 8, 32, 128)
    """Environments of one agent (copies of the task, one update from all); the time is that of a trial of one."""
    agents: tuple[int, ...] = (1, 8, 32, 128, 512)
    """Agents of a cohort; the time is that of a trial of one."""
    retrieval: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    """Entries of a memory alone, for the time of one retrieval."""
    callables: tuple[str, ...] = ()
    """Other implementations to time, each as module:function; the current folder is looked in first. Called as
    make(config, trials, weights, memory), with a ModelConfig, Trials, weights() and memory() to begin with, it
    returns a function step(n), called with 0, 1, ..., len(trials) - 1, and over again: it trains on trial n, with
    an actor-critic loss (discount 0) and one update of Adam (learning rate 5e-4)."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            for item in [value] if isinstance(value, int) else value:
                if isinstance(item, int) and item < 1:
                    raise ValueError(f"{f.name} must be whole numbers ≥ 1; got {item!r}.")
                if isinstance(item, str) and not all(item.partition(":")):
                    raise ValueError(f"{f.name} must have the form module:function; got {item!r}.")

    def quick(self) -> Sizes:
        """A look at the whole in a minute or two: no large sizes."""
        largest = {"grow_steps": 20, "grow_hidden": 64, "grow_entries": 1000}
        largest |= {"environments": 8, "agents": 32, "retrieval": 10_000}
        cut = {name: tuple(size for size in getattr(self, name) if size <= most) for name, most in largest.items()}
        return replace(self, trials=min(self.trials, 10), **{name: sizes[-2:] for name, sizes in cut.items()})


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
    """Name of the case that the ratio is to."""
    curve: tuple[str, int, str] | None = None
    """Where it lies in the figure: what grows (a panel each), its size, and whose line it is."""
    most: int | None = None
    """Measurements at most, where one takes seconds."""

    @property
    def about(self) -> str:
        """What is timed, in a line."""
        text = getattr(self.prepare, "func", self.prepare).__doc__ or ""
        return text.strip().partition("\n")[0]


def clocked(call: Callable[..., object], *arguments: Any) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def whole(call: Callable[[Any], object], work: Any, units: float) -> Run:
    """The time of a call on some work of so many units."""
    return lambda: clocked(call, work) / units


def marginal(
    call: Callable[[Any], object], work: Callable[[int], Any], least: int, units: float = 1, most: int = 1000
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
        most: pieces between the two calls, at most.
    """
    one, some = work(1), work(1 + least)
    call(one)
    # Of two calls the shorter: what delays a call makes the number too small, and does so for all rounds.
    short, long = (min(clocked(call, pieces) for _ in range(2)) for pieces in (one, some))
    piece = max(long - short, 1e-6) / least
    number = min(max(least, math.ceil(2 * short / piece)), most)
    many = work(1 + number)

    def run() -> float:
        call(one)  # what other cases did with the model in between may make the next call dearer
        short = clocked(call, one)
        return (clocked(call, many) - short) / (number * units)

    return run


def repeated(call: Callable[[], object]) -> Run:
    """The time of a short call, made as often as fills .2 seconds; how often is settled once."""
    timer = timeit.Timer(call)
    calls, _ = timer.autorange()
    return lambda: timer.timeit(calls) / calls
