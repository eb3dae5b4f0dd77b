"""A person: what may differ between people who share one trained network, each declared once, with its place.

    key(x_t)   s_w ∘ x_t: context columns times 2w, the others times 2 (1 − w)        context_weight w
    retrieve   Σ_k w_k value_k, w_k ∝ exp(β_m · similarity_k − λ · lag_k)             sharpness β_m, forgetting λ
    r_t        σ(... + b_r)                                                           gate_bias b_r
    m_t        0 on the later trials of a context whose episode was not encoded       encoding_probability p_e
    π_t        softmax(β (W_π h_t + b_π) + κ · [a = last choice])     inverse_temperature β, perseveration κ
    p_t        (1 − ε) π_t + ε / A: the probabilities of the choices                  lapse ε

``lag_k`` counts the entries that were stored after entry k: 0 for the newest. The last choice is the latest one
of the same block, whether on this trial or on an earlier one; before the first there is none. The network's
weights are trained once and are those of everybody; it can be trained under parameters that people may have, a
person for each environment (``train(..., people=[...])``).

An episode that is not encoded leaves its entry, as any does, which counts in lags and may be met by way of other
contexts; but it is not recognised: where its context returns, nothing is retrieved. With trials that are given, a
context may be stored once. With the environment in the loop, where it may be stored each time it is shown, the
latest episode that has stored there decides. A block is what one call runs; in the loop, it ends with the epoch,
too.

The fields of ``Person`` are the one declaration of each parameter, which engine, likelihood, Parameters of the
composition, command line and documentation read by ``PARAMETERS``. A parameter that acts on a gate's drive or on
the read-out is added here, in the graph (``graph.py``), and in the reference.

Sources: inverse temperature, lapse and perseveration as in Wilson & Collins (2019); recency-weighted memory as in
Bornstein et al. (2017). The gate's bias, the key's weight and all-or-none encoding are this package's own. The
priors are weakly informative, this package's own: for agents that remember, with the sizes of
``ContextualChoice`` and the kernel l2 (sharpness is per unit of distance; contexts are some 8 apart).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from ..tasks.trials import Trials
from .config import ModelConfig

Transform = Literal["identity", "log", "logit"]


# ---- places in the equations -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drive:
    """Added to the drive of a gate, in all its units."""

    gate: str


@dataclass(frozen=True)
class ReadOut:
    """Changes the read-out: (logits, value, [a = last choice]) → logits."""

    act: Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Chances:
    """Changes the probabilities of the choices: (p, value, A) → p."""

    act: Callable[[Any, Any, int], Any]


@dataclass(frozen=True)
class Average:
    """Weighs the entries that are averaged."""


@dataclass(frozen=True)
class Key:
    """Scales the columns of the key."""


@dataclass(frozen=True)
class Episodes:
    """Decides which episodes are encoded."""


Place = Drive | ReadOut | Chances | Average | Key | Episodes


@dataclass(frozen=True)
class PersonParameter:
    """What there is to know of one parameter."""

    name: str
    symbol: str
    meaning: str
    """In a sentence."""
    neutral: float | None
    """Its value for the trained agent itself; None: that of the config."""
    lower: float
    upper: float
    closed: bool
    """Whether the range includes its (finite) ends."""
    transform: Transform
    """From the real line: ``identity``: z; ``log``: lower + e^z; ``logit``: lower + (upper − lower) σ(z)."""
    prior: tuple[float, float]
    """Mean and standard deviation of z."""
    place: Place


def _parameter(
    neutral: float | None,
    symbol: str,
    meaning: str,
    limits: tuple[float, float],
    transform: Transform,
    prior: tuple[float, float],
    place: Place,
    closed: bool = False,
) -> Any:
    declared = {"symbol": symbol, "meaning": meaning, "limits": limits, "closed": closed}
    return field(default=neutral, metadata=declared | {"transform": transform, "prior": prior, "place": place})


@dataclass(frozen=True)
class Person:
    """What is particular to one person; by default a person chooses as the trained agent does.

    Raises:
        ValueError: a value is outside its range.
    """

    inverse_temperature: float = _parameter(
        1.0, "β", "How strictly choices follow the read-out: 1 as the trained network, below 1 more at random.",
        (0.0, np.inf), "log", (-1.0, 0.75), ReadOut(lambda logits, beta, repeats: beta * logits),
    )  # fmt: skip
    lapse: float = _parameter(
        0.0, "ε",
        "Share of choices made at random, whatever the evidence. Trades off with the inverse temperature.",
        (0.0, 1.0), "logit", (-3.0, 0.7),
        Chances(lambda p, epsilon, actions: (1 - epsilon) * p + epsilon / actions), closed=True,
    )  # fmt: skip
    perseveration: float = _parameter(
        0.0, "κ", "Pull towards the choice made last; below 0 away from it.",
        (-np.inf, np.inf), "identity", (0.0, 1.0),
        ReadOut(lambda logits, kappa, repeats: logits + kappa * repeats),
    )  # fmt: skip
    gate_bias: float = _parameter(
        0.0, "b_r",
        "How far the reinstatement gate opens beyond what was trained: below 0, memory counts for less.",
        (-np.inf, np.inf), "identity", (0.0, 2.0), Drive("reinstatement"),
    )  # fmt: skip
    sharpness: float | None = _parameter(
        None, "β_m", "How much better a matching entry is retrieved than others; small: a blur of all entries.",
        (0.0, np.inf), "log", (-0.7, 0.7), Average(),
    )  # fmt: skip
    forgetting: float = _parameter(
        0.0, "λ", "By how much the weight of an entry falls with each entry stored later.",
        (0.0, np.inf), "log", (-1.5, 1.0), Average(), closed=True,
    )  # fmt: skip
    encoding_probability: float = _parameter(
        1.0, "p_e", "Share of episodes that were encoded, and so are recognised when their context returns.",
        (0.0, 1.0), "logit", (1.0, 1.2), Episodes(), closed=True,
    )  # fmt: skip
    context_weight: float = _parameter(
        0.5, "w", "Weight of the context against the observation in the key; .5 leaves the key as it is.",
        (0.0, 1.0), "logit", (0.0, 1.5), Key(), closed=True,
    )  # fmt: skip
    context_columns: tuple[int, int] | None = None
    """(start, stop): the input columns that show the context; not a parameter, but a fact of the task."""

    def __post_init__(self) -> None:
        for name, parameter in PARAMETERS.items():
            value: Any = getattr(self, name)
            if value is None and parameter.neutral is None:
                continue
            least, most = parameter.lower, parameter.upper
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            inside = number and bool(np.isfinite(value) and least <= value <= most)  # type: ignore
            if not inside or (not parameter.closed and value in (least, most)):
                edges = f"[{least:g}, {most:g}]" if parameter.closed else f"({least:g}, {most:g})"
                raise ValueError(f"Person: {name} must be a finite number in {edges}; got {value!r}.")
            object.__setattr__(self, name, float(value))  # type: ignore
        if self.context_columns is not None:
            object.__setattr__(self, "context_columns", tuple(self.context_columns))

    @property
    def changed(self) -> tuple[str, ...]:
        """The parameters in which this person differs from the trained agent."""
        return tuple(name for name, p in PARAMETERS.items() if getattr(self, name) != p.neutral)

    def values(self, kind: type) -> dict[str, float]:
        """The parameters of one kind of place in which this person differs from the trained agent."""
        return {name: getattr(self, name) for name in self.changed if isinstance(PARAMETERS[name].place, kind)}

    def check(self, config: ModelConfig) -> None:
        """Raise ValueError if a parameter has no place in a model of this configuration."""
        places = {name: PARAMETERS[name].place for name in self.changed}
        of_gate = [name for name, place in places.items() if place == Drive("reinstatement")]
        homeless = [n for n, p in places.items() if n in of_gate or isinstance(p, (Average, Key, Episodes))]
        if config.memory_capacity == 0 and homeless:
            raise ValueError(f"Person: {homeless} need a memory; the model has memory_capacity=0.")
        if config.reinstatement == "input" and of_gate:
            name = of_gate[0]
            raise ValueError(
                f"Person: {name}={getattr(self, name)} needs a reinstatement gate; the model has "
                f"reinstatement='input'. Leave {name} at 0, or make one with ModelConfig(reinstatement='gate')."
            )
        homeless = [name for name, place in places.items() if isinstance(place, Average)]
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
                "Networks are trained once, people are fitted: set .person = Person() to train the network, and "
                "give people=[...] to train it under parameters that people may have."
            )

    def key_scale(self, config: ModelConfig) -> np.ndarray:
        """s_w, (K,): by what each column of the key is multiplied. ValueError if the key has not both parts."""
        if self.context_weight == 0.5:
            return np.ones(config.key_size)
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


def _declared(f: Any) -> PersonParameter:
    m = f.metadata
    lower, upper = m["limits"]
    return PersonParameter(
        f.name,
        m["symbol"],
        m["meaning"],
        f.default,
        lower,
        upper,
        m["closed"],
        m["transform"],
        m["prior"],
        m["place"],
    )


PARAMETERS: dict[str, PersonParameter] = {f.name: _declared(f) for f in fields(Person) if f.metadata}
"""All parameters of a person, by name."""


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
