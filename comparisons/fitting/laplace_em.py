"""Laplace-EM of a group, u_p ~ N(X_p β, diag(σ²)), by PsyNeuLink's driver; and what that leaves out.

PsyNeuLink's ``fit_laplace_em`` alternates between people (the E-step, given here as a function) and the group. It
is not public: all that touches it is in ``_rounds``. It ends when a round moves the group by little, which is not
to be near the maximum: with little information about each person, or a spread near 0, the EM creeps. So the
distance from the maximum is computed when it ends, and if it is more than a tenth of a standard error, the EM
begins anew from one step of Fisher's scoring.

With S = diag(σ), Σ_p a person's posterior covariance and K_p = S⁻¹ Σ_p S⁻¹, their data speak for β as one
observation with the precision S⁻¹ (1 − K_p) S⁻¹: the Laplace approximation of the marginal likelihood. So, with
r_p = (u_p − X_p β) / σ,

                  β / σ                          log σ_j (and log σ_k)
    information   Σ_p (x_p x_pᵀ) ⊗ (1 − K_p)     2 Σ_p [(1 − K_p)_jk]²
    gradient      Σ_p x_p ⊗ r_p                  Σ_p (r_p² + diag K_p − 1)_j

the gradient by Fisher's identity. Where it is 0, the EM stands still.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

COLLAPSED = 0.1
"""Spreads below this, in units of the prior's, are taken to go to 0, where log σ has no maximum."""
FAR = 0.1
"""Standard errors: estimates that are farther from the maximum have not converged."""
MOST_STARTS = 10
"""How often the EM begins anew at most."""
LONGEST_STEP = 1.0
"""Of log σ in one step of scoring."""


@dataclass(frozen=True, eq=False)
class People:
    """P people's posteriors under a group, by Laplace's approximation."""

    u: np.ndarray
    """(P, k): modes."""
    covariance: np.ndarray
    """(P, k, k); NaN where there is none."""
    log_evidence: np.ndarray
    """(P,)"""
    converged: np.ndarray
    """(P,) bool"""


EStep = Callable[[np.ndarray, np.ndarray], People]
"""Means (P, k) and standard deviations (k,) of u → people."""


@dataclass(frozen=True, eq=False)
class Group:
    """Means, effects and spreads, with q columns of the design (P, q)."""

    beta: np.ndarray
    """(q, k)"""
    sd: np.ndarray
    """(k,)"""


@dataclass(frozen=True, eq=False)
class Found:
    """What the EM came to."""

    group: Group
    people: People
    """Under that group."""
    rounds: int
    moving: bool
    """Whether the rounds were used up before the group stood still."""
    distance: float
    """From the maximum, in standard errors, of what is farthest from it."""


def available() -> Any:
    """PsyNeuLink's module, or ImportError."""
    try:
        from psyneulink.core.compositions.hierarchical import laplaceem
    except ImportError as error:
        raise ImportError(
            "fit_empirical_bayes needs PsyNeuLink's Laplace-EM (psyneulink ≥ 0.21); upgrade it, or use fit_map or "
            "fit_bayes."
        ) from error
    return laplaceem


def maximise(estep: EStep, design: np.ndarray, first: People, *, max_iterations: int, tolerance: float) -> Found:
    """The group that maximises the (Laplace-approximated) likelihood of all data, by rounds of the EM.

    ``design`` X (P, q) has columns of a standard deviation of about 1; ``first``: people under some wider prior,
    from whom the group is guessed at first; ``tolerance``: it ends when no β or σ² moves by more in a round.
    """
    beta = np.linalg.lstsq(design, first.u, rcond=None)[0]
    known = np.asarray(np.isfinite(first.covariance).all((1, 2)))
    left = np.einsum("pkk->k", first.covariance[known]) / max(known.sum(), 1)
    group = Group(beta, np.sqrt((first.u - design @ beta).var(0) + np.maximum(left, 0.01)))
    rounds = starts = 0
    while True:
        group, people, used, still = _rounds(estep, design, group, max_iterations - rounds, tolerance)
        rounds, starts = rounds + used, starts + 1
        nearer, distance = scoring(group, people, design)
        if distance <= FAR or rounds >= max_iterations or starts >= MOST_STARTS:
            return Found(group, people, rounds, not still, distance)
        group = nearer


