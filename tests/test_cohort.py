"""Cohorts: every agent of many that are trained together is the agent that was trained alone.

The agents alone are references and compositions with the same weights, memories, trials and seeds; weights, Adam's
state, memories of all environments, choices and losses are compared.
"""

import numpy as np
import pytest
from common import pristine, rarely
from eplstm.comparisons.echo import Echo
from eplstm.models import (
    Cohort,
    EpisodicLSTMComposition,
    ModelConfig,
    NotFinite,
    Person,
    ReferenceEpisodicLSTM,
    cohort,
    train,
    train_episodes,
)
from eplstm.models.records import STATES
from eplstm.models.weights import weight_shapes
from eplstm.tasks import RLWM, BarcodeBandit, Trials

ATOL = 1e-10
"""float64 on both sides; they agree to 1e-15 a step."""
LEARNING_RATE = 0.02
FIELDS = ("policy", "value", "action", "reward", "policy_loss", "value_loss")


def random_weights(config, seed):
    """Large enough that nothing is nearly linear."""
    rng = np.random.default_rng(seed)
    return {name: 0.7 * rng.standard_normal(shape) for name, shape in weight_shapes(config).items()}


def alone(config, agents=3, kind=ReferenceEpisodicLSTM):
    """Agents of one kind, each with weights of its own."""
    if kind is ReferenceEpisodicLSTM:
        models = [kind(config).double() for _ in range(agents)]
    else:
        models = [pristine(config, which=p) for p in range(agents)]
    for p, model in enumerate(models):
        model.set_weights(random_weights(config, p))
    return models


def close(one, two, what):
    assert one.keys() == two.keys(), what
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], rtol=0, atol=ATOL, err_msg=f"{what}: {name}")


def same_agents(together: Cohort, models):
    """Weights, Adam's state and the memory of each environment."""
    for p, model in enumerate(models):
        close(together.weights(p), model.weights(), f"weights of agent {p}")
        close(together.optimizer_state(p), model.optimizer_state(), f"Adam of agent {p}")
        for e in range(max(together.environments, model.environments)):
            pairs = zip(together.memory(p, e), model.memory(environment=e), strict=True)
            for ours, theirs in pairs:
                assert ours.shape == theirs.shape, f"memory of agent {p} in environment {e}"
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


def same_records(ours, theirs, fields=FIELDS):
    for p, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        pairs = zip(one, two, strict=True) if isinstance(one, list) else [(one, two)]
        for e, (a, b) in enumerate(pairs):
            for name in fields:
                np.testing.assert_allclose(
                    getattr(a, name), getattr(b, name), rtol=0, atol=ATOL, err_msg=f"agent {p}, {e}: {name}"
                )


def worlds_of(task, agents, together=2, seed=0):
    """Worlds of all agents, and those that each would have alone, at the beginning of an epoch."""
    rngs = [[np.random.default_rng((seed, p, e)) for e in range(together)] for p in range(agents)]
    of_all = task.worlds([np.random.default_rng((seed, p, e)) for p in range(agents) for e in range(together)])
    each = [task.worlds(own) for own in rngs]
    for worlds in (of_all, *each):
        worlds.begin_epoch()
    return of_all, each


def same_episodes(ours, theirs, fields=(*FIELDS, *STATES)):
    """What happened, what was shown, and what the task tells of it."""
    same_records(ours, theirs, fields)
    for one, two in zip(ours, theirs, strict=True):
        assert one.worlds == two.worlds
        close(one.facts, two.facts, "facts")
        for name in ("inputs", "encode", "retrieve", "context", "encounter"):
            np.testing.assert_array_equal(getattr(one.trials, name), getattr(two.trials, name))


def train_both_in_worlds(models, task, cohort_of=None, epochs=1, episodes=None, **options):
    """Train a cohort of the models and each model alone, in its worlds; compare all."""
    together = Cohort.from_models(models) if cohort_of is None else cohort_of
    of_all, each = worlds_of(task, len(models))
    seeds = [7 * p + 1 for p in range(len(models))]
    options = {"learning_rate": LEARNING_RATE, "epochs": epochs, "record": "all", **options}
    episodes = task.episodes if episodes is None else episodes
    for model in (together, *models):
        model.clear_memory()
    ours = together.train_episodes(of_all, episodes, seed=seeds, **options)
    theirs = [
        train_episodes(m, own, episodes, seed=s, **options) for m, own, s in zip(models, each, seeds, strict=True)
    ]
    same_episodes(ours, theirs)
    same_agents(together, models)
    return together


