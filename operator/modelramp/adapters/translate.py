"""Kubernetes JSON as the operator's own words. Pure: what it says depends on nothing but the objects."""

from collections.abc import Iterable, Mapping, Sequence

from modelramp.adapters.faults import pod_fault, workload_fault
from modelramp.desired.meta import (
    KEY_ANNOTATION,
    MESSAGE_ANNOTATION,
    REASON_ANNOTATION,
    REVISION_LABEL,
    SPLIT_ANNOTATION,
    STATE_ANNOTATION,
)
from modelramp.domain.world import ModelVersion, Pod, Revision, Workload, World
from modelramp.ports import Kind, Object

CONTROLLER_REVISION = Kind("apps/v1", "ControllerRevision")
DEPLOYMENT = Kind("apps/v1", "Deployment")
SERVICE = Kind("v1", "Service")


def world(name: str, children: Mapping[Kind, Sequence[Object]], pods: Iterable[Object]) -> World:
    """The world of the ModelDeployment ``name``, from children and pods that are known to be its own."""
    revisions = [revision(child) for child in children.get(CONTROLLER_REVISION, ())]
    workloads = [workload(child) for child in children.get(DEPLOYMENT, ())]
    return World(
        revisions={r.hash: r for r in revisions},
        workloads={w.revision: w for w in workloads},
        pods=tuple(pod(body) for body in _not_replaced(pods)),
        selected=_selected(name, children.get(SERVICE, ())),
    )


def revision(body: Object) -> Revision:
    """A revision as its ControllerRevision keeps it."""
    data, annotations = body["data"], body["metadata"].get("annotations", {})
    model = data["model"]
    rejected = annotations.get(STATE_ANNOTATION) == "rejected"
    return Revision(
        hash=data["hash"],
        model=ModelVersion(
            registry=model["registry"],
            name=model["name"],
            version=int(model["version"]),
            run_id=model.get("runId", ""),
            source=model.get("source", ""),
            created=int(model.get("created", 0)),
            digest=model.get("digest", ""),
        ),
        template=data["template"],
        ordinal=body.get("revision", 0),
        rejected=annotations.get(REASON_ANNOTATION, "Unknown") if rejected else "",
        rejected_message=annotations.get(MESSAGE_ANNOTATION, "") if rejected else "",
    )


def workload(body: Object) -> Workload:
    metadata, status = body["metadata"], body.get("status", {})
    return Workload(
        revision=_revision_label(body),
        replicas=body["spec"].get("replicas", 1),
        observed=status.get("observedGeneration", 0) >= metadata.get("generation", 0),
        fault=workload_fault(body),
    )


def pod(body: Object) -> Pod:
    metadata, status = body["metadata"], body.get("status", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
    deleting = "deletionTimestamp" in metadata
    return Pod(
        name=metadata["name"],
        revision=_revision_label(body),
        ready=ready and not deleting,
        deleting=deleting,
        ip=status.get("podIP"),
        split=metadata.get("annotations", {}).get(SPLIT_ANNOTATION, ""),
        operator_key=metadata.get("annotations", {}).get(KEY_ANNOTATION, ""),
        fault=pod_fault(body),
        restarts=sum(c["restartCount"] for c in status.get("containerStatuses", ()) if c["name"] == "server"),
    )


def endpoints(slices: Iterable[Object]) -> dict[str, int]:
    """Ready endpoints by revision; the main Service's slices have none."""
    ready: dict[str, int] = {}
    for body in slices:
        addresses = [e for e in body["endpoints"] or () if e.get("conditions", {}).get("ready", True)]
        revision = _revision_label(body)
        ready[revision] = ready.get(revision, 0) + len(addresses)
    return ready


def _revision_label(body: Object) -> str:
    return str(body["metadata"].get("labels", {}).get(REVISION_LABEL, ""))


def _selected(name: str, services: Iterable[Object]) -> str | None:
    for service in services:
        if service["metadata"]["name"] == name:
            return (service["spec"].get("selector") or {}).get(REVISION_LABEL)
    return None


def _not_replaced(pods: Iterable[Object]) -> list[Object]:
    """Without the remains of evicted pods, which stay listed for long, where others have taken their place."""
    bodies = list(pods)
    alive = {_revision_label(body) for body in bodies if not _over(body)}
    return [body for body in bodies if not (_over(body) and _revision_label(body) in alive)]


def _over(body: Object) -> bool:
    return body.get("status", {}).get("phase") in ("Failed", "Succeeded")
