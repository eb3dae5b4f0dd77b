"""What is minimised: the settings of the loss for both models, and the composition's computation of it.

The reference computes its loss itself, in its own way (``reference.py``): each checks the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(eq=False)
class TrialTensors:
    """What a loss is computed from: B trials of T steps, as tensors through which gradients flow."""

    policy: Tensor
    """(B, T, A): π_t."""
    value: Tensor
    """(B, T): v_t."""
    action: Tensor
    """(B, T) int: the actions taken."""
    reward: Tensor
    """(B, T)"""
    target: Tensor
    """(B, T) int: the rewarded actions."""
    returns: Tensor
    """(B, T): R_t = Σ_k γ^k reward_{t+k}."""
    hidden: Tensor
    """(B, T, H): h_t."""
    cell: Tensor
    """(B, T, H): c_t."""


Loss = Literal["actor_critic", "cross_entropy"] | Callable[[TrialTensors], Tensor]


@dataclass(frozen=True)
class LossSettings:
    """Which loss, and its constants.

    Raises:
        ValueError: a value is outside its range.
    """

    kind: Loss = "actor_critic"
    """``actor_critic`` (Mnih et al., 2016); ``cross_entropy``: Σ_t −log π_t(target_t); or a function of
    ``TrialTensors`` that returns the loss as a tensor of one number."""
    gamma: float = 0.0
    """Discount of later rewards, 0 ... 1 (dnd-lstm: 0)."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus of the actor-critic loss (dnd-lstm: none)."""
    value_weight: float = 1.0
    """Weight of the critic's loss (dnd-lstm: 1)."""

    def __post_init__(self) -> None:
        if not callable(self.kind) and self.kind not in ("actor_critic", "cross_entropy"):
            raise ValueError(
                f"loss must be 'actor_critic', 'cross_entropy' or a function of TrialTensors; got {self.kind!r}."
            )
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie between 0 and 1; got {self.gamma!r}.")
        for name in ("entropy_weight", "value_weight"):
            weight = getattr(self, name)
            if not np.isfinite(weight) or weight < 0:
                raise ValueError(f"{name} must be a finite number ≥ 0; got {weight!r}.")


def discounted_returns(reward: Tensor, gamma: float) -> Tensor:
    """R_t = Σ_k γ^k reward_{t+k}, by one product with the matrix γ^(k−t), k ≥ t. (B, T) → (B, T)."""
    steps = torch.arange(reward.shape[-1])
    lag = steps[:, None] - steps[None, :]
    discount = torch.where(lag >= 0, torch.as_tensor(gamma, dtype=reward.dtype) ** lag.clamp_min(0), 0.0)
    return reward @ discount


def users_loss(function: Callable[[TrialTensors], Tensor], trials: TrialTensors) -> Tensor:
    """A user's loss, once it is seen to be a tensor of one number. Raises ValueError if it is not."""
    loss = function(trials)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"The loss function must return a tensor of one number; it returned {found}.")
    return loss.reshape(())


def losses(trials: TrialTensors, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Actor's and critic's loss of each trial, (B,) and (B,); another loss comes as (loss, 0).

    L_π = Σ_t −log π_t(a_t) (R_t − v_t, detached) − entropy bonus;  L_v = Σ_t smooth-L1(v_t, R_t).

    Raises:
        ValueError: a user's loss returns something else than a tensor of one number.
    """
    none = torch.zeros_like(trials.value[:, 0]) if trials.value.shape[1] else trials.value.sum(1)
    if callable(settings.kind):
        return users_loss(settings.kind, trials).expand(len(none)), none
    log_policy = torch.log(trials.policy.clamp_min(torch.finfo(trials.policy.dtype).tiny))
    if settings.kind == "cross_entropy":
        return -log_policy.gather(-1, trials.target[..., None]).squeeze(-1).sum(1), none
    advantage = (trials.returns - trials.value).detach()
    actor = -(log_policy.gather(-1, trials.action[..., None]).squeeze(-1) * advantage).sum(1)
    entropy = -(trials.policy * log_policy).sum((1, 2))
    error = trials.value - trials.returns
    critic = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).sum(1)
    return actor - settings.entropy_weight * entropy, critic
