"""How well choices are predicted that were left out: single trials (PSIS-LOO), blocks, or people.

Sources: Vehtari, Gelman & Gabry (2017) and Vehtari, Simpson, Gelman, Yao & Gabry (2024), PSIS-LOO and its limit
of k-hat; Cranley & Patterson (1976), quasi-random draws with random shifts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp
from scipy.stats import norm, qmc

from .objective import Objective
from .results import Fit, check_finite
from .table.data import Participant

AT_ONCE = 64
"""Draws of z in one call of an objective."""

# ---- leaving out one trial: PSIS-LOO -----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Loo:
    """How well each unit (a trial) is predicted by the posterior given all others, by importance sampling."""

    ids: tuple[str, ...]
    """The participants', (P,)."""
    units: tuple[pd.DataFrame, ...]
    """Of each participant, a row a unit: elpd and lpd, the log predictive density without and with it (nats), and
    k_hat, the shape of its importance weights' tail; above ``limit`` do not trust elpd."""
    draws: int
    """S"""

    @property
    def limit(self) -> float:
        """The largest k-hat that can be trusted with so many draws: min(1 − 1 / log10 S, .7)."""
        return min(1 - 1 / np.log10(self.draws), 0.7)

    def table(self) -> pd.DataFrame:
        """A row a participant: units, elpd, elpd_se (over units; NaN with one), p_loo (effective number of
        parameters), k_hat (the largest) and k_hat_bad (units above the limit)."""
        return pd.DataFrame(
            {
                "participant": id,
                "units": len(own),
                "elpd": own["elpd"].to_numpy().sum(),
                "elpd_se": _se_of_sum(own["elpd"].to_numpy()),
                "p_loo": (own["lpd"] - own["elpd"]).sum(),
                "k_hat": own["k_hat"].max(),
                "k_hat_bad": int((own["k_hat"] > self.limit).sum()),
            }
            for id, own in zip(self.ids, self.units, strict=True)
        )

    @property
    def scores(self) -> pd.Series:
        """Of each participant, for ``compare_scores``."""
        return self.table().set_index("participant")["elpd"]


def pointwise_draws(objective: Objective, samples: np.ndarray) -> list[np.ndarray]:
    """Log-likelihood of units at posterior draws (S, P, k), such as ``Fit.samples``: (S, units) for each of P."""
    each = [objective.pointwise(torch.as_tensor(z, dtype=torch.float64)) for z in samples]
    return [np.stack([draw[p] for draw in each]) for p in range(len(objective.ids))]


def psis_loo(log_likelihood: Sequence[np.ndarray], ids: Sequence[str]) -> Loo:
    """Leave-one-out prediction from the posterior of all units, by Pareto-smoothed importance sampling.

    What is left out is the score of a trial's choices; the trial is still seen, and still the past of later
    ones. New trials of the same people are predicted; for new people see ``cross_validate``. Needs
    ``eplstm[bayes]``.

    Args:
        log_likelihood: for each of P participants (S, units), at independent draws, as from ``pointwise_draws``.
        ids: the participants'.

    Raises:
        ImportError: arviz is not installed.
        ValueError: shapes do not fit, fewer than 25 draws, or a log-likelihood that is not finite.
    """
    try:
        with warnings.catch_warnings():
            # arviz tells once a day, when it is imported, that it is being rebuilt.
            warnings.simplefilter("ignore", FutureWarning)
            from arviz import psislw
    except ImportError as error:
        raise ImportError("psis_loo needs arviz: pip install 'eplstm[bayes]'.") from error
    people = [np.asarray(own, dtype=float) for own in log_likelihood]
    _check_draws(people, tuple(ids))
    units = []
    for own in people:
        smoothed = [psislw(-own[:, unit], reff=1.0) for unit in range(own.shape[1])]
        weights = np.stack([np.asarray(weight) for weight, _ in smoothed], axis=1)
        elpd, lpd = logsumexp(weights + own, axis=0), logsumexp(own, axis=0) - np.log(len(own))
        units.append(pd.DataFrame({"elpd": elpd, "lpd": lpd, "k_hat": [float(k) for _, k in smoothed]}))
    return Loo(tuple(ids), tuple(units), len(people[0]))


def _check_draws(people: Sequence[np.ndarray], ids: tuple[str, ...]) -> None:
    shapes = [own.shape for own in people]
    alike = len({shape[:1] for shape in shapes}) == 1 and all(
        len(shape) == 2 and 0 not in shape for shape in shapes
    )
    if len(people) != len(ids) or not alike:
        raise ValueError(
            f"psis_loo: needs for each of {len(ids)} participants (S, units), with the same S and at least one "
            f"unit; got {shapes}."
        )
    if len(people[0]) < 25:
        raise ValueError(f"psis_loo: needs at least 25 draws to smooth a tail, better 1000; got {len(people[0])}.")
    for one, own in zip(ids, people, strict=True):
        if not np.isfinite(own).all():
            s, unit = np.argwhere(~np.isfinite(own))[0]
            raise ValueError(
                f"psis_loo: log-likelihoods must be finite; that of participant '{one}', unit {unit}, is "
                f"{own[s, unit]} in draw {s}. A small lapse, fixed={{'lapse': 0.01}}, keeps choices possible."
            )


