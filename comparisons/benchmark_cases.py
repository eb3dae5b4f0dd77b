"""What ``eplstm benchmark`` times: the table of cases. To add one, add an entry.

All agents have a memory that is full from the start (as many entries as it holds, and each that is stored
drops another), so that every measurement of a case does the same work. Trials are blocks of contextual choice:
the first half stores an entry each, the second half meets the contexts again.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import psyneulink as pnl
import torch
import tyro
from psyneulink.core.globals.keywords import MIN_INDICATOR, OLDEST

from ..models import (
    Cohort,
    EpisodicLSTMComposition,
    EpisodicMemory,
    ModelConfig,
    RecurrentComposition,
    ReferenceEpisodicLSTM,
    train,
)
from ..tasks import ContextualChoice, Trials
from .benchmark import Case, Run, fixed, marginal, measure, repeated, whole
from .benchmark_results import Benchmark, Curve
from .runs import Model

REFERENCE = "reference, train()"
"""The case that others are compared to, unless they have a counterpart of their own."""
COMPOSITION, GENERAL = "composition", "composition, general path"
"""``learn()`` of the standard graph at once, and node by node as of any other graph."""
STOCK_ENTRIES = 100
"""Of PsyNeuLink's own memory, whose time grows with its entries in Python."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """Sizes and repetitions; the sizes are those of dnd-lstm."""

    repetitions: int = 5
    """Rounds; in each, every case is measured once."""
    trials: int = 40
    """Trials in a measurement of training; of longer trials proportionally fewer."""
    threads: int = 1
    """Of PyTorch."""
    precision: Literal["float64", "float32"] = "float64"
    """Of the reference; the composition always computes in float64."""
    obs_dim: int = 32
    """Columns of the observation, and again of the context: half of the inputs."""
    trial_length: int = 10
    """Steps in a trial."""
    hidden_size: int = 32
    """Hidden units."""
    entries: int = 100
    """Entries that the memory holds; it is full."""
    grow_steps: tuple[int, ...] = (5, 10, 20, 40, 80)
    """Steps in a trial, for the growth of training time; empty: not measured (so too for the next)."""
    grow_hidden: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Hidden units, for the same."""
    grow_entries: tuple[int, ...] = (10, 100, 1000, 10_000)
    """Entries in memory, for the same."""
    environments: tuple[int, ...] = (1, 8, 32, 128)
    """Environments of one agent (copies of the task, one update from all); the time is that of a trial of one."""
    agents: tuple[int, ...] = (1, 8, 32, 128, 512)
    """Agents of a cohort; the time is that of a trial of one."""
    memory_entries: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    """Entries of a memory alone, for the time of one retrieval and of storing one entry."""
    python_entries: tuple[int, ...] = (100, 10_000)
    """Entries in memory, for running without learning."""
    callables: Annotated[tuple[str, ...], tyro.conf.arg(name="callable")] = ()
    """Other implementations to time, each as module:function; the module is looked for in the current folder
    first. The function is called once a case, as make(config, trials, weights, memory), with an eplstm
    ModelConfig, Trials, the weights to begin with (a dict, as weights() of a model gives it, in the precision of
    the reference) and the entries to begin with (keys (n, K), values (n, H), oldest first). It returns a function
    step(n) that trains on trial n: all its steps, forward and backward, actor-critic loss with a discount of 0,
    and one update of Adam (learning rate 5e-4). That is called with 0, 1, ..., len(trials) - 1, untimed the first
    time, and over again. What it returns is not used; what it raises is shown beside the other results."""
    callable_grows: bool = False
    """Time them at every size of the growth curves too."""
    only: tuple[str, ...] = ()
    """Groups, or parts of names, of the cases to measure (and what they are compared to); --list shows both."""
    seed: int = 0
    """Of weights, trials and entries."""

    def checked(self) -> BenchmarkSettings:
        """These settings; raises ValueError if a value is out of range."""
        for f in fields(self):
            value, least = getattr(self, f.name), 0 if f.name == "seed" else 1
            numbers = value if isinstance(value, tuple) else (value,)
            for number in numbers:
                if isinstance(number, int) and not isinstance(number, bool) and number < least:
                    raise ValueError(f"{f.name} must be whole numbers ≥ {least}; got {number!r}.")
        if self.precision not in ("float64", "float32"):
            raise ValueError(f"precision must be 'float64' or 'float32'; got {self.precision!r}.")
        for spec in self.callables:
            if not all(spec.partition(":")):
                raise ValueError(f"callable must have the form module:function; got {spec!r}.")
        return self

    def quick(self) -> BenchmarkSettings:
        """A look at the whole in about a minute: few repetitions, and no large sizes."""

        def up_to(most: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(size for size in sizes if size <= most)

        return replace(
            self,
            repetitions=min(self.repetitions, 2),
            trials=min(self.trials, 10),
            grow_steps=up_to(20, self.grow_steps)[-2:],
            grow_hidden=up_to(64, self.grow_hidden)[-2:],
            grow_entries=up_to(1000, self.grow_entries)[-2:],
            environments=up_to(8, self.environments),
            agents=up_to(32, self.agents),
            memory_entries=up_to(10_000, self.memory_entries),
            python_entries=up_to(100, self.python_entries),
        )


BLOCKS_OF_TRAINING = 40


class Workbench:
    """Makes what the cases need, and makes each model once."""

    def __init__(self, settings: BenchmarkSettings) -> None:
        self.settings = settings
        self._models: dict[Any, Model] = {}
        self._trained: dict[ModelConfig, dict[str, np.ndarray]] = {}

    def config(self, hidden: int | None = None, entries: int | None = None) -> ModelConfig:
        """The agent, with another number of hidden units or entries."""
        settings = self.settings
        return ModelConfig(
            input_size=2 * settings.obs_dim,
            hidden_size=hidden or settings.hidden_size,
            n_actions=ContextualChoice.n_actions,
            memory_capacity=entries or settings.entries,
        )

    def trials(self, length: int | None = None, *, number: int | None = None, environment: int = 0) -> Trials:
        """Trials of some length; without a number, as many as make the steps of a measurement.

        Each environment (or agent) has others.
        """
        settings = self.settings
        length = length or settings.trial_length
        number = number or max(round(settings.trials * settings.trial_length / length), 2)
        rng = np.random.default_rng([settings.seed, environment])
        return ContextualChoice(settings.obs_dim, length, length // 2).sample((number + 1) // 2, rng)[:number]

    def work(self, length: int | None = None) -> Callable[[int], Trials]:
        """The function that gives a number of trials of some length."""
        return lambda number: self.trials(length, number=number)

    def entries(self, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
        """As many keys (n, K) and values (n, H) as the memory holds."""
        rng = np.random.default_rng(self.settings.seed)
        n = config.memory_capacity
        return rng.standard_normal((n, config.key_size)), rng.standard_normal((n, config.hidden_size))

    def reference(self, config: ModelConfig) -> ReferenceEpisodicLSTM:
        """The reference, in the precision asked for."""
        model = ReferenceEpisodicLSTM(config, self.settings.seed)
        return self.filled(model.double() if self.settings.precision == "float64" else model)

    def composition(self, config: ModelConfig) -> EpisodicLSTMComposition:
        """The composition; made once for each configuration, because that takes seconds."""
        if config not in self._models:
            self._models[config] = self.new_composition(config)
        return self._models[config]  # type: ignore[return-value]

    def new_composition(self, config: ModelConfig) -> EpisodicLSTMComposition:
        """A composition that has not learned yet."""
        return self.filled(EpisodicLSTMComposition(config, self.settings.seed))

    def filled(self, model: Any, environments: int = 1) -> Any:
        """The model, its memories filled; each environment has one."""
        for environment in range(environments):
            model.set_memory(*self.entries(model.config), environment=environment)
        return model

    def remembering(self, config: ModelConfig) -> dict[str, np.ndarray]:
        """Weights of an agent that has learned to use its memory; trained once, in some seconds."""
        if config not in self._trained:
            settings, length = self.settings, self.settings.trial_length
            task, agent = ContextualChoice(settings.obs_dim, length, length // 2), Cohort(config, [settings.seed])
            for block in range(BLOCKS_OF_TRAINING):
                agent.clear_memory()
                rngs = [np.random.default_rng((settings.seed, block, e)) for e in range(32)]
                trials = [task.sample(10, rng) for rng in rngs]
                agent.train([trials], learning_rate=2e-3, seed=[block])
            self._trained[config] = agent.weights(0)
        return self._trained[config]

    def trainer(self, model: Model, *, fast: bool = True) -> Callable[[Any], object]:
        """The function that trains a model on trials; a composition by its fast path or, without, node by node."""

        def call(trials: Trials | list[Trials]) -> None:
            if isinstance(model, EpisodicLSTMComposition):
                model.fast_path = fast
            train(model, trials, seed=self.settings.seed)
            if fast and getattr(model, "detour", None) is not None:
                raise RuntimeError(f"learn() took the general path ({model.detour}): that is another case.")

        return call

    def simulate(self, model: EpisodicLSTMComposition, trials: Trials) -> None:
        """Run trials without learning, in PyTorch mode."""
        model.fast_path = True
        model.simulate(trials, seed=self.settings.seed)

    def runner(self, model: Model) -> Callable[[Trials], object]:
        """The function that runs trials without learning."""
        return lambda trials: model.run_trials(trials, seed=self.settings.seed)


def table(settings: BenchmarkSettings) -> list[Case]:
    """All cases that the settings ask for, each after the one it is compared to.

    Raises:
        ValueError: a setting is out of range, or ``only`` names something that is not there.
    """
    bench = Workbench(settings.checked())
    cases = [
        *training(bench),
        *calls(bench),
        *nesting(bench),
        *running(bench),
        *growth(bench),
        *environments(bench),
        *cohorts(bench),
        *fitting(bench),
        *memories(bench),
    ]
    return chosen(cases, settings.only)


def run_benchmark(
    settings: BenchmarkSettings, cases: list[Case] | None = None, tell: Callable[[str], None] | None = None
) -> Benchmark:
    """Measure the cases of the settings, or those given.

    Args:
        settings: sizes, repetitions, threads.
        cases: from ``table(settings)``.
        tell: called with the name of each case before it is measured.

    Raises:
        ValueError: a setting is out of range.
    """
    cases = table(settings) if cases is None else cases
    kept = asdict(settings)
    with current_folder_importable():
        return measure(cases, settings.repetitions, threads=settings.threads, settings=kept, tell=tell)


def chosen(cases: list[Case], only: tuple[str, ...]) -> list[Case]:
    """The cases whose group is named, or whose name has one of the parts; and those they are compared to."""
    if not only:
        return cases
    wanted = {REFERENCE}
    for part in only:
        found = [case for case in cases if part == case.group or part in case.name]
        if not found:
            groups = ", ".join(dict.fromkeys(case.group for case in cases))
            raise ValueError(f"only: no case has {part!r} in its name; the groups are {groups} (see --list).")
        wanted |= {case.name for case in found} | {case.against for case in found if case.against}
    return [case for case in cases if case.name in wanted]


# ---- the table ---------------------------------------------------------------------------------------


def training(bench: Workbench) -> Iterator[Case]:
    """A trial: forward, backward, and one step of Adam."""
    group = "training"
    yield Case(REFERENCE, group, "trial", partial(train_reference, bench))
    for name, fast in ((COMPOSITION, True), (GENERAL, False)):
        setup = partial(train_composition, bench, fast)
        yield Case(f"{name}, learn()", group, "trial", setup, REFERENCE, warm_up=False)
    for spec in bench.settings.callables:
        yield Case(spec, group, "trial", partial(train_callable, bench, spec), REFERENCE)


def calls(bench: Workbench) -> Iterator[Case]:
    """What is paid once, or once a call."""
    group = "calls"

    def build() -> Run:
        return whole(bench.new_composition, bench.config(), 1)

    def first() -> Run:
        return lambda: whole(bench.trainer(bench.new_composition(bench.config())), bench.trials()[:1], 1)()

    def later() -> Run:
        return fixed(bench.trainer(bench.composition(bench.config())), bench.work())

    yield Case("composition, constructor", group, "call", build, REFERENCE, most=3, warm_up=False)
    yield Case("composition, first learn()", group, "call", first, REFERENCE, most=3, warm_up=False)
    yield Case("composition, later learn()", group, "call", later, REFERENCE)


def nesting(bench: Workbench) -> Iterator[Case]:
    """A trial of an agent with a layer before it and one behind, trained end to end."""
    yield Case(
        "nested composition, learn()", "nesting", "trial", partial(train_nested, bench), REFERENCE, warm_up=False
    )


def running(bench: Workbench) -> Iterator[Case]:
    """A step without learning."""
    for entries in bench.settings.python_entries:
        config = bench.config(entries=entries)

        def reference(config: ModelConfig = config) -> Run:
            trials = bench.trials()
            return whole(bench.runner(bench.reference(config)), trials, trials.targets.size)

        def simulate(config: ModelConfig = config) -> Run:
            model = bench.composition(config)
            call = partial(bench.simulate, model)
            return marginal(call, bench.work(), len(bench.trials()), bench.settings.trial_length)

        def python_mode(config: ModelConfig = config) -> Run:
            call = bench.runner(bench.composition(config))
            return marginal(call, bench.work(), 1, bench.settings.trial_length)

        name = f"reference, run_trials(), n = {entries:,}"
        yield Case(name, "running", "step", reference)
        ours = f"composition, simulate(), n = {entries:,}"
        yield Case(ours, "running", "step", simulate, name, warm_up=False)
        ours = f"composition, run_trials(), n = {entries:,}"
        yield Case(ours, "running", "step", python_mode, name, most=3, warm_up=False)


def memories(bench: Workbench) -> Iterator[Case]:
    """One retrieval, and storing one entry, with a memory alone."""
    sizes = bench.settings.memory_entries
    kinds = {"reference": reference_memory, "composition": composition_memory, "stock": stock_memory}
    names = {"reference": "reference", "composition": "EpisodicMemory", "stock": "ContentAddressableMemory"}
    for group, unit, word, store in (
        ("retrieval", "retrieval", "from", False),
        ("storage", "entry", "into", True),
    ):
        for entries in sizes:
            config = bench.config(entries=entries)
            counterpart = f"reference, {word} {entries:,}"
            for kind, memory in kinds.items():
                if kind == "stock" and entries > STOCK_ENTRIES:
                    continue
                name = f"{names[kind]}, {word} {entries:,}"
                curve = Curve(f"entries ({group})", entries, names[kind])
                setup = partial(short_calls, bench, memory, config, store)
                yield Case(name, group, unit, setup, None if name == counterpart else counterpart, curve)


def growth(bench: Workbench) -> Iterator[Case]:
    """A trial of training, as one size grows."""
    settings = bench.settings
    for axis, symbol, sizes, argument in (
        ("steps in a trial", "T", settings.grow_steps, "length"),
        ("hidden units", "H", settings.grow_hidden, "hidden"),
        ("entries in memory", "n", settings.grow_entries, "entries"),
    ):
        setups: dict[str, Callable[..., Run]] = {
            "reference": train_reference,
            COMPOSITION: partial(train_composition, fast=True),
            GENERAL: partial(train_composition, fast=False),
        }
        if settings.callable_grows:
            setups |= {spec: partial(train_callable, spec=spec) for spec in settings.callables}
        for size in sizes:
            counterpart = f"reference, {symbol} = {size:,}"
            for line, setup in setups.items():
                name = f"{line}, {symbol} = {size:,}"
                against = None if name == counterpart else counterpart
                run = partial(setup, bench, **{argument: size})
                curve, warm_up = Curve(axis, size, line), not line.startswith(COMPOSITION)
                yield Case(name, axis, "trial", run, against, curve, warm_up=warm_up)


def environments(bench: Workbench) -> Iterator[Case]:
    """One trial of one environment, when one agent is trained on several together."""
    for number in bench.settings.environments:
        counterpart = f"reference, M = {number:,}"
        for line, name in (("reference", counterpart), (COMPOSITION, f"{COMPOSITION}, M = {number:,}")):
            setup = partial(train_in_environments, bench, line, number)
            against = None if name == counterpart else counterpart
            curve, warm_up = Curve("environments", number, line), line != COMPOSITION
            yield Case(name, "environments", "trial", setup, against, curve, warm_up=warm_up)


def cohorts(bench: Workbench) -> Iterator[Case]:
    """One trial of one agent, when many are trained together."""
    for agents in bench.settings.agents:
        name, curve = f"cohort, P = {agents:,}", Curve("agents in a cohort", agents, "cohort")
        yield Case(name, "cohorts", "trial", partial(train_cohort, bench, agents), REFERENCE, curve)


def fitting(bench: Workbench) -> Iterator[Case]:
    """The likelihood of people's choices with its gradient, and a whole fit, by participant of 120 trials."""
    group, unit = "fitting", "participant"
    yield Case("log-likelihood and gradient", group, unit, partial(likelihood_of_people, bench), REFERENCE)
    yield Case("MAP fit, 4 searches", group, unit, partial(map_fit, bench), REFERENCE, most=1, warm_up=False)


