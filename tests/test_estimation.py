"""Maximum a posteriori on objectives whose answers are known: normal data, logistic regressions, several modes."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from eplstm.comparisons.fitting import estimation, modes
from eplstm.comparisons.fitting.batches import Batches
from eplstm.comparisons.fitting.minimise import minimise
from eplstm.comparisons.fitting.parameters import ParameterSpace
from eplstm.comparisons.fitting.results import Fit
from scipy.optimize import minimize as scipy_minimize
from scipy.stats import multivariate_normal

EXACT = 1e-8
"""Where the answer is known in closed form, or another grouping of the same people must give the same: what
is left is the rounding of gradients, and of their differences (~1e-9)."""

fit_map = partial(estimation.fit_map, draws=0)
"""Modes and Laplace's approximation; draws are tested in ``test_sampling``."""


@dataclass(frozen=True, eq=False)
class Synthetic:
    """P participants with data of one kind each."""

    space: ParameterSpace
    ids: tuple[str, ...]
    data: tuple

    def only(self, rows):
        return replace(self, ids=tuple(self.ids[p] for p in rows), data=tuple(self.data[p] for p in rows))

    @property
    def n_choices(self):
        return np.array([len(d) for d in self.data])

    def one(self, data, z):
        """z (R, k) → (R,)"""
        raise NotImplementedError

    def log_likelihood(self, z):
        assert z.dtype == torch.float64 and z.shape[1:] == (len(self.ids), len(self.space))
        return torch.stack([self.one(d, z[:, p]) for p, d in enumerate(self.data)], dim=1)


class Normal(Synthetic):
    """Data (n, k): y ~ N(z, 1) in each dimension."""

    def one(self, data, z):
        y = torch.as_tensor(data)
        return -0.5 * ((y - z[:, None]) ** 2 + np.log(2 * np.pi)).sum((1, 2))


class Logistic(Synthetic):
    """Data (n, k + 1): predictors, and an outcome of 0 or 1."""

    def one(self, data, z):
        x, y = torch.as_tensor(data[:, :-1]), torch.as_tensor(data[:, -1])
        return torch.nn.functional.logsigmoid((2 * y - 1) * (z @ x.T)).sum(1)


SPACE = ParameterSpace.of("gate_bias", "perseveration", gate_bias=(0.5, 2.0), perseveration=(-1.0, 0.7))


def normal(rng, n=4, space=SPACE):
    ids = tuple(f"p{i}" for i in range(n))
    return Normal(space, ids, tuple(rng.normal(1, 1, (5 + i, len(space))) for i in range(n)))


def logistic(rng, n=6):
    data = []
    for _ in range(n):
        x = rng.standard_normal((60, 2))
        y = rng.random(60) < 1 / (1 + np.exp(-x @ rng.normal(0, 1.5, 2)))
        data.append(np.column_stack([x, y]))
    return Logistic(SPACE, tuple(f"p{i}" for i in range(n)), tuple(data))


def test_conjugate_normal_has_its_exact_posterior_and_evidence(rng):
    objective = normal(rng)
    fit = fit_map(objective, model="normal")
    assert (fit.model, fit.estimator, fit.ids, fit.failures) == ("normal", "map", objective.ids, {})
    assert fit.converged.all() and set(fit.message) == {""}
    m, s = SPACE.prior_mean, SPACE.prior_sd
    for p, y in enumerate(objective.data):
        precision = 1 / s**2 + len(y)
        np.testing.assert_allclose(fit.z[p], (m / s**2 + y.sum(0)) / precision, atol=EXACT)
        np.testing.assert_allclose(fit.covariance[p], np.diag(1 / precision), atol=EXACT)
        n = len(y)
        evidence = sum(
            multivariate_normal(np.full(n, m[k]), np.eye(n) + s[k] ** 2).logpdf(y[:, k]) for k in range(2)
        )
        np.testing.assert_allclose(fit.log_evidence[p], evidence, atol=EXACT)
    np.testing.assert_array_equal(fit.n_choices, [5, 6, 7, 8])


