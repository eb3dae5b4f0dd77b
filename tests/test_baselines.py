"""Baselines score people's choices as their equations say, and as every other objective does."""

import numpy as np
import pytest
import torch
from eplstm.comparisons.fitting.baselines import BiasOnly, EvidenceOnly
from eplstm.comparisons.fitting.parameters import ParameterSpace
from eplstm.comparisons.fitting.table.data import ObservedBlock, Participant
from eplstm.tasks import Trials

# Sums of a few logarithms in another order: float64 rounding and nothing else.
ATOL = 1e-12

EVERY = ParameterSpace.of("response_bias", "evidence_weight", "perseveration", "lapse")
NATURAL = np.array([[0.3, 0.8, -0.5, 0.1], [-0.2, 1.5, 0.7, 0.02]])


@pytest.fixture
def people(rng):
    """Two people, of two and one block; choices are missing, the last steps of a trial and whole trials too."""

    def block(n, number):
        trials = Trials(rng.standard_normal((n, 4, 6)), np.ones((n, 4)), np.zeros((n, 4)))
        choices = np.where(rng.random((n, 4)) < 0.7, rng.integers(0, 2, (n, 4)), -1)
        choices[1] = -1
        choices[0, 0] = 1
        return ObservedBlock(trials, choices, number=number)

    return [Participant("a", (block(5, 0), block(3, 4))), Participant("b", (block(4, 0),))]


def by_hand(person, bias, weight, kappa, lapse, context=(4, 6)):
    """Log-probabilities of each trial's choices, one step after the other."""
    found = []
    for block in person.blocks:
        last = None
        for x, choices in zip(block.trials.inputs, block.choices, strict=True):
            evidence, total, scored = 0.0, 0.0, False
            for t, choice in enumerate(choices):
                shown = [x[t, d] for d in range(x.shape[1]) if not context[0] <= d < context[1]]
                evidence += sum(shown) / len(shown)
                logits = np.array([0.0, bias + weight * evidence])
                if last is not None:
                    logits[last] += kappa
                p = np.exp(logits) / np.exp(logits).sum()
                if choice >= 0:
                    total += np.log((1 - lapse) * p[choice] + lapse / 2)
                    last, scored = choice, True
            if scored:
                found.append(total)
    return np.array(found)


def test_evidence_only_scores_choices_by_its_equation(people):
    objective = EvidenceOnly(people, EVERY, 2, (4, 6))
    z = torch.as_tensor(EVERY.unconstrained_array(NATURAL))
    expected = [by_hand(person, *values) for person, values in zip(people, NATURAL, strict=True)]
    found = objective.pointwise(z)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=ATOL, rtol=0)
    total = objective.log_likelihood(z[None])
    np.testing.assert_allclose(total[0], [part.sum() for part in expected], atol=ATOL, rtol=0)
    assert objective.ids == ("a", "b")
    assert objective.n_choices.tolist() == [person.n_choices for person in people]


def test_bias_only_is_a_coin(people):
    objective = BiasOnly(people, ParameterSpace.of("response_bias"))
    p = 1 / (1 + np.exp(-0.4))
    ones = [sum(int((block.choices == 1).sum()) for block in person.blocks) for person in people]
    expected = [
        one * np.log(p) + (person.n_choices - one) * np.log(1 - p)
        for one, person in zip(ones, people, strict=True)
    ]
    found = objective.log_likelihood(torch.full((1, 2, 1), 0.4, dtype=torch.float64))
    np.testing.assert_allclose(found[0], expected, atol=ATOL, rtol=0)


def test_parameters_that_are_not_in_the_space_are_zero(people):
    bare = EvidenceOnly(people, ParameterSpace.of("response_bias"), 2, (4, 6))
    expected = [by_hand(person, 0.4, 0.0, 0.0, 0.0).sum() for person in people]
    found = bare.log_likelihood(torch.full((1, 2, 1), 0.4, dtype=torch.float64))
    np.testing.assert_allclose(found[0], expected, atol=ATOL, rtol=0)
    fixed = ParameterSpace.of("response_bias", fixed={"evidence_weight": 0.9, "perseveration": 0.6, "lapse": 0.2})
    expected = [by_hand(person, 0.4, 0.9, 0.6, 0.2).sum() for person in people]
    found = EvidenceOnly(people, fixed, 2, (4, 6)).log_likelihood(torch.full((1, 2, 1), 0.4, dtype=torch.float64))
    np.testing.assert_allclose(found[0], expected, atol=ATOL, rtol=0)


