"""Tables of people's choices: what is read back as it was written, what is refused and how, what is reported."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from eplstm.comparisons import fitting
from eplstm.comparisons.fitting import (
    DataError,
    ObservedBlock,
    Participant,
    read_trials,
    write_trials,
)
from eplstm.comparisons.fitting.table import files, problems, schema
from eplstm.models import ModelConfig
from eplstm.tasks import Trials

ALONE = """\
participant,block,trial,step,choice,rt,context,encounter,noise_off,target,encode,retrieve,x0,x1
007,1,1,0,1,0.5,a,1,1,1,0,1,0.25,-1
007,1,1,1,NA,,a,1,1,1,1,1,0.5,2
007,1,2,0,0,61,b,1,1,0,0,0,1,1e-3
007,1,2,1,,0.75,b,1,1,0,1,1,0,3
007,2,1,0,,,a,2,0,1,0,1,-0.5,4
007,2,1,1,,,a,2,0,1,0,1,-0.25,5
Zoë,1,4,0,1.0,0,c,1,,1,0,1,2,6
Zoë,1,4,1,0,12,c,1,,0,1,1,3,7
"""
"""Two participants, with the stimuli in columns; line 1 is the header."""

BESIDE = """\
participant,block,trial,step,choice
007,1,1,1,1
007,1,3,1,0
007,2,1,0,
08,1,5,0,1
"""
"""Two participants whose stimuli stand in ``arrays()``; trial 2 of 007's first block has no row."""


def arrays(**changes):
    """The stimuli of ``BESIDE``: 5 trials of 2 steps with 3 columns."""
    made = {
        "participant": np.array(["007", "007", "007", "007", "08"]),
        "block": np.array([1, 1, 1, 2, 1]),
        "trial": np.array([1, 2, 3, 1, 5]),
        "inputs": np.arange(30.0).reshape(5, 2, 3),
        "targets": np.arange(10).reshape(5, 2) % 2,
        "encode": np.arange(10).reshape(5, 2) % 3 == 0,
    }
    return {**made, **changes}


def changed(name, index, value, **more):
    """``arrays()`` with one value changed."""
    made = arrays(**more)
    made[name] = made[name].astype(float) if isinstance(value, float) else made[name].copy()
    made[name][index] = value
    return made


