"""Malformed requests: each gets a 4xx that says what is wrong, none a 500, and nobody else notices."""

import json
import socket
from typing import Any

import pytest

from tests.server.served import Served

INFER = "/v2/models/digits/infer"
GOOD: dict[str, Any] = {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}


def v2(**changes: Any) -> dict[str, Any]:
    """A V2 request with fields of its one tensor changed; None removes one."""
    tensor = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return {"inputs": [tensor]}


def raw(text: str) -> bytes:
    return text.encode()


CASES: list[tuple[str, str, Any, int, str]] = [
    # path, name of the case, body, status, a part of the message
    (INFER, "empty body", b"", 400, "JSON"),
    (INFER, "no JSON", b"hello", 400, "JSON"),
    (INFER, "truncated JSON", b'{"inputs": [{"name": "X"', 400, "JSON"),
    (INFER, "not UTF-8", b'{"inputs": "\xff\xfe"}', 400, "JSON"),
    (INFER, "NaN literal", raw(json.dumps(v2(data=[float("nan")] * 64))), 400, "JSON"),
    (INFER, "Infinity literal", raw(json.dumps(v2(data=[float("inf")] * 64))), 400, "JSON"),
    (INFER, "a list", [], 400, "object"),
    (INFER, "null", b"null", 400, "object"),
    (INFER, "nested 5,000 deep", b"[" * 5000 + b"]" * 5000, 400, "JSON"),
    (INFER, "no inputs", {}, 400, "inputs"),
    (INFER, "inputs empty", {"inputs": []}, 400, "inputs"),
    (INFER, "inputs an object", {"inputs": {}}, 400, "inputs"),
    (INFER, "tensor a number", {"inputs": [7]}, 400, "inputs[0]"),
    (INFER, "tensor without name", v2(name=None), 400, "name"),
    (INFER, "name a number", v2(name=5), 400, "name"),
    (INFER, "wrong name", v2(name="Y"), 400, "'Y'"),
    (INFER, "name given twice", {"inputs": [GOOD, GOOD]}, 400, "twice"),
    (INFER, "one name and its alias", {"inputs": [GOOD, {**GOOD, "name": "input"}]}, 400, "twice"),
    (INFER, "no datatype", v2(datatype=None), 400, "datatype"),
    (INFER, "unknown datatype", v2(datatype="FLOAT"), 400, "FLOAT"),
    (INFER, "datatype a list", v2(datatype=["FP32"]), 400, "datatype"),
    (INFER, "wider datatype", v2(datatype="FP64"), 400, "FP64"),
    (INFER, "strings for numbers", v2(datatype="BYTES", data=["a"] * 64), 400, "BYTES"),
    (INFER, "no shape", v2(shape=None), 400, "shape"),
    (INFER, "shape a number", v2(shape=64), 400, "shape"),
    (INFER, "negative shape", v2(shape=[-1, 64]), 400, "shape"),
    (INFER, "shape of floats", v2(shape=[1.0, 64.0]), 400, "shape"),
    (INFER, "shape of booleans", v2(shape=[True, 64]), 400, "shape"),
    (INFER, "wrong rank", v2(shape=[64]), 400, "[-1, 64]"),
    (INFER, "wrong width", v2(shape=[2, 32]), 400, "[-1, 64]"),
    (INFER, "no rows", v2(shape=[0, 64], data=[]), 400, "empty"),
    (INFER, "40 axes", v2(shape=[1] * 40, data=[1.0]), 400, "axes"),
    (INFER, "more shape than data", v2(shape=[2, 64]), 400, "128"),
    (INFER, "a huge shape", v2(shape=[2**62, 2**62]), 400, "values"),
    (INFER, "a huge shape of nothing", v2(shape=[2**63 - 1, 0], data=[]), 400, "beyond"),
    (INFER, "a shape beyond 64 bits", v2(shape=[2**70, 0], data=[]), 400, "non-negative"),
    (INFER, "no data", v2(data=None), 400, "data"),
    (INFER, "data a string", v2(data="0.5"), 400, "data"),
    (INFER, "data of strings", v2(data=["0.5"] * 64), 400, "FP32"),
    (INFER, "the text NaN", v2(data=["NaN"] * 64), 400, "FP32"),
    (INFER, "data with null", v2(data=[0.5] * 63 + [None]), 400, "FP32"),
    (INFER, "data of booleans", v2(data=[True] * 64), 400, "FP32"),
    (INFER, "a boolean beside numbers", v2(data=[0.5] * 63 + [True]), 400, "FP32"),
    (INFER, "a boolean beside numbers, nested", v2(data=[[0.5] * 63 + [False]]), 400, "FP32"),
    (INFER, "data of objects", v2(data=[{}] * 64), 400, "FP32"),
    (INFER, "ragged data", v2(data=[[0.5] * 63, [0.5]]), 400, "ragged"),
    (INFER, "nested otherwise than shape", v2(shape=[1, 64], data=[[0.5]] * 64), 400, "nested"),
    (INFER, "too large for FP32", v2(data=[1e39] * 64), 400, "large"),
    (INFER, "too large for any number", raw(json.dumps(v2()).replace("0.5", "1e999")), 400, ""),
    (INFER, "id a number", {"id": 5, "inputs": [GOOD]}, 400, "id"),
    (INFER, "parameters a list", {"parameters": [], "inputs": [GOOD]}, 400, "parameters"),
    (INFER, "outputs an object", {"outputs": {}, "inputs": [GOOD]}, 400, "outputs"),
    (INFER, "unknown output", {"outputs": [{"name": "Z"}], "inputs": [GOOD]}, 400, "'Z'"),
    (INFER, "output without name", {"outputs": [{}], "inputs": [GOOD]}, 400, "outputs[0]"),
    (INFER, "output given twice", {"outputs": [{"name": "label"}] * 2, "inputs": [GOOD]}, 400, "twice"),
    (INFER, "shared memory", v2(parameters={"shared_memory_region": "r"}), 400, "shared memory"),
    (INFER, "classification", {"outputs": [{"name": "label", "parameters": {"classification": 2}}],
                               "inputs": [GOOD]}, 400, "classification"),
    (INFER, "binary size without bytes", v2(data=None, parameters={"binary_data_size": 256}), 400, "left in the body"),
    (INFER, "binary size negative", v2(data=None, parameters={"binary_data_size": -1}), 400, "binary_data_size"),
    (INFER, "binary size a word", v2(data=None, parameters={"binary_data_size": "x"}), 400, "binary_data_size"),
    (INFER, "binary size and data", v2(parameters={"binary_data_size": 0}), 400, "both data and binary_data_size"),
    (INFER, "binary flag a word", {"parameters": {"binary_data_output": "yes"}, "inputs": [GOOD]}, 400,
     "binary_data_output"),
    (INFER, "an output's binary flag a number", {"outputs": [{"name": "label", "parameters": {"binary_data": 1}}],
                                                 "inputs": [GOOD]}, 400, "outputs[0]: parameters.binary_data"),
    (INFER, "an output's parameters a list", {"outputs": [{"name": "label", "parameters": [1]}], "inputs": [GOOD]},
     400, "outputs[0]"),
    (INFER, "an output a string", {"outputs": ["label"], "inputs": [GOOD]}, 400, "outputs[0]"),
    (INFER, "an output in shared memory", {"outputs": [{"name": "label",
                                                        "parameters": {"shared_memory_region": "r"}}],
                                           "inputs": [GOOD]}, 400, "outputs[0]: shared memory"),
    (INFER, "request parameters a string", {"parameters": "x", "inputs": [GOOD]}, 400, "parameters"),
    (INFER, "tensor parameters a string", v2(parameters="x"), 400, "parameters"),
    (INFER, "a sequence", {"parameters": {"sequence_id": 7, "sequence_start": True}, "inputs": [GOOD]}, 400,
     "sequence_id"),
    (INFER, "BF16", v2(datatype="BF16"), 400, "BF16 is not served"),
    (INFER, "datatype in lower case", v2(datatype="fp32"), 400, "'fp32'"),
    (INFER, "integers for FP32", v2(datatype="INT64", data=[1] * 64), 400, "INT64"),
    (INFER, "booleans for FP32", v2(datatype="BOOL", data=[True] * 64), 400, "BOOL"),
    (INFER, "shape null", raw(json.dumps(v2()).replace("[1, 64]", "null")), 400, "shape"),
    (INFER, "shape of strings", v2(shape=["1", "64"]), 400, "shape"),
    (INFER, "shape of lists", v2(shape=[[1, 64]]), 400, "shape"),
    (INFER, "shape beyond 64 bits", v2(shape=[2**70, 64]), 400, "shape"),
    (INFER, "less shape than data", v2(data=[0.5] * 65), 400, "data has 65"),
    (INFER, "data a number", v2(data=0.5), 400, "data"),
    (INFER, "data an object", v2(data={"0": 0.5}), 400, "data"),
    (INFER, "data nested 500 deep", raw(json.dumps(v2()).replace(str([0.5] * 64), "[" * 500 + "1" + "]" * 500)), 400,
     "data"),
    (INFER, "data of numbers and lists", v2(data=[[0.5] * 32, 0.5]), 400, "data"),
    (INFER, "inputs null", {"inputs": None}, 400, "inputs"),
    (INFER, "inputs a string", {"inputs": "X"}, 400, "inputs"),
    (INFER, "a tensor null", {"inputs": [None]}, 400, "inputs[0]"),
    (INFER, "a second tensor that is none", {"inputs": [GOOD, 7]}, 400, "inputs[1]"),
    (INFER, "id a list", {"id": [], "inputs": [GOOD]}, 400, "id"),
    (INFER, "outputs a string", {"outputs": "label", "inputs": [GOOD]}, 400, "outputs"),
    (INFER, "UTF-16", json.dumps(v2()).encode("utf-16"), 400, "JSON"),
    (INFER, "a byte order mark", b"\xef\xbb\xbf" + json.dumps(v2()).encode(), 400, "JSON"),
    (INFER, "two documents", json.dumps(v2()).encode() * 2, 400, "JSON"),
    (INFER, "single quotes", raw(json.dumps(v2()).replace('"', "'")), 400, "JSON"),
    (INFER, "a trailing comma", raw(json.dumps(v2())[:-1] + ",}"), 400, "JSON"),
    (INFER, "half a surrogate", b'{"inputs": [{"name": "\\ud800"}]}', 400, "JSON"),
    ("/v2/models/other/infer", "wrong model", v2(), 404, "'other'"),
    ("/v2/models/digits/versions/9/infer", "wrong version", v2(), 404, "'9'"),
    ("/v2/models/digits/infer/more", "unknown path", v2(), 404, "no such path"),
    ("/predict/more", "unknown path", v2(), 404, "no such path"),
    ("/v2/models/digits/generate", "text generation", {"text_input": "x"}, 400, "generation"),
    ("/v2/repository/models/digits/load", "a model to load", {}, 400, "not loaded"),
    ("/v2/repository/models/digits/unload", "a model to unload", {}, 400, "unloaded"),
    ("/v2/systemsharedmemory/region/r/register", "shared memory to register", {}, 400, "shared memory"),
    ("/v2/cudasharedmemory/unregister", "CUDA memory to forget", {}, 400, "shared memory"),
    ("/v2/logging", "log settings", {}, 400, "LOG_LEVEL"),
    ("/v2/trace/setting", "trace settings", {}, 400, "trace"),
    ("/v2/models/" + "x" * 3000 + "/infer", "a name of 3,000 letters", v2(), 404, "no model"),
    ("/v2", "POST on a page", b"", 405, "GET"),
    ("/metrics", "POST on metrics", b"", 405, "GET"),
    ("/invocations", "invocations without a format", {}, 400, "exactly one"),
    ("/invocations", "invocations with two", {"inputs": [], "instances": []}, 400, "exactly one"),
    ("/invocations", "instances empty", {"instances": []}, 400, "instances"),
    ("/invocations", "instances a string", {"instances": "x"}, 400, "instances"),
    ("/invocations", "instances of two kinds", {"instances": [{"X": [0.5] * 64}, {"Y": 1}]}, 400, "same fields"),
    ("/invocations", "instances too narrow", {"instances": [[0.5] * 63]}, 400, "[-1, 64]"),
    ("/invocations", "instances ragged", {"instances": [[0.5] * 64, [0.5]]}, 400, "ragged"),
    ("/invocations", "instances with a boolean", {"instances": [[0.5] * 63 + [True]]}, 400, "FP32"),
    ("/invocations", "instances of text", {"instances": [["a"] * 64]}, 400, "FP32"),
    ("/invocations", "inputs with a wrong name", {"inputs": {"Y": [[0.5] * 64]}}, 400, "'X'"),
    ("/invocations", "inputs a number", {"inputs": 5}, 400, "inputs"),
    ("/invocations", "split without data", {"dataframe_split": {"columns": ["a"]}}, 400, "dataframe_split"),
    ("/invocations", "split with uneven rows", {"dataframe_split": {"columns": ["a", "b"], "data": [[1]]}}, 400, "2"),
    ("/invocations", "split with a column twice", {"dataframe_split": {"columns": ["a", "a"], "data": [[1, 1]]}},
     400, "distinct"),
    ("/invocations", "records empty", {"dataframe_records": []}, 400, "dataframe_records"),
    ("/invocations", "records uneven", {"dataframe_records": [{"a": 1}, {"b": 1}]}, 400, "same fields"),
    ("/invocations", "params", {"params": {"t": 1}, "instances": [[0.5] * 64]}, 400, "params"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "part"), [(c[0], c[2], c[3], c[4]) for c in CASES],
                         ids=[c[1] for c in CASES])  # fmt: skip
