"""Numbers of behaviour, checked against cases small enough to do by hand."""

import numpy as np
import pytest
from eplstm.comparisons import behavior
from eplstm.comparisons.blocks import make_model
from eplstm.models import ModelConfig, TrialRecord
from eplstm.tasks import ContextualChoice, Trials

KINDS = ["reference"]
"""Kinds of model on which what runs a model is tested."""


def a_record(action: np.ndarray, targets: np.ndarray, *, gates: np.ndarray | None = None) -> TrialRecord:
    """A record of given choices, with zeros in all else."""
    n, steps = action.shape
    states = np.zeros((n, steps, 3))
    return TrialRecord(
        policy=np.full((n, steps, 2), 0.5),
        value=np.zeros((n, steps)),
        action=action,
        reward=(action == targets).astype(float),
        hidden=states,
        cell=states,
        memory=states,
        gates=np.zeros((n, steps, 4, 3)) if gates is None else gates,
    )


def four_trials() -> tuple[Trials, TrialRecord]:
    """Two first encounters (one step right of four), two second ones (three of four)."""
    targets = np.array([[1, 1], [0, 0], [1, 1], [0, 0]])
    action = np.array([[1, 0], [1, 1], [1, 1], [1, 0]])
    encode = np.zeros((4, 2), bool)
    encode[:2, -1] = True
    trials = Trials(np.zeros((4, 2, 3)), targets, encode, encounter=np.array([1, 1, 2, 2]))
    return trials, a_record(action, targets)


def a_model(kind: str, **settings):
    task = ContextualChoice(obs_dim=4, trial_length=4, t_noise_off=2)
    config = ModelConfig(task.input_size, 5, 2, settings.pop("memory_capacity", 20), **settings)
    return task, make_model(kind, config, seed=3)


def test_accuracy_by_step_and_its_errors_over_trials():
    course = behavior.accuracy_by_step(*four_trials())
    assert course.encounters == (1, 2)
    assert course.over == "trials"
    assert course.n == (2, 2)
    np.testing.assert_allclose(course.mean, [[0.5, 0.0], [0.5, 1.0]])
    # two samples 0 and 1: sd = sqrt(1/2), error = sd / sqrt(2) = 1/2
    np.testing.assert_allclose(course.se, [[0.5, 0.0], [0.5, 0.0]])


def test_accuracy_over_agents_takes_each_agents_mean():
    trials, first = four_trials()
    second = a_record(trials.targets.copy(), trials.targets)
    course = behavior.accuracy_by_step(trials, [first, second])
    assert course.over == "agents"
    np.testing.assert_allclose(course.mean, [[0.75, 0.5], [0.75, 1.0]])
    np.testing.assert_allclose(course.se, [[0.25, 0.5], [0.25, 0.0]])


def test_one_trial_has_no_standard_error():
    trials, record = four_trials()
    course = behavior.accuracy_by_step(trials[:1], a_record(record.action[:1], trials.targets[:1]))
    assert np.isnan(course.se).all()


def test_a_record_of_other_trials_is_refused():
    trials, record = four_trials()
    with pytest.raises(ValueError, match="does not belong"):
        behavior.accuracy_by_step(trials[:3], record)
    with pytest.raises(ValueError, match="2 records came with 1"):
        behavior.accuracy_by_step([trials], [record, record])
    with pytest.raises(ValueError, match="at least one record"):
        behavior.accuracy_by_step(trials, [])


def test_learning_curve_by_block_and_encounter():
    reward = np.array([[[0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]])
    curve = behavior.learning_curve(reward, np.array([[1, 2], [2, 1]]))
    np.testing.assert_allclose(curve.mean, [1.5, 0.5])
    np.testing.assert_allclose(curve.se, [0.5, 0.5])
    np.testing.assert_allclose(curve.by_encounter, [[1.0, 1.0], [2.0, 0.0]])


def test_gate_course_averages_units_then_trials():
    trials, record = four_trials()
    gates = np.random.default_rng(0).random((4, 2, 4, 3))
    course = behavior.gate_course(trials, a_record(record.action, trials.targets, gates=gates))
    assert course.mean.shape == course.se.shape == (2, 2, 4)
    np.testing.assert_allclose(course.mean[1], gates[2:].mean((0, 3)))
    np.testing.assert_allclose(course.se[0], np.abs(np.diff(gates[:2].mean(-1), axis=0))[0] / 2)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [("l2", [-5.0, -np.sqrt(20)]), ("l1", [-7.0, -6.0]), ("cosine", [0.0, 0.0])],
)
def test_similarity_of_rows(kernel, expected):
    matrix = behavior.similarity_matrix(np.array([[0.0, 0.0], [3.0, 4.0], [-2.0, 4.0]]), kernel)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(matrix[0, 1:], expected)
    if kernel == "cosine":
        np.testing.assert_allclose(matrix[1, 2], 10 / (5 * np.sqrt(20)))


