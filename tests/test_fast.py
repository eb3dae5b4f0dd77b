"""The fast path: it is taken where the graph is the standard one, and is the general path in other clothes."""

import warnings

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine
from eplstm.comparisons.equivalence import STEP_FIELDS
from eplstm.models import EpisodicLSTMComposition, GeneralPathWarning, ModelConfig, ReferenceEpisodicLSTM, train
from eplstm.models.losses import LossSettings, Outcome, losses, losses_and_slopes, trial_tensors
from eplstm.models.source import stretches_between
from eplstm.tasks import Trials
from eplstm.tasks.trials import earned

D, H, A = 5, 3, 4
ATOL = 1e-10
LEARNED = (*STEP_FIELDS, "memory", "action", "policy_loss", "value_loss")


CONFIG = ModelConfig(D, H, A, memory_capacity=4)


def make_trials(n=6, steps=5, seed=0):
    rng = np.random.default_rng(seed)
    return Trials(
        inputs=rng.standard_normal((n, steps, D)),
        targets=rng.integers(A, size=(n, steps)),
        encode=rng.random((n, steps)) < 0.4,
        retrieve=rng.random((n, steps)) < 0.8,
    )


def same(a, b, names=LEARNED):
    for name in names:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=ATOL, err_msg=name)


def same_weights(a, b):
    ours, others = a.weights(), b.weights()
    for name in ours:
        np.testing.assert_allclose(ours[name], others[name], rtol=0, atol=ATOL, err_msg=name)


@pytest.fixture
def pair():
    """The same composition on the fast and on the general path."""
    return pristine(CONFIG), pristine(CONFIG, fast=False, which=1)


def train_both(pair, trials=None, **settings):
    """Train both from the same weights with the same draws; the records."""
    weights = ReferenceEpisodicLSTM(pair[0].config, seed=4).double().weights()
    records = []
    for model in pair:
        model.set_weights({k: v + 0.1 for k, v in weights.items()})
        model.set_optimizer_state({})
        model.clear_memory()
        settings = {"learning_rate": 0.01, "seed": 5, **settings}
        records.append(train(model, make_trials() if trials is None else trials, **settings))
    return records


# ---- the two paths against each other ----------------------------------------------------------------------


def test_a_loss_of_the_states_alone(pair):
    """Read-outs have no gradient then; other losses are the ladder's."""
    one, two = train_both(pair, record_gradients=True, loss=lambda trials: trials.hidden.sum())
    assert [model.detour for model in pair] == [None, "fast_path is off"]
    same(one, two)
    for name in one.gradients:
        np.testing.assert_allclose(one.gradients[name], two.gradients[name], rtol=0, atol=ATOL, err_msg=name)
    same_weights(*pair)


def test_learning_rates_by_projection_and_freezing(pair):
    rates = []
    for model in pair:
        slow, frozen = model.parts.learned["hidden_weight", "forget"], model.parts.learned["actor_weight", "actor"]
        rates.append({slow.name: 0.001, frozen.name: False, pnl.DEFAULT_LEARNING_RATE: 0.02})
    trials = make_trials()
    for model, rate in zip(pair, rates, strict=True):
        model.set_weights(ReferenceEpisodicLSTM(model.config, seed=4).double().weights())
        model.set_optimizer_state({})
        model.clear_memory()
        before = model.weights()
        model.learn(trials, seed=5, learning_rate=rate)
        np.testing.assert_array_equal(model.weights()["actor_weight"], before["actor_weight"])
        assert 0 < np.abs(model.weights()["hidden_weight"] - before["hidden_weight"])[:H].max() < 0.011
    same(pair[0].record, pair[1].record)
    same_weights(*pair)
    for model in pair:  # the rates of that call are gone
        model.learn(trials, seed=5, learning_rate=0.01)
    same_weights(*pair)


def test_what_psyneulink_sees_afterwards(pair):
    """Values of nodes, results and output ports are those of the general path."""
    train_both(pair)
    for ours, others in zip(pair[0].nodes, pair[1].nodes, strict=True):
        a, b = (node.parameters.value.get(model) for node, model in zip((ours, others), pair, strict=True))
        assert len(a) == len(b), ours.name
        for one, two in zip(a, b, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=ATOL, err_msg=ours.name)
        for one, two in zip(ours.output_ports, others.output_ports, strict=True):
            values = (p.parameters.value.get(m) for p, m in zip((one, two), pair, strict=True))
            np.testing.assert_allclose(*values, rtol=0, atol=ATOL, err_msg=one.name)
    results = [model.results for model in pair]
    assert len(results[0]) == len(results[1])
    for one, two in zip(results[0][-6:], results[1][-6:], strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=ATOL)


def test_a_call_back_may_clear_the_memory(pair):
    for model in pair:
        model.set_weights(ReferenceEpisodicLSTM(model.config, seed=4).double().weights())
        model.set_optimizer_state({})
        model.clear_memory()
    records = []
    for model in pair:
        clear = {"after_trial": lambda n, model=model: model.clear_memory() if n == 2 else None}
        records.append(train(model, make_trials(), seed=1, learning_rate=0.01, **clear))
    same(*records)
    assert len(pair[0].memory()[0]) == len(pair[1].memory()[0])


