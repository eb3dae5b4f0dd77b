"""Empirical Bayes: on normal people, of whom the exact answer is known, and with all that can be wrong."""

import inspect
import sys
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from eplstm.comparisons.fitting import group as group_module
from eplstm.comparisons.fitting import laplace_em
from eplstm.comparisons.fitting.estimation import fit_map
from eplstm.comparisons.fitting.group import design_matrix, fit_empirical_bayes
from eplstm.comparisons.fitting.parameters import ParameterSpace
from fit_cases import Measured

laplaceem = pytest.importorskip(
    "psyneulink.core.compositions.hierarchical.laplaceem", reason="this PsyNeuLink has no Laplace-EM"
)

SPACE = ParameterSpace.of("gate_bias", "perseveration")


def people(n, seed, mean=(1.0, -0.5), sd=(0.8, 0.3), effect=0.0, x=None):
    rng = np.random.default_rng(seed)
    shift = 0.0 if x is None else effect * np.asarray(x)[:, None]
    z = np.array(mean) + np.array(sd) * rng.standard_normal((n, 2)) + shift
    error = rng.uniform(0.3, 0.6, (n, 2))
    return Measured(SPACE, z + error * rng.standard_normal((n, 2)), error), z


def maximum(y, error):
    """Mean and variance that maximise the marginal likelihood, by brute force."""
    from scipy.optimize import minimize

    def loss(v):
        variance = np.exp(2 * v[1]) + error**2
        return (0.5 * (y - v[0]) ** 2 / variance + 0.5 * np.log(variance)).sum()

    found = minimize(
        loss, [y.mean(), np.log(y.std())], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
    )
    return found.x[0], np.exp(found.x[1])


def test_it_maximises_the_marginal_likelihood():
    objective, _ = people(40, 0)
    fit = fit_empirical_bayes(objective, tolerance=1e-7, max_iterations=500, draws=0)
    assert fit.converged.all()
    for k in range(2):
        mean, sd = maximum(objective.y[:, k], objective.error[:, k])
        row = fit.group.iloc[k]
        assert row["estimate"] == pytest.approx(mean, abs=2e-4)
        assert fit.group_sd[k] == pytest.approx(sd, abs=2e-3)
        # the standard error of a mean of normals with known variances, and σ² of 40 people with one mean
        weight = 1 / (fit.group_sd[k] ** 2 + objective.error[:, k] ** 2)
        assert row["se"] == pytest.approx((weight.sum() * 39 / 40) ** -0.5, rel=1e-3)
    # each person is drawn to the group by the share that is exact for normals
    shrunk = (objective.y / objective.error**2 + fit.group_mean / fit.group_sd**2) / (
        1 / objective.error**2 + 1 / fit.group_sd**2
    )
    np.testing.assert_allclose(fit.z, shrunk, atol=1e-4)
    exact = np.log(weight_density(objective, fit)).sum(1)
    np.testing.assert_allclose(fit.log_evidence, exact, atol=1e-4)


