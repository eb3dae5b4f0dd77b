"""People who share one network: each parameter in its place, the same in the reference and in the graph.

The reference is held against numbers worked out by hand; the composition, in Python mode (``run_trials``), on the
fast path and node by node in PyTorch (``simulate``), against the reference, with choices drawn from one seed.
"""

import math
import warnings
from dataclasses import replace

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import OTHER
from eplstm.models import (
    EpisodicLSTMComposition,
    EpisodicMemory,
    ModelConfig,
    Person,
    RecurrentComposition,
    ReferenceEpisodicLSTM,
    train,
    weight_shapes,
)
from eplstm.models.choices import last_choices
from eplstm.models.person import returning, with_lost_episodes
from eplstm.tasks import Trials
from psyneulink.core.components.functions.function import FunctionError

ATOL = 1e-10
"""float64 on both sides; they agree to some 1e-15."""
D, H, A = 5, 3, 4
CONFIG = ModelConfig(D, H, A, memory_capacity=3, retrieval="average", sharpness=0.5)
FIELDS = ("policy", "value", "action", "reward", "hidden", "cell", "memory", "gates")
SEED = 7
COLUMNS = (1, 3)
EVERYTHING = Person(**OTHER, context_columns=COLUMNS)
PEOPLE = {name: Person(**{name: value}, context_columns=COLUMNS) for name, value in OTHER.items()}
PEOPLE |= {"everything": EVERYTHING, "away from the last choice": replace(EVERYTHING, perseveration=-0.8)}
IN_PYTHON_MODE = ("lapse", "perseveration", "everything", "away from the last choice")
"""The first two have a node each; a step of Python mode takes much longer than one of ``simulate``."""


def make_trials():
    """Four contexts are stored, one more than the memory holds; then two of them return."""
    rng = np.random.default_rng(1)
    context = np.array([0, 1, 2, 3, 0, 3])
    encode = np.zeros((6, 2), bool)
    encode[:4, -1] = True
    inputs = rng.standard_normal((6, 2, D))
    return Trials(inputs=inputs, targets=rng.integers(0, A, (6, 2)), encode=encode, context=context)


TRIALS = make_trials()
ACTIONS = np.array([[-1, 2], [-1, -1], [3, 0], [1, -1], [-1, 2], [0, -1]])
"""Forced choices, with steps at which none was made: in front, at trials' ends, on a whole trial."""


def make_weights(config=CONFIG):
    rng = np.random.default_rng(2)
    return {name: 0.8 * rng.standard_normal(shape) for name, shape in weight_shapes(config).items()}


@pytest.fixture(scope="module")
def composition():
    """One composition for all tests: they leave it the trained agent, with or without the two further nodes."""
    model = EpisodicLSTMComposition(CONFIG)
    model.set_weights(make_weights())
    return model


@pytest.fixture
def pair(composition):
    """Composition and reference: same weights, nothing stored, the trained agent itself."""
    reference = ReferenceEpisodicLSTM(CONFIG).double()
    for model in (composition, reference):
        model.person = Person()
        model.set_weights(make_weights())
        model.clear_memory()
    yield composition, reference
    composition.person = Person()
    composition.fast_path = True


def fresh(run, **kwargs):
    """A block from an empty memory, and what is stored in the end."""
    context = {name: kwargs[name] for name in ("context",) if name in kwargs}
    run.__self__.clear_memory(**context)
    record = run(TRIALS, **{"seed": SEED, **kwargs})
    return record, run.__self__.memory(**context)


