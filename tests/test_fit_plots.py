"""Figures of fits show the numbers they are given, in the axes they are given."""

import fit_cases
import numpy as np
import pandas as pd
import pytest
from eplstm.comparisons.fitting import fit_plots as plots
from eplstm.comparisons.fitting.model_selection import random_effects_selection
from eplstm.comparisons.fitting.parameters import ParameterSpace
from eplstm.comparisons.fitting.recovery_measures import (
    Calibration,
    confusion_matrix,
    inversion_matrix,
    recovery_pairs,
    recovery_table,
)
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

SPACE = ParameterSpace.of("inverse_temperature", "gate_bias", "lapse")


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


@pytest.fixture(autouse=True)
def nothing_left_open():
    style = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == style
    plt.close("all")


def a_fit(people=6, group=True, seed=0, **changes):
    of_group = {"group_mean": np.tile(SPACE.prior_mean, (people, 1)), "group_sd": SPACE.prior_sd} if group else {}
    fields = {
        "ids": tuple(f"sub-{p}" for p in range(people)),
        "covariance": np.tile(0.2 * np.eye(3) + 0.1, (people, 1, 1)),
        "converged": np.arange(people) != 1,
    }
    z = SPACE.draw(people, np.random.default_rng(seed))
    return fit_cases.a_fit(**{"space": SPACE, "z": z, **fields, **of_group, **changes})


def points(ax) -> np.ndarray:
    """(n, 2): all markers that are drawn."""
    return np.concatenate([line.get_xydata() for line in ax.lines if line.get_marker() == "o"])


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def saved(figure, folder) -> bool:
    """Whether the figure can be written; a layout that does not fit would warn, which is an error here."""
    path = folder / "figure.png"
    figure.savefig(path, dpi=50)
    return path.stat().st_size > 1000


# ---- estimates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [1, 6, 60])
def test_estimates_show_everybody_sorted(people, tmp_path):
    fit = a_fit(people)
    panels = plots.plot_estimates(fit)
    assert len(panels) == 3
    lower, upper = fit.interval()
    for k, ax in enumerate(panels):
        drawn = points(ax)
        np.testing.assert_allclose(drawn[np.argsort(drawn[:, 1]), 0], np.sort(fit.natural[:, k]))
        segments = np.array(ax.collections[0].get_segments())
        order = np.argsort(fit.natural[:, k])
        np.testing.assert_allclose(segments[:, 0], np.stack([lower[order, k], np.arange(people)], axis=1))
        np.testing.assert_allclose(segments[:, 1], np.stack([upper[order, k], np.arange(people)], axis=1))
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert names == ([] if people > plots.NAMED else [fit.ids[p] for p in order])
    assert panels[0].get_xscale() == "log" and panels[1].get_xscale() == "linear"
    assert panels[0].get_xlabel() == "$β$" and panels[1].get_title() == "Gate bias"
    entries = [text.get_text() for text in panels[-1].get_legend().get_texts()]
    assert entries == (["not converged"] if people > 1 else []) + ["group mean", "95 % of people"]
    assert saved(panels[0].figure, tmp_path)


def test_estimates_without_group_or_with_covariates():
    plain = plots.plot_estimates(a_fit(group=False, converged=np.ones(6, bool)))
    assert plain[-1].get_legend() is None
    means = np.random.default_rng(1).standard_normal((6, 3))
    fit = a_fit(group_mean=means)
    panel = plots.plot_estimates(fit)[1]
    marks = next(line for line in panel.lines if line.get_marker() == "|")
    np.testing.assert_allclose(marks.get_xdata(), means[np.argsort(fit.z[:, 1]), 1])


def test_group_shows_people_prior_and_group(tmp_path):
    fit = a_fit(40)
    panels = plots.plot_group(fit)
    for k, ax in enumerate(panels):
        rug = next(line for line in ax.lines if line.get_marker() == "|")
        np.testing.assert_allclose(rug.get_xdata(), fit.natural[:, k])
    # The density of lapses is that of their natural values: its area is 1.
    prior = panels[2].lines[1]
    assert trapezoid(prior.get_ydata(), prior.get_xdata()) == pytest.approx(1, abs=0.002)
    assert [t.get_text() for t in panels[-1].get_legend().get_texts()] == ["estimates", "prior", "group"]
    assert saved(panels[0].figure, tmp_path)
    assert len(plots.plot_group(a_fit(1, group=False))[0].lines) == 2


