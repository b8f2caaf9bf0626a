"""`--upstream`: another server runs the model. Here it is a server of ours, or a stub where it has to fail."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server import cli
from modelramp_server.batching.jobs import LEFT
from modelramp_server.protocol.errors import ClientLeft, OutOfTime
from modelramp_server.relay.client import CandidateClient, CandidateFailed
from modelramp_server.relay.outcomes import Net
from modelramp_server.runtime.base import UnsupportedModel, WarmupFailed
from modelramp_server.settings import ServeSettings
from modelramp_server.upstream import watch
from modelramp_server.upstream.asking import Upstream
from tests.server import upstream_stub
from tests.server.conftest import Start
from tests.server.served import DEADLINE, Reply, Served, eventually
from tests.server.upstream_stub import METADATA, Behaviour, UpstreamStub, output, says

ECHOED: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "INT64": [-(2**63), 2**63 - 1],
    "UINT64": [0, 2**64 - 1],
    "FP16": [0.5, -2.0],
    "FP32": [0.1, 1e30],
    "FP64": [0.1, 1e300],
    "BYTES": ["a", "ä€"],
}
ROW = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [3.0, 4.0]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the time that a page may take: a busy machine may need it."""
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(watch, "_PATIENCE", DEADLINE)


@pytest.fixture
def stub() -> Iterator[UpstreamStub]:
    running = UpstreamStub()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def behind_echo(echo_server: Served) -> Iterator[Served]:
    server = Served(None, upstream=f"http://127.0.0.1:{echo_server.port}/", grpc_port=0).wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def behind_onnx(onnx_server: Served) -> Iterator[Served]:
    server = Served(None, upstream=f"http://127.0.0.1:{onnx_server.port}").wait_ready()
    yield server
    server.stop()


def echo_tensors() -> list[dict[str, Any]]:
    from tests.server.models import ECHOED as ALL

    return [{"name": kind.lower(), "datatype": kind, "shape": [2], "data": ECHOED.get(kind, [1, 2])} for kind in ALL]


def test_every_datatype_arrives_and_comes_back(behind_echo: Served, echo_server: Served) -> None:
    tensors = echo_tensors()
    behind, direct = behind_echo.infer(*tensors), echo_server.infer(*tensors)
    assert (behind.status, behind.body) == (200, direct.body)
    assert behind_echo.call("GET", "/v2/models/digits").json["inputs"] == direct_inputs(echo_server)


def direct_inputs(server: Served) -> Any:
    return server.call("GET", "/v2/models/digits").json["inputs"]


def test_tritonclient_in_binary_over_http_and_grpc(behind_echo: Served) -> None:
    import tritonclient.grpc
    import tritonclient.http

    for module, port in ((tritonclient.http, behind_echo.port), (tritonclient.grpc, behind_echo.grpc_port)):
        tensors = []
        for entry in echo_tensors():
            array = np.array(entry["data"], tritonclient.utils.triton_to_np_dtype(entry["datatype"]))
            tensor = module.InferInput(entry["name"], [2], entry["datatype"])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
            answer = client.infer("digits", tensors)
            assert answer.as_numpy("int64_out").tolist() == ECHOED["INT64"]
            assert [item.decode() for item in answer.as_numpy("bytes_out")] == ECHOED["BYTES"]
            assert client.is_server_ready() and client.is_model_ready("digits")


def test_invocations_metrics_and_headers(behind_onnx: Served, onnx_server: Served) -> None:
    body = {"inputs": [[0.0] * 64, [1.0] * 64]}
    behind, direct = behind_onnx.call("POST", "/invocations", body), onnx_server.call("POST", "/invocations", body)
    assert (behind.status, behind.body) == (200, direct.body)
    assert behind.headers["x-modelramp-version"] == "3" and "server-timing" in behind.headers
    assert behind_onnx.metric("modelramp_model_info", runtime="upstream") == 1
    assert behind_onnx.metric("modelramp_requests_total", route="invocations", code="200") == 1
    assert behind_onnx.metric("modelramp_split_requests_total", side="stable", outcome="ok") == 1
    assert behind_onnx.metric("modelramp_predictions_total", side="stable") == 1
    assert behind_onnx.metric("modelramp_queue_depth") == 0


