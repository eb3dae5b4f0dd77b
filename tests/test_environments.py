"""Environments: one agent in several copies of its task, each with its own memory, one update from all.

Four ways come to the same: the reference; the composition on its fast and on its general path; PsyNeuLink's own
``learn(..., minibatch_size=M)`` on trials that take turns; and the loop below, written out from the equations.
"""

import numpy as np
import pytest
import torch
from common import pristine, rarely
from eplstm.models import ReferenceEpisodicLSTM, train
from eplstm.models.plans import plan_trials
from eplstm.models.records import STATES
from eplstm.models.weights import weight_shapes
from eplstm.tasks import Trials
from eplstm.tasks.trials import concatenate

ATOL = 1e-10
"""float64 on both sides; they agree to 1e-15 a step."""
LEARNING_RATE = 0.02
FIELDS = ("policy", "value", "action", "reward", "policy_loss", "value_loss", *STATES)
M, N, T = 3, 4, 5


@pytest.fixture
def environments(make_trials):
    """Trials of M environments that encode and retrieve at different steps: not equally full."""
    return [make_trials(n=N, steps=T) for _ in range(M)]


def model_of(kind, config, seed=1, which=0):
    """``reference``, ``fast`` or ``general``, with large random weights; ``which``: as in ``pristine``."""
    if kind == "reference":
        model = ReferenceEpisodicLSTM(config).double()
    else:
        model = pristine(config, fast=kind == "fast", which=which)
    rng = np.random.default_rng(seed)
    model.set_weights({k: 0.7 * rng.standard_normal(shape) for k, shape in weight_shapes(config).items()})
    return model


def close(one, two, what=""):
    np.testing.assert_allclose(one, two, rtol=0, atol=ATOL, err_msg=what)


def same_models(one, two):
    for part in ("weights", "optimizer_state"):
        ours, theirs = getattr(one, part)(), getattr(two, part)()
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            close(array, theirs[name], f"{part}: {name}")
    assert one.environments == two.environments
    for e in range(one.environments):
        for ours, theirs in zip(one.memory(environment=e), two.memory(environment=e), strict=True):
            close(ours, theirs, f"memory of environment {e}")


def same_records(ours, theirs):
    for e, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        for name in FIELDS:
            close(getattr(one, name), getattr(two, name), f"environment {e}: {name}")
        for name, array in (one.gradients or {}).items():
            close(array, two.gradients[name], f"gradients: {name}")


# ---- written out -------------------------------------------------------------------------------------


class Loop:
    """The agent in M environments, from the equations: L2 kernel, whole input as key, the oldest of equals."""

    def __init__(self, config, weights, environments):
        self.config = config
        self.weights = {name: torch.tensor(array, requires_grad=True) for name, array in weights.items()}
        self.adam = torch.optim.Adam(self.weights.values(), lr=LEARNING_RATE)
        self.entries = [[] for _ in range(environments)]

    def trial_loss(self, trials, plan, n, entries, gamma):
        w, size = self.weights, self.config.hidden_size
        h, c = torch.tensor(plan.h0[n]), torch.tensor(plan.c0[n])
        log_policies, values, rewards = [], [], []
        for t in range(trials.length):
            x = torch.tensor(trials.inputs[n, t])
            z = w["input_weight"] @ x + w["input_bias"] + w["hidden_weight"] @ h + w["hidden_bias"]
            f, i, o, r = (torch.sigmoid(z[k * size : (k + 1) * size]) for k in range(4))
            m = torch.zeros(size, dtype=torch.float64)
            if entries and trials.retrieve[n, t]:
                distances = [float(((x - key) ** 2).sum()) for key, _ in entries]
                m = torch.tanh(entries[int(np.argmin(distances))][1])
            c = f * c + i * torch.tanh(z[4 * size :]) + r * m
            h = o * torch.tanh(c)
            if trials.encode[n, t]:
                entries.append((x, c.detach()))
                del entries[: -self.config.memory_capacity]
            policy = torch.softmax(w["actor_weight"] @ h + w["actor_bias"], 0)
            edges = np.cumsum(policy.detach().numpy())[:-1]
            action = int((plan.luck[n, t] >= edges).sum())
            log_policies.append(torch.log(policy[action]))
            values.append((w["critic_weight"] @ h + w["critic_bias"])[0])
            rewards.append(float(action == trials.targets[n, t]))
        loss = torch.zeros((), dtype=torch.float64)
        for t, (log_policy, value) in enumerate(zip(log_policies, values, strict=True)):
            target = sum(gamma ** (k - t) * rewards[k] for k in range(t, trials.length))
            loss = loss - log_policy * (target - value.detach())
            loss = loss + torch.nn.functional.smooth_l1_loss(value, torch.tensor(target, dtype=torch.float64))
        return loss

    def train(self, environments, seed, gamma):
        plans = [plan_trials(self.config, own, seed=(seed, e)) for e, own in enumerate(environments)]
        losses = np.zeros((len(environments), len(environments[0])))
        for n in range(len(environments[0])):
            self.adam.zero_grad()
            for e, own in enumerate(environments):
                loss = self.trial_loss(own, plans[e], n, self.entries[e], gamma)
                losses[e, n] = loss.item()
                (loss / len(environments)).backward()
            self.adam.step()
        return losses


