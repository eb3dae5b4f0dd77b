"""The water maze: moves, goals, restarts and inputs; expected steps against simulation and brute force."""

import numpy as np
import pytest
from eplstm.tasks import RandomPolicy, WaterMaze, play, steps_by_exposure, steps_to_goal
from eplstm.tasks.water_maze import KnownGoal, known_goal, next_cells, random_walk, searching


def worlds_of(task, n, seed=0):
    return task.worlds([np.random.default_rng([seed, e]) for e in range(n)])


def test_sizes():
    task = WaterMaze()
    assert (task.cells, task.length, task.episodes, task.n_actions) == (25, 25, 50, 4)
    assert (task.input_size, task.key_columns) == (20 + 25 + 4 + 1, (0, 20))
    assert WaterMaze(position="coordinates").input_size == 20 + 2 + 4 + 1
    assert task.reward_range == (0, 1)
    assert WaterMaze(step_cost=0.25).reward_range == (-0.25, 0.75)


def test_moves_by_hand():
    """Cells 0 1 2 over 3 4 5; up, right, down, left."""
    np.testing.assert_array_equal(
        next_cells(WaterMaze(height=2, width=3, contexts=1)),
        [[0, 1, 3, 0], [1, 2, 4, 0], [2, 2, 5, 1], [0, 4, 3, 3], [1, 5, 4, 3], [2, 5, 5, 4]],
    )


@pytest.mark.parametrize("position", ["one_hot", "coordinates"])
def test_inputs_rewards_and_restarts(position, rng):
    task = WaterMaze(2, 3, horizon=12, contexts=2, exposures=3, barcode_bits=4, position=position, step_cost=0.25)
    places = np.eye(6) if position == "one_hot" else np.array([[r, c] for r in (0, 1) for c in (0, 0.5, 1)])
    n, moves, wide = 40, next_cells(task), task.position_size
    worlds = worlds_of(task, n)
    worlds.begin_epoch()
    goal_of = {}
    for _ in range(task.episodes):
        worlds.begin_episode()
        barcode, here = worlds.inputs[:, :4], None
        np.testing.assert_array_equal(worlds.inputs[:, 4 + wide :], 0)
        for step in range(12):
            assert worlds.retrieve.all()
            assert (worlds.encode == (step == 11)).all()
            before = worlds.inputs
            actions = rng.integers(0, 4, n)
            rewards = worlds.act(actions)
            facts = worlds.facts()
            if here is not None:
                np.testing.assert_array_equal(facts["position"], here)
            np.testing.assert_array_equal(before[:, 4 : 4 + wide], places[facts["position"]])
            assert (facts["position"] != facts["goal"]).all()
            np.testing.assert_array_equal(facts["arrived"], moves[facts["position"], actions])
            reached = facts["arrived"] == facts["goal"]
            np.testing.assert_array_equal(facts["reached"], reached)
            np.testing.assert_array_equal(rewards, np.where(reached, 0.75, -0.25))
            here = facts["next_position"]
            np.testing.assert_array_equal(here[~reached], facts["arrived"][~reached])
            np.testing.assert_array_equal(worlds.inputs[:, :4], barcode)
            np.testing.assert_array_equal(worlds.inputs[:, 4 : 4 + wide], places[here])
            np.testing.assert_array_equal(worlds.inputs[:, 4 + wide : -1], np.eye(4)[actions])
            np.testing.assert_array_equal(worlds.inputs[:, -1], rewards)
        for e in range(n):
            key = e, int(worlds.context[e])
            assert goal_of.setdefault(key, (tuple(barcode[e]), facts["goal"][e])) == (
                tuple(barcode[e]),
                facts["goal"][e],
            )
    assert len({goal for _, goal in goal_of.values()}) == 6


def test_goals_starts_and_restarts_are_uniform():
    task = WaterMaze(2, 2, horizon=20, contexts=2, exposures=2, barcode_bits=2)
    record = play(worlds_of(task, 500), RandomPolicy(task, np.random.default_rng(0)), task.episodes)

    def uniform(sample, values):
        p = 1 / len(values)
        shares = [np.mean(sample == value) for value in values]
        np.testing.assert_allclose(shares, p, atol=4 * np.sqrt(p * (1 - p) / sample.size))

    first = record["exposure"] == 1
    uniform(record["goal"][first][:, 0], range(4))
    # Relative to the goal, the other three cells are 1, 2, 3 further on.
    uniform((record["position"][..., 0] - record["goal"][..., 0]) % 4, (1, 2, 3))
    reached = record["reached"]
    uniform((record["next_position"] - record["goal"])[reached] % 4, (1, 2, 3))


