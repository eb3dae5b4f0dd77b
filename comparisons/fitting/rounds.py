"""The trials of many blocks in the order in which the likelihood runs them, many side by side.

In each block, trials that store run one after the other, the k-th of all blocks at once; all other trials follow,
many at once. Axes: R restarts, B blocks, n trials in the order in which they are run, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...models.source import Source, stretches_between
from ...tasks.trials import Trials

ROWS = 192
"""Rows of the engine at once: enough to make calls cheap, few enough for the processor's cache."""
BYTES = 2**28
"""What is left behind for the way back by what is computed at once, about."""


def rows_at_once(hidden_size: int, n_trials: int, length: int, events: int) -> int:
    """How many blocks (times restarts) to compute at once, so that cache and memory hold what they leave."""
    # Gates and five more of H (cells and memories before and after their tanh, derivatives); weights of entries.
    row = 8 * n_trials * length * (10 * hidden_size + 5 * events)
    return max(1, min(ROWS, BYTES // max(row, 1)))


class Round(Source):
    """Trials that are run at once, of all blocks and restarts: one that stores, or several of the others.

    ``stretches``: steps that are run at once; ``stored``: steps that store; ``drive``: W_x x_t + b_x + b_h of
    these trials and steps, (T, 5H, n, B).
    """

    answers = False

    def __init__(
        self, trials: slice, stretches: list[slice], stored: Sequence[int], drive: np.ndarray, restarts: int
    ) -> None:
        self.trials, self.stretches, self.stored, self._drive = trials, stretches, stored, drive
        self.length = len(drive)
        self.shape = (restarts, *drive.shape[2:])
        """R, n, B"""

    @property
    def rows(self) -> int:
        """R · n · B"""
        return int(np.prod(self.shape))

    def x(self, steps: slice) -> np.ndarray:
        """Without columns: the inputs are not needed beside their drive."""
        return np.empty((1, self.rows, len(range(self.length)[steps]), 0))

    def drive(self, input_weight: np.ndarray, bias: np.ndarray, steps: slice, out: np.ndarray) -> None:
        """What was computed beforehand, into out (steps, 1, 5H, rows)."""
        out.reshape(*out.shape[:3], *self.shape)[...] = self._drive[steps, None, :, None]

    def by_row(self, value: np.ndarray) -> np.ndarray:
        """A value of each restart and block, (R, B) → (rows,)."""
        return np.broadcast_to(value[:, None], self.shape).reshape(-1)


class Arrangement:
    """Blocks of equally long trials, arranged to be run side by side.

    Blocks with fewer trials are filled up with trials of zeros that store and retrieve nothing.

    Args:
        blocks: the trials of each.
        needed: for each block, (n,) the steps of each trial that are needed, counted from the first.
        has_memory: whether anything is stored.
    """

    def __init__(self, blocks: Sequence[Trials], needed: Sequence[np.ndarray], has_memory: bool) -> None:
        self.blocks, self.length = blocks, blocks[0].length
        encode = [one.encode & has_memory for one in blocks]
        stores = [one.any(1) for one in encode]
        storing = [np.flatnonzero(one) for one in stores]
        others = [np.flatnonzero(~one) for one in stores]
        self.n_storing = max(map(len, storing))
        self.n_trials = self.n_storing + max(map(len, others))
        self.order = np.full((self.n_trials, len(blocks)), -1)
        """(n, B): the trial of each block that is run there; −1: none."""
        for b, (first, last, need) in enumerate(zip(storing, others, needed, strict=True)):
            self.order[: len(first), b] = first
            longest_first = last[np.argsort(-need[last], kind="stable")]
            self.order[self.n_storing : self.n_storing + len(last), b] = longest_first
        self.encode = self.arranged(encode, False)
        self._needed = self.arranged(list(needed), 0)
        self.events = [(int(k), int(t)) for k, t in np.argwhere(self.encode[: self.n_storing].any(1))]
        """Rank of the storing trial, and step, at which any of the blocks stores."""

    def arranged(self, arrays: Sequence[np.ndarray], filler: float) -> np.ndarray:
        """Arrays (n, ...) of each block → (n, B, ...), in the order in which they are run."""
        out = np.full((self.n_trials, len(self.blocks), *arrays[0].shape[1:]), filler, arrays[0].dtype)
        for b, array in enumerate(arrays):
            there = self.order[:, b] >= 0
            out[there, b] = array[self.order[there, b]]
        return out

    def places(self, b: int) -> np.ndarray:
        """Where the trials of a block lie among those that are run, (n,)."""
        order = self.order[:, b]
        return np.argsort(order, kind="stable")[np.count_nonzero(order < 0) :]

    def rounds(self, drive: np.ndarray, restarts: int, finds: np.ndarray | None, full: bool) -> list[Round]:
        """What is run at once, with this ``drive`` of the inputs (T, 5H, n, B).

        ``finds``: (n, B, T) bool, which queries find an entry; None: no memory is read, and nothing stored.
        ``full``: all steps; else of trials that are run for their choices alone only as many as needed.
        """
        stores = self.encode & (finds is not None)
        steps = np.arange(1, self.length + 1)
        last = np.maximum(self._needed, (stores * steps).max(-1)).max(1)  # (n,)
        if full:
            last[:] = self.length
        rounds = []
        n_storing = 0 if finds is None else self.n_storing
        for k in range(n_storing):
            encode = stores[k, :, : last[k]]
            stretches = stretches_between(encode, finds[k, :, : last[k]])  # type: ignore[index]
            stored = np.flatnonzero(encode.any(0)).tolist()
            rounds.append(Round(slice(k, k + 1), stretches, stored, drive[: last[k], :, k : k + 1], restarts))
        at_once = max(1, ROWS // (restarts * len(self.blocks)))
        for start in range(n_storing, self.n_trials, at_once):
            trials = slice(start, min(start + at_once, self.n_trials))
            length = int(last[trials].max())
            if length:
                rounds.append(Round(trials, [slice(0, length)], (), drive[:length, :, trials], restarts))
        return rounds
