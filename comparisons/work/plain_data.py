"""Plain data: what can be kept in a safe file and comes back as it was.

Plain data are None, bool, int, float, str, list, tuple, dict with str keys, numpy arrays and scalars, and pandas
DataFrames with a default index, nested as one likes. Not pickle: unpickling runs whatever a file says, and breaks
when a class moves.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

PLAIN_TYPES = "None, bool, int, float, str, list, tuple, dict with str keys, numpy arrays and scalars, DataFrames"


class DamagedData(Exception):
    """Bytes that do not hold what they should; the message says why."""


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
        f"({PLAIN_TYPES})."
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
