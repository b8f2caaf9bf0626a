"""Connections whose inference takes the hot path: whatever way the bytes come, the answers are those of ASGI."""

import gzip
import json
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server.large_body import LARGE
from tests.server.pair import CANDIDATE, real_pair
from tests.server.served import OWN, Served, eventually

INFER = "/v2/models/digits/infer"
TIMEOUT = 4.0


@pytest.fixture
def server(start, lookup_model) -> Served:
    return start(lookup_model, request_timeout=TIMEOUT)


@pytest.fixture
def wire(server: Served) -> Iterator[socket.socket]:
    """A connection to it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as opened:
        yield opened


def body(value: int = 2, rows: int = 1) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "x", "datatype": "INT64", "shape": [rows], "data": [value] * rows}]}
    ).encode()


def request(content: bytes, *headers: str, method: str = "POST", path: str = INFER, version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: x", f"content-length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def binary(rows: int, value: int) -> bytes:
    """A request with a raw tensor."""
    raw = np.full(rows, value, np.int64).tobytes()
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": "x", "datatype": "INT64", "shape": [rows], "parameters": parameters}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "y"}]}).encode()
    return request(head + raw, f"inference-header-content-length: {len(head)}")


class Reader:
    """Answers off a connection, one by one."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._held = b""

    def answer(self) -> tuple[int, dict[str, str], Any]:
        head = self._until(lambda: self._held.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in self._held else 0)
        first, *lines = head.decode().split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        content = self._until(lambda: size if len(self._held) >= (size := int(headers["content-length"])) else 0)
        return int(first.split()[1]), headers, json.loads(content)

    def ended(self) -> bool:
        """Whether nothing more comes."""
        return not self._held and self._wire.recv(1) == b""

    def _until(self, enough: Callable[[], int]) -> bytes:
        while not (size := enough()):
            more = self._wire.recv(1 << 20)
            assert more, f"the connection ended after {self._held!r}"
            self._held += more
        taken, self._held = self._held[:size], self._held[size:]
        return taken


def all_read(wire: socket.socket) -> bool:
    """Whether all has been read that either end of this connection was sent."""
    port = f":{wire.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return all(
        queues == "00000000:00000000" for _, mine, others, _, queues, *_ in rows if port in (mine[-5:], others[-5:])
    )


def values(answer: tuple[int, dict[str, str], Any]) -> list[float]:
    assert answer[0] == 200, answer
    found: list[float] = answer[2]["outputs"][0]["data"]
    return found


def test_pipelined_requests_are_answered_in_order(wire: socket.socket) -> None:
    page = request(b"", method="GET", path="/v2/models/digits")
    wire.sendall(request(body(1)) + request(body(2)) + page + request(body(3)) + request(b"{}") + request(body(4)))
    reader = Reader(wire)
    answers = [reader.answer() for _ in range(6)]
    assert [answer[0] for answer in answers] == [200, 200, 200, 200, 400, 200]
    assert answers[2][2]["name"] == "digits"
    assert [values(answers[index]) for index in (0, 1, 3, 5)] == [[10.0], [20.0], [30.0], [40.0]]


def test_a_request_may_come_byte_by_byte(wire: socket.socket) -> None:
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request(body(3)):
        wire.sendall(bytes([byte]))
    assert values(Reader(wire).answer()) == [30.0]


def test_a_head_that_comes_again_is_read_once(
    wire: socket.socket, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bytes] = []
    hot_path = server.service._hot_path
    take = hot_path.take
    monkeypatch.setattr(
        hot_path, "take", lambda client, path, headers: taken.append(path) or take(client, path, headers)
    )
    reader = Reader(wire)

    def ask(*requests: bytes) -> list[float]:
        wire.sendall(b"".join(requests))
        return [value for _ in requests for value in values(reader.answer())]

    other = request(body(4), "x-request-id: 7")
    assert ask(request(body(1))) + ask(request(body(2))) + ask(request(body(3))) == [10.0, 20.0, 30.0]
    assert len(taken) == 1
    wire.sendall(request(body(1)[:-1] + b" "))
    assert reader.answer()[0] == 400, "its body is read as any other"
    assert ask(other) + ask(request(body(5, 2))) + ask(request(body(6))) == [40.0, 50.0, 50.0, 60.0]
    assert len(taken) == 4, "by each other head"
    assert ask(request(body(1)), request(body(2)), request(body(3))) == [10.0, 20.0, 30.0]
    assert ask(request(body(4))) + ask(request(body(5))) == [40.0, 50.0]
    assert server.metric("modelramp_requests_total", route="infer", code="200") == 11
    assert hot_path.underway == 0


