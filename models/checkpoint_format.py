"""The form of a checkpoint on disk: a folder with two files, neither of which can run code when it is read.

    model.safetensors   the arrays: weights.NAME; optimizer.PART.NAME, with the parts of Adam's state, step, mean
                        and square, or those of RMSprop's, step and square; memory.keys and memory.values, those of
                        all environments one after the other, each oldest first; memory.entries, how many each
                        environment has, (M,). Its header holds the text of model.json, too
    model.json          format "eplstm-model", format_version 1; kind (what was saved); config; person, null for
                        the trained agent itself; changed_graph, null for a graph as made; dtype of the weights;
                        shapes of the arrays; the user's notes; the SHA-256 of all this and of the arrays

In a cohort of P agents each weight, each part of the optimiser's state and memory.entries have a first axis of P;
a weight that one agent has not updated yet has a state of zeros. Arrays graph.NAME are those of a changed graph.

An interrupted save leaves what was there. A new checkpoint appears under its name as a whole. Where one is
replaced, the arrays go first, in one step; a model.json that is still of another checkpoint does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..tasks.files import folder_written_whole, write_whole
from .config import ModelConfig
from .person import Person
from .weights import check_memory, check_optimizer_state, check_weights

FORMAT, FORMAT_VERSION = "eplstm-model", 1
DESCRIPTION_FILE, ARRAYS_FILE = "model.json", "model.safetensors"
HEADER_ENTRY = "eplstm"
"""Where the header of the arrays' file holds the text of model.json."""
KINDS = ("reference", "composition", "cohort")
PRECISIONS = ("float32", "float64")
AGAIN = "Restore the checkpoint, or save the model again."

Arrays = dict[str, np.ndarray]


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded: the message names the file, what was found, and the remedy."""


@dataclass(frozen=True)
class AgentState:
    """What changes in an agent."""

    weights: Arrays
    """By the names and shapes of ``weight_shapes``."""
    optimizer: Arrays
    """``PART.NAME``, as ``optimizer_state()`` gives it."""
    memories: list[tuple[np.ndarray, np.ndarray]]
    """Keys (n, K) and values (n, H) of each environment, oldest first."""


@dataclass(frozen=True)
class Checkpoint:
    """What is saved of a model."""

    kind: str
    """One of ``KINDS``."""
    config: ModelConfig
    agents: list[AgentState]
    """One, or those of a cohort, which all have equally many environments."""
    person: Person
    notes: dict[str, Any]
    changed_graph: str | None = None
    """How the graph of a composition differs from what its constructor made; None: it does not."""
    graph: Arrays = field(default_factory=dict)
    """What a changed graph holds besides."""


# ---- writing -----------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, checkpoint: Checkpoint, overwrite: bool = False) -> None:
    """Write a checkpoint; errors are those of ``save_model``, and leave what is there."""
    replaces = _check_place(folder, overwrite)
    arrays = _arrays_of(checkpoint)
    _check_arrays(arrays)
    text = _described(checkpoint, arrays)
    data = save(arrays, metadata={HEADER_ENTRY: text})
    if replaces:  # other files in the folder stay
        write_whole(folder / ARRAYS_FILE, data)
        write_whole(folder / DESCRIPTION_FILE, text)
        return
    with folder_written_whole(folder) as new:
        (new / ARRAYS_FILE).write_bytes(data)
        (new / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def _check_place(folder: Path, overwrite: bool) -> bool:
    """Whether a checkpoint is there to be replaced; raises FileExistsError if it, or anything else, may not be."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        ours = isinstance(found, dict) and found.get("format") == FORMAT
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise FileExistsError(
            f"save_model: {folder} exists and is no checkpoint of eplstm (no {DESCRIPTION_FILE} with the format "
            f"{FORMAT!r}): choose another folder, or move away what is there."
        )
    if not overwrite:
        raise FileExistsError(
            f"save_model: {folder} holds a checkpoint already: pass overwrite=True to replace it, or choose "
            "another folder."
        )
    return True


