"""Where a cluster keeps its things: every name, folder and port follows from the folder of its state.

Two clones on one machine therefore never meet, and neither do an integration control plane and an e2e cluster
of one clone, as `MODELRAMP_CLUSTER_DIR` gives each its own folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from errors import ClusterError
from progress import note

CLONE = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent

NODE_ADDRESS = "10.89.0.1"
NODE_NETWORK = "10.89.0.0/24"
POD_NETWORK = "10.244.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
CLUSTER_DOMAIN = "cluster.local"

FIRST_PORT, PORT_BLOCKS, BLOCK = 20000, 600, 20
LONGEST_FOLDER = 60  # UNIX socket paths end at 108 characters, and the kubelet hangs 45 more below this


@dataclass(frozen=True)
class Cluster:
    """One cluster's identity; nothing here touches the disk except where the name says so."""

    folder: Path

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        return f"modelramp-{self.id}"

    @property
    def run(self) -> Path:
        """Sockets and the container runtime's short-lived state."""
        return Path("/run") / self.name

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd" / "containerd.sock"

    def read(self) -> dict[str, Any]:
        """What earlier runs recorded, such as the mode and the ports; empty for a new cluster."""
        try:
            recorded: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return recorded

    def record(self, **changes: object) -> None:
        write(self.folder / "state.json", json.dumps(self.read() | changes, indent=2) + "\n")

    def port(self, offset: int) -> int:
        """The loopback port at an offset in this cluster's block; the block is chosen at the first call."""
        first = self.read().get("first_port")
        if first is None:
            first = _free_block(int(self.id, 16))
            self.record(first_port=first)
        return int(first) + offset

    @property
    def api_port(self) -> int:
        return self.port(0)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes a cluster; the next one waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"waiting for another command on the cluster in {self.folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def this_cluster() -> Cluster:
    """The cluster of this clone, or of the folder in MODELRAMP_CLUSTER_DIR."""
    folder = Path(os.environ.get("MODELRAMP_CLUSTER_DIR") or CLONE / ".cluster").absolute()
    if len(str(folder)) > LONGEST_FOLDER:
        raise ClusterError(
            f"{folder} is longer than {LONGEST_FOLDER} characters, too long for the kubelet's sockets: "
            "set MODELRAMP_CLUSTER_DIR to a shorter path"
        )
    return Cluster(folder)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file whole, so that a killed run leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.touch(mode)
    fresh.write_text(text)
    fresh.replace(path)


def _free_block(seed: int) -> int:
    for attempt in range(PORT_BLOCKS):
        first = FIRST_PORT + (seed + attempt) % PORT_BLOCKS * BLOCK
        if all(_is_free(port) for port in range(first, first + BLOCK)):
            return first
    raise ClusterError("no free ports on 127.0.0.1 between 20000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
