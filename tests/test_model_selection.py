"""Model comparison against sums by hand, exact integrals and independent iterations."""

from dataclasses import replace

import fit_cases
import numpy as np
import pandas as pd
import pytest
import torch
from eplstm.comparisons.fitting import held_out
from eplstm.comparisons.fitting.baselines import BiasOnly
from eplstm.comparisons.fitting.held_out import (
    compare_scores,
    cross_validate,
    marginal_likelihood,
    pointwise_draws,
    psis_loo,
    total_scores,
)
from eplstm.comparisons.fitting.model_selection import (
    compare_groups,
    compare_people,
    criteria,
    evidence_matrix,
    exceedance_probabilities,
    random_effects_selection,
)
from eplstm.comparisons.fitting.parameters import ParameterSpace
from eplstm.comparisons.fitting.table.data import ObservedBlock, Participant
from eplstm.tasks import Trials
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import digamma, expit, log_expit
from scipy.stats import beta, norm

# The same few sums in another order: float64 rounding and nothing else.
ATOL = 1e-10

BIAS = ParameterSpace.of("response_bias")


def a_fit(model="m", names=("response_bias",), log_likelihood=(-50.0, -60.0), n=(100, 120), **changes):
    people = len(log_likelihood)
    fields = {"log_likelihood": np.array(log_likelihood, float), "log_prior": np.full(people, -1.0)}
    fields |= {"model": model, "n_choices": np.array(n), **changes}
    return fit_cases.a_fit(ParameterSpace.of(*names), np.zeros((people, len(names))), **fields)


# ---- criteria ----------------------------------------------------------------------------------------


def test_criteria_are_their_formulas():
    table = criteria(a_fit(names=("response_bias", "lapse")))
    assert table["aic"].tolist() == [104.0, 124.0]
    np.testing.assert_allclose(table["bic"], [100 + 2 * np.log(100), 120 + 2 * np.log(120)], atol=ATOL)
    one = criteria(a_fit())
    np.testing.assert_allclose(one["bic"], [100 + np.log(100), 120 + np.log(120)], atol=ATOL)
    # log p(D|z) + log p(z) + k/2 log 2π + ½ log det Σ
    expected = np.array([-50, -60]) - 1 + np.log(2 * np.pi) + 0.5 * np.log(0.25**2)
    np.testing.assert_allclose(table["log_evidence"], expected, atol=ATOL)


def test_people_and_group_have_differences_and_weights():
    fits = [a_fit("one"), a_fit("two", names=("response_bias", "lapse"), log_likelihood=(-47.0, -60.5))]
    people = compare_people(fits)
    assert people["model"].tolist() == ["one", "one", "two", "two"]
    assert people["participant"].tolist() == ["p0", "p1", "p0", "p1"]
    # AIC: 102, 122 against 98, 125
    np.testing.assert_allclose(people["aic_difference"], [4, 0, 0, 3], atol=ATOL)
    np.testing.assert_allclose(people["aic_weight"], expit([-2, 1.5, 2, -1.5]), atol=ATOL)
    group = compare_groups(fits)
    np.testing.assert_allclose(group["aic"], [224, 223], atol=ATOL)
    np.testing.assert_allclose(group["aic_difference"], [1, 0], atol=ATOL)
    np.testing.assert_allclose(group["aic_weight"], expit([-0.5, 0.5]), atol=ATOL)
    assert group["k"].tolist() == [1, 2] and group["participants"].tolist() == [2, 2]
    assert group["n_choices"].tolist() == [220, 220]
    total = people.groupby("model", sort=False)["log_evidence"].sum().to_numpy()
    np.testing.assert_allclose(group["log_evidence"], total, atol=ATOL)
    np.testing.assert_allclose(group["log_evidence_difference"], total.max() - total, atol=ATOL)
    np.testing.assert_allclose(group["log_evidence_weight"], expit([total[0] - total[1], total[1] - total[0]]))
    assert group["integrated_bic"].isna().all()


