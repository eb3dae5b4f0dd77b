"""Which entries of an episodic memory match a query: kernels, ties, averages, for whole trials and many memories.

It computes on arrays alone, so that cohorts need no PsyNeuLink; ``EpisodicMemory`` in ``memory.py`` holds the
entries for a composition. Equal keys have exactly equal similarities, so that ties are ties.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KERNELS = ("l2", "l1", "cosine")
RETRIEVALS = ("nearest", "average")
COSINE_EPS = 1e-8
"""Least norm in the cosine: a key of zeros has similarity 0 to everything (as torch's cosine_similarity)."""
AT_ONCE = 2**16
"""Numbers that are multiplied before they are summed, where products are not kept."""
FEW_PAIRS = 5000
"""Pairs of query and entry up to which L2 distances one by one are as fast as products of matrices."""


def similarity(kernel: str, query: Tensor, keys: Tensor) -> Tensor:
    """Similarity of queries (..., T, K) to keys (..., n, K): (..., T, n). Negative L2, L1 distance, or cosine."""
    if kernel == "l2":
        # Each pair by itself: through products of matrices, equal keys would get unequal distances.
        return -torch.cdist(query, keys, compute_mode="donot_use_mm_for_euclid_dist")
    if kernel == "l1":
        return -torch.cdist(query, keys, p=1.0)
    if kernel == "cosine":
        norms = (_norm(part).clamp_min(COSINE_EPS) for part in (query.unsqueeze(-2), keys.unsqueeze(-3)))
        return _products(query, keys) / math.prod(norms)
    raise ValueError(f"kernel must be one of {KERNELS}; got {kernel!r}.")


def _products(query: Tensor, keys: Tensor) -> Tensor:
    """Inner products, each pair by itself, of so many entries at a time as the processor's cache holds."""
    rows = max(1, AT_ONCE // max(query.numel(), 1))
    parts = [(query.unsqueeze(-2) * some.unsqueeze(-3)).sum(-1) for some in keys.split(rows, dim=-2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last axis, with the gradient 0 where it is 0 (a root's is infinite there)."""
    squares = x.square().sum(-1)
    return torch.where(squares == 0, 1.0, squares).sqrt() * (squares != 0)


@dataclass(frozen=True)
class RetrievalSettings:
    """How a memory retrieves: as the fields of ``ModelConfig`` of the same names."""

    kernel: str
    retrieval: str
    sharpness: float
    ties: str
    forgetting: float = 0.0
    """As of ``Person``; for averages only."""

    def __post_init__(self) -> None:
        if self.forgetting and self.retrieval != "average":
            raise ValueError(
                f"forgetting={self.forgetting:g} needs retrieval='average'; got {self.retrieval!r}. Set it to 0, "
                "or average over the entries."
            )

    def weights(self, similar: Tensor, oldest: int = 0) -> Tensor:
        """Weights of the entries in the average: similarities (..., n) → (..., n).

        w_k ∝ exp(sharpness · similarity_k − forgetting · lag_k), where lag_k counts the entries stored after
        entry k; ``oldest`` is the row of the oldest.
        """
        drive = self.sharpness * similar
        if self.forgetting:
            n = similar.shape[-1]
            drive = drive - self.forgetting * (n - 1 - (torch.arange(n) - oldest) % n).to(similar)
        return torch.softmax(drive, -1)


def retrieve_many(
    settings: RetrievalSettings, queries: Tensor, keys: Tensor, values: Tensor, oldest: int = 0
) -> Tensor:
    """Values that E memories of n entries each give for T queries: (E, T, K), (E, n, K), (E, n, H) → (E, T, H).

    Args:
        settings: kernel, retrieval, sharpness, ties.
        queries: keys to look for.
        keys, values: the entries, by rows; n may be 0, which gives zeros.
        oldest: row of the oldest entry in each of these rings.
    """
    return taken(matches(settings, queries, keys, oldest), values)


def matches(settings: RetrievalSettings, queries: Tensor, keys: Tensor, oldest: int = 0) -> Tensor:
    """What matches the queries: rows of the nearest entries (E, T), or weights of all entries (E, T, n)."""
    n, length = keys.shape[1], queries.shape[1]
    if n == 0:
        return queries.new_zeros(*queries.shape[:2], 0)
    if not queries.requires_grad and length > 1 and _all_equal(queries.numpy()):
        found = matches(settings, queries[:, :1], keys, oldest)
        return found.expand(-1, length, *found.shape[2:])
    if settings.retrieval == "average":
        return settings.weights(similarity(settings.kernel, queries, keys), oldest)
    queries = queries.detach()
    rows = _nearest_by_products(settings, queries, keys, oldest)
    if rows is None:
        rows = _first_by_age(settings, similarity(settings.kernel, queries, keys), oldest)
    return torch.from_numpy(rows)


def _nearest_by_products(
    settings: RetrievalSettings, queries: Tensor, keys: Tensor, oldest: int
) -> np.ndarray | None:
    """Rows of the nearest entries (E, T) from products of matrices, which take a small part of the time.

    Their rounding depends on the row, so that equal keys may seem different. Where entries are as near as rounding
    can tell, each pair of them and the query is computed by itself.

    Returns:
        The rows; or None: computing each pair is as fast, or a product overflows.
    """
    kernel, (memories, length, _), n = settings.kernel, queries.shape, keys.shape[1]
    pairs = memories * length * n
    if kernel == "l1" or (kernel == "l2" and (length == 1 or pairs < FEW_PAIRS)):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        score, slack = _scores(kernel, queries, keys)
        rows = score.argmax(-1)
        near = score >= (score[np.arange(len(rows)), rows] - slack)[:, None]
    query, row = np.divmod(np.flatnonzero(near), n)
    counts = np.bincount(query, minlength=len(rows))
    if not counts.all():
        return None
    tied = counts > 1
    if tied.any():
        if 10 * len(query) > pairs:
            return None
        query, row = query[tied[query]], row[tied[query]]
        memory, step = np.divmod(query, length)
        alone = (queries.numpy()[memory, step, None], keys.numpy()[memory, row, None])
        place = np.cumsum(tied) - 1
        similar = np.full((place[-1] + 1, n), -np.inf)
        similar[place[query], row] = similarity(kernel, *map(torch.from_numpy, alone)).flatten().numpy()
        rows[tied] = _first_by_age(settings, torch.from_numpy(similar), oldest)
    return rows.reshape(memories, length)


def _scores(kernel: str, queries: Tensor, keys: Tensor) -> tuple[np.ndarray, float]:
    """What orders the entries as their similarity does: (E · T, n); and some times the bound of its rounding."""
    lengths = torch.linalg.vector_norm(keys, dim=-1).numpy()
    longest = torch.linalg.vector_norm(queries, dim=-1).max().item()
    score = np.matmul(queries.numpy(), keys.numpy().swapaxes(-1, -2))
    if kernel == "l2":  # |q − k|² = |q|² − 2 (q·k − |k|²/2)
        score -= (0.5 * lengths * lengths)[:, None]
        reach = np.square(longest + lengths.max())
    else:
        score /= np.maximum(lengths, COSINE_EPS)[:, None]
        reach = longest
    return score.reshape(-1, keys.shape[1]), 16 * queries.shape[-1] * np.finfo(score.dtype).eps * reach


def _first_by_age(settings: RetrievalSettings, similar: Tensor, oldest: int) -> np.ndarray:
    """Rows of the nearest entries, the oldest or the newest of equally near ones: (..., n) → (...)."""
    by_age, n = similar.numpy(), similar.shape[-1]
    if oldest:
        by_age = np.concatenate([by_age[..., oldest:], by_age[..., :oldest]], -1)
    if settings.ties == "oldest":
        age = by_age.argmax(-1)  # the first of equals
    else:
        age = n - 1 - by_age[..., ::-1].argmax(-1)
    return (age + oldest) % n if oldest else age


def taken(found: Tensor, field: Tensor) -> Tensor:
    """What ``matches`` found, of one field of the entries: (E, n, size) → (E, T, size)."""
    if found.ndim == 3:
        return found @ field
    return torch.from_numpy(field.numpy()[np.arange(len(field))[:, None], found.numpy()])


def _all_equal(queries: np.ndarray) -> bool:
    """Whether each memory gets one and the same key at all steps, such as the context: it is looked for once."""
    return bool((queries[:, -1] == queries[:, 0]).all() and (queries == queries[:, :1]).all())


def stretches_between(encode: np.ndarray, retrieve: np.ndarray) -> list[slice]:
    """Steps that can be run at once: cut after each encoding that a later retrieval could find.

    Args:
        encode, retrieve: (..., T) bool, the steps at which any of the trials stores and reads.
    """
    length = encode.shape[-1]
    stores, reads = encode.reshape(-1, length).any(0), retrieve.reshape(-1, length).any(0)
    last_read = int(np.flatnonzero(reads)[-1]) if reads.any() else -1
    edges = [0, *(int(t) + 1 for t in np.flatnonzero(stores) if t < last_read), length]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]