# ---- when it is taken --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def changing():
    return EpisodicLSTMComposition(CONFIG)


def gain(model):
    model.gates["forget"].function.parameters.gain.set(2.0, model)


def constant(model):
    model.hidden_bias.input_port.defaults.variable = np.array([2.0])


def fixed_matrix(model):
    projection = next(p for p in model.cell.path_afferents if p.sender.owner is model.new)
    projection.parameters.matrix.set(2 * np.eye(H), model)


def further_node(model):
    node = pnl.ProcessingMechanism(name="reader", default_variable=np.zeros(H))
    model.add_node(node)
    model.add_projection(pnl.MappingProjection(sender=model.hidden, receiver=node, matrix=np.eye(H)))
    model.exclude_node_roles(node, pnl.NodeRole.OUTPUT)


def random_ties(model):
    model.episodic_memory.function.equidistant_entries_select = pnl.RANDOM


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (random_ties, "RANDOM"),
        (fixed_matrix, "new"),
        (gain, "forget gate"),
        (constant, "hidden bias"),
        (further_node, "reader"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_changed_graph_takes_the_general_path_and_says_so(change, names, changing):
    """The changes pile up; each is named when it is new, and once."""
    trials = make_trials(n=1)
    train(changing, trials, seed=0)
    change(changing)
    with pytest.warns(GeneralPathWarning, match=names):
        train(changing, trials, seed=0)
    assert changing.detour is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(changing, trials, seed=0)
    if change is random_ties:
        changing.episodic_memory.function.equidistant_entries_select = pnl.OLDEST
        train(changing, trials, seed=0)
        assert changing.detour is None


# ---- simulate ----------------------------------------------------------------------------------------------


def test_simulate_side_by_side():
    """Trials that store nothing run side by side; a single trial of Python mode is the same."""
    model = pristine(CONFIG, seed=3)
    reference = ReferenceEpisodicLSTM(model.config, seed=3).double()
    trials = make_trials(n=9)
    encode = np.zeros((9, 5), bool)
    encode[[2, 3], -1] = True
    trials = Trials(inputs=trials.inputs, targets=trials.targets, encode=encode)
    same(model.simulate(trials, seed=1), reference.run_trials(trials, seed=1), (*STEP_FIELDS, "memory", "action"))
    some = trials[:1]
    same(model.run_trials(some, seed=1), reference.run_trials(some, seed=1), (*STEP_FIELDS, "memory", "action"))
    assert len(model.results) == 5  # of run_trials alone
    empty = model.simulate(trials[:0], seed=1)
    assert empty.policy.shape == (0, 5, A)


# ---- parts -------------------------------------------------------------------------------------------------


def test_stretches():
    def stretches(encode, retrieve):
        return [(s.start, s.stop) for s in stretches_between(*(np.array(v, bool) for v in (encode, retrieve)))]

    assert stretches([0, 0, 0, 1], [1, 1, 1, 1]) == [(0, 4)]
    assert stretches([1, 0, 1, 0], [1, 1, 1, 1]) == [(0, 1), (1, 3), (3, 4)]
    assert stretches([1, 0, 1, 0], [1, 1, 0, 0]) == [(0, 1), (1, 4)]
    assert stretches([1, 1, 1, 1], [0, 0, 0, 0]) == [(0, 4)]
    assert stretches([[1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]]) == [(0, 1), (1, 3)]


@pytest.mark.parametrize(
    "settings",
    [
        LossSettings(gamma=0.7, entropy_weight=0.3, value_weight=0.5),
        LossSettings("cross_entropy"),
        LossSettings(lambda t: t.value.square().sum() + t.cell[..., 0].sum()),
    ],
)
def test_slopes_are_those_of_autograd(settings, rng):
    policy = rng.dirichlet(np.ones(A), size=(3, 5))
    policy[0, 0] = [1.0, 0.0, 0.0, 0.0]  # where the logarithm is cut off
    value, states = 2 * rng.standard_normal((3, 5)), rng.standard_normal((2, 3, 5, H))
    action, target = rng.integers(A, size=(2, 3, 5))
    action[0, 0] = target[0, 0] = 1
    target[1, 2:4], action[1, 2:4] = -1, -1  # no answer is asked for
    exists = np.arange(5) < np.array([[5], [5], [3]])
    target[~exists] = action[~exists] = -1
    rows, inputs = np.arange(3), np.zeros((3, 5, 1))
    outcome = Outcome(action, target, earned(action, target), exists, rows, rows * 0, inputs)
    leaves = {"policy": policy, "value": value, "hidden": states[0], "cell": states[1]}
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in leaves.items()}
    actor, critic = losses(trial_tensors(leaves, outcome, settings), settings)
    (actor + settings.value_weight * critic).sum().backward()
    ours = losses_and_slopes(policy, value, outcome, settings, *states)
    np.testing.assert_allclose(ours[0], actor.detach(), rtol=0, atol=ATOL)
    np.testing.assert_allclose(ours[1], critic.detach(), rtol=0, atol=ATOL)
    for name, leaf in leaves.items():
        slope = getattr(ours[2], name)
        assert (slope is None) == (leaf.grad is None), name
        if slope is not None:
            np.testing.assert_allclose(slope.reshape(leaf.shape), leaf.grad, rtol=1e-12, atol=ATOL)
