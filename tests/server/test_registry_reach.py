"""How the registry is reached: with a CA of one's own, by a proxy; and what is said where it is not."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from modelramp_server.model_store import registry
from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.model_store.failures import RegistryUnavailable
from modelramp_server.model_store.fetch import fetch
from modelramp_server.model_store.origin import Registered
from modelramp_server.settings import FetchSettings
from tests.server.registry_stub import RegistryStub, registry_stub

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("impatient")]
ELSEWHERE = "registry.invalid"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that its owner signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=registry"]
    names = ["-addext", f"subjectAltName=IP:127.0.0.1,DNS:{ELSEWHERE}"]
    files = folder / "certificate", folder / "key"
    subprocess.run([*made, *names, "-out", str(files[0]), "-keyout", str(files[1])], check=True, capture_output=True)
    return files


@pytest.fixture
def secure(lookup_model: Path, certificate: tuple[Path, Path]) -> Iterator[RegistryStub]:
    """A registry with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with registry_stub(lookup_model, context) as running:
        yield running


class Tunnel:
    """A proxy for HTTPS: whatever is asked for, it leads to one place. `asked` are the addresses."""

    def __init__(self, port: int) -> None:
        self.asked: list[str] = []
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """No more connections."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listening.accept()[0]
            except OSError:
                return
            head = client.recv(65536).decode()
            self.asked.append(" ".join(head.split()[:2]))
            server = socket.create_connection(("127.0.0.1", self._port))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_pour, args=(one, other), daemon=True).start()


def _pour(one: socket.socket, other: socket.socket) -> None:
    with closing(one):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def wanted(address: str, target: Path) -> FetchSettings:
    return FetchSettings(model_uri="models:/digits/1", mlflow_tracking_uri=address, model_path=str(target))


def test_a_ca_of_ones_own(secure: RegistryStub, certificate: Any, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(RegistryUnavailable, match=r"certificate verify failed.*REQUESTS_CA_BUNDLE names the file"):
        fetch(wanted(secure.address, tmp_path / "model"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    fetch(wanted(secure.address, tmp_path / "model"))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate[0]))
    fetch(wanted(secure.address, tmp_path / "other"))


def test_a_ca_file_that_is_not_there(secure: RegistryStub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    with pytest.raises(RegistryUnavailable, match="/no/such/file"):
        fetch(wanted(secure.address, tmp_path / "model"))


def test_a_proxy_for_http(stub: RegistryStub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", stub.address)  # a server that is asked for whole addresses answers as a proxy does
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fetch(wanted(f"http://{ELSEWHERE}:5000", tmp_path / "model"))
    assert len(stub.downloads) == 4
    monkeypatch.setenv("NO_PROXY", ELSEWHERE)
    with pytest.raises(RegistryUnavailable, match="does not tell"):
        fetch(wanted(f"http://{ELSEWHERE}:5000", tmp_path / "other"))


def test_a_proxy_for_https(secure: RegistryStub, certificate: Any, tmp_path: Path, monkeypatch) -> None:
    tunnel = Tunnel(secure.server.server_port)
    monkeypatch.setenv("HTTPS_PROXY", tunnel.address)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    try:
        fetch(wanted(f"https://{ELSEWHERE}", tmp_path / "model"))
    finally:
        tunnel.stop()
    assert set(tunnel.asked) == {f"CONNECT {ELSEWHERE}:443"} and len(secure.downloads) == 2


def test_a_proxy_that_does_not_answer_is_said_so(tmp_path: Path, monkeypatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(RegistryUnavailable, match="The proxy stands in HTTPS_PROXY"):
            fetch(wanted(f"https://{ELSEWHERE}", tmp_path / "model"))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("localhost:5000", "write http://localhost:5000"),
        ("sqlite:///mlflow.db", "the whole of MLflow (pip install mlflow)"),
        ("postgresql+psycopg2://db/mlflow", "names a database (postgresql+psycopg2)"),
    ],
)
def test_an_address_that_is_no_tracking_server_says_what_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    """As far as MLflow's small client is installed."""
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(RegistryUnavailable) as caught:
        registry.resolve(Registered("digits", "", "prod"), address)
    assert said in str(caught.value)


def test_a_login_in_the_address_is_told_to_nobody(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(RegistryUnavailable) as told:
            fetch(wanted(f"http://me:secret@127.0.0.1:{port}", tmp_path / "model"))
    assert f"127.0.0.1:{port}" in str(told.value) and "secret" not in str(told.value)
    assert registry.line(ValueError("API request to http://me:secret@host/a failed")) == (
        "API request to http://host/a failed"
    )


def test_a_login_in_the_address_is_not_kept(stub: RegistryStub, tmp_path: Path) -> None:
    fetch(wanted(stub.address.replace("//", "//me:secret@"), tmp_path / "model"))
    assert "secret" not in (tmp_path / "model.manifest").read_text()


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "sécret"}, "Basic bWU6c8OpY3JldA=="),
        ({"MLFLOW_TRACKING_TOKEN": "token"}, "Bearer token"),
        ({}, None),
    ],
)
def test_mlflows_client_would_ask_the_same(
    stub: RegistryStub, tmp_path: Path, monkeypatch, login: dict[str, str], sent: str | None
) -> None:
    (stub.folder / "weights/a b.bin").write_bytes(b"c")
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    heads: list[list[tuple[str, str | None]]] = []
    answer = stub._answer

    def noted(request: Any) -> None:
        heads[-1].append((request.path, request.headers["Authorization"]))
        answer(request)

    monkeypatch.setattr(stub, "_answer", noted)
    for client in ("ours", "MLflow's"):
        if client == "MLflow's":
            monkeypatch.setenv("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "true")  # which it alone knows
        heads.append([])
        fetch(wanted(stub.address, tmp_path / client))
    ours, theirs = map(set, heads)
    assert theirs - ours == {("/api/2.0/mlflow/registered-models/get?name=digits", sent)}, "nothing hangs on its answer"
    assert ours < theirs and {login for _, login in ours} == {sent}


def test_a_fetch_from_a_tracking_server_does_without_mlflows_client(stub: RegistryStub, tmp_path: Path) -> None:
    target = tmp_path / "model"
    flags = ["fetch", "--model-uri=models:/digits/1", f"--mlflow-tracking-uri={stub.address}", f"--model={target}"]
    script = "import sys; sys.modules['mlflow'] = None; from modelramp_server.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert artifact_digest(target) == artifact_digest(stub.folder)


def test_a_server_that_stumbles_is_asked_again(stub: RegistryStub, tmp_path: Path, monkeypatch) -> None:
    answer, stumbled = stub._answer, set[str]()

    def stumbling(request: Any) -> None:
        if request.path not in stumbled:
            stumbled.add(request.path)
            stub._send(request, 503, {})
        else:
            answer(request)

    monkeypatch.setattr(stub, "_answer", stumbling)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    fetch(wanted(stub.address, tmp_path / "model"))
    assert artifact_digest(tmp_path / "model") == artifact_digest(stub.folder)


def test_files_that_the_server_would_have_fetched_elsewhere_are_left_to_mlflows_client(
    stub: RegistryStub, tmp_path: Path, monkeypatch
) -> None:
    answer = stub._answer

    def pointing(request: Any) -> None:
        if "get-download-uri" in request.path:
            stub._send(request, 200, {"artifact_uri": (stub.folder).as_uri()})
        else:
            answer(request)

    monkeypatch.setattr(stub, "_answer", pointing)
    fetch(wanted(stub.address, tmp_path / "model"))
    assert stub.downloads == [] and artifact_digest(tmp_path / "model") == artifact_digest(stub.folder)
