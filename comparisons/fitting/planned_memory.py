"""A memory for the engine whose queries and keys are known beforehand, of many people and values of parameters.

What people see depends neither on their parameters nor on their choices. So it is settled once which entries each
query can find, and how similar they are; what is left are the stored values, and the weights of an average.
Matching, averaging and their gradients are those of ``models/match.py``.

Axes: R restarts, B blocks, n trials in the order in which they are run, T steps, E events: storings of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.bank import Bank
from ...models.config import ModelConfig
from ...models.kernels import kernel
from ...models.match import Match, Retrieval, View, average_weights, nearest_rows
from ...models.person import Person
from .rounds import Arrangement, Round

Values = Mapping[str, np.ndarray]
"""Natural values of parameters, of each restart and block: (R, B)."""


def context_of_key(config: ModelConfig, context_columns: tuple[int, int] | None) -> np.ndarray:
    """Which columns of the key show the context, (K,) bool. Raises ValueError if the key has not both parts."""
    return Person(context_weight=0.75, context_columns=context_columns).key_scale(config) > 1.0


def lags(config: ModelConfig, keys: np.ndarray) -> np.ndarray:
    """What the memory holds after k = 0 ... E storings, of these keys (E, K).

    (E + 1, E) int: the lag of each event's entry: 0 for the newest; −1 if there is none.
    """
    events = len(keys)
    bank, after = Bank([keys.shape[1], 1], config.memory_capacity), np.full((events + 1, events), -1)
    for event in range(events):
        bank.write(np.array([0]), (keys[event, None], np.array([[event]])), config.repeated_key)
        held = bank.fields[1][0, bank.by_age(), 0].astype(int)
        after[event + 1, held] = np.arange(len(held))[::-1]
    return after


class Entries:
    """The entries that each query of the arranged trials can find, and how similar they are.

    Args:
        config: of the model.
        arrangement: of the trials.
        key_scale: (K,) by what each column of the key is multiplied.
        context: (K,) bool, the key's columns that show the context, if their weight is free; else None.
    """

    def __init__(
        self, config: ModelConfig, arrangement: Arrangement, key_scale: np.ndarray, context: np.ndarray | None
    ) -> None:
        self._kernel, self._context = kernel(config.kernel), context
        self.weighs_context = context is not None
        """Whether the similarities depend on the weight of the context."""
        retrieval = Retrieval(config.kernel, config.retrieval, ties=config.ties)
        order = arrangement.order
        shape = (order.shape[1], len(order), arrangement.length, len(arrangement.events))
        number = np.full((arrangement.n_storing, arrangement.length), -1)
        number[tuple(zip(*arrangement.events, strict=True)) or ([], [])] = np.arange(shape[3])
        self.lag = np.full(shape, -1.0)
        """(B, n, T, E): how many entries are stored after an event's."""
        self.similar: list[np.ndarray] = []
        """(B, n, T, E) each: the similarities; if the context's weight is free, the sums that they are made of,
        first those over the context's columns."""
        for b, trials in enumerate(arrangement.blocks):
            encode = trials.encode
            keys = trials.inputs[..., config.key_columns] * key_scale
            before = np.cumsum(encode).reshape(encode.shape) - encode
            seen = np.where(trials.retrieve[..., None], lags(config, keys[encode])[before], -1)
            trial, step = np.nonzero(encode)
            place = arrangement.places(b)  # of the block's trials; those that store come in their order
            columns = number[place[trial], step]
            at = (b, place[:, None, None], np.arange(arrangement.length)[:, None], columns)
            self.lag[at] = seen
            parts = self._parts(retrieval, keys.reshape(-1, keys.shape[-1]), keys[encode])
            self.similar = self.similar or [np.zeros(shape) for _ in parts]
            for whole, part in zip(self.similar, parts, strict=True):
                whole[at] = np.broadcast_to(part, (len(before.flat), len(columns))).reshape(seen.shape)
        self.there = self.lag >= 0
        """(B, n, T, E) bool: whether the query finds this event's entry in the memory."""
        self.finds = np.any(self.there, axis=-1)
        """(B, n, T) bool"""
        self.nearest: np.ndarray | None = None
        """(B, n, T) int: the event of the nearest entry; None: entries are averaged."""
        if config.retrieval == "nearest" and shape[3]:
            self.nearest = nearest_rows(self.similar[0], self.lag, ~self.there, config.ties)

    def _parts(self, retrieval: Retrieval, queries: np.ndarray, keys: np.ndarray) -> list[np.ndarray]:
        if self._context is None:
            return [retrieval.similarity(queries[None], keys[None])[0]]
        halves = [(queries[:, part], keys[:, part]) for part in (self._context, ~self._context)]
        return [s.numpy() for q, k in halves for s in self._kernel.sums(torch.from_numpy(q), torch.from_numpy(k))]

    def similarity(self, where: tuple, weight: Tensor | None) -> Tensor:
        """(B, n, T, e), or for the context's weight (R, B) (R, B, n, T, e), differentiable by it."""
        parts = [torch.from_numpy(part[where]) for part in self.similar]
        if weight is None:
            return parts[0]
        # The context's columns are multiplied by 2w, all others by 2 (1 − w).
        w, half, degree = weight[..., None, None, None], len(parts) // 2, self._kernel.degree
        of_context, of_others = (2 * w) ** degree, (2 * (1 - w)) ** degree
        sums = [of_context * a + of_others * b for a, b in zip(parts[:half], parts[half:], strict=True)]
        return self._kernel.of_sums(sums)


