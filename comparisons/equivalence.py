"""The ladder: is the composition the same model as the reference, number by number?

Each rung stands on the one below: retrieval, one step, one trial, loss, gradients, weights after one update,
memory, weights after a whole training run. Both models work in float64, from the same weights, on the same
trials, with the same recorded actions and initial states. Sampling is tested apart from this, by a person who
chooses and by worlds that answer: from the same numbers in [0, 1), each model draws its own choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..models import (
    Cohort,
    EpisodicLSTMComposition,
    ModelConfig,
    Person,
    ReferenceEpisodicLSTM,
    TrialRecord,
    train,
    train_episodes,
)
from ..models.losses import Loss
from ..models.plans import Update
from ..models.records import RETRIEVED
from ..tasks import Trials
from ..tasks.trials import concatenate
from .echo import Echo, EchoWorlds

TOLERANCE = 1e-10
"""Both compute in float64, in another order of sums: 1e-16 at a time, some 1e-14 after thousands of updates."""

PYTORCH_MODE, PYTHON_MODE = "PyTorch mode", "Python mode"
GENERAL, SIMULATE, ENVIRONMENTS, COHORT = "general path", "simulate", "environments", "cohort"
PERSON, WORLDS, COHORT_IN_WORLDS = "person", "worlds", "cohort, worlds"
PEOPLE, IN_WORLDS = "people", "people, worlds"
STEP_FIELDS = ("gates", "cell", "hidden", "policy", "value")


@dataclass(frozen=True)
class Rung:
    """The largest difference between two models in one respect."""

    name: str
    path: str
    """How the composition was executed."""
    difference: float
    where: str = ""
    """The first place where the difference exceeds the tolerance; empty if it does not."""
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance (a NaN is not)."""
        return bool(self.difference <= self.tolerance)

    def __str__(self) -> str:
        verdict = "same" if self.passed else f"DIFFERS, first at {self.where}"
        return f"{self.path:<14} {self.name:<32} {self.difference:8.1e}  {verdict}"


