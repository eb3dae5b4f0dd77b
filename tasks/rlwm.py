"""Reinforcement learning and working memory: blocks of a few stimuli, each with one right answer, for good.

The task of Collins and Frank (2012). A block (an epoch here) has a set of stimuli, 2 to 6 of them. Each has one
right action of three, which never changes. Stimuli recur in mixed order; after each choice comes its feedback.

A trial is an episode of two steps: the stimulus, at which the agent reads its memory and chooses; and the stimulus
again with the action taken and its reward, at which the agent stores (key, c_t), and no answer is asked for.
Within a trial nothing rewards keeping the feedback in c_t: what is stored is of use when the stimulus comes again.
So an agent learns the task with gradients through its memory, ``train_episodes(..., update="block",
through_memory=True)``; or if it is asked again, at the feedback, which action is right (``asks_again``).

Sources. From the paper: sets of 2 to 6 stimuli, three actions, one of them right. From its data: each stimulus
comes 9 to 15 times. Ours: all worlds have blocks of the same number of trials, so that stimuli of smaller sets
come more often; each stimulus comes once before any comes again; stimuli are barcodes, or one-hot, with noise.

x_t = [stimulus, one-hot previous action, previous reward]; the last two are 0 at the choice.

Chance is 1/A. An agent that never forgets, and repeats no wrong action, is right at a stimulus's k-th encounter
with probability min(k / A, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .environment import Worlds, check_barcodes, check_whole, draw_barcodes, is_whole


@dataclass(frozen=True)
class RLWM:
    """The task of Collins and Frank (2012).

    Raises:
        ValueError: a setting is out of its range; the message says which.
    """

    set_sizes: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Stimuli of a block; for each block, one of these is drawn (paper: 2 to 6)."""
    actions: int = 3
    """Actions, A (paper: 3)."""
    trials: int = 54
    """Trials of a block (9 for each of 6 stimuli)."""
    stimuli: Literal["barcodes", "one-hot"] = "barcodes"
    """What stimuli look like: random bits that are new in each block, or one column each."""
    barcode_bits: int = 10
    """Bits of a barcode."""
    noise: float = 0.0
    """Standard deviation of what is added to each column of a stimulus, anew at each trial."""
    asks_again: bool = False
    """Whether the right action is asked for, and paid, at the feedback as well (not in the paper): then what is to
    be stored is needed within the trial, and a detached memory is enough to learn the task."""

    def __post_init__(self) -> None:
        check_whole(self, actions=2, trials=1)
        sizes = self.set_sizes
        if not isinstance(sizes, tuple) or not sizes or not all(is_whole(s) and s >= 1 for s in sizes):
            raise ValueError(f"RLWM: set_sizes must be a tuple of whole numbers ≥ 1; got {sizes!r}.")
        if self.stimuli not in ("barcodes", "one-hot"):
            raise ValueError(f"RLWM: stimuli must be 'barcodes' or 'one-hot'; got {self.stimuli!r}.")
        if self.stimuli == "barcodes":
            check_barcodes(self, max(sizes), "the largest of set_sizes")
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"RLWM: noise must be a finite number ≥ 0; got {self.noise!r}.")

    @property
    def n_actions(self) -> int:
        """Actions."""
        return self.actions

    @property
    def stimulus_size(self) -> int:
        """Columns of a stimulus."""
        return self.barcode_bits if self.stimuli == "barcodes" else max(self.set_sizes)

    @property
    def input_size(self) -> int:
        """Columns of x_t: stimulus, one-hot previous action, previous reward."""
        return self.stimulus_size + self.actions + 1

    @property
    def key_columns(self) -> tuple[int, int]:
        """The (start, stop) columns of the stimulus."""
        return 0, self.stimulus_size

    @property
    def length(self) -> int:
        """Steps of a trial: choice and feedback."""
        return 2

    @property
    def episodes(self) -> int:
        """Trials of a block."""
        return self.trials

    reward_range = (0.0, 1.0)

    @property
    def chance(self) -> float:
        """Expected reward of a random choice."""
        return 1 / self.actions

    def optimum(self, encounter: np.ndarray) -> np.ndarray:
        """Expected reward at a stimulus's k-th encounter (1, 2, ...) of who never forgets: as ``encounter``."""
        return np.minimum(np.asarray(encounter) / self.actions, 1.0)

    def worlds(self, rngs: Sequence[np.random.Generator]) -> RLWMWorlds:
        """M parallel copies, one for each generator."""
        return RLWMWorlds(self, rngs)


class RLWMWorlds(Worlds):
    """M blocks in lockstep. Facts, of both steps of a trial but for ``action`` and ``reward``: ``stimulus``,
    ``encounter`` (1, 2, ...), ``set_size``, ``right`` (the right action), ``correct`` (whether it was chosen)."""

    task: RLWM
    _epoch: dict[str, np.ndarray]

    def _draw_epoch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        task = self.task
        size = int(rng.choice(task.set_sizes))
        rounds = -(-task.trials // size)
        stimulus = np.concatenate([rng.permutation(size) for _ in range(rounds)])[: task.trials]
        if task.stimuli == "barcodes":
            looks = draw_barcodes(size, task.barcode_bits, rng).astype(float)
        else:
            looks = np.eye(size, task.stimulus_size)
        noise = task.noise * rng.standard_normal((task.trials, task.stimulus_size))
        return {
            "context": stimulus,
            "exposure": 1 + np.arange(task.trials) // size,
            "right": rng.integers(0, task.actions, size)[stimulus],
            "set_size": np.full(task.trials, size),
            "shown": looks[stimulus] + noise,
        }

    @property
    def asks(self) -> np.ndarray:
        """(M,) bool: at the choice; at the feedback, too, if the task asks again."""
        return self._on if self.step == 0 or self.task.asks_again else self._off

    @property
    def retrieve(self) -> np.ndarray:
        """(M,) bool: at the choice."""
        return self._on if self.step == 0 else self._off

    def _start(self) -> None:
        self._now = {name: values[:, self.episode] for name, values in self._epoch.items()}

    def _shown(self) -> np.ndarray:
        return self._now["shown"]

    def _move(self, actions: np.ndarray) -> np.ndarray:
        now, right = self._now, actions == self._now["right"]
        if self.step == 0:
            self._correct = right
        rewards = right * float(self.step == 0 or self.task.asks_again)
        self._facts = {
            "action": actions,
            "reward": rewards,
            "stimulus": now["context"],
            "encounter": now["exposure"],
            "set_size": now["set_size"],
            "right": now["right"],
            "correct": self._correct,
        }
        return rewards
