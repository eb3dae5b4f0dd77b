"""Run folders: training that shows progress, can be interrupted, and goes on exactly from where it was.

A run folder holds

    settings.json          what is run: the job, and its settings
    trained/               the state after the last finished block, always of one and the same block
        NAME/              each model's checkpoint (see ``models.checkpoint``); several agents are one cohort
        history.npz        NAME.FIELD, (blocks, n, ...): choices, rewards, policies, values and losses; of several
                           agents or environments the fields of ``SUMMARY``, (blocks, agents, ...)
        last_block.npz     NAME.FIELD, (n, ...): all that the record of the last block holds; of one agent in one
                           environment only
        progress.json      blocks done, and the job's own notes

Whatever is drawn in block k comes from a generator of its own, made of the seed and k: a run that was
interrupted and goes on is, to the last bit, the run that was not.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psyneulink as pnl

from ..models import Cohort, EpisodicLSTMComposition, ModelConfig, ReferenceEpisodicLSTM, TrialRecord, train
from ..models.checkpoint import CheckpointError, load_model, save_model
from ..models.cohort import CHUNK
from ..tasks.trials import concatenate
from .behavior import Course, accuracy_by_step, encounters_of
from .settings import FRESH, Block, RunSettings

Model = ReferenceEpisodicLSTM | EpisodicLSTMComposition
ModelKind = Literal["composition", "reference"]
Kind = ModelKind | Literal["cohort"]
FORMAT = "eplstm-run"
SETTINGS_FILE, STATE_FOLDER = "settings.json", "trained"
HISTORY = ("action", "reward", "policy", "value", "policy_loss", "value_loss")
"""Fields of ``TrialRecord`` that are kept of every block; the others only of the last."""
SUMMARY = ("accuracy", "policy_loss", "value_loss")
"""What is kept of every block of several agents or environments, whose records are large: the share of right
choices by encounter and step, (agents, E, T), and the mean losses, (agents,), over an agent's environments."""


class Interrupted(Exception):
    """Training was stopped from outside; the message says what is kept and how to go on."""


@dataclass
class RunState:
    """What a run has reached: its models and what is known of their training."""

    models: dict[str, Any]
    """By name: a model, or a ``Cohort``."""
    history: dict[str, list[dict[str, np.ndarray]]]
    """By model, a dictionary a block: the fields of ``HISTORY``, each (n, ...), or those of ``SUMMARY``."""
    last_block: dict[str, TrialRecord] = field(default_factory=dict)
    """By model, the whole record of the last block, without gradients; none of several agents or environments."""
    notes: dict[str, Any] = field(default_factory=dict)
    """The job's own, for JSON."""
    blocks_done: int = 0

    def stacked(self, name: str, what: str) -> np.ndarray:
        """One field of a model's history: (blocks, n, ...)."""
        return np.array([block[what] for block in self.history[name]])


def make_model(kind: Kind, config: ModelConfig, seed: int, agents: int = 1) -> Any:
    """A fresh model in float64; or a cohort, whose agent p is the model of the seed seed + p."""
    if kind == "cohort":
        return Cohort(config, range(seed, seed + agents))
    if kind == "reference":
        return ReferenceEpisodicLSTM(config, seed).double()
    return EpisodicLSTMComposition(config, seed)


def begin_block(model: Any) -> None:
    """Empty the memory. A composition also drops its ``results`` of earlier blocks: PsyNeuLink adds those of every
    trial, and copies them all in each call to ``learn()``, which would take longer from block to block."""
    model.clear_memory()
    if isinstance(model, pnl.Composition):
        model.parameters.results.set([], model)


def train_block(
    state: RunState,
    name: str,
    settings: RunSettings,
    block: Block,
    *,
    actions: np.ndarray | None = None,
    record_gradients: bool = False,
    after_trial: Callable[[int], None] | None = None,
) -> TrialRecord:
    """Train one of a state's models on one block, from an empty memory; the state keeps the record."""
    model = state.models[name]
    begin_block(model)
    record = train(
        model,
        block.trials,
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        actions=actions,
        initial_states=block.initial_states,
        seed=block.seed,
        record_gradients=record_gradients,
        loss=settings.loss,
        entropy_weight=settings.entropy_weight,
        value_weight=settings.value_weight,
        after_trial=after_trial,
    )
    state.history[name].append({what: getattr(record, what) for what in HISTORY})
    state.last_block[name] = replace(record, gradients=None)
    return record


