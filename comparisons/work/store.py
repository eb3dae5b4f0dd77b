"""Where results of pieces of work are kept: safe files, written whole, and refused to other work.

    STORE/
      work.json              what the pieces belong to: the function, and what its results rest on
      pieces/NAME-HASH.npz   a finished piece: arrays, and in ``content`` the rest as JSON
      failed/NAME-HASH.txt   why a piece failed, with its traceback; goes when the piece succeeds

All that is in a piece is under the checksums of its archive: a damaged file is seen, and never taken for a result.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .plain_data import DamagedData, fingerprint, from_bytes, full_name, to_bytes

FORMAT, FORMAT_VERSION = "eplstm-pieces", 1
WORK_FILE, FINISHED, FAILED = "work.json", "pieces", "failed"
REMEDY = "Choose another folder, or overwrite this one (overwrite=True), which deletes its pieces."


class PieceStore:
    """A folder of finished pieces; opening it makes it if need be, and harms nothing if it holds other work.

    Args:
        path: the folder.
        function: what makes the pieces; of a ``functools.partial`` its arguments count too.
        key: what the results rest on beside function and arguments, by name.
        overwrite: start anew in place of other work, or of the same.

    Raises:
        FileExistsError: it holds other work, or files that are no pieces of work (those are never overwritten).
        TypeError: the function or the key hold what cannot be told from others.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        function: Callable[..., Any],
        key: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        named = {"function": function, "version of eplstm": version("eplstm"), **(key or {})}
        work = {name: {"fingerprint": fingerprint(value), "is": _shown(value)} for name, value in named.items()}
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file; choose a folder to keep pieces of work in.")
        if self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            there = self._read_work()
            if not overwrite:
                self._check_same(there, work)
            else:
                for folder in (FINISHED, FAILED):
                    shutil.rmtree(self.path / folder, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "version": FORMAT_VERSION, "work": work}
        _write_whole(self.path / WORK_FILE, (json.dumps(content, indent=2) + "\n").encode())
        for folder in (FINISHED, FAILED):
            (self.path / folder).mkdir(exist_ok=True)

    def _read_work(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / WORK_FILE).read_text(encoding="utf-8"))
            if found["format"] == FORMAT and found["version"] == FORMAT_VERSION:
                return found["work"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise FileExistsError(
            f"{self.path} holds files that are no pieces of work (no readable {WORK_FILE}); nothing was changed. "
            "Choose another folder."
        )

    def _check_same(self, there: dict[str, Any], work: dict[str, Any]) -> None:
        nothing = {"fingerprint": None, "is": "nothing"}
        differing = [
            f"{name} {old['is']} instead of {new['is']}"
            for name in {**there, **work}
            for old, new in [(there.get(name, nothing), work.get(name, nothing))]
            if old["fingerprint"] != new["fingerprint"]
        ]
        if differing:
            raise FileExistsError(f"{self.path} holds other work: {', '.join(differing)}. {REMEDY}")

    def read(self, name: str) -> bytes | None:
        """A finished piece as it was written, for ``unpack``; None if there is none."""
        file = self._file(FINISHED, name, ".npz")
        return file.read_bytes() if file.exists() else None

    def write(self, name: str, data: bytes) -> None:
        """Keep a finished piece, as ``pack`` gives it."""
        _write_whole(self._file(FINISHED, name, ".npz"), data)
        self._file(FAILED, name, ".txt").unlink(missing_ok=True)

    def write_failure(self, name: str, reason: str, traceback: str) -> Path:
        """Keep why a piece failed; gives the file."""
        file = self._file(FAILED, name, ".txt")
        _write_whole(file, f"{name}\n{reason}\n\n{traceback}".encode())
        return file

    def _file(self, folder: str, name: str, ending: str) -> Path:
        # The hash tells names apart that file systems do not: "p/1" and "p_1", "P1" and "p1".
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:60].lstrip(".-")
        return (
            self.path / folder / f"{readable}-{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}{ending}"
        )


def pack(name: str, made_from: Mapping[str, str], result: Any) -> bytes:
    """A finished piece as ``PieceStore.write`` keeps it; raises TypeError if the result is no plain data."""
    return to_bytes({"format": FORMAT, "name": name, "made_from": dict(made_from), "result": result})


def unpack(data: bytes, name: str, made_from: Mapping[str, str]) -> Any:
    """The result of a piece, of the bytes that ``pack`` made of it.

    Args:
        data: the bytes.
        name: the piece's.
        made_from: the fingerprint of each of its arguments.

    Raises:
        DamagedData: they are not whole, or hold something else.
        FileExistsError: the piece was made from other arguments.
    """
    found = from_bytes(data)
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("name") != name:
        raise DamagedData("it holds something else")
    there = found["made_from"]
    differing = [each for each in {**there, **made_from} if there.get(each) != made_from.get(each)]
    if differing:
        raise FileExistsError(
            f"The piece {name!r} that is kept was made from other arguments ({', '.join(differing)}). {REMEDY}"
        )
    return found["result"]


def _shown(value: Any) -> str:
    """A value for people to read, short."""
    if callable(value):
        return full_name(value)
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole, or not at all. Its passing name is its own: two runs cannot mix."""
    passing = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        passing.write_bytes(data)
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)