def same(one, two, atol=ATOL):
    for name in FIELDS:
        a, b = (getattr(record, name) for record, _ in (one, two))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)
    for a, b in zip(one[1], two[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


# ---- the same in all of them ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_neutral_again_is_as_if_never_changed(pair):
    """To the last bit; two nodes are in the graph since, which were added when somebody needed them: this test
    comes first."""
    composition, reference = pair
    nodes, runs = list(composition.nodes), (composition.run_trials, composition.simulate, reference.run_trials)
    before = [fresh(run) for run in runs]
    same(before[1], before[2])  # before any learning
    elsewhere = fresh(composition.run_trials, context="in use before")
    composition.person = replace(EVERYTHING, lapse=0.0, perseveration=0.0)
    assert list(composition.nodes) == nodes
    composition.person = reference.person = EVERYTHING
    assert len(composition.nodes) == len(nodes) + 2
    assert composition.actor in composition.get_nodes_by_role(pnl.NodeRole.OUTPUT)
    picture = composition.show_graph(output_fmt="source")
    assert '"actor π" -> "choice p"' in picture
    assert '"last choice" -> "actor π"' in picture
    same(fresh(composition.run_trials, context="in use before"), elsewhere, atol=0)
    composition.person = reference.person = Person()
    for run, expected in zip(runs, before, strict=True):
        same(fresh(run), expected, atol=0)
    assert composition.detour is None
    assert not composition.person.changed


@pytest.mark.parametrize("name", PEOPLE)
def test_reference_and_graph_are_the_same_person(name, pair):
    composition, reference = pair
    trained = fresh(reference.run_trials)
    composition.person = reference.person = PEOPLE[name]
    expected = fresh(reference.run_trials)
    assert np.abs(expected[0].policy - trained[0].policy).max() > 1e-3  # it does make a difference
    same(fresh(composition.simulate), expected)
    assert composition.detour is None
    if name in IN_PYTHON_MODE:
        same(fresh(composition.run_trials), expected)


def test_forced_choices_some_of_them_missing(pair):
    composition, reference = pair
    composition.person = reference.person = EVERYTHING
    expected = fresh(reference.run_trials, actions=ACTIONS)
    same(fresh(composition.run_trials, actions=ACTIONS), expected)
    same(fresh(composition.simulate, actions=ACTIONS), expected)
    np.testing.assert_array_equal(expected[0].action, ACTIONS)
    assert not expected[0].reward[ACTIONS == -1].any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("actions", [None, ACTIONS], ids=["free", "forced"])
def test_node_by_node_in_pytorch(actions, pair):
    composition, reference = pair
    composition.person = reference.person = EVERYTHING
    composition.fast_path = False
    same(fresh(composition.simulate, actions=actions), fresh(reference.run_trials, actions=actions))
    assert composition.detour == "fast_path is off"


def test_no_trials_for_somebody_with_all_of_it(pair):
    for model in pair:
        model.person = EVERYTHING
        assert model.run_trials(TRIALS[:0]).policy.shape == (0, 2, A)
    assert pair[0].simulate(TRIALS[:0]).policy.shape == (0, 2, A)


def test_a_lesioned_person_retrieves_nothing(pair):
    composition, reference = pair
    composition.person = reference.person = EVERYTHING
    records = [
        run(TRIALS.lesioned(retrieve=False), seed=1) for run in (composition.simulate, reference.run_trials)
    ]
    assert not records[0].memory.any()
    np.testing.assert_allclose(records[0].policy, records[1].policy, rtol=0, atol=ATOL)


def test_results_of_run_end_with_the_probabilities_of_the_choices(pair):
    composition, _ = pair
    composition.person = Person(lapse=0.2)
    record, _ = fresh(composition.run_trials)
    np.testing.assert_array_equal(composition.results[-1][-1], record.policy[-1, -1])


# ---- by hand ---------------------------------------------------------------------------------------------------


def model_of(config, person, **weights):
    """A float64 reference with weights of zero, but for those given."""
    model = ReferenceEpisodicLSTM(config).double()
    zeros = {name: np.zeros(shape) for name, shape in weight_shapes(config).items()}
    model.set_weights({**zeros, **weights})
    model.person = person
    return model


def one_trial(steps, size=1, **changes):
    fields = {"inputs": np.ones((1, steps, size)), "targets": np.zeros((1, steps), int)}
    return Trials(**{**fields, "encode": np.zeros((1, steps), bool), **changes})


def still(n, size):
    return np.zeros((n, size)), np.zeros((n, size))


def test_temperature_and_lapse_by_hand():
    """Read-outs of log 1, log 2, log 5: π ∝ 1, 2, 5 to the power of β = 2."""
    person = Person(inverse_temperature=2.0, lapse=0.3)
    model = model_of(ModelConfig(1, 1, 3, 0), person, actor_bias=np.log([1.0, 2.0, 5.0]))
    policy = model.run_trials(one_trial(1), initial_states=still(1, 1)).policy[0, 0]
    np.testing.assert_allclose(policy, [0.7 * p / 30 + 0.1 for p in (1, 4, 25)], atol=ATOL)


def test_perseveration_by_hand_across_trials_and_missing_choices():
    model = model_of(ModelConfig(1, 1, 3, 0), Person(perseveration=math.log(4.0), inverse_temperature=3.0))
    trials = Trials(inputs=np.ones((3, 3, 1)), targets=np.zeros((3, 3), int), encode=np.zeros((3, 3), bool))
    actions = np.array([[-1, 2, -1], [-1, -1, -1], [-1, 0, 1]])
    last = [None, None, 2, 2, 2, 2, 2, 2, 0]
    policy = model.run_trials(trials, actions).policy.reshape(9, 3)
    for step, choice in enumerate(last):
        expected = [1 / 3] * 3 if choice is None else [4 / 6 if a == choice else 1 / 6 for a in range(3)]
        np.testing.assert_allclose(policy[step], expected, atol=ATOL)
    np.testing.assert_allclose(model.run_trials(trials, actions).policy[0, 0], 1 / 3, atol=ATOL)  # a new block


def test_free_choices_persevere():
    """With κ so large that every choice repeats the first one of the block."""
    model = model_of(ModelConfig(1, 1, 3, 0), Person(perseveration=200.0))
    trials = Trials(inputs=np.ones((4, 5, 1)), targets=np.zeros((4, 5), int), encode=np.zeros((4, 5), bool))
    firsts = {tuple(np.unique(model.run_trials(trials, seed=seed).action)) for seed in range(20)}
    assert firsts == {(0,), (1,), (2,)}


def test_gate_bias_by_hand():
    config = ModelConfig(1, 2, 2, 3)
    model = model_of(config, Person(gate_bias=-1.5), hidden_bias=np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], 2))
    gates = model.run_trials(one_trial(1), initial_states=still(1, 2)).gates[0, 0]
    expected = [1 / (1 + math.exp(-z)) for z in (0.1, 0.2, 0.3, 0.4 - 1.5)]
    np.testing.assert_allclose(gates, np.repeat(expected, 2).reshape(4, 2), atol=ATOL)