def _rounds(
    estep: EStep, design: np.ndarray, start: Group, most: int, tolerance: float
) -> tuple[Group, People, int, bool]:
    """PsyNeuLink's EM: group, people under it, rounds, and whether the group stands still."""
    laplaceem = available()
    latest: list[People] = []

    def runner(mean: np.ndarray, variance: np.ndarray, _previous: np.ndarray, _warm: bool) -> Any:
        people = estep(mean, np.sqrt(variance))
        sd = np.sqrt(variance)
        covariance = sd[:, None] * shares(people.covariance, sd) * sd
        latest[:] = [people]
        return laplaceem.EStepResult(
            z_hat=people.u,
            covariance=covariance,
            curvature=np.linalg.inv(covariance),
            hessian_step=np.full(people.u.shape, np.nan),
            subject_objective=people.log_evidence,
            success=people.converged,
            messages=(),
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", laplaceem.HierarchicalEMWarning)  # each participant's message says it
        result = laplaceem.fit_laplace_em(
            runner,
            len(design),
            len(start.sd),
            design_matrix=design,
            max_iterations=most,
            tol=tolerance,
            init_beta=start.beta,
            init_sigma=start.sd**2,
        )
    return Group(result.beta, np.sqrt(result.sigma)), latest[0], len(result.history), bool(result.converged)


def shares(covariance: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """K, (P, k, k): how much of the group's variance is left in what is known of each person.

    At most all: where there is no Σ, or one that is wider than the group (likelihoods that are not concave there).
    """
    known = np.asarray(np.isfinite(covariance).all((1, 2)))
    share = np.where(known[:, None, None], covariance / np.outer(sd, sd), np.eye(len(sd)))
    values, axes = np.linalg.eigh(share)
    return np.einsum("pij,pj,pkj->pik", axes, np.minimum(values, 1.0), axes)


def standard_errors(group: Group, people: People, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of β, (q, k), and of log σ, (k,); NaN where the data do not determine them.

    Those of β have the factor √(P / (P − q)): the most likely σ are too small by that.
    """
    n, q = design.shape
    of_beta, of_spread = _information(shares(people.covariance, group.sd), design)
    beta = np.sqrt(_variances(of_beta).reshape(group.beta.shape) * n / (n - q)) * group.sd
    return beta, np.sqrt(_variances(of_spread))


def scoring(group: Group, people: People, design: np.ndarray) -> tuple[Group, float]:
    """One step of Fisher's scoring from here, and how long it is, in standard errors of what moves the most."""
    share = shares(people.covariance, group.sd)
    of_beta, of_spread = _information(share, design)
    standard = (people.u - design @ group.beta) / group.sd
    score = (standard**2 + np.einsum("pkk->pk", share) - 1).sum(0)
    wide = group.sd > COLLAPSED
    beta, far = _step(of_beta, (design.T @ standard).ravel())
    spread, far_spread = _step(of_spread[np.ix_(wide, wide)], score[wide])
    log_sd = np.log(group.sd)
    log_sd[wide] += np.clip(spread, -LONGEST_STEP, LONGEST_STEP)
    moved = Group(group.beta + group.sd * beta.reshape(group.beta.shape), np.exp(log_sd))
    return moved, max(far, far_spread)


def _information(share: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """About β / σ, (qk, qk), and about log σ, (k, k)."""
    known = np.eye(share.shape[1]) - share
    of_beta = np.einsum("pi,pj,pkl->ikjl", design, design, known)
    size = design.shape[1] * share.shape[1]
    return of_beta.reshape(size, size), 2 * (known**2).sum(0)


def _step(information: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, float]:
    """Newton's, and its largest component in standard errors; none where there is no information."""
    variances = _variances(information)
    if np.isnan(variances).any() or not len(variances):
        return np.zeros(len(gradient)), 0.0
    step = np.linalg.solve(information, gradient)
    return step, float((np.abs(step) / np.sqrt(variances)).max())


def _variances(information: np.ndarray) -> np.ndarray:
    """The diagonal of the inverse, (n,); NaN if the matrix (n, n) is not positive definite."""
    values, axes = np.linalg.eigh(information)
    if not values.size or values[0] <= 1e-12 * max(values[-1], 1.0):
        return np.full(len(values), np.nan)
    return (axes**2 / values).sum(1)
