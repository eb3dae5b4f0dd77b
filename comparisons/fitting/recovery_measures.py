"""What came back of what was simulated: parameters, models, and the calibration of posteriors.

Sources: Wilson & Collins (2019), recovery of parameters, confusion and inversion matrices; Wilson (1927),
intervals of shares; Talts, Betancourt, Simpson, Vehtari & Gelman (2018), simulation-based calibration;
Säilynoja, Bürkner & Vehtari (2022), simultaneous bands for the distribution of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom, binomtest, chisquare, pearsonr, spearmanr

from .results import Fit

Truth = np.ndarray | pd.DataFrame
"""Natural values that were simulated: (P, k) in the order of the fit's participants and parameters; or a table
with the participants' ids as index and parameters as columns, of which those that were fitted are taken."""


# ---- parameters --------------------------------------------------------------------------------------


def recovery_pairs(true: Truth, fit: Fit, level: float = 0.95) -> pd.DataFrame:
    """Each participant's simulated and estimated values.

    Args:
        true: natural values (see ``Truth``). Where a participant could not be fitted, only a table can be
        matched. fit: the estimates. level: of the intervals.

    Returns:
        A row for each participant and parameter: participant, parameter, true, estimate, lower, upper (natural),
        true_z, estimate_z, covered (1., 0., NaN without interval), converged.

    Raises:
        ValueError: the values do not match the fit, or lie outside their ranges.
    """
    values = _matched(true, fit)
    true_z = fit.space.unconstrained_array(values)
    if not np.isfinite(true_z).all():
        p, k = np.argwhere(~np.isfinite(true_z))[0]
        raise ValueError(
            f"Recovery: true values must lie inside their ranges; {fit.space.names[k]} of participant "
            f"'{fit.ids[p]}' is {values[p, k]}."
        )
    lower, upper = fit.interval(level)
    covered = np.where(np.isfinite(lower + upper), (lower <= values) & (values <= upper), np.nan)
    columns = {"true": values, "estimate": fit.natural, "lower": lower, "upper": upper}
    columns |= {"true_z": true_z, "estimate_z": fit.z, "covered": covered}
    k = len(fit.space)
    return pd.DataFrame(
        {"participant": np.repeat(np.array(fit.ids, object), k), "parameter": list(fit.space.names) * len(fit)}
        | {name: array.ravel() for name, array in columns.items()}
        | {"converged": np.repeat(fit.converged, k)}
    )


def recovery_table(true: Truth, fit: Fit, level: float = 0.95) -> pd.DataFrame:
    """How well parameters came back, on natural values and on z.

    Args:
        true: natural values (see ``Truth``).
        fit: the estimates.
        level: of the intervals of estimates; all other intervals are of 95 %.

    Returns:
        A row for each parameter and scale (natural, z): n, r (Pearson) with r_low and r_high (by Fisher's z; of
        three people −1 and 1), spearman, bias (estimate − true) with bias_se, rmse, coverage (share of intervals
        that hold the truth) with coverage_low and coverage_high (Wilson), intervals (how many there were),
        converged (share). Correlations are NaN of fewer than three people, or of values that do not vary.
    """
    return measures_of_pairs(recovery_pairs(true, fit, level))


def recovery_across(replicates: Sequence[tuple[Truth, Fit]], level: float = 0.95) -> pd.DataFrame:
    """The same of several simulated groups: all people together, and how much r differs between groups.

    Args:
        replicates: (true, fit) of each.
        level: as ``recovery_table``.

    Returns:
        As ``recovery_table``, and replicates (how many), r_mean and r_sd (of the groups' own r).

    Raises:
        ValueError: as ``recovery_pairs``; no replicate; or other parameters in one than in another.
    """
    if not replicates:
        raise ValueError("recovery_across: needs at least one replicate; got none.")
    names = {fit.space.names for _, fit in replicates}
    if len(names) > 1:
        raise ValueError(f"recovery_across: replicates must have the same parameters; got {sorted(names)}.")
    pairs = [recovery_pairs(true, fit, level) for true, fit in replicates]
    own = pd.DataFrame([measures_of_pairs(part)["r"] for part in pairs])  # whose mean and sd leave out what is NaN
    spread = {"replicates": len(replicates), "r_mean": own.mean().to_numpy(), "r_sd": own.std().to_numpy()}
    return measures_of_pairs(pd.concat(pairs, ignore_index=True)).assign(**spread)


