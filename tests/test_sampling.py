"""Posteriors by importance sampling, against integration on a grid, and where Laplace's approximation fails."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from eplstm.comparisons.fitting import sampling
from eplstm.comparisons.fitting.estimation import fit_map
from eplstm.comparisons.fitting.parameters import ParameterSpace
from scipy.stats import multivariate_normal

ONE = ParameterSpace.of("gate_bias", gate_bias=(0.5, 2.0))
TWO = ParameterSpace.of("gate_bias", "perseveration", gate_bias=(0.5, 2.0), perseveration=(-1.0, 0.7))


@dataclass(frozen=True, eq=False)
class People:
    """Participants whose log-likelihood is any function of z (R, k) → (R,)."""

    space: ParameterSpace
    functions: dict
    """By participant."""

    @property
    def ids(self):
        return tuple(self.functions)

    @property
    def n_choices(self):
        return np.ones(len(self.functions), int)

    def only(self, rows):
        return People(self.space, {self.ids[p]: self.functions[self.ids[p]] for p in rows})

    def log_likelihood(self, z):
        return torch.stack([one(z[:, p]) for p, one in enumerate(self.functions.values())], dim=1)


def correlated(z):
    precision = torch.tensor([[4.0, 3.0], [3.0, 5.0]], dtype=torch.float64)
    off = z - torch.tensor([1.0, -0.5], dtype=torch.float64)
    return -0.5 * ((off @ precision) * off).sum(1)


def rough(z):
    """A hill of standard deviation .5, with ridges of 1.2 nats, and a peak at one of them."""
    z = z[:, 0]
    return -0.5 * ((z - 1) / 0.5) ** 2 + 0.6 * torch.cos(40 * z) + torch.exp(-(((z - 1.413) / 0.02) ** 2))


def two_modes(z):
    high = 3 - 0.5 * ((z[:, 0] + 2) / 0.3) ** 2
    return torch.logaddexp(high, -0.5 * ((z[:, 0] - 1.5) / 0.8) ** 2)


def half(z):
    """A choice that is impossible below 0, and says little above."""
    return torch.where(z[:, 0] > 0, -torch.relu(z[:, 0]), -torch.inf)


def on_grid(likelihood, space=ONE):
    """Quantiles of 2.5, 50 and 97.5 %, standard deviation, and log evidence, of one parameter."""
    m, s = space.prior_mean[0], space.prior_sd[0]
    z = np.linspace(m - 8 * s, m + 8 * s, 400_001)
    log_density = likelihood(torch.as_tensor(z)[:, None]).numpy() - 0.5 * ((z - m) / s) ** 2
    density = np.exp(log_density - log_density.max())
    total = density.sum()
    quantiles = np.interp([0.025, 0.5, 0.975], np.cumsum(density) / total, z)
    mean = (density @ z) / total
    sd = np.sqrt(density @ (z - mean) ** 2 / total)
    evidence = np.log(total * (z[1] - z[0])) + log_density.max() - np.log(s) - 0.5 * np.log(2 * np.pi)
    return quantiles, sd, evidence


def test_a_normal_posterior_is_what_it_is():
    fit = fit_map(People(TWO, {"a": correlated}), seed=3)
    precision = np.diag(1 / TWO.prior_sd**2)
    data = np.array([[4.0, 3.0], [3.0, 5.0]])
    covariance = np.linalg.inv(precision + data)
    mean = covariance @ (precision @ TWO.prior_mean + data @ [1.0, -0.5])
    np.testing.assert_allclose(fit.z[0], mean, atol=1e-6)
    effective = fit.diagnostics.effective[0]
    assert sampling.ENOUGH <= effective <= sampling.AT_ONCE * sampling.MOST_ROUNDS
    sd = np.sqrt(np.diag(covariance))
    assert fit.samples is not None and fit.samples.shape == (1000, 1, 2)
    np.testing.assert_allclose(fit.samples.mean((0, 1)), mean, atol=4 * sd.max() / np.sqrt(effective))
    np.testing.assert_allclose(fit.covariance[0], covariance, rtol=0.3, atol=0.03)
    known = multivariate_normal([1.0, -0.5], np.linalg.inv(data) + np.diag(TWO.prior_sd**2)).logpdf(TWO.prior_mean)
    normaliser = 0.5 * np.linalg.slogdet(2 * np.pi * np.linalg.inv(data))[1]
    assert fit.log_evidence[0] == pytest.approx(known + normaliser, abs=0.15)


@pytest.mark.parametrize("likelihood", [rough, two_modes, half])
def test_posteriors_that_are_not_normal_are_as_on_a_grid(likelihood):
    quantiles, sd, evidence = on_grid(likelihood)
    for seed in range(4):
        fit = fit_map(People(ONE, {"a": likelihood}), seed=seed)
        found = np.percentile(fit.samples[:, 0, 0], [2.5, 50, 97.5])
        # The error of a quantile: √(q (1 − q) / effective) / density, here a fifth of an s.d. or less.
        np.testing.assert_allclose(found, quantiles, atol=0.6 * sd)
        np.testing.assert_allclose(np.sqrt(fit.covariance[0, 0, 0]), sd, rtol=0.3)
        assert fit.log_evidence[0] == pytest.approx(evidence, abs=0.3)
        np.testing.assert_allclose(fit.interval()[1], found[2])


def test_of_a_rough_hill_the_mode_says_little():
    """What sampling is for."""
    quantiles, sd, evidence = on_grid(rough)
    fit = fit_map(People(ONE, {"a": rough}), draws=0)
    assert fit.samples is None and fit.sampled_log_evidence is None
    assert np.sqrt(fit.covariance[0, 0, 0]) < 0.75 * sd or abs(fit.log_evidence[0] - evidence) > 0.5
    lower, _ = fit.interval()
    assert lower[0, 0] > quantiles[0] + 0.3 * sd  # centred on the peak, which is to the right


def test_a_better_mode_that_draws_come_upon_is_searched():
    fit = fit_map(People(ONE, {"a": two_modes}), restarts=1, draws=0)
    assert fit.z[0, 0] > 1
    fit = fit_map(People(ONE, {"a": two_modes}), restarts=1)
    assert fit.z[0, 0] == pytest.approx(-2, abs=0.1)
    assert fit.converged[0] and fit.diagnostics.gradient[0] < 1e-5


def test_nobody_depends_on_the_others():
    everybody = People(ONE, {"a": rough, "b": two_modes, "c": half})
    fit = fit_map(everybody, seed=7)
    for rows in ([1], [2, 0]):
        some = fit_map(everybody.only(rows), seed=7)
        np.testing.assert_allclose(some.samples, fit.samples[:, rows], atol=1e-7)
        np.testing.assert_allclose(some.log_evidence, fit.log_evidence[rows], atol=1e-7)
    another = fit_map(everybody, seed=8)
    assert not np.allclose(another.samples, fit.samples)


def test_draws_that_are_worth_little_are_told(monkeypatch):
    monkeypatch.setattr(sampling, "MOST_ROUNDS", 1)
    monkeypatch.setattr(sampling, "WIDER", 200.0)
    fit = fit_map(People(ONE, {"a": lambda z: -0.5 * (z[:, 0] / 0.003) ** 2}))
    assert not fit.converged[0] and "independent ones (needed: 50)" in fit.message[0]


@pytest.mark.slow
def test_intervals_cover_what_they_say(rng):
    """6 choices each, of a steep logistic: posteriors far from normal."""
    n = 400
    truth = ONE.draw(n, rng)[:, 0]
    x = rng.normal(0, 2, (n, 6))
    sign = np.where(rng.random((n, 6)) < 1 / (1 + np.exp(-(x + truth[:, None]))), 1.0, -1.0)

    def person(x, sign):
        return lambda z: torch.nn.functional.logsigmoid(torch.as_tensor(sign) * (torch.as_tensor(x) + z)).sum(1)

    fit = fit_map(People(ONE, {f"p{p}": person(x[p], sign[p]) for p in range(n)}), restarts=2)
    lower, upper = fit.interval()
    covered = ((lower[:, 0] <= truth) & (truth <= upper[:, 0])).mean()
    assert 0.92 <= covered <= 0.98  # .95 ± 2.75 standard errors
    ranks = (fit.samples[:, :, 0] < truth).mean(0)
    assert np.histogram(ranks, 10, (0, 1))[0] == pytest.approx(np.full(10, n / 10), abs=24)  # four s.d.


def test_progress_counts_searches_and_samplings():
    seen = []
    fit_map(People(ONE, {"a": rough, "b": half}), progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (4, 4) and all(total == 4 for _, total in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
