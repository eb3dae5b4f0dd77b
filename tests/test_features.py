"""What any PsyNeuLink composition offers, on this one: views, logs, learning rates, freezing, saving, contexts,
control, reports, Parameters, and the arguments of ``learn()``."""

import inspect
import re
from importlib.metadata import version

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine, rarely
from eplstm.models import (
    EpisodicLSTMComposition,
    GeneralPathWarning,
    LogWarning,
    ModelConfig,
    NotTrainable,
    RecurrentComposition,
    ReferenceEpisodicLSTM,
    train,
)
from eplstm.models.backend.arguments import HONOURED, REFUSED
from eplstm.models.backend.logs import CompositionLog
from eplstm.models.backend.pictures import plain_label
from eplstm.tasks import Trials

ATOL = 1e-10
"""float64 throughout; the modes agree to 1e-15 a step."""
D, H, A, N, T = 3, 2, 4, 4, 3
CONFIG = ModelConfig(D, H, A, memory_capacity=5)
RATE = 0.05
SETTINGS = {
    "kernel": "cosine",
    "retrieval": "average",
    "sharpness": 4.0,
    "memory_capacity": 2,
    "ties": "newest",
    "repeated_key": "overwrite",
}
"""None of them at its default."""


def make_trials(n=N, seed=3):
    rng = np.random.default_rng(seed)
    return Trials(
        inputs=rng.standard_normal((n, T, D)),
        targets=rng.integers(0, A, (n, T)),
        encode=rng.random((n, T)) < 0.5,
        retrieve=rng.random((n, T)) < 0.8,
    )


TRIALS = make_trials()


def fill(model):
    rng = np.random.default_rng(6)
    model.clear_memory()  # of all environments
    model.set_memory(rng.standard_normal((3, D)), rng.standard_normal((3, H)))


def reset(fast=True):
    """The same composition as at the beginning."""
    fill(pristine(CONFIG, fast=fast))


def clear_logs(model):
    for parameter in log_parameters(model):
        if parameter.__dict__.get("log_condition"):
            parameter.log_condition = pnl.LogCondition.OFF
        parameter.clear_log()


def log_parameters(model):
    """All Parameters that may be logged."""
    for owner in [*model.nodes, *model._inner_projections]:
        ports = [port for kind in ("input_ports", "output_ports") for port in getattr(owner, kind, ())]
        for component in (owner, owner.function, *ports, *owner.parameter_ports):
            yield from component.parameters


@pytest.fixture
def model():
    """A composition for the tests that leave its graph as it is; they may log."""
    model = pristine(CONFIG)
    fill(model)
    yield model
    clear_logs(model)


def reference():
    other = ReferenceEpisodicLSTM(CONFIG, 0).double()
    fill(other)
    return other


def close(a, b, **kwargs):
    np.testing.assert_allclose(a, b, rtol=0, atol=ATOL, **kwargs)


def same_weights(a, b):
    a, b = (w if isinstance(w, dict) else w.weights() for w in (a, b))
    for name in a:
        close(a[name], b[name], err_msg=name)


# ---- views ---------------------------------------------------------------------------------------------------

VIEWS = [
    {},
    {"show_node_structure": True},
    {"show_node_structure": pnl.ALL},
    {"show_projection_labels": True},
    {"show_cim": True},
    {"show_cim": True, "show_node_structure": True},
    {"show_controller": True},
    {"show_learning": True},
    {"show_dimensions": True},
    {"show_types": True},
    {"show_headers": False},
    {"show_nested": False},
    {"show_all": True},
    {"show_pytorch": True},
]


@pytest.fixture(scope="module")
def twin():
    """A second one: PsyNeuLink gives its nodes names with numbers. It has never been run."""
    pristine(CONFIG)
    return EpisodicLSTMComposition(ModelConfig(D, H, A, **SETTINGS))


def test_all_settings_of_the_constructor_reach_the_memory(twin):
    """None is at its default."""
    for name, value in SETTINGS.items():
        assert getattr(twin.parameters, name).get() == value != getattr(CONFIG, name)


def feedback_in(lines):
    """Arrows that are dashed and do not pull at the layout."""
    return [line for line in lines if "constraint=false" in line and "style=dashed" in line]