def test_a_bad_body_gets_a_4xx_that_names_what_is_wrong(
    onnx_server: Served, path: str, body: Any, status: int, part: str
) -> None:
    reply = onnx_server.call("POST", path, body)
    assert reply.status == status
    assert set(reply.json) == {"error"} and part in reply.json["error"]
    assert "Traceback" not in reply.json["error"]


def test_there_are_more_than_eighty_and_no_two_alike() -> None:
    assert len({(path, repr(body)) for path, _, body, _, _ in CASES}) == len(CASES) > 80


HEADERS: list[tuple[str, dict[str, str], int]] = [
    ("a wrong type", {"content-type": "image/png"}, 415),
    ("csv", {"content-type": "text/csv"}, 415),
    ("brotli", {"content-encoding": "br"}, 415),
    ("two codings", {"content-encoding": "gzip, gzip"}, 415),
    ("plain, said to be gzip", {"content-encoding": "gzip"}, 400),
    ("plain, said to be deflate", {"content-encoding": "deflate"}, 400),
    ("timeout a word", {"x-request-timeout": "soon"}, 400),
    ("timeout negative", {"x-request-timeout": "-1"}, 400),
    ("timeout NaN", {"x-request-timeout": "nan"}, 400),
    ("timeout zero", {"x-request-timeout": "0"}, 400),
    ("timeout infinite", {"x-request-timeout": "inf"}, 400),
    ("XML", {"content-type": "application/xml"}, 415),
    ("multipart", {"content-type": "multipart/form-data; boundary=x"}, 415),
    ("header length of many digits", {"inference-header-content-length": "9" * 40}, 400),
    ("header length zero", {"inference-header-content-length": "0"}, 400),
    ("header length a fraction", {"inference-header-content-length": "10.5"}, 400),
    ("header length a word", {"inference-header-content-length": "x"}, 400),
    ("header length negative", {"inference-header-content-length": "-5"}, 400),
    ("header length beyond the body", {"inference-header-content-length": "99999999"}, 400),
    ("header length inside the JSON", {"inference-header-content-length": "10"}, 400),
]