def test_given_axes_are_used():
    given = Figure(layout="constrained").subplots(1, 3)
    assert list(plots.plot_estimates(a_fit(), axes=given)) == list(given)
    with pytest.raises(ValueError, match="needs 3 axes; got 2"):
        plots.plot_group(a_fit(), axes=given[:2])
    nothing = a_fit(space=ParameterSpace(()), z=np.empty((6, 0)), covariance=np.empty((6, 0, 0)))
    with pytest.raises(ValueError, match="there are none"):
        plots.plot_estimates(nothing)


def test_parameter_correlation_leaves_out_the_unknown(ax, tmp_path):
    fit = a_fit()
    fit.covariance[0] = np.nan
    assert plots.plot_parameter_correlation(fit, ax=ax) is ax
    assert texts(ax).count("1.00") == 3 and texts(ax).count("0.33") == 6
    assert "mean of 5 people" in ax.get_title()
    assert saved(ax.figure, tmp_path)


# ---- recovery ----------------------------------------------------------------------------------------


def test_recovery_shows_points_measures_and_misses(tmp_path):
    fit = a_fit(30)
    true = SPACE.natural_array(fit.z + np.random.default_rng(1).standard_normal((30, 3)))
    pairs, table = recovery_pairs(true, fit), recovery_table(true, fit).set_index(["parameter", "scale"])
    panels = plots.plot_recovery(pairs)
    for k, (ax, name) in enumerate(zip(panels, SPACE.names, strict=True)):
        drawn = points(ax)
        assert len(drawn) == 30
        np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort(true[:, k]))
        missed = [line for line in ax.lines if line.get_color() == plots.VERMILLION]
        row = table.loc[(name, "natural")]
        assert len(missed[0].get_xdata()) == round((1 - row["coverage"]) * 30)
        assert f"coverage {row['coverage']:.2f} [{row['coverage_low']:.2f}" in texts(ax)[0]
        assert "n = 30" in texts(ax)[0]
    assert f"r {table.loc[('gate_bias', 'natural'), 'r']:.2f}" in texts(panels[1])[0]
    assert f"r of logarithms {table.loc[('inverse_temperature', 'z'), 'r']:.2f}" in texts(panels[0])[0]
    assert saved(panels[0].figure, tmp_path)
    assert "r of logarithms –" in texts(plots.plot_recovery(recovery_pairs(true[:1], a_fit(1)))[0])[0]


@pytest.mark.parametrize("measure", ["r", "coverage", "rmse", "bias"])
def test_recovery_by_trials_has_a_line_a_parameter(ax, measure, tmp_path):
    tables = []
    for n in (120, 60):
        fit = a_fit(20, seed=n)
        true = SPACE.natural_array(fit.z + np.random.default_rng(n).normal(0, 12 / n, (20, 3)))
        tables.append(recovery_table(true, fit).assign(n_trials=n))
    table = pd.concat(tables)
    assert plots.plot_recovery_by_trials(table, measure=measure, ax=ax) is ax
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["inverse temperature", "gate bias", "lapse"]
    for place, name in enumerate(SPACE.names):
        own = table[(table["parameter"] == name) & (table["scale"] == "z")].sort_values("n_trials")
        drawn = ax.containers[place].lines[0]
        np.testing.assert_allclose(drawn.get_ydata(), own[measure])
        assert (ax.containers[place].has_yerr) == (measure in ("r", "coverage"))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["60", "120"]
    assert saved(ax.figure, tmp_path)
    with pytest.raises(ValueError, match="no column 'n_trials'"):
        plots.plot_recovery_by_trials(tables[0].drop(columns="n_trials"))


