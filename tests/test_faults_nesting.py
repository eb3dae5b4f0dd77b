"""An agent stays one agent: nested, changed, controlled from outside, saved, and called in other contexts.

Where something cannot be done it may be refused, by an error that names what stands in the way; what must not be
is another result without a word.
"""

import numpy as np
import psyneulink as pnl
import pytest
from common import rarely
from eplstm.models import (
    EncodingMechanism,
    EpisodicLSTMComposition,
    EpisodicMemory,
    ModelConfig,
    ReferenceEpisodicLSTM,
    load_model,
    save_model,
    train,
)
from eplstm.tasks import Trials
from faults import ATOL, refused, same

N, T, D, H, A = 4, 3, 4, 3, 2
CONFIG = ModelConfig(D, H, A, memory_capacity=30)
RATE = 0.05


def make_trials(seed=1, encode=True):
    rng = np.random.default_rng(seed)
    inputs, targets = rng.standard_normal((N, T, D)), rng.integers(0, A, (N, T))
    return Trials(inputs=inputs, targets=targets, encode=np.full((N, T), encode))


TRIALS = make_trials()
STATES = tuple(np.random.default_rng(2).standard_normal((2, N, H)))


def policy(model, trials=TRIALS, run="simulate"):
    """(n, T, A), with given choices and initial states."""
    return getattr(model, run)(trials, actions=trials.targets, initial_states=STATES).policy


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=ATOL)


# ---- nested --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nested():
    """A trained agent that has just been nested in a plain Composition, which has not run; with its reference."""
    agent, plain = EpisodicLSTMComposition(CONFIG, seed=0, name="agent"), ReferenceEpisodicLSTM(CONFIG, 0).double()
    for each in (agent, plain):
        train(each, TRIALS, learning_rate=RATE, seed=1)
    outer = pnl.Composition(name="outer")
    outer.add_node(agent)
    return agent, plain, outer


def test_the_weights_are_there_once_it_is_nested(nested):
    """Before the outer composition has run: those that were learned."""
    agent, plain, _ = nested
    same(agent.weights(), plain.weights())


def test_the_memory_is_there_once_it_is_nested(nested):
    agent, plain, _ = nested
    for ours, theirs in zip(agent.memory(), plain.memory(), strict=True):
        assert ours.shape == theirs.shape
        close(ours, theirs)


def test_the_optimisers_state_is_there_once_it_is_nested(nested):
    agent, plain, _ = nested
    same(agent.optimizer_state(), plain.optimizer_state())


def test_what_is_saved_once_it_is_nested_is_what_was_trained(nested, tmp_path):
    agent, plain, _ = nested
    save_model(agent, tmp_path / "agent")
    loaded = load_model(tmp_path / "agent", "reference")
    same(loaded.weights(), plain.weights())
    assert loaded.memory()[0].shape == plain.memory()[0].shape
    close(policy_of_reference(loaded), policy_of_reference(plain))


def policy_of_reference(model):
    """Leaves its memory as it is."""
    entries = model.memory()
    found = policy(model, run="run_trials")
    model.set_memory(*entries)
    return found


def test_a_memory_that_is_cleared_once_it_is_nested_stays_empty(nested):
    """Neither its own runs nor the outer's first one bring back entries from before."""
    agent, plain, outer = nested
    plain.clear_memory()
    expected = policy_of_reference(plain)
    agent.clear_memory()
    close(policy(agent), expected)
    agent.clear_memory()
    close(policy(agent, run="run_trials"), expected)
    agent.clear_memory()
    outer.run(inputs={agent: [np.zeros(np.shape(v)) for v in agent.external_input_values]})
    keys, _ = agent.memory()
    assert not {tuple(key) for key in keys} & {tuple(x) for x in TRIALS.inputs.reshape(-1, D)}


def test_feedback_is_dashed_in_the_picture_of_a_plain_outer_composition(nested):
    """As in the agent's own."""
    agent, _, outer = nested
    around = outer.show_graph(show_nested=pnl.NESTED, output_fmt="source")
    assert agent.show_graph(output_fmt="source").count("style=dashed") == 6
    assert around.count("style=dashed") == 6


