"""The likelihood of people's choices: against the reference run trial by trial, against enumeration of everything
that may have happened, and against finite differences."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from eplstm.comparisons.fitting import ObservedBlock, Participant
from eplstm.comparisons.fitting.agent import TrainedAgent
from eplstm.comparisons.fitting.likelihood import Likelihood
from eplstm.comparisons.fitting.network import Batch
from eplstm.comparisons.fitting.observation import FreeResponse, StepChoices
from eplstm.comparisons.fitting.parameters import ParameterSpace
from eplstm.comparisons.fitting.simulation import draw_choices, policies_of_agent
from eplstm.models import GATE_ORDER, ModelConfig, Person, ReferenceEpisodicLSTM, weight_shapes
from eplstm.models.engine import Weights
from eplstm.models.person import PARAMETERS, Drive, with_lost_episodes
from eplstm.tasks import Trials

ATOL = 1e-10
"""float64 in another order of operations; they agree to some 1e-13."""
D, H, A, T = 5, 3, 3, 4
COLUMNS = (1, 3)
CONFIG = ModelConfig(D, H, A, memory_capacity=3, retrieval="average", sharpness=0.7)
NETWORK = {
    "inverse_temperature": 1.8,
    "lapse": 0.1,
    "perseveration": 0.9,
    "gate_bias": -0.7,
    "sharpness": 1.7,
    "forgetting": 0.4,
    "context_weight": 0.8,
}


def make_agent(config=CONFIG, seed=0):
    rng = np.random.default_rng(seed)
    weights = {name: 0.8 * rng.standard_normal(shape) for name, shape in weight_shapes(config).items()}
    return TrainedAgent(config, weights, COLUMNS)


def make_block(seed, contexts=(0, 1, 0, 2, 3, 1, 4, 4, 0), p_missing=0.2, n_actions=A, number=0):
    """Trials that store at the first encounter of a context: more of them than the memory holds."""
    rng = np.random.default_rng(seed)
    context = np.array(contexts)
    n = len(context)
    shown = rng.standard_normal((max(contexts) + 1, 1, 2))
    inputs = rng.standard_normal((n, T, D))
    inputs[..., 1:3] = shown[context]
    encode = np.zeros((n, T), bool)
    encode[[list(contexts).index(c) for c in dict.fromkeys(contexts)], -1] = True
    retrieve = rng.random((n, T)) < 0.8
    choices = np.where(rng.random((n, T)) < p_missing, -1, rng.integers(0, n_actions, (n, T)))
    trials = Trials(inputs, rng.integers(0, n_actions, (n, T)), encode, retrieve, context=context)
    return ObservedBlock(trials, choices, number=number)


def make_people():
    """Three people whose blocks differ in number and in length."""
    blocks = [[make_block(1), make_block(2, (0, 0, 1), number=1)], [make_block(3, (2, 0, 1, 2))], [make_block(4)]]
    return [Participant(f"p{i}", tuple(own)) for i, own in enumerate(blocks)]


def by_reference(agent, participant, person, encoded=None):
    """p_t of each block, from the reference run on the person's own choices."""
    model = ReferenceEpisodicLSTM(agent.config).double()
    model.set_weights(agent.weights)
    model.person = person
    found = []
    for k, block in enumerate(participant.blocks):
        start = np.zeros((len(block.trials), agent.config.hidden_size))
        model.clear_memory()
        own = None if encoded is None else encoded[k]
        record = model.run_trials(block.trials, actions=block.choices, initial_states=(start, start), encoded=own)
        found.append(record.policy)
    return found


def log_of_choices(policies, participant):
    total = 0.0
    for policy, block in zip(policies, participant.blocks, strict=True):
        chosen = np.take_along_axis(policy, np.maximum(block.choices, 0)[..., None], 2)[..., 0]
        total += np.log(chosen[block.observed]).sum()
    return total


def expected_of(agent, people, person):
    """What the reference says of everybody's choices, (P,)."""
    return [log_of_choices(by_reference(agent, p, person), p) for p in people]


