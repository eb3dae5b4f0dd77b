"""Models on disk: save what was trained, load it into either model.

A checkpoint is a folder with two files, neither of which can run code when it is read:

    model.json          format "eplstm-model", version 1, 2 or 3; kind (what was saved); config; dtype of the
                        weights; name and shape of each array, and the SHA-256 of their content; the user's notes
    model.safetensors   the arrays: ``weights.NAME``, ``memory.keys`` and ``memory.values`` (oldest first), and
                        ``optimizer.PART.NAME`` with the parts of Adam's state, step, mean and square, or those
                        of RMSprop's, step and square; its header repeats model.json

One agent in one environment is saved in version 1. Version 2 holds more: ``memory.entries`` says how many entries
each environment has, (M,), which follow each other in ``memory.keys`` and ``memory.values``; and in a cohort of P
agents each weight, each part of the optimiser's state and ``memory.entries`` has a first axis of P. Version 3 is
version 2 of one agent with a ``person`` (see ``person.py``), who is in model.json: earlier readers refuse it,
rather than run another person.

The round trip is exact, and training goes on as if it had never stopped. The learning rate and the seeds are
not in it: they are arguments of ``train``, as is the optimiser, which must be the one whose state it is.

An interrupted save leaves what was there. A new checkpoint appears under its name as a whole. Where one is
replaced, the arrays go first, in one step, with their description in their header; until model.json follows,
its digest tells that it describes other arrays, and the header is read instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .config import ModelConfig
from .optimizers import optimizer_of, parts_of
from .person import Person
from .reference import ReferenceEpisodicLSTM
from .weights import weight_shapes

if TYPE_CHECKING:
    from .cohort import Cohort
    from .composition import EpisodicLSTMComposition

FORMAT, FORMAT_VERSIONS = "eplstm-model", (1, 2, 3)
DESCRIPTION_FILE, ARRAYS_FILE = "model.json", "model.safetensors"
HEADER_ENTRY = "eplstm"
"""Where the header of the arrays' file repeats model.json."""
KINDS = ("reference", "composition", "cohort")
OPTIMIZER_PARTS = parts_of("adam")
"""Those of a cohort."""


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded: the message names the file, what was found, and the remedy."""


def save_model(
    model: ReferenceEpisodicLSTM | EpisodicLSTMComposition | Cohort,
    folder: str | os.PathLike[str],
    *,
    notes: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save weights, memories of all environments and optimiser's state of a model or a cohort, config and person.

    Args:
        model: the reference, the composition, or a cohort.
        folder: the checkpoint's folder; made if need be.
        notes: anything that JSON can hold; ``describe_model`` gives it back.
        overwrite: replace a checkpoint that is there already. Other files in its folder stay.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds a checkpoint and ``overwrite`` is False, or it holds something else.
        TypeError: the model is none of these.
        ValueError: the model is not in float32 or float64 or holds values not finite, or JSON cannot hold the
            notes; nothing is written.
    """
    folder = Path(folder).absolute()
    kind = _kind_of(model)
    replaces = _check_place(folder, overwrite)
    arrays = _arrays_of(model)
    description = {
        "format": FORMAT,
        "format_version": 2 if "memory.entries" in arrays else 1,
        "kind": kind,
        "eplstm_version": version("eplstm"),
        "config": _config_of(model),
        "dtype": arrays["weights.input_weight"].dtype.name,
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
        "sha256": _digest(arrays),
        "notes": {} if notes is None else notes,
    }
    if (person := _person_of(model)) is not None:
        description |= {"format_version": 3, "person": asdict(person)}
    try:
        text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"save_model: JSON cannot hold the notes or the config ({error}); use strings, finite numbers, "
            "booleans, None, and lists and dicts of them."
        ) from error

    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f".{folder.name}.saving-{uuid.uuid4().hex[:12]}"
    unfinished.mkdir()
    try:
        _write(unfinished / ARRAYS_FILE, save(arrays, metadata={HEADER_ENTRY: text}))
        _write(unfinished / DESCRIPTION_FILE, text.encode())
        if replaces:
            for name in (ARRAYS_FILE, DESCRIPTION_FILE):  # in this order: see the module's docstring
                os.replace(unfinished / name, folder / name)
        else:
            if folder.exists():
                folder.rmdir()  # empty: not everywhere can a folder be put in the place of another
            os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


