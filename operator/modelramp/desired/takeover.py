"""What a Service that is taken over looks like, and what it is given back as. It stays its owner's: no ownerReference.

Only the selector, the target port, a label (so that changes of it are seen) and two annotations are applied. The uid
is a precondition: one that is deleted meanwhile is not made anew.
"""

import json
from collections.abc import Sequence

from modelramp.api.status import Status
from modelramp.desired.meta import BEFORE_ANNOTATION, HOLDER_ANNOTATION, NAME_LABEL, Body, Owner
from modelramp.domain.world import OtherService


def taken(owner: Owner, status: Status, services: Sequence[OtherService]) -> list[Body]:
    """The Service that is to select stable's pods, if one has been adopted."""
    name = status.service.name if status.service and status.service.since else None
    found = next((s for s in services if s.name == name), None)
    if status.stable is None or found is None or not found.ports:
        return []
    body = _service(owner.namespace, found, owner.pod_labels(status.stable.revision), "http")
    body["metadata"]["labels"] = {NAME_LABEL: owner.name}
    before = found.before if found.taken else _record(found)
    body["metadata"]["annotations"] = {HOLDER_ANNOTATION: owner.name, BEFORE_ANNOTATION: before}
    return [body]


def returned(namespace: str, services: Sequence[OtherService], keep: str | None = None) -> list[Body]:
    """Those that have been taken over, but for the one to keep, as they were before."""
    bodies = []
    for service in services:
        if not service.taken or service.name == keep or not service.ports:
            continue
        before = json.loads(service.before)
        bodies.append(_service(namespace, service, before["selector"], before["targetPort"]))
    return bodies


def _record(service: OtherService) -> str:
    return json.dumps({"selector": service.selector, "targetPort": service.ports[0].target}, sort_keys=True)


def _service(namespace: str, found: OtherService, selector: dict[str, str], target: int | str) -> Body:
    port = {"port": found.ports[0].port, "protocol": found.ports[0].protocol, "targetPort": target}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": found.name, "namespace": namespace, "uid": found.uid},
        "spec": {"selector": dict(selector), "ports": [port]},
    }
