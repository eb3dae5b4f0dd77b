"""Contextual choice: integrate noisy evidence, or remember the answer that the context had before.

The demonstration task of dnd-lstm (Lu, 2019, github.com/qihongl/dnd-lstm), whose sizes and rules are kept.
A block shows each context twice. On the first encounter the answer can be known only once the noise stops;
on the second, an agent that stored its state under the context can answer from the first step on.

Chance is .5 at each step. Optimum: on the first encounter .5 before ``t_noise_off`` and nearly 1 after (the
summed evidence of one step is N(±obs_dim, obs_dim), so one step errs with probability Φ(−√obs_dim), 8e-9 at
obs_dim = 32); on the second encounter 1 from the first step on. At the default sizes that is
(5 · .5 + 5 + 10) / 2 = 8.75 rewards a trial.

Differences from dnd-lstm: draws come from a generator that the caller passes, whole blocks at once, so the
same seed gives other numbers; the distribution is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .trials import Trials


@dataclass(frozen=True)
class ContextualChoice:
    """The contextual-choice task.

    Raises:
        ValueError: a size is not a whole number in its range; the message says which.
    """

    obs_dim: int = 32
    """Columns of the observation, and again of the context; x_t has 2 · obs_dim columns (dnd-lstm: 32)."""
    trial_length: int = 10
    """Steps in a trial, T (dnd-lstm: 10)."""
    t_noise_off: int = 5
    """Steps, from the first, in which the evidence is replaced by noise (dnd-lstm: 5)."""

    def __post_init__(self) -> None:
        for name, least in (("obs_dim", 1), ("trial_length", 1), ("t_noise_off", 0)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
                raise ValueError(f"ContextualChoice: {name} must be a whole number ≥ {least}; got {value!r}.")
        if self.t_noise_off > self.trial_length:
            raise ValueError(
                f"ContextualChoice: t_noise_off ({self.t_noise_off}) must not exceed trial_length "
                f"({self.trial_length}); at trial_length itself, the evidence is never shown."
            )

    @property
    def input_size(self) -> int:
        """Columns of x_t: observation, then context."""
        return 2 * self.obs_dim

    @property
    def context_columns(self) -> tuple[int, int]:
        """The (start, stop) columns of the context: the key of Ritter et al. (2018)."""
        return self.obs_dim, 2 * self.obs_dim

    n_actions = 2
    chance = 0.5

    @property
    def optimum(self) -> float:
        """Reward a trial of an agent that remembers and integrates without error (one-step errors neglected)."""
        informed = self.trial_length
        uninformed = self.t_noise_off * self.chance + (self.trial_length - self.t_noise_off)
        return (informed + uninformed) / 2

    def sample(self, n_contexts: int, rng: np.random.Generator) -> Trials:
        """One block: ``n_contexts`` first encounters, then the same trials again in a new order.

        Args:
            n_contexts: contexts in the block; the block has 2 · n_contexts trials.
            rng: the source of all randomness.

        Returns:
            Trials with inputs (2 · n_contexts, T, 2 · obs_dim); encoding at the last step of first encounters.

        Raises:
            ValueError: n_contexts is not a whole number ≥ 1.
            TypeError: rng is not a ``numpy.random.Generator``.
        """
        if not isinstance(n_contexts, (int, np.integer)) or isinstance(n_contexts, bool) or n_contexts < 1:
            raise ValueError(f"ContextualChoice: n_contexts must be a whole number ≥ 1; got {n_contexts!r}.")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                "ContextualChoice: rng must be a numpy.random.Generator, such as "
                f"numpy.random.default_rng(0); got {type(rng).__name__}."
            )
        n, steps, size = n_contexts, self.trial_length, self.obs_dim
        side = np.where(rng.standard_normal(n) > 0, 1.0, -1.0)
        evidence = rng.normal(side[:, None, None], 1.0, (n, steps, size))
        # The answer is that of the whole evidence, before its first steps are replaced by noise.
        answer = (evidence.sum((1, 2)) > 0).astype(np.int64)
        evidence[:, : self.t_noise_off] = rng.standard_normal((n, self.t_noise_off, size))
        context = np.repeat(rng.standard_normal((n, 1, size)), steps, axis=1)
        first = np.concatenate([evidence, context], axis=2)

        order = rng.permutation(n)
        encode = np.zeros((2 * n, steps), bool)
        encode[:n, -1] = True
        return Trials(
            inputs=np.concatenate([first, first[order]]),
            targets=np.repeat(np.concatenate([answer, answer[order]])[:, None], steps, axis=1),
            encode=encode,
            context=np.concatenate([np.arange(n), order]),
            encounter=np.repeat([1, 2], n),
            noise_off=self.t_noise_off,
        )
