"""Pieces of work: independent calls of one function (participant × model × restart, or replicates of a study).

    done = run_pieces(function, pieces, store="results/recovery", where=Cores())
    print(done.summary())

The same call runs them in this process, on all cores or on a cluster, and gives the same results: a piece is made
from its arguments alone, its seed among them (``seed_of``). What is finished is kept in the store; the same call,
given again, goes on from there, wherever it was stopped, and wherever it runs now.

The same means to the last bit, on machines with the same libraries and processors; others may round differently.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .calls import Call, InProcess, Outcome, Place
from .cluster import Cluster, Slurm
from .cores import Cores
from .plain_data import PLAIN, Codec, DamagedData, fingerprint
from .store import PieceStore, unpack

__all__ = [
    "PLAIN",
    "Cluster",
    "Codec",
    "Cores",
    "Done",
    "InProcess",
    "Piece",
    "PieceFailed",
    "Slurm",
    "WorkInterrupted",
    "fingerprint",
    "progress_bar",
    "run_pieces",
    "seed_of",
]

Progress = Callable[[int, int, int], None]
"""Is told how many pieces are done (with those that failed), how many there are, and how many failed."""


@dataclass(frozen=True)
class Piece:
    """One call.

    Raises:
        ValueError: the name is empty.
    """

    name: str
    """Tells it from the others of the work, for good: its seed and its file go by it."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the function, by name."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"Piece: name must be text; got {self.name!r}.")


@dataclass
class Done:
    """What became of pieces of work."""

    results: dict[str, Any] = field(default_factory=dict)
    """By name, in the order of the pieces; without those that failed."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why pieces failed, in a line, by name."""
    tracebacks: dict[str, str] = field(default_factory=dict)
    """Of the pieces that failed; also in the store's folder ``failed``."""
    kept: tuple[str, ...] = ()
    """Pieces whose results were in the store already."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Pieces in the store that could not be read, and why; they were computed again."""
    store: Path | None = None

    def summary(self) -> str:
        """All of this but the results, in a few lines."""
        lines = [f"{len(self.results)} of {len(self.results) + len(self.failures)} pieces done."]
        if self.kept:
            lines[0] += f" {len(self.kept)} of them were kept in {self.store} before."
        for name, reason in self.damaged.items():
            lines.append(f"{name}: computed again, because what was kept could not be read ({reason}).")
        for name, reason in self.failures.items():
            lines.append(f"{name}: failed ({reason}).")
        if self.failures and self.store is not None:
            lines.append(f"Tracebacks: {self.store / 'failed'}. The same call tries these pieces again.")
        return "\n".join(lines)


class PieceFailed(RuntimeError):
    """A piece failed, and this was to end the work."""


class WorkInterrupted(KeyboardInterrupt):
    """Ctrl-C during pieces of work; the message says what is kept, and how to go on."""


def seed_of(study_seed: int, name: str) -> int:
    """The seed of a piece: 63 bits, of the study's seed and the piece's name.

    It depends neither on how many pieces there are nor on their order.

    Raises:
        ValueError: the study's seed is no whole number ≥ 0.
    """
    if isinstance(study_seed, bool) or not isinstance(study_seed, (int, np.integer)) or study_seed < 0:
        raise ValueError(f"seed_of: the study's seed must be a whole number ≥ 0; got {study_seed!r}.")
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4")  # hash() differs from process to process
    sequence = np.random.SeedSequence(int(study_seed), spawn_key=words.tolist())
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def run_pieces(
    function: Callable[..., Any],
    pieces: Iterable[Piece],
    *,
    store: str | os.PathLike[str] | None = None,
    where: Place | None = None,
    key: Mapping[str, Any] | None = None,
    codec: Codec = PLAIN,
    progress: Progress | None = None,
    on_error: Literal["report", "raise"] = "report",
    overwrite: bool = False,
) -> Done:
    """Call a function once for each piece, with ``function(**piece.arguments)``.

    Args:
        function: of a module, or a ``functools.partial`` of one; gives what the codec makes plain data of.
        pieces: with different names.
        store: folder in which finished pieces are kept, and from which they are taken. None: none.
        where: ``InProcess()`` (the default), ``Cores(n)`` or ``Cluster(...)``.
        key: what the results rest on beside function and arguments, by name, such as the content of a file that
            the function reads. With a store, all three must be such that ``fingerprint`` can take them.
        codec: of the results, unless they are plain data themselves.
        progress: called before the first piece, and after each.
        on_error: ``report``: a piece that fails is told of, and the others go on. ``raise``: the work ends there.
        overwrite: delete what the store holds, and start anew.

    Raises:
        FileExistsError: the store holds other work: another function, key or version of eplstm, or a piece made
            from other arguments.
        TypeError: with a store, an argument or the key is of a type that cannot be told apart.
        ValueError: two pieces have the same name, or the function cannot be imported by other processes.
        PieceFailed: with ``on_error="raise"``.
        WorkInterrupted: Ctrl-C. What was finished is in the store.
    """
    pieces, where = tuple(pieces), InProcess() if where is None else where
    _check(function, pieces, where, on_error)
    folder = None if store is None else PieceStore(store, function, key, overwrite=overwrite)
    calls = _calls(function, pieces, codec, fingerprints=folder is not None)
    done = Done(store=None if folder is None else folder.path)
    if folder is not None:
        _take_kept(done, folder, calls)
    todo = [call for call in calls if call.name not in done.results]

    def tell() -> None:
        if progress is not None:
            progress(len(done.results) + len(done.failures), len(pieces), len(done.failures))

    tell()
    made_from = {call.name: call.made_from for call in todo}
    try:
        with closing(where.outcomes(todo)) as arriving:
            for name, outcome in arriving:
                if outcome.data is None:
                    _report(done, folder, name, outcome, on_error)
                else:
                    if folder is not None:
                        folder.write(name, outcome.data)
                    done.results[name] = codec.from_plain(unpack(outcome.data, name, made_from[name]))
                tell()
    except KeyboardInterrupt:
        raise WorkInterrupted(_interrupted(done, len(pieces))) from None
    for what in ("results", "failures", "tracebacks"):
        found = getattr(done, what)
        setattr(done, what, {piece.name: found[piece.name] for piece in pieces if piece.name in found})
    return done


