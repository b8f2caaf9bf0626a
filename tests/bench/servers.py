"""The servers under load, on loopback. One that is not is held still, so that it takes no CPU from the others."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from . import processes
from .bodies import Post

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
MODEL = "bench"
START, STOP = 180.0, 15.0  # seconds
CANDIDATE = "bbbbbbbb"
_POLL = 0.01
_LOADING, _REFUSED, _FINAL = 20.0, 0.0, (404, 405, 415, 422)  # seconds of patience with one that answers so
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
    """A process, and those that it starts, which answer HTTP."""

    def __init__(
        self, title: str, port: int, command: list[str], logs: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.title = title
        self.port = port
        self.address = f"http://{HOST}:{port}"
        self.started = time.monotonic()
        self._log = logs / f"{port}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=logs, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def ask(self, post: Post) -> Reply:
        """The first 200 to this request.

        Raises:
            BenchFailed: the process has ended, or there is none in `START` seconds.
        """
        return self._until_ok(urllib.request.Request(self.address + post.path, post.body, post.headers))

    def get(self, path: str) -> Reply:
        """The first 200 of this page.

        Raises:
            BenchFailed: as `ask`.
        """
        return self._until_ok(urllib.request.Request(self.address + path))

    def metric(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of a series that have these labels, by all their labels."""
        with urllib.request.urlopen(self.address + "/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [s for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
        return {tuple(sorted(s.labels.items())): s.value for s in samples}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Not held still, for as long as the context."""
        processes.send(self._process.pid, signal.SIGCONT)
        yield
        self.hold()

    def hold(self) -> None:
        """Hold it still."""
        processes.send(self._process.pid, signal.SIGSTOP)

    def memory_mib(self) -> float:
        """Of all its processes."""
        return processes.memory_mib(self._process.pid)

    def stop(self) -> None:
        """End all its processes and wait."""
        processes.send(self._process.pid, signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP)
        processes.send(self._process.pid, signal.SIGKILL)

    def _until_ok(self, request: urllib.request.Request) -> Reply:
        deadline, said = time.monotonic() + START, "nothing"
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                return _reply(request)
            except urllib.error.HTTPError as error:
                said = f"{error.code} {error.read(_LOG_TAIL).decode(errors='replace')}"
                deadline = min(deadline, time.monotonic() + (_REFUSED if error.code in _FINAL else _LOADING))
            except OSError as error:
                said = str(error)
            time.sleep(_POLL)
        log = self._log.read_text(errors="replace")[-_LOG_TAIL:]
        raise BenchFailed(f"{self.title} does not answer {request.selector}; last: {said}; its log ends:\n{log}")


class Servers:
    """Starts servers that end with the stack."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self.folder = folder

    def modelramp(
        self,
        model: Path,
        revision: str = CANDIDATE,
        program: str = "modelramp_server",
        python: str = sys.executable,
        **settings: str,
    ) -> Server:
        """This repository's server, with its own defaults. `program`: the module that is run."""
        port = free_port()
        values = {
            "model": str(model), "name": MODEL, "model-version": "1", "model-revision": revision,
            "host": HOST, "port": str(port), "drain-delay": "0",
            "traffic-file": str(self.folder / "no-split"), **settings,
        }  # fmt: skip
        flags = [f"--{name}={value}" for name, value in values.items()]
        return self.own("modelramp", port, program, "serve", *flags, python=python)

    def mlflow(self, model: Path, python: str) -> Server:
        """What `mlflow models serve --env-manager local` executes, with one worker as by default."""
        from mlflow.pyfunc import scoring_server

        port = free_port()
        command, environment = scoring_server.get_cmd(str(model), port, HOST, _MLFLOW_TIMEOUT, 1)
        return self.start("MLflow", port, [python, "-m", *shlex.split(command)], environment)

    def ceiling(self) -> Server:
        """Bare uvicorn on the same event loop and HTTP parser as modelramp's."""
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "tests.bench.ceiling:app", f"--app-dir={ROOT}"]
        flags = ["--loop=uvloop", "--http=httptools", "--lifespan=off", "--no-access-log", "--log-level=warning"]
        return self.start("raw ASGI", port, [*command, f"--host={HOST}", f"--port={port}", *flags])

    def own(self, title: str, port: int, program: str, *arguments: str, python: str = sys.executable) -> Server:
        """A module of this repository, run."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return self.start(title, port, [python, "-m", program, *arguments], environment)

    def start(self, title: str, port: int, command: list[str], env: Mapping[str, str] | None = None) -> Server:
        """Any server."""
        server = Server(title, port, command, self.folder, env)
        self._stack.callback(server.stop)
        return server


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _reply(request: urllib.request.Request) -> Reply:
    with urllib.request.urlopen(request, timeout=30) as answer:
        headers = {name.lower(): value for name, value in answer.getheaders()}
        text = answer.read()
        return Reply(headers, json.loads(text) if text else None)
