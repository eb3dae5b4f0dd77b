"""What is observed of the choices that the model makes, and the log-likelihood of it, trial by trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .data import NO_CHOICE


@dataclass(frozen=True)
class StepChoices:
    """A choice at every step, or at those steps at which one was asked for: Σ_t log p_t(a_t).

    Where there is no choice, nothing is scored.
    """

    parameters = ()
    """Names of the parameters that it needs."""

    def trials(self, p: Tensor, choice: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Log-likelihood of each trial: (R, n).

        Args:
            p: (T, R, n, A): p_t.
            choice: (T, n) int, -1 for none.
            values: of ``parameters``, (R, n) each.
        """
        made = choice != NO_CHOICE
        chosen = choice.clamp_min(0)[:, None, :, None].expand(*p.shape[:3], 1)
        likelihood = torch.where(made[:, None], p.gather(-1, chosen)[..., 0], 1.0)
        return torch.log(likelihood).sum(0)


@dataclass(frozen=True)
class FreeResponse:
    """One response a trial, when the person wants: a hazard at each step.

    Confidence is the largest choice probability, max_a p_t(a). At step t a person who has not decided decides with
    probability σ((confidence − θ) / s), and chooses by p_t; the response follows t_0 steps later. A fraction of
    t_0 divides between the two nearest whole numbers: the exact likelihood of a response is a sum of two terms,
    piecewise linear in t_0.
    """

    missing: Literal["ignore", "censored"] = "ignore"
    """A trial without a response: not scored, or taken for a person who had not responded by the last step."""

    parameters = ("bound", "bound_noise", "non_decision_time")
    """Names of the parameters that it needs: θ, s, t_0."""

    def __post_init__(self) -> None:
        if self.missing not in ("ignore", "censored"):
            raise ValueError(f"FreeResponse: missing must be 'ignore' or 'censored'; got {self.missing!r}.")

    def trials(self, p: Tensor, choice: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Log-likelihood of each trial: (R, n); arguments as of ``StepChoices.trials``."""
        steps = len(p)
        drive = (p.max(-1).values - values["bound"]) / values["bound_noise"]
        waits = torch.cumsum(torch.nn.functional.logsigmoid(-drive), 0)  # log Π_{τ ≤ t} (1 − hazard)
        undecided = torch.cat([torch.zeros_like(waits[:1]), waits])  # before step t, t = 0 ... T
        decides = torch.nn.functional.logsigmoid(drive) + undecided[:-1]

        responds = (choice != NO_CHOICE).any(0)
        at = (choice != NO_CHOICE).to(torch.int64).argmax(0)  # the step of the response
        action = choice.gather(0, at[None])[0].clamp_min(0)
        whole = values["non_decision_time"].detach().floor()
        fraction = values["non_decision_time"] - whole
        chosen = p.gather(-1, action[None, None, :, None].expand(*p.shape[:3], 1))[..., 0]
        joint = torch.exp(decides) * chosen

        def decided_before(delay: Tensor) -> Tensor:
            step = at - delay.to(torch.int64)
            return torch.where(step >= 0, joint.gather(0, step.clamp_min(0)[None])[0], 0.0)

        def silent(delay: Tensor) -> Tensor:
            step = (steps - delay.to(torch.int64)).clamp(0, steps)  # decisions from here on come too late
            return torch.exp(undecided.gather(0, step[None])[0])

        response = (1 - fraction) * decided_before(whole) + fraction * decided_before(whole + 1)
        if self.missing == "ignore":
            likelihood = torch.where(responds, response, 1.0)
        else:
            none = (1 - fraction) * silent(whole) + fraction * silent(whole + 1)
            likelihood = torch.where(responds, response, none)
        return torch.log(likelihood)