def test_logistic_regression_as_scipy_finds_it(rng, monkeypatch):
    monkeypatch.setattr(modes, "WIDENINGS", 0)  # the curvature at the mode itself
    objective = logistic(rng)
    fit = fit_map(objective)
    assert fit.converged.all()
    for p, data in enumerate(objective.data):
        x, sign = data[:, :-1], 2 * data[:, -1] - 1

        def loss(z, x=x, sign=sign):
            u = (z - SPACE.prior_mean) / SPACE.prior_sd
            return np.logaddexp(0, -sign * (x @ z)).sum() + 0.5 * (u**2).sum()

        best = scipy_minimize(loss, SPACE.prior_mean, options={"gtol": 1e-9}).x
        np.testing.assert_allclose(fit.z[p], best, atol=1e-5)  # scipy's gradient is a difference: ~1e-8 per unit
        q = 1 / (1 + np.exp(-x @ fit.z[p]))
        information = (x.T * (q * (1 - q))) @ x + np.diag(1 / SPACE.prior_sd**2)
        np.testing.assert_allclose(fit.covariance[p], np.linalg.inv(information), rtol=1e-6)
        np.testing.assert_allclose(
            fit.log_likelihood[p], -np.logaddexp(0, -sign * (x @ fit.z[p])).sum(), rtol=1e-12
        )
        assert fit.log_likelihood[p] + fit.log_prior[p] == pytest.approx(
            -loss(fit.z[p]) - np.log(2 * np.pi) - np.log(SPACE.prior_sd).sum(), abs=1e-9
        )


def test_a_participant_is_fitted_the_same_alone_together_and_in_any_order(rng):
    objective = logistic(rng)
    together = fit_map(objective, restarts=3, seed=5)
    for rows in ([2], [5, 0, 3]):
        some = fit_map(objective.only(rows), restarts=3, seed=5)
        for name in ("z", "covariance", "log_likelihood", "log_prior"):
            np.testing.assert_allclose(
                getattr(some, name), getattr(together, name)[rows], atol=EXACT, err_msg=name
            )
        assert some.diagnostics.iterations.tolist() == together.diagnostics.iterations[rows].tolist()


def test_priors_of_each_participant_and_starts(rng):
    objective = normal(rng)
    mean, sd = rng.normal(size=(4, 2)), np.array([0.3, 3.0])
    fit = fit_map(objective, prior=(mean, sd), restarts=1)
    for p, y in enumerate(objective.data):
        np.testing.assert_allclose(fit.z[p], (mean[p] / sd**2 + y.sum(0)) / (1 / sd**2 + len(y)), atol=EXACT)
    again = fit_map(objective, prior=(mean, sd), restarts=1, start=fit.z)
    assert (again.diagnostics.iterations == 0).all()
    np.testing.assert_allclose(again.z, fit.z, atol=EXACT)


class TwoModes(Synthetic):
    """A narrow, high peak at −2 and a broad one at +1.5, near the prior's mean: data (peak's height,)."""

    def one(self, data, z):
        high = float(data[0]) - 0.5 * ((z[:, 0] + 2) / 0.3) ** 2
        return torch.logaddexp(high, -0.5 * ((z[:, 0] - 1.5) / 0.8) ** 2)


ONE = ParameterSpace.of("gate_bias", gate_bias=(1.0, 2.0))


def test_restarts_find_the_better_mode_and_say_whether_they_agree():
    objective = TwoModes(ONE, ("a",), (np.array([6.0]),))
    alone = fit_map(objective, restarts=1)
    assert alone.z[0, 0] > 1 and alone.converged[0]
    fit = fit_map(objective, restarts=24)
    assert fit.z[0, 0] == pytest.approx(-2, abs=0.1)
    row = fit.diagnostics.loc[0]
    assert 2 <= row.agree < 24 and row.restarts == 24 and row.gap > 1
    assert fit.converged[0]
    first = next(r for r in range(2, 24) if fit_map(objective, restarts=r).z[0, 0] < -1)
    lucky = fit_map(objective, restarts=first)
    assert not lucky.converged[0]
    assert f"one of {first} restarts" in lucky.message[0] and "raise restarts" in lucky.message[0]


class Fussy(Normal):
    """Data of which the first number says how the likelihood breaks: 99 not at all finite, 98 raises."""

    def log_likelihood(self, z):
        if any(d[0, 0] == 98 for d in self.data):
            raise RuntimeError("a stimulus is missing")
        return super().log_likelihood(z)

    def one(self, data, z):
        return super().one(data, z) + (torch.nan if data[0, 0] == 99 else 0)