@pytest.mark.parametrize(
    ("kind", "capacity"),
    [("reference", 2), ("reference", 40), ("fast", 2), rarely("fast", 40), rarely("general", 2), ("general", 40)],
)
def test_a_loop_written_out(kind, capacity, make_config, environments):
    model = model_of(kind, make_config(memory_capacity=capacity))
    loop = Loop(model.config, model.weights(), M)
    for seed in (5, 6):  # twice: memory and Adam go on
        losses = loop.train(environments, seed, gamma=0.8)
        records = train(model, environments, seed=seed, gamma=0.8, learning_rate=LEARNING_RATE)
        for e, record in enumerate(records):
            close(record.policy_loss + record.value_loss, losses[e], f"losses of environment {e}")
        for name, weight in loop.weights.items():
            close(model.weights()[name], weight.detach().numpy(), name)
        for e, entries in enumerate(loop.entries):
            keys, values = model.memory(environment=e)
            close(keys, np.array([key.numpy() for key, _ in entries]))
            close(values, np.array([value.numpy() for _, value in entries]))


# ---- reference, fast path, general path --------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        rarely({"kernel": "cosine", "key": (1, 4), "ties": "newest"}, {"gamma": 0.9}),
        rarely({"kernel": "l1", "repeated_key": "overwrite"}, {"entropy_weight": 0.2, "value_weight": 0.4}),
        rarely({"retrieval": "average", "sharpness": 3.0, "memory_capacity": 2}, {"loss": "cross_entropy"}),
        rarely({"memory_capacity": 1}, {"entropy_weight": 0.2}),
    ],
    ids=["default", "cosine", "l1", "average", "room for one"],
)
def test_all_paths_are_one(changes, options, make_config, environments):
    settings = {"learning_rate": LEARNING_RATE, "record_gradients": True, **options}
    reference = model_of("reference", make_config(**changes))
    expected = [train(reference, environments, seed=seed, **settings) for seed in (1, 2)]
    for kind in ("fast", "general"):
        model = model_of(kind, make_config(**changes))
        for seed, theirs in zip((1, 2), expected, strict=True):
            same_records(train(model, environments, seed=seed, **settings), theirs)
        assert (model.detour is None) == (kind == "fast")
        if options.get("loss") == "cross_entropy":  # without a gradient, the critic has no state to compare
            close(model.weights()["hidden_weight"], reference.weights()["hidden_weight"])
        else:
            same_models(model, reference)


@pytest.mark.parametrize("kind", ["reference", rarely("fast"), rarely("general")])
def test_one_environment_is_no_environment(kind, make_config, environments):
    """Draws apart, which come from (seed, environment)."""
    one, two = (model_of(kind, make_config(), which=which) for which in range(2))
    (record,) = train(one, environments[:1], seed=3, learning_rate=LEARNING_RATE)
    other = train(two, environments[0], seed=(3, 0), learning_rate=LEARNING_RATE)
    same_models(one, two)
    same_records([record], [other])


