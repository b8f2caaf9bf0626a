"""The network and mount namespaces of a node.

The network has no way out: a packet to a pod's or a Service's address can't reach a real network, whatever
breaks. The mounts give the node its own /var/lib/kubelet and the like, so its programs keep their usual paths,
two clusters don't meet there, and all that the kubelet and containerd mount is gone with the namespace.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from errors import ClusterError
from state import NODE_ADDRESS, NODE_NETWORK, Cluster

BRIDGE = "node0"


def in_network(cluster: Cluster) -> tuple[str, ...]:
    """What to put before a command to run it in the cluster's network."""
    return ("nsenter", f"--net={_pin(cluster, 'net')}", "--")


def on_node(cluster: Cluster) -> tuple[str, ...]:
    """What to put before a command to run it as a part of the node: its network and its mounts."""
    return ("nsenter", f"--net={_pin(cluster, 'net')}", f"--mount={_pin(cluster, 'mount')}", "--")


def create(cluster: Cluster) -> None:
    """Make both namespaces, or finish what a killed run began."""
    folder = _folder(cluster)
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_mounted(folder):
        _run("mount", "--bind", str(folder), str(folder))
        _run("mount", "--make-private", str(folder))  # or a namespace can't be pinned in it
    _create_network(cluster)
    _create_mounts(cluster)


def remove(cluster: Cluster) -> None:
    """Let go of both; they end with the last process in them. Either may be missing."""
    for path in (_pin(cluster, "mount"), _pin(cluster, "net"), _folder(cluster)):
        while _is_mounted(path):
            _run("umount", str(path))
    if not other_clusters(cluster):
        for usual in map(Path, _own_folders(cluster)):
            if usual.is_dir() and not any(usual.iterdir()):
                usual.rmdir()


def other_clusters(cluster: Cluster) -> bool:
    """Whether another clone's node may be using this machine."""
    return any(path != cluster.run for path in Path("/run").glob("modelramp-" + "[0-9a-f]" * 8))


def _own_folders(cluster: Cluster) -> dict[str, Path]:
    """Folders whose path a program of the node has built in, and what stands there instead."""
    return {
        "/var/lib/kubelet": cluster.folder / "kubelet",
        "/var/lib/cni": cluster.folder / "cni",
        "/var/log/pods": cluster.logs / "pods",
        "/var/log/containers": cluster.logs / "containers",
        "/run/containerd": cluster.run / "containerd",
    }


def _create_network(cluster: Cluster) -> None:
    pin = _pin(cluster, "net")
    if not _is_mounted(pin):
        pin.touch()
        _run("unshare", f"--net={pin}", "true")
    inside = in_network(cluster)
    _run(*inside, "ip", "link", "set", "lo", "up")
    if BRIDGE not in _run(*inside, "ip", "-brief", "link"):
        _run(*inside, "ip", "link", "add", BRIDGE, "type", "bridge")
    _run(*inside, "ip", "address", "replace", f"{NODE_ADDRESS}/{NODE_NETWORK.split('/')[1]}", "dev", BRIDGE)
    _run(*inside, "ip", "link", "set", BRIDGE, "up")
    _run(*inside, "ip", "route", "replace", "default", "dev", BRIDGE)
    _run(*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def _create_mounts(cluster: Cluster) -> None:
    pin = _pin(cluster, "mount")
    if not _is_mounted(pin):
        pin.touch()
        _run("unshare", f"--mount={pin}", "--propagation", "private", "true")
    inside = ("nsenter", f"--mount={pin}", "--")
    present = _mount_points(_run(*inside, "cat", "/proc/self/mountinfo"))
    for usual, own in _own_folders(cluster).items():
        Path(usual).mkdir(parents=True, exist_ok=True)
        own.mkdir(parents=True, exist_ok=True)
        if usual not in present:
            _run(*inside, "mount", "--bind", str(own), usual)


def _folder(cluster: Cluster) -> Path:
    return cluster.run / "namespaces"


def _pin(cluster: Cluster, kind: str) -> Path:
    return _folder(cluster) / kind


def _is_mounted(path: Path) -> bool:
    """Also true for the pins of namespaces, which os.path.ismount does not see."""
    return str(path) in _mount_points(Path("/proc/self/mountinfo").read_text())


def _mount_points(mountinfo: str) -> set[str]:
    return {line.split()[4] for line in mountinfo.splitlines()}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        hint = "" if os.geteuid() == 0 else " (this needs root)"
        raise ClusterError(f"{' '.join(command)} failed{hint}: {done.stderr.strip()}")
    return done.stdout