def test_what_does_not_fit_the_upstreams_metadata_never_gets_there(behind_onnx: Served, onnx_server: Served) -> None:
    before = onnx_server.metric("modelramp_requests_total")
    reply = behind_onnx.infer({"name": "X", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]})
    assert reply.status == 400 and "does not fit the model's [-1, 64]" in reply.json["error"]
    assert onnx_server.metric("modelramp_requests_total") == before


def test_the_models_address_may_be_named_whole(start: Start, lookup_server: Served) -> None:
    whole = f"http://127.0.0.1:{lookup_server.port}/v2/models/digits/versions/3"
    server = start(None, upstream=whole, model_name="other", model_version="9")
    reply = server.call(
        "POST", "/v2/models/other/infer", {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}]}
    )
    assert reply.json["outputs"][0]["data"] == [20.0] and reply.json["model_version"] == "9"


def test_only_tensors_go_to_the_upstream_and_rows_that_are_not_finite_are_counted(
    start: Start, stub: UpstreamStub
) -> None:
    server = start(None, upstream=stub.url)
    stub.infer = says(output([[1.0, "NaN"]]))
    assert server.infer(ROW, authorization="Bearer secret", x_request_id="7").json["outputs"][0]["data"] == [1.0, "NaN"]
    headers, body = stub.asked[-1]
    assert "authorization" not in headers and "x-request-id" not in headers
    length = int(headers["inference-header-content-length"])
    assert json.loads(body[:length])["inputs"][0]["shape"] == [1, 2]
    assert np.frombuffer(body[length:], np.float32).tolist() == [3.0, 4.0]
    assert server.metric("modelramp_nonfinite_rows_total") == 1


ANSWER = output([[1.0, 2.0]])