def train_many(
    state: RunState,
    name: str,
    settings: RunSettings,
    blocks: list[list[Block]],
    *,
    after_trial: Callable[[int], None] | None = None,
) -> None:
    """Train a cohort, or a model in its environments, on one block, from empty memories; a summary is kept.

    Args:
        state: with the model under the name.
        name: the model's.
        settings: of the run.
        blocks: of each agent (outer list) in each of its environments.
        after_trial: as in ``eplstm.models.train``: called with the index of each trial.
    """
    model = state.models[name]
    begin_block(model)

    def of_each(part: Callable[[Block], Any]) -> list[Any]:
        return [[part(b) for b in own] if settings.environments > 1 else part(own[0]) for own in blocks]

    trials, states = of_each(lambda b: b.trials), of_each(lambda b: b.initial_states)
    seeds = [own[0].seed for own in blocks]
    options: dict[str, Any] = {
        "learning_rate": settings.learning_rate,
        "gamma": settings.gamma,
        "loss": settings.loss,
        "entropy_weight": settings.entropy_weight,
        "value_weight": settings.value_weight,
    }
    if isinstance(model, Cohort):
        counted = None if after_trial is None else _trial_of_all(after_trial, model)
        records = model.train(trials, initial_states=states, seed=seeds, after_trial=counted, **options)
    else:
        records = [
            train(model, trials[0], initial_states=states[0], seed=seeds[0], after_trial=after_trial, **options)
        ]
    state.history[name].append(_summary(trials, records))
    state.last_block.pop(name, None)


