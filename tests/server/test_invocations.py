"""MLflow's scoring protocol beside MLflow's own code: the same bodies, the same answers; and MLflow's own client."""

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest
import yaml
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from modelramp_server import serve
from modelramp_server.batching.model_thread import LoadedModel
from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.invocations import decode
from modelramp_server.protocol.params import Params, read
from modelramp_server.protocol.tensors import TensorSpec
from tests.server import models
from tests.server.conftest import Start
from tests.server.served import Reply, Served
from tests.server.test_pyfunc import pyfunc

JSON, CSV = "application/json", "text/csv"
COLUMNS = [
    {"type": "double", "name": "a", "required": True},
    {"type": "long", "name": "b", "required": True},
    {"type": "double", "name": "c", "required": True},
]
PARAMS = [
    {"name": "t", "default": 0.5, "shape": None, "type": "double"},
    {"name": "k", "default": [1, 2], "shape": [-1], "type": "long"},
    {"name": "s", "default": "x", "shape": None, "type": "string"},
    {"name": "on", "default": False, "shape": None, "type": "boolean"},
]
ROWS = [[1.5, 1, 2.5], [2.5, 0, 7.0]]
RECORDS = [dict(zip("abc", row, strict=True)) for row in ROWS]


class Frame(NamedTuple):
    """A model of three columns: as a folder, and served."""

    folder: Path
    server: Served


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frame]:
    folder = tmp_path_factory.mktemp("frame") / "model"
    known = pandas.DataFrame([[1.0, 1, 5.5], [2, 0, 6], [3, 1, 7], [4, 0, 8]], columns=list("abc"))
    estimator = LinearRegression().fit(known, [1.0, 2, 3, 5])
    models.sklearn_folder(folder, estimator)
    document = yaml.safe_load((folder / "MLmodel").read_text())
    document["signature"] |= {"inputs": json.dumps(COLUMNS), "params": json.dumps(PARAMS)}
    document["flavors"]["python_function"] = {"loader_module": "mlflow.sklearn", "model_path": "model.skops"}
    document["flavors"]["sklearn"]["skops_trusted_types"] = []
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    server = Served(folder).wait_ready()
    yield Frame(folder, server)
    server.stop()


def ask(server: Served, body: Any, kind: str = JSON) -> Reply:
    payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return server.call("POST", "/invocations", payload, {"content-type": kind})


class Peer:
    """MLflow's scoring server, without its sockets."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow.pyfunc
            from mlflow.pyfunc import scoring_server

            self._answer = scoring_server.invocations
            self._model = mlflow.pyfunc.load_model(str(folder))
        self._schema = self._model.metadata.get_input_schema()

    def ask(self, body: Any, kind: str) -> Any:
        """The answer's JSON."""
        text = body if isinstance(body, str) else json.dumps(body)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = self._answer(text.encode(), kind, self._model, self._schema)
        assert answer.status == 200
        return json.loads(answer.response)


@pytest.fixture(scope="module")
def peer(frame: Frame) -> Peer:
    return Peer(frame.folder)


SAME: dict[str, tuple[str, Any]] = {
    "split": (JSON, {"dataframe_split": {"columns": list("abc"), "index": [0, 1], "data": ROWS}}),
    "split in another order": (
        JSON,
        {"dataframe_split": {"columns": list("cab"), "data": [[row[2], row[0], row[1]] for row in ROWS]}},
    ),
    "split with one column more": (
        JSON,
        {"dataframe_split": {"columns": list("abcd"), "data": [[*row, "x"] for row in ROWS]}},
    ),
    "records": (JSON, {"dataframe_records": RECORDS}),
    "records with one field more": (JSON, {"dataframe_records": [{**row, "z": None} for row in RECORDS]}),
    "records with integers as floats": (JSON, {"dataframe_records": [{**row, "b": 1.0} for row in RECORDS]}),
    "instances": (JSON, {"instances": RECORDS}),
    "inputs": (JSON, {"inputs": {"a": [1.5, 2.5], "b": [1, 0], "c": [2.5, 7.0]}}),
    "inputs of scalars": (JSON, {"inputs": {"a": 1.5, "b": 1, "c": 2.5}}),
    "inputs as records": (JSON, {"inputs": RECORDS}),
    "params": (JSON, {"dataframe_records": RECORDS, "params": {"t": 1, "k": [3], "s": "y", "on": True}}),
    "a param of null": (JSON, {"dataframe_records": RECORDS, "params": {"t": None}}),
    "no params": (JSON, {"dataframe_records": RECORDS, "params": {}}),
    "csv": (CSV, "a,b,c\n1.5,1,2.5\n2.5,0,7.0\n"),
    "csv with integers as floats": (CSV, "a,b,c\n1.5,1.0,2.5\n"),
    "csv with the index": (CSV, ",a,b,c\n0,1.5,1,2.5\n1,2.5,0,7e0\n"),
    "csv quoted, CRLF, a gap, a mark": (f"{CSV}; charset=utf-8", '"a","b","c"\r\n"1.5",1,2.5\r\n\r\n'),
}


