"""Pictures of one recorded episode, to see what happened: ``render_episode`` for each of the environments, and a
plain one of actions and rewards for any other.

Each takes a record as ``play`` returns it, and which episode of which world to draw. Colours are those of Okabe
and Ito, which colour-blind people can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .barcode_bandit import BarcodeBandit
from .environment import Task
from .two_step import TwoStep
from .water_maze import WaterMaze

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"


def render_episode(
    task: Task, record: Mapping[str, np.ndarray], episode: int = 0, world: int = 0, *, ax: Axes | None = None
) -> Axes:
    """Draw one episode.

    Args:
        task: the settings that the record was made with.
        record: as ``play`` returns it.
        episode: which of the recorded episodes, from 0.
        world: which of the M worlds, from 0.
        ax: where to draw; by default in a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: it is no task.
        ValueError: the record does not fit the task, or has no such episode or world.
    """
    if not hasattr(task, "worlds"):
        raise TypeError(f"render_episode: task must be one with worlds(); got {type(task).__name__}.")
    facts = _pick(task, record, episode, world)
    if isinstance(task, BarcodeBandit):
        ax = ax or _new_axes(5.6, 3.4)
        _bandit(task, facts, ax)
    elif isinstance(task, TwoStep):
        ax = ax or _new_axes(max(6.0, 3.2 + 0.085 * task.trials), 3.2)
        _two_step(task, facts, ax)
    elif isinstance(task, WaterMaze):
        ax = ax or _new_axes(max(3.8, 0.8 + 0.55 * task.width), 2.2 + 0.55 * task.height)
        _maze(task, facts, ax)
    else:
        ax = ax or _new_axes(max(3.8, 2.0 + 0.3 * task.length), 1.8 + 0.3 * task.n_actions)
        _plain(task, facts, ax)
    return ax


def render_exposures(
    task: WaterMaze, record: Mapping[str, np.ndarray], context: int = 0, world: int = 0
) -> Figure:
    """The water maze's episodes with one context in the first recorded epoch, one panel an exposure.

    Args:
        task: the settings that the record was made with.
        record: as ``play`` returns it.
        context: which context, from 0.
        world: which of the M worlds, from 0.

    Returns:
        The figure.

    Raises:
        TypeError: task is no WaterMaze.
        ValueError: the record does not fit the task, or has no episode with this context.
    """
    if not isinstance(task, WaterMaze):
        raise TypeError(f"render_exposures: draws WaterMaze; got {type(task).__name__}.")
    _pick(task, record, 0, world)  # checks the record
    epoch = np.asarray(record["context"])[: task.episodes, world]
    episodes = np.flatnonzero(epoch == context)
    if not len(episodes):
        raise ValueError(f"render_exposures: no recorded episode of world {world} has the context {context}.")
    width = max(1.9, 0.3 + 0.42 * task.width)
    figure, axes = plt.subplots(
        1,
        len(episodes),
        figsize=(max(width * len(episodes), 4.5), 1.7 + 0.42 * task.height),
        layout="constrained",
        squeeze=False,
    )
    for ax, episode in zip(axes[0], episodes, strict=True):
        _maze(task, _pick(task, record, int(episode), world), ax, legend=False)
    figure.legend(handles=_maze_key(), loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return figure


def _new_axes(width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _pick(task: Task, record: Mapping[str, np.ndarray], episode: int, world: int) -> dict[str, np.ndarray]:
    """The facts of one episode, (T,) each or a single number; checked, because the record is the user's."""
    needs = {
        BarcodeBandit: ("action", "reward", "good_arm"),
        TwoStep: ("first_action", "common", "state", "outcome", "cued", "good_state", "old_trial"),
        WaterMaze: ("position", "arrived", "goal", "reached"),
    }.get(type(task), ("action", "reward"))  # type: ignore[call-overload]
    name = type(task).__name__
    missing = [key for key in (*needs, "context", "exposure") if key not in record]
    if missing:
        raise ValueError(f"{name}: the record lacks {', '.join(missing)}; make it with play().")
    shape = np.shape(record[needs[0]])
    if len(shape) != 3 or shape[2] != task.length:
        raise ValueError(
            f"{name}: the record must have the shape (episodes, M, {task.length}) of this task; got {shape}."
        )
    for what, index, n in (("episode", episode, shape[0]), ("world", world, shape[1])):
        if not 0 <= index < n:
            raise ValueError(f"{name}: the record has {n} {what}s, from 0; got {what} {index}.")
    return {key: np.asarray(record[key])[episode, world] for key in (*needs, "context", "exposure")}


