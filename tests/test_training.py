"""Training the reference: Adam written out by hand, what goes on from call to call, and what may be passed in."""

import numpy as np
import pytest
import torch
from eplstm.models import ReferenceEpisodicLSTM, train
from eplstm.models.optimizers import CAN_FUSE, Steps
from eplstm.tasks import Trials

ATOL = 1e-10
"""float64 on both sides of a few dozen operations; they agree to 1e-15."""
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba (2015), the defaults of torch


@pytest.fixture
def model(make_config):
    return ReferenceEpisodicLSTM(make_config(), seed=1).double()


def adam(weight, gradients, learning_rate, mean=0.0, square=0.0, step=0):
    """The weight after each gradient, as Kingma and Ba's Algorithm 1 has it."""
    weights = []
    for gradient in gradients:
        step += 1
        mean = BETA_1 * mean + (1 - BETA_1) * gradient
        square = BETA_2 * square + (1 - BETA_2) * gradient**2
        corrected = mean / (1 - BETA_1**step), square / (1 - BETA_2**step)
        weight = weight - learning_rate * corrected[0] / (np.sqrt(corrected[1]) + EPSILON)
        weights.append(weight)
    return weights


def same_weights(one, two, atol=0.0):
    for name, array in one.weights().items():
        np.testing.assert_allclose(array, two.weights()[name], rtol=0, atol=atol, err_msg=name)


# ---- updates -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not CAN_FUSE, reason="PyTorch before 2.4")
def test_steps_without_bookkeeping_are_those_of_adam(rng):
    """Weights and state, with groups of their own rates, gradients that come and go, and steps in between."""
    sizes = [(3, 2), (1, 4), (5,), (2, 2)]
    start, gradients = ([rng.standard_normal(size) for size in sizes] for _ in range(2))
    made = []
    for _ in range(2):
        p = [torch.tensor(array, requires_grad=True) for array in start]
        groups = [{"params": p[:2], "lr": 0.01}, {"params": p[2:], "lr": 0.1, "betas": (0.5, 0.9)}]
        made.append((p, torch.optim.Adam(groups, fused=True)))
    steps = Steps(made[0][1])
    for n, missing in enumerate([{3}, {3}, {3}, set(), {3}, {0, 3}, {3}]):
        for parameters, optimizer in made:
            for k, parameter in enumerate(parameters):
                parameter.grad = None if k in missing else torch.from_numpy((n + 1) * gradients[k])
            steps.step() if optimizer is made[0][1] else optimizer.step()
        (ours, adam_1), (theirs, adam_2) = made
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
            assert adam_1.state[a].keys() == adam_2.state[b].keys()
            assert all(torch.equal(adam_1.state[a][name], adam_2.state[b][name]) for name in adam_1.state[a])


def test_each_trial_is_one_step_of_adam(model, make_trials):
    before, after = model.weights(), []
    trials = make_trials()
    record = train(
        model,
        trials,
        learning_rate=0.01,
        gamma=0.9,
        seed=2,
        record_gradients=True,
        after_trial=lambda n: after.append(model.weights()),
    )
    assert len(after) == len(trials)
    for name, weight in before.items():
        expected = adam(weight, record.gradients[name], 0.01)
        np.testing.assert_allclose([weights[name] for weights in after], expected, atol=ATOL, err_msg=name)
        assert not np.array_equal(weight, after[0][name])


def test_the_optimiser_goes_on_from_call_to_call(make_config, make_trials):
    trials, states = make_trials(), (np.zeros((4, 3)), np.zeros((4, 3)))
    whole, parts = (ReferenceEpisodicLSTM(make_config(), seed=1).double() for _ in range(2))
    train(whole, trials, actions=trials.targets, initial_states=states, learning_rate=0.01)
    for part in (slice(0, 1), slice(1, 4)):
        train(
            parts,
            trials[part],
            actions=trials.targets[part],
            initial_states=tuple(state[part] for state in states),
            learning_rate=0.01,
        )
    same_weights(whole, parts)


