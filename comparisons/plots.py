"""Figures: each function takes the numbers of ``behavior`` and an ``Axes``, draws into it, and returns it.

Without an ``Axes`` one is made with pyplot, to be shown by a notebook. Nothing of
matplotlib's global style is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..models import GATE_ORDER
from ..tasks import Trials
from .axes import (
    BLACK,
    COLORS,
    GREY,
    LABEL,
    MARKERS,
    TICK,
    TITLE,
    add_colorbar,
    add_legend,
    axes_or_new,
    dress,
    level_line,
    ordinal,
)
from .behavior import Course, LearningCurve, PrincipalComponents


def plot_learning_curve(
    curves: Mapping[str, LearningCurve],
    *,
    chance: float | None = None,
    optimum: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Rewards a trial by block, one line a model; the second model is drawn as rings around the first.

    Args:
        curves: by name.
        chance: rewards a trial of an agent that guesses.
        optimum: rewards a trial of the best agent.
        ax: where to draw.
    """
    ax = axes_or_new(ax, (5.2, 3.6))
    for place, (name, curve) in enumerate(curves.items()):
        blocks = np.arange(1, len(curve.mean) + 1)
        if place == 0:
            low, high = curve.mean - curve.se, curve.mean + curve.se
            ax.fill_between(blocks, low, high, color=COLORS[0], alpha=0.18, linewidth=0)
            ax.plot(blocks, curve.mean, color=COLORS[0], linewidth=1.8, label=name)
        else:
            color = COLORS[place % len(COLORS)]
            rings = ax.plot(blocks, curve.mean, MARKERS[place - 1], color=color, markersize=6, label=name)
            rings[0].set_markerfacecolor("none")
    level_line(ax, optimum, "optimum")
    level_line(ax, chance, "chance")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(ax, "lower right", anchor=(1.0, 0.08))
    return dress(ax, "Learning", "Block", "Rewards a trial (mean ± s.e.)")