def test_forgetting_and_sharpness_by_hand():
    """Two entries lie at the distance 1 and the newest at 2; four were stored, of which the oldest is dropped."""
    config = ModelConfig(1, 1, 2, 3, retrieval="average", sharpness=9.0)
    model = model_of(config, Person(forgetting=0.7, sharpness=0.4))
    values = [9.0, 0.3, -0.8, 0.5]
    for key, value in zip([5.0, 2.0, 0.0, 3.0], values, strict=True):
        model.episodic_memory.to(model.input_weight)
        model.episodic_memory.encode(*torch.tensor([[key], [value]], dtype=torch.float64))
    m = model.run_trials(one_trial(1), initial_states=still(1, 1)).memory[0, 0, 0]
    weights = [math.exp(-0.4 * 1 - 0.7 * 2), math.exp(-0.4 * 1 - 0.7 * 1), math.exp(-0.4 * 2)]
    average = sum(w * v for w, v in zip(weights, values[1:], strict=True)) / sum(weights)
    np.testing.assert_allclose(m, math.tanh(average), atol=ATOL)


def test_context_weight_by_hand(pair):
    """What is stored is the weighted key: columns 1 and 2 show the context."""
    scale = np.array([0.2, 1.8, 1.8, 0.2, 0.2])
    for model in pair:
        model.person = PEOPLE["context_weight"]
        model.run_trials(TRIALS[:2])
        np.testing.assert_allclose(model.memory()[0], scale * TRIALS.inputs[:2, -1], atol=ATOL)
    part = Person(context_weight=0.25, context_columns=(0, 3)).key_scale(ModelConfig(5, 3, 4, 3, key=(2, 5)))
    np.testing.assert_allclose(part, [0.5, 1.5, 1.5])


def test_last_choices_by_hand():
    actions = np.array([[-1, 2, -1], [-1, 0, 1], [-1, -1, -1]])
    assert last_choices(actions).tolist() == [[-1, -1, 2], [2, 2, 0], [1, 1, 1]]
    assert last_choices(np.empty((0, 3), int)).shape == (0, 3)


# ---- episodes that were not encoded ---------------------------------------------------------------------------


