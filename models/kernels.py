"""The similarities of a query and a key, one table: a kernel is added here, and to the reference.

Each pair of query and key is computed by itself, so that equal keys have exactly equal similarities and ties are
ties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COSINE_EPS = 1e-8
"""Least norm in the cosine: a key of zeros has similarity 0 to everything (as torch's cosine_similarity)."""
AT_ONCE = 2**16
"""Numbers that are multiplied before they are summed, where products are not kept."""

Score = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]


@dataclass(frozen=True)
class Kernel:
    """A similarity of queries and keys, as functions of tensors that can be differentiated."""

    similarity: Callable[[Tensor, Tensor], Tensor]
    """Queries (..., T, K), keys (..., n, K) → (..., T, n); larger is more similar."""
    sums: Callable[[Tensor, Tensor], list[Tensor]]
    """Queries (q, K), keys (n, K) → the sums over columns that the similarity is made of, (q or 1, n or 1) each:
    those of parts of the columns add up, and those of columns times s are s^``degree`` times as large."""
    degree: int
    of_sums: Callable[[Sequence[Tensor]], Tensor]
    """The similarity from these sums."""
    score: Score | None = None
    """Fast form, from products of matrices: queries (G, T, K), keys (G, n, K) → what orders the keys as their
    similarity does but for rounding, (G, T, n), and some times the bound of that rounding; None: there is none."""


def kernel(name: str) -> Kernel:
    """The kernel of this name. Raises ValueError for a name that is not known."""
    if name not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(map(repr, KERNELS))}; got {name!r}.")
    return KERNELS[name]


def _l2(query: Tensor, keys: Tensor) -> Tensor:
    # Each pair by itself: through products of matrices, equal keys would get unequal distances.
    return -torch.cdist(query, keys, compute_mode="donot_use_mm_for_euclid_dist")


def _l1(query: Tensor, keys: Tensor) -> Tensor:
    return -torch.cdist(query, keys, p=1.0)


def _cosine(query: Tensor, keys: Tensor) -> Tensor:
    norms = (torch.linalg.vector_norm(part, dim=-1).clamp_min(COSINE_EPS) for part in (query, keys))
    of_query, of_keys = norms
    return _products(query, keys) / (of_query.unsqueeze(-1) * of_keys.unsqueeze(-2))


def _products(query: Tensor, keys: Tensor) -> Tensor:
    """Inner products, each pair by itself, of so many entries at a time as the processor's cache holds."""
    rows = max(1, AT_ONCE // max(query.numel(), 1))
    parts = [(query.unsqueeze(-2) * some.unsqueeze(-3)).sum(-1) for some in keys.split(rows, dim=-2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def root(x: Tensor) -> Tensor:
    """Square root, with the gradient 0 where x is 0 (it would be infinite)."""
    zero = x == 0
    return torch.where(zero, 1.0, x).sqrt().masked_fill(zero, 0.0)


def _sums_of_cosine(query: Tensor, keys: Tensor) -> list[Tensor]:
    return [query @ keys.T, query.square().sum(-1)[:, None], keys.square().sum(-1)[None]]


def _cosine_of_sums(sums: Sequence[Tensor]) -> Tensor:
    product, of_query, of_key = sums
    return product / (root(of_query).clamp_min(COSINE_EPS) * root(of_key).clamp_min(COSINE_EPS))


def _norms(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...k,...k->...", x, x))


def _score_of_l2(queries: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, float]:
    """|q − k|² = |q|² − 2 (q·k − |k|²/2), of which the bracket alone depends on k."""
    lengths = _norms(keys)
    score = np.matmul(queries, keys.swapaxes(-1, -2))
    score -= (0.5 * lengths * lengths)[:, None]
    return score, _rounding(queries, np.square(_norms(queries).max() + lengths.max()))


def _score_of_cosine(queries: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, float]:
    score = np.matmul(queries, keys.swapaxes(-1, -2))
    score /= np.maximum(_norms(keys), COSINE_EPS)[:, None]
    return score, _rounding(queries, _norms(queries).max())


def _rounding(queries: np.ndarray, reach: float) -> float:
    return 16 * queries.shape[-1] * np.finfo(queries.dtype).eps * float(reach)


KERNELS: dict[str, Kernel] = {
    "l2": Kernel(_l2, lambda q, k: [_l2(q, k).square()], 2, lambda sums: -root(sums[0]), _score_of_l2),
    "l1": Kernel(_l1, lambda q, k: [-_l1(q, k)], 1, lambda sums: -sums[0]),
    "cosine": Kernel(_cosine, _sums_of_cosine, 2, _cosine_of_sums, _score_of_cosine),
}
"""Negative L2 distance, negative L1 distance, cosine (dnd-lstm has the three)."""
