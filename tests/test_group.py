"""Empirical Bayes: on normal people, of whom the exact answer is known, and with all that can be wrong."""

import numpy as np
import pandas as pd
import pytest
import torch
from eplstm.comparisons.fitting.group import design_matrix, fit_empirical_bayes
from eplstm.comparisons.fitting.parameters import ParameterSpace

pytest.importorskip("psyneulink.core.compositions.hierarchical", reason="this PsyNeuLink has no Laplace-EM")

SPACE = ParameterSpace.of("gate_bias", "perseveration")


class Normal:
    """People each measured once, with a known error: y_p ~ N(z_p, S_p)."""

    def __init__(self, y, error, space=SPACE, ids=None):
        self.y, self.error, self.space = y, error, space
        self.ids = tuple(f"p{p}" for p in range(len(y))) if ids is None else ids
        self.n_choices = np.full(len(y), 10)

    def log_likelihood(self, z):
        y, error = torch.from_numpy(self.y), torch.from_numpy(self.error)
        return (-0.5 * ((z - y) / error) ** 2 - torch.log(error) - 0.5 * np.log(2 * np.pi)).sum(-1)

    def only(self, rows):
        return Normal(self.y[rows], self.error[rows], self.space, tuple(self.ids[row] for row in rows))


def people(n, seed, mean=(1.0, -0.5), sd=(0.8, 0.3), effect=0.0, x=None):
    rng = np.random.default_rng(seed)
    shift = 0.0 if x is None else effect * np.asarray(x)[:, None]
    z = np.array(mean) + np.array(sd) * rng.standard_normal((n, 2)) + shift
    error = rng.uniform(0.3, 0.6, (n, 2))
    return Normal(z + error * rng.standard_normal((n, 2)), error), z


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
    fit = fit_empirical_bayes(objective, tolerance=1e-7, max_iterations=500)
    assert fit.converged.all()
    for k in range(2):
        mean, sd = maximum(objective.y[:, k], objective.error[:, k])
        row = fit.group.iloc[k]
        assert row["estimate"] == pytest.approx(mean, abs=2e-4)
        assert fit.group_sd[k] == pytest.approx(sd, abs=2e-3)
        # the standard error of a mean of normals with known variances
        weight = 1 / (fit.group_sd[k] ** 2 + objective.error[:, k] ** 2)
        assert row["se"] == pytest.approx(weight.sum() ** -0.5, rel=1e-3)
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
    objective = Normal(np.column_stack([np.full(30, 0.7), objective.y[:, 1]]), objective.error)
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


@pytest.mark.slow
def test_intervals_of_the_group_hold_the_truth():
    """Coverage of the mean's 95 % intervals over 200 groups of 20."""
    inside = []
    for seed in range(200):
        objective, _ = people(20, seed)
        group = fit_empirical_bayes(objective, restarts=1).group
        inside.append((group["lower"] < [1.0, -0.5]) & (group["upper"] > [1.0, -0.5]))
    assert 0.91 < np.mean(inside) < 0.985
