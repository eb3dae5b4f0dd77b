"""Empirical Bayes: the group's distribution of each parameter, estimated from all, and each person under it.

z_p ~ N(X_p β, diag(σ²)), by PsyNeuLink's own Laplace-EM: given the group, each person's mode and curvature (by
``fit_map``, with gradients); given these, the group. The covariance of the group is diagonal. PsyNeuLink's driver
is not public, and all that touches it is in ``_driver``.

Standard errors are not PsyNeuLink's. With D = diag(σ²) and Σ_p a person's posterior covariance, their data speak
for β as one observation with covariance V_p, V_p⁻¹ = D⁻¹ − D⁻¹ Σ_p D⁻¹ (the Laplace approximation of the marginal
likelihood), so that the information about β is Σ_p (x_p x_pᵀ) ⊗ V_p⁻¹. σ is taken as known; intervals have the t
distribution of P − q degrees of freedom (q columns of X). There are none for σ.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from .estimation import Progress, fit_map
from .objective import Objective
from .parameters import log_normal
from .results import Fit

INTERCEPT = "intercept"
COLLAPSED = 0.1
"""A group's standard deviation below this share of the prior's is said to have collapsed."""


def fit_empirical_bayes(
    objective: Objective,
    *,
    model: str = "",
    covariates: pd.DataFrame | None = None,
    restarts: int = 4,
    seed: int = 0,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    progress: Progress | None = None,
) -> Fit:
    """The group, and each participant's mode and uncertainty under it.

    Args:
        objective: the log-likelihoods.
        model: name of the variant, for tables.
        covariates: by participant (the index), a number a column, or two labels: what the group's means depend on.
            Numbers are centred; of two labels the first in alphabetical order is −½, the other ½.
        restarts: searches of each participant in the first round; later ones begin at the last mode.
        seed: of the starts.
        max_iterations: of the EM.
        tolerance: it ends when no mean or variance of the group moves by more, in units of the prior's.
        progress: called with the number of rounds done, and the most there can be.

    Returns:
        With ``group``, ``group_mean`` and ``group_sd``. A participant who cannot be fitted is in ``failures``.

    Raises:
        ValueError: a covariate is lacking for a participant, is constant, or is neither numbers nor two labels; or
            there are fewer participants than the group has means, and one more.
        ImportError: this PsyNeuLink has no Laplace-EM.
    """
    laplace_em = _driver()
    names, design = design_matrix(objective.ids, covariates)
    first = fit_map(objective, model=model, restarts=restarts, seed=seed)
    rows = [objective.ids.index(id) for id in first.ids]
    some, design = (objective if len(rows) == len(objective.ids) else objective.only(rows)), design[rows]
    people = len(first)
    if people < len(names) + 1:
        raise ValueError(
            f"fit_empirical_bayes: a group with {len(names)} means for each parameter needs at least "
            f"{len(names) + 1} participants who can be fitted; got {people}. Use fit_map."
        )
    center, scale = some.space.prior_mean, some.space.prior_sd
    latest = [first]

    def estep(mean: np.ndarray, variance: np.ndarray, previous: np.ndarray, _warm: bool) -> Fit:
        prior = (center + scale * mean, scale * np.sqrt(variance))
        start = latest[-1].z
        found = fit_map(some, model=model, restarts=1, seed=seed, prior=prior, start=start)
        if len(found) < people:
            raise ValueError(f"fit_empirical_bayes: {found.failures} under the group; leave them out.")
        latest[:] = [found]
        return found

    beta, sd, history, converged = laplace_em(
        estep,
        (first.z - center) / scale,
        design,
        scale,
        center,
        max_iterations,
        tolerance,
        (lambda n: progress(n, max_iterations)) if progress is not None else (lambda n: None),
    )
    group_mean, group_sd = center + scale * (design @ beta), scale * sd
    found = latest[-1]
    covariance = _known(found.covariance, group_sd)
    notes = _notes(some.space.names, group_sd, scale, converged, len(history))
    return replace(
        found,
        estimator="empirical_bayes",
        log_prior=log_normal(found.z, group_mean, group_sd),
        converged=found.converged & converged,
        message=tuple(" ".join(filter(None, [text, *notes])) for text in found.message),
        group_mean=group_mean,
        group_sd=group_sd,
        group=_group_table(some.space.names, names, beta, center, scale, group_sd, covariance, design),
        failures=first.failures,
    )


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


def _driver() -> Callable[..., Any]:
    try:
        from psyneulink.core.compositions.hierarchical import laplaceem
    except ImportError as error:
        raise ImportError(
            "fit_empirical_bayes needs PsyNeuLink's Laplace-EM (psyneulink ≥ 0.21); upgrade it, or use fit_map or "
            "fit_bayes."
        ) from error

    def laplace_em(estep, z, design, scale, center, max_iterations, tolerance, tell):
        """PsyNeuLink's EM, in units of the prior, (z − center) / scale: β, σ, its history, whether it ended."""
        rounds = [0]

        def runner(mean: np.ndarray, variance: np.ndarray, previous: np.ndarray, warm: bool) -> Any:
            found = estep(mean, variance, previous, warm)
            covariance = _known(found.covariance, scale * np.sqrt(variance)) / np.outer(scale, scale)
            rounds[0] += 1
            tell(min(rounds[0], max_iterations))
            return laplaceem.EStepResult(
                z_hat=(found.z - center) / scale,
                covariance=covariance,
                curvature=np.linalg.inv(covariance),
                hessian_step=np.full(found.z.shape, np.nan),
                subject_objective=found.log_evidence,
                success=found.converged,
                messages=tuple((p, text) for p, text in enumerate(found.message) if text),
            )

        beta = np.linalg.lstsq(design, z, rcond=None)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", laplaceem.HierarchicalEMWarning)  # each participant's message says it
            result = laplaceem.fit_laplace_em(
                runner,
                len(z),
                z.shape[1],
                design_matrix=design,
                max_iterations=max_iterations,
                tol=tolerance,
                init_beta=beta,
                init_sigma=np.maximum(z.var(0), 0.01),
            )
        return result.beta, np.sqrt(result.sigma), result.history, bool(result.converged)

    return laplace_em


