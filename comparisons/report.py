"""What a results folder shows: plain JSON of every number, the figures, and one HTML page with all of it."""

from __future__ import annotations

import html
import json
import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from ..tasks import Trials
from . import plots
from .behavior import Course, LearningCurve, PrincipalComponents
from .settings import RunSettings
from .work.files import write_whole

FIGURES, REPORT, RESULTS = "figures", "report.html", "results.json"
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
DPI = 160
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; }
figure { margin: 1rem 0; } img { max-width: 100%; } figcaption { color: #444; max-width: 46rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2rem .9rem .2rem 0; }
th { border-bottom: 1px solid #888; } .bad { color: #b00020; font-weight: bold; }
"""


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
        """Everything but the stimuli, as plain values for JSON; what is not finite is null."""
        names = ("settings", "rungs", "tolerance", "passed", "curves", "accuracy", "agents", "gates", "lesions")
        more = ("milliseconds", "similarity", "answers", "components", "notes")
        return {"versions": versions(), **{name: plain(getattr(self, name)) for name in (*names, *more)}}


def plain(value: Any) -> Any:
    """The value as JSON can hold it: dataclasses and arrays as dictionaries and lists, no NaN (null instead)."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("eplstm", "psyneulink", "torch", "numpy", "matplotlib")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def write_results(folder: Path, results: DemoResults, graph: Path | None) -> None:
    """Write the figures, ``results.json`` and ``report.html``.

    Args:
        folder: the results folder.
        results: what was found.
        graph: the picture of the composition's graph, if there is one.
    """
    (folder / FIGURES).mkdir(exist_ok=True)
    shown = list(_draw(folder, results))
    if graph is not None:
        caption = (
            "The composition as PsyNeuLink draws it: every node is a mechanism that runs, and every arrow a "
            "projection; what is trained is this graph and nothing else."
        )
        shown.append(figure_html(graph.relative_to(folder).as_posix(), "The composition's graph", caption))
    write_whole(folder / RESULTS, json.dumps(results.numbers(), indent=1, allow_nan=False) + "\n")
    write_whole(folder / REPORT, _page(results, shown))


# ---- figures -----------------------------------------------------------------------------------------


@contextmanager
def canvas_of(folder: Path, name: str, width: float, height: float) -> Iterator[Canvas]:
    """A figure that is saved when it is drawn, under ``figures`` in the folder."""
    canvas = Canvas(figsize=(width, height), layout="constrained")
    yield canvas
    canvas.savefig(folder / FIGURES / f"{name}.png", dpi=DPI)


def _draw(folder: Path, results: DemoResults) -> Iterator[str]:
    """Draw each figure, and give it as HTML with how to read it."""

    def done(name: str, title: str, caption: str) -> str:
        return figure_html(f"{FIGURES}/{name}.png", title, caption)

    task, trials, noise_off = results.settings.task(), results.last_trials, results.last_trials.noise_off

    with canvas_of(folder, "ladder", 6.4, 3.8) as canvas:
        rungs = [(rung["name"], rung["difference"], rung["path"]) for rung in results.rungs]
        plots.plot_ladder(rungs, tolerance=results.tolerance, ax=canvas.subplots())
    yield done(
        "ladder",
        "The ladder",
        "Each dot is the largest difference between composition and reference on one rung, over the whole run. "
        "Left of the dashed line the rung holds; rounding alone gives about 1e-15.",
    )

    with canvas_of(folder, "learning_curve", 5.4, 3.6) as canvas:
        plots.plot_learning_curve(
            results.curves,
            chance=task.chance * task.trial_length,
            optimum=task.optimum,
            ax=canvas.subplots(),
        )
    yield done(
        "learning_curve",
        "Learning",
        "Rewards a trial, block by block, over both encounters. The rings of the reference lie on the line of the "
        "composition where the two learn alike.",
    )

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
    with canvas_of(folder, "accuracy", 5.4 * len(panels), 3.6) as canvas:
        for (title, courses), ax in zip(panels, np.atleast_1d(canvas.subplots(1, len(panels))), strict=True):
            plots.plot_accuracy(courses, chance=task.chance, noise_off=noise_off, title=title, ax=ax)
    yield done("accuracy", "Accuracy by step and encounter", caption)

    chosen = _two_trials(trials)
    with canvas_of(folder, "stimulus", 4.8 * len(chosen), 2.7) as canvas:
        for trial, ax in zip(chosen, np.atleast_1d(canvas.subplots(1, len(chosen))), strict=True):
            plots.plot_stimulus(trials, trial, context_start=task.context_columns[0], ax=ax)
    yield done(
        "stimulus",
        "What the agent sees",
        "One row a step. The context (right) is the same on all steps; the observation (left) is noise above the "
        "dashed line, and below it leans to one side, which is the answer.",
    )

    if results.similarity:
        with canvas_of(folder, "similarity", 9.0, 3.8) as canvas:
            for what, ax in zip(("keys", "values"), canvas.subplots(1, 2), strict=True):
                kernel = results.settings.kernel
                plots.plot_similarity(results.similarity[what], what, kernel=kernel, groups=results.answers, ax=ax)
        yield done(
            "similarity",
            "Similarity of what is stored",
            "Each entry of the memory against each other, sorted by the answer (lines part the answers); light is "
            "alike. Light blocks along the diagonal mean that the answer shows in what is stored. A key of the "
            "whole input shows it too, by the observation of the last step; a key of the context alone does not.",
        )
    if results.components is not None:
        with canvas_of(folder, "components", 4.6, 3.8) as canvas:
            plots.plot_components(results.components, results.answers, ax=canvas.subplots())
        yield done(
            "components",
            "Stored values",
            "Each point is the cell state stored at the end of one first encounter. If the colours part, the "
            "answer can be read from what is stored.",
        )

    with canvas_of(folder, "gates", 9.6, 2.9) as canvas:
        plots.plot_gates(results.gates, noise_off=noise_off, axes=canvas.subplots(1, 4, sharey=True))
    yield done(
        "gates",
        "Gates",
        "How open each gate is, averaged over units and trials of the last block. The reinstatement gate r lets "
        "what is retrieved into the cell state; a difference between encounters shows that the agent knows when "
        "to trust its memory.",
    )

    with canvas_of(folder, "lesions", 5.4, 3.6) as canvas:
        plots.plot_lesions(results.lesions, chance=task.chance, noise_off=noise_off, ax=canvas.subplots())
    yield done(
        "lesions",
        "Lesions",
        "The trained agent on fresh blocks, without learning: intact, and with parts of its memory switched off; "
        "and an agent trained without a memory. What the intact agent has above the others before the evidence "
        "is the work of the memory. From an empty memory the two lesions come to the same.",
    )


def _two_trials(trials: Trials) -> list[int]:
    """The first trial of each answer, two at most."""
    _, first = np.unique(trials.targets[:, 0], return_index=True)
    return sorted(int(trial) for trial in first[:2])


# ---- the page ----------------------------------------------------------------------------------------


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]], bad: str = "FAILED") -> str:
    """A table; cells whose text is ``bad`` stand out."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = []
    for row in rows:
        cells = "".join(
            f"<td{' class=bad' if str(cell) == bad else ''}>{html.escape(str(cell))}</td>" for cell in row
        )
        lines.append(f"<tr>{cells}</tr>")
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"


def figure_html(file: str, title: str, caption: str) -> str:
    """A figure under its title, with how to read it."""
    file, title, caption = (html.escape(part) for part in (file, title, caption))
    return (
        f'<h2>{title}</h2>\n<figure><img src="{file}" alt="{title}">\n<figcaption>{caption}</figcaption></figure>'
    )


def _page(results: DemoResults, figures: Sequence[str]) -> str:
    verdict = (
        f"Every rung holds: no difference exceeds {results.tolerance:.0e}."
        if results.passed
        else f"<span class=bad>Rungs FAILED: differences exceed {results.tolerance:.0e}.</span>"
    )
    rungs = [
        (
            rung["name"],
            rung["path"],
            f"{rung['difference']:.1e}",
            rung["where"],
            "ok" if rung["passed"] else "FAILED",
        )
        for rung in results.rungs
    ]
    parts = [
        "<p>An episodic-memory LSTM (Ritter et al., 2018) in PsyNeuLink, and a plain-PyTorch reference, trained "
        f"on the same trials, choices and initial states. {verdict}</p>",
        *(f"<p class=bad>{html.escape(note)}</p>" for note in results.notes),
        html_table(("rung", "path", "largest difference", "where", ""), rungs),
        *figures,
        "<h2>Time</h2>",
        html_table(("path", "ms a trial"), [(k, f"{v:.1f}") for k, v in results.milliseconds.items()]),
        "<h2>Settings</h2>",
        html_table(("setting", "value"), list(asdict(results.settings).items())),
        "<h2>Versions</h2>",
        html_table(("package", "version"), list(versions().items())),
    ]
    return html_page("Episodic-memory LSTM: composition and reference", parts)


def html_page(title: str, parts: Iterable[str]) -> str:
    """A page of its own from pieces of HTML."""
    body, title = "\n".join(parts), html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
    )