def assert_policies(likelihood, z, expected):
    """That the policies at z (1, P, k) are these, of each person and block."""
    for own, policies in zip(likelihood.policies(z[0]), expected, strict=True):
        for found, policy in zip(own, policies, strict=True):
            np.testing.assert_allclose(found, policy, rtol=0, atol=ATOL)


def some_z(space, *shape, seed=0):
    """z (*shape, k), drawn from the prior."""
    drawn = space.draw(int(np.prod(shape)), np.random.default_rng(seed))
    return torch.from_numpy(drawn.reshape(*shape, -1))


def point(space, values, people):
    """(1, P, k): the same natural values for everybody."""
    z = space.unconstrained_array(np.array([values[name] for name in space.names]))
    return torch.from_numpy(np.broadcast_to(z, (1, people, len(space))).copy())


CONFIGS = {
    "average, l2": CONFIG,
    "l1": replace(CONFIG, kernel="l1"),
    "cosine": replace(CONFIG, kernel="cosine", sharpness=3.0),
    "room for one": replace(CONFIG, memory_capacity=1),
    "room for all": replace(CONFIG, memory_capacity=20),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("free", [tuple(NETWORK), ("lapse",)], ids=["all free", "all but one fixed"])
def test_it_is_the_references(config, free):
    agent, people = make_agent(config), make_people()
    fixed = {name: value for name, value in NETWORK.items() if name not in free}
    space = ParameterSpace.of(*free, fixed=fixed)
    found = Likelihood(agent, people, space).log_likelihood(point(space, NETWORK, 3))[0]
    expected = expected_of(agent, people, Person(**NETWORK, context_columns=COLUMNS))
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


OTHERS = {
    "nearest": {"retrieval": "nearest", "key": COLUMNS},
    "nearest, newest, cosine": {"retrieval": "nearest", "key": COLUMNS, "ties": "newest", "kernel": "cosine"},
    "nearest, l1": {"retrieval": "nearest", "kernel": "l1"},
    "context key": {"key": COLUMNS},
    "no memory": {"memory_capacity": 0},
    "input": {"reinstatement": "input"},
    "input, nearest": {"reinstatement": "input", "retrieval": "nearest"},
}


@pytest.mark.parametrize("config", [replace(CONFIG, **changes) for changes in OTHERS.values()], ids=OTHERS)
def test_other_agents(config):
    agent, people = make_agent(config), make_people()
    values = {"inverse_temperature": 0.6, "perseveration": -0.4} | (
        {"gate_bias": 0.5} if config.has_reinstatement_gate else {}
    )
    space = ParameterSpace.of(*values)
    likelihood = Likelihood(agent, people, space)
    z = point(space, values, 3)
    expected = [by_reference(agent, p, Person(**values)) for p in people]
    assert_policies(likelihood, z, expected)
    sums = [log_of_choices(policies, p) for policies, p in zip(expected, people, strict=True)]
    np.testing.assert_allclose(likelihood.log_likelihood(z)[0], sums, rtol=0, atol=ATOL)


# ---- gradients and batches ---------------------------------------------------------------------------

EVERYTHING = ParameterSpace.of(*NETWORK, "encoding_probability")


AS_INPUT = ParameterSpace.of(*(name for name in EVERYTHING.names if name != "gate_bias"))


@pytest.mark.parametrize(
    ("changes", "space"),
    [
        *(({"kernel": kernel}, EVERYTHING) for kernel in ("l2", "l1", "cosine")),
        ({"reinstatement": "input"}, AS_INPUT),
    ],
    ids=["l2", "l1", "cosine", "input"],
)
def test_gradients_are_finite_differences(changes, space):
    likelihood = Likelihood(make_agent(replace(CONFIG, **changes)), make_people(), space)
    z = some_z(space, 2, 3).requires_grad_()
    check_gradient(likelihood, z)


def check_gradient(likelihood, z):
    """Against finite differences, parameter by parameter."""
    (gradient,) = torch.autograd.grad(likelihood.log_likelihood(z).sum(), z)
    for k, name in enumerate(likelihood.space.names):
        step = torch.zeros_like(z)
        step[..., k] = 1e-5
        with torch.no_grad():
            slope = (likelihood.log_likelihood(z + step) - likelihood.log_likelihood(z - step)) / 2e-5
        np.testing.assert_allclose(gradient[..., k], slope, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("gate", ["input", "candidate"])
def test_any_parameter_of_a_gates_drive(gate, monkeypatch):
    """It is declared with its place alone: as if the gate had another bias, with memory and without."""
    declared = replace(PARAMETERS["gate_bias"], name="leaning", place=Drive(gate))
    monkeypatch.setitem(PARAMETERS, "leaning", declared)
    agent, trials = make_agent(), [make_block(seed).trials for seed in (1, 2)]
    leaning, gates = np.array([[0.7, -0.3]]), weight_shapes(CONFIG)["input_bias"][0]
    of_gate = np.arange(gates) // H == GATE_ORDER.index(gate)

    def make(weights):
        arrays = Weights.of({name: array[None] for name, array in weights.items()})
        needed = [np.full(len(one), T) for one in trials]
        return Batch(CONFIG, arrays, trials, needed, key_scale=np.ones(D))

    for reads in (True, False):
        value = torch.from_numpy(leaning).requires_grad_()

        def of(x, reads=reads):
            return make(agent.weights).readout({"sharpness": 0.7, "leaning": x}, 1, reads)

        found = of(value)
        for b, own in enumerate(leaning[0]):
            moved = agent.weights | {"input_bias": agent.weights["input_bias"] + own * of_gate}
            expected = make(moved).readout({"sharpness": 0.7}, 1, reads)
            np.testing.assert_allclose(found[..., b].detach(), expected[..., b], rtol=0, atol=ATOL)
        (slope,) = torch.autograd.grad(found.sum(), value, retain_graph=True)
        with torch.no_grad():
            up, down = (of(value + step).sum((0, 1, 2, 3)) for step in (1e-5, -1e-5))
        np.testing.assert_allclose(slope[0], (up - down) / 2e-5, rtol=1e-6, atol=1e-6)
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(found.sum(), value)


def test_gradients_of_a_free_response():
    names = ("inverse_temperature", "forgetting", "encoding_probability", *FreeResponse.parameters)
    space, people = ParameterSpace.of(*names), [one_response(p) for p in make_people()]
    likelihood = Likelihood(make_agent(), people, space, FreeResponse("censored"))
    z = some_z(space, 1, 3, seed=1)
    z[..., -1] = -1.0  # some respond at the first step: after a whole step they could not
    assert torch.autograd.gradcheck(likelihood.log_likelihood, z.requires_grad_(), eps=1e-6, atol=1e-6)


def test_weights_of_the_upstream_gradient_count():
    likelihood = Likelihood(make_agent(), make_people(), ParameterSpace.of("lapse", "forgetting"))
    z = torch.zeros(2, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.arange(6.0, dtype=torch.float64).view(2, 3)
    (all_of_them,) = torch.autograd.grad((weight * likelihood.log_likelihood(z)).sum(), z)
    (plain,) = torch.autograd.grad(likelihood.log_likelihood(z).sum(), z)
    np.testing.assert_allclose(all_of_them, weight[..., None] * plain, atol=1e-12)


def test_nothing_depends_on_who_is_beside():
    agent, people = make_agent(), make_people()
    z = some_z(EVERYTHING, 5, 3, seed=2)
    together = Likelihood(agent, people, EVERYTHING).log_likelihood(z)
    for p, person in enumerate(people):
        alone = Likelihood(agent, [person], EVERYTHING)
        for r in range(5):
            np.testing.assert_allclose(
                alone.log_likelihood(z[r : r + 1, p : p + 1])[0, 0], together[r, p], atol=1e-11
            )
    turned = Likelihood(agent, people, EVERYTHING).only([2, 0])
    np.testing.assert_allclose(turned.log_likelihood(z[:, [2, 0]]), together[:, [2, 0]], atol=1e-11)
    threads = Likelihood(agent, people * 1, EVERYTHING, threads=2)
    np.testing.assert_array_equal(threads.log_likelihood(z), together)


def test_portions_change_nothing(monkeypatch):
    """As few rows and blocks side by side as can be, and nothing kept."""
    from eplstm.comparisons.fitting import likelihood, rounds

    z = some_z(EVERYTHING, 2, 3, seed=3).requires_grad_()
    whole = Likelihood(make_agent(), make_people(), EVERYTHING).log_likelihood(z)
    monkeypatch.setattr(rounds, "ROWS", 1)
    monkeypatch.setattr(likelihood, "BLOCKS_AT_ONCE", 1)
    monkeypatch.setattr(likelihood, "KEPT_BYTES", 0)
    cut = Likelihood(make_agent(), make_people(), EVERYTHING)
    assert len(cut._chunks) == 4
    cut = cut.log_likelihood(z)
    np.testing.assert_allclose(cut.detach(), whole.detach(), atol=1e-11)
    gradients = [torch.autograd.grad(value.sum(), z)[0] for value in (whole, cut)]
    np.testing.assert_allclose(*gradients, atol=1e-10)


@pytest.mark.parametrize("name", ["gate_bias", "sharpness"])
def test_where_the_model_breaks_for_one_person_the_others_stay(name):
    likelihood = Likelihood(make_agent(), make_people(), EVERYTHING)
    z = some_z(EVERYTHING, 1, 3, seed=4)
    broken = z.clone()
    broken[0, 1, EVERYTHING.names.index(name)] = torch.nan
    z, broken = z.requires_grad_(), broken.requires_grad_()
    values = likelihood.log_likelihood(z), likelihood.log_likelihood(broken)
    assert values[1][0, 1].isnan()
    (slopes,) = torch.autograd.grad(values[0].sum(), z)
    (slopes_broken,) = torch.autograd.grad(values[1].sum(), broken)
    for a, b in ((values[0].detach(), values[1].detach()), (slopes, slopes_broken)):
        np.testing.assert_array_equal(a[0, [0, 2]], b[0, [0, 2]])


def test_extreme_values_have_finite_gradients():
    """Far out, where probabilities are 0 or 1 to the last digit."""
    space = ParameterSpace.of(
        "inverse_temperature", "lapse", "encoding_probability", "forgetting", "context_weight"
    )
    likelihood = Likelihood(make_agent(), make_people(), space)
    for corner in itertools.product([-40.0, 6.0], repeat=5):
        z = torch.tensor(corner, dtype=torch.float64).expand(1, 3, 5).clone().requires_grad_()
        value = likelihood.log_likelihood(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
        assert value.isfinite().all() and slope.isfinite().all(), corner
    space = ParameterSpace.of("inverse_temperature", "encoding_probability")
    z = torch.tensor([8.0, 50.0], dtype=torch.float64).expand(1, 3, 2).clone().requires_grad_()
    value = Likelihood(make_agent(), make_people(), space).log_likelihood(z)  # some choices of probability e^-3000
    (slope,) = torch.autograd.grad(value.sum(), z)
    assert value.min() < -1000 and value.isfinite().all() and slope.isfinite().all()


# ---- blocks of any form ------------------------------------------------------------------------------


def make_any_block(seed, steps=T, trials=6, repeated_keys=False, number=0):
    """Storing and reading at any steps of any trials: entries are read in the trial that stores them, too."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((trials, steps, D))
    if repeated_keys:
        inputs = rng.standard_normal((3, D))[rng.integers(0, 3, (trials, steps))]
    encode, retrieve = rng.random((trials, steps)) < 0.4, rng.random((trials, steps)) < 0.8
    choices = rng.integers(-1, A, (trials, steps))
    targets = np.zeros((trials, steps), int)
    return ObservedBlock(Trials(inputs, targets, encode, retrieve), choices, number=number)


def make_any_people(repeated_keys=False):
    blocks = [(1, T, 6), (2, T + 3, 5), (3, T, 1), (4, 1, 4)]
    own = [make_any_block(*form, repeated_keys, number=number) for number, form in enumerate(blocks)]
    return [Participant("mixed", tuple(own)), Participant("short", (own[2],)), Participant("one", (own[0],))]


@pytest.mark.parametrize("repeated_keys", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, memory_capacity=30, kernel="l1"),
        replace(CONFIG, repeated_key="overwrite", kernel="cosine"),
        replace(CONFIG, repeated_key="overwrite", memory_capacity=30),
        replace(CONFIG, memory_capacity=1),
    ],
    ids=["l2", "l1", "cosine, overwrite", "overwrite", "room for one"],
)
def test_storing_and_reading_at_any_steps(config, repeated_keys):
    agent, people = make_agent(config), make_any_people(repeated_keys)
    space = ParameterSpace.of(*NETWORK)
    likelihood, z = Likelihood(agent, people, space), point(space, NETWORK, 3)
    person = Person(**NETWORK, context_columns=COLUMNS)
    policies = [by_reference(agent, p, person) for p in people]
    assert_policies(likelihood, z, policies)
    expected = [log_of_choices(own, p) for own, p in zip(policies, people, strict=True)]
    np.testing.assert_allclose(likelihood.log_likelihood(z)[0], expected, rtol=0, atol=ATOL)
    check_gradient(likelihood, some_z(space, 1, 3, seed=6).requires_grad_())


@pytest.mark.parametrize("ties", ["oldest", "newest"])
@pytest.mark.parametrize("repeated_key", ["append", "overwrite"])
@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_nearest_entries_at_any_steps(ties, repeated_key, weight):
    """Equal keys are ties; with all weight on the context, so are keys that differ in the observation."""
    config = replace(CONFIG, retrieval="nearest", ties=ties, repeated_key=repeated_key)
    agent, people = make_agent(config), make_any_people(repeated_keys=True)
    for block in people[0].blocks if weight == 1.0 else ():
        block.trials.inputs[..., 0] += np.arange(block.choices.size).reshape(block.choices.shape)
    space = ParameterSpace.of("gate_bias", fixed={"context_weight": weight})
    values = {"gate_bias": 1.0}
    person = Person(gate_bias=1.0, context_weight=weight, context_columns=COLUMNS)
    expected = expected_of(agent, people, person)
    z = point(space, values, 3)
    np.testing.assert_allclose(Likelihood(agent, people, space).log_likelihood(z)[0], expected, rtol=0, atol=ATOL)


def test_steps_that_nobody_asked_for_do_not_count():
    """Only as many steps as the last choice needs are run; entries are stored all the same."""
    agent, rng = make_agent(), np.random.default_rng(0)
    people = []
    for person in make_people():
        blocks = []
        for block in person.blocks:
            choices = np.full_like(block.choices, -1)
            choices[np.arange(len(choices)), rng.integers(0, T, len(choices))] = 1
            choices[1] = -1
            blocks.append(replace(block, choices=choices))
        people.append(Participant(person.id, tuple(blocks)))
    space = ParameterSpace.of(*NETWORK)
    found = Likelihood(agent, people, space).log_likelihood(point(space, NETWORK, 3))[0]
    expected = expected_of(agent, people, Person(**NETWORK, context_columns=COLUMNS))
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


# ---- units -------------------------------------------------------------------------------------------


def test_units_are_trials_and_add_up():
    agent, people = make_agent(), make_people()
    choices = people[0].blocks[0].choices.copy()
    choices[2] = -1
    first = Participant("p0", (replace(people[0].blocks[0], choices=choices), people[0].blocks[1]))
    people = [first, *people[1:]]
    space = ParameterSpace.of("inverse_temperature", "forgetting", "lapse")
    likelihood = Likelihood(agent, people, space)
    z = some_z(space, 3)
    units = likelihood.pointwise(z)
    scored = [sum(int(np.any(b.observed, axis=1).sum()) for b in p.blocks) for p in people]
    assert [len(own) for own in units] == scored == [11, 4, 9]
    total = likelihood.log_likelihood(z[None])[0]
    np.testing.assert_allclose([own.sum() for own in units], total, atol=1e-11)
    # Without perseveration, what a trial contributes does not depend on the choices of the others.
    for left_out in (3, 8):
        choices = first.blocks[0].choices.copy()
        choices[left_out] = -1
        without = Participant("p0", (replace(first.blocks[0], choices=choices), first.blocks[1]))
        rest = Likelihood(agent, [without], space).log_likelihood(z[None, :1])[0, 0]
        unit = units[0][left_out - 1]  # trial 2 is none
        np.testing.assert_allclose(total[0] - rest, unit, atol=1e-11)


def test_units_of_free_responses():
    person = one_response(make_people()[0])
    space = ParameterSpace.of("bound", fixed={"bound_noise": 0.2, "non_decision_time": 0.5})
    for missing, units in (("ignore", 9 + 3 - 2), ("censored", 9 + 3)):
        likelihood = Likelihood(make_agent(), [person], space, FreeResponse(missing))
        z = torch.zeros(1, 1, dtype=torch.float64)
        found = likelihood.pointwise(z)[0]
        assert len(found) == units
        np.testing.assert_allclose(found.sum(), likelihood.log_likelihood(z[None])[0, 0], atol=1e-12)
        assert likelihood.n_choices.tolist() == [person.n_choices]


# ---- episodes that were not encoded ------------------------------------------------------------------


def test_lost_episodes_by_enumeration():
    """The sum over all 2^n ways in which episodes may have been encoded."""
    agent = make_agent()
    block = make_block(5, (0, 1, 0, 2, 1, 0, 3), p_missing=0.3)
    person, p_encoded = Participant("one", (block,)), 0.3
    values = NETWORK | {"encoding_probability": p_encoded}
    space = ParameterSpace.of(*values)
    total = []
    others = Person(**NETWORK, context_columns=COLUMNS)
    for encoded in itertools.product([True, False], repeat=4):  # contexts 0 to 3 are stored on trials 0, 1, 3, 6
        mask = np.ones(7, bool)
        mask[[0, 1, 3, 6]] = encoded
        log_p = sum(np.log(p_encoded if e else 1 - p_encoded) for e in encoded)
        total.append(log_p + log_of_choices(by_reference(agent, person, others, [mask]), person))
    likelihood = Likelihood(agent, [person], space)
    z = point(space, values, 1)
    np.testing.assert_allclose(likelihood.log_likelihood(z)[0, 0], np.logaddexp.reduce(total), rtol=0, atol=ATOL)
    units = likelihood.pointwise(z[0])[0]
    np.testing.assert_allclose(units.sum(), likelihood.log_likelihood(z)[0, 0], atol=ATOL)
    assert len(units) == 4 + 2  # four first encounters, and two episodes that are returned to


def test_policies_of_somebody_who_has_lost_some_episodes():
    agent, people = make_agent(), make_people()
    space, rng = ParameterSpace.of(*NETWORK), np.random.default_rng(0)
    encoded = [[rng.random(len(block.trials)) < 0.5 for block in p.blocks] for p in people]
    person = Person(**NETWORK, context_columns=COLUMNS)
    found = Likelihood(agent, people, space).policies(point(space, NETWORK, 3)[0].numpy(), encoded)
    for p, own, lost in zip(people, found, encoded, strict=True):
        for policy, expected in zip(own, by_reference(agent, p, person, lost), strict=True):
            np.testing.assert_allclose(policy, expected, rtol=0, atol=ATOL)


def test_certain_and_impossible_encoding():
    agent, person = make_agent(), Participant("one", (make_block(6),))
    for p, encoded in ((1.0, True), (0.0, False)):
        space = ParameterSpace.of("lapse", fixed={"encoding_probability": p})
        found = Likelihood(agent, [person], space).log_likelihood(point(space, {"lapse": 0.1}, 1))[0, 0]
        block = person.blocks[0]
        trials = with_lost_episodes(block.trials, np.full(len(block.trials), encoded))
        plain = Participant("one", (replace(block, trials=trials),))
        expected = log_of_choices(by_reference(agent, plain, Person(lapse=0.1)), plain)
        np.testing.assert_allclose(found, expected, atol=ATOL)


# ---- free responses ----------------------------------------------------------------------------------


def one_response(participant):
    """Only the first choice of each trial, and none on some trials."""
    blocks = []
    for block in participant.blocks:
        choices = np.full_like(block.choices, -1)
        for n, row in enumerate(block.choices):
            made = np.flatnonzero(row >= 0)
            if len(made) and n != 1:
                choices[n, made[0]] = row[made[0]]
        blocks.append(replace(block, choices=choices))
    return Participant(participant.id, tuple(blocks))


@pytest.mark.parametrize("delay", [0.4, 1.0, 1.7, 9.5])
@pytest.mark.parametrize("missing", ["ignore", "censored"])
def test_free_responses_by_enumeration(delay, missing):
    """All steps of the decision and both delays, one after the other."""
    agent, person = make_agent(), one_response(make_people()[0])
    values = {"inverse_temperature": 1.4, "lapse": 0.1, "perseveration": 0.5}
    times = {"bound": 0.7, "bound_noise": 0.15, "non_decision_time": delay}
    space = ParameterSpace.of(*values, *times)
    expected = 0.0
    for policy, block in zip(by_reference(agent, person, Person(**values)), person.blocks, strict=True):
        for p, choices in zip(policy, block.choices, strict=True):
            at = {}
            for whole, share in ((int(delay), 1 - delay % 1), (int(delay) + 1, delay % 1)):
                undecided = 1.0
                for t in range(T):
                    hazard = 1 / (1 + np.exp(-(p[t].max() - 0.7) / 0.15))
                    for a in range(A):
                        key = (t + whole, a) if t + whole < T else None
                        at[key] = at.get(key, 0.0) + share * undecided * hazard * p[t, a]
                    undecided *= 1 - hazard
                at[None] = at.get(None, 0.0) + share * undecided
            assert sum(at.values()) == pytest.approx(1, abs=1e-12)
            made = np.flatnonzero(choices >= 0)
            if len(made):
                with np.errstate(divide="ignore"):
                    expected += np.log(at.get((made[0], choices[made[0]]), 0.0))
            elif missing == "censored":
                expected += np.log(at[None])
    likelihood = Likelihood(agent, [person], space, FreeResponse(missing))
    found = likelihood.log_likelihood(point(space, values | times, 1))
    np.testing.assert_allclose(found[0, 0], expected, rtol=0, atol=ATOL)


# ---- sums to one, and agrees with what is drawn ------------------------------------------------------


def test_probabilities_of_all_choices_sum_to_one():
    agent = make_agent(replace(CONFIG, n_actions=2))
    block = make_block(7, (0, 0), n_actions=2)
    space = ParameterSpace.of("perseveration", "lapse", "encoding_probability")
    people = []
    for n, choices in enumerate(itertools.product(range(2), repeat=2 * 3)):
        chosen = np.full((2, T), -1)
        chosen[:, [0, 1, 3]] = np.reshape(choices, (2, 3))
        people.append(Participant(str(n), (replace(block, choices=chosen),)))
    values = {"perseveration": 1.2, "lapse": 0.05, "encoding_probability": 0.6}
    found = Likelihood(agent, people, space).log_likelihood(point(space, values, len(people)))
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("observation", [StepChoices(), FreeResponse("censored")], ids=["steps", "free"])
def test_simulated_choices_come_as_often_as_they_are_likely(observation):
    agent = make_agent(replace(CONFIG, n_actions=2))
    trials = make_block(8, (0, 0), n_actions=2).trials
    probed = np.zeros((2, T), bool)
    probed[:, [1, 3]] = True
    values = {"inverse_temperature": 1.5, "perseveration": 1.0, "lapse": 0.1, "encoding_probability": 0.5}
    if isinstance(observation, FreeResponse):
        values |= {"bound": 0.8, "bound_noise": 0.2, "non_decision_time": 0.6}
    n = 3000
    rngs = [np.random.default_rng((1, i)) for i in range(n)]
    drawn = draw_choices(policies_of_agent(agent), [[trials]] * n, [[probed]] * n, [values] * n, rngs, observation)
    outcomes, counts = np.unique(np.array([own[0] for own in drawn]).reshape(n, -1), axis=0, return_counts=True)
    some = [o for o in outcomes if (o >= 0).any()]
    counts = [c for o, c in zip(outcomes, counts, strict=True) if (o >= 0).any()]
    people = [Participant(str(i), (ObservedBlock(trials, o.reshape(2, T)),)) for i, o in enumerate(some)]
    space = ParameterSpace.of(*values)
    log_p = Likelihood(agent, people, space, observation).log_likelihood(point(space, values, len(people)))
    expected, counts = n * log_p[0].exp().numpy(), np.array(counts)
    common = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[common].sum()
    assert common.sum() > 5
    assert chi2 < common.sum() + 4 * np.sqrt(2 * common.sum())  # four standard deviations above what is expected


# ---- what is refused ---------------------------------------------------------------------------------


def test_refusals():
    agent, people = make_agent(), make_people()

    def refused(match, space, agent=agent, people=people, observation=None):
        with pytest.raises(ValueError, match=match):
            Likelihood(agent, people, space, observation)

    lapse = ParameterSpace.of("lapse")
    refused("at least one participant", lapse, people=[])
    refused("no place in the network", ParameterSpace.of("response_bias"))
    refused("no place in the network with StepChoices", ParameterSpace.of("bound"))
    refused("needs \\['bound', 'bound_noise'", ParameterSpace.of("lapse"), observation=FreeResponse())
    times = ParameterSpace.of("bound", "bound_noise", "non_decision_time")
    refused("trial 0 has several choices", times, observation=FreeResponse())
    nearest = make_agent(replace(CONFIG, retrieval="nearest"))
    refused("averages over entries", ParameterSpace.of("forgetting"), agent=nearest)
    refused("no gradient with retrieval='nearest'", ParameterSpace.of("context_weight"), agent=nearest)
    refused("need a memory", ParameterSpace.of("gate_bias"), agent=make_agent(replace(CONFIG, memory_capacity=0)))
    as_input = make_agent(replace(CONFIG, reinstatement="input"))
    refused("needs a reinstatement gate", ParameterSpace.of("gate_bias"), agent=as_input)
    by_context = make_agent(replace(CONFIG, key=COLUMNS))
    refused("weighs the context's", ParameterSpace.of("context_weight"), agent=by_context)
    refused("there is a choice 2", lapse, agent=make_agent(replace(CONFIG, n_actions=2)))
    refused("input columns", lapse, agent=make_agent(replace(CONFIG, input_size=6)))

    block = people[0].blocks[0]
    encode = block.trials.encode.copy()
    encode[:, -1] = True
    again = Participant("again", (replace(block, trials=replace(block.trials, encode=encode)),))
    lost = ParameterSpace.of("encoding_probability")
    refused("'again', block 0: .* stores an entry, and returns", lost, people=[again])
    nameless = Participant("nameless", (replace(block, trials=replace(block.trials, context=None)),))
    refused("'nameless', block 0: .* which context", lost, people=[nameless])
    assert Likelihood(agent, [again, nameless], lapse).n_choices.tolist() == [again.n_choices] * 2
    with pytest.raises(ValueError, match="z must be float64"):
        Likelihood(agent, people, lapse).log_likelihood(torch.zeros(3, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="context_columns must lie"):
        TrainedAgent(CONFIG, agent.weights, (3, 9))
