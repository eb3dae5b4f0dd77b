"""The agent as a node of an outer composition: trained there end to end, as the same layers in plain PyTorch.

The outer composition here is sensory → agent → response, with two switches for the agent's memory; ``Plain`` is
the same in PyTorch, with the reference's cell in the middle. Both start from the same weights and see the same
data.
"""

import warnings

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import rarely
from eplstm.models import (
    EpisodicLSTMComposition,
    ModelConfig,
    RecurrentComposition,
    ReferenceEpisodicLSTM,
    train,
    weight_shapes,
)
from eplstm.models.backend import Session, get_matrix
from eplstm.tasks import Trials
from torch import Tensor, nn

ATOL = 1e-10
"""float64 on both sides; they agree to some 1e-15."""
PRE, SENSORY, D, H, A, OUT = 6, 5, 4, 3, 2, 7
N, T = 3, 4
LEARNING_RATE = 0.05
CONFIG = ModelConfig(D, H, A, memory_capacity=6)
PROJECTIONS = ("to_sensory", "to_agent", "to_response")


def seeded(seed):
    return np.random.default_rng(seed)


def make_data(n=N, steps=T, seed=1):
    """Inputs, targets and the two switches of n sequences, each (n, T, size)."""
    rng = seeded(seed)
    return {
        "pre": rng.standard_normal((n, steps, PRE)),
        "target": rng.random((n, steps, OUT)),
        "switch": np.stack([rng.random((n, steps)) < 0.8, rng.random((n, steps)) < 0.5], axis=-1).astype(float),
    }


def make_weights(config, seed=2):
    rng = seeded(seed)
    sizes = {"to_sensory": (PRE, SENSORY), "to_agent": (SENSORY, config.input_size), "to_response": (H, OUT)}
    layers = {name: 0.7 * rng.standard_normal(size) for name, size in sizes.items()}
    return layers, {name: 0.7 * rng.standard_normal(shape) for name, shape in weight_shapes(config).items()}


def entries(config, seed=3):
    rng = seeded(seed)
    return rng.standard_normal((2, config.key_size)), rng.standard_normal((2, config.hidden_size))


