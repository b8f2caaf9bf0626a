"""One builder per kind of child. Sizes are no part of a body: they go through /scale (see project.py)."""

from modelramp.api.spec import MainService, Scaling
from modelramp.desired.meta import (
    GRPC,
    GRPC_PORT,
    MESSAGE_ANNOTATION,
    PORT,
    REASON_ANNOTATION,
    STATE_ANNOTATION,
    Body,
    Owner,
)
from modelramp.domain.world import Revision

H2C = "kubernetes.io/h2c"  # a standard appProtocol: HTTP/2 without TLS

DEFAULT_METRICS: list[Body] = [
    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
]


def controller_revision(owner: Owner, revision: Revision) -> Body:
    """The memory of a revision. Its data never changes (the API server sees to that); its state is an annotation."""
    annotations = {}
    if revision.rejected:
        annotations = {
            STATE_ANNOTATION: "rejected",
            REASON_ANNOTATION: revision.rejected,
            MESSAGE_ANNOTATION: revision.rejected_message,
        }
    model = revision.model
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": owner.metadata(owner.child(revision.hash), revision.hash, annotations),
        "revision": revision.ordinal,
        "data": {
            "hash": revision.hash,
            "model": {
                "registry": model.registry,
                "name": model.name,
                "version": model.version,
                "runId": model.run_id,
                "source": model.source,
                "created": model.created,
                "digest": model.digest,
            },
            "template": revision.template,
        },
    }


def deployment(owner: Owner, revision: Revision) -> Body:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": owner.metadata(owner.child(revision.hash), revision.hash),
        "spec": {
            "selector": {"matchLabels": owner.pod_labels(revision.hash)},
            "revisionHistoryLimit": 1,
            "template": revision.template,
        },
    }


def revision_service(owner: Owner, revision: str) -> Body:
    """Where stable's pods hand requests to; only ready pods are behind it."""
    return _service(owner, owner.child(revision), revision, PORT, owner.metadata(owner.child(revision), revision))


def main_service(owner: Owner, revision: str, wanted: MainService, grpc: bool = False) -> Body:
    """What clients call. It always selects the stable revision's pods; `grpc`: whether they have that port."""
    metadata = owner.metadata(owner.name, annotations=wanted.annotations)
    service = _service(owner, owner.name, revision, wanted.port, metadata)
    if grpc:
        port = {"name": GRPC, "port": GRPC_PORT, "targetPort": GRPC, "protocol": "TCP", "appProtocol": H2C}
        service["spec"]["ports"].append(port)
    return service


def _service(owner: Owner, name: str, revision: str, port: int, metadata: Body) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata, "name": name},
        "spec": {
            "selector": owner.pod_labels(revision),
            "ports": [{"name": "http", "port": port, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def autoscaler(owner: Owner, revision: str, scaling: Scaling, floor: int) -> Body:
    """Scales the stable revision, never below `floor`: what carries the whole load while a candidate has a share."""
    maximum = max(scaling.max_replicas or 1, floor)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": owner.metadata(owner.name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": owner.child(revision)},
            "minReplicas": max(scaling.base_size, floor),
            "maxReplicas": maximum,
            "metrics": scaling.metrics or DEFAULT_METRICS,
        },
    }


def disruption_budget(owner: Owner, revision: str) -> Body:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owner.metadata(owner.name),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": owner.pod_labels(revision)}},
    }