@pytest.mark.parametrize(("kind", "body"), SAME.values(), ids=SAME.keys())
def test_the_answer_is_mlflows(frame: Frame, peer: Peer, kind: str, body: Any) -> None:
    reply = ask(frame.server, body, kind)
    assert reply.status == 200, reply.body
    expected = peer.ask(body, kind)
    assert reply.json.keys() == expected.keys()
    assert reply.json["predictions"] == pytest.approx(expected["predictions"])


def rounded(document: Any) -> Any:
    return json.loads(json.dumps(document), parse_float=lambda text: round(float(text), 4))


def peer_of_onnx(folder: Path, graph: Any, inputs: list[Any] | None) -> Path:
    """A folder that MLflow serves too; with this signature, or none."""
    models.onnx_folder(folder, graph)
    document = yaml.safe_load((folder / "MLmodel").read_text())
    document["flavors"]["python_function"] = {"loader_module": "mlflow.onnx", "data": "model.onnx"}
    document["flavors"]["onnx"]["providers"] = ["CPUExecutionProvider"]
    document["signature"] = {"inputs": json.dumps(inputs)} if inputs else None
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    return folder


WIDE = [[0.5] * 64, [0.25] * 64]


@pytest.mark.parametrize(
    "body",
    [{"inputs": WIDE}, {"inputs": {"X": WIDE}}, {"instances": WIDE}, {"instances": [{"X": row} for row in WIDE]}],
    ids=["inputs", "inputs by name", "instances", "instances by name"],
)
def test_named_outputs_are_mlflows(onnx_server: Served, estimator: Any, tmp_path: Path, body: Any) -> None:
    inputs = [models.tensor("X", "float32", [-1, 64])]
    folder = peer_of_onnx(tmp_path / "model", models.onnx_classifier(estimator), inputs)
    expected = Peer(folder).ask(body, JSON)["predictions"]
    found = ask(onnx_server, body).json["predictions"]
    assert found["label"] == expected["label"]
    assert np.allclose(found["probabilities"], expected["probabilities"], atol=1e-5)


