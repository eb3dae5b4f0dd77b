"""What records say beyond the numbers of each step: which entry was retrieved, whose it was, and the table of all.

The cases of retrieval are worked out by hand: keys are numbers on a line, and each trial reads at its first step
and stores at its second one, at which it reads nothing.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine
from eplstm.comparisons.echo import Echo
from eplstm.models import Cohort, EpisodeRecord, ModelConfig, ReferenceEpisodicLSTM, TrialRecord, train
from eplstm.models.bank import Bank
from eplstm.models.records import RETRIEVED
from eplstm.models.retrievals import Retrievals
from eplstm.tasks import Trials
from eplstm.tasks.trials import concatenate

CONFIG = ModelConfig(input_size=3, hidden_size=2, n_actions=2, memory_capacity=3, key=(0, 1))
ATOL = 1e-12
OF_TRAINING = ("reference", "fast", "general", "cohort")
PATHS = (*OF_TRAINING, "reference runs", "simulate", "simulate, general", "Python mode", "cohort runs")


def trials_of(keys, **changes):
    """A trial for each key, of two steps."""
    n = len(keys)
    inputs = np.random.default_rng(0).standard_normal((n, 2, 3))
    inputs[:, :, 0] = np.array(keys)[:, None]
    switch = np.tile([False, True], (n, 1))
    fields = {"inputs": inputs, "targets": np.zeros((n, 2), int), "encode": switch, "retrieve": ~switch}
    return Trials(**{**fields, **changes})


def model_of(path, config):
    if path.startswith("reference"):
        return ReferenceEpisodicLSTM(config, 0).double()
    if path.startswith("cohort"):
        return Cohort(config, [0, 1])
    return pristine(config, fast="general" not in path)


def run(path, model, trials, **settings):
    """Records of one agent by a path: one, or one for each environment."""
    own = [trials] if path.startswith("cohort") else None
    if path == "cohort":
        return model.train(own * 2, seed=1, record="all", **settings)[1]
    if path in OF_TRAINING:
        return train(model, trials, seed=1, **settings)
    if path == "cohort runs":
        return model.run_trials(own * 2, seed=1, record="all")[1]
    by = {"reference runs": "run_trials", "Python mode": "run_trials"}.get(path, "simulate")
    return getattr(model, by)(trials, seed=1)


def check(record, entry, trial, weight=None, step=0):
    """What was retrieved at a step of each trial, and nothing at the second one."""
    weight = np.where(np.array(entry) < 0, 0.0, 1.0) if weight is None else weight
    np.testing.assert_array_equal(record.retrieved_entry[:, step], entry)
    np.testing.assert_array_equal(record.retrieved_trial[:, step], trial)
    np.testing.assert_allclose(record.retrieved_weight[:, step], weight, rtol=0, atol=ATOL)
    if step == 0:
        nothing = [-1] * len(record)
        check(record, nothing, nothing, step=1)
        assert record.retrieved_entry.dtype == record.retrieved_trial.dtype == np.int64


# ---- which entry was retrieved, and whose it was -------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_nearest_and_overflow(path):
    """Of three entries: 0, 5, 10; then 5, 10, 1; then 10, 1, 9. What was there before a record has no trial."""
    model, trials = model_of(path, CONFIG), trials_of([0, 5, 10, 1, 9, 4])
    record = run(path, model, trials)
    check(record, [-1, 0, 1, 0, 1, 1], [-1, 0, 1, 0, 2, 3])
    assert not record.memory[0].any()
    again = run(path, model, trials_of([9.1, 6, 9.2]))  # 1, 9, 4; then 9, 4, 9.1; then 4, 9.1, 6
    check(again, [1, 1, 1], [-1, -1, 0])


@pytest.mark.parametrize("path", PATHS)
def test_an_entry_that_is_written_anew_is_the_newer_trials(path):
    """0, 5; the third trial's 0 keeps the place of the first's."""
    config = replace(CONFIG, repeated_key="overwrite", memory_capacity=4)
    record = run(path, model_of(path, config), trials_of([0, 5, 0, 1, 4, 0]))
    check(record, [-1, 0, 0, 0, 1, 0], [-1, 0, 0, 2, 1, 2])


@pytest.mark.parametrize("path", PATHS)
def test_of_an_average_the_largest_weight(path):
    """Of two entries: 0, 1; then 1, 2, equally near to 1.5; then 2, 1.5. A new one takes the row of the oldest."""
    config = replace(CONFIG, memory_capacity=2, retrieval="average", sharpness=2.0)
    record = run(path, model_of(path, config), trials_of([0, 1, 2, 1.5, 5]))
    weights = [0, 1, 1 / (1 + np.exp(-2)), 0.5, 1 / (1 + np.exp(-1))]
    check(record, [-1, 0, 1, 0, 0], [-1, 0, 1, 1, 2], weights)


def test_all_steps_of_a_trial_that_stores_between_them():
    """What a trial has stored itself, and at steps whose keys differ."""
    trials = trials_of([0, 7])
    inputs = trials.inputs.copy()
    inputs[1, 1, 0] = 1
    trials = replace(trials, inputs=inputs, encode=np.ones((2, 2)), retrieve=None)
    for path in PATHS:
        record = run(path, model_of(path, CONFIG), trials)
        np.testing.assert_array_equal(record.retrieved_entry, [[-1, 0], [0, 0]], err_msg=path)
        np.testing.assert_array_equal(record.retrieved_trial, [[-1, 0], [0, 0]], err_msg=path)
        later = run(path, model_of(path, CONFIG), replace(trials, inputs=inputs[:, ::-1].copy()))
        np.testing.assert_array_equal(later.retrieved_trial, [[-1, 0], [0, 1]], err_msg=path)


@pytest.mark.parametrize("update", ["trial", "block"])
def test_environments_have_entries_of_their_own(update):
    """Rows are those of each environment's record, and k · M + e in that of all. The other one begins to store
    later: 8; then 8, 4."""
    one, other = trials_of([0, 5, 10, 1]), trials_of([3, 8, 4, 9])
    both = [one, replace(other, encode=other.encode & (np.arange(4) > 0)[:, None])]
    expected = [([-1, 0, 1, 0], [-1, 0, 1, 0]), ([-1, -1, 0, 0], [-1, -1, 1, 1])]
    for path in OF_TRAINING:
        records = run(path, model_of(path, CONFIG), both, update=update)
        for record, own in zip(records, expected, strict=True):
            check(record, *own)
    model = pristine(CONFIG)
    alternating = concatenate(both)[[0, 4, 1, 5, 2, 6, 3, 7]]
    model.learn(alternating, seed=1, minibatch_size=2, update=update)
    check(model.record, [-1, -1, 0, -1, 1, 0, 0, 0], [-1, -1, 0, -1, 2, 3, 0, 3])
    check(model.record.of_environment(1, 2), *expected[1])


def test_nothing_is_retrieved_beyond_the_end_of_a_trial():
    inputs = np.repeat(trials_of([0, 5, 10]).inputs, 2, 1)[:, :3]
    trials = Trials(inputs, np.zeros((3, 3), int), np.ones((3, 3)), lengths=[3, 1, 2])
    for path in PATHS:
        record = run(path, model_of(path, replace(CONFIG, memory_capacity=9)), trials)
        there = record.exists
        np.testing.assert_array_equal(record.retrieved_trial, [[-1, 0, 0], [0, -1, -1], [1, 2, -1]], err_msg=path)
        np.testing.assert_array_equal(record.retrieved_entry[~there], -1)
        assert np.isnan(record.retrieved_weight[~there]).all()
        assert record.retrieved_weight[there].tolist() == [0, 1, 1, 1, 1, 1]


def test_a_plain_lstm_retrieves_nothing():
    for path in ("reference", "cohort"):
        model = model_of(path, replace(CONFIG, memory_capacity=0, key=None))
        check(run(path, model, trials_of([0, 0])), [-1, -1], [-1, -1])


def test_a_lesion_retrieves_nothing():
    """Also where the memory is executed at each step."""
    for path in PATHS:
        record = run(path, model_of(path, CONFIG), trials_of([0, 0]).lesioned(retrieve=False))
        check(record, [-1, -1], [-1, -1])


def test_entries_put_there_meanwhile_are_no_trials():
    for path in ("reference", "fast", "general"):
        model = model_of(path, CONFIG)

        def put(n, model=model):
            if n == 1:
                model.set_memory(np.array([[4.0], [8.0]]), np.zeros((2, 2)))

        check(run(path, model, trials_of([0, 5, 8, 8]), after_trial=put), [-1, 0, 1, 1], [-1, 0, -1, -1])


def test_what_is_run_in_between_is_another_record():
    """Runs of a call-back's own store in the same memory: its trials are not those of the training."""
    inner = {}
    for path in ("reference", "fast", "general"):
        model = model_of(path, CONFIG)

        def evaluate(n, model=model, path=path):
            if n == 1:
                inner[path] = model.run_trials(trials_of([0.1, 5.3]), seed=0)

        record = run(path, model, trials_of([0, 5, 5.2, 5.1, 5]), after_trial=evaluate)
        check(inner[path], [0, 1], [-1, -1])  # 0, 5; then 0, 5, .1
        check(record, [-1, 0, 2, 2, 2], [-1, 0, -1, 2, 3])  # 5, .1, 5.3; then .1, 5.3, 5.2; then 5.3, 5.2, 5.1


