"""Names, labels and owner of all children."""

from dataclasses import dataclass
from typing import Any

from modelramp.api import API_VERSION, GROUP, KIND

Body = dict[str, Any]

NAME_LABEL = f"{GROUP}/name"
REVISION_LABEL = f"{GROUP}/revision"
MANAGED_BY = {"app.kubernetes.io/managed-by": "modelramp"}
APPLIED_ANNOTATION = f"{GROUP}/applied"
SPLIT_ANNOTATION = f"{GROUP}/traffic"
KEY_ANNOTATION = f"{GROUP}/operator-key"
STATE_ANNOTATION = f"{GROUP}/state"
REASON_ANNOTATION = f"{GROUP}/reason"
MESSAGE_ANNOTATION = f"{GROUP}/message"
ADOPT_ANNOTATION = f"{GROUP}/adopt-service"
HOLDER_ANNOTATION = f"{GROUP}/adopted-by"
BEFORE_ANNOTATION = f"{GROUP}/before-adoption"
PORT = 8080
GRPC = "grpc"  # the name of that port
GRPC_PORT = 8081


@dataclass(frozen=True)
class Owner:
    """The ModelDeployment that owns the children."""

    namespace: str
    name: str
    uid: str

    def child(self, revision: str) -> str:
        """Name of a revision's Deployment, Service and ControllerRevision."""
        return f"{self.name}-{revision}"

    def pod_labels(self, revision: str) -> dict[str, str]:
        return {NAME_LABEL: self.name, REVISION_LABEL: revision}

    def metadata(self, name: str, revision: str | None = None, annotations: dict[str, str] | None = None) -> Body:
        labels = MANAGED_BY | ({REVISION_LABEL: revision} if revision else {}) | {NAME_LABEL: self.name}
        reference = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
        meta: Body = {
            "name": name,
            "namespace": self.namespace,
            "labels": labels,
            "ownerReferences": [reference],
        }
        if annotations:
            meta["annotations"] = annotations
        return meta
