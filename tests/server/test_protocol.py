"""Right answers through every protocol, from real models."""

import json
import re
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from modelramp_server import exchange, hot_path, serve
from modelramp_server.exchange import InferenceRequest, request_of
from modelramp_server.protocol import v2
from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.tensors import from_bytes, from_json, to_bytes, to_json
from tests.server import models
from tests.server.served import OWN, Served

ROWS = 3


@pytest.fixture(scope="module")
def images() -> models.Array:
    return models.digits()[0][1000 : 1000 + ROWS] / 16


def test_v2_json_gives_the_estimators_answers(sklearn_server: Served, estimator, images) -> None:
    tensor = {"name": "input", "datatype": "FP64", "shape": [ROWS, 64], "data": images.ravel().tolist()}
    reply = sklearn_server.infer(tensor)
    assert reply.status == 200
    assert reply.json["outputs"] == [
        {"name": "predict", "datatype": "INT64", "shape": [ROWS], "data": estimator.predict(images).tolist()}
    ]
    assert (reply.json["model_name"], reply.json["model_version"]) == ("digits", "3")


def test_every_inference_answer_says_who_answered_and_how_long_it_took(sklearn_server: Served, images) -> None:
    good = sklearn_server.infer({"name": "input", "datatype": "FP64", "shape": [1, 64], "data": [0.0] * 64})
    bad = sklearn_server.infer({"name": "wrong", "datatype": "FP64", "shape": [1, 64], "data": [0.0] * 64})
    for reply in (good, bad):
        assert reply.headers["x-modelramp-revision"] == OWN
        assert reply.headers["x-modelramp-version"] == "3"
        assert re.fullmatch(r"service;dur=[0-9.]+", reply.headers["server-timing"])


def test_nested_data_narrower_numbers_and_the_common_input_name(onnx_server: Served, estimator, images) -> None:
    for name in ("X", "input"):
        tensor = {"name": name, "datatype": "FP16", "shape": [ROWS, 64], "data": images.tolist()}
        outputs = {output["name"]: output for output in onnx_server.infer(tensor).json["outputs"]}
        assert outputs["label"]["data"] == estimator.predict(images).tolist()
        assert outputs["probabilities"]["shape"] == [ROWS, 10]


def test_chosen_outputs_and_id(onnx_server: Served) -> None:
    body = {
        "id": "request-7",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}],
        "outputs": [{"name": "probabilities"}],
    }
    reply = onnx_server.call("POST", "/v2/models/digits/versions/3/infer", body).json
    assert reply["id"] == "request-7"
    assert [output["name"] for output in reply["outputs"]] == ["probabilities"]


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_tritonclient(onnx_server: Served, estimator, images, binary_in: bool, binary_out: bool) -> None:
    client = InferenceServerClient(f"127.0.0.1:{onnx_server.port}")
    try:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits")
        assert client.get_model_metadata("digits")["inputs"][0] == {"name": "X", "datatype": "FP32", "shape": [-1, 64]}
        assert client.get_model_repository_index()[0]["state"] == "READY"
        tensor = InferInput("X", [ROWS, 64], "FP32")
        tensor.set_data_from_numpy(images.astype(np.float32), binary_data=binary_in)
        outputs = [InferRequestedOutput("label", binary_data=binary_out)]
        result = client.infer("digits", [tensor], outputs=outputs)
        assert result.as_numpy("label").tolist() == estimator.predict(images).tolist()
        everything = client.infer("digits", [tensor])
        assert np.allclose(everything.as_numpy("probabilities"), estimator.predict_proba(images), atol=1e-4)
    finally:
        client.close()


def test_strings_and_booleans_travel_in_both_forms() -> None:
    strings = np.array(["zero", "", "eins"], dtype=object)
    assert from_bytes(memoryview(to_bytes(strings)), "BYTES", "t").tolist() == strings.tolist()
    assert to_json(np.array(["a", "b"])) == ["a", "b"]
    flags = np.array([True, False])
    assert from_bytes(memoryview(to_bytes(flags)), "BOOL", "t").tolist() == [True, False]


