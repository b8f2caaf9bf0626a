"""Services that are no children: one that is to be taken over, and those that have been (docs/rollouts.md)."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from modelramp.adapters.kube_api import FIELD_MANAGER
from modelramp.desired.meta import (
    ADOPT_ANNOTATION,
    BEFORE_ANNOTATION,
    HOLDER_ANNOTATION,
    NAME_LABEL,
    REVISION_LABEL,
)
from modelramp.domain.world import OtherService, ServicePort
from modelramp.ports import Object

NAME = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1035, as the API server has it for Services


def wanted(owner: Object | None) -> str:
    """The name of the Service that a ModelDeployment asks for; empty if none, or if no Service can have it."""
    annotations = owner["metadata"].get("annotations", {}) if owner else {}
    name = str(annotations.get(ADOPT_ANNOTATION, ""))
    return name if NAME.fullmatch(name) else ""


def is_taken(service: Object, name: str) -> bool:
    """Whether the ModelDeployment of that name has taken it over, and says how it was before."""
    annotations = service["metadata"].get("annotations", {})
    return annotations.get(HOLDER_ANNOTATION) == name and _is_record(annotations.get(BEFORE_ANNOTATION, ""))


def stays(owner: Object | None, deployments: Iterable[Object]) -> bool:
    """Whether the pods outlive an owner that is gone or going: an orphaning delete, as before it is created again."""
    if owner is not None:
        return "orphan" in owner["metadata"].get("finalizers", ())
    return any(not child["metadata"].get("ownerReferences") for child in deployments)


def other_service(body: Object, name: str) -> OtherService:
    """A Service, as the ModelDeployment ``name`` is to see it."""
    metadata, spec = body["metadata"], body["spec"]
    annotations, selector = metadata.get("annotations", {}), spec.get("selector") or {}
    ours = set(selector) == {NAME_LABEL, REVISION_LABEL} and selector[NAME_LABEL] == name
    return OtherService(
        name=metadata["name"],
        uid=metadata["uid"],
        type=spec.get("type", "ClusterIP"),
        headless=spec.get("clusterIP") == "None",
        selector=selector,
        ports=tuple(_port(port) for port in spec.get("ports") or ()),
        controller=_controller(metadata.get("ownerReferences", ())),
        holder=annotations.get(HOLDER_ANNOTATION, ""),
        taken=is_taken(body, name),
        before=annotations.get(BEFORE_ANNOTATION, ""),
        selected=selector[REVISION_LABEL] if ours else "",
        manager=_manager(metadata.get("managedFields", ())),
    )


def _port(port: Object) -> ServicePort:
    return ServicePort(
        port=port["port"],
        protocol=port.get("protocol", "TCP"),
        target=port["targetPort"] if "targetPort" in port else port["port"],
        application=port.get("appProtocol", ""),
    )


def _controller(references: Sequence[Object]) -> str:
    return next((f"{r['kind']} {r['name']}" for r in references if r.get("controller")), "")


def _manager(entries: Sequence[Object]) -> str:
    """Who, other than the operator, last set the selector."""
    others = [
        e for e in entries if e["manager"] != FIELD_MANAGER and "f:selector" in e.get("fieldsV1", {}).get("f:spec", {})
    ]
    newest = max(others, key=lambda e: str(e.get("time", "")), default=None)
    return str(newest["manager"]) if newest else ""


def _is_record(text: str) -> bool:
    try:
        record: Any = json.loads(text)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("selector"), dict) and "targetPort" in record
