"""Kubernetes JSON as the operator's words; above all, whose fault it is that a pod does not serve."""

import json
from typing import Any

import pytest

from modelramp.adapters import translate
from modelramp.adapters.faults import pod_fault, workload_fault
from modelramp.api.spec import MainService
from modelramp.desired.children import controller_revision, deployment, main_service
from modelramp.desired.meta import Owner
from modelramp.domain.world import ModelVersion, Revision

Object = dict[str, Any]
MODEL = ModelVersion("default", "digits", 3, "run", "models:/m-1", 1_700_000_000_000, "sha256:1f")
OWNER = Owner("shop", "digits", "uid-1")


def pod(
    *,
    server: Object | None = None,
    fetch: Object | None = None,
    upstream: Object | None = None,
    conditions: dict[str, tuple[str, str]] | None = None,
    **status: Any,
) -> Object:
    """``conditions``: type -> (status, reason)."""
    written = [
        {"type": t, "status": s, "reason": r, "message": f"about {t}"} for t, (s, r) in (conditions or {}).items()
    ]
    return {
        "metadata": {"name": "digits-3f2a9c01-x", "labels": {"modelramp.dev/revision": "3f2a9c01"}},
        "status": {
            "phase": "Running",
            "conditions": written,
            "initContainerStatuses": [
                {"name": name, **told} for name, told in (("fetch", fetch), ("upstream", upstream)) if told
            ],
            "containerStatuses": [{"name": "server", **server}] if server else [],
            **status,
        },
    }


