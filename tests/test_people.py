"""People in training, one an environment, and in worlds that answer: the same on every path of both models.

The ladder has two people who differ in everything; here each parameter is alone, and what people take along from
trial to trial is held against what a reader can count.
"""

from dataclasses import replace

import numpy as np
import pytest
from common import OTHER, pristine
from eplstm.comparisons.echo import Echo
from eplstm.comparisons.equivalence import compare_memories, compare_records, compare_weights
from eplstm.models import Cohort, ModelConfig, Person, ReferenceEpisodicLSTM, TrialRecord, train, train_episodes
from eplstm.tasks import Trials

D, H, A, T = 6, 4, 3, 2
COLUMNS = (0, 3)
CONFIG = ModelConfig(D, H, A, memory_capacity=3, retrieval="average", sharpness=0.5)
NEAREST = replace(CONFIG, retrieval="nearest")
EVERYBODY = Person(**OTHER, context_columns=COLUMNS)
SETTINGS = {"learning_rate": 1e-2, "gamma": 0.9, "entropy_weight": 0.05, "seed": 3}


def block(rng):
    """Four contexts are stored, one more than the memory holds; then two of them return, one twice."""
    context = np.array([0, 1, 2, 3, 0, 3, 0])
    encode = np.zeros((7, T), bool)
    encode[:4, -1] = True
    inputs, targets = rng.standard_normal((7, T, D)), rng.integers(0, A, (7, T))
    targets[2, 0] = -1
    return Trials(inputs, targets, encode, context=context)


BLOCKS = [block(np.random.default_rng(e)) for e in range(2)]


def both(config=CONFIG):
    """A reference and a composition of the same weights, which may come to have a person's nodes."""
    return ReferenceEpisodicLSTM(config, 1).double(), pristine(config, 1, which=1)


def assert_same(rungs):
    assert all(rung.passed for rung in rungs), "\n".join(map(str, rungs))


def assert_trained_alike(people, config=CONFIG, **settings):
    """By the reference, both paths of the composition, and a cohort."""
    settings = {**SETTINGS, "people": people, **settings}
    reference, composition = both(config)
    cohort = Cohort.from_models([reference, reference])
    theirs = TrialRecord.concatenate(train(reference, BLOCKS, record_gradients=True, **settings))
    for fast in (True, False):
        composition = pristine(config, 1, fast=fast, which=1)
        ours = TrialRecord.concatenate(train(composition, BLOCKS, record_gradients=True, **settings))
        assert_same([*compare_records(ours, theirs), compare_weights(composition, reference, "weights")])
        assert_same([compare_memories(composition, reference)])
        assert composition.person == Person() and (composition.detour is None) == fast
    own = {**settings, "people": [people] * 2, "seed": [SETTINGS["seed"]] * 2}
    for p, records in enumerate(cohort.train([BLOCKS] * 2, record="all", **own)):
        assert_same(compare_records(TrialRecord.concatenate(records), theirs))
        for name, weights in cohort.weights(p).items():
            np.testing.assert_allclose(weights, reference.weights()[name], rtol=0, atol=1e-10)
    return theirs


@pytest.mark.parametrize("name", OTHER)
def test_each_parameter_in_training(name):
    """It acts, in its environment alone at first, and acts alike everywhere."""
    person = Person(**{name: OTHER[name]}, context_columns=COLUMNS)
    found = assert_trained_alike([Person(), person])
    reference, _ = both()
    alone = train(reference, BLOCKS, **SETTINGS)
    assert np.array_equal(found.policy[0], alone[0].policy[0])  # before the first update
    assert not np.allclose(found.policy[len(BLOCKS[0]) :], alone[1].policy)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, reinstatement="input"), NEAREST])
def test_through_the_memory_in_one_update(config):
    """p_t, the averages and the keys of two people in one update of a whole block."""
    homeless = {"gate_bias"} if config.reinstatement == "input" else set()
    homeless |= {"sharpness", "forgetting"} if config is NEAREST else set()
    values = {name: value for name, value in OTHER.items() if name not in homeless}
    people = [Person(**values, context_columns=COLUMNS), Person(perseveration=-1.0, encoding_probability=0.5)]
    assert_trained_alike(people, config, update="block", through_memory=True)


def test_the_trained_agent_in_all_is_nobody_else():
    one, other = ReferenceEpisodicLSTM(CONFIG, 1).double(), ReferenceEpisodicLSTM(CONFIG, 1).double()
    train(one, BLOCKS, people=[Person()] * 2, **SETTINGS)
    train(other, BLOCKS, **SETTINGS)
    for name, weights in one.weights().items():
        assert np.array_equal(weights, other.weights()[name])


def test_one_environment_takes_a_person_alone():
    found = []
    for people in (EVERYBODY, [EVERYBODY]):
        reference, composition = both()
        found += [train(model, BLOCKS[0], people=people, **SETTINGS) for model in (reference, composition)]
    for record in found[1:]:
        assert_same(compare_records(record, found[0]))


# ---- worlds ------------------------------------------------------------------------------------------------


def worlds(n=2):
    """Two contexts take turns, in four episodes of three steps."""
    found = Echo(D, A).worlds([np.random.default_rng(e) for e in range(n)])
    found.begin_epoch()
    return found


