"""Folders that belong to one thing, a run or pieces of work, and are never taken for another's.

settings.json    in each of them: what it is for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...tasks.files import write_whole

SETTINGS_FILE = "settings.json"
KINDS = {"run": ("run of eplstm", "another run"), "pieces": ("pieces of work", "other work")}
"""What a folder holds, and what it holds if it is not this one's."""
NOTHING = {"is": "nothing"}
MOST_TOLD = 5
"""Differences that a message names."""


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
            f"{path} holds {KINDS[kind][1]}: {told}. Choose another folder, take the same settings and code to go "
            "on with it, or overwrite it (--overwrite; overwrite=True), which deletes what it holds."
        )


def check_free(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Raise FileExistsError if a folder is a file, or holds one of these files, which may not be replaced."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose a folder.")
    for name in names:
        if (folder / name).exists() and not overwrite:
            raise FileExistsError(f"{folder / name} exists: choose another folder, or replace it (--overwrite).")


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
        f"{path} holds files that are no {KINDS[kind][0]} (no readable {SETTINGS_FILE}); nothing was changed. "
        "Choose another folder."
    )


def _difference(name: str, there: Any, here: Any) -> str:
    old, new = (
        value["is"] if isinstance(value, dict) and "is" in value else repr(value) for value in (there, here)
    )
    return f"{name} has changed" if old == new else f"{name} {old} instead of {new}"