def _arrays_of(checkpoint: Checkpoint) -> Arrays:
    agents = checkpoint.agents
    arrays = {f"weights.{name}": array for name, array in _stacked([a.weights for a in agents]).items()}
    arrays |= {f"optimizer.{name}": array for name, array in _stacked([a.optimizer for a in agents]).items()}
    arrays["memory.entries"] = np.array([[len(keys) for keys, _ in a.memories] for a in agents], np.int64)
    if checkpoint.kind != "cohort":
        arrays = {name: array[0] for name, array in arrays.items()}
    keys, values = zip(*(entries for a in agents for entries in a.memories), strict=True)
    arrays |= {"memory.keys": np.concatenate(keys), "memory.values": np.concatenate(values)}
    arrays |= {f"graph.{name}": array for name, array in checkpoint.graph.items()}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # written as they lie in memory


def _stacked(each: list[Arrays]) -> Arrays:
    """The arrays of all agents by name, (P, ...); zeros for an agent that has none."""
    like = {name: array for own in reversed(each) for name, array in own.items()}
    return {name: np.stack([own.get(name, np.zeros_like(a)) for own in each]) for name, a in like.items()}


def _check_arrays(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if name == "memory.entries":
            continue
        if array.dtype.name not in PRECISIONS:
            raise ValueError(
                f"save_model: {name} is in {array.dtype}; call .float() or .double() on the model first."
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"save_model: {name} holds {np.count_nonzero(~np.isfinite(array))} values not finite; "
                "such a model cannot go on. Keep an earlier checkpoint, and train with a lower learning rate."
            )


def _described(checkpoint: Checkpoint, arrays: Arrays) -> str:
    """The text of model.json."""
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": checkpoint.kind,
        "eplstm_version": version("eplstm"),
        "config": checkpoint.config.to_dict(),
        "person": None if checkpoint.person == Person() else asdict(checkpoint.person),
        "changed_graph": checkpoint.changed_graph,
        "dtype": arrays["weights.input_weight"].dtype.name,
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
        "notes": checkpoint.notes,
    }
    try:
        description = json.loads(json.dumps(description, allow_nan=False))  # as it will be read
        return json.dumps(description | {"sha256": digest_of(description, arrays)}, indent=2, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"save_model: JSON cannot hold the notes or the config ({error}); use strings, finite numbers, "
            "booleans, None, and lists and dicts of them."
        ) from error


def digest_of(description: Mapping[str, Any], arrays: Arrays) -> str:
    """The SHA-256 of a description, its own entry left out, and of the arrays that it describes."""
    described = {name: value for name, value in description.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, ensure_ascii=False).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


# ---- reading -----------------------------------------------------------------------------------------


