"""Checkpoints: exact round trips of all models, and training that goes on; files: ``test_checkpoint_files``."""

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine, rarely
from eplstm.models import (
    Cohort,
    EncodingMechanism,
    EpisodicLSTMComposition,
    EpisodicMemory,
    ModelConfig,
    Person,
    ReferenceEpisodicLSTM,
    load_model,
    save_model,
    train,
)
from eplstm.models.checkpoint import describe_model
from eplstm.tasks import ContextualChoice

ATOL = 1e-10
"""Between the two models, both in float64; the round trip of one model is exact."""
SMALL = ModelConfig(4, 3, 2, 5)
"""Of the compositions."""


def state(model, *agent):
    """All that changes in a model or in an agent of a cohort, the memories of all environments among it."""
    found = {**model.weights(*agent), **model.optimizer_state(*agent)}
    for e in range(model.environments):
        found[f"keys {e}"], found[f"values {e}"] = model.memory(*agent, environment=e)
    return found


def assert_same(one, two, close=False):
    """Equal to the last bit, precision included; close: within ATOL, and but for the numbers of steps."""
    one, two = (each if isinstance(each, dict) else state(each) for each in (one, two))
    assert set(one) == set(two)
    for name, array in one.items():
        if not close:
            assert array.dtype == two[name].dtype, name
            np.testing.assert_array_equal(array, two[name], err_msg=name)
        elif not name.startswith("step."):  # rows that are never trained count no steps in a composition
            np.testing.assert_allclose(array, two[name], rtol=0, atol=ATOL, err_msg=name)


# ---- round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("double", "capacity", "loss"),
    [
        (True, 0, "actor_critic"),
        (False, 1, "actor_critic"),
        (False, 6, "cross_entropy"),
        (True, 40, "cross_entropy"),
    ],
)
def test_training_goes_on_as_if_never_stopped(double, capacity, loss, make_config, make_trials, tmp_path):
    """Cross-entropy leaves the critic without a state of the optimiser; 6 entries have run over, 40 have not."""
    config = make_config(memory_capacity=capacity, retrieval="average", sharpness=2.5)
    model = ReferenceEpisodicLSTM(config, seed=1)
    if double:
        model.double()
    train(model, make_trials(), learning_rate=0.01, loss=loss, seed=1)
    loaded = load_model(save_model(model, tmp_path / "agent"))
    assert loaded.config == config
    assert_same(model, loaded)
    more = make_trials()
    records = [train(each, more, learning_rate=0.01, loss=loss, seed=2) for each in (model, loaded)]
    assert_same(model, loaded)
    for name in ("policy", "action", "cell", "memory", "policy_loss"):
        np.testing.assert_array_equal(getattr(records[0], name), getattr(records[1], name))


def test_untrained_model(make_config, tmp_path):
    model = ReferenceEpisodicLSTM(make_config(), seed=1)
    loaded = load_model(save_model(model, str(tmp_path / "made" / "on" / "the" / "way")))
    assert_same(model, loaded)
    assert loaded.optimizer_state() == {}
    assert len(loaded.memory()[0]) == 0


@pytest.mark.slow
def test_person_comes_back_in_either_model(make_config, make_trials, tmp_path):
    """One who has context columns, which JSON knows no tuples for; and nobody in particular, again."""
    model = ReferenceEpisodicLSTM(make_config(), seed=1)
    train(model, make_trials(), learning_rate=0.01, seed=1)
    model.person = Person(lapse=0.1, gate_bias=-2, context_columns=(1, 3), context_weight=0.75)
    folder = save_model(model, tmp_path / "somebody")
    with pytest.raises(ValueError, match="holds a person, who cannot be part of a cohort"):
        load_model(folder, "cohort")
    composition = load_model(folder, "composition")
    assert isinstance(composition, EpisodicLSTMComposition)
    assert load_model(folder).person == composition.person == model.person
    np.testing.assert_array_equal(composition.memory()[0], model.memory()[0])
    composition.person = Person()
    save_model(composition, folder, overwrite=True)
    assert load_model(folder, "reference").person == Person()


@pytest.mark.parametrize("kind", ["Reference", "", 1])
def test_unknown_kind(kind, tmp_path):
    with pytest.raises(ValueError, match=f"'reference', 'composition', 'cohort' or None; got {kind!r}"):
        load_model(tmp_path, kind)


# ---- both models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_trials():
    """Two halves of a small block, of which the second meets what the first stored."""
    trials = ContextualChoice(obs_dim=2, trial_length=3, t_noise_off=1).sample(2, np.random.default_rng(1))
    return trials[:2], trials[2:]


