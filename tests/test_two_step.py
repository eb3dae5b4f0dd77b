"""The episodic two-step task: layout, draws, old outcomes, optima; and the signatures of its baselines."""

import numpy as np
import pandas as pd
import pytest
from eplstm.tasks import (
    BarcodeBandit,
    ModelBased,
    ModelFree,
    Policy,
    RandomPolicy,
    TwoStep,
    play,
    stay_effects,
    stay_table,
    stay_trials,
)
from eplstm.tasks.two_step_analysis import CONDITIONS


def worlds_of(task, n, seed=0):
    return task.worlds([np.random.default_rng([seed, e]) for e in range(n)])


def played(task, policy, n, episodes=1, seed=0):
    """One row an episode, one column a trial, of the facts of the choices."""
    record = play(worlds_of(task, n, seed), policy, episodes)
    return record, {k: v[..., ::2].reshape(n * episodes, -1) for k, v in record.items() if v.ndim == 3}


@pytest.fixture(scope="module")
def random_play():
    task = TwoStep()
    return task, *played(task, RandomPolicy(task, np.random.default_rng(0)), 200)


def test_sizes():
    task = TwoStep()
    assert (task.trials, task.uncued, task.length, task.episodes, task.n_actions) == (100, 50, 200, 1, 2)
    assert (task.input_size, task.key_columns) == (16, (3, 13))
    assert task.chance == 0.5


def test_the_layout_of_the_steps(rng):
    """Every column of every step, from the facts alone."""
    task, n = TwoStep(trials=8, barcode_bits=6), 5
    worlds = worlds_of(task, n)
    worlds.begin_epoch()
    worlds.begin_episode()
    stored = np.zeros((n, 4, 6))
    for trial in range(8):
        cued = trial >= 4
        choice = worlds.inputs
        np.testing.assert_array_equal(choice[:, :3], [[1, 0, 0]] * n)
        np.testing.assert_array_equal(choice[:, 9:], 0)  # neither the action before nor the reward
        assert (worlds.retrieve == cued).all()
        assert not worlds.encode.any()
        actions = rng.integers(0, 2, n)
        rewards = worlds.act(actions)
        facts = worlds.facts()
        if cued:
            np.testing.assert_array_equal(choice[:, 3:9], stored[np.arange(n), facts["old_trial"]])
        else:
            np.testing.assert_array_equal(choice[:, 3:9], 0)
            assert (facts["old_trial"] == -1).all()
        outcome = worlds.inputs
        np.testing.assert_array_equal(outcome[:, 0], 0)
        np.testing.assert_array_equal(outcome[:, 1:3], np.eye(2)[facts["state"]])
        np.testing.assert_array_equal(outcome[:, 9:11], np.eye(2)[actions])
        np.testing.assert_array_equal(outcome[:, 11], rewards)
        assert (worlds.encode == (not cued)).all()
        assert not worlds.retrieve.any()
        if cued:
            np.testing.assert_array_equal(outcome[:, 3:9], 0)
        else:
            stored[:, trial] = outcome[:, 3:9]
        np.testing.assert_array_equal(worlds.act(rng.integers(0, 2, n)), 0)
        after = worlds.facts()
        assert (after["stage"] == 1).all()
        assert (facts["stage"] == 0).all()
        assert (after["cued"] == cued).all()
        for name in ("trial", "first_action", "common", "state", "outcome", "old_trial", "good_state"):
            np.testing.assert_array_equal(after[name], facts[name])
        np.testing.assert_array_equal(facts["outcome"], rewards)
        np.testing.assert_array_equal(facts["state"], np.where(facts["common"], actions, 1 - actions))
    np.testing.assert_array_equal(worlds.inputs, 0)
    for world in range(n):
        assert len({tuple(code) for code in stored[world]}) == 4


