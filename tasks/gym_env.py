"""The environments for Gymnasium, so that other agents can run on them (optional: ``pip install 'eplstm[gym]'``).

    from eplstm.tasks import BarcodeBandit
    from eplstm.tasks.gym_env import gym_env, vector_gym_env

    env = gym_env(BarcodeBandit())
    observation, info = env.reset(seed=0)

One episode comes after the other: ``reset()`` begins the next one (an unfinished one is left as it is), and after
an epoch's last episode a new epoch. ``reset(seed=s)`` starts anew, with the epoch that the task's ``worlds`` draw
from ``numpy.random.default_rng(s)``. An episode ends by termination, never by truncation.

``info`` tells of the step that the observation shows: ``encode``, ``retrieve``, ``context``, ``exposure``, and
``epoch_begins``, true at the first step of an epoch, where an episodic memory has to be cleared. An agent with an
episodic memory needs these; observations are float32 copies of the task's inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .barcode_bandit import BarcodeBandit
from .contextual_choice import ContextualChoice
from .environment import Task, Worlds, is_whole
from .trials import Trials
from .two_step import TwoStep
from .water_maze import WaterMaze

try:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ImportError("eplstm.tasks.gym_env needs gymnasium: pip install 'eplstm[gym]'.") from error

GAUSSIAN_BOUND = 1e3
"""Contextual choice shows Gaussian numbers; Gymnasium wants finite bounds, and none comes near this one."""


def gym_env(task: Task | ContextualChoice, *, n_contexts: int = 50) -> TaskEnv:
    """The task as a ``gymnasium.Env``.

    Args:
        task: a BarcodeBandit, TwoStep, WaterMaze or ContextualChoice.
        n_contexts: contexts in a block of ContextualChoice, which is its epoch; other tasks do not use it.

    Raises:
        TypeError: task is none of these.
    """
    return TaskEnv(_with_worlds(task, n_contexts))


def vector_gym_env(task: Task | ContextualChoice, n: int, *, n_contexts: int = 50) -> TaskVectorEnv:
    """n copies of the task in lockstep, as a ``gymnasium.vector.VectorEnv``; much faster than n single ones.

    ``reset(seed=s)`` gives copy e the seed s + e: its episodes are those of ``gym_env`` with that seed. All
    copies terminate together; the step after that begins the next episode, whatever its actions are (Gymnasium's
    next-step autoreset).

    Args:
        task: a BarcodeBandit, TwoStep, WaterMaze or ContextualChoice.
        n: the number of copies.
        n_contexts: contexts in a block of ContextualChoice, which is its epoch; other tasks do not use it.

    Raises:
        TypeError: task is none of these.
        ValueError: n is not a whole number ≥ 1.
    """
    return TaskVectorEnv(_with_worlds(task, n_contexts), n)


class TaskEnv(gymnasium.Env):
    """One world of a task; made by ``gym_env``."""

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, task: Task) -> None:
        self.task = task
        self.observation_space, self.action_space = _spaces(task)
        # The recipe for another one like this: Gymnasium's checker and its vector environments ask for it.
        name = type(task.choice if isinstance(task, _Blocks) else task).__name__
        self.spec = EnvSpec(f"eplstm/{name}-v0", entry_point=f"{__name__}:TaskEnv", kwargs={"task": task})
        self._worlds: Worlds | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin the next episode; with a seed, the first one of that seed. ``options`` are not used."""
        super().reset(seed=seed)
        if seed is not None or self._worlds is None:
            self._worlds = self.task.worlds([self.np_random])
            self._worlds.begin_epoch()
        _next_episode(self._worlds)
        return self._worlds.inputs[0].astype(np.float32), self._info()

    def step(self, action):
        """Observation, reward, terminated, truncated (never), info.

        Raises:
            ValueError: the episode is over, or the action is not one of the task's; the message says which.
            gymnasium.error.ResetNeeded: ``reset`` was never called.
        """
        if self._worlds is None:
            raise gymnasium.error.ResetNeeded("Call reset() before step().")
        reward = self._worlds.act(np.asarray(action).reshape(1))
        over = self._worlds.step == self.task.length
        return self._worlds.inputs[0].astype(np.float32), float(reward[0]), over, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {name: value[0].item() for name, value in _info(self._worlds).items()}


