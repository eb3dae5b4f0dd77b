"""What must hold when training goes wrong, is stopped, or is copied; and what calls of training leave to the next.

Trial 2 of ``TRIALS`` is marked: losses here go wrong where they meet a marked trial, however often and in whatever
order they are called.
"""

import copy
import pickle
import warnings

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine
from eplstm.models import (
    Cohort,
    EpisodicLSTMComposition,
    GeneralPathWarning,
    LogWarning,
    ModelConfig,
    RecurrentComposition,
    ReferenceEpisodicLSTM,
    train,
    train_episodes,
)
from eplstm.tasks import BarcodeBandit, Trials

ATOL = 1e-10
"""float64 on both sides."""
N, T, D, H, A = 5, 3, 4, 3, 2
CONFIG = ModelConfig(D, H, A, memory_capacity=20)
MARKED, RATE = 2, 0.01
STOPS = (ArithmeticError, RuntimeError, ValueError)
"""What training that cannot go on may raise."""


def make_trials(marked=(), seed=1):
    rng = np.random.default_rng(seed)
    targets = np.zeros((N, T), int)
    targets[list(marked)] = 1
    return Trials(inputs=rng.standard_normal((N, T, D)), targets=targets, encode=rng.random((N, T)) < 0.7)


TRIALS = make_trials([MARKED])
TASK = BarcodeBandit(arms=A, contexts=2, exposures=2, pulls=2, barcode_bits=4)
BANDIT = ModelConfig(TASK.input_size, H, A, memory_capacity=8)


def given(n=N):
    """Choices and initial states of the first n trials."""
    rng = np.random.default_rng(2)
    actions, states = rng.integers(0, A, (N, T)), rng.standard_normal((2, N, H))
    return {"actions": actions[:n], "initial_states": tuple(states[:, :n])}


def make(kind, config=CONFIG):
    if kind == "reference":
        return ReferenceEpisodicLSTM(config, 0).double()
    return pristine(config, fast=kind == "fast")


def state(model):
    """All that training changes: weights, optimiser's state, memories."""
    found = {**model.weights(), **model.optimizer_state()}
    for e in range(model.environments):
        found[f"keys {e}"], found[f"values {e}"] = model.memory(environment=e)
    return found


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.shape(a[name]) == np.shape(b[name]), (name, np.shape(a[name]), np.shape(b[name]))
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=ATOL, err_msg=name)


def sound(trials):
    """A loss with a gradient at each weight."""
    return trials.value.square().sum() - torch.log(trials.policy[..., 0]).sum()


def marked(trials):
    return bool((trials.target == 1).all())


def not_finite(trials):
    return sound(trials) * (float("nan") if marked(trials) else 1.0)


def steep(trials):
    """Finite everywhere; its gradient is not at a marked trial (that of a root at 0)."""
    past = trials.value - trials.value.detach()
    return sound(trials) + (past.square().sum().sqrt() if marked(trials) else 0.0)


def interrupted(trials):
    if marked(trials):
        raise KeyboardInterrupt
    return sound(trials)


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


@pytest.mark.parametrize("kind", ["reference", "fast", "general"])
def test_training_stops_before_weights_are_not_finite(kind):
    """A step of such a length has no end: the weights from before it stay."""
    model = make(kind)
    before = state(model)
    with pytest.raises(STOPS, match=r"(?i)trial\D*0"):
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


def test_a_cohort_that_cannot_go_on_names_the_agent():
    """All its agents are as they were after the last update that was good for all."""

    def trained(loss, n):
        cohort = Cohort(CONFIG, seeds=range(3))
        each = [make_trials(seed=5), TRIALS, make_trials(seed=6)]
        forced = {name: [value] * 3 for name, value in given(n).items()}
        if loss is sound:
            cohort.train([trials[:n] for trials in each], learning_rate=RATE, loss=loss, **forced)
            return cohort
        with pytest.raises(STOPS, match=rf"(?is)(?=.*agent\D*1)(?=.*trial\D*{MARKED})"):
            cohort.train(each, learning_rate=RATE, loss=loss, **forced)
        return cohort

    stopped, good = trained(not_finite, N), trained(sound, MARKED)
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


# ---- copied --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_copy_is_whole_or_refused(copied):
    """A copy acts the same and learns by itself; or the error names the way that works."""
    model = make("fast")
    train(model, TRIALS, learning_rate=RATE, seed=1)
    before, expected = state(model), model.simulate(TRIALS, seed=2).policy
    model.set_memory(before["keys 0"], before["values 0"])
    try:
        twin = copied(model)
    except TypeError as error:
        assert "save_model" in str(error) and "load_model" in str(error)
        return
    np.testing.assert_allclose(twin.simulate(TRIALS, seed=2).policy, expected, rtol=0, atol=ATOL)
    train(twin, TRIALS, learning_rate=RATE, seed=1)
    same(state(model), before)


# ---- contexts ------------------------------------------------------------------------------------------------


def trained_state():
    """Weights and optimiser's state of a trained agent."""
    model = make("reference")
    train(model, TRIALS, learning_rate=RATE, seed=1)
    return model.weights(), model.optimizer_state()