def waiting(reason: str, message: str = "") -> Object:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def end(message: str = "", code: int = 1, reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def said(reason: str, message: str = "what, where, what to do") -> str:
    return json.dumps({"reason": reason, "message": message})


RUNNING: Object = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
BACK_OFF = waiting("CrashLoopBackOff")["state"]

NO_FAULT = {
    "just made": pod(),
    "running, not ready yet": pod(server={"state": RUNNING}, conditions={"Ready": ("False", "")}),
    "fetch is done": pod(fetch={"state": end(code=0, reason="Completed")}, server=waiting("PodInitializing")),
    "fetch runs": pod(fetch={"state": RUNNING}, server=waiting("PodInitializing")),
    "died once, runs again": pod(server={"state": RUNNING, "lastState": end(), "restartCount": 1}),
    "ready again after crashes": pod(
        server={"state": RUNNING, "lastState": end(), "restartCount": 9}, conditions={"Ready": ("True", "")}
    ),
    "the upstream died once, runs again": pod(
        upstream={"state": RUNNING, "lastState": end(), "restartCount": 1}, server={"state": RUNNING}
    ),
    "scheduled": pod(conditions={"PodScheduled": ("True", "")}),
    "starting": pod(server=waiting("ContainerCreating")),
}

FAULTS = {
    "fetch cannot reach the registry": (
        pod(fetch={"state": end(said("RegistryUnavailable"))}),
        ("RegistryUnavailable", "what, where, what to do", False),
    ),
    "fetch between two tries": (
        pod(fetch={"state": BACK_OFF, "lastState": end(said("ArtifactDamaged"))}, server=waiting("PodInitializing")),
        ("ArtifactDamaged", "what, where, what to do", False),
    ),
    "fetch runs again": (
        pod(fetch={"state": RUNNING, "lastState": end(said("MissingPackages"))}),
        ("MissingPackages", "what, where, what to do", False),
    ),
    "fetch runs out of memory": (
        pod(fetch={"state": end(code=137, reason="OOMKilled")}),
        ("FetchFailed", "fetch ended without saying why: exit code 137 (OOMKilled); read its log", False),
    ),
    "the model cannot be loaded": (
        pod(server={"state": end(said("LoadFailed")), "restartCount": 0}),
        ("LoadFailed", "what, where, what to do", True),
    ),
    "the warm-up failed, it is tried again": (
        pod(server={"state": RUNNING, "lastState": end(said("WarmupFailed")), "restartCount": 1}),
        ("WarmupFailed", "what, where, what to do", True),
    ),
    "the server blames the infrastructure": (
        pod(server={"state": BACK_OFF, "lastState": end(said("ArtifactDamaged")), "restartCount": 4}),
        ("ArtifactDamaged", "what, where, what to do", False),
    ),
    "crashes again and again": (
        pod(server={"state": BACK_OFF, "lastState": end(code=139), "restartCount": 3}),
        ("CrashLoop", "the server died 3 times, the last time with exit code 139 (Error); read its log", True),
    ),
    "crashed twice, runs a third time": (
        pod(server={"state": RUNNING, "lastState": end(code=134), "restartCount": 2}),
        ("CrashLoop", "the server died 2 times, the last time with exit code 134 (Error); read its log", True),
    ),
    "eats all its memory": (
        pod(server={"state": BACK_OFF, "lastState": end(code=137, reason="OOMKilled"), "restartCount": 2}),
        (
            "OOMKilled",
            "the server died 2 times, the last time with exit code 137 (OOMKilled); "
            "raise the memory limit in spec.server.resources",
            True,
        ),
    ),
    "says something that is not the contract's": (
        pod(server={"state": BACK_OFF, "lastState": end("Segmentation fault"), "restartCount": 2}),
        ("CrashLoop", "the server died 2 times, the last time with exit code 1 (Error); read its log", True),
    ),
    "the upstream crashes again and again": (
        pod(
            upstream={"state": BACK_OFF, "lastState": end("it writes what it likes"), "restartCount": 3},
            server={"state": RUNNING},
            conditions={"Ready": ("False", "ContainersNotReady")},
        ),
        ("CrashLoop", "the upstream died 3 times, the last time with exit code 1 (Error); read its log", True),
    ),
    "what the upstream says is not the contract's": (
        pod(upstream={"state": BACK_OFF, "lastState": end(said("RegistryUnavailable")), "restartCount": 2}),
        ("CrashLoop", "the upstream died 2 times, the last time with exit code 1 (Error); read its log", True),
    ),
    "the upstream eats all its memory": (
        pod(upstream={"state": RUNNING, "lastState": end(code=137, reason="OOMKilled"), "restartCount": 2}),
        (
            "OOMKilled",
            "the upstream died 2 times, the last time with exit code 137 (OOMKilled); "
            "raise the memory limit in spec.server.upstream.resources",
            True,
        ),
    ),
    "the upstream's image is missing": (
        pod(upstream=waiting("ImagePullBackOff", "not found"), server=waiting("PodInitializing")),
        ("ImagePullBackOff", "upstream: not found", False),
    ),
    "the server says more than that its upstream crashes": (
        pod(
            upstream={"state": BACK_OFF, "lastState": end(), "restartCount": 2},
            server={"state": end(said("WarmupFailed"))},
        ),
        ("WarmupFailed", "what, where, what to do", True),
    ),
    "no such image": (
        pod(fetch=waiting("ErrImagePull", "not found"), server=waiting("PodInitializing")),
        ("ErrImagePull", "fetch: not found", False),
    ),
    "the server's image is refused": (
        pod(server=waiting("ImagePullBackOff", "denied")),
        ("ImagePullBackOff", "server: denied", False),
    ),
    "an image name that is none": (pod(server=waiting("InvalidImageName")), ("InvalidImageName", "server: ", False)),
    "a Secret is missing": (
        pod(fetch=waiting("CreateContainerConfigError", 'secret "s" not found')),
        ("CreateContainerConfigError", 'fetch: secret "s" not found', False),
    ),
    "no room": (
        pod(conditions={"PodScheduled": ("False", "Unschedulable")}, phase="Pending"),
        ("Unschedulable", "about PodScheduled", False),
    ),
    "evicted": (
        pod(phase="Failed", reason="Evicted", message="low on memory"),
        ("Evicted", "low on memory", False),
    ),
    "node lost": (pod(phase="Unknown", reason="NodeLost", message="no news"), ("NodeLost", "no news", False)),
    "preempted": (
        pod(conditions={"DisruptionTarget": ("True", "PreemptionByScheduler")}),
        ("PreemptionByScheduler", "about DisruptionTarget", False),
    ),
}


@pytest.mark.parametrize("body", NO_FAULT.values(), ids=NO_FAULT)
def test_a_pod_that_serves_or_is_on_its_way_has_no_fault(body: Object) -> None:
    assert pod_fault(body) is None


@pytest.mark.parametrize(("body", "expected"), FAULTS.values(), ids=FAULTS)
def test_whose_fault_it_is(body: Object, expected: tuple[str, str, bool]) -> None:
    fault = pod_fault(body)
    assert fault is not None
    assert (fault.reason, fault.message, fault.models_own) == expected


def test_a_quota_that_keeps_pods_from_being_made_is_the_infrastructures() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    fault = workload_fault({"status": {"conditions": [condition]}})
    assert fault is not None
    assert (fault.reason, fault.message, fault.models_own) == ("FailedCreate", "exceeded quota", False)
    assert workload_fault({"status": {"conditions": [{**condition, "status": "False"}]}}) is None


def test_a_revision_survives_being_written_and_read() -> None:
    revision = Revision("3f2a9c01", MODEL, {"spec": {"containers": []}}, 4, "LoadFailed", "cannot be read")
    assert translate.revision(controller_revision(OWNER, revision)) == revision


def test_a_revision_that_is_not_rejected_reads_as_such() -> None:
    revision = Revision("3f2a9c01", MODEL, {"spec": {}}, 1)
    assert translate.revision(controller_revision(OWNER, revision)) == revision


def test_the_selected_revision_is_that_of_the_main_service_alone() -> None:
    main = main_service(OWNER, "3f2a9c01", MainService())
    other = {"metadata": {"name": "digits-99999999"}, "spec": {"selector": {"modelramp.dev/revision": "99999999"}}}
    services = {translate.SERVICE: [other, main]}
    assert translate.world("digits", services, []).selected == "3f2a9c01"
    assert translate.world("digits", {translate.SERVICE: [other]}, []).selected is None


def test_a_workload_is_observed_when_its_controller_has_seen_the_newest_spec() -> None:
    body = deployment(OWNER, Revision("3f2a9c01", MODEL, {"spec": {}}))
    body["metadata"]["generation"] = 3
    body["spec"]["replicas"] = 0
    body["status"] = {"observedGeneration": 2}
    seen = translate.workload(body)
    assert (seen.revision, seen.replicas, seen.observed) == ("3f2a9c01", 0, False)
    body["status"]["observedGeneration"] = 3
    assert translate.workload(body).observed


def test_a_pod_on_its_way_out_is_not_ready() -> None:
    body = pod(conditions={"Ready": ("True", "")}, podIP="192.0.2.1")
    body["metadata"]["annotations"] = {"modelramp.dev/traffic": "{}", "modelramp.dev/operator-key": "sha256:0"}
    seen = translate.pod(body)
    assert (seen.ready, seen.deleting, seen.ip) == (True, False, "192.0.2.1")
    assert (seen.split, seen.operator_key) == ("{}", "sha256:0")
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    seen = translate.pod(body)
    assert (seen.ready, seen.deleting) == (False, True)


def test_an_evicted_pod_counts_until_another_takes_its_place() -> None:
    evicted = pod(phase="Failed", reason="Evicted", message="low on memory")
    fresh = pod()
    fresh["metadata"] = {**fresh["metadata"], "name": "fresh"}
    assert [p.name for p in translate.world("digits", {}, [evicted]).pods] == ["digits-3f2a9c01-x"]
    assert [p.name for p in translate.world("digits", {}, [evicted, fresh]).pods] == ["fresh"]
