"""Figures of fits: each function takes numbers, and the ``Axes`` to draw into; it returns what it drew into.

Style and colours are those of ``comparisons/axes.py``. Functions with a panel for each of k parameters take and
return ``axes`` (k,), the others ``ax``; without, they make a figure. ``fit`` is of P participants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from scipy.stats import binom, norm

from ..axes import (
    BLACK,
    BLUE,
    COLORS,
    GREY,
    LABEL,
    MARKERS,
    ORANGE,
    TICK,
    TITLE,
    VERMILLION,
    add_colorbar,
    add_legend,
    axes_or_new,
    dress,
    level_line,
    ordinal,
)
from .model_selection import ModelSelection
from .parameters import KNOWN, FreeParameter
from .recovery_measures import Calibration, measures_of_pairs, rank_histogram
from .results import Fit, check_finite

NAMED = 25
"""With more participants than these, their ids are not written at the axis."""


# ---- estimates ---------------------------------------------------------------------------------------


def plot_estimates(fit: Fit, *, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """Estimates and 95 % intervals of all participants, a panel a parameter, each sorted by the estimate.

    Open rings have not converged. Where there is a group, its mean is a line, and the range of 95 % of people a
    band; a mean that depends on covariates is a mark for each participant.
    """
    height = float(np.clip(0.13 * len(fit) + 1.2, 2.6, 8.5))
    panels = _panels(axes, len(fit.space), (2.7, height))
    lower, upper = fit.interval()
    for k, (ax, parameter) in enumerate(zip(panels, fit.space.free, strict=True)):
        estimate = fit.natural[:, k]
        order = np.argsort(estimate, kind="stable")
        rows = np.arange(len(order))
        ax.hlines(rows, lower[order, k], upper[order, k], color=BLUE, alpha=0.45, linewidth=1.4)
        size = 5.0 if len(fit) <= NAMED else 3.2
        for done, face, label in ((True, BLUE, "_"), (False, "white", "not converged")):
            shown = fit.converged[order] == done
            style: dict[str, Any] = {"color": BLUE, "markerfacecolor": face, "markersize": size, "label": label}
            ax.plot(estimate[order][shown], rows[shown], "o", **style)
        _mark_group(ax, fit, k, order)
        _value_axis(ax, parameter, _room(estimate, lower[:, k], upper[:, k]))
        ax.set_ylim(-0.8, len(order) - 0.2)
        names = [fit.ids[p] for p in order] if len(order) <= NAMED else []
        ax.set_yticks(rows[: len(names)], names)
        dress(ax, _words(parameter.name), f"${parameter.symbol}$", "")
        ax.tick_params(axis="y", length=0, labelsize=TICK - 1.5)
    _explain(panels[-1], fit)
    first = "Participants, by their estimate" if len(fit) > NAMED else "Participant"
    panels[0].set_ylabel(first, fontsize=LABEL)
    return panels


def plot_group(fit: Fit, *, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """How estimates are distributed over participants, with the group's distribution (if any) and the prior.

    Estimates are drawn towards the group, so that they vary less than people do.
    """
    panels = _panels(axes, len(fit.space), (2.9, 2.7))
    for k, (ax, parameter) in enumerate(zip(panels, fit.space.free, strict=True)):
        estimate = fit.natural[:, k]
        scale = np.log if _logarithmic(parameter) else np.asarray
        edges = np.histogram_bin_edges(scale(estimate), bins="auto")
        counts = np.histogram(scale(estimate), edges)[0] / len(estimate) / np.diff(edges)
        shown = np.exp(edges) if _logarithmic(parameter) else edges
        ax.stairs(counts, shown, fill=True, color=BLUE, alpha=0.3, label="estimates")
        ax.plot(estimate, np.zeros(len(estimate)), "|", color=BLUE, markersize=7, label="_people", clip_on=False)
        curves = [("prior", parameter.prior_mean, parameter.prior_sd, GREY, "--")]
        if fit.group_mean is not None and fit.group_sd is not None and _one_mean(fit, k):
            curves.append(("group", fit.group_mean[0, k], fit.group_sd[k], VERMILLION, "-"))
        for label, mean, sd, color, style in curves:
            x, density = _density(parameter, float(mean), float(sd))
            ax.plot(x, density, style, color=color, linewidth=1.6, label=label)
        _value_axis(ax, parameter, None)
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        dress(ax, _words(parameter.name), f"${parameter.symbol}$", "")
    panels[0].set_ylabel("Density", fontsize=LABEL)
    add_legend(panels[-1], "upper left", anchor=(1.0, 1.0))
    return panels


def plot_parameter_correlation(fit: Fit, *, ax: Axes | None = None) -> Axes:
    """How parameters trade off in the posterior of one participant: correlations of z, averaged over those
    participants who have covariances.
    """
    ax = axes_or_new(ax, (3.0 + 0.7 * len(fit.space), 1.2 + 0.6 * len(fit.space)))
    sd = np.sqrt(np.einsum("pkk->pk", fit.covariance))
    each = fit.covariance / (sd[:, :, None] * sd[:, None, :])
    known = np.isfinite(each).all((1, 2))
    mean = each[known].mean(0) if known.any() else np.full(each.shape[1:], np.nan)
    image = ax.imshow(mean, cmap="PuOr", vmin=-1, vmax=1)
    _numbers(ax, mean, np.abs(mean) > 0.6)
    _name_cells(
        ax, [name.replace("_", " ") for name in fit.space.names], [f"${p.symbol}$" for p in fit.space.free]
    )
    add_colorbar(ax, image, "Correlation")
    return dress(ax, f"Posterior correlation\n(mean of {known.sum()} people)", "", "")


def _explain(ax: Axes, fit: Fit) -> None:
    """A legend beside the panel; none where there is nothing to explain."""
    handles, labels = ax.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    if fit.converged.all():
        entries.pop("not converged", None)
    if entries:
        add_legend(ax, "upper left", anchor=(1.0, 1.0), handles=list(entries.values()), labels=list(entries))


def _mark_group(ax: Axes, fit: Fit, k: int, order: np.ndarray) -> None:
    if fit.group_mean is None or fit.group_sd is None:
        return
    parameter = fit.space.free[k]
    if not _one_mean(fit, k):
        own, rows = parameter.natural_array(fit.group_mean[order, k]), np.arange(len(order))
        style: dict[str, Any] = {"color": VERMILLION, "markersize": 6, "zorder": 1}
        ax.plot(own, rows, "|", **style, label="expected by covariates")
        return
    mean = fit.group_mean[0, k]
    low, high = norm.interval(0.95, mean, fit.group_sd[k])
    low, middle, high = parameter.natural_array(np.array([low, mean, high]))
    ax.axvline(middle, color=VERMILLION, linewidth=1.3, zorder=1, label="group mean")
    ax.axvspan(low, high, color=ORANGE, alpha=0.15, linewidth=0, zorder=0, label="95 % of people")


def _one_mean(fit: Fit, k: int) -> bool:
    return fit.group_mean is not None and np.allclose(fit.group_mean[:, k], fit.group_mean[0, k])


# ---- recovery ----------------------------------------------------------------------------------------


def plot_recovery(pairs: pd.DataFrame, *, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """Estimates against the truth with 95 % intervals, a panel a parameter; r and coverage with theirs.

    ``pairs``: from ``recovery_pairs``, of one group or of several.
    """
    names = list(dict.fromkeys(pairs["parameter"]))
    panels = _panels(axes, len(names), (3.0, 3.8))
    measures = measures_of_pairs(pairs).set_index(["parameter", "scale"])
    for ax, name in zip(panels, names, strict=True):
        own = (pairs["parameter"] == name).to_numpy()
        columns = ("true", "estimate", "lower", "upper", "covered")
        true, estimate, lower, upper, covered = (pairs[column].to_numpy(dtype=float)[own] for column in columns)
        limits = _room(np.concatenate([true, estimate]), lower, upper)
        missed = covered == 0
        faint, size = (0.45, 4.0) if len(true) <= 60 else (0.2, 2.5)
        for which, color in ((~missed, BLUE), (missed, VERMILLION)):
            ax.vlines(true[which], lower[which], upper[which], color=color, alpha=faint, linewidth=1.1)
            ax.plot(true[which], estimate[which], "o", color=color, markersize=size)
        ax.axline((limits[0], limits[0]), (limits[1], limits[1]), color=BLACK, linestyle="--", linewidth=1)
        _value_axis(ax, KNOWN[name], limits)
        _value_axis(ax, KNOWN[name], limits, vertical=True)
        ax.set_box_aspect(1)
        dress(ax, _words(name), f"True ${KNOWN[name].symbol}$", "")
        row = measures.loc[(name, "z" if _logarithmic(KNOWN[name]) else "natural")]
        text = (
            f"r{' of logarithms' if _logarithmic(KNOWN[name]) else ''} "
            f"{_interval(row['r'], row['r_low'], row['r_high'])}, n = {len(true)}\n"
            f"coverage {_interval(row['coverage'], row['coverage_low'], row['coverage_high'])}"
        )
        # Above the panel, where it hides nothing.
        ax.text(0.0, 1.03, text, transform=ax.transAxes, fontsize=TICK - 1, va="bottom", linespacing=1.3)
        ax.set_title(ax.get_title(), fontsize=TITLE, pad=34)
    panels[0].set_ylabel("Estimate (95 % interval)", fontsize=LABEL)
    return panels


MEASURES = {
    "r": "Pearson's r",
    "spearman": "Spearman's ρ",
    "coverage": "Coverage",
    "rmse": "RMSE",
    "bias": "Bias",
}


def plot_recovery_by_trials(
    table: pd.DataFrame, *, measure: str = "r", scale: str = "z", ax: Axes | None = None
) -> Axes:
    """How recovery grows with the number of trials, a line a parameter.

    Args:
        table: rows of ``recovery_table`` or ``recovery_across`` of several designs, with a column ``n_trials``.
        measure: of ``MEASURES``; ``r`` and ``coverage`` with their intervals.
        scale: ``natural`` or ``z``.

    Raises:
        ValueError: the table has no column of this name.
    """
    missing = [name for name in ("n_trials", measure) if name not in table.columns]
    if missing:
        raise ValueError(f"plot_recovery_by_trials: the table has no column {missing[0]!r}; add it.")
    ax = axes_or_new(ax, (4.6, 3.4))
    names, has_interval = list(dict.fromkeys(table["parameter"])), f"{measure}_low" in table
    for place, name in enumerate(names):
        own = table.loc[(table["parameter"] == name) & (table["scale"] == scale), :]
        own = own.sort_values(by="n_trials", kind="stable").reset_index()
        # Side by side, where intervals would lie on each other; in proportion, as the axis is logarithmic.
        x = own["n_trials"] * 1.025 ** (place - (len(names) - 1) / 2)
        errors = None
        if has_interval:
            ends = own[[f"{measure}_low", f"{measure}_high"]].to_numpy(dtype=float).T
            errors = np.nan_to_num(np.abs(ends - own[measure].to_numpy()))
        style = _series(place) | {"markersize": 5, "capsize": 2, "linewidth": 1.6}
        ax.errorbar(x.to_numpy(), own[measure].to_numpy(), yerr=errors, label=name.replace("_", " "), **style)
    ax.set_xscale("log")
    trials = np.unique(table["n_trials"])
    ax.set_xticks(trials, [f"{n:g}" for n in trials])
    ax.minorticks_off()
    bottom = {"r": 0.0, "spearman": 0.0, "coverage": 0.5}
    if measure == "coverage":
        level_line(ax, 0.95, "nominal")
    if measure in bottom:
        ax.set_ylim(min(bottom[measure], ax.get_ylim()[0]), 1.02)
    elif measure == "bias":
        level_line(ax, 0.0, "none")
    else:
        ax.set_ylim(bottom=0)
    add_legend(ax)
    of = " of z" if scale == "z" and measure != "coverage" else ""
    label = f"{MEASURES.get(measure, measure.capitalize())}{of}{' (95 % interval)' if has_interval else ''}"
    return dress(ax, "Recovery by the number of trials", "Trials a participant", label)


def plot_matrix(
    shares: pd.DataFrame,
    *,
    counts: np.ndarray | None = None,
    title: str = "Confusion: p(best | simulated)",
    ax: Axes | None = None,
) -> Axes:
    """A confusion or an inversion matrix, with its numbers.

    Args:
        shares: (M, M) rows of ``confusion_matrix`` over their sums, or what ``inversion_matrix`` gives.
        counts: (M, M), written below the shares.
        title: of the panel.
    """
    size = len(shares)
    ax = axes_or_new(ax, (2.6 + 0.75 * size, 1.6 + 0.62 * size))
    values = shares.to_numpy(dtype=float)
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1)
    ax.set_facecolor("#E6E6E6")
    _numbers(ax, values, values > 0.6, counts)
    _name_cells(ax, [*map(str, shares.index)], [*map(str, shares.columns)], rotation=0 if size <= 3 else 30)
    add_colorbar(ax, image, "Probability")
    return dress(ax, title, "Best model", "Simulated model")


# ---- models ------------------------------------------------------------------------------------------


def plot_model_frequencies(selection: ModelSelection, *, ax: Axes | None = None) -> Axes:
    """Expected shares of models in the population (± posterior s.d.), with exceedance probabilities."""
    size = len(selection.models)
    ax = axes_or_new(ax, (5.6, 1.4 + 0.42 * size))
    rows = np.arange(size)
    ax.barh(rows, selection.frequency, color=BLUE, alpha=0.75, height=0.62)
    ax.errorbar(selection.frequency, rows, xerr=selection.frequency_sd, fmt="none", ecolor=BLACK, capsize=3)
    ax.axvline(1 / size, color=GREY, linestyle=":", linewidth=1.2)
    for row in range(size):
        _beside(ax, 1.03, row, f"{selection.exceedance[row]:.2f}")
        _beside(ax, 1.19, row, f"{selection.protected_exceedance[row]:.2f}", fontweight="bold")
    for place, head in ((1.03, "xp"), (1.19, "pxp")):
        _beside(ax, place, -0.75, head, color=GREY)
    ax.set_yticks(rows, selection.models)
    ax.set_ylim(size - 0.4, -1.1)
    ax.set_xlim(0, 1)
    dress(ax, "Models in the population", "Expected share (± s.d.; dotted: equal shares)", "")
    ax.set_title(
        f"Models in the population (p that all shares are equal: {selection.omnibus_risk:.2f})", fontsize=TITLE - 1
    )
    return ax


def plot_evidence_differences(
    evidence: pd.DataFrame, *, reference: str | None = None, ax: Axes | None = None
) -> Axes:
    """How much less each participant's choices speak for each model than for one of them; a dot a participant.

    Args:
        evidence: (P, M) log evidence, or what stands for it, as from ``evidence_matrix``; nats.
        reference: the model that the others are compared with; by default the best of the group.

    Raises:
        ValueError: the reference is not among the models, or evidence is not finite.
    """
    values = evidence.to_numpy(dtype=float)
    totals, names = values.sum(0), [str(name) for name in evidence.columns]
    remedy = "Leave the participant out."
    check_finite("plot_evidence_differences: evidence", values, [*map(str, evidence.index)], names, remedy)
    if reference is not None and reference not in names:
        raise ValueError(f"plot_evidence_differences: {reference!r} is not among the models {names}.")
    base = names.index(reference) if reference is not None else int(np.argmax(totals))
    others = [m for m in np.argsort(-totals, kind="stable") if m != base]
    ax = axes_or_new(ax, (6.0, 1.5 + 0.55 * max(len(others), 1)))
    ax.axvspan(-3, 3, color=GREY, alpha=0.12, linewidth=0)
    ax.axvline(0, color=BLACK, linewidth=1)
    for row, m in enumerate(others):
        difference = values[:, m] - values[:, base]
        style: dict[str, Any] = {"color": BLUE, "alpha": 0.6, "markersize": 4.5, "markeredgewidth": 0}
        ax.plot(difference, row + _swarm(difference), "o", **style)
        ax.plot(np.mean(difference), row, "D", color=VERMILLION, markersize=6.5, markeredgecolor="white")
        _beside(ax, 1.02, row, f"Σ {totals[m] - totals[base]:+.1f}".replace("-", "−"))
    ax.set_yticks(range(len(others)), [names[m] for m in others])
    ax.set_ylim(max(len(others), 1) - 0.4, -0.6)
    label = f"Log evidence against “{names[base]}” (nats; grey: less than a factor of 20)"
    return dress(ax, "Evidence, participant by participant (◆ mean)", label, "")


# ---- predictions -------------------------------------------------------------------------------------


def plot_predictive_check(
    encounters: Sequence[int],
    people: np.ndarray,
    predicted: np.ndarray,
    *,
    chance: float | None = 0.5,
    noise_off: int | None = None,
    title: str = "People (points) and fitted model (bands)",
    ax: Axes | None = None,
) -> Axes:
    """Share of right choices by encounter and step: people as points, the model as bands.

    Args:
        encounters: (E,).
        people: (P, E, T), NaN where somebody made no choice; means ± s.e. are shown.
        predicted: (S, E, T), means over people of S simulated groups; their median and 95 % range are shown.
        chance: where guessing lies.
        noise_off: first step with evidence; marked.
        title: of the panel.

    Raises:
        ValueError: shapes do not fit.
    """
    people, predicted = np.asarray(people, dtype=float), np.asarray(predicted, dtype=float)
    if people.ndim != 3 or predicted.ndim != 3 or not people.shape[1:] == predicted.shape[1:]:
        raise ValueError(
            f"plot_predictive_check: needs people (P, E, T) and predictions (S, E, T); got {people.shape} and "
            f"{predicted.shape}."
        )
    ax = axes_or_new(ax, (5.4, 3.8))
    steps = np.arange(people.shape[2])
    count = np.isfinite(people).sum(0)
    each = pd.DataFrame(people.reshape(len(people), -1))  # whose mean and error leave out what is missing
    mean, se = (values.to_numpy().reshape(count.shape) for values in (each.mean(), each.sem()))
    for row, encounter in enumerate(encounters):
        seen = count[row] > 0
        style = _series(row) | {"markersize": 5.5, "linestyle": "none", "capsize": 2}
        low, middle, high = np.percentile(predicted[:, row][:, seen], [2.5, 50, 97.5], axis=0)
        ax.fill_between(steps[seen], low, high, color=style["color"], alpha=0.22, linewidth=0)
        ax.plot(steps[seen], middle, color=style["color"], linewidth=1.4)
        x = steps[seen] + 0.08 * (row - (len(encounters) - 1) / 2)
        label = f"{ordinal(int(encounter))} encounter"
        ax.errorbar(x, mean[row, seen], yerr=np.nan_to_num(se[row, seen]), **style, label=label)
    level_line(ax, chance, "chance")
    if noise_off is not None:
        ax.axvline(noise_off - 0.5, color=GREY, linestyle="--", linewidth=1.0, zorder=0)
        place: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "va": "bottom", "ha": "left"}
        ax.text(noise_off - 0.4, 0.01, "evidence →", color=GREY, fontsize=TICK, **place)
    ax.set_ylim(min(0.3, ax.get_ylim()[0]), 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(ax, "lower right" if noise_off is None else "best")
    return dress(ax, title, "Step in the trial", "Right choices (mean ± s.e. over people)")


# ---- calibration -------------------------------------------------------------------------------------


def _plot_ranks(ax: Axes, calibration: Calibration, parameter: str) -> None:
    """Ranks of the truth among posterior draws; in the band lie 95 % of the bars, each alone."""
    ranks = calibration.of(parameter)
    counts, expected = rank_histogram(ranks, calibration.draws)
    n, width = max(len(ranks), 1), (calibration.draws + 1) / len(counts)
    edges = np.linspace(0, calibration.draws + 1, len(counts) + 1).round() - 0.5
    low, high = binom.interval(0.95, n, expected / n)
    ax.stairs(high, edges, baseline=low, fill=True, color=GREY, alpha=0.25, linewidth=0)
    ax.stairs(expected, edges, color=GREY, linestyle="--", linewidth=1.2, baseline=None)
    ax.bar((edges[:-1] + edges[1:]) / 2, counts, np.diff(edges) - 0.08 * width, color=BLUE, alpha=0.75)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    symbol = f" ${KNOWN[parameter].symbol}$" if parameter in KNOWN else ""
    dress(ax, _words(parameter) + symbol, f"Rank among {calibration.draws} draws", "People")


def _plot_ecdf_difference(ax: Axes, calibration: Calibration, parameter: str) -> None:
    """Distribution of the ranks, minus the uniform one, with its simultaneous band (Säilynoja et al., 2022)."""
    points, *curves = calibration.ecdf(parameter)
    ends = np.concatenate([[0.0], points, [1.0]])
    difference, lower, upper = (np.concatenate([[0.0], values, [0.0]]) for values in curves)
    ax.fill_between(ends, lower, upper, color=GREY, alpha=0.25, linewidth=0)
    ax.axhline(0, color=GREY, linestyle="--", linewidth=1.2)
    ax.plot(ends, difference, color=BLUE, linewidth=1.6)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    dress(ax, "", "Rank, as a share of the draws", "ECDF − uniform")


def plot_calibration(calibration: Calibration, *, axes: np.ndarray | None = None) -> np.ndarray:
    """Ranks of the truth among posterior draws (above), and the difference of their distribution from the uniform
    one (below), a column a parameter; 95 % of bars, and whole lines, lie in the bands if posteriors are right.

    ``axes``, which are returned: (2, k).
    """
    size = len(calibration.names)
    if axes is None:
        axes = plt.subplots(2, size, figsize=(2.9 * size + 0.4, 4.8), squeeze=False, layout="constrained")[1]
    panels = np.asarray(axes, dtype=object).reshape(2, size)
    for column, name in enumerate(calibration.names):
        _plot_ranks(panels[0, column], calibration, name)
        _plot_ecdf_difference(panels[1, column], calibration, name)
        for ax in panels[:, column] if column else ():
            ax.set_ylabel("")
    return panels


# ---- shared parts ------------------------------------------------------------------------------------


def _panels(axes: Sequence[Axes] | np.ndarray | None, count: int, size: tuple[float, float]) -> np.ndarray:
    """So many axes; made in rows of at most four if none are given. ValueError if there are others than needed."""
    if not count:
        raise ValueError("Plotting parameters: there are none.")
    if axes is not None:
        panels = np.asarray(axes, dtype=object).ravel()
        if len(panels) != count:
            raise ValueError(f"Plotting parameters: needs {count} axes; got {len(panels)}.")
        return panels
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = plt.figure(figsize=(size[0] * columns + 0.4, size[1] * rows), layout="constrained")
    return np.array([figure.add_subplot(rows, columns, place + 1) for place in range(count)], dtype=object)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _series(place: int) -> dict[str, Any]:
    """Colour and marker of one of several lines."""
    return {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)]}


def _beside(ax: Axes, x: float, row: float, text: str, **style: Any) -> None:
    """A text beside a row of the panel."""
    ax.text(x, row, text, fontsize=TICK, va="center", transform=ax.get_yaxis_transform(), **style)


def _logarithmic(parameter: FreeParameter) -> bool:
    """Whether values are shown on a logarithmic axis."""
    return parameter.transform == "log" and parameter.lower == 0


def _density(parameter: FreeParameter, mean: float, sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Natural values, and the density there of z ~ N(mean, sd²), by natural value, or by its logarithm."""
    z = mean + sd * np.linspace(-3.5, 3.5, 400)
    x = parameter.natural_array(z)
    normal = norm.pdf(z, mean, sd)
    if parameter.transform == "identity" or _logarithmic(parameter):
        return x, normal
    slope = x - parameter.lower
    if parameter.transform == "logit":
        slope = slope * (parameter.upper - x) / (parameter.upper - parameter.lower)
    return x, normal / slope


