"""Pieces of work: the same results from everywhere; nothing is lost to failures, kills, Ctrl-C or damage."""

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from eplstm.comparisons.progress import progress_bar
from eplstm.comparisons.work.identity import code_of, fingerprint
from eplstm.comparisons.work.pieces import Piece, run_pieces, seed_of
from eplstm.comparisons.work.places import slurm_cluster
from eplstm.comparisons.work.plain_data import DamagedData, from_bytes, to_bytes
from rich.console import Console

HERE = str(Path(__file__).parent)
DIED = "its process ended, also when the piece ran alone; out of memory?"


@pytest.fixture
def functions(monkeypatch):
    """``piece_functions.py``, which processes that are started meanwhile can import too."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)
    return importlib.import_module("piece_functions")


@pytest.fixture
def cores():
    """Processes of this machine, which know the path to ``piece_functions.py``, and end with the test."""
    from joblib.externals.loky import get_reusable_executor

    yield 2
    get_reusable_executor().shutdown(kill_workers=True)


def same(a, b):
    """Equal to the last bit, types and all."""
    return to_bytes(a) == to_bytes(b)


def contents(folder):
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# ---- plain data ------------------------------------------------------------------------------------------------


def test_plain_data_come_back_as_they_were():
    frame = pd.DataFrame({"id": ["a", None], "n": [1, 2], "x": [0.1, np.nan], "ok": [True, False]})
    value = {
        "none": None,
        "numbers": [True, 2**70, 0.1 + 0.2, float("nan"), -float("inf")],
        "tuple": ((), ("ä\n", [])),
        "scalars": [np.float32(0.1), np.int64(-1), np.bool_(True)],
        "arrays": [np.arange(6).reshape(2, 3).T, np.zeros((0, 3)), np.array("text"), np.array(["a", "bc"])],
        "frames": [frame, pd.DataFrame(), frame.iloc[:0]],
        "dict": {"array": 1},
    }
    back = from_bytes(to_bytes(value))
    assert same(back, value)
    assert type(back["tuple"]) is tuple and type(back["scalars"][0]) is np.float32
    assert back["numbers"][1:3] == value["numbers"][1:3]
    np.testing.assert_array_equal(back["arrays"][0], value["arrays"][0])
    pd.testing.assert_frame_equal(back["frames"][0], frame, check_exact=True)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [0, {1, 2}]}, r"result\['a'\]\[1\] is of the type builtins.set"),
        ({1: 2}, "result is of the type builtins.dict"),
        (np.array([None]), "numpy.ndarray"),
        (torch.zeros(2), "torch.Tensor"),
        ([pd.DataFrame({"x": [1]}, index=["a"])], r"result\[0\] is a table that would not come back"),
        (pd.DataFrame({"x": pd.Categorical(["a"], ["b", "a"])}), "would not come back"),
        (pd.DataFrame(index=range(2)), "would not come back"),
    ],
)
def test_what_would_not_come_back_is_refused(value, where):
    with pytest.raises(TypeError, match=where):
        to_bytes(value)


def test_damage_is_never_taken_for_a_result():
    result = {"z": np.arange(40.0), "names": ["a", "b"]}
    data = to_bytes(result)
    rng = np.random.default_rng(0)
    damaged = [data[:n] for n in range(0, len(data), 97)]
    for place in rng.choice(len(data), 300, replace=False):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(changed))
    caught = 0
    for each in damaged:
        try:
            assert same(from_bytes(each), result)  # some bits say nothing that matters, such as a date
        except DamagedData:
            caught += 1
    assert caught > len(damaged) / 2


def test_a_file_cannot_run_code(functions, tmp_path):
    file = tmp_path / "piece.npz"
    np.savez(file, content=np.array([functions.Touching(tmp_path / "touched")], object), allow_pickle=True)
    with pytest.raises(DamagedData, match="allow_pickle=False"):
        from_bytes(file.read_bytes())
    assert not (tmp_path / "touched").exists()


# ---- what tells values and code apart --------------------------------------------------------------------------


def test_fingerprints_and_seeds_are_those_of_every_process(functions):
    """Recorded once: were they to change, kept pieces would be refused, and studies would draw anew."""
    assert fingerprint({"b": (1, 2.5), "a": [None, "x", np.eye(2)]}) == "f9b887f11e99d8f4e65832ad8e84857e"
    assert seed_of(2018, "p1") == 283492290113355163
    assert len({seed_of(s, name) for s in range(20) for name in map(str, range(50))}) == 1000
    assert 0 <= min(seed_of(0, str(k)) for k in range(50)) < max(seed_of(0, str(k)) for k in range(50)) < 2**63


def test_fingerprints_tell_values_apart(functions):
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    values = [
        None, True, 1, 1.0, "1", b"1", [1], (1,), {1}, {"1": 1}, [[1], []], [[], [1]], ["ab", "c"], ["a", "bc"],
        np.array([1]), np.array([1.0]), np.array([[1]]), np.int64(1), torch.tensor([1]),
        np.array(["1", None], object), Path("1"), frame, frame.rename(columns={"x": "y"}), frame.iloc[::-1],
        frame["x"], functions.drawn, functions.Estimate, functools.partial(functions.drawn, seed=1),
        functools.partial(functions.drawn, seed=2), functions.estimate(1), functions.estimate(2),
    ]  # fmt: skip
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(np.arange(6).reshape(2, 3).T) == fingerprint(np.arange(6).reshape(2, 3).T.copy())


@pytest.mark.parametrize("value", [object(), lambda: 1, [].append, np.random.default_rng(0)])
def test_what_cannot_be_told_apart_has_no_fingerprint(value):
    with pytest.raises(TypeError, match=r"value\[0\].*no two can be told apart"):
        fingerprint([value])


CODE = {
    "__init__": "",
    "top": "from .inner import deep\nimport math\n\ndef one():\n    return deep.two()\n",
    "inner/__init__": "LEVEL = 1\n",
    "inner/deep": "def two():\n    from .. import aside\n    return aside.THREE\n",
    "aside": "THREE = 3\n",
    "unused": "FOUR = 4\n",
}
"""A user's package, by module."""
AS_BEFORE = '"""Text."""\ndef two():\n    "More."\n    from .. import  aside # why\n\n    return (aside.THREE)'


