"""The logged input example as the operator takes it: read from the pod, sent back as a smoke request."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modelramp_server import example
from tests.server.conftest import Start
from tests.server.served import OWN

EXAMPLE = {"inputs": [[0.0] * 64, [1.0] * 64]}
PATH = "/v2/models/digits/example"
SMOKE = {"x-modelramp-relayed": "smoke"}


@pytest.fixture
def folder(sklearn_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sklearn_model, tmp_path / "model")


def test_the_example_is_offered_as_it_was_logged_and_can_be_sent_back(start: Start, folder: Path) -> None:
    (folder / example.FILE).write_text(json.dumps(EXAMPLE, indent=2))
    server = start(folder)
    for path in (PATH, "/v2/models/digits/versions/3/example"):
        reply = server.call("GET", path)
        assert (reply.status, reply.json) == (200, EXAMPLE)
        assert reply.headers["content-type"] == "application/json"
    answer = server.call("POST", "/invocations", reply.body, SMOKE)
    assert answer.status == 200 and len(answer.json["predictions"]) == 2
    assert answer.headers["x-modelramp-revision"] == OWN
    assert server.metric("modelramp_requests_total") == 0
    assert server.metric("modelramp_split_requests_total") == 0


def test_a_smoke_request_is_never_relayed(start: Start, folder: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    server = start(folder, traffic_file=split, candidate_url="http://127.0.0.1:9/{revision}")
    split.write_text(
        json.dumps({"v": 1, "generation": 1, "revision": "bbbbbbbb", "weight": 100, "salt": "s", "ttl": None})
    )
    server.service.traffic.observe(split.read_text())
    answer = server.call("POST", "/invocations", EXAMPLE, SMOKE)
    assert (answer.status, answer.headers["x-modelramp-revision"]) == (200, OWN)
    assert "x-modelramp-net" not in answer.headers


def test_without_an_example_it_says_so(start: Start, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    server = start(folder)
    assert server.call("GET", PATH).json == {"error": "the model was logged without an input example"}
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    (folder / example.FILE).symlink_to(outside)
    assert server.call("GET", PATH).status == 404
    (folder / example.FILE).unlink()
    (folder / example.FILE).write_text(json.dumps(EXAMPLE))
    monkeypatch.setattr(example, "LARGEST", 10)
    reply = server.call("GET", PATH)
    assert reply.status == 404 and "over 10 bytes" in reply.json["error"]
    assert server.call("GET", "/v2/models/other/example").status == 404
    assert server.call("POST", PATH, {}).status == 405


def test_an_answer_to_a_body_that_was_not_read_names_the_revision_too(start: Start, folder: Path) -> None:
    server = start(folder, payload_limit=10)
    reply = server.call("POST", "/invocations", EXAMPLE)
    assert (reply.status, reply.headers["x-modelramp-revision"]) == (413, OWN)
