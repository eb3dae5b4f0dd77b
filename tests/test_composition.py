"""The composition: its graph is the model. What is changed in it is trained as ``run()`` computes it, or refused.

Both modes are compared on the same trials, forced actions, initial states and memory; where a change must be
trained, its gradient is also held against finite differences of the loss of Python mode.
"""

import re

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine
from eplstm.models import (
    EpisodicLSTMComposition,
    ModelConfig,
    NotTrainable,
    ReferenceEpisodicLSTM,
    train,
    weight_shapes,
)
from eplstm.models.backend import set_matrix
from eplstm.tasks import Trials

ATOL = 1e-10
"""float64 on both sides; they agree to 1e-15 a step."""
D, H, A, N, T = 3, 2, 4, 1, 2
CONFIG = ModelConfig(D, H, A, memory_capacity=4)
STEP_FIELDS = ("policy", "value", "hidden", "cell", "memory", "gates")
LEARNING_RATE = 0.05


def seeded(seed=3):
    return np.random.default_rng(seed)


def make_trials(n=N, steps=T, seed=3, size=D, n_actions=A, **changes):
    rng = seeded(seed)
    fields = {
        "inputs": rng.standard_normal((n, steps, size)),
        "targets": rng.integers(0, n_actions, (n, steps)),
        "encode": np.ones((n, steps), bool),
    }
    return Trials(**{**fields, **changes})


def forced(trials, hidden=H, n_actions=A, seed=4):
    """Actions and initial states, by the names of the arguments."""
    rng = seeded(seed)
    n = len(trials)
    return {
        "actions": rng.integers(0, n_actions, trials.targets.shape),
        "initial_states": (rng.standard_normal((n, hidden)), rng.standard_normal((n, hidden))),
    }


def make_weights(config=CONFIG, seed=5):
    rng = seeded(seed)
    return {name: 0.7 * rng.standard_normal(shape) for name, shape in weight_shapes(config).items()}


@pytest.fixture
def model():
    """A composition for the tests that leave its graph as it is."""
    model = pristine(CONFIG)
    model.set_weights(make_weights())
    fill(model)
    return model


def fill(model):
    config, rng = model.config, seeded(6)
    if config.memory_capacity:
        model.set_memory(rng.standard_normal((3, config.key_size)), rng.standard_normal((3, config.hidden_size)))


def close(a, b, names=STEP_FIELDS):
    for name in names:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=ATOL, err_msg=name)


def same_weights(a, b):
    a, b = (w if isinstance(w, dict) else w.weights() for w in (a, b))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=ATOL, err_msg=name)


