"""Compressed bodies, both ways: what is in them counts, a bomb is refused before it goes off, and a relay sees them."""

import gzip
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelramp_server.protocol.compression import accepted, deflate, inflate
from modelramp_server.protocol.errors import ServingError
from tests.server.conftest import Start
from tests.server.served import Served, eventually, split

INFER = "/v2/models/digits/infer"
MANY = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [500], "data": [3] * 500}]}
PACK = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}
UNPACK = {"gzip": gzip.decompress, "deflate": zlib.decompress}
LIMIT = 100_000


@pytest.mark.parametrize("coding", PACK)
@pytest.mark.parametrize("path", [INFER, "/invocations"])
def test_a_compressed_body_is_what_is_in_it(lookup_server: Served, coding: str, path: str) -> None:
    body = MANY if path == INFER else {"inputs": [3] * 500}
    plain = lookup_server.call("POST", path, body)
    packed = lookup_server.call("POST", path, PACK[coding](json.dumps(body).encode()), {"content-encoding": coding})
    assert (packed.status, packed.json) == (200, plain.json)


@pytest.mark.parametrize("coding", UNPACK)
def test_an_answer_is_compressed_for_who_asks(lookup_server: Served, coding: str) -> None:
    plain = lookup_server.call("POST", INFER, MANY)
    assert "content-encoding" not in plain.headers
    packed = lookup_server.call("POST", INFER, MANY, {"accept-encoding": f"br, {coding};q=0.5"})
    assert (packed.headers["content-encoding"], packed.headers["vary"]) == (coding, "accept-encoding")
    assert len(packed.body) < len(plain.body) and UNPACK[coding](packed.body) == plain.body
    small = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [3]}]}
    assert "content-encoding" not in lookup_server.call("POST", INFER, small, {"accept-encoding": coding}).headers


@pytest.mark.parametrize(
    ("value", "coding"),
    [
        (b"", b""),
        (b"gzip, deflate, br", b"gzip"),
        (b"deflate", b"deflate"),
        (b"GZIP", b"gzip"),
        (b"gzip;q=0", b""),
        (b"gzip; q=0.000, deflate;q=0.1", b"deflate"),
        (b"identity", b""),
        (b"br;q=1.0, *;q=0", b""),
        (b"gzip;nonsense", b"gzip"),
    ],
)
def test_what_a_client_accepts(value: bytes, coding: bytes) -> None:
    assert accepted(value) == coding


def damaged() -> dict[str, tuple[str, bytes, str]]:
    body = json.dumps(MANY).encode()
    whole = gzip.compress(body)
    return {
        "not gzip": ("gzip", body, "no gzip"),
        "empty": ("gzip", b"", "ends before its end"),
        "cut short": ("gzip", whole[:-9], "ends before its end"),
        "a wrong checksum": ("gzip", whole[:-8] + b"\x00" * 8, "no gzip"),
        "followed by something": ("gzip", whole + b"x", "1 bytes after"),
        "two members": ("gzip", whole + whole, "bytes after"),
        "gzip for deflate": ("deflate", whole, "no deflate"),
        "deflate without a header": ("deflate", zlib.compress(body)[2:-4], "no deflate"),
        "compressed twice": ("gzip", gzip.compress(whole), "JSON"),
    }


@pytest.mark.parametrize(("coding", "body", "part"), damaged().values(), ids=damaged().keys())
def test_a_damaged_body_is_refused(lookup_server: Served, coding: str, body: bytes, part: str) -> None:
    reply = lookup_server.call("POST", INFER, body, {"content-encoding": coding})
    assert reply.status == 400 and part in reply.json["error"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_refused_before_its_memory_is_taken(start: Start, lookup_model: Any, coding: str) -> None:
    server = start(lookup_model, payload_limit=1_000_000)
    stream = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    zeros = bytes(1 << 20)
    bomb = b"".join(stream.compress(zeros) for _ in range(100)) + stream.flush()
    reply = server.call("POST", INFER, bomb, {"content-encoding": coding})
    assert reply.status == 413 and "when decompressed" in reply.json["error"]
    assert server.call("POST", INFER, MANY).status == 200
    tracemalloc.start()
    try:
        with pytest.raises(ServingError):
            inflate(bomb, coding.encode(), 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    assert len(inflate(gzip.compress(bytes(LIMIT)), b"gzip", LIMIT)) == LIMIT
    with pytest.raises(ServingError) as refused:
        inflate(gzip.compress(bytes(LIMIT + 1)), b"gzip", LIMIT)
    assert refused.value.status == 413


@settings(deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([b"gzip", b"deflate"]))
def test_there_and_back(body: bytes, coding: bytes) -> None:
    assert inflate(deflate(body, coding), coding, 2000) == body
    assert UNPACK[coding.decode()](deflate(body, coding)) == body


@pytest.fixture
def pair(start: Start, lookup_model: Path, tmp_path: Path) -> tuple[Served, Served]:
    """A stable server that hands everything over to its candidate, and copies what it answers itself."""
    file = tmp_path / "split"
    file.write_text("")
    candidate = start(lookup_model, model_revision="bbbbbbbb", model_version="4")
    stable = start(lookup_model, candidate_url=f"http://127.0.0.1:{candidate.port}", traffic_file=file)
    return stable, candidate


CODED = {"content-encoding": "gzip", "accept-encoding": "gzip"}


def test_a_relayed_request_stays_compressed_and_so_does_its_answer(pair: tuple[Served, Served]) -> None:
    stable, candidate = pair
    stable.service.traffic.observe(split(2, 100))
    packed = gzip.compress(json.dumps(MANY).encode())
    reply = stable.call("POST", INFER, packed, CODED)
    assert (reply.status, reply.headers["x-modelramp-revision"]) == (200, "bbbbbbbb")
    assert "x-modelramp-net" not in reply.headers
    assert json.loads(gzip.decompress(reply.body))["outputs"][0]["data"] == [30.0] * 500
    candidate.stop()
    net = stable.call("POST", INFER, packed, CODED)
    assert (net.headers["x-modelramp-revision"], net.headers["x-modelramp-net"]) == ("aaaaaaaa", "refused")
    assert json.loads(gzip.decompress(net.body))["outputs"][0]["data"] == [30.0] * 500


def test_compressed_answers_are_compared_with_their_copies(pair: tuple[Served, Served]) -> None:
    stable, _ = pair
    stable.service.traffic.observe(split(2, 0, shadow={"share": 100, "tolerance": 0.01, "iou": 0.9}))
    reply = stable.call("POST", INFER, gzip.compress(json.dumps(MANY).encode()), CODED)
    assert reply.headers["content-encoding"] == "gzip"
    eventually(lambda: stable.metric("modelramp_shadow_answers_total", result="agree") == 1)