def train_both(models, trials, seeds=None, cohort_of=None, **options):
    """Train a cohort of the models and each model alone; compare all, and give both."""
    together = Cohort.from_models(models) if cohort_of is None else cohort_of
    seeds = [7 * p + 1 for p in range(len(models))] if seeds is None else seeds
    options = {"learning_rate": LEARNING_RATE, **options}
    ours = together.train(trials, seed=seeds, record="all", **options)
    each = [trials] * len(models) if isinstance(trials, Trials) else trials
    theirs = [train(m, own, seed=s, **options) for m, own, s in zip(models, each, seeds, strict=True)]
    same_records(ours, theirs, (*FIELDS, *STATES))
    same_agents(together, models)
    return together, ours


def a_loss(t):
    return (t.hidden**2).sum() - (t.policy[..., 0] * t.returns).sum() + 0.3 * (t.value * t.cell.sum(-1)).sum()


@pytest.fixture
def trials_of(make_trials, rng):
    """Factory of trials for each agent: with keys that come again, and encoding before retrieval in a trial."""

    def make(agents=3, environments=None, **sizes):
        def one():
            trials = make_trials(**sizes)
            inputs = trials.inputs.copy()
            inputs[1::2, ::2] = inputs[0, 0]  # equal keys, in one trial and in later ones
            return Trials(inputs, trials.targets, trials.encode, trials.retrieve)

        return [one() if environments is None else [one() for _ in range(environments)] for _ in range(agents)]

    return make


# ---- each agent is the agent alone -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environments", "changes"),
    [
        (None, {}),
        (1, {}),
        (3, {}),
        (None, {"kernel": "l1"}),
        (3, {"kernel": "cosine", "key": (1, 4)}),
        (3, {"ties": "newest"}),
        (None, {"repeated_key": "overwrite"}),
        (3, {"repeated_key": "overwrite", "ties": "newest", "key": (2, 5)}),
        (None, {"retrieval": "average", "sharpness": 2.5}),
        (3, {"retrieval": "average", "kernel": "cosine"}),
        (3, {"memory_capacity": 0}),
        (None, {"memory_capacity": 1}),
        (3, {"memory_capacity": 2, "repeated_key": "overwrite"}),
        (3, {"memory_capacity": 100}),
        (None, {"hidden_size": 1, "n_actions": 4}),
        (None, {"reinstatement": "input"}),
        (3, {"reinstatement": "input", "retrieval": "average", "repeated_key": "overwrite"}),
    ],
    ids=str,
)
def test_each_agent_is_the_reference_alone(environments, changes, make_config, trials_of):
    """Flags of encoding and retrieval are irregular: environments and agents are not equally full."""
    models = alone(make_config(**changes))
    train_both(models, trials_of(environments=environments))


@pytest.mark.parametrize(
    ("changes", "fast", "environments"),
    [
        rarely({}, True, None),
        ({"memory_capacity": 3, "kernel": "cosine", "ties": "newest"}, True, 2),
        rarely({}, False, 2),
        rarely({"memory_capacity": 3, "kernel": "cosine", "ties": "newest"}, False, None),
    ],
)
@pytest.mark.slow
def test_each_agent_is_the_composition_alone(changes, fast, environments, make_config, trials_of):
    models = alone(make_config(**changes), agents=2, kind=EpisodicLSTMComposition)
    for model in models:
        model.fast_path = fast
    train_both(models, trials_of(agents=2, environments=environments, n=3, steps=4), gamma=0.8)


def test_a_composition_without_memory(make_config, trials_of):
    """Its reinstatement gate has no projections, and so no state of Adam; in a cohort there are zeros."""
    config = make_config(memory_capacity=0)
    models = alone(config, agents=1, kind=EpisodicLSTMComposition)
    together, trials = Cohort.from_models(models), trials_of(agents=1)
    together.train(trials, seed=[1], learning_rate=LEARNING_RATE)
    train(models[0], trials[0], seed=1, learning_rate=LEARNING_RATE)
    close(together.weights(0), models[0].weights(), "weights")
    means = {k: v for k, v in models[0].optimizer_state().items() if not k.startswith("step.")}
    close({k: together.optimizer_state(0)[k] for k in means}, means, "Adam")


