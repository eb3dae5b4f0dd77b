"""Memories of many agents in many environments, side by side in arrays: match, read, write, gradients of reading.

A *ring* is one memory: its entries lie in rows, and when it is full the newest takes the row of the oldest. G
rings lie side by side; what an entry consists of are its *fields*, the first of which is the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .match import MOST_TRIALS, NOTHING, Match, Retrieval, View, all_equal
from .source import Source

ROWS_AT_FIRST = 16
"""Rows that a ring has when the first entry is stored; they are doubled when they are full."""

Repeated = Literal["append", "overwrite", "ignore"]
"""What storing an entry does that equals a stored one: a further entry; the newest of them is replaced, and keeps
its age; or nothing."""


class Bank:
    """G rings of entries.

    Args:
        sizes: columns of each field.
        limit: entries that a ring holds before its oldest is dropped.
        rings: how many there are at first.
    """

    def __init__(self, sizes: Sequence[int], limit: int, rings: int = 1) -> None:
        self.limit = limit
        self.fields = [np.zeros((rings, 0, size)) for size in sizes]
        """(G, rows, size) each; rows beyond a ring's entries are zeros or entries that were dropped."""
        self.n_stored = np.zeros(rings, np.int64)
        """(G,): entries stored ever since the ring was cleared."""
        self.born = np.full((rings, 0), -1, np.int64)
        """(G, rows): the trial that has stored each entry, as a number of a record; -1: none."""
        self.record, self.trial = 0, -1
        """The first number of the record that is made at present, and the row in it of the trial at hand in
        environment 0, which those of the others follow; -1: none is made."""
        self._records = 0
        self.changes = 0
        """How often entries have changed: what was found before holds as long as this is the same."""
        self.updates = 0
        """Which update is being made: what was stored in earlier ones is a constant in it."""
        self.tensors: dict[tuple[int, int], Sequence[Any]] = {}
        """By ring and row: the fields of entries stored in this update, where gradients flow back to them by
        PsyNeuLink's execution."""
        self._journal: list[tuple[np.ndarray, np.ndarray, list[np.ndarray]]] | None = None
        self._stored_before = self.n_stored

    def __len__(self) -> int:
        """Rings, G."""
        return len(self.n_stored)

    # ---- entries

    def count(self, ring: int = 0) -> int:
        """Entries in a ring."""
        return min(int(self.n_stored[ring]), self.limit)

    def by_age(self, ring: int = 0) -> np.ndarray:
        """Rows of a ring's entries, oldest first: (n,)."""
        stored = int(self.n_stored[ring])
        return np.arange(max(stored - self.limit, 0), stored) % self.limit

    def entries(self, ring: int = 0) -> list[np.ndarray]:
        """Copies of a ring's entries, oldest first: an array (n, size) a field."""
        rows = self.by_age(ring)
        return [field[ring, rows] for field in self.fields]

    def set_entries(self, fields: Sequence[np.ndarray], ring: int = 0) -> None:
        """Hold these entries instead, oldest first; of more than ``limit`` the newest."""
        self._journal = None
        self.tensors = {place: parts for place, parts in self.tensors.items() if place[0] != ring}
        fields = [np.asarray(field, dtype=float)[-self.limit :] for field in fields]
        n = len(fields[0])
        self._grow(n)
        for mine, given in zip(self.fields, fields, strict=True):
            mine[ring, :n] = given
        self.born[ring, :n] = -1
        self.n_stored[ring] = n
        self.changes += 1

    def clear(self, rings: int | slice = slice(None)) -> None:
        """Drop all entries of these rings."""
        self.n_stored[rings] = 0
        self.changes += 1

    # ---- which trial has stored an entry

    def new_record(self) -> int:
        """The first number of a new record: row k of it has number + k. Records may be made within others."""
        self._records += 1
        return self._records * MOST_TRIALS

    @contextmanager
    def recording(self, record: int, trial: int) -> Iterator[None]:
        """What is stored meanwhile is stored by a trial of a record, a row of it, and those that follow."""
        before = self.record, self.trial
        self.record, self.trial = record, trial
        try:
            yield
        finally:
            self.record, self.trial = before

    def numbers(self, environments: Any) -> Any:
        """Those of the trials at hand in these environments, as in ``born``."""
        return self.record + self.trial + environments if self.trial >= 0 else -1

    def rows(self, rings: np.ndarray | slice, n: int) -> np.ndarray:
        """Of the present record, for its first n entries: (G, n), a copy; not from 0 to ``MOST_TRIALS`` − 1 for
        entries that were not stored by it."""
        return self.born[rings, :n] - self.record

    # ---- what an update has stored can be undone

    def begin_update(self) -> None:
        """From now on, keep what entries take the place of."""
        self._journal, self._stored_before = [], self.n_stored.copy()
        self.updates += 1
        self.tensors.clear()

    def end_update(self, undo: bool = False) -> None:
        """Keep it no longer; ``undo``: what was stored since ``begin_update`` is gone, and what was there is
        back."""
        self.tensors.clear()
        if undo and self._journal is not None:
            for rings, rows, before in reversed(self._journal):
                for field, old in zip(self.fields, before, strict=True):
                    field[rings, rows] = old
            self.n_stored[:] = 0
            self.n_stored[: len(self._stored_before)] = self._stored_before
            self.changes += 1
        self._journal = None

    def open(self, rings: int) -> None:
        """See that there are at least so many rings."""
        further = rings - len(self)
        if further > 0:
            self.fields = [np.concatenate([f, np.zeros((further, *f.shape[1:]))]) for f in self.fields]
            self.n_stored = np.concatenate([self.n_stored, np.zeros(further, np.int64)])
            self.born = np.pad(self.born, [(0, further), (0, 0)], constant_values=-1)

    def resize(self, limit: int) -> None:
        """Hold at most so many entries from now on; the oldest are dropped."""
        kept = [(self.entries(ring), self.born[ring, self.by_age(ring)]) for ring in range(len(self))]
        self.limit = limit
        self.fields = [np.zeros((len(self), 0, field.shape[2])) for field in self.fields]
        self.born = self.born[:, :0]
        for ring, (fields, born) in enumerate(kept):
            self.set_entries(fields, ring)
            self.born[ring, : len(born[-limit:])] = born[-limit:]

    def _grow(self, rows: int) -> None:
        have = self.fields[0].shape[1]
        if rows > have:
            further = min(max(rows, 2 * have, ROWS_AT_FIRST), self.limit) - have
            self.fields = [
                np.concatenate([f, np.zeros((len(f), further, f.shape[2]))], axis=1) for f in self.fields
            ]
            self.born = np.pad(self.born, [(0, 0), (0, further)], constant_values=-1)

    # ---- writing

    def write(
        self,
        rings: np.ndarray,
        entries: Sequence[np.ndarray],
        repeated: Repeated = "append",
        compared: Sequence[int] = (0,),
        trials: np.ndarray | int = -1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Store one entry in each of k different rings.

        Args:
            rings: (k,) int.
            entries: (k, size) each.
            repeated: what becomes of an entry that is there already.
            compared: the fields in which it would be equal.
            trials: which trial stores each, as in ``born``: (k,), or one number.

        Returns:
            The row of each (k,), and whether it was stored (k,) bool.
        """
        stored = self.n_stored[rings]
        rows, new, kept = stored % self.limit, np.ones(len(rings), bool), np.ones(len(rings), bool)
        if repeated != "append":
            found, there = self._newest_equal(rings, entries, compared)
            rows, new = np.where(there, found, rows), ~there
            kept = new if repeated == "ignore" else kept
        if new.any():
            self._grow(min(int(stored[new].max()) + 1, self.limit))
        rings, rows_ = (rings, rows) if kept.all() else (rings[kept], rows[kept])
        if self._journal is not None:
            self._journal.append((rings, rows_, [field[rings, rows_] for field in self.fields]))
        for field, part in zip(self.fields, entries, strict=True):
            field[rings, rows_] = part if kept.all() else part[kept]
        self.born[rings, rows_] = trials if kept.all() or np.ndim(trials) == 0 else trials[kept]  # type: ignore[index]
        self.n_stored[rings] += new if kept.all() else new[kept]
        self.changes += 1
        return rows, kept

    def _newest_equal(
        self, rings: np.ndarray, entries: Sequence[np.ndarray], compared: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row of the newest entry that equals the one to be stored, and whether there is one: (k,) and (k,)."""
        view = self.view(rings)
        if view.n == 0:
            return np.zeros(len(rings), np.int64), np.zeros(len(rings), bool)
        equal = np.ones((len(rings), view.n), bool) if view.there is None else view.there.copy()
        for field in compared:
            same = (self.fields[field][rings, : view.n] == entries[field][:, None]).astype(float)
            columns = same.shape[-1]
            equal &= np.matmul(same, np.ones(columns)) == columns  # a product is faster than all()
        lag = np.where(equal, view.lag, np.iinfo(np.int64).max)
        return lag.argmin(-1), np.asarray(equal.any(-1))

    # ---- reading

    def view(self, rings: np.ndarray | slice = slice(None)) -> View:
        """The rings as they are to be searched."""
        stored = np.array(self.n_stored[rings])  # as it is now
        n = min(int(stored.max(initial=0)), self.limit)
        row = np.arange(n)
        there = None if bool((stored >= n).all()) else row < stored[:, None]
        return View(n, there, stored, self.limit)

    def match(self, settings: Retrieval, queries: np.ndarray, rings: np.ndarray | slice = slice(None)) -> Match:
        """What matches T queries to each of these rings: (G, T, K) → a ``Match``."""
        view = self.view(rings)
        keys = self.fields[0][rings, : view.n]
        if view.n and queries.shape[1] > 1 and all_equal(queries):
            queries = queries[:, :1]
        return settings.match(queries, keys, view)

    def read(self, match: Match, field: int = 1, rings: np.ndarray | slice = slice(None)) -> np.ndarray:
        """What a match gives of a field: (G, T or 1, size); zeros for a ring without entries."""
        return match.take(self.fields[field][rings, : match.view.n])


# ---- while trials are run ----------------------------------------------------------------------------------


@dataclass(eq=False)
class Read:
    """What the memories gave at some steps."""

    values: np.ndarray
    """(steps, P, H, B): before the tanh; zeros where nothing is retrieved."""
    found: np.ndarray | None = None
    """(P, B, steps or 1, H): the values found, before the switch."""
    switch: np.ndarray | None = None
    """(P, B, steps); None: 1."""
    match: Match | None = None
    field: np.ndarray | None = None
    """(G, n, H): the values among which they were found, if gradients are followed."""
    keys: np.ndarray | None = None
    """(P, B, steps or 1, K): the keys found, if they are asked for."""
    events: np.ndarray | None = None
    """(G, n): which of the run's storings each entry is from; −1: none."""

    @property
    def retrieved(self) -> np.ndarray:
        """As of ``Match``: what goes with (3, P, B, steps)."""
        nothing = NOTHING[:, None, None, None]
        if self.match is None:
            return nothing
        length, agents, _, rows = self.values.shape
        found = self.match.retrieved
        once = found.shape[2] == 1  # looked for once
        found = found.reshape(3, agents, -1, 1) if once else found.reshape(3, agents, rows, length)
        return found if self.switch is None else np.where(self.switch == 0, nothing, found)


@dataclass(eq=False)
class Stored:
    """What a run has stored at one step."""

    step: int
    agents: np.ndarray
    rows: np.ndarray
    events: np.ndarray
    """Numbers of the storings, each (k,); −1: nothing was stored."""


class RingMemory:
    """The rings of a bank, while trials are run: rows read and write those of their environments.

    Args:
        bank: for P agents in E environments, ring p · E + e is that of agent p in environment e.
        retrieval: kernel, ties, averaging.
        columns: those of x_t that are the key.
        agents: P.
        key_scale: by what each column of the key is multiplied, an array that goes with (P, B, T, K); None: 1.
        repeated: what storing a key does that is there.
        shared: all rows of an agent read its first ring, in place of each having one of its own; nothing is stored
            if there are several.
        follows: whether gradients are to flow from what is read to what this run has stored.
        shows_keys: whether what is read has the keys found, too.
        keeps_values: whether derivatives by the keys will be asked for.
    """

    def __init__(
        self,
        bank: Bank,
        retrieval: Retrieval,
        columns: slice,
        *,
        agents: int = 1,
        key_scale: np.ndarray | None = None,
        repeated: Repeated = "append",
        shared: bool = False,
        follows: bool = False,
        shows_keys: bool = False,
        keeps_values: bool = False,
    ) -> None:
        self.bank, self.retrieval, self.follows = bank, retrieval, follows
        self._columns, self._agents, self._key_scale = columns, agents, key_scale
        self._repeated: Repeated = repeated
        self._shared, self._shows_keys = shared, shows_keys
        self._keeps_values = keeps_values
        self._asked: tuple[tuple[int, int], np.ndarray, Read] | None = None  # keys answered last, and when
        self._value_size = bank.fields[1].shape[2]
        self._events = np.full((len(bank), 0), -1)
        self._n_events, self._update = 0, bank.updates
        self._slopes: np.ndarray | None = None

    def keys(self, source: Source, steps: slice) -> np.ndarray:
        """key(x_t): (P, B, steps, K)."""
        keys = source.x(steps)[..., self._columns]
        return keys if self._key_scale is None else keys * self._key_scale

    def _rings(self, rows: int) -> np.ndarray | slice:
        """The rings of so many rows, (P · B,)."""
        if self._agents == 1:
            self.bank.open(rows)
            return slice(0, rows)
        environments = len(self.bank) // self._agents
        if rows == environments:
            return slice(None)
        return (np.arange(self._agents)[:, None] * environments + np.arange(rows)).ravel()

    def read(self, source: Source, steps: slice) -> Read:
        """What these steps retrieve."""
        switch = source.switch(steps)
        if source.answers and not switch.any() and not (self._shows_keys and steps.stop == source.length):  # type: ignore[union-attr]
            agents, rows, length = switch.shape  # type: ignore[union-attr]
            return Read(np.zeros((length, agents, self._value_size, rows)))
        keys = self.keys(source, steps)
        agents, rows, length, _ = keys.shape
        asked = self._asked
        now = self.bank.updates, self.bank.changes
        if asked is not None and asked[0] == now and np.array_equal(asked[1], keys):
            before = asked[2]  # such as a barcode that stays the same for an episode
            return replace(before, values=_switched(before.found, switch, length), switch=switch)  # type: ignore
        rings = self._rings(1 if self._shared else rows)
        queries = keys.reshape((agents, rows * length, -1) if self._shared else (agents * rows, length, -1))
        match = self.bank.match(self.retrieval, queries, rings)
        match.born = self.bank.rows(rings, match.view.n)
        shows_keys = self._shows_keys and (not source.answers or steps.stop == source.length)

        def shaped(field: int) -> np.ndarray:
            found = self.bank.read(match, field, rings)
            if self._shared and found.shape[1] == 1 < rows:
                return np.broadcast_to(found[:, None], (agents, rows, 1, found.shape[-1]))
            return found.reshape(agents, rows, -1, found.shape[-1])

        found = shaped(1)
        read = Read(
            _switched(found, switch, length),
            found,
            switch,
            match,
            keys=shaped(0) if shows_keys else None,
        )
        if self._keeps_values and match.keys is not None:
            match.keys = match.keys.copy()  # other entries may lie there when they are needed
        if self._keeps_values:
            read.field = self.bank.fields[1][rings, : match.view.n].copy()
        if self.follows:
            self._follow()
            read.events = self._events[rings, : match.view.n].copy()
        self._asked = (now, keys, read)
        return read

    def write(self, source: Source, steps: slice, cells: np.ndarray) -> list[Stored]:
        """Store (key(x_t), c_t) where these steps say so, given c_t (steps, P, H, B)."""
        stores = source.stores(steps)
        if stores is None or not stores.any():
            return []
        keys, stored = self.keys(source, steps), []
        self._rings(stores.shape[1])  # sees that they are there
        environments = len(self.bank) // self._agents
        for t in np.flatnonzero(stores.any((0, 1))).tolist():
            agents, rows = np.nonzero(stores[..., t])
            rings = agents * environments + rows
            where, kept = self.bank.write(
                rings,
                (keys[agents, rows, t], cells[t][agents, :, rows]),
                self._repeated,
                trials=self.bank.numbers(rows),
            )
            if self.follows:
                self._follow()
                events = np.where(kept, self._n_events + np.arange(len(rings)), -1)
                self._n_events += len(rings)
                self._events[rings[kept], where[kept]] = events[kept]
                stored.append(Stored(steps.start + t, agents, rows, events))
        return stored

    def _follow(self) -> None:
        """See that there is an event for each row of each ring of the bank; what earlier updates have stored are
        constants."""
        if self._update != self.bank.updates:
            self._update, self._n_events, self._slopes = self.bank.updates, 0, None
            self._events[...] = -1
        have, need = self._events.shape, self.bank.fields[1].shape[:2]
        if have != need:
            self._events = np.pad(
                self._events, [(0, n - h) for n, h in zip(need, have, strict=True)], constant_values=-1
            )

    # ---- gradients

    @property
    def slopes(self) -> np.ndarray:
        """(storings, H): the loss's derivatives by what has been stored since the update began, as far as they
        have been gone through."""
        if self._slopes is None:
            self._slopes = np.zeros((self._n_events, self._value_size))
        return self._slopes

    def add_stored(self, stored: list[Stored], d_cells: np.ndarray) -> None:
        """Add to δc_t (T, P, H, B) what comes from later reads of what was stored."""
        for each in stored:
            slopes = np.where(each.events[:, None] < 0, 0.0, self.slopes[each.events])
            d_cells[each.step, each.agents, :, each.rows] += slopes

    def back(self, read: Read, d_values: np.ndarray) -> None:
        """Go back from what was read to what has been stored: δ of ``read.values`` (steps, P, H, B)."""
        if read.match is None or read.events is None or not (read.events >= 0).any():
            return
        d_found = d_values.transpose(1, 3, 0, 2)
        if read.switch is not None:
            d_found = d_found * read.switch[..., None]
        length = d_found.shape[2] if not self._shared else d_found.shape[1] * d_found.shape[2]
        d_field = read.match.by_field(d_found.reshape(len(read.events), length, -1), length)
        followed = read.events >= 0
        self.slopes[read.events[followed]] += d_field[followed]  # an event stands in one row of one ring

    def by_inputs(
        self, reads: Sequence[tuple[slice, Read]], d_read: np.ndarray, wants_keys: bool
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Derivatives by the keys (P, B, T, K), if wanted and there are any, and by the switch (P, B, T).

        Args:
            reads: steps, and what they have read.
            d_read: by what was retrieved, (T, P, H, B).
            wants_keys: whether those by the keys are needed.
        """
        d_keys, d_switches = [], []
        for steps, read in reads:
            d = d_read[steps].transpose(1, 3, 0, 2)
            d_switches.append((d * read.found).sum(-1))
            if wants_keys and read.match is not None and read.match.weights is not None:
                agents, rows, length, size = d.shape
                d_found = d if read.switch is None else d * read.switch[..., None]
                d_found = d_found.reshape(-1, length, size)
                d_key = read.match.by_queries(self.retrieval, read.field, d_found)  # type: ignore[arg-type]
                d_key = d_key.reshape(agents, rows, length, -1)
                d_keys.append(d_key if self._key_scale is None else d_key * self._key_scale)
        return np.concatenate(d_keys, axis=2) if d_keys else None, np.concatenate(d_switches, axis=2)


def _switched(found: np.ndarray, switch: np.ndarray | None, length: int) -> np.ndarray:
    """Values found (P, B, steps or 1, H) and the switch (P, B, steps) → what is retrieved, (steps, P, H, B)."""
    values = found if switch is None else found * switch[..., None]
    if values.shape[2] < length:
        values = np.broadcast_to(values, (*values.shape[:2], length, values.shape[3]))
    return values.transpose(2, 0, 3, 1)
