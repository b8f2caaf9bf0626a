"""A real server on loopback, in a thread of its own: real uvicorn, real sockets, real model thread."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from modelramp_server.serve import Service
from modelramp_server.settings import ServeSettings

DEADLINE = 30.0
OWN = "aaaaaaaa"


class Reply(NamedTuple):
    """What came back; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Served:
    """A running server."""

    def __init__(self, folder: Path | None, **settings: Any) -> None:
        values: dict[str, Any] = {
            "model_path": str(folder or ""),
            "model_name": "digits",
            "model_version": "3",
            "model_revision": OWN,
            "app_host": "127.0.0.1",
            "app_port": 0,
            "drain_delay": 0.0,
            "hostname": "pod-0",
        }
        self.service = Service(ServeSettings(**{**values, **settings}), folder)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        eventually(lambda: self.service.server.started or not self._thread.is_alive())

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.service.server.servers[0].sockets[0].getsockname()[1])

    @property
    def grpc_port(self) -> int:
        """The port of V2 gRPC."""
        assert self.service.rpc is not None
        return self.service.rpc.port

    def wait_ready(self) -> "Served":
        """Until the model is loaded and warm."""
        eventually(lambda: self.error is not None or self.call("GET", "/v2/health/ready").status == 200)
        return self

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own; a body other than bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            return exchange(connection, method, path, body, headers)
        finally:
            connection.close()

    def infer(self, *tensors: dict[str, Any], **headers: str) -> Reply:
        """A V2 request."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", "/v2/models/digits/infer", {"inputs": list(tensors)}, named)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a series' samples that carry the labels."""
        text = self.call("GET", "/metrics").body.decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(part in line for part in wanted))

    def stop(self) -> None:
        """End it and wait."""
        self.service.server.should_exit = True
        self.join()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self.service.run())
        except BaseException as error:
            self.error = error


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection that is kept."""
    payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, payload, headers or {})
    answer = connection.getresponse()
    return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def eventually(condition: Callable[[], bool], within: float = DEADLINE) -> None:
    """Poll until the condition holds.

    Raises:
        AssertionError: it did not, within so many seconds.
    """
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def split(generation: int, weight: int, revision: str = "bbbbbbbb", **changes: Any) -> str:
    """The annotation's value."""
    document = {"v": 1, "generation": generation, "revision": revision, "weight": weight, "salt": "s1", "ttl": 120}
    return json.dumps({**document, **changes})
