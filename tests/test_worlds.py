"""What all environments promise: lockstep worlds that depend on their own generator alone, and every refusal."""

import matplotlib
import numpy as np
import pytest
from eplstm.tasks import RLWM, BarcodeBandit, ModelBased, Policy, RandomPolicy, TwoStep, WaterMaze, play
from eplstm.tasks.environment import draw_bag, draw_barcodes
from eplstm.tasks.rendering import render_episode, render_exposures
from matplotlib import pyplot as plt

matplotlib.use("Agg")

TASKS = [
    BarcodeBandit(arms=3, contexts=4, exposures=2, pulls=5, barcode_bits=6),
    TwoStep(trials=8, barcode_bits=5),
    WaterMaze(height=2, width=3, horizon=6, contexts=3, exposures=2, barcode_bits=4, step_cost=0.125),
    WaterMaze(height=1, width=2, horizon=1, contexts=1, exposures=1, barcode_bits=1, position="coordinates"),
    RLWM(set_sizes=(2, 3), trials=8, barcode_bits=4, noise=0.1),
]
every_task = pytest.mark.parametrize("task", TASKS, ids=["bandit", "two-step", "maze", "smallest maze", "rlwm"])


def generators(n, seed=0):
    return [np.random.default_rng([seed, e]) for e in range(n)]


class Scripted(Policy):
    """The actions (steps, M), one after the other."""

    def __init__(self, actions):
        self.actions = iter(actions)

    def act(self, inputs):
        return next(self.actions)


def started(task, n=2):
    worlds = task.worlds(generators(n))
    worlds.begin_epoch()
    worlds.begin_episode()
    return worlds


@every_task
def test_a_world_of_many_is_the_world_made_alone(task, rng):
    """Three epochs with other actions in each world; all that is seen, paid and told is the same."""
    n, episodes = 4, 3 * task.episodes
    actions = rng.integers(0, task.n_actions, (episodes * task.length, n))
    many = play(task.worlds(generators(n)), Scripted(actions), episodes)
    for e in range(n):
        alone = play(task.worlds(generators(n)[e : e + 1]), Scripted(actions[:, e : e + 1]), episodes)
        assert alone.keys() == many.keys()
        for name, values in alone.items():
            np.testing.assert_array_equal(values[:, 0], many[name][:, e], err_msg=name)


@every_task
def test_inputs_of_a_world_do_not_depend_on_the_others(task, rng):
    actions = rng.integers(0, task.n_actions, (task.length, 3))
    many, alone = task.worlds(generators(3)), task.worlds(generators(3)[2:])
    for worlds in (many, alone):
        worlds.begin_epoch()
        worlds.begin_episode()
    for step in range(task.length):
        np.testing.assert_array_equal(many.inputs[2:], alone.inputs)
        np.testing.assert_array_equal(many.encode[2:], alone.encode)
        np.testing.assert_array_equal(many.retrieve[2:], alone.retrieve)
        many.act(actions[step])
        alone.act(actions[step, 2:])
    np.testing.assert_array_equal(many.inputs[2:], alone.inputs)


@every_task
def test_the_seed_decides_and_actions_do_not_change_what_comes_later(task):
    def contexts(seed, action):
        worlds = task.worlds(generators(2, seed))
        seen = []
        for _ in range(3):
            worlds.begin_epoch()
            worlds.begin_episode()
            seen.append(worlds.inputs)
            for _ in range(task.length):
                worlds.act(np.full(2, action))
        return np.stack(seen)

    np.testing.assert_array_equal(contexts(1, 0), contexts(1, task.n_actions - 1))
    if not isinstance(task, TwoStep) and task.barcode_bits > 1:  # the first choice has no context yet
        assert not np.array_equal(contexts(1, 0), contexts(2, 0))