def test_participants_that_break_are_reported_and_the_others_fitted(rng):
    objective, done = broken(rng, p1=99.0, p3=98.0), []
    fit = fit_map(objective, progress=lambda *numbers: done.append(numbers))
    assert fit.ids == ("p0", "p2", "p4") and fit.converged.all()
    assert fit.failures == {
        "p1": "the log-likelihood is not finite at any start",
        "p3": "the likelihood raised RuntimeError: a stimulus is missing",
    }
    np.testing.assert_allclose(fit.z, fit_map(objective.only([0, 2, 4])).z, atol=EXACT)
    assert fit.diagnostics.participant.tolist() == list(fit.ids) and len(fit.table()) == 6
    assert done[-1] == (5, 5) and [d for d, _ in done] == sorted(d for d, _ in done)


def test_nobody_left():
    fit = fit_map(Fussy(SPACE, ("a",), (np.full((3, 2), 98.0),)))
    assert len(fit) == 0 and list(fit.failures) == ["a"] and fit.z.shape == (0, 2)
    assert len(fit_map(Fussy(SPACE, (), ()))) == 0


class Impatient(Normal):
    def one(self, data, z):
        raise KeyboardInterrupt


def test_an_interrupt_is_not_taken_for_a_failure(rng):
    with pytest.raises(KeyboardInterrupt):
        fit_map(Impatient(SPACE, ("a", "b"), normal(rng, 2).data))


class Late(Normal):
    """Raises for one participant as soon as somebody comes near the mode."""

    def one(self, data, z):
        if data[0, 0] == 97 and (z[:, 0] > 80).any():
            raise ValueError("too near")
        return super().one(data, z)


def test_a_failure_under_way_counts_too(rng):
    good = normal(rng, 3)
    data = (good.data[0], np.full((3, 2), 97.0), good.data[2])
    fit = fit_map(Late(SPACE, good.ids, data))
    assert fit.ids == ("p0", "p2") and fit.failures == {"p1": "the likelihood raised ValueError: too near"}


class Saddle(Synthetic):
    """Flat at z = 0, and rising to both sides faster than any prior falls, up to a wall."""

    def one(self, data, z):
        return torch.where(z[:, 0].abs() < 50, z[:, 0] ** 2, -torch.inf)


def test_a_point_that_is_no_mode_has_no_covariance():
    space = ParameterSpace.of("gate_bias", gate_bias=(0.0, 2.0))
    fit = fit_map(Saddle(space, ("a",), (np.zeros(1),)), restarts=1)
    assert fit.z[0, 0] == 0 and not fit.converged[0]
    assert np.isnan([fit.covariance.item(), fit.log_evidence.item(), fit.diagnostics.condition.item()]).all()
    assert "not positive definite" in fit.message[0] and "tighter prior" in fit.message[0]


class Kink(Synthetic):
    """|z|: the gradient does not vanish at the mode."""

    def one(self, data, z):
        return -100 * (z[:, 0] - 0.3).abs()


def test_what_is_not_smooth_is_said(rng):
    fit = fit_map(Kink(ONE, ("a",), (np.zeros(1),)))
    assert fit.z[0, 0] == pytest.approx(0.3, abs=1e-6) and not fit.converged[0]
    assert "not smooth" in fit.message[0] and "averaging retrieval" in fit.message[0]


def test_too_few_iterations_are_said(rng):
    fit = fit_map(logistic(rng), max_iterations=2)
    assert not fit.converged.any() and all("raise max_iterations" in m for m in fit.message)
    assert (fit.diagnostics.gradient > 1e-5).all() and (fit.diagnostics.iterations == 2).all()


class Endless(Synthetic):
    """Data that push a probability towards 1 without end."""

    def one(self, data, z):
        return 100 * z[:, 0]


def test_values_at_the_end_of_their_range_are_said():
    space = ParameterSpace.of("lapse")
    fit = fit_map(Endless(space, ("a",), (np.zeros(1),)))
    assert fit.natural[0, 0] == 1 and fit.diagnostics.prior_sds[0] > 50
    assert "lapse: at the end of the range" in fit.message[0]


class Constant(Synthetic):
    def one(self, data, z):
        return torch.full(z.shape[:1], -7.0, dtype=torch.float64)


def test_without_parameters_and_without_information():
    nothing = fit_map(Constant(ParameterSpace(()), ("a", "b"), (np.zeros(3), np.zeros(4))))
    np.testing.assert_array_equal(nothing.log_evidence, [-7, -7])
    assert nothing.converged.all() and nothing.z.shape == (2, 0)
    prior = fit_map(Constant(SPACE, ("a",), (np.zeros(3),)))
    np.testing.assert_allclose(prior.z[0], SPACE.prior_mean, atol=EXACT)
    np.testing.assert_allclose(prior.covariance[0], np.diag(SPACE.prior_sd**2), atol=EXACT)
    np.testing.assert_allclose(prior.log_evidence, -7, atol=EXACT)


