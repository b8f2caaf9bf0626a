"""The cluster's control groups: the kubelet's root, and a list the kernel keeps of every process that is ours.

Whatever the node's processes start (shims, containers) stays in these groups, so `kill` finds all of it without
asking containerd, which may be dead.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from errors import ClusterError
from state import Cluster

_ROOT = Path("/sys/fs/cgroup")
_SYSTEM = "system"  # the group of the node's own processes; pods are in the kubelet's `kubepods` beside it


def create(cluster: Cluster) -> None:
    """Make the groups in every hierarchy; they may exist."""
    for group in _groups(cluster):
        group.mkdir(exist_ok=True)
        if (group / "cpuset.mems").exists() and not _unified():  # version 1 leaves these empty
            for name in ("cpuset.cpus", "cpuset.mems"):
                (group / name).write_text((group.parent / name).read_text())
        if _unified():
            controllers = (group / "cgroup.controllers").read_text().split()
            (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    _system(cluster).mkdir(exist_ok=True)


def join(cluster: Cluster) -> None:
    """Put the calling process, and so all that it starts, into the cluster's system group."""
    (_system(cluster) / "cgroup.procs").write_text(str(os.getpid()))


def kill(cluster: Cluster, seconds: float = 10.0) -> None:
    """SIGKILL every process in the groups, and wait for their end. Raises ClusterError if some won't die."""
    deadline = time.monotonic() + seconds
    while members := _members(cluster):
        if time.monotonic() > deadline:
            raise ClusterError(f"these processes of the cluster do not die: {sorted(members)}")
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def remove(cluster: Cluster) -> None:
    """Remove the groups, children first. No process may be left in them."""
    for group in _groups(cluster):
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()


def exist(cluster: Cluster) -> bool:
    return any(group.is_dir() for group in _groups(cluster))


def _unified() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _groups(cluster: Cluster) -> list[Path]:
    """The cluster's group in each hierarchy."""
    if _unified():
        return [_ROOT / cluster.name]
    # cpu and cpuacct may be two names of one hierarchy
    hierarchies = {path.resolve() for path in _ROOT.iterdir() if (path / "cgroup.procs").exists()}
    return [hierarchy / cluster.name for hierarchy in sorted(hierarchies)]


def _system(cluster: Cluster) -> Path:
    return (_ROOT if _unified() else _ROOT / "pids") / cluster.name / _SYSTEM


def _members(cluster: Cluster) -> set[int]:
    members: set[int] = set()
    for group in _groups(cluster):
        for listing in group.rglob("cgroup.procs"):
            with suppress(FileNotFoundError, OSError):
                members |= {int(pid) for pid in listing.read_text().split()}
    return members
