"""When two answers to one request agree: a table over the protocols' bodies, and what can't be compared."""

import json
from typing import Any

import numpy as np
import pytest

from modelramp_server.exchange import HEADER_LENGTH, Answer
from modelramp_server.relay.compare import Agreement, compare, iou
from modelramp_server.relay.split import Shadow

RULES = Shadow(share=20, tolerance=0.01, iou=0.8)
AGREE, DISAGREE, INCOMPARABLE = Agreement.AGREE, Agreement.DISAGREE, Agreement.INCOMPARABLE
SQUARE = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
WIDER = [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]  # IoU 4/5
EMPTY = [[0] * 4] * 4


def v2(*tensors: tuple[str, str, list[int], Any]) -> Answer:
    outputs = [
        {"name": name, "datatype": datatype, "shape": shape, "data": data} for name, datatype, shape, data in tensors
    ]
    return Answer(200, json.dumps({"model_name": "m", "outputs": outputs}).encode())


def mlflow(predictions: Any) -> Answer:
    return Answer(200, json.dumps({"predictions": predictions}).encode())


def floats(*values: Any) -> Answer:
    return v2(("y", "FP32", [len(values)], list(values)))


V2 = [
    ("one class", v2(("c", "INT64", [1], [3])), v2(("c", "INT64", [1], [3])), AGREE),
    ("another class", v2(("c", "INT64", [1], [3])), v2(("c", "INT64", [1], [8])), DISAGREE),
    ("one row of three differs", v2(("c", "INT64", [3], [1, 2, 3])), v2(("c", "INT64", [3], [1, 2, 4])), DISAGREE),
    ("another width of integer", v2(("c", "INT64", [1], [3])), v2(("c", "INT32", [1], [3])), AGREE),
    ("strings", v2(("c", "BYTES", [2], ["cat", "dog"])), v2(("c", "BYTES", [2], ["cat", "dog"])), AGREE),
    ("other strings", v2(("c", "BYTES", [1], ["cat"])), v2(("c", "BYTES", [1], ["dog"])), DISAGREE),
    ("a string where a number was", v2(("c", "INT64", [1], [3])), v2(("c", "BYTES", [1], ["3"])), DISAGREE),
    ("probabilities beside a class",
     v2(("c", "INT64", [1], [1]), ("p", "FP32", [1, 2], [0.4, 0.6])),
     v2(("c", "INT64", [1], [1]), ("p", "FP32", [1, 2], [0.1, 0.9])), AGREE),
    ("near", floats(100.0, -3.0), floats(100.9, -3.02), AGREE),
    ("too far", floats(100.0), floats(101.1), DISAGREE),
    ("far for its size", floats(0.001), floats(0.0011), DISAGREE),
    ("noise about nothing", floats(0.0), floats(1e-7), AGREE),
    ("a number turned integer", floats(4.0), v2(("y", "INT64", [1], [4])), AGREE),
    ("NaN on both sides", floats("NaN", 1.0), floats("NaN", 1.0), AGREE),
    ("NaN on one side", floats("NaN"), floats(1.0), DISAGREE),
    ("opposite infinities", floats("Infinity"), floats("-Infinity"), DISAGREE),
    ("masks that overlap", v2(("m", "UINT8", [1, 4, 4], SQUARE)), v2(("m", "UINT8", [1, 4, 4], WIDER)), AGREE),
    ("masks that don't", v2(("m", "BOOL", [1, 4, 4], SQUARE)), v2(("m", "BOOL", [1, 4, 4], EMPTY)), DISAGREE),
    ("the second mask of two", v2(("m", "UINT8", [2, 4, 4], [SQUARE, SQUARE])),
     v2(("m", "UINT8", [2, 4, 4], [SQUARE, EMPTY])), DISAGREE),
    ("a matrix of integers is no mask", v2(("m", "UINT8", [4, 4], SQUARE)),
     v2(("m", "UINT8", [4, 4], WIDER)), DISAGREE),
    ("another shape", floats(1.0), floats(1.0, 1.0), DISAGREE),
    ("another name", floats(1.0), v2(("z", "FP32", [1], [1.0])), DISAGREE),
    ("no JSON", floats(1.0), Answer(200, b"hello"), INCOMPARABLE),
    ("no outputs", floats(1.0), Answer(200, b'{"from": "candidate"}'), INCOMPARABLE),
    ("stable's can't be read", Answer(200, b"[]"), floats(1.0), INCOMPARABLE),
    ("a shape that lies", floats(1.0), v2(("y", "FP32", [2], [1.0])), INCOMPARABLE),
    ("a datatype of nobody's", floats(1.0), v2(("y", "FP8", [1], [1.0])), INCOMPARABLE),
    ("compressed", floats(1.0), Answer(200, floats(1.0).body, [(b"content-encoding", b"gzip")]), INCOMPARABLE),
]  # fmt: skip