def weight_density(objective, fit):
    variance = objective.error**2 + fit.group_sd**2
    return np.exp(-0.5 * (objective.y - fit.group_mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)


def test_effects_of_covariates():
    age = np.linspace(20, 60, 40)
    objective, _ = people(40, 1, effect=0.05, x=age - age.mean())
    table = pd.DataFrame({"age": age, "group": np.where(age > 40, "old", "young")}, index=objective.ids)
    fit = fit_empirical_bayes(objective, covariates=table[["age"]])
    slope = fit.group.query("covariate == 'age'")
    assert ((slope["lower"] < 0.05) & (slope["upper"] > 0.05) & (slope["lower"] > 0)).all()
    names, matrix = design_matrix(objective.ids, table)
    assert names == ["intercept", "age", "group: young − old"]
    np.testing.assert_array_equal(np.unique(matrix[:, 2]), [-0.5, 0.5])
    assert abs(matrix[:, 1].mean()) < 1e-12


def test_a_group_of_equals_is_said_to_have_collapsed():
    objective, _ = people(30, 2, sd=(0.0, 1.0))
    objective.y[:, 0] = 0.7
    fit = fit_empirical_bayes(objective, max_iterations=400)
    assert fit.group_sd[0] < 0.2
    assert all("gate_bias went to 0" in text for text in fit.message)


def test_too_few_rounds_are_said():
    objective, _ = people(20, 3)
    fit = fit_empirical_bayes(objective, max_iterations=1)
    assert not fit.converged.any()
    assert all("still moved after 1 rounds" in text for text in fit.message)


def test_who_cannot_be_fitted_is_left_out():
    objective, _ = people(10, 4)
    objective.error[3] = np.nan
    fit = fit_empirical_bayes(objective)
    assert list(fit.failures) == ["p3"]
    assert len(fit) == 9


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"age": [1.0, 2.0, 3.0]}, "missing are \\['p3'"),
        ({"age": [1.0, 1.0, 1.0, 1.0]}, "the same for all"),
        ({"age": [1.0, np.nan, 2.0, 3.0]}, "'age' has no value for participant 'p1'"),
        ({"age": [1.0, np.inf, 2.0, 3.0]}, "must be finite"),
        ({"group": ["a", "b", "c", "a"]}, "numbers or two labels"),
        ({"a": [1.0, 2.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0, 10.0]}, "depend on each other"),
    ],
)
def test_covariates_that_do_not_serve(table, match):
    objective, _ = people(4, 5)
    frame = pd.DataFrame(table)
    frame.index = objective.ids[: len(frame)]
    with pytest.raises(ValueError, match=match):
        fit_empirical_bayes(objective, covariates=frame)


def test_a_group_of_one():
    objective, _ = people(1, 6)
    with pytest.raises(ValueError, match="needs at least 2 participants"):
        fit_empirical_bayes(objective)


def test_effects_do_not_depend_on_the_unit_of_a_covariate():
    age = np.linspace(20, 60, 30)
    objective, _ = people(30, 1, effect=0.05, x=age - age.mean())
    years, seconds = (
        fit_empirical_bayes(objective, covariates=pd.DataFrame({"age": age * unit}, index=objective.ids)).group
        for unit in (1.0, 3e7)
    )
    for column in ("estimate", "se", "lower", "upper"):
        scale = np.where(years["covariate"] == "age", 3e7, 1.0)
        np.testing.assert_allclose(seconds[column] * scale, years[column], rtol=1e-6)


def test_the_evidence_rises_with_every_round(monkeypatch):
    course = []
    driver = laplaceem.fit_laplace_em

    def watched(*args, **kwargs):
        result = driver(*args, **kwargs)
        course.extend(entry["objective"] for entry in result.history)
        return result

    monkeypatch.setattr(laplaceem, "fit_laplace_em", watched)
    objective, _ = people(25, 7, mean=(3.0, -2.0))
    fit = fit_empirical_bayes(objective, tolerance=1e-5, max_iterations=300, draws=0)
    assert len(course) > 10
    assert (
        np.diff([*course, fit.log_evidence.sum()]) > -1e-9
    ).all()  # for normals Laplace is exact, and EM climbs
    assert course[0] < course[-1] - 0.1


def little_known():
    """People of each of whom little is told: rounds are short long before the end."""
    rng, error = np.random.default_rng(9), np.full((12, 1), 6.0)
    space = ParameterSpace.of("gate_bias", gate_bias=(0.0, 1.0))
    return Measured(space, 4.0 + error * rng.standard_normal((12, 1)), error)


def test_an_em_that_creeps_is_helped_to_its_end():
    """With little told of each person, a round is short long before the end: rounds alone stop at 2.25."""
    objective = little_known()
    fit = fit_empirical_bayes(objective, tolerance=0.02, max_iterations=300)
    assert fit.converged.all()
    assert fit.group.loc[0, "estimate"] == pytest.approx(objective.y.mean(), abs=1e-3)


def test_an_end_far_from_the_maximum_is_said(monkeypatch):
    monkeypatch.setattr(laplace_em, "MOST_STARTS", 1)
    objective = little_known()
    fit = fit_empirical_bayes(objective, tolerance=0.02, max_iterations=300)
    assert not fit.converged.any()
    assert all("standard errors from its maximum: lower the tolerance" in text for text in fit.message)


class TwoHills(Measured):
    """One person's likelihood has a second, higher and narrow hill at 4."""

    def log_likelihood(self, z):
        first = super().log_likelihood(z)
        own = torch.zeros(len(self.ids), dtype=bool)
        own[[id == "p0" for id in self.ids]] = True
        second = 3.0 - 0.5 * ((z - 4.0) / 0.3).pow(2).sum(-1)
        return torch.where(own, torch.logaddexp(first, second), first)