def test_integrated_bic_pays_for_the_group():
    group = {"estimator": "empirical_bayes", "group_mean": np.zeros((2, 1)), "group_sd": np.ones(1)}
    fit = a_fit(**group)
    found = compare_groups([fit])["integrated_bic"]
    np.testing.assert_allclose(found, -2 * fit.log_evidence.sum() + 2 * np.log(220), atol=ATOL)
    by_covariate = a_fit(**{**group, "group_mean": np.array([[0.0], [1.0]])})
    assert compare_groups([by_covariate])["integrated_bic"].isna().all()


def test_one_model_is_the_best_of_itself():
    table = compare_people([a_fit()])
    assert (table[["aic_difference", "log_evidence_difference"]] == 0).all(axis=None)
    assert (table[["aic_weight", "bic_weight", "log_evidence_weight"]] == 1).all(axis=None)


def test_unknown_evidence_spoils_the_comparison_of_this_person_only():
    covariance = np.array([[[np.nan]], [[0.25]]])
    people = compare_people([a_fit("one"), a_fit("two", covariance=covariance)])
    spoiled = people["participant"] == "p0"
    assert people.loc[spoiled, ["log_evidence_difference", "log_evidence_weight"]].isna().all(axis=None)
    assert people.loc[~spoiled].drop(columns=["model", "participant"]).notna().all(axis=None)
    assert people["aic_weight"].notna().all()
    group = compare_groups([a_fit("one"), a_fit("two", covariance=covariance)])
    assert group["log_evidence_difference"].isna().all() and group["aic_weight"].notna().all()


def test_participants_are_matched_by_id():
    turned = a_fit("two", log_likelihood=(-61.0, -51.0), n=(120, 100), ids=("p1", "p0"))
    matrix = evidence_matrix([a_fit("one"), turned], "aic")
    assert list(matrix.index) == ["p0", "p1"]
    np.testing.assert_allclose(matrix, [[-51, -52], [-61, -62]], atol=ATOL)
    with pytest.raises(ValueError, match="criterion must be one of"):
        evidence_matrix([turned], "dic")


def test_fits_of_different_data_are_not_compared():
    with pytest.raises(ValueError, match="participant 'p1' has 120 in the fit of 'one', and 119 in that of 'two'"):
        compare_people([a_fit("one"), a_fit("two", n=(100, 119))])
    lost = a_fit("two", log_likelihood=(-50.0,), n=(100,), failures={"p1": "no finite start"})
    with pytest.raises(ValueError, match=r"'p1' is not in the fit of 'two' \(no finite start\)"):
        compare_groups([a_fit("one"), lost])
    with pytest.raises(ValueError, match="'p1' is not in the fit of 'two'"):
        evidence_matrix([lost, replace(a_fit("one"))])
    assert compare_people([a_fit("one"), lost], participants=["p0"])["participant"].tolist() == ["p0", "p0"]
    with pytest.raises(ValueError, match="a name of its own"):
        compare_people([a_fit(), a_fit()])
    with pytest.raises(ValueError, match="one estimator; got bayes, map"):
        compare_people([a_fit("one"), a_fit("two", estimator="bayes")])
    with pytest.raises(ValueError, match="at least one fit"):
        compare_groups([])


# ---- random effects ----------------------------------------------------------------------------------


def test_dirichlet_update_is_that_of_an_iteration_by_hand(rng):
    evidence = rng.normal(0, 3, (7, 3))
    alpha = np.ones(3)
    for _ in range(500):
        counts = np.zeros(3)
        for row in evidence:
            u = [np.exp(row[k] - row.max() + digamma(alpha[k]) - digamma(alpha.sum())) for k in range(3)]
            counts += np.array(u) / sum(u)
        alpha = 1 + counts
    selection = random_effects_selection(evidence)
    np.testing.assert_allclose(selection.alpha, alpha, atol=1e-8)  # both stop near the fixed point
    np.testing.assert_allclose(selection.responsibilities.sum(1), 1, atol=ATOL)
    np.testing.assert_allclose(selection.frequency, alpha / alpha.sum(), atol=1e-8)


