"""Training in the loop with checkpoints, measures and claims, and the command ``eplstm reproduce``."""

import functools
import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from common import rarely
from eplstm.comparisons.cli import main
from eplstm.comparisons.reproduction import training, two_step
from eplstm.comparisons.reproduction.studies import STUDIES, train_and_measure
from eplstm.comparisons.reproduction.study import (
    EPLSTM,
    INTACT,
    LSTM,
    RETRIEVAL_OFF,
    Found,
    as_text,
    mean_and_half,
)
from eplstm.comparisons.reproduction.training import (
    Lesson,
    act_in_fresh_worlds,
    task_at,
    train_agents,
    trained_so_far,
    worlds_of,
)
from eplstm.comparisons.settings import LoopSettings
from eplstm.models import Cohort, EpisodicLSTMComposition, train_episodes
from eplstm.tasks import BarcodeBandit, ModelBased, ModelFree, RandomPolicy, TwoStep, WaterMaze, play
from eplstm.tasks.water_maze import KnownGoal, steps_to_goal

TASK = BarcodeBandit(arms=2, contexts=3, exposures=2, pulls=3, barcode_bits=4)
LESSONS = (Lesson(TASK, 0.75), Lesson(replace(TASK, exposures=1), 0.25))
SETTINGS = LoopSettings(updates=24, worlds=3, hidden_size=5, memory_capacity=10)

pytestmark = pytest.mark.usefixtures("pool")


# ---- training ----------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_in_call(number, monkeypatch):
    """Training ends in this call of ``learn()``, from 0."""
    calls, train_episodes = itertools.count(), Cohort.train_episodes

    def stopping(*arguments, **options):
        if next(calls) == number:
            raise Stopped
        return train_episodes(*arguments, **options)

    monkeypatch.setattr(Cohort, "train_episodes", stopping)


def train_agent(lessons, config, settings, seed, folder=None):
    """One agent alone."""
    (trained,) = train_agents(lessons, config, settings, [seed], [folder])
    return trained


def test_agents_side_by_side_are_each_alone_in_the_loop():
    """As cohort, and one by one in calls of PsyNeuLink's ``learn()``."""
    settings = replace(SETTINGS, updates=12, max_gradient_norm=0.5)
    config, seeds = settings.config(TASK, TASK.key_columns), (3, 9)
    for seed, (model, history) in zip(seeds, train_agents(LESSONS, config, settings, seeds), strict=True):
        alone, rewards = EpisodicLSTMComposition(config, seed=seed), []
        for call in range(2):
            alone.clear_memory()
            learning = settings.learning(6 * call) | {"max_gradient_norm": 0.5}
            worlds, drawn = worlds_of(TASK, 3, (training.TRAINING, seed, call)), (training.TRAINING, seed, call)
            rewards.append(train_episodes(alone, worlds, 6, seed=drawn, **learning).reward.mean())
        np.testing.assert_allclose(history, rewards, rtol=0, atol=1e-10)
        for name, weight in alone.weights().items():
            np.testing.assert_allclose(model.weights()[name], weight, rtol=0, atol=1e-10, err_msg=name)