def _plain(task: Task, facts: dict[str, np.ndarray], ax: Axes) -> None:
    """What was done and what it paid, of any task."""
    handles = _actions(task, facts, ax, facts["reward"] > 0, ("reward > 0", "no reward"))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small")
    ax.set(xlabel="step", ylabel="action", title=f"Context {facts['context']}, exposure {facts['exposure']}")


def _actions(
    task: Task, facts: dict[str, np.ndarray], ax: Axes, paid: np.ndarray, labels: tuple[str, str]
) -> list[Line2D]:
    """The actions by step, filled where they were paid; what the two marks mean, for a legend."""
    steps, action = np.arange(1, task.length + 1), facts["action"]
    ax.plot(steps, action, color=GREY, lw=0.8, zorder=1)
    ax.scatter(steps[paid], action[paid], s=60, color=BLUE, zorder=2)
    ax.scatter(steps[~paid], action[~paid], s=60, facecolor="white", edgecolor=BLUE, zorder=2)
    ax.set(xlim=(0.4, task.length + 0.6), ylim=(task.n_actions - 0.4, -0.6))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    return [_mark(BLUE, BLUE, labels[0]), _mark(BLUE, "white", labels[1])]


def _bandit(task: BarcodeBandit, facts: dict[str, np.ndarray], ax: Axes) -> None:
    good, paid = int(facts["good_arm"][0]), facts["reward"] == 1
    ax.axhspan(good - 0.5, good + 0.5, color=GREEN, alpha=0.18, lw=0)
    marks = _actions(task, facts, ax, paid, ("reward 1", "reward 0"))
    handles = [Rectangle((0, 0), 1, 1, color=GREEN, alpha=0.18, lw=0, label="good arm"), *marks]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small")
    title = f"Barcode {facts['context']}, exposure {facts['exposure']}: {int(paid.sum())} of {task.pulls} paid"
    ax.set(xlabel="pull", ylabel="arm", title=title)


def _two_step(task: TwoStep, facts: dict[str, np.ndarray], ax: Axes) -> None:
    facts = {name: values[::2] if values.ndim else values for name, values in facts.items()}
    trials = np.arange(task.trials)
    tall = 0.42
    for row, (values, zero, one) in enumerate(
        (
            (facts["good_state"], ORANGE, BLUE),
            (facts["first_action"], ORANGE, BLUE),
            (facts["state"], ORANGE, BLUE),
        )
    ):
        colours = np.where(values == 0, zero, one)
        ax.bar(trials, 2 * tall, bottom=row - tall, width=1.0, color=list(colours), lw=0)
    rare = ~facts["common"].astype(bool)
    ax.scatter(trials[rare], np.full(rare.sum(), 1.5), marker="x", s=18, color="black", lw=1.2)
    paid = facts["outcome"] == 1
    ax.scatter(trials[paid], np.full(paid.sum(), 3.0), s=16, color=GREEN)
    ax.scatter(trials[~paid], np.full((~paid).sum(), 3.0), s=16, facecolor="white", edgecolor=GREY)
    cued = facts["cued"].astype(bool)
    old = facts["old_trial"][cued]
    height = 4.0
    now = facts["state"][cued]
    repeats = now == facts["state"][old]
    old_paid = facts["outcome"][old] == 1
    ax.scatter(trials[cued][old_paid], np.full(old_paid.sum(), height), s=16, color=GREEN)
    ax.scatter(
        trials[cued][~old_paid], np.full((~old_paid).sum(), height), s=16, facecolor="white", edgecolor=GREY
    )
    old_state = facts["state"][old]
    ax.bar(
        trials[cued],
        2 * tall,
        bottom=5 - tall,
        width=1.0,
        color=list(np.where(old_state == 0, ORANGE, BLUE)),
        lw=0,
    )
    ax.scatter(
        trials[cued][repeats], np.full(repeats.sum(), 5.62), marker="v", s=14, color="black", lw=0, zorder=3
    )
    ax.axvline(task.uncued - 0.5, color="black", lw=0.8, ls=":")
    ax.set_yticks(range(6), ["good state", "first action", "state reached", "reward", "old reward", "old state"])
    ax.tick_params(axis="y", length=0)
    ax.set(
        xlabel="trial",
        xlim=(-1, task.trials),
        ylim=(6.0, -0.6),
        title=f"Two-step task: mean reward {facts['outcome'][~cued].mean():.2f} uncued, "
        f"{facts['outcome'][cued].mean():.2f} cued",
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right", "left"]].set_visible(False)
    handles = [
        Rectangle((0, 0), 1, 1, color=ORANGE, label="0"),
        Rectangle((0, 0), 1, 1, color=BLUE, label="1"),
        _mark(GREEN, GREEN, "reward 1"),
        _mark(GREY, "white", "reward 0"),
        Line2D([], [], ls="", marker="x", color="black", label="rare transition"),
        Line2D([], [], ls="", marker="v", color="black", label="old state again:\nreward repeats"),
    ]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1), frameon=False, fontsize="small")


