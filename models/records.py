"""What happened on trials or in episodes: the records that all models give, and the one way in which they are
built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..tasks.trials import Trials, concatenate
from .choices import NO_CHOICE
from .config import ModelConfig
from .frames import choice_columns, fact_columns, frame_of_steps, retrieved_columns, state_columns
from .plans import Plan
from .weights import weight_shapes

if TYPE_CHECKING:
    import pandas as pd

Record = Literal["all", "behavior"]
"""What a record holds: all; or without the states (hidden, cell, memory, gates, what was retrieved), which have no
columns then."""
RETRIEVED = ("retrieved_entry", "retrieved_trial", "retrieved_weight")
STATES = ("hidden", "cell", "memory", "gates", *RETRIEVED)
BEYOND = {"action": NO_CHOICE, "reward": 0, "retrieved_entry": -1, "retrieved_trial": -1}
"""What stands beyond the end of a trial; NaN elsewhere."""


def check_record(record: str) -> None:
    """Raise ValueError unless it is one of ``Record``."""
    if record not in get_args(Record):
        raise ValueError(f"record must be 'all' or 'behavior'; got {record!r}.")


@dataclass(eq=False)
class TrialRecord:
    """All that happened on n trials of T steps, with A actions and H hidden units."""

    policy: np.ndarray
    """(n, T, A): probability of each choice, p_t (of a trained agent, π_t)."""
    value: np.ndarray
    """(n, T): the critic's estimate, v_t."""
    action: np.ndarray
    """(n, T) int: the action taken; -1 where no answer is asked for, or the forced actions say that no choice was
    made."""
    reward: np.ndarray
    """(n, T): what the action earns: 1 where it is the target, else 0, or what the trials' ``rewards`` say; 0
    where no choice was made. In the loop, the worlds'."""
    hidden: np.ndarray
    """(n, T, H): h_t."""
    cell: np.ndarray
    """(n, T, H): c_t."""
    memory: np.ndarray
    """(n, T, H): m_t, after the tanh; zeros where nothing was retrieved."""
    gates: np.ndarray
    """(n, T, 4, H): f_t, i_t, o_t, r_t."""
    policy_loss: np.ndarray | None = None
    """(n,): the actor's loss, or the whole of another loss; only from training."""
    value_loss: np.ndarray | None = None
    """(n,): the critic's loss; zeros under another loss than actor-critic; only from training."""
    gradients: dict[str, np.ndarray] | None = None
    """The keys of ``weights()``, each (n, ...): gradients of each trial's loss; only if asked for."""
    lengths: np.ndarray | None = None
    """(n,) int: steps of each trial; None: T. Beyond them there is nothing: NaN, action -1, reward 0, entry and
    trial -1."""
    retrieved_entry: np.ndarray | None = None
    """(n, T) int: the entry that was retrieved, or of an average that of largest weight (of equal ones, to within
    rounding, the oldest), by its number among the entries that the memory had at that moment, oldest first, as
    ``memory()`` shows them. -1 where nothing was retrieved.

    It is that of the agent's own memory, as it was found while the trials were run. Where this cannot be told, in
    a graph that was changed (the agent's memory is another function, or is not executed once a step), entry and
    trial are -1, and the weight NaN. None: the record was made without."""
    retrieved_trial: np.ndarray | None = None
    """(n, T) int: the row of this record whose trial has stored that entry, or written it anew; -1 where nothing
    was retrieved, and where the entry was there before this record's first trial."""
    retrieved_weight: np.ndarray | None = None
    """(n, T): the entry's weight: 1 for the nearest, 0 where nothing was retrieved."""

    @property
    def exists(self) -> np.ndarray:
        """(n, T) bool: the steps that are not beyond the end of their trial."""
        n, steps = self.action.shape
        return np.ones((n, steps), bool) if self.lengths is None else np.arange(steps) < self.lengths[:, None]

    def __len__(self) -> int:
        return len(self.action)

    def of_environment(self, environment: int, environments: int) -> TrialRecord:
        """The trials of one of several environments that take turns; gradients, of all together, stay.

        Row k · M + e is row k of the environment's own record, also as a ``retrieved_trial``.
        """
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        rows = slice(environment, None, environments)
        cut: dict[str, Any] = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in parts.items()}
        if (trial := cut["retrieved_trial"]) is not None:
            cut["retrieved_trial"] = np.where(trial < 0, -1, trial // environments)
        return replace(self, **cut)

    @staticmethod
    def concatenate(records: list[TrialRecord]) -> TrialRecord:
        """One record of all trials, in order; fields that one of the records lacks are left out.

        ``retrieved_trial`` gives rows of the new record; what one record has stored and a later one retrieved is,
        as in the latter, -1.
        """
        if not records:
            raise ValueError("TrialRecord.concatenate: needs at least one record; got none.")
        joined = {}
        for f in fields(TrialRecord):
            parts = [getattr(record, f.name) for record in records]
            if f.name == "lengths" and any(part is not None for part in parts):
                parts = [record.exists.sum(1) for record in records]
            if f.name == "retrieved_trial" and all(part is not None for part in parts):
                first = np.cumsum([0, *map(len, records)])
                parts = [np.where(p < 0, -1, p + row) for p, row in zip(parts, first, strict=False)]
            if any(part is None for part in parts):
                joined[f.name] = None
            elif isinstance(parts[0], dict):
                joined[f.name] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            else:
                joined[f.name] = np.concatenate(parts)
        return TrialRecord(**joined)

    def to_frame(self, trials: Trials | None = None, participant: Any = None, block: Any = None) -> pd.DataFrame:
        """A table of what happened, one row a step that exists: regressors for EEG, fMRI or pupil.

        Columns, in this order:

        * ``participant`` and ``block``, where given; ``trial``, the row of the record, and ``step``, both from 0;
          ``context`` and ``encounter``, where the trials have them;
        * ``action`` and ``reward``; ``policy_chosen``, the probability of the action taken (NaN where there was
          none), and ``entropy`` of the policy, in nats, Σ_a −p_t(a) log p_t(a); ``value``;
        * of a record with states, ``forget_gate``, ``input_gate``, ``output_gate`` and ``reinstatement_gate``,
          means over units; ``reinstated``, the Euclidean norm of r_t ∘ m_t; ``retrieved_entry``,
          ``retrieved_trial``, ``retrieved_weight``; and ``lag``, ``trial`` − ``retrieved_trial``: 0 for an entry
          of the same trial. Entry or trial is NaN where it is -1 in the record, as is the lag then, so that
          regressions leave it out;
        * from training, ``policy_loss`` and ``value_loss`` of the whole trial, repeated at each of its steps.

        Trials of several environments that take turns are counted together: take those of one with
        ``of_environment`` first. Of episodes, ``trial`` and ``retrieved_trial`` count those of their own world.
        There are further columns: ``world``, from 0, after the step; and after the encounter the facts that the
        task tells, by their names (with ``task_`` in front where another column has that name; the record's
        ``action`` and ``reward`` stand for the task's).

        Args:
            trials: those that were run, for ``context`` and ``encounter``; an ``EpisodeRecord`` has its own.
            participant, block: one value, or one for each trial.

        Raises:
            ValueError: the trials are not those of the record, or a length does not fit.
        """
        together, about, facts = self._about(trials)
        number = np.arange(len(self)) // together
        step = np.broadcast_to(np.arange(self.action.shape[1]), self.action.shape)
        happened = {"action": self.action, "reward": self.reward, **choice_columns(self.policy, self.action)}
        happened["value"] = self.value
        if self.gates.shape[-1]:
            happened |= state_columns(self.gates, self.memory)
            entry, trial, weight = (getattr(self, name) for name in RETRIEVED)
            if not any(array is None for array in (entry, trial, weight)):
                stored_by = np.where(trial < 0, -1, trial // together)
                happened |= retrieved_columns(number, entry, stored_by, weight)
        happened |= {"policy_loss": self.policy_loss, "value_loss": self.value_loss}
        about = {"participant": participant, "block": block, "trial": number, "step": step, **about}
        return frame_of_steps(self.exists, {**about, **fact_columns(facts, {*about, *happened}), **happened})

    def _about(self, trials: Trials | None) -> tuple[int, dict[str, Any], dict[str, np.ndarray]]:
        """Of a table: how many rows of the record stand side by side, what is known of each, and facts."""
        if trials is None:
            return 1, {}, {}
        if not np.array_equal(trials.exists, self.exists):
            raise ValueError(
                f"to_frame: the record is of (n, T) = {self.exists.shape}, {self.exists.sum()} steps in all; the "
                f"trials are {trials.exists.shape}, {trials.exists.sum()}, or others. Give those that were run."
            )
        return 1, {"context": trials.context, "encounter": trials.encounter}, {}


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

    def _about(self, trials: Trials | None) -> tuple[int, dict[str, Any], dict[str, np.ndarray]]:
        _, about, _ = super()._about(self.trials if trials is None else trials)
        return self.worlds, {"world": np.arange(len(self)) % self.worlds, **about}, self.facts

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


def build_record(
    config: ModelConfig,
    plan: Plan,
    parts: Sequence[Mapping[str, np.ndarray]],
    losses: Sequence[np.ndarray] | None = None,
    gradients: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> TrialRecord:
    """A record of what happened so far, of all models and paths.

    Args:
        config: the model's sizes.
        plan: what was to happen.
        parts: what did, in order: ``policy`` (B, T, A), ``value``, ``action`` and ``reward`` (B, T), and with the
            states ``hidden``, ``cell``, ``memory`` (B, T, H), ``gates`` (B, T, 4, H), ``retrieved_entry``,
            ``retrieved_trial`` and ``retrieved_weight`` (B, T). Of the states all or none. T need only be that of
            the longest trial in a part.
        losses: from training, the actor's and the critic's of each part, (B, 2).
        gradients: of each update, by the names of the weights.

    Returns:
        A ``TrialRecord``; an ``EpisodeRecord`` where the environment was in the loop.
    """
    size = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"policy": (config.n_actions,), "value": (), "action": (), "reward": ()}
    shapes |= {"hidden": (size,), "cell": (size,), "memory": (size,), "gates": (4, size)}
    shapes |= {name: () for name in RETRIEVED}
    if parts and "hidden" not in parts[0]:
        shapes |= {name: (0,) for name in STATES} | {"gates": (4, 0)}
    arrays: dict[str, Any] = {}
    n = sum(len(part["action"]) for part in parts)
    exists = plan.trials.exists[:n]
    for name, shape in shapes.items():
        found = [part[name] for part in parts if name in part]
        arrays[name] = _joined(found, exists, shape, BEYOND.get(name, np.nan))
    for name in ("action", "retrieved_entry", "retrieved_trial"):
        arrays[name] = arrays[name].astype(np.int64, copy=False)
    arrays["lengths"] = None if plan.trials.lengths is None else plan.trials.lengths[:n]
    if losses is not None:
        arrays["policy_loss"], arrays["value_loss"] = np.concatenate([*losses, np.empty((0, 2))]).T
    if gradients is not None:
        arrays["gradients"] = {
            name: np.array([g[name] for g in gradients]).reshape(-1, *of_weight)
            for name, of_weight in weight_shapes(config).items()
        }
    if plan.interaction is None:
        return TrialRecord(**arrays)
    interaction, agent = plan.interaction, plan.agent
    facts = {name: values[agent, :n] for name, values in interaction.facts.items()}
    trials, worlds = interaction.trials(agent)[:n], plan.environments
    return EpisodeRecord(**arrays, trials=trials, facts=facts, worlds=worlds)


def _joined(parts: Sequence[np.ndarray], exists: np.ndarray, shape: tuple[int, ...], beyond: float) -> np.ndarray:
    """Parts (B, T, ...), whose T need only be that of the longest trial → (n, T, ...), with a filling beyond the
    end of each trial."""
    n, steps = exists.shape
    if exists.all() and parts:
        return np.concatenate([np.reshape(part, (-1, steps, *shape)) for part in parts])
    whole, start = np.full((n, steps, *shape), beyond, float), 0
    for part in parts:
        whole[start : start + len(part), : part.shape[1]] = np.reshape(part, (*part.shape[:2], *shape))
        start += len(part)
    whole[~exists] = beyond
    return whole
