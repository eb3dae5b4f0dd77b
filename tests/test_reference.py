"""The plain-PyTorch reference, part by part, against things that share no code with it.

Numbers worked out with ``math`` in the order of the paper's equations, ``torch.nn.LSTM``, brute-force numpy for
retrieval, and central differences for gradients. All in float64 where numbers are compared.
"""

import math

import numpy as np
import pytest
import torch
from eplstm.models import GATE_ORDER, LossSettings, ModelConfig, ReferenceEpisodicLSTM, TrialTensors, train
from eplstm.models.losses import losses
from eplstm.models.reference import ReferenceMemory
from eplstm.tasks import Trials

ATOL = 1e-10
"""Two float64 computations of the same sums, some dozens of terms long, agree to 1e-14; the rest is margin."""
DIFFERENCE_STEP = 1e-6
DIFFERENCE_RTOL = 1e-6
"""Central differences err by step² (1e-12) and by rounding over step (1e-10), here of gradients of about 1."""
F, I, O, R, C = range(5)  # noqa: E741 (the rows of GATE_ORDER, by the paper's letters)


def reference(config, seed=1, biases=0.3):
    """A float64 reference whose biases are not zero, and differ between inputs and hidden."""
    model = ReferenceEpisodicLSTM(config, seed=seed).double()
    weights, rng = model.weights(), np.random.default_rng(seed + 1000)
    for name in weights:
        if name.endswith("bias"):
            weights[name] = biases * rng.standard_normal(weights[name].shape)
    model.set_weights(weights)
    return model


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def some_states(rng, n, size):
    return 0.5 * rng.standard_normal((n, size)), 0.5 * rng.standard_normal((n, size))