def test_actions_at_outcomes_change_nothing():
    task = TwoStep(trials=8)

    class Second(Policy):
        """Alternates at the choices; ``other`` at the outcomes."""

        def __init__(self, other):
            self.step, self.other = 0, other

        def act(self, inputs):
            self.step += 1
            assert (inputs[:, 0] == self.step % 2).all()
            return np.full(len(inputs), self.other if self.step % 2 == 0 else self.step // 2 % 2)

    records = [play(worlds_of(task, 4), Second(other), 3) for other in (0, 1)]
    for name in records[0].keys() - {"action"}:
        np.testing.assert_array_equal(records[0][name], records[1][name], err_msg=name)


def test_each_old_trial_is_cued_once_in_its_quarter_in_random_order(random_play):
    _, _, trials = random_play
    old = trials["old_trial"]
    assert (old[:, :50] == -1).all()
    np.testing.assert_array_equal(np.sort(old[:, 50:75], axis=1), np.tile(np.arange(25), (200, 1)))
    np.testing.assert_array_equal(np.sort(old[:, 75:], axis=1), np.tile(np.arange(25, 50), (200, 1)))
    # A mean of 25 uniform places over 200 episodes: the order is random.
    for quarter in (old[:, 50:75], old[:, 75:] - 25):
        np.testing.assert_allclose(quarter.mean(0), 12, atol=4.5 * np.sqrt(52 / 200))
    np.testing.assert_array_equal(trials["cued"], np.tile(np.arange(100) >= 50, (200, 1)))


def test_rates(random_play):
    task, _, trials = random_play

    def near(sample, p):
        assert np.mean(sample) == pytest.approx(p, abs=4.5 * np.sqrt(p * (1 - p) / sample.size))

    good, state, cued = trials["good_state"], trials["state"], trials["cued"]
    for action in (0, 1):
        near(trials["common"][trials["first_action"] == action], 0.9)
    near(good[:, 0], 0.5)
    near(good[:, 1:] != good[:, :-1], 0.1)
    near(good[:, 50:51] != good[:, 49:50], 0.1)
    rows = np.arange(len(state))[:, None]
    old = np.where(cued, trials["old_trial"], 0)
    repeats = cued & (state == state[rows, old])
    np.testing.assert_array_equal(trials["outcome"][repeats], trials["outcome"][rows, old][repeats])
    for good_now, p in ((True, task.p_good), (False, task.p_bad)):
        near(trials["outcome"][~cued & ((state == good) == good_now)], p)
        near(trials["outcome"][cued & ~repeats & ((state == good) == good_now)], p)
    near(trials["outcome"], task.chance)


class Oracle(Policy):
    """Is told the good state, remembers outcomes, and takes the better action."""

    def __init__(self, worlds):
        self.worlds = worlds

    def act(self, inputs):
        worlds, task = self.worlds, self.worlds.task
        trial, outcome = divmod(worlds.step, 2)
        rows = np.arange(len(inputs))
        if outcome:
            return np.zeros(len(inputs), int)
        states = np.where(worlds._epoch["good_state"][:, trial, None] == [0, 1], task.p_good, task.p_bad)
        if trial >= task.uncued:
            old = worlds._epoch["old_trial"][:, trial]
            states[rows, worlds._states[rows, old]] = worlds._outcomes[rows, old]
        return states.argmax(1)


@pytest.mark.parametrize(
    "settings", [{}, {"trials": 4, "p_flip": 1.0, "p_common": 0.9}, {"trials": 8, "p_flip": 0.0, "p_bad": 0.3}]
)
def test_informed_optimum_against_an_oracle_that_plays(settings):
    task = TwoStep(**settings)
    n = 40_000 // task.trials
    worlds = worlds_of(task, n)
    record = play(worlds, Oracle(worlds), 1)
    outcome = record["outcome"][0, :, ::2]
    for half, expected in (
        (outcome[:, : task.uncued], task.informed_uncued),
        (outcome[:, task.uncued :], task.informed_cued),
    ):
        means = half.mean(1)
        assert means.mean() == pytest.approx(expected, abs=4 * means.std() / np.sqrt(n))
    assert task.informed == pytest.approx((task.informed_uncued + task.informed_cued) / 2)


def test_numbers_of_the_docstring():
    assert TwoStep().informed_uncued == pytest.approx(0.82)
    assert TwoStep().informed_cued == pytest.approx(0.860, abs=5e-4)


# ---- baselines and stay tables -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def effects():
    """Estimate, low and high by agent, condition and effect; and the mean rewards of both halves."""
    task, found, rewards = TwoStep(), {}, {}
    for agent in (ModelBased, ModelFree):
        for episodic in (False, True):
            record, trials = played(task, agent(task, np.random.default_rng(1), episodic=episodic), 250)
            found[agent, episodic] = stay_effects(stay_trials(record))
            rewards[agent, episodic] = trials["outcome"][:, :50].mean(), trials["outcome"][:, 50:].mean()
    return found, rewards


def test_model_based_choice_shows_the_interaction(effects):
    found, _ = effects
    for episodic, condition in ((False, CONDITIONS[0]), (False, CONDITIONS[1]), (True, CONDITIONS[2])):
        table = found[ModelBased, episodic].loc[condition]
        assert table.loc["interaction", "low"] > 1
        for effect in ("reward", "transition"):
            assert abs(table.loc[effect, "estimate"]) < 0.06


def test_model_free_choice_shows_the_reward(effects):
    found, _ = effects
    for episodic, condition in ((False, CONDITIONS[0]), (False, CONDITIONS[1]), (True, CONDITIONS[2])):
        table = found[ModelFree, episodic].loc[condition]
        assert table.loc["reward", "low"] > 0.25
        assert abs(table.loc["interaction", "estimate"]) < 0.12


def test_without_episodic_memory_nothing_is_taken_from_the_old_trial(effects):
    found, _ = effects
    for agent in (ModelBased, ModelFree):
        table = found[agent, False].loc["episodic"]
        assert table.loc[["reward", "transition", "interaction"], "estimate"].abs().max() < 0.12


def test_episodic_memory_pays_on_cued_trials_only(effects):
    _, rewards = effects
    for agent in (ModelBased, ModelFree):
        assert rewards[agent, True][1] > rewards[agent, False][1] + 0.04
        assert rewards[agent, True][0] == rewards[agent, False][0]  # the same choices until the first cue
        assert min(rewards[agent, False]) > TwoStep().chance + 0.05
    assert rewards[ModelBased, False][0] > rewards[ModelFree, False][0]


def test_greedy_and_random_baselines():
    task = TwoStep()
    greedy = {
        agent: played(task, agent(task, np.random.default_rng(0), beta=np.inf, episodic=True), 100)[1]["outcome"]
        for agent in (ModelBased, ModelFree)
    }
    se = 0.5 / np.sqrt(100 * 50)
    assert greedy[ModelBased][:, :50].mean() == pytest.approx(0.70, abs=0.02 + 4 * se)
    assert greedy[ModelBased][:, 50:].mean() == pytest.approx(0.80, abs=0.02 + 4 * se)
    assert greedy[ModelFree].mean() < greedy[ModelBased].mean()
    trials = played(task, ModelBased(task, np.random.default_rng(0), beta=0.0), 100)[1]
    assert trials["first_action"].mean() == pytest.approx(0.5, abs=4 * 0.5 / 100)


def shown(task, *, state=None, action=None, reward=0.0, context=None):
    """x_t of one world: a choice, or the outcome of an action."""
    inputs = np.zeros((1, task.input_size))
    if state is None:
        inputs[0, 0] = 1
    else:
        inputs[0, 1 + state] = 1
        inputs[0, -3 + action] = 1
        inputs[0, -1] = reward
    if context is not None:
        inputs[0, 3 : 3 + task.barcode_bits] = context
    return inputs


def test_model_based_belief_by_hand():
    task = TwoStep(trials=4, barcode_bits=2)
    agent = ModelBased(task, np.random.default_rng(0), beta=np.inf, episodic=True)
    agent.begin_episode(1)
    # Action 0, rare transition to state 1, reward 1: state 1 is good with .9, and after a flip with .82.
    agent.act(shown(task))
    agent.act(shown(task, state=1, action=0, reward=1, context=[0, 1]))
    assert agent.belief[0] == pytest.approx(1 - 0.82)
    assert agent.act(shown(task))[0] == 1
    agent.act(shown(task, state=0, action=0, reward=1, context=[1, 0]))
    odds = 0.18 * 0.9 / (0.18 * 0.9 + 0.82 * 0.1)
    assert agent.belief[0] == pytest.approx(0.9 * odds + 0.1 * (1 - odds))
    before = agent.belief[0]
    worth = np.array([0.9 * before + 0.1 * (1 - before), 0.1 * before + 0.9 * (1 - before)])
    np.testing.assert_allclose(agent._values(None)[0], 0.9 * worth + 0.1 * worth[::-1])
    # The cue says that state 1 paid: the old reward repeats there, and teaches nothing when it does.
    assert agent.act(shown(task, context=[0, 1]))[0] == 1
    agent.act(shown(task, state=1, action=1, reward=1))
    assert agent.belief[0] == pytest.approx(0.9 * before + 0.1 * (1 - before))


def test_model_free_values_by_hand():
    task = TwoStep(trials=4, barcode_bits=2)
    agent = ModelFree(task, np.random.default_rng(0), alpha=0.25, beta=np.inf, episodic=True)
    agent.begin_episode(1)
    agent.act(shown(task, state=1, action=0, reward=0, context=[0, 1]))
    np.testing.assert_allclose(agent.values, [[0.375, 0.5]])
    agent.act(shown(task, state=1, action=0, reward=1, context=[1, 1]))
    np.testing.assert_allclose(agent.values, [[0.53125, 0.5]])
    assert agent.act(shown(task))[0] == 0
    assert agent.act(shown(task, context=[0, 1]))[0] == 1  # action 0 failed under this context
    assert agent.act(shown(task, context=[1, 1]))[0] == 0
    np.testing.assert_allclose(agent.values, [[0.53125, 0.5]])
    agent.begin_episode(1)
    np.testing.assert_allclose(agent.values, 0.5)


def hand_record(action, common, outcome, old=(0, 1)):
    """One episode of four trials, two of them cued; state 0 always good. Each fact stands at both steps."""
    facts = {
        "first_action": np.array(action),
        "common": np.array(common, bool),
        "outcome": np.array(outcome, float),
        "cued": np.array([False, False, True, True]),
        "old_trial": np.array([-1, -1, *old]),
        "good_state": np.zeros(4, int),
    }
    return {name: np.repeat(values, 2)[None, None] for name, values in facts.items()}


def test_stay_trials_by_hand():
    trials = stay_trials(hand_record([0, 1, 1, 1], [1, 0, 1, 1], [1, 0, 1, 0], old=(1, 0)))
    expected = pd.DataFrame(
        [
            ("incremental-uncued", 0, 1, 0, 1, True, True),
            ("incremental-cued", 0, 2, 1, 0, False, False),
            ("incremental-cued", 0, 3, 1, 1, True, False),
            ("episodic", 0, 2, 1, 0, False, False),
            ("episodic", 0, 3, 0, 1, True, True),
        ],
        columns=["condition", "episode", "trial", "stay", "reward", "common", "correct"],
    )
    pd.testing.assert_frame_equal(trials, expected, check_dtype=False)
    table = stay_table(trials)
    assert table.loc[("episodic", 1, True), ["stay", "n"]].tolist() == [0, 1]
    assert np.isnan(table.loc[("episodic", 1, True), "se"])
    assert list(table.index.get_level_values("condition").unique()) == list(CONDITIONS)
    with pytest.raises(ValueError, match=r"at least two episodes; .* has 1"):
        stay_effects(trials)


def drawn_trials(rng, n=400, shared=0.0, effect=0.4):
    """Stays with an interaction, and a part that all trials of an episode share."""
    episode = np.repeat(np.arange(n // 8), 8)
    reward, common, correct = rng.integers(0, 2, (3, n))
    p = 0.5 + effect * (reward - 0.5) * (common - 0.5) + shared * rng.choice([-1, 1], n // 8)[episode]
    return pd.DataFrame(
        {
            "condition": "episodic",
            "episode": episode,
            "trial": 60,
            "stay": (rng.random(n) < p).astype(int),
            "reward": reward,
            "common": common.astype(bool),
            "correct": correct.astype(bool),
        }
    )


def test_effects_are_differences_of_cells(rng):
    trials = drawn_trials(rng)
    cells = stay_table(trials).loc["episodic", "stay"]
    estimates = stay_effects(trials, correct=False).loc["episodic", "estimate"]
    rewarded, not_rewarded = cells[1][True] - cells[1][False], cells[0][True] - cells[0][False]
    assert estimates["interaction"] == pytest.approx(rewarded - not_rewarded)
    assert estimates["transition"] == pytest.approx((rewarded + not_rewarded) / 2)
    assert estimates["reward"] == pytest.approx(cells[1].mean() - cells[0].mean())


@pytest.mark.slow
def test_intervals_cover_and_know_of_clusters():
    """Of 400 intervals of 90%, with trials that depend on each other, 90% hold the truth; and the table's."""
    rng = np.random.default_rng(4)
    inside, wide = [], []
    for _ in range(400):
        trials = drawn_trials(rng, shared=0.3)
        row = stay_effects(trials, level=0.9).loc[("episodic", "interaction")]
        inside.append(row["low"] <= 0.4 <= row["high"])
        cell = stay_table(trials).loc[("episodic", 1, True)]
        wide.append(abs(cell["stay"] - 0.6) <= 1.645 * cell["se"])
    assert np.mean(inside) == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 400))
    assert np.mean(wide) == pytest.approx(0.9, abs=0.02 + 4 * np.sqrt(0.09 / 400))


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials must be a whole number ≥ 4; got 0"),
        ({"trials": 4.0}, "trials must be a whole number ≥ 4; got 4.0"),
        ({"trials": 10}, "trials must be a multiple of 4 .*; got 10"),
        ({"p_common": 0.4}, "p_common must be at least .5; got 0.4"),
        ({"p_flip": -0.1}, "p_flip must be a probability, 0 to 1; got -0.1"),
        ({"p_good": None}, "p_good must be a probability, 0 to 1; got None"),
        ({"p_bad": 0.9}, r"p_good \(0.9\) must exceed p_bad \(0.9\)"),
        ({"barcode_bits": 5}, r"half the trials \(50\) must not exceed the 31 different barcodes of 5 bits"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TwoStep(**settings)


@pytest.mark.parametrize(
    ("agent", "settings", "message"),
    [
        (ModelBased, {"beta": -1.0}, "ModelBased: beta .* must be ≥ 0; got -1.0"),
        (ModelFree, {"beta": float("nan")}, "ModelFree: beta .* must be ≥ 0; got nan"),
        (ModelFree, {"alpha": 0.0}, "alpha .* above 0 and at most 1; got 0.0"),
        (ModelFree, {"alpha": 1.5}, "alpha .* above 0 and at most 1; got 1.5"),
    ],
)
def test_bad_baselines(agent, settings, message, rng):
    with pytest.raises(ValueError, match=message):
        agent(TwoStep(), rng, **settings)
    with pytest.raises(TypeError, match="task must be a TwoStep; got BarcodeBandit"):
        agent(BarcodeBandit(), rng)


def test_bad_records(random_play):
    _, record, _ = random_play
    with pytest.raises(ValueError, match="lacks outcome, old_trial"):
        stay_trials({k: v for k, v in record.items() if k not in ("outcome", "old_trial")})
    with pytest.raises(ValueError, match=r"common must have the shape .*got \(1, 200\)"):
        stay_trials(record | {"common": record["common"][..., 0]})
    with pytest.raises(ValueError, match="first_action must have the shape"):
        stay_trials({k: v[..., :-1] for k, v in record.items() if v.ndim == 3})


def test_effects_that_cannot_be_told_apart(rng):
    trials = drawn_trials(rng)
    with pytest.raises(ValueError, match="do not tell the effects apart"):
        stay_effects(trials[trials["reward"] == 1])
    with pytest.raises(ValueError, match="level must lie between 0 and 1; got 95"):
        stay_effects(trials, level=95)
