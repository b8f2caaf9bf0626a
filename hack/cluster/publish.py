"""Brings addresses of the cluster's network to the host's loopback.

The listening socket is opened here, on the host, and inherited by a forwarder that lives in the cluster's
network: the one way in.
"""

from __future__ import annotations

import socket
from pathlib import Path

import api
import binaries
import cgroups
import namespaces
from errors import ClusterError
from processes import Process
from state import BLOCK, Cluster

FIRST = 5  # the first publication's port, counted from the cluster's first


def publish_api(cluster: Cluster, programs: Path) -> None:
    """The same port on the host as in the cluster's network: one kubeconfig serves both."""
    _forward(cluster, programs, cluster.api_port, f"127.0.0.1:{cluster.api_port}")


def publish(cluster: Cluster, service: str) -> int:
    """Publish `NAMESPACE/NAME[:PORT]` and return the loopback port; the same Service keeps its port."""
    target = _resolve(cluster, service)
    publications = cluster.read().get("publications", {})
    taken = {entry["port"] for entry in publications.values()}
    free = [port for port in map(cluster.port, range(FIRST, BLOCK)) if port not in taken]
    present = publications.get(service)
    if present is None and not free:
        raise ClusterError(f"all {BLOCK - FIRST} ports are taken: unpublish one of {', '.join(publications)}")
    port = int(present["port"] if present else free[0])
    if present and present["target"] != target:
        _process(cluster, port).stop()
    cluster.record(publications=publications | {service: {"port": port, "target": target}})
    _forward(cluster, binaries.ensure(binaries.KUBE), port, target)
    return port


def unpublish(cluster: Cluster, service: str) -> None:
    publications = cluster.read().get("publications", {})
    if service not in publications:
        raise ClusterError(f"{service} is not published; published are: {', '.join(publications) or 'none'}")
    _process(cluster, publications.pop(service)["port"]).stop()
    cluster.record(publications=publications)


def restore(cluster: Cluster, programs: Path) -> None:
    """Start the forwarders of all publications that don't run."""
    for entry in cluster.read().get("publications", {}).values():
        _forward(cluster, programs, entry["port"], entry["target"])


def _resolve(cluster: Cluster, service: str) -> str:
    path, _, wanted = service.partition(":")
    namespace, _, name = path.partition("/")
    if not namespace or not name:
        raise ClusterError(f"{service}: write NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT")
    found = api.get(cluster, f"/api/v1/namespaces/{namespace}/services/{name}")
    if found is None:
        raise ClusterError(f"there is no Service {name} in the namespace {namespace}")
    ports = found["spec"]["ports"]
    matching = [port for port in ports if wanted in ("", str(port["port"]), port.get("name"))]
    address = found["spec"].get("clusterIP", "None")
    if not matching or address == "None":
        raise ClusterError(f"{service}: no such port on the Service, or it is headless")
    return f"{address}:{matching[0]['port']}"


def _process(cluster: Cluster, port: int) -> Process:
    return Process(cluster, f"publish-{port}")


def _forward(cluster: Cluster, programs: Path, port: int, target: str) -> None:
    process = _process(cluster, port)
    if process.pid() is not None:
        return
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listening:
        descriptor = listening.fileno()
        command = [*namespaces.in_network(cluster), programs / "forward", str(descriptor), target]
        process.start(command, pass_fds=(descriptor,), enter=lambda: cgroups.join(cluster))
