"""A real MLflow server on loopback, with a SQL store, and the requests that it has served."""

import base64
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 240.0
STOP_SECONDS = 60.0
MODELS = 1000
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # ten processes that a registry has no use for
SENDS_WEBHOOKS = {
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(bytes(32)).decode(),
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
}

FILL = """
import sys
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
store = SqlAlchemyStore(sys.argv[1])
for number in range(int(sys.argv[2])):
    name = f"model-{number:04d}"
    store.create_registered_model(name)
    if number < 200:
        store.create_model_version(name, f"s3://models/{number}", run_id=f"run-{number}")
        store.set_registered_model_alias(name, "prod", 1)
"""


@dataclass(frozen=True)
class MlflowServer:
    uri: str
    log: Path

    def served(self) -> int:
        """Requests to the registry's API so far, as the server's own access log has them."""
        return self.log.read_text().count("/api/2.0/mlflow/")


@contextmanager
def running(folder: Path, models: int, fill: str = FILL, **variables: str) -> Iterator[MlflowServer]:
    """With so many registered models, by default the first 200 of them with a version 1 named ``prod``."""
    database, port = f"sqlite:///{folder}/mlflow.db", free_port()
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore", **NO_JOBS, **variables}
    python = [sys.executable]
    subprocess.run([*python, "-c", fill, database, str(models)], env=environment, check=True, capture_output=True)
    server = MlflowServer(f"http://127.0.0.1:{port}", folder / "mlflow.log")
    flags = [f"--backend-store-uri={database}", f"--artifacts-destination={folder}/artifacts", "--workers=1"]
    with server.log.open("w") as log:
        command = [*python, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", *flags]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            await_health(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def await_health(server: MlflowServer, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{server.uri}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"MLflow did not start: {server.log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
