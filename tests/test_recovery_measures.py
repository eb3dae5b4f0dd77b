"""Measures of recovery against numbers by hand, and against simulations whose truth is known."""

from functools import partial

import fit_cases
import numpy as np
import pandas as pd
import pytest
from eplstm.comparisons.fitting.parameters import ParameterSpace
from eplstm.comparisons.fitting.recovery_measures import (
    Calibration,
    calibrate,
    confusion_matrix,
    ecdf_band,
    inversion_matrix,
    rank_histogram,
    recovery_across,
    recovery_pairs,
    recovery_table,
)
from scipy.stats import norm

# The same few sums in another order: float64 rounding and nothing else.
ATOL = 1e-12

SPACE = ParameterSpace.of("inverse_temperature", "gate_bias")


a_fit = partial(fit_cases.a_fit, SPACE)


@pytest.fixture
def recovered(rng):
    """30 people, and estimates that miss by a normal error of .5."""
    true_z = rng.standard_normal((30, 2))
    return SPACE.natural_array(true_z), true_z, a_fit(true_z + 0.5 * rng.standard_normal((30, 2)) + 0.1)


# ---- parameters --------------------------------------------------------------------------------------


def test_table_has_the_usual_measures_on_both_scales(recovered):
    true, true_z, fit = recovered
    table = recovery_table(true, fit).set_index(["parameter", "scale"])
    lower, upper = fit.interval()
    for k, name in enumerate(SPACE.names):
        for scale, x, y in (("natural", true[:, k], fit.natural[:, k]), ("z", true_z[:, k], fit.z[:, k])):
            row = table.loc[(name, scale)]
            assert row["r"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=ATOL)
            ends = np.tanh(np.arctanh(row["r"]) + np.array([-1, 1]) * norm.ppf(0.975) / np.sqrt(27))
            np.testing.assert_allclose([row["r_low"], row["r_high"]], ends, atol=ATOL)
            ranks = [pd.Series(values).rank() for values in (x, y)]
            assert row["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=ATOL)
            assert row["bias"] == pytest.approx((y - x).mean(), abs=ATOL)
            assert row["bias_se"] == pytest.approx((y - x).std(ddof=1) / np.sqrt(30), abs=ATOL)
            assert row["rmse"] == pytest.approx(np.sqrt(((y - x) ** 2).mean()), abs=ATOL)
            inside = (lower[:, k] <= true[:, k]) & (true[:, k] <= upper[:, k])
            assert row["coverage"] == inside.mean() and row["intervals"] == row["n"] == 30
            edges = row[["coverage_low", "coverage_high"]].to_numpy(float)
            # shares from which it is 1.96 errors off
            errors = norm.ppf(0.975) * np.sqrt(edges * (1 - edges) / 30)
            np.testing.assert_allclose(np.abs(inside.mean() - edges), errors, atol=ATOL)
            assert row["converged"] == 1


def test_coverage_is_nominal_where_intervals_are_right(rng):
    true = rng.standard_normal((2000, 2))
    fit = a_fit(true + 0.5 * rng.standard_normal((2000, 2)))
    table = recovery_table(SPACE.natural_array(true), fit)
    # Three standard errors of a share of 2000.
    np.testing.assert_allclose(table["coverage"], 0.95, atol=3 * np.sqrt(0.95 * 0.05 / 2000))
    half = recovery_table(SPACE.natural_array(true), fit, level=0.5)
    np.testing.assert_allclose(half["coverage"], 0.5, atol=3 * np.sqrt(0.25 / 2000))


def test_truth_in_a_table_is_matched_by_id_and_name(recovered):
    true, _, fit = recovered
    frame = pd.DataFrame(true, index=list(fit.ids), columns=list(SPACE.names))
    turned = frame.iloc[::-1, ::-1].assign(lapse=0.1)
    turned.loc["lost"] = 0.3
    pd.testing.assert_frame_equal(recovery_table(turned, fit), recovery_table(true, fit))
    with pytest.raises(ValueError, match="no true values of 'p3'"):
        recovery_table(frame.drop("p3"), fit)


def test_people_without_intervals_are_not_counted_as_missed(recovered):
    true, _, fit = recovered
    fit.covariance[:10] = np.nan
    table = recovery_table(true, fit)
    assert (table["intervals"] == 20).all() and (table["n"] == 30).all()
    pairs = recovery_pairs(true, fit)
    assert pairs["covered"].isna().sum() == 20 and len(pairs) == 60
    assert pairs["participant"].tolist()[:3] == ["p0", "p0", "p1"]


def test_degenerate_groups_have_no_correlation(recovered):
    true, _, fit = recovered
    one = recovery_table(true[:1], a_fit(fit.z[:1]))
    assert one["r"].isna().all() and one["bias"].notna().all() and one["bias_se"].isna().all()
    same = recovery_table(np.tile(true[:1], (30, 1)), fit)
    assert same["r"].isna().all() and same["spearman"].isna().all() and same["rmse"].notna().all()
    zero = recovery_table(np.tile([[1.0, 0.0]], (30, 1)), fit)
    assert zero["r"].isna().all()


def test_truth_that_does_not_fit_is_named(recovered):
    true, _, fit = recovered
    with pytest.raises(ValueError, match=r"must be \(P, k\) = \(30, 2\) as the fit; got \(29, 2\)\.$"):
        recovery_table(true[1:], fit)
    fit.failures["p99"] = "no finite start"
    with pytest.raises(ValueError, match="Give a table with the ids"):
        recovery_table(np.vstack([true, true[:1]]), fit)
    true[4, 0] = -1
    with pytest.raises(ValueError, match=r"inverse_temperature of participant 'p4' is -1\.0"):
        recovery_table(true, fit)


def test_replicates_are_pooled_and_their_spread_is_shown(rng):
    replicates = []
    for _ in range(4):
        true = rng.standard_normal((12, 2))
        replicates.append((SPACE.natural_array(true), a_fit(true + 0.5 * rng.standard_normal((12, 2)))))
    table = recovery_across(replicates)
    own = [recovery_table(*one)["r"] for one in replicates]
    np.testing.assert_allclose(table["r_mean"], np.mean(own, 0), atol=ATOL)
    np.testing.assert_allclose(table["r_sd"], np.std(own, 0, ddof=1), atol=ATOL)
    assert (table["n"] == 48).all() and (table["replicates"] == 4).all()
    shares = [recovery_table(*one)["coverage"] for one in replicates]
    np.testing.assert_allclose(table["coverage"], np.mean(shares, 0), atol=ATOL)
    assert recovery_across(replicates[:1])["r_sd"].isna().all()
    with pytest.raises(ValueError, match="at least one replicate"):
        recovery_across([])
    other = ParameterSpace.of("lapse")
    with pytest.raises(ValueError, match="the same parameters"):
        recovery_across([*replicates, (np.full((1, 1), 0.1), fit_cases.a_fit(other, [[0.0]]))])


# ---- models ------------------------------------------------------------------------------------------


def test_confusion_and_inversion_are_bayes_rule():
    simulated = ["a"] * 10 + ["b"] * 20
    best = ["a"] * 9 + ["b"] * 1 + ["a"] * 10 + ["b"] * 10
    counts = confusion_matrix(simulated, best)
    assert list(counts.index) == list(counts.columns) == ["a", "b"] and counts.index.name == "simulated"
    np.testing.assert_array_equal(counts, [[9, 1], [10, 10]])
    # Not from the counts: models are equally likely before, however often each was simulated.
    inversion = inversion_matrix(counts)
    np.testing.assert_allclose(inversion, [[0.9 / 1.4, 0.1 / 0.6], [0.5 / 1.4, 0.5 / 0.6]], atol=ATOL)
    assert inversion.index.name == "simulated" and list(inversion.columns) == ["a", "b"]
    np.testing.assert_allclose(inversion_matrix(counts, [1, 2]), counts / counts.sum(), atol=ATOL)


def test_models_that_never_won_or_were_never_simulated():
    counts = confusion_matrix(["a", "b"], ["a", "a"], ["a", "b"])
    inversion = inversion_matrix(counts)
    np.testing.assert_allclose(inversion["a"], [0.5, 0.5])
    assert inversion["b"].isna().all()
    silent = confusion_matrix(["a"], ["c"], ["a", "b", "c"])
    np.testing.assert_array_equal(silent, [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    for match, call in (
        (r"no data were simulated from \['b', 'c'\]", lambda: inversion_matrix(silent)),
        ("prior must be 2 numbers", lambda: inversion_matrix(counts, [1.0])),
        (r"\['c'\] are not among the models", lambda: confusion_matrix(["a"], ["c"], ["a", "b"])),
        ("got 2 and 1 of them", lambda: confusion_matrix(["a", "b"], ["a"])),
    ):
        with pytest.raises(ValueError, match=match):
            call()


# ---- calibration -------------------------------------------------------------------------------------


def a_posterior(rng, n, draws, too_narrow=1.0, shift=0.0):
    """Truth ~ N(0, 1), one observation of it with noise 1: the posterior is N(y / 2, 1 / 2)."""
    true = rng.standard_normal((n, 1))
    y = true + rng.standard_normal((n, 1))
    samples = y / 2 + shift + np.sqrt(0.5) * too_narrow * rng.standard_normal((draws, n, 1))
    return Calibration(("z",), (samples < true).sum(0), draws)


def test_right_posteriors_have_uniform_ranks(rng):
    result = a_posterior(rng, 500, 99)
    row = result.table().iloc[0]
    assert row["ecdf_inside"] and row["ecdf_p"] > 0.05 and row["chi2_p"] > 0.05
    assert row["mean_rank"] == pytest.approx(0.5, abs=0.05) and row["n"] == 500 and row["missing"] == 0
    assert result.ranks.min() >= 0 and result.ranks.max() <= 99


@pytest.mark.parametrize(("wrong", "mean_rank"), [({"too_narrow": 0.6}, 0.5), ({"shift": -0.3}, 0.65)])
def test_wrong_posteriors_are_found(rng, wrong, mean_rank):
    row = a_posterior(rng, 500, 99, **wrong).table().iloc[0]
    assert not row["ecdf_inside"] and row["ecdf_p"] < 0.001 and row["chi2_p"] < 0.001
    assert row["mean_rank"] == pytest.approx(mean_rank, abs=0.06)


def test_band_holds_all_points_at_once_as_often_as_it_says():
    points = np.arange(1, 50) / 50
    lower, upper = ecdf_band(80, points, level=0.9)
    values = np.random.default_rng(1).random((4000, 80))
    share = (values[..., None] < points).mean(1)
    inside = ((lower <= share) & (share <= upper)).all(1).mean()
    # Shares of 80 are steps: the band holds at least as often, and little more. Four standard errors below: .019.
    assert 0.9 - 0.019 < inside < 0.95
    assert (lower < points).all() and (points < upper).all()


def test_ecdf_is_that_of_the_ranks():
    result = Calibration(("a", "b"), np.array([[0, -1], [1, 0], [3, 1], [3, 2]]), draws=3)
    points, difference, lower, upper = result.ecdf("a")
    np.testing.assert_allclose(points, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(difference, [0, 0, -0.25])
    assert (lower < 0).all() and (upper > 0).all()
    assert result.of("b").tolist() == [0, 1, 2]
    table = result.table()
    assert table["missing"].tolist() == [0, 1] and table["chi2_p"].isna().all()
    counts, expected = rank_histogram(np.array([0, 1, 3, 3]), 3, bins=4)
    assert counts.tolist() == [1, 1, 0, 2] and expected.tolist() == [1, 1, 1, 1]
    counts, expected = rank_histogram(np.arange(10), 9, bins=4)
    assert counts.tolist() == expected.tolist() and expected.sum() == 10


def test_many_draws_are_looked_at_in_a_hundred_places(rng):
    points, difference, *_ = a_posterior(rng, 60, 999).ecdf("z")
    assert len(points) == len(difference) == 100 and points[0] == 0.001


def test_fits_are_calibrated_together(rng):
    replicates = []
    for _ in range(3):
        true = rng.standard_normal((100, 2))
        y = true + rng.standard_normal((100, 2))
        replicates.append((SPACE.natural_array(true), a_fit(y / 2, sd=np.sqrt(0.5))))
    replicates[0][1].covariance[0] = np.nan
    result = calibrate(replicates, draws=49, seed=1)
    assert result.ranks.shape == (300, 2) and result.names == SPACE.names and result.draws == 49
    table = result.table()
    assert table["missing"].tolist() == [1, 1] and table["ecdf_inside"].all()
    np.testing.assert_array_equal(result.ranks, calibrate(replicates, draws=49, seed=1).ranks)
    with pytest.raises(ValueError, match="needs fits with the same parameters; got"):
        calibrate([])