def states_equal(one, two):
    for name in ("policy", "value", "action", "reward", "hidden", "cell", "memory", "gates"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


# ---- one step by hand --------------------------------------------------------------------------------


def test_one_step_by_hand_with_one_unit():
    """D = H = 1, A = 2; one entry is stored: its value, -0.7, comes back."""
    model = ReferenceEpisodicLSTM(ModelConfig(1, 1, 2, 3), seed=0).double()
    model.set_weights(
        {
            "input_weight": np.array([[0.1], [0.2], [0.3], [0.4], [0.5]]),
            "input_bias": np.array([0.01, 0.02, 0.03, 0.04, 0.05]),
            "hidden_weight": np.array([[-0.6], [0.7], [-0.8], [0.9], [-1.0]]),
            "hidden_bias": np.array([0.5, -0.4, 0.3, -0.2, 0.1]),
            "actor_weight": np.array([[1.5], [-0.5]]),
            "actor_bias": np.array([0.2, 0.1]),
            "critic_weight": np.array([[2.0]]),
            "critic_bias": np.array([-0.3]),
        }
    )
    model.set_memory(np.array([[5.0]]), np.array([[-0.7]]))
    trials = Trials(inputs=[[[1.2]]], targets=[[1]], encode=[[True]])
    record = model.run_trials(trials, actions=[[1]], initial_states=([[0.25]], [[-0.4]]))

    x, h, c = 1.2, 0.25, -0.4
    f_t = sigmoid(0.1 * x + 0.01 - 0.6 * h + 0.5)
    i_t = sigmoid(0.2 * x + 0.02 + 0.7 * h - 0.4)
    o_t = sigmoid(0.3 * x + 0.03 - 0.8 * h + 0.3)
    r_t = sigmoid(0.4 * x + 0.04 + 0.9 * h - 0.2)
    candidate = math.tanh(0.5 * x + 0.05 - 1.0 * h + 0.1)
    m_t = math.tanh(-0.7)
    c_t = f_t * c + i_t * candidate + r_t * m_t
    h_t = o_t * math.tanh(c_t)
    first, second = math.exp(1.5 * h_t + 0.2), math.exp(-0.5 * h_t + 0.1)

    np.testing.assert_allclose(record.gates[0, 0, :, 0], [f_t, i_t, o_t, r_t], atol=ATOL)
    np.testing.assert_allclose(record.memory, [[[m_t]]], atol=ATOL)
    np.testing.assert_allclose(record.cell, [[[c_t]]], atol=ATOL)
    np.testing.assert_allclose(record.hidden, [[[h_t]]], atol=ATOL)
    np.testing.assert_allclose(
        record.policy[0, 0], [first / (first + second), second / (first + second)], atol=ATOL
    )
    np.testing.assert_allclose(record.value, [[2.0 * h_t - 0.3]], atol=ATOL)
    assert record.action.tolist() == [[1]]
    assert record.reward.tolist() == [[1]]
    keys, values = model.memory()
    np.testing.assert_array_equal(keys, [[5.0], [1.2]])
    np.testing.assert_allclose(values, [[-0.7], [c_t]], atol=ATOL)


def test_rows_of_the_weights_are_blocks_in_gate_order(rng):
    """One bias at a time: row g · H + u drives gate g of unit u, and no other."""
    config = ModelConfig(2, 2, 2, 4)
    trials = Trials(inputs=rng.standard_normal((1, 1, 2)), targets=[[0]], encode=[[False]])
    start = some_states(rng, 1, 2)
    for name in ("input_bias", "hidden_bias"):
        for gate, unit in np.ndindex(len(GATE_ORDER), 2):
            model = reference(config)
            before = model.run_trials(trials, actions=[[0]], initial_states=start)
            weights = model.weights()
            weights[name][2 * gate + unit] += 1
            model.set_weights(weights)
            after = model.run_trials(trials, actions=[[0]], initial_states=start)
            moved = before.gates[0, 0] != after.gates[0, 0]
            expected = np.zeros((4, 2), bool)
            if GATE_ORDER[gate] != "candidate":
                expected[gate, unit] = True
            np.testing.assert_array_equal(moved, expected)
            if GATE_ORDER[gate] in ("candidate", "forget", "input"):
                np.testing.assert_array_equal(before.cell[0, 0] != after.cell[0, 0], np.arange(2) == unit)


# ---- as a plain LSTM ---------------------------------------------------------------------------------


def lstm_of_torch(weights, size):
    """``torch.nn.LSTM`` with the weights; its gates lie in the order i, f, g (the candidate), o."""
    rows = np.concatenate([np.arange(gate * size, (gate + 1) * size) for gate in (I, F, C, O)])
    lstm = torch.nn.LSTM(weights["input_weight"].shape[1], size, batch_first=True).double()
    own = {
        "weight_ih_l0": "input_weight",
        "weight_hh_l0": "hidden_weight",
        "bias_ih_l0": "input_bias",
        "bias_hh_l0": "hidden_bias",
    }
    lstm.load_state_dict({theirs: torch.tensor(weights[name][rows]) for theirs, name in own.items()})
    return lstm, own, rows


@pytest.mark.parametrize("how", ["no memory", "gate closed", "retrieval off"])
def test_without_recall_it_is_the_lstm_of_torch(how, make_config, make_trials, rng):
    """Forward and gradients; with the gate's bias at −1000, r_t = σ(−1000) is 0 exactly."""
    size, n, steps = 3, 3, 6
    model = reference(make_config(memory_capacity=0 if how == "no memory" else 6))
    trials = make_trials(n=n, steps=steps)
    if how == "gate closed":
        weights = model.weights()
        weights["input_bias"][R * size : (R + 1) * size] = -1e3
        model.set_weights(weights)
        model.set_memory(rng.standard_normal((4, 5)), rng.standard_normal((4, size)))
    if how == "retrieval off":
        trials = trials.lesioned(retrieve=False)
    h0, c0 = some_states(rng, n, size)
    lstm, own, rows = lstm_of_torch(model.weights(), size)
    probe = torch.tensor(rng.standard_normal((n, 2, steps, size)))

    hidden, (_, last_cell) = lstm(torch.tensor(trials.inputs), (torch.tensor(h0)[None], torch.tensor(c0)[None]))
    trial_now = []

    def loss(trial):
        return (trial.hidden * probe[len(trial_now), 0]).sum()

    record = train(
        model,
        trials,
        learning_rate=0.0,  # gradients of all trials at the same weights
        loss=loss,
        initial_states=(h0, c0),
        record_gradients=True,
        after_trial=trial_now.append,
    )
    np.testing.assert_allclose(record.hidden, hidden.detach(), atol=ATOL)
    np.testing.assert_allclose(record.cell[:, -1], last_cell[0].detach(), atol=ATOL)
    if how == "no memory":
        assert not record.gates[:, :, R].any()
        assert not record.memory.any()

    for trial in range(n):
        lstm.zero_grad()
        (hidden[trial] * probe[trial, 0]).sum().backward(retain_graph=True)
        for theirs, name in own.items():
            gradient = record.gradients[name][trial]
            np.testing.assert_allclose(gradient[rows], getattr(lstm, theirs).grad, atol=ATOL, err_msg=name)
            assert not gradient[R * size : (R + 1) * size].any()
            assert gradient[rows].any()


def test_capacity_zero_stores_nothing(make_config, make_trials):
    model = reference(make_config(memory_capacity=0))
    model.run_trials(make_trials(encode=np.ones((4, 6), bool)), seed=0)
    keys, values = model.memory()
    assert keys.shape == (0, 5)
    assert values.shape == (0, 3)


# ---- retrieval ---------------------------------------------------------------------------------------


def brute_similarity(kernel, query, key):
    """One query, one key, in plain loops over columns."""
    if kernel == "l1":
        return -sum(abs(q - k) for q, k in zip(query, key, strict=True))
    if kernel == "l2":
        return -math.sqrt(sum((q - k) ** 2 for q, k in zip(query, key, strict=True)))
    norms = [max(math.sqrt(sum(v * v for v in vector)), 1e-8) for vector in (query, key)]
    return sum(q * k for q, k in zip(query, key, strict=True)) / (norms[0] * norms[1])


def filled(config, keys, values):
    memory = ReferenceMemory(config)
    memory.to(torch.zeros((), dtype=torch.float64))
    for key, value in zip(keys, values, strict=True):
        memory.encode(torch.tensor(key, dtype=torch.float64), torch.tensor(value, dtype=torch.float64))
    return memory


@pytest.mark.parametrize("kernel", ["l2", "l1", "cosine"])
@pytest.mark.parametrize("key", [None, (0, 2), (2, 5), (3, 4)])
def test_nearest_entry_against_brute_force(kernel, key, make_config, rng):
    """Through whole trials: m_t of each step from the keys and values stored before, in numpy alone."""
    config = make_config(kernel=kernel, key=key, memory_capacity=4)
    model = reference(config)
    n, steps = 5, 4
    trials = Trials(
        inputs=rng.standard_normal((n, steps, 5)),
        targets=np.zeros((n, steps)),
        encode=rng.random((n, steps)) < 0.6,
        retrieve=rng.random((n, steps)) < 0.8,
    )
    record = model.run_trials(trials, seed=3)
    stored = []
    start, stop = key or (0, 5)
    for trial, t in np.ndindex(n, steps):
        query = trials.inputs[trial, t, start:stop]
        expected = np.zeros(3)
        if stored and trials.retrieve[trial, t]:
            expected = np.tanh(max(stored, key=lambda entry: brute_similarity(kernel, query, entry[0]))[1])
        np.testing.assert_allclose(record.memory[trial, t], expected, atol=ATOL)
        if trials.encode[trial, t]:
            stored = [*stored, (query, record.cell[trial, t])][-4:]
    assert trials.encode.sum() > 4  # the memory ran over
    keys, values = model.memory()
    np.testing.assert_array_equal(keys, [entry[0] for entry in stored])
    np.testing.assert_array_equal(values, [entry[1] for entry in stored])


@pytest.mark.parametrize("kernel", ["l2", "l1", "cosine"])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 20.0])
def test_average_of_all_entries(kernel, sharpness, make_config, rng):
    keys, values = rng.standard_normal((5, 5)), rng.standard_normal((5, 3))
    memory = filled(make_config(kernel=kernel, retrieval="average", sharpness=sharpness), keys, values)
    for query in rng.standard_normal((3, 5)):
        weight = np.exp([sharpness * brute_similarity(kernel, query, key) for key in keys])
        expected = weight @ values / weight.sum()
        np.testing.assert_allclose(memory.retrieve(torch.tensor(query)), expected, atol=ATOL)