@pytest.mark.parametrize(
    ("environments", "options"),
    [
        (2, {"entropy_weight": 0.3, "value_weight": 0.5, "gamma": 0.5}),
        (2, {"loss": "cross_entropy"}),
        (2, {"loss": a_loss, "gamma": 0.7}),
        (None, {"loss": lambda t: -(t.policy[..., 1] * t.reward).sum() + (t.value**2).sum()}),
        (None, {"learning_rate": 0.0}),
        (2, {"update": "block", "through_memory": True, "gamma": 0.5}),
        (2, {"optimizer": "rmsprop", "unroll_steps": 4, "gamma": 0.5}),
    ],
    ids=["entropy", "cross_entropy", "own", "own, of the outputs", "rate 0", "block", "rmsprop"],
)
def test_settings(environments, options, make_config, trials_of):
    train_both(alone(make_config()), trials_of(environments=environments), **options)


@pytest.mark.parametrize("environments", [None, 2])
def test_forced_actions_and_initial_states(environments, make_config, trials_of, rng):
    trials = trials_of(environments=environments)

    def for_each(make):
        return [make() if environments is None else [make() for _ in range(environments)] for _ in trials]

    actions = for_each(lambda: rng.integers(0, 4, (4, 6)))
    states = for_each(lambda: (rng.standard_normal((4, 3)), rng.standard_normal((4, 3))))
    models = alone(make_config())
    together = Cohort.from_models(models)
    options = {"learning_rate": LEARNING_RATE, "gamma": 0.5}
    ours = together.train(trials, actions=actions, initial_states=states, record="all", **options)
    theirs = [
        train(model, own, actions=a, initial_states=s, **options)
        for model, own, a, s in zip(models, trials, actions, states, strict=True)
    ]
    same_records(ours, theirs, (*FIELDS, *STATES))
    same_agents(together, models)


def test_some_agents_may_be_forced_and_others_choose(make_config, trials_of, rng):
    trials, models = trials_of(), alone(make_config())
    actions, seeds = [None, rng.integers(0, 4, (4, 6)), None], [4, 5, 6]
    together = Cohort.from_models(models)
    ours = together.train(trials, actions=actions, seed=seeds, learning_rate=LEARNING_RATE)
    theirs = [
        train(m, own, actions=a, seed=s, learning_rate=LEARNING_RATE)
        for m, own, a, s in zip(models, trials, actions, seeds, strict=True)
    ]
    np.testing.assert_array_equal(ours[1].action, actions[1])
    same_records(ours, theirs)
    same_agents(together, models)


def test_more_agents_than_are_run_at_once(monkeypatch, make_config, trials_of):
    monkeypatch.setattr(cohort, "CHUNK", 2)
    models = alone(make_config(), agents=5)
    together, _ = train_both(models, trials_of(agents=5, environments=2))
    assert len(together) == 5
    train_both(models, trials_of(agents=5, environments=3), cohort_of=together)


def test_the_same_trials_for_all(make_config, trials_of):
    train_both(alone(make_config()), trials_of(agents=1)[0])


def test_training_goes_on(make_config, trials_of):
    """Memory and Adam's state go on, over changes of the number of environments and of the loss."""
    models = alone(make_config())
    together, _ = train_both(models, trials_of(environments=2))
    train_both(models, trials_of(environments=3), cohort_of=together, gamma=0.4)
    train_both(models, trials_of(), cohort_of=together, learning_rate=0.005)
    train_both(models, trials_of(environments=2), cohort_of=together, entropy_weight=0.1)
    assert together.environments == 3
    for each in (together, *models):
        each.clear_memory()
    assert all(len(together.memory(p, e)[0]) == 0 for p in range(3) for e in range(3))
    train_both(models, trials_of(environments=3), cohort_of=together)


