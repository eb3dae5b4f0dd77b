"""Posteriors of many people by adaptive importance sampling: what Laplace's approximation cannot see.

The network makes the likelihood rough, so a mode may be a small peak on a wide hill, and the curvature at its top
says little about the hill. Sampling asks the posterior itself: draws of a heavy-tailed proposal are weighted by
posterior / proposal, and the next proposal takes its mean and covariance from them. Draws of all rounds count,
each weighted against the mixture of all proposals so far (AMIS: Cornuet, Marin, Mira & Robert, 2012), a tenth of
which is the prior, so that no weight can be more than ten times likelihood / evidence. The mean weight is an
unbiased estimate of the evidence.

All is done in units of the prior, as in ``modes``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

from .modes import Modes, Problems

AT_ONCE = 100
"""Draws of a person in a round."""
LEAST_ROUNDS, MOST_ROUNDS = 4, 15
ENOUGH = 200.0
"""Effective draws at which a person is done: the ends of a 95 % interval are then known to a fifth of an s.d."""
TOO_FEW = 50.0
"""Effective draws below which intervals are not to be relied on."""
DEGREES = 5.0
"""Degrees of freedom of the t distributions that propose."""
WIDER = 1.5
"""Scale of the first proposal, as a multiple of Laplace's standard deviations; later ones are as wide as found."""
OF_PRIOR = 0.1
"""Share of the draws that the prior proposes."""
IN_VIEW = 10.0
"""Nats: modes of other restarts that are no more below the best take part in the first proposal."""
LEAST_EFFECTIVE = 20.0
"""Effective draws to adapt by: if there are fewer, weights are tempered until they are as many."""


@dataclass(frozen=True, eq=False)
class Posteriors:
    """Of n problems."""

    draws: np.ndarray
    """(S, n, k): of z, all of the same weight; NaN where no draw has a finite likelihood."""
    covariance: np.ndarray
    """(n, k, k): of z."""
    best: np.ndarray
    """(n, k): of all draws the most probable z."""
    log_evidence: np.ndarray
    """(n,)"""
    effective: np.ndarray
    """(n,): how many independent draws these are worth, (Σ w)² / Σ w²."""


def sample(
    problems: Problems,
    modes: Modes,
    others: Sequence[np.ndarray],
    rngs: Sequence[np.random.Generator],
    draws: int,
    after_round: Callable[[np.ndarray], object] | None = None,
) -> Posteriors:
    """Sample the posteriors of n problems, given their modes, and ``others``: u (m, k) of other places to look at
    first, modes of other restarts.

    Each has a generator of its own: what comes out does not depend on the others. ``after_round`` is called with
    the (n,) bool problems that are still under way.
    """
    u = problems.in_units(modes.z)
    scale = problems.sd[:, :, None] * problems.sd[:, None, :]
    covariance = modes.covariance / scale
    people = [_Person(np.concatenate([u[n : n + 1], others[n]]), covariance[n], rngs[n]) for n in range(len(u))]
    to_units = np.log(problems.sd).sum(1)  # densities of z → of u
    under_way = np.ones(len(people), dtype=bool)
    for done in range(MOST_ROUNDS):
        rows = np.flatnonzero(under_way)
        if not len(rows):
            break
        new = [people[n].propose() for n in rows]
        value = problems.function(np.concatenate(new), np.repeat(rows, AT_ONCE), with_gradient=False)[0]
        for n, x, own in zip(rows, new, value.reshape(len(rows), AT_ONCE), strict=True):
            people[n].take(x, to_units[n] - own)
            under_way[n] = done + 1 < LEAST_ROUNDS or people[n].effective < ENOUGH
        if after_round is not None:
            after_round(under_way)
    found = [person.posterior(draws) for person in people]
    return Posteriors(
        draws=problems.mean + problems.sd * np.stack([own[0] for own in found], axis=1),
        covariance=scale * np.stack([own[1] for own in found]),
        best=problems.mean + problems.sd * np.stack([person.best for person in people]),
        log_evidence=np.array([person.log_evidence for person in people]),
        effective=np.array([person.effective for person in people]),
    )