def test_sharp_average_is_the_nearest(make_config, rng):
    keys, values = rng.standard_normal((5, 5)), rng.standard_normal((5, 3))
    memory = filled(make_config(retrieval="average", sharpness=1e6), keys, values)
    np.testing.assert_allclose(memory.retrieve(torch.tensor(keys[3] + 0.01)), values[3], atol=ATOL)


@pytest.mark.parametrize("kernel", ["l2", "l1", "cosine"])
@pytest.mark.parametrize(("ties", "chosen"), [("oldest", 1), ("newest", 3)])
@pytest.mark.parametrize("earlier", [0, 2, 5])
def test_ties(kernel, ties, chosen, earlier, make_config):
    """Entries 1 and 3 are equal; what was dropped before them puts the ring's end anywhere."""
    keys = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
    config = make_config(input_size=3, kernel=kernel, ties=ties, memory_capacity=4)
    memory = filled(config, np.concatenate([np.ones((earlier, 3)), keys]), np.zeros((earlier + 4, 3)))
    memory.values[memory.slots_by_age()] = torch.arange(4.0, dtype=torch.float64)[:, None].expand(4, 3)
    assert memory.retrieve(torch.tensor([2.0, 0.1, 0.1], dtype=torch.float64)).tolist() == [chosen] * 3