def test_agents_that_are_not_equally_far_catch_up(tmp_path, monkeypatch, pool):
    """After an interruption, or with further seeds: who is behind is trained until all are equally far."""
    config, folders = SETTINGS.config(TASK, TASK.key_columns), [tmp_path / "one", tmp_path / "two"]
    whole = train_agents(LESSONS, config, SETTINGS, [7, 8])
    pool(2)
    monkeypatch.setattr(training, "SAVE_AFTER", -1.0)
    with pytest.raises(Stopped), monkeypatch.context() as patch:
        stop_in_call(2, patch)
        train_agents(LESSONS, config, SETTINGS, [7], folders[:1])
    assert [trained_so_far(folder)[0] for folder in folders] == [12, 0]
    pool(2)
    sizes, train_together = [], training.train_together
    monkeypatch.setattr(training, "train_together", lambda *a: (sizes.append(len(a[1])), train_together(*a)))
    again = train_agents(LESSONS, config, SETTINGS, [7, 8], folders)
    assert sizes == [1, 2]
    for (one, history), (two, later) in zip(whole, again, strict=True):
        np.testing.assert_allclose(history, later, rtol=0, atol=1e-10)
        for name, weight in one.weights().items():
            np.testing.assert_allclose(weight, two.weights()[name], rtol=0, atol=1e-10)
    seconds = [trained_so_far(folder)[1] for folder in folders]
    assert all(s > 0 for s in seconds)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_exactly(tmp_path, monkeypatch, pool):
    monkeypatch.setattr(training, "SAVE_AFTER", -1.0)  # a checkpoint after each epoch
    config = SETTINGS.config(TASK, TASK.key_columns)
    whole, history = train_agent(LESSONS, config, SETTINGS, 7)
    with pytest.raises(Stopped), monkeypatch.context() as patch:
        stop_in_call(1, patch)
        train_agent(LESSONS, config, SETTINGS, 7, tmp_path)
    updates, seconds = trained_so_far(tmp_path)
    assert updates == 6  # the epoch in which it was stopped was not kept
    other = replace(SETTINGS, gamma=0.5)
    with pytest.raises(FileExistsError, match=r"another run: gamma 0\.9 instead of 0\.5"):
        train_agent(LESSONS, config, other, 7, tmp_path)
    pool(1)  # of which only the first goes on being used
    again, later = train_agent(LESSONS, config, SETTINGS, 7, tmp_path)
    np.testing.assert_array_equal(later, history)
    for name, weight in whole.weights().items():
        np.testing.assert_array_equal(weight, again.weights()[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings.json", "trained"]
    assert trained_so_far(tmp_path)[1] > seconds > 0
    pool(1)
    finished, _ = train_agent(LESSONS, config, SETTINGS, 7, tmp_path)  # nothing is left to do
    np.testing.assert_array_equal(finished.weights()["actor_weight"], whole.weights()["actor_weight"])


def test_epochs_in_one_call():
    config, settings = SETTINGS.config(TASK, TASK.key_columns), replace(SETTINGS, updates=20, epochs_at_once=2)
    _, history = train_agent([Lesson(TASK)], config, settings, 7)
    assert len(history) == 2  # each of two epochs of 6 episodes


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert trained_so_far(tmp_path / "none") == (0, 0)
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "progress.json").write_text("not this")
    assert trained_so_far(tmp_path) == (0, 0)


def test_lessons_follow_one_another():
    lessons = (Lesson("a", 0.75), Lesson("b", 0.25))
    assert [task_at(lessons, share) for share in (0, 0.74, 0.75, 0.99, 1.0)] == ["a", "a", "b", "b", "b"]
    for study in STUDIES.values():
        assert sum(lesson.share for lesson in study.lessons) == pytest.approx(1)


def test_quantities_fall_to_their_shares():
    settings = replace(SETTINGS, updates=100, learning_rate_end=0.01)
    assert settings.share(0, 0.01) == 1 and settings.share(50, 0.01) == pytest.approx(0.1)
    assert settings.share(100, 0.01) == settings.share(200, 0.01) == pytest.approx(0.01)


def test_training_and_fresh_worlds_never_meet():
    seen = [worlds_of(TASK, 2, (kind, 0, 0)) for kind in (training.TRAINING, training.FRESH)]
    assert any((seen[0]._epoch[name] != seen[1]._epoch[name]).any() for name in seen[0]._epoch)


def test_lesions_in_fresh_worlds():
    model, _ = train_agent(LESSONS, SETTINGS.config(TASK, TASK.key_columns), replace(SETTINGS, updates=6), 0)
    intact = act_in_fresh_worlds(model, TASK, 3, 1, epochs=2)
    assert len(intact) == 2 * 3 * TASK.episodes and intact.worlds == 3
    assert (intact.memory != 0).any() and intact.trials.encode[:, -1].all()
    facts = intact.by_world()
    assert facts["reward"].shape == (12, 3, 3) and facts["exposure"].shape == (12, 3)
    np.testing.assert_array_equal(facts["reward"][7, 2], intact.reward[7 * 3 + 2])
    for lesion in ({"retrieve": False}, {"encode": False}):
        without = act_in_fresh_worlds(model, TASK, 3, 1, **lesion)
        assert (without.memory == 0).all()
        np.testing.assert_array_equal(without.trials.context, intact.trials.context[: len(without)])
    assert len(model.memory()[0]) == 0


# ---- measures of agents that are known ---------------------------------------------------------------


class Recorded:
    """What ``play`` gave, in the form of an ``EpisodeRecord``."""

    def __init__(self, facts, hidden=4):
        episodes, self.worlds, steps = facts["reward"].shape
        self.gates = np.random.default_rng(0).random((episodes * self.worlds, steps, 4, hidden))
        heads = ("episode", "context", "exposure")
        self.facts = {n: v.reshape(-1, steps) for n, v in facts.items() if n not in heads}
        self._facts = facts

    def by_world(self):
        return self._facts


def test_measures_of_the_bandit():
    task = BarcodeBandit()
    worlds = task.worlds([np.random.default_rng(e) for e in range(20)])
    facts = play(worlds, RandomPolicy(task, np.random.default_rng(0)), task.episodes)
    found = measured("bandit", task, facts)
    assert found["expected"].shape == found["gate"].shape == (10, 10)
    np.testing.assert_allclose(found["expected"], task.chance, atol=0.08)
    third = facts["exposure"] == 3
    np.testing.assert_allclose(found["expected"][2], facts["expected"][third].mean(0))


def test_measures_of_the_maze():
    task = WaterMaze(height=4, width=4, contexts=3, exposures=3)
    worlds = task.worlds([np.random.default_rng(e) for e in range(10)])
    facts = play(worlds, KnownGoal(worlds), task.episodes)
    found = measured("water-maze", task, facts)
    assert (found["median"] < 4).all() and (found["goals"] > 4).all() and found["gate"].shape == (3, task.length)
    np.testing.assert_allclose(found["steps"][1], steps_to_goal(facts)[0][facts["exposure"] == 2].mean())


def test_measures_of_the_two_step_task():
    task = TwoStep()
    worlds = task.worlds([np.random.default_rng(e) for e in range(60)])
    index = two_step.EFFECTS.index("interaction")
    for kind, based in ((ModelBased, True), (ModelFree, False)):
        facts = play(worlds, kind(task, np.random.default_rng(0), episodic=True), 1)
        found = measured("two-step", task, facts)
        assert found["stay"].shape == (3, 4) and found["effects"].shape == (3, 4) and found["gate"].shape == (2,)
        assert (found["effects"][2, index] > 0.5) == based
        rewarded, unrewarded = found["stay"][2].reshape(2, 2)  # each: common, rare
        assert rewarded[0] > 0.55 and (rewarded[1] < 0.45) == (unrewarded[1] > 0.55) == based
        assert 0.5 < found["reward"].mean() < 0.85


def measured(name, task, facts):
    """By the study of this name, of a task."""
    return replace(STUDIES[name], task=task).measure(Recorded(facts), facts.get("exposure", np.empty(0)).ravel())


# ---- claims ------------------------------------------------------------------------------------------


def claims_of(name, pieces):
    """Whether each claim of a study holds."""
    return [claim.holds for claim in STUDIES[name].claims(Found(pieces))]


def bandit_agents(first, last, off=0.18, plain_first=0.18, plain_last=0.7, seeds=3):
    """Pieces of agents whose expected rewards go from ``first`` to ``last`` by exposure, in a straight line."""
    found = {}
    for seed in range(seeds):
        noise = 0.005 * np.random.default_rng(seed).standard_normal()
        rise = np.linspace(np.array(first), np.array(last), 10, axis=1) + noise
        flat = np.tile(np.linspace(plain_first, plain_last, 10), (10, 1)) + noise
        states = {INTACT: rise, RETRIEVAL_OFF: np.full((10, 10), off), "encoding off": np.full((10, 10), off)}
        gate = np.full((10, 10), 0.5)
        found[EPLSTM, seed] = {state: {"expected": values, "gate": gate} for state, values in states.items()}
        found[LSTM, seed] = {INTACT: {"expected": flat, "gate": gate}}
    return found


GOOD = ([0.18, 0.66, 0.82] + [0.88] * 7, [0.68, 0.84] + [0.89] * 8)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, None),
        ({"first": [0.18, 0.5, *GOOD[0][2:]]}, 0),
        ({"first": [0.18, 0.66, 0.82, 0.88, 0.8, *[0.88] * 5], "last": [0.68, 0.84, 0.84, 0.84, *[0.84] * 6]}, 1),
        ({"off": 0.4}, 2),
        ({"plain_first": 0.3}, 3),
        ({"plain_last": 0.8}, 4),
    ],
    ids=str,
)
def test_claims_about_the_bandit_hold_or_do_not(changes, fails):
    found = bandit_agents(**{"first": GOOD[0], "last": GOOD[1]} | changes)
    holds = claims_of("bandit", found)
    assert holds == [n != fails for n in range(5)]


