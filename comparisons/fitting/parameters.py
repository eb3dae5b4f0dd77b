"""The parameters of a person as objects: meaning, range, transform to the real line, and prior.

Everything that estimates works on z, the unconstrained values; everything that shows results on natural values. A
prior is a normal distribution of z, so that groups of people are normal in z.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ...models.person import PARAMETERS, Transform


@dataclass(frozen=True)
class FreeParameter:
    """A parameter that is estimated.

    Raises:
        ValueError: prior or range do not make sense.
    """

    name: str
    """As in ``Person``, or in the observation model."""
    meaning: str
    """In a sentence."""
    symbol: str
    """As in the equations of ``models/person.py``."""
    transform: Transform
    """z → natural value: ``identity``: z; ``log``: lower + e^z; ``logit``: lower + (upper − lower) σ(z)."""
    prior_mean: float
    """Of z."""
    prior_sd: float
    """Of z."""
    lower: float = -np.inf
    """Least natural value (never reached by ``log`` and ``logit``)."""
    upper: float = np.inf
    """Greatest natural value."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.prior_mean) and np.isfinite(self.prior_sd) and self.prior_sd > 0):
            raise ValueError(
                f"Parameter {self.name!r}: the prior needs a finite mean and a standard deviation > 0; got "
                f"{self.prior_mean!r} and {self.prior_sd!r}."
            )
        finite = {"identity": 0, "log": 1, "logit": 2}
        if self.transform not in finite:
            raise ValueError(
                f"Parameter {self.name!r}: transform must be one of {[*finite]}; got {self.transform!r}."
            )
        needed = [self.lower, self.upper][: finite[self.transform]]
        if not np.isfinite(needed).all() or self.lower >= self.upper:
            raise ValueError(
                f"Parameter {self.name!r}: the transform {self.transform!r} needs {finite[self.transform]} finite "
                f"bounds, the lower below the upper; got {self.lower!r} and {self.upper!r}."
            )

    def natural(self, z: Tensor) -> Tensor:
        """From z to the natural value; increasing and differentiable."""
        if self.transform == "identity":
            return z
        if self.transform == "log":
            return self.lower + torch.exp(z)
        return self.lower + (self.upper - self.lower) * torch.sigmoid(z)

    def natural_array(self, z: np.ndarray) -> np.ndarray:
        """``natural`` of an array."""
        return self.natural(torch.tensor(np.asarray(z, dtype=float))).numpy()

    def unconstrained(self, value: Tensor) -> Tensor:
        """The inverse of ``natural``; infinite or NaN outside the range."""
        if self.transform == "identity":
            return value
        if self.transform == "log":
            return torch.log(value - self.lower)
        return torch.logit((value - self.lower) / (self.upper - self.lower))


PERSON_PARAMETERS: dict[str, FreeParameter] = {
    name: FreeParameter(name, p.meaning, p.symbol, p.transform, *p.prior, p.lower, p.upper)
    for name, p in PARAMETERS.items()
}
"""Those of ``Person``, as they are declared there."""

HAZARD_PARAMETERS: dict[str, FreeParameter] = {
    p.name: p
    for p in (
        FreeParameter(
            "bound",
            "Confidence (the largest choice probability) at which a response is as likely as not at a step.",
            "θ", "logit", 0.0, 1.0, 0.5, 1.2,
        ),
        FreeParameter(
            "bound_noise",
            "Spread of that bound: small, and the response comes at the first step that reaches it.",
            "s", "log", -2.5, 0.7, lower=0.0,
        ),
        FreeParameter(
            "non_decision_time",
            "Steps between decision and response; a fraction divides between the two nearest whole numbers.",
            "t_0", "log", -0.5, 0.7, lower=0.0,
        ),
    )
}  # fmt: skip
"""Those of one free response a trial, beside the others."""

BASELINE_PARAMETERS: dict[str, FreeParameter] = {
    p.name: p
    for p in (
        FreeParameter("response_bias", "Leaning towards action 1, whatever is shown.", "b", "identity", 0.0, 1.0),
        FreeParameter(
            "evidence_weight",
            "How much the evidence summed so far on the trial counts.",
            "w_e", "log", -2.0, 1.5, lower=0.0,
        ),
    )
}  # fmt: skip
"""Those of the baselines, which have no network."""

KNOWN = PERSON_PARAMETERS | HAZARD_PARAMETERS | BASELINE_PARAMETERS


