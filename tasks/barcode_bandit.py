"""Barcode bandit: a bandit whose good arm can be looked up in memory once its barcode was met before.

The episodic contextual bandit of Ritter et al. (2018). A *context* is a barcode with the one arm that is good
under it. At the start of an epoch the contexts are drawn and put into a bag, each ``exposures`` times; the bag
is drawn from without replacement, and each draw is an episode of ``pulls`` pulls. The memory is cleared between
epochs. An agent without episodic memory has to look for the good arm in every episode. One with it takes up at
the first pull where it left off when it last saw the barcode.

Sources. From the paper: unique barcodes, each paired at random with an arm, every arm used at least once; the bag;
10 contexts, 10 arms, 10 pulls an episode, 100 episodes an epoch. From public re-implementations: .9 and .1;
random bits of which not all are 0 (the length differs between them). From memory of the paper, not checked
against it: what x_t holds, and that c_t is stored at the last step. Ours: the pulls at which the agent reads its
memory (``pulls_with_retrieval``; all of them by default).

x_t = [barcode, one-hot previous action, previous reward]; the last two are 0 at the first pull. c_t of the last
step has therefore seen the rewards of all pulls but the last.

Chance and optima are computed, as expected rewards of a pull (defaults):

    chance                                       .18
    informed: knows the good arm                 .90
    without_memory: exact, mean of 10 pulls      .4436   pull 1 .18, pull 10 .70
    thompson: exact, mean of 10 pulls            .3917   pull 1 .18, pull 10 .63
    with_memory: simulated, mean of exposures 1, 2, 3, 10: .44, .82, .88, .90   pull 1: .18, .73, .87, .90

Equal keys pile up in a memory that stores each exposure: retrieve the newest of equals, or overwrite the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .environment import (
    Worlds,
    check_barcodes,
    check_probabilities,
    check_whole,
    draw_bag,
    draw_barcodes,
    is_whole,
)

State = tuple[tuple[int, int, int], ...]
"""What was seen in an episode: sorted (successes, failures, arms with these), of the arms pulled."""


@dataclass(frozen=True)
class BarcodeBandit:
    """The barcode bandit.

    Raises:
        ValueError: a setting is out of its range, or they do not fit together; the message says which.
    """

    arms: int = 10
    """Arms, A (paper: 10)."""
    contexts: int = 10
    """Different barcodes in an epoch; at least one for each arm (paper: 10)."""
    exposures: int = 10
    """Episodes with each barcode in an epoch (paper: 10)."""
    pulls: int = 10
    """Pulls in an episode, T (paper: 10)."""
    p_good: float = 0.9
    """Probability that the good arm pays 1 (public re-implementations: .9)."""
    p_bad: float = 0.1
    """Probability that any other arm pays 1 (public re-implementations: .1)."""
    barcode_bits: int = 20
    """Bits of a barcode (public re-implementations: 10, 20, 24 and 40; 20 is our choice among them)."""
    pulls_with_retrieval: int | None = None
    """Pulls, from an episode's first, at which the agent reads its memory: 0 (none) to ``pulls``; None: all.

    What is stored under a barcode does not change within an episode, so 1 gives the agent all there is to know.
    """

    def __post_init__(self) -> None:
        check_whole(self, arms=2, contexts=1, exposures=1, pulls=1)
        reads = self.pulls_with_retrieval
        if reads is not None and not (is_whole(reads) and 0 <= reads <= self.pulls):
            raise ValueError(
                f"BarcodeBandit: pulls_with_retrieval must be a whole number from 0 to pulls ({self.pulls}), or "
                f"None for all pulls; got {reads!r}."
            )
        check_probabilities(self, "p_good", "p_bad")
        if self.contexts < self.arms:
            raise ValueError(
                f"BarcodeBandit: contexts ({self.contexts}) must be at least arms ({self.arms}), because every "
                "arm is the good one of some barcode; raise contexts or lower arms."
            )
        if self.p_good <= self.p_bad:
            raise ValueError(f"BarcodeBandit: p_good ({self.p_good}) must exceed p_bad ({self.p_bad}).")
        check_barcodes(self, self.contexts, "contexts")

    @property
    def n_actions(self) -> int:
        """Actions, one an arm."""
        return self.arms

    @property
    def input_size(self) -> int:
        """Columns of x_t: barcode, one-hot previous action, previous reward."""
        return self.barcode_bits + self.arms + 1

    @property
    def key_columns(self) -> tuple[int, int]:
        """The (start, stop) columns of the barcode."""
        return 0, self.barcode_bits

    @property
    def length(self) -> int:
        """Steps of an episode, T: its pulls."""
        return self.pulls

    @property
    def episodes(self) -> int:
        """Episodes of an epoch."""
        return self.contexts * self.exposures

    reward_range = (0.0, 1.0)

    @property
    def chance(self) -> float:
        """Expected reward of a pull of a random arm."""
        return (self.p_good + (self.arms - 1) * self.p_bad) / self.arms

    @property
    def informed(self) -> float:
        """Expected reward of a pull of who knows the good arm."""
        return self.p_good

    def worlds(self, rngs: Sequence[np.random.Generator]) -> BanditWorlds:
        """M parallel copies, one for each generator."""
        return BanditWorlds(self, rngs)


class BanditWorlds(Worlds):
    """M barcode bandits in lockstep. Facts: ``action``, ``reward``, ``good_arm``, ``expected`` (of the action)."""

    task: BarcodeBandit
    _epoch: dict[str, np.ndarray]

    @property
    def retrieve(self) -> np.ndarray:
        """(M,) bool: whether the agent reads its memory at this step: at the first pulls, or all."""
        reads = self.task.pulls_with_retrieval
        return self._on if self.step < (self._length if reads is None else reads) else self._off

    def _draw_epoch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        task = self.task
        barcodes = draw_barcodes(task.contexts, task.barcode_bits, rng)
        # Every arm once, the rest at random; then shuffled, so that no context is special.
        good = np.concatenate([np.arange(task.arms), rng.integers(0, task.arms, task.contexts - task.arms)])
        good = rng.permutation(good)
        context, exposure = draw_bag(task.contexts, task.exposures, rng)
        return {
            "context": context,
            "exposure": exposure,
            "barcode": barcodes[context].astype(float),
            "good_arm": good[context],
            "luck": rng.random((task.episodes, task.pulls)),
        }

    def _start(self) -> None:
        self._barcode = self._epoch["barcode"][:, self.episode]
        self._good = self._epoch["good_arm"][:, self.episode]
        self._luck = self._epoch["luck"][:, self.episode]

    def _shown(self) -> np.ndarray:
        return self._barcode

    def _move(self, actions: np.ndarray) -> np.ndarray:
        expected = np.where(actions == self._good, self.task.p_good, self.task.p_bad)
        rewards = (self._luck[:, self.step] < expected).astype(float)
        self._facts = {"action": actions, "reward": rewards, "good_arm": self._good, "expected": expected}
        return rewards


# ---- optima ----------------------------------------------------------------------------------------------
#
# Exactly one arm is good, each with the same prior probability. After s successes and f failures, an arm's
# likelihood ratio (good against not good) is w = (p_good/p_bad)^s · ((1 − p_good)/(1 − p_bad))^f, and the
# posterior that it is the good one is w / Σ w over all arms (w = 1 where nothing was pulled). Arms with the same
# counts are alike, so the multiset of counts is a sufficient state.


def without_memory(task: BarcodeBandit) -> np.ndarray:
    """Expected reward at each pull of the best agent without episodic memory, (pulls,). Exact.

    It knows that exactly one arm is good, and p_good and p_bad. Dynamic programming over the posterior's
    sufficient statistics maximises the sum of an episode's rewards; of actions with the same value it takes
    that with the higher reward at once.
    """
    values: dict[State, float] = {}

    def best(state: State) -> tuple[float, tuple[int, int]]:
        """The value of the pulls that remain, and the counts of the arm to pull."""
        options = []
        for counts, _, pays in _options(task, state):
            value = pays
            for won, chance in ((1, pays), (0, 1 - pays)):
                if chance:
                    value += chance * value_of(_pulled(state, counts, won))
            options.append((round(value, 12), pays, counts))
        value, _, counts = max(options)
        return value, counts

    def value_of(state: State) -> float:
        if _pulls(state) == task.pulls:
            return 0.0
        if state not in values:
            values[state] = best(state)[0]
        return values[state]

    return _course(task, lambda state: {best(state)[1]: 1.0})


def thompson(task: BarcodeBandit) -> np.ndarray:
    """Expected reward at each pull of Thompson sampling without episodic memory, (pulls,). Exact.

    Its posterior is that of ``without_memory``; each arm is pulled with the probability that it is the good one.
    """
    return _course(task, lambda state: {counts: chance for counts, chance, _ in _options(task, state)})


def with_memory(
    task: BarcodeBandit, n_episodes: int = 20_000, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Expected reward by exposure and pull, (exposures, pulls), of an agent that forgets nothing. Simulated.

    It carries the posterior of ``without_memory`` from exposure to exposure, and pulls the arm that is most
    likely the good one. Nothing proves here that this greedy rule is optimal, but within an episode it earned as
    much as the exact optimum in every setting tried (2 to 10 arms, up to 8 pulls). It does not use that two
    barcodes tend to have different good arms, and it does see the last reward of an episode, which c_t does not.

    Args:
        task: the settings.
        n_episodes: simulated contexts; the standard error is at most .4/√n_episodes.
        rng: the source of randomness; by default one with the seed 0.

    Raises:
        ValueError: n_episodes is not a whole number ≥ 1.
    """
    if not is_whole(n_episodes) or n_episodes < 1:
        raise ValueError(f"with_memory: n_episodes must be a whole number ≥ 1; got {n_episodes!r}.")
    rng = np.random.default_rng(0) if rng is None else rng
    won, lost = _log_ratios(task)
    rows = np.arange(n_episodes)
    good = rng.integers(0, task.arms, n_episodes)
    ratio = np.zeros((n_episodes, task.arms))
    means = []
    for _ in range(task.exposures * task.pulls):
        arm = ratio.argmax(1)
        expected = np.where(arm == good, task.p_good, task.p_bad)
        ratio[rows, arm] += np.where(rng.random(n_episodes) < expected, won, lost)
        means.append(expected.mean())
    return np.reshape(means, (task.exposures, task.pulls))