def test_weights_without_a_gradient_do_not_count_its_steps(make_config, trials_of):
    """Cross-entropy gives the critic no gradient: its Adam starts when actor-critic does."""
    models = alone(make_config())
    together, _ = train_both(models, trials_of(), loss="cross_entropy")
    assert "step.critic_weight" not in together.optimizer_state(0)
    train_both(models, trials_of(), cohort_of=together)
    train_both(models, trials_of(), cohort_of=together, loss="cross_entropy")
    train_both(models, trials_of())  # and a cohort of what they are now
    assert together.optimizer_state(0)["step.critic_weight"].tolist() == [4.0]


def test_running_without_learning(make_config, trials_of):
    models, trials = alone(make_config(memory_capacity=3)), trials_of()
    together, _ = train_both(models, trials)
    before = [together.weights(p) for p in range(3)]
    ours = together.run_trials(trials, seed=[1, 2, 3], record="all")
    theirs = [m.run_trials(own, seed=s) for m, own, s in zip(models, trials, (1, 2, 3), strict=True)]
    same_records(ours, theirs, (*FIELDS[:4], *STATES))
    same_agents(together, models)
    for p in range(3):
        close(together.weights(p), before[p], "weights")
    assert ours[0].policy_loss is None


def test_running_in_environments(make_config, trials_of):
    """Each environment reads and fills its own memory."""
    (model,), (trials,) = alone(make_config(), agents=1), trials_of(agents=1, environments=2)
    together, _ = train_both([model], [trials])
    more = trials_of(agents=1, environments=2)
    (ours,) = together.run_trials(more, seed=[9])
    for e, own in enumerate(more[0]):
        one = ReferenceEpisodicLSTM(model.config).double()
        one.set_weights(model.weights())
        one.set_memory(*model.memory(environment=e))
        theirs = one.run_trials(own, seed=(9, e))
        same_records([ours[e]], [theirs], FIELDS[:4])
        for a, b in zip(together.memory(0, e), one.memory(), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=ATOL)


def test_records_of_behaviour_leave_the_states_out(make_config, trials_of):
    trials = trials_of()
    whole, brief = (Cohort(make_config(), [1, 2, 3]).train(trials, seed=4, record=r) for r in ("all", "behavior"))
    same_records(brief, whole)
    assert brief[0].hidden.shape == (4, 6, 0) and brief[0].gates.shape == (4, 6, 4, 0)
    assert whole[0].hidden.shape == (4, 6, 3) and whole[0].gates.shape == (4, 6, 4, 3)


# ---- in worlds, each agent is the agent alone --------------------------------------------------------

BANDIT = BarcodeBandit(arms=3, contexts=3, exposures=2, pulls=4, barcode_bits=4)


@pytest.mark.parametrize(
    ("task", "changes", "options"),
    [
        (Echo(6, 2), {}, {}),
        (Echo(6, 2), {"retrieval": "average", "sharpness": 2.5}, {"update": "block", "through_memory": True}),
        (Echo(6, 2), {"repeated_key": "overwrite"}, {"unroll_steps": 2, "epochs": 2, "optimizer": "rmsprop"}),
        (BANDIT, {"kernel": "cosine", "ties": "newest"}, {"max_gradient_norm": 0.5}),
        (BANDIT, {"reinstatement": "input"}, {"max_gradient_norm": 0.5, "optimizer": "rmsprop", "epochs": 2}),
        (BANDIT, {"memory_capacity": 0}, {"max_gradient_norm": 1e3}),
        (RLWM(), {}, {"episodes": 5, "loss": a_loss}),
    ],
    ids=["echo", "average through the memory", "truncated", "clipped", "memory as input", "no memory", "own loss"],
)
def test_in_worlds_each_agent_is_the_reference_alone(task, changes, options):
    sizes = {"input_size": task.input_size, "hidden_size": 3, "n_actions": task.n_actions, "memory_capacity": 5}
    models = alone(ModelConfig(**{**sizes, "key": task.key_columns, **changes}), agents=2)
    train_both_in_worlds(models, task, **options)


@pytest.mark.slow
def test_in_worlds_each_agent_is_the_composition_alone():
    sizes = {"input_size": BANDIT.input_size, "hidden_size": 3, "n_actions": 3, "memory_capacity": 5}
    models = alone(ModelConfig(**sizes, key=BANDIT.key_columns), agents=2, kind=EpisodicLSTMComposition)
    train_both_in_worlds(models, BANDIT, max_gradient_norm=0.5, optimizer="rmsprop", epochs=2)


