"""Many small smooth problems minimised at once: BFGS in each of them, one call of the function a round for all.

Every problem has its own iterate, inverse Hessian and line search, and moves on as soon as its own trial step is
good; those that are done are not evaluated again. BFGS as in Nocedal & Wright (2006, ch. 6), the line search for
the weak Wolfe conditions by bracketing and bisection as in Lewis & Overton (2013), which needs no finite values
beyond the current point: where the function is infinite or NaN, the step is halved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

Function = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""x (m, k) and which problems these are (m,) int → values (m,) and gradients (m, k)."""

DECREASE = 1e-4
"""Weak Wolfe conditions: the least decrease, as a share of what the slope promises, ..."""
CURVATURE = 0.9
"""... and the most that may be left of the slope."""
LONGEST_STEP = 2.0
"""Of any coordinate in one iteration: a far jump on to a plateau is not seen from there."""
MOST_TRIALS = 30
"""Halvings or doublings of one step before a problem counts as stuck."""
ROUNDING = 1e-13
"""Relative accuracy of a value: smaller changes are none."""
MOST_IDLE = 10
"""Steps in a row without a change of the value before a problem counts as stuck."""


@dataclass(frozen=True, eq=False)
class Minima:
    """Where n problems ended."""

    x: np.ndarray
    """(n, k)"""
    value: np.ndarray
    """(n,); infinite where the start had no finite value or gradient: such problems stay where they started."""
    gradient: np.ndarray
    """(n, k)"""
    iterations: np.ndarray
    """(n,) int: steps taken."""
    stuck: np.ndarray
    """(n,) bool: no step from x makes the value smaller, though the gradient is above the tolerance."""

    def only(self, rows: np.ndarray) -> Minima:
        """Some of the problems."""
        return Minima(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def slope(self) -> np.ndarray:
        """(n,): the largest component of each gradient, without its sign; NaN where there is none."""
        return largest(self.gradient)


def largest(rows: np.ndarray) -> np.ndarray:
    """The largest absolute value of each row, (n, k) → (n,): 0 if k = 0."""
    return np.abs(rows).max(axis=1, initial=0.0)


def minimise(
    function: Function,
    start: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int,
    after_round: Callable[[np.ndarray], object] | None = None,
) -> Minima:
    """Minimise n functions of k variables each.

    Args:
        function: values and gradients of some of the problems. Not finite is allowed.
        start: (n, k). Coordinates should be of comparable scale, and of a size of about 1.
        tolerance: a problem is done when no component of its gradient is larger.
        max_iterations: a problem stops after so many steps.
        after_round: called with the (n,) bool problems that are still under way.
    """
    x = np.array(start, dtype=float)
    n, k = x.shape
    value, gradient = _finite(*function(x, np.arange(n)))
    iterations, idle, stuck = np.zeros(n, int), np.zeros(n, int), np.zeros(n, bool)
    search = _Searches(n, k)
    under_way = np.isfinite(value) & (largest(gradient) > tolerance) & (max_iterations > 0)
    search.aim(np.flatnonzero(under_way), gradient)
    while under_way.any():
        rows = np.flatnonzero(under_way)
        new = x[rows] + search.step[rows, None] * search.direction[rows]
        new_value, new_gradient = _finite(*function(new, rows))
        good = search.judge(rows, value[rows], gradient[rows], new_value, new_gradient)
        taken = rows[good]
        search.learn(taken, new[good] - x[taken], new_gradient[good] - gradient[taken], iterations[taken] == 0)
        better = new_value[good] < value[taken] - ROUNDING * np.abs(value[taken])
        idle[taken] = np.where(better, 0, idle[taken] + 1)
        x[taken], value[taken], gradient[taken] = new[good], new_value[good], new_gradient[good]
        iterations[taken] += 1
        small = largest(gradient[rows]) <= tolerance
        stuck[rows] = ~small & ((search.trials[rows] >= MOST_TRIALS) | (idle[rows] >= MOST_IDLE))
        under_way[rows] = ~stuck[rows] & ~small & (iterations[rows] < max_iterations)
        search.aim(taken, gradient)
        if after_round is not None:
            after_round(under_way)
    return Minima(x, value, gradient, iterations, stuck)


def _finite(value: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, infinite where they or the gradient are not finite."""
    usable = np.isfinite(value) & np.isfinite(gradient).all(axis=1)
    return np.where(usable, value, np.inf), gradient


class _Searches:
    """The line searches of n problems, and the inverse Hessians that direct them."""

    def __init__(self, n: int, k: int) -> None:
        self.inverse = np.tile(np.eye(k), (n, 1, 1))
        self.direction = np.zeros((n, k))
        self.step = np.ones(n)
        self.longest = np.ones(n)
        self.low, self.high = np.zeros(n), np.full(n, np.inf)
        self.trials = np.zeros(n, int)

    def aim(self, rows: np.ndarray, gradient: np.ndarray) -> None:
        """Begin new searches, from the current gradients (n, k) of all."""
        direction = -np.einsum("pij,pj->pi", self.inverse[rows], gradient[rows])
        # Rounding can spoil the inverse: the gradient itself always leads down.
        up = np.einsum("pi,pi->p", direction, gradient[rows]) >= 0
        self.inverse[rows[up]] = np.eye(self.inverse.shape[1])
        direction[up] = -gradient[rows[up]]
        self.direction[rows] = direction
        self.longest[rows] = LONGEST_STEP / np.maximum(largest(direction), np.finfo(float).tiny)
        self.step[rows] = np.minimum(1.0, self.longest[rows])
        self.low[rows], self.high[rows], self.trials[rows] = 0.0, np.inf, 0

    def judge(
        self, rows: np.ndarray, value: np.ndarray, gradient: np.ndarray, new_value: np.ndarray, new: np.ndarray
    ) -> np.ndarray:
        """Which trial steps are good, (m,) bool; those of the others are made shorter or longer."""
        direction, step = self.direction[rows], self.step[rows]
        slope = np.einsum("pi,pi->p", direction, gradient)
        with np.errstate(invalid="ignore"):  # a gradient that is not finite belongs to an infinite value
            new_slope = np.einsum("pi,pi->p", direction, new)
        lower = new_value <= value + DECREASE * step * slope + ROUNDING * np.abs(value)
        flatter = (new_slope >= CURVATURE * slope) | (step >= self.longest[rows])
        short, long = rows[lower & ~flatter], rows[~lower]
        self.low[short], self.high[long] = self.step[short], self.step[long]
        again = np.concatenate([short, long])
        bracketed = np.isfinite(self.high[again])
        self.step[again] = np.where(
            bracketed,
            0.5 * (self.low[again] + np.where(bracketed, self.high[again], 0.0)),
            np.minimum(2.0 * self.step[again], self.longest[again]),
        )
        self.trials[again] += 1
        return lower & flatter

    def learn(self, rows: np.ndarray, moved: np.ndarray, turned: np.ndarray, first: np.ndarray) -> None:
        """BFGS update of the inverse Hessians, from steps (m, k) and changes of the gradient (m, k)."""
        curvature = np.einsum("pi,pi->p", moved, turned)
        size = np.einsum("pi,pi->p", turned, turned)
        use = curvature > 1e-10 * np.sqrt(size * np.einsum("pi,pi->p", moved, moved))
        rows, moved, turned, first = rows[use], moved[use], turned[use], first[use]
        curvature, size = curvature[use, None, None], size[use, None, None]
        identity = np.eye(self.inverse.shape[1])
        # Before the first update: the identity in the scale of this problem (Nocedal & Wright, eq. 6.20).
        inverse = np.where(first[:, None, None], curvature / size * identity, self.inverse[rows])
        left = identity - np.einsum("pi,pj->pij", moved, turned) / curvature
        outer = np.einsum("pi,pj->pij", moved, moved) / curvature
        self.inverse[rows] = left @ inverse @ left.transpose(0, 2, 1) + outer