def test_an_optimizers_state_stays_in_the_context_that_it_was_given_to():
    """Training in a context of its own neither takes it away nor starts from it."""
    weights, before = trained_state()
    model, plain = EpisodicLSTMComposition(CONFIG), make("reference")
    for each in (model, plain):
        each.set_weights(weights)
    model.set_optimizer_state(before)
    model.learn(TRIALS, learning_rate=RATE, context="another", seed=2)
    same(model.optimizer_state(), before)
    train(plain, TRIALS, learning_rate=RATE, seed=2)
    same(model.weights(context="another"), plain.weights())


def test_an_optimizers_state_is_not_shared_with_the_next_new_context():
    """Also of an agent that has been trained before it is given the state."""
    weights, before = trained_state()
    model, plain = EpisodicLSTMComposition(CONFIG), make("reference")
    train(model, TRIALS, learning_rate=RATE, seed=3)
    for each in (model, plain):
        each.set_weights(weights)
    model.set_optimizer_state(before)
    model.learn(TRIALS, learning_rate=RATE, context="another", seed=2)
    same(model.optimizer_state(), before)
    train(plain, TRIALS, learning_rate=RATE, seed=2)
    same(model.weights(context="another"), plain.weights())


@pytest.mark.parametrize("form", ["dict", "projection"])
def test_weights_that_are_set_in_a_context_are_those_of_that_context_alone(form):
    """Later contexts begin from what the agent has."""
    model = EpisodicLSTMComposition(CONFIG)
    own = model.weights()
    other = ReferenceEpisodicLSTM(CONFIG, 9).weights()
    if form == "dict":
        model.set_weights(other, context="one")
    else:
        (projection,) = [p for p in model.hidden.efferents if p.receiver.owner is model.actor]
        other = {**own, "actor_weight": other["actor_weight"]}
        model.set_weights(projection, other["actor_weight"].T, context="one")
    model.simulate(TRIALS, seed=1, context="two")
    same(model.weights(context="one"), other)
    same(model.weights(), own)
    same(model.weights(context="two"), own)


# ---- what learn() passes on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["call_after_minibatch", "loss"])
@pytest.mark.parametrize("kind", ["fast", "general"])
def test_a_users_own_warnings_are_shown(kind, where):
    """Only PsyNeuLink's are left out."""
    model = make(kind)

    def warn(*_):
        warnings.warn("of the user's own", UserWarning, stacklevel=1)

    def loss(trials):
        warn()
        return sound(trials)

    given_to = {"loss": loss} if where == "loss" else {"call_after_minibatch": warn}
    with pytest.warns(UserWarning, match="of the user's own"):
        model.learn(TRIALS, learning_rate=RATE, seed=1, **given_to)


@pytest.mark.parametrize("kind", ["fast", "general"])
def test_a_learning_rate_that_a_call_back_changes_counts(kind):
    """In PsyNeuLink's optimizer: with a rate of 0 after two updates, the weights stay there."""
    model = make(kind)
    train(model, TRIALS[:2], learning_rate=RATE, **given(2))
    expected, calls = model.weights(), iter(range(N))
    model = make(kind)

    def freeze():
        if next(calls) == 1:
            for group in model.parameters.pytorch_representation.get(model).optimizer.param_groups:
                group["lr"] = 0.0

    model.learn(TRIALS, learning_rate=RATE, call_after_minibatch=freeze, **given())
    same(model.weights(), expected)


@pytest.fixture(scope="module")
def changed():
    """A composition whose graph the tests of warnings change."""
    return EpisodicLSTMComposition(CONFIG)


CALLS = {
    "learn": lambda model: model.learn(TRIALS, learning_rate=0.0, seed=1),
    "train": lambda model: train(model, TRIALS, learning_rate=0.0, seed=1),
    "simulate": lambda model: model.simulate(TRIALS, seed=1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_warning_of_the_general_path_points_at_the_users_line(name, changed):
    """The file and line of the call, whichever it was."""
    changed.gates["forget"].function.gain.base = 1.0
    CALLS[name](changed)  # a path that is taken again is not noted again
    changed.gates["forget"].function.gain.base = 3.0
    with pytest.warns(GeneralPathWarning) as seen:
        CALLS[name](changed)
    (found,) = [each for each in seen if each.category is GeneralPathWarning]
    assert (found.filename, found.lineno) == (__file__, CALLS[name].__code__.co_firstlineno)


@pytest.mark.parametrize("name", ["learn", "train"])
def test_the_warning_of_logs_points_at_the_users_line(name, changed):
    """That of a condition under which learning can enter nothing."""
    changed.cell.set_log_conditions("variable", pnl.LogCondition.EXECUTION)
    try:
        with pytest.warns(LogWarning) as seen:
            CALLS[name](changed)
    finally:
        changed.cell.set_log_conditions("variable", pnl.LogCondition.OFF)
    (found,) = [each for each in seen if each.category is LogWarning]
    assert (found.filename, found.lineno) == (__file__, CALLS[name].__code__.co_firstlineno)


def test_the_warning_of_the_general_path_says_how_much_slower_it_is():
    """Measured: 24 times, for a trial of the benchmark's size."""
    assert "ten times" not in str(GeneralPathWarning("agent", "a reason"))