@pytest.mark.parametrize(
    ("config", "environments"),
    [
        (SMALL, 1),
        rarely(SMALL, 3),
        rarely(ModelConfig(4, 3, 2, 0), 1),
        rarely(ModelConfig(4, 3, 2, 1), 3),
    ],
)
def test_a_composition_goes_on_as_either_model(config, environments, two_trials, tmp_path):
    first, second = ([trials] * environments if environments > 1 else trials for trials in two_trials)
    model, other = (pristine(config, seed=1 + which, which=which) for which in (0, 1))
    for each, trials in ((model, first), (other, second)):
        train(each, trials, seed=1, learning_rate=0.01, gamma=0.5)
    folder = save_model(model, tmp_path / "agent")
    assert describe_model(folder)["kind"] == "composition"
    assert load_model(folder, model=other) is other
    reference = load_model(folder, kind="reference")
    assert isinstance(reference, ReferenceEpisodicLSTM)
    assert_same(other, model)
    for each in (model, other, reference):
        assert each.config == config
        train(each, second, seed=2, learning_rate=0.01, gamma=0.5)
    assert_same(other, model)
    assert_same(reference, model, close=True)


def test_a_reference_goes_on_as_a_composition(two_trials, tmp_path):
    """From float32 the composition starts at the same numbers, and then goes on in float64."""
    first, second = two_trials
    model = ReferenceEpisodicLSTM(SMALL, seed=1)
    train(model, first, seed=1, learning_rate=0.01)
    composition = load_model(save_model(model, tmp_path / "agent"), model=pristine(SMALL))
    for name, array in state(model).items():
        np.testing.assert_array_equal(state(composition)[name], array, err_msg=name)
    for each in (model.double(), composition):
        train(each, second, seed=2, learning_rate=0.01)
    assert_same(model, composition, close=True)


def test_memories_of_all_environments(make_config, make_trials, tmp_path):
    """They are not equally full; training goes on exactly."""
    model = ReferenceEpisodicLSTM(make_config(memory_capacity=40), seed=1)
    train(model, [make_trials() for _ in range(3)], learning_rate=0.01, seed=1)
    loaded = load_model(save_model(model, tmp_path / "agent"))
    assert loaded.environments == 3
    assert_same(model, loaded)
    more = [make_trials() for _ in range(3)]
    for each in (model, loaded):
        train(each, more, learning_rate=0.01, seed=2)
    assert_same(model, loaded)


def test_only_the_models_are_saved(tmp_path):
    with pytest.raises(TypeError, match="an EpisodicLSTMComposition or a Cohort; got Linear"):
        save_model(torch.nn.Linear(2, 2), tmp_path / "agent")


# ---- changed graphs ----------------------------------------------------------------------------------


def second_memory(model):
    """Nodes that store hidden states by cell states; what is read goes to the actor, by a learned matrix."""
    form = [np.zeros(3), np.zeros(3)]
    memory = pnl.EpisodicMemoryMechanism(
        name="second memory",
        default_variable=form,
        function=EpisodicMemory(default_variable=form, kernel="l2", max_entries=2, storage_prob=0.0),
    )
    encoding = EncodingMechanism(memory=memory, name="second encoding")
    for node in (memory, encoding):
        model.add_node(node)
        model.exclude_node_roles(node, pnl.NodeRole.OUTPUT)
    for sender, receiver, matrix, learnable in (
        (model.cell, memory.input_ports[0], np.eye(3), False),
        (memory.output_ports[1], model.actor, np.ones((3, 2)), True),
        (model.cell, encoding.input_ports[0], np.eye(3), False),
        (model.hidden, encoding.input_ports[1], np.eye(3), False),
        (model.encode_node, encoding.input_ports[2], np.eye(1), False),
    ):
        new = pnl.MappingProjection(sender=sender, receiver=receiver, matrix=matrix, learnable=learnable)
        model.add_projection(new)
    return memory


@pytest.mark.slow
def test_a_changed_graph_is_refused_or_loaded_into_one_that_is_changed_alike(two_trials, tmp_path):
    folder = tmp_path / "agent"
    models = [EpisodicLSTMComposition(SMALL, seed=seed) for seed in (1, 2)]

    def check_alike():
        records = [model.run_trials(two_trials[1], seed=3) for model in models]
        np.testing.assert_array_equal(records[0].policy, records[1].policy)

    def change_alike(change, message):
        """Refused until the other agent is changed, too."""
        change(models[0])
        train(models[0], two_trials[0], learning_rate=0.1, seed=1)
        with pytest.raises(ValueError, match=f"{message}.*pass changed_graph=True"):
            save_model(models[0], folder, overwrite=True)
        save_model(models[0], folder, overwrite=True, changed_graph=True)
        with pytest.raises(ValueError, match=f"had been changed .*{message}.*give it: load_model"):
            load_model(folder)
        with pytest.raises(ValueError, match="Change it in the same way first"):
            load_model(folder, model=models[1])
        change(models[1])
        assert load_model(folder, model=models[1]) is models[1]
        check_alike()

    change_alike(
        lambda model: setattr(model.gates["forget"].function.gain, "base", 3.0), "'forget gate.*' changed"
    )
    change_alike(second_memory, "second encoding.*added")
    entries = [list(model.memories().values())[1] for model in models]
    assert len(entries[0][0]) == 2
    np.testing.assert_array_equal(*entries)


