"""Contextual water maze: find a hidden goal, and go straight to it when the barcode comes back.

After the contextual water maze of Ritter et al. (2018), whose details are not established here: everything but
the idea is ours. A grid of cells; the goal cell is hidden, and fixed by the context's barcode. Reaching it pays 1
and restarts the agent at a random other cell; an episode lasts T = ``horizon`` steps whatever happens. Contexts
come from a bag as in the barcode bandit: each ``exposures`` times an epoch, drawn from without replacement. The
memory is cleared between epochs; it is read at all steps, and c_t is stored at the last step of an episode.

x_t = [barcode, position, one-hot previous action, previous reward]; the last two are 0 at the first step. The
position is one-hot over the cells, row by row, or (row, column), each scaled to 0 … 1. After the goal is reached,
the next input shows the cell of the restart. Actions: 0 up, 1 right, 2 down, 3 left; at a wall the agent stays.

What is computed (defaults; steps to the first goal are counted up to the horizon, min(steps, T), and are T for
episodes without a goal):

                               steps to the first goal   goals an episode
    informed: known goal              3.33                  7.42
    searching: no memory             12.50 at least
    random walk                      19.33                   .54

The others are exact; 12.50 is a bound, because each step visits at most one new cell. It is reached from a start
from which one path visits every other cell just once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .environment import Policy, Worlds, check_barcodes, check_whole, draw_bag, draw_barcodes

MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
"""(rows, columns) of the actions up, right, down, left."""
ACTION_NAMES = ("up", "right", "down", "left")


@dataclass(frozen=True)
class WaterMaze:
    """The contextual water maze. All defaults are ours.

    Raises:
        ValueError: a setting is out of its range, or they do not fit together; the message says which.
    """

    height: int = 5
    """Rows of the grid."""
    width: int = 5
    """Columns of the grid; the grid has at least two cells."""
    horizon: int = 25
    """Steps of an episode, T."""
    contexts: int = 10
    """Different barcodes in an epoch, each with a goal drawn from all cells; goals may coincide."""
    exposures: int = 5
    """Episodes with each barcode in an epoch."""
    barcode_bits: int = 20
    """Bits of a barcode; all zeros is none."""
    position: Literal["one_hot", "coordinates"] = "one_hot"
    """How x_t shows the position: one column a cell, or row and column, scaled to 0 … 1."""
    step_cost: float = 0.0
    """Taken from the reward at each step, 0 to 1."""

    def __post_init__(self) -> None:
        check_whole(self, height=1, width=1, horizon=1, contexts=1, exposures=1)
        if self.height * self.width < 2:
            raise ValueError("WaterMaze: a grid of one cell has a goal and no start; raise height or width.")
        if self.position not in ("one_hot", "coordinates"):
            raise ValueError(f"WaterMaze: position must be 'one_hot' or 'coordinates'; got {self.position!r}.")
        cost = self.step_cost
        if not isinstance(cost, (int, float, np.number)) or isinstance(cost, bool) or not 0 <= cost <= 1:
            raise ValueError(f"WaterMaze: step_cost must be a number from 0 to 1; got {cost!r}.")
        check_barcodes(self, self.contexts, "contexts")

    n_actions = 4

    @property
    def cells(self) -> int:
        """Cells of the grid, numbered row by row."""
        return self.height * self.width

    @property
    def position_size(self) -> int:
        """Columns of the position in x_t."""
        return self.cells if self.position == "one_hot" else 2

    @property
    def input_size(self) -> int:
        """Columns of x_t: barcode, position, one-hot previous action, previous reward."""
        return self.barcode_bits + self.position_size + self.n_actions + 1

    @property
    def key_columns(self) -> tuple[int, int]:
        """The (start, stop) columns of the barcode."""
        return 0, self.barcode_bits

    @property
    def length(self) -> int:
        """Steps of an episode, T."""
        return self.horizon

    @property
    def episodes(self) -> int:
        """Episodes of an epoch."""
        return self.contexts * self.exposures

    @property
    def reward_range(self) -> tuple[float, float]:
        """The least and the greatest reward of a step."""
        return -self.step_cost, 1 - self.step_cost

    @property
    def chance(self) -> float:
        """Expected reward a step of a random walk. Exact."""
        return float(random_walk(self)[1].mean()) - self.step_cost

    @property
    def informed(self) -> float:
        """Expected reward a step of who knows the goal and walks straight to it, again and again. Exact."""
        return float(known_goal(self)[1].mean()) - self.step_cost

    def worlds(self, rngs: Sequence[np.random.Generator]) -> MazeWorlds:
        """M parallel copies, one for each generator."""
        return MazeWorlds(self, rngs)


class MazeWorlds(Worlds):
    """M water mazes in lockstep.

    Facts: ``action``, ``reward``, ``position`` (before the step), ``arrived`` (the cell that the step led to),
    ``next_position`` (where the next step begins: another cell after a restart), ``goal``, ``reached`` (whether
    the step led to the goal).
    """

    task: WaterMaze
    _epoch: dict[str, np.ndarray]

    def __init__(self, task: WaterMaze, rngs: Sequence[np.random.Generator]) -> None:
        super().__init__(task, rngs)
        self._after = next_cells(task)
        rows, columns = np.divmod(np.arange(task.cells), task.width)
        scaled = (rows / max(task.height - 1, 1), columns / max(task.width - 1, 1))
        self._places = np.eye(task.cells) if task.position == "one_hot" else np.stack(scaled, axis=1)

    def _draw_epoch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        task = self.task
        barcodes = draw_barcodes(task.contexts, task.barcode_bits, rng)
        goals = rng.integers(0, task.cells, task.contexts)
        context, exposure = draw_bag(task.contexts, task.exposures, rng)
        goal = goals[context]
        # One start and a restart for each step, used or not: what comes later does not depend on the actions.
        starts = rng.integers(0, task.cells - 1, (task.episodes, task.horizon + 1))
        return {
            "context": context,
            "exposure": exposure,
            "barcode": barcodes[context].astype(float),
            "goal": goal,
            "starts": starts + (starts >= goal[:, None]),  # all cells but the goal, equally often
        }

    def _start(self) -> None:
        self._barcode = self._epoch["barcode"][:, self.episode]
        self._goal = self._epoch["goal"][:, self.episode]
        self._starts = self._epoch["starts"][:, self.episode]
        self._position = self._starts[:, 0]

    def _shown(self) -> np.ndarray:
        return np.concatenate([self._barcode, self._places[self._position]], axis=1)

    def _move(self, actions: np.ndarray) -> np.ndarray:
        before = self._position
        arrived = self._after[before, actions]
        reached = arrived == self._goal
        self._position = np.where(reached, self._starts[:, self.step + 1], arrived)
        rewards = reached - self.task.step_cost
        self._facts = {
            "action": actions,
            "reward": rewards,
            "position": before,
            "arrived": arrived,
            "next_position": self._position,
            "goal": self._goal,
            "reached": reached,
        }
        return rewards


def next_cells(task: WaterMaze) -> np.ndarray:
    """Where each action leads from each cell, (cells, 4) int; at a wall, the same cell."""
    rows, columns = np.divmod(np.arange(task.cells), task.width)
    to_row = np.clip(rows[:, None] + MOVES[:, 0], 0, task.height - 1)
    to_column = np.clip(columns[:, None] + MOVES[:, 1], 0, task.width - 1)
    return to_row * task.width + to_column


# ---- what an analysis needs ------------------------------------------------------------------------------


def steps_to_goal(record: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Steps to the first goal of each episode.

    Args:
        record: with ``reached``, (episodes, M, T), as ``play`` returns it.

    Returns:
        The steps, (episodes, M) int, from 1; T where the goal was not reached. And whether it was, (episodes, M).

    Raises:
        ValueError: the record has no ``reached`` of that shape.
    """
    reached = np.asarray(record.get("reached"))
    if reached.ndim != 3:
        raise ValueError("steps_to_goal: needs a record with reached, (episodes, M, T), the facts of WaterMaze.")
    found = np.any(reached, axis=2)
    return np.where(found, np.argmax(reached, axis=2) + 1, reached.shape[-1]), np.asarray(found)


