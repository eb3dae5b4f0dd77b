"""Files and folders that are there whole or not at all."""

import os

import pytest
from eplstm.tasks.files import folder_written_whole, recover_folder, write_whole, written_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "größer")
    assert path.read_bytes() == "größer".encode()
    with pytest.raises(KeyboardInterrupt), written_whole(path) as passing:
        assert passing.suffix == ".txt"
        passing.write_text("half")
        raise KeyboardInterrupt
    assert (names(tmp_path), path.read_text()) == (["a.txt"], "größer")
    write_whole(path, b"new")
    assert (names(tmp_path), path.read_text()) == (["a.txt"], "new")


@pytest.fixture
def folder(tmp_path):
    with folder_written_whole(tmp_path / "made" / "f") as new:
        (new / "inner").mkdir()
        (new / "inner" / "a.txt").write_text("old")
    return tmp_path / "made" / "f"


def test_a_folder_is_replaced_with_all_that_is_in_it(folder):
    with pytest.raises(KeyboardInterrupt), folder_written_whole(folder) as new:
        (new / "b.txt").write_text("half")
        raise KeyboardInterrupt
    assert (folder / "inner" / "a.txt").read_text() == "old"
    assert names(folder.parent) == ["f"]
    with folder_written_whole(folder) as new:
        (new / "b.txt").write_text("new")
    assert (names(folder.parent), names(folder)) == (["f"], ["b.txt"])


@pytest.mark.parametrize("renamings", [0, 1, 2])
def test_after_a_process_is_killed_a_folder_is_the_old_or_the_new_one(renamings, folder):
    """Killed before, between and after the two renamings: what it leaves is put right by the next one."""
    new, old = folder.parent / ".f.new", folder.parent / ".f.old"
    new.mkdir()
    (new / "b.txt").write_text("new")
    for source, target in ((folder, old), (new, folder))[:renamings]:
        os.replace(source, target)
    recover_folder(folder)
    assert names(folder.parent) == ["f"]
    assert names(folder) == (["b.txt"] if renamings else ["inner"])