def test_lost_episodes_are_not_retrieved():
    encoded = np.array([False, True, True, True, False, False])
    assert returning(TRIALS).tolist() == [-1, -1, -1, -1, 0, 3]
    retrieve = with_lost_episodes(TRIALS, encoded).retrieve
    assert retrieve.all(1).tolist() == [True, True, True, True, False, True]
    assert not retrieve[4].any()


def test_encoded_forces_which_episodes_are_lost(pair):
    encoded = np.array([False, True, True, True, True, True])
    for model in pair:
        lost, _ = fresh(model.run_trials, encoded=encoded)
        whole, _ = fresh(model.run_trials)
        assert not lost.memory[4].any() and whole.memory[4].all()
        np.testing.assert_array_equal(np.delete(lost.policy, 4, 0), np.delete(whole.policy, 4, 0))
    same(fresh(pair[0].simulate, encoded=encoded), (lost, fresh(pair[1].run_trials)[1]))


def test_lost_episodes_are_drawn_last_one_number_a_trial(pair):
    _, reference = pair
    rng = np.random.default_rng(SEED)
    rng.standard_normal((2, 6, H))
    rng.random((6, 2))
    encoded = rng.random(6) < 0.3
    assert encoded[0] != encoded[3]  # one of the two episodes that return is lost
    forced = fresh(reference.run_trials, encoded=encoded)
    reference.person = PEOPLE["encoding_probability"]
    same(fresh(reference.run_trials), forced, atol=0)
    shares = []
    for p in (0.0, 1.0):
        reference.person = Person(encoding_probability=p)
        shares.append([fresh(reference.run_trials, seed=seed)[0].memory[4:].any() for seed in range(5)])
    assert shares == [[False] * 5, [True] * 5]


# ---- Parameters ------------------------------------------------------------------------------------------------


def test_each_parameter_is_one_of_the_composition(pair):
    composition, reference = pair
    composition.person = Person(context_columns=COLUMNS)
    for name, value in OTHER.items():
        if name == "sharpness":
            continue  # the agent's own: see below
        getattr(composition.parameters, name).set(value)
        assert getattr(composition.parameters, name).get() == value
        reference.person = composition.person
        assert getattr(reference.person, name) == value
    assert composition.person == replace(EVERYTHING, sharpness=None)
    same(fresh(composition.run_trials), fresh(reference.run_trials))
    assert composition.actor.function.parameters.gain.get(composition) == OTHER["inverse_temperature"]
    assert composition.gates["reinstatement"].function.parameters.bias.get(composition) == OTHER["gate_bias"]
    assert composition.episodic_memory.function.parameters.forgetting.get(composition) == OTHER["forgetting"]
    with pytest.raises(ValueError, match="lapse must be a finite number"):
        composition.parameters.lapse.set(2.0)
    assert composition.person.lapse == OTHER["lapse"]


def test_sharpness_of_the_person_and_of_the_agent(pair):
    composition, _ = pair
    sharpness = composition.parameters.sharpness
    composition.person = Person(sharpness=4.0)
    assert (sharpness.get(), composition.config.sharpness) == (4.0, 0.5)
    sharpness.set(3.0)
    assert (composition.person.sharpness, composition.config.sharpness) == (3.0, 0.5)
    composition.person = Person()
    assert (sharpness.get(), composition.config) == (0.5, CONFIG)
    sharpness.set(2.0)
    assert (composition.person, composition.config.sharpness) == (Person(), 2.0)
    sharpness.set(0.5)


def test_one_person_for_each_execution_context(pair):
    composition, reference = pair
    a, b = replace(EVERYTHING, encoding_probability=1.0), Person(lapse=0.4, perseveration=-1.0, gate_bias=2.0)

    def policy(person):
        reference.person = person
        reference.clear_memory()
        return reference.run_trials(TRIALS[:1], seed=SEED).policy

    def check(context, person):
        composition.clear_memory(context)
        for run in (composition.run_trials, composition.simulate):
            composition.clear_memory(context)
            found = run(TRIALS[:1], seed=SEED, context=context).policy
            np.testing.assert_allclose(found, policy(person), rtol=0, atol=ATOL)

    composition.parameters.person.set(b, "b")
    check("b", b)
    assert composition.person == Person()
    composition.person = a
    check("b", b)  # it has one of its own
    check("new", a)  # that of the composition's own context, as everything there is
    composition.person = Person()
    check("new", a)
    assert composition.parameters.lapse.get("b") == 0.4
    composition.parameters.lapse.set(0.1, "b")
    check("b", replace(b, lapse=0.1))