def same_memory(a, b):
    for one, two in zip(a.memory(), b.memory(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)


def projection(sender, receiver):
    (found,) = [p for p in sender.efferents if p.receiver.owner is receiver]
    return found


def project(model, sender, receiver, size, seed=7, **kwargs):
    new = pnl.MappingProjection(
        sender=sender, receiver=receiver, matrix=seeded(seed).standard_normal(size), **kwargs
    )
    model.add_projection(new, feedback=kwargs.get("feedback"))
    return new


# ---- changes of the graph that are trained ------------------------------------------------------------------


def other_gain(model):
    model.gates["forget"].function.gain = 2.0


def other_function(model):
    model.gates["output"].function = pnl.ReLU()


def other_fixed_matrix(model):
    set_matrix(projection(model.new, model.cell), 0.5 * np.eye(H), model.default_execution_id)


def further_projection(model):
    project(model, model.input_node, model.actor, (D, A))


def fewer_projections(model):
    model.remove_projection(projection(model.input_node, model.gates["output"]))


def further_mechanism(model):
    node = pnl.ProcessingMechanism(name="feature", default_variable=np.zeros(2), function=pnl.Tanh())
    model.add_node(node)
    project(model, model.input_node, node, (D, 2))
    project(model, node, model.cell, (2, H))


def further_recurrent_mechanism(model):
    node = pnl.ProcessingMechanism(name="trace", default_variable=np.zeros(2))
    model.add_node(node)
    project(model, model.input_node, node, (D, 2))
    project(model, node, node, (2, 2), feedback=True)
    project(model, node, model.cell, (2, H))


def other_memory(model):
    function = model.episodic_memory.function
    function.kernel, function.retrieval, function.sharpness = "cosine", "average", 3.0


TRAINED = [
    other_gain,
    other_function,
    other_fixed_matrix,
    further_projection,
    fewer_projections,
    further_mechanism,
    further_recurrent_mechanism,
    other_memory,
]


@pytest.fixture(scope="module")
def made():
    """The composition in which the changes of this file pile up."""
    return EpisodicLSTMComposition(CONFIG)


@pytest.fixture
def growing(made):
    made.set_weights(make_weights())
    fill(made)
    return made


def steeper(model):
    model.gates["input"].function.gain = 1.5


def test_gradients_of_a_changed_graph(growing):
    """Changed before the first learn(); the gradient against finite differences of the loss in Python mode."""
    model, trials = growing, make_trials()
    steeper(model)
    record = train(model, trials, **forced(trials), learning_rate=0.0, record_gradients=True, loss="cross_entropy")
    weights, step = model.weights(), 1e-5
    for name, index in (("hidden_weight", (3, 0)), ("input_weight", (8, 1)), ("actor_bias", (1,))):
        losses = []
        for sign in (1, -1):
            moved = {k: v.copy() for k, v in weights.items()}
            moved[name][index] += sign * step
            model.set_weights(moved)
            fill(model)
            policy = model.run_trials(trials, **forced(trials)).policy
            losses.append(-np.log(np.take_along_axis(policy, trials.targets[..., None], -1)).sum())
        difference = (losses[0] - losses[1]) / (2 * step)
        assert abs(difference) > 1e-4
        # Error of a central difference: step² for the third derivative, 1e-16 / step for rounding.
        np.testing.assert_allclose(record.gradients[name][(0, *index)], difference, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("change", TRAINED, ids=lambda change: change.__name__)
def test_a_changed_graph_is_trained_as_it_is_run(change, growing):
    """Changed after a learn(), the harder case: the PyTorch form is there and must be left behind."""
    model, trials = growing, make_trials()
    fill(model)
    before = model.run_trials(trials, **forced(trials))
    change(model)
    fill(model)
    in_python = model.run_trials(trials, **forced(trials))
    memory = model.memory()
    fill(model)
    in_torch = train(model, trials, **forced(trials), learning_rate=LEARNING_RATE)
    assert max(np.abs(getattr(in_python, n) - getattr(before, n)).max() for n in STEP_FIELDS) > 1e-3
    close(in_torch, in_python)
    for one, two in zip(memory, model.memory(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)
    # What was learned with the change is what run() computes from then on.
    fill(model)
    after = model.run_trials(trials, **forced(trials))
    fill(model)
    close(train(model, trials, **forced(trials), learning_rate=0.0), after)
    assert np.abs(after.policy - in_python.policy).max() > 1e-4


# ---- changes of the graph that are refused -------------------------------------------------------------------


REFUSED = {  # whose, attribute, value, what is named
    "function of an output port": (lambda m: m.new.output_port, "function", pnl.Linear(slope=2.0), "cell c|new i"),
    "function of an input port": (
        lambda m: m.gates["input"].input_port,
        "function",
        pnl.LinearCombination(offset=3.0),
        "input gate",
    ),
    "shift of tanh": (lambda m: m.gates["candidate"].function, "x_0", 0.5, "candidate"),
    "scale of tanh": (lambda m: m.gates["candidate"].function, "scale", 2.0, "candidate"),
    "end of a trial": (
        lambda m: m.scheduler,
        "termination_conds",
        {pnl.TimeScale.TRIAL: pnl.AfterNPasses(2)},
        "conditions",
    ),
}
"""Further nodes that cannot be trained are in test_backend.py, with a smaller composition."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_as_it_is_run_is_refused(name, growing):
    """Nothing is learned then, and what was stored stays; taken back, it learns again."""
    whose, attribute, value, culprit = REFUSED[name]
    trials, owner = make_trials(), whose(growing)
    weights, memory, before = growing.weights(), growing.memory(), getattr(owner, attribute)
    before = getattr(before, "base", before)  # of a Parameter, its value
    setattr(owner, attribute, value)
    with pytest.raises(NotTrainable, match=culprit):
        train(growing, trials, **forced(trials), learning_rate=LEARNING_RATE)
    same_weights(growing, weights)
    for one, two in zip(growing.memory(), memory, strict=True):
        np.testing.assert_array_equal(one, two)
    setattr(owner, attribute, before)
    train(growing, trials, **forced(trials), learning_rate=0.0)


# ---- the graph ----------------------------------------------------------------------------------------------


def plain_name(component):
    return re.sub(r"-\d+$", "", component.name)


def test_nodes_have_the_names_of_the_paper(model):
    assert {plain_name(node) for node in model.nodes} == {
        "input", "input bias", "hidden bias", "read-out bias", "retrieve", "encode",
        "forget gate", "input gate", "output gate", "reinstatement gate", "candidate",
        "episodic memory", "memory m", "kept f∘c", "new i∘ĉ", "reinstated r∘m",
        "cell c", "tanh(c)", "hidden h", "actor π", "critic v", "encoding",
    }  # fmt: skip


def test_roles(model):
    def with_role(role):
        return {plain_name(node) for node in model.get_nodes_by_role(role)}

    assert with_role(pnl.NodeRole.INPUT) == {"input", "retrieve", "encode"}
    assert with_role(pnl.NodeRole.OUTPUT) == {"actor π", "critic v"}
    assert with_role(pnl.NodeRole.BIAS) == {"input bias", "hidden bias", "read-out bias"}
    assert with_role(pnl.NodeRole.FEEDBACK_SENDER) == {"hidden h", "cell c"}


def test_feedback_projections(model):
    found = {(plain_name(p.sender.owner), plain_name(p.receiver.owner)) for p in model.feedback_projections}
    gates = ("forget gate", "input gate", "output gate", "reinstatement gate", "candidate")
    assert found == {("cell c", "kept f∘c")} | {("hidden h", gate) for gate in gates}


def test_without_a_memory_there_are_none_of_its_nodes(without_memory):
    assert {plain_name(node) for node in without_memory[0].nodes} == {
        "input", "input bias", "hidden bias", "read-out bias", "forget gate", "input gate", "output gate",
        "candidate", "kept f∘c", "new i∘ĉ", "cell c", "tanh(c)", "hidden h", "actor π", "critic v",
    }  # fmt: skip


# ---- weights, memory, learning ---------------------------------------------------------------------------------


def test_weights_there_and_back(model):
    reference = ReferenceEpisodicLSTM(CONFIG).double()
    for seed in (11, 12):
        weights = make_weights(seed=seed)
        model.set_weights(weights)
        same_weights(model, weights)
    reference.set_weights(model.weights())
    same_weights(reference, model)
    model.weights()["actor_bias"][:] = 99
    same_weights(reference, model)


def test_psyneulinks_own_call_for_one_projection(model):
    weight = model.parts.learned["actor_weight", "actor"]
    model.set_weights(weight, np.full((H, A), 0.5))
    np.testing.assert_array_equal(model.weights()["actor_weight"], np.full((A, H), 0.5))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"actor_bias": np.zeros(A + 1)}, "shape"),
        ({"critic_bias": np.array([np.nan])}, "finite"),
        ({"nonsense": np.zeros(1)}, "unknown"),
    ],
    ids=["shape", "not a number", "name"],
)
def test_bad_weights_change_nothing(model, broken, message):
    before = model.weights()
    with pytest.raises(ValueError, match=message):
        model.set_weights({**make_weights(seed=13), **broken})
    same_weights(model, before)


def test_inputs_in_psyneulinks_forms(model):
    """Trials, a dict of arrays and a list of dicts, one a trial, are the same."""
    trials, records = make_trials(n=2, seed=30), []
    nodes = {
        model.input_node: trials.inputs,
        model.retrieve_node: trials.retrieve[..., None].astype(float),
        model.encode_node: trials.encode[..., None].astype(float),
    }
    as_list = [{node: values[k] for node, values in nodes.items()} for k in range(2)]
    for inputs, targets in (
        (trials, None),
        (nodes, trials.targets),
        (nodes, {model.actor: trials.targets}),
        (as_list, trials.targets),
    ):
        model.set_weights(make_weights())
        fill(model)
        model.learn(inputs, targets, **forced(trials), learning_rate=0.0)
        records.append((model.record, model.memory()))
    for record, memory in records[1:]:
        close(record, records[0][0], (*STEP_FIELDS, "policy_loss", "value_loss"))
        for one, two in zip(memory, records[0][1], strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)


def test_switches_left_out_retrieve_always_and_store_never(model):
    trials = make_trials(seed=31)
    fill(model)
    before = model.memory()
    model.learn({model.input_node: trials.inputs}, trials.targets, **forced(trials), learning_rate=0.0)
    assert np.abs(model.record.memory).min() > 0
    for one, two in zip(model.memory(), before, strict=True):
        np.testing.assert_array_equal(one, two)


def bad_calls(model):
    trials = make_trials()
    inputs = {model.input_node: trials.inputs}
    return {
        "entry": ({}, trials.targets),
        "targets": (inputs, None),
        "are not inputs": ({**inputs, model.cell: trials.inputs}, trials.targets),
        "finite": ({model.input_node: trials.inputs * np.inf}, trials.targets),
        "input columns": ({model.input_node: trials.inputs[:, :, :2]}, trials.targets),
        "whole numbers": (inputs, trials.targets + 0.5),
        "actions": (inputs, trials.targets + A),
    }


@pytest.mark.parametrize(
    "message", ["entry", "targets", "are not inputs", "finite", "input columns", "whole numbers", "actions"]
)
def test_bad_inputs(model, message):
    before = model.weights()
    with pytest.raises(ValueError, match=message):
        model.learn(*bad_calls(model)[message])
    same_weights(model, before)


def test_two_contexts_run_apart(model):
    trials, weights = make_trials(seed=32), make_weights(seed=33)
    model.set_weights(make_weights())
    fill(model)
    own, own_memory = model.run_trials(trials, **forced(trials)), model.memory()
    model.set_weights(weights, context="other")
    model.clear_memory(context="other")
    other = model.run_trials(trials, **forced(trials), context="other")
    reference = ReferenceEpisodicLSTM(CONFIG).double()
    reference.set_weights(weights)
    close(other, reference.run_trials(trials, **forced(trials)))
    for one, two in zip(model.memory(context="other"), reference.memory(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)
    for one, two in zip(model.memory(), own_memory, strict=True):
        np.testing.assert_array_equal(one, two)
    model.set_weights(make_weights())
    fill(model)
    close(model.run_trials(trials, **forced(trials)), own)


def test_no_trials(model):
    before = model.weights()
    trials = make_trials()[:0]
    for record in (train(model, trials), model.run_trials(trials)):
        assert len(record) == 0 and record.gates.shape == (0, T, 4, H)
    same_weights(model, before)


@pytest.mark.slow
def test_sizes_of_one():
    config = ModelConfig(1, 1, 1, memory_capacity=1)
    model, reference = pristine(config), ReferenceEpisodicLSTM(config).double()
    for m in (model, reference):
        m.set_weights(make_weights(config))
        m.set_memory(np.array([[0.3]]), np.array([[0.7]]))
    trials = make_trials(n=2, steps=1, size=1, n_actions=1)
    settings = forced(trials, 1, 1)
    close(*(train(m, trials, **settings, learning_rate=LEARNING_RATE) for m in (model, reference)))
    close(*(m.run_trials(trials, **settings) for m in (model, reference)))
    same_weights(model, reference)
    same_memory(model, reference)


# ---- without a memory: torch's LSTM -----------------------------------------------------------------------------


@pytest.fixture
def without_memory():
    """The composition, and torch.nn.LSTM with read-outs and the same weights (its gate order: i, f, ĉ, o)."""
    config = ModelConfig(D, H, A, memory_capacity=0)
    weights = make_weights(config)
    order = np.concatenate([np.arange(H) + k * H for k in (1, 0, 4, 2)])
    lstm = torch.nn.LSTM(D, H, batch_first=True, dtype=torch.float64)
    actor, critic = (torch.nn.Linear(H, size, dtype=torch.float64) for size in (A, 1))
    with torch.no_grad():
        for parameter, name in (
            (lstm.weight_ih_l0, "input_weight"),
            (lstm.bias_ih_l0, "input_bias"),
            (lstm.weight_hh_l0, "hidden_weight"),
            (lstm.bias_hh_l0, "hidden_bias"),
        ):
            parameter.copy_(torch.from_numpy(weights[name][order]))
        for layer, name in ((actor, "actor"), (critic, "critic")):
            layer.weight.copy_(torch.from_numpy(weights[f"{name}_weight"]))
            layer.bias.copy_(torch.from_numpy(weights[f"{name}_bias"]))
    composition = pristine(config)
    composition.set_weights(weights)
    return composition, lstm, actor, critic, order


def test_without_memory_it_is_torchs_lstm(without_memory):
    """Trajectories in both modes, then three minibatches of two trials: the mean of the trials' losses."""
    model, lstm, actor, critic, order = without_memory
    trials = make_trials(n=6, steps=3)
    settings = forced(trials)
    h0, c0 = (torch.from_numpy(state)[None] for state in settings["initial_states"])
    inputs, actions = torch.from_numpy(trials.inputs), torch.from_numpy(settings["actions"])
    reward = (actions == torch.from_numpy(trials.targets)).double()

    record = model.run_trials(
        trials[:2], settings["actions"][:2], tuple(s[:2] for s in settings["initial_states"])
    )
    hidden = lstm(inputs[:2], (h0[:, :2], c0[:, :2]))[0].detach()
    np.testing.assert_allclose(record.hidden, hidden, rtol=0, atol=ATOL)
    np.testing.assert_allclose(record.policy, torch.softmax(actor(hidden), -1).detach(), rtol=0, atol=ATOL)

    model.learn(trials, **settings, learning_rate=LEARNING_RATE, minibatch_size=2)
    optimizer = torch.optim.Adam([*lstm.parameters(), *actor.parameters(), *critic.parameters()], lr=LEARNING_RATE)
    for k in range(0, 6, 2):
        rows = slice(k, k + 2)
        hidden = lstm(inputs[rows], (h0[:, rows].contiguous(), c0[:, rows].contiguous()))[0]
        log_policy, value = torch.log_softmax(actor(hidden), -1), critic(hidden)[..., 0]
        advantage = (reward[rows] - value).detach()
        chosen = log_policy.gather(-1, actions[rows][..., None])[..., 0]
        losses = -chosen * advantage + torch.nn.functional.smooth_l1_loss(value, reward[rows], reduction="none")
        optimizer.zero_grad()
        losses.sum(1).mean().backward()
        optimizer.step()
    weights = model.weights()
    for parameter, name in ((lstm.weight_hh_l0, "hidden_weight"), (lstm.bias_ih_l0, "input_bias")):
        np.testing.assert_allclose(weights[name][order], parameter.detach(), rtol=0, atol=ATOL, err_msg=name)
    np.testing.assert_allclose(weights["critic_weight"], critic.weight.detach(), rtol=0, atol=ATOL)
    np.testing.assert_allclose(weights["actor_bias"], actor.bias.detach(), rtol=0, atol=ATOL)