@pytest.mark.parametrize("view", [VIEWS[0], *map(rarely, VIEWS[1:])], ids=str)
def test_views_keep_the_layout(view, twin):
    """All nodes, and the six feedback projections dashed, which let the layout go from input to read-out."""
    graph = twin.show_graph(output_fmt="gv", **view)
    source = graph.source
    dashed = feedback_in(graph.body)
    assert len(dashed) == 6
    assert sum("hidden h" in line.split("->")[0] for line in dashed) == 5
    assert sum("cell c" in line.split("->")[0] for line in dashed) == 1
    for node in twin.nodes:
        assert plain_label(node.name) in source
    for component in (node for node in twin.nodes if node.name != plain_label(node.name)):
        assert f'"{component.name}"' not in source and f">{component.name}<" not in source
    assert not re.search(r"^\s*0( ->|$)", source, re.MULTILINE)  # drawn by PsyNeuLink for "encode", "input", ...


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        ({"show_node_structure": True}, "OutputPort-RETRIEVED_value"),
        ({"show_projection_labels": True}, "hidden h → forget gate"),
        ({"show_cim": True}, "INPUT_CIM"),
        ({"show_types": True}, "EpisodicMemoryMechanism"),
        ({"show_pytorch": True}, "color=orange"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_views_show_what_they_are_for(view, shown, twin):
    """And as text in the format "source"."""
    source = twin.show_graph(output_fmt="source", **view)
    assert isinstance(source, str) and shown in source
    assert shown not in twin.show_graph(output_fmt="source")


def test_an_unknown_format_is_refused(twin):
    with pytest.raises(Exception, match=r"output_fmt.*'png'"):
        twin.show_graph(output_fmt="png")


# ---- logs ----------------------------------------------------------------------------------------------------


def logged(component, parameter="value", context=None):
    """Times (trial, step) and values of a log in a context, and that there are no other contexts in it."""
    log = getattr(component.parameters, parameter).log
    assert list(log) in ([], [context])
    entries = list(log.get(context, []))
    return [(entry.time.trial, entry.time.time_step) for entry in entries], [entry.value for entry in entries]


FIELDS = {"cell": "cell", "hidden": "hidden", "actor": "policy", "critic": "value", "memory_node": "memory"}


@pytest.mark.parametrize(("fast", "batch"), [(True, 1), (False, 2)])
def test_learn_logs_each_step(fast, batch, model):
    """Values of all nodes but the memory itself, in the shapes of run(); and nothing twice."""
    model.fast_path = fast
    nodes = [node for node in model.nodes if node is not model.episodic_memory]
    for node in nodes:
        node.set_log_conditions(["value", *(port.name for port in node.output_ports)])
    model.learn(TRIALS, learning_rate=RATE, seed=1, minibatch_size=batch)
    assert (model.detour is None) == fast
    own, times = model.default_execution_id, [(k, t) for k in range(N) for t in range(T)]
    for name, field in FIELDS.items():
        when, values = logged(getattr(model, name), context=own)
        assert when == times
        close(np.reshape(values, (N, T, -1)), getattr(model.record, field).reshape(N, T, -1), err_msg=name)
        when, of_port = logged(getattr(model, name).output_port, context=own)
        assert when == times
        close(np.reshape(of_port, (N, T, -1)), getattr(model.record, field).reshape(N, T, -1), err_msg=name)
    # The rest is what the equations make of these.
    value = {node: np.reshape(logged(node, context=own)[1], (N, T, -1)) for node in nodes}
    f, i, _, r = np.moveaxis(model.record.gates, 2, 0)
    close(value[model.gates["forget"]], f)
    close(value[model.new], i * value[model.gates["candidate"]])
    close(value[model.kept][:, 1:], f[:, 1:] * model.record.cell[:, :-1])
    close(value[model.reinstated], r * model.record.memory)
    close(value[model.kept] + value[model.new] + value[model.reinstated], model.record.cell)
    close(value[model.cell_output], np.tanh(model.record.cell))
    close(value[model.input_node], TRIALS.inputs)
    close(value[model.encoding][..., 0], TRIALS.encode)
    close(value[model.readout_bias], np.ones((N, T, 1)))


@pytest.mark.parametrize("fast", [True, False])
def test_learn_logs_matrices_as_each_minibatch_finds_them(fast, model):
    model.fast_path, plain = fast, reference()
    projection = model.parts.learned["actor_weight", "actor"]
    projection.set_log_conditions("matrix")
    for options in ({}, {"synch_projection_matrices_with_torch": "minibatch"}):
        projection.parameters.matrix.clear_log()
        expected = []
        rng_states = np.random.default_rng(1).standard_normal((2, N, H))
        choices = {"actions": TRIALS.targets, "initial_states": tuple(rng_states)}
        model.learn(TRIALS, learning_rate=RATE, **choices, **options)
        for k in range(N):
            expected.append(plain.weights()["actor_weight"].T)
            one = slice(k, k + 1)
            train(
                plain,
                TRIALS[one],
                learning_rate=RATE,
                actions=choices["actions"][one],
                initial_states=tuple(state[one] for state in rng_states),
            )
        times, matrices = logged(projection, "matrix", model.default_execution_id)
        assert times == [(k, 0) for k in range(N)]
        close(matrices, expected)
        assert np.abs(matrices[1] - matrices[0]).max() > 1e-3


def test_learn_and_run_log_the_same(model):
    """But for the time: in run() a step is a trial of its own, and time_step a place in the order of nodes."""
    model.hidden.set_log_conditions("value")
    own, states = model.default_execution_id, (np.zeros((N, H)), np.zeros((N, H)))
    logs = []
    for go in (
        lambda: model.run_trials(TRIALS, actions=TRIALS.targets, initial_states=states),
        lambda: model.learn(TRIALS, actions=TRIALS.targets, initial_states=states, learning_rate=0.0),
    ):
        fill(model)
        model.hidden.parameters.value.clear_log()
        go()
        logs.append(model.hidden.log.nparray_dictionary()[own])
    run, learn = logs
    assert run["value"].shape == learn["value"].shape == (N * T, 1, H)
    close(run["value"], learn["value"])
    assert np.ravel(run["Trial"]).tolist() == list(range(N * T))
    assert np.ravel(learn["Trial"]).tolist() == [k for k in range(N) for _ in range(T)]
    assert np.ravel(learn["Time_step"]).tolist() == [t for _ in range(N) for t in range(T)]


@pytest.mark.parametrize("shortcuts", [True, False])
def test_run_logs_each_step(shortcuts, model):
    model.shortcuts = shortcuts
    model.cell.set_log_conditions(["value", "OutputPort-0"])
    model.gates["forget"].set_log_conditions("mod_gain")
    try:
        record = model.run_trials(TRIALS, seed=1)
    finally:
        model.shortcuts = True
    own = model.default_execution_id
    for component in (model.cell, model.cell.output_port):
        _, values = logged(component, context=own)
        close(np.reshape(values, (N, T, H)), record.cell)
    (gains,) = model.gates["forget"].parameter_ports["gain"].parameters.value.log.values()
    assert [float(np.squeeze(entry.value)) for entry in gains] == [1.0] * (N * T)


@pytest.mark.parametrize("fast", [True, False])
def test_the_memorys_own_value_takes_the_general_path(fast, model):
    """Key and value of the entry, before switch and tanh; and a note that it is slower."""
    model.fast_path = fast
    model.episodic_memory.set_log_conditions(["value", "RETRIEVED_value"])
    if fast:
        with pytest.warns(GeneralPathWarning, match="log of 'episodic memory"):
            model.learn(TRIALS, learning_rate=RATE, seed=1)
    else:
        model.learn(TRIALS, learning_rate=RATE, seed=1)
    own = model.default_execution_id
    times, values = logged(model.episodic_memory, context=own)
    assert len(times) == N * T and [item.shape for item in values[0]] == [(D,), (H,)]
    retrieved = np.reshape([value[1].astype(float) for value in values], (N, T, H))
    close(np.tanh(retrieved * TRIALS.retrieve[..., None]), model.record.memory)
    of_port = [entry.value for entry in model.episodic_memory.output_ports[1].parameters.value.log[own]]
    close(np.reshape(of_port, (N, T, H)), retrieved)
    model.episodic_memory.output_ports[1].parameters.value.clear_log()
    model.episodic_memory.log.set_log_conditions(["value", "RETRIEVED_value"], pnl.LogCondition.OFF)
    model.learn(TRIALS, learning_rate=0.0, seed=1)
    assert (model.detour is None) == fast


@pytest.mark.parametrize(
    ("node", "item", "condition", "named"),
    [
        ("cell", "variable", pnl.LogCondition.EXECUTION, "'variable' of 'cell c"),
        ("cell", "InputPort-0", pnl.LogCondition.EXECUTION, "InputPort-0' of 'cell c"),
        ("actor", "mod_gain", pnl.LogCondition.PROCESSING, "'gain' of 'actor"),
        ("actor", "func_gain", pnl.LogCondition.LEARNING, "'gain' of 'SoftMax"),
        ("cell", "value", pnl.LogCondition.TRIAL, "'value' of 'cell c"),
    ],
)
def test_what_learn_cannot_log_is_named(node, item, condition, named, model):
    getattr(model, node).set_log_conditions(item, condition)
    with pytest.warns(LogWarning, match=re.escape(named)):
        model.learn(TRIALS, learning_rate=0.0, seed=1)


@pytest.mark.parametrize(
    ("condition", "entries"),
    [("EXECUTION", N * T), ("LEARNING", N * T), ("PROCESSING", N * T), ("INITIALIZATION", 0), ("OFF", 0)],
)
def test_conditions(condition, entries, model):
    model.cell.set_log_conditions("value", pnl.LogCondition[condition])
    model.learn(TRIALS, learning_rate=0.0, seed=1)
    assert sum(len(log) for log in model.cell.parameters.value.log.values()) == entries


def test_nothing_is_logged_unasked(model):
    """PsyNeuLink by itself logs what is set or read from the command line, such as each matrix in each call."""
    model.learn(TRIALS, learning_rate=RATE, seed=1)
    model.weights()
    model.run_trials(TRIALS, seed=1)
    model.simulate(TRIALS, seed=1)
    for parameter in log_parameters(model):
        assert not any(parameter.log.values()), parameter


def test_needed_psyneulink_logs_a_matrix_that_is_read(model):
    """``get_matrix`` reads it in a ``Context`` that does not come from the command line."""
    matrix = model.parts.learned["actor_weight", "actor"].parameters.matrix
    matrix.get(model.default_execution_id)
    assert len(matrix.log[model.default_execution_id]) == 1


def test_contexts_are_logged_apart(model):
    model.cell.set_log_conditions("value")
    model.learn(TRIALS[:1], learning_rate=0.0, seed=1, context="a")
    model.learn(TRIALS, learning_rate=0.0, seed=1, context="b")
    model.run_trials(TRIALS[:2], seed=1, context="a")
    assert {name: len(log) for name, log in model.cell.parameters.value.log.items()} == {"a": 3 * T, "b": N * T}


def test_log_in_an_outer_composition():
    """A nested agent's nodes, by step, as what the loss sees."""
    inner = EpisodicLSTMComposition(CONFIG, name="inner")
    outer = RecurrentComposition(name="outer")
    before = pnl.ProcessingMechanism(name="before", default_variable=np.zeros(D))
    outer.add_node(before)
    outer.add_node(inner)
    outer.add_projection(pnl.MappingProjection(sender=before, receiver=inner.input_node, matrix=np.eye(D)))
    for node in (inner.cell, inner.episodic_memory, before):
        node.set_log_conditions("value")
    seen = []

    def loss(which, values):
        seen.append(values[inner.cell].detach().numpy())
        return values[inner.critic].sum()

    outer.learn({before: TRIALS.inputs}, loss, learning_rate=0.0)
    own = outer.default_execution_id
    times, values = logged(inner.cell, context=own)
    assert times == [(k, t) for k in range(N) for t in range(T)]
    close(np.reshape(values, (N, T, H)), np.concatenate(seen))
    close(np.reshape(logged(before, context=own)[1], (N, T, D)), TRIALS.inputs)
    assert len(logged(inner.episodic_memory, context=own)[0]) == N * T


def test_the_log_of_the_composition(model):
    """Of its nodes, by their names."""
    items = model.log.loggable_items
    assert model.cell.name in items and model.parts.learned["actor_bias", "actor"].name in items
    model.log.set_log_conditions(model.cell.name)
    model.learn(TRIALS, learning_rate=0.0, seed=1)
    entries = model.log.nparray_dictionary([model.cell.name])[model.default_execution_id][model.cell.name]
    close(np.reshape(entries, (N, T, H)), model.record.cell)


@pytest.mark.skipif(version("psyneulink") < "0.21", reason="not so before 0.21")
def test_needed_the_stock_log_of_a_composition_stumbles_over_projections(model):
    """``ReadableLog``"""
    with pytest.raises(KeyError):
        CompositionLog(owner=model).loggable_items  # noqa: B018


# ---- learning rates, freezing --------------------------------------------------------------------------------


def blocks(model):
    """Each learned projection's part of the weights, by (name, block)."""
    weights = model.weights()
    return {key: weights[key[0]][model.parts.rows(*key)] for key in model.parts.learned}


@pytest.mark.parametrize(
    ("freeze", "fast"),
    [("rate 0", True), ("rate False", False), ("not learnable", True), ("not learnable", False)],
)
def test_a_frozen_projection_stays_and_the_rest_learns(freeze, fast, model):
    model.fast_path, plain = fast, reference()
    projection, rows = model.parts.learned["hidden_weight", "reinstatement"], slice(3 * H, 4 * H)
    rates = {} if freeze == "not learnable" else {projection: 0.0 if freeze == "rate 0" else False}
    before = model.weights()
    projection.learnable = freeze != "not learnable"
    try:
        model.learn(TRIALS[:1], learning_rate={**rates, pnl.DEFAULT_LEARNING_RATE: RATE}, seed=1)
    finally:
        projection.learnable = True
    train(plain, TRIALS[:1], learning_rate=RATE, seed=1)
    expected = plain.weights()
    assert np.abs(expected["hidden_weight"][rows] - before["hidden_weight"][rows]).max() > RATE / 2
    expected["hidden_weight"][rows] = before["hidden_weight"][rows]
    same_weights(model, expected)


@pytest.mark.parametrize("fast", [True, False])
def test_a_projection_with_twice_the_rate_moves_twice_as_far(fast, model):
    model.fast_path, key = fast, ("input_weight", "candidate")
    before, moved = blocks(model), []
    for rates in ({}, {model.parts.learned[key].name: 2 * RATE}):
        reset(fast)
        model.learn(TRIALS[:1], learning_rate={**rates, pnl.DEFAULT_LEARNING_RATE: RATE}, seed=1)
        moved.append({k: v - before[k] for k, v in blocks(model).items()})
    for k in before:
        close(moved[1][k], moved[0][k] * (2 if k == key else 1), err_msg=str(k))
    assert np.abs(moved[0][key]).max() > 0.9 * RATE


# ---- saving --------------------------------------------------------------------------------------------------


def test_psyneulinks_save_and_load(model, tmp_path):
    """All matrices come back, in the composition that saved them, and in its next run() and learn()."""
    model.learn(TRIALS, learning_rate=RATE, seed=1)
    weights = model.weights()
    path = model.save(directory=str(tmp_path), filename="weights.pnl")
    model.set_weights(ReferenceEpisodicLSTM(CONFIG, 9).weights())
    assert np.abs(model.weights()["actor_weight"] - weights["actor_weight"]).max() > 0.1
    model.load(path)
    same_weights(model, weights)
    plain = reference()
    plain.set_weights(weights)
    fill(model)
    expected = plain.run_trials(TRIALS, seed=2)
    close(model.run_trials(TRIALS, seed=2).policy, expected.policy)
    fill(model)
    model.learn(TRIALS, learning_rate=0.0, seed=2)
    close(model.record.policy, expected.policy)


# ---- contexts ------------------------------------------------------------------------------------------------


def test_contexts_do_not_see_each_others_memory(model):
    """Through run() itself: what is stored in one is not there in another, nor in the composition's own."""
    inputs = {
        model.input_node: TRIALS.inputs[0],
        model.retrieve_node: np.ones((T, 1)),
        model.encode_node: np.ones((T, 1)),
    }
    own = model.memory()
    model.run(inputs, context="one")
    model.run({**inputs, model.input_node: TRIALS.inputs[1]}, context="two")
    for name, trial in (("one", 0), ("two", 1)):
        close(model.memory(context=name)[0], TRIALS.inputs[trial])
    for before, after in zip(own, model.memory(), strict=True):
        np.testing.assert_array_equal(before, after)
    # m_t of the first step is zero where nothing was stored, though the other context has the same key.
    model.clear_memory("three")
    model.run({node: value[:1] for node, value in inputs.items()}, context="three")
    np.testing.assert_array_equal(model.memory_node.parameters.value.get("three"), np.zeros((1, H)))
    model.run({node: value[:1] for node, value in inputs.items()}, context="one")
    assert np.abs(model.memory_node.parameters.value.get("one")).max() > 1e-3


# ---- control -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def controlled():
    """A composition with three things under control, and the node that gives the level of each (1: no effect)."""
    model, levels = EpisodicLSTMComposition(CONFIG, seed=0, name="under control"), {}
    for name, parameter, node in (
        ("gate", pnl.GAIN, model.gates["reinstatement"]),
        ("policy", pnl.GAIN, model.actor),
        ("retrieval", "retrieval_prob", model.episodic_memory),
    ):
        levels[name] = pnl.ProcessingMechanism(name=name, function=pnl.Linear(slope=0.0, intercept=1.0))
        model.add_node(levels[name])
        signal = pnl.ControlSignal(modulates=(parameter, node), modulation=pnl.OVERRIDE)
        model.add_node(
            pnl.ControlMechanism(
                name=f"control of {name}", monitor_for_control=levels[name], control_signals=signal
            )
        )
    return model, levels


def run_at(controlled, name, value):
    """A run at a level of control, from the entries of ``fill``; the level is 1 again then."""
    model, levels = controlled
    fill(model)
    intercept = levels[name].function.parameters.intercept
    for context in (None, model):
        intercept.set(value, context)
    record = model.run_trials(TRIALS, actions=TRIALS.targets, seed=1)
    for context in (None, model):
        intercept.set(1.0, context)
    return record


def before_the_gate(model, record, block):
    """W_x x_t + b_x + W_h h_{t-1} + b_h of a block, from a record: (N, T, H)."""
    w, rows = model.weights(), model.parts.rows("input_weight", block)
    h0 = 0.1 * np.random.default_rng(1).standard_normal((N, H))  # as a plan draws it
    h = np.concatenate([h0[:, None], record.hidden[:, :-1]], axis=1)
    drive = TRIALS.inputs @ w["input_weight"][rows].T + h @ w["hidden_weight"][rows].T
    return drive + w["input_bias"][rows] + w["hidden_bias"][rows]


def test_control_of_the_reinstatement_gate(controlled):
    """r_t = σ(gain · z_t); the other gates stay σ(z_t)."""
    model, _ = controlled
    for gain in (3.0, 0.0):
        record = run_at(controlled, "gate", gain)
        close(record.gates[:, :, 3], 1 / (1 + np.exp(-gain * before_the_gate(model, record, "reinstatement"))))
        close(record.gates[:, :, 0], 1 / (1 + np.exp(-before_the_gate(model, record, "forget"))))
    with pytest.raises(NotTrainable, match="control"):
        model.learn(TRIALS)


def test_control_of_the_policy(controlled):
    """π_t = softmax(gain · (W h_t + b)); what is not the policy is as without control."""
    plain = reference().run_trials(TRIALS, actions=TRIALS.targets, seed=1)
    w, record = controlled[0].weights(), run_at(controlled, "policy", 4.0)
    drive = np.exp(4.0 * (record.hidden @ w["actor_weight"].T + w["actor_bias"]))
    close(record.policy, drive / drive.sum(-1, keepdims=True))
    close(record.hidden, plain.hidden)
    assert np.abs(record.policy - plain.policy).max() > 1e-3


def test_control_of_retrieval(controlled):
    """At a probability of 0, m_t = 0 at all steps; at 1 all is as without control; between, now and then."""
    plain = reference().run_trials(TRIALS, actions=TRIALS.targets, seed=1)
    record = run_at(controlled, "retrieval", 1.0)
    close(record.memory, plain.memory)
    close(record.policy, plain.policy)
    assert np.abs(plain.memory).max() > 0.1
    np.testing.assert_array_equal(run_at(controlled, "retrieval", 0.0).memory, 0)
    retrieves = (run_at(controlled, "retrieval", 0.5).memory != 0).all(-1)
    assert 0 < retrieves.sum() < TRIALS.retrieve.sum()


def test_control_in_the_views(controlled):
    source = controlled[0].show_graph(output_fmt="source", show_controller=True)
    assert "control" in source and len(feedback_in(source.splitlines())) == 6


# ---- reports -------------------------------------------------------------------------------------------------

REPORTS = [
    {"report_output": pnl.ReportOutput.FULL},
    {"report_output": pnl.ReportOutput.TERSE, "report_progress": pnl.ReportProgress.ON},
    {"report_output": pnl.ReportOutput.FULL, "report_params": pnl.ReportParams.ALL},
    {"report_output": pnl.ReportOutput.ON, "report_simulations": pnl.ReportSimulations.ON},
    {"report_progress": pnl.ReportProgress.ON, "report_to_devices": pnl.ReportDevices.CONSOLE},
]


@pytest.mark.parametrize("options", REPORTS, ids=lambda options: "-".join(map(str, options.values())))
def test_reports_of_learn(options, model, capsys):
    """They are printed, and change no number."""
    model.learn(TRIALS, learning_rate=RATE, seed=1)
    weights, policy = model.weights(), model.record.policy
    assert capsys.readouterr().out == ""
    reset()
    model.learn(TRIALS, learning_rate=RATE, seed=1, **options)
    printed = capsys.readouterr().out
    assert plain_label(model.name) in printed
    same_weights(model, weights)
    close(model.record.policy, policy)


@pytest.mark.parametrize("fast", [True, False])
def test_a_full_report_shows_inputs_and_results(fast, model, capsys):
    """Of the last step of each trial; PsyNeuLink's own shows what was there before learning."""
    model.fast_path = fast
    model.learn(TRIALS, learning_rate=RATE, seed=1, report_output=pnl.ReportOutput.FULL)
    printed = re.sub(r"[\s║┃]", "", capsys.readouterr().out)
    for k in range(N):
        assert f"input:[[{','.join(map(repr, TRIALS.inputs[k, -1].tolist()))}]" in printed
        assert f"result:[[{','.join(map(repr, model.record.policy[k, -1].tolist()))}]" in printed


@pytest.mark.parametrize("options", REPORTS, ids=lambda options: "-".join(map(str, options.values())))
def test_reports_of_run(options, model, capsys):
    inputs = {
        model.input_node: TRIALS.inputs[0],
        model.retrieve_node: np.ones((T, 1)),
        model.encode_node: np.zeros((T, 1)),
    }
    results = []
    for k, reports in enumerate(({}, options)):
        results.append(model.run(inputs, context=f"{k} of {options}", **reports))
        assert (plain_label(model.name) in capsys.readouterr().out) == bool(reports)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


# ---- Parameters ----------------------------------------------------------------------------------------------


def test_settings_are_parameters(model):
    names = {parameter.name for parameter in model.parameters}
    for name, value in CONFIG.to_dict().items():
        assert name in names
        assert getattr(model.parameters, name).get() == value
        assert getattr(model.parameters, name).get(model) == value
    assert model.parameters.capacity.get() == CONFIG.memory_capacity


@pytest.mark.parametrize("fast", [True, False])
def test_parameters_act_as_the_config(fast, model):
    """Set on a composition that has learned and run, they make of it what the constructor would have made.

    (Each of them apart: all tests whose composition is ``pristine``, such as the ladder's.)
    """
    model.fast_path, config = fast, ModelConfig(D, H, A, **SETTINGS)
    model.learn(TRIALS, learning_rate=0.0, seed=1)
    model.run_trials(TRIALS[:1], seed=1)
    for name, value in SETTINGS.items():
        getattr(model.parameters, name).set(value)
        assert getattr(model.parameters, name).get() == value
    assert model.config == config
    # The second half has two keys in turn, so that they are repeated, and ties arise.
    two = np.resize(TRIALS.inputs[0, :2], (N * T, D)).reshape(N, T, D)
    inputs = np.concatenate([TRIALS.inputs, two])
    trials = Trials(inputs=inputs, targets=np.zeros((2 * N, T), int), encode=np.ones((2 * N, T), bool))
    plain = ReferenceEpisodicLSTM(config, 0).double()
    model.clear_memory()
    expected = train(plain, trials, learning_rate=0.0, seed=2)
    model.learn(trials, learning_rate=0.0, seed=2)
    assert (model.detour is None) == fast
    close(model.record.memory, expected.memory)
    for one, two in zip(model.memory(), plain.memory(), strict=True):
        close(one, two)
    close(model.run_trials(trials[:1], seed=2).memory, plain.run_trials(trials[:1], seed=2).memory)
    for name in SETTINGS:
        getattr(model.parameters, name).set(getattr(CONFIG, name))
    assert model.config == CONFIG


def test_parameters_by_dot_and_by_context(model):
    """The dot means the context that was executed last."""
    model.run_trials(TRIALS[:1], seed=1)
    model.sharpness = 3.0
    assert model.parameters.sharpness.get() == model.config.sharpness == 3.0
    model.parameters.sharpness.set(7.0, "other")
    assert model.parameters.sharpness.get("other") == 7.0
    assert model.parameters.sharpness.get() == model.config.sharpness == 3.0
    model.sharpness = 1.0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kernel", "dot", "kernel must be one of"),
        ("sharpness", -1.0, "sharpness must be"),
        ("capacity", 0, "memory_capacity cannot be set to 0"),
        ("capacity", -1, "memory_capacity must be"),
        ("ties", "random", "ties must be"),
        ("hidden_size", 4, "hidden_size cannot be set to 4"),
        ("input_size", 4, "input_size cannot be set to 4"),
        ("n_actions", 4, "n_actions cannot be set to 4"),
        ("key", (0, 1), "key cannot be set"),
    ],
)
def test_parameters_that_are_refused(name, value, message, model):
    with pytest.raises(ValueError, match=message):
        getattr(model.parameters, name).set(value)
    with pytest.raises(ValueError, match=message):
        setattr(model, name, value)
    assert model.config == CONFIG