@every_task
def test_shapes_types_and_steps(task, rng):
    worlds = started(task, 3)
    start, stop = task.key_columns
    assert 0 <= start < stop <= task.input_size
    assert stop - start == task.barcode_bits
    low, high = task.reward_range
    for step in range(task.length):
        assert worlds.step == step
        assert worlds.inputs.shape == (3, task.input_size)
        assert worlds.inputs.dtype == float
        for switch in (worlds.encode, worlds.retrieve):
            assert switch.shape == (3,)
            assert switch.dtype == bool
            with pytest.raises(ValueError, match="read-only"):
                switch[0] = True
        kept, copy = worlds.inputs, worlds.inputs.copy()
        rewards = worlds.act(rng.integers(0, task.n_actions, 3))
        np.testing.assert_array_equal(kept, copy)  # what was handed out stays as it was
        assert rewards.shape == (3,)
        assert rewards.dtype == float
        assert (rewards >= low).all()
        assert (rewards <= high).all()
        facts = worlds.facts()
        assert all(values.shape == (3,) for values in facts.values())
        np.testing.assert_array_equal(facts["reward"], rewards)
    assert worlds.step == task.length
    assert not worlds.encode.any()
    assert not worlds.retrieve.any()
    assert worlds.context.shape == worlds.exposure.shape == (3,)


@every_task
def test_facts_of_a_step_stay_as_they_were(task, rng):
    worlds = started(task)
    worlds.act(rng.integers(0, task.n_actions, 2))
    facts = worlds.facts()
    copies = {name: values.copy() for name, values in facts.items()}
    for _ in range(task.length - 1):
        worlds.act(rng.integers(0, task.n_actions, 2))
    for name, values in facts.items():
        np.testing.assert_array_equal(values, copies[name])


@pytest.mark.parametrize("task", TASKS[:4], ids=["bandit", "two-step", "maze", "smallest maze"])
def test_contexts_come_from_a_bag(task):
    n = 5
    record = play(task.worlds(generators(n)), RandomPolicy(task, np.random.default_rng(0)), 2 * task.episodes)
    contexts, exposures = record["context"], record["exposure"]
    assert contexts.shape == (2 * task.episodes, n)
    for epoch in (slice(task.episodes), slice(task.episodes, None)):
        for world in range(n):
            seen = contexts[epoch, world]
            counts = np.bincount(seen)
            assert len(set(counts)) == 1  # each equally often
            count = [np.sum(seen[: i + 1] == c) for i, c in enumerate(seen)]
            np.testing.assert_array_equal(exposures[epoch, world], count)


def test_the_bag_is_well_shuffled(rng):
    """The second draw equals the first with probability (exposures − 1) / (n − 1), and no context leads."""
    n = 4000
    bags = np.stack([draw_bag(3, 2, rng)[0] for _ in range(n)])
    assert np.mean(bags[:, 0] == bags[:, 1]) == pytest.approx(1 / 5, abs=4 * np.sqrt(0.16 / n))
    for place in (0, 5):
        for context in range(3):
            share = np.mean(bags[:, place] == context)
            assert share == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / n))


def test_barcodes_differ_and_are_never_zero(rng):
    all_three = draw_barcodes(3, 2, rng)
    assert {tuple(row) for row in all_three} == {(0, 1), (1, 0), (1, 1)}
    assert draw_barcodes(2, 62, rng).shape == (2, 62)
    n = 3000
    rows = np.stack([draw_barcodes(2, 3, rng) for _ in range(n)])
    assert (rows.any(2)).all()
    assert (rows[:, 0] != rows[:, 1]).any(1).all()
    expected = 4 / 7  # four of the seven codes have a given bit
    np.testing.assert_allclose(rows[:, 0].mean(0), expected, atol=4 * np.sqrt(expected * (1 - expected) / n))


# ---- refusals ----------------------------------------------------------------------------------------


@every_task
@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, -1], "actions run from 0 to .*; got -1"),
        ([99, 0], "actions run from 0 to .*; got 99"),
        ([0], r"2 whole numbers.*got shape \(1,\)"),
        ([[0, 0]], r"2 whole numbers.*got shape \(1, 2\)"),
        ([0.0, 1.0], "2 whole numbers.*type float64"),
        ([True, False], "2 whole numbers.*type bool"),
    ],
)
def test_bad_actions(task, actions, message):
    worlds = started(task)
    with pytest.raises(ValueError, match=message):
        worlds.act(np.array(actions))
    assert worlds.step == 0


