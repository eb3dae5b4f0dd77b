"""The contextual-choice task and the block of trials: shapes, rules, distribution, and every refusal."""

import numpy as np
import pytest
import torch
from eplstm.tasks import ContextualChoice, Trials
from eplstm.tasks.trials import concatenate, earned


def block(**changes):
    """Two trials of three steps with two columns."""
    fields = {
        "inputs": np.arange(12.0).reshape(2, 3, 2),
        "targets": np.array([[0, 1, 2], [2, 1, 0]]),
        "encode": np.zeros((2, 3), bool),
    }
    return Trials(**{**fields, **changes})


# ---- contextual choice -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obs_dim", "steps", "off", "n"), [(32, 10, 5, 7), (3, 4, 4, 2), (1, 1, 0, 1), (2, 3, 0, 5)]
)
def test_shapes_and_descriptions(obs_dim, steps, off, n, rng):
    task = ContextualChoice(obs_dim, steps, off)
    trials = task.sample(n, rng)
    assert len(trials) == 2 * n
    assert trials.inputs.shape == (2 * n, steps, 2 * obs_dim) == (2 * n, trials.length, trials.input_size)
    assert trials.targets.shape == trials.encode.shape == trials.retrieve.shape == (2 * n, steps)
    assert trials.input_size == task.input_size
    assert trials.noise_off == off
    assert trials.targets.dtype == np.int64
    assert trials.encode.dtype == trials.retrieve.dtype == bool
    np.testing.assert_array_equal(trials.encounter, [1] * n + [2] * n)
    np.testing.assert_array_equal(trials.context[:n], np.arange(n))
    np.testing.assert_array_equal(np.sort(trials.context[n:]), np.arange(n))


def test_the_generator_decides_everything():
    task = ContextualChoice(obs_dim=3, trial_length=4, t_noise_off=2)
    np.random.seed(0)  # noqa: NPY002 (to see that the global generator stays as it is)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (task.sample(5, np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name in ("inputs", "targets", "encode", "retrieve", "context", "encounter"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(one.inputs, other.inputs)
    rng = np.random.default_rng(3)
    assert not np.array_equal(task.sample(5, rng).inputs, task.sample(5, rng).inputs)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_second_phase_shows_the_same_arrays_in_a_new_order(rng):
    n = 40
    trials = ContextualChoice(obs_dim=2, trial_length=3, t_noise_off=1).sample(n, rng)
    order = trials.context[n:]
    np.testing.assert_array_equal(trials.inputs[n:], trials.inputs[:n][order])
    np.testing.assert_array_equal(trials.targets[n:], trials.targets[:n][order])
    assert not np.array_equal(order, np.arange(n))
    assert len(np.unique(trials.inputs[:n, 0, 0])) == n


def test_context_is_the_same_at_all_steps_and_of_one_trial(rng):
    task = ContextualChoice(obs_dim=4, trial_length=5, t_noise_off=2)
    context = task.sample(6, rng)[:6].inputs[..., slice(*task.context_columns)]
    assert task.context_columns == (4, 8)
    np.testing.assert_array_equal(context, np.repeat(context[:, :1], 5, axis=1))
    assert len(np.unique(context[:, 0, 0])) == 6


def test_encoding_only_at_the_last_step_of_first_encounters(rng):
    trials = ContextualChoice(obs_dim=2, trial_length=4, t_noise_off=2).sample(3, rng)
    expected = np.zeros((6, 4), bool)
    expected[:3, 3] = True
    np.testing.assert_array_equal(trials.encode, expected)
    assert trials.retrieve.all()


def test_target_is_the_sign_of_the_evidence_where_no_noise_replaces_it(rng):
    trials = ContextualChoice(obs_dim=1, trial_length=3, t_noise_off=0).sample(500, rng)
    answer = (trials.inputs[..., :1].sum((1, 2)) > 0).astype(int)
    np.testing.assert_array_equal(trials.targets, np.repeat(answer[:, None], 3, axis=1))