# ---- how each is set up ------------------------------------------------------------------------------


def train_reference(bench: Workbench, length: int | None = None, **sizes: int) -> Run:
    """The reference, a whole call of ``train``."""
    trials = bench.trials(length)
    return whole(bench.trainer(bench.reference(bench.config(**sizes))), trials, len(trials))


def train_composition(bench: Workbench, fast: bool, length: int | None = None, **sizes: int) -> Run:
    """``learn()`` by the fast path or node by node, without what a call costs besides: that is its own case."""
    call = bench.trainer(bench.composition(bench.config(**sizes)), fast=fast)
    return marginal(call, bench.work(length), len(bench.trials(length)))


FITTED = ("inverse_temperature", "gate_bias", "forgetting", "perseveration")
"""What people differ in: four parameters."""


def people_of(bench: Workbench, number: int) -> tuple[Any, np.ndarray]:
    """The likelihood of so many people, of 3 blocks of 20 contexts that are shown twice, and their parameters."""
    from .fitting import Design, Likelihood, ParameterSpace, TrainedAgent, simulate_people

    settings = bench.settings
    config = replace(bench.config(), retrieval="average", key=(settings.obs_dim, 2 * settings.obs_dim))
    agent = TrainedAgent(config, bench.remembering(config))
    design = Design(
        3, 20, obs_dim=settings.obs_dim, trial_length=settings.trial_length, t_noise_off=settings.trial_length // 2
    )
    space = ParameterSpace.of(*FITTED)
    z = space.draw(number, np.random.default_rng(settings.seed))
    people = simulate_people(agent, design, space, z, settings.seed)
    return Likelihood(agent, people, space), z