@pytest.fixture
def write(tmp_path):
    """Factory of a CSV file from text (or bytes)."""

    def make(text, name="trials.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def refused(*arguments, **options):
    with pytest.raises(DataError) as caught:
        read_trials(*arguments, **options)
    return caught.value


def the_problem(error):
    """The only problem of an error."""
    assert error.count == len(error.problems) == 1, str(error)
    return error.problems[0]


def config(input_size=2, n_actions=2):
    return ModelConfig(input_size, 3, n_actions, memory_capacity=5)


def assert_same(ours, theirs):
    assert [p.id for p in ours] == [p.id for p in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert [b.number for b in one.blocks] == [b.number for b in other.blocks]
        for a, b in zip(one.blocks, other.blocks, strict=True):
            for name in ("choices", "rt", "trial_numbers"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
                assert getattr(a, name).dtype == getattr(b, name).dtype
            for name in ("inputs", "targets", "encode", "retrieve", "context", "encounter"):
                left, right = getattr(a.trials, name), getattr(b.trials, name)
                assert (left is None) == (right is None), name
                if left is not None:
                    np.testing.assert_array_equal(left, right, err_msg=name)
                    assert left.dtype.kind == right.dtype.kind, name
            assert a.trials.noise_off == b.trials.noise_off


# ---- what is read ------------------------------------------------------------------------------------


def test_a_table_with_stimuli_in_columns(write):
    table = read_trials(write(ALONE), config=config())
    assert table.ids == ("007", "Zoë") and len(table) == 2
    one, two = table["007"].blocks
    assert (one.number, two.number) == (1, 2)
    np.testing.assert_array_equal(one.trial_numbers, [1, 2])
    np.testing.assert_array_equal(one.choices, [[1, -1], [0, -1]])
    np.testing.assert_array_equal(one.observed, [[True, False], [True, False]])
    np.testing.assert_array_equal(one.rt, [[0.5, np.nan], [61, 0.75]])
    np.testing.assert_array_equal(one.trials.inputs, [[[0.25, -1], [0.5, 2]], [[1, 1e-3], [0, 3]]])
    np.testing.assert_array_equal(one.trials.targets, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(one.trials.encode, [[False, True], [False, True]])
    np.testing.assert_array_equal(one.trials.retrieve, [[True, True], [False, True]])
    np.testing.assert_array_equal(one.trials.context, ["a", "b"])
    np.testing.assert_array_equal(two.trials.encounter, [2])
    assert (one.trials.noise_off, two.trials.noise_off) == (1, 0)
    last = table["Zoë"].blocks[0]
    np.testing.assert_array_equal(last.choices, [[1, 0]])
    assert last.trials.noise_off is None
    assert (table["007"].n_choices, table["Zoë"].n_choices) == (2, 2)
    with pytest.raises(KeyError, match="'007', 'Zoë'"):
        table["7"]


def test_a_table_with_stimuli_beside(write, tmp_path):
    np.savez(tmp_path / "trials.npz", **arrays())
    path = write(BESIDE)
    mixed = {name: array[[4, 2, 0, 3, 1]] for name, array in arrays().items()}  # in any order
    given = [read_trials(path), read_trials(path, tmp_path / "trials.npz"), read_trials(path, arrays(), config(3))]
    for table in [*given, read_trials(path, mixed)]:
        one, two = table["007"].blocks
        np.testing.assert_array_equal(one.choices, [[-1, 1], [-1, -1], [-1, 0]])
        np.testing.assert_array_equal(one.trials.inputs, arrays()["inputs"][:3])
        np.testing.assert_array_equal(one.trials.encode, arrays()["encode"][:3])
        assert one.trials.retrieve.all() and one.trials.context is None
        assert np.isnan(one.rt).all()
        np.testing.assert_array_equal(two.choices, [[-1, -1]])
        np.testing.assert_array_equal(table["08"].blocks[0].trials.targets, arrays()["targets"][4:])


def test_labels_come_from_the_table_or_the_arrays(write):
    table = BESIDE.replace("choice\n", "choice,context\n")
    for line, label in ((",1,1,1,1\n", "5"), (",1,3,1,0\n", "6"), (",2,1,0,\n", "5"), (",1,5,0,1\n", "9")):
        assert line in table
        table = table.replace(line, line[:-1] + f",{label}\n")
    beside = arrays(context=np.array([5, 8, 6, 5, 9]), encounter=np.array([1, 1, 1, 2, -1]))
    one, two = read_trials(write(table), beside)["007"].blocks
    assert one.trials.context.tolist() == [5, 8, 6]
    assert one.trials.context.dtype.kind == "i"
    assert (one.trials.encounter.tolist(), two.trials.encounter.tolist()) == ([1, 1, 1], [2])
    assert read_trials(write(table), beside)["08"].blocks[0].trials.encounter is None

    beside["context"] = np.array(["5", "8", "7", "5", "9"])
    problem = the_problem(refused(write(table), beside))
    assert (problem.row, problem.column, problem.found) == ("line 3", "'context'", "'6'")
    assert problem.expected.startswith("'7'")
    problem = the_problem(refused(write(table), arrays()))  # trial 2 has no row to say its context
    assert "trial 2" in problem.found and problem.row == "entry 1 of the stimuli"


def test_contexts_with_leading_zeros_stay_text(write):
    text = ALONE.replace(",a,", ",01,").replace(",b,", ",2,").replace(",c,", ",3,")
    assert read_trials(write(text))["007"].blocks[0].trials.context.tolist() == ["01", "2"]
    text = text.replace(",01,", ",1,")
    assert read_trials(write(text))["007"].blocks[0].trials.context.tolist() == [1, 2]


@pytest.mark.parametrize("spelling", ["", " ", "NA", "nan", "NaN", "N/A", "null", "None", "<NA>", "."])
def test_spellings_of_a_missing_choice(write, spelling):
    table = read_trials(write(ALONE.replace("007,1,1,1,NA", f"007,1,1,1,{spelling}")))
    np.testing.assert_array_equal(table["007"].blocks[0].choices[0], [1, -1])


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", " , ").replace("\n", " \n "),
        lambda text: text.replace("007,1,2,0,0,", "007,1.0,2.0,0.0,0.0,"),
        lambda text: text.replace("007", '"007"'),
        lambda text: text.replace("007,1,2,0", "\n   \n,,,,\n007,1,2,0"),
        lambda text: text.replace(",0,1,0.25", ",False,TRUE,0.25"),
        lambda text: text.rstrip("\n"),
    ],
    ids=["byte-order mark", "Windows", "spaces", "1.0", "quotes", "blank lines", "booleans", "no last newline"],
)
def test_disguises_of_the_same_table(write, disguise):
    assert disguise(ALONE) != ALONE
    assert_same(read_trials(write(disguise(ALONE))), read_trials(write(ALONE)))


def test_participants_may_take_turns(write):
    lines = ALONE.splitlines(keepends=True)
    mixed = lines[:1] + lines[7:8] + lines[1:4] + lines[8:] + lines[4:7]
    table = read_trials(write("".join(mixed)))
    assert table.ids == ("Zoë", "007")
    assert_same(table.participants[::-1], read_trials(write(ALONE)).participants)


def test_columns_out_of_the_schema_are_kept_aside(write):
    lines = ALONE.splitlines()
    text = "\n".join([lines[0] + ",Age, mood", *(f"{line},3{k},ok" for k, line in enumerate(lines[1:]))])
    table = read_trials(write(text))
    assert list(table.extra.columns) == ["participant", "block", "trial", "step", "Age", "mood"]
    assert table.extra["Age"].tolist() == [f"3{k}" for k in range(8)]
    assert table.extra["participant"].tolist() == ["007"] * 6 + ["Zoë"] * 2
    assert "Columns that are not used, kept in extra: 'Age', 'mood'." in table.report.notes
    assert_same(table, read_trials(write(ALONE)))


def test_a_data_frame_with_types_of_its_own(write):
    frame = pd.DataFrame(
        {
            "participant": [7, 7, 7, 8],
            "block": [1, 1, 2, 1],
            "trial": [1, 3, 1, 5],
            "step": [1, 1, 0, 0],
            "choice": [1.0, 0.0, np.nan, 1.0],
        }
    )
    beside = arrays(participant=np.array([7, 7, 7, 7, 8]))
    table = read_trials(frame, beside)
    assert table.ids == ("7", "8")
    assert any("Participants are numbers" in note for note in table.report.notes)
    frame["participant"] = frame["participant"].map({7: "007", 8: "08"})
    assert_same(read_trials(frame, arrays()), read_trials(write(BESIDE), arrays()))
    frame["choice"] = frame["choice"].astype("Int64")
    assert_same(read_trials(frame, arrays()), read_trials(write(BESIDE), arrays()))
    assert "True" in str(refused(frame.assign(choice=[True, False, True, True]), arrays()))
    frame.loc[1, "choice"] = 7
    problem = the_problem(refused(frame, arrays(), config(3)))
    assert (problem.row, problem.column, problem.found) == ("row 1", "'choice'", "7")


# ---- there and back ----------------------------------------------------------------------------------


def random_participants(rng):
    """Participants of all sorts: sizes, missing choices and times, labels that are there or not."""
    steps, size, actions = rng.integers(1, 5, 3)
    as_text, ids = rng.random() < 0.5, ["007", "7", 'a,"b"', "Zoë Ö", "1.0", "true", "x;y", "0"]

    def block(number):
        n = int(rng.integers(1, 5))
        labels = {}
        if rng.random() < 0.7:
            labels["context"] = rng.integers(-3, 9, n)
            if as_text:
                labels["context"] = np.array([f"c{k}" for k in labels["context"]])
        if rng.random() < 0.7:
            labels["encounter"] = rng.integers(1, 9, n)
        if rng.random() < 0.7:
            labels["noise_off"] = int(rng.integers(0, steps + 1))
        scale = 10.0 ** rng.integers(-300, 300)
        trials = Trials(
            inputs=rng.standard_normal((n, steps, size)) * scale,
            targets=rng.integers(0, actions, (n, steps)),
            encode=rng.random((n, steps)) < 0.5,
            retrieve=rng.random((n, steps)) < 0.5,
            **labels,
        )
        choices = np.where(rng.random((n, steps)) < 0.6, rng.integers(0, actions, (n, steps)), -1)
        choices[0, 0] = 0
        rt = np.where(rng.random((n, steps)) < 0.5, rng.exponential(2.0, (n, steps)), np.nan)
        return ObservedBlock(trials, choices, rt, number, np.sort(rng.choice(50, n, replace=False)))

    names = rng.choice(ids, rng.integers(1, 5), replace=False)
    return [Participant(str(one), [block(b) for b in range(-1, rng.integers(0, 3))]) for one in names]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("beside", [False, True], ids=["in columns", "beside"])
def test_round_trip(tmp_path, rng, suffix, beside):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    for k in range(25):
        people = random_participants(rng)
        path, stimuli = tmp_path / str(k) / f"data{suffix}", tmp_path / str(k) / "seen" / "stimuli.npz"
        write_trials(path, people, stimuli if beside else None)
        table = read_trials(path, stimuli if beside else None)
        assert_same(table, people)
        assert_same(table, read_trials(path, stimuli if beside else None, exclude=[]))
        assert not [file for file in path.parent.rglob("*") if file.name.startswith(".")]


def test_round_trip_without_times_and_labels(tmp_path, make_trials):
    people = [Participant("a", [ObservedBlock(make_trials(), np.zeros((4, 6), int))])]
    write_trials(tmp_path / "d.csv", people)
    assert not {"rt", "context", "encounter", "noise_off"} & set(pd.read_csv(tmp_path / "d.csv").columns)
    assert_same(read_trials(tmp_path / "d.csv"), people)


def test_files_that_are_there_are_not_replaced_unless_asked(tmp_path, rng):
    one, other = random_participants(rng), random_participants(rng)
    table, stimuli = tmp_path / "d.csv", tmp_path / "s.npz"
    write_trials(table, one, stimuli)
    for path, beside in ((table, None), (tmp_path / "new.csv", stimuli)):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write_trials(path, other, beside)
    assert_same(read_trials(table, stimuli), one)
    assert not (tmp_path / "new.csv").exists()
    write_trials(table, other, stimuli, overwrite=True)
    assert_same(read_trials(table, stimuli), other)


def test_what_cannot_be_read_back_is_not_written(tmp_path, make_trials):
    def person(one="a", **changes):
        trials = make_trials(**changes)
        return Participant(one, [ObservedBlock(trials, np.zeros(trials.targets.shape, int))])

    for people, match in (
        ([], "at least one participant"),
        ([person(), person()], "'a' is there twice"),
        ([person(), person("b", steps=5)], r"participant 'b', block 0: .*\(5, 5\) after \(6, 5\)"),
        ([person(context=["a", "b", "NA", "c"])], "context must be text .* got 'NA'"),
        ([person(context=[1.5, 2, 3, 4])], "whole numbers or text; got 1.5"),
        ([person(encounter=[1, 0, 1, 1])], "encounters must be whole numbers ≥ 1"),
        ([person(noise_off=-1)], "noise_off must be a whole number ≥ 0"),
    ):
        with pytest.raises(ValueError, match=match):
            write_trials(tmp_path / "d.csv", people)
    with pytest.raises(ValueError, match=r"stimuli must be an \.npz file"):
        write_trials(tmp_path / "d.csv", [person()], tmp_path / "s.npy")
    with pytest.raises(DataError, match=r"'\.xlsx', expected \.csv or \.parquet"):
        write_trials(tmp_path / "d.xlsx", [person()])
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_names_the_remedy(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    path = tmp_path / "d.parquet"
    path.touch()
    with pytest.raises(ImportError, match=r"d\.parquet: .*pip install 'eplstm\[parquet\]'"):
        read_trials(path)
    with pytest.raises(ImportError, match=r"pip install 'eplstm\[parquet\]'"):
        write_trials(tmp_path / "e.parquet", random_participants(rng))


# ---- what is refused: the file -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "row", "found", "remedy"),
    [
        ("", "file", "nothing", "Export"),
        ("\n \n,,\n", "file", "nothing", "Export"),
        (ALONE.splitlines()[0], "file", "no rows", "Export"),
        (ALONE.replace(",", ";"), "header", "columns between semicolons", "commas"),
        (ALONE.replace(",", "\t"), "header", "columns between tabs", "commas"),
        (ALONE.encode("utf-16"), "file", "text that is not UTF-8", "UTF-8"),
        (ALONE.encode("latin-1"), "file", "text that is not UTF-8", "UTF-8"),
        (ALONE.replace("007,1,2,0", '"007,1,2,0'), "line 4", "what is not CSV (unexpected end of data)", "quote"),
        (ALONE.replace("0.75", "0,75"), "line 5", "15 cells", "decimals with a point"),
        (ALONE.replace(",2,6\n", ",2\n"), "line 8", "13 cells", "quotes"),
        (ALONE.replace("encounter", "context", 1), "header", "2 columns of this name", "Rename"),
    ],
)
def test_files_that_are_not_a_table(write, content, row, found, remedy):
    problem = the_problem(refused(write(content)))
    assert (problem.row, problem.found) == (row, found)
    assert remedy in problem.remedy


def test_lines_are_counted_as_an_editor_does(write):
    text = ALONE.replace("participant,", '"note\nof two lines",participant,')
    text = (
        text.replace("\n007", "\nx,007")
        .replace("\nZoë", '\n"y\n\nz",Zoë')
        .replace("x,007,1,2,1", "\n\nx,007,1,2,1")
    )
    assert read_trials(write(text)).ids == ("007", "Zoë")
    text = text.replace("1.0,0,c", "5,0,c").replace("12,c", "-12,c")
    rows = [(p.row, p.found) for p in refused(write(text), config=config()).problems]
    lines = text.splitlines()
    assert [lines[int(row.removeprefix("line ")) - 1] for row, _ in rows] == ['"y', '"y']
    assert rows == [("line 11", "'5'"), ("line 14", "'-12'")]


def test_paths(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: there is no such file"):
        read_trials(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz: there is no such file"):
        read_trials(write(BESIDE), tmp_path / "nowhere.npz")
    assert "'.txt', expected .csv or .parquet" in str(refused(write(ALONE, "trials.txt")))


def test_damaged_parquet(write):
    pytest.importorskip("pyarrow")
    problem = the_problem(refused(write(ALONE, "trials.parquet")))
    assert problem.found.startswith("what cannot be read as Parquet (")


@pytest.mark.parametrize("name", ["participant", "block", "trial", "step", "choice", "target", "encode"])
def test_a_column_that_is_lacking(write, name):
    assert read_trials(write(ALONE))
    problem = the_problem(refused(write(ALONE.replace(name, f"other_{name}", 1))))
    assert (problem.row, problem.column) == ("header", f"'{name}'")
    assert f"'other_{name}'" in problem.found and "Add the column" in problem.remedy
    problem = the_problem(refused(write(ALONE.replace(name, name.upper(), 1))))
    assert problem.remedy == f"Rename '{name.upper()}'."


def test_all_columns_that_are_lacking_are_told_at_once(write):
    error = refused(write("a,b\n1,2\n"))
    assert [p.column for p in error.problems] == ["stimuli", *(f"'{name}'" for name in schema.KEY), "'choice'"]
    assert "participant" in str(error) and str(error).count("\n") == 6


def test_stimuli_in_one_place(write, tmp_path):
    problem = the_problem(refused(write(BESIDE)))
    assert problem.column == "stimuli" and "a file trials.npz beside" in problem.expected
    assert the_problem(refused(write(ALONE), arrays())).expected == "one of the two"
    np.savez(tmp_path / "trials.npz", **arrays())
    assert read_trials(write(ALONE)).report.stimuli == "its columns"
    assert read_trials(write(BESIDE)).report.stimuli == "trials.npz"


def test_a_gap_in_the_stimulus_columns(write):
    problem = the_problem(refused(write(ALONE.replace("x0,x1", "x0,x2"))))
    assert (problem.column, problem.found) == ("'x1'", "columns up to x2 without x1")


# ---- what is refused: cells --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "row", "column", "found", "expected"),
    [
        ("007,1,1,0,1", ",1,1,0,1", "line 2", "'participant'", "nothing", "an id"),
        ("007,1,1,0,1", "NA,1,1,0,1", "line 2", "'participant'", "'NA'", "an id"),
        ("007,1,1,0,1", "0\x0107,1,1,0,1", "line 2", "'participant'", "'0\\x0107'", "an id"),
        ("007,1,2,0", "007,one,2,0", "line 4", "'block'", "'one'", "a whole number"),
        ("007,1,2,0", "007,1,2.5,0", "line 4", "'trial'", "'2.5'", "a whole number"),
        ("007,1,2,0", "007,1,,0", "line 4", "'trial'", "nothing", "a whole number"),
        ("007,1,2,0", "007,1,2,-1", "line 4", "'step'", "'-1'", "a whole number ≥ 0"),
        ("007,1,2,0", "007,1,1e300,0", "line 4", "'trial'", "'1e300'", "a whole number"),
        ("007,1,2,0,0", "007,1,2,0,2", "line 4", "'choice'", "'2'", "a whole number from 0 to 1, or nothing"),
        ("007,1,2,0,0", "007,1,2,0,-1", "line 4", "'choice'", "'-1'", "a whole number from 0 to 1, or nothing"),
        ("007,1,2,0,0", "007,1,2,0,0.5", "line 4", "'choice'", "'0.5'", "a whole number from 0 to 1, or nothing"),
        ("007,1,2,0,0", "007,1,2,0,red", "line 4", "'choice'", "'red'", "a whole number from 0 to 1, or nothing"),
        ("007,1,2,0,0", "007,1,2,0,0_0", "line 4", "'choice'", "'0_0'", "a whole number from 0 to 1, or nothing"),
        ("007,1,2,0,0", "007,1,2,0,yes", "line 4", "'choice'", "'yes'", "a whole number from 0 to 1, or nothing"),
        (",61,", ",-61,", "line 4", "'rt'", "'-61'", "a finite number ≥ 0, or nothing"),
        (",61,", ",inf,", "line 4", "'rt'", "'inf'", "a finite number ≥ 0, or nothing"),
        (",61,", ",1:01,", "line 4", "'rt'", "'1:01'", "a finite number ≥ 0, or nothing"),
        ("c,1,,1,0,1,2", "c,0,,1,0,1,2", "line 8", "'encounter'", "'0'", "a whole number ≥ 1, or nothing"),
        (",1,2,6", ",1,2,x", "line 8", "'x1'", "'x'", "a finite number"),
        (",1,2,6", ",1,,6", "line 8", "'x0'", "nothing", "a finite number"),
        (",1,2,6", ",1,inf,6", "line 8", "'x0'", "'inf'", "a finite number"),
        (",1,0,1,2,6", ",2,0,1,2,6", "line 8", "'target'", "'2'", "a whole number from 0 to 1"),
        (",1,0,1,2,6", ",,0,1,2,6", "line 8", "'target'", "nothing", "a whole number from 0 to 1"),
        (",0,1,2,6", ",2,1,2,6", "line 8", "'encode'", "'2'", "0 or 1"),
        (",0,1,2,6", ",,1,2,6", "line 8", "'encode'", "nothing", "0 or 1"),
        (",0,1,2,6", ",0,no,2,6", "line 8", "'retrieve'", "'no'", "0 or 1"),
    ],
)
def test_a_cell_that_does_not_fit(write, old, new, row, column, found, expected):
    assert ALONE.count(old) == 1
    error = refused(write(ALONE.replace(old, new)), config=config())
    problem = the_problem(error)
    assert (problem.row, problem.column, problem.found, problem.expected) == (row, column, found, expected)
    assert problem.remedy
    for part in ("trials.csv", row, column, found, expected, problem.remedy):
        assert part in str(error)


def test_sizes_of_the_model(write):
    read_trials(write(ALONE), config=config())
    problem = the_problem(refused(write(ALONE), config=config(input_size=5)))
    assert (problem.column, problem.found) == ("'x0' ... 'x1'", "2 input columns")
    assert "5, the model's" in problem.expected and "input_size=2" in problem.remedy
    problem = the_problem(refused(write(BESIDE), arrays(), config=config(input_size=5)))
    assert (problem.row, problem.column, problem.found) == ("the stimuli", "inputs", "3 input columns")
    error = refused(write(ALONE), config=config(n_actions=1))
    assert {p.column for p in error.problems} == {"'choice'", "'target'"}
    assert read_trials(write(ALONE.replace("1.0,0,c", "9,0,c")))["Zoë"].blocks[0].choices[0, 0] == 9
    problem = the_problem(refused(write(ALONE.replace("1.0,0,c", "99999,0,c"))))
    assert "from 0 to 9999" in problem.expected


def test_all_problems_are_told_at_once(write):
    text = ALONE.replace("0.5,a", "-0.5,a", 1).replace("1.0,0,c", "5,0,c").replace("007,1,2,1", "007,1,0,1")
    error = refused(write(text.replace(",1,2,6", ",1,2,?")), config=config())
    assert error.count == 4
    assert sorted((p.row, p.column) for p in error.problems) == [
        ("line 2", "'rt'"),
        ("line 5", "block, trial, step"),
        ("line 8", "'choice'"),
        ("line 8", "'x1'"),
    ]


def test_many_problems_are_cut_and_counted(write):
    rows = "".join(f"007,1,{k},0,{9 if k % 2 else 'x'},-1,?\n" for k in range(40))
    error = refused(write("participant,block,trial,step,choice,rt,encounter\n" + rows), arrays(), config(3))
    # the remaining: rows without stimuli, and stimuli of another participant
    assert error.count > 120 and len(error.problems) <= problems.SHOWN
    by_column = [p.column for p in error.problems]
    for column in ("'choice'", "'rt'", "'encounter'"):
        assert by_column.count(column) == problems.SHOWN_ALIKE
    assert str(error).endswith(f"... and {error.count - len(error.problems)} more.")
    assert f"{error.count} problems" in str(error)


def test_the_error_survives_pickling(write):
    error = refused(write(ALONE.replace("0.5,a", "-0.5,a", 1)))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems, again.count) == (str(error), error.problems, error.count)


# ---- what is refused: rows ---------------------------------------------------------------------------


def move(text, line, to):
    """The text with one line (from 1) moved before another."""
    lines = text.splitlines()
    lines.insert(to - 1, lines.pop(line - 1))
    return "\n".join(lines)


def test_duplicated_rows(write):
    lines = ALONE.splitlines()
    for where in (4, 8, 9):
        text = "\n".join([*lines[:where], lines[2], *lines[where:]])
        problem = the_problem(refused(write(text)))
        assert (problem.row, problem.column) == (f"line {where + 1}", "participant, block, trial, step")
        assert problem.found == "block 1, trial 1, step 1 of '007' again, after line 3"


@pytest.mark.parametrize(
    ("line", "to", "row", "found"),
    [
        (3, 2, "line 3", "block 1, trial 1, step 0 of '007' after block 1, trial 1, step 1"),
        (4, 2, "line 3", "block 1, trial 1, step 0 of '007' after block 1, trial 2, step 0"),
        (2, 6, "line 6", "block 1, trial 1, step 0 of '007' after block 2, trial 1, step 0"),
    ],
    ids=["steps", "trials", "blocks"],
)
def test_rows_out_of_order(write, line, to, row, found):
    problem = the_problem(refused(write(move(ALONE, line, to))))
    assert (problem.row, problem.found) == (row, found)
    assert "Sort" in problem.remedy


def test_stimuli_in_columns_need_all_steps(write):
    lines = ALONE.splitlines()
    problem = the_problem(refused(write("\n".join(lines[:4] + lines[5:]))))
    assert (problem.row, problem.column) == ("line 4", "'step'")
    assert problem.found == "a trial with the steps 0"
    assert problem.expected == "a row for each of the steps 0 to 1, as most trials have 2"
    longer = "007,1,1,2,1,,a,1,1,1,0,1,0,0"  # the others are not called too short for it
    problem = the_problem(refused(write("\n".join([*lines[:3], longer, *lines[3:]]))))
    assert (problem.row, problem.found) == ("line 2", "a trial with the steps 0, 1, 2")
    swapped = [lines[0], *(line.replace(",1,0,", ",1,1,").replace(",1,1,NA", ",1,2,NA") for line in lines[1:3])]
    assert "Count steps from 0" in the_problem(refused(write("\n".join(swapped)))).remedy


def test_a_participant_without_a_choice(write):
    text = ALONE.replace("1.0,0,c", ",0,c").replace(",0,12,c", ",NA,12,c")
    problem = the_problem(refused(write(text)))
    assert (problem.row, problem.column) == ("line 8", "'choice'")
    assert problem.found == "no choice of 'Zoë' (rows: 2)"
    assert "exclude=" in problem.remedy
    assert read_trials(write(text), exclude=["Zoë"]).ids == ("007",)
    wrong = ALONE.replace("1.0,0,c", "7,0,c").replace(",0,12,c", ",NA,12,c")  # all wrong is not missing
    assert the_problem(refused(write(wrong), config=config())).found == "'7'"


def test_leaving_out(write):
    spoilt = ALONE.replace("1.0,0,c", "oops,-1,c")
    table = read_trials(write(spoilt), exclude=["Zoë"])
    assert table.ids == ("007",)
    assert table.report.left_out == ("Zoë",)
    assert table.report.total("rows", "participant left out") == 2
    problem = the_problem(refused(write(ALONE), exclude=["7"]))
    assert (problem.found, problem.row) == ("'7'", "exclude") and "'007', 'Zoë'" in problem.expected
    assert "at least one" in the_problem(refused(write(ALONE), exclude=["007", "Zoë"])).expected
    with pytest.raises(TypeError, match=r"exclude=\['007'\]"):
        read_trials(write(ALONE), exclude="007")
    beside = changed("inputs", (4, 0, 0), np.nan)
    assert read_trials(write(BESIDE), beside, exclude=["08"]).ids == ("007",)


@pytest.mark.parametrize(
    ("old", "new", "row", "column", "found"),
    [
        (",0.75,b,1,1", ",0.75,c,1,1", "line 5", "'context'", "'c'"),
        (",0.75,b,1,1", ",0.75,,1,1", "line 5", "'context'", "nothing"),
        (",0.75,b,1,1", ",0.75,b,2,1", "line 5", "'encounter'", "2"),
        (",0.75,b,1,1", ",0.75,b,1,0", "line 5", "'noise_off'", "0"),
    ],
)
def test_labels_that_differ_within_a_trial(write, old, new, row, column, found):
    assert ALONE.count(old) == 1
    problem = the_problem(refused(write(ALONE.replace(old, new))))
    assert (problem.row, problem.column, problem.found) == (row, column, found)
    assert "line 4 of the same trial" in problem.expected


def test_labels_of_a_block(write):
    problem = the_problem(refused(write(ALONE.replace(",b,1,1", ",,1,1"))))
    assert (problem.row, problem.column) == ("line 4", "'context'")
    assert problem.found == "nothing for participant '007', block 1, trial 2"
    problem = the_problem(refused(write(ALONE.replace(",b,1,1", ",b,1,2"))))
    assert (problem.row, problem.column, problem.found) == ("line 4", "'noise_off'", "2")


# ---- what is refused: stimuli beside -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["participant", "block", "trial", "inputs", "targets", "encode"])
def test_an_array_that_is_lacking(write, name):
    made = arrays()
    del made[name]
    problem = the_problem(refused(write(BESIDE), made))
    assert (problem.column, problem.expected) == (name, schema.ARRAYS[name])


@pytest.mark.parametrize(
    ("changes", "column", "found"),
    [
        ({"inputs": np.zeros((5, 2))}, "inputs", "the shape (5, 2)"),
        ({"inputs": np.zeros((5, 0, 3))}, "inputs", "the shape (5, 0, 3)"),
        ({"targets": np.zeros((5, 3), int)}, "targets", "the shape (5, 3)"),
        ({"encode": np.zeros(5, bool)}, "encode", "the shape (5,)"),
        ({"retrieve": np.zeros((4, 2), bool)}, "retrieve", "the shape (4, 2)"),
        ({"block": np.zeros((5, 1), int)}, "block", "the shape (5, 1)"),
        ({"context": np.zeros(4, int)}, "context", "the shape (4,)"),
        ({"block": np.array(["a"] * 5)}, "block", "the type <U1"),
    ],
)
def test_arrays_that_do_not_fit(write, changes, column, found):
    problem = the_problem(refused(write(BESIDE), arrays(**changes)))
    assert (problem.row, problem.column, problem.found) == ("the stimuli", column, found)


@pytest.mark.parametrize(
    ("name", "index", "value", "column", "found"),
    [
        ("inputs", (2, 1, 0), np.nan, "inputs[1, 0]", "nan"),
        ("targets", (2, 1), 2, "targets[1]", "2"),
        ("targets", (2, 1), -1, "targets[1]", "-1"),
        ("targets", (2, 1), 0.5, "targets[1]", "0.5"),
        ("encode", (2, 0), 2.0, "encode[0]", "2.0"),
        ("trial", 2, 1.5, "trial", "1.5"),
        ("block", 2, np.inf, "block", "inf"),
        ("encounter", 2, -2, "encounter", "-2"),
    ],
)
def test_values_that_do_not_fit(write, name, index, value, column, found):
    made = changed(name, index, value, encounter=np.ones(5, int))
    problem = the_problem(refused(write(BESIDE), made, config(3)))
    assert (problem.row, problem.column, problem.found) == ("entry 2 of the stimuli", column, found)


def test_files_that_are_not_arrays(write, tmp_path):
    path = write(BESIDE)
    stimuli = tmp_path / "s.npz"
    for content in (b"", b"PK\x03\x04 no", b"text"):
        stimuli.write_bytes(content)
        assert the_problem(refused(path, stimuli)).found.startswith("what numpy cannot read")
    with stimuli.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "single array" in the_problem(refused(path, stimuli)).found
    np.savez(stimuli, **arrays(participant=np.array(["007"] * 4 + ["08"], dtype=object)))
    problem = the_problem(refused(path, stimuli))
    assert (problem.column, problem.found) == ("participant", "an array of Python objects")


def test_participants_that_only_one_of_the_two_knows(write):
    error = refused(write(BESIDE), arrays(participant=np.array(["007", "007", "007", "007", "8"])))
    assert [(p.row, p.found) for p in error.problems] == [
        ("entry 4 of the stimuli", "'8'"),
        ("line 5", "participant '08', block 1, trial 5, which has no stimuli"),
    ]
    assert error.problems[0].expected == "a participant of trials.csv"


def test_trials_and_steps_without_stimuli(write):
    problem = the_problem(refused(write(BESIDE + "08,1,6,0,1\n08,1,6,1,1\n"), arrays()))
    assert problem.row == "line 6" and "trial 6, which has no stimuli" in problem.found
    problem = the_problem(refused(write(BESIDE + "08,1,5,2,1\n"), arrays()))
    assert (problem.row, problem.column, problem.found) == ("line 6", "'step'", "2")


def test_a_trial_that_has_stimuli_twice(write):
    problem = the_problem(refused(write(BESIDE), changed("trial", 1, 1)))
    assert problem.row == "entry 1 of the stimuli" and "after entry 0" in problem.found


# ---- what is reported --------------------------------------------------------------------------------


def counts(report):
    return {tuple(row[:4]): row[4] for row in report.table.itertuples(index=False)}


def test_counts_of_a_table_with_stimuli_beside(write):
    times = ("rt", "2.5", "", "1", "NA")
    text = "\n".join(f"{line},{rt}" for line, rt in zip(BESIDE.splitlines(), times, strict=True))
    report = read_trials(write(text), arrays()).report
    assert list(report.table.columns) == ["participant", "unit", "used", "reason", "count"]
    nothing, unscored = "no row: seen by the model, not scored", "no choice: seen by the model, not scored"
    assert counts(report) == {
        ("007", "rows", True, ""): 2,
        ("007", "rows", False, "choice missing"): 1,
        ("007", "trials", True, ""): 2,
        ("007", "trials", False, unscored): 1,
        ("007", "trials", False, nothing): 1,
        ("007", "steps", True, ""): 2,
        ("007", "steps", False, unscored): 1,
        ("007", "steps", False, nothing): 5,
        ("007", "response times", True, ""): 1,
        ("007", "response times", False, "response time missing"): 1,
        ("007", "response times", False, "response time without a choice"): 1,
        ("08", "rows", True, ""): 1,
        ("08", "trials", True, ""): 1,
        ("08", "steps", True, ""): 1,
        ("08", "steps", False, nothing): 1,
        ("08", "response times", False, "response time missing"): 1,
    }


def test_every_row_is_accounted_for(tmp_path, rng):
    for k in range(10):
        people = random_participants(rng)
        path = tmp_path / f"{k}.csv"
        write_trials(path, people)
        exclude = [people[0].id] if len(people) > 1 else []
        table = read_trials(path, exclude=exclude)
        report, lines = table.report, len(pd.read_csv(path))
        assert report.total("rows") == lines
        assert report.total("rows", "") == sum(p.n_choices for p in table) == report.total("steps", "")
        assert report.total("trials") == sum(len(b.trials) for p in table for b in p.blocks)
        assert report.total("steps") == sum(b.choices.size for p in table for b in p.blocks)
        assert report.table["count"].sum() == sum(report.total(u) for u in report.table["unit"].unique())


def test_the_report_in_words(write):
    text = str(read_trials(write(ALONE.replace("007,1,2,0", "\n007,1,2,0"))).report)
    assert text.splitlines() == [
        "trials.csv, stimuli from its columns: 2 of 2 participants used",
        "  rows: 4 of 8 used",
        "    4 not: choice missing (1 participant, most: '007' with 4)",
        "  trials: 3 of 4 used",
        "    1 not: no choice: seen by the model, not scored (1 participant, most: '007' with 1)",
        "  steps: 4 of 8 used",
        "    4 not: no choice: seen by the model, not scored (1 participant, most: '007' with 4)",
        "  response times: 4 of 5 used",
        "    1 not: response time without a choice (1 participant, most: '007' with 1)",
        "  note: Blank lines skipped: 1.",
        "  note: Response times of 0 s: 1; they are used.",
        "  note: Response times above a minute: 1, up to 61 s; they are used.",
    ]
    text = str(read_trials(write(ALONE), exclude=["Zoë"]).report)
    assert "1 of 2 participants used\n  left out on demand: 'Zoë'\n" in text


def test_milliseconds_are_suspected(write):
    text = ALONE.replace(",0.5,a", ",512,a").replace(",0.75,b", ",750,b").replace(",12,c", ",1200,c")
    assert any("milliseconds" in note for note in read_trials(write(text)).report.notes)
    assert not any("milliseconds" in note for note in read_trials(write(ALONE)).report.notes)


# ---- participants made in Python ---------------------------------------------------------------------


def test_blocks_that_do_not_fit(make_trials):
    trials, choices = make_trials(n=2, steps=3), np.zeros((2, 3), int)
    for options, match in (
        ({"choices": choices[:1]}, r"choices must have the shape \(2, 3\); got \(1, 3\)"),
        ({"choices": choices - 2}, "-1 where there is none; got -2"),
        ({"choices": choices + 0.5}, "choices must hold whole numbers"),
        ({"rt": np.full((2, 3), -1.0)}, "rt must be seconds ≥ 0"),
        ({"rt": np.full((2, 3), np.inf)}, "rt must be seconds ≥ 0"),
        ({"rt": np.zeros(2)}, "rt must have the shape"),
        ({"trial_numbers": [2, 2]}, "trial_numbers must ascend"),
        ({"trial_numbers": [1, 2, 3]}, r"trial_numbers must have the shape \(2,\)"),
        ({"number": 1.5}, "number must hold whole numbers"),
        ({"trials": trials[:0], "choices": choices[:0]}, "at least one trial"),
    ):
        with pytest.raises(ValueError, match=match):
            ObservedBlock(**{"trials": trials, "choices": choices, **options})


def test_participants_that_do_not_fit(make_trials):
    trials = make_trials(n=2, steps=3)
    block = ObservedBlock(trials, np.zeros((2, 3), int))
    for one, blocks, match in (
        ("", [block], "id must be text"),
        (" a", [block], "id must be text"),
        ("NaN", [block], "id must be text"),
        (7, [block], "id must be text"),
        ("a\nb", [block], "id must be text"),
        ("a", [], "at least one choice"),
        ("a", [ObservedBlock(trials, np.full((2, 3), -1))], "at least one choice"),
        ("a", [block, block], "blocks' numbers must ascend"),
    ):
        with pytest.raises(ValueError, match=match):
            Participant(one, blocks)


# ---- the schema --------------------------------------------------------------------------------------


def test_the_readme_has_the_schema(request):
    readme = (request.config.rootpath / "README.md").read_text(encoding="utf-8")
    assert fitting.schema_table() in readme
    for name, meaning in schema.ARRAYS.items():
        assert f"| `{name}` | {meaning} |" in readme


def test_reading_data_needs_neither_psyneulink_nor_torch():
    code = "import sys, eplstm.comparisons.fitting; print({'psyneulink', 'torch'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set()\n"
