"""The agent with the retrieved memory as an input of the LSTM, ``reinstatement="input"``.

``test_ladder.py`` has its cases among its own: learning, Python mode, ``simulate``, environments and cohorts.
Here: the equations by hand, the environment in the loop, what surrounds the numbers, and what is refused.
"""

import json

import numpy as np
import pytest
import torch
from common import pristine, rarely
from eplstm.models import (
    Cohort,
    EpisodicLSTMComposition,
    ModelConfig,
    Person,
    ReferenceEpisodicLSTM,
    initial_weights,
    load_model,
    save_model,
    train,
    train_episodes,
    weight_shapes,
)
from eplstm.tasks import BarcodeBandit, Trials
from torch import nn

ATOL = 1e-10
"""float64 on both sides; they agree to some 1e-15 a step."""
D, H, A = 5, 3, 4
CONFIG = ModelConfig(D, H, A, memory_capacity=6, reinstatement="input")
AVERAGE = ModelConfig(D, H, A, 6, retrieval="average", sharpness=2.0, reinstatement="input")
BANDIT = BarcodeBandit(arms=3, contexts=4, exposures=3, pulls=4, barcode_bits=5)
STATES = ("policy", "value", "action", "reward", "hidden", "cell", "memory", "gates")
PATHS = pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])


def make_trials(n=5, steps=4, seed=0):
    rng = np.random.default_rng(seed)
    return Trials(
        inputs=rng.standard_normal((n, steps, D)),
        targets=rng.integers(A, size=(n, steps)),
        encode=rng.random((n, steps)) < 0.5,
        retrieve=rng.random((n, steps)) < 0.8,
    )


def make_weights(config=CONFIG, seed=1):
    rng = np.random.default_rng(seed)
    return {name: 0.7 * rng.standard_normal(shape) for name, shape in weight_shapes(config).items()}


def models(config=CONFIG, fast=True):
    """Reference (float64) and composition with the same large weights."""
    reference, composition = ReferenceEpisodicLSTM(config).double(), pristine(config, fast=fast)
    for model in (reference, composition):
        model.set_weights(make_weights(config))
    return reference, composition


def close(one, two, what=""):
    np.testing.assert_allclose(one, two, rtol=0, atol=ATOL, err_msg=what)


def same(one, two, names=STATES):
    for name in names:
        close(getattr(one, name), getattr(two, name), name)


def same_models(one, two):
    """Weights, the optimiser's state, and the memories of all environments."""
    for part in ("weights", "optimizer_state"):
        ours, theirs = getattr(one, part)(), getattr(two, part)()
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            rows = slice(None)
            if part == "optimizer_state" and len(array) == 5 * H:  # no steps where there is no gate
                rows = np.r_[: 3 * H, 4 * H : 5 * H]
            close(array[rows], theirs[name][rows], f"{part}: {name}")
    assert one.environments == two.environments
    for e in range(one.environments):
        for ours, theirs in zip(one.memory(environment=e), two.memory(environment=e), strict=True):
            close(ours, theirs, f"memory of environment {e}")


# ---- the equations ------------------------------------------------------------------------------------


def torchs_own(weights):
    """PyTorch's LSTM cell on [x, m]: its rows are i, f, candidate, o, ours f, i, o, r, candidate."""
    cell = nn.LSTMCell(D + H, H).double()
    order = np.concatenate([np.arange(k * H, (k + 1) * H) for k in (1, 0, 4, 2)])
    both = np.concatenate([weights["input_weight"], weights["memory_weight"]], axis=1)
    arrays = {
        "weight_ih": both,
        "weight_hh": weights["hidden_weight"],
        "bias_ih": weights["input_bias"],
        "bias_hh": weights["hidden_bias"],
    }
    for name, array in arrays.items():
        getattr(cell, name).data = torch.tensor(array[order])
    return cell, order