@overload
def load_model(
    folder: str | os.PathLike[str], kind: Literal["reference"], agent: int | None = None
) -> ReferenceEpisodicLSTM: ...
@overload
def load_model(
    folder: str | os.PathLike[str], kind: Literal["composition"], agent: int | None = None
) -> EpisodicLSTMComposition: ...
@overload
def load_model(folder: str | os.PathLike[str], kind: Literal["cohort"], agent: None = None) -> Cohort: ...
@overload
def load_model(folder: str | os.PathLike[str], kind: None = None, agent: int | None = None) -> Any: ...


def load_model(
    folder: str | os.PathLike[str],
    kind: Literal["reference", "composition", "cohort"] | None = None,
    agent: int | None = None,
) -> Any:
    """Make the model that a checkpoint holds, with its weights, memories, optimiser's state and person.

    Args:
        folder: a folder written by ``save_model``.
        kind: what to make, whichever was saved; None: as saved, and of an agent of a cohort the reference. The
            reference has the precision of what was saved, the others float64.
        agent: which agent of a cohort, from 0, where one of several is to be made a reference or a composition.

    Raises:
        CheckpointError: the checkpoint is missing or damaged; nothing on disk is changed.
        ValueError: the kind is unknown, or it is not clear which agent is meant.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"load_model: kind must be {', '.join(map(repr, KINDS))} or None; got {kind!r}.")
    description, config, arrays = _read(Path(folder))
    agents = _split(arrays, description["kind"] == "cohort")
    if kind is None:
        kind = description["kind"] if agent is None or description["kind"] != "cohort" else "reference"
    if kind == "cohort":
        if agent is not None:
            raise ValueError("load_model: a cohort is made of all agents; leave out agent, or give another kind.")
        if "person" in description:
            raise ValueError(
                f"load_model: {folder} holds a person, who cannot be part of a cohort. Load a reference or a "
                "composition, and make the cohort of it once its person is Person()."
            )
        from .cohort import Cohort

        cohort = Cohort(config, [0] * len(agents))
        for p, parts in enumerate(agents):
            cohort.set_weights(_part(parts, "weights"), p)
            cohort.set_optimizer_state(_part(parts, "optimizer"), p)
            for environment, entries in enumerate(_memories(parts)):
                cohort.set_memory(*entries, p, environment)
        return cohort
    if agent is None and len(agents) > 1:
        raise ValueError(
            f"load_model: {folder} holds {len(agents)} agents: give agent=0 to {len(agents) - 1}, or "
            "kind='cohort'."
        )
    if not 0 <= (agent or 0) < len(agents):
        raise ValueError(f"load_model: {folder} holds {len(agents)} agents, counted from 0; got agent={agent!r}.")
    parts = agents[agent or 0]
    if kind == "reference":
        model = ReferenceEpisodicLSTM(config, seed=0)
        if description["dtype"] == "float64":
            model.double()
    else:
        from .composition import EpisodicLSTMComposition  # PsyNeuLink is slow to import: only where needed

        model = EpisodicLSTMComposition(config, seed=0)
    model.set_weights(_part(parts, "weights"))
    for environment, entries in enumerate(_memories(parts)):
        model.set_memory(*entries, environment=environment)
    model.set_optimizer_state(_part(parts, "optimizer"))
    if "person" in description:
        model.person = _parsed_person(description["person"], config)
    return model


def describe_model(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What model.json says of a checkpoint, its notes among it, once the whole checkpoint has been checked.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    return _read(Path(folder))[0]


# ---- saving ------------------------------------------------------------------------------------------


def _kind_of(model: object) -> str:
    if isinstance(model, ReferenceEpisodicLSTM):
        return "reference"
    from .cohort import Cohort
    from .composition import EpisodicLSTMComposition

    if isinstance(model, EpisodicLSTMComposition):
        return "composition"
    if isinstance(model, Cohort):
        return "cohort"
    raise TypeError(
        "save_model: the model must be a ReferenceEpisodicLSTM, an EpisodicLSTMComposition or a Cohort; "
        f"got {type(model).__name__}."
    )


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


def _config_of(model: ReferenceEpisodicLSTM | EpisodicLSTMComposition | Cohort) -> dict[str, Any]:
    """The settings; earlier readers do not know ``reinstatement``, and are right to refuse but the default."""
    config = model.config.to_dict()
    return {k: v for k, v in config.items() if (k, v) != ("reinstatement", "gate")}


def _arrays_of(model: ReferenceEpisodicLSTM | EpisodicLSTMComposition | Cohort) -> dict[str, np.ndarray]:
    if _kind_of(model) == "cohort":
        arrays = _arrays_of_cohort(model)  # type: ignore[arg-type]
    else:
        memories = [model.memory(environment=e) for e in range(model.environments)]  # type: ignore[call-arg]
        arrays = {
            **{f"weights.{name}": array for name, array in model.weights().items()},  # type: ignore[call-arg]
            **_joined(memories),
            **{f"optimizer.{name}": array for name, array in model.optimizer_state().items()},  # type: ignore[call-arg]
        }
        if len(memories) > 1 or _person_of(model) is not None:
            arrays["memory.entries"] = np.array([len(keys) for keys, _ in memories], np.int64)
    for name, array in arrays.items():
        if name == "memory.entries":
            continue
        if array.dtype.name not in ("float32", "float64"):
            raise ValueError(
                f"save_model: {name} is in {array.dtype}; call .float() or .double() on the model first."
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"save_model: {name} holds {np.count_nonzero(~np.isfinite(array))} values not finite; "
                "such a model cannot go on. Keep an earlier checkpoint, and train with a lower learning rate."
            )
    # The bytes are written as they lie in memory.
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _person_of(model: ReferenceEpisodicLSTM | EpisodicLSTMComposition | Cohort) -> Person | None:
    """The person a model stands for; None for the trained agent itself."""
    person = getattr(model, "person", Person())
    return None if person == Person() else person


def _arrays_of_cohort(cohort: Cohort) -> dict[str, np.ndarray]:
    agents, config = range(len(cohort)), cohort.config
    memories = [[cohort.memory(p, e) for e in range(cohort.environments)] for p in agents]
    weights, states = [cohort.weights(p) for p in agents], [cohort.optimizer_state(p) for p in agents]
    arrays = {f"weights.{name}": np.stack([w[name] for w in weights]) for name in weight_shapes(config)}
    for name, shape in weight_shapes(config).items():
        if not any(f"step.{name}" in state for state in states):
            continue
        for part in OPTIMIZER_PARTS:
            none = np.zeros(shape[:1] if part == "step" else shape)  # an agent that has had no update yet
            arrays[f"optimizer.{part}.{name}"] = np.stack([s.get(f"{part}.{name}", none) for s in states])
    arrays |= _joined([entries for own in memories for entries in own])
    arrays["memory.entries"] = np.array([[len(keys) for keys, _ in own] for own in memories], np.int64)
    return arrays


def _joined(memories: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The entries of several memories, one after the other."""
    keys, values = (np.concatenate(parts) for parts in zip(*memories, strict=True))
    return {"memory.keys": keys, "memory.values": values}