@pytest.mark.parametrize("update", ["trial", "block"])
def test_people_in_worlds(update):
    people, found = [EVERYBODY, Person(perseveration=-2.0)], []
    reference, _ = both()
    settings = {**SETTINGS, "people": people, "epochs": 2, "update": update, "through_memory": update == "block"}
    theirs = train_episodes(reference, worlds(), 4, record_gradients=True, **settings)
    for fast in (True, False):
        composition = pristine(CONFIG, 1, fast=fast, which=1)
        ours = train_episodes(composition, worlds(), 4, record_gradients=True, **settings)
        found += [*compare_records(ours, theirs), compare_weights(composition, reference, "weights")]
        assert np.array_equal(ours.trials.retrieve, theirs.trials.retrieve)
    assert_same(found)


def test_a_person_runs_through_worlds():
    """By the reference, in Python mode, and in PyTorch mode by both paths."""
    reference, composition = both()
    reference.person = composition.person = EVERYBODY
    theirs = reference.run_episodes(worlds(1), 4, seed=5)
    found = [composition.run_episodes(worlds(1), 4, seed=5)]
    for composition.fast_path in (True, False):
        composition.clear_memory()
        found.append(composition.simulate_episodes(worlds(1), 4, seed=5))
    for ours in found:
        assert_same([*compare_records(ours, theirs), compare_memories(composition, reference)])
        assert np.array_equal(ours.trials.retrieve, theirs.trials.retrieve)
    many = [
        run(worlds(3), 4, seed=5) for run in (fresh(reference).run_episodes, fresh(composition).simulate_episodes)
    ]
    assert_same(compare_records(*many))


def fresh(model):
    model.clear_memory()
    return model


def test_lost_episodes_are_not_recognised():
    """Each of two contexts is shown twice and stored each time: only the second showing returns to something."""
    reference, _ = both()
    reference.person = Person(encoding_probability=0.5)
    record = reference.run_episodes(worlds(8), 4, seed=1)
    retrieved = record.trials.retrieve.reshape(4, 8, 3)
    luck = [np.random.default_rng((1, e)) for e in range(8)]
    for rng in luck:  # as the stream goes: h0, c0, choices; then which episodes are encoded
        rng.standard_normal((2, 4, H)), rng.random((4, 3))
    encoded = np.array([rng.random(4) < 0.5 for rng in luck]).T
    assert retrieved[:2].all()
    np.testing.assert_array_equal(retrieved[2:].all(-1), encoded[:2])
    np.testing.assert_array_equal(retrieved[2:].any(-1), encoded[:2])
    assert 0 < encoded[:2].sum() < 16
    assert len(reference.memory()[0]) == 3  # each episode stores, also a lost one; the first was dropped


def test_the_last_choice_goes_on_until_the_epoch_ends():
    """Somebody who repeats whatever was chosen last makes one choice an epoch."""
    reference, _ = both()
    people = [Person(perseveration=1e3)] * 8
    record = train_episodes(reference, worlds(8), 4, epochs=2, people=people, seed=2)
    action = record.action.reshape(2, 4, 8, 3)
    assert (action == action[:, :1, :, :1]).all()
    assert (action[0, 0, :, 0] != action[1, 0, :, 0]).any()


def test_the_loop_is_as_trials_that_are_given():
    """What was shown, stored and retrieved in a world, given as trials with the choices made, is the same."""
    reference, _ = both()
    reference.person = EVERYBODY
    in_loop = reference.run_episodes(worlds(1), 4, seed=9)
    assert not in_loop.trials.retrieve.all()
    reference.clear_memory()
    reference.person = replace(EVERYBODY, encoding_probability=1.0)
    states = np.random.default_rng((9, 0))
    h0, c0 = 0.1 * states.standard_normal((4, H)), 0.1 * states.standard_normal((4, H))
    given = reference.run_trials(in_loop.trials, actions=in_loop.action, initial_states=(h0, c0))
    np.testing.assert_allclose(given.policy, in_loop.policy, rtol=0, atol=1e-10)


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("people", "error", "message"),
    [
        ([Person()] * 3, ValueError, r"one for each of 2 environments; got 3.*\[person\] \* 2"),
        (Person(), ValueError, "2 environments; got 1"),
        ([Person(), "me"], TypeError, r"people\[1\] must be a Person; got str"),
        (
            [Person(), Person(sharpness=2.0)],
            ValueError,
            r"people\[1\]: .*\['sharpness'\] need a model that averages",
        ),
    ],
)
def test_people_that_do_not_fit(people, error, message):
    for model in both(NEAREST):
        with pytest.raises(error, match=message):
            train(model, BLOCKS, people=people)
        with pytest.raises(error, match=message):
            train_episodes(model, worlds(), 1, people=people)


def test_a_person_of_ones_own_is_no_way_to_train():
    for model in both(NEAREST):
        model.person = Person(lapse=0.2)
        with pytest.raises(ValueError, match=r"give people=\[...\] to train it"):
            train(model, BLOCKS[0])


def test_contexts_must_be_known():
    for model in both(NEAREST):
        with pytest.raises(ValueError, match="must say which context they show"):
            train(model, replace(BLOCKS[0], context=None), people=Person(encoding_probability=0.5))
