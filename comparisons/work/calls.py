"""One piece of work as it travels, what comes of it, and the plainest place for it to run: this process.

Every piece runs on one thread, and what it leaves is packed where it ran: an outcome is the same bytes from
everywhere.
"""

from __future__ import annotations

import copy
import importlib.metadata
import pickle
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from .plain_data import Codec, full_name
from .store import pack

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
"""Environment of workers: several processes with several threads each would only get in each other's way."""


@dataclass(frozen=True)
class Outcome:
    """What became of one piece: packed data, or the reason why there are none."""

    data: bytes | None
    """As ``store.pack`` gives them; None: it failed."""
    reason: str = ""
    """In a line."""
    traceback: str = ""


@dataclass(frozen=True)
class Call:
    """One piece with all that it takes to compute it anywhere."""

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    codec: Codec
    made_from: Mapping[str, str]
    """The fingerprints of the arguments."""
    version: str = field(default_factory=lambda: importlib.metadata.version("eplstm"))
    """Of the code: another one elsewhere might give other results."""

    def __call__(self) -> Outcome:
        """Compute it; an error is an outcome, and an interruption is not."""
        try:
            here = importlib.metadata.version("eplstm")
            if here != self.version:
                raise RuntimeError(f"eplstm is {here} where the piece ran, {self.version} where it comes from.")
            result = self.function(**self.arguments)
            return Outcome(pack(self.name, self.made_from, self.codec.to_plain(result)))
        except (Exception, SystemExit) as error:
            return failed(error)


def failed(error: BaseException) -> Outcome:
    """The outcome of a piece that raised an error."""
    text = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Outcome(None, reason, "".join(traceback.format_exception(error)))


def call_pickled(data: bytes) -> Outcome:
    """Compute a pickled call; that it cannot be unpickled here is an outcome too."""
    try:
        call = pickle.loads(data)
    except Exception as error:
        return failed(error)
    return call()


def pickled(calls: Sequence[Call]) -> tuple[dict[str, bytes], dict[str, Outcome]]:
    """The calls, pickled, by name, and the outcomes of those that cannot be."""
    data, outcomes = {}, {}
    for call in calls:
        try:
            # Plain pickle: multiprocessing's own would send tensors through memory that dies with a process.
            data[call.name] = pickle.dumps(call)
        except Exception as error:
            outcomes[call.name] = failed(error)
    return data, outcomes


class Place(Protocol):
    """Where pieces run."""

    def check(self, function: Callable[..., Any]) -> None:
        """Raise ValueError if the function cannot run there."""
        ...

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[str, Outcome], None, None]:
        """The name and the outcome of each call, as they come; closing it ends what still runs."""
        ...


@dataclass(frozen=True)
class InProcess:
    """One piece after the other, in this process."""

    def check(self, function: Callable[..., Any]) -> None:
        """Anything that can be called."""

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[str, Outcome], None, None]:
        """In the order given."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as everywhere else: how sums are split among threads shows in the last digits
        try:
            for call in calls:
                # A copy, as other processes get: what a piece does to its arguments must not reach the next.
                yield call.name, replace(call, arguments=copy.deepcopy(call.arguments))()
        finally:
            torch.set_num_threads(threads)


def check_importable(function: Callable[..., Any], *, main: bool) -> None:
    """Raise ValueError if other processes cannot import a function.

    Args:
        function: it, or a ``functools.partial`` of it.
        main: whether they have what the script defines.
    """
    name = full_name(function)
    where = "processes other than this one"
    if "<" in name:
        raise ValueError(f"{name} cannot be imported by {where}: define the function at the top of a module.")
    if name.startswith("__main__.") and not main:
        raise ValueError(
            f"{name} cannot be imported by {where}: define the function in a module, and import it here."
        )


def check_number(name: str, value: int | None, least: int) -> None:
    """Raise ValueError unless a number is whole and large enough, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"{name} must be a whole number ≥ {least}; got {value!r}.")