class Plain(nn.Module):
    """The same in plain PyTorch: one memory, and any number of sequences one after the other."""

    def __init__(self, config, optimizer="adam"):
        super().__init__()
        layers, weights = make_weights(config)
        self.layers = nn.ParameterDict({name: nn.Parameter(torch.tensor(w)) for name, w in layers.items()})
        self.agent = ReferenceEpisodicLSTM(config).double()
        self.agent.set_weights(weights)
        if config.memory_capacity:
            self.agent.set_memory(*entries(config))
        self.optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](
            self.parameters(), lr=LEARNING_RATE
        )

    def forward(self, pre, switch, state=None, mask=None):
        """pre (T, PRE), switch (T, 2) → response (T, OUT), and π, v, h, c, m, gates as ``step`` gives them."""
        h, c = state or (torch.zeros(H, dtype=torch.float64),) * 2
        steps = []
        x = torch.tanh(torch.as_tensor(pre) @ self.layers["to_sensory"]) @ self.layers["to_agent"]
        for x_t, (retrieve, encode) in zip(x, switch, strict=True):
            steps.append(self.agent.step(x_t, h, c, retrieve=bool(retrieve), encode=bool(encode)))
            h, c = steps[-1][2:4]
        policy, value, hidden, cell, memory, gates = (torch.stack(part) for part in zip(*steps, strict=True))
        response = torch.sigmoid(hidden @ self.layers["to_response"])
        return {
            "response": response,
            "policy": policy,
            "value": value,
            "hidden": hidden,
            "cell": cell,
            "memory": memory,
            "gates": gates,
            "sensory": x,
        }

    def update(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Outer:
    """sensory → agent → response, with the agent's switches, in a composition of some kind."""

    def __init__(self, kind=RecurrentComposition, config=CONFIG, agent=None, switches=True, **kwargs):
        layers, weights = make_weights(config)
        self.agent = agent or EpisodicLSTMComposition(config)
        self.has_switches = switches and config.memory_capacity > 0
        if agent is None:
            self.agent.set_weights(weights)
            if config.memory_capacity:
                self.agent.set_memory(*entries(config))
        self.pre = pnl.ProcessingMechanism(name="pre", default_variable=np.zeros(PRE))
        self.sensory = pnl.ProcessingMechanism(
            name="sensory", default_variable=np.zeros(SENSORY), function=pnl.Tanh()
        )
        self.switch = pnl.ProcessingMechanism(name="switch", default_variable=np.zeros(2))
        self.response = pnl.ProcessingMechanism(
            name="response", default_variable=np.zeros(OUT), function=pnl.Logistic()
        )
        adam = {} if kind is pnl.Composition else {"optimizer_type": "adam"}
        self.outer = kind(name="outer", **adam, **kwargs)
        self.outer.add_nodes([self.pre, self.sensory, self.agent, self.response])
        self.project(self.pre, self.sensory, layers["to_sensory"])
        self.project(self.sensory, self.agent.input_node, layers["to_agent"])
        self.project(self.agent.hidden, self.response, layers["to_response"])
        if self.has_switches:
            self.outer.add_node(self.switch)
            self.project(self.switch, self.agent.retrieve_node, [[1.0], [0.0]], learnable=False)
            self.project(self.switch, self.agent.encode_node, [[0.0], [1.0]], learnable=False)
        if kind is pnl.AutodiffComposition:
            self.outer.exclude_node_roles(self.agent, pnl.NodeRole.OUTPUT)

    def project(self, sender, receiver, matrix, **kwargs):
        return self.outer.add_projection(
            pnl.MappingProjection(sender=sender, receiver=receiver, matrix=np.array(matrix), **kwargs)
        )

    def layer(self, name):
        """A projection of the outer composition, as PsyNeuLink keeps it."""
        sender, receiver = {
            "to_sensory": (self.pre, self.sensory),
            "to_agent": (self.sensory, self.agent.input_CIM),
            "to_response": (self.agent.output_CIM, self.response),
        }[name]
        (found,) = [p for p in self.outer.projections if (p.sender.owner, p.receiver.owner) == (sender, receiver)]
        return found

    def weights(self):
        layers = {name: get_matrix(self.layer(name), self.outer.default_execution_id) for name in PROJECTIONS}
        return layers | self.agent.weights()

    def inputs(self, data):
        switch = {self.switch: data["switch"]} if self.has_switches else {}
        return {self.pre: data["pre"]} | switch

    def learn(self, data, **kwargs):
        """In a stock AutodiffComposition: trials are steps; a minibatch is one of the data's sequences."""
        inputs = {node: values.reshape(-1, values.shape[-1]) for node, values in self.inputs(data).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.outer.learn(
                inputs=inputs,
                targets={self.response: data["target"].reshape(-1, OUT)},
                **{
                    "minibatch_size": data["pre"].shape[1],
                    "learning_rate": LEARNING_RATE,
                    "randomize_minibatches": False,
                    "execution_mode": pnl.ExecutionMode.PyTorch,
                    **kwargs,
                },
            )

    def learn_sequences(self, data, **kwargs):
        """In a stock AutodiffComposition with full_sequence_mode."""
        self.outer.infer_backpropagation_learning_pathways(pnl.ExecutionMode.PyTorch)
        ((_, target),) = self.outer.sample_port_to_target_port_map.items()
        given = self.inputs(data) | {target.owner: data["target"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.outer.learn(
                inputs=[{node: torch.tensor(v[i]) for node, v in given.items()} for i in range(len(data["pre"]))],
                **{
                    "learning_rate": LEARNING_RATE,
                    "randomize_minibatches": False,
                    "execution_mode": pnl.ExecutionMode.PyTorch,
                    **kwargs,
                },
            )


class Squares(Session):
    """Mean square of the response's error, and a term of each of the agent's own outputs."""

    wants_gradients = True

    def __init__(self, built, data):
        self.built, self.target = built, torch.tensor(data["target"])
        self.losses, self.gradients, self.values = [], [], []

    def loss(self, which, values):
        agent = self.built.agent
        self.values.append({k: values[v].detach() for k, v in named(self.built).items() if v in values})
        loss = loss_of(values[self.built.response], values[agent.actor], values[agent.critic], self.target, which)
        self.losses.append(loss.item())
        return loss

    def before_update(self, gradients):
        self.gradients.append(gradients)


def named(built):
    agent = built.agent
    return {"response": built.response, "policy": agent.actor, "hidden": agent.hidden, "cell": agent.cell} | (
        {"memory": agent.memory_node} if agent.config.memory_capacity else {}
    )


def loss_of(response: Tensor, policy: Tensor, value: Tensor, target: Tensor, which) -> Tensor:
    error = (response - target[which.start : which.stop]).square().mean()
    return error - 0.1 * torch.log(policy[..., 0]).sum() + 0.1 * (value - 1).square().sum()


def learn_plain(plain, data):
    """One update a sequence; losses, values and gradients of each."""
    losses, values, gradients = [], [], []
    for i in range(len(data["pre"])):
        out = plain(data["pre"][i], data["switch"][i])
        target = torch.tensor(data["target"])
        loss = loss_of(out["response"][None], out["policy"][None], out["value"][None], target, range(i, i + 1))
        losses.append(plain.update(loss))
        values.append({name: v.detach() for name, v in out.items()})
        gradients.append({name: p.grad.clone() for name, p in plain.named_parameters() if p.grad is not None})
    return losses, values, gradients


def same_weights(built, plain):
    weights = built.weights()
    expected = {name: p.detach().numpy() for name, p in plain.layers.items()} | plain.agent.weights()
    for name, value in expected.items():
        np.testing.assert_allclose(weights[name], value, rtol=0, atol=ATOL, err_msg=name)
    assert any(np.abs(expected[name] - w).max() > 0.01 for name, w in make_weights(plain.agent.config)[1].items())


def same_memory(built, plain):
    for ours, theirs in zip(built.agent.memory(), plain.agent.memory(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


CONFIGS = {
    "nearest": CONFIG,
    "average": ModelConfig(D, H, A, memory_capacity=5, retrieval="average", sharpness=2.0, kernel="cosine"),
    "part": ModelConfig(D, H, A, memory_capacity=3, key=(1, 3), ties="newest", repeated_key="overwrite"),
    "no memory": ModelConfig(D, H, A, memory_capacity=0),
    "memory as input": ModelConfig(D, H, A, 5, retrieval="average", sharpness=2.0, reinstatement="input"),
}


@pytest.mark.parametrize(
    ("name", "fast"),
    [
        rarely("nearest", True),
        rarely("average", True),
        rarely("part", True),
        rarely("no memory", True),
        rarely("average", False),
        rarely("part", False),
        ("memory as input", True),
        rarely("memory as input", False),
    ],
)
def test_in_a_recurrent_composition(name, fast):
    """``fast``: the agent's whole sequences at once; or PsyNeuLink's wrappers, node by node and step by step."""
    config = CONFIGS[name]
    data, plain, built = make_data(), Plain(config), Outer(config=config)
    built.agent.fast_path = fast
    session = Squares(built, data)
    built.outer.learn(built.inputs(data), session, learning_rate=LEARNING_RATE)
    assert built.agent.detour == (None if fast else "fast_path is off")
    losses, values, gradients = learn_plain(plain, data)
    np.testing.assert_allclose(session.losses, losses, rtol=0, atol=ATOL)
    for ours, theirs in zip(session.values, values, strict=True):
        for name, value in ours.items():
            np.testing.assert_allclose(value[0], theirs[name], rtol=0, atol=ATOL, err_msg=name)
    for ours, theirs in zip(session.gradients, gradients, strict=True):
        for name in PROJECTIONS:
            np.testing.assert_allclose(ours[built.layer(name)], theirs[f"layers.{name}"], rtol=0, atol=ATOL)
    same_weights(built, plain)
    same_memory(built, plain)


@pytest.mark.parametrize("name", ["nearest", "memory as input"])
@pytest.mark.slow
def test_logs_of_the_gates(name):
    """The gates, which are kept without gradients, are computed anew where they are asked for."""
    config = CONFIGS[name]
    data, plain, built = make_data(n=2), Plain(config), Outer(config=config)
    for gate in built.agent.gates.values():
        gate.set_log_conditions("value")
    built.outer.learn(built.inputs(data), Squares(built, data), learning_rate=LEARNING_RATE)
    expected = torch.cat([values["gates"] for values in learn_plain(plain, data)[1]])
    for k, block in enumerate(("forget", "input", "output", "reinstatement")):
        if block in built.agent.gates:
            (log,) = built.agent.gates[block].parameters.value.log.values()
            values = np.array([np.ravel(entry.value) for entry in log])
            np.testing.assert_allclose(values, expected[:, k], rtol=0, atol=ATOL, err_msg=block)


# ---- in PsyNeuLink's AutodiffComposition ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "anew"), [rarely("nearest", True), rarely("average", False), rarely("no memory", True)]
)
def test_in_an_autodiff_composition_by_trials(name, anew):
    """A minibatch of trials is a sequence of steps; PsyNeuLink's loss is the mean over them."""
    config = CONFIGS[name]
    data, plain, built = make_data(), Plain(config), Outer(pnl.AutodiffComposition, config)
    built.learn(data, call_before_minibatch=built.agent.start_sequence if anew else None)
    state, losses = None, []
    for i in range(N):
        out = plain(data["pre"][i], data["switch"][i], None if anew else state)
        losses.append(plain.update((out["response"] - torch.tensor(data["target"][i])).square().mean()))
        state = out["hidden"][-1].detach(), out["cell"][-1].detach()
    np.testing.assert_allclose(np.ravel(built.outer.torch_losses), losses, rtol=0, atol=ATOL)
    same_weights(built, plain)
    same_memory(built, plain)
    np.testing.assert_allclose(np.ravel(built.outer.results[-1]), out["response"][-1].detach(), rtol=0, atol=ATOL)
    np.testing.assert_allclose(
        built.agent.cell.parameters.value.get(built.outer)[0], out["cell"][-1].detach(), rtol=0, atol=ATOL
    )


@pytest.mark.parametrize("name", [rarely("average"), "part"])
def test_in_an_autodiff_composition_by_sequences(name):
    """Each sequence begins anew; PsyNeuLink's loss is that of the last step."""
    config = CONFIGS[name]
    data, plain = make_data(), Plain(config)
    built = Outer(pnl.AutodiffComposition, config, full_sequence_mode=True)
    built.learn_sequences(data)
    losses = []
    for i in range(N):
        out = plain(data["pre"][i], data["switch"][i])
        losses.append(plain.update((out["response"][-1] - torch.tensor(data["target"][i][-1])).square().mean()))
    np.testing.assert_allclose(np.ravel(built.outer.torch_losses), losses, rtol=0, atol=ATOL)
    same_weights(built, plain)
    same_memory(built, plain)


# ---- Python mode ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [rarely(RecurrentComposition), rarely(pnl.AutodiffComposition), pnl.Composition])
def test_run_gives_the_same(kind):
    """Two sequences of run(), each begun anew, and a third that goes on."""
    data, plain = make_data(n=3, steps=2), Plain(CONFIG)
    built, state = Outer(kind), None
    for i in range(3):
        if i < 2:
            built.agent.start_sequence()
            state = None
        course = []
        built.outer.run(
            inputs={node: values[i] for node, values in built.inputs(data).items()},
            call_after_trial=lambda: course.append(built.response.parameters.value.get(built.outer)[0].copy()),  # noqa: B023
        )
        with torch.no_grad():
            out = plain(data["pre"][i], data["switch"][i], state)
        state = out["hidden"][-1], out["cell"][-1]
        np.testing.assert_allclose(course, out["response"], rtol=0, atol=ATOL)
    same_memory(built, plain)


@pytest.mark.slow
def test_defaults_of_the_switches():
    """Where nothing projects to them: retrieve at all steps, store at none; in both modes. And the agent's weights
    and memory, set between two calls, are those of the second."""
    built, plain = Outer(switches=False), Plain(CONFIG)
    data = make_data(n=2, steps=2)
    data["switch"] = np.ones((2, 2, 1)) * [1.0, 0.0]
    built.agent.start_sequence()
    built.outer.run(inputs={built.pre: data["pre"][0]})
    with torch.no_grad():
        out = plain(data["pre"][0], data["switch"][0])
    np.testing.assert_allclose(
        built.response.parameters.value.get(built.outer)[0], out["response"][-1], rtol=0, atol=ATOL
    )
    session = Squares(built, data)
    built.outer.learn(built.inputs(data), session, learning_rate=LEARNING_RATE)
    np.testing.assert_allclose(session.losses, learn_plain(plain, data)[0], rtol=0, atol=ATOL)
    same_memory(built, plain)
    for agent in (built.agent, plain.agent):
        agent.set_weights(make_weights(CONFIG, seed=9)[1])
        agent.set_memory(*entries(CONFIG, seed=10))
    again = Squares(built, data)
    built.outer.learn(built.inputs(data), again, learning_rate=LEARNING_RATE)
    np.testing.assert_allclose(again.losses, learn_plain(plain, data)[0], rtol=0, atol=ATOL)


# ---- the state of a nested agent -----------------------------------------------------------------------------


def make_trials(n=2, steps=3, seed=8):
    rng = seeded(seed)
    return Trials(
        inputs=rng.standard_normal((n, steps, D)),
        targets=rng.integers(0, A, (n, steps)),
        encode=rng.random((n, steps)) < 0.5,
    )


@pytest.mark.parametrize("kind", [rarely(RecurrentComposition), pnl.AutodiffComposition])
@pytest.mark.slow
def test_the_agent_alone_and_in_the_outer_composition_in_turns(kind):
    """It is one agent: what it learns by itself and what it stores goes on in the outer, and the other way."""
    data, trials, plain = make_data(n=2), make_trials(), Plain(CONFIG)
    agent = EpisodicLSTMComposition(CONFIG)
    agent.set_weights(make_weights(CONFIG)[1])
    agent.set_memory(*entries(CONFIG))
    train(agent, trials, seed=5, learning_rate=LEARNING_RATE)
    built = Outer(kind, agent=agent)
    rates = {"learning_rate": LEARNING_RATE}

    def learn():
        if kind is RecurrentComposition:
            built.outer.learn(built.inputs(data), Squares(built, data), **rates)
        else:
            built.learn(data, call_before_minibatch=agent.start_sequence)

    learn()
    record = agent.run_trials(trials, seed=6)
    train(agent, trials, seed=7, learning_rate=LEARNING_RATE)
    learn()

    def learn_layers():
        if kind is RecurrentComposition:
            learn_plain(plain, data)
            return
        for i in range(2):
            out = plain(data["pre"][i], data["switch"][i])
            plain.update((out["response"] - torch.tensor(data["target"][i])).square().mean())

    train(plain.agent, trials, seed=5, learning_rate=LEARNING_RATE)
    learn_layers()
    expected = plain.agent.run_trials(trials, seed=6)
    np.testing.assert_allclose(record.policy, expected.policy, rtol=0, atol=ATOL)
    np.testing.assert_array_equal(record.action, expected.action)
    train(plain.agent, trials, seed=7, learning_rate=LEARNING_RATE)
    learn_layers()
    same_weights(built, plain)
    same_memory(built, plain)


@pytest.mark.slow
def test_weights_set_between_are_trained_in_an_autodiff_composition():
    data, built = make_data(n=1), Outer(pnl.AutodiffComposition)
    again = []
    for _ in range(2):
        built.agent.set_weights(make_weights(CONFIG)[1])
        built.agent.set_memory(*entries(CONFIG))
        built.learn(data, learning_rate={built.layer("to_response"): 0.1, pnl.DEFAULT_LEARNING_RATE: 0.0})
        again.append(built.agent.weights())
        built.agent.set_weights({name: 2 * value for name, value in again[-1].items()})
    for name, value in make_weights(CONFIG)[1].items():
        np.testing.assert_allclose(again[1][name], value, rtol=0, atol=ATOL)
