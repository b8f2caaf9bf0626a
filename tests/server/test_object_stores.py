"""Object stores, each by its own client, against the least of a server that the client is content with.

Runs where the clients are installed: the extras s3, gcs and azure. Those of Google and Azure are among the development
packages; boto3, whose python-dateutil is too old for the operator's Kubernetes client, is in `make server-clients`.
"""

import importlib.util
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import orjson
import pytest

from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.model_store.failures import RegistryUnavailable
from modelramp_server.model_store.fetch import fetch
from modelramp_server.runtime.base import ArtifactDamaged, MissingPackages
from modelramp_server.settings import FetchSettings

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]
STORES = {
    "s3": ("boto3", "s3://bucket/models/digits"),
    "gcs": ("google.cloud.storage", "gs://bucket/models/digits"),
    "azure": ("azure.storage.blob", "wasbs://bucket@account.blob.core.windows.net/models/digits"),
}


class Store:
    """One bucket whose keys are the files of a folder; in the words of S3, Google or Azure, by what is asked."""

    def __init__(self, folder: Path) -> None:
        self.status = 200
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store._answer(self)

            def do_HEAD(self) -> None:
                store._answer(self)

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self._folder = folder
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more answers."""
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        path, query = unquote(url.path), {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.status != 200:
            self._send(request, b"<Error><Code>AccessDenied</Code></Error>", self.status)
        elif "/models/digits/" in path:
            self._file(request, path.split("/models/digits/")[1])
        elif path.startswith("/storage/v1"):
            self._send(request, self._google(query.get("prefix", "")), kind="application/json")
        elif query.get("comp") == "list":
            self._send(request, self._azure(query.get("prefix", "")))
        else:
            self._send(request, self._amazon(query.get("prefix", "")))

    def _below(self, prefix: str) -> tuple[list[tuple[str, int]], list[str]]:
        """Keys with their sizes, and prefixes, right under a prefix."""
        folder = self._folder / prefix.removeprefix("models/digits").strip("/")
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        files = [(f"{prefix}{entry.name}", entry.stat().st_size) for entry in entries if entry.is_file()]
        return files, [f"{prefix}{entry.name}/" for entry in entries if entry.is_dir()]

    def _amazon(self, prefix: str) -> bytes:
        files, folders = self._below(prefix)
        keys = "".join(f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size></Contents>" for key, size in files)
        under = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{keys}{under}</ListBucketResult>".encode()

    def _google(self, prefix: str) -> bytes:
        files, folders = self._below(prefix)
        return orjson.dumps({"items": [{"name": key, "size": str(size)} for key, size in files], "prefixes": folders})

    def _azure(self, prefix: str) -> bytes:
        files, folders = self._below(prefix)
        blobs = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties><Content-Length>{size}</Content-Length>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for key, size in files
        )
        under = "".join(f"<BlobPrefix><Name>{escape(one)}</Name></BlobPrefix>" for one in folders)
        return f"<EnumerationResults><Blobs>{blobs}{under}</Blobs><NextMarker/></EnumerationResults>".encode()

    def _file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        path = self._folder / name
        if not path.is_file():
            self._send(request, b"<Error><Code>NoSuchKey</Code></Error>", 404)
            return
        body = path.read_bytes()
        asked = request.headers.get("range") or request.headers.get("x-ms-range")
        if asked is None:
            self._send(request, body, kind="application/octet-stream")
            return
        first, last = asked.removeprefix("bytes=").split("-")
        part = body[int(first) : int(last) + 1 if last else None]
        whole = {"content-range": f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"}
        self._send(request, part, 206, "application/octet-stream", **whole)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        body: bytes,
        status: int = 200,
        kind: str = "application/xml",
        **more: str,
    ) -> None:
        request.send_response(status)
        headers = {"content-type": kind, "content-length": str(len(body)), "etag": '"1"', **more}
        headers |= {"last-modified": "Sat, 01 Jan 2022 00:00:00 GMT", "x-ms-blob-type": "BlockBlob"}
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


@pytest.fixture
def store(lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    folder = tmp_path / "bucket"
    (folder / "weights").mkdir(parents=True)
    for name in ("MLmodel", "model.onnx"):
        (folder / name).write_bytes((lookup_model / name).read_bytes())
    (folder / "weights/a & b.bin").write_bytes(b"a" * 1000)
    running = Store(folder)
    azure = f"BlobEndpoint={running.address}/account;AccountName=account;AccountKey=a2V5"
    for name, value in {
        "MLFLOW_S3_ENDPOINT_URL": running.address,
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "STORAGE_EMULATOR_HOST": running.address,
        "GOOGLE_CLOUD_PROJECT": "project",
        "AZURE_STORAGE_CONNECTION_STRING": azure,
        "NO_GCE_CHECK": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield running
    running.stop()


def wanted(kind: str, target: Path, **changes: Any) -> FetchSettings:
    return FetchSettings(model_uri=STORES[kind][1], model_path=str(target), **changes)


def needs(kind: str) -> None:
    pytest.importorskip(STORES[kind][0], reason=f"the extra {kind} is not installed")


@pytest.mark.parametrize("kind", STORES)
def test_a_model_of_an_object_store(kind: str, store: Store, tmp_path: Path) -> None:
    needs(kind)
    target = tmp_path / "model"
    fetch(wanted(kind, target))
    assert artifact_digest(target) == artifact_digest(tmp_path / "bucket")


@pytest.mark.parametrize("kind", STORES)
def test_no_such_files(kind: str, store: Store, tmp_path: Path) -> None:
    needs(kind)
    for path in sorted((tmp_path / "bucket").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(ArtifactDamaged, match=r"the files of .* are missing"):
        fetch(wanted(kind, tmp_path / "model"))


@pytest.mark.parametrize("kind", STORES)
def test_not_allowed_to(kind: str, store: Store, tmp_path: Path) -> None:
    needs(kind)
    store.status = 403
    with pytest.raises(RegistryUnavailable, match="can't be listed"):
        fetch(wanted(kind, tmp_path / "model"))


class Without:
    """An importer for which a package is not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Asked before all other importers."""
        if name == self._package or name.startswith(self._package + "."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("kind", STORES)
def test_a_client_that_is_not_installed(kind: str, store: Store, tmp_path: Path, monkeypatch) -> None:
    package = STORES[kind][0]
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    parent = importlib.util.find_spec(package.rpartition(".")[0]) if "." in package else None
    if parent is not None and package.rpartition(".")[2] in vars(sys.modules.get(parent.name, object)):
        monkeypatch.delattr(sys.modules[parent.name], package.rpartition(".")[2])
    monkeypatch.setattr(sys, "meta_path", [Without(package), *sys.meta_path])
    with pytest.raises(MissingPackages, match=rf"modelramp\[{kind}\]"):
        fetch(wanted(kind, tmp_path / "model"))
