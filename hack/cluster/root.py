"""Namespaces, mounts and control groups need root; a person without it is asked once, by sudo."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress

from errors import ClusterError
from progress import note
from state import Cluster

_KEPT = ("PATH", "HOME", "XDG_CACHE_HOME", "CLUSTER", "MODELRAMP_CLUSTER_DIR", "BASE_IMAGE")


def become_root() -> None:
    """Start this very command again as root, unless it is root already."""
    if os.geteuid() == 0:
        return
    if not shutil.which("sudo"):
        raise ClusterError("this needs root, for namespaces and mounts: run it as root, or install sudo")
    note("going on as root, for namespaces and mounts")
    kept = [f"{name}={os.environ[name]}" for name in _KEPT if name in os.environ]
    os.execvp("sudo", ["sudo", "env", *kept, sys.executable, *sys.argv])


def hand_back(cluster: Cluster) -> None:
    """Give the person who called sudo what commands without root read and write."""
    user, group = (int(os.environ.get(name, 0)) for name in ("SUDO_UID", "SUDO_GID"))
    files = (
        cluster.kubeconfig,
        cluster.pki / "admin.key",
        cluster.folder / "lock",
        cluster.folder / "state.json",
    )
    for path in (cluster.folder, *files):
        with suppress(FileNotFoundError):
            os.chown(path, user, group)
