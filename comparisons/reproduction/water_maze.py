"""The contextual water maze: a goal that was found once is gone to straight when its barcode comes back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...models import EpisodeRecord
from ...tasks import WaterMaze
from ...tasks.environment import Task
from ...tasks.water_maze import known_goal, random_walk, steps_to_goal
from ..axes import level_line
from ..settings import LoopSettings
from .drawing import band, finish, gate_by_exposure
from .study import (
    EPLSTM,
    LSTM,
    RETRIEVAL_OFF,
    Claim,
    Figure,
    Found,
    Measures,
    Study,
    act_in_worlds,
    agents_of,
    as_text,
    compared,
    mean_and_half,
    means_by,
    of_seeds,
    states_of,
    train_in_worlds,
)
from .training import Lesson

LESSONS = (Lesson(WaterMaze(exposures=3)),)
"""With fewer exposures than are measured, so that first ones are a larger share."""


def measure(record: EpisodeRecord, task: Task) -> Measures:
    """By exposure: median and mean steps to the first goal (T where it was not reached), goals, and the gate by
    step (exposures, T)."""
    assert isinstance(task, WaterMaze) and record.trials is not None and record.trials.encounter is not None
    exposure = record.trials.encounter
    steps = steps_to_goal(record.by_world())[0].ravel()
    return {
        "median": np.array([np.median(steps[exposure == e]) for e in range(1, task.exposures + 1)]),
        "steps": means_by(exposure, steps, task.exposures),
        "goals": means_by(exposure, record.facts["reached"].sum(1), task.exposures),
        "gate": means_by(exposure, record.gates[:, :, 3].mean(-1), task.exposures),
    }


def claims(study: Study, found: Found) -> list[Claim]:
    """What is claimed, and what came of it."""
    made = []
    for agent, memory in ((EPLSTM, True), (LSTM, False)):
        if agent not in agents_of(found):
            continue
        median = of_seeds(found, agent, "median")
        ratio = median[:, 1] / median[:, 0]
        text = "median steps to the goal on the second exposure are at most half of those on the first"
        made.append(
            Claim(
                f"{agent}: {text}" if memory else f"{agent}: they are not",
                f"{as_text(median[:, 0], 1)} → {as_text(median[:, 1], 1)}, ratio {as_text(ratio)}",
                bool((ratio.mean() <= 0.5) == memory),
            )
        )
    if EPLSTM in agents_of(found):
        off = of_seeds(found, EPLSTM, "steps", RETRIEVAL_OFF)
        made.append(
            Claim(
                "without retrieval (lesion), the second exposure takes as long as the first: .9 of it or more",
                f"mean steps {as_text(off[:, 0], 1)} → {as_text(off[:, 1], 1)}",
                bool(off[:, 1].mean() >= 0.9 * off[:, 0].mean()),
            )
        )
    return made


def tables(study: Study, found: Found) -> dict[str, pd.DataFrame]:
    """Steps and goals by agent, state and exposure, with 95 % intervals over seeds."""
    rows = []
    for agent, state in states_of(found):
        values = {
            name: mean_and_half(of_seeds(found, agent, name, state)) for name in ("median", "steps", "goals")
        }
        for e in range(len(values["steps"][0])):
            row = {"agent": agent, "state": state, "exposure": e + 1}
            for name, (mean, half) in values.items():
                row |= {name: mean[e], f"{name}_lower": mean[e] - half[e], f"{name}_upper": mean[e] + half[e]}
            rows.append(row)
    return {"steps": pd.DataFrame(rows)}


def figures(study: Study, found: Found) -> list[Figure]:
    """Steps to the goal and goals by exposure, and the gate."""
    task = study.task
    assert isinstance(task, WaterMaze)
    exposures = np.arange(1, task.exposures + 1)

    def steps(axes: Sequence[Axes]) -> None:
        for ax, name in zip(axes, ("steps", "goals"), strict=True):
            for place, (agent, state, label) in enumerate(compared(found)):
                band(ax, exposures, of_seeds(found, agent, name, state), label, place)
        level_line(axes[0], known_goal(task)[0], "knows the goal")
        level_line(axes[0], random_walk(task)[0], "random walk")
        finish(axes[0], "Steps to the first goal", "Exposure", "Mean steps", None)
        axes[0].set_ylim(0, 1.15 * random_walk(task)[0])
        most = known_goal(task)[1].sum()
        level_line(axes[1], most, "knows the goal")
        finish(axes[1], "Goals in an episode", "Exposure", "Goals", "lower right")
        axes[1].set_ylim(0, 1.15 * most)

    def gates(axes: Sequence[Axes]) -> None:
        names = {exposure: f"exposure {exposure}" for exposure in exposures.tolist()}
        gate_by_exposure(axes[0], np.arange(task.length), of_seeds(found, EPLSTM, "gate"), names, "Step")

    made = [
        Figure(
            "steps",
            "Steps to the goal by exposure",
            "Bands are 95 % intervals over seeds.",
            2,
            steps,
        )
    ]
    if EPLSTM in agents_of(found):
        made.append(Figure("gate", "When memory is reinstated", "Mean over units, by step.", 1, gates))
    return made


STUDY = Study(
    name="water-maze",
    about="Contextual water maze: in an epoch, 10 barcodes come 5 times each, and each has one hidden goal in a "
    "grid of 5 × 5. At the second exposure, an agent with episodic memory is to go there straight. (Grid, horizon "
    "and rewards are this package's; the paper's were not at hand.)",
    task=WaterMaze(),
    lessons=LESSONS,
    full=LoopSettings(updates=4_000),
    fast=LoopSettings(updates=120, worlds=16, hidden_size=32),
    fresh_worlds=100,
    fresh_epochs=1,
    measure=measure,
    claims=claims,
    tables=tables,
    figures=figures,
    train=train_in_worlds,
    act=act_in_worlds,
)
