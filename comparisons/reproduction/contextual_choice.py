"""Contextual choice: an answer that was found once is there at the second encounter, before any evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...models import Cohort, TrialRecord
from ...tasks import ContextualChoice
from ..axes import level_line
from ..page import Page
from ..settings import FRESH, TRAINING, AgentSettings, LoopSettings
from .drawing import band, finish, gate_by_exposure
from .study import EPLSTM, LSTM, RETRIEVAL_OFF, Claim, Found, Measures, Study, as_text, means_by, memory_of
from .training import Lesson, Trained, train_by_calls

CONTEXTS = 50
"""Of a block: each is shown twice."""


@dataclass(frozen=True)
class ChoiceStudy(Study):
    """Right choices by encounter and step; agents are trained on blocks of trials, of all environments at once."""

    task: ContextualChoice

    def train(self, agent: str, seeds: Sequence[int], fast: bool, folders: Sequence[str] | None) -> Trained:
        """Train agents of a kind, with the context as key."""
        settings = self.settings(fast)

        def learn(cohort: Cohort, of: Sequence[int], block: int, update: int) -> tuple[list[float], int]:
            drawn = [(TRAINING, seed, block) for seed in of]
            rngs = [[np.random.default_rng((*own, e)) for e in range(settings.worlds)] for own in drawn]
            records = cohort.train(
                [[self.task.sample(CONTEXTS, rng) for rng in own] for own in rngs],
                seed=drawn,
                **settings.learning(update),
            )
            return [float(np.mean([each.reward.mean() for each in own])) for own in records], 2 * CONTEXTS

        config = settings.config(self.task, self.task.context_columns, **memory_of(agent))
        return train_by_calls(learn, self.lessons, config, settings, seeds, folders, least=2 * CONTEXTS)

    def act(self, model: Any, seed: int, retrieve: bool, encode: bool) -> Measures:
        """Measure an agent on fresh blocks."""
        records, encounters = [], []
        for block in range(self.fresh_worlds):
            trials = self.task.sample(CONTEXTS, np.random.default_rng((FRESH, seed, block)))
            model.clear_memory()
            lesioned = trials.lesioned(retrieve=retrieve, encode=encode)
            records.append(model.simulate(lesioned, seed=(FRESH, seed, block)))
            encounters.append(trials.encounter)
        model.clear_memory()
        return self.measure(TrialRecord.concatenate(records), np.concatenate(encounters))

    def measure(self, record: Any, encounter: np.ndarray) -> Measures:
        """By encounter and step, (2, T): share of right choices, and the reinstatement gate."""
        return {
            "right": means_by(encounter, record.reward, 2),
            "gate": means_by(encounter, record.gates[:, :, 3].mean(-1), 2),
        }

    def claims(self, found: Found) -> Iterator[Claim]:
        """What is claimed, and what came of it."""
        if EPLSTM in found.agents:
            right = found.of(EPLSTM, "right")
            second, off = right[:, 1, 0], found.of(EPLSTM, "right", RETRIEVAL_OFF)[:, 1, 0]
            yield Claim(
                "epLSTM answers the second encounter from the first step on: .95 right or more",
                as_text(second, 3),
                bool(second.mean() >= 0.95),
            )
            yield Claim(
                "at the first encounter it is at chance before there is evidence, and right after",
                f"step 0 {as_text(right[:, 0, 0], 3)}, last step {as_text(right[:, 0, -1], 3)}",
                bool(abs(right[:, 0, 0].mean() - 0.5) < 0.03 and right[:, 0, -1].mean() > 0.95),
            )
            yield Claim(
                "without retrieval (lesion), the second encounter begins at chance",
                as_text(off, 3),
                bool(abs(off.mean() - 0.5) < 0.03),
            )
        if LSTM in found.agents:
            second = found.of(LSTM, "right")[:, 1, 0]
            yield Claim(
                "the plain LSTM begins each encounter at chance",
                as_text(second, 3),
                bool(abs(second.mean() - 0.5) < 0.03),
            )

    def tables(self, found: Found) -> dict[str, pd.DataFrame]:
        """Share of right choices by agent, state, encounter and step."""
        axes = {"encounter": (1, 2), "step": range(self.task.trial_length)}
        return {"accuracy": found.table("right", axes, "right").reset_index()}

    def figures(self, page: Page, found: Found) -> None:
        """Accuracy by encounter and step, and the gate."""
        steps = np.arange(self.task.trial_length)

        def accuracy(axes: Sequence[Axes]) -> None:
            for e, ax in enumerate(axes):
                for place, (agent, state, label) in enumerate(found.compared):
                    band(ax, steps, found.of(agent, "right", state)[:, e], label, place)
                level_line(ax, self.task.chance, "chance")
                ax.axvline(self.task.t_noise_off - 0.5, color="#bbbbbb", linewidth=1)
                finish(ax, f"Encounter {e + 1}", "Step", "Share right", "beside" if e else None)
                ax.set_ylim(0.4, 1.02)

        def gates(axes: Sequence[Axes]) -> None:
            names = {1: "encounter 1", 2: "encounter 2"}
            gate_by_exposure(axes[0], steps, found.of(EPLSTM, "gate"), names, "Step")

        caption = "Evidence begins at the grey line; bands are 95 % intervals over seeds."
        page.figure("accuracy", "Right choices by encounter and step", caption, 2, accuracy)
        if EPLSTM in found.agents:
            page.figure("gate", "When memory is reinstated", "Mean over units, by step.", 1, gates)


STUDY = ChoiceStudy(
    name="contextual-choice",
    about="Contextual choice (dnd-lstm): noisy evidence for one of two answers, which is the same whenever a "
    "context comes back. Agents with episodic memory are to know it at the second encounter, before any evidence.",
    task=ContextualChoice(),
    lessons=(Lesson(ContextualChoice()),),
    full=LoopSettings(
        updates=6_000, worlds=32, learning_rate_end=1.0, **asdict(AgentSettings(learning_rate=2e-3))
    ),
    fast=LoopSettings(updates=300, worlds=8, **asdict(AgentSettings(learning_rate=5e-3, hidden_size=16))),
    fresh_worlds=8,
)
