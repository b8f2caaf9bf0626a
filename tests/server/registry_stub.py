"""A tracking server as far as fetching asks for one: versions, listings, files; and a log of what was asked."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from modelramp_server.settings import FetchSettings, ServeSettings

_FILES = "/api/2.0/mlflow-artifacts/artifacts"
FILES = ["MLmodel", "model.onnx", "weights/a.bin", "weights/b.bin"]
DIGITS = "models:/digits/1"


class RegistryStub:
    """Version 1 and 2 of `digits`, each with the files of `folder`.

    `created` is the time at which the versions were made; `broken` are files cut off half-way; `sizes` is whether
    listings tell sizes; a file named in `held` is sent when its event is set.
    """

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.folder = folder
        self.created = 1000
        self.broken: set[str] = set()
        self.sizes = True
        self.held: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub._answer(self)

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.address = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more answers: connections are refused from now on."""
        self.server.shutdown()
        self._thread.join(10)
        self.server.server_close()

    @property
    def downloads(self) -> list[str]:
        """The names of the files that were asked for, in order."""
        return sorted(path.removeprefix(f"{_FILES}/m/") for path in self.asked if path.startswith(f"{_FILES}/m/"))

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        path, query = unquote(url.path), parse_qs(url.query)
        self.asked.append(path)
        if path.startswith(f"{_FILES}/m/"):
            self._send_file(request, path.removeprefix(f"{_FILES}/m/"))
        elif path == _FILES:
            below = query["path"][0].removeprefix("m").lstrip("/")
            self._send(request, 200, {"files": [self._entry(one) for one in sorted((self.folder / below).iterdir())]})
        elif path.endswith("/model-versions/get") and query["version"][0] in ("1", "2"):
            number = query["version"][0]
            made = {"creation_timestamp": self.created, "source": "mlflow-artifacts:/m", "status": "READY"}
            self._send(request, 200, {"model_version": {"name": "digits", "version": number, **made}})
        elif path.endswith("/registered-models/get"):
            self._send(request, 200, {"registered_model": {"name": "digits"}})
        elif path.endswith("/model-versions/get-download-uri"):
            self._send(request, 200, {"artifact_uri": "mlflow-artifacts:/m"})
        else:
            self._send(request, 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such thing"})

    def _entry(self, path: Path) -> dict[str, Any]:
        entry: dict[str, Any] = {"path": path.name, "is_dir": path.is_dir()}
        return {**entry, "file_size": path.stat().st_size} if self.sizes and path.is_file() else entry

    def _send(self, request: BaseHTTPRequestHandler, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        if name in self.held:
            self.held[name].wait(30)
        body = (self.folder / name).read_bytes()
        request.send_response(200)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        if name in self.broken:
            request.wfile.write(body[: len(body) // 2])
            request.close_connection = True
        else:
            request.wfile.write(body)


@contextmanager
def registry_stub(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[RegistryStub]:
    """A stub for the time of a test."""
    stub = RegistryStub(folder, tls)
    try:
        yield stub
    finally:
        stub.stop()


def wanted(stub: RegistryStub, target: Path, uri: str = DIGITS, **changes: Any) -> FetchSettings:
    return FetchSettings(model_uri=uri, mlflow_tracking_uri=stub.address, model_path=str(target), **changes)


def served(stub: RegistryStub, cache: Path, uri: str = DIGITS, **changes: Any) -> ServeSettings:
    return ServeSettings(model_path=uri, mlflow_tracking_uri=stub.address, model_cache=cache, **changes)