FEATURES = [f"p{index}" for index in range(64)]
WIDE_FRAME = {"dataframe_split": {"columns": FEATURES, "data": WIDE}}
WIDE_RECORDS = {"dataframe_records": [dict(zip(FEATURES, row, strict=True)) for row in WIDE]}
TENSORS = [models.tensor("", "float32", [-1, 64])]
TWO_FLOATS = [{"type": "float", "name": name, "required": True} for name in "ab"]
TWO_NUMBERS = {"a": [1.5, 2.5], "b": [4.0, 5.0]}
OF_ONNX: dict[str, tuple[Any, list[Any] | None, list[Any]]] = {
    "tensors": (models.onnx_classifier, TENSORS, [WIDE_FRAME, WIDE_RECORDS, {"inputs": WIDE}]),
    "a map of probabilities": (models.onnx_zipmap, None, [WIDE_FRAME, WIDE_RECORDS, {"inputs": WIDE}]),
    "columns": (
        lambda _: models.sums(),
        TWO_FLOATS,
        [
            {"inputs": TWO_NUMBERS},
            {"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 4.0], [2.5, 5.0]]}},
            {"instances": [{"a": 1.5, "b": 4.0}]},
        ],
    ),
}


@pytest.mark.parametrize(("graph", "inputs", "bodies"), OF_ONNX.values(), ids=OF_ONNX.keys())
def test_onnx_answers_have_the_shape_of_mlflows(
    start: Start, tmp_path: Path, estimator: Any, graph: Any, inputs: list[Any] | None, bodies: list[Any]
) -> None:
    folder = peer_of_onnx(tmp_path / "model", graph(estimator), inputs)
    server, peer = start(folder), Peer(folder)
    for body in bodies:
        reply = ask(server, body)
        assert reply.status == 200, reply.body
        assert rounded(reply.json) == rounded(peer.ask(body, JSON))


ANYTHING = """
import datetime
import numpy as np
import pandas

ANSWERS = [
    lambda x: x.to_numpy() * 2,
    lambda x: x.to_frame("score"),
    lambda x: x * 2,
    lambda x: pandas.Series([1.5] * len(x)),
    lambda x: {"label": ["a"] * len(x), "score": x.tolist()},
    lambda x: {"only": x.tolist()},
    lambda x: {"a": {"b": [1, 2], "c": None}, "n": 3},
    lambda x: [{"label": "a", "score": np.float32(0.5), "box": np.arange(4)} for _ in x],
    lambda x: None,
    lambda x: "some text",
    lambda x: [1, "two", None, True, [3.5]],
    lambda x: [[1], [1, 2]],
    lambda x: [["a", 1], ["b", 2]],
    lambda x: [b"bytes", "text"],
    lambda x: np.array(["a", "b"]),
    lambda x: pandas.DataFrame({"when": pandas.to_datetime(["2020-01-02"]), "what": [{"k": (1, 2)}], "ok": [True]}),
    lambda x: pandas.DataFrame({"kind": pandas.Categorical(["a", "b"]), 0: [1, 2]}),
    lambda x: [datetime.date(2020, 1, 2)],
]

class Model:
    def predict(self, data, params=None):
        x = data["x"]
        return ANSWERS[int(x.iloc[0])](x)

def _load_pyfunc(path):
    return Model()
"""


@pytest.fixture(scope="module")
def anything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frame]:
    columns = [{"type": "double", "name": "x", "required": True}]
    folder = pyfunc(tmp_path_factory.mktemp("anything") / "model", "loader_anything", ANYTHING, columns)
    server = Served(folder, allow_code=True).wait_ready()
    yield Frame(folder, server)
    server.stop()


@pytest.mark.parametrize("number", range(ANYTHING.count("lambda")))
def test_whatever_a_pyfunc_answers_is_told_as_mlflow_tells_it(anything: Frame, number: int) -> None:
    peer = Peer(anything.folder)
    for body in ({"dataframe_records": [{"x": number}, {"x": 0}]}, {"inputs": {"x": [number, 0.0]}}):
        reply = ask(anything.server, body)
        assert reply.status == 200, reply.body
        assert reply.json == peer.ask(body, JSON)


def test_a_frame_of_csv_for_a_model_of_one_matrix(onnx_server: Served) -> None:
    text = ",".join(f"p{index}" for index in range(64)) + "\n" + (",".join(["0.5"] * 64) + "\n") * 2
    table = ask(onnx_server, text, CSV).json
    assert table == ask(onnx_server, {"dataframe_split": {"data": [[0.5] * 64] * 2}}).json
    assert len(table["predictions"]) == 2


def test_a_cell_of_csv_may_be_as_long_as_the_body(lookup_server: Served) -> None:
    reply = ask(lookup_server, f"x,note\n2,{'a' * 200_000}\n", CSV)
    assert reply.json == {"predictions": [{"y": 20.0}]}, reply.body


def test_strings_and_booleans_of_csv(echo_server: Served) -> None:
    names = [datatype.lower() for datatype in models.ECHOED]
    cells = ["True", *["1"] * 8, "0.5", "0.5", "0.5", '"a, ""b"""']
    reply = ask(echo_server, f"{','.join(names)}\n{','.join(cells)}\n", CSV)
    assert reply.status == 200, reply.body
    [row] = reply.json["predictions"]
    assert (row["bool_out"], row["int64_out"], row["fp64_out"], row["bytes_out"]) == (True, 1, 0.5, 'a, "b"')