class Single(Normal):
    def log_likelihood(self, z):
        return super().log_likelihood(z).float()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restarts": 0}, "restarts must be at least 1; got 0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"tolerance": 0.0}, "tolerance must be > 0"),
        ({"draws": -1}, "draws must be at least 0; got -1"),
        ({"prior": (np.zeros(3), np.ones(2))}, r"got \(3,\) and \(2,\)"),
        ({"prior": (np.zeros(2), np.zeros(2))}, "> 0"),
        ({"start": np.zeros((1, 2))}, r"shape \(4, 2\)"),
        ({"start": np.full((4, 2), np.nan)}, "finite"),
    ],
)
def test_settings_that_make_no_sense(rng, changes, message):
    with pytest.raises(ValueError, match=message):
        fit_map(normal(rng), **changes)


def test_an_objective_that_keeps_not_to_the_protocol(rng):
    with pytest.raises(ValueError, match="float64 values of shape"):
        fit_map(Single(SPACE, ("a",), (np.zeros((3, 2)),)))


# The optimiser and the batches


def test_bfgs_on_rosenbrock_from_many_starts_at_once(rng):
    def rosenbrock(x, rows):
        a, b = x.T
        value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
        return value, np.column_stack([-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)])

    minima = minimise(rosenbrock, rng.normal(0, 2, (50, 2)), tolerance=1e-8, max_iterations=200)
    np.testing.assert_allclose(minima.x, 1, atol=1e-6)
    assert minima.iterations.max() < 80 and not minima.stuck.any()


def test_bfgs_steps_back_from_where_nothing_is_finite():
    def barrier(x, rows):
        with np.errstate(invalid="ignore", divide="ignore"):
            return x[:, 0] - np.log(x[:, 0]), 1 - 1 / x

    minima = minimise(barrier, np.array([[0.01], [1.9], [-1.0]]), tolerance=1e-9, max_iterations=100)
    np.testing.assert_allclose(minima.x[:2, 0], 1, atol=1e-8)
    assert np.isinf(minima.value[2]) and minima.x[2, 0] == -1 and minima.iterations[2] == 0


def test_those_that_are_done_are_not_evaluated_again(rng):
    asked = []

    def bowls(x, rows):
        asked.append(rows)
        steepness = np.where(rows == 7, 1e3, 1.0)
        value = (steepness * x[:, 0] ** 2 + x[:, 1] ** 4 * (rows == 7)) / 2
        return value, np.column_stack([steepness * x[:, 0], 2 * x[:, 1] ** 3 * (rows == 7)])

    minimise(bowls, rng.normal(0, 1, (10, 2)), tolerance=1e-6, max_iterations=100)
    assert len(asked[0]) == 10 and asked[-1].tolist() == [7]


class Counting(Normal):
    shapes = None

    def log_likelihood(self, z):
        Counting.shapes.append(tuple(z.shape[:2]))
        return super().log_likelihood(z)


def test_batches_answer_ragged_questions(rng):
    objective = Counting(SPACE, ("a", "b", "c", "d"), normal(rng).data)
    Counting.shapes = []
    batches = Batches(objective)
    people = np.array([0, 1, 2, 3, 3, 1, 3])
    z = rng.normal(size=(7, 2))
    value, gradient = batches(z, people)
    for row, p in enumerate(people):
        y = objective.data[p]
        expected = -0.5 * ((y - z[row]) ** 2 + np.log(2 * np.pi)).sum()
        assert value[row] == pytest.approx(expected, abs=1e-10)
        np.testing.assert_allclose(gradient[row], (y - z[row]).sum(0), atol=1e-10)
    batches(z[4:5], people[4:5])
    batches(z, people)
    assert Counting.shapes == [(3, 4), (1, 1), (3, 4)]


def test_batches_are_not_larger_than_their_limit(rng):
    objective = Counting(SPACE, ("a", "b"), normal(rng, 2).data)
    Counting.shapes = []
    z = rng.normal(size=(300, 2))
    value, _ = Batches(objective)(z, np.arange(300) % 2)
    assert Counting.shapes == [(64, 2), (64, 2), (22, 2)] and np.isfinite(value).all()


class Peaked(Normal):
    """A narrow peak on the top of a normal hill."""

    def one(self, data, z):
        hill = super().one(data, z)
        return hill + 0.5 * torch.exp(-(((z - data.mean(0)[0]) / 0.02) ** 2).sum(-1))


