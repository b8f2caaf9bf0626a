"""The one node: containerd, the kubelet, kube-proxy and CoreDNS as processes in the node's namespaces."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import api
import binaries
import cgroups
import namespaces
from control_plane import Place
from pki import NODE_NAME
from processes import Process
from progress import step
from state import CLUSTER_DOMAIN, NODE_ADDRESS, POD_NETWORK, Cluster, write

NAMES = ("containerd", "kubelet", "kube-proxy", "coredns")
PAUSE_IMAGE = "localhost/pause:1"
_DNS_READY = "127.0.0.1:8181/ready"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


@dataclass(frozen=True)
class Programs:
    """Folders with the node's commands."""

    kubernetes: Path
    containerd: Path
    coredns: Path


def build() -> Programs:
    """All that a node needs, and the control plane with it; built where it is not in the cache."""
    return Programs(*(binaries.ensure(program) for program in (binaries.KUBE, binaries.RUNTIME, binaries.DNS)))


def place(cluster: Cluster) -> Place:
    """Where the control plane runs when there is a node."""
    return Place(NODE_ADDRESS, namespaces.in_network(cluster), lambda: cgroups.join(cluster))


def start_containerd(cluster: Cluster, programs: Programs) -> None:
    config = _write_containerd(cluster)
    process = Process(cluster, "containerd")
    with step("containerd"):
        path = f"{programs.containerd}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command = [programs.containerd / "containerd", f"--config={config}"]
        _start(cluster, process, command, {"PATH": path})
        process.await_(cluster.containerd_socket.is_socket, 30)


def start(cluster: Cluster, programs: Programs) -> None:
    """Start what doesn't run of the node and wait until it is Ready. The API server must be up."""
    commands = {
        "kubelet": [programs.kubernetes / "kubelet", *_kubelet(cluster)],
        "kube-proxy": [programs.kubernetes / "kube-proxy", *_kube_proxy(cluster)],
        "coredns": [programs.coredns / "coredns", *_coredns(cluster)],
    }
    with step("node: kubelet, kube-proxy, CoreDNS"):
        for name, command in commands.items():
            _start(cluster, Process(cluster, name), command)
        Process(cluster, "kubelet").await_(lambda: ready(cluster), 120)
        Process(cluster, "coredns").await_(lambda: _answers(cluster, _DNS_READY), 30)


def healthy(cluster: Cluster) -> bool:
    return all(Process(cluster, name).pid() for name in NAMES) and ready(cluster)


def ready(cluster: Cluster) -> bool:
    node = api.get(cluster, f"/api/v1/nodes/{NODE_NAME}")
    conditions = (node or {}).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _answers(cluster: Cluster, address: str) -> bool:
    """Whether an HTTP address in the cluster's network answers 200."""
    fetch = f"import urllib.request; urllib.request.urlopen('http://{address}', timeout=2)"
    command = [*namespaces.in_network(cluster), sys.executable, "-c", fetch]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _start(
    cluster: Cluster,
    process: Process,
    command: list[object],
    environment: dict[str, str] | None = None,
) -> None:
    prefixed = [*namespaces.on_node(cluster), *command]
    process.start(prefixed, environment=environment, enter=lambda: cgroups.join(cluster))


def _write_containerd(cluster: Cluster) -> Path:
    network = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods0",
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
    write(cluster.folder / "net.d" / "pods.conflist", json.dumps(network))
    config = cluster.folder / "containerd.toml"
    write(config, _CONTAINERD.format(folder=cluster.folder, pause=PAUSE_IMAGE))
    return config


# An OOM score below one's own needs CAP_SYS_RESOURCE, which root does not have everywhere; without the
# restriction every sandbox dies where it is missing.
_CONTAINERD = """version = 3
root = "{folder}/containerd"
state = "/run/containerd"

[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
  conf_dir = "{folder}/net.d"
"""


def _kubelet(cluster: Cluster) -> list[str]:
    pki = cluster.pki
    write(cluster.folder / "resolv.conf", f"nameserver {NODE_ADDRESS}\n")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet-serving.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet-serving.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cluster.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": f"{cluster.folder}/resolv.conf",
        "maxPods": 110,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # Nothing can be pulled again, so no image is ever collected; a full disk is the machine's matter.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }
    write(cluster.folder / "kubelet.json", json.dumps(config, indent=2))
    return [
        f"--config={cluster.folder}/kubelet.json",
        f"--kubeconfig={pki}/kubelet.kubeconfig",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",
    ]


def _kube_proxy(cluster: Cluster) -> list[str]:
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": NODE_NAME,
        "clientConnection": {"kubeconfig": f"{cluster.pki}/kube-proxy.kubeconfig"},
        "conntrack": {"maxPerCore": 0},  # the table's size is the whole machine's
        "iptables": {"minSyncPeriod": "100ms"},
    }
    write(cluster.folder / "kube-proxy.json", json.dumps(config, indent=2))
    return [f"--config={cluster.folder}/kube-proxy.json"]


def _coredns(cluster: Cluster) -> list[str]:
    """There is no network outside, so any other name does not exist, and a client learns that at once."""
    corefile = f""".:53 {{
    errors
    ready {_DNS_READY.partition("/")[0]}
    cache 5
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {cluster.pki}/addons.kubeconfig
        ttl 5
        fallthrough
    }}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
    write(cluster.folder / "Corefile", corefile)
    return ["-conf", str(cluster.folder / "Corefile")]
