"""Which entries of a memory match a query: nearest or average, ties, and the gradients of what is found.

G memories of n entries each are asked T queries at once. Equal keys have exactly equal similarities, so that ties
are ties. ``bank.py`` holds the entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .kernels import kernel

FEW_PAIRS = 5000
"""Pairs of query and entry up to which similarities one by one are as fast as products of matrices."""
MOST_TRIALS = 2**40
"""Most rows of a record, by which numbers of trials are told from those of another."""
SAME_WEIGHT = 1e-9
"""Weights of an average that differ by a smaller part count as equal: their order is one of rounding."""


@dataclass(eq=False)
class View:
    """Rings as they are searched: n rows of each."""

    n: int
    there: np.ndarray | None
    """(G, n) bool: rows that hold an entry; None: all."""
    stored: np.ndarray
    """(G,): entries stored ever since the ring was cleared."""
    limit: int

    @property
    def lag(self) -> np.ndarray:
        """(G, n): entries that were stored later than that of a row: 0 for the newest."""
        lag = (self.stored[:, None] - 1) % self.limit - np.arange(self.n)
        lag[lag < 0] += self.limit
        return lag

    @property
    def wraps(self) -> bool:
        """Whether the order of rows is not that of ages."""
        return bool((self.stored > self.limit).any())


def all_equal(queries: np.ndarray) -> bool:
    """Whether each memory gets one and the same key at all steps, such as the context: it is looked for once."""
    return bool((queries[:, -1] == queries[:, 0]).all() and (queries == queries[:, :1]).all())


# ---- how entries are retrieved -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Retrieval:
    """How a memory retrieves: as the fields of ``ModelConfig`` of the same names.

    Raises:
        ValueError: an unknown kernel or retrieval, or forgetting without an average.
    """

    kernel: str
    retrieval: str
    sharpness: float | np.ndarray = 1.0
    ties: str = "oldest"
    forgetting: float | np.ndarray = 0.0
    """As of ``Person``; for averages only. Either may differ between rings: (G, 1, 1)."""

    def __post_init__(self) -> None:
        kernel(self.kernel)
        if self.retrieval not in ("nearest", "average"):
            raise ValueError(f"retrieval must be 'nearest' or 'average'; got {self.retrieval!r}.")
        if np.any(self.forgetting) and self.retrieval != "average":
            raise ValueError(
                f"forgetting={np.max(self.forgetting):g} needs retrieval='average'; got {self.retrieval!r}. Set "
                "it to 0, or average over the entries."
            )

    def similarity(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """(G, T, K), (G, n, K) → (G, T, n)."""
        return kernel(self.kernel).similarity(torch.from_numpy(queries), torch.from_numpy(keys)).numpy()

    def match(self, queries: np.ndarray, keys: np.ndarray, view: View) -> Match:
        """What matches the queries (G, T, K) among the keys (G, n, K) of a view."""
        if view.n == 0:
            return Match(view)
        if self.retrieval == "nearest":
            rows = self._nearest_by_score(queries, keys, view)
            if rows is None:
                rows = self.nearest(self.similarity(queries, keys), view)
            return Match(view, rows=rows, empty=_empty(view))
        similar = self.similarity(queries, keys)
        lag = view.lag[:, None].astype(float) if np.any(self.forgetting) else None
        gone = None if view.there is None else ~view.there[:, None]
        arrays = (None if a is None else torch.from_numpy(a) for a in (similar, lag, gone))
        own = (torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in (self.sharpness, self.forgetting))
        weights = average_weights(*arrays, *own).numpy()  # type: ignore[arg-type]
        return Match(view, weights=weights, similar=similar, sharpness=self.sharpness, queries=queries, keys=keys)

    def nearest(self, similar: np.ndarray, view: View) -> np.ndarray:
        """Rows of the most similar entries, the oldest or the newest of equally similar ones: (G, T, n) → (G,
        T)."""
        if not view.wraps:  # rows are in the order of ages
            if view.there is not None:
                similar = np.where(view.there[:, None], similar, -np.inf)
            if self.ties == "oldest":
                return similar.argmax(-1)  # the first of equals
            return view.n - 1 - similar[..., ::-1].argmax(-1)
        gone = None if view.there is None else ~view.there[:, None]
        return nearest_rows(similar, view.lag[:, None], gone, self.ties)

    def _nearest_by_score(self, queries: np.ndarray, keys: np.ndarray, view: View) -> np.ndarray | None:
        """The same from the kernel's fast form, which takes a small part of the time.

        Its rounding depends on the row, so that equal keys may seem different. Where entries are as near as
        rounding can tell, each pair of them and the query is computed by itself.

        Returns:
            The rows (G, T); or None: computing each pair is as fast, or a product overflows.
        """
        score_of, (memories, length, _), n = kernel(self.kernel).score, queries.shape, view.n
        pairs = memories * length * n
        if score_of is None or pairs < FEW_PAIRS:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            score, slack = score_of(queries, keys)
            if view.there is not None:
                score = np.where(view.there[:, None], score, -np.inf)
            rows = score.argmax(-1)
            best = np.take_along_axis(score, rows[..., None], -1)
            near = score >= best - slack
        counts = near.sum(-1)
        if not counts.all():
            return None
        tied = counts > 1
        if tied.any():
            memory, step, row = np.nonzero(near & tied[..., None])
            if 10 * len(row) > pairs:
                return None
            similar = np.full(near.shape, -np.inf)
            alone = self.similarity(queries[memory, step, None], keys[memory, row, None])
            similar[memory, step, row] = alone[:, 0, 0]
            rows = np.where(tied, self.nearest(similar, view), rows)
        return rows


def _empty(view: View) -> np.ndarray | None:
    """(G, 1) bool: rings without entries among others that have some; None: there is none."""
    if view.there is None or view.there[:, 0].all():
        return None
    return ~view.there[:, :1]


def nearest_rows(similar: np.ndarray, lag: np.ndarray, gone: np.ndarray | None, ties: str) -> np.ndarray:
    """Rows of the most similar of n entries, the oldest or the newest of equally similar ones: (..., n) → (...).

    Args:
        similar: (..., n).
        lag: (..., n), of each entry.
        gone: (..., n) bool, entries that are not there; or None. Where none is there, the row means nothing.
        ties: which of equally similar ones.
    """
    if gone is not None:
        similar = np.where(gone, -np.inf, similar)
    best = similar == similar.max(-1, keepdims=True)
    if gone is not None:
        best &= ~gone
    return np.where(best, lag if ties == "oldest" else -lag, np.iinfo(np.int64).min).argmax(-1)


def average_weights(
    similar: Tensor,
    lag: Tensor | None,
    gone: Tensor | None,
    sharpness: Tensor | float,
    forgetting: Tensor | float = 0.0,
) -> Tensor:
    """Weights in the average over n entries: softmax(sharpness · similarity − forgetting · lag), (..., n).

    Args:
        similar: (..., n).
        lag: (..., n), or None where nothing is forgotten.
        gone: (..., n) bool, entries that are not there; or None. Where none is there, all weights are 0.
        sharpness, forgetting: numbers, or tensors that go with (..., n).
    """
    logits = sharpness * similar
    if lag is not None:
        logits = logits - forgetting * lag
    if gone is None:
        return torch.softmax(logits, -1)
    weights = torch.softmax(logits.masked_fill(gone, -torch.inf), -1)
    return weights.masked_fill(gone.all(-1, keepdim=True), 0.0)


NOTHING = np.array([-1.0, -1.0, 0.0])
"""Nothing was retrieved: in place of an entry, its trial and its weight."""


@dataclass(eq=False)
class Match:
    """What T queries to each of G rings have found: a row each, or weights of all rows; neither where all are
    empty."""

    view: View
    rows: np.ndarray | None = None
    """(G, T) int"""
    empty: np.ndarray | None = None
    """(G, T or 1) bool: queries that find no entry, whose rows mean nothing; None: there is none."""
    weights: np.ndarray | None = None
    """(G, T, n)"""
    similar: np.ndarray | None = None
    """(G, T, n)"""
    sharpness: float | np.ndarray = 1.0
    queries: np.ndarray | None = None
    """(G, T, K), of an average."""
    keys: np.ndarray | None = None
    """(G, n, K), of an average."""
    born: np.ndarray | None = None
    """(G, at least n): as ``Bank.rows``, at the time of the queries."""

    @cached_property
    def retrieved(self) -> np.ndarray:
        """Of the entries of largest weight, of equal ones (to within rounding) the oldest: their numbers, oldest
        first, the trials that have stored them, and their weights; (3, G, T), with ``NOTHING`` where that is."""
        view, rows, weight = self.view, self.rows, 1.0
        if self.weights is not None:
            weight = self.weights.max(-1)
            best = self.weights >= (1 - SAME_WEIGHT) * weight[..., None]
            rows = (np.where(best, view.lag[:, None], -1) if view.wraps else best).argmax(-1)
        nothing = NOTHING[:, None, None]
        if rows is None or self.born is None:
            return nothing.repeat(len(view.stored), 1)
        stored, found = view.stored[:, None], np.empty((3, *rows.shape))
        found[0] = rows
        if view.wraps:
            found[0] = np.minimum(stored, view.limit) - 1 - (stored - 1 - rows) % view.limit
        born = self.born[np.arange(len(rows))[:, None], rows]
        found[1] = np.where((born >= 0) & (born < MOST_TRIALS), born, -1)
        found[2] = weight
        return found if view.there is None else np.where(stored == 0, nothing, found)

    def take(self, field: np.ndarray) -> np.ndarray:
        """What was found of a field (G, n, size): (G, T, size)."""
        if self.weights is not None:
            return np.matmul(self.weights, field)
        if self.rows is None:
            return np.zeros((len(field), 1, field.shape[-1]))
        found = field[np.arange(len(field))[:, None], self.rows]
        return found if self.empty is None else np.where(self.empty[..., None], 0.0, found)

    def by_field(self, d_found: np.ndarray, n_queries: int) -> np.ndarray:
        """Derivatives by a field, from those by what was taken of it: (G, T, size) → (G, n, size).

        Args:
            d_found: (G, T, size), of all queries, also where they were looked for once.
            n_queries: T.
        """
        memories, _, size = d_found.shape
        if self.weights is not None:
            weights = np.broadcast_to(self.weights, (memories, n_queries, self.view.n))
            return np.matmul(weights.swapaxes(-1, -2), d_found)
        d_field = np.zeros((memories, self.view.n, size))
        if self.rows is not None:
            rows = np.broadcast_to(self.rows, (memories, n_queries))
            if self.empty is not None:
                d_found = np.where(self.empty[..., None], 0.0, d_found)
            np.add.at(d_field, (np.arange(memories)[:, None], rows), d_found)
        return d_field

    def by_logits(self, field: np.ndarray, d_found: np.ndarray) -> np.ndarray:
        """Derivatives by the logits of an average, sharpness · similarity − forgetting · lag: (G, T, n).

        With weights w_k and δ for derivatives: δw_k = δm · value_k, δ(logit)_k = w_k (δw_k − Σ_j w_j δw_j).
        """
        assert self.weights is not None
        slopes = np.matmul(d_found, field.swapaxes(-1, -2))
        slopes -= (slopes * self.weights).sum(-1, keepdims=True)
        slopes *= self.weights
        return slopes

    def by_queries(self, settings: Retrieval, field: np.ndarray, d_found: np.ndarray) -> np.ndarray:
        """Derivatives by the queries, (G, T, K): zero but for an average."""
        if self.weights is None or self.queries is None or self.keys is None:
            raise ValueError("Derivatives by the queries are those of an average.")
        d_similar = self.sharpness * self.by_logits(field, d_found)
        queries = torch.tensor(self.queries).expand(*d_found.shape[:2], -1).contiguous().requires_grad_()
        with torch.enable_grad():
            similar = kernel(settings.kernel).similarity(queries, torch.from_numpy(self.keys))
        return torch.autograd.grad(similar, queries, torch.from_numpy(d_similar))[0].numpy()
