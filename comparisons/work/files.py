"""Files and folders that are there whole or not at all, and folders that belong to one thing alone.

settings.json    in each folder of a run or of pieces of work: what it is for. It is never taken for another's.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS_FILE = "settings.json"
NOTHING = {"is": "nothing"}
MOST_TOLD = 5
"""Differences that a message names."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the name under which to write a file, which then takes the place of ``path``; after an error it goes.

    The passing name has the same ending, and is its own: two that write at a time cannot mix.
    """
    passing = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield passing
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file of text or bytes; one that is there stays whole until the new one is."""
    with written_whole(path) as passing:
        passing.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Gives a new folder to write into, which then takes the place of ``path`` with all that is in it.

    A process that ends between the two renamings leaves no ``path``: call ``recover_folder`` before reading.
    """
    new, old = _passing(path)
    remove(new)
    new.mkdir()
    yield new
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    remove(old)


def recover_folder(path: Path) -> None:
    """Finish what a process left undone that ended within ``folder_written_whole``."""
    new, old = _passing(path)
    if old.exists() and not path.exists():
        os.replace(new if new.exists() else old, path)
    remove(old)
    remove(new)


def _passing(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- folders that belong to one thing ----------------------------------------------------------------


def check_folder(
    path: Path, kind: str, settings: Mapping[str, Any], *, free: Iterable[str] = (), overwrite: bool = False
) -> None:
    """Raise FileExistsError unless a folder is empty, missing, or already that of the same thing.

    Args:
        path: the folder; nothing is changed.
        kind: ``run`` or ``pieces``.
        settings: what it is for, as ``describe_folder`` writes it.
        free: names of settings that may differ.
        overwrite: other settings will do too, but not files that are of another kind.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose a folder.")
    if not path.is_dir() or all(entry.name.startswith(".") for entry in path.iterdir()):
        return
    there = _described(path, kind)
    differing = [
        _difference(name, there.get(name, NOTHING), settings.get(name, NOTHING))
        for name in {**there, **settings}
        if name not in free and there.get(name, NOTHING) != settings.get(name, NOTHING)
    ]
    if differing and not overwrite:
        told = ", ".join(differing[:MOST_TOLD])
        if len(differing) > MOST_TOLD:
            told += f" and {len(differing) - MOST_TOLD} more"
        raise FileExistsError(
            f"{path} holds {OTHER[kind]}: {told}. Choose another folder, take the same settings and code to go on "
            "with it, or overwrite it (--overwrite; overwrite=True), which deletes what it holds."
        )


KINDS = {"run": "run of eplstm", "pieces": "pieces of work"}
OTHER = {"run": "another run", "pieces": "other work"}


def describe_folder(path: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """Say in a folder what it is for; it is made if need be.

    Args:
        path: the folder.
        kind: ``run`` or ``pieces``.
        settings: for JSON. Of what JSON cannot hold, ``is`` says what it is, and ``fingerprint`` tells it apart.
    """
    path.mkdir(parents=True, exist_ok=True)
    content = {"format": f"eplstm-{kind}", "version": 1, "settings": settings}
    write_whole(path / SETTINGS_FILE, json.dumps(content, indent=2) + "\n")


def _described(path: Path, kind: str) -> dict[str, Any]:
    try:
        found = json.loads((path / SETTINGS_FILE).read_text(encoding="utf-8"))
        if found["format"] == f"eplstm-{kind}" and found["version"] == 1:
            return dict(found["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise FileExistsError(
        f"{path} holds files that are no {KINDS[kind]} (no readable {SETTINGS_FILE}); nothing was changed. Choose "
        "another folder."
    )


def _difference(name: str, there: Any, here: Any) -> str:
    old, new = (
        value["is"] if isinstance(value, dict) and "is" in value else repr(value) for value in (there, here)
    )
    return f"{name} has changed" if old == new else f"{name} {old} instead of {new}"
