"""Which entries a query finds, for many people and parameter values at once: lags, similarities, averages.

As ``models/retrieval.py`` and ``models/person.py`` have it. Queries and keys are the same whatever the parameters:
distances are computed once. Axes: R restarts, B blocks, n trials, T steps, E events (the storings of a block).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models.config import ModelConfig
from ...models.person import Person
from ...models.kernels import COSINE_EPS, kernel


def similarity(name, q, k):
    return kernel(name).similarity(q, k)


@dataclass(frozen=True)
class KeyParts:
    """The key's columns in two parts, for a weight of context against observation that is free."""

    context: np.ndarray
    """(K,) bool."""

    @classmethod
    def of(cls, config: ModelConfig, context_columns: tuple[int, int] | None) -> KeyParts:
        """Raises ValueError if the key has not both parts."""
        return cls(Person(context_weight=0.75, context_columns=context_columns).key_scale(config) > 1.0)


def _squares(rows: Tensor) -> Tensor:
    return rows.square().sum(-1)


def distances(config: ModelConfig, queries: Tensor, keys: Tensor, parts: KeyParts | None) -> list[Tensor]:
    """What the similarities of queries (q, K) to keys (E, K) are made of, once the weight w is known.

    Returns:
        Without parts the similarities themselves, (q, E). With parts, first those of the context, then those of
        the rest: squared L2 distances, or L1 distances, (q, E) each; for the cosine inner products (q, E), and
        the squared norms of queries (q, 1) and keys (1, E), each first of the context.
    """
    if parts is None:
        return [similarity(config.kernel, queries, keys)]
    context = torch.from_numpy(parts.context)
    halves = [(queries[:, part], keys[:, part]) for part in (context, ~context)]
    if config.kernel == "cosine":
        products = [q @ k.T for q, k in halves]
        return products + [_squares(q)[:, None] for q, _ in halves] + [_squares(k)[None] for _, k in halves]
    each = [similarity(config.kernel, q, k).neg() for q, k in halves]
    return [d.square() for d in each] if config.kernel == "l2" else each


def weighted_similarity(config: ModelConfig, found: Sequence[Tensor], w: Tensor) -> Tensor:
    """Similarities for keys s_w ∘ x, from ``distances`` in two parts, broadcast with w."""
    a, b = 2 * w, 2 * (1 - w)
    if config.kernel == "l1":
        return -(a * found[0] + b * found[1])
    a, b = a.square(), b.square()
    if config.kernel == "l2":
        return -_root(a * found[0] + b * found[1])
    norms = [_root(a * found[k] + b * found[k + 1]).clamp_min(COSINE_EPS) for k in (2, 4)]
    return (a * found[0] + b * found[1]) / (norms[0] * norms[1])


def _root(x: Tensor) -> Tensor:
    """Square root, with the gradient 0 where x is 0: keys that are equal are so at every w."""
    zero = x == 0
    return torch.where(zero, 1.0, x).sqrt().masked_fill(zero, 0.0)


def lags(config: ModelConfig, keys: np.ndarray) -> np.ndarray:
    """What the memory holds after each of E storings, of these keys (E, K).

    Returns:
        (E + 1, E) int: after k storings, the lag of each event's entry: 0 for the newest; −1 if there is none.
    """
    events = len(keys)
    after = np.full((events + 1, events), -1)
    held: list[int] = []
    for event in range(events):
        equal = []
        if config.repeated_key == "overwrite" and held:
            equal = np.flatnonzero((keys[held] == keys[event]).all(-1))
        if len(equal):
            held[equal[-1]] = event  # the entry keeps its age
        else:
            held = [*held, event][-config.memory_capacity :]
        after[event + 1, held] = np.arange(len(held))[::-1]
    return after


def nearest(config: ModelConfig, similar: Tensor, lag: Tensor, gone: Tensor) -> Tensor:
    """Weights (..., E): 1 for the most similar entry, of equals the oldest or newest; 0 where there is none."""
    similar = similar.masked_fill(gone, -torch.inf)
    best = (similar == similar.amax(-1, keepdim=True)) & ~gone
    sign = 1 if config.ties == "oldest" else -1
    chosen = torch.where(best, sign * lag, -torch.inf).argmax(-1, keepdim=True)
    return torch.zeros_like(similar).scatter_(-1, chosen, 1.0) * best.any(-1, keepdim=True)


