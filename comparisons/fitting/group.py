"""Empirical Bayes: the group's distribution of each parameter, estimated from all, and each person under it.

z_p ~ N(X_p β, diag(σ²)), by PsyNeuLink's own Laplace-EM: given the group, each person's mode and curvature (by
``fit_map``, with gradients); given these, the group. See ``laplace_em``.

Standard errors and intervals are not PsyNeuLink's. They rest on the information of people's data about the group,
in Laplace's approximation: of means and effects with the t distribution of P − q degrees of freedom (q columns of
X), of spreads normal in log σ. The covariance of the group is diagonal: correlations of parameters in the group
are not estimated, nor are those between the estimates given.

Where posteriors of people are far from normal (few choices, parameters whose effect saturates), Laplace's
approximation makes the spread of a group too small; ``fit_bayes`` does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from .estimation import AGREEMENT, Progress, fit_map
from .laplace_em import COLLAPSED, FAR, Found, Group, People, available, maximise, standard_errors
from .objective import Objective
from .parameters import ParameterSpace
from .results import Fit, group_table

INTERCEPT = "intercept"
MISSED = "a better mode than that of the EM was found after it: raise restarts"
MOST_PASSES = 3
"""How often the EM is run again, from better modes that were found under the group."""


def fit_empirical_bayes(
    objective: Objective,
    *,
    model: str = "",
    covariates: pd.DataFrame | None = None,
    restarts: int = 4,
    seed: int = 0,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    draws: int = 1000,
    progress: Progress | None = None,
) -> Fit:
    """The group, and each participant's mode and uncertainty under it.

    Args:
        objective: the log-likelihoods.
        model: name of the variant, for tables.
        covariates: by participant (the index), a number a column, or two labels: what the group's means depend on.
            Numbers are centred; of two labels the first in alphabetical order is −½, the other ½.
        restarts: searches of each participant before the EM, and after it, under the group; in between they begin
            at the last mode.
        seed: of the starts.
        max_iterations: of the EM; it is run again if better modes are found after it.
        tolerance: it ends when no mean, variance or effect (of one standard deviation of a covariate) moves by
            more, in units of the prior's.
        draws: from each person's posterior under the group, as of ``fit_map``.
        progress: called with the number of rounds done, and the most there can be.

    Returns:
        With ``group_mean``, ``group_sd``, and ``group``: estimates of means and effects in z, their standard
        errors and 95 % intervals, and the group's standard deviations (``group_sd``) with intervals. A participant
        who cannot be fitted is in ``failures``.

    Raises:
        ValueError: a covariate is lacking for a participant, is constant, or is neither numbers nor two labels; or
            there are fewer participants than the group has means, and one more.
        ImportError: this PsyNeuLink has no Laplace-EM.
    """
    available()
    names, design = design_matrix(objective.ids, covariates)
    first = fit_map(objective, model=model, restarts=restarts, seed=seed, draws=0)
    rows = [objective.ids.index(id) for id in first.ids]
    some, design = (objective if len(rows) == len(objective.ids) else objective.only(rows)), design[rows]
    if len(first) < len(names) + 1:
        raise ValueError(
            f"fit_empirical_bayes: a group with {len(names)} means for each parameter needs at least "
            f"{len(names) + 1} participants who can be fitted; got {len(first)}. Use fit_map."
        )
    center, scale = some.space.prior_mean, some.space.prior_sd
    fits = [first]

    def under(mean: np.ndarray, sd: np.ndarray, restarts: int, draws: int) -> Fit:
        found = fit_map(
            some,
            model=model,
            restarts=restarts,
            seed=seed,
            prior=(center + scale * mean, scale * sd),
            start=fits[-1].z,
            draws=draws,
        )
        if len(found) < len(first):
            raise ValueError(f"fit_empirical_bayes: {found.failures} under the group; leave them out.")
        return found

    def estep(mean: np.ndarray, sd: np.ndarray) -> People:
        fits.append(under(mean, sd, restarts=1, draws=0))
        if progress is not None:
            progress(min(len(fits) - 1, max_iterations), max_iterations)
        return _people(fits[-1], center, scale)

    spread = np.where(design.std(0) > 0, design.std(0), 1.0)  # the EM has covariates in their standard deviations
    design, passes = design / spread, 0
    while True:
        people = _people(fits[-1], center, scale)
        em = maximise(estep, design, people, max_iterations=max_iterations, tolerance=tolerance)
        found = under(design @ em.group.beta, em.group.sd, restarts, draws)
        better = found.log_likelihood + found.log_prior > fits[-1].log_likelihood + fits[-1].log_prior + AGREEMENT
        passes += 1
        if passes == MOST_PASSES or not better.any():
            break
        fits.append(found)
    unfinished, collapsed = _unfinished(em), _collapsed(some.space.names, em.group)
    if progress is not None:
        progress(max_iterations, max_iterations)
    return replace(
        found,
        estimator="empirical_bayes",
        converged=found.converged & ~better & (not unfinished),
        message=tuple(
            "; ".join(filter(None, [text, MISSED if missed else "", unfinished, collapsed]))
            for text, missed in zip(found.message, better.tolist(), strict=True)
        ),
        group_mean=center + scale * (design @ em.group.beta),
        group_sd=scale * em.group.sd,
        group=_group_table(some.space, names, em, design, spread),
        failures=first.failures,
    )


def _people(fit: Fit, center: np.ndarray, scale: np.ndarray) -> People:
    """In units of the prior."""
    covariance = fit.covariance / np.outer(scale, scale)
    return People((fit.z - center) / scale, covariance, fit.log_evidence, fit.converged)


def design_matrix(ids: Sequence[str], covariates: pd.DataFrame | None) -> tuple[list[str], np.ndarray]:
    """Names of the columns, and X (P, q): ones, and the covariates. ValueError if one does not serve."""
    columns: dict[str, np.ndarray] = {INTERCEPT: np.ones(len(ids))}
    if covariates is None:
        return [INTERCEPT], columns[INTERCEPT][:, None]
    missing = [id for id in ids if id not in covariates.index]
    if missing or not covariates.index.is_unique:
        raise ValueError(
            f"covariates: need one row for each participant, with the ids as index; missing are {missing}."
            if missing
            else "covariates: a participant has several rows."
        )
    for name, column in covariates.loc[list(ids)].items():
        labels = sorted(column.dropna().astype(str).unique())
        if column.isna().any():
            who = column.index[column.isna()][0]
            raise ValueError(
                f"covariates: {name!r} has no value for participant {who!r}; fill it in, or leave it out."
            )
        if len(labels) < 2:
            raise ValueError(f"covariates: {name!r} is the same for all participants; leave it out.")
        if pd.api.types.is_numeric_dtype(column):
            values = column.to_numpy(dtype=float)
            if not np.isfinite(values).all():
                raise ValueError(f"covariates: {name!r} must be finite.")
            columns[str(name)] = values - values.mean()
        elif len(labels) == 2:
            columns[f"{name}: {labels[1]} − {labels[0]}"] = np.where(column.astype(str) == labels[1], 0.5, -0.5)
        else:
            raise ValueError(f"covariates: {name!r} must be numbers or two labels; it has the labels {labels}.")
    matrix = np.stack(list(columns.values()), axis=1)
    if np.linalg.matrix_rank(matrix) < matrix.shape[1]:
        raise ValueError(f"covariates: {list(columns)} depend on each other; leave one out.")
    return list(columns), matrix


def _unfinished(em: Found) -> str:
    """What is to be said if the EM has not come to its end."""
    if em.moving:
        return f"the group still moved after {em.rounds} rounds: raise max_iterations"
    if em.distance > FAR:
        return f"the group is {em.distance:.1f} standard errors from its maximum: lower the tolerance"
    return ""


def _collapsed(names: Sequence[str], group: Group) -> str:
    """What is to be said if people do not differ."""
    flat = ", ".join(name for name, sd in zip(names, group.sd, strict=True) if sd < COLLAPSED)
    return f"the group's spread of {flat} went to 0: all people are taken to be alike" if flat else ""


def _group_table(
    space: ParameterSpace, columns: Sequence[str], em: Found, design: np.ndarray, spread: np.ndarray
) -> pd.DataFrame:
    """Means and effects of covariates, and spreads, of z, with intervals; the EM had covariates / ``spread``."""
    se, log_se = standard_errors(em.group, em.people, design)
    to_z = space.prior_sd / spread[:, None]
    estimate, se, sd = to_z * em.group.beta, to_z * se, space.prior_sd * em.group.sd
    estimate[0] += space.prior_mean
    half = student.ppf(0.975, len(design) - len(columns)) * se
    with np.errstate(over="ignore"):
        lower, upper = sd * np.exp(np.outer(norm.ppf([0.025, 0.975]), log_se))
    means = {"estimate": estimate, "se": se, "lower": estimate - half, "upper": estimate + half}
    spreads = {"group_sd": sd, "group_sd_lower": lower, "group_sd_upper": upper}
    return group_table(space.names, columns, means, spreads)
