"""What a call to ``learn()`` needs besides its inputs: where sequences begin, the loss, and who is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..losses import NotFinite, of_gradients


class Session:
    """What a call to ``learn()`` needs for each minibatch besides its inputs; subclass it for a task.

    The composition asks for the trials in the order in which it is trained on them; with several epochs, their
    numbers go on from one to the next.
    """

    def begin(self, which: range) -> dict[Any, Tensor]:
        """Values of nodes before the first step of these trials: {mechanism: (B, size)}; others start at 0."""
        return {}

    def rounds(self, which: range) -> list[range]:
        """These trials, which make one update, as they are executed: those of a range side by side, one range
        after the other."""
        return [which]

    def lengths(self, which: range) -> np.ndarray | None:
        """Steps of each of these trials, (B,) int; None: all T. None is executed for longer than the longest."""
        return None

    def loss(self, which: range, values: Mapping[Any, Tensor]) -> Tensor:
        """Loss (one number) of these trials, from each node's values {mechanism: (B, T, size)}, T as executed."""
        raise NotImplementedError

    def before_update(self, gradients: Mapping[Any, np.ndarray]) -> None:
        """Called before each step of the optimiser with {projection: gradient}, if ``wants_gradients``."""

    def after_update(self) -> None:
        """Called after each step of the optimiser."""

    def not_finite(self, which: range, gradients: list[str]) -> NotFinite:
        """What to raise where an update is not finite.

        Args:
            which: its trials.
            gradients: the projections whose gradients are not; empty where the loss is not.
        """
        cause = of_gradients(gradients) if gradients else "the loss is not finite"
        return NotFinite(
            f"learn() has stopped before the update of sequence {which.start}"
            + (f" to {which.stop - 1}" if len(which) > 1 else "")
            + f": {cause}. Weights and optimiser are those of the last update that was. Use a lower "
            "learning_rate, or mend the loss."
        )

    wants_gradients = False
    width = 1
    """Sequences that each of the inputs stands for: M parallel worlds, whose inputs come about as they are run. As
    each input has one of the results, these are of the first world."""
    max_gradient_norm: float | None = None
    """Gradients of all parameters together are scaled down to this norm, if theirs is larger."""
    through_memory = False
    """Whether gradients flow from what is retrieved to what was stored for the same update."""
    unroll_steps: int | None = None
    """Steps of a stretch, from one of which no gradient flows into the one before; None: whole sequences."""


class FunctionSession(Session):
    """A session whose loss is a function of (which, values)."""

    def __init__(self, function: Any, n: int) -> None:
        self.function, self.n = function, n

    def loss(self, which: range, values: Mapping[Any, Tensor]) -> Tensor:
        """That of the function."""
        first = which.start % self.n  # in every epoch the same sequences
        return self.function(range(first, first + len(which)), values)
