"""A study of one task: agents of the same budget, over seeds, and what is measured of each.

A piece of a study is one agent with one seed: trained, then measured in fresh worlds, intact and lesioned. Pieces
are kept, and the same command goes on (``comparisons/work``). All claims are then read off what the pieces gave,
with intervals over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import t as student

from ...models import EpisodeRecord, EpisodicLSTMComposition
from ..behavior import ENCODING_OFF, INTACT, RETRIEVAL_OFF
from ..settings import LoopSettings
from .training import Lesson, act_in_fresh_worlds, train_agent

EPLSTM, LSTM, AS_INPUT = "epLSTM", "LSTM", "memory as input"
"""The agent of the paper; the same without memory; and the same whose retrieved memory is a further input of the
LSTM, in place of what the reinstatement gate lets into its cell."""
AGENTS = (EPLSTM, LSTM, AS_INPUT)
LESIONS = {INTACT: (True, True), RETRIEVAL_OFF: (False, True), ENCODING_OFF: (True, False)}
Measures = dict[str, np.ndarray]
"""What is measured of one agent in one state, by name."""
Found = Mapping[tuple[str, int], Mapping[str, Any]]
"""By agent and seed: what ``train_and_measure`` gave."""


@dataclass(frozen=True)
class Claim:
    """A claim, and what came of it."""

    claim: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Figure:
    """A figure of the report."""

    name: str
    title: str
    caption: str
    panels: int
    draw: Callable[[Sequence[Axes]], object]


@dataclass(frozen=True)
class Study:
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
    fresh_epochs: int
    measure: Callable[[EpisodeRecord, Any], Measures]
    claims: Callable[[Study, Found], list[Claim]]
    tables: Callable[[Study, Found], dict[str, pd.DataFrame]]
    figures: Callable[[Study, Found], list[Figure]]
    train: Callable[[Study, str, int, bool, str | None], tuple[Any, np.ndarray]]
    """(study, kind of agent, seed, fast, folder of checkpoints) → agent, and mean rewards of a step by call."""
    act: Callable[[Study, Any, int, bool, bool], Measures]
    """(study, agent, seed, retrieve, encode) → what is measured in fresh worlds."""
    tried: str = ""
    """What was tried where a result does not come, and what it shows."""

    def settings(self, fast: bool) -> LoopSettings:
        """Of training."""
        return self.fast if fast else self.full

    def quick(self) -> Study:
        """The same with fewer fresh worlds, for a look."""
        return replace(self, fresh_worlds=min(self.fresh_worlds, 16), fresh_epochs=1)


def memory_of(agent: str) -> dict[str, Any]:
    """Settings in which kinds of agents differ, for ``AgentSettings.config``."""
    return {"memory": agent != LSTM, "reinstatement": "input" if agent == AS_INPUT else "gate"}


def train_in_worlds(
    study: Study, agent: str, seed: int, fast: bool, folder: str | None
) -> tuple[EpisodicLSTMComposition, np.ndarray]:
    """Train an agent with the environment in the loop."""
    settings = study.settings(fast)
    config = settings.config(study.task, study.task.key_columns, **memory_of(agent))
    return train_agent(study.lessons, config, settings, seed, folder)


def act_in_worlds(study: Study, model: Any, seed: int, retrieve: bool, encode: bool) -> Measures:
    """Measure an agent in fresh worlds."""
    record = act_in_fresh_worlds(
        model, study.task, study.fresh_worlds, seed, study.fresh_epochs, retrieve=retrieve, encode=encode
    )
    return study.measure(record, study.task)


# ---- over seeds --------------------------------------------------------------------------------------


def of_seeds(found: Found, agent: str, name: str, state: str = INTACT) -> np.ndarray:
    """A measure of all seeds of an agent, (seeds, ...)."""
    return np.stack([plain[state][name] for (who, _), plain in found.items() if who == agent and state in plain])


def mean_and_half(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds, and half the width of its 95 % interval (t distribution; NaN with one seed)."""
    n = len(samples)
    if n < 2:
        return samples.mean(0), np.full(samples.shape[1:], np.nan)
    return samples.mean(0), student.ppf(0.975, n - 1) * samples.std(0, ddof=1) / np.sqrt(n)


def as_text(samples: np.ndarray, digits: int = 2) -> str:
    """Mean and 95 % interval over seeds of one number, (seeds,)."""
    mean, half = mean_and_half(samples)
    if np.isnan(half):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({mean - half:.{digits}f} … {mean + half:.{digits}f})"


def agents_of(found: Found) -> list[str]:
    """The agents, in the order in which they were first named."""
    return list(dict.fromkeys(agent for agent, _ in found))


def states_of(found: Found) -> list[tuple[str, str]]:
    """The agents in all states in which they were measured."""
    each = [(agent, state) for (agent, _), plain in found.items() for state in LESIONS if state in plain]
    return list(dict.fromkeys(each))


def compared(found: Found) -> list[tuple[str, str, str]]:
    """What figures set side by side: agents, states, and how they are called.

    The lesion comes last, so that the agents have the colours that they have where they are shown intact alone.
    """
    each = ((EPLSTM, INTACT), (LSTM, INTACT), (AS_INPUT, INTACT), (EPLSTM, RETRIEVAL_OFF))
    known = states_of(found)
    return [(a, state, a if state == INTACT else f"{a}, {state}") for a, state in each if (a, state) in known]


def means_by(labels: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Means of rows (n, ...) by their label 1 ... count: (count, ...)."""
    return np.stack([values[labels == label].mean(0) for label in range(1, count + 1)])
