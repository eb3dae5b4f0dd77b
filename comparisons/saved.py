"""Two saved models side by side: weights, memory, and behaviour on the same fresh trials with the same draws."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from ..models.checkpoint import describe_model, load_model
from ..tasks import ContextualChoice
from . import behavior, plots
from .page import DPI, versions, write_json
from .runs import Model, find_checkpoint
from .work.folders import check_free

FIELDS = ("policy", "value", "hidden", "cell", "memory", "gates")
TABLE_FILE, FIGURE_FILE = "comparison.json", "comparison.png"


@dataclass
class Comparison:
    """What two models have in common, and what not."""

    a: str
    b: str
    """The folders of the two."""
    rows: list[dict[str, Any]]
    """``what`` is compared, the largest ``difference`` (None where there is no such number), and ``text``."""
    accuracy: dict[str, behavior.Course]
    """By model, on the fresh trials."""
    noise_off: int | None


def compare_saved(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    contexts: int = 5,
    seed: int = 0,
    agent: int | None = None,
) -> Comparison:
    """Compare two saved models.

    Args:
        a: a run folder with one model, or a folder written by ``save_model``.
        b: another.
        contexts: contexts in the fresh block of contextual choice, each shown twice.
        seed: of the block, and of the initial states and choices of both models.
        agent: which agent of those folders that hold several.

    Raises:
        CheckpointError: there is no model to load, or it is damaged.
        ValueError: the models are of different sizes, or made for another task.
    """
    folders = find_checkpoint(a), find_checkpoint(b)
    models = _load(folders[0], agent), _load(folders[1], agent)
    _check_sizes(models, folders)
    trials = _task_of(models[0]).sample(contexts, np.random.default_rng(seed))
    records = [behavior.run_blocks(model, [trials], seed) for model in models]

    rows = _settings_rows(*models)
    weights = [model.weights() for model in models]
    rows += [_row(f"weights: {name}", weights[0][name], weights[1][name]) for name in weights[0]]
    for e in range(max(model.environments for model in models)):
        where = f" of environment {e}" if e else ""
        entries = [model.memory(environment=e) for model in models]
        rows += [
            _row(f"memory: {name}{where}", entries[0][k], entries[1][k])
            for k, name in enumerate(("keys", "values"))
        ]
    same = float((records[0].action == records[1].action).mean())
    rows.append({"what": "behaviour: choices", "difference": 1 - same, "text": f"{same:.1%} the same"})
    rows += [_row(f"behaviour: {name}", getattr(records[0], name), getattr(records[1], name)) for name in FIELDS]
    names = _names(folders)
    accuracy = {n: behavior.accuracy_by_step(trials, r) for n, r in zip(names, records, strict=True)}
    return Comparison(str(folders[0]), str(folders[1]), rows, accuracy, trials.noise_off)


def write_comparison(comparison: Comparison, folder: Path, *, overwrite: bool = False) -> None:
    """Write ``comparison.json`` and ``comparison.png``.

    Raises:
        FileExistsError: one of them is there already and ``overwrite`` is False, or the folder is a file.
    """
    check_free(folder, (TABLE_FILE, FIGURE_FILE), overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TABLE_FILE, {"versions": versions(), **asdict(comparison)})
    canvas = Canvas(figsize=(5.6, 3.8), layout="constrained")
    plots.plot_accuracy(
        comparison.accuracy, noise_off=comparison.noise_off, title="Accuracy on fresh trials", ax=canvas.subplots()
    )
    canvas.savefig(folder / FIGURE_FILE, dpi=DPI)


def _load(folder: Path, agent: int | None) -> Model:
    if describe_model(folder)["kind"] == "cohort":
        return load_model(folder, "reference", agent)
    return load_model(folder)


def _check_sizes(models: tuple[Model, Model], folders: tuple[Path, Path]) -> None:
    a, b = (model.config for model in models)
    sizes = ("input_size", "hidden_size", "n_actions", "key", "reinstatement")
    differing = [
        f"{name} {getattr(a, name)} and {getattr(b, name)}"
        for name in sizes
        if getattr(a, name) != getattr(b, name)
    ]
    if differing:
        raise ValueError(
            f"{folders[0]} and {folders[1]} differ in {', '.join(differing)}: only models of the same sizes can "
            "be compared."
        )


def _task_of(model: Model) -> ContextualChoice:
    size, actions = model.config.input_size, model.config.n_actions
    if size % 2 or actions != ContextualChoice.n_actions:
        raise ValueError(
            f"The models take {size} inputs and {actions} actions; the fresh trials of contextual choice need an "
            f"even number of inputs and {ContextualChoice.n_actions} actions."
        )
    return ContextualChoice(obs_dim=size // 2)


def _settings_rows(a: Model, b: Model) -> list[dict[str, Any]]:
    there, here = a.config.to_dict(), b.config.to_dict()
    return [
        {"what": f"setting: {name}", "difference": None, "text": f"{there[name]!r} and {here[name]!r}"}
        for name in there
        if there[name] != here[name]
    ]


def _row(what: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    if ours.shape != theirs.shape:
        return {"what": what, "difference": None, "text": f"{len(ours)} entries and {len(theirs)}"}
    largest = float(np.abs(ours - theirs).max()) if ours.size else 0.0
    return {"what": what, "difference": largest, "text": f"{largest:.1e}"}


def _names(folders: tuple[Path, Path]) -> tuple[str, str]:
    """Two different names for the figure, as short as they can be."""
    parts = [folder.absolute().parts for folder in folders]
    if folders[0].absolute() == folders[1].absolute():
        return "A", "B (the same)"
    for start in range(1, max(len(p) for p in parts) + 1):
        a, b = ("/".join(p[-start:]) for p in parts)
        if a != b:
            return a, b
    return "A", "B"