def test_target_counts_the_evidence_that_noise_replaced():
    """With obs_dim = 1 and one of two steps shown, the answer must often differ from what is shown.

    Evidence N(s, 1) at both steps, s = ±1, answer = sign of the sum; shown: the second step alone. The exact
    rate of agreement is that of the signs of X and X + Y; simulated here with numbers of its own.
    """
    task = ContextualChoice(obs_dim=1, trial_length=2, t_noise_off=1)
    n = 20_000
    trials = task.sample(n, np.random.default_rng(1))[:n]
    shown = trials.inputs[:, 1, 0] > 0
    agreement = np.mean(shown == trials.targets[:, 0])
    rng = np.random.default_rng(2)
    evidence = 1 + rng.standard_normal((200_000, 2))
    expected = np.mean((evidence[:, 1] > 0) == (evidence.sum(1) > 0))
    assert expected == pytest.approx(0.875, abs=0.02)  # far from 1, which the sum after the noise would give
    assert agreement == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / n))
    noise = trials.inputs[:, 0, 0] > 0
    assert np.mean(noise == trials.targets[:, 0]) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(n))


def test_distribution():
    task = ContextualChoice(obs_dim=8, trial_length=6, t_noise_off=2)
    n = 2000
    trials = task.sample(n, np.random.default_rng(7))[:n]
    side = np.where(trials.targets[:, 0] == 1, 1.0, -1.0)  # 48 samples: the answer is the side drawn
    assert side.mean() == pytest.approx(0, abs=4 / np.sqrt(n))
    noise, evidence = trials.inputs[:, :2, :8], trials.inputs[:, 2:, :8] - side[:, None, None]
    context = trials.inputs[:, 0, 8:]
    for sample in (noise, evidence, context):
        assert sample.mean() == pytest.approx(0, abs=4 / np.sqrt(sample.size))
        assert sample.std() == pytest.approx(1, abs=4 / np.sqrt(2 * sample.size))
        assert np.mean(np.abs(sample) < 0.6745) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(sample.size))


def test_chance_and_optimum():
    assert ContextualChoice().optimum == 8.75
    assert ContextualChoice(trial_length=4, t_noise_off=4).optimum == 3.0
    assert ContextualChoice().chance == 1 / ContextualChoice().n_actions


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"obs_dim": 0}, "obs_dim must be a whole number ≥ 1; got 0"),
        ({"obs_dim": 2.0}, "obs_dim .* got 2.0"),
        ({"obs_dim": True}, "obs_dim .* got True"),
        ({"trial_length": 0}, "trial_length must be a whole number ≥ 1; got 0"),
        ({"trial_length": "10"}, "trial_length .* got '10'"),
        ({"t_noise_off": -1}, "t_noise_off must be a whole number ≥ 0; got -1"),
        ({"t_noise_off": 11}, r"t_noise_off \(11\) must not exceed trial_length \(10\)"),
    ],
)
def test_bad_sizes_of_the_task(sizes, message):
    with pytest.raises(ValueError, match=message):
        ContextualChoice(**sizes)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, None, "3"])
def test_bad_number_of_contexts(n, rng):
    with pytest.raises(ValueError, match=f"n_contexts must be a whole number ≥ 1; got {n!r}"):
        ContextualChoice().sample(n, rng)


@pytest.mark.parametrize("rng", [None, 3, np.random])
def test_generator_must_be_a_generator(rng):
    with pytest.raises(TypeError, match=f"numpy.random.Generator.*got {type(rng).__name__}"):
        ContextualChoice().sample(2, rng)


# ---- trials ------------------------------------------------------------------------------------------


def test_three_arrays_suffice():
    trials = Trials(inputs=[[[1, 2], [3, 4]]], targets=[[0.0, 1.0]], encode=[[0, 1]])
    assert trials.inputs.dtype == float
    assert trials.targets.dtype == np.int64
    assert trials.encode.tolist() == [[False, True]]
    assert trials.retrieve.tolist() == [[True, True]]
    assert trials.context is trials.encounter is trials.noise_off is None