@pytest.mark.parametrize("retrieval", ["nearest", "average"])
def test_empty_memory_gives_zeros(retrieval, make_config):
    memory = ReferenceMemory(make_config(retrieval=retrieval))
    assert memory.retrieve(torch.ones(5)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("capacity", [1, 3])
def test_full_memory_drops_its_oldest(capacity, make_config, rng):
    keys, values = rng.standard_normal((7, 5)), rng.standard_normal((7, 3))
    memory = filled(make_config(memory_capacity=capacity), keys, values)
    assert len(memory) == capacity
    np.testing.assert_array_equal(memory.keys[memory.slots_by_age()], keys[-capacity:])
    np.testing.assert_array_equal(memory.values[memory.slots_by_age()], values[-capacity:])
    np.testing.assert_array_equal(memory.retrieve(torch.tensor(keys[-1])), values[-1])
    dropped = torch.tensor(keys[0])
    nearest = min(range(7 - capacity, 7), key=lambda n: np.linalg.norm(keys[n] - keys[0]))
    np.testing.assert_array_equal(memory.retrieve(dropped), values[nearest])


def test_repeated_key_appends(make_config):
    memory = filled(make_config(input_size=1, hidden_size=1), [[1], [2], [1]], [[10], [20], [30]])
    assert memory.keys[memory.slots_by_age(), 0].tolist() == [1, 2, 1]
    assert memory.retrieve(torch.ones(1, dtype=torch.float64)).tolist() == [10]


def test_repeated_key_overwrites_and_keeps_its_age(make_config):
    config = make_config(input_size=1, hidden_size=1, memory_capacity=2, repeated_key="overwrite")
    memory = filled(config, [[1], [2], [1]], [[10], [20], [30]])
    assert memory.keys[memory.slots_by_age(), 0].tolist() == [1, 2]
    assert memory.values[memory.slots_by_age(), 0].tolist() == [30, 20]
    memory.encode(torch.tensor([3.0]), torch.tensor([40.0]))  # drops key 1, the oldest although just rewritten
    assert memory.keys[memory.slots_by_age(), 0].tolist() == [2, 3]
    assert memory.values[memory.slots_by_age(), 0].tolist() == [20, 40]
    memory.encode(torch.tensor([1.0]), torch.tensor([50.0]))  # the key of a dropped entry is a new key
    assert memory.keys[memory.slots_by_age(), 0].tolist() == [3, 1]


def test_overwriting_after_clearing_starts_afresh(make_config):
    config = make_config(input_size=1, hidden_size=1, repeated_key="overwrite")
    memory = filled(config, [[1]], [[10]])
    memory.clear()
    memory.encode(torch.ones(1), torch.full((1,), 5.0))
    assert len(memory) == 1
    assert memory.retrieve(torch.ones(1, dtype=torch.float64)).tolist() == [5]


def test_overwriting_takes_the_newest_of_equal_keys(make_config):
    """Equal keys can only come from set_memory."""
    model = reference(make_config(input_size=1, hidden_size=1, repeated_key="overwrite"))
    model.set_memory([[1], [1], [2]], [[10], [20], [30]])
    model.episodic_memory.encode(torch.ones(1), torch.full((1,), 5.0))
    assert model.memory()[1].ravel().tolist() == [10, 5, 30]


def test_zero_key_has_cosine_zero(make_config):
    config = make_config(input_size=2, hidden_size=1, kernel="cosine")
    memory = filled(config, [[-1, 0], [0, 0], [0, -1]], [[1], [2], [3]])
    assert memory.similarity(torch.tensor([1.0, 1.0], dtype=torch.float64))[1] == 0
    assert memory.retrieve(torch.tensor([1.0, 1.0], dtype=torch.float64)).tolist() == [2]
    zero = torch.zeros(2, dtype=torch.float64)
    assert memory.similarity(zero).tolist() == [0, 0, 0]
    assert memory.retrieve(zero).tolist() == [1]


def test_storing_moves_no_entry(make_config, rng):
    """Each entry goes into a place of its own in arrays made once: no cost that grows with what is stored."""
    memory = ReferenceMemory(make_config(memory_capacity=50))
    memory.to(torch.zeros((), dtype=torch.float64))
    keys, values = memory.keys, memory.values
    for n in range(120):
        before = keys.clone()
        memory.encode(torch.tensor(rng.standard_normal(5)), torch.tensor(rng.standard_normal(3)))
        assert memory.keys is keys
        assert memory.values is values
        assert (keys != before).any(1).sum() == 1
        assert len(memory) == min(n + 1, 50)


# ---- encoding ----------------------------------------------------------------------------------------


def test_retrieval_comes_before_encoding(make_config, make_trials):
    """At its first step an agent that encodes must still find nothing, and at the second what the first stored."""
    model = reference(make_config())
    trials = make_trials(n=1, steps=2, encode=[[True, True]], retrieve=[[True, True]])
    record = model.run_trials(trials, seed=0)
    assert not record.memory[0, 0].any()
    np.testing.assert_allclose(record.memory[0, 1], np.tanh(record.cell[0, 0]), atol=ATOL)


def test_what_is_encoded_is_the_new_cell_state(make_config, make_trials):
    model = reference(make_config(key=(1, 4)))
    trials = make_trials(n=2, steps=2, encode=[[False, True], [True, False]], retrieve=np.ones((2, 2)))
    record = model.run_trials(trials, seed=0)
    keys, values = model.memory()
    np.testing.assert_array_equal(keys, trials.inputs[[0, 1], [1, 0], 1:4])
    np.testing.assert_array_equal(values, record.cell[[0, 1], [1, 0]])


def test_encoded_states_are_detached(make_config, make_trials):
    """No gradient flows through the memory, not even within a trial: it is as if the entry had been there."""
    inputs, targets = make_trials(n=1, steps=4).inputs, [[0, 1, 2, 3]]
    retrieve = [[False, False, True, True]]
    encoded = Trials(inputs=inputs, targets=targets, encode=[[False, True, False, False]], retrieve=retrieve)
    model, other = reference(make_config()), reference(make_config())
    settings = {"actions": [[3, 2, 1, 0]], "seed": 2, "gamma": 0.9, "record_gradients": True}
    record = train(model, encoded, **settings)
    assert record.memory[0, 2:].all()
    other.set_memory(inputs[0, 1:2], record.cell[0, 1:2])
    expected = train(other, encoded.lesioned(encode=False), **settings)
    states_equal(record, expected)
    for name, gradient in record.gradients.items():
        np.testing.assert_array_equal(gradient, expected.gradients[name])
    assert not model.episodic_memory.values.requires_grad


def test_switches(make_config, make_trials):
    trials = make_trials(encode=np.ones((4, 6), bool), retrieve=np.ones((4, 6), bool))
    model = reference(make_config())
    intact = model.run_trials(trials, seed=1)
    assert intact.memory[1:].all()
    model.clear_memory()
    blind = model.run_trials(trials.lesioned(retrieve=False), seed=1)
    assert not blind.memory.any()
    assert len(model.memory()[0]) == 6
    model.clear_memory()
    forgetful = model.run_trials(trials.lesioned(encode=False), seed=1)
    assert len(model.memory()[0]) == 0
    states_equal(blind, forgetful)
    assert not np.array_equal(intact.cell, blind.cell)


# ---- loss and gradients ------------------------------------------------------------------------------


def test_actor_critic_loss_by_hand(make_config, make_trials, rng):
    """From the recorded policies and values, term by term; γ = .8, entropy bonus."""
    trials = make_trials(n=3, steps=5)
    actions = np.where(rng.random((3, 5)) < 0.5, trials.targets, rng.integers(0, 4, (3, 5)))
    model = reference(make_config(), biases=1.0)  # values beyond 1, for both sides of the smooth L1
    record = train(model, trials, learning_rate=0.0, gamma=0.8, entropy_weight=0.2, actions=actions, seed=1)
    errors = []
    for n in range(3):
        actor = critic = 0.0
        for t in range(5):
            reward = [float(actions[n, k] == trials.targets[n, k]) for k in range(5)]
            ret = sum(0.8 ** (k - t) * reward[k] for k in range(t, 5))
            policy, value = record.policy[n, t], record.value[n, t]
            actor -= math.log(policy[actions[n, t]]) * (ret - value)
            actor -= 0.2 * -sum(p * math.log(p) for p in policy)
            error = abs(value - ret)
            critic += 0.5 * error**2 if error < 1 else error - 0.5
            errors.append(error)
        assert record.policy_loss[n] == pytest.approx(actor, abs=ATOL)
        assert record.value_loss[n] == pytest.approx(critic, abs=ATOL)
        np.testing.assert_array_equal(record.reward[n], reward)
    assert min(errors) < 1 < max(errors)


def test_its_loss_agrees_with_the_batched_one(rng):
    """Two computations of the same loss: the reference's and the one for batches."""
    policy = torch.tensor(rng.dirichlet(np.ones(3), 4))
    reward = torch.tensor([1.0, 0, 1, 1], dtype=torch.float64)
    trial = {
        "policy": policy,
        "value": torch.tensor(2 * rng.standard_normal(4)),
        "reward": reward,
        "action": torch.tensor([0, 1, 2, 1]),
        "target": torch.tensor([0, 2, 2, 1]),
        "hidden": policy,
        "cell": policy,
    }
    model = ReferenceEpisodicLSTM(ModelConfig(1, 1, 3, 1))
    ret = torch.tensor([sum(0.7 ** (k - t) * reward[k] for k in range(t, 4)) for t in range(4)])
    batch = TrialTensors(**{name: tensor[None] for name, tensor in trial.items()}, returns=ret[None])
    for kind in ("actor_critic", "cross_entropy", lambda t: (t.value * t.returns).sum()):
        settings = LossSettings(kind, gamma=0.7, entropy_weight=0.4)
        for own, other in zip(model.loss(trial, settings), losses(batch, settings), strict=True):
            assert own.item() == pytest.approx(other.item(), abs=ATOL)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({}, {"gamma": 0.9, "entropy_weight": 0.3, "value_weight": 0.5}),
        ({"kernel": "cosine", "key": (1, 4)}, {}),
        ({"retrieval": "average", "sharpness": 2.0}, {"gamma": 0.5}),
        ({"memory_capacity": 0}, {"gamma": 0.9}),
        ({"n_actions": 4, "hidden_size": 2}, {"loss": "cross_entropy"}),
    ],
)
def test_gradients_by_central_differences(config, settings, make_config, make_trials, rng):
    """The loss is recomputed in numpy from the policies and values of a pass without autograd; the advantage
    stays what it was at the unchanged weights, and the memory too (nothing is encoded)."""
    model = reference(make_config(**config))
    config = model.config
    trials = make_trials(n=1, steps=4, encode=np.zeros((1, 4), bool))
    n_entries = min(config.memory_capacity, 3)
    model.set_memory(
        rng.standard_normal((n_entries, config.key_size)), rng.standard_normal((n_entries, config.hidden_size))
    )
    actions, start = rng.integers(0, 4, (1, 4)), some_states(rng, 1, config.hidden_size)
    gamma = settings.get("gamma", 0.0)
    reward = (actions == trials.targets)[0]
    ret = np.array([sum(gamma ** (k - t) * reward[k] for k in range(t, 4)) for t in range(4)])
    weights = model.weights()
    advantage = ret - model.run_trials(trials, actions, start).value[0]

    def loss(weights):
        model.set_weights(weights)
        record = model.run_trials(trials, actions, start)
        log_policy, value = np.log(record.policy[0]), record.value[0]
        if settings.get("loss") == "cross_entropy":
            return -log_policy[np.arange(4), trials.targets[0]].sum()
        actor = -(log_policy[np.arange(4), actions[0]] * advantage).sum()
        entropy = -(record.policy[0] * log_policy).sum()
        error = np.abs(value - ret)
        critic = np.where(error < 1, error**2 / 2, error - 0.5).sum()
        return actor - settings.get("entropy_weight", 0.0) * entropy + settings.get("value_weight", 1.0) * critic

    record = train(
        model, trials, learning_rate=0.0, actions=actions, initial_states=start, record_gradients=True, **settings
    )
    for name, array in weights.items():
        expected = np.zeros(array.shape)
        for where in np.ndindex(array.shape):
            sides = []
            for change in (DIFFERENCE_STEP, -DIFFERENCE_STEP):
                moved = {**weights, name: array.copy()}
                moved[name][where] += change
                sides.append(loss(moved))
            expected[where] = (sides[0] - sides[1]) / (2 * DIFFERENCE_STEP)
        np.testing.assert_allclose(
            record.gradients[name][0], expected, rtol=DIFFERENCE_RTOL, atol=1e-8, err_msg=name
        )


