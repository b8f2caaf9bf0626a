"""What a pod says of its predictions: one drawn from each answer, counted by side and attempt, told to the relay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from modelramp_server.observability.predictions import MOST_CLASSES, MOST_SERIES, OTHER, Predictions
from modelramp_server.prediction import LONGEST_NAME, MOST_PROBABILITIES, Prediction, draw
from tests.server import candidate_stub, models
from tests.server.candidate_stub import Candidate, answer, says
from tests.server.served import Served, eventually, split

IMAGE = {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
HEADER = "x-modelramp-prediction"


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"y": np.array([7])}, Prediction("7")),
        ({"y": np.array([True])}, Prediction("True")),
        ({"y": np.array([["crack"]], object)}, Prediction("crack")),
        ({"y": np.array([b"crack"], object)}, Prediction("crack")),
        ({"y": np.array(["crack"])}, Prediction("crack")),
        ({"y": np.array([""], object)}, Prediction("empty")),
        ({"y": np.array(7)}, Prediction("7")),
        ({"y": np.array([[0.25, 0.75]])}, Prediction("1", 0.75)),
        ({"y": np.array([[0.25, 0.75]], np.float16)}, Prediction("1", 0.75)),
        ({"y": np.eye(1, 100, 64)}, Prediction("64", 1.0)),
        ({"y": np.array([[[0.5, 0.25, 0.25]]])}, Prediction("0", 0.5)),
        ({"y": np.array([9]), "p": np.array([[0.25, 0.75]])}, Prediction("9", 0.75)),
        ({"y": np.array([9]), "p": np.array([[2.0, 0.75]])}, Prediction("9")),
    ],
)
def test_a_class_and_how_sure(outputs: dict[str, Any], expected: Prediction) -> None:
    assert draw(outputs) == expected


@pytest.mark.parametrize(
    "array",
    [
        np.array([3.5]),
        np.array([0.5, 0.5]),
        np.array([[1.0]]),
        np.array([[0.4, 0.4]]),
        np.array([[-0.5, 1.5]]),
        np.array([[np.nan, 1.0]]),
        np.full((1, 70), np.nan),
        np.full((1, 70), 1.0),
        np.eye(1, MOST_PROBABILITIES + 1),
        np.zeros((0, 2)),
        np.zeros(0, np.int64),
        np.array([{"a": 1}], object),
    ],
)
def test_numbers_that_are_no_classes_tell_nothing(array: Any) -> None:
    assert draw({"y": array}) is None


def test_one_prediction_is_drawn_and_all_have_the_same_chance() -> None:
    labels = np.repeat(np.arange(3), [800, 150, 50]).reshape(10, 100)
    probabilities = np.eye(3)[labels]
    drawn = [draw({"y": labels, "p": probabilities}) for _ in range(4000)]
    counts = [sum(each == Prediction(str(name), 1.0) for each in drawn) for name in range(3)]
    assert sum(counts) == 4000, "the confidence is that of the class drawn"
    assert counts == pytest.approx([3200, 600, 200], abs=120)


@pytest.mark.parametrize("name", ["7", "crack", "a;b c=1", "größer", "x\r\ny", '"', "x" * LONGEST_NAME])
@pytest.mark.parametrize("confidence", [None, 0.0, 0.1234, 1.0])
def test_the_header_brings_it_across(name: str, confidence: float | None) -> None:
    value = Prediction(name, confidence).to_header()
    assert value.isascii() and b"\r" not in value and b" " not in value
    assert Prediction.from_header(value) == Prediction(name, confidence)


@pytest.mark.parametrize("value", [b"", b"a b", b"7;confidence=2", b"7;confidence=nan", b"7;x", b"a" * 601, b"\xff;"])
def test_a_header_of_another_making_tells_nothing(value: bytes) -> None:
    assert Prediction.from_header(value) is None


def rendered(predictions: Predictions) -> list[str]:
    registry = CollectorRegistry()
    registry.register(predictions)
    return generate_latest(registry).decode().splitlines()


def test_classes_beyond_the_first_are_other_for_both_sides() -> None:
    predictions = Predictions(("m", "1", "r"))
    for number in range(MOST_CLASSES):
        predictions.add("stable", "a", "s", Prediction(str(number)))
    predictions.add("candidate", "b", "s", Prediction("0"))
    predictions.add("candidate", "b", "s", Prediction("late"))
    predictions.add("stable", "a", "s", Prediction("later"))
    lines = [line for line in rendered(predictions) if line.startswith("modelramp_predictions_total{")]
    assert len(lines) == MOST_CLASSES + 1 + 2
    assert sum(f'class="{OTHER}"' in line for line in lines) == 2
    assert not any("late" in line for line in lines)


def test_old_attempts_go_and_what_was_served_without_a_split_stays() -> None:
    predictions = Predictions(("m", "1", "r"))
    for salt in ["", *(f"s{number}" for number in range(MOST_SERIES + 3))]:
        predictions.add("stable", "a", salt, Prediction("0"))
    text = "\n".join(rendered(predictions))
    assert 'salt=""' in text and f'salt="s{MOST_SERIES + 2}"' in text
    assert 'salt="s2"' not in text and 'salt="s3"' in text


def test_confidence_is_a_histogram_of_tenths() -> None:
    predictions = Predictions(("m", "1", "r"))
    for confidence in (0.05, 0.1, 0.11, 0.95, 1.0):
        predictions.add("stable", "a", "", Prediction("0", confidence))
    lines = [line for line in rendered(predictions) if "_bucket" in line]
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["2.0", *["3.0"] * 8, "5.0", "5.0"]
    assert any("confidence_sum" in line and line.endswith(" 2.21") for line in rendered(predictions))


def test_answers_are_counted_by_class_with_their_confidence(start: Any, onnx_model: Path) -> None:
    server = start(onnx_model)
    label = str(server.infer(IMAGE).json["outputs"][0]["data"][0])
    server.call("POST", "/invocations", {"inputs": [[0.0] * 64] * 3})
    own = {"side": "stable", "salt": "", "target": "aaaaaaaa"}
    eventually(lambda: server.metric("modelramp_predictions_total", **own) == 2)
    assert server.metric("modelramp_predictions_total", **own, **{"class": label}) == 2, "an answer counts once"
    assert server.metric("modelramp_prediction_confidence_count", **own) == 2


def test_mistakes_and_numbers_are_not_counted(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model)
    tensor = {"name": "x", "datatype": "INT64", "shape": [1]}
    assert server.infer({**tensor, "data": [2]}).status == 200
    assert server.infer({**tensor, "data": [99]}).status == 500
    assert server.infer({**tensor, "data": ["x"]}).status == 400
    assert server.metric("modelramp_predictions_total") == 0


def test_only_a_relayed_answer_says_what_it_predicts(start: Any, onnx_model: Path) -> None:
    server = start(onnx_model)
    assert HEADER not in server.infer(IMAGE).headers
    assert server.metric("modelramp_predictions_total") == 1
    told = server.infer(IMAGE, x_modelramp_relayed="bbbbbbbb")
    label = told.json["outputs"][0]["data"][0]
    assert told.headers[HEADER].startswith(f"{label};confidence=0.")
    assert server.metric("modelramp_predictions_total") == 1, "counted by its sender"


def relaying(start: Any, onnx_model: Path, candidate: Candidate, file: Path) -> Served:
    file.write_text("")
    server: Served = start(onnx_model, candidate_url=candidate.url, traffic_file=file)
    scratch = file.with_suffix(".new")
    scratch.write_text(split(2, 100))
    scratch.replace(file)
    eventually(lambda: server.metric("modelramp_traffic_generation") == 2)
    return server


def test_the_sender_counts_the_candidates_answer_and_keeps_its_header(
    start: Any, onnx_model: Path, tmp_path: Path
) -> None:
    candidate = Candidate()
    try:
        server = relaying(start, onnx_model, candidate, tmp_path / "split")
        candidate.behave = says(answer(extra=f"{HEADER}: 7;confidence=0.93\r\n"))
        reply = server.infer(IMAGE)
        assert reply.body == candidate_stub.BODY
        assert HEADER not in reply.headers
        theirs = {"side": "candidate", "salt": "s1", "target": "bbbbbbbb"}
        assert server.metric("modelramp_predictions_total", **theirs, **{"class": "7"}) == 1
        assert server.metric("modelramp_prediction_confidence_sum", **theirs) == pytest.approx(0.93)
        candidate.behave = says(answer())
        assert server.infer(IMAGE).status == 200
        candidate.behave = says(answer(500, extra=f"{HEADER}: 7\r\n"))
        assert server.infer(IMAGE).headers["x-modelramp-net"] == "status"
        assert server.metric("modelramp_predictions_total") == 1, "neither silence nor stable's stand-in counts"
    finally:
        candidate.stop()


def test_two_real_servers_understand_each_other(start: Any, onnx_model: Path, estimator: Any, tmp_path: Path) -> None:
    other = start(onnx_model, model_revision="bbbbbbbb")
    file = tmp_path / "split"
    file.write_text("")
    server = start(onnx_model, candidate_url=f"http://127.0.0.1:{other.port}", traffic_file=file)
    scratch = file.with_suffix(".new")
    scratch.write_text(split(2, 50))
    scratch.replace(file)
    eventually(lambda: server.metric("modelramp_traffic_generation") == 2)
    images, _ = models.digits()
    pixels = (images[:20] / 16).astype(np.float32)
    for row in pixels:
        assert server.infer({**IMAGE, "data": row.tolist()}).status == 200
    labels = estimator.predict(pixels)
    counted = {
        side: {
            str(n): server.metric("modelramp_predictions_total", side=side, salt="s1", **{"class": str(n)})
            for n in range(10)
        }
        for side in ("stable", "candidate")
    }
    assert sum(counted["stable"].values()) == sum(counted["candidate"].values()) == 10
    for name in range(10):
        assert counted["stable"][str(name)] + counted["candidate"][str(name)] == np.count_nonzero(labels == name)
    assert other.metric("modelramp_predictions_total") == 0