def _split(arrays: dict[str, np.ndarray], cohort: bool) -> list[dict[str, np.ndarray]]:
    """The arrays of each agent, ``memory.entries`` among them; without the state of weights never updated."""
    entries = arrays.get("memory.entries", np.array([len(arrays["memory.keys"])]))
    agents = []
    ends = np.cumsum(entries.reshape(len(entries) if cohort else 1, -1).sum(1))
    for p, (end, count) in enumerate(zip(ends, np.diff(ends, prepend=0), strict=True)):
        own = {name: array[p] if cohort else array for name, array in arrays.items() if name[:7] != "memory."}
        for name in [name[len("optimizer.step.") :] for name in own if name.startswith("optimizer.step.")]:
            if cohort and not own[f"optimizer.step.{name}"].any():
                for part in OPTIMIZER_PARTS:
                    del own[f"optimizer.{part}.{name}"]
        for name in ("memory.keys", "memory.values"):
            own[name] = arrays[name][end - count : end]
        own["memory.entries"] = entries[p] if cohort else entries
        agents.append(own)
    return agents


def _memories(arrays: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Keys and values of each environment of an agent."""
    edges = np.cumsum(arrays["memory.entries"])[:-1]
    keys, values = (np.split(arrays[name], edges) for name in ("memory.keys", "memory.values"))
    return list(zip(keys, values, strict=True))


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # on the disk before it takes the place of anything


# ---- loading -----------------------------------------------------------------------------------------


def _fail(path: Path, found: str, remedy: str, cause: Exception | None = None) -> NoReturn:
    raise CheckpointError(f"{path}: {found}. {remedy}") from cause


def _read(folder: Path) -> tuple[dict[str, Any], ModelConfig, dict[str, np.ndarray]]:
    for path in (folder / DESCRIPTION_FILE, folder / ARRAYS_FILE):
        if not path.is_file():
            _fail(
                path,
                "the file is missing" if folder.is_dir() else f"there is no folder {folder}",
                f"A checkpoint is a folder with {DESCRIPTION_FILE} and {ARRAYS_FILE}, as save_model writes it; "
                "give its path, or save the model again.",
            )
    path = folder / DESCRIPTION_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        _fail(path, f"not UTF-8 text ({error})", "Restore the file, or save the model again.", error)
    description, config = _parse(path, text)

    path = folder / ARRAYS_FILE
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(HEADER_ENTRY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, TypeError) as error:
        _fail(path, f"not a readable safetensors file ({error})", "Restore it, or save the model again.", error)
    digest = _digest(arrays)
    if header is not None and description["sha256"] != digest:
        in_header = _parse(path, header)
        if in_header[0]["sha256"] == digest:  # a save was interrupted before model.json was replaced
            description, config = in_header
    _check_arrays(path, description, config, arrays)
    if description["sha256"] != digest:
        _fail(
            path,
            f"the arrays are not those that {DESCRIPTION_FILE} describes (SHA-256 {digest[:12]}... instead of "
            f"{str(description['sha256'])[:12]}...)",
            "The file was changed or damaged after it was saved: restore it, or save the model again.",
        )
    return description, config, arrays


def _parse(path: Path, text: str) -> tuple[dict[str, Any], ModelConfig]:
    """The description, and the config in it, once its fields have been checked."""
    again = "Restore the file, or save the model again."
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        _fail(path, f"not JSON ({error})", again, error)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        _fail(path, f"the format is {found!r} instead of {FORMAT!r}", "Give a folder written by save_model.")
    number = description.get("format_version")
    if number not in FORMAT_VERSIONS or isinstance(number, bool):
        _fail(
            path,
            f"format version {number!r}, written by eplstm {description.get('eplstm_version')!r}",
            f"This eplstm ({version('eplstm')}) reads versions {FORMAT_VERSIONS[0]} to {FORMAT_VERSIONS[-1]}: "
            "install the one that wrote it.",
        )
    for name, allowed in (("kind", KINDS), ("dtype", ("float32", "float64"))):
        if description.get(name) not in allowed:
            _fail(path, f"{name} is {description.get(name)!r}, not one of {', '.join(allowed)}", again)
    for name, kind in (("config", dict), ("arrays", dict), ("sha256", str), ("notes", dict)):
        if not isinstance(description.get(name), kind):
            _fail(path, f"{name!r} is missing or no {kind.__name__}", again)
    if (number == 3) != ("person" in description):
        _fail(path, f"format version {number} {'without' if number == 3 else 'with'} a person", again)
    part = "config"
    try:
        config = ModelConfig.from_dict(description["config"])
        part = "person"
        if number == 3:
            _parsed_person(description["person"], config)
    except (TypeError, ValueError) as error:
        _fail(path, f"the {part} does not fit ({error})", again, error)
    return description, config


def _parsed_person(fields: dict[str, Any], config: ModelConfig) -> Person:
    """The person whom model.json describes; TypeError or ValueError for one who does not fit."""
    columns = fields["context_columns"] if isinstance(fields, dict) and "context_columns" in fields else None
    person = Person(**{**fields, "context_columns": None if columns is None else tuple(columns)})
    person.check(config)
    return person


def _check_arrays(
    path: Path, description: dict[str, Any], config: ModelConfig, arrays: dict[str, np.ndarray]
) -> None:
    entries = _checked_entries(path, description, arrays)
    lead = entries.shape[:1] if description["kind"] == "cohort" else ()
    names = arrays.keys() | description["arrays"].keys()
    optimizer = optimizer_of(_part(dict.fromkeys(names), "optimizer")) or "adam"
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in weight_shapes(config).items():
        shapes[f"weights.{name}"] = (*lead, *shape)
        parts = {
            f"optimizer.{part}.{name}": (*lead, *(shape[:1] if part == "step" else shape))
            for part in parts_of(optimizer)
        }
        if not parts.keys().isdisjoint(names):
            shapes |= parts  # a weight that never got a gradient has no state
    n_entries = int(entries.sum())
    shapes |= {
        "memory.keys": (n_entries, config.key_size),
        "memory.values": (n_entries, config.hidden_size),
    }
    if description["format_version"] > 1:
        shapes["memory.entries"] = entries.shape
    again = "Restore the checkpoint, or save the model again."
    missing, unknown = sorted(shapes.keys() - arrays.keys()), sorted(arrays.keys() - shapes.keys())
    if missing or unknown:
        _fail(path, f"arrays missing: {missing or 'none'}, unknown: {unknown or 'none'}", again)
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape:
            _fail(path, f"{name} has the shape {array.shape} instead of {shape}, which the config asks for", again)
        if description["arrays"].get(name) != list(shape):
            _fail(
                path.with_name(DESCRIPTION_FILE),
                f"{name} is listed with the shape {description['arrays'].get(name)} instead of {list(shape)}",
                again,
            )
        if name == "memory.entries":
            continue
        if array.dtype.name not in ("float32", "float64"):
            _fail(path, f"{name} is in {array.dtype} instead of float32 or float64", again)
        if name.startswith("weights.") and array.dtype.name != description["dtype"]:
            _fail(path, f"{name} is in {array.dtype} instead of {description['dtype']}", again)
        if not np.isfinite(array).all():
            _fail(path, f"{name} holds {np.count_nonzero(~np.isfinite(array))} values not finite", again)
    if unlisted := sorted(description["arrays"].keys() - shapes.keys()):
        _fail(path.with_name(DESCRIPTION_FILE), f"arrays listed that no model has: {unlisted}", again)
    if most := [int(n) for n in entries.ravel() if n > config.memory_capacity]:
        _fail(path, f"{most[0]} entries in a memory with a capacity of {config.memory_capacity}", again)


def _checked_entries(path: Path, description: dict[str, Any], arrays: dict[str, np.ndarray]) -> np.ndarray:
    """How many entries each environment has: (M,), or (P, M) in a cohort."""
    cohort = description["kind"] == "cohort"
    if description["format_version"] == 1 and not cohort:
        keys = arrays.get("memory.keys")
        return np.array([len(keys) if keys is not None and keys.ndim else 0])
    entries = arrays.get("memory.entries", np.zeros(0))
    if entries.ndim != 1 + cohort or not entries.size or entries.dtype.kind != "i" or (entries < 0).any():
        _fail(
            path,
            f"memory.entries, the number of entries in each environment{' of each agent' if cohort else ''}, is "
            "missing or not made of whole numbers",
            "Restore the checkpoint, or save the model again.",
        )
    return entries


def _part(arrays: dict[str, Any], part: str) -> dict[str, Any]:
    start = f"{part}."
    return {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
