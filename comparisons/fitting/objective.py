"""What an estimator needs of a model: the log-likelihood of each participant, as a function of z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from .parameters import ParameterSpace


class Objective(Protocol):
    """Log-likelihoods of P participants under one model with k free parameters; z in float64 (see ``parameters``).

    Problem (r, p) depends on z[r, p] alone: the sum of all log-likelihoods has as its gradient those of each.
    """

    @property
    def space(self) -> ParameterSpace:
        """The parameters: their order in z, and their priors."""
        ...

    @property
    def ids(self) -> tuple[str, ...]:
        """The participants', (P,)."""
        ...

    @property
    def n_choices(self) -> np.ndarray:
        """(P,) int: scored choices of each participant."""
        ...

    def log_likelihood(self, z: Tensor) -> Tensor:
        """z (R, P, k) → (R, P), differentiable by z once.

        Where the model breaks for a person (a choice of probability 0, an overflow): −∞ or NaN, for them alone.
        """
        ...

    def pointwise(self, z: Tensor) -> list[np.ndarray]:
        """z (P, k) → for each participant the log-likelihoods of what can be left out: (units,).

        They add up to ``log_likelihood``. A unit is a trial with scored choices, or several trials where the
        likelihood does not factor into trials.
        """
        ...

    def only(self, rows: Sequence[int]) -> Objective:
        """The same for some of the participants, in this order."""
        ...

    def policies(self, z: Tensor | np.ndarray) -> list[list[np.ndarray]]:
        """z (P, k) → probabilities of choices, p_t (n, T, A), of each participant and block."""
        ...