def test_the_learning_rate_is_that_of_the_call(model, make_trials):
    """The moments go on, the rate is new; a rate of 0 moves nothing, but still counts as a step."""
    trials, rates = make_trials(n=1), (0.01, 0.0, 0.002)
    weight, mean, square = model.weights()["hidden_weight"], 0.0, 0.0
    for step, rate in enumerate(rates):
        record = train(model, trials, learning_rate=rate, seed=1, record_gradients=True)
        gradient = record.gradients["hidden_weight"][0]
        (weight,) = adam(weight, [gradient], rate, mean, square, step)
        mean, square = BETA_1 * mean + (1 - BETA_1) * gradient, BETA_2 * square + (1 - BETA_2) * gradient**2
        np.testing.assert_allclose(model.weights()["hidden_weight"], weight, atol=ATOL)


def test_state_of_the_optimiser(model, make_trials):
    assert model.optimizer_state() == {}
    record = train(model, make_trials(), seed=1, record_gradients=True)
    state = model.optimizer_state()
    assert set(state) == {f"{part}.{name}" for part in ("step", "mean", "square") for name in model.weights()}
    for name, array in model.weights().items():
        mean = square = 0.0
        for gradient in record.gradients[name]:
            mean = BETA_1 * mean + (1 - BETA_1) * gradient
            square = BETA_2 * square + (1 - BETA_2) * gradient**2
        np.testing.assert_array_equal(state[f"step.{name}"], np.full(len(array), 4))
        np.testing.assert_allclose(state[f"mean.{name}"], mean, atol=ATOL)
        np.testing.assert_allclose(state[f"square.{name}"], square, atol=ATOL)


def test_state_of_the_optimiser_round_trip(model, make_config, make_trials):
    """Given weights, memory and optimiser's state, another model goes on exactly as the first."""
    train(model, make_trials(), seed=1, learning_rate=0.01)
    other = ReferenceEpisodicLSTM(make_config(), seed=9).double()
    train(other, make_trials(), seed=5)  # moments of its own, which must go
    other.set_weights(model.weights())
    other.set_memory(*model.memory())
    other.set_optimizer_state(model.optimizer_state())
    for name, array in model.optimizer_state().items():
        np.testing.assert_array_equal(other.optimizer_state()[name], array)
    more = make_trials()
    for each in (model, other):
        train(each, more, seed=3, learning_rate=0.01)
    same_weights(model, other)


def test_an_empty_state_is_a_fresh_optimiser(model, make_config, make_trials):
    trials = make_trials()
    fresh = ReferenceEpisodicLSTM(make_config(), seed=1).double()
    train(model, trials, seed=1)
    model.set_optimizer_state({})
    model.set_weights(fresh.weights())
    model.clear_memory()
    assert model.optimizer_state() == {}
    for each in (model, fresh):
        train(each, trials, seed=1)
    same_weights(model, fresh)


# ---- losses ------------------------------------------------------------------------------------------


def test_the_value_weight_scales_the_critic_alone(make_config, make_trials):
    trials, gradients = make_trials(n=1), []
    for weight in (0.0, 1.0, 3.0):
        model = ReferenceEpisodicLSTM(make_config(), seed=1).double()
        record = train(model, trials, value_weight=weight, seed=1, record_gradients=True)
        gradients.append({name: array[0] for name, array in record.gradients.items()})
        assert record.value_loss[0] > 0  # recorded without its weight
    none, one, three = gradients
    assert not none["critic_weight"].any()
    np.testing.assert_allclose(three["critic_weight"], 3 * one["critic_weight"], atol=ATOL)
    np.testing.assert_array_equal(three["actor_weight"], one["actor_weight"])
    for name in none:
        np.testing.assert_allclose(three[name] - none[name], 3 * (one[name] - none[name]), atol=ATOL)