@dataclass
class Ladder:
    """All rungs, in order."""

    rungs: list[Rung] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there are rungs and each holds."""
        return bool(self.rungs) and all(rung.passed for rung in self.rungs)

    def table(self) -> str:
        """One line a rung."""
        return "\n".join(str(rung) for rung in self.rungs)

    def rows(self) -> list[dict[str, Any]]:
        """One dict a rung, for JSON."""
        return [asdict(rung) | {"passed": rung.passed} for rung in self.rungs]


def compare_arrays(
    name: str, path: str, pairs: Iterable[tuple[str, np.ndarray, np.ndarray]], axes: Sequence[str] = ()
) -> Rung:
    """One rung from pairs of arrays, each with a label.

    Args:
        name: the rung's.
        path: how the composition was executed.
        pairs: (label, array, array).
        axes: what the arrays' first axes count, such as ("trial", "step"), to say where a difference is.
    """
    largest, where, first = 0.0, "", None
    for label, a, b in pairs:
        if np.shape(a) != np.shape(b):
            return Rung(name, path, np.inf, f"{label}: shapes {np.shape(a)} and {np.shape(b)}")
        difference = np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float))
        largest = float(np.max(difference, initial=largest))
        above = np.argwhere(~(difference <= TOLERANCE))
        if len(above) and (first is None or tuple(above[0][: len(axes)]) < first):
            first = tuple(int(i) for i in above[0][: len(axes)])
            where = ", ".join([f"{axis} {i}" for axis, i in zip(axes, first, strict=False)] + [label])
    return Rung(name, path, largest, where)


def compare_records(a: TrialRecord, b: TrialRecord, path: str = PYTORCH_MODE) -> list[Rung]:
    """Rungs from what happened on the same trials: retrieval, one step, one trial, and from training the rest.

    Steps beyond the end of a trial, at which there is nothing, are not compared, but where they are.
    """

    def pairs(names: Iterable[str], steps: slice = slice(None)):
        return [(name, _there(a, name)[:, steps], _there(b, name)[:, steps]) for name in names]

    axes, told = ("trial", "step"), [name for name in RETRIEVED if getattr(b, name) is not None]
    rungs = [
        compare_arrays("retrieval (m)", path, pairs(["memory", *told]), axes),
        compare_arrays("one step", path, pairs(STEP_FIELDS, slice(0, 1)), axes),
        compare_arrays("one trial", path, pairs((*STEP_FIELDS, "reward", "action", "exists")), axes),
    ]
    if a.policy_loss is not None and b.policy_loss is not None:
        losses = [(name, getattr(a, name), getattr(b, name)) for name in ("policy_loss", "value_loss")]
        rungs.append(compare_arrays("loss", path, losses, ("trial",)))
    if a.gradients is not None and b.gradients is not None:
        gradients = [(name, a.gradients[name], b.gradients[name]) for name in a.gradients]
        rungs.append(compare_arrays("gradients", path, gradients, ("trial",)))
    return rungs


def _there(record: TrialRecord, name: str) -> np.ndarray:
    """A field of a record, with zeros where there is no step."""
    array = getattr(record, name)
    return np.where(record.exists.reshape(*record.exists.shape, *[1] * (array.ndim - 2)), array, 0)


def compare_weights(a: Any, b: Any, name: str, path: str = PYTORCH_MODE) -> Rung:
    """One rung from the weights of two models."""
    ours, others = a.weights(), b.weights()
    return compare_arrays(name, path, [(key, ours[key], others[key]) for key in ours])


def compare_memories(a: Any, b: Any, path: str = PYTORCH_MODE, name: str = "memory") -> Rung:
    """One rung from the stored keys and values of two models."""
    pairs = zip(("keys", "values"), a.memory(), b.memory(), strict=True)
    return compare_arrays(name, path, pairs, ("entry",))


def climb_ladder(
    config: ModelConfig,
    blocks: Sequence[Trials],
    *,
    seed: int = 0,
    learning_rate: float = 5e-3,
    gamma: float = 0.0,
    loss: Loss = "actor_critic",
    entropy_weight: float = 0.0,
    value_weight: float = 1.0,
    unroll_steps: int | None = None,
    update: Update = "trial",
    through_memory: bool = False,
    python_trials: int = 2,
    further_trials: int = 4,
    on_rung: Callable[[Rung], None] | None = None,
    make_composition: Callable[..., Any] = EpisodicLSTMComposition,
    make_reference: Callable[..., Any] = ReferenceEpisodicLSTM,
) -> Ladder:
    """Train a composition and a reference on the same blocks, and compare them on every rung.

    The memory is cleared at the start of each block. Then trials of the last block are run without learning, in
    Python mode, on the memory as it stands; then both go on over the other paths of execution.

    Args:
        config: the sizes and settings of both.
        blocks: trials of each block; the first needs at least one.
        seed: for the weights, the actions and the initial states, which are given to both.
        learning_rate: Adam's; larger than in use, so that a difference in the update shows.
        gamma, loss, entropy_weight, value_weight, unroll_steps, update, through_memory: as in ``train``.
        python_trials: trials to compare in Python mode (some 0.1 s a step).
        further_trials: trials to compare on each of the other paths: the general path, ``simulate``, two
            environments, a cohort, a person, worlds, training for people, a cohort in worlds. 0 leaves these out.
        on_rung: called with each rung as it is climbed.
        make_composition, make_reference: make the models from (config, seed); for models of your own.

    Returns:
        The ladder; ``ladder.passed`` says whether every rung holds.
    """
    models = make_composition(config, seed), make_reference(config, seed).double()
    settings = {
        "learning_rate": learning_rate,
        "gamma": gamma,
        "loss": loss,
        "entropy_weight": entropy_weight,
        "value_weight": value_weight,
        "unroll_steps": unroll_steps,
        "update": update,
        "through_memory": through_memory,
    }
    ladder = Ladder()
    for rung in _climb(*models, blocks, np.random.default_rng(seed), python_trials, further_trials, settings):
        ladder.rungs.append(rung)
        if on_rung is not None:
            on_rung(rung)
    return ladder


def _climb(
    composition: Any,
    reference: Any,
    blocks: Sequence[Trials],
    rng: np.random.Generator,
    python_trials: int,
    further_trials: int,
    settings: dict[str, Any],
) -> Iterator[Rung]:
    weights = _random_weights(reference.weights(), rng)
    reference.set_weights(weights)
    composition.set_weights(weights)

    first, rest = blocks[0][:1], blocks[0][1:]
    both = [_train_both(composition, reference, first, rng, settings)]
    after_one = compare_weights(composition, reference, "weights after one update")
    both.append(_train_both(composition, reference, rest, rng, settings))
    memories = [compare_memories(composition, reference)]
    for block in blocks[1:]:
        composition.clear_memory()
        reference.clear_memory()
        both.append(_train_both(composition, reference, block, rng, settings))
        memories.append(compare_memories(composition, reference))
    ours, theirs = (TrialRecord.concatenate(list(records)) for records in zip(*both, strict=True))
    yield from compare_records(ours, theirs)
    yield after_one
    yield max(memories, key=lambda rung: rung.difference)
    yield compare_weights(composition, reference, "weights after the whole run")

    trials = blocks[-1][:python_trials]
    forced = _forced(composition.config, trials, rng)
    ours, theirs = (model.run_trials(trials, *forced) for model in (composition, reference))
    yield from compare_records(ours, theirs, PYTHON_MODE)
    yield compare_memories(composition, reference, PYTHON_MODE)

    some = blocks[-1][: max(further_trials, 0)]
    if len(some):
        yield from _general_path(composition, reference, some, rng, settings)
        yield from _simulation(composition, reference, some, rng)
        yield from _environments(composition, reference, some, rng, settings)
        yield from _person(composition, reference, some)
        yield from _worlds(composition, reference, settings)
        yield from _people(composition, reference, some, settings)
        yield from _people_in_worlds(composition, reference, settings)
        yield from _cohort(composition, reference, some, rng, settings)
        yield from _cohort_in_worlds(composition, reference, settings)


def _general_path(
    composition: Any, reference: Any, trials: Trials, rng: np.random.Generator, settings: dict[str, Any]
) -> Iterator[Rung]:
    """PsyNeuLink's own execution, node by node, in place of the fast path."""
    with _general(composition):
        yield from compare_records(*_train_both(composition, reference, trials, rng, settings), GENERAL)
    yield compare_weights(composition, reference, "weights after the trials", GENERAL)
    yield compare_memories(composition, reference, GENERAL)


