"""Installs the Debian packages that a step needs and the machine lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from errors import ClusterError
from progress import step

# What to look for (a command, or a file by its path), and the package that has it.
NODE = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "buildah": "buildah",
}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}


def ensure(wanted: Mapping[str, str]) -> None:
    """Install what is missing. Raises ClusterError where that can't be done, with what to install by hand."""
    missing = sorted({package for thing, package in wanted.items() if not _present(thing)})
    if not missing:
        return
    by_hand = f"install these by hand: {' '.join(missing)}"
    if not shutil.which("apt-get"):
        raise ClusterError(f"this is not a Debian or Ubuntu machine; {by_hand}")
    if os.geteuid() and not shutil.which("sudo"):
        raise ClusterError(f"neither root nor sudo; {by_hand}")
    with step(f"apt-get install {' '.join(missing)}"):
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            command = [*([] if os.geteuid() == 0 else ["sudo"]), "apt-get", "--quiet", *arguments]
            quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ClusterError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}\n{by_hand}")


def _present(thing: str) -> bool:
    return Path(thing).exists() if thing.startswith("/") else shutil.which(thing) is not None