def test_a_change_by_hand_is_seen(pair):
    """simulate() does then as run() does, node by node, whatever place it is."""
    composition, _ = pair
    composition.person = EVERYTHING
    gain = composition.actor.function.parameters.gain
    gain.set(1.7, composition)
    with pytest.warns(UserWarning, match=r"'actor π(-\d+)?' changed"):
        found = fresh(composition.simulate)
    same(found, fresh(composition.run_trials))
    composition.parameters.lapse.set(0.0)  # changes nothing else
    assert gain.get(composition) == 1.7
    gain.set(OTHER["inverse_temperature"], composition)
    fresh(composition.simulate)
    assert composition.detour is None


# ---- the memory alone ----------------------------------------------------------------------------------------


def test_memory_forgets_in_any_composition():
    """Python mode, a PyTorch form with gradients, and a full ring whose oldest entry is not its first row."""
    memory = EpisodicMemory(
        default_variable=[[0.0] * 2, [0.0]],
        kernel="l2",
        retrieval="average",
        sharpness=1.5,
        forgetting=0.4,
        max_entries=3,
    )
    rng = np.random.default_rng(3)
    keys, values, query = rng.standard_normal((4, 2)), rng.standard_normal((4, 1)), rng.standard_normal(2)
    for key, value in zip(keys, values, strict=True):
        memory.store_entry([key, value])

    def expected(q):
        distance = (q - torch.tensor(keys[1:])).square().sum(-1).sqrt()
        lag = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
        return torch.softmax(-1.5 * distance - 0.4 * lag, 0) @ torch.tensor(values[1:])

    q = torch.tensor(query, requires_grad=True)
    found = memory.match([q, None])[1]
    np.testing.assert_allclose(found.detach(), expected(q).detach(), rtol=0, atol=ATOL)
    gradients = [torch.autograd.grad(value.sum(), q)[0] for value in (found, expected(q))]
    np.testing.assert_allclose(*gradients, rtol=0, atol=ATOL)
    np.testing.assert_allclose(memory.get_memory([query, [0.0]])[1], found.detach(), rtol=0, atol=ATOL)
    memory.parameters.forgetting.set(1e9)
    np.testing.assert_allclose(memory.get_memory([query, [0.0]])[1], values[-1], rtol=0, atol=ATOL)


def test_memory_that_takes_the_nearest_does_not_forget():
    with pytest.raises(FunctionError, match=r"forgetting=0.4 needs retrieval='average'"):
        EpisodicMemory(default_variable=[[0.0], [0.0]], kernel="l2", forgetting=0.4)


# ---- training, and what is refused -----------------------------------------------------------------------------


def test_networks_are_trained_and_people_are_not(pair):
    composition, _ = pair
    before = composition.weights()
    for model in pair:
        model.person = PEOPLE["gate_bias"]
        with pytest.raises(
            ValueError, match=r"differs from the trained agent in gate_bias\. .*Person\(\) to train"
        ):
            train(model, TRIALS)
    with pytest.raises(ValueError, match="differs from the trained agent"):
        composition.learn(TRIALS)
    np.testing.assert_equal(composition.weights(), before)