def read_checkpoint(folder: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """A checkpoint, and what model.json says of it, once all of it has been checked.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    in_file = _parsed(folder / DESCRIPTION_FILE, _text(folder / DESCRIPTION_FILE))
    path = _existing(folder / ARRAYS_FILE)
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(HEADER_ENTRY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, TypeError) as error:
        _fail(path, f"not a readable safetensors file ({error})", AGAIN, error)
    if header is None:
        _fail(path, f"its header lacks the entry {HEADER_ENTRY!r}, which describes the arrays", AGAIN)
    description = _parsed(path, header)
    if description["sha256"] != (found := digest_of(description, arrays)):
        _fail(
            path,
            f"the arrays are not those that its header describes (SHA-256 {found[:12]}... instead of "
            f"{description['sha256'][:12]}...): it was changed or damaged after it was saved",
            AGAIN,
        )
    if in_file != description and in_file["sha256"] == description["sha256"]:
        _fail(folder / DESCRIPTION_FILE, "it was changed or damaged after it was saved", AGAIN)
    try:
        return _checkpoint_of(description, arrays), description
    except (KeyError, IndexError, TypeError, ValueError) as error:
        by = f"written by eplstm {description.get('eplstm_version')!r}"
        _fail(path, f"what it holds, {by}, does not fit together ({error})", AGAIN, error)


def _fail(path: Path, found: str, remedy: str, cause: Exception | None = None) -> NoReturn:
    raise CheckpointError(f"{path}: {found}. {remedy}") from cause


def _existing(path: Path) -> Path:
    if not path.is_file():
        _fail(
            path,
            "the file is missing" if path.parent.is_dir() else f"there is no folder {path.parent}",
            f"A checkpoint is a folder with {DESCRIPTION_FILE} and {ARRAYS_FILE}, as save_model writes it; give "
            "its path, or save the model again.",
        )
    return path


def _text(path: Path) -> str:
    try:
        return _existing(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        _fail(path, f"not UTF-8 text ({error})", AGAIN, error)


def _parsed(path: Path, text: str) -> dict[str, Any]:
    """A description in this format."""
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        _fail(path, f"not JSON ({error})", AGAIN, error)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        _fail(path, f"the format is {found!r} instead of {FORMAT!r}", "Give a folder written by save_model.")
    number = description.get("format_version")
    if number != FORMAT_VERSION or isinstance(number, bool):
        _fail(
            path,
            f"format version {number!r}, written by eplstm {description.get('eplstm_version')!r}",
            f"This eplstm ({version('eplstm')}) reads version {FORMAT_VERSION}: install the one that wrote it.",
        )
    if not isinstance(description.get("sha256"), str):
        _fail(path, "'sha256' is missing or no text", AGAIN)
    return description


def _checkpoint_of(description: dict[str, Any], arrays: Arrays) -> Checkpoint:
    """KeyError, IndexError, TypeError or ValueError where parts do not fit together."""
    kind, config = description["kind"], ModelConfig.from_dict(description["config"])
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(KINDS)}")
    person = _person_of(description["person"])
    person.check(config)
    agents = _agents_of(arrays, cohort=kind == "cohort")
    for agent in agents:
        check_weights(config, agent.weights)
        check_optimizer_state(config, agent.optimizer)
        for keys, values in agent.memories:
            check_memory(config, keys, values)
    graph = _part(arrays, "graph")
    return Checkpoint(kind, config, agents, person, description["notes"], description["changed_graph"], graph)


def _person_of(fields: dict[str, Any] | None) -> Person:
    if fields is None:
        return Person()
    columns = fields["context_columns"]  # JSON has no tuples
    return Person(**{**fields, "context_columns": None if columns is None else tuple(columns)})


def _agents_of(arrays: Arrays, cohort: bool) -> list[AgentState]:
    by_agent = {part: _part(arrays, part) for part in ("weights", "optimizer")}
    entries, keys, values = (arrays[f"memory.{name}"] for name in ("entries", "keys", "values"))
    if not cohort:
        by_agent = {part: {name: a[None] for name, a in own.items()} for part, own in by_agent.items()}
        entries = entries[None]
    agents, environments = entries.shape
    if (entries < 0).any() or not entries.sum() == len(keys) == len(values):
        raise ValueError(f"memory.entries are {entries.tolist()}, of {len(keys)} keys and {len(values)} values")
    edges = np.cumsum(entries)[:-1]
    memories = list(zip(np.split(keys, edges), np.split(values, edges), strict=True))
    return [
        AgentState(
            {name: array[p] for name, array in by_agent["weights"].items()},
            _of_updated({name: array[p] for name, array in by_agent["optimizer"].items()}),
            memories[p * environments : (p + 1) * environments],
        )
        for p in range(agents)
    ]


def _of_updated(state: Arrays) -> Arrays:
    """Without the state of weights that have had no update."""
    return {name: array for name, array in state.items() if state[f"step.{name.split('.', 1)[1]}"].any()}


def _part(arrays: Mapping[str, np.ndarray], part: str) -> Arrays:
    start = f"{part}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