def _log_ratios(task: BarcodeBandit) -> tuple[float, float]:
    """What a success and a failure add to an arm's log likelihood ratio; finite even where p is 0 or 1."""
    tiny = 1e-300
    won = np.log(max(task.p_good, tiny)) - np.log(max(task.p_bad, tiny))
    lost = np.log(max(1 - task.p_good, tiny)) - np.log(max(1 - task.p_bad, tiny))
    return won, lost


def _pulls(state: State) -> int:
    return sum((s + f) * arms for s, f, arms in state)


def _options(task: BarcodeBandit, state: State) -> list[tuple[tuple[int, int], float, float]]:
    """For each kind of arm: its counts, the probability that the good arm is of this kind, P(one of it pays)."""
    pulled = sum(arms for *_, arms in state)
    kinds = [*state, (0, 0, task.arms - pulled)] if pulled < task.arms else list(state)
    won, lost = _log_ratios(task)
    logs = np.array([s * won + f * lost for s, f, _ in kinds])
    weights = np.exp(logs - logs.max()) * [arms for *_, arms in kinds]
    weights /= weights.sum()
    return [
        ((s, f), float(w), float(task.p_bad + (task.p_good - task.p_bad) * w / arms))
        for (s, f, arms), w in zip(kinds, weights, strict=True)
    ]


def _pulled(state: State, counts: tuple[int, int], won: int) -> State:
    """The state after a pull of an arm with these counts."""
    kinds = {(s, f): arms for s, f, arms in state}
    if counts != (0, 0):
        kinds[counts] -= 1
    after = counts[0] + won, counts[1] + 1 - won
    kinds[after] = kinds.get(after, 0) + 1
    return tuple(sorted((s, f, arms) for (s, f), arms in kinds.items() if arms))


def _course(task: BarcodeBandit, policy: Callable[[State], dict[tuple[int, int], float]]) -> np.ndarray:
    """Expected reward at each pull: the distribution over states, carried forward under a policy."""
    states: dict[State, float] = {(): 1.0}
    course = np.zeros(task.pulls)
    for pull in range(task.pulls):
        after: dict[State, float] = {}
        for state, mass in states.items():
            chosen = policy(state)
            for counts, _, pays in _options(task, state):
                share = mass * chosen.get(counts, 0.0)
                course[pull] += share * pays
                for won, chance in ((1, pays), (0, 1 - pays)):
                    if share * chance:
                        state_after = _pulled(state, counts, won)
                        after[state_after] = after.get(state_after, 0.0) + share * chance
        states = after
    return course