def _maze(task: WaterMaze, facts: dict[str, np.ndarray], ax: Axes, *, legend: bool = True) -> None:
    goal_row, goal_column = divmod(int(facts["goal"][0]), task.width)
    ax.add_patch(Rectangle((goal_column - 0.5, goal_row - 0.5), 1, 1, color=GREEN, alpha=0.35, lw=0))
    reached = facts["reached"].astype(bool)
    # The steps up to each goal are one path; what follows a restart is the next.
    ends = [*(np.flatnonzero(reached) + 1), task.horizon]
    begin = 0
    for number, end in enumerate(ends):
        if end == begin:
            continue
        cells = np.concatenate([facts["position"][begin : begin + 1], facts["arrived"][begin:end]])
        rows, columns = np.divmod(cells, task.width)
        # Each path a little off the middle, so that steps back and forth stay visible.
        shift = np.linspace(-0.16, 0.16, len(cells)) if number == 0 else np.full(len(cells), 0.24)
        colour, strong = (BLUE, 1.8) if number == 0 else (GREY, 0.8)
        ax.plot(columns + shift, rows + shift, color=colour, lw=strong, alpha=0.9, zorder=2 - (number > 0))
        if number == 0:
            ax.scatter(columns[0] + shift[0], rows[0] + shift[0], s=46, color=BLUE, zorder=3)
            ax.scatter(
                columns[-1] + shift[-1],
                rows[-1] + shift[-1],
                s=46,
                marker="s",
                facecolor="white",
                edgecolor=BLUE,
                linewidth=1.6,
                zorder=3,
            )
        begin = end
    ax.set_xticks(np.arange(task.width + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(task.height + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="#DDDDDD", lw=0.8)
    ax.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    ax.set_axisbelow(True)
    ax.set(xlim=(-0.5, task.width - 0.5), ylim=(task.height - 0.5, -0.5), aspect="equal")
    if reached.any():
        n = int(reached.argmax()) + 1
        text = f"goal after {n} step{'s' * (n > 1)}"
    else:
        text = "goal not found"
    n = int(reached.sum())
    title = f"exposure {facts['exposure']}\n{text}" + f"\n{n} goal{'s' * (n > 1)} in all" * (n > 0)
    ax.set_title(title, fontsize="medium", loc="left")
    if legend:
        ax.legend(
            handles=_maze_key(),
            loc="upper center",
            bbox_to_anchor=(0.5, -0.02),
            ncols=2,
            frameon=False,
            fontsize="small",
        )


def _maze_key() -> list:
    return [
        Rectangle((0, 0), 1, 1, color=GREEN, alpha=0.35, lw=0, label="goal"),
        Line2D([], [], color=BLUE, lw=1.8, marker="o", label="first path, from here"),
        Line2D([], [], ls="", marker="s", markerfacecolor="white", markeredgecolor=BLUE, label="its end"),
        Line2D([], [], color=GREY, lw=0.8, label="after restarts"),
    ]


def _mark(edge: str, face: str, label: str) -> Line2D:
    return Line2D([], [], ls="", marker="o", markeredgecolor=edge, markerfacecolor=face, label=label)
