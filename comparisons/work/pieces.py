"""Pieces of work: independent calls of one function (participant × model × restart, or replicates of a study).

    done = run_pieces(function, pieces, store="results/recovery", where=0)
    print(done.summary())

The same call runs them in this process, on all cores or on a cluster, and gives the same results: a piece is made
from its arguments alone, its seed among them (``seed_of``). What is finished is kept in the store; the same call,
given again, goes on from there, wherever it was stopped, and wherever it runs now. Results of other code are not
taken for those of today's (``identity.code_of``).

The same means to the last bit, on machines with the same libraries and processors; others may round differently.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .identity import fingerprint
from .places import Failure, outcomes
from .plain_data import DamagedData, from_bytes
from .store import FAILED, PieceStore


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
            lines.append(f"Tracebacks: {self.store / FAILED}. The same call tries these pieces again.")
        return "\n".join(lines)


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
    where: Any = 1,
    key: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, int], object] | None = None,
    overwrite: bool = False,
) -> Done:
    """Call a function once for each piece, with ``function(**piece.arguments)``.

    A piece that fails is told of, and the others go on; so they do when its process dies, as for want of memory.

    Args:
        function: gives plain data (see ``plain_data``). With a store, it has a name, in a module or script.
        pieces: with different names.
        store: folder in which finished pieces are kept, and from which they are taken. None: none.
        where: so many processes of this machine; 1: this one; 0: one for each core. Or a cluster, whose workers
            need no access to the store: the address of a scheduler of Dask, or a cluster (such as
            ``places.slurm_cluster`` makes) or a client of Dask, which stays open.
        key: what the results rest on beside function, code and arguments, by name, such as the content of a file
            that the function reads. With a store, all must be such that ``fingerprint`` can take them.
        progress: called before the first piece, and after each, with how many pieces are done (with those that
            failed), how many there are, and how many failed.
        overwrite: delete what the store holds, and start anew.

    Raises:
        FileExistsError: the store holds other work: another function, key or code, or a piece made from other
            arguments.
        TypeError: with a store, an argument or the key is of a type that cannot be told apart.
        ValueError: two pieces have the same name, or ``where`` is no place.
        KeyboardInterrupt: Ctrl-C. What was finished is in the store; the message says so.
    """
    pieces = tuple(pieces)
    names = [piece.name for piece in pieces]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"run_pieces: two pieces have the name {twice!r}; give each its own.")
    kept = None if store is None else PieceStore(store, function, key, overwrite=overwrite)
    made_from = {} if kept is None else _fingerprints(pieces)
    done = Done(store=None if kept is None else kept.path)
    if kept is not None:
        _take_kept(done, kept, made_from)
    todo = [(piece.name, piece.arguments) for piece in pieces if piece.name not in done.results]

    def tell() -> None:
        if progress is not None:
            progress(len(done.results) + len(done.failures), len(pieces), len(done.failures))

    try:
        with closing(outcomes(function, todo, where)) as arriving:
            tell()
            for name, outcome in arriving:
                if isinstance(outcome, Failure):
                    done.failures[name], done.tracebacks[name] = outcome.reason, outcome.traceback
                    if kept is not None:
                        kept.write_failure(name, outcome.reason, outcome.traceback)
                else:
                    result = from_bytes(outcome)
                    if kept is not None:
                        kept.write(name, made_from[name], result)
                    done.results[name] = result
                tell()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_interrupted(done, len(pieces))) from None
    for what in ("results", "failures", "tracebacks"):
        found = getattr(done, what)
        setattr(done, what, {name: found[name] for name in names if name in found})
    return done


def _fingerprints(pieces: Iterable[Piece]) -> dict[str, dict[str, str]]:
    """By piece, the fingerprint of each argument."""
    known: dict[int, str] = {}  # many pieces share large arguments, such as the data; all live as long as this
    for piece in pieces:
        for name, value in piece.arguments.items():
            try:
                if id(value) not in known:
                    known[id(value)] = fingerprint(value)
            except TypeError as error:
                raise TypeError(f"Piece {piece.name!r}, argument {name!r}: {error}") from None
    return {piece.name: {name: known[id(v)] for name, v in piece.arguments.items()} for piece in pieces}


def _take_kept(done: Done, store: PieceStore, made_from: Mapping[str, Mapping[str, str]]) -> None:
    """Take the pieces that are in the store."""
    for name, arguments in made_from.items():
        try:
            done.results[name] = store.read(name, arguments)
        except KeyError:
            continue
        except DamagedData as error:
            done.damaged[name] = str(error)
    done.kept = tuple(done.results)


def _interrupted(done: Done, total: int) -> str:
    told = f"Interrupted; {len(done.results)} of {total} pieces are done"
    if done.store is None:
        return f"{told}, and not kept: with a store, the same call would go on from there."
    return f"{told}, and kept in {done.store}. Give the same call again to go on."
