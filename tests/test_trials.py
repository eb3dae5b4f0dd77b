"""Which steps count: trials of unequal length, steps that ask for no answer, and what actions pay, on every path.

That all paths agree with the reference is for the ladder to say; here, that what they agree on is right.
"""

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine
from eplstm.comparisons.behavior import accuracy_by_step
from eplstm.comparisons.fitting import (
    FreeResponse,
    Likelihood,
    ObservedBlock,
    ParameterSpace,
    Participant,
    TrainedAgent,
    write_trials,
)
from eplstm.models import (
    Cohort,
    EncodingMechanism,
    EpisodicLSTMComposition,
    EpisodicMemory,
    ModelConfig,
    NotTrainable,
    Person,
    ReferenceEpisodicLSTM,
    train,
)
from eplstm.models.records import STATES as states_of_record
from eplstm.models.records import TrialRecord
from eplstm.tasks import Trials

ATOL = 1e-10
"""float64 on both sides."""
N, T, D, H, A = 5, 4, 6, 3, 3
CONFIG = ModelConfig(D, H, A, memory_capacity=4)
LENGTHS = np.array([3, 1, 4, 2, 3])
SETTINGS = {"gamma": 0.8, "entropy_weight": 0.05, "learning_rate": 0.01}
PATHS = ("reference", "fast", "general", "cohort")
STATES = [name for name in states_of_record if name != "retrieved_trial"]  # rows of it: trials alone have others
FIELDS = ("policy", "value", "action", "reward", "policy_loss", "value_loss", *STATES)


def make_fields(beyond=0):
    """Of random trials; ``beyond``: a seed for what is given beyond their ends."""
    rng = np.random.default_rng(0)
    exists = np.arange(T) < LENGTHS[:, None]

    def filled(array):
        filling = np.random.default_rng((beyond, 7)).permutation(array.ravel()).reshape(array.shape)
        return np.where(exists.reshape(*exists.shape, *[1] * (array.ndim - 2)), array, filling)

    targets = rng.integers(-1, A, (N, T))
    targets[0, 1], targets[2] = -1, -1
    fields = {
        "inputs": rng.standard_normal((N, T, D)),
        "targets": targets,
        "encode": rng.random((N, T)) < 0.6,
        "retrieve": rng.random((N, T)) < 0.8,
        "rewards": rng.standard_normal((N, T, A)),
    }
    return {name: filled(array) for name, array in fields.items()}


def make_trials(beyond=0, **changes):
    return Trials(**{**make_fields(beyond), "lengths": LENGTHS, **changes})


def cut(trials, n):
    """One trial, made anew of the steps that it has."""
    rows, steps = slice(n, n + 1), slice(0, trials.lengths[n])
    names = ("inputs", "targets", "encode", "retrieve", "rewards")
    return Trials(**{name: getattr(trials, name)[rows, steps] for name in names})


