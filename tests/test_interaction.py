"""The environment in the loop: all paths of both models through equal episodes, step by step."""

from dataclasses import fields, replace

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine, rarely
from eplstm.models import (
    Cohort,
    EpisodicLSTMComposition,
    GeneralPathWarning,
    ModelConfig,
    NotTrainable,
    RecurrentComposition,
    ReferenceEpisodicLSTM,
    train,
    train_episodes,
)
from eplstm.models.records import STATES
from eplstm.tasks import RLWM, BarcodeBandit, TwoStep, WaterMaze

ATOL = 1e-10
TASKS = {
    "bandit": BarcodeBandit(arms=3, contexts=4, exposures=3, pulls=4, barcode_bits=5, pulls_with_retrieval=2),
    "two-step": TwoStep(trials=8, barcode_bits=5),
    "rlwm": RLWM(set_sizes=(2, 3), trials=6, barcode_bits=4, noise=0.1),
    "maze": WaterMaze(height=3, width=3, horizon=6, contexts=3, exposures=2, barcode_bits=5),
}
SEEN = ("policy", "value", "action", "reward", *STATES)


def config_for(task, **changes):
    settings = {"hidden_size": 6, "memory_capacity": 20, "key": task.key_columns, "kernel": "cosine"}
    return ModelConfig(input_size=task.input_size, n_actions=task.n_actions, **{**settings, **changes})


def made_worlds(task, n=1, seed=0):
    worlds = task.worlds([np.random.default_rng((seed, e)) for e in range(n)])
    worlds.begin_epoch()
    return worlds


def reference_of(config):
    return ReferenceEpisodicLSTM(config, seed=4).double()


def models(config, general=False):
    """Reference (float64) and composition with the same weights."""
    return reference_of(config), pristine(config, seed=4, fast=not general)


def assert_same(one, other, atol=ATOL):
    for name in SEEN:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=atol, err_msg=name)
    for name, values in one.facts.items():
        np.testing.assert_array_equal(values, other.facts[name], err_msg=name)
    for f in fields(one.trials):
        if isinstance(getattr(one.trials, f.name), np.ndarray):
            np.testing.assert_array_equal(
                getattr(one.trials, f.name), getattr(other.trials, f.name), err_msg=f.name
            )


def assert_same_state(reference, composition, worlds):
    for name, weight in reference.weights().items():
        np.testing.assert_allclose(weight, composition.weights()[name], atol=ATOL, err_msg=name)
    for e in range(worlds):
        pairs = zip(reference.memory(environment=e), composition.memory(environment=e), strict=True)
        for one, other in pairs:
            np.testing.assert_allclose(one, other, atol=ATOL)


# ---- the ladder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "general"),
    [
        ("bandit", False),
        ("rlwm", False),
        rarely("two-step", False),
        rarely("maze", False),
        rarely("bandit", True),
        ("two-step", True),
        rarely("rlwm", True),
        rarely("maze", True),
    ],
)
def test_learning(task, general):
    """Policies, values, states, rewards, gradients and weights, over an epoch of updates."""
    task = TASKS[task]
    reference, composition = models(config_for(task, ties="newest"), general)
    episodes = min(task.episodes, 5)
    settings = {"learning_rate": 1e-2, "seed": 5, "max_gradient_norm": 0.5, "record_gradients": True}
    one, other = (train_episodes(m, made_worlds(task, 3), episodes, **settings) for m in (reference, composition))
    assert_same(one, other)
    for name in ("policy_loss", "value_loss"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=ATOL)
    for name, gradient in one.gradients.items():
        np.testing.assert_allclose(gradient, other.gradients[name], atol=ATOL, err_msg=name)
    assert_same_state(reference, composition, 3)


@pytest.mark.parametrize("general", [False, rarely(True)], ids=["fast", "general"])
def test_epochs_of_one_call(general):
    """They are those of as many calls, each of which begins with other worlds and an empty memory."""
    task, episodes = TASKS["bandit"], 5  # epochs may be cut short
    reference, composition = models(config_for(task), general)
    settings = {"learning_rate": 1e-2, "seed": 5}
    one, other = (
        train_episodes(m, made_worlds(task, 2), episodes, epochs=3, **settings) for m in (reference, composition)
    )
    assert len(one) == 3 * episodes * 2
    assert_same(one, other)
    assert_same_state(reference, composition, 2)

    again = reference_of(config_for(task))
    worlds = task.worlds([np.random.default_rng((0, e)) for e in range(2)])
    for rows in np.split(np.arange(len(one)), 3):
        worlds.begin_epoch()
        again.clear_memory()
        part = train_episodes(again, worlds, episodes, actions=one.action[rows], **settings)
        np.testing.assert_array_equal(part.trials.inputs, one.trials.inputs[rows])
        np.testing.assert_array_equal(part.trials.encounter, one.trials.encounter[rows])
        memory = one.memory[rows]
        assert (memory[:2] == 0).all() and (memory[2:] != 0).any()  # nothing is stored at first
    assert [len(composition.memory(environment=e)[0]) for e in range(2)] == [episodes] * 2


