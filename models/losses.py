"""What is minimised: the settings of the loss for both models, and the composition's computation of it.

The reference computes its loss itself, in its own way (``reference.py``): each checks the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..tasks.trials import NO_ANSWER


@dataclass(eq=False)
class TrialTensors:
    """What a loss is computed from: B trials of T steps, as tensors through which gradients flow.

    A user's own loss is given one trial at a time (B = 1), of each environment, and no step beyond its end: all T
    steps count, and ``asks`` says at which of them an answer is asked for.
    """

    policy: Tensor
    """(B, T, A): π_t; of people, p_t."""
    value: Tensor
    """(B, T): v_t."""
    action: Tensor
    """(B, T) int: the actions taken; -1 where no answer is asked for."""
    reward: Tensor
    """(B, T)"""
    target: Tensor
    """(B, T) int: the right actions; -1 where no answer is asked for."""
    returns: Tensor
    """(B, T): R_t = Σ_k γ^k reward_{t+k}; with ``unroll_steps``, as said there."""
    hidden: Tensor
    """(B, T, H): h_t."""
    cell: Tensor
    """(B, T, H): c_t."""
    exists: Tensor = None  # type: ignore[assignment]
    """(B, T) bool: the steps that are not beyond the end of their trial; only these count. All by default, and in
    a user's own loss."""
    trial: Tensor = None  # type: ignore[assignment]
    """(B,) int: its row in the record, from 0, which is that among the trials given. With M environments that take
    turns, row k · M + e is trial k of environment e; several passes or epochs are counted on. By default 0 ... B −
    1."""
    environment: Tensor = None  # type: ignore[assignment]
    """(B,) int: e, from 0. By default 0."""
    inputs: Tensor = None  # type: ignore[assignment]
    """(B, T, D): x_t, what was shown; in the loop, by the worlds. By default without columns."""

    def __post_init__(self) -> None:
        if self.exists is None:
            self.exists = torch.ones_like(self.target, dtype=torch.bool)
        if self.trial is None:
            self.trial = torch.arange(len(self.target))
        if self.environment is None:
            self.environment = torch.zeros_like(self.trial)
        if self.inputs is None:
            self.inputs = self.value.new_zeros(*self.value.shape, 0)

    @property
    def asks(self) -> Tensor:
        """(B, T) bool: the steps at which an answer is asked for; only these count for the actor."""
        return self.target != NO_ANSWER

    def only(self, trial: int) -> TrialTensors:
        """One of the trials, with B = 1, up to its end."""
        steps = int(self.exists[trial].sum())
        one = {name: tensor[trial : trial + 1] for name, tensor in vars(self).items()}
        return TrialTensors(**{name: own if own.ndim == 1 else own[:, :steps] for name, own in one.items()})


@dataclass(eq=False)
class Outcome:
    """What was done on B trials, what it has earned, which of their steps count, and which trials they are:
    (..., B, T) each, but for what says otherwise."""

    action: np.ndarray
    """The actions; -1 where no answer is asked for."""
    target: np.ndarray
    """The right ones; -1 where no answer is asked for."""
    reward: np.ndarray
    exists: np.ndarray
    """As in ``TrialTensors``, like those that follow; so is ``asks``."""
    trial: np.ndarray
    """(..., B)"""
    environment: np.ndarray
    """(..., B)"""
    inputs: np.ndarray
    """(..., B, T, D)"""

    @property
    def asks(self) -> np.ndarray:
        """The steps at which an answer is asked for."""
        return self.target != NO_ANSWER

    def of_agent(self, agent: int) -> Outcome:
        """Of one of several agents."""
        return Outcome(*(array[agent] for array in vars(self).values()))


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
    unroll_steps: int | None = None
    """Truncated backpropagation through time: a trial is cut into stretches of so many steps. No gradient flows
    from one stretch back into the one before, and the return of a step sums the rewards of its own stretch and,
    discounted, what the critic expects at the first step of the next (Mnih et al., 2016; no gradient flows through
    that expectation). The recurrent state goes on, and the update is of the whole trial. None: not cut."""
    through_memory: bool = False
    """Whether gradients flow from m_t to the c_s that was stored for the same update. Without, what is stored is
    detached (dnd-lstm), and nothing that happens later rewards keeping in c_s what will be needed."""

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
        steps = self.unroll_steps
        if steps is not None and (isinstance(steps, bool) or steps != int(steps) or steps < 1):
            raise ValueError(f"unroll_steps must be a whole number ≥ 1, or None for whole trials; got {steps!r}.")


def returns_of(reward: np.ndarray, value: np.ndarray, settings: LossSettings) -> np.ndarray:
    """R_t of each step, from rewards and values (..., T), both 0 beyond the end: (..., T)."""
    if not settings.gamma:
        return reward
    of_rewards, of_values = discounts(reward.shape[-1], settings.gamma, settings.unroll_steps)
    return reward @ of_rewards if of_values is None else reward @ of_rewards + value @ of_values