def test_rates_and_bonuses_may_change_from_call_to_call(make_config):
    task = Echo(5, 2)
    models = alone(make_config(n_actions=2), agents=2)
    together = train_both_in_worlds(models, task, entropy_weight=0.3)
    train_both_in_worlds(models, task, together, learning_rate=0.004, entropy_weight=0.01)


def test_worlds_without_learning(make_config):
    task, models = Echo(5, 2), alone(make_config(n_actions=2))
    together, (of_all, each) = Cohort.from_models(models), worlds_of(Echo(5, 2), 3)
    before = together.weights(1)
    ours = together.run_episodes(of_all, task.episodes, seed=[1, 2, 3], record="all")
    theirs = [
        m.run_episodes(own, task.episodes, seed=s) for m, own, s in zip(models, each, (1, 2, 3), strict=True)
    ]
    same_episodes(ours, theirs, (*FIELDS[:4], *STATES))
    same_agents(together, models)
    close(together.weights(1), before, "weights")
    assert ours[0].policy_loss is None and not np.array_equal(ours[0].action, ours[1].action)


def test_forced_actions_in_worlds(make_config, rng):
    task, models = Echo(5, 2), alone(make_config(n_actions=2), agents=2)
    actions = rng.integers(0, 2, (2, 2 * task.episodes, task.length))
    together, (of_all, each) = Cohort.from_models(models), worlds_of(task, 2)
    ours = together.train_episodes(of_all, task.episodes, actions=list(actions), seed=[1, 2], record="all")
    theirs = [
        train_episodes(m, own, task.episodes, actions=a, seed=s)
        for m, own, a, s in zip(models, each, actions, (1, 2), strict=True)
    ]
    np.testing.assert_array_equal([record.action for record in ours], actions)
    same_episodes(ours, theirs)
    same_agents(together, models)


def test_progress_in_worlds(make_config):
    task, seen = Echo(5, 2), []
    together = Cohort(make_config(n_actions=2), [1, 2])
    together.train_episodes(worlds_of(task, 2)[0], 3, seed=1, after_episode=seen.append)
    assert seen == [0, 1, 2] and together.environments == 2


def test_worlds_that_do_not_fit(monkeypatch, make_config):
    task, config = Echo(5, 2), make_config(n_actions=2)
    together, worlds = Cohort(config, [1, 2, 3]), worlds_of(task, 2, 2)[0]
    with pytest.raises(ValueError, match=r"4 of them cannot be divided among 3 agents. Give M for each, 3 · M"):
        together.train_episodes(worlds, 1)
    worlds = worlds_of(task, 3)[0]
    with pytest.raises(ValueError, match="the 4 that the epoch has left; got 5"):
        together.run_episodes(worlds, 5)
    with pytest.raises(ValueError, match="max_gradient_norm must be"):
        together.train_episodes(worlds, 1, max_gradient_norm=-1)
    with pytest.raises(ValueError, match="loss='cross_entropy'"):
        together.train_episodes(worlds, 1, loss="cross_entropy")
    with pytest.raises(ValueError, match="optimizer must be"):
        together.train_episodes(worlds, 1, optimizer="sgd")
    with pytest.raises(ValueError, match="update must be"):
        together.train_episodes(worlds, 1, update="epoch")
    with pytest.raises(ValueError, match="actions: needs an item for each of 3 agents; got 1"):
        together.train_episodes(worlds, 1, actions=[None])
    monkeypatch.setattr(cohort, "CHUNK", 2)
    with pytest.raises(ValueError, match="at most 2 agents can act in worlds, in lockstep; it has 3"):
        Cohort(config, [1, 2, 3]).train_episodes(worlds, 1)


# ---- updates that are not finite ---------------------------------------------------------------------


def huge(scale):
    """A loss whose gradients are finite, but not their squares, where an agent's values are as large as that."""
    return lambda t: (t.value * scale).sum()


@pytest.mark.parametrize("kind", ["cohort", "reference"])
def test_squares_that_are_not_finite_stop_training(kind, make_config, trials_of):
    (trials,), (model,) = trials_of(agents=1), alone(make_config(), agents=1)
    with pytest.raises(NotFinite, match=r"the loss is finite, but not the gradients of .*, or not their squares"):
        if kind == "cohort":
            Cohort.from_models([model]).train([trials], loss=huge(1e200), seed=[1])
        else:
            train(model, trials, loss=huge(1e200), seed=1)
    assert model.optimizer_state() == {}
    Cohort.from_models([model]).train([trials], loss=huge(1e50), seed=[1])  # these are
    train(model, trials, loss=huge(1e50), seed=1)


