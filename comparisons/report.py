"""What a results folder shows: plain JSON of every number, the figures, and one HTML page with all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks import Trials
from . import plots
from .behavior import Course, LearningCurve, PrincipalComponents
from .page import FIGURES, Page, versions, write_json
from .settings import RunSettings

RESULTS = "results.json"
FIGURE_FILES = tuple(
    f"{FIGURES}/{name}.png"
    for name in (
        "ladder",
        "learning_curve",
        "accuracy",
        "stimulus",
        "similarity",
        "components",
        "gates",
        "lesions",
        "graph",
    )
)


@dataclass
class DemoResults:
    """Every number of a demo, and what its figures are drawn from."""

    settings: RunSettings
    rungs: list[dict[str, Any]]
    """One a rung, as ``Ladder.rows`` gives them."""
    tolerance: float
    curves: dict[str, LearningCurve]
    """By model."""
    accuracy: dict[str, Course]
    """By model, on the last block of training."""
    agents: Course | None
    """Of the cohort's agents, each on the last block of its own training; None without a cohort."""
    gates: Course
    """Of the composition, on the last block of training."""
    lesions: dict[str, Course]
    """By condition, on fresh blocks without learning."""
    milliseconds: dict[str, float]
    """By path: a trial."""
    last_trials: Trials
    """The last block of training."""
    similarity: dict[str, np.ndarray] = field(default_factory=dict)
    """``keys`` and ``values``, (n, n): of the entries of the composition's memory, sorted by answer."""
    answers: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,): of the entries, in that order."""
    components: PrincipalComponents | None = None
    """Of the stored values, in that order; None with fewer than two."""
    notes: list[str] = field(default_factory=list)
    """What could not be shown, and why."""

    @property
    def passed(self) -> bool:
        """Whether every rung held."""
        return all(rung["passed"] for rung in self.rungs)

    def numbers(self) -> dict[str, Any]:
        """Everything but the stimuli."""
        shown = {name: value for name, value in vars(self).items() if name != "last_trials"}
        return {"versions": versions(), "passed": self.passed, **shown}


def write_results(folder: Path, results: DemoResults, graph: Path | None) -> None:
    """Write the figures, ``results.json`` and ``report.html``.

    Args:
        folder: the results folder.
        results: what was found.
        graph: the picture of the composition's graph, if there is one.
    """
    page = Page(folder)
    page.text(
        "An episodic-memory LSTM (Ritter et al., 2018) in PsyNeuLink, and a plain-PyTorch reference, trained on "
        "the same trials, choices and initial states."
    )
    if results.passed:
        page.text(f"Every rung holds: no difference exceeds {results.tolerance:.0e}.")
    else:
        page.text(f"Rungs FAILED: differences exceed {results.tolerance:.0e}.", bad=True)
    for note in results.notes:
        page.text(note, bad=True)
    verdicts = {True: "ok", False: "FAILED"}
    page.rows(
        ("rung", "path", "largest difference", "where", ""),
        [
            (r["name"], r["path"], f"{r['difference']:.1e}", r["where"], verdicts[r["passed"]])
            for r in results.rungs
        ],
    )
    _draw(page, results)
    if graph is not None:
        page.picture(
            graph.relative_to(folder).as_posix(),
            "The composition's graph",
            "The composition as PsyNeuLink draws it: every node is a mechanism that runs, and every arrow a "
            "projection; what is trained is this graph and nothing else.",
        )
    page.heading("Time")
    page.rows(("path", "ms a trial"), [(path, f"{ms:.1f}") for path, ms in results.milliseconds.items()])
    write_json(folder / RESULTS, results.numbers())
    page.write("Episodic-memory LSTM: composition and reference", results.settings)


def _draw(page: Page, results: DemoResults) -> None:
    """Each figure, with how to read it."""
    task, trials, noise_off = results.settings.task(), results.last_trials, results.last_trials.noise_off
    rungs = [(rung["name"], rung["difference"], rung["path"]) for rung in results.rungs]
    page.figure(
        "ladder",
        "The ladder",
        "Each dot is the largest difference between composition and reference on one rung, over the whole run. "
        "Left of the dashed line the rung holds; rounding alone gives about 1e-15.",
        1,
        lambda axes: plots.plot_ladder(rungs, tolerance=results.tolerance, ax=axes[0]),
        height=3.8,
        width=6.4,
    )
    chance = task.chance * task.trial_length
    page.figure(
        "learning_curve",
        "Learning",
        "Rewards a trial, block by block, over both encounters. The rings of the reference lie on the line of the "
        "composition where the two learn alike.",
        1,
        lambda axes: plots.plot_learning_curve(results.curves, chance=chance, optimum=task.optimum, ax=axes[0]),
        height=3.6,
        width=5.4,
    )
    _draw_accuracy(page, results)
    chosen = _two_trials(trials)

    def draw_stimuli(axes: np.ndarray) -> None:
        for trial, ax in zip(chosen, axes, strict=True):
            plots.plot_stimulus(trials, trial, context_start=task.context_columns[0], ax=ax)

    page.figure(
        "stimulus",
        "What the agent sees",
        "One row a step. The context (right) is the same on all steps; the observation (left) is noise above the "
        "dashed line, and below it leans to one side, which is the answer.",
        len(chosen),
        draw_stimuli,
        height=2.7,
        width=4.8 * len(chosen),
    )
    _draw_memory(page, results)
    page.figure(
        "gates",
        "Gates",
        "How open each gate is, averaged over units and trials of the last block. The reinstatement gate r lets "
        "what is retrieved into the cell state; a difference between encounters shows that the agent knows when "
        "to trust its memory.",
        4,
        lambda axes: plots.plot_gates(results.gates, noise_off=noise_off, axes=axes),
        width=9.6,
        sharey=True,
    )
    page.figure(
        "lesions",
        "Lesions",
        "The trained agent on fresh blocks, without learning: intact, and with parts of its memory switched off; "
        "and an agent trained without a memory. What the intact agent has above the others before the evidence "
        "is the work of the memory. From an empty memory the two lesions come to the same.",
        1,
        lambda axes: plots.plot_lesions(results.lesions, chance=task.chance, noise_off=noise_off, ax=axes[0]),
        height=3.6,
        width=5.4,
    )


def _draw_accuracy(page: Page, results: DemoResults) -> None:
    chance, noise_off = results.settings.task().chance, results.last_trials.noise_off
    panels = [("One agent, last block", results.accuracy)]
    caption = (
        "Before the evidence starts (dashed line) only memory can help: the first encounter stays at chance, and "
        "whatever the second has above it is what the agent remembers. Means with standard errors over trials."
    )
    if results.agents is not None:
        n = results.agents.n[0]
        panels.append((f"{n} agents, last block", {f"{n} agents": results.agents}))
        caption += (
            f" Right: means over {n} agents, each with weights, trials and choices of its own, with standard "
            "errors over agents."
        )

    def draw(axes: np.ndarray) -> None:
        for (title, courses), ax in zip(panels, axes, strict=True):
            plots.plot_accuracy(courses, chance=chance, noise_off=noise_off, title=title, ax=ax)

    title, size = "Accuracy by step and encounter", len(panels)
    page.figure("accuracy", title, caption, size, draw, height=3.6, width=5.4 * size)


def _draw_memory(page: Page, results: DemoResults) -> None:
    """What is stored, where there is enough of it."""
    kernel, answers = results.settings.kernel, results.answers

    def draw(axes: np.ndarray) -> None:
        for (what, similarity), ax in zip(results.similarity.items(), axes, strict=True):
            plots.plot_similarity(similarity, what, kernel=kernel, groups=answers, ax=ax)

    if results.similarity:
        page.figure(
            "similarity",
            "Similarity of what is stored",
            "Each entry of the memory against each other, sorted by the answer (lines part the answers); light is "
            "alike. Light blocks along the diagonal mean that the answer shows in what is stored. A key of the "
            "whole input shows it too, by the observation of the last step; a key of the context alone does not.",
            2,
            draw,
            height=3.8,
            width=9.0,
        )
    components = results.components
    if components is not None:
        page.figure(
            "components",
            "Stored values",
            "Each point is the cell state stored at the end of one first encounter. If the colours part, the "
            "answer can be read from what is stored.",
            1,
            lambda axes: plots.plot_components(components, answers, ax=axes[0]),
            height=3.8,
            width=4.6,
        )


def _two_trials(trials: Trials) -> list[int]:
    """The first trial of each answer, two at most."""
    _, first = np.unique(trials.targets[:, 0], return_index=True)
    return sorted(int(trial) for trial in first[:2])
