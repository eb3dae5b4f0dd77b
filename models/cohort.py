"""Cohorts: many agents with weights of their own, run and trained together.

The agents of a cohort share a configuration; weights, memories, optimiser and trials are each agent's own. What
comes out is what each agent would give alone (float64), for a small part of the time: NumPy's and PyTorch's calls
are paid once for many agents. ``Cohort.from_models`` takes the agents of compositions or references, and
``Cohort.agent`` gives one back as such.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from ..tasks.environment import Worlds
from ..tasks.trials import Trials
from .cohort_chunk import Chunk, Happened
from .cohort_rounds import rounds_of
from .config import ModelConfig
from .losses import Loss, LossSettings
from .optimizers import OptimizerName
from .people import as_people
from .plans import Plan, Update, plan_environments, plan_trials
from .plans_in_loop import plan_episodes_of_agents
from .records import EpisodeRecord, Record, TrialRecord, check_record
from .training import check_loop_training, check_training
from .weights import check_memory, check_optimizer_state, check_weights, initial_weights

CHUNK = 64
"""Agents that are run at once: they share the cost of calls, and the cache still holds much of them."""

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
            Chunk(config, [initial_weights(config, seed) for seed in seeds[start : start + CHUNK]])
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
        self.copy_to(model, agent)
        return model

    def copy_to(self, model: Any, agent: int) -> None:
        """Give a composition or a reference the weights, the optimiser's state and the memories of an agent."""
        model.set_weights(self.weights(agent))
        model.set_optimizer_state(self.optimizer_state(agent))
        model.clear_memory()
        for environment in range(self.environments):
            model.set_memory(*self.memory(agent, environment), environment=environment)

    def __len__(self) -> int:
        return self._size

    # ---- one agent's state -------------------------------------------------------------------------------

    def _of(self, agent: int) -> tuple[Chunk, int]:
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
        """An agent's state of the optimiser, as of a model: ``step.NAME``, ``square.NAME`` and, of Adam,
        ``mean.NAME``."""
        chunk, place = self._of(agent)
        return chunk.state(place)

    def set_optimizer_state(self, state: dict[str, np.ndarray], agent: int) -> None:
        """Give an agent the state of an optimiser, as a model's ``optimizer_state`` gives it; {}: begin anew.

        Agents that are run at once can train only if all of them have had equally many updates.

        Raises:
            ValueError: it does not fit, or it is of another optimiser than that of other agents.
        """
        check_optimizer_state(self.config, state)
        chunk, place = self._of(agent)
        chunk.set_state(place, state)

    # ---- trials ------------------------------------------------------------------------------------------

    def train(
        self,
        trials: Any,
        *,
        learning_rate: float = 5e-4,
        gamma: float = 0.0,
        actions: Sequence[Any] | None = None,
        initial_states: Sequence[Any] | None = None,
        seed: int | Sequence[Any] | None = None,
        loss: Loss = "actor_critic",
        entropy_weight: float = 0.0,
        value_weight: float = 1.0,
        unroll_steps: int | None = None,
        update: Update = "trial",
        through_memory: bool = False,
        people: Sequence[Any] | None = None,
        optimizer: OptimizerName = "adam",
        record: Record = "behavior",
        after_trial: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """Train every agent, with one step of the optimiser after each trial: ``eplstm.models.train`` for all.

        Args:
            trials: for all agents the same ``Trials``; or a list with each agent's own, which are ``Trials`` or,
                for several environments, a list of them. Equally many for each.
            learning_rate: the optimiser's.
            gamma, loss, entropy_weight, value_weight, unroll_steps, update, through_memory, optimizer: as in
                ``train``.
            actions, initial_states, people: a list with each agent's own, in the form of ``train``.
            seed: for what is drawn: a list with each agent's, as it would be given to ``train``; or one number,
                from which agent p gets (seed, p).
            record: ``all`` keeps what a ``TrialRecord`` of a single model holds; ``behavior`` leaves the states
                (hidden, cell, memory, gates, what was retrieved) out, as arrays without columns: with many agents
                they are large.
            after_trial: called with the number of updates done so far, counted over chunks of agents, and that of
                all of them (progress, or raising to stop: agents may then have trained unequally far).

        Returns:
            What ``train`` returns for each agent, in a list.

        Raises:
            NotFinite: an agent's update would not be finite: that of no agent is made.
            ValueError: sizes or values do not fit.
        """
        check_training(learning_rate, optimizer, record, update)
        settings = LossSettings(loss, gamma, entropy_weight, value_weight, unroll_steps, through_memory)
        plans, by_environment = self._plans(trials, actions, initial_states, seed, people)
        if update == "block":
            plans = [plan.in_one_update() for plan in plans]
        self._begin_training(optimizer, learning_rate)
        records = self._go_through(plans, record, settings, None, after_trial)
        return _split(records, plans, by_environment)

    def run_trials(
        self,
        trials: Any,
        *,
        actions: Sequence[Any] | None = None,
        initial_states: Sequence[Any] | None = None,
        seed: int | Sequence[Any] | None = None,
        record: Record = "behavior",
    ) -> list[Any]:
        """Run every agent without learning; arguments and result as of ``train``."""
        check_record(record)
        plans, by_environment = self._plans(trials, actions, initial_states, seed)
        return _split(self._go_through(plans, record), plans, by_environment)

    # ---- the environment in the loop ---------------------------------------------------------------------

    def train_episodes(
        self,
        worlds: Worlds,
        episodes: int,
        *,
        epochs: int = 1,
        learning_rate: float = 1e-3,
        gamma: float = 0.9,
        entropy_weight: float = 0.05,
        value_weight: float = 0.5,
        unroll_steps: int | None = None,
        update: Update = "trial",
        through_memory: bool = False,
        max_gradient_norm: float | None = None,
        people: Sequence[Any] | None = None,
        actions: Sequence[np.ndarray] | None = None,
        seed: int | Sequence[Any] | None = None,
        loss: Loss = "actor_critic",
        optimizer: OptimizerName = "adam",
        record: Record = "behavior",
        after_episode: Callable[[int], None] | None = None,
    ) -> list[EpisodeRecord]:
        """Train every agent in worlds of its own: ``eplstm.models.train_episodes`` for all of them, in lockstep.

        Args:
            worlds: P · M worlds of a task, made in one call: agent p acts in worlds p · M to p · M + M − 1. A
                world depends on its generator alone, so that these are what M worlds made for the agent would be.
            max_gradient_norm: the gradients of each agent are scaled down to this norm.
            people, actions, seed, record: as in ``train``.
            after_episode: called with the number of the update, from 0.
            episodes, epochs, learning_rate, gamma, entropy_weight, value_weight, unroll_steps, update,
                through_memory, loss, optimizer: as in ``train_episodes``. A learning rate or an entropy bonus that
                falls is given anew in each call.

        Returns:
            What ``train_episodes`` returns for each agent, in a list.

        Raises:
            NotFinite: as in ``train``.
            ValueError: as in ``train_episodes``, or the cohort is too large to run in lockstep.
        """
        check_training(learning_rate, optimizer, record, update)
        check_loop_training(loss, max_gradient_norm)
        settings = LossSettings(loss, gamma, entropy_weight, value_weight, unroll_steps, through_memory)
        plans = self._plans_in_loop(worlds, episodes, actions, seed, epochs, people)
        if update == "block":
            plans = [plan.in_one_update(epochs) for plan in plans]
        self._begin_training(optimizer, learning_rate)
        after = None if after_episode is None else lambda done: after_episode(done - 1)
        return self._go_through(plans, record, settings, max_gradient_norm, after)  # type: ignore[return-value]

    def run_episodes(
        self,
        worlds: Worlds,
        episodes: int,
        *,
        actions: Sequence[np.ndarray] | None = None,
        seed: int | Sequence[Any] | None = None,
        record: Record = "behavior",
    ) -> list[EpisodeRecord]:
        """Run every agent through the next episodes of its worlds without learning; see ``train_episodes``."""
        check_record(record)
        plans = self._plans_in_loop(worlds, episodes, actions, seed)
        return self._go_through(plans, record)  # type: ignore[return-value]

    # ---- what these have in common -----------------------------------------------------------------------

    def _plans(
        self, trials: Any, actions: Any, initial_states: Any, seed: Any, people: Any = None
    ) -> tuple[list[Plan], list[bool]]:
        """Each agent's plan, and whether its record is to come by environment."""
        each = [trials] * len(self) if isinstance(trials, Trials) else list(trials)
        own_of_each = {"trials": each, "actions": actions, "initial_states": initial_states, "people": people}
        for name, given in own_of_each.items():
            self._check_each(name, given)
        seeds = _seeds(seed, len(self))
        plans = []
        for p, own in enumerate(each):
            forced, states, persons = (None if g is None else g[p] for g in (actions, initial_states, people))
            if isinstance(own, Trials):
                (person,) = as_people(persons, 1, self.config)
                plans.append(plan_trials(self.config, own, forced, states, seeds[p], person=person))
            else:
                plans.append(plan_environments(self.config, own, forced, states, seeds[p], persons))
        sizes = {(plan.trials.inputs.shape[:2], plan.environments) for plan in plans}
        if len(sizes) > 1:
            raise ValueError(f"All agents need equally many trials, steps and environments; got {sorted(sizes)}.")
        return plans, [not isinstance(own, Trials) for own in each]

    def _plans_in_loop(
        self, worlds: Worlds, episodes: int, actions: Any, seed: Any, epochs: int = 1, people: Any = None
    ) -> list[Plan]:
        if len(self._chunks) > 1:
            raise ValueError(
                f"Cohort: at most {CHUNK} agents can act in worlds, in lockstep; it has {len(self)}. Make cohorts "
                f"of {CHUNK} agents or fewer."
            )
        for name, given in (("actions", actions), ("people", people)):
            self._check_each(name, given)
        seeds, forget = _seeds(seed, len(self)), self.clear_memory
        return plan_episodes_of_agents(self.config, worlds, episodes, actions, seeds, epochs, forget, people)

    def _check_each(self, name: str, given: Sequence[Any] | None) -> None:
        if given is not None and len(given) != len(self):
            raise ValueError(f"{name}: needs an item for each of {len(self)} agents; got {len(given)}.")

    def _begin_training(self, optimizer: OptimizerName, learning_rate: float) -> None:
        for chunk in self._chunks:
            chunk.begin_training(optimizer, learning_rate)

    def _go_through(
        self,
        plans: list[Plan],
        record: Record,
        settings: LossSettings | None = None,
        max_gradient_norm: float | None = None,
        after_update: Callable[[int], None] | None = None,
    ) -> list[TrialRecord]:
        """Round after round of all plans, with updates where there are settings of a loss."""
        done, records = 0, []
        for number, chunk in enumerate(self._chunks):
            own = plans[number * CHUNK : (number + 1) * CHUNK]
            happened = Happened(own, self.config, record, number * CHUNK, chunk.bank.new_record())
            rounds = rounds_of(own, self.config)
            while of_update := list(itertools.islice(rounds, own[0].block)):
                with chunk.whole_or_nothing():
                    chunk.update(of_update, happened, settings, max_gradient_norm)
                done += 1
                if after_update is not None:
                    after_update(done)
            records += happened.records(learned=settings is not None)
        return records


def _split(records: list[TrialRecord], plans: list[Plan], by_environment: list[bool]) -> list[Any]:
    """The records, where asked for by environment."""
    return [
        [record.of_environment(e, plan.environments) for e in range(plan.environments)] if asked else record
        for record, plan, asked in zip(records, plans, by_environment, strict=True)
    ]


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
