"""Reports of the fitting commands: one HTML page with figures, and tidy tables beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...tasks.files import write_whole
from ..page import PANEL, Page
from . import fit_plots as plots
from .held_out import compare_scores
from .model_selection import compare_groups, compare_people, evidence_matrix, random_effects_selection
from .predictive import PredictiveCheck
from .recovery_measures import (
    Calibration,
    Truth,
    calibrate,
    confusion_matrix,
    inversion_matrix,
    recovery_across,
    recovery_pairs,
    recovery_table,
)
from .results import Fit
from .studies import best_models
from .variant import Variant

# ---- fit ---------------------------------------------------------------------------------------------


def write_fit(folder: Path, fit: Fit, variant: Variant, *, truth: pd.DataFrame | None, settings: Any) -> None:
    """Estimates with intervals, the group, how searches ended, and (of simulated people) what came back.

    ``truth``: participant, parameter, value; ``settings``: a dataclass, shown at the end.
    """
    page, k = Page(folder), len(fit.space)
    fit.save(folder)
    page.text(
        f"{len(fit)} participants, {int(fit.n_choices.sum())} scored choices; model: {variant.name}. "
        f"{variant.meaning} Estimator: {fit.estimator.replace('_', ' ')}."
    )
    _page_of_convergence(page, fit)
    page.figure(
        "estimates",
        "Estimates",
        "Each participant's estimate with its 95 % interval, sorted by the estimate. Where intervals are as wide "
        "as the spread of the estimates, the design cannot tell people apart.",
        k,
        lambda axes: plots.plot_estimates(fit, axes=axes),
        height=max(PANEL, 0.11 * len(fit) + 1.4),
    )
    page.table("estimates", fit.table())
    page.figure(
        "group",
        "The group",
        "How estimates are distributed over participants, and the prior (or the estimated group).",
        k,
        lambda axes: plots.plot_group(fit, axes=axes),
    )
    if fit.group is not None:
        page.table("group", fit.group)
    if k > 1 and np.isfinite(fit.covariance).all((1, 2)).any():
        page.figure(
            "trade_off",
            "How parameters trade off",
            "Correlations within the posteriors, averaged over participants: near 1 or −1, two parameters can "
            "stand for each other, and only their combination is known.",
            1,
            lambda axes: plots.plot_parameter_correlation(fit, ax=axes[0]),
            height=PANEL + 0.8,
        )
    if truth is not None:
        true = truth.pivot(index="participant", columns="parameter", values="value")
        _page_of_recovery(page, "recovery", [(true, fit)])
    page.heading("Diagnostics")
    page.table("diagnostics", fit.diagnostics, digits=6)
    page.write(f"Fit: {variant.name}", settings)


def _page_of_convergence(page: Page, fit: Fit) -> None:
    page.heading("Convergence")
    told = [f"{id} could not be fitted: {why}." for id, why in fit.failures.items()]
    each = zip(fit.ids, fit.converged, fit.message, strict=True)
    told += [f"{id}: {text}" for id, good, text in each if not good or text]
    for text in told:
        page.text(text, bad=True)
    if not told:
        page.text("All participants' estimates converged, and searches from different starts agree.")


def _page_of_recovery(page: Page, name: str, replicates: Sequence[tuple[Truth, Fit]]) -> pd.DataFrame:
    """Scatter and table of what came back."""
    pairs = pd.concat([recovery_pairs(true, fit) for true, fit in replicates], ignore_index=True)
    page.figure(
        name,
        "Recovery",
        "Estimates against the truth, with 95 % intervals and the line where both are equal. Coverage is the "
        "share of intervals that hold the truth.",
        len(replicates[0][1].space),
        lambda axes: plots.plot_recovery(pairs, axes=axes),
    )
    table = recovery_table(*replicates[0]) if len(replicates) == 1 else recovery_across(replicates)
    shown = ["parameter", "n", "r", "r_low", "r_high", "bias", "rmse", "coverage", "coverage_low", "coverage_high"]
    page.table(name, table, table.loc[table["scale"] == "z", shown])
    page.text("Bias and RMSE are of z, the unconstrained values (natural ones are in the CSV).")
    return table


# ---- models ------------------------------------------------------------------------------------------


LEFT_OUT = {
    "blocks": "Log-likelihood of each block of a person, estimated from their other blocks, summed.",
    "trials": "Log-likelihood of each trial of a person given all others, by Pareto-smoothed importance sampling "
    "(Vehtari, Gelman & Gabry, 2017), summed.",
}


def write_comparison(
    folder: Path,
    fits: Sequence[Fit],
    variants: Sequence[Variant],
    left_out: Mapping[str, Mapping[str, pd.Series]],
    *,
    settings: Any,
) -> str:
    """Which model explains the choices, for each person and for the group; the verdict in a sentence.

    ``left_out``: of what was predicted, ``blocks`` or ``trials``, each model's scores by participant.
    """
    page = Page(folder)
    common = [id for id in fits[0].ids if all(id in fit.ids for fit in fits)]
    evidence = evidence_matrix(fits, participants=common)
    known = evidence.loc[np.isfinite(evidence.to_numpy()).all(1), :]
    left = sorted(set().union(*(fit.failures for fit in fits)) | (set(evidence.index) - set(known.index)))
    if left:
        page.text(f"Left out, since some model could not be fitted to them: {', '.join(left)}.", bad=True)
    if known.empty:
        raise ValueError(
            "compare-models: no participant could be fitted by all models; the report of a fit says why."
        )
    page.rows(("model", "meaning"), [(v.name, v.meaning) for v in variants])
    groups = compare_groups(fits, list(known.index))
    selection = random_effects_selection(known)
    best = selection.models[int(np.argmax(selection.frequency))]
    p = selection.protected_exceedance[selection.models.index(best)]
    verdict = (
        f"Of {len(known)} participants most are explained best by '{best}': expected share "
        f"{selection.frequency.max():.2f}, protected exceedance probability {p:.3f}."
    )
    page.text(verdict)
    page.figure(
        "shares",
        "Shares of the models",
        "Random-effects selection (Stephan et al., 2009; Rigoux et al., 2014) on the log evidence: the "
        "expected share of people for whom each model holds.",
        1,
        lambda axes: plots.plot_model_frequencies(selection, ax=axes[0]),
        height=0.45 * len(fits) + 1.6,
    )
    page.table("shares", selection.table(), digits=3)
    page.figure(
        "evidence",
        "Evidence, person by person",
        "How much less a participant's choices speak for a model than for the group's best; a dot a participant.",
        1,
        lambda axes: plots.plot_evidence_differences(known, ax=axes[0]),
        height=0.45 * len(fits) + 1.6,
    )
    page.heading("The group as one")
    page.text("Sums over participants. At few choices a person, BIC takes models that are too simple.")
    page.table("groups", groups)
    if left_out:
        page.heading("Predicting what was left out")
    for what, scores in left_out.items():
        page.text(LEFT_OUT[what])
        page.table(
            f"held_out_{what}", compare_scores({name: own.loc[known.index] for name, own in scores.items()})
        )
    page.heading("Person by person")
    page.table("people", compare_people(fits, list(known.index)))
    page.write("Comparison of models", settings)
    return verdict


# ---- prediction --------------------------------------------------------------------------------------


def write_prediction(folder: Path, check: PredictiveCheck, *, settings: Any) -> None:
    """What the fitted people do when they choose anew."""
    page = Page(folder)
    _page_of_prediction(page, check)
    page.write(f"Predictive check: {check.model}", settings)


def _page_of_prediction(page: Page, check: PredictiveCheck) -> None:
    page.figure(
        "prediction",
        "Predictive check",
        "Share of right choices by encounter and step: people with standard errors, and where 95 % of simulated "
        "groups lie, whose parameters are drawn from the posteriors and who choose anew. Points outside the band "
        "are what the model does not explain.",
        1,
        lambda axes: plots.plot_predictive_check(check.encounters, check.people, check.predicted, ax=axes[0]),
        height=3.8,
    )
    page.table("prediction", check.table())


# ---- recovery ----------------------------------------------------------------------------------------


@dataclass
class Recovered:
    """What ``eplstm recover`` has found."""

    variant: Variant
    parameters: dict[int, list[tuple[Truth, Fit]]] = field(default_factory=dict)
    """By number of trials: truth and fit of each group."""
    failures: dict[str, str] = field(default_factory=dict)
    """Pieces that failed, and why."""
    models: Mapping[str, Any] = field(default_factory=dict)
    """What pieces of ``recover_model`` gave."""
    names: Sequence[str] = ()
    """Of the models."""
    check: PredictiveCheck | None = None


def write_recovery(folder: Path, found: Recovered, *, what: Sequence[str], settings: Any) -> None:
    """What the design can tell: parameters, models, calibration, prediction."""
    page = Page(folder)
    for name, why in found.failures.items():
        page.text(f"{name}: failed ({why}).", bad=True)
    if "parameters" in what and found.parameters:
        _recovery_of_parameters(page, found)
    if "calibration" in what and found.parameters:
        for trials, replicates in found.parameters.items():
            _calibration(page, trials, calibrate(replicates))
    if found.models:
        _recovery_of_models(page, found)
    if found.check is not None:
        page.heading("Prediction, of one group")
        _page_of_prediction(page, found.check)
    page.write(f"Recovery: {found.variant.name}", settings)


def _recovery_of_parameters(page: Page, found: Recovered) -> None:
    tables = []
    for trials, replicates in found.parameters.items():
        page.heading(f"Parameters, {trials} trials")
        table = _page_of_recovery(page, f"recovery_{trials}_trials", replicates)
        tables.append(table.assign(n_trials=trials))
        unsure = sum(int((~fit.converged).sum()) for _, fit in replicates)
        lost = sum(len(fit.failures) for _, fit in replicates)
        if unsure or lost:
            page.text(f"{unsure} estimates did not converge, and {lost} people could not be fitted.", bad=True)
    every = pd.concat(tables, ignore_index=True)
    write_whole(page.folder / "recovery.csv", every.to_csv(index=False))
    if len(tables) > 1:
        for measure, title in (("r", "Correlation"), ("coverage", "Coverage")):
            page.figure(
                f"{measure}_by_trials",
                f"{title} by number of trials",
                "Between true and estimated z." if measure == "r" else "Of the nominal 95 % intervals.",
                1,
                lambda axes, m=measure: plots.plot_recovery_by_trials(every, measure=m, ax=axes[0]),
                height=3.4,
            )


def _calibration(page: Page, trials: int, found: Calibration) -> None:
    page.heading(f"Calibration, {trials} trials")
    name, k = f"calibration_{trials}_trials", len(found.names)
    caption = (
        "Ranks of the truth among draws from the posterior (Talts et al., 2018): level if intervals are what they "
        "claim to be; a hill where they are too wide, a bowl where they are too narrow."
    )
    page.figure(
        name, "Ranks", caption, k, lambda axes: plots.plot_calibration(found, axes=axes), height=2 * PANEL, rows=2
    )
    page.table(name, found.table(), digits=3)


def _recovery_of_models(page: Page, found: Recovered) -> None:
    page.heading("Models")
    size = len(found.names)
    for what in ("person", "group"):
        counts = confusion_matrix(*best_models(found.models, by_group=what == "group"), list(found.names))
        for name, matrix, numbers, title, caption in (
            (
                "confusion",
                counts.div(counts.sum(axis=1), axis=0),
                counts.to_numpy(),
                "Confusion: p(best | simulated)",
                f"Which model has the largest log evidence, by the model that each {what}'s choices are from.",
            ),
            (
                "inversion",
                inversion_matrix(counts),
                None,
                "Inversion: p(simulated | best)",
                f"How far the winner can be trusted, {what} by {what}, if all models are equally likely before.",
            ),
        ):
            page.figure(
                f"{name}_{what}",
                f"{name.capitalize()}, by {what}",
                caption,
                1,
                lambda axes, m=matrix, n=numbers, t=title: plots.plot_matrix(m, counts=n, title=t, ax=axes[0]),
                height=0.62 * size + 1.8,
                width=0.75 * size + 3.0,
            )
            write_whole(page.folder / f"{name}_{what}.csv", matrix.to_csv())