def test_what_run_stores_in_between_is_of_no_trial():
    model = pristine(CONFIG)
    node = {model.input_node: [[0.0, 0, 0]], model.retrieve_node: [[1.0]], model.encode_node: [[1.0]]}

    def put(n):
        if n == 1:
            model.run(node)

    check(run("fast", model, trials_of([4, 5, 1]), after_trial=put), [-1, 0, 2], [-1, 0, -1])


def test_a_memory_that_becomes_smaller_keeps_whose_entries_are():
    bank = Bank((1,), 4)
    for trial, key in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        bank.write(np.array([0]), [np.array([[key]])], trials=trial)
    for limit, kept in ((4, [1, 2, 3, 4]), (2, [3, 4]), (9, [3, 4])):
        bank.resize(limit)
        assert bank.born[0, bank.by_age()].tolist() == kept
    bank.open(3)
    assert bank.born[0, bank.by_age()].tolist() == [3, 4]


def test_records_of_behavior_have_no_columns_for_it():
    for path in OF_TRAINING[:3]:
        record = train(model_of(path, CONFIG), trials_of([0, 1]), seed=0, record="behavior")
        assert [getattr(record, name).shape for name in (*RETRIEVED, "hidden")] == [(2, 2, 0)] * 4
    record = Cohort(CONFIG, [0]).run_trials(trials_of([0, 1]), seed=0)[0]
    assert record.retrieved_trial.shape == (2, 2, 0)
    assert TrialRecord.concatenate([record, record]).of_environment(0, 2).retrieved_trial.shape == (2, 2, 0)


