"""/predict over a real server: what it takes, what it answers, and that it goes the way of all inference."""

import gzip
import json
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from modelramp_server.images import npy
from modelramp_server.security import api_keys
from tests.server import pictures
from tests.server.pictures import CLASSES, encoded, form, half_red, opened, plain
from tests.server.served import Reply, Served, eventually

SOFTMAX = {"preprocess": pictures.UNIT, "postprocess": {"activation": "softmax", "classes": CLASSES}}
RED = {"preprocess": pictures.UNIT, "postprocess": {"activation": "softmax", "classes": ["other", "red"]}}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = pictures.folder(tmp_path_factory.mktemp("classes") / "model", pictures.classifier(), SOFTMAX)
    server = Served(folder, max_pixels=1_000_000).wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = pictures.folder(tmp_path_factory.mktemp("masks") / "model", pictures.segmenter(), RED)
    server = Served(folder).wait_ready()
    yield server
    server.stop()


def asked(server: Served, body: bytes, query: str = "", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.call("POST", f"/predict{query}", body, named)


def said(reply: Reply) -> Any:
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    return reply.json["predictions"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("color", CLASSES)
def test_a_file_as_the_body(classes: Served, kind: str, color: str) -> None:
    body = encoded(plain(color), kind)
    for declared in ({"content_type": f"image/{kind.lower()}"}, {}, {"content_type": "application/octet-stream"}):
        [found] = said(asked(classes, body, **declared))
        assert found["class"] == color and found["confidence"] > 0.99
        assert found["probabilities"][CLASSES.index(color)] == found["confidence"]


def test_a_form(classes: Served) -> None:
    for kind in ("image/png", "application/octet-stream", ""):
        body, headers = form(encoded(plain("green")), kind)
        [found] = said(classes.call("POST", "/predict", body, headers))
        assert found["class"] == "green"


async def test_a_form_by_aiohttp(classes: Served) -> None:
    data = aiohttp.FormData()
    data.add_field("image", encoded(plain("blue"), "JPEG"), filename="a.jpg", content_type="image/jpeg")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{classes.port}/predict", data=data) as reply,
    ):
        assert (await reply.json())["predictions"][0]["class"] == "blue"


def test_a_form_by_curl(classes: Served, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(plain("red"), "JPEG"))
    for option in (["-F", "file=@a.jpg"], ["-F", "file=@a.jpg;type=image/jpeg"], ["--data-binary", "@a.jpg"]):
        command = ["curl", "-sS", f"http://127.0.0.1:{classes.port}/predict", *option]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=30, check=True)
        assert json.loads(done.stdout)["predictions"][0]["class"] == "red"


def test_an_image_as_npy_is_prepared_like_any_other(classes: Served) -> None:
    for array in (
        plain("green"),
        np.asfortranarray(plain("green")),
        np.dstack([plain("green"), plain("green")[:, :, :1]]),
    ):
        [found] = said(asked(classes, npy.write(array), content_type="application/x-npy"))
        assert found["class"] == "green"


def test_the_input_itself_as_npy_and_as_json(classes: Served) -> None:
    rows = np.zeros((2, 3, 16, 16), np.float32)
    rows[0, 2] = rows[1, 0] = 1
    for array in (rows, rows.astype(np.float64), rows.astype(">f4"), np.asfortranarray(rows)):
        assert [each["class"] for each in said(asked(classes, npy.write(array)))] == ["blue", "red"]
    [found] = said(asked(classes, npy.write(rows[0])))
    assert found["class"] == "blue"
    for body in ({"inputs": rows.tolist()}, {"instances": rows.tolist()}):
        assert [each["class"] for each in said(asked(classes, json.dumps(body).encode()))] == ["blue", "red"]


def test_one_of_the_outputs(classes: Served) -> None:
    body = encoded(plain("red"))
    assert said(asked(classes, body, "?output=class")) == [{"class": "red"}]
    reply = asked(classes, body, "?output=probabilities", accept="application/x-npy")
    assert reply.headers["content-type"] == "application/x-npy"
    array = npy.read(reply.body)
    assert array.shape == (1, 3) and array.dtype == np.float32 and array[0].argmax() == 0


def test_a_mask(masks: Served) -> None:
    [found] = said(asked(masks, encoded(half_red())))
    mask = np.array(found["mask"])
    assert mask.shape == (32, 32) and (mask[:, :16] == 1).all() and (mask[:, 16:] == 0).all()
    reply = asked(masks, encoded(half_red()), accept="application/x-npy")
    assert (npy.read(reply.body)[0] == mask).all()


