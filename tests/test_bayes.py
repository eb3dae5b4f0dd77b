"""Full Bayes: on normal people, of whom the posterior is known, and what it says of its own draws."""

import builtins

import numpy as np
import pandas as pd
import pytest
import torch
from common import rarely
from eplstm.comparisons.fitting.bayes import _Posterior, fit_bayes
from eplstm.comparisons.fitting.estimation import fit_map
from eplstm.comparisons.fitting.parameters import ParameterSpace
from fit_cases import Measured

SPACE = ParameterSpace.of("gate_bias", gate_bias=(0.5, 2.0))


def people(n, seed):
    rng = np.random.default_rng(seed)
    error = rng.uniform(0.5, 1.0, (n, 1))
    return Measured(SPACE, 1.0 + 0.8 * rng.standard_normal((n, 1)) + error * rng.standard_normal((n, 1)), error)


@pytest.mark.slow
def test_each_alone_has_the_conjugate_posterior():
    pytest.importorskip("pyro")
    pytest.importorskip("arviz")
    objective = people(4, 0)
    fit = fit_bayes(objective, chains=2, draws=250, warmup=100, hierarchical=False, seed=1)
    precision = 1 / objective.error**2 + 1 / 2.0**2
    mean = (objective.y / objective.error**2 + 0.5 / 2.0**2) / precision
    sd = precision**-0.5
    assert fit.samples.shape == (500, 4, 1)
    assert fit.converged.all() and set(fit.message) == {""}
    np.testing.assert_allclose(fit.z, mean, atol=5 * sd.max() / np.sqrt(250))
    np.testing.assert_allclose(np.sqrt(fit.covariance[:, 0]), sd, rtol=0.15)
    assert {"r_hat", "ess_bulk", "ess_tail", "divergences"} <= set(fit.diagnostics)
    assert fit.group is None


def exact(objective):
    """By integration on a grid, (mean, sd) of the group's mean and spread, and of each z: (2,), (2,), (2, P)."""
    center, scale = SPACE.prior_mean[0], SPACE.prior_sd[0]
    mean = np.linspace(center - 6 * scale, center + 6 * scale, 1201)[:, None]
    spread = np.linspace(1e-4, 4 * scale, 1000)
    log = -0.5 * ((mean - center) / scale) ** 2 - 0.5 * (spread / scale) ** 2
    people = list(zip(objective.y[:, 0], objective.error[:, 0], strict=True))
    for y, error in people:
        log = log - 0.5 * (y - mean) ** 2 / (spread**2 + error**2) - 0.5 * np.log(spread**2 + error**2)
    weight = np.exp(log - log.max()) / np.exp(log - log.max()).sum()

    def moments(expected, variance=0.0):
        first = (weight * expected).sum()
        return first, np.sqrt((weight * (variance + expected**2)).sum() - first**2)

    of_people = [
        moments(
            (y * spread**2 + mean * error**2) / (spread**2 + error**2),
            spread**2 * error**2 / (spread**2 + error**2),
        )
        for y, error in people
    ]
    return moments(mean + 0 * spread), moments(spread + 0 * mean), np.array(of_people).T


def test_what_is_sampled_is_the_posterior_in_other_coordinates(rng):
    """To a constant, log p(data|u) + log N(u; Xβ, σ²) + log priors + log |det ∂(u, β, log σ) / ∂(ξ, ...)|."""
    space = ParameterSpace.of("gate_bias", "perseveration")
    n, k = 5, 2
    objective = Measured(space, rng.normal(1.0, 1.0, (n, k)), rng.uniform(0.3, 2.0, (n, k)))
    design = np.column_stack([np.ones(n), rng.standard_normal(n)])
    posterior = _Posterior.of(objective, fit_map(objective), design, True)
    sizes = {"people": n * k, "group": 3 * k}

    def original(flat):
        """Where a point is in u, β and log σ."""
        point = dict(zip(sizes, flat.split(list(sizes.values())), strict=True))
        beta, sigma = posterior.group(point)
        return torch.cat([posterior.people(point)[0].ravel(), beta.ravel(), sigma.log()])

    def log_density(flat):
        u, beta, log_sigma = original(flat).split([n * k, 2 * k, k])
        u, beta, sigma = u.reshape(n, k), beta.reshape(2, k), log_sigma.exp()
        normal = torch.distributions.Normal
        z = posterior.center + posterior.scale * u
        return (
            objective.log_likelihood(z[None]).sum()
            + normal(posterior.design @ beta, sigma).log_prob(u).sum()
            + normal(0.0, 1.0).log_prob(beta).sum()
            + (normal(0.0, 1.0).log_prob(sigma) + log_sigma).sum()
            + torch.linalg.slogdet(torch.autograd.functional.jacobian(original, flat))[1]
        )

    differences = []
    for _ in range(5):
        flat = torch.from_numpy(2 * rng.standard_normal(sum(sizes.values())))
        point = dict(zip(sizes, flat.split(list(sizes.values())), strict=True))
        differences.append(float(log_density(flat) + posterior.potential(point)))
    np.testing.assert_allclose(differences, differences[0], atol=1e-9)