class Average(torch.autograd.Function):
    """What averaging over e entries gives, weighted by softmax(β_m · similarity − λ · lag).

    Args:
        similar: (R or nothing, B, n, T, e).
        lag: (B, n, T, e), or None where λ is 0.
        gone: (B, n, T, e) bool, entries that are not there; or None.
        sharpness, forgetting: (R, B), or (1, 1) for everybody.
        entries: e of (R, B, H).

    Returns:
        (R, B, n, T, H); zeros where no entry is there.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        similar: Tensor,
        lag: np.ndarray | None,
        gone: np.ndarray | None,
        sharpness: Tensor,
        forgetting: Tensor | None,
        *entries: Tensor,
    ):
        """See above."""
        s = similar.detach().numpy()
        values = np.stack([entry.detach().numpy() for entry in entries], 2)
        restarts, blocks, e, size = values.shape
        n, length = s.shape[-4:-1][1:]
        weights = sharpness.detach().numpy()[..., None, None, None] * s
        if forgetting is not None and lag is not None:
            weights = weights - forgetting.detach().numpy()[..., None, None, None] * lag
        weights = np.broadcast_to(weights, (restarts, *s.shape[-4:]))
        if gone is not None:
            weights = np.where(gone, -np.inf, weights)
        elif not weights.flags.writeable:
            weights = weights.copy()
        largest = torch.from_numpy(weights).amax(-1, keepdim=True).numpy()  # some ten times as fast as NumPy's
        if gone is not None:
            largest[np.isneginf(largest)] = 0.0  # no entry is there
        weights -= largest
        np.exp(weights, out=weights)
        sums = weights @ np.ones(e)
        if gone is not None:
            sums[sums == 0] = 1.0
        weights *= (1 / sums)[..., None]
        flat = weights.reshape(restarts, blocks, n * length, e)
        found = np.matmul(flat, values)
        ctx.s, ctx.lag, ctx.weights, ctx.values, ctx.found = s, lag, flat, values, found
        ctx.strength = sharpness.detach().numpy()
        ctx.shapes = sharpness.shape, None if forgetting is None else forgetting.shape
        return torch.from_numpy(found.reshape(restarts, blocks, n, length, size))

    @staticmethod
    @once_differentiable
    def backward(ctx, d_found: Tensor):  # type: ignore[override]
        """With weights w_k: δw_k = δm · value_k, and δ(logit)_k = w_k (δw_k − Σ_j w_j δw_j)."""
        d = d_found.numpy().reshape(ctx.found.shape)
        d_entries = np.matmul(ctx.weights.swapaxes(2, 3), d)
        slopes = np.matmul(d, ctx.values.swapaxes(2, 3))
        slopes -= np.einsum("rbmh,rbmh->rbm", d, ctx.found)[..., None]
        slopes *= ctx.weights
        slopes = slopes.reshape(*slopes.shape[:2], *ctx.s.shape[-3:])
        d_similar = d_sharpness = d_forgetting = None
        if ctx.needs_input_grad[0]:
            d_similar = torch.from_numpy(ctx.strength[..., None, None, None] * slopes)
        if ctx.needs_input_grad[3]:
            letters = "rbntk,rbntk->rb" if ctx.s.ndim == 5 else "rbntk,bntk->rb"
            d_sharpness = _summed(np.einsum(letters, slopes, ctx.s), ctx.shapes[0])
        if ctx.needs_input_grad[4] and ctx.lag is not None:
            d_forgetting = _summed(-np.einsum("rbntk,bntk->rb", slopes, ctx.lag), ctx.shapes[1])
        each = (torch.from_numpy(d_entries[:, :, k]) for k in range(d_entries.shape[2]))
        return d_similar, None, None, d_sharpness, d_forgetting, *each


def _summed(slopes: np.ndarray, shape: torch.Size) -> Tensor:
    """Derivatives (R, B) by a parameter of this shape."""
    return (
        torch.from_numpy(slopes) if slopes.shape == tuple(shape) else torch.from_numpy(slopes.sum(keepdims=True))
    )