@pytest.mark.parametrize(
    ("changes", "fails"),
    [({}, None), ({"episodic": 0.0}, 2), ({"plain": 0.4}, 5), ({"off": 0.4}, 6), ({"cued": 0.5}, 7)],
    ids=str,
)
def test_claims_about_the_two_step_task_hold_or_do_not(changes, fails):
    values = {"episodic": 0.5, "plain": 0.0, "off": 0.0, "cued": 0.7} | changes

    def agent(episodic, seed):
        effects = np.zeros((3, 4))
        noise = 0.01 * np.random.default_rng(seed).standard_normal()
        effects[:, two_step.EFFECTS.index("interaction")] = np.array([1.0, 0.5, episodic]) + noise
        return {"effects": effects, "gate": np.array([0.5, values["cued"] + noise])}

    found = {}
    for seed in range(5):
        off = {RETRIEVAL_OFF: agent(values["off"], seed)}
        found[EPLSTM, seed] = {INTACT: agent(values["episodic"], seed)} | off
        found[LSTM, seed] = {INTACT: agent(values["plain"], seed)}
    holds = claims_of("two-step", found)
    assert holds == [n != fails for n in range(8)]


def test_claims_about_the_maze_hold_or_do_not():
    def agents(second, plain, off):
        rows = np.array([16.0, second, 4, 4, 4]), np.array([15.0, plain, 15, 15, 15])
        gate = np.zeros((5, 25))
        ep = {state: {n: rows[0] for n in ("median", "steps", "goals")} | {"gate": gate} for state in (INTACT,)}
        ep[RETRIEVAL_OFF] = {n: np.array([16.0, off, off, off, off]) for n in ("median", "steps", "goals")}
        return {(EPLSTM, 0): ep, (LSTM, 0): {INTACT: {n: rows[1] for n in ("median", "steps", "goals")}}}

    assert claims_of("water-maze", agents(5.0, 14.0, 16.0)) == [True, True, True]
    assert claims_of("water-maze", agents(9.0, 14.0, 10.0)) == [False, True, False]
    assert claims_of("water-maze", agents(5.0, 6.0, 16.0)) == [True, False, True]


