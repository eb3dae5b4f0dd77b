"""The smallest worlds that answer to actions, for the ladder: of any number of columns and actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..tasks.environment import Worlds

CONTEXTS = 2


@dataclass(frozen=True)
class Echo:
    """Two contexts, each shown as numbers of its own; an action pays one amount in each, and is shown again.

    Chance is 0 on average, and there is nothing else to learn: it serves to compare models, not to train them.
    """

    input_size: int
    """D, at least A + 2."""
    n_actions: int
    """A"""
    length: int = 3
    """Steps of an episode."""
    episodes: int = 4
    """Episodes of an epoch."""
    reward_range: tuple[float, float] = (-np.inf, np.inf)
    chance: float = 0.0

    @property
    def key_columns(self) -> tuple[int, int]:
        """The columns that show the context."""
        return (0, self.input_size - self.n_actions - 1)

    def worlds(self, rngs: Sequence[np.random.Generator]) -> EchoWorlds:
        """One for each generator."""
        return EchoWorlds(self, rngs)


class EchoWorlds(Worlds):
    """Copies of an ``Echo``."""

    def _draw_epoch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        context = np.arange(self.task.episodes) % CONTEXTS
        exposure = np.arange(self.task.episodes) // CONTEXTS + 1
        shown = rng.standard_normal((CONTEXTS, self.task.key_columns[1]))
        pays = rng.standard_normal((CONTEXTS, self.task.n_actions))
        return {"context": context, "exposure": exposure, "shown": shown, "pays": pays}

    def _start(self) -> None:
        assert self._epoch is not None
        self._place = self._epoch["shown"][self._rows, self.context]

    def _move(self, actions: np.ndarray) -> np.ndarray:
        assert self._epoch is not None
        rewards = self._epoch["pays"][self._rows, self.context, actions]
        self._facts = {"action": actions, "reward": rewards}
        return rewards

    def _shown(self) -> np.ndarray:
        return self._place