def test_settings_of_the_memory_are_saved_as_they_stand_in_the_graph(tmp_path):
    """Where they are set on the memory's own function, too."""
    model = EpisodicLSTMComposition(SMALL)
    settings = model.episodic_memory.function.parameters
    settings.sharpness.set(7.0)
    assert load_model(save_model(model, tmp_path / "agent"), "reference").config.sharpness == 7
    settings.forgetting.set(0.5)
    with pytest.raises(ValueError, match=r"forgetting of the memory is 0.5, and 0.* of the person"):
        save_model(model, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"kernel": "l1"}, None, "Make one with the same config"),
        ({}, "composition", "is a reference, not a compo"),
    ],
)
def test_a_given_model_must_fit(changes, kind, message, make_config, tmp_path):
    folder = save_model(ReferenceEpisodicLSTM(make_config(), seed=1), tmp_path / "agent")
    with pytest.raises(ValueError, match=message):
        load_model(folder, kind, model=ReferenceEpisodicLSTM(make_config(**changes), seed=2))


# ---- cohorts -----------------------------------------------------------------------------------------


@pytest.fixture
def cohort(make_config, make_trials):
    """Three agents in two environments; one weight of cross-entropy has no state of Adam."""
    agents = Cohort(make_config(memory_capacity=4), [3, 4, 5])
    trials = [[make_trials() for _ in range(2)] for _ in range(3)]
    agents.train(trials, learning_rate=0.01, seed=1, loss="cross_entropy")
    return agents


def assert_same_agents(one, two):
    assert len(one) == len(two)
    for p in range(len(one)):
        assert_same(state(one, p), state(two, p))


def test_a_cohort_goes_on_as_if_never_stopped(cohort, make_trials, tmp_path):
    save_model(cohort, tmp_path / "agents", notes={"of": "three"})
    assert describe_model(tmp_path / "agents")["notes"] == {"of": "three"}
    loaded = load_model(tmp_path / "agents")
    assert_same_agents(cohort, loaded)
    trials = [[make_trials() for _ in range(2)] for _ in range(3)]
    for each in (cohort, loaded):
        each.train(trials, learning_rate=0.01, seed=2)
    assert_same_agents(cohort, loaded)
    save_model(loaded, tmp_path / "agents", overwrite=True)
    assert_same_agents(load_model(tmp_path / "agents"), loaded)


def test_each_agent_of_a_cohort_can_be_loaded_alone(cohort, tmp_path):
    save_model(cohort, tmp_path / "agents")
    singles = [load_model(tmp_path / "agents", "reference", 0), load_model(tmp_path / "agents", agent=1)]
    singles.append(load_model(tmp_path / "agents", model=ReferenceEpisodicLSTM(cohort.config).double(), agent=2))
    assert_same_agents(Cohort.from_models(singles), cohort)
    single = save_model(singles[1], tmp_path / "single")
    one = load_model(single, "cohort")
    assert len(one) == 1
    assert_same_agents(one, Cohort.from_models(singles[1:2]))


def test_an_agent_of_a_cohort_that_has_had_no_update(make_config, make_trials, tmp_path):
    """Its state of the optimiser is written as zeros."""
    models = [ReferenceEpisodicLSTM(make_config(), seed=seed).double() for seed in (1, 2)]
    train(models[0], make_trials(), learning_rate=0.01, seed=1)
    folder = save_model(Cohort.from_models(models), tmp_path / "agents")
    for p, model in enumerate(models):
        assert_same(load_model(folder, agent=p), model)


def test_untrained_and_memoryless_cohorts(make_config, tmp_path):
    for capacity in (0, 6):
        agents = Cohort(make_config(memory_capacity=capacity), [1, 2])
        assert_same_agents(load_model(save_model(agents, tmp_path / f"{capacity}")), agents)


def test_it_must_be_clear_which_agent_is_meant(cohort, tmp_path):
    save_model(cohort, tmp_path / "agents")
    for kind in ("reference", "composition"):
        with pytest.raises(ValueError, match=r"3 agents: give agent=0 to 2, or kind='cohort'"):
            load_model(tmp_path / "agents", kind)
    for agent in (3, -1):
        with pytest.raises(ValueError, match=f"holds 3 agents, counted from 0; got agent={agent}"):
            load_model(tmp_path / "agents", agent=agent)
    with pytest.raises(ValueError, match="holds 1 agents"):
        load_model(save_model(ReferenceEpisodicLSTM(cohort.config), tmp_path / "agent"), agent=1)
    with pytest.raises(ValueError, match="leave out agent"):
        load_model(tmp_path / "agents", "cohort", agent=1)
    with pytest.raises(ValueError, match="holds 3 agents, the cohort 2"):
        load_model(tmp_path / "agents", model=Cohort(cohort.config, [1, 2]))
