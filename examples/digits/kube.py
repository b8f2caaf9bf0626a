"""The few things that the demo asks of Kubernetes, by the official client and the cluster's kubeconfig."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

GROUP, VERSION, PLURAL = "modelramp.dev", "v1alpha1", "modeldeployments"
MANAGER = "modelramp-demo"
Body = dict[str, Any]


class Unready(Exception):
    """Something was not there in time. ``str(error)`` says what, and what stood instead."""


def connect(kubeconfig: Path) -> client.ApiClient:
    return config.new_client_from_config(str(kubeconfig))


def documents(path: Path) -> list[Body]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def wait(what: str, seconds: float, found: Callable[[], bool], pause: float = 0.3) -> None:
    """Poll until `found`. Raises Unready after `seconds`."""
    deadline = time.monotonic() + seconds
    while not found():
        if time.monotonic() > deadline:
            raise Unready(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)


class Kube:
    """One cluster."""

    def __init__(self, api: client.ApiClient) -> None:
        self.api = api
        self.core = client.CoreV1Api(api)
        self.apps = client.AppsV1Api(api)
        self.custom = client.CustomObjectsApi(api)
        self.discovery = client.DiscoveryV1Api(api)
        self.autoscaling = client.AutoscalingV2Api(api)
        self._dynamic = DynamicClient(api)

    def apply(self, bodies: Iterable[Body], namespace: str | None = None) -> None:
        """Server-side apply, in order; an object of a kind that was just defined waits until it is served."""
        for body in bodies:
            wait(f"the kind {body['kind']}", 20, lambda body=body: self._apply(body, namespace))  # type: ignore[misc]

    def _apply(self, body: Body, namespace: str | None) -> bool:
        try:
            kind = self._dynamic.resources.get(api_version=body["apiVersion"], kind=body["kind"])
        except ResourceNotFoundError:
            return False
        where = body["metadata"].get("namespace", namespace) if kind.namespaced else None
        kind.server_side_apply(body, namespace=where, field_manager=MANAGER, force_conflicts=True)
        return True

    def fresh_namespace(self, body: Body) -> None:
        """The namespace, empty: what an earlier run left in it is removed first."""
        name = body["metadata"]["name"]
        self.remove_namespace(name)
        wait(f"the namespace {name} to be gone", 120, lambda: not self._exists(name))
        self.apply([body])

    def remove_namespace(self, name: str) -> None:
        """Begin to, with all that is in it; pods are given no time to end."""
        if self._exists(name):
            self.core.delete_namespace(name)
            self.core.delete_collection_namespaced_pod(name, grace_period_seconds=0)

    def _exists(self, namespace: str) -> bool:
        try:
            self.core.read_namespace(namespace)
        except ApiException as error:
            if error.status == 404:
                return False
            raise
        return True

    def endpoints(self, namespace: str, service: str) -> int:
        """How many are ready behind a Service."""
        chosen = f"kubernetes.io/service-name={service}"
        slices = self.discovery.list_namespaced_endpoint_slice(namespace, label_selector=chosen).items
        return sum(bool(end.conditions.ready) for part in slices for end in part.endpoints or ())

    def restart(self, namespace: str, deployment: str) -> None:
        """As `kubectl rollout restart` does it."""
        now = datetime.now(UTC).isoformat()
        annotations = {"kubectl.kubernetes.io/restartedAt": now}
        self.apps.patch_namespaced_deployment(
            deployment, namespace, {"spec": {"template": {"metadata": {"annotations": annotations}}}}
        )

    def await_deployment(self, namespace: str, name: str, seconds: float) -> None:
        """Until all its pods are of its present template and ready. Raises Unready."""

        def available() -> bool:
            it = self.apps.read_namespaced_deployment(name, namespace)
            counts = {it.status.updated_replicas, it.status.ready_replicas, it.status.replicas}
            wanted = {it.spec.replicas or None}  # the client has None for a count of 0
            return it.status.observed_generation == it.metadata.generation and counts == wanted

        try:
            wait(f"the Deployment {namespace}/{name}", seconds, available)
        except Unready as late:
            raise Unready(f"{late}; {self._pods(namespace)}") from None

    def _pods(self, namespace: str) -> str:
        pods = self.core.list_namespaced_pod(namespace).items
        states = [
            f"{pod.metadata.name} {pod.status.phase}"
            + "".join(
                f" ({status.name}: {status.state.waiting.reason})"
                for status in pod.status.container_statuses or ()
                if status.state.waiting
            )
            for pod in pods
        ]
        return "its pods: " + ("; ".join(states) or "none")