def trial_tensors(values: Mapping[str, Tensor], outcome: Outcome, settings: LossSettings) -> TrialTensors:
    """From policy (B, T, A), value (B, T), hidden and cell (B, T, H), and what was done."""
    given = {name: torch.from_numpy(array.copy()) for name, array in vars(outcome).items()}  # for the user alone
    expected = values["value"].detach().numpy() * outcome.exists
    return TrialTensors(
        **{name: values[name] for name in ("policy", "value", "hidden", "cell")},
        **given,
        returns=torch.from_numpy(returns_of(outcome.reward, expected, settings)),
    )


class NotFinite(ArithmeticError):
    """An update is not finite: training has stopped before it was applied; the message says where, and why."""


def is_finite(gradient: np.ndarray) -> bool:
    """Whether a gradient is finite, and its squares, which optimisers keep."""
    return bool(np.isfinite(np.vdot(gradient, gradient)))


def not_finite(
    losses: Any, gradients: list[str], which: range, environments: int, settings: LossSettings, of: str = ""
) -> NotFinite:
    """What to raise where an update is not finite.

    Args:
        losses: actor's and critic's loss of each of its trials, (B, 2).
        gradients: names of those that are not finite.
        which: its trials; row k · M + e is trial k of environment e.
        environments: M.
        settings: of the loss.
        of: whose update it is, where there are several agents.
    """
    losses = np.asarray(losses)
    first, last = which.start // environments, (which.stop - 1) // environments
    where = f"trial {first}" if first == last else f"trials {first} to {last}"
    wrong = np.flatnonzero(~np.isfinite(losses).all(-1))
    if len(wrong):
        what = (
            "the loss function that was given returns"
            if callable(settings.kind)
            else f"the {settings.kind} loss is"
        )
        cause = f"{what} {losses[wrong[0]].sum():g}"
        trial, environment = divmod(which.start + int(wrong[0]), environments)
        where = f"trial {trial}" + (f", environment {environment}" if environments > 1 else "")
    else:
        cause = of_gradients(gradients)
    return NotFinite(
        f"Training has stopped before the update of {where}{of}: {cause}. Weights and optimiser are those of "
        "the last update that was finite. Train with a lower learning_rate or with max_gradient_norm, or mend "
        "the loss."
    )


def of_gradients(names: list[str], most: int = 3) -> str:
    """The cause, in words, where the gradients of these are not finite."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"the loss is finite, but not the gradients of {', '.join(names[:most])}{more}, or not their squares"


def users_loss(function: Callable[[TrialTensors], Tensor], trials: TrialTensors) -> Tensor:
    """A user's loss, once it is seen to be a tensor of one number. Raises ValueError if it is not."""
    loss = function(trials)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"The loss function must return a tensor of one number; it returned {found}.")
    return loss.reshape(())