# ---- leaving out blocks or people: cross-validation --------------------------------------------------


def total_scores(folds: pd.DataFrame) -> pd.Series:
    """Log-likelihood of all that was left out of each participant, of ``cross_validate``, for ``compare_scores``;
    NaN where a fold failed."""
    by_person = folds.groupby("participant", sort=False)["log_likelihood"]
    return pd.Series(by_person.agg(lambda own: own.sum(skipna=False)), name="elpd")


def cross_validate(
    make_objective: Callable[[Sequence[Participant]], Objective],
    participants: Sequence[Participant],
    fit: Callable[[Objective], Fit],
    folds: str | int = "blocks",
    *,
    draws: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Estimate on some of the data, and score the rest.

    ``folds="blocks"`` leaves out one block of each participant at a time: new blocks of the same people. (Trials
    of one block cannot be parted: what is remembered on one was stored on another.) ``folds=k`` leaves out a
    k-th of the participants at a time: new people, of whom the group is known, so that ``fit`` must estimate a
    group.

    Args:
        make_objective: from participants; such as ``lambda people: Likelihood(agent, people, space)``.
        participants: their choices.
        fit: the estimator; such as ``fit_map``, or for participants ``fit_empirical_bayes``.
        folds: ``"blocks"``, or a number from 2 to that of the participants.
        draws: blocks: average the likelihood over so many draws from the posterior of z; by default the estimate
            alone is used. Participants: average over so many draws from the group; by default 1024.
        seed: of folds and draws.
        progress: called with the number of folds done, and of all.

    Returns:
        A row for each participant and fold in which something of theirs was left out: participant, fold,
        n_choices (left out), log_likelihood (of these, nats), standard_error (of its numerical integration; 0 if
        there was none), message ('' where all is well).

    Raises:
        ValueError: a participant has fewer than two blocks with choices, ``folds`` is out of range, or over
            participants the fit has no group, or one that depends on covariates.
    """
    people = list(participants)
    if folds == "blocks":
        jobs = _block_folds(people)
    elif isinstance(folds, int) and not isinstance(folds, bool) and 2 <= folds <= len(people):
        order = np.random.default_rng(seed).permutation(len(people))
        parts = [set(left.tolist()) for left in np.array_split(order, folds)]
        jobs = [
            [[p for k, p in enumerate(people) if (k in left) is out] for out in (False, True)] for left in parts
        ]
    else:
        raise ValueError(
            f"cross_validate: folds must be 'blocks', or a number from 2 to that of the participants "
            f"({len(people)}); got {folds!r}."
        )
    rows = []
    for number, (training, left) in enumerate(jobs):
        estimate, scored = fit(make_objective(training)), make_objective(left)
        if folds == "blocks":
            score, error, message = _score_blocks(estimate, scored, draws, (seed, number))
        else:
            score, error = marginal_likelihood(scored, *_group(estimate), draws=draws or 1024, seed=(seed, number))
            message = np.where(np.isnan(score), "the likelihood is not a number for some people of the group", "")
        columns = {"participant": scored.ids, "fold": number, "n_choices": scored.n_choices}
        columns |= {"log_likelihood": score, "standard_error": error, "message": message}
        rows.append(pd.DataFrame(columns))
        if progress is not None:
            progress(number + 1, len(jobs))
    return pd.concat(rows, ignore_index=True)


def marginal_likelihood(
    objective: Objective,
    mean: np.ndarray,
    sd: np.ndarray,
    *,
    draws: int = 1024,
    seed: int | Sequence[int] = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """log ∫ p(D|z) N(z; mean, sd²) dz of each participant, by averaging over quasi-random draws.

    Args:
        objective: of P participants.
        mean: (k,), of z in the group.
        sd: (k,).
        draws: so many, or up to twice as many: eight copies, shifted at random, of a power of 2 Sobol points.
        seed: of the shifts.

    Returns:
        (P,) in nats, and (P,) its standard error, from the copies' differences; NaN where a log-likelihood is.
    """
    mean, sd = np.asarray(mean, dtype=float), np.asarray(sd, dtype=float)
    if not len(mean):
        return _at(objective, np.empty((1, 0)))[0], np.zeros(len(objective.ids))
    rng, shifts = np.random.default_rng(seed), 8
    grid = qmc.Sobol(len(mean), scramble=False).random_base2(max(0, int(np.ceil(np.log2(draws / shifts)))))
    found = []
    for _ in range(shifts):
        points = (grid + rng.random(len(mean))) % 1
        z = mean + sd * norm.ppf(np.clip(points, 1e-12, 1 - 1e-12))
        found.append(logsumexp(_at(objective, z), axis=0) - np.log(len(z)))
    each = np.stack(found)
    total = logsumexp(each, axis=0) - np.log(shifts)
    # The error of a logarithm is the relative error of its argument.
    relative = np.exp(each - np.where(np.isfinite(total), total, np.nan))
    return total, relative.std(0, ddof=1) / np.sqrt(shifts)


def compare_scores(scores: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Models by how well they predict what was left out.

    Args:
        scores: by model, each participant's log score (``Loo.scores`` or ``total_scores``).

    Returns:
        A row a model, the best first: participants, elpd (sum, nats), difference (to the best, ≤ 0),
        difference_se (over participants, paired; NaN with one), best_in (participants for whom the model is the
        best).

    Raises:
        ValueError: no model, other participants in one than in another, or a score that is not finite.
    """
    if not scores:
        raise ValueError("compare_scores: needs at least one model; got none.")
    ids = list(next(iter(scores.values())).index)
    for name, own in scores.items():
        odd = sorted(map(str, set(own.index) ^ set(ids)))
        if odd or not own.index.is_unique:
            raise ValueError(
                f"compare_scores: {name!r} must have one score of each participant that the first has; got {odd}."
            )
    elpd = np.stack([own.loc[ids].to_numpy(dtype=float) for own in scores.values()])
    names = list(scores)
    check_finite("compare_scores: scores", elpd.T, ids, names, "Leave them out of all models.")
    order = np.argsort(-elpd.sum(1), kind="stable")
    difference = elpd - elpd[order[0]]
    best_in = np.bincount(elpd.argmax(0), minlength=len(names))
    return pd.DataFrame(
        {
            "model": [names[m] for m in order],
            "participants": len(ids),
            "elpd": elpd[order].sum(1),
            "difference": difference[order].sum(1),
            "difference_se": [_se_of_sum(difference[m]) for m in order],
            "best_in": best_in[order],
        }
    )


def _se_of_sum(values: np.ndarray) -> float:
    return float(np.sqrt(len(values)) * values.std(ddof=1)) if len(values) > 1 else np.nan


def _block_folds(people: list[Participant]) -> list[tuple[list[Participant], list[Participant]]]:
    """For each fold all participants without their j-th block, and those j-th blocks (of those who have one)."""
    scored = [[k for k, block in enumerate(person.blocks) if block.observed.any()] for person in people]
    few = [f"'{person.id}'" for person, own in zip(people, scored, strict=True) if len(own) < 2]
    if few or not people:
        raise ValueError(
            "cross_validate: over blocks, each participant needs at least two with choices; there are fewer of "
            f"{', '.join(few) or 'nobody at all'}. Leave out participants instead (folds=5), or use psis_loo."
        )
    folds = []
    for j in range(max(len(own) for own in scored)):
        training, left = [], []
        for person, own in zip(people, scored, strict=True):
            out = own[j] if j < len(own) else None
            training.append(Participant(person.id, tuple(b for k, b in enumerate(person.blocks) if k != out)))
            if out is not None:
                left.append(Participant(person.id, (person.blocks[out],)))
        folds.append((training, left))
    return folds


def _score_blocks(
    estimate: Fit, scored: Objective, draws: int | None, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihood of each participant's left-out block, its numerical error, and messages."""
    failed = np.array([estimate.failures.get(one, "") for one in scored.ids], dtype=object)
    there = [p for p, one in enumerate(scored.ids) if one in estimate.ids]
    rows = [estimate.ids.index(scored.ids[p]) for p in there]
    score, error = np.full((2, len(scored.ids)), np.nan)
    if there:
        z = estimate.z[None] if not draws else estimate.draws(draws, np.random.default_rng(seed))
        with torch.no_grad():
            found = scored.only(there).log_likelihood(torch.as_tensor(z[:, rows])).numpy()
        total = logsumexp(found, axis=0)
        score[there] = total - np.log(len(z))
        error[there] = np.exp(found - total + np.log(draws)).std(0, ddof=1) / np.sqrt(draws) if draws else 0.0
    return score, error, np.where((failed == "") & np.isnan(score), "the likelihood is not a number", failed)


def _group(estimate: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Mean (k,) and spread (k,) of z in the group. ValueError if there is none, or not one for all."""
    if estimate.group_mean is None or estimate.group_sd is None:
        raise ValueError(
            f"cross_validate: over participants, the estimator must estimate a group; {estimate.estimator!r} does "
            "not. Use fit_empirical_bayes."
        )
    if not np.allclose(estimate.group_mean, estimate.group_mean[:1]):
        raise ValueError(
            "cross_validate: over participants, the group must be the same for all; its mean depends on "
            "covariates, which are not known of those left out. Fit without covariates."
        )
    return estimate.group_mean[0], estimate.group_sd


def _at(objective: Objective, z: np.ndarray) -> np.ndarray:
    """Log-likelihood of each participant at each of n points: z (n, k) → (n, P)."""
    found = []
    with torch.no_grad():
        for start in range(0, len(z), AT_ONCE):
            part = torch.as_tensor(z[start : start + AT_ONCE]).unsqueeze(1)
            found.append(objective.log_likelihood(part.repeat(1, len(objective.ids), 1)).numpy())
    return np.concatenate(found)