def test_what_cannot_be_told_is_not_guessed():
    """A memory that is not the package's, or is not executed once a step."""
    memory = SimpleNamespace(function=pnl.ContentAddressableMemory())
    stock = SimpleNamespace(has_memory=True, episodic_memory=memory, retrieve_node="switch")
    retrievals = Retrievals(stock, None)
    with retrievals.of(3):
        retrievals.go_on(4)
        np.testing.assert_equal(
            retrievals.of_step(lambda node: [1.0]), dict(zip(RETRIEVED, (-1, -1, np.nan), strict=True))
        )
        np.testing.assert_equal(
            retrievals.of_step(lambda node: [0.0]), dict(zip(RETRIEVED, (-1, -1, 0.0), strict=True))
        )
    own = pristine(CONFIG)
    retrievals = Retrievals(own.parts, own)
    with retrievals.of(0):
        own.episodic_memory.function.noted.update({0: [np.array([2, 1, 1])], 1: [np.array([0, 5, 1])] * 2})
        switch = torch.tensor([[1.0, 1.0], [0.0, 1.0]])[..., None]
        found = retrievals.of_trials({own.retrieve_node: switch})
        np.testing.assert_equal(found["retrieved_entry"], [[-1, -1], [-1, 0]])
        np.testing.assert_equal(found["retrieved_trial"], [[-1, -1], [-1, 5]])
        np.testing.assert_equal(found["retrieved_weight"], [[np.nan, np.nan], [0, 1]])
    assert own.episodic_memory.function.noted is None


