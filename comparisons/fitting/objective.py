"""What an estimator needs of a model: the log-likelihood of each participant, as a function of z."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .parameters import ParameterSpace
from .table.data import Participant


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


class OfPeople:
    """What objectives of people's choices share.

    Args:
        participants: P people.
        space: the k parameters.

    Raises:
        ValueError: there is nobody, or two have the same id.
    """

    def __init__(self, participants: Sequence[Participant], space: ParameterSpace) -> None:
        self.participants, self.space = tuple(participants), space
        if not self.participants:
            raise ValueError(f"{type(self).__name__}: needs at least one participant; got none.")
        twice = [one for one, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise ValueError(f"{type(self).__name__}: ids must differ; {twice[0]!r} is there twice.")

    @property
    def ids(self) -> tuple[str, ...]:
        """The participants'."""
        return tuple(participant.id for participant in self.participants)

    @property
    def n_choices(self) -> np.ndarray:
        """(P,) int: choices of each participant; trials without a response are not counted, censored or not."""
        return np.array([participant.n_choices for participant in self.participants])

    def checked(self, z: Tensor, axes: int) -> Tensor:
        """z, if it is float64 (R, P, k) or, of two axes, (P, k). ValueError otherwise."""
        expected = (len(self.participants), len(self.space))
        if z.ndim != axes or tuple(z.shape[-2:]) != expected or z.dtype != torch.float64:
            raise ValueError(
                f"{type(self).__name__}: z must be float64 {'(R, P, k)' if axes == 3 else '(P, k)'} with (P, k) = "
                f"{expected}; got {z.dtype} {tuple(z.shape)}."
            )
        return z
