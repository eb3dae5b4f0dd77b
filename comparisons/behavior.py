"""What an agent does: accuracy, learning, gates, memory contents and lesions, from trials and their records.

Nothing here draws or trains. Standard errors are over trials, or over agents when several records are given;
with fewer than two of either they are NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import sem

from ..models import TrialRecord
from ..models.config import Kernel, ModelConfig
from ..models.kernels import kernel as similarities
from ..tasks import Trials
from ..tasks.trials import concatenate
from .runs import Model

INTACT, RETRIEVAL_OFF, ENCODING_OFF = "intact", "retrieval off", "encoding off"


@dataclass(frozen=True)
class Course:
    """Means and standard errors by encounter (E of them) and step (T), perhaps by gate too."""

    encounters: tuple[int, ...]
    mean: np.ndarray
    """(E, T) or (E, T, 4)"""
    se: np.ndarray
    """As the mean: standard errors over trials or agents; NaN where there are fewer than two."""
    n: tuple[int, ...]
    """(E,): trials or agents behind each mean."""
    over: str
    """``trials`` or ``agents``: what the standard errors are over."""


@dataclass(frozen=True)
class LearningCurve:
    """Return a trial, block by block (B of them)."""

    mean: np.ndarray
    """(B,): rewards a trial."""
    se: np.ndarray
    """(B,): over the trials of the block."""
    encounters: tuple[int, ...]
    by_encounter: np.ndarray
    """(E, B): rewards a trial on each encounter."""


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of n values of H units, the first k of them."""

    scores: np.ndarray
    """(n, k): the values, centred, on the components."""
    components: np.ndarray
    """(k, H): orthonormal; of each, the largest entry is positive."""
    variance_explained: np.ndarray
    """(k,): share of the total variance, 0 ... 1."""