def _matched(true: Truth, fit: Fit) -> np.ndarray:
    """Natural values in the order of the fit, (P, k)."""
    if isinstance(true, pd.DataFrame):
        missing = [one for one in fit.ids if one not in true.index]
        missing += [name for name in fit.space.names if name not in true.columns]
        if missing:
            raise ValueError(f"Recovery: there are no true values of {', '.join(map(repr, missing))}.")
        true = true.loc[list(fit.ids), list(fit.space.names)].to_numpy()
    values = np.array(true, dtype=float)  # a copy: values of a table cannot be written, which torch warns of
    if values.shape != (len(fit), len(fit.space)):
        remedy = " Give a table with the ids as index, as some could not be fitted." if fit.failures else ""
        raise ValueError(
            f"Recovery: true values must be (P, k) = {(len(fit), len(fit.space))} as the fit; got {values.shape}."
            f"{remedy}"
        )
    return values


def measures_of_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """``recovery_table`` of the rows of ``recovery_pairs``, such as those of several groups."""
    rows = []
    for parameter, own in pairs.groupby("parameter", sort=False):
        covered = own["covered"].dropna()
        low = high = np.nan
        if len(covered):
            low, high = binomtest(int(covered.sum()), len(covered)).proportion_ci(0.95, method="wilson")
        for scale, suffix in (("natural", ""), ("z", "_z")):
            true, estimate = own[f"true{suffix}"].to_numpy(), own[f"estimate{suffix}"].to_numpy()
            error = estimate - true
            rows.append(
                {
                    "parameter": parameter,
                    "scale": scale,
                    "n": len(own),
                    **_correlations(true, estimate),
                    "bias": error.mean(),
                    "bias_se": error.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan,
                    "rmse": np.sqrt((error**2).mean()),
                    "coverage": covered.mean() if len(covered) else np.nan,
                    "coverage_low": low,
                    "coverage_high": high,
                    "intervals": len(covered),
                    "converged": own["converged"].mean(),
                }
            )
    return pd.DataFrame(rows)


