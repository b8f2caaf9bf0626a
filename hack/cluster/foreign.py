"""Clusters that this tool does not run itself: kind where a Docker engine answers, and the person's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import binaries
import port_forward
from errors import ClusterError
from processes import recorded
from progress import step
from project_images import Image
from state import CLONE, Cluster, write


@dataclass(frozen=True)
class Kind:
    """A kind cluster named after this clone; images go from Docker to it."""

    cluster: Cluster

    def up(self, *, control_plane_only: bool, addons: Collection[str], images: Sequence[Image]) -> None:
        if addons:
            raise ClusterError(f"{', '.join(addons)}: this comes with CLUSTER=own only")
        if self.cluster.name not in _run(self._kind(), "get", "clusters").split():
            with step("kind create cluster"):
                kubeconfig = f"--kubeconfig={self.cluster.kubeconfig}"
                _run(
                    self._kind(),
                    "create",
                    "cluster",
                    f"--name={self.cluster.name}",
                    kubeconfig,
                    "--wait=120s",
                )
        if images:
            self.build(images)

    def down(self) -> None:
        _stop_forwarding(self.cluster)
        _run(self._kind(), "delete", "cluster", f"--name={self.cluster.name}")
        shutil.rmtree(self.cluster.folder)

    def healthy(self) -> bool:
        return self.cluster.kubeconfig.exists() and _answers(self.cluster)

    def build(self, images: Sequence[Image]) -> None:
        for image in images:
            with step(f"building {image.name}"):
                target = [f"--target={image.target}"] if image.target else []
                file = f"--file={CLONE / image.dockerfile}"
                _run(
                    "docker",
                    "build",
                    "--build-arg=BASE_IMAGE",
                    file,
                    *target,
                    f"--tag={image.dev}",
                    str(CLONE),
                )
            self.load(image.dev)

    def load(self, image: str) -> None:
        what = "image-archive" if Path(image).is_file() else "docker-image"
        with step(f"loading {image}"):
            _run(self._kind(), "load", what, image, f"--name={self.cluster.name}")

    def publish(self, service: str) -> int:
        return port_forward.publish(self.cluster, service)

    def unpublish(self, service: str) -> None:
        port_forward.unpublish(self.cluster, service)

    def _kind(self) -> str:
        return shutil.which("kind") or str(binaries.ensure(binaries.KIND_CLI) / "kind")


@dataclass(frozen=True)
class Current:
    """The context that the person's kubectl has now, copied: a later change of context changes nothing here."""

    cluster: Cluster

    def up(self, *, control_plane_only: bool, addons: Collection[str], images: Sequence[Image]) -> None:
        context = _run(binaries.kubectl(), "config", "view", "--raw", "--minify", "--flatten")
        write(self.cluster.kubeconfig, context, mode=0o600)
        if not self.healthy():
            raise ClusterError("the cluster of your current kubectl context does not answer")
        if images:
            self.build(images)

    def down(self) -> None:
        _stop_forwarding(self.cluster)
        shutil.rmtree(self.cluster.folder)

    def healthy(self) -> bool:
        return self.cluster.kubeconfig.exists() and _answers(self.cluster)

    def build(self, images: Sequence[Image]) -> None:
        names = ", ".join(image.dev for image in images)
        raise ClusterError(f"your cluster reads images from a registry: build and push {names} there yourself")

    def load(self, image: str) -> None:
        raise ClusterError(f"your cluster reads images from a registry: push {image} there")

    def publish(self, service: str) -> int:
        return port_forward.publish(self.cluster, service)

    def unpublish(self, service: str) -> None:
        port_forward.unpublish(self.cluster, service)


def docker_answers() -> bool:
    if not shutil.which("docker"):
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    return done.returncode == 0


def _answers(cluster: Cluster) -> bool:
    command = [binaries.kubectl(), f"--kubeconfig={cluster.kubeconfig}", "get", "--raw=/readyz"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _stop_forwarding(cluster: Cluster) -> None:
    for process in recorded(cluster):
        process.stop()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