def _trial_of_all(after_trial: Callable[[int], None], cohort: Cohort) -> Callable[[int], None]:
    """Turns a cohort's count, which goes over the agents part by part, into the index of a trial of all."""
    parts = -(-len(cohort) // CHUNK)
    return lambda done: after_trial(done // parts - 1) if done % parts == 0 else None


def _summary(trials: list[Any], records: list[Any]) -> dict[str, np.ndarray]:
    """The fields of ``SUMMARY``, of one block."""
    kept: dict[str, list[Any]] = {what: [] for what in SUMMARY}
    for shown, found in zip(trials, records, strict=True):
        shown, found = ([each] if not isinstance(each, list) else each for each in (shown, found))
        encounters = np.concatenate([encounters_of(t) for t in shown])
        right = np.concatenate([r.reward for r in found])
        kept["accuracy"].append([right[encounters == e].mean(0) for e in np.unique(encounters)])
        for what in ("policy_loss", "value_loss"):
            kept[what].append(np.mean([getattr(r, what) for r in found]))
    return {what: np.array(values) for what, values in kept.items()}


def fresh_accuracy(model: Any, settings: RunSettings, blocks: int) -> Course:
    """Accuracy of trained agents on fresh blocks, without learning: by encounter and step, over agents or trials.

    Each block is shown from an empty memory. The models are left as they are; a composition is run by a cohort
    that its weights are copied to, which computes the same as its ``run()`` and is some hundred times faster.

    Args:
        model: a model or a cohort.
        settings: of its run: agent p sees the fresh blocks that belong to the seed seed + p.
        blocks: how many, for each agent.
    """
    cohort = model if isinstance(model, Cohort) else Cohort.from_models([model])
    tested = Cohort(cohort.config, [0] * len(cohort))
    for agent in range(len(cohort)):
        tested.set_weights(cohort.weights(agent), agent)
    each = [[settings.agent(p).block(index, FRESH) for index in range(blocks)] for p in range(len(cohort))]
    records = tested.run_trials(
        [[block.trials for block in own] for own in each],  # side by side, each with a memory of its own
        initial_states=[[block.initial_states for block in own] for own in each],
        seed=[own[0].seed for own in each],
    )
    return accuracy_by_step(
        [concatenate([block.trials for block in own]) for own in each],
        [TrialRecord.concatenate(found) for found in records],
    )


class RunFolder:
    """A folder that holds one run; opening checks that it may be used, and harms nothing if it may not.

    Args:
        path: made if need be.
        job: what the folder is for, such as ``demo`` or ``train reference``.
        settings: of the run; only ``blocks`` may differ from those of the run that the folder holds.
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
        settings: RunSettings,
        *,
        outputs: Iterable[str] = (),
        overwrite: bool = False,
    ) -> None:
        self.path, self.job, self.settings = Path(path), job, settings
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file; choose a folder for the results.")
        if self._holds_files():
            found = self._read_settings()
            if overwrite:
                for name in (SETTINGS_FILE, STATE_FOLDER, *self._passing(), *outputs):
                    _remove(self.path / name)
            else:
                self._check_same(found)
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "version": 1, "job": job, "settings": asdict(settings)}
        write_text(self.path / SETTINGS_FILE, json.dumps(content, indent=2) + "\n")

    # ---- may it be used ------------------------------------------------------------------------------

    def _holds_files(self) -> bool:
        return self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir())

    def _read_settings(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / SETTINGS_FILE).read_text(encoding="utf-8"))
            if found["format"] == FORMAT:
                return found
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise FileExistsError(
            f"{self.path} holds files that are no run of eplstm (no readable {SETTINGS_FILE}); nothing was "
            "changed. Choose another folder."
        )

    def _check_same(self, found: dict[str, Any]) -> None:
        remedy = "Choose another folder, take the same settings to go on with it, or overwrite it (--overwrite)."
        if found.get("job") != self.job:
            raise FileExistsError(
                f"{self.path} holds another run: {found.get('job')!r} instead of {self.job!r}. {remedy}"
            )
        try:
            there = RunSettings(**found["settings"])
        except (TypeError, ValueError, KeyError) as error:
            raise FileExistsError(
                f"{self.path} holds a run whose settings cannot be read ({error}). {remedy}"
            ) from None
        differing = replace(there, blocks=self.settings.blocks).difference(self.settings)
        if differing:
            raise FileExistsError(f"{self.path} holds another run: {differing}. {remedy}")
        if there.blocks > self.settings.blocks and self.blocks_done() > self.settings.blocks:
            raise FileExistsError(
                f"{self.path} holds a run of {self.blocks_done()} blocks, more than the {self.settings.blocks} "
                f"asked for. {remedy}"
            )

    # ---- state ---------------------------------------------------------------------------------------

    @property
    def state_path(self) -> Path:
        """Where the state lies."""
        return self.path / STATE_FOLDER

    @staticmethod
    def _passing() -> tuple[str, str]:
        """The names of a state that is being written, and of one that is being replaced."""
        return f".{STATE_FOLDER}.new", f".{STATE_FOLDER}.old"

    def blocks_done(self) -> int:
        """How many blocks are kept."""
        self._recover()
        if not self.state_path.exists():
            return 0
        return int(self._read_progress()["blocks_done"])

    def load(self, kinds: Mapping[str, Kind]) -> RunState | None:
        """The state that is kept, or None.

        Args:
            kinds: name and kind of each model of the job.

        Raises:
            CheckpointError: a file of it is missing or damaged.
        """
        if self.blocks_done() == 0:
            return None
        progress = self._read_progress()
        past, last = (self._read_arrays(name) for name in ("history.npz", "last_block.npz"))
        history, last_block = {}, {}
        try:
            for name, kind in kinds.items():
                alone = kind != "cohort" and self.settings.environments == 1
                history[name] = [
                    {what: past[f"{name}.{what}"][index] for what in (HISTORY if alone else SUMMARY)}
                    for index in range(progress["blocks_done"])
                ]
                if not alone:
                    continue
                last_block[name] = TrialRecord(
                    **{f.name: last.get(f"{name}.{f.name}") for f in fields(TrialRecord)}  # type: ignore[arg-type]
                )
        except (KeyError, IndexError) as error:
            raise CheckpointError(
                f"{self.state_path}: the kept records are incomplete ({error}). {DAMAGED}"
            ) from None
        models = {name: load_model(self.state_path / name, kind) for name, kind in kinds.items()}
        return RunState(models, history, last_block, progress["notes"], progress["blocks_done"])

    def save(self, state: RunState) -> None:
        """Keep a state in place of the one before; an interruption leaves the one or the other, whole."""
        new, old = (self.path / name for name in self._passing())
        _remove(new)
        new.mkdir()
        for name, model in state.models.items():
            save_model(model, new / name, notes={"job": self.job, "blocks": state.blocks_done})
        past = {f"{n}.{what}": state.stacked(n, what) for n, kept in state.history.items() for what in kept[-1]}
        _write_arrays(new / "history.npz", past)
        last = {
            f"{name}.{f.name}": getattr(record, f.name)
            for name, record in state.last_block.items()
            for f in fields(TrialRecord)
            if getattr(record, f.name) is not None
        }
        _write_arrays(new / "last_block.npz", last)
        progress = {"blocks_done": state.blocks_done, "notes": state.notes}
        write_text(new / "progress.json", json.dumps(progress, indent=2, allow_nan=False) + "\n")
        if self.state_path.exists():
            os.replace(self.state_path, old)
        os.replace(new, self.state_path)
        _remove(old)

    def _recover(self) -> None:
        """Finish what an interruption between the two renamings of ``save`` left undone."""
        new, old = (self.path / name for name in self._passing())
        if old.exists() and not self.state_path.exists():
            os.replace(new if new.exists() else old, self.state_path)
        _remove(old)
        _remove(new)

    def _read_progress(self) -> dict[str, Any]:
        path = self.state_path / "progress.json"
        try:
            progress = json.loads(path.read_text(encoding="utf-8"))
            return {"blocks_done": int(progress["blocks_done"]), "notes": dict(progress["notes"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is missing or damaged ({error}). {DAMAGED}") from None

    def _read_arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.state_path / name
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # numpy and zipfile raise what they like over a damaged file
            raise CheckpointError(f"{path} is missing or damaged ({error}). {DAMAGED}") from None


DAMAGED = "Restore the folder, or start the run anew in another one or with --overwrite."


def go_on(
    folder: RunFolder,
    kinds: Mapping[str, Kind],
    configs: dict[str, ModelConfig],
    train_one: Callable[[RunState], None],
) -> RunState:
    """Train block after block from where the folder's run stands, and keep the state after each.

    Args:
        folder: the run's.
        kinds: name and kind of each model.
        configs: name and configuration of each model.
        train_one: trains the models of the state on the block whose number is ``state.blocks_done``.

    Raises:
        Interrupted: on Ctrl-C; finished blocks are kept.
    """
    settings = folder.settings
    state = folder.load(kinds)
    if state is None:
        models = {name: make_model(kinds[name], configs[name], settings.seed, settings.agents) for name in kinds}
        state = RunState(models, history={name: [] for name in kinds})
    try:
        for index in range(state.blocks_done, settings.blocks):
            train_one(state)
            state.blocks_done = index + 1
            folder.save(state)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted. {folder.blocks_done()} of {settings.blocks} blocks are kept in {folder.path}; give the "
            "same command again to go on."
        ) from None
    return state


def train_run(
    path: str | os.PathLike[str],
    kind: ModelKind,
    settings: RunSettings,
    *,
    overwrite: bool = False,
    after_trial: Callable[[int], None] | None = None,
) -> RunState:
    """Train one agent or several in a run folder, or go on with the run that the folder holds.

    Several agents are trained side by side in a ``Cohort``, whichever kind is asked for: ``load_model(path, kind,
    agent=p)`` makes any of them a model of either kind. One agent is trained as a model of its kind: a composition
    through its own ``learn()``, with all environments in one minibatch.

    Args:
        path: the run folder; the model's checkpoint is ``path/trained/reference`` or ``.../composition``.
        kind: which model.
        settings: of task, agent and training.
        overwrite: start anew in place of another run.
        after_trial: called after every trial with the number of trials done so far, of all agents in all
            environments together.

    Raises:
        FileExistsError: the folder holds something else; nothing is changed.
        Interrupted: on Ctrl-C.
    """
    folder = RunFolder(path, f"train {kind}", settings, overwrite=overwrite)

    def train_one(state: RunState) -> None:
        count = counting_from(state.blocks_done * 2 * settings.contexts, after_trial)
        if settings.agents == settings.environments == 1:
            train_block(state, kind, settings, settings.block(state.blocks_done), after_trial=count)
        else:
            train_many(state, kind, settings, settings.blocks_of_all(state.blocks_done), after_trial=count)

    kinds: dict[str, Kind] = {kind: "cohort" if settings.agents > 1 else kind}
    return go_on(folder, kinds, {kind: settings.model_config()}, train_one)


def counting_from(before: int, after_trial: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """What to call with the index of a trial in its block, so that ``after_trial`` gets the trials done in all."""
    if after_trial is None:
        return None
    return lambda trial: after_trial(before + trial + 1)


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


def write_text(path: Path, text: str) -> None:
    """Write a text file so that the old one stays whole until the new one is."""
    passing = path.with_name(f".{path.name}.new")
    passing.write_text(text, encoding="utf-8")
    os.replace(passing, path)


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
