"""What the server tells of itself: its series, request ids, log lines, records of predictions, and spans."""

import gzip
import http.client
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from modelramp_server import serve
from modelramp_server.exchange import error_answer
from modelramp_server.observability import context, line_log, logs
from modelramp_server.observability.histogram import Histogram
from modelramp_server.observability.line_log import LineLog
from modelramp_server.observability.records import SAMPLE_BYTES
from modelramp_server.protocol.errors import NotReady, OutOfTime, QueueFull
from modelramp_server.protocol.tensors import Array
from tests.server import models
from tests.server.candidate_stub import Candidate
from tests.server.loopback import Loopback
from tests.server.pair import CANDIDATE, real_pair
from tests.server.served import OWN, Served, eventually, split
from tests.server.test_lifecycle import run

INFER = "/v2/models/digits/infer"
TWO = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}]}
IMAGE = {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RULES = Path("examples/recording-rules.yaml")


def test_the_histogram_is_prometheus_own() -> None:
    bounds = (0.001, 0.5, 1.0, 30.0)
    ours, theirs = prometheus_client.CollectorRegistry(), prometheus_client.CollectorRegistry()
    mine = Histogram("seconds", "Text", ("side",), bounds, ours)
    other = prometheus_client.Histogram("seconds", "Text", ("side",), buckets=bounds, registry=theirs)
    draw = random.Random(0)
    for side in ("a", "b"):
        observe = mine.labels(side)
        for value in [0.0, *bounds, 31.0, *(draw.expovariate(1) for _ in range(200))]:
            observe(value)
            other.labels(side).observe(value)
    assert mine.labels("a") is not mine.labels("a")
    mine.labels("a", thread="another")(1.0)
    other.labels("a").observe(1.0)
    assert prometheus_client.generate_latest(ours) == prometheus_client.generate_latest(theirs)


def test_requests_wait_are_batched_and_rejected_in_numbers(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model, payload_limit=1000)
    for _ in range(3):
        assert server.call("POST", INFER, TWO).status == 200
    assert server.call("POST", INFER, b"x" * 1001).status == 413
    assert server.metric("modelramp_queue_wait_seconds_count") == 3
    assert 0 < server.metric("modelramp_queue_wait_seconds_sum") < 30
    assert server.metric("modelramp_rejects_total", reason="too_large") == 1
    assert server.metric("modelramp_rejects_total") == 1
    assert server.metric("modelramp_build_info") == 1
    assert server.metric("process_resident_memory_bytes") > 1e6


@pytest.mark.parametrize(
    ("error", "reason"), [(QueueFull(1, 1), "queue_full"), (OutOfTime(1.0), "timeout"), (NotReady("x"), "not_ready")]
)
def test_an_answer_says_why_no_model_was_asked(error: Any, reason: str) -> None:
    assert error_answer(error).rejected == reason


def test_numbers_that_are_none_are_counted(start: Any, lookup_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = serve._load

    def broken(*arguments: Any) -> Any:
        model, runtime = load(*arguments)
        predict = runtime.predict

        def answers(inputs: Mapping[str, Array]) -> dict[str, Array]:
            y = predict(inputs)["y"]
            return {"y": np.where(inputs["x"] < 2, [np.float32(np.nan)], y)}

        runtime.predict = answers
        return model, runtime

    monkeypatch.setattr(serve, "_load", broken)
    server = start(lookup_model)
    tensor = {"name": "x", "datatype": "INT64"}
    assert server.metric("modelramp_nonfinite_rows_total") == 0, "what the warm-up tried does not count"
    assert server.infer({**tensor, "shape": [4], "data": [2, 0, 1, 3]}).status == 200
    assert server.infer({**tensor, "shape": [1], "data": [3]}).status == 200
    assert server.metric("modelramp_nonfinite_rows_total") == 2


def test_recording_rules_ask_for_series_that_exist(lookup_server: Served) -> None:
    text = lookup_server.call("GET", "/metrics").body.decode()
    known = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    document = yaml.safe_load(RULES.read_text())
    rules = [rule for group in document["spec"]["groups"] for rule in group["rules"]]
    names = [rule["record"] for rule in rules]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", name) for name in names)
    for quantile in ("p50", "p95", "p99"):
        assert f"model_version:modelramp_request_duration_seconds:{quantile}_5m" in names
    for rule in rules:
        asked = set(re.findall(r"modelramp_\w+", rule["expr"]))
        assert asked
        for series in asked:
            assert {series, re.sub(r"_(bucket|sum|count|total)$", "", series)} & known, series


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_promtool_takes_the_recording_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(RULES.read_text())["spec"]))
    subprocess.run(["promtool", "check", "rules", str(file)], check=True, capture_output=True)


