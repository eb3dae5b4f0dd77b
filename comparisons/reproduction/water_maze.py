"""The contextual water maze: a goal that was found once is gone to straight when its barcode comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...tasks import WaterMaze
from ...tasks.water_maze import known_goal, random_walk, steps_to_goal
from ..axes import level_line
from ..page import Page
from ..settings import LoopSettings
from .drawing import band, finish, gate_by_exposure
from .study import EPLSTM, LSTM, RETRIEVAL_OFF, Claim, Found, Measures, Study, as_text, means_by
from .training import Lesson


@dataclass(frozen=True)
class MazeStudy(Study):
    """Steps to the goal by exposure."""

    task: WaterMaze

    def measure(self, record: Any, encounter: np.ndarray) -> Measures:
        """By exposure: median and mean steps to the first goal (T where it was not reached), goals, and the gate
        by step (exposures, T)."""
        count = self.task.exposures
        steps = steps_to_goal(record.by_world())[0].ravel()
        return {
            "median": np.array([np.median(steps[encounter == e]) for e in range(1, count + 1)]),
            "steps": means_by(encounter, steps, count),
            "goals": means_by(encounter, record.facts["reached"].sum(1), count),
            "gate": means_by(encounter, record.gates[:, :, 3].mean(-1), count),
        }

    def claims(self, found: Found) -> Iterator[Claim]:
        """What is claimed, and what came of it."""
        for agent, memory in ((EPLSTM, True), (LSTM, False)):
            if agent not in found.agents:
                continue
            median = found.of(agent, "median")
            ratio = median[:, 1] / median[:, 0]
            text = "median steps to the goal on the second exposure are at most half of those on the first"
            yield Claim(
                f"{agent}: {text}" if memory else f"{agent}: they are not",
                f"{as_text(median[:, 0], 1)} → {as_text(median[:, 1], 1)}, ratio {as_text(ratio)}",
                bool((ratio.mean() <= 0.5) == memory),
            )
        if EPLSTM in found.agents:
            off = found.of(EPLSTM, "steps", RETRIEVAL_OFF)
            yield Claim(
                "without retrieval (lesion), the second exposure takes as long as the first: .9 of it or more",
                f"mean steps {as_text(off[:, 0], 1)} → {as_text(off[:, 1], 1)}",
                bool(off[:, 1].mean() >= 0.9 * off[:, 0].mean()),
            )

    def tables(self, found: Found) -> dict[str, pd.DataFrame]:
        """Steps and goals by agent, state and exposure."""
        axes = {"exposure": range(1, self.task.exposures + 1)}
        each = [found.table(name, axes, name, f"{name}_") for name in ("median", "steps", "goals")]
        return {"steps": pd.concat(each, axis=1).reset_index()}

    def figures(self, page: Page, found: Found) -> None:
        """Steps to the goal and goals by exposure, and the gate."""
        exposures = np.arange(1, self.task.exposures + 1)

        def steps(axes: Sequence[Axes]) -> None:
            for ax, name in zip(axes, ("steps", "goals"), strict=True):
                for place, (agent, state, label) in enumerate(found.compared):
                    band(ax, exposures, found.of(agent, name, state), label, place)
            level_line(axes[0], known_goal(self.task)[0], "knows the goal")
            level_line(axes[0], random_walk(self.task)[0], "random walk")
            finish(axes[0], "Steps to the first goal", "Exposure", "Mean steps", None)
            axes[0].set_ylim(0, 1.15 * random_walk(self.task)[0])
            most = known_goal(self.task)[1].sum()
            level_line(axes[1], most, "knows the goal")
            finish(axes[1], "Goals in an episode", "Exposure", "Goals", "beside")
            axes[1].set_ylim(0, 1.15 * most)

        def gates(axes: Sequence[Axes]) -> None:
            names = {exposure: f"exposure {exposure}" for exposure in exposures.tolist()}
            gate_by_exposure(axes[0], np.arange(self.task.length), found.of(EPLSTM, "gate"), names, "Step")

        page.figure("steps", "Steps to the goal by exposure", "Bands are 95 % intervals over seeds.", 2, steps)
        if EPLSTM in found.agents:
            page.figure("gate", "When memory is reinstated", "Mean over units, by step.", 1, gates)


STUDY = MazeStudy(
    name="water-maze",
    about="Contextual water maze: in an epoch, 10 barcodes come 5 times each, and each has one hidden goal in a "
    "grid of 5 × 5. At the second exposure, an agent with episodic memory is to go there straight. (Grid, horizon "
    "and rewards are this package's; the paper's were not at hand.)",
    task=WaterMaze(),
    lessons=(Lesson(WaterMaze(exposures=3)),),
    full=LoopSettings(updates=4_000),
    fast=LoopSettings(updates=120, worlds=16, hidden_size=32),
    fresh_worlds=100,
)