@pytest.mark.parametrize(("headers", "status"), [case[1:] for case in HEADERS], ids=[case[0] for case in HEADERS])
def test_a_bad_header_gets_a_4xx(onnx_server: Served, headers: dict[str, str], status: int) -> None:
    reply = onnx_server.call("POST", INFER, v2(), headers)
    assert reply.status == status and set(reply.json) == {"error"}


@pytest.mark.parametrize("tail", [b"\x00" * 255, b"\x00" * 257, b""], ids=["short", "long", "none"])
def test_a_binary_tensor_of_the_wrong_length(onnx_server: Served, tail: bytes) -> None:
    header = json.dumps(v2(data=None, parameters={"binary_data_size": 256})).encode()
    reply = onnx_server.call("POST", INFER, header + tail, {"inference-header-content-length": str(len(header))})
    assert reply.status == 400 and "bytes" in reply.json["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_a_wrong_method_is_told_the_right_one(onnx_server: Served, method: str) -> None:
    reply = onnx_server.call(method, INFER)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


def test_integers_must_be_whole_and_fit(lookup_server: Served) -> None:
    for data in ([1.5], [True], ["1"], [2**64], [None]):
        reply = lookup_server.infer({"name": "x", "datatype": "INT64", "shape": [1], "data": data})
        assert reply.status == 400, data
    for data in ([-1, 2**63], [0.5, 2**63], [2**64, 1]):
        reply = lookup_server.infer({"name": "x", "datatype": "UINT64", "shape": [2], "data": data})
        assert reply.status == 400, data
    reply = lookup_server.infer({"name": "x", "datatype": "UINT8", "shape": [1], "data": [300]})
    assert reply.status == 400


def test_a_body_over_the_limit_is_refused_before_it_is_read(start, lookup_model) -> None:
    server = start(lookup_model, payload_limit=1000)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sender:
        sender.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n".encode())
        answer = sender.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413") and b"1000 bytes" in answer
    chunked = b"transfer-encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sender:
        sender.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\n".encode() + chunked)
        assert sender.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_that_never_comes_is_given_up(start, lookup_model) -> None:
    server = start(lookup_model, request_timeout=0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sender:
        sender.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nxx".encode())
        assert sender.recv(4096).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "text", [b"hello\r\n\r\n", b"POST /\xff HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_bytes_that_are_no_http(onnx_server: Served, text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", onnx_server.port), timeout=10) as sender:
        sender.sendall(text)
        answer = sender.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400") and b'{"error"' in answer
