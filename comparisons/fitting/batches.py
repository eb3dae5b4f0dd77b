"""Log-likelihoods and gradients of any problems of any participants, in as few calls of an objective as serve.

An objective takes a rectangle, as many z for each participant as for the others. What is left of many searches is
ragged: some participants are done, others have one restart under way. Here the rows go in as they come;
participants no longer asked for leave the batch (``Objective.only``), and those whose likelihood raises an
exception are found, noted, and left out.
"""

from __future__ import annotations

import numpy as np
import torch

from .objective import Objective

MOST_AT_ONCE = 128
"""Problems in one call, unless there are more participants: beyond, memory grows, and little time is won."""
LEAST_LEAVING = 0.25
"""Share of the participants in a batch that must be done before the batch is made anew without them."""


class Batches:
    """The P participants of an objective, asked for row by row."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.n_participants, self.n_parameters = len(objective.ids), len(objective.space)
        self.failures: dict[int, str] = {}
        """Participants whose likelihood raised an exception, and which; from then on their values are NaN."""
        self._held = np.arange(self.n_participants)
        self._batch = objective
        self._seen = np.full((self.n_participants, self.n_parameters), np.nan)

    def __call__(
        self, z: np.ndarray, participants: np.ndarray, with_gradient: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihoods (m,) and gradients (m, k) at z (m, k) of these participants (m,); NaN for failed ones.

        Gradients are NaN if they are not asked for.

        Raises:
            ValueError: the objective gives something else than (R, P) values in float64.
        """
        value, gradient = np.full(len(z), np.nan), np.full(z.shape, np.nan)
        rows = np.flatnonzero(~np.isin(participants, list(self.failures)))
        turn = _turns(participants[rows])
        at_once = max(1, MOST_AT_ONCE // max(1, len(np.unique(participants[rows]))))
        for first in range(0, turn.max(initial=-1) + 1, at_once):
            now = rows[(turn >= first) & (turn < first + at_once)]
            value[now], gradient[now] = self._rectangle(z[now], participants[now], with_gradient)
        return value, gradient

    def _rectangle(
        self, z: np.ndarray, participants: np.ndarray, with_gradient: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        self._hold(np.unique(participants))
        turn, column = _turns(participants), np.searchsorted(self._held, participants)
        # Places that nobody asked for are filled with a z of the same participant that went well before.
        newcomers = participants[turn == 0]
        self._seen[newcomers] = np.where(np.isnan(self._seen[newcomers]), z[turn == 0], self._seen[newcomers])
        rectangle = np.tile(self._seen[self._held], (turn.max() + 1, 1, 1))
        rectangle[turn, column] = z
        value, gradient = self._evaluate(self._batch, self._held, rectangle, with_gradient)
        return value[turn, column], gradient[turn, column]

    def _hold(self, asked: np.ndarray) -> None:
        """Have a batch in which these participants are, and not many more."""
        held = self._held[~np.isin(self._held, list(self.failures))]
        if np.isin(asked, held).all():
            if len(asked) > (1 - LEAST_LEAVING) * len(held):
                asked = held
            if len(asked) == len(self._held):
                return
        self._held, self._batch = asked, self.objective.only(asked.tolist())

    def _evaluate(
        self, batch: Objective, participants: np.ndarray, rectangle: np.ndarray, with_gradient: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (R, P) and gradients (R, P, k), in halves if the whole raises an exception."""
        z = torch.tensor(rectangle, dtype=torch.float64, requires_grad=with_gradient)
        try:
            value = batch.log_likelihood(z)
            gradient = torch.full_like(z, 0.0 if with_gradient else torch.nan)
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value.sum(), z)
        except Exception as error:  # whatever a model raises: one participant's data must not end the others' fits
            if len(participants) == 1:
                self.failures[int(participants[0])] = f"the likelihood raised {type(error).__name__}: {error}"
                return np.full(rectangle.shape[:2], np.nan), np.full(rectangle.shape, np.nan)
            half, parts = len(participants) // 2, []
            for of in (slice(half), slice(half, None)):
                some = self.objective.only(participants[of].tolist())
                parts.append(self._evaluate(some, participants[of], rectangle[:, of], with_gradient))
            value, gradient = (np.concatenate(both, axis=1) for both in zip(*parts, strict=True))
            return value, gradient
        if value.shape != z.shape[:2] or value.dtype != torch.float64:
            raise ValueError(
                f"The objective's log_likelihood must give float64 values of shape {tuple(z.shape[:2])} for z of "
                f"shape {tuple(z.shape)}; got {value.dtype} of shape {tuple(value.shape)}."
            )
        return value.detach().numpy(), gradient.numpy()


def _turns(participants: np.ndarray) -> np.ndarray:
    """For each row, how many rows before it are of the same participant: (m,)."""
    order = np.argsort(participants, kind="stable")
    ordered = participants[order]
    first = np.searchsorted(ordered, ordered)
    turn = np.empty(len(participants), int)
    turn[order] = np.arange(len(participants)) - first
    return turn
