"""Settings of the whole machine's kernel that a kubelet changes; `down` puts them back."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from state import Cluster

_CHANGED_BY_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def remember(cluster: Cluster) -> None:
    """Record the settings as they were before the cluster's first kubelet."""
    if "kernel" not in cluster.read():
        cluster.record(kernel={name: _path(name).read_text().strip() for name in _CHANGED_BY_KUBELET})


def restore(cluster: Cluster) -> None:
    for name, value in cluster.read().get("kernel", {}).items():
        with suppress(OSError):  # a machine may allow a change in one direction only
            _path(name).write_text(value)


def _path(name: str) -> Path:
    return Path("/proc/sys") / name
