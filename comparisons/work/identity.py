"""What tells values and code apart: kept results are taken only for the same arguments and the same code."""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from .plain_data import PLAIN_TYPES

# ---- values ------------------------------------------------------------------------------------------


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
    whole = _whole(function)
    return f"{getattr(whole, '__module__', None)}.{getattr(whole, '__qualname__', None)}"


def _whole(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


# ---- code --------------------------------------------------------------------------------------------


def code_of(function: Callable[..., Any]) -> dict[str, str]:
    """The code that a function rests on: a digest of each module, by name.

    These are the function's module and what is imported from there, directly or not, as far as it belongs to this
    package or to that of the function; libraries do not count. Of a module counts what Python makes of it:
    comments, docstrings and layout may change. Of a script it is the script, and what it imports of this package;
    of a notebook the function alone, and nothing that it imports.
    """
    whole = _whole(function)
    start = getattr(whole, "__module__", None) or ""
    found, seen, waiting = {}, {""}, [start]
    if start == "__main__":
        found[start], imported = _digest(_text_of_main(whole), "")
        waiting = list(imported)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        digest, imported = _code(name)
        if digest:
            found[name] = digest
        waiting += [*imported, name.rpartition(".")[0]]  # importing a module executes those around it
    return dict(sorted(found.items()))


def differing_modules(code: Mapping[str, str]) -> list[str]:
    """Modules of ``code_of`` whose code is another one here; scripts travel with their functions."""
    return [name for name, digest in code.items() if name != "__main__" and _code(name)[0] != digest]


@functools.cache
def _code(module: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a module and the names of what it imports; of what has no source, nothing."""
    spec = _spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return "", ()
    with open(spec.origin, "rb") as file:
        return _digest(file.read(), module if _is_package(spec) else module.rpartition(".")[0])


def _spec(module: str) -> Any:
    """Where a module is, without importing it; None: there is none."""
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _is_package(spec: Any) -> bool:
    return spec is not None and spec.submodule_search_locations is not None


def _digest(source: str | bytes, package: str) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(source)
    imports = tuple(sorted(set(_imports(tree, package))))
    text = ast.unparse(_WithoutStrings().visit(tree))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), imports


def _imports(tree: ast.AST, package: str) -> Iterable[str]:
    """Names of the modules that may be imported anywhere in a module, as far as they count."""
    counting = {name.partition(".")[0] for name in (package, __name__)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = {alias.name: () for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(name, package) if node.level else name
            named = {base: [alias.name for alias in node.names]}
        else:
            continue
        for base, inner in named.items():
            if base.partition(".")[0] in counting:
                yield base
                if inner and _is_package(_spec(base)):
                    yield from (f"{base}.{name}" for name in inner)


class _WithoutStrings(ast.NodeTransformer):
    """Leaves out statements that are nothing but text."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """None if it is one."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _text_of_main(function: Any) -> str:
    try:
        return inspect.getsource(sys.modules["__main__"])
    except (OSError, TypeError):  # a notebook
        return textwrap.dedent(inspect.getsource(function))