def steps_by_exposure(record: Mapping[str, np.ndarray]) -> dict[int, tuple[float, float]]:
    """Mean steps to the first goal for each exposure, and the standard error over worlds (NaN for one world).

    Args:
        record: with ``reached`` (episodes, M, T) and ``exposure`` (episodes, M), as ``play`` returns it.

    Raises:
        ValueError: the record lacks one of them.
    """
    steps, _ = steps_to_goal(record)
    exposure = np.asarray(record.get("exposure"))
    if exposure.shape != steps.shape:
        raise ValueError(
            f"steps_by_exposure: exposure must have the shape (episodes, M) = {steps.shape}; got {exposure.shape}."
        )
    course = {}
    for number in np.unique(exposure):
        seen = exposure == number
        worlds = seen.any(0)
        means = np.where(seen, steps, 0).sum(0)[worlds] / seen.sum(0)[worlds]
        se = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
        course[int(number)] = (float(means.mean()), float(se))
    return course


# ---- optima and chance -----------------------------------------------------------------------------------


def random_walk(task: WaterMaze) -> tuple[float, np.ndarray]:
    """A random walk: expected steps to the first goal, min(steps, T), and P(goal) at each step, (T,). Exact.

    The Markov chain of the position, for each goal, from a random other cell; averaged over goals.
    """
    after = next_cells(task)
    step = np.zeros((task.cells, task.cells))
    np.add.at(step, (np.arange(task.cells)[:, None], after), 1 / task.n_actions)
    return _courses(task, [step] * task.cells)


