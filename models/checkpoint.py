"""Models on disk: save what was trained, load it into either model.

A checkpoint is a folder with two files, neither of which can run code when it is read:

    model.json          format "eplstm-model", version 1; kind (which model was saved); config; dtype of the
                        weights; name and shape of each array, and the SHA-256 of their content; the user's notes
    model.safetensors   the arrays: ``weights.NAME``, ``memory.keys`` and ``memory.values`` (oldest first), and
                        ``optimizer.PART.NAME`` with the parts of Adam's state, step, mean and square; its header
                        repeats model.json

The round trip is exact, and training goes on as if it had never stopped. The learning rate and the seeds are
not in it: they are arguments of ``train``.

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
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .config import ModelConfig
from .reference import ReferenceEpisodicLSTM
from .weights import weight_shapes

if TYPE_CHECKING:
    from .composition import EpisodicLSTMComposition

FORMAT, FORMAT_VERSION = "eplstm-model", 1
DESCRIPTION_FILE, ARRAYS_FILE = "model.json", "model.safetensors"
HEADER_ENTRY = "eplstm"
"""Where the header of the arrays' file repeats model.json."""
KINDS = ("reference", "composition")
OPTIMIZER_PARTS = ("step", "mean", "square")


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded: the message names the file, what was found, and the remedy."""


def save_model(
    model: ReferenceEpisodicLSTM | EpisodicLSTMComposition,
    folder: str | os.PathLike[str],
    *,
    notes: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save weights, memory and optimiser's state of a model, and its config.

    Args:
        model: the reference or the composition.
        folder: the checkpoint's folder; made if need be.
        notes: anything that JSON can hold; ``describe_model`` gives it back.
        overwrite: replace a checkpoint that is there already. Other files in its folder stay.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds a checkpoint and ``overwrite`` is False, or it holds something else.
        TypeError: the model is none of the two.
        ValueError: the model is not in float32 or float64 or holds values not finite, or JSON cannot hold the
            notes; nothing is written.
    """
    folder = Path(folder).absolute()
    kind = _kind_of(model)
    replaces = _check_place(folder, overwrite)
    arrays = _arrays_of(model)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "eplstm_version": version("eplstm"),
        "config": model.config.to_dict(),
        "dtype": arrays["weights.input_weight"].dtype.name,
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
        "sha256": _digest(arrays),
        "notes": {} if notes is None else notes,
    }
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
def load_model(folder: str | os.PathLike[str], kind: Literal["reference"]) -> ReferenceEpisodicLSTM: ...
@overload
def load_model(folder: str | os.PathLike[str], kind: Literal["composition"]) -> EpisodicLSTMComposition: ...
@overload
def load_model(
    folder: str | os.PathLike[str], kind: None = None
) -> ReferenceEpisodicLSTM | EpisodicLSTMComposition: ...


def load_model(
    folder: str | os.PathLike[str], kind: Literal["reference", "composition"] | None = None
) -> ReferenceEpisodicLSTM | EpisodicLSTMComposition:
    """Make the model that a checkpoint holds, with its weights, memory and optimiser's state.

    Args:
        folder: a folder written by ``save_model``.
        kind: the model to make, whichever was saved; None: as saved. The reference has the precision of what
            was saved, the composition float64.

    Raises:
        CheckpointError: the checkpoint is missing or damaged; nothing on disk is changed.
        ValueError: the kind is unknown.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"load_model: kind must be 'reference', 'composition' or None; got {kind!r}.")
    description, config, arrays = _read(Path(folder))
    if (kind or description["kind"]) == "reference":
        model = ReferenceEpisodicLSTM(config, seed=0)
        if description["dtype"] == "float64":
            model.double()
    else:
        from .composition import EpisodicLSTMComposition  # PsyNeuLink is slow to import: only where needed

        model = EpisodicLSTMComposition(config, seed=0)
    model.set_weights(_part(arrays, "weights"))
    model.set_memory(arrays["memory.keys"], arrays["memory.values"])
    model.set_optimizer_state(_part(arrays, "optimizer"))
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
    from .composition import EpisodicLSTMComposition

    if isinstance(model, EpisodicLSTMComposition):
        return "composition"
    raise TypeError(
        "save_model: the model must be a ReferenceEpisodicLSTM or an EpisodicLSTMComposition; "
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


def _arrays_of(model: ReferenceEpisodicLSTM | EpisodicLSTMComposition) -> dict[str, np.ndarray]:
    keys, values = model.memory()
    arrays = {
        **{f"weights.{name}": array for name, array in model.weights().items()},
        "memory.keys": keys,
        "memory.values": values,
        **{f"optimizer.{name}": array for name, array in model.optimizer_state().items()},
    }
    for name, array in arrays.items():
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
    if number != FORMAT_VERSION or isinstance(number, bool):
        _fail(
            path,
            f"format version {number!r}, written by eplstm {description.get('eplstm_version')!r}",
            f"This eplstm ({version('eplstm')}) reads version {FORMAT_VERSION}: install the one that wrote it.",
        )
    for name, allowed in (("kind", KINDS), ("dtype", ("float32", "float64"))):
        if description.get(name) not in allowed:
            _fail(path, f"{name} is {description.get(name)!r}, not one of {', '.join(allowed)}", again)
    for name, kind in (("config", dict), ("arrays", dict), ("sha256", str), ("notes", dict)):
        if not isinstance(description.get(name), kind):
            _fail(path, f"{name!r} is missing or no {kind.__name__}", again)
    try:
        return description, ModelConfig.from_dict(description["config"])
    except (TypeError, ValueError) as error:
        _fail(path, f"the config does not fit ({error})", again, error)


def _check_arrays(
    path: Path, description: dict[str, Any], config: ModelConfig, arrays: dict[str, np.ndarray]
) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in weight_shapes(config).items():
        shapes[f"weights.{name}"] = shape
        parts = {f"optimizer.step.{name}": shape[:1]}
        parts |= {f"optimizer.{part}.{name}": shape for part in OPTIMIZER_PARTS[1:]}
        if not parts.keys().isdisjoint(arrays.keys() | description["arrays"].keys()):
            shapes |= parts  # a weight that never got a gradient has no state
    keys = arrays.get("memory.keys")
    n_entries = len(keys) if keys is not None and keys.ndim else 0
    shapes |= {
        "memory.keys": (n_entries, config.key_size),
        "memory.values": (n_entries, config.hidden_size),
    }
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
        if array.dtype.name not in ("float32", "float64"):
            _fail(path, f"{name} is in {array.dtype} instead of float32 or float64", again)
        if name.startswith("weights.") and array.dtype.name != description["dtype"]:
            _fail(path, f"{name} is in {array.dtype} instead of {description['dtype']}", again)
        if not np.isfinite(array).all():
            _fail(path, f"{name} holds {np.count_nonzero(~np.isfinite(array))} values not finite", again)
    if unlisted := sorted(description["arrays"].keys() - shapes.keys()):
        _fail(path.with_name(DESCRIPTION_FILE), f"arrays listed that no model has: {unlisted}", again)
    if n_entries > config.memory_capacity:
        _fail(path, f"{n_entries} entries in a memory with a capacity of {config.memory_capacity}", again)


def _part(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    start = f"{part}."
    return {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