class TaskVectorEnv(VectorEnv):
    """M worlds of a task in lockstep; made by ``vector_gym_env``."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, task: Task, n: int) -> None:
        if not is_whole(n) or n < 1:
            raise ValueError(f"vector_gym_env: n must be a whole number ≥ 1; got {n!r}.")
        self.task, self.num_envs = task, int(n)
        self.single_observation_space, self.single_action_space = _spaces(task)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._worlds: Worlds | None = None

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None):
        """Begin the next episode; with a seed (or a list of n seeds), the first one. ``options`` are not used.

        Raises:
            ValueError: a list of seeds does not have n of them, or some are None.
        """
        if seed is not None or self._worlds is None:
            if seed is None:
                seeds = [int(s) for s in np.random.SeedSequence().generate_state(self.num_envs)]
            elif is_whole(seed):
                seeds = [int(seed) + e for e in range(self.num_envs)]  # type: ignore[operator, arg-type]
            else:
                seeds = list(seed)  # type: ignore[arg-type]
            if len(seeds) != self.num_envs or not all(is_whole(s) and s >= 0 for s in seeds):  # type: ignore[operator]
                raise ValueError(
                    f"vector_gym_env: seed must be a whole number ≥ 0 or {self.num_envs} of them, one for each "
                    f"copy (all start anew, because they run in lockstep); got {seed!r}."
                )
            self._worlds = self.task.worlds([np.random.default_rng(s) for s in seeds])
            self._worlds.begin_epoch()
        _next_episode(self._worlds)
        return self._worlds.inputs.astype(np.float32), _info(self._worlds)

    def step(self, actions):
        """Observations (n, D), rewards, terminated, truncated (n,) each, and infos, (n,) arrays by name.

        Raises:
            ValueError: an action is not one of the task's.
            gymnasium.error.ResetNeeded: ``reset`` was never called.
        """
        worlds = self._worlds
        if worlds is None:
            raise gymnasium.error.ResetNeeded("Call reset() before step().")
        if worlds.step == self.task.length:
            _next_episode(worlds)
            rewards = np.zeros(self.num_envs)
        else:
            rewards = worlds.act(actions)
        over = np.full(self.num_envs, worlds.step == self.task.length)
        return worlds.inputs.astype(np.float32), rewards, over, np.zeros_like(over), _info(worlds)


def _next_episode(worlds: Worlds) -> None:
    if worlds.episode is not None and worlds.episode + 1 == worlds.task.episodes:
        worlds.begin_epoch()
    worlds.begin_episode()


def _info(worlds: Worlds | None) -> dict[str, np.ndarray]:
    assert worlds is not None
    return {
        "encode": worlds.encode,
        "retrieve": worlds.retrieve,
        "context": worlds.context,
        "exposure": worlds.exposure,
        "epoch_begins": np.full(worlds.n, worlds.episode == 0 and worlds.step == 0),
    }


def _spaces(task: Task) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Discrete]:
    shape = (task.input_size,)
    if isinstance(task, _Blocks):
        low, high = -GAUSSIAN_BOUND, GAUSSIAN_BOUND
    else:
        low, high = min(0.0, task.reward_range[0]), 1.0
    return gymnasium.spaces.Box(low, high, shape, np.float32), gymnasium.spaces.Discrete(task.n_actions)


def _with_worlds(task: Any, n_contexts: int) -> Task:
    if isinstance(task, ContextualChoice):
        return _Blocks(task, n_contexts)
    if not isinstance(task, (BarcodeBandit, TwoStep, WaterMaze)):
        raise TypeError(
            "gym_env: task must be a BarcodeBandit, TwoStep, WaterMaze or ContextualChoice; "
            f"got {type(task).__name__}."
        )
    return task


# ---- contextual choice: blocks of trials, whatever the actions are ---------------------------------------


class _Blocks:
    """Contextual choice as an environment: a block is an epoch, a trial an episode."""

    def __init__(self, task: ContextualChoice, n_contexts: int) -> None:
        if not is_whole(n_contexts) or n_contexts < 1:
            raise ValueError(f"gym_env: n_contexts must be a whole number ≥ 1; got {n_contexts!r}.")
        self.choice, self.n_contexts = task, n_contexts
        self.input_size, self.n_actions, self.key_columns = task.input_size, task.n_actions, task.context_columns
        self.length, self.episodes, self.chance = task.trial_length, 2 * n_contexts, task.chance
        self.reward_range = (0.0, 1.0)

    def worlds(self, rngs: Sequence[np.random.Generator]) -> Worlds:
        return _BlockWorlds(self, rngs)


class _BlockWorlds(Worlds):
    task: _Blocks
    _epoch: dict[str, np.ndarray]

    @property
    def encode(self) -> np.ndarray:
        return self._epoch["encode"][:, self.episode, self.step] if self.step < self._length else self._off

    def _draw_epoch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        block: Trials = self.task.choice.sample(self.task.n_contexts, rng)
        assert block.context is not None and block.encounter is not None
        if block.rewards is not None or not block.asks.all():
            raise ValueError(
                "gym_env: it pays 1 for the target at every step; it cannot show trials with rewards, of unequal "
                "length, or with steps that ask for no answer (targets of -1). Make a task of Worlds."
            )
        return {
            "context": block.context,
            "exposure": block.encounter,
            "inputs": block.inputs,
            "targets": block.targets,
            "encode": block.encode,
        }

    def _start(self) -> None:
        pass

    def _shows_previous(self) -> bool:
        return False

    def _shown(self) -> np.ndarray:
        # After the last step comes nothing new.
        return self._epoch["inputs"][:, self.episode, min(self.step, self._length - 1)]

    def _move(self, actions: np.ndarray) -> np.ndarray:
        target = self._epoch["targets"][:, self.episode, self.step]
        rewards = (actions == target).astype(float)
        self._facts = {"action": actions, "reward": rewards, "target": target}
        return rewards
