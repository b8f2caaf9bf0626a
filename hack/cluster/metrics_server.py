"""metrics-server as a process of the node, behind a Service, for the tests that scale on CPU figures."""

from __future__ import annotations

from typing import Any

import api
import binaries
import cgroups
import namespaces
from processes import Process
from progress import step
from state import NODE_ADDRESS, Cluster

_PORT = 4443
_NAME = "metrics-server"
_API = "/apis/metrics.k8s.io/v1beta1"


def start(cluster: Cluster) -> None:
    """Build it at the first use, start it, and wait until the API server passes requests on to it."""
    programs = binaries.ensure(binaries.METRICS)
    process = Process(cluster, _NAME)
    kubeconfig = f"{cluster.pki}/addons.kubeconfig"
    command = [
        *namespaces.on_node(cluster),
        programs / _NAME,
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={NODE_ADDRESS}",
        f"--secure-port={_PORT}",
        f"--cert-dir={cluster.folder}/metrics-server",
        f"--kubelet-certificate-authority={cluster.pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-request-timeout=5s",
        "--metric-resolution=12s",
    ]
    with step("metrics-server"):
        process.start(command, enter=lambda: cgroups.join(cluster))
        for path, body in _OBJECTS.items():
            api.apply(cluster, path, body)
        process.await_(lambda: api.answers(cluster, _API), 60)


# A Service without a selector, with the process as its endpoint.
_OBJECTS: dict[str, dict[str, Any]] = {
    f"/api/v1/namespaces/kube-system/services/{_NAME}": {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _NAME},
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": _PORT}]},
    },
    f"/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/{_NAME}": {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": _NAME, "labels": {"kubernetes.io/service-name": _NAME}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": _PORT}],
    },
    "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io": {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": _NAME, "namespace": "kube-system"},
        },
    },
}
