"""Where results of pieces of work are kept: safe files, written whole, and refused to other work.

    STORE/
      settings.json          what the pieces belong to: the function, its code, and what results rest on beside it
      pieces/NAME-HASH.npz   a finished piece: arrays, and in ``content`` the rest as JSON
      failed/NAME-HASH.txt   why a piece failed, with its traceback; goes when the piece succeeds

All that is in a piece is under the checksums of its archive: a damaged file is seen, and never taken for a result.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...tasks.files import remove, write_whole
from .folders import check_folder, describe_folder
from .identity import code_of, fingerprint, full_name
from .plain_data import DamagedData, from_bytes, to_bytes

FINISHED, FAILED = "pieces", "failed"


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
        named = {"function": function, **(key or {})}
        settings = {
            name: {"is": _shown(value), "fingerprint": fingerprint(value)} for name, value in named.items()
        }
        for module, digest in code_of(function).items():
            settings[module] = {"is": "code", "fingerprint": digest}
        check_folder(self.path, "pieces", settings, overwrite=overwrite)
        for folder in (FINISHED, FAILED):
            if overwrite:
                remove(self.path / folder)
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        describe_folder(self.path, "pieces", settings)

    def read(self, name: str, made_from: Mapping[str, str]) -> Any:
        """The result of a finished piece.

        Args:
            name: the piece's.
            made_from: the fingerprint of each of its arguments.

        Raises:
            KeyError: there is none.
            DamagedData: its file is not whole, or holds something else.
            FileExistsError: it was made from other arguments.
        """
        file = self._file(FINISHED, name, ".npz")
        if not file.exists():
            raise KeyError(name)
        found = from_bytes(file.read_bytes())
        if not isinstance(found, dict) or found.get("name") != name:
            raise DamagedData("it holds something else")
        there = found["made_from"]
        differing = [each for each in {**there, **made_from} if there.get(each) != made_from.get(each)]
        if differing:
            raise FileExistsError(
                f"The piece {name!r} that is kept was made from other arguments ({', '.join(differing)}). Choose "
                "another folder, or overwrite this one (--overwrite; overwrite=True), which deletes its pieces."
            )
        return found["result"]

    def write(self, name: str, made_from: Mapping[str, str], result: Any) -> None:
        """Keep a finished piece."""
        whole = to_bytes({"name": name, "made_from": dict(made_from), "result": result})
        write_whole(self._file(FINISHED, name, ".npz"), whole)
        remove(self._file(FAILED, name, ".txt"))

    def write_failure(self, name: str, reason: str, traceback: str) -> None:
        """Keep why a piece failed."""
        write_whole(self._file(FAILED, name, ".txt"), f"{name}\n{reason}\n\n{traceback}")

    def _file(self, folder: str, name: str, ending: str) -> Path:
        # The hash tells names apart that file systems do not: "p/1" and "p_1", "P1" and "p1".
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:60].lstrip(".-")
        return (
            self.path / folder / f"{readable}-{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}{ending}"
        )


def _shown(value: Any) -> str:
    """A value for people to read, short."""
    if callable(value):
        return full_name(value)
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
