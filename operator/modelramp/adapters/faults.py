"""What keeps a pod from serving, and whether that is the model's fault or the infrastructure's.

Only the model's own faults may reject a version, so whatever is not known to be its own is not. A container that gives
up says why in its termination log (docs/contract.md, "The pod"); the rest is what kubelet and controllers report.
"""

import json
from collections.abc import Iterable
from typing import Any

from modelramp.domain.world import Fault
from modelramp.ports import Object

MODELS_OWN = frozenset({"LoadFailed", "WarmupFailed"})
CRASHES = 2  # times that a container must have died before it is a habit
RESOURCES = {"server": "spec.server.resources", "upstream": "spec.server.upstream.resources"}
LONGEST_MESSAGE = 500
LONGEST_REASON = 64

# Why a container waits that was never started: nothing of the model has run.
NOT_STARTED = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
        "CreateContainerConfigError",
        "CreateContainerError",
        "PreCreateHookError",
        "PreStartHookError",
        "PostStartHookError",
        "RunContainerError",
    }
)


def pod_fault(pod: Object) -> Fault | None:
    """The reason why this pod does not serve, or None if it does, or is still on its way."""
    status = pod.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    if conditions.get("Ready", {}).get("status") == "True":
        return None
    fetch = _named(status.get("initContainerStatuses", ()), "fetch")
    server = _named(status.get("containerStatuses", ()), "server")
    upstream = _named(status.get("initContainerStatuses", ()), "upstream")
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return (
        _lost(status, conditions)
        or _not_started(containers)
        or (_fetch_failed(fetch) if fetch else None)
        or (_server_failed(server) if server else None)
        or (_crashes(upstream) if upstream else None)
    )


def workload_fault(deployment: Object) -> Fault | None:
    """What keeps a Deployment from creating pods: quota, admission."""
    for condition in deployment.get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return _infrastructure(condition.get("reason", "FailedCreate"), condition.get("message", ""))
    return None


def _lost(status: dict[str, Any], conditions: dict[str, Any]) -> Fault | None:
    """Never placed on a node, or taken off one."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return _infrastructure("Unschedulable", scheduled.get("message", ""))
    disrupted = conditions.get("DisruptionTarget", {})
    if disrupted.get("status") == "True":
        return _infrastructure(disrupted.get("reason", "Disrupted"), disrupted.get("message", ""))
    if status.get("reason") and status.get("phase") in ("Failed", "Unknown"):  # Evicted, NodeLost, OutOfcpu, ...
        return _infrastructure(status["reason"], status.get("message", ""))
    return None


def _not_started(containers: Iterable[dict[str, Any]]) -> Fault | None:
    for container in containers:
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in NOT_STARTED:
            return _infrastructure(waiting["reason"], f"{container['name']}: {waiting.get('message', '')}")
    return None


def _fetch_failed(container: dict[str, Any]) -> Fault | None:
    """Whatever fetch fails with, the version is not rejected: it has not been tried."""
    end = _last_end(container)
    if end is None or end.get("exitCode") == 0:
        return None
    said = _said(end)
    if said is not None:
        return _infrastructure(*said)
    return _infrastructure("FetchFailed", f"fetch ended without saying why: {_how(end)}; read its log")


def _server_failed(container: dict[str, Any]) -> Fault | None:
    end = _last_end(container)
    said = _said(end) if end else None
    if said is not None:
        reason, message = said
        return Fault(reason, message, models_own=reason in MODELS_OWN)
    return _crashes(container)


def _crashes(container: dict[str, Any]) -> Fault | None:
    """A container that runs the model dies again and again."""
    end = _last_end(container)
    if end is None:
        return None
    restarts = container.get("restartCount", 0)
    backing_off = container.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
    if not backing_off and restarts < CRASHES:
        return None
    starved = end.get("reason") == "OOMKilled"
    name = container["name"]
    remedy = f"raise the memory limit in {RESOURCES[name]}" if starved else "read its log"
    message = f"the {name} died {max(restarts, 1)} times, the last time with {_how(end)}; {remedy}"
    return Fault("OOMKilled" if starved else "CrashLoop", message, models_own=True)


def _infrastructure(reason: str, message: str) -> Fault:
    return Fault(reason, message[:LONGEST_MESSAGE], models_own=False)


def _named(containers: Iterable[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return next((c for c in containers if c["name"] == name), None)


def _last_end(container: dict[str, Any]) -> dict[str, Any] | None:
    """How the container ended last; it may be running again."""
    states: tuple[dict[str, Any], ...] = (container.get("state", {}), container.get("lastState", {}))
    return next((state["terminated"] for state in states if "terminated" in state), None)


def _said(end: dict[str, Any]) -> tuple[str, str] | None:
    """Reason and message of the termination log, if it is what the contract says it is."""
    try:
        said = json.loads(end.get("message", ""))
        return str(said["reason"])[:LONGEST_REASON], str(said["message"])[:LONGEST_MESSAGE]
    except (ValueError, TypeError, KeyError):
        return None


def _how(end: dict[str, Any]) -> str:
    return f"exit code {end.get('exitCode')} ({end.get('reason', 'no reason given')})"
