"""What is observed of the choices that the model makes, and the log-likelihood of it, trial by trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .table.data import NO_CHOICE, ObservedBlock

LARGEST_EXPONENT = 700.0
"""e to this power is still a finite number."""


def by_trial(value: Tensor | float) -> Tensor | float:
    """A parameter, a number or (R, B), as it goes with (R, trials, B)."""
    return value[:, None] if isinstance(value, Tensor) else value


def log_mixture(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """log(share · e^a + (1 − share) · e^b); where share is 0 or 1, or a or b is −∞, its slopes are finite, too."""
    share = torch.as_tensor(share, dtype=a.dtype)
    largest = torch.maximum(a + torch.log(share), b + torch.log1p(-share)).detach()
    largest = torch.where(torch.isneginf(largest), 0.0, largest)
    # What has the share 0 may be larger by far, and must not be 0 · ∞.
    a, b = (torch.exp((x - largest).clamp(max=LARGEST_EXPONENT)) for x in (a, b))
    return largest + torch.log(share * a + (1 - share) * b)


def chosen(log_p: Tensor, actions: Tensor) -> Tensor:
    """log p of actions, log_p (T, A, R, n, B) and actions (T, n, B) → (T, R, n, B); for -1, that of action 0."""
    length, _, restarts, n, blocks = log_p.shape
    index = actions.clamp_min(0)[:, None, None].expand(length, 1, restarts, n, blocks)
    return log_p.gather(1, index)[:, 0]


@dataclass(frozen=True)
class StepChoices:
    """A choice at every step, or at those steps at which one was asked for: Σ_t log p_t(a_t).

    Steps without a choice are seen by the model, and not scored.
    """

    parameters = ()
    """Names of the parameters that it needs."""

    def check(self, block: ObservedBlock) -> None:
        """Raises nothing: choices at any steps will do."""

    def scored(self, choices: np.ndarray) -> np.ndarray:
        """choices (n, T), -1 for none → (n,) bool: trials that say something."""
        return np.any(choices != NO_CHOICE, axis=1)

    def needed(self, choices: np.ndarray) -> np.ndarray:
        """choices (n, T) → (n,) int: steps, from the first, on which the trial's likelihood rests."""
        return ((choices != NO_CHOICE) * np.arange(1, choices.shape[1] + 1)).max(1)

    def log_likelihood(
        self, log_p: Tensor, choices: Tensor, there: Tensor, values: Mapping[str, Tensor | float]
    ) -> Tensor:
        """Of each trial; 0 for trials that are not scored.

        Args:
            log_p: (T, A, R, n, B), log p_t; of steps that are not needed, anything finite.
            choices: (T, n, B) int, -1 for none.
            there: (n, B) bool: False where a block has no such trial.
            values: of the parameters: numbers, or (R, B).

        Returns:
            (R, n, B)
        """
        made = (choices != NO_CHOICE)[:, None]
        return torch.where(made, chosen(log_p, choices), 0.0).sum(0)


@dataclass(frozen=True)
class FreeResponse:
    """One response a trial, when the person wants: a hazard at each step.

    Confidence is the largest choice probability, max_a p_t(a). At step t a person who has not decided decides with
    probability h_t = σ((confidence_t − θ) / s), and chooses by p_t; the response follows t_0 steps later. A
    fraction of t_0 divides between the two nearest whole numbers d of steps, so that a response a at step u has

        p(u, a) = Σ_d p(d) h_t Π_{τ < t} (1 − h_τ) p_t(a),   t = u − d,

    exactly, and piecewise linear in t_0. (It is 0 where t_0 leaves no time to decide: log-likelihood −∞.)
    """

    missing: Literal["ignore", "censored"] = "ignore"
    """A trial without a response: not scored, or taken for a person who had not responded by the last step."""

    parameters = ("bound", "bound_noise", "non_decision_time")
    """Names of the parameters that it needs: θ, s, t_0."""

    def __post_init__(self) -> None:
        if self.missing not in ("ignore", "censored"):
            raise ValueError(f"FreeResponse: missing must be 'ignore' or 'censored'; got {self.missing!r}.")

    def check(self, block: ObservedBlock) -> None:
        """Raise ValueError if a trial has more than one choice, or steps at which there could be none."""
        several = block.observed.sum(1) > 1
        if several.any():
            raise ValueError(
                f"trial {block.trial_numbers[several][0]} has several choices; a free response is one a trial. "
                "Use StepChoices(), or keep the choice at the step of the response."
            )
        if not block.trials.asks.all():
            raise ValueError(
                "a free response may come at any step, but some steps of the trials ask for no answer (targets of "
                "-1) or lie beyond their end. Use StepChoices(), or equally long trials that ask at each step."
            )

    def scored(self, choices: np.ndarray) -> np.ndarray:
        """See ``StepChoices``."""
        return StepChoices().scored(choices) | (self.missing == "censored")

    def needed(self, choices: np.ndarray) -> np.ndarray:
        """See ``StepChoices``: up to the response, or all where not responding is scored."""
        steps = StepChoices().needed(choices)
        return np.where(self.scored(choices) & (steps == 0), choices.shape[1], steps)

    def log_likelihood(
        self, log_p: Tensor, choices: Tensor, there: Tensor, values: Mapping[str, Tensor | float]
    ) -> Tensor:
        """See ``StepChoices``."""
        steps = len(log_p)
        bound, noise, delay = (
            torch.as_tensor(by_trial(values[name]), dtype=log_p.dtype) for name in self.parameters
        )
        made = choices != NO_CHOICE
        responds, at = made.any(0), made.to(torch.int64).argmax(0)
        action = choices.gather(0, at[None]).expand(steps, -1, -1)

        drive = (log_p.amax(1).exp() - bound) / noise
        waits = torch.cumsum(logsigmoid(-drive), 0)
        undecided = torch.cat([torch.zeros_like(waits[:1]), waits])  # log Π (1 − h) before step t, t = 0 ... T
        decides = logsigmoid(drive) + undecided[:-1] + chosen(log_p, action)
        shape = torch.broadcast_shapes(decides.shape[1:], delay.shape)
        decides, undecided = decides.expand(-1, *shape), undecided.expand(-1, *shape)

        whole = delay.detach().floor()
        fraction = delay - whole
        # Delays beyond the trial are all the same; as integers they might overflow.
        whole = whole.clamp(max=steps + 1).to(torch.int64).expand(shape)

        def decided(step: Tensor) -> Tensor:
            """Log-probability of deciding so at this step: (R, n, B)."""
            log_joint = torch.where(step < 0, -torch.inf, decides.gather(0, step.clamp_min(0)[None])[0])
            return torch.where(responds, log_joint, 0.0)

        def silent(step: Tensor) -> Tensor:
            """Log-probability of not having decided before this step: (R, n, B)."""
            return undecided.gather(0, step.clamp_min(0)[None])[0]

        found = log_mixture(decided(at - whole - 1), decided(at - whole), fraction)
        if self.missing == "censored":
            none = log_mixture(silent(steps - whole - 1), silent(steps - whole), fraction)
            found = torch.where(there & ~responds, none, found)
        return found


Observation = StepChoices | FreeResponse
