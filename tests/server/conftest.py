"""Models trained once, servers started once; tests that change a server start one of their own."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelramp_server.relay import budget, client
from tests.server import models
from tests.server.registry_stub import RegistryStub, registry_stub
from tests.server.served import DEADLINE, Served

Start = Callable[..., Served]


@pytest.fixture(scope="session")
def estimator() -> Any:
    return models.classifier()


@pytest.fixture(scope="session")
def sklearn_model(tmp_path_factory: pytest.TempPathFactory, estimator: Any) -> Path:
    return models.sklearn_folder(tmp_path_factory.mktemp("sklearn") / "model", estimator)


@pytest.fixture(scope="session")
def onnx_model(tmp_path_factory: pytest.TempPathFactory, estimator: Any) -> Path:
    return models.onnx_folder(tmp_path_factory.mktemp("onnx") / "model", models.onnx_classifier(estimator))


@pytest.fixture(scope="session")
def lookup_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.onnx_folder(tmp_path_factory.mktemp("lookup") / "model", models.lookup())


@pytest.fixture(scope="session")
def sklearn_server(sklearn_model: Path) -> Iterator[Served]:
    server = Served(sklearn_model).wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def onnx_server(onnx_model: Path) -> Iterator[Served]:
    server = Served(onnx_model).wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def lookup_server(lookup_model: Path) -> Iterator[Served]:
    server = Served(lookup_model).wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(models.onnx_folder(tmp_path_factory.mktemp("echo") / "model", models.echo())).wait_ready()
    yield server
    server.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client gives up at once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate may take half of a request's time: how soon a busy machine lets it answer is not what is asked."""
    monkeypatch.setattr(budget, "_AT_LEAST", DEADLINE)
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", DEADLINE)


@pytest.fixture
def stub(tmp_path: Path, lookup_model: Path) -> Iterator[RegistryStub]:
    """A registry whose model has four files, 300 kB in all."""
    folder = tmp_path / "store"
    shutil.copytree(lookup_model, folder)
    (folder / "weights").mkdir()
    (folder / "weights/a.bin").write_bytes(b"a" * 100_000)
    (folder / "weights/b.bin").write_bytes(b"b" * 200_000)
    with registry_stub(folder) as running:
        yield running


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that end with the test."""
    running: list[Served] = []

    def begin(folder: Path | None, wait: bool = True, **settings: Any) -> Served:
        server = Served(folder, **settings)
        running.append(server)
        return server.wait_ready() if wait else server

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "model"