def test_a_peak_on_a_hill_is_as_wide_as_the_hill(monkeypatch):
    """The uncertainty is that of the posterior, not of its roughness."""
    space = ParameterSpace.of("gate_bias", gate_bias=(0.0, 10.0))
    data = (np.full((100, 1), 0.3),)
    hill = fit_map(Normal(space, ("a",), data), restarts=1)
    start = np.array([[0.3]])
    peaked = fit_map(Peaked(space, ("a",), data), restarts=1, start=start)
    np.testing.assert_allclose(peaked.covariance, hill.covariance, rtol=0.3)
    monkeypatch.setattr(modes, "WIDENINGS", 0)
    sharp = fit_map(Peaked(space, ("a",), data), restarts=1, start=start)
    assert sharp.covariance[0, 0, 0] < 0.1 * hill.covariance[0, 0, 0]


# What was found, on disk and in pieces


def same(one, other):
    """That two fits hold the same."""
    for name, value in one.to_plain().items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
        elif isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, getattr(other, name))
        else:
            assert value == other.to_plain()[name], name


def broken(rng, **wrong):
    """Five people of whom some have data of which the likelihood breaks: by default the second."""
    good = normal(rng, 5)
    data = list(good.data)
    for id, number in (wrong or {"p1": 99.0}).items():
        data[good.ids.index(id)] = np.full((3, 2), number)
    return Fussy(SPACE, good.ids, tuple(data))


@pytest.fixture
def found(rng):
    return fit_map(broken(rng), model="normal")


def test_a_fit_comes_back_from_disk_as_it_was(found, tmp_path):
    with_draws = replace(found, samples=found.draws(7, np.random.default_rng(0)))
    for fit in (found, with_draws):
        same(Fit.load(fit.save(tmp_path / "fit")), fit)
    table = pd.read_csv(tmp_path / "fit" / "estimates.csv")
    pd.testing.assert_frame_equal(table, with_draws.table(), rtol=1e-14)
    file = tmp_path / "fit" / "fit.npz"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"fit\.npz cannot be read .* fit again"):
        Fit.load(tmp_path / "fit")
    with pytest.raises(FileNotFoundError, match="There is no"):
        Fit.load(tmp_path)


def test_pieces_are_joined_to_what_all_together_give(rng):
    objective = broken(rng)
    together = estimation.fit_map(objective, draws=9)
    joined = Fit.join([estimation.fit_map(objective.only(rows), draws=9) for rows in ([0], [1], [2, 3], [4])])
    assert joined.ids == together.ids and joined.failures == together.failures
    for name in ("z", "covariance", "log_likelihood", "log_prior", "samples", "log_evidence"):
        np.testing.assert_allclose(getattr(joined, name), getattr(together, name), atol=EXACT, err_msg=name)
    pd.testing.assert_frame_equal(joined.diagnostics, together.diagnostics, atol=EXACT)
    np.testing.assert_array_equal(joined.converged, together.converged)
    assert joined.message == together.message
    same(Fit.join([together]), together)


def test_what_cannot_be_joined(found, rng):
    with pytest.raises(ValueError, match="at least one"):
        Fit.join([])
    other = replace(found, ids=("x", "y", "z", "w"), failures={})
    for parts, match in (
        ([found, found], "'p0' is in several"),
        ([found, replace(other, model="another")], "not fitted with the same parameters"),
        ([replace(found, group=pd.DataFrame())], "a group of its own"),
        (
            [replace(fit, samples=fit.draws(n, rng)) for n, fit in ((9, found), (8, other))],
            r"different numbers of draws: \[9, 8\]",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            Fit.join(parts)


def test_draws_and_intervals_of_a_fit(found, rng):
    draws = found.draws(20_000, rng)
    np.testing.assert_allclose(draws.mean(0), found.z, atol=0.02)  # sds up to .45: 5 standard errors
    np.testing.assert_allclose(np.cov(draws[:, 2].T), found.covariance[2], atol=0.01)
    lower, upper = found.interval()
    half = 1.959964 * np.sqrt(np.einsum("pkk->pk", found.covariance))
    np.testing.assert_allclose(lower, found.space.natural_array(found.z - half), atol=1e-6)
    np.testing.assert_allclose(upper, found.space.natural_array(found.z + half), atol=1e-6)
    of_draws = replace(found, samples=draws).interval()
    np.testing.assert_allclose(of_draws, (lower, upper), atol=0.04)
