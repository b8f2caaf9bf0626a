"""What a client can do to the server by being slow, large or gone, and what a model can by never coming back."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelramp_server import serve
from modelramp_server.batching import model_thread
from modelramp_server.protocol.tensors import Array
from tests.server.served import Served, eventually

INFER = "/v2/models/digits/infer"
HELD = 7


class Gate:
    """Holds the forward of a row HELD, and notes the rows of all forwards."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.rows: list[int] = []

    def load(self, *arguments: Any) -> Any:
        """In the place of serve._load."""
        model, runtime = self._load(*arguments)
        predict = runtime.predict

        def held(inputs: Mapping[str, Array]) -> dict[str, Array]:
            self.rows += inputs["x"].tolist()
            if HELD in inputs["x"] and len(self.rows) > self.warm > 0:
                self.reached.set()
                assert self.open.wait(30)
            return dict(predict(inputs))

        runtime.predict = held
        runtime.only_computes = False
        return model, runtime

    _load = staticmethod(serve._load)
    warm = 0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(serve, "_load", gate.load)
    yield gate
    gate.open.set()


@pytest.fixture
def begin(start: Any, lookup_model: Path, gate: Gate) -> Callable[..., Served]:
    """A server whose gate holds from now on."""

    def begin(**settings: Any) -> Served:
        server: Served = start(lookup_model, **settings)
        gate.warm = len(gate.rows)
        return server

    return begin


def body(*values: int) -> bytes:
    tensor = {"name": "x", "datatype": "INT64", "shape": [len(values)], "data": list(values)}
    return json.dumps({"inputs": [tensor]}).encode()


def head(length: int, *lines: str) -> bytes:
    return "\r\n".join([f"POST {INFER} HTTP/1.1", "host: x", f"content-length: {length}", *lines, "", ""]).encode()