MLFLOW = [
    ("classes", mlflow([3, 4]), mlflow([3, 4]), AGREE),
    ("another class", mlflow([3, 4]), mlflow([3, 5]), DISAGREE),
    ("named classes", mlflow(["cat"]), mlflow(["dog"]), DISAGREE),
    ("numbers", mlflow([[1.0, 2.0]]), mlflow([[1.001, 2.001]]), AGREE),
    ("numbers that JSON lacks", mlflow([1.0, "NaN"]), mlflow([1.0, "NaN"]), AGREE),
    ("NaN on one side", mlflow([1.0, "NaN"]), mlflow([1.0, 2.0]), DISAGREE),
    ("by name", mlflow({"digit": [3], "p": [0.9]}), mlflow({"digit": [3], "p": [0.2]}), AGREE),
    ("records", mlflow([{"digit": 3}, {"digit": 4}]), mlflow([{"digit": 3}, {"digit": 5}]), DISAGREE),
    ("masks", mlflow([SQUARE]), mlflow([WIDER]), AGREE),
    ("ragged", mlflow([[1], [1, 2]]), mlflow([[1], [1, 2]]), INCOMPARABLE),
    ("no predictions", mlflow([1]), Answer(200, b"{}"), INCOMPARABLE),
]


@pytest.mark.parametrize(("stable", "candidate", "says"), [c[1:] for c in V2], ids=[c[0] for c in V2])
def test_v2(stable: Answer, candidate: Answer, says: Agreement) -> None:
    assert compare("infer", stable, candidate, RULES) is says


@pytest.mark.parametrize(("stable", "candidate", "says"), [c[1:] for c in MLFLOW], ids=[c[0] for c in MLFLOW])
def test_mlflows_json(stable: Answer, candidate: Answer, says: Agreement) -> None:
    assert compare("invocations", stable, candidate, RULES) is says


def test_binary_tensors() -> None:
    def binary(digit: int, *probabilities: float) -> Answer:
        tails = [np.array([digit], np.int64).tobytes(), np.array(probabilities, np.float32).tobytes()]
        entries = [
            {"name": "c", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
            {"name": "p", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        ]
        head = json.dumps({"outputs": entries}).encode()
        return Answer(200, head + b"".join(tails), [(HEADER_LENGTH, str(len(head)).encode())])

    assert compare("infer", binary(3, 0.5, 0.5), binary(3, 0.1, 0.9), RULES) is AGREE
    assert compare("infer", binary(3, 0.5, 0.5), binary(4, 0.5, 0.5), RULES) is DISAGREE
    plain = v2(("c", "INT64", [1], [3]), ("p", "FP32", [2], [0.5, 0.5]))
    assert compare("infer", plain, binary(3, 0.5, 0.5), RULES) is AGREE
    cut = binary(3, 0.5, 0.5)
    assert compare("infer", plain, Answer(200, cut.body[:-4], cut.headers), RULES) is INCOMPARABLE


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 1.0),
        ([0, 0, 1, 1], [0, 1, 1, 0], 1 / 3),
        ([1, 1, 2, 2], [1, 1, 2, 0], (1 + 1 / 2) / 2),  # the mean over labels
        ([1, 1, 0, 0], [2, 2, 0, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),  # nothing to be seen on either
        ([0, 0, 0, 0], [0, 0, 0, 1], 0.0),
    ],
)
def test_intersection_over_union(one: list[int], other: list[int], overlap: float) -> None:
    assert iou(np.array(one), np.array(other)) == pytest.approx(overlap)


def test_the_rules_are_the_specs() -> None:
    strict, loose = Shadow(share=1, tolerance=0.0, iou=1.0), Shadow(share=1, tolerance=0.5, iou=0.1)
    masks = v2(("m", "UINT8", [1, 4, 4], SQUARE)), v2(("m", "UINT8", [1, 4, 4], WIDER))
    for pair in ((floats(1.0), floats(1.005)), masks):
        assert compare("infer", *pair, strict) is DISAGREE
        assert compare("infer", *pair, loose) is AGREE
