"""``write_trials``: participants as a table that ``read_trials`` reads back to the same."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....tasks.files import written_whole
from ....tasks.trials import Trials
from .data import ObservedBlock, Participant, check_id
from .files import CSV, check_suffix
from .schema import LABELS


def write_trials(
    path: str | os.PathLike[str],
    participants: Iterable[Participant],
    stimuli: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write choices, response times and stimuli, so that ``read_trials`` gives the same.

    (But for contexts that are text and yet all whole numbers: these are read back as whole numbers.)

    Args:
        path: a .csv or .parquet file.
        participants: whose choices; such as a ``TrialTable``.
        stimuli: an .npz file for the stimuli; the table then has a row for each choice or response time. None:
            the stimuli are columns of the table, which has a row for each step.
        overwrite: replace files that are there.

    Raises:
        DataError: the name of the table ends in something else.
        FileExistsError: a file is there, and ``overwrite`` is False.
        ImportError: Parquet, and pyarrow is not installed.
        ValueError: two participants have the same id, trials differ in their sizes, or the label of a trial is not
            one that a table can hold.
    """
    participants = tuple(participants)
    path, beside = Path(path), None if stimuli is None else Path(stimuli)
    _check_participants(participants)
    _check_paths(path, beside, overwrite)
    frames = [_frame(p.id, block, beside is None) for p in participants for block in p.blocks]
    frame = pd.concat(frames, ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if beside is not None:
        frame = frame.loc[frame["choice"].notna() | frame["rt"].notna(), :]
        beside.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(beside) as new:
            np.savez_compressed(new, **_arrays(participants))  # type: ignore[arg-type]
    empty = [name for name in ("rt", *LABELS) if frame[name].count() == 0]
    frame = frame.drop(columns=empty)
    with written_whole(path) as new:
        if path.suffix.lower() in CSV:
            frame.to_csv(new, index=False, encoding="utf-8")
        else:
            frame.to_parquet(new, index=False, engine="pyarrow")


def _check_participants(participants: tuple[Participant, ...]) -> None:
    if not participants:
        raise ValueError("write_trials: needs at least one participant; got none.")
    ids = [participant.id for participant in participants]
    twice = [one for one, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"write_trials: ids must differ; {twice[0]!r} is there twice.")
    blocks = [(p.id, block) for p in participants for block in p.blocks]
    sizes = [block.trials.inputs.shape[1:] for _, block in blocks]
    for (one, block), size in zip(blocks, sizes, strict=True):
        where = f"write_trials: participant '{one}', block {block.number}"
        if size != sizes[0]:
            raise ValueError(
                f"{where}: trials of one table must have equally many steps and columns; got (T, D) = {size} "
                f"after {sizes[0]}. Write several tables."
            )
        if block.trials.rewards is not None or not block.trials.asks.all():
            raise ValueError(
                f"{where}: tables hold neither rewards of actions, nor trials of unequal length, nor steps that "
                "ask for no answer (targets of -1). Keep the trials as arrays, np.savez(...)."
            )
        _check_labels(where, block.trials)


def _check_labels(where: str, trials: Trials) -> None:
    for context in [] if trials.context is None else trials.context.tolist():
        if isinstance(context, str):
            check_id(f"{where}: context", context)
        elif not isinstance(context, int) or isinstance(context, bool):
            raise ValueError(f"{where}: contexts must be whole numbers or text; got {context!r}.")
    encounter = trials.encounter
    if encounter is not None and (encounter.dtype.kind not in "iu" or (encounter < 1).any()):
        raise ValueError(f"{where}: encounters must be whole numbers ≥ 1; got {encounter.tolist()}.")
    if trials.noise_off is not None and trials.noise_off < 0:
        raise ValueError(f"{where}: noise_off must be a whole number ≥ 0; got {trials.noise_off}.")


def _check_paths(path: Path, beside: Path | None, overwrite: bool) -> None:
    check_suffix(path)
    if beside is not None and beside.suffix != ".npz":
        raise ValueError(f"write_trials: stimuli must be an .npz file; got {beside}.")
    for file in (path, beside):
        if file is not None and file.exists() and not overwrite:
            raise FileExistsError(f"{file} exists: choose another name, or replace it (overwrite=True).")


def _frame(one: str, block: ObservedBlock, with_stimuli: bool) -> pd.DataFrame:
    """All steps of a block as rows."""
    trials = block.trials
    n, steps = trials.targets.shape
    columns: dict[str, Any] = {
        "participant": [one] * (n * steps),
        "block": block.number,
        "trial": np.repeat(block.trial_numbers, steps),
        "step": np.tile(np.arange(steps), n),
        # Int64 has missing values, and writes the others without a point.
        "choice": pd.array(block.choices.ravel(), dtype="Int64"),
        "rt": block.rt.ravel(),
    }
    columns["choice"][~block.observed.ravel()] = pd.NA
    for name, (values, _) in _labels(trials).items():
        columns[name] = [value for value in values for _ in range(steps)]
    if with_stimuli:
        columns["target"] = trials.targets.ravel()
        columns["encode"] = trials.encode.ravel().astype(int)
        columns["retrieve"] = trials.retrieve.ravel().astype(int)
        columns |= {f"x{d}": trials.inputs[..., d].ravel() for d in range(trials.input_size)}
    return pd.DataFrame(columns).astype({name: dtype for name, (_, dtype) in _labels(trials).items()})


def _labels(trials: Trials) -> dict[str, tuple[list[Any], str]]:
    """For each label, n values (None for none) and the type of its column."""
    context = [None] * len(trials) if trials.context is None else [str(one) for one in trials.context.tolist()]
    encounter = [None] * len(trials) if trials.encounter is None else trials.encounter.tolist()
    return {
        "context": (context, "object"),
        "encounter": (encounter, "Int64"),
        "noise_off": ([trials.noise_off] * len(trials), "Int64"),
    }


def _arrays(participants: tuple[Participant, ...]) -> dict[str, np.ndarray]:
    """The stimuli as ``schema.ARRAYS`` has them."""
    blocks = [(p.id, block) for p in participants for block in p.blocks]
    arrays = {
        "participant": np.array([one for one, block in blocks for _ in range(len(block.trials))]),
        "block": np.concatenate([np.full(len(block.trials), block.number) for _, block in blocks]),
        "trial": np.concatenate([block.trial_numbers for _, block in blocks]),
    }
    for name in ("inputs", "targets", "encode", "retrieve"):
        arrays[name] = np.concatenate([getattr(block.trials, name) for _, block in blocks])
    for name, none in (("context", ""), ("encounter", -1), ("noise_off", -1)):
        values = [value for _, block in blocks for value in _labels(block.trials)[name][0]]
        if any(value is not None for value in values):
            arrays[name] = np.array([none if value is None else value for value in values])
    return arrays
