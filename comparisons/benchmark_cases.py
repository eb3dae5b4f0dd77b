"""What ``eplstm benchmark`` times: a table of cases. To add one, write what prepares it, and add an entry.

The file runs as a program of its own, and with the code of other revisions too: of ``models``, ``tasks`` and
``fitting`` it uses public names alone, and of the other files of this folder nothing but ``benchmark_timing``.

All agents have a memory that is full from the start (as many entries as it holds, and each that is stored drops
another), so that every measurement of a case does the same work; in worlds an epoch begins with an empty one.
Trials are blocks of contextual choice: the first half stores an entry each, the second meets the contexts again.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import models
from ..models import ModelConfig, ReferenceEpisodicLSTM, train, train_episodes
from ..tasks import BarcodeBandit, ContextualChoice, Task, Trials, TwoStep
from .benchmark_timing import Case, Run, Sizes, clocked, marginal, repeated, whole

SEED = 0


class Bench:
    """What prepares each case, and what they share; a composition is made once, because that takes seconds."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._made: dict[ModelConfig, Any] = {}

    def config(self, hidden: int | None = None, entries: int | None = None) -> ModelConfig:
        """The agent, with another number of hidden units or entries."""
        s, actions = self.sizes, ContextualChoice.n_actions
        return ModelConfig(2 * s.obs_dim, hidden or s.hidden_size, actions, memory_capacity=entries or s.entries)

    def trials(self, length: int | None = None, number: int | None = None, environment: int = 0) -> Trials:
        """Trials of some length; without a number, as many as make the steps of a measurement."""
        s, length = self.sizes, length or self.sizes.trial_length
        number = number or max(round(s.trials * s.trial_length / length), 2)
        rng = np.random.default_rng((SEED, environment))
        return ContextualChoice(s.obs_dim, length, length // 2).sample((number + 1) // 2, rng)[:number]

    def work(self, length: int | None = None, environments: int | None = None) -> Callable[[int], Any]:
        """The function that gives a number of trials: of some length, or of several environments."""
        if environments is None:
            return lambda number: self.trials(length, number)
        return lambda number: [self.trials(length, number, e) for e in range(environments)]

    def entries(self, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
        """As many keys (n, K) and values (n, H) as the memory holds."""
        rng, n = np.random.default_rng(SEED), config.memory_capacity
        return rng.standard_normal((n, config.key_size)), rng.standard_normal((n, config.hidden_size))

    def filled(self, model: Any, environments: int | None = None) -> Any:
        """The model, the memory of each environment full."""
        for environment in range(environments or 1):
            model.set_memory(*self.entries(model.config), environment=environment)
        return model

    def reference(self, config: ModelConfig) -> Any:
        """The reference, in the precision of the composition."""
        return ReferenceEpisodicLSTM(config, SEED).double()

    def composition(self, config: ModelConfig) -> Any:
        """The composition of a config."""
        if config not in self._made:
            self._made[config] = models.EpisodicLSTMComposition(config, SEED)
        return self._made[config]

    def learner(self, model: Any, fast: bool = True) -> Callable[[Any], None]:
        """The function that trains a composition on trials, by its fast path or, without, node by node."""

        def call(trials: Any) -> None:
            model.fast_path = fast
            train(model, trials, seed=SEED)
            if fast and model.detour is not None:
                raise RuntimeError(f"learn() took the general path ({model.detour}): that is another case.")

        return call

    # ---- training, a trial: forward, backward, and one step of Adam ----------------------------------

    def train_reference(self, length: int | None = None, environments: int | None = None, **sizes: int) -> Run:
        """The reference: a whole call of train()."""
        model = self.filled(self.reference(self.config(**sizes)), environments)
        updates = len(self.trials(length)) if environments is None else max(self.sizes.trials // environments, 1)
        trials = self.work(length, environments)(updates)
        return whole(lambda trials: train(model, trials, seed=SEED), trials, updates * (environments or 1))

    def learn(self, length: int | None = None, environments: int | None = None, **sizes: int) -> Run:
        """learn() of the standard graph at once, without what a call costs besides."""
        call = self.learner(self.filled(self.composition(self.config(**sizes)), environments))
        least = max(len(self.trials(length)) // (environments or 1), 1)
        return marginal(call, self.work(length, environments), least, environments or 1)

    def general(self, length: int | None = None, **sizes: int) -> Run:
        """The same node by node, as of any other graph."""
        call = self.learner(self.filled(self.composition(self.config(**sizes))), fast=False)
        return marginal(call, self.work(length), max(len(self.trials(length)) // 4, 1))

    def nested(self) -> Run:
        """learn() of layer → agent → layer, end to end; the loss, cross-entropy, is of the last layer."""
        import psyneulink as pnl

        config, rng = self.config(), np.random.default_rng(SEED)
        agent = self.filled(models.EpisodicLSTMComposition(config, SEED))

        def layer(name: str, size: int, **kwargs: Any) -> Any:
            return pnl.ProcessingMechanism(name=name, default_variable=np.zeros(size), **kwargs)  # pyright: ignore

        sensory = layer("sensory", config.hidden_size, function=pnl.Tanh())
        response = layer("response", config.n_actions, function=pnl.SoftMax(output=pnl.ALL))
        stimulus, switches = layer("stimulus", config.input_size), layer("switches", 2)
        outer = models.RecurrentComposition(name="outer", optimizer_type="adam")
        outer.add_nodes([stimulus, switches, sensory, agent, response])
        for sender, receiver, matrix, learnable in (
            (stimulus, sensory, rng.standard_normal((config.input_size, config.hidden_size)), True),
            (sensory, agent.input_node, rng.standard_normal((config.hidden_size, config.input_size)), True),
            (agent.hidden, response, rng.standard_normal((config.hidden_size, config.n_actions)), True),
            (switches, agent.retrieve_node, np.array([[1.0], [0.0]]), False),
            (switches, agent.encode_node, np.array([[0.0], [1.0]]), False),
        ):
            scaled = matrix / np.sqrt(len(matrix)) if learnable else matrix
            ends = {"sender": sender, "receiver": receiver, "matrix": scaled, "learnable": learnable}
            outer.add_projection(pnl.MappingProjection(**ends))  # pyright: ignore

        def call(trials: Trials) -> None:
            def loss(which: range, values: Any) -> torch.Tensor:
                targets = torch.from_numpy(trials.targets[which.start : which.stop])
                return -torch.log(values[response].gather(-1, targets[..., None])).sum()

            on = np.stack([trials.retrieve, trials.encode], axis=-1).astype(float)
            outer.learn({stimulus: trials.inputs, switches: on}, loss, learning_rate=5e-4)
            if agent.detour is not None:
                raise RuntimeError(f"learn() took the general path ({agent.detour}): that is another case.")

        return marginal(call, self.work(), len(self.trials()))

    def other(self, spec: str, length: int | None = None, **sizes: int) -> Run:
        """An implementation of the user's, from the same start."""
        module, _, name = spec.partition(":")
        make, config, trials = (
            getattr(importlib.import_module(module), name),
            self.config(**sizes),
            self.trials(length),
        )
        step = make(config, trials, self.reference(config).weights(), self.entries(config))
        if not callable(step):
            raise TypeError(f"{spec} must return a function of the trial's number; it returned {step!r}.")
        return whole(lambda numbers: [step(n) for n in numbers], range(len(trials)), len(trials))

    def cohort(self, agents: int) -> Run:
        """A cohort, each agent with trials and a full memory of its own; what is counted are the trials of all."""
        cohort = models.Cohort(self.config(), seeds=range(SEED, SEED + agents))
        for agent in range(agents):
            cohort.set_memory(*self.entries(self.config()), agent)
        trials = [self.trials(environment=agent) for agent in range(agents)]
        return whole(lambda trials: cohort.train(trials, seed=SEED), trials, agents * len(trials[0]))

    def in_worlds(self, task: Task, worlds: int, hidden: int, reference: bool) -> Run:
        """train_episodes(), the environment in the loop: an update is one episode of all worlds."""
        own = {"memory_capacity": 100, "kernel": "cosine", "key": task.key_columns, "ties": "newest"}
        config = ModelConfig(task.input_size, hidden, task.n_actions, **own)
        model = self.reference(config) if reference else self.composition(config)

        def call(updates: int) -> None:
            copies = task.worlds([np.random.default_rng((SEED, e)) for e in range(worlds)])
            copies.begin_epoch()
            model.clear_memory()
            episodes = min(updates, task.episodes)
            train_episodes(model, copies, episodes, epochs=updates // episodes, seed=SEED)

        if reference:
            return whole(call, 1, 1)
        return marginal(call, int, 3, most=min(30, task.episodes - 1) or 3)

    # ---- what is paid once, or once a call -----------------------------------------------------------

    def first_call(self) -> Run:
        """Making a composition, and its first learn(), on a single trial."""
        trial = self.trials(number=1)
        return lambda: clocked(lambda: train(models.EpisodicLSTMComposition(self.config(), SEED), trial))

    def later_call(self) -> Run:
        """Any other call of learn(), on a single trial."""
        return whole(self.learner(self.filled(self.composition(self.config()))), self.trials(number=1), 1)

    # ---- without learning ----------------------------------------------------------------------------

    def run_reference(self) -> Run:
        """The reference: run_trials()."""
        model, trials = self.filled(self.reference(self.config())), self.trials()
        return whole(lambda trials: model.run_trials(trials, seed=SEED), trials, trials.targets.size)

    def simulate(self) -> Run:
        """simulate(), in PyTorch mode."""
        model = self.filled(self.composition(self.config()))

        def call(trials: Trials) -> None:
            model.fast_path = True
            model.simulate(trials, seed=SEED)

        return marginal(call, self.work(), len(self.trials()), self.sizes.trial_length)

    def python_mode(self, shortcuts: bool) -> Run:
        """run_trials(), in PsyNeuLink's Python mode, with its shortcuts or without."""
        model = self.filled(self.composition(self.config()))

        def call(trials: Trials) -> None:
            model.shortcuts = shortcuts
            model.run_trials(trials, seed=SEED)

        return whole(call, self.trials(number=2), 2 * self.sizes.trial_length)

    def retrieval(self, entries: int, stock: bool) -> Run:
        """One retrieval with a memory alone: execute() of EpisodicMemory, or of PsyNeuLink's own memory."""
        import psyneulink as pnl
        from psyneulink.core.globals.keywords import MIN_INDICATOR, OLDEST

        config = self.config(entries=entries)
        (keys, values), nothing = self.entries(config), np.zeros(config.hidden_size)
        given: dict[str, Any] = {"default_variable": [np.zeros(config.key_size), nothing], "storage_prob": 0.0}
        given |= {"initializer": [list(entry) for entry in zip(keys, values, strict=True)], "max_entries": entries}
        if stock:  # set to do the same: the value of the nearest key
            given |= {"distance_field_weights": [1, 0], "distance_function": pnl.Distance(metric=pnl.EUCLIDEAN)}
            given |= {"selection_function": pnl.OneHot(mode=MIN_INDICATOR), "equidistant_entries_select": OLDEST}
            memory: Any = pnl.ContentAddressableMemory(**given, duplicate_entries_allowed=True)  # pyright: ignore
        else:
            memory = models.EpisodicMemory(**given, kernel="l2")
        cues = cycle([[key, nothing] for key in keys[:64]])
        if not np.array_equal(memory.execute(next(cues))[1], values[0]):
            raise RuntimeError("The memory does not give the value that it holds under a key.")
        return repeated(lambda: memory.execute(next(cues)))

    def likelihood(self) -> Run:
        """Log-likelihood of people's choices with its gradient, at 4 settings each, as a fit asks for them."""
        from .fitting import Design, Likelihood, ParameterSpace, TrainedAgent, simulate_people

        s = self.sizes
        config = replace(self.config(), retrieval="average", key=(s.obs_dim, 2 * s.obs_dim))
        agent = TrainedAgent(config, self.reference(config).weights())
        design = Design(3, 20, obs_dim=s.obs_dim, trial_length=s.trial_length, t_noise_off=s.trial_length // 2)
        space = ParameterSpace.of("inverse_temperature", "gate_bias", "forgetting", "perseveration")
        z = space.draw(s.people, np.random.default_rng(SEED))
        objective = Likelihood(agent, simulate_people(agent, design, space, z, SEED), space)
        points = torch.from_numpy(np.tile(z, (4, 1, 1))).requires_grad_()

        def evaluate(points: torch.Tensor) -> None:
            torch.autograd.grad(objective.log_likelihood(points).sum(), points)

        return whole(evaluate, points, 4 * s.people)


def table(sizes: Sizes, chosen: tuple[str, ...] = ()) -> list[Case]:
    """The cases.

    Args:
        sizes: of the cases.
        chosen: names, or groups, of those that are wanted; none: all.

    Raises:
        ValueError: there is no such case.
    """
    cases = list(_cases(Bench(sizes)))
    for word in chosen:
        if not any(word in (case.name, case.group) for case in cases):
            groups, names = (", ".join(dict.fromkeys(getattr(c, of) for c in cases)) for of in ("group", "name"))
            raise ValueError(f"cases: there is no {word!r}; the groups are {groups}, and the cases {names}.")
    return [case for case in cases if not chosen or {case.name, case.group} & set(chosen)]


def _cases(bench: Bench) -> Iterator[Case]:
    s, run = bench.sizes, partial
    yield Case("reference", "training", "trial", bench.train_reference)
    yield Case("learn", "training", "trial", bench.learn, "reference")
    yield Case("general", "training", "trial", bench.general, "reference")
    yield Case("nested", "training", "trial", bench.nested, "learn")
    for spec in s.callables:
        yield Case(spec, "training", "trial", run(bench.other, spec), "reference")
    yield Case("first-call", "calls", "call", bench.first_call, "reference", most=3)
    yield Case("later-call", "calls", "call", bench.later_call, "reference")
    bandit, two_step = BarcodeBandit(), TwoStep(trials=s.two_step_trials)
    for name, task, size in (("bandit", bandit, s.bandit), ("two-step", two_step, s.two_step)):
        theirs = f"{name}-reference"
        yield Case(theirs, "worlds", "update", run(bench.in_worlds, task, *size, reference=True), most=3)
        yield Case(name, "worlds", "update", run(bench.in_worlds, task, *size, reference=False), theirs)
    yield Case("run-reference", "running", "step", bench.run_reference)
    yield Case("simulate", "running", "step", bench.simulate, "run-reference")
    stock = "python-mode-stock"
    yield Case(stock, "running", "step", run(bench.python_mode, shortcuts=False), "run-reference")
    yield Case("python-mode", "running", "step", run(bench.python_mode, shortcuts=True), stock)
    yield Case("likelihood", "fitting", "participant", bench.likelihood, "reference")
    for m in s.environments:
        first, second = f"reference, M = {m:,}", f"learn, M = {m:,}"
        for name, prepare, against in ((first, bench.train_reference, None), (second, bench.learn, first)):
            curve = ("environments", m, name.partition(",")[0])
            yield Case(name, "environments", "trial", run(prepare, environments=m), against, curve)
    for agents in s.agents:
        curve = ("agents in a cohort", agents, "cohort")
        yield Case(f"cohort, P = {agents:,}", "cohort", "trial", run(bench.cohort, agents), "reference", curve)
    stock = "stock memory, n = 100"
    if s.retrieval:
        yield Case(stock, "retrieval", "retrieval", run(bench.retrieval, 100, stock=True))
    for n in s.retrieval:
        curve = ("entries (retrieval)", n, "EpisodicMemory")
        yield Case(
            f"memory, n = {n:,}", "retrieval", "retrieval", run(bench.retrieval, n, stock=False), stock, curve
        )
    lines = {"reference": bench.train_reference, "learn": bench.learn, "general": bench.general}
    lines |= {spec: run(bench.other, spec) for spec in s.callables}
    for axis, symbol, sizes, argument in (
        ("steps in a trial", "T", s.grow_steps, "length"),
        ("hidden units", "H", s.grow_hidden, "hidden"),
        ("entries in memory", "n", s.grow_entries, "entries"),
    ):
        for size in sizes:
            first = f"reference, {symbol} = {size:,}"
            for line, prepare in lines.items():
                name, sized = f"{line}, {symbol} = {size:,}", run(prepare, **{argument: size})
                yield Case(name, axis, "trial", sized, first if name != first else None, (axis, size, line))


def serve(sizes: Sizes) -> None:
    """Measure the cases whose names come in, a line each; the answers go out as lines of JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is not an answer
    cases, runs = {case.name: case for case in table(sizes)}, {}
    print(json.dumps({"code": str(Path(models.__file__).resolve().parents[1])}), file=out, flush=True)
    for name in map(str.strip, sys.stdin):
        try:
            if name not in runs:
                runs[name] = cases[name].prepare()
                # A composition is some 100,000 objects: to search those of other cases for garbage takes time.
                gc.collect()
                gc.freeze()
            answer: dict[str, Any] = {"seconds": runs[name]()}
        except (Exception, SystemExit) as error:  # of a user's module, or another revision
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.filename}, line {place.lineno}, in {place.name}"
            answer = {"failure": f"{type(error).__name__}: {error} ({where})"}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    serve(Sizes(**json.loads(sys.argv[1])))
