"""The demo's story comes true, as `make demo` tells it; what it leaves can be understood with kubectl alone."""

import io
import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from rich.console import Console

from examples.digits import demo
from examples.digits import stage as stages
from examples.digits.data import split
from examples.digits.names import INPUT, MODEL, NAMESPACE, OBJECT, OUTPUT
from examples.digits.stage import Stage

pytestmark = pytest.mark.steady
RATE = 280.0


@pytest.fixture(scope="module")
def told(stage: Stage) -> dict[str, Any]:
    """The story's result; what was printed is shown when a test fails."""
    printed = io.StringIO()
    demo.tell(Console(file=printed, width=160), stage, RATE)
    print(printed.getvalue())
    result: dict[str, Any] = json.loads(demo.RESULT.read_text())
    return result


def kubectl(*arguments: str) -> str:
    return stages.cluster("kubectl", "-n", NAMESPACE, *arguments)


def test_the_story_holds_without_one_failed_request(told: dict[str, Any]) -> None:
    broken = [check["claim"] for check in told["checks"] if not check["held"]]
    assert not broken
    assert told["held"]
    assert told["failed"] == 0
    assert told["answers"] > 20_000


def test_the_shares_are_the_weights(told: dict[str, Any]) -> None:
    assert [share["weight"] for share in told["shares"]] == [10, 50]
    for share in told["shares"]:
        assert share["answers"] >= 5_000
        assert abs(share["percent"] - share["weight"]) <= 0.5


def test_the_bad_version_was_caught_by_its_errors_and_the_better_one_is_better(told: dict[str, Any]) -> None:
    assert told["harm"]["bad"] > 0
    assert told["harm"]["bad"] <= told["caught"]
    assert told["harm"]["seconds"] < 60
    assert told["accuracy"]["2"] > told["accuracy"]["1"] + 0.05


def test_the_report_needs_nothing_else(told: dict[str, Any]) -> None:
    page = Path(demo.REPORT).read_text()
    assert "<svg" in page
    assert "<script" not in page
    assert "src=" not in page


def test_kubectl_get_tells_where_it_stands_and_why(told: dict[str, Any]) -> None:
    header, row = kubectl("get", "mdep", OBJECT).splitlines()
    assert header.split() == ["NAME", "READY", "STABLE", "CANDIDATE", "WEIGHT", "PHASE", "REASON", "AGE"]
    assert row.split()[:3] == [OBJECT, "True", "2"]
    assert "Stable" in row
    assert "Rejected" in row


def test_describe_and_events_tell_the_story_in_order(told: dict[str, Any]) -> None:
    described = kubectl("describe", "mdep", OBJECT)
    for words in ("ProgressDeadlineExceeded", "AnalysisFailed", "Degraded", "CandidateStarted"):
        assert words in described
    listed = json.loads(kubectl("get", "events", f"--field-selector=involvedObject.name={OBJECT}", "-o", "json"))
    events = sorted(listed["items"], key=lambda item: item.get("eventTime") or item.get("lastTimestamp") or "")
    reasons = [event["reason"] for event in events]
    expected = ["CandidateStarted", "Promoted", "CandidateReady", "WeightSet", "StepDone", "Promoting", "Aborting"]
    places = [reasons.index(reason) for reason in expected]
    assert places == sorted(places), reasons
    assert reasons.count("Rejected") == 2
    caught = next(event["message"] for event in events if event["reason"] == "Aborting")
    assert "failed" in caught
    assert "worse with confidence" in caught


def test_tritons_client_gets_right_answers(told: dict[str, Any], stage: Stage) -> None:
    _, held_out = split()
    images = held_out.images[:20]
    client = triton.InferenceServerClient(stage.service().removeprefix("http://"))
    tensor = triton.InferInput(INPUT, list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=False)
    answer = client.infer(MODEL, [tensor], outputs=[triton.InferRequestedOutput(OUTPUT, binary_data=False)])
    assert np.mean(answer.as_numpy(OUTPUT) == held_out.labels[:20]) >= 0.9
    client.close()


def test_mlflows_json_gets_right_answers(told: dict[str, Any], stage: Stage) -> None:
    _, held_out = split()
    body = json.dumps({"inputs": {INPUT: held_out.images[:20].tolist()}}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{stage.service()}/invocations", body, headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        predictions = json.load(response)["predictions"]
    digits = np.ravel(predictions[OUTPUT] if isinstance(predictions, dict) else predictions)
    assert np.mean(digits == held_out.labels[:20]) >= 0.9


def test_the_pods_run_restricted(told: dict[str, Any], stage: Stage) -> None:
    namespace = stage.kube.core.read_namespace(NAMESPACE)
    assert namespace.metadata.labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = stage.kube.core.list_namespaced_pod(NAMESPACE, label_selector=f"modelramp.dev/name={OBJECT}").items
    assert len(pods) >= 2  # version 4's may be on its way out
    for pod in pods:
        assert pod.spec.automount_service_account_token is False
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            assert container.security_context.read_only_root_filesystem is True