def connect(server: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def connections(server: Served) -> int:
    return len(server.service.server.server_state.connections)


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread, answers


def test_a_request_whose_client_has_gone_is_not_computed(begin: Callable[..., Served], gate: Gate) -> None:
    server = begin()
    first, answers = in_background(lambda: server.call("POST", INFER, body(HELD)))
    assert gate.reached.wait(30)
    with connect(server) as leaver:
        leaver.sendall(head(len(body(5))) + body(5))
        eventually(lambda: waiting(server) == 2)
    eventually(lambda: connections(server) == 1)
    gate.open.set()
    first.join(30)
    assert answers[0].status == 200 and server.call("POST", INFER, body(3)).status == 200
    assert gate.rows[gate.warm :] == [HELD, 3], "not 5"
    assert server.metric("modelramp_requests_total", code="499") == 1
    assert server.metric("modelramp_split_requests_total", outcome="neutral") == 1


def test_a_request_whose_client_left_with_another_behind_it_is_counted(
    begin: Callable[..., Served], gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    server = begin()
    asked = head(len(body(HELD))).replace(b"/infer", b"/infer?by=asgi") + body(HELD)
    with connect(server) as leaving:
        leaving.sendall(asked + asked)
        assert gate.reached.wait(30)
    eventually(lambda: not conns(server))
    gate.open.set()
    eventually(lambda: server.metric("modelramp_requests_total", route="infer", code="200") == 1)
    assert server.metric("modelramp_split_requests_total", side="stable", outcome="ok") == 1
    assert "Exception in ASGI" not in caplog.text


def test_a_full_queue_refuses_before_it_decodes(begin: Callable[..., Served], gate: Gate) -> None:
    server = begin(queue_limit=1)
    first, answers = in_background(lambda: server.call("POST", INFER, body(HELD)))
    assert gate.reached.wait(30)
    refused = server.call("POST", INFER, b"no JSON, which nobody looks at")
    assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
    gate.open.set()
    first.join(30)
    assert answers[0].status == 200


def waiting(server: Served) -> int:
    return server.service.local._queue.waiting


def test_a_forward_that_does_not_end_fails_liveness(
    begin: Callable[..., Served], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, passed = begin(request_timeout=30), 0
    monkeypatch.setattr(model_thread, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))
    asking, answers = in_background(lambda: server.call("POST", INFER, body(HELD)))
    assert gate.reached.wait(30)
    passed = 60
    assert server.call("GET", "/v2/health/live").status == 200
    passed = 90
    live, ready = server.call("GET", "/v2/health/live"), server.call("GET", "/v2/health/ready")
    assert (live.status, ready.status) == (503, 503) and "a forward has been running for" in live.json["error"]
    gate.open.set()
    eventually(lambda: server.call("GET", "/v2/health/live").status == 200)
    asking.join(30)
    assert answers[0].status == 200


def test_a_head_that_does_not_end_is_given_up(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model, request_timeout=0.3)
    with connect(server) as slow, connect(server) as silent:
        slow.sendall(f"POST {INFER} HTTP/1.1\r\nhost: ".encode())
        answer = slow.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408") and b'{"error"' in answer
        assert silent.recv(4096) == b"", "nothing was asked, so nothing is answered"


def test_a_client_that_does_not_read_its_answer_is_given_up(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model, request_timeout=2)
    asked, headers = encoded(np.full(2_000_000, 9), binary=True)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(20)
        reader.connect(("127.0.0.1", server.port))
        reader.sendall(head(len(asked), *(f"{name}: {value}" for name, value in headers.items())) + asked)
        eventually(lambda: any(each.transport.get_write_buffer_size() for each in conns(server)))
        eventually(lambda: not conns(server))


def conns(server: Served) -> list[Any]:
    return list(server.service.server.server_state.connections)


def test_heads_and_trailers_are_bounded(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model, payload_limit=100_000)
    with connect(server) as endless:
        endless.sendall(f"POST {INFER} HTTP/1.1\r\n".encode())
        send_until_refused(endless, b"x-more: " + b"x" * 1000 + b"\r\n")
        assert endless.recv(4096).startswith(b"HTTP/1.1 431")
    with connect(server) as endless, pytest.raises(OSError):
        endless.sendall(f"POST {INFER} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n".encode())
        for _ in range(100_000):
            endless.sendall(b"x-more: " + b"x" * 1000 + b"\r\n")
    assert server.call("POST", INFER, body(2)).status == 200


def test_a_head_is_bounded_too_after_a_body_that_came_behind_its_answer(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model, payload_limit=100_000)
    with connect(server) as endless:
        endless.sendall(b"POST /ping HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        assert read_answer(endless).startswith(b"HTTP/1.1 405")
        endless.sendall(b"0123456789POST /ping HTTP/1.1\r\n")
        send_until_refused(endless, b"x-more: " + b"x" * 1000 + b"\r\n")
        assert endless.recv(4096).startswith(b"HTTP/1.1 431")


def send_until_refused(sender: socket.socket, line: bytes) -> None:
    """One line after the other, slowly enough not to outrun the answer; 2 MB at most."""
    sender.settimeout(0.001)
    for _ in range(2000):
        sender.sendall(line)
        try:
            if sender.recv(1, socket.MSG_PEEK):
                break
        except TimeoutError:
            continue
    sender.settimeout(20)


def test_the_head_after_a_large_body_is_counted_anew(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model)
    large = body(*[9] * 100_000)
    with connect(server) as sender:
        for piece in range(0, len(asked := head(len(large)) + large), 60_000):
            sender.sendall(asked[piece : piece + 60_000])
        read_answer(sender)
        again = head(len(body(2)), "x-more: " + "x" * 1000) + body(2)
        sender.sendall(again[:500])
        eventually(lambda: any((each.waits_for() or ("", 0))[0] == "head" for each in conns(server)))
        sender.sendall(again[500:])
        assert read_answer(sender).startswith(b"HTTP/1.1 200")


def read_answer(sender: socket.socket) -> bytes:
    got = b""
    while True:
        got += sender.recv(1 << 20)
        top, end, rest = got.partition(b"\r\n\r\n")
        if end and len(rest) >= int(top.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return got


def test_a_client_that_sends_too_much_sees_why(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model, payload_limit=1000)
    reply = server.call("POST", INFER, b"x" * 20_000_000)
    assert (reply.status, reply.headers["connection"]) == (413, "close") and "1000 bytes" in reply.json["error"]


def test_a_client_that_asks_first_is_not_told_to_go_on(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model, payload_limit=1000)
    with connect(server) as asking:
        asking.sendall(head(2000, "expect: 100-continue"))
        assert asking.recv(4096).startswith(b"HTTP/1.1 413")


def test_while_memory_is_short_only_one_request_is_served(begin: Callable[..., Served], gate: Gate) -> None:
    server = begin(memory_limit="1Gi")
    used = 100
    memory = server.service.local.memory
    memory._read = lambda: used
    used = 1 << 30
    eventually(lambda: server.metric("modelramp_memory_short") == 1)
    assert server.metric("modelramp_memory_limit_bytes") == 1 << 30
    assert server.call("POST", INFER, body(2)).status == 200, "the only request"
    first, answers = in_background(lambda: server.call("POST", INFER, body(HELD)))
    assert gate.reached.wait(30)
    with connect(server) as second:
        second.sendall(head(1000))
        answer = second.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503") and b"MEMORY_LIMIT" in answer, "before the body is read"
        assert b"retry-after: 1" in answer
    used = 100
    eventually(lambda: server.metric("modelramp_memory_short") == 0)
    gate.open.set()
    first.join(30)
    assert [answers[0].status, server.call("POST", INFER, body(2)).status] == [200, 200]


def test_rows_with_tags_never_get_each_others_answers(start: Any, lookup_model: Path, monkeypatch: Any) -> None:
    """JSON and binary, of one and more rows, some that fail, some whose client leaves, over 32 connections."""
    load = serve._load

    def tagging(*arguments: Any) -> Any:
        model, runtime = load(*arguments)

        def predict(inputs: Mapping[str, Array]) -> dict[str, Array]:
            if (inputs["x"] % 17 == 16).any():
                raise ValueError("16")
            return {"y": (inputs["x"] * 3 + 1).astype(np.float32)}

        runtime.predict = predict
        return model, runtime

    monkeypatch.setattr(serve, "_load", tagging)
    server = start(lookup_model)
    failures: list[str] = []

    def client(number: int) -> None:
        random = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for turn in range(15):
            tags = (number * 10_000 + turn * 100 + np.arange(random.integers(1, 6))).astype(np.int64)
            payload, headers = encoded(tags, binary=bool(random.integers(2)))
            connection.request("POST", INFER, payload, headers)
            if random.integers(6) == 0:
                connection.close()
                continue
            answer = connection.getresponse()
            got = json.loads(answer.read())
            if (tags % 17 == 16).any():
                right = answer.status == 500 and "16" in got["error"]
            else:
                right = answer.status == 200 and got["outputs"][0]["data"] == (tags * 3 + 1).tolist()
            if not right:
                failures.append(f"{tags}: {answer.status} {got}")
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not failures
    assert server.metric("modelramp_batch_rows_bucket", le="2.0") < server.metric("modelramp_batch_rows_count")


def encoded(tags: Array, binary: bool) -> tuple[bytes, dict[str, str]]:
    tensor: dict[str, Any] = {"name": "x", "datatype": "INT64", "shape": [len(tags)]}
    if not binary:
        return json.dumps({"inputs": [{**tensor, "data": tags.tolist()}]}).encode(), {}
    tensor["parameters"] = {"binary_data_size": tags.nbytes}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + tags.tobytes(), {"inference-header-content-length": str(len(head))}