def code_of_package(folder, name, changes):
    """``code_of`` the function of a package of this name, by module."""
    for module, text in (CODE | changes).items():
        file = folder / name / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    importlib.invalidate_caches()
    found = code_of(importlib.import_module(f"{name}.top").one)
    return {module.removeprefix(name): digest for module, digest in found.items()}


@pytest.mark.parametrize(
    ("module", "text", "other"),
    [
        ("inner/deep", AS_BEFORE, []),
        ("unused", "FOUR = 5\n", []),
        ("top", CODE["top"].replace("deep.two()", "deep.two() + 1"), [".top"]),
        ("inner/deep", CODE["inner/deep"].replace("THREE", "THREE + 1"), [".inner.deep"]),
        ("inner/__init__", "LEVEL = 2\n", [".inner"]),
        ("aside", "THREE = '3'\n", [".aside"]),
    ],
)
def test_code_is_other_code_if_python_makes_something_else_of_it(module, text, other, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"lab{abs(hash((module, text)))}"
    before, after = code_of_package(tmp_path, name, {}), code_of_package(tmp_path, f"{name}b", {module: text})
    assert set(before) == {"", ".top", ".inner", ".inner.deep", ".aside"} == set(after)
    assert [each for each in before if before[each] != after[each]] == other


def test_the_code_of_a_function_of_this_package_is_what_it_imports(functions):
    found = code_of(run_pieces)
    assert {"eplstm.comparisons.work.pieces", "eplstm.comparisons.work.plain_data"} <= set(found)
    assert not [name for name in found if "models" in name or "torch" in name]
    assert "piece_functions" in code_of(functions.drawn) and set(found) < set(code_of(functions.drawn))


# ---- in this process -------------------------------------------------------------------------------------------


def test_results_stand_in_order_and_depend_on_the_piece_alone(functions):
    work = functions.pieces(4)
    done = run_pieces(functions.drawn, work)
    assert list(done.results) == ["p0", "p1", "p2", "p3"] and not done.failures
    assert len({each["sum"] for each in done.results.values()}) == 4
    again = run_pieces(functions.drawn, work[:1:-1])
    assert list(again.results) == ["p3", "p2"]
    assert same(again.results["p2"], done.results["p2"])
    assert done.summary() == "4 of 4 pieces done."


def test_a_piece_does_not_reach_the_arguments_of_the_next(functions):
    shared = []
    done = run_pieces(functions.appending, [Piece(name, {"values": shared}) for name in "ab"])
    assert done.results == {"a": 1, "b": 1} and not shared


def test_one_thread_while_pieces_run_and_as_many_as_before_afterwards(functions):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert run_pieces(functions.drawn, functions.pieces(1)).results["p0"]["threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_pieces(functions, tmp_path):
    assert run_pieces(functions.drawn, [], store=tmp_path / "s").summary() == "0 of 0 pieces done."


def test_finished_pieces_are_kept(functions, tmp_path, monkeypatch):
    store, told = tmp_path / "a" / "store", []
    first = run_pieces(functions.drawn, functions.pieces(2), store=store)
    monkeypatch.setattr(functions, "time", None)  # a piece that runs again raises AttributeError
    more = run_pieces(functions.drawn, functions.pieces(3), store=store, progress=lambda *each: told.append(each))
    assert more.kept == ("p0", "p1") and list(more.failures) == ["p2"]
    assert told == [(2, 3, 0), (3, 3, 1)]
    for name in more.kept:
        assert same(more.results[name], first.results[name])
    assert sorted(file.name.split("-")[0] for file in (store / "pieces").iterdir()) == ["p0", "p1"]


def test_a_result_that_cannot_be_kept_is_a_failure(functions):
    failed = run_pieces(functions.estimate, [Piece("one", {"size": 3})]).failures["one"]
    assert "plain data" in failed and "Estimate" in failed


def test_names_that_file_systems_mix_up(functions, tmp_path):
    names = ["p/1", "p_1", "P_1", "..", "a" * 300, "ä", "ö"]
    work = [Piece(name, {"seed": k}) for k, name in enumerate(names)]
    done = run_pieces(functions.drawn, work, store=tmp_path / "s")
    kept = run_pieces(functions.drawn, work, store=tmp_path / "s")
    assert kept.kept == tuple(names) and same(kept.results, done.results)
    files = {file.name.lower() for file in (tmp_path / "s" / "pieces").iterdir()}
    assert len(files) == len(names)


def test_a_damaged_piece_is_computed_again_and_said(functions, tmp_path):
    store, work = tmp_path / "s", functions.pieces(3)
    first = run_pieces(functions.drawn, work, store=store)
    files = sorted((store / "pieces").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[2].write_bytes(files[1].read_bytes())  # whole, but another's
    second = run_pieces(functions.drawn, work, store=store)
    assert second.kept == ("p1",) and list(second.damaged) == ["p0", "p2"]
    assert same(second.results, first.results) and list(second.results) == ["p0", "p1", "p2"]
    assert "p2: computed again" in second.summary() and "something else" in second.summary()
    assert run_pieces(functions.drawn, work, store=store).kept == ("p0", "p1", "p2")


def test_a_store_of_other_work_is_refused_and_left_alone(functions, tmp_path):
    store, work = tmp_path / "s", functions.pieces(1)
    run = functools.partial(run_pieces, store=store)
    run(functions.drawn, work, key={"trials": 120})
    before = contents(store)
    with pytest.raises(FileExistsError, match=r"other work: trials 120 instead of 60\. .*overwrite"):
        run(functions.drawn, work, key={"trials": 60})
    with pytest.raises(FileExistsError, match="trials 120 instead of nothing"):
        run(functions.drawn, work)
    with pytest.raises(FileExistsError, match=r"function piece_functions\.drawn instead of piece_functions\.b"):
        run(functions.behaving, work, key={"trials": 120})
    with pytest.raises(FileExistsError, match=r"'p0'.*other arguments \(seed\)"):
        run(functions.drawn, [Piece("p0", {"seed": 1})], key={"trials": 120})
    with pytest.raises(FileExistsError, match=r"other arguments \(wait\)"):
        run(functions.drawn, functions.pieces(1, wait=0.0), key={"trials": 120})
    assert contents(store) == before
    anew = run(functions.drawn, work, key={"trials": 60}, overwrite=True)
    assert anew.kept == () and run(functions.drawn, work, key={"trials": 60}).kept == ("p0",)


def test_results_of_other_code_are_other_work(functions, tmp_path):
    store, work = tmp_path / "s", functions.pieces(1)
    run_pieces(functions.drawn, work, store=store)
    content = json.loads((store / "settings.json").read_text())
    content["settings"]["piece_functions"]["fingerprint"] = "of other code"
    (store / "settings.json").write_text(json.dumps(content))
    with pytest.raises(FileExistsError, match=r"other work: piece_functions has changed\. "):
        run_pieces(functions.drawn, work, store=store)


def test_foreign_files_are_never_overwritten(functions, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="no pieces of work"):
            run_pieces(functions.drawn, functions.pieces(1), store=tmp_path, overwrite=overwrite)
    with pytest.raises(FileExistsError, match="is a file"):
        run_pieces(functions.drawn, functions.pieces(1), store=tmp_path / "thesis.tex")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failing_piece_is_reported_and_tried_again(functions, tmp_path):
    store, marker = tmp_path / "s", tmp_path / "marker"
    work = [Piece("a", {"marker": marker, "value": 1}), Piece("b", {"marker": tmp_path, "value": 2})]
    first = run_pieces(functions.failing_until, work, store=store)
    assert first.results == {"b": 2} and first.failures == {"a": "ValueError: not yet"}
    assert "failing_until" in first.tracebacks["a"]
    (file,) = (store / "failed").iterdir()
    assert "failing_until" in file.read_text() and str(store / "failed") in first.summary()
    marker.touch()
    second = run_pieces(functions.failing_until, work, store=store)
    assert second.results == {"a": 1, "b": 2} and second.kept == ("b",) and not second.failures
    assert not list((store / "failed").iterdir())
    assert run_pieces(functions.leaving, [Piece("x")]).failures == {"x": "SystemExit: done with it"}


def test_an_interrupted_study_goes_on(functions, tmp_path):
    store, marker = tmp_path / "s", tmp_path / "marker"
    work = [Piece(f"p{k}", {"marker": marker, "value": k}) for k in range(5)]
    with pytest.raises(KeyboardInterrupt, match=r"2 of 5 pieces are done, and kept in .*Give the same call again"):
        run_pieces(functions.interrupting_until, work, store=store)
    with pytest.raises(KeyboardInterrupt, match="not kept"):
        run_pieces(functions.interrupting_until, work)
    marker.touch()
    done = run_pieces(functions.interrupting_until, work, store=store)
    assert done.kept == ("p0", "p1") and done.results == {f"p{k}": k for k in range(5)}


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda f: Piece(""), ValueError, "name must be text; got ''"),
        (lambda f: run_pieces(f.drawn, [*f.pieces(1), *f.pieces(1)]), ValueError, "two pieces have the name 'p0'"),
        (lambda f: run_pieces(f.drawn, [], where=-1), ValueError, "where must be a number of processes.*got -1"),
        (lambda f: run_pieces(f.drawn, [], where=None), ValueError, "got None"),
        (lambda f: seed_of(-1, "a"), ValueError, "≥ 0; got -1"),
        (lambda f: slurm_cluster(0, "01:00:00"), ValueError, "at least 1; got 0 and 1"),
    ],
)
def test_wrong_use(functions, make, error, text):
    with pytest.raises(error, match=text):
        make(functions)


