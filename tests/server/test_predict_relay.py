"""/predict through the relay and as a copy: what the candidate answers in any form reaches the client whole, counts,
and can be compared."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server.exchange import Answer
from modelramp_server.images import npy
from modelramp_server.relay.compare import Agreement, compare
from modelramp_server.relay.split import Shadow
from tests.server import pictures
from tests.server.candidate_stub import Candidate, answer, says
from tests.server.pair import CANDIDATE, real_pair
from tests.server.pictures import encoded, form, half_red, opened, plain, saved
from tests.server.served import OWN, eventually
from tests.server.test_relay import Pair

RED = {"preprocess": pictures.UNIT, "postprocess": {"activation": "softmax", "classes": ["other", "red"]}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.folder(tmp_path_factory.mktemp("masks") / "model", pictures.segmenter(), RED)


def test_every_form_goes_through_the_relay(start: Any, model: Path, tmp_path: Path) -> None:
    stable, candidate = real_pair(start, model, tmp_path, {}, {})
    picture = encoded(half_red(), "JPEG")
    body, headers = form(picture, "image/jpeg")
    for query, sent, more in (
        ("", picture, {}),
        ("", body, headers),
        ("", picture, {"accept": "application/x-npy"}),
        ("", picture, {"accept": "image/png"}),
        ("?overlay=0.3", picture, {}),
        ("?output=probabilities&class=0", picture, {"accept": "image/png"}),
    ):
        relayed = stable.call("POST", f"/predict{query}", sent, more)
        assert (relayed.status, relayed.headers["x-modelramp-revision"]) == (200, CANDIDATE), relayed
        own = candidate.call("POST", f"/predict{query}", sent, more)
        assert relayed.body == own.body and relayed.headers["content-type"] == own.headers["content-type"]
        assert "x-modelramp-prediction" not in relayed.headers
    ok = stable.metric("modelramp_split_requests_total", side="candidate", outcome="ok")
    assert ok == stable.metric("modelramp_requests_total", route="predict", code="200") == 6
    assert stable.metric("modelramp_predictions_total", side="candidate") == 6
    refused = stable.call("POST", "/predict", picture[:-30])
    assert refused.status == 400
    assert stable.metric("modelramp_split_requests_total", side="candidate", outcome="neutral") == 1


@pytest.fixture
def stub() -> Iterator[Candidate]:
    candidate = Candidate()
    yield candidate
    candidate.stop()


def test_half_a_picture_is_no_answer(start: Any, model: Path, stub: Candidate, tmp_path: Path) -> None:
    file = tmp_path / "split"
    file.write_text("")
    pair = Pair(start(model, candidate_url=stub.url, traffic_file=file), file)
    pair.weigh(100)
    mask, array = saved(opened(encoded(np.zeros((4, 4, 3))))), npy.write(np.zeros((1, 4, 4), np.uint8))
    for kind, whole in (("image/png", mask), ("application/x-npy", array)):
        for body, revision in ((whole, None), (whole[:-5], OWN)):
            stub.behave = says(answer(body=body).replace(b"application/json", kind.encode()))
            reply = pair.server.call("POST", "/predict", encoded(half_red()), {"accept": kind})
            assert (reply.status, reply.headers["content-type"]) == (200, kind)
            if revision is None:
                assert reply.body == whole
            else:
                assert reply.headers["x-modelramp-net"] == "broken" and reply.body != body


def test_copies_are_compared(start: Any, model: Path, tmp_path: Path) -> None:
    rule = {"share": 100, "tolerance": 0.01, "iou": 0.9}
    stable, _ = real_pair(start, model, tmp_path, {}, {}, weight=0, shadow=rule)
    for headers in ({}, {"accept": "application/x-npy"}, {"accept": "image/png"}):
        reply = stable.call("POST", "/predict", encoded(half_red()), headers)
        assert (reply.status, reply.headers["x-modelramp-revision"]) == (200, OWN)
    eventually(lambda: stable.metric("modelramp_shadow_answers_total", result="agree") == 3)


AGREE, DISAGREE, INCOMPARABLE = Agreement.AGREE, Agreement.DISAGREE, Agreement.INCOMPARABLE
RULES = Shadow(share=20, tolerance=0.01, iou=0.8)
WIDE, WIDER, NARROW = (np.repeat([[1] * n + [0] * (40 - n)], 30, axis=0)[None].astype(np.uint8) for n in (20, 22, 10))


def said(predictions: Any) -> Answer:
    return Answer(200, json.dumps({"predictions": predictions}).encode())


def array(values: Any) -> Answer:
    return Answer(200, npy.write(np.asarray(values)), [(b"content-type", b"application/x-npy")])


def picture(mask: Any) -> Answer:
    image = opened(encoded(mask[0])).convert("P")
    image.putdata(mask[0].ravel().tolist())
    return Answer(200, saved(image), [(b"content-type", b"image/png")])


def photo(color: str) -> Answer:
    return Answer(200, encoded(plain(color)), [(b"content-type", b"image/png")])


COMPARED = [
    ("one class", said([{"class": "a", "confidence": 0.9}]), said([{"class": "a", "confidence": 0.6}]), AGREE),
    ("another class", said([{"class": "a", "confidence": 0.9}]), said([{"class": "b", "confidence": 0.9}]),
     DISAGREE),
    ("masks", said([{"mask": WIDE[0].tolist()}]), said([{"mask": WIDER[0].tolist()}]), AGREE),
    ("other masks", said([{"mask": WIDE[0].tolist()}]), said([{"mask": NARROW[0].tolist()}]), DISAGREE),
    ("arrays", array(WIDE), array(WIDER), AGREE),
    ("other arrays", array(WIDE), array(NARROW), DISAGREE),
    ("numbers", array([[0.5, 0.5]]), array([[0.501, 0.499]]), AGREE),
    ("other numbers", array([[0.5, 0.5]]), array([[0.6, 0.4]]), DISAGREE),
    ("pictures", picture(WIDE), picture(WIDER), AGREE),
    ("other pictures", picture(WIDE), picture(NARROW), DISAGREE),
    ("large pictures", picture(WIDE.repeat(50, 2)), picture(WIDER.repeat(50, 2)), AGREE),
    ("pictures of two sizes", picture(WIDE), picture(WIDE[:, :20]), DISAGREE),
    ("overlays", photo("red"), photo("red"), INCOMPARABLE),
    ("two kinds", array(WIDE), said([{"mask": WIDE[0].tolist()}]), DISAGREE),
    ("half a picture", picture(WIDE), Answer(200, picture(WIDE).body[:60], [(b"content-type", b"image/png")]),
     INCOMPARABLE),
    ("no array", array(WIDE), Answer(200, b"x", [(b"content-type", b"application/x-npy")]), INCOMPARABLE),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "says"), [case[1:] for case in COMPARED], ids=[case[0] for case in COMPARED])
def test_answers_are_compared(one: Answer, other: Answer, says: Agreement) -> None:
    assert compare("predict", one, other, RULES) is says