def test_it_is_torchs_lstm_cell_with_the_memory_beside_the_input():
    """States of four steps, and the gradients of all weights through them."""
    rng = np.random.default_rng(3)
    keys, values = rng.standard_normal((6, D)), rng.standard_normal((6, H))
    x, h0, c0 = rng.standard_normal((4, D)), rng.standard_normal(H), rng.standard_normal(H)
    retrieve = [True, False, True, True]
    weights = make_weights()
    reference, _ = models()
    reference.set_memory(keys, values)
    cell, order = torchs_own(weights)

    h, c = torch.tensor(h0), torch.tensor(c0)
    state = torch.tensor(h0)[None], torch.tensor(c0)[None]
    for x_t, on in zip(x, retrieve, strict=True):
        _, _, h, c, m, gates = reference.step(torch.tensor(x_t), h, c, retrieve=on, encode=False)
        nearest = values[np.argmin(((keys - x_t) ** 2).sum(1))]
        m_t = np.tanh(nearest) if on else np.zeros(H)
        state = cell(torch.tensor(np.concatenate([x_t, m_t]))[None], state)
        close(m, m_t)
        close(h.detach(), state[0][0].detach())
        close(c.detach(), state[1][0].detach())
        assert (gates[3] == 0).all()
    (h.sum() * c.prod()).backward()
    (state[0].sum() * state[1].prod()).backward()
    by_hand = cell.weight_ih.grad.numpy(), cell.weight_hh.grad.numpy(), cell.bias_ih.grad.numpy()
    ours = [p.grad.numpy() for p in (reference.input_weight, reference.memory_weight, reference.hidden_weight)]
    close(np.concatenate(ours[:2], axis=1)[order], by_hand[0])
    close(ours[2][order], by_hand[1])
    close(reference.input_bias.grad.numpy()[order], by_hand[2])
    assert np.abs(by_hand[0][:, D:]).max() > 1e-3
    for gradient in ours:
        assert (gradient[3 * H : 4 * H] == 0).all()


@PATHS
def test_rows_of_the_gate_that_is_not_there_have_no_effect(fast):
    trials = make_trials()
    changed = {name: array.copy() for name, array in make_weights().items()}
    for name in ("input_weight", "input_bias", "hidden_weight", "hidden_bias", "memory_weight"):
        changed[name][3 * H : 4 * H] = 9.0
    for model in models(fast=fast):
        expected = train(model, trials, learning_rate=0.01, seed=1)
        model.clear_memory()
        model.set_optimizer_state({})
        model.set_weights(changed)
        same(expected, train(model, trials, learning_rate=0.01, seed=1))
        after = model.weights()
        for name, array in changed.items():
            if len(array) == 5 * H:
                np.testing.assert_array_equal(after[name][3 * H : 4 * H], array[3 * H : 4 * H], err_msg=name)


def test_what_is_in_the_graph():
    _, composition = models()
    names = {node.name.split("-")[0] for node in composition.nodes}
    assert not any("reinstate" in name for name in names) and not hasattr(composition, "reinstated")
    assert list(composition.gates) == ["forget", "input", "output", "candidate"]
    to_gates = {p.receiver.owner for p in composition.memory_node.efferents if p.learnable}
    assert to_gates == set(composition.gates.values())
    assert len(composition.memory_node.efferents) == 4  # and nothing else
    assert composition.parameters.reinstatement.get() == "input"


# ---- weights ------------------------------------------------------------------------------------------


def test_the_other_weights_are_drawn_as_before():
    """From one seed the two kinds differ in ``memory_weight`` alone; numbers as drawn before it was there."""
    gate = initial_weights(ModelConfig(D, H, A, 6), seed=7)
    ours = initial_weights(CONFIG, seed=7)
    assert list(ours) == [*gate, "memory_weight"] and ours["memory_weight"].shape == (5 * H, H)
    for name, array in gate.items():
        np.testing.assert_array_equal(array, ours[name], err_msg=name)
    close(ours["memory_weight"].T @ ours["memory_weight"] * 1e-4, np.eye(H) * 1e-4)  # orthogonal in float32
    known = {
        "input_weight": [0.0003539570316206664, 0.07701404392719269, -0.13504065573215485],
        "hidden_weight": [0.2268306016921997, -0.04833478480577469, -0.29107338190078735],
        "actor_weight": [0.029600881040096283, -0.3368305563926697, -0.8360713720321655],
        "critic_weight": [0.06597743928432465, -0.7743069529533386, 0.6293613910675049],
    }
    for name, first in known.items():
        np.testing.assert_allclose(gate[name].ravel()[:3], first, atol=1e-6, err_msg=name)


# ---- learning, and running ----------------------------------------------------------------------------