@pytest.mark.filterwarnings("ignore:Sending a large body")
def test_a_body_of_a_megabyte(start: Start, stub: UpstreamStub) -> None:
    server = start(None, upstream=stub.url)
    rows = np.arange(300_000, dtype=np.float32).reshape(-1, 2)
    stub.infer = says(output(rows.tolist()))
    reply = server.infer({"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()})
    headers, body = stub.asked[-1]
    assert body[int(headers["inference-header-content-length"]) :] == rows.tobytes()
    assert reply.json["outputs"][0]["data"] == rows.ravel().tolist()


FAILURES: list[tuple[str, Behaviour, int, str]] = [
    ("its model failed", says(b'{"error": "boom"}', 500), 500, "the model failed on this input: boom"),
    ("it refuses", says(b'{"error": "batch-size must be <= 8"}', 400), 400, "refused the request: batch-size must be"),
    ("it is full", says(b'{"error": "queue"}', 503), 503, "takes no request now: queue"),
    ("it has no such model", says(b"", 404), 502, "answered 404: status 404"),
    ("it limits", says(b"", 429), 502, "answered 429"),
    ("it sends elsewhere", says(b"", 302, location="/x"), 502, "answered 302"),
    ("a proxy before it fails", says(b"<html>", 504), 502, "answered 504"),
    ("it truncates", says(b'{"outputs":', length=500), 502, "broke its answer off"),
    ("it resets", upstream_stub.resets, 502, "broke its answer off"),
    ("it is no HTTP", upstream_stub.sends(b"hello\r\n\r\n"), 502, "broke its answer off"),
    ("it is too large", says(b"x" * 3000), 502, "too large"),
    ("it sends half JSON", says(b'{"outputs": ['), 502, "not what it declares: unexpected end"),
    ("it has no outputs", says(b"{}"), 502, "not what it declares: no 'outputs'"),
    ("it is a list", says(b"[]"), 502, "not what it declares"),
    ("another output", says(output([[1.0, 2.0]], name="z")), 502, "no 'y'"),
    ("another datatype", says(output([[1.0, 2.0]], datatype="FP64")), 502, "output y is FP64 [1, 2], not FP32 [-1, 2]"),
    ("an unknown datatype", says(output([[1.0, 2.0]], datatype="BF16")), 502, "not what it declares"),
    ("another shape", says(output([[1.0, 2.0, 3.0]])), 502, "output y is FP32 [1, 3], not FP32 [-1, 2]"),
    ("too few values", says(output([[1.0, 2.0]], shape=[2, 2])), 502, "shape [2, 2] needs 4 values, data has 2"),
    ("words for numbers", says(output([["a", "b"]])), 502, "not what it declares"),
    ("a number too large", says(output([[300, 1]], datatype="UINT8")), 502, "y: data has values outside 0 to 255"),
    ("a number beyond 64 bits", says(output([[2**63, 1]], datatype="INT64")), 502, "y: data has values that are no"),
    ("halves for integers", says(output([[1.5, 2]], datatype="INT64")), 502, "y: data has values that are no INT64"),
    ("a length that is none", says(output([[1.0, 2.0]]), Inference_Header_Content_Length="x"), 502, "not what it"),
    ("bytes of no output", says(ANSWER + b"12", Inference_Header_Content_Length=str(len(ANSWER))), 502,
     "2 bytes belong to no output"),
]  # fmt: skip


@pytest.fixture(scope="module")
def module_stub() -> Iterator[UpstreamStub]:
    running = UpstreamStub()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def behind_stub(module_stub: UpstreamStub) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelramp_server.serve.ANSWER_LIMIT", 2000)
        server = Served(None, upstream=module_stub.url, payload_limit=2000).wait_ready()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("infer", "status", "part"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
def test_whatever_the_upstream_does_the_client_is_told(
    behind_stub: Served, module_stub: UpstreamStub, infer: Behaviour, status: int, part: str
) -> None:
    def counted(outcome: str) -> float:
        return behind_stub.metric("modelramp_split_requests_total", side="stable", outcome=outcome)

    outcomes = "bad", "refused", "neutral"
    before = [counted(outcome) for outcome in outcomes]
    module_stub.infer = infer
    reply = behind_stub.infer(ROW)
    assert (reply.status, part in reply.json["error"]) == (status, True), reply.json
    wanted = "refused" if status == 503 else "bad" if status >= 500 else "neutral"
    after = [counted(outcome) for outcome in outcomes]
    assert [a - b for a, b in zip(after, before, strict=True)] == [outcome == wanted for outcome in outcomes]
    assert ("retry-after" in reply.headers) == (status == 503)
    module_stub.infer = says(output([[5.0, 6.0]]))
    assert behind_stub.infer(ROW).json["outputs"][0]["data"] == [5.0, 6.0]


async def hangs(*_: object) -> None:
    """In the place of CandidateClient.ask: the upstream has been silent for all the time it had, which is not waited
    for here."""
    raise CandidateFailed(Net.SLOW)


def looked_at(stub: UpstreamStub) -> None:
    """Until the watch has looked anew, and done what follows from it."""
    looks = stub.looks
    eventually(lambda: stub.looks > looks + 2)


def test_an_upstream_that_hangs_costs_the_budget(start: Start, stub: UpstreamStub) -> None:
    server = start(None, upstream=stub.url)
    stub.infer = lambda handler, body: stub.let_go.wait(20) and None
    reply = server.infer(ROW, x_request_timeout="0.05")
    assert reply.status == 504 and "budget of 0.05 s" in reply.json["error"]


def test_an_upstream_that_hangs_costs_readiness(
    start: Start, stub: UpstreamStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(None, upstream=stub.url, request_timeout=30)
    with monkeypatch.context() as patch:
        patch.setattr(CandidateClient, "ask", hangs)
        assert [server.infer(ROW, x_request_timeout="0.05").status for _ in range(3)] == [504] * 3
        looked_at(stub)
        assert ready(server).status == 200, "a client's own impatience says nothing of the upstream"
        assert [server.infer(ROW).status for _ in range(3)] == [504] * 3
        eventually(lambda: ready(server).status == 503)
        eventually(lambda: "did not answer a request of the warm-up within 30 s" in ready(server).json["error"])
        assert server.call("GET", "/v2/health/live").status == 200
        assert server.metric("modelramp_rejects_total", reason="timeout") == 6
    eventually(lambda: ready(server).status == 200)


def test_requests_that_ran_out_of_time_with_others_between_cost_no_readiness(
    start: Start, stub: UpstreamStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(None, upstream=stub.url)
    warm = len(stub.asked)
    for answered in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(CandidateClient, "ask", hangs)
            assert [server.infer(ROW).status for _ in range(2)] == [504] * 2
            looked_at(stub)
            assert ready(server).status == 200
        assert (server.infer(ROW).status, len(stub.asked)) == (200, warm + answered + 1), "no second warm-up"


async def test_a_request_whose_upload_took_its_time_says_nothing_of_the_upstream(
    stub: UpstreamStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CandidateClient, "ask", hangs)
    upstream = Upstream(stub.url, CandidateClient(stub.url, ""), 1, 1.0, lambda rows: None)
    silent = []
    for left in (0.49, 0.5):
        with pytest.raises(OutOfTime):
            await upstream.ask({"x": np.zeros((1, 2), np.float32)}, left, budget=1.0)
        silent.append(upstream.silent)
    assert silent == [0, 1]


async def test_nothing_is_asked_for_a_client_that_has_left(stub: UpstreamStub) -> None:
    upstream = Upstream(stub.url, CandidateClient(stub.url, ""), 1, 1.0, lambda rows: None)
    with pytest.raises(ClientLeft):
        await upstream.answer({}, 1, float("inf"), 1.0, b"", {LEFT: True})
    assert stub.asked == [] and upstream.depth() == 0


def test_many_requests_are_there_at_once_and_no_more_than_that(start: Start, stub: UpstreamStub) -> None:
    server = start(None, upstream=stub.url, queue_limit=4, warmup=1)
    together = threading.Barrier(5, timeout=20)

    def infer(handler: Any, body: bytes) -> None:
        together.wait()
        stub.let_go.wait(20)
        says(output([[1.0, 2.0]]))(handler, body)

    stub.infer = infer
    with ThreadPoolExecutor(4) as pool:
        replies = [pool.submit(server.infer, ROW) for _ in range(4)]
        together.wait()
        assert server.metric("modelramp_queue_depth") == 4
        full = server.infer(ROW)
        assert full.status == 503 and "QUEUE_LIMIT" in full.json["error"] and "retry-after" in full.headers
        stub.let_go.set()
        assert [reply.result(20).status for reply in replies] == [200] * 4
    assert server.metric("modelramp_queue_depth") == 0


def ready(server: Served) -> Reply:
    return server.call("GET", "/v2/health/ready")


def test_it_waits_for_its_upstream_says_why_and_lives(start: Start, stub: UpstreamStub) -> None:
    stub.ready = (400, b'{"error": "Model version not ready"}')
    server = start(None, wait=False, upstream=stub.url)
    eventually(lambda: "not ready: " in ready(server).json["error"])
    assert ready(server).json["error"].endswith("/v2/models/digits/ready: Model version not ready")
    assert server.infer(ROW).status == 503, "nothing is known of the model yet"
    stub.ready = (200, b"")
    for metadata, part in (
        ((500, b""), "status 500"),
        ((200, b"<html>"), "is no metadata of a V2 model: body: Invalid JSON"),
        ((200, b'{"inputs": []}'), "inputs: List should have at least 1 item"),
        ((200, json.dumps({**METADATA, "outputs": [{"name": "y"}]}).encode()), "outputs.0.datatype: Field required"),
    ):
        stub.metadata = metadata
        eventually(lambda part=part: part in ready(server).json["error"])
    info = server.call("GET", "/info").json
    assert info["state"] == "waiting" and "Field required" in info["reason"]
    index = server.call("POST", "/v2/repository/index").json
    assert index[0]["state"] == "UNAVAILABLE" and "Field required" in index[0]["reason"]
    assert [server.call("GET", path).status for path in ("/v2/health/live", "/healthz")] == [200, 200]
    stub.metadata = (200, json.dumps(METADATA).encode())
    eventually(lambda: ready(server).status == 200)
    assert server.call("GET", "/info").json["state"] == "ready"
    assert server.call("POST", "/v2/repository/index").json[0]["state"] == "READY"


def test_one_that_has_gone_costs_502_and_readiness(start: Start, stub: UpstreamStub) -> None:
    server = start(None, upstream=stub.url)
    stub.infer = upstream_stub.resets
    stub.stop()
    reply = server.infer(ROW)
    assert reply.status == 502 and "can't be reached" in reply.json["error"]
    assert server.metric("modelramp_rejects_total", reason="upstream") == 1
    assert server.metric("modelramp_bad_window_sum") == 1
    eventually(lambda: "the upstream can't be reached" in ready(server).json.get("error", ""))
    assert server.call("GET", "/v2/health/live").status == 200
    assert server.error is None


def test_what_was_ready_once_is_waited_for_whatever_it_says(start: Start, stub: UpstreamStub) -> None:
    server = start(None, upstream=stub.url)
    stub.ready, stub.infer = (503, b""), says(b'{"error": "boom"}', 500)
    eventually(lambda: ready(server).status == 503)
    stub.ready = (200, b"")
    eventually(lambda: "failed on every input" in ready(server).json["error"])
    stub.infer = says(output([[1.0, 2.0]]))
    eventually(lambda: ready(server).status == 200)


def test_a_page_that_hangs_is_not_waited_for(start: Start, stub: UpstreamStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_PATIENCE", 0.1)
    server = start(None, upstream=stub.url)
    answer = stub.ready
    stub.hang_pages = True
    eventually(lambda: "did not answer within 0.1 s" in ready(server).json.get("error", ""))
    stub.hang_pages, stub.ready = False, answer
    stub.let_go.set()
    eventually(lambda: ready(server).status == 200)


def test_a_model_that_fails_its_warm_up_ends_the_server(stub: UpstreamStub) -> None:
    stub.infer = says(b'{"error": "no weights"}', 500)
    server = Served(None, upstream=stub.url)
    server.join()
    assert isinstance(server.error, WarmupFailed) and "no weights" in str(server.error)
    assert len(stub.asked) == 4


def test_a_datatype_that_is_not_served_ends_it_too(stub: UpstreamStub) -> None:
    tensors = [{"name": "x", "datatype": "BF16", "shape": [1]}]
    stub.metadata = (200, json.dumps({**METADATA, "inputs": tensors}).encode())
    server = Served(None, upstream=stub.url)
    server.join()
    assert isinstance(server.error, UnsupportedModel) and "x is BF16" in str(server.error)


@pytest.mark.parametrize(
    ("example", "first"),
    [({"inputs": [[7.0, 8.0]]}, [7.0, 8.0]), ({"inputs": [["seven"]]}, [0.0, 0.0]), (None, [0.0, 0.0])],
)
def test_the_logged_example_is_asked_before_anything_else(
    start: Start, stub: UpstreamStub, tmp_path: Path, example: Any, first: list[float]
) -> None:
    if example is not None:
        (tmp_path / "serving_input_example.json").write_text(json.dumps(example))
    server = start(tmp_path, upstream=stub.url, warmup=2)
    headers, body = stub.asked[0]
    assert np.frombuffer(body[int(headers["inference-header-content-length"]) :], np.float32).tolist() == first
    assert len(stub.asked) == 2
    offered = server.call("GET", "/v2/models/digits/example")
    assert offered.json == example if example is not None else offered.status == 404


def test_settings(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("MODEL_PATH", raising=False)
    settings = ServeSettings(upstream="http://127.0.0.1:8000/", model_name="m")  # type: ignore[call-arg]
    assert (settings.model_path, settings.upstream) == ("", "http://127.0.0.1:8000")
    for flags, part in (
        (["--upstream", "http://x:1"], "UPSTREAM (--upstream) is set without MODEL_NAME"),
        (["--upstream", "x:1", "--name", "m"], "UPSTREAM (--upstream) is 'x:1': it must be http://host:port"),
        (["--upstream", "http:///x", "--name", "m"], "it must be http://host:port"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["serve", *flags])
        assert ended.value.code == 2 and part in capsys.readouterr().err
    assert watch.model_url("http://h:1", "a b") == "http://h:1/v2/models/a%20b"
    assert watch.model_url("http://h:1/v2/models/x/versions/2", "m") == "http://h:1/v2/models/x/versions/2"
