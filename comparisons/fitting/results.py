"""What an estimation gives for each participant: one form, whatever the estimator."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from .parameters import ParameterSpace

Z_95 = 1.959963984540054
"""Half the width of a 95 % interval of a normal distribution, in standard deviations."""


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
    """(S, P, k): posterior draws, ``bayes`` only."""
    failures: dict[str, str] = field(default_factory=dict)
    """Participants that could not be fitted at all, and why; they have no rows in the arrays above."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def log_evidence(self) -> np.ndarray:
        """(P,): Laplace's approximation, log p(D|z) + log p(z) + k/2 log 2π + ½ log det Σ; NaN without Σ."""
        k = len(self.space)
        if not k:
            return self.log_likelihood.copy()
        sign, log_det = np.linalg.slogdet(self.covariance)
        log_det = np.where(sign > 0, log_det, np.nan)
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
        from scipy.stats import norm

        half = norm.ppf(0.5 + level / 2) * np.sqrt(np.einsum("pkk->pk", self.covariance))
        return self.space.natural_array(self.z - half), self.space.natural_array(self.z + half)

    def table(self) -> pd.DataFrame:
        """Tidy: a row for each participant and parameter, with estimate and 95 % interval."""
        lower, upper = self.interval()
        natural, sd = self.natural, np.sqrt(np.einsum("pkk->pk", self.covariance))
        rows = [
            {
                "participant": id,
                "parameter": name,
                "estimate": natural[p, k],
                "lower": lower[p, k],
                "upper": upper[p, k],
                "z": self.z[p, k],
                "z_sd": sd[p, k],
                "converged": bool(self.converged[p]),
            }
            for p, id in enumerate(self.ids)
            for k, name in enumerate(self.space.names)
        ]
        columns = ["participant", "parameter", "estimate", "lower", "upper", "z", "z_sd", "converged"]
        return pd.DataFrame(rows, columns=columns)