@dataclass(eq=False)
class Found:
    """What some steps of a round have read."""

    values: np.ndarray
    """(steps, 1, H, rows): before the tanh."""
    shape: tuple[int, ...]
    """R, B, n, steps, e"""
    match: Match | None = None
    """Of R · B memories, each asked n · steps times; None: nothing is found."""
    field: np.ndarray | None = None
    """(R · B, e, H): the values among which they were found."""
    similar: Tensor | None = None
    """(R or nothing, B, n, steps, e), of an average; to be differentiated by ``weight``."""
    weight: Tensor | None = None
    """(R, B): of the context."""
    lag: np.ndarray | None = None
    """(B, n, steps, e), of an average with forgetting."""


class PlannedMemory:
    """The values that an evaluation stores and reads among ``entries``: a ``Memory`` of the engine.

    ``values`` are of ``sharpness``, ``forgetting`` and ``context_weight``, as far as they matter, ``free`` those
    of them for which gradients are asked, and ``shape`` is R, B, H.
    """

    follows = True

    def __init__(self, entries: Entries, values: Values, free: set[str], shape: tuple[int, int, int]) -> None:
        self._entries, self._values, self._free = entries, values, free
        restarts, blocks, size = shape
        self._stored = np.zeros((restarts, blocks, entries.lag.shape[3], size))
        self._slopes = np.zeros_like(self._stored)
        self._count = 0
        self.slopes = {name: np.zeros((restarts, blocks)) for name in free}
        """(R, B) of each: the derivatives by the free ones, as far as they have been gone through."""

    # ---- forwards

    def read(self, source: Round, steps: slice) -> Found:
        """What these steps retrieve."""
        (restarts, n, blocks), e = source.shape, self._count
        where = (slice(None), source.trials, steps, slice(0, e))
        there = self._entries.there[where]
        length, size = there.shape[2], self._stored.shape[3]
        shape = (restarts, blocks, n, length, e)
        if not there.any():
            return Found(np.zeros((length, 1, size, source.rows)), shape)
        found = self._nearest(where, shape) if self._entries.nearest is not None else self._average(where, shape)
        found.field = self._stored[:, :, :e].reshape(restarts * blocks, e, size)
        values = found.match.take(found.field).reshape(*shape[:4], size)  # type: ignore[union-attr]
        found.values = values.transpose(3, 4, 0, 2, 1).reshape(length, 1, size, source.rows)
        return found

    def _nearest(self, where: tuple, shape: tuple[int, ...]) -> Found:
        restarts, blocks = shape[:2]
        rows, finds = (
            np.broadcast_to(a[where[:3]], shape[:4]).reshape(restarts * blocks, -1)  # type: ignore[index]
            for a in (self._entries.nearest, self._entries.finds)
        )
        return Found(np.empty(0), shape, Match(_view(shape), rows=rows, empty=None if finds.all() else ~finds))

    def _average(self, where: tuple, shape: tuple[int, ...]) -> Found:
        values, there = self._values, self._entries.there[where]
        weight = None
        if self._entries.weighs_context:
            weight = torch.tensor(values["context_weight"], requires_grad="context_weight" in self._free)
        with torch.enable_grad():
            similar = self._entries.similarity(where, weight)
        lag = self._entries.lag[where] if "forgetting" in values else None
        weights = average_weights(
            similar.detach(),
            None if lag is None else torch.from_numpy(lag),
            None if there.all() else torch.from_numpy(~there),
            torch.from_numpy(_by_query(values["sharpness"])),
            0.0 if lag is None else torch.from_numpy(_by_query(values["forgetting"])),
        ).numpy()
        match = Match(_view(shape), weights=weights.reshape(shape[0] * shape[1], -1, shape[4]))
        return Found(np.empty(0), shape, match, None, similar, weight, lag)

    def write(self, source: Round, steps: slice, cells: np.ndarray) -> list[tuple[int, int]]:
        """Store c_t where these steps say so, given c_t (steps, 1, H, rows): each step, and its event."""
        stored = []
        restarts, _, blocks = source.shape
        for t in source.stored:
            if steps.start <= t < steps.stop:
                by_block = cells[t - steps.start, 0].reshape(-1, restarts, blocks)
                self._stored[:, :, self._count] = by_block.transpose(1, 2, 0)
                stored.append((t, self._count))
                self._count += 1
        return stored

    # ---- backwards

    def add_stored(self, stored: list[tuple[int, int]], d_cells: np.ndarray) -> None:
        """Add to δc_t (T, 1, H, rows) what comes from later reads of what was stored."""
        for t, event in stored:
            d_cells[t, 0] += self._slopes[:, :, event].transpose(2, 0, 1).reshape(d_cells.shape[2:])

    def back(self, read: Found, d_values: np.ndarray) -> None:
        """Go back from what was read, by δ of its values (steps, 1, H, rows)."""
        if read.match is None or read.field is None:
            return
        restarts, blocks, n, length, e = read.shape
        d_found = d_values.reshape(length, -1, restarts, n, blocks).transpose(2, 4, 3, 0, 1)
        d_found = d_found.reshape(restarts * blocks, n * length, -1)
        self._slopes[:, :, :e] += read.match.by_field(d_found, n * length).reshape(restarts, blocks, e, -1)
        if read.similar is None or not self._free:
            return
        slopes = read.match.by_logits(read.field, d_found).reshape(read.shape)
        if "sharpness" in self._free:
            self.slopes["sharpness"] += _summed(slopes, read.similar.detach().numpy())
        if "forgetting" in self._free:
            self.slopes["forgetting"] -= _summed(slopes, read.lag)  # type: ignore[arg-type]
        if read.weight is not None and read.weight.requires_grad:
            slopes *= _by_query(self._values["sharpness"])
            (by_weight,) = torch.autograd.grad(read.similar, read.weight, torch.from_numpy(slopes))
            self.slopes["context_weight"] += by_weight.numpy()


def _view(shape: tuple[int, ...]) -> View:
    restarts, blocks, _, _, e = shape
    return View(e, None, np.full(restarts * blocks, e), e)


def _by_query(value: np.ndarray) -> np.ndarray:
    """A parameter (R, B), as it goes with (R, B, n, T, e)."""
    return value[..., None, None, None]


def _summed(slopes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Σ over all queries and entries: slopes (R, B, n, T, e), factors with R or without → (R, B)."""
    return np.einsum("rbntk,rbntk->rb" if factors.ndim == 5 else "rbntk,bntk->rb", slopes, factors)