def mean_and_error(samples: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error along an axis, of samples that are not NaN; NaN errors of fewer than two."""
    count = samples.shape[axis]
    if count == 0:
        nothing = np.full(np.delete(samples.shape, axis), np.nan)
        return nothing, nothing
    there = ~np.isnan(samples)
    if not there.all():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of places with too few
            return np.nanmean(samples, axis), np.nanstd(samples, axis, ddof=1) / np.sqrt(there.sum(axis))
    mean = samples.mean(axis)
    return mean, sem(samples, axis) if count > 1 else np.full_like(mean, np.nan, dtype=float)


def encounters_of(trials: Trials) -> np.ndarray:
    """(n,): which encounter each trial is; where the trials do not say, all are the first."""
    return np.ones(len(trials), int) if trials.encounter is None else trials.encounter


def accuracy_by_step(trials: Trials | Sequence[Trials], records: TrialRecord | Sequence[TrialRecord]) -> Course:
    """Share of right choices by encounter and step, (E, T), among the steps at which an answer is asked for.

    Args:
        trials: n trials; one ``Trials`` for each record, if they differ.
        records: one agent's record, or one record an agent.

    Raises:
        ValueError: a record is not of the trials it comes with.
    """
    pairs = _paired(trials, records)
    return _course(pairs, [shown.right(record.action) for shown, record in pairs])


def gate_course(trials: Trials | Sequence[Trials], records: TrialRecord | Sequence[TrialRecord]) -> Course:
    """Openness of the gates f, i, o, r, averaged over units, by encounter and step, (E, T, 4)."""
    pairs = _paired(trials, records)
    return _course(pairs, [record.gates.mean(-1) for _, record in pairs])


def learning_curve(reward: np.ndarray, encounter: np.ndarray) -> LearningCurve:
    """Rewards a trial by block.

    Args:
        reward: (B, n, T), of B blocks of n trials.
        encounter: (B, n): which encounter each trial is.
    """
    returns = reward.sum(-1)
    mean, error = mean_and_error(returns, axis=1)
    encounters = tuple(int(e) for e in np.unique(encounter))
    blocks = list(zip(returns, encounter, strict=True))
    by_encounter = np.array([[mean_and_error(own[shown == e])[0] for own, shown in blocks] for e in encounters])
    return LearningCurve(mean, error, encounters, by_encounter.reshape(len(encounters), len(returns)))


def similarity_matrix(rows: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Similarity of each row to each under a model's kernel: rows (n, K) → (n, n).

    ``l2``, ``l1``: negative distance, 0 for equals; ``cosine``: −1 ... 1, 0 with a row of zeros.
    """
    given = torch.from_numpy(np.asarray(rows, dtype=float))
    return similarities(kernel).similarity(given, given).numpy()


def principal_components(values: np.ndarray, n_components: int = 2) -> PrincipalComponents:
    """The leading principal components of values (n, H), by a singular value decomposition.

    Raises:
        ValueError: there are fewer than two values, or more components are asked for than there can be.
    """
    n, size = values.shape
    if n < 2:
        raise ValueError(f"principal_components: needs two values or more; the memory holds {n}.")
    if not 1 <= n_components <= min(n, size):
        raise ValueError(
            f"principal_components: n_components must lie between 1 and {min(n, size)} for {n} values of "
            f"{size} units; got {n_components!r}."
        )
    centred = values - values.mean(0)
    left, singular, components = np.linalg.svd(centred, full_matrices=False)
    sign = np.sign(components[np.arange(len(components)), np.abs(components).argmax(1)])
    total = np.square(singular).sum()
    share = np.square(singular) / total if total > 0 else np.zeros_like(singular)
    scores = left * singular * sign
    return PrincipalComponents(
        scores[:, :n_components], (components * sign[:, None])[:n_components], share[:n_components]
    )


def stored_answers(trials: Trials, keys: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The rewarded action at the step where each stored entry was encoded, found by its key.

    Args:
        trials: the block during which the entries were stored.
        keys: (n, K), as ``model.memory()`` gives them; of equal keys, the last step encoded counts.
        config: the model's, for the key columns.

    Returns:
        (n,) int.

    Raises:
        ValueError: the trials encode nothing, or a key is not among those they encode.
    """
    encoded = trials.inputs[trials.encode][::-1, config.key_columns]
    answers = trials.targets[trials.encode][::-1]
    found = np.empty(len(keys), np.int64)
    for entry, key in enumerate(keys):
        match = np.flatnonzero(np.isclose(encoded, key, rtol=1e-5, atol=1e-6).all(1))
        if not len(match):
            raise ValueError(
                f"stored_answers: entry {entry} of the memory was not encoded during these trials; give the "
                "trials of the block since the memory was last cleared."
            )
        found[entry] = answers[match[0]]
    return found


# ---- running a trained model -------------------------------------------------------------------------


@contextmanager
def memory_kept(model: Model) -> Iterator[None]:
    """Whatever is done to the memory inside, it is afterwards as it was before."""
    before = [model.memory(environment=e) for e in range(model.environments)]
    try:
        yield
    finally:
        for environment, entries in enumerate(before):
            model.set_memory(*entries, environment=environment)


def run_blocks(
    model: Model, blocks: Sequence[Trials], seed: int, *, retrieve: bool = True, encode: bool = True
) -> TrialRecord:
    """Run blocks without learning, each from an empty memory; the model's memory is left as found.

    Args:
        model: a trained model.
        blocks: the trials, block by block.
        seed: for choices and initial states: the same for every call with the same seed.
        retrieve: False switches retrieval off at every step.
        encode: False switches encoding off at every step.

    Returns:
        One record of the trials of all blocks, in order.
    """
    records = []
    with memory_kept(model):
        for index, block in enumerate(blocks):
            model.clear_memory()
            luck = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0])
            records.append(model.run_trials(block.lesioned(retrieve=retrieve, encode=encode), seed=luck))
    return TrialRecord.concatenate(records)


def lesions(model: Model, blocks: Sequence[Trials], seed: int = 0) -> dict[str, Course]:
    """Accuracy of a trained model as it is, with retrieval off, and with encoding off.

    Every condition sees the same blocks with the same draws, and starts each from an empty memory. Nothing
    can then be retrieved when nothing is encoded, so that the two lesions must agree to the last choice.
    """
    conditions = {
        INTACT: run_blocks(model, blocks, seed),
        RETRIEVAL_OFF: run_blocks(model, blocks, seed, retrieve=False),
        ENCODING_OFF: run_blocks(model, blocks, seed, encode=False),
    }
    shown = concatenate(list(blocks))
    return {name: accuracy_by_step(shown, record) for name, record in conditions.items()}


# ---- shared parts ------------------------------------------------------------------------------------


def _paired(
    trials: Trials | Sequence[Trials], records: TrialRecord | Sequence[TrialRecord]
) -> list[tuple[Trials, TrialRecord]]:
    """Each record with its trials."""
    records = [records] if isinstance(records, TrialRecord) else list(records)
    shown = [trials] * len(records) if isinstance(trials, Trials) else list(trials)
    if not records:
        raise ValueError("Behaviour needs at least one record; got none.")
    if len(shown) != len(records):
        raise ValueError(f"{len(records)} records came with {len(shown)} Trials: give one for each, or one.")
    for block, record in zip(shown, records, strict=True):
        if record.action.shape != block.targets.shape:
            raise ValueError(
                f"A record of {record.action.shape} (trials, steps) does not belong to trials of "
                f"{block.targets.shape}: give the trials that it was made from."
            )
    return list(zip(shown, records, strict=True))


def _course(pairs: list[tuple[Trials, TrialRecord]], measures: list[np.ndarray]) -> Course:
    """Mean and error of measures (n, T, ...), one an agent, by encounter and step."""
    encounters = tuple(int(e) for e in np.unique(np.concatenate([encounters_of(t) for t, _ in pairs])))
    means, errors, counts = [], [], []
    for encounter in encounters:
        chosen = [m[encounters_of(t) == encounter] for (t, _), m in zip(pairs, measures, strict=True)]
        if len(pairs) == 1:
            samples = chosen[0]
        else:
            samples = np.array([mean_and_error(m)[0] for m in chosen if len(m)])
        mean, error = mean_and_error(samples)
        means.append(mean)
        errors.append(error)
        counts.append(len(samples))
    over = "trials" if len(pairs) == 1 else "agents"
    shape = (len(encounters), *measures[0].shape[1:])
    return Course(encounters, np.array(means).reshape(shape), np.array(errors).reshape(shape), tuple(counts), over)
