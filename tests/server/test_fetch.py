"""Fetching: from a real MLflow server, and from servers that answer rubbish; each failure with its reason."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelramp_server import load_model
from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.model_store.failures import ModelNotFound, RegistryUnavailable
from modelramp_server.model_store.fetch import fetch, local_folder
from modelramp_server.runtime.base import ArtifactDamaged, ModelProblem
from modelramp_server.settings import FetchSettings, ServeSettings
from tests.server import models
from tests.server.served import Served

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(autouse=True)
def _few_retries(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


def settings(uri: str, registry: str, target: Path, **changes: Any) -> FetchSettings:
    return FetchSettings(model_uri=uri, mlflow_tracking_uri=registry, model_path=str(target), **changes)


def left(folder: Path) -> list[str]:
    """What a failed fetch leaves, but for the lock, which stays."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


class Rubbish(BaseHTTPRequestHandler):
    """Answers every request with the server's `status`, `kind` and `body`."""

    server: Any

    def do_GET(self) -> None:
        status, kind, body = self.server.answer
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def rubbish() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rubbish)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def version(**fields: str) -> bytes:
    return json.dumps({"model_version": {"name": "digits", "version": "1", "status": "READY", **fields}}).encode()


HTML = b"<html><body>Please log in</body></html>"
ANSWERS: list[tuple[str, int, str, bytes, type[ModelProblem]]] = [
    ("a page", 200, "text/html", HTML, RegistryUnavailable),
    ("a 500", 500, "text/html", HTML, RegistryUnavailable),
    ("a 502 of a proxy", 502, "text/html", HTML, RegistryUnavailable),
    ("a 404 of a proxy", 404, "text/html", HTML, RegistryUnavailable),
    ("a 401", 401, "application/json", b"{}", RegistryUnavailable),
    ("truncated JSON", 200, "application/json", version()[:20], RegistryUnavailable),
    ("empty JSON", 200, "application/json", b"{}", RegistryUnavailable),
    ("a list", 200, "application/json", b"[]", RegistryUnavailable),
    ("nothing", 200, "application/json", b"", RegistryUnavailable),
    ("another model", 200, "application/json", version(name="other"), RegistryUnavailable),
    ("not ready", 200, "application/json", version(status="PENDING_REGISTRATION"), RegistryUnavailable),
    ("no such version", 404, "application/json",
     b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Model Version not found"}', ModelNotFound),
    ("no such alias, as SQL stores say it", 400, "application/json",
     b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "alias prod not found"}', ModelNotFound),
    ("internal error in JSON", 500, "application/json", b'{"error_code": "INTERNAL_ERROR"}', RegistryUnavailable),
]  # fmt: skip


@pytest.mark.parametrize(("status", "kind", "body", "problem"), [case[1:] for case in ANSWERS],
                         ids=[case[0] for case in ANSWERS])  # fmt: skip
def test_a_registry_that_answers_rubbish(
    rubbish: Any, tmp_path: Path, status: int, kind: str, body: bytes, problem: type[ModelProblem]
) -> None:
    rubbish.answer = (status, kind, body)
    target = tmp_path / "model"
    with pytest.raises(problem) as told:
        fetch(settings("models:/digits/1", f"http://127.0.0.1:{rubbish.server_port}", target))
    assert "models:/digits/1" in str(told.value) and "\n" not in str(told.value)
    assert not target.exists() and left(tmp_path) == []


def test_a_registry_that_is_down(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(RegistryUnavailable, match="does not tell"):
            fetch(settings("models:/digits/1", address, tmp_path / "model"))


@pytest.mark.parametrize(
    "uri",
    [
        "models:/digits",
        "digits",
        "ftp://host/model",
        "models:/",
        "models:/a/b/c",
        "models:/a/latest",
        "http://host/model",
    ],
)
def test_a_uri_that_is_none(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ModelNotFound, match="models:/<name>/<version>"):
        fetch(settings(uri, "http://127.0.0.1:1", tmp_path / "model"))


@pytest.mark.parametrize("uri", ["models:/digits/1", "models:/digits@prod", "runs:/4f2a/model"])
def test_no_registry_configured(tmp_path: Path, uri: str) -> None:
    with pytest.raises(RegistryUnavailable, match="MLFLOW_TRACKING_URI"):
        fetch(settings(uri, "", tmp_path / "model"))


def test_the_digest_is_of_paths_and_contents(tmp_path: Path) -> None:
    for name, content in (("a/x", b"1"), ("y", b"2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    first = artifact_digest(tmp_path)
    (tmp_path / "registered_model_meta").write_text("model_name: digits")
    assert artifact_digest(tmp_path) == first
    (tmp_path / "y").rename(tmp_path / "z")
    assert artifact_digest(tmp_path) != first
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArtifactDamaged, match="link"):
        artifact_digest(tmp_path)


def test_a_folder_that_is_none() -> None:
    with pytest.raises(ArtifactDamaged, match="no folder"):
        local_folder(ServeSettings(model_path="/no/such/folder"))


def test_a_folder_that_may_not_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, **_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(ArtifactDamaged, match=r"^/closed/model can't be read: Permission denied$"):
        local_folder(ServeSettings(model_path="/closed/model"))


class Registry:
    """A real `mlflow server`: SQL store, artifact proxy, loopback; with versions 1 (sklearn) and 2 (ONNX)."""

    def __init__(self, root: Path) -> None:
        self.artifacts = root / "artifacts"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{root / 'store.db'}",
                   "--artifacts-destination", str(self.artifacts)]  # fmt: skip
        self._log = (root / "log").open("w")
        clean = {name: value for name, value in os.environ.items() if "MLFLOW_" not in name}
        environment = {**clean, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.popen = subprocess.Popen(
            command, cwd=root, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        script = [sys.executable, "-W", "ignore", "-m", "tests.server.registry_logging", self.address]
        try:
            subprocess.run(script, check=True, env=environment, stdout=self._log, stderr=self._log, timeout=90)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and the workers it started."""
        os.killpg(self.popen.pid, 15)
        self.popen.wait(20)
        self._log.close()

    def stored(self, name: str) -> Path:
        """Where the store keeps a file of an artifact."""
        return next(self.artifacts.rglob(name))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    real = Registry(tmp_path_factory.mktemp("registry"))
    yield real
    real.stop()


def test_a_real_registry_from_fetch_to_answer(registry: Registry, tmp_path: Path, estimator: Any, start) -> None:
    images = models.digits()[0][1000:1003]
    labels = estimator.predict(images).tolist()
    for number in ("1", "2"):
        target = tmp_path / number / "model"
        fetch(settings(f"models:/digits/{number}", registry.address, target))
        digest = target.with_name("model.digest").read_text()
        assert digest == artifact_digest(target)
        assert sorted(path.name for path in target.parent.iterdir()) == [
            "model",
            "model.digest",
            "model.lock",
            "model.manifest",
        ]
        server: Served = start(target)
        predictions = server.call("POST", "/invocations", {"instances": images.tolist()}).json["predictions"]
        assert (predictions if number == "1" else predictions["label"]) == labels


def test_a_model_that_is_already_there_is_not_fetched_again(registry: Registry, tmp_path: Path) -> None:
    target = tmp_path / "model"
    wanted = settings("models:/digits/2", registry.address, target)
    fetch(wanted)
    first = (target / "MLmodel").stat().st_ino
    fetch(wanted)
    assert (target / "MLmodel").stat().st_ino == first
    (target / "model.onnx").write_bytes(b"damaged")
    fetch(wanted)
    assert artifact_digest(target) == target.with_name("model.digest").read_text()


def test_versions_and_aliases_of_a_real_registry(registry: Registry, tmp_path: Path, monkeypatch, caplog) -> None:
    caplog.set_level("INFO")
    target = tmp_path / "model"
    for uri in ("models:/digits/9", "models:/nobody/1", "models:/digits@staging"):
        with pytest.raises(ModelNotFound):
            fetch(settings(uri, registry.address, target))
    with monkeypatch.context() as pod:
        pod.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        for refused in (
            lambda: fetch(settings("models:/digits@prod", registry.address, target)),
            lambda: local_folder(ServeSettings(mlflow_model_name="digits", mlflow_model_alias="prod")),
        ):
            with pytest.raises(ModelNotFound, match=r"an alias.*models:/digits/<version>"):
                refused()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    local = ServeSettings(model_path="models:/digits@prod", mlflow_tracking_uri=registry.address)
    assert (local_folder(local) / "model.onnx").is_file()
    assert (local.model_name, local.model_version) == ("digits", "2")
    named = ServeSettings(mlflow_model_name="digits", mlflow_model_alias="prod", mlflow_tracking_uri=registry.address)
    assert local_folder(named) == local_folder(local) and "models:/digits@prod is models:/digits/2" in caplog.text
    with load_model("models:/digits@prod", mlflow_tracking_uri=registry.address) as model:
        assert (model.name, model.version) == ("digits", "2") and model.predict(models.digits()[0][:3])[
            "label"
        ].shape == (3,)


def test_another_digest_than_expected(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ArtifactDamaged, match="expected"):
        fetch(settings("models:/digits/2", registry.address, tmp_path / "model", model_digest="sha256:00"))
    assert left(tmp_path) == []


def test_a_store_that_lost_files(registry: Registry, tmp_path: Path) -> None:
    graph = registry.stored("model.onnx")
    for damage in (lambda: graph.write_bytes(b""), graph.unlink, lambda: (graph.parent / "MLmodel").unlink(),
                   lambda: shutil.rmtree(graph.parent)):  # fmt: skip
        damage()
        with pytest.raises(ArtifactDamaged):
            fetch(settings("models:/digits/2", registry.address, tmp_path / "model"))
        assert left(tmp_path) == []