@pytest.mark.parametrize("kind", ["reference", "fast"])
@pytest.mark.slow
def test_equal_environments_learn_as_one(kind, make_config, environments):
    """The mean over copies of one and the same trials, with the same choices, is that of one of them."""
    shared = {
        "actions": environments[0].targets,
        "initial_states": (np.full((N, 3), 0.1), np.full((N, 3), -0.2)),
    }
    one, many = (model_of(kind, make_config(), which=which) for which in range(2))
    train(one, environments[0], learning_rate=LEARNING_RATE, **shared)
    train(many, [environments[0]] * M, learning_rate=LEARNING_RATE, **{k: [v] * M for k, v in shared.items()})
    for name, array in one.weights().items():
        close(array, many.weights()[name], name)
    for e in range(M):
        for ours, theirs in zip(one.memory(), many.memory(environment=e), strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("kind", ["fast", "general"])
def test_memories_are_apart_and_go_on(kind, make_config, environments):
    """Training in fewer or more environments afterwards uses the memories that are there; clearing clears all."""
    model, check = (model_of(k, make_config()) for k in (kind, "reference"))
    for part in (environments[:2], environments, environments[1:2]):
        for each in (model, check):
            train(each, part, seed=1, learning_rate=LEARNING_RATE)
        same_models(model, check)
    assert model.environments == M
    keys, values = np.ones((2, 5)), np.full((2, 3), 2.0)
    model.set_memory(keys, values, environment=1)
    np.testing.assert_array_equal(model.memory(environment=1)[0], keys)
    assert not np.array_equal(model.memory(environment=0)[0][:2], keys)
    model.clear_memory()
    assert [len(model.memory(environment=e)[0]) for e in range(M)] == [0] * M


# ---- PsyNeuLink's minibatches ------------------------------------------------------------------------


def interleaved(arrays):
    """(M environments, n, ...) → trial 0 of each, then trial 1 of each, ..."""
    return np.swapaxes(np.stack(arrays), 0, 1).reshape(-1, *np.shape(arrays[0])[1:])


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("fast", "trials"),
        rarely("fast", "dict"),
        ("fast", "list"),
        rarely("general", "trials"),
        ("general", "dict"),
        rarely("general", "list"),
    ],
)
def test_minibatches_of_learn_are_environments(kind, form, make_config, environments):
    model, check = (model_of(k, make_config()) for k in (kind, "reference"))
    joined = {
        name: interleaved([getattr(own, name) for own in environments])
        for name in ("inputs", "targets", "encode", "retrieve")
    }
    rng = np.random.default_rng(8)
    actions = rng.integers(0, 4, joined["targets"].shape)
    states = tuple(rng.standard_normal((N * M, 3)) for _ in range(2))
    settings = {"minibatch_size": M, "learning_rate": LEARNING_RATE, "gamma": 0.6}
    settings |= {"actions": actions, "initial_states": states}
    if form == "trials":
        model.learn(Trials(**joined), **settings)
    else:
        inputs = {
            model.input_node: joined["inputs"],
            model.retrieve_node: joined["retrieve"][..., None].astype(float),
            model.encode_node: joined["encode"][..., None].astype(float),
        }
        if form == "list":
            inputs = [{node: values[n] for node, values in inputs.items()} for n in range(N * M)]
        model.learn(inputs, joined["targets"], **settings)
    records = train(
        check,
        environments,
        actions=[actions[e::M] for e in range(M)],
        initial_states=[tuple(s[e::M] for s in states) for e in range(M)],
        gamma=0.6,
        learning_rate=LEARNING_RATE,
    )
    same_models(model, check)
    same_records([model.record.of_environment(e, M) for e in range(M)], records)


@pytest.mark.slow
def test_a_last_minibatch_may_be_smaller(make_config, make_trials):
    """Trials that do not fill it are those of the first environments; the update is from their mean."""
    models = [model_of(kind, make_config(), which=which) for which, kind in enumerate(("fast", "general"))]
    trials = make_trials(n=5)
    for model in models:
        model.learn(trials, minibatch_size=2, seed=1, learning_rate=LEARNING_RATE)
    same_models(*models)
    stored = [int(trials.encode[e::2].sum()) for e in range(2)]
    assert [len(models[0].memory(environment=e)[0]) for e in range(2)] == [min(6, n) for n in stored]


# ---- wrong use ---------------------------------------------------------------------------------------


def test_errors(make_config, make_trials):
    model, own = model_of("reference", make_config()), make_trials()
    with pytest.raises(ValueError, match="at least one"):
        train(model, [])
    with pytest.raises(ValueError, match=r"environment 0 has \(4, 6\), environment 1 has \(2, 6\)"):
        train(model, [own, own[:2]])
    with pytest.raises(ValueError, match="actions must be a list with an item for each of 2"):
        train(model, [own, own], actions=[own.targets])
    with pytest.raises(TypeError, match=r"must be eplstm\.tasks\.Trials"):
        train(model, [own, own.inputs])
    with pytest.raises(ValueError, match="targets up to 3"):
        train(model_of("reference", make_config(n_actions=2)), [own])


def test_a_block_of_learn_is_a_block_of_train(make_config, environments):
    """Trials of environments that take turns, and a number of them that leaves a block incomplete."""
    taking_turns = concatenate(environments)[np.arange(M * N).reshape(M, N).T.ravel()]
    states = np.zeros((M * N, make_config().hidden_size))
    actions = taking_turns.targets
    settings = {"learning_rate": 1e-2, "update": "block", "through_memory": True}
    reference, composition = (model_of(kind, make_config()) for kind in ("reference", "fast"))
    train(
        reference,
        environments,
        actions=[actions[e::M] for e in range(M)],
        initial_states=[(states[e::M], states[e::M]) for e in range(M)],
        **settings,
    )
    given = {"actions": actions, "initial_states": (states, states)}
    composition.learn(taking_turns, minibatch_size=M, **given, **settings)
    same_models(composition, reference)
    with pytest.raises(ValueError, match=rf"multiple of minibatch_size.*got {M * N} trials and {M * N - 1}"):
        composition.learn(taking_turns, minibatch_size=M * N - 1, **given, **settings)