def test_mlflows_own_client(frame: Frame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.pyfunc.scoring_server.client import ScoringServerClient

        client = ScoringServerClient("127.0.0.1", frame.server.port)
        client.ping()
        assert client.get_version()
        answer = client.invoke(pandas.DataFrame(ROWS, columns=list("abc")), params={"t": 0.7})
    assert answer.get_predictions()[0].tolist() == ask(frame.server, {"inputs": RECORDS}).json["predictions"]


def test_an_example_logged_with_params_is_served(frame: Frame, start: Start, tmp_path: Path) -> None:
    folder = shutil.copytree(frame.folder, tmp_path / "model")
    example = {"dataframe_split": {"columns": list("abc"), "data": ROWS}, "params": {"t": 0.5, "s": "x"}}
    (folder / "serving_input_example.json").write_text(json.dumps(example))
    server = start(folder)
    reply = server.call("POST", "/invocations", server.call("GET", "/v2/models/digits/example").body)
    assert reply.status == 200 and len(reply.json["predictions"]) == 2


class Outputs:
    """A model whose outputs are what a test says."""

    name, device, fallback, named_outputs, only_computes, at_once = "test", "cpu", "", True, False, False
    inputs = (TensorSpec("x", "INT64", (-1,)),)
    outputs = (TensorSpec("y", "INT64", (-1,)), TensorSpec("z", "FP64", ()))

    def __init__(self, **outputs: Any) -> None:
        self._outputs = {name: np.array(value) for name, value in outputs.items()}

    def predict(self, inputs: Any) -> dict[str, Any]:
        return self._outputs


def test_outputs_that_are_no_rows(start: Start, lookup_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = serve._load
    body = {"dataframe_records": [{"x": 1}, {"x": 2}]}
    monkeypatch.setattr(serve, "_load", lambda *given: (load(*given)[0], Outputs(y=[1, 2], z=0.5)))
    assert ask(start(lookup_model), body).json == {"predictions": {"y": [1, 2], "z": 0.5}}
    monkeypatch.setattr(serve, "_load", lambda *given: (load(*given)[0], Outputs(y=[1, 2], z=[0.5])))
    reply = ask(start(lookup_model), body)
    assert reply.status == 500 and "outputs can't be written" in reply.json["error"]


def test_params_join_the_defaults_in_one_form_and_only_where_the_model_uses_them() -> None:
    used = Params(read(PARAMS), used=True)
    assert used.canonical(None) == used.canonical({}) == used.canonical({"t": 0.5, "k": [1, 2]}) == b""
    one = used.canonical({"t": 1, "s": "y"})
    assert one == used.canonical({"s": "y", "t": 1}) != used.canonical({"t": 2, "s": "y"})
    assert json.loads(one) == {"t": 1, "s": "y", "k": [1, 2], "on": False}
    assert Params(read(PARAMS), used=False).canonical({"t": 9}) == b""
    with pytest.raises(BadRequest, match="takes no 'u'"):
        Params(read(PARAMS), used=False).canonical({"u": 9})


BAD: dict[str, tuple[str, Any, str]] = {
    "a fraction for an integer": (JSON, {"dataframe_records": [{**RECORDS[0], "b": 1.5}]}, "dataframe_records.b"),
    "a null": (JSON, {"dataframe_records": [{**RECORDS[0], "b": None}]}, "dataframe_records.b: a value is missing"),
    "a boolean for a number": (JSON, {"dataframe_records": [{**RECORDS[0], "a": True}]}, "dataframe_records.a"),
    "a string for a number": (JSON, {"dataframe_records": [{**RECORDS[0], "a": "1"}]}, "dataframe_records.a"),
    "a list for a number": (JSON, {"dataframe_records": [{**RECORDS[0], "a": [1, 2]}]}, "dataframe_records.a"),
    "an object for a number": (JSON, {"inputs": {"a": {}, "b": 1, "c": 1}}, "inputs.a"),
    "a column too few": (JSON, {"dataframe_records": [{"a": 1, "b": 1}]}, "'c'"),
    "columns of other lengths": (JSON, {"inputs": {"a": [1], "b": [1, 2], "c": [1]}}, "numbers of rows"),
    "an integer beyond its range": (JSON, {"inputs": {"a": 1, "b": 1e300, "c": 1}}, "inputs.b"),
    "split, an object for data": (JSON, {"dataframe_split": {"columns": ["a"], "data": {}}}, "dataframe_split"),
    "split, columns a string": (JSON, {"dataframe_split": {"columns": "abc", "data": ROWS}}, "dataframe_split.columns"),
    "records, a list of lists": (JSON, {"dataframe_records": ROWS}, "dataframe_records"),
    "unified LLM input": (JSON, {"messages": [{"role": "user", "content": "hi"}]}, "exactly one"),
    "params a list": (JSON, {"inputs": RECORDS, "params": [1]}, "params"),
    "params unknown": (JSON, {"inputs": RECORDS, "params": {"u": 1}}, "'u'"),
    "a string for a double": (JSON, {"inputs": RECORDS, "params": {"t": "1"}}, "params.t"),
    "a boolean for a double": (JSON, {"inputs": RECORDS, "params": {"t": True}}, "params.t"),
    "a list for a double": (JSON, {"inputs": RECORDS, "params": {"t": [1]}}, "params.t"),
    "a number for a list": (JSON, {"inputs": RECORDS, "params": {"k": 1}}, "params.k"),
    "floats for a list of longs": (JSON, {"inputs": RECORDS, "params": {"k": [1.5]}}, "params.k"),
    "a long beyond 64 bits": (JSON, {"inputs": RECORDS, "params": {"k": [2**63]}}, "params.k"),
    "a number for a string": (JSON, {"inputs": RECORDS, "params": {"s": 1}}, "params.s"),
    "a number for a boolean": (JSON, {"inputs": RECORDS, "params": {"on": 1}}, "params.on"),
    "csv empty": (CSV, "", "csv"),
    "csv without rows": (CSV, "a,b,c\n", "at least one row"),
    "csv with a column twice": (CSV, "a,b,c,a\n1,1,1,1\n", "distinct"),
    "csv with a row too short": (CSV, "a,b,c\n1,1,1\n1,1\n", "row 2"),
    "csv with a word": (CSV, "a,b,c\nx,1,1\n", "csv.a: 'x'"),
    "csv with an empty cell": (CSV, "a,b,c\n1,,1\n", "csv.b: '' is no INT64; it may not lack values"),
    "csv with NaN": (CSV, "a,b,c\n1,nan,1\n", "csv.b: 'nan'"),
    "csv with two numbers in a cell": (CSV, 'a,b,c\n"1,2",1,1\n', "csv.a: '1,2'"),
    "csv with cells that make one list": (CSV, 'a,b,c\n"[1",1,1\n"2]",1,1\n', "csv.a: '[1'"),
    "csv with as many values as cells": (CSV, 'a,b,c\n"1,2",1,1\n[3,1,1\n4],1,1\n', "csv.a"),
    "csv with a fraction for an integer": (CSV, "a,b,c\n1,1.5,1\n", "csv.b"),
    "csv with an open quote": (CSV, 'a,b,c\n"1,1,1\n', "csv"),
    "csv without a column": (CSV, "a,b\n1,1\n", "'c'"),
    "JSON said to be csv": (CSV, '{"inputs": [[1, 2, 3]]}', "csv"),
}


@pytest.mark.parametrize(("kind", "body", "part"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_refused_by_name(frame: Frame, kind: str, body: Any, part: str) -> None:
    reply = ask(frame.server, body, kind)
    assert reply.status == 400 and set(reply.json) == {"error"}
    assert part in reply.json["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/vnd.apache.parquet", "multipart/form-data", "image/png"])
def test_types_that_are_not_served(frame: Frame, kind: str) -> None:
    reply = ask(frame.server, {"inputs": RECORDS}, kind)
    assert reply.status == 415 and kind in reply.json["error"]


def test_csv_that_is_no_text(frame: Frame) -> None:
    reply = frame.server.call("POST", "/invocations", b"a,b,c\n\xff,1,1\n", {"content-type": CSV})
    assert reply.status == 400 and "UTF-8" in reply.json["error"]


def test_a_model_of_one_column_wants_that_column(lookup_server: Served) -> None:
    for body in ({"dataframe_records": [{"x": 3}]}, {"inputs": [3]}, {"instances": [3]}, {"inputs": {"input": [3]}}):
        assert ask(lookup_server, body).status == 200, body
    for kind, body in ((JSON, {"dataframe_records": [{"y": 3}]}), (CSV, "y\n3\n")):
        reply = ask(lookup_server, body, kind)
        assert reply.status == 400 and "columns are ['y']" in reply.json["error"]


def test_values_may_be_missing_where_the_signature_says_so(tmp_path: Path, start: Start) -> None:
    known = pandas.DataFrame({"a": [1.0, None, 3.0, 4.0] * 10, "b": [1.0, 2.0, 3.0, 4.0] * 10})
    estimator = make_pipeline(SimpleImputer(), LinearRegression()).fit(known, [5.0, 0.0, 9.0, 1.0] * 10)
    folder = models.sklearn_folder(tmp_path / "model", estimator)
    document = yaml.safe_load((folder / "MLmodel").read_text())
    document["flavors"]["sklearn"]["skops_trusted_types"] = ["numpy.dtype"]
    columns = [{"type": "double", "name": "a", "required": False}, {"type": "double", "name": "b", "required": True}]
    document["signature"]["inputs"] = json.dumps(columns)
    document["flavors"]["python_function"] = {"loader_module": "mlflow.sklearn", "model_path": "model.skops"}
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    server, peer = start(folder, allow_code=True), Peer(folder)
    gap: dict[str, Any] = {"dataframe_records": [{"a": None, "b": 2.0}, {"a": 3.0, "b": 3.0}]}
    for kind, body in ((JSON, gap), (CSV, "a,b\n,2.0\n3.0,4.0\n")):
        reply = ask(server, body, kind)
        assert reply.status == 200, reply.body
        assert reply.json["predictions"] == pytest.approx(peer.ask(body, kind)["predictions"])
    nulls = ask(server, {"inputs": {"a": [None, None], "b": [1.0, 4.0]}})
    assert nulls.status == 200
    assert nulls.body == ask(server, {"dataframe_records": [{"b": 1.0}, {"b": 4.0}]}).body
    reply = ask(server, {"dataframe_records": [{"a": 1.0}]})
    assert reply.status == 400 and "b" in reply.json["error"]


GAPS: dict[str, tuple[str, Any]] = {
    "split": (JSON, {"dataframe_split": {"columns": list("abcn"), "data": [[None, 6, 2, 0], [3, None, None, 1]]}}),
    "records": (JSON, {"dataframe_records": [{"a": 3.5, "b": None, "c": 2, "n": 1}]}),
    "inputs": (JSON, {"inputs": {"a": [None, None], "b": [5.5, 8], "c": [None, 1], "n": [1, 0]}}),
    "instances": (JSON, {"instances": [{"a": None, "b": 6.5, "c": 2, "n": 0}]}),
    "csv": (CSV, "a,b,c,n\n1,5,,1\n,6,2,0\n3,,2,1\n"),
    "csv of NaN": (CSV, "a,b,c,n\n1,5,NaN,1\nnan,6,2,0\n"),
}


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frame]:
    folder = models.gaps_folder(tmp_path_factory.mktemp("gaps") / "model")
    server = Served(folder).wait_ready()
    yield Frame(folder, server)
    server.stop()


@pytest.mark.parametrize(("kind", "body"), GAPS.values(), ids=GAPS.keys())
def test_a_float_that_is_missing_is_nan_as_in_mlflow(gaps: Frame, kind: str, body: Any) -> None:
    reply = ask(gaps.server, body, kind)
    assert reply.status == 200, reply.body
    assert reply.json == Peer(gaps.folder).ask(body, kind)


@pytest.mark.parametrize("body", [{"inputs": [[1, None, 2, 0]]}, {"dataframe_split": {"data": [[1, None, None, 1]]}}])
def test_a_matrix_may_have_gaps_as_in_mlflow(start: Start, tmp_path: Path, body: Any) -> None:
    folder = models.gaps_folder(tmp_path / "model", [models.tensor("", "float64", [-1, 4])])
    server, row = start(folder), next(iter(body.values()))
    reply = ask(server, body)
    assert reply.status == 200, reply.body
    assert reply.json == Peer(folder).ask(body, JSON)
    cells = ",".join("" if cell is None else str(cell) for cell in (row if isinstance(row, list) else row["data"])[0])
    assert ask(server, f"p,q,r,s\n{cells}\n", CSV).json == reply.json


def test_strings_integers_and_booleans_may_not_be_missing() -> None:
    for datatype in ("BYTES", "INT64", "INT32", "BOOL"):
        model = LoadedModel("", "", (TensorSpec("x", datatype, (-1,)),), (), False, 1, Params(), frozenset(), "")
        with pytest.raises(BadRequest, match=rf"x: a value is missing; this column of {datatype} may not lack values"):
            decode(b'{"dataframe_records": [{"x": null}]}', model)
