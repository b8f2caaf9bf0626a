"""The process: settings, exit codes, the termination log, and a SIGTERM under load that loses nothing."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from modelramp_server import serve
from modelramp_server.protocol.tensors import Array
from tests.server import models
from tests.server.served import eventually, exchange

INFER = "/v2/models/digits/infer"
COMMAND = [sys.executable, "-m", "modelramp_server"]


def two(value: int = 2) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [value]}]}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


class Process:
    """`modelramp-server serve` as a process of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.grpc_port = int(environment.get("GRPC_PORT", 0))
        flags = ["serve", "--model", str(folder), "--name", "digits", "--host", "127.0.0.1", "--port", str(self.port)]
        self.popen = subprocess.Popen([*COMMAND, *flags], env={**os.environ, **environment})

    def ready(self) -> int:
        """The status of the readiness probe; 0 where nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            return exchange(connection, "GET", "/v2/health/ready", None).status
        except OSError:
            return 0
        finally:
            connection.close()


@pytest.fixture
def process(lookup_model: Path) -> Iterator[Process]:
    running = Process(lookup_model, DRAIN_DELAY="1")
    eventually(lambda: running.ready() == 200)
    yield running
    if running.popen.poll() is None:
        running.popen.kill()
    running.popen.wait(10)


def test_sigterm_under_load_loses_nothing(process: Process) -> None:
    answers: list[int] = []
    failures: list[Exception] = []
    pause = threading.Event()

    def client() -> None:
        while process.popen.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
            try:
                keep = True
                while keep:
                    reply = exchange(connection, "POST", INFER, two())
                    answers.append(reply.status)
                    keep = reply.headers.get("connection") != "close"
                    pause.wait(0.005)  # an idle moment, in which a careless server would cut the connection
            except Exception as error:
                failures.append(error)
                return
            finally:
                connection.close()
            if process.ready() != 200:
                return  # as kube-proxy does: no new connections to a pod that isn't ready

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    eventually(lambda: len(answers) > 100)
    signalled = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    eventually(lambda: process.ready() == 503)
    late = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
    assert exchange(late, "POST", INFER, two()).status == 200, "the lame duck still answers new connections"
    late.close()
    for thread in clients:
        thread.join(30)
    assert process.popen.wait(20) == 0
    assert time.monotonic() - signalled >= 1, "it goes on accepting for DRAIN_DELAY"
    assert not failures and set(answers) == {200}


def test_what_is_in_flight_is_finished(start, lookup_model, monkeypatch) -> None:
    go_on, begun = threading.Event(), threading.Event()
    load = serve._load

    def gated(*arguments: Any) -> Any:
        model, runtime = load(*arguments)
        predict = runtime.predict

        def waits(inputs: Mapping[str, Array]) -> dict[str, Array]:
            if inputs["x"][0] == 7:
                begun.set()
                go_on.wait(30)
            return predict(inputs)

        runtime.predict = waits
        return model, runtime

    monkeypatch.setattr(serve, "_load", gated)
    server = start(lookup_model)
    statuses: list[int] = []
    slow = threading.Thread(target=lambda: statuses.append(server.call("POST", INFER, two(7)).status))
    slow.start()
    assert begun.wait(30)
    loop = server.service.server.servers[0].get_loop()
    loop.call_soon_threadsafe(server.service.server.handle_exit, signal.SIGTERM, None)
    eventually(lambda: server.service.server.should_exit)
    go_on.set()
    slow.join(30)
    assert statuses == [200]


def test_a_model_stuck_in_its_warm_up_does_not_hold_the_process(lookup_model, tmp_path) -> None:
    stuck = "import threading, modelramp_server.serve as s; s._load = lambda *a: threading.Event().wait()\n"
    script = tmp_path / "stuck.py"
    script.write_text(stuck + "from modelramp_server.cli import main; main()\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = ["serve", "--model", str(lookup_model), "--host", "127.0.0.1", "--port", port, "--drain-delay", "0"]
    running = subprocess.Popen([sys.executable, str(script), *flags])
    try:

        def live() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
            try:
                return exchange(connection, "GET", "/v2/health/live", None).status == 200
            except OSError:
                return False
            finally:
                connection.close()

        eventually(live)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    finally:
        running.kill()
        running.wait(10)


def test_a_model_that_cannot_be_loaded_is_told_to_the_kubelet(tmp_path: Path) -> None:
    folder = models.write_mlmodel(tmp_path / "model", {"onnx": {"data": "model.onnx"}}, [], [])
    (folder / "model.onnx").write_bytes(b"no graph")
    log = tmp_path / "termination-log"
    done = run("serve", "--model", str(folder), "--port", "0", TERMINATION_LOG=str(log))
    told = json.loads(log.read_text())
    assert done.returncode == 1 and set(told) == {"reason", "message"}
    assert told["reason"] == "LoadFailed" and "model.onnx" in told["message"]
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_ends_the_process_with_a_sentence() -> None:
    done = run("serve", "--model", "m", BATCH_SIZE="0")
    assert done.returncode == 2
    assert "BATCH_SIZE (--batch-size) is '0'" in done.stderr and "Traceback" not in done.stderr


def test_help_lists_every_setting_with_its_variable() -> None:
    done = run("serve", "--help")
    for name in ("MODEL_PATH", "QUEUE_LIMIT", "TRAFFIC_FILE", "CANDIDATE_URL", "TERMINATION_LOG"):
        assert f"[{name}]" in done.stdout
