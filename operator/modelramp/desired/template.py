"""The pod template of a revision, rendered once and then frozen: docs/contract.md, "The pod"."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from modelramp.api.server import Device, Gpu, Runtime, Server, Upstream
from modelramp.desired.meta import GRPC, GRPC_PORT, KEY_ANNOTATION, PORT, SPLIT_ANNOTATION, Body, Owner
from modelramp.domain.world import ModelVersion

USER = 65532
DEFAULT_TIMEOUT = timedelta(seconds=30)  # the server's own
DRAIN_SECONDS = 5
GRACE_MARGIN_SECONDS = 15
DEFAULT_RESOURCES: Body = {"requests": {"cpu": "100m", "memory": "256Mi"}}
UPSTREAM_PORT = 8000  # Triton's own default
TRAFFIC_DIRECTORY = "/etc/modelramp/traffic"


@dataclass(frozen=True)
class Rendering:
    """What the operator fills in where the user chose nothing."""

    server_image: str
    registry_uri: str  # as the pods reach it


def pod_template(
    owner: Owner, revision: str, model: ModelVersion, server: Server, credentials: str | None, rendering: Rendering
) -> Body:
    """A PodTemplateSpec that PodSecurity `restricted` admits."""
    image = server.image or rendering.server_image
    labels = {**(server.pod_labels or {}), **owner.pod_labels(revision)}
    spec: Body = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": _grace_seconds(server),
        "initContainers": [_fetch(image, model, server, credentials, rendering, revision)],
        "containers": [_serve(owner, image, model, server, revision)],
        "volumes": [*_volumes(), *(server.volumes or [])],
    }
    if server.upstream:
        spec["initContainers"].append(_upstream(server.upstream, model, server.gpu, revision))
    for field in ("node_selector", "tolerations", "affinity", "image_pull_secrets", "service_account_name"):
        if (value := getattr(server, field)) is not None:
            spec[_camel(field)] = value
    metadata: Body = {"labels": labels}
    if server.pod_annotations:
        metadata["annotations"] = server.pod_annotations
    return {"metadata": metadata, "spec": spec}


def speaks_grpc(template: Mapping[str, Any]) -> bool:
    """Whether pods of this template, which may be an older operator's, have the port."""
    containers = template["spec"].get("containers", ())
    return any(port["name"] == GRPC for container in containers for port in container.get("ports", ()))


def _camel(field: str) -> str:
    head, *rest = field.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _timeout(server: Server) -> timedelta:
    return (server.limits.timeout if server.limits else None) or DEFAULT_TIMEOUT


def _grace_seconds(server: Server) -> int:
    """Time to drain, to answer the slowest request, and some."""
    return DRAIN_SECONDS + GRACE_MARGIN_SECONDS + round(_timeout(server).total_seconds())