def test_matrices_show_their_numbers(ax, tmp_path):
    counts = confusion_matrix(["a"] * 4 + ["b"] * 4, ["a"] * 3 + ["b"] + ["b"] * 4)
    assert plots.plot_matrix(counts / 4, counts=counts.to_numpy(), ax=ax) is ax
    assert texts(ax) == ["0.75", "3", "0.25", "1", "0.00", "0", "1.00", "4"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "Best model" and ax.get_ylabel() == "Simulated model"
    assert saved(ax.figure, tmp_path)
    never = inversion_matrix(confusion_matrix(["a", "b"], ["a", "a"]))
    assert texts(plots.plot_matrix(never, title="Inversion")) == ["0.50", "–", "0.50", "–"]


# ---- models ------------------------------------------------------------------------------------------


def test_frequencies_show_exceedance(ax, tmp_path):
    evidence = np.zeros((8, 3))
    evidence[:, 0] = 5
    selection = random_effects_selection(evidence, ["full", "no memory", "bias only"])
    assert plots.plot_model_frequencies(selection, ax=ax) is ax
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], selection.frequency)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(selection.models)
    both = np.stack([selection.exceedance, selection.protected_exceedance], axis=1)
    expected = [f"{number:.2f}" for number in both.ravel()]
    assert texts(ax) == [*expected, "xp", "pxp"]
    assert f"{selection.omnibus_risk:.2f}" in ax.get_title()
    assert saved(ax.figure, tmp_path)


def test_evidence_differences_are_against_the_best(ax, tmp_path):
    rng = np.random.default_rng(0)
    evidence = pd.DataFrame(rng.normal([-60, -50, -70], 2, (60, 3)), columns=["a", "b", "c"])
    assert plots.plot_evidence_differences(evidence, ax=ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "c"]
    clouds = [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(clouds[0][:, 0], evidence["a"] - evidence["b"])
    for row, cloud in enumerate(clouds):
        assert np.abs(cloud[:, 1] - row).max() <= 0.31 and len(np.unique(cloud, axis=0)) == 60
    total = (evidence["a"] - evidence["b"]).sum()
    assert f"Σ −{-total:.1f}" in texts(ax)
    assert saved(ax.figure, tmp_path)
    turned = plots.plot_evidence_differences(evidence, reference="c")
    assert [label.get_text() for label in turned.get_yticklabels()] == ["b", "a"]
    one = plots.plot_evidence_differences(evidence[["a"]].iloc[:1])
    assert not [label.get_text() for label in one.get_yticklabels()]
    with pytest.raises(ValueError, match="'d' is not among the models"):
        plots.plot_evidence_differences(evidence, reference="d")
    evidence.loc[3, "b"] = np.nan
    with pytest.raises(ValueError, match="participant '3' under 'b' is nan"):
        plots.plot_evidence_differences(evidence)


# ---- predictions and calibration ---------------------------------------------------------------------


def test_predictive_check_shows_people_and_bands(ax, tmp_path):
    rng = np.random.default_rng(0)
    people, predicted = rng.random((5, 2, 4)), rng.random((50, 2, 4))
    people[:, 0, 2] = np.nan
    people[1:, 1, 0] = np.nan
    assert plots.plot_predictive_check((1, 2), people, predicted, noise_off=2, ax=ax) is ax
    first, second = (container.lines[0].get_ydata() for container in ax.containers)
    np.testing.assert_allclose(first, np.delete(people[:, 0].mean(0), 2))
    assert len(second) == 4 and second[0] == people[0, 1, 0]
    bands = [np.sort(band.get_paths()[0].vertices[:, 1]) for band in ax.collections if band.get_alpha() == 0.22]
    assert bands[1].max() == pytest.approx(np.percentile(predicted[:, 1], 97.5, axis=0).max())
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    assert entries == ["first encounter", "second encounter"]
    assert saved(ax.figure, tmp_path)
    with pytest.raises(ValueError, match="needs people"):
        plots.plot_predictive_check((1, 2), people, predicted[:, :1])


def test_calibration_shows_counts_and_differences(tmp_path):
    rng = np.random.default_rng(0)
    true = rng.standard_normal((100, 2))
    ranks = (rng.standard_normal((49, 100, 2)) < true).sum(0)
    result = Calibration(("gate_bias", "lapse"), ranks, draws=49)
    panels = plots.plot_calibration(result)
    assert panels.shape == (2, 2)
    for column, name in enumerate(result.names):
        bars = [bar.get_height() for bar in panels[0, column].containers[0]]
        assert sum(bars) == 100 and len(bars) == 20
        points_, difference, *_ = result.ecdf(name)
        line = panels[1, column].lines[-1]
        np.testing.assert_allclose(line.get_xdata()[1:-1], points_)
        np.testing.assert_allclose(line.get_ydata()[1:-1], difference)
    assert panels[0, 0].get_title() == "Gate bias $b_r$" and panels[0, 0].get_xlabel() == "Rank among 49 draws"
    assert saved(panels[0, 0].figure, tmp_path)