def test_arguments_without_a_fingerprint_are_named(functions, tmp_path):
    work = [Piece("p0", {"seed": np.random.default_rng(0)})]
    with pytest.raises(TypeError, match="Piece 'p0', argument 'seed': value is of the type numpy"):
        run_pieces(functions.drawn, work, store=tmp_path / "s")


def test_the_progress_bar_tells_what_is_done_and_what_failed(functions, tmp_path):
    console = Console(record=True, width=100, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    work = [Piece(f"p{k}", {"marker": tmp_path / "no", "value": 1}) for k in range(3)]
    with console.file, progress_bar(console, "Recovery [x]") as progress:
        run_pieces(functions.failing_until, work, progress=progress)
        console.print("")
    text = console.export_text()
    assert "Recovery [x]" in text and "3/3" in text and "3 failed" in text


# ---- other processes -------------------------------------------------------------------------------------------


def behaving_pieces(tmp_path, *how):
    return [
        Piece(f"p{k}", {"seed": k, "how": each, "marker": tmp_path / f"marker{k}"}) for k, each in enumerate(how)
    ]


def drawn_here(functions, *which):
    return run_pieces(functions.drawn, [Piece(f"p{k}", {"seed": k}) for k in which]).results


def test_processes_give_the_same(functions, tmp_path, cores):
    work = [*functions.pieces(4), Piece("bad", {"seed": "none"})]
    done = run_pieces(functions.drawn, work, store=tmp_path / "s", where=cores)
    assert list(done.failures) == ["bad"] and "in drawn" in done.tracebacks["bad"]
    assert same(done.results, run_pieces(functions.drawn, work[:4]).results)
    assert run_pieces(functions.drawn, work[:4], store=tmp_path / "s").kept == ("p0", "p1", "p2", "p3")


@pytest.mark.slow
def test_nothing_is_lost_to_a_process_that_dies(functions, tmp_path, cores):
    work = behaving_pieces(tmp_path, "draws", "kills once", "fails", "draws", "draws", "kills", *["draws"] * 3)
    done = run_pieces(functions.behaving, work, where=cores)
    assert done.failures == {"p2": "ValueError: seed 2 is bad", "p5": DIED}
    assert "in behaving" in done.tracebacks["p2"] and "SIGKILL" in done.tracebacks["p5"]
    assert list(done.results) == ["p0", "p1", "p3", "p4", "p6", "p7", "p8"]
    assert same(done.results, drawn_here(functions, 0, 1, 3, 4, 6, 7, 8))


def start_study(store, place):
    command = [sys.executable, str(Path(HERE) / "piece_functions.py"), str(store), place]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def check_resumed(functions, store, least):
    """What a study that was stopped kept is used, and the rest is as if it had not been stopped."""
    work = functions.pieces(8, wait=0.25)
    started = time.perf_counter()
    done = run_pieces(functions.drawn, work, store=store)
    assert least <= len(done.kept) < 8 and not done.damaged and len(done.results) == 8
    assert time.perf_counter() - started > 0.25 * (8 - len(done.kept))
    assert same(done.results, run_pieces(functions.drawn, functions.pieces(8)).results)


@pytest.mark.slow
def test_a_killed_study_goes_on(functions, tmp_path):
    study = start_study(tmp_path / "s", "1")
    with study:
        for line in study.stdout:
            if line.startswith("3 8"):
                os.kill(study.pid, signal.SIGKILL)
                break
    assert study.returncode == -signal.SIGKILL
    check_resumed(functions, tmp_path / "s", least=3)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_interrupted_study_on_cores_goes_on_and_leaves_no_process(functions, tmp_path, how):
    """SIGKILL reaches the study alone; Ctrl-C, as in a terminal, its processes too."""
    psutil = pytest.importorskip("psutil")
    study, children = start_study(tmp_path / "s", "2"), []
    with study:
        for line in study.stdout:
            if line.startswith("3 8"):
                children = psutil.Process(study.pid).children(recursive=True)
                os.killpg(study.pid, how) if how == signal.SIGINT else os.kill(study.pid, how)
                break
        errors = study.stderr.read()
    assert len(children) >= 2
    assert not psutil.wait_procs(children, timeout=10)[1]
    if how == signal.SIGINT:
        assert "Give the same call again" in errors and errors.count("Traceback") == 1
    check_resumed(functions, tmp_path / "s", least=3)


@pytest.mark.slow
def test_the_functions_of_a_script_run_in_processes_too(tmp_path):
    """Without a guard for __main__, which processes do not execute."""
    (tmp_path / "script.py").write_text(
        "from eplstm.comparisons.work.pieces import Piece, run_pieces\n"
        "def one(value):\n    return {'twice': double(value)}\n"
        "def double(value):\n    return 2 * value\n"
        "done = run_pieces(one, [Piece(f'{k}', {'value': k}) for k in range(3)], where=2, store='s')\n"
        "print(done.results, len(done.kept))\n"
    )
    for kept in (0, 3):
        command = [sys.executable, "script.py"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        found = {f"{k}": {"twice": 2 * k} for k in range(3)}
        assert ended.stdout == f"{found} {kept}\n", ended.stderr
    text = (tmp_path / "script.py").read_text()
    (tmp_path / "script.py").write_text(text.replace("2 * value", "3 * value"))
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "__main__ has changed" in ended.stderr


# ---- clusters --------------------------------------------------------------------------------------------------


@pytest.fixture
def local_cluster(functions):
    """Two workers of Dask on this machine."""
    distributed = pytest.importorskip("distributed")
    # Any free port: two tests that run side by side would want the same, and a warning is an error here.
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.mark.slow
def test_a_cluster_gives_the_same(functions, local_cluster, tmp_path):
    """To a client of its own, and to one that is given, which stays open."""
    from distributed import Client

    work, bad = functions.pieces(5), Piece("bad", {"seed": "none"})
    done = run_pieces(functions.drawn, [bad, *work], store=tmp_path / "s", where=local_cluster)
    assert list(done.failures) == ["bad"] and "in drawn" in done.tracebacks["bad"]
    assert same(done.results, run_pieces(functions.drawn, work).results)
    with Client(local_cluster) as client:
        more = run_pieces(functions.drawn, functions.pieces(6), store=tmp_path / "s", where=client)
        assert client.status == "running"
    assert more.kept == tuple(done.results) and list(more.results) == [f"p{k}" for k in range(6)]


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused(functions, tmp_path, monkeypatch):
    """It imports another ``piece_functions`` than the one here."""
    distributed = pytest.importorskip("distributed")
    text = Path(functions.__file__).read_text()
    (tmp_path / "piece_functions.py").write_text(text.replace("200_000", "100_000"))
    monkeypatch.syspath_prepend(tmp_path)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        done = run_pieces(functions.drawn, functions.pieces(1), where=cluster)
    assert done.failures == {"p0": "RuntimeError: the worker has other code: piece_functions"}


@pytest.mark.slow
def test_a_cluster_loses_nothing_to_workers_that_die(functions, local_cluster, tmp_path):
    """The piece that always kills its worker takes down those that wait there: they are done all the same."""
    work = behaving_pieces(tmp_path, "draws", "kills once", "draws", "kills", "draws", "draws", "draws")
    done = run_pieces(functions.behaving, work, where=local_cluster)
    assert done.failures == {"p3": DIED}
    assert same(done.results, drawn_here(functions, 0, 1, 2, 4, 5, 6))


@pytest.mark.slow
def test_a_cluster_that_is_gone_ends_the_work_and_keeps_what_is_done(functions, local_cluster, tmp_path):
    def progress(done, total, failed):
        if done == 2:
            local_cluster.close()

    work = functions.pieces(8, wait=0.25)
    with pytest.raises(ConnectionError, match="the same call goes on from there"):
        run_pieces(functions.drawn, work, store=tmp_path / "s", where=local_cluster, progress=progress)
    check_resumed(functions, tmp_path / "s", least=2)


def test_without_dask_it_says_what_to_install(functions, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'eplstm\[cluster\]'"):
        run_pieces(functions.drawn, functions.pieces(1), where="tcp://127.0.0.1:8786")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ImportError, match=r"pip install 'eplstm\[cluster\]'"):
        slurm_cluster(1, "01:00:00")


SBATCH = """#!/usr/bin/env bash
copy={folder}/job.$$; cp "${{@: -1}}" $copy
setsid bash $copy > $copy.out 2>&1 &
echo $! >> {folder}/jobs
echo "Submitted batch job $!"
"""
SCANCEL = """#!/usr/bin/env bash
for job in "$@"; do kill -- -$job 2> /dev/null; done
exit 0
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands that run jobs here; gives the jobs that were asked for."""
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return lambda: [int(line) for line in (tmp_path / "jobs").read_text().split()]


@pytest.mark.slow
def test_slurm_jobs_are_as_asked_for(slurm):
    more = {
        "queue": "short",
        "account": "lab",
        "python": "/bin/true",
        "job_script_prologue": ["module load python"],
    }
    with slurm_cluster(1, "02:30:00", "8GB", 4, **more) as cluster:
        lines = cluster.job_script().splitlines()
    for option in ("-p short", "-A lab", "--cpus-per-task=4", "--mem=8G", "-t 02:30:00"):
        assert f"#SBATCH {option}" in lines
    assert "export OMP_NUM_THREADS=1" in lines and "module load python" in lines
    assert lines[-1].startswith("/bin/true -m distributed")
    assert "--nworkers 4" in lines[-1] and "--nthreads 1" in lines[-1]


@pytest.mark.slow
def test_slurm_end_to_end_with_commands_that_run_jobs_here(functions, slurm):
    """A job that is killed in the middle is asked for again, and all jobs are ended."""
    psutil = pytest.importorskip("psutil")

    def progress(done, total, failed):
        if done == 3:
            os.killpg(slurm()[0], signal.SIGKILL)

    work = functions.pieces(12, wait=2.0)
    with slurm_cluster(jobs=1, walltime="00:10:00", memory="1GB") as cluster:
        done = run_pieces(functions.drawn, work, where=cluster, progress=progress)
    assert same(done.results, run_pieces(functions.drawn, functions.pieces(12)).results)
    assert len(slurm()) == 2
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(job) for job in slurm()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(job) for job in slurm())