# ---- expected steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        WaterMaze(),
        WaterMaze(2, 3, horizon=4, contexts=3, step_cost=0.1),
        WaterMaze(1, 2, horizon=3, contexts=3),
        WaterMaze(3, 4, horizon=30, contexts=3, step_cost=0.05),
    ],
    ids=["default", "short", "smallest", "long"],
)
def test_random_walk_and_known_goal_against_agents_that_play(task):
    for course, level, make in (
        (random_walk(task), task.chance, lambda worlds: RandomPolicy(task, np.random.default_rng(2))),
        (known_goal(task), task.informed, KnownGoal),
    ):
        worlds = worlds_of(task, 300)
        record = play(worlds, make(worlds), 10)
        steps, _ = steps_to_goal(record)
        expected, goals = course
        assert goals.shape == (task.horizon,)
        # Episodes of one world share their goals: the standard error is that of the means of worlds.
        for sample, value in (
            (steps.mean(0), expected),
            (record["reward"].mean((0, 2)), level),
        ):
            assert sample.mean() == pytest.approx(value, abs=4.5 * sample.std() / np.sqrt(300) + 1e-12)
        by_step = record["reached"].mean(0)
        se = by_step.std(0) / np.sqrt(300)
        np.testing.assert_allclose(by_step.mean(0), goals, atol=4.5 * se.max() + 1e-12)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (1, 2), (2, 3), (1, 6), (4, 7)])
def test_known_goal_takes_the_mean_manhattan_distance(height, width):
    task = WaterMaze(height, width, horizon=height + width, contexts=1)
    cells = np.stack(np.divmod(np.arange(task.cells), width), axis=1)
    distance = np.abs(cells[:, None] - cells).sum(2)
    mean = distance.sum() / (task.cells * (task.cells - 1))
    assert known_goal(task)[0] == pytest.approx(mean)
    assert mean == pytest.approx((height + width) / 3)


def best_search(task):
    """Least expected min(steps, T) over all walks from each start, by trying all of them."""
    moves, n = next_cells(task), task.cells

    def cost(cell, seen, left):
        """Expected steps still to come, times n − 1, given that the goal is in none of ``seen``."""
        if not left or len(seen) == n:
            return 0
        return (n - len(seen)) + min(cost(to, seen | {to}, left - 1) for to in set(moves[cell]))

    return np.mean([cost(start, frozenset([start]), task.horizon) / (n - 1) for start in range(n)])


@pytest.mark.parametrize(
    ("height", "width", "horizon", "exact"),
    [(2, 2, 5, True), (2, 3, 7, True), (2, 3, 3, True), (1, 3, 6, False), (3, 3, 9, False)],
)
def test_searching_against_all_walks(height, width, horizon, exact):
    task = WaterMaze(height, width, horizon=horizon, contexts=1)
    best = best_search(task)
    if exact:
        assert searching(task) == pytest.approx(best)
    else:
        assert searching(task) < best < searching(task) + 1
    assert known_goal(task)[0] <= best <= random_walk(task)[0]


def test_numbers_of_the_docstring():
    task = WaterMaze()
    assert known_goal(task)[0] == pytest.approx(10 / 3)
    assert known_goal(task)[1].sum() == pytest.approx(7.42, abs=5e-3)
    assert searching(task) == pytest.approx(12.5)
    assert random_walk(task)[0] == pytest.approx(19.33, abs=5e-3)
    assert random_walk(task)[1].sum() == pytest.approx(0.54, abs=5e-3)


def test_steps_by_hand():
    reached = np.zeros((3, 2, 4), bool)
    reached[0, 0, [1, 3]] = reached[0, 1, 3] = reached[1, 1, 0] = True
    steps, found = steps_to_goal({"reached": reached})
    np.testing.assert_array_equal(steps, [[2, 4], [4, 1], [4, 4]])
    np.testing.assert_array_equal(found, [[True, True], [False, True], [False, False]])
    exposure = np.array([[1, 1], [2, 1], [1, 2]])
    course = steps_by_exposure({"reached": reached, "exposure": exposure})
    # Exposure 1: world means 3 and 2.5; exposure 2: 4 and 4.
    assert course[1] == pytest.approx((2.75, 0.25))
    assert course[2] == pytest.approx((4.0, 0.0))
    alone = steps_by_exposure({"reached": reached[:, :1], "exposure": exposure[:, :1]})
    assert alone[1][0] == 3
    assert np.isnan(alone[1][1])


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 0}, "height must be a whole number ≥ 1; got 0"),
        ({"width": 2.5}, "width .* got 2.5"),
        ({"height": 1, "width": 1}, "a grid of one cell .*raise height or width"),
        ({"horizon": 0}, "horizon must be a whole number ≥ 1; got 0"),
        ({"contexts": 0}, "contexts must be a whole number ≥ 1; got 0"),
        ({"exposures": None}, "exposures .* got None"),
        ({"position": "xy"}, "position must be 'one_hot' or 'coordinates'; got 'xy'"),
        ({"step_cost": -0.1}, "step_cost must be a number from 0 to 1; got -0.1"),
        ({"step_cost": True}, "step_cost must be a number from 0 to 1; got True"),
        ({"barcode_bits": 3}, r"contexts \(10\) must not exceed the 7 different barcodes"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        WaterMaze(**settings)


def test_bad_records():
    with pytest.raises(ValueError, match="needs a record with reached"):
        steps_to_goal({})
    with pytest.raises(ValueError, match=r"exposure must have the shape \(episodes, M\) = \(2, 3\); got \(\)"):
        steps_by_exposure({"reached": np.zeros((2, 3, 4), bool)})