def given(seed=1):
    """Choices and initial states of N trials."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, A, (N, T)), rng.standard_normal((2, N, H))


def make(path):
    if path in ("reference", "cohort"):
        model = ReferenceEpisodicLSTM(CONFIG, 0).double()
        return Cohort.from_models([model, model]) if path == "cohort" else model
    return pristine(CONFIG, fast=path == "fast")


def learn(model, trials, actions, states, **settings):
    settings = {**SETTINGS, **settings}
    if isinstance(model, Cohort):
        both = of_two_agents(trials, actions, states)
        return model.train(record="all", **both, **settings)[1]
    return train(model, trials, actions=actions, initial_states=tuple(states), record_gradients=True, **settings)


def of_two_agents(trials, actions, states):
    """The first has the trials in the opposite order, so that trials of unequal length lie side by side."""
    order = {"trials": [trials[::-1], trials], "actions": [actions[::-1], actions]}
    return order | {"initial_states": [tuple(states[:, ::-1]), tuple(states)]}


def state(model):
    """All that training changes."""
    of = {"agent": 1} if isinstance(model, Cohort) else {}
    keys, values = model.memory(**of)
    return {**model.weights(**of), **model.optimizer_state(**of), "keys": keys, "values": values}


def same(a, b, atol=ATOL):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=name)


def of_record(record):
    found = {name: getattr(record, name) for name in FIELDS if getattr(record, name) is not None}
    return found | {f"gradient {name}": array for name, array in (record.gradients or {}).items()}


# ---- trials of unequal length --------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"unroll_steps": 2}, {"loss": "cross_entropy"}], ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_learning_from_short_trials_is_learning_from_the_steps_that_they_have(path, settings):
    trials, (actions, states) = make_trials(), given()
    model = make(path)
    whole = learn(model, trials, actions, states, **settings)
    found, model = state(model), make(path)
    for n, steps in enumerate(LENGTHS):
        alone = learn(model, cut(trials, n), actions[n : n + 1, :steps], states[:, n : n + 1], **settings)
        for name, array in of_record(alone).items():
            of_whole = of_record(whole)[name][n : n + 1]
            of_whole = of_whole if name.startswith("gradient") or of_whole.ndim == 1 else of_whole[:, :steps]
            np.testing.assert_allclose(of_whole, array, rtol=0, atol=ATOL, err_msg=f"trial {n}, {name}")
    same(found, state(model))


@pytest.mark.parametrize("path", ("reference", "fast", "general", "Python mode", "cohort"))
def test_running_short_trials_is_running_the_steps_that_they_have(path):
    trials, (actions, states) = make_trials(), given()

    def run(model, *of):
        if path == "cohort":
            return model.run_trials(record="all", **of_two_agents(*of))[1]
        way = model.simulate if path in ("fast", "general") else model.run_trials
        return way(*of)

    model = make("fast" if path == "Python mode" else path)
    whole = run(model, trials, actions, states)
    found = state(model)
    model.clear_memory()
    for n, steps in enumerate(LENGTHS):
        alone = run(model, cut(trials, n), actions[n : n + 1, :steps], states[:, n : n + 1])
        for name, array in of_record(alone).items():
            here = getattr(whole, name)[n : n + 1, :steps]
            np.testing.assert_allclose(here, array, rtol=0, atol=ATOL, err_msg=f"trial {n}, {name}")
    same(found, state(model))


def everything(path, beyond):
    """All that comes of training and running on a path, given what stands beyond the ends."""
    trials, (actions, states) = make_trials(beyond=beyond), given()
    actions = np.where(trials.exists, actions, np.random.default_rng(beyond).integers(0, A, (N, T)))
    model = make(path)
    found = of_record(learn(model, trials, actions, states)) | state(model)
    if path == "cohort":
        return found
    both = [trials, trials[::-1]]  # of unequal length side by side
    for e, record in enumerate(train(model, both, seed=2, record_gradients=True, **SETTINGS)):
        found |= {f"environment {e}, {name}": array for name, array in of_record(record).items()}
    found |= {f"{name} in environments": array for name, array in state(model).items()}
    found["keys of 1"], found["values of 1"] = model.memory(environment=1)
    ways = [model.run_trials] if path == "reference" else [model.run_trials, model.simulate]
    for way in ways:
        found |= {f"{way.__name__} {name}": array for name, array in of_record(way(trials, seed=3)).items()}
    return found | {f"{name} afterwards": array for name, array in state(model).items()}


@pytest.mark.parametrize("path", PATHS)
def test_what_stands_beyond_the_end_has_no_effect(path):
    """To the last bit: inputs, targets, switches, rewards and forced actions, on everything."""
    one, other = everything(path, 0), everything(path, 1)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    for name, given_at_first in make_fields(0).items():
        assert not np.array_equal(given_at_first, make_fields(1)[name]), name  # it was something else


def test_records_hold_nothing_beyond_the_end():
    trials, (actions, states) = make_trials(), given()
    exists = trials.exists
    for path in PATHS:
        record = learn(make(path), trials, actions, states)
        np.testing.assert_array_equal(record.lengths, LENGTHS)
        np.testing.assert_array_equal(record.exists, exists)
        for name in ("policy", "value", "hidden", "cell", "memory", "gates"):
            array = getattr(record, name)
            assert np.isfinite(array[exists]).all()
            assert np.isnan(array[~exists]).all()
        assert (record.action[~exists] == -1).all()
        assert not record.reward[~exists].any()
        assert np.isfinite(record.policy_loss).all()
        short = record.of_environment(1, 2)
        np.testing.assert_array_equal(short.lengths, LENGTHS[1::2])
    whole = learn(make("reference"), make_trials(lengths=None, targets=np.zeros((N, T), int)), actions, states)
    assert whole.lengths is None
    both = TrialRecord.concatenate([record, whole])
    np.testing.assert_array_equal(both.lengths, [*LENGTHS, *[T] * N])
    np.testing.assert_array_equal(both.exists[N:], True)
    assert TrialRecord.concatenate([whole, whole]).lengths is None


def test_python_mode_runs_the_steps_that_there_are():
    model = pristine(CONFIG)
    before = len(model.results)
    model.run_trials(make_trials(), seed=0)
    assert len(model.results) - before == LENGTHS.sum()


def test_results_and_logs_end_with_the_trial():
    """Also of the shorter of two trials that are run side by side."""
    model, trials = EpisodicLSTMComposition(CONFIG, 0), make_trials()
    model.cell.set_log_conditions("value")
    for model.fast_path in (True, False):
        one, other = train(model, [trials, trials[::-1]], seed=0)
        records = [record for pair in zip(*map(_trials_of, (one, other)), strict=True) for record in pair]
        lengths = [length for pair in zip(LENGTHS, LENGTHS[::-1], strict=True) for length in pair]
        results = [np.concatenate(row) for row in model.results[-2 * N :]]
        for row, (policy, value, _), steps in zip(results, records, lengths, strict=True):
            np.testing.assert_allclose(row, [*policy[steps - 1], value[steps - 1]], rtol=0, atol=ATOL)
        entries = model.cell.log.nparray_dictionary("value")
        logged = np.concatenate([np.ravel(own["value"]) for own in entries.values()]).reshape(-1, H)
        cells = np.concatenate([cell[:steps] for (_, _, cell), steps in zip(records, lengths, strict=True)])
        assert len(logged) == len(cells) * (1 if model.fast_path else 2)
        np.testing.assert_allclose(logged[-len(cells) :], cells, rtol=0, atol=ATOL)


def _trials_of(record):
    return list(zip(record.policy, record.value, record.cell, strict=True))


def test_nodes_show_the_last_step_of_the_last_trial():
    for fast in (True, False):
        model = pristine(CONFIG, fast=fast)
        record = train(model, make_trials(), seed=0)
        last = record.cell[-1, LENGTHS[-1] - 1]
        np.testing.assert_allclose(np.ravel(model.cell.parameters.value.get(model)), last, rtol=0, atol=ATOL)


def test_a_further_memory_is_not_fed_beyond_the_end():
    """One trial at a time ends where it ends; side by side, trials must be equally long."""
    model, trials = EpisodicLSTMComposition(CONFIG, 0), make_trials()
    form = [np.zeros(D), np.zeros(H)]
    ports = [
        pnl.InputPort(name="key", variable=form[0]),
        pnl.InputPort(name="value", variable=form[1], default_input=pnl.DEFAULT_VARIABLE),
    ]
    function = EpisodicMemory(default_variable=form, kernel="l2", max_entries=30, storage_prob=0.0)
    further = pnl.EpisodicMemoryMechanism(
        name="further", input_ports=ports, default_variable=form, function=function
    )
    encoding = EncodingMechanism(memory=further, name="stores at each step")
    model.add_nodes([further, encoding])
    model.exclude_node_roles(encoding, pnl.NodeRole.OUTPUT)
    for sender, port in (
        (model.input_node, further.input_ports["key"]),
        (further.output_ports[1], model.gates["candidate"].input_port),
        (model.input_node, encoding.input_ports["key"]),
        (model.cell, encoding.input_ports["value"]),
        (model.parts.biases[0], encoding.input_ports["encode"]),
    ):
        matrix = np.eye(port.value.size)
        model.add_projection(pnl.MappingProjection(sender=sender, receiver=port, matrix=matrix, learnable=False))
    train(model, trials, seed=0)
    assert "further" in model.detour
    assert len(function.entries(model.default_execution_id)[0]) == LENGTHS.sum()
    equal = make_trials(lengths=[2] * N)
    model.clear_memory()
    train(model, [equal, equal], seed=0)
    for e in (0, 1):
        assert len(function.entries(model.default_execution_id, e)[0]) == 2 * N
    with pytest.raises(NotTrainable, match=r"further episodic memories.*lengths \[3, 2\]"):
        train(model, [trials[[0]], trials[[3]]], seed=0)


# ---- steps that ask for no answer ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_loss_by_hand(path):
    """From the policies and values of the record: the actor's over the steps that ask, the critic's over all."""
    trials, (actions, states) = make_trials(), given()
    record = learn(make(path), trials, actions, states)
    for n, steps in enumerate(LENGTHS):
        policy_loss = value_loss = following = 0.0
        for t in reversed(range(steps)):
            asks = trials.targets[n, t] >= 0
            reward = trials.rewards[n, t, actions[n, t]] if asks else 0.0
            assert record.action[n, t] == (actions[n, t] if asks else -1)
            assert record.reward[n, t] == reward
            following = reward + 0.8 * following
            p, v = record.policy[n, t], record.value[n, t]
            if asks:
                policy_loss += -np.log(p[actions[n, t]]) * (following - v) + 0.05 * (p * np.log(p)).sum()
            error = abs(v - following)
            value_loss += 0.5 * error**2 if error < 1 else error - 0.5
        assert record.policy_loss[n] == pytest.approx(policy_loss, abs=ATOL)
        assert record.value_loss[n] == pytest.approx(value_loss, abs=ATOL)
    assert not trials.asks[2].any()
    assert record.policy_loss[2] == 0 < record.value_loss[2]


@pytest.mark.parametrize("path", PATHS)
def test_cross_entropy_by_hand(path):
    trials, (actions, states) = make_trials(), given()
    record = learn(make(path), trials, actions, states, loss="cross_entropy")
    p = [-np.log(record.policy[n, t, trials.targets[n, t]]) for n, t in np.argwhere(trials.asks)]
    found = np.bincount(np.argwhere(trials.asks)[:, 0], p, minlength=N)
    np.testing.assert_allclose(record.policy_loss, found, rtol=0, atol=ATOL)


@pytest.mark.parametrize("path", PATHS)
def test_forced_actions_are_not_looked_at_where_no_answer_is_asked_for(path):
    trials, (actions, states) = make_trials(), given()
    one = learn(make(path), trials, actions, states)
    other = learn(make(path), trials, np.where(trials.asks, actions, -5), states)
    again = learn(make(path), trials, one.action, states)
    for record in (other, again):
        for name, array in of_record(one).items():
            np.testing.assert_array_equal(of_record(record)[name], array, err_msg=name)
    with pytest.raises(ValueError, match="from 0 to 2; got values from -1 to"):
        learn(make(path), make_trials(targets=np.zeros((N, T))), one.action, states)


def test_a_person_perseveres_over_steps_without_a_choice():
    """Choices drawn one after the other, with κ = 2, on all ways to run, from the same seed."""
    composition, reference = EpisodicLSTMComposition(CONFIG, 0), ReferenceEpisodicLSTM(CONFIG, 0).double()
    trials = make_trials()
    records = []
    for model, way, fast in (
        (reference, "run_trials", True),
        (composition, "run_trials", True),
        (composition, "simulate", True),
        (composition, "simulate", False),
    ):
        model.person, model.fast_path = Person(perseveration=2.0), fast
        model.clear_memory()
        records.append(getattr(model, way)(trials, seed=4))
    for record in records[1:]:
        for name, array in of_record(records[0]).items():
            np.testing.assert_allclose(getattr(record, name), array, rtol=0, atol=ATOL, err_msg=name)
    made = records[0].action[trials.asks]
    assert (records[0].action[~trials.asks] == -1).all()
    logits = np.log(records[0].policy[trials.asks])
    reference.person = Person()
    reference.clear_memory()
    plain = np.log(reference.run_trials(trials, records[0].action, seed=4).policy[trials.asks])
    shift = logits - plain  # that of the choice before, κ above the others
    assert shift[0] == pytest.approx(shift[0, 0])
    for k, last in enumerate(made[:-1]):
        others = np.delete(shift[k + 1], last)
        np.testing.assert_allclose(shift[k + 1, last] - others, 2.0, rtol=0, atol=ATOL)


@pytest.mark.parametrize("path", ("fast", "general", "cohort"))
def test_choices_are_drawn_where_an_answer_is_asked_for(path):
    """The same as those of the reference, from the same numbers."""
    trials, model, reference = make_trials(), make(path), make("reference")
    expected = train(reference, trials, seed=5, **SETTINGS)
    if path == "cohort":
        found = model.train(trials, seed=[5, 5], **SETTINGS)[1]
    else:
        found = train(model, trials, seed=5, **SETTINGS)
    np.testing.assert_array_equal(found.action, expected.action)
    np.testing.assert_array_equal(found.action == -1, ~trials.asks)
    np.testing.assert_array_equal(found.reward, expected.reward)
    np.testing.assert_allclose(found.policy_loss, expected.policy_loss, rtol=0, atol=ATOL)
    assert len(np.unique(found.action[trials.asks])) > 1


# ---- a loss of one's own -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_what_a_loss_of_ones_own_is_given(path):
    trials, (actions, states) = make_trials(), given()
    seen = []

    def loss(given):
        seen.append({name: tensor.detach().numpy().copy() for name, tensor in vars(given).items()})
        seen[-1]["asks"] = given.asks.numpy()
        return (given.value - given.returns).square().sum()

    learn(make(path), trials, actions, states, loss=loss)
    agents = len(seen) // N
    seen = seen[agents - 1 :: agents]
    for n, (steps, own) in enumerate(zip(LENGTHS, seen, strict=True)):
        assert (own.pop("trial"), own.pop("environment")) == ([n], [0])
        assert {array.shape[:2] for array in own.values()} == {(1, steps)}
        np.testing.assert_array_equal(own["inputs"], trials.inputs[n : n + 1, :steps])
        assert own["exists"].all()
        np.testing.assert_array_equal(own["target"], trials.targets[n : n + 1, :steps])
        np.testing.assert_array_equal(own["asks"], trials.asks[n : n + 1, :steps])
        np.testing.assert_array_equal(own["action"] == -1, ~own["asks"])
        assert np.isfinite(own["returns"]).all()


# ---- what is made of it --------------------------------------------------------------------------------------


def test_likelihood_of_choices_at_the_steps_that_ask():
    """Σ log p_t(a_t) of the reference's policies, from h_0 = c_0 = 0; nothing else has an effect."""
    reference = ReferenceEpisodicLSTM(CONFIG, 0).double()
    actions, zeros = given()[0], np.zeros((N, H))
    space = ParameterSpace.of("perseveration", "inverse_temperature")
    natural = {"perseveration": 0.8, "inverse_temperature": 1.7}
    reference.person = Person(**natural)
    policy = reference.run_trials(make_trials(), actions, (zeros, zeros)).policy
    expected = sum(np.log(policy[n, t, actions[n, t]]) for n, t in np.argwhere(make_trials().asks))
    reference.person = Person()
    for beyond in (0, 1):
        trials = make_trials(beyond=beyond)
        person = Participant("one", (ObservedBlock(trials, np.where(trials.asks, actions, -1)),))
        likelihood = Likelihood(TrainedAgent.of(reference), [person], space)
        z = torch.tensor(space.unconstrained_array(np.array([list(natural.values())])))
        assert likelihood.log_likelihood(z[None]).item() == pytest.approx(expected, abs=ATOL)
        assert likelihood.n_choices.tolist() == [make_trials().asks.sum()]
    for n, t, why in ((0, 1, "no answer is asked for"), (1, 3, "the trial has ended")):
        choices = np.full((N, T), -1)
        choices[n, t] = 2
        with pytest.raises(ValueError, match=f"trial {n} has the choice 2 at step {t}, where {why}"):
            ObservedBlock(make_trials(), choices)
    with pytest.raises(ValueError, match="a free response may come at any step"):
        FreeResponse().check(ObservedBlock(make_trials(), np.full((N, T), -1)))


def test_accuracy_is_of_the_steps_that_ask():
    trials = make_trials(encounter=[1, 1, 1, 2, 2])
    record = ReferenceEpisodicLSTM(CONFIG, 0).double().run_trials(trials, seed=0)
    course = accuracy_by_step(trials, record)
    for e, of in enumerate((range(3), range(3, 5))):
        for t in range(T):
            right = [record.action[n, t] == trials.targets[n, t] for n in of if trials.asks[n, t]]
            expected = np.mean(right) if right else np.nan
            assert course.mean[e, t] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(course.mean).any()
    assert (course.mean > 0).any()


def test_what_cannot_be_told_is_refused(tmp_path):
    config = ModelConfig(D, H, A + 1, memory_capacity=4)
    for model in (ReferenceEpisodicLSTM(config), Cohort(config, [0])):
        with pytest.raises(
            ValueError, match="rewards of 3 actions, the model has 4: make the model with n_actions=3"
        ):
            model.run_trials(make_trials())
    trials = make_trials()
    person = Participant("one", (ObservedBlock(trials, np.where(trials.asks, 0, -1)),))
    with pytest.raises(ValueError, match="tables hold neither rewards"):
        write_trials(tmp_path / "table.csv", [person])