def test_a_mask_as_png_has_the_pictures_size_and_numbers_of_classes(masks: Served) -> None:
    for kind in ("PNG", "JPEG"):
        reply = asked(masks, encoded(half_red(100, 60), kind), accept="image/png")
        assert reply.headers["content-type"] == "image/png"
        image = opened(reply.body)
        assert (image.mode, image.size) == ("P", (100, 60))
        assert (np.asarray(image)[:, :48] == 1).all() and (np.asarray(image)[:, 52:] == 0).all()
        shown = np.asarray(image.convert("RGB"))
        assert (shown[0, 0] == 255).all() and (shown[0, 99] == 0).all()


def test_an_overlay(masks: Served) -> None:
    image = opened(asked(masks, encoded(half_red()), "?overlay").body)
    shown = np.asarray(image)
    assert shown.shape == (48, 64, 3)
    assert (shown[0, 0] == (255, 128, 128)).all() and (shown[0, 63] == (0, 0, 255)).all()
    whole = np.asarray(opened(asked(masks, encoded(half_red()), "?overlay=1", accept="image/*").body))
    assert (whole[0, 0] == 255).all()
    noisy = encoded(np.random.default_rng(0).integers(0, 256, (48, 64, 3)))
    assert "content-encoding" not in asked(masks, noisy, "?overlay", accept_encoding="gzip").headers
    assert np.asarray(opened(asked(masks, encoded(half_red()), "?overlay=false", accept="image/png").body)).ndim == 2


def test_a_map_of_probabilities(masks: Served) -> None:
    reply = asked(masks, encoded(half_red()), "?output=probabilities", accept="image/png")
    image = opened(reply.body)
    assert (image.mode, image.size) == ("L", (64, 48))
    red, rest = np.exp(1) / (np.exp(1) + np.exp(0.5)), 1 / (1 + np.exp(0.5))
    assert np.asarray(image)[0, 0] == round(red * 255) and np.asarray(image)[0, 63] == round(rest * 255)
    other = opened(asked(masks, encoded(half_red()), "?output=probabilities&class=0", accept="image/png").body)
    assert np.asarray(other)[0, 0] == round((1 - red) * 255)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("image/png, */*", "image/png"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", "image/png"),
        ("image/*;q=0.2, application/x-npy;q=0.3", "application/x-npy"),
        ("application/json;q=0, */*", "image/png"),
        ("APPLICATION/*", "application/json"),
    ],
)  # fmt: skip
def test_the_client_chooses_by_accept(masks: Served, accept: str, kind: str) -> None:
    reply = asked(masks, encoded(half_red()), accept=accept)
    assert (reply.status, reply.headers["content-type"]) == (200, kind)


def test_a_file_may_come_compressed(classes: Served) -> None:
    body = gzip.compress(encoded(plain("blue")))
    [found] = said(asked(classes, body, content_encoding="gzip", content_type="image/png"))
    assert found["class"] == "blue"


def test_it_is_noted_and_needs_a_key(start: Any, tmp_path: Path) -> None:
    folder = pictures.folder(tmp_path / "model", pictures.segmenter(), RED)
    keys, audit = tmp_path / "keys", tmp_path / "audit"
    key = api_keys.new_key()
    keys.write_text(api_keys.entry("alice", key) + "\n")
    server = start(folder, api_keys_file=keys, audit_log=str(audit))
    body = encoded(plain("red"))
    assert asked(server, body).status == 401
    reply = asked(server, body, "?overlay", authorization=f"Bearer {key}")
    assert reply.status == 200
    eventually(lambda: audit.exists() and audit.read_text().count("\n") == 1)
    line = json.loads(audit.read_text())
    assert (line["caller"], line["path"]) == ("alice", "/predict?overlay")
    assert line["input"] == {"bytes": len(body), "sha256": sha256(body).hexdigest()}
    assert line["output"]["sha256"] == sha256(reply.body).hexdigest() and line["output"]["class"] == "red"


def test_what_is_declared_is_told(masks: Served, onnx_server: Served) -> None:
    told = masks.call("GET", "/model/info").json["images"]
    assert told["preprocess"]["size"] == [32, 32] and told["preprocess"]["layout"] == "NCHW"
    assert told["postprocess"]["classes"] == ["other", "red"]
    assert onnx_server.call("GET", "/model/info").json["images"] is None


def test_it_is_answered_like_all_inference(classes: Served) -> None:
    before = classes.metric("modelramp_requests_total", route="predict", code="200")
    reply = asked(classes, encoded(plain("red")), x_request_id="abc", accept_encoding="gzip")
    assert reply.headers["x-modelramp-revision"] == "aaaaaaaa" and reply.headers["x-request-id"] == "abc"
    assert "server-timing" in reply.headers
    assert asked(classes, encoded(plain("red")), x_request_timeout="soon").status == 400
    assert classes.metric("modelramp_requests_total", route="predict", code="200") == before + 1
    assert classes.metric("modelramp_predictions_total", **{"class": "red"}) > 0
    assert classes.call("GET", "/predict").status == 405