@pytest.mark.parametrize(
    ("chains", "draws", "warmup", "effective"),
    [rarely(2, 300, 150, 150), rarely(4, 1000, 500, 1000)],
)
def test_a_group_has_the_posterior_that_integration_gives(chains, draws, warmup, effective):
    pytest.importorskip("pyro")
    pytest.importorskip("arviz")
    objective = people(8, 2)
    fit = fit_bayes(objective, chains=chains, draws=draws, warmup=warmup, seed=3)
    row = fit.group.iloc[0]
    assert min(fit.diagnostics.ess_bulk.min(), row.ess_bulk) > effective
    assert fit.converged.all() or draws < 1000
    of_mean, of_spread, of_people = exact(objective)
    error = 3 / np.sqrt(effective)  # of a mean, in standard deviations
    assert row.estimate == pytest.approx(of_mean[0], abs=error * of_mean[1])
    assert row.se == pytest.approx(of_mean[1], rel=error)
    assert row.group_sd == pytest.approx(of_spread[0], abs=error * of_spread[1])
    np.testing.assert_allclose(fit.z[:, 0], of_people[0], atol=error * of_people[1].max())
    np.testing.assert_allclose(np.sqrt(fit.covariance[:, 0, 0]), of_people[1], rtol=error)
    assert row.lower < row.estimate - row.se and row.upper > row.estimate + row.se
    assert row.group_sd_lower < row.group_sd < row.group_sd_upper
    np.testing.assert_array_equal(fit.group_mean, np.full((8, 1), fit.group_mean[0, 0]))
    assert fit.group_mean[0, 0] == pytest.approx(row.estimate) and fit.group_sd[0] == row.group_sd


def test_draws_are_those_of_the_seed_and_too_few_are_said_to_be():
    pytest.importorskip("pyro")
    pytest.importorskip("arviz")
    objective, done = people(6, 2), []
    settings = {"chains": 2, "draws": 10, "warmup": 10}
    state = torch.random.get_rng_state()
    few = fit_bayes(objective, **settings, seed=3, progress=lambda *numbers: done.append(numbers))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert done == [(n + 1, 40) for n in range(40)]
    assert not few.converged.any()
    assert all("effective draws of their parameters, 200 are needed" in text for text in few.message)
    torch.rand(3)
    np.testing.assert_array_equal(fit_bayes(objective, **settings, seed=3).samples, few.samples)
    assert (fit_bayes(objective, **settings, seed=4).samples != few.samples).any()


@pytest.mark.slow
def test_effects_of_covariates_and_somebody_who_cannot_be_fitted():
    pytest.importorskip("pyro")
    pytest.importorskip("arviz")
    objective = people(16, 5)
    age = pd.Series(np.linspace(20, 60, 16), index=objective.ids)
    objective.y[:, 0] += 0.1 * (age.to_numpy() - 40)
    objective.error[3] = np.nan
    fit = fit_bayes(objective, chains=2, draws=150, warmup=100, covariates=pd.DataFrame({"age": age}))
    assert list(fit.failures) == ["p3"] and fit.samples.shape == (300, 15, 1)
    slope = fit.group.set_index("covariate").loc["age"]
    kept = np.array([id != "p3" for id in objective.ids])
    least_squares = np.polyfit(age[kept], objective.y[kept, 0], 1)[0]
    assert slope.estimate == pytest.approx(least_squares, abs=slope.se)
    assert slope.lower < 0.1 < slope.upper and slope.lower > 0
    drawn = np.diff(fit.group_mean[:, 0]) / np.diff(age[kept])
    np.testing.assert_allclose(drawn, slope.estimate)


def test_refusals(monkeypatch):
    kept = builtins.__import__

    def without_pyro(name, *args, **kwargs):
        if name.startswith("pyro"):
            raise ImportError(name)
        return kept(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyro)
    with pytest.raises(ImportError, match="pip install 'eplstm\\[bayes\\]'"):
        fit_bayes(people(3, 0))
    monkeypatch.undo()
    pytest.importorskip("pyro")
    with pytest.raises(ValueError, match="chains must be at least 2"):
        fit_bayes(people(3, 0), chains=1)
    with pytest.raises(ValueError, match="need hierarchical=True"):
        fit_bayes(people(3, 0), covariates=pd.DataFrame({"age": [1, 2, 3]}), hierarchical=False)
    nobody = people(2, 0)
    nobody.error[:] = np.nan
    with pytest.raises(ValueError, match="no participant can be fitted"):
        fit_bayes(nobody)
