"""The trained network on many people's trials at once, differentiable in what is particular to a person.

Everybody shares the weights, so that sequences of all people and of all parameter values lie side by side. Within
a block, only trials that store depend on each other: they are run one after the other (the k-th of all blocks at
once), and all other trials together at the end. Inputs' drives and similarities do not depend on parameters: they
are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models.config import ModelConfig
from ...models.fast import recur, recur_back
from ...models.person import Person
from ...models.retrieval import COSINE_EPS
from ...tasks.trials import Trials

AT_ONCE = 192
"""Sequences that are run side by side: the arrays of a step then lie in the processor's cache."""


class _Recurrence(torch.autograd.Function):
    """``recur`` of B sequences with shared weights; gradients by the gate's bias and the memory alone."""

    @staticmethod
    def forward(ctx, drive: Tensor, weight: Tensor, bias: Tensor, memory: Tensor | None):  # type: ignore[override]
        """drive (T, B, 5H), weight (H, 5H), bias of r_t (B,), memory (T or 1, B, H) → h (T, B, H), c_T (B, H)."""
        size = weight.shape[0]
        z = drive.numpy().copy()
        z[..., 3 * size : 4 * size] += bias.detach().numpy()[:, None]
        none = np.zeros((z.shape[1], size))
        m = None if memory is None else np.broadcast_to(memory.detach().numpy(), (*z.shape[:2], size))
        past = recur(z, weight.numpy(), none, none, None if m is None else m.__getitem__)
        ctx.past, ctx.weight, ctx.constant = past, weight.numpy(), memory is not None and len(memory) == 1
        return torch.from_numpy(past.hiddens[1:]), torch.from_numpy(past.cells[-1].copy())

    @staticmethod
    @once_differentiable
    def backward(ctx, d_hidden: Tensor, d_last: Tensor):  # type: ignore[override]
        past, size = ctx.past, ctx.weight.shape[0]
        d_cell = np.zeros_like(past.squashed)
        d_cell[-1] = d_last.numpy()
        back = recur_back(past, ctx.weight, d_hidden.numpy(), d_cell)
        d_bias = back.drive[..., 3 * size : 4 * size].sum((0, 2))
        d_memory = None
        if ctx.needs_input_grad[3]:
            d_memory = back.cells * past.gates[..., 3 * size : 4 * size]
            d_memory = torch.from_numpy(d_memory.sum(0, keepdims=True) if ctx.constant else d_memory)
        return None, None, torch.from_numpy(d_bias), d_memory


@dataclass(frozen=True, eq=False)
class Rows:
    """n trials of some blocks, ready to be run side by side."""

    block: Tensor
    """(n,): which block each is of."""
    trial: Tensor
    """(n,): and which trial of it."""
    drive: Tensor
    """(T, n, 5H): the inputs' part of the gates' drive, with both biases."""
    parts: tuple[Tensor, ...]
    """Similarities to the block's entries, (n, T or 1, K); or, where the context's weight is free, what they are
    computed from: the context's part and the rest."""
    seen: Tensor
    """(n, K) bool: the entries that are stored, and not yet dropped, when the trial begins."""
    lag: Tensor
    """(n, K): entries stored after each."""
    reads: Tensor
    """(n, T): 1 where something is retrieved."""

    def __len__(self) -> int:
        return len(self.block)

    def only(self, which: slice | Tensor) -> Rows:
        """Some of them."""
        rest = {name: getattr(self, name)[which] for name in ("block", "trial", "seen", "lag", "reads")}
        return Rows(drive=self.drive[:, which].contiguous(), parts=tuple(p[which] for p in self.parts), **rest)

    def without_memory(self) -> Rows:
        """The same with nothing retrieved."""
        none = torch.zeros_like(self.reads)
        return Rows(self.block, self.trial, self.drive, self.parts, self.seen, self.lag, none)


