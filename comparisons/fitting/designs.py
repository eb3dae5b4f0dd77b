"""Designs: which trials of the contextual-choice task a person sees, and at which steps a choice is asked for.

Whether parameters can be told apart is decided here: gate, sharpness and forgetting trade off unless lags vary,
early steps are probed, and some contexts are new. ``eplstm recover`` shows it before data are collected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...tasks import ContextualChoice, Trials


@dataclass(frozen=True)
class Design:
    """Blocks of contextual choice for one person; the memory is cleared before each.

    Raises:
        ValueError: a value is outside its range.
    """

    blocks: int = 3
    """Blocks a person."""
    contexts: int = 20
    """Contexts in a block that return: each is stored on its first encounter."""
    encounters: int = 2
    """How often each of them is shown."""
    new_contexts: int = 0
    """Further contexts in a block that are shown once, among the later encounters; they are not stored."""
    order: Literal["phases", "interleaved"] = "interleaved"
    """``phases``: all first encounters, then all others in random order (dnd-lstm). ``interleaved``: encounters in
    random order over the whole block, so that lags run from none to nearly all of the block."""
    probes: Literal["all", "one"] = "all"
    """Choices at every step, or at one step of each trial, drawn at random (response-signal design)."""
    obs_dim: int = 32
    """Columns of the observation, and again of the context."""
    trial_length: int = 10
    """Steps in a trial."""
    t_noise_off: int = 5
    """First step with evidence; before it the observation is noise, and only memory can help."""

    def __post_init__(self) -> None:
        for name, least in (("blocks", 1), ("contexts", 1), ("encounters", 1), ("new_contexts", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"Design: {name} must be a whole number ≥ {least}; got {value!r}.")
        for name, allowed in (("order", ("phases", "interleaved")), ("probes", ("all", "one"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Design: {name} must be one of {allowed}; got {getattr(self, name)!r}.")
        self.task()  # checks the rest

    def task(self) -> ContextualChoice:
        """The task, with the sizes of the stimuli."""
        return ContextualChoice(self.obs_dim, self.trial_length, self.t_noise_off)

    @property
    def trials(self) -> int:
        """Trials a person."""
        return self.blocks * (self.contexts * self.encounters + self.new_contexts)

    def sample(self, rng: np.random.Generator) -> list[Trials]:
        """The blocks of one person: each (contexts · encounters + new_contexts) trials."""
        return [self._block(rng) for _ in range(self.blocks)]

    def _block(self, rng: np.random.Generator) -> Trials:
        shown = self.task().sample(self.contexts + self.new_contexts, rng)[: self.contexts + self.new_contexts]
        order = self._order(rng)
        encounter = np.array([(order[:n] == context).sum() + 1 for n, context in enumerate(order)])
        encode = np.zeros((len(order), self.trial_length), bool)
        encode[(encounter == 1) & (order < self.contexts), -1] = True
        return Trials(
            inputs=shown.inputs[order],
            targets=shown.targets[order],
            encode=encode,
            context=order,
            encounter=encounter,
            noise_off=self.t_noise_off,
        )

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """Which context each trial shows; those from ``contexts`` on are new."""
        returning, new = np.arange(self.contexts), self.contexts + np.arange(self.new_contexts)
        later = np.concatenate([np.repeat(returning, self.encounters - 1), new])
        if self.order == "phases":
            return np.concatenate([returning, rng.permutation(later)])
        return rng.permutation(np.concatenate([returning, later]))

    def probed(self, trials: Trials, rng: np.random.Generator) -> np.ndarray:
        """The steps of a block at which a choice is asked for: (n, T) bool."""
        if self.probes == "all":
            return np.ones(trials.targets.shape, bool)
        chosen = rng.integers(0, self.trial_length, len(trials))
        return np.arange(self.trial_length) == chosen[:, None]