def test_without_entries_or_retrieval_it_is_a_plain_lstm():
    """m_t = 0: the weights of the memory have no effect, and no gradient."""
    plain = ReferenceEpisodicLSTM(ModelConfig(D, H, A, 0)).double()
    plain.set_weights({name: array for name, array in make_weights().items() if name != "memory_weight"})
    trials = make_trials().lesioned(retrieve=False)
    expected = train(plain, trials, learning_rate=0.02, seed=1)
    for kind in ("reference", "fast", "general"):
        reference, composition = models(fast=kind == "fast")
        model = reference if kind == "reference" else composition
        record = train(model, trials, learning_rate=0.02, seed=1, record_gradients=True)
        same(expected, record)
        assert (record.gradients["memory_weight"] == 0).all()
        np.testing.assert_array_equal(model.weights()["memory_weight"], make_weights()["memory_weight"])


def config_of_bandit(**changes):
    sizes = {"hidden_size": 6, "memory_capacity": 20, "key": BANDIT.key_columns, "kernel": "cosine"}
    sizes |= {"n_actions": BANDIT.n_actions, "reinstatement": "input"}
    return ModelConfig(BANDIT.input_size, **{**sizes, **changes})


def made_worlds(n=1):
    worlds = BANDIT.worlds([np.random.default_rng((0, e)) for e in range(n)])
    worlds.begin_epoch()
    return worlds


@pytest.mark.parametrize("changes", [{}, rarely({"retrieval": "average", "memory_capacity": 3})], ids=str)
@pytest.mark.slow
def test_learning_in_the_loop_node_by_node(changes):
    """The fast path is the ladder's."""
    reference, composition = models(config_of_bandit(**changes), fast=False)
    settings = {"learning_rate": 1e-2, "seed": 5, "max_gradient_norm": 0.5, "record_gradients": True}
    one, other = (train_episodes(m, made_worlds(2), 6, **settings) for m in (reference, composition))
    same(one, other, (*STATES, "policy_loss", "value_loss"))
    for name, gradient in one.gradients.items():
        close(gradient, other.gradients[name], name)
    assert np.abs(one.gradients["memory_weight"]).max() > 1e-4 and np.abs(one.memory).max() > 0.1
    for name, array in reference.weights().items():
        close(array, composition.weights()[name], name)


def test_running_in_the_loop():
    """Python mode, and PyTorch mode on both paths, against the reference, through an epoch's first episodes."""
    reference, composition = models(config_of_bandit())
    worlds, parts = made_worlds(), (3, 1)
    expected = [reference.run_episodes(worlds, episodes, seed=k) for k, episodes in enumerate(parts)]
    assert np.abs(expected[1].memory).max() > 0.1
    for run, fast in (("simulate_episodes", True), ("simulate_episodes", False), ("run_episodes", True)):
        composition.fast_path = fast
        composition.clear_memory()
        worlds = made_worlds()
        for k, episodes in enumerate(parts):
            same(expected[k], getattr(composition, run)(worlds, episodes, seed=k))


PEOPLE = {
    "key and choices": Person(inverse_temperature=1.4, lapse=0.1, perseveration=-0.5),
    "memory": Person(sharpness=4.0, forgetting=0.3, context_weight=0.8, context_columns=(3, 5)),
}


@pytest.mark.parametrize("name", PEOPLE)
@pytest.mark.slow
def test_a_person_without_a_gate_to_bias(name):
    """Everything that may differ between people but ``gate_bias``, in Python mode and in PyTorch mode."""
    reference, composition = models(AVERAGE)
    for model in (reference, composition):
        model.person = PEOPLE[name]
    trials = make_trials(n=3)
    expected = reference.run_trials(trials, seed=2)
    for run, fast in ((composition.simulate, True), (composition.simulate, False), (composition.run_trials, True)):
        composition.fast_path = fast
        composition.clear_memory()
        same(expected, run(trials, seed=2))