def plot_accuracy(
    courses: Mapping[str, Course],
    *,
    chance: float | None = 0.5,
    noise_off: int | None = None,
    title: str = "Accuracy by step and encounter",
    ax: Axes | None = None,
) -> Axes:
    """Share of right choices by step, one colour an encounter, one line style a model, with standard errors.

    Args:
        courses: by the model's name; (E, T).
        chance: where guessing lies.
        noise_off: first step with evidence; marked.
        title: of the panel.
        ax: where to draw.
    """
    ax = axes_or_new(ax, (5.2, 3.6))
    styles = ("-", "none", ":")
    for place, course in enumerate(courses.values()):
        for row, encounter in enumerate(course.encounters):
            label = f"{ordinal(encounter)} encounter" if place == 0 else None
            look = {"linestyle": styles[place % len(styles)], "markerfacecolor": "none" if place else None}
            size = 5 + 2 * (place > 0)
            _line(ax, course.mean[row], course.se[row], row, label, 0.12 * place, markersize=size, **look)
    level_line(ax, chance, "chance")
    level_line(ax, 1.0, "optimum")
    _noise_mark(ax, noise_off)
    _shares(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = ax.get_legend_handles_labels()
    if len(courses) > 1:
        for place, name in enumerate(courses):
            line = Line2D([], [], color=GREY, linestyle=styles[place % len(styles)], marker="o", markersize=5)
            if place:
                line.set_markerfacecolor("none")
            handles.append(line)
            labels.append(name)
    add_legend(ax, "lower right", handles=handles, labels=labels)
    over = next(iter(courses.values())).over if courses else "trials"
    return dress(ax, title, "Step in the trial", f"Right choices (mean ± s.e. over {over})")


def plot_stimulus(trials: Trials, trial: int, *, context_start: int, ax: Axes | None = None) -> Axes:
    """What one trial shows: steps by input columns, the observation left and the context right.

    Args:
        trials: the block.
        trial: which trial of it.
        context_start: the first column of the context.
        ax: where to draw.
    """
    ax = axes_or_new(ax, (5.2, 2.6))
    inputs = trials.inputs[trial]
    limit = 3.0
    image = ax.imshow(
        inputs, aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest", origin="upper"
    )
    ax.axvline(context_start - 0.5, color=BLACK, linewidth=1.5)
    columns = inputs.shape[1]
    for middle, part in ((context_start / 2, "observation"), ((context_start + columns) / 2, "context")):
        ax.text(middle - 0.5, -0.7, part, ha="center", va="bottom", fontsize=LABEL)
    if trials.noise_off is not None and 0 < trials.noise_off < len(inputs):
        edge = trials.noise_off - 0.5
        ax.plot([-0.5, context_start - 0.5], [edge, edge], color=BLACK, linestyle="--", linewidth=1.2)
    add_colorbar(ax, image, "Input")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    encounter = "" if trials.encounter is None else f", {ordinal(int(trials.encounter[trial]))} encounter"
    dress(ax, f"Trial {trial + 1}{encounter}: the answer is {trials.targets[trial, 0]}", "Input column", "Step")
    ax.title.set_position((0.5, 1.0))
    ax.set_title(ax.get_title(), fontsize=TITLE, pad=20)
    return ax


def plot_similarity(
    similarity: np.ndarray,
    what: str,
    *,
    kernel: str = "l2",
    groups: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Similarity of stored entries to each other, (n, n).

    Args:
        similarity: from ``behavior.similarity_matrix``.
        what: ``keys`` or ``values``; for the title.
        kernel: for the label of the colours.
        groups: (n,) answers; entries are sorted by them, and lines part them.
        ax: where to draw.
    """
    ax = axes_or_new(ax, (4.4, 3.8))
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        similarity = similarity[np.ix_(order, order)]
    off_diagonal = similarity[~np.eye(len(similarity), dtype=bool)]
    limits = (off_diagonal.min(), off_diagonal.max()) if off_diagonal.size else (None, None)
    image = ax.imshow(similarity, cmap="cividis", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    if groups is not None:
        for edge in np.flatnonzero(np.diff(np.sort(groups))) + 0.5:
            ax.axvline(edge, color="white", linewidth=1.5)
            ax.axhline(edge, color="white", linewidth=1.5)
    names = {"l2": "− L2 distance", "l1": "− L1 distance", "cosine": "Cosine"}
    add_colorbar(ax, image, names.get(kernel, kernel))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis = "Entry, by age" if groups is None else "Entry, by answer"
    return dress(ax, f"Similarity of stored {what}", axis, axis)


def plot_components(
    components: PrincipalComponents, answers: np.ndarray | None = None, *, ax: Axes | None = None
) -> Axes:
    """Stored values on their first two principal components, coloured by the answer of the entry.

    Args:
        components: two or more.
        answers: (n,) the rewarded action of each entry.
        ax: where to draw.
    """
    ax = axes_or_new(ax, (4.4, 3.8))
    scores, share = components.scores, components.variance_explained
    second = scores[:, 1] if scores.shape[1] > 1 else np.zeros(len(scores))
    groups = np.zeros(len(scores), int) if answers is None else answers
    for place, answer in enumerate(np.unique(groups)):
        chosen = groups == answer
        ax.scatter(
            scores[chosen, 0],
            second[chosen],
            s=34,
            color=COLORS[place % len(COLORS)],
            marker=MARKERS[place % len(MARKERS)],
            edgecolor="white",
            linewidth=0.6,
            label=None if answers is None else f"answer {answer}",
        )
    if answers is not None:
        add_legend(ax)
    shares = [*share, 0.0]
    return dress(
        ax,
        "Stored values",
        f"Component 1 ({shares[0]:.0%} of variance)",
        f"Component 2 ({shares[1]:.0%} of variance)",
    )


def plot_gates(
    course: Course, *, noise_off: int | None = None, axes: Sequence[Axes] | np.ndarray | None = None
) -> np.ndarray:
    """Openness of each gate by step and encounter: four panels, that of the reinstatement gate emphasised.

    Args:
        course: (E, T, 4), from ``behavior.gate_course``.
        noise_off: first step with evidence; marked.
        axes: four axes.

    Returns:
        The four axes.
    """
    if axes is None:
        _, axes = plt.subplots(1, 4, figsize=(9.6, 2.9), sharey=True, layout="constrained")
    panels = np.asarray(axes, dtype=object).ravel()
    symbols = ("f", "i", "o", "r")
    for gate, ax in enumerate(panels):
        emphasised = GATE_ORDER[gate] == "reinstatement"
        for row, encounter in enumerate(course.encounters):
            look = {"markersize": 4.5, "linewidth": 2.2} if emphasised else {"markersize": 3, "linewidth": 1.2}
            mean, se = course.mean[row, :, gate], course.se[row, :, gate]
            _line(ax, mean, se, row, f"{ordinal(encounter)} encounter", **look)
        _noise_mark(ax, noise_off, text=False)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        dress(ax, f"{GATE_ORDER[gate].capitalize()}, ${symbols[gate]}_t$", "Step", "")
        if emphasised:
            ax.title.set_fontweight("bold")
            ax.set_facecolor("#F3F3F3")
    panels[0].set_ylabel("Openness (mean ± s.e.)", fontsize=LABEL)
    add_legend(panels[-1])
    return panels


def plot_lesions(
    conditions: Mapping[str, Course],
    *,
    encounter: int = 2,
    chance: float | None = 0.5,
    noise_off: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Accuracy by step on one encounter, one line a lesion.

    Args:
        conditions: by name; (E, T).
        encounter: which encounter is shown.
        chance: where guessing lies.
        noise_off: first step with evidence; marked.
        ax: where to draw.
    """
    ax = axes_or_new(ax, (5.2, 3.6))
    offsets = 0.1 * (np.arange(len(conditions)) - (len(conditions) - 1) / 2)
    for place, (name, course) in enumerate(conditions.items()):
        row = course.encounters.index(encounter)
        _line(ax, course.mean[row], course.se[row], place, name, offsets[place])
    level_line(ax, chance, "chance")
    _noise_mark(ax, noise_off)
    _shares(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(ax, "lower right")
    title = f"Lesions: accuracy on the {ordinal(encounter)} encounter"
    return dress(ax, title, "Step in the trial", "Right choices (mean ± s.e.)")


def plot_ladder(
    rungs: Sequence[tuple[str, float, str]], *, tolerance: float = 1e-10, ax: Axes | None = None
) -> Axes:
    """The largest difference on each rung, on a logarithmic axis, against the tolerance.

    Args:
        rungs: name, difference and path of each; names in the order of the ladder, from its foot.
        tolerance: what a difference may be at most.
        ax: where to draw.
    """
    names = list(dict.fromkeys(name for name, _, _ in rungs))
    paths = list(dict.fromkeys(path for _, _, path in rungs))
    ax = axes_or_new(ax, (8.8, max(4.4, 0.36 * len(paths))))
    floor, ceiling = 1e-18, 1e3

    def visible(difference: float) -> float:
        return ceiling if np.isnan(difference) else min(max(difference, floor), ceiling)

    for place, path in enumerate(paths):
        chosen = [(names.index(name), difference) for name, difference, p in rungs if p == path]
        rows = np.array([row for row, _ in chosen]) + 0.8 * ((place + 0.5) / len(paths) - 0.5)
        shown = [visible(difference) for _, difference in chosen]
        color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
        ax.scatter(shown, rows, s=36, color=color, marker=marker, label=path, zorder=3)
    ax.axvline(tolerance, color=BLACK, linestyle="--", linewidth=1.2)
    ax.text(
        tolerance, 1.0, f" tolerance {tolerance:.0e}", va="top", fontsize=TICK, transform=ax.get_xaxis_transform()
    )
    ax.set_xscale("log")
    highest = max([tolerance * 1e3, *(visible(difference) for _, difference, _ in rungs)])
    ax.set_xlim(floor / 2, highest * 2)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.7, len(names))  # room for the tolerance's name
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=TICK)
    return dress(ax, "Composition and reference: every rung", "Largest absolute difference (1e-18: none)", "")


# ---- shared parts ------------------------------------------------------------------------------------


def _shares(ax: Axes) -> None:
    """A vertical axis for shares, with room above 1."""
    low = min(0.35, ax.get_ylim()[0])
    ax.set_yticks([tick for tick in np.arange(0, 1.01, 0.1) if tick >= low])
    ax.set_ylim(low, 1.12)


def _noise_mark(ax: Axes, noise_off: int | None, text: bool = True) -> None:
    """A line between the last step of noise and the first with evidence."""
    if noise_off is None:
        return
    ax.axvline(noise_off - 0.5, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
    if text:
        style = {"color": GREY, "fontsize": TICK, "va": "top"}
        ax.text(noise_off - 0.4, 0.995, "evidence →", transform=ax.get_xaxis_transform(), **style)


def _line(
    ax: Axes, mean: np.ndarray, se: np.ndarray, place: int, label: str | None, offset: float = 0.0, **look: Any
) -> None:
    """Means by step, with bars for their standard errors where these are known; place: of colour and marker."""
    given: dict[str, Any] = {"markersize": 5, "linewidth": 1.6, "capsize": 2} | look
    given |= {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)]}
    bars = None if np.isnan(se).all() else np.nan_to_num(se)
    ax.errorbar(np.arange(len(mean)) + offset, mean, yerr=bars, label=label, **given)
