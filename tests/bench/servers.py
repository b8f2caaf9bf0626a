"""The servers under load: one process each, on loopback, ended by its process id."""

import json
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.pyfunc import scoring_server
from prometheus_client.parser import text_string_to_metric_families

from .models import SavedModel

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
START, STOP = 180.0, 15.0  # seconds
STABLE, CANDIDATE = "aaaaaaaa", "bbbbbbbb"
_LOG_TAIL = 2000
_MLFLOW_TIMEOUT = 60  # seconds a request may take: the default of `mlflow models serve`


class BenchFailed(Exception):
    """There is nothing to measure; the message says which server, and what it said."""


@dataclass(frozen=True)
class Reply:
    """A 200: headers in lower case, JSON parsed."""

    headers: dict[str, str]
    json: Any


class Server:
    """A running process that answers POSTs."""

    def __init__(self, title: str, port: int, command: list[str], logs: Path, env: Mapping[str, str] | None = None):
        self.title = title
        self.address = f"http://{HOST}:{port}"
        self._log = logs / f"{port}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=logs, env=env, stdout=log, stderr=subprocess.STDOUT)

    def ask(self, path: str, body: str) -> Reply:
        """The first 200 to this request.

        Raises:
            BenchFailed: the process has ended, or there is none in `START` seconds.
        """
        deadline, said = time.monotonic() + START, "nothing"
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                return _post(self.address + path, body)
            except urllib.error.HTTPError as error:
                said = f"{error.code} {error.read(_LOG_TAIL).decode(errors='replace')}"
            except OSError as error:
                said = str(error)
            time.sleep(0.1)
        log = self._log.read_text(errors="replace")[-_LOG_TAIL:]
        raise BenchFailed(f"{self.title} does not answer {path}; last: {said}; its log ends:\n{log}")

    def relayed(self) -> dict[str, int]:
        """Requests dealt to the candidate, by outcome (docs/contract.md, "Metrics")."""
        with urllib.request.urlopen(self.address + "/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [s for f in families for s in f.samples if s.name == "modelramp_split_requests_total"]
        return {s.labels["outcome"]: int(s.value) for s in samples if s.labels["side"] == "candidate" and s.value}

    def stop(self) -> None:
        """End the process and wait."""
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP)


class Servers:
    """Starts servers that end with the stack."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder

    def modelramp(
        self, model: SavedModel, revision: str = CANDIDATE, program: str = "modelramp_server", **settings: str
    ) -> Server:
        """This repository's server, with its own defaults. `program`: the module that is run."""
        port = _free_port()
        values = {
            "model": str(model.folder), "name": "digits", "model-version": "1", "model-revision": revision,
            "host": HOST, "port": str(port), "drain-delay": "0",
            "traffic-file": str(self._folder / "no-split"), **settings,
        }  # fmt: skip
        flags = [f"--{name}={value}" for name, value in values.items()]
        return self._start("modelramp", port, [sys.executable, "-m", program, "serve", *flags])

    def mlflow(self, model: SavedModel) -> Server:
        """What `mlflow models serve --env-manager local` executes, with one worker as by default."""
        port = _free_port()
        command, environment = scoring_server.get_cmd(str(model.folder), port, HOST, _MLFLOW_TIMEOUT, 1)
        return self._start("MLflow", port, [sys.executable, "-m", *shlex.split(command)], environment)

    def ceiling(self) -> Server:
        """Bare uvicorn on the same event loop and HTTP parser as modelramp's."""
        port = _free_port()
        command = [sys.executable, "-m", "uvicorn", "tests.bench.ceiling:app", f"--app-dir={ROOT}"]
        flags = ["--loop=uvloop", "--http=httptools", "--lifespan=off", "--no-access-log", "--log-level=warning"]
        return self._start("ceiling", port, [*command, f"--host={HOST}", f"--port={port}", *flags])

    def relay(self, model: SavedModel, candidate: Server) -> "Relay":
        """A stable pod's server that can hand its requests to the candidate."""
        file = self._folder / "split"
        flags = {"candidate-url": candidate.address, "traffic-file": str(file)}
        return Relay(self.modelramp(model, STABLE, **flags), file)

    def _start(self, title: str, port: int, command: list[str], env: Mapping[str, str] | None = None) -> Server:
        server = Server(title, port, command, self._folder, env)
        self._stack.callback(server.stop)
        return server


@dataclass(frozen=True)
class Relay:
    """A stable server, and the file of its split."""

    server: Server
    file: Path

    def hand_all_over(self, path: str, body: str) -> None:
        """Weight 100; returns when the candidate answers. A split found at start would be taken for expired.

        Raises:
            BenchFailed: the candidate does not come to answer.
        """
        self.server.ask(path, body)
        split = {"v": 1, "generation": 1, "revision": CANDIDATE, "weight": 100, "salt": "bench", "ttl": 3600}
        written = self.file.with_suffix(".new")
        written.write_text(json.dumps(split))
        written.rename(self.file)
        deadline = time.monotonic() + START
        while self.server.ask(path, body).headers["x-modelramp-revision"] != CANDIDATE:
            if time.monotonic() > deadline:
                raise BenchFailed("the split file is in place, but stable hands nothing over")
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _post(url: str, body: str) -> Reply:
    request = urllib.request.Request(url, body.encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(headers, json.loads(answer.read()))
