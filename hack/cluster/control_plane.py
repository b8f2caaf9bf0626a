"""etcd, the API server, the controller manager and the scheduler as processes.

Alone they need no root: they listen on loopback. With a node they run in the cluster's network namespace, where
pods reach them by the node's address, and `publish` brings the API server to the host's loopback.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import api
from processes import Process
from progress import step
from state import POD_NETWORK, SERVICE_NETWORK, Cluster, write

NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ETCD, ETCD_PEERS = 1, 2  # ports, counted from the cluster's first

# What the system's own components write is left out: the log then tells who else wrote what.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "None",
            "users": [
                "system:apiserver",
                "system:kube-controller-manager",
                "system:kube-scheduler",
                "system:kube-proxy",
            ],
        },
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Place:
    """Where processes run: on the host's loopback, or in a network namespace and a cgroup of their own."""

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    enter: Callable[[], None] = lambda: None


def start(cluster: Cluster, programs: Path, place: Place, publish_api: Callable[[], None]) -> None:
    """Bring up whatever of the control plane does not run. Raises ClusterError if a part won't get ready."""
    write(cluster.folder / "audit-policy.json", json.dumps(_AUDIT_POLICY))
    commands = {
        "etcd": _etcd(cluster),
        "kube-apiserver": _apiserver(cluster, place.address),
        "kube-controller-manager": _controller_manager(cluster),
        "kube-scheduler": _scheduler(cluster),
    }
    processes = {name: Process(cluster, name) for name in NAMES}
    with step("control plane: etcd, API server, controllers, scheduler"):
        publish_api()
        for name, flags in commands.items():
            processes[name].start([*place.prefix, programs / name, *flags], enter=place.enter)
            if name == "kube-apiserver":  # the controllers give up on one that is not ready within 10 s
                processes[name].await_(lambda: api.ready(cluster), 90)
        processes["kube-controller-manager"].await_(lambda: _controllers_work(cluster), 60)


def healthy(cluster: Cluster) -> bool:
    return all(Process(cluster, name).pid() for name in NAMES) and api.ready(cluster)


def _controllers_work(cluster: Cluster) -> bool:
    return api.get(cluster, "/api/v1/namespaces/default/serviceaccounts/default") is not None


def _etcd(cluster: Cluster) -> list[str]:
    pki, clients, peers = cluster.pki, cluster.port(ETCD), cluster.port(ETCD_PEERS)
    return [
        f"--data-dir={cluster.folder}/etcd",
        f"--listen-client-urls=https://127.0.0.1:{clients}",
        f"--advertise-client-urls=https://127.0.0.1:{clients}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-cluster=default=http://127.0.0.1:{peers}",
        f"--cert-file={pki}/etcd.crt",
        f"--key-file={pki}/etcd.key",
        f"--trusted-ca-file={pki}/ca.crt",
        "--client-cert-auth",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver(cluster: Cluster, address: str) -> list[str]:
    pki = cluster.pki
    return [
        "--bind-address=" + ("127.0.0.1" if address == "127.0.0.1" else "0.0.0.0"),
        f"--advertise-address={address}",
        # A loopback address cannot be an endpoint, and without a node nobody would use it.
        "--endpoint-reconciler-type=" + ("none" if address == "127.0.0.1" else "lease"),
        f"--secure-port={cluster.api_port}",
        f"--cert-dir={cluster.folder}/apiserver",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--etcd-servers=https://127.0.0.1:{cluster.port(ETCD)}",
        f"--etcd-cafile={pki}/ca.crt",
        f"--etcd-certfile={pki}/admin.crt",
        f"--etcd-keyfile={pki}/admin.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-to-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-to-kubelet.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy.crt",
        f"--proxy-client-key-file={pki}/front-proxy.key",
        f"--audit-policy-file={cluster.folder}/audit-policy.json",
        f"--audit-log-path={cluster.folder}/audit.log",
        "--audit-log-maxsize=50",
        "--audit-log-maxbackup=2",
        "--shutdown-delay-duration=0s",
    ]


def _controller_manager(cluster: Cluster) -> list[str]:
    pki = cluster.pki
    return [
        *_client_flags(cluster, "controller-manager"),
        "--use-service-account-credentials",
        f"--flex-volume-plugin-dir={cluster.folder}/volume-plugins",
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        f"--cluster-cidr={POD_NETWORK}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _scheduler(cluster: Cluster) -> list[str]:
    return _client_flags(cluster, "scheduler")


def _client_flags(cluster: Cluster, user: str) -> list[str]:
    """One replica has nobody to elect, and its health shows in what it does."""
    return [
        f"--kubeconfig={cluster.pki}/{user}.kubeconfig",
        f"--authentication-kubeconfig={cluster.pki}/{user}.kubeconfig",
        f"--authorization-kubeconfig={cluster.pki}/{user}.kubeconfig",
        "--leader-elect=false",
        "--secure-port=0",
    ]
