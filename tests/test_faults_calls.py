"""What a call leaves to the next ones and to other contexts, what it passes on to its user, and copies.

Where something cannot be done it may be refused, by an error that names the way that works.
"""

import copy
import pickle
import warnings

import numpy as np
import psyneulink as pnl
import pytest
from eplstm.models import (
    GeneralPathWarning,
    LogWarning,
    RecurrentComposition,
    ReferenceEpisodicLSTM,
    train,
)
from faults import ATOL, CONFIG, RATE, TRIALS, N, given, make, refused, same, sound, state

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


@pytest.mark.parametrize("trained", [False, True])
def test_an_optimizers_state_stays_in_the_context_that_it_was_given_to(trained):
    """Training in a new context neither takes it away nor starts from it; also of an agent that was trained
    before it is given the state."""
    weights, before = trained_state()
    model, plain, another = make("fast"), make("reference"), f"another, {trained}"
    if trained:
        train(model, TRIALS, learning_rate=RATE, seed=3)
    for each in (model, plain):
        each.set_weights(weights)
    model.set_optimizer_state(before)
    model.learn(TRIALS, learning_rate=RATE, context=another, seed=2)
    same(model.optimizer_state(), before)
    train(plain, TRIALS, learning_rate=RATE, seed=2)
    same(model.weights(context=another), plain.weights())


@pytest.mark.parametrize("form", ["dict", "projection"])
def test_weights_that_are_set_in_a_context_are_those_of_that_context_alone(form):
    """Later contexts begin from what the agent has."""
    model, one, two = make("fast"), f"one, {form}", f"two, {form}"
    own = model.weights()
    other = ReferenceEpisodicLSTM(CONFIG, 9).weights()
    if form == "dict":
        model.set_weights(other, context=one)
    else:
        (projection,) = [p for p in model.hidden.efferents if p.receiver.owner is model.actor]
        other = {**own, "actor_weight": other["actor_weight"]}
        model.set_weights(projection, other["actor_weight"].T, context=one)
    model.simulate(TRIALS, seed=1, context=two)
    same(model.weights(context=one), other)
    same(model.weights(), own)
    same(model.weights(context=two), own)


def test_a_memory_takes_a_composition_for_its_context_or_refuses_it():
    """PsyNeuLink's Parameters take one; the entries are then those of the composition, not of another context."""
    model, found = make("fast"), []
    train(model, TRIALS, learning_rate=RATE, seed=1)
    if not refused(lambda: found.extend(model.episodic_memory.function.entries(model)), "(?i)context"):
        for ours, own in zip(found, model.memory(), strict=True):
            np.testing.assert_array_equal(ours, own)


def test_a_memory_is_cleared_of_a_compositions_entries_or_refuses_it():
    """Not in silence that of another context."""
    model = make("fast")
    train(model, TRIALS, learning_rate=RATE, seed=1)
    if not refused(lambda: model.episodic_memory.function.clear(model), "(?i)context"):
        assert len(model.memory()[0]) == 0


def test_weights_are_loaded_from_a_path_that_is_a_string(tmp_path):
    """As ``save`` takes one."""
    model, path = make("fast"), str(tmp_path / "weights.pt")
    weights = model.weights()
    model.save(path)
    model.set_weights(ReferenceEpisodicLSTM(CONFIG, 9).weights())
    model.load(path)
    same(model.weights(), weights)


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


@pytest.fixture
def changed():
    """A composition whose graph the tests of warnings change, and which is given back as it was."""
    model = make("fast")
    yield model
    model.gates["forget"].function.parameters.gain.set(1.0, model)
    model.cell.set_log_conditions("variable", pnl.LogCondition.OFF)


CALLS = {
    "learn": lambda model: model.learn(TRIALS, learning_rate=0.0, seed=1),
    "train": lambda model: train(model, TRIALS, learning_rate=0.0, seed=1),
    "simulate": lambda model: model.simulate(TRIALS, seed=1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_warning_of_the_general_path_points_at_the_users_line(name, changed):
    """The file and line of the call, whichever it was."""
    CALLS[name](changed)
    changed.gates["forget"].function.parameters.gain.set(3.0, changed)
    with pytest.warns(GeneralPathWarning) as seen:
        CALLS[name](changed)
    (found,) = [each for each in seen if each.category is GeneralPathWarning]
    assert (found.filename, found.lineno) == (__file__, CALLS[name].__code__.co_firstlineno)


@pytest.mark.parametrize("name", ["learn", "train"])
def test_the_warning_of_logs_points_at_the_users_line(name, changed):
    """That of a condition under which learning can enter nothing."""
    changed.cell.set_log_conditions("variable", pnl.LogCondition.EXECUTION)
    with pytest.warns(LogWarning) as seen:
        CALLS[name](changed)
    (found,) = [each for each in seen if each.category is LogWarning]
    assert (found.filename, found.lineno) == (__file__, CALLS[name].__code__.co_firstlineno)


def test_the_warning_of_logs_points_at_the_users_line_whatever_composition_it_is_of():
    """Here one of two nodes."""
    x, y = (pnl.ProcessingMechanism(name=name, default_variable=np.zeros(2)) for name in "xy")
    small = RecurrentComposition([x, y], name="small", optimizer_type="adam")
    y.set_log_conditions("variable", pnl.LogCondition.EXECUTION)
    with pytest.warns(LogWarning) as seen:
        small.learn({x: np.ones((1, 2, 2))}, lambda _, values: values[y].sum(), learning_rate=RATE)
    (found,) = [each for each in seen if each.category is LogWarning]
    assert found.filename == __file__


def test_the_warning_of_the_general_path_says_how_much_slower_it_is():
    """Measured: 24 times, for a trial of the benchmark's size."""
    assert "ten times" not in str(GeneralPathWarning("agent", "a reason"))
