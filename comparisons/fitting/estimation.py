"""Maximum a posteriori estimates, person by person, with Laplace's approximation of their uncertainty.

ẑ_p maximises log p(D_p|z) + log N(z; μ, σ²), and the posterior is taken for N(ẑ_p, Σ_p), with Σ_p the inverse of
the negative Hessian at the mode. Every person's problem stands alone: people are computed side by side only to
share the cost of calls. Convergence is looked at and reported, never assumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from .minimise import Minima, minimise
from .objective import Objective
from .results import Fit

AGREE = 0.1
"""Restarts whose log posterior is within so many nats of the best have found the same."""
STEP = 1e-4
"""Of the central differences of the gradient, in prior standard deviations: their error is about 1e-8 then."""
HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)

Progress = Callable[[int, int], None]
"""Is told how many are done, and of how many."""


def log_normal(z: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Log density of independent normal distributions, summed over the last axis."""
    return (-0.5 * ((z - mean) / sd) ** 2 - np.log(sd) - HALF_LOG_2PI).sum(-1)


def fit_map(
    objective: Objective,
    *,
    model: str = "",
    restarts: int = 4,
    seed: int = 0,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
    start: np.ndarray | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    progress: Progress | None = None,
) -> Fit:
    """The mode of each participant's posterior, and its curvature.

    Args:
        objective: the log-likelihoods.
        model: name of the variant, for tables.
        restarts: searches of each participant: from the prior's mean, and from draws from the prior. The draws of
            a participant depend on the seed and their id alone.
        seed: of the draws.
        prior: mean, (k,) or (P, k), and standard deviation, (k,), of z; by default those of the parameters.
        start: (P, k): where the first search of each participant begins in place of the prior's mean.
        max_iterations: of each search.
        tolerance: a search ends when no component of the gradient (nats per prior standard deviation) is larger.
        progress: called with the number of searches done, and of all.

    Returns:
        Estimates of all participants who could be fitted; the others are in ``failures``, with the reason.

    Raises:
        ValueError: no restart, or a prior or start of another shape.
    """
    if isinstance(restarts, bool) or not isinstance(restarts, (int, np.integer)) or restarts < 1:
        raise ValueError(f"fit_map: restarts must be a whole number ≥ 1; got {restarts!r}.")
    space, people = objective.space, len(objective.ids)
    mean, sd = (space.prior_mean, space.prior_sd) if prior is None else (np.asarray(part, float) for part in prior)
    mean, sd = np.broadcast_to(mean, (people, len(space))), np.broadcast_to(sd, (len(space),))
    if start is not None and np.shape(start) != mean.shape:
        raise ValueError(f"fit_map: start must have the shape (P, k) = {mean.shape}; got {np.shape(start)}.")
    posterior = _Posterior(objective, mean, sd)
    first = np.zeros(mean.shape) if start is None else (np.asarray(start, float) - mean) / sd
    starts = np.stack([_starts(id, seed, restarts, first[p]) for p, id in enumerate(objective.ids)])

    def tell(under_way: np.ndarray) -> None:
        if progress is not None:
            progress(int((~under_way).sum()), len(under_way))

    found = minimise(
        lambda u, rows: posterior(u, rows // restarts),
        starts.reshape(people * restarts, -1),
        tolerance=tolerance,
        max_iterations=max_iterations,
        after_round=tell,
    )
    return _fit(model, posterior, found, restarts, tolerance, max_iterations)


def _starts(id: str, seed: int, restarts: int, first: np.ndarray) -> np.ndarray:
    """(restarts, k), in prior standard deviations from the prior's mean."""
    words = np.frombuffer(hashlib.sha256(id.encode()).digest(), "<u4")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=words.tolist()))
    return np.concatenate([first[None], rng.standard_normal((restarts - 1, len(first)))])


