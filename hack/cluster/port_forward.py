"""Publishes Services of a cluster that others made (kind, or the person's own) through `kubectl port-forward`."""

from __future__ import annotations

import socket
import subprocess

import binaries
from errors import ClusterError
from processes import Process
from state import BLOCK, Cluster

_FIRST = 5


def publish(cluster: Cluster, service: str) -> int:
    """Forward `NAMESPACE/NAME[:PORT]` and return the loopback port. One pod answers, chosen at the start."""
    publications = cluster.read().get("publications", {})
    namespace, _, rest = service.partition("/")
    name, _, port = rest.partition(":")
    if not name:
        raise ClusterError(f"{service}: write NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT")
    free = [local for local in map(cluster.port, range(_FIRST, BLOCK)) if local not in publications.values()]
    local = int(publications.get(service) or free[0])
    cluster.record(publications=publications | {service: local})
    kubectl = [binaries.kubectl(), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]
    if not port:
        first = [*kubectl, "get", "service", name, "--output=jsonpath={.spec.ports[0].port}"]
        port = subprocess.run(first, capture_output=True, text=True, check=True).stdout
    process = _process(cluster, local)
    process.start([*kubectl, "port-forward", f"service/{name}", f"{local}:{port}"])
    process.await_(lambda: _accepts(local), 30)
    return local


def unpublish(cluster: Cluster, service: str) -> None:
    publications = cluster.read().get("publications", {})
    if service not in publications:
        raise ClusterError(f"{service} is not published; published are: {', '.join(publications) or 'none'}")
    _process(cluster, publications.pop(service)).stop()
    cluster.record(publications=publications)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _process(cluster: Cluster, port: int) -> Process:
    return Process(cluster, f"publish-{port}")