# ---- sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "n", "steps"),
    [
        ((5, 3, 4, 6), 4, 5),
        ((2, 7, 3, 1), 1, 3),
        ((1, 1, 1, 1), 1, 1),
        ((9, 2, 5, 30), 3, 1),
        ((3, 4, 2, 0), 4, 5),
        ((5, 3, 4, 6), 0, 4),
        ((1, 1, 1, 1), 0, 4),
    ],
)
def test_shapes_of_a_record(sizes, n, steps, make_trials):
    inputs, hidden, actions, capacity = sizes
    model = ReferenceEpisodicLSTM(ModelConfig(*sizes), seed=0)
    trials = make_trials(n=n, steps=steps, size=inputs, n_actions=actions)
    for record in (model.run_trials(trials, seed=1), train(model, trials, seed=1, record_gradients=True)):
        assert len(record) == n
        assert record.policy.shape == (n, steps, actions)
        assert record.value.shape == record.action.shape == record.reward.shape == (n, steps)
        assert record.hidden.shape == record.cell.shape == record.memory.shape == (n, steps, hidden)
        assert record.gates.shape == (n, steps, 4, hidden)
        assert record.action.dtype == np.int64
        np.testing.assert_allclose(record.policy.sum(-1), 1, atol=1e-6)
        np.testing.assert_array_equal(record.reward, record.action == trials.targets)
    assert record.policy_loss.shape == record.value_loss.shape == (n,)
    for name, array in model.weights().items():
        assert record.gradients[name].shape == (n, *array.shape)
    assert len(model.memory()[0]) == min(capacity, 2 * trials.encode.sum())