@pytest.mark.parametrize("kernel", ["l2", "l1", "cosine"])
def test_similarity_is_that_of_the_reference(kernel):
    import torch

    model = make_model("reference", ModelConfig(4, 3, 2, 8, kernel=kernel), seed=0)
    keys = np.random.default_rng(1).standard_normal((6, 4))
    model.set_memory(keys, np.zeros((6, 3)))
    found = [model.episodic_memory.similarity(torch.from_numpy(key)).numpy() for key in keys]
    np.testing.assert_allclose(behavior.similarity_matrix(keys, kernel), found, atol=1e-14)


def test_principal_components_of_points_on_a_line():
    direction = np.array([0.6, 0.8, 0.0])
    amounts = np.array([-3.0, 1.0, 2.0])
    found = behavior.principal_components(5.0 + amounts[:, None] * direction, 2)
    np.testing.assert_allclose(found.variance_explained, [1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(found.components[0], direction, atol=1e-12)
    np.testing.assert_allclose(found.scores[:, 0], amounts, atol=1e-12)


def test_principal_components_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="two values or more; the memory holds 1"):
        behavior.principal_components(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="between 1 and 2"):
        behavior.principal_components(np.zeros((2, 3)), 3)


def test_principal_components_of_equal_values():
    assert behavior.principal_components(np.ones((4, 3))).variance_explained.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [None, (4, 8)])
def test_answers_of_stored_entries(kind, key):
    task, model = a_model(kind, key=key, memory_capacity=5)
    trials = task.sample(7, np.random.default_rng(0))
    model.run_trials(trials, seed=0)
    keys, _ = model.memory()
    # the five that are left of seven
    np.testing.assert_array_equal(behavior.stored_answers(trials, keys, model.config), trials.targets[2:7, -1])
    with pytest.raises(ValueError, match="entry 0 of the memory was not encoded"):
        behavior.stored_answers(trials, keys + 1.0, model.config)


@pytest.mark.parametrize("kind", KINDS)
def test_lesions_see_the_same_draws_and_leave_the_memory(kind):
    task, model = a_model(kind)
    blocks = [task.sample(6, np.random.default_rng(seed)) for seed in (0, 1)]
    keys, values = np.arange(16.0).reshape(2, 8), np.arange(10.0).reshape(2, 5)
    model.set_memory(keys, values)
    found = behavior.lesions(model, blocks, seed=4)
    again = behavior.lesions(model, blocks, seed=4)
    for before, after in zip((keys, values), model.memory(), strict=True):
        np.testing.assert_array_equal(before, after)
    for name, course in found.items():
        assert course.n == (12, 12)
        np.testing.assert_array_equal(course.mean, again[name].mean)
    np.testing.assert_array_equal(found[behavior.RETRIEVAL_OFF].mean, found[behavior.ENCODING_OFF].mean)
    # nothing is stored yet in the first encounters of the first step; the lesion shows on the second
    intact = behavior.run_blocks(model, blocks, 4)
    lesioned = behavior.run_blocks(model, blocks, 4, retrieve=False)
    assert np.abs(intact.policy - lesioned.policy).max() > 1e-3
    assert not lesioned.memory.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_is_kept_when_a_run_fails(kind):
    _, model = a_model(kind)
    keys, values = np.ones((1, 8)), np.ones((1, 5))
    model.set_memory(keys, values)
    wrong = ContextualChoice(obs_dim=3).sample(2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="input columns"):
        behavior.run_blocks(model, [wrong], 0)
    np.testing.assert_array_equal(model.memory()[1], values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fresh_block_begins_with_an_empty_memory(kind):
    task, model = a_model(kind)
    block = task.sample(3, np.random.default_rng(0))
    record = behavior.run_blocks(model, [block, block], 0)
    assert not record.memory[0].any() and not record.memory[6].any()
    assert record.memory[1].any() and record.memory[7].any()