def test_of_large_bodies_too(wire: socket.socket, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []
    hot_path = server.service._hot_path
    take = hot_path.take
    monkeypatch.setattr(
        hot_path, "take", lambda client, path, headers: heads.append(path) or take(client, path, headers)
    )
    rows, reader = LARGE, Reader(wire)  # more than one read takes

    def ask(*requests: bytes) -> list[set[float]]:
        wire.sendall(b"".join(requests))
        found = [set(values(reader.answer())) for _ in requests]
        (connection,) = server.service.server.server_state.connections
        eventually(lambda: not connection.flow.write_paused)
        return found

    assert [ask(binary(rows, value)) for value in (1, 2, 3)] == [[{10.0}], [{20.0}], [{30.0}]]
    assert len(heads) == 1
    assert ask(binary(rows, 4), binary(rows, 5), binary(rows, 6)) == [{40.0}, {50.0}, {60.0}]
    wire.sendall(request(b"", method="GET", path="/v2/health/live"))
    assert reader.answer()[0] == 200
    assert ask(binary(rows, 7)) + ask(binary(rows, 8)) + ask(binary(rows + 1, 9)) == [{70.0}, {80.0}, {90.0}]
    assert server.metric("modelramp_requests_total", route="infer", code="200") == 9
    assert hot_path.underway == 0


def test_no_body_that_has_been_answered_is_kept(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or connections that wait would hold the memory for want of which requests are refused."""
    bodies: list[weakref.ref[Any]] = []
    local = server.service.local
    decode = local.decode
    monkeypatch.setattr(local, "decode", lambda request: bodies.append(weakref.ref(request.body)) or decode(request))
    with ExitStack() as clients:
        for value in (1, 2, 3):
            wire = clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            for _ in range(2):
                wire.sendall(binary(LARGE, value))
                assert set(values(Reader(wire).answer())) == {10.0 * value}
        assert len(bodies) == 6
        eventually(lambda: all(each() is None for each in bodies))


HEAD = len(request(body(1))) - len(body(1))


@pytest.mark.parametrize("cut", [3, HEAD - 1, HEAD, HEAD + 7])
def test_what_begins_as_the_last_request_did_may_come_in_parts(wire: socket.socket, server: Served, cut: int) -> None:
    reader = Reader(wire)
    wire.sendall(request(body(1)))
    assert values(reader.answer()) == [10.0]
    (connection,) = server.service.server.server_state.connections
    sent = request(body(2)) + request(body(3))
    wire.sendall(sent[:cut])
    eventually(lambda: connection._received == cut)
    wire.sendall(sent[cut:])
    assert values(reader.answer()) + values(reader.answer()) == [20.0, 30.0]
    wire.sendall(sent[:-1])
    assert values(reader.answer()) == [20.0]
    wire.sendall(sent[-1:])
    assert values(reader.answer()) == [30.0]


def test_a_head_is_not_remembered_from_its_middle_on(wire: socket.socket) -> None:
    """Where one read begins inside a head, what it holds is no head: sent again, it is no request."""
    first, second = request(body(1)), request(body(2), "x-a: b")
    tail = second.index(b"x-a")
    reader = Reader(wire)
    wire.sendall(first + second[:tail])
    assert values(reader.answer()) == [10.0]
    wire.sendall(second[tail:])
    assert values(reader.answer()) == [20.0]
    wire.sendall(second[tail:])
    assert reader.answer()[0] == 400


@pytest.mark.parametrize("headers", [("connection: close",), ("x-request-id: 7",), ("accept-encoding: gzip",), ()])
def test_it_answers_as_asgi_does(wire: socket.socket, server: Served, headers: tuple[str, ...]) -> None:
    reader = Reader(wire)
    wire.sendall(request(body(3), *headers))
    hot = reader.answer()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as other:
        other.sendall(request(body(3), *headers, path=INFER + "?by=asgi"))
        plain = Reader(other).answer()
    same = [{name: value for name, value in each[1].items() if name not in ("date", "server-timing")}
            for each in (hot, plain)]  # fmt: skip
    assert (hot[0], hot[2], same[0]) == (plain[0], plain[2], same[1])
    assert hot[1]["x-modelramp-revision"] == OWN and hot[1]["server-timing"].startswith("service;dur=")
    assert server.metric("modelramp_requests_total", route="infer", code="200") == 2


@pytest.mark.parametrize(
    "sent",
    [
        request(body(3), version="1.0"),
        request(body(3), "connection: close"),
        b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (INFER.encode(), len(body(3)), body(3)),
    ],
    ids=["HTTP 1.0", "close", "chunked"],
)
def test_what_the_hot_path_does_not_take_is_answered_all_the_same(wire: socket.socket, sent: bytes) -> None:
    wire.sendall(sent)
    assert values(Reader(wire).answer()) == [30.0]


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(wire: socket.socket) -> None:
    content = body(3)
    wire.sendall(request(content, "expect: 100-continue")[: -len(content)])
    assert wire.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.sendall(content)
    assert values(Reader(wire).answer()) == [30.0]


@pytest.mark.parametrize("cut", [40, 300, LARGE, 3 * LARGE])
def test_large_bodies_and_what_follows_them(wire: socket.socket, cut: int) -> None:
    """However the first read cuts it, and though the next request comes in the same segment."""
    rows = LARGE // 2  # of 8 bytes
    sent = binary(rows, 4) + request(body(3)) + binary(rows, 5)
    reader = Reader(wire)
    wire.sendall(sent[:cut])
    wire.sendall(sent[cut:])
    assert [set(values(reader.answer())) for _ in range(3)] == [{40.0}, {30.0}, {50.0}]


@pytest.mark.parametrize("cut", [3, HEAD, HEAD + 100, HEAD + LARGE, -1])
def test_what_begins_as_the_last_large_request_did_may_come_in_parts(
    wire: socket.socket, server: Served, cut: int
) -> None:
    rows, reader = LARGE // 2, Reader(wire)
    for value in (1, 2):
        sent = binary(rows, value)
        wire.sendall(sent[:cut])
        eventually(lambda: all_read(wire))
        wire.sendall(sent[cut:])
        assert set(values(reader.answer())) == {10.0 * value}
    wire.sendall(sent[:cut])
    wire.close()
    eventually(lambda: not server.service.server.server_state.connections)
    assert server.service._hot_path.underway == 0


@pytest.mark.parametrize("size", [LARGE, 4 * LARGE])
def test_a_large_body_of_raw_numbers_is_relayed(start, lookup_model, tmp_path: Path, size: int) -> None:
    """Also one of just so many bytes that it is sent together with its head."""
    stable, _ = real_pair(start, lookup_model, tmp_path, {}, {})
    rows = size // 8 - 100
    content = binary(rows, 3).partition(b"\r\n\r\n")[2]
    cut = len(content) - 8 * rows
    padded = content[:cut].ljust(size - 8 * rows) + content[cut:]
    raw_from = f"inference-header-content-length: {size - 8 * rows}"
    with socket.create_connection(("127.0.0.1", stable.port), timeout=30) as wire:
        whole = request(padded, raw_from)
        wire.sendall(whole[:-size])
        eventually(lambda: stable.service._hot_path.underway == 1)
        wire.sendall(padded)
        answer = Reader(wire).answer()
    assert len(padded) == size
    assert set(values(answer)) == {30.0}
    assert answer[1]["x-modelramp-revision"] == CANDIDATE


@pytest.mark.parametrize(
    ("path", "headers", "content", "status"),
    [
        ("/invocations", ("content-type: application/json",), json.dumps({"inputs": [3] * LARGE}).encode(), 200),
        ("/invocations", ("content-type: text/csv",), b"x\n" + b"3\n" * LARGE, 200),
        ("/predict", (), json.dumps({"inputs": [3] * LARGE}).encode(), 200),
        ("/predict", (), b"x" * 2 * LARGE, 415),
        (INFER, ("content-encoding: gzip",), gzip.compress(binary(LARGE, 3).partition(b"\r\n\r\n")[2], 0), 200),
        (INFER, ("content-encoding: gzip",), b"x" * 2 * LARGE, 400),
    ],
    ids=["MLflow's JSON", "CSV", "a body of any kind", "none that is known", "compressed", "not compressed"],
)
def test_a_large_body_said_to_have_raw_numbers(
    wire: socket.socket, path: str, headers: tuple[str, ...], content: bytes, status: int
) -> None:
    """It comes as memory instead of bytes, whatever it is for."""
    head = int(binary(LARGE, 3).partition(b"inference-header-content-length: ")[2].partition(b"\r\n")[0])
    wire.sendall(request(content, f"inference-header-content-length: {head}", *headers, path=path))
    answered, _, said = Reader(wire).answer()
    assert answered == status, said


def test_a_body_that_does_not_come_is_not_waited_for(start, lookup_model) -> None:
    server = start(lookup_model, request_timeout=0.3)
    for content in (body(3), b"x" * (4 * LARGE)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as wire:
            wire.sendall(request(content)[:-1])
            reader = Reader(wire)
            status, headers, said = reader.answer()
            assert (status, headers["connection"]) == (408, "close") and "within 0.3 s" in said["error"]
            assert reader.ended()
    assert server.service._hot_path.underway == 0
    assert server.metric("modelramp_requests_total", code="408") == 2


@pytest.mark.parametrize("size", [100, 4 * LARGE])
def test_a_client_that_leaves_in_mid_body_leaves_nothing_behind(server: Served, size: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as wire:
        wire.sendall(request(b"x" * size)[:-1])
        eventually(lambda: server.service._hot_path.underway == 1)
    eventually(lambda: server.service._hot_path.underway == 0)
    assert server.infer({"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}).status == 200


def test_a_fault_of_the_servers_own_is_one_500_and_told_in_the_log(
    server: Served, wire: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> Any:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(server.service.local, "encode", broken)
        wire.sendall(request(body(3)))
        status, _, said = Reader(wire).answer()
    assert status == 500 and "log" in said["error"] and "a bug" in caplog.text
    wire.sendall(request(body(3)))
    assert values(Reader(wire).answer()) == [30.0], "the connection goes on"


@pytest.mark.parametrize(
    "sent",
    [
        request(body(3)),
        request(body(3), path=INFER + "?by=asgi"),
        request(gzip.compress(body(3)), "content-encoding: gzip"),
    ],
    ids=["here", "by ASGI", "in a task"],
)
def test_a_fault_of_the_servers_own_is_counted_as_stables(
    server: Served, wire: socket.socket, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(server.service.local, "encode", None)
        wire.sendall(sent)
        status, headers, said = Reader(wire).answer()
    assert (status, headers["x-modelramp-revision"]) == (500, OWN) and "log" in said["error"]
    assert server.metric("modelramp_requests_total", route="infer", code="500") == 1
    assert server.metric("modelramp_split_requests_total", side="stable", outcome="bad") == 1
    assert server.metric("modelramp_bad_window_sum") == 1


def test_a_large_body_is_refused_by_its_length(start, lookup_model) -> None:
    server = start(lookup_model, payload_limit=1000)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as wire:
        wire.sendall(request(b"x" * 2000)[:-2000])
        status, _, said = Reader(wire).answer()
    assert status == 413 and "PAYLOAD_LIMIT" in said["error"]