@contextmanager
def _general(composition: Any) -> Iterator[None]:
    """By PsyNeuLink's own execution."""
    fast, composition.fast_path = composition.fast_path, False
    try:
        yield
    finally:
        composition.fast_path = fast


def _simulation(composition: Any, reference: Any, trials: Trials, rng: np.random.Generator) -> Iterator[Rung]:
    forced = _forced(composition.config, trials, rng)
    yield from compare_records(
        composition.simulate(trials, *forced), reference.run_trials(trials, *forced), SIMULATE
    )
    yield compare_memories(composition, reference, SIMULATE)


def _environments(
    composition: Any, reference: Any, trials: Trials, rng: np.random.Generator, settings: dict[str, Any]
) -> Iterator[Rung]:
    """Two environments, the one with the trials in their order, the other in the opposite one."""
    both = [trials, trials[::-1]]
    forced = [_forced(composition.config, each, rng) for each in both]
    given = {"actions": [a for a, _ in forced], "initial_states": [s for _, s in forced], "record_gradients": True}
    ours, theirs = (train(model, both, **given, **settings) for model in (composition, reference))
    one, other = (TrialRecord.concatenate(records) for records in (ours, theirs))
    yield from compare_records(one, other, ENVIRONMENTS)
    yield compare_weights(composition, reference, "weights after the trials", ENVIRONMENTS)
    pairs = [
        (f"environment {e}, {name}", a, b)
        for e in range(len(both))
        for name, a, b in zip(
            ("keys", "values"), composition.memory(environment=e), reference.memory(environment=e), strict=True
        )
    ]
    yield compare_arrays("memory", ENVIRONMENTS, pairs, ("entry",))


def _cohort(
    composition: Any, reference: Any, trials: Trials, rng: np.random.Generator, settings: dict[str, Any]
) -> Iterator[Rung]:
    """The two models as the agents of a cohort, against the reference alone."""
    cohort = Cohort.from_models([composition, reference])
    actions, initial_states = _forced(composition.config, trials, rng)
    records = cohort.train(
        trials, actions=[actions] * 2, initial_states=[initial_states] * 2, record="all", **settings
    )
    theirs = train(reference, trials, actions=actions, initial_states=initial_states, **settings)
    rungs = [compare_records(record, theirs, COHORT) for record in records]
    yield from (max(pair, key=lambda rung: rung.difference) for pair in zip(*rungs, strict=True))
    weights = [
        (f"agent {p}, {k}", v, reference.weights()[k]) for p in (0, 1) for k, v in cohort.weights(p).items()
    ]
    yield compare_arrays("weights after the trials", COHORT, weights)
    memories = [
        (f"agent {p}", a, b) for p in (0, 1) for a, b in zip(cohort.memory(p), reference.memory(), strict=True)
    ]
    yield compare_arrays("memory", COHORT, memories, ("entry",))


