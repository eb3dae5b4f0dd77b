"""Episodic two-step task: choose by what happened lately, or by what happened once, when a cue brings it back.

The task of Ritter et al. (2018), after Daw et al. (2011). A trial is a choice between two actions. Action a leads
to second-stage state a with probability ``p_common``, and to the other state otherwise. One of the two states is
good; which one flips with probability ``p_flip`` from trial to trial. The first half of an episode's trials is
*uncued*: the outcome comes with a new context, under which the agent stores its state. The second half is *cued*:
the choice comes with the context of an old trial. If the same second-stage state is reached again, the old
reward repeats; otherwise the reward is drawn afresh. The third quarter cues the trials of the first, the fourth
those of the second, each once.

An episode has two steps a trial, T = 2 · trials:

    step     is          x_t shows                                         switches        the action
    2k       choice k    stage; cued half: the old context                 cued: retrieve  counts; its reward is
                                                                                           that of the trial
    2k + 1   outcome k   state reached; action and reward of step 2k;      uncued: encode  has no effect: no
                         uncued half: the new context                                      reward, never shown

x_t = [choice?, state 0?, state 1?, context, one-hot previous action, previous reward]; what is not named in the
table is 0. At an outcome the network sees the state, the reward and the context at once, so that c_t of this
step, which is stored, can hold all of them. Episodes share nothing: an epoch is one episode.

Sources. From a public re-implementation, after the paper's task: .9 common; .9 and .1; flips with .1; 100 trials;
contexts of 10 bits; which trials are cued by which; repeated or fresh rewards; retrieval on cued trials only.
Ours: the two steps; the order of the cues within a quarter (shuffled); contexts differ within an episode and are
never all zero; the good state may flip on cued trials too; which state is common after an action never changes.

Chance is .5 a trial. ``informed_uncued`` (.82) and ``informed_cued`` (.860) are those of who is told the good
state and forgets no outcome. Simulated (4000 episodes, standard error .001), a greedy learner that knows the task
and has to infer the good state gets .699 uncued and, cued, .670 without episodic memory and .799 with it.
Baselines: ``two_step_baselines``; stay probabilities: ``two_step_analysis``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .environment import Worlds, check_barcodes, check_probabilities, check_whole, draw_barcodes


@dataclass(frozen=True)
class TwoStep:
    """The episodic two-step task.

    Raises:
        ValueError: a setting is out of its range, or they do not fit together; the message says which.
    """

    trials: int = 100
    """Trials in an episode, a multiple of 4: half uncued, half cued (public re-implementation: 100)."""
    p_common: float = 0.9
    """Probability that action a leads to state a, from .5 (public re-implementation: .9)."""
    p_good: float = 0.9
    """Probability that the good state pays 1 (public re-implementation: .9)."""
    p_bad: float = 0.1
    """Probability that the other state pays 1 (public re-implementation: .1)."""
    p_flip: float = 0.1
    """Probability that the good state changes from a trial to the next (public re-implementation: .1)."""
    barcode_bits: int = 10
    """Bits of a context (public re-implementation: 10)."""

    def __post_init__(self) -> None:
        check_whole(self, trials=4)
        if self.trials % 4:
            raise ValueError(
                f"TwoStep: trials must be a multiple of 4 (two quarters uncued, two cued); got {self.trials}."
            )
        check_probabilities(self, "p_common", "p_good", "p_bad", "p_flip")
        if self.p_common < 0.5:
            raise ValueError(f"TwoStep: p_common must be at least .5; got {self.p_common}. Rename the states.")
        if self.p_good <= self.p_bad:
            raise ValueError(f"TwoStep: p_good ({self.p_good}) must exceed p_bad ({self.p_bad}).")
        check_barcodes(self, self.uncued, "half the trials")

    n_actions = 2
    episodes = 1
    reward_range = (0.0, 1.0)

    @property
    def uncued(self) -> int:
        """Uncued trials, the first of an episode; as many cued ones follow."""
        return self.trials // 2

    @property
    def key_columns(self) -> tuple[int, int]:
        """The (start, stop) columns of the context."""
        return 3, 3 + self.barcode_bits

    @property
    def input_size(self) -> int:
        """Columns of x_t: choice, two states, context, one-hot previous action, previous reward."""
        return 3 + self.barcode_bits + self.n_actions + 1

    @property
    def length(self) -> int:
        """Steps of an episode, T: two a trial."""
        return 2 * self.trials

    @property
    def chance(self) -> float:
        """Expected reward a trial of random choices: both states equally often, and one of them is good."""
        return (self.p_good + self.p_bad) / 2

    @property
    def informed_uncued(self) -> float:
        """Expected reward of an uncued trial of who is told the good state."""
        return self.p_common * self.p_good + (1 - self.p_common) * self.p_bad

    @property
    def informed_cued(self) -> float:
        """Expected reward of a cued trial of who is told the good state and remembers the old outcome.

        It chose the good state's action on the uncued trials, and takes the action with the higher expected
        reward now. Exact: summed over what the old outcome was, the lag, and whether the good state changed.
        """
        quarter = self.trials // 4
        lags = 2 * quarter + np.subtract.outer(np.arange(quarter), np.arange(quarter))
        same = float(np.mean(0.5 * (1 + (1 - 2 * self.p_flip) ** lags)))
        total = 0.0
        for old_good, p_old in ((True, self.p_common), (False, 1 - self.p_common)):
            pays = self.p_good if old_good else self.p_bad
            for old_reward, p_reward in ((1, pays), (0, 1 - pays)):
                for good_now, p_now in ((old_good, same), (not old_good, 1 - same)):
                    other = self.p_bad if good_now else self.p_good
                    high, low = max(old_reward, other), min(old_reward, other)
                    total += p_old * p_reward * p_now * (self.p_common * high + (1 - self.p_common) * low)
        return total

    @property
    def informed(self) -> float:
        """Expected reward a trial over both halves, of ``informed_uncued`` and ``informed_cued``."""
        return (self.informed_uncued + self.informed_cued) / 2

    def worlds(self, rngs: Sequence[np.random.Generator]) -> TwoStepWorlds:
        """M parallel copies, one for each generator."""
        return TwoStepWorlds(self, rngs)


class TwoStepWorlds(Worlds):
    """M episodic two-step tasks in lockstep.

    Facts, the same at both steps of a trial but for ``stage``, ``action`` and ``reward`` (which are of the step):
    ``trial``; ``stage`` (0 choice, 1 outcome); ``first_action``, ``common``, ``state``, ``outcome`` (the trial's
    reward); ``cued``; ``old_trial`` (that the cue brings back; −1 on uncued trials); ``good_state``.
    """

    task: TwoStep
    _epoch: dict[str, np.ndarray]

    def _draw_epoch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        task, quarter = self.task, self.task.trials // 4
        contexts = draw_barcodes(task.uncued, task.barcode_bits, rng)
        cues = np.concatenate([rng.permutation(quarter), quarter + rng.permutation(quarter)])
        flips = rng.random(task.trials) < task.p_flip
        flips[0] = rng.random() < 0.5
        return {
            "context": np.zeros(1, int),
            "exposure": np.ones(1, int),
            "contexts": contexts.astype(float),
            "old_trial": np.concatenate([np.full(task.uncued, -1), cues]),
            "good_state": np.cumsum(flips) % 2,
            "common": rng.random(task.trials) < task.p_common,
            "luck": rng.random(task.trials),
        }

    @property
    def encode(self) -> np.ndarray:
        """(M,) bool: at the outcome of uncued trials."""
        return self._on if self.step % 2 and self.step < self._length // 2 else self._off

    @property
    def retrieve(self) -> np.ndarray:
        """(M,) bool: at the choice of cued trials."""
        return self._on if self.step % 2 == 0 and self._length // 2 <= self.step < self._length else self._off

    def _start(self) -> None:
        self._states = np.zeros((self.n, self.task.trials), int)
        self._outcomes = np.zeros((self.n, self.task.trials))

    def _shows_previous(self) -> bool:
        return self.step % 2 == 1

    def _shown(self) -> np.ndarray:
        trial, outcome = divmod(self.step, 2)
        shown = np.zeros((self.n, 3 + self.task.barcode_bits))
        if self.step == self._length:
            return shown
        if outcome:
            shown[self._rows, 1 + self._states[:, trial]] = 1
            if trial < self.task.uncued:
                shown[:, 3:] = self._epoch["contexts"][:, trial]
        else:
            shown[:, 0] = 1
            if trial >= self.task.uncued:
                shown[:, 3:] = self._epoch["contexts"][self._rows, self._epoch["old_trial"][:, trial]]
        return shown

    def _move(self, actions: np.ndarray) -> np.ndarray:
        trial, outcome = divmod(self.step, 2)
        if outcome:
            rewards = np.zeros(self.n)
            self._facts = {**self._trial, "stage": np.ones(self.n, int), "action": actions, "reward": rewards}
            return rewards
        task, draw = self.task, self._epoch
        common, good = draw["common"][:, trial], draw["good_state"][:, trial]
        state = np.where(common, actions, 1 - actions)
        rewards = (draw["luck"][:, trial] < np.where(state == good, task.p_good, task.p_bad)).astype(float)
        cued = trial >= task.uncued
        old = draw["old_trial"][:, trial]
        if cued:
            repeats = state == self._states[self._rows, old]
            rewards = np.where(repeats, self._outcomes[self._rows, old], rewards)
        self._states[:, trial], self._outcomes[:, trial] = state, rewards
        self._trial = {
            "trial": np.full(self.n, trial),
            "first_action": actions,
            "common": common,
            "state": state,
            "outcome": rewards,
            "cued": np.full(self.n, cued),
            "old_trial": old,
            "good_state": good,
        }
        self._facts = {**self._trial, "stage": np.zeros(self.n, int), "action": actions, "reward": rewards}
        return rewards
