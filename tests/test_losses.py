"""The loss settings and the batched losses, against numbers and derivatives worked out by hand."""

import math

import numpy as np
import pytest
import torch
from eplstm.models import LossSettings, TrialTensors
from eplstm.models.losses import losses, returns_of

ATOL = 1e-10
"""float64 on both sides; sums of a few terms agree to 1e-15."""


def returns(reward, gamma, unroll=None, value=None):
    settings = LossSettings(gamma=gamma, unroll_steps=unroll)
    return torch.tensor(returns_of(np.asarray(reward, float), np.asarray(value), settings))


def tensors(rng, batch=2, steps=3, n_actions=3, gamma=0.5):
    policy = torch.tensor(rng.dirichlet(np.ones(n_actions), (batch, steps)), requires_grad=True)
    value = torch.tensor(2 * rng.standard_normal((batch, steps)), requires_grad=True)
    action, target = (torch.tensor(rng.integers(0, n_actions, (batch, steps))) for _ in range(2))
    reward = (action == target).double()
    hidden = torch.zeros(batch, steps, 2, dtype=torch.float64)
    return TrialTensors(policy, value, action, reward, target, returns(reward, gamma), hidden, hidden)


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(0.0, [1, 0, 1, 1]), (0.5, [1.375, 0.75, 1.5, 1.0]), (1.0, [3, 2, 2, 1])],
)
def test_returns_by_hand(gamma, expected):
    found = returns([[1, 0, 1, 1], [0, 0, 0, 0]], gamma)
    np.testing.assert_allclose(found, [expected, [0, 0, 0, 0]], atol=ATOL)
    assert found.dtype == torch.float64


def test_returns_of_no_step_and_of_one():
    for unroll in (None, 1):
        assert returns(np.zeros((2, 0)), 0.9, unroll, np.zeros((2, 0))).shape == (2, 0)
        assert returns(np.ones((2, 1)), 0.9, unroll, np.zeros((2, 1))).tolist() == [[1], [1]]


def test_returns_of_stretches_by_hand():
    """γ = .5, stretches (1, 0), (1, 1), (0): R_1 = 1 + .25 · v_3, R_2 = .5 · v_3, R_3 = 1 + .5 + .25 · v_5, ..."""
    reward, value = [[1, 0, 1, 1, 0]], [[9, 9, 4, 9, 8]]
    np.testing.assert_allclose(returns(reward, 0.5, 2, value), [[2, 2, 3.5, 5, 0]], atol=ATOL)
    np.testing.assert_allclose(returns(reward, 0.5, 1, value), [[5.5, 2, 5.5, 5, 0]], atol=ATOL)
    for whole in (5, 6, None):
        np.testing.assert_allclose(returns(reward, 0.5, whole, value), returns(reward, 0.5), atol=ATOL)
    np.testing.assert_allclose(returns(reward, 0.0, 2, value), reward, atol=ATOL)


def test_actor_critic_by_hand():
    """One trial of two steps, γ = .5: R = (0 + .5 · 1, 1) = (.5, 1)."""
    policy = torch.tensor([[[0.2, 0.8], [0.6, 0.4]]], dtype=torch.float64)
    value = torch.tensor([[2.0, 0.75]], dtype=torch.float64)
    reward = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    trial = TrialTensors(
        policy,
        value,
        action=torch.tensor([[1, 0]]),
        reward=reward,
        target=torch.tensor([[0, 0]]),
        returns=returns(reward, 0.5),
        hidden=policy,
        cell=policy,
    )
    settings = LossSettings(gamma=0.5, entropy_weight=0.1)
    actor, critic = losses(trial, settings)
    entropy = -sum(p * math.log(p) for p in (0.2, 0.8, 0.6, 0.4))
    expected = -math.log(0.8) * (0.5 - 2.0) - math.log(0.6) * (1.0 - 0.75) - 0.1 * entropy
    assert actor.item() == pytest.approx(expected, abs=ATOL)
    # smooth L1: |2 − .5| = 1.5 is beyond 1, |.75 − 1| = .25 is within
    assert critic.item() == pytest.approx((1.5 - 0.5) + 0.5 * 0.25**2, abs=ATOL)
    cross, none = losses(trial, LossSettings("cross_entropy"))
    assert cross.item() == pytest.approx(-math.log(0.2) - math.log(0.6), abs=ATOL)
    assert none.item() == 0