def test_claims_about_contextual_choice_hold_or_do_not():
    def agents(second, off=0.5, plain=0.5):
        def right(value):
            return {"right": np.stack([np.r_[np.full(5, 0.5), np.full(5, 0.99)], np.full(10, value)])}

        return {
            (EPLSTM, 0): {INTACT: right(second), RETRIEVAL_OFF: right(off)},
            (LSTM, 0): {INTACT: right(plain)},
        }

    holds = functools.partial(claims_of, "contextual-choice")
    assert holds(agents(0.98)) == [True] * 4
    assert holds(agents(0.9)) == [False, True, True, True]
    assert holds(agents(0.98, off=0.7, plain=0.7)) == [True, True, False, False]


def test_intervals_over_seeds():
    samples = np.array([[1.0], [2.0], [3.0]])
    mean, half = mean_and_half(samples)
    assert mean[0] == 2 and half[0] == pytest.approx(4.302653 / np.sqrt(3))  # t of two degrees of freedom
    assert np.isnan(mean_and_half(samples[:1])[1]).all()
    assert as_text(samples[:, 0]) == "2.00 (-0.48 … 4.48)" and as_text(samples[:1, 0]) == "1.00"
    assert Found(bandit_agents(*GOOD)).of(LSTM, "expected").shape == (3, 10, 10)


