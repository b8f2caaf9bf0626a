"""The process: settings, exit codes, the termination log, and a SIGTERM under load that loses nothing."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from modelramp_server import serve
from modelramp_server.protocol.tensors import Array
from tests.server import models
from tests.server.served import Reply, eventually, exchange
from tests.server.upstream_stub import UpstreamStub

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

    def __init__(self, folder: Path, command: Sequence[str] = COMMAND, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.grpc_port = int(environment.get("GRPC_PORT", 0))
        flags = ["serve", "--model", str(folder), "--name", "digits", "--host", "127.0.0.1", "--port", str(self.port)]
        self.popen = subprocess.Popen([*command, *flags], env={**os.environ, **environment})

    def ready(self) -> int:
        """The status of the readiness probe; 0 where nobody listens."""
        try:
            return self.get("/v2/health/ready").status
        except OSError:
            return 0

    def metric(self, name: str) -> float:
        """A series with one sample."""
        (line,) = [each for each in self.get("/metrics").body.decode().splitlines() if each.startswith(f"{name}{{")]
        return float(line.rsplit(" ", 1)[1])

    def get(self, path: str) -> Reply:
        """On a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            return exchange(connection, "GET", path, None)
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


SLEEPY = """
import sys, time
import modelramp_server.serve as s
from modelramp_server.cli import main
load = s._load
def slow(*arguments):
    model, runtime = load(*arguments)
    predict = runtime.predict
    def sleepy(inputs):
        if 7 in inputs["x"]:
            open(__file__.replace("sleepy.py", "asleep"), "w").close()
            time.sleep(3600)
        time.sleep(0.01)
        return predict(inputs)
    runtime.predict = sleepy
    runtime.only_computes = False
    return model, runtime
s._load = slow
main()
"""


@pytest.fixture
def sleepy(lookup_model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    """A model that takes 10 ms a row, and sleeps on a 7; REQUEST_TIMEOUT is the parameter."""
    script = tmp_path / "sleepy.py"
    script.write_text(SLEEPY)
    environment = {"DRAIN_DELAY": "0.2", "BATCH_SIZE": "1", "REQUEST_TIMEOUT": request.param, "WARMUP": "1"}
    running = Process(lookup_model, [sys.executable, str(script)], **environment)
    eventually(lambda: running.ready() == 200)
    yield running
    if running.popen.poll() is None:
        running.popen.kill()
    running.popen.wait(10)


@pytest.mark.parametrize("sleepy", ["30"], indirect=True)
async def test_sigterm_loses_none_of_those_that_wait_in_the_queue(sleepy: Process) -> None:
    async def ask(session: aiohttp.ClientSession, value: int) -> tuple[int, int]:
        async with session.post(f"http://127.0.0.1:{sleepy.port}{INFER}", json=two(value)) as answer:
            document = await answer.json()
            return answer.status, int(document["outputs"][0]["data"][0]) if answer.status == 200 else -1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        asked = [asyncio.create_task(ask(session, value % 5)) for value in range(100)]
        await asyncio.wait(asked[:5], return_when=asyncio.FIRST_COMPLETED)
        sleepy.popen.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked)
    assert answers == [(200, value % 5 * 10) for value in range(100)]
    assert await asyncio.to_thread(sleepy.popen.wait, 20) == 0


@pytest.mark.parametrize("sleepy", ["3"], indirect=True)
def test_a_forward_that_never_ends_does_not_outlive_the_grace_period(sleepy: Process, tmp_path: Path) -> None:
    answers: list[int] = []

    def ask(value: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", sleepy.port, timeout=20)
        answers.append(exchange(connection, "POST", INFER, two(value)).status)
        connection.close()

    clients = [threading.Thread(target=ask, args=(value,)) for value in (7, 1, 2)]
    clients[0].start()
    eventually((tmp_path / "asleep").exists)
    for client in clients[1:]:
        client.start()
    eventually(lambda: sleepy.metric("modelramp_queue_depth") == 2)
    sleepy.popen.send_signal(signal.SIGTERM)
    assert sleepy.popen.wait(20) == 0
    for client in clients:
        client.join(20)
    assert answers == [504, 504, 504], "each has been told"


@pytest.mark.parametrize(
    ("taken", "flags", "said"),
    [
        (
            "APP_PORT",
            ["--port={port}"],
            "APP_PORT ({port}) of APP_HOST (127.0.0.1) can't be had: Address already in use",
        ),
        ("GRPC_PORT", ["--port=0", "--grpc-port={port}"], "GRPC_PORT ({port}) of APP_HOST (127.0.0.1) can't be had: "),
        ("both", ["--port=9", "--grpc-port=9"], "APP_PORT and GRPC_PORT are both 9: each needs its own"),
        ("nowhere", ["--host=192.0.2.1"], "of APP_HOST (192.0.2.1) can't be had: Cannot assign requested address"),
        ("nobody", ["--host=no.such.invalid"], "of APP_HOST (no.such.invalid) can't be had: "),
    ],
)
def test_an_address_that_can_not_be_had_is_named(taken: str, flags: list[str], said: str) -> None:
    """Before a model is fetched for it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(
            "serve", "--model", "models:/none/1", "--host=127.0.0.1", *(flag.format(port=port) for flag in flags)
        )
    assert done.returncode == 2 and said.format(port=port) in done.stderr
    assert len(done.stderr.splitlines()) == 1


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
        runtime.only_computes = False
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


def test_what_is_in_flight_has_all_of_its_time(start) -> None:
    """Also where that is no whole number of seconds."""
    stub = UpstreamStub()
    try:
        server = start(None, upstream=stub.url, request_timeout=1.4)
        stub.infer = lambda *request: stub.let_go.wait(20) and None
        stub.asked.clear()
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [3.0, 4.0]}
        statuses: list[int] = []
        slow = threading.Thread(target=lambda: statuses.append(server.infer(tensor).status))
        slow.start()
        eventually(lambda: bool(stub.asked))
        server.service.server.should_exit = True
        slow.join(30)
        assert statuses == [504], "each has been told"
    finally:
        stub.stop()


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


def test_a_termination_log_that_cannot_be_written_hides_no_reason(tmp_path: Path) -> None:
    log = tmp_path / "nowhere" / "log"
    done = run("serve", "--model", str(tmp_path / "none"), TERMINATION_LOG=str(log))
    first, second = done.stderr.splitlines()
    assert done.returncode == 1 and "ArtifactDamaged: " in first and "is no folder" in first
    assert f"TERMINATION_LOG (--termination-log), {log}, can't be written: No such file or directory" in second


def test_a_wrong_setting_ends_the_process_with_a_sentence() -> None:
    done = run("serve", "--model", "m", BATCH_SIZE="0")
    assert done.returncode == 2
    assert "BATCH_SIZE (--batch-size) is '0'" in done.stderr and "Traceback" not in done.stderr


def test_help_lists_every_setting_with_its_variable() -> None:
    done = run("serve", "--help")
    for name in ("MODEL_PATH", "QUEUE_LIMIT", "TRAFFIC_FILE", "CANDIDATE_URL", "TERMINATION_LOG"):
        assert f"[{name}]" in done.stdout