# ---- precision, weights, memory ----------------------------------------------------------------------


def test_single_precision_by_default_and_double_on_request(make_config, make_trials):
    trials = make_trials()
    single = ReferenceEpisodicLSTM(make_config(), seed=0)
    double = ReferenceEpisodicLSTM(make_config(), seed=0).double()
    double.set_weights(single.weights())
    records = [train(model, trials, actions=trials.targets, seed=1) for model in (single, double)]
    for model, record, kind in zip((single, double), records, (np.float32, np.float64), strict=True):
        arrays = [*model.weights().values(), *model.memory(), record.policy, record.cell, record.gates]
        assert {array.dtype for array in arrays} == {np.dtype(kind)}
    np.testing.assert_allclose(records[0].policy, records[1].policy, atol=1e-5)
    assert not np.array_equal(records[0].policy, records[1].policy)


def test_precision_may_change_between_passes(make_config, make_trials):
    model, trials = ReferenceEpisodicLSTM(make_config(), seed=0), make_trials()
    train(model, trials, seed=1)
    stored = model.memory()
    model.double()
    train(model, trials[:1].lesioned(encode=False), seed=1)
    for before, after in zip(stored, model.memory(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert model.memory()[1].dtype == np.float64


def test_weights_round_trip(make_config, rng):
    model = ReferenceEpisodicLSTM(make_config(), seed=0).double()
    weights = {name: rng.standard_normal(array.shape) for name, array in model.weights().items()}
    model.set_weights(weights)
    given = model.weights()
    assert list(given) == list(weights)
    for name, array in given.items():
        np.testing.assert_array_equal(array, weights[name])
        array[:] = 7  # copies: the model must not follow
        assert not np.array_equal(model.weights()[name], array)


def test_initial_weights_are_those_of_the_seed(make_config):
    one, two, other = (ReferenceEpisodicLSTM(make_config(), seed).weights() for seed in (1, 1, 2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert not np.array_equal(one["hidden_weight"], other["hidden_weight"])


def test_refused_weights_and_memory_change_nothing(make_config):
    model = ReferenceEpisodicLSTM(make_config(), seed=0)
    model.set_memory(np.ones((1, 5)), np.ones((1, 3)))
    before = model.weights()
    bad = {**before, "actor_weight": before["actor_weight"] + 1, "critic_bias": np.array([np.nan])}
    with pytest.raises(ValueError, match="critic_bias"):
        model.set_weights(bad)
    with pytest.raises(ValueError, match="capacity"):
        model.set_memory(np.zeros((7, 5)), np.zeros((7, 3)))
    for name, array in model.weights().items():
        np.testing.assert_array_equal(array, before[name])
    assert model.memory()[0].tolist() == [[1] * 5]


@pytest.mark.parametrize("n_entries", [0, 2, 6])
def test_memory_round_trip_and_growth(n_entries, make_config, rng):
    """Set entries are as if they had been encoded: those after them come behind, the oldest drop first."""
    model = ReferenceEpisodicLSTM(make_config(), seed=0).double()
    model.set_memory(np.zeros((6, 5)), np.zeros((6, 3)))
    keys, values = rng.standard_normal((n_entries, 5)), rng.standard_normal((n_entries, 3))
    model.set_memory(keys, values)
    for own, given in zip(model.memory(), (keys, values), strict=True):
        np.testing.assert_array_equal(own, given)
    more = rng.standard_normal((3, 8))
    for row in torch.tensor(more):
        model.episodic_memory.encode(row[:5], row[5:])
    np.testing.assert_array_equal(model.memory()[0], np.concatenate([keys, more[:, :5]])[-6:])
    np.testing.assert_array_equal(model.memory()[1], np.concatenate([values, more[:, 5:]])[-6:])
    model.memory()[0][:] = 9
    assert not (model.memory()[0] == 9).any()


def test_clearing_the_memory(make_config, make_trials):
    trials = make_trials(encode=np.ones((4, 6), bool))
    model = reference(make_config())
    fresh = model.run_trials(trials, seed=1)
    assert len(model.memory()[0]) == 6
    again = model.run_trials(trials, seed=1)
    assert not np.array_equal(fresh.cell, again.cell)  # the memory went on
    model.clear_memory()
    assert [array.shape for array in model.memory()] == [(0, 5), (0, 3)]
    states_equal(model.run_trials(trials, seed=1), fresh)


# ---- passes ------------------------------------------------------------------------------------------


def test_running_learns_nothing(make_config, make_trials):
    model = reference(make_config())
    before = model.weights()
    model.run_trials(make_trials(), seed=0)
    for name, array in model.weights().items():
        np.testing.assert_array_equal(array, before[name])
    assert model.optimizer_state() == {}


def test_seeds_of_a_pass(make_config, make_trials):
    model, trials = reference(make_config()), make_trials(encode=np.zeros((4, 6), bool))
    one = model.run_trials(trials, seed=1)
    states_equal(one, model.run_trials(trials, seed=1))
    assert not np.array_equal(one.cell, model.run_trials(trials, seed=2).cell)
    assert not np.array_equal(*(model.run_trials(trials).cell for _ in range(2)))


def test_no_global_seed_is_touched_or_heeded(make_config, make_trials):
    trials = make_trials()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = train(ReferenceEpisodicLSTM(make_config(), seed=1), trials, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    states_equal(one, train(ReferenceEpisodicLSTM(make_config(), seed=1), trials, seed=2))


def test_forced_choices_leave_the_states_as_they_are(make_config, make_trials):
    """No input depends on the action, so nothing but action and reward may follow it."""
    trials = make_trials(encode=np.zeros((4, 6), bool))
    model = reference(make_config())
    free = model.run_trials(trials, seed=1)
    forced = model.run_trials(trials, actions=trials.targets, seed=1)
    np.testing.assert_array_equal(forced.action, trials.targets)
    assert forced.reward.all()
    assert not free.reward.all()
    np.testing.assert_array_equal(free.policy, forced.policy)


def test_choices_follow_the_policies(make_config, make_trials):
    """Over many steps: how often each action is taken, against the sum of its probabilities."""
    model = reference(make_config(), biases=1.0)
    record = model.run_trials(make_trials(n=60, steps=30), seed=5)
    taken = np.eye(4)[record.action]
    spread = np.sqrt((record.policy * (1 - record.policy)).sum((0, 1)))
    np.testing.assert_array_less(np.abs((taken - record.policy).sum((0, 1))), 4 * spread)
    # and not just on average: what is likely at a step is taken more often there
    assert np.corrcoef(taken.ravel(), record.policy.ravel())[0, 1] > 0.1


def test_initial_states_start_every_trial(make_config, make_trials, rng):
    """Each trial starts from its own states, not from where the trial before ended."""
    trials = make_trials(encode=np.zeros((4, 6), bool))
    start = some_states(rng, 4, 3)
    model = reference(make_config())
    together = model.run_trials(trials, trials.targets, start)
    for n in (3, 1):
        alone = model.run_trials(trials[n : n + 1], trials.targets[n : n + 1], tuple(s[n : n + 1] for s in start))
        np.testing.assert_array_equal(alone.hidden[0], together.hidden[n])
