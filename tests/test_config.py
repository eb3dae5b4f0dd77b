"""Config, weights, records and plans: what the two models share, and every refusal."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from eplstm.models import GATE_ORDER, ModelConfig, TrialRecord, initial_weights, weight_shapes
from eplstm.models.choices import draw
from eplstm.models.plans import INITIAL_STATE_SCALE, plan_trials
from eplstm.models.weights import check_memory, check_weights

ORTHOGONAL_ATOL = 1e-6
"""The numbers are rounded to float32 (6e-8 of each); products of rows of up to 64 of them err by some 1e-7."""

# ---- config ------------------------------------------------------------------------------------------


def test_defaults_are_those_of_dnd_lstm():
    config = ModelConfig(64, 32, 2, 100)
    assert (config.kernel, config.key, config.retrieval, config.ties, config.repeated_key) == (
        "l2",
        None,
        "nearest",
        "oldest",
        "append",
    )
    assert config.key_columns == slice(0, 64)
    assert config.key_size == 64


def test_key_columns():
    config = ModelConfig(6, 2, 2, 3, key=[np.int64(2), 5])
    assert config.key == (2, 5)
    assert config.key_columns == slice(2, 5)
    assert config.key_size == 3


def test_config_is_frozen_and_hashable(make_config):
    config = make_config()
    with pytest.raises(FrozenInstanceError):
        config.kernel = "l1"
    assert hash(config) == hash(make_config())
    assert config != make_config(kernel="l1")


def test_whole_numbers_of_numpy_become_plain():
    config = ModelConfig(*np.array([5, 3, 2, 0]))
    assert [type(size) for size in (config.input_size, config.memory_capacity)] == [int, int]
    assert config.memory_capacity == 0


@pytest.mark.parametrize("key", [None, (1, 4)])
def test_config_through_json_and_back(make_config, key):
    config = make_config(key=key, kernel="cosine", retrieval="average", sharpness=3.5, ties="newest")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_settings_are_refused(make_config):
    with pytest.raises(ValueError, match=r"unknown settings \['kernal'\]; known are .*'kernel'"):
        ModelConfig.from_dict({**make_config().to_dict(), "kernal": "l2"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: 0}, f"{name} must be a whole number ≥ 1; got 0")
            for name in ("input_size", "hidden_size", "n_actions")
        ),
        ({"memory_capacity": -1}, "memory_capacity must be a whole number ≥ 0; got -1"),
        ({"hidden_size": 3.0}, "hidden_size .* got 3.0"),
        ({"n_actions": True}, "n_actions .* got True"),
        ({"input_size": "5"}, "input_size .* got '5'"),
        ({"kernel": "L2"}, "kernel must be one of 'l2', 'l1', 'cosine'; got 'L2'"),
        ({"retrieval": "mean"}, "retrieval must be one of 'nearest', 'average'; got 'mean'"),
        ({"ties": "first"}, "ties must be one of 'oldest', 'newest'; got 'first'"),
        ({"repeated_key": "replace"}, "repeated_key must be one of 'append', 'overwrite'; got 'replace'"),
        *(
            ({"sharpness": bad}, f"sharpness must be a finite number > 0; got {bad}")
            for bad in (0, -1.0, np.inf, np.nan)
        ),
        ({"key": 3}, r"key must be None or a \(start, stop\) pair of input columns; got 3"),
        ({"key": (1, 2, 3)}, r"key must be None or .* got \(1, 2, 3\)"),
        ({"key": (1, None)}, r"key must be None or .* got \(1, None\)"),
        ({"key": "context"}, "key must be None or .* got 'context'"),
        ({"key": (2, 2)}, "key columns 2:2 do not lie within the 5 input columns"),
        ({"key": (3, 1)}, "key columns 3:1"),
        ({"key": (-1, 2)}, "key columns -1:2"),
        ({"key": (0, 6)}, "key columns 0:6 .* 0 ≤ start < stop ≤ 5"),
    ],
)
def test_bad_settings(make_config, changes, message):
    with pytest.raises(ValueError, match=f"ModelConfig: {message}"):
        make_config(**changes)


# ---- weights -----------------------------------------------------------------------------------------


def test_gate_order_and_shapes(make_config):
    assert GATE_ORDER == ("forget", "input", "output", "reinstatement", "candidate")
    assert weight_shapes(make_config()) == {
        "input_weight": (15, 5),
        "input_bias": (15,),
        "hidden_weight": (15, 3),
        "hidden_bias": (15,),
        "actor_weight": (4, 3),
        "actor_bias": (4,),
        "critic_weight": (1, 3),
        "critic_bias": (1,),
    }


def test_initial_weights_are_orthogonal_with_zero_biases():
    config = ModelConfig(64, 8, 3, 5)  # input_weight is wider than high, hidden_weight higher than wide
    for name, array in initial_weights(config, seed=1).items():
        assert array.shape == weight_shapes(config)[name]
        if name.endswith("bias"):
            assert not array.any()
        else:
            gram = array @ array.T if array.shape[0] <= array.shape[1] else array.T @ array
            np.testing.assert_allclose(gram, np.eye(len(gram)), atol=ORTHOGONAL_ATOL)


def test_initial_weights_are_the_same_in_either_precision(make_config):
    for array in initial_weights(make_config(), seed=1).values():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, array.astype(np.float32))


def test_orthogonal_start_prefers_no_direction():
    """Without the correction of signs a QR decomposition gives first entries of one sign."""
    config = ModelConfig(1, 1, 1, 1)
    signs = [np.sign(initial_weights(config, seed)["critic_weight"].item()) for seed in range(400)]
    assert abs(np.mean(signs)) < 4 / np.sqrt(400)


def test_seed_decides_the_initial_weights(make_config):
    one, two, other = (initial_weights(make_config(), seed) for seed in (1, 1, 2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert not np.array_equal(one["input_weight"], other["input_weight"])
    fresh = [initial_weights(make_config())["input_weight"] for _ in range(2)]
    assert not np.array_equal(*fresh)


def test_check_weights_copies(make_config):
    weights = {name: np.ones(shape, np.float32) for name, shape in weight_shapes(make_config()).items()}
    checked = check_weights(make_config(), weights)
    assert all(array.dtype == np.float64 for array in checked.values())
    checked["actor_bias"][:] = 5
    assert (weights["actor_bias"] == 1).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("actor_bias"), r"missing \['actor_bias'\], unknown none"),
        (lambda w: w.update(gate_bias=np.zeros(3)), r"missing none, unknown \['gate_bias'\]"),
        (
            lambda w: w.update(input_weight=np.zeros((5, 15))),
            r"input_weight must have the shape \(15, 5\).*got \(5, 15\)",
        ),
        (lambda w: w.update(critic_weight=np.zeros(3)), r"critic_weight must have the shape \(1, 3\).*got \(3,\)"),
        (lambda w: w.update(hidden_bias=np.full(15, np.nan)), "hidden_bias holds 15 values not finite"),
    ],
)
def test_bad_weights(make_config, spoil, message):
    weights = initial_weights(make_config(), 0)
    spoil(weights)
    with pytest.raises(ValueError, match=f"Weights: {message}"):
        check_weights(make_config(), weights)


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (np.zeros((2, 4)), np.zeros((2, 3)), r"keys must be \(n, 5\) and values \(n, 3\); got \(2, 4\)"),
        (np.zeros((2, 5)), np.zeros((2, 4)), r"got \(2, 5\) and \(2, 4\)"),
        (np.zeros((2, 5)), np.zeros((3, 3)), r"got \(2, 5\) and \(3, 3\)"),
        (np.zeros((7, 5)), np.zeros((7, 3)), "7 entries do not fit a capacity of 6"),
        (np.full((1, 5), np.nan), np.zeros((1, 3)), "must be finite"),
        (np.zeros((1, 5)), np.full((1, 3), np.inf), "must be finite"),
    ],
)
def test_bad_memory(make_config, keys, values, message):
    with pytest.raises(ValueError, match=f"Memory: .*{message}"):
        check_memory(make_config(), keys, values)


# ---- plans -------------------------------------------------------------------------------------------


def test_plan_draws_the_same_whether_forced_or_not(make_config, make_trials):
    config, trials = make_config(), make_trials(n=3)
    free = plan_trials(config, trials, seed=4)
    states = np.ones((3, 3)), -np.ones((3, 3))
    forced = plan_trials(config, trials, actions=np.zeros((3, 6)), initial_states=states, seed=4)
    np.testing.assert_array_equal(free.luck, forced.luck)
    np.testing.assert_array_equal(forced.h0, states[0])
    np.testing.assert_array_equal(forced.c0, states[1])
    assert forced.actions.dtype == np.int64
    assert free.actions is None
    assert not np.array_equal(free.luck, plan_trials(config, trials, seed=5).luck)
    assert not np.array_equal(*(plan_trials(config, trials).luck for _ in range(2)))


def test_initial_states_are_small_and_independent(make_config, make_trials):
    plan = plan_trials(make_config(hidden_size=50), make_trials(n=200, steps=1), seed=0)
    assert INITIAL_STATE_SCALE == 0.1
    for state in (plan.h0, plan.c0):
        assert state.std() == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * state.size))
        assert state.mean() == pytest.approx(0, abs=4 * 0.1 / np.sqrt(state.size))
    correlation = np.corrcoef(plan.h0.ravel(), plan.c0.ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(plan.h0.size)


def test_plan_needs_trials(make_config):
    with pytest.raises(TypeError, match=r"eplstm.tasks.Trials; got ndarray"):
        plan_trials(make_config(), np.zeros((2, 3, 5)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actions": np.zeros((3, 5))}, r"actions must have the shape \(n, T\) = \(3, 6\); got \(3, 5\)"),
        ({"actions": np.full((3, 6), 4)}, "actions must be whole numbers from 0 to 3; got values from 4 to 4"),
        ({"actions": np.full((3, 6), -1)}, "got values from -1 to -1"),
        ({"actions": np.full((3, 6), 0.5)}, "got values from 0.5 to 0.5"),
        (
            {"initial_states": (np.zeros((3, 4)), np.zeros((3, 3)))},
            r"h0 must have the shape \(n, H\) = \(3, 3\); got \(3, 4\)",
        ),
        ({"initial_states": (np.zeros((3, 3)), np.zeros(3))}, r"c0 must have the shape .*got \(3,\)"),
        ({"initial_states": (np.zeros((3, 3)), np.full((3, 3), np.nan))}, "c0 must be finite"),
    ],
)
def test_bad_plans(make_config, make_trials, settings, message):
    with pytest.raises(ValueError, match=message):
        plan_trials(make_config(), make_trials(n=3), **settings)


def test_trials_that_do_not_fit_the_model(make_config, make_trials):
    with pytest.raises(ValueError, match=r"trials have 5 input columns, the model takes 7.*input_size=5"):
        plan_trials(make_config(input_size=7), make_trials())
    with pytest.raises(ValueError, match=r"targets up to 3, the model has 3 actions \(0 to 2\)"):
        plan_trials(make_config(n_actions=3), make_trials(targets=np.full((4, 6), 3)))


# ---- choices and records -----------------------------------------------------------------------------


def test_choices_follow_the_policy():
    policy = np.array([0.1, 0.0, 0.6, 0.3])
    n = 40_000
    actions = draw(np.tile(policy, (n, 1)), np.random.default_rng(3).random(n))
    frequency = np.bincount(actions, minlength=4) / n
    assert frequency[1] == 0
    np.testing.assert_allclose(frequency, policy, atol=4 * 0.5 / np.sqrt(n))


@pytest.mark.parametrize(
    ("policy", "luck", "action"),
    [
        ([0.25, 0.75], 0.0, 0),
        ([0.25, 0.75], np.nextafter(0.25, 0), 0),
        ([0.25, 0.75], 0.25, 1),  # [0, .25) is the first action's
        ([0.25, 0.75], np.nextafter(1, 0), 1),
        ([0.3, 0.6999], 0.99995, 1),  # rounding may leave a sum below 1: no action beyond the last
        ([0.0, 1.0], 0.0, 1),
        ([1.0, 0.0], np.nextafter(1, 0), 0),
        ([1.0], 0.0, 0),
        ([1.0], np.nextafter(1, 0), 0),
    ],
)
def test_choices_at_the_edges(policy, luck, action):
    assert draw(np.array(policy), np.array(luck)) == action


def test_choices_of_any_shape(rng):
    policy = rng.dirichlet(np.ones(3), (2, 5))
    luck = rng.random((2, 5))
    actions = draw(policy, luck)
    assert actions.shape == (2, 5)
    for where in np.ndindex(2, 5):
        assert actions[where] == draw(policy[where], luck[where])


def record(n, **changes):
    shapes = {"policy": (6, 4), "value": (6,), "action": (6,), "reward": (6,), "gates": (6, 4, 3)}
    shapes |= {name: (6, 3) for name in ("hidden", "cell", "memory")}
    rng = np.random.default_rng(n)
    return TrialRecord(**{name: rng.random((n, *shape)) for name, shape in shapes.items()}, **changes)


def test_records_joined():
    gradients = [{"actor_bias": np.full((n, 4), n)} for n in (1, 2)]
    one = record(1, policy_loss=np.zeros(1), gradients=gradients[0])
    two = record(2, policy_loss=np.ones(2), gradients=gradients[1])
    both = TrialRecord.concatenate([one, two])
    assert len(both) == 3
    for f in fields(TrialRecord)[:8]:
        np.testing.assert_array_equal(getattr(both, f.name), [*getattr(one, f.name), *getattr(two, f.name)])
    np.testing.assert_array_equal(both.policy_loss, [0, 1, 1])
    np.testing.assert_array_equal(both.gradients["actor_bias"][:, 0], [1, 2, 2])
    assert both.value_loss is None
    assert TrialRecord.concatenate([one, replace(two, gradients=None)]).gradients is None
