"""A real Triton behind the server: right answers in every protocol, and a ramp from one to another, which then dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from modelramp_server.security import api_keys
from tests.server.conftest import Start
from tests.server.pair import CANDIDATE, real_pair
from tests.server.served import OWN, Reply, Served, eventually, exchange
from tests.server.triton import HOME, Triton

pytestmark = pytest.mark.skipif(not HOME.is_dir(), reason="there is no .venv-triton: make server-triton")

X = np.array([[0.5, 2.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0]], np.float32)
INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def tritons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Triton, Triton]]:
    """Version 3, which doubles, and version 4, which trebles."""
    both = (Triton(tmp_path_factory.mktemp("three"), 2), Triton(tmp_path_factory.mktemp("four"), 3))
    yield (both[0].wait_ready(), both[1].wait_ready())
    for triton in both:
        triton.kill()


@pytest.fixture(scope="module")
def server(tritons: tuple[Triton, Triton]) -> Iterator[Served]:
    running = Served(None, upstream=tritons[0].url, grpc_port=0).wait_ready()
    yield running
    running.stop()


def tensors(rows: Any, gate: str = "") -> list[dict[str, Any]]:
    """The inputs in JSON."""
    array = np.asarray(rows, np.float32)
    return [
        {"name": "x", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()},
        {"name": "gate", "datatype": "BYTES", "shape": [len(array), 1], "data": [gate] * len(array)},
    ]


def values(reply: Reply) -> dict[str, Any]:
    """The outputs by name."""
    assert reply.status == 200, reply.body
    return {output["name"]: output["data"] for output in reply.json["outputs"]}


def test_metadata_is_tritons(server: Served) -> None:
    document = server.call("GET", "/v2/models/digits").json
    assert document["versions"] == ["3"]
    assert document["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    assert [output["name"] for output in document["outputs"]] == ["y", "label", "told", "mates"]


@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient_over_http(server: Served, binary: bool) -> None:
    module = tritonclient.http
    x, gate = module.InferInput("x", [2, 4], "FP32"), module.InferInput("gate", [2, 1], "BYTES")
    x.set_data_from_numpy(X, binary_data=binary)
    gate.set_data_from_numpy(np.array([["ä"], ["b"]], object), binary_data=binary)
    wanted = [module.InferRequestedOutput(name, binary_data=binary) for name in ("y", "label", "told")]
    with module.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        answer = client.infer("digits", [x, gate], outputs=wanted)
    assert np.array_equal(answer.as_numpy("y"), X * 2)
    assert answer.as_numpy("label").tolist() == [[1], [0]]
    told = answer.as_numpy("told").ravel().tolist()
    assert [item if isinstance(item, str) else item.decode() for item in told] == ["ä", "b"]
    assert ("binary_data_size" in str(answer.get_output("y"))) == binary and answer.as_numpy("mates") is None


def test_tritonclient_over_grpc(server: Served) -> None:
    module = tritonclient.grpc
    x, gate = module.InferInput("x", [2, 4], "FP32"), module.InferInput("gate", [2, 1], "BYTES")
    x.set_data_from_numpy(X)
    gate.set_data_from_numpy(np.array([["a"], ["b"]], object))
    with module.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.is_server_ready()
        assert np.array_equal(client.infer("digits", [x, gate]).as_numpy("y"), X * 2)


def test_invocations(server: Served) -> None:
    body = {"inputs": {"x": X.tolist(), "gate": [["a"], ["b"]]}}
    predictions = server.call("POST", "/invocations", body).json["predictions"]
    assert predictions["y"] == (X * 2).tolist() and predictions["told"] == [["a"], ["b"]]


def test_errors_are_tritons_and_whose_they_are(server: Served) -> None:
    before = server.metric("modelramp_bad_window_sum")
    failed = server.infer(*tensors([[-1, 0, 0, 0]]))
    assert (failed.status, "x is below 0" in failed.json["error"]) == (500, True), failed.json
    assert server.metric("modelramp_bad_window_sum") == before + 1
    refused = server.infer(*tensors(np.zeros((9, 4))))
    assert (refused.status, "batch-size must be <= 8" in refused.json["error"]) == (400, True), refused.json
    unfit = server.infer(*tensors(np.zeros((1, 5))))
    assert (unfit.status, "does not fit the model's [-1, 4]" in unfit.json["error"]) == (400, True)


def test_metrics(server: Served) -> None:
    counted = [server.metric("modelramp_split_requests_total", side="stable", outcome="ok")]
    classes = [server.metric("modelramp_predictions_total", **{"class": "3"})]
    values(server.infer(*tensors([[0, 0, 0, 9]])))
    counted.append(server.metric("modelramp_split_requests_total", side="stable", outcome="ok"))
    classes.append(server.metric("modelramp_predictions_total", **{"class": "3"}))
    assert (counted[1] - counted[0], classes[1] - classes[0]) == (1, 1)
    assert server.metric("modelramp_model_info", runtime="upstream") == 1


def test_requests_wait_at_triton_which_batches_them(server: Served, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(server.infer, *tensors([[1, 0, 0, 0]], str(gate)))
        eventually(lambda: server.metric("modelramp_queue_depth") == 1)
        others = [pool.submit(server.infer, *tensors([[number, 0, 0, 0]])) for number in range(4)]
        eventually(lambda: server.metric("modelramp_queue_depth") == 5)
        gate.touch()
        answers = [values(other.result(30)) for other in others]
        assert values(first.result(30))["y"] == [2, 0, 0, 0]
    assert [answer["y"][0] for answer in answers] == [0, 2, 4, 6], "each its own"
    assert max(answer["mates"][0] for answer in answers) > 1


def test_keys_records_and_a_version_by_its_address(
    start: Start, tritons: tuple[Triton, Triton], tmp_path: Path
) -> None:
    key = api_keys.new_key()
    (tmp_path / "keys").write_text(api_keys.entry("alice", key) + "\n")
    address = f"{tritons[0].url}/v2/models/digits/versions/1"
    server = start(None, upstream=address, api_keys_file=tmp_path / "keys", audit_log=str(tmp_path / "audit"))
    assert server.infer(*tensors(X)).status == 401
    assert values(server.infer(*tensors(X), authorization=f"Bearer {key}"))["label"] == [1, 0]
    server.stop()
    line = json.loads((tmp_path / "audit").read_text())
    assert (line["caller"], line["version"], line["output"]["status"]) == ("alice", "3", 200)


@pytest.mark.usefixtures("patient")
def test_a_tenth_goes_to_the_other_triton(start: Start, tritons: tuple[Triton, Triton], tmp_path: Path) -> None:
    stable, candidate = real_pair(start, None, tmp_path, *({"upstream": each.url} for each in tritons[::-1]), weight=10)
    by_version: Counter[tuple[str, float]] = Counter()
    for _ in range(100):
        reply = stable.infer(*tensors([[1, 0, 0, 0]]))
        by_version[reply.headers["x-modelramp-version"], values(reply)["y"][0]] += 1
    assert by_version == {("3", 2.0): 90, ("4", 3.0): 10}
    for side, target, count in (("stable", OWN, 90), ("candidate", CANDIDATE, 10)):
        labels = {"side": side, "target": target, "salt": "s1"}
        assert stable.metric("modelramp_split_requests_total", outcome="ok", **labels) == count
        assert stable.metric("modelramp_predictions_total", **labels, **{"class": "0"}) == count
    assert candidate.metric("modelramp_requests_total") == 0, "the sender counts them"


def test_a_candidate_whose_triton_is_killed_costs_no_client_an_error(
    start: Start, tritons: tuple[Triton, Triton], tmp_path: Path
) -> None:
    stable, candidate = real_pair(start, None, tmp_path, *({"upstream": each.url} for each in tritons[::-1]), weight=50)
    stop, replies = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            replies.append(stable.infer(*tensors([[1, 0, 0, 0]])))

    def counted(outcome: str) -> float:
        return stable.metric("modelramp_split_requests_total", side="candidate", outcome=outcome)

    with ThreadPoolExecutor(2) as pool:
        try:
            asking = [pool.submit(ask) for _ in range(2)]
            eventually(lambda: counted("ok") > 5)
            tritons[1].kill()
            eventually(lambda: counted("bad") > 2)
            eventually(lambda: candidate.call("GET", "/v2/health/ready").status == 503)
            assert "can't be reached" in candidate.call("GET", "/v2/health/ready").json["error"]
            assert candidate.call("GET", "/v2/health/live").status == 200
            before = counted("ok")
            tritons[1].start()
            eventually(lambda: candidate.call("GET", "/v2/health/ready").status == 200)
            eventually(lambda: counted("ok") > before)
        finally:
            stop.set()
        for each in asking:
            each.result(30)
    assert {values(reply)["y"][0] for reply in replies} == {2.0, 3.0}
    nets = {reply.headers.get("x-modelramp-net") for reply in replies}
    assert "status" in nets and stable.metric("modelramp_bad_window_sum") == 0


def test_sigterm_loses_no_request_that_is_at_triton(tritons: tuple[Triton, Triton], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    flags = ["--name", "digits", "--upstream", tritons[0].url, "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "modelramp_server", "serve", *flags, "--drain-delay", "0.2"]
    process = subprocess.Popen(command, env={name: value for name, value in os.environ.items() if name != "MODEL_PATH"})
    gate = tmp_path / "gate"

    def ask(method: str, path: str, body: Any = None) -> Reply:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            return exchange(connection, method, path, body)
        finally:
            connection.close()

    def ready() -> int:
        try:
            return ask("GET", "/v2/health/ready").status
        except OSError:
            return 0

    try:
        eventually(lambda: ready() == 200)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, "POST", INFER, {"inputs": tensors([[5, 0, 0, 0]], str(gate))})
            eventually(lambda: b"modelramp_queue_depth{" in ask("GET", "/metrics").body and depth(ask) == 1.0)
            process.send_signal(signal.SIGTERM)
            eventually(lambda: ready() != 200)
            gate.touch()
            assert values(waiting.result(30))["y"][0] == 10.0
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def depth(ask: Any) -> float:
    """Requests that are at Triton."""
    lines = ask("GET", "/metrics").body.decode().splitlines()
    [line] = [line for line in lines if line.startswith("modelramp_queue_depth{")]
    return float(line.rsplit(" ", 1)[1])