def some_person(config: ModelConfig) -> Person:
    """Somebody who differs from the trained agent in all that has a place in the model as it is made."""
    values: dict[str, Any] = {"inverse_temperature": 0.7}
    if config.has_reinstatement_gate:
        values["gate_bias"] = -0.5
    if config.memory_capacity and config.retrieval == "average":
        values |= {"sharpness": 1.3 * config.sharpness, "forgetting": 0.2}
    start, stop = config.key_columns.start, config.key_columns.stop
    if config.memory_capacity and stop - start > 1:
        values |= {"context_weight": 0.7, "context_columns": (start, (start + stop) // 2)}
    return Person(**values)


def some_people(config: ModelConfig) -> list[Person]:
    """Two who differ from each other and from the trained agent, also in what brings nodes of its own."""
    one = replace(some_person(config), lapse=0.1, perseveration=0.8)
    other = Person(inverse_temperature=1.6, perseveration=-0.5)
    if config.memory_capacity:
        one = replace(one, encoding_probability=0.5)
    if config.memory_capacity and config.retrieval == "average":
        other = replace(other, forgetting=0.4)
    return [one, other]


def _returning(config: ModelConfig, trials: Trials) -> Trials:
    """Contexts that are stored once, and come again."""
    if not config.memory_capacity:
        return replace(trials.lesioned(encode=False), context=None)
    once = replace(trials, retrieve=None, context=np.arange(len(trials)))
    return concatenate([once, once.lesioned(encode=False)])


def _person(composition: Any, reference: Any, trials: Trials) -> Iterator[Rung]:
    """Somebody else, whose choices are drawn, and who has encoded only some episodes."""
    person, seed = some_person(composition.config), 7
    block = _returning(composition.config, trials)
    encoded = None if block.context is None else np.arange(len(block)) % 2 == 0
    try:
        composition.person = reference.person = person
        ours = composition.simulate(block, seed=seed, encoded=encoded)
        theirs = reference.run_trials(block, seed=seed, encoded=encoded)
        yield from compare_records(ours, theirs, PERSON)
    finally:
        composition.person = reference.person = Person()
    yield compare_memories(composition, reference, PERSON)


def _worlds(
    composition: Any,
    reference: Any,
    settings: dict[str, Any],
    people: Sequence[Person] | None = None,
    path: str = WORLDS,
) -> Iterator[Rung]:
    """The environment in the loop: two worlds, one update an episode, choices that are drawn."""
    config = composition.config
    if not _can_be_in_worlds(config, settings):
        return
    own, records = {"seed": 8, "record_gradients": True, "people": people}, []
    for model in (composition, reference):
        worlds = _begun(config, model, 2)
        records.append(train_episodes(model, worlds, worlds.task.episodes, **own, **settings))
    yield from compare_records(records[0], records[1], path)
    yield compare_weights(composition, reference, "weights after the episodes", path)
    yield compare_memories(composition, reference, path)


def _begun(config: ModelConfig, model: Any, n: int) -> EchoWorlds:
    """Worlds at the beginning of an epoch, which the model meets with an empty memory."""
    worlds = Echo(config.input_size, config.n_actions).worlds([np.random.default_rng(e) for e in range(n)])
    worlds.begin_epoch()
    model.clear_memory()
    return worlds


def _people(composition: Any, reference: Any, trials: Trials, settings: dict[str, Any]) -> Iterator[Rung]:
    """Training under the parameters of two people, one an environment, whose choices are drawn; by both paths."""
    block, people = _returning(composition.config, trials), some_people(composition.config)
    own = {"people": people, "seed": 9, "record_gradients": True}

    def train_both(path: str) -> Iterator[Rung]:
        records = [train(model, [block, block], **own, **settings) for model in (composition, reference)]
        ours, theirs = (TrialRecord.concatenate(own) for own in records)
        yield from compare_records(ours, theirs, path)
        yield compare_weights(composition, reference, "weights after the trials", path)
        yield compare_memories(composition, reference, path)

    yield from train_both(PEOPLE)
    with _general(composition):
        yield from train_both(f"{PEOPLE}, {GENERAL}")


def _people_in_worlds(composition: Any, reference: Any, settings: dict[str, Any]) -> Iterator[Rung]:
    """Worlds that answer to people: in training by both paths, and without learning, in Python mode, too."""
    config, people = composition.config, some_people(composition.config)
    yield from _worlds(composition, reference, settings, people, IN_WORLDS)
    with _general(composition):
        yield from _worlds(composition, reference, settings, people, f"{IN_WORLDS}, {GENERAL}")
    if config.input_size < config.n_actions + 2:
        return
    try:
        composition.person = reference.person = people[0]
        for run, path in ((composition.run_episodes, PYTHON_MODE), (composition.simulate_episodes, SIMULATE)):
            records = []
            for model, run_them in ((composition, run), (reference, reference.run_episodes)):
                worlds = _begun(config, model, 1)
                records.append(run_them(worlds, worlds.task.episodes, seed=10))
            yield from compare_records(records[0], records[1], f"{IN_WORLDS}, {path}")
            yield compare_memories(composition, reference, f"{IN_WORLDS}, {path}")
    finally:
        composition.person = reference.person = Person()


def _cohort_in_worlds(composition: Any, reference: Any, settings: dict[str, Any]) -> Iterator[Rung]:
    """The two models as the agents of a cohort, two worlds each, against each of them alone."""
    config = composition.config
    if not _can_be_in_worlds(config, settings):
        return
    task, models = Echo(config.input_size, config.n_actions), (composition, reference)
    Cohort.from_models([reference]).copy_to(composition, 0)  # agents of a cohort are equally far
    for model in models:
        model.clear_memory()
    cohort = Cohort.from_models(models)
    settings = {**settings, "max_gradient_norm": 0.5, "record": "all"}
    records = cohort.train_episodes(_worlds_of(task, 4), task.episodes, seed=[8, 9], **settings)
    theirs = [
        train_episodes(model, _worlds_of(task, 2, first=2 * p), task.episodes, seed=8 + p, **settings)
        for p, model in enumerate(models)
    ]
    rungs = [compare_records(*pair, COHORT_IN_WORLDS) for pair in zip(records, theirs, strict=True)]
    yield from (max(pair, key=lambda rung: rung.difference) for pair in zip(*rungs, strict=True))
    weights = [
        (f"agent {p}, {k}", v, m.weights()[k]) for p, m in enumerate(models) for k, v in cohort.weights(p).items()
    ]
    yield compare_arrays("weights after the episodes", COHORT_IN_WORLDS, weights)
    memories = [
        (f"agent {p}, environment {e}", a, b)
        for p, model in enumerate(models)
        for e in range(2)
        for a, b in zip(cohort.memory(p, e), model.memory(environment=e), strict=True)
    ]
    yield compare_arrays("memory", COHORT_IN_WORLDS, memories, ("entry",))


def _can_be_in_worlds(config: ModelConfig, settings: dict[str, Any]) -> bool:
    """Whether there are worlds for a model, and a loss in them."""
    return config.input_size >= config.n_actions + 2 and settings["loss"] != "cross_entropy"


def _worlds_of(task: Echo, count: int, first: int = 0) -> Any:
    """Worlds at the beginning of an epoch, numbered on from the first."""
    worlds = task.worlds([np.random.default_rng(first + e) for e in range(count)])
    worlds.begin_epoch()
    return worlds


def _random_weights(weights: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Biases that are not zero, so that an absent one shows."""
    return {
        name: array + (0.5 * rng.standard_normal(array.shape) if name.endswith("bias") else 0.0)
        for name, array in weights.items()
    }


def _forced(config: ModelConfig, trials: Trials, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
    """Actions and initial states to give to both models."""
    n, size = len(trials), config.hidden_size
    actions = rng.integers(config.n_actions, size=trials.targets.shape)
    return actions, (0.1 * rng.standard_normal((n, size)), 0.1 * rng.standard_normal((n, size)))


def _train_both(
    composition: Any, reference: Any, trials: Trials, rng: np.random.Generator, settings: dict[str, Any]
) -> tuple[TrialRecord, TrialRecord]:
    actions, initial_states = _forced(composition.config, trials, rng)
    forced = {"actions": actions, "initial_states": initial_states, "record_gradients": True}
    return (
        train(composition, trials, **forced, **settings),
        train(reference, trials, **forced, **settings),
    )