def test_large_gradients_of_all_agents_together_are_no_reason_to_stop(make_config, trials_of):
    """Squares that are finite for each agent, and whose sum over agents is not."""
    trials, models = trials_of(agents=3, n=1, steps=1), alone(make_config(hidden_size=1))
    for model in models:
        model.set_weights(model.weights() | {"critic_weight": np.zeros((1, 1))})
    together = Cohort.from_models(models)
    together.train(trials, loss=huge(1e154), seed=[1, 2, 3])
    assert all(together.optimizer_state(p)["mean.critic_bias"] == pytest.approx(1e153) for p in range(3))


# ---- to and from single models -----------------------------------------------------------------------


@pytest.mark.slow
def test_agents_come_back_as_either_kind(make_config, trials_of):
    """Weights, memory of each environment and optimiser; what was full and has run over stays so."""
    models = alone(make_config(memory_capacity=3))
    together, _ = train_both(models, trials_of(environments=2))
    singles = [together.agent(0, "composition"), together.agent(1, "reference"), together.agent(2)]
    assert isinstance(singles[0], EpisodicLSTMComposition) and isinstance(singles[1], ReferenceEpisodicLSTM)
    assert isinstance(singles[2], EpisodicLSTMComposition)
    assert [single.environments for single in singles] == [2, 2, 2]
    same_agents(together, singles)
    train_both(singles, trials_of(environments=2))  # a cohort of these, and each alone
    train_both(models, trials_of(environments=3), cohort_of=together)


def test_what_is_given_out_is_a_copy(make_config, trials_of):
    together = Cohort(make_config(), [1, 2])
    together.train(trials_of(agents=2), seed=1)
    before = together.weights(0), together.optimizer_state(0), dict(enumerate(together.memory(0)))
    for part in (together.weights(0), together.optimizer_state(0), dict(enumerate(together.memory(0)))):
        for array in part.values():
            array += 1
    single = together.agent(0, "reference")
    train(single, trials_of(agents=1)[0], learning_rate=0.1)
    after = together.weights(0), together.optimizer_state(0), dict(enumerate(together.memory(0)))
    for one, two in zip(before, after, strict=True):
        close(one, two, "a copy")


def test_seeds_give_the_weights_of_single_models(make_config):
    config = make_config()
    together = Cohort(config, [4, 0, 7])
    for p, seed in enumerate((4, 0, 7)):
        close(together.weights(p), ReferenceEpisodicLSTM(config, seed).double().weights(), "weights")


def test_one_seed_serves_all_agents(make_config, trials_of):
    """Agent p draws from (seed, p)."""
    trials, config = trials_of(agents=1)[0], make_config()
    one, each = (Cohort(config, [1, 1]).run_trials(trials, seed=seed) for seed in (5, [(5, 0), (5, 1)]))
    same_records(one, each, FIELDS[:4])
    assert not np.array_equal(one[0].policy, one[1].policy)
    assert not np.array_equal(*(r[0].policy for r in (one, Cohort(config, [1, 1]).run_trials(trials, seed=6))))


def test_no_trial_is_no_update(make_config, trials_of):
    together = Cohort(make_config(), [1, 2])
    none = trials_of(agents=1)[0][:0]
    (record, _) = together.train(none, seed=1)
    assert record.policy.shape == (0, 6, 4) and record.policy_loss.shape == (0,)
    assert together.optimizer_state(0) == {}
    ((record, _), _) = together.train([[none, none]] * 2, seed=1)
    assert record.action.shape == (0, 6)


def test_progress_counts_the_trials_of_all_chunks(monkeypatch, make_config, trials_of):
    monkeypatch.setattr(cohort, "CHUNK", 2)
    seen = []
    Cohort(make_config(), [1, 2, 3]).train(trials_of(environments=2), seed=1, after_trial=seen.append)
    assert seen == list(range(1, 9))  # 4 trials of two chunks


