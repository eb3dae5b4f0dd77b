"""What must hold when training goes wrong or is stopped: it ends before the update, and all is as it was then.

Trial 2 of ``TRIALS`` is marked: losses here go wrong where they meet a marked trial.
"""

import numpy as np
import psyneulink as pnl
import pytest
from eplstm.models import Cohort, ModelConfig, RecurrentComposition, train, train_episodes
from eplstm.tasks import BarcodeBandit
from faults import (
    ATOL,
    CONFIG,
    MARKED,
    RATE,
    TRIALS,
    A,
    H,
    N,
    given,
    interrupted,
    make,
    make_trials,
    not_finite,
    same,
    sound,
    state,
    steep,
)

STOPS = (ArithmeticError, RuntimeError, ValueError)
"""What training that cannot go on may raise."""
TASK = BarcodeBandit(arms=A, contexts=2, exposures=2, pulls=2, barcode_bits=4)
BANDIT = ModelConfig(TASK.input_size, H, A, memory_capacity=8)


# ---- not finite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "cause"), [(not_finite, "loss"), (steep, "gradient")])
@pytest.mark.parametrize("kind", ["reference", "fast", "general"])
def test_training_stops_before_an_update_that_is_not_finite(kind, loss, cause):
    """It names trial and cause; weights, optimiser and memory are those after the last good update."""
    model = make(kind)
    train(model, TRIALS[:MARKED], learning_rate=RATE, loss=sound, **given(MARKED))
    good = state(model)
    model = make(kind)
    with pytest.raises(STOPS, match=rf"(?is)(trial\D*{MARKED}.*{cause}|{cause}.*trial\D*{MARKED})"):
        train(model, TRIALS, learning_rate=RATE, loss=loss, **given())
    same(state(model), good)


@pytest.mark.parametrize("kind", ["reference", "fast"])
def test_a_step_without_end_is_refused(kind):
    """With such a learning rate, weights would not be finite after one update."""
    model = make(kind)
    before = state(model)
    with pytest.raises(ValueError, match=r"learning_rate must be a number from 0 to 1e\+06; got 1e\+308"):
        train(model, TRIALS, learning_rate=1e308, **given())
    same(state(model), before)


@pytest.mark.parametrize("kind", ["reference", "fast", "general"])
def test_training_that_cannot_go_on_names_the_environment(kind):
    """One of several whose losses make one update."""
    both = [make_trials(seed=3), TRIALS]
    forced = {name: [value, value] for name, value in given().items()}
    model = make(kind)
    few = {name: [value, value] for name, value in given(MARKED).items()}
    train(model, [trials[:MARKED] for trials in both], learning_rate=RATE, loss=sound, **few)
    good = state(model)
    model = make(kind)
    with pytest.raises(STOPS, match=rf"(?is)(?=.*trial\D*{MARKED})(?=.*environment\D*1)"):
        train(model, both, learning_rate=RATE, loss=not_finite, **forced)
    same(state(model), good)


@pytest.mark.parametrize("kind", ["reference", "fast", "general"])
def test_training_in_worlds_stops_before_an_update_that_is_not_finite(kind):
    """In the loop as with given trials: it names the episode and the world, by its environment."""

    def trained(model, episodes, loss):
        worlds = TASK.worlds([np.random.default_rng(e) for e in range(2)])
        worlds.begin_epoch()
        actions = np.tile([0, 1], (2 * episodes, 1))
        actions[2 * 1 + 1 :][:1] = 1  # a loss's targets are the actions taken: marked is world 1 in episode 1
        train_episodes(model, worlds, episodes, learning_rate=RATE, loss=loss, actions=actions, seed=4)

    model = make(kind, BANDIT)
    with pytest.raises(STOPS, match=r"(?is)(?=.*(episode|trial)\D*1)(?=.*(environment|world)\D*1)"):
        trained(model, 3, not_finite)
    assert all(np.isfinite(array).all() for array in state(model).values())
    assert model.optimizer_state()["step.actor_bias"][0] == 1


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (not_finite, STOPS, rf"(?is)(?=.*agent\D*1)(?=.*trial\D*{MARKED})"),
        (interrupted, KeyboardInterrupt, None),
    ],
    ids=["not finite", "interrupted"],
)
def test_a_cohort_that_cannot_go_on_is_as_after_the_last_update(loss, error, message):
    """Of all its agents, though the trial of one alone went wrong; the error names that one."""
    each = [make_trials(seed=5), TRIALS, make_trials(seed=6)]
    stopped, good = Cohort(CONFIG, seeds=range(3)), Cohort(CONFIG, seeds=range(3))
    rest = {name: [value] * 3 for name, value in given(MARKED).items()}
    good.train([trials[:MARKED] for trials in each], learning_rate=RATE, loss=sound, **rest)
    rest = {name: [value] * 3 for name, value in given().items()}
    with pytest.raises(error, match=message):
        stopped.train(each, learning_rate=RATE, loss=loss, **rest)
    for agent in range(3):
        same(state(stopped.agent(agent, "reference")), state(good.agent(agent, "reference")))