def _volumes() -> list[Body]:
    told = {"split": SPLIT_ANNOTATION, "operator-key": KEY_ANNOTATION}
    items = [{"path": p, "fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}} for p, name in told.items()]
    return [
        {"name": "model", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "traffic", "downwardAPI": {"items": items}},
    ]


def _security() -> Body:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _identity_env(model: ModelVersion, revision: str) -> dict[str, str]:
    return {
        "MODEL_PATH": "/models/model",
        "MODEL_NAME": model.name,
        "MODEL_VERSION": str(model.version),
        "MODEL_REVISION": revision,
    }


def _model_env(model: ModelVersion, server: Server, revision: str) -> dict[str, str]:
    env = _identity_env(model, revision)
    if server.runtime not in (None, Runtime.AUTO):
        env["MODEL_RUNTIME"] = str(server.runtime)
    if upstream := server.upstream:
        env["UPSTREAM"] = f"http://127.0.0.1:{upstream.port or UPSTREAM_PORT}{upstream.path or ''}"
    return env


def _environment(values: dict[str, str]) -> list[Body]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _fetch(
    image: str, model: ModelVersion, server: Server, credentials: str | None, rendering: Rendering, revision: str
) -> Body:
    env = {
        "MLFLOW_TRACKING_URI": rendering.registry_uri,
        "MODEL_URI": f"models:/{model.name}/{model.version}",
        "MODEL_DIGEST": model.digest,
        **_model_env(model, server, revision),
    }
    container: Body = {
        "name": "fetch",
        "image": image,
        "args": ["fetch"],
        "env": [*_environment({name: value for name, value in env.items() if value}), *(server.env or [])],
        "resources": _resources(server.resources),  # no more than the server: a pod is scheduled by the larger
        "securityContext": _security(),
        "volumeMounts": [
            {"name": "model", "mountPath": "/models"},
            {"name": "tmp", "mountPath": "/tmp"},
            *(server.volume_mounts or []),
        ],
    }
    if credentials:
        container["envFrom"] = [{"secretRef": {"name": credentials}}]
    return container


def _serve(owner: Owner, image: str, model: ModelVersion, server: Server, revision: str) -> Body:
    env = {
        **_model_env(model, server, revision),
        **_serving_env(server),
        "TRAFFIC_FILE": f"{TRAFFIC_DIRECTORY}/split",
        "CANDIDATE_URL": f"http://{owner.name}-{{revision}}.{owner.namespace}.svc:{PORT}",
        "DRAIN_DELAY": str(DRAIN_SECONDS),
    }
    ports = [{"name": "http", "containerPort": PORT}]
    if server.grpc:
        ports.append({"name": GRPC, "containerPort": GRPC_PORT})
    ready = {"path": "/v2/health/ready", "port": "http"}
    return {
        "name": "server",
        "image": image,
        "args": ["serve"],
        "env": [*_environment(env), *(server.env or [])],
        "ports": ports,
        "resources": _resources(server.resources, None if server.upstream else server.gpu),
        "securityContext": _security(),
        "readinessProbe": {"httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 3},
        "livenessProbe": {
            "httpGet": {"path": "/v2/health/live", "port": "http"},
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "volumeMounts": [
            {"name": "model", "mountPath": "/models", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "traffic", "mountPath": TRAFFIC_DIRECTORY, "readOnly": True},
            *(server.volume_mounts or []),
        ],
    }


def _upstream(upstream: Upstream, model: ModelVersion, gpu: Gpu | None, revision: str) -> Body:
    """A native sidecar (KEP-753), which begins when fetch is done and ends after the server. Of two plain containers
    both would get SIGTERM at once, and the server, which answers on while it drains, would have nobody to ask.

    Without probes: it may listen on loopback alone, where the kubelet does not reach it, and the server, which is not
    ready unless the upstream is, asks it every second.
    """
    container: Body = {
        "name": "upstream",
        "image": upstream.image,
        "restartPolicy": "Always",
        "env": [*_environment(_identity_env(model, revision)), *(upstream.env or [])],
        "resources": _resources(upstream.resources, gpu),
        "securityContext": _security(),
        "volumeMounts": [
            {"name": "model", "mountPath": "/models", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    return container | upstream.model_dump(include={"command", "args"}, exclude_none=True)


def _serving_env(server: Server) -> dict[str, str]:
    batching, limits = server.batching, server.limits
    chosen = {
        "INFERENCE_DEVICE": str(server.device) if server.device not in (None, Device.AUTO) else None,
        "WARMUP": server.warmup,
        "GRPC_PORT": GRPC_PORT if server.grpc else None,
        "BATCH_SIZE": batching.max_batch_size if batching else None,
        "BATCH_DELAY": batching.max_delay.total_seconds() if batching and batching.max_delay else None,
        "QUEUE_LIMIT": limits.queue if limits else None,
        "REQUEST_TIMEOUT": limits.timeout.total_seconds() if limits and limits.timeout else None,
        "PAYLOAD_LIMIT": limits.payload if limits else None,
    }
    return {name: str(value) for name, value in chosen.items() if value is not None}


def _resources(chosen: Body | None, gpu: Gpu | None = None) -> Body:
    resources: Body = dict(chosen or DEFAULT_RESOURCES)
    if gpu:
        resources["limits"] = {**resources.get("limits", {}), "nvidia.com/gpu": gpu.count}
    return resources
