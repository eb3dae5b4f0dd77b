"""Maximum a posteriori: each participant's most probable parameters under a normal prior of z.

Maximised is log p(choices of p | z_p) + log N(z_p; prior), for all participants and restarts at once, by BFGS with
exact gradients. Around the mode, Laplace's approximation gives covariance and evidence; from there, importance
sampling draws from the posterior itself (``sampling``), for intervals and evidence that hold where the posterior
is not normal. The prior is in z, so the mode is that of z, too, and not the transform of the mode of the natural
values.

Whether that went well is said for each participant: the gradient that is left, how many restarts came to the same
mode, and the curvature there (see ``Fit.message`` and ``Fit.diagnostics``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from .batches import Batches
from .minimise import largest, minimise
from .modes import Modes, Problems, eigenvalues, laplace
from .objective import Objective
from .parameters import ParameterSpace, log_normal
from .results import Fit
from .sampling import IN_VIEW, TOO_FEW, Posteriors, sample

Progress = Callable[[int, int], object]
"""Called with how many are done, and of how many."""

AGREEMENT = 0.1
"""Nats: restarts whose log posteriors are that close to the best are taken to have found the same mode."""


def fit_map(
    objective: Objective,
    *,
    model: str = "",
    restarts: int = 4,
    seed: int = 0,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
    start: np.ndarray | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-5,
    draws: int = 1000,
    progress: Progress | None = None,
) -> Fit:
    """Fit each participant alone.

    Args:
        objective: the likelihood of P participants with k free parameters.
        model: its name.
        restarts: R, searches per participant: from the prior's mean, and from R − 1 draws of the prior. A
            participant's draws depend on seed and id alone, so results do not depend on who is fitted beside them.
        seed: of the draws.
        prior: mean (k,) or (P, k), and standard deviation (k,), of z; by default those of the objective's space.
        start: (P, k): z to start from, instead of the prior's mean.
        max_iterations: of each search.
        tolerance: largest component of the gradient, in nats per prior standard deviation, at which a search is
            done.
        draws: from each posterior, by importance sampling; 0: Laplace's approximation alone, in half the time.
        progress: called with the number of searches and samplings that are done (one of each for a participant),
            and of how many.

    Returns:
        A fit with modes, draws, and diagnostics by participant: ``gradient`` (largest component, in nats per prior
        standard deviation), ``iterations``, ``restarts`` (those whose start had a finite likelihood), ``agree``
        (those that ended within 0.1 nat of the best, which counts, too), ``gap`` (nats from the best to the best
        that disagrees; NaN if all agree), ``condition`` (of the Hessian, in units of the prior), ``prior_sds``
        (from the prior's mean to the mode, in the coordinate where that is most), ``effective`` (what the draws
        are worth in independent ones).
        ``converged``: the gradient is below the tolerance, and the draws are worth at least 50. Without draws: the
        Hessian is positive definite, and, of two or more restarts, two agree. (Where draws find something better
        than all restarts, the search goes on from there.)
        Participants whose likelihood is finite at no start, or raises an exception, are in ``failures``.

    Raises:
        ValueError: a number or a shape makes no sense.
    """
    space, ids = objective.space, tuple(objective.ids)
    mean, sd = _checked_prior(space, len(ids), prior)
    check_least("fit_map", restarts=(restarts, 1), max_iterations=(max_iterations, 1), draws=(draws, 0))
    if not tolerance > 0:
        raise ValueError(f"fit_map: tolerance must be > 0; got {tolerance}.")
    starts = _starts(ids, seed, restarts, mean, sd, start)
    batches = Batches(objective)
    rows = np.repeat(np.arange(len(ids)), restarts)
    problems = Problems(batches, rows, mean[rows], np.broadcast_to(sd, (len(rows), len(space))))
    whole = len(ids) * (2 if draws else 1)

    def told(under_way: np.ndarray, of: int) -> None:
        """Of searches (n, R) the first half is told, of samplings (n, 1) the second."""
        if progress is not None:
            progress(of - int(under_way.any(axis=1).sum()), whole)

    settings = {"tolerance": tolerance, "max_iterations": max_iterations}
    u = problems.in_units(starts.reshape(len(rows), len(space)))
    minima = minimise(
        problems.function, u, after_round=lambda now: told(now.reshape(-1, restarts), len(ids)), **settings
    )
    value = minima.value.reshape(len(ids), restarts)
    best = np.arange(len(ids)) * restarts + value.argmin(axis=1)
    usable = np.isfinite(minima.value[best])
    best, value = best[usable], value[usable]
    own = problems.only(best)
    modes = laplace(own, minima.only(best))
    posteriors = None
    if draws and len(best) and len(space):
        u = minima.x.reshape(len(ids), restarts, -1)[usable]
        others = [x[in_view] for x, in_view in zip(u, value <= value.min(1, keepdims=True) + IN_VIEW, strict=True)]
        rngs = [generator(seed, ids[p], "posterior") for p in own.participants]
        posteriors = sample(own, modes, others, rngs, draws, lambda now: told(now[:, None], whole))
        modes = _better(own, modes, posteriors, settings)
    failures = {
        ids[p]: batches.failures.get(p, "the log-likelihood is not finite at any start")
        for p in range(len(ids))
        if p in batches.failures or not usable[p]
    }
    fit = _fit(objective, model, own, modes, posteriors, value, failures, tolerance)
    if progress is not None:
        progress(whole, whole)
    return fit


def _better(problems: Problems, modes: Modes, posteriors: Posteriors, settings: dict[str, Any]) -> Modes:
    """The modes, searched anew from draws that are more probable than they are."""
    u = problems.in_units(posteriors.best)
    value, _ = problems.function(u, np.arange(len(u)), with_gradient=False)
    rows = np.flatnonzero(-value > modes.log_posterior)
    if not len(rows):
        return modes
    some = problems.only(rows)
    return modes.with_rows(rows, laplace(some, minimise(some.function, u[rows], **settings)))


def _checked_prior(
    space: ParameterSpace, n: int, prior: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Means (P, k) and standard deviations (k,)."""
    given_mean, given_sd = (space.prior_mean, space.prior_sd) if prior is None else prior
    mean, sd = np.asarray(given_mean, dtype=float), np.asarray(given_sd, dtype=float)
    if mean.shape not in ((len(space),), (n, len(space))) or sd.shape != (len(space),):
        raise ValueError(
            f"fit_map: prior must be a mean of shape {(len(space),)} or {(n, len(space))} and a standard "
            f"deviation of shape {(len(space),)}; got {mean.shape} and {sd.shape}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and (sd > 0).all()):
        raise ValueError("fit_map: the prior's means must be finite, and its standard deviations finite and > 0.")
    return np.broadcast_to(mean, (n, len(space))), sd


def check_least(what: str, **settings: tuple[int, int]) -> None:
    """Raise ValueError if a setting is less than its least value, which is given beside it."""
    for name, (value, least) in settings.items():
        if value < least:
            raise ValueError(f"{what}: {name} must be at least {least}; got {value}.")


def _starts(
    ids: tuple[str, ...], seed: int, restarts: int, mean: np.ndarray, sd: np.ndarray, start: np.ndarray | None
) -> np.ndarray:
    """(P, R, k): z to start from."""
    first = mean if start is None else np.asarray(start, dtype=float)
    if first.shape != mean.shape or not np.isfinite(first).all():
        raise ValueError(f"fit_map: start must be finite values of shape {mean.shape}; got shape {first.shape}.")
    starts = np.empty((len(ids), restarts, mean.shape[1]))
    starts[:, 0] = first
    for p, id in enumerate(ids):
        starts[p, 1:] = mean[p] + sd * generator(seed, id).standard_normal((restarts - 1, mean.shape[1]))
    return starts


def generator(seed: int, id: str, purpose: str = "") -> np.random.Generator:
    """A generator of random numbers of this participant's own."""
    own = hashlib.sha256((id + "\0" + purpose if purpose else id).encode()).digest()[:8]
    return np.random.default_rng([seed, int.from_bytes(own, "big")])


def _fit(
    objective: Objective,
    model: str,
    problems: Problems,
    modes: Modes,
    posteriors: Posteriors | None,
    restarts: np.ndarray,
    failures: dict[str, str],
    tolerance: float,
) -> Fit:
    """What was found for the participants that have not failed; ``restarts``: (n, R), −log posteriors of all."""
    kept = np.array([objective.ids[p] not in failures for p in problems.participants], dtype=bool)
    participants = problems.participants[kept]
    ids = tuple(objective.ids[p] for p in participants)
    space = objective.space
    log_prior = log_normal(modes.z, problems.mean, problems.sd)
    near = restarts <= AGREEMENT - modes.log_posterior[:, None]
    gap = np.where(near, np.inf, restarts).min(axis=1) + modes.log_posterior
    diagnostics = {
        "gradient": modes.slope,
        "iterations": modes.iterations,
        "restarts": np.isfinite(restarts).sum(axis=1),
        "agree": near.sum(axis=1),
        "gap": np.where(np.isfinite(gap), gap, np.nan),
        "condition": modes.condition,
        "prior_sds": largest(problems.in_units(modes.z)),
    }
    covariance = modes.covariance
    if posteriors is not None:
        diagnostics["effective"] = posteriors.effective
        covariance = posteriors.covariance
    converged, messages = [], []
    for n in np.flatnonzero(kept).tolist():
        row = {name: values[n] for name, values in diagnostics.items()}
        row |= {"stuck": modes.stuck[n], "hessian": modes.hessian[n], "covariance": modes.covariance[n]}
        wrong = _problems(row, tolerance)
        converged.append(not wrong)
        messages.append("; ".join([*wrong, *_edges(space, modes.z[n])]))
    return Fit(
        model=model,
        estimator="map",
        space=space,
        ids=ids,
        z=modes.z[kept],
        covariance=covariance[kept],
        log_likelihood=(modes.log_posterior - log_prior)[kept],
        log_prior=log_prior[kept],
        n_choices=np.asarray(objective.n_choices)[participants],
        converged=np.array(converged, dtype=bool),
        message=tuple(messages),
        diagnostics=pd.DataFrame({"participant": ids} | {name: v[kept] for name, v in diagnostics.items()}),
        samples=None if posteriors is None else posteriors.draws[:, kept],
        sampled_log_evidence=None if posteriors is None else posteriors.log_evidence[kept],
        failures=failures,
    )


def _problems(row: dict[str, Any], tolerance: float) -> list[str]:
    """What is wrong with the search of one participant, and what to do; ``row``: their diagnostics, and where it
    ended."""
    wrong = []
    if row["gradient"] > tolerance:
        left = f"a gradient of {row['gradient']:.2g} nats per prior standard deviation is left"
        if row["stuck"]:
            wrong.append(
                f"{left} (tolerance {tolerance:g}), and no step improves the fit: the likelihood is not smooth "
                "there, or not accurate enough; use averaging retrieval, or a larger tolerance"
            )
        else:
            wrong.append(
                f"stopped after {row['iterations']} iterations, {left} (tolerance {tolerance:g}): raise "
                "max_iterations"
            )
    if "effective" in row:
        effective = row["effective"]
        if effective < TOO_FEW:
            wrong.append(
                f"draws of the posterior are worth {effective:.0f} independent ones (needed: {TOO_FEW:.0f}), "
                "so intervals are rough: give tighter priors or fewer parameters, or use fit_bayes"
            )
        return wrong
    if row["restarts"] > 1 and row["agree"] < 2:
        wrong.append(
            f"one of {row['restarts']} restarts came to this mode, the next is {row['gap']:.2g} nats worse: there "
            "may be better ones; raise restarts"
        )
    if np.isnan(row["hessian"]).any():
        wrong.append(
            "no covariance: the likelihood is not finite beside the mode; give the parameters tighter priors"
        )
    elif np.isnan(row["covariance"]).any():
        least = eigenvalues(row["hessian"][None]).min()
        wrong.append(
            f"no covariance: the curvature is not positive definite (least eigenvalue {least:.2g} in units of the "
            "prior): this is no mode, or a flat one; raise restarts, fix a parameter, or give a tighter prior"
        )
    return wrong


def _edges(space: ParameterSpace, z: np.ndarray) -> list[str]:
    """Parameters whose natural value cannot be told from the end of its range."""
    natural = space.natural_array(z)
    at = [
        p.name
        for p, value in zip(space.free, natural, strict=True)
        if not np.isfinite(value) or (p.transform != "identity" and value in (p.lower, p.upper))
    ]
    return [f"{', '.join(at)}: at the end of the range, as far as numbers go; give a tighter prior"] if at else []