def likelihood_of_people(bench: Workbench) -> Run:
    """Of 24 people at 4 settings each, as a fit asks for them."""
    objective, z = people_of(bench, 24)
    points = torch.from_numpy(np.tile(z, (4, 1, 1))).requires_grad_()

    def evaluate(_: Any) -> None:
        torch.autograd.grad(objective.log_likelihood(points).sum(), points)

    return whole(evaluate, None, points.shape[0] * points.shape[1])


def map_fit(bench: Workbench) -> Run:
    """``fit_map`` of 24 people."""
    from .fitting import fit_map

    objective, z = people_of(bench, 24)
    return whole(lambda _: fit_map(objective), None, len(z))


def train_nested(bench: Workbench) -> Run:
    """``learn()`` of layer → agent → layer, as ``train_composition``; the loss, cross-entropy, is of the last."""
    config = bench.config()
    agent = bench.new_composition(config)

    def layer(name: str, size: int, **kwargs: Any) -> Any:
        return pnl.ProcessingMechanism(name=name, default_variable=np.zeros(size), **kwargs)  # pyright: ignore

    sensory = layer("sensory", config.hidden_size, function=pnl.Tanh())
    response = layer("response", config.n_actions, function=pnl.SoftMax(output=pnl.ALL))
    stimulus, switches = layer("stimulus", config.input_size), layer("switches", 2)
    outer = RecurrentComposition(name="outer", optimizer_type="adam")
    outer.add_nodes([stimulus, switches, sensory, agent, response])
    rng = np.random.default_rng(bench.settings.seed)

    def project(sender: Any, receiver: Any, matrix: Any, learnable: bool = True) -> None:
        ends = {"sender": sender, "receiver": receiver}
        projection = pnl.MappingProjection(**ends, matrix=matrix, learnable=learnable)  # pyright: ignore
        outer.add_projection(projection)

    for sender, receiver, n, m in (
        (stimulus, sensory, config.input_size, config.hidden_size),
        (sensory, agent.input_node, config.hidden_size, config.input_size),
        (agent.hidden, response, config.hidden_size, config.n_actions),
    ):
        project(sender, receiver, rng.standard_normal((n, m)) / np.sqrt(n))
    project(switches, agent.retrieve_node, [[1.0], [0.0]], learnable=False)
    project(switches, agent.encode_node, [[0.0], [1.0]], learnable=False)

    def call(trials: Trials) -> None:
        def loss(which: range, values: Any) -> torch.Tensor:
            targets = torch.from_numpy(trials.targets[which.start : which.stop])
            return -torch.log(values[response].gather(-1, targets[..., None])).sum()

        on = np.stack([trials.retrieve, trials.encode], axis=-1).astype(float)
        outer.learn({stimulus: trials.inputs, switches: on}, loss, learning_rate=5e-4)
        if agent.detour is not None:
            raise RuntimeError(f"learn() took the general path ({agent.detour}): that is another case.")

    return marginal(call, bench.work(), len(bench.trials()))


