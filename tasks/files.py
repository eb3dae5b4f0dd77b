"""Files and folders, of models and of results, that are there whole or not at all, whatever interrupts writing."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the name under which to write a file, which then takes the place of ``path``; after an error it goes.

    The passing name has the same ending, and is its own: two that write at a time cannot mix.
    """
    passing = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield passing
        _to_disk(passing)
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

    After an error it goes. A process that is killed between the two renamings leaves no ``path``: call
    ``recover_folder`` before reading.
    """
    new, old = _passing(path)
    recover_folder(path)
    new.mkdir(parents=True)
    try:
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                _to_disk(file)
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
    finally:
        recover_folder(path)


def recover_folder(path: Path) -> None:
    """Finish what a process left undone that ended within ``folder_written_whole``."""
    new, old = _passing(path)
    if old.exists() and not path.exists():
        os.replace(new if new.exists() else old, path)
    remove(old)
    remove(new)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _passing(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")


def _to_disk(path: Path) -> None:
    """Before it takes the place of anything."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