def _room(values: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple[float, float]:
    """Limits that hold all values, and nine of ten intervals: single wide ones are cut."""
    ends = [np.asarray(values, dtype=float)]
    for end, share in ((lower, 10), (upper, 90)):
        known = end[np.isfinite(end)]
        ends.append(np.percentile(known, [share]) if len(known) else known)
    every = np.concatenate(ends)
    return float(every.min()), float(every.max())


def _value_axis(
    ax: Axes, parameter: FreeParameter, limits: tuple[float, float] | None, vertical: bool = False
) -> None:
    """An axis for natural values, logarithmic where z is a logarithm, with few ticks."""
    axis, side = (ax.yaxis, "y") if vertical else (ax.xaxis, "x")
    logarithmic = _logarithmic(parameter)
    if logarithmic:
        ax.set(**{f"{side}scale": "log"})
    if limits is not None:
        low, high = limits
        if logarithmic:
            room = max((high / low) ** 0.06, 1.05)
            low, high = low / room, high * room
        else:
            room = 0.06 * (high - low) or 0.1
            low, high = max(low - room, parameter.lower), min(high + room, parameter.upper)
        ax.set(**{f"{side}lim": (low, high)})
    if not logarithmic:
        axis.set_major_locator(MaxNLocator(5))
        return
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.6 else (1, 3) if decades < 2.6 else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _numbers(ax: Axes, values: np.ndarray, dark: np.ndarray, counts: np.ndarray | None = None) -> None:
    """The numbers of a matrix in its cells; white on dark ones."""
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
        color = "white" if dark[row, column] else BLACK
        lift = 0.0 if counts is None else 0.12
        ax.text(column, row - lift, text, ha="center", va="center", fontsize=TICK, color=color)
        if counts is not None:
            below = f"{counts[row, column]}"
            ax.text(column, row + 0.24, below, ha="center", va="center", fontsize=TICK - 2, color=color)


def _name_cells(ax: Axes, rows: list[str], columns: list[str], rotation: float = 0) -> None:
    ax.set_xticks(range(len(columns)), columns, rotation=rotation, ha="right" if rotation else "center")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.tick_params(axis="x", rotation=rotation)


def _interval(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "–"
    number, ends = f"{value:.2f}", f" [{low:.2f}, {high:.2f}]"
    return number + (ends if np.isfinite([low, high]).all() else "")


def _swarm(values: np.ndarray) -> np.ndarray:
    """Heights that keep points of nearly the same value apart, within ± .3; deterministic."""
    heights = np.zeros(len(values))
    width = max(float(np.ptp(values)) / 45, 1e-12)
    cells = np.floor((values - values.min()) / width).astype(int)
    for cell in np.unique(cells):
        inside = np.flatnonzero(cells == cell)
        place = np.arange(len(inside)) - (len(inside) - 1) / 2
        heights[inside] = place * min(0.11, 0.6 / max(len(inside) - 1, 1))
    return heights