def test_records_of_several_calls_as_one():
    model = model_of("reference", CONFIG)
    one, two = (model.run_trials(trials_of(keys), seed=0) for keys in ([0, 5, 0.1], [6, 5.6]))
    check(one, [-1, 0, 0], [-1, 0, 0])
    check(two, [1, 2], [-1, 0])
    check(TrialRecord.concatenate([one, two, one]), [-1, 0, 0, 1, 2, -1, 0, 0], [-1, 0, 0, -1, 3, -1, 5, 5])
    assert TrialRecord.concatenate([one, replace(two, retrieved_trial=None)]).retrieved_trial is None


# ---- the table -----------------------------------------------------------------------------------------------


def a_record(**changes):
    """Two trials, of two steps and one, with round numbers."""
    gates = np.zeros((2, 2, 4, 2))
    gates[0, 0] = [[0.1, 0.3], [0.5, 0.7], [0.9, 0.7], [0.5, 1.0]]
    gates[1, 1] = np.nan
    memory = np.zeros((2, 2, 2))
    memory[0, 0] = [0.6, 0.4]
    fields = {
        "policy": np.array([[[0.25, 0.75], [1.0, 0.0]], [[0.5, 0.5], [np.nan, np.nan]]]),
        "value": np.array([[1.0, 2.0], [3.0, np.nan]]),
        "action": np.array([[1, -1], [0, -1]]),
        "reward": np.array([[0.5, 0.0], [1.0, 0.0]]),
        "hidden": memory,
        "cell": memory,
        "memory": memory,
        "gates": gates,
        "lengths": np.array([2, 1]),
        "retrieved_entry": np.array([[0, -1], [2, -1]]),
        "retrieved_trial": np.array([[-1, -1], [0, -1]]),
        "retrieved_weight": np.array([[0.5, 0.0], [1.0, np.nan]]),
    }
    return TrialRecord(**{**fields, **changes})


def test_a_table_by_hand():
    losses = {"policy_loss": np.array([7.0, 8.0]), "value_loss": np.array([0.1, 0.2])}
    frame = a_record(**losses).to_frame(participant="p1", block=[3, 4])
    nan = np.nan
    expected = {
        "participant": ["p1"] * 3,
        "block": [3, 3, 4],
        "trial": [0, 0, 1],
        "step": [0, 1, 0],
        "action": [1, -1, 0],
        "reward": [0.5, 0.0, 1.0],
        "policy_chosen": [0.75, nan, 0.5],
        "entropy": [-0.25 * np.log(0.25) - 0.75 * np.log(0.75), 0.0, np.log(2)],
        "value": [1.0, 2.0, 3.0],
        "forget_gate": [0.2, 0, 0],
        "input_gate": [0.6, 0, 0],
        "output_gate": [0.8, 0, 0],
        "reinstatement_gate": [0.75, 0, 0],
        "reinstated": [0.5, 0, 0],  # (.3, .4)
        "retrieved_entry": [0, nan, 2],
        "retrieved_trial": [nan, nan, 0],
        "retrieved_weight": [0.5, 0, 1],
        "lag": [nan, nan, 1],
        "policy_loss": [7.0, 7.0, 8.0],
        "value_loss": [0.1, 0.1, 0.2],
    }
    assert list(frame) == list(expected)
    assert list(frame.index) == [0, 1, 2]
    for name, column in expected.items():
        if name == "participant":
            assert list(frame[name]) == column
        else:
            np.testing.assert_allclose(frame[name], column, rtol=0, atol=ATOL, err_msg=name)
    assert [frame[name].dtype.kind for name in ("trial", "step", "action", "lag")] == ["i", "i", "i", "f"]