def _correlations(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Pearson's r with its interval, and Spearman's; NaN where ``recovery_table`` says."""
    if len(x) < 3 or not np.isfinite(x + y).all() or not (_varies(x) and _varies(y)):
        return dict.fromkeys(("r", "r_low", "r_high", "spearman"), np.nan)
    pearson: Any = pearsonr(x, y)
    spearman: Any = spearmanr(x, y)
    low, high = pearson.confidence_interval(0.95)
    return {"r": pearson.statistic, "r_low": low, "r_high": high, "spearman": spearman.statistic}


def _varies(x: np.ndarray) -> bool:
    """Whether values differ by more than rounding."""
    return bool(np.linalg.norm(x - x.mean()) > 1e-12 * np.linalg.norm(x))


# ---- models ------------------------------------------------------------------------------------------


def confusion_matrix(
    simulated: Sequence[str], best: Sequence[str], models: Sequence[str] | None = None
) -> pd.DataFrame:
    """How often data of one model (rows) were best explained by another (columns): counts, (M, M).

    Args:
        simulated: of each data set (a person or a group), the model that it is from.
        best: of each, the model that explained it best.
        models: all, in their order; by default in the order in which they occur.

    Raises:
        ValueError: lengths differ, there are no data, or a model is not in ``models``.
    """
    if len(simulated) != len(best) or not len(best):
        raise ValueError(
            "confusion_matrix: needs simulated and best of the same data sets; got "
            f"{len(simulated)} and {len(best)} of them."
        )
    order = list(dict.fromkeys([*simulated, *best] if models is None else models))
    unknown = sorted({*simulated, *best} - set(order))
    if unknown:
        raise ValueError(f"confusion_matrix: {unknown} are not among the models {order}.")
    rows, columns = pd.Series(simulated, name="simulated"), pd.Series(best, name="best")
    return pd.crosstab(rows, columns).reindex(index=order, columns=order, fill_value=0)


def inversion_matrix(counts: pd.DataFrame, prior: Sequence[float] | None = None) -> pd.DataFrame:
    """p(simulated | best): how far the winner of a comparison can be trusted (Wilson & Collins, 2019, box 5).

    Args:
        counts: (M, M), from ``confusion_matrix``.
        prior: (M,) probability of each model before; equal by default.

    Returns:
        Rows: simulated, columns: best. Columns sum to 1; NaN columns of models that never were the best.

    Raises:
        ValueError: a model was not simulated, or the prior does not fit.
    """
    size = len(counts)
    before = np.full(size, 1 / size) if prior is None else np.asarray(prior, dtype=float)
    if before.shape != (size,) or not (before >= 0).all() or not before.sum() > 0:
        raise ValueError(f"inversion_matrix: the prior must be {size} numbers ≥ 0, not all 0; got {prior!r}.")
    silent = list(counts.index[counts.sum(axis=1) == 0])
    if silent:
        raise ValueError(
            f"inversion_matrix: no data were simulated from {silent}; simulate them, or leave them out."
        )
    joint = counts.div(counts.sum(axis=1), axis=0).mul(before, axis=0)
    return joint.div(joint.sum(axis=0), axis=1)


# ---- simulation-based calibration --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the truth among posterior draws: uniform if posteriors are what they claim to be.

    That holds if the truth is drawn from the prior that was fitted with; a group that is estimated from the same
    people gives ranks that are a little too central.
    """

    names: tuple[str, ...]
    """Parameters, (k,)."""
    ranks: np.ndarray
    """(N, k) int: 0 ... draws; -1 where there was no posterior."""
    draws: int
    """S: draws among which the truth was ranked."""

    def of(self, parameter: str) -> np.ndarray:
        """Ranks of one parameter, (n,), without those that are missing."""
        ranks = self.ranks[:, self.names.index(parameter)]
        return ranks[ranks >= 0]

    def table(self) -> pd.DataFrame:
        """Whether ranks are uniform.

        Returns:
            A row a parameter: n, missing, mean_rank (over draws: .5 is expected; above, estimates are too low),
            bins, chi2, chi2_p, ecdf_difference (largest, absolute), ecdf_p, ecdf_inside (whether the
            distribution of ranks lies within the band). NaN of the tests with fewer than 10 ranks.
        """
        return pd.DataFrame([self._row(name) for name in self.names])

    def ecdf(self, parameter: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Shares of ranks: points z_i (I,) in (0, 1), share below − z_i (I,), lower and upper edge of its band."""
        below, n, z = self._below(parameter)
        share = below / n if n else np.full(len(z), np.nan)
        lower, upper = ecdf_band(n, z)
        return z, share - z, lower - z, upper - z

    def _below(self, parameter: str) -> tuple[np.ndarray, int, np.ndarray]:
        """How many ranks are below each point (I,), of how many, and the points as shares (I,)."""
        ranks, points = self.of(parameter), np.arange(1, self.draws + 1)
        if self.draws > 100:  # a hundred are enough; without the last, where the share is 1
            points = np.unique(np.linspace(1, self.draws, 100).round().astype(int))
        return (ranks[:, None] < points).sum(0), len(ranks), points / (self.draws + 1)

    def _row(self, name: str) -> dict[str, object]:
        below, n, z = self._below(name)
        ranks = self.of(name)
        row: dict[str, object] = {"parameter": name, "n": n, "missing": len(self.ranks) - n}
        row["mean_rank"] = ranks.mean() / self.draws if n else np.nan
        tests = ("bins", "chi2", "chi2_p", "ecdf_difference", "ecdf_p", "ecdf_inside")
        if n < 10:
            return row | dict.fromkeys(tests, np.nan)
        counts, expected = rank_histogram(ranks, self.draws)
        test = chisquare(counts, expected)
        _, difference, lower, upper = self.ecdf(name)
        inside = bool(((lower <= difference) & (difference <= upper)).all())
        minima, smallest = _smallest_tails(n, tuple(z)), _tails(n, z)[below, np.arange(len(z))].min()
        p = (1 + (minima <= smallest).sum()) / (1 + len(minima))
        found = (len(counts), test.statistic, test.pvalue, np.abs(difference).max(), p, inside)
        return row | dict(zip(tests, found, strict=True))


def calibrate(replicates: Sequence[tuple[Truth, Fit]], draws: int = 99, seed: int = 0) -> Calibration:
    """Rank the truth of all people of several fits among draws from their posteriors.

    Args:
        replicates: (true, fit) of each, as in ``recovery_across``; the truth was drawn from the prior.
        draws: S.
        seed: of the draws.

    Raises:
        ValueError: as ``recovery_pairs``; no replicate; or parameters that differ.
    """
    names = {fit.space.names for _, fit in replicates}
    if len(names) != 1:
        raise ValueError(f"calibrate: needs fits with the same parameters; got {sorted(names)}.")
    rng = np.random.default_rng(seed)
    ranks = []
    for values, fit in replicates:
        true, samples = fit.space.unconstrained_array(_matched(values, fit)), fit.draws(draws, rng)
        known = np.isfinite(samples).all(0) & np.isfinite(true)
        ranks.append(np.where(known, (samples < true).sum(0), -1))
    return Calibration(names.pop(), np.concatenate(ranks), draws)


def rank_histogram(ranks: np.ndarray, draws: int, bins: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Counts of ranks 0 ... draws in bins, and what is expected in each: (B,) and (B,).

    By default at most 20 bins, and so that 5 ranks are expected in each.
    """
    bins = max(2, min(20, len(ranks) // 5)) if bins is None else bins
    edges = np.linspace(0, draws + 1, min(bins, draws + 1) + 1).round().astype(int)
    counts = np.histogram(ranks, edges - 0.5)[0]
    return counts, len(ranks) * np.diff(edges) / (draws + 1)


def ecdf_band(n: int, points: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Edges between which the share of n uniform values up to each point lies, at all points at once.

    Binomial intervals at each point, made wider so that all hold together: Säilynoja et al. (2022), algorithm 1.

    Args:
        n: how many values.
        points: z_i (I,), ascending, within (0, 1).
        level: probability that the share lies within the edges at all points.

    Returns:
        (I,) and (I,), shares.
    """
    gamma = np.quantile(_smallest_tails(n, tuple(points)), 1 - level)
    lower, upper = binom.ppf(gamma / 2, n, points), binom.ppf(1 - gamma / 2, n, points)
    return lower / max(n, 1), upper / max(n, 1)


@lru_cache(maxsize=16)
def _smallest_tails(n: int, points: tuple[float, ...]) -> np.ndarray:
    """Of 10,000 simulations of n uniform values each, the smallest two-sided tail probability over the points."""
    z = np.array(points)
    cells = np.diff(np.concatenate([[0.0], z, [1.0]]))
    below = np.random.default_rng(0).multinomial(n, cells, 10_000)[:, :-1].cumsum(1)
    return _tails(n, z)[below, np.arange(len(z))].min(1)


def _tails(n: int, z: np.ndarray) -> np.ndarray:
    """2 min(p(X ≤ x), p(X ≥ x)) of X ~ Binomial(n, z_i): (n + 1, I)."""
    x = np.arange(n + 1)[:, None]
    return 2 * np.minimum(binom.cdf(x, n, z), binom.sf(x - 1, n, z))