def test_stretches_are_as_trials_of_their_own(make_config, make_trials):
    """Undiscounted by the next stretch (γ = 0): gradients are the sum of those of stretches run alone, each from
    the state in which the one before left off."""
    off = np.zeros((1, 6), bool)
    trials = make_trials(n=1, encode=off, retrieve=off)

    def part(start):
        return Trials(trials.inputs[:, start : start + 2], trials.targets[:, start : start + 2], *[off[:, :2]] * 2)

    def gradients(some, actions=None, states=None, **settings):
        model = ReferenceEpisodicLSTM(make_config(), seed=1).double()
        return train(
            model, some, actions=actions, initial_states=states, seed=2, record_gradients=True, **settings
        )

    cut = gradients(trials, unroll_steps=2)
    first = gradients(trials, cut.action)  # whole: other gradients, the same steps
    np.testing.assert_array_equal(cut.hidden, first.hidden)
    assert np.abs(cut.gradients["hidden_weight"] - first.gradients["hidden_weight"]).max() > 1e-4
    parts = [gradients(part(0), cut.action[:, :2])]
    for start in (2, 4):
        states = cut.hidden[:, start - 1], cut.cell[:, start - 1]
        parts.append(gradients(part(start), cut.action[:, start : start + 2], states))
    for name, gradient in cut.gradients.items():
        np.testing.assert_allclose(gradient, sum(p.gradients[name] for p in parts), atol=ATOL, err_msg=name)


def test_cross_entropy(model, make_trials):
    """To the target, whatever was chosen; the critic gets no gradient and does not move."""
    trials = make_trials()
    before = model.weights()
    record = train(model, trials, loss="cross_entropy", learning_rate=0.01, seed=1, record_gradients=True)
    chosen = np.take_along_axis(record.policy, trials.targets[..., None], -1)
    np.testing.assert_allclose(record.policy_loss, -np.log(chosen).sum((1, 2)), atol=ATOL)
    assert not record.value_loss.any()
    for name in ("critic_weight", "critic_bias"):
        assert not record.gradients[name].any()
        np.testing.assert_array_equal(model.weights()[name], before[name])
    assert "step.critic_bias" not in model.optimizer_state()
    assert "step.actor_bias" in model.optimizer_state()


def test_own_loss(model, make_config, make_trials):
    """Cross-entropy written by a user, and what a loss is given."""
    seen = []

    def own(trial):
        seen.append(trial)
        return -torch.log(trial.policy).gather(-1, trial.target[..., None]).sum()

    trials = make_trials()
    other = ReferenceEpisodicLSTM(make_config(), seed=1).double()
    record = train(model, trials, loss=own, gamma=0.5, learning_rate=0.01, seed=1)
    expected = train(other, trials, loss="cross_entropy", learning_rate=0.01, seed=1)
    np.testing.assert_allclose(record.policy_loss, expected.policy_loss, atol=ATOL)
    assert not record.value_loss.any()
    same_weights(model, other, atol=ATOL)
    for n, trial in enumerate(seen):
        for name in ("policy", "value", "action", "reward", "hidden", "cell"):
            np.testing.assert_array_equal(getattr(trial, name)[0].detach(), getattr(record, name)[n])
        np.testing.assert_array_equal(trial.target[0], trials.targets[n])
        reward = record.reward[n]
        returns = [sum(0.5 ** (k - t) * reward[k] for k in range(t, 6)) for t in range(6)]
        np.testing.assert_allclose(trial.returns[0], returns, atol=ATOL)


def test_the_entropy_bonus_keeps_policies_even(make_config, make_trials):
    trials = make_trials(n=40)
    policies = []
    for weight in (0.0, 5.0):
        model = ReferenceEpisodicLSTM(make_config(), seed=1)
        policies.append(train(model, trials, learning_rate=0.02, entropy_weight=weight, seed=1).policy[-10:])
    entropies = [-(policy * np.log(policy)).sum(-1).mean() for policy in policies]
    assert entropies[0] < entropies[1]
    assert entropies[1] > 0.98 * np.log(4)


# ---- arguments ---------------------------------------------------------------------------------------


def test_seeds(make_config, make_trials):
    trials = make_trials()
    models = [ReferenceEpisodicLSTM(make_config(), seed=1).double() for _ in range(4)]
    records = [train(model, trials, seed=seed) for model, seed in zip(models, (1, 1, 2, None), strict=True)]
    same_weights(models[0], models[1])
    np.testing.assert_array_equal(records[0].action, records[1].action)
    for other in records[2:]:
        assert not np.array_equal(records[0].hidden, other.hidden)