def test_a_table_has_what_is_known():
    """Context and encounter of the trials; no states where the record has none, or was made without."""
    fields = {"inputs": np.zeros((2, 2, 1)), "targets": np.zeros((2, 2)), "encode": np.zeros((2, 2))}
    trials = Trials(**fields, lengths=[2, 1], context=np.array([5, 6]))
    frame = a_record().to_frame(trials)
    assert list(frame)[:4] == ["trial", "step", "context", "action"]
    assert frame.context.tolist() == [5, 5, 6]
    frame = a_record().to_frame(replace(trials, encounter=np.array([1, 2])))
    assert frame.encounter.tolist() == [1, 1, 2]
    behavior = ["trial", "step", "action", "reward", "policy_chosen", "entropy", "value"]
    none = np.zeros((2, 2, 0))
    without = dict.fromkeys(("hidden", "cell", "memory", *RETRIEVED), none) | {"gates": np.zeros((2, 2, 4, 0))}
    assert list(a_record(**without).to_frame()) == behavior
    assert list(a_record(retrieved_trial=None).to_frame())[-1] == "reinstated"
    assert len(run("reference runs", model_of("reference", CONFIG), trials_of([1.0])[:0]).to_frame()) == 0
    for wrong in (trials[:1], replace(trials, lengths=[1, 2]), replace(trials, lengths=None)):
        with pytest.raises(ValueError, match=r"record is of \(n, T\) = \(2, 2\), 3 steps"):
            a_record().to_frame(wrong)
    with pytest.raises(ValueError, match=r"block must be one value, or one for each of 2 trials; .*\(3,\)"):
        a_record().to_frame(block=[1, 2, 3])


def test_a_table_of_episodes():
    """Trials are those of each world; facts come by their names."""
    task = Echo(6, 3)
    worlds = task.worlds([np.random.default_rng(e) for e in range(2)])
    worlds.begin_epoch()
    config = ModelConfig(6, 3, 3, memory_capacity=9)
    record = ReferenceEpisodicLSTM(config, 0).double().run_episodes(worlds, task.episodes, seed=1)
    assert isinstance(record, EpisodeRecord)
    record.facts["value"] = np.arange(record.action.size).reshape(record.action.shape)
    frame = record.to_frame(participant=1)
    n, steps = record.action.shape
    assert list(frame)[:6] == ["participant", "trial", "step", "world", "context", "encounter"]
    assert (frame.trial == np.repeat(np.arange(n) // 2, steps)).all()
    assert (frame.world == np.repeat(np.arange(n) % 2, steps)).all()
    assert (frame.context == np.repeat(record.trials.context, steps)).all()
    assert (frame.encounter == np.repeat(record.trials.encounter, steps)).all()
    assert (frame.task_value == np.arange(n * steps)).all()
    assert (frame.value == record.value.ravel()).all()
    for name, values in record.facts.items():
        if name not in ("action", "reward", "value"):
            np.testing.assert_array_equal(frame[name], values.ravel(), err_msg=name)
    row = record.retrieved_trial.ravel()
    found = row >= 0
    assert found.any() and (frame.trial[found] > frame.retrieved_trial[found]).any()
    np.testing.assert_array_equal(frame.retrieved_trial[found], row[found] // 2)
    np.testing.assert_array_equal(frame.lag, frame.trial - frame.retrieved_trial)
    assert frame.retrieved_trial[~found].isna().all()
    alone = record.of_environment(1, 2).to_frame(participant=1)
    own = frame[frame.world == 1].reset_index(drop=True)
    for name in own:
        if name not in ("world", "task_value"):
            np.testing.assert_array_equal(alone[name], own[name], err_msg=name)
