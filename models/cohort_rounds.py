"""What agents of a cohort do side by side: rounds of a trial or an episode of each, in all its environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..tasks.trials import earned
from .choices import Choices, ChoicesOfTrials, draw
from .config import ModelConfig
from .losses import Outcome
from .plans import Plan
from .source import GivenTrials, Interaction, Source, stretches_between

STACKED = 16
"""Rounds whose trials are laid side by side at once."""


class Round(Protocol):
    """One trial or episode of each of P agents in M environments."""

    first: int
    """They are rows first ... first + M − 1 of each agent's plan."""
    h0: np.ndarray
    """(P, M, H)"""
    c0: np.ndarray
    """(P, M, H)"""

    def begin(self, has_memory: bool, choices: ChoicesOfTrials) -> tuple[Source, Choices]:
        """The source of its inputs, and what has been chosen so far; an episode begins.

        ``choices``: those on the given trials before.
        """
        ...

    def outcome(self, policy: np.ndarray) -> Outcome:
        """What is done, given the policies (P, M, T, A), and what it earns."""
        ...


def rounds_of(plans: Sequence[Plan], config: ModelConfig) -> Iterator[Round]:
    """Round after round of the plans of some agents."""
    interaction = plans[0].interaction
    return _given(plans, config) if interaction is None else _episodes(plans, interaction)


@dataclass(eq=False)
class GivenRound:
    """Of trials that are given: rows first ... first + M − 1 of each agent."""

    first: int
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

    def begin(self, has_memory: bool, choices: ChoicesOfTrials) -> tuple[Source, Choices]:
        """As of ``Round``, like what follows."""
        choices.begin(self.luck, self.asks, self.actions)
        encode = self.encode if self.encode.any() else None
        stretches = None if encode is None or not has_memory else stretches_between(encode, self.retrieve)
        stretches = stretches or [slice(0, self.inputs.shape[2])]
        return GivenTrials(self.inputs, self.retrieve, encode, stretches), choices

    def outcome(self, policy: np.ndarray) -> Outcome:
        """What is done, and what it earns."""
        action = np.where(self.actions < 0, draw(policy, self.luck, self.asks), self.actions)
        reward = earned(action, self.targets, self.rewards)
        return Outcome(action, self.targets, reward, self.exists, *which_rows(self), self.inputs)


@dataclass(eq=False)
class EpisodeRound:
    """Of an episode in worlds: rows first ... first + M − 1 of each agent."""

    interaction: Interaction
    first: int
    h0: np.ndarray
    c0: np.ndarray

    def begin(self, has_memory: bool, choices: ChoicesOfTrials) -> tuple[Source, Choices]:
        """As of ``Round``, like what follows."""
        self.interaction.begin(self.first)
        return self.interaction, self.interaction

    def outcome(self, policy: np.ndarray) -> Outcome:
        """What was done, and what it has earned."""
        rows = slice(self.first, self.first + self.h0.shape[1])
        action, reward = self.interaction.action[:, rows], self.interaction.reward[:, rows]
        inputs = self.interaction.inputs_seen[:, rows]
        return Outcome(action, action, reward, np.ones(action.shape, bool), *which_rows(self), inputs)


def which_rows(each: Round) -> tuple[np.ndarray, np.ndarray]:
    """Rows and environments of a round's trials, (P, M) each."""
    environment = np.broadcast_to(np.arange(each.h0.shape[1]), each.h0.shape[:2])
    return each.first + environment, environment


def _episodes(plans: Sequence[Plan], interaction: Interaction) -> Iterator[Round]:
    """Episode after episode."""
    h0, c0 = (np.stack([getattr(plan, name) for plan in plans]) for name in ("h0", "c0"))
    for first in range(0, h0.shape[1], plans[0].environments):
        rows = slice(first, first + plans[0].environments)
        yield EpisodeRound(interaction, first, h0[:, rows], c0[:, rows])


def _given(plans: Sequence[Plan], config: ModelConfig) -> Iterator[Round]:
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
            yield GivenRound(start + first, **here)
