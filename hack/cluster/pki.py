"""The certificates and kubeconfigs of a cluster, all from authorities of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from state import API_SERVICE_ADDRESS, CLUSTER_DOMAIN, NODE_ADDRESS, Cluster, write

NODE_NAME = "node"

_HOST_NAMES = ["localhost", NODE_NAME, "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
_CERTIFICATES = [
    # name, issuer, common name, organizations
    ("ca", "", "modelramp-cluster", []),
    ("front-proxy-ca", "", "modelramp-front-proxy", []),
    ("apiserver", "ca", "kube-apiserver", []),
    ("etcd", "ca", "etcd", []),
    ("kubelet-serving", "ca", NODE_NAME, []),
    ("apiserver-to-kubelet", "ca", "kube-apiserver", ["system:masters"]),
    ("front-proxy", "front-proxy-ca", "front-proxy", []),
    ("service-accounts", "ca", "service-accounts", []),
    ("admin", "ca", "admin", ["system:masters"]),
    ("controller-manager", "ca", "system:kube-controller-manager", []),
    ("scheduler", "ca", "system:kube-scheduler", []),
    ("kubelet", "ca", f"system:node:{NODE_NAME}", ["system:nodes"]),
    ("kube-proxy", "ca", "system:kube-proxy", []),
    ("addons", "ca", "modelramp-addons", ["system:masters"]),
]
USERS = ("controller-manager", "scheduler", "kubelet", "kube-proxy", "addons")


def create(cluster: Cluster, programs: Path) -> None:
    """Make all certificates and kubeconfigs, unless an earlier run finished doing so."""
    if not cluster.pki.is_dir():
        fresh = cluster.pki.with_name("pki.unfinished")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        wanted = [
            {
                "name": name,
                "issuer": issuer,
                "commonName": common_name,
                "organizations": organizations,
                "dnsNames": [*_HOST_NAMES, f"kubernetes.default.svc.{CLUSTER_DOMAIN}"],
                "addresses": ["127.0.0.1", NODE_ADDRESS, API_SERVICE_ADDRESS],
            }
            for name, issuer, common_name, organizations in _CERTIFICATES
        ]
        subprocess.run([programs / "certificates"], input=json.dumps(wanted).encode(), cwd=fresh, check=True)
        fresh.rename(cluster.pki)
    for user in USERS:
        write(cluster.pki / f"{user}.kubeconfig", _kubeconfig(cluster, user), mode=0o600)
    write(cluster.kubeconfig, _kubeconfig(cluster, "admin"), mode=0o600)


def _kubeconfig(cluster: Cluster, user: str) -> str:
    """JSON, which is YAML; relative paths in a kubeconfig start at its own folder."""
    pki = cluster.pki
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": cluster.name,
            "contexts": [{"name": cluster.name, "context": {"cluster": cluster.name, "user": user}}],
            "clusters": [
                {
                    "name": cluster.name,
                    "cluster": {
                        "server": f"https://127.0.0.1:{cluster.api_port}",
                        "certificate-authority": str(pki / "ca.crt"),
                    },
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate": str(pki / f"{user}.crt"),
                        "client-key": str(pki / f"{user}.key"),
                    },
                }
            ],
        },
        indent=2,
    )