def test_a_composition_without_memory_has_no_settings_of_one():
    model = pristine(ModelConfig(D, H, A, memory_capacity=0))
    assert model.parameters.capacity.get() == 0 and model.parameters.kernel.get() == "l2"
    for name, value in (("capacity", 5), ("kernel", "cosine")):
        with pytest.raises(ValueError, match="Make another one"):
            getattr(model.parameters, name).set(value)


# ---- the arguments of learn() --------------------------------------------------------------------------------


def arguments_of_psyneulink():
    """Those of learn(), and of run(), to which it hands the rest."""
    found = set()
    for method in (
        pnl.AutodiffComposition.learn,
        pnl.Composition.learn,
        pnl.AutodiffComposition.run,
        pnl.Composition.run,
    ):
        for parameter in inspect.signature(method).parameters.values():
            if (
                parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                and parameter.name != "self"
            ):
                found.add(parameter.name)
    return found


@pytest.mark.parametrize("argument", sorted(arguments_of_psyneulink()))
def test_each_argument_is_honoured_or_refused(argument):
    assert (argument in HONOURED) != (argument in REFUSED)


class Anything:
    """A value that no argument takes for nothing."""

    execution_id = "another"

    def __repr__(self):
        return "<anything>"


@pytest.mark.parametrize("argument", sorted(REFUSED))
def test_refused_arguments_name_value_and_remedy(argument, model):
    """Nothing is learned then. (``targets`` are refused by RecurrentComposition alone.)"""
    _, remedy = REFUSED[argument]
    before = model.weights()
    with pytest.raises(NotTrainable, match=re.escape(f"{argument}=<anything>: {remedy}")):
        if argument == "targets":
            RecurrentComposition.learn(model, {model.input_node: TRIALS.inputs}, None, targets=Anything())
        else:
            model.learn(TRIALS, learning_rate=RATE, **{argument: Anything()})
    same_weights(model, before)