def test_any_recurrent_composition_stops_before_an_update_that_is_not_finite():
    """A loss of sequence 1 that is not finite leaves the matrix of the first update."""

    def trained(n, factor):
        x, y = (pnl.ProcessingMechanism(name=name, default_variable=np.zeros(2)) for name in "xy")
        projection = pnl.MappingProjection(sender=x, receiver=y, matrix=np.eye(2))
        small = RecurrentComposition([x, projection, y], name="small", optimizer_type="adam")

        def loss(which, values):
            return values[y].square().sum() * factor[which.start]

        inputs = {x: np.ones((n, 2, 2))}
        if n == 1:
            small.learn(inputs, loss, learning_rate=RATE)
        else:
            with pytest.raises(STOPS, match=r"(?is)(?=.*(sequence|trial)\D*1)(?=.*loss)"):
                small.learn(inputs, loss, learning_rate=RATE)
        return projection.parameters.matrix.get(small)

    stopped = trained(3, [1.0, float("nan"), 1.0])
    np.testing.assert_allclose(stopped, trained(1, [1.0]), rtol=0, atol=ATOL)


# ---- interrupted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["train", "learn"])
@pytest.mark.parametrize("kind", ["fast", "general"])
def test_after_an_interrupt_the_record_holds_what_was_done(kind, call):
    """In this call, not in the one before."""
    model, calls = make(kind), iter(range(N))
    expected = train(model, TRIALS, learning_rate=RATE, **given())
    model = make(kind)
    train(model, TRIALS[:1], learning_rate=0.0, seed=1)
    model.clear_memory()
    model.set_optimizer_state({})

    def stop(*_):
        if next(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        if call == "train":
            train(model, TRIALS, learning_rate=RATE, after_trial=stop, **given())
        else:
            model.learn(TRIALS, learning_rate=RATE, call_after_minibatch=stop, **given())
    assert len(model.record.policy) == 3
    for name in ("policy", "value", "action", "cell", "memory", "policy_loss", "value_loss"):
        np.testing.assert_allclose(getattr(model.record, name), getattr(expected, name)[:3], rtol=0, atol=ATOL)


@pytest.mark.parametrize("kind", ["reference", "fast", "general"])
def test_an_interrupt_within_a_trial_leaves_the_state_after_the_last_update(kind):
    """Its entries are not stored without its update."""
    model = make(kind)
    train(model, TRIALS[:MARKED], learning_rate=RATE, loss=sound, **given(MARKED))
    good = state(model)
    model = make(kind)
    with pytest.raises(KeyboardInterrupt):
        train(model, TRIALS, learning_rate=RATE, loss=interrupted, **given())
    same(state(model), good)


def test_after_an_interrupt_in_worlds_the_record_holds_what_was_done():
    """Two episodes of each of two worlds."""
    model = make("fast", BANDIT)
    worlds = TASK.worlds([np.random.default_rng(e) for e in range(2)])
    worlds.begin_epoch()

    def stop(done):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_episodes(model, worlds, 4, learning_rate=RATE, after_episode=stop, seed=4)
    assert model.record is not None
    assert len(model.record.policy) == len(model.record.trials) == 4
