"""The fast path: it is taken where the graph is the standard one, and is the general path in other clothes."""

import warnings

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import rarely
from eplstm.comparisons.equivalence import STEP_FIELDS
from eplstm.models import EpisodicLSTMComposition, GeneralPathWarning, ModelConfig, ReferenceEpisodicLSTM, train
from eplstm.models.losses import LossSettings, Outcome, losses, losses_and_slopes, trial_tensors
from eplstm.models.source import stretches_between
from eplstm.tasks import Trials
from eplstm.tasks.trials import earned

D, H, A = 5, 3, 4
ATOL = 1e-10
LEARNED = (*STEP_FIELDS, "memory", "action", "policy_loss", "value_loss")


def make_model(fast=True, **changes):
    sizes = {"input_size": D, "hidden_size": H, "n_actions": A, "memory_capacity": 4}
    model = EpisodicLSTMComposition(ModelConfig(**{**sizes, **changes}), seed=3)
    model.fast_path = fast
    return model


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


@pytest.fixture(scope="module")
def pair():
    """The same composition on the fast and on the general path."""
    return make_model(), make_model(fast=False)


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


def smooth_policy(trials):
    return ((trials.policy - 0.5) ** 2).sum() + trials.value.sum() * trials.cell.sum() + trials.hidden.prod()


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.9, "entropy_weight": 0.2, "value_weight": 0.3},
        {"loss": "cross_entropy"},
        rarely({"loss": smooth_policy}),
        {"loss": lambda trials: trials.hidden.sum()},
    ],
    ids=["actor-critic", "cross-entropy", "own loss", "own loss of the states alone"],
)
def test_both_paths_learn_the_same(settings, pair):
    one, two = train_both(pair, record_gradients=True, **settings)
    assert [model.detour for model in pair] == [None, "fast_path is off"]
    same(one, two)
    for name in one.gradients:
        np.testing.assert_allclose(one.gradients[name], two.gradients[name], rtol=0, atol=ATOL, err_msg=name)
    same_weights(*pair)
    for ours, others in zip(pair[0].memory(), pair[1].memory(), strict=True):
        np.testing.assert_allclose(ours, others, rtol=0, atol=ATOL)


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
    return make_model()


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
        (gain, "forget gate"),
        (constant, "hidden bias"),
        (fixed_matrix, "new"),
        (further_node, "reader"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_changed_graph_takes_the_general_path_and_says_so(change, names, changing):
    """The changes pile up; each is named when it is new, and once."""
    trials = make_trials(n=1)
    train(changing, trials, seed=0)
    if change is random_ties:
        assert changing.detour is None
    change(changing)
    if change is random_ties:
        with pytest.warns(GeneralPathWarning, match=names):
            train(changing, trials, seed=0)
        changing.episodic_memory.function.equidistant_entries_select = pnl.OLDEST
        train(changing, trials, seed=0)
        assert changing.detour is None
        return
    train(changing, trials, seed=0)
    assert changing.detour is not None


def test_settings_of_the_memory_and_weights_may_change():
    model, reference = make_model(), ReferenceEpisodicLSTM
    trials = make_trials()
    train(model, trials[:1], seed=0)
    function = model.episodic_memory.function
    function.kernel, function.retrieval, function.sharpness = "cosine", "average", 3.0
    function.parameters.max_entries.set(2, model)
    other = reference(ModelConfig(D, H, A, 2, kernel="cosine", retrieval="average", sharpness=3.0), 0).double()
    model.clear_memory()
    model.set_weights(other.weights())
    model.set_optimizer_state({})
    records = [train(m, trials, seed=0, learning_rate=0.01) for m in (model, other)]
    assert model.detour is None
    same(*records)
    same_weights(model, other)


def test_the_note_comes_once():
    model = make_model()
    gain(model)
    with pytest.warns(GeneralPathWarning, match="forget gate"):
        train(model, make_trials(n=1), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, make_trials(n=1), seed=0)


# ---- simulate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
def test_simulate_gives_the_numbers_of_run(fast, pair):
    model, trials = pair[not fast], make_trials(seed=7)
    train_both(pair)
    weights = model.weights()
    simulated, memory = model.simulate(trials, seed=2), model.memory()
    reference = ReferenceEpisodicLSTM(model.config).double()
    reference.set_weights(weights)
    train_both(pair)
    reference.set_memory(*model.memory())
    expected = reference.run_trials(trials, seed=2)
    same(simulated, expected, (*STEP_FIELDS, "memory", "action", "reward"))
    for ours, others in zip(memory, reference.memory(), strict=True):
        np.testing.assert_allclose(ours, others, rtol=0, atol=ATOL)
    model.set_memory(*reference.memory())
    two = trials[:1]
    same(model.simulate(two, seed=2), reference.run_trials(two, seed=2), (*STEP_FIELDS, "memory", "action"))


def test_simulate_before_any_learning_and_side_by_side():
    """Trials that store nothing run side by side; a single step of Python mode is the same."""
    model = make_model()
    reference = ReferenceEpisodicLSTM(model.config, seed=3).double()
    trials = make_trials(n=9)
    encode = np.zeros((9, 5), bool)
    encode[[2, 3], -1] = True
    trials = Trials(inputs=trials.inputs, targets=trials.targets, encode=encode)
    same(model.simulate(trials, seed=1), reference.run_trials(trials, seed=1), (*STEP_FIELDS, "memory", "action"))
    some = trials[:1]
    same(model.run_trials(some, seed=1), reference.run_trials(some, seed=1), (*STEP_FIELDS, "memory", "action"))
    assert model.results is None or len(model.results) == 5  # of run_trials alone
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
    outcome = Outcome(action, target, earned(action, target), exists)
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