def test_arguments_that_ask_for_nothing_are_taken(model):
    """PsyNeuLink's defaults, given by name."""
    given = {name: None for name in REFUSED if name != "targets"}
    for method in (pnl.AutodiffComposition.learn, pnl.Composition.learn, pnl.Composition.run):
        for name, parameter in inspect.signature(method).parameters.items():
            if name in given and parameter.default is not parameter.empty:
                given[name] = parameter.default
    model.learn(TRIALS, learning_rate=RATE, seed=1, **given)
    weights = model.weights()
    reset()
    model.learn(TRIALS, learning_rate=RATE, seed=1)
    same_weights(model, weights)


@pytest.mark.parametrize("trials", [TRIALS, TRIALS[:0]], ids=["trials", "none"])
def test_an_unknown_argument_is_a_type_error(trials, model):
    with pytest.raises(TypeError, match="nonsense=1"):
        model.learn(trials, nonsense=1)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("epochs", 0), ("epochs", 1.5), ("epochs", True), ("minibatch_size", 0), ("minibatch_size", N + 1)],
)
def test_numbers_out_of_their_range(argument, value, model):
    with pytest.raises(ValueError, match=rf"{argument} must be a whole number.*got {value}"):
        model.learn(TRIALS, **{argument: value})


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_epochs_are_passes_over_the_trials(fast, batch, model):
    """As so many calls in a row: weights, optimiser and memory go on. With 4 trials in minibatches of 3, the
    last one of each epoch is smaller."""
    model.fast_path, epochs, told = fast, 3, []
    states = tuple(np.random.default_rng(5).standard_normal((2, N, H)))
    choices = {"actions": TRIALS.targets[:, ::-1], "initial_states": states, "minibatch_size": batch}

    def call_back(epoch, minibatch, num_minibatches, context):
        told.append((epoch, minibatch))

    model.learn(TRIALS, learning_rate=RATE, epochs=epochs, call_after_minibatch=call_back, **choices)
    record, weights, memory = model.record, model.weights(), model.memory()
    assert told == [(e, k) for e in range(epochs) for k in range(-(-N // batch))]
    reset(fast)
    policies = []
    for _ in range(epochs):
        model.learn(TRIALS, learning_rate=RATE, **choices)
        policies.append(model.record.policy)
    close(record.policy, np.concatenate(policies))
    same_weights(model, weights)
    for one, two in zip(model.memory(), memory, strict=True):
        close(one, two)
    assert np.abs(policies[0] - policies[1]).max() > 1e-3


def test_each_epoch_draws_anew(model):
    model.learn(TRIALS, learning_rate=0.0, epochs=2, seed=1)
    first, second = model.record.hidden[:N, 0], model.record.hidden[N:, 0]
    assert np.abs(first - second).max() > 1e-3
    assert len(model.record) == 2 * N and model.record.policy_loss.shape == (2 * N,)


def test_a_loss_of_ones_own_sees_the_same_sequences_in_each_epoch():
    seen, net = [], RecurrentComposition(name="net")
    x, y = (pnl.ProcessingMechanism(name=name, default_variable=np.zeros(1)) for name in "xy")
    net.add_linear_processing_pathway([x, y])

    def loss(which, values):
        seen.append((list(which), values[x].detach().numpy().ravel().tolist()))
        return values[y].sum()

    net.learn({x: np.arange(3.0).reshape(3, 1, 1)}, loss, epochs=2, minibatch_size=2, learning_rate=0.0)
    assert seen == 2 * [([0, 1], [0, 1]), ([2], [2])]


def effect_of_inputs(model):
    model.learn(inputs=TRIALS[:2], seed=1)
    assert len(model.record) == 2


def effect_of_epochs(model):
    model.learn(TRIALS, epochs=2, seed=1)
    assert len(model.record) == 2 * N


def effect_of_learning_rate(model):
    before = model.weights()
    model.learn(TRIALS[:1], learning_rate=0.5, seed=1)
    np.testing.assert_allclose(np.abs(model.weights()["actor_bias"] - before["actor_bias"]), 0.5, rtol=1e-3)


def effect_of_minibatch_size(model):
    for size, updates in ((2, 2), (pnl.TRAINING_SET, 1)):
        count = []
        model.learn(TRIALS, minibatch_size=size, seed=1, call_after_minibatch=lambda c=count: c.append(1))
        assert len(count) == updates


def effect_of_calls(argument, calls):
    def effect(model):
        count = []
        model.learn(TRIALS, seed=1, **{argument: lambda: count.append(len(model.memory()[0]))})
        assert len(count) == calls

    return effect


def effect_of_context(model):
    before = model.weights()
    model.learn(TRIALS, learning_rate=RATE, seed=1, context="elsewhere")
    same_weights(model, before)
    assert np.abs(model.weights("elsewhere")["actor_bias"] - before["actor_bias"]).max() > RATE / 2


def effect_of_execution_mode(model):
    model.learn(TRIALS, seed=1, execution_mode=pnl.ExecutionMode.PyTorch)
    with pytest.raises(NotTrainable, match="PyTorch mode only"):
        model.learn(TRIALS, seed=1, execution_mode=pnl.ExecutionMode.Python)


def effect_of_synchronised_matrices(model):
    for when, distinct in (("minibatch", N), ("run", 1)):
        seen = []

        model.learn(
            TRIALS,
            learning_rate=RATE,
            seed=1,
            synch_projection_matrices_with_torch=when,
            call_after_minibatch=lambda s=seen: s.append(model.weights()["actor_bias"].tobytes()),
        )
        assert len(set(seen)) == distinct


def effect_of_synchronised_values(model):
    for when, distinct in (("minibatch", N), ("run", 1)):
        seen = []
        model.learn(
            TRIALS,
            seed=1,
            synch_node_values_with_torch=when,
            call_after_minibatch=lambda s=seen: s.append(model.cell.parameters.value.get(model).tobytes()),
        )
        assert len(set(seen)) == distinct


def effect_of_synchronised_results(model):
    for when, more in (("minibatch", [0, 1, 2, 3]), ("run", [0, 0, 0, 0])):
        before, seen = len(model.results), []
        model.learn(
            TRIALS,
            seed=1,
            synch_results_with_torch=when,
            call_after_minibatch=lambda s=seen: s.append(len(model.results)),
        )
        # During a call, they are those of this call alone.
        assert seen in (more, [m + 1 for m in more if when == "minibatch"])
        assert len(model.results) == before + N


def effect_of_retained_losses(model):
    model.learn(TRIALS, seed=1, retain_torch_losses="minibatch")
    losses = list(model.torch_losses)
    total = model.record.policy_loss + model.record.value_loss
    np.testing.assert_allclose(np.ravel([float(np.squeeze(loss)) for loss in losses])[-N:], total, rtol=1e-6)
    kept = len(losses)
    model.learn(TRIALS, seed=1, retain_torch_losses=None)
    assert len(model.torch_losses) == kept


def effect_of_report(**options):
    def effect(model, capsys):
        model.learn(TRIALS, seed=1, **options)
        assert plain_label(model.name) in capsys.readouterr().out

    return effect


def effect_of_recording(model):
    options = {"report_output": pnl.ReportOutput.TERSE, "report_to_devices": pnl.ReportDevices.RECORD}
    model.learn(TRIALS, seed=1, **options)
    assert "TRIAL 3" in model.recorded_reports


def effect_of_log(model):
    with pytest.warns(GeneralPathWarning):
        model.learn(TRIALS, seed=1, log=True)
    for node in model.nodes:
        assert sum(len(log) for log in node.parameters.value.log.values()) == N * T


TERSE = pnl.ReportOutput.TERSE
EFFECTS = {
    "inputs": effect_of_inputs,
    "epochs": effect_of_epochs,
    "learning_rate": effect_of_learning_rate,
    "minibatch_size": effect_of_minibatch_size,
    "call_before_minibatch": effect_of_calls("call_before_minibatch", N),
    "call_after_minibatch": effect_of_calls("call_after_minibatch", N),
    "call_before_trial": effect_of_calls("call_before_trial", N + 1),
    "call_after_trial": effect_of_calls("call_after_trial", N),
    "context": effect_of_context,
    "execution_mode": effect_of_execution_mode,
    "synch_projection_matrices_with_torch": effect_of_synchronised_matrices,
    "synch_node_values_with_torch": effect_of_synchronised_values,
    "synch_results_with_torch": effect_of_synchronised_results,
    "retain_torch_losses": effect_of_retained_losses,
    "report_output": effect_of_report(report_output=TERSE),
    "report_params": effect_of_report(report_output=TERSE, report_params=pnl.ReportParams.ALL),
    "report_progress": effect_of_report(report_progress=pnl.ReportProgress.ON),
    "report_simulations": effect_of_report(report_output=TERSE, report_simulations=pnl.ReportSimulations.ON),
    "report_to_devices": effect_of_recording,
    "log": effect_of_log,
}


@pytest.mark.parametrize("argument", sorted(HONOURED))
def test_honoured_arguments_have_their_effect(argument, model, request):
    effect = EFFECTS[argument]
    needs = [name for name in inspect.signature(effect).parameters if name != "model"]
    effect(model, **{name: request.getfixturevalue(name) for name in needs})


def test_the_optimiser_goes_on_after_a_refusal(model):
    """A refused call leaves nothing behind."""
    plain, states = reference(), tuple(np.zeros((2, N, H)))
    settings = {"actions": TRIALS.targets, "initial_states": states, "learning_rate": RATE}
    model.learn(TRIALS, **settings)
    with pytest.raises(NotTrainable):
        model.learn(TRIALS, **settings, patience=1)
    model.learn(TRIALS, **settings)
    for _ in range(2):
        train(plain, TRIALS, **settings)
    same_weights(model, plain)
    assert torch.get_num_threads() == 1
