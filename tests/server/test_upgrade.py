"""Who asks to be upgraded, as curl --http2 and Java's client do, is answered as if they had not. Their body is never a
request: behind a proxy that might be anybody's."""

import socket
from collections.abc import Iterator

import pytest

from modelramp_server.large_body import LARGE
from tests.server.served import Served, eventually
from tests.server.test_hot_path import INFER, Reader, all_read, binary, body, request, values

WISH = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
SMUGGLED = request(b"", method="GET", path="/v2")


@pytest.fixture
def wire(lookup_server: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", lookup_server.port), timeout=30) as opened:
        yield opened


def wishing(sent: bytes) -> bytes:
    return sent.replace(b"host: x\r\n", b"host: x\r\n" + WISH, 1)


def chunked(content: bytes, path: str) -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode()
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


def send(wire: socket.socket, sent: bytes, cut: int | None = None) -> None:
    """In one packet, or in two."""
    if cut is not None:
        wire.sendall(sent[:cut])
        eventually(lambda: all_read(wire))
    wire.sendall(sent[cut:])


HEAD = len(wishing(request(body(3)))) - len(body(3))


@pytest.mark.parametrize("cut", [3, 60, HEAD - 1, HEAD, HEAD + 1, -1, None])
@pytest.mark.parametrize("path", [INFER, INFER + "?by=asgi"])
def test_a_request_is_answered_however_it_is_cut(wire: socket.socket, path: str, cut: int | None) -> None:
    reader = Reader(wire)
    for value in (3, 4):
        send(wire, wishing(request(body(value), path=path)), cut)
        assert values(reader.answer()) == [10.0 * value]
    send(wire, request(body(5)))
    assert values(reader.answer()) == [50.0]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("sent", [request(SMUGGLED), chunked(SMUGGLED, INFER)], ids=["whole", "chunked"])
def test_a_body_is_never_taken_for_a_request(wire: socket.socket, sent: bytes, together: bool) -> None:
    sent = wishing(sent)
    send(wire, sent, None if together else sent.index(b"\r\n\r\n") + 4)
    reader = Reader(wire)
    assert reader.answer()[0] == 400
    send(wire, request(body(4)))
    assert values(reader.answer()) == [40.0]


def test_nor_is_one_that_comes_behind_its_answer(wire: socket.socket) -> None:
    sent = wishing(request(SMUGGLED, path="/ping"))
    send(wire, sent[: -len(SMUGGLED)])
    reader = Reader(wire)
    assert reader.answer()[0] == 405
    send(wire, SMUGGLED + request(body(4)))
    assert values(reader.answer()) == [40.0]


def test_requests_may_follow_each_other_in_one_packet(wire: socket.socket) -> None:
    page = wishing(request(b"", method="GET", path="/v2/models/digits"))
    posts = wishing(request(body(1))), wishing(chunked(body(2), INFER)), request(body(3))
    send(wire, page + b"".join(posts))
    reader = Reader(wire)
    assert reader.answer()[2]["name"] == "digits"
    assert [values(reader.answer()) for _ in posts] == [[10.0], [20.0], [30.0]]


def test_large_bodies_too(wire: socket.socket) -> None:
    reader = Reader(wire)
    for value in (1, 2, 3):
        wire.sendall(wishing(binary(LARGE, value)))
        assert set(values(reader.answer())) == {10.0 * value}


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(wire: socket.socket) -> None:
    content = body(3)
    send(wire, wishing(request(content, "expect: 100-continue"))[: -len(content)])
    assert wire.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    send(wire, content)
    assert values(Reader(wire).answer()) == [30.0]


@pytest.mark.parametrize("target", ["/ping", "x:443"])
def test_a_tunnel_is_refused_and_nothing_after_it_is_read(wire: socket.socket, target: str) -> None:
    wire.sendall(request(SMUGGLED, method="CONNECT", path=target) + SMUGGLED)
    reader = Reader(wire)
    assert reader.answer()[0] == 400
    assert reader.ended()