def test_first_trial_of_training_is_as_in_a_run(model, make_trials):
    """Same seed, same draws, same weights: the states of the first trial agree; later ones have learned."""
    trials = make_trials()
    run = model.run_trials(trials, seed=1)
    model.clear_memory()
    trained = train(model, trials, learning_rate=0.1, seed=1)
    for name in ("policy", "value", "action", "cell", "memory", "gates"):
        np.testing.assert_array_equal(getattr(run, name)[0], getattr(trained, name)[0])
    assert not np.array_equal(run.policy[1], trained.policy[1])
    assert run.policy_loss is run.value_loss is run.gradients is trained.gradients is None


def test_forced_actions_and_initial_states(model, make_config, make_trials, rng):
    trials = make_trials()
    actions, states = rng.integers(0, 4, (4, 6)), tuple(rng.standard_normal((2, 4, 3)))
    other = ReferenceEpisodicLSTM(make_config(), seed=1).double()
    record = train(model, trials, actions=actions, initial_states=states, seed=1)
    np.testing.assert_array_equal(record.action, actions)
    train(other, trials, actions=actions, initial_states=states, seed=2)
    same_weights(model, other)
    # h0 has its effect through the hidden weights, c0 through the forget gate: c_t = f ∘ c_{t-1} + ...
    for changed in ((states[0] + 1, states[1]), (states[0], states[1] + 1)):
        other.set_weights(ReferenceEpisodicLSTM(make_config(), seed=1).weights())
        other.clear_memory()
        moved = other.run_trials(trials, actions, changed)
        assert not np.array_equal(moved.cell[0, 0], record.cell[0, 0])


def test_after_trial_is_called_after_each_update_and_may_stop(model, make_trials):
    calls = []

    def stop(n):
        calls.append((n, model.optimizer_state()["step.actor_bias"][0]))
        if n == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, make_trials(), seed=1, after_trial=stop)
    assert calls == [(0, 1), (1, 2)]


def test_memory_goes_on_over_calls(model, make_trials):
    trials = make_trials(n=2, steps=1, encode=np.ones((2, 1)))
    train(model, trials, seed=1)
    assert len(model.memory()[0]) == 2
    record = train(model, trials, seed=1, learning_rate=0.0)
    assert record.memory.any()
    np.testing.assert_array_equal(model.memory()[0], trials.inputs[[0, 1, 0, 1], 0])


def test_gradients_are_only_kept_if_asked_for(model, make_trials):
    assert train(model, make_trials(), seed=1).gradients is None
    record = train(model, make_trials(), seed=1, record_gradients=True)
    assert set(record.gradients) == set(model.weights())
    # copies of each trial's own: not one array that later trials write over
    assert not np.array_equal(record.gradients["hidden_weight"][0], record.gradients["hidden_weight"][1])


def test_no_trial_is_no_update(model, make_trials):
    before = model.weights()
    record = train(model, make_trials(n=0), seed=1, record_gradients=True)
    assert record.policy_loss.shape == (0,)
    for name, array in model.weights().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"learning_rate": bad}, rf"learning_rate must be a number from 0 to 1e\+06; got {bad}")
            for bad in (-1e-4, np.inf, np.nan)
        ),
        ({"gamma": 1.5}, "gamma must lie between 0 and 1; got 1.5"),
        ({"loss": "mse"}, "loss must be .* got 'mse'"),
        ({"entropy_weight": -1}, "entropy_weight must be a finite number ≥ 0; got -1"),
        ({"value_weight": np.nan}, "value_weight must be a finite number ≥ 0; got nan"),
        ({"actions": np.zeros((4, 5))}, r"actions must have the shape \(n, T\) = \(4, 6\); got \(4, 5\)"),
        ({"actions": np.full((4, 6), 4)}, "actions must be whole numbers from 0 to 3"),
        ({"initial_states": (np.zeros((4, 2)), np.zeros((4, 3)))}, "h0 must have the shape"),
    ],
)
def test_bad_arguments_change_nothing(settings, message, model, make_trials):
    before = model.weights()
    with pytest.raises(ValueError, match=message):
        train(model, make_trials(), **settings)
    for name, array in model.weights().items():
        np.testing.assert_array_equal(array, before[name])
    assert len(model.memory()[0]) == 0
    assert model.optimizer_state() == {}