NUMBERS = np.array([[1.0, np.nan], [np.inf, -np.inf]])


def test_numbers_that_json_lacks_are_told_as_strings() -> None:
    assert to_json(NUMBERS) == [1.0, "NaN", "Infinity", "-Infinity"]


def test_they_stand_beside_tensors_of_other_kinds() -> None:
    outputs = {"f": NUMBERS, "null": np.array([0.5], np.float32), "i": np.array([7]), "s": np.array(["null"], object)}
    body, _ = v2.encode(v2.InferRequest({}, 1), outputs, "m", "1")
    told = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
    assert told == {"f": [1.0, "NaN", "Infinity", "-Infinity"], "null": [0.5], "i": [7], "s": ["null"]}


FEW = st.lists(st.integers(-(2**63), 2**64 - 1) | st.floats(width=64), min_size=1, max_size=40)


@given(FEW | st.lists(st.booleans() | st.floats() | st.none() | st.text(max_size=2) | FEW, max_size=4))
def test_a_few_floats_are_what_numpy_makes_of_them(data: list[object]) -> None:
    """Short lists are read without numpy: many of the same must come out alike, or be refused in the same words."""

    def read(numbers: list[object]) -> object:
        try:
            array = from_json(numbers, "FP32", "x")
        except BadRequest as error:
            return error.message
        assert array.dtype == np.float32 and array.flags.writeable
        return array[: len(data)].tobytes()

    times = 1 + 1024 // max(1, len(data))
    assert read(data) == read(data * times)


@pytest.mark.parametrize("form", ["instances", "inputs", "dataframe_split", "dataframe_split unnamed"])
def test_mlflow_scoring_json_without_names(sklearn_server: Served, estimator, images, form: str) -> None:
    body = {
        "instances": {"instances": images.tolist()},
        "inputs": {"inputs": images.tolist()},
        "dataframe_split": {"dataframe_split": {"columns": list(range(64)), "data": images.tolist()}},
        "dataframe_split unnamed": {"dataframe_split": {"data": images.tolist()}},
    }[form]
    reply = sklearn_server.call("POST", "/invocations", body, {"content-type": "application/json"})
    assert (reply.status, reply.json) == (200, {"predictions": estimator.predict(images).tolist()})


def test_mlflow_scoring_json_with_names(onnx_server: Served, estimator, images) -> None:
    labels = estimator.predict(images).tolist()
    records = [dict(enumerate(row)) for row in images.tolist()]
    frame = onnx_server.call("POST", "/invocations", {"dataframe_records": records}).json["predictions"]
    assert [row["label"] for row in frame] == labels
    for body in ({"inputs": {"X": images.tolist()}}, {"instances": [{"X": row} for row in images.tolist()]}):
        assert onnx_server.call("POST", "/invocations", body).json["predictions"]["label"] == labels


def test_metadata_and_health(sklearn_server: Served) -> None:
    assert sklearn_server.call("GET", "/v2").json["name"] == "modelramp"
    metadata = sklearn_server.call("GET", "/v2/models/digits").json
    assert metadata["platform"] == "sklearn"
    assert metadata["outputs"] == [{"name": "predict", "datatype": "INT64", "shape": [-1]}]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready", "/health", "/ping", "/version"):
        assert sklearn_server.call("GET", path).status == 200
        assert sklearn_server.call("HEAD", path).status == 200
    index = sklearn_server.call("POST", "/v2/repository/index").json
    assert index == [{"name": "digits", "version": "3", "state": "READY", "reason": ""}]


def test_live_before_the_model_is_ready(start, lookup_model, monkeypatch) -> None:
    go_on = threading.Event()
    load = serve._load
    monkeypatch.setattr(serve, "_load", lambda *arguments: (go_on.wait(30), load(*arguments))[1])
    server = start(lookup_model, wait=False)
    assert server.call("GET", "/v2/health/live").status == 200
    for method, path in (("GET", "/v2/health/ready"), ("GET", "/v2/models/digits"), ("POST", "/invocations")):
        reply = server.call(method, path, b"{}" if method == "POST" else None)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "loading" in reply.json["error"]
    assert server.metric("modelramp_split_requests_total", side="stable", outcome="refused") == 1
    assert server.metric("modelramp_bad_window_sum") == 0
    assert server.metric("modelramp_failed_window_sum") == server.metric("modelramp_failed_window_squares") == 1
    go_on.set()
    server.wait_ready()