# ---- a second memory -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_memories():
    """An agent with a second memory, of the same keys and values, that drives the candidate; it stores what and
    when the first does."""
    model = EpisodicLSTMComposition(CONFIG, seed=0)
    form = [np.zeros(D), np.zeros(H)]
    second = pnl.EpisodicMemoryMechanism(
        name="second memory",
        input_ports=[
            pnl.InputPort(name="key", variable=form[0]),
            pnl.InputPort(name="value", variable=form[1], default_input=pnl.DEFAULT_VARIABLE),
        ],
        default_variable=form,
        function=EpisodicMemory(default_variable=form, kernel="l2", max_entries=30, storage_prob=0.0),
    )
    encoding = EncodingMechanism(memory=second, name="second encoding")
    model.add_nodes([second, encoding])
    model.exclude_node_roles(encoding, pnl.NodeRole.OUTPUT)

    def fix(sender, receiver, matrix):
        model.add_projection(
            pnl.MappingProjection(sender=sender, receiver=receiver, matrix=matrix, learnable=False)
        )

    fix(model.input_node, second.input_ports["key"], np.eye(D))
    fix(second.output_ports[1], model.gates["candidate"], 2 * np.eye(H))
    fix(model.input_node, encoding.input_ports["key"], np.eye(D))
    fix(model.cell, encoding.input_ports["value"], np.eye(H))
    fix(model.encode_node, encoding.input_ports["encode"], np.eye(1))
    return model


def without_memory(model):
    """With all entries of both memories gone, by the memories' own means."""
    for node in (model.episodic_memory, *(n for n in model.nodes if n.name.startswith("second memory"))):
        node.function.clear(model.default_execution_id, environment=None)


@pytest.mark.parametrize("run", ["simulate", "run_trials"])
def test_clearing_the_memory_clears_all_of_a_graphs_memories(run, two_memories):
    """A block after it is as the first was."""
    without_memory(two_memories)
    first = policy(two_memories, run=run)
    assert np.abs(policy(two_memories, run=run) - first).max() > 1e-3  # entries have their effect
    two_memories.clear_memory()
    close(policy(two_memories, run=run), first)


def test_clearing_the_memory_clears_all_environments_of_all_memories(two_memories):
    """Training in three environments is, after it, as it was the first time."""
    environments, records = [make_trials(seed) for seed in (4, 5, 6)], []
    without_memory(two_memories)
    for _ in range(2):
        forced = {"actions": [t.targets for t in environments], "initial_states": [STATES] * 3}
        records.append(train(two_memories, environments, learning_rate=0.0, **forced))
        two_memories.clear_memory()
    for first, again in zip(*records, strict=True):
        close(again.policy, first.policy)


@pytest.mark.parametrize("run", ["simulate", "run_trials"])
def test_a_lesion_is_one_of_all_memories(run, two_memories):
    """With retrieval off, what is stored has no effect on the policy; or the lesion is refused."""
    lesioned = TRIALS.lesioned(retrieve=False)
    without_memory(two_memories)
    plain, found = [], []
    if refused(lambda: plain.append(policy(two_memories, lesioned.lesioned(encode=False), run)), "second memory"):
        return
    policy(two_memories, run=run)
    found.append(policy(two_memories, lesioned, run))
    close(found[0], plain[0])


# ---- controlled from outside ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["used before", rarely("new")])
def controlled(request):
    """An agent whose forget gate has had a gain of 4 from an outer composition's control, in its run."""
    agent = EpisodicLSTMComposition(CONFIG, seed=0, name="agent")
    level = pnl.ProcessingMechanism(name="level", function=pnl.Linear(slope=0.0, intercept=4.0))
    signal = pnl.ControlSignal(modulates=(pnl.GAIN, agent.gates["forget"]), modulation=pnl.OVERRIDE)
    before = pnl.ProcessingMechanism(name="before", default_variable=np.zeros(D))
    outer = pnl.Composition(name="outer")
    outer.add_nodes([before, level, agent])
    outer.add_projection(pnl.MappingProjection(sender=before, receiver=agent.input_node, matrix=np.eye(D)))
    outer.add_node(pnl.ControlMechanism(name="control", monitor_for_control=level, control_signals=signal))
    if request.param == "used before":  # nested, by itself: PsyNeuLink's PyTorch form of it is there
        policy(agent)
    outer.run(inputs={before: [np.ones(D)], level: [[1.0]]})
    return agent


@pytest.mark.parametrize("way", ["simulate", "train"])
def test_control_from_outside_acts_on_all_paths_or_is_refused(way, controlled):
    """What acts on ``run_trials`` acts on these, too: otherwise another agent is trained than was run."""
    names = ("forget gate", "control", "gain")
    controlled.clear_memory()
    run, found = [], []
    if refused(lambda: run.append(policy(controlled, run="run_trials")), *names):
        return
    controlled.clear_memory()

    def other():
        if way == "simulate":
            found.append(policy(controlled))
        else:
            forced = {"actions": TRIALS.targets, "initial_states": STATES}
            found.append(train(controlled, TRIALS, learning_rate=0.0, **forced).policy)

    if not refused(other, *names):
        close(found[0], run[0])
