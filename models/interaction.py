"""The environment in the loop: episodes that come about as the agent acts, for both models and all their paths.

``Interaction`` stands between a model and M parallel worlds of a task (``eplstm.tasks.Worlds``). At each step a
model asks it what the worlds show, and gives it the policy; it draws the actions, by numbers that were drawn
beforehand, lets the worlds move on, and keeps what happened. So the same seeds give both models, on each of their
paths, the same draws, and equal policies lead through equal episodes.

An *episode* is a trial of T steps, at whose start the recurrent state is new. An *epoch* is what lies between two
clearings of the memory. In the arrays, row k · M + e is episode k of world e.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tasks.environment import is_whole
from ..tasks.trials import Trials, concatenate
from .config import ModelConfig
from .records import TrialPlan, TrialRecord, choose, plan_environments

if TYPE_CHECKING:
    from ..tasks.environment import Worlds


class Interaction:
    """Episodes of M worlds, one after the other, within an epoch or through several.

    Args:
        worlds: at the beginning of an epoch, or between two episodes of it.
        plan: of so many episodes, their initial states, the numbers that decide choices, or forced actions.
        epoch: episodes after which another epoch begins.
        forget: called when it does, to clear the model's memory.
    """

    def __init__(self, worlds: Worlds, plan: TrialPlan, epoch: int, forget: Callable[[], object]) -> None:
        self.worlds, self._plan = worlds, plan
        self._epoch, self._forget = epoch, forget
        n, length = plan.trials.targets.shape
        self.length = length
        self.inputs_seen = np.zeros(plan.trials.inputs.shape)
        self.encoded, self.retrieved = np.zeros((2, n, length), bool)
        self.action, self.reward = np.zeros((n, length), np.int64), np.zeros((n, length))
        self.context, self.exposure = np.zeros((2, n), np.int64)
        self.facts: dict[str, np.ndarray] = {}
        self._rows, self._step = slice(0, 0), 0

    # ---- what a model asks for

    @property
    def inputs(self) -> np.ndarray:
        """x_t of the worlds, (M, D)."""
        return self.worlds.inputs

    @property
    def retrieve(self) -> np.ndarray:
        """(M,) bool: whether the memory is read at this step."""
        return self.worlds.retrieve & self.worlds.reads

    @property
    def encode(self) -> np.ndarray:
        """(M,) bool: whether (key, c_t) is stored at this step."""
        return self.worlds.encode & self.worlds.stores

    @property
    def at_last_step(self) -> bool:
        """Whether the present step is the last of its episode."""
        return self._step == self.length - 1

    def begin(self, first: int) -> None:
        """Begin the next episode of all worlds, where due that of another epoch: rows first ... first + M − 1."""
        episode = first // self.worlds.n
        if episode and episode % self._epoch == 0:
            self.worlds.begin_epoch()
            self._forget()
        self.worlds.begin_episode()
        self._rows, self._step = slice(first, first + self.worlds.n), 0
        self.context[self._rows], self.exposure[self._rows] = self.worlds.context, self.worlds.exposure
        self._see()

    def act(self, policy: np.ndarray) -> None:
        """Draw an action for each world from the policies (M, A), and go on to the next step."""
        rows, t = self._rows, self._step
        plan = self._plan
        action = choose(policy, plan.luck[rows, t]) if plan.actions is None else plan.actions[rows, t]
        self.action[rows, t] = action
        self.reward[rows, t] = self.worlds.act(action)
        for name, values in self.worlds.facts().items():
            if name not in self.facts:
                self.facts[name] = np.zeros((len(self.action), self.length), np.asarray(values).dtype)
            self.facts[name][rows, t] = values
        self._step += 1
        if self._step < self.length:
            self._see()

    def _see(self) -> None:
        rows, t = self._rows, self._step
        self.inputs_seen[rows, t] = self.inputs
        self.encoded[rows, t], self.retrieved[rows, t] = self.encode, self.retrieve

    # ---- what has happened

    def trials(self) -> Trials:
        """The episodes as trials, with what the agent saw; targets are the actions it took."""
        return Trials(
            self.inputs_seen,
            self.action,
            self.encoded,
            self.retrieved,
            context=self.context,
            encounter=self.exposure,
        )


@dataclass(eq=False)
class EpisodeRecord(TrialRecord):
    """All that happened in n episodes of T steps: a ``TrialRecord``, and what the worlds say of them.

    Row k · M + e is episode k of world e; ``of_environment`` takes those of one world.
    """

    trials: Trials | None = None
    """What was seen, stored and retrieved: ``inputs`` (n, T, D), ``encode``, ``retrieve``, ``context``, and
    ``encounter``, the exposure. Run again with ``actions`` of this record, they give the same."""
    facts: dict[str, np.ndarray] = field(default_factory=dict)
    """What the task tells of each step, by name, each (n, T)."""
    worlds: int = 1
    """M"""

    def by_world(self) -> dict[str, np.ndarray]:
        """The facts in the form of ``eplstm.tasks.play``, which the analyses of the tasks take.

        Each (episodes, M, T); and ``context`` and ``exposure`` of each episode, (episodes, M).
        """
        assert self.trials is not None
        found: dict[str, np.ndarray] = {
            name: values.reshape(-1, self.worlds, values.shape[1]) for name, values in self.facts.items()
        }
        for name, values in (("context", self.trials.context), ("exposure", self.trials.encounter)):
            assert values is not None
            found[name] = values.reshape(-1, self.worlds)
        return found

    def of_environment(self, environment: int, environments: int) -> EpisodeRecord:
        """The episodes of one of the worlds."""
        rows = slice(environment, None, environments)
        cut = super().of_environment(environment, environments)
        facts = {name: values[rows] for name, values in self.facts.items()}
        trials = None if self.trials is None else self.trials[rows]
        return replace(cut, trials=trials, facts=facts, worlds=1)  # type: ignore[call-arg, return-value]

    @staticmethod
    def concatenate(records: list[TrialRecord]) -> EpisodeRecord:
        """One record of all episodes, in order."""
        episodes = [record for record in records if isinstance(record, EpisodeRecord)]
        whole = TrialRecord.concatenate(records)
        of_trials = {f.name: getattr(whole, f.name) for f in fields(TrialRecord)}
        seen = [record.trials for record in episodes if record.trials is not None]
        facts = {name: np.concatenate([r.facts[name] for r in episodes]) for name in episodes[0].facts}
        trials = concatenate(seen) if len(seen) == len(records) else None
        return EpisodeRecord(**of_trials, trials=trials, facts=facts, worlds=episodes[0].worlds)

    @classmethod
    def of(cls, record: TrialRecord, interaction: Interaction) -> EpisodeRecord:
        """A record of trials with what the worlds say of them."""
        of_trials = {f.name: getattr(record, f.name) for f in fields(TrialRecord)}
        worlds = interaction.worlds.n
        return cls(**of_trials, trials=interaction.trials(), facts=interaction.facts, worlds=worlds)


def plan_episodes(
    config: ModelConfig,
    worlds: Worlds,
    episodes: int,
    actions: np.ndarray | None = None,
    seed: int | Sequence[int] | None = None,
    epochs: int = 1,
    forget: Callable[[], object] = lambda: None,
) -> TrialPlan:
    """A plan of episodes in the loop.

    Args:
        config: the model's sizes.
        worlds: M worlds of a task.
        episodes: of each world, of the present epoch, and of each that follows.
        actions: (epochs · episodes · M, T) forced choices, in the order of the rows.
        seed: for initial states and choices; world e draws from the seed (seed, e).
        epochs: the present one, and those that follow.
        forget: clears the model's memory, where another epoch begins.

    Raises:
        ValueError: model and task do not fit each other, the epoch has not so many episodes left, or there is no
            epoch.
    """
    task = worlds.task
    for what, of_task, of_model in (
        ("input columns", task.input_size, config.input_size),
        ("actions", task.n_actions, config.n_actions),
    ):
        if of_task != of_model:
            raise ValueError(
                f"The worlds have {of_task} {what}, the model {of_model}: make the model with "
                "ModelConfig(input_size=task.input_size, n_actions=task.n_actions, key=task.key_columns, ...)."
            )
    left = task.episodes - (0 if worlds.episode is None else worlds.episode + 1)
    if not 1 <= episodes <= left:
        raise ValueError(f"episodes must lie between 1 and the {left} that the epoch has left; got {episodes}.")
    if not is_whole(epochs) or epochs < 1:
        raise ValueError(f"epochs must be a whole number ≥ 1; got {epochs!r}.")
    shape = (epochs * episodes, task.length)
    blank = Trials(np.zeros((*shape, task.input_size)), np.zeros(shape, int), np.zeros(shape, bool))
    forced = None
    if actions is not None:
        actions = np.asarray(actions)
        expected = (epochs * episodes * worlds.n, task.length)
        if actions.shape != expected:
            rows = "episodes · M" if epochs == 1 else "epochs · episodes · M"
            raise ValueError(f"actions must have the shape ({rows}, T) = {expected}; got {actions.shape}.")
        forced = [actions[e :: worlds.n] for e in range(worlds.n)]
    plan = plan_environments(config, [blank] * worlds.n, forced, seed=seed)
    return replace(plan, interaction=Interaction(worlds, plan, episodes, forget))


def check_one_world(worlds: Any, method: str) -> None:
    """Raise ValueError if there are several worlds where only one can be run."""
    if worlds.n != 1:
        raise ValueError(
            f"{method} runs one world at a time, as PsyNeuLink's run() does; got {worlds.n}. Make one, "
            "task.worlds([rng]), or use simulate_episodes()."
        )
