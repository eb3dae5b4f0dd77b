"""Run folders: training that can be interrupted, and goes on exactly from where it was.

A run folder holds

    settings.json          what is run: the job, and its settings
    trained/               the state after a finished step (a block of trials, or a call of ``learn()``), always of
                           one and the same step
        NAME/              each model's checkpoint (see ``models.checkpoint``); several agents are one cohort
        history.npz        NAME.FIELD, (steps, ...): what the job keeps of every step
        last_block.npz     NAME.FIELD, (n, ...): all that the record of the last block holds, if the job keeps it
        progress.json      steps done, seconds of training, and the job's own notes

Whatever is drawn in step k comes from generators of its own, made of the seed and k: a run that was interrupted
and goes on is, to the last bit, the run that was not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..models import EpisodicLSTMComposition, ReferenceEpisodicLSTM, TrialRecord
from ..models.checkpoint import CheckpointError, load_model, save_model
from ..tasks.files import folder_written_whole, recover_folder, remove, write_whole
from .work.folders import SETTINGS_FILE, check_folder, describe_folder

Model = ReferenceEpisodicLSTM | EpisodicLSTMComposition
ModelKind = Literal["composition", "reference"]
Kind = ModelKind | Literal["cohort"]
STATE_FOLDER, PROGRESS_FILE = "trained", "progress.json"
DAMAGED = "Restore the folder, or start the run anew in another one or with --overwrite."


@dataclass
class RunState:
    """What a run has reached: its models and what is known of their training."""

    models: dict[str, Any]
    """By name: a model, or a ``Cohort``."""
    history: dict[str, list[dict[str, np.ndarray]]] = field(default_factory=dict)
    """By model, what the job keeps of each step: arrays by name."""
    last_block: dict[str, TrialRecord] = field(default_factory=dict)
    """By model, the whole record of the last block, without gradients; none of several agents or environments."""
    notes: dict[str, Any] = field(default_factory=dict)
    """The job's own, for JSON."""
    done: int = 0
    """Finished steps."""
    seconds: float = 0.0
    """Of training."""

    def remember(self, name: str, what: dict[str, Any]) -> None:
        """Add what is kept of a model's step."""
        self.history.setdefault(name, []).append({key: np.asarray(value) for key, value in what.items()})

    def stacked(self, name: str, what: str) -> np.ndarray:
        """One field of a model's history: (steps, ...)."""
        return np.array([step[what] for step in self.history[name]])