def test_no_trial_at_all():
    trials = Trials(inputs=np.zeros((0, 3, 2)), targets=np.zeros((0, 3)), encode=np.zeros((0, 3)))
    assert len(trials) == 0
    assert trials.targets.dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": np.zeros((2, 3))}, r"inputs must have the shape \(n, T, D\); got \(2, 3\)"),
        ({"inputs": np.full((2, 3, 2), np.inf)}, r"inputs must be finite; inputs\[0, 0, 0\] is inf"),
        (
            {"inputs": np.where(np.arange(12).reshape(2, 3, 2) == 9, np.nan, 0.0)},
            r"inputs must be finite; inputs\[1, 1, 1\] is nan",
        ),
        ({"targets": np.zeros((2, 4))}, r"targets must have the shape \(n, T\) = \(2, 3\).*got \(2, 4\)"),
        ({"targets": np.zeros(2)}, r"targets must have the shape .*got \(2,\)"),
        ({"targets": np.zeros((2, 3, 1))}, r"targets must have the shape .*got \(2, 3, 1\)"),
        ({"targets": np.full((2, 3), 0.5)}, "targets must be whole numbers"),
        ({"targets": np.full((2, 3), np.nan)}, "targets must be whole numbers"),
        ({"targets": np.full((2, 3), -2)}, "targets must be whole numbers from 0 .*or -1 where .*got -2"),
        ({"encode": np.zeros((3, 3))}, r"encode must have the shape .*got \(3, 3\)"),
        ({"encode": np.full((2, 3), 2)}, "encode must hold booleans"),
        ({"encode": None}, r"encode must have the shape .*got \(\)"),
        ({"retrieve": np.ones((2, 2))}, r"retrieve must have the shape .*got \(2, 2\)"),
        ({"retrieve": np.full((2, 3), 0.5)}, "retrieve must hold booleans"),
        ({"context": np.zeros(3)}, r"context must have the shape \(n,\) = \(2,\); got \(3,\)"),
        ({"encounter": np.zeros((2, 3))}, r"encounter must have the shape .*got \(2, 3\)"),
    ],
)
def test_bad_arrays_of_trials(changes, message):
    with pytest.raises(ValueError, match=f"Trials: {message}"):
        block(**changes)


PAY = np.arange(18.0).reshape(2, 3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [3]}, r"lengths must have the shape \(n,\) = \(2,\); got \(1,\)"),
        ({"lengths": [3, 0]}, "lengths must be whole numbers from 1 to T = 3; that of trial 1 is 0. Leave out"),
        ({"lengths": [4, 3]}, "lengths must be .* that of trial 0 is 4"),
        ({"lengths": [1.5, 3]}, "lengths must be .* that of trial 0 is 1.5"),
        ({"lengths": [np.nan, 3]}, "lengths must be .* that of trial 0 is nan"),
        ({"lengths": 3}, r"lengths must have the shape .*got \(\)"),
        (
            {"rewards": PAY[..., 0]},
            r"rewards must have the shape \(n, T, A\), with .*got \(2, 3\)",
        ),
        ({"rewards": PAY[:, :2]}, r"rewards must have the shape .*got \(2, 2, 3\)"),
        ({"rewards": np.where(PAY == 5, np.inf, PAY)}, r"rewards must be finite; rewards\[0, 1, 2\] is inf"),
        ({"rewards": PAY[..., :2]}, "there is a target 2, and rewards say what 2 actions pay, from 0"),
        ({"targets": np.full((2, 3), -2), "lengths": [1, 3]}, "targets must be whole numbers .*got -2"),
    ],
)
def test_rewards_and_lengths_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=f"Trials: {message}"):
        block(**changes)


def test_beyond_the_end_anything_may_stand():
    """Such as the NaN with which tables are filled up. It is as if it had been zeros, -1 and False."""
    exists = np.arange(3) < np.array([[2], [3]])
    inputs, targets = np.arange(12.0).reshape(2, 3, 2), np.array([[0, -1, 2], [2, 1, -1]])
    filled = block(
        inputs=np.where(exists[..., None], inputs, np.nan),
        targets=np.where(exists, targets, np.nan),
        encode=np.where(exists, 0, 7),
        retrieve=np.ones((2, 3)),
        rewards=np.where(exists[..., None], PAY, np.nan),
        lengths=[2, 3],
    )
    np.testing.assert_array_equal(filled.exists, exists)
    np.testing.assert_array_equal(filled.asks, [[True, False, False], [True, True, False]])
    np.testing.assert_array_equal(filled.inputs, inputs * exists[..., None])
    np.testing.assert_array_equal(filled.targets, [[0, -1, -1], [2, 1, -1]])
    np.testing.assert_array_equal(filled.retrieve, exists)
    np.testing.assert_array_equal(filled.rewards, PAY * exists[..., None])
    assert not filled.encode.any()
    assert (filled.longest(), filled.longest(slice(0, 1)), filled.longest(slice(0, 0))) == (3, 2, 1)
    assert (filled.targets.dtype, filled.retrieve.dtype, filled.lengths.dtype) == (np.int64, bool, np.int64)
    assert block().exists.all()
    assert block().longest() == 3