class Network:
    """The trials of some blocks, each from an empty memory.

    Args:
        config: of the agent.
        weights: of the agent, by ``weight_shapes``.
        blocks: of any people; of equally long trials.
        names: whose block each is, for errors.
        person: what is the same for everybody and not given to ``logits``: the context's weight, if it is fixed.
        context: where the context's weight is free: the columns of the key that show it, (K,) bool.

    Raises:
        ValueError: trials are not equally long, an entry is stored before the last step, or repeated keys are to
            be overwritten and there are some.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, np.ndarray],
        blocks: Sequence[Trials],
        names: Sequence[str],
        person: Person,
        context: np.ndarray | None = None,
    ) -> None:
        self.config, self.blocks, self.context = config, list(blocks), context
        self.hidden_weight, self.actor_weight = (
            torch.from_numpy(np.ascontiguousarray(weights[name].T)) for name in ("hidden_weight", "actor_weight")
        )
        self.actor_bias = torch.from_numpy(weights["actor_bias"])
        self._input_weight = torch.from_numpy(np.ascontiguousarray(weights["input_weight"].T))
        self._bias = torch.from_numpy(weights["input_bias"] + weights["hidden_bias"])
        self._scale = person.key_scale(config)
        self._levels = [self._check(block, name) for block, name in zip(self.blocks, names, strict=True)]
        self.length = self.blocks[0].length
        self._keys = self._stored_keys(names)
        storing, other = self._order()
        self.storing = [self._rows(stage) for stage in storing]
        self.other = self._rows(other)

    def _check(self, block: Trials, name: str) -> np.ndarray:
        """(n,): entries stored before each trial; of a memory without capacity none."""
        if block.length != self.blocks[0].length:
            raise ValueError(
                f"{name}: its trials have {block.length} steps, those of the first block {self.blocks[0].length}; "
                "fit trials of different lengths apart."
            )
        stores = block.encode & (self.config.memory_capacity > 0)
        if stores[:, :-1].any():
            n, t = np.argwhere(stores[:, :-1])[0]
            raise ValueError(
                f"{name}: trial {n} stores at step {t} of {block.length}; the likelihood needs trials that store "
                "at their last step alone."
            )
        return np.cumsum(stores.any(1)) - stores.any(1)

    def _stored_keys(self, names: Sequence[str]) -> Tensor:
        """(blocks, K, key size): keys by the order in which they are stored; zeros behind the last."""
        each = []
        for block, name in zip(self.blocks, names, strict=True):
            keys = block.inputs[..., self.config.key_columns][block.encode] if self.config.memory_capacity else []
            keys = np.reshape(keys, (-1, self.config.key_size)) * self._scale
            if self.config.repeated_key == "overwrite" and len(np.unique(keys, axis=0)) < len(keys):
                raise ValueError(
                    f"{name}: a key is stored twice, and the agent overwrites repeated keys, which the likelihood "
                    "does not: use an agent with repeated_key='append'."
                )
            each.append(keys)
        most = max(len(keys) for keys in each)
        return torch.from_numpy(np.stack([np.pad(keys, ((0, most - len(keys)), (0, 0))) for keys in each]))

    def _order(self) -> tuple[list[list[tuple[int, int]]], list[tuple[int, int]]]:
        """(block, trial) of the k-th storing trials, k = 0, 1, ..., and of all other trials."""
        storing: list[list[tuple[int, int]]] = [[] for _ in range(self._keys.shape[1])]
        other = []
        for b, (block, level) in enumerate(zip(self.blocks, self._levels, strict=True)):
            for n, (k, stores) in enumerate(zip(level.tolist(), np.any(block.encode, 1).tolist(), strict=True)):
                (storing[k] if stores and self.config.memory_capacity else other).append((b, n))
        return storing, other

    def _rows(self, which: list[tuple[int, int]]) -> Rows:
        block, trial = (torch.tensor([pair[i] for pair in which], dtype=torch.int64) for i in (0, 1))

        def gathered(name: str, width: int) -> np.ndarray:
            found = [getattr(self.blocks[b], name)[n] for b, n in which]
            return np.stack(found) if found else np.empty((0, self.length, width)[: 2 + (width > 0)])

        x = torch.from_numpy(gathered("inputs", self.config.input_size))
        level = torch.tensor([self._levels[b][n] for b, n in which], dtype=torch.int64)[:, None]
        k = torch.arange(self._keys.shape[1])
        seen = (k < level) & (k >= level - self.config.memory_capacity)
        reads = torch.from_numpy(gathered("retrieve", 0).astype(float)) * seen.any(1, keepdim=True)
        return Rows(
            block,
            trial,
            drive=(x @ self._input_weight + self._bias).transpose(0, 1).contiguous(),
            parts=self._similarity_parts(x[..., self.config.key_columns], self._keys[block]),
            seen=seen,
            lag=(level - 1 - k).clamp_min(0).to(torch.float64),
            reads=reads,
        )

    # ---- retrieval

    def _similarity_parts(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        """Queries (n, T, K), keys (n, entries, K) → what ``_similarity`` needs, each (n, T or 1, entries)."""
        queries = queries * torch.from_numpy(self._scale)
        if queries.shape[1] and bool((queries == queries[:, :1]).all()):
            queries = queries[:, :1]
        if self.context is None:
            return (self._joined(self._sums(queries, keys), self._norms(queries, keys)),)
        groups = [torch.from_numpy(columns) for columns in (self.context, ~self.context)]
        parts = [(queries[..., g], keys[..., g]) for g in groups]
        sums = [self._sums(*part) for part in parts]
        if self.config.kernel != "cosine":
            return tuple(sums)
        squares = [s.square().sum(-1) for part in parts for s in part]
        return (*sums, *(s.unsqueeze(-1 if i % 2 == 0 else -2) for i, s in enumerate(squares)))

    def _sums(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Sums over columns: of squared or absolute differences, or products."""
        if self.config.kernel == "l2":
            return torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist").square()
        if self.config.kernel == "l1":
            return torch.cdist(queries, keys, p=1.0)
        return queries @ keys.mT

    def _norms(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        if self.config.kernel != "cosine":
            return None
        norms = [x.square().sum(-1).sqrt().clamp_min(COSINE_EPS) for x in (queries, keys)]
        return norms[0].unsqueeze(-1) * norms[1].unsqueeze(-2)

    def _joined(self, sums: Tensor, norms: Tensor | None) -> Tensor:
        """Similarities from sums over the whole key."""
        if self.config.kernel == "l1":
            return -sums
        if self.config.kernel == "l2":
            return -_root(sums)
        assert norms is not None
        return sums / norms

    def _similarity(self, rows: Rows, context_weight: Tensor | None, k: int) -> Tensor:
        """(R or 1, n, T or 1, k): similarities to the first k entries."""
        parts = [part if part.shape[-1] == 1 else part[..., :k] for part in rows.parts]
        if context_weight is None:
            return parts[0][None]
        w = context_weight[:, :, None, None]
        scales = [2 * w, 2 * (1 - w)]
        if self.config.kernel == "l1":
            return -(scales[0] * parts[0] + scales[1] * parts[1])
        weighted = scales[0].square() * parts[0] + scales[1].square() * parts[1]
        if self.config.kernel == "l2":
            return -_root(weighted)
        norms = [
            _root(scales[0].square() * parts[i] + scales[1].square() * parts[i + 2]).clamp_min(COSINE_EPS)
            for i in (2, 3)
        ]
        return weighted / (norms[0] * norms[1])

    def _retrieve(self, rows: Rows, values: dict[str, Tensor], stored: Tensor) -> Tensor | None:
        """m_t of R settings: (T or 1, R · n, H); None where nothing is read. ``stored``: (R, blocks, k, H)."""
        k = stored.shape[2]
        if k == 0 or not bool(rows.reads.any()):
            return None
        seen = rows.seen[None, :, None, :k]
        similar = self._similarity(rows, values.get("context_weight"), k)
        entries = stored[:, rows.block]
        if self.config.retrieval == "nearest":
            similar = torch.where(seen, similar, -torch.inf)[0]
            found = similar.argmax(-1)
            if self.config.ties == "newest":
                found = k - 1 - similar.flip(-1).argmax(-1)
            m = entries.gather(2, found[None, :, :, None].expand(len(entries), -1, -1, entries.shape[-1]))
        else:
            strength = values["sharpness"][..., None, None] * similar
            strength = strength - (values["forgetting"][..., None] * rows.lag[:, :k])[:, :, None]
            none = torch.finfo(strength.dtype).min  # where nothing at all is seen, no NaN comes of it
            m = torch.softmax(torch.where(seen, strength, none), -1) @ entries
        m = torch.tanh(m)
        if m.shape[2] > 1 or not bool((rows.reads == rows.reads[:, :1]).all()):
            m = m * rows.reads[None, :, :, None]
        else:
            m = m * rows.reads[None, :, :1, None]
        return m.permute(2, 0, 1, 3).reshape(m.shape[2], -1, m.shape[3])

    # ---- running

    def logits(self, rows: Rows, values: dict[str, Tensor], stored: Tensor) -> tuple[Tensor, Tensor]:
        """W_π h_t + b_π (T, R, n, A), and c_T (R, n, H).

        Args:
            rows: n trials.
            values: ``gate_bias``, ``sharpness``, ``forgetting`` and perhaps ``context_weight``, each (R, n).
            stored: (R, blocks, k, H): values of the entries stored so far.
        """
        hidden, cells = self._run(rows, values, stored)
        return hidden @ self.actor_weight + self.actor_bias, cells

    def cells(self, rows: Rows, values: dict[str, Tensor], stored: Tensor) -> Tensor:
        """c_T alone, (R, n, H): what is stored."""
        return self._run(rows, values, stored)[1]

    def _run(self, rows: Rows, values: dict[str, Tensor], stored: Tensor) -> tuple[Tensor, Tensor]:
        """h_t (T, R, n, H), and c_T (R, n, H)."""
        settings, n = values["gate_bias"].shape
        drive = rows.drive[:, None].expand(-1, settings, -1, -1).reshape(len(rows.drive), settings * n, -1)
        bias = values["gate_bias"].reshape(-1)
        memory = self._retrieve(rows, values, stored)
        hidden, last = _Recurrence.apply(drive, self.hidden_weight, bias, memory)
        return hidden.view(len(drive), settings, n, -1), last.view(settings, n, -1)


def _root(x: Tensor) -> Tensor:
    """Square root, with the gradient 0 where it is 0 (the root's own is infinite there)."""
    return torch.where(x > 0, x, 1.0).sqrt() * (x > 0)