@pytest.mark.parametrize("general", [False, rarely(True)], ids=["fast", "general"])
def test_truncated_episodes(general):
    """Stretches that do not divide the episode, and the critic's expectation at their ends."""
    task = TASKS["maze"]
    reference, composition = models(config_for(task), general)
    settings = {"learning_rate": 1e-2, "seed": 5, "unroll_steps": 4, "gamma": 0.8, "record_gradients": True}
    one, other = (train_episodes(m, made_worlds(task, 2), 3, **settings) for m in (reference, composition))
    assert_same(one, other)
    for name, gradient in one.gradients.items():
        np.testing.assert_allclose(gradient, other.gradients[name], atol=ATOL, err_msg=name)
    assert_same_state(reference, composition, 2)


@pytest.mark.parametrize("task", [rarely("bandit"), "two-step", "maze"])
def test_running(task):
    """Python mode, PyTorch mode on both paths, and the reference, one after the other through two episodes."""
    task = TASKS[task]
    reference, composition = models(config_for(task))
    parts = range(min(2, task.episodes))
    worlds = made_worlds(task)
    expected = [reference.run_episodes(worlds, 1, seed=part) for part in parts]
    for run, fast in (("simulate_episodes", True), ("simulate_episodes", False), ("run_episodes", True)):
        composition.fast_path = fast
        composition.clear_memory()
        worlds = made_worlds(task)
        for part in parts:
            assert_same(expected[part], getattr(composition, run)(worlds, 1, seed=part))
        assert_same_state(reference, composition, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_capacity": 2},
        rarely({"memory_capacity": 0}),
        rarely({"repeated_key": "overwrite"}),
        {"retrieval": "average", "sharpness": 3.0},
        rarely({"kernel": "l2", "key": None}),
        rarely({"kernel": "l1", "ties": "newest"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("general", [False, rarely(True)], ids=["fast", "general"])
def test_memories(changes, general):
    task = TASKS["bandit"]
    reference, composition = models(config_for(task, **changes), general)
    one, other = (
        train_episodes(m, made_worlds(task, 2), 12, learning_rate=1e-2, seed=1) for m in (reference, composition)
    )
    assert_same(one, other)
    assert_same_state(reference, composition, 2)


def test_recorded_actions():
    """The actions of a record, forced on another model: its own luck does not matter."""
    task = TASKS["two-step"]
    reference, composition = models(config_for(task))
    free = reference.run_episodes(made_worlds(task, 2), 1, seed=3)
    again = composition.simulate_episodes(made_worlds(task, 2), 1, actions=free.action, seed=3)
    assert_same(free, again)
    for model in (reference, composition):
        model.clear_memory()
    records = [
        train_episodes(m, made_worlds(task, 2), 1, actions=free.action, seed=8) for m in (reference, composition)
    ]
    assert_same(*records)
    np.testing.assert_array_equal(records[0].action, free.action)


def test_episodes_are_trials_once_they_have_happened():
    """What was seen, given to ``run_trials`` with the actions taken, gives the same states."""
    task = TASKS["bandit"]
    reference = reference_of(config_for(task))
    record = reference.run_episodes(made_worlds(task), 12, seed=2)
    reference.clear_memory()
    again = reference.run_trials(record.trials, actions=record.action, seed=(2, 0))
    for name in ("policy", "value", "hidden", "cell", "memory", "gates"):
        np.testing.assert_allclose(getattr(record, name), getattr(again, name), atol=1e-12)


@pytest.mark.parametrize("update", ["trial", "block"])
def test_what_a_loss_of_ones_own_is_given(update):
    """Which episode of which world, and what that world has shown."""
    task, seen = TASKS["rlwm"], {}

    def loss(given):
        (trial,), (environment,) = given.trial.tolist(), given.environment.tolist()
        seen[trial] = environment, given.inputs[0].numpy().copy(), given.asks[0].numpy()
        return given.value.sum() + given.hidden.sum()

    reference, composition = models(config_for(task))
    for path in ("reference", "fast", "general", "cohort"):
        seen.clear()
        settings = {"loss": loss, "update": update, "epochs": 2}
        composition.fast_path = path != "general"
        if path == "cohort":
            worlds, cohort = made_worlds(task, 4), Cohort(config_for(task), [0, 1])
            record = cohort.train_episodes(worlds, 3, seed=1, **settings)[1]  # whose losses come last
        else:
            model = reference if path == "reference" else composition
            record = train_episodes(model, made_worlds(task, 2), 3, seed=1, **settings)
        assert sorted(seen) == list(range(12))
        for trial, (environment, inputs, asks) in seen.items():
            assert environment == trial % 2
            np.testing.assert_array_equal(inputs, record.trials.inputs[trial], err_msg=path)
            np.testing.assert_array_equal(asks, record.trials.asks[trial])


def test_a_world_is_the_same_alone_and_among_others():
    task = TASKS["bandit"]
    reference, composition = models(config_for(task))
    together = composition.simulate_episodes(made_worlds(task, 3), 12, seed=6)
    alone = reference.run_episodes(made_worlds(task, 1), 12, seed=6)
    assert_same(together.of_environment(0, 3), alone)


def test_memories_that_are_not_equally_full():
    """Worlds that have had different numbers of entries are matched one by one, and go on side by side."""
    task = TASKS["bandit"]
    reference, composition = models(config_for(task))
    rng = np.random.default_rng(0)
    entries = rng.random((2, task.key_columns[1])), rng.random((2, 6))
    for model in (reference, composition):
        model.set_memory(*entries, environment=1)
    one, other = (m.simulate_episodes if m is composition else m.run_episodes for m in (reference, composition))
    assert_same(one(made_worlds(task, 2), 12, seed=6), other(made_worlds(task, 2), 12, seed=6))


def test_a_changed_graph_is_trained_as_it_is_run():
    """The general path: a gain of the actor, which the reference does not have, in learn() and in run()."""
    task = TASKS["bandit"]
    changed = pristine(config_for(task), seed=4)
    gain = changed.actor.function.parameters.gain
    gain.set(0.5, changed)
    with pytest.warns(GeneralPathWarning):
        trained = train_episodes(changed, made_worlds(task), 4, learning_rate=0.0, seed=1)
    changed.clear_memory()
    assert_same(trained, changed.run_episodes(made_worlds(task), 4, seed=1))
    gain.set(1.0, changed)


def test_it_learns():
    """A bandit of two arms, one of which always pays and the other never."""
    task = replace(TASKS["bandit"], exposures=10, p_good=1.0, p_bad=0.0)
    _, composition = models(config_for(task, memory_capacity=40, ties="newest"))
    worlds = made_worlds(task, 16)
    first = last = 0.0
    for epoch in range(16):
        if epoch:
            worlds.begin_epoch()
        composition.clear_memory()
        record = train_episodes(composition, worlds, 40, learning_rate=1e-2, seed=epoch)
        first, last = (record.reward[:, 0].mean(), record.reward[:, -1].mean())
    assert last > 0.9 and first > 0.6


# ---- what is told, and what is refused ---------------------------------------------------------------


def test_record():
    task = TASKS["bandit"]
    _, composition = models(config_for(task))
    calls = []
    record = train_episodes(composition, made_worlds(task, 2), 3, seed=0, after_episode=calls.append)
    assert calls == [0, 1, 2] and len(record) == 6
    assert record.trials.inputs.shape == (6, 4, task.input_size)
    assert record.trials.encode[:, -1].all() and not record.trials.encode[:, :-1].any()
    np.testing.assert_array_equal(record.reward, record.facts["reward"])
    np.testing.assert_array_equal(record.action, record.facts["action"])
    np.testing.assert_array_equal(record.trials.inputs[:, 1:, -1], record.reward[:, :-1])
    second = record.of_environment(1, 2)
    np.testing.assert_array_equal(second.facts["good_arm"], record.facts["good_arm"][1::2])
    np.testing.assert_array_equal(second.trials.context, record.trials.context[1::2])


def test_a_record_without_states():
    """All else is the same; of both models."""
    task = TASKS["bandit"]
    for k, model in enumerate(models(config_for(task))):
        whole = train_episodes(model, made_worlds(task, 2), 3, seed=1, record="all")
        after, memories = model.weights(), [model.memory(environment=e) for e in range(2)]
        model = models(config_for(task))[k]
        short = train_episodes(model, made_worlds(task, 2), 3, seed=1, record="behavior")
        assert whole.gates.shape == (6, 4, 4, 6)
        assert short.gates.shape == (6, 4, 4, 0)
        assert short.hidden.shape == short.cell.shape == short.memory.shape == (6, 4, 0)
        for name in ("policy", "value", "action", "reward", "policy_loss", "value_loss"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(short, name), err_msg=name)
        for name, weight in model.weights().items():
            np.testing.assert_array_equal(weight, after[name], err_msg=name)
        for e, stored in enumerate(memories):
            for one, other in zip(stored, model.memory(environment=e), strict=True):
                np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="record must be 'all' or 'behavior'; got 'actions'"):
        train_episodes(model, made_worlds(task), 1, record="actions")


def test_what_does_not_fit():
    task = TASKS["bandit"]
    reference, composition = models(config_for(task))
    worlds = made_worlds(task, 2)
    with pytest.raises(ValueError, match="episodes must lie between 1 and the 12 that the epoch has left; got 13"):
        reference.run_episodes(worlds, 13)
    with pytest.raises(ValueError, match=r"runs one world at a time.*got 2"):
        composition.run_episodes(worlds, 1)
    with pytest.raises(ValueError, match=r"actions must have the shape \(episodes · M, T\) = \(4, 4\)"):
        reference.run_episodes(worlds, 2, actions=np.zeros((2, 4), int))
    with pytest.raises(ValueError, match=r"actions must have the shape \(epochs · episodes · M, T\) = \(12, 4\)"):
        train_episodes(reference, worlds, 2, epochs=3, actions=np.zeros((4, 4), int))
    with pytest.raises(ValueError, match="epochs must be a whole number ≥ 1; got 0"):
        train_episodes(reference, worlds, 2, epochs=0)
    other = ReferenceEpisodicLSTM(config_for(replace(task, barcode_bits=6)))
    with pytest.raises(ValueError, match="The worlds have 9 input columns, the model 10"):
        other.run_episodes(worlds, 1)
    with pytest.raises(ValueError, match="max_gradient_norm must be"):
        train_episodes(reference, worlds, 1, max_gradient_norm=0.0)
    with pytest.raises(ValueError, match="learning_rate must be"):
        train_episodes(reference, worlds, 1, learning_rate=-1.0)
    with pytest.raises(ValueError, match="cross_entropy' needs the right actions"):
        train_episodes(reference, worlds, 1, loss="cross_entropy")
    assert worlds.episode is None  # nothing was begun


@pytest.mark.slow
def test_a_model_with_others_in_it_is_refused():
    task = TASKS["bandit"]
    composition = EpisodicLSTMComposition(config_for(task))
    inner = RecurrentComposition(name="inside")
    inner.add_node(pnl.ProcessingMechanism(name="within"))
    composition.add_node(inner)
    with pytest.raises(NotTrainable, match="with the environment in the loop"), pytest.warns(GeneralPathWarning):
        train_episodes(composition, made_worlds(task), 1)


def test_clipping_scales_all_gradients_alike():
    task = TASKS["bandit"]
    settings = {"seed": 1, "record_gradients": True}
    whole = train_episodes(models(config_for(task))[1], made_worlds(task), 1, **settings).gradients
    cut = train_episodes(models(config_for(task))[1], made_worlds(task), 1, max_gradient_norm=0.01, **settings)
    norm = np.sqrt(sum((g**2).sum() for g in whole.values()))
    assert norm > 0.01
    for name, gradient in cut.gradients.items():
        np.testing.assert_allclose(gradient, whole[name] * 0.01 / (norm + 1e-6), atol=1e-12)
    assert torch.get_num_threads() == 1


def test_trials_and_episodes_in_turns(make_trials):
    """A model that has been trained in the loop trains on trials again, and the other way round."""
    task = TASKS["bandit"]
    reference, composition = models(config_for(task))
    trials = make_trials(n=3, steps=4, size=task.input_size, n_actions=3)
    for _ in range(2):
        for model in (reference, composition):
            train(model, trials, seed=2, learning_rate=1e-2)
            train_episodes(model, made_worlds(task, 2), 2, seed=1, learning_rate=1e-2)
    assert_same_state(reference, composition, 2)