def test_a_request_id_comes_back_and_none_is_made_up(lookup_server: Served) -> None:
    for body, status in ((TWO, 200), ({}, 400)):
        reply = lookup_server.call("POST", INFER, body, {"X-Request-ID": "abc-7"})
        assert (reply.status, reply.headers["x-request-id"]) == (status, "abc-7")
        assert "x-request-id" not in lookup_server.call("POST", INFER, body).headers


def test_a_request_id_goes_through_the_relay(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    stable, _ = real_pair(start, lookup_model, tmp_path, {}, {"audit_log": str(tmp_path / "audit")})
    connection = http.client.HTTPConnection("127.0.0.1", stable.port, timeout=10)
    connection.request("POST", INFER, json.dumps(TWO), {"X-Request-ID": "abc-7"})
    answer = connection.getresponse()
    assert answer.headers["x-modelramp-revision"] == CANDIDATE
    assert answer.headers.get_all("x-request-id") == ["abc-7"], "once"
    connection.close()
    made = stable.call("POST", INFER, TWO).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    eventually(lambda: (tmp_path / "audit").read_text().count("\n") == 2)
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [line["request_id"] for line in lines] == ["abc-7", made]
    assert {(line["version"], line["revision"]) for line in lines} == {("4", CANDIDATE)}


def test_the_audit_log_says_who_asked_what_and_was_told_what(start: Any, onnx_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "audit"
    server = start(onnx_model, audit_log=str(file))
    body = json.dumps({"inputs": [IMAGE]}).encode()
    reply = server.call("POST", INFER, body, {"x-modelramp-relayed": "cccccccc"})
    assert server.call("POST", INFER, b"{").status == 400
    large = json.dumps({"inputs": [{**IMAGE, "shape": [2000, 64], "data": [0.25] * 128_000}]}).encode()
    assert server.call("POST", INFER, large).status == 200
    eventually(lambda: file.exists() and file.read_text().count("\n") == 3)
    first, second, third = (json.loads(line) for line in file.read_text().splitlines())
    assert first["input"] == {"bytes": len(body), "sha256": sha256(body).hexdigest()}
    output = first["output"]
    assert (output["status"], output["bytes"]) == (200, len(reply.body))
    assert output["sha256"] == sha256(reply.body).hexdigest()
    assert output["class"] == str(reply.json["outputs"][0]["data"][0]) and 0 < output["confidence"] <= 1
    assert (first["model"], first["version"], first["revision"], first["path"]) == ("digits", "3", OWN, INFER)
    assert first["relayed_by"] == "cccccccc" and first["latency_ms"] > 0
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
    assert second["output"]["status"] == 400 and "class" not in second["output"] and "relayed_by" not in second
    assert third["input"]["sha256"] == sha256(large).hexdigest()


def test_payloads_are_sampled_without_credentials(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "payloads"
    server = start(lookup_model, payload_log=str(file), payload_share=1.0)
    server.call("POST", INFER, TWO, {"Authorization": "Bearer secret"})
    server.call("POST", INFER, b"\xff\xfe")
    server.call("POST", INFER, b"x" * (SAMPLE_BYTES + 1))
    eventually(lambda: file.read_text().count("\n") == 3)
    text = file.read_text()
    assert "secret" not in text
    first, second, third = (json.loads(line) for line in text.splitlines())
    assert json.loads(first["input"]["text"]) == TWO and json.loads(first["output"]["text"])["outputs"]
    assert second["input"] == {"bytes": 2, "base64": "//4="}
    assert third["input"]["cut_to"] == SAMPLE_BYTES == len(third["input"]["text"])
    quiet = tmp_path / "quiet"
    server = start(lookup_model, payload_log=str(quiet), payload_share=0.0)
    server.call("POST", INFER, TWO)
    server.stop()
    assert quiet.read_text() == ""


def test_what_waits_is_written_at_the_end(lookup_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "audit"
    server = Served(lookup_model, audit_log=str(file)).wait_ready()
    for _ in range(50):
        server.call("POST", INFER, TWO)
    server.stop()
    assert file.read_text().count("\n") == 50
    assert not server.service._front._logs[0]._thread.is_alive()


def test_records_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    log = LineLog("stdout", 10, lambda: None)
    log.write({"a": "ä\n"})
    log.close()
    assert capsys.readouterr().out == '{"a":"ä\\n"}\n'


def test_a_file_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_log, "FILE_BYTES", 100)
    log = LineLog(str(tmp_path / "log"), 1000, lambda: None)
    for number in range(100):
        log.write({"number": number})
    log.close()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["log", *(f"log.{number}" for number in range(1, line_log.FILES_KEPT + 1))]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert '{"number":99}' in (tmp_path / "log").read_text()


def test_a_disk_that_does_not_keep_up_loses_lines_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_log, "LAST_LINES", 0.01)
    lost: list[int] = []
    log = LineLog(str(tmp_path / "log"), 2, lambda: lost.append(1))
    log._handler.acquire()  # as a write that does not return
    log.write({})
    eventually(log._queue.empty)
    for _ in range(5):
        log.write({})
    log.close()
    assert len(lost) == 3
    log._handler.release()
    eventually(log._queue.empty)
    log.close()


@pytest.mark.parametrize("gone", [lambda path: path.rename(path.with_name("moved")), Path.unlink])
def test_a_file_that_was_moved_or_removed_is_made_anew(
    gone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_log, "LOOK_EVERY", 0.0)
    file, lost = tmp_path / "log", []
    log = LineLog(str(file), 10, lambda: lost.append(1))
    log.write({"number": 1})
    eventually(lambda: file.read_text() == '{"number":1}\n')
    gone(file)
    log.write({"number": 2})
    log.close()
    assert file.read_text() == '{"number":2}\n' and not lost


def test_the_log_says_once_that_lines_are_lost_and_once_that_they_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(line_log, "LOOK_EVERY", 0.0)
    caplog.set_level(logging.INFO)
    folder, lost = tmp_path / "volume", []
    folder.mkdir()
    log = LineLog(str(folder / "log"), 10, lambda: lost.append(1))
    folder.rename(tmp_path / "elsewhere")
    for number in range(1, 4):
        log.write({"number": number})
        eventually(lambda number=number: len(lost) == number)
    folder.mkdir()
    for number in range(4, 7):
        log.write({"number": number})
    eventually(lambda: len(caplog.records) == 2)
    log.close()
    assert [json.loads(line)["number"] for line in (folder / "log").read_text().splitlines()] == [4, 5, 6]
    first, second = caplog.records
    assert first.levelname == "WARNING" and "are lost from now on: [Errno 2] No such file" in first.getMessage()
    assert second.getMessage() == f"lines for {folder / 'log'} are written again"


def test_a_disk_that_is_full_is_counted() -> None:
    lost: list[int] = []
    log = LineLog("/dev/full", 10, lambda: lost.append(1))
    log.write({})
    log.close()
    assert lost


def test_the_access_log_is_asked_for(
    start: Any, lookup_model: Path, caplog: pytest.LogCaptureFixture, lookup_server: Served
) -> None:
    with caplog.at_level(logging.INFO):
        assert lookup_server.call("POST", INFER, TWO).status == 200
        assert [record for record in caplog.records if record.name == "modelramp_server.access"] == []
        server = start(lookup_model, access_log=True)
        server.call("POST", f"{INFER}?a=b", TWO)
        server.call("GET", "/nowhere")
        server.call("GET", "/metrics")
        eventually(lambda: len([r for r in caplog.records if r.name == "modelramp_server.access"]) == 2)
    first, second = (record for record in caplog.records if record.name == "modelramp_server.access")
    assert first.fields.pop("duration_ms") > 0  # type: ignore[attr-defined]
    assert first.fields == {"method": "POST", "path": INFER, "status": 200}  # type: ignore[attr-defined]
    assert second.getMessage().startswith("GET /nowhere 404 ")


def test_log_lines_name_the_request() -> None:
    def told(formatter: logging.Formatter, **ids: str) -> str:
        record = logging.LogRecord("a.b", logging.ERROR, "f", 1, "went %s", ("wrong",), None)
        record.fields = {"path": "/x"}
        tokens = [(getattr(context, name), getattr(context, name).set(value)) for name, value in ids.items()]
        try:
            return formatter.format(record)
        finally:
            for variable, token in tokens:
                variable.reset(token)

    plain = json.loads(told(logs.JsonFormatter()))
    assert plain.pop("time") and plain == {"level": "error", "logger": "a.b", "message": "went wrong", "path": "/x"}
    named = json.loads(told(logs.JsonFormatter(), REQUEST_ID="7", TRACE_ID="abc"))
    assert (named["request_id"], named["trace_id"]) == ("7", "abc")
    assert told(logs.TextFormatter()).endswith("ERROR a.b: went wrong")
    assert told(logs.TextFormatter(), REQUEST_ID="7").endswith("ERROR a.b: went wrong request_id=7")


def test_the_process_logs_json(tmp_path: Path) -> None:
    folder = models.write_mlmodel(tmp_path / "model", {"onnx": {"data": "model.onnx"}}, [], [])
    done = run("serve", "--model", str(folder), "--port", "0", LOG_FORMAT="json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert (lines[-1]["level"], lines[-1]["logger"]) == ("error", "modelramp_server")
    assert "model.onnx" in lines[-1]["message"]


def test_a_traceback_is_one_line_of_json() -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "x", (), (type(error), error, None))
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text and "boom" in json.loads(text)["exception"]


class Collector(Loopback):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                for told in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.resources.append({a.key: a.value.string_value for a in told.resource.attributes})
                    for scope in told.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

        super().__init__(Handler)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    running = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
    yield running
    running.stop()


def test_spans_go_from_the_client_through_stable_to_the_candidate(
    start: Any, lookup_model: Path, tmp_path: Path, collector: Collector
) -> None:
    stable, candidate = real_pair(start, lookup_model, tmp_path, {"tracing": True}, {"tracing": True})
    headers = {"traceparent": PARENT, "tracestate": "a=b"}
    reply = stable.call("POST", INFER, TWO, headers)
    assert reply.headers["x-modelramp-revision"] == CANDIDATE and reply.headers["x-request-id"]
    assert stable.call("POST", INFER, {}).status == 400
    for server in (stable, candidate):
        server.stop()
    client, root = PARENT.split("-")[1:3]
    traced = [span for span in collector.spans if span.trace_id.hex() == client]
    (outer,) = (span for span in traced if span.parent_span_id.hex() == root)
    (inner,) = (span for span in traced if span.parent_span_id == outer.span_id)
    assert len(traced) == 2 and outer.trace_state == inner.trace_state == "a=b"
    assert outer.name == inner.name == f"POST {INFER}"
    told = {each.key: each.value for each in outer.attributes}
    assert told["http.response.status_code"].int_value == 200
    assert told["modelramp.revision"].string_value == CANDIDATE and told["modelramp.model.version"].string_value == "4"
    assert {resource["modelramp.pod.revision"] for resource in collector.resources} == {OWN, CANDIDATE}
    assert {span.name for span in collector.spans} == {f"POST {INFER}"}, "probes and scrapes are not traced"
    assert len(collector.spans) == 4, "a request without a parent begins a trace of its own"


def test_the_context_passes_without_tracing(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    candidate = Candidate()
    try:
        file = tmp_path / "split"
        file.write_text("")
        server = start(lookup_model, candidate_url=candidate.url, traffic_file=file)
        file.write_text(split(2, 100))
        eventually(lambda: server.metric("modelramp_traffic_generation") == 2)
        server.call("POST", INFER, TWO, {"traceparent": PARENT, "tracestate": "a=b", "baggage": "c=d"})
        head = candidate.heads[0]
        assert f"traceparent: {PARENT}\r\n" in head and "tracestate: a=b\r\n" in head and "baggage: c=d\r\n" in head
    finally:
        candidate.stop()


def test_a_collector_that_is_away_holds_nothing_up(
    lookup_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # else its retries go on beside other tests
    monkeypatch.setattr("modelramp_server.observability.tracing.LAST_WORDS", 0.1)
    server = Served(lookup_model, tracing=True).wait_ready()
    assert server.call("POST", INFER, TWO).status == 200
    server.stop()


def test_nothing_rare_is_imported_by_default(lookup_model: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from modelramp_server.serve import Service\n"
        "from modelramp_server.settings import ServeSettings\n"
        f"Service(ServeSettings(model_path={str(lookup_model)!r}), Path({str(lookup_model)!r}))\n"
        "rare = ('jwt', 'cryptography', 'opentelemetry', 'modelramp_server.security', 'PIL', 'python_multipart',\n"
        "'modelramp_server.images.declared')\n"
        "print([name for name in sys.modules if name.startswith(rare)])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "[]"


def test_no_library_tells_its_makers_of_its_use(lookup_model: Path, tmp_path: Path) -> None:
    """What onnxruntime would tell Microsoft it lays up below the home directory first."""
    script = (
        "import numpy, modelramp_server as server\n"
        f"server.load_model({str(lookup_model)!r}).predict(numpy.ones(1, numpy.float32))\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled; print(is_telemetry_disabled())"
    )
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # both keep silent where tests run
    done = subprocess.run([sys.executable, "-c", script], env=plain, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert list(tmp_path.rglob("*")) == []
