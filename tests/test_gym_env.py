"""The environments as Gymnasium sees them: its own checker, and the same episodes as without it."""

import builtins
import importlib
import sys

import numpy as np
import pytest
from eplstm.tasks import BarcodeBandit, ContextualChoice, TwoStep, WaterMaze

gymnasium = pytest.importorskip("gymnasium")

from eplstm.tasks.gym_env import gym_env, vector_gym_env  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import SyncVectorEnv  # noqa: E402

TASKS = [
    BarcodeBandit(arms=3, contexts=3, exposures=2, pulls=4, barcode_bits=4, pulls_with_retrieval=2),
    TwoStep(trials=4, barcode_bits=4),
    WaterMaze(2, 3, horizon=5, contexts=2, exposures=2, barcode_bits=4, step_cost=0.25),
]
CHOICE = ContextualChoice(obs_dim=2, trial_length=3, t_noise_off=1)
every_task = pytest.mark.parametrize("task", TASKS, ids=["bandit", "two-step", "maze"])
and_choice = pytest.mark.parametrize("task", [*TASKS, CHOICE], ids=["bandit", "two-step", "maze", "choice"])


@and_choice
def test_gymnasiums_own_checker(task):
    """Warnings are errors here (pyproject.toml)."""
    check_env(gym_env(task))


@and_choice
def test_observations_and_actions_are_in_their_spaces(task):
    env = gym_env(task)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == (task.input_size,)
    assert env.action_space.n == task.n_actions
    over = False
    while not over:
        assert observation in env.observation_space
        observation, _, over, cut, _ = env.step(env.action_space.sample())
        assert not cut
    assert observation in env.observation_space


@every_task
def test_episodes_are_those_of_the_worlds(task, rng):
    """Two epochs and a half; all that is seen, paid and told at each step."""
    env, worlds = gym_env(task), task.worlds([np.random.default_rng(7)])

    def same(observation, info):
        np.testing.assert_array_equal(observation, worlds.inputs[0].astype(np.float32))
        assert info == {
            "encode": worlds.encode[0],
            "retrieve": worlds.retrieve[0],
            "context": worlds.context[0],
            "exposure": worlds.exposure[0],
            "epoch_begins": worlds.episode == 0 and worlds.step == 0,
        }

    for episode in range(2 * task.episodes + max(task.episodes // 2, 1)):
        if episode % task.episodes == 0:
            worlds.begin_epoch()
        worlds.begin_episode()
        observation, info = env.reset(seed=7 if episode == 0 else None)
        same(observation, info)
        assert info["epoch_begins"] == (episode % task.episodes == 0)
        for step in range(task.length):
            action = rng.integers(task.n_actions)
            observation, reward, over, _, info = env.step(action)
            assert reward == worlds.act(np.array([action]))[0]
            assert over == (step == task.length - 1)
            same(observation, info)


@and_choice
def test_copies_are_single_ones_with_the_next_seeds(task, rng):
    """Gymnasium's own vector of single environments is the reference."""
    n = 3
    ours = vector_gym_env(task, n, n_contexts=2)
    theirs = SyncVectorEnv([lambda: gym_env(task, n_contexts=2)] * n)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    for seed in (5, [9, 2, 4]):
        (observations, infos), (expected, told) = ours.reset(seed=seed), theirs.reset(seed=seed)
        for _ in range(60):
            np.testing.assert_array_equal(observations, expected)
            assert observations.dtype == expected.dtype
            for name, values in infos.items():
                np.testing.assert_array_equal(values, told[name])
            actions = rng.integers(0, task.n_actions, n)
            observations, *results, infos = ours.step(actions)
            expected, *others, told = theirs.step(actions)
            for one, other in zip(results, others, strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype


def test_contextual_choice_shows_the_trials_of_its_blocks():
    env, n = gym_env(CHOICE, n_contexts=3), 3
    rng = np.random.default_rng(2)
    for block in range(2):
        trials = CHOICE.sample(n, rng)
        for trial in range(2 * n):
            observation, info = env.reset(seed=2 if block == trial == 0 else None)
            assert (info["context"], info["exposure"]) == (trials.context[trial], trials.encounter[trial])
            assert info["epoch_begins"] == (trial == 0)
            for step in range(3):
                np.testing.assert_array_equal(observation, trials.inputs[trial, step].astype(np.float32))
                assert info["encode"] == trials.encode[trial, step]
                assert info["retrieve"]
                observation, reward, over, _, info = env.step(step % 2)
                assert reward == (trials.targets[trial, step] == step % 2)
            assert over


@every_task
def test_seeds(task):
    env = gym_env(task)
    first, _ = env.reset(seed=3)
    env.step(0)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    env.reset()  # an unfinished episode is left, and the next one begins
    _, info = env.reset(seed=3)
    assert info["epoch_begins"]
    unseeded = vector_gym_env(task, 2)
    observations, _ = unseeded.reset()
    assert observations.shape == (2, task.input_size)


def test_a_spec_makes_another_one():
    env = gymnasium.make(gym_env(TASKS[0]).spec)
    assert env.unwrapped.task == TASKS[0]
    np.testing.assert_array_equal(env.reset(seed=1)[0], gym_env(TASKS[0]).reset(seed=1)[0])


def test_refusals():
    env = gym_env(TASKS[0])
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions run from 0 to 2; got 3"):
        env.step(3)
    for _ in range(TASKS[0].length):
        env.step(0)
    with pytest.raises(ValueError, match="no episode is under way"):
        env.step(0)
    with pytest.raises(TypeError, match=r"must be a BarcodeBandit.*got str"):
        gym_env("bandit")
    for n in (0, 1.0, True):
        with pytest.raises(ValueError, match=f"n must be a whole number ≥ 1; got {n!r}"):
            vector_gym_env(TASKS[0], n)
        with pytest.raises(ValueError, match=f"n_contexts must be a whole number ≥ 1; got {n!r}"):
            gym_env(CHOICE, n_contexts=n)
    copies = vector_gym_env(TASKS[0], 2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        copies.step([0, 0])
    for seed in ([1], [1, None], -1, "ab"):
        with pytest.raises(ValueError, match="seed must be a whole number ≥ 0 or 2 of them"):
            copies.reset(seed=seed)


def test_without_gymnasium(monkeypatch):
    """The message says what to install; the tasks themselves do not need it."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "gymnasium":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    module = sys.modules["eplstm.tasks.gym_env"]
    monkeypatch.delitem(sys.modules, "eplstm.tasks.gym_env")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs gymnasium: pip install 'eplstm\[gym\]'"):
        importlib.import_module("eplstm.tasks.gym_env")
    monkeypatch.undo()
    assert sys.modules["eplstm.tasks.gym_env"] is module