def test_a_mode_that_the_em_has_missed_is_found_after_it(monkeypatch):
    space = ParameterSpace.of("gate_bias", gate_bias=(0.0, 4.0))
    y = np.random.default_rng(3).normal(0, 2.5, (20, 1))
    y[0] = -1.0
    objective = TwoHills(space, y, np.full((20, 1), 0.5))
    settings = {"restarts": 3, "seed": 2, "draws": 0}
    assert fit_map(objective, **settings).z[0, 0] < 0  # under the group, one of the draws reaches the higher hill
    fit = fit_empirical_bayes(objective, **settings)
    assert fit.z[0, 0] > 3 and fit.converged.all()
    known = np.concatenate([[4.0], y[1:, 0]])
    assert fit.group.loc[0, "estimate"] == pytest.approx(known.mean(), abs=0.05)
    monkeypatch.setattr(group_module, "MOST_PASSES", 1)
    once = fit_empirical_bayes(objective, **settings)
    assert "a better mode than that of the EM" in once.message[0] and not once.converged[0]
    assert once.converged[1:].all()


def test_intervals_of_the_spread():
    objective, _ = people(40, 0)
    group = fit_empirical_bayes(objective, tolerance=1e-6, max_iterations=500).group
    for k in range(2):
        row, error = group.iloc[k], objective.error[:, k]
        ratio = row["group_sd"] ** 2 / (row["group_sd"] ** 2 + error**2)
        half = 1.959964 / np.sqrt(2 * (ratio**2).sum())  # of log σ, for normals
        assert np.log(row["group_sd_upper"] / row["group_sd"]) == pytest.approx(half, rel=1e-4)
        assert np.log(row["group_sd"] / row["group_sd_lower"]) == pytest.approx(half, rel=1e-4)


def test_people_of_whom_nothing_is_known_leave_no_interval():
    """Not a standard error of 0: their data do not determine the group."""

    class Silent(Measured):
        def log_likelihood(self, z):
            return (0 * z).sum(-1)

    row = fit_empirical_bayes(Silent(SPACE, np.zeros((5, 2)), np.ones((5, 2)))).group.iloc[0]
    assert np.isnan(row["se"]) and np.isnan(row["lower"]) and np.isnan(row["upper"])


def test_psyneulink_has_the_interface_that_is_used_here():
    """It is not public: if this fails, ``_rounds`` in laplace_em.py is to be adapted."""
    assert [*inspect.signature(laplaceem.fit_laplace_em).parameters] == [
        *("estep_runner", "n_subjects", "n_params", "design_matrix", "estep_config", "max_iterations", "tol"),
        *("init_beta", "init_sigma", "warm_start", "final_estep"),
    ]
    assert [f.name for f in fields(laplaceem.EStepResult)] == [
        *("z_hat", "covariance", "curvature", "hessian_step", "subject_objective", "success", "messages"),
    ]
    assert {"beta", "sigma", "history", "converged"} <= {f.name for f in fields(laplaceem.LaplaceEMResult)}
    assert issubclass(laplaceem.HierarchicalEMWarning, UserWarning)


def test_a_psyneulink_without_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psyneulink.core.compositions.hierarchical", None)
    objective, _ = people(4, 5)
    with pytest.raises(ImportError, match=r"psyneulink ≥ 0\.21"):
        fit_empirical_bayes(objective)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 20])
def test_intervals_of_the_group_hold_the_truth(n):
    """Coverage of 95 % intervals over 200 groups, of means and spreads: within three standard errors (.046), and
    not more than that beyond, where a spread near 0 makes them wide."""
    means, spreads = [], []
    for seed in range(200):
        objective, _ = people(n, seed)
        group = fit_empirical_bayes(objective, restarts=1).group
        means.append((group["lower"] < [1.0, -0.5]) & (group["upper"] > [1.0, -0.5]))
        spreads.append((group["group_sd_lower"] < [0.8, 0.3]) & (group["group_sd_upper"] > [0.8, 0.3]))
    for inside in (means, spreads):
        assert (np.mean(inside, axis=0) > 0.95 - 0.046).all()
    assert np.mean(means) < 0.985