def train_in_environments(bench: Workbench, line: str, number: int) -> Run:
    """Either model on several environments together; what is counted are the trials of all of them."""
    updates = max(bench.settings.trials // number, 1)

    def work(updates: int) -> list[Trials]:
        return [bench.trials(number=updates, environment=e) for e in range(number)]

    if line == "reference":
        model = bench.filled(bench.reference(bench.config()), number)
        return whole(bench.trainer(model), work(updates), updates * number)
    model = bench.filled(bench.composition(bench.config()), number)
    return marginal(bench.trainer(model), work, updates, number)


def train_cohort(bench: Workbench, agents: int) -> Run:
    """A cohort, each agent with trials and a full memory of its own; what is counted are the trials of all."""
    settings, config = bench.settings, bench.config()
    cohort = Cohort(config, seeds=range(settings.seed, settings.seed + agents))
    for agent in range(agents):
        cohort.set_memory(*bench.entries(config), agent)
    trials = [bench.trials(environment=agent) for agent in range(agents)]
    return whole(lambda trials: cohort.train(trials, seed=settings.seed), trials, agents * len(trials[0]))


def train_callable(bench: Workbench, spec: str, length: int | None = None, **sizes: int) -> Run:
    """A user's implementation, from the same start."""
    config, trials = bench.config(**sizes), bench.trials(length)
    step = load_callable(spec)(config, trials, bench.reference(config).weights(), bench.entries(config))
    if not callable(step):
        raise TypeError(f"{spec} must return a function of the trial's number; it returned {step!r}.")

    def all_trials(trials: Trials) -> None:
        for n in range(len(trials)):
            step(n)

    return whole(all_trials, trials, len(trials))


def load_callable(spec: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Raises:
        ImportError: the module cannot be found, or raises when it is imported.
        AttributeError: it has no such function.
        TypeError: what it has is no function.
    """
    module, _, name = spec.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{spec} is not a function; got {type(found).__name__}.")
    return found


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """The current folder is where modules are looked for first, for the time being."""
    before = list(sys.path)
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path[:] = before


def short_calls(bench: Workbench, memory: Callable[..., MemoryCalls], config: ModelConfig, store: bool) -> Run:
    """Retrieval from a full memory, or storage in it, with another entry from call to call."""
    rng = np.random.default_rng(bench.settings.seed + 1)
    keys, values = rng.standard_normal((64, config.key_size)), rng.standard_normal((64, config.hidden_size))
    return repeated(memory(bench, config, keys, values)[store])


MemoryCalls = tuple[Callable[[int], Any], Callable[[int], Any]]
"""To retrieve the value for key n (modulo their number), and to store key and value n."""


def reference_memory(bench: Workbench, config: ModelConfig, keys: np.ndarray, values: np.ndarray) -> MemoryCalls:
    """That of the reference, in its precision."""
    memory = bench.reference(config).episodic_memory
    cues, contents = (torch.from_numpy(array).to(memory.keys) for array in (keys, values))
    n = len(keys)
    return lambda i: memory.retrieve(cues[i % n]), lambda i: memory.encode(cues[i % n], contents[i % n])


def composition_memory(bench: Workbench, config: ModelConfig, keys: np.ndarray, values: np.ndarray) -> MemoryCalls:
    """That of the composition, outside of it."""
    form = [np.zeros(config.key_size), np.zeros(config.hidden_size)]
    memory = EpisodicMemory(default_variable=form, max_entries=config.memory_capacity, storage_prob=0.0)
    memory.set_entries(bench.entries(config))
    cues, n = torch.from_numpy(keys), len(keys)
    return (
        lambda i: memory.match([cues[i % n], None])[1],  # type: ignore[list-item]
        lambda i: memory.store_entry([keys[i % n], values[i % n]]),
    )


def stock_memory(bench: Workbench, config: ModelConfig, keys: np.ndarray, values: np.ndarray) -> MemoryCalls:
    """PsyNeuLink's own, set to do the same: the value of the nearest key, and a further entry for each stored."""
    nothing, n = np.zeros(config.hidden_size), len(keys)
    memory = pnl.ContentAddressableMemory(  # pyright: ignore[reportAttributeAccessIssue]
        default_variable=[np.zeros(config.key_size), nothing],
        initializer=[list(entry) for entry in zip(*bench.entries(config), strict=True)],
        distance_field_weights=[1, 0],
        distance_function=pnl.Distance(metric=pnl.EUCLIDEAN),
        selection_function=pnl.OneHot(mode=MIN_INDICATOR),
        equidistant_entries_select=OLDEST,
        duplicate_entries_allowed=True,
        storage_prob=0.0,
        max_entries=config.memory_capacity,
    )
    return (
        lambda i: memory.execute([keys[i % n], nothing])[1],
        lambda i: memory.add_to_memory([keys[i % n], values[i % n]]),
    )