@every_task
def test_the_order_of_calls(task):
    worlds = task.worlds(generators(2))
    with pytest.raises(ValueError, match=r"begin_epoch.* must come before"):
        worlds.begin_episode()
    with pytest.raises(ValueError, match=r"no episode is under way.*begin_episode"):
        worlds.act(np.zeros(2, int))
    worlds.begin_epoch()
    with pytest.raises(ValueError, match="no episode is under way"):
        worlds.act(np.zeros(2, int))
    worlds.begin_episode()
    with pytest.raises(ValueError, match="call act"):
        worlds.facts()
    for _ in range(task.length):
        worlds.act(np.zeros(2, int))
    with pytest.raises(ValueError, match=f"has {task.length} steps"):
        worlds.act(np.zeros(2, int))
    for _ in range(task.episodes - 1):
        worlds.begin_episode()
    with pytest.raises(ValueError, match=f"epoch's {task.episodes} episodes are used up; call begin_epoch"):
        worlds.begin_episode()


@pytest.mark.parametrize("rngs", [None, 3, np.random.default_rng(0), (r for r in generators(2))])
def test_generators_come_in_a_list(rngs):
    with pytest.raises(TypeError, match=r"rngs must be a list of numpy.random.Generator"):
        TASKS[0].worlds(rngs)


def test_each_world_has_a_generator_of_its_own():
    rng = np.random.default_rng(0)
    with pytest.raises(TypeError, match=r"each world needs a numpy.random.Generator.*got int"):
        TASKS[0].worlds([rng, 3])
    with pytest.raises(ValueError, match="at least one generator"):
        TASKS[0].worlds([])
    with pytest.raises(ValueError, match=r"share a generator.*spawn"):
        TASKS[0].worlds([rng, rng])


@pytest.mark.parametrize("episodes", [0, 1.0, True])
def test_play_needs_episodes(episodes):
    with pytest.raises(ValueError, match=f"episodes must be a whole number ≥ 1; got {episodes!r}"):
        play(TASKS[0].worlds(generators(1)), RandomPolicy(TASKS[0], np.random.default_rng(0)), episodes)


# ---- pictures ----------------------------------------------------------------------------------------


@every_task
def test_pictures(task):
    record = play(task.worlds(generators(2)), RandomPolicy(task, np.random.default_rng(0)), task.episodes)
    ax = render_episode(task, record, task.episodes - 1, 1)
    ax.figure.canvas.draw()
    _, own = plt.subplots()
    assert render_episode(task, record, ax=own) is own
    plt.close("all")


def test_picture_of_a_bandit_shows_what_was_pulled_and_paid():
    task = TASKS[0]
    record = play(task.worlds(generators(1)), RandomPolicy(task, np.random.default_rng(0)), 2)
    ax = render_episode(task, record, 1)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), record["action"][1, 0])
    paid = ax.collections[0].get_offsets()
    np.testing.assert_array_equal(paid[:, 0], 1 + np.flatnonzero(record["reward"][1, 0]))
    plt.close("all")


def test_picture_of_a_maze_has_a_panel_for_each_exposure():
    task = TASKS[2]
    record = play(task.worlds(generators(1)), RandomPolicy(task, np.random.default_rng(0)), task.episodes)
    figure = render_exposures(task, record, 1)
    assert [ax.get_title(loc="left").split("\n")[0] for ax in figure.axes] == ["exposure 1", "exposure 2"]
    plt.close("all")
    with pytest.raises(ValueError, match="no recorded episode of world 0 has the context 3"):
        render_exposures(task, record, 3)
    with pytest.raises(TypeError, match="draws WaterMaze; got TwoStep"):
        render_exposures(TwoStep(), record)


def test_what_cannot_be_drawn():
    task = TASKS[1]
    record = play(task.worlds(generators(1)), ModelBased(task, np.random.default_rng(0)), 1)
    with pytest.raises(TypeError, match="got str"):
        render_episode("bandit", record)
    with pytest.raises(ValueError, match="lacks good_arm"):
        render_episode(TASKS[0], record)
    with pytest.raises(ValueError, match=r"shape \(episodes, M, 200\).*got \(1, 1, 16\)"):
        render_episode(TwoStep(), record)
    with pytest.raises(ValueError, match="has 1 episodes, from 0; got episode 1"):
        render_episode(task, record, 1)
    with pytest.raises(ValueError, match="has 1 worlds, from 0; got world -1"):
        render_episode(task, record, 0, -1)
