"""`modelramp-server predict` of tables: predictions stand beside the rows, and a bad row costs only itself."""

import csv
import errno
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas
import pyarrow
import pytest
from onnx import TensorProto, helper
from pyarrow import parquet

from modelramp_server.scoring import parts, table_scoring
from modelramp_server.scoring.command import Status
from modelramp_server.settings import InvalidSettings
from tests.server import models
from tests.server.scoring import files, lines, scored, summary
from tests.server.test_pyfunc import COLUMNS, FRAME, pyfunc

IMAGES = models.digits()[0][1000:1100]
PIXELS = [f"p{index}" for index in range(64)]


def doubling(datatype: int, shape: list[Any]) -> onnx.ModelProto:
    """`y = x + x`."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubling",
        [helper.make_tensor_value_info("x", datatype, shape)],
        [helper.make_tensor_value_info("y", datatype, shape)],
    )
    return models.onnx_model(graph)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_cells_stay_as_they_were_and_predictions_stand_behind_them(lookup_model: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "in.csv", 'id,note,x\n007,"a, b",3\n\n1e2,"she said ""no""",1\n')
    assert scored(lookup_model, source, tmp_path / "out") is Status.ALL_SCORED
    assert (tmp_path / "out/in.csv").read_text() == (
        'id,note,x,prediction\n007,"a, b",3,30.0\n1e2,"she said ""no""",1,10.0\n'
    )
    assert files(tmp_path / "out") == ["in.csv"] and summary(tmp_path / "out")["rows"] == 2