class _Person:
    """One person's draws, and the proposals that they came from: first around ``places`` (m, k), u of the modes,
    the best first, with Laplace's covariance there (k, k); where that is NaN, with the prior's.
    """

    def __init__(self, places: np.ndarray, covariance: np.ndarray, rng: np.random.Generator) -> None:
        self.k, self.rng = places.shape[1], rng
        if not np.isfinite(covariance).all():
            covariance = np.eye(self.k)
        self.next = [(place, WIDER**2 * covariance) for place in places]
        self.rounds: list[list[tuple[np.ndarray, np.ndarray]]] = []
        """Of each round, means and covariances of the t distributions, of equal shares."""
        self.x, self.log_posterior = np.empty((0, self.k)), np.empty(0)
        self.log_weight = np.empty(0)

    def propose(self) -> np.ndarray:
        """New draws, (AT_ONCE, k): some of the prior, the others of the t distributions in turn."""
        x = self.rng.standard_normal((AT_ONCE, self.k))
        stretch = np.sqrt(DEGREES / self.rng.chisquare(DEGREES, AT_ONCE))
        of_prior = round(OF_PRIOR * AT_ONCE)
        for j, (mean, covariance) in enumerate(self.next):
            own = np.arange(of_prior + j, AT_ONCE, len(self.next))
            x[own] = mean + stretch[own, None] * x[own] @ np.linalg.cholesky(covariance).T
        return x

    def take(self, x: np.ndarray, log_posterior: np.ndarray) -> None:
        """Weigh the draws x (m, k) with log posteriors (m,), and all before them; make the next proposal."""
        self.rounds.append(self.next)
        self.x = np.concatenate([self.x, x])
        usable = np.isfinite(log_posterior)
        self.log_posterior = np.concatenate([self.log_posterior, np.where(usable, log_posterior, -np.inf)])
        self.log_weight = self.log_posterior - self._log_proposal()
        weight = _normalised(self._tempered())
        if not np.isfinite(weight).all():
            return
        mean = weight @ self.x
        off = self.x - mean
        covariance = (weight[:, None] * off).T @ off
        # A little of the last proposal keeps the covariance definite, whatever the draws.
        self.next = [(mean, covariance + 1e-3 * np.mean([c for _, c in self.next], axis=0))]

    def _log_proposal(self) -> np.ndarray:
        """Log density of the mixture of all proposals at all draws."""
        prior = -0.5 * (self.x**2).sum(1) - 0.5 * self.k * np.log(2 * np.pi)
        parts, shares = [prior], [OF_PRIOR]
        for proposals in self.rounds:
            for mean, covariance in proposals:
                parts.append(_log_t(self.x, mean, covariance))
                shares.append((1 - OF_PRIOR) / len(self.rounds) / len(proposals))
        return np.asarray(logsumexp(np.array(parts), axis=0, b=np.array(shares)[:, None]))

    def _tempered(self) -> np.ndarray:
        """Log weights, flattened as far as needed for enough draws to count."""
        power = 1.0
        while _effective(power * self.log_weight) < LEAST_EFFECTIVE and power > 0.01:
            power *= 0.7
        return power * self.log_weight

    @property
    def effective(self) -> float:
        """What the draws are worth in independent ones."""
        return _effective(self.log_weight)

    @property
    def log_evidence(self) -> float:
        """Log of the mean weight; NaN where there is none."""
        total = logsumexp(self.log_weight) - np.log(max(len(self.log_weight), 1))
        return float(total) if np.isfinite(total) else np.nan

    @property
    def best(self) -> np.ndarray:
        """The most probable draw, (k,)."""
        return self.x[self.log_posterior.argmax()]

    def posterior(self, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of equal weight (S, k), and the covariance (k, k); NaN where there are none."""
        weight = _normalised(self.log_weight)
        if not np.isfinite(weight).all():
            return np.full((draws, self.k), np.nan), np.full((self.k, self.k), np.nan)
        # Systematic resampling: each draw as often as its weight says, but for less than one.
        at = (self.rng.random() + np.arange(draws)) / draws
        chosen = np.searchsorted(np.cumsum(weight)[:-1], at)
        off = self.x - weight @ self.x
        return self.x[self.rng.permutation(chosen)], (weight[:, None] * off).T @ off


def _normalised(log_weight: np.ndarray) -> np.ndarray:
    """Weights that add up to 1; NaN if none is finite."""
    with np.errstate(invalid="ignore"):
        return np.exp(log_weight - logsumexp(log_weight))


def _effective(log_weight: np.ndarray) -> float:
    """(Σ w)² / Σ w²; 0 if there is no weight."""
    weight = _normalised(log_weight)
    return float(1 / (weight**2).sum()) if np.isfinite(weight).all() and len(weight) else 0.0


def _log_t(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Log density of Student's t in k dimensions, of x (n, k)."""
    k = x.shape[1]
    root = np.linalg.cholesky(covariance)
    square = (np.linalg.solve(root, (x - mean).T) ** 2).sum(0)
    constant = gammaln(0.5 * (DEGREES + k)) - gammaln(0.5 * DEGREES) - 0.5 * k * np.log(np.pi * DEGREES)
    return constant - np.log(np.diag(root)).sum() - 0.5 * (DEGREES + k) * np.log1p(square / DEGREES)
