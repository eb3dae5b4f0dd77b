"""Plain data: what can be kept in a safe file and comes back as it was; and fingerprints, which tell values apart.

Plain data are None, bool, int, float, str, list, tuple, dict with str keys, numpy arrays and scalars, and pandas
DataFrames with a default index, nested as one likes. Not pickle: unpickling runs whatever a file says, and breaks
when a class moves. A ``Codec`` makes plain data of richer results, and makes them anew.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

PLAIN_TYPES = "None, bool, int, float, str, list, tuple, dict with str keys, numpy arrays and scalars, DataFrames"


class DamagedData(Exception):
    """Bytes that do not hold what they should; the message says why."""


def unchanged(value: Any) -> Any:
    """The value itself."""
    return value


@dataclass(frozen=True)
class Codec:
    """How a result becomes plain data and is made anew: two functions of a module, for all processes to share."""

    to_plain: Callable[[Any], Any] = unchanged
    """From a result to plain data."""
    from_plain: Callable[[Any], Any] = unchanged
    """The inverse."""


PLAIN = Codec()
"""For results that are plain data themselves."""


# ---- plain data as bytes ---------------------------------------------------------------------------------------


def to_bytes(value: Any) -> bytes:
    """Plain data as the bytes of an .npz file: the same bytes for the same data.

    Raises:
        TypeError: something in it is no plain data; the message says where, and what it is.
    """
    arrays: dict[str, np.ndarray] = {}
    content = json.dumps(_tree(value, "result", arrays))
    arrays["content"] = np.frombuffer(content.encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def from_bytes(data: bytes) -> Any:
    """The inverse of ``to_bytes``.

    Raises:
        DamagedData: the bytes are not whole, or are something else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}  # reading checks the checksums
        return _value(json.loads(arrays.pop("content").tobytes()), arrays)
    except Exception as error:  # what is wrong with a damaged archive shows as almost any error
        raise DamagedData(f"{type(error).__name__}: {error}") from None


def _tree(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """What JSON can hold of the value; arrays go into ``arrays``. Dictionaries with one key say what a node is."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        nodes = [_tree(each, f"{place}[{k}]", arrays) for k, each in enumerate(value)]
        return nodes if kind is list else {"tuple": nodes}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: _tree(each, f"{place}[{key!r}]", arrays) for key, each in value.items()}}
    if isinstance(value, np.generic) or (kind is np.ndarray and not value.dtype.hasobject):
        arrays[name := str(len(arrays))] = np.asarray(value)
        return {"array" if kind is np.ndarray else "scalar": name}
    if kind is pd.DataFrame:
        return {"frame": _frame_tree(value, place, arrays)}
    raise TypeError(
        f"{place} is of the type {kind.__module__}.{kind.__qualname__}, which is not kept. Return plain data "
        f"({PLAIN_TYPES}), or give a Codec."
    )


def _frame_tree(frame: pd.DataFrame, place: str, arrays: dict[str, np.ndarray]) -> list[Any]:
    """A list of name, dtype and values of each column."""
    columns = []
    for name, column in frame.items():
        values = column.to_numpy() if isinstance(column.dtype, np.dtype) else column.to_numpy(object)
        plain = values.tolist() if values.dtype.hasobject else values
        where = f"{place}[{name!r}]"
        columns.append([str(name), str(column.dtype), _tree(plain, where, arrays)])
    anew = _value({"frame": columns}, arrays)
    try:
        pd.testing.assert_frame_equal(frame, anew, check_exact=True)
    except AssertionError as error:
        raise TypeError(
            f"{place} is a table that would not come back as it is ({' '.join(str(error).split())}). Reset its "
            "index, give its columns text as names, and numbers or text as values."
        ) from None
    return columns


def _value(node: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of ``_tree``."""
    if isinstance(node, list):
        return [_value(each, arrays) for each in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "dict":
        return {key: _value(each, arrays) for key, each in content.items()}
    if kind == "tuple":
        return tuple(_value(each, arrays) for each in content)
    if kind == "frame":
        made = [pd.Series(_value(each, arrays), dtype=dtype) for _, dtype, each in content]
        return pd.concat(made, axis=1, keys=[name for name, _, _ in content]) if made else pd.DataFrame()
    return arrays[content] if kind == "array" else arrays[content][()]


# ---- fingerprints ----------------------------------------------------------------------------------------------


def fingerprint(value: Any) -> str:
    """32 hex digits that are the same for equal values, in every process and on every machine.

    Args:
        value: plain data, sets, tensors, paths, bytes, functions and classes (by name), ``functools.partial``s and
            dataclasses, nested as one likes. Dictionaries are equal whatever their order.

    Raises:
        TypeError: something in it is of another type, and cannot be told from others; the message says where.
    """
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest.update, value, "value")
    return digest.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any, place: str) -> None:
    """Feed a value to a hash: its type, its length, and its parts, so that no two values are fed alike."""

    def put(tag: str, *parts: Any) -> None:
        update(f"({tag} {len(parts)} ".encode())
        for k, part in enumerate(parts):
            if isinstance(part, bytes):
                update(f"{len(part)}:".encode() + part)
            else:
                _feed(update, part, f"{place}[{k}]")

    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if value is None or value is pd.NA or kind in (bool, int, float, str):
        put(kind.__name__, repr(value).encode())
    elif kind is bytes:
        put("bytes", value)
    elif isinstance(value, enum.Enum):
        put("enum", name, value.name)
    elif isinstance(value, os.PathLike):
        put("path", os.fspath(value))
    elif isinstance(value, torch.Tensor):
        put("tensor", value.detach().cpu().numpy())
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        whole = array.tolist() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
        put(kind.__name__, array.dtype.str, list(array.shape), whole)
    elif isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        frame = value.to_frame() if not isinstance(value, pd.DataFrame) else value
        index = [] if isinstance(value, pd.Index) else value.index.tolist()
        cells = [[str(frame.dtypes.iloc[k]), frame.iloc[:, k].tolist()] for k in range(frame.shape[1])]
        put(kind.__name__, frame.columns.tolist(), index, cells)
    elif kind in (list, tuple):
        put(kind.__name__, *value)
    elif isinstance(value, (set, frozenset)):
        put("set", *sorted(fingerprint(each) for each in value))
    elif isinstance(value, Mapping):
        put("dict", *sorted((fingerprint(key), fingerprint(each)) for key, each in value.items()))
    elif isinstance(value, functools.partial):
        put("partial", value.func, value.args, value.keywords)
    elif (inspect.isfunction(value) or inspect.isclass(value)) and "<" not in value.__qualname__:
        put("name", full_name(value))
    elif is_dataclass(value):
        put(name, {field.name: getattr(value, field.name) for field in fields(value)})
    else:
        raise TypeError(
            f"{place} is of the type {name}, of which no two can be told apart for certain. Give plain data "
            f"({PLAIN_TYPES}), tensors or dataclasses of them, from which the piece makes the object."
        )


def full_name(function: Any) -> str:
    """Module and name of a function or class; of a partial one, that of the whole."""
    while isinstance(function, functools.partial):
        function = function.func
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}"
