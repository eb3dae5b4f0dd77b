"""What an estimation gives for each participant: one form, whatever the estimator; on disk and in pieces, too."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from ...tasks.files import write_whole
from ..work.plain_data import DamagedData, from_bytes, to_bytes
from .parameters import FreeParameter, ParameterSpace

FIT_FILE, TABLE_FILE = "fit.npz", "estimates.csv"
FORMAT, VERSION = "eplstm-fit", 1
BY_PERSON = (
    "z",
    "covariance",
    "log_likelihood",
    "log_prior",
    "n_choices",
    "converged",
    "group_mean",
    "sampled_log_evidence",
)
"""Fields with an item for each participant."""


@dataclass(eq=False)
class Fit:
    """Estimates of P participants' k parameters, in z (unconstrained) unless it says otherwise."""

    model: str
    """Name of the variant that was fitted."""
    estimator: str
    """``map``, ``empirical_bayes`` or ``bayes``."""
    space: ParameterSpace
    ids: tuple[str, ...]
    """The participants'."""
    z: np.ndarray
    """(P, k): modes (``map``, ``empirical_bayes``) or posterior means (``bayes``)."""
    covariance: np.ndarray
    """(P, k, k): of the posterior of z; NaN where it could not be had."""
    log_likelihood: np.ndarray
    """(P,): at z."""
    log_prior: np.ndarray
    """(P,): log density of z under the prior, or under the group."""
    n_choices: np.ndarray
    """(P,) int: scored decisions."""
    converged: np.ndarray
    """(P,) bool."""
    message: tuple[str, ...]
    """(P,): how it ended, in words; '' where all is well."""
    diagnostics: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row a participant: what convergence rests on (gradient norm, restarts that agree, r-hat, ESS, ...)."""
    group_mean: np.ndarray | None = None
    """(P, k): each participant's mean of z under the group, given the covariates; None for ``map``."""
    group_sd: np.ndarray | None = None
    """(k,): spread of z in the group; None for ``map``."""
    group: pd.DataFrame | None = None
    """Group-level estimates: one row for each parameter and covariate, with intervals."""
    samples: np.ndarray | None = None
    """(S, P, k): draws from the posterior, all of the same weight; None: Laplace's approximation alone."""
    sampled_log_evidence: np.ndarray | None = None
    """(P,): by importance sampling; None: Laplace's approximation alone."""
    failures: dict[str, str] = field(default_factory=dict)
    """Participants that could not be fitted at all, and why; they have no rows in the arrays above."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def log_evidence(self) -> np.ndarray:
        """(P,): log p(D) of each: sampled, or Laplace's approximation from z and the covariance.

        That is log p(D|z) + log p(z) + k/2 log 2π + ½ log det Σ; NaN without Σ.
        """
        if self.sampled_log_evidence is not None:
            return self.sampled_log_evidence.copy()
        k = len(self.space)
        if not k:
            return self.log_likelihood.copy()
        known = self._known
        log_det = np.full(len(self), np.nan)
        log_det[known] = np.linalg.slogdet(self.covariance[known])[1]
        return self.log_likelihood + self.log_prior + 0.5 * k * np.log(2 * np.pi) + 0.5 * log_det

    @property
    def natural(self) -> np.ndarray:
        """(P, k): estimates as natural values."""
        return self.space.natural_array(self.z)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the interval of each natural value, (P, k) and (P, k).

        From the draws where there are any, else z ± so many standard deviations, transformed.
        """
        if self.samples is not None:
            tail = 100 * (1 - level) / 2
            ends = np.percentile(self.samples, [tail, 100 - tail], axis=0)
            return self.space.natural_array(ends[0]), self.space.natural_array(ends[1])
        half = norm.ppf(0.5 + level / 2) * np.sqrt(np.einsum("pkk->pk", self.covariance))
        return self.space.natural_array(self.z - half), self.space.natural_array(self.z + half)

    @property
    def _known(self) -> np.ndarray:
        """(P,) bool: who has a covariance that is one."""
        finite = np.asarray(np.isfinite(self.covariance).all((1, 2)))
        eigenvalues = np.linalg.eigvalsh(np.where(finite[:, None, None], self.covariance, 0.0))
        return finite & np.asarray((eigenvalues > 0).all(1))

    def draws(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """z drawn from the posteriors, (n, P, k): of the draws there are, else of N(z, Σ); NaN where Σ is."""
        if self.samples is not None:
            return self.samples[rng.integers(0, len(self.samples), n)]
        normal = rng.standard_normal((n, *self.z.shape))
        roots = np.full(self.covariance.shape, np.nan)
        known = self._known
        roots[known] = np.linalg.cholesky(self.covariance[known])
        return self.z + np.einsum("pij,npj->npi", roots, normal)

    def table(self) -> pd.DataFrame:
        """Tidy: a row for each participant and parameter, with estimate and 95 % interval."""
        lower, upper = self.interval()
        columns = {"estimate": self.natural, "lower": lower, "upper": upper, "z": self.z}
        columns["z_sd"] = np.sqrt(np.einsum("pkk->pk", self.covariance))
        k, of_person = len(self.space), np.array(self.ids, object)
        return pd.DataFrame(
            {"participant": np.repeat(of_person, k), "parameter": list(self.space.names) * len(self)}
            | {name: array.ravel() for name, array in columns.items()}
            | {"converged": np.repeat(self.converged, k)}
        )

    # ---- on disk and in pieces

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain data (see ``plain_data``)."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "space"}
        space = {"free": [asdict(p) for p in self.space.free], "fixed": dict(self.space.fixed)}
        return {"format": FORMAT, "version": VERSION, "space": space, **plain}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Fit:
        """The inverse of ``to_plain``. ValueError if it is not such data."""
        if plain.get("format") != FORMAT or plain.get("version") != VERSION:
            found = f"{plain.get('format')} {plain.get('version')}"
            raise ValueError(f"Fit: needs data of the format {FORMAT} {VERSION}; got {found}.")
        space = ParameterSpace(tuple(FreeParameter(**p) for p in plain["space"]["free"]), plain["space"]["fixed"])
        rest = {name: value for name, value in plain.items() if name not in ("format", "version", "space")}
        rest |= {name: tuple(rest[name]) for name in ("ids", "message")}
        return cls(space=space, **rest)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``fit.npz``, which ``load`` reads, and ``estimates.csv``, which people and other programs read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FIT_FILE, to_bytes(self.to_plain()))
        write_whole(folder / TABLE_FILE, self.table().to_csv(index=False))
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Fit:
        """What ``save`` wrote. FileNotFoundError if there is none, ValueError if it is damaged."""
        path = Path(folder) / FIT_FILE
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}: give the folder of a fit (eplstm fit --out FOLDER).")
        try:
            return cls.from_plain(from_bytes(path.read_bytes()))
        except DamagedData as error:
            raise ValueError(f"{path} cannot be read ({error}); fit again.") from error

    @staticmethod
    def join(fits: Sequence[Fit]) -> Fit:
        """One fit of all participants of several, fitted in pieces.

        Raises:
            ValueError: they are not of one model, share a participant, differ in the number of draws, or have
                groups of their own, which cannot become one.
        """
        if not fits:
            raise ValueError("Fit.join: needs at least one fit; got none.")
        first = fits[0]
        for fit in fits[1:]:
            if (fit.model, fit.estimator, fit.space) != (first.model, first.estimator, first.space):
                raise ValueError(
                    f"Fit.join: {fit.model!r} and {first.model!r} were not fitted with the same parameters."
                )
        if any(fit.group is not None for fit in fits):
            raise ValueError("Fit.join: each of the fits has a group of its own; fit all participants together.")
        ids = tuple(id for fit in fits for id in fit.ids)
        everybody = [*ids, *(id for fit in fits for id in fit.failures)]
        if len(set(everybody)) < len(everybody):
            twice = next(id for id in everybody if everybody.count(id) > 1)
            raise ValueError(f"Fit.join: participant {twice!r} is in several of the fits.")
        joined, kept = {}, [fit for fit in fits if len(fit)] or [first]  # of nobody, there is nothing to join
        for name in BY_PERSON:
            parts = [getattr(fit, name) for fit in kept]
            joined[name] = None if any(part is None for part in parts) else np.concatenate(parts)
        draws = [fit.samples for fit in kept if fit.samples is not None]
        if len({len(own) for own in draws}) > 1:
            raise ValueError(f"Fit.join: the fits have different numbers of draws: {[len(own) for own in draws]}.")
        return replace(
            first,
            ids=ids,
            message=tuple(text for fit in fits for text in fit.message),
            diagnostics=pd.concat([fit.diagnostics for fit in kept], ignore_index=True),
            samples=np.concatenate(draws, axis=1) if draws else None,
            failures={id: why for fit in fits for id, why in fit.failures.items()},
            **joined,
        )


def group_table(
    names: Sequence[str],
    covariates: Sequence[str],
    means: Mapping[str, np.ndarray],
    spreads: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """A group as ``Fit.group`` has it: a row for each of k parameters and q covariates, the intercept first.

    By column, ``means`` are (q, k), of means and effects, and ``spreads`` (k,).
    """
    q, k = len(covariates), len(names)
    table = {"parameter": [name for name in names for _ in range(q)], "covariate": [*covariates] * k}
    table |= {name: values.T.ravel() for name, values in means.items()}
    return pd.DataFrame(table | {name: np.repeat(values, q) for name, values in spreads.items()})


def check_finite(what: str, values: np.ndarray, ids: Sequence[object], models: Sequence[str], remedy: str) -> None:
    """Raise ValueError if one of the values (P, M), of participants under models, is not finite."""
    for p, m in np.argwhere(~np.isfinite(values))[:1]:
        whose = f"that of participant '{ids[p]}' under {models[m]!r}"
        raise ValueError(f"{what} must be finite; {whose} is {values[p, m]}. {remedy}")