# ---- the command -------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Studies of agents that are hardly trained at all."""
    for name, study in list(STUDIES.items()):
        fast = replace(study.fast, updates=100 if name == "contextual-choice" else 1, worlds=4, hidden_size=6)
        worlds = 3 if name == "bandit" else 6
        monkeypatch.setitem(STUDIES, name, replace(study, fast=fast, fresh_worlds=worlds, fresh_epochs=1))


@pytest.mark.parametrize(
    ("task", "seeds"),
    [
        ("bandit", 1),
        *(rarely(task, 2) for task in ("two-step", "water-maze", "contextual-choice")),
    ],
)
def test_reproduce(task, seeds, small, tmp_path, capsys, monkeypatch):
    arguments = ["reproduce", task, "--fast", "--seeds", str(seeds), "--out", str(tmp_path)]
    assert main(arguments) == 0
    out = tmp_path / task
    page = (out / "report.html").read_text()
    claims = pd.read_csv(out / "claims.csv")
    assert {"claim", "measured", "holds"} == set(claims.columns) and len(claims) >= 3
    assert "fast setting" in page and "learning_rate" in page
    figures = list((out / "figures").glob("*.png"))
    assert len(figures) >= 2 and all(f"figures/{path.name}" in page for path in figures)
    assert all(
        json.loads((out / "agents" / f"{a}-0" / "trained" / "progress.json").read_text()) for a in (EPLSTM, LSTM)
    )
    assert main(arguments) == 2 and "holds a report" in capsys.readouterr().err
    (out / "report.html").unlink()
    times = {path: path.stat().st_mtime_ns for path in (out / "agents").rglob("*")}
    assert main(arguments) == 0  # all agents are kept
    assert {path: path.stat().st_mtime_ns for path in (out / "agents").rglob("*")} == times
    (out / "report.html").unlink()
    monkeypatch.setitem(STUDIES, task, replace(STUDIES[task], fresh_worlds=7))
    assert main(arguments) == 2 and "fresh worlds" in capsys.readouterr().err  # agents of other settings


def test_reproduce_refuses(tmp_path, capsys):
    assert main(["reproduce", "bandit", "--seeds", "0", "--out", str(tmp_path)]) == 2
    assert "seeds must be at least 1; got 0" in capsys.readouterr().err
    assert main(["reproduce", "bandit", "--first-seed", "-1", "--out", str(tmp_path)]) == 2
    assert "first-seed must be at least 0; got -1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_piece_depends_on_its_seed_alone(small):
    (one,), (_, other) = (train_and_measure("bandit", EPLSTM, seeds, fast=True) for seeds in ([3], [2, 3]))
    np.testing.assert_allclose(one[INTACT]["expected"], other[INTACT]["expected"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(one["history"], other["history"], rtol=0, atol=1e-10)
    assert set(one) == {"history", "seconds", INTACT, RETRIEVAL_OFF, "encoding off"}