def test_gradients_of_the_actor_critic(rng):
    """dL/dπ and dL/dv written out: the advantage is a constant to the actor's loss."""
    trial = tensors(rng)
    actor, critic = losses(trial, LossSettings(gamma=0.5, entropy_weight=0.3))
    (actor.sum() + 2 * critic.sum()).backward()
    policy, value, returns = (x.detach().numpy() for x in (trial.policy, trial.value, trial.returns))
    taken = np.eye(3)[trial.action.numpy()]
    by_policy = -taken * ((returns - value)[..., None]) / policy + 0.3 * (np.log(policy) + 1)
    np.testing.assert_allclose(trial.policy.grad, by_policy, atol=ATOL)
    np.testing.assert_allclose(trial.value.grad, 2 * np.clip(value - returns, -1, 1), atol=ATOL)


def test_trials_of_a_batch_are_apart(rng):
    trial = tensors(rng, batch=3)
    together = losses(trial, LossSettings(gamma=0.5))
    for n in range(3):
        fields = {name: getattr(trial, name)[n : n + 1] for name in vars(trial)}
        alone = losses(TrialTensors(**fields), LossSettings(gamma=0.5))
        for one, all_three in zip(alone, together, strict=True):
            assert one.item() == pytest.approx(all_three[n].item(), abs=ATOL)


def test_certain_policies_have_finite_losses():
    policy = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    trial = TrialTensors(policy, 0 * one, torch.tensor([[1]]), one, torch.tensor([[1]]), one, policy, policy)
    for kind in ("actor_critic", "cross_entropy"):
        actor, _ = losses(trial, LossSettings(kind, entropy_weight=1.0))
        assert torch.isfinite(actor).all()
        assert torch.isfinite(torch.autograd.grad(actor.sum(), policy)[0]).all()


def test_own_loss_is_what_is_minimised(rng):
    trial = tensors(rng, batch=4)
    for shape in ((), (1,), (1, 1)):
        loss, none = losses(trial, LossSettings(lambda t, shape=shape: t.value.square().sum().reshape(shape)))
        assert loss.shape == none.shape == (4,)
        assert loss.tolist() == pytest.approx(trial.value.square().sum(1).tolist(), abs=ATOL)  # trial by trial
        assert not none.any()


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda t: 1.0, "returned float"),
        (lambda t: t.value, r"a tensor of shape \(1, 3\)"),
        (lambda t: None, "NoneType"),
    ],
)
def test_own_loss_must_be_one_number(rng, function, found):
    with pytest.raises(ValueError, match=f"tensor of one number; it .*{found}"):
        losses(tensors(rng), LossSettings(function))


@pytest.mark.parametrize("kind", ["actor_critic", "cross_entropy"])
def test_no_step(kind, rng):
    actor, critic = losses(tensors(rng, steps=0), LossSettings(kind))
    assert actor.tolist() == critic.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "a2c"}, "loss must be 'actor_critic', 'cross_entropy' or a function .*got 'a2c'"),
        *(({"gamma": bad}, f"gamma must lie between 0 and 1; got {bad}") for bad in (-0.1, 1.1, np.nan)),
        *(
            ({name: bad}, f"{name} must be a finite number ≥ 0; got {bad}")
            for name in ("entropy_weight", "value_weight")
            for bad in (-1.0, np.inf, np.nan)
        ),
        *(
            ({"unroll_steps": bad}, f"unroll_steps must be a whole number ≥ 1.*got {bad}")
            for bad in (0, -2, 1.5, True)
        ),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        LossSettings(**settings)
