"""A study of one task: agents of the same budget, over seeds, and what is measured of each.

A piece of a study is some agents of a kind, which differ in their seeds: trained side by side, then measured in
fresh worlds, intact and lesioned. Pieces are kept, and the same command goes on (``comparisons/work``). All claims
are then read off what the pieces gave, with intervals over seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from ..behavior import ENCODING_OFF, INTACT, RETRIEVAL_OFF, mean_and_error
from ..page import Page
from ..settings import LoopSettings
from .training import Lesson, Trained, act_in_fresh_worlds, train_agents

EPLSTM, LSTM, AS_INPUT = "epLSTM", "LSTM", "memory as input"
"""The agent of the paper; the same without memory; and the same whose retrieved memory is a further input of the
LSTM, in place of what the reinstatement gate lets into its cell."""
AGENTS = (EPLSTM, LSTM, AS_INPUT)
LESIONS = {INTACT: (True, True), RETRIEVAL_OFF: (False, True), ENCODING_OFF: (True, False)}
Measures = dict[str, np.ndarray]
"""What is measured of one agent in one state, by name."""


@dataclass(frozen=True)
class Claim:
    """A claim, and what came of it."""

    claim: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Found:
    """What the pieces of a study gave."""

    pieces: Mapping[tuple[str, int], Mapping[str, Any]]
    """By agent and seed, as ``train_and_measure`` gives them."""

    @property
    def agents(self) -> list[str]:
        """In the order in which they were first named."""
        return list(dict.fromkeys(agent for agent, _ in self.pieces))

    @property
    def states(self) -> list[tuple[str, str]]:
        """The agents in all states in which they were measured."""
        each = [(agent, state) for (agent, _), own in self.pieces.items() for state in LESIONS if state in own]
        return list(dict.fromkeys(each))

    @property
    def compared(self) -> list[tuple[str, str, str]]:
        """What figures set side by side: agents, states, and how they are called.

        The lesion comes last: the agents have the colours that they have where they are shown intact alone.
        """
        each = ((EPLSTM, INTACT), (LSTM, INTACT), (AS_INPUT, INTACT), (EPLSTM, RETRIEVAL_OFF))
        known = self.states
        return [(a, state, a if state == INTACT else f"{a}, {state}") for a, state in each if (a, state) in known]

    def of(self, agent: str, name: str, state: str = INTACT) -> np.ndarray:
        """A measure of all seeds of an agent, (seeds, ...)."""
        return np.stack(
            [own[state][name] for (who, _), own in self.pieces.items() if who == agent and state in own]
        )

    def table(self, name: str, axes: Mapping[str, Sequence[Any]], value: str, prefix: str = "") -> pd.DataFrame:
        """A measure with its 95 % interval over seeds, by agent, state and axes, which are the index.

        Args:
            name: the measure's.
            axes: name and values of each.
            value: column of the mean.
            prefix: of the columns ``lower`` and ``upper``.
        """
        by = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
        frames = {}
        for agent, state in self.states:
            mean, half = (each.ravel() for each in mean_and_half(self.of(agent, name, state)))
            columns = {value: mean, f"{prefix}lower": mean - half, f"{prefix}upper": mean + half}
            frames[agent, state] = pd.DataFrame(columns, index=by)
        return pd.concat(frames, names=["agent", "state"])


@dataclass(frozen=True)
class Study(ABC):
    """A task, how agents are trained on it, what is measured, and what is claimed."""

    name: str
    about: str
    """The task and the claim of the paper, in two or three sentences."""
    task: Any
    """In which agents are measured."""
    lessons: tuple[Lesson, ...]
    """In which they are trained: perhaps with fewer exposures, so that first ones are a larger share."""
    full: LoopSettings
    fast: LoopSettings
    """A look in a minute or two: no agent is well trained."""
    fresh_worlds: int
    fresh_epochs: int = 1
    tried: str = ""
    """What was tried where a result does not come, and what it shows."""

    @abstractmethod
    def measure(self, record: Any, encounter: np.ndarray) -> Measures:
        """What is measured of an agent in fresh worlds: of n episodes, and which encounter each is, (n,)."""

    @abstractmethod
    def claims(self, found: Found) -> Iterator[Claim]:
        """What is claimed, and what came of it."""

    @abstractmethod
    def tables(self, found: Found) -> dict[str, pd.DataFrame]:
        """The numbers, with 95 % intervals over seeds, by the table's name."""

    @abstractmethod
    def figures(self, page: Page, found: Found) -> None:
        """Draw them."""

    def settings(self, fast: bool) -> LoopSettings:
        """Of training."""
        return self.fast if fast else self.full

    def quick(self) -> Study:
        """The same with fewer fresh worlds, for a look."""
        return replace(self, fresh_worlds=min(self.fresh_worlds, 16), fresh_epochs=1)

    def rests_on(self, fast: bool) -> dict[str, Any]:
        """What agents rest on beside their kind and seed: those of other settings are not taken for these."""
        fresh = (self.fresh_worlds, self.fresh_epochs)
        return {"task": self.task, "lessons": self.lessons, "settings": self.settings(fast), "fresh worlds": fresh}

    def train(self, agent: str, seeds: Sequence[int], fast: bool, folders: Sequence[str] | None) -> Trained:
        """Train agents of a kind; the agents, and the mean reward of a step in each call."""
        settings = self.settings(fast)
        config = settings.config(self.task, self.task.key_columns, **memory_of(agent))
        return train_agents(self.lessons, config, settings, seeds, folders)

    def act(self, model: Any, seed: int, retrieve: bool, encode: bool) -> Measures:
        """Measure an agent in fresh worlds."""
        record = act_in_fresh_worlds(
            model, self.task, self.fresh_worlds, seed, self.fresh_epochs, retrieve=retrieve, encode=encode
        )
        assert record.trials is not None and record.trials.encounter is not None
        return self.measure(record, record.trials.encounter)


def memory_of(agent: str) -> dict[str, Any]:
    """Settings in which kinds of agents differ, for ``AgentSettings.config``."""
    return {"memory": agent != LSTM, "reinstatement": "input" if agent == AS_INPUT else "gate"}


def mean_and_half(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds, and half the width of its 95 % interval (t distribution; NaN with one seed)."""
    mean, error = mean_and_error(samples)
    return mean, student.ppf(0.975, len(samples) - 1) * error


def as_text(samples: np.ndarray, digits: int = 2) -> str:
    """Mean and 95 % interval over seeds of one number, (seeds,)."""
    mean, half = mean_and_half(samples)
    if np.isnan(half):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({mean - half:.{digits}f} … {mean + half:.{digits}f})"


def means_by(labels: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Means of rows (n, ...) by their label 1 ... count: (count, ...)."""
    return np.stack([values[labels == label].mean(0) for label in range(1, count + 1)])
