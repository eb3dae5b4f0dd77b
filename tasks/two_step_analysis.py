"""Stay probabilities in the episodic two-step task: the signatures of model-based and model-free choice.

A choice *stays* if it repeats the first-stage action of a reference trial. How often it does, by the reference
trial's reward and transition, tells how it was made (Daw et al., 2011). A model-free agent stays after reward. A
model-based agent stays after a reward that followed a common transition or a missed one that followed a rare
transition: an interaction. Ritter et al. (2018) ask this of three kinds of trials:

    condition            choices of       reference trial
    incremental-uncued   uncued trials    the trial before
    incremental-cued     cued trials      the trial before
    episodic             cued trials      the trial that the cue brings back

The coefficients are those of a linear regression, in units of probability: stay on reward, transition and their
product, each coded −½ and ½. The coefficient of the product is the *model-based index*: the difference of
differences, (P(stay | rewarded, common) − P(stay | rewarded, rare)) − (the same unrewarded). Intervals are
cluster-robust over episodes (with the factor n/(n − 1) for n episodes), because the trials of one episode are not
independent.

A warning about this design (Akam et al., 2015). A good state that lasts makes an unrewarded common transition, or
a rewarded rare one, a sign that the choice was wrong; an agent that has learnt the right choice by whatever means
then stays less. So model-free learners show a share of interaction too. The regression therefore has, as Akam et
al. propose, the predictor ``correct``: whether the reference choice was the action that commonly leads to the
state that was good then. ``correct=False`` leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

CONDITIONS = ("incremental-uncued", "incremental-cued", "episodic")


def stay_trials(record: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row for each choice and reference trial.

    Args:
        record: facts of whole episodes, (episodes, M, T) each, as ``play`` returns them: ``first_action``,
            ``common``, ``outcome``, ``cued``, ``old_trial``, ``good_state``.

    Returns:
        ``condition``, ``episode`` (counted over worlds too), ``trial``, ``stay``, and of the reference trial
        ``reward``, ``common``, ``correct``.

    Raises:
        ValueError: the record lacks one of these, or the shapes differ.
    """
    names = ("first_action", "common", "outcome", "cued", "old_trial", "good_state")
    missing = [name for name in names if name not in record]
    if missing:
        raise ValueError(f"stay_trials: the record lacks {', '.join(missing)}; it needs the facts of TwoStep.")
    arrays = [np.asarray(record[name]) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 3 or array.shape != arrays[0].shape or array.shape[-1] % 2:
            raise ValueError(
                f"stay_trials: {name} must have the shape (episodes, M, T) with two steps a trial, the same for "
                f"all; got {array.shape}."
            )
    # Both steps of a trial tell the same facts of it.
    action, common, reward, cued, old, good = (a[..., ::2].reshape(-1, a.shape[-1] // 2) for a in arrays)
    episode, trial = np.indices(action.shape)
    parts = []
    for condition, chosen, reference in (
        (CONDITIONS[0], ~cued.astype(bool), trial - 1),
        (CONDITIONS[1], cued.astype(bool), trial - 1),
        (CONDITIONS[2], cued.astype(bool), old),
    ):
        now = chosen & (reference >= 0)
        at = episode[now], reference[now]
        parts.append(
            pd.DataFrame(
                {
                    "condition": condition,
                    "episode": episode[now],
                    "trial": trial[now],
                    "stay": (action[now] == action[at]).astype(int),
                    "reward": reward[at].astype(int),
                    "common": common[at].astype(bool),
                    "correct": action[at] == good[at],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def stay_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Stay probability by condition, reward and transition.

    Args:
        trials: as ``stay_trials`` gives them.

    Returns:
        Indexed by ``condition``, ``reward``, ``common``: ``stay``, its cluster-robust standard error ``se``
        (NaN with one episode), and ``n``, the number of trials. A cell without trials has no row.
    """
    rows = {}
    for key, cell in trials.groupby(["condition", "reward", "common"]):
        beta, covariance = _least_squares(
            np.ones((len(cell), 1)), cell["stay"].to_numpy(float), cell["episode"].to_numpy()
        )
        rows[key] = {"stay": beta[0], "se": np.sqrt(covariance[0, 0]), "n": len(cell)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["condition", "reward", "common"])
    return table.reindex(CONDITIONS, level="condition")


def stay_effects(trials: pd.DataFrame, *, correct: bool = True, level: float = 0.95) -> pd.DataFrame:
    """Effects of reward, transition and their interaction (the model-based index) on staying.

    Args:
        trials: as ``stay_trials`` gives them.
        correct: whether ``correct`` is a predictor too (see above).
        level: of the confidence intervals (t distribution, episodes − 1 degrees of freedom).

    Returns:
        Indexed by ``condition`` and ``effect`` (``reward``, ``transition``, ``interaction`` and ``correct``):
        ``estimate`` in units of probability, ``se``, ``low``, ``high``.

    Raises:
        ValueError: a condition has fewer than two episodes, or an effect cannot be told from the others.
    """
    if not 0 < level < 1:
        raise ValueError(f"stay_effects: level must lie between 0 and 1; got {level!r}.")
    names = ["reward", "transition", "interaction"] + ["correct"] * correct
    parts = []
    for condition, rows in trials.groupby("condition"):
        reward, common = rows["reward"].to_numpy() - 0.5, rows["common"].to_numpy() - 0.5
        columns = [np.ones(len(rows)), reward, common, reward * common]
        # Coded ±½, a product is ±¼: the coefficient is the difference of differences as it stands.
        if correct:
            columns.append(rows["correct"].to_numpy() - 0.5)
        design, episode = np.stack(columns, axis=1), rows["episode"].to_numpy()
        n = len(np.unique(episode))
        if n < 2:
            raise ValueError(f"stay_effects: intervals need at least two episodes; {condition} has {n}.")
        if np.linalg.matrix_rank(design) < design.shape[1]:
            raise ValueError(
                f"stay_effects: the {len(rows)} trials of {condition} do not tell the effects apart (some "
                "combination of reward and transition never occurs); record more episodes."
            )
        beta, covariance = _least_squares(design, rows["stay"].to_numpy(float), episode)
        se = np.sqrt(np.diag(covariance))[1:]
        half = stats.t.ppf(0.5 + level / 2, n - 1) * se
        parts.append(
            pd.DataFrame(
                {
                    "condition": condition,
                    "effect": names,
                    "estimate": beta[1:],
                    "se": se,
                    "low": beta[1:] - half,
                    "high": beta[1:] + half,
                }
            )
        )
    present = set(trials["condition"])
    effects = pd.concat(parts).set_index(["condition", "effect"])
    return effects.reindex([c for c in CONDITIONS if c in present], level="condition")


def _least_squares(x: np.ndarray, y: np.ndarray, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and their cluster-robust covariance: (X'X)⁻¹ (Σ_c s_c s_c') (X'X)⁻¹ · n/(n − 1)."""
    bread = np.linalg.inv(x.T @ x)
    beta = bread @ (x.T @ y)
    names, which = np.unique(cluster, return_inverse=True)
    n = len(names)
    if n < 2:
        return beta, np.full((len(beta), len(beta)), np.nan)
    scores = np.zeros((n, x.shape[1]))
    np.add.at(scores, which, x * (y - x @ beta)[:, None])
    return beta, bread @ (scores.T @ scores) @ bread * n / (n - 1)