class _Posterior:
    """Negative log posteriors of P participants, in u = (z − mean) / sd, without the constant of the prior."""

    def __init__(self, objective: Objective, mean: np.ndarray, sd: np.ndarray) -> None:
        self.objective, self.mean, self.sd = objective, mean, sd
        self.broken: dict[int, str] = {}
        """Participants whose likelihood raised an error, and which."""
        self._some, self._who = objective, np.arange(len(mean))

    def __call__(self, u: np.ndarray, who: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (m,) and gradients (m, k) at points (m, k) of participants (m,), in ascending order."""
        people, place, counts = np.unique(who, return_inverse=True, return_counts=True)
        turn = np.arange(len(who)) - (np.cumsum(counts) - counts)[place]
        at = np.zeros((counts.max(), len(people), u.shape[1]))  # where a participant has fewer points: the mean
        at[turn, place] = u
        log_likelihood, slope = self._likelihood(self.mean[people] + self.sd * at, people)
        value = 0.5 * (u**2).sum(1) - log_likelihood[turn, place]
        return value, u - self.sd * slope[turn, place]

    def _likelihood(self, z: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihoods (R, people), gradients (R, people, k); NaN for whom the likelihood raises an error."""
        usable = ~np.isin(people, list(self.broken))
        value, slope = np.full(z.shape[:2], np.nan), np.full(z.shape, np.nan)
        if not usable.any():
            return value, slope
        try:
            value[:, usable], slope[:, usable] = self._evaluate(z[:, usable], people[usable])
        except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
            if usable.sum() == 1:
                self.broken[int(people[usable][0])] = f"{type(error).__name__}: {error}"
            else:  # one of them: which?
                for i in np.flatnonzero(usable):
                    value[:, [i]], slope[:, [i]] = self._likelihood(z[:, [i]], people[[i]])
        return value, slope

    def _evaluate(self, z: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not np.isin(people, self._who).all() or 2 * len(people) <= len(self._who) or len(people) == 1:
            self._some, self._who = self.objective.only(people.tolist()), people
        # An objective of fewer people takes time to make: until half of them are done, it is that of all.
        where = np.searchsorted(self._who, people)
        full = np.tile(self.mean[self._who], (len(z), 1, 1))
        full[:, where] = z
        point = torch.from_numpy(full).requires_grad_()
        value = self._some.log_likelihood(point)
        if not z.shape[2]:
            return value.detach().numpy()[:, where], np.zeros(z.shape)
        (slope,) = torch.autograd.grad(value.sum(), point)
        return value.detach().numpy()[:, where], slope.numpy()[:, where]

    def hessians(self, u: np.ndarray) -> np.ndarray:
        """(P, k, k): second derivatives at u (P, k), by central differences of the gradient, made symmetric."""
        people, k = u.shape
        if not k:
            return np.empty((people, 0, 0))
        steps = STEP * np.concatenate([np.eye(k), -np.eye(k)])
        points = (u[:, None] + steps).reshape(-1, k)
        _, gradient = self(points, np.repeat(np.arange(people), 2 * k))
        up, down = gradient.reshape(people, 2, k, k).transpose(1, 0, 2, 3)
        hessian = (up - down) / (2 * STEP)
        return 0.5 * (hessian + hessian.transpose(0, 2, 1))


def _fit(
    model: str, posterior: _Posterior, found: Minima, restarts: int, tolerance: float, max_iterations: int
) -> Fit:
    """The best of each participant's searches, how it ended, and the curvature there."""
    objective, mean, sd = posterior.objective, posterior.mean, posterior.sd
    people, k = mean.shape
    values = found.value.reshape(people, restarts)
    best = np.argmin(values, axis=1)
    row = np.arange(people) * restarts + best
    u, value, slope = found.x[row], found.value[row], found.slope[row]
    fitted = np.isfinite(value)
    hessian = posterior.hessians(np.where(fitted[:, None], u, 0.0))
    covariance = np.full(hessian.shape, np.nan)
    condition = np.full(people, np.nan)
    for p in np.flatnonzero(fitted & np.isfinite(hessian).all((1, 2))):
        eigenvalues = np.linalg.eigvalsh(hessian[p])
        if k and eigenvalues[0] > 0:
            condition[p] = eigenvalues[-1] / eigenvalues[0]
            covariance[p] = sd[:, None] * np.linalg.inv(hessian[p]) * sd
    agree = (values <= values.min(1, keepdims=True) + AGREE).sum(1)
    curved = np.asarray(np.isfinite(covariance).all((1, 2)))
    messages = [
        _message(slope[p], int(found.iterations[row[p]]), agree[p], curved[p], restarts, tolerance, max_iterations)
        for p in range(people)
    ]
    kept = np.flatnonzero(fitted)
    failures = {
        objective.ids[p]: posterior.broken.get(p, "the likelihood is not finite at any start of a search")
        for p in np.flatnonzero(~fitted)
    }
    diagnostics = pd.DataFrame(
        {
            "participant": [objective.ids[p] for p in kept],
            "gradient": slope[kept],
            "iterations": found.iterations[row[kept]],
            "restarts": restarts,
            "restarts_that_agree": agree[kept],
            "condition": condition[kept],
        }
    )
    z = (mean + sd * u)[kept]
    log_prior = log_normal(z, mean[kept], sd)
    prior_free = 0.5 * (u[kept] ** 2).sum(1)
    return Fit(
        model=model,
        estimator="map",
        space=objective.space,
        ids=tuple(objective.ids[p] for p in kept),
        z=z,
        covariance=covariance[kept],
        log_likelihood=prior_free - value[kept],
        log_prior=log_prior,
        n_choices=np.asarray(objective.n_choices)[kept],
        converged=(slope[kept] <= tolerance) & curved[kept],
        message=tuple(messages[p] for p in kept),
        diagnostics=diagnostics,
        failures=failures,
    )


def _message(
    slope: float, iterations: int, agree: int, curved: bool, restarts: int, tolerance: float, most: int
) -> str:
    """What is not well, and what to do; '' where all is."""
    told = []
    if slope > tolerance:
        end = "after all iterations" if iterations >= most else "where no step leads further"
        told.append(f"The search ended {end}, with a gradient of {slope:.1e} (tolerance {tolerance:.0e}).")
    if not curved:
        told.append("The posterior is not curved in all directions at the mode: no uncertainty; fix a parameter.")
    if restarts > 1 and agree == 1:
        told.append(f"Only one of {restarts} searches found this mode: try more restarts.")
    return " ".join(told)
