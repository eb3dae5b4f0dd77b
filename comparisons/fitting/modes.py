"""Posterior modes, and the curvature there, of many problems at once: one likelihood and one normal prior each.

All is done in units of the prior, u = (z − mean) / sd, in which the prior alone has a Hessian of 1, whatever the
parameters' scales: steps, tolerances and curvatures mean the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .batches import Batches
from .minimise import ROUNDING, Minima, largest

HESSIAN_STEP = 1e-4
"""Of the central differences of gradients, in prior standard deviations: rounding and truncation both ~1e-9."""
WIDTH = 2.0
"""Posterior standard deviations over which curvature is measured: the half width of a 95 % interval."""
WIDENINGS = 4
"""How often the width is set anew by the curvature that was found over it."""
LEAST_EIGENVALUE = 1e-10
"""A Hessian is positive definite if its least eigenvalue is above this share of its largest."""


@dataclass(frozen=True, eq=False)
class Problems:
    """n problems: log p(data of a participant | z) + log N(z; mean, sd²), each to be maximised."""

    batches: Batches
    participants: np.ndarray
    """(n,) int: whose data; several problems may be of one participant."""
    mean: np.ndarray
    """(n, k), of the priors of z."""
    sd: np.ndarray
    """(n, k), of the priors of z."""

    def only(self, rows: np.ndarray) -> Problems:
        """Some of the problems."""
        return Problems(self.batches, self.participants[rows], self.mean[rows], self.sd[rows])

    def in_units(self, z: np.ndarray) -> np.ndarray:
        """z (n, k) → u (n, k)."""
        return (z - self.mean) / self.sd

    def function(
        self, u: np.ndarray, rows: np.ndarray, with_gradient: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """−log posterior density of z at u (m, k), (m,), and its gradient by u (m, k), of some of the problems.

        The gradient is NaN if it is not asked for.
        """
        z = self.mean[rows] + self.sd[rows] * u
        value, gradient = self.batches(z, self.participants[rows], with_gradient)
        constant = 0.5 * u.shape[1] * np.log(2 * np.pi) + np.log(self.sd[rows]).sum(axis=1)
        return 0.5 * (u**2).sum(axis=1) + constant - value, u - self.sd[rows] * gradient


@dataclass(frozen=True, eq=False)
class Modes:
    """Where the search for n modes ended, and Laplace's approximation there."""

    z: np.ndarray
    """(n, k)"""
    log_posterior: np.ndarray
    """(n,): log-likelihood + log prior, at z; −∞ where the start had none that is finite."""
    slope: np.ndarray
    """(n,): largest component of the gradient there, in nats per prior standard deviation."""
    iterations: np.ndarray
    """(n,) int"""
    stuck: np.ndarray
    """(n,) bool: no step goes up from z, though the slope is above the tolerance."""
    hessian: np.ndarray
    """(n, k, k): of −log posterior, in units of the prior; NaN where not finite."""
    covariance: np.ndarray
    """(n, k, k): of z; NaN where the Hessian is not positive definite."""

    @property
    def condition(self) -> np.ndarray:
        """(n,): largest / least eigenvalue of the Hessian; NaN where it is not positive definite."""
        values = eigenvalues(self.hessian)
        with np.errstate(invalid="ignore", divide="ignore"):
            condition = values.max(axis=1, initial=1.0) / values.min(axis=1, initial=np.inf)
        return np.where(definite(self.hessian), condition, np.nan)

    def with_rows(self, rows: np.ndarray, others: Modes) -> Modes:
        """These, with some of them replaced."""
        new = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, values in new.items():
            values[rows] = getattr(others, name)
        return Modes(**new)