@pytest.mark.slow
def test_what_psyneulink_sees_afterwards():
    """Logs of all nodes at each step, and their values at the last: those of the general path."""
    pair = [EpisodicLSTMComposition(CONFIG, seed=1) for _ in range(2)]
    pair[1].fast_path = False
    for model in pair:
        for node in model.nodes:
            if node is not model.episodic_memory:  # whose log takes the general path
                node.set_log_conditions("value")
        train(model, make_trials(), learning_rate=0.01, seed=1)
    assert pair[0].detour is None
    for ours, others in zip(pair[0].nodes, pair[1].nodes, strict=True):
        values = [node.parameters.value for node in (ours, others)]
        for one, two in zip(*(v.get(model) for v, model in zip(values, pair, strict=True)), strict=True):
            close(one, two, ours.name)
        logs = [v.log.get(model.default_execution_id, []) for v, model in zip(values, pair, strict=True)]
        assert len(logs[0]) == len(logs[1]) == (0 if ours is pair[0].episodic_memory else 20)
        for one, two in zip(*logs, strict=True):
            close(np.ravel(one.value), np.ravel(two.value), ours.name)


# ---- cohorts and checkpoints ---------------------------------------------------------------------------


def test_a_cohort_is_its_agents():
    references = [ReferenceEpisodicLSTM(CONFIG, seed=seed).double() for seed in range(3)]
    cohort = Cohort(CONFIG, range(3))
    for k in range(2):
        records = cohort.train(make_trials(seed=k), seed=[k, 1 + k, 2 + k], learning_rate=0.02, record="all")
        for p, (reference, record) in enumerate(zip(references, records, strict=True)):
            same(train(reference, make_trials(seed=k), seed=k + p, learning_rate=0.02), record)
    for p, reference in enumerate(references):
        same_models(reference, cohort.agent(p, "reference"))


@pytest.mark.parametrize(
    "saved",
    [
        rarely("reference"),
        "composition",
        rarely("cohort"),
    ],
)
def test_checkpoint_round_trip(saved, tmp_path):
    """Saved as each kind, loaded as each kind, all go on in the same way."""
    reference, composition = models()
    for model in (reference, composition):
        train(model, make_trials(), learning_rate=0.02, seed=1)
    made = {"reference": reference, "composition": composition, "cohort": Cohort.from_models([composition])}
    folder = save_model(made[saved], tmp_path / "agent")
    assert json.loads((folder / "model.json").read_text(encoding="utf-8"))["config"]["reinstatement"] == "input"
    expected = train(reference, make_trials(seed=1), learning_rate=0.02, seed=2)
    for other in (ReferenceEpisodicLSTM(CONFIG).double(), pristine(CONFIG)):
        loaded = load_model(folder, model=other)
        same(expected, train(loaded, make_trials(seed=1), learning_rate=0.02, seed=2))
        same_models(reference, loaded)
    cohort = load_model(folder, "cohort")
    (record,) = cohort.train(make_trials(seed=1), learning_rate=0.02, seed=[2], record="all")
    same(expected, record)
    same_models(reference, cohort.agent(0, "reference"))


# ---- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reinstatement": "both"}, "reinstatement must be one of 'gate', 'input'; got 'both'"),
        ({"memory_capacity": 0}, "reinstatement='input' needs a memory; got memory_capacity=0. Give a memory_cap"),
    ],
)
def test_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**CONFIG.to_dict(), **changes})


def test_a_gate_that_is_not_there_has_no_bias():
    message = "gate_bias=1.0 needs a reinstatement gate; the model has reinstatement='input'. Leave gate_bias at 0"
    reference, composition = models()
    for model in (reference, composition):
        with pytest.raises(ValueError, match=message):
            model.person = Person(gate_bias=1.0)
        assert model.person == Person()
    with pytest.raises(ValueError, match=message):
        composition.parameters.gate_bias.set(1.0)


def test_a_composition_stays_what_it_was_made():
    _, composition = models()
    with pytest.raises(ValueError, match="reinstatement cannot be set to 'gate', since its weights depend on it"):
        composition.parameters.reinstatement.set("gate")
    with pytest.raises(ValueError, match="memory_capacity cannot be set to 0"):
        composition.parameters.memory_capacity.set(0)


def test_weights_of_the_other_kind():
    gate = ModelConfig(D, H, A, 6)
    for model in models():
        with pytest.raises(ValueError, match=r"missing \['memory_weight'\], unknown none"):
            model.set_weights(make_weights(gate))
    with pytest.raises(ValueError, match=r"missing none, unknown \['memory_weight'\]"):
        ReferenceEpisodicLSTM(gate).set_weights(make_weights())
