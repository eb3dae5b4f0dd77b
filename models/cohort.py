"""Cohorts: many agents with weights of their own, run and trained together.

The agents of a cohort share a configuration; weights, memories, optimiser and trials are each agent's own. What
comes out is what each agent would give alone (float64), for a small part of the time: NumPy's and PyTorch's calls
are paid once for many agents. ``Cohort.from_models`` takes the agents of compositions or references, and
``Cohort.agent`` gives one back as such.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..tasks.trials import Trials, earned
from .bank import Bank, RingMemory
from .choices import ChoicesOfTrials, draw
from .config import ModelConfig
from .engine import Gradients, Trace, Weights, backward_of_update, run
from .losses import Loss, LossSettings, Outcome, losses_and_slopes, not_finite
from .match import Retrieval
from .optimizers import CAN_FUSE, Steps, check_rate, optimizer_of
from .people import People, as_people
from .plans import Plan, Update, check_update, plan_environments, plan_trials
from .records import Record, TrialRecord, build_record, check_record
from .source import GivenTrials, stretches_between
from .weights import check_memory, check_optimizer_state, check_weights, initial_weights, weight_shapes

CHUNK = 64
"""Agents that are run at once: they share the cost of calls, and the cache still holds much of them."""
STACKED = 16
"""Updates whose trials are laid side by side at once."""

AgentKind = Literal["composition", "reference"]


class Cohort:
    """P agents with weights, memories and optimisers of their own, run and trained together (float64).

    Args:
        config: sizes and memory settings, the same for all.
        seeds: one an agent, for its initial weights: those of a model made with that seed.

    Raises:
        ValueError: no agent.
    """

    def __init__(self, config: ModelConfig, seeds: Sequence[int | None]) -> None:
        seeds = list(seeds)
        if not seeds:
            raise ValueError("Cohort: needs at least one agent; give a seed for each, such as seeds=range(8).")
        self.config = config
        self._chunks = [
            _Chunk(config, [initial_weights(config, seed) for seed in seeds[start : start + CHUNK]])
            for start in range(0, len(seeds), CHUNK)
        ]
        self._size = len(seeds)

    @classmethod
    def from_models(cls, models: Sequence[Any]) -> Cohort:
        """A cohort of the agents of compositions or references: weights, memories and optimisers are copied.

        Raises:
            ValueError: the models do not all have one configuration, or one has a person of its own.
        """
        models = list(models)
        for n, model in enumerate(models):
            model.person.check_training(f"Cohort: model {n}")  # who chooses is said in train()
            if model.config != models[0].config:
                raise ValueError(
                    f"Cohort: all agents must have one configuration; model {n} has {model.config}, model 0 has "
                    f"{models[0].config}. Make a cohort of each configuration."
                )
        cohort = cls(models[0].config if models else ModelConfig(1, 1, 1, 0), [None] * len(models))
        for agent, model in enumerate(models):
            cohort.set_weights(model.weights(), agent)
            cohort.set_optimizer_state(model.optimizer_state(), agent)
            for environment in range(model.environments):
                keys, values = model.memory(environment=environment)
                cohort.set_memory(keys, values, agent, environment)
        return cohort

    def agent(self, agent: int, kind: AgentKind = "composition") -> Any:
        """One agent as an ``EpisodicLSTMComposition``, or as a (float64) ``ReferenceEpisodicLSTM``."""
        from . import EpisodicLSTMComposition, ReferenceEpisodicLSTM  # the one is slow to import

        made = (
            EpisodicLSTMComposition(self.config) if kind == "composition" else ReferenceEpisodicLSTM(self.config)
        )
        model: Any = made if kind == "composition" else made.double()  # type: ignore[union-attr]
        model.set_weights(self.weights(agent))
        model.set_optimizer_state(self.optimizer_state(agent))
        for environment in range(self.environments):
            model.set_memory(*self.memory(agent, environment), environment=environment)
        return model

    def __len__(self) -> int:
        return self._size

    # ---- one agent's state -------------------------------------------------------------------------------

    def _of(self, agent: int) -> tuple[_Chunk, int]:
        """The chunk that holds an agent, and its place in it."""
        if not 0 <= agent < len(self):
            raise IndexError(f"agent {agent} is none of this cohort's, 0 to {len(self) - 1}.")
        return self._chunks[agent // CHUNK], agent % CHUNK

    @property
    def environments(self) -> int:
        """Environments that have a memory: at least 1, and as many as the cohort has been trained in."""
        return self._chunks[0].environments

    def weights(self, agent: int) -> dict[str, np.ndarray]:
        """Copies of an agent's weights, by the names and shapes of ``weight_shapes``."""
        chunk, place = self._of(agent)
        return {name: array[place].copy() for name, array in chunk.arrays.items()}

    def set_weights(self, weights: dict[str, np.ndarray], agent: int) -> None:
        """Give an agent these weights. ValueError if a name, a shape or a value does not fit."""
        checked = check_weights(self.config, weights)
        chunk, place = self._of(agent)
        for name, array in checked.items():
            chunk.arrays[name][place] = array

    def memory(self, agent: int, environment: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Copies of an agent's stored keys (n, K) and values (n, H), oldest first."""
        chunk, place = self._of(agent)
        _check_environment(environment)
        if environment >= self.environments or not self.config.memory_capacity:
            return np.empty((0, self.config.key_size)), np.empty((0, self.config.hidden_size))
        keys, values = chunk.bank.entries(chunk.ring(place, environment))
        return keys, values

    def set_memory(self, keys: np.ndarray, values: np.ndarray, agent: int, environment: int = 0) -> None:
        """Replace an agent's memory by these entries, oldest first: keys (n, K), values (n, H)."""
        keys, values = check_memory(self.config, keys, values)
        chunk, place = self._of(agent)
        _check_environment(environment)
        if self.config.memory_capacity:
            for each in self._chunks:
                each.open(environment + 1)
            chunk.bank.set_entries((keys, values), chunk.ring(place, environment))

    def clear_memory(self) -> None:
        """All agents forget all entries, of all environments."""
        for chunk in self._chunks:
            chunk.bank.clear()

    def optimizer_state(self, agent: int) -> dict[str, np.ndarray]:
        """An agent's state of Adam, as of a model: ``step.NAME``, ``mean.NAME``, ``square.NAME``."""
        chunk, place = self._of(agent)
        state = {}
        for name, parameter in chunk.parameters.items():
            updates = chunk.updates[name][place]
            if updates:
                adam = chunk.optimizer.state[parameter]
                state[f"step.{name}"] = np.full(len(parameter[place]), updates)
                state[f"mean.{name}"] = adam["exp_avg"][place].numpy().copy()
                state[f"square.{name}"] = adam["exp_avg_sq"][place].numpy().copy()
        return state

    def set_optimizer_state(self, state: dict[str, np.ndarray], agent: int) -> None:
        """Give an agent Adam's state as a model's ``optimizer_state`` gives it; ValueError if it does not fit.

        Agents that are run at once can train only if all of them have had equally many updates.
        """
        check_optimizer_state(self.config, state)
        if optimizer_of(state) == "rmsprop":
            raise ValueError(
                "Cohort: it trains with Adam, and cannot go on from the state of 'rmsprop'. Train the model by "
                "itself, or let its optimiser begin anew: model.set_optimizer_state({})."
            )
        chunk, place = self._of(agent)
        chunk.set_adam(place, state)

    # ---- passes over trials ------------------------------------------------------------------------------

    def train(
        self,
        trials: Any,
        *,
        learning_rate: float = 5e-4,
        gamma: float = 0.0,
        actions: Sequence[Any] | None = None,
        initial_states: Sequence[Any] | None = None,
        seed: int | Sequence[int] | None = None,
        loss: Loss = "actor_critic",
        entropy_weight: float = 0.0,
        value_weight: float = 1.0,
        unroll_steps: int | None = None,
        update: Update = "trial",
        through_memory: bool = False,
        people: Sequence[Any] | None = None,
        record: Record = "behavior",
        after_trial: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """Train every agent, with one step of Adam after each trial: ``eplstm.models.train`` for all of them.

        Args:
            trials: for all agents the same ``Trials``; or a list with each agent's own, which are ``Trials`` or,
                for several environments, a list of them. Equally many for each.
            learning_rate: Adam's.
            gamma, loss, entropy_weight, value_weight, unroll_steps, update, through_memory: as in ``train``.
            actions, initial_states, people: a list with each agent's own, in the form of ``train``.
            seed: for what is drawn: a list with each agent's, as it would be given to ``train``; or one number,
                from which agent p gets (seed, p).
            record: ``all`` keeps what a ``TrialRecord`` of a single model holds; ``behavior`` leaves the states
                (hidden, cell, memory, gates) out, as arrays without columns: with many agents they are large.
            after_trial: called with the number of trials done so far, counted over chunks of agents, and that of
                all of them (progress, or raising to stop: agents may then have trained unequally far).

        Returns:
            What ``train`` returns for each agent, in a list.

        Raises:
            ValueError: sizes or values do not fit.
        """
        check_rate(learning_rate)
        check_update(update)
        settings = LossSettings(loss, gamma, entropy_weight, value_weight, unroll_steps, through_memory)
        block = update == "block"
        return self._pass(
            trials, actions, initial_states, seed, record, settings, block, learning_rate, after_trial, people
        )

    def run_trials(
        self,
        trials: Any,
        *,
        actions: Sequence[Any] | None = None,
        initial_states: Sequence[Any] | None = None,
        seed: int | Sequence[int] | None = None,
        record: Record = "behavior",
    ) -> list[Any]:
        """Run every agent without learning; arguments and result as of ``train``."""
        return self._pass(trials, actions, initial_states, seed, record)

    def _pass(
        self,
        trials: Any,
        actions: Any,
        initial_states: Any,
        seed: Any,
        record: Record,
        settings: LossSettings | None = None,
        block: bool = False,
        learning_rate: float = 0.0,
        after_trial: Callable[[int], None] | None = None,
        people: Any = None,
    ) -> list[Any]:
        check_record(record)
        each = [trials] * len(self) if isinstance(trials, Trials) else list(trials)
        own_of_each = {"trials": each, "actions": actions, "initial_states": initial_states, "people": people}
        for name, given in own_of_each.items():
            if given is not None and len(given) != len(self):
                raise ValueError(f"{name}: needs an item for each of {len(self)} agents; got {len(given)}.")
        seeds = _seeds(seed, len(self))
        plans = []
        for p, own in enumerate(each):
            forced = (None if given is None else given[p] for given in (actions, initial_states))
            persons = None if people is None else people[p]
            if isinstance(own, Trials):
                (person,) = as_people(persons, 1, self.config)
                plans.append(plan_trials(self.config, own, *forced, seeds[p], person=person))
            else:
                plans.append(plan_environments(self.config, own, *forced, seeds[p], persons))
        sizes = {(plan.trials.inputs.shape[:2], plan.environments) for plan in plans}
        if len(sizes) > 1:
            raise ValueError(f"All agents need equally many trials, steps and environments; got {sorted(sizes)}.")
        if block:
            plans = [plan.in_one_update() for plan in plans]
        if settings is not None:
            for chunk in self._chunks:
                chunk.begin_training(learning_rate)
        done, records = 0, []
        for number, chunk in enumerate(self._chunks):
            own = plans[number * CHUNK : (number + 1) * CHUNK]
            outcome = _Outcome(own, self.config, record, number * CHUNK)
            rounds = _side_by_side(own, self.config)
            while of_update := list(itertools.islice(rounds, own[0].block)):
                with chunk.whole_or_nothing():
                    chunk.update(of_update, outcome, settings)
                done += 1
                if after_trial is not None:
                    after_trial(done)
            records += [
                found
                if isinstance(each[len(records) + p], Trials)
                else _by_environment(found, own[p].environments)
                for p, found in enumerate(outcome.records(learned=settings is not None))
            ]
        return records


def _by_environment(record: TrialRecord, environments: int) -> list[TrialRecord]:
    return [record.of_environment(e, environments) for e in range(environments)]


def _check_environment(environment: int) -> None:
    if environment < 0:
        raise IndexError(f"environment must be ≥ 0; got {environment!r}.")


def _seeds(seed: Any, agents: int) -> list[Any]:
    """Each agent's seed."""
    if seed is None:
        return [None] * agents
    if isinstance(seed, (int, np.integer)):
        return [(int(seed), p) for p in range(agents)]
    if len(seed) != agents:
        raise ValueError(f"seed: needs one number, or one for each of {agents} agents; got {len(seed)}.")
    return list(seed)


@dataclass(eq=False)
class _Plans:
    """What the plans of some agents hold for trials side by side: P agents, M trials of T steps."""

    inputs: np.ndarray
    """(P, M, T, D)"""
    encode: np.ndarray
    """(P, M, T), as those that follow."""
    retrieve: np.ndarray
    targets: np.ndarray
    luck: np.ndarray
    actions: np.ndarray
    """Forced actions, −1 where the agent chooses."""
    h0: np.ndarray
    """(P, M, H)"""
    c0: np.ndarray
    """(P, M, H)"""
    exists: np.ndarray
    asks: np.ndarray
    rewards: np.ndarray | None = None
    """(P, M, T, A); None: 1 for the target."""

    def outcome(self, policy: np.ndarray) -> Outcome:
        """What is done, given the policies (P, M, T, A), and what it earns."""
        action = np.where(self.actions < 0, draw(policy, self.luck, self.asks), self.actions)
        reward = earned(action, self.targets, self.rewards)
        return Outcome(action, self.targets, reward, self.exists)


def _side_by_side(plans: list[Plan], config: ModelConfig) -> Iterator[_Plans]:
    """Trial after trial, of all environments."""
    together, n_actions = plans[0].environments, config.n_actions
    of_trials = ["inputs", "encode", "retrieve", "targets", "exists", "asks"]
    seen = [plan.seen for plan in plans]
    pays, ragged = (any(getattr(p.trials, name) is not None for p in plans) for name in ("rewards", "lengths"))
    for start in range(0, len(plans[0].trials), STACKED * together):
        rows = slice(start, start + STACKED * together)
        stacked = {name: np.stack([getattr(each, name)[rows] for each in seen]) for name in of_trials} | {
            name: np.stack([getattr(plan, name)[rows] for plan in plans]) for name in ("luck", "h0", "c0")
        }
        stacked["actions"] = np.full(stacked["targets"].shape, -1)
        for p, plan in enumerate(plans):
            if plan.actions is not None:
                stacked["actions"][p] = plan.actions[rows]
        if pays:
            stacked["rewards"] = np.stack([plan.trials.payoffs(n_actions)[rows] for plan in plans])
        for first in range(0, stacked["h0"].shape[1], together):
            here = {name: array[:, first : first + together] for name, array in stacked.items()}
            if ragged:  # only as far as the longest
                steps = int(here["exists"].any((0, 1)).sum())
                here |= {name: a[:, :, :steps] for name, a in here.items() if name not in ("h0", "c0")}
            yield _Plans(**here)


class _Chunk:
    """Some agents of a cohort, whose weights lie side by side."""

    def __init__(self, config: ModelConfig, weights: list[dict[str, np.ndarray]]) -> None:
        self.config, self.agents, self.environments = config, len(weights), 1
        self.parameters = {
            name: torch.from_numpy(np.ascontiguousarray([w[name] for w in weights])).requires_grad_()
            for name in weight_shapes(config)
        }
        self.arrays = {name: parameter.detach().numpy() for name, parameter in self.parameters.items()}
        """The same numbers, (P, ...)."""
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), lr=0.0)
        self.updates = {name: np.zeros(self.agents) for name in self.parameters}
        """Adam's steps, by weight: (P,), of each agent."""
        self.bank = Bank((config.key_size, config.hidden_size), max(config.memory_capacity, 1), self.agents)
        if CAN_FUSE:
            for group in [self.optimizer.defaults, *self.optimizer.param_groups]:
                group["fused"] = True

    # ---- memories: ring p · E + e is that of agent p in environment e

    def ring(self, agent: int, environment: int) -> int:
        """Which ring of the bank is an agent's in an environment."""
        return agent * self.environments + environment

    def open(self, environments: int) -> None:
        """See that each agent has so many environments."""
        old = self.environments
        if environments > old:
            kept = [self.bank.entries(ring) for ring in range(len(self.bank))]
            self.environments = environments
            self.bank.open(self.agents * environments)
            self.bank.clear()
            for ring, entries in enumerate(kept):
                self.bank.set_entries(entries, self.ring(*divmod(ring, old)))

    def _memory(self, people: People, follows: bool) -> RingMemory | None:
        config = self.config
        if not config.memory_capacity:
            return None
        retrieval = Retrieval(config.kernel, config.retrieval, config.sharpness, config.ties)
        return RingMemory(
            self.bank,
            people.retrieval(retrieval),
            config.key_columns,
            agents=self.agents,
            key_scale=people.key_scale,
            repeated=config.repeated_key,
            follows=follows,
        )

    @contextmanager
    def whole_or_nothing(self) -> Iterator[None]:
        """After an error or an interruption, the memories are as they were before."""
        self.bank.begin_update()
        done = False
        try:
            yield
            done = True
        finally:
            self.bank.end_update(undo=not done)

    # ---- trials

    def update(self, rounds: list[_Plans], outcome: _Outcome, settings: LossSettings | None) -> None:
        """Rounds of one trial of every agent in each of its environments, and one update from all of them."""
        weights = Weights.of(self.arrays)
        self.open(rounds[0].h0.shape[1])
        memory = self._memory(outcome.people, follows=settings is not None and settings.through_memory)
        traces = [self._run(weights, plans, memory, outcome) for plans in rounds]
        done = [plans.outcome(trace.policy) for plans, trace in zip(rounds, traces, strict=True)]
        if settings is not None:
            trials, losses, slopes = sum(own.action.shape[1] for own in done), [], []
            for trace, own in zip(traces, done, strict=True):
                actor, critic, of_trace = losses_and_slopes(
                    trace.policy, trace.value, own, settings, trace.hidden, trace.cell
                )
                losses.append(np.stack([actor, critic], -1))
                slopes.append(list(vars(of_trace / trials if trials > 1 else of_trace).values()))
            found = backward_of_update(traces, slopes, memory, settings.unroll_steps)
            self._check(found, np.concatenate(losses, 1), outcome, settings)
            self._update(found)
            outcome.losses += losses
        for trace, own in zip(traces, done, strict=True):
            outcome.keep(trace, own)

    @staticmethod
    def _run(weights: Weights, plans: _Plans, memory: RingMemory | None, outcome: _Outcome) -> Trace:
        encode = plans.encode if plans.encode.any() else None
        stretches = None if encode is None or memory is None else stretches_between(encode, plans.retrieve)
        source = GivenTrials(plans.inputs, plans.retrieve, encode, stretches or [slice(0, plans.inputs.shape[2])])
        people, choices = outcome.people, outcome.choices
        choices.begin(plans.luck, plans.asks, plans.actions)
        drive, choosing = people.drive, people.choosing(choices)
        return run(weights, source, memory, plans.h0, plans.c0, drive=drive, choosing=choosing)

    def _check(self, found: Gradients, losses: np.ndarray, outcome: _Outcome, settings: LossSettings) -> None:
        """See that the updates of all agents are finite."""
        named = {name: g for name, g in vars(found).items() if isinstance(g, np.ndarray)}
        if np.isfinite(losses).all() and all(np.isfinite(g.sum()) for g in named.values()):
            return
        plan, first = outcome.plans[0], sum(part["action"].shape[1] for part in outcome.parts)
        together = range(first, first + losses.shape[1])
        for p in range(self.agents):
            wrong = [name for name, g in named.items() if not np.isfinite(g[p]).all()]
            if wrong or not np.isfinite(losses[p]).all():
                of = f" of agent {outcome.first_agent + p}"
                raise not_finite(losses[p], wrong, together, plan.environments, settings, of)

    def _update(self, found: Gradients) -> None:
        for name, parameter in self.parameters.items():
            gradient = found.bias if name in ("input_bias", "hidden_bias") else getattr(found, name)
            parameter.grad = None if gradient is None else torch.from_numpy(gradient)
            self.updates[name] += gradient is not None
        self._steps.step()

    def set_adam(self, place: int, state: dict[str, np.ndarray]) -> None:
        """One agent's state; that of weights which it does not name is that before training."""
        for name, parameter in self.parameters.items():
            updates = float(np.max(state.get(f"step.{name}", 0.0)))
            adam = self.optimizer.state[parameter]
            if not adam:
                adam["step"] = torch.tensor(0.0, dtype=torch.float32)
                adam["exp_avg"], adam["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            self.updates[name][place] = updates
            for part, kind in (("exp_avg", "mean"), ("exp_avg_sq", "square")):
                values = state[f"{kind}.{name}"] if updates else np.zeros(parameter.shape[1:])
                adam[part][place] = torch.from_numpy(np.asarray(values, dtype=float))

    def begin_training(self, rate: float) -> None:
        """Prepare Adam, which counts the updates of all agents as one number. Raises ValueError if it cannot."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._steps = Steps(self.optimizer)
        for name, parameter in self.parameters.items():
            counts = sorted({int(n) for n in self.updates[name]})
            if len(counts) > 1:
                raise ValueError(
                    f"Cohort: agents that train together must have had equally many updates; those of {name} are "
                    f"{counts}. Make cohorts of agents that are equally far."
                )
            if parameter in self.optimizer.state:
                self.optimizer.state[parameter]["step"].fill_(counts[0])


class _Outcome:
    """What happens on the trials of some agents."""

    def __init__(self, plans: list[Plan], config: ModelConfig, record: Record, first_agent: int) -> None:
        self.plans, self.config, self.record, self.first_agent = plans, config, record, first_agent
        self.people = People([plan.people for plan in plans], config)
        self.choices = ChoicesOfTrials((len(plans), plans[0].environments))
        self.parts: list[dict[str, np.ndarray]] = []
        """One a trial, arrays (P, M, T, ...)."""
        self.losses: list[np.ndarray] = []
        """One a trial, (P, M, 2)."""

    def keep(self, trace: Trace, done: Outcome) -> None:
        """Keep one trial."""
        part = {"policy": trace.policy, "value": trace.value, "action": done.action, "reward": done.reward}
        if self.record == "all":
            gates = trace.gates[..., :4, :]
            part |= {"hidden": trace.hidden, "cell": trace.cell, "memory": trace.memory, "gates": gates}
        self.parts.append(part)

    def records(self, learned: bool) -> list[TrialRecord]:
        """One an agent, of n trials in the order of its plan."""
        return [
            build_record(
                self.config,
                plan,
                [{name: array[p] for name, array in part.items()} for part in self.parts],
                [losses[p] for losses in self.losses] if learned else None,
            )
            for p, plan in enumerate(self.plans)
        ]