def laplace(problems: Problems, found: Minima) -> Modes:
    """Laplace's approximation at what a search has found; a Newton step first, where it leads nearer."""
    local = hessians(problems, found.x)
    good = definite(local)
    x = found.x - np.where(good[:, None], np.einsum("nij,nj->ni", _inverses(local, good), found.gradient), 0.0)
    hessian = widened(problems, found.x, found.value, local)
    value, gradient = problems.function(x, np.arange(len(x)))
    with np.errstate(invalid="ignore"):
        nearer = (largest(gradient) < found.slope) & (value <= found.value + ROUNDING * np.abs(found.value))
    x = np.where(nearer[:, None], x, found.x)
    z = problems.mean + problems.sd * x
    scale = np.where(good[:, None, None], problems.sd[:, :, None] * problems.sd[:, None, :], np.nan)
    return Modes(
        z=z,
        log_posterior=-np.where(nearer, value, found.value),
        slope=np.where(nearer, largest(gradient), found.slope),
        iterations=found.iterations,
        stuck=found.stuck,
        hessian=hessian,
        covariance=scale * _inverses(hessian, good),
    )


def _inverses(matrices: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Of those (n, k, k) that are good, (n,) bool; the identity for the others."""
    return np.linalg.inv(np.where(good[:, None, None], matrices, np.eye(matrices.shape[1])))


def widened(problems: Problems, u: np.ndarray, value: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """The curvature over the width of the posterior, in place of that at a point: (n, k, k).

    The network makes the likelihood rough: a mode may be a small peak on a wide hill, and the second derivative at
    its top says how sharp the peak is, not how wide the posterior is. Along each axis of the Hessian the drop of
    the log posterior is measured ``WIDTH`` standard deviations to both sides, λ = 2 · drop / step², and the steps
    are set anew by what comes out. Where the posterior is normal, nothing changes.

    Given modes u (n, k) in units of the prior, −log posterior there (n,), and Hessians there (n, k, k).
    """
    which = np.flatnonzero(definite(hessian))
    k = u.shape[1]
    if not len(which) or not k:
        return hessian
    roots, axes = np.linalg.eigh(hessian[which])
    for _ in range(WIDENINGS):
        step = WIDTH / np.sqrt(roots)
        moves = np.stack([step, -step], 1)[..., None] * axes.transpose(0, 2, 1)[:, None]  # (m, 2, axis, k)
        probes = (u[which, None, None] + moves).reshape(-1, k)
        there, _ = problems.function(probes, np.repeat(which, 2 * k), with_gradient=False)
        drop = (there.reshape(len(which), 2, k) - value[which, None, None]).mean(1)
        usable = np.isfinite(drop) & (drop > 0)  # beyond a better mode, or outside of what is possible: as it was
        # bounded, so that a single step across another hill does not decide
        found = np.where(usable, 2 * np.where(usable, drop, 1.0) / step**2, roots)
        roots = np.clip(found, roots / 16, roots * 4)
    wide = hessian.copy()
    wide[which] = np.einsum("nij,nj,nkj->nik", axes, roots, axes)
    return wide


def hessians(problems: Problems, u: np.ndarray) -> np.ndarray:
    """Hessians of −log posterior in units of the prior, (n, k, k), by central differences of gradients."""
    n, k = u.shape
    probes = u[:, None, None] + HESSIAN_STEP * np.array([1.0, -1.0])[:, None, None] * np.eye(k)
    _, gradient = problems.function(probes.reshape(2 * n * k, k), np.repeat(np.arange(n), 2 * k))
    gradient = gradient.reshape(n, 2, k, k)
    hessian = (gradient[:, 0] - gradient[:, 1]) / (2 * HESSIAN_STEP)
    hessian = 0.5 * (hessian + hessian.transpose(0, 2, 1))
    return np.where(np.isfinite(hessian).all(axis=(1, 2), keepdims=True), hessian, np.nan)


def eigenvalues(hessian: np.ndarray) -> np.ndarray:
    """Of symmetric matrices (n, k, k), ascending: (n, k); NaN for those that have NaN."""
    finite = np.asarray(np.isfinite(hessian).all(axis=(1, 2)))
    values = np.linalg.eigvalsh(np.where(finite[:, None, None], hessian, 0.0))
    return np.where(finite[:, None], values, np.nan)


def definite(hessian: np.ndarray) -> np.ndarray:
    """Which matrices (n, k, k) are positive definite with a margin for rounding: (n,) bool."""
    values = eigenvalues(hessian)
    return (values > LEAST_EIGENVALUE * values.max(axis=1, initial=0.0)[:, None]).all(axis=1)