def test_what_actions_earn():
    action, targets = np.array([0, 1, 2, -1, -1]), np.array([0, 2, -1, -1, 0])
    np.testing.assert_array_equal(earned(action, targets), [1, 0, 0, 0, 0])
    rewards = np.arange(15.0).reshape(5, 3) + 1
    np.testing.assert_array_equal(earned(action, targets, rewards), [1, 5, 9, 0, 0])
    trials = block(targets=[[0, -1, 2], [1, 1, 1]])
    np.testing.assert_array_equal(trials.right(np.array([[0, -1, 1], [1, 0, 1]])), [[1, np.nan, 0], [1, 0, 1]])
    np.testing.assert_array_equal(trials.payoffs(3)[0], [[1, 0, 0], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(block(rewards=PAY).payoffs(3), PAY)


@pytest.mark.parametrize("which", [slice(1, 2), slice(None, None, -1), [1], [1, 0, 1], np.array([False, True])])
def test_slicing_takes_every_array_along(which):
    encode, retrieve = np.eye(2, 3, dtype=bool), ~np.eye(2, 3, dtype=bool)
    given = {"rewards": PAY, "lengths": [2, 3], "context": [7, 8], "encounter": [1, 2], "noise_off": 1}
    trials = block(encode=encode, retrieve=retrieve, **given)
    part = trials[which]
    for name in ("inputs", "targets", "encode", "retrieve", "rewards", "lengths", "context", "encounter"):
        np.testing.assert_array_equal(getattr(part, name), getattr(trials, name)[which])
    assert part.noise_off == 1


def test_inputs_that_run_backwards_in_memory_are_copied():
    """PyTorch takes no such array."""
    given = np.arange(6.0).reshape(1, 3, 2)[:, ::-1]
    inputs = Trials(given, np.zeros((1, 3), int), np.zeros((1, 3), bool)).inputs
    np.testing.assert_array_equal(torch.from_numpy(inputs), given)


def test_slicing_without_descriptions():
    part = block()[:1]
    assert len(part) == 1
    assert part.context is None


@pytest.mark.parametrize("index", [0, np.int64(1)])
def test_one_index_is_refused(index):
    with pytest.raises(TypeError, match=rf"\[{index}:{index + 1}\]"):
        block()[index]


@pytest.mark.parametrize("retrieve", [True, False])
@pytest.mark.parametrize("encode", [True, False])
def test_lesions(retrieve, encode):
    trials = block(encode=np.eye(2, 3, dtype=bool), retrieve=~np.eye(2, 3, dtype=bool), context=[1, 2])
    lesioned = trials.lesioned(retrieve=retrieve, encode=encode)
    np.testing.assert_array_equal(lesioned.encode, trials.encode if encode else np.zeros((2, 3), bool))
    np.testing.assert_array_equal(lesioned.retrieve, trials.retrieve if retrieve else np.zeros((2, 3), bool))
    np.testing.assert_array_equal(lesioned.inputs, trials.inputs)
    np.testing.assert_array_equal(lesioned.context, trials.context)
    assert trials.encode.any()
    assert trials.retrieve.any()


def test_concatenate_keeps_order_and_what_all_have():
    one = block(context=[1, 2], encounter=[1, 1], retrieve=np.eye(2, 3), noise_off=1)
    two = block(inputs=-np.ones((2, 3, 2)), context=[3, 4], noise_off=1)
    both = concatenate([one, two])
    for name in ("inputs", "targets", "encode", "retrieve", "context"):
        np.testing.assert_array_equal(getattr(both, name), [*getattr(one, name), *getattr(two, name)])
    assert both.encounter is None
    assert both.noise_off == 1
    assert concatenate([one, block(noise_off=2)]).noise_off is None
    assert len(concatenate([one])) == 2


def test_concatenate_keeps_rewards_and_lengths_of_some():
    """The others pay 1 for the target, and have all their steps."""
    one, two = block(rewards=PAY, lengths=[3, 2]), block(targets=[[0, -1, 2], [1, 1, 1]])
    both = concatenate([two, one])
    np.testing.assert_array_equal(both.lengths, [3, 3, 3, 2])
    np.testing.assert_array_equal(both.rewards, [*two.payoffs(3), *one.rewards])
    assert concatenate([two, two]).rewards is concatenate([two, two]).lengths is None


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([block(), block(inputs=np.zeros((2, 3, 4)))], r"equally many steps and input columns; got \(T, D\) = "),
        ([block(rewards=PAY), block(rewards=np.zeros((2, 3, 4)))], r"equally many actions; got \[3, 4\]"),
    ],
)
def test_blocks_that_cannot_be_concatenated(blocks, message):
    with pytest.raises(ValueError, match=message):
        concatenate(blocks)


def test_concatenate_needs_a_block():
    with pytest.raises(ValueError, match="at least one block"):
        concatenate([])
