"""A V2 server that behaves as it is told to: what stands behind `--upstream` when things go wrong."""

import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.server.loopback import Loopback

TENSOR = {"datatype": "FP32", "shape": [-1, 2]}
METADATA = {
    "name": "digits",
    "platform": "stub",
    "inputs": [{"name": "x", **TENSOR}],
    "outputs": [{"name": "y", **TENSOR}],
}
PATH = "/v2/models/digits"

Behaviour = Callable[[BaseHTTPRequestHandler, bytes], None]


class UpstreamStub:
    """`ready` and `metadata` are what its pages answer (status, body); `infer` does what it likes with a request."""

    def __init__(self) -> None:
        self.ready: tuple[int, bytes] = (200, b"")
        self.metadata: tuple[int, bytes] = (200, json.dumps(METADATA).encode())
        self.infer: Behaviour = says(output([[1.0, 2.0]]))
        self.asked: list[tuple[dict[str, str], bytes]] = []
        self.hang_pages = False
        self.looks = 0
        self.let_go = threading.Event()
        self._server = self._listen()
        self.url = self._server.url

    def stop(self) -> None:
        """End it, and whatever hangs in it."""
        self.let_go.set()
        self._server.stop()

    def _listen(self) -> Loopback:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if stub.hang_pages:
                    stub.let_go.wait(20)
                stub.looks += self.path.endswith("/ready")
                status, body = stub.ready if self.path.endswith("/ready") else stub.metadata
                if self.path not in (PATH, f"{PATH}/ready"):
                    status, body = 404, b""
                says(body, status)(self, b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                stub.asked.append(({name.lower(): value for name, value in self.headers.items()}, body))
                stub.infer(self, body)

        return Loopback(Handler)


def output(rows: Any, **changes: Any) -> bytes:
    """An answer in JSON: the output `y`."""
    shape = [len(rows), len(rows[0])]
    data = [value for row in rows for value in row]
    return json.dumps(
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": shape, "data": data, **changes}]}
    ).encode()


def says(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Behaviour:
    """Answers so; a `length` that is not the body's is a lie, after which it closes."""

    def behave(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = length is not None

    return behave


def sends(raw: bytes) -> Behaviour:
    """Bytes that need not be HTTP; then it closes."""

    def behave(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.wfile.write(raw)
        handler.close_connection = True

    return behave


def resets(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    """Resets the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