def test_policies_hold_the_scored_probabilities(people):
    objective = EvidenceOnly(people, EVERY, 2, (4, 6))
    z = EVERY.unconstrained_array(NATURAL)
    policies = objective.policies(z)
    totals = objective.log_likelihood(torch.as_tensor(z)[None])[0]
    for person, own, total in zip(people, policies, totals, strict=True):
        log_p = 0.0
        for block, policy in zip(person.blocks, own, strict=True):
            assert policy.shape == (*block.choices.shape, 2)
            np.testing.assert_allclose(policy.sum(-1), 1.0, atol=ATOL)
            where = np.nonzero(block.observed)
            log_p += np.log(policy[(*where, block.choices[where])]).sum()
        assert log_p == pytest.approx(float(total), abs=ATOL)


def test_gradient_and_independence_of_problems(people):
    objective = EvidenceOnly(people, EVERY, 2, (4, 6))
    z = torch.as_tensor(np.random.default_rng(0).standard_normal((3, 2, 4))).requires_grad_()
    assert torch.autograd.gradcheck(objective.log_likelihood, (z,))
    objective.log_likelihood(z)[1, 0].backward()
    assert z.grad is not None
    touched = (z.grad != 0).any(-1)
    assert touched.tolist() == [[False, False], [True, False], [False, False]]


def test_only_some_of_the_participants(people):
    objective = EvidenceOnly(people, EVERY, 2, (4, 6))
    z = torch.as_tensor(EVERY.unconstrained_array(NATURAL))
    part = objective.only([1])
    assert part.ids == ("b",) and part.n_choices.tolist() == [people[1].n_choices]
    assert torch.equal(part.log_likelihood(z[None, 1:]), objective.log_likelihood(z[None])[:, 1:])
    np.testing.assert_array_equal(part.pointwise(z[1:])[0], objective.pointwise(z)[1])
    assert [block.shape for block in part.policies(z[1:])[0]] == [(4, 4, 2)]
    assert objective.ids == ("a", "b")


def test_extreme_values_stay_finite_where_lapses_are_possible(people):
    space = ParameterSpace.of("response_bias", "lapse")
    z = torch.tensor([[[2000.0, -3.0], [-2000.0, -3.0]]], dtype=torch.float64, requires_grad=True)
    found = BiasOnly(people, space).log_likelihood(z)
    found.sum().backward()
    assert torch.isfinite(found).all() and z.grad is not None and torch.isfinite(z.grad).all()
    certain = BiasOnly(people, ParameterSpace.of("response_bias")).log_likelihood(z.detach()[..., :1])
    assert (certain < -1000).all() and torch.isfinite(certain).all()


def test_what_does_not_fit_is_named(people):
    bias = ParameterSpace.of("response_bias")
    for wrong in (torch.zeros(2, 1), torch.zeros(3, 1, 1), torch.zeros(3, 2, 2)):
        with pytest.raises(ValueError, match=r"z must be float64 \(R, P, k\) with \(P, k\) = \(2, 1\)"):
            BiasOnly(people, bias).log_likelihood(wrong)
    with pytest.raises(ValueError, match=r"z must be float64 \(P, k\)"):
        BiasOnly(people, bias).policies(np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"BiasOnly: has the parameters .*; got evidence_weight, gate_bias"):
        BiasOnly(people, ParameterSpace.of("evidence_weight", fixed={"gate_bias": 0.0}))
    with pytest.raises(ValueError, match="two actions; the task has 3"):
        BiasOnly(people, bias, 3)
    block = people[1].blocks[0]
    three = Participant("c", (ObservedBlock(block.trials, np.full((4, 4), 2), number=7),))
    with pytest.raises(ValueError, match="participant 'c', block 7, chose 2"):
        BiasOnly([three], bias)
    with pytest.raises(ValueError, match="at least one participant"):
        BiasOnly([], bias)
    with pytest.raises(ValueError, match="'a' is there twice"):
        BiasOnly([people[0], people[0]], bias)
    for context in ((0, 6), (4, 7)):
        with pytest.raises(ValueError, match="context_columns="):
            EvidenceOnly(people, EVERY, 2, context)