def _check(function: Callable[..., Any], pieces: tuple[Piece, ...], where: Place, on_error: str) -> None:
    if on_error not in ("report", "raise"):
        raise ValueError(f"run_pieces: on_error must be 'report' or 'raise'; got {on_error!r}.")
    names = set()
    for piece in pieces:
        if piece.name in names:
            raise ValueError(f"run_pieces: two pieces have the name {piece.name!r}; give each its own.")
        names.add(piece.name)
    where.check(function)


def _calls(function: Callable[..., Any], pieces: Iterable[Piece], codec: Codec, fingerprints: bool) -> list[Call]:
    """The pieces as calls, with the fingerprints of their arguments if they are wanted."""
    known: dict[int, str] = {}  # many pieces share large arguments, such as the data; all live as long as this

    def of(piece: Piece) -> dict[str, str]:
        found = {}
        for name, value in piece.arguments.items():
            if id(value) not in known:
                try:
                    known[id(value)] = fingerprint(value)
                except TypeError as error:
                    raise TypeError(f"Piece {piece.name!r}, argument {name!r}: {error}") from None
            found[name] = known[id(value)]
        return found

    return [Call(each.name, function, each.arguments, codec, of(each) if fingerprints else {}) for each in pieces]


def _take_kept(done: Done, folder: PieceStore, calls: Iterable[Call]) -> None:
    """Take the pieces that are in the store."""
    for call in calls:
        data = folder.read(call.name)
        if data is None:
            continue
        try:
            plain = unpack(data, call.name, call.made_from)
        except DamagedData as error:
            done.damaged[call.name] = str(error)
            continue
        done.results[call.name] = call.codec.from_plain(plain)
    done.kept = tuple(done.results)


def _report(done: Done, folder: PieceStore | None, name: str, outcome: Outcome, on_error: str) -> None:
    """Keep a failure."""
    done.failures[name], done.tracebacks[name] = outcome.reason, outcome.traceback
    if folder is not None:
        folder.write_failure(name, outcome.reason, outcome.traceback)
    if on_error == "raise":
        raise PieceFailed(f"The piece {name!r} failed ({outcome.reason}).\n{outcome.traceback}")


def _interrupted(done: Done, total: int) -> str:
    told = f"Interrupted; {len(done.results)} of {total} pieces are done"
    if done.store is None:
        return f"{told}, and not kept: with a store, the same call would go on from there."
    return f"{told}, and kept in {done.store}. Give the same call again to go on."


@contextmanager
def progress_bar(console: Any = None, what: str = "Pieces") -> Iterator[Progress]:
    """A progress bar; gives the function that is told how far the pieces are, as ``run_pieces`` does.

    Args:
        console: a ``rich.console.Console``; None: one that writes to the standard output.
        what: stands before the bar.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    failing = TextColumn("[red]{task.fields[failing]}[/red]")
    with Progress(*columns, failing, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = None

        def tell(done: int, total: int, failed: int) -> None:
            nonlocal task
            if task is None:  # begins with what was kept: the time that remains goes by the pieces computed now
                task = bar.add_task(what, total=total, completed=done, failing="")
            bar.update(task, completed=done, failing=f"{failed} failed" if failed else "")

        yield tell