@dataclass(frozen=True)
class ParameterSpace:
    """Which parameters are estimated, and what the others are.

    Raises:
        ValueError: an unknown name, a name twice, nothing to estimate, or a fixed value outside its range.
    """

    free: tuple[FreeParameter, ...]
    """Estimated, in this order."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Held at these natural values; whatever is in neither has the neutral value of ``Person``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "free", tuple(self.free))
        object.__setattr__(self, "fixed", {name: float(value) for name, value in dict(self.fixed).items()})
        names = [*self.names, *self.fixed]
        check_known(names)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Parameters: {twice} stand twice; a parameter is free or fixed, once.")
        for name, value in self.fixed.items():
            if not np.isfinite(value) or not KNOWN[name].lower <= value <= KNOWN[name].upper:
                raise ValueError(
                    f"Parameters: {name} must lie between {KNOWN[name].lower:g} and {KNOWN[name].upper:g}; it is "
                    f"fixed at {value!r}."
                )

    @classmethod
    def of(
        cls, *names: str, fixed: Mapping[str, float] | None = None, **priors: tuple[float, float]
    ) -> ParameterSpace:
        """The parameters of these names, with their usual priors.

        Args:
            names: of ``KNOWN``.
            fixed: natural values of others.
            priors: name=(mean, sd) of z, where another prior than the usual one is wanted.

        Raises:
            ValueError: an unknown name.
        """
        check_known([*names, *priors])
        prior = {name: dict(zip(("prior_mean", "prior_sd"), own, strict=True)) for name, own in priors.items()}
        return cls(tuple(replace(KNOWN[name], **prior.get(name, {})) for name in names), fixed or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Of the free parameters."""
        return tuple(p.name for p in self.free)

    def __len__(self) -> int:
        return len(self.free)

    @property
    def prior_mean(self) -> np.ndarray:
        """(k,), of z."""
        return np.array([p.prior_mean for p in self.free])

    @property
    def prior_sd(self) -> np.ndarray:
        """(k,), of z."""
        return np.array([p.prior_sd for p in self.free])

    def natural(self, z: Tensor) -> dict[str, Tensor]:
        """z (..., k) → natural values of the free parameters, by name, each (...)."""
        return {p.name: p.natural(z[..., k]) for k, p in enumerate(self.free)}

    def natural_array(self, z: np.ndarray) -> np.ndarray:
        """z (..., k) → natural values (..., k)."""
        each = [p.natural_array(np.asarray(z)[..., k]) for k, p in enumerate(self.free)]
        return np.stack(each, axis=-1) if each else np.empty(np.shape(z))

    def unconstrained_array(self, values: np.ndarray) -> np.ndarray:
        """Natural values (..., k) → z (..., k)."""
        values = np.array(values, dtype=float)  # a copy: torch warns of arrays that cannot be written
        each = [p.unconstrained(torch.as_tensor(values[..., k])).numpy() for k, p in enumerate(self.free)]
        return np.stack(each, axis=-1) if each else values

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """z of n people drawn from the prior: (n, k)."""
        return self.prior_mean + self.prior_sd * rng.standard_normal((n, len(self)))


def check_known(names: Iterable[str]) -> None:
    """Raise ValueError if one of the names is not in ``KNOWN``."""
    unknown = sorted(set(names) - set(KNOWN))
    if unknown:
        raise ValueError(f"Parameters: {unknown} are not known; known are {sorted(KNOWN)}.")


def log_normal(z: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Log density of independent normal distributions, summed over the last axis."""
    return (-0.5 * ((z - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)).sum(-1)


def parameter_table(parameters: Iterable[FreeParameter] | None = None) -> str:
    """The parameters as a table in Markdown."""
    lines = ["| parameter | symbol | range | prior: median (95 %) | meaning |", "|---|---|---|---|---|"]
    for p in KNOWN.values() if parameters is None else parameters:
        z = torch.tensor([-1.96, 0.0, 1.96], dtype=torch.float64) * p.prior_sd + p.prior_mean
        low, mid, high = p.natural(z).tolist()
        edges = (
            f"{'−∞' if p.lower == -np.inf else f'{p.lower:g}'} … {'∞' if p.upper == np.inf else f'{p.upper:g}'}"
        )
        lines.append(f"| `{p.name}` | {p.symbol} | {edges} | {mid:.2f} ({low:.2f} … {high:.2f}) | {p.meaning} |")
    return "\n".join(lines)
