"""Model-based and model-free agents for the episodic two-step task, with and without episodic memory.

They see what a network sees, x_t, and know its layout. Without episodic memory (*incremental*) they ignore the
contexts. With it (*episodic*) they store each uncued trial's action, state and reward under its context, and use
them when the context cues a choice.

- ``ModelBased`` knows the task. It holds b, the probability that state 0 is the good one, by Bayes' rule. A state
  is worth V(s) = P(s good) · p_good + P(s bad) · p_bad; an action, Q(a) = Σ_s P(s | a) V(s). Episodic: V of the
  old trial's state is its old reward, and a reward that is only repeated teaches nothing about b.
- ``ModelFree`` knows actions and rewards: Q(a) ← Q(a) + α (r − Q(a)), from .5. Episodic: Q of the old trial's
  action is, for this choice, its old reward.

Both choose with P(1) = σ(β (Q(1) − Q(0))); β = ∞ is greedy, and ties are decided by chance.
"""

from __future__ import annotations

import numpy as np

from .environment import Policy
from .two_step import TwoStep


class _Learner(Policy):
    """What both share: reading x_t, the episodic store, the choice."""

    def __init__(self, task: TwoStep, rng: np.random.Generator, *, beta: float, episodic: bool) -> None:
        if not isinstance(task, TwoStep):
            raise TypeError(f"{type(self).__name__}: task must be a TwoStep; got {type(task).__name__}.")
        if not beta >= 0:
            raise ValueError(f"{type(self).__name__}: beta (inverse temperature) must be ≥ 0; got {beta!r}.")
        self.task, self.rng, self.beta, self.episodic = task, rng, beta, episodic

    def begin_episode(self, n_worlds: int) -> None:
        """Forget the episode before; its contexts do not come back."""
        self._keys: list[np.ndarray] = []
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._old: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._reset(n_worlds)

    def act(self, inputs: np.ndarray) -> np.ndarray:
        """Choose at a choice; learn and store at an outcome. inputs: (M, D); returns (M,) int."""
        context = inputs[:, slice(*self.task.key_columns)]
        if inputs[0, 0]:
            self._old = self._recall(context) if self.episodic and context.any() else None
            return self._choose(self._values(self._old))
        action, state, reward = inputs[:, -2].astype(int), inputs[:, 2].astype(int), inputs[:, -1]
        self._learn(action, state, reward, self._old)
        if self.episodic and context.any():
            self._keys.append(context)
            self._kept.append((action, state, reward))
        return np.zeros(len(inputs), int)

    def _recall(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Action, state and reward of the trial that had this context."""
        which = (np.stack(self._keys) == context).all(2).argmax(0)
        rows = np.arange(len(context))
        action, state, reward = (np.stack(kept)[which, rows] for kept in zip(*self._kept, strict=True))
        return action, state, reward

    def _choose(self, values: np.ndarray) -> np.ndarray:
        advantage = values[:, 1] - values[:, 0]
        # 0 · ∞ is no number; where the values are equal, both actions are as good.
        scaled = np.where(advantage == 0, 0.0, np.where(advantage == 0, 1.0, advantage) * self.beta)
        with np.errstate(over="ignore"):
            return (self.rng.random(len(values)) < 1 / (1 + np.exp(-scaled))).astype(int)

    def _reset(self, n_worlds: int) -> None:
        raise NotImplementedError

    def _values(self, old) -> np.ndarray:
        raise NotImplementedError

    def _learn(self, action: np.ndarray, state: np.ndarray, reward: np.ndarray, old) -> None:
        raise NotImplementedError


class ModelBased(_Learner):
    """Knows the transitions, and that one state is good and which may flip.

    Args:
        task: the settings, which it knows.
        rng: the source of the choices.
        beta: inverse temperature, β; ∞ is greedy.
        episodic: whether it uses the contexts.

    Raises:
        TypeError: task is not a TwoStep.
        ValueError: beta is negative or not a number.
    """

    def __init__(
        self, task: TwoStep, rng: np.random.Generator, *, beta: float = 5.0, episodic: bool = False
    ) -> None:
        super().__init__(task, rng, beta=beta, episodic=episodic)

    def _reset(self, n_worlds: int) -> None:
        self.belief = np.full(n_worlds, 0.5)

    def _values(self, old) -> np.ndarray:
        task, good = self.task, np.stack([self.belief, 1 - self.belief], axis=1)
        states = good * task.p_good + (1 - good) * task.p_bad
        if old is not None:
            _, state, reward = old
            states[np.arange(len(states)), state] = reward
        return task.p_common * states + (1 - task.p_common) * states[:, ::-1]

    def _learn(self, action: np.ndarray, state: np.ndarray, reward: np.ndarray, old) -> None:
        task, belief = self.task, self.belief
        pays = np.where(reward == 1, task.p_good, 1 - task.p_good)
        fails = np.where(reward == 1, task.p_bad, 1 - task.p_bad)
        if0, if1 = np.where(state == 0, pays, fails), np.where(state == 0, fails, pays)
        total = belief * if0 + (1 - belief) * if1
        # With probabilities of 0 and 1, a repeated reward taken for a fresh one can be impossible.
        learnt = np.where(total > 0, belief * if0 / np.where(total > 0, total, 1), belief)
        if old is not None:
            learnt = np.where(state == old[1], belief, learnt)
        self.belief = learnt * (1 - task.p_flip) + (1 - learnt) * task.p_flip


class ModelFree(_Learner):
    """Repeats actions that were rewarded, whatever the transition was.

    Args:
        task: the settings; only the layout of x_t is used.
        rng: the source of the choices.
        alpha: learning rate, α, above 0 and at most 1.
        beta: inverse temperature, β; ∞ is greedy.
        episodic: whether it uses the contexts.

    Raises:
        TypeError: task is not a TwoStep.
        ValueError: alpha or beta is out of its range.
    """

    def __init__(
        self,
        task: TwoStep,
        rng: np.random.Generator,
        *,
        alpha: float = 0.5,
        beta: float = 5.0,
        episodic: bool = False,
    ) -> None:
        super().__init__(task, rng, beta=beta, episodic=episodic)
        if not 0 < alpha <= 1:
            raise ValueError(f"ModelFree: alpha (learning rate) must be above 0 and at most 1; got {alpha!r}.")
        self.alpha = alpha

    def _reset(self, n_worlds: int) -> None:
        self.values = np.full((n_worlds, 2), 0.5)

    def _values(self, old) -> np.ndarray:
        values = self.values.copy()
        if old is not None:
            action, _, reward = old
            values[np.arange(len(values)), action] = reward
        return values

    def _learn(self, action: np.ndarray, state: np.ndarray, reward: np.ndarray, old) -> None:
        rows = np.arange(len(action))
        self.values[rows, action] += self.alpha * (reward - self.values[rows, action])
