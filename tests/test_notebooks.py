"""Each notebook runs from its first cell to its last in the fast setting, and is committed as it was written."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from common import rarely
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CELL_TIMEOUT = 300
"""Seconds a cell may take: far above what it needs, for machines that are busy with other things."""
RARE = ("02_compare", "03_extend", "04_fit", "05_environments")
"""What they show has tests of its own: the ladder, checkpoints, nesting, control."""
TERMINAL_COLORS = re.compile(r"\x1b\[[0-9;]*m")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_are_there():
    assert {"01_build", "02_compare", "03_extend", "04_fit", "05_environments"} <= {
        path.stem for path in NOTEBOOKS
    }


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The manager of one kernel for all notebooks, which imports PsyNeuLink once."""
    folder = tmp_path_factory.mktemp("notebooks")
    settings = {"EPLSTM_FAST": "1", "OMP_NUM_THREADS": "1"}
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | settings  # figures go into the notebook
    client = NotebookClient(
        nbformat.v4.new_notebook(), kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel(env=env):
        yield client.km


@pytest.mark.parametrize(
    "path", [rarely(path) if path.stem in RARE else path for path in NOTEBOOKS], ids=lambda path: path.stem
)
def test_it_runs_in_the_fast_setting(path, kernel):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # no names of another notebook
    try:
        client = NotebookClient(notebook, km=kernel, timeout=CELL_TIMEOUT)
        client.execute()
        client.kc.stop_channels()
    except (CellExecutionError, CellTimeoutError) as error:
        pytest.fail(f"{path.name}: {TERMINAL_COLORS.sub('', str(error))}", pytrace=False)

    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not warned, f"{path.name} shows warnings or progress: {warned}"
    text = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "DIFFERS" not in text and "every rung holds: False" not in text, text
    assert any("image/png" in output.get("data", {}) for output in outputs), f"{path.name} shows no figure"


@each_notebook
def test_it_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    ran = [cell.id for cell in code_cells(notebook) if cell.outputs or cell.execution_count is not None]
    assert not ran, f"clear the outputs of {path.name} before you commit it (cells {ran})"
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_its_cells_have_ids_that_stay(path):
    """Ids are words given by hand; an editor that writes a notebook anew would draw others."""
    ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", name) for name in ids), ids
