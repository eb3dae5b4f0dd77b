"""A person: what may differ between people who share one trained network, each in one place of the equations.

    key(x_t)   s_w ∘ x_t: context columns times 2w, the others times 2 (1 − w)        context_weight w
    retrieve   Σ_k w_k value_k, w_k ∝ exp(β_m · similarity_k − λ · lag_k)             sharpness β_m, forgetting λ
    r_t        σ(... + b_r)                                                           gate_bias b_r
    m_t        0 on the later trials of a context whose episode was not encoded       encoding_probability p_e
    π_t        softmax(β (W_π h_t + b_π) + κ · [a = last choice])     inverse_temperature β, perseveration κ
    p_t        (1 − ε) π_t + ε / A: the probabilities of the choices                  lapse ε

``lag_k`` counts the entries that were stored after entry k: 0 for the newest. The last choice is the latest one
of the same block, whether on this trial or on an earlier one; before the first there is none. The network's
weights are trained once and are those of everybody.

Sources: inverse temperature, lapse and perseveration as in Wilson & Collins (2019); recency-weighted memory as in
Bornstein et al. (2017). The gate's bias, the key's weight and all-or-none encoding are this package's own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from ..tasks.trials import Trials
from .config import ModelConfig


@dataclass(frozen=True)
class Person:
    """What is particular to one person; by default a person chooses as the trained agent does.

    Raises:
        ValueError: a value is outside its range.
    """

    inverse_temperature: float = 1.0
    """β > 0: how strictly choices follow the read-out; 1 leaves it as trained."""
    lapse: float = 0.0
    """ε, 0 ... 1: share of choices made at random."""
    perseveration: float = 0.0
    """κ: pull towards the choice made last, in units of the read-out times β; below 0 away from it."""
    gate_bias: float = 0.0
    """b_r: added to the drive of every reinstatement gate; below 0, memory is reinstated less. Needs
    ``reinstatement="gate"``."""
    sharpness: float | None = None
    """β_m > 0: inverse temperature of averaging over entries; None: that of the config. Needs
    ``retrieval="average"``."""
    forgetting: float = 0.0
    """λ ≥ 0: by each entry stored later, an entry's weight falls by the factor e^−λ. Needs
    ``retrieval="average"``."""
    encoding_probability: float = 1.0
    """p_e, 0 ... 1: each episode is encoded with this probability. If it was not, its context is not recognised
    when it returns: nothing is retrieved on those trials. (Its entry still competes with others in theirs.)"""
    context_weight: float = 0.5
    """w, 0 ... 1: weight of the context against the observation in the key; .5 leaves the key as it is. Needs
    ``context_columns``, and a key that has both."""
    context_columns: tuple[int, int] | None = None
    """(start, stop): the input columns that show the context; not a parameter, but a fact of the task."""

    def __post_init__(self) -> None:
        limits = {
            "inverse_temperature": (0.0, np.inf, False),
            "lapse": (0.0, 1.0, True),
            "perseveration": (-np.inf, np.inf, False),
            "gate_bias": (-np.inf, np.inf, False),
            "sharpness": (0.0, np.inf, False),
            "forgetting": (0.0, np.inf, True),
            "encoding_probability": (0.0, 1.0, True),
            "context_weight": (0.0, 1.0, True),
        }
        for name, (least, most, closed) in limits.items():
            value = getattr(self, name)
            if name == "sharpness" and value is None:
                continue
            inside = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            inside = inside and bool(np.isfinite(value)) and least <= value <= most
            if not inside or (not closed and value in (least, most)):
                edges = f"[{least:g}, {most:g}]" if closed else f"({least:g}, {most:g})"
                raise ValueError(f"Person: {name} must be a finite number in {edges}; got {value!r}.")
            object.__setattr__(self, name, float(value))

    @property
    def changed(self) -> tuple[str, ...]:
        """The parameters in which this person differs from the trained agent."""
        facts = ("context_columns",)
        return tuple(f.name for f in fields(self) if f.name not in facts and getattr(self, f.name) != f.default)

    def check(self, config: ModelConfig) -> None:
        """Raise ValueError if a parameter has no place in a model of this configuration."""
        of_memory = ("gate_bias", "sharpness", "forgetting", "encoding_probability", "context_weight")
        homeless = [name for name in of_memory if name in self.changed]
        if config.memory_capacity == 0 and homeless:
            raise ValueError(f"Person: {homeless} need a memory; the model has memory_capacity=0.")
        if config.reinstatement == "input" and "gate_bias" in self.changed:
            raise ValueError(
                f"Person: gate_bias={self.gate_bias} needs a reinstatement gate; the model has "
                "reinstatement='input'. Leave gate_bias at 0, or make one with ModelConfig(reinstatement='gate')."
            )
        homeless = [name for name in ("sharpness", "forgetting") if name in self.changed]
        if config.retrieval != "average" and homeless:
            raise ValueError(
                f"Person: {homeless} need a model that averages over entries; this one has "
                f"retrieval={config.retrieval!r}. Make it with ModelConfig(retrieval='average')."
            )
        self.key_scale(config)

    def check_training(self, name: str) -> None:
        """Raise ValueError if this is not the trained agent itself; ``name`` is that of the model."""
        if self.changed:
            raise ValueError(
                f"{name} stands for a person who differs from the trained agent in {', '.join(self.changed)}. "
                "Networks are trained once, people are fitted: set .person = Person() to train the network."
            )

    def check_loop(self, name: str) -> None:
        """Raise ValueError if this is not the trained agent itself, where the environment is in the loop."""
        if self.changed:
            raise ValueError(
                f"{name} stands for a person who differs from the trained agent in {', '.join(self.changed)}: "
                "with the environment in the loop, only the agent itself is run. Set .person = Person()."
            )

    @property
    def scales_key(self) -> bool:
        """Whether the key of this person is not that of the trained agent."""
        return self.context_weight != 0.5

    def key_scale(self, config: ModelConfig) -> np.ndarray:
        """s_w, (K,): by what each column of the key is multiplied. ValueError if the key has not both parts."""
        scale = np.ones(config.key_size)
        if not self.scales_key:
            return scale
        key = range(config.input_size)[config.key_columns]
        context = range(0) if self.context_columns is None else range(*self.context_columns)
        shows_context = np.array([column in context for column in key])
        if shows_context.all() or not shows_context.any():
            raise ValueError(
                f"Person: context_weight={self.context_weight} weighs the context's columns of the key against "
                f"the others, but context_columns={self.context_columns} are all of the key's columns "
                f"{key.start}:{key.stop}, or none. Use the whole input as key, and context_columns within it."
            )
        return np.where(shows_context, 2 * self.context_weight, 2 * (1 - self.context_weight))


def returning(trials: Trials) -> np.ndarray:
    """Which episode a trial returns to: (n,) int, the first trial that showed its context and stored, or -1.

    Raises:
        ValueError: the trials do not say which context they show, or one that returns to an episode stores again
            (what it stores would depend on whether the episode was encoded, and all later trials with it).
    """
    if trials.context is None:
        raise ValueError(
            "encoding_probability: the trials must say which context they show; make Trials with context=..."
        )
    first: dict[object, int] = {}
    episode = np.full(len(trials), -1)
    stores = np.any(trials.encode, axis=1)
    for n, context in enumerate(trials.context.tolist()):
        episode[n] = first.get(context, -1)
        if stores[n]:
            if episode[n] >= 0:
                raise ValueError(
                    f"encoding_probability: trial {n} stores an entry, and returns to the episode of trial "
                    f"{episode[n]}. Let contexts be stored once only, or leave encoding_probability at 1."
                )
            first[context] = n
    return episode


def with_lost_episodes(trials: Trials, encoded: np.ndarray) -> Trials:
    """The trials as somebody sees them who has encoded only some of the episodes.

    Args:
        trials: of one block.
        encoded: (n,) bool: whether the episode of trial n was encoded; of trials that store nothing, not used.

    Returns:
        Trials that retrieve nothing where they return to an episode that was not encoded.

    Raises:
        ValueError: ``encoded`` has another shape or type; or see ``returning``.
    """
    encoded = np.asarray(encoded)
    if encoded.shape != (len(trials),) or encoded.dtype != bool:
        raise ValueError(
            f"encoded must be booleans of the shape (n,) = {(len(trials),)}, one a trial; got {encoded.dtype} of "
            f"the shape {encoded.shape}."
        )
    episode = returning(trials)
    recalled = (episode < 0) | encoded[episode]
    return replace(trials, retrieve=trials.retrieve & recalled[:, None])
