"""People side by side: who chooses in each environment, and what the engine needs to know of them, a value a row.

``person.py`` says what may differ between people, and where it stands in the equations. A network is trained for
people by training it under the parameters that they may have: one person an environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from .choices import Choices, Choosing
from .config import ModelConfig
from .match import Retrieval
from .person import PARAMETERS, Average, Chances, Drive, Person, ReadOut


def as_people(people: Any, environments: int, config: ModelConfig) -> tuple[Person, ...]:
    """One person for each environment.

    Args:
        people: a list of them; a ``Person`` alone for one environment; or None: the trained agent in all.
        environments: how many there are.
        config: the model's.

    Raises:
        TypeError: there is something else among them.
        ValueError: their number is another, or a parameter has no place in this model.
    """
    if people is None:
        return (Person(),) * environments
    each = (people,) if isinstance(people, Person) else tuple(people)
    for e, person in enumerate(each):
        if not isinstance(person, Person):
            raise TypeError(f"people[{e}] must be a Person; got {type(person).__name__}.")
    if len(each) != environments:
        raise ValueError(
            f"people must be one for each of {environments} environments; got {len(each)}. For the same one in "
            f"all of them: people=[person] * {environments}."
        )
    for e, person in enumerate(each):
        try:
            person.check(config)
        except ValueError as error:
            raise ValueError(f"people[{e}]: {error}") from error
    return each


class People:
    """The people of P agents in B rows side by side, as the engine takes them.

    Args:
        persons: of each agent those of its rows, (P, B); or one of all its rows, (P, 1).
        config: the model's; each person has been checked against it.
    """

    def __init__(self, persons: Sequence[Sequence[Person]], config: ModelConfig) -> None:
        self.persons, self.config = persons, config

    @cached_property
    def _changed(self) -> dict[str, np.ndarray]:
        """The parameters in which anybody differs from the trained agent, (P, B); None: that of the config."""
        changed = {name for person in {p for row in self.persons for p in row} for name in person.changed}
        return {
            n: np.array([[getattr(p, n) for p in row] for row in self.persons]) for n in PARAMETERS if n in changed
        }

    def _values(self, *kinds: type) -> dict[str, np.ndarray]:
        """Those of some kinds of places."""
        return {name: v for name, v in self._changed.items() if isinstance(PARAMETERS[name].place, kinds)}

    @cached_property
    def drive(self) -> dict[str, np.ndarray]:
        """What is added to the drive of gates, by the gate's name: (P, 1, B)."""
        return {PARAMETERS[name].place.gate: v[:, None] for name, v in self._values(Drive).items()}  # type: ignore

    @cached_property
    def key_scale(self) -> np.ndarray | None:
        """By what each column of the key is multiplied, (P, B, 1, K); None: 1."""
        if "context_weight" not in self._changed:
            return None
        scales = [[person.key_scale(self.config) for person in row] for row in self.persons]
        return np.array(scales)[:, :, None]

    def retrieval(self, settings: Retrieval) -> Retrieval:
        """How each row retrieves, where the trained agent does so by these settings."""
        found: dict[str, Any] = {}
        for name, values in self._values(Average).items():
            own = np.array([getattr(settings, name) if v is None else v for v in values.ravel()], dtype=float)
            found[name] = float(own[0]) if len(own) == 1 else own[:, None, None]
        return replace(settings, **found)

    def choosing(self, choices: Choices) -> Choosing | None:
        """How they choose in rows that are about to be run; None: as the trained agent does.

        ``choices``: what they have chosen so far.
        """
        values = self._values(ReadOut, Chances)
        return Choosing({name: v[:, None] for name, v in values.items()}, choices) if values else None