def _known(covariance: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Covariances (P, k, k); where there is none, that of the group: nothing is known beyond it."""
    known = np.asarray(np.isfinite(covariance).all((1, 2)))
    return np.where(known[:, None, None], covariance, np.diag(sd**2))


def _notes(names: Sequence[str], sd: np.ndarray, scale: np.ndarray, converged: bool, rounds: int) -> list[str]:
    notes = [] if converged else [f"The group still moved after {rounds} rounds: give more (max_iterations)."]
    collapsed = [name for name, own, prior in zip(names, sd, scale, strict=True) if own < COLLAPSED * prior]
    if collapsed:
        notes.append(f"The group's spread of {', '.join(collapsed)} went to 0: all people are taken to be alike.")
    return notes


def _group_table(
    names: Sequence[str],
    columns: Sequence[str],
    beta: np.ndarray,
    center: np.ndarray,
    scale: np.ndarray,
    sd: np.ndarray,
    covariance: np.ndarray,
    design: np.ndarray,
) -> pd.DataFrame:
    """Means and effects of covariates, in z, with standard errors and 95 % intervals; and the group's spread."""
    q, k = beta.shape
    inverse = np.diag(1 / sd**2)
    precision = inverse - inverse @ covariance @ inverse
    information = np.einsum("pi,pj,pkl->ikjl", design, design, precision).reshape(q * k, q * k)
    try:
        se = np.sqrt(np.maximum(np.diag(np.linalg.inv(information)), 0.0)).reshape(q, k)
    except np.linalg.LinAlgError:
        se = np.full((q, k), np.nan)
    half = student.ppf(0.975, len(design) - q) * se
    estimate = scale * beta
    estimate[0] += center
    rows = [
        {
            "parameter": names[j],
            "covariate": columns[i],
            "estimate": estimate[i, j],
            "se": se[i, j],
            "lower": estimate[i, j] - half[i, j],
            "upper": estimate[i, j] + half[i, j],
            "group_sd": sd[j],
        }
        for j in range(k)
        for i in range(q)
    ]
    return pd.DataFrame(rows)
