"""What of the candidate's answers may reach a client: none that contradicts itself, or what was asked."""

import json
from typing import Any

import orjson
import pytest

from modelramp_server.exchange import JSON, Answer, InferenceRequest
from modelramp_server.relay import whole
from modelramp_server.relay.whole import is_whole

BINARY = (b"content-type", b"application/octet-stream")


def request(route: str = "infer", asked: Any = None, **fields: Any) -> InferenceRequest:
    body = {"inputs": [], **({} if asked is None else {"outputs": [{"name": name} for name in asked]})}
    return InferenceRequest(route, "/", [], orjson.dumps(body), None, 0.0, 1.0, **fields)


def output(**changes: Any) -> dict[str, Any]:
    """Two rows of three; None removes a field."""
    fields = {"name": "y", "datatype": "FP32", "shape": [2, 3], "data": [0.5] * 6, **changes}
    return {name: value for name, value in fields.items() if value is not None}


def json_answer(*outputs: Any) -> Answer:
    return Answer(200, json.dumps({"model_name": "m", "outputs": list(outputs)}).encode(), [JSON])


def binary(tail: bytes, *outputs: dict[str, Any], length: bytes | None = None) -> Answer:
    head = json.dumps({"outputs": list(outputs)}).encode()
    said = str(len(head)).encode() if length is None else length
    return Answer(200, head + tail, [BINARY, (b"inference-header-content-length", said)])


def raw(size: Any, **changes: Any) -> dict[str, Any]:
    return output(data=None, parameters={"binary_data_size": size}, **changes)


def strings(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


WHOLE: list[tuple[str, Answer]] = [
    ("flat", json_answer(output())),
    ("nested", json_answer(output(data=[[0.5] * 3] * 2))),
    ("integers for floats", json_answer(output(data=[1, 2, 3, 4, 5, 0.5]))),
    ("numbers that JSON lacks", json_answer(output(data=[0.5, "NaN", "Infinity", "-Infinity", 1, 2]))),
    ("no rows", json_answer(output(shape=[0, 3], data=[]))),
    ("a scalar", json_answer(output(shape=[], data=[1.0]))),
    ("other rows than asked", json_answer(output(shape=[7], data=[1.0] * 7))),
    ("strings", json_answer(output(datatype="BYTES", shape=[2], data=["a", "b"]))),
    ("two outputs", json_answer(output(), output(name="z", datatype="BOOL", shape=[1], data=[True]))),
    ("raw", binary(bytes(24), raw(24))),
    ("raw and JSON", binary(bytes(24), output(name="z"), raw(24))),
    ("raw strings that are no text", binary(strings(b"\xff\xd8", b""), raw(10, datatype="BYTES", shape=[2]))),
    ("raw BF16", binary(bytes(12), raw(12, datatype="BF16"))),
    ("raw without rows", binary(b"", raw(0, shape=[0, 3]))),
]

BROKEN: list[tuple[str, Answer]] = [
    ("too few values", json_answer(output(data=[0.5] * 5))),
    ("too many values", json_answer(output(data=[0.5] * 7))),
    ("another shape", json_answer(output(shape=[3, 3]))),
    ("nested otherwise", json_answer(output(data=[[0.5] * 2] * 3))),
    ("ragged", json_answer(output(data=[[0.5] * 5, [0.5]]))),
    ("a negative size", json_answer(output(shape=[-2, -3]))),
    ("a size that is none", json_answer(output(shape=["2", 3]))),
    ("no shape", json_answer(output(shape=None))),
    ("no data", json_answer(output(data=None))),
    ("data null", json_answer({**output(), "data": None})),
    ("a datatype of its own", json_answer(output(datatype="FLOAT"))),
    ("no datatype", json_answer(output(datatype=None))),
    ("text for numbers", json_answer(output(data=["0.5"] * 6))),
    ("null for a number", json_answer(output(data=[None, *[0.5] * 5]))),
    ("fractions for integers", json_answer(output(datatype="INT64"))),
    ("beyond its datatype", json_answer(output(datatype="UINT8", data=[256] * 6))),
    ("numbers for text", json_answer(output(datatype="BYTES"))),
    ("no name", json_answer(output(name=None))),
    ("one name twice", json_answer(output(), output())),
    ("no outputs", json_answer()),
    ("an output that is none", json_answer("y")),
    ("no V2", Answer(200, b'{"predictions": [1]}', [JSON])),
    ("a list", Answer(200, b"[]", [JSON])),
    ("half", Answer(200, b'{"outputs": [', [JSON])),
    ("nothing", Answer(204, b"", [JSON])),
    ("raw, too short", binary(bytes(20), raw(20))),
    ("raw, cut", binary(bytes(20), raw(24))),
    ("raw, with a rest", binary(bytes(25), raw(24))),
    ("raw, of a size that is none", binary(bytes(24), raw("24"))),
    ("raw, of a negative size", binary(bytes(24), raw(-24))),
    ("a string too few", binary(strings(b"a"), raw(5, datatype="BYTES", shape=[2]))),
    ("a string too many", binary(strings(b"a", b"b"), raw(10, datatype="BYTES", shape=[1]))),
    ("a string past the end", binary(b"\x09\0\0\0a", raw(5, datatype="BYTES", shape=[1]))),
    ("a JSON part of no size", binary(bytes(24), raw(24), length=b"x")),
    ("a JSON part of nothing", binary(bytes(24), raw(24), length=b"0")),
    ("a JSON part beyond the body", binary(bytes(24), raw(24), length=b"9999")),
]


@pytest.mark.parametrize("answer", [case[1] for case in WHOLE], ids=[case[0] for case in WHOLE])
def test_what_agrees_with_itself_is_handed_on(answer: Answer) -> None:
    assert is_whole(request(), answer)


@pytest.mark.parametrize("answer", [case[1] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_what_contradicts_itself_is_not(answer: Answer) -> None:
    assert not is_whole(request(), answer)


def test_the_outputs_are_those_asked_for() -> None:
    both = json_answer(output(), output(name="z"))
    assert is_whole(request(asked=["z", "y"]), both) and is_whole(request(asked=[]), both)
    assert not is_whole(request(asked=["y"]), both)
    assert not is_whole(request(asked=["y", "z"]), json_answer(output()))
    assert is_whole(request(asked=["y"], encoding=b"gzip"), both), "what is compressed is not read"


def test_mlflows_answers_have_predictions() -> None:
    for route in ("invocations", "predict"):
        assert is_whole(request(route), Answer(200, b'{"predictions": [1]}'))
        for body in (b'{"outputs": []}', b"[1]", b"7", b""):
            assert not is_whole(request(route), Answer(200, body))


def test_of_what_is_too_long_to_be_parsed_only_the_end_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "PARSED", 50)
    wrong = json_answer(output(data=[0.5]))
    assert is_whole(request(), wrong)
    wrong.body = wrong.body[:-1]
    assert not is_whole(request(), wrong)


def test_of_what_is_compressed_nothing_is_known() -> None:
    assert is_whole(request(), Answer(200, b"\x8b", [JSON, (b"content-encoding", b"br")]))