# ---- errors ------------------------------------------------------------------------------------------


def test_errors_of_use(make_config, trials_of):
    config, trials = make_config(), trials_of()
    together = Cohort(config, [1, 2, 3])
    with pytest.raises(ValueError, match="at least one agent"):
        Cohort(config, [])
    with pytest.raises(ValueError, match="at least one agent"):
        Cohort.from_models([])
    with pytest.raises(ValueError, match="one configuration; model 1"):
        Cohort.from_models([ReferenceEpisodicLSTM(config), ReferenceEpisodicLSTM(make_config(kernel="l1"))])
    with pytest.raises(ValueError, match="trials: needs an item for each of 3 agents; got 2"):
        together.train(trials[:2])
    with pytest.raises(ValueError, match="actions: needs an item for each of 3 agents; got 1"):
        together.train(trials, actions=[trials[0].targets])
    with pytest.raises(ValueError, match="seed: needs one number, or one for each of 3 agents; got 2"):
        together.train(trials, seed=[1, 2])
    with pytest.raises(ValueError, match="equally many trials"):
        together.train([trials[0], trials[1], trials[2][:2]])
    with pytest.raises(ValueError, match="equally many trials"):
        together.train([trials[0], trials[1], [trials[2], trials[2]]])
    with pytest.raises(ValueError, match="learning_rate"):
        together.train(trials, learning_rate=np.nan)
    with pytest.raises(ValueError, match="gamma"):
        together.train(trials, gamma=2)
    with pytest.raises(ValueError, match="record must be"):
        together.train(trials, record="some")
    with pytest.raises(ValueError, match="input columns"):
        together.run_trials(trials_of(size=4))
    with pytest.raises(ValueError, match="tensor of one number"):
        together.train(trials, loss=lambda t: t.policy)
    for p, e in ((3, 0), (-1, 0), (0, -1)):
        with pytest.raises(IndexError, match=r"none of this cohort's|must be ≥ 0"):
            together.memory(p, e)
    close(together.weights(0), Cohort(config, [1]).weights(0), "unchanged")
    assert together.optimizer_state(0) == {}


def test_set_parts_are_checked(make_config):
    together = Cohort(make_config(), [1, 2])
    weights = together.weights(0)
    with pytest.raises(ValueError, match="actor_weight"):
        together.set_weights({**weights, "actor_weight": np.zeros((1, 1))}, 0)
    with pytest.raises(ValueError, match="do not fit a capacity"):
        together.set_memory(np.zeros((7, 5)), np.zeros((7, 3)), 0)
    with pytest.raises(ValueError, match="Optimiser"):
        together.set_optimizer_state({"mean.actor_bias": np.zeros(2)}, 0)


@pytest.mark.parametrize("trained", [0, 1])
def test_agents_that_are_not_equally_far_cannot_train_together(trained, make_config, trials_of):
    """Adam's correction of its start depends on the number of updates, which is one for all in a cohort."""
    models, trials = alone(make_config(), agents=2), trials_of(agents=2)
    train(models[trained], trials[0], seed=1)
    together = Cohort.from_models(models)
    same_agents(together, models)
    with pytest.raises(ValueError, match=r"equally many updates.*\[0, 4\]"):
        together.train(trials)
    same_agents(together, models)
    assert together.run_trials(trials, seed=1)


def test_the_optimiser_can_be_set_back(make_config, trials_of):
    (model,) = models = alone(make_config(), agents=1)
    together, _ = train_both(models, trials_of(agents=1))
    for each in (lambda: together.set_optimizer_state({}, 0), lambda: model.set_optimizer_state({})):
        each()
    assert together.optimizer_state(0) == {}
    train_both(models, trials_of(agents=1), cohort_of=together)


def test_a_config_of_one_of_everything(trials_of):
    config = ModelConfig(1, 1, 1, 1)
    train_both(alone(config), trials_of(size=1, n_actions=1, n=1, steps=1, environments=2))


def test_a_person_is_not_dropped_in_silence():
    reference = ReferenceEpisodicLSTM(ModelConfig(4, 3, 2, 5), seed=0).double()
    reference.person = Person(lapse=0.1)
    with pytest.raises(ValueError, match=r"model 0 stands for a person who differs .* in lapse"):
        Cohort.from_models([reference])
