"""The network with a person's parameters, for many people and parameter values at once: read-outs and gradients.

The equations of ``models/person.py`` from the key to the read-out W_π h_t + b_π; what is chosen from it is in
``likelihood.py``. Each trial starts at h_0 = c_0 = 0, each block with an empty memory. Choices do not enter:
neither inputs nor memory depend on them in tasks without action-dependence.

In each block, trials that store run one after the other, the k-th of all blocks at once; all other trials follow,
many at once. Inputs' drives and distances of queries to keys do not depend on parameters, and are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.config import ModelConfig
from ...models.source import stretches_between
from ...tasks.trials import Trials
from .entries import Average, KeyParts, distances, lags, nearest, weighted_similarity
from .recurrence import Cell, Steps

ROWS = 192
"""Rows of the recurrence at once: enough to make calls cheap, few enough for the processor's cache."""
BYTES = 2**28
"""What is left behind for the backward by what is computed at once, about."""


def rows_at_once(hidden_size: int, n_trials: int, length: int, events: int) -> int:
    """How many blocks (times restarts) to compute at once, so that cache and memory hold what they leave."""
    # Gates and five more of H (cells and memories before and after their tanh, derivatives); weights of entries.
    row = 8 * n_trials * length * (10 * hidden_size + 5 * events)
    return max(1, min(ROWS, BYTES // max(row, 1)))


@dataclass(frozen=True)
class Arrangement:
    """The trials of one block in the order in which they are run: those that store, then the others."""

    storing: np.ndarray
    """Trials that store, in their order."""
    others: np.ndarray
    """The others, those that need most steps first."""

    @classmethod
    def of(cls, trials: Trials, needed: np.ndarray, has_memory: bool) -> Arrangement:
        """needed (n,): steps of each trial that are scored, counted from the first."""
        stores = trials.encode.any(1) & has_memory
        others = np.flatnonzero(~stores)
        return cls(np.flatnonzero(stores), others[np.argsort(-needed[others], kind="stable")])


@dataclass(frozen=True)
class _Round:
    """Trials that are run at once: one that stores, or several of the others."""

    trials: slice
    """Of the arranged trials."""
    stretches: tuple[slice, ...]
    """Steps that are run at once, in order."""
    stored: tuple[int, ...]
    """Steps that store."""


class Batch:
    """Blocks of equally long trials that are run side by side, whatever their participants.

    Blocks with fewer trials are filled up with trials of zeros that store and retrieve nothing.

    Args:
        config: of the model.
        cell: its weights.
        blocks: the trials of each.
        needed: for each block, (n,) the steps of each trial that are needed, counted from the first.
        key_scale: (K,) by what each column of the key is multiplied.
        parts: the key's columns in two parts, if the weight of context against observation is free.
        lag_matters: whether there is forgetting.
        keep_drive: keep the inputs' part of the drive, 40 · H · T bytes a trial, or compute it whenever needed.
    """

    def __init__(
        self,
        config: ModelConfig,
        cell: Cell,
        blocks: Sequence[Trials],
        needed: Sequence[np.ndarray],
        *,
        key_scale: np.ndarray,
        parts: KeyParts | None = None,
        lag_matters: bool = True,
        keep_drive: bool = True,
    ) -> None:
        self.config, self.cell, self.blocks = config, cell, blocks
        self.length = blocks[0].length
        self.key_scale, self.parts = key_scale, parts
        self.arrangements = [
            Arrangement.of(one, need, cell.has_memory) for one, need in zip(blocks, needed, strict=True)
        ]
        self.n_storing = max(len(a.storing) for a in self.arrangements)
        self.n_trials = self.n_storing + max(len(a.others) for a in self.arrangements)
        self.order = np.full((self.n_trials, len(blocks)), -1)
        for b, a in enumerate(self.arrangements):
            self.order[: len(a.storing), b] = a.storing
            self.order[self.n_storing : self.n_storing + len(a.others), b] = a.others
        self.encode = self.arranged([one.encode & cell.has_memory for one in blocks], False)
        self.needed = self.arranged(list(needed), 0)
        self._find_entries(lag_matters or config.retrieval == "nearest")
        self._drive = self._new_drive() if keep_drive else None

    def arranged(self, arrays: Sequence[np.ndarray], filler: float) -> np.ndarray:
        """Arrays (n, ...) of each block → (trials, B, ...), in the order in which they are run."""
        out = np.full((self.n_trials, len(self.blocks), *arrays[0].shape[1:]), filler, arrays[0].dtype)
        for b, array in enumerate(arrays):
            there = self.order[:, b] >= 0
            out[there, b] = array[self.order[there, b]]
        return out

    def places(self, b: int) -> np.ndarray:
        """Where the trials of a block lie among those that are run, (n,)."""
        order = self.order[:, b]
        return np.argsort(order, kind="stable")[np.count_nonzero(order < 0) :]

    def _new_drive(self) -> np.ndarray:
        return self.cell.drive(self.arranged([one.inputs for one in self.blocks], 0.0).swapaxes(0, 1))

    @property
    def drive(self) -> np.ndarray:
        """(T, 5H, trials, B)."""
        return self._new_drive() if self._drive is None else self._drive

    def _find_entries(self, lag_matters: bool) -> None:
        """Lags and similarities of all queries and entries: (B, trials, T, E), E being the batch's events.

        An event of the batch is a step of the k-th storing trial at which any block stores.
        """
        storing = self.encode[: self.n_storing].any(1)
        self.events = [(int(k), int(t)) for k, t in np.argwhere(storing)]
        number = np.full(storing.shape, -1)
        number[storing] = np.arange(len(self.events))
        shape = (len(self.blocks), self.n_trials, self.length, len(self.events))
        lag, found = torch.full(shape, -1.0, dtype=torch.float64), None
        for b, (trials, arranged) in enumerate(zip(self.blocks, self.arrangements, strict=True)):
            encode = trials.encode & self.cell.has_memory
            keys = trials.inputs[..., self.config.key_columns] * self.key_scale
            after = lags(self.config, keys[encode])
            before = np.cumsum(encode).reshape(encode.shape) - encode
            seen = np.where(trials.retrieve[..., None], after[before], -1)  # (n, T, E of this block)
            rank, step = np.nonzero(encode[arranged.storing])
            columns = torch.from_numpy(number[rank, step])
            parts = distances(
                self.config,
                torch.from_numpy(keys.reshape(-1, keys.shape[-1])),
                torch.from_numpy(keys[encode]),
                self.parts,
            )
            there = torch.from_numpy(self.order[:, b] >= 0)
            source = torch.from_numpy(self.order[there.numpy(), b])
            place = there.nonzero()  # (trials of this block, 1)
            lag[b][place, :, columns] = torch.from_numpy(seen).double()[source].transpose(1, 2)
            if found is None:
                found = [torch.zeros(shape, dtype=torch.float64) for _ in parts]
            for whole, part in zip(found, parts, strict=True):
                part = part.expand(keys.shape[0] * self.length, len(columns))
                part = part.reshape(keys.shape[0], self.length, -1)[source]
                whole[b][place, :, columns] = part.transpose(1, 2)
        self.visible, self.lag = (lag >= 0).numpy(), lag.numpy() if lag_matters else None
        self.found: list[Tensor] = found or []

    # ---- retrieval -----------------------------------------------------------------------------------

    def _retrieved(
        self, where: tuple, values: Mapping[str, Tensor | float], stored: list[Tensor]
    ) -> Tensor | None:
        """What the memory gives, (R, B, n, steps, H); None: nothing is found by anybody.

        Args:
            where: which blocks, trials, steps and events.
            values: of the parameters: numbers, or (R, B).
            stored: the events' values, each (R, B, H).
        """
        gone = ~self.visible[where]
        if gone.all():
            return None
        found = [part[where] for part in self.found]
        lag = None if self.lag is None else self.lag[where]
        if self.config.retrieval == "nearest":
            assert lag is not None
            weights = nearest(self.config, found[0], torch.from_numpy(lag), torch.from_numpy(gone))
            flat = weights.flatten(1, 2).expand(len(stored[0]), -1, -1, -1)
            return torch.matmul(flat, torch.stack(stored, 2)).reshape(
                *stored[0].shape[:2], *weights.shape[1:3], -1
            )

        def of(name: str) -> Tensor:
            value = values[name]
            return value if isinstance(value, Tensor) else torch.full((1, 1), value, dtype=torch.float64)

        similar = found[0]
        if self.parts is not None:
            similar = weighted_similarity(self.config, found, of("context_weight")[..., None, None, None])
        forgetting = of("forgetting") if "forgetting" in values else None

        return Average.apply(similar, lag, gone if gone.any() else None, of("sharpness"), forgetting, *stored)

    # ---- read-outs -----------------------------------------------------------------------------------

    def _rounds(self, restarts: int, full: bool) -> list[_Round]:
        """What is run at once; of trials that are run for their choices alone only as many steps as needed."""
        seen = np.any(self.visible, axis=-1)  # (B, trials, T)
        steps = np.arange(1, self.length + 1)
        last = np.maximum(self.needed, (self.encode * steps).max(-1)).max(1)  # (trials,)
        if full:
            last[:] = self.length
        rounds = []
        for k in range(self.n_storing):
            encode = self.encode[k, :, : last[k]]
            stretches = stretches_between(encode, seen[:, k, : last[k]])
            rounds.append(_Round(slice(k, k + 1), tuple(stretches), tuple(np.flatnonzero(encode.any(0)).tolist())))
        at_once = max(1, ROWS // (restarts * len(self.blocks)))
        for start in range(self.n_storing, self.n_trials, at_once):
            trials = slice(start, min(start + at_once, self.n_trials))
            length = int(last[trials].max())
            if length:
                rounds.append(_Round(trials, (slice(0, length),), ()))
        return rounds

    def readout(self, values: Mapping[str, Tensor | float], restarts: int, full: bool = False) -> Tensor:
        """W_π h_t + b_π of all trials: (T, A, R, trials, B), differentiable by the parameters of the network.

        Args:
            values: of the parameters ``sharpness``, and those of ``gate_bias``, ``forgetting`` and
                ``context_weight`` that are not neutral: numbers, or (R, B).
            restarts: R.
            full: all steps; else zeros after the last that is needed.
        """
        drive, stored, parts = self.drive, [], []
        gate_bias = values.get("gate_bias")
        if gate_bias is not None:
            gate_bias = torch.as_tensor(gate_bias, dtype=torch.float64).expand(restarts, len(self.blocks))
        for one in self._rounds(restarts, full):
            trials, h, c, pieces = one.trials, None, None, []
            for steps in one.stretches:
                where = (slice(None), trials, steps, slice(0, len(stored)))
                retrieved = self._retrieved(where, values, stored) if stored else None
                readout, cells, h = Steps.apply(
                    self.cell, drive[steps, :, trials], restarts, retrieved, gate_bias, h, c
                )
                c = cells[-1]
                pieces.append(readout)
                stored += [
                    cells[t - steps.start, :, :, 0].permute(1, 2, 0).contiguous()
                    for t in one.stored
                    if steps.start <= t < steps.stop
                ]
            parts.append(_filled(torch.cat(pieces) if len(pieces) > 1 else pieces[0], 0, self.length))
        return _filled(torch.cat(parts, 3), 3, self.n_trials)

    def readout_without_memory(self) -> Tensor:
        """The same of trials that retrieve nothing, which depend on no parameter: (T, A, 1, trials, B)."""
        with torch.no_grad():
            return Steps.apply(self.cell, self.drive, 1, None, None, None, None)[0]


def _filled(part: Tensor, axis: int, size: int) -> Tensor:
    """With zeros at the end of an axis, up to this size."""
    shape = list(part.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([part, part.new_zeros(shape)], axis) if shape[axis] else part