def known_goal(task: WaterMaze) -> tuple[float, np.ndarray]:
    """Shortest paths to a known goal: expected steps, min(steps, T), and P(goal) at each step, (T,). Exact.

    With a horizon of at least height + width − 2, the steps are the mean Manhattan distance of two different
    cells, (height + width) / 3.
    """
    after, rows = next_cells(task), np.arange(task.cells)
    steps = []
    for goal in range(task.cells):
        step = np.zeros((task.cells, task.cells))
        step[rows, after[rows, _straight(task, rows, np.full(task.cells, goal))]] = 1
        steps.append(step)
    return _courses(task, steps)


def searching(task: WaterMaze) -> float:
    """Least expected steps to the first goal, min(steps, T), of an agent that does not know where the goal is.

    A lower bound: all cells but the start are as likely, and t steps visit at most t of them, so that
    P(steps > t) ≥ 1 − t / (cells − 1). It is exact for grids with a closed path through all cells (height and
    width above 1, not both odd), and otherwise for the starts from which a path visits each other cell once.
    """
    t = np.arange(task.horizon)
    return float(np.maximum(0, 1 - t / (task.cells - 1)).sum())


class KnownGoal(Policy):
    """Walks straight to the goals that it is told: the agent of ``known_goal``.

    Args:
        worlds: the worlds it acts in; it looks up their goals.
    """

    def __init__(self, worlds: MazeWorlds) -> None:
        self.worlds = worlds

    def act(self, inputs: np.ndarray) -> np.ndarray:
        """The first step of a shortest path, (M,): rows first, then columns."""
        return _straight(self.worlds.task, self.worlds._position, self.worlds._goal)


def _straight(task: WaterMaze, position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    row, column = np.divmod(position, task.width)
    goal_row, goal_column = np.divmod(goal, task.width)
    sideways = np.where(goal_column > column, 1, 3)
    return np.where(goal_row < row, 0, np.where(goal_row > row, 2, sideways))


def _courses(task: WaterMaze, steps: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Expected min(steps, T) to the first goal, and P(goal) at each step; steps[g] (cells, cells) if g is goal."""
    first, goals = 0.0, np.zeros(task.horizon)
    for goal, step in enumerate(steps):
        start = np.full(task.cells, 1 / (task.cells - 1))
        start[goal] = 0
        looking, here = start, start
        for t in range(task.horizon):
            first += looking.sum() / task.cells
            looking, here = looking @ step, here @ step
            looking[goal] = 0
            arrived, here[goal] = here[goal], 0
            goals[t] += arrived / task.cells
            here = here + arrived * start
    return first, goals
