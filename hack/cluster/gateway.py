"""Gateway API and a controller that acts on it: Traefik as a process of the node, with one Gateway for every namespace.

`modelramp-gateway/gateway`, port 80, is the Service to publish; HTTPRoutes name the Gateway `modelramp-gateway/public`.
A control plane alone gets the resource definitions, and nobody acts on them.
"""

from __future__ import annotations

import subprocess
from typing import Any

import api
import binaries
import cgroups
import namespaces
from errors import ClusterError
from processes import Process
from progress import step
from state import NODE_ADDRESS, Cluster

_NAME = "gateway"
_NAMESPACE = "modelramp-gateway"
_PORT = 8000


def install_definitions(cluster: Cluster) -> None:
    """The kinds of Gateway API's standard channel."""
    with step(f"Gateway API {binaries.GATEWAY_API}"):
        folder = binaries.module_folder("sigs.k8s.io/gateway-api", binaries.GATEWAY_API) / "config" / "crd" / "standard"
        files = [str(path) for path in sorted(folder.glob("*.yaml")) if "_vap_" not in path.name]
        _kubectl(cluster, "apply", "--server-side", *(f"--filename={path}" for path in files))
        _kubectl(cluster, "wait", "--for=condition=Established", "--timeout=30s", *(f"--filename={p}" for p in files))


def start(cluster: Cluster) -> None:
    """Fetch it at the first use, start it, and wait until it has taken over its Gateway."""
    traefik = binaries.traefik()
    install_definitions(cluster)
    command = [
        *namespaces.on_node(cluster),
        traefik,
        f"--entrypoints.web.address={NODE_ADDRESS}:{_PORT}",
        "--providers.kubernetesgateway=true",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    ]
    process = Process(cluster, _NAME)
    with step("Traefik, as the Gateway's controller"):
        for path, body in _OBJECTS.items():
            api.apply(cluster, path, body)
        environment = {"KUBECONFIG": f"{cluster.pki}/addons.kubeconfig"}
        process.start(command, environment=environment, enter=lambda: cgroups.join(cluster))
        process.await_(lambda: _programmed(cluster), 60)


def _programmed(cluster: Cluster) -> bool:
    gateway = api.get(cluster, _GATEWAY) or {}
    conditions = gateway.get("status", {}).get("conditions", ())
    return any(it["type"] == "Programmed" and it["status"] == "True" for it in conditions)


def _kubectl(cluster: Cluster, *arguments: str) -> None:
    command = [binaries.kubectl(), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"kubectl {arguments[0]} of Gateway API's definitions failed: {done.stderr[-2000:]}")


_GATEWAY = f"/apis/gateway.networking.k8s.io/v1/namespaces/{_NAMESPACE}/gateways/public"

# The Service is without a selector, with the process as its endpoint.
_OBJECTS: dict[str, dict[str, Any]] = {
    f"/api/v1/namespaces/{_NAMESPACE}": {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": _NAMESPACE},
    },
    "/apis/gateway.networking.k8s.io/v1/gatewayclasses/traefik": {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "traefik"},
        "spec": {"controllerName": "traefik.io/gateway-controller"},
    },
    _GATEWAY: {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "public"},
        "spec": {
            "gatewayClassName": "traefik",
            "listeners": [
                {
                    "name": "http",
                    "port": _PORT,
                    "protocol": "HTTP",
                    "allowedRoutes": {"namespaces": {"from": "All"}},
                }
            ],
        },
    },
    f"/api/v1/namespaces/{_NAMESPACE}/services/{_NAME}": {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _NAME},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": _PORT}]},
    },
    f"/apis/discovery.k8s.io/v1/namespaces/{_NAMESPACE}/endpointslices/{_NAME}": {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": _NAME, "labels": {"kubernetes.io/service-name": _NAME}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": _PORT}],
    },
}