def losses(trials: TrialTensors, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Actor's and critic's loss of each trial, (B,) and (B,); another loss comes as (loss, 0).

    L_π = Σ_t −log π_t(a_t) (R_t − v_t, detached) − entropy bonus;  L_v = Σ_t smooth-L1(v_t, R_t). The actor's sum,
    that of the entropy and that of cross-entropy are over the steps at which an answer is asked for, the critic's
    over all that exist.

    Raises:
        ValueError: a user's loss returns something else than a tensor of one number.
    """
    none = torch.zeros_like(trials.value[:, 0]) if trials.value.shape[1] else trials.value.sum(1)
    if callable(settings.kind):
        each = [users_loss(settings.kind, trials.only(b)) for b in range(len(none))]
        return torch.stack(each) if each else none, none
    log_policy = torch.log(trials.policy.clamp_min(torch.finfo(trials.policy.dtype).tiny))
    if settings.kind == "cross_entropy":
        return -_of_actions(log_policy, trials.target, trials.asks).sum(1), none
    advantage = (trials.returns - trials.value).detach()
    actor = -(_of_actions(log_policy, trials.action, trials.asks) * advantage).sum(1)
    entropy = -((trials.policy * log_policy).sum(-1) * trials.asks).sum(1)
    error = trials.value - trials.returns
    critic = (torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5) * trials.exists).sum(1)
    return actor - settings.entropy_weight * entropy, critic


def _of_actions(log_policy: Tensor, action: Tensor, asks: Tensor) -> Tensor:
    """log π_t(a_t), (B, T); 0 where no answer is asked for."""
    return log_policy.gather(-1, action.clamp_min(0)[..., None]).squeeze(-1) * asks


# ---- the same with its derivatives, in NumPy ---------------------------------------------------------------


@dataclass(eq=False)
class Slopes:
    """Derivatives of the loss of B trials by what the network gives; None where it does not depend on it.

    None is not 0: Adam moves weights whose gradients are zero, and counts the step, but leaves out those without.
    """

    policy: np.ndarray | None = None
    """(..., B, T, A)"""
    value: np.ndarray | None = None
    """(..., B, T)"""
    hidden: np.ndarray | None = None
    """(..., B, T, H)"""
    cell: np.ndarray | None = None
    """(..., B, T, H)"""

    def __truediv__(self, trials: int) -> Slopes:
        """Those of the mean over so many trials."""
        return Slopes(*(None if s is None else s / trials for s in vars(self).values()))


def losses_and_slopes(
    policy: np.ndarray,
    value: np.ndarray,
    outcome: Outcome,
    settings: LossSettings,
    hidden: np.ndarray,
    cell: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, Slopes]:
    """``losses`` of each trial, (..., B) and (..., B), and the derivatives of actor's + weighted critic's loss.

    Args:
        policy: (..., B, T, A).
        value: (..., B, T).
        outcome: what was done.
        settings: of the loss.
        hidden, cell: (..., B, T, H), for a user's own loss.
    """
    if callable(settings.kind):
        return _users_losses_and_slopes(policy, value, outcome, settings, hidden, cell)
    none = np.zeros(value.shape[:-1])
    tiny = np.finfo(policy.dtype).tiny
    floored = np.maximum(policy, tiny)
    log_policy = np.log(floored)
    chosen = (outcome.target if settings.kind == "cross_entropy" else outcome.action).ravel()
    rows = np.arange(chosen.size)
    flat = floored.reshape(chosen.size, -1)[rows, chosen]
    asks = outcome.asks  # elsewhere the place of action -1, the last, is taken, and counts for nothing
    slope = ((flat > tiny) / -flat).reshape(value.shape) * asks  # of −log π_t(a_t), where it is not cut off
    log_chosen = log_policy.reshape(chosen.size, -1)[rows, chosen].reshape(value.shape) * asks
    d_policy = np.zeros(policy.shape)
    d_chosen = d_policy.reshape(chosen.size, -1)  # the same numbers
    if settings.kind == "cross_entropy":
        d_chosen[rows, chosen] = slope.ravel()
        return -log_chosen.sum(-1), none, Slopes(d_policy)
    error = value - returns_of(outcome.reward, value * outcome.exists, settings)  # minus the advantage
    d_chosen[rows, chosen] = -(slope * error).ravel()
    actor = (log_chosen * error).sum(-1)
    if settings.entropy_weight:
        weight = settings.entropy_weight * asks[..., None]
        actor = actor + (weight * policy * log_policy).sum((-1, -2))
        d_policy += weight * (log_policy + (policy > tiny))
    small = np.maximum(np.minimum(error, 1.0), -1.0) * outcome.exists  # the slope of smooth L1
    critic = (small * (error - 0.5 * small)).sum(-1)
    return actor, critic, Slopes(d_policy, settings.value_weight * small)


def _users_losses_and_slopes(
    policy: np.ndarray,
    value: np.ndarray,
    outcome: Outcome,
    settings: LossSettings,
    hidden: np.ndarray,
    cell: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, Slopes]:
    """A user's own loss, differentiated by autograd as far as the network's outputs; agents one by one."""
    if value.ndim > 2:
        each = [
            _users_losses_and_slopes(policy[p], value[p], outcome.of_agent(p), settings, hidden[p], cell[p])
            for p in range(len(policy))
        ]
        slopes = (_of_agents(name, [getattr(s, name) for _, _, s in each]) for name in vars(each[0][2]))
        return np.stack([a for a, _, _ in each]), np.stack([c for _, c, _ in each]), Slopes(*slopes)
    arrays = {"policy": policy, "value": value, "hidden": hidden, "cell": cell}
    leaves = {name: torch.tensor(array).requires_grad_() for name, array in arrays.items()}
    actor, critic = losses(trial_tensors(leaves, outcome, settings), settings)
    found: list[Tensor | None] = [None] * len(leaves)
    if actor.requires_grad:
        found = list(torch.autograd.grad(actor.sum(), list(leaves.values()), allow_unused=True))
    slopes = Slopes(*(None if g is None else g.numpy() for g in found))
    return actor.detach().numpy(), critic.detach().numpy(), slopes


def _of_agents(name: str, slopes: list[np.ndarray | None]) -> np.ndarray | None:
    """One kind of slope of all agents."""
    found = [s for s in slopes if s is not None]
    if 0 < len(found) < len(slopes):
        raise ValueError(
            f"The loss function depends on {name} for {len(found)} of {len(slopes)} agents that are trained "
            "together, not for the others. Let it depend on the same of its arguments for each agent."
        )
    return np.stack(found) if found else None


@lru_cache(maxsize=256)
def discounts(steps: int, gamma: float, unroll: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The matrices by which rewards and values (..., T) are multiplied to give returns, each (T, T).

    γ^(k−t) for rewards at k ≥ t of the same stretch, and for values where the next stretch begins; None if there
    is but one stretch.
    """
    step = np.arange(steps)
    stretch = step // (unroll or max(steps, 1))
    lag, later = step[:, None] - step, stretch[:, None] - stretch
    weight = float(gamma) ** np.maximum(lag, 0)
    of_rewards = np.where((lag >= 0) & (later == 0), weight, 0.0)
    if unroll is None or unroll >= steps:
        return of_rewards, None
    return of_rewards, np.where((step[:, None] % unroll == 0) & (later == 1), weight, 0.0)