@pytest.mark.parametrize("models", [2, 3, 5])
def test_equal_evidence_tells_nothing(models):
    selection = random_effects_selection(np.full((60, models), -80.0))
    np.testing.assert_allclose(selection.exceedance, 1 / models, atol=ATOL)
    np.testing.assert_allclose(selection.protected_exceedance, 1 / models, atol=ATOL)
    assert selection.omnibus_risk > 0.85


def test_a_model_that_explains_everybody_is_found():
    evidence = np.zeros((20, 3))
    evidence[:, 1] = 10
    selection = random_effects_selection(pd.DataFrame(evidence, columns=["a", "b", "c"]))
    assert selection.models == ("a", "b", "c")
    assert selection.exceedance[1] > 0.9999 and selection.protected_exceedance[1] > 0.999
    assert selection.omnibus_risk < 1e-4
    np.testing.assert_allclose(selection.alpha, [1, 21, 1], atol=2e-3)
    table = selection.table()
    assert table["model"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(table["frequency_sd"], beta.std(selection.alpha, 23 - selection.alpha), atol=ATOL)


def test_one_outlier_does_not_decide():
    """The sum is for model 1, by one person; all others have model 2."""
    evidence = np.tile([0.0, 3.0], (12, 1))
    evidence[0] = [100.0, 0.0]
    assert evidence.sum(0).argmax() == 0
    assert random_effects_selection(evidence).protected_exceedance[1] > 0.9


def test_omnibus_risk_rests_on_a_bound_of_the_exact_evidence(rng):
    for scale in (0.5, 2.0, 5.0):
        evidence = rng.normal(0, scale, (20, 2))
        selection = random_effects_selection(evidence)
        risk = selection.omnibus_risk
        equal = np.logaddexp(evidence[:, 0], evidence[:, 1]).sum() - 20 * np.log(2)
        bound = equal + np.log(1 / risk - 1)

        def joint(r, evidence=evidence):
            return np.exp(np.logaddexp(evidence[:, 0] + np.log(r), evidence[:, 1] + np.log1p(-r)).sum())

        exact = np.log(quad(joint, 0, 1)[0])
        assert exact - 1.5 < bound < exact


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_protected_exceedance_is_near_that_of_exact_integration(scale):
    """Over a grid of the one share; variational Bayes errs by .04 in these cases, and far more unprotected."""
    share = (np.arange(20_000) + 0.5) / 20_000
    for seed in range(6):
        evidence = np.random.default_rng(seed).normal(0, scale, (20, 2))
        log_joint = np.logaddexp(evidence[:, :1] + np.log(share), evidence[:, 1:] + np.log1p(-share)).sum(0)
        weight = np.exp(log_joint - log_joint.max())
        equal = np.logaddexp(evidence[:, 0], evidence[:, 1]).sum() - 20 * np.log(2)
        risk = expit(equal - np.log(weight.mean()) - log_joint.max())
        exact = (1 - risk) * weight[share > 0.5].sum() / weight.sum() + risk / 2
        assert random_effects_selection(evidence).protected_exceedance[0] == pytest.approx(exact, abs=0.05)


def test_exceedance_is_an_exact_integral():
    for a, b in ((3, 2), (0.4, 7), (50, 1), (3000, 2900)):
        expected = [beta.sf(0.5, a, b), beta.cdf(0.5, a, b)]
        np.testing.assert_allclose(exceedance_probabilities(np.array([a, b])), expected, rtol=1e-6, atol=1e-15)
    alpha = np.array([1.2, 5.0, 0.3, 4.0])
    draws = np.random.default_rng(0).dirichlet(alpha, 200_000)
    shares = np.bincount(draws.argmax(1), minlength=4) / len(draws)
    # Four standard errors of a share of 200 000 draws are below .0045.
    np.testing.assert_allclose(exceedance_probabilities(alpha), shares, atol=0.0045)


def test_selection_needs_finite_evidence_of_two_models():
    evidence = pd.DataFrame([[0.0, 1.0], [np.nan, 1.0]], index=["s1", "s2"], columns=["a", "b"])
    with pytest.raises(ValueError, match="participant 's2' under 'a' is nan"):
        random_effects_selection(evidence)
    for shape in ((3, 1), (0, 2), (3,)):
        with pytest.raises(ValueError, match="at least two models"):
            random_effects_selection(np.zeros(shape))
    with pytest.raises(ValueError, match="a name for each of 2 models"):
        random_effects_selection(np.zeros((1, 2)), ["a"])
    with pytest.raises(ValueError, match="prior must be above 0"):
        random_effects_selection(np.zeros((1, 2)), prior=0)
    one = random_effects_selection(np.array([[0.0, 4.0]]), ["a", "b"])
    assert one.ids == ("0",) and one.alpha.sum() == pytest.approx(3) and one.exceedance[1] > 0.5


# ---- held out ----------------------------------------------------------------------------------------


def a_person(id, rng, blocks=3, n=30, p=0.7):
    """One choice a trial, 1 with probability p."""
    trials = Trials(np.zeros((n, 1, 1)), np.zeros((n, 1)), np.zeros((n, 1)))
    return Participant(
        id, tuple(ObservedBlock(trials, rng.binomial(1, p, (n, 1)), number=k) for k in range(blocks))
    )


def ones_of(person):
    return sum(int((block.choices == 1).sum()) for block in person.blocks)


def mode_of_coin(objective):
    """MAP of the log odds, one person after the other, with Laplace's covariance."""
    mean, sd = objective.space.prior_mean[0], objective.space.prior_sd[0]
    found = []
    for p in range(len(objective.ids)):
        one = objective.only([p])

        def loss(z, one=one):
            return -one.log_likelihood(torch.tensor([[[z]]]).double()).item() + (z - mean) ** 2 / (2 * sd**2)

        found.append(minimize_scalar(loss, bracket=(-1, 1), tol=1e-12).x)
    z = np.array(found)[:, None]
    curvature = objective.n_choices * expit(z[:, 0]) * expit(-z[:, 0]) + 1 / sd**2
    return fit_cases.a_fit(
        objective.space,
        z,
        ids=objective.ids,
        covariance=1 / curvature[:, None, None],
        log_likelihood=objective.log_likelihood(torch.as_tensor(z)[None])[0].numpy(),
        log_prior=norm.logpdf(z[:, 0], mean, sd),
        n_choices=objective.n_choices,
    )


def with_group(objective):
    fit = mode_of_coin(objective)
    return replace(fit, estimator="empirical_bayes", group_mean=np.full_like(fit.z, 0.5), group_sd=np.array([0.8]))


def coins(people):
    return BiasOnly(people, BIAS)


def test_marginal_likelihood_is_the_integral(rng, monkeypatch):
    people = [a_person("a", rng, p=0.8), a_person("b", rng, p=0.3)]
    found, error = marginal_likelihood(coins(people), np.array([0.5]), np.array([0.8]), draws=1024)
    for person, total, se in zip(people, found, error, strict=True):
        ones, n = ones_of(person), person.n_choices

        def joint(z, ones=ones, n=n):
            return np.exp(ones * log_expit(z) + (n - ones) * log_expit(-z)) * norm.pdf(z, 0.5, 0.8)

        exact = np.log(quad(joint, -6, 6, epsabs=0)[0])
        assert abs(total - exact) < max(5 * se, 1e-6) and se < 0.01
    monkeypatch.setattr(held_out, "AT_ONCE", 7)
    again, _ = marginal_likelihood(coins(people), np.array([0.5]), np.array([0.8]), draws=1024)
    np.testing.assert_allclose(again, found, atol=ATOL)


def test_marginal_likelihood_without_free_parameters(rng):
    fixed = BiasOnly([a_person("a", rng)], ParameterSpace.of(fixed={"response_bias": 0.0}))
    found, error = marginal_likelihood(fixed, np.empty(0), np.empty(0))
    np.testing.assert_allclose(found, 90 * np.log(0.5), atol=ATOL)
    assert error.tolist() == [0.0]


def test_blocks_are_scored_by_the_estimate_from_the_others(rng):
    people = [a_person("a", rng), a_person("b", rng, blocks=2)]
    done = []
    result = cross_validate(coins, people, mode_of_coin, progress=lambda *now: done.append(now))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert result[["participant", "fold"]].values.tolist() == [
        ["a", 0], ["b", 0], ["a", 1], ["b", 1], ["a", 2]
    ]  # fmt: skip
    assert (result["n_choices"] == 30).all() and (result["message"] == "").all()
    person = people[1]
    z = mode_of_coin(coins([Participant("b", person.blocks[:1])])).z
    ones = int(person.blocks[1].choices.sum())
    expected = ones * log_expit(z) + (30 - ones) * log_expit(-z)
    np.testing.assert_allclose(result["log_likelihood"][3], expected.item(), atol=ATOL)
    assert total_scores(result)["a"] == pytest.approx(result["log_likelihood"][[0, 2, 4]].sum())


def test_blocks_may_be_scored_by_the_whole_posterior(rng):
    people = [a_person("a", rng, blocks=2, n=200)]
    result = cross_validate(coins, people, mode_of_coin, draws=4000)
    fit = mode_of_coin(coins([Participant("a", people[0].blocks[1:])]))
    ones = int(people[0].blocks[0].choices.sum())
    mean, sd = fit.z[0, 0], np.sqrt(fit.covariance[0, 0, 0])
    exact = np.log(
        quad(
            lambda z: np.exp(ones * log_expit(z) + (200 - ones) * log_expit(-z)) * norm.pdf(z, mean, sd),
            mean - 6 * sd,
            mean + 6 * sd,
            epsabs=0,
        )[0]
    )
    row = result.iloc[0]
    assert 0 < row["standard_error"] < 0.05
    assert abs(row["log_likelihood"] - exact) < 5 * row["standard_error"]


def test_people_are_scored_by_the_group_of_the_others(rng):
    people = [a_person(f"p{p}", rng, blocks=1, p=0.6) for p in range(5)]
    seen = []

    def fit(objective):
        seen.append(objective.ids)
        return with_group(objective)

    result = cross_validate(coins, people, fit, folds=2, seed=3)
    left = [set(rows) for _, rows in result.groupby("fold")["participant"]]
    assert sorted(map(len, left)) == [2, 3] and set.union(*left) == {p.id for p in people}
    assert [set(ids) for ids in seen] == [{p.id for p in people} - out for out in left]
    expected, _ = marginal_likelihood(coins(people), np.array([0.5]), np.array([0.8]), draws=2**14)
    scores = total_scores(result)[[p.id for p in people]]
    np.testing.assert_allclose(scores, expected, atol=0.01)  # some ten standard errors of the smaller draw
    assert cross_validate(coins, people, with_group, folds=2, seed=3).equals(result)


def test_people_who_could_not_be_fitted_have_no_score(rng):
    people = [a_person("a", rng, blocks=2), a_person("b", rng, blocks=2)]

    def fit(objective):
        return replace(mode_of_coin(objective.only([0])), failures={"b": "no finite start"})

    result = cross_validate(coins, people, fit)
    lost = result["participant"] == "b"
    assert (result.loc[lost, "message"] == "no finite start").all()
    scores = total_scores(result)
    assert np.isnan(scores["b"]) and np.isfinite(scores["a"])
    with pytest.raises(ValueError, match="participant 'b' under 'coin' is nan"):
        compare_scores({"coin": scores})


def test_what_cannot_be_left_out_is_said(rng):
    people = [a_person("a", rng, blocks=1), a_person("b", rng)]
    with pytest.raises(ValueError, match="at least two with choices; there are fewer of 'a'"):
        cross_validate(coins, people, mode_of_coin)
    for folds in (1, 3, True, "trials"):
        with pytest.raises(ValueError, match="folds must be 'blocks', or a number from 2"):
            cross_validate(coins, people, with_group, folds)
    with pytest.raises(ValueError, match="must estimate a group; 'map' does not"):
        cross_validate(coins, people, mode_of_coin, 2)

    def by_covariate(objective):
        return replace(with_group(objective), group_mean=np.arange(len(objective.ids))[:, None] * 1.0)

    people = [a_person(str(p), rng, blocks=1) for p in range(4)]
    with pytest.raises(ValueError, match="depends on covariates"):
        cross_validate(coins, people, by_covariate, 2)


def test_scores_are_compared_in_pairs():
    first = pd.Series([-10.0, -20.0, -30.0], index=["a", "b", "c"])
    second = pd.Series([-33.0, -21.0, -12.0], index=["c", "b", "a"])
    table = compare_scores({"second": second, "first": first})
    assert table["model"].tolist() == ["first", "second"] and table["best_in"].tolist() == [3, 0]
    np.testing.assert_allclose(table["elpd"], [-60, -66])
    np.testing.assert_allclose(table["difference"], [0, -6])
    np.testing.assert_allclose(table["difference_se"], [0, np.sqrt(3) * np.std([2, 1, 3], ddof=1)])
    with pytest.raises(ValueError, match=r"that the first has; got \['b', 'c'\]"):
        compare_scores({"first": first, "second": first[:1]})
    with pytest.raises(ValueError, match="at least one model"):
        compare_scores({})


def test_psis_loo_is_leaving_out(rng):
    """Normal data of known variance: the left-out density has a closed form."""
    pytest.importorskip("arviz")
    y = rng.normal(1, 1, 40)
    draws = rng.normal(y.mean(), 1 / np.sqrt(40), (4000, 1))
    others = (y.sum() - y) / 39
    exact = norm.logpdf(y, others, np.sqrt(1 + 1 / 39))
    loo = psis_loo([norm.logpdf(y, draws, 1)], ["s"])
    np.testing.assert_allclose(loo.units[0]["elpd"], exact, atol=0.03)  # Monte Carlo error of 4000 draws
    row = loo.table().iloc[0]
    assert row["p_loo"] == pytest.approx(1, abs=0.5) and row["k_hat_bad"] == 0 and row["k_hat"] < 0.7
    assert row["elpd_se"] == pytest.approx(np.sqrt(40) * exact.std(ddof=1), rel=0.02)
    assert loo.limit == pytest.approx(0.7) and replace(loo, draws=100).limit == pytest.approx(0.5)
    # An outlier that decides the posterior alone cannot be left out by weights.
    outlier = np.append(y, 60.0)
    draws = rng.normal(outlier.mean(), 1 / np.sqrt(41), (4000, 1))
    table = psis_loo([norm.logpdf(y, 1 + 0 * draws, 1), norm.logpdf(outlier, draws, 1)], ["fine", "odd"]).table()
    assert table["k_hat_bad"].tolist()[1] >= 1 and table["k_hat"][1] > 0.7


def test_psis_loo_names_what_is_wrong(rng):
    pytest.importorskip("arviz")
    first, second = rng.normal(-1, 0.1, (200, 3)), rng.normal(-1, 0.1, (200, 2))
    loo = psis_loo([first, second], ["a", "b"])
    assert [len(own) for own in loo.units] == [3, 2] and list(loo.scores.index) == ["a", "b"]
    with pytest.raises(ValueError, match="at least 25 draws"):
        psis_loo([first[:10]], ["a"])
    for people in ([first, second], [first[:, :0]], [first[0]], []):
        with pytest.raises(ValueError, match="needs for each of 1 participants"):
            psis_loo(people, ["a"])
    first[5, 1] = -np.inf
    with pytest.raises(ValueError, match="participant 'a', unit 1, is -inf in draw 5"):
        psis_loo([first, second], ["a", "b"])


def test_pointwise_draws_are_of_each_draw(rng):
    people = [a_person("a", rng, blocks=1, n=4), a_person("b", rng, blocks=1, n=6)]
    objective = coins(people)
    samples = rng.standard_normal((3, 2, 1))
    found = pointwise_draws(objective, samples)
    assert [own.shape for own in found] == [(3, 4), (3, 6)]
    total = objective.log_likelihood(torch.as_tensor(samples)).numpy()
    np.testing.assert_allclose(np.stack([own.sum(1) for own in found], axis=1), total, atol=ATOL)