def test_metrics_carry_the_contracts_series(start, lookup_model) -> None:
    server = start(lookup_model)
    for value in (1, 2, 99):
        server.infer({"name": "x", "datatype": "INT64", "shape": [1], "data": [value]})
    server.call("POST", "/invocations", b"not json")
    assert server.metric("modelramp_requests_total", route="infer", code="200") == 2
    assert server.metric("modelramp_requests_total", route="infer", code="500") == 1
    assert server.metric("modelramp_requests_total", route="invocations", code="400") == 1
    stable = {"side": "stable", "target": OWN, "salt": ""}
    assert server.metric("modelramp_split_requests_total", outcome="ok", **stable) == 2
    assert server.metric("modelramp_split_requests_total", outcome="bad", **stable) == 1
    assert server.metric("modelramp_split_service_seconds_count", **stable) == 2
    assert server.metric("modelramp_request_duration_seconds_count", route="infer") == 3
    assert server.metric("modelramp_bad_window_sum") == server.metric("modelramp_bad_window_squares") == 1
    assert server.metric("modelramp_failed_window_sum") == server.metric("modelramp_failed_window_squares") == 1
    assert server.metric("modelramp_bad_window_seconds") >= 1
    assert server.metric("modelramp_model_info", runtime="onnx", device="cpu") == 1
    assert server.metric("modelramp_batch_rows_count") >= 3
    text = server.call("GET", "/metrics").body.decode()
    samples = [line for line in text.splitlines() if line.startswith("modelramp_")]
    own = ('model="digits"', 'version="3"', f'revision="{OWN}"')
    assert samples and all(label in line for line in samples for label in own)


@pytest.fixture
def slow_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a server notes, 100 s lie between the head of a request and its body."""

    def long_ago(*arguments: Any) -> InferenceRequest:
        request = request_of(*arguments)
        request.arrived -= 100
        return request

    for module in (exchange, hot_path):
        monkeypatch.setattr(module, "request_of", long_ago)


@pytest.mark.parametrize("query", ["", "?by=asgi"])
def test_an_upload_is_no_service_time(start, lookup_model, slow_upload, query: str) -> None:
    server = start(lookup_model, request_timeout=1000)
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
    reply = server.call("POST", "/v2/models/digits/infer" + query, {"inputs": [tensor]})
    assert reply.status == 200
    assert float(reply.headers["server-timing"].removeprefix("service;dur=")) < 100_000
    assert 0 < server.metric("modelramp_split_service_seconds_sum", side="stable") < 100


@pytest.mark.parametrize("query", ["", "?by=asgi"])
def test_a_budget_spent_on_the_upload_is_no_fault_of_stables(start, lookup_model, slow_upload, query: str) -> None:
    server = start(lookup_model)
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
    assert server.call("POST", "/v2/models/digits/infer" + query, {"inputs": [tensor]}).status == 504
    assert server.metric("modelramp_split_requests_total", side="stable", outcome="neutral") == 1
    assert server.metric("modelramp_split_requests_total", side="stable") == 1
    assert server.metric("modelramp_bad_window_sum") == server.metric("modelramp_failed_window_sum") == 0


def test_relayed_requests_are_left_to_the_sender_to_count(start, lookup_model) -> None:
    server = start(lookup_model)
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
    assert server.infer(tensor, x_modelramp_relayed="cccccccc").status == 200
    assert server.metric("modelramp_requests_total") == server.metric("modelramp_split_requests_total") == 0


def test_a_body_that_is_no_json_type_but_json(onnx_server: Served) -> None:
    body = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}]}).encode()
    for kind in ("application/x-www-form-urlencoded", "application/json; charset=utf-8", "application/octet-stream"):
        assert onnx_server.call("POST", "/v2/models/digits/infer", body, {"content-type": kind}).status == 200