def test_rows_that_fail_are_listed_and_have_no_prediction(lookup_model: Path, tmp_path: Path, capsys: Any) -> None:
    source = written(tmp_path / "in.csv", "x,y\n1,a\n12,b\nabc,c\n3\n4,d,e\n,f\n5,g\n")
    assert scored(lookup_model, source, tmp_path / "out") is Status.SOME_FAILED
    rows = list(csv.reader(io.StringIO((tmp_path / "out/in.csv").read_text())))
    assert rows[1:] == [["1", "a", "10.0"], ["12", "b", ""], ["abc", "c", ""], ["3", "", ""], ["4", "d", ""],
                        ["", "f", ""], ["5", "g", "50.0"]]  # fmt: skip
    told = {line["row"]: line["error"] for line in lines(tmp_path / "out/failures.jsonl")}
    assert list(told) == [2, 3, 4, 5, 6]
    assert "the model failed on this input" in told[2] and "'abc' is no INT64" in told[3]
    assert told[4] == "row 4 has 1 values, there are 2 columns" and "row 5 has 3 values" in told[5]
    found = summary(tmp_path / "out")
    assert (found["rows"], found["ok"], found["failed"], len(found["failures"])) == (7, 2, 5, 5)
    printed = capsys.readouterr().out
    assert "in.csv: 7 rows by model (onnx on cpu), 5 failed" in printed and "failed: row 2: the model" in printed


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
def test_every_format_has_the_models_answers_in_order_after_a_stop(
    kind: str, onnx_model: Path, estimator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_MOST_SECONDS", 0.0)  # every batch is a part of its own
    source, output = tmp_path / f"in.{kind}", tmp_path / "out"
    frame = pandas.DataFrame(IMAGES, columns=PIXELS)
    if kind == "csv":
        frame.to_csv(source, index=False)
    elif kind == "parquet":
        frame.to_parquet(source, row_group_size=30)
    else:
        np.save(source, IMAGES)
    asked = stop_at(4, monkeypatch)
    assert scored(onnx_model, source, output, batch_size=16) is Status.INTERRUPTED
    assert scored(onnx_model, source, output, batch_size=7) is Status.ALL_SCORED, "the rows of a batch may be others"
    assert sum(asked) == len(IMAGES)
    if kind == "npy":
        labels = np.load(output / "in.prediction_label.npy")
        probabilities = np.load(output / "in.prediction_probabilities.npy")
    else:
        made = pandas.read_csv(output / "in.csv") if kind == "csv" else pandas.read_parquet(output / "in.parquet")
        pandas.testing.assert_frame_equal(made[PIXELS], frame)
        labels, cells = made["prediction_label"], made["prediction_probabilities"]
        probabilities = np.array([json.loads(cell) if kind == "csv" else cell for cell in cells])
    assert labels.tolist() == estimator.predict(IMAGES).tolist()
    np.testing.assert_allclose(probabilities, estimator.predict_proba(IMAGES), atol=1e-4)
    counts = pandas.Series(labels).value_counts()
    assert summary(output)["classes"] == {str(label): count for label, count in counts.items()}
    assert not (output / "parts").exists()


def stop_at(batch: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C in that batch; the rows of all batches from now on."""
    rows: list[int] = []
    score = table_scoring.score

    def noted(model: Any, take: Any, start: int, stop: int) -> Any:
        rows.append(stop - start)
        if len(rows) == batch:
            os.kill(os.getpid(), signal.SIGINT)
        return score(model, take, start, stop)

    monkeypatch.setattr(table_scoring, "score", noted)
    return rows


def test_failures_in_parquet_are_nulls_and_in_npy_zeros_that_are_marked(lookup_model: Path, tmp_path: Path) -> None:
    values = [1, 2, 30, 4]
    parquet.write_table(pyarrow.table({"x": values, "kept": [None, "a", "b", "c"]}), tmp_path / "in.parquet")
    assert scored(lookup_model, tmp_path / "in.parquet", tmp_path / "a") is Status.SOME_FAILED
    made = parquet.read_table(tmp_path / "a/in.parquet").to_pydict()
    assert made == {"x": values, "kept": [None, "a", "b", "c"], "prediction": [10.0, 20.0, None, 40.0]}
    np.save(tmp_path / "in.npy", np.array(values))
    assert scored(lookup_model, tmp_path / "in.npy", tmp_path / "b") is Status.SOME_FAILED
    assert np.load(tmp_path / "b/in.failed.npy").tolist() == [False, False, True, False]
    assert np.load(tmp_path / "b/in.prediction.npy")[[0, 1, 3]].tolist() == [10.0, 20.0, 40.0]


def test_a_parquet_column_of_lists_is_a_matrix(tmp_path: Path) -> None:
    model = models.onnx_folder(tmp_path / "model", doubling(TensorProto.FLOAT, ["rows", 2, 2]))
    values = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, float("inf")], [7.0, 8.0]]]
    parquet.write_table(pyarrow.table({"id": [1, 2], "x": values}), tmp_path / "in.parquet")
    assert scored(model, tmp_path / "in.parquet", tmp_path / "out") is Status.ALL_SCORED
    made = parquet.read_table(tmp_path / "out/in.parquet").to_pydict()
    assert made["prediction"] == [[[2.0, 4.0], [6.0, 8.0]], [[10.0, float("inf")], [14.0, 16.0]]]
    assert summary(tmp_path / "out")["not_finite"] == 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_choose_what_the_model_sees(kind: str, sklearn_model: Path, estimator: Any, tmp_path: Path) -> None:
    frame = pandas.DataFrame(IMAGES, columns=PIXELS)
    frame.insert(0, "id", "x")
    source = tmp_path / f"in.{kind}"
    frame.to_csv(source, index=False) if kind == "csv" else frame.to_parquet(source)
    chosen = ", ".join(PIXELS)
    assert scored(sklearn_model, source, tmp_path / "out", predict_columns=chosen) is Status.ALL_SCORED
    read = pandas.read_csv if kind == "csv" else pandas.read_parquet
    assert read(tmp_path / "out" / source.name)["prediction"].tolist() == estimator.predict(IMAGES).tolist()


def test_a_model_of_columns_takes_them_by_name(tmp_path: Path) -> None:
    model = pyfunc(tmp_path / "model", "loader_scored", FRAME, COLUMNS)
    source = written(tmp_path / "in.csv", "size,other,colour\n1.5,0,red\n2,0,blue\n")
    assert scored(model, source, tmp_path / "out", allow_code=True) is Status.ALL_SCORED
    assert (tmp_path / "out/in.csv").read_text().splitlines() == [
        "size,other,colour,prediction_twice,prediction_colour",
        "1.5,0,red,3.0,red",
        "2,0,blue,4.0,blue",
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_gaps_among_floats_are_nan_and_others_cost_their_row(kind: str, tmp_path: Path) -> None:
    model = models.gaps_folder(tmp_path / "model")
    rows = pandas.DataFrame({"a": [1.0, None, 3], "b": [5.0, 6, None], "c": [None, 2.0, 2], "n": [1, None, 1]})
    source = tmp_path / f"in.{kind}"
    rows = rows.astype({"n": "Int64"})
    rows.to_csv(source, index=False) if kind == "csv" else rows.to_parquet(source)
    read = pandas.read_csv if kind == "csv" else pandas.read_parquet
    assert scored(model, source, tmp_path / "out") is Status.SOME_FAILED
    [failed] = lines(tmp_path / "out/failures.jsonl")
    assert failed["row"] == 2 and "may not lack values" in failed["error"]
    assert read(tmp_path / "out" / source.name)["prediction"].notna().tolist() == [True, False, True]


def npy(path: Path, array: Any) -> None:
    np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("in.csv", lambda path: path.write_text("a,b\n1,2\n"), "columns are a, b; the model's inputs are x"),
        ("in.csv", lambda path: path.write_text("x,prediction\n1,2\n"), "has a column 'prediction'"),
        ("in.csv", lambda path: path.write_text("x,x\n1,2\n"), "must name the columns, each once"),
        ("in.csv", lambda path: path.write_text(""), "must name the columns"),
        ("in.csv", lambda path: path.write_bytes(b"x\xff\n1\n"), "in.csv: line 1 is not UTF-8"),
        ("in.csv", lambda path: path.write_text('"x\n1\n'), "in.csv can't be read after line 0: a quote in line 1"),
        ("in.csv", lambda path: path.write_text('x\n1\n"2\n'), "in.csv can't be read after line"),
        ("in.parquet", lambda path: path.write_text("no"), "in.parquet can't be read"),
        ("in.npy", lambda path: path.write_text("no"), "in.npy can't be read"),
        ("in.npy", lambda path: npy(path, np.array([{}])), "in.npy can't be read"),
        ("in.npy", lambda path: npy(path, np.zeros((3, 3))), "shape [1, 3] does not fit the model's [-1]"),
        ("in.npy", lambda path: npy(path, np.array(3)), "in.npy"),
    ],
)
def test_a_table_that_cannot_be_scored_is_one_line(
    name: str, write: Any, said: str, lookup_model: Path, tmp_path: Path, capsys: Any
) -> None:
    write(tmp_path / name)
    assert scored(lookup_model, tmp_path / name, tmp_path / "out") is Status.PROBLEM
    told = capsys.readouterr().err
    assert said in told and told.startswith("modelramp-server: ") and told.count("\n") == 1
    assert not (tmp_path / "out/summary.json").exists()


def test_a_matrix_of_another_width_says_how_to_choose(sklearn_model: Path, tmp_path: Path, capsys: Any) -> None:
    source = written(tmp_path / "in.csv", "a,b\n1,2\n")
    assert scored(sklearn_model, source, tmp_path / "out") is Status.PROBLEM
    assert "the table has 2 columns, the model takes 64; PREDICT_COLUMNS (--columns)" in capsys.readouterr().err
    # The same folder: nothing has been done in it yet.
    assert scored(sklearn_model, source, tmp_path / "out", predict_columns="a,c") is Status.PROBLEM
    assert "PREDICT_COLUMNS names 'c'" in capsys.readouterr().err


def test_another_run_in_the_folder_is_refused(
    lookup_model: Path, sklearn_model: Path, tmp_path: Path, capsys: Any
) -> None:
    source, output = written(tmp_path / "in.csv", "x\n1\n"), tmp_path / "out"
    assert scored(lookup_model, source, output) is Status.ALL_SCORED
    first = (output / "summary.json").stat().st_mtime_ns
    assert scored(lookup_model, source, output) is Status.ALL_SCORED, "done already"
    assert (output / "summary.json").stat().st_mtime_ns == first
    for other, said in (
        (lambda: scored(sklearn_model, source, output), r"the model was model \(sha256:.*\), is model \(sha256:"),
        (lambda: scored(lookup_model, source, output, predict_columns="x"), "columns was '', is 'x'"),
        (lambda: scored(lookup_model, written(tmp_path / "b.csv", "x\n"), output), "input was .*in.csv"),
        (lambda: scored(lookup_model, written(source, "x\n1\n2\n"), output), "input_bytes was 4, is 6"),
    ):
        with pytest.raises(InvalidSettings, match=said):
            other()
    assert (output / "in.csv").read_text() == "x,prediction\n1,10.0\n"


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("missing.csv", "out", "missing.csv, does not exist"),
        ("notes.txt", "out", "is neither a folder nor one of .csv, .parquet, .npy"),
        ("in.csv", ".", "is the folder of the input itself"),
        ("in.csv", "notes.txt", "is a file"),
        ("in.csv", "used", "holds other files"),
    ],
)
def test_what_cannot_be_asked_for(source: str, output: str, said: str, lookup_model: Path, tmp_path: Path) -> None:
    written(tmp_path / "in.csv", "x\n1\n")
    written(tmp_path / "notes.txt", "")
    (tmp_path / "used").mkdir()
    written(tmp_path / "used/mine.txt", "")
    with pytest.raises(InvalidSettings, match=said):
        scored(lookup_model, tmp_path / source, tmp_path / output)


def test_a_table_without_rows_is_a_table_without_predictions(lookup_model: Path, tmp_path: Path) -> None:
    assert scored(lookup_model, written(tmp_path / "in.csv", "x\n"), tmp_path / "out") is Status.ALL_SCORED
    assert (tmp_path / "out/in.csv").read_text() == "x,prediction\n"


def test_what_a_disk_refuses_is_one_line(
    lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "parts")

    source = written(tmp_path / "in.csv", "x\n1\n")
    with monkeypatch.context() as disk:
        disk.setattr(parts, "write_json", full)
        assert scored(lookup_model, source, tmp_path / "out") is Status.PROBLEM
    told = capsys.readouterr().err
    assert told == "modelramp-server: No space left on device (parts); the same command goes on from there\n"
    assert scored(lookup_model, source, tmp_path / "out") is Status.ALL_SCORED
    assert (tmp_path / "out/in.csv").read_text() == "x,prediction\n1,10.0\n"


def test_a_bug_is_one_line_too(
    lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def bug(*_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(parts, "write_json", bug)
    assert scored(lookup_model, written(tmp_path / "in.csv", "x\n1\n"), tmp_path / "out") is Status.PROBLEM
    assert "this should not happen: KeyError: 'x' (LOG_LEVEL=debug" in capsys.readouterr().err