def test_the_network_is_trained_on_the_fast_path_with_the_two_nodes_there(pair):
    composition, reference = pair
    composition.person = EVERYTHING
    composition.person = Person(context_columns=COLUMNS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = [train(model, TRIALS, learning_rate=0.05, seed=2) for model in pair]
    assert composition.detour is None
    for name in (*FIELDS, "policy_loss", "value_loss"):
        np.testing.assert_allclose(*(getattr(record, name) for record in records), rtol=0, atol=ATOL)
    for one, two in zip(composition.weights().values(), reference.weights().values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)
    np.testing.assert_allclose(composition.results[-1][-1], records[1].policy[-1, -1], rtol=0, atol=ATOL)
    for model in pair:
        model.set_optimizer_state({})


def test_no_learning_from_choices_that_were_not_made(pair):
    for model in pair:
        with pytest.raises(ValueError, match=r"whole numbers from 0 to 3; got values from -1"):
            train(model, TRIALS, actions=ACTIONS)
        with pytest.raises(ValueError, match=r"from 0 to 3 \(or -1: no choice\); got values from -2"):
            model.run_trials(TRIALS, actions=ACTIONS - 1)


@pytest.mark.parametrize(
    ("config", "person", "message"),
    [
        ({"retrieval": "nearest"}, {"sharpness": 2.0}, r"\['sharpness'\] need a model that averages"),
        ({"retrieval": "nearest"}, {"forgetting": 0.1}, r"\['forgetting'\] need a model that averages"),
        ({"memory_capacity": 0}, {"gate_bias": 1.0}, r"\['gate_bias'\] need a memory"),
        ({"memory_capacity": 0}, {"encoding_probability": 0.5}, "need a memory"),
        ({}, {"context_weight": 0.7}, "context_columns=None are all of the key's columns 0:5, or none"),
        ({"key": (0, 2)}, {"context_weight": 0.7, "context_columns": (0, 2)}, "all of the key's columns 0:2"),
        ({}, {"context_weight": 0.7, "context_columns": (5, 8)}, "or none"),
    ],
)
def test_parameters_without_a_place(config, person, message):
    model = ReferenceEpisodicLSTM(replace(CONFIG, **config))
    with pytest.raises(ValueError, match=message):
        model.person = Person(**person)
    assert model.person == Person()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inverse_temperature", 0.0),
        ("inverse_temperature", -1.0),
        ("lapse", 1.1),
        ("lapse", -0.1),
        ("perseveration", math.inf),
        ("gate_bias", math.nan),
        ("sharpness", 0.0),
        ("forgetting", -0.1),
        ("encoding_probability", 1.5),
        ("context_weight", -0.5),
        ("lapse", True),
        ("lapse", "much"),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"Person: {name} must be a finite number in "):
        Person(**{name: value})


def test_composition_refuses_what_does_not_fit(pair):
    composition, _ = pair
    with pytest.raises(TypeError, match="person must be a Person; got dict"):
        composition.person = {"lapse": 0.1}
    with pytest.raises(ValueError, match="context_columns=None"):
        composition.parameters.context_weight.set(0.8)
    composition.parameters.forgetting.set(0.2)
    with pytest.raises(ValueError, match="need a model that averages"):
        composition.parameters.retrieval.set("nearest")
    assert composition.config == CONFIG
    assert composition.person == Person(forgetting=0.2)


@pytest.mark.parametrize(
    ("trials", "encoded", "message"),
    [
        (TRIALS, np.ones(5, bool), r"booleans of the shape \(n,\) = \(6,\).*got bool of the shape \(5,\)"),
        (TRIALS, np.ones(6), "got float64"),
        (replace(TRIALS, context=None), np.ones(6, bool), "make Trials with context="),
        (replace(TRIALS, encode=np.ones((6, 2), bool)), np.ones(6, bool), "trial 4 stores an entry, and returns"),
    ],
)
def test_what_cannot_be_lost(trials, encoded, message, pair):
    for run in (pair[0].run_trials, pair[0].simulate, pair[1].run_trials):
        with pytest.raises(ValueError, match=message):
            run(trials, encoded=encoded)


@pytest.mark.slow
def test_nested_in_another_composition():
    """There nodes cannot be added, somebody with perseveration must be told the last choice, nobody is trained."""
    agent = EpisodicLSTMComposition(ModelConfig(2, 2, 2, 3))
    agent.person = Person(perseveration=0.5)
    cue = pnl.ProcessingMechanism(name="cue", default_variable=np.zeros(2))
    outer = RecurrentComposition(name="outer", optimizer_type="adam")
    outer.add_nodes([cue, agent])
    outer.add_projection(pnl.MappingProjection(sender=cue, receiver=agent.input_node, matrix=np.eye(2)))
    with pytest.raises(ValueError, match="nothing projects to its 'last choice"):
        outer.run(inputs={cue: [[0.0, 1.0]]})
    with pytest.raises(ValueError, match=r"no nodes can be added to it, as lapse"):
        agent.person = Person(lapse=0.5)
    agent.person = Person(gate_bias=0.5)
    with pytest.raises(ValueError, match="differs from the trained agent in gate_bias"):
        outer.learn({cue: np.ones((1, 2, 2))}, lambda which, values: values[agent.hidden].sum())
    agent.person = Person()
    outer.learn({cue: np.ones((1, 2, 2))}, lambda which, values: values[agent.hidden].sum())
    assert agent.detour is None
