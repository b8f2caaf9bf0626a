"""Gives the node its images: there is no registry, so each is imported into containerd."""

from __future__ import annotations

import subprocess
from pathlib import Path

import binaries
import store
from errors import ClusterError
from node import PAUSE_IMAGE
from progress import step
from state import Cluster


def load(cluster: Cluster, image: str) -> None:
    """Import an archive (OCI or Docker), or an image of buildah's store by its tag."""
    if Path(image).is_file():
        with step(f"importing {Path(image).name}"):
            command = _ctr(cluster, "images", "import", str(Path(image).absolute()))
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return
    with store.locked():
        if not store.has(image):
            raise ClusterError(f"{image} is neither a file nor the tag of an image in the store")
        load_as(cluster, image, image)


def load_all(cluster: Cluster, built: dict[str, str]) -> None:
    """Import images of the store, given as tag by name."""
    with store.locked():
        for name, tag in built.items():
            load_as(cluster, tag, name)


def load_as(cluster: Cluster, tag: str, name: str) -> None:
    """Import an image of the store under a name, unless the node has exactly this one under it."""
    loaded = cluster.read().get("images", {})
    if loaded.get(name) == tag:
        return
    with step(f"importing {name}"):
        store.stream(tag, name, _ctr(cluster, "images", "import", "-"))
    cluster.record(images=loaded | {name: tag})


def load_pause(cluster: Cluster) -> None:
    """The image of every pod's first container."""
    programs = binaries.ensure(binaries.PAUSE)
    tag = f"{PAUSE_IMAGE.partition(':')[0]}:{programs.name}"
    with store.locked():
        if not store.has(tag):
            container = store.buildah("from", "scratch")
            store.buildah("copy", container, programs / "pause", "/pause")
            store.buildah("config", "--entrypoint", '["/pause"]', "--user", "65535:65535", container)
            store.buildah("commit", "--quiet", "--rm", container, tag)
        load_as(cluster, tag, PAUSE_IMAGE)


def _ctr(cluster: Cluster, *arguments: str) -> list[str]:
    ctr = binaries.ensure(binaries.RUNTIME) / "ctr"
    return [str(ctr), f"--address={cluster.containerd_socket}", "--namespace=k8s.io", *arguments]