class RunFolder:
    """A folder that holds one run; opening checks that it may be used, and harms nothing if it may not.

    Args:
        path: made if need be.
        job: what the folder is for, such as ``demo`` or ``train reference``.
        settings: of the run, for JSON.
        length: name of the setting that says how many steps the run has, and may differ from that of the run that
            the folder holds: a longer one goes on. None: there is none.
        outputs: names in the folder that the job writes besides; they go when the run is overwritten.
        overwrite: start anew, in place of a run that is there.

    Raises:
        FileExistsError: the folder holds another run, or files that are no run at all; those are never
            overwritten.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        job: str,
        settings: Mapping[str, Any],
        *,
        length: str | None = None,
        outputs: Iterable[str] = (),
        overwrite: bool = False,
    ) -> None:
        self.path, self.job = Path(path), job
        described = json.loads(json.dumps({"job": job, **settings}))  # as it will be read
        check_folder(self.path, "run", described, free=[length] if length else [], overwrite=overwrite)
        if overwrite:
            recover_folder(self.state_path)
            for name in (SETTINGS_FILE, STATE_FOLDER, *outputs):
                remove(self.path / name)
        elif length and self.done() > settings[length]:
            raise FileExistsError(
                f"{self.path} holds a run of {self.done()} {length}, more than the {settings[length]} asked for. "
                "Choose another folder, ask for more, or overwrite it (--overwrite)."
            )
        describe_folder(self.path, "run", described)

    @property
    def state_path(self) -> Path:
        """Where the state lies."""
        return self.path / STATE_FOLDER

    def done(self) -> int:
        """How many steps are kept."""
        recover_folder(self.state_path)
        return int(self._progress()["done"]) if self.state_path.exists() else 0

    def load(self, kinds: Mapping[str, Kind]) -> RunState | None:
        """The state that is kept, or None.

        Args:
            kinds: name and kind of each model of the job.

        Raises:
            CheckpointError: a file of it is missing or damaged.
        """
        if self.done() == 0:
            return None
        progress, past, last = self._progress(), self._arrays("history.npz"), self._arrays("last_block.npz")
        done = progress["done"]
        if {name for name, _ in past} != set(kinds) or any(len(array) != done for array in past.values()):
            raise CheckpointError(f"{self.state_path}: the kept records are incomplete. {DAMAGED}")
        history = {
            name: [{what: array[k] for (own, what), array in past.items() if own == name} for k in range(done)]
            for name in kinds
        }
        last_block = {
            name: TrialRecord(**{f.name: last.get((name, f.name)) for f in fields(TrialRecord)})  # type: ignore[arg-type]
            for name in {name for name, _ in last}
        }
        models = {name: load_model(self.state_path / name, kind) for name, kind in kinds.items()}
        return RunState(models, history, last_block, progress["notes"], done, progress["seconds"])

    def save(self, state: RunState) -> None:
        """Keep a state in place of the one before; an interruption leaves the one or the other, whole."""
        with folder_written_whole(self.state_path) as new:
            for name, model in state.models.items():
                save_model(model, new / name, notes={"job": self.job, "steps": state.done})
            past = {
                f"{n}.{what}": state.stacked(n, what) for n, kept in state.history.items() for what in kept[-1]
            }
            np.savez_compressed(new / "history.npz", **past)  # type: ignore[arg-type]
            last = {
                f"{name}.{f.name}": getattr(record, f.name)
                for name, record in state.last_block.items()
                for f in fields(TrialRecord)
                if getattr(record, f.name) is not None
            }
            np.savez_compressed(new / "last_block.npz", **last)  # type: ignore[arg-type]
            progress = {"done": state.done, "seconds": state.seconds, "notes": state.notes}
            write_whole(new / PROGRESS_FILE, json.dumps(progress, indent=2, allow_nan=False) + "\n")

    def _progress(self) -> dict[str, Any]:
        try:
            return progress_of(self.path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            path = self.state_path / PROGRESS_FILE
            raise CheckpointError(f"{path} is missing or damaged ({error}). {DAMAGED}") from None

    def _arrays(self, file: str) -> dict[tuple[str, str], np.ndarray]:
        """By model and field."""
        path = self.state_path / file
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return {(key.partition(".")[0], key.partition(".")[2]): array for key, array in arrays.items()}
        except Exception as error:  # numpy and zipfile raise what they like over a damaged file
            raise CheckpointError(f"{path} is missing or damaged ({error}). {DAMAGED}") from None


def progress_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How far the run of a folder is: ``done`` steps, ``seconds`` of training, and the job's ``notes``.

    Raises:
        OSError, ValueError, KeyError, TypeError: it cannot be read, as at the beginning.
    """
    progress = json.loads((Path(path) / STATE_FOLDER / PROGRESS_FILE).read_text(encoding="utf-8"))
    return {
        "done": int(progress["done"]),
        "seconds": float(progress["seconds"]),
        "notes": dict(progress["notes"]),
    }


def go_on(
    folder: RunFolder | None,
    kinds: Mapping[str, Kind],
    begin: Callable[[], RunState],
    step: Callable[[RunState], None],
    finished: Callable[[RunState], bool],
    every: float = 0.0,
) -> RunState:
    """Train step after step from where the folder's run stands, and keep the state.

    Args:
        folder: the run's; None: nothing is kept.
        kinds: name and kind of each model.
        begin: makes the state at the beginning.
        step: trains the models of the state; ``state.done`` is the number of the step, from 0.
        finished: whether it was the last.
        every: seconds of training after which the state is kept; it is at the end, too.
    """
    state = (folder and folder.load(kinds)) or begin()
    go_on_together([state], [folder], lambda: step(state), lambda: finished(state), every)
    return state


def go_on_together(
    states: Sequence[RunState],
    folders: Sequence[RunFolder | None],
    step: Callable[[], object],
    finished: Callable[[], bool],
    every: float = 0.0,
    before_keeping: Callable[[], object] = lambda: None,
) -> None:
    """Train several runs that are equally far, step after step, and keep the state of each in its folder.

    Args:
        states, folders: of the runs.
        step: trains the models of all states; its seconds are shared out among them.
        finished, every: as of ``go_on``.
        before_keeping: called before states are kept.
    """
    kept = last = time.monotonic()
    while not finished():
        step()
        now = time.monotonic()
        for state in states:
            state.done, state.seconds = state.done + 1, state.seconds + (now - last) / len(states)
        last = now
        if now - kept >= every or finished():
            before_keeping()
            for state, folder in zip(states, folders, strict=True):
                if folder is not None:
                    folder.save(state)
            kept = now


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path means: itself, or the only model of a run folder.

    Raises:
        CheckpointError: there is none, or there are several to choose from.
    """
    path = Path(path)
    if (path / "model.json").is_file():
        return path
    found = sorted(p.parent for p in (path / STATE_FOLDER).glob("*/model.json"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(p) for p in found)
        raise CheckpointError(f"{path} holds several models: give one of {names}.")
    raise CheckpointError(f"{path} holds no saved model: give a run folder or a folder written by save_model.")
